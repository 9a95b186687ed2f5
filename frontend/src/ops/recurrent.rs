//! LSTM, GRU and RNN: each direction becomes one op, and the directions are joined.

use crate::error::Code;
use crate::site::{Outcome, Site, Stop, fault, malformed};
use egret_ir::attr::{Activation, Direction};
use egret_ir::{Dim, Op, ValueId};

/// What the three kinds differ in.
struct Cell {
    /// Rows of the weights per hidden element.
    gates: usize,
    /// 2 with a cell state, else 1.
    states: usize,
}

/// x: [t, b, i], w: [d, g*h, i], r: [d, g*h, h], bias: [d, 2*g*h], states: [d, b, h] -> all h: [t, d, b, h], last states:
/// [d, b, h]; with `layout` 1 the batch comes first.
fn recurrence(n: &mut Site, [x, w, r]: [ValueId; 3], cell: &Cell, op: impl Fn(usize, Direction) -> Op) -> Outcome {
    let batch_first = n.flag("layout")?;
    let directions = directions(n)?;
    for (value, rank, what) in [(x, 3, "input"), (w, 3, "weights"), (r, 3, "recurrent weights")] {
        n.of_rank(value, rank, what)?;
    }
    let x = if batch_first { n.transpose(x, vec![1, 0, 2])? } else { x };
    let (steps, batch, hidden) = (n.dims(x)[0].clone(), n.dims(x)[1].clone(), n.dims(r)[2].clone());
    whole_sequences(n, &steps)?;
    n.without_effect(&["hidden_size"]);
    if n.has("clip") {
        return Err(n.refused("clip", n.float_or("clip", 0.0)?, format!("`{}` with clipped gates is not supported", n.operator)));
    }
    let bias = n.optional(3);
    let mut states = vec![];
    for i in 0..cell.states {
        let state = n.optional(5 + i);
        states.push(match state {
            Some(state) if batch_first => Some(n.transpose(state, vec![1, 0, 2])?),
            state => state,
        });
    }
    let mut results = vec![];
    for (k, &direction) in directions.iter().enumerate() {
        let mut operands = vec![x, part(n, w, k)?, part(n, r, k)?];
        operands.push(match bias {
            Some(bias) => part(n, bias, k)?,
            None => n.splat(0.0, n.dtype(x), vec![hidden.clone() * (2 * cell.gates)])?,
        });
        for state in &states {
            operands.push(match state {
                Some(state) => part(n, *state, k)?,
                None => n.splat(0.0, n.dtype(x), vec![batch.clone(), hidden.clone()])?,
            });
        }
        results.push(n.ops(op(k, direction), &operands)?);
    }
    (0..=cell.states).map(|output| joined(n, &results, output, batch_first)).collect()
}

/// Joins output `output` of all directions: `[t, b, h]` each to `[t, d, b, h]`, or `[b, h]` each to `[d, b, h]`.
fn joined(n: &mut Site, results: &[Vec<ValueId>], output: usize, batch_first: bool) -> Result<ValueId, Stop> {
    if !n.wants(output) {
        return Ok(results[0][output]);
    }
    let axis = if output == 0 { 1 } else { 0 };
    let mut parts = vec![];
    for direction in results {
        let mut dims = n.dims(direction[output]);
        dims.insert(axis, Dim::ONE);
        parts.push(n.reshape(direction[output], dims)?);
    }
    let all = n.concat(&parts, axis)?;
    match (batch_first, output) {
        (false, _) => Ok(all),
        (true, 0) => n.transpose(all, vec![2, 0, 1, 3]),
        (true, _) => n.transpose(all, vec![1, 0, 2]),
    }
}

/// The share of direction `k` of a value whose outermost axis is the direction.
fn part(n: &mut Site, value: ValueId, k: usize) -> Result<ValueId, Stop> {
    if n.rank(value) == 0 {
        return Err(malformed(Code::Shape, format!("`{}` expects operands with an axis of directions, found {}", n.operator, n.ty(value))));
    }
    let slice = n.slice(value, 0, Dim::from(k), Dim::ONE)?;
    let dims = n.dims(slice);
    n.reshape(slice, dims[1..].to_vec())
}

