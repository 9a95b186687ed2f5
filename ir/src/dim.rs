//! Symbolic extents and indices: integer polynomials over named symbols.
//!
//! A [`Dim`] is the extent of a tensor axis (`784`, `batch`, `2*N + 1`, `(H + 1)/2`), and also an index into one: the code
//! generator writes `4*i + j` with loop axes as symbols. Both need the same arithmetic, so there is one type.
//!
//! Invariant: a `Dim` is always in normal form (terms sorted, no zero coefficients, constants folded), so `==` decides
//! equality of polynomials. Division is floor division and stays symbolic where it does not divide exactly.
//!
//! ```
//! use egret_ir::Dim;
//! let n = Dim::symbol("N");
//! assert_eq!((n.clone() * 2 + 4).to_string(), "2*N + 4");
//! assert_eq!((n.clone() * 2 + 4).floor_div(&2.into()), n + 2);
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Add, Mul, Neg, Sub};
use std::sync::Arc;

/// Values for symbols, by name.
pub type Bindings = BTreeMap<Arc<str>, i64>;

/// An extent or an index: an integer, or a polynomial with integer coefficients over [`Atom`]s.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dim(Repr);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Repr {
    Const(i64),
    Poly(Arc<[Term]>),
}

/// `coefficient * atom * atom * ...`; no atoms for the constant term.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    /// The factors, sorted; a square is written twice.
    pub atoms: Vec<Atom>,
    /// The integer factor, never zero.
    pub coefficient: i64,
}

/// What a polynomial is made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atom {
    /// A named unknown: a free extent of the model, or a loop axis.
    Symbol(Arc<str>),
    /// Floor division that is not exact.
    Div(Dim, Dim),
    /// Remainder of floor division.
    Mod(Dim, Dim),
    /// The larger of two.
    Max(Dim, Dim),
    /// The smaller of two.
    Min(Dim, Dim),
}

impl Dim {
    /// Extent zero, index zero.
    pub const ZERO: Dim = Dim(Repr::Const(0));
    /// Extent one: the axis that broadcasts.
    pub const ONE: Dim = Dim(Repr::Const(1));

    /// A free symbol.
    pub fn symbol(name: impl Into<Arc<str>>) -> Dim {
        Dim::atom(Atom::Symbol(name.into()))
    }

    /// The number, if this is one.
    pub fn as_const(&self) -> Option<i64> {
        match self.0 {
            Repr::Const(c) => Some(c),
            Repr::Poly(_) => None,
        }
    }

    /// Whether this is exactly the number `c`.
    pub fn is(&self, c: i64) -> bool {
        self.as_const() == Some(c)
    }

    /// The symbol's name, if this is a bare symbol.
    pub fn as_symbol(&self) -> Option<&Arc<str>> {
        match self.terms() {
            [Term { atoms, coefficient: 1 }] => match atoms.as_slice() {
                [Atom::Symbol(name)] => Some(name),
                _ => None,
            },
            _ => None,
        }
    }

    /// The terms of the polynomial; empty for a number (see [`Dim::as_const`]).
    pub fn terms(&self) -> &[Term] {
        match &self.0 {
            Repr::Const(_) => &[],
            Repr::Poly(terms) => terms,
        }
    }

    /// Every symbol in it, inside divisions too.
    pub fn symbols(&self) -> BTreeSet<Arc<str>> {
        let mut found = BTreeSet::new();
        self.visit_symbols(&mut |name| {
            found.insert(name.clone());
        });
        found
    }

    fn visit_symbols(&self, f: &mut impl FnMut(&Arc<str>)) {
        for atom in self.terms().iter().flat_map(|t| &t.atoms) {
            match atom {
                Atom::Symbol(name) => f(name),
                Atom::Div(a, b) | Atom::Mod(a, b) | Atom::Max(a, b) | Atom::Min(a, b) => {
                    a.visit_symbols(f);
                    b.visit_symbols(f);
                }
            }
        }
    }

    /// Whether `symbol` occurs anywhere in it.
    pub fn mentions(&self, symbol: &str) -> bool {
        let mut found = false;
        self.visit_symbols(&mut |name| found |= &**name == symbol);
        found
    }

