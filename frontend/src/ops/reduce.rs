//! Reductions, positions of extremes, running sums and the largest few.

use crate::ops::found;
use crate::site::{Outcome, Site, Stop};
use egret_ir::{DType, Dim, Op, ValueId};

/// What is reduced, over which axes, and whether they stay.
struct Reduction {
    x: ValueId,
    axes: Vec<usize>,
    keep: bool,
}

/// Axes are an input since opset `input_since`, an attribute before. None means all, unless `noop_with_empty_axes`.
fn reduction(n: &mut Site, input_since: i64) -> Result<Reduction, Stop> {
    let x = n.input(0)?;
    let rank = n.rank(x);
    let axes = if n.opset < input_since { n.ints("axes")? } else { n.optional(1).map(|_| n.numbers(1, "the axes")).transpose()? };
    let none_means_all = !n.flag("noop_with_empty_axes")?;
    let axes = match axes {
        Some(axes) if !axes.is_empty() => n.axes("axes", &axes, rank)?,
        _ if none_means_all => (0..rank).collect(),
        _ => vec![],
    };
    Ok(Reduction { x, axes, keep: n.int_or("keepdims", 1)? != 0 })
}

impl Reduction {
    /// Reduces `x` with the op that `op` makes of the axes.
    fn over(&self, n: &mut Site, op: fn(Vec<usize>) -> Op, x: ValueId) -> Result<ValueId, Stop> {
        if self.axes.is_empty() { Ok(x) } else { n.op(op(self.axes.clone()), &[x]) }
    }

    /// Drops the axes if they do not stay.
    fn finish(&self, n: &mut Site, x: ValueId) -> Outcome {
        if self.keep {
            return Ok(vec![x]);
        }
        let dims = n.dims(x).into_iter().enumerate().filter(|(a, _)| !self.axes.contains(a)).map(|(_, d)| d);
        Ok(vec![n.reshape(x, dims.collect::<Vec<Dim>>())?])
    }

    /// The input in a float type, for reductions through roots and logarithms.
    fn float(&self, n: &mut Site) -> Result<ValueId, Stop> {
        if n.dtype(self.x).is_float() { Ok(self.x) } else { n.cast(self.x, DType::F64) }
    }

    /// As [`Reduction::finish`], in the element type of the input.
    fn finish_float(&self, n: &mut Site, x: ValueId) -> Outcome {
        let x = n.cast(x, n.dtype(self.x))?;
        self.finish(n, x)
    }
}

fn sum_op(axes: Vec<usize>) -> Op {
    Op::reduce_sum { axes }
}

fn max_op(axes: Vec<usize>) -> Op {
    Op::reduce_max { axes }
}

pub(crate) fn sum(n: &mut Site) -> Outcome {
    let r = reduction(n, 13)?;
    let sum = r.over(n, sum_op, r.x)?;
    r.finish(n, sum)
}

pub(crate) fn mean(n: &mut Site) -> Outcome {
    let r = reduction(n, 18)?;
    let mean = r.over(n, |axes| Op::reduce_mean { axes }, r.x)?;
    r.finish(n, mean)
}

pub(crate) fn prod(n: &mut Site) -> Outcome {
    let r = reduction(n, 18)?;
    let product = r.over(n, |axes| Op::reduce_prod { axes }, r.x)?;
    r.finish(n, product)
}

pub(crate) fn max(n: &mut Site) -> Outcome {
    extreme(n, max_op)
}

pub(crate) fn min(n: &mut Site) -> Outcome {
    extreme(n, |axes| Op::reduce_min { axes })
}

/// Truth values (since opset 20) are ordered as numbers.
fn extreme(n: &mut Site, op: fn(Vec<usize>) -> Op) -> Outcome {
    let r = reduction(n, 18)?;
    let dtype = n.dtype(r.x);
    let x = if dtype == DType::Bool { n.cast(r.x, DType::U8)? } else { r.x };
    let found = r.over(n, op, x)?;
    let found = n.cast(found, dtype)?;
    r.finish(n, found)
}

