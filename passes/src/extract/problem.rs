//! From an e-graph to a problem of choice: classes, their alternatives, what each costs and needs.

use super::cost;
use crate::egraph::{Egraph, Enode, Head};
use egg::{Id, Language};
use petgraph::algo::kosaraju_scc;
use petgraph::graph::DiGraph;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// One way to compute a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// What it costs, without what it needs.
    pub cost: u64,
    /// The classes that it reads, by position; ascending, each once.
    pub needs: Vec<usize>,
    /// Of alternatives that are equal otherwise the one with the least is taken.
    pub taste: u8,
    /// Its position among the e-nodes of the class; for a constant see [`super::constants`].
    pub enode: usize,
}

/// Classes with their alternatives, and the class that has to be computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The alternatives of each class.
    pub classes: Vec<Vec<Alternative>>,
    /// The class that has to be computed.
    pub root: usize,
}

/// The problem of an e-graph. The root is a class of its own that needs all results.
pub struct Choices {
    /// The problem, without circles.
    pub problem: Problem,
    /// The class at each position but the root's.
    pub ids: Vec<Id>,
}

impl Choices {
    /// All that `results` may need. Constants are leaves: they cost nothing when the model runs. Of equally good e-nodes one that has
    /// its constants last is taken, so that siblings are spelled alike, then one of `preferred`.
    pub fn new(egraph: &Egraph, results: &[Id], preferred: &[Enode]) -> Choices {
        let preferred: HashSet<Enode> = preferred.iter().map(|e| e.clone().map_children(|c| egraph.find(c))).collect();
        let mut choices = Choices { problem: Problem { classes: vec![], root: 0 }, ids: vec![] };
        let mut positions = HashMap::new();
        let roots: Vec<usize> = results.iter().map(|&r| choices.position(egraph.find(r), &mut positions)).collect();
        let mut at = 0;
        while at < choices.ids.len() {
            let id = choices.ids[at];
            let alternatives = choices.alternatives(egraph, id, &preferred, &mut positions);
            choices.problem.classes.push(alternatives);
            at += 1;
        }
        choices.problem.root = choices.ids.len();
        choices.problem.classes.push(vec![Alternative { cost: 0, needs: sorted(roots), taste: 0, enode: 0 }]);
        choices.problem = choices.problem.acyclic();
        choices
    }

    fn position(&mut self, id: Id, positions: &mut HashMap<Id, usize>) -> usize {
        *positions.entry(id).or_insert_with(|| {
            self.ids.push(id);
            self.ids.len() - 1
        })
    }

    fn alternatives(
        &mut self,
        egraph: &Egraph,
        id: Id,
        preferred: &HashSet<Enode>,
        positions: &mut HashMap<Id, usize>,
    ) -> Vec<Alternative> {
        let class = &egraph[id];
        if class.data.is_constant() {
            return vec![Alternative { cost: 0, needs: vec![], taste: 0, enode: 0 }];
        }
        let mut alternatives: Vec<Alternative> = vec![];
        for (enode, node) in class.nodes.iter().enumerate() {
            let reads: Vec<Id> = match node.head {
                Head::Attr(_) | Head::Leaf(_) => vec![],
                Head::Op(_) | Head::Result(_) | Head::Opaque(_) => node.operands().iter().map(|&o| egraph.find(o)).collect(),
            };
            let reads = reads.into_iter().filter(|&r| !egraph[r].data.is_constant());
            let needs = sorted(reads.map(|r| self.position(r, positions)).collect());
            let constant_first = node.operands().first().is_some_and(|&o| egraph[o].data.is_constant());
            let taste = 2 * u8::from(constant_first) + u8::from(!preferred.contains(node));
            alternatives.push(Alternative { cost: cost::of(egraph, node, id), needs, taste, enode });
        }
        alternatives
    }
}

fn sorted(mut needs: Vec<usize>) -> Vec<usize> {
    needs.sort_unstable();
    needs.dedup();
    needs
}

impl Problem {
    /// All that a class may need.
    pub fn needs(&self) -> Vec<Vec<usize>> {
        let all = |alternatives: &Vec<Alternative>| sorted(alternatives.iter().flat_map(|a| a.needs.iter().copied()).collect());
        self.classes.iter().map(all).collect()
    }

    /// The same problem without circles, and without alternatives that another one beats: within a circle only
    /// alternatives stay that lead to classes nearer to the leaves.
    pub fn acyclic(mut self) -> Problem {
        let heights = self.heights();
        let component = self.components();
        for (class, alternatives) in self.classes.iter_mut().enumerate() {
            let height = heights[class];
            let leads_on = |&n: &usize| heights[n].is_some() && (component[n] != component[class] || heights[n] < height);
            alternatives.retain(|a| height.is_some() && a.needs.iter().all(leads_on));
            drop_beaten(alternatives);
        }
        self
    }

    /// The cost of the costliest path to the leaves, by the alternative for which it is least; every step counts.
    /// `None` for classes that cannot be computed. After Knuth's generalisation of Dijkstra's algorithm.
    fn heights(&self) -> Vec<Option<u64>> {
        let mut heights = vec![None; self.classes.len()];
        let mut waiting_for: Vec<Vec<usize>> = self.classes.iter().map(|alts| alts.iter().map(|a| a.needs.len()).collect()).collect();
        let mut readers: Vec<Vec<(usize, usize)>> = vec![vec![]; self.classes.len()];
        let mut queue = BinaryHeap::new();
        for (class, alternatives) in self.classes.iter().enumerate() {
            for (i, alternative) in alternatives.iter().enumerate() {
                alternative.needs.iter().for_each(|&n| readers[n].push((class, i)));
                if alternative.needs.is_empty() {
                    queue.push(Reverse((alternative.cost + 1, class)));
                }
            }
        }
        while let Some(Reverse((height, class))) = queue.pop() {
            if heights[class].is_some() {
                continue;
            }
            heights[class] = Some(height);
            for &(reader, i) in &readers[class] {
                waiting_for[reader][i] -= 1;
                if waiting_for[reader][i] == 0 {
                    let own = self.classes[reader][i].cost;
                    queue.push(Reverse((height.saturating_add(own).saturating_add(1), reader)));
                }
            }
        }
        heights
    }

    /// The circle that each class is in. (Tarjan's algorithm is recursive in petgraph; graphs are deeper than the stack.)
    fn components(&self) -> Vec<usize> {
        let needs = self.needs();
        let mut graph = DiGraph::<(), ()>::with_capacity(needs.len(), 2 * needs.len());
        let nodes: Vec<_> = needs.iter().map(|_| graph.add_node(())).collect();
        for (class, needs) in needs.iter().enumerate() {
            needs.iter().for_each(|&n| {
                graph.add_edge(nodes[class], nodes[n], ());
            });
        }
        let mut component = vec![0; needs.len()];
        for (i, circle) in kosaraju_scc(&graph).into_iter().enumerate() {
            circle.into_iter().for_each(|n| component[n.index()] = i);
        }
        component
    }
}

/// Drops alternatives that cost as much as another or more, and need all that it needs.
fn drop_beaten(alternatives: &mut Vec<Alternative>) {
    alternatives.sort_by_key(|a| (a.cost, a.needs.len(), a.taste, a.enode));
    let mut kept: Vec<Alternative> = vec![];
    for alternative in alternatives.drain(..) {
        if !kept.iter().any(|k| k.needs.iter().all(|n| alternative.needs.contains(n))) {
            kept.push(alternative);
        }
    }
    *alternatives = kept;
}
