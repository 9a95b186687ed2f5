//! What the importer of one operator sees: its operands, its attributes, and the graph to build into.
//!
//! An importer is a function `fn(&mut Site) -> Outcome`. It asks for what the operator's specification names, and builds:
//!
//! ```text
//! pub(crate) fn flatten(n: &mut Site) -> Outcome {
//!     let x = n.input(0)?;
//!     let axis = n.axis_or("axis", 1, x)?;
//!     let (outer, inner) = n.dims(x).split_at(axis);
//!     n.reshape(x, [outer.product(), inner.product()])
//! }
//! ```
//!
//! Invariant: an input or attribute that an importer never asked for is reported (the input as a problem, the attribute as a
//! warning), so nothing of a model is passed over in silence.

use crate::build::Builder;
use crate::error::{Code, FileError, counted};
use crate::model::{Model, TensorError, texts};
use egret_ir::{DType, Dim, Op, Tensor, TensorType, ValueId};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, TensorProto};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The values of the node's outputs, in order. Outputs that are left out at the end are not available.
pub(crate) type Outcome = Result<Vec<ValueId>, Stop>;

/// Why a node cannot be imported, without the place: the driver knows it.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) attribute: Option<(String, String)>,
    /// The inputs of the model whose data has to be known.
    pub(crate) data: Box<[Arc<str>]>,
    pub(crate) help: String,
}

/// What ends the import of a node.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The node is reported and the import goes on to find further problems.
    Fault(Box<Fault>),
    /// The file is damaged: the import ends.
    File(Box<FileError>),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Fault(fault.into())
    }
}

/// What to do about a node that no exporter should write.
pub(crate) const BREAKS_SPECIFICATION: &str = "check how the model was made: the node breaks the ONNX specification";

/// A fault of this kind.
pub(crate) fn fault(code: Code, message: impl Into<String>, help: impl Into<String>) -> Stop {
    Fault { code, message: message.into(), attribute: None, data: Box::default(), help: help.into() }.into()
}

/// A fault of a node that no exporter should write.
pub(crate) fn malformed(code: Code, message: impl Into<String>) -> Stop {
    fault(code, message, BREAKS_SPECIFICATION)
}

/// An ONNX node whose operands are values of the graph.
pub(crate) struct Site<'a> {
    pub(crate) build: &'a mut Builder,
    model: &'a Model,
    /// The operator's name.
    pub(crate) operator: &'a str,
    /// The version of the operator set it belongs to.
    pub(crate) opset: i64,
    inputs: Vec<Option<ValueId>>,
    asked_inputs: Cell<usize>,
    /// Which outputs are named and read by someone.
    wanted: Vec<bool>,
    attributes: HashMap<&'a str, &'a AttributeProto>,
    asked_attributes: RefCell<BTreeSet<String>>,
}

