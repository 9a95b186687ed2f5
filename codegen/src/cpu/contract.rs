//! Matrix products and convolutions: a register tile of accumulators that walks down `k`.
//!
//! A panel of columns of `b` stays in the second-level cache while strips of rows of `a` pass by it. Inside, `rows` scalars of
//! `a` are broadcast against `vectors` vectors of `b`; the accumulators are values that go around the loops over `k`, so that
//! they stay in registers. **Invariant.** An element is summed over `k` in order, whatever tile it is in.
//!
//! ```text
//! for panels of columns:
//!     for strips of rows:
//!         acc[0..rows][0..vectors] = 0
//!         for k: b = load vectors; for i in 0..rows: acc[i] = fma(splat a[i], b, acc[i])
//!         epilogue(acc)
//! ```
//!
//! Operands in bf16 are widened as they are read, or taken two steps of `k` at a time by dot products of pairs, bytes four at a time: then
//! a broadcast and a column are words of several elements, and the loops are the same. Sums of bytes are i32. Integers of few bits become
//! weights in registers (see `blocks`).

use super::blocks::Widened;
use super::emit::{Emit, Value};
use super::map::weight;
use super::ops::widened;
use super::point::Point;
use super::scope::{Gen, Run};
use super::split;
use super::tile::ROWS_IN_REGISTERS;
use crate::kernel::{Axis, BufferId, Contract, Kernel, Panels, Split};
use egret_ir::{DType, Dim};
use inkwell::IntPredicate;
use inkwell::values::{InstructionOpcode, IntValue, PointerValue};

/// A loop over `k` this long is summed by itself before it is added to what the outer loops have summed: then the additions
/// and the memory traffic of the totals are at most one instruction in twenty.
const LONG_SUM: i64 = 64;

fn is_long(axis: &Axis) -> bool {
    axis.extent.as_const().is_some_and(|k| k >= LONG_SUM)
}

/// An epilogue of more instructions than this goes through memory: unrolled for every accumulator it would be 10 KB of code,
/// at the same speed.
const SHORT_EPILOGUE: usize = 8;

/// Rows that share a base address where the pitch is not a number: the machine scales an index register by 4 and by 8 bytes.
const ROWS_PER_POINTER: usize = 3;

/// Size of a sum, an f32 or an i32, and of a word of several elements.
const WORD: usize = 4;

/// A panel of columns: the vectors that are computed, and which lanes of them count.
#[derive(Clone)]
struct Panel<'c> {
    masks: Vec<Option<Value<'c>>>,
    /// Where it stands in f32, if it was made so before.
    widened: Option<PointerValue<'c>>,
}

/// What the loops over `k` carry from step to step.
pub(super) struct Carried<'c> {
    /// The accumulators, row by row.
    pub(super) acc: Vec<Value<'c>>,
    /// Pointers into `a`.
    pub(super) a: Vec<PointerValue<'c>>,
    /// The pointer into `b`.
    pub(super) b: PointerValue<'c>,
}

/// How the operands lie in memory.
#[derive(Clone, Copy)]
struct Operands {
    a: DType,
    b: DType,
    /// Steps of `k` that are taken at a time: a column holds so many.
    together: usize,
}

impl Operands {
    fn of(kernel: &Kernel, c: &Contract) -> Operands {
        let dtype = |b: BufferId| kernel.buffers[b.0].dtype;
        // Few bits are multiplied as f32.
        let b = if matches!(c.b, Panels::Blocks(..)) { DType::F32 } else { dtype(c.b.buffer()) };
        Operands { a: dtype(c.a.0), b, together: c.b.together() }
    }

    /// From one column to the next, in bytes.
    fn column(self) -> usize {
        self.b.size() * self.together
    }
}

/// What one step down `k` takes of the operands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// An element of a row, or as many as a column holds.
    Whole,
    /// The last element of a row of odd length, where columns hold pairs.
    Half,
}

/// How the rows of a tile are addressed.
pub(super) enum Rows<'c> {
    /// One pointer and a displacement in bytes per row.
    Displaced(Vec<i64>),
    /// A pointer for every three rows and the pitch in elements.
    Pitch(IntValue<'c>),
}

