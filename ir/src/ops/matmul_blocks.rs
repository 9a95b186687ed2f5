//! `matmul_blocks`: a product with a matrix of small integers that have a scale and a zero point for each block of rows.
//!
//! ```text
//! matmul_blocks[block=32](x, q, zero, scale) = matmul(x, w),   w[k, n] = (q[k, n] - zero[k / 32, n]) * scale[k / 32, n]
//! ```
//!
//! A weight is rounded to f32 once, as where it is computed by ops of its own. The last block may be cut off.

use crate::dim::Dim;
use crate::op::Inferred;
use crate::ops::{check, matmul};
use crate::tensor::Tensor;
use crate::ty::{DType, TensorType};

/// x: f32[..., k], q: [k, n] of integers of a byte or less, zero: i8[b, n], scale: f32[b, n] -> f32[..., n], where b is k / block, rounded
/// up. What is one number for all of an axis may have the extent 1 there.
///
/// # Errors
/// When a type or an extent is another.
pub fn infer(block: &usize, operands: &[&TensorType]) -> Inferred {
    let [x, q, zero, scale] = [operands[0], operands[1], operands[2], operands[3]];
    if *block == 0 {
        return Err("expects `block` of at least 1, found 0".to_string());
    }
    let has_types =
        x.dtype == DType::F32 && q.dtype.is_int() && q.dtype.size() == 1 && zero.dtype == DType::I8 && scale.dtype == DType::F32;
    if !has_types {
        return Err(format!(
            "expects x: f32, q of integers of a byte or less, zero: i8 and scale: f32, found {x}, {q}, {zero} and {scale}"
        ));
    }
    let [k, n] = &q.dims[..] else { return Err(format!("expects `q` of rank 2, found {q}")) };
    let Some((inner, outer)) = x.dims.split_last() else { return Err(format!("expects `x` of rank 1 or more, found {x}")) };
    check::agree(&format!("the contracted extents of {x} and {q}"), inner, k)?;
    let blocks = k.ceil_div(&Dim::from(*block));
    let fits = |ty: &TensorType| matches!(&ty.dims[..], [b, c] if (b.is(1) || *b == blocks) && (c.is(1) || c == n));
    match [zero, scale].into_iter().find(|ty| !fits(ty)) {
        Some(ty) => Err(format!("expects one number for each {block} rows of each column of {q}, found {ty}")),
        None => Ok(vec![x.with_dims(outer.iter().chain([n]).cloned().collect())]),
    }
}

/// Sums over k in order, in f64.
pub fn eval(block: &usize, operands: &[&Tensor], results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let weights = weights(*block, operands[1], operands[2], operands[3]);
    matmul::eval(&[operands[0], &weights], results)
}

/// The matrix that is multiplied by: f32[k, n].
pub fn weights(block: usize, q: &Tensor, zero: &Tensor, scale: &Tensor) -> Tensor {
    let n = q.shape()[1];
    let (zeros, scales) = (zero.to_f64s(), scale.to_f64s());
    let of = |values: &[f64], shape: &[usize], at: usize| {
        let row = if shape[0] == 1 { 0 } else { at / n / block };
        values[row * shape[1] + if shape[1] == 1 { 0 } else { at % n }]
    };
    let weight = |(at, q): (usize, f64)| ((q - of(&zeros, zero.shape(), at)) * of(&scales, scale.shape(), at)) as f32;
    let weights: Vec<f32> = q.to_f64s().into_iter().enumerate().map(weight).collect();
    Tensor::from_f32s(q.shape().to_vec(), &weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Element;

    fn bytes(dtype: DType, shape: [usize; 2], values: &[i128]) -> Tensor {
        Tensor::from_elements(dtype, shape.to_vec(), values.iter().map(|&v| Element::Int(v)))
    }

    #[test]
    fn blocks_of_rows_share_a_scale() {
        let q = bytes(DType::I4, [3, 2], &[1, 2, 3, 4, 5, 6]);
        let scale = Tensor::from_f32s(vec![2, 2], &[1.0, 10.0, 0.5, 100.0]);
        let each = bytes(DType::I8, [2, 2], &[0, 1, 2, 3]);
        assert_eq!(weights(2, &q, &each, &scale).to_f64s(), [1.0, 10.0, 3.0, 30.0, 1.5, 300.0]);
        let one = bytes(DType::I8, [1, 1], &[1]);
        assert_eq!(weights(2, &q, &one, &scale).to_f64s(), [0.0, 10.0, 2.0, 30.0, 2.0, 500.0]);
    }

    #[test]
    fn weights_are_rounded_once() {
        let scale = 0.1f32;
        let w = weights(4, &bytes(DType::I8, [1, 1], &[3]), &bytes(DType::I8, [1, 1], &[-4]), &Tensor::from_f32s(vec![1, 1], &[scale]));
        assert_eq!(w.to_f64s(), [f64::from(7.0 * scale)]);
    }

    #[test]
    fn wrong_operands_are_named() {
        let ty =
            |text: &str| crate::text::parse(&format!("graph g(x: {text}) {{ return x }}")).map(|g| g.ty(g.params()[0]).clone()).unwrap();
        let message = |block: usize, types: [&str; 4]| {
            let types = types.map(ty);
            infer(&block, &types.iter().collect::<Vec<_>>()).unwrap_err()
        };
        let right = ["f32[N, 6]", "i4[6, 5]", "i8[2, 5]", "f32[2, 5]"];
        assert!(message(0, right).contains("`block`"));
        assert!(message(3, ["f32[N, 7]", right[1], right[2], right[3]]).contains("contracted"));
        assert!(message(3, [right[0], right[1], right[2], "f32[3, 5]"]).contains("each 3 rows"));
        assert!(message(3, [right[0], "i16[6, 5]", right[2], right[3]]).contains("a byte or less"));
    }
}
