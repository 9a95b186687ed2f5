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
fn recurrence(
    n: &mut Site,
    [x, w, r]: [ValueId; 3],
    cell: &Cell,
    of: impl Fn(&mut Site, usize, Direction, &[ValueId]) -> Outcome,
) -> Outcome {
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
        results.push(of(n, k, direction, &operands)?);
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
    let cell = Cell { gates: 4, states: 2 };
    let Some(peepholes) = n.optional(7) else {
        return recurrence(n, operands, &cell, |n, _, direction, o| n.ops(Op::lstm { direction }, o));
    };
    let are_zero = n.build.tensor(peepholes).is_some_and(|p| p.elements().all(|w| w.as_f64() == 0.0));
    recurrence(n, operands, &cell, |n, k, direction, o| match are_zero {
        true => n.ops(Op::lstm { direction }, o),
        false => {
            let peepholes = part(n, peepholes, k)?;
            with_peepholes(n, peepholes, direction, o)
        }
    })
}

/// Steps of a recurrence that has no op of its own: each is written out.
const MOST_STEPS: i64 = 512;

/// An LSTM whose gates i, o and f see the cell state times weights `[3h]`, the output gate the new one. Operands and results are those of
/// the op `lstm`.
fn with_peepholes(n: &mut Site, peepholes: ValueId, direction: Direction, operands: &[ValueId]) -> Outcome {
    let [x, w, r, bias, mut h, mut c] = *operands else { return Err(malformed(Code::Operand, "`LSTM` has six operands")) };
    let (dims, hidden) = (n.dims(x), n.dims(r)[1].clone());
    let steps = dims[0].as_const().filter(|steps| (0..=MOST_STEPS).contains(steps));
    let steps = steps.ok_or_else(|| {
        let message = format!("`LSTM` with peepholes takes a number of steps up to {MOST_STEPS}, found {}", dims[0]);
        fault(Code::Shape, message, "give the steps a number, or export it as separate operators")
    })?;
    let (w, r) = (n.transpose(w, vec![1, 0])?, n.transpose(r, vec![1, 0])?);
    let gate = |n: &mut Site, all: ValueId, at: usize| {
        let axis = n.rank(all) - 1;
        n.slice(all, axis, hidden.clone() * at as i64, hidden.clone())
    };
    let [see_i, see_o, see_f] = [gate(n, peepholes, 0)?, gate(n, peepholes, 1)?, gate(n, peepholes, 2)?];
    let half = hidden.clone() * 4;
    let (bias, recurrent_bias) = (n.slice(bias, 0, Dim::ZERO, half.clone())?, n.slice(bias, 0, half.clone(), half)?);
    let bias = n.op(Op::add, &[bias, recurrent_bias])?;
    let mut all = vec![];
    for step in 0..steps {
        let at = if direction == Direction::Forward { step } else { steps - 1 - step };
        let now = n.slice(x, 0, Dim::from(at), Dim::ONE)?;
        let now = n.reshape(now, dims[1..].to_vec())?;
        let (input, state) = (n.op(Op::matmul, &[now, w])?, n.op(Op::matmul, &[h, r])?);
        let gates = n.op(Op::add, &[input, state])?;
        let gates = n.op(Op::add, &[gates, bias])?;
        let seeing = |n: &mut Site, gates: ValueId, at: usize, c: ValueId, see: ValueId| {
            let (own, seen) = (gate(n, gates, at)?, n.op(Op::mul, &[c, see])?);
            let both = n.op(Op::add, &[own, seen])?;
            n.op(Op::sigmoid, &[both])
        };
        let (i, f) = (seeing(n, gates, 0, c, see_i)?, seeing(n, gates, 2, c, see_f)?);
        let candidate = gate(n, gates, 3)?;
        let candidate = n.op(Op::tanh, &[candidate])?;
        let (kept, new) = (n.op(Op::mul, &[f, c])?, n.op(Op::mul, &[i, candidate])?);
        c = n.op(Op::add, &[kept, new])?;
        let o = seeing(n, gates, 1, c, see_o)?;
        let shown = n.op(Op::tanh, &[c])?;
        h = n.op(Op::mul, &[o, shown])?;
        let state = [vec![Dim::ONE], n.dims(h)].concat();
        all.push(n.reshape(h, state)?);
    }
    if direction == Direction::Reverse {
        all.reverse();
    }
    let y = if all.is_empty() { n.splat(0.0, n.dtype(x), [vec![Dim::ZERO], n.dims(h)].concat())? } else { n.concat(&all, 0)? };
    Ok(vec![y, h, c])
}

pub(crate) fn gru(n: &mut Site) -> Outcome {
    default_activations(n, &["Sigmoid", "Tanh"])?;
    let linear_before_reset = n.flag("linear_before_reset")?;
    let operands = operands(n)?;
    recurrence(n, operands, &Cell { gates: 3, states: 1 }, |n, _, direction, o| n.ops(Op::gru { direction, linear_before_reset }, o))
}

pub(crate) fn rnn(n: &mut Site) -> Outcome {
    let known = [("tanh", Activation::Tanh), ("relu", Activation::Relu), ("sigmoid", Activation::Sigmoid)];
    let names = activations(n, &["Tanh"])?;
    let find = |name: &String| known.iter().find(|(k, _)| k == name).map(|(_, a)| *a);
    let found: Option<Vec<Activation>> = names.iter().map(find).collect();
    let found = found
        .ok_or_else(|| n.refused("activations", names.join(", "), "`RNN` is supported with the activations Tanh, Relu and Sigmoid"))?;
    let operands = operands(n)?;
    recurrence(n, operands, &Cell { gates: 1, states: 1 }, |n, k, direction, o| n.ops(Op::rnn { direction, activation: found[k] }, o))
}
