//! `conv`: cross-correlation over the spatial axes.

use crate::attr::{Algorithm, Layout};
use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::Number;
use crate::ops::strided::permute;
use crate::ops::window::{self, Window};
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// x: [b, c, s...], w: [o, c/group, k...] -> [b, o, windows...] for the layout `first`.
///
/// # Errors
/// When the operands and attributes do not fit each other.
pub fn infer(
    stride: &[usize],
    pad: &[i64],
    dilation: &[usize],
    group: &usize,
    layout: &Layout,
    _algorithm: &Algorithm,
    operands: &[&TensorType],
) -> Inferred {
    let [x, w] = [operands[0], operands[1]];
    let (window, channels_of_w) = window::of_weights(stride, pad, dilation, *layout, x, w)?;
    let [outputs, inputs] = match (layout, channels_of_w) {
        (Layout::First, [outputs, inputs]) | (Layout::Last, [inputs, outputs]) => [outputs, inputs],
    };
    let (channels, spatial) = window::image(x, window.axes(), *layout)?;
    let group = window::groups(*group)?;
    check::agree("the channels and group * the weights' input channels", channels, &(inputs.clone() * group))?;
    if !outputs.modulo(&group.into()).is(0) {
        return Err(format!("expects output channels that {group} groups divide, found weights {w}"));
    }
    let counts = spatial.iter().enumerate().map(|(a, d)| window.count(a, d, false)).collect::<Result<_, _>>()?;
    Ok(vec![window::image_type(x, outputs.clone(), counts, *layout)])
}

/// Sums over the input channels, then over the kernel, in f64 for floats.
pub fn eval(
    stride: &[usize],
    pad: &[i64],
    dilation: &[usize],
    group: &usize,
    layout: &Layout,
    _algorithm: &Algorithm,
    operands: &[&Tensor],
    results: &[TensorType],
) -> Result<Vec<Tensor>, String> {
    let [x, w] = [operands[0], operands[1]];
    let (x_type, w_type) = (x.ty(), w.ty());
    let (window, _) = window::of_weights(stride, pad, dilation, *layout, &x_type, &w_type)?;
    let shape = window::shape_first(&check::allocatable(&results[0])?, *layout);
    let axes = window.axes();
    let w = match layout {
        Layout::First => w.clone(),
        Layout::Last => permute(w, &[vec![axes + 1, axes], (0..axes).collect()].concat()),
    };
    let convolve = if x.dtype().is_float() { convolve::<f64> } else { convolve::<i128> };
    let result = convolve(&window, *group, &window::channels_first(x, *layout), &w, &shape);
    Ok(vec![window::channels_as(&result, *layout)])
}

fn convolve<T: Number>(window: &Window, group: usize, x: &Tensor, w: &Tensor, shape: &[usize]) -> Tensor {
    let (xs, ws) = (T::read(x), T::read(w));
    let mut out = vec![T::ZERO; shape.iter().product()];
    let (inputs, outputs) = (x.shape()[1], shape[1]);
    let [in_size, out_size, taps] = [&x.shape()[2..], &shape[2..], &w.shape()[2..]].map(|s| s.iter().product::<usize>());
    let pointwise = Window::pointwise();
    let (window, in_shape, out_shape) = match window.is_pointwise() {
        true => (&pointwise, &[in_size][..], &[out_size][..]),
        false => (window, &x.shape()[2..], &shape[2..]),
    };
    let per_group = inputs / group;
    for (image, out) in out.chunks_exact_mut(out_size.max(1)).enumerate() {
        let (batch, output) = (image / outputs, image % outputs);
        let first = output / (outputs / group) * per_group;
        for c in 0..per_group {
            let x = &xs[(batch * inputs + first + c) * in_size..][..in_size];
            let w = &ws[(output * per_group + c) * taps..][..taps];
            window.for_each_run(out_shape, in_shape, |tap, run| {
                let slots = &mut out[run.window..][..run.length];
                let factor = w[tap];
                match run.stride {
                    1 => slots.iter_mut().zip(&x[run.input..]).for_each(|(sum, &v)| *sum = sum.plus(factor.times(v))),
                    s => slots.iter_mut().zip(x[run.input..].iter().step_by(s)).for_each(|(sum, &v)| *sum = sum.plus(factor.times(v))),
                }
            });
        }
    }
    T::write(x.dtype(), shape, out)
}
