//! Contractions on tensor cores: a block does a tile of rows and columns, each of its warps a part of it.
//!
//! Slices of both operands come through shared memory by a [`pipeline`](super::pipeline); a warp reads [fragments](super::tensor) of
//! its rows and columns and keeps its sums in registers. At the end these go through shared memory, so that a thread has neighbouring
//! columns, as the epilogue reads and writes them.
//!
//! ```text
//! block 128x128, warp 2 of 8: rows 0 to 63, columns 64 to 95:   for 16 steps:  acc[4][4] += a[4] * b[4]  by 16x8x8
//! ```

use super::contract::{a_source, b_source};
use super::grid::{THREADS, count, singly, thread};
use super::map::NEIGHBOURS;
use super::pipeline::{Pipeline, STAGES};
use super::product::F32;
use super::tensor::{Along, Arithmetic, COLUMNS, Fragment, Layout, POINTS, SUMS, Side, WARPS, of_sums, warp};
use crate::cpu::emit::Value;
use crate::cpu::scope::{Gen, Run};
use crate::kernel::{Axis, Contract, Kernel};
use crate::target::Target;
use egret_ir::{DType, Dim};
use inkwell::values::PointerValue;

/// Bytes of `k` in a slice: two fragments of every operand, and two copies of a thread for each 128 points.
const SLICE: i64 = 64;

/// Fewest rows: below them a product is bound by reading the second operand, and multiply-adds in order are as fast.
const FEWEST_ROWS: i64 = 17;

/// Fewest steps of `k`: below them most of a slice is zeros.
const FEWEST_STEPS: i64 = 16;

/// Blocks that keep a large GPU busy: it has about so many multiprocessors.
const ENOUGH_BLOCKS: i64 = 128;

/// f32s between two rows of sums in shared memory beyond those of the tile: keeps the rows that a warp writes on different banks.
const PADDING: i64 = 8;

/// What a block does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Matrix {
    rows: i64,
    cols: i64,
    /// Warps one below the other; the others stand side by side.
    down: i64,
    arithmetic: Arithmetic,
    /// The types of the operands.
    operands: [DType; 2],
}

/// Rows, columns and warps of tiles, those that reuse most first.
const SHAPES: [[i64; 3]; 3] = [[128, 128, 2], [128, 64, 4], [64, 64, 2]];

impl Matrix {
    /// The tiles of a contraction that is for tensor cores.
    pub(super) fn of(c: &Contract, kernel: &Kernel, target: &Target) -> Option<Matrix> {
        let few = |d: Dim, least: i64| d.as_const().is_some_and(|n| n < least);
        if few(count(&c.rows), FEWEST_ROWS) || few(count(&c.k), FEWEST_STEPS) {
            return None;
        }
        let operands = [c.a.0, c.b.buffer()].map(|buffer| kernel.buffers[buffer.0].dtype);
        let arithmetic = Arithmetic::of(operands[0], operands[1], target)?;
        let shape = |[rows, cols, down]: [i64; 3]| Matrix { rows, cols, down, arithmetic, operands };
        let enough = |m: &Matrix| count(&m.axes(c)).as_const().is_some_and(|blocks| blocks >= ENOUGH_BLOCKS);
        // Of unknown extents the smallest tile wastes least.
        SHAPES.into_iter().map(shape).find(enough).or(SHAPES.last().map(|last| shape(*last)))
    }

    /// Batches, tiles of rows, tiles of columns.
    pub(super) fn axes(&self, c: &Contract) -> [Axis; 3] {
        let (rows, cols) = (count(&c.rows).ceil_div(&self.rows.into()), c.cols.extent.ceil_div(&self.cols.into()));
        [Axis::new("%batch", count(&c.batch)), Axis::new("%rows", rows), Axis::new("%cols", cols)]
    }

    /// Bytes of shared memory: of all slices, then of the sums.
    pub(super) fn shared(&self) -> i64 {
        // Rows along `k` take more.
        let layout = |(points, dtype)| Layout { dtype, along: Along::Depth, points, steps: self.steps() }.bytes();
        let slices = STAGES * [(self.rows, self.operands[0]), (self.cols, self.operands[1])].map(layout).iter().sum::<i64>();
        slices.max(self.rows * self.pitch() * F32)
    }

    /// Steps of `k` in a slice.
    fn steps(&self) -> i64 {
        SLICE * self.arithmetic.format.steps() / 32
    }

    /// f32s between two rows of sums in shared memory.
    fn pitch(&self) -> i64 {
        self.cols + PADDING
    }

    /// Rows and columns of a warp.
    fn of_warp(&self) -> [i64; 2] {
        [self.rows / self.down, self.cols / (WARPS / self.down)]
    }

    /// Where those of the warp begin.
    fn own(&self) -> [Dim; 2] {
        let ([rows, cols], across) = (self.of_warp(), Dim::from(WARPS / self.down));
        [warp().floor_div(&across) * rows, warp().modulo(&across) * cols]
    }

