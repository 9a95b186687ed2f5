//! Arithmetic on offsets that knows the ranges of loop variables: where views become plain strides.
//!
//! Composing views gives quotients and remainders; most of them vanish once it is known that `0 <= j < 12`:
//!
//! ```text
//! div(12*i + j, 12)                      =  i
//! mod(12*i + j, 12)                      =  j
//! div(4*i + j, 12)  with j in 0..4       =  div(i, 3)
//! 12*div(x, 12) + mod(x, 12)             =  x
//! ```
//!
//! Invariant: a simplified [`Dim`] has the same value at every point of the loops. The loops run, so their extents are at
//! least 1; symbols of the model are at least 0; divisors are extents and so positive.

use crate::kernel::Axis;
use egret_ir::dim::{Atom, Term};
use egret_ir::{Bindings, Dim};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Minima and maxima that an inequality may have and still be looked at case by case: there are up to twice as many cases with each.
const MOST_EXTREMES: usize = 12;

/// What extents differ by where an inequality is tried with numbers: more than the constants in most offsets.
const LARGE: i64 = 4099;

/// What is known of symbols: each of these lies in `0..extent`.
#[derive(Clone, Debug, Default)]
pub struct Ranges {
    extents: BTreeMap<Arc<str>, Dim>,
    /// Those that are read from data; a loop variable can be split, they cannot.
    read: BTreeSet<Arc<str>>,
    /// Loops that stay whole, though quotients of them occur: their points become the lanes of one vector.
    whole: BTreeSet<Arc<str>>,
    /// What symbols of the model are at least, since loops over them run; others are at least 0.
    least: BTreeMap<Arc<str>, i64>,
    /// Expressions that are at least 0, since a loop over one more runs.
    facts: BTreeSet<Dim>,
}

