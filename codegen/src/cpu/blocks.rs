//! Products with weights of few bits: what a register tile does on its way down `k` where each block of steps has scales of its own.
//!
//! Integers become weights in registers, `(q - zero) * scale`, rounded to f32 once, and are then multiplied like any others.
//! **Invariant.** A sum has the bits of that with weights stored in f32: the same weights in the same order.
//!
//! ```text
//! for blocks of k:
//!     load scales, zero points
//!     for words: load words; for 8 steps: w = (float(digit) - zero) * scale; for i in rows: acc[i] = fma(splat a[i], w, acc[i])
//! ```
//!
//! Where many rows pass by, a panel is first made into f32 as a whole, in the part's working memory, and then read like any other.
//!
//! In registers, the digits of a word become floats where they stand: with the bits of a power of two above it, a digit is what the mantissa
//! holds beyond that, and one subtraction is left. Between some and the next the word moves on.

use super::contract::{Carried, Rows};
use super::emit::{Emit, Value};
use super::ops::widened;
use super::scope::Gen;
use super::split::working_bytes;
use super::tile::ROWS_IN_REGISTERS;
use crate::kernel::{Axis, Blocks, Contract, Panels};
use egret_ir::{DType, Dim};
use inkwell::values::{InstructionOpcode, IntValue, PointerValue};

/// Bits of a digit of a word.
const DIGIT: usize = 4;

/// Digits of a word that are read before it moves on: all of them would need more constants than there are registers.
const DIGITS: usize = 4;

/// Bits of the mantissa of an f32, and what is added to its exponent.
const MANTISSA: usize = 23;
const BIAS: usize = 127;

/// Accumulators, and pointers into `a`.
type Sums<'c> = (Vec<Value<'c>>, Vec<PointerValue<'c>>);

/// What the steps of a block have in common.
struct Block<'c> {
    /// A vector for each vector of columns.
    scales: Vec<Value<'c>>,
    /// Likewise, f32; none where all are 0.
    zeros: Vec<Value<'c>>,
}

/// What goes down `k`.
struct Tile<'t, 'c> {
    blocks: Blocks,
    /// Vectors of columns that are computed, and those of a panel.
    vectors: usize,
    panel: usize,
    to: To<'t, 'c>,
}

