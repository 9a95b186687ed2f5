//! Operators of the domain com.microsoft: what ONNX Runtime's optimiser and its exporters write, as functions of standard ones.

use crate::error::Code;
use crate::ops::attention::{head_count, heads, merged};
use crate::ops::{conv, elementwise};
use crate::site::{Outcome, Site, Stop, fault, malformed};
use egret_ir::{DType, Dim, Op, Real, ValueId};

pub(crate) mod grouped_query;
pub(crate) mod quantize;

/// What masks add where they hide, unless the node says otherwise.
const HIDDEN: f64 = -10000.0;

/// Refuses an integer attribute whose value is none of `plain`, those that leave the operator as it is here; the first is the default.
fn only(n: &Site, name: &str, plain: &[i64]) -> Result<(), Stop> {
    let found = n.int_or(name, plain[0])?;
    match plain.contains(&found) {
        true => Ok(()),
        false => Err(n.refused(name, found, format!("`{}` with `{name}` {found} is not supported", n.operator))),
    }
}

fn with_bias(n: &mut Site, x: ValueId, bias: Option<ValueId>) -> Result<ValueId, Stop> {
    match bias {
        Some(bias) => n.op(Op::add, &[x, bias]),
        None => Ok(x),
    }
}

pub(crate) fn bias_gelu(n: &mut Site) -> Outcome {
    let (x, bias) = (n.input(0)?, n.input(1)?);
    let x = n.op(Op::add, &[x, bias])?;
    Ok(vec![n.op(Op::gelu, &[x])?])
}

pub(crate) fn gelu(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    Ok(vec![n.op(Op::gelu, &[x])?])
}

/// The bias is optional.
pub(crate) fn fast_gelu(n: &mut Site) -> Outcome {
    let (x, bias) = (n.input(0)?, n.optional(1));
    let x = with_bias(n, x, bias)?;
    Ok(vec![n.op(Op::gelu_tanh, &[x])?])
}

/// `x * sigmoid(alpha * x)`
pub(crate) fn quick_gelu(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let alpha = n.float_or("alpha", 1.702)?;
    let scaled = n.with_number(Op::mul, x, alpha)?;
    let gate = n.op(Op::sigmoid, &[scaled])?;
    Ok(vec![n.op(Op::mul, &[x, gate])?])
}

/// `alpha * A * B`, either transposed in its two innermost axes.
pub(crate) fn fused_matmul(n: &mut Site) -> Outcome {
    let (a, b) = (n.input(0)?, n.input(1)?);
    if n.flag("transBatchA")? || n.flag("transBatchB")? {
        return Err(n.refused("transBatchA", 1, "`FusedMatMul` with transposed batches is not supported"));
    }
    let (flip_a, flip_b, alpha) = (n.flag("transA")?, n.flag("transB")?, n.float_or("alpha", 1.0)?);
    let a = if flip_a { flipped(n, a)? } else { a };
    let b = if flip_b { flipped(n, b)? } else { b };
    let y = n.op(Op::matmul, &[a, b])?;
    Ok(vec![if alpha == 1.0 { y } else { n.with_number(Op::mul, y, alpha)? }])
}

/// The two innermost axes exchanged; a vector stays.
fn flipped(n: &mut Site, x: ValueId) -> Result<ValueId, Stop> {
    let mut perm: Vec<usize> = (0..n.rank(x)).collect();
    if let [.., a, b] = perm.as_mut_slice() {
        std::mem::swap(a, b);
    }
    n.transpose(x, perm)
}

/// A convolution, then a sum with `Z`, then an activation.
pub(crate) fn fused_conv(n: &mut Site) -> Outcome {
    let mut y = conv::conv(n)?[0];
    if let Some(z) = n.optional(3) {
        y = n.op(Op::add, &[y, z])?;
    }
    let parameters = n.floats("activation_params")?.unwrap_or_default();
    let parameter = |i: usize, default: f64| parameters.get(i).copied().unwrap_or(default);
    let op = match n.text("activation")?.as_deref() {
        None | Some("") => return Ok(vec![y]),
        Some("Relu") => Op::relu,
        Some("Tanh") => Op::tanh,
        Some("Sigmoid") => Op::sigmoid,
        Some("LeakyRelu") => Op::leaky_relu { alpha: Real(parameter(0, 0.01)) },
        Some("HardSigmoid") => Op::hard_sigmoid { alpha: Real(parameter(0, 0.2)), beta: Real(parameter(1, 0.5)) },
        Some("Clip") => {
            let dtype = n.dtype(y);
            let (low, high) = (n.scalar(parameter(0, f64::NEG_INFINITY), dtype), n.scalar(parameter(1, f64::INFINITY), dtype));
            return Ok(vec![n.op(Op::clip, &[y, low, high])?]);
        }
        Some(other) => return Err(n.refused("activation", other, format!("`FusedConv` with activation `{other}` is not supported"))),
    };
    Ok(vec![n.op(op, &[y])?])
}