impl Ranges {
    /// The ranges of some loop variables.
    pub fn of<'a>(axes: impl IntoIterator<Item = &'a Axis>) -> Ranges {
        let mut ranges = Ranges::default();
        axes.into_iter().for_each(|a| ranges.add(&a.name, &a.extent));
        ranges
    }

    /// Adds an index read from data that lies in `0..extent`.
    pub fn add_read(&mut self, symbol: &Arc<str>, extent: &Dim) {
        self.add(symbol, extent);
        self.read.insert(symbol.clone());
    }

    /// Keeps a loop from being split, and from becoming part of another.
    pub fn keep_whole(&mut self, symbol: &Arc<str>) {
        self.whole.insert(symbol.clone());
    }

    /// Whether a loop stays as it is.
    pub fn is_whole(&self, symbol: &str) -> bool {
        self.whole.contains(symbol)
    }

    /// The extent of a loop, or of an index read from data.
    pub fn extent(&self, symbol: &str) -> Option<&Dim> {
        self.extents.get(symbol)
    }

    /// Whether an index read from data occurs in `d`.
    pub fn mentions_read(&self, d: &Dim) -> bool {
        self.read.iter().any(|s| d.mentions(s))
    }

    /// Adds a loop variable that lies in `0..extent`.
    pub fn add(&mut self, symbol: &Arc<str>, extent: &Dim) {
        self.runs(extent);
        self.extents.insert(symbol.clone(), of_running(extent));
    }

    /// Notes that a loop over this extent runs, so that the extent is at least 1.
    pub fn runs(&mut self, extent: &Dim) {
        let extent = of_running(extent);
        if let [Term { atoms, coefficient: 1.. }] = extent.terms()
            && let [Atom::Min(a, b)] = &atoms[..]
        {
            return [a, b].into_iter().for_each(|d| self.runs(d));
        }
        let symbols = extent.symbols();
        let line = symbols.first().filter(|_| symbols.len() == 1).and_then(|s| Some((s, extent.linear_in(s)?)));
        match (extent.terms(), line) {
            ([], _) => {}
            // factor*symbol + rest >= 1
            (_, Some((symbol, (factor, rest)))) => {
                if let (Some(factor @ 1..), Some(rest)) = (factor.as_const(), rest.as_const()) {
                    self.at_least(symbol, (factor - rest).div_euclid(factor));
                }
            }
            ([Term { atoms, .. }], None) => atoms.iter().for_each(|atom| {
                if let Atom::Symbol(symbol) = atom {
                    self.at_least(symbol, 1);
                }
            }),
            _ => {
                self.facts.insert(extent - 1);
            }
        }
    }

    fn at_least(&mut self, symbol: &Arc<str>, least: i64) {
        let known = self.least.entry(symbol.clone()).or_default();
        *known = least.max(*known);
    }

    /// An equal expression with fewer quotients and remainders.
    pub fn simplify(&self, d: &Dim) -> Dim {
        if d.terms().iter().all(|t| t.atoms.iter().all(|a| matches!(a, Atom::Symbol(_)))) {
            return d.clone();
        }
        let terms =
            d.terms().iter().map(|t| t.atoms.iter().fold(Dim::from(t.coefficient), |product, atom| product * self.simplify_atom(atom)));
        recombine(terms.fold(Dim::ZERO, |sum, term| sum + term))
    }

    fn simplify_atom(&self, atom: &Atom) -> Dim {
        match atom {
            Atom::Symbol(name) => Dim::symbol(name.clone()),
            Atom::Div(x, by) => self.div(&self.simplify(x), &self.simplify(by)),
            Atom::Mod(x, by) => self.modulo(&self.simplify(x), &self.simplify(by)),
            Atom::Max(a, b) => self.maximum(&self.simplify(a), &self.simplify(b)),
            Atom::Min(a, b) => self.minimum(&self.simplify(a), &self.simplify(b)),
        }
    }

    fn maximum(&self, a: &Dim, b: &Dim) -> Dim {
        if self.at_most(b, a) {
            a.clone()
        } else if self.at_most(a, b) {
            b.clone()
        } else {
            a.maximum(b)
        }
    }

    fn minimum(&self, a: &Dim, b: &Dim) -> Dim {
        if self.at_most(a, b) {
            a.clone()
        } else if self.at_most(b, a) {
            b.clone()
        } else {
            a.minimum(b)
        }
    }

    /// Floor division.
    pub fn div(&self, x: &Dim, by: &Dim) -> Dim {
        let (whole, rest) = split(x, by);
        if !whole.is(0) {
            return whole + self.div(&rest, by);
        }
        if self.within(x, by) {
            return Dim::ZERO;
        }
        match self.coarser(x, by) {
            Some((step, steps, _)) => self.div(&steps, &by.exact_div(&step).expect("a factor of the divisor")),
            None => x.floor_div(by),
        }
    }

    /// Remainder of floor division.
    pub fn modulo(&self, x: &Dim, by: &Dim) -> Dim {
        let (whole, rest) = split(x, by);
        if !whole.is(0) {
            return self.modulo(&rest, by);
        }
        if self.within(x, by) {
            return x.clone();
        }
        match self.coarser(x, by) {
            Some((step, steps, rest)) => self.modulo(&steps, &by.exact_div(&step).expect("a factor of the divisor")) * step + rest,
            None => x.modulo(by),
        }
    }

    /// `x = step*steps + rest` with `0 <= rest < step` and `step` a proper factor of `by`: division by `by` does not see
    /// the rest.
    fn coarser(&self, x: &Dim, by: &Dim) -> Option<(Dim, Dim, Dim)> {
        let steps = x.terms().iter().filter(|t| !t.atoms.is_empty()).map(|t| common_factor(t, by)).collect::<BTreeSet<Dim>>();
        steps.into_iter().filter(|step| !step.is(1)).find_map(|step| {
            let (steps, rest) = split(x, &step);
            self.within(&rest, &step).then_some((step, steps, rest))
        })
    }

    /// Whether `0 <= x < end` for sure.
    pub fn within(&self, x: &Dim, end: &Dim) -> bool {
        self.at_most(&Dim::ZERO, x) && self.at_most(&(x.clone() + 1), end)
    }

    /// Whether `a <= b` for sure.
    pub fn at_most(&self, a: &Dim, b: &Dim) -> bool {
        self.never_negative(&(b.clone() - a.clone()))
    }

    /// Whether `d >= 0` for sure: each bounded symbol is replaced by the end of its range where `d` is smallest, and what
    /// is left must have no negative term.
    fn never_negative(&self, d: &Dim) -> bool {
        if let Some(c) = d.as_const() {
            return c >= 0;
        }
        match d.terms().iter().flat_map(|t| &t.atoms).find_map(|atom| Some((atom.clone(), self.highest(atom)?))) {
            Some((atom, highest)) => match coefficient(d, &atom) {
                Some((factor, rest)) if self.never_negative(&factor) => self.never_negative(&rest),
                Some((factor, rest)) if self.never_negative(&-factor.clone()) => self.never_negative(&(rest + factor * highest)),
                _ => false,
            },
            None => self.is_sum_of_positives(d) || self.bounded_by_extremes(d),
        }
    }

    /// Whether `d >= 0` for sure by `max(a, b) >= a` and `-min(a, b) >= -a`, or by both cases of the opposite signs. What is wrong for some
    /// extents is given up at once: the cases of a sum double with each of its terms.
    fn bounded_by_extremes(&self, d: &Dim) -> bool {
        let atoms = d.terms().iter().flat_map(|t| &t.atoms);
        let extremes: BTreeSet<&Atom> = atoms.filter(|a| matches!(a, Atom::Max(..) | Atom::Min(..))).collect();
        if extremes.is_empty() || extremes.len() > MOST_EXTREMES || self.is_refuted(d) {
            return false;
        }
        let Some((atom, (factor, rest))) = extremes.into_iter().find_map(|atom| Some((atom, coefficient(d, atom)?))) else { return false };
        let (Atom::Max(a, b) | Atom::Min(a, b)) = atom else { return false };
        let case = |x: &Dim| self.never_negative(&(rest.clone() + factor.clone() * x.clone()));
        let one_is_enough = match atom {
            Atom::Max(..) => self.never_negative(&factor),
            _ => self.never_negative(&-factor.clone()),
        };
        if one_is_enough { case(a) || case(b) } else { case(a) && case(b) }
    }

    /// Whether `d` is negative for some extents that there can be: none larger than it has to be, all large and rising, or all large and
    /// falling. Loops are at their first step.
    fn is_refuted(&self, d: &Dim) -> bool {
        let symbols: BTreeSet<Arc<str>> = self.facts.iter().chain([d]).flat_map(Dim::symbols).collect();
        let count = symbols.len() as i64;
        let extents: [&dyn Fn(i64) -> i64; 3] = [&|_| 0, &|i| LARGE * (i + 1), &|i| LARGE * (count - i)];
        extents.iter().any(|extent| {
            let number = |(symbol, i): (&Arc<str>, i64)| match self.extents.contains_key(symbol) {
                true => 0,
                false => self.least.get(symbol).copied().unwrap_or(0) + extent(i),
            };
            let point: Bindings = symbols.iter().zip(0..).map(|(symbol, i)| (symbol.clone(), number((symbol, i)))).collect();
            let possible = self.facts.iter().all(|fact| fact.eval(&point).is_some_and(|value| value >= 0));
            possible && d.eval(&point).is_some_and(|value| value < 0)
        })
    }

    /// The largest value of an atom whose smallest is 0, where that is known and simpler than the atom.
    fn highest(&self, atom: &Atom) -> Option<Dim> {
        match atom {
            Atom::Symbol(name) => Some(self.extents.get(name)?.clone() - 1),
            Atom::Mod(x, by) => self.is_bounded(x).then(|| by.clone() - 1),
            Atom::Div(x, by) if self.is_bounded(x) && self.never_negative(x) => Some(self.upper(x)?.floor_div(by)),
            Atom::Div(..) | Atom::Max(..) | Atom::Min(..) => None,
        }
    }

    /// Whether a loop variable occurs in `d`.
    fn is_bounded(&self, d: &Dim) -> bool {
        d.symbols().iter().any(|s| self.extents.contains_key(s))
    }

    /// An upper bound of `d` without loop variables.
    fn upper(&self, d: &Dim) -> Option<Dim> {
        match d.terms().iter().flat_map(|t| &t.atoms).find_map(|atom| Some((atom.clone(), self.highest(atom)?))) {
            Some((atom, highest)) => match coefficient(d, &atom) {
                Some((factor, rest)) if self.never_negative(&factor) => self.upper(&(rest + factor * highest)),
                Some((factor, rest)) if self.never_negative(&-factor.clone()) => self.upper(&rest),
                _ => None,
            },
            None => (!self.is_bounded(d)).then(|| d.clone()),
        }
    }

    /// Whether an expression without loop variables is at least 0, by its signs or by those of what is left after a fact.
    fn is_sum_of_positives(&self, d: &Dim) -> bool {
        let is_left = |fact: &&Dim| has_positive_terms_of(d, fact);
        self.has_no_negative_term(d) || self.facts.iter().filter(is_left).any(|fact| self.has_no_negative_term(&(d.clone() - fact.clone())))
    }

    /// Whether no term is negative for any extents, symbols counted from the least that they are.
    fn has_no_negative_term(&self, d: &Dim) -> bool {
        let is_positive = |d: &Dim| lowest(d).is_some_and(|low| low >= 0) && !self.is_bounded(d);
        let is_shifted = || d.symbols().iter().any(|s| self.least.get(s).is_some_and(|&least| least > 0));
        is_positive(d) || is_shifted() && is_positive(&d.substitute(&|s| self.least.get(s).map(|&least| Dim::symbol(s) + least)))
    }

    /// The first quotient or remainder of a loop variable by a divisor of its extent: splitting the loop there makes it
    /// linear. Gives the variable and the divisor.
    pub fn factor(&self, d: &Dim) -> Option<(Arc<str>, Dim)> {
        d.terms().iter().flat_map(|t| &t.atoms).find_map(|atom| match atom {
            Atom::Symbol(_) => None,
            Atom::Div(x, by) | Atom::Mod(x, by) => self.factor(x).or_else(|| self.splits(x, by)),
            Atom::Max(a, b) | Atom::Min(a, b) => self.factor(a).or_else(|| self.factor(b)),
        })
    }

    /// For a cut of a loop at `at`: the same, held within the loop.
    pub fn held(&self, at: &Dim, extent: &Dim) -> Dim {
        self.minimum(&self.maximum(at, &Dim::ZERO), extent)
    }

    fn splits(&self, x: &Dim, by: &Dim) -> Option<(Arc<str>, Dim)> {
        let name = x.as_symbol()?;
        let extent = self.extents.get(name)?;
        let stays = self.read.contains(name) || self.whole.contains(name);
        let divides = !stays && !by.is(1) && extent != by && extent.exact_div(by).is_some() && !self.is_bounded(by);
        divides.then(|| (name.clone(), by.clone()))
    }

    /// Where to cut which loop so that `x < end` is decided on one side at least.
    pub fn cut(&self, x: &Dim, end: &Dim) -> Option<(Arc<str>, Dim)> {
        let variables: Vec<Arc<str>> = x.symbols().into_iter().filter(|s| self.extents.contains_key(s)).collect();
        match &variables[..] {
            [name] => self.cut_line(x, end, name),
            _ => variables.iter().find_map(|name| self.cut_slab(x, end, name)),
        }
    }

    /// For `x` that walks along one loop: from the cut on it is behind `end`, or before it when it walks backwards.
    fn cut_line(&self, x: &Dim, end: &Dim, name: &Arc<str>) -> Option<(Arc<str>, Dim)> {
        let (factor, rest) = x.linear_in(name)?;
        let at = match factor.as_const()? {
            f if f > 0 => (end.clone() - rest).ceil_div(&f.into()),
            f => (rest - end.clone()).floor_div(&(-f).into()) + 1,
        };
        Some((name.clone(), at))
    }

    /// For `x` that takes a long step along a loop and short ones in between: where the step begins that `end` is in, or
    /// behind that step if it is the first.
    fn cut_slab(&self, x: &Dim, end: &Dim, name: &Arc<str>) -> Option<(Arc<str>, Dim)> {
        let (step, rest) = x.linear_in(name)?;
        let start = rest.terms().iter().find(|t| t.atoms.is_empty()).map_or(0, |t| t.coefficient);
        let room = (end.clone() - start).as_const()?;
        let length = step.as_const().filter(|s| *s > 0)?;
        let is_short = self.within(&(rest - start), &step);
        is_short.then(|| (name.clone(), Dim::from((room / length).max(1))))
    }
}

