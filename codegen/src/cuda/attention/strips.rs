//! Attention on tensor cores: a warp does a strip of 16 queries against its share of every tile of keys.
//!
//! Tiles of keys and values come through shared memory by a [`pipeline`](crate::cuda::pipeline), the next one while one is worked on.
//! What a lane has of the scores of a strip is what it needs of them as the first operand of the product with the values, so
//! exponentials never leave registers. Where strips are few, several warps share the keys of one. All meet in shared memory, from where
//! threads take neighbouring columns.
//!
//! **Invariant.** Products have the accuracy of [`tensor`](crate::cuda::tensor). Exponentials are f32s; where queries, keys and values all
//! have 16 bits they have 22 significant bits, and are rounded to the type of the values before they are multiplied.
//!
//! ```text
//! copy queries, tile 0
//! for tile in keys that some row sees:   wait;   barrier;   copy tile + 1
//!     s[16][32] = score(q * k);   m' = max(m, s);   p = exp(s - m');   factor = exp(m - m')
//!     sum = sum*factor + p;   totals[16][cols] = totals*factor + p * v
//! barrier;   out[row][col] = sum over warps of totals*exp(m - max(m))  /  sum over warps of sum*exp(m - max(m))
//! ```

use super::{COLS, ROWS, Row, Running, greater, outer_axes, source, tiled_rows};
use crate::cpu::emit::{Emit, Value};
use crate::cpu::point::Point;
use crate::cpu::scope::{Gen, Run};
use crate::cuda::grid::{THREADS, count, singly, thread};
use crate::cuda::map::NEIGHBOURS;
use crate::cuda::matrix::{ENOUGH_BLOCKS, MOST_WASTE, PADDING};
use crate::cuda::pipeline::{Incoming, Pipeline};
use crate::cuda::product::{F32, Source};
use crate::cuda::tensor::{Arithmetic, COLUMNS, Format, Fragment, Layout, Order, POINTS, Reader, SUMS, Side, WARPS, lane, of_sums, warp};
use crate::kernel::{Axis, Chain, Kernel};
use crate::target::Target;
use egret_ir::{DType, Dim};
use inkwell::values::PointerValue;

/// Strips of a block, most first: these share the most of what is read.
const DOWN: [i64; 4] = [8, 4, 2, 1];

/// The same where it is not known how many rows there are.
const USUAL_DOWN: i64 = 4;

/// Keys of a warp in a tile, most first. Of split products no more than the second: their fragments take twice the registers.
const KEYS: [i64; 3] = [64, 32, 16];

/// Tiles of keys in shared memory: one is on its way while one is multiplied.
const STAGES: i64 = 2;

/// Most columns of a block, of which a lane has half as many totals. For those beyond, scores are computed again.
const MOST_COLS: i64 = 128;

/// Bytes of shared memory that a block can have on every GPU with tensor cores for these formats.
const MOST_SHARED: i64 = 99 << 10;

/// Most registers for the fragments of a strip's queries; if they take more, they are read again for every tile.
const MOST_HELD: i64 = 64;

/// Fragments of values that are read before they are multiplied: with their eight tiles of sums, enough to hide how long a product takes.
const TOGETHER: i64 = 4;

/// What the blocks of an attention on tensor cores do.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct Strips {
    /// Strips of a block, one below the other. The other warps share the keys of these.
    down: i64,
    /// Keys of a warp in a tile.
    keys: i64,
    /// Channels of queries and keys, as fragments have them.
    depth: i64,
    /// Columns of a block, as fragments have them.
    cols: i64,
    scores: Arithmetic,
    totals: Arithmetic,
    /// The types of queries, keys and values.
    operands: [DType; 3],
}

/// A strip at work: its rows, and its operands in shared memory.
struct Work<'k, 'c> {
    /// The first row and the first column of the block.
    first: [Dim; 2],
    rows: Vec<Row<'c>>,
    memory: PointerValue<'c>,
    queries: Incoming<'k, 'c>,
    keys: Incoming<'k, 'c>,
    values: Incoming<'k, 'c>,
    readers: [Reader; 3],
    /// The first row of the warp in the block, and its first key in a tile.
    own: [Dim; 2],
    /// How many keys some row of the block sees.
    seen: Dim,
}