/// Root-mean-square normalisation over the axes from `axis` on.
pub(crate) fn simplified_layer_norm(n: &mut Site) -> Outcome {
    let (x, scale) = (n.input(0)?, n.input(1)?);
    n.without_effect(&["stash_type"]);
    let epsilon = Real(n.float_or("epsilon", 1e-5)?);
    let axes = (n.axis_or(-1, x)?..n.rank(x)).collect();
    Ok(vec![n.op(Op::rms_norm { axes, epsilon }, &[x, scale])?])
}

/// The sum of input, skip and bias, normalised; the sum itself is the fourth output.
pub(crate) fn skip_layer_norm(n: &mut Site) -> Outcome {
    let (scale, shift, bias) = (n.input(2)?, n.optional(3), n.optional(4));
    let sum = skipped(n, bias)?;
    let epsilon = Real(n.float_or("epsilon", 1e-12)?);
    let shift = shift.unwrap_or_else(|| n.scalar(0.0, n.dtype(sum)));
    let axes = vec![n.rank(sum) - 1];
    let y = n.op(Op::layer_norm { axes, epsilon }, &[sum, scale, shift])?;
    statistics_are_unwanted(n)?;
    Ok(vec![y, sum, sum, sum])
}

/// The same with root-mean-square normalisation.
pub(crate) fn skip_simplified_layer_norm(n: &mut Site) -> Outcome {
    let (scale, bias) = (n.input(2)?, n.optional(3));
    let sum = skipped(n, bias)?;
    let epsilon = Real(n.float_or("epsilon", 1e-12)?);
    let y = n.op(Op::rms_norm { axes: vec![n.rank(sum) - 1], epsilon }, &[sum, scale])?;
    statistics_are_unwanted(n)?;
    Ok(vec![y, sum, sum, sum])
}

fn skipped(n: &mut Site, bias: Option<ValueId>) -> Result<ValueId, Stop> {
    let (x, skip) = (n.input(0)?, n.input(1)?);
    let sum = n.op(Op::add, &[x, skip])?;
    if n.rank(sum) == 0 {
        return Err(malformed(Code::Shape, format!("`{}` normalises the last axis, found {}", n.operator, n.ty(sum))));
    }
    with_bias(n, sum, bias)
}

/// Outputs 1 and 2 are for training.
fn statistics_are_unwanted(n: &Site) -> Result<(), Stop> {
    match n.wants(1) || n.wants(2) {
        true => {
            Err(fault(Code::Operand, format!("outputs 1 and 2 of `{}` are not supported", n.operator), "export the model for inference"))
        }
        false => Ok(()),
    }
}

/// The embeddings of words, positions and segments, added and normalised. The second output counts the mask of each row, the
/// third is the sum.
pub(crate) fn embed_layer_norm(n: &mut Site) -> Outcome {
    let (words, segments) = (n.input(0)?, n.optional(1));
    let (word_table, position_table, segment_table) = (n.input(2)?, n.input(3)?, n.optional(4));
    let (scale, shift, mask, positions) = (n.input(5)?, n.input(6)?, n.optional(7), n.optional(8));
    n.without_effect(&["mask_index_type"]);
    let epsilon = Real(n.float_or("epsilon", 1e-12)?);
    let mut sum = n.op(Op::gather { axis: 0 }, &[word_table, words])?;
    let place = match positions {
        Some(positions) => n.op(Op::gather { axis: 0 }, &[position_table, positions])?,
        None => {
            let length = n.dims(words).get(1).cloned().unwrap_or(Dim::ONE);
            n.slice(position_table, 0, Dim::ZERO, length)?
        }
    };
    sum = n.op(Op::add, &[sum, place])?;
    if let (Some(segments), Some(table)) = (segments, segment_table) {
        let segment = n.op(Op::gather { axis: 0 }, &[table, segments])?;
        sum = n.op(Op::add, &[sum, segment])?;
    }
    let y = n.op(Op::layer_norm { axes: vec![2], epsilon }, &[sum, scale, shift])?;
    let batch = n.dims(words).first().cloned().unwrap_or(Dim::ONE);
    let counts = match mask {
        Some(mask) => {
            let mask = n.cast(mask, DType::I32)?;
            let counts = n.op(Op::reduce_sum { axes: vec![1] }, &[mask])?;
            n.reshape(counts, [batch])?
        }
        None => n.splat(0.0, DType::I32, vec![batch])?,
    };
    Ok(vec![y, counts, sum])
}

/// How queries and keys meet.
struct Meeting {
    scale: f64,
    mask: Option<ValueId>,
    causal: bool,
}

