//! Products of few rows, such as one token's: a block does a few columns, its threads share `k`.
//!
//! Every weight is read once, neighbours by neighbours, and as many threads as there are take part however small the result is. A
//! thread keeps the sums of four columns over its steps of `k`; they are combined by shuffles, then through shared memory.
//! **Invariant.** The order of summation depends on the extents alone, so results are the same on every run.
//!
//! ```text
//! thread 2*i + g of a block of 8 columns:  acc[row][4] += a[row][k] * b[k][4*g..+4]  for k in i, i + 128, ..
//! ```

use super::contract::{a_source, b_source};
use super::grid::{THREADS, WARP, count, singly, thread};
use super::map::NEIGHBOURS;
use super::product::{F32, Source};
use crate::cpu::emit::Value;
use crate::cpu::point::Point;
use crate::cpu::scope::{Gen, Run};
use crate::kernel::{Axis, Contract};
use egret_ir::{DType, Dim};
use inkwell::IntPredicate;

/// Most rows: beyond it tiles reuse what they read often enough.
const MOST_ROWS: i64 = 4;

/// Columns of a block, best first where that makes blocks enough; of 8 columns of f32 a row is one sector of memory.
const WIDTHS: [i64; 3] = [32, 16, 8];

/// Blocks that keep a large GPU busy: it has about so many multiprocessors.
const ENOUGH_BLOCKS: i64 = 128;

/// Steps of `k` of a thread whose loads are in flight together.
const TOGETHER: i64 = 4;

const WARPS: i64 = (THREADS / WARP) as i64;

/// What a block does.
#[derive(Clone, Copy)]
pub(super) struct Narrow {
    rows: i64,
    width: i64,
}

/// Where the four columns of a thread are; those beyond the end are the last ones there are.
enum Columns {
    /// Side by side in a panel: its number, and the first of them in it.
    InPanel(Dim, Dim),
    /// Side by side, from this one on.
    From(Dim),
    /// Where the number of columns is no multiple of four.
    Each(Vec<Dim>),
}

impl Columns {
    /// The offsets of the elements at a step of `k`, whose indices are `k`.
    fn offsets(&self, b: &Source, k: &[Dim], step: &Dim) -> Vec<Dim> {
        let first = match self {
            Columns::InPanel(panel, within) => {
                let width = b.panel.unwrap_or(NEIGHBOURS);
                b.offset.clone() + (panel.clone() * count(b.depth) + step.clone()) * width + within.clone()
            }
            Columns::From(column) => b.element(std::slice::from_ref(column), k, step),
            Columns::Each(columns) => return columns.iter().map(|column| b.element(std::slice::from_ref(column), k, step)).collect(),
        };
        (0..NEIGHBOURS).map(|j| first.clone() + j).collect()
    }
}

impl Narrow {
    /// How a contraction of few rows is done.
    pub(super) fn of(c: &Contract) -> Option<Narrow> {
        let rows = count(&c.rows).as_const().filter(|rows| *rows <= MOST_ROWS)?;
        let all = (count(&c.batch) * c.cols.extent.clone()).as_const().unwrap_or(i64::MAX);
        let enough = WIDTHS.into_iter().find(|width| all / width >= ENOUGH_BLOCKS);
        Some(Narrow { rows, width: enough.unwrap_or(WIDTHS[WIDTHS.len() - 1]) })
    }

    /// Batches, and groups of columns.
    fn axes(&self, c: &Contract) -> [Axis; 2] {
        [Axis::new("%batch", count(&c.batch)), Axis::new("%cols", c.cols.extent.ceil_div(&self.width.into()))]
    }

    /// How many blocks it takes.
    pub(super) fn blocks(&self, c: &Contract) -> Dim {
        count(&self.axes(c))
    }

    /// Threads side by side along the columns.
    fn across(&self) -> i64 {
        self.width / NEIGHBOURS
    }

    /// Threads that share `k`.
    fn down(&self) -> i64 {
        THREADS as i64 / self.across()
    }
}

