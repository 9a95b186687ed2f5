//! `matmul`: the product of matrices, vectors and batches of them.

use crate::dim::Dim;
use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::Number;
use crate::ops::strided::{Rows, broadcast_strides};
use crate::tensor::Tensor;
use crate::ty::{TensorType, broadcast};

/// x: [..., m, k], y: [..., k, n] -> [..., m, n]; an operand of rank 1 has no m or no n, and neither has the result.
///
/// # Errors
/// When the contracted extents differ, or the outer ones do not broadcast.
pub fn infer(operands: &[&TensorType]) -> Inferred {
    let [x, y] = [operands[0], operands[1]];
    check::number("x", x)?;
    check::same_dtype("y", y, x)?;
    let (outer_x, rows, inner_x) = split_left(&x.dims).ok_or_else(|| format!("expects `x` of rank 1 or more, found {x}"))?;
    let (outer_y, inner_y, columns) = split_right(&y.dims).ok_or_else(|| format!("expects `y` of rank 1 or more, found {y}"))?;
    check::agree(&format!("the contracted extents of {x} and {y}"), inner_x, inner_y)?;
    let outer = broadcast(&[outer_x, outer_y])?;
    Ok(vec![x.with_dims(outer.into_iter().chain(rows.cloned()).chain(columns.cloned()).collect())])
}

/// `[..., m, k]` into `...`, `m` if there is one, `k`.
fn split_left(dims: &[Dim]) -> Option<(&[Dim], Option<&Dim>, &Dim)> {
    match dims {
        [] => None,
        [k] => Some((&[], None, k)),
        [outer @ .., m, k] => Some((outer, Some(m), k)),
    }
}

/// `[..., k, n]` into `...`, `k`, `n` if there is one.
fn split_right(dims: &[Dim]) -> Option<(&[Dim], &Dim, Option<&Dim>)> {
    match dims {
        [] => None,
        [k] => Some((&[], k, None)),
        [outer @ .., k, n] => Some((outer, k, Some(n))),
    }
}

/// Sums over k in order, in f64 for floats.
pub fn eval(operands: &[&Tensor], results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let shape = check::allocatable(&results[0])?;
    let [x, y] = [operands[0], operands[1]];
    Ok(vec![if x.dtype().is_float() { multiply::<f64>(x, y, &shape) } else { multiply::<i128>(x, y, &shape) }])
}

fn multiply<T: Number>(x: &Tensor, y: &Tensor, shape: &[usize]) -> Tensor {
    let (outer_x, m) = match x.shape() {
        [_] => (&[][..], 1),
        s => (&s[..s.len() - 2], s[s.len() - 2]),
    };
    let (outer_y, k, n) = match y.shape() {
        [k] => (&[][..], *k, 1),
        s => (&s[..s.len() - 2], s[s.len() - 2], s[s.len() - 1]),
    };
    let inner = usize::from(x.shape().len() > 1) + usize::from(y.shape().len() > 1);
    let outer = &shape[..shape.len() - inner];
    let (xs, ys) = (T::read(x), T::read(y));
    let mut out = vec![T::ZERO; shape.iter().product()];
    let batches = Rows::new(outer, [&broadcast_strides(outer_x, outer), &broadcast_strides(outer_y, outer)]);
    let mut products = out.chunks_exact_mut((m * n).max(1));
    batches.for_each([0, 0], |at| {
        for i in 0..batches.length {
            let [bx, by] = [0, 1].map(|t| (at[t] + batches.step[t] * i as isize) as usize);
            if let Some(out) = products.next() {
                accumulate(&xs[bx * m * k..][..m * k], &ys[by * k * n..][..k * n], [m, k, n], out);
            }
        }
    });
    T::write(x.dtype(), shape, out)
}

/// Rows of `y` and columns of `out` that are worked on at a time: `ROWS * COLUMNS` elements of `y` stay in the cache while
/// all rows of `x` pass by. The order of a sum's terms does not depend on it.
const ROWS: usize = 64;
const COLUMNS: usize = 512;

/// out[m, n] += x[m, k] * y[k, n], the terms of each sum in the order of k.
pub fn accumulate<T: Number>(x: &[T], y: &[T], [m, k, n]: [usize; 3], out: &mut [T]) {
    for j in (0..n).step_by(COLUMNS) {
        let columns = j..n.min(j + COLUMNS);
        for l in (0..k).step_by(ROWS) {
            for i in 0..m {
                let row = &mut out[i * n..][columns.clone()];
                for l in l..k.min(l + ROWS) {
                    let factor = x[i * k + l];
                    row.iter_mut().zip(&y[l * n..][columns.clone()]).for_each(|(sum, &v)| *sum = sum.plus(factor.times(v)));
                }
            }
        }
    }
}
