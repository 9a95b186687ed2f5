//! Attention in one kernel: a block does a tile of queries, and never has more of the scores than a tile of keys.
//!
//! It is done on [tensor cores](strips), but [otherwise](few) for few queries; where there are none, or heads are too large for shared
//! memory, it is done as follows. Scores are a [`product`](super::product) of queries and keys. The threads that share rows are lanes of one warp, so maxima are
//! found by shuffles; exponentials go through shared memory to be multiplied with the values. Whenever a larger score turns up,
//! what was summed so far is scaled down (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
//! "FlashAttention", 2022). **Invariant.** What a row does not see counts as zero, and a row
//! that sees nothing is zero.
//!
//! ```text
//! for keys in tiles of 64 that some row sees:
//!     s[64][64] = score(q * k);   m' = max(m, s);   p = exp(s - m');   factor = exp(m - m')
//!     sum = sum*factor + p;   totals[64][cols] = totals*factor + p * v
//! out = totals / sum
//! ```

mod few;
mod strips;

use super::grid::{count, singly};
use super::map::NEIGHBOURS;
use super::product::{F32, SLICE, Source, Staged, Tile};
use crate::cpu::emit::{Emit, Value};
use crate::cpu::math;
use crate::cpu::point::Point;
use crate::cpu::scope::{Gen, Run};
use crate::kernel::{Axis, BufferId, Chain, Kernel};
use crate::target::Target;
use egret_ir::{DType, Dim};
use few::Few;
use inkwell::values::{IntValue, PointerValue};
use inkwell::{FloatPredicate, IntPredicate};
use strips::Strips;

/// Tiles of columns that a block does: with two of them a thread has 32 totals. Scores are computed again for what is beyond.
const MOST_STRIPES: i64 = 2;

/// Elements between two rows of weights in shared memory beyond those of the tile: keeps 16-byte reads of two rows, which the
/// halves of a warp do, on different banks.
const PADDING: i64 = 4;

/// What the blocks of an attention do.
pub(super) enum Attention {
    Few(Few),
    Strips(Strips),
    Tiles(Tiles),
}

impl Attention {
    /// How an attention is done.
    pub(super) fn of(c: &Chain, kernel: &Kernel, target: &Target) -> Attention {
        let strips = || Strips::of(c, kernel, target).map(Attention::Strips);
        Few::of(c).map(Attention::Few).or_else(strips).unwrap_or_else(|| Attention::Tiles(Tiles::of(c)))
    }

    /// Bytes of shared memory that the launch has to give.
    pub(super) fn shared(&self, c: &Chain) -> i64 {
        if let Attention::Strips(strips) = self { strips.shared(c) } else { 0 }
    }

    /// How many blocks it takes.
    pub(super) fn blocks(&self, c: &Chain) -> Dim {
        match self {
            Attention::Few(_) => count(&outer_axes(c)),
            Attention::Strips(strips) => strips.blocks(c),
            Attention::Tiles(tiles) => count(&tiles.axes(c)),
        }
    }
}

/// A tile of queries and keys, and how many tiles of columns.
pub(super) struct Tiles {
    tile: Tile,
    stripes: i64,
}

impl Tiles {
    fn of(c: &Chain) -> Tiles {
        let tile = Tile::of(&tiled_rows(c).extent);
        let all = c.cols.extent.ceil_div(&tile.cols.into()).as_const().unwrap_or(1);
        Tiles { tile, stripes: all.clamp(1, MOST_STRIPES) }
    }

    /// Batches and outer rows, tiles of rows, groups of stripes.
    fn axes(&self, c: &Chain) -> Vec<Axis> {
        let (rows, cols) = (tiled_rows(c).extent.ceil_div(&self.tile.rows.into()), self.stripes * self.tile.cols);
        let own = [Axis::new(ROWS, rows), Axis::new(COLS, c.cols.extent.ceil_div(&cols.into()))];
        outer_axes(c).into_iter().chain(own).collect()
    }

