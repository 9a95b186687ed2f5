//! `scatter_nd`: writes slices at index tuples.

use crate::attr::ScatterMode;
use crate::op::Inferred;
use crate::ops::check;
use crate::ops::gather_nd::tuples;
use crate::ops::scatter_elements::scatter;
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// The type of `x`: [n..., s...], with indices: [i..., |n...|] and updates: [i..., s...].
///
/// # Errors
/// When the operands do not fit each other.
pub fn infer(mode: &ScatterMode, operands: &[&TensorType]) -> Inferred {
    let [x, indices, updates] = [operands[0], operands[1], operands[2]];
    check::integer("indices", indices)?;
    check::same_dtype("updates", updates, x)?;
    if *mode != ScatterMode::Replace {
        check::number("x", x)?;
    }
    let tuple = check::tuple(indices)?;
    if tuple > x.rank() {
        return Err(format!("expects at most {} indices per slice, found indices {indices} into {x}", x.rank()));
    }
    let expected = x.with_dims([&indices.dims[..indices.rank() - 1], &x.dims[tuple..]].concat());
    check::rank("updates", updates, expected.rank())?;
    for (a, b) in expected.dims.iter().zip(&updates.dims) {
        check::agree(&format!("the extents of `updates` and {expected}"), a, b)?;
    }
    Ok(vec![x.clone()])
}

/// The updates in row-major order; where several meet, all of them count, in that order.
///
/// # Errors
/// When an index is out of range.
pub fn eval(mode: &ScatterMode, operands: &[&Tensor], _results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let [x, indices, updates] = [operands[0], operands[1], operands[2]];
    let targets = tuples(indices, x.shape())?;
    let tuple = *indices.shape().last().unwrap_or(&0);
    Ok(vec![scatter(x, &targets, x.shape()[tuple..].iter().product(), updates, *mode)])
}
