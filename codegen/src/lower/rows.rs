//! Reductions, norms and windows: passes over rows.
//!
//! Folds that depend on each other run in passes one after another; a result that has the reduced axes is written in the
//! first pass that knows all it needs, one that has not is written once per row.
//!
//! ```text
//! y = softmax[axes=[1]](x)
//! =>
//! over the row: v0 = max(x[..])
//! over the row: y[..] = exp((x[..] - v0)), v1 = sum(exp((x[..] - v0)))
//! over the row: y[..] = y[..]*(1/v1)
//! ```

use super::built::Built;
use super::exprs::{Rewrite, bin, visit_shared};
use super::finish::{Names, merge};
use crate::kernel::{Axis, Block, Expr, ExprKind, Let, Pass, Reduce, Rows, Store};
use egret_ir::scalar::{BinOp, UnOp};
use egret_ir::{DType, Dim};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Fewer reduced elements than this in a run make a poor lane axis: most lanes of a vector would idle.
const FEWEST_LANES: i64 = 8;

/// Cost of a vector of elements that lie apart, in vectors that lie together: a gather is one load per lane, 8 or 16 of them,
/// of which the rest of the loop hides some.
const COST_OF_GATHER: usize = 8;

/// Cost of a vector of elements that another vector holds in another order.
const COST_OF_SHUFFLE: usize = 2;

/// More lanes than any vector has.
const MOST_LANES: i64 = 64;

/// Neighbouring points that are computed together where they share loads, best first: seven is what the extents of image
/// networks divide by, and eight accumulators hide the latency of a fused multiply-add.
const TILES: [i64; 5] = [8, 7, 6, 5, 4];

/// A kernel of the folds and stores that were built.
pub fn assemble(built: Built, names: Names) -> Rows {
    let inner: HashSet<Arc<str>> = built.domain.axes(true).map(|a| a.name.clone()).collect();
    let passes = passes(&built, &inner);
    finish(&built, passes, names)
}

/// The passes, under the build's names.
fn passes(built: &Built, inner: &HashSet<Arc<str>>) -> Vec<Pass> {
    let mut levels = Levels { of: HashMap::new(), lets: &built.lets };
    let mut folds: Vec<(usize, Reduce)> = vec![];
    for fold in &built.folds {
        let value = with_reciprocals(&fold.value, inner);
        let level = levels.level(&fold.value);
        levels.of.insert(fold.var.clone(), level);
        folds.push((level, Reduce { var: fold.var.clone(), fold: fold.fold, value }));
    }
    let mut stores: Vec<(usize, bool, Store)> = vec![];
    for store in &built.stores {
        let level = levels.level(&store.value);
        let over_row = mentions_any(&store.offset, inner);
        let value = if over_row { with_reciprocals(&store.value, inner) } else { store.value.clone() };
        let mut store = Store { value, ..store.clone() };
        if let Some((level, early)) = over_row.then(|| carry(&mut store, level, &folds, inner)).flatten() {
            stores.push((level, true, early));
        }
        stores.push((level, over_row, store));
    }
    let last = folds.iter().map(|f| f.0).chain(stores.iter().map(|s| s.0)).max().unwrap_or(0);
    let pass = |level: usize, over_row: bool| {
        let reduces: Vec<Reduce> = folds.iter().filter(|f| over_row && f.0 == level).map(|f| f.1.clone()).collect();
        let stores: Vec<Store> = stores.iter().filter(|s| s.0 == level && s.1 == over_row).map(|s| s.2.clone()).collect();
        let lets = built.lets_for(stores.iter().map(|s| &s.value).chain(reduces.iter().map(|r| &r.value)));
        let is_there = !reduces.is_empty() || !stores.is_empty();
        is_there.then_some(Pass { over_row, reduces, block: Block { lets, stores } })
    };
    (0..=last).flat_map(|level| [false, true].into_iter().filter_map(move |over_row| pass(level, over_row)).collect::<Vec<_>>()).collect()
}

/// In which pass an expression can be computed first: after the folds it depends on.
struct Levels<'a> {
    of: HashMap<Arc<str>, usize>,
    lets: &'a [Let],
}

