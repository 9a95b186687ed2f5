//! `lstm`: a long short-term memory over time, one direction.

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
pub fn infer(_direction: &Direction, operands: &[&TensorType]) -> Inferred {
    recurrent::infer(4, operands)
}

/// `c' = f*c + i*tanh(g)`, `h' = o*tanh(c')` with the gates `i`, `o`, `f` logistic; states stay in f64 over time.
pub fn eval(direction: &Direction, operands: &[&Tensor], results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let cell = Recurrence::new(operands);
    let (mut h, mut c) = (f64::read(operands[4]), f64::read(operands[5]));
    let mut all = vec![0.0; cell.steps * cell.state];
    for t in cell.walk(*direction) {
        let (input, recurrent) = (cell.input(t), cell.recurrent(&h));
        for i in 0..cell.state {
            let [input_gate, output, forget, new] = [0, 1, 2, 3].map(|g| cell.gate(g, i)).map(|at| input[at] + recurrent[at]);
            c[i] = sigmoid(forget) * c[i] + sigmoid(input_gate) * new.tanh();
            h[i] = sigmoid(output) * c[i].tanh();
        }
        all[t * cell.state..][..cell.state].copy_from_slice(&h);
    }
    recurrent::write(results, [all, h, c])
}