impl Meeting {
    fn new(n: &Site, q: ValueId, mask: Option<ValueId>) -> Result<Meeting, Stop> {
        let width = n.dims(q)[3].as_const().filter(|w| *w > 0).map(|w| 1.0 / (w as f64).sqrt());
        let scale = n.float("scale")?.filter(|scale| *scale != 0.0).or(width);
        let scale = scale.ok_or_else(|| malformed(Code::Shape, format!("`{}` needs the width of a head as a number", n.operator)))?;
        Ok(Meeting { scale, mask, causal: n.flag("unidirectional")? })
    }

    /// q, k, v: [b, h, s, d] -> [b, s, h*d]
    fn of(&self, n: &mut Site, q: ValueId, k: ValueId, v: ValueId) -> Result<ValueId, Stop> {
        let operands: Vec<ValueId> = [q, k, v].into_iter().chain(self.mask).collect();
        let y = n.op(Op::attention { scale: Real(self.scale), causal: self.causal }, &operands)?;
        merged(n, y)
    }
}

/// One product makes queries, keys and values: x: [b, s, i], w: [i, 3*h*d] -> [b, s, h*d]
pub(crate) fn attention(n: &mut Site) -> Outcome {
    let (x, w, bias, mask, added) = (n.input(0)?, n.input(1)?, n.optional(2), n.optional(3), n.optional(5));
    if n.optional(4).is_some() || n.optional(6).is_some() || n.wants(1) {
        return Err(fault(
            Code::Operand,
            "`Attention` of com.microsoft with past keys is not supported",
            "export the model without a cache",
        ));
    }
    // What a cache that is shared between calls would need; there is none.
    n.without_effect(&["past_present_share_buffer"]);
    only(n, "do_rotary", &[0])?;
    let product = n.op(Op::matmul, &[x, w])?;
    let product = with_bias(n, product, bias)?;
    same_widths(n, product)?;
    of_product(n, product, mask, added)
}

/// Refuses values that are narrower or wider than the queries.
fn same_widths(n: &Site, product: ValueId) -> Result<(), Stop> {
    let Some(widths) = n.ints("qkv_hidden_sizes")? else { return Ok(()) };
    let third = n.dims(product).last().map(|width| width.floor_div(&Dim::from(3)));
    match widths.iter().all(|&width| third == Some(Dim::from(width))) {
        true => Ok(()),
        false => {
            Err(n.refused("qkv_hidden_sizes", format!("{widths:?}"), "`Attention` of com.microsoft with several widths is not supported"))
        }
    }
}

/// Attention of queries, keys and values that stand side by side: [b, s, 3*h*d] -> [b, s, h*d]
fn of_product(n: &mut Site, product: ValueId, mask: Option<ValueId>, added: Option<ValueId>) -> Outcome {
    let count = head_count(n, "num_heads")?;
    n.of_rank(product, 3, "queries, keys and values")?;
    let width = n.dims(product)[2].floor_div(&Dim::from(3));
    let mut parts = vec![];
    for i in 0..3 {
        let part = n.slice(product, 2, width.clone() * i, width.clone())?;
        parts.push(split(n, part, &count)?);
    }
    n.has("mask_filter_value");
    let mask = mask.map(|mask| padding_mask(n, mask, parts[0])).transpose()?;
    let mask = both(n, mask, added)?;
    let meeting = Meeting::new(n, parts[0], mask)?;
    Ok(vec![meeting.of(n, parts[0], parts[1], parts[2])?])
}

/// [b, s, h*d] -> [b, h, s, d]
fn split(n: &mut Site, x: ValueId, count: &Dim) -> Result<ValueId, Stop> {
    let [batch, length, width] = n
        .dims(x)
        .try_into()
        .map_err(|_| malformed(Code::Shape, format!("`{}` expects [batch, sequence, width], found {}", n.operator, n.ty(x))))?;
    let apart = n.reshape(x, [batch, length, count.clone(), width.floor_div(count)])?;
    n.transpose(apart, vec![0, 2, 1, 3])
}

/// What is added to the scores: where the mask [b, s] (or [b, q, s]) is 0, a large negative number.
fn padding_mask(n: &mut Site, mask: ValueId, q: ValueId) -> Result<ValueId, Stop> {
    let hidden = n.float_or("mask_filter_value", HIDDEN)?;
    let mut dims = n.dims(mask);
    match dims.len() {
        2 => dims.splice(1..1, [Dim::ONE, Dim::ONE]).for_each(drop),
        3 => dims.insert(1, Dim::ONE),
        _ => return Err(malformed(Code::Shape, format!("`{}` expects a mask of rank 2 or 3, found {}", n.operator, n.ty(mask)))),
    }
    let mask = n.reshape(mask, dims)?;
    let hides = n.with_number(Op::eq, mask, 0.0)?;
    let dtype = n.dtype(q);
    let (hidden, zero) = (n.scalar(hidden, dtype), n.scalar(0.0, dtype));
    n.op(Op::select, &[hides, hidden, zero])
}

