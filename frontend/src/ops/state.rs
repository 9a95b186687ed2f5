//! Operators that carry a state from call to call: linear attention, causal convolution, caches.

use crate::error::Code;
use crate::ops::attention::{head_count, repeated};
use crate::site::{Outcome, Site, Stop, dim_help, fault, malformed};
use egret_ir::attr::{Algorithm, Layout, PadMode};
use egret_ir::{DType, Dim, Op, ValueId};

/// Depthwise convolution over what came before and the input: x: [b, c, s], w: [c, 1, k] -> [b, c, s], and the last k - 1 of
/// what it saw.
pub(crate) fn causal_conv(n: &mut Site) -> Outcome {
    let (x, w) = (n.input(0)?, n.input(1)?);
    let (dims, kernel) = (n.dims(x), n.dims(w).last().cloned().unwrap_or(Dim::ONE));
    let channels = dims.get(1).and_then(Dim::as_const).and_then(|c| usize::try_from(c).ok());
    let (Some(channels), [_, _, _]) = (channels, dims.as_slice()) else {
        let message = format!("`{}` expects [batch, channels, length] with a number of channels, found {}", n.operator, n.ty(x));
        return Err(malformed(Code::Shape, message));
    };
    let before = kernel - 1;
    let seen = match n.optional(3) {
        Some(past) => n.concat(&[past, x], 2)?,
        None => {
            let border = n.scalar(0.0, n.dtype(x));
            let (low, high) = (vec![Dim::ZERO, Dim::ZERO, before.clone()], vec![Dim::ZERO; 3]);
            n.op(Op::pad { low, high, mode: PadMode::Constant }, &[x, border])?
        }
    };
    let (layout, algorithm) = (Layout::First, Algorithm::Direct);
    let op = Op::conv { stride: vec![1], pad: vec![0, 0], dilation: vec![1], group: channels, layout, algorithm };
    let mut y = n.op(op, &[seen, w])?;
    if let Some(bias) = n.optional(2) {
        let bias = n.reshape(bias, [Dim::from(channels), Dim::ONE])?;
        y = n.op(Op::add, &[y, bias])?;
    }
    if n.word("activation", "none", &[("none", false), ("silu", true), ("swish", true)])? {
        y = n.op(Op::silu, &[y])?;
    }
    let last = n.dims(seen)[2].clone() - before.clone();
    Ok(vec![y, n.slice(seen, 2, last, before)?])
}

/// Steps that linear attention is unrolled into.
const MOST_STEPS: i64 = 1024;

/// How the state changes in a step.
#[derive(Clone, Copy)]
struct Rule {
    /// It fades by `exp(decay)`.
    gated: bool,
    /// Only what it does not predict yet is added, by the rate `beta`.
    delta: bool,
}

