//! Contractions on tensor cores: a block does a tile of rows and columns, each of its warps a part of it.
//!
//! Slices of both operands come through shared memory by a [`pipeline`](super::pipeline); a warp reads [fragments](super::tensor) of
//! its rows and columns and keeps its sums in registers. At the end these go through shared memory, so that a thread has neighbouring
//! columns, as the epilogue reads and writes them.
//!
//! Where there are fewer tiles than multiprocessors, several blocks share the slices of one. Each leaves its sums in working memory, and
//! a launch that follows adds them up in order, so that results are the same on every run.
//!
//! The GPUs that have [warpgroups](super::group) give them the products of large tiles of 16 bits.
//!
//! ```text
//! block 128x128, warp 2 of 8: rows 0 to 63, columns 64 to 95:   for 16 steps:  acc[4][4] += a[4] * b[4]  by 16x8x8
//! ```

use super::contract::{a_source, b_source};
use super::grid::{THREADS, count, singly, thread};
use super::group;
use super::map::NEIGHBOURS;
use super::pipeline::Pipeline;
use super::product::F32;
use super::ring;
use super::tensor::{Along, Arithmetic, COLUMNS, Fragment, Layout, Order, POINTS, SUMS, SWIZZLED_ROW, Side, WARPS, of_sums, warp};
use crate::cpu::emit::Value;
use crate::cpu::scope::{Gen, Run};
use crate::kernel::{Axis, Contract, Kernel};
use crate::target::Target;
use egret_ir::{DType, Dim};
use inkwell::values::PointerValue;

/// Bytes of `k` in a slice: two fragments of every operand, and two copies of a thread for each 128 points.
const SLICE: i64 = 64;

/// Slices in shared memory: three on their way hide a load from memory behind the products of one each.
pub(super) const STAGES: i64 = 4;

/// Fewest rows: below them a product is bound by reading the second operand, and multiply-adds in order are as fast.
const FEWEST_ROWS: i64 = 17;

/// Fewest steps of `k`: below them most of a slice is zeros.
const FEWEST_STEPS: i64 = 16;

/// Blocks that keep a large GPU busy: it has about so many multiprocessors.
pub(super) const ENOUGH_BLOCKS: i64 = 128;

/// A larger tile may compute one in so many points more, beyond the edges, than a smaller one: what it saves by reading less.
pub(super) const MOST_WASTE: i64 = 4;

/// Fewest slices of a block that shares a tile with others: below them starting another launch takes longer than is won.
const FEWEST_SLICES: i64 = 16;

/// Most blocks that share a tile: more would make adding up what they found the longer part.
const MOST_PARTS: i64 = 16;

/// f32s between two rows of sums in shared memory beyond those of the tile: keeps the rows that a warp writes on different banks.
pub(super) const PADDING: i64 = 8;

/// What a block does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Matrix {
    pub(super) rows: i64,
    pub(super) cols: i64,
    /// Warps one below the other; the others stand side by side.
    pub(super) down: i64,
    pub(super) arithmetic: Arithmetic,
    /// The types of the operands.
    pub(super) operands: [DType; 2],
    /// Whether [warpgroups](super::group) do it.
    pub(super) by_groups: bool,
    /// Blocks that share the slices of a tile.
    parts: i64,
    /// Where their working memory begins, in bytes.
    pub(super) working: i64,
}

/// Rows, columns and warps one below the other of tiles, those that reuse most first.
const SHAPES: [[i64; 3]; 3] = [[128, 128, 2], [128, 64, 4], [64, 64, 2]];

