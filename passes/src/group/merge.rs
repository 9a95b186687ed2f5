//! Contractions that read the same values can be one: their weights side by side, their results slices of its result.
//!
//! ```text
//! q = matmul(x, v); r = add(q, a)              m = matmul(x, concat[axis=1](v, w))
//! k = matmul(x, w); l = add(k, b)       =>     n = add(m, concat[axis=0](a, b))        r ≡ slice of n, l ≡ slice of n
//! ```
//!
//! The other way round, slices of a product are products with slices of its weights (see `part`), each of which can be stored
//! where it belongs. Products of one operand that are stored apart are a *family*: one kernel can do all of them.
//!
//! All contractions of one operand whose shapes agree are merged at once, not in pairs: pairs of pairs have no end. What every
//! one of them is followed by, such as a bias or an activation, is merged with them. The merged nodes stand beside the old ones;
//! which are computed is chosen with the groups. It saves reading the operand again and starting a kernel, and costs what the
//! slices take away from those that read them.
//!
//! Invariant: what stands for a value, its *twin*, comes before the node that makes the value.

use super::part::{Parted, all_parted};
use crate::role::Role;
use egret_ir::attr::Layout;
use egret_ir::{Copy, Dim, Graph, Node, NodeId, Op, ValueId};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// A graph with other ways to compute some of its values.
pub struct Network {
    /// The nodes, merged ones among them.
    pub graph: Graph,
    roles: Vec<Role>,
    results: HashSet<ValueId>,
    /// What makes the same as a node: a slice of a merged value, or the product of which a slice is the result.
    twins: HashMap<NodeId, NodeId>,
    /// The value for which a twin stands.
    stands_for: HashMap<NodeId, ValueId>,
    /// Nodes that join or take apart weights.
    known: HashSet<NodeId>,
    /// Contractions of one operand.
    families: Vec<Vec<NodeId>>,
}

impl Network {
    /// The graph as it is.
    ///
    /// # Errors
    /// Never; as [`Network::with_merged`].
    pub fn plain(graph: &Graph) -> Result<Network, String> {
        Network::merging(graph, &[], &[])
    }

    /// The graph with what can be merged in it.
    ///
    /// # Errors
    /// Only if a merged node does not type-check, which would be a bug of this module.
    pub fn with_merged(graph: &Graph) -> Result<Network, String> {
        Network::merging(graph, &all_siblings(graph), &all_parted(graph))
    }

    fn merging(old: &Graph, all: &[Siblings], parted: &[Parted]) -> Result<Network, String> {
        let mut copy = Copy::new(old, Clone::clone);
        let (mut pairs, mut families, mut known) = (vec![], vec![], HashSet::new());
        for (id, node) in old.node_ids() {
            for siblings in all.iter().filter(|s| s.nodes[0] == id) {
                pairs.extend(siblings.merge(&mut copy, &mut known)?);
            }
            for parted in parted.iter().filter(|p| p.node == id) {
                let parts = parted.parts(&mut copy, &mut known)?;
                families.push(parts.iter().map(|part| part.product).collect());
                pairs.extend(parts.iter().map(|part| (part.slice, part.twin)));
            }
            copy.node(node)?;
        }
        families.extend(all.iter().map(|s| s.nodes.iter().map(|&n| copy.value(old.node(n).results[0])).collect::<Vec<_>>()));
        let pairs: Vec<(ValueId, ValueId)> = pairs.into_iter().map(|(old, twin)| (copy.value(old), twin)).collect();
        let graph = copy.finish();
        let maker = |v: ValueId| graph.producer(v).expect("merged values are made by nodes");
        Ok(Network {
            roles: graph.nodes().iter().map(|n| Role::of(&graph, n)).collect(),
            results: graph.results.iter().copied().collect(),
            twins: pairs.iter().map(|&(value, twin)| (maker(value), maker(twin))).collect(),
            stands_for: pairs.iter().map(|&(value, twin)| (maker(twin), value)).collect(),
            families: families.iter().map(|f| f.iter().map(|&v| maker(v)).collect()).collect(),
            known,
            graph,
        })
    }

    /// Contractions of one operand that one kernel can do.
    pub fn families(&self) -> &[Vec<NodeId>] {
        &self.families
    }

    /// Whether a node is a twin that takes a part of a merged value.
    pub fn takes_part(&self, node: NodeId) -> bool {
        self.stands_for.contains_key(&node) && matches!(self.graph.node(node).op, Op::slice { .. })
    }

    /// The role of a node.
    pub fn role(&self, node: NodeId) -> Role {
        self.roles[node.index()]
    }

    /// Whether a value leaves the graph.
    pub fn is_result(&self, value: ValueId) -> bool {
        self.results.contains(&value)
    }

    /// What makes the same as a node.
    pub fn twin_of(&self, node: NodeId) -> Option<NodeId> {
        self.twins.get(&node).copied()
    }

