//! The groups that can compute what a node makes: the node alone, and all that grow from it by taking producers in.
//!
//! Producers are asked in one order, the latest first, so that all who may read a producer have been asked before it. One that
//! moves no data, or that only the group reads and that is computed once per element there, joins: that saves memory traffic
//! and adds no work. For any other that may join there are two groups, one with it and one that reads its result.
//!
//! ```text
//! s = add(conv(x, v), conv(y, w)); y = relu(s)     groups of y: {relu, add}, {relu, add, first conv}, {relu, add, second conv}
//! ```

use super::merge::Network;
use crate::refusal::Refusal;
use crate::role::{Role, is_free};
use egret_ir::{DType, Dim, Graph, Node, NodeId, Op, ValueId};
use std::collections::{BTreeSet, HashSet};

/// A kernel has at most so many ops: its code grows with them, and beyond some dozens values no longer fit in registers.
const MOST_MEMBERS: usize = 64;

/// A group does at most so many ops again that others do, too: without a bound a norm could add up the sums of all layers before it.
const MOST_AGAIN: usize = 3;

/// At most so many groups are looked at per class: with six choices that do not depend on each other there are as many.
const MOST_GROUPS: usize = 64;

/// A group that is being grown.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its last node: what leaves the group.
    pub root: NodeId,
    /// Its nodes, in order.
    pub members: BTreeSet<NodeId>,
    /// The node for whose results those of the root stand: the root, but for a twin.
    pub stands_for: NodeId,
    /// Its member of which a kernel has at most one, if there is one.
    pub anchor: Option<NodeId>,
    /// Members that compute exactly one element per element of the root, at the same index.
    aligned: HashSet<NodeId>,
    /// Members of which each element is computed at most once.
    once: HashSet<NodeId>,
    /// Members between the anchor of a contraction and its operands: views only.
    operand_views: HashSet<NodeId>,
}

/// Groups that are done by one kernel, in the order of their roots: what leaves it is what leaves each of them.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// One at least.
    pub groups: Vec<Group>,
}

impl Kernel {
    /// All of it as one group.
    pub fn whole(&self) -> Group {
        let mut whole = self.groups[self.groups.len() - 1].clone();
        whole.members.extend(self.groups.iter().flat_map(|g| &g.members));
        whole
    }
}

impl Group {
    /// A node alone.
    pub fn of(network: &Network, root: NodeId) -> Group {
        Group {
            root,
            members: BTreeSet::from([root]),
            stands_for: root,
            anchor: network.role(root).is_anchor().then_some(root),
            aligned: HashSet::from([root]),
            once: HashSet::from([root]),
            operand_views: HashSet::new(),
        }
    }

    /// A node whose results stand for those of another.
    pub fn standing_for(network: &Network, root: NodeId, node: NodeId) -> Group {
        Group { stands_for: node, ..Group::of(network, root) }
    }

    /// The member that makes an operand of a member: its own producer, or its twin.
    pub fn source(&self, network: &Network, value: ValueId) -> Option<NodeId> {
        let own = network.graph.producer(value)?;
        let twin = || network.twin_of(own).filter(|t| self.members.contains(t));
        if self.members.contains(&own) { Some(own) } else { twin() }
    }

    /// The condition that keeps the producer of what the group reads from being a member; none if it may be one.
    pub fn refusal(&self, network: &Network, producer: NodeId) -> Option<Refusal> {
        if network.role(self.root) == Role::Alone {
            return Some(Refusal::ReaderAlone);
        }
        // Each sibling takes its part of a merged value.
        if network.takes_part(self.root) {
            return Some(Refusal::ReadElsewhere);
        }
        let joins = InGroup { network, group: self }.may_join(producer);
        joins.err().or((self.members.len() >= MOST_MEMBERS).then_some(Refusal::Full))
    }

    /// What a group reads from memory, in the order of first use.
    pub fn inputs(&self, network: &Network) -> Vec<ValueId> {
        let mut inputs: Vec<ValueId> = vec![];
        for &v in self.members.iter().flat_map(|&m| &network.graph.node(m).operands) {
            if self.source(network, v).is_none() && !crate::cost::is_inline(&network.graph, v) && !inputs.contains(&v) {
                inputs.push(v);
            }
        }
        inputs
    }
}

