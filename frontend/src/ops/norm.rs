//! Softmax and its kin, and normalisations.

use crate::error::Code;
use crate::ops::gather::matches;
use crate::site::{Outcome, Site, Stop, malformed};
use egret_ir::{Dim, Op, Real, ValueId};

/// Before opset 13 softmax ran over all axes from `axis` on, flattened; since then over one.
fn softmax_axes(n: &Site, x: ValueId) -> Result<Vec<usize>, Stop> {
    if n.opset >= 13 {
        return Ok(vec![n.axis_or(-1, x)?]);
    }
    let axis = n.axis_or(1, x)?;
    Ok((axis..n.rank(x)).collect())
}

pub(crate) fn softmax(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let axes = softmax_axes(n, x)?;
    Ok(vec![n.op(Op::softmax { axes }, &[x])?])
}

pub(crate) fn log_softmax(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let axes = softmax_axes(n, x)?;
    Ok(vec![n.op(Op::log_softmax { axes }, &[x])?])
}

/// 1 at the first of the largest elements, 0 elsewhere.
pub(crate) fn hardmax(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let (dims, axes) = (n.dims(x), softmax_axes(n, x)?);
    let axis = axes[0];
    let (flat, depth) = if axes.len() == 1 {
        (x, dims[axis].clone())
    } else {
        let inner: Dim = dims[axis..].iter().cloned().product();
        (n.reshape(x, [&dims[..axis], std::slice::from_ref(&inner)].concat())?, inner)
    };
    let largest = n.op(Op::arg_max { axis, last: false }, &[flat])?;
    let without = n.dims(flat).into_iter().enumerate().filter(|(a, _)| *a != axis).map(|(_, d)| d).collect::<Vec<Dim>>();
    let index = n.reshape(largest, without)?;
    let found = matches(n, index, depth, axis)?;
    let ones = n.cast(found, n.dtype(x))?;
    Ok(vec![n.reshape(ones, dims)?])
}

/// A vector of one value per channel, shaped to broadcast against `[batch, channel, spatial...]`.
pub(crate) fn per_channel(n: &mut Site, value: ValueId, rank: usize) -> Result<ValueId, Stop> {
    let mut dims = n.dims(value);
    if dims.len() == 1 {
        dims.resize(rank.saturating_sub(1).max(1), Dim::ONE);
    }
    n.reshape(value, dims)
}

/// Opsets 7 and 8 could normalise each position by itself (`spatial` 0); the statistics then have the shape of one image. In training
/// mode the statistics are those of the batch, and outputs 1 and 2 are what the given ones become.
pub(crate) fn batch_normalization(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let rank = n.rank(x);
    n.without_effect(&["momentum", "spatial"]);
    if n.flag("training_mode")? {
        return batch_normalization_of_batch(n, x);
    }
    let epsilon = Real(n.float_or("epsilon", 1e-5)?);
    let mut operands = vec![x];
    for i in 1..5 {
        let value = n.input(i)?;
        let value = n.cast(value, n.dtype(x))?;
        operands.push(per_channel(n, value, rank)?);
    }
    Ok(vec![n.op(Op::batch_norm { epsilon }, &operands)?])
}

/// `given * momentum + found * (1 - momentum)` of mean and variance over all axes but the channels.
fn batch_normalization_of_batch(n: &mut Site, x: ValueId) -> Outcome {
    let (rank, dtype) = (n.rank(x), n.dtype(x));
    let (epsilon, momentum) = (Real(n.float_or("epsilon", 1e-5)?), n.float_or("momentum", 0.9)?);
    let axes: Vec<usize> = (0..rank).filter(|&axis| axis != 1).collect();
    let mean = n.op(Op::reduce_mean { axes: axes.clone() }, &[x])?;
    let centred = n.op(Op::sub, &[x, mean])?;
    let squares = n.op(Op::mul, &[centred, centred])?;
    let variance = n.op(Op::reduce_mean { axes: axes.clone() }, &[squares])?;
    let (scale, bias) = (n.input(1)?, n.input(2)?);
    let (scale, bias) = (n.cast(scale, dtype)?, n.cast(bias, dtype)?);
    let (scale, bias) = (per_channel(n, scale, rank)?, per_channel(n, bias, rank)?);
    let mut results = vec![n.op(Op::layer_norm { axes, epsilon }, &[x, scale, bias])?];
    for (index, found) in [(3, mean), (4, variance)] {
        let given = n.input(index)?;
        let dims = n.dims(given);
        let found = n.reshape(found, dims)?;
        let found = n.cast(found, n.dtype(given))?;
        let (kept, new) = (n.with_number(Op::mul, given, momentum)?, n.with_number(Op::mul, found, 1.0 - momentum)?);
        results.push(n.op(Op::add, &[kept, new])?);
    }
    Ok(results)
}

pub(crate) fn instance_normalization(n: &mut Site) -> Outcome {
    let (x, scale, bias) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let rank = n.rank(x);
    let epsilon = Real(n.float_or("epsilon", 1e-5)?);
    let (scale, bias) = (per_channel(n, scale, rank)?, per_channel(n, bias, rank)?);
    Ok(vec![n.op(Op::layer_norm { axes: (2..rank).collect(), epsilon }, &[x, scale, bias])?])
}

