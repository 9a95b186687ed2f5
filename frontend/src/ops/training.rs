//! Steps of optimisers (ai.onnx.preview.training).
//!
//! Inputs: the learning rate `r`, the number of steps `t`, then all tensors, all gradients, and one or two lists of what has been
//! gathered; outputs: the new tensors and what is gathered now. `g` is the gradient of the regularised loss.

use crate::error::Code;
use crate::site::{Outcome, Site, Stop, malformed};
use egret_ir::{Op, ValueId};

/// The inputs behind rate and step, which are `K` lists of the same length: the members at each position.
fn members<const K: usize>(n: &Site) -> Result<Vec<[ValueId; K]>, Stop> {
    let inputs = n.inputs()?;
    let rest = inputs.get(2..).unwrap_or_default();
    if rest.is_empty() || rest.len() % K != 0 {
        let message = format!("`{}` needs {K} lists of tensors of the same length, found {} tensors", n.operator, rest.len());
        return Err(malformed(Code::Operand, message));
    }
    let count = rest.len() / K;
    Ok((0..count).map(|i| std::array::from_fn(|list| rest[list * count + i])).collect())
}

/// `norm_coefficient*x + g`
fn regularised(n: &mut Site, x: ValueId, g: ValueId) -> Result<ValueId, Stop> {
    let norm = n.float_or("norm_coefficient", 0.0)?;
    weighted(n, [(x, norm), (g, 1.0)])
}

/// `a*x + b*y`
fn weighted(n: &mut Site, [(x, a), (y, b)]: [(ValueId, f64); 2]) -> Result<ValueId, Stop> {
    let (x, y) = (n.with_number(Op::mul, x, a)?, n.with_number(Op::mul, y, b)?);
    n.op(Op::add, &[x, y])
}

/// Whether this is not the first step.
fn has_begun(n: &mut Site) -> Result<ValueId, Stop> {
    let t = n.input(1)?;
    let zero = n.scalar(0.0, n.dtype(t));
    n.op(Op::lt, &[zero, t])
}

fn in_lists(columns: Vec<Vec<ValueId>>) -> Vec<ValueId> {
    let count = columns.first().map_or(0, Vec::len);
    (0..count).flat_map(|i| columns.iter().map(move |column| column[i])).collect()
}

/// `v' = alpha*v + beta*g` (beta is 1 in the first step), `x' = x - r*v'`, or with Nesterov's rule `x - r*(g + alpha*v')`
pub(crate) fn momentum(n: &mut Site) -> Outcome {
    let r = n.input(0)?;
    let (alpha, beta) = (n.float_or("alpha", 0.0)?, n.float_or("beta", 0.0)?);
    let nesterov = n.word("mode", "standard", &[("standard", false), ("nesterov", true)])?;
    let begun = has_begun(n)?;
    let mut columns = vec![];
    for [x, g, v] in members(n)? {
        let g = regularised(n, x, g)?;
        let (one, beta) = (n.scalar(1.0, n.dtype(x)), n.scalar(beta, n.dtype(x)));
        let beta = n.op(Op::select, &[begun, beta, one])?;
        let fresh = n.op(Op::mul, &[g, beta])?;
        let v = weighted(n, [(v, alpha), (fresh, 1.0)])?;
        let direction = if nesterov { weighted(n, [(g, 1.0), (v, alpha)])? } else { v };
        let step = n.op(Op::mul, &[direction, r])?;
        columns.push(vec![n.op(Op::sub, &[x, step])?, v]);
    }
    Ok(in_lists(columns))
}

/// `h' = h + g*g`, `x' = x - r/(1 + t*decay_factor) * g / (sqrt(h') + epsilon)`
pub(crate) fn adagrad(n: &mut Site) -> Outcome {
    let (r, t) = (n.input(0)?, n.input(1)?);
    let (decay, epsilon) = (n.float_or("decay_factor", 0.0)?, n.float_or("epsilon", 1e-6)?);
    let t = n.cast(t, n.dtype(r))?;
    let slower = n.with_number(Op::mul, t, decay)?;
    let slower = n.with_number(Op::add, slower, 1.0)?;
    let r = n.op(Op::div, &[r, slower])?;
    let mut columns = vec![];
    for [x, g, h] in members(n)? {
        let g = regularised(n, x, g)?;
        let square = n.op(Op::mul, &[g, g])?;
        let h = n.op(Op::add, &[h, square])?;
        columns.push(vec![moved(n, x, g, h, r, epsilon)?, h]);
    }
    Ok(in_lists(columns))
}

/// `x - r * direction / (sqrt(h) + epsilon)`
fn moved(n: &mut Site, x: ValueId, direction: ValueId, h: ValueId, r: ValueId, epsilon: f64) -> Result<ValueId, Stop> {
    let root = n.op(Op::sqrt, &[h])?;
    let size = n.with_number(Op::add, root, epsilon)?;
    let share = n.op(Op::div, &[direction, size])?;
    let step = n.op(Op::mul, &[share, r])?;
    n.op(Op::sub, &[x, step])
}

/// `v' = alpha*v + (1 - alpha)*g`, `h' = beta*h + (1 - beta)*g*g`, `x' = x - r' * v' / (sqrt(h') + epsilon)`; from the second step on
/// `r' = r * sqrt(1 - beta^t) / (1 - alpha^t)`
pub(crate) fn adam(n: &mut Site) -> Outcome {
    let (alpha, beta) = (n.float_or("alpha", 0.9)?, n.float_or("beta", 0.999)?);
    let (epsilon, after) = (n.float_or("epsilon", 1e-6)?, n.float_or("norm_coefficient_post", 0.0)?);
    let r = adam_rate(n, alpha, beta)?;
    let mut columns = vec![];
    for [x, g, v, h] in members(n)? {
        let g = regularised(n, x, g)?;
        let v = weighted(n, [(v, alpha), (g, 1.0 - alpha)])?;
        let square = n.op(Op::mul, &[g, g])?;
        let h = weighted(n, [(h, beta), (square, 1.0 - beta)])?;
        let x = moved(n, x, v, h, r, epsilon)?;
        columns.push(vec![n.with_number(Op::mul, x, 1.0 - after)?, v, h]);
    }
    Ok(in_lists(columns))
}

fn adam_rate(n: &mut Site, alpha: f64, beta: f64) -> Result<ValueId, Stop> {
    let (r, t) = (n.input(0)?, n.input(1)?);
    let begun = has_begun(n)?;
    let dtype = n.dtype(r);
    let t = n.cast(t, dtype)?;
    let rest = |n: &mut Site, base: f64| {
        let base = n.scalar(base, dtype);
        let power = n.op(Op::pow, &[base, t])?;
        let one = n.scalar(1.0, dtype);
        n.op(Op::sub, &[one, power])
    };
    let (of_beta, of_alpha) = (rest(n, beta)?, rest(n, alpha)?);
    let root = n.op(Op::sqrt, &[of_beta])?;
    let share = n.op(Op::div, &[root, of_alpha])?;
    let adjusted = n.op(Op::mul, &[r, share])?;
    n.op(Op::select, &[begun, adjusted, r])
}
