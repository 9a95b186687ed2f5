//! LabelEncoder and CategoryMapper: another number or string in place of each.
//!
//! ```text
//! keys 4, 7   values 0, 1   default -1       [7, 4, 5] becomes [1, 0, -1]
//! ```

use super::{integers, needed, vector};
use crate::error::Code;
use crate::site::{Outcome, Site, Stop, fault, malformed};
use egret_ir::{DType, Dim, Element, Op, Tensor, ValueId};

/// What stands for a string that is no key, where the model does not say.
const UNUSED: &str = "_Unused";

/// x: any shape -> the same shape; of equal keys the last counts, and NaN is a key like others.
pub(crate) fn label_encoder(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    if let Some(classes) = n.strings("classes_strings")? {
        let numbers = places(classes.count());
        return category(n, x, numbers, classes);
    }
    let keys = list(n, "keys")?;
    let values = list(n, "values")?;
    let default = default(n, n.dtype(values))?;
    Ok(vec![encoded(n, x, keys, values, default)?])
}

/// Strings become the numbers that stand beside them, numbers the strings.
pub(crate) fn category_mapper(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let (numbers, strings) = (n.ints("cats_int64s")?, n.strings("cats_strings")?.map(|t| vec![t]));
    let numbers = needed(n, "cats_int64s", numbers)?;
    let strings = needed(n, "cats_strings", strings)?;
    match strings.into_iter().next() {
        Some(strings) => category(n, x, numbers, strings),
        None => Err(malformed(Code::Attribute, "`CategoryMapper` has no strings")),
    }
}

/// The numbers of as many classes.
fn places(count: usize) -> Vec<i64> {
    (0..count as i64).collect()
}

fn category(n: &mut Site, x: ValueId, numbers: Vec<i64>, strings: Tensor) -> Outcome {
    let (numbers, strings) = (integers(n, &numbers), n.build.constant(strings));
    let (keys, values) = if n.dtype(x) == DType::Str { (strings, numbers) } else { (numbers, strings) };
    let default = default(n, n.dtype(values))?;
    Ok(vec![encoded(n, x, keys, values, default)?])
}

/// The value of the last key that each element of `x` equals, else the default.
fn encoded(n: &mut Site, x: ValueId, keys: ValueId, values: ValueId, default: ValueId) -> Result<ValueId, Stop> {
    let count = n.dims(keys)[0].clone();
    if n.dims(values)[0] != count || count == Dim::ZERO || n.dtype(keys) != n.dtype(x) {
        let message = format!("`{}` has keys {} and values {} for {}", n.operator, n.ty(keys), n.ty(values), n.ty(x));
        return Err(malformed(Code::Attribute, message));
    }
    let (dims, axis) = (n.dims(x), n.rank(x));
    let apart = n.reshape(x, [dims.clone(), vec![Dim::ONE]].concat())?;
    let mut is_key = n.op(Op::eq, &[apart, keys])?;
    if n.dtype(x).is_float() {
        let (a, b) = (n.op(Op::is_nan, &[apart])?, n.op(Op::is_nan, &[keys])?);
        let both = n.op(Op::and, &[a, b])?;
        is_key = n.op(Op::or, &[is_key, both])?;
    }
    let hits = n.cast(is_key, DType::I32)?;
    let at = n.op(Op::arg_max { axis, last: true }, &[hits])?;
    let at = n.reshape(at, dims.clone())?;
    let value = n.op(Op::gather { axis: 0 }, &[values, at])?;
    let most = n.op(Op::reduce_max { axes: vec![axis] }, &[hits])?;
    let most = n.reshape(most, dims)?;
    let found = n.cast(most, DType::Bool)?;
    n.op(Op::select, &[found, value, default])
}

/// The keys or values as a vector, of the type whose attribute is given.
fn list(n: &mut Site, of: &str) -> Result<ValueId, Stop> {
    if let Some(tensor) = n.tensor(&format!("{of}_tensor"))? {
        let count = tensor.count();
        let value = n.build.constant(tensor);
        return n.reshape(value, [Dim::from(count)]);
    }
    if let Some(values) = n.ints(&format!("{of}_int64s"))? {
        return Ok(integers(n, &values));
    }
    if let Some(values) = n.floats(&format!("{of}_floats"))? {
        return Ok(vector(n, &values, DType::F32));
    }
    match n.strings(&format!("{of}_strings"))? {
        Some(values) => Ok(n.build.constant(values)),
        None => Err(fault(Code::Attribute, format!("`{}` has no {of}", n.operator), "export the model again")),
    }
}

/// What stands for an element that is no key: -1, -0.0 or `_Unused` unless it is given.
fn default(n: &mut Site, dtype: DType) -> Result<ValueId, Stop> {
    let (int, float) = (n.int_or("default_int64", -1)?, n.float_or("default_float", -0.0)?);
    let string = n.string("default_string")?;
    let default = match n.tensor("default_tensor")? {
        Some(tensor) if tensor.count() == 1 && tensor.dtype() == dtype => Tensor::scalar(dtype, tensor.get(0)),
        Some(tensor) => return Err(malformed(Code::Attribute, format!("`{}` has {} as a default for {dtype}", n.operator, tensor.ty()))),
        None if dtype == DType::Str => match string {
            Some(given) => given,
            None => n.own_string(UNUSED)?,
        },
        None if dtype.is_float() => Tensor::scalar(dtype, Element::Float(float)),
        None => Tensor::scalar(dtype, Element::Int(int.into())),
    };
    Ok(n.build.constant(default))
}
