//! The first elements of rows in order, by a heap.
//!
//! An element becomes a key: its value as an integer without sign that orders as the values do, above the complement of its index, so
//! that of equal values the lower index has the larger key, and no two keys are equal. Keys of as many elements as are wanted lie in
//! working memory as a heap with the smallest on top. Vectors of further elements are compared with that, and few of them have one that
//! gets in; in the end the heap is taken apart from the smallest to the largest.
//!
//! ```text
//! heap = keys of the first k elements, sifted           k
//! for vectors of the rest:                              n / lanes
//!     if any of them > top: for each: if key > top: top = key, sifted down
//! for last in k-1 ..= 1: swap top and heap[last], sift down in heap[..last]
//! ```
//!
//! Time: n / lanes + k*log(k) where few elements get in, n*log(k) at most.

use super::emit::{Emit, Value};
use super::ops::widened;
use super::scope::{Gen, Run};
use crate::kernel::TopK;
use egret_ir::DType;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{BasicValue, InstructionOpcode, IntValue, PointerValue};
use inkwell::{FloatPredicate, IntPredicate};

impl TopK {
    /// Bits of the part of a key that orders as the values do; the index has as many.
    fn half(dtype: DType) -> usize {
        if dtype.size() > 4 { 64 } else { 32 }
    }

    /// Bytes of a key.
    pub(crate) fn key_bytes(dtype: DType) -> usize {
        TopK::half(dtype) / 4
    }
}

/// A row that is being emitted.
struct Row<'c> {
    dtype: DType,
    largest: bool,
    /// The row's first element, and how far the next one is, in elements.
    x: PointerValue<'c>,
    stride: IntValue<'c>,
    /// Of the row.
    extent: IntValue<'c>,
    /// How many are wanted.
    count: IntValue<'c>,
    /// `count` keys.
    heap: PointerValue<'c>,
}

impl<'c> Gen<'_, 'c> {
    /// Emits a selection.
    pub(crate) fn top_k(&mut self, t: &TopK) {
        let [outer, inner] = &t.rows;
        self.unless_empty(&[outer.extent.clone(), inner.extent.clone(), t.count.clone()], |g| {
            g.for_part(&t.rows, |g| {
                let dtype = g.kernel.buffers[t.x.0].dtype;
                let (stride, extent, count) = (g.index(&inner.extent), g.index(&t.extent), g.index(&t.count));
                let first = |of: &egret_ir::Dim| outer.index() * of.clone() * inner.extent.clone() + inner.index();
                let (from, to) = (g.index(&first(&t.extent)), g.index(&first(&t.count)));
                let x = g.e.offset(g.bases[t.x.0], from, dtype.size());
                let heap = g.scratch.expect("a selection has working memory");
                let row = Row { dtype, largest: t.largest, x, stride, extent, count, heap };
                row.fill(g);
                row.offer_rest(g, inner.extent.is(1));
                row.sort(g);
                let values = g.e.offset(g.bases[t.values.0], to, dtype.size());
                let indices = g.e.offset(g.bases[t.indices.0], to, DType::I64.size());
                row.write(g, values, indices);
            });
        });
    }

    /// A loop over `start..end`.
    fn count(&mut self, (start, end): (IntValue<'c>, IntValue<'c>), step: i64, body: impl FnOnce(&mut Self, IntValue<'c>)) {
        let name = self.fresh("at");
        let run = Run { start, end, step, certain: false, range: (0, super::scope::HUGE) };
        self.repeat(&name, run, vec![], |g, _| {
            let at = g.symbol(&name).value;
            body(g, at);
            vec![]
        });
    }
}

impl<'c> Row<'c> {
    fn half_type(&self, e: &Emit<'c>) -> BasicTypeEnum<'c> {
        e.int_type(TopK::half(self.dtype))
    }

    fn key_type(&self, e: &Emit<'c>) -> BasicTypeEnum<'c> {
        e.int_type(2 * TopK::half(self.dtype))
    }

    fn place(&self, e: &Emit<'c>, at: IntValue<'c>) -> PointerValue<'c> {
        e.offset(self.heap, at, TopK::key_bytes(self.dtype))
    }

    fn load(&self, e: &Emit<'c>, at: IntValue<'c>) -> Value<'c> {
        e.load(self.key_type(e), self.place(e, at), TopK::key_bytes(self.dtype))
    }

