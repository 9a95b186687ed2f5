//! The guards and attribute functions that rules name.
//!
//! A guard is a question about the variables of a rule; an attribute function computes an attribute of the right side.

use crate::egraph::Value;
use egret_ir::attr::Layout;
use egret_ir::{DType, Dim, Real};

mod heads;
mod indices;
mod masks;
mod shapes;
pub use heads::*;
pub use indices::*;
pub use masks::*;
pub use shapes::*;

// ---- guards on tensors

/// It is of a float type.
pub fn float(x: Value) -> bool {
    x.ty.dtype.is_float()
}

/// It is of a float or signed integer type.
pub fn signed(x: Value) -> bool {
    x.ty.dtype.is_float() || x.ty.dtype.is_signed_int()
}

/// It is known at compile time.
pub fn constant(x: Value) -> bool {
    x.constant
}

/// It is known at compile time, and adding it changes something. Without this a sum that is equal to itself plus zero would
/// take in zeros for ever.
pub fn shift(x: Value) -> bool {
    x.constant && x.splat.is_none_or(|v| v.as_f64() != 0.0)
}

/// It is known at compile time, and multiplying by it changes something.
pub fn scale(x: Value) -> bool {
    x.constant && x.splat.is_none_or(|v| v.as_f64() != 1.0)
}

/// It is known at compile time, and all elements have one value.
pub fn number(x: Value) -> bool {
    x.constant && x.splat.is_some()
}

/// A number other than the infinities and NaN: it does not make NaN of an empty sum.
pub fn finite(c: Real) -> bool {
    c.0.is_finite()
}

/// It is not a [`number`].
pub fn varied(x: Value) -> bool {
    !number(x)
}

/// It is one element, whatever its rank.
pub fn one_element(x: Value) -> bool {
    x.ty.dims.iter().all(|d| d.is(1))
}

/// Both have as many axes.
pub fn same_rank(x: Value, y: Value) -> bool {
    x.ty.rank() == y.ty.rank()
}

/// A float whose reciprocal is a normal number too, so that multiplying by it costs one rounding.
pub fn invertible(c: Value) -> bool {
    let normal = |v: f64| match c.ty.dtype {
        DType::F64 => v.is_normal(),
        DType::F32 | DType::BF16 => (v as f32).is_normal(),
        // The normal numbers of a binary16.
        DType::F16 => (2f64.powi(-14)..65520.0).contains(&v.abs()),
        _ => false,
    };
    number(c.clone()) && c.splat.is_some_and(|v| normal(v.as_f64()) && normal(1.0 / v.as_f64()))
}

/// `low <= high`, both numbers.
pub fn ordered(low: Real, high: Real) -> bool {
    low.0 <= high.0
}

/// Two ranges share a point: what is held in the first and then in the second is held in their intersection.
pub fn overlap(low1: Real, high1: Real, low2: Real, high2: Real) -> bool {
    low1.0.max(low2.0) <= high1.0.min(high2.0)
}

/// It is not negative.
pub fn at_least_zero(x: Real) -> bool {
    x.0 >= 0.0
}

/// `c` is one over the number of elements that a reduction over `axes` of `x` takes in.
pub fn one_over_count(c: Value, axes: Vec<usize>, x: Value) -> bool {
    let count: Dim = axes.iter().filter_map(|&a| x.ty.dims.get(a).cloned()).product();
    let (Some(count), Some(c)) = (count.as_const(), c.splat) else { return false };
    let wanted = egret_ir::Element::Float(1.0 / count as f64);
    count > 0 && (c == wanted.rounded(DType::F32) || c == wanted.rounded(x.ty.dtype))
}

// ---- guards on attributes

/// A permutation that moves nothing.
pub fn is_identity(perm: Vec<usize>) -> bool {
    perm.iter().enumerate().all(|(i, &axis)| i == axis)
}

/// A slice that starts at the first element and takes every one.
pub fn from_the_start(start: Vec<Dim>, step: Vec<i64>) -> bool {
    start.iter().all(|s| s.is(0)) && step.iter().all(|&s| s == 1)
}

/// A reshape to `shape` that only adds or drops axes of extent 1.
pub fn units_only(shape: Vec<Dim>, x: Value) -> bool {
    wide_axes(&shape).map(|(_, d)| d).eq(wide_axes(&x.ty.dims).map(|(_, d)| d))
}

