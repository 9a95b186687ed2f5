//! Attention and rotary embedding (opset 23).

use crate::error::Code;
use crate::ops::quantize::element_type;
use crate::site::{Outcome, Site, Stop, dim_help, fault, malformed};
use egret_ir::attr::PadMode;
use egret_ir::{DType, Dim, Op, Real, ValueId};

/// `[batch, heads, sequence, width]` from that, or from `[batch, sequence, heads*width]` with the number of heads.
pub(crate) fn heads(n: &mut Site, value: ValueId, attribute: &str) -> Result<ValueId, Stop> {
    let dims = n.dims(value);
    match dims.as_slice() {
        [_, _, _, _] => Ok(value),
        [batch, sequence, width] => {
            let heads = head_count(n, attribute)?;
            let split = n.reshape(value, [batch.clone(), sequence.clone(), heads.clone(), width.floor_div(&heads)])?;
            n.transpose(split, vec![0, 2, 1, 3])
        }
        _ => Err(malformed(Code::Shape, format!("`{}` expects operands of rank 3 or 4, found {}", n.operator, n.ty(value)))),
    }
}

pub(crate) fn head_count(n: &Site, attribute: &str) -> Result<Dim, Stop> {
    let heads = n.int(attribute)?.filter(|h| *h > 0);
    heads.map(Dim::from).ok_or_else(|| malformed(Code::Attribute, format!("`{}` of rank 3 needs `{attribute}` of at least 1", n.operator)))
}

/// One step of FlexAttention: the scores of `q` and `k`, in the type in which they are worked on, and the values.
pub(crate) fn flex_scores(n: &mut Site) -> Result<(ValueId, ValueId), Stop> {
    let (q, k, v) = (n.input(0)?, n.input(1)?, n.input(2)?);
    if [q, k, v].iter().any(|&x| n.rank(x) != 4) {
        return Err(malformed(Code::Shape, format!("`{}` expects operands of rank 4, found {}", n.operator, n.ty(q))));
    }
    let precision = if n.dtype(q) == DType::F64 { DType::F64 } else { DType::F32 };
    let precision = element_type(n, "softmax_precision")?.unwrap_or(precision);
    let query_heads = n.dims(q)[1].clone();
    let (k, v) = (repeated(n, k, &query_heads)?, repeated(n, v, &query_heads)?);
    let scale = scale(n, q)?;
    let keys = n.transpose(k, vec![0, 1, 3, 2])?;
    let products = n.op(Op::matmul, &[q, keys])?;
    let products = n.cast(products, precision)?;
    Ok((n.with_number(Op::mul, products, scale)?, v))
}

/// What a query takes of the values, by its share of each.
pub(crate) fn flex_result(n: &mut Site, shares: ValueId, v: ValueId) -> Outcome {
    let shares = n.cast(shares, n.dtype(v))?;
    Ok(vec![n.op(Op::matmul, &[shares, v])?])
}

/// Several query heads may share one head of keys and values: `[b, h, s, d]` -> `[b, h*g, s, d]`.
pub(crate) fn repeated(n: &mut Site, value: ValueId, wanted: &Dim) -> Result<ValueId, Stop> {
    let dims = n.dims(value);
    if &dims[1] == wanted || dims[1].is(1) {
        return Ok(value);
    }
    let group =
        wanted.exact_div(&dims[1]).ok_or_else(|| malformed(Code::Shape, format!("{wanted} query heads cannot share {} heads", dims[1])))?;
    let [batch, heads, sequence, width] = [0, 1, 2, 3].map(|a| dims[a].clone());
    let apart = n.reshape(value, [batch.clone(), heads.clone(), Dim::ONE, sequence.clone(), width.clone()])?;
    let repeated = n.broadcast(apart, vec![batch.clone(), heads, group, sequence.clone(), width.clone()])?;
    n.reshape(repeated, [batch, wanted.clone(), sequence, width])
}

/// Keys and values of earlier calls come before the new ones.
fn with_past(n: &mut Site, value: ValueId, past: usize) -> Result<ValueId, Stop> {
    match n.optional(past) {
        Some(past) => n.concat(&[past, value], 2),
        None => Ok(value),
    }
}

