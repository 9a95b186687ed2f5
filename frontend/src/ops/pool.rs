//! Poolings: over windows, and over whole images.

use crate::ops::conv::{Window, kernel_shape, pads, spatial};
use crate::site::{Outcome, Site, Stop};
use egret_ir::attr::Layout;
use egret_ir::{Op, ValueId};

/// The windows of a pooling, its padding and whether windows may hang over the end.
fn windows(n: &Site, x: ValueId) -> Result<(Window, Vec<i64>, bool), Stop> {
    let extents = spatial(n, x)?;
    let window = Window::new(n, kernel_shape(n, extents.len())?)?;
    let pad = pads(n, &window, &extents)?;
    Ok((window, pad, n.flag("ceil_mode")?))
}

/// The second output, the positions of the largest elements, is not available.
pub(crate) fn max_pool(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    n.without_effect(&["storage_order"]); // It speaks of the second output only.
    let (window, pad, ceil) = windows(n, x)?;
    let Window { kernel, stride, dilation } = window;
    Ok(vec![n.op(Op::max_pool { kernel, stride, pad, dilation, ceil, layout: Layout::First }, &[x])?])
}

pub(crate) fn average_pool(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let (window, pad, ceil) = windows(n, x)?;
    let count_pad = n.flag("count_include_pad")?;
    let Window { kernel, stride, dilation } = window;
    Ok(vec![n.op(Op::avg_pool { kernel, stride, pad, dilation, ceil, count_pad, layout: Layout::First }, &[x])?])
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
