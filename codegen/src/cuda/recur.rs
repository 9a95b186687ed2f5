//! Recurrent layers: a block does a row of the batch, all steps of it.
//!
//! The states of a row, and the sums of its gates, are in shared memory. A thread does columns, a gate of a hidden unit each, so that
//! neighbouring threads read neighbours of the packed weights; then it does cells. Where the weights of a thread's columns fit
//! its registers they are read once, else at every step. One launch does all steps: a launch per step would take longer to
//! start than a step of a layer of usual size takes, and steps of different rows do not depend on each other. **Invariant.** The bits
//! of a row do not depend on the other rows.
//!
//! ```text
//! for steps:   sums[gate][unit] = sum over k of state[k] * weights[unit, k, gate]      a thread per gate and unit
//!              barrier   state[unit] = cell(gates[t, row] + sums), y[t, row, unit]     a thread per unit     barrier
//! ```

use super::grid::{THREADS, thread};
use crate::cpu::cell::{self, Stage};
use crate::cpu::emit::Value;
use crate::cpu::point::Point;
use crate::cpu::scope::{Gen, Run};
use crate::kernel::{BufferId, Recur};
use egret_ir::{DType, Dim};
use inkwell::types::BasicTypeEnum;
use inkwell::values::PointerValue;
use std::sync::Arc;

/// Shared memory that a block has without asking for more.
const SHARED_BYTES: usize = 48 << 10;

/// Weights that a thread keeps: half of its registers.
const MOST_KEPT: usize = 64;

/// Steps of `k` whose loads are in flight together.
const TOGETHER: usize = 16;

/// Bytes of the widest read of shared memory.
const WIDEST: usize = 16;

/// A layer that is being emitted.
struct Layer<'k, 'c> {
    recur: &'k Recur,
    dtype: DType,
    /// Hidden units of a panel of packed weights.
    lanes: usize,
    /// The row of the batch.
    row: Dim,
    step: Arc<str>,
    /// In shared memory: the states, `r*h` where a step has two stages, and the sums `[gate][unit]`.
    states: PointerValue<'c>,
    resets: PointerValue<'c>,
    sums: PointerValue<'c>,
}

/// The weights of a column of the thread, in registers or not.
type Kept<'c> = Option<Vec<Value<'c>>>;

impl Recur {
    /// Hidden units with those that fill the last panel.
    fn padded(&self, lanes: usize) -> usize {
        self.hidden.div_ceil(lanes) * lanes
    }

    fn is_two_staged(&self) -> bool {
        Stage::of(self.cell).len() > 1
    }

    /// Elements of shared memory.
    fn shared(&self, lanes: usize) -> usize {
        self.padded(lanes) * (1 + usize::from(self.is_two_staged()) + self.cell.gates())
    }

    /// Whether a block has memory enough for elements of a type.
    pub(super) fn fits(&self, dtype: DType, lanes: usize) -> bool {
        self.shared(lanes) * dtype.size() <= SHARED_BYTES
    }
}

impl<'c> Gen<'_, 'c> {
    /// Emits all steps of a row of the batch, of a layer whose weights are packed for `lanes` lanes.
    pub(super) fn recur_by_blocks(&mut self, r: &Recur, lanes: usize, row: &Dim) {
        let dtype = self.kernel.buffers[r.y.0].dtype;
        let states = self.e.shared(self.e.register_type(dtype), r.shared(lanes), WIDEST as u32);
        let after = |g: &Self, from, rows: usize| g.e.displaced(from, (r.padded(lanes) * rows * dtype.size()) as i64);
        let resets = after(self, states, 1);
        let sums = after(self, resets, usize::from(r.is_two_staged()));
        let step = self.fresh("%step");
        Layer { recur: r, dtype, lanes, row: row.clone(), step, states, resets, sums }.emit(self);
    }
}

