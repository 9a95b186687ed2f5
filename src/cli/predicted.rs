//! What the cost model says of the calls of a plan: the times that grouping chose by, beside those that are measured.
//!
//! **Invariant.** A prediction is that of [`egret::passes::cost::predict`] for the grouped graph that the plan was made of, on one
//! thread; nothing is added or left out on its way to a table. Free dimensions have the extents of the run, or [`shown`] ones. The figures that
//! `egret hw` kept change predictions, and never a plan.
//!
//! ```text
//! k0   conv · add · relu   predicted 5.1 us   measured 5.4 us
//! ```

use egret::ir::Bindings;
use egret::passes::cost::{self, Machine};
use egret::plan::{Plan, Step};
use egret::range::Range;
use egret::{Error, Graph};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Picoseconds of a microsecond.
const PER_US: f64 = 1e6;

/// The predictions for a grouped graph.
pub struct Predicted {
    /// Microseconds of each node, in the graph's order.
    pub nodes_us: Vec<f64>,
    /// Microseconds of a run.
    pub total_us: f64,
    /// The extents of the free dimensions.
    pub dims: Bindings,
    /// The node that each value is a result of.
    makers: HashMap<String, usize>,
}

impl Predicted {
    /// Predicts a graph whose free dimensions have these extents.
    pub fn of(grouped: &Graph, dims: &Bindings) -> Result<Predicted, Error> {
        let graph = grouped.bind(dims).map_err(Error::Usage)?;
        let nodes_us: Vec<f64> = cost::predict(&graph, &machine()).iter().map(|prediction| prediction.time as f64 / PER_US).collect();
        let results = graph.nodes().iter().enumerate().flat_map(|(i, node)| node.results.iter().map(move |&result| (result, i)));
        let makers = results.map(|(result, i)| (graph.value(result).name.to_string(), i)).collect();
        Ok(Predicted { total_us: nodes_us.iter().sum(), nodes_us, dims: dims.clone(), makers })
    }

    /// The node that each step of a plan is for: that of the value it writes, or, if it only prepares, of the step after it.
    pub fn nodes(&self, plan: &Plan) -> Vec<Option<usize>> {
        nodes(plan, &self.makers)
    }

    /// Microseconds of each step of a plan. A node that takes several calls, such as one that brings an operand into another
    /// order first, has its time at the last of them; the others have none.
    pub fn steps(&self, plan: &Plan) -> Vec<Option<f64>> {
        let nodes = self.nodes(plan);
        let is_last = |i: usize| nodes.get(i + 1).is_none_or(|next| *next != nodes[i]);
        (0..nodes.len()).map(|i| nodes[i].filter(|_| is_last(i)).map(|node| self.nodes_us[node])).collect()
    }
}

/// The number of what each step of a plan is for, by the values that each number makes.
pub fn nodes(plan: &Plan, makers: &HashMap<String, usize>) -> Vec<Option<usize>> {
    let name = |&buffer: &u32| plan.buffers[buffer as usize].name.as_str();
    let written = |step: &Step| step.writes.iter().find_map(|buffer| makers.get(name(buffer)).copied());
    let mut nodes: Vec<Option<usize>> = plan.steps.iter().map(written).collect();
    for i in (1..nodes.len()).rev() {
        nodes[i - 1] = nodes[i - 1].or(nodes[i]);
    }
    nodes
}

/// The most that a free dimension is shown as.
const MOST_SHOWN: i64 = 1 << 12;

/// Extents to look at a graph with: those that are given, and for all others the least power of two with which it runs, kept within the limits that it has. A model
/// may not run with extents of 1, such as one that halves an image five times and adds what it doubles again.
pub fn shown(grouped: &Graph, given: &Bindings, free: &[Arc<str>], limited: &BTreeMap<String, Range>) -> Bindings {
    let within = |name: &str, extent: i64| limited.get(name).map_or(extent, |range| extent.clamp(range.low, range.high));
    let with = |extent: i64| -> Bindings { free.iter().map(|name| (name.clone(), within(name, extent))).chain(given.clone()).collect() };
    let powers = std::iter::successors(Some(1), |extent| Some(extent * 2)).take_while(|&extent| extent <= MOST_SHOWN);
    powers.map(with).find(|dims| grouped.bind(dims).is_ok()).unwrap_or_else(|| with(1))
}

/// The machine whose rates predictions are made with: this one where `egret hw` measured it. Kernels are chosen by the rates of
/// [`cost::ZEN4`] wherever a model is compiled, since the same model must give the same artifact.
fn machine() -> Machine {
    egret::hw::Machine::cached().map_or(cost::ZEN4, |machine| machine.rates())
}

/// How far a prediction lies from what was measured, in percent of that: `-12 %`.
pub fn error_text(predicted: f64, measured: f64) -> String {
    format!("{:+.0} %", (predicted / measured - 1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use egret::Compiler;

    /// A graph's calls with their predictions: `y 1` where there is one, `y` where there is none.
    fn predicted(text: &str, dims: &[(&str, i64)]) -> (Predicted, Vec<String>) {
        let graph = egret::parse_text("test", text).unwrap();
        let compiler = Compiler::new();
        let grouped = compiler.optimise(&graph).unwrap();
        let plan = compiler.generate(&grouped).unwrap().plan().clone();
        let dims = dims.iter().map(|(name, extent)| ((*name).into(), *extent)).collect();
        let predicted = Predicted::of(&grouped, &dims).unwrap();
        let steps = plan.steps.iter().zip(predicted.steps(&plan));
        let texts = steps.map(|(step, us)| format!("{}{}", step.name, if us.is_some() { " predicted" } else { "" })).collect();
        (predicted, texts)
    }

    #[test]
    fn every_kernel_has_a_time_and_their_sum_is_that_of_a_run() {
        let text = "graph g(x: f32[N, 64]) { const w: f32[64, 64] = splat(1) h = matmul(x, w) y = softmax[axes=[1]](h) return y }";
        let (few, steps) = predicted(text, &[("N", 1)]);
        assert_eq!(steps, ["h predicted", "y predicted"]);
        assert!((few.nodes_us.iter().sum::<f64>() - few.total_us).abs() < 1e-9);
        let (many, _) = predicted(text, &[("N", 1000)]);
        assert!(many.total_us > 10.0 * few.total_us, "{} {}", many.total_us, few.total_us);
    }

    #[test]
    fn extents_are_shown_with_which_the_graph_runs() {
        let text = "graph g(x: f32[N, H], y: f32[N, M]) { a = slice[start=[0, 6], shape=[N, 2], step=[1, 1]](x) return a, y }";
        let graph = egret::parse_text("test", text).unwrap();
        let free: Vec<Arc<str>> = ["N", "H", "M"].map(Arc::from).to_vec();
        let shown = shown(&graph, &[("M".into(), 3)].into(), &free, &BTreeMap::new());
        assert_eq!(shown, [("N".into(), 8), ("H".into(), 8), ("M".into(), 3)].into());
    }

    #[test]
    fn a_node_of_several_calls_has_its_time_once() {
        let (_, steps) =
            predicted("graph g(x: f32[64, 64], w: f32[64, 64]) { t = transpose[perm=[1, 0]](w) y = matmul(x, t) return y }", &[]);
        assert!(steps.len() > 1 && steps.iter().filter(|step| step.ends_with("predicted")).count() == 1, "{steps:?}");
    }
}
