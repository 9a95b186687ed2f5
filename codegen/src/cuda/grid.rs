//! Which thread blocks do what.
//!
//! A [`Job`] is a run of blocks: the loop nests of a map, contractions and the borders of any kernel each have theirs, the other
//! skeletons have one. Blocks are numbered through over the jobs of a kernel. **Invariant.** [`THREADS`] threads of a block do its job,
//! and which job that is is the same for all of them, so a job may use barriers. Where a job has [`CARRIERS`] bring operands, all blocks of
//! the kernel have these threads, too.
//!
//! ```text
//! concat of x[8, 100] and y[8, 24]:   blocks 0 to 0 copy x, block 1 copies y
//! ```

use super::attention::Attention;
use super::contract::Tiles;
use crate::cpu::scope::{Gen, Range, Symbol};
use crate::kernel::{Axis, Body, Chain, Contract, Kernel, Piece, Recur, Rows};
use crate::target::Target;
use egret_ir::Dim;
use inkwell::IntPredicate;
use inkwell::values::IntValue;
use std::sync::Arc;

/// Threads of every block: 8 warps, of which an SM holds 8 blocks.
pub(super) const THREADS: usize = 256;

/// Threads that bring operands for the others, where there are some: a group of four warps.
pub(super) const CARRIERS: usize = 128;

/// Threads that run in step.
pub(super) const WARP: usize = 32;

/// Blocks that a grid can have at most.
const MOST_BLOCKS: i128 = (1 << 31) - 1;

/// A run of blocks.
pub(super) struct Job<'k> {
    /// How many.
    pub(super) blocks: Dim,
    /// What they do.
    work: Work<'k>,
}

impl Job<'_> {
    /// How many blocks of the kernel a multiprocessor has to have room for, if the assembler has to be told: one where threads keep much,
    /// since it would else spill some registers to make room for more. Of recurrent layers these are those that widen their weights.
    pub(super) fn least_resident(&self, kernel: &Kernel) -> Option<usize> {
        match &self.work {
            Work::Contract(..) | Work::Attention(_, Attention::Tiles(_) | Attention::Strips(_)) => Some(1),
            Work::Recur(recur, _) if kernel.buffers[recur.weights.0].dtype.size() == 2 => Some(1),
            Work::Sums(..) | Work::Attention(_, Attention::Few(_)) | Work::Piece(_) | Work::Rows(_) | Work::Recur(..) => None,
        }
    }

    /// Threads that its blocks need.
    fn threads(&self) -> usize {
        let has_carriers = matches!(&self.work, Work::Contract(_, tiles) if tiles.has_carriers());
        if has_carriers { THREADS + CARRIERS } else { THREADS }
    }

    /// Bytes of shared memory that a block of it needs from the launch.
    pub(super) fn shared(&self) -> i64 {
        match &self.work {
            Work::Contract(_, tiles) => tiles.shared(),
            Work::Attention(c, attention) => attention.shared(c),
            Work::Piece(_) | Work::Rows(_) | Work::Sums(..) | Work::Recur(..) => 0,
        }
    }

    /// Bytes of working memory of all its blocks.
    pub(super) fn scratch(&self) -> i64 {
        if let Work::Contract(c, tiles) = &self.work { tiles.scratch(c) } else { 0 }
    }
}

