//! Dead code: nodes and constants that no result depends on are left out.
//!
//! ```text
//! a = relu(x); b = neg(x); return a    =>    a = relu(x); return a
//! ```
//!
//! A node with several results stays whole if one of them is read. Parameters always stay: they are the model's interface.

use egret_ir::{Copy, Graph, TensorType, ValueId};
use std::collections::HashSet;

/// The pass; see the module.
///
/// # Errors
/// Only if a node does not type-check, which would be a bug of an earlier pass.
pub fn dce(graph: &Graph) -> Result<Graph, String> {
    let mut needed: HashSet<ValueId> = graph.results.iter().copied().collect();
    for node in graph.nodes().iter().rev() {
        if node.results.iter().any(|r| needed.contains(r)) {
            needed.extend(&node.operands);
        }
    }
    let mut copy = Copy::new(graph, TensorType::clone);
    for node in graph.nodes() {
        if node.results.iter().any(|r| needed.contains(r)) {
            copy.node(node)?;
        }
    }
    Ok(copy.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    #[test]
    fn what_nothing_reads_goes() {
        check(
            dce,
            "graph g(x: f32[4], unused: f32[1]) {
                const c: f32[4] = random(1)
                a = relu(x)
                b = add(a, c)
                v, i = top_k[axis = 0, k = 2](a)
                return v
            }",
            "graph g(x: f32[4], unused: f32[1]) -> f32[2] {
                a = relu(x) : f32[4]
                v, i = top_k[axis=0, k=2](a) : f32[2], i64[2]
                return v
            }",
        );
    }

    #[test]
    fn results_may_be_parameters() {
        let text = "graph g(x: f32[4]) -> f32[4] { return x }";
        check(dce, text, text);
    }
}
