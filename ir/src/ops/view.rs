//! Evaluation of views: the element at an output index is the input element that `index` says.

use crate::dim::{Bindings, Dim};
use crate::op::Op;
use crate::ops::number::sized;
use crate::ops::strided;
use crate::tensor::Tensor;
use crate::ty::TensorType;
use std::sync::Arc;

/// The view of `x` with the extents of `result`.
///
/// # Errors
/// When an extent is symbolic, or the map leaves the input.
pub fn eval(op: &Op, x: &Tensor, result: &TensorType) -> Result<Tensor, String> {
    let shape = result.static_dims().ok_or_else(|| format!("expects extents that are numbers, found {result}"))?;
    if let Op::reshape { .. } = op {
        return x.reshaped(shape);
    }
    if shape.contains(&0) {
        return Ok(sized(x.dtype(), &shape, vec![]));
    }
    let map = Map::new(op, x, result)?;
    match map.affine() {
        Some((base, strides)) if inside(&shape, base, &strides, x.count()) => Ok(strided::copy(x, &shape, base, &strides)),
        _ => map.gather(x, &shape),
    }
}

/// The row-major input position as an expression in the output's indices.
struct Map {
    symbols: Vec<Arc<str>>,
    position: Dim,
}

impl Map {
    fn new(op: &Op, x: &Tensor, result: &TensorType) -> Result<Map, String> {
        let symbols: Vec<Arc<str>> = (0..result.rank()).map(|i| format!("i{i}").into()).collect();
        let index: Vec<Dim> = symbols.iter().map(|s| Dim::symbol(s.clone())).collect();
        let input = x.ty().dims;
        let index = op.view_index(&input, &result.dims, &index).ok_or_else(|| format!("expects a view, found `{}`", op.name()))?;
        let position = index.iter().zip(&input).fold(Dim::ZERO, |p, (i, d)| p * d.clone() + i.clone());
        Ok(Map { symbols, position })
    }

    /// Base and strides, if the position is affine in the indices.
    fn affine(&self) -> Option<(isize, Vec<isize>)> {
        let mut rest = self.position.clone();
        let mut strides = vec![];
        for symbol in &self.symbols {
            let (coefficient, without) = rest.linear_in(symbol)?;
            strides.push(coefficient.as_const()? as isize);
            rest = without;
        }
        Some((rest.as_const()? as isize, strides))
    }

    /// Element by element, whatever the map is.
    fn gather(&self, x: &Tensor, shape: &[usize]) -> Result<Tensor, String> {
        let mut bindings: Bindings = self.symbols.iter().map(|s| (s.clone(), 0)).collect();
        let size = x.dtype().size();
        let mut data = vec![];
        for i in 0..shape.iter().product() {
            let mut rest = i;
            for (symbol, &extent) in self.symbols.iter().zip(shape).rev() {
                bindings.insert(symbol.clone(), (rest % extent) as i64);
                rest /= extent;
            }
            let position = self.position.eval(&bindings).and_then(|p| usize::try_from(p).ok()).filter(|p| *p < x.count());
            let at = position.ok_or_else(|| format!("expects a position inside of {:?}, found {}", x.ty(), self.position))?;
            data.extend_from_slice(&x.bytes()[at * size..][..size]);
        }
        Ok(sized(x.dtype(), shape, data))
    }
}

/// Whether every position of an affine map lies in `0..count`.
fn inside(shape: &[usize], base: isize, strides: &[isize], count: usize) -> bool {
    let reach = |wanted: fn(isize) -> bool| -> isize {
        shape.iter().zip(strides).filter(|(_, s)| wanted(**s)).map(|(&d, s)| (d as isize - 1) * s).sum()
    };
    base + reach(|s| s < 0) >= 0 && base + reach(|s| s > 0) < count as isize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Kind;
    use crate::ops::samples;

    /// Checks evaluation against the map itself, element by element.
    #[track_caller]
    fn check(op: &Op, shape: &[usize]) {
        let count: usize = shape.iter().product();
        let x = Tensor::from_i64s(shape.to_vec(), &(0..count as i64).collect::<Vec<_>>());
        let result = op.infer(&[&x.ty()]).unwrap().remove(0);
        let by_map = Map::new(op, &x, &result).unwrap().gather(&x, &result.static_dims().unwrap()).unwrap();
        assert_eq!(eval(op, &x, &result).unwrap(), by_map, "{op:?} of {shape:?}");
    }

    #[test]
    fn evaluation_agrees_with_the_index() {
        for sample in samples::samples().iter().filter(|g| g.nodes()[0].op.def().kind == Kind::View) {
            let bound = sample.bind(&samples::bindings()).unwrap();
            check(&bound.nodes()[0].op, &bound.ty(bound.params()[0]).static_dims().unwrap());
        }
        check(&Op::transpose { perm: vec![1, 3, 0, 2] }, &[2, 3, 4, 5]);
        check(&Op::broadcast { shape: [3, 2, 4, 5].map(Dim::from).to_vec() }, &[2, 1, 5]);
        check(&Op::slice { start: [3, 1].map(Dim::from).to_vec(), shape: [2, 2].map(Dim::from).to_vec(), step: vec![-2, 3] }, &[4, 5]);
        check(&Op::slice { start: vec![Dim::ZERO], shape: vec![Dim::ZERO], step: vec![1] }, &[0]);
    }

    #[test]
    fn reshapes_of_every_factorisation_agree_with_the_index() {
        let shapes: [&[usize]; 10] =
            [&[24], &[2, 12], &[12, 2], &[4, 6], &[6, 4], &[2, 3, 4], &[4, 3, 2], &[1, 8, 3], &[3, 1, 8, 1], &[2, 2, 2, 3]];
        for (from, to) in shapes.iter().flat_map(|a| shapes.iter().map(move |b| (a, b))) {
            check(&Op::reshape { shape: to.iter().map(|&d| Dim::from(d)).collect() }, from);
        }
    }

    #[test]
    fn the_fast_path_is_taken() {
        let x = Tensor::from_i64s(vec![2, 3], &[0; 6]);
        let op = Op::transpose { perm: vec![1, 0] };
        let map = Map::new(&op, &x, &op.infer(&[&x.ty()]).unwrap()[0]).unwrap();
        assert_eq!(map.affine(), Some((0, vec![1, 3])));
    }
}
