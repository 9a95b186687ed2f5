//! From the groups of a network to a problem of choice.

use super::grow::{Group, Kernel, grow};
use super::joint::Joints;
use super::merge::Network;
use crate::cost::{Machine, Model, Picos, Work};
use crate::extract::{Alternative, BEAM, Plan, Problem, solve};
use egret_ir::{NodeId, ValueId};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// The problem of choosing groups: a class for each node whose results may lie in memory, then one for each kernel of several
/// groups, of which each group's node is a result at no cost. The root is a class of its own.
pub struct Choices {
    /// Classes, alternatives, times.
    pub problem: Problem,
    /// Whether a class has more groups than were looked at.
    pub clipped: bool,
    /// The ways to each class of a node.
    ways: Vec<Vec<Way>>,
}

/// A way to what a node makes.
#[derive(Clone)]
enum Way {
    /// By a kernel of its own.
    Alone(Group),
    /// As the result of this group in the kernel that is class `kernel`.
    Of { kernel: usize, group: Group },
}

impl Way {
    fn group(&self) -> &Group {
        match self {
            Way::Alone(group) | Way::Of { group, .. } => group,
        }
    }
}

impl Choices {
    /// All groups that the results of a network may need.
    pub fn new(network: &Network, machine: &Machine) -> Choices {
        let model = Model::new(machine.clone(), &network.graph);
        let mut found = Found { network, model, classes: vec![], positions: HashMap::new() };
        let roots: Vec<usize> = found.positions_of(&network.graph.results);
        let (mut groups, mut alternatives, mut clipped) = (vec![], vec![], false);
        while let Some(&node) = found.classes.get(groups.len()) {
            let (of_class, all) = found.groups(node);
            clipped |= !all;
            alternatives.push(of_class.iter().enumerate().map(|(i, group)| found.alternative(i, group)).collect::<Vec<_>>());
            groups.push(of_class);
        }
        let joints = Joints::of(network, &groups);
        clipped |= !joints.all;
        let mut ways: Vec<Vec<Way>> = groups.into_iter().map(|of_class| of_class.into_iter().map(Way::Alone).collect()).collect();
        for kernel in joints.kernels {
            let class = alternatives.len();
            for group in &kernel.groups {
                let position = found.positions[&group.stands_for];
                let taken = Alternative { cost: 0, needs: vec![class], taste: 0, enode: ways[position].len() };
                alternatives[position].push(taken);
                ways[position].push(Way::Of { kernel: class, group: group.clone() });
            }
            alternatives.push(vec![found.joint(&kernel)]);
        }
        let root = alternatives.len();
        alternatives.push(vec![Alternative { cost: 0, needs: sorted(roots), taste: 0, enode: 0 }]);
        Choices { problem: Problem { classes: alternatives, root }.acyclic(), clipped, ways }
    }

    /// How many groups there are to choose from.
    pub fn count(&self) -> usize {
        self.ways.iter().map(Vec::len).sum()
    }

    /// The kernels of a plan, in an order in which they can run.
    pub fn chosen(&self, plan: &Plan, network: &Network) -> Vec<Kernel> {
        let picked = self.ways.iter().zip(&self.problem.classes).zip(&plan.picks);
        let (mut kernels, mut shared) = (vec![], HashMap::new());
        for way in picked.filter_map(|((ways, alternatives), pick)| Some(&ways[alternatives[(*pick)?].enode])) {
            match way {
                Way::Alone(group) => kernels.push(Kernel { groups: vec![group.clone()] }),
                Way::Of { kernel, group } => {
                    let at = *shared.entry(*kernel).or_insert_with(|| {
                        kernels.push(Kernel { groups: vec![] });
                        kernels.len() - 1
                    });
                    kernels[at].groups.push(group.clone());
                }
            }
        }
        kernels.iter_mut().for_each(|kernel| kernel.groups.sort_by_key(|g| g.root));
        kernels.sort_by_key(|kernel| kernel.groups[0].root);
        in_order(kernels, network)
    }
}

