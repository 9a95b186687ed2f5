//! Reductions, norms, softmax, pooling, depthwise convolution.
//!
//! With the lanes inside, a team of threads does a row: a warp where rows are short, else the block. Its threads stride along
//! the row, several neighbours each with partial results of their own, and combine by shuffles; a block's warps then combine
//! through shared memory. With the lanes outside, a thread does a row. **Invariant.** Every thread of a team has the same
//! statistics to the bit, and all threads of a team take the same way through the passes.
//!
//! ```text
//! row = 8*block + thread/32;  for j in 4*lane.. step 128: m[0..4] = max(m, x[row, j..+4]);  m = shuffles(max(m[0..4]))
//! ```

use super::grid::{THREADS, WARP, count, singly, thread};
use super::map::neighbours;
use crate::cpu::emit::Value;
use crate::cpu::point::Point;
use crate::cpu::rows::{combine, identity};
use crate::cpu::scope::{Gen, Run};
use crate::kernel::{Axis, ExprKind, Kernel, Pass, Reduce, Rows};
use egret_ir::Dim;
use inkwell::IntPredicate;
use inkwell::values::PointerValue;

/// Rows up to this long are done by a warp: 32 elements a thread.
const LONGEST_OF_A_WARP: i64 = 1024;

/// Bytes of a statistic in shared memory.
const SLOT: usize = 8;

const WARPS: usize = THREADS / WARP;

/// The threads that do a row together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Team {
    Thread,
    Warp,
    Block,
}

impl Team {
    fn threads(self) -> usize {
        match self {
            Team::Thread => 1,
            Team::Warp => WARP,
            Team::Block => THREADS,
        }
    }
}

impl Rows {
    fn team(&self) -> Team {
        match (self.lanes_outside && !self.axes.is_empty(), count(&self.reduced).as_const()) {
            (true, _) => Team::Thread,
            (false, Some(n)) if n <= LONGEST_OF_A_WARP => Team::Warp,
            _ => Team::Block,
        }
    }

    /// How many blocks it takes.
    pub(super) fn blocks(&self) -> Dim {
        count(&self.axes).ceil_div(&(THREADS / self.team().threads()).into())
    }
}

/// Whether a pass reads what the kernel writes.
fn reads_results(kernel: &Kernel, pass: &Pass) -> bool {
    let mut found = false;
    for expr in pass.block.exprs().chain(pass.reduces.iter().map(|r| &r.value)) {
        expr.visit(&mut |e| found |= matches!(&*e.kind, ExprKind::Load(b, _) if kernel.buffers[b.0].written));
    }
    found
}

/// A team at work.
struct Work<'c> {
    team: Team,
    /// The number of the thread in its team.
    lane: Dim,
    /// Where the warps of a block put their statistics.
    shared: Option<PointerValue<'c>>,
    /// Statistics that were put there so far.
    used: usize,
}