pub(crate) fn l1(n: &mut Site) -> Outcome {
    let r = reduction(n, 18)?;
    let sizes = n.op(Op::abs, &[r.x])?;
    let sum = r.over(n, sum_op, sizes)?;
    r.finish(n, sum)
}

pub(crate) fn l2(n: &mut Site) -> Outcome {
    let r = reduction(n, 18)?;
    let x = r.float(n)?;
    let squares = n.op(Op::mul, &[x, x])?;
    let sum = r.over(n, sum_op, squares)?;
    let root = n.op(Op::sqrt, &[sum])?;
    r.finish_float(n, root)
}

pub(crate) fn sum_square(n: &mut Site) -> Outcome {
    let r = reduction(n, 18)?;
    let squares = n.op(Op::mul, &[r.x, r.x])?;
    let sum = r.over(n, sum_op, squares)?;
    r.finish(n, sum)
}

pub(crate) fn log_sum(n: &mut Site) -> Outcome {
    let r = reduction(n, 18)?;
    let x = r.float(n)?;
    let sum = r.over(n, sum_op, x)?;
    let log = n.op(Op::log, &[sum])?;
    r.finish_float(n, log)
}

/// `log(sum(exp(x - m))) + m` with the largest element as `m`, or 0 where that is infinite.
pub(crate) fn log_sum_exp(n: &mut Site) -> Outcome {
    let r = reduction(n, 18)?;
    let x = r.float(n)?;
    let largest = r.over(n, max_op, x)?;
    let size = n.op(Op::abs, &[largest])?;
    let infinite = n.with_number(Op::eq, size, f64::INFINITY)?;
    let zero = n.scalar(0.0, n.dtype(x));
    let shift = n.op(Op::select, &[infinite, zero, largest])?;
    let shifted = n.op(Op::sub, &[x, shift])?;
    let exps = n.op(Op::exp, &[shifted])?;
    let sum = r.over(n, sum_op, exps)?;
    let log = n.op(Op::log, &[sum])?;
    let result = n.op(Op::add, &[log, shift])?;
    r.finish_float(n, result)
}

pub(crate) fn arg_max(n: &mut Site) -> Outcome {
    arg(n, |axis, last| Op::arg_max { axis, last })
}

pub(crate) fn arg_min(n: &mut Site) -> Outcome {
    arg(n, |axis, last| Op::arg_min { axis, last })
}

fn arg(n: &mut Site, op: fn(usize, bool) -> Op) -> Outcome {
    let x = n.input(0)?;
    let axis = n.axis_or(0, x)?;
    let r = Reduction { x, axes: vec![axis], keep: n.int_or("keepdims", 1)? != 0 };
    let last = n.flag("select_last_index")?;
    let index = n.op(op(axis, last), &[x])?;
    r.finish(n, index)
}

pub(crate) fn cumsum(n: &mut Site) -> Outcome {
    running(n, |axis, exclusive, reverse| Op::cumsum { axis, exclusive, reverse })
}

pub(crate) fn cumprod(n: &mut Site) -> Outcome {
    running(n, |axis, exclusive, reverse| Op::cumprod { axis, exclusive, reverse })
}

fn running(n: &mut Site, op: fn(usize, bool, bool) -> Op) -> Outcome {
    let x = n.input(0)?;
    let axis = n.numbers(1, "the axis")?.into_iter().next().unwrap_or(0);
    let axis = n.axis(axis, n.rank(x))?;
    let (exclusive, reverse) = (n.flag("exclusive")?, n.flag("reverse")?);
    Ok(vec![n.op(op(axis, exclusive, reverse), &[x])?])
}

/// `k` is an input since opset 10, an attribute before. Unsorted results are sorted too: any order is allowed then.
pub(crate) fn top_k(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let axis = n.axis_or(-1, x)?;
    let k = if n.opset < 10 {
        Dim::from(n.int_or("k", 0)?)
    } else {
        found::contents(n, 1, "the number of elements")?.into_iter().next().unwrap_or(Dim::ZERO)
    };
    n.without_effect(&["sorted"]);
    let largest = n.int_or("largest", 1)? != 0;
    n.ops(Op::top_k { axis, k, largest }, &[x])
}
