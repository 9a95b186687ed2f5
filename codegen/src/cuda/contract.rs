//! Matrix products and convolutions: a block does a tile of rows and columns.
//!
//! Both operands go through shared memory a slice of `k` at a time, and a thread keeps a small tile of sums in registers. Rows
//! are numbered through, and so is `k`, so that a convolution is a product whose offsets divide. **Invariant.** A sum runs over
//! `k` in order, fused multiply-add in f32, as the kernel IR says, so it is the interpreter's to the bit. Points beyond the
//! edge read the last point there is; beyond the end of `k` both factors are zero.
//!
//! ```text
//! for slice of 16 in k:  a[16][64], b[16][64] = ...   barrier   acc[4][4] += a[k][4] * b[k][4] for k in 16   barrier
//! ```

use super::grid::{THREADS, count, singly, thread};
use super::map::NEIGHBOURS;
use crate::cpu::emit::Value;
use crate::cpu::point::Point;
use crate::cpu::scope::{Gen, Run};
use crate::kernel::{Axis, BufferId, Contract, Panels};
use egret_ir::{DType, Dim};
use inkwell::IntPredicate;
use inkwell::values::PointerValue;

/// Steps of `k` in a slice: two slices of 64 rows or columns take 8.5 KB, so that shared memory never limits the blocks of an SM.
const SLICE: i64 = 16;

/// Elements between two steps of `k` in shared memory beyond those of the tile: keeps the writes of a warp, which go down `k`,
/// on different banks, and 16-byte reads aligned.
const PADDING: i64 = 4;

const F32: i64 = 4;

/// What a block does: `rows` by `cols`, of which a thread does `of_thread` rows and [`NEIGHBOURS`] columns.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    rows: i64,
    cols: i64,
    of_thread: i64,
    /// Columns of a panel of packed weights.
    panel: i64,
}

/// Rows of a block's tile, and of a thread's, best first where there are more rows than a tile of the next has.
const SHAPES: [(i64, i64); 2] = [(64, 4), (16, 1)];

/// Columns of a block's tile.
const COLUMNS: i64 = 64;

impl Tiles {
    /// The tiles of a contraction whose weights are packed for `lanes` lanes.
    pub(super) fn of(c: &Contract, lanes: usize) -> Tiles {
        let (large, small) = (SHAPES[0], SHAPES[1]);
        let (rows, of_thread) = if count(&c.rows).as_const().is_some_and(|n| n <= small.0) { small } else { large };
        Tiles { rows, cols: COLUMNS, of_thread, panel: (c.tile.vectors * lanes) as i64 }
    }

    /// Batches, tiles of rows, tiles of columns.
    fn axes(&self, c: &Contract) -> [Axis; 3] {
        let (rows, cols) = (count(&c.rows).ceil_div(&self.rows.into()), c.cols.extent.ceil_div(&self.cols.into()));
        [Axis::new("%batch", count(&c.batch)), Axis::new("%rows", rows), Axis::new("%cols", cols)]
    }

    /// How many blocks it takes.
    pub(super) fn blocks(&self, c: &Contract) -> Dim {
        count(&self.axes(c))
    }

    /// Where the thread's columns start in those of the tile.
    fn own_columns(&self) -> Dim {
        thread().modulo(&(self.cols / NEIGHBOURS).into()) * NEIGHBOURS
    }

    /// Where the thread's rows start in those of the tile.
    fn own_rows(&self) -> Dim {
        thread().floor_div(&(self.cols / NEIGHBOURS).into()) * self.of_thread
    }
}

/// An operand in shared memory: `[SLICE][width + PADDING]`.
struct Staged<'c> {
    memory: PointerValue<'c>,
    width: i64,
    /// What each thread brings.
    parts: Vec<Part>,
}

/// An element of each slice that a thread brings.
struct Part {
    /// The indices of its row or column.
    row: Vec<Dim>,
    /// Its step in the slice.
    step: Dim,
    /// Where it goes, in elements.
    place: Dim,
}

impl Staged<'_> {
    fn pitch(&self) -> i64 {
        self.width + PADDING
    }
}

