//! `top_k`: the largest or smallest elements along an axis, in order.

use crate::dim::Dim;
use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::Number;
use crate::ops::strided::around;
use crate::tensor::Tensor;
use crate::ty::{DType, TensorType};
use std::cmp::Ordering;

/// The axis becomes `k`; the values, and their indices in i64.
///
/// # Errors
/// When there is no such axis, it has fewer than `k` elements, or they are no numbers.
pub fn infer(axis: &usize, k: &Dim, _largest: &bool, operands: &[&TensorType]) -> Inferred {
    let x = operands[0];
    check::number("x", x)?;
    check::axis(*axis, x)?;
    check::extents("k", std::slice::from_ref(k))?;
    if !check::may_be_at_most(k, &x.dims[*axis]) {
        return Err(format!("expects at least {k} elements along axis {axis}, found {x}"));
    }
    let mut values = x.clone();
    values.dims[*axis] = k.clone();
    let indices = values.with_dtype(DType::I64);
    Ok(vec![values, indices])
}

/// Ordered with NaN above every number; of equals the lower index first.
pub fn eval(axis: &usize, _k: &Dim, largest: &bool, operands: &[&Tensor], results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let shape = check::allocatable(&results[0])?;
    let x = operands[0];
    let select = if x.dtype().is_float() { select::<f64> } else { select::<i128> };
    Ok(select(*axis, *largest, x, &shape))
}

fn select<T: Number>(axis: usize, largest: bool, x: &Tensor, shape: &[usize]) -> Vec<Tensor> {
    let values = T::read(x);
    let (outer, extent, inner) = around(x.shape(), axis);
    let k = shape[axis];
    let mut found = vec![T::ZERO; outer * k * inner];
    let mut indices = vec![0; outer * k * inner];
    for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
        let at = |index: usize| values[(o * extent + index) * inner + i];
        let mut order: Vec<usize> = (0..extent).collect();
        // A stable sort keeps equals in the order of their indices.
        order.sort_by(|&a, &b| if largest { compare(at(b), at(a)) } else { compare(at(a), at(b)) });
        for (rank, &index) in order[..k].iter().enumerate() {
            found[(o * k + rank) * inner + i] = at(index);
            indices[(o * k + rank) * inner + i] = index as i128;
        }
    }
    vec![T::write(x.dtype(), shape, found), i128::write(DType::I64, shape, indices)]
}

fn compare<T: Number>(a: T, b: T) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}
