//! Floats as integers.
//!
//! LLVM takes a vector of such conversions apart, element by element; here they are a few instructions for all lanes. f32 holds all
//! integers of 8 or 16 bits, so a number is held within their range before it becomes one.
//!
//! ```text
//! u8(round(x) + 3)    =    u8(min(nearest(max(x, -3)) + 3, 255))
//! ```
//!
//! **Invariant.** The result is that of the standard: halves round to even, what is out of range saturates, NaN gives 0.

use super::emit::{Emit, Value};
use super::point::Point;
use super::scope::Gen;
use crate::kernel::{Expr, ExprKind, Literal};
use egret_ir::DType;
use egret_ir::scalar::{BinOp, UnOp};
use inkwell::FloatPredicate;
use inkwell::values::InstructionOpcode;

/// `round(x) + zero` that becomes an integer.
pub(crate) struct Quantised<'e> {
    x: &'e Expr,
    zero: Option<&'e Expr>,
}

impl<'e> Quantised<'e> {
    /// What a cast of a float quantises, if that is what it does: the zero point is one that the type holds.
    pub(crate) fn of(float: &'e Expr, to: DType) -> Option<Quantised<'e>> {
        if float.dtype != DType::F32 || !is_narrow(to) {
            return None;
        }
        match &*float.kind {
            ExprKind::Un(UnOp::Round, x) => Some(Quantised { x, zero: None }),
            ExprKind::Bin(BinOp::Add, rounded, zero) if is_held(zero, to) => match &*rounded.kind {
                ExprKind::Un(UnOp::Round, x) => Some(Quantised { x, zero: Some(zero) }),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Whether a type is an integer that f32 holds.
pub(crate) fn is_narrow(dtype: DType) -> bool {
    dtype.is_int() && dtype.size() < 4
}

/// Whether a float is for sure an integer that a type holds.
fn is_held(float: &Expr, by: DType) -> bool {
    let (low, high) = by.int_range();
    match &*float.kind {
        ExprKind::Const(Literal::Float(bits)) => {
            let value = f64::from_bits(*bits);
            value.fract() == 0.0 && (low as f64..=high as f64).contains(&value)
        }
        ExprKind::Cast(x) => x.dtype == by,
        _ => false,
    }
}

impl<'c> Gen<'_, 'c> {
    /// The integers.
    pub(crate) fn quantised(&mut self, point: &mut Point<'c>, of: &Quantised, to: DType) -> Value<'c> {
        let x = self.eval(point, of.x);
        let zero = of.zero.map(|zero| self.eval(point, zero));
        let e = &self.e;
        if !x.is_vector_value() {
            let rounded = e.unary("llvm.roundeven", x);
            let float = zero.map_or(rounded, |zero| e.fadd(rounded, zero));
            return self.cast(float, DType::F32, to);
        }
        let zero = zero.map_or_else(|| e.float(x, 0.0), |zero| e.splat(zero));
        let (low, high) = to.int_range();
        let shifted = |bound: i128| e.fsub(e.float(x, bound as f64), zero);
        // The instruction gives the least number for what no i32 holds, which is a large one without its sign.
        let is_held_after = e.wide && !to.is_signed_int();
        let held = at_least(e, x, shifted(low));
        let held = if is_held_after { held } else { at_most(e, held, shifted(high)) };
        let held = if to.is_signed_int() { e.select(e.fcmp(FloatPredicate::UNO, x, x), shifted(0), held) } else { held };
        let whole = e.add(nearest(e, held), e.convert(InstructionOpcode::FPToSI, zero, e.int_type(32)));
        let whole = if is_held_after { e.imin(whole, e.int(whole, high as i64), false) } else { whole };
        e.convert(InstructionOpcode::Trunc, whole, e.register_type(to))
    }
}

/// A vector of floats as integers, truncated and saturated.
pub(crate) fn truncated<'c>(e: &Emit<'c>, x: Value<'c>, to: DType) -> Value<'c> {
    let (low, high) = to.int_range();
    let held = at_least(e, x, e.float(x, low as f64));
    let held = if to.is_signed_int() { e.select(e.fcmp(FloatPredicate::UNO, x, x), e.float(x, 0.0), held) } else { held };
    if is_narrow(to) {
        let whole = e.convert(InstructionOpcode::FPToSI, at_most(e, held, e.float(x, high as f64)), e.int_type(32));
        return e.convert(InstructionOpcode::Trunc, whole, e.register_type(to));
    }
    let convert = if to.is_signed_int() { InstructionOpcode::FPToSI } else { InstructionOpcode::FPToUI };
    let whole = e.convert(convert, held, e.register_type(to));
    // No float is the highest of these types, but the number above it is one.
    let over = e.fcmp(FloatPredicate::OGE, x, e.float(x, (high + 1) as f64));
    e.select(over, e.int(whole, high as i64), whole)
}

/// The bound for what is less, and for NaN, with which every comparison fails.
fn at_least<'c>(e: &Emit<'c>, x: Value<'c>, bound: Value<'c>) -> Value<'c> {
    e.select(e.fcmp(FloatPredicate::OGT, x, bound), x, bound)
}

fn at_most<'c>(e: &Emit<'c>, x: Value<'c>, bound: Value<'c>) -> Value<'c> {
    e.select(e.fcmp(FloatPredicate::OLT, x, bound), x, bound)
}

/// The nearest i32, of two the even one.
fn nearest<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    match e.wide {
        true => e.nearest(x),
        false => e.convert(InstructionOpcode::FPToSI, e.unary("llvm.roundeven", x), e.int_type(32)),
    }
}
