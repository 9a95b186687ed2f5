//! `egret explain`: where every kernel came from, by which rules, and why its neighbours are not part of it.
//!
//! ```text
//! $ egret explain examples/models/digits_vit.onnx node_layer_norm
//! k2   add · layer_norm   layer_norm: f32[batch, 17, 48]
//!   from     node_add node_layer_norm
//!   time     0.26 us predicted
//!   rules    none: as the model has it
//!   reads    cat of k1: its parts come from different places
//!            one kernel would need a concatenation or padding that is the last op of its kernel, up to a border
//! ```
//!
//! The rules are those of a proof that egg finds (see [`egret::passes::explain`]), in the order from the model's graph to the
//! kernel's; `~` marks one that was used from right to left.

mod code;
mod html;
mod layers;

use super::measure::{self, Side};
use super::options::{CompileOptions, JsonOption};
use super::predicted::Predicted;
use super::source::Ready;
use super::table::plural;
use super::{inputs, predicted, profile, progress::Progress, report};
use egret::ir::{Bindings, Def, Node, NodeId, ValueId};
use egret::passes::explain::{Proofs, Step, explain};
use egret::passes::group::{Neighbours, neighbours};
use egret::passes::rules::{self, Rule};
use egret::passes::{Context, PassManager, stage};
use egret::{Error, Graph};
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What is said in place of a kernel's name of what has no code of its own: views, and what is computed between stages.
const NO_KERNEL: &str = "no kernel";

/// Runs go on this long: enough for a steady median of kernels of milliseconds.
const MEASURED: Duration = Duration::from_secs(1);

/// The arguments of `egret explain`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// An .onnx model or a graph as .egir text; or the code of an error, such as E0107
    model: PathBuf,
    /// Only the kernels that compute this node of the model
    node: Option<String>,
    #[command(flatten)]
    compile: CompileOptions,
    /// Only kernels that do the work of several ops
    #[arg(long, conflicts_with = "not_fused")]
    fused: bool,
    /// Only neighbours that do not share a kernel, with the condition that stopped them
    #[arg(long)]
    not_fused: bool,
    /// Run the model on pseudo-random inputs and say how long every kernel took on one thread; free dimensions are 1
    #[arg(long)]
    measure: bool,
    /// Write a page with the graph before and after, to be opened in a browser
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    json: JsonOption,
}

const EXAMPLES: &str = "\
Examples:
  egret explain model.onnx                       every kernel
  egret explain model.onnx /layer1/Conv          what became of one node, with the equations
  egret explain model.onnx --not-fused           where intermediate results go through memory, and why
  egret explain model.onnx --html model.html     the graph before and after, drawn, with predicted times
  egret explain model.onnx --html model.html --measure   the same with measured times
  egret explain E0107                            what an error means, and what to do";

/// What became of a model.
#[derive(Serialize)]
struct Explanation {
    schema: &'static str,
    model: String,
    /// The weakest class of rules that were applied.
    weakest_rule: Option<&'static str>,
    /// The nodes of the graph as imported.
    nodes: Vec<Imported>,
    kernels: Vec<Kernel>,
    /// What is said in place of a predicted time.
    #[serde(skip)]
    unpredicted: &'static str,
}

/// A node of the graph as imported.
#[derive(Serialize)]
struct Imported {
    value: String,
    op: &'static str,
    #[serde(rename = "type")]
    ty: String,
    /// The values of other nodes that it reads.
    reads: Vec<String>,
    origins: Vec<String>,
}

/// A kernel, or a reshape that needs none.
#[derive(Clone, Serialize)]
struct Kernel {
    name: String,
    ops: Vec<&'static str>,
    value: String,
    /// All values that it makes.
    #[serde(skip)]
    values: Vec<String>,
    #[serde(rename = "type")]
    ty: String,
    /// The values of other kernels that it reads.
    reads: Vec<String>,
    origins: Vec<String>,
    /// By the cost model, on one thread of a processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted_us: Option<f64>,
    /// The median, if it was measured; of a kernel of several calls, all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured_us: Option<f64>,
    rules: Vec<Applied>,
    /// Values of its own for which no proof was found within the budget of the e-graph.
    unexplained: Vec<String>,
    not_fused: Vec<Between>,
}

/// A rule on the way to a kernel.
#[derive(Clone, PartialEq, Serialize)]
struct Applied {
    rule: String,
    class: &'static str,
    backwards: bool,
    times: usize,
    equation: String,
}

/// A value that goes from another kernel to this one through memory.
#[derive(Clone, Serialize)]
struct Between {
    value: String,
    /// The kernel that makes it.
    kernel: String,
    reason: String,
    condition: &'static str,
}

