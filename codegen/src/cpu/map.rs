//! Elementwise work and data movement: loop nests whose innermost axis runs over the lanes.
//!
//! ```text
//! for this part's points of the outer axes:
//!     for i1 in steps of 4 vectors: store f(load ...)     main loop
//!     for i1 in steps of 1 vector:  store f(load ...)     what is left
//!     the last lanes, masked
//! ```

use super::emit::Value;
use super::point::Point;
use super::scope::{Gen, Run};
use super::split::{self, Form, LANE_BLOCK};
use crate::kernel::{Axis, Block, Expr, ExprKind, Piece};
use egret_ir::Dim;
use egret_ir::dim::Atom;
use egret_ir::scalar::{BinOp, UnOp};
use inkwell::values::IntValue;
use std::collections::HashSet;
use std::sync::Arc;

/// Vectors per round of the main loop, for light blocks: four loads in flight hide the latency of the caches.
const MOST_VECTORS: usize = 4;

/// A round of the main loop has at most about this many instructions' worth of work, so that intermediate values stay in
/// registers.
const ROUND_WEIGHT: usize = 64;

impl<'c> Gen<'_, 'c> {
    /// Emits the nests of a map kernel, or the borders of another.
    pub(crate) fn pieces(&mut self, pieces: &[Piece]) {
        for piece in pieces {
            let extents: Vec<_> = piece.axes.iter().map(|a| a.extent.clone()).collect();
            self.unless_empty(&extents, |g| {
                let axes = split::piece_axes(piece, g.e.lanes);
                g.for_part(&axes.outer, |g| match &axes.lane {
                    None => g.block(&piece.block, vec![Point::scalar()]),
                    Some(lane) => {
                        let bounds = g.lane_bounds(lane, axes.block.as_ref());
                        g.piece_lanes(piece, lane, &axes.form, bounds);
                    }
                });
            });
        }
    }

    /// A stretch of the lane axis.
    fn piece_lanes(&mut self, piece: &Piece, lane: &Axis, form: &Form, (start, end): (IntValue<'c>, IntValue<'c>)) {
        match form {
            Form::Straight => self.lanes(lane, start, end, vectors_for(&piece.block), |g, points| g.block(&piece.block, points)),
            Form::Turned(t) => self.turned(piece, &t.axis, &t.block, &t.loads, (start, end)),
            Form::Woven(short) => self.lanes(lane, start, end, 1, |g, points| points.iter().for_each(|p| g.woven(piece, short, p, end))),
        }
    }

    /// The stretch of the lane axis that the current unit does.
    pub(crate) fn lane_bounds(&mut self, lane: &Axis, block: Option<&Axis>) -> (IntValue<'c>, IntValue<'c>) {
        let extent = self.index(&lane.extent);
        match block {
            None => (self.e.i64(0), extent),
            Some(block) => {
                let start = self.index(&(block.index() * LANE_BLOCK));
                let end = self.e.index_add(start, self.e.i64(LANE_BLOCK));
                (start, self.e.imin(end.into(), extent.into(), true).into_int_value())
            }
        }
    }

    /// Runs `body` over `start..end` of an axis with vectors: many at a time, then one, then the last lanes.
    pub(crate) fn lanes(
        &mut self,
        lane: &Axis,
        start: IntValue<'c>,
        end: IntValue<'c>,
        vectors: usize,
        mut body: impl FnMut(&mut Self, Vec<Point<'c>>),
    ) {
        self.lanes_carrying(lane, (start, end), vectors, vec![], |g, points, carried| {
            body(g, points);
            carried
        });
    }

    /// The same with values that go around, as many for each of the vectors; where vectors come one by one, it is those of
    /// the first that do.
    pub(crate) fn lanes_carrying(
        &mut self,
        lane: &Axis,
        (start, end): (IntValue<'c>, IntValue<'c>),
        vectors: usize,
        mut carried: Vec<Value<'c>>,
        mut body: impl FnMut(&mut Self, Vec<Point<'c>>, Vec<Value<'c>>) -> Vec<Value<'c>>,
    ) -> Vec<Value<'c>> {
        let width = self.e.lanes as i64;
        let range = self.axis_range(lane);
        let each = carried.len() / vectors;
        let mut at = start;
        let mut counts = vec![vectors, 1];
        counts.dedup();
        for count in counts {
            let step = width * count as i64;
            let length = self.e.index_sub(end, at);
            let whole = self.e.index_mul(self.e.index_div(length, self.e.i64(step)), self.e.i64(step));
            let stop = self.e.index_add(at, whole);
            let now = carried[..count * each].to_vec();
            let next = self.repeat(&lane.name, Run { start: at, end: stop, step, certain: false, range }, now, |g, carried| {
                let points = (0..count as i64).map(|j| Point::vector(&lane.name, None).moved(&lane.name, j * width));
                body(g, points.collect(), carried)
            });
            carried.splice(..count * each, next);
            at = stop;
        }
        // The lanes that do not fill a vector: a loop that runs once at most.
        let now = carried[..each].to_vec();
        let next = self.repeat(&lane.name, Run { start: at, end, step: width, certain: false, range }, now, |g, carried| {
            let left = g.e.index_sub(end, g.symbol(&lane.name).value);
            let mask = g.first_lanes(left.into());
            body(g, vec![Point::vector(&lane.name, Some(mask))], carried)
        });
        carried.splice(..each, next);
        carried
    }
}

/// How many vectors of a block one round of the main loop does.
pub(crate) fn vectors_for(block: &Block) -> usize {
    (ROUND_WEIGHT / weight(block.exprs()).max(1)).clamp(1, MOST_VECTORS)
}

/// About how many instructions expressions take, shared ones counted once.
pub(crate) fn weight<'e>(exprs: impl Iterator<Item = &'e Expr>) -> usize {
    let mut seen = HashSet::new();
    exprs.map(|e| node_weight(e, &mut seen)).sum()
}

fn node_weight(expr: &Expr, seen: &mut HashSet<*const ExprKind>) -> usize {
    if !seen.insert(Arc::as_ptr(&expr.kind)) {
        return 0;
    }
    let own = match &*expr.kind {
        ExprKind::Const(_) | ExprKind::Var(_) => 0,
        ExprKind::Load(_, d) | ExprKind::Index(d) if !is_affine(d) => 8,
        ExprKind::Load(..) | ExprKind::Index(_) | ExprKind::Select(..) | ExprKind::Cast(_) | ExprKind::Bits(_) => 1,
        ExprKind::Un(op, _) => match op {
            UnOp::Neg | UnOp::Abs | UnOp::Sign | UnOp::Not | UnOp::Sqrt | UnOp::Floor | UnOp::Ceil | UnOp::Round | UnOp::IsNan => 1,
            UnOp::Exp => 16,
            UnOp::Log | UnOp::Tanh | UnOp::Erf => 32,
            _ => 64,
        },
        ExprKind::Bin(op, x, _) => match op {
            BinOp::Pow | BinOp::Mod | BinOp::Rem => 64,
            BinOp::Div if x.dtype.is_int() => 16,
            _ => 1,
        },
    };
    own + expr.operands().into_iter().map(|o| node_weight(o, seen)).sum::<usize>()
}

/// Whether an index is a sum of products of symbols, which costs nothing in a loop.
fn is_affine(d: &Dim) -> bool {
    d.terms().iter().flat_map(|t| &t.atoms).all(|a| matches!(a, Atom::Symbol(_)))
}