/// Whether `d` has what `fact` adds up, so that there can be something left of it without that: most facts tell nothing of most sums.
fn has_positive_terms_of(d: &Dim, fact: &Dim) -> bool {
    let has = |term: &Term| d.terms().iter().any(|t| t.atoms == term.atoms && t.coefficient >= term.coefficient);
    fact.terms().iter().filter(|term| term.coefficient > 0 && !term.atoms.is_empty()).all(has)
}

/// A number that `d` is not below where symbols are at least 0, by its terms and by what its minima, maxima and quotients are made of.
fn lowest(d: &Dim) -> Option<i64> {
    d.as_const().or_else(|| d.terms().iter().try_fold(0i64, |sum, term| sum.checked_add(lowest_of_term(term)?)))
}

/// The same of a term: a product that is not below 0, a constant, or a multiple of one atom.
fn lowest_of_term(term: &Term) -> Option<i64> {
    let factors = term.atoms.iter().map(lowest_of_atom).collect::<Option<Vec<i64>>>()?;
    match factors.as_slice() {
        [] => Some(term.coefficient),
        [factor] if term.coefficient >= 0 => term.coefficient.checked_mul(*factor),
        factors => (term.coefficient >= 0 && factors.iter().all(|&factor| factor >= 0)).then_some(0),
    }
}

