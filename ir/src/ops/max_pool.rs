//! `max_pool`: the largest element of each window.

use crate::attr::Layout;
use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::Number;
use crate::ops::window::{self, Window};
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// One element per window and channel.
///
/// # Errors
/// When the attributes do not fit the operand.
pub fn infer(
    kernel: &[usize],
    stride: &[usize],
    pad: &[i64],
    dilation: &[usize],
    ceil: &bool,
    layout: &Layout,
    operands: &[&TensorType],
) -> Inferred {
    let window = Window::new(kernel, stride, pad, dilation)?;
    Ok(vec![window::infer_pool(&window, *ceil, *layout, operands[0])?])
}

/// The largest element; NaN if one is, and the type's lowest value for a window in the padding alone.
pub fn eval(
    kernel: &[usize],
    stride: &[usize],
    pad: &[i64],
    dilation: &[usize],
    _ceil: &bool,
    layout: &Layout,
    operands: &[&Tensor],
    results: &[TensorType],
) -> Result<Vec<Tensor>, String> {
    let window = Window::new(kernel, stride, pad, dilation)?;
    let pool = if operands[0].dtype().is_float() { pool::<f64> } else { pool::<i128> };
    let shape = window::shape_first(&check::allocatable(&results[0])?, *layout);
    Ok(vec![window::channels_as(&pool(&window, &window::channels_first(operands[0], *layout), &shape), *layout)])
}

fn pool<T: Number>(window: &Window, x: &Tensor, shape: &[usize]) -> Tensor {
    let values = T::read(x);
    let size: usize = x.shape()[2..].iter().product();
    let pooled = (0..shape[0] * shape[1]).flat_map(|channel| {
        let values = &values[channel * size..][..size];
        let largest = |positions: &[usize], _| positions.iter().map(|&p| values[p]).fold(T::lowest(x.dtype()), T::larger);
        window.map_windows(&shape[2..], &x.shape()[2..], largest)
    });
    T::write(x.dtype(), shape, pooled.collect())
}
