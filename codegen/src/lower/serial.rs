//! Running sums and products, and scattering: points done in order, each of which may need what one before it wrote.
//!
//! ```text
//! y = cumsum[axis=0](x)              =>   serial { y[0] = x[0];  for t in N - 1: y[t + 1] = y[t] + x[t + 1] }
//! y = scatter_nd[mode=add](x, i, u)  =>   map { y = x }  serial { for n in N: let t = i[n]; for s in S: y[S*t + s] += u[S*n + s] }
//! ```
//!
//! An index outside its axis changes nothing: no update goes to its place or to another.

use super::domain::linear;
use super::exprs::{bin, cast, index, select};
use super::{Failure, Lowering};
use crate::kernel::{Axis, Block, Body, BufferId, Expr, ExprKind, Let, Map, Nest, Piece, Serial, Store};
use egret_ir::attr::ScatterMode;
use egret_ir::scalar::BinOp;
use egret_ir::{DType, Dim, Node, Op, TensorType};
use std::sync::Arc;

/// What every point of a running sum or product does.
struct Running {
    axis: usize,
    exclusive: bool,
    reverse: bool,
    combine: BinOp,
    neutral: f64,
}

/// Whether an op is done in order. Sums of 16 bits are kept in 32, so those are not rounded step by step.
pub(super) fn is_serial(op: &Op, x: &TensorType) -> bool {
    let in_order = matches!(op, Op::cumsum { .. } | Op::cumprod { .. } | Op::scatter_elements { .. } | Op::scatter_nd { .. });
    let moves = matches!(op, Op::scatter_elements { mode, .. } | Op::scatter_nd { mode } if *mode == ScatterMode::Replace);
    in_order && (moves || x.dtype.wide() == x.dtype)
}

impl Lowering<'_> {
    /// Adds the launches of such an op.
    pub(super) fn serial(&mut self, node: &Node) -> Result<(), Failure> {
        match &node.op {
            Op::cumsum { axis, exclusive, reverse } => {
                self.running(node, Running { axis: *axis, exclusive: *exclusive, reverse: *reverse, combine: BinOp::Add, neutral: 0.0 })
            }
            Op::cumprod { axis, exclusive, reverse } => {
                self.running(node, Running { axis: *axis, exclusive: *exclusive, reverse: *reverse, combine: BinOp::Mul, neutral: 1.0 })
            }
            Op::scatter_elements { axis, mode } => {
                let [x, indices] = self.types(node, [0, 1]);
                self.scatter(node, Scatter::of_elements(&x, &indices, *axis, *mode))
            }
            Op::scatter_nd { mode } => {
                let [x, indices] = self.types(node, [0, 1]);
                let scatter = Scatter::of_slices(&x, &indices, *mode);
                self.scatter(node, scatter.ok_or_else(|| refused(node, "expects index tuples of a length that is a number"))?)
            }
            _ => Err(refused(node, "it is not done in order")),
        }
    }

    /// The types of some operands.
    fn types<const N: usize>(&self, node: &Node, which: [usize; N]) -> [TensorType; N] {
        which.map(|i| self.scope.region.graph.ty(node.operands[i]).clone())
    }

    fn running(&mut self, node: &Node, running: Running) -> Result<(), Failure> {
        let [x] = self.types(node, [0]);
        let product = |dims: &[Dim]| dims.iter().cloned().product::<Dim>();
        let (outer, extent, inner) = (product(&x.dims[..running.axis]), x.dims[running.axis].clone(), product(&x.dims[running.axis + 1..]));
        let outer = Axis::new("%outer", outer);
        let serial = Serial { axes: vec![outer.clone()], nests: running.nests(x.dtype, &outer, &extent, &inner).into() };
        let buffers = vec![self.in_memory(node, node.operands[0])?, self.destination(node.results[0])];
        self.launch(Body::Serial(serial), vec![], &buffers, node.results[0]);
        Ok(())
    }

    /// The copy of `x`, then the updates in order.
    fn scatter(&mut self, node: &Node, scatter: Scatter) -> Result<(), Failure> {
        let [x, indices, updates] = [0, 1, 2].map(|i| self.in_memory(node, node.operands[i]));
        let y = self.destination(node.results[0]);
        self.launch(scatter.copy(), vec![], &[x?, y.clone()], node.results[0]);
        self.launch(Body::Serial(scatter.updates()), vec![], &[indices?, updates?, y], node.results[0]);
        Ok(())
    }
}