/// Compiles as far as kernels, explains them, prints what was asked for.
pub fn run(args: Args) -> Result<(), Error> {
    if let Some(page) = code::page(&args.model) {
        return report::result(page?);
    }
    let progress = Progress::start("Importing");
    let ready = Ready::unbound(&args.model, &args.compile)?;
    let graph = ready.graph("explain kernels")?;
    progress.phase("Explaining");
    let stages = Stages::of(&ready, graph)?;
    let mut explanation = stages.explanation(ready.name(), graph)?;
    let dims = ready.extents(&stages.grouped);
    // Of stages it is not known how often they run, and on which extents.
    if !stage::has_stages(&stages.grouped) && !ready.compiler(true).chosen_target()?.is_cuda() {
        let predicted = Predicted::of(&stages.grouped, &dims)?;
        explanation.kernels.iter_mut().zip(&predicted.nodes_us).for_each(|(kernel, us)| kernel.predicted_us = Some(*us));
    }
    if args.measure {
        progress.phase("Measuring");
        explanation.measure(&ready, &stages.grouped, &dims)?;
    }
    drop(progress);
    if let Some(path) = &args.html {
        let page = html::page(&explanation);
        std::fs::write(path, page).map_err(|error| Error::File(format!("{}: {error}", path.display())))?;
    }
    explanation.select(&args)?;
    let wants_text = !args.json.takes_stdout() && (args.html.is_none() || args.node.is_some() || args.fused || args.not_fused);
    if wants_text {
        report::result(explanation.text(args.node.is_some(), args.not_fused))?;
    }
    args.json.json.as_deref().map_or(Ok(()), |path| report::json(path, &explanation))
}

/// The graphs on the way that say something.
struct Stages {
    context: Context,
    weakest: Option<rules::Class>,
    /// Before and after rules were applied; none if they were not.
    rewritten: Option<(Graph, Graph)>,
    /// What the groups were made of; none if every op is a kernel of its own.
    ungrouped: Option<Graph>,
    grouped: Graph,
}

impl Stages {
    fn of(ready: &Ready, graph: &Graph) -> Result<Stages, Error> {
        let compiler = ready.compiler(true);
        let (passes, context) = (compiler.passes()?, compiler.context()?);
        let (mut graph, mut weakest, mut rewritten, mut ungrouped) = (graph.clone(), None, None, None);
        for &pass in passes.passes() {
            let (next, reports) = PassManager::new([pass]).run(&graph, &context, |_, _| ()).map_err(Error::Unsupported)?;
            weakest = reports.iter().filter_map(|report| report.class).max().max(weakest);
            if pass.name == "rewrite" {
                rewritten = Some((graph.clone(), next.clone()));
            }
            if reports.iter().any(|report| report.pass == "group") {
                ungrouped = Some(graph);
            }
            graph = next;
        }
        Ok(Stages { context, weakest, rewritten, ungrouped, grouped: graph })
    }

    fn explanation(&self, model: &str, imported: &Graph) -> Result<Explanation, Error> {
        let known: HashMap<&str, &Rule> = rules::all().iter().chain(&self.context.rules).map(|rule| (rule.name, rule)).collect();
        let proofs = self.proofs()?;
        let mut explanation = Explanation {
            schema: "egret.explain/1",
            model: model.to_string(),
            weakest_rule: self.weakest.map(rules::Class::name),
            nodes: Imported::all(imported),
            kernels: Kernel::all(&self.grouped, &proofs, &known),
            unpredicted: if stage::has_stages(&self.grouped) {
                "not predicted, since data decides over it"
            } else {
                "not predicted for a GPU"
            },
        };
        for ungrouped in self.ungrouped.iter().flat_map(stage::seen) {
            neighbours(ungrouped).map_err(Error::Bug)?.iter().for_each(|between| explanation.add(between));
        }
        Ok(explanation)
    }

    /// The proofs of the values of all stages; no two stages have values of the same name.
    fn proofs(&self) -> Result<Proofs, Error> {
        let Some((old, new)) = &self.rewritten else { return Ok(Proofs::new()) };
        let pairs = stage::seen(old).into_iter().zip(stage::seen(new));
        let proofs = pairs.map(|(old, new)| explain(old, new, &self.context).map_err(Error::Bug));
        Ok(proofs.collect::<Result<Vec<Proofs>, Error>>()?.into_iter().flatten().collect())
    }
}

/// What a node reads of other nodes, each value once; a node of several results goes by the first. What a stage or a region reads from
/// around it goes by its name there.
fn reads(graph: &Graph, node: &Node) -> Vec<String> {
    let makers: BTreeSet<NodeId> = node.operands.iter().filter_map(|&v| graph.producer(v)).collect();
    let around = node.operands.iter().filter(|&&v| matches!(graph.value(v).def, Def::Param)).map(|&v| name(graph, v));
    makers.into_iter().map(|maker| name(graph, graph.node(maker).results[0])).chain(around).collect()
}

