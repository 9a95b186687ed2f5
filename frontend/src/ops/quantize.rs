//! Quantised operators, with the standard's exact integer semantics.
//!
//! ```text
//! QuantizeLinear     y = saturate(round(x / scale) + zero)      halves to even
//! DequantizeLinear   y = (x - zero) * scale
//! MatMulInteger      y = (a - zero_a) * (b - zero_b)            in i32; ConvInteger likewise
//! QLinearMatMul      y = saturate(round(that * (scale_a * scale_b / scale_y)) + zero_y)
//! ```
//!
//! The IR's conversion from float to integer saturates, so nothing is clipped by hand.

use crate::error::Code;
use crate::model;
use crate::ops::conv;
use crate::ops::elementwise::converted;
use crate::site::{Outcome, Site, Stop, fault, malformed};
use egret_ir::{DType, Dim, Op, ValueId};

/// Outputs `output_dtype`, or the type of the zero point, or u8.
pub(crate) fn quantize_linear(n: &mut Site) -> Outcome {
    let (x, scale) = (n.input(0)?, n.input(1)?);
    let to = match (output_type(n)?, n.optional(2)) {
        (Some(to), _) => to,
        (None, Some(zero)) => n.dtype(zero),
        (None, None) => DType::U8,
    };
    let precision = element_type(n, "precision")?.unwrap_or(n.dtype(scale));
    let scale = per_block(n, scale, x)?;
    let zero = n.optional(2).map(|zero| per_block(n, zero, x)).transpose()?;
    let (x, scale) = (n.cast(x, precision)?, n.cast(scale, precision)?);
    let y = n.op(Op::div, &[x, scale])?;
    let y = n.cast(y, DType::F32)?;
    Ok(vec![rounded(n, y, zero, to)?])
}

/// `saturate(round(x) + zero)` in an integer type; a float type rounds by itself.
pub(crate) fn rounded(n: &mut Site, x: ValueId, zero: Option<ValueId>, to: DType) -> Result<ValueId, Stop> {
    let mut y = if to.is_int() { n.op(Op::round, &[x])? } else { x };
    if let Some(zero) = zero {
        let zero = n.cast(zero, DType::F32)?;
        y = n.op(Op::add, &[y, zero])?;
    }
    converted(n, y, to)
}

/// Outputs `output_dtype`, or the type of the scale.
pub(crate) fn dequantize_linear(n: &mut Site) -> Outcome {
    let (x, scale) = (n.input(0)?, n.input(1)?);
    let to = output_type(n)?.unwrap_or(n.dtype(scale));
    let scale = per_block(n, scale, x)?;
    let zero = n.optional(2).map(|zero| per_block(n, zero, x)).transpose()?;
    let y = shifted(n, x, zero)?;
    let (y, scale) = (n.cast(y, DType::F32)?, n.cast(scale, DType::F32)?);
    let y = n.op(Op::mul, &[y, scale])?;
    Ok(vec![n.cast(y, to)?])
}

/// `x - zero`, in i32 for integers and f32 for floats.
pub(crate) fn shifted(n: &mut Site, x: ValueId, zero: Option<ValueId>) -> Result<ValueId, Stop> {
    let wide = if n.dtype(x).is_int() { DType::I32 } else { DType::F32 };
    let x = n.cast(x, wide)?;
    let Some(zero) = zero else { return Ok(x) };
    let zero = n.cast(zero, wide)?;
    n.op(Op::sub, &[x, zero])
}

fn output_type(n: &Site) -> Result<Option<DType>, Stop> {
    element_type(n, "output_dtype")
}

/// An attribute that names an element type; 0 leaves it open.
pub(crate) fn element_type(n: &Site, name: &str) -> Result<Option<DType>, Stop> {
    let Some(number) = n.int(name)?.filter(|number| *number != 0) else { return Ok(None) };
    let found = i32::try_from(number).map_err(|_| format!("element type number {number} is not known")).and_then(model::dtype);
    found.map(Some).map_err(|message| fault(Code::ElementType, message, "use another element type in the model"))
}

