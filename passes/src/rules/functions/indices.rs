//! Slices, concats, gathers and counts: which elements they take.

use crate::egraph::Value;
use egret_ir::{Dim, ty};

/// A slice of a concat along `axis` that ends within its first part, `x`.
pub fn within(start: Vec<Dim>, shape: Vec<Dim>, step: Vec<i64>, axis: usize, x: Value) -> bool {
    let number = |list: &[Dim]| list.get(axis).and_then(Dim::as_const);
    let (Some(start), Some(count), Some(extent)) = (number(&start), number(&shape), number(&x.ty.dims)) else { return false };
    step.get(axis) == Some(&1) && start + count <= extent
}

/// A slice of a concat along `axis` that starts behind its first part, `x`, and goes on from there.
pub fn behind(start: Vec<Dim>, step: Vec<i64>, axis: usize, x: Value) -> bool {
    let past = start_behind(start, axis, x).and_then(|s| s[axis].as_const());
    step.get(axis).is_some_and(|&s| s > 0) && past.is_some_and(|s| s >= 0)
}

/// Where that slice starts in the second part.
pub fn start_behind(mut start: Vec<Dim>, axis: usize, x: Value) -> Option<Vec<Dim>> {
    let at = start.get_mut(axis)?;
    *at = at.clone() - x.ty.dims.get(axis)?.clone();
    Some(start)
}

/// The first index and the step of known indices into an axis of `x`, if they are evenly spaced within it.
fn run(x: &Value, axis: usize, indices: &Value) -> Option<(i64, i64)> {
    let extent = x.ty.dims.get(axis)?.as_const()?;
    let indices = indices.data.as_ref()?.to_i64s()?;
    let indices: Vec<i64> = indices.into_iter().map(|i| if i < 0 { i + extent } else { i }).collect();
    let first = *indices.first()?;
    let step = indices.get(1).map_or(1, |second| second - first);
    let even = indices.windows(2).all(|pair| pair[1] - pair[0] == step);
    (even && step != 0 && indices.iter().all(|i| (0..extent).contains(i))).then_some((first, step))
}

/// The start of the slice that takes the elements at evenly spaced indices.
pub fn run_start(x: Value, axis: usize, indices: Value) -> Option<Vec<Dim>> {
    let mut start = vec![Dim::from(0); x.ty.rank()];
    start[axis] = run(&x, axis, &indices)?.0.into();
    Some(start)
}

/// Its extents.
pub fn run_shape(x: Value, axis: usize, indices: Value) -> Option<Vec<Dim>> {
    let mut shape = x.ty.dims.clone();
    *shape.get_mut(axis)? = indices.ty.count();
    Some(shape)
}

/// Its steps.
pub fn run_step(x: Value, axis: usize, indices: Value) -> Option<Vec<i64>> {
    let mut step = vec![1; x.ty.rank()];
    step[axis] = run(&x, axis, &indices)?.1;
    Some(step)
}

/// The extents of a gather.
pub fn gathered_shape(x: Value, axis: usize, indices: Value) -> Option<Vec<Dim>> {
    let inner = x.ty.dims.get(axis + 1..)?;
    Some([&x.ty.dims[..axis], &indices.ty.dims, inner].concat())
}

/// Known indices that are evenly spaced along an axis of `x`.
pub fn evenly_spaced(x: Value, axis: usize, indices: Value) -> bool {
    run(&x, axis, &indices).is_some()
}

/// The index along an axis of `x`, if all indices are known to be the same one.
fn picked(x: &Value, axis: usize, indices: &Value) -> Option<i64> {
    let extent = x.ty.dims.get(axis)?.as_const()?;
    let index = i64::try_from(indices.splat?.as_int()).ok()?;
    let index = if index < 0 { index + extent } else { index };
    (0..extent).contains(&index).then_some(index)
}

/// Several indices, all of them the same.
pub fn picks_one(x: Value, axis: usize, indices: Value) -> bool {
    picked(&x, axis, &indices).is_some() && indices.ty.dims.iter().any(|d| !d.is(1))
}

/// The start of the slice of `x` that is picked.
pub fn picked_start(x: Value, axis: usize, indices: Value) -> Option<Vec<Dim>> {
    let mut start = vec![Dim::ZERO; x.ty.rank()];
    start[axis] = picked(&x, axis, &indices)?.into();
    Some(start)
}

/// Its extents.
pub fn picked_extents(x: Value, axis: usize) -> Option<Vec<Dim>> {
    let mut extents = x.ty.dims.clone();
    *extents.get_mut(axis)? = Dim::ONE;
    Some(extents)
}

/// Its steps.
pub fn picked_step(x: Value) -> Option<Vec<i64>> {
    Some(vec![1; x.ty.rank()])
}

/// Its extents with as many axes as the result of the gather has.
pub fn picked_shape(x: Value, axis: usize, indices: Value) -> Option<Vec<Dim>> {
    between(&x, axis, vec![Dim::ONE; indices.ty.rank()], x.ty.dims.clone())
}