    /// Whether a slice that is the result of a product of its own would be stored as it is, and not as what follows it.
    pub fn is_stored(&self, slice: NodeId) -> bool {
        let mut value = self.graph.node(slice).results[0];
        let is_result_of_product = self.twin_of(slice).is_some_and(|twin| !self.takes_part(twin));
        let several = |value: ValueId| self.graph.readers(value).len() != 1;
        if !is_result_of_product || several(value) {
            return is_result_of_product;
        }
        while let Some(reader) = only_reader(&self.graph, value) {
            match Role::of(&self.graph, reader) {
                Role::View => value = reader.results[0],
                Role::Elementwise | Role::Join => return false,
                Role::Gather | Role::Rows | Role::Contract | Role::Window | Role::Alone => return true,
            }
        }
        false
    }

    /// The value for which a twin stands.
    pub fn stands_for(&self, twin: NodeId) -> Option<ValueId> {
        self.stands_for.get(&twin).copied()
    }

    /// Whether a node joins or takes apart weights, and is computed by the compiler.
    pub fn is_known(&self, node: NodeId) -> bool {
        self.known.contains(&node)
    }

    /// Whether the compiler knows a value.
    pub fn is_weight(&self, value: ValueId) -> bool {
        self.graph.constant(value).is_some() || self.graph.producer(value).is_some_and(|n| self.is_known(n))
    }

    /// The nodes on which the results depend, in order.
    pub fn needed(&self) -> Vec<NodeId> {
        let mut needed = vec![false; self.graph.nodes().len()];
        let mut values = self.graph.results.clone();
        while let Some(value) = values.pop() {
            let Some(node) = self.graph.producer(value) else { continue };
            if !std::mem::replace(&mut needed[node.index()], true) {
                values.extend(&self.graph.node(node).operands);
            }
        }
        (0..needed.len()).filter(|&i| needed[i]).map(NodeId::at).collect()
    }
}

/// Contractions that can be one, and what follows all of them.
struct Siblings {
    /// The contractions, in order.
    nodes: Vec<NodeId>,
    /// What follows, each level one op on every sibling.
    tail: Vec<Level>,
    /// What each sibling makes after its tail.
    tops: Vec<ValueId>,
}

/// The same op on the results of all siblings.
struct Level {
    op: Op,
    /// Which operand is the sibling's value.
    position: usize,
    /// The other operands.
    others: Vec<Other>,
    origin: Vec<Arc<str>>,
}

/// An operand of a level.
enum Other {
    /// A constant of one element, the same for all siblings.
    Shared(ValueId),
    /// A constant for the columns of each.
    Columns(Vec<ValueId>),
}

fn all_siblings(graph: &Graph) -> Vec<Siblings> {
    let mut all: Vec<Vec<NodeId>> = vec![];
    for (id, node) in graph.node_ids().filter(|(_, n)| is_mergeable(graph, n)) {
        let fits = |s: &&mut Vec<NodeId>| are_alike(graph, graph.node(s[0]), node);
        match graph.readers(node.operands[0]).len() {
            0 | 1 => {}
            _ => match all.iter_mut().find(fits) {
                Some(siblings) => siblings.push(id),
                None => all.push(vec![id]),
            },
        }
    }
    all.into_iter().filter(|nodes| nodes.len() > 1).map(|nodes| Siblings::new(graph, nodes)).collect()
}

/// Whether a node is a contraction with weights whose columns are their innermost axis.
pub fn is_mergeable(graph: &Graph, node: &Node) -> bool {
    let is_weight = |v: ValueId| graph.constant(v).is_some();
    match &node.op {
        Op::matmul => is_weight(node.operands[1]) && graph.ty(node.operands[1]).rank() == 2,
        Op::conv { group: 1, layout: Layout::Last, .. } => is_weight(node.operands[1]),
        _ => false,
    }
}

/// Whether two contractions read the same, and differ at most in their columns.
fn are_alike(graph: &Graph, a: &Node, b: &Node) -> bool {
    let weights = |n: &Node| graph.ty(n.operands[1]);
    let but_columns = |n: &Node| weights(n).dims.split_last().map(|(_, rest)| rest.to_vec());
    a.operands[0] == b.operands[0] && a.op == b.op && weights(a).dtype == weights(b).dtype && but_columns(a) == but_columns(b)
}

impl Siblings {
    fn new(graph: &Graph, nodes: Vec<NodeId>) -> Siblings {
        let mut siblings = Siblings { tops: nodes.iter().map(|&n| graph.node(n).results[0]).collect(), nodes, tail: vec![] };
        while let Some((level, tops)) = siblings.next_level(graph) {
            siblings.tail.push(level);
            siblings.tops = tops;
        }
        siblings
    }