    /// Elements between two rows of weights in shared memory.
    fn pitch(&self) -> i64 {
        self.tile.cols + PADDING
    }
}

/// The numbers of a block's tile of rows and of its stripes.
const ROWS: &str = "%rows";
const COLS: &str = "%cols";

/// The axes of which a block has one point.
fn outer_axes(c: &Chain) -> Vec<Axis> {
    let outer = c.rows.split_last().map_or(&[][..], |(_, outer)| outer);
    [&c.batch, outer].concat()
}

/// The axis that the rows of a block run along.
fn tiled_rows(c: &Chain) -> Axis {
    c.rows.last().cloned().unwrap_or_else(|| Axis::new("%row", 1))
}

/// Whether neighbours along an axis are neighbours in memory.
fn is_contiguous(d: &Dim, axis: &Axis) -> bool {
    d.linear_in(&axis.name).is_some_and(|(stride, _)| stride.is(1))
}

/// A row of the thread.
struct Row<'c> {
    /// Its index, or that of the last row there is.
    index: Dim,
    /// How many keys it sees.
    seen: IntValue<'c>,
}

/// A tile at work: its rows, and its operands in shared memory.
struct Work<'k, 'c> {
    first_row: Dim,
    first_col: Dim,
    rows: Vec<Row<'c>>,
    /// How many keys some row of the block sees.
    seen: Dim,
    queries: Staged<'k, 'c>,
    keys: PointerValue<'c>,
    values: Vec<Staged<'k, 'c>>,
    weights: PointerValue<'c>,
}

/// What goes around the tiles of keys, for each row of the thread: the largest score, the thread's part of the sum of
/// exponentials, and the totals of each stripe.
struct Running<'c> {
    maxima: Vec<Value<'c>>,
    sums: Vec<Value<'c>>,
    totals: Vec<Value<'c>>,
}

impl<'c> Running<'c> {
    fn flat(self) -> Vec<Value<'c>> {
        [self.maxima, self.sums, self.totals].concat()
    }

    fn of(mut flat: Vec<Value<'c>>, rows: usize) -> Running<'c> {
        let totals = flat.split_off(2 * rows);
        let sums = flat.split_off(rows);
        Running { maxima: flat, sums, totals }
    }
}

