//! Reductions: a fold over some axes, which stay with extent 1.

use crate::dim::Dim;
use crate::op::Reduction;
use crate::ops::check;
use crate::ops::number::Number;
use crate::ops::strided::{Rows, strides};
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// The axes become 1.
///
/// # Errors
/// When an axis is given twice or there is none, or the elements are no numbers.
pub fn infer(axes: &[usize], x: &TensorType) -> Result<TensorType, String> {
    check::number("x", x)?;
    let mut result = x.clone();
    for (i, &axis) in axes.iter().enumerate() {
        check::axis(axis, x)?;
        if axes[..i].contains(&axis) {
            return Err(format!("expects every axis once, found {axes:?}"));
        }
        result.dims[axis] = Dim::ONE;
    }
    Ok(result)
}

/// The fold over `axes`, in row-major order; sums and products of floats are rounded once, at the end.
pub fn eval(reduction: Reduction, axes: &[usize], x: &Tensor) -> Tensor {
    if x.dtype().is_float() { reduce::<f64>(reduction, axes, x) } else { reduce::<i128>(reduction, axes, x) }
}

fn reduce<T: Number>(reduction: Reduction, axes: &[usize], x: &Tensor) -> Tensor {
    let fold = |unit, step| fold::<T>(axes, x, unit, step);
    let values = match reduction {
        Reduction::Sum => fold(T::ZERO, T::plus),
        Reduction::Mean => {
            let count = axes.iter().map(|&axis| x.shape()[axis]).product();
            fold(T::ZERO, T::plus).into_iter().map(|sum| sum.over(count)).collect()
        }
        Reduction::Max => fold(T::lowest(x.dtype()), T::larger),
        Reduction::Min => fold(T::highest(x.dtype()), T::smaller),
        Reduction::Prod => fold(T::ONE, T::times),
    };
    T::write(x.dtype(), &reduced(axes, x.shape()), values)
}

fn reduced(axes: &[usize], shape: &[usize]) -> Vec<usize> {
    shape.iter().enumerate().map(|(axis, &d)| if axes.contains(&axis) { 1 } else { d }).collect()
}

fn fold<T: Number>(axes: &[usize], x: &Tensor, unit: T, step: fn(T, T) -> T) -> Vec<T> {
    let values = T::read(x);
    let out_shape = reduced(axes, x.shape());
    let mut out = vec![unit; out_shape.iter().product()];
    let mut out_strides = strides(&out_shape);
    axes.iter().for_each(|&axis| out_strides[axis] = 0);
    let rows = Rows::new(x.shape(), [&strides(x.shape()), &out_strides]);
    rows.for_each([0, 0], |[from, to]| {
        let row = &values[from as usize..][..rows.length];
        match rows.step[1] {
            0 => out[to as usize] = row.iter().fold(out[to as usize], |sum, &v| step(sum, v)),
            stride => row.iter().enumerate().for_each(|(i, &v)| {
                let slot = &mut out[to as usize + i * stride as usize];
                *slot = step(*slot, v);
            }),
        }
    });
    out
}
