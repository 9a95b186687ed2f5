//! `rnn`: a plain recurrent cell over time, one direction.

use crate::attr::{Activation, Direction};
use crate::op::Inferred;
use crate::ops::number::Number;
use crate::ops::recurrent::{self, Recurrence, sigmoid};
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// See the op table.
///
/// # Errors
/// When the operands do not fit each other.
pub fn infer(_direction: &Direction, _activation: &Activation, operands: &[&TensorType]) -> Inferred {
    recurrent::infer(1, operands)
}

/// `h' = activation(x*w^T + h*r^T + bias)`; the state stays in f64 over time.
pub fn eval(direction: &Direction, activation: &Activation, operands: &[&Tensor], results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let cell = Recurrence::new(operands);
    let activate = match activation {
        Activation::Tanh => f64::tanh,
        Activation::Relu => |v: f64| v.larger(0.0),
        Activation::Sigmoid => sigmoid,
    };
    let mut h = f64::read(operands[4]);
    let mut all = vec![0.0; cell.steps * cell.state];
    for t in cell.walk(*direction) {
        let (input, recurrent) = (cell.input(t), cell.recurrent(&h));
        h = input.iter().zip(recurrent).map(|(x, r)| activate(x + r)).collect();
        all[t * cell.state..][..cell.state].copy_from_slice(&h);
    }
    recurrent::write(results, [all, h])
}
