//! `unique`: the different rows of a matrix.

use crate::dim::Dim;
use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::Number;
use crate::tensor::Tensor;
use crate::ty::{DType, TensorType};
use std::cmp::Ordering;

/// `x: [n, m] -> i64[count], i64[n], i64[count]`.
///
/// # Errors
/// When the operand is no matrix of i64, f64 or str.
pub fn infer(count: &Dim, _sorted: &bool, operands: &[&TensorType]) -> Inferred {
    let x = operands[0];
    check::rank("x", x, 2)?;
    check::extents("count", std::slice::from_ref(count))?;
    if !matches!(x.dtype, DType::I64 | DType::F64 | DType::Str) {
        return Err(format!("expects `x` of i64, f64 or str, found {x}"));
    }
    let list = |d: &Dim| TensorType::new(DType::I64, [d.clone()]);
    Ok(vec![list(count), list(&x.dims[0]), list(count)])
}

/// NaN equals NaN and stands above every number; strings are ordered by their bytes.
///
/// # Errors
/// When a handle stands for no string.
pub fn eval(_count: &Dim, sorted: &bool, operands: &[&Tensor], _results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let x = operands[0];
    let ranked;
    let x = if x.dtype() == DType::Str {
        ranked = ranks(x)?;
        &ranked
    } else {
        x
    };
    let groups = if x.dtype().is_float() { groups::<f64>(x, *sorted) } else { groups::<i128>(x, *sorted) };
    let mut inverse = vec![0; x.shape()[0]];
    for (number, group) in groups.iter().enumerate() {
        group.iter().for_each(|&row| inverse[row] = number as i64);
    }
    let list = |values: Vec<i64>| Tensor::from_i64s(vec![values.len()], &values);
    let first = groups.iter().map(|group| group[0] as i64).collect();
    Ok(vec![list(first), list(inverse), list(groups.iter().map(|group| group.len() as i64).collect())])
}

/// The place of each string among the different ones.
fn ranks(x: &Tensor) -> Result<Tensor, String> {
    let texts = x.texts()?;
    let order: std::collections::BTreeSet<_> = texts.iter().collect();
    let order: Vec<_> = order.into_iter().collect();
    let ranks: Vec<i64> = texts.iter().map(|text| order.partition_point(|other| *other < text) as i64).collect();
    Ok(Tensor::from_i64s(x.shape().to_vec(), &ranks))
}

/// The places of each different row, ascending.
fn groups<T: Number>(x: &Tensor, sorted: bool) -> Vec<Vec<usize>> {
    let (values, width) = (T::read(x), x.shape()[1]);
    let row = |at: usize| &values[at * width..][..width];
    let mut order: Vec<usize> = (0..x.shape()[0]).collect();
    // Stable: equal rows keep the order of their places.
    order.sort_by(|&a, &b| compare(row(a), row(b)));
    let mut groups: Vec<Vec<usize>> = vec![];
    for at in order {
        match groups.last_mut().filter(|group| compare(row(group[0]), row(at)).is_eq()) {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
    }
    if !sorted {
        groups.sort_by_key(|group| group[0]);
    }
    groups
}

fn compare<T: Number>(a: &[T], b: &[T]) -> Ordering {
    let pair = |(a, b): (&T, &T)| a.partial_cmp(b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
    a.iter().zip(b).map(pair).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}
