//! The last steps of every kernel: loops that walk memory together become one, and everything gets its short name.

use super::exprs::Rewrite;
use super::ranges::Ranges;
use super::{Launch, Lowering, Place};
use crate::kernel::{Axis, Block, Body, Buffer, BufferId, Kernel, Piece};
use egret_ir::{DType, Dim, ValueId};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Loops in groups, outermost first; loops of one group may become one.
pub type Groups = Vec<Vec<Axis>>;

/// The loops that are left after merging, and what became of the others.
pub struct Merged {
    /// The loops left, in the same groups.
    pub groups: Groups,
    /// Merged loops: outer variable, the inner one that now stands for both, and the inner one's extent before.
    pub merges: Vec<(Arc<str>, Arc<str>, Dim)>,
}

/// Merges loops wherever all offsets allow: where going once around the inner loop is one step of the outer.
///
/// ```text
/// for i in N, j in 128: out[128*i + j] = x[128*i + j]   =>   for j in 128*N: out[j] = x[j]
/// ```
pub fn merge(mut groups: Groups, dims: &[Dim], ranges: &Ranges) -> Merged {
    let mut ranges = ranges.clone();
    let mut dims: Vec<Dim> = dims.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    let mut merges = vec![];
    while let Some((group, outer, inner)) = find_merge(&groups, &dims, &ranges) {
        let (o, i) = (groups[group][outer].clone(), groups[group][inner].clone());
        merges.push((o.name.clone(), i.name.clone(), i.extent.clone()));
        groups[group][inner].extent = o.extent * i.extent;
        ranges.add(&i.name, &groups[group][inner].extent);
        groups[group].remove(outer);
        dims.iter_mut().for_each(|d| *d = without(d, &o.name));
    }
    Merged { groups, merges }
}

fn without(d: &Dim, name: &str) -> Dim {
    d.substitute(&|s| (s == name).then_some(Dim::ZERO))
}

fn find_merge(groups: &Groups, dims: &[Dim], ranges: &Ranges) -> Option<(usize, usize, usize)> {
    for (g, group) in groups.iter().enumerate() {
        for outer in 0..group.len() {
            for inner in outer + 1..group.len() {
                let stays = ranges.is_whole(&group[inner].name) || ranges.is_whole(&group[outer].name);
                if !stays && dims.iter().all(|d| merges(d, &group[outer], &group[inner], ranges)) {
                    return Some((g, outer, inner));
                }
            }
        }
    }
    None
}

/// Whether `d` depends on two loops only through `extent*outer + inner`.
fn merges(d: &Dim, outer: &Axis, inner: &Axis, ranges: &Ranges) -> bool {
    if !d.mentions(&outer.name) && !d.mentions(&inner.name) {
        return true;
    }
    let both = outer.index() * inner.extent.clone() + inner.index();
    let merged = without(d, &outer.name).substitute(&|s| (s == &*inner.name).then(|| both.clone()));
    ranges.simplify(&merged) == *d
}

impl Merged {
    /// An expression that all loops were merged for, in terms of those left.
    pub fn apply(&self, d: &Dim) -> Dim {
        d.substitute(&|s| self.merges.iter().any(|(outer, ..)| &**outer == s).then_some(Dim::ZERO))
    }

    /// Any other expression: merged loops are taken apart again.
    pub fn apply_to_any(&self, d: &Dim) -> Dim {
        self.merges.iter().rev().fold(d.clone(), |d, (outer, inner, extent)| {
            let both = Dim::symbol(inner.clone());
            d.substitute(&|s| match s {
                s if s == &**outer => Some(both.floor_div(extent)),
                s if s == &**inner => Some(both.modulo(extent)),
                _ => None,
            })
        })
    }
}

/// Short names for loop variables, lets and folds.
#[derive(Default)]
pub struct Names {
    /// Symbols of the model, which cannot be used.
    pub taken: HashSet<Arc<str>>,
    names: HashMap<Arc<str>, Arc<str>>,
}

impl Names {
    /// Names that differ from these.
    pub fn apart_from(taken: HashSet<Arc<str>>) -> Names {
        Names { taken, names: HashMap::new() }
    }

    /// Names axes `prefix0`, `prefix1` and so on, from a number on.
    pub fn number(&mut self, old: impl IntoIterator<Item = Arc<str>>, prefix: &str, from: usize) {
        for (i, name) in old.into_iter().enumerate() {
            self.set(name, format!("{prefix}{}", from + i));
        }
    }