impl<'c> Gen<'_, 'c> {
    /// Emits the rows of a block of the job.
    pub(super) fn rows_by_threads(&mut self, rows: &Rows, block: &Dim) {
        let team = rows.team();
        let size = team.threads();
        let row = block.clone() * (THREADS / size) + thread().floor_div(&size.into());
        self.where_below(&row, &count(&rows.axes), |g, row| {
            g.at_point(&singly(&rows.axes), &row);
            let lane = g.named("%lane", &thread().modulo(&size.into()), (0, size as i128 - 1));
            let statistics: usize = rows.passes.iter().map(|p| p.reduces.len()).sum();
            let words = statistics * WARPS;
            let shared = (team == Team::Block && words > 0).then(|| g.e.shared(g.e.int_type(64), words, SLOT as u32));
            let mut work = Work { team, lane, shared, used: 0 };
            for (i, pass) in rows.passes.iter().enumerate() {
                if i > 0 && reads_results(g.kernel, pass) {
                    g.team_barrier(team);
                }
                g.team_pass(rows, pass, &mut work);
            }
        });
    }

    fn team_barrier(&mut self, team: Team) {
        match team {
            Team::Thread => {}
            Team::Warp => self.e.warp_barrier(),
            Team::Block => self.e.block_barrier(),
        }
    }

    fn team_pass(&mut self, rows: &Rows, pass: &Pass, work: &mut Work<'c>) {
        if !pass.over_row {
            return self.team_once(pass, work);
        }
        let width = match (work.team, rows.reduced.last()) {
            (Team::Warp | Team::Block, Some(lane)) => neighbours(lane, self.kernel) as usize,
            _ => 1,
        };
        let partial = self.partial_results(rows, pass, work, width);
        for (i, reduce) in pass.reduces.iter().enumerate() {
            let parts = (0..width).map(|j| partial[j * pass.reduces.len() + i]).collect();
            let mine = self.combine_all(reduce, parts);
            let value = self.combine_team(reduce, mine, work);
            self.top().vars.insert(reduce.var.clone(), value);
        }
    }

    /// What every thread makes of its own points: the statistics of each of `width` neighbours in turn.
    fn partial_results(&mut self, rows: &Rows, pass: &Pass, work: &Work<'c>, width: usize) -> Vec<Value<'c>> {
        let start: Vec<Value> = pass.reduces.iter().map(|r| identity(&self.e, r.fold, r.value.dtype)).collect();
        let start = start.repeat(width);
        match (work.team, rows.reduced.split_last()) {
            (Team::Warp | Team::Block, Some((lane, outer))) => self.nest_carrying(outer, start, &mut |g, carried| {
                g.multiples.insert(lane.name.clone(), width as i64);
                let (begin, end) = (g.index(&(work.lane.clone() * width)), g.index(&lane.extent));
                let step = (work.team.threads() * width) as i64;
                let run = Run { start: begin, end, step, certain: false, range: g.axis_range(lane) };
                g.repeat(&lane.name, run, carried, |g, carried| g.fold_points(pass, points_along(lane, width), carried))
            }),
            _ => self.nest_carrying(&rows.reduced, start, &mut |g, carried| g.fold_points(pass, vec![Point::scalar()], carried)),
        }
    }

    /// A pass that is done once for the row: every thread computes it, one stores.
    fn team_once(&mut self, pass: &Pass, work: &Work<'c>) {
        let mut point = Point::scalar();
        self.lets(&mut point, &pass.block.lets);
        for reduce in &pass.reduces {
            let value = self.eval(&mut point, &reduce.value);
            self.top().vars.insert(reduce.var.clone(), value);
        }
        let lane = self.index(&work.lane);
        let first = self.e.icmp(IntPredicate::EQ, lane.into(), self.e.i64(0).into()).into_int_value();
        if !pass.block.stores.is_empty() {
            self.when(first, |g| g.stores(&pass.block, vec![point.renewed()]));
        }
    }

    /// The statistic of the whole row, in every thread of the team.
    fn combine_team(&mut self, reduce: &Reduce, mine: Value<'c>, work: &mut Work<'c>) -> Value<'c> {
        if work.team == Team::Thread {
            return mine;
        }
        let of_warp = std::iter::successors(Some(WARP / 2), |n| Some(n / 2)).take_while(|n| *n > 0).fold(mine, |value, apart| {
            let other = self.e.of_lane_xor(value, apart);
            combine(&self.e, reduce.fold, reduce.value.dtype, value, other)
        });
        match work.shared {
            None => of_warp,
            Some(shared) => {
                let slots = self.e.displaced(shared, (work.used * WARPS * SLOT) as i64);
                work.used += 1;
                self.combine_warps(reduce, of_warp, slots)
            }
        }
    }

    /// The warps of a block through shared memory: no slot is used twice, so one barrier is enough.
    fn combine_warps(&mut self, reduce: &Reduce, of_warp: Value<'c>, slots: PointerValue<'c>) -> Value<'c> {
        let word = self.e.as_word(of_warp);
        let (lane, warp) = (self.index(&thread().modulo(&WARP.into())), self.index(&thread().floor_div(&WARP.into())));
        let first = self.e.icmp(IntPredicate::EQ, lane.into(), self.e.i64(0).into()).into_int_value();
        self.when(first, |g| g.e.store(word, g.e.offset(slots, warp, SLOT), SLOT));
        self.e.block_barrier();
        let parts = (0..WARPS).map(|w| {
            let word = self.e.load(word.get_type(), self.e.displaced(slots, (w * SLOT) as i64), SLOT);
            self.e.word_as(word, of_warp.get_type())
        });
        let parts = parts.collect();
        self.combine_all(reduce, parts)
    }
}

fn points_along<'c>(lane: &Axis, width: usize) -> Vec<Point<'c>> {
    (0..width as i64).map(|j| Point::scalar().moved(&lane.name, j)).collect()
}
