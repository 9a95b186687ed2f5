//! Poolings: over windows, and over whole images.

use crate::error::Code;
use crate::ops::conv::{Window, kernel_shape, pads, spatial};
use crate::site::{Outcome, Site, Stop, malformed};
use egret_ir::attr::{Layout, PadMode, ScatterMode};
use egret_ir::{DType, Dim, Op, ValueId};

/// The windows of a pooling, its padding and whether windows may hang over the end.
fn windows(n: &Site, x: ValueId) -> Result<(Window, Vec<i64>, bool), Stop> {
    let extents = spatial(n, x)?;
    let window = Window::new(n, kernel_shape(n, extents.len())?)?;
    let pad = pads(n, &window, &extents)?;
    Ok((window, pad, n.flag("ceil_mode")?))
}

/// The second output is the position of each largest element in the whole tensor, the first of equals; with `storage_order` 1
/// positions within an image count columns first.
pub(crate) fn max_pool(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let columns_first = n.flag("storage_order")?;
    let (window, pad, ceil) = windows(n, x)?;
    let Window { kernel, stride, dilation } = window.clone();
    let largest = n.op(Op::max_pool { kernel, stride, pad: pad.clone(), dilation, ceil, layout: Layout::First }, &[x])?;
    if !n.wants(1) {
        return Ok(vec![largest]);
    }
    Ok(vec![largest, positions(n, x, largest, &window, &pad, columns_first)?])
}

/// Elements of a window whose positions are compared, each by some ops.
const LARGEST_WINDOW: usize = 1024;

/// Where in `x` each largest element of a window stands: the elements of every window along a new last axis, and the number of
/// the largest taken apart into a place.
fn positions(n: &mut Site, x: ValueId, pooled: ValueId, window: &Window, pad: &[i64], columns_first: bool) -> Result<ValueId, Stop> {
    let (dims, out) = (n.dims(x), n.dims(pooled));
    let axes = window.kernel.len();
    let size = window.kernel.iter().try_fold(1, |size: usize, &extent| size.checked_mul(extent));
    if size.is_none_or(|size| size > LARGEST_WINDOW) {
        let message = format!("positions in windows of {:?} are not supported, expected up to {LARGEST_WINDOW} elements", window.kernel);
        return Err(malformed(Code::Attribute, message));
    }
    let padded = padded(n, x, &out, window, pad)?;
    let taps: Vec<Vec<usize>> = window.kernel.iter().fold(vec![vec![]], |taps, &extent| {
        taps.iter().flat_map(|tap| (0..extent).map(move |i| [tap.as_slice(), &[i]].concat())).collect()
    });
    let mut columns = vec![];
    for tap in &taps {
        let (mut start, mut step) = (vec![Dim::ZERO; 2], vec![1i64; 2]);
        for (axis, at) in tap.iter().enumerate() {
            start.push(Dim::from(at * window.dilation[axis]));
            step.push(window.stride[axis] as i64);
        }
        let part = n.op(Op::slice { start, shape: out.clone(), step }, &[padded])?;
        columns.push(n.reshape(part, [out.clone(), vec![Dim::ONE]].concat())?);
    }
    let stacked = n.concat(&columns, axes + 2)?;
    let number = n.op(Op::arg_max { axis: axes + 2, last: false }, &[stacked])?;
    let mut rest = n.reshape(number, out.clone())?;
    let mut places = vec![];
    for axis in (0..axes).rev() {
        let extent = window.kernel[axis] as f64;
        let tap = n.with_number(Op::modulo, rest, extent)?;
        rest = n.with_number(Op::div, rest, extent)?;
        let index = n.iota(out.clone(), axis + 2, DType::I64)?;
        let index = n.with_number(Op::mul, index, window.stride[axis] as f64)?;
        let tap = n.with_number(Op::mul, tap, window.dilation[axis] as f64)?;
        let place = n.op(Op::add, &[index, tap])?;
        places.push((axis + 2, n.with_number(Op::sub, place, pad[axis] as f64)?));
    }
    if !columns_first {
        places.reverse();
    }
    let outer = [(0, n.iota(out.clone(), 0, DType::I64)?), (1, n.iota(out, 1, DType::I64)?)];
    let mut at = n.scalar(0.0, DType::I64);
    for (axis, place) in outer.into_iter().chain(places) {
        let extent = n.op(Op::dims { values: vec![dims[axis].clone()] }, &[])?;
        let before = n.op(Op::mul, &[at, extent])?;
        at = n.op(Op::add, &[before, place])?;
    }
    Ok(at)
}

/// `x` with borders lower than every element, as wide as the windows reach.
fn padded(n: &mut Site, x: ValueId, out: &[Dim], window: &Window, pad: &[i64]) -> Result<ValueId, Stop> {
    let dims = n.dims(x);
    let (mut low, mut high) = (vec![Dim::ZERO; 2], vec![Dim::ZERO; 2]);
    for axis in 0..window.kernel.len() {
        let reach = (out[axis + 2].clone() - 1) * window.stride[axis] + window.reach(axis);
        low.push(Dim::from(pad[axis]));
        let spare = reach - dims[axis + 2].clone() - pad[axis];
        high.push(if spare.as_const().is_some() { spare.maximum(&Dim::ZERO) } else { spare });
    }
    let dtype = n.dtype(x);
    let lowest = if dtype.is_float() { f64::NEG_INFINITY } else { dtype.int_range().0 as f64 };
    let border = n.scalar(lowest, dtype);
    n.op(Op::pad { low, high, mode: PadMode::Constant }, &[x, border])
}

