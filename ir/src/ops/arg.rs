//! What [`super::arg_max`] and [`super::arg_min`] share.

use crate::dim::Dim;
use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::Number;
use crate::ops::strided::around;
use crate::tensor::{Element, Tensor};
use crate::ty::{DType, TensorType};

/// The axis becomes 1 and the elements i64.
///
/// # Errors
/// When there is no such axis, or it is empty.
pub fn infer(axis: usize, x: &TensorType) -> Inferred {
    check::number("x", x)?;
    check::axis(axis, x)?;
    if x.dims[axis].is(0) {
        return Err(format!("expects an axis with at least one element, found axis {axis} of {x}"));
    }
    let mut result = x.with_dtype(DType::I64);
    result.dims[axis] = Dim::ONE;
    Ok(vec![result])
}

/// The position of the largest or smallest element along `axis`; NaN counts as the one that is looked for.
pub fn eval(axis: usize, last: bool, largest: bool, x: &Tensor, result: &TensorType) -> Tensor {
    let positions = if x.dtype().is_float() { positions::<f64>(axis, last, largest, x) } else { positions::<i128>(axis, last, largest, x) };
    let shape = result.dims.iter().filter_map(|d| d.as_const()).map(|d| d as usize).collect();
    Tensor::from_elements(DType::I64, shape, positions.into_iter().map(|p| Element::Int(p as i128)))
}

fn positions<T: Number>(axis: usize, last: bool, largest: bool, x: &Tensor) -> Vec<usize> {
    let values = T::read(x);
    let (outer, extent, inner) = around(x.shape(), axis);
    let lanes = (0..outer).flat_map(|o| (0..inner).map(move |i| o * extent * inner + i));
    let best = |start: usize| {
        (1..extent).fold(0, |best, k| {
            let (v, b) = (values[start + k * inner], values[start + best * inner]);
            let better = !b.is_nan() && (v.is_nan() || if largest { v > b } else { v < b });
            let equal = v == b || v.is_nan() && b.is_nan();
            if better || last && equal { k } else { best }
        })
    };
    lanes.map(best).collect()
}
