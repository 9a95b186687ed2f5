//! Operators that ask for a shape or give a tensor another one.

use crate::error::Code;
use crate::ops::found;
use crate::site::{Outcome, Site, Stop, malformed};
use egret_ir::{Dim, Op, ValueId, broadcast};

/// The extents from `start` to `end` (since opset 15) as a tensor.
pub(crate) fn shape(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let dims = n.dims(x);
    let rank = dims.len() as i64;
    let position = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
    let (start, end) = (position(n.int_or("start", 0)?), position(n.int_or("end", rank)?));
    let values = dims.get(start..end).unwrap_or(&[]).to_vec();
    Ok(vec![n.op(Op::dims { values }, &[])?])
}

/// The number of elements.
pub(crate) fn size(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let count = n.ty(x).count();
    let list = n.op(Op::dims { values: vec![count] }, &[])?;
    Ok(vec![n.reshape(list, [])?])
}

/// In the wanted shape, 0 takes the input's extent (unless `allowzero`), and -1 what is left.
pub(crate) fn reshape(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let (input, allow_zero) = (n.dims(x), n.flag("allowzero")?);
    let given = n.input(1)?;
    let mut shape = match n.build.contents(given) {
        None if found::is_list(n, given) => {
            let shape = found::reshaped(n, x, given, allow_zero)?;
            return Ok(vec![n.reshape(x, shape)?]);
        }
        _ => n.contents(1, "the shape")?,
    };
    for (axis, wanted) in shape.iter_mut().enumerate().filter(|(_, d)| d.is(0) && !allow_zero) {
        let extent = input.get(axis).cloned();
        *wanted = extent.ok_or_else(|| malformed(Code::Shape, format!("shape {axis} is 0, which takes axis {axis} of {}", n.ty(x))))?;
    }
    if let Some(axis) = shape.iter().position(|d| d.is(-1)) {
        let others: Vec<Dim> = shape.iter().enumerate().filter(|(a, _)| *a != axis).map(|(_, d)| d.clone()).collect();
        shape[axis] = quotient(&input, &others);
    }
    Ok(vec![n.reshape(x, shape)?])
}

/// The product of `from` divided by the product of `by`, with equal factors cancelled first.
fn quotient(from: &[Dim], by: &[Dim]) -> Dim {
    let mut left = from.to_vec();
    let mut divisor = Dim::ONE;
    for factor in by {
        match left.iter().position(|d| d == factor && !d.is(0)) {
            Some(i) => drop(left.remove(i)),
            None => divisor = divisor * factor.clone(),
        }
    }
    let count: Dim = left.into_iter().product();
    count.floor_div(&divisor)
}

pub(crate) fn flatten(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let (dims, axis) = (n.dims(x), n.int_or("axis", 1)?);
    // `axis` may be the rank: everything before it, nothing behind.
    let at = if axis < 0 { axis.saturating_add(dims.len() as i64) } else { axis };
    let at = usize::try_from(at).ok().filter(|a| *a <= dims.len());
    let at = at.ok_or_else(|| n.refused("axis", axis, format!("axis {axis} is outside of {}", n.ty(x))))?;
    let (outer, inner) = dims.split_at(at);
    Ok(vec![n.reshape(x, [outer.iter().cloned().product(), inner.iter().cloned().product()])?])
}

/// Axes are an input since opset 13, an attribute before.
fn axes_of(n: &mut Site) -> Result<Option<Vec<i64>>, Stop> {
    if n.opset < 13 {
        return n.ints("axes");
    }
    match n.optional(1) {
        None => Ok(None),
        Some(_) => n.numbers(1, "the axes").map(Some),
    }
}

/// Without axes, all that are known to have extent 1 go; a symbolic extent is taken to be another one.
pub(crate) fn squeeze(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let dims = n.dims(x);
    let gone = match axes_of(n)? {
        Some(axes) => n.axes("axes", &axes, dims.len())?,
        None => (0..dims.len()).filter(|&a| dims[a].is(1)).collect(),
    };
    if let Some(&axis) = gone.iter().find(|&&a| dims[a].as_const().is_some_and(|d| d != 1)) {
        return Err(malformed(Code::Shape, format!("axis {axis} of {} cannot be squeezed, expected extent 1", n.ty(x))));
    }
    let left = dims.iter().enumerate().filter(|(a, _)| !gone.contains(a)).map(|(_, d)| d.clone());
    Ok(vec![n.reshape(x, left)?])
}

pub(crate) fn unsqueeze(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let axes = axes_of(n)?.ok_or_else(|| malformed(Code::Attribute, "`Unsqueeze` needs axes, found none"))?;
    let rank = n.rank(x) + axes.len();
    let new = n.axes("axes", &axes, rank)?;
    let mut old = n.dims(x).into_iter();
    let dims: Vec<Dim> = (0..rank).map(|a| if new.contains(&a) { Dim::ONE } else { old.next().unwrap_or(Dim::ONE) }).collect();
    Ok(vec![n.reshape(x, dims)?])
}

