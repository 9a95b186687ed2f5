//! What hides scores: conditions, numbers, and triangles.

use crate::egraph::Value;
use egret_ir::{DType, Dim, Element, Real, Tensor};

/// Scores of this much less than the others weigh nothing in any type: `exp(-10000)` is zero.
const HIDING: f64 = -1e4;

/// A number this low takes in any score that is added to it, in any type.
const LOWEST: f64 = -1e30;

/// It is true everywhere.
pub fn always(c: Value) -> bool {
    c.splat == Some(Element::Bool(true))
}

/// It is false everywhere.
pub fn never(c: Value) -> bool {
    c.splat == Some(Element::Bool(false))
}

/// The number that a score is replaced by hides it. (An `f16` holds none that takes in what is added to it but -inf.)
pub fn hides(c: Value) -> bool {
    let low = |v: f64| v == f64::NEG_INFINITY || v <= HIDING && c.ty.dtype != DType::F16;
    c.ty.dtype.is_float() && c.splat.is_some_and(|v| low(v.as_f64()))
}

/// It is -inf.
pub fn hides_all(c: Real) -> bool {
    c.0 == f64::NEG_INFINITY
}

/// It is of an integer type.
pub fn integer(x: Value) -> bool {
    x.ty.dtype.is_int()
}

/// The element type of conditions.
pub fn condition(_: Value) -> Option<DType> {
    Some(DType::Bool)
}

/// A known mask by which row `i` of the scores of `q` and `k` sees the columns up to `i`.
pub fn triangle(mask: Value, q: Value, k: Value) -> bool {
    let (Some(data), Some(m), Some(n)) = (&mask.data, rows(&q), rows(&k)) else { return false };
    match mask.ty.dims.split_last_chunk::<2>() {
        Some((_, [rows, columns])) => rows == m && columns == n && is_triangle(data),
        None => false,
    }
}

fn is_triangle(mask: &Tensor) -> bool {
    let &[.., m, n] = mask.shape() else { return false };
    let seen = |e: Element| match e {
        Element::Bool(seen) => Some(seen),
        Element::Float(0.0) => Some(true),
        Element::Float(v) if v <= LOWEST => Some(false),
        Element::Float(_) | Element::Int(_) => None,
    };
    mask.elements().enumerate().all(|(at, e)| seen(e) == Some(at % n <= at / n % m))
}

/// How many rows a matrix has.
fn rows(x: &Value) -> Option<&Dim> {
    x.ty.dims.len().checked_sub(2).map(|i| &x.ty.dims[i])
}

/// `iota` over `axis` of `shape` counts the columns of the scores of `k`.
pub fn columns(shape: Vec<Dim>, axis: usize, k: Value) -> bool {
    axis + 1 == shape.len() && rows(&k) == shape.last()
}

/// `iota` over `axis` of `shape` counts the rows of the scores of `q`.
pub fn lines(shape: Vec<Dim>, axis: usize, q: Value) -> bool {
    axis + 2 == shape.len() && rows(&q) == shape.get(axis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triangles_are_seen() {
        let low = f32::NEG_INFINITY;
        let is = |shape: &[usize], values: &[f32]| is_triangle(&Tensor::from_f32s(shape.to_vec(), values));
        assert!(is(&[2, 2], &[0.0, low, 0.0, 0.0]));
        assert!(is(&[1, 2, 3], &[0.0, -3e38, low, 0.0, -0.0, low]));
        assert!(!is(&[2, 2], &[0.0, 0.0, low, 0.0]));
        assert!(!is(&[2, 2], &[0.0, -1e9, 0.0, 0.0]));
        assert!(!is(&[2, 2], &[0.0, low, 1.0, 0.0]));
    }
}
