//! Operators that read or write at indices.

use crate::ops::elementwise::scalar;
use crate::ops::found;
use crate::site::{Outcome, Site, Stop};
use egret_ir::attr::ScatterMode;
use egret_ir::{DType, Dim, Op, ValueId};

/// With one index that is known, it is a slice that loses its axis.
pub(crate) fn gather(n: &mut Site) -> Outcome {
    let (x, indices) = (n.input(0)?, n.input(1)?);
    let axis = n.axis_or(0, x)?;
    let dims = n.dims(x);
    if n.rank(indices) == 0
        && let Some(index) = n.build.contents(indices).and_then(|c| c[0].as_const())
        && let Some(start) = position(index, &dims[axis])
    {
        let part = n.slice(x, axis, start, Dim::ONE)?;
        let rest = dims.iter().enumerate().filter(|(a, _)| *a != axis).map(|(_, d)| d.clone());
        return Ok(vec![n.reshape(part, rest)?]);
    }
    Ok(vec![n.op(Op::gather { axis }, &[x, indices])?])
}

/// An index counted from the start, if it is known to be inside; 0 is inside of every free extent.
fn position(index: i64, extent: &Dim) -> Option<Dim> {
    match extent.as_const() {
        Some(extent) => (-extent..extent).contains(&index).then(|| Dim::from(if index < 0 { index + extent } else { index })),
        None => matches!(index, -1 | 0).then(|| if index < 0 { extent.clone() + index } else { Dim::ZERO }),
    }
}

pub(crate) fn gather_elements(n: &mut Site) -> Outcome {
    let (x, indices) = (n.input(0)?, n.input(1)?);
    let axis = n.axis_or(0, x)?;
    Ok(vec![n.op(Op::gather_elements { axis }, &[x, indices])?])
}

pub(crate) fn gather_nd(n: &mut Site) -> Outcome {
    let (x, indices) = (n.input(0)?, n.input(1)?);
    let batch = n.int_or("batch_dims", 0)?;
    let batch = usize::try_from(batch).map_err(|_| n.refused("batch_dims", batch, "`batch_dims` cannot be negative"))?;
    Ok(vec![n.op(Op::gather_nd { batch }, &[x, indices])?])
}

const MODES: [(&str, ScatterMode); 5] = [
    ("none", ScatterMode::Replace),
    ("add", ScatterMode::Add),
    ("mul", ScatterMode::Mul),
    ("max", ScatterMode::Max),
    ("min", ScatterMode::Min),
];

pub(crate) fn scatter_elements(n: &mut Site) -> Outcome {
    let operands = [n.input(0)?, n.input(1)?, n.input(2)?];
    let axis = n.axis_or(0, operands[0])?;
    let mode = n.word("reduction", "none", &MODES)?;
    Ok(vec![n.op(Op::scatter_elements { axis, mode }, &operands)?])
}

pub(crate) fn scatter_nd(n: &mut Site) -> Outcome {
    let operands = [n.input(0)?, n.input(1)?, n.input(2)?];
    let mode = n.word("reduction", "none", &MODES)?;
    Ok(vec![n.op(Op::scatter_nd { mode }, &operands)?])
}

/// `values[1]` where the position along a new axis is the index, else `values[0]`; an index outside matches nowhere.
pub(crate) fn one_hot(n: &mut Site) -> Outcome {
    let (indices, values) = (n.input(0)?, n.input(2)?);
    let depth = found::contents(n, 1, "the depth")?.into_iter().next().unwrap_or(Dim::ZERO);
    let rank = n.rank(indices) + 1;
    let axis = n.axis(n.int_or("axis", -1)?, rank)?;
    let indices = n.cast(indices, DType::I64)?;
    let extent = n.op(Op::dims { values: vec![depth.clone()] }, &[])?;
    let extent = scalar(n, extent)?;
    let negative = n.with_number(Op::lt, indices, 0.0)?;
    let from_end = n.op(Op::add, &[indices, extent])?;
    let indices = n.op(Op::select, &[negative, from_end, indices])?;
    let found = matches(n, indices, depth, axis)?;
    let value = |n: &mut Site, at: i64| {
        let part = n.slice(values, 0, Dim::from(at), Dim::ONE)?;
        scalar(n, part)
    };
    let (off, on) = (value(n, 0)?, value(n, 1)?);
    Ok(vec![n.op(Op::select, &[found, on, off])?])
}

/// Whether the position along a new axis is the index (i64).
pub(crate) fn matches(n: &mut Site, indices: ValueId, depth: Dim, axis: usize) -> Result<ValueId, Stop> {
    let mut dims = n.dims(indices);
    dims.insert(axis, Dim::ONE);
    let indices = n.reshape(indices, dims.clone())?;
    dims[axis] = depth;
    let position = n.iota(dims, axis, DType::I64)?;
    n.op(Op::eq, &[position, indices])
}

/// The first `lengths[b]` steps of sequence `b` come in reverse order, the others stay: an index per element.
pub(crate) fn reverse_sequence(n: &mut Site) -> Outcome {
    let (x, lengths) = (n.input(0)?, n.input(1)?);
    let rank = n.rank(x);
    let time = n.axis(n.int_or("time_axis", 0)?, rank)?;
    let batch = n.axis(n.int_or("batch_axis", 1)?, rank)?;
    let dims = n.dims(x);
    let mut per_batch = vec![Dim::ONE; rank];
    per_batch[batch] = dims[batch].clone();
    let lengths = n.cast(lengths, DType::I64)?;
    let lengths = n.reshape(lengths, per_batch)?;
    let step = n.iota(dims, time, DType::I64)?;
    let inside = n.op(Op::lt, &[step, lengths])?;
    let last = n.with_number(Op::sub, lengths, 1.0)?;
    let mirrored = n.op(Op::sub, &[last, step])?;
    let indices = n.op(Op::select, &[inside, mirrored, step])?;
    Ok(vec![n.op(Op::gather_elements { axis: time }, &[x, indices])?])
}
