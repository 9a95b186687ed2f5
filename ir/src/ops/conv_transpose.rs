//! `conv_transpose`: the transposed convolution (the gradient of a convolution by its input).

use crate::attr::Layout;
use crate::dim::Dim;
use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::Number;
use crate::ops::strided::permute;
use crate::ops::window::{self, Window};
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// x: [b, c, s...], w: [c, o/group, k...] -> [b, o, spans...] for the layout `first`.
///
/// # Errors
/// When the operands and attributes do not fit each other.
pub fn infer(
    stride: &[usize],
    pad: &[i64],
    dilation: &[usize],
    output_pad: &[usize],
    group: &usize,
    layout: &Layout,
    operands: &[&TensorType],
) -> Inferred {
    let [x, w] = [operands[0], operands[1]];
    let (window, [inputs, outputs]) = window::of_weights(stride, pad, dilation, *layout, x, w)?;
    check::per_axis("output_pad", output_pad, window.axes())?;
    check::extents("output_pad", &output_pad.iter().map(|&p| Dim::from(p)).collect::<Vec<_>>())?;
    let (channels, spatial) = window::image(x, window.axes(), *layout)?;
    let group = window::groups(*group)?;
    let channels = check::agree("the channels of `x` and the weights' input channels", channels, inputs)?;
    if !channels.modulo(&group.into()).is(0) {
        return Err(format!("expects channels that {group} groups divide, found {x}"));
    }
    let spans = spatial.iter().enumerate().map(|(a, d)| span(&window, a, d, output_pad[a])).collect();
    Ok(vec![window::image_type(x, outputs.clone() * group, spans, *layout)])
}

/// The extent that the windows of `input` positions cover: `(input - 1)*stride + reach - low - high + output_pad`.
fn span(window: &Window, axis: usize, input: &Dim, output_pad: usize) -> Dim {
    (input.clone() - 1) * window.stride[axis] + window.reach(axis) - window.low[axis] - window.high[axis] + output_pad
}

/// Every input element times every weight is added where the window's element lands; in f64 for floats.
pub fn eval(
    stride: &[usize],
    pad: &[i64],
    dilation: &[usize],
    _output_pad: &[usize],
    group: &usize,
    layout: &Layout,
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
        Layout::Last => permute(w, &[vec![axes, axes + 1], (0..axes).collect()].concat()),
    };
    let scatter = if x.dtype().is_float() { scatter::<f64> } else { scatter::<i128> };
    let result = scatter(&window, *group, &window::channels_first(x, *layout), &w, &shape);
    Ok(vec![window::channels_as(&result, *layout)])
}

fn scatter<T: Number>(window: &Window, group: usize, x: &Tensor, w: &Tensor, shape: &[usize]) -> Tensor {
    let (xs, ws) = (T::read(x), T::read(w));
    let mut out = vec![T::ZERO; shape.iter().product()];
    let (inputs, outputs) = (x.shape()[1], shape[1]);
    let [in_size, out_size, taps] = [&x.shape()[2..], &shape[2..], &w.shape()[2..]].map(|s| s.iter().product::<usize>());
    let in_shape = &x.shape()[2..];
    let (inputs_per_group, per_group) = (inputs / group, outputs / group);
    for (image, out) in out.chunks_exact_mut(out_size.max(1)).enumerate() {
        let (batch, output) = (image / outputs, image % outputs);
        let first = output / per_group * inputs_per_group;
        for c in first..first + inputs_per_group {
            let x = &xs[(batch * inputs + c) * in_size..][..in_size];
            let w = &ws[(c * per_group + output % per_group) * taps..][..taps];
            // The output plays the part that the input has in a convolution.
            window.for_each_run(in_shape, &shape[2..], |tap, run| {
                let slots = out[run.input..].iter_mut().step_by(run.stride);
                slots.zip(&x[run.window..][..run.length]).for_each(|(sum, &v)| *sum = sum.plus(w[tap].times(v)));
            });
        }
    }
    T::write(x.dtype(), shape, out)
}
