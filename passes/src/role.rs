//! What an op can be in a kernel: at most one anchor, with elementwise ops and views around it.

use egret_ir::attr::Layout;
use egret_ir::{Dim, Graph, Kind, Node, Op, ValueId, expand};

/// What an op can be in a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads each operand at the output's own index, up to broadcasting.
    Elementwise,
    /// Renames indices, or computes from indices; costs next to nothing to do again.
    View,
    /// Reads at an index that depends on data, or several neighbours.
    Gather,
    /// Writes parts of its output from different places; can only be a kernel's last op, or have a border around it.
    Join,
    /// A reduction over rows.
    Rows,
    /// A product of matrices, a dense convolution, or an attention.
    Contract,
    /// A pool or a depthwise convolution.
    Window,
    /// Has a kernel to itself.
    Alone,
}

impl Role {
    /// The role of a node.
    pub fn of(graph: &Graph, node: &Node) -> Role {
        match (&node.op, node.op.def().kind) {
            (_, Kind::Elementwise) | (Op::bit_cast { .. }, _) => Role::Elementwise,
            (_, Kind::View) | (Op::iota { .. } | Op::dims { .. }, _) => Role::View,
            (_, Kind::Reduce) => Role::Rows,
            (op, Kind::Composite) => {
                if expand::is_elementwise_composite(op) {
                    Role::Elementwise
                } else {
                    Role::Rows
                }
            }
            (Op::gather { .. } | Op::gather_elements { .. } | Op::gather_nd { .. } | Op::resize { .. }, _) => Role::Gather,
            (Op::concat { .. } | Op::pad { .. }, _) => Role::Join,
            (Op::arg_max { .. } | Op::arg_min { .. }, _) => Role::Rows,
            (Op::matmul | Op::matmul_blocks { .. } | Op::attention { .. }, _) => Role::Contract,
            (Op::conv { group, layout: Layout::Last, .. }, _) => {
                if is_depthwise(graph, node, *group) {
                    Role::Window
                } else {
                    Role::Contract
                }
            }
            (Op::max_pool { .. } | Op::avg_pool { .. }, _) => Role::Window,
            (_, Kind::Structured) => Role::Alone,
        }
    }

    /// Whether a kernel has at most one of it.
    pub fn is_anchor(self) -> bool {
        matches!(self, Role::Rows | Role::Contract | Role::Window | Role::Alone)
    }
}

/// One filter per channel: as many groups as input and as output channels.
fn is_depthwise(graph: &Graph, node: &Node, group: usize) -> bool {
    let channels = |v: ValueId| graph.ty(v).dims.last().cloned();
    group > 1 && channels(node.operands[0]) == Some(Dim::from(group)) && channels(node.results[0]) == Some(Dim::from(group))
}

/// Whether several kernels may each do a node for themselves: it moves no data of its own.
pub fn is_free(op: &Op) -> bool {
    matches!(op, Op::reshape { .. } | Op::broadcast { .. } | Op::slice { .. } | Op::iota { .. } | Op::dims { .. })
}

/// Whether a permutation moves the innermost axis, so that neighbours in memory are no longer neighbours.
pub fn moves_innermost(perm: &[usize]) -> bool {
    perm.last().is_some_and(|&last| last + 1 != perm.len())
}
