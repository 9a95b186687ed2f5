//! Turns squares of elements in registers where a map reads along another axis than it writes.
//!
//! A piece whose lane axis has stride 1 in its stores but not in a load, while another axis has stride 1 in that load, is done
//! in squares of `lanes` by `lanes` points: the load reads vectors along the other axis, a network of shuffles turns them, and
//! the block runs once per row of the square, finding its loads done. **Invariant.** Only elements that some point of the piece
//! reads are touched; at the edges vectors are masked.
//!
//! ```text
//! for y in steps of 16: for x in steps of 16:
//!     columns[x] = load in[x*pitch + y ..]       16 loads
//!     rows = turn(columns)                       4 shuffles per vector
//!     out[y*width + x ..] = f(rows[y])           16 stores
//! ```

use super::emit::Value;
use super::map::weight;
use super::ops::widened;
use super::point::Point;
use super::scope::{Gen, Run};
use crate::kernel::{Axis, BufferId, Expr, ExprKind, Piece};
use egret_ir::Dim;
use inkwell::values::IntValue;

/// A block of more instructions than this is not repeated for every row of a square.
const MOST_WEIGHT: usize = 48;

/// A load of which the lanes are not neighbours.
type Load = (BufferId, Dim);

/// The axis to read along, by its position, and the loads that it makes contiguous.
pub(crate) fn turned_axis(piece: &Piece, lanes: usize) -> Option<(usize, Vec<Load>)> {
    let (lane, outer) = piece.axes.split_last()?;
    let fits = |axis: &Axis| axis.extent.as_const().is_none_or(|n| n >= lanes as i64 / 4);
    let stride = |d: &Dim, axis: &Axis| d.linear_in(&axis.name).map(|(stride, _)| stride);
    let contiguous = |d: &Dim| stride(d, lane).is_some_and(|s| s.is(1));
    if !piece.block.lets.is_empty()
        || !piece.block.stores.iter().all(|s| contiguous(&s.offset))
        || weight(piece.block.exprs()) > MOST_WEIGHT
    {
        return None;
    }
    let mut loads = vec![];
    piece.block.exprs().for_each(|e| collect_loads(e, &mut loads));
    loads.retain(|(_, d)| stride(d, lane).is_some_and(|s| !s.is(0) && !s.is(1)));
    let served = |axis: &Axis| loads.iter().filter(|(_, d)| stride(d, axis).is_some_and(|s| s.is(1))).cloned().collect::<Vec<Load>>();
    let best = outer.iter().enumerate().rev().filter(|(_, a)| fits(a)).map(|(i, a)| (i, served(a))).max_by_key(|(i, l)| (l.len(), *i))?;
    (!best.1.is_empty()).then_some(best)
}

fn collect_loads(expr: &Expr, loads: &mut Vec<Load>) {
    expr.visit(&mut |e| {
        if let ExprKind::Load(buffer, d) = &*e.kind
            && !loads.contains(&(*buffer, d.clone()))
        {
            loads.push((*buffer, d.clone()));
        }
    });
}

/// How far squares reach along an axis: all of a vector, or a number of elements that is known now.
#[derive(Clone, Copy)]
struct Square {
    /// Rows: points of the turned axis.
    rows: usize,
    /// Columns: lanes.
    columns: usize,
}

