//! Products of tiles: operands come through shared memory a slice of `k` at a time, sums stay in registers.
//!
//! A thread keeps a small tile of sums. Shared memory has two slices of an operand in turn: while one is multiplied, the next is on
//! its way, and one barrier for each is enough. **Invariant.** A sum runs over `k` in order, by fused multiply-add in f32. Points
//! beyond the edge read the last point there is; beyond the end of `k` an element is zero.
//!
//! ```text
//! a[0], b[0] = the first slices, 16 by 64
//! for slice in k:  barrier   next = load the slices behind   acc[4][4] += a[t][k][4] * b[t][k][4] for k in 16   a[1-t], b[1-t] = next
//! ```

use super::grid::{THREADS, count, singly, thread};
use super::map::NEIGHBOURS;
use crate::cpu::emit::Value;
use crate::cpu::point::Point;
use crate::cpu::scope::{Gen, Run};
use crate::kernel::{Axis, Block, BufferId};
use egret_ir::{DType, Dim};
use inkwell::IntPredicate;
use inkwell::values::PointerValue;

/// Steps of `k` in a slice: two slices each of 64 rows and columns take 17 KB, so that shared memory does not limit the blocks of an SM.
pub(super) const SLICE: i64 = 16;

/// Elements between two steps of `k` in shared memory beyond those of the tile: keeps the writes of a warp, which go down `k`,
/// on different banks, and 16-byte reads aligned.
const PADDING: i64 = 4;

/// Bytes of an f32.
pub(super) const F32: i64 = 4;

/// What a block does: `rows` by `cols`, of which a thread does `of_thread` rows and [`NEIGHBOURS`] columns.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) rows: i64,
    pub(super) cols: i64,
    pub(super) of_thread: i64,
}

/// Tiles for many rows and for few, of all threads of a block.
const SHAPES: [Tile; 2] = [Tile { rows: 64, cols: 64, of_thread: 4 }, Tile { rows: 16, cols: 64, of_thread: 1 }];

impl Tile {
    /// The tile for so many rows.
    pub(super) fn of(rows: &Dim) -> Tile {
        let [many, few] = SHAPES;
        if rows.as_const().is_some_and(|n| n <= few.rows) { few } else { many }
    }

    /// Threads side by side in a row of the tile.
    pub(super) fn across(&self) -> i64 {
        self.cols / NEIGHBOURS
    }

    /// Where the thread's columns start in those of the tile.
    pub(super) fn own_columns(&self) -> Dim {
        thread().modulo(&self.across().into()) * NEIGHBOURS
    }

    /// Where the thread's rows start in those of the tile.
    pub(super) fn own_rows(&self) -> Dim {
        thread().floor_div(&self.across().into()) * self.of_thread
    }

    /// How many sums a thread has, row by row.
    pub(super) fn sums(&self) -> usize {
        (self.of_thread * NEIGHBOURS) as usize
    }

    /// Bytes of the two slices of an operand of so many points.
    pub(super) fn operand_bytes(points: i64) -> i64 {
        2 * slice_elements(points) * F32
    }
}

/// Elements of a slice of so many points.
fn slice_elements(points: i64) -> i64 {
    SLICE * (points + PADDING)
}

/// An operand in global memory.
pub(super) struct Source<'k> {
    pub(super) buffer: BufferId,
    pub(super) offset: &'k Dim,
    /// The axes of its points: rows or columns of the product.
    pub(super) points: &'k [Axis],
    /// The axes of `k`.
    pub(super) depth: &'k [Axis],
    /// How many points a panel has, where it is packed.
    pub(super) panel: Option<i64>,
    /// Whether neighbouring threads read neighbouring points, and not neighbours along `k`.
    pub(super) along_points: bool,
}

impl Source<'_> {
    /// The offset of the element at a point and at step `step` of `k`, whose indices are `k`.
    pub(super) fn element(&self, point: &[Dim], k: &[Dim], step: &Dim) -> Dim {
        let Some(panel) = self.panel.map(Dim::from) else { return placed(&placed(self.offset, self.points, point), self.depth, k) };
        let row = point[0].floor_div(&panel) * count(self.depth) + step.clone();
        self.offset.clone() + row * panel.clone() + point[0].modulo(&panel)
    }
}

/// `d` with the loop variables of `axes` at `indices`.
fn placed(d: &Dim, axes: &[Axis], indices: &[Dim]) -> Dim {
    d.substitute(&|name| axes.iter().position(|a| &*a.name == name).map(|i| indices[i].clone()))
}

