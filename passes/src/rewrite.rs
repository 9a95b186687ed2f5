//! Rewriting: all rules at once in an e-graph, then the cheapest of all graphs that they made equal.
//!
//! ```text
//! a = mul(x, 0.5); b = mul(x, 0.70710677); c = erf(b); d = add(c, 1.0); y = mul(a, d)    =>    y = gelu(x)
//! ```
//!
//! No rule comes before another, so it does not matter how an exporter spelled a norm or in which order it scaled. The rules
//! are those of [`mod@crate::rules`], the costs those of [`crate::extract::cost`].
//!
//! Invariant: parameters and results stay as they are, with their types; a value that is still computed keeps its name,
//! and nodes that are new are named after the value they are for. A node's origins are those of all the old nodes whose
//! work it does. Constants that rules made are left as ops of constants, for `fold`.

mod output;

use crate::egraph::{Budget, Compiled, Egraph, GraphClasses, Saturation, from_graph, saturate_observed};
use crate::extract::{BEAM, Choices, Plan, solve};
use crate::limit::Applied;
use crate::pass::Context;
use crate::rules;
use egg::Id;
use egret_ir::Graph;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::LazyLock;

/// The pass; see the module.
///
/// # Errors
/// When a node does not type-check, or a rule turns out to be wrong about types.
pub fn rewrite(graph: &Graph, context: &Context) -> Result<Graph, String> {
    if context.limit.is_reached() {
        return Ok(graph.clone());
    }
    let GraphClasses { mut egraph, classes, enodes } = from_graph(graph)?;
    let report = saturate_by(&mut egraph, context, Budget::of(graph.nodes().len()))?;
    let results: Vec<Id> = graph.results.iter().map(|r| classes[r]).collect();
    let choices = Choices::new(&egraph, &results, &enodes);
    let plan = solve(&choices.problem, BEAM)?;
    note(context, &report, &plan);
    output::graph(graph, &egraph, &classes, &choices, &plan)
}

