//! What a GPU has and a processor has not, one method a feature: numbers of threads, barriers, shuffles, shared memory.

use super::grid::WARP;
use crate::cpu::emit::{Emit, Value};
use inkwell::AddressSpace;
use inkwell::module::Linkage;
use inkwell::types::{BasicType, BasicTypeEnum};
use inkwell::values::{BasicValue, InstructionOpcode, IntValue, PointerValue};

/// PTX's shared memory, of a block.
const SHARED: u16 = 3;

/// All lanes of a warp.
const ALL_LANES: u64 = 0xffff_ffff;

impl<'c> Emit<'c> {
    fn special(&self, name: &str) -> IntValue<'c> {
        let value = self.intrinsic(&format!("llvm.nvvm.read.ptx.sreg.{name}"), &[], &[]);
        self.convert(InstructionOpcode::ZExt, value, self.int_type(64)).into_int_value()
    }

    /// The number of the thread in its block.
    pub(super) fn thread_index(&self) -> IntValue<'c> {
        self.special("tid.x")
    }

    /// The number of the block.
    pub(super) fn block_index(&self) -> IntValue<'c> {
        self.special("ctaid.x")
    }

    /// Waits for all threads of the block, whose writes are then seen.
    pub(super) fn block_barrier(&self) {
        self.call("llvm.nvvm.barrier.cta.sync.aligned.all", &[], &[self.cx.i32_type().const_zero().into()]);
    }

    /// Waits for all threads of the warp, whose writes are then seen.
    pub(super) fn warp_barrier(&self) {
        self.call("llvm.nvvm.bar.warp.sync", &[], &[self.cx.i32_type().const_int(ALL_LANES, false).into()]);
    }

    /// The value that the lane has whose number differs in the bits of `apart`. All lanes of the warp take part.
    pub(super) fn of_lane_xor(&self, value: Value<'c>, apart: usize) -> Value<'c> {
        let bits = self.as_word(value);
        let found = match self.bits(bits) {
            64 => {
                let half = |v| self.convert(InstructionOpcode::Trunc, v, self.int_type(32));
                let (low, high) = (self.exchanged(half(bits), apart), self.exchanged(half(self.lshr(bits, 32)), apart));
                let wide = |v| self.convert(InstructionOpcode::ZExt, v, self.int_type(64));
                self.or(wide(low), self.shl(wide(high), 32))
            }
            _ => self.exchanged(bits, apart),
        };
        self.word_as(found, value.get_type())
    }

    fn exchanged(&self, word: Value<'c>, apart: usize) -> Value<'c> {
        let number = |v: u64| Value::from(self.cx.i32_type().const_int(v, false));
        let arguments = [number(ALL_LANES), word, number(apart as u64), number(WARP as u64 - 1)];
        self.intrinsic("llvm.nvvm.shfl.sync.bfly.i32", &[], &arguments)
    }

    /// The bits of a value in a word of 32 or 64.
    pub(super) fn as_word(&self, value: Value<'c>) -> Value<'c> {
        let width = if self.bits(value) == 64 { 64 } else { 32 };
        match value.get_type() {
            BasicTypeEnum::IntType(t) if t.get_bit_width() < 32 => self.convert(InstructionOpcode::ZExt, value, self.int_type(32)),
            BasicTypeEnum::IntType(_) => value,
            _ => self.bitcast(value, self.int_type(width)),
        }
    }

    /// The value of a type whose bits are in a word.
    pub(super) fn word_as(&self, word: Value<'c>, ty: BasicTypeEnum<'c>) -> Value<'c> {
        match ty {
            BasicTypeEnum::IntType(t) if t.get_bit_width() < 32 => self.convert(InstructionOpcode::Trunc, word, ty),
            BasicTypeEnum::IntType(_) => word,
            _ => self.bitcast(word, ty),
        }
    }

    /// Values side by side in a vector.
    pub(super) fn together(&self, values: &[Value<'c>]) -> Value<'c> {
        let vector = self.vector_type(values[0].get_type(), values.len()).get_undef();
        let i32 = self.cx.i32_type();
        let insert = |vector, (i, value): (usize, &Value<'c>)| {
            self.builder.build_insert_element(vector, *value, i32.const_int(i as u64, false), "").expect("the builder stands in a block")
        };
        values.iter().enumerate().fold(vector, insert).into()
    }

    /// Shared memory of the block; what it holds at first is not known.
    pub(super) fn shared(&self, element: BasicTypeEnum<'c>, count: usize, align: u32) -> PointerValue<'c> {
        let name = format!("{}_shared", self.function.get_name().to_string_lossy());
        let memory = self.module.add_global(element.array_type(count as u32), Some(AddressSpace::from(SHARED)), &name);
        memory.set_linkage(Linkage::Internal);
        memory.set_initializer(&element.array_type(count as u32).get_undef().as_basic_value_enum());
        memory.set_alignment(align);
        memory.as_pointer_value()
    }
}