/// What the blocks of a job do.
enum Work<'k> {
    Piece(&'k Piece),
    Rows(&'k Rows),
    Contract(&'k Contract, Tiles),
    /// Adds up what the blocks of a contraction left in working memory.
    Sums(&'k Contract, Tiles),
    Attention(&'k Chain, Attention),
    Recur(&'k Recur, usize),
}

/// The jobs of a kernel.
///
/// # Errors
/// A phrase that names the skeleton that has no lowering.
pub(super) fn jobs<'k>(kernel: &'k Kernel, target: &Target) -> Result<Vec<Job<'k>>, &'static str> {
    let lanes = target.lanes;
    let mut jobs: Vec<Job> = match &kernel.body {
        Body::Map(map) => map.pieces.iter().map(|piece| piece_job(piece, kernel)).collect(),
        Body::Rows(rows) => vec![Job { blocks: rows.blocks(), work: Work::Rows(rows) }],
        Body::Contract(contracts) => contract_jobs(contracts, kernel, target),
        Body::Winograd(_) => return Err("winograd convolution"),
        Body::Chain(chain) => vec![attention_job(chain, kernel, target)],
        Body::Recur(recur) if recur.hidden == 0 => vec![],
        Body::Recur(recur) if recur.fits(kernel.buffers[recur.y.0].dtype, lanes) => {
            vec![Job { blocks: recur.batch.clone(), work: Work::Recur(recur, lanes) }]
        }
        Body::TopK(_) => return Err("a selection by a heap"),
        Body::Serial(_) => return Err("points in order"),
        Body::Recur(_) => return Err("a recurrent layer whose states and sums do not fit 48 KB of shared memory"),
    };
    jobs.extend(kernel.borders.iter().map(|piece| piece_job(piece, kernel)));
    Ok(jobs)
}

/// Threads of a block of a kernel of these jobs.
pub(super) fn threads(jobs: &[Job]) -> usize {
    jobs.iter().map(Job::threads).max().unwrap_or(THREADS)
}

fn contract_jobs<'k>(contracts: &'k [Contract], kernel: &Kernel, target: &Target) -> Vec<Job<'k>> {
    let mut used = 0;
    let job = |contract: &'k Contract| {
        let tiles = Tiles::of(contract, kernel, target).working_at(used);
        used += tiles.scratch(contract);
        Job { blocks: tiles.blocks(contract), work: Work::Contract(contract, tiles) }
    };
    contracts.iter().map(job).collect()
}

/// The jobs of the launch that follows.
pub(super) fn following<'k>(jobs: &[Job<'k>]) -> Vec<Job<'k>> {
    let then = |job: &Job<'k>| match &job.work {
        Work::Contract(c, tiles) => tiles.blocks_of_sums(c).map(|blocks| Job { blocks, work: Work::Sums(c, *tiles) }),
        _ => None,
    };
    jobs.iter().filter_map(then).collect()
}

fn attention_job<'k>(chain: &'k Chain, kernel: &Kernel, target: &Target) -> Job<'k> {
    let attention = Attention::of(chain, kernel, target);
    Job { blocks: attention.blocks(chain), work: Work::Attention(chain, attention) }
}

fn piece_job<'k>(piece: &'k Piece, kernel: &Kernel) -> Job<'k> {
    Job { blocks: piece.threads(kernel).ceil_div(&THREADS.into()), work: Work::Piece(piece) }
}

/// The number of the thread in its block, as an index.
pub(super) fn thread() -> Dim {
    Dim::symbol("%thread")
}