/// Per step `S = exp(g)*S + beta * k (v - S^T k)^T` (as far as the rule has these), `o = scale * S^T q`; q: [b, t, h*d], states:
/// [b, h, d, e]. Steps are unrolled.
pub(crate) fn linear_attention(n: &mut Site) -> Outcome {
    let rule = |gated, delta| Rule { gated, delta };
    let rules =
        [("linear", rule(false, false)), ("gated", rule(true, false)), ("delta", rule(false, true)), ("gated_delta", rule(true, true))];
    let rule = n.word("update_rule", "gated_delta", &rules)?;
    n.without_effect(&["chunk_size"]);
    let (q_heads, kv_heads) = (head_count(n, "q_num_heads")?, head_count(n, "kv_num_heads")?);
    let (q, k, v) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let dtype = n.dtype(q);
    // Half precision would lose the state step by step.
    let work = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let (q, k, v) = (by_step(n, q, &q_heads, work)?, by_step(n, k, &kv_heads, work)?, by_step(n, v, &kv_heads, work)?);
    let decay = if rule.gated { Some(factor(n, 4, &kv_heads, work)?) } else { None };
    let beta = if rule.delta { Some(factor(n, 5, &kv_heads, work)?) } else { None };
    let steps = step_count(n, q)?;
    let (width, height) = (n.dims(k)[3].clone(), n.dims(v)[3].clone());
    let batch = n.dims(q)[1].clone();
    let mut state = match n.optional(3) {
        Some(state) => n.cast(state, work)?,
        None => n.splat(0.0, work, vec![batch.clone(), kv_heads.clone(), width, height.clone()])?,
    };
    let scale = scale(n, q)?;
    let mut rows = vec![];
    for step in 0..steps {
        let at = |n: &mut Site, x: ValueId| one_step(n, x, step);
        let (k, v) = (at(n, k)?, at(n, v)?);
        let decay = decay.map(|decay| at(n, decay)).transpose()?;
        let beta = beta.map(|beta| at(n, beta)).transpose()?;
        state = next_state(n, state, [k, v], decay, beta)?;
        let q = at(n, q)?;
        let shared = repeated(n, state, &q_heads)?;
        let row = column(n, q)?;
        let row = n.transpose(row, vec![0, 1, 3, 2])?;
        let read = n.op(Op::matmul, &[row, shared])?;
        rows.push(n.with_number(Op::mul, read, scale)?);
    }
    // [b, h, 1, e] each -> [b, t, h*e]
    let rows = n.concat(&rows, 2)?;
    let moved = n.transpose(rows, vec![0, 2, 1, 3])?;
    let y = n.reshape(moved, [batch, Dim::from(steps), q_heads * height])?;
    Ok(vec![n.cast(y, dtype)?, n.cast(state, dtype)?])
}

/// k, v: [b, h, d] and [b, h, e]; decay: [b, h, d or 1]; beta: [b, h or 1, 1]
fn next_state(n: &mut Site, state: ValueId, [k, v]: [ValueId; 2], decay: Option<ValueId>, beta: Option<ValueId>) -> Result<ValueId, Stop> {
    let mut state = state;
    if let Some(decay) = decay {
        let kept = n.op(Op::exp, &[decay])?;
        let kept = column(n, kept)?;
        state = n.op(Op::mul, &[state, kept])?;
    }
    let k = column(n, k)?;
    let row = column(n, v)?;
    let mut row = n.transpose(row, vec![0, 1, 3, 2])?;
    if let Some(beta) = beta {
        let across = n.transpose(k, vec![0, 1, 3, 2])?;
        let predicted = n.op(Op::matmul, &[across, state])?;
        let surprise = n.op(Op::sub, &[row, predicted])?;
        let beta = column(n, beta)?;
        row = n.op(Op::mul, &[surprise, beta])?;
    }
    let added = n.op(Op::mul, &[k, row])?;
    n.op(Op::add, &[state, added])
}

/// [b, h, d] -> [b, h, d, 1]
fn column(n: &mut Site, x: ValueId) -> Result<ValueId, Stop> {
    let dims = [n.dims(x), vec![Dim::ONE]].concat();
    n.reshape(x, dims)
}

/// [b, t, h*d] -> [t, b, h, d]
fn by_step(n: &mut Site, x: ValueId, heads: &Dim, work: DType) -> Result<ValueId, Stop> {
    let [batch, steps, width] = n
        .dims(x)
        .try_into()
        .map_err(|_| malformed(Code::Shape, format!("`{}` expects operands [batch, steps, heads*width], found {}", n.operator, n.ty(x))))?;
    let x = n.cast(x, work)?;
    let split = n.reshape(x, [batch, steps, heads.clone(), width.floor_div(heads)])?;
    n.transpose(split, vec![1, 0, 2, 3])
}

/// The decay or the rate: one number per head (or for all), or one per element of the keys.
fn factor(n: &mut Site, input: usize, heads: &Dim, work: DType) -> Result<ValueId, Stop> {
    let x = n.input(input)?;
    let for_all = n.dims(x).get(2).is_some_and(|width| width.is(1));
    by_step(n, x, if for_all { &Dim::ONE } else { heads }, work)
}

