//! What an artifact does: the kernels to call, in order, and the buffers they read and write.
//!
//! The compiler writes a [`Plan`], the runtime walks it; this module is the whole contract between the two.
//!
//! **Invariant.** A plan names everything by index (buffers, kernels, symbols) and every extent that depends on a free
//! dimension is a [`Size`], a little postfix program over the symbols. So a plan holds no pointers, serialises
//! byte for byte the same each time, and [`Plan::check`] can prove it safe to walk before any kernel runs.
//!
//! # Kernel ABI
//!
//! A kernel is a position-independent function without imports, called as a [`KernelFn`](crate::KernelFn):
//!
//! ```text
//! extern "C" fn(buffers: *const *mut u8, sizes: *const i64, part: u64, parts: u64)
//! ```
//!
//! - `buffers` holds the addresses of [`Step::reads`], then of [`Step::writes`], in that order.
//! - `sizes` holds [`Step::sizes`], evaluated for the current binding of the symbols.
//! - The kernel computes part `part` of `parts`: the range `part*n/parts .. (part+1)*n/parts` of its split axis. Parts write
//!   disjoint bytes, and the bits written do not depend on `parts`.
//! - Every buffer starts at a multiple of [`ALIGN`] and is followed by [`SLACK`] bytes that may be read, not written.
//! - Buffers are not zeroed; inputs and weights are read-only.
//! - A buffer at [`Place::Private`] is working memory of [`Buffer::bytes`] bytes for each part: the address in the table is that
//!   of part 0, and part `p` uses the bytes from `p*bytes` on and no others. Nothing may be expected in them when the part starts.
//!
//! # Example
//!
//! ```
//! use egret_runtime::plan::{Size, SizeOp};
//!
//! // 4 * N * 784: the bytes of an f32[N, 784].
//! let bytes = Size::Expr(vec![
//!     SizeOp::Const(4),
//!     SizeOp::Symbol(0),
//!     SizeOp::Mul,
//!     SizeOp::Const(784),
//!     SizeOp::Mul,
//! ]);
//! assert_eq!(bytes.eval(&[2]), Ok(6272));
//! ```

use crate::binding::check_requirements;
use crate::program::Program;
use crate::range::Range;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Alignment in bytes of every buffer a kernel sees: one cache line, one AVX-512 register.
pub const ALIGN: usize = 64;

/// Bytes behind every buffer that a kernel may read (never write), so that vector loads need no tail case.
pub const SLACK: usize = 64;

/// Element type of a tensor; the runtime's own copy of the compiler's element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DType {
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// Signed, 8 bits.
    I8,
    /// Signed, 16 bits.
    I16,
    /// Signed, 32 bits.
    I32,
    /// Signed, 64 bits.
    I64,
    /// Unsigned, 8 bits.
    U8,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 64 bits.
    U64,
    /// One byte, 0 or 1.
    Bool,
    /// 8-bit float: 4 bits of exponent, 3 of mantissa, NaN but no infinity.
    F8E4M3,
    /// The same with another bias and without -0.
    F8E4M3FNUZ,
    /// 8-bit float: the upper half of a binary16.
    F8E5M2,
    /// The same with another bias, without infinity and -0.
    F8E5M2FNUZ,
    /// 4-bit float in a byte.
    F4E2M1,
    /// Signed, 4 bits in a byte.
    I4,
    /// Unsigned, 4 bits in a byte.
    U4,
    /// Signed, 2 bits in a byte.
    I2,
    /// Unsigned, 2 bits in a byte.
    U2,
    /// A string, as the 64-bit [`handle`](crate::strings::handle) that stands for it.
    Str,
}