    /// Names one variable.
    pub fn set(&mut self, old: Arc<str>, mut new: String) {
        while self.taken.contains(new.as_str()) {
            new.push('_');
        }
        self.names.insert(old, new.into());
    }

    /// The new name.
    pub fn name(&self, old: &Arc<str>) -> Arc<str> {
        self.names.get(old).unwrap_or(old).clone()
    }

    /// An expression under the new names.
    pub fn dim(&self, d: &Dim) -> Dim {
        d.substitute(&|s| self.names.get(s).map(|n| Dim::symbol(n.clone())))
    }

    /// An axis under its new name.
    pub fn axis(&self, axis: &Axis) -> Axis {
        Axis { name: self.name(&axis.name), extent: axis.extent.clone() }
    }

    /// Axes under their new names.
    pub fn axes(&self, axes: &[Axis]) -> Vec<Axis> {
        axes.iter().map(|a| self.axis(a)).collect()
    }
}

impl Lowering<'_> {
    /// Fresh names for a kernel of this region.
    pub fn names(&self) -> Names {
        let graph = self.scope.graph();
        Names::apart_from(graph.values().iter().flat_map(|v| &v.ty.dims).flat_map(Dim::symbols).collect())
    }
}

/// The kernel with just the buffers it uses, reads first.
pub fn launch(lowering: &Lowering, body: Body, borders: Vec<Piece>, places: &[Place], value: ValueId) -> Launch {
    let (mut reads, mut writes) = (vec![], vec![]);
    visit_buffers(&body, &borders, &mut |b, written| {
        let list = if written { &mut writes } else { &mut reads };
        if !list.contains(&b) {
            list.push(b);
        }
    });
    reads.retain(|b| !writes.contains(b));
    let order: Vec<BufferId> = reads.iter().chain(&writes).copied().collect();
    let buffers = order.iter().map(|b| lowering.describe(&places[b.0], writes.contains(b))).collect();
    let number = |b: BufferId| BufferId(order.iter().position(|o| *o == b).unwrap_or(usize::MAX));
    Launch {
        kernel: Kernel { buffers, body: with_buffers(body, &number), borders: pieces_with(&borders, &number) },
        places: order.iter().map(|b| places[b.0].clone()).collect(),
        name: lowering.scope.graph().value(value).name.clone(),
    }
}

impl Lowering<'_> {
    fn describe(&self, place: &Place, written: bool) -> Buffer {
        let graph = self.scope.graph();
        let (name, dtype): (Arc<str>, _) = match place {
            Place::Value(v) => (graph.value(*v).name.clone(), graph.ty(*v).dtype),
            Place::Result(i) => (graph.value(graph.results[*i]).name.clone(), graph.ty(graph.results[*i]).dtype),
            Place::Scratch(i) => (self.lowered.scratch[*i].name.as_str().into(), self.lowered.scratch[*i].dtype),
            Place::Data(i) => self.lowered.data[*i].describe(),
            Place::Table(table) => ("table".into(), table.dtype()),
        };
        Buffer { name, dtype, written }
    }

    /// The type of the elements at a place.
    pub fn dtype(&self, place: &Place) -> DType {
        self.describe(place, false).dtype
    }
}

/// Pieces over `from`, in terms of the buffers of a kernel that gets those it lacks.
pub fn beside(pieces: &[Piece], from: &[Place], places: &mut Vec<Place>) -> Vec<Piece> {
    let number = |place: &Place| {
        places.iter().position(|p| p == place).unwrap_or_else(|| {
            places.push(place.clone());
            places.len() - 1
        })
    };
    let numbers: Vec<usize> = from.iter().map(number).collect();
    pieces_with(pieces, &|b| BufferId(numbers[b.0]))
}

/// Pieces with other numbers for their buffers.
fn pieces_with(pieces: &[Piece], number: &dyn Fn(BufferId) -> BufferId) -> Vec<Piece> {
    let (same_dim, same_name) = (|d: &Dim| d.clone(), |n: &Arc<str>| n.clone());
    let mut rewrite = Rewrite::new(&same_dim, number, &same_name);
    pieces.iter().map(|p| Piece { axes: p.axes.clone(), block: rewrite.block(&p.block) }).collect()
}