fn refused(node: &Node, reason: &str) -> Failure {
    Failure { value: node.results[0], reason: reason.to_string() }
}

fn load(dtype: DType, buffer: usize, offset: Dim) -> Expr {
    Expr::new(dtype, ExprKind::Load(BufferId(buffer), offset))
}

fn one_store(buffer: usize, offset: Dim, value: Expr) -> Block {
    Block { lets: vec![], stores: vec![Store { buffer: BufferId(buffer), offset, value }] }
}

impl Running {
    /// The first element of every row, then all others, each from the one before it.
    fn nests(&self, dtype: DType, outer: &Axis, extent: &Dim, inner: &Dim) -> [Nest; 2] {
        // Without neighbours within a step there is one point after the other.
        let lanes = !inner.is(1);
        let inside = |within: &Axis| if lanes { within.index() } else { Dim::ZERO };
        let at = |t: &Dim, within: &Axis| (outer.index() * extent.clone() + t.clone()) * inner.clone() + inside(within);
        let (within, first) = (Axis::new("%first.within", inner.clone()), if self.reverse { extent.clone() - 1 } else { Dim::ZERO });
        let start = if self.exclusive { Expr::literal(self.neutral, dtype) } else { load(dtype, 0, at(&first, &within)) };
        // No row of no elements has a first one.
        let any = Axis::new("%any", extent.minimum(&Dim::ONE));
        let start = Piece { axes: vec![any, within.clone()], block: one_store(1, at(&first, &within), start) };
        let (step, within) = (Axis::new("%step", (extent.clone() - 1).maximum(&Dim::ZERO)), Axis::new("%within", inner.clone()));
        let (before, now) = match self.reverse {
            false => (step.index(), step.index() + 1),
            true => (extent.clone() - 1 - step.index(), extent.clone() - 2 - step.index()),
        };
        let added = load(dtype, 0, at(if self.exclusive { &before } else { &now }, &within));
        let sum = bin(self.combine, &load(dtype, 1, at(&before, &within)), &added);
        let rest = one_store(1, at(&now, &within), sum);
        let axes = if lanes { vec![step, within] } else { vec![step] };
        [Nest { piece: start, lanes: true }, Nest { piece: Piece { axes, block: rest }, lanes }]
    }
}

/// Updates of places that indices name.
struct Scatter {
    dtype: DType,
    index_type: DType,
    mode: ScatterMode,
    /// Elements of `x`.
    count: Dim,
    /// Loops whose points update different places, around all others.
    apart: Vec<Axis>,
    /// Loops over the updates, in order.
    updates: Vec<Axis>,
    /// Whether the points of the innermost loop update different places.
    lanes: bool,
    /// Of every part of an index: where it lies, and the extent that it counts in.
    parts: Vec<(Dim, Dim)>,
    /// Where the update lies.
    from: Dim,
    /// Where it goes, in terms of the [parts](part) of the index.
    to: Dim,
}

/// A part of an index as a symbol.
fn part(i: usize) -> Arc<str> {
    format!("%t{i}").into()
}

