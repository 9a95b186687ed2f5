//! Folding: what can be known at compile time is computed at compile time, and ops that change nothing go.
//!
//! - Ops of constants become constants, by the reference evaluator, within a budget ([`affordable`]).
//! - The integer arithmetic of shapes that exporters emit is carried out over symbols ([`egret_ir::known`]): what comes to
//!   numbers becomes a constant, what comes to expressions an op `dims`.
//! - A reshape to the same shape, a transpose that moves nothing, a slice of the whole, a cast to the same type, a padding
//!   by nothing, a concat of one: their operand takes their place.
//!
//! ```text
//! s = dims[values=[N, 4]](); n = slice[start=[0], shape=[1], step=[1]](s); t = concat[axis=0](n, minus_one)
//! =>
//! t = dims[values=[N, -1]]()
//! ```
//!
//! Nodes that only fed a folded one are left out. Where an op of constants has no value (an index out of range), it stays
//! for the run to complain about.

use crate::dce::dce;
use egret_ir::known::{self, KnownMap};
use egret_ir::{Copy, DType, Graph, Known, Node, Op, Tensor, TensorType, ValueId};
use std::collections::HashSet;

/// Results of up to this many bytes are always folded: shape arithmetic, scales, masks. A page of the artifact holds it.
const SMALL_BYTES: usize = 1 << 16;

/// A larger result may have this many times the bytes of the constants it is made from: as much as an `i8` weight read as
/// `f32`. What only repeats (a scalar broadcast to a map) grows more and stays an op.
const GROWTH: usize = 4;

/// Weights of a contraction are folded up to this many bytes, also where they only repeat: they are packed when the model is
/// compiled, and a product that reads one number in all columns has no columns to keep in registers.
const MOST_WEIGHTS: usize = 1 << 30;

/// The most multiply-adds that a folded contraction may take: about 0.05 s of the reference evaluator.
const MOST_PRODUCTS: usize = 1 << 26;

/// The pass; see the module.
///
/// # Errors
/// Only if a node does not type-check, which would be a bug of an earlier pass.
pub fn fold(graph: &Graph) -> Result<Graph, String> {
    let mut folding = Folding { copy: Copy::new(graph, TensorType::clone), known: KnownMap::new(), weights: weights(graph) };
    for node in graph.nodes() {
        folding.node(node)?;
    }
    dce(&folding.copy.finish())
}

struct Folding<'a> {
    copy: Copy<'a>,
    known: KnownMap,
    /// What contractions read as weights.
    weights: HashSet<ValueId>,
}

/// The right operands of contractions, and what those are made of by moving elements.
fn weights(graph: &Graph) -> HashSet<ValueId> {
    let mut weights = HashSet::new();
    for node in graph.nodes().iter().rev() {
        let weight = match node.op {
            Op::matmul | Op::conv { .. } | Op::conv_transpose { .. } => node.operands.get(1),
            Op::transpose { .. } | Op::reshape { .. } if weights.contains(&node.results[0]) => node.operands.first(),
            _ => None,
        };
        weights.extend(weight.copied());
    }
    weights
}

