//! `lrn`: local response normalization.

use crate::attr::Real;
use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::Number;
use crate::ops::strided::around;
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// The type stays.
///
/// # Errors
/// When there is no such axis, the elements are no floats, or `size` is 0.
pub fn infer(size: &usize, _alpha: &Real, _beta: &Real, _bias: &Real, axis: &usize, operands: &[&TensorType]) -> Inferred {
    check::float("x", operands[0])?;
    check::axis(*axis, operands[0])?;
    if *size == 0 {
        return Err("expects `size` of at least 1, found 0".to_string());
    }
    Ok(vec![operands[0].clone()])
}

/// `x / (bias + alpha/size * sum of squares)^beta` over `size` neighbours, of which `(size - 1)/2` come before.
pub fn eval(
    size: &usize,
    alpha: &Real,
    beta: &Real,
    bias: &Real,
    axis: &usize,
    operands: &[&Tensor],
    _results: &[TensorType],
) -> Result<Vec<Tensor>, String> {
    let x = operands[0];
    let values = f64::read(x);
    let (_, extent, inner) = around(x.shape(), *axis);
    let (before, after) = ((size - 1) / 2, size / 2);
    let normalized = |(i, &v): (usize, &f64)| {
        let k = i / inner % extent;
        let window = k.saturating_sub(before)..extent.min(k.saturating_add(after).saturating_add(1));
        let squares: f64 = window.map(|other| values[i + other * inner - k * inner].powi(2)).sum();
        v / (bias.0 + alpha.0 / *size as f64 * squares).powf(beta.0)
    };
    Ok(vec![f64::write(x.dtype(), x.shape(), values.iter().enumerate().map(normalized).collect())])
}
