//! Applies rules until nothing new comes or a budget is spent. After the first round a rule is searched for only near classes that
//! have changed (see `changes`), so the time is that of what happens, not of the rounds.
//!
//! Invariant: the outcome depends on the e-graph, the rules and the budget only, never on the clock. egg checks its limits
//! between iterations, by when a bad rule may have made millions of e-nodes; here the limit holds within one.

use super::{Changes, Compiled, Egraph};
use egg::Subst;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// How far rules may take an e-graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// How often all rules are searched for.
    pub iterations: usize,
    /// How many e-nodes there may be.
    pub enodes: usize,
    /// How many matches of one rule an iteration applies.
    pub matches: usize,
    /// How often a rule may make something equal that was not before, in all iterations.
    pub fires: usize,
}

/// Rounds. The zoo's models stop changing after 2 to 10; the longest way is that of a Transformer layer whose norms, gelu and
/// attention are all written out in primitives.
const ITERATIONS: usize = 16;

/// E-nodes per node of the graph. Saturated models have 1 to 5; more means that rules feed each other.
const ENODES_PER_NODE: usize = 24;

/// E-nodes that even the smallest graph may have.
const LEAST_ENODES: usize = 4000;

/// Matches of one rule per iteration and node of the graph; a rule that matches more often will come again.
const MATCHES_PER_NODE: usize = 4;

/// How often a rule may fire per node of the graph. The busiest rule of the zoo's models, on transposes between reshapes,
/// fires 1.2 times per node. Merging constants along a chain of `n` scales and shifts has exponentially many orders; this
/// keeps a long chain from taking the e-nodes that other rules need.
const FIRES_PER_NODE: usize = 8;

/// How often a rule may fire on even the smallest graph.
const LEAST_FIRES: usize = 400;