/// Two slices of an operand in shared memory: `[2][SLICE][width + PADDING]`.
pub(super) struct Staged<'k, 'c> {
    source: Source<'k>,
    memory: PointerValue<'c>,
    width: i64,
    /// What each thread brings.
    parts: Vec<Part>,
}

/// The slice that is multiplied: where it starts in `k`, and which of the two in shared memory it is.
pub(super) struct Slice {
    pub(super) start: Dim,
    turn: Dim,
}

/// An element of each slice that a thread brings.
struct Part {
    /// The indices of its point.
    point: Vec<Dim>,
    /// Its step in the slice.
    step: Dim,
    /// Where it goes, in elements.
    place: Dim,
}

impl<'c> Gen<'_, 'c> {
    /// So many bytes of shared memory: a block does one tile, so all jobs of a kernel have the same.
    pub(super) fn tile_memory(&mut self, bytes: i64) -> PointerValue<'c> {
        let bytes = bytes as usize;
        let known = self.tile_scratch.filter(|(_, has)| *has >= bytes);
        let float = self.e.register_type(DType::F32);
        let new = || (self.e.shared(float, bytes / F32 as usize, (NEIGHBOURS * F32) as u32), bytes);
        let memory = known.unwrap_or_else(new);
        self.tile_scratch.insert(memory).0
    }

    /// An operand's slices of `width` points from `first` on, to be at `memory`.
    pub(super) fn staged<'k>(&mut self, source: Source<'k>, memory: PointerValue<'c>, width: i64, first: &Dim) -> Staged<'k, 'c> {
        let last = count(source.points) - 1;
        let part = |g: &mut Self, i: i64| {
            let number = thread() + i * THREADS as i64;
            let (point, step) = match source.along_points {
                true => (number.modulo(&width.into()), number.floor_div(&width.into())),
                false => (number.floor_div(&SLICE.into()), number.modulo(&SLICE.into())),
            };
            let (point, step) = (g.named("%point", &point, (0, width as i128 - 1)), g.named("%step", &step, (0, SLICE as i128 - 1)));
            let place = step.clone() * (width + PADDING) + point.clone();
            let held = (first.clone() + point).minimum(&last);
            Part { point: g.unravelled(&singly(source.points), &held), step, place }
        };
        let parts = (0..SLICE * width / THREADS as i64).map(|i| part(self, i)).collect();
        Staged { source, memory, width, parts }
    }

    /// Adds the product of two operands over all of `k`.
    pub(super) fn product(&mut self, tile: Tile, a: &Staged<'_, 'c>, b: &Staged<'_, 'c>, sums: Vec<Value<'c>>) -> Vec<Value<'c>> {
        let depth = count(a.source.depth);
        self.over_slices(&[a, b], [&Dim::ZERO, &depth, &depth], sums, |g, slice, mut sums| {
            let rows = g.slice_at(a, slice, &tile.own_rows());
            let columns = g.slice_at(b, slice, &tile.own_columns());
            for k in 0..SLICE {
                let (x, y) = (g.step_of(a, rows, k, tile.of_thread), g.step_of(b, columns, k, NEIGHBOURS));
                g.outer_product(&x, &y, &mut sums);
            }
            sums
        })
    }

    /// Runs `body` on the slices of operands from a start to before an end, with sums that go around; from a third index on elements
    /// are zero. When it is done, shared memory may still be read by other threads.
    pub(super) fn over_slices(
        &mut self,
        operands: &[&Staged<'_, 'c>],
        [start, end, known]: [&Dim; 3],
        sums: Vec<Value<'c>>,
        body: impl FnOnce(&mut Self, &Slice, Vec<Value<'c>>) -> Vec<Value<'c>>,
    ) -> Vec<Value<'c>> {
        let (first, last) = (self.index(start), self.index(end));
        let some = self.e.icmp(IntPredicate::SLT, first.into(), last.into()).into_int_value();
        self.when(some, |g| {
            let elements = g.fetched(operands, start, known);
            g.put(operands, &Dim::ZERO, elements);
        });
        let more = (end.clone() - start.clone()).as_const().is_none_or(|steps| steps > SLICE);
        let name = self.fresh("%slice");
        let range = (0, (self.range(end).1 - 1).max(0));
        let run = Run { start: first, end: last, step: SLICE, certain: false, range };
        self.repeat(&name, run, sums, |g, sums| {
            g.e.block_barrier();
            let at = Dim::symbol(name.clone());
            let turn = g.named("%turn", &(at.clone() - start.clone()).floor_div(&SLICE.into()).modulo(&2.into()), (0, 1));
            let next = more.then(|| g.fetched(operands, &(at.clone() + SLICE), known));
            let sums = body(g, &Slice { start: at, turn: turn.clone() }, sums);
            next.into_iter().for_each(|next| g.put(operands, &(Dim::ONE - turn.clone()), next));
            sums
        })
    }

    /// What the thread brings of the slices from `start` on; from `end` on elements are zero.
    fn fetched(&mut self, operands: &[&Staged<'_, 'c>], start: &Dim, end: &Dim) -> Vec<Value<'c>> {
        let mut elements = vec![];
        for Staged { source, parts, .. } in operands {
            let depth = count(source.depth);
            for part in parts {
                let step = start.clone() + part.step.clone();
                let held = step.minimum(&(depth.clone() - 1));
                let held = self.named("%k", &held, (0, (self.range(&depth).1 - 1).max(0)));
                let k = self.unravelled(&singly(source.depth), &held);
                let value = self.read(&mut Point::scalar(), source.buffer, &source.element(&part.point, &k, &held));
                let (step, end) = (self.index(&step), self.index(end));
                let inside = self.e.icmp(IntPredicate::SLT, step.into(), end.into());
                elements.push(self.e.select(inside, value, self.e.float(value, 0.0)));
            }
        }
        elements
    }

    /// Puts them into shared memory, into one of the two slices.
    fn put(&mut self, operands: &[&Staged<'_, 'c>], turn: &Dim, elements: Vec<Value<'c>>) {
        let parts = operands.iter().flat_map(|operand| operand.parts.iter().map(move |part| (operand, part)));
        for ((operand, part), value) in parts.zip(elements) {
            let place = self.index(&(part.place.clone() + turn.clone() * slice_elements(operand.width)));
            self.e.store(value, self.e.offset(operand.memory, place, F32 as usize), F32 as usize);
        }
    }

    /// Where the thread's points of a slice start, at its first step.
    pub(super) fn slice_at(&mut self, operand: &Staged<'_, 'c>, slice: &Slice, own: &Dim) -> PointerValue<'c> {
        let first = self.index(&(own.clone() + slice.turn.clone() * slice_elements(operand.width)));
        self.e.offset(operand.memory, first, F32 as usize)
    }

    /// Neighbouring points of a slice, at step `k` of it.
    pub(super) fn step_of(&self, operand: &Staged<'_, 'c>, first: PointerValue<'c>, k: i64, count: i64) -> Vec<Value<'c>> {
        self.read_shared(self.e.displaced(first, k * (operand.width + PADDING) * F32), count)
    }

    /// `sums[x][y] += x * y`.
    pub(super) fn outer_product(&self, x: &[Value<'c>], y: &[Value<'c>], sums: &mut [Value<'c>]) {
        for (x, sums) in x.iter().zip(sums.chunks_mut(y.len())) {
            sums.iter_mut().zip(y).for_each(|(sum, y)| *sum = self.e.fma(*x, *y, *sum));
        }
    }

    /// Neighbouring f32s in one load.
    pub(super) fn read_shared(&self, at: PointerValue<'c>, count: i64) -> Vec<Value<'c>> {
        let element = self.e.register_type(DType::F32);
        if count == 1 {
            return vec![self.e.load(element, at, F32 as usize)];
        }
        let vector = self.e.load(self.e.vector_type(element, count as usize).into(), at, (count * F32) as usize);
        (0..count as usize).map(|i| self.e.extract(vector, i)).collect()
    }

    /// The epilogue at neighbouring columns of a row, from `first` on.
    pub(super) fn epilogue_at(&mut self, epilogue: &Block, cols: &Axis, first: &Dim, sums: &[Value<'c>]) {
        let together = if cols.extent.split_multiple(NEIGHBOURS).1.is(0) { sums.len() } else { 1 };
        self.multiples.insert(cols.name.clone(), together as i64);
        for (n, sums) in sums.chunks(together).enumerate() {
            self.where_below(&(first.clone() + n), &cols.extent, |g, col| {
                let (value, range) = (g.index(&col), g.axis_range(cols));
                g.bind(&cols.name, value, range);
                let point = |(j, &sum): (usize, &Value<'c>)| Point::scalar().moved(&cols.name, j).with(&"acc".into(), sum);
                g.block(epilogue, sums.iter().enumerate().map(point).collect());
            });
        }
    }
}
