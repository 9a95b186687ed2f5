//! Loads and runs Egret artifacts: compiled models, one file each.
//!
//! This crate is all that a program needs to run a model that `egret compile` has compiled. It has no compiler in it and
//! depends on none: an artifact holds machine code, which is mapped, checked and called.
//!
//! # A guided tour
//!
//! ```no_run
//! use egret_runtime::{Options, Session, Tensor};
//!
//! let mut session = Session::load("mnist.egret", Options::default())?;
//! let x = Tensor::from_slice(&[1, 784], &[0.0f32; 784])?;
//! let outputs = session.run(&[("x", x.view())])?;
//! println!("{}", outputs[0]); // f32[1, 10]  min -3.2  max 8.1  mean 0.4  [...]
//! # Ok::<(), egret_runtime::Error>(())
//! ```
//!
//! What an artifact does is written in its [`Plan`]: a list of kernel calls over a list of buffers. Here is one
//! in full. It doubles a vector of any length and is made by hand, with a Rust function in the place of compiled code:
//!
//! ```
//! use egret_runtime::plan::{Buffer, DType, KernelInfo, Place, Plan, Port, Size, SizeOp, Step, Unit};
//! use egret_runtime::{Options, Session, Tensor};
//!
//! // A kernel finds its buffers, its size arguments, and which part of the work is its own.
//! unsafe extern "C" fn double(buffers: *const *mut u8, sizes: *const i64, part: u64, parts: u64) {
//!     unsafe {
//!         let (x, y) = ((*buffers).cast::<f32>(), (*buffers.add(1)).cast::<f32>());
//!         let n = *sizes as u64;
//!         for i in part * n / parts..(part + 1) * n / parts {
//!             *y.add(i as usize) = 2.0 * *x.add(i as usize);
//!         }
//!     }
//! }
//!
//! // x, y: f32[N], N known when the model runs.
//! let n = Size::symbol(0);
//! let bytes = Size::Expr(vec![SizeOp::Symbol(0), SizeOp::Const(4), SizeOp::Mul]);
//! let port = |name: &str, buffer| Port {
//!     name: name.into(), dtype: DType::F32, dims: vec![n.clone()], dim_text: vec!["N".into()], buffer,
//! };
//! let plan = Plan {
//!     model: "double".into(),
//!     symbols: vec!["N".into()],
//!     ranges: vec![],
//!     inputs: vec![port("x", 0)],
//!     outputs: vec![port("y", 1)],
//!     buffers: vec![
//!         Buffer { name: "x".into(), bytes: bytes.clone(), place: Place::Input(0) },
//!         Buffer { name: "y".into(), bytes, place: Place::Output(0) },
//!     ],
//!     steps: vec![Step {
//!         name: "y".into(), kernel: 0, reads: vec![0], writes: vec![1], sizes: vec![n.clone()],
//!         parts: n, in_place: None, flops: Size::symbol(0), origins: vec!["/Mul".into()],
//!     }],
//!     kernels: vec![KernelInfo { name: "k0".into(), offset: 0, text: "mul".into(), hash: [0; 32], unit: Unit::F32 }],
//!     fused: false,
//!     requirements: vec![],
//!     found: vec![],
//!     strings: vec![],
//!     program: None,
//! };
//!
//! // SAFETY: `double` reads N floats of its first buffer and writes N floats of its second.
//! let mut session = unsafe { Session::from_functions(plan, vec![double], &[], Options::default())? };
//! let x = Tensor::from_slice(&[3], &[1.0f32, -2.0, 0.5])?;
//! let outputs = session.run(&[("x", x.view())])?;
//! assert_eq!(x.to_string(), "f32[3]  min -2  max 1  mean -0.16667  [1, -2, 0.5]");
//! assert_eq!(outputs[0].to_string(), "f32[3]  min -4  max 2  mean -0.33333  [2, -4, 1]");
//!
//! // What does not fit is a sentence, not a crash.
//! let wrong = Tensor::from_slice(&[1], &[1i64])?;
//! let error = session.run(&[("x", wrong.view())]).unwrap_err();
//! assert_eq!(error.to_string(), "input `x` is f32[N]; found elements of type i64");
//! # Ok::<(), egret_runtime::Error>(())
//! ```
//!
//! # Where to look
//!
//! | module | what it knows |
//! | --- | --- |
//! | [`plan`] | the contract with the compiler: plan types, sizes, kernel ABI |
//! | [`artifact`] | the file format: writing, reading, hashes |
//! | [`session`] | loading and running |
//! | [`gpu`], [`device`] | code for GPUs, and what a session asks of one |
//! | [`profile`] | when the parts of a run took place |
//! | [`program`] | what runs where dimensions depend on data |
//! | [`memory`] | where intermediates live |
//! | [`tensor`], [`npy`] | tensors and their files |
//! | [`cpu`] | processor features, code mappings, kernel calls; with the thread pool the only `unsafe` code |
//!
//! # Promises
//!
//! - Header, manifest and code of an artifact are verified before any of its code runs; see [`artifact`] for the weights.
//! - The same artifact and inputs give bit-identical outputs whatever the number of threads.
//! - After the first run for a binding of the free dimensions, a run allocates nothing and takes no lock; models in which data decides
//!   over dimensions allocate what is between their stages.
//! - An artifact is a program: load it only from where you would load a shared library.

pub mod artifact;
mod binding;
mod builtin;
mod check;
pub mod cpu;
pub mod device;
pub mod error;
mod executor;
pub mod gpu;
pub mod memory;
pub mod npy;
pub mod plan;
mod pool;
mod processor;
pub mod profile;
pub mod program;
pub mod range;
pub mod session;
pub mod strings;
pub mod tensor;
#[cfg(test)]
mod testing;

pub use artifact::{Artifact, TargetInfo, WeightsCheck};
pub use cpu::KernelFn;
pub use device::Device;
pub use error::{Error, FileProblem, Result};
pub use plan::{DType, Plan};
pub use pool::default_threads;
pub use session::{Options, Session};
pub use tensor::{Tensor, TensorView};
