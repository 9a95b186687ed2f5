//! Parts of a model as models of their own: what `egret reduce` tries.
//!
//! A part is some nodes of the main graph with the weights they read. A value that they read and none of them makes is cut: it
//! becomes an input, or a constant if it is a few integers, since shapes are computed from such. What they make and do not read
//! themselves is an output.
//!
//! ```text
//! model        x ─▶ a ─▶ b ─▶ c ─▶ y
//! part {b}     a's result ─▶ b ─▶ b's result
//! ```
//!
//! Invariant: nodes, names, weights and operator sets are those of the model; a part stands in one file, weights included.

use crate::error::{FileError, ImportError};
use crate::model::{Model, TensorError, number};
use crate::order::reads;
use crate::scope::domain;
use crate::{ImportOptions, import, inputs};
use egret_ir::eval::eval;
use egret_ir::{DType, Dim, Element, Tensor, TensorType};
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, Message, ModelProto, NodeProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    type_proto,
};
use protobuf::MessageField;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// The most integers that a cut value may be and become a constant: the importer follows the contents of tensors of this size.
const MOST_CONTENTS: usize = 256;

/// A model that can be taken apart.
pub struct Whole {
    model: Model,
    /// The types of values as the importer finds them, with free extents as symbols.
    types: HashMap<Arc<str>, TensorType>,
    /// The values for the inputs that were given, as far as they could be computed.
    data: HashMap<Arc<str>, Tensor>,
    /// Why there is no data.
    unknown: Option<String>,
}

/// Which part of a model is taken, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Choice {
    /// Positions of nodes in the main graph, ascending.
    pub nodes: Vec<usize>,
    /// The names of weights of floats whose elements are all 1 in the part.
    pub plain: Vec<String>,
    /// Whether the extents of inputs are numbers, those of the data.
    pub fixed: bool,
}

/// A part of a model.
pub struct Part {
    /// An ONNX file.
    pub model: Vec<u8>,
    /// Its inputs in order, with data where that is known.
    pub inputs: Vec<(String, TensorType, Option<Tensor>)>,
    /// The names of its outputs.
    pub outputs: Vec<String>,
    /// The names of its weights of floats.
    pub weights: Vec<String>,
}

impl Whole {
    /// Reads a model and computes its values for these inputs by the reference evaluator.
    ///
    /// # Errors
    /// When the file is no model, or an option does not fit it. Nodes that cannot be imported are no error.
    pub fn open(path: &Path, options: &ImportOptions, given: &BTreeMap<Arc<str>, Tensor>) -> Result<Whole, ImportError> {
        let model = Model::open(path).map_err(ImportError::File)?;
        let free = import::values(&model, &ImportOptions::default())?;
        let types = free.results.iter().chain(free.params()).map(|&v| free.ty(v).clone());
        let params = free.params().iter().map(|&p| free.value(p).name.clone());
        let types = free.result_names.iter().cloned().chain(params).zip(types).collect();
        let bound = import::values(&model, options)?;
        let inputs = bound.params().iter().map(|&p| given.get(&bound.value(p).name).cloned());
        let found =
            inputs.collect::<Option<Vec<Tensor>>>().ok_or_else(|| "an input has no data".to_string()).and_then(|i| eval(&bound, &i));
        let (found, unknown) = found.map_or_else(|why| (vec![], Some(why)), |found| (found, None));
        let made = bound.result_names.iter().cloned().zip(found);
        let data = made.chain(given.iter().map(|(name, tensor)| (name.clone(), tensor.clone()))).collect();
        Ok(Whole { model, types, data, unknown })
    }

    /// Why the values of the model are not known for its inputs, if so.
    pub fn unknown(&self) -> Option<&str> {
        self.unknown.as_deref()
    }

    /// The nodes of the main graph, each with its name or number and its operator.
    pub fn nodes(&self) -> Vec<String> {
        let label = |(i, node): (usize, &NodeProto)| format!("{} ({})", import::label(node, i), import::operator(node));
        self.graph().node.iter().enumerate().map(label).collect()
    }

    fn graph(&self) -> &GraphProto {
        &self.model.proto.graph
    }