    fn store(&self, e: &Emit<'c>, key: Value<'c>, at: IntValue<'c>) {
        e.store(key, self.place(e, at), TopK::key_bytes(self.dtype));
    }

    /// Where an element stands.
    fn element(&self, e: &Emit<'c>, i: IntValue<'c>) -> PointerValue<'c> {
        e.offset(self.x, e.index_mul(i, self.stride), self.dtype.size())
    }

    /// Integers without sign that are larger where a value, or each of a vector, comes earlier.
    fn ordered(&self, e: &Emit<'c>, raw: Value<'c>) -> Value<'c> {
        let (x, half) = (widened(e, raw, self.dtype), self.half_type(e));
        let rising = match self.dtype.is_float() {
            true => {
                let x = e.fadd(x, e.float(x, 0.0));
                let x = e.select(e.fcmp(FloatPredicate::UNO, x, x), e.float(x, f64::NAN), x);
                let bits = e.bitcast(x, half);
                let sign = self.sign(e, bits);
                e.xor(bits, e.or(e.ashr(bits, TopK::half(self.dtype) as i64 - 1), sign))
            }
            false if self.dtype.is_signed_int() => {
                let wide = self.extended(e, InstructionOpcode::SExt, x);
                e.xor(wide, self.sign(e, wide))
            }
            false => self.extended(e, InstructionOpcode::ZExt, x),
        };
        if self.largest { rising } else { e.not(rising) }
    }

    fn sign(&self, e: &Emit<'c>, like: Value<'c>) -> Value<'c> {
        e.shl(e.int(like, 1), TopK::half(self.dtype) as i64 - 1)
    }

    fn extended(&self, e: &Emit<'c>, op: InstructionOpcode, x: Value<'c>) -> Value<'c> {
        if e.bits(x) as usize == TopK::half(self.dtype) { x } else { e.convert(op, x, self.half_type(e)) }
    }

    /// The key of an element.
    fn key(&self, e: &Emit<'c>, i: IntValue<'c>) -> Value<'c> {
        let raw = e.load(e.memory_type(self.dtype), self.element(e, i), self.dtype.size());
        let high = e.convert(InstructionOpcode::ZExt, self.ordered(e, raw), self.key_type(e));
        let index = if TopK::half(self.dtype) == 64 { i.into() } else { e.convert(InstructionOpcode::Trunc, i.into(), self.half_type(e)) };
        let low = e.convert(InstructionOpcode::ZExt, e.not(index), self.key_type(e));
        e.or(e.shl(high, TopK::half(self.dtype) as i64), low)
    }

    /// The first elements as a heap.
    fn fill(&self, g: &mut Gen<'_, 'c>) {
        let zero = g.e.i64(0);
        g.count((zero, self.count), 1, |g, i| self.store(&g.e, self.key(&g.e, i), i));
        let half = g.e.index_div(self.count, g.e.i64(2));
        g.count((zero, half), 1, |g, i| {
            let at = g.e.index_sub(g.e.index_sub(half, g.e.i64(1)), i);
            let key = self.load(&g.e, at);
            self.sift_down(&g.e, at, key, self.count);
        });
    }

    /// What comes behind the first elements; as vectors where they stand side by side.
    fn offer_rest(&self, g: &mut Gen<'_, 'c>, side_by_side: bool) {
        let mut start = self.count;
        if side_by_side {
            let width = g.e.lanes as i64;
            let left = g.e.index_sub(self.extent, self.count);
            let whole = g.e.index_mul(g.e.index_div(left, g.e.i64(width)), g.e.i64(width));
            let end = g.e.index_add(self.count, whole);
            g.count((self.count, end), width, |g, at| {
                let gets_in = self.any_gets_in(&g.e, at);
                g.when(gets_in, |g| {
                    let end = g.e.index_add(at, g.e.i64(width));
                    g.count((at, end), 1, |g, i| self.offer(g, i));
                });
            });
            start = end;
        }
        g.count((start, self.extent), 1, |g, i| self.offer(g, i));
    }

    /// Whether one of a vector of elements is larger than the top. Equal ones have the higher index, and come later.
    fn any_gets_in(&self, e: &Emit<'c>, at: IntValue<'c>) -> IntValue<'c> {
        let raw = e.load(e.vector_type(e.memory_type(self.dtype), e.lanes).into(), self.element(e, at), self.dtype.size());
        let top = e.lshr(self.load(e, e.i64(0)), TopK::half(self.dtype) as i64);
        let top = e.convert(InstructionOpcode::Trunc, top, self.half_type(e));
        let larger = e.icmp(IntPredicate::UGT, self.ordered(e, raw), top);
        e.intrinsic("llvm.vector.reduce.or", &[larger.get_type()], &[larger]).into_int_value()
    }

    fn offer(&self, g: &mut Gen<'_, 'c>, i: IntValue<'c>) {
        let (key, top) = (self.key(&g.e, i), self.load(&g.e, g.e.i64(0)));
        let gets_in = g.e.icmp(IntPredicate::UGT, key, top).into_int_value();
        g.when(gets_in, |g| self.sift_down(&g.e, g.e.i64(0), key, self.count));
    }

    /// The largest first.
    fn sort(&self, g: &mut Gen<'_, 'c>) {
        let (zero, one) = (g.e.i64(0), g.e.i64(1));
        let swaps = g.e.index_sub(self.count, one);
        g.count((zero, swaps), 1, |g, i| {
            let last = g.e.index_sub(swaps, i);
            let (key, smallest) = (self.load(&g.e, last), self.load(&g.e, zero));
            self.store(&g.e, smallest, last);
            self.sift_down(&g.e, zero, key, last);
        });
    }

    /// Puts a key where the heap of `size` has a hole: below it, after what is smaller moved up.
    fn sift_down(&self, e: &Emit<'c>, hole: IntValue<'c>, key: Value<'c>, size: IntValue<'c>) {
        let (before, head, below, rise, done) =
            (e.block(), e.new_block("sift"), e.new_block("below"), e.new_block("rise"), e.new_block("sifted"));
        e.jump(head);
        e.enter(head);
        let at = e.phi(e.cx.i64_type());
        let hole_now = at.as_basic_value().into_int_value();
        let left = e.index_add(e.index_mul(hole_now, e.i64(2)), e.i64(1));
        e.branch(e.icmp(IntPredicate::SLT, left.into(), size.into()).into_int_value(), below, done);
        e.enter(below);
        let right = e.index_add(left, e.i64(1));
        let has_right = e.icmp(IntPredicate::SLT, right.into(), size.into());
        let other = e.select(has_right, right.into(), left.into()).into_int_value();
        let (a, b) = (self.load(e, left), self.load(e, other));
        let is_other = e.icmp(IntPredicate::ULT, b, a);
        let (child, least) = (e.select(is_other, other.into(), left.into()).into_int_value(), e.select(is_other, b, a));
        e.branch(e.icmp(IntPredicate::ULT, least, key).into_int_value(), rise, done);
        e.enter(rise);
        self.store(e, least, hole_now);
        e.jump(head);
        at.add_incoming(&[(&hole as &dyn BasicValue, before), (&child, rise)]);
        e.enter(done);
        self.store(e, key, hole_now);
    }

    /// The values and the indices of the sorted keys.
    fn write(&self, g: &mut Gen<'_, 'c>, values: PointerValue<'c>, indices: PointerValue<'c>) {
        let zero = g.e.i64(0);
        g.count((zero, self.count), 1, |g, rank| {
            let e = &g.e;
            let low = e.convert(InstructionOpcode::Trunc, self.load(e, rank), self.half_type(e));
            let index =
                if TopK::half(self.dtype) == 64 { e.not(low) } else { e.convert(InstructionOpcode::ZExt, e.not(low), e.int_type(64)) };
            let raw = e.load(e.memory_type(self.dtype), self.element(e, index.into_int_value()), self.dtype.size());
            let to = e.index_mul(rank, self.stride);
            e.store(raw, e.offset(values, to, self.dtype.size()), self.dtype.size());
            e.store(index, e.offset(indices, to, DType::I64.size()), DType::I64.size());
        });
    }
}