fn name(graph: &Graph, value: ValueId) -> String {
    graph.value(value).name.to_string()
}

fn strings(names: &[Arc<str>]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

/// The proof of a value. Passes after the rules name what they spell out after the value it is for: `y.scores`.
fn proof_of<'a>(proofs: &'a Proofs, value: &str) -> Option<&'a Option<Vec<Step>>> {
    std::iter::successors(Some(value), |name| Some(name.rsplit_once('.')?.0)).find_map(|name| proofs.get(name))
}

impl Imported {
    /// The nodes of a graph and of its regions.
    fn all(graph: &Graph) -> Vec<Imported> {
        let of_node = |node: &Node| -> Vec<Imported> {
            let inner = node.regions().flat_map(|region| Imported::all(region));
            inner.chain([Imported::of(graph, node)]).collect()
        };
        graph.nodes().iter().flat_map(of_node).collect()
    }

    fn of(graph: &Graph, node: &Node) -> Imported {
        Imported {
            value: name(graph, node.results[0]),
            op: node.op.name(),
            ty: graph.ty(node.results[0]).to_string(),
            reads: reads(graph, node),
            origins: strings(&node.origin),
        }
    }
}

impl Kernel {
    /// The kernels of a graph, of its stages and of the regions of loops and branches, in order, and what is computed between them.
    fn all(graph: &Graph, proofs: &Proofs, known: &HashMap<&str, &Rule>) -> Vec<Kernel> {
        let of_node = |node: &Node| -> Vec<Kernel> {
            if !node.op.is_stage() && !node.op.is_control() {
                return vec![Kernel::of(graph, node, proofs, known)];
            }
            let of_region = |region: &Graph| {
                let mut kernels = Kernel::all(region, proofs, known);
                let own = kernels.iter_mut().filter(|kernel| node.op.is_stage() && kernel.has_code());
                own.for_each(|kernel| kernel.name = format!("{}/{}", region.name, kernel.name));
                kernels
            };
            node.regions().flat_map(|region| of_region(region)).collect()
        };
        graph.nodes().iter().flat_map(of_node).collect()
    }

    /// Whether it is a function that is called.
    fn has_code(&self) -> bool {
        self.name != NO_KERNEL
    }

    fn of(graph: &Graph, node: &Node, proofs: &Proofs, known: &HashMap<&str, &Rule>) -> Kernel {
        let members = node.region.as_ref().map_or(std::slice::from_ref(node), |region| region.nodes());
        let inside = node.region.as_deref().unwrap_or(graph);
        let mut kernel = Kernel {
            name: node.region.as_ref().map_or_else(|| NO_KERNEL.to_string(), |region| region.name.clone()),
            ops: members.iter().map(|member| member.op.name()).collect(),
            value: name(graph, node.results[0]),
            values: node.results.iter().map(|&result| name(graph, result)).collect(),
            ty: graph.ty(node.results[0]).to_string(),
            reads: reads(graph, node),
            origins: strings(&node.origin),
            predicted_us: None,
            measured_us: None,
            rules: vec![],
            unexplained: vec![],
            not_fused: vec![],
        };
        for value in members.iter().flat_map(|member| &member.results) {
            let value = &inside.value(*value).name;
            match proof_of(proofs, value) {
                Some(Some(steps)) => steps.iter().for_each(|step| kernel.add(step, known)),
                Some(None) => kernel.unexplained.push(value.to_string()),
                None => {}
            }
        }
        kernel
    }

    /// Notes a step; what several values of the kernel have in common is told once.
    fn add(&mut self, step: &Step, known: &HashMap<&str, &Rule>) {
        let rule = known.get(step.rule.as_str());
        let class = rule.map_or(rules::Class::Exact, |rule| rule.class).name();
        // What is no rule is arithmetic on constants.
        let equation =
            rule.map_or_else(|| "a value that is known at compile time".to_string(), |rule| format!("{} => {}", rule.lhs, rule.rhs));
        let applied = Applied { rule: step.rule.clone(), class, backwards: step.backwards, times: step.times, equation };
        if !self.rules.contains(&applied) {
            self.rules.push(applied);
        }
    }

    /// `5.10 us predicted, 5.22 us measured`, or what is said without either.
    fn time(&self, unpredicted: &str) -> String {
        let said = |us: Option<f64>, how: &str| us.map(|us| format!("{us:.2} us {how}"));
        let times: Vec<String> = [said(self.predicted_us, "predicted"), said(self.measured_us, "measured")].into_iter().flatten().collect();
        if times.is_empty() { unpredicted.to_string() } else { times.join(", ") }
    }

    fn title(&self) -> String {
        format!("{}   {}   {}: {}", self.name, self.ops.join(" · "), self.value, self.ty)
    }
}