impl DType {
    /// Every element type, in declaration order.
    pub const ALL: [DType; 23] = [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::U64,
        DType::Bool,
        DType::F8E4M3,
        DType::F8E4M3FNUZ,
        DType::F8E5M2,
        DType::F8E5M2FNUZ,
        DType::F4E2M1,
        DType::I4,
        DType::U4,
        DType::I2,
        DType::U2,
        DType::Str,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 | DType::U64 | DType::Str => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
            DType::F8E4M3 | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F4E2M1 => 1,
            DType::I4 | DType::U4 | DType::I2 | DType::U2 => 1,
        }
    }

    /// The name used in messages and in the textual IR, such as `f32`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I8 => "i8",
            DType::I16 => "i16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::U8 => "u8",
            DType::U16 => "u16",
            DType::U32 => "u32",
            DType::U64 => "u64",
            DType::Bool => "bool",
            DType::F8E4M3 => "f8e4m3",
            DType::F8E4M3FNUZ => "f8e4m3fnuz",
            DType::F8E5M2 => "f8e5m2",
            DType::F8E5M2FNUZ => "f8e5m2fnuz",
            DType::F4E2M1 => "f4e2m1",
            DType::I4 => "i4",
            DType::U4 => "u4",
            DType::I2 => "i2",
            DType::U2 => "u2",
            DType::Str => "str",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One instruction of a [`Size`] program; binary operations pop the right operand first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SizeOp {
    /// Pushes a number.
    Const(i64),
    /// Pushes the value of a free symbol, by its index in [`Plan::symbols`].
    Symbol(u32),
    /// Sum.
    Add,
    /// Difference.
    Sub,
    /// Product.
    Mul,
    /// Quotient rounded towards minus infinity.
    FloorDiv,
    /// Remainder of [`FloorDiv`](SizeOp::FloorDiv); it has the sign of the divisor.
    Mod,
    /// The greater of two.
    Max,
    /// The smaller of two.
    Min,
}

/// A size, extent or argument that may depend on free symbols; evaluated once per binding of the symbols.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Size {
    /// A plain number.
    Const(i64),
    /// A postfix program that leaves exactly one number.
    Expr(Vec<SizeOp>),
}

/// Why a [`Size`] has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// An intermediate result does not fit 64 bits.
    #[error("a size overflows 64 bits")]
    Overflow,
    /// Division or remainder by zero.
    #[error("a size divides by zero")]
    DivideByZero,
    /// The program pops an empty stack or does not leave exactly one number.
    #[error("a size is not a well-formed postfix program")]
    Malformed,
    /// The program names a symbol the plan does not have.
    #[error("a size names symbol {0}, which the plan does not have")]
    UnknownSymbol(u32),
}

impl Size {
    /// The size that is the symbol with this index and nothing else.
    pub fn symbol(index: u32) -> Size {
        Size::Expr(vec![SizeOp::Symbol(index)])
    }

    /// The number, if no symbol is needed to know it.
    pub fn as_const(&self) -> Option<i64> {
        match self {
            Size::Const(n) => Some(*n),
            Size::Expr(_) => self.eval(&[]).ok(),
        }
    }

    /// The symbol's index, if the size is a bare symbol. Such a dimension of an input binds the symbol.
    pub fn as_symbol(&self) -> Option<u32> {
        match self {
            Size::Expr(ops) => match ops[..] {
                [SizeOp::Symbol(index)] => Some(index),
                _ => None,
            },
            Size::Const(_) => None,
        }
    }

    /// The value for the given values of the symbols, in the order of [`Plan::symbols`].
    pub fn eval(&self, symbols: &[i64]) -> Result<i64, SizeError> {
        match self {
            Size::Const(n) => Ok(*n),
            Size::Expr(ops) => eval_postfix(ops, symbols),
        }
    }

    /// Checks that the program leaves exactly one number and names only the first `symbols` symbols.
    pub fn check(&self, symbols: usize) -> Result<(), SizeError> {
        let Size::Expr(ops) = self else { return Ok(()) };
        let mut depth = 0usize;
        for op in ops {
            match op {
                SizeOp::Symbol(index) if *index as usize >= symbols => {
                    return Err(SizeError::UnknownSymbol(*index));
                }
                SizeOp::Const(_) | SizeOp::Symbol(_) => depth += 1,
                _ if depth < 2 => return Err(SizeError::Malformed),
                _ => depth -= 1,
            }
        }
        if depth == 1 { Ok(()) } else { Err(SizeError::Malformed) }
    }

