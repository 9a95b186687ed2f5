//! Offsets as instructions: affine parts become addresses that outer loops advance, the rest is computed where it changes.
//!
//! An offset is a sum of terms. Each term is computed at the level that binds its innermost symbol, the constant term
//! becomes the displacement of the instruction, and what is equal is computed once. Divisions and remainders round down;
//! where the operands cannot be negative they are the unsigned instructions, which for constants are a multiplication.

use super::emit::Value;
use super::scope::{Gen, HUGE, Range};
use crate::kernel::BufferId;
use egret_ir::Dim;
use egret_ir::dim::{Atom, Term};
use inkwell::IntPredicate;
use inkwell::values::{InstructionOpcode, IntValue, PointerValue};

/// Bytes that the widest access of neighbours has to be aligned to.
const MOST_ALIGNED: usize = 16;

/// The terms with symbols, and the number.
fn split_constant(d: &Dim) -> (Dim, i64) {
    if let Some(c) = d.as_const() {
        return (Dim::ZERO, c);
    }
    let constant: i64 = d.terms().iter().filter(|t| t.atoms.is_empty()).map(|t| t.coefficient).sum();
    (d.clone() - constant, constant)
}

fn dim_of(terms: &[&Term]) -> Dim {
    Dim::from_terms(terms.iter().map(|&t| t.clone()).collect())
}

