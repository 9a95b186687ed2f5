//! Attention: scores, softmax and weighted values of a strip of rows, one after the other, while the scores are in cache.
//!
//! A unit of work is a block of rows of one batch. It takes the keys in blocks: it packs them (the lanes run along the keys),
//! and for each strip of rows makes a register tile of scores at a time, exponentials of them, and the sums of the values. Where
//! there is more than one block of keys, sums and maxima so far are kept in private memory and scaled down whenever a larger
//! score turns up (online softmax: Milakov and Gimelshein 2018, arXiv:1805.02867; blocks of keys: Dao et al. 2022,
//! arXiv:2205.14135), so that private memory does not grow with the sequence.
//! A unit of few rows, as when a language model makes one token after another, reads each key once and as it lies.
//! **Invariant.** What a row gives depends on the extents and the target only, not on the part or strip that it is in.
//!
//! ```text
//! for units of batch and 16 strips of rows:
//!     for blocks of 512 keys: pack the keys, unless there are few rows
//!         for strips of rows:
//!             s = score(q * packed)              up to the last key that a row of the strip sees
//!             m' = max(m, s); p = exp(s - m'); sum = sum*exp(m - m') + p
//!             total = total*exp(m - m') + p * v
//!     epilogue(total / sum)
//! ```

mod few;
mod keys;
mod softmax;

use super::emit::Value;
use super::point::Point;
use super::scope::{Gen, Run};
use crate::kernel::{Axis, Chain};
use egret_ir::{DType, Dim};
use egret_runtime::plan::ALIGN;
use inkwell::values::{IntValue, PointerValue};
use inkwell::{FloatPredicate, IntPredicate};
use std::sync::Arc;

/// Keys of a block: 512 keys of 64 channels are 128 KiB, which the second-level cache holds beside their values. Fewer make
/// the scaling of totals felt (8 % with 128); up to this many keys there is none.
const KEY_BLOCK: i64 = 512;

/// Strips of rows of a unit: packing the keys is then a few per cent of the unit's work.
const STRIPS_PER_UNIT: usize = 16;

/// A unit of at most this many rows does not pack the keys: that pays from about six products with each of them.
const FEW_ROWS: i64 = 4;

/// Vectors of values that few rows are multiplied with together: their sums hide the latency of the multiply-add.
const VECTORS_OF_FEW: usize = 4;

/// Rows that share a base address where the pitch is not a number: the machine scales an index register by 4 and by 8 bytes.
const ROWS_PER_POINTER: usize = 3;

/// Size of an f32.
const F32: usize = 4;

/// Where the pieces of private memory lie, in bytes, and their extents.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    /// Whether all keys are one block.
    single: bool,
    /// Keys of a panel.
    width: i64,
    /// Scores from one row to the next.
    pitch: i64,
    /// Where the scores begin; packed keys are at 0.
    scores: i64,
    /// Totals of all rows of a unit, and from one row to the next.
    totals: i64,
    total_pitch: i64,
    /// The largest score of each row of a unit.
    maxima: i64,
    /// The sum of exponentials of each row of a unit.
    sums: i64,
    end: i64,
}