    /// Replaces symbols by what `f` gives for them, and simplifies.
    pub fn substitute(&self, f: &impl Fn(&str) -> Option<Dim>) -> Dim {
        match &self.0 {
            Repr::Const(_) => self.clone(),
            Repr::Poly(terms) => {
                let replaced = |term: &Term| {
                    let factors = term.atoms.iter().map(|atom| atom.substitute(f));
                    factors.fold(Dim::from(term.coefficient), |product, factor| product * factor).into_terms()
                };
                Dim::from_terms(terms.iter().flat_map(replaced).collect())
            }
        }
    }

    /// Replaces the bound symbols by their numbers.
    pub fn bind(&self, bindings: &Bindings) -> Dim {
        self.substitute(&|name| bindings.get(name).map(|&v| Dim::from(v)))
    }

    /// The number it has when every symbol is bound; `None` if one is not, on division by zero or on overflow.
    pub fn eval(&self, bindings: &Bindings) -> Option<i64> {
        match &self.0 {
            Repr::Const(c) => Some(*c),
            Repr::Poly(terms) => terms.iter().try_fold(0i64, |sum, term| {
                let product = term.atoms.iter().try_fold(term.coefficient, |p, atom| p.checked_mul(atom.eval(bindings)?))?;
                sum.checked_add(product)
            }),
        }
    }

    /// Floor division; exact where every term divides, symbolic where not. Dividing by zero stays symbolic and never evaluates.
    pub fn floor_div(&self, by: &Dim) -> Dim {
        if by.is(1) || self.is(0) && !by.is(0) {
            return self.clone();
        }
        if let (Some(a), Some(b)) = (self.as_const(), by.as_const())
            && b != 0
        {
            return Dim::from(floor_div(a, b));
        }
        if let Some(quotient) = self.exact_div(by) {
            return quotient;
        }
        if let Some(c) = by.as_const().filter(|c| *c > 0) {
            // floor((c*p + q)/c) = p + floor(q/c)
            let (multiple, rest) = self.split_multiple(c);
            if !multiple.is(0) {
                return multiple + rest.floor_div(by);
            }
            // floor(floor(x/b)/c) = floor(x/(b*c))
            if let [Term { atoms, coefficient: 1 }] = self.terms()
                && let [Atom::Div(x, b)] = atoms.as_slice()
                && b.as_const().is_some_and(|b| b > 0)
            {
                return x.floor_div(&(b.clone() * by.clone()));
            }
        }
        Dim::atom(Atom::Div(self.clone(), by.clone()))
    }

    /// Division rounded up: `floor((self + by - 1) / by)`.
    pub fn ceil_div(&self, by: &Dim) -> Dim {
        (self.clone() + by.clone() - 1).floor_div(by)
    }

    /// Remainder of floor division, in `0..by` for positive `by`.
    pub fn modulo(&self, by: &Dim) -> Dim {
        if by.is(1) {
            return Dim::ZERO;
        }
        if let (Some(a), Some(b)) = (self.as_const(), by.as_const())
            && b > 0
        {
            return Dim::from(a.rem_euclid(b));
        }
        if self.exact_div(by).is_some() {
            return Dim::ZERO;
        }
        if let Some(c) = by.as_const().filter(|c| *c > 0) {
            let (multiple, rest) = self.split_multiple(c);
            if !multiple.is(0) {
                return rest.modulo(by);
            }
        }
        Dim::atom(Atom::Mod(self.clone(), by.clone()))
    }

    /// The larger of two.
    pub fn maximum(&self, other: &Dim) -> Dim {
        match (self.clone() - other.clone()).as_const() {
            Some(d) => {
                if d >= 0 {
                    self.clone()
                } else {
                    other.clone()
                }
            }
            None => {
                let (a, b) = ordered(self, other);
                Dim::atom(Atom::Max(a, b))
            }
        }
    }

