//! `avg_pool`: the mean of each window.

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
    _count_pad: &bool,
    layout: &Layout,
    operands: &[&TensorType],
) -> Inferred {
    let window = Window::new(kernel, stride, pad, dilation)?;
    Ok(vec![window::infer_pool(&window, *ceil, *layout, operands[0])?])
}

/// The mean over the elements inside of the input, or with `count_pad` their sum divided by the number of positions in the
/// padded input; 0 for a window without any. Integers are truncated towards zero.
pub fn eval(
    kernel: &[usize],
    stride: &[usize],
    pad: &[i64],
    dilation: &[usize],
    _ceil: &bool,
    count_pad: &bool,
    layout: &Layout,
    operands: &[&Tensor],
    results: &[TensorType],
) -> Result<Vec<Tensor>, String> {
    let window = Window::new(kernel, stride, pad, dilation)?;
    let pool = if operands[0].dtype().is_float() { pool::<f64> } else { pool::<i128> };
    let shape = window::shape_first(&check::allocatable(&results[0])?, *layout);
    let pooled = pool(&window, *count_pad, &window::channels_first(operands[0], *layout), &shape);
    Ok(vec![window::channels_as(&pooled, *layout)])
}

fn pool<T: Number>(window: &Window, count_pad: bool, x: &Tensor, shape: &[usize]) -> Tensor {
    let values = T::read(x);
    let size: usize = x.shape()[2..].iter().product();
    let pooled = (0..shape[0] * shape[1]).flat_map(|channel| {
        let values = &values[channel * size..][..size];
        let mean = |positions: &[usize], padded| {
            let sum = positions.iter().map(|&p| values[p]).fold(T::ZERO, T::plus);
            match if count_pad { padded } else { positions.len() } {
                0 => T::ZERO,
                count => sum.over(count),
            }
        };
        window.map_windows(&shape[2..], &x.shape()[2..], mean)
    });
    T::write(x.dtype(), shape, pooled.collect())
}
