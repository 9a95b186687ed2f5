//! Ops with a kernel of their own, which takes operands from memory and makes all results at once.
//!
//! ```text
//! v, i = top_k[axis=1, k=5](x)   =>   top_k for o in N, within in 1 { v, i = 5 largest of 80 of x }
//! ```

use super::{Failure, Lowering, Place};
use crate::kernel::{Axis, Body, BufferId, TopK};
use egret_ir::{Dim, Node, NodeId, Op, ValueId};

/// Whether an op has a kernel of its own, where it is not spelled out.
pub(super) fn is_alone(op: &Op) -> bool {
    let recurs = matches!(op, Op::lstm { .. } | Op::gru { .. } | Op::rnn { .. });
    let is_in_order = matches!(op, Op::cumsum { .. } | Op::cumprod { .. } | Op::scatter_elements { .. } | Op::scatter_nd { .. });
    recurs || is_in_order || matches!(op, Op::top_k { .. })
}

impl Lowering<'_> {
    /// The node that makes a value which is not there yet, if it has a kernel of its own.
    pub(super) fn alone(&self, value: ValueId) -> Option<NodeId> {
        let node = self.scope.graph().producer(value)?;
        (is_alone(&self.scope.graph().node(node).op) && self.scope.place(value).is_none()).then_some(node)
    }

    /// Adds the launches of such a node; its results go to the region's results or to scratch memory.
    pub(super) fn compute_alone(&mut self, node: NodeId) -> Result<(), Failure> {
        let graph = &self.scope.region.graph;
        let node = graph.node(node);
        match &node.op {
            Op::top_k { axis, k, largest } => self.top_k(node, *axis, k, *largest),
            Op::lstm { .. } | Op::gru { .. } | Op::rnn { .. } => self.recurrence(node),
            _ => self.serial(node),
        }
    }

    fn top_k(&mut self, node: &Node, axis: usize, k: &Dim, largest: bool) -> Result<(), Failure> {
        let dims = &self.scope.region.graph.ty(node.operands[0]).dims;
        let product = |dims: &[Dim]| dims.iter().cloned().product::<Dim>();
        let rows = [Axis::new("%outer", product(&dims[..axis])), Axis::new("%inner", product(&dims[axis + 1..]))];
        let [x, values, indices] = [BufferId(0), BufferId(1), BufferId(2)];
        let body = TopK { rows, extent: dims[axis].clone(), count: k.clone(), largest, x, values, indices };
        let mut buffers = vec![self.in_memory(node, node.operands[0])?];
        buffers.extend(node.results.iter().map(|&result| self.destination(result)).collect::<Vec<_>>());
        self.launch(Body::TopK(body), vec![], &buffers, node.results[0]);
        Ok(())
    }

    /// An operand in memory.
    pub(super) fn in_memory(&mut self, node: &Node, value: ValueId) -> Result<Place, Failure> {
        if self.scope.place(value).is_none() {
            let outputs: Vec<(ValueId, Place)> = node.results.iter().map(|&r| (r, Place::Result(0))).collect();
            self.materialise(value, &outputs)?;
        }
        self.scope.place(value).ok_or_else(|| Failure { value, reason: "it is not in memory".to_string() })
    }

    /// Where a result goes: to the region's result that it is, or to scratch memory.
    pub(super) fn destination(&mut self, value: ValueId) -> Place {
        let graph = &self.scope.region.graph;
        let place = match graph.results.iter().position(|r| *r == value) {
            Some(i) => Place::Result(i),
            None => {
                let ty = graph.ty(value);
                self.add_scratch(graph.value(value).name.to_string(), ty.dtype, ty.count())
            }
        };
        self.scope.computed.insert(value, place.clone());
        place
    }
}
