//! What instructions compute from registers, which hold 64 bits each; a type says how many of them count and how they are read.
//!
//! Sections of the PTX ISA: 9.7.1 for integers, 9.7.3 for floats, 9.7.9.21 for conversions. Subnormal numbers are kept.

use super::op::{Compare, Function, Kind, Rounding, Type};

/// The lowest bits.
pub(super) fn truncated(ty: Type, value: u64) -> u64 {
    if ty.bits >= 64 { value } else { value & ((1 << ty.bits) - 1) }
}

/// The number, with the sign of its highest bit.
pub(super) fn signed(ty: Type, value: u64) -> i64 {
    let unused = 64 - ty.bits.max(1);
    ((value << unused) as i64) >> unused
}

fn integer(ty: Type, value: u64) -> i128 {
    if ty.kind == Kind::Signed { signed(ty, value).into() } else { truncated(ty, value).into() }
}

fn float(ty: Type, value: u64) -> f64 {
    match ty.bits {
        16 => half(value as u16),
        32 => f32::from_bits(value as u32).into(),
        _ => f64::from_bits(value),
    }
}

/// The nearest number of a type; exact results of f64 are rounded once, since no other result comes here.
fn float_bits(ty: Type, value: f64) -> u64 {
    match ty.bits {
        16 => half_bits(value).into(),
        32 => (value as f32).to_bits().into(),
        _ => value.to_bits(),
    }
}

/// The value of an f16.
pub(super) fn half(bits: u16) -> f64 {
    let (sign, exponent, mantissa) = (if bits >> 15 == 1 { -1.0 } else { 1.0 }, i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        e => (1024.0 + mantissa) * 2f64.powi(e - 25),
    }
}

/// The nearest f16, ties to even.
fn half_bits(value: f64) -> u16 {
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    let size = value.abs();
    if value.is_nan() {
        return 0x7fff;
    }
    if size >= 65520.0 {
        return sign | 0x7c00;
    }
    let exponent = if size < 2f64.powi(-14) { -14 } else { (size.to_bits() >> 52) as i32 - 1023 };
    let steps = (size * 2f64.powi(10 - exponent)).round_ties_even() as u16;
    let biased = if steps < 1024 && exponent == -14 { 0 } else { (exponent + 14) as u16 };
    sign | (biased * 1024 + steps)
}

/// A function of as many operands as it takes.
pub(super) fn apply(function: Function, ty: Type, x: [u64; 3]) -> Result<u64, String> {
    match (ty.kind, ty.bits) {
        (Kind::Float, 32) if function == Function::AboutExp2 => Ok(about_exp2(f32::from_bits(x[0] as u32)).to_bits().into()),
        (Kind::Float, 32) => Ok(apply_f32(function, x.map(|v| f32::from_bits(v as u32)))?.to_bits().into()),
        (Kind::Float, 64) => Ok(apply_f64(function, x.map(f64::from_bits))?.to_bits()),
        // Sums and products of two f16s are exact in f64.
        (Kind::Float, _) => Ok(half_bits(apply_f64(function, x.map(|v| half(v as u16)))?).into()),
        _ => Ok(truncated(ty, apply_integer(function, ty, x)?)),
    }
}

/// The least that `ex2.approx.ftz.f32` may be: its relative error is up to 2^-22, and below the normal numbers it is zero.
fn about_exp2(x: f32) -> f32 {
    let least = (f64::from(x).exp2() * (1.0 - 2f64.powi(-22))) as f32;
    if least < f32::MIN_POSITIVE { 0.0 } else { least }
}

