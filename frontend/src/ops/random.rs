//! Operators that draw random numbers, written out as integer arithmetic on the position of each element.
//!
//! Element `i` of a draw is the `i`-th number of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
//! OOPSLA 2014) whose state begins at the draw's key:
//!
//! ```text
//! z = key + (i + 1) * 0x9e3779b97f4a7c15
//! z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;  z = z ^ (z >> 31)
//! ```
//!
//! The key comes from the node's seed or, where it has none, from its number among the draws of the model; the step of each loop around is
//! mixed in. Invariant: an element depends on seed, step and position only, so a compiled model draws the same numbers in every run, on
//! any number of threads and any target. ONNX leaves the generator open; seeds do not give the numbers that another runtime draws.

use crate::build::Turn;
use crate::error::Code;
use crate::ops::quantize::element_type;
use crate::site::{Outcome, Site, Stop, malformed};
use egret_ir::{DType, Dim, Element, Op, Tensor, ValueId};

/// What the state of SplitMix64 grows by: the odd number nearest 2^64 over the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The multipliers and shifts of SplitMix64's mixing function (Stafford's variant 13).
const MIX: [(u32, u64); 2] = [(30, 0xbf58_476d_1ce4_e5b9), (27, 0x94d0_49bb_1331_11eb)];

/// The last shift of the mixing function.
const LAST_SHIFT: u32 = 31;

pub(crate) fn random_uniform(n: &mut Site) -> Outcome {
    let (dims, dtype) = asked(n)?;
    drawn_uniform(n, dims, dtype)
}

pub(crate) fn random_uniform_like(n: &mut Site) -> Outcome {
    let (dims, dtype) = alike(n)?;
    drawn_uniform(n, dims, dtype)
}

pub(crate) fn random_normal(n: &mut Site) -> Outcome {
    let (dims, dtype) = asked(n)?;
    drawn_normal(n, dims, dtype)
}

pub(crate) fn random_normal_like(n: &mut Site) -> Outcome {
    let (dims, dtype) = alike(n)?;
    drawn_normal(n, dims, dtype)
}

/// True with the probability that stands in the input.
pub(crate) fn bernoulli(n: &mut Site) -> Outcome {
    let p = n.input(0)?;
    let to = element_type(n, "dtype")?.unwrap_or(n.dtype(p));
    let key = key(n)?;
    let (dims, dtype) = (n.dims(p), computed(n.dtype(p)));
    let u = uniform(n, key, 0, dims, dtype)?;
    let p = n.cast(p, dtype)?;
    let holds = n.op(Op::lt, &[u, p])?;
    Ok(vec![n.cast(holds, to)?])
}

/// x: `[b, c]`, logarithms of what classes weigh -> `[b, sample_size]`, classes. A sample is the number of classes whose weights, with
/// those of the classes before, add up to no more than a share drawn of all.
pub(crate) fn multinomial(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let x = n.of_rank(x, 2, "logarithms of weights")?;
    let to = element_type(n, "dtype")?.unwrap_or(DType::I32);
    let samples = n.int_or("sample_size", 1)?;
    if samples < 1 {
        return Err(n.refused("sample_size", samples, "`Multinomial` needs a sample size of at least 1"));
    }
    let (dtype, key) = (computed(n.dtype(x)), key(n)?);
    let dims = n.dims(x);
    let x = n.cast(x, dtype)?;
    let shares = n.op(Op::softmax { axes: vec![1] }, &[x])?;
    let below = n.op(Op::cumsum { axis: 1, exclusive: false, reverse: false }, &[shares])?;
    let below = n.reshape(below, [dims[0].clone(), Dim::ONE, dims[1].clone()])?;
    let u = uniform(n, key, 0, vec![dims[0].clone(), Dim::from(samples), Dim::ONE], dtype)?;
    let passed = n.op(Op::le, &[below, u])?;
    let passed = n.cast(passed, DType::I64)?;
    let class = n.op(Op::reduce_sum { axes: vec![2] }, &[passed])?;
    let class = n.reshape(class, [dims[0].clone(), Dim::from(samples)])?;
    // Rounding may leave the sum of all shares below the one drawn.
    let last = n.op(Op::dims { values: vec![dims[1].clone() - 1] }, &[])?;
    let class = n.op(Op::min, &[class, last])?;
    Ok(vec![n.cast(class, to)?])
}

