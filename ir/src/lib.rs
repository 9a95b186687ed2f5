//! Egret's intermediate representation: typed graphs of tensor ops, as text and as values.
//!
//! This crate knows nothing of ONNX, e-graphs, LLVM or files. Alone it can read, check, print and evaluate a graph, and
//! that is all a reader needs to follow what the rest of the compiler does to one.
//!
//! # A graph from text to numbers
//!
//! ```
//! use egret_ir::{Tensor, eval::eval, text, verify::verify};
//!
//! // `N` is any number. Types may be left out: inference gives them.
//! let graph = text::parse("
//!     graph mlp(x: f32[N, 2]) {
//!         const w: f32[2, 3] = [1, 0, -1, 0, 1, -1]
//!         h = matmul(x, w)
//!         y = relu(h)
//!         return y as scores
//!     }
//! ")?;
//! verify(&graph)?;
//!
//! // Printed, every value has its type, and the columns are aligned.
//! assert_eq!(graph.to_string(), "\
//! graph mlp(x: f32[N, 2]) -> f32[N, 3] {
//!     const w: f32[2, 3] = [1.0, 0.0, -1.0, 0.0, 1.0, -1.0]
//!     h = matmul(x, w) : f32[N, 3]
//!     y = relu(h)      : f32[N, 3]
//!     return y as scores
//! }
//! ");
//!
//! // The reference evaluator is what the words mean. `N` is 1 here.
//! let scores = eval(&graph, &[Tensor::from_f32s(vec![1, 2], &[0.5, -2.0])])?;
//! assert_eq!(scores, [Tensor::from_f32s(vec![1, 3], &[0.5, 0.0, 1.5])]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where things are
//!
//! - [`dim`], [`ty`], [`tensor`]: symbolic extents, the types made of them, and values of known shape.
//! - [`op`]: the table that declares every op once. The word behind an op's signature says what its meaning is written
//!   as: an expression of scalars ([`scalar`]) or of other ops ([`expr`]), a view, a reduction, or a module of [`ops`].
//!   [`ops_md`] prints the table as a page.
//! - [`graph`]: nodes, named values, and [`graph::Copy`], the frame of every pass. [`visit`] gives petgraph's algorithms.
//! - [`region`]: nodes that hold graphs, loops and branches.
//! - [`assume`]: what inference takes for granted of symbols, to be checked when they are numbers.
//! - [`text`] reads and prints graphs, [`verify`] checks their invariants, [`eval`] runs them, [`random`] makes data.

pub mod assume;
pub mod attr;
pub mod dim;
pub mod eval;
pub mod expand;
pub mod expr;
pub mod graph;
pub mod known;
pub mod op;
pub mod ops;
pub mod ops_md;
pub mod random;
pub mod region;
pub mod scalar;
pub mod small;
pub mod strings;
pub mod tensor;
pub mod text;
pub mod ty;
pub mod verify;
pub mod visit;

pub use attr::{Attr, Real};
pub use dim::{Bindings, Dim};
pub use graph::{Copy, Def, Graph, Node, NodeId, Source, Value, ValueId};
pub use known::Known;
pub use op::{Kind, OPS, Op, OpDef, Reduction};
pub use small::SmallFloat;
pub use tensor::{Element, Home, Tensor};
pub use ty::{DType, TensorType, broadcast};