/// x: [batch, channels, spatial...] is normalised as [batch, groups, channels/groups, spatial...]. Scale and bias are per
/// group before opset 21, per channel since.
pub(crate) fn group_normalization(n: &mut Site) -> Outcome {
    let (x, scale, bias) = (n.input(0)?, n.input(1)?, n.input(2)?);
    n.without_effect(&["stash_type"]);
    let epsilon = Real(n.float_or("epsilon", 1e-5)?);
    let groups = n.int("num_groups")?.filter(|g| *g > 0);
    let groups = groups.ok_or_else(|| malformed(Code::Attribute, "`GroupNormalization` needs `num_groups` of at least 1"))?;
    let dims = n.dims(x);
    if dims.len() < 2 {
        return Err(malformed(Code::Shape, format!("`GroupNormalization` expects channels on axis 1, found {}", n.ty(x))));
    }
    let groups = Dim::from(groups);
    let members = dims[1].exact_div(&groups).ok_or_else(|| {
        n.refused("num_groups", &groups, format!("{groups} groups do not divide the {} channels of {}", dims[1], n.ty(x)))
    })?;
    let grouped: Vec<Dim> = [&[dims[0].clone(), groups.clone(), members.clone()], &dims[2..]].concat();
    let spatial = vec![Dim::ONE; dims.len() - 2];
    let factor = |n: &mut Site, value: ValueId| {
        let members = if n.opset < 21 { Dim::ONE } else { members.clone() };
        n.reshape(value, [&[groups.clone(), members], &spatial[..]].concat())
    };
    let (scale, bias) = (factor(n, scale)?, factor(n, bias)?);
    let split = n.reshape(x, grouped)?;
    let normed = n.op(Op::layer_norm { axes: (2..=dims.len()).collect(), epsilon }, &[split, scale, bias])?;
    Ok(vec![n.reshape(normed, dims)?])
}

/// Outputs 1 and 2 are the mean and the reciprocal of the standard deviation.
pub(crate) fn layer_normalization(n: &mut Site) -> Outcome {
    let (x, scale) = (n.input(0)?, n.input(1)?);
    let bias = n.optional(2);
    n.without_effect(&["stash_type"]);
    let epsilon = n.float_or("epsilon", 1e-5)?;
    let axes: Vec<usize> = (n.axis_or(-1, x)?..n.rank(x)).collect();
    let bias = bias.unwrap_or_else(|| n.scalar(0.0, n.dtype(x)));
    let y = n.op(Op::layer_norm { axes: axes.clone(), epsilon: Real(epsilon) }, &[x, scale, bias])?;
    if !n.wants(1) && !n.wants(2) {
        return Ok(vec![y]);
    }
    let mean = n.op(Op::reduce_mean { axes: axes.clone() }, &[x])?;
    let centred = n.op(Op::sub, &[x, mean])?;
    let squares = n.op(Op::mul, &[centred, centred])?;
    let variance = n.op(Op::reduce_mean { axes }, &[squares])?;
    let raised = n.with_number(Op::add, variance, epsilon)?;
    let deviation = n.op(Op::sqrt, &[raised])?;
    let reciprocal = n.op(Op::reciprocal, &[deviation])?;
    Ok(vec![y, mean, reciprocal])
}

pub(crate) fn rms_normalization(n: &mut Site) -> Outcome {
    let (x, scale) = (n.input(0)?, n.input(1)?);
    n.without_effect(&["stash_type"]);
    let epsilon = Real(n.float_or("epsilon", 1e-5)?);
    let axes = (n.axis_or(-1, x)?..n.rank(x)).collect();
    let scale = n.cast(scale, n.dtype(x))?;
    Ok(vec![n.op(Op::rms_norm { axes, epsilon }, &[x, scale])?])
}

/// `(x - mean)/(deviation + 1e-9)`: the tiny term only keeps constant tensors from dividing by 0, and so it may as well stand
/// below the root, as `1e-18`.
pub(crate) fn mean_variance_normalization(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let axes = n.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let axes = n.axes("axes", &axes, n.rank(x))?;
    let (one, zero) = (n.scalar(1.0, n.dtype(x)), n.scalar(0.0, n.dtype(x)));
    Ok(vec![n.op(Op::layer_norm { axes, epsilon: Real(1e-18) }, &[x, one, zero])?])
}

/// `x` divided by its norm along an axis, or 0 where that is 0.
pub(crate) fn lp_normalization(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let axes = vec![n.axis_or(-1, x)?];
    let sizes = n.op(Op::abs, &[x])?;
    let norm = match n.int_or("p", 2)? {
        1 => n.op(Op::reduce_sum { axes }, &[sizes])?,
        2 => {
            let squares = n.op(Op::mul, &[x, x])?;
            let sum = n.op(Op::reduce_sum { axes }, &[squares])?;
            n.op(Op::sqrt, &[sum])?
        }
        p => return Err(n.refused("p", p, "`LpNormalization` has `p` 1 or 2")),
    };
    let empty = n.with_number(Op::eq, norm, 0.0)?;
    let one = n.scalar(1.0, n.dtype(x));
    let divisor = n.op(Op::select, &[empty, one, norm])?;
    Ok(vec![n.op(Op::div, &[x, divisor])?])
}

pub(crate) fn lrn(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let size = n.int("size")?.and_then(|s| usize::try_from(s).ok()).filter(|s| *s > 0);
    let size = size.ok_or_else(|| malformed(Code::Attribute, "`LRN` needs a `size` of at least 1"))?;
    let (alpha, beta, bias) = (Real(n.float_or("alpha", 1e-4)?), Real(n.float_or("beta", 0.75)?), Real(n.float_or("bias", 1.0)?));
    Ok(vec![n.op(Op::lrn { size, alpha, beta, bias, axis: 1 }, &[x])?])
}
