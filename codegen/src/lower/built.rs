//! The expressions of one kernel over its domain, and the questions that decide its form.

use super::Place;
use super::attention::Attention;
use super::domain::{Domain, linear};
use super::exprs::visit_shared;
use super::fold::Folded;
use super::product::Product;
use super::ranges::Ranges;
use super::value::{Build, Stop, broadcast_index};
use crate::kernel::{Axis, Block, Expr, ExprKind, Let, Store};
use egret_ir::{Dim, ValueId};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// What a build made; names and buffers are still those of the build.
pub struct Built {
    /// The loops.
    pub domain: Domain,
    /// The ranges of loops and lets.
    pub ranges: Ranges,
    /// What the buffers hold.
    pub buffers: Vec<Place>,
    /// Indices read from data, in order.
    pub lets: Vec<Let>,
    /// Reductions, in order.
    pub folds: Vec<Folded>,
    /// The contraction, if there is one.
    pub product: Option<Product>,
    /// The attention, if there is one.
    pub attention: Option<Attention>,
    /// The results.
    pub stores: Vec<Store>,
}

impl Build<'_> {
    /// The stores of some values at the domain's index.
    pub fn stores(&mut self, outputs: &[(ValueId, Place)]) -> Result<Vec<Store>, Stop> {
        let store = |(value, place): &(ValueId, Place)| {
            let dims = &self.ty(*value).dims;
            let at = broadcast_index(dims, &self.domain.index);
            let offset = self.ranges.simplify(&linear(dims, &at));
            Ok(Store { value: self.value(*value, &at)?, offset, buffer: self.buffer(place) })
        };
        outputs.iter().map(store).collect()
    }

    /// Every expression: stores, folds, lets.
    fn exprs<'e>(&'e self, stores: &'e [Store]) -> impl Iterator<Item = &'e Expr> {
        let folds = self.folds.iter().map(|f| &f.value);
        let scores = self.attention.iter().map(|a| &a.score);
        stores.iter().map(|s| &s.value).chain(folds).chain(scores).chain(self.lets.iter().map(|l| &l.value))
    }

    /// Where a loop has to be split for an offset to become linear.
    pub fn factor(&self, stores: &[Store]) -> Option<(Arc<str>, Dim)> {
        let operands = self.product.iter().flat_map(|p| [&p.a.1, &p.b.1]).chain(self.attention.iter().flat_map(Attention::dims));
        let mut found = operands.chain(stores.iter().map(|s| &s.offset)).find_map(|d| self.ranges.factor(d));
        visit_shared(self.exprs(stores), &mut |e| {
            if let (ExprKind::Load(_, d) | ExprKind::Index(d), None) = (&*e.kind, &found) {
                found = self.ranges.factor(d);
            }
        });
        found
    }

    /// The loops of the results that are the inner loops as well, if folds and results have not been brought together yet:
    /// those that the folds do not depend on.
    ///
    /// # Errors
    /// When a fold has to go to memory, because it runs at another place, or the results hold more than it reduces.
    pub fn shared_loops(&self, outputs: &[(ValueId, Place)]) -> Result<Option<Vec<Arc<str>>>, Stop> {
        let anchors: Vec<(ValueId, &[Dim])> = match (&self.product, &self.attention) {
            (Some(p), _) => vec![(p.node, &p.at[..])],
            (_, Some(a)) => vec![(a.node, &a.at[..])],
            (None, None) => self.folds.iter().map(|f| (f.node, &f.at[..])).collect(),
        };
        let Some((first, _)) = anchors.first() else { return Ok(None) };
        let depends = |at: &[Dim]| -> BTreeSet<Arc<str>> { at.iter().flat_map(Dim::symbols).collect() };
        let to_memory = |node: &ValueId| Stop::Materialise(*node);
        let is_output = |node: &ValueId| outputs.iter().any(|(v, _)| v == node);
        let outer = depends(anchors[0].1);
        if let Some((other, _)) = anchors.iter().find(|(_, at)| depends(at) != outer) {
            return Err(to_memory(if is_output(other) { first } else { other }));
        }
        let free: Vec<&Axis> = self.domain.axes(false).filter(|a| !outer.contains(&a.name)).collect();
        if free.is_empty() {
            return Ok(None);
        }
        let merged = self.domain.axes(true).any(|a| self.domain.index.iter().any(|d| d.mentions(&a.name)));
        match self.product.is_none() && self.attention.is_none() && !merged {
            true => self.matching(&free).map(Some).ok_or_else(|| to_memory(first)),
            false => Err(to_memory(first)),
        }
    }

    /// The innermost of some loops that run over as many points as the inner loops.
    fn matching(&self, free: &[&Axis]) -> Option<Vec<Arc<str>>> {
        let wanted: Dim = self.domain.reduced.as_ref()?.extents.iter().cloned().product();
        let subsets = 1u32..1 << free.len().min(16);
        let chosen = |set: u32| free.iter().rev().enumerate().filter(move |(i, _)| set >> i & 1 == 1).map(|(_, a)| *a);
        let set = subsets
            .into_iter()
            .filter(|set| chosen(*set).map(|a| a.extent.clone()).product::<Dim>() == wanted)
            .min_by_key(|set| set.count_ones())?;
        Some(chosen(set).map(|a| a.name.clone()).collect())
    }

    /// That every result is stored once: no outer loop goes around a store that does not depend on it.
    pub fn check_stores(&self, stores: &[Store], outputs: &[(ValueId, Place)]) -> Result<(), Stop> {
        let is_stored_once = |s: &Store| {
            let (inner, outer): (Vec<_>, Vec<_>) = self.domain.loops.iter().partition(|l| l.inner);
            let mentions = |l: &&super::domain::Loop| s.offset.mentions(&l.axis.name);
            outer.iter().copied().all(|l| mentions(&l))
                && (inner.iter().copied().all(|l| mentions(&l)) || !inner.iter().copied().any(|l| mentions(&l)))
        };
        match stores.iter().all(is_stored_once) {
            true => Ok(()),
            false if outputs.len() > 1 => Err(Stop::Separate),
            false => Err(Stop::Fail(outputs[0].0, "its elements are not computed once each".to_string())),
        }
    }

    /// The end of building.
    pub fn finished(self, stores: Vec<Store>) -> Built {
        let Build { domain, ranges, buffers, lets, folds, product, attention, .. } = self;
        Built { domain: domain.clone(), ranges, buffers, lets, folds, product, attention, stores }
    }
}

impl Built {
    /// Some stores and the lets they need.
    pub fn block(&self, stores: &[Store]) -> Block {
        Block { lets: self.lets_for(stores.iter().map(|s| &s.value)), stores: stores.to_vec() }
    }

    /// The lets that some expressions need, in order.
    pub fn lets_for<'e>(&self, exprs: impl IntoIterator<Item = &'e Expr>) -> Vec<Let> {
        let mut needed = symbols_in(exprs);
        for l in self.lets.iter().rev() {
            if needed.contains(&l.name) {
                needed.extend(symbols_in([&l.value]));
            }
        }
        self.lets.iter().filter(|l| needed.contains(&l.name)).cloned().collect()
    }
}

/// Every symbol in the offsets of some expressions.
fn symbols_in<'e>(exprs: impl IntoIterator<Item = &'e Expr>) -> HashSet<Arc<str>> {
    let mut found = HashSet::new();
    visit_shared(exprs, &mut |e| {
        if let ExprKind::Load(_, d) | ExprKind::Index(d) = &*e.kind {
            found.extend(d.symbols());
        }
    });
    found
}
