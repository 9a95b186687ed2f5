//! `bit_cast`: the same bits as another type of the same size.

use crate::op::Inferred;
use crate::tensor::Tensor;
use crate::ty::{DType, TensorType};

/// The shape stays.
///
/// # Errors
/// When elements of the two types take different numbers of bits, or one of them is a string and the other is not.
pub fn infer(to: &DType, operands: &[&TensorType]) -> Inferred {
    let x = operands[0];
    let bits = |dtype: DType| if dtype == DType::Bool { 8 } else { dtype.bits() };
    match bits(x.dtype) == bits(*to) && (x.dtype == DType::Str) == (*to == DType::Str) {
        true => Ok(vec![x.with_dtype(*to)]),
        false => Err(format!("expects types of the same size, found {x} as {to}")),
    }
}

/// The bytes, read anew.
///
/// # Errors
/// Never for operands that type-check.
pub fn eval(to: &DType, operands: &[&Tensor], _results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let x = operands[0];
    let read = Tensor::new(*to, x.shape().to_vec(), x.bytes().clone())?;
    // A truth value is any bit at all.
    Ok(vec![if *to == DType::Bool { Tensor::from_elements(*to, x.shape().to_vec(), read.elements()) } else { read }])
}
