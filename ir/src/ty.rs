//! Element types and tensor types.

use crate::assume;
use crate::dim::{Bindings, Dim};
use crate::small::{Beyond, SmallFloat};
use std::fmt;

/// The type of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 16-bit signed integer.
    I16,
    /// 8-bit signed integer.
    I8,
    /// 64-bit unsigned integer.
    U64,
    /// 32-bit unsigned integer.
    U32,
    /// 16-bit unsigned integer.
    U16,
    /// 8-bit unsigned integer.
    U8,
    /// One byte, 0 or 1.
    Bool,
    /// 8-bit float: 4 bits of exponent, 3 of mantissa, NaN but no infinity (ONNX float8e4m3fn).
    F8E4M3,
    /// The same with another bias and without -0 (float8e4m3fnuz).
    F8E4M3FNUZ,
    /// 8-bit float: 5 bits of exponent, 2 of mantissa, the upper half of a binary16.
    F8E5M2,
    /// The same with another bias, without infinity and -0 (float8e5m2fnuz).
    F8E5M2FNUZ,
    /// 4-bit float: 2 bits of exponent, 1 of mantissa.
    F4E2M1,
    /// 4-bit signed integer.
    I4,
    /// 4-bit unsigned integer.
    U4,
    /// 2-bit signed integer.
    I2,
    /// 2-bit unsigned integer.
    U2,
    /// A string, as the 64-bit handle that stands for it; see [`strings`](crate::strings).
    Str,
}

impl DType {
    /// Every element type, in the order of the declaration.
    pub const ALL: [DType; 23] = {
        use DType::*;
        [
            F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, Bool, F8E4M3, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F4E2M1, I4, U4, I2,
            U2, Str,
        ]
    };

    /// Every type of numbers and truth values: all but strings.
    pub const NUMBERS: &'static [DType] = DType::ALL.split_at(22).0;

    /// The name in the textual IR: `f32`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::I16 => "i16",
            DType::I8 => "i8",
            DType::U64 => "u64",
            DType::U32 => "u32",
            DType::U16 => "u16",
            DType::U8 => "u8",
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