/// Outputs: the result, all keys, all values, and the scores at one of four stages.
pub(crate) fn attention(n: &mut Site) -> Outcome {
    let (q, k, v) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let flat = n.rank(q) == 3;
    n.without_effect(&["q_num_heads", "kv_num_heads", "softmax_precision"]);
    let (q, k, v) = (heads(n, q, "q_num_heads")?, heads(n, k, "kv_num_heads")?, heads(n, v, "kv_num_heads")?);
    for (input, rank, what) in [(4, 4, "past keys"), (5, 4, "past values"), (6, 1, "numbers of valid keys")] {
        n.optional(input).map(|value| n.of_rank(value, rank, what)).transpose()?;
    }
    let (present_k, present_v) = (with_past(n, k, 4)?, with_past(n, v, 5)?);
    let query_heads = n.dims(q)[1].clone();
    let (k, v) = (repeated(n, present_k, &query_heads)?, repeated(n, present_v, &query_heads)?);
    let scale = scale(n, q)?;
    let softcap = n.float_or("softcap", 0.0)?;
    let stage = n.int_or("qk_matmul_output_mode", 0)?;
    let mask = full_mask(n, &n.dims(k)[2].clone())?;
    let spelled_out = softcap != 0.0 || n.wants(3);
    let causal = n.flag("is_causal")?;
    // The op's own causal mask starts at the first key; everything else that hides keys becomes a mask.
    let windowed = n.int_or("left_window_size", -1)? >= 0 || n.int_or("right_window_size", -1)? >= 0;
    let plain = !spelled_out && !windowed && n.optional(4).is_none() && n.optional(6).is_none();
    let (causal, mask) = match if plain { None } else { visible(n, q, k, causal)? } {
        Some(visible) => (false, Some(composed(n, visible, mask)?)),
        None => (causal, mask),
    };
    let (y, scores) = if spelled_out {
        by_parts(n, [q, k, v], &Scores { scale, softcap, mask, stage })?
    } else {
        let operands: Vec<ValueId> = [q, k, v].into_iter().chain(mask).collect();
        (n.op(Op::attention { scale: Real(scale), causal }, &operands)?, None)
    };
    let y = if flat { merged(n, y)? } else { y };
    Ok([y, present_k, present_v].into_iter().chain(scores).collect())
}

/// The mask over all keys: one that ends early hides the keys behind its end.
fn full_mask(n: &mut Site, keys: &Dim) -> Result<Option<ValueId>, Stop> {
    let Some(mask) = n.optional(3) else { return Ok(None) };
    let dims = n.dims(mask);
    let missing = match dims.last() {
        Some(last) if !last.is(1) => (keys.clone() - last.clone()).as_const().unwrap_or(0),
        _ => 0,
    };
    if missing <= 0 {
        return Ok(Some(mask));
    }
    let dtype = n.dtype(mask);
    let hidden = n.scalar(if dtype == DType::Bool { 0.0 } else { f64::NEG_INFINITY }, dtype);
    let (low, mut high) = (vec![Dim::ZERO; dims.len()], vec![Dim::ZERO; dims.len()]);
    high[dims.len() - 1] = Dim::from(missing);
    n.op(Op::pad { low, high, mode: PadMode::Constant }, &[mask, hidden]).map(Some)
}

