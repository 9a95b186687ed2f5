//! `scatter_elements`: writes one element per index along an axis.

use crate::attr::ScatterMode;
use crate::op::Inferred;
use crate::ops::check;
use crate::ops::gather_elements::lanes;
use crate::ops::number::{Number, sized};
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// The type of `x`; `indices` and `updates` have the same extents, which do not exceed those of `x` on the other axes.
///
/// # Errors
/// When the operands do not fit each other.
pub fn infer(axis: &usize, mode: &ScatterMode, operands: &[&TensorType]) -> Inferred {
    let [x, indices, updates] = [operands[0], operands[1], operands[2]];
    check::axis(*axis, x)?;
    check::integer("indices", indices)?;
    check::same_dtype("updates", updates, x)?;
    if *mode != ScatterMode::Replace {
        check::number("x", x)?;
    }
    check::rank("updates", updates, x.rank())?;
    check::within(*axis, "indices", indices, x)?;
    for (a, b) in indices.dims.iter().zip(&updates.dims) {
        check::agree("the extents of `indices` and `updates`", a, b)?;
    }
    Ok(vec![x.clone()])
}

/// The updates in row-major order; where several meet, all of them count, in that order.
///
/// # Errors
/// When an index is out of range.
pub fn eval(axis: &usize, mode: &ScatterMode, operands: &[&Tensor], _results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let [x, indices, updates] = [operands[0], operands[1], operands[2]];
    let targets = lanes(*axis, indices, x.shape())?;
    Ok(vec![scatter(x, &targets, 1, updates, *mode)])
}

/// `x` with slice `i` of `updates`, of `length` elements, combined into slice `targets[i]`; floats are rounded at the end.
pub fn scatter(x: &Tensor, targets: &[usize], length: usize, updates: &Tensor, mode: ScatterMode) -> Tensor {
    let float = x.dtype().is_float();
    match mode {
        ScatterMode::Replace => replace(x, targets, length, updates),
        ScatterMode::Add => combine(x, targets, length, updates, float.then_some(f64::plus), i128::plus),
        ScatterMode::Mul => combine(x, targets, length, updates, float.then_some(f64::times), i128::times),
        ScatterMode::Max => combine(x, targets, length, updates, float.then_some(f64::larger), i128::larger),
        ScatterMode::Min => combine(x, targets, length, updates, float.then_some(f64::smaller), i128::smaller),
    }
}

fn replace(x: &Tensor, targets: &[usize], length: usize, updates: &Tensor) -> Tensor {
    let bytes = length * x.dtype().size();
    let mut data = x.bytes().to_vec();
    for (i, target) in targets.iter().enumerate() {
        data[target * bytes..][..bytes].copy_from_slice(&updates.bytes()[i * bytes..][..bytes]);
    }
    sized(x.dtype(), x.shape(), data)
}

/// With `float` for a float type, else with `int`.
fn combine(
    x: &Tensor,
    targets: &[usize],
    length: usize,
    updates: &Tensor,
    float: Option<fn(f64, f64) -> f64>,
    int: fn(i128, i128) -> i128,
) -> Tensor {
    match float {
        Some(float) => combine_as(x, targets, length, updates, float),
        None => combine_as(x, targets, length, updates, int),
    }
}

fn combine_as<T: Number>(x: &Tensor, targets: &[usize], length: usize, updates: &Tensor, step: fn(T, T) -> T) -> Tensor {
    let mut values = T::read(x);
    let updates = T::read(updates);
    for (i, target) in targets.iter().enumerate() {
        let slots = &mut values[target * length..][..length];
        slots.iter_mut().zip(&updates[i * length..]).for_each(|(slot, &update)| *slot = step(*slot, update));
    }
    T::write(x.dtype(), x.shape(), values)
}
