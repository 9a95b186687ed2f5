//! Operands that some warps bring for others: slices in turn in shared memory, with two barriers for each place.
//!
//! The warps that bring operands and those that multiply never meet in the loop: a place is full when all copies to it have arrived, and
//! empty when all warps that multiply have done so, and each waits for the other's phase alone. **Invariant.** Phase `n` of both barriers of
//! a place is that of the `n`-th slice there, so who waits for slice `i` waits for a phase of parity `i / STAGES % 2`.
//!
//! Packed weights come by bulk copies, one for eight columns and all steps of a slice: their [panels](crate::pack) lie in memory as
//! warpgroups read them, so that the copy engine has nothing to rearrange. All else comes by copies of 16 bytes, whose end is an arrival at
//! the same barrier: these take any map from points to memory, the ones of a convolution too, and put zeros beyond its edges. Descriptions of
//! tensors for the copy engine would take such operands off the warps that bring them, but for products of matrices only; and they hold
//! addresses, which a plan does not have.
//!
//! ```text
//! 4 warps:   for slice in k:   wait until place is empty;   copy slice there, and have that arrive at full
//! 8 warps:   for slice in k:   wait until place is full;   start products;   wait for those before;   arrive at empty of the slice before
//! ```

use super::grid::{CARRIERS, count, thread};
use super::matrix::STAGES;
use super::pipeline::{Incoming, is_multiple};
use super::product::Source;
use super::tensor::{Along, Layout, Order, ROW, WARPS};
use crate::cpu::scope::{Gen, Run};
use egret_ir::{DType, Dim};
use inkwell::values::PointerValue;

/// Bytes of a barrier, and of all.
const BARRIER: i64 = 8;
pub(super) const BYTES: i64 = 2 * STAGES * BARRIER;

/// Places for slices, and their barriers.
pub(super) struct Ring<'c> {
    pub(super) memory: PointerValue<'c>,
    /// Bytes of a slice of all operands.
    pub(super) slice: i64,
    pub(super) slices: Dim,
    barriers: PointerValue<'c>,
}

/// What a barrier says of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Full,
    Empty,
}

/// What a thread brings of an operand.
pub(super) enum Carried<'k, 'c> {
    /// Copies of its own.
    Parts(Incoming<'k, 'c>),
    /// A panel, by a bulk copy.
    Panel(Panel<'k>),
}

/// Columns of packed weights, of which each thread of some brings a panel.
pub(super) struct Panel<'k> {
    source: Source<'k>,
    layout: Layout,
    start: i64,
    /// The first column of the thread's panel.
    column: Dim,
}

impl Source<'_> {
    /// How whole slices of panels lie in shared memory, if they lie so in memory, too.
    pub(super) fn as_panels(&self, dtype: DType, [points, steps]: [i64; 2]) -> Option<Layout> {
        let width = ROW / dtype.size() as i64;
        let whole = self.panel == Some(width) && is_multiple(&count(self.depth), steps) && is_multiple(self.offset, width);
        let layout = Layout { dtype, along: Along::Points, points, steps, order: Order::Panels };
        (whole && points / width <= CARRIERS as i64).then_some(layout)
    }
}

impl Panel<'_> {
    /// Panels of a slice, and the bytes of each.
    fn count(&self) -> i64 {
        self.layout.points * self.layout.size() / ROW
    }

    fn bytes(&self) -> i64 {
        self.layout.steps * ROW
    }
}

impl Ring<'_> {
    /// Where the place of a slice begins, in bytes.
    pub(super) fn place(&self, slice: &Dim) -> Dim {
        slice.modulo(&STAGES.into()) * self.slice
    }
}