/// A scale or zero point shaped to broadcast against `x`: one number, one per index of `axis`, or one per block along it.
fn per_block(n: &mut Site, factor: ValueId, x: ValueId) -> Result<ValueId, Stop> {
    let (dims, own) = (n.dims(x), n.dims(factor));
    let block = n.int_or("block_size", 0)?;
    if own.iter().all(|d| d.is(1)) && block == 0 {
        n.without_effect(&["axis"]);
        return n.reshape(factor, []);
    }
    let axis = n.axis_or(1, x)?;
    if own.len() == 1 && block == 0 {
        let mut shape = vec![Dim::ONE; dims.len()];
        shape[axis] = own[0].clone();
        return n.reshape(factor, shape);
    }
    if own.len() != dims.len() || block <= 0 {
        let message = format!("`{}` cannot scale {} by {} with `block_size` {block}", n.operator, n.ty(x), n.ty(factor));
        return Err(malformed(Code::Shape, message));
    }
    let mut apart = own.clone();
    apart.insert(axis + 1, Dim::ONE);
    let mut repeated = own.clone();
    repeated.insert(axis + 1, Dim::from(block));
    let mut joined = own;
    joined[axis] = joined[axis].clone() * block;
    let factor = n.reshape(factor, apart)?;
    let factor = n.broadcast(factor, repeated)?;
    let factor = n.reshape(factor, joined)?;
    n.slice(factor, axis, Dim::ZERO, dims[axis].clone())
}

pub(crate) fn dynamic_quantize_linear(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    Ok(dynamically_quantized(n, x)?.to_vec())
}

/// `x` in u8, its scale and its zero point: those of the range of `x`, widened to hold 0, over 0 to 255.
pub(crate) fn dynamically_quantized(n: &mut Site, x: ValueId) -> Result<[ValueId; 3], Stop> {
    let axes: Vec<usize> = (0..n.rank(x)).collect();
    let (low, high) = (n.op(Op::reduce_min { axes: axes.clone() }, &[x])?, n.op(Op::reduce_max { axes }, &[x])?);
    let (low, high) = (n.reshape(low, [])?, n.reshape(high, [])?);
    let (low, high) = (n.with_number(Op::min, low, 0.0)?, n.with_number(Op::max, high, 0.0)?);
    let range = n.op(Op::sub, &[high, low])?;
    let scale = n.with_number(Op::div, range, 255.0)?;
    // A tensor of zeros has the scale 0 and any zero point; 0/0 becomes 0 when it is converted.
    let steps = n.op(Op::div, &[low, scale])?;
    let zero = n.op(Op::neg, &[steps])?;
    let zero = rounded(n, zero, None, DType::U8)?;
    let y = n.op(Op::div, &[x, scale])?;
    let y = rounded(n, y, Some(zero), DType::U8)?;
    Ok([y, scale, zero])
}

/// Zero points: a number, or one per row of `a` and per column of `b`.
pub(crate) fn matmul_integer(n: &mut Site) -> Outcome {
    let (a, b) = (n.input(0)?, n.input(1)?);
    let (zero_a, zero_b) = (n.optional(2), n.optional(3));
    Ok(vec![integer_product(n, a, zero_a, b, zero_b)?])
}

pub(crate) fn integer_product(
    n: &mut Site,
    a: ValueId,
    zero_a: Option<ValueId>,
    b: ValueId,
    zero_b: Option<ValueId>,
) -> Result<ValueId, Stop> {
    let zero_a = zero_a.map(|zero| per_row(n, zero)).transpose()?;
    let (a, b) = (shifted(n, a, zero_a)?, shifted(n, b, zero_b)?);
    n.op(Op::matmul, &[a, b])
}