/// What weights are made for.
enum To<'t, 'c> {
    /// Sums of products with rows of `a`: their type, and the elements from a step to the next.
    Sums { rows: &'t Rows<'c>, dtype: DType, stride: IntValue<'c> },
    /// A panel in memory, where the only pointer leads.
    Memory,
}

/// When panels are made into f32 before rows pass by them.
pub(super) enum Widened {
    Never,
    Always,
    /// Where there are more of so many rows than [`ROWS_IN_REGISTERS`].
    ForMany(Dim),
}

impl Widened {
    /// When the panels of a contraction are.
    pub(super) fn of(c: &Contract) -> Widened {
        let rows: Dim = c.rows.iter().map(|axis| axis.extent.clone()).product();
        match (&c.b, rows.as_const()) {
            (Panels::Blocks(..), None) => Widened::ForMany(rows),
            (Panels::Blocks(..), Some(rows)) if rows > ROWS_IN_REGISTERS => Widened::Always,
            _ => Widened::Never,
        }
    }
}

/// The bytes of working memory for panels that are made into f32.
pub(super) fn working(c: &Contract, lanes: usize) -> usize {
    match (Widened::of(c), c.innermost_steps()) {
        (Widened::Never, _) | (_, None) => 0,
        (_, Some(steps)) => working_bytes(steps as usize * c.tile.vectors * lanes),
    }
}

impl<'c> Gen<'_, 'c> {
    /// The sums of a tile over all of `k`.
    pub(super) fn down_blocks(&mut self, c: &Contract, blocks: Blocks, vectors: usize, rows: &Rows<'c>, at: Carried<'c>) -> Vec<Value<'c>> {
        let [k] = &c.k[..] else { unreachable!("the kernel IR says that blocks are of one loop") };
        let stride = c.a.1.linear_in(&k.name).expect("the kernel IR says that `a` is linear in `k`").0;
        let (dtype, stride) = (self.kernel.buffers[c.a.0.0].dtype, self.index(&stride));
        let tile = Tile { blocks, vectors, panel: c.tile.vectors, to: To::Sums { rows, dtype, stride } };
        self.all_blocks(c, &tile, at).acc
    }

    /// A panel in f32, in working memory.
    pub(super) fn widened_panel(&mut self, c: &Contract, blocks: Blocks, b: PointerValue<'c>) -> PointerValue<'c> {
        let memory = self.scratch.expect("a kernel with working memory is given some");
        let tile = Tile { blocks, vectors: c.tile.vectors, panel: c.tile.vectors, to: To::Memory };
        self.all_blocks(c, &tile, Carried { acc: vec![], a: vec![memory], b });
        memory
    }

    fn all_blocks(&mut self, c: &Contract, tile: &Tile<'_, 'c>, at: Carried<'c>) -> Carried<'c> {
        let steps = c.innermost_steps().expect("the kernel IR says that blocks are of a number of steps") as usize;
        let in_block = tile.blocks.steps;
        let whole = Axis::new(self.fresh("block"), steps / in_block);
        let at = self.carrying(&whole, at, |g, at| g.block_of_steps(tile, in_block, at));
        match steps % in_block {
            0 => at,
            rest => self.block_of_steps(tile, rest, at),
        }
    }

    /// A loop that carries what a tile does.
    fn carrying(&mut self, axis: &Axis, at: Carried<'c>, body: impl FnOnce(&mut Self, Carried<'c>) -> Carried<'c>) -> Carried<'c> {
        let (count, pointers) = (at.acc.len(), at.a.len());
        let flat = |at: Carried<'c>| at.acc.into_iter().chain(at.a.into_iter().map(Value::from)).chain([at.b.into()]).collect();
        let apart = |values: Vec<Value<'c>>| Carried {
            acc: values[..count].to_vec(),
            a: values[count..count + pointers].iter().map(|p| p.into_pointer_value()).collect(),
            b: values[count + pointers].into_pointer_value(),
        };
        let run = self.whole(axis, true);
        apart(self.repeat(&axis.name, run, flat(at), |g, values| flat(body(g, apart(values)))))
    }

    /// A block of so many steps.
    fn block_of_steps(&mut self, tile: &Tile<'_, 'c>, steps: usize, at: Carried<'c>) -> Carried<'c> {
        let e = &self.e;
        let width = tile.panel * e.lanes;
        let scales = (0..tile.vectors).map(|j| vector(e, DType::F32, e.displaced(at.b, (j * e.lanes * 4) as i64))).collect();
        let behind = e.displaced(at.b, (width * 4) as i64);
        let of_zeros = if tile.blocks.has_zeros { tile.vectors } else { 0 };
        let zeros = (0..of_zeros).map(|j| integers(e, e.displaced(behind, (j * e.lanes) as i64))).collect();
        let block = Block { scales, zeros };
        let at = Carried { b: e.displaced(at.b, (width * tile.blocks.header()) as i64), ..at };
        let (whole, rest) = match tile.blocks.is_in_words() {
            true => (steps / Blocks::IN_WORD, steps % Blocks::IN_WORD),
            false => (steps, 0),
        };
        let words = Axis::new(self.fresh("word"), whole);
        let at = self.carrying(&words, at, |g, at| match tile.blocks.is_in_words() {
            true => g.word_of_steps(tile, &block, Blocks::IN_WORD, at),
            false => g.step_of_bytes(tile, &block, at),
        });
        if rest == 0 { at } else { self.word_of_steps(tile, &block, rest, at) }
    }

    /// The first steps of a word: some at a time, and what is left.
    fn word_of_steps(&mut self, tile: &Tile<'_, 'c>, block: &Block<'c>, steps: usize, at: Carried<'c>) -> Carried<'c> {
        let size = size_of::<u32>();
        let place = |j: usize| self.e.displaced(at.b, (j * self.e.lanes * size) as i64);
        let words: Vec<Value> = (0..tile.vectors).map(|j| vector(&self.e, DType::I32, place(j))).collect();
        let (b, acc, pointers) = (at.b, at.acc.len(), at.a.len());
        let carried = at.acc.into_iter().chain(at.a.into_iter().map(Value::from)).chain(words).collect();
        let apart = |mut carried: Vec<Value<'c>>| {
            let words = carried.split_off(acc + pointers);
            let a: Vec<PointerValue> = carried.split_off(acc).into_iter().map(|p| p.into_pointer_value()).collect();
            (carried, a, words)
        };
        let digits = Axis::new(self.fresh("digits"), steps / DIGITS);
        let run = self.whole(&digits, true);
        let end = self.repeat(&digits.name, run, carried, |g, carried| {
            let (acc, a, words) = apart(carried);
            let (acc, a) = tile.digits(&g.e, block, DIGITS, &words, (acc, a));
            let words = words.iter().map(|word| g.e.lshr(*word, (DIGITS * DIGIT) as i64));
            acc.into_iter().chain(a.into_iter().map(Value::from)).chain(words).collect()
        });
        let (acc, a, words) = apart(end);
        let (acc, a) = tile.digits(&self.e, block, steps % DIGITS, &words, (acc, a));
        Carried { acc, a, b: self.e.displaced(b, (tile.panel * self.e.lanes * size) as i64) }
    }

    /// A step whose integers are bytes.
    fn step_of_bytes(&mut self, tile: &Tile<'_, 'c>, block: &Block<'c>, at: Carried<'c>) -> Carried<'c> {
        let e = &self.e;
        let weight = |j: usize| block.weight(e, j, integers(e, e.displaced(at.b, (j * e.lanes) as i64)));
        let weights: Vec<Value> = (0..tile.vectors).map(weight).collect();
        let (acc, a) = tile.step(e, &weights, at.acc, at.a);
        Carried { acc, a, b: e.displaced(at.b, (tile.panel * e.lanes) as i64) }
    }
}