    /// The op that follows every sibling and nothing else does, if it can be done to all columns at once.
    fn next_level(&self, graph: &Graph) -> Option<(Level, Vec<ValueId>)> {
        let readers: Vec<&Node> = self.tops.iter().map(|&top| only_reader(graph, top)).collect::<Option<_>>()?;
        let (first, position) = (readers[0], position(readers[0], self.tops[0])?);
        let is_alike = |(reader, &top): (&&Node, &ValueId)| {
            reader.op == first.op
                && reader.operands.iter().filter(|v| **v == top).count() == 1
                && reader.operands.get(position) == Some(&top)
                && graph.ty(reader.results[0]) == graph.ty(top)
        };
        if Role::of(graph, first) != Role::Elementwise || !readers.iter().zip(&self.tops).all(is_alike) {
            return None;
        }
        let others = (0..first.operands.len()).filter(|&i| i != position);
        let others = others.map(|i| self.other(graph, &readers, i)).collect::<Option<_>>()?;
        let origin = origins(readers.iter().copied());
        Some((Level { op: first.op.clone(), position, others, origin }, readers.iter().map(|r| r.results[0]).collect()))
    }

    /// Operand `i` of the ops that follow.
    fn other(&self, graph: &Graph, readers: &[&Node], i: usize) -> Option<Other> {
        let values: Vec<ValueId> = readers.iter().map(|r| r.operands[i]).collect();
        let tensors: Vec<_> = values.iter().map(|&v| graph.constant(v)).collect::<Option<_>>()?;
        if tensors.iter().all(|t| t.count() == 1 && *t == tensors[0]) {
            return Some(Other::Shared(values[0]));
        }
        let columns = |(v, top): (&ValueId, &ValueId)| {
            let (dims, all) = (&graph.ty(*v).dims, &graph.ty(*top).dims);
            dims.len() == graph.ty(values[0]).dims.len() && dims.last() == all.last() && graph.ty(*v).count() == all[all.len() - 1]
        };
        values.iter().zip(&self.tops).all(columns).then_some(Other::Columns(values))
    }

    /// Adds the merged nodes to a copy; gives each top, an old value, with the slice that makes the same, a new one.
    fn merge(&self, copy: &mut Copy, known: &mut HashSet<NodeId>) -> Result<Vec<(ValueId, ValueId)>, String> {
        let old = copy.old;
        let first = old.node(self.nodes[0]);
        let name = format!("{}.merged", old.value(first.results[0]).name);
        let weights: Vec<ValueId> = self.nodes.iter().map(|&n| old.node(n).operands[1]).collect();
        let x = copy.value(first.operands[0]);
        let w = join(copy, &weights, known)?;
        let mut merged = add(copy, first.op.clone(), &[x, w], &name, origins(self.nodes.iter().map(|&n| old.node(n))))?;
        for level in &self.tail {
            let mut operands = vec![];
            for other in &level.others {
                operands.push(match other {
                    Other::Shared(value) => copy.value(*value),
                    Other::Columns(values) => join(copy, values, known)?,
                });
            }
            operands.insert(level.position, merged);
            merged = add(copy, level.op.clone(), &operands, &name, level.origin.clone())?;
        }
        self.slices(copy, merged)
    }

    fn slices(&self, copy: &mut Copy, merged: ValueId) -> Result<Vec<(ValueId, ValueId)>, String> {
        let (mut start, mut twins) = (Dim::ZERO, vec![]);
        for &top in &self.tops {
            let shape = copy.old.ty(top).dims.clone();
            let last = shape.len() - 1;
            let from: Vec<Dim> = (0..=last).map(|axis| if axis == last { start.clone() } else { Dim::ZERO }).collect();
            start = start + shape[last].clone();
            let name = format!("{}.part", copy.old.value(top).name);
            let op = Op::slice { start: from, step: vec![1; shape.len()], shape };
            twins.push((top, add(copy, op, &[merged], &name, vec![])?));
        }
        Ok(twins)
    }
}

/// The nodes of the model from which some nodes came.
fn origins<'a>(nodes: impl Iterator<Item = &'a Node>) -> Vec<Arc<str>> {
    let all: BTreeSet<Arc<str>> = nodes.flat_map(|n| n.origin.iter().cloned()).collect();
    all.into_iter().collect()
}

/// The node that reads a value, if it is one, and the value does not leave the graph.
pub fn only_reader(graph: &Graph, value: ValueId) -> Option<&Node> {
    match graph.readers(value) {
        [reader] if !graph.results.contains(&value) => Some(graph.node(*reader)),
        _ => None,
    }
}

pub fn position(node: &Node, value: ValueId) -> Option<usize> {
    node.operands.iter().position(|&v| v == value)
}

/// Constants joined along their innermost axis.
fn join(copy: &mut Copy, values: &[ValueId], known: &mut HashSet<NodeId>) -> Result<ValueId, String> {
    let axis = copy.old.ty(values[0]).rank() - 1;
    let name = format!("{}.merged", copy.old.value(values[0]).name);
    let operands = copy.values(values);
    known.insert(NodeId::at(copy.new.nodes().len()));
    add(copy, Op::concat { axis }, &operands, &name, vec![])
}

pub fn add(copy: &mut Copy, op: Op, operands: &[ValueId], name: &str, origin: Vec<Arc<str>>) -> Result<ValueId, String> {
    Ok(copy.new.add_node(op, operands, &[name], origin)?[0])
}