/// `list`, one entry per axis of the indices of a gather, with those of the other axes of `x` around it.
fn between<T: Clone>(x: &Value, axis: usize, list: Vec<T>, around: Vec<T>) -> Option<Vec<T>> {
    let inner = around.get(axis + 1..).filter(|_| around.len() == x.ty.rank())?;
    Some([&around[..axis], &list, inner].concat())
}

/// Where a slice of the indices of a gather starts in its result.
pub fn start_between(x: Value, axis: usize, start: Vec<Dim>) -> Option<Vec<Dim>> {
    between(&x, axis, start, vec![Dim::ZERO; x.ty.rank()])
}

/// The extents of that slice.
pub fn shape_between(x: Value, axis: usize, shape: Vec<Dim>) -> Option<Vec<Dim>> {
    between(&x, axis, shape, x.ty.dims.clone())
}

/// Its steps.
pub fn step_between(x: Value, axis: usize, step: Vec<i64>) -> Option<Vec<i64>> {
    between(&x, axis, step, vec![1; x.ty.rank()])
}

/// The axis of `after` that is `axis` of `before`, where one is a reshape of the other that only adds or drops axes of
/// extent 1.
pub fn axis_after_units(after: Vec<Dim>, before: Vec<Dim>, axis: usize) -> Option<usize> {
    let wide = |dims: &[Dim]| -> Vec<usize> { (0..dims.len()).filter(|&i| !dims[i].is(1)).collect() };
    let (new, old) = (wide(&after), wide(&before));
    let place = old.iter().position(|&i| i == axis)?;
    let same = new.len() == old.len() && new.iter().zip(&old).all(|(&n, &o)| after[n] == before[o]);
    same.then(|| new[place])
}

/// The axis of a broadcast from `before` to `after` that was `axis`, whose extent stays.
pub fn axis_after_broadcast(after: Vec<Dim>, before: Vec<Dim>, axis: usize) -> Option<usize> {
    let place = after.len().checked_sub(before.len())? + axis;
    (after.get(place)? == before.get(axis)?).then_some(place)
}

/// Indices of extents `shape` count the rows of the matrix `x` along axis `i` and its columns along `j`.
pub fn takes_all(x: Value, shape: Vec<Dim>, i: usize, j: usize) -> bool {
    let others = (0..shape.len()).filter(|&axis| axis != i && axis != j).all(|axis| shape[axis].is(1));
    let extents = shape.get(i).zip(shape.get(j)).is_some_and(|(m, n)| x.ty.dims == [m.clone(), n.clone()]);
    i < j && others && extents
}

/// The matrix `x`, made flat by a reshape to `flat`, is read at `n` times the count along axis `i` of `t` plus the count along axis `j`
/// of `s`, which is row after row.
pub fn counts_all(x: Value, flat: Vec<Dim>, s: Vec<Dim>, j: usize, t: Vec<Dim>, i: usize, n: Vec<Dim>) -> bool {
    let (Ok(both), [rows, columns], [n]) = (ty::broadcast(&[&s, &t]), x.ty.dims.as_slice(), n.as_slice()) else { return false };
    let place = |shape: &[Dim], axis: usize| both.len() - shape.len() + axis;
    let is_flat = flat.first().is_some_and(|all| *all == rows.clone() * columns.clone()) && flat[1..].iter().all(|d| d.is(1));
    let counts = s.get(j) == Some(columns) && t.get(i) == Some(rows) && n == columns;
    let others = |(axis, d): (usize, &Dim)| axis == place(&s, j) || axis == place(&t, i) || d.is(1);
    is_flat && counts && place(&t, i) < place(&s, j) && both.iter().enumerate().all(others)
}

/// The extents of what is read so.
pub fn counted_shape(s: Vec<Dim>, t: Vec<Dim>, flat: Vec<Dim>) -> Option<Vec<Dim>> {
    Some([&ty::broadcast(&[&s, &t]).ok()?, flat.get(1..)?].concat())
}

/// Its rows have one element.
pub fn of_columns(x: Value) -> bool {
    x.ty.dims.last().is_some_and(|d| d.is(1))
}

/// All extents but the innermost.
pub fn outer(shape: Vec<Dim>) -> Option<Vec<Dim>> {
    Some(shape.split_last()?.1.to_vec())
}

/// The same of a tensor.
pub fn outer_of(x: Value) -> Option<Vec<Dim>> {
    outer(x.ty.dims.clone())
}

/// Known index tuples that name the elements of `x` one after the other, all of them.
pub fn enumerates(indices: Value, x: Value) -> bool {
    let (Some(data), Some(extents)) = (&indices.data, x.ty.static_dims()) else { return false };
    let (Some(tuples), rank) = (data.to_i64s(), extents.len()) else { return false };
    let stride = |axis: usize| extents[axis + 1..].iter().product::<usize>();
    let index = |at: usize, axis: usize| (at / stride(axis) % extents[axis]) as i64;
    let count: usize = extents.iter().product();
    rank > 0
        && data.shape().last() == Some(&rank)
        && tuples.len() == rank * count
        && tuples.iter().enumerate().all(|(i, &found)| found == index(i / rank, i % rank))
}