/// Applies the rules that `context` allows.
///
/// # Errors
/// When a rule does not read, or made two types equal.
pub fn saturate_by(egraph: &mut Egraph, context: &Context, budget: Budget) -> Result<Saturation, String> {
    static BUILT_IN: LazyLock<Result<Vec<Compiled>, String>> = LazyLock::new(|| rules::all().iter().map(Compiled::new).collect());
    let built_in = BUILT_IN.as_ref().map_err(Clone::clone)?;
    let added = context.rules.iter().map(Compiled::new).collect::<Result<Vec<_>, _>>()?;
    let allowed = |rule: &&Compiled| rule.rule.class <= context.class && !context.disabled.contains(rule.rule.name);
    let rules: Vec<&Compiled> = built_in.iter().chain(&added).filter(allowed).collect();
    saturate_observed(egraph, &rules, budget, &mut |egraph, rule, subst| {
        if let Some(applications) = &context.applications {
            applications.add(egraph, rule, subst);
        }
        context.weaken(rule.rule.class);
        context.limit.apply(Applied::Rule(rule.rule.name));
        if context.limit.is_reached() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

fn note(context: &Context, report: &Saturation, plan: &Plan) {
    // That operands may stand in another order says nothing about a graph.
    let reorders: BTreeSet<&str> = rules::all().iter().filter(|r| r.only_reorders()).map(|r| r.name).collect();
    report.fired.iter().filter(|(name, _)| !reorders.contains(*name)).for_each(|(name, times)| context.count(name, *times));
    context.figure("enodes", report.enodes as u64);
    context.figure("classes", report.classes as u64);
    context.figure("iterations", report.iterations as u64);
    context.figure("cost", plan.cost);
    if !report.saturated && !context.limit.is_reached() {
        context.remark(format!(
            "stopped after {} rounds at {} e-nodes, before the rules had said everything",
            report.iterations, report.enodes
        ));
    }
    if !plan.exact {
        context.remark("there may be a cheaper graph among the equal ones");
    }
}

#[cfg(test)]
mod finite;
#[cfg(test)]
mod layers;
#[cfg(test)]
mod spellings;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    fn rewritten(graph: &Graph) -> Result<Graph, String> {
        rewrite(graph, &Context::default())
    }

    #[test]
    fn idioms_are_recognised_and_names_stay() {
        check(
            rewritten,
            "graph g(x: f32[N, 8]) {
                const half: f32[] = 0.5
                const r: f32[] = 1.4142135
                const one: f32[] = 1.0
                a = div(x, r) @ \"a\"
                b = erf(a) @ \"b\"
                c = add(b, one) @ \"c\"
                d = mul(x, c) @ \"d\"
                y = mul(d, half) @ \"y\"
                z = relu(y) @ \"z\"
                return z
            }",
            "graph g(x: f32[N, 8]) -> f32[N, 8] {
                y = gelu(x) : f32[N, 8] @ \"a\", \"b\", \"c\", \"d\", \"y\"
                z = relu(y) : f32[N, 8] @ \"z\"
                return z
            }",
        );
    }

    #[test]
    fn what_is_needed_anyway_is_used() {
        let text = "graph g(x: f32[4]) -> f32[4], f32[4] {
                s = sigmoid(x) : f32[4]
                y = mul(x, s) : f32[4]
                return s, y
            }";
        check(rewritten, text, text);
    }

    #[test]
    fn a_batch_norm_goes_into_the_weights() {
        check(
            |g| crate::fold::fold(&rewritten(g)?),
            "graph g(x: f32[1, 1, 4, 4]) {
                const w: f32[2, 1, 1, 1] = [1, 2]
                const s: f32[1, 2, 1, 1] = [2, 4]
                const b: f32[1, 2, 1, 1] = [1, 1]
                const m: f32[1, 2, 1, 1] = [0, 1]
                const v: f32[1, 2, 1, 1] = [1, 4]
                c = conv[stride = [1, 1], pad = [0, 0, 0, 0], dilation = [1, 1]](x, w) @ \"conv\"
                y = batch_norm[epsilon = 0.0](c, s, b, m, v) @ \"bn\"
                return y
            }",
            "graph g(x: f32[1, 1, 4, 4]) -> f32[1, 2, 4, 4] {
                const y.mul: f32[2, 1, 1, 1] = [2.0, 4.0]
                const y.sub: f32[1, 2, 1, 1] = [1.0, -1.0]
                y.conv = conv[stride=[1, 1], pad=[0, 0, 0, 0], dilation=[1, 1]](x, y.mul) : f32[1, 2, 4, 4] @ \"bn\", \"conv\"
                y = add(y.conv, y.sub) : f32[1, 2, 4, 4] @ \"bn\", \"conv\"
                return y
            }",
        );
    }

    #[test]
    fn transposes_meet_and_cancel() {
        check(
            rewritten,
            "graph g(x: f32[2, 3, 4]) {
                a = transpose[perm = [2, 0, 1]](x)
                b = relu(a)
                c = exp(b)
                y = transpose[perm = [1, 2, 0]](c)
                return y
            }",
            "graph g(x: f32[2, 3, 4]) -> f32[2, 3, 4] {
                y.relu = relu(x) : f32[2, 3, 4]
                y = exp(y.relu) : f32[2, 3, 4]
                return y
            }",
        );
    }

    #[test]
    fn nodes_of_several_results_keep_their_names() {
        check(
            rewritten,
            "graph g(x: f32[8]) {
                a = neg(x)
                b = neg(a)
                v, i = top_k[axis = 0, k = 2](b) @ \"t\"
                return i
            }",
            "graph g(x: f32[8]) -> i64[2] {
                v, i = top_k[axis=0, k=2](x) : f32[2], i64[2] @ \"t\"
                return i
            }",
        );
    }

    #[test]
    fn rules_can_be_left_out() {
        let graph = egret_ir::text::parse("graph g(x: f32[4]) { s = sigmoid(x) y = mul(x, s) return y }").unwrap();
        let disabled = Context { disabled: ["silu".to_string()].into(), ..Context::default() };
        assert_eq!(rewrite(&graph, &disabled).unwrap().nodes().len(), 2);
        let exact = Context { class: rules::Class::Exact, ..Context::default() };
        assert_eq!(rewrite(&graph, &exact).unwrap().nodes().len(), 2);
    }

    #[test]
    fn the_order_of_nodes_stays() {
        let text = "graph g(x: f32[4], y: f32[4]) -> f32[4], f32[4] {
                d = sin(y) : f32[4]
                c = cos(x) : f32[4]
                b = exp(d) : f32[4]
                a = log(c) : f32[4]
                return a, b
            }";
        check(rewritten, text, text);
    }
}
