//! Recurrent layers: step by step, the product of the state with the recurrent weights and the update of the cells.
//!
//! All gates of some neighbouring hidden units are summed side by side, so that the cells are updated in registers and only
//! states go to memory. Up to four rows of the batch share every load of a weight. **Invariant.** A sum runs over the hidden
//! units in order, whatever tile it is in, so the bits of a row do not depend on the other rows nor on the number of parts.
//!
//! ```text
//! for steps:
//!     for rows in tiles of 4, then of 2, then of 1:
//!         for vectors of units:
//!             for tiles:
//!                 acc[row][vector][gate] = load gates[t, row, gate, units]
//!                 for k: acc = fma(splat before[row, k], load weights[units, k, gate], acc)
//!                 y[t, row, units], c[row, units] = cell(acc)
//! ```
//!
//! Between the two stages of a GRU that resets the state before the product, `z` waits in the row of `y` that the step fills: each of
//! its elements is read just before the new state takes its place. And `r*h` waits in the row of `h`, which holds nothing else until
//! the last step is done.

use super::cell::{self, Stage};
use super::emit::Value;
use super::scope::{Gen, Run};
use crate::kernel::{Axis, BufferId, Recur};
use egret_ir::{DType, Dim};
use inkwell::IntPredicate;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{IntValue, PointerValue};

/// Rows of the batch that are computed together: the largest that fits the registers, then smaller ones for what is left.
const TILE_ROWS: [usize; 3] = [4, 2, 1];

/// Sums in flight that hide the latency of the multiply-add: 4 cycles on 2 pipes.
const LATENCY: usize = 8;

/// Registers beside accumulators and broadcast elements: a loaded weight, and one to spare.
const OTHER_REGISTERS: usize = 2;

/// A layer that is being emitted.
struct Layer<'a> {
    recur: &'a Recur,
    /// f32 or f64: states are kept in it, and so are sums.
    dtype: DType,
    /// Bytes of an element.
    size: usize,
    /// The steps, from 0 in the order in which they are done.
    step: Axis,
    /// The rows of the batch; in a tile, its first one.
    row: Axis,
    /// The hidden units; in a tile, its first one.
    unit: Axis,
}

impl Layer<'_> {
    /// The time that the current step is at, and the one before it.
    fn times(&self) -> (Dim, Dim) {
        match self.recur.reverse {
            false => (self.step.index(), self.step.index() - 1),
            true => (self.recur.steps.clone() - 1 - self.step.index(), self.recur.steps.clone() - self.step.index()),
        }
    }

    /// The time that the last step is at.
    fn last_time(&self) -> Dim {
        if self.recur.reverse { Dim::ZERO } else { self.recur.steps.clone() - 1 }
    }

    /// Where the states of a time begin in `y`.
    fn states_at(&self, time: Dim) -> Dim {
        time * self.recur.batch.clone() * self.recur.hidden
    }

    /// Where the tile's first element is in the states of a time.
    fn state(&self) -> Dim {
        self.row.index() * self.recur.hidden + self.unit.index()
    }
}

/// Rows of the batch, from one to before another.
type Rows<'c> = (IntValue<'c>, IntValue<'c>);

/// Rows of the batch that are done in tiles of one size.
#[derive(Clone, Copy)]
struct Strip<'c> {
    tile: usize,
    start: IntValue<'c>,
    end: IntValue<'c>,
}

/// Where the tile's elements stand in memory that holds a row every `pitch` bytes.
#[derive(Clone, Copy)]
struct Place<'c> {
    first: PointerValue<'c>,
    pitch: usize,
}

/// Some rows of the batch at some vectors of hidden units.
struct Tile<'c> {
    stage: Stage,
    rows: usize,
    /// Which lanes of each vector count; `None` for all.
    masks: Vec<Option<Value<'c>>>,
    /// The states before the step, from the first of the batch.
    before: PointerValue<'c>,
}

impl Gen<'_, '_> {
    /// Emits a recurrent layer.
    pub(crate) fn recur(&mut self, r: &Recur) {
        if r.hidden == 0 {
            return;
        }
        let dtype = self.kernel.buffers[r.y.0].dtype;
        let layer = Layer {
            recur: r,
            dtype,
            size: dtype.size(),
            step: Axis::new(self.fresh("step"), r.steps.clone()),
            row: Axis::new(self.fresh("row"), r.batch.clone()),
            unit: Axis::new(self.fresh("unit"), r.hidden),
        };
        layer.emit(self);
    }
}