impl Memory {
    /// What a kernel needs.
    pub(crate) fn of(c: &Chain, lanes: usize) -> Memory {
        let align = |n: i64| (n + ALIGN as i64 - 1) / ALIGN as i64 * ALIGN as i64;
        let (lanes, bytes) = (lanes as i64, F32 as i64);
        let (depth, cols) = (extent(&c.depth), extent(&c.cols));
        let single = c.keys.extent.as_const().is_some_and(|n| n <= KEY_BLOCK);
        let width = c.tile.vectors as i64 * lanes;
        let panels = (if single { extent(&c.keys) } else { KEY_BLOCK } + width - 1) / width;
        // One vector more, so that rows do not start at the same address modulo a page.
        let pitch = panels * width + lanes;
        let total_pitch = (cols + lanes - 1) / lanes * lanes;
        let rows = if single { 0 } else { unit_rows(c) };
        let scores = if Form::of(c) == Some(Form::AsTheyLie) { 0 } else { align(panels * width * depth * bytes) };
        let totals = scores + align(pitch * c.tile.rows as i64 * bytes);
        let maxima = totals + align(rows * total_pitch * bytes);
        let sums = maxima + align(rows * bytes);
        Memory { single, width, pitch, scores, totals, total_pitch, maxima, sums, end: sums + align(rows * bytes) }
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> i64 {
        self.end
    }
}

/// Depth and columns are numbers, and the keys are where this is asked.
fn extent(axis: &Axis) -> i64 {
    axis.extent.as_const().expect("the kernel IR says that this extent is a number")
}

fn unit_rows(c: &Chain) -> i64 {
    (c.tile.rows * STRIPS_PER_UNIT) as i64
}

/// The axes that the parts divide: batch, outer rows, blocks of the tiled rows.
pub(crate) fn unit_axes(c: &Chain) -> Vec<Axis> {
    let Some((tiled, outer)) = c.rows.split_last() else { return c.batch.clone() };
    let blocks = tiled.extent.ceil_div(&unit_rows(c).into());
    let block = (!blocks.is(1)).then(|| Axis::new(block_name(tiled), blocks));
    [&c.batch[..], outer].concat().into_iter().chain(block).collect()
}

fn block_name(tiled: &Axis) -> Arc<str> {
    format!("{}'block", tiled.name).into()
}

/// A stretch of indices.
#[derive(Clone, Copy)]
struct Stretch<'c> {
    start: IntValue<'c>,
    end: IntValue<'c>,
}

/// The row pointers of a tile: one for every few rows, and how far the rows are apart, in elements.
struct Rows<'c> {
    bases: Vec<PointerValue<'c>>,
    pitch: IntValue<'c>,
}

/// How a unit reads the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Packed first, for many rows.
    Packed,
    /// Once and in place, for few.
    AsTheyLie,
}

impl Form {
    /// That of all units, where the number of rows is known now.
    fn of(c: &Chain) -> Option<Form> {
        let form = |m: i64| if m <= FEW_ROWS { Form::AsTheyLie } else { Form::Packed };
        match c.rows.last() {
            _ if !few::serves(c) => Some(Form::Packed),
            None => Some(Form::AsTheyLie),
            Some(tiled) => tiled.extent.as_const().map(form),
        }
    }
}

/// The operands of a register tile: `a` is stepped by `a_step` elements and `b`, of which `masks` count, by `b_step`.
struct Operands<'c> {
    a: Rows<'c>,
    a_step: IntValue<'c>,
    b: PointerValue<'c>,
    b_step: IntValue<'c>,
    masks: Vec<Option<Value<'c>>>,
}

/// The keys that a strip works on: those of a block up to the last that one of its rows sees.
#[derive(Clone, Copy)]
struct Keys<'c> {
    block: Stretch<'c>,
    seen: IntValue<'c>,
    form: Form,
}

/// What the rows of a strip have to be multiplied by.
type Factors<'c> = Vec<Value<'c>>;

/// What becomes of the weighted values: points of the columns, their rows in the strip, and the sums.
type Finish<'f, 'a, 'c> = &'f mut dyn FnMut(&mut Gen<'a, 'c>, Vec<(Point<'c>, usize, Value<'c>)>);

/// What a strip does, given its number of rows.
type Strip<'s, 'a, 'c> = &'s mut dyn FnMut(&mut Gen<'a, 'c>, usize);

impl<'a, 'c> Gen<'a, 'c> {
    /// Emits an attention.
    pub(crate) fn chain(&mut self, c: &Chain) {
        let extents: Vec<Dim> = c.batch.iter().chain(&c.rows).chain([&c.cols]).map(|a| a.extent.clone()).collect();
        let memory = Memory::of(c, self.e.lanes);
        self.unless_empty(&extents, |g| {
            g.for_part(&unit_axes(c), |g| {
                let rows = g.unit_stretch(c);
                g.in_form(c, rows, &mut |g, form| match memory.single {
                    true => g.unit_of_one_block(c, &memory, rows, form),
                    false => g.unit_of_blocks(c, &memory, rows, form),
                });
            });
        });
    }