impl Scatter {
    /// One index for each element, along an axis.
    fn of_elements(x: &TensorType, indices: &TensorType, axis: usize, mode: ScatterMode) -> Scatter {
        let loops: Vec<Axis> = indices.dims.iter().enumerate().map(|(i, d)| Axis::new(format!("%u{i}"), d.clone())).collect();
        let at: Vec<Dim> = loops.iter().map(Axis::index).collect();
        let from = linear(&indices.dims, &at);
        let mut updates = loops.clone();
        let apart = updates.drain(..axis).collect();
        let mut to = at;
        to[axis] = Dim::symbol(part(0));
        Scatter {
            dtype: x.dtype,
            index_type: indices.dtype,
            mode,
            count: x.count(),
            apart,
            lanes: updates.len() > 1,
            updates,
            parts: vec![(from.clone(), x.dims[axis].clone())],
            from,
            to: linear(&x.dims, &to),
        }
    }

    /// A tuple of indices for each slice. `None` if the tuples have no length that is known.
    fn of_slices(x: &TensorType, indices: &TensorType, mode: ScatterMode) -> Option<Scatter> {
        let (length, tuples) = indices.dims.split_last()?;
        let length = length.as_const()? as usize;
        let (count, slice) = (tuples.iter().cloned().product::<Dim>(), x.dims[length..].iter().cloned().product::<Dim>());
        let (update, within) = (Axis::new("%update", count), Axis::new("%within", slice.clone()));
        let parts = (0..length).map(|i| (update.index() * length as i64 + i as i64, x.dims[i].clone())).collect();
        let lanes = !slice.is(1);
        let inside = if lanes { within.index() } else { Dim::ZERO };
        let from = update.index() * slice.clone() + inside.clone();
        let tuple: Vec<Dim> = (0..length).map(|i| Dim::symbol(part(i))).collect();
        Some(Scatter {
            dtype: x.dtype,
            index_type: indices.dtype,
            mode,
            count: x.count(),
            apart: vec![],
            updates: if lanes { vec![update, within] } else { vec![update] },
            lanes,
            parts,
            from,
            to: linear(&x.dims[..length], &tuple) * slice + inside,
        })
    }

    fn copy(&self) -> Body {
        let all = Axis::new("%all", self.count.clone());
        let block = one_store(1, all.index(), load(self.dtype, 0, all.index()));
        Body::Map(Map { pieces: vec![Piece { axes: vec![all], block }] })
    }

    /// Over the indices, the updates and the result.
    fn updates(&self) -> Serial {
        let (mut lets, mut inside) = (vec![], None);
        for (i, (at, extent)) in self.parts.iter().enumerate() {
            let given = cast(&load(self.index_type, 0, at.clone()), DType::I64);
            let zero = Expr::literal(0.0, DType::I64);
            let from_end = bin(BinOp::Add, &given, &index(extent, DType::I64));
            let value = select(&bin(BinOp::Lt, &given, &zero), &from_end, &given);
            let is_inside = bin(BinOp::And, &bin(BinOp::Le, &zero, &value), &bin(BinOp::Lt, &value, &index(extent, DType::I64)));
            inside = Some(inside.map_or(is_inside.clone(), |others| bin(BinOp::And, &others, &is_inside)));
            lets.push(Let { name: part(i), value, extent: extent.clone() });
        }
        let (old, update) = (load(self.dtype, 2, self.to.clone()), load(self.dtype, 1, self.from.clone()));
        let new = combined(self.mode, &old, &update);
        let value = inside.map_or(new.clone(), |inside| select(&inside, &new, &old));
        let stores = vec![Store { buffer: BufferId(2), offset: self.to.clone(), value }];
        let piece = Piece { axes: self.updates.clone(), block: Block { lets, stores } };
        Serial { axes: self.apart.clone(), nests: vec![Nest { piece, lanes: self.lanes }] }
    }
}

fn combined(mode: ScatterMode, old: &Expr, update: &Expr) -> Expr {
    match mode {
        ScatterMode::Replace => update.clone(),
        ScatterMode::Add => bin(BinOp::Add, old, update),
        ScatterMode::Mul => bin(BinOp::Mul, old, update),
        ScatterMode::Max => bin(BinOp::Max, old, update),
        ScatterMode::Min => bin(BinOp::Min, old, update),
    }
}