/// Kernels so that each comes after those that it reads; else they stay as they are.
fn in_order(kernels: Vec<Kernel>, network: &Network) -> Vec<Kernel> {
    let makers: HashMap<NodeId, usize> =
        kernels.iter().enumerate().flat_map(|(i, kernel)| kernel.groups.iter().map(move |g| (g.stands_for, i))).collect();
    let reads = |kernel: &Kernel| {
        let producers = kernel.whole().inputs(network).into_iter().filter_map(|v| network.graph.producer(v));
        sorted(producers.filter_map(|node| makers.get(&node).copied()).collect())
    };
    let reads: Vec<Vec<usize>> = kernels.iter().map(reads).collect();
    let mut missing: Vec<usize> = reads.iter().map(Vec::len).collect();
    let mut readers: Vec<Vec<usize>> = vec![vec![]; kernels.len()];
    reads.iter().enumerate().for_each(|(reader, makers)| makers.iter().for_each(|&maker| readers[maker].push(reader)));
    let mut ready: BinaryHeap<Reverse<usize>> = (0..kernels.len()).filter(|&i| missing[i] == 0).map(Reverse).collect();
    let mut order = vec![];
    while let Some(Reverse(i)) = ready.pop() {
        order.push(kernels[i].clone());
        for &reader in &readers[i] {
            missing[reader] -= 1;
            if missing[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    order
}

/// What else could have been chosen.
impl Choices {
    /// The time of the cheapest plan in which the group that makes what `node` makes does the work of `member`, too; none if no
    /// such group was looked at.
    pub fn cost_with(&self, node: NodeId, member: NodeId) -> Option<Picos> {
        let class = self.ways.iter().position(|ways| ways[0].group().stands_for == node)?;
        let mut problem = self.problem.clone();
        problem.classes[class].retain(|alternative| self.ways[class][alternative.enode].group().members.contains(&member));
        solve(&problem, BEAM).ok().map(|plan| plan.cost)
    }
}

/// Classes as they are found.
struct Found<'a> {
    network: &'a Network,
    model: Model,
    classes: Vec<NodeId>,
    positions: HashMap<NodeId, usize>,
}

impl Found<'_> {
    /// The classes of those values that a node makes.
    fn positions_of(&mut self, values: &[ValueId]) -> Vec<usize> {
        let nodes = values.iter().filter_map(|&v| self.network.graph.producer(v)).filter(|n| !self.network.is_known(*n));
        let mut positions = vec![];
        for node in nodes {
            positions.push(*self.positions.entry(node).or_insert_with(|| {
                self.classes.push(node);
                self.classes.len() - 1
            }));
        }
        positions
    }

    /// The groups that compute what a node makes, and whether these are all.
    fn groups(&self, node: NodeId) -> (Vec<Group>, bool) {
        let (mut groups, mut all) = grow(self.network, Group::of(self.network, node));
        if let Some(twin) = self.network.twin_of(node) {
            let (others, all_others) = grow(self.network, Group::standing_for(self.network, twin, node));
            groups.extend(others);
            all &= all_others;
        }
        (groups, all)
    }

    fn alternative(&mut self, i: usize, group: &Group) -> Alternative {
        let cost = self.model.time(&self.work(group));
        Alternative { cost, needs: sorted(self.positions_of(&group.inputs(self.network))), taste: 0, enode: i }
    }

    fn joint(&mut self, kernel: &Kernel) -> Alternative {
        let works: Vec<Work> = kernel.groups.iter().map(|group| self.work(group)).collect();
        let needs = sorted(self.positions_of(&kernel.whole().inputs(self.network)));
        Alternative { cost: self.model.time_of_all(&works), needs, taste: 0, enode: 0 }
    }

    fn work(&self, group: &Group) -> Work {
        let members: Vec<NodeId> = group.members.iter().copied().collect();
        let outputs = &self.network.graph.node(group.root).results;
        Work::of(&self.network.graph, &members, &group.inputs(self.network), outputs, |v| self.network.is_weight(v))
    }
}

fn sorted(mut needs: Vec<usize>) -> Vec<usize> {
    needs.sort_unstable();
    needs.dedup();
    needs
}
