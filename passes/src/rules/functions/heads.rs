//! Attention heads and the halves of rotary embeddings.

use crate::egraph::Value;
use egret_ir::Dim;

/// The second half of each row repeats the first.
pub fn twice(c: Value) -> bool {
    c.twice
}

/// It is known, and each element of its rows at an even place is followed by its equal.
pub fn paired(c: Value) -> bool {
    let (Some(data), Some(inner)) = (&c.data, c.ty.dims.last().and_then(Dim::as_const)) else { return false };
    let size = data.dtype().size();
    inner % 2 == 0 && data.bytes().chunks_exact(2 * size).all(|pair| pair[..size] == pair[size..])
}

/// `c`, a column of single elements, is broadcast to pairs that a reshape then joins to rows.
pub fn doubles(joined: Vec<Dim>, wide: Vec<Dim>, c: Value) -> bool {
    let (Some((half, outer)), Some((two, columns))) = (outer_parts(&c), wide.split_last()) else { return false };
    let rows = joined.split_last().is_some_and(|(inner, rest)| rest == outer && *inner == half.clone() * 2);
    two.is(2) && columns.split_last() == Some((half, outer)) && rows
}

/// The innermost extent but one, and those before it, where the innermost is 1.
fn outer_parts(c: &Value) -> Option<(&Dim, &[Dim])> {
    let (unit, outer) = c.ty.dims.split_last()?;
    outer.split_last().filter(|_| unit.is(1))
}

/// Slices at `low` and `high` are the first and the second half of the rows of `x`; `axis` is the innermost.
pub fn halves(axis: usize, low: Vec<Dim>, high: Vec<Dim>, shape: Vec<Dim>, step: Vec<i64>, x: Value) -> bool {
    let half = shape.last().cloned().unwrap_or(Dim::ONE);
    is_half(&shape, &step, &x, 1)
        && axis + 1 == x.ty.rank()
        && low.iter().all(|d| d.is(0))
        && high.split_last().is_some_and(|(at, outer)| *at == half && outer.iter().all(|d| d.is(0)))
}

/// Slices at `even` and `odd` take every other element of the rows of `x`; made into columns they are joined to pairs on
/// `axis`.
pub fn pairs(axis: usize, even: Vec<Dim>, odd: Vec<Dim>, shape: Vec<Dim>, step: Vec<i64>, column: Vec<Dim>, x: Value) -> bool {
    let columns = column.split_last().is_some_and(|(unit, outer)| unit.is(1) && outer == shape);
    is_half(&shape, &step, &x, 2)
        && columns
        && axis == x.ty.rank()
        && even.iter().all(|d| d.is(0))
        && odd.split_last().is_some_and(|(at, outer)| at.is(1) && outer.iter().all(|d| d.is(0)))
}

/// A slice of half of the elements of each row, so far apart.
fn is_half(shape: &[Dim], step: &[i64], x: &Value, apart: i64) -> bool {
    let (Some((half, outer)), Some((inner, before))) = (shape.split_last(), x.ty.dims.split_last()) else { return false };
    let rows = step.split_last().is_some_and(|(last, rest)| *last == apart && rest.iter().all(|&s| s == 1));
    rows && outer == before && half.clone() * 2 == *inner
}

/// The start of the first half of the rows of `c`.
pub fn half_start(c: Value) -> Option<Vec<Dim>> {
    Some(vec![Dim::from(0); c.ty.rank()])
}

/// The extents of that half.
pub fn half_shape(c: Value) -> Option<Vec<Dim>> {
    let (inner, outer) = c.ty.dims.split_last()?;
    Some([outer, &[inner.exact_div(&2.into())?]].concat())
}

/// Its steps.
pub fn half_step(c: Value) -> Option<Vec<i64>> {
    Some(vec![1; c.ty.rank()])
}

/// Steps that take every other element of a row.
pub fn even_step(c: Value) -> Option<Vec<i64>> {
    let mut step = half_step(c)?;
    *step.last_mut()? = 2;
    Some(step)
}

/// A reshape of `x` to `shape` joins all its axes but the two innermost into one.
pub fn joins_heads(shape: Vec<Dim>, x: Value) -> bool {
    let (Some((batch, inner)), Some((outer, matrix))) = (shape.split_first(), x.ty.dims.split_last_chunk::<2>()) else { return false };
    *batch == outer.iter().cloned().product::<Dim>() && inner == matrix
}

/// `x` and `y` have the same extents but for the two innermost.
pub fn same_heads(x: Value, y: Value) -> bool {
    let outer = |v: &Value| v.ty.dims.split_last_chunk::<2>().map(|(outer, _)| outer.to_vec());
    outer(&x).is_some() && outer(&x) == outer(&y)
}

/// `k`, `[batch, group, 1, n, d]`, is repeated to `wide` and joined to `[batch, heads, n, d]`.
pub fn repeats_heads(joined: Vec<Dim>, wide: Vec<Dim>, k: Value) -> bool {
    let ([b, g, times, n, d], [kb, kg, one, kn, kd]) = (wide.as_slice(), k.ty.dims.as_slice()) else { return false };
    let stays = [b, g, n, d] == [kb, kg, kn, kd] && one.is(1);
    stays && joined == [b.clone(), g.clone() * times.clone(), n.clone(), d.clone()]
}

/// `q`, `[batch, heads, m, d]`, in groups that share a head of `k`: `[batch, group, times, m, d]`.
pub fn in_groups(q: Value, wide: Vec<Dim>) -> Option<Vec<Dim>> {
    let ([b, h, m, d], [_, g, times, _, _]) = (q.ty.dims.as_slice(), wide.as_slice()) else { return None };
    (*h == g.clone() * times.clone()).then(|| [b, g, times, m, d].map(Dim::clone).to_vec())
}

/// The same for a mask of rank 4, with one entry per head or one for all.
pub fn mask_in_groups(mask: Value, wide: Vec<Dim>) -> Option<Vec<Dim>> {
    match mask.ty.dims.as_slice() {
        [b, one, m, n] if one.is(1) => Some([b, one, one, m, n].map(Dim::clone).to_vec()),
        _ => in_groups(mask, wide),
    }
}

/// The extents of attention of `q` to `v` with as many rows as `q`.
pub fn attended(q: Value, v: Value) -> Option<Vec<Dim>> {
    super::with_rows_of(q.ty.dims.clone(), v)
}
