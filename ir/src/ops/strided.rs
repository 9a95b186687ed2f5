//! Walks over row-major tensors by strides: the loops under the views, broadcasting and reductions of the evaluator.

use crate::ops::number::sized;
use crate::tensor::Tensor;

/// The distance in elements between neighbours along each axis of a row-major tensor.
pub fn strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis] as isize;
    }
    strides
}

/// The strides with which a tensor of `shape` is read as one of the larger shape `to`: 0 on repeated axes.
pub fn broadcast_strides(shape: &[usize], to: &[usize]) -> Vec<isize> {
    let outer = to.len() - shape.len();
    let own = shape.iter().zip(strides(shape)).map(|(&d, s)| if d == 1 { 0 } else { s });
    std::iter::repeat_n(0, outer).chain(own).collect()
}

/// Walks over an index space row by row. `row` gets the offsets of `N` tensors at a row's start; along the row each
/// advances by the last entry of its strides, [`Rows::length`] times.
pub struct Rows<const N: usize> {
    outer: Vec<(usize, [isize; N])>,
    /// The elements of a row.
    pub length: usize,
    /// The distance of neighbours in a row, per tensor.
    pub step: [isize; N],
}

impl<const N: usize> Rows<N> {
    /// A walk over `shape` in which tensor `i` has `strides[i]`. Axes are merged where all tensors allow it.
    pub fn new(shape: &[usize], strides: [&[isize]; N]) -> Rows<N> {
        let mut axes: Vec<(usize, [isize; N])> = vec![];
        for (axis, &extent) in shape.iter().enumerate().filter(|(_, d)| **d != 1) {
            let step = strides.map(|s| s[axis]);
            match axes.last_mut() {
                Some(last) if (0..N).all(|i| last.1[i] == step[i] * extent as isize) => *last = (last.0 * extent, step),
                _ => axes.push((extent, step)),
            }
        }
        let (length, step) = axes.pop().unwrap_or((1, [0; N]));
        Rows { outer: axes, length, step }
    }

    /// Calls `row` with the offsets at the start of each row, in row-major order.
    pub fn for_each(&self, start: [isize; N], mut row: impl FnMut([isize; N])) {
        if self.length == 0 || self.outer.iter().any(|(extent, _)| *extent == 0) {
            return;
        }
        let mut index = vec![0; self.outer.len()];
        let mut offsets = start;
        loop {
            row(offsets);
            let mut axis = self.outer.len();
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                let (extent, step) = self.outer[axis];
                index[axis] += 1;
                if index[axis] < extent {
                    (0..N).for_each(|i| offsets[i] += step[i]);
                    break;
                }
                (0..N).for_each(|i| offsets[i] -= step[i] * (extent as isize - 1));
                index[axis] = 0;
            }
        }
    }
}

/// The tensor of `shape` whose element at an index is the element of `x` at `base` plus the index times `strides`.
pub fn copy(x: &Tensor, shape: &[usize], base: isize, strides: &[isize]) -> Tensor {
    let data = match x.dtype().size() {
        1 => copy_bytes::<1>(x.bytes(), shape, base, strides),
        2 => copy_bytes::<2>(x.bytes(), shape, base, strides),
        4 => copy_bytes::<4>(x.bytes(), shape, base, strides),
        _ => copy_bytes::<8>(x.bytes(), shape, base, strides),
    };
    sized(x.dtype(), shape, data)
}

fn copy_bytes<const SIZE: usize>(data: &[u8], shape: &[usize], base: isize, strides: &[isize]) -> Vec<u8> {
    let elements: &[[u8; SIZE]] = data.as_chunks().0;
    let mut out = Vec::with_capacity(SIZE * shape.iter().product::<usize>());
    let rows = Rows::new(shape, [strides]);
    let step = rows.step[0];
    rows.for_each([base], |[at]| match step {
        1 => out.extend_from_slice(elements[at as usize..][..rows.length].as_flattened()),
        _ => (0..rows.length).for_each(|i| out.extend_from_slice(&elements[(at + step * i as isize) as usize])),
    });
    out
}

/// `x` with its axes of extent 1, and new outer axes, repeated up to `shape`.
pub fn broadcast(x: &Tensor, shape: &[usize]) -> Tensor {
    if x.shape() == shape {
        return x.clone();
    }
    copy(x, shape, 0, &broadcast_strides(x.shape(), shape))
}

/// `x` with its axes permuted: axis `i` of the result is axis `perm[i]` of `x`.
pub fn permute(x: &Tensor, perm: &[usize]) -> Tensor {
    let from = strides(x.shape());
    let shape: Vec<usize> = perm.iter().map(|&axis| x.shape()[axis]).collect();
    copy(x, &shape, 0, &perm.iter().map(|&axis| from[axis]).collect::<Vec<_>>())
}

/// Extents as seen from one axis: the product of the outer ones, its own, and the product of the inner ones.
pub fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

/// The next index of `shape` in row-major order; the first again after the last.
pub fn advance(index: &mut [usize], shape: &[usize]) {
    for (i, &extent) in index.iter_mut().zip(shape).rev() {
        *i += 1;
        if *i < extent {
            return;
        }
        *i = 0;
    }
}