impl Levels<'_> {
    fn level(&self, e: &Expr) -> usize {
        let mut level = 0;
        visit_shared([e], &mut |e| match &*e.kind {
            ExprKind::Var(name) => level = level.max(self.of.get(name).map_or(0, |l| l + 1)),
            ExprKind::Load(_, d) | ExprKind::Index(d) => {
                let read = self.lets.iter().filter(|l| d.mentions(&l.name)).map(|l| self.level(&l.value));
                level = level.max(read.max().unwrap_or(0));
            }
            _ => {}
        });
        level
    }
}

fn mentions_any(d: &Dim, names: &HashSet<Arc<str>>) -> bool {
    d.symbols().iter().any(|s| names.contains(s) || s.starts_with("%g"))
}

/// Whether an expression has one value per row.
fn is_constant_in_row(e: &Expr, inner: &HashSet<Arc<str>>) -> bool {
    let mut varies = false;
    visit_shared([e], &mut |e| {
        if let ExprKind::Load(_, d) | ExprKind::Index(d) = &*e.kind {
            varies |= mentions_any(d, inner);
        }
    });
    !varies
}

/// Divisions of every element of a row by one number, as multiplications by its reciprocal: one more rounding, and a
/// division takes as long as a dozen multiplications.
fn with_reciprocals(e: &Expr, inner: &HashSet<Arc<str>>) -> Expr {
    fn walk(e: &Expr, inner: &HashSet<Arc<str>>, memo: &mut HashMap<*const ExprKind, Expr>) -> Expr {
        let key = Arc::as_ptr(&e.kind);
        if let Some(done) = memo.get(&key) {
            return done.clone();
        }
        let kind = match &*e.kind {
            ExprKind::Bin(BinOp::Div, x, y)
                if matches!(e.dtype, DType::F32 | DType::F64) && is_constant_in_row(y, inner) && !is_constant_in_row(x, inner) =>
            {
                let reciprocal = bin(BinOp::Div, &Expr::literal(1.0, e.dtype), &walk(y, inner, memo));
                ExprKind::Bin(BinOp::Mul, walk(x, inner, memo), reciprocal)
            }
            ExprKind::Un(op, x) => ExprKind::Un(*op, walk(x, inner, memo)),
            ExprKind::Bin(op, x, y) => ExprKind::Bin(*op, walk(x, inner, memo), walk(y, inner, memo)),
            ExprKind::Select(c, x, y) => ExprKind::Select(walk(c, inner, memo), walk(x, inner, memo), walk(y, inner, memo)),
            ExprKind::Cast(x) => ExprKind::Cast(walk(x, inner, memo)),
            ExprKind::Bits(x) => ExprKind::Bits(walk(x, inner, memo)),
            leaf @ (ExprKind::Load(..) | ExprKind::Index(_) | ExprKind::Const(_) | ExprKind::Var(_)) => leaf.clone(),
        };
        let new = if kind == *e.kind { e.clone() } else { Expr::new(e.dtype, kind) };
        memo.insert(key, new.clone());
        new
    }
    walk(e, inner, &mut HashMap::new())
}

/// Saves computing a costly part of a result twice: the pass that needs it for a fold stores it where the result will be,
/// and the result's pass reads it back. Gives that pass and its store.
fn carry(store: &mut Store, level: usize, folds: &[(usize, Reduce)], inner: &HashSet<Arc<str>>) -> Option<(usize, Store)> {
    let mut parts: Vec<&Expr> = vec![];
    visit_shared([&store.value], &mut |e| parts.push(e));
    // The largest part first: operands were visited before what uses them.
    let (part, at) =
        parts.into_iter().rev().filter(|e| e.dtype == store.value.dtype && is_costly(e) && !is_constant_in_row(e, inner)).find_map(
            |part| {
                let earlier = folds.iter().find(|(l, fold)| *l < level && contains(&fold.value, part));
                earlier.map(|(l, _)| (part.clone(), *l))
            },
        )?;
    let early = Store { value: part.clone(), ..store.clone() };
    let stored = Expr::new(part.dtype, ExprKind::Load(store.buffer, store.offset.clone()));
    store.value = replace(&store.value, &part, &stored);
    Some((at, early))
}

fn contains(e: &Expr, part: &Expr) -> bool {
    let mut found = false;
    visit_shared([e], &mut |e| found |= e == part);
    found
}