impl Strips {
    /// How an attention is done on tensor cores; `None` where there are none for its types, or a tile does not fit shared memory.
    pub(super) fn of(c: &Chain, kernel: &Kernel, target: &Target) -> Option<Strips> {
        let operands @ [q, k, v] = [&c.q, &c.k, &c.v].map(|(buffer, _)| kernel.buffers[buffer.0].dtype);
        let weights = if q == k && k == v { v } else { DType::F32 };
        let (scores, totals) = (Arithmetic::of(q, k, target)?, Arithmetic::of(weights, v, target)?);
        let (depth, cols) = (c.depth.extent.as_const()?, c.cols.extent.as_const()?);
        let (depth, cols) = (whole(depth, scores.format.steps()), whole(cols.min(MOST_COLS), POINTS));
        let shapes = DOWN.into_iter().flat_map(|down| KEYS.map(|keys| (down, keys)));
        let shapes = shapes.map(|(down, keys)| Strips { down, keys, depth, cols, scores, totals, operands });
        let shapes: Vec<Strips> = shapes.filter(|s| s.fits(c)).collect();
        let fewest = shapes.iter().filter_map(|s| s.points(c)).min().unwrap_or(0);
        let suits = |s: &&Strips| match (s.points(c), s.blocks(c).as_const()) {
            (Some(points), Some(blocks)) => blocks >= ENOUGH_BLOCKS && points <= fewest + fewest / MOST_WASTE,
            _ => s.down <= USUAL_DOWN,
        };
        shapes.iter().find(suits).or(shapes.iter().min_by_key(|s| s.down)).copied()
    }

    /// Whether it fits registers and shared memory, and most of its keys are there.
    fn fits(&self, c: &Chain) -> bool {
        let few = c.keys.extent.as_const().is_none_or(|keys| self.tile() < 2 * keys.max(POINTS));
        few && (!self.scores.split || self.keys <= KEYS[1]) && self.shared(c) <= MOST_SHARED
    }

    /// Rows of a block.
    fn rows(&self) -> i64 {
        self.down * POINTS
    }

    /// Rows that all blocks do of a batch, with those beyond the end.
    fn points(&self, c: &Chain) -> Option<i64> {
        tiled_rows(c).extent.as_const().map(|rows| whole(rows, self.rows()))
    }

    /// Warps that share the keys of a strip.
    fn across(&self) -> i64 {
        WARPS / self.down
    }

    /// Keys of a tile.
    fn tile(&self) -> i64 {
        self.across() * self.keys
    }

    /// How many blocks it takes.
    pub(super) fn blocks(&self, c: &Chain) -> Dim {
        count(&self.axes(c))
    }

    /// Batches and outer rows, tiles of rows, groups of columns.
    fn axes(&self, c: &Chain) -> Vec<Axis> {
        let tiles = tiled_rows(c).extent.ceil_div(&self.rows().into());
        let own = [Axis::new(ROWS, tiles), Axis::new(COLS, c.cols.extent.ceil_div(&self.cols.into()))];
        outer_axes(c).into_iter().chain(own).collect()
    }

    /// Points and steps of what is brought of queries, keys and values, and how they are read.
    fn extents(&self) -> [([i64; 2], Order); 3] {
        // The lanes have the weights of the columns that `Paired` says; of 16 bits it is those that the product takes.
        let values = if self.totals.format == Format::Tf32 { Order::Paired } else { Order::Straight };
        [([self.rows(), self.depth], Order::Straight), ([self.depth, self.tile()], Order::Turned), ([self.cols, self.tile()], values)]
    }