fn lowest_of_atom(atom: &Atom) -> Option<i64> {
    match atom {
        Atom::Symbol(_) | Atom::Mod(..) => Some(0),
        // A divisor is at least 1.
        Atom::Div(x, by) => lowest(x).map(|low| low.min(0).div_euclid(by.as_const().unwrap_or(1).max(1))),
        Atom::Max(a, b) => lowest(a).max(lowest(b)),
        Atom::Min(a, b) => Some(lowest(a)?.min(lowest(b)?)),
    }
}

/// The extent of a loop that runs at least once: where it is `max(a, 0)`, it is `a`.
fn of_running(extent: &Dim) -> Dim {
    match extent.terms() {
        [Term { atoms, coefficient: 1 }] => match atoms.as_slice() {
            [Atom::Max(a, b)] if b.as_const().is_some_and(|b| b <= 0) => of_running(a),
            [Atom::Max(a, b)] if a.as_const().is_some_and(|a| a <= 0) => of_running(b),
            _ => extent.clone(),
        },
        _ => extent.clone(),
    }
}

/// `(p, q)` with `x = by*p + q`, where `q` holds the terms that `by` does not divide.
fn split(x: &Dim, by: &Dim) -> (Dim, Dim) {
    if let Some(c) = by.as_const() {
        return x.split_multiple(c);
    }
    x.terms().iter().fold((Dim::ZERO, x.as_const().map_or(Dim::ZERO, Dim::from)), |(whole, rest), term| {
        let term = Dim::from_terms(vec![term.clone()]);
        match term.exact_div(by) {
            Some(quotient) => (whole + quotient, rest),
            None => (whole, rest + term),
        }
    })
}

