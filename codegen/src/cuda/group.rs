//! Products by warpgroups, of GPUs that have them (`sm_90a`): four warps start products of 64 rows that read both operands from shared
//! memory, and go on while they run.
//!
//! Slices come by the copies of a [`pipeline`](super::pipeline), in rows of 128 bytes that are [swizzled](super::tensor::Order). Of a
//! slice all products are one group, and one group is always under way: a place in shared memory is copied to again when the products
//! before the last ones are done, which all warps know behind the barrier of a slice.
//!
//! ```text
//! copy slices 0, 1
//! for slice in k:   wait for the copies of slice;   barrier;   copy slice + 2;   start the products of slice;   wait for those of slice - 1
//! ```

use super::contract::{a_source, b_source};
use super::matrix::{MOST_WASTE, Matrix};
use super::pipeline::Pipeline;
use super::product::Source;
use super::tensor::{Along, Format, Layout, Order, ROW, SWIZZLED_ROW, warp};
use crate::cpu::emit::Value;
use crate::cpu::scope::Gen;
use crate::kernel::Contract;
use crate::target::Target;
use egret_ir::Dim;

/// Rows, columns and warps one below the other of tiles, those that reuse most first.
pub(super) const SHAPES: [[i64; 3]; 2] = [[128, 256, 8], [128, 128, 8]];

/// Tiles from which on they are for warpgroups: with half of the multiprocessors at twice the speed, others are no faster.
pub(super) const ENOUGH_BLOCKS: i64 = super::matrix::ENOUGH_BLOCKS / 2;

/// Rows of the products of a warpgroup, and its warps.
const ROWS: i64 = 64;
const WARPS: i64 = 4;

/// Bytes of eight rows, which are swizzled together.
const EIGHT_ROWS: i64 = 8 * SWIZZLED_ROW;

/// What a description of an operand says of rows of 128 bytes that are swizzled (PTX ISA, "Matrix descriptor").
const SWIZZLED: i64 = 1 << 62;

/// The bits of an address that a description has.
const ADDRESS: i64 = 0x3fff0;

impl Matrix {
    /// Whether warpgroups can do it: operands of one type of 16 bits, which whole vectors of 16 bytes are copied of.
    pub(super) fn is_for_groups(&self, c: &Contract, target: &Target, panel: i64) -> bool {
        let [a, b] = self.operands;
        let is_whole = |source: Source, dtype, points| {
            let (layout, together) = source.laid_out(dtype, [points, self.steps()], Order::Swizzled);
            together * layout.size() == ROW
        };
        let is_narrow = matches!(self.arithmetic.format, Format::Bf16 | Format::F16);
        is_narrow && target.has_warpgroups() && is_whole(a_source(c), a, self.rows) && is_whole(b_source(c, panel), b, self.cols)
    }

    /// Whether it is the shape for warpgroups where it is not known how many tiles there are: the smallest, if columns fill it.
    pub(super) fn suits_any_number(&self, c: &Contract) -> bool {
        let is_smallest = self.by_groups && SHAPES.last().is_some_and(|last| [self.rows, self.cols, self.down] == *last);
        is_smallest && c.cols.extent.as_const().is_some_and(|n| (n + self.cols - 1) / self.cols * self.cols <= n + n / MOST_WASTE)
    }
}

impl Layout {
    /// What a description says of an operand beside its address: bytes from eight rows to the next, and, where rows are points, from a
    /// row's worth of these to the next.
    fn description(&self) -> i64 {
        let leading = if self.along == Along::Depth { ROW } else { self.steps * SWIZZLED_ROW };
        SWIZZLED | (EIGHT_ROWS / ROW) << 32 | (leading / ROW) << 16
    }

    /// Bytes to the steps of the next product.
    fn advance(&self, steps: i64) -> i64 {
        if self.along == Along::Depth { steps * self.size() } else { steps * SWIZZLED_ROW }
    }
}

impl<'c> Gen<'_, 'c> {
    /// The sums of the lane, over the slices of the block.
    pub(super) fn group_sums(&mut self, m: &Matrix, pipeline: &Pipeline<'_, '_, 'c>, sums: Vec<Value<'c>>) -> Vec<Value<'c>> {
        let layouts = pipeline.operands.map(|operand| operand.layout);
        let first_row = warp().floor_div(&WARPS.into()) * ROWS;
        let own = [layouts[0].place(&first_row, &Dim::ZERO), Dim::ZERO];
        self.through_slices(pipeline, sums, |g, slice, sums| {
            let starts = [0, 1].map(|i| pipeline.stage(slice) + pipeline.operands[i].start + own[i].clone());
            let described = [0, 1].map(|i| g.described(pipeline, &layouts[i], &starts[i]));
            let sums = g.e.begin_products(&sums);
            let steps = m.arithmetic.format.steps();
            let started = (0..m.steps() / steps).fold(sums, |sums, k| {
                let operand = |i: usize| {
                    // Addresses count 16 bytes.
                    let at = g.e.add(described[i], g.e.i64(layouts[i].advance(k * steps) / ROW).into());
                    (at, layouts[i].along == Along::Points)
                };
                g.e.start_product(m.arithmetic.format, [operand(0), operand(1)], &sums)
            });
            g.e.commit_products();
            g.e.wait_for_products(1, &started)
        })
    }

    /// The description of an operand that begins at `start`, in bytes.
    fn described(&mut self, pipeline: &Pipeline<'_, '_, 'c>, layout: &Layout, start: &Dim) -> Value<'c> {
        let start = self.index(start);
        let address = self.e.shared_address(self.e.offset(pipeline.memory, start, 1));
        let address = self.e.lshr(self.e.and(address, self.e.i64(ADDRESS).into()), 4);
        self.e.or(address, self.e.i64(layout.description()).into())
    }
}