/// All groups that grow from one, and whether there are no more than were looked at.
pub fn grow(network: &Network, group: Group) -> (Vec<Group>, bool) {
    if network.role(group.root) == Role::Alone || network.takes_part(group.root) {
        return (vec![group], true);
    }
    let first = Growing { group, asked: BTreeSet::new(), again: 0 };
    let (mut groups, mut growing) = (vec![], vec![first]);
    while let Some(at) = growing.pop() {
        at.grow(network, &mut growing, &mut groups);
        if groups.len() + growing.len() > MOST_GROUPS {
            groups.extend(growing.into_iter().map(|g| g.group).take(1));
            return (groups, false);
        }
    }
    (groups, true)
}

/// A group, and the producers that have been asked.
#[derive(Clone)]
struct Growing {
    group: Group,
    asked: BTreeSet<NodeId>,
    /// Members whose values others read, too, and that take time.
    again: usize,
}

/// What can become of a producer that a group reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It stays outside: its result is read.
    Outside,
    /// It becomes a member.
    Joins,
    /// Its twin becomes a member.
    TwinJoins,
}

impl Growing {
    /// Asks producers until none is left; where there is a choice, what comes of the other ways is put aside.
    fn grow(mut self, network: &Network, aside: &mut Vec<Growing>, groups: &mut Vec<Group>) {
        while let Some(producer) = self.next(network) {
            self.asked.insert(producer);
            let steps = self.steps(network, producer);
            let (first, others) = steps.split_first().expect("one may always stay outside");
            aside.extend(others.iter().map(|&step| self.clone().after(network, producer, step)));
            self = self.after(network, producer, *first);
        }
        groups.push(self.group);
    }

    /// The latest producer that has not been asked.
    fn next(&self, network: &Network) -> Option<NodeId> {
        if self.group.members.len() >= MOST_MEMBERS {
            return None;
        }
        let operands = self.group.members.iter().flat_map(|&m| &network.graph.node(m).operands);
        let unmade = operands.filter(|&&v| self.group.source(network, v).is_none());
        unmade.filter_map(|&v| network.graph.producer(v)).filter(|p| !self.asked.contains(p) && !network.is_known(*p)).max()
    }

    fn steps(&self, network: &Network, producer: NodeId) -> Vec<Step> {
        let view = InGroup { network, group: &self.group };
        let (twin, readers) = (network.twin_of(producer), view.readers_of(producer));
        // A slice that is stored by itself may be worth reading from there.
        let is_stored = network.is_stored(producer);
        let mut steps = match view.may_join(producer) {
            Err(_) => vec![Step::Outside],
            Ok(()) if view.is_done_again(producer) && self.again >= MOST_AGAIN => vec![Step::Outside],
            Ok(()) if view.costs_nothing(producer) && !is_stored => vec![Step::Joins],
            Ok(()) => vec![Step::Joins, Step::Outside],
        };
        if twin.is_some_and(|twin| view.may_feed(twin, &readers).is_ok()) && !(is_stored && view.feeds_contraction(&readers)) {
            steps.push(Step::TwinJoins);
        }
        steps
    }

    fn after(mut self, network: &Network, producer: NodeId, step: Step) -> Growing {
        match (step, network.twin_of(producer)) {
            (Step::Outside, _) | (Step::TwinJoins, None) => {}
            (Step::Joins, _) => {
                self.again += usize::from(InGroup { network, group: &self.group }.is_done_again(producer));
                self.join(network, producer, producer);
            }
            (Step::TwinJoins, Some(twin)) => self.join(network, producer, twin),
        }
        self
    }

    /// Takes in `member`, which makes what `producer` makes.
    fn join(&mut self, network: &Network, producer: NodeId, member: NodeId) {
        let view = InGroup { network, group: &self.group };
        let readers = view.readers_of(producer);
        let aligned = readers.iter().all(|&r| view.reads_aligned(r, member));
        let once = view.is_computed_once(member, &readers);
        let feeds_contraction = view.feeds_contraction(&readers);
        if aligned {
            self.group.aligned.insert(member);
        }
        if once {
            self.group.once.insert(member);
        }
        if feeds_contraction {
            self.group.operand_views.insert(member);
        }
        if network.role(member).is_anchor() {
            self.group.anchor = Some(member);
        }
        self.group.members.insert(member);
    }
}

