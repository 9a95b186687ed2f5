//! Test cases as the ONNX standard has them: a model, inputs, and the outputs that are right.
//!
//! ```text
//! test_relu/
//!     model.onnx
//!     test_data_set_0/
//!         input_0.pb    a TensorProto for every input of the model, in its order
//!         output_0.pb   and for every output
//! ```
//!
//! Invariant: what is read here is data only; how a model means what it means is the importer's business.

use crate::error::FileError;
use crate::inputs;
use crate::model::{self, Model, TensorError};
use egret_ir::Tensor;
use onnx_protobuf::type_proto::Value::TensorType;
use onnx_protobuf::{GraphProto, ValueInfoProto};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model with data to test it by.
#[derive(Clone, Debug)]
pub struct Case {
    /// The model's file.
    pub model: PathBuf,
    /// Every operator of the model, those of branches and functions included.
    pub operators: BTreeSet<String>,
    /// Inputs and the outputs that belong to them.
    pub sets: Vec<DataSet>,
}

/// One run of a model.
#[derive(Clone, Debug)]
pub struct DataSet {
    /// By the names of the model's inputs, in their order.
    pub inputs: Vec<(Arc<str>, Tensor)>,
    /// By the names of the model's outputs, in their order.
    pub outputs: Vec<(Arc<str>, Tensor)>,
}

/// Why a case cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CaseError {
    /// A file is missing or damaged.
    #[error("{0}")]
    File(FileError),
    /// It holds data that the IR has no type for: a sentence.
    #[error("{0}")]
    Unsupported(String),
}

/// The operators of a model file, those of branches and functions included.
///
/// # Errors
/// When the file is no model.
pub fn operators(model: &Path) -> Result<BTreeSet<String>, FileError> {
    let model = Model::open(model)?;
    let mut found = BTreeSet::new();
    let bodies = model.proto.functions.iter().map(|f| &f.node).chain([&model.proto.graph.node]);
    let mut open: Vec<_> = bodies.flatten().collect();
    while let Some(node) = open.pop() {
        found.insert(crate::import::operator(node));
        open.extend(node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).flat_map(|g| &g.node));
    }
    Ok(found)
}

/// Reads a folder that holds a test case.
///
/// # Errors
/// When a file is missing or damaged, or holds what is no tensor of the IR.
pub fn read_case(folder: &Path) -> Result<Case, CaseError> {
    let path = folder.join("model.onnx");
    let model = Model::open(&path).map_err(CaseError::File)?;
    let graph: &GraphProto = &model.proto.graph;
    let inputs: Vec<&ValueInfoProto> = inputs::fed(graph).collect();
    let outputs: Vec<&ValueInfoProto> = graph.output.iter().collect();
    let set = |folder: PathBuf| Ok(DataSet { inputs: values(&folder, "input", &inputs)?, outputs: values(&folder, "output", &outputs)? });
    let folders = (0..).map(|i| folder.join(format!("test_data_set_{i}"))).take_while(|f| f.is_dir());
    let sets = folders.map(set).collect::<Result<Vec<DataSet>, CaseError>>()?;
    if sets.is_empty() {
        let help = "a test case has the folder `test_data_set_0` beside its model".into();
        return Err(CaseError::File(FileError { path: folder.into(), found: "it holds no data".into(), help }));
    }
    let operators = operators(&path).map_err(CaseError::File)?;
    Ok(Case { model: path, operators, sets })
}

fn values(folder: &Path, kind: &str, ports: &[&ValueInfoProto]) -> Result<Vec<(Arc<str>, Tensor)>, CaseError> {
    ports
        .iter()
        .enumerate()
        .map(|(i, port)| Ok((port.name.as_str().into(), value(&folder.join(format!("{kind}_{i}.pb")), port)?)))
        .collect()
}

fn value(path: &Path, port: &ValueInfoProto) -> Result<Tensor, CaseError> {
    match port.type_.value {
        Some(TensorType(_)) | None => {}
        _ => return Err(CaseError::Unsupported(format!("`{}` is no dense tensor", port.name))),
    }
    model::tensor_file(path).map_err(|error| match error {
        TensorError::File(error) => CaseError::File(error),
        TensorError::ElementType(message) => CaseError::Unsupported(format!("`{}`: {message}", port.name)),
    })
}
