//! The machine as the emitters see it: scalars, vectors of one length, pointers, and loops whose variables are SSA values.
//!
//! Every method takes scalars and vectors alike; two operands of which one is a vector are joined by broadcasting the other.
//! **Invariant.** Nothing here relies on a later optimiser: vectors are explicit, accumulators are loop-carried values and
//! never memory, multiply-add is `llvm.fma`. LLVM's vectoriser, given scalar loops, is up to 100 times slower.
//!
//! Element types in registers: `f16` and `bf16` are held as `f32`, `bool` as `i1`; in memory `bool` is a byte.

use crate::target::Target;
use egret_ir::DType;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::basic_block::BasicBlock;
use inkwell::builder::{Builder, BuilderError};
use inkwell::context::Context;
use inkwell::intrinsics::Intrinsic;
use inkwell::llvm_sys::core::LLVMBuildGEP2;
use inkwell::module::Module;
use inkwell::types::{AsTypeRef, BasicType, BasicTypeEnum, VectorType};
use inkwell::values::{
    AsValueRef, BasicMetadataValueEnum, BasicValue, BasicValueEnum, FunctionValue, InstructionOpcode, IntValue, PointerValue, VectorValue,
};
use inkwell::{AddressSpace, FloatPredicate, IntPredicate};

/// A scalar or a vector in registers.
pub(crate) type Value<'c> = BasicValueEnum<'c>;

/// Builds one function.
pub(crate) struct Emit<'c> {
    pub(crate) cx: &'c Context,
    pub(crate) module: Module<'c>,
    pub(crate) builder: Builder<'c>,
    pub(crate) function: FunctionValue<'c>,
    /// Elements per vector, of whatever type.
    pub(crate) lanes: usize,
    /// Whether `llvm.ldexp` and masked memory operations on narrow elements are instructions here (AVX-512).
    pub(crate) wide: bool,
    /// Whether the instructions of AVX512-BF16 may be used.
    pub(crate) dots: bool,
    /// Whether the instructions of AVX512-VNNI may be used.
    pub(crate) bytes: bool,
    /// Whether one number is rounded to bf16 by an instruction (NVIDIA's from sm_80).
    pub(crate) rounds_bf16: bool,
}

/// The builder fails only where it stands in no block or operands have the wrong kind: mistakes of this crate.
fn built<T>(result: Result<T, BuilderError>) -> T {
    result.expect("the builder stands in a block and operands have the kind the emitter gave them")
}

impl<'c> Emit<'c> {
    /// Starts the function `name` with the kernel signature `(ptr, ptr, i64, i64)`.
    pub(crate) fn new(cx: &'c Context, target: &Target, name: &str, layout: &inkwell::targets::TargetData) -> Emit<'c> {
        let module = cx.create_module(name);
        module.set_triple(&inkwell::targets::TargetTriple::create(target.triple));
        module.set_data_layout(&layout.get_data_layout());
        let (ptr, int) = (cx.ptr_type(AddressSpace::default()), cx.i64_type());
        let signature = cx.void_type().fn_type(&[ptr.into(), ptr.into(), int.into(), int.into()], false);
        let function = module.add_function(name, signature, None);
        let width = target.vector_bits().to_string();
        let attributes = [
            ("target-cpu", target.cpu),
            ("tune-cpu", &target.tune),
            ("prefer-vector-width", &width),
            ("min-legal-vector-width", &width),
            ("no-builtins", "true"),
        ];
        for (key, value) in attributes {
            function.add_attribute(AttributeLoc::Function, cx.create_string_attribute(key, value));
        }
        let extra = target.extra_features();
        if !extra.is_empty() {
            function.add_attribute(AttributeLoc::Function, cx.create_string_attribute("target-features", &extra));
        }
        for key in ["nounwind", "mustprogress"] {
            function.add_attribute(AttributeLoc::Function, cx.create_enum_attribute(Attribute::get_named_enum_kind_id(key), 0));
        }
        let builder = cx.create_builder();
        builder.position_at_end(cx.append_basic_block(function, "entry"));
        let (lanes, wide) = (target.lanes, target.lanes == 16);
        Emit { cx, module, builder, function, lanes, wide, dots: target.dots, bytes: target.bytes, rounds_bf16: false }
    }

    // ---- types

    /// The type of one element in a register.
    pub(crate) fn register_type(&self, dtype: DType) -> BasicTypeEnum<'c> {
        match dtype {
            DType::F64 => self.cx.f64_type().into(),
            float if float.is_float() => self.cx.f32_type().into(),
            DType::Bool => self.cx.bool_type().into(),
            int => self.int_type(8 * int.size()),
        }
    }

