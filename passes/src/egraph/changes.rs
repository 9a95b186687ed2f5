//! Where a rule may match that did not match there before: near classes that have changed.
//!
//! A left side of some depth sees the e-nodes of the class where it is found and of those below, and the facts of what its variables
//! stand for, so many steps down at most. Once it has been applied wherever it matches, it need only be searched for in classes
//! that lead to a changed one in so many steps.
//!
//! ```text
//! y = relu(h), h = add(a, b), and a becomes equal to c      depth 1: a, h      depth 2: a, h, y
//! ```

use super::{Egraph, Enode, Facts, Known};
use egg::Id;
use std::collections::HashMap;

/// How far each class is from one that has changed.
pub struct Changes {
    /// As many steps as are told apart.
    farthest: usize,
    /// What each class was when this was last asked.
    before: HashMap<Id, (Vec<Enode>, Option<Known>)>,
    /// By class, the steps down to the nearest that has changed; more than `farthest` if there is none.
    steps: Vec<usize>,
}

impl Changes {
    /// Everything is new. Left sides are at most `farthest` deep.
    pub fn new(farthest: usize) -> Changes {
        Changes { farthest, before: HashMap::new(), steps: vec![] }
    }

    /// Finds out what has changed since the last time in an e-graph that has been rebuilt.
    pub fn update(&mut self, egraph: &Egraph) {
        let mut level: Vec<Id> = egraph.classes().map(|class| class.id).filter(|&id| self.is_news(egraph, id)).collect();
        let count = egraph.classes().map(|class| usize::from(class.id) + 1).max().unwrap_or(0);
        self.steps = vec![self.farthest + 1; count];
        for steps in 0..=self.farthest {
            let mut above = vec![];
            for id in level {
                let known = &mut self.steps[usize::from(id)];
                if *known > steps {
                    *known = steps;
                    above.extend(egraph[id].parents().map(|parent| egraph.find(parent)));
                }
            }
            level = above;
        }
    }

    /// Whether a left side so deep may match in a class where it did not match before.
    pub fn reach(&self, class: Id, depth: usize) -> bool {
        self.steps.get(usize::from(class)).is_none_or(|&steps| steps <= depth)
    }

    /// Whether rules would see anything else in a class than the last time.
    fn is_news(&mut self, egraph: &Egraph, id: Id) -> bool {
        let class = &egraph[id];
        let known = match &class.data {
            Facts::Tensor(value) => Some(value.known()),
            Facts::Attr(_) | Facts::Tuple(_) => None,
        };
        if self.before.get(&id).is_some_and(|before| before.0 == class.nodes && before.1 == known) {
            return false;
        }
        self.before.insert(id, (class.nodes.clone(), known));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::from_graph;
    use super::*;

    #[test]
    fn steps_lead_down_to_what_has_changed() {
        let text = "graph g(a: f32[4], b: f32[4], c: f32[4]) { h = add(a, b) y = relu(h) z = exp(b) return y, z, c }";
        let graph = egret_ir::text::parse(text).unwrap();
        let mut built = from_graph(&graph).unwrap();
        let class = |name: &str| built.classes[&graph.find(name).unwrap()];
        let [a, b, c, h, y, z] = ["a", "b", "c", "h", "y", "z"].map(class);
        let mut changes = Changes::new(2);
        let reached = |changes: &Changes, egraph: &Egraph, depth| [a, b, h, y, z].map(|id| changes.reach(egraph.find(id), depth));
        changes.update(&built.egraph);
        assert_eq!(reached(&changes, &built.egraph, 0), [true; 5]);
        changes.update(&built.egraph);
        assert_eq!(reached(&changes, &built.egraph, 2), [false; 5]);
        built.egraph.union_trusted(a, c, "test");
        built.egraph.rebuild();
        changes.update(&built.egraph);
        assert_eq!(reached(&changes, &built.egraph, 1), [true, false, true, false, false]);
        assert_eq!(reached(&changes, &built.egraph, 2), [true, false, true, true, false]);
    }

    #[test]
    fn facts_are_seen() {
        let graph = egret_ir::text::parse("graph g(a: f32[4], b: f32[4]) { y = add(a, b) return y }").unwrap();
        let mut built = from_graph(&graph).unwrap();
        let mut changes = Changes::new(1);
        changes.update(&built.egraph);
        let a = built.classes[&graph.params()[0]];
        let mut data = built.egraph[a].data.clone();
        if let Facts::Tensor(value) = &mut data {
            value.counts = true;
        }
        built.egraph.set_analysis_data(a, data);
        built.egraph.rebuild();
        changes.update(&built.egraph);
        let y = built.egraph.find(built.classes[&graph.results[0]]);
        assert!(changes.reach(a, 0) && changes.reach(y, 1) && !changes.reach(y, 0));
    }
}
