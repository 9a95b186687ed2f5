//! Recurrent cells: what becomes of the sums of a step, the same on processors and on GPUs.
//!
//! A GRU that resets the state before the product needs `r*h` of all units first, so its step has two stages.
//!
//! ```text
//! lstm        c = f*c + i*tanh(g);   h = o*tanh(c)                        with sigmoids of the sums i, o, f
//! late reset  h = z*h + (1 - z)*tanh(x + r*sum)                           with sigmoids of the sums z, r
//! ```

use super::emit::{Emit, Value};
use super::math;
use super::ops::extreme;
use crate::kernel::Cell;
use inkwell::FloatPredicate;
use std::ops::Range;

/// A function of one gate.
pub(crate) type Activation = for<'c> fn(&Emit<'c>, Value<'c>) -> Value<'c>;

/// What one pass over the hidden units computes.
#[derive(Clone, Copy)]
pub(crate) enum Stage {
    /// An LSTM's step.
    Lstm,
    /// The step of a GRU that resets after the product.
    LinearGru,
    /// The gates `z` and `r` of a GRU that resets before the product, and `r*h`.
    ResetGates,
    /// The candidate of such a GRU, and the new state.
    Candidate,
    /// The step of a plain cell.
    Plain(Activation),
}

impl Stage {
    /// The stages of a step, in order.
    pub(crate) fn of(cell: Cell) -> Vec<Stage> {
        match cell {
            Cell::Lstm => vec![Stage::Lstm],
            Cell::Gru { linear_before_reset: true } => vec![Stage::LinearGru],
            Cell::Gru { linear_before_reset: false } => vec![Stage::ResetGates, Stage::Candidate],
            Cell::Tanh => vec![Stage::Plain(math::tanh)],
            Cell::Relu => vec![Stage::Plain(relu)],
            Cell::Sigmoid => vec![Stage::Plain(sigmoid)],
        }
    }

    /// The gates whose products it needs.
    pub(crate) fn gates(self) -> Range<usize> {
        match self {
            Stage::Lstm => 0..4,
            Stage::LinearGru => 0..3,
            Stage::ResetGates => 0..2,
            Stage::Candidate => 2..3,
            Stage::Plain(_) => 0..1,
        }
    }
}

/// The new cell state and the new state of an LSTM whose cell state is `old`.
pub(crate) fn lstm<'c>(e: &Emit<'c>, sums: &[Value<'c>], old: Value<'c>) -> (Value<'c>, Value<'c>) {
    let [input, output, forget] = [0, 1, 2].map(|gate| sigmoid(e, sums[gate]));
    let cell = e.fma(forget, old, e.fmul(input, math::tanh(e, sums[3])));
    (cell, e.fmul(output, math::tanh(e, cell)))
}

/// The new state of a GRU that resets after the product; `input` is that of the candidate.
pub(crate) fn linear_gru<'c>(e: &Emit<'c>, sums: &[Value<'c>], input: Value<'c>, state: Value<'c>) -> Value<'c> {
    let [z, r] = [0, 1].map(|gate| sigmoid(e, sums[gate]));
    blend(e, z, state, math::tanh(e, e.fma(r, sums[2], input)))
}

/// `z` and `r*h` of a GRU that resets before the product.
pub(crate) fn reset_gates<'c>(e: &Emit<'c>, sums: &[Value<'c>], state: Value<'c>) -> (Value<'c>, Value<'c>) {
    let [z, r] = [0, 1].map(|gate| sigmoid(e, sums[gate]));
    (z, e.fmul(r, state))
}

/// The new state of such a GRU, from the sum of its candidate.
pub(crate) fn candidate<'c>(e: &Emit<'c>, sum: Value<'c>, z: Value<'c>, state: Value<'c>) -> Value<'c> {
    blend(e, z, state, math::tanh(e, sum))
}

fn sigmoid<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    let one = e.float(x, 1.0);
    e.fdiv(one, e.fadd(one, math::exp(e, e.fneg(x))))
}

fn relu<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    extreme(e, FloatPredicate::OGT, x, e.float(x, 0.0), Some(0.0))
}

/// `z*h + (1 - z)*n`.
fn blend<'c>(e: &Emit<'c>, z: Value<'c>, h: Value<'c>, n: Value<'c>) -> Value<'c> {
    e.fma(z, e.fsub(h, n), n)
}
