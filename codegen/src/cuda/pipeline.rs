//! Operands on their way to shared memory: slices of `k` are copied while earlier ones are multiplied.
//!
//! Shared memory has a few slices in turn, its stages. A thread copies parts of each without waiting; one barrier a slice says both
//! that what all threads copied has arrived and that nobody reads the slice any more whose place the next copies take. **Invariant.**
//! Beyond the last point and the last step, shared memory holds zeros, and nothing is read.
//!
//! ```text
//! of four stages:   copy slices 0, 1, 2
//! for slice in k:   wait for the copies of slice;   barrier;   copy slice + 3;   multiply slice
//! ```

use super::grid::{THREADS, count, singly, thread};
use super::product::Source;
use super::tensor::{Along, Layout, Order, ROW};
use crate::cpu::emit::Value;
use crate::cpu::scope::{Gen, Run};
use crate::kernel::Axis;
use egret_ir::{DType, Dim};
use inkwell::IntPredicate;
use inkwell::values::{IntValue, PointerValue};

/// Bytes that copies can be wide, best first.
const WIDTHS: [i64; 3] = [ROW, 8, 4];

/// An operand on its way.
pub(super) struct Incoming<'k, 'c> {
    source: Source<'k>,
    pub(super) layout: Layout,
    /// Where it begins in a stage, in bytes.
    pub(super) start: i64,
    /// Elements of a copy.
    together: i64,
    parts: Vec<Part<'c>>,
}

/// What a thread copies of each slice.
struct Part<'c> {
    /// Whether there is anything left to copy for it, if not all threads have as much.
    needed: Option<IntValue<'c>>,
    /// The indices of its first point.
    point: Vec<Dim>,
    /// Whether there is such a point.
    there: IntValue<'c>,
    /// Its step in the slice.
    step: Dim,
    /// Where it goes, in bytes.
    place: Dim,
}

/// Operands in turn in shared memory.
pub(super) struct Pipeline<'p, 'k, 'c> {
    pub(super) operands: [&'p Incoming<'k, 'c>; 2],
    pub(super) memory: PointerValue<'c>,
    /// Slices in shared memory; a power of two, since slices are numbered through.
    pub(super) stages: i64,
    /// How many of them are on their way.
    pub(super) ahead: i64,
    /// The first slice, and how many there are.
    pub(super) slices: [Dim; 2],
}

/// Whether an index is a multiple of `n` whatever its symbols are.
pub(super) fn is_multiple(d: &Dim, n: i64) -> bool {
    d.as_const().map_or_else(|| d.terms().iter().all(|term| term.coefficient % n == 0), |number| number % n == 0)
}

impl Source<'_> {
    /// How a slice of it comes to lie in shared memory, and the elements of a copy.
    pub(super) fn laid_out(&self, dtype: DType, [points, steps]: [i64; 2], order: Order) -> (Layout, i64) {
        let (along, together) = self.copies(dtype, (points * steps / THREADS as i64).max(1));
        (Layout { dtype, along, points, steps, order }, together)
    }

    /// How neighbours in memory lie, and how many of them, `most` at most, a copy can take: those of an aligned piece of memory.
    fn copies(&self, dtype: DType, most: i64) -> (Along, i64) {
        let size = dtype.size() as i64;
        let widest = |fits: &dyn Fn(i64) -> bool| WIDTHS.into_iter().map(|bytes| bytes / size).find(|n| (1..=most).contains(n) && fits(*n));
        if let Some(panel) = self.panel {
            return (Along::Points, widest(&|n| panel % n == 0 && is_multiple(self.offset, n)).unwrap_or(1));
        }
        let along = |axis: Option<&Axis>| {
            let axis = axis?;
            let (_, rest) = self.offset.linear_in(&axis.name).filter(|(stride, _)| stride.is(1))?;
            Some(widest(&|n| axis.extent.split_multiple(n).1.is(0) && is_multiple(&rest, n)).unwrap_or(1))
        };
        let (depth, points) = (along(self.depth.last()), along(self.points.last()));
        match (depth, points) {
            (Some(n), found) if found.is_none_or(|other| other <= n) => (Along::Depth, n),
            (_, Some(n)) => (Along::Points, n),
            _ => (Along::Depth, 1),
        }
    }
}

