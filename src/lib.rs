//! Egret compiles neural networks ahead of time: from an ONNX file to native code in one file.
//!
//! # A guided tour
//!
//! The path of a model has four steps, and each is a call. Here the model is a graph written as text; one in a file takes the
//! same path from [`Compiler::import`].
//!
//! ```
//! use egret::{Compiler, Tensor, parse_text};
//!
//! // 1. A graph: ops applied to named, typed values. `N` is any number.
//! let graph = parse_text("example", "
//!     graph dense(x: f32[N, 2]) {
//!         const w: f32[2, 3] = [1, 0, -1, 0, 1, -1]
//!         const b: f32[3]    = [0.5, 0.5, 0.5]
//!         h  = matmul(x, w)
//!         hb = add(h, b)
//!         y  = relu(hb)
//!         return y
//!     }
//! ")?;
//!
//! // 2. Optimised: the ops that share a kernel are one node.
//! let compiler = Compiler::new();
//! let grouped = compiler.optimise(&graph)?;
//! assert!(grouped.to_string().contains("{ matmul · add · relu }"), "{grouped}");
//!
//! // 3. Compiled: machine code, weights, and the plan that calls one with the other.
//! let artifact = compiler.generate(&grouped)?;
//! assert_eq!(artifact.plan().steps.len(), 1);
//!
//! // 4. Loaded and run; `N` is 1 here.
//! let mut session = artifact.session(1)?;
//! let x = Tensor::from_slice(&[1, 2], &[0.5f32, -2.0])?;
//! let y = session.run(&[("x", x.view())])?;
//! assert_eq!(y[0].as_slice::<f32>()?, [1.0, 0.0, 2.0]);
//! # Ok::<(), egret::Error>(())
//! ```
//!
//! [`Compiler::compile`] does the first three at once, and an [`Artifact`] can be written to a file. A program that only runs
//! compiled models depends on the crate `egret-runtime` instead of this one, and has no compiler in it:
//!
//! ```no_run
//! use egret::{Artifact, Compiler};
//!
//! Compiler::new().dim("batch", 1).compile("model.onnx")?.write("model.egret")?;
//! let mut session = Artifact::open("model.egret")?.session(2)?;
//! # Ok::<(), egret::Error>(())
//! ```
//!
//! # Where to look
//!
//! | item | what it is |
//! | --- | --- |
//! | [`Compiler`] | how models are compiled, and the steps |
//! | [`Precision`] | f32, or 16 bits in memory and in products |
//! | [`Artifact`] | a compiled model, in memory or in a file |
//! | [`Session`], [`Tensor`], [`npy`] | running it, and what goes in and out |
//! | [`DeviceName`], [`gpus`] | what it runs on: the processor, a GPU, or the emulator of one |
//! | [`ir`] | graphs, types, ops, the text form, the reference evaluator |
//! | [`passes`] | passes, pipelines and rewrite rules |
//! | [`codegen`] | kernels, and the code made of them |
//! | [`run_case`] | a test case of the ONNX standard, through compiled code |
//! | [`plan`], [`memory`] | what an artifact does, and where its intermediate values live |
//! | [`profile`], [`hw`] | how long its steps take, and how long they have to take on this machine |
//!
//! The examples of the repository go on from here, and ARCHITECTURE.md is its map.

mod artifact;
mod case;
mod compiler;
mod device;
mod error;
mod graph;
pub mod hw;
mod precision;

pub use artifact::Artifact;
pub use case::{Tolerance, Verdict, run_case};
pub use compiler::{Compiler, Optimised};
pub use device::{DeviceName, gpus};
pub use error::Error;
pub use graph::{evaluate, from_ir, inputs_of, lengths, parse_file, parse_text, signature, to_ir};

pub use precision::Precision;

pub use egret_codegen::{self as codegen, Stage, Target};
pub use egret_frontend::{Choice, Code, Explanation, Import, ImportOptions, Part, Summary, Whole, operators};
pub use egret_ir::{self as ir, Bindings, DType, Dim, Graph, TensorType};
pub use egret_runtime::artifact::{ProgramHeader, Section};
pub use egret_runtime::gpu;
pub use egret_runtime::{Device, Session, Tensor, TensorView, memory, npy, plan, profile, range};

/// Passes, pipelines and rewrite rules: the crate `egret-passes`.
pub mod passes {
    pub use egret_passes::cost;
    pub use egret_passes::limit::{Applied, Limit};
    pub use egret_passes::pass::{Context, FUSED, PASSES, Pass, PassManager, Report, UNFUSED};
    pub use egret_passes::{explain, group, integer, replay, rules, stage};
}

/// The Rust code of README.md compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