fn replace(e: &Expr, part: &Expr, by: &Expr) -> Expr {
    if e == part {
        return by.clone();
    }
    let go = |e: &Expr| replace(e, part, by);
    let kind = match &*e.kind {
        ExprKind::Un(op, x) => ExprKind::Un(*op, go(x)),
        ExprKind::Bin(op, x, y) => ExprKind::Bin(*op, go(x), go(y)),
        ExprKind::Select(c, x, y) => ExprKind::Select(go(c), go(x), go(y)),
        ExprKind::Cast(x) => ExprKind::Cast(go(x)),
        ExprKind::Bits(x) => ExprKind::Bits(go(x)),
        ExprKind::Load(..) | ExprKind::Index(_) | ExprKind::Const(_) | ExprKind::Var(_) => return e.clone(),
    };
    Expr::new(e.dtype, kind)
}

/// Whether an expression computes a function that takes longer than reading a number back.
fn is_costly(e: &Expr) -> bool {
    let mut costly = false;
    visit_shared([e], &mut |e| {
        costly |= match &*e.kind {
            ExprKind::Un(op, _) => !matches!(
                op,
                UnOp::Neg | UnOp::Abs | UnOp::Sign | UnOp::Not | UnOp::Floor | UnOp::Ceil | UnOp::Round | UnOp::IsNan | UnOp::Sqrt
            ),
            ExprKind::Bin(op, ..) => *op == BinOp::Pow,
            _ => false,
        }
    });
    costly
}

/// Merges loops, chooses lanes, and gives short names.
fn finish(built: &Built, passes: Vec<Pass>, mut names: Names) -> Rows {
    let groups = [false, true].map(|inner| built.domain.axes(inner).cloned().collect()).to_vec();
    let mut dims: Vec<Dim> = passes.iter().flat_map(|p| super::exprs::dims_of(&p.block)).collect();
    dims.extend(passes.iter().flat_map(|p| p.reduces.iter().flat_map(|r| dims_in(&r.value))));
    let merged = merge(groups, &dims, &built.ranges);
    let [mut axes, mut reduced] = <[Vec<Axis>; 2]>::try_from(merged.groups.clone()).unwrap_or_default();
    let walk =
        |offset: Dim| Walk { through: found_dims(&offset, &built.lets).map(|d| merged.apply(&d)).collect(), offset: merged.apply(&offset) };
    let walks: Vec<Walk> = passes.iter().filter(|p| p.over_row).flat_map(row_offsets).map(walk).collect();
    let lanes_outside = choose_lanes(&mut axes, &mut reduced, &walks);
    let tile = choose_tile(&mut axes, lanes_outside, &walks);
    names.number(axes.iter().map(|a| a.name.clone()), "i", 0);
    names.number(reduced.iter().map(|a| a.name.clone()), "r", 0);
    names.number(built.lets.iter().map(|l| l.name.clone()), "g", 0);
    names.number(built.folds.iter().map(|f| f.var.clone()), "v", 0);
    let dim = |d: &Dim| names.dim(&merged.apply(d));
    let name = |n: &Arc<str>| names.name(n);
    let mut rewrite = Rewrite::new(&dim, &|b| b, &name);
    let mut renamed = |p: &Pass| Pass {
        over_row: p.over_row,
        block: rewrite.block(&p.block),
        reduces: p.reduces.iter().map(|r| Reduce { var: names.name(&r.var), fold: r.fold, value: rewrite.expr(&r.value) }).collect(),
    };
    Rows { axes: names.axes(&axes), reduced: names.axes(&reduced), lanes_outside, tile, passes: passes.iter().map(&mut renamed).collect() }
}

fn dims_in(e: &Expr) -> Vec<Dim> {
    let mut dims = vec![];
    visit_shared([e], &mut |e| {
        if let ExprKind::Load(_, d) | ExprKind::Index(d) = &*e.kind {
            dims.push(d.clone());
        }
    });
    dims
}

/// The offsets at which a pass touches memory.
fn row_offsets(pass: &Pass) -> Vec<Dim> {
    let mut offsets: Vec<Dim> = pass.block.stores.iter().map(|s| s.offset.clone()).collect();
    visit_shared(pass.block.stores.iter().map(|s| &s.value).chain(pass.reduces.iter().map(|r| &r.value)), &mut |e| {
        if let ExprKind::Load(_, d) = &*e.kind {
            offsets.push(d.clone());
        }
    });
    offsets
}

/// How a pass walks through memory.
struct Walk {
    /// Where it touches it.
    offset: Dim,
    /// Where the indices in the offset that are data are read.
    through: Vec<Dim>,
}

