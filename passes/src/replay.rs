//! Replays applications of rules one by one: what a rule said of this model, on the shapes that it met there.
//!
//! An application is cut out of the e-graph as two graphs over the same parameters and constants, one for each side of the rule
//! (`mul(add(x, 3.0), w)` with `x: f32[1, 64]` and the model's own `w`). Both are evaluated on random parameters by the reference
//! evaluator, and must be as near to each other as the rule's class says.
//!
//! ```
//! use egret_passes::pass::{Context, PassManager};
//! use egret_passes::replay::{Applications, replay};
//!
//! let graph = egret_ir::text::parse("graph g(x: f32[8]) { a = sigmoid(x) y = mul(a, x) return y }")?;
//! let context = Context { applications: Some(Applications::default()), ..Context::default() };
//! PassManager::named("rewrite")?.run(&graph, &context, |_, _| ())?;
//! for application in context.applications.unwrap_or_default().take() {
//!     assert!(replay(&application, 0)?.holds);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Invariant: looking does not change what is looked at: applications are noted after they are made, and nothing is added to
//! the e-graph.

use crate::egraph::{Compiled, Egraph};
use crate::rules::Class;
use crate::rules::proof::{Distance, compare};
use egg::Subst;
use egret_ir::eval::eval;
use egret_ir::random::random;
use egret_ir::{Graph, Tensor};
use std::cell::RefCell;
use std::collections::HashMap;

/// An application of a rule, cut out of its graph.
#[derive(Clone, Debug)]
pub struct Application {
    /// The rule's name.
    pub rule: &'static str,
    /// The rule's class.
    pub class: Class,
    /// What was found.
    pub before: Graph,
    /// What it was made equal to; the same parameters.
    pub after: Graph,
    /// How often the rule was applied to the same ops on the same types.
    pub times: usize,
}

/// Applications as they are made; those of a rule to the same ops on the same types are kept once.
#[derive(Debug, Default)]
pub struct Applications {
    kept: RefCell<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    applications: Vec<Application>,
    position: HashMap<String, usize>,
}

impl Applications {
    /// Keeps an application that was just made.
    pub fn add(&self, egraph: &Egraph, rule: &Compiled, subst: &Subst) {
        // A side that cannot be written down was not applied either.
        let Ok((before, after)) = rule.sides(egraph, subst) else { return };
        let (name, class) = (rule.rule.name, rule.rule.class);
        let Kept { applications, position } = &mut *self.kept.borrow_mut();
        let at = *position.entry(format!("{name} {} {}", likeness(&before), likeness(&after))).or_insert(applications.len());
        match applications.get_mut(at) {
            Some(known) => known.times += 1,
            None => applications.push(Application { rule: name, class, before, after, times: 1 }),
        }
    }

    /// What was kept, in the order in which it was made.
    pub fn take(&self) -> Vec<Application> {
        std::mem::take(&mut *self.kept.borrow_mut()).applications
    }
}

/// Ops and types of a graph without names and data.
fn likeness(graph: &Graph) -> String {
    let types = graph.values().iter().map(|value| format!("{} ", value.ty));
    let nodes = graph.nodes().iter().map(|node| format!("{}{:?} ", node.op, node.operands));
    types.chain(nodes).collect()
}

/// How an application came out.
#[derive(Clone, Copy, Debug)]
pub struct Replayed {
    /// How far the sides are apart.
    pub distance: Distance,
    /// Whether that is within the tolerance of the rule's class.
    pub holds: bool,
}

/// Evaluates both sides of an application on random parameters.
///
/// # Errors
/// When a side has no value there: an extent is not known, or an index among the parameters is out of range.
pub fn replay(application: &Application, seed: u64) -> Result<Replayed, String> {
    let Application { before, after, class, .. } = application;
    let params = before.params().iter().zip(seed..);
    let inputs: Vec<Tensor> = params.map(|(&param, seed)| random(seed, before.ty(param))).collect::<Result<_, _>>()?;
    let (expected, found) = (eval(before, &inputs)?, eval(after, &inputs)?);
    let pairs = || expected.iter().zip(&found);
    let distance = pairs().map(|(a, b)| Distance::between(a, b)).fold(Distance::default(), Distance::or_farther);
    Ok(Replayed { distance, holds: pairs().all(|(a, b)| compare(a, b, *class).is_ok()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pass::{Context, PassManager};
    use crate::rules::Rule;
    use egret_ir::text::parse;

    fn applications(text: &str, rules: &[&str]) -> Vec<Application> {
        let rules = rules.iter().map(|rule| Rule::parse(rule).unwrap()).collect();
        let context = Context { rules, applications: Some(Applications::default()), ..Context::default() };
        PassManager::named("rewrite").unwrap().run(&parse(text).unwrap(), &context, |_, _| ()).unwrap();
        context.applications.unwrap().take()
    }

    /// Two layers of equal shapes, and one of another.
    const LAYERS: &str = "graph g(x: f32[2, 3], z: f32[4]) {
        const c: f32[] = 2.0
        const w: f32[3, 3] = random(1)
        a = sigmoid(x) b = mul(x, a) d = matmul(b, w)
        e = sigmoid(d) f = mul(d, e) g = div(f, c)
        h = sigmoid(z) y = mul(z, h)
        return g, y
    }";

    #[test]
    fn equal_applications_are_kept_once() {
        let silu: Vec<Application> = applications(LAYERS, &[]).into_iter().filter(|a| a.rule == "silu").collect();
        assert_eq!(silu.iter().map(|a| a.times).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(silu[0].before.nodes().len(), 2);
        assert_eq!(silu[0].after.nodes()[0].op.name(), "silu");
    }

    #[test]
    fn right_rules_hold_on_every_model() {
        let all = applications(LAYERS, &[]);
        assert!(all.iter().any(|a| a.rule != "silu"));
        for application in all {
            assert!(replay(&application, 0).unwrap().holds, "{application:?}");
        }
    }

    #[test]
    fn a_wrong_rule_is_found_out() {
        let all = applications(LAYERS, &["ulp wrong: silu(x) => relu(x)"]);
        let wrong: Vec<&str> = all.iter().filter(|a| !replay(a, 0).unwrap().holds).map(|a| a.rule).collect();
        assert_eq!(wrong, ["wrong", "wrong"]);
    }

    #[test]
    fn numbers_take_the_type_of_their_last_sibling() {
        let all = applications(LAYERS, &["ulp chosen: sigmoid(x) => select(is_nan(x), 0, sigmoid(x))"]);
        let chosen: Vec<&Application> = all.iter().filter(|a| a.rule == "chosen").collect();
        assert!(!chosen.is_empty());
        for application in chosen {
            assert!(replay(application, 0).unwrap().holds, "{application:?}");
        }
    }
}
