//! `arg_min`: the position of the smallest element along an axis.

use crate::op::Inferred;
use crate::ops::arg;
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// The axis becomes 1 and the elements i64.
///
/// # Errors
/// When there is no such axis, or it is empty.
pub fn infer(axis: &usize, _last: &bool, operands: &[&TensorType]) -> Inferred {
    arg::infer(*axis, operands[0])
}

/// The position of the smallest; NaN counts as the smallest.
pub fn eval(axis: &usize, last: &bool, operands: &[&Tensor], results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    Ok(vec![arg::eval(*axis, *last, false, operands[0], &results[0])])
}