fn directions(n: &Site) -> Result<Vec<Direction>, Stop> {
    use Direction::{Forward, Reverse};
    n.word("direction", "forward", &[("forward", vec![Forward]), ("reverse", vec![Reverse]), ("bidirectional", vec![Forward, Reverse])])
}

/// All sequences must have all steps.
fn whole_sequences(n: &Site, steps: &Dim) -> Result<(), Stop> {
    if n.optional(4).is_none() {
        return Ok(());
    }
    let lengths = n.contents(4, "the sequence lengths")?;
    match lengths.iter().find(|l| *l != steps) {
        None => Ok(()),
        Some(length) => Err(fault(
            Code::Operand,
            format!("`{}` over sequences of different lengths is not supported, found {length} of {steps} steps", n.operator),
            "run sequences of one length together, and export without `sequence_lens`",
        )),
    }
}

/// The activations, in the given order for each direction; `default` where none are named. None has parameters.
fn activations(n: &Site, default: &[&str]) -> Result<Vec<String>, Stop> {
    n.without_effect(&["activation_alpha", "activation_beta"]);
    let named = n.texts("activations")?;
    let count = default.len() * directions(n)?.len();
    if named.is_empty() {
        return Ok(default.iter().cycle().take(count).map(|a| a.to_lowercase()).collect());
    }
    if named.len() != count {
        return Err(n.refused(
            "activations",
            named.join(", "),
            format!("`{}` needs {count} activations, found {}", n.operator, named.len()),
        ));
    }
    Ok(named.iter().map(|a| a.to_lowercase()).collect())
}

/// Refuses activations other than the default ones.
fn default_activations(n: &Site, default: &[&str]) -> Result<(), Stop> {
    let found = activations(n, default)?;
    match found.iter().zip(default.iter().cycle()).find(|(found, default)| !found.eq_ignore_ascii_case(default)) {
        None => Ok(()),
        Some((other, default)) => Err(n.refused(
            "activations",
            found.join(", "),
            format!("`{}` with the activation {other} in place of {default} is not supported", n.operator),
        )),
    }
}

/// Input, weights and recurrent weights.
fn operands(n: &Site) -> Result<[ValueId; 3], Stop> {
    Ok([n.input(0)?, n.input(1)?, n.input(2)?])
}

pub(crate) fn lstm(n: &mut Site) -> Outcome {
    let operands = operands(n)?;
    lstm_of(n, operands)
}

/// An LSTM of these operands, with the other inputs and the attributes of the node.
pub(crate) fn lstm_of(n: &mut Site, operands: [ValueId; 3]) -> Outcome {
    default_activations(n, &["Sigmoid", "Tanh", "Tanh"])?;
    if n.flag("input_forget")? {
        return Err(n.refused("input_forget", 1, "`LSTM` with coupled input and forget gates is not supported"));
    }
    if n.optional(7).is_some() && !n.constant(7, "the peephole weights")?.elements().all(|w| w.as_f64() == 0.0) {
        return Err(fault(Code::Operand, "`LSTM` with peepholes is not supported", "export it as separate operators"));
    }
    recurrence(n, operands, &Cell { gates: 4, states: 2 }, |_, direction| Op::lstm { direction })
}

pub(crate) fn gru(n: &mut Site) -> Outcome {
    default_activations(n, &["Sigmoid", "Tanh"])?;
    let linear_before_reset = n.flag("linear_before_reset")?;
    let operands = operands(n)?;
    recurrence(n, operands, &Cell { gates: 3, states: 1 }, |_, direction| Op::gru { direction, linear_before_reset })
}

pub(crate) fn rnn(n: &mut Site) -> Outcome {
    let known = [("tanh", Activation::Tanh), ("relu", Activation::Relu), ("sigmoid", Activation::Sigmoid)];
    let names = activations(n, &["Tanh"])?;
    let find = |name: &String| known.iter().find(|(k, _)| k == name).map(|(_, a)| *a);
    let found: Option<Vec<Activation>> = names.iter().map(find).collect();
    let found = found
        .ok_or_else(|| n.refused("activations", names.join(", "), "`RNN` is supported with the activations Tanh, Relu and Sigmoid"))?;
    let operands = operands(n)?;
    recurrence(n, operands, &Cell { gates: 1, states: 1 }, |k, direction| Op::rnn { direction, activation: found[k] })
}