/// Elements go back to their positions (of `MaxPool`'s second output) in a tensor of zeros; a larger output shape adds zeros
/// at the ends.
pub(crate) fn max_unpool(n: &mut Site) -> Outcome {
    let (x, places) = (n.input(0)?, n.input(1)?);
    let extents = spatial(n, x)?;
    let window = Window::new(n, kernel_shape(n, extents.len())?)?;
    let pad = pads(n, &window, &extents)?;
    let axes = extents.len();
    let mut shape = n.dims(x)[..2].to_vec();
    for axis in 0..axes {
        shape.push((extents[axis].clone() - 1) * window.stride[axis] + window.kernel[axis] - (pad[axis] + pad[axes + axis]));
    }
    let count: Dim = shape.iter().cloned().product();
    let zeros = n.splat(0.0, n.dtype(x), vec![count])?;
    let all = n.ty(x).count();
    let (values, places) = (n.reshape(x, [all.clone()])?, n.reshape(places, [all])?);
    let flat = n.op(Op::scatter_elements { axis: 0, mode: ScatterMode::Replace }, &[zeros, places, values])?;
    let image = n.reshape(flat, shape.clone())?;
    if n.optional(2).is_none() {
        return Ok(vec![image]);
    }
    let wanted = n.contents(2, "the shape of the output")?;
    if wanted.len() != shape.len() {
        return Err(malformed(Code::Shape, format!("`MaxUnpool` needs an output shape of {} numbers, found {wanted:?}", shape.len())));
    }
    let high = wanted.iter().zip(&shape).map(|(wanted, own)| wanted.clone() - own.clone()).collect();
    let zero = n.scalar(0.0, n.dtype(x));
    Ok(vec![n.op(Op::pad { low: vec![Dim::ZERO; shape.len()], high, mode: PadMode::Constant }, &[image, zero])?])
}

pub(crate) fn average_pool(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    Ok(vec![averaged(n, x)?])
}

/// The average pooling that the attributes of the node describe.
pub(crate) fn averaged(n: &mut Site, x: ValueId) -> Result<ValueId, Stop> {
    let (window, pad, ceil) = windows(n, x)?;
    let count_pad = n.flag("count_include_pad")?;
    let Window { kernel, stride, dilation } = window;
    n.op(Op::avg_pool { kernel, stride, pad, dilation, ceil, count_pad, layout: Layout::First }, &[x])
}

/// The `p`-th root of the sum of `p`-th powers: the mean over the whole window, times its size.
pub(crate) fn lp_pool(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let (window, pad, ceil) = windows(n, x)?;
    if ceil {
        return Err(n.refused("ceil_mode", 1, "`LpPool` with windows that hang over the end is not supported"));
    }
    let p = power(n)?;
    let powers = powers(n, x, p)?;
    let Window { kernel, stride, dilation } = window;
    let size: usize = kernel.iter().product();
    let mean = n.op(Op::avg_pool { kernel, stride, pad, dilation, ceil, count_pad: true, layout: Layout::First }, &[powers])?;
    let sum = n.with_number(Op::mul, mean, size as f64)?;
    Ok(vec![root(n, sum, p)?])
}

fn power(n: &Site) -> Result<i64, Stop> {
    let p = n.int_or("p", 2)?;
    if p > 0 { Ok(p) } else { Err(n.refused("p", p, format!("`{}` needs a `p` of at least 1", n.operator))) }
}

fn powers(n: &mut Site, x: ValueId, p: i64) -> Result<ValueId, Stop> {
    match p {
        1 => n.op(Op::abs, &[x]),
        2 => n.op(Op::mul, &[x, x]),
        _ => {
            let size = n.op(Op::abs, &[x])?;
            n.with_number(Op::pow, size, p as f64)
        }
    }
}

fn root(n: &mut Site, x: ValueId, p: i64) -> Result<ValueId, Stop> {
    match p {
        1 => Ok(x),
        2 => n.op(Op::sqrt, &[x]),
        _ => n.with_number(Op::pow, x, 1.0 / p as f64),
    }
}

pub(crate) fn global_average_pool(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    spatial(n, x)?;
    Ok(vec![n.op(Op::reduce_mean { axes: (2..n.rank(x)).collect() }, &[x])?])
}

pub(crate) fn global_max_pool(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    spatial(n, x)?;
    Ok(vec![n.op(Op::reduce_max { axes: (2..n.rank(x)).collect() }, &[x])?])
}

pub(crate) fn global_lp_pool(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    spatial(n, x)?;
    let p = power(n)?;
    let powers = powers(n, x, p)?;
    let sum = n.op(Op::reduce_sum { axes: (2..n.rank(x)).collect() }, &[powers])?;
    Ok(vec![root(n, sum, p)?])
}