    /// The part that is chosen; nothing where it would have an input of unknown type, or no output.
    ///
    /// # Errors
    /// When weights cannot be read.
    pub fn part(&self, choice: &Choice) -> Result<Option<Part>, FileError> {
        let graph = self.graph();
        let nodes: Vec<&NodeProto> = choice.nodes.iter().filter_map(|&i| graph.node.get(i)).collect();
        let read: BTreeSet<&str> = nodes.iter().flat_map(|node| reads(node)).collect();
        let outputs = self.outputs(&nodes, &read);
        let made: HashSet<&str> = nodes.iter().flat_map(|node| &node.output).map(String::as_str).collect();
        let weights: Vec<&TensorProto> = graph.initializer.iter().filter(|t| read.contains(t.name.as_str())).collect();
        let stored: HashSet<&str> = weights.iter().map(|t| t.name.as_str()).collect();
        let cut = self.inputs_first(read.into_iter().filter(|name| !made.contains(name) && !stored.contains(name)).collect());
        let mut part = GraphProto { name: graph.name.clone(), ..Default::default() };
        let mut inputs = vec![];
        for name in cut {
            if let Some(constant) = self.contents(name) {
                part.initializer.push(constant);
                continue;
            }
            let Some(ty) = self.input_type(name, choice.fixed) else { return Ok(None) };
            part.input.push(port(name, Some(&ty)));
            inputs.push((name.to_string(), ty, self.data.get(name).cloned()));
        }
        if outputs.is_empty() {
            return Ok(None);
        }
        part.output = outputs.iter().map(|name| port(name, self.types.get(*name))).collect();
        part.node = nodes.into_iter().map(|node| self.whole_node(node)).collect::<Result<_, _>>()?;
        for weight in &weights {
            part.initializer.push(if choice.plain.contains(&weight.name) { plain(weight) } else { self.whole_tensor(weight)? });
        }
        let weights = weights.into_iter().filter(|t| is_float(t)).map(|t| t.name.clone()).collect();
        let outputs = outputs.into_iter().map(String::from).collect();
        let model = self.file(part)?;
        Ok(Some(Part { model, inputs, outputs, weights }))
    }

    /// What the nodes make for the model's outputs or for others.
    fn outputs<'m>(&self, nodes: &[&'m NodeProto], read: &BTreeSet<&str>) -> Vec<&'m str> {
        let graph = self.graph();
        let ends: HashSet<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
        let anywhere: HashSet<&str> = graph.node.iter().flat_map(reads).collect();
        let is_output = |name: &&str| ends.contains(name) || anywhere.contains(name) && !read.contains(name);
        let made = || nodes.iter().flat_map(|node| &node.output).map(String::as_str).filter(|name| !name.is_empty());
        let outputs: Vec<&str> = made().filter(is_output).collect();
        // Of nodes that the model has no use for, everything.
        if outputs.is_empty() { made().filter(|name| !read.contains(name)).collect() } else { outputs }
    }

    /// The model's own inputs in their order, before what was cut.
    fn inputs_first<'a>(&self, names: Vec<&'a str>) -> Vec<&'a str> {
        let mut names = names;
        let place = |name: &str| inputs::fed(self.graph()).position(|input| input.name == name).unwrap_or(usize::MAX);
        names.sort_by_key(|name| (place(name), *name));
        names
    }

    /// A value of a few integers, none of the model's inputs, as a constant.
    fn contents(&self, name: &str) -> Option<TensorProto> {
        let data = self.data.get(name)?;
        let is_input = inputs::fed(self.graph()).any(|input| input.name == name);
        let is_small = data.count() <= MOST_CONTENTS && matches!(data.dtype(), DType::I64 | DType::I32 | DType::Bool);
        (is_small && !is_input).then(|| tensor(name, data))
    }

    fn input_type(&self, name: &str, fixed: bool) -> Option<TensorType> {
        let data = || self.data.get(name).map(Tensor::ty);
        if fixed { data().or_else(|| self.types.get(name).cloned()) } else { self.types.get(name).cloned().or_else(data) }
    }

    /// The node with the tensors of its attributes in it.
    fn whole_node(&self, node: &NodeProto) -> Result<NodeProto, FileError> {
        let attribute = node.attribute.iter().map(|a| self.whole_attribute(a)).collect::<Result<_, _>>()?;
        Ok(NodeProto { attribute, ..node.clone() })
    }

    fn whole_attribute(&self, attribute: &AttributeProto) -> Result<AttributeProto, FileError> {
        let mut whole = attribute.clone();
        if let Some(t) = attribute.t.as_ref() {
            whole.t = MessageField::some(self.whole_tensor(t)?);
        }
        if let Some(g) = attribute.g.as_ref() {
            whole.g = MessageField::some(self.whole_graph(g)?);
        }
        whole.tensors = attribute.tensors.iter().map(|t| self.whole_tensor(t)).collect::<Result<_, _>>()?;
        whole.graphs = attribute.graphs.iter().map(|g| self.whole_graph(g)).collect::<Result<_, _>>()?;
        Ok(whole)
    }

    fn whole_graph(&self, graph: &GraphProto) -> Result<GraphProto, FileError> {
        let node = graph.node.iter().map(|n| self.whole_node(n)).collect::<Result<_, _>>()?;
        let initializer = graph.initializer.iter().map(|t| self.whole_tensor(t)).collect::<Result<_, _>>()?;
        Ok(GraphProto { node, initializer, ..graph.clone() })
    }

    fn whole_tensor(&self, tensor: &TensorProto) -> Result<TensorProto, FileError> {
        self.model.inlined(tensor).map_err(|error| match error {
            TensorError::File(error) => error,
            TensorError::ElementType(found) => self.model.bad(format!("tensor `{}`: {found}", tensor.name)),
        })
    }

    /// The file of a graph, with those functions of the model that it needs.
    fn file(&self, graph: GraphProto) -> Result<Vec<u8>, FileError> {
        let functions = self.called(&graph.node).into_iter().map(|f| self.whole_function(f)).collect::<Result<_, _>>()?;
        let model = ModelProto { graph: MessageField::some(graph), functions, ..self.model.proto.clone() };
        model.write_to_bytes().map_err(|error| self.model.bad(format!("a part of it cannot be written: {error}")))
    }

    /// The functions that nodes call, and those that these call.
    fn called(&self, nodes: &[NodeProto]) -> Vec<&FunctionProto> {
        let functions = || self.model.proto.functions.iter();
        let mut open: Vec<&NodeProto> = nodes.iter().collect();
        let mut found: HashSet<*const FunctionProto> = HashSet::new();
        while let Some(node) = open.pop() {
            open.extend(node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).flat_map(|g| &g.node));
            let is_meant = |f: &&FunctionProto| f.name == node.op_type && domain(&f.domain) == domain(&node.domain);
            let new = functions().filter(is_meant).filter(|f| found.insert(std::ptr::from_ref(*f)));
            open.extend(new.flat_map(|f| &f.node));
        }
        functions().filter(|f| found.contains(&std::ptr::from_ref(*f))).collect()
    }

    fn whole_function(&self, function: &FunctionProto) -> Result<FunctionProto, FileError> {
        let node = function.node.iter().map(|n| self.whole_node(n)).collect::<Result<_, _>>()?;
        let attribute_proto = function.attribute_proto.iter().map(|a| self.whole_attribute(a)).collect::<Result<_, _>>()?;
        Ok(FunctionProto { node, attribute_proto, ..function.clone() })
    }
}

