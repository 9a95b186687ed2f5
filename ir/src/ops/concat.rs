//! `concat`: joins tensors along an axis.

use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::sized;
use crate::ops::strided::around;
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// The extents along `axis` add up; the others agree.
///
/// # Errors
/// When there is no operand, or they differ in more than the extent of `axis`.
pub fn infer(axis: &usize, operands: &[&TensorType]) -> Inferred {
    let (first, rest) = operands.split_first().ok_or("expects at least one operand, found none")?;
    check::axis(*axis, first)?;
    let mut result = (*first).clone();
    for x in rest {
        check::same_dtype("xs", x, first)?;
        check::rank("xs", x, first.rank())?;
        for (i, d) in x.dims.iter().enumerate() {
            result.dims[i] = match i == *axis {
                true => result.dims[i].clone() + d.clone(),
                false => check::agree(&format!("the extents of axis {i}"), &result.dims[i], d)?,
            };
        }
    }
    Ok(vec![result])
}

/// The operands one after the other.
pub fn eval(axis: &usize, operands: &[&Tensor], results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let shape = check::allocatable(&results[0])?;
    let dtype = results[0].dtype;
    let (outer, ..) = around(&shape, *axis);
    let mut data = vec![];
    for o in 0..outer {
        for x in operands {
            let bytes = x.bytes().len() / outer;
            data.extend_from_slice(&x.bytes()[o * bytes..][..bytes]);
        }
    }
    Ok(vec![sized(dtype, &shape, data)])
}