impl<'c> Gen<'_, 'c> {
    /// A stretch of the lane axis at the current block of the turned axis.
    pub(crate) fn turned(&mut self, piece: &Piece, axis: &Axis, block: &Axis, loads: &[Load], bounds: (IntValue<'c>, IntValue<'c>)) {
        let lanes = self.e.lanes as i64;
        let range = self.axis_range(axis);
        let start = self.index(&(block.index() * lanes));
        let whole = self.index(&axis.extent.floor_div(&lanes.into()));
        let at = self.index(&block.index());
        let full = self.e.icmp(inkwell::IntPredicate::SLT, at.into(), whole.into()).into_int_value();
        self.when(full, |g| g.once(&axis.name, start, range, |g| g.squares(piece, axis, loads, lanes as usize, bounds)));
        let rest = axis.extent.modulo(&lanes.into());
        if rest.is(0) {
            return;
        }
        let last = self.e.not(full.into()).into_int_value();
        self.when(last, |g| match rest.as_const() {
            Some(rest) => g.once(&axis.name, start, range, |g| g.squares(piece, axis, loads, rest as usize, bounds)),
            None => {
                let end = g.index(&axis.extent);
                g.repeat(&axis.name, Run { start, end, step: 1, certain: false, range }, vec![], |g, _| {
                    g.straight(piece, bounds);
                    vec![]
                });
            }
        });
    }

    /// Squares along the lane axis, then the lanes that do not fill one.
    fn squares(&mut self, piece: &Piece, axis: &Axis, loads: &[Load], rows: usize, (start, end): (IntValue<'c>, IntValue<'c>)) {
        let lane = piece.axes.last().expect("a turned piece has a lane axis");
        let (width, range) = (self.e.lanes as i64, self.axis_range(lane));
        let length = self.e.index_sub(end, start);
        let whole = self.e.index_mul(self.e.index_div(length, self.e.i64(width)), self.e.i64(width));
        let stop = self.e.index_add(start, whole);
        self.repeat(&lane.name, Run { start, end: stop, step: width, certain: false, range }, vec![], |g, _| {
            g.square(piece, axis, loads, Square { rows, columns: width as usize });
            vec![]
        });
        let Some(rest) = lane.extent.as_const().map(|n| n % width) else {
            let points = |g: &mut Self, row: i64| {
                g.lanes_at(lane, (stop, end), |g, p| g.block(&piece.block, vec![p.moved(&axis.name, row)]));
            };
            return (0..rows as i64).for_each(|row| points(self, row));
        };
        if rest == 0 {
            return;
        }
        // With a number as extent the stretch ends at the end of the axis, or has no rest.
        self.repeat(&lane.name, Run { start: stop, end, step: width, certain: false, range }, vec![], |g, _| {
            g.square(piece, axis, loads, Square { rows, columns: rest as usize });
            vec![]
        });
    }

    fn straight(&mut self, piece: &Piece, (start, end): (IntValue<'c>, IntValue<'c>)) {
        let lane = piece.axes.last().expect("a turned piece has a lane axis");
        self.lanes(lane, start, end, 1, |g, points| g.block(&piece.block, points));
    }

    fn lanes_at(&mut self, lane: &Axis, (start, end): (IntValue<'c>, IntValue<'c>), mut body: impl FnMut(&mut Self, Point<'c>)) {
        self.lanes(lane, start, end, 1, |g, mut points| body(g, points.remove(0)));
    }

    /// One square: reads it along the turned axis, turns it, and performs the block for each of its rows.
    fn square(&mut self, piece: &Piece, axis: &Axis, loads: &[Load], size: Square) {
        let lane = &piece.axes.last().expect("a turned piece has a lane axis").name;
        let mask = |g: &Self, n: usize| (n < g.e.lanes).then(|| g.first_lanes(g.e.i64(n as i64).into()));
        let (across, along) = (mask(self, size.columns), mask(self, size.rows));
        for (buffer, d) in loads {
            let dtype = self.kernel.buffers[buffer.0].dtype;
            let vector = self.e.vector_type(self.e.memory_type(dtype), self.e.lanes);
            let mut columns = vec![Value::from(vector.get_poison()); self.e.lanes];
            for (x, column) in columns.iter_mut().take(size.columns).enumerate() {
                let at = d.substitute(&|name| (*name == **lane).then(|| Dim::symbol(lane.clone()) + x as i64));
                let pointer = self.pointer(*buffer, &at);
                *column = match along {
                    None => self.e.load(vector.into(), pointer, dtype.size()),
                    Some(mask) => self.e.masked_load(vector.into(), pointer, mask, dtype.size()),
                };
            }
            let turned = self.turn(columns);
            for (y, row) in turned.into_iter().take(size.rows).enumerate() {
                let at = d.substitute(&|name| (*name == *axis.name).then(|| axis.index() + y as i64));
                let value = widened(&self.e, row, dtype);
                self.top().loads.insert((*buffer, at, across.is_some()), value);
            }
        }
        for y in 0..size.rows as i64 {
            let point = Point::vector(lane, across).moved(&axis.name, y);
            self.block(&piece.block, vec![point]);
        }
    }

    /// The transposition of a square of vectors: 1, then 2 elements change places within 128 bits, then whole 128 bits.
    pub(crate) fn turn(&self, rows: Vec<Value<'c>>) -> Vec<Value<'c>> {
        let lanes = self.e.lanes;
        let groups = |pick: &dyn Fn(usize) -> [usize; 4]| -> Vec<usize> { (0..lanes / 4).flat_map(|g| pick(4 * g)).collect() };
        let pairs = [groups(&|g| [g, lanes + g, g + 1, lanes + g + 1]), groups(&|g| [g + 2, lanes + g + 2, g + 3, lanes + g + 3])];
        let fours = [groups(&|g| [g, g + 1, lanes + g, lanes + g + 1]), groups(&|g| [g + 2, g + 3, lanes + g + 2, lanes + g + 3])];
        // Vector k of four rows then holds, in its m-th 128 bits, the elements 4m + k of these rows.
        let mut quads: Vec<Vec<Value>> = vec![];
        for four in rows.chunks(4) {
            let low = [0, 2].map(|i| self.e.shuffle(four[i], four[i + 1], &pairs[0]));
            let high = [0, 2].map(|i| self.e.shuffle(four[i], four[i + 1], &pairs[1]));
            quads.push([low, high].iter().flat_map(|x| [0, 1].map(|i| self.e.shuffle(x[0], x[1], &fours[i]))).collect());
        }
        let mut turned = vec![rows[0]; lanes];
        for k in 0..4 {
            let blocks = self.turn_blocks(quads.iter().map(|q| q[k]).collect());
            blocks.into_iter().enumerate().for_each(|(m, v)| turned[4 * m + k] = v);
        }
        turned
    }

    /// The transposition of a square of 128-bit blocks of four elements.
    fn turn_blocks(&self, rows: Vec<Value<'c>>) -> Vec<Value<'c>> {
        let lanes = self.e.lanes;
        let from = |picks: &[(usize, usize)]| -> Vec<usize> {
            picks.iter().flat_map(|&(v, b)| (0..4).map(move |i| v * lanes + 4 * b + i)).collect()
        };
        let shuffle = |x, y, picks: &[(usize, usize)]| self.e.shuffle(x, y, &from(picks));
        match rows.as_slice() {
            [_] => rows,
            &[x, y] => vec![shuffle(x, y, &[(0, 0), (1, 0)]), shuffle(x, y, &[(0, 1), (1, 1)])],
            &[a, b, c, d] => {
                let (even, odd) = ([(0, 0), (0, 2), (1, 0), (1, 2)], [(0, 1), (0, 3), (1, 1), (1, 3)]);
                let (ab, cd) = ([shuffle(a, b, &even), shuffle(a, b, &odd)], [shuffle(c, d, &even), shuffle(c, d, &odd)]);
                let firsts = [(0, 0), (0, 2), (1, 0), (1, 2)];
                let seconds = [(0, 1), (0, 3), (1, 1), (1, 3)];
                vec![
                    shuffle(ab[0], cd[0], &firsts),
                    shuffle(ab[1], cd[1], &firsts),
                    shuffle(ab[0], cd[0], &seconds),
                    shuffle(ab[1], cd[1], &seconds),
                ]
            }
            other => unreachable!("no vectors of {} times 128 bits of f32", other.len()),
        }
    }
}