    /// The type of one element in memory.
    pub(crate) fn memory_type(&self, dtype: DType) -> BasicTypeEnum<'c> {
        match dtype {
            DType::F64 | DType::F32 => self.register_type(dtype),
            DType::F16 => self.cx.f16_type().into(),
            other => self.int_type(8 * other.size()),
        }
    }

    pub(crate) fn int_type(&self, bits: usize) -> BasicTypeEnum<'c> {
        match bits {
            1 => self.cx.bool_type(),
            8 => self.cx.i8_type(),
            16 => self.cx.i16_type(),
            32 => self.cx.i32_type(),
            64 => self.cx.i64_type(),
            128 => self.cx.i128_type(),
            _ => unreachable!("no element type has {bits} bits"),
        }
        .into()
    }

    /// A vector of `lanes` elements.
    pub(crate) fn vector_type(&self, element: BasicTypeEnum<'c>, lanes: usize) -> VectorType<'c> {
        let lanes = lanes as u32;
        match element {
            BasicTypeEnum::FloatType(t) => t.vec_type(lanes),
            BasicTypeEnum::IntType(t) => t.vec_type(lanes),
            BasicTypeEnum::PointerType(t) => t.vec_type(lanes),
            other => unreachable!("no vectors of {other:?}"),
        }
    }

    /// `element`, as a vector where `like` is one.
    pub(crate) fn shaped(&self, element: BasicTypeEnum<'c>, like: Value<'c>) -> BasicTypeEnum<'c> {
        match like {
            BasicValueEnum::VectorValue(v) => self.vector_type(element, v.get_type().get_size() as usize).into(),
            _ => element,
        }
    }

    /// The element type of a vector, or the type of a scalar.
    pub(crate) fn element_type(&self, v: Value<'c>) -> BasicTypeEnum<'c> {
        match v {
            BasicValueEnum::VectorValue(v) => v.get_type().get_element_type(),
            scalar => scalar.get_type(),
        }
    }

    pub(crate) fn bits(&self, v: Value<'c>) -> u32 {
        match self.element_type(v) {
            BasicTypeEnum::IntType(t) => t.get_bit_width(),
            BasicTypeEnum::FloatType(t) if t == self.cx.f64_type() => 64,
            BasicTypeEnum::FloatType(t) if t == self.cx.f16_type() => 16,
            _ => 32,
        }
    }

    pub(crate) fn ptr_type(&self) -> BasicTypeEnum<'c> {
        self.cx.ptr_type(AddressSpace::default()).into()
    }

    // ---- constants

    pub(crate) fn i64(&self, v: i64) -> IntValue<'c> {
        self.cx.i64_type().const_int(v as u64, true)
    }

    /// The same constant in every lane of a type.
    fn spread(&self, ty: BasicTypeEnum<'c>, element: impl Fn(BasicTypeEnum<'c>) -> Value<'c>) -> Value<'c> {
        match ty {
            BasicTypeEnum::VectorType(v) => {
                let one = element(v.get_element_type());
                VectorType::const_vector(&vec![one; v.get_size() as usize]).into()
            }
            scalar => element(scalar),
        }
    }

    /// A float constant of the type of `like`.
    pub(crate) fn float(&self, like: Value<'c>, v: f64) -> Value<'c> {
        self.float_of(like.get_type(), v)
    }

    pub(crate) fn float_of(&self, ty: BasicTypeEnum<'c>, v: f64) -> Value<'c> {
        self.spread(ty, |t| t.into_float_type().const_float(v).into())
    }

    /// An integer constant of the type of `like`.
    pub(crate) fn int(&self, like: Value<'c>, v: i64) -> Value<'c> {
        self.int_of(like.get_type(), v)
    }

    pub(crate) fn int_of(&self, ty: BasicTypeEnum<'c>, v: i64) -> Value<'c> {
        self.spread(ty, |t| t.into_int_type().const_int(v as u64, true).into())
    }

    /// `0, step, 2*step, ...` as integers of `bits`.
    pub(crate) fn iota(&self, bits: usize, step: i64) -> VectorValue<'c> {
        let ty = self.int_type(bits).into_int_type();
        let lanes: Vec<IntValue> = (0..self.lanes as i64).map(|i| ty.const_int((i * step) as u64, true)).collect();
        VectorType::const_vector(&lanes)
    }

    /// All bits zero.
    pub(crate) fn zero(&self, ty: BasicTypeEnum<'c>) -> Value<'c> {
        ty.const_zero()
    }

    // ---- vectors

    /// `v` in every lane; a vector stays as it is.
    pub(crate) fn splat(&self, v: Value<'c>) -> Value<'c> {
        if v.is_vector_value() {
            return v;
        }
        let ty = self.vector_type(v.get_type(), self.lanes);
        if self.is_const(v) {
            return VectorType::const_vector(&vec![v; self.lanes]).into();
        }
        let i32 = self.cx.i32_type();
        let one = built(self.builder.build_insert_element(ty.get_poison(), v, i32.const_zero(), ""));
        built(self.builder.build_shuffle_vector(one, ty.get_poison(), i32.vec_type(self.lanes as u32).const_zero(), "")).into()
    }

    fn is_const(&self, v: Value<'c>) -> bool {
        match v {
            BasicValueEnum::IntValue(v) => v.is_constant_int(),
            BasicValueEnum::FloatValue(v) => v.is_const(),
            _ => false,
        }
    }

    /// Both as vectors, if one of them is.
    pub(crate) fn joined(&self, x: Value<'c>, y: Value<'c>) -> (Value<'c>, Value<'c>) {
        match x.is_vector_value() || y.is_vector_value() {
            true => (self.splat(x), self.splat(y)),
            false => (x, y),
        }
    }

    /// Lanes of `x` and `y` (those of `y` count on from those of `x`) picked by number.
    pub(crate) fn shuffle(&self, x: Value<'c>, y: Value<'c>, lanes: &[usize]) -> Value<'c> {
        let i32 = self.cx.i32_type();
        let picks: Vec<IntValue> = lanes.iter().map(|&l| i32.const_int(l as u64, false)).collect();
        let (x, y, picks) = (x.into_vector_value(), y.into_vector_value(), VectorType::const_vector(&picks));
        built(self.builder.build_shuffle_vector(x, y, picks, "")).into()
    }

    /// The element in a lane.
    pub(crate) fn extract(&self, v: Value<'c>, lane: usize) -> Value<'c> {
        let lane = self.cx.i32_type().const_int(lane as u64, false);
        built(self.builder.build_extract_element(v.into_vector_value(), lane, ""))
    }

    // ---- arithmetic

    /// An operation of two operands of one type.
    pub(crate) fn op(&self, op: InstructionOpcode, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        let (x, y) = self.joined(x, y);
        built(self.builder.build_binop(op, x, y, ""))
    }

    pub(crate) fn fadd(&self, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        self.op(InstructionOpcode::FAdd, x, y)
    }
    pub(crate) fn fsub(&self, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        self.op(InstructionOpcode::FSub, x, y)
    }
    pub(crate) fn fmul(&self, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        self.op(InstructionOpcode::FMul, x, y)
    }
    pub(crate) fn fdiv(&self, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        self.op(InstructionOpcode::FDiv, x, y)
    }
    pub(crate) fn add(&self, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        self.op(InstructionOpcode::Add, x, y)
    }
    pub(crate) fn sub(&self, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        self.op(InstructionOpcode::Sub, x, y)
    }
    pub(crate) fn mul(&self, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        self.op(InstructionOpcode::Mul, x, y)
    }
    pub(crate) fn and(&self, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        self.op(InstructionOpcode::And, x, y)
    }
    pub(crate) fn or(&self, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        self.op(InstructionOpcode::Or, x, y)
    }
    pub(crate) fn xor(&self, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        self.op(InstructionOpcode::Xor, x, y)
    }
    pub(crate) fn shl(&self, x: Value<'c>, y: i64) -> Value<'c> {
        self.op(InstructionOpcode::Shl, x, self.int(x, y))
    }
    pub(crate) fn ashr(&self, x: Value<'c>, y: i64) -> Value<'c> {
        self.op(InstructionOpcode::AShr, x, self.int(x, y))
    }
    pub(crate) fn lshr(&self, x: Value<'c>, y: i64) -> Value<'c> {
        self.op(InstructionOpcode::LShr, x, self.int(x, y))
    }

    pub(crate) fn fneg(&self, x: Value<'c>) -> Value<'c> {
        match x {
            BasicValueEnum::VectorValue(v) => built(self.builder.build_float_neg(v, "")).into(),
            x => built(self.builder.build_float_neg(x.into_float_value(), "")).into(),
        }
    }

    /// All bits flipped.
    pub(crate) fn not(&self, x: Value<'c>) -> Value<'c> {
        self.xor(x, self.int(x, -1))
    }

    /// `x*y + z`, rounded once.
    pub(crate) fn fma(&self, x: Value<'c>, y: Value<'c>, z: Value<'c>) -> Value<'c> {
        let (x, y) = self.joined(x, y);
        let (x, z) = self.joined(x, z);
        let (x, y) = self.joined(x, y);
        self.intrinsic("llvm.fma", &[x.get_type()], &[x, y, z])
    }

    /// For vectors of 32-bit words that each hold two bf16: `x0*y0 + x1*y1 + z` in f32, lane by lane.
    pub(crate) fn dot(&self, x: Value<'c>, y: Value<'c>, z: Value<'c>) -> Value<'c> {
        let pairs = self.vector_type(self.cx.bf16_type().into(), 2 * self.lanes);
        let bitcast = |v: Value<'c>| built(self.builder.build_bit_cast(v, pairs, ""));
        self.intrinsic("llvm.x86.avx512bf16.dpbf16ps.512", &[], &[z, bitcast(x), bitcast(y)])
    }

    /// For vectors of 32-bit words, of four u8 in `x` and four i8 in `y`: the sum of their products and `z`, an i32, lane by lane.
    pub(crate) fn dot_of_bytes(&self, x: Value<'c>, y: Value<'c>, z: Value<'c>) -> Value<'c> {
        let bytes = self.vector_type(self.int_type(8), 4 * self.lanes);
        let bitcast = |v: Value<'c>| built(self.builder.build_bit_cast(v, bytes, ""));
        self.intrinsic("llvm.x86.avx512.vpdpbusd.512", &[], &[z, bitcast(x), bitcast(y)])
    }

    /// A vector of f32 as the nearest i32s, of two the even one; the least i32 for what none holds, and for NaN. AVX-512.
    pub(crate) fn nearest(&self, x: Value<'c>) -> Value<'c> {
        /// `_MM_FROUND_CUR_DIRECTION`: as a thread starts, to nearest.
        const CURRENT: i64 = 4;
        let whole = self.vector_type(self.int_type(32), self.lanes);
        let all = self.int_of(self.cx.i16_type().into(), -1);
        let direction = self.int_of(self.int_type(32), CURRENT);
        self.intrinsic("llvm.x86.avx512.mask.cvtps2dq.512", &[], &[x, self.zero(whole.into()), all, direction])
    }

    /// A vector of f32 rounded to bf16 by one instruction, subnormal numbers to zero: their 16 bits.
    pub(crate) fn rounded_to_bf16(&self, x: Value<'c>) -> Value<'c> {
        let rounded = self.intrinsic("llvm.x86.avx512bf16.cvtneps2bf16.512", &[], &[x]);
        let bits = self.vector_type(self.int_type(16), self.lanes);
        built(self.builder.build_bit_cast(rounded, bits, ""))
    }

    /// An f32 rounded to bf16 by one instruction: its 16 bits.
    pub(crate) fn as_bf16(&self, x: Value<'c>) -> Value<'c> {
        self.bitcast(self.convert(InstructionOpcode::FPTrunc, x, self.cx.bf16_type().into()), self.int_type(16))
    }

    /// A function of one operand that is an instruction on every target: `llvm.sqrt`, `llvm.floor`, ...
    pub(crate) fn unary(&self, name: &str, x: Value<'c>) -> Value<'c> {
        self.intrinsic(name, &[x.get_type()], &[x])
    }

    pub(crate) fn abs(&self, x: Value<'c>) -> Value<'c> {
        self.unary("llvm.fabs", x)
    }

    pub(crate) fn copysign(&self, size: Value<'c>, sign: Value<'c>) -> Value<'c> {
        let (size, sign) = self.joined(size, sign);
        self.intrinsic("llvm.copysign", &[size.get_type()], &[size, sign])
    }

    pub(crate) fn fcmp(&self, predicate: FloatPredicate, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        match self.joined(x, y) {
            (BasicValueEnum::VectorValue(x), y) => built(self.builder.build_float_compare(predicate, x, y.into_vector_value(), "")).into(),
            (x, y) => built(self.builder.build_float_compare(predicate, x.into_float_value(), y.into_float_value(), "")).into(),
        }
    }

    pub(crate) fn icmp(&self, predicate: IntPredicate, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        match self.joined(x, y) {
            (BasicValueEnum::VectorValue(x), y) => built(self.builder.build_int_compare(predicate, x, y.into_vector_value(), "")).into(),
            (x, y) => built(self.builder.build_int_compare(predicate, x.into_int_value(), y.into_int_value(), "")).into(),
        }
    }

    /// `if c { x } else { y }`, lane by lane where `c` is a vector.
    pub(crate) fn select(&self, c: Value<'c>, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        let (x, y) = if c.is_vector_value() { (self.splat(x), self.splat(y)) } else { self.joined(x, y) };
        match c {
            BasicValueEnum::VectorValue(c) => built(self.builder.build_select(c, x, y, "")),
            c => built(self.builder.build_select(c.into_int_value(), x, y, "")),
        }
    }

    /// The larger of two integers.
    pub(crate) fn imax(&self, x: Value<'c>, y: Value<'c>, signed: bool) -> Value<'c> {
        let (x, y) = self.joined(x, y);
        self.intrinsic(if signed { "llvm.smax" } else { "llvm.umax" }, &[x.get_type()], &[x, y])
    }

    /// The smaller of two integers.
    pub(crate) fn imin(&self, x: Value<'c>, y: Value<'c>, signed: bool) -> Value<'c> {
        let (x, y) = self.joined(x, y);
        self.intrinsic(if signed { "llvm.smin" } else { "llvm.umin" }, &[x.get_type()], &[x, y])
    }

    /// A conversion instruction to a scalar type, or to vectors of it.
    pub(crate) fn convert(&self, op: InstructionOpcode, x: Value<'c>, to: BasicTypeEnum<'c>) -> Value<'c> {
        built(self.builder.build_cast(op, x, self.shaped(to, x), ""))
    }

    /// The same bits as another type of the same width.
    pub(crate) fn bitcast(&self, x: Value<'c>, to: BasicTypeEnum<'c>) -> Value<'c> {
        self.convert(InstructionOpcode::BitCast, x, to)
    }

    /// Calls an intrinsic, overloaded on `types`.
    pub(crate) fn intrinsic(&self, name: &str, types: &[BasicTypeEnum<'c>], args: &[Value<'c>]) -> Value<'c> {
        self.call(name, types, args).expect("the intrinsic has a result")
    }

    /// Calls an intrinsic, which may have no result.
    pub(crate) fn call(&self, name: &str, types: &[BasicTypeEnum<'c>], args: &[Value<'c>]) -> Option<Value<'c>> {
        let intrinsic = Intrinsic::find(name).unwrap_or_else(|| panic!("LLVM has no `{name}`"));
        let function = intrinsic.get_declaration(&self.module, types).unwrap_or_else(|| panic!("`{name}` does not take {types:?}"));
        let args: Vec<BasicMetadataValueEnum> = args.iter().map(|&a| a.into()).collect();
        built(self.builder.build_call(function, &args, "")).try_as_basic_value().basic()
    }

    // ---- memory

    /// `base + index*size` bytes.
    pub(crate) fn offset(&self, base: PointerValue<'c>, index: IntValue<'c>, size: usize) -> PointerValue<'c> {
        if let Some(i) = index.get_sign_extended_constant() {
            return self.displaced(base, i * size as i64);
        }
        let ty = self.int_type(8 * size);
        // SAFETY: computes an address without a claim about its bounds; loads and stores are in bounds by the kernel IR's invariant.
        built(unsafe { self.builder.build_gep(ty, base, &[index], "") })
    }

    /// `base + bytes`.
    pub(crate) fn displaced(&self, base: PointerValue<'c>, bytes: i64) -> PointerValue<'c> {
        if bytes == 0 {
            return base;
        }
        // SAFETY: as in `offset`.
        built(unsafe { self.builder.build_gep(self.cx.i8_type(), base, &[self.i64(bytes)], "") })
    }

    /// The addresses of the lanes: `base + index*size` for a vector of indices.
    fn lane_addresses(&self, base: PointerValue<'c>, index: VectorValue<'c>, size: usize) -> Value<'c> {
        let mut index = index.as_value_ref();
        let element = self.int_type(8 * size).as_type_ref();
        // SAFETY: `getelementptr` with one pointer and a vector of indices gives a vector of pointers, which inkwell's own
        // method cannot say. It claims nothing about bounds; the lanes that are masked off are never accessed.
        unsafe { VectorValue::new(LLVMBuildGEP2(self.builder.as_mut_ptr(), element, base.as_value_ref(), &mut index, 1, c"".as_ptr())) }
            .into()
    }

    pub(crate) fn load(&self, ty: BasicTypeEnum<'c>, at: PointerValue<'c>, align: usize) -> Value<'c> {
        let value = built(self.builder.build_load(ty, at, ""));
        value.as_instruction_value().expect("a load").set_alignment(align as u32).expect("a power of two");
        value
    }

    pub(crate) fn store(&self, value: Value<'c>, at: PointerValue<'c>, align: usize) {
        built(self.builder.build_store(at, value)).set_alignment(align as u32).expect("a power of two");
    }

    /// The lanes in `mask`; zero in the others.
    pub(crate) fn masked_load(&self, ty: BasicTypeEnum<'c>, at: PointerValue<'c>, mask: Value<'c>, align: usize) -> Value<'c> {
        let intrinsic = Intrinsic::find("llvm.masked.load").expect("LLVM has masked loads");
        let function = intrinsic.get_declaration(&self.module, &[ty, self.ptr_type()]).expect("of every vector");
        let call = built(self.builder.build_call(function, &[at.into(), mask.into(), self.zero(ty).into()], ""));
        call.set_alignment_attribute(AttributeLoc::Param(0), align as u32);
        call.try_as_basic_value().basic().expect("a load has a result")
    }

    pub(crate) fn masked_store(&self, value: Value<'c>, at: PointerValue<'c>, mask: Value<'c>, align: usize) {
        if self.bits(value) < 32 && self.is_first_lane(mask) {
            return self.store(self.extract(value, 0), at, align);
        }
        let intrinsic = Intrinsic::find("llvm.masked.store").expect("LLVM has masked stores");
        let function = intrinsic.get_declaration(&self.module, &[value.get_type(), self.ptr_type()]).expect("of every vector");
        let call = built(self.builder.build_call(function, &[value.into(), at.into(), mask.into()], ""));
        call.set_alignment_attribute(AttributeLoc::Param(1), align as u32);
    }

    /// Whether a mask is known and has the first lane only. LLVM 22 writes 32 bits for such a lane of a vector that was truncated to less.
    fn is_first_lane(&self, mask: Value<'c>) -> bool {
        let bit = |is_set: bool| self.cx.bool_type().const_int(is_set.into(), false);
        let first: Vec<IntValue> = (0..self.lanes).map(|lane| bit(lane == 0)).collect();
        mask.into_vector_value() == VectorType::const_vector(&first)
    }

    /// Loads `base[index]` lane by lane; zero in the lanes not in `mask`.
    pub(crate) fn gather(
        &self,
        ty: BasicTypeEnum<'c>,
        base: PointerValue<'c>,
        index: VectorValue<'c>,
        size: usize,
        mask: Value<'c>,
    ) -> Value<'c> {
        let at = self.lane_addresses(base, index, size);
        let vector: BasicTypeEnum = self.vector_type(ty, self.lanes).into();
        let intrinsic = Intrinsic::find("llvm.masked.gather").expect("LLVM has gathers");
        let function = intrinsic.get_declaration(&self.module, &[vector, at.get_type()]).expect("of every vector");
        let call = built(self.builder.build_call(function, &[at.into(), mask.into(), self.zero(vector).into()], ""));
        call.set_alignment_attribute(AttributeLoc::Param(0), size as u32);
        call.try_as_basic_value().basic().expect("a gather has a result")
    }

    /// Stores the lanes in `mask` to `base[index]`.
    pub(crate) fn scatter(&self, value: Value<'c>, base: PointerValue<'c>, index: VectorValue<'c>, size: usize, mask: Value<'c>) {
        let at = self.lane_addresses(base, index, size);
        let intrinsic = Intrinsic::find("llvm.masked.scatter").expect("LLVM has scatters");
        let function = intrinsic.get_declaration(&self.module, &[value.get_type(), at.get_type()]).expect("of every vector");
        let call = built(self.builder.build_call(function, &[value.into(), at.into(), mask.into()], ""));
        call.set_alignment_attribute(AttributeLoc::Param(1), size as u32);
    }

    /// Bytes on the stack, allocated once per call of the kernel.
    pub(crate) fn scratch(&self, bytes: usize) -> PointerValue<'c> {
        let here = self.block();
        let entry = self.function.get_first_basic_block().expect("the entry block");
        match entry.get_first_instruction() {
            Some(first) => self.builder.position_before(&first),
            None => self.builder.position_at_end(entry),
        }
        let slot = built(self.builder.build_alloca(self.cx.i8_type().array_type(bytes as u32), "scratch"));
        slot.as_instruction().expect("an alloca").set_alignment(64).expect("a power of two");
        self.builder.position_at_end(here);
        slot
    }

    // ---- control flow

    /// The block that is being filled.
    pub(crate) fn block(&self) -> BasicBlock<'c> {
        self.builder.get_insert_block().expect("the builder stands in a block")
    }

    pub(crate) fn new_block(&self, name: &str) -> BasicBlock<'c> {
        self.cx.append_basic_block(self.function, name)
    }

    pub(crate) fn jump(&self, to: BasicBlock<'c>) {
        built(self.builder.build_unconditional_branch(to));
    }

    pub(crate) fn branch(&self, c: IntValue<'c>, yes: BasicBlock<'c>, no: BasicBlock<'c>) {
        built(self.builder.build_conditional_branch(c, yes, no));
    }

    pub(crate) fn enter(&self, block: BasicBlock<'c>) {
        self.builder.position_at_end(block);
    }

    pub(crate) fn finish(&self) {
        built(self.builder.build_return(None));
    }

    // ---- index arithmetic (i64)

    pub(crate) fn index_add(&self, x: IntValue<'c>, y: IntValue<'c>) -> IntValue<'c> {
        match (x.get_sign_extended_constant(), y.get_sign_extended_constant()) {
            (Some(0), _) => y,
            (_, Some(0)) => x,
            _ => built(self.builder.build_int_nsw_add(x, y, "")),
        }
    }

    pub(crate) fn index_mul(&self, x: IntValue<'c>, y: IntValue<'c>) -> IntValue<'c> {
        match (x.get_sign_extended_constant(), y.get_sign_extended_constant()) {
            (Some(1), _) => y,
            (_, Some(1)) => x,
            _ => built(self.builder.build_int_nsw_mul(x, y, "")),
        }
    }

    pub(crate) fn index_sub(&self, x: IntValue<'c>, y: IntValue<'c>) -> IntValue<'c> {
        match y.get_sign_extended_constant() {
            Some(0) => x,
            _ => built(self.builder.build_int_nsw_sub(x, y, "")),
        }
    }

    /// Quotient of non-negative numbers.
    pub(crate) fn index_div(&self, x: IntValue<'c>, y: IntValue<'c>) -> IntValue<'c> {
        match y.get_sign_extended_constant() {
            Some(1) => x,
            _ => built(self.builder.build_int_unsigned_div(x, y, "")),
        }
    }

    /// Remainder of non-negative numbers.
    pub(crate) fn index_rem(&self, x: IntValue<'c>, y: IntValue<'c>) -> IntValue<'c> {
        match y.get_sign_extended_constant() {
            Some(1) => self.i64(0),
            _ => built(self.builder.build_int_unsigned_rem(x, y, "")),
        }
    }

    pub(crate) fn phi(&self, ty: impl BasicType<'c>) -> inkwell::values::PhiValue<'c> {
        built(self.builder.build_phi(ty, ""))
    }

    /// The text of the function so far.
    pub(crate) fn text(&self) -> String {
        self.module.print_to_string().to_string()
    }

    /// Checks LLVM's rules.
    pub(crate) fn verify(&self) -> Result<(), String> {
        match self.function.verify(false) {
            true => Ok(()),
            false => Err(self.module.verify().err().map_or_else(|| "the function is malformed".into(), |e| e.to_string())),
        }
    }
}
