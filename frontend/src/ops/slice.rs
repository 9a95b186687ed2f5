//! Operators that take parts of a tensor, or put one into a larger tensor.
//!
//! The IR's `slice` says where it starts and how many elements it takes; ONNX gives bounds that are clamped to the extent.
//! With symbolic extents the clamping is left out where the bound is meant to lie inside: a free extent is taken to be at
//! least 1, a negative bound to reach no further than the extent, and a symbolic bound to lie within a fixed extent. When
//! the symbols are bound to numbers, inference checks that the slice lies inside, so an assumption that does not hold is an
//! error and never a wrong result.

use crate::error::Code;
use crate::ops::elementwise::scalar;
use crate::ops::found;
use crate::site::{Outcome, Site, Stop, dim_help, fault, malformed};
use egret_ir::attr::PadMode;
use egret_ir::{DType, Dim, Element, Op, Tensor, ValueId};

/// Bounds beyond this mean "to the end"; exporters write the largest 32-bit or 64-bit integer.
const UNBOUNDED: i64 = i32::MAX as i64;

/// Bounds are inputs since opset 10, attributes before.
pub(crate) fn slice(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let dims = n.dims(x);
    let numbers = |list: Option<Vec<i64>>| list.unwrap_or_default().into_iter().map(Dim::from).collect::<Vec<Dim>>();
    if let Some(y) = slice_by_data(n, x)? {
        return Ok(vec![y]);
    }
    let (starts, ends, axes, steps) = if n.opset < 10 {
        (numbers(n.ints("starts")?), numbers(n.ints("ends")?), n.ints("axes")?, None)
    } else {
        let axes = n.optional(3).map(|_| n.numbers(3, "the axes")).transpose()?;
        let steps = n.optional(4).map(|_| n.numbers(4, "the steps")).transpose()?;
        (n.contents(1, "the start")?, n.contents(2, "the end")?, axes, steps)
    };
    let axes = n.axes("axes", &axes.unwrap_or_else(|| (0..starts.len() as i64).collect()), dims.len())?;
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return Err(malformed(Code::Shape, "`Slice` needs as many starts, ends, axes and steps"));
    }
    let mut start = vec![Dim::ZERO; dims.len()];
    let (mut shape, mut step) = (dims.clone(), vec![1; dims.len()]);
    for (i, &axis) in axes.iter().enumerate() {
        if steps[i] == 0 || steps[i].unsigned_abs() > UNBOUNDED as u64 {
            return Err(malformed(Code::Shape, format!("`Slice` has step {} on axis {axis}, expected another number", steps[i])));
        }
        (start[axis], shape[axis]) = range(&dims[axis], &starts[i], &ends[i], steps[i]);
        step[axis] = steps[i];
    }
    if shape == dims && step.iter().all(|s| *s == 1) {
        return Ok(vec![x]);
    }
    Ok(vec![n.op(Op::slice { start, shape, step }, &[x])?])
}

/// A part between bounds that data decides; `None` where they are known.
fn slice_by_data(n: &mut Site, x: ValueId) -> Result<Option<ValueId>, Stop> {
    let (Some(starts), Some(ends)) = (n.optional(1).filter(|_| n.opset >= 10), n.optional(2)) else { return Ok(None) };
    let known = [starts, ends].iter().all(|&bound| n.build.contents(bound).is_some());
    let count = n.ty(starts).count();
    if known || ![starts, ends].iter().all(|&bound| found::is_list(n, bound) && n.ty(bound).count() == count) {
        return Ok(None);
    }
    let count = count.as_const().unwrap_or(0);
    let axes = n.optional(3).map(|_| n.numbers(3, "the axes")).transpose()?;
    let axes = n.axes("axes", &axes.unwrap_or_else(|| (0..count).collect()), n.rank(x))?;
    let steps = n.optional(4).map(|_| n.numbers(4, "the steps")).transpose()?;
    let steps = steps.unwrap_or_else(|| vec![1; axes.len()]);
    let wrong = |s: &i64| *s == 0 || s.unsigned_abs() > UNBOUNDED as u64;
    if axes.len() as i64 != count || steps.len() != axes.len() || steps.iter().any(wrong) {
        return Err(malformed(Code::Shape, "`Slice` needs as many starts, ends, axes and steps, and no step of 0"));
    }
    let (mut shape, rank) = (n.dims(x), n.rank(x));
    let extents: Vec<Dim> = axes.iter().map(|&axis| shape[axis].clone()).collect();
    let [first, counts] = found::bounds(n, &extents, starts, ends, &steps)?;
    let (mut start, mut step) = (vec![Dim::ZERO; rank], vec![1; rank]);
    for (i, &axis) in axes.iter().enumerate() {
        (start[axis], shape[axis], step[axis]) = (first[i].clone(), counts[i].clone(), steps[i]);
    }
    n.op(Op::slice { start, shape, step }, &[x]).map(Some)
}