/// A slice that takes the only element of every axis of extent 1 of `of`.
pub fn keeps_units(start: Vec<Dim>, shape: Vec<Dim>, of: Vec<Dim>) -> bool {
    start.len() == of.len() && shape.len() == of.len() && (0..of.len()).all(|i| !of[i].is(1) || start[i].is(0) && shape[i].is(1))
}

/// A permutation that leaves the axes of more than one element in their order: the data does not move.
pub fn moves_units_only(perm: Vec<usize>, x: Value) -> bool {
    let moved: Vec<usize> = perm.into_iter().filter(|&axis| x.ty.dims.get(axis).is_some_and(|d| !d.is(1))).collect();
    moved.is_sorted()
}

/// The axes of a reduction are the innermost axis alone.
pub fn innermost(axes: Vec<usize>, x: Value) -> bool {
    axes.len() == 1 && axes[0] + 1 == x.ty.rank()
}

/// A cast to `to` and from there on loses nothing that a cast of `x` in one step keeps.
pub fn holds(to: DType, x: Value) -> bool {
    match (x.ty.dtype, to) {
        (a, b) if a == b => true,
        (DType::F32, DType::F64) | (DType::F16 | DType::BF16, DType::F32 | DType::F64) => true,
        (DType::Bool, to) => to != DType::Bool,
        (a, b) if a.is_int() && b.is_int() => {
            let ((low, high), (least, most)) = (a.int_range(), b.int_range());
            least <= low && high <= most
        }
        _ => false,
    }
}

/// A cast of the integers `x` to the float `up`, and from there to `to`, comes back to what they were.
pub fn counted_there_and_back(up: DType, to: DType, x: Value) -> bool {
    let bytes = match up {
        DType::F32 => 2,
        DType::F64 => 4,
        _ => 0,
    };
    to == x.ty.dtype && to.is_int() && to.size() <= bytes
}

/// A cast of `x` to `to` keeps fewer bits.
pub fn narrows(to: DType, x: Value) -> bool {
    to.is_float() && x.ty.dtype.is_float() && to.size() < x.ty.dtype.size()
}

/// Sums of integers of the type of `x` wrap around as sums in `up`, cut down to `to`, do.
pub fn wraps_alike(up: DType, to: DType, x: Value) -> bool {
    to == x.ty.dtype && to.is_int() && up.is_int() && to.size() <= up.size()
}

/// A cast of `x` to `up` and, after something else, to `to` comes back to the type of `x`, through a wider one.
pub fn there_and_back(up: DType, to: DType, x: Value) -> bool {
    to == x.ty.dtype && narrows(to, Value::unknown(x.ty.with_dtype(up)))
}

/// The element type of `x`.
pub fn type_of(x: Value) -> Option<DType> {
    Some(x.ty.dtype)
}

/// A convolution without groups.
pub fn ungrouped(group: usize) -> bool {
    group == 1
}

// ---- attribute functions

/// `transpose[p](transpose[q](x))` is one transpose.
pub fn compose(p: Vec<usize>, q: Vec<usize>) -> Option<Vec<usize>> {
    p.iter().map(|&axis| q.get(axis).copied()).collect()
}

/// The axes of `x` that are `axes` of a transpose of it.
pub fn axes_before(axes: Vec<usize>, perm: Vec<usize>) -> Option<Vec<usize>> {
    let mut before = compose(axes, perm)?;
    before.sort_unstable();
    Some(before)
}

/// The extents after a transpose.
pub fn permuted(perm: Vec<usize>, x: Value) -> Option<Vec<Dim>> {
    perm.iter().map(|&axis| x.ty.dims.get(axis).cloned()).collect()
}

/// What stands for `list`, one entry per axis after a transpose, before it.
pub fn unpermuted(list: Vec<Dim>, perm: Vec<usize>) -> Option<Vec<Dim>> {
    spread(&list, &perm)
}

/// The same for steps.
pub fn unpermuted_steps(list: Vec<i64>, perm: Vec<usize>) -> Option<Vec<i64>> {
    spread(&list, &perm)
}

/// Where each axis stands after a transpose.
fn unpermuted_axes(perm: &[usize]) -> Option<Vec<usize>> {
    spread(&(0..perm.len()).collect::<Vec<_>>(), perm)
}

