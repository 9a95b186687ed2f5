//! From the groups of a network to a problem of choice.

use super::grow::{Group, grow};
use super::merge::Network;
use crate::cost::{Machine, Model, Picos, Work};
use crate::extract::{Alternative, BEAM, Plan, Problem, solve};
use egret_ir::{NodeId, ValueId};
use std::collections::HashMap;

/// The problem of choosing groups: a class for each node whose results may lie in memory. The root is a class of its own.
pub struct Choices {
    /// Classes, alternatives, times.
    pub problem: Problem,
    /// Whether a class has more groups than were looked at.
    pub clipped: bool,
    /// The groups of each class but the root's.
    groups: Vec<Vec<Group>>,
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
            alternatives.push(of_class.iter().enumerate().map(|(i, group)| found.alternative(i, group)).collect());
            groups.push(of_class);
        }
        let root = alternatives.len();
        alternatives.push(vec![Alternative { cost: 0, needs: sorted(roots), taste: 0, enode: 0 }]);
        Choices { problem: Problem { classes: alternatives, root }.acyclic(), clipped, groups }
    }

    /// How many groups there are to choose from.
    pub fn count(&self) -> usize {
        self.groups.iter().map(Vec::len).sum()
    }

    /// The groups of a plan, in an order in which they can run.
    pub fn chosen(&self, plan: &Plan) -> Vec<Group> {
        let picked = self.groups.iter().zip(&self.problem.classes).zip(&plan.picks);
        let mut groups: Vec<Group> =
            picked.filter_map(|((groups, alternatives), pick)| Some(groups[alternatives[(*pick)?].enode].clone())).collect();
        // A group reads what nodes before its root make, so the order of the roots will do.
        groups.sort_by_key(|g| g.root);
        groups
    }
}

/// What else could have been chosen.
impl Choices {
    /// The time of the cheapest plan in which the group that makes what `node` makes does the work of `member`, too; none if no
    /// such group was looked at.
    pub fn cost_with(&self, node: NodeId, member: NodeId) -> Option<Picos> {
        let class = self.groups.iter().position(|groups| groups[0].stands_for == node)?;
        let mut problem = self.problem.clone();
        problem.classes[class].retain(|alternative| self.groups[class][alternative.enode].members.contains(&member));
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
        let (mut groups, all) = grow(self.network, node);
        if let Some(twin) = self.network.twin_of(node) {
            groups.push(Group::standing_for(self.network, twin, node));
        }
        (groups, all)
    }

    fn alternative(&mut self, i: usize, group: &Group) -> Alternative {
        let inputs = group.inputs(self.network);
        let members: Vec<NodeId> = group.members.iter().copied().collect();
        let outputs = &self.network.graph.node(group.root).results;
        let work = Work::of(&self.network.graph, &members, &inputs, outputs, |v| self.network.is_weight(v));
        let cost = self.model.time(&work);
        Alternative { cost, needs: sorted(self.positions_of(&inputs)), taste: 0, enode: i }
    }
}

fn sorted(mut needs: Vec<usize>) -> Vec<usize> {
    needs.sort_unstable();
    needs.dedup();
    needs
}