impl Explanation {
    /// Notes why two kernels are not one.
    fn add(&mut self, between: &Neighbours) {
        let kernel = self.kernels.iter().find(|kernel| *kernel.value == *between.maker).map(|kernel| kernel.name.clone());
        let reader = self.kernels.iter_mut().find(|kernel| *kernel.value == *between.reader);
        if let (Some(reader), Some(kernel)) = (reader, kernel) {
            let (reason, condition) = (between.refusal.reason(), between.refusal.condition());
            reader.not_fused.push(Between { value: between.value.to_string(), kernel, reason, condition });
        }
    }

    /// Compiles the kernels, runs them, and notes how long each took.
    fn measure(&mut self, ready: &Ready, grouped: &Graph, dims: &Bindings) -> Result<(), Error> {
        let artifact = ready.compiler(true).generate(grouped)?;
        let session = artifact.session(1)?;
        let inputs = ready.inputs_of(&session, dims)?;
        let (_, profiles) = measure::profiled(&mut Side::new(session, ready.named(&inputs))?, MEASURED)?;
        let plan = artifact.plan();
        let made = self.kernels.iter().enumerate().flat_map(|(i, kernel)| kernel.values.iter().map(move |value| (value.clone(), i)));
        let makers = made.collect();
        let kernels: Vec<Option<usize>> = plan.walked().iter().flat_map(|walked| predicted::nodes(walked, &makers)).collect();
        for (us, kernel) in profile::medians_us(&profiles, plan).into_iter().zip(kernels) {
            if let Some(kernel) = kernel.and_then(|kernel| self.kernels.get_mut(kernel)) {
                *kernel.measured_us.get_or_insert(0.0) += us;
            }
        }
        Ok(())
    }

    /// Leaves out the kernels that were not asked for.
    fn select(&mut self, args: &Args) -> Result<(), Error> {
        if let Some(node) = &args.node {
            let is_named = |kernel: &Kernel| kernel.origins.contains(node) || kernel.value == *node || kernel.name == *node;
            if !self.kernels.iter().any(is_named) {
                return Err(self.unknown(node));
            }
            self.kernels.retain(is_named);
        }
        self.kernels.retain(|kernel| !args.fused || kernel.ops.len() > 1);
        self.kernels.retain(|kernel| !args.not_fused || !kernel.not_fused.is_empty());
        Ok(())
    }

    fn unknown(&self, node: &str) -> Error {
        let known = || self.nodes.iter().flat_map(|node| &node.origins).map(String::as_str);
        if known().any(|origin| origin == node) {
            return Error::Usage(format!("no kernel computes `{node}`: it was folded into a constant, or no output depends on it"));
        }
        let meant = inputs::did_you_mean(node, known().chain(self.kernels.iter().map(|kernel| kernel.value.as_str())));
        Error::Usage(format!("the model has no node `{node}`{meant}; `egret inspect` lists the nodes of every kernel"))
    }

    /// `detailed` adds equations and neighbours, `only_neighbours` shows nothing but these.
    fn text(&self, detailed: bool, only_neighbours: bool) -> String {
        let mut text = String::new();
        for kernel in &self.kernels {
            text += &format!("{}\n", kernel.title());
            if !only_neighbours {
                text += &format!("  from     {}\n", list(&kernel.origins));
                text += &format!("  time     {}\n", kernel.time(self.unpredicted));
                text += &kernel.rules_text(detailed);
            }
            if detailed || only_neighbours {
                for Between { value, kernel, reason, condition } in &kernel.not_fused {
                    text += &format!("  reads    {value} of {kernel}: {reason}\n           one kernel would need {condition}\n");
                }
            }
        }
        let count = self.kernels.iter().filter(|kernel| kernel.ops.len() > 1).count();
        text + &format!("{}, {count} of them of several ops\n", plural(self.kernels.len(), "kernel"))
    }
}

impl Kernel {
    fn rules_text(&self, detailed: bool) -> String {
        let word = |applied: &Applied| {
            let times = if applied.times > 1 { format!(" x{}", applied.times) } else { String::new() };
            format!("{}{}{times}", if applied.backwards { "~" } else { "" }, applied.rule)
        };
        let mut text = match (self.rules.is_empty(), detailed) {
            (true, _) => "  rules    none: as the model has it\n".to_string(),
            (false, false) => format!("  rules    {}\n", list(&self.rules.iter().map(word).collect::<Vec<_>>())),
            (false, true) => self.rules.iter().map(|a| format!("  rule     {} {}: {}\n", a.class, word(a), a.equation)).collect(),
        };
        if !self.unexplained.is_empty() {
            text += &format!("  no proof was found within the budget for {}\n", self.unexplained.join(", "));
        }
        text
    }
}

fn list(words: &[String]) -> String {
    if words.is_empty() { "nothing".to_string() } else { words.join(" ") }
}