    /// The rows of the current unit.
    fn unit_stretch(&mut self, c: &Chain) -> Stretch<'c> {
        let Some(tiled) = c.rows.last() else { return Stretch { start: self.e.i64(0), end: self.e.i64(1) } };
        let end = self.index(&tiled.extent);
        if tiled.extent.as_const().is_some_and(|m| m <= unit_rows(c)) {
            return Stretch { start: self.e.i64(0), end };
        }
        let start = self.index(&(Dim::symbol(block_name(tiled)) * unit_rows(c)));
        let next = self.e.index_add(start, self.e.i64(unit_rows(c)));
        Stretch { start, end: self.e.imin(next.into(), end.into(), true).into_int_value() }
    }

    /// Runs `body` in the form that suits the number of rows.
    fn in_form(&mut self, c: &Chain, rows: Stretch<'c>, body: &mut dyn FnMut(&mut Self, Form)) {
        if let Some(form) = Form::of(c) {
            return body(self, form);
        }
        let count = self.e.index_sub(rows.end, rows.start);
        let few = self.e.icmp(IntPredicate::SLE, count.into(), self.e.i64(FEW_ROWS).into());
        let many = self.e.not(few).into_int_value();
        self.when(few.into_int_value(), |g| body(g, Form::AsTheyLie));
        self.when(many, |g| body(g, Form::Packed));
    }

    fn unit_of_one_block(&mut self, c: &Chain, m: &Memory, rows: Stretch<'c>, form: Form) {
        let block = Stretch { start: self.e.i64(0), end: self.last_key(c, rows) };
        if form == Form::Packed {
            self.pack_keys(c, m, block);
        }
        self.row_strips(c, rows, form, &mut |g, count| {
            let keys = Keys { block, seen: g.seen_by(c, count, block), form };
            g.scores(c, m, count, keys);
            let sums: Vec<Value> = g.softmax(c, m, count, keys, None).into_iter().map(|(_, sum)| sum).collect();
            let factors = g.reciprocals(sums);
            g.weighted_values(c, m, count, keys, None, &mut |g, points| {
                let scaled = points.into_iter().map(|(point, row, acc)| g.finished(point, acc, factors[row]));
                let scaled = scaled.collect();
                g.block(&c.epilogue, scaled);
            });
        });
    }

    fn unit_of_blocks(&mut self, c: &Chain, m: &Memory, rows: Stretch<'c>, form: Form) {
        self.clear_totals(m, rows);
        let last = self.last_key(c, rows);
        let name = self.fresh("keys");
        let range = self.axis_range(&c.keys);
        let run = Run { start: self.e.i64(0), end: last, step: KEY_BLOCK, certain: false, range };
        self.repeat(&name, run, vec![], |g, _| {
            let start = g.symbol(&name).value;
            let end = g.e.index_add(start, g.e.i64(KEY_BLOCK));
            let block = Stretch { start, end: g.e.imin(end.into(), last.into(), true).into_int_value() };
            if form == Form::Packed {
                g.pack_keys(c, m, block);
            }
            g.row_strips(c, rows, form, &mut |g, count| {
                let keys = Keys { block, seen: g.seen_by(c, count, block), form };
                let some = g.e.icmp(IntPredicate::SGT, keys.seen.into(), block.start.into()).into_int_value();
                g.when(some, |g| g.strip_of_block(c, m, count, rows, keys));
            });
            vec![]
        });
        self.row_strips(c, rows, form, &mut |g, count| g.finish_strip(c, m, count, rows));
    }

    /// One strip against one block of keys, on top of what the blocks before have left.
    fn strip_of_block(&mut self, c: &Chain, m: &Memory, count: usize, rows: Stretch<'c>, keys: Keys<'c>) {
        self.scores(c, m, count, keys);
        let within = self.row_in_unit(c, rows);
        let base = self.e.offset(self.private(m.sums), within, F32);
        let float = self.e.register_type(DType::F32);
        let mut factors = vec![];
        for (i, (factor, sum)) in self.softmax(c, m, count, keys, Some(within)).into_iter().enumerate() {
            let at = self.e.displaced(base, (i * F32) as i64);
            let before = self.e.load(float, at, F32);
            self.e.store(self.e.fma(before, factor, sum), at, F32);
            factors.push(factor);
        }
        self.weighted_values(c, m, count, keys, Some((&factors, within)), &mut |g, points| {
            for (point, row, acc) in points {
                let to = g.total_at(c, m, within, row, &point);
                g.e.store(acc, to, F32);
            }
        });
    }

    /// The epilogue of a strip, from the totals.
    fn finish_strip(&mut self, c: &Chain, m: &Memory, count: usize, rows: Stretch<'c>) {
        let within = self.row_in_unit(c, rows);
        let float = self.e.register_type(DType::F32);
        let vector = self.e.vector_type(float, self.e.lanes).into();
        let base = self.e.offset(self.private(m.sums), within, F32);
        let sums = (0..count).map(|i| self.e.load(float, self.e.displaced(base, (i * F32) as i64), F32)).collect();
        let factors = self.reciprocals(sums);
        self.col_panels(c, c.tile.vectors, &mut |g, masks| {
            for (row, factor) in factors.iter().enumerate() {
                let points = g.col_points(c, row, masks).into_iter().map(|point| {
                    let at = g.total_at(c, m, within, row, &point);
                    let total = g.e.load(vector, at, F32);
                    g.finished(point, total, *factor)
                });
                let points = points.collect();
                g.block(&c.epilogue, points);
            }
        });
    }

    fn finished(&self, point: Point<'c>, acc: Value<'c>, factor: Value<'c>) -> Point<'c> {
        point.with(&"acc".into(), self.e.fmul(acc, self.e.splat(factor)))
    }

    /// `1 / sum`, or 0 for a row that saw nothing.
    fn reciprocals(&self, sums: Vec<Value<'c>>) -> Factors<'c> {
        let reciprocal = |sum: Value<'c>| {
            let nothing = self.e.fcmp(FloatPredicate::OEQ, sum, self.e.float(sum, 0.0));
            self.e.select(nothing, self.e.float(sum, 0.0), self.e.fdiv(self.e.float(sum, 1.0), sum))
        };
        sums.into_iter().map(reciprocal).collect()
    }

    /// An address in this part's private memory.
    fn private(&self, at: i64) -> PointerValue<'c> {
        self.e.displaced(self.scratch.expect("an attention has private memory"), at)
    }

    /// The row of the unit that the strip starts at.
    fn row_in_unit(&mut self, c: &Chain, rows: Stretch<'c>) -> IntValue<'c> {
        match c.rows.last() {
            Some(tiled) => self.e.index_sub(self.symbol(&tiled.name).value, rows.start),
            None => self.e.i64(0),
        }
    }

    /// Where the total of a row of the strip lies, at a vector of columns.
    fn total_at(&mut self, c: &Chain, m: &Memory, within: IntValue<'c>, row: usize, point: &Point<'c>) -> PointerValue<'c> {
        let col = self.index(&point.place(&c.cols.index()));
        let base = self.e.offset(self.private(m.totals), self.e.index_mul(within, self.e.i64(m.total_pitch)), F32);
        self.e.displaced(self.e.offset(base, col, F32), row as i64 * m.total_pitch * F32 as i64)
    }

    fn clear_totals(&mut self, m: &Memory, rows: Stretch<'c>) {
        let float = self.e.register_type(DType::F32);
        let zero = self.e.zero(self.e.vector_type(float, self.e.lanes).into());
        let lowest = self.e.splat(self.e.float_of(float, f64::from(f32::MIN)));
        let count = self.e.index_sub(rows.end, rows.start);
        let totals = self.e.index_mul(count, self.e.i64(m.total_pitch));
        for (start, end, value) in [(m.totals, totals, zero), (m.maxima, count, lowest), (m.sums, count, zero)] {
            let (base, name) = (self.private(start), self.fresh("clear"));
            let run = Run { start: self.e.i64(0), end, step: self.e.lanes as i64, certain: false, range: (0, super::scope::HUGE) };
            self.repeat(&name, run, vec![], |g, _| {
                let at = g.symbol(&name).value;
                g.e.store(value, g.e.offset(base, at, F32), F32);
                vec![]
            });
        }
    }

    // ---- which rows and keys

    /// Strips of rows: whole ones, then the rows that are left.
    fn row_strips(&mut self, c: &Chain, rows: Stretch<'c>, form: Form, body: Strip<'_, 'a, 'c>) {
        let Some(tiled) = c.rows.last() else { return body(self, 1) };
        let most = if form == Form::AsTheyLie { FEW_ROWS } else { unit_rows(c) };
        let (step, range) = (most.min(c.tile.rows as i64), self.axis_range(tiled));
        let length = self.e.index_sub(rows.end, rows.start);
        let whole = self.e.index_mul(self.e.index_div(length, self.e.i64(step)), self.e.i64(step));
        let stop = self.e.index_add(rows.start, whole);
        self.repeat(&tiled.name, Run { start: rows.start, end: stop, step, certain: false, range }, vec![], |g, _| {
            body(g, step as usize);
            vec![]
        });
        // Units are whole strips, so rows are left in the last one only.
        match tiled.extent.modulo(&step.into()).as_const() {
            Some(0) => {}
            Some(rest) => {
                self.repeat(&tiled.name, Run { start: stop, end: rows.end, step: rest, certain: false, range }, vec![], |g, _| {
                    body(g, rest as usize);
                    vec![]
                });
            }
            None => self.rows_left(tiled, step, Stretch { start: stop, end: rows.end }, body),
        }
    }

    /// A number of rows that is known at run time only, below that of a whole strip: strips of 4, 2 and 1 rows.
    fn rows_left(&mut self, tiled: &Axis, below: i64, rows: Stretch<'c>, body: Strip<'_, 'a, 'c>) {
        let (mut start, range) = (rows.start, self.axis_range(tiled));
        let sizes = (0..4).rev().map(|bit| 1 << bit).filter(|&size| size < below);
        for size in sizes {
            let left = self.e.index_sub(rows.end, start);
            let whole = self.e.index_mul(self.e.index_div(left, self.e.i64(size)), self.e.i64(size));
            let end = self.e.index_add(start, whole);
            self.repeat(&tiled.name, Run { start, end, step: size, certain: false, range }, vec![], |g, _| {
                body(g, size as usize);
                vec![]
            });
            start = end;
        }
    }

    /// The end of the keys that some row of a stretch sees.
    fn last_key(&mut self, c: &Chain, rows: Stretch<'c>) -> IntValue<'c> {
        let all = self.index(&c.keys.extent);
        let Some(tiled) = c.rows.last().filter(|_| c.is_causal()) else { return all };
        let (range, last) = (self.axis_range(tiled), self.e.index_sub(rows.end, self.e.i64(1)));
        let name = self.fresh("last");
        let seen = c.seen.substitute(&|s| (s == &*tiled.name).then(|| Dim::symbol(name.clone())));
        self.top().symbols.insert(name, super::scope::Symbol { value: last, range });
        self.held(&seen, all)
    }

    /// The end of the keys of a block that some row of the strip sees.
    fn seen_by(&mut self, c: &Chain, count: usize, keys: Stretch<'c>) -> IntValue<'c> {
        match c.is_causal() {
            true => self.seen_by_row(c, count - 1, keys),
            false => keys.end,
        }
    }

    /// The end of the keys of a block that a row of the strip sees.
    fn seen_by_row(&mut self, c: &Chain, row: usize, keys: Stretch<'c>) -> IntValue<'c> {
        let seen = match c.rows.last() {
            Some(tiled) => c.seen.substitute(&|s| (s == &*tiled.name).then(|| tiled.index() + row as i64)),
            None => c.seen.clone(),
        };
        self.held(&seen, keys.end)
    }

    /// An index, held below a bound and not negative.
    fn held(&mut self, d: &Dim, most: IntValue<'c>) -> IntValue<'c> {
        let value = self.index(d);
        let held = self.e.imin(value.into(), most.into(), true);
        self.e.imax(held, self.e.i64(0).into(), true).into_int_value()
    }

    // ---- scores

    /// The scores of a strip for the keys of a block below `seen`.
    fn scores(&mut self, c: &Chain, m: &Memory, count: usize, keys: Keys<'c>) {
        match keys.form {
            Form::Packed => self.scores_of_packed(c, m, count, keys),
            Form::AsTheyLie => self.scores_of_few(c, m, count, keys),
        }
    }

    fn scores_of_packed(&mut self, c: &Chain, m: &Memory, count: usize, keys: Keys<'c>) {
        self.key_panels(c, m.width, keys.block, keys.seen, &mut |g, left| {
            let b = g.key_panel(c, keys.block);
            let masks = g.masks_of_keys(c, left);
            let acc = g.products_with_keys(c, count, b, g.e.i64(m.width), vec![None; c.tile.vectors]);
            for (n, acc) in acc.into_iter().enumerate() {
                let (row, vector) = (n / c.tile.vectors, n % c.tile.vectors);
                g.score(c, m, keys.block, (row.into(), vector), masks[vector], acc);
            }
        });
    }

    /// Which lanes of a panel of keys are keys.
    fn masks_of_keys(&self, c: &Chain, left: Option<IntValue<'c>>) -> Vec<Option<Value<'c>>> {
        (0..c.tile.vectors).map(|j| left.map(|left| self.lanes_left(left, j))).collect()
    }

    /// The products of a strip of queries with a panel of keys, row by row.
    fn products_with_keys(
        &mut self,
        c: &Chain,
        count: usize,
        b: PointerValue<'c>,
        b_step: IntValue<'c>,
        masks: Vec<Option<Value<'c>>>,
    ) -> Vec<Value<'c>> {
        let a = self.query_rows(c, count);
        let a_step = self.index(&stride(&c.q.1, &c.depth).unwrap_or(Dim::ZERO));
        let (steps, acc) = (self.e.i64(extent(&c.depth)), self.zeros(count * masks.len()));
        self.tile_product(&Operands { a, a_step, b, b_step, masks }, steps, acc)
    }

    /// Stores the scores of a row for a vector of keys, given their products.
    fn score(&mut self, c: &Chain, m: &Memory, keys: Stretch<'c>, (row, vector): (Dim, usize), mask: Option<Value<'c>>, acc: Value<'c>) {
        let mut point = Point::vector(&c.keys.name, mask).moved(&c.keys.name, (vector * self.e.lanes) as i64);
        if let Some(tiled) = c.rows.last() {
            point = point.moved(&tiled.name, row.clone());
        }
        let mut point = point.with(&"acc".into(), acc);
        self.lets(&mut point, &c.lets);
        let score = self.eval(&mut point, &c.score);
        let to = self.score_row(c, m, &row, keys);
        self.e.store(self.e.splat(score), self.e.displaced(to, (vector * self.e.lanes * F32) as i64), F32);
    }

    /// Where the scores of a row are for the current key.
    fn score_row(&mut self, c: &Chain, m: &Memory, row: &Dim, keys: Stretch<'c>) -> PointerValue<'c> {
        let within = self.e.index_sub(self.symbol(&c.keys.name).value, keys.start);
        let row = self.index(&(row.clone() * m.pitch));
        self.e.offset(self.e.offset(self.score_start(m, 0), row, F32), within, F32)
    }

    /// Where the scores of a row begin.
    fn score_start(&self, m: &Memory, row: usize) -> PointerValue<'c> {
        self.private(m.scores + row as i64 * m.pitch * F32 as i64)
    }

    fn query_rows(&mut self, c: &Chain, count: usize) -> Rows<'c> {
        let first = c.q.1.substitute(&|s| (s == &*c.depth.name).then_some(Dim::ZERO));
        let base = self.pointer(c.q.0, &first);
        let pitch = c.rows.last().and_then(|tiled| stride(&first, tiled)).unwrap_or(Dim::ZERO);
        let pitch = self.index(&pitch);
        self.row_pointers(base, pitch, count)
    }

    fn row_pointers(&self, base: PointerValue<'c>, pitch: IntValue<'c>, count: usize) -> Rows<'c> {
        if pitch.get_sign_extended_constant().is_some() {
            return Rows { bases: vec![base], pitch };
        }
        let bases = (0..count.div_ceil(ROWS_PER_POINTER)).map(|i| {
            let apart = self.e.index_mul(pitch, self.e.i64((i * ROWS_PER_POINTER) as i64));
            self.e.offset(base, apart, F32)
        });
        Rows { bases: bases.collect(), pitch }
    }

    /// The address of a row of a tile.
    fn row_at(&self, bases: &[PointerValue<'c>], pitch: IntValue<'c>, row: usize) -> PointerValue<'c> {
        match (pitch.get_sign_extended_constant(), row % ROWS_PER_POINTER) {
            (Some(pitch), _) => self.e.displaced(bases[0], pitch * (row * F32) as i64),
            (None, 0) => bases[row / ROWS_PER_POINTER],
            (None, rest) => self.e.offset(bases[row / ROWS_PER_POINTER], pitch, rest * F32),
        }
    }

    fn zeros(&self, count: usize) -> Vec<Value<'c>> {
        vec![self.e.zero(self.e.vector_type(self.e.register_type(DType::F32), self.e.lanes).into()); count]
    }

    /// `acc[row][vector] += sum over steps of a[row] * b[vector]`, in order.
    fn tile_product(&mut self, o: &Operands<'c>, steps: IntValue<'c>, acc: Vec<Value<'c>>) -> Vec<Value<'c>> {
        let (count, pointers) = (acc.len(), o.a.bases.len());
        let carried = acc.into_iter().chain(o.a.bases.iter().map(|&p| p.into())).chain([o.b.into()]).collect();
        let run = Run { start: self.e.i64(0), end: steps, step: 1, certain: false, range: (0, super::scope::HUGE) };
        let name = self.fresh("step");
        let mut end = self.repeat(&name, run, carried, |g, mut carried| {
            let b = carried.pop().expect("b is carried").into_pointer_value();
            let bases: Vec<PointerValue> = carried.split_off(count).into_iter().map(|p| p.into_pointer_value()).collect();
            let mut next = g.tile_step(o, &bases, b, carried);
            next.extend(bases.iter().map(|&p| Value::from(g.e.offset(p, o.a_step, F32))));
            next.push(g.e.offset(b, o.b_step, F32).into());
            next
        });
        end.truncate(end.len() - pointers - 1);
        end
    }

    /// One step of a product.
    fn tile_step(&self, o: &Operands<'c>, bases: &[PointerValue<'c>], b: PointerValue<'c>, mut acc: Vec<Value<'c>>) -> Vec<Value<'c>> {
        let e = &self.e;
        let float = e.register_type(DType::F32);
        let vector = e.vector_type(float, e.lanes).into();
        let column = |(j, mask): (usize, &Option<Value<'c>>)| {
            let at = e.displaced(b, (j * e.lanes * F32) as i64);
            match mask {
                Some(mask) => e.masked_load(vector, at, *mask, F32),
                None => e.load(vector, at, F32),
            }
        };
        let columns: Vec<Value> = o.masks.iter().enumerate().map(column).collect();
        for (row, acc) in acc.chunks_mut(columns.len()).enumerate() {
            let x = e.splat(e.load(float, self.row_at(bases, o.a.pitch, row), F32));
            acc.iter_mut().zip(&columns).for_each(|(acc, column)| *acc = e.fma(x, *column, *acc));
        }
        acc
    }

    // ---- values

    /// The values of a block of keys, weighted by the exponentials of a strip; `before` has the factors of the totals so far, and
    /// the strip's first row in its unit.
    fn weighted_values(
        &mut self,
        c: &Chain,
        m: &Memory,
        count: usize,
        keys: Keys<'c>,
        before: Option<(&Factors<'c>, IntValue<'c>)>,
        finish: Finish<'_, 'a, 'c>,
    ) {
        let steps = self.e.index_sub(keys.seen, keys.block.start);
        let pitch = self.e.i64(m.pitch);
        let first = c.v.1.substitute(&|s| (s == &*c.keys.name).then_some(Dim::ZERO));
        let key_stride = stride(&c.v.1, &c.keys).unwrap_or(Dim::ZERO);
        let vectors = match keys.form {
            Form::Packed => c.tile.vectors,
            // Half the registers for the sums, and one for each of the loads.
            Form::AsTheyLie => (self.vregs / 2 / count).clamp(1, VECTORS_OF_FEW),
        };
        self.col_panels(c, vectors, &mut |g, masks| {
            let points: Vec<(usize, Point)> = (0..count)
                .flat_map(|row| g.col_points(c, row, masks).into_iter().map(move |point| (row, point)).collect::<Vec<_>>())
                .collect();
            let acc = match before {
                None => g.zeros(points.len()),
                Some((factors, within)) => points.iter().map(|(row, point)| g.total_so_far(c, m, within, *row, point, factors)).collect(),
            };
            let b_step = g.index(&key_stride);
            let b = g.pointer(c.v.0, &first);
            let b = g.e.offset(b, g.e.index_mul(keys.block.start, b_step), F32);
            let a = g.row_pointers(g.score_start(m, 0), pitch, count);
            let acc = g.tile_product(&Operands { a, a_step: g.e.i64(1), b, b_step, masks: vec![None; masks.len()] }, steps, acc);
            finish(g, points.into_iter().zip(acc).map(|((row, point), acc)| (point, row, acc)).collect());
        });
    }

    fn total_so_far(
        &mut self,
        c: &Chain,
        m: &Memory,
        within: IntValue<'c>,
        row: usize,
        point: &Point<'c>,
        factors: &Factors<'c>,
    ) -> Value<'c> {
        let at = self.total_at(c, m, within, row, point);
        let total = self.e.load(self.zeros(1)[0].get_type(), at, F32);
        self.e.fmul(total, self.e.splat(factors[row]))
    }

    /// Panels of columns, with a mask for each of their vectors.
    fn col_panels(&mut self, c: &Chain, vectors: usize, body: &mut dyn FnMut(&mut Self, &[Option<Value<'c>>])) {
        let (lanes, cols) = (self.e.lanes as i64, extent(&c.cols));
        let (width, range) = (lanes * vectors as i64, self.axis_range(&c.cols));
        let whole = cols / width * width;
        let run = Run { start: self.e.i64(0), end: self.e.i64(whole), step: width, certain: true, range };
        self.repeat(&c.cols.name, run, vec![], |g, _| {
            body(g, &vec![None; vectors]);
            vec![]
        });
        if whole == cols {
            return;
        }
        let rest = cols - whole;
        self.once(&c.cols.name, self.e.i64(whole), range, |g| {
            let mask = |j: i64| (rest < (j + 1) * lanes).then(|| g.lanes_left(g.e.i64(rest), j as usize));
            let masks: Vec<Option<Value>> = (0..(rest + lanes - 1) / lanes).map(mask).collect();
            body(g, &masks);
        });
    }

    /// The points of a row of the strip in a panel of columns.
    fn col_points(&self, c: &Chain, row: usize, masks: &[Option<Value<'c>>]) -> Vec<Point<'c>> {
        let point = |(j, mask): (usize, &Option<Value<'c>>)| {
            let point = Point::vector(&c.cols.name, *mask).moved(&c.cols.name, (j * self.e.lanes) as i64);
            match c.rows.last() {
                Some(tiled) => point.moved(&tiled.name, row as i64),
                None => point,
            }
        };
        masks.iter().enumerate().map(point).collect()
    }
}

fn stride(d: &Dim, axis: &Axis) -> Option<Dim> {
    d.linear_in(&axis.name).map(|(stride, _)| stride)
}
