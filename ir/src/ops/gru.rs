//! `gru`: a gated recurrent unit over time, one direction.

use crate::attr::Direction;
use crate::op::Inferred;
use crate::ops::number::Number;
use crate::ops::recurrent::{self, Recurrence, sigmoid};
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// See the op table.
///
/// # Errors
/// When the operands do not fit each other.
pub fn infer(_direction: &Direction, _linear_before_reset: &bool, operands: &[&TensorType]) -> Inferred {
    recurrent::infer(3, operands)
}

/// `z` and `r` logistic; `n = tanh(x_n + (r*h)*R_n + b)`, or `tanh(x_n + r*(h*R_n + b))` with `linear_before_reset`;
/// `h' = (1 - z)*n + z*h`. States stay in f64 over time.
pub fn eval(
    direction: &Direction,
    linear_before_reset: &bool,
    operands: &[&Tensor],
    results: &[TensorType],
) -> Result<Vec<Tensor>, String> {
    let cell = Recurrence::new(operands);
    let mut h = f64::read(operands[4]);
    let mut all = vec![0.0; cell.steps * cell.state];
    for t in cell.walk(*direction) {
        let (input, recurrent) = (cell.input(t), cell.recurrent(&h));
        let logistic = |gate: usize, i: usize| sigmoid(input[cell.gate(gate, i)] + recurrent[cell.gate(gate, i)]);
        let reset: Vec<f64> = (0..cell.state).map(|i| logistic(1, i)).collect();
        let candidates: Vec<f64> = match linear_before_reset {
            true => (0..cell.state).map(|i| reset[i] * recurrent[cell.gate(2, i)]).collect(),
            false => {
                let kept: Vec<f64> = reset.iter().zip(&h).map(|(r, h)| r * h).collect();
                let recurrent = cell.recurrent(&kept);
                (0..cell.state).map(|i| recurrent[cell.gate(2, i)]).collect()
            }
        };
        for i in 0..cell.state {
            let (z, n) = (logistic(0, i), (input[cell.gate(2, i)] + candidates[i]).tanh());
            h[i] = (1.0 - z) * n + z * h[i];
        }
        all[t * cell.state..][..cell.state].copy_from_slice(&h);
    }
    recurrent::write(results, [all, h])
}
