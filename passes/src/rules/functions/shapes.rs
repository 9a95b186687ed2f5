//! Reshapes that split and join axes, beside transposes, products and operands of rows.

use super::{permuted, unpermuted_axes};
use crate::egraph::Value;
use egret_ir::{Dim, ty};
use std::ops::Range;

/// The axes of `fine` that each axis of `coarse` is split into; none if `fine` does more than split.
fn parts(coarse: &[Dim], fine: &[Dim]) -> Option<Vec<Range<usize>>> {
    let mut parts = vec![];
    let mut at = 0;
    for extent in coarse {
        let start = at;
        let mut product = Dim::ONE;
        while product != *extent {
            product = product * fine.get(at)?.clone();
            at += 1;
        }
        parts.push(start..at);
    }
    // Axes of extent 1 at the end.
    let rest = fine[at..].iter().all(|d| d.is(1));
    let last: &mut Range<usize> = parts.last_mut().filter(|_| rest)?;
    last.end = fine.len();
    Some(parts)
}

fn gathered<T: Clone>(list: &[T], parts: &[Range<usize>], order: &[usize]) -> Option<Vec<T>> {
    let pieces = order.iter().map(|&i| list.get(parts.get(i)?.clone())).collect::<Option<Vec<_>>>()?;
    Some(pieces.concat())
}

/// The extents to split `x` to before a transpose, so that it stands for a reshape to `shape` after it.
pub fn split_shape(shape: Vec<Dim>, perm: Vec<usize>, x: Value) -> Option<Vec<Dim>> {
    let places = unpermuted_axes(&perm)?;
    gathered(&shape, &parts(&permuted(perm, x)?, &shape)?, &places)
}

/// The transpose of what [`split_shape`] has made.
pub fn split_perm(shape: Vec<Dim>, perm: Vec<usize>, x: Value) -> Option<Vec<usize>> {
    let parts = parts(&permuted(perm.clone(), x)?, &shape)?;
    let widths: Vec<usize> = unpermuted_axes(&perm)?.iter().map(|&place| parts[place].len()).collect();
    let start = |axis: usize| widths[..axis].iter().sum::<usize>();
    Some(perm.iter().flat_map(|&axis| start(axis)..start(axis) + widths[axis]).collect())
}

/// A reshape to `shape` after a transpose of `x` that splits an axis, and the transpose moves more than axes of extent 1.
pub fn splits(shape: Vec<Dim>, perm: Vec<usize>, x: Value) -> bool {
    let wide = |dims: &[Dim]| dims.iter().filter(|d| !d.is(1)).count();
    wide(&shape) > wide(&x.ty.dims) && moves_wide_axes(&perm, &x.ty.dims)
}

/// A transpose by `perm` of what has extents `shape` moves more than axes of extent 1.
pub fn moves_wide(perm: Vec<usize>, shape: Vec<Dim>) -> bool {
    moves_wide_axes(&perm, &shape)
}

fn moves_wide_axes(perm: &[usize], dims: &[Dim]) -> bool {
    let wide = perm.iter().filter(|&&axis| dims.get(axis).is_some_and(|d| !d.is(1)));
    !wide.is_sorted()
}

/// The transpose of `x` that does before a reshape to `shape`, which joins axes, what `perm` does after it.
pub fn joined_perm(perm: Vec<usize>, shape: Vec<Dim>, x: Value) -> Option<Vec<usize>> {
    let axes: Vec<usize> = (0..x.ty.rank()).collect();
    gathered(&axes, &parts(&shape, &x.ty.dims)?, &perm)
}

/// The extents `shape` after a transpose.
pub fn permuted_extents(perm: Vec<usize>, shape: Vec<Dim>) -> Option<Vec<Dim>> {
    perm.iter().map(|&axis| shape.get(axis).cloned()).collect()
}

/// A reshape to `shape` that leaves the rows as they are: the innermost extent stays.
pub fn keeps_rows(shape: Vec<Dim>, x: Value) -> bool {
    !shape.is_empty() && shape.last() == x.ty.dims.last()
}

/// It is one number, or one row: the same for all rows of what it meets.
pub fn row(c: Value) -> bool {
    c.ty.rank() <= 1 || c.ty.dims.iter().all(|d| d.is(1))
}

/// A matrix, the same for all matrices that are multiplied by it.
pub fn matrix(w: Value) -> bool {
    w.ty.rank() == 2
}

/// A permutation of matrices that leaves the innermost axis in its place.
pub fn keeps_innermost(perm: Vec<usize>) -> bool {
    perm.len() > 1 && perm.last() == Some(&(perm.len() - 1))
}

/// A reshape between tensors of matrices, not of one row alone.
pub fn keeps_matrices(shape: Vec<Dim>, x: Value) -> bool {
    shape.len() > 1 && x.ty.rank() > 1
}

/// The innermost axis alone.
pub fn innermost_axis(x: Value) -> Option<Vec<usize>> {
    Some(vec![x.ty.rank().checked_sub(1)?])
}

/// The axes are the last of `shape` alone.
pub fn is_last(axes: Vec<usize>, shape: Vec<Dim>) -> bool {
    axes.len() == 1 && axes[0] + 1 == shape.len()
}

/// The extents of all matrices, and of one.
fn matrices(dims: &[Dim]) -> Option<(&[Dim], &[Dim; 2])> {
    dims.split_last_chunk::<2>().filter(|(outer, _)| !outer.is_empty())
}