/// Where an axis slice starts and how many elements it has.
fn range(extent: &Dim, start: &Dim, end: &Dim, step: i64) -> (Dim, Dim) {
    let count = |length: Dim, step: i64| {
        let count = length.ceil_div(&Dim::from(step));
        if count.as_const().is_some() { count.maximum(&Dim::ZERO) } else { count }
    };
    if step > 0 {
        let (start, end) = (bound(start, extent, Dim::ZERO, extent), bound(end, extent, Dim::ZERO, extent));
        let count = count(end - start.clone(), step);
        (start, count)
    } else {
        let last = extent.clone() - 1;
        let (start, end) = (bound(start, extent, Dim::ZERO, &last), bound(end, extent, Dim::from(-1), &last));
        let count = count(start.clone() - end, -step);
        (start, count)
    }
}

/// A bound of an axis of this extent, counted from its start and held between `low` and `high`.
fn bound(at: &Dim, extent: &Dim, low: Dim, high: &Dim) -> Dim {
    match at.as_const() {
        Some(at) if at >= UNBOUNDED => high.clone(),
        Some(at) if at <= -UNBOUNDED => low,
        Some(at) if at < 0 => {
            let from_end = extent.clone() + at;
            if extent.as_const().is_some() { from_end.maximum(&low).minimum(high) } else { from_end }
        }
        // A free extent is at least 1.
        Some(at) if at <= 1 && extent.as_const().is_none() => Dim::from(at),
        Some(at) => Dim::from(at).minimum(high),
        None => {
            let negative = at.terms().iter().all(|t| t.coefficient < 0);
            let from_start = if negative { extent.clone() + at.clone() } else { at.clone() };
            let room = high.clone() - from_start.clone();
            // Known to lie inside, or taken to: only a bound known to lie outside is moved.
            if room.as_const().is_some_and(|r| r < 0) { high.clone() } else { from_start }
        }
    }
}

/// Sizes are an input since opset 13, an attribute before; `num_outputs` (opset 18) makes all but the last equal.
pub(crate) fn split(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let axis = n.axis_or(0, x)?;
    let extent = n.dims(x)[axis].clone();
    let given = if n.opset < 13 {
        n.ints("split")?.map(|list| list.into_iter().map(Dim::from).collect())
    } else {
        n.optional(1).map(|_| found::contents(n, 1, "the sizes of the parts")).transpose()?
    };
    let parts = n.output_count();
    if let Some(count) = n.int("num_outputs")?.filter(|count| usize::try_from(*count) != Ok(parts)) {
        return Err(n.refused("num_outputs", count, format!("`Split` has {parts} outputs, but `num_outputs` is {count}")));
    }
    let sizes: Vec<Dim> = given.unwrap_or_else(|| equal_parts(&extent, parts));
    if sizes.len() < n.output_count() {
        return Err(malformed(Code::Operand, format!("`Split` has {} outputs but {} sizes", n.output_count(), sizes.len())));
    }
    let total: Dim = sizes.iter().cloned().sum();
    if (total.clone() - extent.clone()).as_const().is_some_and(|d| d != 0) {
        return Err(malformed(Code::Shape, format!("the parts {sizes:?} make {total}, but axis {axis} of {} has {extent}", n.ty(x))));
    }
    let mut start = Dim::ZERO;
    let mut outputs = vec![];
    for (output, size) in sizes.into_iter().enumerate().take(n.output_count()) {
        outputs.push(if n.wants(output) { n.slice(x, axis, start.clone(), size.clone())? } else { x });
        start = start + size;
    }
    Ok(outputs)
}

/// Equal parts, of which the last one may be smaller.
fn equal_parts(extent: &Dim, parts: usize) -> Vec<Dim> {
    let size = extent.ceil_div(&Dim::from(parts.max(1)));
    let last = extent.clone() - size.clone() * (parts as i64 - 1);
    let mut sizes = vec![size; parts];
    if let Some(end) = sizes.last_mut() {
        *end = last;
    }
    sizes
}

