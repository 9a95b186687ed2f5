//! Turns the scores of a strip into exponentials: two passes over scores that are in the first-level cache.
//!
//! The largest score of a row is subtracted first, so that no exponential overflows. **Invariant.** What a row does not see counts
//! as zero, and a row that sees nothing has the sum 0.
//!
//! ```text
//! m' = max(m, s[0..seen]);   p[n] = exp(s[n] - m');   factor = exp(m - m');   sum = sum of p
//! ```

use super::{F32, Keys, Memory};
use crate::cpu::emit::{Emit, Value};
use crate::cpu::math;
use crate::cpu::scope::{Gen, HUGE, Run};
use crate::kernel::Chain;
use egret_ir::DType;
use inkwell::FloatPredicate;
use inkwell::values::{IntValue, PointerValue};

/// Vector registers that the exponential of one row takes: so many rows are done together.
const REGISTERS_PER_ROW: usize = 8;

/// The scores of a row in one block: where they begin, and how many of them the row sees.
struct ScoreRow<'c> {
    start: PointerValue<'c>,
    count: IntValue<'c>,
}

/// What is done to a vector of scores: the row's number, where they lie, which of them count, and what goes around.
type Visit<'v, 'a, 'c> = &'v mut dyn FnMut(&mut Gen<'a, 'c>, usize, PointerValue<'c>, Option<Value<'c>>, Value<'c>) -> Value<'c>;

impl<'a, 'c> Gen<'a, 'c> {
    /// Turns the scores of a strip into exponentials. Gives, for each row, what the sums of earlier blocks have to be multiplied
    /// by, and the sum of this one; `within` is the strip's first row in its unit, if there are other blocks.
    pub(super) fn softmax(
        &mut self,
        c: &Chain,
        m: &Memory,
        count: usize,
        keys: Keys<'c>,
        within: Option<IntValue<'c>>,
    ) -> Vec<(Value<'c>, Value<'c>)> {
        let together = (self.vregs / REGISTERS_PER_ROW).max(1);
        let mut found = vec![];
        for first in (0..count).step_by(together) {
            let rows: Vec<ScoreRow> = (first..count.min(first + together)).map(|row| self.seen_scores(c, m, row, keys)).collect();
            let end = self.e.index_sub(keys.seen, keys.block.start);
            let largest = self.largest(&rows, end);
            let scaled: Vec<(Value, Value)> =
                largest.into_iter().enumerate().map(|(i, largest)| self.running_maximum(m, largest, within, first + i)).collect();
            let sums = self.exponentials(&rows, end, scaled.iter().map(|(maximum, _)| *maximum).collect());
            found.extend(scaled.into_iter().map(|(_, factor)| factor).zip(sums));
        }
        found
    }

    fn seen_scores(&mut self, c: &Chain, m: &Memory, row: usize, keys: Keys<'c>) -> ScoreRow<'c> {
        let end = if c.is_causal() { self.seen_by_row(c, row, keys.block) } else { keys.seen };
        let count = self.e.index_sub(end, keys.block.start);
        let count = if c.is_causal() { self.e.imax(count.into(), self.e.i64(0).into(), true).into_int_value() } else { count };
        ScoreRow { start: self.score_start(m, row), count }
    }

    /// Visits the scores of some rows, a vector of each at a time, with values that go around; rows see more and more.
    fn over_scores(
        &mut self,
        rows: &[ScoreRow<'c>],
        end: IntValue<'c>,
        carried: Vec<Value<'c>>,
        body: Visit<'_, 'a, 'c>,
    ) -> Vec<Value<'c>> {
        let lanes = self.e.lanes as i64;
        let whole = self.e.index_mul(self.e.index_div(rows[0].count, self.e.i64(lanes)), self.e.i64(lanes));
        let name = self.fresh("score");
        let stretches = [(self.e.i64(0), whole, false), (whole, end, true)];
        stretches.into_iter().fold(carried, |carried, (start, end, masked)| {
            let run = Run { start, end, step: lanes, certain: false, range: (0, HUGE) };
            self.repeat(&name, run, carried, |g, carried| {
                let at = g.symbol(&name).value;
                let each = rows.iter().zip(carried).enumerate().map(|(i, (row, before))| {
                    let mask = masked.then(|| g.first_lanes(g.e.index_sub(row.count, at).into()));
                    let pointer = g.e.offset(row.start, at, F32);
                    body(g, i, pointer, mask, before)
                });
                each.collect()
            })
        })
    }

    /// The largest score that each row sees; -inf where there is none. NaN is left to the exponentials.
    fn largest(&mut self, rows: &[ScoreRow<'c>], end: IntValue<'c>) -> Vec<Value<'c>> {
        let float = self.e.register_type(DType::F32);
        let vector = self.e.vector_type(float, self.e.lanes).into();
        let none = self.e.splat(self.e.float_of(float, f64::NEG_INFINITY));
        let found = self.over_scores(rows, end, vec![none; rows.len()], &mut |g, _, at, mask, before| {
            let larger = greater(&g.e, g.e.load(vector, at, F32), before);
            mask.map_or(larger, |mask| g.e.select(mask, larger, before))
        });
        found.into_iter().map(|v| self.across(v, &|e, x, y| greater(e, x, y))).collect()
    }

    /// The maximum of a row with that of the blocks before, and what their sums have to be multiplied by.
    fn running_maximum(&mut self, m: &Memory, largest: Value<'c>, within: Option<IntValue<'c>>, row: usize) -> (Value<'c>, Value<'c>) {
        let lowest = self.e.float(largest, f64::from(f32::MIN));
        let Some(within) = within else { return (greater(&self.e, largest, lowest), self.e.float(largest, 1.0)) };
        let at = self.e.displaced(self.e.offset(self.private(m.maxima), within, F32), (row * F32) as i64);
        let before = self.e.load(self.e.register_type(DType::F32), at, F32);
        let maximum = greater(&self.e, largest, before);
        self.e.store(maximum, at, F32);
        let change = self.e.splat(self.e.fsub(before, maximum));
        (maximum, self.e.extract(math::exp(&self.e, change), 0))
    }

    /// Replaces scores by exponentials, zero behind what a row sees; gives their sums.
    fn exponentials(&mut self, rows: &[ScoreRow<'c>], end: IntValue<'c>, maxima: Vec<Value<'c>>) -> Vec<Value<'c>> {
        let zero = self.zeros(1)[0];
        let maxima: Vec<Value> = maxima.into_iter().map(|maximum| self.e.splat(maximum)).collect();
        let sums = self.over_scores(rows, end, vec![zero; rows.len()], &mut |g, i, at, mask, before| {
            let score = g.e.load(zero.get_type(), at, F32);
            let power = math::exp(&g.e, g.e.fsub(score, maxima[i]));
            let power = mask.map_or(power, |mask| g.e.select(mask, power, zero));
            g.e.store(power, at, F32);
            g.e.fadd(before, power)
        });
        sums.into_iter().map(|v| self.across(v, &|e, x, y| e.fadd(x, y))).collect()
    }

    /// The lanes of a vector combined, halves with halves.
    fn across(&self, mut vector: Value<'c>, combine: &dyn Fn(&Emit<'c>, Value<'c>, Value<'c>) -> Value<'c>) -> Value<'c> {
        let mut lanes = self.e.lanes;
        while lanes > 1 {
            lanes /= 2;
            let (low, high): (Vec<usize>, Vec<usize>) = ((0..lanes).collect(), (lanes..2 * lanes).collect());
            vector = combine(&self.e, self.e.shuffle(vector, vector, &low), self.e.shuffle(vector, vector, &high));
        }
        self.e.extract(vector, 0)
    }
}

/// The larger of two floats; the second where one is NaN.
fn greater<'c>(e: &Emit<'c>, x: Value<'c>, y: Value<'c>) -> Value<'c> {
    e.select(e.fcmp(FloatPredicate::OGT, x, y), x, y)
}