impl Walk {
    fn depends_on(&self, axis: &Axis) -> bool {
        self.offset.mentions(&axis.name) || self.through.iter().any(|d| d.mentions(&axis.name))
    }

    /// What it costs when the lanes run along an axis: nothing where all lanes touch one element, little where they touch neighbours,
    /// much where each is on its own.
    fn cost(&self, lanes: &Axis) -> usize {
        match self.offset.linear_in(&lanes.name) {
            _ if self.through.iter().any(|d| d.mentions(&lanes.name)) => COST_OF_GATHER,
            Some((stride, _)) if stride.is(0) => 0,
            Some((stride, _)) if stride.is(1) => 1,
            None if self.stays_near(lanes) => COST_OF_SHUFFLE,
            Some(_) | None => COST_OF_GATHER,
        }
    }

    /// Whether all points of an axis touch elements that one vector of as many holds.
    fn stays_near(&self, lanes: &Axis) -> bool {
        let Some(count) = lanes.extent.as_const().filter(|&n| n <= MOST_LANES) else { return false };
        let at = |l: i64| self.offset.substitute(&|name| (name == &*lanes.name).then(|| Dim::from(l)));
        let first = at(0);
        (1..count).all(|l| (at(l) - first.clone()).as_const().is_some_and(|apart| (0..count).contains(&apart)))
    }
}

/// Where the lets that an offset mentions are read, and those that they mention.
fn found_dims(offset: &Dim, lets: &[Let]) -> impl Iterator<Item = Dim> + use<> {
    let mut dims = vec![offset.clone()];
    // A let mentions earlier ones only.
    for known in lets.iter().rev() {
        if dims.iter().any(|d| d.mentions(&known.name)) {
            dims.extend(dims_in(&known.value));
        }
    }
    dims.into_iter().skip(1)
}

/// Whether the lanes run along one of the outer axes; brings the lane axis to the end of its group.
fn choose_lanes(axes: &mut Vec<Axis>, reduced: &mut Vec<Axis>, walks: &[Walk]) -> bool {
    let cost = |a: &Axis| walks.iter().map(|walk| walk.cost(a)).sum::<usize>();
    // Of equals, the innermost.
    let cheapest = |group: &[Axis]| (0..group.len()).rev().min_by_key(|&i| cost(&group[i])).map(|i| (i, cost(&group[i])));
    let is_short = |a: &Axis| a.extent.as_const().is_some_and(|n| n < FEWEST_LANES);
    // Lanes along an outer axis that gather, and may turn out to be one: only worth while where there is nothing else in a row.
    let is_risk = |a: &Axis, outside: usize, inside: usize| a.extent.as_const().is_none() && outside > inside && reduced.len() > 1;
    let (outside, inside) = (cheapest(axes), cheapest(reduced));
    let lanes_outside = match (outside, inside) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some((o, outside)), Some((_, inside))) if is_risk(&axes[o], outside, inside) => false,
        (Some((o, _)), Some((i, _))) if is_short(&axes[o]) != is_short(&reduced[i]) => is_short(&reduced[i]),
        (Some((_, outside)), Some((_, inside))) => outside < inside,
    };
    let (group, chosen) = if lanes_outside { (axes, outside) } else { (reduced, inside) };
    if let Some((i, _)) = chosen {
        let axis = group.remove(i);
        group.push(axis);
    }
    lanes_outside
}

/// How many neighbouring points are computed together because they share loads; brings their axis next to the lanes.
fn choose_tile(axes: &mut Vec<Axis>, lanes_outside: bool, walks: &[Walk]) -> usize {
    let Some(before_lanes) = axes.len().checked_sub(1).filter(|_| lanes_outside) else { return 1 };
    let shares = |axis: &Axis| walks.iter().any(|walk| walk.depends_on(axis)) && !walks.iter().all(|walk| walk.depends_on(axis));
    let Some(at) = (0..before_lanes).rev().find(|&i| shares(&axes[i])) else { return 1 };
    let axis = axes.remove(at);
    let wasted = |tile: i64| axis.extent.as_const().map_or(0, |n| (tile - n % tile) % tile);
    let fits = |tile: &i64| axis.extent.as_const().is_none_or(|n| n >= *tile);
    let tile = TILES.into_iter().filter(fits).min_by_key(|&t| wasted(t)).unwrap_or(1);
    axes.insert(before_lanes - 1, axis);
    tile as usize
}
