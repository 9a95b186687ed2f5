//! LabelEncoder on numbers: another number in place of each.
//!
//! ```text
//! keys 4, 7   values 0, 1   default -1       [7, 4, 5] becomes [1, 0, -1]
//! ```

use super::{integers, vector};
use crate::error::Code;
use crate::site::{Outcome, Site, Stop, fault, malformed};
use egret_ir::{DType, Dim, Element, Op, Tensor, ValueId};

/// x: any shape -> the same shape; of equal keys the last counts, and NaN is a key like others.
pub(crate) fn label_encoder(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let keys = list(n, "keys")?;
    let values = list(n, "values")?;
    let count = n.dims(keys)[0].clone();
    if n.dims(values)[0] != count || count == Dim::ZERO || n.dtype(keys) != n.dtype(x) {
        let message = format!("`LabelEncoder` has keys {} and values {} for {}", n.ty(keys), n.ty(values), n.ty(x));
        return Err(malformed(Code::Attribute, message));
    }
    let default = default(n, n.dtype(values))?;
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
    Ok(vec![n.op(Op::select, &[found, value, default])?])
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
    let help = "text is not compiled; cut the model behind its text processing, and do that in the calling program";
    Err(fault(Code::ElementType, format!("`LabelEncoder` has no {of} that are numbers"), help))
}

/// What stands for an element that is no key: -1 or -0.0 unless it is given.
fn default(n: &mut Site, dtype: DType) -> Result<ValueId, Stop> {
    n.without_effect(&["default_string"]);
    let (int, float) = (n.int_or("default_int64", -1)?, n.float_or("default_float", -0.0)?);
    let element = match n.tensor("default_tensor")? {
        Some(tensor) if tensor.count() == 1 && tensor.dtype() == dtype => tensor.get(0),
        Some(tensor) => return Err(malformed(Code::Attribute, format!("`LabelEncoder` has {} as a default for {dtype}", tensor.ty()))),
        None if dtype.is_float() => Element::Float(float),
        None => Element::Int(int.into()),
    };
    Ok(n.build.constant(Tensor::scalar(dtype, element)))
}
