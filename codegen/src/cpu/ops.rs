//! The primitives of scalar expressions, and conversions between element types, on scalars and vectors.
//!
//! They mean what `ir::scalar` says: integers wrap, integer division truncates and gives 0 for a divisor of 0, `max` and `min`
//! propagate NaN, float to integer saturates. **Invariant.** No operand value traps, not even in lanes that are masked off.

use super::emit::{Emit, Value};
use super::scope::{Gen, Run};
use super::{math, quantise, small};
use crate::kernel::{Expr, ExprKind, Literal};
use egret_ir::DType;
use egret_ir::scalar::{BinOp, UnOp};
use inkwell::values::{BasicValueEnum, InstructionOpcode};
use inkwell::{FloatPredicate, IntPredicate};

/// Whether the node's primitive is emitted as a loop, which cannot be moved into the middle of a finished block.
pub(crate) fn needs_loop(expr: &Expr) -> bool {
    match &*expr.kind {
        ExprKind::Bin(BinOp::Pow, x, _) => x.dtype.is_int(),
        ExprKind::Bin(BinOp::Mod | BinOp::Rem, x, _) => x.dtype.is_float(),
        _ => false,
    }
}

/// The number an expression is, if it is a literal.
fn literal_of(expr: &Expr) -> Option<f64> {
    match &*expr.kind {
        ExprKind::Const(Literal::Float(bits)) => Some(f64::from_bits(*bits)),
        ExprKind::Const(Literal::Int(v)) => Some(*v as f64),
        _ => None,
    }
}