/// Entry `i` of `list` at position `perm[i]`.
fn spread<T: Clone>(list: &[T], perm: &[usize]) -> Option<Vec<T>> {
    let mut before: Vec<Option<T>> = vec![None; list.len()];
    for (entry, &axis) in list.iter().zip(perm) {
        *before.get_mut(axis)? = Some(entry.clone());
    }
    before.into_iter().collect()
}

/// The axes of other extents than 1.
fn wide_axes(dims: &[Dim]) -> impl Iterator<Item = (usize, &Dim)> {
    dims.iter().enumerate().filter(|(_, d)| !d.is(1))
}

/// What stands for `list`, one entry per axis of `shape`, before a reshape of `x` to `shape` that is [`units_only`]; axes
/// of extent 1 get `unit`.
pub fn through_units(list: Vec<Dim>, shape: Vec<Dim>, x: Value, unit: Dim) -> Option<Vec<Dim>> {
    carried(&list, &shape, &x, unit)
}

/// The same for steps; axes of extent 1 get step 1.
pub fn steps_through_units(list: Vec<i64>, shape: Vec<Dim>, x: Value) -> Option<Vec<i64>> {
    carried(&list, &shape, &x, 1)
}

fn carried<T: Clone>(list: &[T], shape: &[Dim], x: &Value, unit: T) -> Option<Vec<T>> {
    let mut before = vec![unit; x.ty.rank()];
    for ((after, _), (axis, _)) in wide_axes(shape).zip(wide_axes(&x.ty.dims)) {
        before[axis] = list.get(after)?.clone();
    }
    Some(before)
}

/// The start of a slice of a slice.
pub fn slice_start(outer: Vec<Dim>, inner: Vec<Dim>, inner_step: Vec<i64>) -> Option<Vec<Dim>> {
    let same = outer.len() == inner.len() && inner.len() == inner_step.len();
    same.then(|| inner.iter().zip(&outer).zip(&inner_step).map(|((i, o), s)| i.clone() + o.clone() * *s).collect())
}

/// The step of a slice of a slice.
pub fn slice_step(outer: Vec<i64>, inner: Vec<i64>) -> Option<Vec<i64>> {
    (outer.len() == inner.len()).then(|| inner.iter().zip(&outer).map(|(i, o)| i.checked_mul(*o)).collect())?
}

/// The shape that lets one number per output channel scale the weights of a convolution: `[out, 1, 1..]`, or `[out]` where
/// the channels stand last. None if `scale` varies along other axes of the result.
pub fn per_filter(scale: Value, weights: Value, layout: Layout) -> Option<Vec<Dim>> {
    let rank = weights.ty.rank();
    let (channel, filters) = match layout {
        Layout::First => (1, weights.ty.dims.first()?),
        Layout::Last => (rank - 1, weights.ty.dims.last()?),
    };
    let count = only_axis(&scale, channel, rank, filters)?;
    let mut shape = vec![Dim::ONE; rank];
    shape[if layout == Layout::First { 0 } else { rank - 1 }] = count;
    Some(shape)
}

/// The same for a transposed convolution without groups: `[1, out, 1..]`, or `[out]`.
pub fn per_filter_transposed(scale: Value, weights: Value, layout: Layout) -> Option<Vec<Dim>> {
    let rank = weights.ty.rank();
    let channel = if layout == Layout::First { 1 } else { rank - 1 };
    let count = only_axis(&scale, channel, rank, weights.ty.dims.get(channel)?)?;
    let mut shape = vec![Dim::ONE; rank];
    shape[channel] = count;
    Some(shape)
}

/// The shape that lets one number per column scale the right operand of a matrix product: `[n]`.
pub fn per_column(scale: Value, weights: Value) -> Option<Vec<Dim>> {
    let rank = scale.ty.rank().max(weights.ty.rank());
    only_axis(&scale, rank - 1, rank, weights.ty.dims.last()?).map(|n| vec![n])
}

/// The extent of `x` along `axis` of a result of rank `rank`, 1 or `full`, if it has extent 1 along every other axis.
fn only_axis(x: &Value, axis: usize, rank: usize, full: &Dim) -> Option<Dim> {
    let missing = rank.checked_sub(x.ty.rank())?;
    let others = x.ty.dims.iter().enumerate().filter(|(i, _)| i + missing != axis);
    let extent = axis.checked_sub(missing).map_or(Dim::ONE, |i| x.ty.dims[i].clone());
    (others.clone().all(|(_, d)| d.is(1)) && (extent.is(1) || extent == *full)).then_some(extent)
}
