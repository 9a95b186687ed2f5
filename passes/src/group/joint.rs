//! Kernels of several groups: the contractions of a family, each with what its group does around it.
//!
//! ```text
//! q = matmul(x, u)       k = transpose[perm=[1, 0]](matmul(x, v))       {q} and {matmul, transpose} as one kernel
//! ```
//!
//! Either all of a family is one kernel or none: of pairs and pairs of pairs there is no end. Each contraction goes with the largest
//! group that leads from it to a value that lies in memory whatever is chosen, or else to the last value that is no view.
//!
//! Invariant: no group of a kernel depends on what another makes.

use super::grow::{Group, Kernel};
use super::merge::Network;
use crate::role::Role;
use egret_ir::{NodeId, ValueId};
use std::collections::HashSet;

/// At most so many kernels are looked at per family: with two values to store for each of four contractions there are as many.
const MOST_KERNELS: usize = 16;

/// The kernels of several groups.
pub struct Joints {
    /// See the module.
    pub kernels: Vec<Kernel>,
    /// Whether there are no more.
    pub all: bool,
}

impl Joints {
    /// Those of a network whose classes have these groups.
    pub fn of(network: &Network, classes: &[Vec<Group>]) -> Joints {
        let mut joints = Joints { kernels: vec![], all: true };
        for family in network.families() {
            let choices: Vec<Vec<&Group>> = family.iter().map(|&anchor| largest_around(network, anchor, classes)).collect();
            let count = choices.iter().fold(1, |n: usize, c| n.saturating_mul(c.len()));
            joints.all &= count <= MOST_KERNELS;
            let kernels = (0..count.min(MOST_KERNELS)).map(|number| nth(&choices, number));
            joints.kernels.extend(kernels.filter(|kernel| are_independent(network, kernel)));
        }
        joints
    }
}

/// The largest groups around an anchor of the values that lie in memory whatever is chosen; if there are none, that of the last
/// value which is more than a view.
fn largest_around<'a>(network: &Network, anchor: NodeId, classes: &'a [Vec<Group>]) -> Vec<&'a Group> {
    let around = classes.iter().filter_map(|groups| groups.iter().filter(|g| g.anchor == Some(anchor)).max_by_key(|g| g.members.len()));
    let groups: Vec<&Group> = around.collect();
    let made = |g: &Group| network.graph.node(g.stands_for).results[0];
    let is_kept = |g: &&Group| network.is_result(made(g)) || network.graph.readers(made(g)).len() > 1;
    match groups.iter().copied().filter(is_kept).collect::<Vec<_>>() {
        kept if kept.is_empty() => {
            let computed = groups.into_iter().filter(|g| g.root != g.stands_for || network.role(g.root) != Role::View);
            computed.max_by_key(|g| (g.members.len(), g.root)).into_iter().collect()
        }
        kept => kept,
    }
}

/// The kernel of one group of each list, by a number in the system whose digits are the positions.
fn nth(choices: &[Vec<&Group>], mut number: usize) -> Kernel {
    let mut groups = vec![];
    for choice in choices {
        groups.push(choice[number % choice.len()].clone());
        number /= choice.len();
    }
    groups.sort_by_key(|g| g.root);
    Kernel { groups }
}

/// Whether nothing that a group reads is computed in a group of the same kernel, or depends on what one makes.
fn are_independent(network: &Network, kernel: &Kernel) -> bool {
    let whole = kernel.whole();
    let computed = |v: &ValueId| whole.source(network, *v).is_some();
    if kernel.groups.iter().flat_map(|g| g.inputs(network)).any(|v| computed(&v)) {
        return false;
    }
    let made: HashSet<NodeId> = kernel.groups.iter().flat_map(|g| [g.root, g.stands_for]).collect();
    let earliest = made.iter().min().copied();
    let (mut seen, mut values): (HashSet<NodeId>, Vec<ValueId>) = (HashSet::new(), vec![]);
    kernel.groups.iter().for_each(|g| values.extend(g.inputs(network)));
    while let Some(value) = values.pop() {
        // What comes before all of them depends on none.
        let Some(node) = network.graph.producer(value).filter(|n| Some(*n) >= earliest) else { continue };
        if made.contains(&node) {
            return false;
        }
        if seen.insert(node) {
            values.extend(&network.graph.node(node).operands);
        }
    }
    true
}