fn port(name: &str, ty: Option<&TensorType>) -> ValueInfoProto {
    ValueInfoProto { name: name.into(), type_: ty.map(declared).into(), ..Default::default() }
}

fn declared(ty: &TensorType) -> TypeProto {
    let dim = ty.dims.iter().map(|d| Dimension { value: Some(extent(d)), ..Default::default() }).collect();
    let shape = MessageField::some(TensorShapeProto { dim, ..Default::default() });
    let tensor = type_proto::Tensor { elem_type: number(ty.dtype), shape, ..Default::default() };
    TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }
}

fn extent(dim: &Dim) -> dimension::Value {
    dim.as_const().map_or_else(|| dimension::Value::DimParam(dim.to_string()), dimension::Value::DimValue)
}

/// A tensor of a type whose elements take whole bytes.
fn tensor(name: &str, data: &Tensor) -> TensorProto {
    let dims = data.shape().iter().map(|&d| d as i64).collect();
    let proto = TensorProto { name: name.into(), data_type: number(data.dtype()), dims, ..Default::default() };
    match data.texts() {
        Ok(texts) => TensorProto { string_data: texts.iter().map(|text| text.as_bytes().to_vec()).collect(), ..proto },
        Err(_) => TensorProto { raw_data: data.bytes().to_vec(), ..proto },
    }
}

fn float(weight: &TensorProto) -> Option<DType> {
    crate::model::dtype(weight.data_type).ok().filter(|t| matches!(t, DType::F32 | DType::F64 | DType::F16 | DType::BF16))
}

fn is_float(weight: &TensorProto) -> bool {
    float(weight).is_some()
}

/// The weight with all elements 1; itself if it is not of floats.
fn plain(weight: &TensorProto) -> TensorProto {
    let shape = weight.dims.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<Vec<usize>>>();
    match (float(weight), shape) {
        (Some(dtype), Some(shape)) => tensor(&weight.name, &Tensor::splat(dtype, shape, Element::Float(1.0))),
        _ => weight.clone(),
    }
}
