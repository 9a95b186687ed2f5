//! Indices that differ between the lanes of a vector.
//!
//! Such an index is a scalar plus a small number per lane, in 32 bits: even where the scalar needs 64, the lanes of a vector are
//! near each other. Division by a number keeps that form, `(s + v)/c = s/c + (s%c + v)/c`, so that the lanes divide 32-bit
//! numbers, which is a multiplication; the machine has no vector division.
//!
//! ```text
//! div(i + 40, 3), i from 7 in 4 lanes:   47/3 = 15, 47%3 = 2:   15 + [2, 3, 4, 5]/3 = 15 + [0, 1, 1, 1]
//! ```

use super::emit::Value;
use super::point::Point;
use super::scope::{Gen, HUGE, Range};
use egret_ir::Dim;
use egret_ir::dim::{Atom, Term};
use inkwell::IntPredicate;
use inkwell::values::{InstructionOpcode, IntValue};

/// The numbers per lane are below this in 32-bit lanes.
const SMALL: i128 = 1 << 30;

/// `base + lanes`.
#[derive(Clone, Copy)]
pub(crate) struct LaneIndex<'c> {
    /// An i64.
    pub(crate) base: IntValue<'c>,
    /// What the base can be.
    base_range: Range,
    /// A vector of i32 or i64.
    pub(crate) lanes: Value<'c>,
    /// What the numbers in the lanes can be; within [`SMALL`] if they are i32.
    range: Range,
}

fn is_small((low, high): Range) -> bool {
    low > -SMALL && high < SMALL
}

fn plus(x: Range, y: Range) -> Range {
    ((x.0 + y.0).max(-HUGE), (x.1 + y.1).min(HUGE))
}

fn scaled(x: Range, by: i128) -> Range {
    let ends = [x.0 * by, x.1 * by].map(|v| v.clamp(-HUGE, HUGE));
    (ends[0].min(ends[1]), ends[0].max(ends[1]))
}