impl Folding<'_> {
    fn node(&mut self, node: &Node) -> Result<(), String> {
        if node.region.is_some() {
            return self.copy.node(node);
        }
        let operands = self.copy.values(&node.operands);
        if let Some(kept) = self.unchanged(&node.op, &operands, node) {
            self.copy.set(node.results[0], kept);
        } else if let Some(tensors) = self.constants(node, &operands) {
            for (&result, tensor) in node.results.iter().zip(tensors) {
                let name = self.copy.old.value(result).name.clone();
                let constant = self.copy.new.add_const(&name, tensor);
                self.copy.set(result, constant);
            }
        } else if let Some(known) = self.integers(&node.op, &operands) {
            let result = self.known_integers(node, &known)?;
            self.copy.set(node.results[0], result);
        } else {
            self.copy.node(node)?;
        }
        Ok(())
    }

    /// The operand that the result is equal to, if the op changes nothing.
    fn unchanged(&self, op: &Op, operands: &[ValueId], node: &Node) -> Option<ValueId> {
        let &x = operands.first()?;
        if self.copy.new.ty(x) != self.copy.old.ty(node.results[0]) {
            return None;
        }
        let changes_nothing = match op {
            Op::reshape { .. } | Op::broadcast { .. } | Op::cast { .. } => true,
            Op::concat { .. } => operands.len() == 1,
            Op::pad { low, high, .. } => low.iter().chain(high).all(|d| d.is(0)),
            Op::transpose { perm } => perm.is_sorted(),
            Op::slice { start, step, .. } => start.iter().all(|s| s.is(0)) && step.iter().all(|&s| s == 1),
            _ => false,
        };
        changes_nothing.then_some(x)
    }

    /// The results, if all operands are constants and it is worth it.
    fn constants(&self, node: &Node, operands: &[ValueId]) -> Option<Vec<Tensor>> {
        let op = &node.op;
        let tensors: Vec<&Tensor> = operands.iter().map(|&v| self.copy.new.constant(v).map(|t| &**t)).collect::<Option<_>>()?;
        let types: Vec<&TensorType> = operands.iter().map(|&v| self.copy.new.ty(v)).collect();
        let results = op.infer(&types).ok()?;
        let repeated_weights = matches!(op, Op::broadcast { .. }) && self.weights.contains(&node.results[0]);
        if !(affordable(op, &types, &results) || repeated_weights && bytes(&results[0])? <= MOST_WEIGHTS) {
            return None;
        }
        let results = op.eval(&tensors).ok()?;
        // The model's own copy of a weight must not take memory beside the one in another order.
        tensors.iter().for_each(|tensor| tensor.give_back());
        Some(results)
    }

    /// The integers that the only result consists of, if they are known.
    fn integers(&mut self, op: &Op, operands: &[ValueId]) -> Option<Known> {
        if matches!(op, Op::dims { .. }) {
            return None;
        }
        let contents: Vec<Option<Known>> = operands.iter().map(|&v| self.known.known(&self.copy.new, v)).collect();
        if contents.iter().any(Option::is_none) {
            return None;
        }
        let types: Vec<&TensorType> = operands.iter().map(|&v| self.copy.new.ty(v)).collect();
        known::eval(op, &contents.iter().map(Option::as_ref).collect::<Vec<_>>(), &types)
    }

    /// A value of known integers, in place of the result of `node`.
    fn known_integers(&mut self, node: &Node, known: &Known) -> Result<ValueId, String> {
        let value = self.copy.old.value(node.results[0]);
        let (name, dtype) = (value.name.clone(), value.ty.dtype);
        if let Some(tensor) = known.to_tensor(dtype) {
            return Ok(self.copy.new.add_const(&name, tensor));
        }
        if dtype != DType::I64 {
            self.copy.node(node)?;
            return Ok(self.copy.value(node.results[0]));
        }
        let dims = Op::dims { values: known.values.clone() };
        if known.shape.len() == 1 {
            return Ok(self.copy.new.add_node(dims, &[], &[&name], node.origin.clone())?[0]);
        }
        let flat = self.copy.new.add_node(dims, &[], &[&format!("{name}.flat")], node.origin.clone())?;
        let shape = known.shape.iter().map(|&d| d.into()).collect();
        Ok(self.copy.new.add_node(Op::reshape { shape }, &flat, &[&name], node.origin.clone())?[0])
    }
}

/// Whether an op of constants of these types is worth computing at compile time.
pub fn affordable(op: &Op, operands: &[&TensorType], results: &[TensorType]) -> bool {
    let total = |types: &[&TensorType]| types.iter().try_fold(0usize, |sum, ty| sum.checked_add(bytes(ty)?));
    let (Some(made), Some(read)) = (total(&results.iter().collect::<Vec<_>>()), total(operands)) else { return false };
    let fits = made <= SMALL_BYTES || made <= read.saturating_mul(GROWTH);
    fits && products(op, operands, results).is_some_and(|p| p <= MOST_PRODUCTS)
}

fn bytes(ty: &TensorType) -> Option<usize> {
    count(ty)?.checked_mul(ty.dtype.size())
}

