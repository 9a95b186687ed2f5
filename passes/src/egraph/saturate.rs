//! Applies rules until nothing new comes or a budget is spent.
//!
//! Invariant: the outcome depends on the e-graph, the rules and the budget only, never on the clock. egg checks its limits
//! between iterations, by when a bad rule may have made millions of e-nodes; here the limit holds within one.

use super::{Compiled, Egraph};
use std::collections::BTreeMap;

/// How far rules may take an e-graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// How often all rules are searched for.
    pub iterations: usize,
    /// How many e-nodes there may be.
    pub enodes: usize,
    /// How many matches of one rule an iteration applies.
    pub matches: usize,
}

/// Rounds after which every model measured so far has stopped changing; the longest chain is a Transformer layer whose
/// norms, gelu and attention are all written out in primitives.
const ITERATIONS: usize = 24;

/// E-nodes per node of the graph. Saturated models have 2 to 4; more means that rules feed each other.
const ENODES_PER_NODE: usize = 24;

/// E-nodes that even the smallest graph may have.
const LEAST_ENODES: usize = 4000;

/// Matches of one rule per iteration and node of the graph; a rule that matches more often will come again.
const MATCHES_PER_NODE: usize = 4;

impl Budget {
    /// The budget of a graph of so many nodes.
    pub fn of(nodes: usize) -> Budget {
        Budget {
            iterations: ITERATIONS,
            enodes: LEAST_ENODES.max(ENODES_PER_NODE * nodes),
            matches: LEAST_ENODES.max(MATCHES_PER_NODE * nodes),
        }
    }
}

/// What applying rules came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saturation {
    /// How often all rules were searched for.
    pub iterations: usize,
    /// Whether nothing new would come.
    pub saturated: bool,
    /// E-nodes at the end.
    pub enodes: usize,
    /// Classes at the end.
    pub classes: usize,
    /// How often each rule that fired at all made something equal that was not before.
    pub fired: BTreeMap<&'static str, usize>,
}

/// Applies all rules to all classes, again and again.
///
/// # Errors
/// When a rule made two types equal.
pub fn saturate(egraph: &mut Egraph, rules: &[&Compiled], budget: Budget) -> Result<Saturation, String> {
    let mut report = Saturation::default();
    egraph.rebuild();
    while report.iterations < budget.iterations && !report.saturated && egraph.total_size() < budget.enodes {
        report.iterations += 1;
        let found: Vec<_> = rules.iter().map(|rule| rule.search(egraph, budget.matches)).collect();
        let cut_short = found.iter().any(|m| m.iter().map(|m| m.substs.len()).sum::<usize>() >= budget.matches);
        let mut changed = false;
        for (rule, matches) in rules.iter().zip(&found) {
            for (class, subst) in matches.iter().flat_map(|m| m.substs.iter().map(|s| (m.eclass, s))) {
                if egraph.total_size() >= budget.enodes {
                    break;
                }
                if rule.apply(egraph, class, subst) {
                    changed = true;
                    *report.fired.entry(rule.rule.name).or_default() += 1;
                }
            }
        }
        egraph.rebuild();
        egraph.analysis.check()?;
        report.saturated = !changed && !cut_short;
        if !changed {
            break;
        }
    }
    report.enodes = egraph.total_number_of_nodes();
    report.classes = egraph.number_of_classes();
    Ok(report)
}