macro_rules! float_functions {
    ($name:ident, $float:ident) => {
        fn $name(function: Function, [x, y, z]: [$float; 3]) -> Result<$float, String> {
            Ok(match function {
                Function::Abs => x.abs(),
                Function::Neg => -x,
                Function::Sqrt => x.sqrt(),
                Function::Reciprocal => 1.0 / x,
                Function::Add => x + y,
                Function::Sub => x - y,
                Function::MulLow => x * y,
                Function::Div => x / y,
                Function::Min => x.min(y),
                Function::Max => x.max(y),
                // The sign comes first.
                Function::CopySign => y.copysign(x),
                Function::Fma => x.mul_add(y, z),
                other => return Err(format!("{other:?} of floats is not in the table")),
            })
        }
    };
}
float_functions!(apply_f32, f32);
float_functions!(apply_f64, f64);

fn apply_integer(function: Function, ty: Type, [a, b, c]: [u64; 3]) -> Result<u64, String> {
    let (x, y, z) = (integer(ty, a), integer(ty, b), integer(ty, c));
    let count = (b & 0xffff_ffff).min(ty.bits.into()) as u32;
    let found: i128 = match function {
        Function::Abs => x.abs(),
        Function::Neg => -x,
        Function::Not if ty.kind == Kind::Predicate => 1 - x,
        Function::Not => !x,
        Function::Add => x + y,
        Function::Sub => x - y,
        Function::MulLow => x.wrapping_mul(y),
        Function::MulAdd => x.wrapping_mul(y).wrapping_add(z),
        Function::MulHigh => x.wrapping_mul(y) >> ty.bits,
        Function::Div | Function::Rem if y == 0 => return Err("an integer is divided by zero".into()),
        Function::Div => x / y,
        Function::Rem => x % y,
        Function::Min => x.min(y),
        Function::Max => x.max(y),
        Function::And => x & y,
        Function::Or => x | y,
        Function::Xor => x ^ y,
        Function::ShiftLeft => x << count,
        Function::ShiftRight => x >> count,
        Function::FunnelLeft => (((b << 32 | a & 0xffff_ffff) << (c & 31)) >> 32).into(),
        Function::FunnelRight => ((b << 32 | a & 0xffff_ffff) >> (c & 31)).into(),
        Function::Permute => permuted(a, b, c).into(),
        Function::ExtractBits => extracted(ty, a, (b & 255) as u32, (c & 255) as u32).into(),
        Function::LeadingZeros => (truncated(ty, a).leading_zeros() + ty.bits - 64).into(),
        Function::Sqrt | Function::Reciprocal | Function::AboutExp2 | Function::CopySign | Function::Fma => {
            return Err(format!("{function:?} of integers is not in the table"));
        }
    };
    Ok(found as u64)
}

/// `prmt.b32`: each nibble of the selector picks a byte of `b << 32 | a`; its high bit asks for the sign instead.
fn permuted(a: u64, b: u64, selector: u64) -> u64 {
    let bytes = (a & 0xffff_ffff) | b << 32;
    (0..4).fold(0, |word, i| {
        let pick = selector >> (4 * i) & 15;
        let byte = bytes >> (8 * (pick & 7)) & 255;
        let byte = if pick & 8 == 0 { byte } else { (byte >> 7) * 255 };
        word | byte << (8 * i)
    })
}

/// `bfe`: `count` bits from `start` on, with the sign of the last where the type is signed.
fn extracted(ty: Type, value: u64, start: u32, count: u32) -> u64 {
    let shifted = truncated(ty, value).checked_shr(start).unwrap_or(0);
    let width = Type { kind: ty.kind, bits: count.clamp(1, ty.bits.saturating_sub(start).max(1)) };
    match (count, ty.kind) {
        (0, _) => 0,
        (_, Kind::Signed) => signed(width, shifted) as u64,
        _ => truncated(width, shifted),
    }
}

/// Two floats as f16s, the first in the upper half.
pub(super) fn packed_halves(ty: Type, upper: u64, lower: u64) -> u64 {
    let [upper, lower] = [upper, lower].map(|x| u64::from(half_bits(float(ty, x))));
    upper << 16 | lower
}

/// Two f32s as bf16s, the first in the upper half.
pub(super) fn packed_brains(upper: u64, lower: u64) -> u64 {
    let [upper, lower] = [upper, lower].map(|x| brain_bits(x as u32));
    upper << 16 | lower
}