    /// The smaller of two.
    pub fn minimum(&self, other: &Dim) -> Dim {
        match (self.clone() - other.clone()).as_const() {
            Some(d) => {
                if d <= 0 {
                    self.clone()
                } else {
                    other.clone()
                }
            }
            None => {
                let (a, b) = ordered(self, other);
                Dim::atom(Atom::Min(a, b))
            }
        }
    }

    /// `self / by` when the division is exact as a polynomial: by a number, or by a single term.
    pub fn exact_div(&self, by: &Dim) -> Option<Dim> {
        if let Some(c) = by.as_const() {
            let (multiple, rest) = self.split_multiple(c);
            return (c != 0 && rest.is(0)).then_some(multiple);
        }
        if self == by {
            return Some(Dim::ONE);
        }
        let [divisor] = by.terms() else { return None };
        if self.is(0) {
            return Some(Dim::ZERO);
        }
        let quotients = self.terms().iter().map(|t| t.exact_div(divisor)).collect::<Option<Vec<_>>>()?;
        (!quotients.is_empty()).then(|| Dim::from_terms(quotients))
    }

    /// The coefficient of a symbol when `self` is `coefficient*symbol + rest` with neither part mentioning it again;
    /// the stride of a loop axis in an index.
    pub fn linear_in(&self, symbol: &str) -> Option<(Dim, Dim)> {
        let (mut coefficient, mut rest) = (Dim::ZERO, Dim::ZERO);
        if self.as_const().is_some() {
            return Some((coefficient, self.clone()));
        }
        for term in self.terms() {
            let is_it = |a: &Atom| matches!(a, Atom::Symbol(s) if &**s == symbol);
            let mut others = term.atoms.clone();
            match term.atoms.iter().filter(|a| is_it(a)).count() {
                0 => rest = rest + Dim::from_terms(vec![term.clone()]),
                1 => {
                    others.retain(|a| !is_it(a));
                    coefficient = coefficient + Dim::from_terms(vec![Term { atoms: others, coefficient: term.coefficient }]);
                }
                _ => return None,
            }
        }
        (!coefficient.mentions(symbol) && !rest.mentions(symbol)).then_some((coefficient, rest))
    }

    /// Splits into `(p, q)` with `self = c*p + q`, where `q` holds the terms that `c` does not divide
    /// (the constant term is split by floor division).
    pub fn split_multiple(&self, c: i64) -> (Dim, Dim) {
        if c == 0 {
            return (Dim::ZERO, self.clone());
        }
        if let Some(n) = self.as_const() {
            let multiple = floor_div(n, c);
            return (Dim::from(multiple), Dim::from(n.wrapping_sub(multiple.wrapping_mul(c))));
        }
        let (mut multiple, mut rest) = (vec![], vec![]);
        for Term { atoms, coefficient } in self.terms() {
            let quotient = if atoms.is_empty() {
                floor_div(*coefficient, c)
            } else if coefficient.wrapping_rem(c) == 0 {
                coefficient.wrapping_div(c)
            } else {
                0
            };
            multiple.push(Term { atoms: atoms.clone(), coefficient: quotient });
            rest.push(Term { atoms: atoms.clone(), coefficient: coefficient.wrapping_sub(quotient.wrapping_mul(c)) });
        }
        (Dim::from_terms(multiple), Dim::from_terms(rest))
    }

    fn atom(atom: Atom) -> Dim {
        Dim(Repr::Poly(Arc::new([Term { atoms: vec![atom], coefficient: 1 }])))
    }

    /// Sums terms into normal form.
    pub fn from_terms(mut terms: Vec<Term>) -> Dim {
        terms.iter_mut().for_each(|term| term.atoms.sort());
        // Stable, since most are two sums one behind the other, which such a sort merges.
        terms.sort_by(|a, b| a.atoms.cmp(&b.atoms));
        terms.dedup_by(|next, sum| {
            let is_same = next.atoms == sum.atoms;
            if is_same {
                sum.coefficient = sum.coefficient.wrapping_add(next.coefficient);
            }
            is_same
        });
        terms.retain(|term| term.coefficient != 0);
        match terms.as_slice() {
            [] => Dim::ZERO,
            [term] if term.atoms.is_empty() => Dim(Repr::Const(term.coefficient)),
            _ => Dim(Repr::Poly(terms.into())),
        }
    }