    /// The type of this name.
    pub fn named(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Bytes per element. Types of fewer bits than a byte take a whole one.
    pub fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 | DType::U64 | DType::Str => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
            DType::F8E4M3 | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F4E2M1 => 1,
            DType::I4 | DType::U4 | DType::I2 | DType::U2 => 1,
        }
    }

    /// Bits that say something.
    pub fn bits(self) -> usize {
        match self {
            DType::Bool => 1,
            DType::F4E2M1 | DType::I4 | DType::U4 => 4,
            DType::I2 | DType::U2 => 2,
            other => 8 * other.size(),
        }
    }

    /// The format of a float of 8 bits or less.
    pub fn small_float(self) -> Option<SmallFloat> {
        let (exponent, mantissa, bias, beyond) = match self {
            DType::F8E4M3 => (4, 3, 7, Beyond::Nan),
            DType::F8E4M3FNUZ => (4, 3, 8, Beyond::NanForMinusZero),
            DType::F8E5M2 => (5, 2, 15, Beyond::Infinity),
            DType::F8E5M2FNUZ => (5, 2, 16, Beyond::NanForMinusZero),
            DType::F4E2M1 => (2, 1, 1, Beyond::Nothing),
            _ => return None,
        };
        Some(SmallFloat { exponent, mantissa, bias, beyond })
    }

    /// Whether elements are only moved, selected, converted and compared for equality, and nothing is computed in the type.
    pub fn is_storage(self) -> bool {
        self.small_float().is_some() || self.is_int() && self.bits() < 8 || self == DType::Str
    }

    /// The type that is computed in: floats narrower than `f32` in `f32`.
    pub fn wide(self) -> DType {
        if self.is_float() && self.size() < 4 { DType::F32 } else { self }
    }

    /// The least and the largest number of an integer type.
    pub fn int_range(self) -> (i128, i128) {
        if self.is_signed_int() { (-(1 << (self.bits() - 1)), (1 << (self.bits() - 1)) - 1) } else { (0, (1 << self.bits()) - 1) }
    }

    /// A float type of any size.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::F16 | DType::BF16) || self.small_float().is_some()
    }

    /// A signed integer type.
    pub fn is_signed_int(self) -> bool {
        matches!(self, DType::I64 | DType::I32 | DType::I16 | DType::I8 | DType::I4 | DType::I2)
    }

    /// An unsigned integer type; `bool` is none.
    pub fn is_unsigned_int(self) -> bool {
        matches!(self, DType::U64 | DType::U32 | DType::U16 | DType::U8 | DType::U4 | DType::U2)
    }

    /// An integer type; `bool` is none.
    pub fn is_int(self) -> bool {
        self.is_signed_int() || self.is_unsigned_int()
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An element type and an extent per axis, row-major: `f32[N, 784]`; rank 0 is `f32[]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorType {
    /// The type of the elements.
    pub dtype: DType,
    /// The extents, outermost axis first.
    pub dims: Vec<Dim>,
}

impl TensorType {
    /// A tensor type from its parts.
    pub fn new(dtype: DType, dims: impl IntoIterator<Item = impl Into<Dim>>) -> TensorType {
        TensorType { dtype, dims: dims.into_iter().map(Into::into).collect() }
    }

    /// The rank-0 type.
    pub fn scalar(dtype: DType) -> TensorType {
        TensorType { dtype, dims: vec![] }
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// The number of elements.
    pub fn count(&self) -> Dim {
        self.dims.iter().cloned().product()
    }

    /// The extents as numbers, if none is symbolic.
    pub fn static_dims(&self) -> Option<Vec<usize>> {
        self.dims.iter().map(|d| usize::try_from(d.as_const()?).ok()).collect()
    }

    /// The same type with symbols replaced by numbers.
    pub fn bind(&self, bindings: &Bindings) -> TensorType {
        TensorType { dtype: self.dtype, dims: self.dims.iter().map(|d| d.bind(bindings)).collect() }
    }

    /// The same extents with another element type.
    pub fn with_dtype(&self, dtype: DType) -> TensorType {
        TensorType { dtype, dims: self.dims.clone() }
    }

    /// The same element type with other extents.
    pub fn with_dims(&self, dims: Vec<Dim>) -> TensorType {
        TensorType { dtype: self.dtype, dims }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.dims.iter().map(|d| d.to_string()).collect();
        write!(f, "{}[{}]", self.dtype, dims.join(", "))
    }
}

impl fmt::Debug for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The extent that two axes broadcast to (ONNX multidirectional broadcasting): one of them where the other is 1, else the
/// extent they agree on; see [`agreed`].
pub fn broadcast_dim(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a.as_const(), b.as_const()) {
        (Some(1), _) => Some(b.clone()),
        (_, Some(1)) => Some(a.clone()),
        _ => agreed(a, b),
    }
}

/// The extent that two extents, not known to differ, are taken to have both: the number if one is a number, else the one that
/// reads shorter, whichever comes first.
pub fn agreed(a: &Dim, b: &Dim) -> Option<Dim> {
    if (a.clone() - b.clone()).as_const().is_some_and(|difference| difference != 0) {
        return None;
    }
    let length = |d: &Dim| (d.as_const().is_none(), d.to_string().len(), d.to_string());
    let (simple, other) = if length(a) <= length(b) { (a, b) } else { (b, a) };
    assume::equal(other, simple);
    Some(simple.clone())
}

/// The extents that several shapes broadcast to, aligned at the innermost axis.
///
/// # Errors
/// Names the axis and both extents when two of them are neither equal nor 1.
pub fn broadcast(shapes: &[&[Dim]]) -> Result<Vec<Dim>, String> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![Dim::ONE; rank];
    for shape in shapes {
        for (axis, dim) in (rank - shape.len()..).zip(shape.iter()) {
            out[axis] =
                broadcast_dim(&out[axis], dim).ok_or_else(|| format!("extents {} and {dim} of axis {axis} do not broadcast", out[axis]))?;
        }
    }
    Ok(out)
}