impl<'a> Site<'a> {
    pub(crate) fn new(
        build: &'a mut Builder,
        model: &'a Model,
        operator: &'a str,
        opset: i64,
        inputs: Vec<Option<ValueId>>,
        wanted: Vec<bool>,
        attributes: HashMap<&'a str, &'a AttributeProto>,
    ) -> Site<'a> {
        Site { build, model, operator, opset, inputs, asked_inputs: Cell::new(0), wanted, attributes, asked_attributes: RefCell::default() }
    }

    // ---- operands

    /// An input that has to be there.
    pub(crate) fn input(&self, index: usize) -> Result<ValueId, Stop> {
        let given = counted(self.inputs.iter().flatten().count(), "input");
        self.optional(index)
            .ok_or_else(|| malformed(Code::Operand, format!("`{}` needs its input {index} (counted from 0), found {given}", self.operator)))
    }

    /// An input that may be left out.
    pub(crate) fn optional(&self, index: usize) -> Option<ValueId> {
        self.asked_inputs.set(self.asked_inputs.get().max(index + 1));
        self.inputs.get(index).copied().flatten()
    }

    /// All inputs, of which none may be left out.
    pub(crate) fn inputs(&self) -> Result<Vec<ValueId>, Stop> {
        (0..self.inputs.len()).map(|i| self.input(i)).collect()
    }

    /// Whether an output is named and read.
    pub(crate) fn wants(&self, output: usize) -> bool {
        self.wanted.get(output).copied().unwrap_or(false)
    }

    /// The number of outputs, named or not.
    pub(crate) fn output_count(&self) -> usize {
        self.wanted.len()
    }

    /// The first input that was given but never asked for.
    pub(crate) fn ignored_input(&self) -> Option<usize> {
        (self.asked_inputs.get()..self.inputs.len()).find(|&i| self.inputs[i].is_some())
    }

    /// The attributes that were given but never asked for.
    pub(crate) fn ignored_attributes(&self) -> Vec<&'a str> {
        let asked = self.asked_attributes.borrow();
        let mut ignored: Vec<&str> = self.attributes.keys().filter(|k| !asked.contains(**k)).copied().collect();
        ignored.sort_unstable();
        ignored
    }

    /// The type of a value.
    pub(crate) fn ty(&self, value: ValueId) -> &TensorType {
        self.build.graph.ty(value)
    }

    /// The extents of a value.
    pub(crate) fn dims(&self, value: ValueId) -> Vec<Dim> {
        self.ty(value).dims.clone()
    }

    /// The number of axes of a value.
    pub(crate) fn rank(&self, value: ValueId) -> usize {
        self.ty(value).rank()
    }

    /// The value, which must have this rank.
    pub(crate) fn of_rank(&self, value: ValueId, rank: usize, what: &str) -> Result<ValueId, Stop> {
        if self.rank(value) == rank {
            return Ok(value);
        }
        Err(malformed(Code::Shape, format!("`{}` expects {what} of rank {rank}, found {}", self.operator, self.ty(value))))
    }

    /// The element type of a value.
    pub(crate) fn dtype(&self, value: ValueId) -> DType {
        self.ty(value).dtype
    }

    // ---- attributes

    /// An attribute, with the type it claims or, for old files, seems to have.
    fn attribute(&self, name: &str, expected: AttributeType) -> Result<Option<&'a AttributeProto>, Stop> {
        self.asked_attributes.borrow_mut().insert(name.to_string());
        let Some(&attribute) = self.attributes.get(name) else { return Ok(None) };
        match attribute.type_.enum_value() {
            Ok(found) if found == expected || found == AttributeType::UNDEFINED => Ok(Some(attribute)),
            found => {
                let found = found.map_or_else(|n| format!("type {n}"), |t| format!("{t:?}"));
                Err(malformed(Code::Attribute, format!("attribute `{name}` has type {found}, expected {expected:?}")))
            }
        }
    }

    /// Whether an attribute is given; asks for it.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.asked_attributes.borrow_mut().insert(name.to_string());
        self.attributes.contains_key(name)
    }

    /// Says that attributes are known and do not change the result of inference.
    pub(crate) fn without_effect(&self, names: &[&str]) {
        self.asked_attributes.borrow_mut().extend(names.iter().map(|n| n.to_string()));
    }

    /// An integer attribute.
    pub(crate) fn int(&self, name: &str) -> Result<Option<i64>, Stop> {
        Ok(self.attribute(name, AttributeType::INT)?.map(|a| a.i))
    }

    /// An integer attribute with a default.
    pub(crate) fn int_or(&self, name: &str, default: i64) -> Result<i64, Stop> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    /// A switch: an integer attribute that is 0 or not.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Stop> {
        Ok(self.int_or(name, 0)? != 0)
    }

    /// A float attribute.
    pub(crate) fn float(&self, name: &str) -> Result<Option<f64>, Stop> {
        Ok(self.attribute(name, AttributeType::FLOAT)?.map(|a| shortest(a.f)))
    }

    /// A float attribute with a default.
    pub(crate) fn float_or(&self, name: &str, default: f64) -> Result<f64, Stop> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    /// A list of integers.
    pub(crate) fn ints(&self, name: &str) -> Result<Option<Vec<i64>>, Stop> {
        Ok(self.attribute(name, AttributeType::INTS)?.map(|a| a.ints.clone()))
    }

    /// A list of floats.
    pub(crate) fn floats(&self, name: &str) -> Result<Option<Vec<f64>>, Stop> {
        Ok(self.attribute(name, AttributeType::FLOATS)?.map(|a| a.floats.iter().map(|&f| shortest(f)).collect()))
    }

    /// A text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, Stop> {
        Ok(self.attribute(name, AttributeType::STRING)?.map(|a| String::from_utf8_lossy(&a.s).into_owned()))
    }

    /// A list of texts.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>, Stop> {
        let texts = self
            .attribute(name, AttributeType::STRINGS)?
            .map(|a| a.strings.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect());
        Ok(texts.unwrap_or_default())
    }

    /// A list of strings as a vector; they have to be UTF-8.
    pub(crate) fn strings(&self, name: &str) -> Result<Option<Tensor>, Stop> {
        let Some(attribute) = self.attribute(name, AttributeType::STRINGS)? else { return Ok(None) };
        let strings = texts(&attribute.strings, vec![attribute.strings.len()]);
        strings.map(Some).map_err(|problem| self.refused(name, "strings", format!("{problem} (in attribute `{name}`)")))
    }

    /// A string of the importer's own.
    pub(crate) fn own_string(&self, text: &str) -> Result<Tensor, Stop> {
        Tensor::from_texts(vec![], &[text]).map_err(|problem| malformed(Code::ElementType, problem))
    }

    /// A string, which has to be UTF-8.
    pub(crate) fn string(&self, name: &str) -> Result<Option<Tensor>, Stop> {
        let Some(attribute) = self.attribute(name, AttributeType::STRING)? else { return Ok(None) };
        let string = texts(std::slice::from_ref(&attribute.s), vec![]);
        string.map(Some).map_err(|problem| self.refused(name, "a string", format!("{problem} (in attribute `{name}`)")))
    }

    /// A tensor.
    pub(crate) fn tensor(&self, name: &str) -> Result<Option<Tensor>, Stop> {
        let Some(attribute) = self.attribute(name, AttributeType::TENSOR)? else { return Ok(None) };
        let proto: &TensorProto = attribute
            .t
            .as_ref()
            .ok_or_else(|| fault(Code::Attribute, format!("attribute `{name}` holds no tensor"), "export the model again"))?;
        self.model.tensor(proto).map(Some).map_err(|e| match e {
            TensorError::File(error) => Stop::File(error.into()),
            TensorError::ElementType(message) => self.refused(name, "a tensor", format!("{message} (in attribute `{name}`)")),
        })
    }

    /// One of several words; each stands with what it means.
    pub(crate) fn word<T: Clone>(&self, name: &str, default: &str, words: &[(&str, T)]) -> Result<T, Stop> {
        let found = self.text(name)?.unwrap_or_else(|| default.to_string());
        words.iter().find(|(w, _)| *w == found).map(|(_, t)| t.clone()).ok_or_else(|| {
            let all: Vec<String> = words.iter().map(|(w, _)| format!("`{w}`")).collect();
            self.refused(name, &found, format!("`{}` with {name} `{found}` is not supported, expected {}", self.operator, all.join(" or ")))
        })
    }

    /// A fault whose cause is the value of an attribute.
    pub(crate) fn refused(&self, name: &str, value: impl ToString, message: impl Into<String>) -> Stop {
        let attribute = Some((name.to_string(), value.to_string()));
        Fault {
            code: Code::Attribute,
            message: message.into(),
            attribute,
            data: Box::default(),
            help: "change the operator in the model before the export".into(),
        }
        .into()
    }

    /// An axis of a tensor of rank `rank` as ONNX writes it: negative ones count from the end.
    pub(crate) fn axis(&self, axis: i64, rank: usize) -> Result<usize, Stop> {
        let positive = if axis < 0 { axis.checked_add(rank as i64).unwrap_or(-1) } else { axis };
        let inside = usize::try_from(positive).ok().filter(|a| *a < rank);
        inside.ok_or_else(|| self.refused("axis", axis, format!("axis {axis} is outside of a tensor of rank {rank}")))
    }

    /// The attribute `axis` for the axes of `x`.
    pub(crate) fn axis_or(&self, default: i64, x: ValueId) -> Result<usize, Stop> {
        self.axis(self.int_or("axis", default)?, self.rank(x))
    }

    /// Several axes that the attribute or input `name` lists, each once.
    pub(crate) fn axes(&self, name: &str, axes: &[i64], rank: usize) -> Result<Vec<usize>, Stop> {
        let found = axes.iter().map(|&a| self.axis(a, rank)).collect::<Result<Vec<usize>, Stop>>()?;
        if found.iter().collect::<BTreeSet<_>>().len() < found.len() {
            return Err(self.refused(name, format!("{axes:?}"), format!("`{name}` has an axis twice")));
        }
        Ok(found)
    }

    // ---- contents of operands

    /// The integer contents of an input that decides over shapes.
    pub(crate) fn contents(&self, index: usize, what: &str) -> Result<Vec<Dim>, Stop> {
        let value = self.input(index)?;
        self.build.contents(value).ok_or_else(|| self.data_dependent(value, what))
    }

    /// The integer contents of an input, as numbers.
    pub(crate) fn numbers(&self, index: usize, what: &str) -> Result<Vec<i64>, Stop> {
        let contents = self.contents(index, what)?;
        contents.iter().map(Dim::as_const).collect::<Option<_>>().ok_or_else(|| {
            let symbols = contents.iter().flat_map(Dim::symbols).collect();
            fault(Code::DataDependent, format!("{what} of `{}` must be numbers, found {contents:?}", self.operator), dim_help(&symbols))
        })
    }

    /// The contents of an input that has to be known at compile time.
    pub(crate) fn constant(&self, index: usize, what: &str) -> Result<Arc<Tensor>, Stop> {
        let value = self.input(index)?;
        self.build.tensor(value).ok_or_else(|| self.data_dependent(value, what))
    }

    fn data_dependent(&self, value: ValueId, what: &str) -> Stop {
        let name = &self.build.graph.value(value).name;
        let message = format!("{what} of `{}` must be known when the model is compiled, but `{name}` is not", self.operator);
        self.build.unknown(Code::DataDependent, message, value)
    }

    // ---- building

    /// Adds a node with one result.
    pub(crate) fn op(&mut self, op: Op, operands: &[ValueId]) -> Result<ValueId, Stop> {
        Ok(self.ops(op, operands)?[0])
    }

    /// Adds a node and returns all its results.
    pub(crate) fn ops(&mut self, op: Op, operands: &[ValueId]) -> Outcome {
        self.build.node(op, operands).map_err(|message| {
            // Numbers can only help where it is symbols that do not fit.
            let symbols: BTreeSet<Arc<str>> =
                operands.iter().flat_map(|&v| self.dims(v)).flat_map(|d| d.symbols()).filter(|s| message.contains(&**s)).collect();
            let help = if symbols.is_empty() {
                "check how the model was made: its operands contradict each other".to_string()
            } else {
                dim_help(&symbols)
            };
            fault(Code::Shape, format!("operands do not fit: {message}"), help)
        })
    }

    /// A rank-0 constant.
    pub(crate) fn scalar(&mut self, value: f64, dtype: DType) -> ValueId {
        self.build.scalar(value, dtype)
    }

    /// A constant of all zeros, or all ones ..., repeated to extents that may be symbolic.
    pub(crate) fn splat(&mut self, value: f64, dtype: DType, dims: Vec<Dim>) -> Result<ValueId, Stop> {
        let scalar = self.scalar(value, dtype);
        self.broadcast(scalar, dims)
    }

    /// `x` under another shape; itself when it has that shape.
    pub(crate) fn reshape(&mut self, x: ValueId, dims: impl IntoIterator<Item = Dim>) -> Result<ValueId, Stop> {
        let shape: Vec<Dim> = dims.into_iter().collect();
        if self.ty(x).dims == shape { Ok(x) } else { self.op(Op::reshape { shape }, &[x]) }
    }

    /// `x` repeated to a shape; itself when it has that shape.
    pub(crate) fn broadcast(&mut self, x: ValueId, shape: Vec<Dim>) -> Result<ValueId, Stop> {
        if self.ty(x).dims == shape { Ok(x) } else { self.op(Op::broadcast { shape }, &[x]) }
    }

    /// `x` with permuted axes; itself for the identity.
    pub(crate) fn transpose(&mut self, x: ValueId, perm: Vec<usize>) -> Result<ValueId, Stop> {
        if perm.iter().copied().eq(0..perm.len()) { Ok(x) } else { self.op(Op::transpose { perm }, &[x]) }
    }

    /// `x` converted; itself when it has the type.
    pub(crate) fn cast(&mut self, x: ValueId, to: DType) -> Result<ValueId, Stop> {
        let from = self.dtype(x);
        if from == to {
            return Ok(x);
        }
        if from == DType::Str || to == DType::Str {
            let message = format!("`{}` does not make {to} of {from}", self.operator);
            return Err(fault(Code::ElementType, message, "use another element type in the model"));
        }
        self.op(Op::cast { to }, &[x])
    }

    /// `count` elements from `start` on along one axis; `x` itself when that is all of it.
    pub(crate) fn slice(&mut self, x: ValueId, axis: usize, start: Dim, count: Dim) -> Result<ValueId, Stop> {
        let mut shape = self.dims(x);
        let mut starts = vec![Dim::ZERO; shape.len()];
        let (Some(extent), Some(first)) = (shape.get_mut(axis), starts.get_mut(axis)) else {
            return Err(malformed(Code::Shape, format!("`{}` takes a part along axis {axis} of {}", self.operator, self.ty(x))));
        };
        (*extent, *first) = (count, start);
        let step = vec![1; shape.len()];
        if self.ty(x).dims == shape { Ok(x) } else { self.op(Op::slice { start: starts, shape, step }, &[x]) }
    }

    /// Several values joined along an axis; a single one is itself.
    pub(crate) fn concat(&mut self, xs: &[ValueId], axis: usize) -> Result<ValueId, Stop> {
        match xs {
            [x] => Ok(*x),
            _ => self.op(Op::concat { axis }, xs),
        }
    }

    /// The index along `axis` at every element of a shape.
    pub(crate) fn iota(&mut self, shape: Vec<Dim>, axis: usize, dtype: DType) -> Result<ValueId, Stop> {
        self.op(Op::iota { shape, axis, dtype }, &[])
    }

    /// An elementwise op of `x` and a number of its element type.
    pub(crate) fn with_number(&mut self, op: Op, x: ValueId, number: f64) -> Result<ValueId, Stop> {
        let number = self.scalar(number, self.dtype(x));
        self.op(op, &[x, number])
    }
}

/// What to do when symbols stand in the way.
pub(crate) fn dim_help(symbols: &BTreeSet<Arc<str>>) -> String {
    if symbols.is_empty() {
        return "compute it from shapes and constants only, and export the model again".to_string();
    }
    let options: Vec<String> = symbols.iter().map(|s| format!("--dim {s}=...")).collect();
    format!("give free extents as numbers: {}", options.join(" "))
}

/// The `f64` that is written like this `f32`: 0.1 instead of 0.10000000149011612, so that graphs print as their source.
/// Both round to the same `f32`, the type that the op computes in.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(value.into())
}