impl<'c> Tile<'_, 'c> {
    /// The sums and the pointers into `a` behind the first digits of words.
    fn digits(&self, e: &Emit<'c>, block: &Block<'c>, count: usize, words: &[Value<'c>], at: Sums<'c>) -> Sums<'c> {
        (0..count).fold(at, |(acc, a), place| {
            let digit = if matches!(self.to, To::Memory) { shifted_digit } else { digit };
            let weights: Vec<Value> = words.iter().enumerate().map(|(j, word)| block.weight(e, j, digit(e, *word, place))).collect();
            self.step(e, &weights, acc, a)
        })
    }

    /// The sums and the pointers into `a` behind a step with these weights.
    fn step(&self, e: &Emit<'c>, weights: &[Value<'c>], mut acc: Vec<Value<'c>>, mut a: Vec<PointerValue<'c>>) -> Sums<'c> {
        let ahead = match &self.to {
            To::Sums { rows, dtype, stride } => {
                for (i, sums) in acc.chunks_mut(self.vectors).enumerate() {
                    let at = rows.at(e, &a, i, dtype.size());
                    let x = e.splat(widened(e, e.load(e.memory_type(*dtype), at, dtype.size()), *dtype));
                    sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum = e.fma(x, *weight, *sum));
                }
                (*stride, dtype.size())
            }
            To::Memory => {
                let place = |j: usize| e.displaced(a[0], (j * e.lanes * size_of::<f32>()) as i64);
                weights.iter().enumerate().for_each(|(j, weight)| e.store(*weight, place(j), size_of::<f32>()));
                (e.i64((self.panel * e.lanes) as i64), size_of::<f32>())
            }
        };
        a.iter_mut().for_each(|p| *p = e.offset(*p, ahead.0, ahead.1));
        (acc, a)
    }
}

impl<'c> Block<'c> {
    /// The weights of a vector of columns, from their integers.
    fn weight(&self, e: &Emit<'c>, j: usize, q: Value<'c>) -> Value<'c> {
        let difference = self.zeros.get(j).map_or(q, |zero| e.fsub(q, *zero));
        e.fmul(difference, self.scales[j])
    }
}

/// A vector of elements of 32 bits.
fn vector<'c>(e: &Emit<'c>, dtype: DType, at: PointerValue<'c>) -> Value<'c> {
    e.load(e.vector_type(e.memory_type(dtype), e.lanes).into(), at, 1)
}

/// A vector of i8 as f32.
fn integers<'c>(e: &Emit<'c>, at: PointerValue<'c>) -> Value<'c> {
    let bytes = vector(e, DType::I8, at);
    let wide = e.convert(InstructionOpcode::SExt, bytes, e.int_type(32));
    e.convert(InstructionOpcode::SIToFP, wide, e.cx.f32_type().into())
}

/// The numbers from -8 to 7 of a digit of words, as f32: two instructions, and constants that registers hold.
fn digit<'c>(e: &Emit<'c>, words: Value<'c>, place: usize) -> Value<'c> {
    let bit = place * DIGIT;
    let power = MANTISSA - bit;
    // With its sign turned, a digit is what it stands for and 8 more.
    let above = e.int(words, ((BIAS + power) << MANTISSA | 8 << bit) as i64);
    let digits = e.xor(e.and(words, e.int(words, 0xf << bit)), above);
    let float = e.bitcast(digits, e.cx.f32_type().into());
    e.fsub(float, e.float(float, (1u64 << power) as f64 + 8.0))
}

/// The same without constants, which would take registers from the sums that follow.
fn shifted_digit<'c>(e: &Emit<'c>, words: Value<'c>, place: usize) -> Value<'c> {
    let top = (32 - DIGIT) as i64;
    let digits = e.ashr(e.shl(words, top - (place * DIGIT) as i64), top);
    e.convert(InstructionOpcode::SIToFP, digits, e.cx.f32_type().into())
}