impl<'c> Gen<'_, 'c> {
    /// An index per lane.
    pub(crate) fn lane_index(&mut self, point: &Point<'c>, d: &Dim) -> LaneIndex<'c> {
        let (varying, fixed): (Vec<Term>, Vec<Term>) =
            d.terms().iter().cloned().partition(|t| point.varies(&Dim::from_terms(vec![t.clone()])));
        let start = self.fixed_index(&if d.as_const().is_some() { d.clone() } else { Dim::from_terms(fixed) });
        varying.iter().fold(start, |sum, term| {
            let value = self.lane_term(point, term);
            self.lane_sum(sum, value)
        })
    }

    fn fixed_index(&mut self, d: &Dim) -> LaneIndex<'c> {
        let zeros = self.e.splat(self.e.int_of(self.e.int_type(32), 0));
        LaneIndex { base: self.index(d), base_range: self.range(d), lanes: zeros, range: (0, 0) }
    }

    /// The values, as i64 vectors.
    pub(crate) fn whole_lanes(&mut self, x: LaneIndex<'c>) -> Value<'c> {
        let lanes = self.long_lanes(x.lanes);
        self.e.add(lanes, x.base.into())
    }

    fn long_lanes(&self, lanes: Value<'c>) -> Value<'c> {
        if self.e.bits(lanes) == 64 { lanes } else { self.e.convert(InstructionOpcode::SExt, lanes, self.e.int_type(64)) }
    }

    /// An index of which nothing is known but its value.
    fn unknown(&self, lanes: Value<'c>, range: Range) -> LaneIndex<'c> {
        let lanes = if is_small(range) && self.e.bits(lanes) == 64 {
            self.e.convert(InstructionOpcode::Trunc, lanes, self.e.int_type(32))
        } else {
            lanes
        };
        LaneIndex { base: self.e.i64(0), base_range: (0, 0), lanes, range }
    }

    fn lane_sum(&mut self, x: LaneIndex<'c>, y: LaneIndex<'c>) -> LaneIndex<'c> {
        let range = plus(x.range, y.range);
        let (a, b) = match is_small(range) && self.e.bits(x.lanes) == 32 && self.e.bits(y.lanes) == 32 {
            true => (x.lanes, y.lanes),
            false => (self.long_lanes(x.lanes), self.long_lanes(y.lanes)),
        };
        let lanes = if x.range == (0, 0) { b } else { self.e.add(a, b) };
        LaneIndex { base: self.e.index_add(x.base, y.base), base_range: plus(x.base_range, y.base_range), lanes, range }
    }

    fn lane_term(&mut self, point: &Point<'c>, term: &Term) -> LaneIndex<'c> {
        let one = |a: &Atom| Dim::from_terms(vec![Term { atoms: vec![a.clone()], coefficient: 1 }]);
        let (varying, fixed): (Vec<&Atom>, Vec<&Atom>) = term.atoms.iter().partition(|&a| point.varies(&one(a)));
        let mut product = self.lane_atom(point, varying[0]);
        for atom in &varying[1..] {
            let other = self.lane_atom(point, atom);
            let (x, y) = (self.whole_lanes(product), self.whole_lanes(other));
            product = self.unknown(self.e.mul(x, y), (-HUGE, HUGE));
        }
        let factor = Dim::from_terms(vec![Term { atoms: fixed.into_iter().cloned().collect(), coefficient: term.coefficient }]);
        self.lane_product(product, &factor)
    }

    fn lane_product(&mut self, x: LaneIndex<'c>, factor: &Dim) -> LaneIndex<'c> {
        if factor.is(1) {
            return x;
        }
        let by = self.index(factor);
        let base = self.e.index_mul(x.base, by);
        if let Some(c) = factor.as_const()
            && is_small(scaled(x.range, c.into()))
            && is_small((c.into(), c.into()))
            && self.e.bits(x.lanes) == 32
        {
            let lanes = self.e.mul(x.lanes, self.e.int(x.lanes, c));
            return LaneIndex { base, base_range: scaled(x.base_range, c.into()), lanes, range: scaled(x.range, c.into()) };
        }
        let lanes = self.e.mul(self.long_lanes(x.lanes), by.into());
        let (low, high) = self.range(factor);
        let ends = |r: Range| [scaled(r, low), scaled(r, high)];
        let joined = |[a, b]: [Range; 2]| (a.0.min(b.0), a.1.max(b.1));
        LaneIndex { base, base_range: joined(ends(x.base_range)), lanes, range: joined(ends(x.range)) }
    }

    fn lane_atom(&mut self, point: &Point<'c>, atom: &Atom) -> LaneIndex<'c> {
        match atom {
            Atom::Symbol(name) => match point.vectors.get(name) {
                Some(&(value, last)) => self.unknown(value, (0, last)),
                None => {
                    let symbol = self.symbol(name);
                    let last = self.e.lanes as i128 - 1;
                    LaneIndex { base: symbol.value, base_range: symbol.range, lanes: self.e.iota(32, 1).into(), range: (0, last) }
                }
            },
            Atom::Div(a, b) => self.lane_division(point, a, b).0,
            Atom::Mod(a, b) => self.lane_division(point, a, b).1,
            Atom::Max(a, b) => self.lane_extreme(point, a, b, true),
            Atom::Min(a, b) => self.lane_extreme(point, a, b, false),
        }
    }

    /// Quotient and remainder, rounded down.
    fn lane_division(&mut self, point: &Point<'c>, a: &Dim, b: &Dim) -> (LaneIndex<'c>, LaneIndex<'c>) {
        let x = self.lane_index(point, a);
        match b.as_const() {
            Some(c) if c > 0 && is_small(plus(x.range, (0, c.into()))) && self.e.bits(x.lanes) == 32 => self.small_division(x, c),
            _ => {
                let divisor = self.lane_index(point, b);
                let (x, y) = (self.whole_lanes(x), self.whole_lanes(divisor));
                // A divisor of 0 counts as 1: an empty tensor cannot trap.
                let y = self.e.select(self.e.icmp(IntPredicate::EQ, y, self.e.int(y, 0)), self.e.int(y, 1), y);
                let quotient = self.floor_div(x, y);
                let rest = self.e.sub(x, self.e.mul(quotient, y));
                (self.unknown(quotient, (-HUGE, HUGE)), self.unknown(rest, (-HUGE, HUGE)))
            }
        }
    }

    fn small_division(&mut self, x: LaneIndex<'c>, c: i64) -> (LaneIndex<'c>, LaneIndex<'c>) {
        let (wide, by) = (i128::from(c), self.e.i64(c));
        let quotient = match x.base_range.0 >= 0 {
            true => self.e.index_div(x.base, by),
            false => self.floor_div(x.base.into(), by.into()).into_int_value(),
        };
        let rest = self.e.index_sub(x.base, self.e.index_mul(quotient, by));
        let rest = self.e.convert(InstructionOpcode::Trunc, rest.into(), self.e.int_type(32));
        let numerator = self.e.add(x.lanes, rest);
        let range = (x.range.0, x.range.1 + wide - 1);
        let lanes = match (range.0 >= 0, (c as u64).is_power_of_two()) {
            (_, true) => self.e.ashr(numerator, c.trailing_zeros().into()),
            (true, _) => self.e.op(InstructionOpcode::UDiv, numerator, self.e.int(numerator, c)),
            (false, _) => self.floor_div(numerator, self.e.int(numerator, c)),
        };
        let left = self.e.sub(numerator, self.e.mul(lanes, self.e.int(lanes, c)));
        let base_range = (x.base_range.0.div_euclid(wide), x.base_range.1.div_euclid(wide));
        let quotient = LaneIndex { base: quotient, base_range, lanes, range: (range.0.div_euclid(wide), range.1.div_euclid(wide)) };
        let remainder = LaneIndex { base: self.e.i64(0), base_range: (0, 0), lanes: left, range: (0, wide - 1) };
        (quotient, remainder)
    }

    /// The larger or the smaller: `max(s + v, t + w) = s + max(v, (t - s) + w)`, where a difference beyond what the lanes can be
    /// decides alone and is held to that.
    fn lane_extreme(&mut self, point: &Point<'c>, a: &Dim, b: &Dim, larger: bool) -> LaneIndex<'c> {
        let (x, y) = (self.lane_index(point, a), self.lane_index(point, b));
        let joined = |x: Range, y: Range| if larger { (x.0.max(y.0), x.1.max(y.1)) } else { (x.0.min(y.0), x.1.min(y.1)) };
        let total = joined(plus(x.base_range, x.range), plus(y.base_range, y.range));
        let pick = |g: &Self, v, w| if larger { g.e.imax(v, w, true) } else { g.e.imin(v, w, true) };
        let far = SMALL / 2;
        let near = |r: Range| r.0 > -far / 2 && r.1 < far / 2;
        if !near(x.range) || !near(y.range) || self.e.bits(x.lanes) != 32 || self.e.bits(y.lanes) != 32 {
            let (v, w) = (self.whole_lanes(x), self.whole_lanes(y));
            return self.unknown(pick(self, v, w), total);
        }
        let limit = |v| Value::from(self.e.i64(v));
        let apart = self.e.index_sub(y.base, x.base).into();
        let apart = self.e.imin(self.e.imax(apart, limit(-far as i64), true), limit(far as i64), true);
        let apart = self.e.convert(InstructionOpcode::Trunc, apart, self.e.int_type(32));
        let lanes = pick(self, x.lanes, self.e.add(y.lanes, apart));
        // Where the other operand is far away in the losing direction, the lanes are those of `x`; in the winning one, the
        // value is that of the other only if it was not held, so it must not be.
        let distance = plus(y.base_range, (-x.base_range.1, -x.base_range.0));
        let exact = if larger { distance.1 <= far } else { distance.0 >= -far };
        if !exact {
            let (v, w) = (self.whole_lanes(x), self.whole_lanes(y));
            return self.unknown(pick(self, v, w), total);
        }
        let moved = plus(y.range, (distance.0.max(-far), distance.1.min(far)));
        LaneIndex { base: x.base, base_range: x.base_range, lanes, range: joined(x.range, moved) }
    }
}
