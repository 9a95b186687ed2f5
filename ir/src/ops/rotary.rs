//! `rotary`: rotates pairs of the innermost axis.

use crate::assume;
use crate::dim::Dim;
use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::Number;
use crate::ops::strided::broadcast;
use crate::tensor::Tensor;
use crate::ty::{self, TensorType};

/// x: [..., 2h], `cos` and `sin` broadcast to [..., h]; the type stays.
///
/// # Errors
/// When the innermost extent is odd, or `cos` or `sin` does not broadcast to half of it.
pub fn infer(_interleaved: &bool, operands: &[&TensorType]) -> Inferred {
    let x = operands[0];
    check::float("x", x)?;
    let half = half(x)?;
    for (name, operand) in [("cos", operands[1]), ("sin", operands[2])] {
        check::same_dtype(name, operand, x)?;
        let both = ty::broadcast(&[&half.dims, &operand.dims])?;
        if both.len() != half.rank() || both.iter().zip(&half.dims).any(|(b, h)| check::agree("extents", b, h).is_err()) {
            return Err(format!("expects `{name}` to broadcast to {half}, found {operand}"));
        }
    }
    Ok(vec![x.clone()])
}

/// The type of one element of each pair.
fn half(x: &TensorType) -> Result<TensorType, String> {
    let mut half = x.clone();
    let inner = half.dims.last_mut().ok_or_else(|| format!("expects `x` of rank 1 or more, found {x}"))?;
    match inner.as_const() {
        Some(n) if n % 2 != 0 => Err(format!("expects an even innermost extent, found {x}")),
        _ => {
            assume::equal(&inner.modulo(&2.into()), &Dim::ZERO);
            *inner = inner.floor_div(&2.into());
            Ok(half)
        }
    }
}

/// `(a, b)` becomes `(a*cos - b*sin, b*cos + a*sin)`.
pub fn eval(interleaved: &bool, operands: &[&Tensor], _results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let x = operands[0];
    let half = check::allocatable(&half(&x.ty())?)?;
    let [cos, sin] = [operands[1], operands[2]].map(|t| f64::read(&broadcast(t, &half)));
    let mut values = f64::read(x);
    let h = half[half.len() - 1];
    for (i, (cos, sin)) in cos.iter().zip(&sin).enumerate() {
        let (row, column) = (i / h * 2 * h, i % h);
        let (a, b) = if *interleaved { (row + 2 * column, row + 2 * column + 1) } else { (row + column, row + column + h) };
        (values[a], values[b]) = (values[a] * cos - values[b] * sin, values[b] * cos + values[a] * sin);
    }
    Ok(vec![f64::write(x.dtype(), x.shape(), values)])
}

#[cfg(test)]
mod tests {
    use crate::op::Op;
    use crate::tensor::Tensor;

    /// A quarter turn of the first pair, none of the second.
    #[track_caller]
    fn check(interleaved: bool, expected: [f32; 4]) {
        let x = Tensor::from_f32s(vec![1, 4], &[1.0, 2.0, 3.0, 4.0]);
        let [cos, sin] = [[0.0, 1.0], [1.0, 0.0]].map(|v| Tensor::from_f32s(vec![2], &v));
        let y = Op::rotary { interleaved }.eval(&[&x, &cos, &sin]).unwrap();
        assert_eq!(y, [Tensor::from_f32s(vec![1, 4], &expected)]);
    }

    #[test]
    fn pairs_are_halves_or_neighbours() {
        check(false, [-3.0, 2.0, 1.0, 4.0]);
        check(true, [-2.0, 1.0, 3.0, 4.0]);
    }
}
