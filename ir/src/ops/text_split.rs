//! `text_split`: the parts of strings, side by side.

use crate::dim::Dim;
use crate::op::Inferred;
use crate::ops::{check, text};
use crate::tensor::Tensor;
use crate::ty::{DType, TensorType};
use std::sync::Arc;

/// `x: str[a...], delimiter: str[] -> str[a..., count], i64[a...]`.
///
/// # Errors
/// When an operand holds no strings.
pub fn infer(count: &Dim, _most: &i64, operands: &[&TensorType]) -> Inferred {
    let (x, delimiter) = (operands[0], operands[1]);
    text::string("x", x)?;
    text::string("delimiter", delimiter)?;
    check::rank("delimiter", delimiter, 0)?;
    check::extents("count", std::slice::from_ref(count))?;
    Ok(vec![TensorType::new(DType::Str, x.dims.iter().cloned().chain([count.clone()])), x.with_dtype(DType::I64)])
}

/// The parts, with empty strings behind those of strings that have fewer, and how many each string has.
///
/// # Errors
/// When the parts are too many to be held.
pub fn eval(_count: &Dim, most: &i64, operands: &[&Tensor], _results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let x = operands[0];
    let delimiter = operands[1].texts()?.concat();
    let parts: Vec<Vec<Arc<str>>> = x.texts()?.iter().map(|text| text::parts(text, &delimiter, *most)).collect();
    let counts: Vec<i64> = parts.iter().map(|parts| parts.len() as i64).collect();
    let width = parts.iter().map(Vec::len).max().unwrap_or(0);
    let shape = [x.shape(), &[width]].concat();
    check::allocatable(&TensorType::new(DType::Str, shape.iter().copied()))?;
    let rows = parts.into_iter().flat_map(|parts| parts.into_iter().chain(std::iter::repeat("".into())).take(width));
    let rows = Tensor::from_texts(shape, &rows.collect::<Vec<_>>())?;
    Ok(vec![rows, Tensor::from_i64s(x.shape().to_vec(), &counts)])
}