impl<'c> Layer<'_, 'c> {
    fn emit(&self, g: &mut Gen<'_, 'c>) {
        let r = self.recur;
        self.over_units(g, |g, unit| {
            let first = self.read(g, r.h0, &self.of_row(unit));
            self.keep(g, first, self.states, unit);
            if let (Some(first), Some(running)) = (r.c0, r.c) {
                let first = self.read(g, first, &self.of_row(unit));
                g.write(&Point::scalar(), running, &self.of_row(unit), first);
            }
        });
        g.e.block_barrier();
        let kept: Vec<Vec<Kept>> = Stage::of(r.cell).into_iter().map(|stage| self.kept(g, stage)).collect();
        let (end, range) = (g.index(&r.steps), (0, (g.range(&r.steps).1 - 1).max(0)));
        let run = Run { start: g.e.i64(0), end, step: 1, certain: false, range };
        g.repeat(&self.step, run, vec![], |g, _| {
            for (stage, kept) in Stage::of(r.cell).into_iter().zip(&kept) {
                self.products(g, stage, kept);
                g.e.block_barrier();
                self.over_units(g, |g, unit| self.update(g, stage, unit));
                g.e.block_barrier();
            }
            vec![]
        });
        self.over_units(g, |g, unit| {
            let last = self.kept_at(g, self.states, unit);
            g.write(&Point::scalar(), r.h, &self.of_row(unit), last);
        });
    }

    // ---- memory

    /// The time that the current step is at.
    fn time(&self) -> Dim {
        let step = Dim::symbol(self.step.clone());
        if self.recur.reverse { self.recur.steps.clone() - 1 - step } else { step }
    }

    /// Where a unit of the row is in states of one time.
    fn of_row(&self, unit: &Dim) -> Dim {
        self.row.clone() * self.recur.hidden + unit.clone()
    }

    fn read(&self, g: &mut Gen<'_, 'c>, buffer: BufferId, at: &Dim) -> Value<'c> {
        g.read(&mut Point::scalar(), buffer, at)
    }

    /// The input of a unit for a gate.
    fn input(&self, g: &mut Gen<'_, 'c>, gate: usize, unit: &Dim) -> Value<'c> {
        let r = self.recur;
        let row = self.time() * r.batch.clone() + self.row.clone();
        self.read(g, r.gates, &((row * r.cell.gates() + gate) * r.hidden + unit.clone()))
    }

    fn place(&self, g: &mut Gen<'_, 'c>, memory: PointerValue<'c>, at: &Dim) -> PointerValue<'c> {
        let at = g.index(at);
        g.e.offset(memory, at, self.dtype.size())
    }

    fn keep(&self, g: &mut Gen<'_, 'c>, value: Value<'c>, memory: PointerValue<'c>, at: &Dim) {
        let at = self.place(g, memory, at);
        g.e.store(value, at, self.dtype.size());
    }

    fn kept_at(&self, g: &mut Gen<'_, 'c>, memory: PointerValue<'c>, at: &Dim) -> Value<'c> {
        let at = self.place(g, memory, at);
        g.e.load(g.e.register_type(self.dtype), at, self.dtype.size())
    }

    /// Where the sum of a gate of a unit is.
    fn sum_at(&self, gate: usize, unit: &Dim) -> Dim {
        unit.clone() + gate * self.recur.padded(self.lanes)
    }

    // ---- products

    /// How many columns a stage has.
    fn columns(&self, stage: Stage) -> usize {
        self.recur.padded(self.lanes) * stage.gates().len()
    }

    /// The unit and the gate of a column, and where its first weight is.
    fn column(&self, g: &mut Gen<'_, 'c>, stage: Stage, number: &Dim) -> (Dim, Dim, Dim) {
        let (gates, lanes) = (stage.gates(), Dim::from(self.lanes));
        let width = Dim::from(self.lanes * gates.len());
        let panel = number.floor_div(&width);
        let within = g.named("%within", &number.modulo(&width), (0, (self.lanes * gates.len()) as i128 - 1));
        let (gate, lane) = (within.floor_div(&lanes) + gates.start, within.modulo(&lanes));
        let row = panel.clone() * (self.recur.hidden * self.recur.cell.gates()) + gate.clone();
        (panel * self.lanes + lane.clone(), gate, row * self.lanes + lane)
    }

    /// The weights of the thread's columns of a stage, if all stages together have few.
    fn kept(&self, g: &mut Gen<'_, 'c>, stage: Stage) -> Vec<Kept<'c>> {
        let rounds = |stage: Stage| self.columns(stage).div_ceil(THREADS);
        let all: usize = Stage::of(self.recur.cell).into_iter().map(rounds).sum();
        if all * self.recur.hidden > MOST_KEPT {
            return vec![None; rounds(stage)];
        }
        let last = self.columns(stage) as i64 - 1;
        let of_round = |i: usize| {
            let number = g.named("%column", &(thread() + i * THREADS).minimum(&last.into()), (0, last.into()));
            let (_, _, first) = self.column(g, stage, &number);
            Some((0..self.recur.hidden).map(|k| self.weight(g, &first, &k.into())).collect())
        };
        (0..rounds(stage)).map(of_round).collect()
    }

    fn weight(&self, g: &mut Gen<'_, 'c>, first: &Dim, k: &Dim) -> Value<'c> {
        self.read(g, self.recur.weights, &(first.clone() + k.clone() * (self.recur.cell.gates() * self.lanes)))
    }

    /// The sums of a stage.
    fn products(&self, g: &mut Gen<'_, 'c>, stage: Stage, kept: &[Kept<'c>]) {
        for (i, kept) in kept.iter().enumerate() {
            g.where_below(&(thread() + i * THREADS), &self.columns(stage).into(), |g, number| {
                let (unit, gate, first) = self.column(g, stage, &number);
                let sum = self.product(g, stage, &first, kept);
                self.keep(g, sum, self.sums, &(gate * self.recur.padded(self.lanes) + unit));
            });
        }
    }

    /// The sum over `k` of states and the weights of a column, in a few partial sums whose multiply-adds overlap.
    fn product(&self, g: &mut Gen<'_, 'c>, stage: Stage, first: &Dim, kept: &Kept<'c>) -> Value<'c> {
        let hidden = self.recur.hidden;
        let partial = vec![g.e.zero(g.e.register_type(self.dtype)); WIDEST / self.dtype.size()];
        let states = if matches!(stage, Stage::Candidate) { self.resets } else { self.states };
        let sums = match kept {
            Some(weights) => self.multiply_add(g, states, weights, partial),
            None => {
                let k = g.fresh("%k");
                let whole = hidden / TOGETHER * TOGETHER;
                let run =
                    Run { start: g.e.i64(0), end: g.e.i64(whole as i64), step: TOGETHER as i64, certain: true, range: (0, hidden as i128) };
                let sums = g.repeat(&k, run, partial, |g, sums| {
                    let from = Dim::symbol(k.clone());
                    let weights: Vec<Value> = (0..TOGETHER).map(|i| self.weight(g, first, &(from.clone() + i))).collect();
                    let states = self.place(g, states, &from);
                    self.multiply_add(g, states, &weights, sums)
                });
                let rest: Vec<Value> = (whole..hidden).map(|k| self.weight(g, first, &k.into())).collect();
                let states = g.e.displaced(states, (whole * self.dtype.size()) as i64);
                self.multiply_add(g, states, &rest, sums)
            }
        };
        sums.into_iter().reduce(|x, y| g.e.fadd(x, y)).expect("there is a partial sum")
    }

    /// Adds the products of weights with neighbouring states, which are aligned, to partial sums in turn.
    fn multiply_add(&self, g: &Gen<'_, 'c>, states: PointerValue<'c>, weights: &[Value<'c>], mut sums: Vec<Value<'c>>) -> Vec<Value<'c>> {
        let element = g.e.register_type(self.dtype);
        let vector: BasicTypeEnum = g.e.vector_type(element, sums.len()).into();
        for (n, weights) in weights.chunks(sums.len()).enumerate() {
            let at = g.e.displaced(states, (n * WIDEST) as i64);
            let wide = (weights.len() == sums.len()).then(|| g.e.load(vector, at, WIDEST));
            for (i, weight) in weights.iter().enumerate() {
                let single = || g.e.load(element, g.e.displaced(at, (i * self.dtype.size()) as i64), self.dtype.size());
                let state = wide.map_or_else(single, |wide| g.e.extract(wide, i));
                sums[i] = g.e.fma(state, *weight, sums[i]);
            }
        }
        sums
    }

    // ---- cells

    /// Runs `body` at the units of the thread.
    fn over_units(&self, g: &mut Gen<'_, 'c>, body: impl Fn(&mut Gen<'_, 'c>, &Dim)) {
        for first in (0..self.recur.hidden).step_by(THREADS) {
            g.where_below(&(thread() + first), &self.recur.hidden.into(), |g, unit| body(g, &unit));
        }
    }

    /// A sum with the part of the input.
    fn whole_sum(&self, g: &mut Gen<'_, 'c>, gate: usize, unit: &Dim) -> Value<'c> {
        let (sum, input) = (self.kept_at(g, self.sums, &self.sum_at(gate, unit)), self.input(g, gate, unit));
        g.e.fadd(sum, input)
    }

    /// Updates the cell of a unit.
    fn update(&self, g: &mut Gen<'_, 'c>, stage: Stage, unit: &Dim) {
        let r = self.recur;
        let before = self.kept_at(g, self.states, unit);
        let new = match stage {
            Stage::Lstm => {
                let Some(running) = r.c else { unreachable!("an LSTM has a cell state") };
                let sums = [0, 1, 2, 3].map(|gate| self.whole_sum(g, gate, unit));
                let old = self.read(g, running, &self.of_row(unit));
                let (cell, state) = cell::lstm(&g.e, &sums, old);
                g.write(&Point::scalar(), running, &self.of_row(unit), cell);
                state
            }
            Stage::LinearGru => {
                let [z, reset] = [0, 1].map(|gate| self.whole_sum(g, gate, unit));
                let sum = self.kept_at(g, self.sums, &self.sum_at(2, unit));
                let bias = r.bias.map(|bias| self.read(g, bias, unit));
                let sum = bias.map_or(sum, |bias| g.e.fadd(sum, bias));
                let input = self.input(g, 2, unit);
                cell::linear_gru(&g.e, &[z, reset, sum], input, before)
            }
            Stage::ResetGates => {
                let sums = [0, 1].map(|gate| self.whole_sum(g, gate, unit));
                let (z, product) = cell::reset_gates(&g.e, &sums, before);
                self.keep(g, product, self.resets, unit);
                // `z` waits where its sum was.
                return self.keep(g, z, self.sums, &self.sum_at(0, unit));
            }
            Stage::Candidate => {
                let (sum, z) = (self.whole_sum(g, 2, unit), self.kept_at(g, self.sums, &self.sum_at(0, unit)));
                cell::candidate(&g.e, sum, z, before)
            }
            Stage::Plain(activation) => {
                let sum = self.whole_sum(g, 0, unit);
                activation(&g.e, sum)
            }
        };
        self.keep(g, new, self.states, unit);
        g.write(&Point::scalar(), r.y, &(self.time() * r.batch.clone() * r.hidden + self.of_row(unit)), new);
    }
}
