//! `gather`: picks slices along an axis.

use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::sized;
use crate::ops::strided::around;
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// x: [a..., n, b...], indices: [i...] -> [a..., i..., b...].
///
/// # Errors
/// When there is no such axis, or the indices are no integers.
pub fn infer(axis: &usize, operands: &[&TensorType]) -> Inferred {
    let [x, indices] = [operands[0], operands[1]];
    check::axis(*axis, x)?;
    check::integer("indices", indices)?;
    Ok(vec![x.with_dims([&x.dims[..*axis], &indices.dims, &x.dims[axis + 1..]].concat())])
}

/// The slices.
///
/// # Errors
/// When an index is out of range.
pub fn eval(axis: &usize, operands: &[&Tensor], results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let [x, indices] = [operands[0], operands[1]];
    let shape = check::allocatable(&results[0])?;
    let (outer, extent, inner) = around(x.shape(), *axis);
    let bytes = inner * x.dtype().size();
    let indices = indices.elements().map(|i| check::position(i, extent)).collect::<Result<Vec<_>, _>>()?;
    let mut data = vec![];
    for o in 0..outer {
        indices.iter().for_each(|i| data.extend_from_slice(&x.bytes()[(o * extent + i) * bytes..][..bytes]));
    }
    Ok(vec![sized(x.dtype(), &shape, data)])
}