impl Matrix {
    /// The tiles of a contraction that is for tensor cores.
    pub(super) fn of(c: &Contract, kernel: &Kernel, target: &Target, panel: i64) -> Option<Matrix> {
        let few = |d: Dim, least: i64| d.as_const().is_some_and(|n| n < least);
        if few(count(&c.rows), FEWEST_ROWS) || few(count(&c.k), FEWEST_STEPS) {
            return None;
        }
        let operands = [c.a.0, c.b.buffer()].map(|buffer| kernel.buffers[buffer.0].dtype);
        let arithmetic = Arithmetic::of(operands[0], operands[1], target)?;
        let shape = |[rows, cols, down]: [i64; 3], by_groups: bool| Matrix {
            rows,
            cols,
            down,
            arithmetic,
            operands,
            by_groups,
            parts: 1,
            working: 0,
        };
        let shapes = SHAPES.map(|of| shape(of, false));
        let of_groups = group::SHAPES.map(|of| shape(of, true)).into_iter().filter(|m| m.is_for_groups(c, target, panel));
        let tiles = |m: &Matrix| count(&m.axes(c)).as_const();
        let points = |m: &Matrix| tiles(m).map(|tiles| tiles * m.rows * m.cols);
        let fewest = shapes.iter().filter_map(points).min().unwrap_or(0);
        let least = |m: &Matrix| if m.by_groups { group::ENOUGH_BLOCKS } else { ENOUGH_BLOCKS };
        let suits = |m: &Matrix| match tiles(m).zip(points(m)) {
            Some((tiles, points)) => tiles >= least(m) && points <= fewest + fewest / MOST_WASTE,
            None => m.suits_any_number(c),
        };
        // Of unknown extents the smallest tile wastes least.
        let found = of_groups.chain(shapes).find(suits).or(shapes.last().copied())?;
        Some(Matrix { parts: found.wanted_parts(c), ..found })
    }

    /// How many blocks share a tile: more than one where extents are known and tiles are few, which those of warpgroups are not.
    fn wanted_parts(&self, c: &Contract) -> i64 {
        if self.by_groups {
            return 1;
        }
        let known = count(&self.axes(c)).as_const().zip(self.slices(c).as_const());
        known.map_or(1, |(tiles, slices)| (ENOUGH_BLOCKS / tiles.max(1)).min(slices / FEWEST_SLICES).clamp(1, MOST_PARTS))
    }

    /// Slices of `k`.
    pub(super) fn slices(&self, c: &Contract) -> Dim {
        count(&c.k).ceil_div(&self.steps().into())
    }

    /// How many blocks it takes.
    pub(super) fn blocks(&self, c: &Contract) -> Dim {
        count(&self.axes(c)) * self.parts
    }

    /// Bytes of working memory: the sums of all blocks, if they share tiles.
    pub(super) fn scratch(&self, c: &Contract) -> i64 {
        if self.parts == 1 { 0 } else { self.blocks(c).as_const().unwrap_or(0) * self.rows * self.cols * F32 }
    }

    /// Blocks that add up what is in working memory.
    pub(super) fn blocks_of_sums(&self, c: &Contract) -> Option<Dim> {
        (self.parts > 1).then(|| count(&self.axes(c)) * self.passes())
    }

    /// Rows that the threads of a block have when each has neighbouring columns, and how often that is until a tile is done.
    fn at_once(&self) -> i64 {
        THREADS as i64 * NEIGHBOURS / self.cols
    }

    fn passes(&self) -> i64 {
        self.rows / self.at_once()
    }

    /// The row and the first column of the thread in a pass over a tile.
    fn of_pass(&self, pass: &Dim) -> [Dim; 2] {
        let across = Dim::from(self.cols / NEIGHBOURS);
        [pass.clone() * self.at_once() + thread().floor_div(&across), thread().modulo(&across) * NEIGHBOURS]
    }

    /// Batches, tiles of rows, tiles of columns.
    pub(super) fn axes(&self, c: &Contract) -> [Axis; 3] {
        let (rows, cols) = (count(&c.rows).ceil_div(&self.rows.into()), c.cols.extent.ceil_div(&self.cols.into()));
        [Axis::new("%batch", count(&c.batch)), Axis::new("%rows", rows), Axis::new("%cols", cols)]
    }