/// Calls `f` with every buffer a body and its borders name, and whether it is written there.
fn visit_buffers(body: &Body, borders: &[Piece], f: &mut impl FnMut(BufferId, bool)) {
    use crate::kernel::ExprKind;
    let mut exprs = vec![];
    let mut stores = vec![];
    let mut take = |b: &Block| {
        exprs.extend(b.exprs().cloned());
        stores.extend(b.stores.iter().map(|s| s.buffer));
    };
    borders.iter().for_each(|p| take(&p.block));
    match body {
        Body::Map(map) => map.pieces.iter().for_each(|p| take(&p.block)),
        Body::Rows(rows) => {
            rows.passes.iter().for_each(|p| take(&p.block));
            exprs.extend(rows.passes.iter().flat_map(|p| &p.reduces).map(|r| r.value.clone()));
        }
        Body::Contract(contracts) => contracts.iter().for_each(|c| {
            f(c.a.0, false);
            f(c.b.buffer(), false);
            take(&c.epilogue);
        }),
        Body::Winograd(w) => {
            f(w.a.0, false);
            f(w.weights, false);
            take(&w.epilogue);
        }
        Body::Chain(c) => {
            [c.q.0, c.k.0, c.v.0].into_iter().for_each(|b| f(b, false));
            take(&c.score_block());
            take(&c.epilogue);
            exprs.push(c.score.clone());
        }
        Body::Recur(r) => {
            let reads = [Some(r.gates), Some(r.weights), r.bias, Some(r.h0), r.c0];
            reads.into_iter().flatten().for_each(|b| f(b, false));
            [Some(r.y), Some(r.h), r.c].into_iter().flatten().for_each(|b| f(b, true));
        }
        Body::Serial(serial) => serial.nests.iter().for_each(|nest| take(&nest.piece.block)),
        Body::TopK(t) => {
            f(t.x, false);
            [t.values, t.indices].into_iter().for_each(|b| f(b, true));
        }
    }
    super::exprs::visit_shared(&exprs, &mut |e| {
        if let ExprKind::Load(b, _) = &*e.kind {
            f(*b, false);
        }
    });
    stores.into_iter().for_each(|b| f(b, true));
}

/// The body with other numbers for its buffers.
pub fn with_buffers(body: Body, number: &dyn Fn(BufferId) -> BufferId) -> Body {
    use crate::kernel::{Chain, Contract, Map, Nest, Pass, Recur, Reduce, Rows, Serial, TopK, Winograd};
    let (same_dim, same_name) = (|d: &Dim| d.clone(), |n: &Arc<str>| n.clone());
    let mut rewrite = Rewrite::new(&same_dim, number, &same_name);
    match body {
        Body::Map(map) => Body::Map(Map { pieces: pieces_with(&map.pieces, number) }),
        Body::Rows(rows) => {
            let mut pass = |p: &Pass| Pass {
                over_row: p.over_row,
                block: rewrite.block(&p.block),
                reduces: p.reduces.iter().map(|r| Reduce { value: rewrite.expr(&r.value), ..r.clone() }).collect(),
            };
            let passes = rows.passes.iter().map(&mut pass).collect();
            Body::Rows(Rows { passes, ..rows })
        }
        Body::Contract(contracts) => {
            let mut renumbered = |c: Contract| {
                let b = c.b.moved(number(c.b.buffer()), c.b.offset().clone());
                Contract { a: (number(c.a.0), c.a.1), b, epilogue: rewrite.block(&c.epilogue), ..c }
            };
            Body::Contract(contracts.into_iter().map(&mut renumbered).collect())
        }
        Body::Winograd(w) => {
            Body::Winograd(Winograd { a: (number(w.a.0), w.a.1), weights: number(w.weights), epilogue: rewrite.block(&w.epilogue), ..w })
        }
        Body::Chain(c) => {
            let lets = rewrite.block(&c.score_block()).lets;
            let [q, k, v] = [&c.q, &c.k, &c.v].map(|(b, d)| (number(*b), d.clone()));
            Body::Chain(Chain { q, k, v, lets, score: rewrite.expr(&c.score), epilogue: rewrite.block(&c.epilogue), ..c })
        }
        Body::Recur(r) => Body::Recur(Recur {
            gates: number(r.gates),
            weights: number(r.weights),
            bias: r.bias.map(number),
            h0: number(r.h0),
            c0: r.c0.map(number),
            y: number(r.y),
            h: number(r.h),
            c: r.c.map(number),
            ..r
        }),
        Body::Serial(serial) => {
            let nest = |nest: &Nest| {
                let piece = Piece { axes: nest.piece.axes.clone(), block: rewrite.block(&nest.piece.block) };
                Nest { piece, lanes: nest.lanes }
            };
            Body::Serial(Serial { nests: serial.nests.iter().map(nest).collect(), ..serial })
        }
        Body::TopK(t) => Body::TopK(TopK { x: number(t.x), values: number(t.values), indices: number(t.indices), ..t }),
    }
}
