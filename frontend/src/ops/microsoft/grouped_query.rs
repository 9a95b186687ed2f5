//! Attention over a cache of keys and values, with heads shared by several queries, as exporters of language models write it.
//!
//! ```text
//! query [b, s, h*d]   key, value [b, s, g*d]   past_key, past_value [b, g, p, d]   seqlens_k [b]   total length t
//! ->  output [b, s, h*d]   present_key, present_value [b, g, max(p, t), d]
//! ```
//!
//! Member `b` of the batch has `seqlens_k[b] + 1` keys, the new ones included. The new ones are written behind those it had, at
//! `start = max(seqlens_k[b] + 1 - s, 0)`, and query `i`, which stands at `start + i`, sees the keys up to its own place.

use super::{only, turned_by};
use crate::error::Code;
use crate::ops::attention::{Scores, by_parts, composed, head_count, merged, repeated};
use crate::ops::state::{scale, written};
use crate::site::{Outcome, Site, Stop, fault, malformed};
use egret_ir::attr::PadMode;
use egret_ir::{DType, Dim, Op, Real, ValueId};

/// Outputs: the result, all keys, all values.
pub(crate) fn attention(n: &mut Site) -> Outcome {
    refuse_variants(n)?;
    let [q, k, v] = operands(n)?;
    let cache = Cache::new(n, k)?;
    let (q, k) = (turned(n, q, &cache)?, turned(n, k, &cache)?);
    let (keys, values) = (cache.with(n, k, 3)?, cache.with(n, v, 4)?);
    let heads = n.dims(q)[1].clone();
    let (k, v) = (repeated(n, keys, &heads)?, repeated(n, values, &heads)?);
    let y = attended(n, [q, k, v], &cache)?;
    Ok(vec![merged(n, y)?, keys, values])
}

/// What only some processors of ONNX Runtime compute, or what is kept in fewer bits.
fn refuse_variants(n: &mut Site) -> Result<(), Stop> {
    let inputs = ["a head sink", "quantised keys", "quantised values", "normalised queries", "normalised keys"];
    if let Some(i) = (0..inputs.len()).find(|i| n.optional(11 + i).is_some()) {
        let message = format!("`{}` with {} is not supported", n.operator, inputs[i]);
        return Err(fault(Code::Operand, message, "export the model without it"));
    }
    if n.wants(3) {
        let message = format!("the scores as an output of `{}` are not supported", n.operator);
        return Err(fault(Code::Operand, message, "export the model without them"));
    }
    let switches = [
        ("smooth_softmax", &[0, -1][..]),
        ("qk_output", &[0]),
        ("kv_cache_bit_width", &[0, 8, 16, 32]),
        ("causal", &[1]),
        ("sliding_window_cache", &[0]),
    ];
    switches.iter().try_for_each(|(name, plain)| only(n, name, plain))?;
    for name in ["k_quant_type", "v_quant_type"] {
        n.word(name, "NONE", &[("NONE", ())])?;
    }
    n.without_effect(&["qk_norm_epsilon"]); // Normalised queries and keys are refused above.
    Ok(())
}

/// Queries, keys and values as [b, h, s, d]; side by side in one input where there are no keys.
fn operands(n: &mut Site) -> Result<[ValueId; 3], Stop> {
    let (query, key, value) = (n.input(0)?, n.optional(1), n.optional(2));
    let (h, g) = (head_count(n, "num_heads")?, head_count(n, "kv_num_heads")?);
    let [_, _, width] = dims3(n, query)?;
    let (q, k, v) = match (key, value) {
        (Some(key), Some(value)) => (query, key, value),
        _ => {
            let head = width.floor_div(&(h.clone() + g.clone() * 2));
            let (own, shared) = (head.clone() * h.clone(), head * g.clone());
            let mut part = |start: Dim, count: &Dim| n.slice(query, 2, start, count.clone());
            (part(Dim::ZERO, &own)?, part(own.clone(), &shared)?, part(own + shared.clone(), &shared)?)
        }
    };
    Ok([apart(n, q, &h)?, apart(n, k, &g)?, apart(n, v, &g)?])
}