    fn into_terms(self) -> Vec<Term> {
        match self.0 {
            Repr::Const(c) => vec![Term { atoms: vec![], coefficient: c }],
            Repr::Poly(terms) => terms.to_vec(),
        }
    }
}

impl Atom {
    fn substitute(&self, f: &impl Fn(&str) -> Option<Dim>) -> Dim {
        match self {
            Atom::Symbol(name) => f(name).unwrap_or_else(|| Dim::atom(self.clone())),
            Atom::Div(a, b) => a.substitute(f).floor_div(&b.substitute(f)),
            Atom::Mod(a, b) => a.substitute(f).modulo(&b.substitute(f)),
            Atom::Max(a, b) => Dim::maximum(&a.substitute(f), &b.substitute(f)),
            Atom::Min(a, b) => Dim::minimum(&a.substitute(f), &b.substitute(f)),
        }
    }

    fn eval(&self, bindings: &Bindings) -> Option<i64> {
        let pair = |a: &Dim, b: &Dim| Some((a.eval(bindings)?, b.eval(bindings)?));
        match self {
            Atom::Symbol(name) => bindings.get(name).copied(),
            Atom::Div(a, b) => pair(a, b).filter(|&(_, b)| b != 0).map(|(a, b)| floor_div(a, b)),
            Atom::Mod(a, b) => pair(a, b).filter(|&(_, b)| b != 0).map(|(a, b)| a.wrapping_sub(floor_div(a, b).wrapping_mul(b))),
            Atom::Max(a, b) => pair(a, b).map(|(a, b)| a.max(b)),
            Atom::Min(a, b) => pair(a, b).map(|(a, b)| a.min(b)),
        }
    }
}

impl Term {
    fn exact_div(&self, by: &Term) -> Option<Term> {
        let mut atoms = self.atoms.clone();
        for atom in &by.atoms {
            atoms.remove(atoms.iter().position(|a| a == atom)?);
        }
        (self.coefficient.wrapping_rem(by.coefficient) == 0)
            .then(|| Term { atoms, coefficient: self.coefficient.wrapping_div(by.coefficient) })
    }
}

fn floor_div(a: i64, b: i64) -> i64 {
    let q = a.wrapping_div(b);
    if a.wrapping_rem(b) != 0 && (a < 0) != (b < 0) { q - 1 } else { q }
}

fn ordered(a: &Dim, b: &Dim) -> (Dim, Dim) {
    if a <= b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }
}

impl From<i64> for Dim {
    fn from(c: i64) -> Dim {
        Dim(Repr::Const(c))
    }
}

impl From<usize> for Dim {
    fn from(c: usize) -> Dim {
        Dim(Repr::Const(c as i64))
    }
}

impl From<i32> for Dim {
    fn from(c: i32) -> Dim {
        Dim(Repr::Const(c.into()))
    }
}

impl<T: Into<Dim>> Add<T> for Dim {
    type Output = Dim;
    fn add(self, other: T) -> Dim {
        let other = other.into();
        if let (Some(a), Some(b)) = (self.as_const(), other.as_const()) {
            return Dim::from(a.wrapping_add(b));
        }
        Dim::from_terms([self.into_terms(), other.into_terms()].concat())
    }
}

impl<T: Into<Dim>> Sub<T> for Dim {
    type Output = Dim;
    fn sub(self, other: T) -> Dim {
        self + -other.into()
    }
}

impl Neg for Dim {
    type Output = Dim;
    fn neg(self) -> Dim {
        self * -1
    }
}

impl<T: Into<Dim>> Mul<T> for Dim {
    type Output = Dim;
    fn mul(self, other: T) -> Dim {
        let other = other.into();
        if let (Some(a), Some(b)) = (self.as_const(), other.as_const()) {
            return Dim::from(a.wrapping_mul(b));
        }
        let (a, b) = (self.into_terms(), other.into_terms());
        let product = |x: &Term, y: &Term| Term {
            atoms: [x.atoms.as_slice(), y.atoms.as_slice()].concat(),
            coefficient: x.coefficient.wrapping_mul(y.coefficient),
        };
        Dim::from_terms(a.iter().flat_map(|x| b.iter().map(move |y| product(x, y))).collect())
    }
}

