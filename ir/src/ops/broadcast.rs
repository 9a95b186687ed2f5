//! `broadcast`: repeats axes of extent 1, and new outer axes.

use crate::dim::Dim;
use crate::ops::check;
use crate::ty::TensorType;

/// The extents become `shape`.
///
/// # Errors
/// When an axis of the operand is neither 1 nor the extent in `shape`.
pub fn infer(shape: &[Dim], x: &TensorType) -> Result<TensorType, String> {
    check::extents("shape", shape)?;
    let outer =
        shape.len().checked_sub(x.rank()).ok_or_else(|| format!("expects `shape` of at least {} axes, found {shape:?}", x.rank()))?;
    for (from, to) in x.dims.iter().zip(&shape[outer..]) {
        if !from.is(1) && check::agree("extents", from, to).is_err() {
            return Err(format!("expects extents of 1 or of `shape` {shape:?}, found {x}"));
        }
    }
    Ok(x.with_dims(shape.to_vec()))
}

/// Index 0 on the axes of extent 1.
pub fn index(_shape: &[Dim], input: &[Dim], output: &[Dim], index: &[Dim]) -> Vec<Dim> {
    let outer = output.len() - input.len();
    input.iter().zip(&index[outer..]).map(|(d, i)| if d.is(1) { Dim::ZERO } else { i.clone() }).collect()
}