/// `[rows]` as `[rows, 1]`; other shapes stay.
fn per_row(n: &mut Site, value: ValueId) -> Result<ValueId, Stop> {
    match n.dims(value).as_slice() {
        [rows] if !rows.is(1) => n.reshape(value, [rows.clone(), Dim::ONE]),
        _ => Ok(value),
    }
}

pub(crate) fn qlinear_matmul(n: &mut Site) -> Outcome {
    let [a, scale_a, zero_a, b, scale_b, zero_b, scale_y, zero_y] = eight(n)?;
    let product = integer_product(n, a, Some(zero_a), b, Some(zero_b))?;
    let scale_a = per_row(n, scale_a)?;
    Ok(vec![requantized(n, product, [scale_a, scale_b, scale_y], zero_y)?])
}

fn eight(n: &Site) -> Result<[ValueId; 8], Stop> {
    let mut all = [n.input(0)?; 8];
    for (i, value) in all.iter_mut().enumerate() {
        *value = n.input(i)?;
    }
    Ok(all)
}

/// `saturate(round(x * (a * b / y)) + zero)`
fn requantized(n: &mut Site, x: ValueId, scales: [ValueId; 3], zero: ValueId) -> Result<ValueId, Stop> {
    let [a, b, y] = scales;
    let (a, b, y) = (n.cast(a, DType::F32)?, n.cast(b, DType::F32)?, n.cast(y, DType::F32)?);
    let product = n.op(Op::mul, &[a, b])?;
    let factor = n.op(Op::div, &[product, y])?;
    let x = n.cast(x, DType::F32)?;
    let scaled = n.op(Op::mul, &[x, factor])?;
    rounded(n, scaled, Some(zero), n.dtype(zero))
}

/// The zero point of the weights: a number, or one per output channel.
pub(crate) fn conv_integer(n: &mut Site) -> Outcome {
    let (x, w) = (n.input(0)?, n.input(1)?);
    let (zero_x, zero_w) = (n.optional(2), n.optional(3));
    Ok(vec![integer_conv(n, x, zero_x, w, zero_w)?])
}

fn integer_conv(n: &mut Site, x: ValueId, zero_x: Option<ValueId>, w: ValueId, zero_w: Option<ValueId>) -> Result<ValueId, Stop> {
    let zero_x = zero_x.map(|zero| n.reshape(zero, [])).transpose()?;
    let zero_w = zero_w.map(|zero| per_channel(n, zero, w, 0)).transpose()?;
    let (x, w) = (shifted(n, x, zero_x)?, shifted(n, w, zero_w)?);
    conv::product(n, x, w)
}

/// `[channels]` shaped to broadcast against `like` on this axis; a single number as rank 0.
fn per_channel(n: &mut Site, value: ValueId, like: ValueId, axis: usize) -> Result<ValueId, Stop> {
    match n.dims(value).as_slice() {
        [channels] if !channels.is(1) && axis < n.rank(like) => {
            let mut shape = vec![Dim::ONE; n.rank(like)];
            shape[axis] = channels.clone();
            n.reshape(value, shape)
        }
        _ => n.reshape(value, []),
    }
}

pub(crate) fn qlinear_conv(n: &mut Site) -> Outcome {
    let [x, scale_x, zero_x, w, scale_w, zero_w, scale_y, zero_y] = eight(n)?;
    let mut product = integer_conv(n, x, Some(zero_x), w, Some(zero_w))?;
    if let Some(bias) = n.optional(8) {
        let bias = per_channel(n, bias, product, 1)?;
        product = n.op(Op::add, &[product, bias])?;
    }
    let scale_w = per_channel(n, scale_w, product, 1)?;
    let (scale_x, scale_y, zero_y) = (n.reshape(scale_x, [])?, n.reshape(scale_y, [])?, n.reshape(zero_y, [])?);
    Ok(vec![requantized(n, product, [scale_x, scale_w, scale_y], zero_y)?])
}
