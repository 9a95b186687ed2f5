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
    let lane = (*axis, *exclusive, *reverse);
    Ok(vec![match x.dtype().is_float() {
        true => run(lane, x, f64::ZERO, f64::plus),
        false => run(lane, x, i128::ZERO, i128::plus),
    }])
}

/// Everything before (and with) each element combined, from `start`; the lane is the axis, and whether it leaves the element
/// itself out and runs from the end.
pub(crate) fn run<T: Number>((axis, exclusive, reverse): (usize, bool, bool), x: &Tensor, start: T, combine: fn(T, T) -> T) -> Tensor {
    let mut values = T::read(x);
    let (outer, extent, inner) = around(x.shape(), axis);
    for lane in (0..outer).flat_map(|o| (0..inner).map(move |i| o * extent * inner + i)) {
        let mut total = start;
        for k in 0..extent {
            let slot = &mut values[lane + inner * if reverse { extent - 1 - k } else { k }];
            let before = total;
            total = combine(total, *slot);
            *slot = if exclusive { before } else { total };
        }
    }
    T::write(x.dtype(), x.shape(), values)
}