impl std::iter::Product for Dim {
    fn product<I: Iterator<Item = Dim>>(iter: I) -> Dim {
        iter.fold(Dim::ONE, |a, b| a * b)
    }
}

impl std::iter::Sum for Dim {
    fn sum<I: Iterator<Item = Dim>>(iter: I) -> Dim {
        iter.fold(Dim::ZERO, |a, b| a + b)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(c) = self.as_const() {
            return write!(f, "{c}");
        }
        // The constant term sorts first and reads best last.
        let (constants, rest): (Vec<&Term>, Vec<&Term>) = self.terms().iter().partition(|t| t.atoms.is_empty());
        for (i, term) in rest.into_iter().chain(constants).enumerate() {
            let negative = term.coefficient < 0;
            match (i, negative) {
                (0, false) => {}
                (0, true) => write!(f, "-")?,
                (_, false) => write!(f, " + ")?,
                (_, true) => write!(f, " - ")?,
            }
            let size = term.coefficient.unsigned_abs();
            let mut factors: Vec<String> = term.atoms.iter().map(|a| a.to_string()).collect();
            if size != 1 || factors.is_empty() {
                factors.insert(0, size.to_string());
            }
            write!(f, "{}", factors.join("*"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Symbol(name) => f.write_str(&crate::text::symbol(name)),
            Atom::Div(a, b) => write!(f, "div({a}, {b})"),
            Atom::Mod(a, b) => write!(f, "mod({a}, {b})"),
            Atom::Max(a, b) => write!(f, "max({a}, {b})"),
            Atom::Min(a, b) => write!(f, "min({a}, {b})"),
        }
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n() -> Dim {
        Dim::symbol("N")
    }
    fn m() -> Dim {
        Dim::symbol("M")
    }

    #[test]
    fn arithmetic_is_in_normal_form() {
        assert_eq!((n() + m()) * (n() - m()), n() * n() - m() * m());
        assert_eq!((n() - n()), Dim::ZERO);
        assert_eq!((n() * 2 + 1 - n()).to_string(), "N + 1");
        assert_eq!((m() * n() * -3).to_string(), "-3*M*N");
    }

    #[test]
    fn division_is_exact_where_it_can_be() {
        assert_eq!((n() * m() * 6).floor_div(&(n() * 3)), m() * 2);
        assert_eq!((n() * 4 + 7).floor_div(&4.into()), n() + 1);
        assert_eq!((n() + 1).floor_div(&2.into()).to_string(), "div(N + 1, 2)");
        assert_eq!((n() + 1).floor_div(&2.into()).floor_div(&2.into()), (n() + 1).floor_div(&4.into()));
        assert_eq!((n() * 4 + 7).modulo(&4.into()), Dim::from(3));
        assert_eq!(Dim::from(-7).floor_div(&2.into()), Dim::from(-4));
        assert_eq!(Dim::from(-7).modulo(&2.into()), Dim::from(1));
        assert_eq!(Dim::from(7).floor_div(&(-2).into()), Dim::from(-4));
    }

    #[test]
    fn symbols_bind() {
        let d = (n() + 1).floor_div(&2.into()) * m();
        let b = Bindings::from([("N".into(), 7), ("M".into(), 3)]);
        assert_eq!(d.bind(&b), Dim::from(12));
        assert_eq!(d.eval(&b), Some(12));
        assert_eq!(d.eval(&Bindings::new()), None);
    }

    #[test]
    fn a_symbol_has_a_stride() {
        let i = Dim::symbol("i");
        assert_eq!((i.clone() * n() + m()).linear_in("i"), Some((n(), m())));
        assert_eq!((i.clone() * i.clone()).linear_in("i"), None);
        assert_eq!(i.floor_div(&2.into()).linear_in("i"), None);
        assert_eq!(Dim::from(3).linear_in("i"), Some((Dim::ZERO, Dim::from(3))));
    }
}
