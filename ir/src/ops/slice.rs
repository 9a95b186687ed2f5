//! `slice`: every `step`-th element from `start` on, per axis.

use crate::dim::Dim;
use crate::ops::check;
use crate::ty::TensorType;

/// The extents become `shape`.
///
/// # Errors
/// When a list has the wrong length, a step is 0, or an element outside of the operand would be read.
pub fn infer(start: &[Dim], shape: &[Dim], step: &[i64], x: &TensorType) -> Result<TensorType, String> {
    check::per_axis("start", start, x.rank())?;
    check::per_axis("shape", shape, x.rank())?;
    check::per_axis("step", step, x.rank())?;
    check::extents("shape", shape)?;
    if let Some(bad) = step.iter().find(|s| **s == 0 || s.unsigned_abs() > check::LARGEST as u64) {
        return Err(format!("expects steps other than 0 within {}, found {bad}", check::LARGEST));
    }
    for axis in 0..x.rank() {
        let last = start[axis].clone() + (shape[axis].clone() - 1) * step[axis];
        let (lowest, highest) = if step[axis] > 0 { (&start[axis], &last) } else { (&last, &start[axis]) };
        let inside = || check::may_be_at_most(&Dim::ZERO, lowest) && check::may_be_at_most(&(highest.clone() + 1), &x.dims[axis]);
        if !shape[axis].is(0) && !inside() {
            return Err(format!("expects positions inside of axis {axis} of {x}, found {lowest} to {highest}"));
        }
    }
    Ok(x.with_dims(shape.to_vec()))
}

/// `start + step*i` per axis.
pub fn index(start: &[Dim], _shape: &[Dim], step: &[i64], _input: &[Dim], _output: &[Dim], index: &[Dim]) -> Vec<Dim> {
    index.iter().enumerate().map(|(axis, i)| start[axis].clone() + i.clone() * step[axis]).collect()
}