/// The largest term that divides both a term and `by`.
fn common_factor(term: &Term, by: &Dim) -> Dim {
    let divisor = match (by.as_const(), by.terms()) {
        (Some(c), _) => Term { atoms: vec![], coefficient: c },
        (None, [divisor]) => divisor.clone(),
        _ => return Dim::ONE,
    };
    let mut left = divisor.atoms;
    let shared = term.atoms.iter().filter(|a| left.iter().position(|b| b == *a).map(|i| left.remove(i)).is_some()).cloned().collect();
    Dim::from_terms(vec![Term { atoms: shared, coefficient: gcd(term.coefficient, divisor.coefficient) }])
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a.saturating_abs().max(1) } else { gcd(b, a.wrapping_rem(b)) }
}

/// `(factor, rest)` with `d = factor*atom + rest`, neither mentioning the atom again.
fn coefficient(d: &Dim, atom: &Atom) -> Option<(Dim, Dim)> {
    let (mut with, mut without) = (vec![], vec![]);
    for term in d.terms() {
        match term.atoms.iter().position(|a| a == atom) {
            Some(i) => {
                let mut atoms = term.atoms.clone();
                atoms.remove(i);
                if atoms.contains(atom) {
                    return None;
                }
                with.push(Term { atoms, coefficient: term.coefficient });
            }
            None => without.push(term.clone()),
        }
    }
    Some((Dim::from_terms(with), Dim::from_terms(without)))
}

