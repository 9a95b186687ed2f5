//! `extents`: numbers of data become extents.

use crate::dim::Dim;
use crate::op::Inferred;
use crate::ops::check;
use crate::tensor::Tensor;
use crate::ty::{DType, TensorType};

/// `x: i64[k] -> bool[values..., 0]`, for `k` values.
///
/// # Errors
/// When the operand is no list of as many numbers.
pub fn infer(values: &[Dim], operands: &[&TensorType]) -> Inferred {
    check::extents("values", values)?;
    let x = operands[0];
    if x.dtype != DType::I64 || x.dims != [Dim::from(values.len())] {
        return Err(format!("expects i64[{}], found {x}", values.len()));
    }
    Ok(vec![TensorType::new(DType::Bool, values.iter().cloned().chain([Dim::ZERO]))])
}

/// A tensor without elements.
///
/// # Errors
/// When a number is negative or larger than [`check::LARGEST`].
pub fn eval(values: &[Dim], operands: &[&Tensor], _results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let mut shape = vec![];
    for (name, number) in values.iter().zip(operands[0].elements()) {
        let number = number.as_int();
        if !(0..=i128::from(check::LARGEST)).contains(&number) {
            return Err(format!("expects the extent `{name}` between 0 and {}, found {number}", check::LARGEST));
        }
        shape.push(number as usize);
    }
    shape.push(0);
    Ok(vec![Tensor::from_elements(DType::Bool, shape, [])])
}