fn dims3(n: &Site, x: ValueId) -> Result<[Dim; 3], Stop> {
    let wrong = || malformed(Code::Shape, format!("`{}` expects [batch, sequence, width], found {}", n.operator, n.ty(x)));
    n.dims(x).try_into().map_err(|_| wrong())
}

/// [b, s, h*d] -> [b, h, s, d]
fn apart(n: &mut Site, x: ValueId, heads: &Dim) -> Result<ValueId, Stop> {
    let [batch, length, width] = dims3(n, x)?;
    let split = n.reshape(x, [batch, length, heads.clone(), width.floor_div(heads)])?;
    n.transpose(split, vec![0, 2, 1, 3])
}

/// Where the new keys go.
struct Cache {
    /// Positions of the cache that comes in, if one does, and of the one that goes out.
    past: Option<Dim>,
    length: Dim,
    /// The place of the first new key of each member of the batch, `[b]`, i64; `None` where it is 0 for all.
    start: Option<ValueId>,
}

impl Cache {
    fn new(n: &mut Site, k: ValueId) -> Result<Cache, Stop> {
        let (seen, new) = (n.input(5)?, n.dims(k)[2].clone());
        let past = n.optional(3).map(|past| n.dims(past).get(2).cloned().unwrap_or(Dim::ZERO)).filter(|past| !past.is(0));
        let Some(past) = past else {
            n.optional(6);
            return Ok(Cache { past: None, length: new, start: None });
        };
        let total = n.contents(6, "the total length")?;
        let [total] = <[Dim; 1]>::try_from(total)
            .map_err(|found| malformed(Code::Operand, format!("`{}` expects one total length, found {}", n.operator, found.len())))?;
        let seen = n.cast(seen, DType::I64)?;
        let batch = n.dims(k)[0].clone();
        let seen = n.reshape(seen, [batch])?;
        let queries = n.op(Op::dims { values: vec![new - 1] }, &[])?;
        let start = n.op(Op::sub, &[seen, queries])?;
        let start = n.with_number(Op::max, start, 0.0)?;
        // A cache that is shared between calls is as long as it will ever be, others grow: where neither is known to be the
        // longer one, the cache grows.
        let spare = (past.clone() - total.clone()).as_const();
        let length = if spare.is_some_and(|spare| spare > 0) { past.clone() } else { total };
        Ok(Cache { past: Some(past), length, start: Some(start) })
    }

    /// The cache at input `at` with what is new, and zeros behind that.
    fn with(&self, n: &mut Site, new: ValueId, at: usize) -> Result<ValueId, Stop> {
        let (Some(past), Some(held)) = (&self.past, n.optional(at)) else { return Ok(new) };
        let held = n.of_rank(held, 4, "past keys and values")?;
        let dims = n.dims(new);
        if dims[0].is(1) && self.length == past.clone() + dims[2].clone() {
            // All of a single member's cache is in use.
            return n.concat(&[held, new], 2);
        }
        let missing = self.length.clone() - past.clone();
        let mut cache = held;
        if !missing.is(0) {
            let (low, mut high) = (vec![Dim::ZERO; 4], vec![Dim::ZERO; 4]);
            high[2] = missing;
            let zero = n.scalar(0.0, n.dtype(held));
            cache = n.op(Op::pad { low, high, mode: PadMode::Constant }, &[held, zero])?;
        }
        let cache = self.without_rest(n, cache)?;
        written(n, cache, new, 2, self.start, false)
    }