/// `c*div(x, c) + mod(x, c) = x`, wherever the pair occurs with one factor.
fn recombine(d: Dim) -> Dim {
    for term in d.terms() {
        for (i, atom) in term.atoms.iter().enumerate() {
            let Atom::Mod(x, by) = atom else { continue };
            let mut atoms = term.atoms.clone();
            atoms.remove(i);
            let factor = Dim::from_terms(vec![Term { atoms, coefficient: term.coefficient }]);
            let quotient = factor.clone() * by.clone() * x.floor_div(by);
            if !quotient.is(0) && quotient.terms().iter().all(|q| d.terms().contains(q)) {
                let rest = d.clone() - quotient - Dim::from_terms(vec![term.clone()]);
                return recombine(rest + factor * x.clone());
            }
        }
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(name: &str) -> Dim {
        Dim::symbol(name)
    }

    fn ranges(extents: &[(&str, Dim)]) -> Ranges {
        let mut ranges = Ranges::default();
        extents.iter().for_each(|(name, extent)| ranges.add(&Arc::from(*name), extent));
        ranges
    }

    #[track_caller]
    fn check(r: &Ranges, d: Dim, expected: &str) {
        assert_eq!(r.simplify(&d).to_string(), expected, "for {d}");
    }

    #[test]
    fn quotients_of_loop_variables_vanish() {
        let r = ranges(&[("i", 10.into()), ("j", 12.into()), ("k", 4.into())]);
        let x = s("i") * 12 + s("j");
        check(&r, x.floor_div(&12.into()), "i");
        check(&r, x.modulo(&12.into()), "j");
        check(&r, (s("i") * 4 + s("k")).floor_div(&12.into()), "div(i, 3)");
        check(&r, (s("i") * 4 + s("k")).modulo(&12.into()), "k + 4*mod(i, 3)");
        check(&r, (s("i") * 4 + 3).modulo(&12.into()), "4*mod(i, 3) + 3");
        check(&r, (s("i") + 1).floor_div(&11.into()), "0");
        check(&r, s("j").floor_div(&5.into()) * 5 + s("j").modulo(&5.into()), "j");
        check(&r, (s("j") - 12).maximum(&Dim::ZERO), "0");
        check(&r, (s("j") + 1).minimum(&12.into()), "j + 1");
    }

    #[test]
    fn symbolic_extents_are_understood() {
        let (h, t) = (s("H"), s("T"));
        let r = ranges(&[("i", t.clone()), ("j", h.clone()), ("k", 64.into()), ("m", h.clone() * 64)]);
        let x = s("i") * h.clone() * 64 + s("j") * 64 + s("k");
        check(&r, x.floor_div(&(h.clone() * 64)), "i");
        check(&r, x.modulo(&(h.clone() * 64)), "64*j + k");
        check(&r, x.modulo(&(h.clone() * 64)).floor_div(&64.into()), "j");
        check(&r, (s("i") * h.clone() + s("j")).modulo(&h), "j");
        assert_eq!(r.factor(&s("m").floor_div(&64.into())), Some(("m".into(), 64.into())));
        assert!(r.within(&(s("i") + 3), &(t.clone() + 3)));
        assert!(!r.within(&(s("i") + 3), &(t + 2)));
    }

    #[test]
    fn loops_are_cut_where_an_index_leaves() {
        let r = ranges(&[("i", 10.into())]);
        assert_eq!(r.cut(&s("i"), &s("P")), Some(("i".into(), s("P"))));
        assert_eq!(r.cut(&(s("i") * 2 + 1), &8.into()), Some(("i".into(), 4.into())));
        // 9 - i < 3 from i = 7 on.
        assert_eq!(r.cut(&(s("i") * -1 + 9), &3.into()), Some(("i".into(), 7.into())));
    }

    /// Parts of which each is held below a bound, one behind another: as many cases as 2^90 if each were looked at.
    #[test]
    fn sums_of_many_held_extents_are_decided() {
        let part = |i: usize| s(&format!("k{i}")).minimum(&300.into());
        let sum = |parts: std::ops::Range<usize>| parts.map(part).fold(Dim::ZERO, |sum, part| sum + part);
        let mut r = ranges(&[("i", part(40))]);
        (0..90).for_each(|i| r.runs(&sum(0..i + 1)));
        let place = sum(0..40) + s("i");
        assert!(r.within(&place, &sum(0..90)));
        assert!(!r.within(&place, &sum(0..40)));
        assert!(!r.at_most(&sum(0..90), &place));
        assert!(!r.at_most(&(sum(0..45) * 2), &sum(45..90)));
    }

    #[test]
    fn minima_and_quotients_of_less_than_nothing_are_not_positive() {
        let r = Ranges::default();
        let negative = s("N") - 5;
        let never = [negative.minimum(&3.into()), negative.maximum(&(-2).into()), negative.floor_div(&2.into()) + 2, negative.clone()];
        let always =
            [negative.maximum(&Dim::ZERO), s("N").minimum(&3.into()), negative.floor_div(&2.into()) + 3, negative.modulo(&2.into())];
        never.iter().for_each(|d| assert!(!r.at_most(&Dim::ZERO, d), "{d}"));
        always.iter().for_each(|d| assert!(r.at_most(&Dim::ZERO, d), "{d}"));
        let mut running = Ranges::default();
        running.runs(&negative);
        never.iter().for_each(|d| assert!(running.at_most(&Dim::ZERO, d), "{d}"));
    }

    /// Random expressions keep their value at every point.
    #[test]
    fn simplifying_keeps_the_value() {
        let extents = [("i", 3), ("j", 4), ("k", 5)];
        let r = ranges(&extents.map(|(name, e)| (name, Dim::from(e))));
        let mut seed = 1u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for _ in 0..2000 {
            let mut d = Dim::from(random(5) as i64 - 2);
            for (name, _) in extents {
                d = d + s(name) * (random(13) as i64 - 3);
            }
            for _ in 0..3 {
                let by = Dim::from(1 + random(12) as i64);
                d = match random(4) {
                    0 => d.floor_div(&by),
                    1 => d.modulo(&by),
                    2 => d.floor_div(&by) * by.clone() + d.modulo(&by),
                    _ => d.maximum(&by) + s("j") * (random(4) as i64),
                };
            }
            let simple = r.simplify(&d);
            for point in 0..60 {
                let b = Bindings::from([("i".into(), point % 3), ("j".into(), point / 3 % 4), ("k".into(), point / 12)]);
                assert_eq!(simple.eval(&b), d.eval(&b), "{d} became {simple} at {b:?}");
            }
        }
    }
}
