//! Attention of few queries, as when a language model makes one token: each key is read once.
//!
//! A warp does a few keys at a time, its lanes along the channels: scores are summed by shuffles, and every lane has the weights for
//! its columns of the values. Warps have maxima, sums and totals of their own, which meet in shared memory at the end.
//!
//! ```text
//! for keys 4*warp.. step 32:  s[key] = score(shuffles(q[lane..] * k[key][lane..]));  totals[lane..] = totals*factor + p[key] * v[key][lane..]
//! barrier;   out[row][col] = sum over warps of totals*exp(m - max(m))  /  sum over warps of sum*exp(m - max(m))
//! ```

use super::{Row, greater, is_contiguous, outer_axes, tiled_rows};
use crate::cpu::emit::{Emit, Value};
use crate::cpu::point::Point;
use crate::cpu::scope::{Gen, Run};
use crate::cuda::grid::{THREADS, WARP, singly, thread};
use crate::cuda::product::F32;
use crate::kernel::{Axis, BufferId, Chain};
use egret_ir::Dim;
use inkwell::IntPredicate;
use inkwell::values::PointerValue;

/// Most rows of a block: beyond it tiles of 16 waste less than half of their sums.
const MOST_ROWS: i64 = 8;

/// Most channels of a query or a value: a lane has an eighth of their number in registers.
const MOST_CHANNELS: i64 = 256;

/// Most totals of a warp: with those of all warps they take 32 KB of shared memory.
const MOST_TOTALS: i64 = 1024;

/// Keys of a warp whose loads are in flight together.
const KEYS: i64 = 4;

const WARPS: i64 = (THREADS / WARP) as i64;
const LANES: i64 = WARP as i64;

/// Extents of an attention of few queries.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct Few {
    rows: i64,
    depth: i64,
    cols: i64,
}

impl Few {
    /// The extents, if there are few queries and the channels of keys are neighbours in memory.
    pub(super) fn of(c: &Chain) -> Option<Few> {
        let few = Few { rows: tiled_rows(c).extent.as_const()?, depth: c.depth.extent.as_const()?, cols: c.cols.extent.as_const()? };
        let fits = few.rows <= MOST_ROWS && few.depth.max(few.cols) <= MOST_CHANNELS && few.rows * few.cols <= MOST_TOTALS;
        (fits && is_contiguous(&c.k.1, &c.depth)).then_some(few)
    }

    /// f32s that a warp leaves in shared memory for each row: maximum, sum, totals.
    fn pitch(&self) -> i64 {
        2 + self.cols
    }

    /// Elements that a lane has of so many.
    fn of_lane(channels: i64) -> i64 {
        (channels + LANES - 1) / LANES
    }
}

/// An operand whose elements along an axis the lanes have.
struct Operand<'k> {
    place: &'k (BufferId, Dim),
    axis: &'k Axis,
}

/// What goes around the keys of a warp, for each row.
struct Running<'c> {
    maximum: Value<'c>,
    sum: Value<'c>,
    totals: Vec<Value<'c>>,
}