/// What training makes of `x`: elements are dropped with the probability `ratio`, and the others grow by what is lost. Also the mask of those
/// that stay.
pub(crate) fn dropped(n: &mut Site, x: ValueId, ratio: f64) -> Result<[ValueId; 2], Stop> {
    let (dims, dtype) = (n.dims(x), computed(n.dtype(x)));
    let seed = n.int("seed")?;
    let key = key_of(n, seed.map(|seed| seed as f64))?;
    let u = uniform(n, key, 0, dims, dtype)?;
    let ratio_of = n.scalar(ratio, dtype);
    let stays = n.op(Op::le, &[ratio_of, u])?;
    let grown = n.with_number(Op::mul, x, 1.0 / (1.0 - ratio))?;
    let zero = n.scalar(0.0, n.dtype(x));
    Ok([n.op(Op::select, &[stays, grown, zero])?, stays])
}

/// The shape and element type that attributes name.
fn asked(n: &Site) -> Result<(Vec<Dim>, DType), Stop> {
    let shape = n.ints("shape")?.ok_or_else(|| malformed(Code::Attribute, format!("`{}` needs the attribute `shape`", n.operator)))?;
    if shape.iter().any(|&d| d < 0) {
        return Err(n.refused("shape", format!("{shape:?}"), format!("`{}` has a negative extent", n.operator)));
    }
    float(n, shape.into_iter().map(Dim::from).collect(), element_type(n, "dtype")?.unwrap_or(DType::F32))
}

/// Those of the input, unless an attribute names another type.
fn alike(n: &Site) -> Result<(Vec<Dim>, DType), Stop> {
    let like = n.input(0)?;
    float(n, n.dims(like), element_type(n, "dtype")?.unwrap_or(n.dtype(like)))
}

fn float(n: &Site, dims: Vec<Dim>, dtype: DType) -> Result<(Vec<Dim>, DType), Stop> {
    match dtype.is_float() && !dtype.is_storage() {
        true => Ok((dims, dtype)),
        false => Err(malformed(Code::ElementType, format!("`{}` draws floats, found the element type {dtype}", n.operator))),
    }
}

fn drawn_uniform(n: &mut Site, dims: Vec<Dim>, to: DType) -> Outcome {
    let (low, high) = (n.float_or("low", 0.0)?, n.float_or("high", 1.0)?);
    let key = key(n)?;
    let u = uniform(n, key, 0, dims, computed(to))?;
    Ok(vec![placed(n, u, low, high - low, to)?])
}

/// By the transform of Box and Muller (Annals of Mathematical Statistics 29, 1958).
fn drawn_normal(n: &mut Site, dims: Vec<Dim>, to: DType) -> Outcome {
    let (mean, scale) = (n.float_or("mean", 0.0)?, n.float_or("scale", 1.0)?);
    let (key, dtype) = (key(n)?, computed(to));
    let (u, v) = (uniform(n, key, 0, dims.clone(), dtype)?, uniform(n, key, 1, dims, dtype)?);
    // 1 - u is never 0.
    let one = n.scalar(1.0, dtype);
    let above_zero = n.op(Op::sub, &[one, u])?;
    let log = n.op(Op::log, &[above_zero])?;
    let square = n.with_number(Op::mul, log, -2.0)?;
    let radius = n.op(Op::sqrt, &[square])?;
    let angle = n.with_number(Op::mul, v, std::f64::consts::TAU)?;
    let cosine = n.op(Op::cos, &[angle])?;
    let z = n.op(Op::mul, &[radius, cosine])?;
    Ok(vec![placed(n, z, mean, scale, to)?])
}