/// Which keys a query sees, apart from the mask that is an input: `[b or 1, 1, queries, keys]`, or nothing if all.
///
/// Query `i` stands at position `p = i + offset`, behind the keys of earlier calls. It sees keys up to `p` if `causal`, from
/// `p - left_window_size` to `p + right_window_size`, and none beyond `nonpad_kv_seqlen`.
fn visible(n: &mut Site, q: ValueId, k: ValueId, causal: bool) -> Result<Option<ValueId>, Stop> {
    let (queries, keys) = (n.dims(q)[2].clone(), n.dims(k)[2].clone());
    let dims = vec![Dim::ONE, Dim::ONE, queries.clone(), keys.clone()];
    let column = n.iota(dims.clone(), 3, DType::I64)?;
    let valid = match n.optional(6) {
        Some(valid) => {
            let batch = n.dims(valid)[0].clone();
            let valid = n.cast(valid, DType::I64)?;
            Some(n.reshape(valid, [batch, Dim::ONE, Dim::ONE, Dim::ONE])?)
        }
        None => None,
    };
    let known = |n: &mut Site, value: Dim| n.op(Op::dims { values: vec![value] }, &[]);
    let offset = match (n.optional(4), valid) {
        (Some(past), _) => known(n, n.dims(past)[2].clone())?,
        (None, Some(valid)) => {
            let queries = known(n, queries)?;
            n.op(Op::sub, &[valid, queries])?
        }
        (None, None) => n.scalar(0.0, DType::I64),
    };
    let row = n.iota(dims, 2, DType::I64)?;
    let position = n.op(Op::add, &[row, offset])?;
    let mut conditions = vec![];
    if let Some(valid) = valid {
        conditions.push(n.op(Op::lt, &[column, valid])?);
    }
    if causal {
        conditions.push(n.op(Op::le, &[column, position])?);
    }
    let (left, right) = (n.int_or("left_window_size", -1)?, n.int_or("right_window_size", -1)?);
    if left >= 0 {
        let first = n.with_number(Op::sub, position, left as f64)?;
        conditions.push(n.op(Op::le, &[first, column])?);
    }
    if right >= 0 {
        let last = n.with_number(Op::add, position, right as f64)?;
        conditions.push(n.op(Op::le, &[column, last])?);
    }
    let mut all = None;
    for condition in conditions {
        all = Some(match all {
            Some(all) => n.op(Op::and, &[all, condition])?,
            None => condition,
        });
    }
    Ok(all)
}

/// A mask (of truth values, or added) that holds only where `visible` does.
pub(crate) fn composed(n: &mut Site, visible: ValueId, mask: Option<ValueId>) -> Result<ValueId, Stop> {
    match mask {
        None => Ok(visible),
        Some(mask) if n.dtype(mask) == DType::Bool => n.op(Op::and, &[visible, mask]),
        Some(mask) => {
            let hidden = n.scalar(f64::NEG_INFINITY, n.dtype(mask));
            n.op(Op::select, &[visible, mask, hidden])
        }
    }
}

fn scale(n: &Site, q: ValueId) -> Result<f64, Stop> {
    if let Some(scale) = n.float("scale")? {
        return Ok(scale);
    }
    let width = n.dims(q)[3].clone();
    let number = width.as_const().filter(|w| *w > 0);
    number.map(|w| 1.0 / (w as f64).sqrt()).ok_or_else(|| {
        fault(
            Code::DataDependent,
            format!("`Attention` without `scale` needs the width of a head as a number, found `{width}`"),
            dim_help(&width.symbols()),
        )
    })
}

/// `[b, h, s, d]` -> `[b, s, h*d]`
pub(crate) fn merged(n: &mut Site, y: ValueId) -> Result<ValueId, Stop> {
    let moved = n.transpose(y, vec![0, 2, 1, 3])?;
    let dims = n.dims(moved);
    n.reshape(moved, [dims[0].clone(), dims[1].clone(), dims[2].clone() * dims[3].clone()])
}

/// How scores are made, and at which stage they are an output.
pub(crate) struct Scores {
    pub(crate) scale: f64,
    pub(crate) softcap: f64,
    pub(crate) mask: Option<ValueId>,
    pub(crate) stage: i64,
}

