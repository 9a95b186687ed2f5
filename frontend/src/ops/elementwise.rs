//! Elementwise operators with attributes, optional or any number of operands.

use crate::error::Code;
use crate::model::dtype;
use crate::ops::quantize::element_type;
use crate::ops::{random, text};
use crate::site::{Outcome, Site, Stop, fault, malformed};
use egret_ir::{DType, Element, Op, Real, ValueId};

pub(crate) fn identity(n: &mut Site) -> Outcome {
    Ok(vec![n.input(0)?])
}

/// In inference it passes its input on, and its mask is all true. So it does where nothing is dropped.
pub(crate) fn dropout(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    n.without_effect(&["ratio", "seed"]);
    n.optional(1);
    if n.optional(2).is_some() && n.constant(2, "whether it trains")?.elements().any(|t| t.as_bool()) {
        let ratio = match n.optional(1) {
            Some(_) => n.constant(1, "the ratio")?.elements().next().map_or(0.0, Element::as_f64),
            None => 0.5,
        };
        if !(0.0..1.0).contains(&ratio) {
            return Err(malformed(Code::Operand, format!("`Dropout` drops a share of {ratio}, expected one from 0 up to but without 1")));
        }
        if ratio > 0.0 {
            return Ok(random::dropped(n, x, ratio)?.to_vec());
        }
    }
    if !n.wants(1) {
        return Ok(vec![x]);
    }
    let dims = n.dims(x);
    // Before opset 10 the mask had the type of the data.
    let mask = if n.opset < 10 { n.dtype(x) } else { DType::Bool };
    let mask = n.splat(1.0, mask, dims)?;
    Ok(vec![x, mask])
}

pub(crate) fn cast(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    n.without_effect(&["round_mode"]); // It speaks of float8e8m0 only.
    let to = n.int("to")?.ok_or_else(|| malformed(Code::Attribute, "attribute `to` is missing"))?;
    let to = i32::try_from(to).map_err(|_| format!("element type number {to} is not known")).and_then(dtype);
    let to = to.map_err(|message| fault(Code::ElementType, message, "cast to another type before the export"))?;
    Ok(vec![converted_or_wrapped(n, x, to)?])
}

pub(crate) fn bit_cast(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let to = element_type(n, "to")?.ok_or_else(|| malformed(Code::Attribute, "attribute `to` is missing"))?;
    Ok(vec![n.op(Op::bit_cast { to }, &[x])?])
}

pub(crate) fn cast_like(n: &mut Site) -> Outcome {
    n.without_effect(&["round_mode"]);
    let (x, like) = (n.input(0)?, n.input(1)?);
    Ok(vec![converted_or_wrapped(n, x, n.dtype(like))?])
}

/// `Cast` to an integer of less than a byte wraps, where quantising saturates.
fn converted_or_wrapped(n: &mut Site, x: ValueId, to: DType) -> Result<ValueId, Stop> {
    if (n.dtype(x) == DType::Str) != (to == DType::Str) {
        n.without_effect(&["saturate"]);
        return text::converted(n, x, to);
    }
    let wraps = to.is_int() && to.is_storage() && n.dtype(x).is_float();
    let x = if wraps { n.cast(x, DType::I32)? } else { x };
    converted(n, x, to)
}

/// The conversion that `Cast` and `QuantizeLinear` make: to a small float type, what is too large becomes the largest number,
/// unless `saturate` is 0.
pub(crate) fn converted(n: &mut Site, x: ValueId, to: DType) -> Result<ValueId, Stop> {
    let saturates = n.int_or("saturate", 1)? != 0;
    let Some(format) = to.small_float().filter(|_| saturates && n.dtype(x) != to) else { return n.cast(x, to) };
    let largest = f64::from(format.decode(format.largest()));
    let wide = if n.dtype(x) == DType::F64 { DType::F64 } else { DType::F32 };
    let x = n.cast(x, wide)?;
    let (low, high) = (n.scalar(-largest, wide), n.scalar(largest, wide));
    let held = n.op(Op::clip, &[x, low, high])?;
    n.cast(held, to)
}