impl<'c> Gen<'_, 'c> {
    /// Emits the attention of a block of the job.
    pub(super) fn attend(&mut self, c: &Chain, attention: &Attention, block: &Dim) {
        match attention {
            Attention::Few(few) => self.attend_few(c, few, block),
            Attention::Strips(strips) => self.attend_by_strips(c, strips, block),
            Attention::Tiles(tiles) => self.attend_by_tiles(c, tiles, block),
        }
    }

    fn attend_by_tiles(&mut self, c: &Chain, tiles: &Tiles, block: &Dim) {
        self.at_point(&singly(&tiles.axes(c)), block);
        let tiled = tiled_rows(c);
        let w = self.attention_work(c, tiles, &tiled);
        let rows = w.rows.len();
        let (lowest, zero) = (self.f32(f64::from(f32::MIN)), self.f32(0.0));
        let totals = vec![zero; tiles.tile.sums() * tiles.stripes as usize];
        let start = Running { maxima: vec![lowest; rows], sums: vec![zero; rows], totals };
        let name = self.fresh("%keys");
        let end = self.index(&w.seen);
        let run = Run { start: self.e.i64(0), end, step: tiles.tile.cols, certain: false, range: self.axis_range(&c.keys) };
        let found = self.repeat(&name, run, start.flat(), |g, before| {
            let first = Dim::symbol(name.clone());
            let scores = g.tile_of_scores(c, tiles, &w, &tiled, &first);
            let running = g.soft_maximum(tiles, &w, scores, Running::of(before, rows));
            g.add_values(tiles, &w, &first, running).flat()
        });
        self.attended(c, tiles, &w, &tiled, Running::of(found, rows));
    }

    /// Where the rows, operands and weights of the block are.
    fn attention_work<'k>(&mut self, c: &'k Chain, tiles: &Tiles, tiled: &'k Axis) -> Work<'k, 'c> {
        let tile = tiles.tile;
        let (first_row, first_col) = (Dim::symbol(ROWS) * tile.rows, Dim::symbol(COLS) * (tiles.stripes * tile.cols));
        let rows = (0..tile.of_thread).map(|i| self.row_of_thread(c, tiled, &(first_row.clone() + tile.own_rows() + i))).collect();
        let last = self.row_of_thread(c, tiled, &(first_row.clone() + (tile.rows - 1)));
        let bytes = [Tile::operand_bytes(tile.rows), Tile::operand_bytes(tile.cols) * tiles.stripes, tile.rows * tiles.pitch() * F32];
        let queries_at = self.tile_memory(bytes.iter().sum());
        let keys = self.e.displaced(queries_at, bytes[0]);
        let weights = self.e.displaced(keys, bytes[1]);
        let queries = source(&c.q, tiled, &c.depth);
        let queries = self.staged(queries, queries_at, tile.rows, &first_row);
        let stripe = |g: &mut Self, i: i64| {
            let at = g.e.displaced(keys, i * Tile::operand_bytes(tile.cols));
            g.staged(source(&c.v, &c.cols, &c.keys), at, tile.cols, &(first_col.clone() + i * tile.cols))
        };
        let values = (0..tiles.stripes).map(|i| stripe(self, i)).collect();
        let seen = self.seen_as_index(c, &last);
        Work { first_row, first_col, rows, seen, queries, keys, values, weights }
    }

    /// A row, or the last one if there are fewer.
    fn row_of_thread(&mut self, c: &Chain, tiled: &Axis, index: &Dim) -> Row<'c> {
        let range = self.axis_range(tiled);
        let index = self.named("%row", &index.minimum(&(tiled.extent.clone() - 1)), range);
        let seen = self.index(&c.seen.substitute(&|name| (name == &*tiled.name).then(|| index.clone())));
        Row { index, seen }
    }

    /// How many keys a row sees, as an index.
    fn seen_as_index(&mut self, c: &Chain, row: &Row<'c>) -> Dim {
        let (name, range) = (self.fresh("%seen"), self.range(&c.keys.extent));
        self.bind(&name, row.seen, range);
        Dim::symbol(name)
    }

    /// The thread's scores of the keys from `first` on, row by row; -inf for those that a row does not see.
    fn tile_of_scores(&mut self, c: &Chain, tiles: &Tiles, w: &Work<'_, 'c>, tiled: &Axis, first: &Dim) -> Vec<Value<'c>> {
        let tile = tiles.tile;
        let zero = self.f32(0.0);
        let keys = self.staged(source(&c.k, &c.keys, &c.depth), w.keys, tile.cols, first);
        let products = self.product(tile, &w.queries, &keys, vec![zero; tile.sums()]);
        // The values come where the keys are.
        self.e.block_barrier();
        let own = first.clone() + tile.own_columns();
        let keys = self.keys_of_thread(c, &own);
        let all_seen = !c.is_causal() && c.keys.extent.split_multiple(tile.cols).1.is(0);
        let mut scores = vec![];
        for (row, products) in w.rows.iter().zip(products.chunks(NEIGHBOURS as usize)) {
            for (j, (key, product)) in keys.iter().zip(products).enumerate() {
                let point = Point::scalar().fixed(&tiled.name, row.index.clone()).fixed(&c.keys.name, key.clone());
                let score = self.score_at(c, point, *product);
                let unseen = (!all_seen).then_some((own.clone() + j, row.seen));
                scores.push(unseen.map_or(score, |(key, seen)| self.where_seen(score, &key, seen)));
            }
        }
        scores
    }

    /// The indices of neighbouring keys, or of the last ones there are.
    fn keys_of_thread(&mut self, c: &Chain, first: &Dim) -> Vec<Dim> {
        let range = self.axis_range(&c.keys);
        let extent = &c.keys.extent;
        if !extent.split_multiple(NEIGHBOURS).1.is(0) {
            return (0..NEIGHBOURS).map(|j| self.named("%key", &(first.clone() + j).minimum(&(extent.clone() - 1)), range)).collect();
        }
        let held = self.named("%key", &first.minimum(&(extent.clone() - NEIGHBOURS)), range);
        held.as_symbol().map(|name| self.multiples.insert(name.clone(), NEIGHBOURS));
        (0..NEIGHBOURS).map(|j| held.clone() + j).collect()
    }

    /// The score at a point of rows and keys.
    fn score_at(&mut self, c: &Chain, point: Point<'c>, product: Value<'c>) -> Value<'c> {
        let mut point = point.with(&"acc".into(), product);
        self.lets(&mut point, &c.lets);
        self.eval(&mut point, &c.score)
    }

    /// A score, or -inf for a key from `seen` on.
    fn where_seen(&mut self, score: Value<'c>, key: &Dim, seen: IntValue<'c>) -> Value<'c> {
        let key = self.index(key);
        let sees = self.e.icmp(IntPredicate::SLT, key.into(), seen.into());
        self.e.select(sees, score, self.e.float(score, f64::NEG_INFINITY))
    }

    /// Scales what was summed so far to the new maxima, and leaves the exponentials of the scores in shared memory.
    fn soft_maximum(&mut self, tiles: &Tiles, w: &Work<'_, 'c>, scores: Vec<Value<'c>>, mut r: Running<'c>) -> Running<'c> {
        let place = tiles.tile.own_rows() * tiles.pitch() + tiles.tile.own_columns();
        let place = self.index(&place);
        let place = self.e.offset(w.weights, place, F32 as usize);
        for (i, scores) in scores.chunks(NEIGHBOURS as usize).enumerate() {
            let largest = scores.iter().fold(r.maxima[i], |m, s| greater(&self.e, *s, m));
            let largest = self.of_team(largest, tiles.tile.across(), greater);
            let factor = self.exponential(r.maxima[i], largest);
            let powers: Vec<Value> = scores.iter().map(|s| self.exponential(*s, largest)).collect();
            r.sums[i] = powers.iter().fold(self.e.fmul(r.sums[i], factor), |sum, p| self.e.fadd(sum, *p));
            r.maxima[i] = largest;
            for stripe in r.totals.chunks_mut(tiles.tile.sums()) {
                stripe[i * scores.len()..][..scores.len()].iter_mut().for_each(|total| *total = self.e.fmul(*total, factor));
            }
            let at = self.e.displaced(place, i as i64 * tiles.pitch() * F32);
            self.e.store(self.e.together(&powers), at, (NEIGHBOURS * F32) as usize);
        }
        r
    }

    /// Adds the values of the keys from `first` on, weighted by the exponentials in shared memory.
    fn add_values(&mut self, tiles: &Tiles, w: &Work<'_, 'c>, first: &Dim, mut r: Running<'c>) -> Running<'c> {
        let tile = tiles.tile;
        let values: Vec<&Staged> = w.values.iter().collect();
        let end = (first.clone() + tile.cols).minimum(&w.seen);
        r.totals = self.over_slices(&values, [first, &end, &w.seen], r.totals, |g, slice, mut totals| {
            let weights = g.index(&(tile.own_rows() * tiles.pitch() + slice.start.clone() - first.clone()));
            let weights = g.e.offset(w.weights, weights, F32 as usize);
            let columns: Vec<PointerValue> = values.iter().map(|v| g.slice_at(v, slice, &tile.own_columns())).collect();
            for k in (0..SLICE).step_by(NEIGHBOURS as usize) {
                let row = |i: i64| g.read_shared(g.e.displaced(weights, (i * tiles.pitch() + k) * F32), NEIGHBOURS);
                let rows: Vec<Vec<Value>> = (0..tile.of_thread).map(row).collect();
                for j in 0..NEIGHBOURS as usize {
                    let x: Vec<Value> = rows.iter().map(|row| row[j]).collect();
                    for ((v, at), totals) in values.iter().zip(&columns).zip(totals.chunks_mut(tile.sums())) {
                        g.outer_product(&x, &g.step_of(v, *at, k + j as i64, NEIGHBOURS), totals);
                    }
                }
            }
            totals
        });
        self.e.block_barrier();
        r
    }

    /// The epilogue at the points of the thread.
    fn attended(&mut self, c: &Chain, tiles: &Tiles, w: &Work<'_, 'c>, tiled: &Axis, r: Running<'c>) {
        let tile = tiles.tile;
        let sums: Vec<Value> = r.sums.iter().map(|sum| self.of_team(*sum, tile.across(), Emit::fadd)).collect();
        for (i, sum) in sums.into_iter().enumerate() {
            let factor = self.reciprocal(sum);
            self.where_below(&(w.first_row.clone() + tile.own_rows() + i), &tiled.extent, |g, row| {
                let (row, range) = (g.index(&row), g.axis_range(tiled));
                g.bind(&tiled.name, row, range);
                for (n, totals) in r.totals.chunks(tile.sums()).enumerate() {
                    let totals = &totals[i * NEIGHBOURS as usize..][..NEIGHBOURS as usize];
                    let values: Vec<Value> = totals.iter().map(|total| g.e.fmul(*total, factor)).collect();
                    let first = w.first_col.clone() + tile.own_columns() + n as i64 * tile.cols;
                    g.epilogue_at(&c.epilogue, &c.cols, &first, &values);
                }
            });
        }
    }

    /// A value combined over neighbouring lanes, of which there are a power of two; all of them have the result.
    fn of_team(&self, value: Value<'c>, lanes: i64, combine: fn(&Emit<'c>, Value<'c>, Value<'c>) -> Value<'c>) -> Value<'c> {
        let halves = std::iter::successors(Some(lanes as usize / 2), |n| Some(n / 2)).take_while(|n| *n > 0);
        halves.fold(value, |value, apart| combine(&self.e, self.e.of_lane_xor(value, apart), value))
    }

    /// `exp(score - largest)`.
    fn exponential(&self, score: Value<'c>, largest: Value<'c>) -> Value<'c> {
        math::exp(&self.e, self.e.fsub(score, largest))
    }

    /// `1 / sum`, or 0 for a row that saw nothing.
    fn reciprocal(&self, sum: Value<'c>) -> Value<'c> {
        let zero = self.e.float(sum, 0.0);
        let nothing = self.e.fcmp(FloatPredicate::OEQ, sum, zero);
        self.e.select(nothing, zero, self.e.fdiv(self.e.float(sum, 1.0), sum))
    }

    fn f32(&self, value: f64) -> Value<'c> {
        self.e.float_of(self.e.register_type(DType::F32), value)
    }
}

/// An operand whose points lie along one axis, and `k` along another.
fn source<'k>((buffer, offset): &'k (BufferId, Dim), points: &'k Axis, depth: &'k Axis) -> Source<'k> {
    let along_points = is_contiguous(offset, points) && !is_contiguous(offset, depth);
    Source { buffer: *buffer, offset, points: std::slice::from_ref(points), depth: std::slice::from_ref(depth), panel: None, along_points }
}

/// The larger of two floats; the second where one is NaN, which is left to the exponentials.
fn greater<'c>(e: &Emit<'c>, x: Value<'c>, y: Value<'c>) -> Value<'c> {
    e.select(e.fcmp(FloatPredicate::OGT, x, y), x, y)
}