    /// Bytes of shared memory: of queries and tiles, then of what all warps found.
    pub(super) fn shared(&self, c: &Chain) -> i64 {
        let tiled = tiled_rows(c);
        let brought = sources(c, &tiled).into_iter().zip(self.extents()).zip(self.operands);
        let bytes = brought.map(|((source, (extents, order)), dtype)| source.laid_out(dtype, extents, order).0.bytes());
        let bytes: Vec<i64> = bytes.collect();
        (bytes[0] + STAGES * (bytes[1] + bytes[2])).max(self.across() * self.found())
    }

    /// f32s between two rows of totals in shared memory; behind those of a row are its maximum and its sum.
    fn pitch(&self) -> i64 {
        self.cols + PADDING
    }

    /// Bytes that the warps leave there which have the same share of the keys.
    fn found(&self) -> i64 {
        self.rows() * self.pitch() * F32
    }

    /// Whether a warp has its queries in registers.
    fn is_held(&self) -> bool {
        let registers = self.depth / self.scores.format.steps() * SUMS as i64;
        registers * if self.scores.split { 2 } else { 1 } <= MOST_HELD
    }
}

/// The least multiple of `of` from `n` on.
fn whole(n: i64, of: i64) -> i64 {
    (n + of - 1) / of * of
}

/// Queries, keys and values. What moves from tile to tile are the keys.
fn sources<'k>(c: &'k Chain, tiled: &'k Axis) -> [Source<'k>; 3] {
    [source(&c.q, tiled, &c.depth), source(&c.k, &c.depth, &c.keys), source(&c.v, &c.cols, &c.keys)]
}

/// Which of the two rows of a lane a sum belongs to.
fn row_of(sum: usize) -> usize {
    sum % SUMS / 2
}

