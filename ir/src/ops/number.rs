//! What the reference evaluator computes with: `f64` for float tensors, wrapping `i128` for integer tensors.
//!
//! A tensor is read whole, computed on, and rounded to its element type once, when it is written.

use crate::tensor::{Element, Tensor};
use crate::ty::DType;
use bytes::Bytes;

/// `f64` or `i128`; the one that [`DType::is_float`] asks for.
pub trait Number: Copy + PartialOrd {
    /// Zero, the sum of none.
    const ZERO: Self;
    /// One, the product of none.
    const ONE: Self;
    /// The elements in row-major order.
    fn read(x: &Tensor) -> Vec<Self>;
    /// A tensor of these elements, each rounded to `dtype`.
    fn write(dtype: DType, shape: &[usize], values: Vec<Self>) -> Tensor;
    /// The sum.
    fn plus(self, other: Self) -> Self;
    /// The product.
    fn times(self, other: Self) -> Self;
    /// The larger; NaN if either is.
    fn larger(self, other: Self) -> Self;
    /// The smaller; NaN if either is.
    fn smaller(self, other: Self) -> Self;
    /// The quotient by a count; integers are truncated towards zero and give 0 for the count 0.
    fn over(self, count: usize) -> Self;
    /// What every number of `dtype` is at least (negative infinity for floats).
    fn lowest(dtype: DType) -> Self;
    /// What every number of `dtype` is at most (infinity for floats).
    fn highest(dtype: DType) -> Self;
    /// Whether it is not a number.
    fn is_nan(self) -> bool;
}

impl Number for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    fn read(x: &Tensor) -> Vec<f64> {
        let bytes = x.bytes();
        match x.dtype() {
            DType::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b).into()).collect(),
            DType::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
            _ => x.to_f64s(),
        }
    }
    fn write(dtype: DType, shape: &[usize], values: Vec<f64>) -> Tensor {
        match dtype {
            DType::F32 => {
                let mut data = vec![0; 4 * values.len()];
                data.as_chunks_mut().0.iter_mut().zip(values).for_each(|(b, v)| *b = (v as f32).to_le_bytes());
                sized(dtype, shape, data)
            }
            _ => Tensor::from_elements(dtype, shape.to_vec(), values.into_iter().map(Element::Float)),
        }
    }
    fn plus(self, other: f64) -> f64 {
        self + other
    }
    fn times(self, other: f64) -> f64 {
        self * other
    }
    fn larger(self, other: f64) -> f64 {
        if self.is_nan() || self > other { self } else { other }
    }
    fn smaller(self, other: f64) -> f64 {
        if self.is_nan() || self < other { self } else { other }
    }
    fn over(self, count: usize) -> f64 {
        self / count as f64
    }
    fn lowest(_: DType) -> f64 {
        f64::NEG_INFINITY
    }
    fn highest(_: DType) -> f64 {
        f64::INFINITY
    }
    fn is_nan(self) -> bool {
        f64::is_nan(self)
    }
}

impl Number for i128 {
    const ZERO: i128 = 0;
    const ONE: i128 = 1;
    fn read(x: &Tensor) -> Vec<i128> {
        x.elements().map(Element::as_int).collect()
    }
    fn write(dtype: DType, shape: &[usize], values: Vec<i128>) -> Tensor {
        Tensor::from_elements(dtype, shape.to_vec(), values.into_iter().map(Element::Int))
    }
    fn plus(self, other: i128) -> i128 {
        self.wrapping_add(other)
    }
    fn times(self, other: i128) -> i128 {
        self.wrapping_mul(other)
    }
    fn larger(self, other: i128) -> i128 {
        self.max(other)
    }
    fn smaller(self, other: i128) -> i128 {
        self.min(other)
    }
    fn over(self, count: usize) -> i128 {
        self.checked_div(count as i128).unwrap_or(0)
    }
    fn lowest(dtype: DType) -> i128 {
        dtype.int_range().0
    }
    fn highest(dtype: DType) -> i128 {
        dtype.int_range().1
    }
    fn is_nan(self) -> bool {
        false
    }
}

/// A tensor over bytes that were made for this shape.
pub fn sized(dtype: DType, shape: &[usize], data: Vec<u8>) -> Tensor {
    Tensor::new(dtype, shape.to_vec(), Bytes::from(data)).expect("as many bytes as the shape says")
}
