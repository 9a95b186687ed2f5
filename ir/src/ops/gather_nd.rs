//! `gather_nd`: picks slices at index tuples.

use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::sized;
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// x: [b..., n..., s...], indices: [b..., i..., |n...|] -> [b..., i..., s...].
///
/// # Errors
/// When the batch axes differ, or the tuples are longer than `x` has axes.
pub fn infer(batch: &usize, operands: &[&TensorType]) -> Inferred {
    let [x, indices] = [operands[0], operands[1]];
    check::integer("indices", indices)?;
    let tuple = check::tuple(indices)?;
    if indices.rank() <= *batch || x.rank() < batch.saturating_add(tuple) {
        return Err(format!("expects at most {} indices after {batch} shared axes, found indices {indices} into {x}", x.rank()));
    }
    for (a, b) in x.dims[..*batch].iter().zip(&indices.dims) {
        check::agree("the shared axes", a, b)?;
    }
    Ok(vec![x.with_dims([&indices.dims[..indices.rank() - 1], &x.dims[batch + tuple..]].concat())])
}

/// The slices.
///
/// # Errors
/// When an index is out of range.
pub fn eval(batch: &usize, operands: &[&Tensor], results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let [x, indices] = [operands[0], operands[1]];
    let shape = check::allocatable(&results[0])?;
    let (shared, own) = x.shape().split_at(*batch);
    let tuples = tuples(indices, own)?;
    let length = *indices.shape().last().unwrap_or(&0);
    let bytes = own[length..].iter().product::<usize>() * x.dtype().size();
    let batches: usize = shared.iter().product();
    let (per_batch, tuples_per_batch) = (own.iter().product::<usize>() * x.dtype().size(), tuples.len() / batches.max(1));
    let mut data = vec![];
    for (i, slice) in tuples.into_iter().enumerate() {
        data.extend_from_slice(&x.bytes()[i / tuples_per_batch * per_batch + slice * bytes..][..bytes]);
    }
    Ok(vec![sized(x.dtype(), &shape, data)])
}

/// The row-major number of the slice that each index tuple names in a tensor of `shape`.
///
/// # Errors
/// When an index is out of range.
pub fn tuples(indices: &Tensor, shape: &[usize]) -> Result<Vec<usize>, String> {
    let (&length, outer) = indices.shape().split_last().ok_or("expects `indices` of rank 1 or more")?;
    let tuple = |t: usize| {
        let axes = shape[..length].iter().enumerate();
        axes.into_iter().try_fold(0, |at, (k, &extent)| Ok(at * extent + check::position(indices.get(t * length + k), extent)?))
    };
    (0..outer.iter().product()).map(tuple).collect()
}
