//! Why two kernels are not one: a condition that does not hold, or a plan that takes less time.
//!
//! ```text
//! a = matmul(x, w); y = softmax(a)      a is read by y: each side has an anchor
//! ```

use super::Planned;
use super::grow::Group;
use crate::refusal::Refusal;
use egret_ir::{Graph, NodeId, ValueId};
use std::sync::Arc;

/// Two kernels, one of which reads what the other makes, and why they are two. A kernel goes by its first result.
#[derive(Clone, Debug)]
pub struct Neighbours {
    /// The value between them.
    pub value: Arc<str>,
    /// The kernel that makes it.
    pub maker: Arc<str>,
    /// The kernel that reads it.
    pub reader: Arc<str>,
    /// What stopped the value's node from joining the reader's kernel.
    pub refusal: Refusal,
}

/// All neighbours in the kernels that [`group`](super::group) makes of a graph.
///
/// # Errors
/// As [`group`](super::group).
pub fn neighbours(graph: &Graph) -> Result<Vec<Neighbours>, String> {
    let planned = Planned::of(graph)?;
    let kernels = planned.choices.chosen(&planned.plan, &planned.network);
    Ok(kernels.iter().flat_map(|kernel| &kernel.groups).flat_map(|group| planned.read_by(group)).collect())
}

impl Planned {
    /// What a group reads from other groups, and why.
    fn read_by(&self, group: &Group) -> Vec<Neighbours> {
        let graph = &self.network.graph;
        let name = |value: ValueId| graph.value(value).name.clone();
        let first = |node: NodeId| name(graph.node(node).results[0]);
        let inputs = group.inputs(&self.network).into_iter();
        let made = inputs.filter_map(|value| Some((value, graph.producer(value)?))).filter(|(_, maker)| !self.network.is_known(*maker));
        let neighbours = made.map(|(value, maker)| Neighbours {
            value: name(value),
            maker: first(maker),
            reader: first(group.stands_for),
            refusal: group.refusal(&self.network, maker).unwrap_or_else(|| self.dearer(group, maker)),
        });
        neighbours.collect()
    }

    /// Why a node that may join a group does not.
    fn dearer(&self, group: &Group, node: NodeId) -> Refusal {
        let joined = self.choices.cost_with(group.stands_for, node);
        joined.map_or(Refusal::Untried, |joined| Refusal::Dearer { joined, apart: self.plan.cost })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Why values lie in memory between kernels.
    fn refused(body: &str) -> Vec<(String, Refusal)> {
        let graph = egret_ir::text::parse(&format!("graph g(x: f32[64, 256], w: f32[256, 256]) {{ {body} }}")).unwrap();
        let found = neighbours(&graph).unwrap();
        found.into_iter().map(|n| (n.value.to_string(), n.refusal)).collect()
    }

    #[test]
    fn refusals_are_told() {
        assert_eq!(refused("a = matmul(x, w) y = relu(a) return y"), []);
        for (value, refusal, body) in [
            ("a", Refusal::NotInPlace, "a = matmul(x, w) y = matmul(a, w) return y"),
            ("a", Refusal::TwoAnchors, "a = matmul(x, w) y = softmax[axes=[1]](a) return y"),
            ("a", Refusal::ReadElsewhere, "a = matmul(x, w) y = exp(a) return y, a"),
            ("a", Refusal::NotAligned, "a = reduce_sum[axes=[1]](x) y = mul(x, a) return y"),
            ("a", Refusal::JoinLast, "a = concat[axis=0](x, w) y = exp(a) return y"),
            ("a", Refusal::Alone, "a = cumsum[axis=1](x) y = exp(a) return y"),
            ("a", Refusal::ReaderAlone, "a = exp(x) v, i = top_k[axis=1, k=2](a) return v"),
            ("v", Refusal::SeveralResults, "v, i = top_k[axis=1, k=2](x) y = exp(v) return y"),
        ] {
            assert_eq!(refused(body), [(value.to_string(), refusal)], "{body}");
        }
        let chain: String = (0..64).map(|i| format!("v{} = relu(v{i}) ", i + 1)).collect();
        assert_eq!(refused(&format!("v0 = exp(x) {chain} return v64")), [("v0".to_string(), Refusal::Full)]);
    }

    #[test]
    fn what_would_take_longer_is_told_with_both_times() {
        let sums = "p = reduce_sum[axes=[1]](a) q = reduce_sum[axes=[1]](b) return p, q";
        let found = refused(&format!("t = tan(x) a = mul(x, t) b = add(x, t) {sums}"));
        assert_eq!(found.iter().map(|(value, _)| value.as_str()).collect::<Vec<_>>(), ["t", "t"]);
        for (_, refusal) in found {
            assert!(matches!(refusal, Refusal::Dearer { joined, apart } if joined >= apart), "{refusal:?}");
            assert!(refusal.reason().starts_with("by the cost model a run takes "), "{}", refusal.reason());
        }
        assert_eq!(refused(&format!("t = relu(x) a = mul(x, t) b = add(x, t) {sums}")), []);
    }
}
