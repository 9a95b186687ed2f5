//! Common subexpressions: equal ops of equal operands are computed once, equal constants are kept once.
//!
//! ```text
//! a = relu(x); b = relu(x); y = add(a, b)    =>    a = relu(x); y = add(a, a)
//! ```
//!
//! The first of several equal nodes stays, under its name, and takes over the origins of the others. Every op is a pure
//! function of its operands, so equal means equal; kernels are left alone.

use egret_ir::{Copy, Graph, Node, Op, Tensor, TensorType, ValueId};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The pass; see the module.
///
/// # Errors
/// Only if a node does not type-check, which would be a bug of an earlier pass.
pub fn cse(graph: &Graph) -> Result<Graph, String> {
    let mut copy = Copy::new(graph, TensorType::clone);
    let mut constants = Constants::default();
    for (id, _) in graph.constants() {
        let tensor = graph.constant(id).ok_or("a constant has no data")?;
        let first = constants.intern(tensor, || id);
        if first != id {
            let kept = copy.value(first);
            copy.set(id, kept);
        }
    }
    let mut seen: HashMap<(Op, Vec<ValueId>), Vec<ValueId>> = HashMap::new();
    for node in graph.nodes() {
        let key = (node.op.clone(), copy.values(&node.operands));
        match seen.get(&key) {
            Some(results) if node.region.is_none() => {
                node.results.iter().zip(results).for_each(|(&old, &new)| copy.set(old, new));
                join_origins(&mut copy.new, results[0], node);
            }
            _ => {
                copy.node(node)?;
                seen.insert(key, copy.values(&node.results));
            }
        }
    }
    Ok(copy.finish())
}

/// Adds the origins of `other` to those of the node that makes `value`.
fn join_origins(graph: &mut Graph, value: ValueId, other: &Node) {
    if let Some(kept) = graph.producer(value) {
        let all: BTreeSet<Arc<str>> = graph.node(kept).origin.iter().chain(&other.origin).cloned().collect();
        graph.set_origin(kept, all.into_iter().collect());
    }
}

/// How many bytes at either end of a tensor its fingerprint reads. Weights are mapped from a file and differ from the start;
/// hashing the 438 MB of a BERT in full would read them all in.
const FINGERPRINT_BYTES: usize = 1024;

/// Something for every different tensor: tensors of equal type and bytes get the same.
#[derive(Clone, Debug)]
pub struct Constants<T> {
    by_fingerprint: HashMap<u64, Vec<(Arc<Tensor>, T)>>,
}

impl<T> Default for Constants<T> {
    fn default() -> Constants<T> {
        Constants { by_fingerprint: HashMap::new() }
    }
}

impl<T: std::marker::Copy> Constants<T> {
    /// What stands for this tensor; `new` makes it if no equal tensor has been seen.
    pub fn intern(&mut self, tensor: &Arc<Tensor>, new: impl FnOnce() -> T) -> T {
        let alike = self.by_fingerprint.entry(fingerprint(tensor)).or_default();
        if let Some((_, found)) = alike.iter().find(|(other, _)| equal(tensor, other)) {
            return *found;
        }
        let made = new();
        alike.push((tensor.clone(), made));
        made
    }

    /// What stands for a tensor equal to this one, if one has been seen.
    pub fn find(&self, tensor: &Tensor) -> Option<T> {
        let alike = self.by_fingerprint.get(&fingerprint(tensor))?;
        alike.iter().find(|(other, _)| equal(tensor, other)).map(|(_, found)| *found)
    }
}

fn fingerprint(tensor: &Tensor) -> u64 {
    let mut hasher = DefaultHasher::new();
    (tensor.dtype(), tensor.shape()).hash(&mut hasher);
    let bytes = tensor.bytes();
    let end = bytes.len().min(FINGERPRINT_BYTES);
    (&bytes[..end], &bytes[bytes.len() - end..]).hash(&mut hasher);
    hasher.finish()
}

fn equal(a: &Tensor, b: &Tensor) -> bool {
    let same_memory = a.bytes().as_ptr() == b.bytes().as_ptr() && a.bytes().len() == b.bytes().len();
    a.dtype() == b.dtype() && a.shape() == b.shape() && (same_memory || a.bytes() == b.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    #[test]
    fn equal_nodes_become_one() {
        check(
            cse,
            "graph g(x: f32[4]) {
                a = relu(x) @ \"one\"
                b = relu(x) @ \"two\"
                y = add(a, b)
                return y, b
            }",
            "graph g(x: f32[4]) -> f32[4], f32[4] {
                a = relu(x) : f32[4] @ \"one\", \"two\"
                y = add(a, a) : f32[4]
                return y, a as b
            }",
        );
    }

    #[test]
    fn equal_constants_become_one() {
        check(
            cse,
            "graph g(x: f32[2]) {
                const a: f32[2] = [1, 2]
                const b: f32[2] = [1, 2]
                const c: f32[2] = [1, 3]
                const d: f64[1] = [0.5]
                const e: i64[1] = [4602678819172646912]
                p = add(x, a)
                q = add(x, b)
                r = add(x, c)
                return p, q, r, d, e
            }",
            "graph g(x: f32[2]) -> f32[2], f32[2], f32[2], f64[1], i64[1] {
                const a: f32[2] = [1.0, 2.0]
                const c: f32[2] = [1.0, 3.0]
                const d: f64[1] = [0.5]
                const e: i64[1] = [4602678819172646912]
                p = add(x, a) : f32[2]
                r = add(x, c) : f32[2]
                return p, p as q, r, d, e
            }",
        );
    }

    #[test]
    fn attributes_and_order_count() {
        let text = "graph g(x: f32[2, 2], y: f32[2, 2]) -> f32[2, 2], f32[2, 2], f32[2, 1], f32[1, 2] {
                a = sub(x, y) : f32[2, 2]
                b = sub(y, x) : f32[2, 2]
                c = reduce_sum[axes=[1]](x) : f32[2, 1]
                d = reduce_sum[axes=[0]](x) : f32[1, 2]
                return a, b, c, d
            }";
        check(cse, text, text);
    }

    #[test]
    fn large_tensors_are_compared_in_full() {
        let mut values = vec![0.0f32; 10_000];
        let zeros = Arc::new(Tensor::from_f32s(vec![10_000], &values));
        values[5_000] = 1.0;
        let other = Arc::new(Tensor::from_f32s(vec![10_000], &values));
        let mut constants = Constants::default();
        assert_eq!(constants.intern(&zeros, || 1), 1);
        assert_eq!(constants.intern(&other, || 2), 2);
        assert_eq!(constants.intern(&Arc::new(Tensor::from_f32s(vec![10_000], &[0.0; 10_000])), || 3), 1);
        assert_eq!(constants.find(&other), Some(2));
    }
}