    /// Sums of a lane.
    fn sums(&self) -> usize {
        let [rows, cols] = self.of_warp();
        (rows / POINTS * cols / COLUMNS) as usize * SUMS
    }
}

impl<'c> Gen<'_, 'c> {
    /// Emits what a block of the job does; weights are packed in panels of so many columns.
    pub(super) fn contract_matrix(&mut self, c: &Contract, m: &Matrix, panel: i64, block: &Dim) {
        let [batch, row_tile, col_tile] = {
            let found = self.unravelled(&singly(&m.axes(c)), block);
            <[Dim; 3]>::try_from(found).expect("three axes")
        };
        self.at_point(&singly(&c.batch), &batch);
        let (first_row, first_col) = (row_tile * m.rows, col_tile * m.cols);
        let memory = self.e.dynamic_shared();
        let sums = self.matrix_sums(c, m, panel, memory, [&first_row, &first_col]);
        self.lay_out_sums(m, memory, &sums);
        self.matrix_epilogue(c, m, memory, [&first_row, &first_col]);
    }

    /// The sums of the lane, over all of `k`.
    fn matrix_sums(
        &mut self,
        c: &Contract,
        m: &Matrix,
        panel: i64,
        memory: PointerValue<'c>,
        [first_row, first_col]: [&Dim; 2],
    ) -> Vec<Value<'c>> {
        let a = self.incoming(a_source(c), [m.rows, m.steps()], 0, first_row);
        let b = self.incoming(b_source(c, panel), [m.cols, m.steps()], a.layout.bytes(), first_col);
        let readers = [self.reader(a.layout, Side::A, m.arithmetic), self.reader(b.layout, Side::B, m.arithmetic)];
        let zero = self.e.zero(self.e.register_type(DType::F32));
        let pipeline = Pipeline { operands: [&a, &b], memory };
        self.through_slices(&pipeline, vec![zero; m.sums()], |g, slice, mut sums| {
            let starts = [&a, &b].map(|operand| slice.clone() + operand.start);
            let [x, y] = [0, 1].map(|i| g.part_of_lane(memory, &readers[i], &starts[i], &m.own()[i]));
            for step in (0..m.steps()).step_by(m.arithmetic.format.steps() as usize) {
                let fragments = |reader, part, points: i64| -> Vec<Fragment<'c>> {
                    (0..points).step_by(POINTS as usize).map(|point| g.fragment(reader, part, point, step)).collect()
                };
                let [rows, cols] = m.of_warp();
                let (a, b) = (fragments(&readers[0], x, rows), fragments(&readers[1], y, cols));
                g.e.multiply(m.arithmetic, &a, &b, &mut sums);
            }
            sums
        })
    }

    /// Puts the sums of all warps into shared memory, row by row.
    fn lay_out_sums(&mut self, m: &Matrix, memory: PointerValue<'c>, sums: &[Value<'c>]) {
        let ([own_row, own_col], (row, col)) = (m.own(), of_sums());
        let own = self.index(&((own_row + row) * m.pitch() + own_col + col));
        let own = self.e.offset(memory, own, F32 as usize);
        let across = (m.of_warp()[1] / COLUMNS) as usize;
        for (i, sums) in sums.chunks(SUMS).enumerate() {
            let (i, j) = ((i / across) as i64 * POINTS, (i % across) as i64 * COLUMNS);
            for (half, pair) in (0..).zip(sums.chunks(2)) {
                let at = self.e.displaced(own, ((i + half * POINTS / 2) * m.pitch() + j) * F32);
                self.e.store(self.e.together(pair), at, 2 * F32 as usize);
            }
        }
        self.e.block_barrier();
    }

    /// The epilogue at all points of the tile, a thread at neighbouring columns.
    fn matrix_epilogue(&mut self, c: &Contract, m: &Matrix, memory: PointerValue<'c>, [first_row, first_col]: [&Dim; 2]) {
        let across = m.cols / NEIGHBOURS;
        let at_once = THREADS as i64 / across;
        let name = self.fresh("%pass");
        let (end, range) = (self.e.i64(m.rows / at_once), (0, (m.rows / at_once - 1).into()));
        let run = Run { start: self.e.i64(0), end, step: 1, certain: true, range };
        self.repeat(&name, run, vec![], |g, _| {
            let row = Dim::symbol(name.clone()) * at_once + thread().floor_div(&across.into());
            let col = thread().modulo(&across.into()) * NEIGHBOURS;
            let at = g.index(&(row.clone() * m.pitch() + col.clone()));
            let sums = g.read_shared(g.e.offset(memory, at, F32 as usize), NEIGHBOURS);
            g.where_below(&(first_row.clone() + row), &count(&c.rows), |g, row| {
                g.at_point(&singly(&c.rows), &row);
                g.epilogue_at(&c.epilogue, &c.cols, &(first_col.clone() + col), &sums);
            });
            vec![]
        });
    }
}
