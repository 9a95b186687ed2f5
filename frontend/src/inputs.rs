//! The types of a model's inputs, and the symbols that stand in them.
//!
//! ```text
//! dim_value: 784               784
//! dim_param: "batch"           the symbol `batch`; the same name is the same extent everywhere
//! dim_param: "2*s0"            an expression, if `s0` stands alone elsewhere
//! dim_param: "?", dim_value: -1, nothing     a symbol of its own, named after input and axis: `x.0`
//! ```

use crate::ImportOptions;
use crate::error::{Code, did_you_mean};
use crate::limits::MAX_EXTENT;
use crate::model::dtype;
use crate::site::Fault;
use egret_ir::expr::Cursor;
use egret_ir::{Bindings, DType, Dim, TensorType};
use onnx_protobuf::tensor_shape_proto::Dimension;
use onnx_protobuf::tensor_shape_proto::dimension::Value::{DimParam, DimValue};
use onnx_protobuf::type_proto::Value::{MapType, OptionalType, SequenceType, SparseTensorType, TensorType as Tensor};
use onnx_protobuf::{GraphProto, TypeProto, ValueInfoProto};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// An input as the model declares it.
pub(crate) struct Declared<'m> {
    pub(crate) name: &'m str,
    dtype: DType,
    /// None when the model does not say its rank.
    dims: Option<Vec<Dim>>,
}

/// The inputs that are no initializers.
pub(crate) fn fed(graph: &GraphProto) -> impl Iterator<Item = &ValueInfoProto> {
    let constants: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    graph.input.iter().filter(move |i| !constants.contains(i.name.as_str()))
}

/// The inputs that are no initializers; a fault for each that is no tensor the IR has, with the input's name.
pub(crate) fn declared(graph: &GraphProto) -> (Vec<Declared<'_>>, Vec<(&str, Fault)>) {
    let inputs: Vec<&ValueInfoProto> = fed(graph).collect();
    let plain = plain_symbols(&inputs);
    let mut taken = plain.clone();
    let (mut found, mut faults) = (vec![], vec![]);
    for input in inputs {
        let read = tensor_type(&input.type_, &input.name).and_then(|(element, dims)| {
            let help = "convert the input in the model before the export";
            let dtype = dtype(element).map_err(|message| wrong(Code::ElementType, format!("input `{}`: {message}", input.name), help))?;
            if let Some(DimValue(large)) =
                dims.into_iter().flatten().filter_map(|d| d.value.as_ref()).find(|v| matches!(v, DimValue(d) if *d > MAX_EXTENT))
            {
                return Err(wrong(
                    Code::Shape,
                    format!("input `{}` has an extent of {large}, expected at most {MAX_EXTENT}", input.name),
                    help,
                ));
            }
            Ok((dtype, dims))
        });
        match read {
            Err(fault) => faults.push((input.name.as_str(), fault)),
            Ok((dtype, dims)) => {
                let mut dim = |(axis, d): (usize, &Dimension)| extent(d, &format!("{}.{axis}", input.name), &plain, &mut taken);
                found.push(Declared { name: &input.name, dtype, dims: dims.map(|d| d.iter().enumerate().map(&mut dim).collect()) });
            }
        }
    }
    (found, faults)
}

impl Declared<'_> {
    /// Its type, with the numbers of some symbols.
    pub(crate) fn ty(&self, options: &ImportOptions, bindings: &Bindings) -> Result<TensorType, Fault> {
        match (&self.dims, options.shapes.get(self.name)) {
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
pub(crate) fn bindings(inputs: &[Declared], options: &ImportOptions) -> Result<Bindings, String> {
    let mut symbols: BTreeMap<Arc<str>, String> = BTreeMap::new();
    for input in inputs {
        for (axis, dim) in input.dims.iter().flatten().enumerate() {
            for symbol in dim.symbols() {
                symbols.entry(symbol).or_insert_with(|| format!("axis {axis} of `{}`", input.name));
            }
        }
    }
    check_bindings(&options.dims, &symbols)?;
    let mut bindings = options.dims.clone();
    for (name, shape) in &options.shapes {
        let input = inputs.iter().find(|i| *i.name == **name).ok_or_else(|| {
            let near = did_you_mean(name, inputs.iter().map(|i| i.name)).map(|s| format!("; did you mean `{s}`?")).unwrap_or_default();
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
    let dims = inputs.iter().filter_map(|i| tensor_type(&i.type_, &i.name).ok()?.1).flatten();
    dims.filter_map(|d| match &d.value {
        Some(DimParam(name)) if is_symbol(name) => Some(name.clone()),
        _ => None,
    })
    .collect()
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

/// Checks the numbers given for symbols against the symbols that there are.
fn check_bindings(bindings: &Bindings, symbols: &BTreeMap<Arc<str>, String>) -> Result<(), String> {
    for (name, value) in bindings {
        if !symbols.contains_key(name) {
            let near = did_you_mean(name, symbols.keys().map(|s| &**s)).map(|s| format!("; did you mean `{s}`?")).unwrap_or_default();
            let list: Vec<String> = symbols.iter().map(|(s, place)| format!("{s} ({place})")).collect();
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