impl Layer<'_> {
    fn emit<'c>(&self, g: &mut Gen<'_, 'c>) {
        let rows = g.part_range(&self.recur.batch);
        if let (Some(first), Some(running)) = (self.recur.c0, self.recur.c) {
            self.copy_states(g, rows, (first, Dim::ZERO), running);
        }
        let strips = self.strips(g, rows);
        let run = g.whole(&self.step, false);
        g.repeat(&self.step.name, run, vec![], |g, _| {
            self.advance(g, &strips);
            vec![]
        });
        self.last_state(g, rows);
    }

    /// `h` is the state of the last step, or the first state where there are no steps.
    fn last_state<'c>(&self, g: &mut Gen<'_, 'c>, rows: Rows<'c>) {
        let r = self.recur;
        let from_steps = (r.y, self.states_at(self.last_time()));
        match r.steps.as_const() {
            Some(0) => self.copy_states(g, rows, (r.h0, Dim::ZERO), r.h),
            Some(_) => self.copy_states(g, rows, from_steps, r.h),
            None => {
                let steps = g.index(&r.steps);
                let none = g.e.icmp(IntPredicate::SLE, steps.into(), g.e.i64(0).into());
                let some = g.e.not(none).into_int_value();
                g.when(none.into_int_value(), |g| self.copy_states(g, rows, (r.h0, Dim::ZERO), r.h));
                g.when(some, |g| self.copy_states(g, rows, from_steps, r.h));
            }
        }
    }

    /// Copies the states of some rows of the batch.
    fn copy_states<'c>(&self, g: &mut Gen<'_, 'c>, (start, end): Rows<'c>, (from, offset): (BufferId, Dim), to: BufferId) {
        let hidden = g.e.i64(self.recur.hidden as i64);
        let (start, end) = (g.e.index_mul(start, hidden), g.e.index_mul(end, hidden));
        let lane = Axis::new(g.fresh("state"), self.recur.batch.clone() * self.recur.hidden);
        g.lanes(&lane, start, end, 1, |g, points| {
            for mut point in points {
                let value = g.read(&mut point, from, &(offset.clone() + lane.index()));
                g.write(&point, to, &lane.index(), value);
            }
        });
    }

    /// Some rows of the batch, divided into strips of ever smaller tiles.
    fn strips<'c>(&self, g: &mut Gen<'_, 'c>, (start, end): Rows<'c>) -> Vec<Strip<'c>> {
        let gates = Stage::of(self.recur.cell).iter().map(|s| s.gates().len()).max().unwrap_or(1);
        let most = self.recur.batch.as_const().unwrap_or(i64::MAX);
        let mut strips = vec![];
        let mut start = start;
        for tile in TILE_ROWS.into_iter().filter(|&rows| rows == 1 || rows as i64 <= most && self.fits(g, rows, gates)) {
            let step = g.e.i64(tile as i64);
            let whole = g.e.index_div(g.e.index_sub(end, start), step);
            let end = g.e.index_add(start, g.e.index_mul(whole, step));
            strips.push(Strip { tile, start, end });
            start = end;
        }
        strips
    }

    /// Whether so many accumulators per row stay in registers.
    fn fits(&self, g: &Gen, rows: usize, per_row: usize) -> bool {
        // A vector of f64 takes two registers.
        let registers = self.size / DType::F32.size();
        (rows * per_row + rows + OTHER_REGISTERS) * registers <= g.vregs
    }

    /// How many vectors of units a tile has: enough sums in flight, as far as there are registers and units.
    fn vectors(&self, g: &Gen, rows: usize, gates: usize) -> usize {
        let wanted = LATENCY.div_ceil(rows * gates).min(self.recur.hidden.div_ceil(g.e.lanes));
        (1..=wanted).rev().find(|n| self.fits(g, rows, gates * n)).unwrap_or(1)
    }

    /// One step of this part's rows.
    fn advance<'c>(&self, g: &mut Gen<'_, 'c>, strips: &[Strip<'c>]) {
        let r = self.recur;
        let step = g.index(&self.step.index());
        let is_first = g.e.icmp(IntPredicate::EQ, step.into(), g.e.i64(0).into());
        let first = g.pointer(r.h0, &Dim::ZERO);
        let other = g.pointer(r.y, &self.states_at(self.times().1));
        let before = g.e.select(is_first, first.into(), other.into()).into_pointer_value();
        for stage in Stage::of(r.cell) {
            for &strip in strips {
                let some = g.e.icmp(IntPredicate::SLT, strip.start.into(), strip.end.into()).into_int_value();
                g.when(some, |g| self.units(g, stage, before, strip));
            }
        }
    }

    /// All hidden units of a strip: tiles of whole vectors, then one of what is left.
    fn units<'c>(&self, g: &mut Gen<'_, 'c>, stage: Stage, before: PointerValue<'c>, strip: Strip<'c>) {
        let lanes = g.e.lanes;
        let (whole, rest) = (self.recur.hidden / lanes, self.recur.hidden % lanes);
        let vectors = self.vectors(g, strip.tile, stage.gates().len());
        let range = g.axis_range(&self.unit);
        let stop = g.e.i64((whole / vectors * vectors * lanes) as i64);
        let run = Run { start: g.e.i64(0), end: stop, step: (vectors * lanes) as i64, certain: false, range };
        g.repeat(&self.unit.name, run, vec![], |g, _| {
            self.tiles(g, &Tile { stage, rows: strip.tile, masks: vec![None; vectors], before }, strip);
            vec![]
        });
        let mut masks = vec![None; whole % vectors];
        if rest > 0 {
            masks.push(Some(g.first_lanes(g.e.i64(rest as i64).into())));
        }
        if !masks.is_empty() {
            g.once(&self.unit.name, stop, range, |g| self.tiles(g, &Tile { stage, rows: strip.tile, masks, before }, strip));
        }
    }

    /// The tiles of a strip, which has some, at the same hidden units.
    fn tiles<'c>(&self, g: &mut Gen<'_, 'c>, tile: &Tile<'c>, strip: Strip<'c>) {
        let run = Run { start: strip.start, end: strip.end, step: strip.tile as i64, certain: true, range: g.axis_range(&self.row) };
        g.repeat(&self.row.name, run, vec![], |g, _| {
            self.tile(g, tile);
            vec![]
        });
    }

    fn tile<'c>(&self, g: &mut Gen<'_, 'c>, tile: &Tile<'c>) {
        let acc = self.inputs(g, tile);
        let acc = self.product(g, tile, acc);
        let gates = tile.stage.gates().len();
        for (n, acc) in acc.chunks(gates).enumerate() {
            self.update(g, tile, (n / tile.masks.len(), n % tile.masks.len()), acc);
        }
    }

    // ---- memory

    /// The elements of the tile in a buffer of states, from an offset on.
    fn states<'c>(&self, g: &mut Gen<'_, 'c>, buffer: BufferId, offset: Dim) -> Place<'c> {
        Place { first: g.pointer(buffer, &(offset + self.state())), pitch: self.recur.hidden * self.size }
    }

    /// The states of the tile before the step.
    fn states_before<'c>(&self, g: &mut Gen<'_, 'c>, tile: &Tile<'c>) -> Place<'c> {
        let at = g.index(&self.state());
        Place { first: g.e.offset(tile.before, at, self.size), pitch: self.recur.hidden * self.size }
    }

    /// The input of the tile for a gate.
    fn input<'c>(&self, g: &mut Gen<'_, 'c>, gate: usize) -> Place<'c> {
        let r = self.recur;
        let row = self.times().0 * r.batch.clone() + self.row.index();
        let width = r.cell.gates() * r.hidden;
        let at = row * width + gate * r.hidden + self.unit.index();
        Place { first: g.pointer(r.gates, &at), pitch: width * self.size }
    }

    fn vector<'c>(&self, g: &Gen<'_, 'c>) -> BasicTypeEnum<'c> {
        g.e.vector_type(g.e.register_type(self.dtype), g.e.lanes).into()
    }

    fn address<'c>(&self, g: &Gen<'_, 'c>, place: Place<'c>, (row, vector): (usize, usize)) -> PointerValue<'c> {
        g.e.displaced(place.first, (row * place.pitch + vector * g.e.lanes * self.size) as i64)
    }

    fn load_lanes<'c>(&self, g: &Gen<'_, 'c>, tile: &Tile<'c>, place: Place<'c>, at: (usize, usize)) -> Value<'c> {
        let (vector, pointer) = (self.vector(g), self.address(g, place, at));
        match tile.masks[at.1] {
            None => g.e.load(vector, pointer, self.size),
            Some(mask) => g.e.masked_load(vector, pointer, mask, self.size),
        }
    }

    fn store_lanes<'c>(&self, g: &Gen<'_, 'c>, tile: &Tile<'c>, value: Value<'c>, place: Place<'c>, at: (usize, usize)) {
        let pointer = self.address(g, place, at);
        match tile.masks[at.1] {
            None => g.e.store(value, pointer, self.size),
            Some(mask) => g.e.masked_store(value, pointer, mask, self.size),
        }
    }

    // ---- one tile

    /// What the sums start from, `[row][vector][gate]`: the input's part, or what is added before the reset.
    fn inputs<'c>(&self, g: &mut Gen<'_, 'c>, tile: &Tile<'c>) -> Vec<Value<'c>> {
        let zero = g.e.zero(self.vector(g));
        let gates = tile.stage.gates().map(|gate| match (tile.stage, gate) {
            (Stage::LinearGru, 2) => self.recur.bias.map(|bias| Place { first: g.pointer(bias, &self.unit.index()), pitch: 0 }),
            _ => Some(self.input(g, gate)),
        });
        let places: Vec<Option<Place>> = gates.collect();
        let mut acc = vec![];
        for row in 0..tile.rows {
            for vector in 0..tile.masks.len() {
                acc.extend(places.iter().map(|p| p.map_or(zero, |p| self.load_lanes(g, tile, p, (row, vector)))));
            }
        }
        acc
    }

    /// Adds the products of the states, or of `r*h`, with the recurrent weights.
    fn product<'c>(&self, g: &mut Gen<'_, 'c>, tile: &Tile<'c>, acc: Vec<Value<'c>>) -> Vec<Value<'c>> {
        let r = self.recur;
        let (gates, all, count) = (tile.stage.gates(), r.cell.gates(), acc.len());
        // Vector v of the units starts at v*h*gates*lanes, which is h*gates times its first unit.
        let weights = g.pointer(r.weights, &(self.unit.index() * (r.hidden * all) + gates.start * g.e.lanes));
        let row = self.row.index() * r.hidden;
        let state = match tile.stage {
            Stage::Candidate => g.pointer(r.h, &row),
            Stage::Lstm | Stage::LinearGru | Stage::ResetGates | Stage::Plain(_) => {
                let row = g.index(&row);
                g.e.offset(tile.before, row, self.size)
            }
        };
        let vector_bytes = g.e.lanes * self.size;
        let k = Axis::new(g.fresh("k"), r.hidden);
        let run = g.whole(&k, true);
        let carried = acc.into_iter().chain([state.into(), weights.into()]).collect();
        let mut end = g.repeat(&k.name, run, carried, |g, mut acc| {
            let (e, vector) = (&g.e, self.vector(g));
            let weights = acc.pop().expect("the weights are carried").into_pointer_value();
            let state = acc.pop().expect("the state is carried").into_pointer_value();
            let element = e.register_type(self.dtype);
            let states: Vec<Value> = (0..tile.rows)
                .map(|i| e.splat(e.load(element, e.displaced(state, (i * r.hidden * self.size) as i64), self.size)))
                .collect();
            let per_row = tile.masks.len() * gates.len();
            for column in 0..per_row {
                let (v, gate) = (column / gates.len(), column % gates.len());
                let at = e.displaced(weights, ((v * r.hidden * all + gate) * vector_bytes) as i64);
                let weight = e.load(vector, at, self.size);
                for (i, &x) in states.iter().enumerate() {
                    acc[i * per_row + column] = e.fma(x, weight, acc[i * per_row + column]);
                }
            }
            acc.push(e.displaced(state, self.size as i64).into());
            acc.push(e.displaced(weights, (all * vector_bytes) as i64).into());
            acc
        });
        end.truncate(count);
        end
    }

    /// Updates the cells of one vector.
    fn update<'c>(&self, g: &mut Gen<'_, 'c>, tile: &Tile<'c>, at: (usize, usize), acc: &[Value<'c>]) {
        let r = self.recur;
        let y = self.states(g, r.y, self.states_at(self.times().0));
        let new = match tile.stage {
            Stage::Lstm => {
                let Some(c) = r.c.map(|c| self.states(g, c, Dim::ZERO)) else { unreachable!("an LSTM has a cell state") };
                let old = self.load_lanes(g, tile, c, at);
                let (cell, state) = cell::lstm(&g.e, acc, old);
                self.store_lanes(g, tile, cell, c, at);
                state
            }
            Stage::LinearGru => {
                let (input, before) = (self.input(g, 2), self.states_before(g, tile));
                let (input, h) = (self.load_lanes(g, tile, input, at), self.load_lanes(g, tile, before, at));
                cell::linear_gru(&g.e, acc, input, h)
            }
            Stage::ResetGates => {
                let (before, reset) = (self.states_before(g, tile), self.states(g, r.h, Dim::ZERO));
                let h = self.load_lanes(g, tile, before, at);
                let (z, product) = cell::reset_gates(&g.e, acc, h);
                self.store_lanes(g, tile, product, reset, at);
                z
            }
            Stage::Candidate => {
                let before = self.states_before(g, tile);
                let (z, h) = (self.load_lanes(g, tile, y, at), self.load_lanes(g, tile, before, at));
                cell::candidate(&g.e, acc[0], z, h)
            }
            Stage::Plain(activation) => activation(&g.e, acc[0]),
        };
        self.store_lanes(g, tile, new, y, at);
    }
}
