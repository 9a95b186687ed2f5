//! What a GPU has and a processor has not, one method a feature: numbers of threads, barriers, shuffles, shared memory, copies that
//! go on by themselves, products of matrices.

use super::grid::{THREADS, WARP};
use super::tensor::Format;
use crate::cpu::emit::{Emit, Value};
use inkwell::AddressSpace;
use inkwell::attributes::AttributeLoc;
use inkwell::module::Linkage;
use inkwell::types::{BasicType, BasicTypeEnum};
use inkwell::values::{BasicValue, InstructionOpcode, IntValue, PointerValue};

/// PTX's shared memory, of a block; and as that of a block among others that work together.
const SHARED: u16 = 3;
const SHARED_OF_CLUSTER: u16 = 7;

/// LLVM's name of the attribute that says how many threads the blocks of an entry point have.
pub(super) const BLOCK_THREADS: &str = "nvvm.reqntid";

/// The name of shared memory whose length the launch decides, and what it is aligned to: 16 bytes, the widest access; or eight rows
/// that are swizzled.
const DYNAMIC: &str = "dynamic_shared";
const DYNAMIC_ALIGN: u32 = 16;
const SWIZZLED_ALIGN: u32 = 1024;

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

    /// Waits for all [threads](THREADS) of the block but those that only bring operands; the writes of all are then seen.
    pub(super) fn block_barrier(&self) {
        if !self.has_carriers() {
            return self.whole_barrier();
        }
        self.call("llvm.nvvm.barrier.cta.sync.aligned.count", &[], &[self.word(0), self.word(THREADS as u64)]);
    }

    /// Waits for all threads of the block, whose writes are then seen.
    pub(super) fn whole_barrier(&self) {
        self.call("llvm.nvvm.barrier.cta.sync.aligned.all", &[], &[self.word(0)]);
    }

    fn has_carriers(&self) -> bool {
        let threads = self.function.get_string_attribute(AttributeLoc::Function, BLOCK_THREADS);
        threads.is_some_and(|attribute| attribute.get_string_value().to_bytes() != THREADS.to_string().as_bytes())
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

    /// Shared memory of the block as long as the launch says; the same for all who ask.
    pub(super) fn dynamic_shared(&self) -> PointerValue<'c> {
        let bytes = self.cx.i8_type().array_type(0);
        let known = self.module.get_global(DYNAMIC);
        let memory = known.unwrap_or_else(|| self.module.add_global(bytes, Some(AddressSpace::from(SHARED)), DYNAMIC));
        memory.set_alignment(memory.get_alignment().max(DYNAMIC_ALIGN));
        memory.as_pointer_value()
    }

    /// The same, aligned as swizzled rows have to be.
    pub(super) fn aligned_shared(&self) -> PointerValue<'c> {
        let memory = self.dynamic_shared();
        self.module.get_global(DYNAMIC).into_iter().for_each(|known| known.set_alignment(SWIZZLED_ALIGN));
        memory
    }

    fn word(&self, value: u64) -> Value<'c> {
        self.cx.i32_type().const_int(value, false).into()
    }

    /// Starts to copy `bytes` (4, 8 or 16) from global to shared memory, which must not be touched until the copy has been
    /// [waited](Emit::wait_for_copies) for; where not `inside`, nothing is read and zeros are written (PTX `cp.async`).
    pub(super) fn copy_async(&self, from: PointerValue<'c>, to: PointerValue<'c>, bytes: i64, inside: Value<'c>) {
        // What is 16 bytes wide goes past the first cache, which has no use for what is read once.
        let name = if bytes == 16 {
            "cg.shared.global.16"
        } else if bytes == 8 {
            "ca.shared.global.8"
        } else {
            "ca.shared.global.4"
        };
        let read = self.select(inside, self.word(bytes as u64), self.word(0));
        self.call(&format!("llvm.nvvm.cp.async.{name}.s"), &[], &[to.into(), from.into(), read]);
    }

    /// Puts the copies that the thread has started into a group, which may be empty.
    pub(super) fn commit_copies(&self) {
        self.call("llvm.nvvm.cp.async.commit.group", &[], &[]);
    }

    /// Waits until no more than the last `groups` groups of the thread are on their way.
    pub(super) fn wait_for_copies(&self, groups: u64) {
        self.call("llvm.nvvm.cp.async.wait.group", &[], &[self.word(groups)]);
    }

    /// Makes a barrier in shared memory whose phases have so many arrivals (PTX `mbarrier`).
    pub(super) fn make_phases(&self, barrier: PointerValue<'c>, arrivals: usize) {
        self.call("llvm.nvvm.mbarrier.init.shared", &[], &[barrier.into(), self.word(arrivals as u64)]);
    }

    /// Arrives at a barrier; who waits for the phase sees what the thread did.
    pub(super) fn arrive(&self, barrier: PointerValue<'c>) {
        self.call("llvm.nvvm.mbarrier.arrive.scope.cta.space.cta", &[], &[barrier.into(), self.word(1)]);
    }

    /// Arrives at a barrier and has the phase wait for so many bytes that are copied by [`Emit::copy_bulk`].
    pub(super) fn arrive_expecting(&self, barrier: PointerValue<'c>, bytes: i64) {
        self.call("llvm.nvvm.mbarrier.arrive.expect.tx.scope.cta.space.cta", &[], &[barrier.into(), self.word(bytes as u64)]);
    }

    /// Has the end of all [copies](Emit::copy_async) that the thread has started be an arrival at a barrier.
    pub(super) fn copies_arrive(&self, barrier: PointerValue<'c>) {
        self.call("llvm.nvvm.cp.async.mbarrier.arrive.noinc.shared", &[], &[barrier.into()]);
    }

    /// Waits until the phase of this parity of a barrier is over.
    pub(super) fn wait_for_phase(&self, barrier: PointerValue<'c>, parity: Value<'c>) {
        let (ask, over) = (self.new_block("ask"), self.new_block("over"));
        let parity = self.convert(InstructionOpcode::Trunc, parity, self.int_type(32));
        self.jump(ask);
        self.enter(ask);
        let is_over = self.intrinsic("llvm.nvvm.mbarrier.try.wait.parity.scope.cta.space.cta", &[], &[barrier.into(), parity]);
        self.branch(is_over.into_int_value(), over, ask);
        self.enter(over);
    }

    /// Starts to copy `bytes`, a multiple of 16 as both addresses are, from global to shared memory, by the copy engine; a barrier is told
    /// when they are there (PTX `cp.async.bulk`).
    pub(super) fn copy_bulk(&self, from: PointerValue<'c>, to: PointerValue<'c>, bytes: i64, barrier: PointerValue<'c>) {
        let cast = |pointer, space| {
            let ty = self.cx.ptr_type(AddressSpace::from(space));
            self.builder.build_address_space_cast(pointer, ty, "").expect("the builder stands in a block")
        };
        let to = cast(cast(to, 0), SHARED_OF_CLUSTER);
        let no = |ty: inkwell::types::IntType<'c>| Value::from(ty.const_zero());
        let (mask, policy, flag) = (no(self.cx.i16_type()), no(self.cx.i64_type()), no(self.cx.bool_type()));
        let arguments = [to.into(), barrier.into(), from.into(), self.word(bytes as u64), mask, policy, flag, flag];
        self.call("llvm.nvvm.cp.async.bulk.global.to.shared.cluster", &[], &arguments);
    }

    /// Four matrices of eight rows of 16 bytes from shared memory: lanes 0 to 7 give the addresses of the rows of the first, and so
    /// on; lane `4*i + j` gets word `j` of row `i` of each (PTX `ldmatrix`). Transposed, the elements are 16 bits wide and those of
    /// rows `2*j` and `2*j + 1` at column `i`.
    pub(super) fn load_matrices(&self, at: PointerValue<'c>, transposed: bool) -> Vec<Value<'c>> {
        let name = format!("llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4{}.b16", if transposed { ".trans" } else { "" });
        self.fields(self.intrinsic(&name, &[at.get_type().into()], &[at.into()]), 4)
    }

    /// `sums + a * b` for a tile of 16 rows and 8 columns, of which a lane has the elements that the PTX ISA says (`mma.sync`).
    pub(super) fn multiply_add(&self, format: Format, a: &[Value<'c>], b: &[Value<'c>], sums: &[Value<'c>]) -> Vec<Value<'c>> {
        let (name, operand) = match format {
            Format::Tf32 => ("m16n8k8.row.col.tf32", self.int_type(32)),
            Format::Bf16 => ("m16n8k16.row.col.bf16", self.int_type(32)),
            Format::F16 => ("m16n8k16.row.col.f32.f32", self.cx.f16_type().vec_type(2).into()),
        };
        let operands = a.iter().chain(b).map(|register| self.same_bits(*register, operand));
        let arguments: Vec<Value> = operands.chain(sums.iter().copied()).collect();
        self.fields(self.intrinsic(&format!("llvm.nvvm.mma.{name}"), &[], &arguments), sums.len())
    }

    /// What the thread has written to shared memory, and what it has waited for, is for tensor cores and the copy engine, too (PTX
    /// `fence.proxy.async`).
    pub(super) fn show_to_tensor_cores(&self) {
        self.call("llvm.nvvm.fence.proxy.async.shared_cta", &[], &[]);
    }

    /// Gives the registers of sums to the products of a warpgroup that come (PTX `wgmma.fence`). They go through it, so that nothing
    /// writes them behind it.
    pub(super) fn begin_products(&self, sums: &[Value<'c>]) -> Vec<Value<'c>> {
        self.with_sums("wgmma.fence.sync.aligned;", sums, &[])
    }

    /// Puts the products that a warpgroup has started into a group.
    pub(super) fn commit_products(&self) {
        self.call("llvm.nvvm.wgmma.commit_group.sync.aligned", &[], &[]);
    }

    /// Waits until no more than the last `groups` groups of products go on. Sums of those that are done can then be used; they come out
    /// of the wait, so that nothing takes them before.
    pub(super) fn wait_for_products(&self, groups: u64, sums: &[Value<'c>]) -> Vec<Value<'c>> {
        self.with_sums(&format!("wgmma.wait_group.sync.aligned {groups};"), sums, &[])
    }

    /// Starts `sums + a * b` for 64 rows of a warpgroup, of which a lane has the sums that the PTX ISA says, given where the operands
    /// are (PTX `wgmma.mma_async`). Of those that lie along their points the second part is true.
    pub(super) fn start_product(&self, format: Format, [a, b]: [(Value<'c>, bool); 2], sums: &[Value<'c>]) -> Vec<Value<'c>> {
        let element = if format == Format::Bf16 { "bf16" } else { "f16" };
        let count = sums.len();
        let registers: Vec<String> = (0..count).map(|i| format!("${i}")).collect();
        let text = format!(
            "wgmma.mma_async.sync.aligned.m64n{}k16.f32.{element}.{element} {{{}}}, ${}, ${}, 1, 1, 1, {}, {};",
            2 * count,
            registers.join(", "),
            2 * count,
            2 * count + 1,
            u8::from(a.1),
            u8::from(b.1)
        );
        self.with_sums(&text, sums, &[a.0, b.0])
    }

    /// Assembly that changes f32s in place, given some 64-bit words.
    fn with_sums(&self, text: &str, sums: &[Value<'c>], words: &[Value<'c>]) -> Vec<Value<'c>> {
        let outputs = vec!["=f".to_string(); sums.len()];
        let tied = (0..sums.len()).map(|i| i.to_string());
        let constraints: Vec<String> = outputs.into_iter().chain(tied).chain(words.iter().map(|_| "l".to_string())).collect();
        let types: Vec<BasicTypeEnum> = sums.iter().map(|sum| sum.get_type()).collect();
        let given: Vec<Value> = sums.iter().chain(words).copied().collect();
        let given_types: Vec<_> = given.iter().map(|value| value.get_type().into()).collect();
        let signature = self.cx.struct_type(&types, false).fn_type(&given_types, false);
        let constraints = format!("{},~{{memory}}", constraints.join(","));
        let assembly = self.cx.create_inline_asm(signature, text.to_string(), constraints, true, false, None, false);
        let given: Vec<_> = given.into_iter().map(Into::into).collect();
        let call = self.builder.build_indirect_call(signature, assembly, &given, "").expect("the builder stands in a block");
        self.fields(call.try_as_basic_value().basic().expect("it has results"), sums.len())
    }

    /// The address of a place in shared memory.
    pub(super) fn shared_address(&self, at: PointerValue<'c>) -> Value<'c> {
        self.builder.build_ptr_to_int(at, self.cx.i64_type(), "").expect("the builder stands in a block").into()
    }

    /// An f32 rounded to TF32, ties away from zero: a word whose lower 13 bits are zero.
    pub(super) fn rounded_to_tf32(&self, x: Value<'c>) -> Value<'c> {
        self.intrinsic("llvm.nvvm.f2tf32.rna", &[], &[x])
    }

    /// Two f32s rounded to nearest and put into a word, the first into its lower half.
    pub(super) fn packed(&self, format: Format, [low, high]: [Value<'c>; 2]) -> Value<'c> {
        let name = if format == Format::Bf16 { "llvm.nvvm.ff2bf16x2.rn" } else { "llvm.nvvm.ff2f16x2.rn" };
        self.same_bits(self.intrinsic(name, &[], &[high, low]), self.int_type(32))
    }

    /// Two to the power of an f32, with a relative error up to 2^-22; what is below the normal numbers is zero.
    pub(super) fn about_exp2(&self, x: Value<'c>) -> Value<'c> {
        self.intrinsic("llvm.nvvm.ex2.approx.ftz", &[x.get_type()], &[x])
    }

    /// The bits of a register as another type; of a vector too, which becomes one word.
    fn same_bits(&self, x: Value<'c>, to: BasicTypeEnum<'c>) -> Value<'c> {
        self.builder.build_bit_cast(x, to, "").expect("both have as many bits")
    }

    /// The fields of a structure.
    fn fields(&self, structure: Value<'c>, count: usize) -> Vec<Value<'c>> {
        let structure = structure.into_struct_value();
        let field = |i| self.builder.build_extract_value(structure, i as u32, "").expect("a structure has so many fields");
        (0..count).map(field).collect()
    }
}