    /// The cache with zeros from the first new key on.
    fn without_rest(&self, n: &mut Site, cache: ValueId) -> Result<ValueId, Stop> {
        let Some(start) = self.start else { return Ok(cache) };
        let (batch, length) = (n.dims(start)[0].clone(), n.dims(cache)[2].clone());
        let start = n.reshape(start, [batch, Dim::ONE, Dim::ONE, Dim::ONE])?;
        let place = n.iota(vec![Dim::ONE, Dim::ONE, length, Dim::ONE], 2, DType::I64)?;
        let is_old = n.op(Op::lt, &[place, start])?;
        let zero = n.scalar(0.0, n.dtype(cache));
        n.op(Op::select, &[is_old, cache, zero])
    }

    /// The places of the new keys, [b, s] or [1, s].
    fn places(&self, n: &mut Site, length: &Dim) -> Result<ValueId, Stop> {
        let steps = n.iota(vec![Dim::ONE, length.clone()], 1, DType::I64)?;
        let Some(start) = self.start else { return Ok(steps) };
        let batch = n.dims(start)[0].clone();
        let start = n.reshape(start, [batch, Dim::ONE])?;
        n.op(Op::add, &[steps, start])
    }
}

/// Queries or keys, rotated by their places if the node asks for it.
fn turned(n: &mut Site, x: ValueId, cache: &Cache) -> Result<ValueId, Stop> {
    let (tables, given) = ([n.optional(7), n.optional(8)], n.optional(9));
    let interleaved = n.flag("rotary_interleaved")?;
    if !n.flag("do_rotary")? {
        return Ok(x);
    }
    let [Some(cos), Some(sin)] = tables else {
        return Err(malformed(Code::Operand, format!("`{}` with rotary embedding needs tables of cosines and sines", n.operator)));
    };
    let length = n.dims(x)[2].clone();
    let places = match given {
        Some(given) => given,
        None => cache.places(n, &length)?,
    };
    let width = n.dims(cos).get(1).cloned().unwrap_or(Dim::ONE) * 2;
    turned_by(n, x, [cos, sin], places, &width, interleaved)
}

/// q: [b, h, s, d], k, v: [b, h, t, d] -> [b, h, s, d]
fn attended(n: &mut Site, [q, k, v]: [ValueId; 3], cache: &Cache) -> Result<ValueId, Stop> {
    let (scale, softcap) = (scale(n, q)?, n.float_or("softcap", 0.0)?);
    let (window, added) = (n.int_or("local_window_size", -1)?, n.optional(10));
    if cache.start.is_none() && window <= 0 && added.is_none() && softcap == 0.0 {
        return n.op(Op::attention { scale: Real(scale), causal: true }, &[q, k, v]);
    }
    let visible = visible(n, q, k, cache, window)?;
    let mask = composed(n, visible, added)?;
    if softcap == 0.0 {
        return n.op(Op::attention { scale: Real(scale), causal: false }, &[q, k, v, mask]);
    }
    Ok(by_parts(n, [q, k, v], &Scores { scale, softcap, mask: Some(mask), stage: 0 })?.0)
}

/// Which keys a query sees, [b or 1, 1, s, t]: those up to its own place, of which a window holds the last few.
fn visible(n: &mut Site, q: ValueId, k: ValueId, cache: &Cache, window: i64) -> Result<ValueId, Stop> {
    let (queries, keys) = (n.dims(q)[2].clone(), n.dims(k)[2].clone());
    let places = cache.places(n, &queries)?;
    let batch = n.dims(places)[0].clone();
    let place = n.reshape(places, [batch, Dim::ONE, queries, Dim::ONE])?;
    let column = n.iota(vec![Dim::ONE, Dim::ONE, Dim::ONE, keys], 3, DType::I64)?;
    let before = n.op(Op::le, &[column, place])?;
    if window <= 0 {
        return Ok(before);
    }
    let first = n.with_number(Op::sub, place, window as f64)?;
    let near = n.op(Op::lt, &[first, column])?;
    n.op(Op::and, &[before, near])
}