    /// The indices of the symbols the size depends on, with repetitions.
    pub fn symbols(&self) -> impl Iterator<Item = u32> + '_ {
        let ops: &[SizeOp] = match self {
            Size::Const(_) => &[],
            Size::Expr(ops) => ops,
        };
        ops.iter().filter_map(|op| match op {
            SizeOp::Symbol(index) => Some(*index),
            _ => None,
        })
    }
}

impl From<i64> for Size {
    fn from(n: i64) -> Size {
        Size::Const(n)
    }
}

fn eval_postfix(ops: &[SizeOp], symbols: &[i64]) -> Result<i64, SizeError> {
    let mut stack = Vec::with_capacity(ops.len().min(16));
    for op in ops {
        let value = match *op {
            SizeOp::Const(n) => n,
            SizeOp::Symbol(index) => *symbols.get(index as usize).ok_or(SizeError::UnknownSymbol(index))?,
            _ => {
                let rhs = stack.pop().ok_or(SizeError::Malformed)?;
                let lhs = stack.pop().ok_or(SizeError::Malformed)?;
                apply(*op, lhs, rhs)?
            }
        };
        stack.push(value);
    }
    match stack[..] {
        [value] => Ok(value),
        _ => Err(SizeError::Malformed),
    }
}

/// A binary operation on two numbers.
pub(crate) fn apply(op: SizeOp, lhs: i64, rhs: i64) -> Result<i64, SizeError> {
    if rhs == 0 && matches!(op, SizeOp::FloorDiv | SizeOp::Mod) {
        return Err(SizeError::DivideByZero);
    }
    let value = match op {
        SizeOp::Add => lhs.checked_add(rhs),
        SizeOp::Sub => lhs.checked_sub(rhs),
        SizeOp::Mul => lhs.checked_mul(rhs),
        SizeOp::FloorDiv => floor_div(lhs, rhs),
        SizeOp::Mod => floor_div(lhs, rhs).map(|quotient| lhs - quotient * rhs),
        SizeOp::Max => Some(lhs.max(rhs)),
        SizeOp::Min => Some(lhs.min(rhs)),
        SizeOp::Const(_) | SizeOp::Symbol(_) => None,
    };
    value.ok_or(SizeError::Overflow)
}

/// Quotient rounded towards minus infinity; `None` where it overflows (`i64::MIN / -1`).
fn floor_div(lhs: i64, rhs: i64) -> Option<i64> {
    let quotient = lhs.checked_div(rhs)?;
    let inexact = quotient * rhs != lhs;
    Some(if inexact && (lhs < 0) != (rhs < 0) { quotient - 1 } else { quotient })
}

/// Everything the runtime needs to know of a compiled model, apart from code and weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Name of the model's graph.
    pub model: String,
    /// Names of the free dimensions, in the order of [`SizeOp::Symbol`]. Each must be a bare dimension of some input.
    pub symbols: Vec<String>,
    /// The values that each symbol may have; empty where none was limited.
    pub ranges: Vec<Range>,
    /// The model's inputs, in the order of its graph.
    pub inputs: Vec<Port>,
    /// The model's outputs, in the order of its graph.
    pub outputs: Vec<Port>,
    /// Every array the kernels touch.
    pub buffers: Vec<Buffer>,
    /// The calls, in execution order.
    pub steps: Vec<Step>,
    /// The distinct compiled functions.
    pub kernels: Vec<KernelInfo>,
    /// Whether some kernel does the work of several ops.
    pub fused: bool,
    /// What has to hold of the free dimensions: the kernels rely on it.
    pub requirements: Vec<Requirement>,
    /// Names of the dimensions of outputs that are known only when the model has run. [`SizeOp::Symbol`] numbers them behind
    /// [`symbols`](Plan::symbols).
    pub found: Vec<String>,
    /// What runs in place of [`steps`](Plan::steps) where dimensions depend on data; its kernels are those of this plan.
    pub program: Option<Program>,
    /// The strings that constants hold, those of the program's stages among them.
    pub strings: Vec<String>,
}