/// Bounds are inputs since opset 11, attributes before; either may be left out.
pub(crate) fn clip(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let (low, high) = if n.opset < 11 {
        let (low, high) = (n.float("min")?, n.float("max")?);
        let mut bound = |value: Option<f64>| value.map(|v| n.scalar(v, n.dtype(x)));
        (bound(low), bound(high))
    } else {
        (n.optional(1), n.optional(2))
    };
    let (low, high) = (low.map(|v| scalar(n, v)).transpose()?, high.map(|v| scalar(n, v)).transpose()?);
    Ok(vec![match (low, high) {
        (Some(low), Some(high)) => n.op(Op::clip, &[x, low, high])?,
        (Some(low), None) => n.op(Op::max, &[x, low])?,
        (None, Some(high)) => n.op(Op::min, &[x, high])?,
        (None, None) => x,
    }])
}

/// A tensor of one element as rank 0: some exporters write `[1]` where the specification wants a scalar.
pub(crate) fn scalar(n: &mut Site, value: ValueId) -> Result<ValueId, Stop> {
    n.reshape(value, [])
}

/// The exponent may have another type; it takes that of the base.
pub(crate) fn pow(n: &mut Site) -> Outcome {
    let (x, y) = (n.input(0)?, n.input(1)?);
    let (base, exponent) = (n.dtype(x), n.dtype(y));
    if base.is_int() && exponent.is_float() {
        // The result is that of the float power, truncated.
        let wide = n.cast(x, exponent)?;
        let power = n.op(Op::pow, &[wide, y])?;
        return Ok(vec![n.cast(power, base)?]);
    }
    let y = n.cast(y, base)?;
    Ok(vec![n.op(Op::pow, &[x, y])?])
}

pub(crate) fn modulo(n: &mut Site) -> Outcome {
    let op = if n.flag("fmod")? { Op::fmod } else { Op::modulo };
    let (x, y) = (n.input(0)?, n.input(1)?);
    Ok(vec![n.op(op, &[x, y])?])
}

/// `x op y op z ...`
fn fold(n: &mut Site, op: &Op) -> Result<ValueId, Stop> {
    let inputs = n.inputs()?;
    let first = n.input(0)?;
    inputs[1..].iter().try_fold(first, |sum, &x| n.op(op.clone(), &[sum, x]))
}

pub(crate) fn sum(n: &mut Site) -> Outcome {
    Ok(vec![fold(n, &Op::add)?])
}

pub(crate) fn max(n: &mut Site) -> Outcome {
    Ok(vec![fold(n, &Op::max)?])
}

pub(crate) fn min(n: &mut Site) -> Outcome {
    Ok(vec![fold(n, &Op::min)?])
}

pub(crate) fn mean(n: &mut Site) -> Outcome {
    let sum = fold(n, &Op::add)?;
    let count = n.inputs()?.len();
    Ok(vec![if count == 1 { sum } else { n.with_number(Op::div, sum, count as f64)? }])
}

pub(crate) fn bit_shift(n: &mut Site) -> Outcome {
    let op = n.word("direction", "", &[("LEFT", Op::shl), ("RIGHT", Op::shr)])?;
    let (x, y) = (n.input(0)?, n.input(1)?);
    Ok(vec![n.op(op, &[x, y])?])
}

pub(crate) fn greater(n: &mut Site) -> Outcome {
    let (x, y) = (n.input(0)?, n.input(1)?);
    Ok(vec![n.op(Op::lt, &[y, x])?])
}

pub(crate) fn greater_or_equal(n: &mut Site) -> Outcome {
    let (x, y) = (n.input(0)?, n.input(1)?);
    Ok(vec![n.op(Op::le, &[y, x])?])
}

