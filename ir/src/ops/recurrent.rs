//! What the recurrences [`super::lstm`], [`super::gru`] and [`super::rnn`] share.

use crate::attr::Direction;
use crate::op::Inferred;
use crate::ops::check;
use crate::ops::matmul;
use crate::ops::number::Number;
use crate::ops::strided::permute;
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// `x: [t, b, i], w: [g*h, i], r: [g*h, h], bias: [2*g*h]`, states `[b, h]` each; gives all h `[t, b, h]` and the last of each state.
///
/// # Errors
/// When the operands do not fit each other.
pub fn infer(gates: usize, operands: &[&TensorType]) -> Inferred {
    let (&[x, w, r, bias], states) = operands.first_chunk::<4>().map(|f| (f, &operands[4..])).ok_or("expects x, w, r and bias")?;
    check::float("x", x)?;
    for (name, operand, rank) in [("x", x, 3), ("w", w, 2), ("r", r, 2), ("bias", bias, 1)] {
        check::same_dtype(name, operand, x)?;
        check::rank(name, operand, rank)?;
    }
    let [steps, batch, input] = [&x.dims[0], &x.dims[1], &x.dims[2]];
    let hidden = &r.dims[1];
    check::agree("the innermost extents of `x` and `w`", input, &w.dims[1])?;
    check::agree(&format!("the outer extent of `w` and {gates} * the hidden extent"), &w.dims[0], &(hidden.clone() * gates))?;
    check::agree(&format!("the outer extent of `r` and {gates} * the hidden extent"), &r.dims[0], &(hidden.clone() * gates))?;
    check::agree(&format!("the extent of `bias` and {} * the hidden extent", 2 * gates), &bias.dims[0], &(hidden.clone() * (2 * gates)))?;
    for state in states {
        check::same_dtype("the initial state", state, x)?;
        check::rank("the initial state", state, 2)?;
        check::agree("the batch extents of `x` and the initial state", batch, &state.dims[0])?;
        check::agree("the hidden extents of `r` and the initial state", hidden, &state.dims[1])?;
    }
    let last = x.with_dims(vec![batch.clone(), hidden.clone()]);
    let all = x.with_dims([vec![steps.clone()], last.dims.clone()].concat());
    Ok([vec![all], vec![last; states.len()]].concat())
}

/// The operands of a recurrence as numbers.
pub struct Recurrence {
    /// Steps.
    pub steps: usize,
    /// Elements of a state: batch * hidden.
    pub state: usize,
    /// The hidden extent.
    pub hidden: usize,
    batch: usize,
    gates: usize,
    /// x * w^T + input bias: [t, b, gates*hidden].
    input: Vec<f64>,
    /// r^T: [hidden, gates*hidden].
    weights: Vec<f64>,
    /// `[gates*hidden]`.
    bias: Vec<f64>,
}

impl Recurrence {
    /// From x, w, r and bias.
    pub fn new(operands: &[&Tensor]) -> Recurrence {
        let [x, w, r, bias] = [operands[0], operands[1], operands[2], operands[3]];
        let (&[steps, batch, inputs], &[width, hidden]) = (x.shape(), r.shape()) else { unreachable!("inference checks the ranks") };
        let mut input_bias = f64::read(bias);
        let bias = input_bias.split_off(width);
        let mut input = input_bias.repeat(steps * batch);
        matmul::accumulate(&f64::read(x), &f64::read(&permute(w, &[1, 0])), [steps * batch, inputs, width], &mut input);
        let weights = f64::read(&permute(r, &[1, 0]));
        Recurrence { steps, state: batch * hidden, hidden, batch, gates: width / hidden.max(1), input, weights, bias }
    }

    /// The steps in the order in which they are walked.
    pub fn walk(&self, direction: Direction) -> Box<dyn Iterator<Item = usize>> {
        match direction {
            Direction::Forward => Box::new(0..self.steps),
            Direction::Reverse => Box::new((0..self.steps).rev()),
        }
    }

    /// `h*r^T + recurrent bias`, [b, gates*hidden].
    pub fn recurrent(&self, h: &[f64]) -> Vec<f64> {
        let mut out = self.bias.repeat(self.batch);
        matmul::accumulate(h, &self.weights, [self.batch, self.hidden, self.gates * self.hidden], &mut out);
        out
    }

    /// The input's part of step `t`, [b, gates*hidden].
    pub fn input(&self, t: usize) -> &[f64] {
        let size = self.state * self.gates;
        &self.input[t * size..][..size]
    }

    /// Where gate `gate` of state element `i` stands in [b, gates*hidden].
    pub fn gate(&self, gate: usize, i: usize) -> usize {
        let (row, column) = (i / self.hidden, i % self.hidden);
        (row * self.gates + gate) * self.hidden + column
    }
}

/// Logistic function.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The results as tensors.
///
/// # Errors
/// When a result is too large to be held.
pub fn write<const N: usize>(results: &[TensorType], values: [Vec<f64>; N]) -> Result<Vec<Tensor>, String> {
    results.iter().zip(values).map(|(ty, values)| Ok(f64::write(ty.dtype, &check::allocatable(ty)?, values))).collect()
}
