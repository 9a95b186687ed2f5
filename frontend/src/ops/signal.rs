//! Fourier transforms, as products with constant matrices.
//!
//! ```text
//! DFT of n points, real and imaginary parts side by side:
//! [re im] * [ cos  -sin ]      at row i, column k: the angle 2*pi*i*k/n
//!           [ sin   cos ]
//! ```

use crate::error::Code;
use crate::site::{Outcome, Site, Stop, dim_help, fault, malformed};
use egret_ir::{DType, Dim, Element, Op, Tensor, ValueId};
use std::f64::consts::TAU;

/// The longest transform: its matrix has up to four times the square of this many elements, 16 MiB.
const LONGEST: i64 = 1024;

/// Elements of all frames together, which are read by an index each.
const MOST_PLACES: i64 = 1 << 22;

/// A transform along an axis.
#[derive(Clone, Copy)]
struct Transform {
    length: i64,
    inverse: bool,
    onesided: bool,
}

/// x: [.., n, ..., 1 or 2]. The axis is an attribute before opset 20, an input since.
pub(crate) fn dft(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let rank = n.rank(x);
    let (inverse, onesided) = (n.flag("inverse")?, n.flag("onesided")?);
    let axis = if n.opset < 20 {
        n.int_or("axis", 1)?
    } else {
        n.optional(2).map(|_| n.numbers(2, "the axis")).transpose()?.and_then(|axis| axis.first().copied()).unwrap_or(-2)
    };
    let axis = n.axis(axis, rank)?;
    if axis + 1 == rank {
        return Err(malformed(Code::Shape, "`DFT` transforms an axis before the last, which holds real and imaginary parts"));
    }
    let extent = number(n, &n.dims(x)[axis].clone())?;
    let given = n.optional(1).map(|_| n.numbers(1, "the length")).transpose()?.and_then(|length| length.first().copied());
    let length = given.unwrap_or(if inverse && onesided { 2 * (extent - 1) } else { extent });
    Ok(vec![transformed(n, x, axis, &Transform { length, inverse, onesided })?])
}

fn number(n: &Site, dim: &Dim) -> Result<i64, Stop> {
    dim.as_const().ok_or_else(|| {
        let message = format!("`{}` needs the length of the signal as a number, found `{dim}`", n.operator);
        fault(Code::DataDependent, message, dim_help(&dim.symbols()))
    })
}

fn transformed(n: &mut Site, x: ValueId, axis: usize, how: &Transform) -> Result<ValueId, Stop> {
    let dims = n.dims(x);
    let rank = dims.len();
    let (extent, parts) = (number(n, &dims[axis])?, number(n, &dims[rank - 1])?);
    if !(1..=LONGEST).contains(&how.length) || !(1..=LONGEST).contains(&extent) || !matches!(parts, 1 | 2) {
        let message = format!("`{}` of {} points of {} is not supported, expected up to {LONGEST}", n.operator, how.length, n.ty(x));
        return Err(malformed(Code::Shape, message));
    }
    // The axis and its parts come last and are one: [rest.., parts*extent], with the real parts first.
    let rest: Vec<usize> = (0..rank - 1).filter(|a| *a != axis).collect();
    let moved = n.transpose(x, rest.iter().copied().chain([rank - 1, axis]).collect())?;
    let outer: Vec<Dim> = rest.iter().map(|&a| dims[a].clone()).collect();
    let flat = n.reshape(moved, [outer.clone(), vec![Dim::from(parts * extent)]].concat())?;
    let (matrix, results, out_parts) = matrix(how, extent, parts, n.dtype(x));
    let matrix = n.build.constant(matrix);
    let product = n.op(Op::matmul, &[flat, matrix])?;
    let apart = n.reshape(product, [outer, vec![Dim::from(out_parts), Dim::from(results)]].concat())?;
    // Back: the axis to its place, the parts to the end.
    let mut perm: Vec<usize> = (0..rest.len()).collect();
    perm.insert(axis, rest.len() + 1);
    perm.push(rest.len());
    n.transpose(apart, perm)
}

/// The matrix, the number of results, and of their parts.
fn matrix(how: &Transform, extent: i64, parts: i64, dtype: DType) -> (Tensor, i64, i64) {
    let Transform { length, inverse, onesided } = *how;
    let to_real = inverse && onesided;
    let (results, out_parts) = if onesided && !inverse { (length / 2 + 1, 2) } else { (length, if to_real { 1 } else { 2 }) };
    let (sign, scale) = if inverse { (1.0, 1.0 / length as f64) } else { (-1.0, 1.0) };
    let mut elements = vec![];
    for part in 0..parts {
        for i in 0..extent {
            // Half of a spectrum stands for the other half, too; what goes beyond the length is left out.
            let share = match i {
                i if i >= length || to_real && i > length / 2 => 0.0,
                0 => 1.0,
                i if to_real && 2 * i < length => 2.0,
                _ => 1.0,
            };
            for out in 0..out_parts {
                for k in 0..results {
                    // Angles beyond a full turn would lose digits.
                    let angle = TAU * ((i * k) % length) as f64 / length as f64;
                    let factor = match (part, out) {
                        (0, 0) | (1, 1) => angle.cos(),
                        (0, _) => sign * angle.sin(),
                        _ => -sign * angle.sin(),
                    };
                    elements.push(Element::Float(factor * share * scale));
                }
            }
        }
    }
    (Tensor::from_elements(dtype, vec![(parts * extent) as usize, (out_parts * results) as usize], elements), results, out_parts)
}

/// Frames of a signal [b, n, 1 or 2], each times the window and transformed -> [b, frames, results, 2]
pub(crate) fn stft(n: &mut Site) -> Outcome {
    let signal = n.input(0)?;
    let single = |list: Vec<i64>| list.first().copied().unwrap_or(0);
    let step = single(n.numbers(1, "the step of the frames")?);
    let signal_length = number(n, &n.dims(signal).get(1).cloned().unwrap_or(Dim::ZERO))?;
    let window = n.optional(2);
    let length = match (n.optional(3), window) {
        (Some(_), _) => single(n.numbers(3, "the length of the frames")?),
        (None, Some(window)) => {
            let window = n.of_rank(window, 1, "a window")?;
            number(n, &n.dims(window)[0].clone())?
        }
        (None, None) => signal_length,
    };
    if step < 1 || !(1..=signal_length).contains(&length) || n.rank(signal) != 3 {
        return Err(malformed(Code::Shape, format!("`STFT` cannot cut frames of {length} every {step} from {}", n.ty(signal))));
    }
    let frames = (signal_length - length) / step + 1;
    if frames.saturating_mul(length) > MOST_PLACES {
        return Err(malformed(
            Code::Shape,
            format!("`STFT` of {frames} frames of {length} is not supported, expected up to {MOST_PLACES} elements"),
        ));
    }
    let places: Vec<i64> = (0..frames).flat_map(|f| (0..length).map(move |i| f * step + i)).collect();
    let places = n.build.constant(Tensor::from_i64s(vec![frames as usize, length as usize], &places));
    let mut cut = n.op(Op::gather { axis: 1 }, &[signal, places])?;
    if let Some(window) = window {
        let window = n.reshape(window, [Dim::from(length), Dim::ONE])?;
        cut = n.op(Op::mul, &[cut, window])?;
    }
    let onesided = n.int_or("onesided", 1)? != 0;
    Ok(vec![transformed(n, cut, 2, &Transform { length, inverse: false, onesided })?])
}