impl Plan {
    /// The plans whose steps are walked: this one, or the stages of its program.
    pub fn walked(&self) -> &[Plan] {
        self.program.as_ref().map_or(std::slice::from_ref(self), |program| &program.stages)
    }

    /// Limits free dimensions to these ranges, by their names; all others may have any value.
    ///
    /// # Errors
    ///
    /// A sentence, if every dimension has a range and the model cannot run at the lower or at the upper ends of all.
    pub fn limit(&mut self, ranges: &BTreeMap<String, Range>) -> Result<(), String> {
        self.ranges = self.symbols.iter().map(|name| ranges.get(name).copied().unwrap_or(Range::ANY)).collect();
        if !self.ranges.iter().all(|range| range.is_bounded()) {
            return Ok(());
        }
        [|range: &Range| range.low, |range: &Range| range.high].into_iter().try_for_each(|end| {
            let symbols: Vec<i64> = self.ranges.iter().map(end).collect();
            check_requirements(self, &symbols).map_err(|problem| format!("{} {problem}", self.with(&symbols)))
        })
    }

    /// `the model cannot run with batch = 3:`.
    pub(crate) fn with(&self, symbols: &[i64]) -> String {
        let values: Vec<String> = self.symbols.iter().zip(symbols).map(|(name, value)| format!("{name} = {value}")).collect();
        format!("the model cannot run with {}:", values.join(", "))
    }

    /// How many steps are walked in a run in which every stage runs once.
    pub fn calls(&self) -> usize {
        self.walked().iter().map(|plan| plan.steps.len()).sum()
    }
}

/// A relation between sizes that has to hold, or the model cannot run for these values of its free dimensions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// The left side.
    pub left: Size,
    /// The right side.
    pub right: Size,
    /// Whether the sides have to be equal; else the left is to be at most the right.
    pub equal: bool,
    /// What needs it, and what it is, for messages: `` `slice` that makes `p` needs S <= 512 ``.
    pub text: String,
}

/// An input or output of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The name the model gives it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub dims: Vec<Size>,
    /// The extents as the user knows them, for messages: `batch`, `2*N + 1`, `784`. As many as [`dims`](Port::dims).
    pub dim_text: Vec<String>,
    /// Index of the buffer that holds it. An output may name any buffer: if that is not its own
    /// [`Place::Output`], its bytes are copied out after the last step (a model may return an input or a constant).
    pub buffer: u32,
}

impl fmt::Display for Port {
    /// Prints the type as in the textual IR: `f32[batch, 784]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.dtype, self.dim_text.join(", "))
    }
}

/// An array of bytes that kernels read or write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// Name of the value it holds, for reports.
    pub name: String,
    /// Its length in bytes.
    pub bytes: Size,
    /// Where it lives.
    pub place: Place,
}

/// Where a [`Buffer`] lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Place {
    /// In the scratch arena, at an offset that [`MemoryMap`](crate::memory::MemoryMap) chooses.
    Arena,
    /// In the scratch arena, once for each part of the one step that writes it: working memory that no other step sees.
    Private,
    /// The input with this index, used in place and never written.
    Input(u32),
    /// The output with this index, written in place.
    Output(u32),
    /// In the artifact's weights, read-only.
    Weights {
        /// Offset in bytes into the weights section, a multiple of [`ALIGN`].
        offset: u64,
    },
}

/// One call of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The value it computes, for profiles and messages.
    pub name: String,
    /// Index into [`Plan::kernels`].
    pub kernel: u32,
    /// Buffers read; the first entries of the kernel's pointer table.
    pub reads: Vec<u32>,
    /// Buffers written; the entries that follow.
    pub writes: Vec<u32>,
    /// The kernel's size arguments.
    pub sizes: Vec<Size>,
    /// The greatest useful number of parts; 1 or less means serial.
    pub parts: Size,
    /// `(read, written)` buffers that may share their bytes if the one read is not needed after this step.
    pub in_place: Option<(u32, u32)>,
    /// Floating-point operations of the call, for reports; 0 where it is not known.
    pub flops: Size,
    /// The ONNX nodes it came from.
    pub origins: Vec<String>,
}

