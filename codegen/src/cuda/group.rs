//! Products by warpgroups, of GPUs that have them (`sm_90a`): four warps start products of 64 rows that read both operands from shared
//! memory, and go on while they run.
//!
//! Slices come through a [ring] of places in shared memory, which other warps fill, in rows of 128 bytes that are
//! [swizzled](super::tensor::Order), or as panels. Of a slice all products are one group, and one group is always under way: the place of
//! a slice is given back when those of the next one have started.
//!
//! ```text
//! for slice in k:   wait until it is there;   start the products of slice;   wait for those of slice - 1;   give back its place
//! ```

use super::contract::{a_source, b_source};
use super::grid::{CARRIERS, THREADS};
use super::matrix::{MOST_WASTE, Matrix};
use super::product::Source;
use super::ring::{self, Ring, State};
use super::tensor::{Along, Format, Layout, Order, ROW, SWIZZLED_ROW, lane, warp};
use crate::cpu::emit::Value;
use crate::cpu::scope::{Gen, Run};
use crate::kernel::Contract;
use crate::target::Target;
use egret_ir::{DType, Dim};
use inkwell::IntPredicate;

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

    /// How slices of both operands lie in shared memory.
    fn layouts(&self, c: &Contract, panel: i64) -> [Layout; 2] {
        let layout = |source: Source, dtype, points| {
            let extents = [points, self.steps()];
            source.as_panels(dtype, extents).unwrap_or_else(|| source.laid_out(dtype, extents, Order::Swizzled).0)
        };
        [layout(a_source(c), self.operands[0], self.rows), layout(b_source(c, panel), self.operands[1], self.cols)]
    }

    /// Whether it is the shape for warpgroups where it is not known how many tiles there are: the smallest, if columns fill it.
    pub(super) fn suits_any_number(&self, c: &Contract) -> bool {
        let is_smallest = self.by_groups && SHAPES.last().is_some_and(|last| [self.rows, self.cols, self.down] == *last);
        is_smallest && c.cols.extent.as_const().is_some_and(|n| (n + self.cols - 1) / self.cols * self.cols <= n + n / MOST_WASTE)
    }
}

impl Layout {
    /// What a description says of an operand beside its address: of swizzled rows the bytes from eight rows to the next, and, where rows are
    /// points, from a row's worth of these to the next; of panels the bytes from one to the next, and from eight steps to the next.
    fn description(&self) -> i64 {
        let described = |leading: i64, stride: i64| (stride / ROW) << 32 | (leading / ROW) << 16;
        match (self.order, self.along) {
            (Order::Panels, _) => described(8 * ROW, self.steps * ROW),
            (_, Along::Depth) => SWIZZLED | described(ROW, EIGHT_ROWS),
            (_, Along::Points) => SWIZZLED | described(self.steps * SWIZZLED_ROW, EIGHT_ROWS),
        }
    }

    /// Bytes to the steps of the next product.
    fn advance(&self, steps: i64) -> i64 {
        steps * self.step()
    }
}

impl<'c> Gen<'_, 'c> {
    /// Emits what a block of the job does; weights are packed in panels of so many columns.
    pub(super) fn contract_groups(&mut self, c: &Contract, m: &Matrix, panel: i64, block: &Dim) {
        let first = self.first_of_tile(c, m, block);
        let (memory, extents) = (self.e.aligned_shared(), [[m.rows, m.steps()], [m.cols, m.steps()]]);
        let layouts = m.layouts(c, panel);
        let bytes = layouts.map(|layout| layout.bytes());
        let has_panels = layouts.iter().any(|layout| layout.order == Order::Panels);
        let ring = self.ring(memory, bytes.iter().sum(), m.shared() - ring::BYTES, m.slices(c), has_panels);
        self.by_threads(THREADS, CARRIERS, |g| {
            let a = g.carried(a_source(c), extents[0], 0, &first[0]);
            let b = g.carried(b_source(c, panel), extents[1], bytes[0], &first[1]);
            // Bulk copies are one instruction and come first.
            g.carry(&ring, &[b, a]);
        });
        self.by_threads(0, THREADS, |g| {
            let sums = g.group_sums(m, &ring, &layouts);
            g.finish_tile(c, m, memory, &first, &sums);
        });
    }

    /// The sums of the lane, over all slices; shared memory is then free.
    fn group_sums(&mut self, m: &Matrix, ring: &Ring<'c>, layouts: &[Layout; 2]) -> Vec<Value<'c>> {
        let first_row = warp().floor_div(&WARPS.into()) * ROWS;
        let starts = [layouts[0].place(&first_row, &Dim::ZERO), layouts[0].bytes().into()];
        let zeros = vec![self.e.zero(self.e.register_type(DType::F32)); m.sums()];
        let (name, end) = (self.fresh("%slice"), self.index(&ring.slices));
        let run = Run { start: self.e.i64(0), end, step: 1, certain: false, range: (0, self.range(&ring.slices).1.max(0)) };
        let sums = self.repeat(&name, run, zeros, |g, sums| {
            let slice = Dim::symbol(name.clone());
            g.wait_until(ring, State::Full, &slice);
            g.e.show_to_tensor_cores();
            let described = [0, 1].map(|i| g.described(ring, &layouts[i], &(ring.place(&slice) + starts[i].clone())));
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
            let sums = g.e.wait_for_products(1, &started);
            g.give_back(ring, &slice);
            sums
        });
        let sums = self.e.wait_for_products(0, &sums);
        self.e.block_barrier();
        sums
    }

    /// Gives the place of the slice before this one back, if there is one; a lane does for its warp.
    fn give_back(&mut self, ring: &Ring<'c>, slice: &Dim) {
        let (lane, slice_number, zero) = (self.index(&lane()), self.index(slice), self.e.i64(0));
        let is_first = self.e.icmp(IntPredicate::EQ, lane.into(), zero.into());
        let is_behind = self.e.icmp(IntPredicate::SGT, slice_number.into(), zero.into());
        let here = self.e.and(is_first, is_behind).into_int_value();
        self.when(here, |g| {
            let barrier = g.barrier(ring, State::Empty, &(slice.clone() - 1));
            g.e.arrive(barrier);
        });
    }

    /// The description of an operand that begins at `start`, in bytes.
    fn described(&mut self, ring: &Ring<'c>, layout: &Layout, start: &Dim) -> Value<'c> {
        let start = self.index(start);
        let address = self.e.shared_address(self.e.offset(ring.memory, start, 1));
        let address = self.e.lshr(self.e.and(address, self.e.i64(ADDRESS).into()), 4);
        self.e.or(address, self.e.i64(layout.description()).into())
    }
}