impl<'c> Gen<'_, 'c> {
    /// A primitive of one operand of type `dtype`.
    pub(crate) fn un(&mut self, op: UnOp, dtype: DType, x: Value<'c>) -> Value<'c> {
        let e = &self.e;
        let int = dtype.is_int() || dtype == DType::Bool;
        match op {
            UnOp::Neg if int => e.sub(e.int(x, 0), x),
            UnOp::Abs if int => {
                if dtype.is_signed_int() {
                    e.imax(x, e.sub(e.int(x, 0), x), true)
                } else {
                    x
                }
            }
            UnOp::Sign if dtype.is_signed_int() => e.imin(e.imax(x, e.int(x, -1), true), e.int(x, 1), true),
            UnOp::Sign if int => e.imin(x, e.int(x, 1), false),
            UnOp::Not => e.not(x),
            UnOp::Neg => e.fneg(x),
            UnOp::Abs => e.abs(x),
            UnOp::Sign => {
                let one = e.copysign(e.float(x, 1.0), x);
                let nonzero = e.fcmp(FloatPredicate::ONE, x, e.float(x, 0.0));
                e.select(nonzero, one, x)
            }
            UnOp::Sqrt => e.unary("llvm.sqrt", x),
            UnOp::Floor => e.unary("llvm.floor", x),
            UnOp::Ceil => e.unary("llvm.ceil", x),
            UnOp::Round => e.unary("llvm.roundeven", x),
            UnOp::IsNan => e.fcmp(FloatPredicate::UNO, x, x),
            UnOp::Exp => math::exp(e, x),
            UnOp::Log => math::log(e, x),
            UnOp::Sin => math::sin(e, x),
            UnOp::Cos => math::cos(e, x),
            UnOp::Tan => math::tan(e, x),
            UnOp::Asin => math::asin(e, x),
            UnOp::Acos => math::acos(e, x),
            UnOp::Atan => math::atan(e, x),
            UnOp::Sinh => math::sinh(e, x),
            UnOp::Cosh => math::cosh(e, x),
            UnOp::Asinh => math::asinh(e, x),
            UnOp::Acosh => math::acosh(e, x),
            UnOp::Atanh => math::atanh(e, x),
            UnOp::Tanh => math::tanh(e, x),
            UnOp::Erf => math::erf(e, x),
        }
    }

    /// A primitive of two operands of type `dtype`; `right` is the second operand as written.
    pub(crate) fn bin(&mut self, op: BinOp, dtype: DType, x: Value<'c>, y: Value<'c>, right: &Expr) -> Value<'c> {
        match dtype {
            DType::Bool => self.bin_bool(op, x, y),
            t if t.is_float() => self.bin_float(op, x, y, literal_of(right)),
            _ => self.bin_int(op, dtype, x, y),
        }
    }

    fn bin_bool(&mut self, op: BinOp, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        let e = &self.e;
        match op {
            BinOp::And => e.and(x, y),
            BinOp::Or => e.or(x, y),
            BinOp::Xor => e.xor(x, y),
            BinOp::Eq => e.icmp(IntPredicate::EQ, x, y),
            other => unreachable!("`{other}` does not take bool"),
        }
    }

    fn bin_float(&mut self, op: BinOp, x: Value<'c>, y: Value<'c>, literal: Option<f64>) -> Value<'c> {
        let e = &self.e;
        match op {
            BinOp::Add => e.fadd(x, y),
            BinOp::Sub => e.fsub(x, y),
            BinOp::Mul => e.fmul(x, y),
            BinOp::Div => e.fdiv(x, y),
            BinOp::Max => extreme(e, FloatPredicate::OGT, x, y, literal),
            BinOp::Min => extreme(e, FloatPredicate::OLT, x, y, literal),
            BinOp::Pow => match literal {
                Some(exponent) => math::pow_literal(e, x, exponent),
                None => math::pow(e, x, y),
            },
            BinOp::Rem => self.fmod(x, y),
            BinOp::Mod => {
                let rest = self.fmod(x, y);
                let e = &self.e;
                let (zero, y) = (e.float(rest, 0.0), e.joined(y, rest).0);
                let wrong = e.xor(e.fcmp(FloatPredicate::OLT, rest, zero), e.fcmp(FloatPredicate::OLT, y, zero));
                let wrong = e.and(wrong, e.fcmp(FloatPredicate::ONE, rest, zero));
                e.select(wrong, e.fadd(rest, y), rest)
            }
            BinOp::Eq => e.fcmp(FloatPredicate::OEQ, x, y),
            BinOp::Lt => e.fcmp(FloatPredicate::OLT, x, y),
            BinOp::Le => e.fcmp(FloatPredicate::OLE, x, y),
            BinOp::And | BinOp::Or | BinOp::Xor | BinOp::Shl | BinOp::Shr => unreachable!("`{op}` does not take floats"),
        }
    }

    fn bin_int(&mut self, op: BinOp, dtype: DType, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        let signed = dtype.is_signed_int();
        let e = &self.e;
        match op {
            BinOp::Add => e.add(x, y),
            BinOp::Sub => e.sub(x, y),
            BinOp::Mul => e.mul(x, y),
            BinOp::Max => e.imax(x, y, signed),
            BinOp::Min => e.imin(x, y, signed),
            BinOp::And => e.and(x, y),
            BinOp::Or => e.or(x, y),
            BinOp::Xor => e.xor(x, y),
            BinOp::Shl => shift(e, InstructionOpcode::Shl, x, y),
            BinOp::Shr => shift(e, if signed { InstructionOpcode::AShr } else { InstructionOpcode::LShr }, x, y),
            BinOp::Eq => e.icmp(IntPredicate::EQ, x, y),
            BinOp::Lt => e.icmp(if signed { IntPredicate::SLT } else { IntPredicate::ULT }, x, y),
            BinOp::Le => e.icmp(if signed { IntPredicate::SLE } else { IntPredicate::ULE }, x, y),
            BinOp::Div => divided(e, x, y, signed),
            BinOp::Rem => remainder(e, x, y, signed),
            BinOp::Mod => {
                let rest = remainder(e, x, y, signed);
                if !signed {
                    return rest;
                }
                let zero = e.int(rest, 0);
                let wrong = e.icmp(IntPredicate::SLT, e.xor(rest, y), zero);
                let wrong = e.and(wrong, e.icmp(IntPredicate::NE, rest, zero));
                e.select(wrong, e.add(rest, y), rest)
            }
            BinOp::Pow => self.int_pow(x, y, signed),
        }
    }

    /// Wrapping power by squaring; a negative exponent gives 0, but for a base of 1 or -1.
    fn int_pow(&mut self, x: Value<'c>, y: Value<'c>, signed: bool) -> Value<'c> {
        let (x, y) = self.e.joined(x, y);
        let one = self.e.int(x, 1);
        // The reference clamps exponents to 32 bits.
        let (bits, y) = match self.e.bits(x) {
            64 => (32, self.e.imin(y, self.e.int(y, u32::MAX.into()), signed)),
            narrow => (narrow.into(), y),
        };
        let counter = self.fresh("bit");
        let run = Run { start: self.e.i64(0), end: self.e.i64(bits), step: 1, certain: true, range: (0, bits.into()) };
        let result = self.repeat(&counter, run, vec![one, x, y], |g, carried| {
            let (result, base, exponent) = (carried[0], carried[1], carried[2]);
            let odd = g.e.icmp(IntPredicate::NE, g.e.and(exponent, one), g.e.int(exponent, 0));
            vec![g.e.select(odd, g.e.mul(result, base), result), g.e.mul(base, base), g.e.lshr(exponent, 1)]
        })[0];
        if !signed {
            return result;
        }
        let e = &self.e;
        let minus_one = e.int(x, -1);
        let odd = e.icmp(IntPredicate::NE, e.and(y, one), e.int(y, 0));
        let unit = e.select(odd, x, one);
        let is_unit = e.or(e.icmp(IntPredicate::EQ, x, one), e.icmp(IntPredicate::EQ, x, minus_one));
        let inverse = e.select(is_unit, unit, e.int(x, 0));
        e.select(e.icmp(IntPredicate::SLT, y, e.int(y, 0)), inverse, result)
    }

    /// The remainder of truncated division, exactly: each round takes away a multiple of `y` that is exact in f64, until
    /// less than `|y|` is left.
    fn fmod(&mut self, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        let (x, y) = self.e.joined(x, y);
        let (f64, single) = (self.e.cx.f64_type().into(), self.e.bits(x) == 32);
        let (wide_x, wide_y) = match single {
            true => (self.e.convert(InstructionOpcode::FPExt, x, f64), self.e.convert(InstructionOpcode::FPExt, y, f64)),
            false => (x, y),
        };
        let (size, by) = (self.e.abs(wide_x), self.e.abs(wide_y));
        // A quotient has at most 277 bits for f32 and 2098 for f64; a round settles 51.
        let rounds = if single { 6 } else { 42 };
        let counter = self.fresh("round");
        let run = Run { start: self.e.i64(0), end: self.e.i64(rounds), step: 1, certain: true, range: (0, rounds.into()) };
        let rest = self.repeat(&counter, run, vec![size], |g, carried| {
            let e = &g.e;
            let rest = carried[0];
            let largest = e.float(rest, f64::MAX);
            let quotient = e.fdiv(rest, by);
            let quotient = e.select(e.fcmp(FloatPredicate::OGT, quotient, largest), largest, quotient);
            let quotient = e.unary("llvm.trunc", quotient);
            let left = e.fma(e.fneg(quotient), by, rest);
            // The quotient was rounded, perhaps up: take one multiple less. That multiple is an ulp of the quotient.
            let below = e.fmul(quotient, e.float(rest, 1.0 - f64::EPSILON / 2.0));
            let below = e.fma(e.fneg(e.unary("llvm.trunc", below)), by, rest);
            let too_much = e.fcmp(FloatPredicate::OLT, left, e.float(rest, 0.0));
            let left = e.select(too_much, below, left);
            let done = e.fcmp(FloatPredicate::OLT, rest, by);
            vec![e.select(done, rest, left)]
        })[0];
        let e = &self.e;
        let rest = e.copysign(rest, wide_x);
        let zero = e.float(rest, 0.0);
        // inf % y and x % 0 are NaN; x % inf is x.
        let nan = e.or(e.fcmp(FloatPredicate::UEQ, by, zero), e.fcmp(FloatPredicate::UEQ, size, e.float(size, f64::INFINITY)));
        let rest = e.select(nan, e.float(rest, f64::NAN), rest);
        let rest = e.select(e.fcmp(FloatPredicate::UNO, wide_x, wide_y), e.float(rest, f64::NAN), rest);
        if single { e.convert(InstructionOpcode::FPTrunc, rest, e.cx.f32_type().into()) } else { rest }
    }

    /// The value as memory of type `dtype` holds it.
    pub(crate) fn narrowed(&self, value: Value<'c>, dtype: DType) -> Value<'c> {
        let e = &self.e;
        match dtype {
            DType::F16 => e.convert(InstructionOpcode::FPTrunc, value, e.cx.f16_type().into()),
            DType::BF16 => to_bf16(e, value),
            small if small.small_float().is_some() => small::encoded(e, value, small),
            DType::Bool => e.convert(InstructionOpcode::ZExt, value, e.int_type(8)),
            _ => value,
        }
    }

    /// The value with the precision of `dtype`.
    pub(crate) fn rounded(&self, value: Value<'c>, dtype: DType) -> Value<'c> {
        match dtype.wide() != dtype {
            true => widened(&self.e, self.narrowed(value, dtype), dtype),
            false => value,
        }
    }

    /// Conversion between element types, in registers; narrow floats come out rounded.
    pub(crate) fn cast(&self, x: Value<'c>, from: DType, to: DType) -> Value<'c> {
        let e = &self.e;
        let (f32, f64) = (e.cx.f32_type().into(), e.cx.f64_type().into());
        let register = e.register_type(to);
        let is_int = |t: DType| t.is_int() || t == DType::Bool;
        let value = match (is_int(from), to) {
            _ if from == to => x,
            (true, DType::Bool) => e.icmp(IntPredicate::NE, x, e.int(x, 0)),
            (false, DType::Bool) => e.fcmp(FloatPredicate::UNE, x, e.float(x, 0.0)),
            (true, t) if t.is_int() => {
                let op = match (e.bits(x) as usize).cmp(&(8 * t.size())) {
                    std::cmp::Ordering::Greater => InstructionOpcode::Trunc,
                    std::cmp::Ordering::Equal => return small::wrapped(e, x, t),
                    std::cmp::Ordering::Less if from.is_signed_int() => InstructionOpcode::SExt,
                    std::cmp::Ordering::Less => InstructionOpcode::ZExt,
                };
                small::wrapped(e, e.convert(op, x, register), t)
            }
            (true, t) => {
                let op = if from.is_signed_int() { InstructionOpcode::SIToFP } else { InstructionOpcode::UIToFP };
                match t {
                    DType::F32 | DType::F16 if e.bits(x) <= 32 => e.convert(op, x, f32),
                    DType::F64 => e.convert(op, x, f64),
                    DType::F32 => e.convert(InstructionOpcode::FPTrunc, e.convert(op, x, f64), f32),
                    _ => to_odd(e, e.convert(op, x, f64)),
                }
            }
            (false, t) if t.is_int() && x.is_vector_value() => quantise::truncated(e, x, t),
            (false, t) if t.is_int() => {
                let name = if t.is_signed_int() { "llvm.fptosi.sat" } else { "llvm.fptoui.sat" };
                small::clamped(e, e.intrinsic(name, &[e.shaped(register, x), x.get_type()], &[x]), t)
            }
            (false, DType::F64) => e.convert(InstructionOpcode::FPExt, x, f64),
            (false, DType::F32) if from == DType::F64 => e.convert(InstructionOpcode::FPTrunc, x, f32),
            (false, _) if from == DType::F64 => to_odd(e, x),
            (false, _) => x,
        };
        self.rounded(value, to)
    }
}

/// An element as memory holds it, in a register.
pub(crate) fn widened<'c>(e: &Emit<'c>, raw: Value<'c>, dtype: DType) -> Value<'c> {
    match dtype {
        DType::F16 => e.convert(InstructionOpcode::FPExt, raw, e.cx.f32_type().into()),
        DType::BF16 => {
            let bits = e.convert(InstructionOpcode::ZExt, raw, e.int_type(32));
            e.bitcast(e.shl(bits, 16), e.cx.f32_type().into())
        }
        DType::Bool => e.icmp(IntPredicate::NE, raw, e.int(raw, 0)),
        small if small.small_float().is_some() => small::decoded(e, raw, small),
        _ => raw,
    }
}

/// The upper half of an f32, rounded to nearest, ties to even; NaN stays NaN.
fn to_bf16<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    if e.dots && x.is_vector_value() {
        return e.rounded_to_bf16(x);
    }
    if e.rounds_bf16 {
        return e.as_bf16(x);
    }
    let bits = e.bitcast(x, e.int_type(32));
    let odd = e.and(e.lshr(bits, 16), e.int(bits, 1));
    let rounded = e.lshr(e.add(bits, e.add(odd, e.int(bits, 0x7fff))), 16);
    let nan = e.int(bits, 0x7fc0);
    let bits = e.select(e.fcmp(FloatPredicate::UNO, x, x), nan, rounded);
    e.convert(InstructionOpcode::Trunc, bits, e.int_type(16))
}

/// An f64 as the f32 beside it whose last bit is 1, unless it is exact: rounding that further is rounding the f64 once.
fn to_odd<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    let (f32, f64) = (e.cx.f32_type().into(), e.cx.f64_type().into());
    let near = e.convert(InstructionOpcode::FPTrunc, x, f32);
    let back = e.convert(InstructionOpcode::FPExt, near, f64);
    let bits = e.bitcast(near, e.int_type(32));
    let inexact = e.fcmp(FloatPredicate::ONE, back, x);
    let away = e.fcmp(FloatPredicate::OGT, e.abs(back), e.abs(x));
    let towards_zero = e.select(away, e.sub(bits, e.int(bits, 1)), bits);
    let odd = e.select(inexact, e.or(towards_zero, e.int(bits, 1)), bits);
    e.bitcast(odd, f32)
}

