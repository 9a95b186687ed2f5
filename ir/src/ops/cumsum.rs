//! `cumsum`: the running sum along an axis.

use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::Number;
use crate::ops::strided::around;
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// The type stays.
///
/// # Errors
/// When there is no such axis, or the elements are no numbers.
pub fn infer(axis: &usize, _exclusive: &bool, _reverse: &bool, operands: &[&TensorType]) -> Inferred {
    check::number("x", operands[0])?;
    check::axis(*axis, operands[0])?;
    Ok(vec![operands[0].clone()])
}

/// The sums, each rounded once.
pub fn eval(axis: &usize, exclusive: &bool, reverse: &bool, operands: &[&Tensor], _results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let x = operands[0];
    let sums = if x.dtype().is_float() { run::<f64> } else { run::<i128> };
    Ok(vec![sums(*axis, *exclusive, *reverse, x)])
}

fn run<T: Number>(axis: usize, exclusive: bool, reverse: bool, x: &Tensor) -> Tensor {
    let mut values = T::read(x);
    let (outer, extent, inner) = around(x.shape(), axis);
    for lane in (0..outer).flat_map(|o| (0..inner).map(move |i| o * extent * inner + i)) {
        let mut sum = T::ZERO;
        for k in 0..extent {
            let slot = &mut values[lane + inner * if reverse { extent - 1 - k } else { k }];
            let before = sum;
            sum = sum.plus(*slot);
            *slot = if exclusive { before } else { sum };
        }
    }
    T::write(x.dtype(), x.shape(), values)
}
