//! `dims`: the values of symbolic extents as a tensor.

use crate::dim::Dim;
use crate::op::Inferred;
use crate::tensor::{Element, Tensor};
use crate::ty::{DType, TensorType};

/// `i64[k]` for `k` values.
pub fn infer(values: &[Dim], _operands: &[&TensorType]) -> Inferred {
    Ok(vec![TensorType::new(DType::I64, [values.len()])])
}

/// The values, once every symbol is bound.
///
/// # Errors
/// When one still has a symbol.
pub fn eval(values: &[Dim], _operands: &[&Tensor], _results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let number =
        |d: &Dim| d.as_const().map(|n| Element::Int(n.into())).ok_or_else(|| format!("expects every symbol to be bound, found {d}"));
    let elements = values.iter().map(number).collect::<Result<Vec<_>, _>>()?;
    Ok(vec![Tensor::from_elements(DType::I64, vec![values.len()], elements)])
}