/// `x * scale + offset`, in its final type.
fn placed(n: &mut Site, x: ValueId, offset: f64, scale: f64, to: DType) -> Result<ValueId, Stop> {
    let x = if scale == 1.0 { x } else { n.with_number(Op::mul, x, scale)? };
    let x = if offset == 0.0 { x } else { n.with_number(Op::add, x, offset)? };
    n.cast(x, to)
}

/// The type that numbers of this type are drawn in.
fn computed(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// Numbers from 0 up to but without 1, all multiples of 2^-24 (f64: 2^-53): the `part`-th draw of a key.
fn uniform(n: &mut Site, key: ValueId, part: u64, dims: Vec<Dim>, dtype: DType) -> Result<ValueId, Stop> {
    let (bits, whole) = if dtype == DType::F64 { (53, DType::I64) } else { (24, DType::I32) };
    let count: Dim = dims.iter().cloned().product();
    let key = match part {
        0 => key,
        part => {
            let part = n.build.constant(word(part));
            let apart = n.op(Op::xor, &[key, part])?;
            mixed(n, apart)?
        }
    };
    let position = n.iota(vec![count], 0, DType::I64)?;
    let position = n.reshape(position, dims)?;
    let position = n.cast(position, DType::U64)?;
    let z = stepped(n, key, position)?;
    let shift = n.build.constant(word(64 - bits));
    let high = n.op(Op::shr, &[z, shift])?;
    let high = n.cast(high, whole)?;
    let high = n.cast(high, dtype)?;
    n.with_number(Op::mul, high, 2f64.powi(-(bits as i32)))
}

/// The key of the node's draw: u64[].
fn key(n: &mut Site) -> Result<ValueId, Stop> {
    let seed = n.float("seed")?;
    key_of(n, seed)
}

fn key_of(n: &mut Site, seed: Option<f64>) -> Result<ValueId, Stop> {
    let number = n.build.next_draw();
    let mut known = mix(seed.map_or(number, f64::to_bits).wrapping_add(GOLDEN));
    let mut drawn = vec![];
    for turn in n.build.turns() {
        match turn {
            Turn::Known(step) => known = mix(known.wrapping_add((step as u64 + 1).wrapping_mul(GOLDEN))),
            Turn::Run(step) => drawn.push(step),
        }
    }
    let mut key = n.build.constant(word(known));
    for step in drawn {
        let step = n.reshape(step, [])?;
        let step = n.cast(step, DType::U64)?;
        key = stepped(n, key, step)?;
    }
    Ok(key)
}

/// The number of SplitMix64 at a position, as nodes.
fn stepped(n: &mut Site, key: ValueId, position: ValueId) -> Result<ValueId, Stop> {
    let (one, golden) = (n.build.constant(word(1)), n.build.constant(word(GOLDEN)));
    let steps = n.op(Op::add, &[position, one])?;
    let steps = n.op(Op::mul, &[steps, golden])?;
    let state = n.op(Op::add, &[steps, key])?;
    mixed(n, state)
}

/// The mixing function, as nodes.
fn mixed(n: &mut Site, mut z: ValueId) -> Result<ValueId, Stop> {
    for (shift, factor) in MIX {
        z = folded(n, z, shift)?;
        let factor = n.build.constant(word(factor));
        z = n.op(Op::mul, &[z, factor])?;
    }
    folded(n, z, LAST_SHIFT)
}

/// `z ^ (z >> shift)`
fn folded(n: &mut Site, z: ValueId, shift: u32) -> Result<ValueId, Stop> {
    let shift = n.build.constant(word(shift.into()));
    let moved = n.op(Op::shr, &[z, shift])?;
    n.op(Op::xor, &[z, moved])
}

/// The mixing function.
fn mix(z: u64) -> u64 {
    let z = MIX.iter().fold(z, |z, (shift, factor)| (z ^ (z >> shift)).wrapping_mul(*factor));
    z ^ (z >> LAST_SHIFT)
}

fn word(value: u64) -> Tensor {
    Tensor::scalar(DType::U64, Element::Int(value.into()))
}