impl<'c> Gen<'_, 'c> {
    /// Emits the attention of a block on tensor cores.
    pub(super) fn attend_by_strips(&mut self, c: &Chain, s: &Strips, block: &Dim) {
        self.at_point(&singly(&s.axes(c)), block);
        let tiled = tiled_rows(c);
        let w = self.strip_work(c, s, &tiled);
        let found = self.through_keys(c, s, &w, &tiled);
        self.leave_strip(s, &w, found);
        self.e.block_barrier();
        self.meet_strips(c, s, &w, &tiled);
    }

    /// Where rows and operands of the block are.
    fn strip_work<'k>(&mut self, c: &'k Chain, s: &Strips, tiled: &'k Axis) -> Work<'k, 'c> {
        let first = [Dim::symbol(ROWS) * s.rows(), Dim::symbol(COLS) * s.cols];
        let [row, share] = [warp().floor_div(&s.across().into()) * POINTS, warp().modulo(&s.across().into()) * s.keys];
        let own = [self.named("%own_row", &row, (0, s.rows().into())), self.named("%own_key", &share, (0, s.tile().into()))];
        let lane_row = first[0].clone() + own[0].clone() + of_sums().0;
        let rows = [0, POINTS / 2].map(|half| self.row_of_thread(c, tiled, &(lane_row.clone() + half))).into();
        let last = self.row_of_thread(c, tiled, &(first[0].clone() + (s.rows() - 1)));
        let seen = self.seen_as_index(c, &last);
        let [q, k, v] = sources(c, tiled);
        let [of_q, of_k, of_v] = s.extents();
        let queries = self.incoming(q, of_q.0, of_q.1, 0, &first[0]);
        let keys = self.incoming(k, of_k.0, of_k.1, 0, &Dim::ZERO);
        let values = self.incoming(v, of_v.0, of_v.1, keys.layout.bytes(), &first[1]);
        let mut reader = |layout: Layout, side, arithmetic| self.reader(layout, side, arithmetic);
        let readers =
            [reader(queries.layout, Side::A, s.scores), reader(keys.layout, Side::B, s.scores), reader(values.layout, Side::B, s.totals)];
        Work { first, rows, memory: self.e.dynamic_shared(), queries, keys, values, readers, own, seen }
    }

    /// What the warp makes of all keys that some row of the block sees.
    fn through_keys(&mut self, c: &Chain, s: &Strips, w: &Work<'_, 'c>, tiled: &Axis) -> Running<'c> {
        self.bring_operand(&w.queries, w.memory, &Dim::ZERO, &Dim::ZERO);
        self.e.commit_copies();
        let memory = self.e.displaced(w.memory, w.queries.layout.bytes());
        let slices = [Dim::ZERO, w.seen.ceil_div(&s.tile().into())];
        let pipeline = Pipeline { operands: [&w.keys, &w.values], memory, stages: STAGES, ahead: STAGES - 1, slices };
        self.start_slices(&pipeline);
        let held = s.is_held().then(|| {
            self.e.wait_for_copies(STAGES as u64 - 1);
            self.e.block_barrier();
            self.query_fragments(s, w)
        });
        let (lowest, zero) = (self.f32(f64::from(f32::MIN)), self.f32(0.0));
        let totals = vec![zero; (s.cols / COLUMNS) as usize * SUMS];
        let start = Running { maxima: vec![lowest; 2], sums: vec![zero; 2], totals };
        let found = self.through_slices(&pipeline, start.flat(), |g, slice, before| {
            let queries = held.clone().unwrap_or_else(|| g.query_fragments(s, w));
            let stage = pipeline.stage(slice);
            let products = g.strip_of_products(s, w, memory, &stage, &queries);
            let scores = g.strip_of_scores(c, s, w, tiled, &(slice.clone() * s.tile()), &products);
            let (weights, running) = g.soften(s, &scores, Running::of(before, 2));
            g.add_weighted(s, w, memory, &stage, &weights, running).flat()
        });
        Running::of(found, 2)
    }

    /// The queries of the warp, step by step.
    fn query_fragments(&mut self, s: &Strips, w: &Work<'_, 'c>) -> Vec<Fragment<'c>> {
        let part = self.part_of_lane(w.memory, &w.readers[0], &Dim::ZERO, &w.own[0]);
        let steps = (0..s.depth).step_by(s.scores.format.steps() as usize);
        steps.map(|step| self.fragment(&w.readers[0], part, 0, step)).collect()
    }

    /// Products of the strip's queries and the warp's keys of a stage.
    fn strip_of_products(
        &mut self,
        s: &Strips,
        w: &Work<'_, 'c>,
        memory: PointerValue<'c>,
        stage: &Dim,
        queries: &[Fragment<'c>],
    ) -> Vec<Value<'c>> {
        let part = self.part_of_lane(memory, &w.readers[1], &(stage.clone() + w.keys.start), &w.own[1]);
        let mut products = vec![self.f32(0.0); (s.keys / COLUMNS) as usize * SUMS];
        for (query, step) in queries.iter().zip((0..).step_by(s.scores.format.steps() as usize)) {
            let keys: Vec<Fragment> =
                (0..s.keys).step_by(POINTS as usize).map(|key| self.fragment(&w.readers[1], part, key, step)).collect();
            self.e.multiply(s.scores, std::slice::from_ref(query), &keys, &mut products);
        }
        products
    }

    /// The scores of products with the warp's keys of the tile from `tile` on; -inf for those that a row does not see.
    fn strip_of_scores(
        &mut self,
        c: &Chain,
        s: &Strips,
        w: &Work<'_, 'c>,
        tiled: &Axis,
        tile: &Dim,
        products: &[Value<'c>],
    ) -> Vec<Value<'c>> {
        let all_seen = !c.is_causal() && c.keys.extent.split_multiple(s.tile()).1.is(0);
        let own = tile.clone() + w.own[1].clone() + of_sums().1;
        let mut scores = vec![];
        for (products, first) in products.chunks(SUMS).zip((0..).step_by(COLUMNS as usize)) {
            let own = own.clone() + first;
            let pair = self.pair_of_keys(c, &own);
            for (i, product) in products.iter().enumerate() {
                let row = &w.rows[row_of(i)];
                let point = Point::scalar().fixed(&tiled.name, row.index.clone()).fixed(&c.keys.name, pair[i % 2].clone());
                let score = self.score_at(c, point, *product);
                let unseen = (!all_seen).then(|| self.where_seen(score, &(own.clone() + (i % 2) as i64), row.seen));
                scores.push(unseen.unwrap_or(score));
            }
        }
        scores
    }

    /// The indices of two neighbouring keys, or of the last ones there are.
    fn pair_of_keys(&mut self, c: &Chain, first: &Dim) -> [Dim; 2] {
        let (range, extent) = (self.axis_range(&c.keys), &c.keys.extent);
        if !extent.split_multiple(2).1.is(0) {
            return [0, 1].map(|j| self.named("%key", &(first.clone() + j).minimum(&(extent.clone() - 1)), range));
        }
        let held = self.named("%key", &first.minimum(&(extent.clone() - 2)), range);
        held.as_symbol().map(|name| self.multiples.insert(name.clone(), 2));
        [held.clone(), held + 1]
    }

    /// Scales what was summed so far to the new maxima; the exponentials of the scores, which are added to the sums.
    fn soften(&mut self, s: &Strips, scores: &[Value<'c>], mut r: Running<'c>) -> (Vec<Value<'c>>, Running<'c>) {
        let mut weights = scores.to_vec();
        for row in 0..2 {
            let of_row = |sums: usize| (0..sums).filter(|i| row_of(*i) == row);
            let largest = of_row(scores.len()).fold(r.maxima[row], |m, i| greater(&self.e, scores[i], m));
            let largest = self.of_team(largest, SUMS as i64, greater);
            let factor = self.weight(s, r.maxima[row], largest);
            of_row(scores.len()).for_each(|i| weights[i] = self.weight(s, scores[i], largest));
            let sum = of_row(scores.len()).map(|i| weights[i]).reduce(|x, y| self.e.fadd(x, y));
            let before = self.e.fmul(r.sums[row], factor);
            r.sums[row] = sum.map_or(before, |sum| self.e.fadd(before, sum));
            r.maxima[row] = largest;
            of_row(r.totals.len()).for_each(|i| r.totals[i] = self.e.fmul(r.totals[i], factor));
        }
        (weights, r)
    }

    /// `exp(score - largest)`, as exact as what it is multiplied with.
    fn weight(&self, s: &Strips, score: Value<'c>, largest: Value<'c>) -> Value<'c> {
        if s.totals.format == Format::Tf32 {
            return self.exponential(score, largest);
        }
        let below = self.e.fsub(score, largest);
        self.e.about_exp2(self.e.fmul(below, self.f32(std::f64::consts::LOG2_E)))
    }

    /// Adds the values of the warp's keys of a stage, weighted.
    fn add_weighted(
        &mut self,
        s: &Strips,
        w: &Work<'_, 'c>,
        memory: PointerValue<'c>,
        stage: &Dim,
        weights: &[Value<'c>],
        mut r: Running<'c>,
    ) -> Running<'c> {
        let start = stage.clone() + w.values.start + w.own[1].clone() * w.values.layout.step();
        let part = self.part_of_lane(memory, &w.readers[2], &start, &Dim::ZERO);
        let steps = s.totals.format.steps();
        for (weights, step) in weights.chunks((steps / COLUMNS) as usize * SUMS).zip((0..).step_by(steps as usize)) {
            let weights = self.sums_as_operand(s.totals, weights);
            let totals = r.totals.chunks_mut((TOGETHER * POINTS / COLUMNS) as usize * SUMS);
            for (totals, first) in totals.zip((0..).step_by((TOGETHER * POINTS) as usize)) {
                let columns = (first..s.cols.min(first + TOGETHER * POINTS)).step_by(POINTS as usize);
                let values: Vec<Fragment> = columns.map(|col| self.fragment(&w.readers[2], part, col, step)).collect();
                self.e.multiply(s.totals, std::slice::from_ref(&weights), &values, totals);
            }
        }
        r
    }

    /// Leaves what a warp found in shared memory.
    fn leave_strip(&mut self, s: &Strips, w: &Work<'_, 'c>, r: Running<'c>) {
        let (row, col) = of_sums();
        let share = warp().modulo(&s.across().into()) * (s.found() / F32);
        let row = self.index(&(share + (w.own[0].clone() + row) * s.pitch()));
        let row = self.e.offset(w.memory, row, F32 as usize);
        let col = self.index(&col);
        let own = self.e.offset(row, col, F32 as usize);
        for (i, pair) in r.totals.chunks(2).enumerate() {
            let (tile, half) = ((i / 2) as i64, (i % 2) as i64);
            let at = self.e.displaced(own, (half * POINTS / 2 * s.pitch() + tile * COLUMNS) * F32);
            self.e.store(self.e.together(pair), at, 2 * F32 as usize);
        }
        let sums: Vec<Value> = r.sums.iter().map(|sum| self.of_team(*sum, SUMS as i64, Emit::fadd)).collect();
        self.where_below(&lane().modulo(&4.into()), &Dim::ONE, |g, _| {
            for (half, (maximum, sum)) in (0..).zip(r.maxima.iter().zip(sums)) {
                let at = g.e.displaced(row, (half * POINTS / 2 * s.pitch() + s.cols) * F32);
                g.e.store(g.e.together(&[*maximum, sum]), at, 2 * F32 as usize);
            }
        });
    }

    /// The epilogue at all points of the block, a thread at neighbouring columns.
    fn meet_strips(&mut self, c: &Chain, s: &Strips, w: &Work<'_, 'c>, tiled: &Axis) {
        let (across, name) = (s.cols / NEIGHBOURS, self.fresh("%pass"));
        let points = s.rows() * across;
        let (start, end) = (self.e.i64(0), self.e.i64(points));
        let run = Run { start, end, step: THREADS as i64, certain: true, range: (0, points.into()) };
        self.repeat(&name, run, vec![], |g, _| {
            g.where_below(&(Dim::symbol(name.clone()) + thread()), &points.into(), |g, point| {
                let (row, col) = (point.floor_div(&across.into()), point.modulo(&across.into()) * NEIGHBOURS);
                g.where_below(&(w.first[0].clone() + row.clone()), &tiled.extent, |g, index| {
                    let (index, range) = (g.index(&index), g.axis_range(tiled));
                    g.bind(&tiled.name, index, range);
                    let values = g.of_all_shares(s, w.memory, &row, &col);
                    g.epilogue_at(&c.epilogue, &c.cols, &(w.first[1].clone() + col), &values);
                });
            });
            vec![]
        });
    }

    /// Neighbouring columns of a row: what all warps found that share its keys, scaled to the largest maximum.
    fn of_all_shares(&mut self, s: &Strips, memory: PointerValue<'c>, row: &Dim, col: &Dim) -> Vec<Value<'c>> {
        let row = self.index(&(row.clone() * s.pitch()));
        let (row, col) = (self.e.offset(memory, row, F32 as usize), self.index(col));
        let (own, last) = (self.e.offset(row, col, F32 as usize), self.e.displaced(row, s.cols * F32));
        let of_shares = |at: PointerValue<'c>, count: i64| -> Vec<Vec<Value<'c>>> {
            (0..s.across()).map(|share| self.read_shared(self.e.displaced(at, share * s.found()), count)).collect()
        };
        let (totals, statistics) = (of_shares(own, NEIGHBOURS), of_shares(last, 2));
        let largest = statistics.iter().map(|m| m[0]).reduce(|x, y| greater(&self.e, y, x)).unwrap_or_else(|| self.f32(0.0));
        let factors: Vec<Value> = statistics.iter().map(|m| self.weight(s, m[0], largest)).collect();
        let scaled = |values: Vec<Value<'c>>| {
            let all = values.into_iter().zip(&factors);
            all.fold(self.f32(0.0), |sum, (value, factor)| self.e.fma(*factor, value, sum))
        };
        let factor = self.reciprocal(scaled(statistics.iter().map(|m| m[1]).collect()));
        (0..NEIGHBOURS as usize).map(|j| self.e.fmul(scaled(totals.iter().map(|t| t[j]).collect()), factor)).collect()
    }
}