/// `max` or `min`, NaN if either is. Against a literal that is no NaN it is one instruction.
pub(crate) fn extreme<'c>(e: &Emit<'c>, better: FloatPredicate, x: Value<'c>, y: Value<'c>, literal: Option<f64>) -> Value<'c> {
    // In both forms the machine's instruction gives `x` where one of them is NaN.
    let best = e.select(e.fcmp(better, y, x), y, x);
    match literal {
        Some(c) if !c.is_nan() => best,
        _ => e.select(e.fcmp(FloatPredicate::UNO, y, y), y, best),
    }
}

fn shift<'c>(e: &Emit<'c>, op: InstructionOpcode, x: Value<'c>, count: Value<'c>) -> Value<'c> {
    let (x, count) = e.joined(x, count);
    let bits = i64::from(e.bits(x));
    // Nothing but the sign is left beyond the width. LLVM's NVPTX back end takes the low half of a count of 64 bits, even where
    // a test of the whole count stands around the shift, so the count itself is held.
    let held = e.imin(count, e.int(count, bits - 1), false);
    let shifted = e.op(op, x, held);
    if op == InstructionOpcode::AShr {
        return shifted;
    }
    e.select(e.icmp(IntPredicate::ULT, count, e.int(count, bits)), shifted, e.int(x, 0))
}