/// A reshape of the product of `x` and `y` to `shape` splits the axes of its batch, which neither is repeated along.
pub fn splits_batch(shape: Vec<Dim>, x: Value, y: Value) -> bool {
    let (Some((outer, [m, n])), Some((xo, [xm, _])), Some((yo, [_, yn]))) = (matrices(&shape), matrices(&x.ty.dims), matrices(&y.ty.dims))
    else {
        return false;
    };
    xo == yo && outer.len() > xo.len() && m == xm && n == yn
}

/// A reshape of `x` to `shape` joins the axes of its batch, those of what `y` is multiplied with.
pub fn joins_batch(shape: Vec<Dim>, x: Value, y: Value) -> bool {
    let (Some((outer, matrix)), Some((xo, of_x)), Some((yo, _))) = (matrices(&shape), matrices(&x.ty.dims), matrices(&y.ty.dims)) else {
        return false;
    };
    outer == yo && outer.len() < xo.len() && matrix == of_x
}

/// The extents of `y` with the batch of `shape`.
pub fn split_batch(shape: Vec<Dim>, y: Value) -> Option<Vec<Dim>> {
    Some([matrices(&shape)?.0, matrices(&y.ty.dims)?.1].concat())
}

/// The extents of `y` with the batch of `x`.
pub fn batch_of(x: Value, y: Value) -> Option<Vec<Dim>> {
    split_batch(x.ty.dims.clone(), y)
}

/// A reshape of what `x` and `y`, of different extents, broadcast to splits axes before the two innermost.
pub fn splits_outer(shape: Vec<Dim>, x: Value, y: Value) -> bool {
    let Some(both) = together(x.clone(), y.clone()) else { return false };
    let inner = matrices(&shape).zip(matrices(&both)).is_some_and(|((_, new), (_, old))| new == old);
    inner && shape.len() > both.len() && x.ty.dims != y.ty.dims
}

/// The extents of `x` for which it broadcasts with `y`, reshaped in the same way, to `shape`: each axis is split or stays of
/// extent 1.
pub fn reshaped_beside(shape: Vec<Dim>, x: Value, y: Value) -> Option<Vec<Dim>> {
    let both = together(x.clone(), y)?;
    let missing = both.len().checked_sub(x.ty.rank())?;
    let whole = |axis: usize| axis >= missing && x.ty.dims[axis - missing] == both[axis];
    let pieces = parts(&both, &shape)?.into_iter().enumerate().map(|(axis, part)| match whole(axis) {
        true => shape[part].to_vec(),
        false => vec![Dim::ONE; part.len()],
    });
    Some(pieces.flatten().collect())
}

/// The extents `shape` with rows as long as those of `x`.
pub fn with_rows_of(shape: Vec<Dim>, x: Value) -> Option<Vec<Dim>> {
    let (_, outer) = shape.split_last()?;
    Some([outer, &[x.ty.dims.last()?.clone()]].concat())
}

/// Both have the same extents.
pub fn same_extents(x: Value, y: Value) -> bool {
    x.ty.dims == y.ty.dims
}

/// The extents of what both broadcast to.
pub fn together(x: Value, y: Value) -> Option<Vec<Dim>> {
    ty::broadcast(&[&x.ty.dims, &y.ty.dims]).ok()
}

/// The extents of what all three broadcast to.
pub fn all_together(x: Value, y: Value, z: Value) -> Option<Vec<Dim>> {
    ty::broadcast(&[&x.ty.dims, &y.ty.dims, &z.ty.dims]).ok()
}

/// The two innermost axes exchanged.
pub fn swapped(x: Value) -> Option<Vec<usize>> {
    let mut perm: Vec<usize> = (0..x.ty.rank()).collect();
    let last = perm.len().checked_sub(2)?;
    perm.swap(last, last + 1);
    Some(perm)
}

/// A permutation that exchanges the two innermost axes, and no others.
pub fn swaps(perm: Vec<usize>, x: Value) -> bool {
    swapped(x) == Some(perm)
}

/// A reshape of `x` beside `y` that makes an axis of two of what is the one and what is the other, and nothing else.
pub fn splits_halves(shape: Vec<Dim>, axis: usize, x: Value, y: Value) -> bool {
    let mut apart = x.ty.dims.clone();
    apart.insert(axis.min(apart.len()), Dim::from(2));
    x.ty.dims == y.ty.dims && shape == apart
}

/// The extents of either half of what [`splits_halves`].
pub fn half_of(mut shape: Vec<Dim>, axis: usize) -> Option<Vec<Dim>> {
    *shape.get_mut(axis)? = Dim::ONE;
    Some(shape)
}

/// Where a permutation brings an axis.
pub fn axis_after(perm: Vec<usize>, axis: usize) -> Option<usize> {
    perm.iter().position(|&from| from == axis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(text: &str) -> Vec<Dim> {
        text.split(' ').map(|d| d.parse::<i64>().map_or_else(|_| Dim::symbol(d), Dim::from)).collect()
    }

    #[test]
    fn axes_are_split() {
        assert_eq!(parts(&dims("6 4"), &dims("2 3 4")), Some(vec![0..2, 2..3]));
        assert_eq!(parts(&dims("N 4"), &dims("N 1 4 1")), Some(vec![0..1, 1..4]));
        assert_eq!(parts(&dims("1 4"), &dims("4")), Some(vec![0..0, 0..1]));
        assert_eq!(parts(&[Dim::symbol("N") * 8, 3.into()], &dims("N 8 3")), Some(vec![0..2, 2..3]));
        assert_eq!(parts(&dims("4 6"), &dims("6 4")), None);
        assert_eq!(parts(&dims("4"), &dims("4 2")), None);
        assert_eq!(parts(&[], &dims("1")), None);
    }
}