/// Attention by its parts, for what the op does not cover: a soft cap, or the scores as an output. The stages: scaled
/// products, capped, masked, softmax.
pub(crate) fn by_parts(n: &mut Site, [q, k, v]: [ValueId; 3], how: &Scores) -> Result<(ValueId, Option<ValueId>), Stop> {
    let keys = n.transpose(k, vec![0, 1, 3, 2])?;
    let products = n.op(Op::matmul, &[q, keys])?;
    let scaled = n.with_number(Op::mul, products, how.scale)?;
    let mut capped = scaled;
    if how.softcap != 0.0 {
        let part = n.with_number(Op::div, scaled, how.softcap)?;
        let squeezed = n.op(Op::tanh, &[part])?;
        capped = n.with_number(Op::mul, squeezed, how.softcap)?;
    }
    let masked = match how.mask {
        None => capped,
        Some(mask) if n.dtype(mask) == DType::Bool => {
            let hidden = n.scalar(f64::NEG_INFINITY, n.dtype(capped));
            n.op(Op::select, &[mask, capped, hidden])?
        }
        Some(mask) => n.op(Op::add, &[capped, mask])?,
    };
    let mut weights = n.op(Op::softmax { axes: vec![3] }, &[masked])?;
    if how.mask.is_some() {
        // A query that sees nothing takes nothing, where softmax would give NaN.
        let largest = n.op(Op::reduce_max { axes: vec![3] }, &[masked])?;
        let blind = n.with_number(Op::eq, largest, f64::NEG_INFINITY)?;
        let zero = n.scalar(0.0, n.dtype(weights));
        weights = n.op(Op::select, &[blind, zero, weights])?;
    }
    let y = n.op(Op::matmul, &[weights, v])?;
    let stages = [scaled, capped, masked, weights];
    let scores = usize::try_from(how.stage).ok().and_then(|s| stages.get(s).copied());
    let scores = scores.ok_or_else(|| n.refused("qk_matmul_output_mode", how.stage, "`qk_matmul_output_mode` is 0, 1, 2 or 3"))?;
    Ok((y, Some(scores)))
}

/// x: `[b, h, s, d]`, or `[b, s, h*d]`, which is rotated as `[b, s, h, d]`. The caches are `[b, s, d/2]`, or tables that the
/// positions `[b, s]` look up. Only the first `rotary_embedding_dim` elements of each head turn.
pub(crate) fn rotary_embedding(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let interleaved = n.flag("interleaved")?;
    let turned = n.int_or("rotary_embedding_dim", 0)?;
    let dims = n.dims(x);
    // The heads' axis, over which the caches broadcast.
    let (split, head_axis) = match dims.as_slice() {
        [batch, sequence, width] => {
            let heads = head_count(n, "num_heads")?;
            (n.reshape(x, [batch.clone(), sequence.clone(), heads.clone(), width.floor_div(&heads)])?, 2)
        }
        [_, _, _, _] => (x, 1),
        _ => return Err(malformed(Code::Shape, format!("`RotaryEmbedding` expects a tensor of rank 3 or 4, found {}", n.ty(x)))),
    };
    n.without_effect(&["num_heads"]);
    let (cos, sin) = (cache(n, 1, head_axis)?, cache(n, 2, head_axis)?);
    let width = n.dims(split)[3].clone();
    let rotated = if turned == 0 || width.is(turned) {
        n.op(Op::rotary { interleaved }, &[split, cos, sin])?
    } else {
        let part = Dim::from(turned);
        let first = n.slice(split, 3, Dim::ZERO, part.clone())?;
        let rest = n.slice(split, 3, part.clone(), width - part)?;
        let first = n.op(Op::rotary { interleaved }, &[first, cos, sin])?;
        n.concat(&[first, rest], 3)?
    };
    Ok(vec![n.reshape(rotated, dims)?])
}

/// A cache at the positions, with an axis of extent 1 for the heads.
fn cache(n: &mut Site, input: usize, head_axis: usize) -> Result<ValueId, Stop> {
    let table = n.input(input)?;
    let found = match n.optional(3) {
        Some(positions) => n.op(Op::gather { axis: 0 }, &[table, positions])?,
        None => table,
    };
    let mut dims = n.dims(found);
    if dims.len() != 3 {
        return Err(malformed(Code::Shape, format!("`RotaryEmbedding` expects caches [batch, sequence, half], found {}", n.ty(found))));
    }
    dims.insert(head_axis, Dim::ONE);
    n.reshape(found, dims)
}