/// Broadcasting goes both ways: an extent of 1 in the wanted shape keeps the input's.
pub(crate) fn expand(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let given = n.input(1)?;
    let wanted = match n.build.contents(given) {
        None if found::is_list(n, given) => {
            let shape = found::expanded(n, x, given)?;
            return Ok(vec![n.broadcast(x, shape)?]);
        }
        _ => n.contents(1, "the shape")?,
    };
    let shape =
        broadcast(&[&n.dims(x), &wanted]).map_err(|e| malformed(Code::Shape, format!("{} does not expand to {wanted:?}: {e}", n.ty(x))))?;
    Ok(vec![n.broadcast(x, shape)?])
}

/// Every repeated axis gets an axis of repetitions before it, which is then merged: `[d]` -> `[1, d]` -> `[r, d]` -> `[r*d]`.
pub(crate) fn tile(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let repeats = found::contents(n, 1, "the number of repetitions")?;
    let dims = n.dims(x);
    if repeats.len() != dims.len() {
        return Err(malformed(Code::Shape, format!("`Tile` needs one number per axis of {}, found {}", n.ty(x), repeats.len())));
    }
    let pairs = || repeats.iter().zip(&dims);
    let split = |first: &dyn Fn(&Dim) -> Dim| {
        pairs().flat_map(|(r, d)| if r.is(1) { vec![d.clone()] } else { vec![first(r), d.clone()] }).collect::<Vec<Dim>>()
    };
    let apart = n.reshape(x, split(&|_| Dim::ONE))?;
    let repeated = n.broadcast(apart, split(&|r| r.clone()))?;
    let merged: Vec<Dim> = pairs().map(|(r, d)| r.clone() * d.clone()).collect();
    Ok(vec![n.reshape(repeated, merged)?])
}

/// Without `perm` the axes are reversed.
pub(crate) fn transpose(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let rank = n.rank(x);
    let perm = match n.ints("perm")? {
        Some(perm) => n.axes("perm", &perm, rank)?,
        None => (0..rank).rev().collect(),
    };
    if perm.len() != rank {
        return Err(n.refused("perm", format!("{perm:?}"), format!("`perm` needs an entry per axis of {}", n.ty(x))));
    }
    Ok(vec![n.transpose(x, perm)?])
}

pub(crate) fn concat(n: &mut Site) -> Outcome {
    let inputs = n.inputs()?;
    let axis = n.axis_or(0, n.input(0)?)?;
    Ok(vec![n.concat(&inputs, axis)?])
}

/// The block size and the extents of an image `[batch, channels, height, width]`.
fn blocks(n: &mut Site) -> Result<(ValueId, Dim, [Dim; 4]), Stop> {
    let x = n.input(0)?;
    let size = n.int("blocksize")?.filter(|b| (1..1 << 16).contains(b));
    let size = size.ok_or_else(|| malformed(Code::Attribute, format!("`{}` needs a `blocksize` of at least 1", n.operator)))?;
    let dims = <[Dim; 4]>::try_from(n.dims(x));
    let dims = dims.map_err(|_| malformed(Code::Shape, format!("`{}` expects a tensor of rank 4, found {}", n.operator, n.ty(x))))?;
    Ok((x, Dim::from(size), dims))
}

/// `[n, c*b*b, h, w]` -> `[n, c, h*b, w*b]`
pub(crate) fn depth_to_space(n: &mut Site) -> Outcome {
    let (x, size, [batch, channels, height, width]) = blocks(n)?;
    let depth_first = n.word("mode", "DCR", &[("DCR", true), ("CRD", false)])?;
    let inner = channels.floor_div(&(size.clone() * size.clone()));
    let b = || size.clone();
    let (split, perm) = if depth_first {
        ([batch.clone(), b(), b(), inner.clone(), height.clone(), width.clone()], vec![0, 3, 4, 1, 5, 2])
    } else {
        ([batch.clone(), inner.clone(), b(), b(), height.clone(), width.clone()], vec![0, 1, 4, 2, 5, 3])
    };
    let split = n.reshape(x, split)?;
    let moved = n.transpose(split, perm)?;
    Ok(vec![n.reshape(moved, [batch, inner, height * b(), width * b()])?])
}

/// `[n, c, h*b, w*b]` -> `[n, b*b*c, h, w]`
/// Blocks come before the channels they are of, or (opset 28, mode `CRD`) behind them.
pub(crate) fn space_to_depth(n: &mut Site) -> Outcome {
    let (x, size, [batch, channels, height, width]) = blocks(n)?;
    let perm = n.word("mode", "DCR", &[("DCR", vec![0, 3, 5, 1, 2, 4]), ("CRD", vec![0, 1, 3, 5, 2, 4])])?;
    let (height, width) = (height.floor_div(&size), width.floor_div(&size));
    let b = || size.clone();
    let split = n.reshape(x, [batch.clone(), channels.clone(), height.clone(), b(), width.clone(), b()])?;
    let moved = n.transpose(split, perm)?;
    Ok(vec![n.reshape(moved, [batch, channels * b() * b(), height, width])?])
}