fn one_step(n: &mut Site, x: ValueId, step: i64) -> Result<ValueId, Stop> {
    let one = n.slice(x, 0, Dim::from(step), Dim::ONE)?;
    let dims = n.dims(one)[1..].to_vec();
    n.reshape(one, dims)
}

fn step_count(n: &Site, q: ValueId) -> Result<i64, Stop> {
    let steps = &n.dims(q)[0];
    steps.as_const().filter(|steps| (1..=MOST_STEPS).contains(steps)).ok_or_else(|| {
        let message = format!("`{}` is unrolled and needs 1 to {MOST_STEPS} steps, found `{steps}`", n.operator);
        fault(Code::DataDependent, message, dim_help(&steps.symbols()))
    })
}

/// The attribute `scale`, or one over the root of the width of a head; q: [.., .., .., d].
pub(crate) fn scale(n: &Site, q: ValueId) -> Result<f64, Stop> {
    if let Some(scale) = n.float("scale")?.filter(|scale| *scale != 0.0) {
        return Ok(scale);
    }
    let width = n.dims(q)[3].clone();
    width.as_const().filter(|w| *w > 0).map(|w| 1.0 / (w as f64).sqrt()).ok_or_else(|| {
        let message = format!("`{}` without `scale` needs the width of a head as a number, found `{width}`", n.operator);
        fault(Code::DataDependent, message, dim_help(&width.symbols()))
    })
}

/// `swish(a) * b`
pub(crate) fn swiglu(n: &mut Site) -> Outcome {
    let b = n.input(1)?;
    let gate = crate::ops::elementwise::swish(n)?[0];
    Ok(vec![n.op(Op::mul, &[gate, b])?])
}

/// The cache with the update written at one place per member of the batch; a circular cache goes on at its start.
pub(crate) fn tensor_scatter(n: &mut Site) -> Outcome {
    let (cache, update) = (n.input(0)?, n.input(1)?);
    let axis = n.axis_or(-2, cache)?;
    let update = n.of_rank(update, n.rank(cache), "an update")?;
    let circular = n.word("mode", "linear", &[("linear", false), ("circular", true)])?;
    let start = n.optional(2);
    Ok(vec![written(n, cache, update, axis, start, circular)?])
}

/// The cache with the update written along `axis` from `start` on, one place per member of the batch, or from 0.
pub(crate) fn written(
    n: &mut Site,
    cache: ValueId,
    update: ValueId,
    axis: usize,
    start: Option<ValueId>,
    circular: bool,
) -> Result<ValueId, Stop> {
    let (dims, length) = (n.dims(cache), n.dims(update)[axis].clone());
    let at = n.iota(dims.clone(), axis, DType::I64)?;
    let mut relative = at;
    if let Some(start) = start {
        let mut per_member = vec![Dim::ONE; dims.len()];
        per_member[0] = n.dims(start).first().cloned().unwrap_or(Dim::ONE);
        let start = n.cast(start, DType::I64)?;
        let start = n.reshape(start, per_member)?;
        relative = n.op(Op::sub, &[at, start])?;
    }
    let number = |n: &mut Site, dim: Dim| n.op(Op::dims { values: vec![dim] }, &[]);
    if circular {
        let extent = number(n, dims[axis].clone())?;
        relative = n.op(Op::modulo, &[relative, extent])?;
    }
    let (zero, end) = (n.scalar(0.0, DType::I64), number(n, length.clone())?);
    let (behind, before) = (n.op(Op::le, &[zero, relative])?, n.op(Op::lt, &[relative, end])?);
    let is_written = n.op(Op::and, &[behind, before])?;
    let last = number(n, length - 1)?;
    let index = n.op(Op::clip, &[relative, zero, last])?;
    let written = n.op(Op::gather_elements { axis }, &[update, index])?;
    n.op(Op::select, &[is_written, written, cache])
}
