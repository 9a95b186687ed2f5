//! Reductions, norms, softmax, pooling and depthwise convolution: passes over the reduced axes for every row.
//!
//! With the lanes inside, a pass keeps several vectors of partial results per statistic, and ends by combining the lanes; a
//! statistic is then a scalar. With the lanes outside every lane is a row of its own: statistics are vectors, several
//! neighbouring rows are done together so that they share loads, and short reduced axes are unrolled.
//! **Invariant.** The order in which elements combine depends on the target and the extents only.
//!
//! ```text
//! lanes inside                          lanes outside, tile 7, 3x3 taps
//! for i: m = -inf (4 vectors)           for oh: for c in vectors: for ow in steps of 7:
//!        for j: m = max(m, x[i, j])         acc[0..7] = 0
//!        max = combine(m)                   for each tap: w; acc[t] = fma(x[oh+kh, ow+t+kw, c], w, acc[t])
//!        ...                                out[oh, ow+t, c] = acc[t]
//! ```

use super::emit::{Emit, Value};
use super::map::weight;
use super::ops::extreme;
use super::point::Point;
use super::scope::{Gen, Run};
use super::split;
use super::taps::Quads;
use crate::kernel::{Axis, Expr, ExprKind, Fold, Pass, Reduce, Rows};
use egret_ir::DType;
use egret_ir::scalar::BinOp;
use inkwell::FloatPredicate;
use inkwell::values::IntValue;

/// Vectors of partial results per statistic: enough to hide the latency of an addition.
const PARTIAL_VECTORS: usize = 4;

/// A round of a pass has at most about this many instructions' worth of work.
const ROUND_WEIGHT: usize = 64;

/// About how many instructions the unrolled points of a pass may take, for all rows done together: 7x7 taps for 7 rows.
const UNROLLED_WEIGHT: usize = 1200;

/// About how many instructions one point may take for all rows done together.
const TILE_WEIGHT: usize = 128;

/// The same for what is done once a row: it stands behind the loop whose speed the number of rows decides, so only the code's size counts.
const ONCE_WEIGHT: usize = 512;

/// Reduced points up to this many are unrolled: 7x7 taps.
const MOST_UNROLLED: i64 = 49;

/// A row of a tile has a sum and a loaded vector that it shares with its neighbours.
const REGISTERS_PER_ROW: usize = 2;

/// The f32s of a cache line: tiles walk over whole lines, so that none is fetched twice.
const CACHE_LINE: usize = 16;

/// Most statistics that are kept for all the rows done together, so that they stay in registers.
const MOST_KEPT: usize = 16;