/// Amounts are inputs since opset 11, attributes before; negative amounts cut off.
pub(crate) fn pad(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let rank = n.rank(x);
    let modes = [("constant", PadMode::Constant), ("reflect", PadMode::Reflect), ("edge", PadMode::Edge), ("wrap", PadMode::Wrap)];
    let mode = n.word("mode", "constant", &modes)?;
    let dtype = n.dtype(x);
    let (amounts, value) = if n.opset < 11 {
        let value = n.float_or("value", 0.0)?;
        (n.ints("pads")?.unwrap_or_default().into_iter().map(Dim::from).collect(), n.scalar(value, dtype))
    } else {
        let value = n.optional(2);
        let value = match value {
            Some(value) => scalar(n, value)?,
            None => n.scalar(0.0, dtype),
        };
        (found::contents(n, 1, "the amount of padding")?, value)
    };
    let axes = match n.optional(3) {
        Some(_) => n.axes("axes", &n.numbers(3, "the axes")?, rank)?,
        None => (0..rank).collect(),
    };
    if amounts.len() != 2 * axes.len() {
        return Err(malformed(Code::Shape, format!("`Pad` needs {} amounts, found {}", 2 * axes.len(), amounts.len())));
    }
    let (mut low, mut high) = (vec![Dim::ZERO; rank], vec![Dim::ZERO; rank]);
    for (i, &axis) in axes.iter().enumerate() {
        (low[axis], high[axis]) = (amounts[i].clone(), amounts[axes.len() + i].clone());
    }
    Ok(vec![padded(n, x, low, high, mode, value)?])
}

/// Cuts where an amount is negative, then pads where one is positive.
fn padded(n: &mut Site, x: ValueId, mut low: Vec<Dim>, mut high: Vec<Dim>, mode: PadMode, value: ValueId) -> Result<ValueId, Stop> {
    let mut x = x;
    for axis in 0..low.len() {
        let cut = |d: &mut Dim| if d.as_const().is_some_and(|c| c < 0) { -std::mem::replace(d, Dim::ZERO) } else { Dim::ZERO };
        let (before, behind) = (cut(&mut low[axis]), cut(&mut high[axis]));
        let left = n.dims(x)[axis].clone() - before.clone() - behind;
        x = n.slice(x, axis, before, left)?;
    }
    if low.iter().chain(&high).all(|d| d.is(0)) {
        return Ok(x);
    }
    n.op(Op::pad { low, high, mode }, &[x, value])
}

/// Cuts or zero-pads each axis around its middle, to the extents wanted.
pub(crate) fn center_crop_pad(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let (dims, wanted) = (n.dims(x), n.contents(1, "the shape")?);
    let axes = match n.ints("axes")? {
        Some(axes) => n.axes("axes", &axes, dims.len())?,
        None => (0..dims.len()).collect(),
    };
    if axes.len() != wanted.len() {
        return Err(malformed(Code::Shape, format!("`CenterCropPad` needs {} extents, found {}", axes.len(), wanted.len())));
    }
    let (mut low, mut high) = (vec![Dim::ZERO; dims.len()], vec![Dim::ZERO; dims.len()]);
    for (&axis, wanted) in axes.iter().zip(&wanted) {
        let grown = wanted.clone() - dims[axis].clone();
        let grown = grown.as_const().ok_or_else(|| symbolic_size(n, &grown))?;
        // An odd rest goes to the end, both when cutting and when padding.
        (low[axis], high[axis]) = (Dim::from(grown / 2), Dim::from(grown - grown / 2));
    }
    let zero = n.scalar(0.0, n.dtype(x));
    Ok(vec![padded(n, x, low, high, PadMode::Constant, zero)?])
}

fn symbolic_size(n: &Site, found: &Dim) -> Stop {
    fault(Code::DataDependent, format!("the size of `{}` must be a number, found {found}", n.operator), dim_help(&found.symbols()))
}

/// Keeps the part of each matrix on one side of diagonal `k`, and 0 elsewhere.
pub(crate) fn trilu(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let upper = n.int_or("upper", 1)? != 0;
    let dims = n.dims(x);
    let Some(outer) = dims.len().checked_sub(2) else {
        return Err(malformed(Code::Shape, format!("`Trilu` expects a matrix, found {}", n.ty(x))));
    };
    let matrix = dims[outer..].to_vec();
    let (row, column) = (n.iota(matrix.clone(), 0, DType::I64)?, n.iota(matrix, 1, DType::I64)?);
    let k = n.optional(1);
    let k = match k {
        Some(k) => scalar(n, k)?,
        None => n.build.constant(Tensor::scalar(DType::I64, Element::Int(0))),
    };
    let diagonal = n.op(Op::add, &[row, k])?;
    let kept = if upper { [diagonal, column] } else { [column, diagonal] };
    let kept = n.op(Op::le, &kept)?;
    let zero = n.scalar(0.0, n.dtype(x));
    Ok(vec![n.op(Op::select, &[kept, x, zero])?])
}