/// The nearest bf16 of the bits of an f32, ties to even.
pub(super) fn brain_bits(bits: u32) -> u64 {
    match f32::from_bits(bits).is_nan() {
        true => 0x7fff,
        false => (u64::from(bits) + 0x7fff + u64::from(bits >> 16 & 1)) >> 16,
    }
}

/// Bits of an f32 that a TF32 has not.
pub(super) const BELOW_TF32: u32 = (1 << 13) - 1;

/// The nearest TF32, ties away from zero.
pub(super) fn tf32(value: u64) -> u64 {
    let (x, bits) = (f32::from_bits(value as u32), value as u32);
    if x.is_nan() {
        return f32::NAN.to_bits().into();
    }
    let rounded = if x.is_infinite() { bits } else { bits + BELOW_TF32.div_ceil(2) };
    (rounded & !BELOW_TF32).into()
}

/// The product of two numbers in twice their bits, and a third of that width.
pub(super) fn wide(ty: Type, [a, b, c]: [u64; 3]) -> u64 {
    let result = Type { kind: ty.kind, bits: 2 * ty.bits };
    truncated(result, integer(ty, a).wrapping_mul(integer(ty, b)).wrapping_add(c.into()) as u64)
}

pub(super) fn compare(how: Compare, ty: Type, a: u64, b: u64) -> bool {
    if ty.kind != Kind::Float {
        let (x, y) = (integer(ty, a), integer(ty, b));
        return match how {
            Compare::Eq | Compare::EqNan => x == y,
            Compare::Ne | Compare::NeNan => x != y,
            Compare::Lt | Compare::LtNan => x < y,
            Compare::Le | Compare::LeNan => x <= y,
            Compare::Gt | Compare::GtNan => x > y,
            Compare::Ge | Compare::GeNan => x >= y,
            Compare::Ordered => true,
            Compare::Nan => false,
        };
    }
    let (x, y) = (float(ty, a), float(ty, b));
    let nan = x.is_nan() || y.is_nan();
    match how {
        Compare::Eq => x == y,
        Compare::Ne => !nan && x != y,
        Compare::Lt => x < y,
        Compare::Le => x <= y,
        Compare::Gt => x > y,
        Compare::Ge => x >= y,
        Compare::EqNan => nan || x == y,
        Compare::NeNan => x != y,
        Compare::LtNan => nan || x < y,
        Compare::LeNan => nan || x <= y,
        Compare::GtNan => nan || x > y,
        Compare::GeNan => nan || x >= y,
        Compare::Ordered => !nan,
        Compare::Nan => nan,
    }
}

fn rounded(rounding: Rounding, x: f64) -> f64 {
    match rounding {
        Rounding::Nearest => x,
        Rounding::Even => x.round_ties_even(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    }
}

/// Floats to integers saturate, and NaN becomes 0; integers to integers wrap, and those with a sign keep it in a wider register.
pub(super) fn converted(to: Type, from: Type, rounding: Rounding, value: u64) -> u64 {
    match (from.kind == Kind::Float, to.kind == Kind::Float) {
        (false, false) if to.kind == Kind::Signed => signed(to, integer(from, value) as u64) as u64,
        (false, false) => truncated(to, integer(from, value) as u64),
        (true, true) => float_bits(to, rounded(rounding, float(from, value))),
        (false, true) if to.bits == 32 => ((integer(from, value)) as f32).to_bits().into(),
        (false, true) => float_bits(to, integer(from, value) as f64),
        (true, false) => {
            let x = rounded(rounding, float(from, value));
            let found = match (to.kind, to.bits) {
                _ if x.is_nan() => 0,
                (Kind::Signed, bits) => i128::from(x as i64).clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
                (_, bits) => i128::from(x as u64).clamp(0, (1 << bits) - 1),
            };
            truncated(to, found as u64)
        }
    }
}
