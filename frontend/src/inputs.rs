//! The types of a model's inputs, and the symbols that stand in them.
//!
//! ```text
//! dim_value: 784               784
//! dim_param: "batch"           the symbol `batch`; the same name is the same extent everywhere
//! dim_param: "2*s0"            an expression, if `s0` stands alone elsewhere
//! dim_param: "?", dim_value: -1, nothing     a symbol of its own, named after input and axis: `x.0`
//! ```
//!
//! Inputs that are no tensors are taken for so many tensors. How many has to be known, and is said like a free extent; the name of
//! that extent is the input's, with an ending that no extent of a tensor has:
//!
//! ```text
//! sequence xs, --dim xs.length=2             the tensors `xs.0` and `xs.1`
//! optional x, --dim x.given=1                the tensor `x`; nothing, and no input, for 0
//! ```

use crate::ImportOptions;
use crate::error::{Code, did_you_mean};
use crate::import::sequence::MOST_ELEMENTS;
use crate::limits::MAX_EXTENT;
use crate::model::dtype;
use crate::site::Fault;
use egret_ir::expr::Cursor;
use egret_ir::{Bindings, DType, Dim, TensorType};
use onnx_protobuf::tensor_shape_proto::Dimension;
use onnx_protobuf::tensor_shape_proto::dimension::Value::{self as Extent, DimParam, DimValue};
use onnx_protobuf::type_proto::Value::{MapType, OptionalType, SequenceType, SparseTensorType, TensorType as Tensor};
use onnx_protobuf::{GraphProto, TypeProto, ValueInfoProto};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// The inputs of a graph that are no initializers.
pub(crate) struct Ports<'m> {
    /// What each is, in their order.
    pub(crate) forms: Vec<(&'m str, Form)>,
    /// The tensors of all of them.
    pub(crate) tensors: Vec<Declared<'m>>,
    /// The inputs that can be none, each with the reason.
    pub(crate) faults: Vec<(&'m str, Fault)>,
}

/// What an input is.
#[derive(Clone, Copy)]
pub(crate) enum Form {
    Tensor,
    /// A sequence of so many tensors.
    List(usize),
    /// An optional that is not given.
    Nothing,
}

/// A tensor as the model declares it.
pub(crate) struct Declared<'m> {
    pub(crate) name: Cow<'m, str>,
    dtype: DType,
    /// None when the model does not say its rank.
    dims: Option<Vec<Dim>>,
}

/// The inputs that are no initializers.
pub(crate) fn fed(graph: &GraphProto) -> impl Iterator<Item = &ValueInfoProto> {
    let constants: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    graph.input.iter().filter(move |i| !constants.contains(i.name.as_str()))
}

/// The inputs that are no initializers, for lengths of sequences and shapes of their elements that are given. An element's shape stands in
/// for the one that is declared: exporters declare that of the first for all.
pub(crate) fn ports<'m>(graph: &'m GraphProto, options: &ImportOptions) -> Ports<'m> {
    let inputs: Vec<&ValueInfoProto> = fed(graph).collect();
    let plain = plain_symbols(&inputs);
    let mut taken = plain.clone();
    let mut ports = Ports { forms: vec![], tensors: vec![], faults: vec![] };
    for input in inputs {
        let name = input.name.as_str();
        let read = form(&input.type_, name, &options.dims).and_then(|(form, ty)| match form {
            Form::Nothing => Ok((form, None)),
            Form::Tensor | Form::List(_) => Ok((form, Some(element(ty, name)?))),
        });
        let (form, declared) = match read {
            Err(fault) => {
                ports.faults.push((name, fault));
                continue;
            }
            Ok(read) => read,
        };
        ports.forms.push((name, form));
        let names: Vec<Cow<str>> = match form {
            Form::Nothing => vec![],
            Form::Tensor => vec![name.into()],
            Form::List(length) => elements(name).take(length).map(Cow::from).collect(),
        };
        let Some((dtype, dims)) = declared else { continue };
        ports.tensors.extend(names.into_iter().map(|name| {
            let mut dim = |(axis, d): (usize, &Dimension)| extent(d, &format!("{name}.{axis}"), &plain, &mut taken);
            let replaced = matches!(form, Form::List(_)) && options.shapes.contains_key(&*name);
            let dims = dims.filter(|_| !replaced).map(|d| d.iter().enumerate().map(&mut dim).collect());
            Declared { name, dtype, dims }
        }));
    }
    ports
}