impl Budget {
    /// The budget of a graph of so many nodes.
    pub fn of(nodes: usize) -> Budget {
        Budget {
            iterations: ITERATIONS,
            enodes: LEAST_ENODES.max(ENODES_PER_NODE * nodes),
            matches: LEAST_ENODES.max(MATCHES_PER_NODE * nodes),
            fires: LEAST_FIRES.max(FIRES_PER_NODE * nodes),
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

/// Told of every application that made something equal: the rule, and what its variables stand for. `Break` ends it all.
pub type Observer<'a> = dyn FnMut(&Egraph, &Compiled, &Subst) -> ControlFlow<()> + 'a;

/// Applies all rules to all classes, again and again.
///
/// # Errors
/// When a rule made two types equal.
pub fn saturate(egraph: &mut Egraph, rules: &[&Compiled], budget: Budget) -> Result<Saturation, String> {
    saturate_observed(egraph, rules, budget, &mut |_, _, _| ControlFlow::Continue(()))
}

/// The same, with an observer that may end it.
///
/// # Errors
/// As [`saturate`].
pub fn saturate_observed(egraph: &mut Egraph, rules: &[&Compiled], budget: Budget, observe: &mut Observer) -> Result<Saturation, String> {
    let mut report = Saturation::default();
    let mut ended = false;
    let mut changes = Changes::new(rules.iter().map(|rule| rule.depth()).max().unwrap_or(0));
    // Rules of which not all matches were found: those that were left out may be anywhere.
    let mut behind = vec![false; rules.len()];
    egraph.rebuild();
    while !ended && report.iterations < budget.iterations && egraph.total_size() < budget.enodes {
        report.iterations += 1;
        changes.update(egraph);
        let near = |behind: &bool| if *behind { None } else { Some(&changes) };
        let found: Vec<_> = rules.iter().zip(&behind).map(|(rule, b)| rule.search(egraph, near(b), budget.matches)).collect();
        behind = found.iter().map(|m| m.iter().map(|m| m.substs.len()).sum::<usize>() >= budget.matches).collect();
        let mut cut_short = behind.contains(&true);
        let mut changed = false;
        for (rule, matches) in rules.iter().zip(&found) {
            let fired = report.fired.entry(rule.rule.name).or_default();
            for (class, subst) in matches.iter().flat_map(|m| m.substs.iter().map(|s| (m.eclass, s))) {
                if ended || *fired >= budget.fires || egraph.total_size() >= budget.enodes {
                    cut_short = true;
                    break;
                }
                if rule.apply(egraph, class, subst) {
                    changed = true;
                    *fired += 1;
                    ended = observe(egraph, rule, subst).is_break();
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
    report.fired.retain(|_, times| *times > 0);
    report.enodes = egraph.total_number_of_nodes();
    report.classes = egraph.number_of_classes();
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::super::{Enode, from_graph};
    use super::*;
    use crate::rules::all;
    use egg::{Id, SearchMatches};
    use egret_ir::text::parse;

    fn run(text: &str, budget: Budget) -> Saturation {
        let mut built = from_graph(&parse(text).unwrap()).unwrap();
        let rules: Vec<Compiled> = all().iter().map(|r| Compiled::new(r).unwrap()).collect();
        saturate(&mut built.egraph, &rules.iter().collect::<Vec<_>>(), budget).unwrap()
    }

    /// `n` scales and shifts in a row.
    fn chain(n: usize) -> String {
        let constants = (0..n).map(|i| format!("const s{i}: f32[4, 1] = random({i})\nconst b{i}: f32[4, 1] = random({})\n", i + 100));
        let layer = |i: usize| {
            let before = if i == 0 { "x".to_string() } else { format!("a{}", i - 1) };
            format!("m{i} = mul({before}, s{i})\na{i} = add(m{i}, b{i})\n")
        };
        let layers = (0..n).map(layer);
        format!("graph g(x: f32[4, 8]) {{\n{}return a{}\n}}", constants.chain(layers).collect::<String>(), n - 1)
    }

    #[test]
    fn small_graphs_saturate() {
        let report = run(&chain(3), Budget::of(6));
        assert!(report.saturated, "{report:?}");
        assert!(report.fired.contains_key("shifted_scale") && !report.fired.contains_key("silu"), "{report:?}");
    }

    #[test]
    fn the_limit_on_enodes_is_hard() {
        let budget = Budget { enodes: 300, ..Budget::of(24) };
        let report = run(&chain(12), budget);
        assert!(!report.saturated);
        // One more right side may have begun, and rebuilding adds nothing.
        assert!(report.enodes < 320, "{report:?}");
    }

    #[test]
    fn one_rule_does_not_take_all() {
        let report = run(&chain(12), Budget { fires: 50, ..Budget::of(24) });
        assert!(!report.saturated);
        assert!(report.fired.values().all(|&times| times <= 50), "{report:?}");
    }

    #[test]
    fn nothing_is_overlooked() {
        let mixed = "graph g(x: f32[2, 3, 4], w: f32[4, 4]) {
            const r: f32[] = 1.4142135
            const half: f32[] = 0.5
            const one: f32[] = 1.0
            t = transpose[perm=[2, 0, 1]](x)
            n = neg(t)
            u = transpose[perm=[1, 2, 0]](n)
            m = matmul(u, w)
            d = div(m, r)
            f = erf(d)
            g = add(f, one)
            h = mul(m, half)
            a = mul(h, g)
            s = reshape[shape=[6, 4]](a)
            p = exp(s)
            q = reduce_sum[axes=[1]](p)
            y = div(p, q)
            return y
        }";
        let rules: Vec<Compiled> = all().iter().map(|r| Compiled::new(r).unwrap()).collect();
        for text in [chain(3), mixed.to_string()] {
            let mut built = from_graph(&parse(&text).unwrap()).unwrap();
            let report = saturate(&mut built.egraph, &rules.iter().collect::<Vec<_>>(), Budget::of(20)).unwrap();
            assert!(report.saturated && report.iterations > 3, "{report:?}");
            for rule in &rules {
                let found: Vec<(Id, Subst)> = rule.search(&built.egraph, None, usize::MAX).into_iter().flat_map(everywhere).collect();
                let news = found.iter().filter(|(class, subst)| rule.apply(&mut built.egraph, *class, subst)).count();
                built.egraph.rebuild();
                assert_eq!(news, 0, "{} still says something of {text}", rule.rule);
            }
        }
    }

    fn everywhere(matches: SearchMatches<Enode>) -> Vec<(Id, Subst)> {
        matches.substs.into_iter().map(|subst| (matches.eclass, subst)).collect()
    }

    #[test]
    fn the_outcome_is_always_the_same() {
        let text = chain(8);
        assert_eq!(run(&text, Budget::of(16)), run(&text, Budget::of(16)));
    }
}