fn both(n: &mut Site, a: Option<ValueId>, b: Option<ValueId>) -> Result<Option<ValueId>, Stop> {
    Ok(match (a, b) {
        (Some(a), Some(b)) => Some(n.op(Op::add, &[a, b])?),
        (a, b) => a.or(b),
    })
}

/// Queries [b, s, h*d]; keys and values likewise, or [b, h, s, d]. The bias is that of all three, one after another.
pub(crate) fn multi_head_attention(n: &mut Site) -> Outcome {
    let (q, k, v) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let (bias, mask, added) = (n.optional(3), n.optional(4), n.optional(5));
    let past = [n.optional(6), n.optional(7)];
    let mut parts = vec![];
    let mut start = Dim::ZERO;
    for part in [q, k, v] {
        let with_bias = match (bias, n.rank(part)) {
            (Some(bias), 3) => {
                let width = n.dims(part)[2].clone();
                let own = n.slice(bias, 0, start.clone(), width.clone())?;
                start = start + width;
                n.op(Op::add, &[part, own])?
            }
            _ => part,
        };
        parts.push(heads(n, with_bias, "num_heads")?);
    }
    for (part, past) in parts[1..].iter_mut().zip(past) {
        if let Some(past) = past {
            *part = n.concat(&[past, *part], 2)?;
        }
    }
    n.has("mask_filter_value");
    let mask = mask.map(|mask| padding_mask(n, mask, parts[0])).transpose()?;
    let mask = both(n, mask, added)?;
    let meeting = Meeting::new(n, parts[0], mask)?;
    let y = meeting.of(n, parts[0], parts[1], parts[2])?;
    Ok(vec![y, parts[1], parts[2]])
}

/// Rotates pairs of each head's elements. Positions are [b, s], or one number that the first position has.
pub(crate) fn rotary_embedding(n: &mut Site) -> Outcome {
    let (x, positions) = (n.input(0)?, n.input(1)?);
    let tables = [n.input(2)?, n.input(3)?];
    let interleaved = n.flag("interleaved")?;
    only(n, "is_packed_batching", &[0])?;
    let scale = n.float_or("scale", 1.0)?;
    if scale != 1.0 {
        return Err(n.refused("scale", scale, format!("`RotaryEmbedding` of com.microsoft with `scale` {scale} is not supported")));
    }
    let dims = n.dims(x);
    let flat = dims.len() == 3;
    let half = n.dims(tables[0]).get(1).cloned().unwrap_or(Dim::ONE);
    let x = match n.int("num_heads")?.filter(|count| *count > 0) {
        Some(count) if flat => split(n, x, &Dim::from(count))?,
        _ if flat => split(n, x, &dims[2].floor_div(&(half * 2)))?,
        _ => n.of_rank(x, 4, "an input")?,
    };
    let (turned, width) = (n.int_or("rotary_embedding_dim", 0)?, n.dims(x)[3].clone());
    let positions = if n.ty(positions).count().is(1) {
        let steps = n.iota(vec![Dim::ONE, n.dims(x)[2].clone()], 1, DType::I64)?;
        let first = elementwise::scalar(n, positions)?;
        n.op(Op::add, &[steps, first])?
    } else {
        positions
    };
    let turned = if turned == 0 { width } else { Dim::from(turned) };
    let y = turned_by(n, x, tables, positions, &turned, interleaved)?;
    Ok(vec![if flat { merged(n, y)? } else { y }])
}

/// x: [b, h, s, d] with the first `turned` elements of each head rotated by the tables' angles at the positions [b, s].
fn turned_by(n: &mut Site, x: ValueId, tables: [ValueId; 2], positions: ValueId, turned: &Dim, interleaved: bool) -> Result<ValueId, Stop> {
    let mut factors = vec![];
    for table in tables {
        let found = n.op(Op::gather { axis: 0 }, &[table, positions])?;
        let mut dims = n.dims(found);
        dims.insert(dims.len().min(1), Dim::ONE);
        factors.push(n.reshape(found, dims)?);
    }
    let width = n.dims(x)[3].clone();
    if width == *turned {
        return n.op(Op::rotary { interleaved }, &[x, factors[0], factors[1]]);
    }
    let (first, rest) = (n.slice(x, 3, Dim::ZERO, turned.clone())?, n.slice(x, 3, turned.clone(), width - turned.clone())?);
    let first = n.op(Op::rotary { interleaved }, &[first, factors[0], factors[1]])?;
    n.concat(&[first, rest], 3)
}
