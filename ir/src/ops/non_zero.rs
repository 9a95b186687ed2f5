//! `non_zero`: the places of what holds.

use crate::dim::Dim;
use crate::op::Inferred;
use crate::ops::check;
use crate::tensor::{Element, Tensor};
use crate::ty::{DType, TensorType};

/// `x: bool[a...] -> i64[rank, count]`.
///
/// # Errors
/// When the operand holds no truth values.
pub fn infer(count: &Dim, operands: &[&TensorType]) -> Inferred {
    check::extents("count", std::slice::from_ref(count))?;
    match operands[0] {
        x if x.dtype == DType::Bool => Ok(vec![TensorType::new(DType::I64, [Dim::from(x.rank()), count.clone()])]),
        x => Err(format!("expects truth values, found {x}")),
    }
}

/// The indices, one column per place.
pub fn eval(_count: &Dim, operands: &[&Tensor], _results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let x = operands[0];
    let places: Vec<usize> = (0..x.count()).filter(|&i| x.get(i).as_bool()).collect();
    let strides = crate::ops::strided::strides(x.shape());
    let index = |axis: usize, place: &usize| Element::Int((place / strides[axis] as usize % x.shape()[axis]) as i128);
    let elements = (0..x.shape().len()).flat_map(|axis| places.iter().map(move |place| index(axis, place)));
    Ok(vec![Tensor::from_elements(DType::I64, vec![x.shape().len(), places.len()], elements)])
}
