//! `transpose`: permutes the axes.

use crate::dim::Dim;
use crate::ops::check;
use crate::ty::TensorType;

/// Extent `i` of the result is extent `perm[i]` of the operand.
///
/// # Errors
/// When `perm` is not a permutation of the axes.
pub fn infer(perm: &[usize], x: &TensorType) -> Result<TensorType, String> {
    check::per_axis("perm", perm, x.rank())?;
    if (0..x.rank()).any(|axis| !perm.contains(&axis)) {
        return Err(format!("expects a permutation of {} axes, found {perm:?}", x.rank()));
    }
    Ok(x.with_dims(perm.iter().map(|&axis| x.dims[axis].clone()).collect()))
}

/// Index `perm[i]` of the input is index `i` of the output.
pub fn index(perm: &[usize], _input: &[Dim], _output: &[Dim], index: &[Dim]) -> Vec<Dim> {
    let mut result = vec![Dim::ZERO; perm.len()];
    perm.iter().zip(index).for_each(|(&axis, i)| result[axis] = i.clone());
    result
}