impl<'c> Gen<'_, 'c> {
    /// Makes the barriers, behind so many bytes of memory; all threads of the block have to come.
    pub(super) fn ring(&mut self, memory: PointerValue<'c>, slice: i64, behind: i64, slices: Dim, has_panels: bool) -> Ring<'c> {
        let ring = Ring { memory, slice, slices, barriers: self.e.displaced(memory, behind) };
        // Who brings operands arrives by its copies, and one of them once more to say how many bytes of panels there are.
        let arrivals = [CARRIERS + usize::from(has_panels), WARPS as usize];
        self.where_below(&thread(), &Dim::ONE, |g, _| {
            for (state, arrivals) in [State::Full, State::Empty].into_iter().zip(arrivals) {
                for place in 0..STAGES {
                    let barrier = g.barrier(&ring, state, &place.into());
                    g.e.make_phases(barrier, arrivals);
                }
            }
        });
        self.e.show_to_tensor_cores();
        self.e.whole_barrier();
        ring
    }

    /// The barrier of a slice's place.
    pub(super) fn barrier(&mut self, ring: &Ring<'c>, state: State, slice: &Dim) -> PointerValue<'c> {
        let first = if state == State::Full { 0 } else { STAGES };
        let at = self.index(&((slice.modulo(&STAGES.into()) + first) * BARRIER));
        self.e.offset(ring.barriers, at, 1)
    }

    /// Waits until the place of a slice is full of it, or empty for it.
    pub(super) fn wait_until(&mut self, ring: &Ring<'c>, state: State, slice: &Dim) {
        // For the first slices a place is empty: the phase before the first one counts as over.
        let turn = slice.floor_div(&STAGES.into()) + if state == State::Full { 0 } else { 1 };
        let (barrier, parity) = (self.barrier(ring, state, slice), self.index(&turn.modulo(&2.into())));
        self.e.wait_for_phase(barrier, parity.into());
    }

    /// An operand of so many points from `first` on and so many steps a slice, as threads bring it that do nothing else.
    pub(super) fn carried<'k>(&mut self, source: Source<'k>, extents: [i64; 2], start: i64, first: &Dim) -> Carried<'k, 'c> {
        let dtype = self.kernel.buffers[source.buffer.0].dtype;
        let Some(layout) = source.as_panels(dtype, extents) else {
            return Carried::Parts(self.incoming_by(CARRIERS, source, extents, Order::Swizzled, start, first));
        };
        // Beyond the last panel there is the last one again, in columns that nobody looks at.
        let (width, columns) = (Dim::from(ROW / layout.size()), count(source.points));
        let last = (columns.ceil_div(&width) - 1) * width.clone();
        let range = (0, self.range(&last).1.max(0));
        let column = self.named("%column", &(first.clone() + thread() * width).minimum(&last), range);
        Carried::Panel(Panel { source, layout, start, column })
    }

    /// Brings all slices of operands.
    pub(super) fn carry(&mut self, ring: &Ring<'c>, operands: &[Carried<'_, 'c>]) {
        let (name, end) = (self.fresh("%slice"), self.index(&ring.slices));
        let run = Run { start: self.e.i64(0), end, step: 1, certain: false, range: (0, self.range(&ring.slices).1.max(0)) };
        self.repeat(&name, run, vec![], |g, _| {
            let slice = Dim::symbol(name.clone());
            g.wait_until(ring, State::Empty, &slice);
            let (full, place) = (g.barrier(ring, State::Full, &slice), ring.place(&slice));
            for operand in operands {
                match operand {
                    Carried::Panel(panel) => g.bring_panels(panel, ring, &place, &slice, full),
                    Carried::Parts(parts) => {
                        let start = place.clone() + parts.start;
                        g.bring_operand(parts, ring.memory, &start, &(slice.clone() * parts.layout.steps));
                    }
                }
            }
            g.e.copies_arrive(full);
            vec![]
        });
    }

    /// Starts the bulk copies of a slice, one a thread.
    fn bring_panels(&mut self, panel: &Panel, ring: &Ring<'c>, place: &Dim, slice: &Dim, full: PointerValue<'c>) {
        self.where_below(&thread(), &Dim::ONE, |g, _| g.e.arrive_expecting(full, panel.count() * panel.bytes()));
        self.where_below(&thread(), &panel.count().into(), |g, number| {
            let step = slice.clone() * panel.layout.steps;
            let from = g.pointer(panel.source.buffer, &panel.source.element(std::slice::from_ref(&panel.column), &[], &step));
            let to = g.index(&(place.clone() + panel.start + number * panel.bytes()));
            g.e.copy_bulk(from, g.e.offset(ring.memory, to, 1), panel.bytes(), full);
        });
    }
}