impl Pipeline<'_, '_, '_> {
    /// Bytes of a slice of all operands.
    fn bytes(&self) -> i64 {
        self.operands.iter().map(|operand| operand.layout.bytes()).sum()
    }

    /// Where the stage of a slice begins, in bytes.
    pub(super) fn stage(&self, slice: &Dim) -> Dim {
        slice.modulo(&self.stages.into()) * self.bytes()
    }
}

impl<'c> Gen<'_, 'c> {
    /// An operand of so many points from `first` on and so many steps a slice, behind the first `start` bytes of a stage, which all threads
    /// bring.
    pub(super) fn incoming<'k>(
        &mut self,
        source: Source<'k>,
        extents: [i64; 2],
        order: Order,
        start: i64,
        first: &Dim,
    ) -> Incoming<'k, 'c> {
        self.incoming_by(THREADS, source, extents, order, start, first)
    }

    /// The same for so many threads.
    pub(super) fn incoming_by<'k>(
        &mut self,
        threads: usize,
        source: Source<'k>,
        extents: [i64; 2],
        order: Order,
        start: i64,
        first: &Dim,
    ) -> Incoming<'k, 'c> {
        let dtype = self.kernel.buffers[source.buffer.0].dtype;
        let (layout, together) = source.laid_out(dtype, extents, order);
        let copies = layout.points * layout.steps / together;
        let before = (0..copies).step_by(threads);
        let parts = before.map(|before| self.part(&source, &layout, together, [before, copies, threads as i64], first)).collect();
        Incoming { source, layout, start, together, parts }
    }

    /// What the thread, of so many, copies of those of a slice of which `before` are done. Of rows of whole vectors a warp takes eight at a time, which
    /// lie on different banks.
    fn part(&mut self, source: &Source, layout: &Layout, together: i64, [before, copies, threads]: [i64; 3], first: &Dim) -> Part<'c> {
        let number = thread() + before;
        let (point, step) = match layout.along {
            // Panels are whole in memory, step by step.
            Along::Points if layout.order == Order::Swizzled && source.panel.is_some() => {
                let of_panel = source.panel.map_or(1, |panel| panel / together).min(layout.points / together);
                let row = number.floor_div(&of_panel.into());
                let panel = row.floor_div(&layout.steps.into()) * of_panel + number.modulo(&of_panel.into());
                (panel * together, row.modulo(&layout.steps.into()))
            }
            Along::Points => {
                let across = Dim::from(layout.points / together);
                (number.modulo(&across) * together, number.floor_div(&across))
            }
            Along::Depth => {
                let across = layout.steps / together;
                let rows = if together * layout.size() == ROW && layout.order != Order::Swizzled { 8 } else { 1 };
                let row = number.modulo(&rows.into()) + number.floor_div(&(rows * across).into()) * rows;
                (row, number.floor_div(&rows.into()).modulo(&across.into()) * together)
            }
        };
        let (point, step) = (self.named("%point", &point, (0, layout.points.into())), self.named("%step", &step, (0, layout.steps.into())));
        let place = self.named("%place", &layout.place(&point, &step), (0, layout.bytes().into()));
        let place = if layout.order == Order::Swizzled { self.swizzled(&place, layout.bytes()) } else { place };
        let is_below = |g: &mut Self, at: &Dim, end: &Dim| {
            let (at, end) = (g.index(at), g.index(end));
            g.e.icmp(IntPredicate::SLT, at.into(), end.into()).into_int_value()
        };
        let needed = (copies - before < threads).then(|| is_below(self, &number, &copies.into()));
        let there = is_below(self, &(first.clone() + point.clone()), &count(source.points));
        Part { needed, point: self.unravelled(&singly(source.points), &(first.clone() + point)), there, step, place }
    }

    /// A place below `bytes` whose 16-byte part is exchanged with another one of its row: bits 4 to 6 with what bits 7 to 9 say.
    fn swizzled(&mut self, place: &Dim, bytes: i64) -> Dim {
        let at: Value = self.index(place).into();
        let row = self.e.and(self.e.lshr(at, 7), self.e.i64(7).into());
        let (name, found) = (self.fresh("%swizzled"), self.e.xor(at, self.e.shl(row, 4)));
        self.bind(&name, found.into_int_value(), (0, bytes.into()));
        Dim::symbol(name)
    }

    /// Starts the copies of as many slices as can be on their way.
    pub(super) fn start_slices(&mut self, pipeline: &Pipeline<'_, '_, 'c>) {
        for stage in 0..pipeline.ahead {
            self.bring(pipeline, &stage.into());
            self.e.commit_copies();
        }
    }

    /// Runs `body` on all slices of operands, of which the first are on their way, with sums that go around. When it is done, shared
    /// memory is free.
    pub(super) fn through_slices(
        &mut self,
        pipeline: &Pipeline<'_, '_, 'c>,
        sums: Vec<Value<'c>>,
        body: impl FnOnce(&mut Self, &Dim, Vec<Value<'c>>) -> Vec<Value<'c>>,
    ) -> Vec<Value<'c>> {
        let (slices, ahead) = (&pipeline.slices[1], pipeline.ahead);
        let (name, end) = (self.fresh("%slice"), self.index(slices));
        let run = Run { start: self.e.i64(0), end, step: 1, certain: false, range: (0, self.range(slices).1.max(0)) };
        let sums = self.repeat(&name, run, sums, |g, sums| {
            g.e.wait_for_copies(ahead as u64 - 1);
            g.e.block_barrier();
            let slice = Dim::symbol(name.clone());
            g.where_below(&(slice.clone() + ahead), slices, |g, next| g.bring(pipeline, &next));
            g.e.commit_copies();
            body(g, &slice, sums)
        });
        self.e.wait_for_copies(0);
        self.e.block_barrier();
        sums
    }

    /// Starts the copies of a slice, which are numbered from the first one on.
    fn bring(&mut self, pipeline: &Pipeline<'_, '_, 'c>, slice: &Dim) {
        for operand in pipeline.operands {
            let start = pipeline.stage(slice) + operand.start;
            self.bring_operand(operand, pipeline.memory, &start, &((pipeline.slices[0].clone() + slice.clone()) * operand.layout.steps));
        }
    }

    /// Starts the copies of an operand's steps from the first of a slice on.
    pub(super) fn bring_operand(&mut self, operand: &Incoming<'_, 'c>, memory: PointerValue<'c>, start: &Dim, first: &Dim) {
        let source = &operand.source;
        let depth = count(source.depth);
        let mut known: Option<(Dim, Vec<Dim>, Value<'c>)> = None;
        for part in &operand.parts {
            let step = first.clone() + part.step.clone();
            let (_, k, before) = match known.take() {
                Some(same) if same.0 == step => same,
                _ => {
                    let (at, end) = (self.index(&step), self.index(&depth));
                    let before = self.e.icmp(IntPredicate::SLT, at.into(), end.into());
                    (step.clone(), self.unravelled(&singly(source.depth), &step), before)
                }
            };
            let from = self.pointer(source.buffer, &source.element(&part.point, &k, &step));
            let place = self.index(&(start.clone() + part.place.clone()));
            let to = self.e.offset(memory, place, 1);
            let inside = self.e.and(part.there.into(), before);
            match part.needed {
                Some(needed) => self.when(needed, |g| g.copied(from, to, operand, inside)),
                None => self.copied(from, to, operand, inside),
            }
            known = Some((step, k, before));
        }
    }

    /// Copies a part; what is narrower than a copy can be goes through a register.
    fn copied(&mut self, from: PointerValue<'c>, to: PointerValue<'c>, operand: &Incoming, inside: Value<'c>) {
        let (bytes, size) = (operand.together * operand.layout.size(), operand.layout.size() as usize);
        if WIDTHS.contains(&bytes) {
            return self.e.copy_async(from, to, bytes, inside);
        }
        let element = self.e.memory_type(operand.layout.dtype);
        self.e.store(self.e.zero(element), to, size);
        self.when(inside.into_int_value(), |g| g.e.store(g.e.load(element, from, size), to, size));
    }
}
