//! Groups nodes into kernels: each group becomes one function of the artifact.
//!
//! A group has at most one *anchor* (a contraction, a window, a reduction over rows) and around it the elementwise ops and
//! views that cost nothing extra there: heads that feed the anchor, tails that the anchor feeds. Groups are grown
//! backwards from the last node: a producer joins when everything that reads it is in the group, so that it need never be
//! written to memory. Only the root's results leave a group, which also makes every group convex.
//!
//! ```text
//! h = matmul(x, w); hb = add(h, b); y = relu(hb)
//! =>
//! y = kernel k0(x, w, b) : f32[N, 128] { matmul · add · relu }
//! ```
//!
//! A reshape alone stays a node of its own: it moves nothing, and becomes an alias of its operand's buffer.

use egret_ir::attr::Layout;
use egret_ir::{Def, Dim, Graph, Kind, Node, NodeId, Op, ValueId, expand};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Fuses as far as the rules of the module allow.
///
/// # Errors
/// Only if a region does not type-check, which would be a bug of this pass.
pub fn group(graph: &Graph) -> Result<Graph, String> {
    Grouping::new(graph, Fusion::On).run()
}

/// Gives every op its own kernel: what fusion is compared with.
///
/// # Errors
/// As [`group`].
pub fn ungrouped(graph: &Graph) -> Result<Graph, String> {
    Grouping::new(graph, Fusion::Off).run()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fusion {
    On,
    Off,
}

/// What an op can be in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Reads each operand at the output's own index, up to broadcasting.
    Elementwise,
    /// Renames indices, or computes from indices; costs next to nothing to do again.
    View,
    /// Reads at an index that depends on data, or several neighbours.
    Gather,
    /// Writes parts of its output from different places; can only be a group's last op, or have a border around it.
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

fn role(graph: &Graph, node: &Node) -> Role {
    match (&node.op, node.op.def().kind) {
        (_, Kind::Elementwise) => Role::Elementwise,
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
        (Op::matmul | Op::attention { .. }, _) => Role::Contract,
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

/// One filter per channel: as many groups as input and as output channels.
fn is_depthwise(graph: &Graph, node: &Node, group: usize) -> bool {
    let channels = |v: ValueId| graph.ty(v).dims.last().cloned();
    group > 1 && channels(node.operands[0]) == Some(Dim::from(group)) && channels(node.results[0]) == Some(Dim::from(group))
}

struct Grouping<'a> {
    graph: &'a Graph,
    fusion: Fusion,
    roles: Vec<Role>,
    uses: HashMap<ValueId, Vec<NodeId>>,
    /// Values that must be in memory: read by a group already formed, or results of the graph.
    needed: HashSet<ValueId>,
}

/// A group that is being grown.
struct Group {
    root: NodeId,
    members: BTreeSet<NodeId>,
    anchor: Option<NodeId>,
    /// Members that compute exactly one element per element of the root, at the same index.
    aligned: HashSet<NodeId>,
    /// Members between the anchor of a contraction and its operands: views only.
    operand_views: HashSet<NodeId>,
}

impl<'a> Grouping<'a> {
    fn new(graph: &'a Graph, fusion: Fusion) -> Grouping<'a> {
        Grouping {
            graph,
            fusion,
            roles: graph.nodes().iter().map(|n| role(graph, n)).collect(),
            uses: graph.uses(),
            needed: graph.results.iter().copied().collect(),
        }
    }

    fn run(mut self) -> Result<Graph, String> {
        let mut groups = vec![];
        for (id, node) in self.graph.node_ids().rev() {
            if node.results.iter().any(|r| self.needed.contains(r)) {
                let group = self.grow(id);
                self.needed.extend(self.inputs(&group));
                groups.push(group);
            }
        }
        groups.reverse();
        self.emit(&groups)
    }

    fn role(&self, node: NodeId) -> Role {
        self.roles[node.index()]
    }

    fn result_dims(&self, node: NodeId) -> &'a [Dim] {
        &self.graph.ty(self.graph.node(node).results[0]).dims
    }

    fn count(&self, node: NodeId) -> Dim {
        self.result_dims(node).iter().cloned().product()
    }

    /// Takes producers in until none fits.
    fn grow(&self, root: NodeId) -> Group {
        let is_anchor = matches!(self.role(root), Role::Rows | Role::Contract | Role::Window | Role::Alone);
        let mut group = Group {
            root,
            members: BTreeSet::from([root]),
            anchor: is_anchor.then_some(root),
            aligned: HashSet::from([root]),
            operand_views: HashSet::new(),
        };
        if self.fusion == Fusion::Off || self.role(root) == Role::Alone {
            return group;
        }
        while let Some(producer) = self.next_member(&group) {
            self.join(&mut group, producer);
        }
        group
    }

    /// The latest producer that may join. Later first: the tail of an anchor is taken before a second anchor is met.
    fn next_member(&self, group: &Group) -> Option<NodeId> {
        let operands = group.members.iter().flat_map(|&m| &self.graph.node(m).operands);
        let producers: BTreeSet<NodeId> = operands.filter_map(|&v| self.graph.producer(v)).filter(|p| !group.members.contains(p)).collect();
        producers.into_iter().rev().find(|&p| self.may_join(group, p))
    }

    fn join(&self, group: &mut Group, producer: NodeId) {
        let readers = self.readers_in(group, producer);
        let aligned = readers.iter().all(|&r| self.reads_aligned(group, r, producer));
        if aligned {
            group.aligned.insert(producer);
        }
        if self.feeds_contraction(group, &readers) {
            group.operand_views.insert(producer);
        }
        if matches!(self.role(producer), Role::Rows | Role::Contract | Role::Window) {
            group.anchor = Some(producer);
        }
        group.members.insert(producer);
    }

    fn readers_in(&self, group: &Group, producer: NodeId) -> Vec<NodeId> {
        let results = &self.graph.node(producer).results;
        group.members.iter().copied().filter(|&m| self.graph.node(m).operands.iter().any(|v| results.contains(v))).collect()
    }

    /// Whether `reader` reads each element of `producer` once, and neighbours as neighbours: an elementwise op without
    /// broadcasting, the tensor inside a pad, or a view that keeps the innermost axis where it is (the heads of an attention).
    fn reads_aligned(&self, group: &Group, reader: NodeId, producer: NodeId) -> bool {
        let neighbours = match &self.graph.node(reader).op {
            Op::pad { .. } | Op::reshape { .. } => true,
            Op::transpose { perm } => perm.last() == Some(&(perm.len() - 1)),
            _ => self.role(reader) == Role::Elementwise && self.result_dims(reader) == self.result_dims(producer),
        };
        group.aligned.contains(&reader) && neighbours
    }

    fn feeds_contraction(&self, group: &Group, readers: &[NodeId]) -> bool {
        let is_contraction = |n: &NodeId| group.anchor == Some(*n) && self.role(*n) == Role::Contract;
        readers.iter().any(|r| is_contraction(r) || group.operand_views.contains(r))
    }

    fn may_join(&self, group: &Group, producer: NodeId) -> bool {
        let readers = self.readers_in(group, producer);
        if self.graph.node(producer).results.len() != 1 || !self.dies_in(group, producer) && !self.is_free(producer) {
            return false;
        }
        if self.feeds_contraction(group, &readers) {
            return self.may_feed_contraction(group, producer, &readers);
        }
        // A window reads every element many times: nothing is computed in it, but it may read a part of a larger tensor.
        if readers.iter().any(|&r| group.anchor == Some(r) && self.role(r) == Role::Window) {
            return matches!(self.graph.node(producer).op, Op::slice { .. });
        }
        match self.role(producer) {
            Role::Elementwise => readers.iter().all(|&r| self.worth_recomputing(group, r, producer)),
            Role::View | Role::Gather => readers.iter().all(|&r| self.role(r) != Role::Join || self.role(producer) != Role::Gather),
            Role::Rows | Role::Contract | Role::Window => {
                group.anchor.is_none() && readers.iter().all(|&r| self.reads_aligned(group, r, producer))
            }
            // A border around the parts of a concat is one more part.
            Role::Join => readers.iter().all(|&r| matches!(self.graph.node(r).op, Op::pad { .. })),
            Role::Alone => false,
        }
    }

    /// Whether nothing outside the group reads what the producer makes.
    fn dies_in(&self, group: &Group, producer: NodeId) -> bool {
        self.graph.node(producer).results.iter().all(|r| {
            let readers = self.uses.get(r).map_or(&[][..], |v| v);
            !self.needed.contains(r) && readers.iter().all(|u| *u > group.root || group.members.contains(u))
        })
    }

    /// Whether several groups may each do it for themselves: it moves no data of its own.
    fn is_free(&self, node: NodeId) -> bool {
        matches!(self.graph.node(node).op, Op::reshape { .. } | Op::broadcast { .. } | Op::slice { .. } | Op::iota { .. } | Op::dims { .. })
    }

    /// Whether computing `producer` where `reader` reads it costs no more than computing it once per element.
    fn worth_recomputing(&self, group: &Group, reader: NodeId, producer: NodeId) -> bool {
        let once = self.count(reader) == self.count(producer) || matches!(self.graph.node(reader).op, Op::slice { .. });
        match self.role(reader) {
            Role::Rows if group.anchor == Some(reader) => {
                self.graph.node(reader).operands.first().is_some_and(|&x| self.graph.producer(x) == Some(producer))
            }
            // An index is computed per slice that it picks; the data would be computed per pick.
            Role::Gather => self.graph.node(reader).operands.first().is_none_or(|&x| self.graph.producer(x) != Some(producer)),
            Role::Join => true,
            _ => once,
        }
    }

    /// Operands of a contraction are read in place, many times each: only views whose strides stay linear may stand
    /// between them and memory, so nothing but reshapes below a reshape that merges axes.
    fn may_feed_contraction(&self, group: &Group, producer: NodeId, readers: &[NodeId]) -> bool {
        let below_reshape = readers.iter().any(|&r| self.merges_axes(r));
        let linear = match self.graph.node(producer).op {
            Op::reshape { .. } => true,
            Op::transpose { .. } | Op::slice { .. } | Op::broadcast { .. } => !below_reshape,
            _ => false,
        };
        linear && readers.iter().all(|r| group.anchor == Some(*r) || group.operand_views.contains(r))
    }

    fn merges_axes(&self, node: NodeId) -> bool {
        let input = |n: &Node| self.graph.ty(n.operands[0]).dims.clone();
        matches!(self.graph.node(node).op, Op::reshape { .. }) && !only_splits(&input(self.graph.node(node)), self.result_dims(node))
    }

    /// What a group reads from memory, in the order of first use.
    fn inputs(&self, group: &Group) -> Vec<ValueId> {
        let mut inputs: Vec<ValueId> = vec![];
        for &member in &group.members {
            for &v in &self.graph.node(member).operands {
                let inside = self.graph.producer(v).is_some_and(|p| group.members.contains(&p));
                if !inside && !self.is_inline_constant(v) && !inputs.contains(&v) {
                    inputs.push(v);
                }
            }
        }
        inputs
    }

    /// Constants of one value are written into the kernel's code.
    fn is_inline_constant(&self, v: ValueId) -> bool {
        self.graph.constant(v).is_some_and(|t| t.count() == 1)
    }

    fn emit(&self, groups: &[Group]) -> Result<Graph, String> {
        let mut copy = egret_ir::Copy::new(self.graph, Clone::clone);
        for (i, group) in groups.iter().enumerate() {
            let root = self.graph.node(group.root);
            if group.members.len() == 1 && matches!(root.op, Op::reshape { .. }) {
                copy.node(root)?;
                continue;
            }
            let inputs = self.inputs(group);
            let region = self.region(group, &inputs)?;
            let operands = copy.values(&inputs);
            let names: Vec<&str> = root.results.iter().map(|&r| &*self.graph.value(r).name).collect();
            let results = copy.new.add_kernel(&format!("k{i}"), region, &operands, &names, self.origin(group))?;
            root.results.iter().zip(results).for_each(|(&old, new)| copy.set(old, new));
        }
        Ok(copy.finish())
    }

    /// The group's nodes as a graph of their own, with the outer names.
    fn region(&self, group: &Group, inputs: &[ValueId]) -> Result<Graph, String> {
        let mut region = Graph::new("");
        let mut map: HashMap<ValueId, ValueId> = HashMap::new();
        for &input in inputs {
            let value = self.graph.value(input);
            map.insert(input, region.add_param(&value.name, value.ty.clone()));
        }
        for &member in &group.members {
            let node = self.graph.node(member);
            let mut operands = vec![];
            for &v in &node.operands {
                let inner = match (map.get(&v), &self.graph.value(v).def) {
                    (Some(&inner), _) => inner,
                    (None, Def::Const(tensor, source)) => region.add_const_from(&self.graph.value(v).name, tensor.clone(), source.clone()),
                    (None, _) => return Err(format!("`{}` is read before it is made", self.graph.value(v).name)),
                };
                map.insert(v, inner);
                operands.push(inner);
            }
            let names: Vec<&str> = node.results.iter().map(|&r| &*self.graph.value(r).name).collect();
            let results = region.add_node(node.op.clone(), &operands, &names, node.origin.clone())?;
            node.results.iter().zip(results).for_each(|(&old, new)| {
                map.insert(old, new);
            });
        }
        for &result in &self.graph.node(group.root).results {
            let name = self.graph.value(result).name.clone();
            region.add_result(map[&result], &name);
        }
        Ok(region)
    }

    fn origin(&self, group: &Group) -> Vec<Arc<str>> {
        let origins: BTreeSet<Arc<str>> = group.members.iter().flat_map(|&m| self.graph.node(m).origin.iter().cloned()).collect();
        origins.into_iter().collect()
    }
}

/// Whether every input axis becomes one or more neighbouring output axes: an index into the input is then linear in an
/// index into the output, whatever lies below.
fn only_splits(input: &[Dim], output: &[Dim]) -> bool {
    let mut output = output.iter();
    for dim in input.iter().filter(|d| !d.is(1)) {
        let mut product = Dim::ONE;
        while product != *dim {
            match output.next() {
                Some(part) => product = product * part.clone(),
                None => return false,
            }
        }
    }
    output.all(|d| d.is(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_and_merges() {
        let dims = |d: &[i64]| d.iter().map(|&d| Dim::from(d)).collect::<Vec<_>>();
        let splits = |a: &[i64], b: &[i64]| only_splits(&dims(a), &dims(b));
        assert!(splits(&[1, 128, 768], &[1, 128, 12, 64]));
        assert!(splits(&[6, 4], &[2, 3, 1, 4]));
        assert!(!splits(&[128, 12, 64], &[128, 768]));
        assert!(!splits(&[4, 6], &[6, 4]));
    }
}