impl<'c> Gen<'_, 'c> {
    /// Emits the columns of a block of the job; weights are packed in panels of so many columns.
    pub(super) fn contract_narrow(&mut self, c: &Contract, n: &Narrow, panel: i64, block: &Dim) {
        let [batch, cols] = {
            let found = self.unravelled(&singly(&n.axes(c)), block);
            <[Dim; 2]>::try_from(found).expect("two axes")
        };
        self.at_point(&singly(&c.batch), &batch);
        let across = self.named("%across", &thread().modulo(&n.across().into()), (0, n.across() as i128 - 1));
        let down = self.named("%down", &thread().floor_div(&n.across().into()), (0, n.down() as i128 - 1));
        let b = b_source(c, panel);
        let columns = self.columns_of_thread(&b, &(cols.clone() * n.across() + across));
        let sums = self.narrow_sums(c, n, &b, &columns, &down);
        let whole = self.summed_over_block(n, sums);
        self.where_below(&thread(), &(n.rows * n.across()).into(), |g, number| {
            let (row, across) = (number.floor_div(&n.across().into()), number.modulo(&n.across().into()));
            g.at_point(&singly(&c.rows), &row);
            let own = g.index(&(number * NEIGHBOURS));
            let at = g.e.offset(whole, own, F32 as usize);
            let parts = (0..WARPS).map(|w| g.read_shared(g.e.displaced(at, w * n.rows * n.width * F32), NEIGHBOURS));
            let add = |x: Vec<Value<'c>>, y: Vec<Value<'c>>| x.into_iter().zip(y).map(|(x, y)| g.e.fadd(x, y)).collect();
            let sums: Vec<Value> = parts.reduce(add).unwrap_or_default();
            g.epilogue_at(&c.epilogue, &c.cols, &((cols * n.across() + across) * NEIGHBOURS), &sums);
        });
    }

    /// The columns of a thread, by the number of its four neighbours.
    fn columns_of_thread(&mut self, b: &Source, number: &Dim) -> Columns {
        let axis = &b.points[0];
        let (fours, rest) = match b.panel {
            // Panels are whole.
            Some(panel) => (axis.extent.ceil_div(&panel.into()) * (panel / NEIGHBOURS), Dim::ZERO),
            None => axis.extent.split_multiple(NEIGHBOURS),
        };
        if !rest.is(0) {
            let range = self.axis_range(axis);
            let column = |j: i64| (number.clone() * NEIGHBOURS + j).minimum(&(axis.extent.clone() - 1));
            return Columns::Each((0..NEIGHBOURS).map(|j| self.named("%column", &column(j), range)).collect());
        }
        let range = (0, (self.range(&fours).1 - 1).max(0));
        let held = self.named("%four", &number.minimum(&(fours - 1)), range);
        match b.panel {
            None => Columns::From(self.by_fours(held)),
            Some(panel) => {
                let of_panel = Dim::from(panel / NEIGHBOURS);
                let within = self.named("%within", &held.modulo(&of_panel), (0, (panel / NEIGHBOURS - 1).into()));
                Columns::InPanel(held.floor_div(&of_panel), self.by_fours(within))
            }
        }
    }

    /// Four times an index, of which loads know that it is a multiple of four.
    fn by_fours(&mut self, index: Dim) -> Dim {
        let range = self.range(&(index.clone() * NEIGHBOURS));
        let name = self.fresh("%first");
        let value = self.index(&(index * NEIGHBOURS));
        self.bind(&name, value, range);
        self.multiples.insert(name.clone(), NEIGHBOURS);
        Dim::symbol(name)
    }

    /// The sums of the thread, row by row.
    fn narrow_sums(&mut self, c: &Contract, n: &Narrow, b: &Source, columns: &Columns, down: &Dim) -> Vec<Value<'c>> {
        let a = a_source(c);
        let rows: Vec<Vec<Dim>> = (0..n.rows).map(|i| self.unravelled(&singly(&c.rows), &i.into())).collect();
        let depth = Axis::new(self.fresh("%k"), count(&c.k));
        let (start, end) = (self.index(down), self.index(&depth.extent));
        let run = Run { start, end, step: n.down() * TOGETHER, certain: false, range: self.axis_range(&depth) };
        let zero = self.e.zero(self.e.register_type(DType::F32));
        self.repeat(&depth.name, run, vec![zero; (n.rows * NEIGHBOURS) as usize], |g, mut sums| {
            let mut factors = vec![];
            for i in 0..TOGETHER {
                let step = depth.index() + i * n.down();
                let range = g.axis_range(&depth);
                let held = g.named("%step", &step.minimum(&(depth.extent.clone() - 1)), range);
                let k = g.unravelled(&singly(&c.k), &held);
                let x: Vec<Dim> = rows.iter().map(|row| a.element(row, &k, &held)).collect();
                let y = columns.offsets(b, &k, &held);
                let mut read = |source: &Source, at: Vec<Dim>| g.elements_below(source, &at, &step, &depth.extent);
                factors.push((read(&a, x), read(b, y)));
            }
            factors.iter().for_each(|(x, y)| g.outer_product(x, y, &mut sums));
            sums
        })
    }

    /// The elements at some offsets, or zero where the step is not below the end.
    fn elements_below(&mut self, source: &Source, at: &[Dim], step: &Dim, end: &Dim) -> Vec<Value<'c>> {
        let (step, end) = (self.index(step), self.index(end));
        let inside = self.e.icmp(IntPredicate::SLT, step.into(), end.into());
        let element = |at: &Dim| {
            let value = self.read(&mut Point::scalar(), source.buffer, at);
            self.e.select(inside, value, self.e.float(value, 0.0))
        };
        at.iter().map(element).collect()
    }

    /// Leaves the sums of each warp in shared memory, `[warp][row][column]`.
    fn summed_over_block(&mut self, n: &Narrow, sums: Vec<Value<'c>>) -> inkwell::values::PointerValue<'c> {
        let halves = || std::iter::successors(Some(WARP as i64 / 2), |half| Some(half / 2)).take_while(|half| *half >= n.across());
        let all = |sum: Value<'c>| halves().fold(sum, |sum, apart| self.e.fadd(sum, self.e.of_lane_xor(sum, apart as usize)));
        let sums: Vec<Value> = sums.into_iter().map(all).collect();
        let memory = self.tile_memory(WARPS * n.rows * n.width * F32);
        let (lane, warp) = (thread().modulo(&WARP.into()), thread().floor_div(&WARP.into()));
        self.where_below(&lane, &n.across().into(), |g, across| {
            let place = g.index(&(warp * (n.rows * n.width) + across * NEIGHBOURS));
            let at = g.e.offset(memory, place, F32 as usize);
            for (i, sums) in sums.chunks(NEIGHBOURS as usize).enumerate() {
                g.e.store(g.e.together(sums), g.e.displaced(at, i as i64 * n.width * F32), (NEIGHBOURS * F32) as usize);
            }
        });
        self.e.block_barrier();
        memory
    }
}