fn count(ty: &TensorType) -> Option<usize> {
    ty.static_dims()?.into_iter().try_fold(1usize, usize::checked_mul)
}

/// Multiply-adds of a contraction, counted generously; 0 for other ops.
fn products(op: &Op, operands: &[&TensorType], results: &[TensorType]) -> Option<usize> {
    let made = results.iter().try_fold(0usize, |sum, ty| sum.checked_add(count(ty)?))?;
    let depth = match op {
        Op::matmul | Op::matmul_blocks { .. } => operands[0].static_dims()?.last().copied()?,
        Op::attention { .. } => count(operands[1])?,
        Op::conv { .. } | Op::conv_transpose { .. } => count(operands[1])?,
        Op::lstm { .. } | Op::gru { .. } | Op::rnn { .. } => count(operands[1])?.checked_add(count(operands[2])?)?,
        _ => 0,
    };
    made.checked_mul(depth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    #[test]
    fn shape_arithmetic_becomes_dims() {
        check(
            fold,
            "graph g(x: f32[N, 2, 2]) {
                const zero: i64[1] = [0]
                const minus_one: i64[1] = [-1]
                s = dims[values = [N, 2, 2]]()
                n = gather[axis = 0](s, zero)
                t = concat[axis = 0](n, minus_one)
                y = reshape[shape = [N, 4]](x)
                return y, t
            }",
            "graph g(x: f32[N, 2, 2]) -> f32[N, 4], i64[2] {
                t = dims[values=[N, -1]]()      : i64[2]
                y = reshape[shape=[N, 4]](x) : f32[N, 4]
                return y, t
            }",
        );
    }

    #[test]
    fn constants_are_computed() {
        check(
            fold,
            "graph g(x: f32[2]) {
                const a: f32[2] = [1, 2]
                const b: f32[] = 0.5
                c = mul(a, b)
                d = neg(c)
                y = add(x, d)
                return y
            }",
            "graph g(x: f32[2]) -> f32[2] {
                const d: f32[2] = [-0.5, -1.0]
                y = add(x, d) : f32[2]
                return y
            }",
        );
    }

    #[test]
    fn what_only_repeats_stays_an_op() {
        let text = "graph g(x: f32[1024, 1024]) -> f32[1024, 1024] {
                const c: f32[1] = [2.0]
                b = broadcast[shape=[1024, 1024]](c) : f32[1024, 1024]
                y = add(x, b) : f32[1024, 1024]
                return y
            }";
        check(fold, text, text);
    }

    #[test]
    fn repeated_weights_become_constants() {
        let folded = fold(
            &egret_ir::text::parse(
                "graph g(x: f32[1024, 256]) {
                    const c: f32[] = 0.5
                    v = broadcast[shape=[128, 256]](c)
                    w = transpose[perm=[1, 0]](v)
                    y = matmul(x, w)
                    return y
                }",
            )
            .unwrap(),
        )
        .unwrap();
        let w = folded.nodes()[0].operands[1];
        assert_eq!(folded.constant(w).map(|w| w.bytes().len()), Some(256 * 128 * 4));
    }

    #[test]
    fn what_changes_nothing_goes() {
        check(
            fold,
            "graph g(x: f32[N, 3]) {
                a = reshape[shape = [N, 3]](x)
                b = transpose[perm = [0, 1]](a)
                c = cast[to = f32](b)
                d = concat[axis = 1](c)
                e = slice[start = [0, 0], shape = [N, 3], step = [1, 1]](d)
                f = broadcast[shape = [N, 3]](e)
                y = relu(f)
                return y
            }",
            "graph g(x: f32[N, 3]) -> f32[N, 3] {
                y = relu(x) : f32[N, 3]
                return y
            }",
        );
    }

    #[test]
    fn what_has_no_value_stays() {
        let text = "graph g(x: f32[2]) -> f32[1] {
                const c: f32[2] = [1.0, 2.0]
                const i: i64[1] = [7]
                y = gather[axis=0](c, i) : f32[1]
                return y
            }";
        check(fold, text, text);
    }
}
