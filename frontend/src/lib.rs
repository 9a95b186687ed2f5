//! From an ONNX file to a graph of Egret's IR.
//!
//! ```text
//! file ── scan ──▶ outline ── model ──▶ messages, tensors ── order ──▶ nodes in order ── table, ops ──▶ ir::Graph
//!         weights stay in the mapped file                       one importer per operator
//! ```
//!
//! [`import()`] reads a file; [`import_bytes`] reads a model from memory. Both give an [`Import`] (the graph, warnings and a
//! summary) or an [`ImportError`], which holds every problem of the model at once.
//!
//! ```no_run
//! use egret_frontend::{ImportOptions, import};
//! let options = ImportOptions { dims: [("batch".into(), 1)].into(), ..ImportOptions::default() };
//! match import("model.onnx".as_ref(), &options) {
//!     Ok(import) => println!("{} nodes", import.graph.nodes().len()),
//!     Err(error) => eprintln!("{error}"),
//! }
//! ```
//!
//! # What becomes of a model
//!
//! - Values keep their ONNX names; a node's origin is its ONNX name, or operator and position when it has none.
//! - Operators become canonical forms: biases are `add`, reductions keep their axes and a `reshape` drops them, splits are
//!   slices, bidirectional recurrences are two. What the IR has as one op (softmax, layer norm, gelu, attention ...) stays one.
//! - Shapes are computed at import. `Shape` becomes the op `dims`, and integer arithmetic on it is followed symbolically, so
//!   that `Reshape`, `Slice` and their kin get their extents as expressions such as `2*N + 1`.
//! - Functions of the model are inlined, and `If` is replaced by the branch that its condition chooses.
//! - A sequence is as many values, an optional one or none: their lengths are known at import, those of inputs by
//!   [`ImportOptions::dims`], and no node is left of them.
//! - Random numbers are arithmetic on the positions of elements, so that every run draws the same.
//!
//! To support another operator: one line in `table.rs`, and a function in `ops/` unless an op of the IR means the same.

mod build;
mod case;
mod code;
mod error;
mod external;
mod import;
mod inputs;
pub mod limits;
mod mapped;
mod model;
mod ops;
mod order;
mod part;
mod scan;
mod scope;
mod site;
mod table;

pub use case::{Case, CaseError, DataSet, operators, read_case};
pub use code::{Code, Explanation};
pub use error::{FileError, ImportError, Place, Problem, Warning};
pub use part::{Choice, Part, Whole};

use bytes::Bytes;
use egret_ir::{Bindings, Graph, Tensor, TensorType};
use model::Model;
use onnx_protobuf::GraphProto;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What may be said about a model when it is imported.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Numbers for free extents, by name: `--dim batch=1`. So is said how long an input sequence is, `xs.length`, and whether an
    /// optional input is given, `x.given` (1 or 0).
    pub dims: Bindings,
    /// Shapes of inputs, by name: what free extents are settled by, in all inputs, and what stands in for a shape that the
    /// model does not declare.
    pub shapes: BTreeMap<Arc<str>, Vec<usize>>,
    /// Data of inputs, by name: these become constants of the graph. Shapes that depend on the data of an input can be
    /// compiled when it is given here.
    pub values: BTreeMap<Arc<str>, Tensor>,
}

/// A model as a graph.
#[derive(Clone, Debug)]
pub struct Import {
    /// The computation.
    pub graph: Graph,
    /// What was assumed or left out.
    pub warnings: Vec<Warning>,
    /// What the file says about itself.
    pub summary: Summary,
    /// How many nodes draw random numbers; compiled code draws the same ones in every run.
    pub draws: u64,
}

/// What a file says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The program that wrote it, with its version.
    pub producer: String,
    /// The version of the ONNX file format.
    pub ir_version: i64,
    /// The version of the standard operator set.
    pub opset: i64,
    /// All operator sets it asks for, with their versions; the standard one has an empty name.
    pub domains: Vec<(String, i64)>,
    /// How often each operator stands in it, branches and loop bodies included.
    pub ops: BTreeMap<String, usize>,
    /// The number of elements of all its initializers.
    pub parameters: u64,
}

/// Imports a model file; weights stay in the mapped file, which must not be changed while the result is in use.
///
/// # Errors
/// When the file is no model, the model cannot be compiled, or an option does not fit it.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Import, ImportError> {
    let model = Model::open(path).map_err(ImportError::File)?;
    import::import(&model, options)
}

/// Imports a model from memory; tensors in files beside it are errors.
///
/// # Errors
/// As [`import()`].
pub fn import_bytes(bytes: impl Into<Bytes>, options: &ImportOptions) -> Result<Import, ImportError> {
    let model = Model::from_bytes(Path::new("model.onnx"), bytes.into()).map_err(ImportError::File)?;
    import::import(&model, options)
}

/// The inputs that a model file declares, in order, with free extents as symbols: what has to be given to run it. Sequences and optional
/// inputs have their [`lengths`].
///
/// # Errors
/// When the file is no model, an input is not a tensor that the IR has, or a length is not given.
pub fn inputs(path: &Path, lengths: &Bindings) -> Result<Vec<(Arc<str>, TensorType)>, ImportError> {
    let model = Model::open(path).map_err(ImportError::File)?;
    import::inputs(&model, lengths)
}

/// The names in [`ImportOptions::dims`] that say how long a model's input sequences are, `xs.length`, and which of its optional inputs are
/// given, `x.given`.
///
/// # Errors
/// When the file is no model.
pub fn lengths(path: &Path) -> Result<Vec<String>, FileError> {
    let model = Model::open(path)?;
    let graph: &GraphProto = &model.proto.graph;
    Ok(inputs::fed(graph).flat_map(|input| inputs::lengths(&input.type_, &input.name)).map(|(name, _)| name).collect())
}
