//! Floats of 8 and 4 bits and integers of 4 and 2, which live in bytes: to and from what registers hold (f32, i8).
//!
//! The bits are put together by integer arithmetic, and numbers near zero by conversion, so that nothing depends on how the
//! processor treats subnormal numbers. `ir::small` says what the codes mean.

use super::emit::{Emit, Value};
use egret_ir::DType;
use egret_ir::small::{Beyond, SmallFloat};
use inkwell::FloatPredicate;
use inkwell::IntPredicate;
use inkwell::values::InstructionOpcode;

/// The bits of the mantissa of an f32, and its bias.
const MANTISSA: i64 = 23;
const BIAS: i32 = 127;

fn format(dtype: DType) -> SmallFloat {
    dtype.small_float().expect("called for the small float types")
}

/// The f32 that a byte stands for.
pub(crate) fn decoded<'c>(e: &Emit<'c>, raw: Value<'c>, dtype: DType) -> Value<'c> {
    let format = format(dtype);
    let f32 = e.cx.f32_type().into();
    let bits = e.convert(InstructionOpcode::ZExt, raw, e.int_type(32));
    let size = e.and(bits, e.int(bits, i64::from(format.sign() - 1)));
    let raised = i64::from(BIAS - format.bias) << MANTISSA;
    let normal = e.bitcast(e.add(e.shl(size, spare(format)), e.int(size, raised)), f32);
    let steps = e.convert(InstructionOpcode::UIToFP, size, f32);
    let near_zero = e.fmul(steps, e.float(steps, smallest(format)));
    let is_near_zero = e.icmp(IntPredicate::ULT, size, e.int(size, 1 << format.mantissa));
    let number = e.select(is_near_zero, near_zero, normal);
    let number = e.select(is_nan(e, bits, size, format), e.float(number, f64::NAN), number);
    let number = match format.beyond {
        Beyond::Infinity => {
            let infinite = e.icmp(IntPredicate::EQ, size, e.int(size, format.infinity().into()));
            e.select(infinite, e.float(number, f64::INFINITY), number)
        }
        _ => number,
    };
    let negative = e.icmp(IntPredicate::NE, e.and(bits, e.int(bits, format.sign().into())), e.int(bits, 0));
    e.select(negative, e.fneg(number), number)
}

/// How many bits of mantissa an f32 has more.
fn spare(format: SmallFloat) -> i64 {
    MANTISSA - i64::from(format.mantissa)
}

/// The distance of numbers near zero.
fn smallest(format: SmallFloat) -> f64 {
    2f64.powi(1 - format.bias - format.mantissa as i32)
}

fn is_nan<'c>(e: &Emit<'c>, bits: Value<'c>, size: Value<'c>, format: SmallFloat) -> Value<'c> {
    match format.beyond {
        Beyond::Infinity => e.icmp(IntPredicate::UGT, size, e.int(size, format.infinity().into())),
        Beyond::Nan => e.icmp(IntPredicate::EQ, size, e.int(size, format.nan().into())),
        Beyond::NanForMinusZero => e.icmp(IntPredicate::EQ, bits, e.int(bits, format.nan().into())),
        Beyond::Nothing => e.icmp(IntPredicate::NE, size, size),
    }
}

/// The byte of the nearest number to an f32, of two the even one.
pub(crate) fn encoded<'c>(e: &Emit<'c>, x: Value<'c>, dtype: DType) -> Value<'c> {
    let format = format(dtype);
    let largest = f64::from(format.decode(format.largest()));
    let (f32, i32) = (e.cx.f32_type().into(), e.int_type(32));
    // Beyond twice the largest number nothing changes any more.
    let size = e.abs(x);
    let bound = e.float(size, 2.0 * largest);
    let size = e.select(e.fcmp(FloatPredicate::OGT, size, bound), bound, size);
    // Adding 2^(exponent + 23 - mantissa) leaves as many bits of mantissa as the format has; taking it away, the rounded number.
    let exponent = e.lshr(e.bitcast(size, i32), MANTISSA);
    let exponent = e.imax(exponent, e.int(exponent, (BIAS + 1 - format.bias).into()), false);
    let magic = e.bitcast(e.shl(e.add(exponent, e.int(exponent, spare(format))), MANTISSA), f32);
    let rounded = e.fsub(e.fadd(size, magic), magic);
    let raised = i64::from(BIAS - format.bias) << MANTISSA;
    let bits = e.bitcast(rounded, i32);
    let normal = e.lshr(e.sub(bits, e.int(bits, raised)), spare(format));
    let steps = e.fmul(rounded, e.float(rounded, 1.0 / smallest(format)));
    let is_near_zero = e.fcmp(FloatPredicate::OLT, rounded, e.float(rounded, 2f64.powi(1 - format.bias)));
    let near_zero = e.convert(InstructionOpcode::FPToUI, e.select(is_near_zero, steps, e.float(steps, 0.0)), i32);
    let code = e.select(is_near_zero, near_zero, normal);
    let too_large = e.fcmp(FloatPredicate::OGT, rounded, e.float(rounded, largest));
    let code = e.select(too_large, e.int(code, format.too_large().into()), code);
    let shift = 31 - i64::from(format.exponent + format.mantissa);
    let sign = e.and(e.lshr(e.bitcast(x, i32), shift), e.int(code, format.sign().into()));
    let sign = match format.beyond {
        Beyond::NanForMinusZero => e.select(e.icmp(IntPredicate::EQ, code, e.int(code, 0)), e.int(code, 0), sign),
        _ => sign,
    };
    let nan = e.int(code, format.nan().into());
    let code = e.select(e.fcmp(FloatPredicate::UNO, x, x), nan, e.or(code, sign));
    e.convert(InstructionOpcode::Trunc, code, e.int_type(8))
}

/// An integer that has wrapped to a byte, wrapped to the bits of its type.
pub(crate) fn wrapped<'c>(e: &Emit<'c>, x: Value<'c>, dtype: DType) -> Value<'c> {
    let spare = 8 * dtype.size() - dtype.bits();
    match spare {
        0 => x,
        spare if dtype.is_signed_int() => e.ashr(e.shl(x, spare as i64), spare as i64),
        _ => e.and(x, e.int(x, dtype.int_range().1 as i64)),
    }
}

/// An integer that has saturated to a byte, held within the range of its type.
pub(crate) fn clamped<'c>(e: &Emit<'c>, x: Value<'c>, dtype: DType) -> Value<'c> {
    if dtype.bits() == 8 * dtype.size() {
        return x;
    }
    let ((low, high), signed) = (dtype.int_range(), dtype.is_signed_int());
    e.imin(e.imax(x, e.int(x, low as i64), signed), e.int(x, high as i64), signed)
}
