//! `cumprod`: the running product along an axis.

use crate::op::Inferred;
use crate::ops::cumsum::{self, run};
use crate::ops::number::Number;
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// The type stays.
///
/// # Errors
/// As [`cumsum::infer`].
pub fn infer(axis: &usize, exclusive: &bool, reverse: &bool, operands: &[&TensorType]) -> Inferred {
    cumsum::infer(axis, exclusive, reverse, operands)
}

/// The products, each rounded once.
pub fn eval(axis: &usize, exclusive: &bool, reverse: &bool, operands: &[&Tensor], _results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let x = operands[0];
    let lane = (*axis, *exclusive, *reverse);
    Ok(vec![match x.dtype().is_float() {
        true => run(lane, x, f64::ONE, f64::times),
        false => run(lane, x, i128::ONE, i128::times),
    }])
}