/// The names of the tensors that stand for a sequence: `xs.0`, `xs.1`, ...
pub(crate) fn elements(name: &str) -> impl Iterator<Item = String> {
    (0..).map(move |i| format!("{name}.{i}"))
}

/// Whether a value may be left out.
pub(crate) fn is_optional(ty: &TypeProto) -> bool {
    matches!(ty.value, Some(OptionalType(_)))
}

/// The extents that say how many tensors an input is, with what they say.
pub(crate) fn lengths(ty: &TypeProto, name: &str) -> Vec<(String, String)> {
    match &ty.value {
        Some(OptionalType(optional)) => {
            let inner = lengths(&optional.elem_type, name);
            [(format!("{name}.given"), format!("1 if `{name}` is given, else 0"))].into_iter().chain(inner).collect()
        }
        Some(SequenceType(_)) => vec![(format!("{name}.length"), format!("the length of `{name}`"))],
        _ => vec![],
    }
}

/// What an input is, and the type of its tensors.
fn form<'m>(ty: &'m TypeProto, name: &str, given: &Bindings) -> Result<(Form, &'m TypeProto), Fault> {
    let asked = |what: &str, ending: &str, most: i64| match given.get(format!("{name}.{ending}").as_str()) {
        Some(&count) if (0..=most).contains(&count) => Ok(count),
        found => {
            let found = found.map_or(String::new(), |count| format!(", found {count}"));
            let message = format!("the input `{name}` is {what} must be known when the model is compiled{found}");
            Err(wrong(
                Code::ValueKind,
                message,
                &format!("say it as a number from 0 to {most}, like a free extent: --dim {name}.{ending}=..."),
            ))
        }
    };
    match &ty.value {
        Some(OptionalType(optional)) => match asked("optional; whether it is given (1) or not (0)", "given", 1)? {
            0 => Ok((Form::Nothing, ty)),
            _ => form(&optional.elem_type, name, given),
        },
        Some(SequenceType(sequence)) => {
            let length = asked("a sequence, whose length", "length", MOST_ELEMENTS)?;
            Ok((Form::List(length as usize), &sequence.elem_type))
        }
        _ => Ok((Form::Tensor, ty)),
    }
}

/// The element type and the extents of a tensor, if the IR has them.
fn element<'m>(ty: &'m TypeProto, name: &str) -> Result<(DType, Option<&'m [Dimension]>), Fault> {
    let (element, dims) = tensor_type(ty, name)?;
    let help = "convert the input in the model before the export";
    let dtype = dtype(element).map_err(|message| wrong(Code::ElementType, format!("input `{name}`: {message}"), help))?;
    let too_large = |v: &&Extent| matches!(v, DimValue(d) if *d > MAX_EXTENT);
    if let Some(DimValue(large)) = dims.into_iter().flatten().filter_map(|d| d.value.as_ref()).find(too_large) {
        let message = format!("input `{name}` has an extent of {large}, expected at most {MAX_EXTENT}");
        return Err(wrong(Code::Shape, message, help));
    }
    Ok((dtype, dims))
}

impl Declared<'_> {
    /// Its type, with the numbers of some symbols.
    pub(crate) fn ty(&self, options: &ImportOptions, bindings: &Bindings) -> Result<TensorType, Fault> {
        match (&self.dims, options.shapes.get(&*self.name)) {
            (Some(dims), _) => Ok(TensorType::new(self.dtype, dims.clone()).bind(bindings)),
            (None, Some(given)) => Ok(TensorType::new(self.dtype, given.iter().copied())),
            (None, None) => Err(wrong(
                Code::Shape,
                format!("input `{}` has no shape, expected at least its rank", self.name),
                "export the model with the shapes of its inputs; extents may be free",
            )),
        }
    }
}

/// Whether data can stand for an input of this type.
pub(crate) fn fits(ty: &egret_ir::TensorType, data: &egret_ir::Tensor) -> bool {
    let agree = |(dim, &extent): (&Dim, &usize)| dim.as_const().is_none_or(|d| d == extent as i64);
    data.dtype() == ty.dtype && data.shape().len() == ty.rank() && ty.dims.iter().zip(data.shape()).all(agree)
}

