//! `pad`: elements before and after each axis.

use crate::attr::PadMode;
use crate::dim::Dim;
use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::sized;
use crate::ops::strided::{advance, strides};
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// Every extent grows by `low + high`.
///
/// # Errors
/// When a padding is negative, or larger than the input has elements to mirror or repeat.
pub fn infer(low: &[Dim], high: &[Dim], mode: &PadMode, operands: &[&TensorType]) -> Inferred {
    let [x, value] = [operands[0], operands[1]];
    check::rank("value", value, 0)?;
    check::same_dtype("value", value, x)?;
    for (name, list) in [("low", low), ("high", high)] {
        check::per_axis(name, list, x.rank())?;
        check::extents(name, list)?;
    }
    let axes = x.dims.iter().zip(low.iter().zip(high));
    let dims = axes.map(|(d, (low, high))| {
        has_enough(*mode, d, low)?;
        has_enough(*mode, d, high)?;
        Ok(d.clone() + low.clone() + high.clone())
    });
    Ok(vec![x.with_dims(dims.collect::<Result<_, String>>()?)])
}

/// Whether an axis has the elements that padding by `amount` reads: one bounce for `reflect`, one round for `wrap`.
fn has_enough(mode: PadMode, extent: &Dim, amount: &Dim) -> Result<(), String> {
    let least = match mode {
        _ if amount.is(0) => return Ok(()),
        PadMode::Constant => return Ok(()),
        PadMode::Reflect => amount.clone() + 1,
        PadMode::Wrap => amount.clone(),
        PadMode::Edge => Dim::ONE,
    };
    match check::may_be_at_most(&least, extent) {
        true => Ok(()),
        false => Err(format!("expects an axis of at least {least} elements to take the padding {amount} from, found {extent}")),
    }
}

/// The elements of `x` where the index minus `low` lies inside, else what the mode says.
pub fn eval(low: &[Dim], _high: &[Dim], mode: &PadMode, operands: &[&Tensor], results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let [x, value] = [operands[0], operands[1]];
    let shape = check::allocatable(&results[0])?;
    let size = x.dtype().size();
    let sources: Vec<Vec<Option<usize>>> = (0..shape.len()).map(|axis| sources(*mode, x.shape()[axis], &low[axis], shape[axis])).collect();
    let mut data = Vec::with_capacity(shape.iter().product::<usize>() * size);
    let steps = strides(x.shape());
    let mut index = vec![0; shape.len()];
    for _ in 0..shape.iter().product() {
        let axes = index.iter().enumerate();
        let position = axes.into_iter().try_fold(0, |at, (axis, &i): (usize, &usize)| Some(at + sources[axis][i]? * steps[axis] as usize));
        match position {
            Some(at) => data.extend_from_slice(&x.bytes()[at * size..][..size]),
            None => data.extend_from_slice(value.bytes()),
        }
        advance(&mut index, &shape);
    }
    Ok(vec![sized(x.dtype(), &shape, data)])
}

/// Per output index of an axis the input index, or `None` where the padding value stands.
pub fn sources(mode: PadMode, extent: usize, low: &Dim, output: usize) -> Vec<Option<usize>> {
    let (extent, low) = (extent as i64, low.as_const().unwrap_or(0));
    let source = |i: i64| match mode {
        _ if (0..extent).contains(&i) => Some(i),
        PadMode::Constant => None,
        PadMode::Reflect if i < 0 => Some(-i),
        PadMode::Reflect => Some(2 * (extent - 1) - i),
        PadMode::Edge => Some(i.clamp(0, extent - 1)),
        PadMode::Wrap => Some(i.rem_euclid(extent)),
    };
    (0..output as i64).map(|o| source(o - low).map(|i| i as usize)).collect()
}