pub(crate) fn is_inf(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let (negative, positive) = (n.int_or("detect_negative", 1)? != 0, n.int_or("detect_positive", 1)? != 0);
    Ok(vec![match (negative, positive) {
        (true, true) => {
            let size = n.op(Op::abs, &[x])?;
            n.with_number(Op::eq, size, f64::INFINITY)?
        }
        (false, true) => n.with_number(Op::eq, x, f64::INFINITY)?,
        (true, false) => n.with_number(Op::eq, x, f64::NEG_INFINITY)?,
        (false, false) => {
            let dims = n.dims(x);
            n.splat(0.0, DType::Bool, dims)?
        }
    }])
}

/// An op of one operand.
fn unary(n: &mut Site, op: Op) -> Outcome {
    let x = n.input(0)?;
    Ok(vec![n.op(op, &[x])?])
}

pub(crate) fn celu(n: &mut Site) -> Outcome {
    let alpha = Real(n.float_or("alpha", 1.0)?);
    unary(n, Op::celu { alpha })
}

pub(crate) fn elu(n: &mut Site) -> Outcome {
    let alpha = Real(n.float_or("alpha", 1.0)?);
    unary(n, Op::elu { alpha })
}

pub(crate) fn gelu(n: &mut Site) -> Outcome {
    let op = n.word("approximate", "none", &[("none", Op::gelu), ("tanh", Op::gelu_tanh)])?;
    unary(n, op)
}

pub(crate) fn hard_sigmoid(n: &mut Site) -> Outcome {
    let (alpha, beta) = (Real(n.float_or("alpha", 0.2)?), Real(n.float_or("beta", 0.5)?));
    unary(n, Op::hard_sigmoid { alpha, beta })
}

pub(crate) fn leaky_relu(n: &mut Site) -> Outcome {
    let alpha = Real(n.float_or("alpha", 0.01)?);
    unary(n, Op::leaky_relu { alpha })
}

/// The slope broadcasts to the input, not the other way round.
pub(crate) fn prelu(n: &mut Site) -> Outcome {
    let (x, slope) = (n.input(0)?, n.input(1)?);
    Ok(vec![n.op(Op::prelu, &[x, slope])?])
}

pub(crate) fn selu(n: &mut Site) -> Outcome {
    // The defaults of the specification, which are the nearest f32 of the published constants.
    let alpha = Real(n.float_or("alpha", 1.673_263_192_176_818_8)?);
    let gamma = Real(n.float_or("gamma", 1.050_701_022_148_132_3)?);
    unary(n, Op::selu { alpha, gamma })
}

pub(crate) fn thresholded_relu(n: &mut Site) -> Outcome {
    let alpha = Real(n.float_or("alpha", 1.0)?);
    unary(n, Op::thresholded_relu { alpha })
}

/// `x * sigmoid(alpha * x)`
pub(crate) fn swish(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let alpha = n.float_or("alpha", 1.0)?;
    if alpha == 1.0 {
        return unary(n, Op::silu);
    }
    let scaled = n.with_number(Op::mul, x, alpha)?;
    let gate = n.op(Op::sigmoid, &[scaled])?;
    Ok(vec![n.op(Op::mul, &[x, gate])?])
}

/// `x + bias` below `-lambd`, `x - bias` above `lambd`, 0 between.
pub(crate) fn shrink(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let (bias, lambd) = (n.float_or("bias", 0.0)?, n.float_or("lambd", 0.5)?);
    let dtype = n.dtype(x);
    let (low, high) = (n.scalar(-lambd, dtype), n.scalar(lambd, dtype));
    let (below, above) = (n.op(Op::lt, &[x, low])?, n.op(Op::lt, &[high, x])?);
    let (raised, lowered) = (n.with_number(Op::add, x, bias)?, n.with_number(Op::sub, x, bias)?);
    let zero = n.scalar(0.0, dtype);
    let upper = n.op(Op::select, &[above, lowered, zero])?;
    Ok(vec![n.op(Op::select, &[below, raised, upper])?])
}