impl<'c> Gen<'_, 'c> {
    /// Emits all jobs of a kernel.
    pub(super) fn jobs(&mut self, jobs: &[Job]) {
        let (thread, block, all) = (self.e.thread_index(), self.e.block_index(), threads(jobs));
        self.bind(&"%thread".into(), thread, (0, all as i128 - 1));
        let mut before = Dim::ZERO;
        for job in jobs {
            let first = self.index(&before);
            let number = self.e.index_sub(block, first);
            let count = self.index(&job.blocks);
            // Numbers below 0 are large as unsigned ones.
            let mine = self.e.icmp(IntPredicate::ULT, number.into(), count.into()).into_int_value();
            self.when(mine, |g| {
                let name = g.fresh("%block");
                g.bind(&name, number, (0, MOST_BLOCKS));
                let number = Dim::symbol(name);
                if job.threads() == all { g.work(&job.work, &number) } else { g.by_threads(0, THREADS, |g| g.work(&job.work, &number)) }
            });
            before = before + job.blocks.clone();
        }
    }

    fn work(&mut self, work: &Work, block: &Dim) {
        match work {
            Work::Piece(piece) => self.piece_by_threads(piece, block),
            Work::Rows(rows) => self.rows_by_threads(rows, block),
            Work::Contract(c, tiles) => self.contract_by_blocks(c, tiles, block),
            Work::Sums(c, tiles) => self.sums_by_blocks(c, tiles, block),
            Work::Attention(c, attention) => self.attend(c, attention, block),
            Work::Recur(r, lanes) => self.recur_by_blocks(r, *lanes, block),
        }
    }

    /// Runs `body` in so many threads from one on, which there are numbered from 0.
    pub(super) fn by_threads(&mut self, first: usize, count: usize, body: impl FnOnce(&mut Self)) {
        let number = self.index(&(thread() - first as i64));
        let end = self.e.i64(count as i64);
        // Numbers below 0 are large as unsigned ones.
        let inside = self.e.icmp(IntPredicate::ULT, number.into(), end.into()).into_int_value();
        self.when(inside, |g| {
            g.bind(&"%thread".into(), number, (0, count as i128 - 1));
            body(g);
        });
    }

    /// Gives a symbol its value on the innermost level.
    pub(super) fn bind(&mut self, name: &Arc<str>, value: IntValue<'c>, range: Range) {
        self.top().symbols.insert(name.clone(), Symbol { value, range });
    }

    /// Gives an index a name of its own on the innermost level.
    pub(super) fn named(&mut self, what: &str, index: &Dim, range: Range) -> Dim {
        let (name, value) = (self.fresh(what), self.index(index));
        self.bind(&name, value, range);
        Dim::symbol(name)
    }

    /// The indices of point `number` of a nest of loops, the last one fastest, where each axis goes in steps that its extent is
    /// a multiple of.
    pub(super) fn unravelled(&mut self, axes: &[(Axis, i64)], number: &Dim) -> Vec<Dim> {
        let mut rest = number.clone();
        let mut found = vec![Dim::ZERO; axes.len()];
        for (i, (axis, step)) in axes.iter().enumerate().rev() {
            let extent = axis.extent.floor_div(&(*step).into());
            let at = if i == 0 { rest.clone() } else { rest.modulo(&extent) };
            rest = rest.floor_div(&extent);
            let range = self.axis_range(axis);
            found[i] = self.named(&axis.name, &(at * *step), range);
        }
        found
    }

    /// Binds the axes of a nest at point `number`.
    pub(super) fn at_point(&mut self, axes: &[(Axis, i64)], number: &Dim) {
        let found = self.unravelled(axes, number);
        for ((axis, step), at) in axes.iter().zip(found) {
            self.multiples.insert(axis.name.clone(), *step);
            let (value, range) = (self.index(&at), self.axis_range(axis));
            self.bind(&axis.name, value, range);
        }
    }

    /// Runs `body` where `index` is below `end`, with a name for the index.
    pub(super) fn where_below(&mut self, index: &Dim, end: &Dim, body: impl FnOnce(&mut Self, Dim)) {
        let (value, limit) = (self.index(index), self.index(end));
        let inside = self.e.icmp(IntPredicate::SLT, value.into(), limit.into()).into_int_value();
        let range = (0, (self.range(end).1 - 1).max(0));
        self.when(inside, |g| {
            let name = g.fresh("%unit");
            g.bind(&name, value, range);
            body(g, Dim::symbol(name));
        });
    }
}

/// Axes that go in steps of one.
pub(super) fn singly(axes: &[Axis]) -> Vec<(Axis, i64)> {
    axes.iter().map(|a| (a.clone(), 1)).collect()
}

/// The number of points of a nest.
pub(super) fn count(axes: &[Axis]) -> Dim {
    axes.iter().map(|a| a.extent.clone()).product()
}
