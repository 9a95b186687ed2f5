//! A GPU for tests: runs the PTX text that this crate emits, and says what is wrong with it.
//!
//! Warps run in step with a stack of masks, ways that part meet again at the immediate post-dominator; the order of warps and
//! blocks is random and comes from a seed. Copies and products that go on by themselves are done as late as they may. **Invariant.** A kernel that is not correct on every schedule is an error, whatever
//! it computed on this one: races, barriers that not all threads reach, reads of what was never written, accesses outside a
//! buffer or not aligned, and unknown opcodes are reported with the line they happened at.
//!
//! ```
//! use egret_codegen::cuda::emu::{Module, run, Start};
//!
//! let module = Module::parse("
//! .visible .entry k0(
//!     .param .u64 .ptr .global .align 16 k0_param_0
//! )
//! {
//!     mov.u32 %r1, %tid.x;
//!     mul.wide.u32 %rd2, %r1, 4;
//!     ld.param.b64 %rd1, [k0_param_0];
//!     add.s64 %rd3, %rd1, %rd2;
//!     st.global.b32 [%rd3], %r1;
//!     ret;
//! }")?;
//! let mut buffers = [vec![0u8; 8]];
//! run(&module.entries[0], Start { blocks: 1, threads: 2, shared: 0, sizes: &[], seed: 1 }, &mut buffers)?;
//! assert_eq!(buffers[0], [0, 0, 0, 0, 1, 0, 0, 0]);
//! # Ok::<(), String>(())
//! ```

mod clocks;
mod copies;
mod counters;
mod flow;
mod gpu;
mod group;
mod launch;
mod machine;
mod matrix;
mod memory;
mod op;
mod phases;
mod text;
mod value;

pub use counters::Counters;
pub use gpu::EmuDevice;
pub use launch::Device;
pub use machine::{Start, run};
pub use text::{Entry, Module};

/// Threads that run in step.
const WARP: usize = 32;
