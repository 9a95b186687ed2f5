//! The checks that type inference shares, each with its sentence.
//!
//! A sentence starts with "expects" and [`crate::Op::infer`] puts the op's name in front of it:
//! `` `concat` expects an axis below the rank, found axis 3 of f32[2, 3] ``.
//!
//! Symbols: two extents agree unless they are known to differ; see [`agreed`].

use crate::assume;
use crate::dim::Dim;
use crate::tensor::Element;
use crate::ty::{DType, TensorType, agreed};

/// The largest extent, offset or window parameter that an attribute may hold. Far above any real tensor, and small enough
/// that a product of two and a sum of some more fit an `i64`.
pub const LARGEST: i64 = 1 << 31;

/// The largest tensor that the reference evaluator makes, in bytes: a larger request is a mistake or an attack, and failing
/// to allocate would end the process instead of giving an error.
pub const LARGEST_TENSOR: usize = 1 << 33;

/// The extents as numbers, if a tensor of this type can be held.
///
/// # Errors
/// When an extent is symbolic or negative, or there are more than [`LARGEST_TENSOR`] bytes.
pub fn allocatable(ty: &TensorType) -> Result<Vec<usize>, String> {
    let shape = ty.static_dims().ok_or_else(|| format!("expects extents that are numbers, found {ty}"))?;
    // Zero extents do not hide the size of the others: strides are computed from them.
    let bytes = shape.iter().try_fold(ty.dtype.size(), |n, &d| n.checked_mul(d.max(1)));
    match bytes {
        Some(bytes) if bytes <= LARGEST_TENSOR => Ok(shape),
        _ => Err(format!("expects at most {LARGEST_TENSOR} bytes, found {ty}")),
    }
}

/// That no extent is a negative number and that the number of elements fits an `i64`.
pub fn sizes(ty: &TensorType) -> Result<(), String> {
    let numbers = ty.dims.iter().filter_map(Dim::as_const);
    if numbers.clone().any(|n| n < 0) {
        return Err(format!("expects extents of at least 0, found a result of type {ty}"));
    }
    let bytes = numbers.map(|n| n.max(1)).try_fold(ty.dtype.size() as i64, |p, n| p.checked_mul(n));
    bytes.map(drop).ok_or_else(|| format!("expects fewer elements, found a result of type {ty}"))
}

/// That an attribute's numbers lie between 0 and [`LARGEST`] (symbols are taken as they are).
pub fn extents(name: &str, dims: &[Dim]) -> Result<(), String> {
    match dims.iter().find(|d| d.as_const().is_some_and(|n| !(0..=LARGEST).contains(&n))) {
        Some(d) => Err(format!("expects `{name}` between 0 and {LARGEST}, found {d}")),
        None => Ok(()),
    }
}

/// That a list attribute has one entry per axis.
pub fn per_axis<T>(name: &str, list: &[T], axes: usize) -> Result<(), String> {
    if list.len() == axes { Ok(()) } else { Err(format!("expects `{name}` to have {axes} entries, found {}", list.len())) }
}

/// That `axis` is one of `x`.
pub fn axis(axis: usize, x: &TensorType) -> Result<(), String> {
    if axis < x.rank() { Ok(()) } else { Err(format!("expects an axis below the rank, found axis {axis} of {x}")) }
}

/// That the operand `name` has this rank.
pub fn rank(name: &str, x: &TensorType, rank: usize) -> Result<(), String> {
    if x.rank() == rank { Ok(()) } else { Err(format!("expects `{name}` of rank {rank}, found {x}")) }
}

/// That the operand `name` is of a float type.
pub fn float(name: &str, x: &TensorType) -> Result<(), String> {
    if x.dtype.is_float() && !x.dtype.is_storage() { Ok(()) } else { Err(format!("expects `{name}` of a float type, found {x}")) }
}

/// That the operand `name` is of an integer type.
pub fn integer(name: &str, x: &TensorType) -> Result<(), String> {
    if x.dtype.is_int() && !x.dtype.is_storage() { Ok(()) } else { Err(format!("expects `{name}` of an integer type, found {x}")) }
}

/// That the operand `name` is of a float or integer type.
pub fn number(name: &str, x: &TensorType) -> Result<(), String> {
    if x.dtype == DType::Bool || x.dtype.is_storage() {
        Err(format!("expects `{name}` of a float or integer type, found {x}"))
    } else {
        Ok(())
    }
}

/// That the operand `name` has the element type of the first operand.
pub fn same_dtype(name: &str, x: &TensorType, first: &TensorType) -> Result<(), String> {
    if x.dtype == first.dtype {
        Ok(())
    } else {
        Err(format!("expects `{name}` of element type {}, as the first operand has, found {x}", first.dtype))
    }
}

/// The extent that two equal extents have; see [`agreed`].
pub fn agree(what: &str, a: &Dim, b: &Dim) -> Result<Dim, String> {
    agreed(a, b).ok_or_else(|| format!("expects {what} to be equal, found {a} and {b}"))
}

/// Whether an extent is not known to be larger than another; it is then taken not to be.
pub fn may_be_at_most(a: &Dim, b: &Dim) -> bool {
    assume::at_most(a, b);
    (b.clone() - a.clone()).as_const().is_none_or(|spare| spare >= 0)
}

/// An extent that has to be a number.
pub fn fixed(what: &str, d: &Dim) -> Result<usize, String> {
    let n = d.as_const().filter(|n| (0..=LARGEST).contains(n));
    n.map(|n| n as usize).ok_or_else(|| format!("expects {what} to be a number, found {d}"))
}

/// That `indices` has the rank of `x` and is no larger on the axes other than `axis`.
pub fn within(axis: usize, name: &str, indices: &TensorType, x: &TensorType) -> Result<(), String> {
    rank(name, indices, x.rank())?;
    match (0..x.rank()).find(|&a| a != axis && !may_be_at_most(&indices.dims[a], &x.dims[a])) {
        Some(a) => Err(format!("expects `{name}` to be no larger than {x} on axis {a}, found {indices}")),
        None => Ok(()),
    }
}

/// The length of the index tuples in the innermost axis of `indices`.
pub fn tuple(indices: &TensorType) -> Result<usize, String> {
    let inner = indices.dims.last().ok_or_else(|| format!("expects `indices` of rank 1 or more, found {indices}"))?;
    fixed("the innermost extent of `indices`", inner)
}

/// An index read from data as a position in `0..extent`; a negative one counts from the end.
pub fn position(index: Element, extent: usize) -> Result<usize, String> {
    let (index, extent) = (index.as_int(), extent as i128);
    let position = if index < 0 { index + extent } else { index };
    if (0..extent).contains(&position) {
        Ok(position as usize)
    } else {
        Err(format!("expects indices between -{extent} and {extent}, found {index}"))
    }
}