/// A compiled function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelInfo {
    /// Its name, such as `k0`.
    pub name: String,
    /// Offset in bytes of its entry into the code section.
    pub offset: u64,
    /// What it computes, in the words of the kernel listing: `matmul · add · relu`.
    pub text: String,
    /// Hash of its kernel program: equal hash, equal code.
    pub hash: [u8; 32],
    /// What its operations are counted in.
    pub unit: Unit,
}

/// The instructions that most operations of a kernel run on, each with a peak of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Multiply-adds of f32.
    #[default]
    F32,
    /// Dot products of pairs of bf16, summed in f32.
    Bf16Pairs,
    /// Dot products of four bytes, summed in i32.
    ByteQuads,
}

#[cfg(test)]
mod tests {
    use super::*;
    use SizeOp::*;

    fn eval(ops: &[SizeOp], symbols: &[i64]) -> Result<i64, SizeError> {
        Size::Expr(ops.to_vec()).eval(symbols)
    }

    #[test]
    fn division_rounds_down_and_the_remainder_follows_the_divisor() {
        for (lhs, rhs, quotient, remainder) in [(7, 2, 3, 1), (-7, 2, -4, 1), (7, -2, -4, -1), (-7, -2, 3, -1), (6, 3, 2, 0)] {
            assert_eq!(eval(&[Const(lhs), Const(rhs), FloorDiv], &[]), Ok(quotient), "{lhs} / {rhs}");
            assert_eq!(eval(&[Const(lhs), Const(rhs), Mod], &[]), Ok(remainder), "{lhs} % {rhs}");
        }
    }

    #[test]
    fn every_operation_reads_its_operands_in_order() {
        let cases = [(Add, 10), (Sub, 4), (Mul, 21), (FloorDiv, 2), (Mod, 1), (Max, 7), (Min, 3)];
        for (op, expected) in cases {
            assert_eq!(eval(&[Symbol(1), Symbol(0), op], &[3, 7]), Ok(expected), "{op:?}");
        }
    }

    #[test]
    fn bad_programs_are_errors() {
        assert_eq!(eval(&[], &[]), Err(SizeError::Malformed));
        assert_eq!(eval(&[Const(1), Add], &[]), Err(SizeError::Malformed));
        assert_eq!(eval(&[Const(1), Const(2)], &[]), Err(SizeError::Malformed));
        assert_eq!(eval(&[Symbol(3)], &[1]), Err(SizeError::UnknownSymbol(3)));
        assert_eq!(eval(&[Const(1), Const(0), FloorDiv], &[]), Err(SizeError::DivideByZero));
        assert_eq!(eval(&[Const(1), Const(0), Mod], &[]), Err(SizeError::DivideByZero));
        for op in [FloorDiv, Mod] {
            assert_eq!(eval(&[Const(i64::MIN), Const(-1), op], &[]), Err(SizeError::Overflow));
        }
        assert_eq!(eval(&[Const(i64::MAX), Const(2), Mul], &[]), Err(SizeError::Overflow));
    }

    #[test]
    fn check_accepts_exactly_the_programs_that_evaluate() {
        let programs: [&[SizeOp]; 6] =
            [&[], &[Const(1)], &[Const(1), Add], &[Const(1), Const(2)], &[Symbol(0), Const(2), Mul], &[Symbol(1)]];
        for ops in programs {
            let size = Size::Expr(ops.to_vec());
            assert_eq!(size.check(1).err(), size.eval(&[5]).err(), "{ops:?}");
        }
    }

    #[test]
    fn bare_symbols_and_constants_are_recognised() {
        assert_eq!(Size::symbol(4).as_symbol(), Some(4));
        assert_eq!(Size::Expr(vec![Symbol(0), Const(1), Add]).as_symbol(), None);
        assert_eq!(Size::Expr(vec![Const(2), Const(3), Mul]).as_const(), Some(6));
        assert_eq!(Size::symbol(0).as_const(), None);
    }
}