impl<'c> Gen<'_, 'c> {
    /// Emits a rows kernel.
    pub(crate) fn rows(&mut self, rows: &Rows) {
        let extents: Vec<_> = rows.axes.iter().map(|a| a.extent.clone()).collect();
        self.unless_empty(&extents, |g| {
            let (axes, block) = split::row_axes(rows);
            g.for_part(&axes, |g| match (rows.lanes_outside, rows.axes.last()) {
                (true, Some(lane)) => {
                    let bounds = g.lane_bounds(lane, block.as_ref());
                    g.lane_rows(rows, lane, bounds);
                }
                _ => rows.passes.iter().for_each(|pass| g.pass_inside(rows, pass)),
            });
        });
    }

    // ---- lanes inside

    fn pass_inside(&mut self, rows: &Rows, pass: &Pass) {
        match (pass.over_row, rows.reduced.split_last()) {
            (true, Some((lane, outer))) => self.pass_over_lanes(pass, outer, lane),
            _ => {
                let mut point = Point::scalar();
                self.lets(&mut point, &pass.block.lets);
                let values: Vec<Value> = pass.reduces.iter().map(|r| self.eval(&mut point, &r.value)).collect();
                self.stores(&pass.block, vec![point]);
                for (reduce, value) in pass.reduces.iter().zip(values) {
                    self.top().vars.insert(reduce.var.clone(), value);
                }
            }
        }
    }

    fn pass_over_lanes(&mut self, pass: &Pass, outer: &[Axis], lane: &Axis) {
        let vectors = self.partial_vectors(pass, lane);
        let start: Vec<Value> = pass.reduces.iter().map(|r| self.e.splat(identity(&self.e, r.fold, r.value.dtype))).collect();
        let partial = self.nest_carrying(outer, start.repeat(vectors), &mut |g, carried| {
            let end = g.index(&lane.extent);
            let bounds = (g.e.i64(0), end);
            g.lanes_carrying(lane, bounds, vectors, carried, |g, points, carried| g.fold_points(pass, points, carried))
        });
        for (i, reduce) in pass.reduces.iter().enumerate() {
            let parts = (0..vectors).map(|j| partial[j * pass.reduces.len() + i]).collect();
            let whole = self.combine_all(reduce, parts);
            let value = self.combine_lanes(reduce, whole);
            self.top().vars.insert(reduce.var.clone(), value);
        }
    }

    fn partial_vectors(&self, pass: &Pass, lane: &Axis) -> usize {
        let most = (ROUND_WEIGHT / pass_weight(pass)).clamp(1, PARTIAL_VECTORS);
        let there = lane.extent.as_const().map_or(most, |n| (n as usize / self.e.lanes).max(1));
        most.min(there)
    }

    /// Loops over axes, outermost first, with values that go around all of them.
    pub(crate) fn nest_carrying(
        &mut self,
        axes: &[Axis],
        carried: Vec<Value<'c>>,
        body: &mut dyn FnMut(&mut Self, Vec<Value<'c>>) -> Vec<Value<'c>>,
    ) -> Vec<Value<'c>> {
        let Some((first, rest)) = axes.split_first() else { return body(self, carried) };
        let run = self.whole(first, false);
        self.repeat(&first.name, run, carried, |g, carried| g.nest_carrying(rest, carried, body))
    }

    /// Takes points into account: `carried` has the statistics of each point in turn.
    pub(crate) fn fold_points(&mut self, pass: &Pass, mut points: Vec<Point<'c>>, carried: Vec<Value<'c>>) -> Vec<Value<'c>> {
        let mut next = vec![];
        let count = pass.reduces.len();
        for (n, point) in points.iter_mut().enumerate() {
            self.lets(point, &pass.block.lets);
            for (i, reduce) in pass.reduces.iter().enumerate() {
                let before = carried[n * count + i];
                let after = self.fold_in(point, reduce, before);
                // Lanes beyond the end do not count.
                let mask = point.lane.as_ref().and_then(|l| l.mask);
                next.push(mask.map_or(after, |mask| self.e.select(mask, after, before)));
            }
        }
        self.stores(&pass.block, points);
        next
    }

    fn fold_in(&mut self, point: &mut Point<'c>, reduce: &Reduce, before: Value<'c>) -> Value<'c> {
        if let (Fold::Sum, Some((x, y))) = (reduce.fold, product(&reduce.value)) {
            let (x, y) = (self.eval(point, x), self.eval(point, y));
            return self.e.fma(x, y, before);
        }
        let value = self.eval(point, &reduce.value);
        combine(&self.e, reduce.fold, reduce.value.dtype, before, value)
    }

    /// Several partial results, pairwise.
    pub(crate) fn combine_all(&mut self, reduce: &Reduce, mut parts: Vec<Value<'c>>) -> Value<'c> {
        while parts.len() > 1 {
            parts = parts
                .chunks(2)
                .map(|pair| {
                    pair.iter()
                        .copied()
                        .reduce(|x, y| combine(&self.e, reduce.fold, reduce.value.dtype, x, y))
                        .expect("chunks are not empty")
                })
                .collect();
        }
        parts[0]
    }

    /// The lanes of a vector, halves with halves.
    fn combine_lanes(&mut self, reduce: &Reduce, mut vector: Value<'c>) -> Value<'c> {
        let mut lanes = self.e.lanes;
        while lanes > 1 {
            lanes /= 2;
            let (low, high): (Vec<usize>, Vec<usize>) = ((0..lanes).collect(), (lanes..2 * lanes).collect());
            let (low, high) = (self.e.shuffle(vector, vector, &low), self.e.shuffle(vector, vector, &high));
            vector = combine(&self.e, reduce.fold, reduce.value.dtype, low, high);
        }
        self.e.extract(vector, 0)
    }

    // ---- lanes outside

    /// The rows of a stretch of the lane axis, and all points of the tiled axis.
    fn lane_rows(&mut self, rows: &Rows, lane: &Axis, (start, end): (IntValue<'c>, IntValue<'c>)) {
        let tiled = rows.axes.iter().rev().nth(1).filter(|_| rows.tile > 1);
        let vectors = if tiled.is_some() { (CACHE_LINE / self.e.lanes).max(1) } else { together(rows) };
        self.lanes(lane, start, end, vectors, |g, points| match tiled {
            None => g.passes_at(rows, points),
            Some(axis) => g.tiles(rows, axis, &points),
        });
    }

    /// The points of the tiled axis, `tile` at a time, then those that are left together where that is known.
    fn tiles(&mut self, rows: &Rows, axis: &Axis, points: &[Point<'c>]) {
        let most = most_tiled(rows).clamp(1, self.vregs / REGISTERS_PER_ROW);
        let step = even_tile(axis, rows.tile.min(most)) as i64;
        let whole = axis.extent.floor_div(&step.into());
        let rest = axis.extent.clone() - whole.clone() * step;
        let range = self.axis_range(axis);
        let (stop, end) = (self.index(&(whole * step)), self.index(&axis.extent));
        let steps = match rest.as_const() {
            Some(0) => vec![(self.e.i64(0), stop, step)],
            Some(rest) => vec![(self.e.i64(0), stop, step), (stop, end, rest)],
            None => vec![(self.e.i64(0), stop, step), (stop, end, 1)],
        };
        for (start, end, step) in steps {
            self.repeat(&axis.name, Run { start, end, step, certain: false, range }, vec![], |g, _| {
                for point in points {
                    g.passes_at(rows, (0..step).map(|t| point.renewed().moved(&axis.name, t)).collect());
                }
                vec![]
            });
        }
    }

    /// All passes for rows that are done together.
    fn passes_at(&mut self, rows: &Rows, mut points: Vec<Point<'c>>) {
        for pass in &rows.passes {
            let found = match pass.over_row {
                true => self.pass_over_taps(rows, pass, &points),
                false => {
                    let mut once: Vec<Point> = points.iter().map(Point::renewed).collect();
                    let mut found = vec![];
                    for point in &mut once {
                        self.lets(point, &pass.block.lets);
                        found.extend(pass.reduces.iter().map(|r| self.eval(point, &r.value)).collect::<Vec<_>>());
                    }
                    self.stores(&pass.block, once);
                    found
                }
            };
            let mut found = found.into_iter();
            for point in &mut points {
                for reduce in &pass.reduces {
                    let value = found.next().expect("a value per point and statistic");
                    point.vars.insert(reduce.var.clone(), value);
                }
            }
        }
    }

    fn pass_over_taps(&mut self, rows: &Rows, pass: &Pass, points: &[Point<'c>]) -> Vec<Value<'c>> {
        let most = (UNROLLED_WEIGHT / (points.len() * pass_weight(pass))) as i64;
        let (looped, unrolled) = rows.reduced.split_at(looped_axes(&rows.reduced, most.min(MOST_UNROLLED)));
        let start: Vec<Value> = pass.reduces.iter().map(|r| self.e.splat(identity(&self.e, r.fold, r.value.dtype))).collect();
        let quads = Quads::of(pass).filter(|_| self.e.bytes);
        self.nest_carrying(looped, start.repeat(points.len()), &mut |g, mut carried| {
            if let Some(quads) = &quads {
                return g.quads(quads, points, unrolled, &taps(unrolled), carried);
            }
            for tap in taps(unrolled) {
                let here = |p: &Point<'c>| tap.iter().zip(unrolled).fold(p.renewed(), |p, (&at, axis)| p.fixed(&axis.name, at));
                carried = g.fold_points(pass, points.iter().map(here).collect(), carried);
            }
            carried
        })
    }
}

/// How many points of the tiled axis may be done together.
fn most_tiled(rows: &Rows) -> usize {
    let fits = |pass: &Pass| if pass.over_row { TILE_WEIGHT } else { ONCE_WEIGHT } / pass_weight(pass);
    rows.passes.iter().map(fits).min().unwrap_or(1)
}

/// How many rows along the lanes are done together, in vectors.
fn together(rows: &Rows) -> usize {
    let kept: usize = rows.passes.iter().map(|p| p.reduces.len()).sum();
    (ROUND_WEIGHT / heaviest(rows)).min(MOST_KEPT / kept.max(1)).clamp(1, PARTIAL_VECTORS)
}

/// About how many instructions a point of a pass takes.
fn pass_weight(pass: &Pass) -> usize {
    weight(pass.block.exprs().chain(pass.reduces.iter().map(|r| &r.value))).max(1)
}

/// About how many instructions a point of the longest pass takes.
fn heaviest(rows: &Rows) -> usize {
    rows.passes.iter().map(pass_weight).max().unwrap_or(1)
}

/// The tile, or less where that leaves the last one as large as the others.
fn even_tile(axis: &Axis, tile: usize) -> usize {
    match axis.extent.as_const().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0) {
        Some(n) => n.div_ceil(n.div_ceil(tile)),
        None => tile,
    }
}

/// How many of the outer reduced axes stay loops.
fn looped_axes(axes: &[Axis], most: i64) -> usize {
    let mut product = 1i64;
    for (i, axis) in axes.iter().enumerate().rev() {
        product = product.saturating_mul(axis.extent.as_const().unwrap_or(i64::MAX));
        if product > most {
            return i + 1;
        }
    }
    0
}

/// Every point of axes whose extents are numbers, the last one fastest.
fn taps(axes: &[Axis]) -> Vec<Vec<i64>> {
    axes.iter().fold(vec![vec![]], |taps, axis| {
        let extent = axis.extent.as_const().expect("only axes with a number as extent are unrolled");
        taps.iter().flat_map(|tap| (0..extent).map(|i| [tap.as_slice(), &[i]].concat())).collect()
    })
}

/// The factors of an expression that is a product of floats.
fn product(expr: &Expr) -> Option<(&Expr, &Expr)> {
    match &*expr.kind {
        ExprKind::Bin(BinOp::Mul, x, y) if expr.dtype.is_float() => Some((x, y)),
        _ => None,
    }
}

/// What a fold starts from.
pub(crate) fn identity<'c>(e: &Emit<'c>, fold: Fold, dtype: DType) -> Value<'c> {
    let ty = e.register_type(dtype);
    if dtype.is_float() {
        return e.float_of(
            ty,
            match fold {
                Fold::Sum => 0.0,
                Fold::Prod => 1.0,
                Fold::Max => f64::NEG_INFINITY,
                Fold::Min => f64::INFINITY,
            },
        );
    }
    let bits = 8 * dtype.size() as u32;
    let (low, high) = match dtype {
        DType::Bool => (0, 1),
        t if t.is_signed_int() => (i64::MIN >> (64 - bits), i64::MAX >> (64 - bits)),
        _ => (0, -1),
    };
    e.int_of(
        ty,
        match fold {
            Fold::Sum => 0,
            Fold::Prod => 1,
            Fold::Max => low,
            Fold::Min => high,
        },
    )
}

/// One step of a fold.
pub(crate) fn combine<'c>(e: &Emit<'c>, fold: Fold, dtype: DType, x: Value<'c>, y: Value<'c>) -> Value<'c> {
    let signed = dtype.is_signed_int();
    match (fold, dtype) {
        (Fold::Sum | Fold::Max, DType::Bool) => e.or(x, y),
        (Fold::Prod | Fold::Min, DType::Bool) => e.and(x, y),
        (Fold::Sum, t) if t.is_float() => e.fadd(x, y),
        (Fold::Prod, t) if t.is_float() => e.fmul(x, y),
        (Fold::Max, t) if t.is_float() => extreme(e, FloatPredicate::OGT, x, y, None),
        (Fold::Min, t) if t.is_float() => extreme(e, FloatPredicate::OLT, x, y, None),
        (Fold::Sum, _) => e.add(x, y),
        (Fold::Prod, _) => e.mul(x, y),
        (Fold::Max, _) => e.imax(x, y, signed),
        (Fold::Min, _) => e.imin(x, y, signed),
    }
}
