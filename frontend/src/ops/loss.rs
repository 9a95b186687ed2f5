//! The losses that training graphs end in, as inference computes them.
//!
//! ```text
//! NegativeLogLikelihoodLoss   loss[n, d..] = -weight[t] * x[n, t, d..]   with t = target[n, d..]
//! SoftmaxCrossEntropyLoss     the same of log_softmax(x) over the classes
//! ```
//!
//! Positions whose target is `ignore_index` count nothing, in the sum and in the mean alike.

use crate::error::Code;
use crate::site::{Outcome, Site, Stop, malformed};
use egret_ir::{DType, Dim, Op, ValueId};

pub(crate) fn negative_log_likelihood(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    Ok(vec![likelihood(n, x)?])
}

/// The second output is the logarithm of the softmax.
pub(crate) fn softmax_cross_entropy(n: &mut Site) -> Outcome {
    let scores = n.input(0)?;
    let logs = n.op(Op::log_softmax { axes: vec![1] }, &[scores])?;
    Ok(vec![likelihood(n, logs)?, logs])
}

/// x: [n, classes, d..], target: [n, d..], weight: \[classes\] -> [n, d..], or rank 0 when reduced
fn likelihood(n: &mut Site, x: ValueId) -> Result<ValueId, Stop> {
    let target = n.input(1)?;
    let weights = n.optional(2);
    let ignored = n.int("ignore_index")?;
    let reduction = n.word("reduction", "mean", &[("none", Reduction::None), ("sum", Reduction::Sum), ("mean", Reduction::Mean)])?;
    if n.rank(x) < 2 || n.rank(target) + 1 != n.rank(x) {
        let message =
            format!("`{}` expects classes on axis 1 and targets without them, found {} and {}", n.operator, n.ty(x), n.ty(target));
        return Err(malformed(Code::Shape, message));
    }
    let counted = ignored.map(|ignored| counted(n, target, ignored)).transpose()?;
    let (target, counts) = counted.map_or((target, None), |(target, counts)| (target, Some(counts)));
    let picked = picked(n, x, target)?;
    let loss = n.op(Op::neg, &[picked])?;
    let shares = shares(n, weights, target, counts, n.dtype(x))?;
    let loss = match shares {
        Some(shares) => n.op(Op::mul, &[loss, shares])?,
        None => loss,
    };
    match (reduction, shares) {
        (Reduction::None, _) => Ok(loss),
        (Reduction::Sum, _) => all(n, |axes| Op::reduce_sum { axes }, loss),
        (Reduction::Mean, None) => all(n, |axes| Op::reduce_mean { axes }, loss),
        (Reduction::Mean, Some(shares)) => {
            let (sum, whole) = (all(n, |axes| Op::reduce_sum { axes }, loss)?, all(n, |axes| Op::reduce_sum { axes }, shares)?);
            n.op(Op::div, &[sum, whole])
        }
    }
}

#[derive(Clone, Copy)]
enum Reduction {
    None,
    Sum,
    Mean,
}

/// The targets with 0 in place of those that are ignored, and which are not.
fn counted(n: &mut Site, target: ValueId, ignored: i64) -> Result<(ValueId, ValueId), Stop> {
    let is_ignored = n.with_number(Op::eq, target, ignored as f64)?;
    let zero = n.scalar(0.0, n.dtype(target));
    Ok((n.op(Op::select, &[is_ignored, zero, target])?, n.op(Op::not, &[is_ignored])?))
}

/// `x[n, target[n, d..], d..]`
fn picked(n: &mut Site, x: ValueId, target: ValueId) -> Result<ValueId, Stop> {
    let dims = n.dims(target);
    let with_class = [&dims[..1], &[Dim::ONE], &dims[1..]].concat();
    let index = n.reshape(target, with_class)?;
    let found = n.op(Op::gather_elements { axis: 1 }, &[x, index])?;
    n.reshape(found, dims)
}

/// How much each position counts; `None` when all count 1.
fn shares(n: &mut Site, weights: Option<ValueId>, target: ValueId, counts: Option<ValueId>, dtype: DType) -> Result<Option<ValueId>, Stop> {
    let weighted = match weights {
        Some(weights) => Some(n.op(Op::gather { axis: 0 }, &[weights, target])?),
        None => None,
    };
    Ok(match (weighted, counts) {
        (Some(weights), Some(counts)) => {
            let zero = n.scalar(0.0, dtype);
            Some(n.op(Op::select, &[counts, weights, zero])?)
        }
        (None, Some(counts)) => Some(n.cast(counts, dtype)?),
        (weighted, None) => weighted,
    })
}

/// A fold over all axes, as rank 0.
fn all(n: &mut Site, op: fn(Vec<usize>) -> Op, x: ValueId) -> Result<ValueId, Stop> {
    let folded = n.op(op((0..n.rank(x)).collect()), &[x])?;
    n.reshape(folded, [])
}