/// What a group may take in: conditions under which lowering makes one fast kernel of it.
struct InGroup<'a> {
    network: &'a Network,
    group: &'a Group,
}

impl InGroup<'_> {
    fn graph(&self) -> &Graph {
        &self.network.graph
    }

    fn role(&self, node: NodeId) -> Role {
        self.network.role(node)
    }

    fn result_dims(&self, node: NodeId) -> &[Dim] {
        &self.graph().ty(self.graph().node(node).results[0]).dims
    }

    fn count(&self, node: NodeId) -> Dim {
        self.result_dims(node).iter().cloned().product()
    }

    fn readers_of(&self, producer: NodeId) -> Vec<NodeId> {
        let results = &self.graph().node(producer).results;
        let reads = |m: &NodeId| self.graph().node(*m).operands.iter().any(|v| results.contains(v));
        self.group.members.iter().copied().filter(reads).collect()
    }

    /// Whether `reader` reads each element of `producer` once, and neighbours as neighbours: an elementwise op without
    /// broadcasting, the tensor inside a pad, a part of a concat, or a view that keeps the innermost axis where it is (the heads of an attention).
    fn reads_aligned(&self, reader: NodeId, producer: NodeId) -> bool {
        let neighbours = match &self.graph().node(reader).op {
            Op::pad { .. } | Op::concat { .. } | Op::reshape { .. } => true,
            Op::transpose { perm } => perm.last() == Some(&(perm.len() - 1)),
            _ => self.role(reader) == Role::Elementwise && self.result_dims(reader) == self.result_dims(producer),
        };
        self.group.aligned.contains(&reader) && neighbours
    }

    fn feeds_contraction(&self, readers: &[NodeId]) -> bool {
        let is_contraction = |n: &NodeId| self.group.anchor == Some(*n) && self.role(*n) == Role::Contract;
        readers.iter().any(|r| is_contraction(r) || self.group.operand_views.contains(r))
    }

    /// Whether `producer` may join. What several groups read may be done again by each if it is elementwise, a view or a gather.
    fn may_join(&self, producer: NodeId) -> Result<(), Refusal> {
        let done_again = matches!(self.role(producer), Role::Elementwise | Role::View | Role::Gather);
        Refusal::SeveralResults.unless(self.graph().node(producer).results.len() == 1)?;
        Refusal::ReadElsewhere.unless(done_again || self.dies(producer))?;
        self.may_feed(producer, &self.readers_of(producer))
    }

    /// Whether `readers` may read `producer` as a member.
    fn may_feed(&self, producer: NodeId, readers: &[NodeId]) -> Result<(), Refusal> {
        if self.feeds_contraction(readers) {
            return Refusal::NotInPlace.unless(self.may_feed_contraction(producer, readers));
        }
        // A window reads every element many times: nothing is computed in it, but it may read a part of a larger tensor, and bytes, which are
        // a quarter of what they become.
        if readers.iter().any(|&r| self.feeds_window(r)) {
            let is_read = matches!(self.graph().node(producer).op, Op::slice { .. }) || self.widens_bytes(producer);
            return Refusal::Window.unless(is_read);
        }
        match self.role(producer) {
            Role::Elementwise => Refusal::Recomputed.unless(readers.iter().all(|&r| self.worth_recomputing(r, producer))),
            Role::View => Ok(()),
            Role::Gather => Refusal::Recomputed.unless(readers.iter().all(|&r| self.role(r) != Role::Join)),
            Role::Rows | Role::Contract | Role::Window => {
                Refusal::TwoAnchors.unless(self.group.anchor.is_none())?;
                Refusal::NotAligned.unless(readers.iter().all(|&r| self.reads_aligned(r, producer)))
            }
            // A border around the parts of a concat is one more part.
            Role::Join => Refusal::JoinLast.unless(readers.iter().all(|&r| matches!(self.graph().node(r).op, Op::pad { .. }))),
            Role::Alone => Err(Refusal::Alone),
        }
    }

    /// Whether taking `producer` in saves time for sure: it moves no data, or what it reads is a quarter of what it makes, or nobody else
    /// reads it and it is computed once.
    fn costs_nothing(&self, producer: NodeId) -> bool {
        let once = || self.is_computed_once(producer, &self.readers_of(producer));
        let moves_less = || is_free(&self.graph().node(producer).op) || self.widens_bytes(producer);
        moves_less() || self.role(producer) == Role::Elementwise && self.dies(producer) && once()
    }

    /// Whether `readers` ask for each element of `producer` at most once.
    fn is_computed_once(&self, producer: NodeId, readers: &[NodeId]) -> bool {
        readers.iter().all(|r| {
            let asks_once = match self.role(*r) {
                Role::Elementwise | Role::View => self.count(*r) == self.count(producer),
                Role::Join => true,
                Role::Gather | Role::Rows | Role::Contract | Role::Window | Role::Alone => false,
            };
            self.group.once.contains(r) && asks_once
        })
    }

    /// Whether taking `producer` in means that its work is done once more.
    fn is_done_again(&self, producer: NodeId) -> bool {
        let takes_time = matches!(self.role(producer), Role::Elementwise | Role::Gather) && !self.widens_bytes(producer);
        takes_time && !self.dies(producer)
    }

    /// Whether nothing outside the group reads what the producer makes, be it to widen it as the group does.
    fn dies(&self, producer: NodeId) -> bool {
        let is_only_here = |u: &NodeId| self.group.members.contains(u) && (!self.widens_bytes(*u) || self.dies(*u));
        let in_group = |r: &ValueId| self.graph().readers(*r).iter().all(is_only_here);
        self.graph().node(producer).results.iter().all(|r| !self.network.is_result(*r) && in_group(r))
    }

    /// Whether computing `producer` where `reader` reads it costs no more than computing it once per element.
    fn worth_recomputing(&self, reader: NodeId, producer: NodeId) -> bool {
        let node = self.graph().node(reader);
        let reads_first = || node.operands.first().is_some_and(|&x| self.graph().producer(x) == Some(producer));
        match self.role(reader) {
            Role::Rows if self.group.anchor == Some(reader) => reads_first(),
            // An index is computed per slice that it picks; the data would be computed per pick.
            Role::Gather => !reads_first(),
            Role::Join => true,
            _ => self.count(reader) == self.count(producer) || matches!(node.op, Op::slice { .. }),
        }
    }

    /// Operands of a contraction are read in place, many times each: only views whose strides stay linear may stand
    /// between them and memory, so nothing but reshapes below a reshape that merges axes; and bytes are multiplied as they are.
    fn may_feed_contraction(&self, producer: NodeId, readers: &[NodeId]) -> bool {
        let below_reshape = readers.iter().any(|&r| self.merges_axes(r));
        let linear = match self.graph().node(producer).op {
            Op::reshape { .. } => true,
            Op::transpose { .. } | Op::slice { .. } | Op::broadcast { .. } => !below_reshape,
            Op::cast { to: DType::I32 } => self.widens_bytes(producer),
            _ => false,
        };
        linear && readers.iter().all(|r| self.group.anchor == Some(*r) || self.group.operand_views.contains(r))
    }

    /// Whether a member is the window of the group, or widens the bytes that it reads.
    fn feeds_window(&self, member: NodeId) -> bool {
        let is_window = |m: &NodeId| self.group.anchor == Some(*m) && self.role(*m) == Role::Window;
        let read_by_it = || self.graph().readers(self.graph().node(member).results[0]).iter().any(is_window);
        is_window(&member) || self.widens_bytes(member) && read_by_it()
    }

    /// Whether a node makes integers or floats of bytes.
    fn widens_bytes(&self, node: NodeId) -> bool {
        let node = self.graph().node(node);
        matches!(node.op, Op::cast { to: DType::I32 | DType::F32 }) && self.graph().ty(node.operands[0]).dtype == DType::U8
    }

    fn merges_axes(&self, node: NodeId) -> bool {
        let input = |n: &Node| self.graph().ty(n.operands[0]).dims.clone();
        matches!(self.graph().node(node).op, Op::reshape { .. }) && !only_splits(&input(self.graph().node(node)), self.result_dims(node))
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