impl<'c> Rows<'c> {
    /// Where row `i` has its element of `size` bytes.
    pub(super) fn at(&self, e: &Emit<'c>, a: &[PointerValue<'c>], i: usize, size: usize) -> PointerValue<'c> {
        match self {
            Rows::Displaced(apart) => e.displaced(a[0], apart[i]),
            Rows::Pitch(pitch) => match (a[i / ROWS_PER_POINTER], i % ROWS_PER_POINTER) {
                (p, 0) => p,
                (p, 1) => e.offset(p, *pitch, size),
                (p, _) => e.offset(p, *pitch, 2 * size),
            },
        }
    }
}

impl<'c> Gen<'_, 'c> {
    /// Emits a contraction.
    pub(crate) fn contract(&mut self, c: &Contract) {
        let extents: Vec<Dim> = c.batch.iter().chain(&c.rows).chain([&c.cols]).map(|a| a.extent.clone()).collect();
        self.unless_empty(&extents, |g| match Widened::of(c) {
            Widened::Never => g.part_of(c, false),
            Widened::Always => g.part_of(c, true),
            // The loops over panels stand apart, so that the constants of one form take no registers from the other.
            Widened::ForMany(rows) => {
                let (rows, most) = (g.index(&rows), g.e.i64(ROWS_IN_REGISTERS));
                for (than, widens) in [(IntPredicate::SLE, false), (IntPredicate::SGT, true)] {
                    let is_so = g.e.icmp(than, rows.into(), most.into()).into_int_value();
                    g.when(is_so, |g| g.part_of(c, widens));
                }
            }
        });
    }

    /// This part of a contraction, whose panels are made into f32 or not.
    fn part_of(&mut self, c: &Contract, widens: bool) {
        let axes = split::contract_axes(c, self.e.lanes);
        match c.split {
            Split::Batch => self.for_part(&axes, |g| {
                let panels = g.all_panels(c);
                g.panels(c, panels, None, widens);
            }),
            Split::Cols => {
                let range = self.part_range(&axes[0].extent);
                self.nest(&c.batch, true, |g| g.panels(c, range, None, widens));
            }
            Split::Rows => {
                let range = self.part_range(&split::units(&axes));
                self.nest(&c.batch, true, |g| {
                    let panels = g.all_panels(c);
                    g.panels(c, panels, Some(range), widens);
                });
            }
        }
    }

    /// Emits all of a contraction, of no few bits, as one step of the current unit.
    pub(crate) fn contract_at_once(&mut self, c: &Contract) {
        self.nest(&c.batch, true, |g| {
            let panels = g.all_panels(c);
            g.panels(c, panels, None, false);
        });
    }

    fn all_panels(&mut self, c: &Contract) -> (IntValue<'c>, IntValue<'c>) {
        let panels = split::panel_axis(c, self.e.lanes).extent;
        (self.e.i64(0), self.index(&panels))
    }

    /// The panels `start..end`: whole ones, then the last, narrower one.
    fn panels(
        &mut self,
        c: &Contract,
        (start, end): (IntValue<'c>, IntValue<'c>),
        rows: Option<(IntValue<'c>, IntValue<'c>)>,
        widens: bool,
    ) {
        let (lanes, vectors) = (self.e.lanes as i64, c.tile.vectors as i64);
        let width = lanes * vectors;
        let whole = c.cols.extent.floor_div(&width.into());
        let rest = c.cols.extent.clone() - whole.clone() * width;
        let range = self.axis_range(&c.cols);
        let whole = self.index(&whole);
        let first = self.e.index_mul(start, self.e.i64(width));
        let stop = self.e.imin(end.into(), whole.into(), true).into_int_value();
        let stop = self.e.index_mul(stop, self.e.i64(width));
        self.repeat(&c.cols.name, Run { start: first, end: stop, step: width, certain: false, range }, vec![], |g, _| {
            g.panel(c, vec![None; c.tile.vectors], rows, widens);
            vec![]
        });
        if rest.is(0) {
            return;
        }
        let at = self.e.index_mul(whole, self.e.i64(width));
        let last = self.e.icmp(IntPredicate::SGT, end.into(), whole.into()).into_int_value();
        self.when(last, |g| {
            g.once(&c.cols.name, at, range, |g| {
                let masks = match rest.as_const() {
                    Some(rest) => {
                        (0..(rest + lanes - 1) / lanes).map(|j| (rest < (j + 1) * lanes).then(|| g.lanes_below(rest - j * lanes))).collect()
                    }
                    None => (0..vectors)
                        .map(|j| {
                            let left = g.index(&(c.cols.extent.clone() - c.cols.index() - j * lanes));
                            Some(g.first_lanes(left.into()))
                        })
                        .collect(),
                };
                g.panel(c, masks, rows, widens);
            });
        });
    }

    /// A panel: strips of rows that pass by it, as it lies or made into f32.
    fn panel(&mut self, c: &Contract, masks: Vec<Option<Value<'c>>>, rows: Option<(IntValue<'c>, IntValue<'c>)>, widens: bool) {
        let widened = match (&c.b, widens) {
            (Panels::Blocks(_, _, blocks), true) => {
                let b = self.b_pointer(c);
                Some(self.widened_panel(c, *blocks, b))
            }
            _ => None,
        };
        self.strips(c, &Panel { masks, widened }, rows);
    }

    /// A mask of the first lanes, a constant.
    fn lanes_below(&self, count: i64) -> Value<'c> {
        self.first_lanes(self.e.i64(count).into())
    }

    /// Strips of rows: all of them, or those of this part.
    fn strips(&mut self, c: &Contract, panel: &Panel<'c>, part: Option<(IntValue<'c>, IntValue<'c>)>) {
        let Some((tiled, outer)) = c.rows.split_last() else {
            return self.tile(c, panel, 1);
        };
        match part {
            None => self.nest(outer, true, |g| {
                let all = (g.e.i64(0), g.index(&split::strip_axis(c, tiled).extent));
                g.strip_range(c, tiled, panel, all);
            }),
            Some(range) if outer.is_empty() => self.strip_range(c, tiled, panel, range),
            Some(range) => self.for_range(outer, range, |g| {
                let all = (g.e.i64(0), g.index(&split::strip_axis(c, tiled).extent));
                g.strip_range(c, tiled, panel, all);
            }),
        }
    }

    /// The strips `start..end` of the tiled axis: whole ones, then the rows that are left.
    fn strip_range(&mut self, c: &Contract, tiled: &Axis, panel: &Panel<'c>, (start, end): (IntValue<'c>, IntValue<'c>)) {
        let rows = split::strip_rows(c, tiled);
        let step = rows as i64;
        let whole = tiled.extent.floor_div(&step.into());
        let rest = tiled.extent.clone() - whole.clone() * step;
        let range = self.axis_range(tiled);
        let whole = self.index(&whole);
        let first = self.e.index_mul(start, self.e.i64(step));
        let stop = self.e.imin(end.into(), whole.into(), true).into_int_value();
        let stop = self.e.index_mul(stop, self.e.i64(step));
        self.repeat(&tiled.name, Run { start: first, end: stop, step, certain: false, range }, vec![], |g, _| {
            g.tile(c, panel, rows);
            vec![]
        });
        if rest.is(0) {
            return;
        }
        let at = self.e.index_mul(whole, self.e.i64(step));
        let last = self.e.icmp(IntPredicate::SGT, end.into(), whole.into()).into_int_value();
        self.when(last, |g| match rest.as_const() {
            Some(rest) => g.once(&tiled.name, at, range, |g| g.tile(c, panel, rest as usize)),
            None => g.unknown_rows(c, tiled, panel, at, &rest),
        });
    }

    /// A number of rows that is known at run time only, below that of a whole strip: tiles of 8, 4, 2 and 1 rows.
    fn unknown_rows(&mut self, c: &Contract, tiled: &Axis, panel: &Panel<'c>, at: IntValue<'c>, rest: &Dim) {
        let (rest, range) = (Value::from(self.index(rest)), self.axis_range(tiled));
        let sizes: Vec<i64> = (0..4).rev().map(|bit| 1 << bit).filter(|&s| s < c.tile.rows as i64).collect();
        for size in sizes {
            let e = &self.e;
            let has = e.icmp(IntPredicate::NE, e.and(rest, e.int(rest, size)), e.int(rest, 0)).into_int_value();
            let before = e.and(rest, e.int(rest, !(2 * size - 1))).into_int_value();
            let start = e.index_add(at, before);
            self.when(has, |g| g.once(&tiled.name, start, range, |g| g.tile(c, panel, size as usize)));
        }
    }

    /// One register tile.
    fn tile(&mut self, c: &Contract, panel: &Panel<'c>, rows: usize) {
        let vectors = panel.masks.len();
        let zero = self.e.zero(self.e.vector_type(self.e.register_type(c.b.sum()), self.e.lanes).into());
        let (a, addressing) = self.a_pointers(c, rows);
        let b = panel.widened.unwrap_or_else(|| self.b_pointer(c));
        let at = Carried { acc: vec![zero; rows * vectors], a, b };
        let acc = match &c.b {
            Panels::Blocks(_, _, blocks) if panel.widened.is_none() => self.down_blocks(c, *blocks, vectors, &addressing, at),
            _ => self.down_k(c, panel, &addressing, &c.k, at).0,
        };
        match weight(c.epilogue.exprs()) <= SHORT_EPILOGUE {
            true => self.epilogue_in_registers(c, panel, acc),
            false => self.epilogue_through_memory(c, panel, rows, acc),
        }
    }

    /// `d` at the first point of every `k` axis.
    fn at_first_k(c: &Contract, d: &Dim) -> Dim {
        d.substitute(&|name| c.k.iter().any(|k| &*k.name == name).then_some(Dim::ZERO))
    }

    fn a_pointers(&mut self, c: &Contract, rows: usize) -> (Vec<PointerValue<'c>>, Rows<'c>) {
        let size = Operands::of(self.kernel, c).a.size();
        let first = Self::at_first_k(c, &c.a.1);
        let Some(tiled) = c.rows.last() else {
            return (vec![self.pointer(c.a.0, &first)], Rows::Displaced(vec![0]));
        };
        let (pitch, _) = first.linear_in(&tiled.name).expect("the kernel IR says that `a` is linear in the rows");
        let base = self.pointer(c.a.0, &first);
        match pitch.as_const() {
            Some(pitch) => (vec![base], Rows::Displaced((0..rows as i64).map(|i| i * pitch * size as i64).collect())),
            None => {
                let pointers = (0..rows.div_ceil(ROWS_PER_POINTER)).map(|i| {
                    let apart = self.index(&(pitch.clone() * (i * ROWS_PER_POINTER) as i64));
                    self.e.offset(base, apart, size)
                });
                let pointers = pointers.collect();
                (pointers, Rows::Pitch(self.index(&pitch)))
            }
        }
    }

    fn b_pointer(&mut self, c: &Contract) -> PointerValue<'c> {
        match &c.b {
            Panels::Strided(b, offset) => {
                let first = Self::at_first_k(c, offset);
                self.pointer(*b, &first)
            }
            Panels::Packed(b, offset) => {
                // Panel p starts at p*K*width, and the column is p*width.
                let depth: Dim = c.k.iter().map(|k| k.extent.clone()).product();
                self.pointer(*b, &(offset.clone() + c.cols.index() * depth))
            }
            Panels::Blocks(b, offset, blocks) => {
                let steps = c.innermost_steps().expect("blocks are of a number of steps") as usize;
                self.pointer(*b, &(offset.clone() + c.cols.index() * blocks.column_bytes(steps)))
            }
            Panels::Paired(b, offset) | Panels::Quads(b, offset) => {
                let together = Dim::from(c.b.together());
                let (innermost, outer) = c.k.split_last().expect("what stands together is of an axis");
                let steps: Dim = outer.iter().map(|k| k.extent.clone()).product();
                let words = innermost.extent.ceil_div(&together);
                self.pointer(*b, &(offset.clone() + c.cols.index() * steps * words * together))
            }
        }
    }

    /// The loops over `k`, outermost first; gives the accumulators and the pointer into `b` at the end.
    fn down_k(
        &mut self,
        c: &Contract,
        panel: &Panel<'c>,
        rows: &Rows<'c>,
        axes: &[Axis],
        at: Carried<'c>,
    ) -> (Vec<Value<'c>>, PointerValue<'c>) {
        let Some((axis, inner)) = axes.split_first() else {
            return self.multiply_add(c, panel, rows, Step::Whole, at);
        };
        let operands = Operands::of(self.kernel, c);
        let Carried { acc, a, b } = at;
        let (count, pointers) = (acc.len(), a.len());
        let stride = |d: &Dim| d.linear_in(&axis.name).expect("the kernel IR says that operands are linear in `k`").0;
        let a_stride = self.index(&stride(&c.a.1));
        let b_stride = match &c.b {
            Panels::Strided(_, offset) => Some(self.index(&stride(offset))),
            Panels::Packed(..) | Panels::Paired(..) | Panels::Quads(..) | Panels::Blocks(..) => None,
        };
        // The last step of an odd number follows the loop over pairs. The last of fours that are not whole is one of the loop: what it reads
        // behind the row, at most in the slack behind the buffer, is multiplied by zero.
        let together = operands.together as i64;
        let steps = c.innermost_steps().filter(|_| together > 1 && inner.is_empty());
        let is_odd = steps.is_some_and(|steps| together == 2 && steps % 2 == 1);
        let words = steps.map(|steps| (steps + together - 1) / together - i64::from(is_odd));
        let (axis, a_step) = match words {
            Some(words) => (&Axis::new(axis.name.clone(), words), operands.a.size() * operands.together),
            None => (axis, operands.a.size()),
        };
        let carried = acc.into_iter().chain(a.iter().map(|&p| p.into())).chain([b.into()]).collect();
        let certain = axis.extent.as_const().is_some();
        let run = self.whole(axis, certain);
        let end = self.repeat(&axis.name, run, carried, |g, mut carried| {
            let b = carried.pop().expect("b is carried").into_pointer_value();
            let a: Vec<PointerValue> = carried.split_off(count).into_iter().map(|p| p.into_pointer_value()).collect();
            let at = Carried { acc: carried, a: a.clone(), b };
            let (mut next, after) = match inner {
                [innermost] if is_long(innermost) && c.b.sum().is_float() => g.partial_sums(c, panel, rows, inner, at),
                _ => g.down_k(c, panel, rows, inner, at),
            };
            next.extend(a.iter().map(|&p| Value::from(g.e.offset(p, a_stride, a_step))));
            let b = b_stride.map_or(after, |s| g.e.offset(b, s, operands.b.size()));
            next.push(b.into());
            next
        });
        let a = end[count..count + pointers].iter().map(|p| p.into_pointer_value()).collect();
        let end = Carried { acc: end[..count].to_vec(), a, b: end[count + pointers].into_pointer_value() };
        match is_odd {
            true => self.multiply_add(c, panel, rows, Step::Half, end),
            false => (end.acc, end.b),
        }
    }

    /// The innermost loop from zero, its sums then added to `totals`: the rounding error of a sum grows with its length, so
    /// a row of the kernel at a time is more accurate than all of `k` in one chain. LLVM keeps the totals in memory meanwhile.
    fn partial_sums(
        &mut self,
        c: &Contract,
        panel: &Panel<'c>,
        rows: &Rows<'c>,
        innermost: &[Axis],
        at: Carried<'c>,
    ) -> (Vec<Value<'c>>, PointerValue<'c>) {
        let zero = self.e.zero(self.e.vector_type(self.e.register_type(DType::F32), self.e.lanes).into());
        let from_zero = Carried { acc: vec![zero; at.acc.len()], a: at.a, b: at.b };
        let (sums, after) = self.down_k(c, panel, rows, innermost, from_zero);
        (at.acc.into_iter().zip(sums).map(|(total, sum)| self.e.fadd(total, sum)).collect(), after)
    }

    /// One step down `k`.
    fn multiply_add(
        &mut self,
        c: &Contract,
        panel: &Panel<'c>,
        rows: &Rows<'c>,
        step: Step,
        at: Carried<'c>,
    ) -> (Vec<Value<'c>>, PointerValue<'c>) {
        let Carried { mut acc, a, b } = at;
        let operands = Operands::of(self.kernel, c);
        let (vectors, size, column) = (panel.masks.len(), operands.a.size(), operands.column());
        let e = &self.e;
        // Panels are whole; what stands as it lies may end here.
        let masks = |j: usize| panel.masks[j].filter(|_| matches!(c.b, Panels::Strided(..)));
        let at = |j: usize| e.displaced(b, (j * e.lanes * column) as i64);
        let columns: Vec<Value> = (0..vectors).map(|j| columns(e, operands, at(j), masks(j))).collect();
        for i in 0..acc.len() / vectors {
            let x = e.splat(element(e, operands, step, rows.at(e, &a, i, size)));
            for j in 0..vectors {
                let sum = &mut acc[i * vectors + j];
                *sum = match operands.together {
                    1 => e.fma(x, columns[j], *sum),
                    2 => e.dot(x, columns[j], *sum),
                    _ => e.dot_of_bytes(x, columns[j], *sum),
                };
            }
        }
        (acc, e.displaced(b, (c.tile.vectors * e.lanes * column) as i64))
    }

    /// The point of row `i` and vector `j` of a tile.
    fn tile_point(&self, c: &Contract, panel: &Panel<'c>, i: Dim, j: usize, acc: Value<'c>) -> Point<'c> {
        let point = Point::vector(&c.cols.name, panel.masks[j]).moved(&c.cols.name, (j * self.e.lanes) as i64).with(&"acc".into(), acc);
        match c.rows.last() {
            Some(tiled) => point.moved(&tiled.name, i),
            None => point,
        }
    }

    fn epilogue_in_registers(&mut self, c: &Contract, panel: &Panel<'c>, acc: Vec<Value<'c>>) {
        let vectors = panel.masks.len();
        for (n, acc) in acc.into_iter().enumerate() {
            let point = self.tile_point(c, panel, (n / vectors).into(), n % vectors, acc);
            self.block(&c.epilogue, vec![point]);
        }
    }

    /// Stores the tile and loops over its rows.
    fn epilogue_through_memory(&mut self, c: &Contract, panel: &Panel<'c>, rows: usize, acc: Vec<Value<'c>>) {
        let (lanes, vectors) = (self.e.lanes, panel.masks.len());
        let bytes = c.tile.rows * c.tile.vectors * lanes * WORD;
        let known = self.tile_scratch.filter(|(_, has)| *has >= bytes);
        let (scratch, _) = *self.tile_scratch.insert(known.unwrap_or_else(|| (self.e.scratch(bytes), bytes)));
        for (n, acc) in acc.into_iter().enumerate() {
            self.e.store(acc, self.e.displaced(scratch, (n * lanes * WORD) as i64), lanes * WORD);
        }
        let vector = self.e.vector_type(self.e.register_type(c.b.sum()), lanes).into();
        let row = Axis::new(self.fresh("row"), rows);
        self.over(&row, true, |g| {
            let at = g.index(&(row.index() * (vectors * lanes) as i64));
            let at = g.e.offset(scratch, at, WORD);
            let points = (0..vectors).map(|j| {
                let acc = g.e.load(vector, g.e.displaced(at, (j * lanes * WORD) as i64), lanes * WORD);
                g.tile_point(c, panel, row.index(), j, acc)
            });
            let points = points.collect();
            g.block(&c.epilogue, points);
        });
    }
}

/// A vector of columns: f32, or words of several steps each.
fn columns<'c>(e: &Emit<'c>, operands: Operands, at: PointerValue<'c>, mask: Option<Value<'c>>) -> Value<'c> {
    let are_words = operands.together > 1;
    let element = if are_words { e.int_type(32) } else { e.memory_type(operands.b) };
    let (vector, size) = (e.vector_type(element, e.lanes).into(), operands.b.size());
    let raw = match mask {
        Some(mask) => e.masked_load(vector, at, mask, size),
        None => e.load(vector, at, size),
    };
    if are_words { raw } else { widened(e, raw, operands.b) }
}

/// An element of a row: f32, or a word of several steps, of which the second of a pair is zero behind the last.
fn element<'c>(e: &Emit<'c>, operands: Operands, step: Step, at: PointerValue<'c>) -> Value<'c> {
    let (memory, size) = (e.memory_type(operands.a), operands.a.size());
    match (operands.together, step) {
        (1, _) => widened(e, e.load(memory, at, size), operands.a),
        (_, Step::Whole) => e.load(e.int_type(32), at, size),
        (_, Step::Half) => e.convert(InstructionOpcode::ZExt, e.load(memory, at, size), e.int_type(32)),
    }
}