/// The type of a value whose extents are all numbers.
pub(crate) fn plain_type(value: &ValueInfoProto) -> Option<egret_ir::TensorType> {
    let (element, dims) = tensor_type(&value.type_, &value.name).ok()?;
    let extent = |d: &Dimension| if let Some(DimValue(extent)) = d.value { Some(Dim::from(extent)) } else { None };
    Some(egret_ir::TensorType { dtype: dtype(element).ok()?, dims: dims?.iter().map(extent).collect::<Option<_>>()? })
}

/// The numbers of symbols: those given for symbols, and those that follow from the shapes given for inputs.
pub(crate) fn bindings(graph: &GraphProto, inputs: &[Declared], options: &ImportOptions) -> Result<Bindings, String> {
    let mut symbols: BTreeMap<Arc<str>, String> = BTreeMap::new();
    for input in inputs {
        for (axis, dim) in input.dims.iter().flatten().enumerate() {
            for symbol in dim.symbols() {
                symbols.entry(symbol).or_insert_with(|| format!("axis {axis} of `{}`", input.name));
            }
        }
    }
    let lengths: BTreeMap<Arc<str>, String> =
        fed(graph).flat_map(|input| lengths(&input.type_, &input.name)).map(|(name, what)| (name.into(), what)).collect();
    check_bindings(&options.dims, &symbols, &lengths)?;
    let mut bindings = options.dims.clone();
    bindings.retain(|name, _| !lengths.contains_key(name));
    for (name, shape) in &options.shapes {
        let input = inputs.iter().find(|i| *i.name == **name).ok_or_else(|| {
            let near = did_you_mean(name, inputs.iter().map(|i| &*i.name)).map(|s| format!("; did you mean `{s}`?")).unwrap_or_default();
            format!("the model has no input `{name}`{near}")
        })?;
        settle(input, shape, &mut bindings)?;
    }
    // Expressions can only be compared when all their symbols have numbers.
    for (name, shape) in &options.shapes {
        let dims = inputs.iter().find(|i| *i.name == **name).and_then(|i| i.dims.as_ref());
        for (axis, (dim, &given)) in dims.into_iter().flatten().zip(shape).enumerate() {
            if let Some(found) = dim.bind(&bindings).as_const().filter(|d| *d != given as i64) {
                return Err(format!("axis {axis} of `{name}` has extent {found} in the model, found {given}"));
            }
        }
    }
    Ok(bindings)
}

/// Takes the numbers of a given shape for the symbols that stand alone in the declared one.
fn settle(input: &Declared, shape: &[usize], bindings: &mut Bindings) -> Result<(), String> {
    let Some(dims) = &input.dims else { return Ok(()) };
    if dims.len() != shape.len() {
        return Err(format!("`{}` has rank {} in the model, found the shape {shape:?}", input.name, dims.len()));
    }
    for (dim, &given) in dims.iter().zip(shape) {
        if let Some(symbol) = dim.as_symbol() {
            bindings.entry(symbol.clone()).or_insert(given as i64);
        }
    }
    Ok(())
}

/// The element type and the extents that a type declares.
fn tensor_type<'m>(ty: &'m TypeProto, name: &str) -> Result<(i32, Option<&'m [Dimension]>), Fault> {
    let found = match &ty.value {
        Some(Tensor(tensor)) => return Ok((tensor.elem_type, tensor.shape.as_ref().map(|s| s.dim.as_slice()))),
        Some(SequenceType(_)) => "a sequence",
        Some(MapType(_)) => "a map",
        Some(OptionalType(_)) => "optional",
        Some(SparseTensorType(_)) => "a sparse tensor",
        Some(_) | None => "of an unknown type",
    };
    Err(wrong(Code::ValueKind, format!("`{name}` is {found}, expected a dense tensor"), "export the model with tensors only"))
}

fn wrong(code: Code, message: String, help: &str) -> Fault {
    Fault { code, message, attribute: None, data: Box::default(), help: help.to_string() }
}

/// The names that stand alone as an extent of an input.
fn plain_symbols(inputs: &[&ValueInfoProto]) -> BTreeSet<String> {
    let dims = inputs.iter().filter_map(|i| tensor_type(innermost(&i.type_), &i.name).ok()?.1).flatten();
    dims.filter_map(|d| match &d.value {
        Some(DimParam(name)) if is_symbol(name) => Some(name.clone()),
        _ => None,
    })
    .collect()
}

/// The type of the tensors that an input is made of.
fn innermost(ty: &TypeProto) -> &TypeProto {
    match &ty.value {
        Some(OptionalType(optional)) => innermost(&optional.elem_type),
        Some(SequenceType(sequence)) => innermost(&sequence.elem_type),
        _ => ty,
    }
}

