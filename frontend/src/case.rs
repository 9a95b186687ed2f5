//! Test cases as the ONNX standard has them: a model, inputs, and the outputs that are right.
//!
//! ```text
//! test_relu/
//!     model.onnx
//!     test_data_set_0/
//!         input_0.pb    a TensorProto for every input of the model, in its order; a SequenceProto or OptionalProto by its type
//!         output_0.pb   and for every output
//! ```
//!
//! Invariant: what is read here is data only; how a model means what it means is the importer's business.

use crate::error::FileError;
use crate::inputs;
use crate::model::{self, Model, TensorError};
use egret_ir::{Bindings, Tensor};
use onnx_protobuf::type_proto::Value::{OptionalType, SequenceType, TensorType};
use onnx_protobuf::{GraphProto, TypeProto, ValueInfoProto};
use protobuf::CodedInputStream;
use protobuf::rt::skip_field_for_tag;
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
    /// How long the model's input sequences are, and which optional inputs are given: `xs.length` and `x.given`, as
    /// [`ImportOptions::dims`](crate::ImportOptions::dims) takes them.
    pub lengths: Bindings,
    /// By the names of the model's inputs, in their order; elements of the sequence `xs` are `xs.0`, `xs.1`, ...
    pub inputs: Vec<(Arc<str>, Tensor)>,
    /// By the names of the model's outputs, in their order, and those of sequences likewise.
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
    let set = |folder: PathBuf| {
        let (inputs, lengths) = values(&folder, "input", &inputs)?;
        Ok(DataSet { lengths, inputs, outputs: values(&folder, "output", &outputs)?.0 })
    };
    let folders = (0..).map(|i| folder.join(format!("test_data_set_{i}"))).take_while(|f| f.is_dir());
    let sets = folders.map(set).collect::<Result<Vec<DataSet>, CaseError>>()?;
    if sets.is_empty() {
        let help = "a test case has the folder `test_data_set_0` beside its model".into();
        return Err(CaseError::File(FileError { path: folder.into(), found: "it holds no data".into(), help }));
    }
    let operators = operators(&path).map_err(CaseError::File)?;
    Ok(Case { model: path, operators, sets })
}

/// Tensors by their names, and the lengths of sequences.
type Named = (Vec<(Arc<str>, Tensor)>, Bindings);

fn values(folder: &Path, kind: &str, ports: &[&ValueInfoProto]) -> Result<Named, CaseError> {
    let mut named = Named::default();
    for (i, port) in ports.iter().enumerate() {
        let path = folder.join(format!("{kind}_{i}.pb"));
        let stored = std::fs::read(&path).map_err(|e| unusable(&path, format!("cannot be read: {e}")))?;
        read(&Port { path: &path, name: &port.name }, &stored, &port.type_, &mut named)?;
    }
    Ok(named)
}

/// An input or output, and the file of its data.
struct Port<'a> {
    path: &'a Path,
    name: &'a str,
}

/// The fields that hold a tensor, a sequence or an optional, in messages of sequences and optionals (onnx-data.proto).
const TENSOR: u32 = 3;
const SEQUENCE: u32 = 5;
const OPTIONAL: u32 = 7;

/// Reads a message of this type.
fn read(port: &Port, message: &[u8], ty: &TypeProto, named: &mut Named) -> Result<(), CaseError> {
    let name = port.name;
    match &ty.value {
        Some(TensorType(_)) | None => named.0.push((name.into(), tensor(port, message)?)),
        Some(SequenceType(sequence)) if matches!(sequence.elem_type.value, Some(TensorType(_))) => {
            let messages = fields(port, message, TENSOR)?;
            named.1.insert(format!("{name}.length").into(), messages.len() as i64);
            for (message, name) in messages.iter().zip(inputs::elements(name)) {
                named.0.push((name.into(), tensor(port, message)?));
            }
        }
        Some(OptionalType(optional)) => {
            let inner = &optional.elem_type;
            let field = match inner.value {
                Some(SequenceType(_)) => SEQUENCE,
                Some(OptionalType(_)) => OPTIONAL,
                _ => TENSOR,
            };
            let given = fields(port, message, field)?;
            named.1.insert(format!("{name}.given").into(), given.len().min(1) as i64);
            if let Some(given) = given.first() {
                read(port, given, inner, named)?;
            }
        }
        _ => return Err(CaseError::Unsupported(format!("`{name}` is neither a dense tensor nor a sequence of such"))),
    }
    Ok(())
}

fn tensor(port: &Port, message: &[u8]) -> Result<Tensor, CaseError> {
    model::tensor_message(port.path, message).map_err(|error| match error {
        TensorError::File(error) => CaseError::File(error),
        TensorError::ElementType(message) => CaseError::Unsupported(format!("`{}`: {message}", port.name)),
    })
}

/// The messages in one field of a message.
fn fields(port: &Port, message: &[u8], field: u32) -> Result<Vec<Vec<u8>>, CaseError> {
    let read = || -> protobuf::Result<Vec<Vec<u8>>> {
        let mut stream = CodedInputStream::from_bytes(message);
        let mut found = vec![];
        while let Some(tag) = stream.read_raw_tag_or_eof()? {
            match tag == field << 3 | LENGTH_DELIMITED {
                true => found.push(stream.read_bytes()?),
                false => skip_field_for_tag(tag, &mut stream)?,
            }
        }
        Ok(found)
    };
    read().map_err(|error| unusable(port.path, format!("not a message of ONNX: {error}")))
}

/// How the wire format marks a field that is preceded by its length.
const LENGTH_DELIMITED: u32 = 2;

fn unusable(path: &Path, found: String) -> CaseError {
    CaseError::File(FileError { path: path.into(), found, help: "a test case has data for every input and output".into() })
}