impl<'c> Gen<'_, 'c> {
    /// The level that binds the innermost symbol of an index.
    pub(crate) fn level_of(&self, d: &Dim) -> usize {
        d.symbols().iter().filter_map(|s| self.level_of_symbol(s)).max().unwrap_or(0)
    }

    fn level_of_term(&self, t: &Term) -> usize {
        self.level_of(&dim_of(&[t]))
    }

    /// An index as a scalar.
    pub(crate) fn index(&mut self, d: &Dim) -> IntValue<'c> {
        let (rest, constant) = split_constant(d);
        if rest.is(0) {
            return self.e.i64(constant);
        }
        let value = self.index_without_constant(&rest);
        self.e.index_add(value, self.e.i64(constant))
    }

    fn index_without_constant(&mut self, d: &Dim) -> IntValue<'c> {
        let level = self.level_of(d);
        self.at_level(level, |g| {
            if let Some(&known) = g.top().dims.get(d) {
                return known;
            }
            let (own, outer): (Vec<&Term>, Vec<&Term>) = d.terms().iter().partition(|t| g.level_of_term(t) == level);
            let mut sum = (!outer.is_empty()).then(|| g.index(&dim_of(&outer)));
            for term in own {
                let value = g.term(term);
                sum = Some(sum.map_or(value, |s| g.e.index_add(s, value)));
            }
            let sum = sum.expect("an index that is no number has terms");
            g.top().dims.insert(d.clone(), sum);
            sum
        })
    }

    fn term(&mut self, term: &Term) -> IntValue<'c> {
        term.atoms.iter().fold(self.e.i64(term.coefficient), |product, atom| {
            let value = self.atom(atom);
            self.e.index_mul(value, product)
        })
    }

    fn atom(&mut self, atom: &Atom) -> IntValue<'c> {
        match atom {
            Atom::Symbol(name) => self.symbol(name).value,
            Atom::Div(a, b) => self.quotient(a, b),
            Atom::Mod(a, b) => {
                if self.range(a).0 >= 0 && self.range(b).0 > 0 {
                    let (a, b) = (self.index(a), self.index(b));
                    return self.e.index_rem(a, b);
                }
                let quotient = self.quotient(a, b);
                let (a, b) = (self.index(a), self.index(b));
                self.e.index_sub(a, self.e.index_mul(quotient, b))
            }
            Atom::Max(a, b) => {
                let (a, b) = (self.index(a), self.index(b));
                self.e.imax(a.into(), b.into(), true).into_int_value()
            }
            Atom::Min(a, b) => {
                let (a, b) = (self.index(a), self.index(b));
                self.e.imin(a.into(), b.into(), true).into_int_value()
            }
        }
    }

    /// `a / b`, rounded down; a divisor of 0 counts as 1, so that an empty tensor cannot trap.
    fn quotient(&mut self, a: &Dim, b: &Dim) -> IntValue<'c> {
        let ((a_low, _), (b_low, _)) = (self.range(a), self.range(b));
        let (a, mut b) = (self.index(a), self.index(b));
        if b_low <= 0 {
            let zero = self.e.icmp(IntPredicate::EQ, b.into(), self.e.i64(0).into());
            b = self.e.select(zero, self.e.i64(1).into(), b.into()).into_int_value();
        }
        match a_low >= 0 && b_low >= 0 {
            true => self.e.index_div(a, b),
            false => self.floor_div(a.into(), b.into()).into_int_value(),
        }
    }

    /// Division rounded down of numbers of any sign, scalars or vectors; the divisor is not zero.
    pub(crate) fn floor_div(&mut self, a: Value<'c>, b: Value<'c>) -> Value<'c> {
        let e = &self.e;
        let (a, b) = e.joined(a, b);
        let quotient = e.op(InstructionOpcode::SDiv, a, b);
        let rest = e.sub(a, e.mul(quotient, b));
        let inexact = e.icmp(IntPredicate::NE, rest, e.int(rest, 0));
        let signs = e.xor(rest, b);
        let opposite = e.icmp(IntPredicate::SLT, signs, e.int(rest, 0));
        let down = e.and(inexact, opposite);
        e.select(down, e.sub(quotient, e.int(quotient, 1)), quotient)
    }

    /// The address of an element.
    pub(crate) fn pointer(&mut self, buffer: BufferId, d: &Dim) -> PointerValue<'c> {
        let size = self.kernel.buffers[buffer.0].dtype.size();
        let (rest, constant) = split_constant(d);
        let base = self.pointer_without_constant(buffer, &rest, size);
        self.e.displaced(base, constant * size as i64)
    }

    /// The alignment, in bytes, of an element at an offset: its size, or more where symbols are known to be multiples.
    pub(crate) fn alignment(&self, buffer: BufferId, d: &Dim) -> usize {
        let size = self.kernel.buffers[buffer.0].dtype.size();
        if self.multiples.is_empty() {
            return size;
        }
        let of_atom = |a: &Atom| match a {
            Atom::Symbol(name) => self.multiples.get(name).copied().unwrap_or(1),
            _ => 1,
        };
        let of_term = |t: &Term| t.atoms.iter().map(of_atom).fold(t.coefficient, i64::wrapping_mul);
        // A number has no terms.
        let all = d.as_const().into_iter().chain(d.terms().iter().map(of_term));
        let bits = all.map(i64::trailing_zeros).min().unwrap_or(0).min(MOST_ALIGNED.trailing_zeros());
        (size << bits).min(MOST_ALIGNED.max(size))
    }

    fn pointer_without_constant(&mut self, buffer: BufferId, d: &Dim, size: usize) -> PointerValue<'c> {
        if d.is(0) {
            return self.bases[buffer.0];
        }
        let level = self.level_of(d);
        self.at_level(level, |g| {
            let key = (buffer, d.clone());
            if let Some(&known) = g.top().pointers.get(&key) {
                return known;
            }
            let (own, outer): (Vec<&Term>, Vec<&Term>) = d.terms().iter().partition(|t| g.level_of_term(t) == level);
            let base = g.pointer_without_constant(buffer, &dim_of(&outer), size);
            let own = g.index(&dim_of(&own));
            let at = g.e.offset(base, own, size);
            g.top().pointers.insert(key, at);
            at
        })
    }

    /// The smallest and the largest number that an index can be.
    pub(crate) fn range(&self, d: &Dim) -> Range {
        if let Some(c) = d.as_const() {
            return (c.into(), c.into());
        }
        let total = d.terms().iter().fold((0, 0), |sum: Range, t| {
            let (low, high) = t.atoms.iter().fold((t.coefficient.into(), t.coefficient.into()), |p, a| times(p, self.atom_range(a)));
            (sum.0 + low, sum.1 + high)
        });
        (total.0.max(-HUGE), total.1.min(HUGE))
    }

    fn atom_range(&self, atom: &Atom) -> Range {
        match atom {
            Atom::Symbol(name) => self.level_of_symbol(name).map_or((-HUGE, HUGE), |_| self.symbol(name).range),
            Atom::Div(a, b) => match (self.range(a), self.range(b)) {
                ((low, high), (b_low, b_high)) if b_low > 0 => {
                    (low.div_euclid(if low < 0 { b_low } else { b_high }), high.div_euclid(if high < 0 { b_high } else { b_low }))
                }
                ((low, high), _) if low >= 0 && self.range(b).0 >= 0 => (0, high),
                _ => (-HUGE, HUGE),
            },
            Atom::Mod(a, b) => match (self.range(a), self.range(b)) {
                ((low, high), (b_low, b_high)) if b_low >= 0 => {
                    (0, if low >= 0 { high.min((b_high - 1).max(0)) } else { (b_high - 1).max(0) })
                }
                _ => (-HUGE, HUGE),
            },
            Atom::Max(a, b) => {
                let (a, b) = (self.range(a), self.range(b));
                (a.0.max(b.0), a.1.max(b.1))
            }
            Atom::Min(a, b) => {
                let (a, b) = (self.range(a), self.range(b));
                (a.0.min(b.0), a.1.min(b.1))
            }
        }
    }
}

/// The range of products.
fn times(x: Range, y: Range) -> Range {
    let products = [x.0 * y.0, x.0 * y.1, x.1 * y.0, x.1 * y.1].map(|p| p.clamp(-HUGE, HUGE));
    (products.into_iter().min().expect("four products"), products.into_iter().max().expect("four products"))
}