impl<'c> Gen<'_, 'c> {
    /// Emits the attention of a block of few queries.
    pub(super) fn attend_few(&mut self, c: &Chain, few: &Few, block: &Dim) {
        self.at_point(&singly(&outer_axes(c)), block);
        let tiled = tiled_rows(c);
        let lane = self.named("%lane", &thread().modulo(&LANES.into()), (0, LANES as i128 - 1));
        let warp = self.named("%warp", &thread().floor_div(&LANES.into()), (0, WARPS as i128 - 1));
        let rows: Vec<Row> = (0..few.rows).map(|i| self.row_of_thread(c, &tiled, &i.into())).collect();
        let Some(last) = rows.last() else { return };
        let seen = self.seen_as_index(c, last);
        let operand = Operand { place: &c.q, axis: &c.depth };
        let queries: Vec<Vec<Value>> = rows.iter().map(|row| self.elements_of_lane(&operand, &lane, &[(&tiled, &row.index)])).collect();
        let found = self.keys_of_warp(c, few, [&lane, &warp, &seen], &tiled, &rows, &queries);
        let memory = self.tile_memory(WARPS * few.rows * few.pitch() * F32);
        self.leave(few, memory, [&lane, &warp], found);
        self.e.block_barrier();
        self.meet(c, few, memory, &tiled);
    }

    /// The elements of an operand that the lane has, with some axes at indices; zero beyond the end.
    fn elements_of_lane(&mut self, operand: &Operand, lane: &Dim, at: &[(&Axis, &Dim)]) -> Vec<Value<'c>> {
        let extent = operand.axis.extent.as_const().unwrap_or(0);
        let (buffer, offset) = operand.place;
        let element = |g: &mut Self, i: i64| {
            let channel = lane.clone() + i * LANES;
            let within = (i + 1) * LANES <= extent;
            let held =
                if within { channel.clone() } else { g.named("%channel", &channel.minimum(&(extent - 1).into()), (0, extent as i128 - 1)) };
            let point = at.iter().fold(Point::scalar().fixed(&operand.axis.name, held), |p, (axis, at)| p.fixed(&axis.name, (*at).clone()));
            let value = g.read(&mut point.clone(), *buffer, offset);
            if within {
                return value;
            }
            let channel = g.index(&channel);
            let there = g.e.icmp(IntPredicate::SLT, channel.into(), g.e.i64(extent).into());
            g.e.select(there, value, g.e.float(value, 0.0))
        };
        (0..Few::of_lane(extent)).map(|i| element(self, i)).collect()
    }

    /// What the warp makes of its keys, row by row.
    fn keys_of_warp(
        &mut self,
        c: &Chain,
        few: &Few,
        [lane, warp, seen]: [&Dim; 3],
        tiled: &Axis,
        rows: &[Row<'c>],
        queries: &[Vec<Value<'c>>],
    ) -> Vec<Running<'c>> {
        let (lowest, zero) = (self.f32(f64::from(f32::MIN)), self.f32(0.0));
        let width = 2 + Few::of_lane(few.cols) as usize;
        let start: Vec<Value> = [vec![lowest], vec![zero; width - 1]].concat().repeat(rows.len());
        let (first, end) = (self.index(&(warp.clone() * KEYS)), self.index(seen));
        let run = Run { start: first, end, step: KEYS * WARPS, certain: false, range: self.axis_range(&c.keys) };
        let name = self.fresh("%keys");
        let found = self.repeat(&name, run, start, |g, before| {
            let keys: Vec<Dim> = (0..KEYS).map(|j| Dim::symbol(name.clone()) + j).collect();
            let range = g.axis_range(&c.keys);
            let held: Vec<Dim> = keys.iter().map(|key| g.named("%key", &key.minimum(&(seen.clone() - 1)), range)).collect();
            let elements = |g: &mut Self, place, axis| -> Vec<Vec<Value<'c>>> {
                held.iter().map(|key| g.elements_of_lane(&Operand { place, axis }, lane, &[(&c.keys, key)])).collect()
            };
            let (channels, values) = (elements(g, &c.k, &c.depth), elements(g, &c.v, &c.cols));
            let mut next = vec![];
            for ((row, query), before) in rows.iter().zip(queries).zip(before.chunks(width)) {
                let score = |g: &mut Self, j: usize| {
                    let product = g.summed_over_lanes(query, &channels[j]);
                    let point = Point::scalar().fixed(&tiled.name, row.index.clone()).fixed(&c.keys.name, held[j].clone());
                    let score = g.score_at(c, point, product);
                    g.where_seen(score, &keys[j], row.seen)
                };
                let scores: Vec<Value> = (0..KEYS as usize).map(|j| score(g, j)).collect();
                next.extend(g.weighted(before, &scores, &values));
            }
            next
        });
        let running = |r: &[Value<'c>]| Running { maximum: r[0], sum: r[1], totals: r[2..].to_vec() };
        found.chunks(width).map(running).collect()
    }

    fn summed_over_lanes(&self, x: &[Value<'c>], y: &[Value<'c>]) -> Value<'c> {
        let own = x.iter().zip(y).fold(self.f32(0.0), |sum, (x, y)| self.e.fma(*x, *y, sum));
        self.of_team(own, LANES, Emit::fadd)
    }

    /// Maximum, sum and totals of a row with some more keys.
    fn weighted(&self, before: &[Value<'c>], scores: &[Value<'c>], values: &[Vec<Value<'c>>]) -> Vec<Value<'c>> {
        let largest = scores.iter().fold(before[0], |m, s| greater(&self.e, *s, m));
        let factor = self.exponential(before[0], largest);
        let powers: Vec<Value> = scores.iter().map(|s| self.exponential(*s, largest)).collect();
        let sum = powers.iter().fold(self.e.fmul(before[1], factor), |sum, p| self.e.fadd(sum, *p));
        let total = |(i, total): (usize, &Value<'c>)| {
            powers.iter().zip(values).fold(self.e.fmul(*total, factor), |total, (p, v)| self.e.fma(*p, v[i], total))
        };
        [largest, sum].into_iter().chain(before[2..].iter().enumerate().map(total)).collect()
    }

    /// Leaves what a warp found in shared memory: `[warp][row]` of maximum, sum and totals.
    fn leave(&mut self, few: &Few, memory: PointerValue<'c>, [lane, warp]: [&Dim; 2], found: Vec<Running<'c>>) {
        let place = self.index(&(warp.clone() * (few.rows * few.pitch())));
        let own = self.e.offset(memory, place, F32 as usize);
        for (i, running) in found.into_iter().enumerate() {
            let row = self.e.displaced(own, i as i64 * few.pitch() * F32);
            self.where_below(lane, &Dim::ONE, |g, _| {
                g.e.store(running.maximum, row, F32 as usize);
                g.e.store(running.sum, g.e.displaced(row, F32), F32 as usize);
            });
            for (j, total) in running.totals.into_iter().enumerate() {
                self.where_below(&(lane.clone() + j as i64 * LANES), &few.cols.into(), |g, col| {
                    let col = g.index(&col);
                    g.e.store(total, g.e.offset(g.e.displaced(row, 2 * F32), col, F32 as usize), F32 as usize);
                });
            }
        }
    }

    /// The epilogue at every point, of which each thread has some: what all warps found, scaled to the largest maximum.
    fn meet(&mut self, c: &Chain, few: &Few, memory: PointerValue<'c>, tiled: &Axis) {
        let points = Dim::from(few.rows * few.cols);
        for first in (0..few.rows * few.cols).step_by(THREADS) {
            self.where_below(&(thread() + first), &points, |g, point| {
                g.at_point(&singly(&[tiled.clone(), c.cols.clone()]), &point);
                let (row, col) = (g.index(&(tiled.index() * few.pitch())), g.index(&c.cols.index()));
                let own = g.e.offset(memory, row, F32 as usize);
                let load =
                    |g: &Self, at: PointerValue<'c>, warp: i64| g.read_shared(g.e.displaced(at, warp * few.rows * few.pitch() * F32), 1)[0];
                let maxima: Vec<Value> = (0..WARPS).map(|w| load(g, own, w)).collect();
                let largest = maxima.iter().copied().reduce(|x, y| greater(&g.e, x, y)).expect("a block has warps");
                let totals = g.e.offset(g.e.displaced(own, 2 * F32), col, F32 as usize);
                let sums = g.e.displaced(own, F32);
                let scaled = |g: &Self, at: PointerValue<'c>| {
                    let all = maxima.iter().zip(0..).map(|(m, w)| (g.exponential(*m, largest), load(g, at, w)));
                    all.fold(g.f32(0.0), |sum, (factor, x)| g.e.fma(factor, x, sum))
                };
                let value = g.e.fmul(scaled(g, totals), g.reciprocal(scaled(g, sums)));
                g.block(&c.epilogue, vec![Point::scalar().with(&"acc".into(), value)]);
            });
        }
    }
}