/// Truncated division; 0 for a divisor of 0, and wrapping where the quotient does not fit.
fn divided<'c>(e: &Emit<'c>, x: Value<'c>, y: Value<'c>, signed: bool) -> Value<'c> {
    let (x, y) = e.joined(x, y);
    let (zero, one, minus_one) = (e.int(x, 0), e.int(x, 1), e.int(x, -1));
    let by_zero = e.icmp(IntPredicate::EQ, y, zero);
    if !signed {
        let quotient = exact_quotient(e, x, e.select(by_zero, one, y), signed);
        return e.select(by_zero, zero, quotient);
    }
    // The least number divided by -1 traps; dividing by -1 is negation.
    let by_minus_one = e.icmp(IntPredicate::EQ, y, minus_one);
    let quotient = exact_quotient(e, x, e.select(e.or(by_zero, by_minus_one), one, y), signed);
    let quotient = e.select(by_minus_one, e.sub(zero, x), quotient);
    e.select(by_zero, zero, quotient)
}

/// Division that cannot trap. Vectors of up to 32 bits divide as f64, which is exact before truncation; the machine has no
/// vector division of integers.
fn exact_quotient<'c>(e: &Emit<'c>, x: Value<'c>, y: Value<'c>, signed: bool) -> Value<'c> {
    let (div, to_float, to_int) = match signed {
        true => (InstructionOpcode::SDiv, InstructionOpcode::SIToFP, InstructionOpcode::FPToSI),
        false => (InstructionOpcode::UDiv, InstructionOpcode::UIToFP, InstructionOpcode::FPToUI),
    };
    let constant = matches!(y, BasicValueEnum::VectorValue(v) if v.is_const());
    if !x.is_vector_value() || e.bits(x) == 64 || constant {
        return e.op(div, x, y);
    }
    let f64 = e.cx.f64_type().into();
    let quotient = e.fdiv(e.convert(to_float, x, f64), e.convert(to_float, y, f64));
    e.convert(to_int, quotient, e.element_type(x))
}

fn remainder<'c>(e: &Emit<'c>, x: Value<'c>, y: Value<'c>, signed: bool) -> Value<'c> {
    let (x, y) = e.joined(x, y);
    let rest = e.sub(x, e.mul(divided(e, x, y, signed), y));
    let by_zero = e.icmp(IntPredicate::EQ, y, e.int(y, 0));
    e.select(by_zero, e.int(x, 0), rest)
}
