//! From grouped graphs to native code and artifacts.
//!
//! # A guided tour
//!
//! A graph, its nodes grouped into kernels or not, is lowered node by node: views turn into offsets, and what is left fills
//! one of a few skeletons ([`kernel`]). The kernels become machine code through LLVM ([`cpu`]), the constants are put into the
//! order in which kernels read them ([`pack`]), and a [`plan`] says what runs in which order on which memory.
//!
//! ```
//! use egret_codegen::{Options, Target, compile, plan};
//!
//! let graph = egret_ir::text::parse("
//!     graph layer(x: f32[N, 8]) {
//!         const w: f32[8, 16] = random(1)
//!         h = matmul(x, w)
//!         y = relu(h)
//!         return y
//!     }
//! ")?;
//! let target = Target::named("x86-64-v4")?;
//!
//! let program = plan::build(&graph, &target, &|_, _| ())?;
//! assert_eq!(program.kernels[1].to_string(), "\
//! (h: f32, out y: f32)
//! map {
//!     for i0 in 16*N:
//!         y[i0] = max(h[i0], 0.0)
//! }");
//!
//! let artifact = compile(&graph, &target, &Options::default())?.to_bytes()?;
//! assert!(artifact.starts_with(b"EGRET"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to look
//!
//! | module | what it knows |
//! | --- | --- |
//! | [`kernel`] | the kernel IR: skeletons, scalar expressions, offsets |
//! | [`lower`] | from a node or group of nodes to kernels |
//! | [`plan`] | buffers, steps, weights: what the runtime walks |
//! | [`pack`], [`blocks`], [`winograd`] | weights in the order in which they are read, those of few bits, and transformed |
//! | [`cpu`], [`object`], [`target`] | from kernels to one image of machine code |
//! | [`cuda`] | from kernels to PTX for GPUs, and an emulator for it |
//! | [`interp`], [`interpret`] | what kernels and plans mean, without code: the tests' oracle |
//! | [`artifact`] | all of it in one call |

pub mod artifact;
pub mod blocks;
pub mod cpu;
pub mod cuda;
pub mod error;
pub mod interp;
pub mod interpret;
pub mod kernel;
pub mod lower;
pub mod object;
pub mod pack;
pub mod plan;
pub mod target;
#[cfg(test)]
mod testing;
pub mod winograd;

pub use artifact::{Compiled, Options, Stage, compile, compile_all};
pub use error::Error;
pub use interpret::run_interpreted;
pub use target::Target;
