//! `gather_elements`: picks one element per index along an axis.

use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::sized;
use crate::ops::strided::{Rows, strides};
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// The extents of the indices, which do not exceed those of `x` on the other axes.
///
/// # Errors
/// When the ranks differ, there is no such axis, or the indices are no integers.
pub fn infer(axis: &usize, operands: &[&TensorType]) -> Inferred {
    let [x, indices] = [operands[0], operands[1]];
    check::axis(*axis, x)?;
    check::integer("indices", indices)?;
    check::within(*axis, "indices", indices, x)?;
    Ok(vec![x.with_dims(indices.dims.clone())])
}

/// The elements.
///
/// # Errors
/// When an index is out of range.
pub fn eval(axis: &usize, operands: &[&Tensor], results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let [x, indices] = [operands[0], operands[1]];
    let shape = check::allocatable(&results[0])?;
    let size = x.dtype().size();
    let mut data = vec![];
    for at in lanes(*axis, indices, x.shape())? {
        data.extend_from_slice(&x.bytes()[at * size..][..size]);
    }
    Ok(vec![sized(x.dtype(), &shape, data)])
}

/// Per index in row-major order the position in a tensor of `shape`: the index itself along `axis`, the same place on the
/// other axes.
///
/// # Errors
/// When an index is out of range.
pub fn lanes(axis: usize, indices: &Tensor, shape: &[usize]) -> Result<Vec<usize>, String> {
    let mut strides = strides(shape);
    let along = std::mem::take(&mut strides[axis]) as usize;
    let rows = Rows::new(indices.shape(), [&strides]);
    let mut elements = indices.elements();
    let mut found = Vec::with_capacity(indices.count());
    let mut failed = None;
    rows.for_each([0], |[at]| {
        for (i, index) in elements.by_ref().take(rows.length).enumerate() {
            match check::position(index, shape[axis]) {
                Ok(index) => found.push((at + rows.step[0] * i as isize) as usize + index * along),
                Err(e) => failed = Some(e),
            }
        }
    });
    failed.map_or(Ok(found), Err)
}