fn is_symbol(name: &str) -> bool {
    let mut cursor = Cursor::new(name);
    cursor.name().is_ok_and(|n| n == name) && cursor.end().is_ok() && !name.starts_with('"')
}

fn extent(dim: &Dimension, own: &str, plain: &BTreeSet<String>, taken: &mut BTreeSet<String>) -> Dim {
    match &dim.value {
        Some(DimValue(value)) if *value >= 0 => return Dim::from(*value),
        Some(DimParam(name)) => {
            if let Some(dim) = named(name, plain) {
                taken.extend(dim.symbols().iter().map(|s| s.to_string()));
                return dim;
            }
        }
        Some(DimValue(_)) | Some(_) | None => {}
    }
    let own = symbol_name(own);
    let numbered = (1..).map(|i| format!("{own}.{i}"));
    let name = [own.clone()].into_iter().chain(numbered).find(|n| !taken.contains(n)).expect("endless");
    taken.insert(name.clone());
    Dim::symbol(name)
}

/// A name, or an expression over names that stand alone elsewhere. Text that is neither, but has a letter, is a name too:
/// its other characters are replaced.
fn named(text: &str, plain: &BTreeSet<String>) -> Option<Dim> {
    if is_symbol(text) {
        return Some(Dim::symbol(text));
    }
    let mut cursor = Cursor::new(text);
    if let Ok(dim) = cursor.dim()
        && cursor.end().is_ok()
        && dim.as_const().is_none_or(|d| d >= 0)
        && dim.symbols().iter().all(|s| plain.contains(&**s))
    {
        return Some(dim);
    }
    text.chars().any(char::is_alphabetic).then(|| Dim::symbol(symbol_name(text)))
}

/// The text as a name that needs no quotes.
fn symbol_name(text: &str) -> String {
    if is_symbol(text) {
        return text.to_string();
    }
    let name: String = text.chars().map(|c| if c.is_alphanumeric() || c == '.' { c } else { '_' }).collect();
    if name.starts_with(char::is_alphabetic) { name } else { format!("_{name}") }
}

/// Checks the numbers given for symbols against the symbols that there are; those of lengths have been.
fn check_bindings(bindings: &Bindings, symbols: &BTreeMap<Arc<str>, String>, lengths: &BTreeMap<Arc<str>, String>) -> Result<(), String> {
    for (name, value) in bindings.iter().filter(|(name, _)| !lengths.contains_key(*name)) {
        if !symbols.contains_key(name) {
            let near = did_you_mean(name, symbols.keys().chain(lengths.keys()).map(|s| &**s))
                .map(|s| format!("; did you mean `{s}`?"))
                .unwrap_or_default();
            let list: Vec<String> = symbols.iter().chain(lengths).map(|(s, place)| format!("{s} ({place})")).collect();
            let list = if list.is_empty() { "all its extents are numbers".to_string() } else { format!("it has: {}", list.join(", ")) };
            return Err(format!("--dim {name}={value}: the model has no free extent `{name}`{near}\n  {list}"));
        }
        if *value < 1 {
            return Err(format!("--dim {name}={value}: an extent must be at least 1"));
        }
    }
    Ok(())
}

/// Why a declared type contradicts the one that was found, if it does. Names of extents are not compared: exporters give
/// the same extent several.
pub(crate) fn contradiction(declared: &TypeProto, name: &str, found: &TensorType) -> Option<String> {
    let (element, dims) = tensor_type(declared, name).ok()?;
    if let Ok(declared) = dtype(element)
        && declared != found.dtype
    {
        return Some(format!("output `{name}` is declared as {declared}, but is {found}"));
    }
    let dims = dims?;
    let differs = |(declared, found): (&Dimension, &Dim)| match (&declared.value, found.as_const()) {
        (Some(DimValue(declared)), Some(found)) => *declared >= 0 && *declared != found,
        _ => false,
    };
    if dims.len() == found.rank() && !dims.iter().zip(&found.dims).any(differs) {
        return None;
    }
    let words = |d: &Dimension| match &d.value {
        Some(DimValue(v)) => v.to_string(),
        Some(DimParam(p)) => p.clone(),
        _ => "?".to_string(),
    };
    let declared: Vec<String> = dims.iter().map(words).collect();
    Some(format!("output `{name}` is declared with the shape [{}], but is {found}", declared.join(", ")))
}
