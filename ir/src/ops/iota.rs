//! `iota`: the index along an axis.

use crate::dim::Dim;
use crate::op::Inferred;
use crate::ops::check;
use crate::ops::strided::around;
use crate::tensor::{Element, Tensor};
use crate::ty::{DType, TensorType};

/// `shape` of `dtype`.
///
/// # Errors
/// When there is no such axis, or `dtype` has no numbers.
pub fn infer(shape: &[Dim], axis: &usize, dtype: &DType, _operands: &[&TensorType]) -> Inferred {
    check::extents("shape", shape)?;
    let result = TensorType::new(*dtype, shape.iter().cloned());
    check::number("the result", &result)?;
    check::axis(*axis, &result)?;
    Ok(vec![result])
}

/// The indices.
pub fn eval(_shape: &[Dim], axis: &usize, dtype: &DType, _operands: &[&Tensor], results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let shape = check::allocatable(&results[0])?;
    let (outer, extent, inner) = around(&shape, *axis);
    let elements = (0..outer * extent * inner).map(|i| Element::Int((i / inner % extent) as i128));
    Ok(vec![Tensor::from_elements(*dtype, shape, elements)])
}