impl<'c> Gen<'_, 'c> {
    /// Emits the tile of a block of the job.
    pub(super) fn contract_by_tiles(&mut self, c: &Contract, tiles: &Tiles, block: &Dim) {
        let [batch, row_tile, col_tile] = {
            let found = self.unravelled(&singly(&tiles.axes(c)), block);
            <[Dim; 3]>::try_from(found).expect("three axes")
        };
        self.at_point(&singly(&c.batch), &batch);
        let (first_row, first_col) = (row_tile * tiles.rows, col_tile * tiles.cols);
        let [a, b] = self.staged(c, tiles, &first_row, &first_col);
        let zero = self.e.zero(self.e.register_type(DType::F32));
        let start = vec![zero; (tiles.of_thread * NEIGHBOURS) as usize];
        let depth = count(&c.k);
        let slice = Axis::new(self.fresh("%slice"), depth.clone());
        let run = Run { start: self.e.i64(0), end: self.index(&depth), step: SLICE, certain: false, range: self.axis_range(&slice) };
        let sums = self.repeat(&slice.name, run, start, |g, sums| {
            g.bring(c, tiles, &a, &b, &slice.index());
            g.e.block_barrier();
            let sums = g.slice_product(tiles, &a, &b, sums);
            g.e.block_barrier();
            sums
        });
        let (own_row, own_col) = (first_row + tiles.own_rows(), first_col + tiles.own_columns());
        for (i, sums) in sums.chunks(NEIGHBOURS as usize).enumerate() {
            self.where_below(&(own_row.clone() + i), &count(&c.rows), |g, row| {
                g.at_point(&singly(&c.rows), &row);
                g.epilogue(c, &own_col, sums);
            });
        }
    }

    /// The operands in shared memory, `a` first, with what each thread brings of them.
    fn staged(&mut self, c: &Contract, tiles: &Tiles, first_row: &Dim, first_col: &Dim) -> [Staged<'c>; 2] {
        let sizes = [tiles.rows, tiles.cols].map(|width| SLICE * (width + PADDING));
        let memory = self.tile_memory((sizes[0] + sizes[1]) as usize);
        let second = self.e.displaced(memory, sizes[0] * F32);
        // Neighbouring threads read neighbours in memory: along `k` in `a`, along the columns in `b`.
        let a = self.parts(tiles.rows, false, &c.rows, first_row);
        let b = self.parts(tiles.cols, true, std::slice::from_ref(&c.cols), first_col);
        [Staged { memory, width: tiles.rows, parts: a }, Staged { memory: second, width: tiles.cols, parts: b }]
    }

    /// So many f32s of shared memory: a block does a tile of one contraction, so several contractions have the same.
    fn tile_memory(&mut self, count: usize) -> PointerValue<'c> {
        let bytes = count * F32 as usize;
        let known = self.tile_scratch.filter(|(_, has)| *has >= bytes);
        let new = || (self.e.shared(self.e.register_type(DType::F32), count, (NEIGHBOURS * F32) as u32), bytes);
        let memory = known.unwrap_or_else(new);
        self.tile_scratch.insert(memory).0
    }

    /// The elements of a slice of `width` points that a thread brings, neighbouring threads along the points or along `k`.
    fn parts(&mut self, width: i64, along_points: bool, axes: &[Axis], first: &Dim) -> Vec<Part> {
        let each = SLICE * width / THREADS as i64;
        let part = |g: &mut Self, i: i64| {
            let number = thread() + i * THREADS as i64;
            let (point, step) = match along_points {
                true => (number.modulo(&width.into()), number.floor_div(&width.into())),
                false => (number.floor_div(&SLICE.into()), number.modulo(&SLICE.into())),
            };
            let (point, step) = (g.named("%point", &point, (0, width as i128 - 1)), g.named("%step", &step, (0, SLICE as i128 - 1)));
            let place = step.clone() * (width + PADDING) + point.clone();
            let last = count(axes) - 1;
            let held = (first.clone() + point).minimum(&last);
            Part { row: g.unravelled(&singly(axes), &held), step, place }
        };
        (0..each).map(|i| part(self, i)).collect()
    }

    /// Brings the slice from `start` on into shared memory.
    fn bring(&mut self, c: &Contract, tiles: &Tiles, a: &Staged<'c>, b: &Staged<'c>, start: &Dim) {
        let depth = count(&c.k);
        let mut stores = vec![];
        for (operand, of_a) in [(a, true), (b, false)] {
            for part in &operand.parts {
                let step = start.clone() + part.step.clone();
                let held = step.minimum(&(depth.clone() - 1));
                let held = self.named("%k", &held, (0, (self.range(&depth).1 - 1).max(0)));
                let k = self.unravelled(&singly(&c.k), &held);
                let (buffer, offset) = if of_a { a_element(c, &part.row, &k) } else { b_element(c, tiles, &part.row[0], &k, &held) };
                let value = self.read(&mut Point::scalar(), buffer, &offset);
                let (step, depth) = (self.index(&step), self.index(&depth));
                let inside = self.e.icmp(IntPredicate::SLT, step.into(), depth.into());
                let value = self.e.select(inside, value, self.e.float(value, 0.0));
                let place = self.index(&part.place);
                stores.push((value, self.e.offset(operand.memory, place, F32 as usize)));
            }
        }
        stores.into_iter().for_each(|(value, at)| self.e.store(value, at, F32 as usize));
    }

    /// Takes a slice in shared memory into account.
    fn slice_product(&mut self, tiles: &Tiles, a: &Staged<'c>, b: &Staged<'c>, mut sums: Vec<Value<'c>>) -> Vec<Value<'c>> {
        let (row, col) = (self.index(&tiles.own_rows()), self.index(&tiles.own_columns()));
        let (a_at, b_at) = (self.e.offset(a.memory, row, F32 as usize), self.e.offset(b.memory, col, F32 as usize));
        for k in 0..SLICE {
            let x = self.read_shared(self.e.displaced(a_at, k * a.pitch() * F32), tiles.of_thread);
            let y = self.read_shared(self.e.displaced(b_at, k * b.pitch() * F32), NEIGHBOURS);
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = self.e.fma(x[i / NEIGHBOURS as usize], y[i % NEIGHBOURS as usize], *sum);
            }
        }
        sums
    }

    /// Neighbouring f32s in one load.
    fn read_shared(&self, at: PointerValue<'c>, count: i64) -> Vec<Value<'c>> {
        let element = self.e.register_type(DType::F32);
        if count == 1 {
            return vec![self.e.load(element, at, F32 as usize)];
        }
        let vector = self.e.load(self.e.vector_type(element, count as usize).into(), at, (count * F32) as usize);
        (0..count as usize).map(|i| self.e.extract(vector, i)).collect()
    }

    /// The epilogue at neighbouring columns of a row.
    fn epilogue(&mut self, c: &Contract, first: &Dim, sums: &[Value<'c>]) {
        let together = if c.cols.extent.split_multiple(NEIGHBOURS).1.is(0) { sums.len() } else { 1 };
        self.multiples.insert(c.cols.name.clone(), together as i64);
        for (n, sums) in sums.chunks(together).enumerate() {
            self.where_below(&(first.clone() + n), &c.cols.extent, |g, col| {
                let (value, range) = (g.index(&col), g.axis_range(&c.cols));
                g.bind(&c.cols.name, value, range);
                let point = |(j, &sum): (usize, &Value<'c>)| Point::scalar().moved(&c.cols.name, j).with(&"acc".into(), sum);
                g.block(&c.epilogue, sums.iter().enumerate().map(point).collect());
            });
        }
    }
}

/// `d` with the loop variables of `axes` at `indices`.
fn placed(d: &Dim, axes: &[Axis], indices: &[Dim]) -> Dim {
    d.substitute(&|name| axes.iter().position(|a| &*a.name == name).map(|i| indices[i].clone()))
}

fn a_element(c: &Contract, rows: &[Dim], k: &[Dim]) -> (BufferId, Dim) {
    (c.a.0, placed(&placed(&c.a.1, &c.rows, rows), &c.k, k))
}

fn b_element(c: &Contract, tiles: &Tiles, col: &Dim, k: &[Dim], step: &Dim) -> (BufferId, Dim) {
    match &c.b {
        Panels::Strided(b, offset) => (*b, placed(&placed(offset, std::slice::from_ref(&c.cols), std::slice::from_ref(col)), &c.k, k)),
        Panels::Packed(b, offset) => {
            let width = Dim::from(tiles.panel);
            let row = col.floor_div(&width) * count(&c.k) + step.clone();
            (*b, offset.clone() + row * tiles.panel + col.modulo(&width))
        }
    }
}