    /// Bytes of shared memory: of all slices, then of the sums.
    pub(super) fn shared(&self) -> i64 {
        // Rows along `k` take more, if any do.
        let layout = |(points, dtype)| Layout { dtype, along: Along::Depth, points, steps: self.steps(), order: self.order() }.bytes();
        let slices = STAGES * [(self.rows, self.operands[0]), (self.cols, self.operands[1])].map(layout).iter().sum::<i64>();
        slices.max(self.rows * self.pitch() * F32) + if self.by_groups { ring::BYTES } else { 0 }
    }

    /// Steps of `k` in a slice.
    pub(super) fn steps(&self) -> i64 {
        (if self.by_groups { SWIZZLED_ROW } else { SLICE }) * self.arithmetic.format.steps() / 32
    }

    /// How operands lie in shared memory.
    pub(super) fn order(&self) -> Order {
        if self.by_groups { Order::Swizzled } else { Order::Straight }
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
    pub(super) fn sums(&self) -> usize {
        let [rows, cols] = self.of_warp();
        (rows / POINTS * cols / COLUMNS) as usize * SUMS
    }
}

impl<'c> Gen<'_, 'c> {
    /// Emits what a block of the job does; weights are packed in panels of so many columns.
    pub(super) fn contract_matrix(&mut self, c: &Contract, m: &Matrix, panel: i64, block: &Dim) {
        let (tile, part) = (block.floor_div(&m.parts.into()), block.modulo(&m.parts.into()));
        let first = self.first_of_tile(c, m, &tile);
        let memory = self.e.dynamic_shared();
        let sums = self.matrix_sums(c, m, panel, memory, &first, &part);
        if m.parts > 1 {
            let working = self.working_memory(m);
            return self.lay_out_sums(m, working, &(block.clone() * (m.rows * m.cols)), m.cols, &sums);
        }
        self.finish_tile(c, m, memory, &first, &sums);
    }

    /// The epilogue of a tile, whose sums take the place of its operands.
    pub(super) fn finish_tile(&mut self, c: &Contract, m: &Matrix, memory: PointerValue<'c>, first: &[Dim; 2], sums: &[Value<'c>]) {
        self.lay_out_sums(m, memory, &Dim::ZERO, m.pitch(), sums);
        self.e.block_barrier();
        self.matrix_epilogue(c, m, memory, first);
    }

    /// The first row and the first column of a tile, at the point of its batch.
    pub(super) fn first_of_tile(&mut self, c: &Contract, m: &Matrix, tile: &Dim) -> [Dim; 2] {
        let [batch, row_tile, col_tile] = {
            let found = self.unravelled(&singly(&m.axes(c)), tile);
            <[Dim; 3]>::try_from(found).expect("three axes")
        };
        self.at_point(&singly(&c.batch), &batch);
        [row_tile * m.rows, col_tile * m.cols]
    }

    fn working_memory(&self, m: &Matrix) -> PointerValue<'c> {
        self.e.displaced(self.scratch.expect("the launch gives it where tiles are shared"), m.working)
    }

    /// The sums of the lane, over the slices of the block.
    fn matrix_sums(
        &mut self,
        c: &Contract,
        m: &Matrix,
        panel: i64,
        memory: PointerValue<'c>,
        [first_row, first_col]: &[Dim; 2],
        part: &Dim,
    ) -> Vec<Value<'c>> {
        let a = self.incoming(a_source(c), [m.rows, m.steps()], m.order(), 0, first_row);
        let b = self.incoming(b_source(c, panel), [m.cols, m.steps()], m.order(), a.layout.bytes(), first_col);
        let zero = self.e.zero(self.e.register_type(DType::F32));
        let (all, of_part) = (m.slices(c), m.slices(c).ceil_div(&m.parts.into()));
        let start = part.clone() * of_part.clone();
        let slices = if m.parts > 1 { [start.clone(), of_part.minimum(&(all - start))] } else { [Dim::ZERO, all] };
        let pipeline = Pipeline { operands: [&a, &b], memory, stages: STAGES, ahead: STAGES - 1, slices };
        self.start_slices(&pipeline);
        let readers = [self.reader(a.layout, Side::A, m.arithmetic), self.reader(b.layout, Side::B, m.arithmetic)];
        self.through_slices(&pipeline, vec![zero; m.sums()], |g, slice, mut sums| {
            let starts = [&a, &b].map(|operand| pipeline.stage(slice) + operand.start);
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

    /// Puts the sums of all warps into memory from an element on, row by row, which lie so many elements apart.
    fn lay_out_sums(&mut self, m: &Matrix, memory: PointerValue<'c>, start: &Dim, pitch: i64, sums: &[Value<'c>]) {
        let ([own_row, own_col], (row, col)) = (m.own(), of_sums());
        let own = self.index(&(start.clone() + (own_row + row) * pitch + own_col + col));
        let own = self.e.offset(memory, own, F32 as usize);
        let across = (m.of_warp()[1] / COLUMNS) as usize;
        for (i, sums) in sums.chunks(SUMS).enumerate() {
            let (i, j) = ((i / across) as i64 * POINTS, (i % across) as i64 * COLUMNS);
            for (half, pair) in (0..).zip(sums.chunks(2)) {
                let at = self.e.displaced(own, ((i + half * POINTS / 2) * pitch + j) * F32);
                self.e.store(self.e.together(pair), at, 2 * F32 as usize);
            }
        }
    }

    /// The epilogue at all points of the tile, a thread at neighbouring columns.
    fn matrix_epilogue(&mut self, c: &Contract, m: &Matrix, memory: PointerValue<'c>, first: &[Dim; 2]) {
        let name = self.fresh("%pass");
        let (end, range) = (self.e.i64(m.passes()), (0, (m.passes() - 1).into()));
        let run = Run { start: self.e.i64(0), end, step: 1, certain: true, range };
        self.repeat(&name, run, vec![], |g, _| {
            let [row, col] = m.of_pass(&Dim::symbol(name.clone()));
            let at = g.index(&(row.clone() * m.pitch() + col.clone()));
            let sums = g.read_shared(g.e.offset(memory, at, F32 as usize), NEIGHBOURS);
            g.epilogue_in_tile(c, first, [row, col], &sums);
            vec![]
        });
    }

    /// The epilogue at neighbouring columns from a point of a tile on, if it is there.
    fn epilogue_in_tile(&mut self, c: &Contract, [first_row, first_col]: &[Dim; 2], [row, col]: [Dim; 2], sums: &[Value<'c>]) {
        self.where_below(&(first_row.clone() + row), &count(&c.rows), |g, row| {
            g.at_point(&singly(&c.rows), &row);
            g.epilogue_at(&c.epilogue, &c.cols, &(first_col.clone() + col), sums);
        });
    }

    /// Adds up what the blocks of a tile left in working memory, in order, at the points of one pass, and the epilogue there.
    pub(super) fn contract_sums(&mut self, c: &Contract, m: &Matrix, block: &Dim) {
        let (tile, pass) = (block.floor_div(&m.passes().into()), block.modulo(&m.passes().into()));
        let first = self.first_of_tile(c, m, &tile);
        let [row, col] = m.of_pass(&pass);
        let at = self.index(&(tile * (m.parts * m.rows * m.cols) + row.clone() * m.cols + col.clone()));
        let working = self.e.offset(self.working_memory(m), at, F32 as usize);
        let part = |i: i64| self.read_shared(self.e.displaced(working, i * m.rows * m.cols * F32), NEIGHBOURS);
        let added = |x: Vec<Value<'c>>, y: Vec<Value<'c>>| x.into_iter().zip(y).map(|(x, y)| self.e.fadd(x, y)).collect();
        let sums = (0..m.parts).map(part).reduce(added).unwrap_or_default();
        self.epilogue_in_tile(c, &first, [row, col], &sums);
    }
}
