//! Passes by name, and the manager that runs a list of them.
//!
//! A pass is a function from a graph to a graph, with a name and a sentence, in the table [`PASSES`]. A list of names is a
//! pipeline; [`FUSED`] and [`UNFUSED`] are the ones that compile a model. After each pass the graph is verified, so a pass
//! that breaks it is named, and the time and what the pass did are noted.
//!
//! ```
//! use egret_passes::pass::{Context, PassManager};
//! let graph = egret_ir::text::parse("graph g(x: f32[N]) { a = sigmoid(x) y = mul(a, x) return y }")?;
//! let manager = PassManager::named("fold, rewrite")?;
//! let (graph, reports) = manager.run(&graph, &Context::default(), |_, _| ())?;
//! assert_eq!(graph.nodes()[0].op.name(), "silu");
//! assert_eq!(reports[1].to_string(), "rewrite: 2 -> 1 nodes; silu 1");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::limit::{Applied, Limit};
use crate::narrow::Storage;
use crate::replay::Applications;
use crate::rules::{Class, Rule};
use crate::{algorithm, blocks, cse, dce, fold, group, halo, integer, layout, legalize, narrow, rewrite, stage, widen};
use egret_ir::Graph;
use egret_ir::verify::verify;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

/// A function from graph to graph.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// What pipelines call it.
    pub name: &'static str,
    /// One sentence.
    pub doc: &'static str,
    /// The function. It does not read or write anything but its arguments.
    pub run: fn(&Graph, &Context) -> Result<Graph, String>,
}

/// Every pass there is.
pub const PASSES: &[Pass] = &[
    STAGE,
    Pass {
        name: "fold",
        doc: "Computes what is known at compile time, shapes included, and drops what changes nothing.",
        run: |g, _| fold::fold(g),
    },
    Pass { name: "widen", doc: "Holds in f32 what is computed in f16 or bf16.", run: widen::widen },
    Pass { name: "integer", doc: "Makes products of quantised values products of bytes.", run: integer::integer },
    Pass { name: "blocks", doc: "Keeps weights of few bits as integers with scales.", run: blocks::blocks },
    Pass { name: "cse", doc: "Computes equal ops of equal operands once.", run: |g, _| cse::cse(g) },
    Pass { name: "dce", doc: "Leaves out what no result depends on.", run: |g, _| dce::dce(g) },
    Pass { name: "rewrite", doc: "Applies the rules in an e-graph and takes the cheapest equal graph.", run: rewrite::rewrite },
    Pass { name: "legalize", doc: "Spells out what has no kernel of its own.", run: |g, _| legalize::legalize(g) },
    Pass { name: "layout", doc: "Brings image-like data into channels-last order.", run: |g, _| layout::layout(g) },
    Pass { name: "algorithm", doc: "Chooses how convolutions are computed.", run: algorithm::algorithm },
    Pass { name: "halo", doc: "Keeps what is padded in memory with its border only.", run: |g, _| halo::halo(g) },
    Pass { name: "group", doc: "Joins ops into kernels, as many as take the least time.", run: group::group },
    Pass { name: "ungrouped", doc: "Makes every op a kernel of its own.", run: |g, _| group::ungrouped(g) },
    Pass {
        name: "narrow",
        doc: "Stores what goes between kernels, and weights, in bf16 or f16.",
        run: |g, c| narrow::narrow(g, c.storage),
    },
];

/// What comes before every other pass where extents depend on data.
const STAGE: Pass = Pass { name: "stage", doc: "Splits a graph where an extent depends on data.", run: |g, _| stage::stage(g) };

/// What a model goes through on its way to kernels. Weights are folded again after every pass that moves them.
pub const FUSED: &str = "widen, integer, blocks, fold, cse, rewrite, fold, cse, legalize, layout, fold, cse, algorithm, halo, group";

/// The same without fusion: what is needed to be compilable, every op a kernel of its own.
pub const UNFUSED: &str = "fold, cse, legalize, layout, fold, cse, ungrouped";

/// What must be done to have code at all; every other pass can be left out.
const REQUIRED: &[&str] = &["stage", "fold", "legalize", "layout", "ungrouped"];

/// What is run in place of a pass that is left out.
const STAND_INS: &[(&str, &str)] = &[("group", "ungrouped")];

impl Pass {
    /// Whether models can be compiled without it.
    pub fn is_optional(&self) -> bool {
        !REQUIRED.contains(&self.name)
    }

    /// The pass, or what is run when it is left out.
    fn unless(self, left_out: bool) -> Option<Pass> {
        if !left_out || !self.is_optional() {
            return Some(self);
        }
        let (_, stand_in) = STAND_INS.iter().find(|(name, _)| *name == self.name)?;
        PASSES.iter().copied().find(|pass| pass.name == *stand_in)
    }
}

/// What passes may know and say beside the graph.
#[derive(Debug)]
pub struct Context {
    /// The weakest class of rules that may be applied.
    pub class: Class,
    /// Names of rules that are left out, and of optional passes.
    pub disabled: BTreeSet<String>,
    /// Whether convolutions are computed as sums of products only.
    pub exact_conv: bool,
    /// Whether products will be dot products of pairs of bf16, which take half the time.
    pub dots: bool,
    /// How the pass `narrow` stores values.
    pub storage: Storage,
    /// Whether there are products of bytes, four at a time.
    pub bytes: bool,
    /// Whether there are products with weights of few bits, in blocks.
    pub blocks: bool,
    /// Whether floats of 16 bits are best held in f32, as processors compute with them.
    pub wide: bool,
    /// Rules beside those of [`crate::rules::all`].
    pub rules: Vec<Rule>,
    /// How much is applied: everything, unless a fault is looked for.
    pub limit: Limit,
    /// Where the applications of rules are kept, to be replayed.
    pub applications: Option<Applications>,
    /// What the pass that runs has said so far; see [`Context::count`], [`Context::figure`] and [`Context::remark`].
    pub notes: RefCell<Notes>,
}

/// What a pass said; the fields are those of [`Report`].
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// See [`Report::fired`].
    pub fired: BTreeMap<String, usize>,
    /// See [`Report::figures`].
    pub figures: BTreeMap<&'static str, u64>,
    /// See [`Report::remarks`].
    pub remarks: Vec<String>,
    /// See [`Report::class`].
    pub class: Option<Class>,
}

impl Default for Context {
    /// Rules that reassociate are applied, as every other compiler does.
    fn default() -> Context {
        Context {
            class: Class::Reassoc,
            disabled: BTreeSet::new(),
            exact_conv: false,
            dots: false,
            storage: Storage::default(),
            bytes: false,
            blocks: false,
            wide: false,
            rules: vec![],
            limit: Limit::default(),
            applications: None,
            notes: RefCell::default(),
        }
    }
}

impl Context {
    /// Notes that the pass applied the rule `name`.
    pub fn count(&self, name: &str, times: usize) {
        *self.notes.borrow_mut().fired.entry(name.to_string()).or_default() += times;
    }

    /// Notes a figure of the pass, such as the size of an e-graph.
    pub fn figure(&self, name: &'static str, value: u64) {
        self.notes.borrow_mut().figures.insert(name, value);
    }

    /// Notes that a rule of this class was applied.
    pub fn weaken(&self, class: Class) {
        let noted = &mut self.notes.borrow_mut().class;
        *noted = (*noted).max(Some(class));
    }

    /// Notes something else worth knowing about what the pass did: a budget that was spent.
    pub fn remark(&self, remark: impl Into<String>) {
        self.notes.borrow_mut().remarks.push(remark.into());
    }
}

/// What one pass did.
#[derive(Clone, Debug)]
pub struct Report {
    /// The pass.
    pub pass: &'static str,
    /// Nodes before it.
    pub before: usize,
    /// Nodes after it.
    pub after: usize,
    /// How long it took, without verification.
    pub time: Duration,
    /// How often each rule was applied.
    pub fired: BTreeMap<String, usize>,
    /// Its own figures: `rewrite` gives `enodes`, `classes`, `iterations` and `cost`.
    pub figures: BTreeMap<&'static str, u64>,
    /// What else it said.
    pub remarks: Vec<String>,
    /// The weakest class of the rules it applied; `None` if it applied none.
    pub class: Option<Class>,
}

impl fmt::Display for Report {
    /// Without time and figures, so that snapshots can hold it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {} nodes", self.pass, self.before, self.after)?;
        let fired: Vec<String> = self.fired.iter().map(|(name, times)| format!("{name} {times}")).collect();
        if !fired.is_empty() {
            write!(f, "; {}", fired.join(", "))?;
        }
        self.remarks.iter().try_for_each(|remark| write!(f, "; {remark}"))
    }
}

/// A list of passes.
#[derive(Clone, Debug)]
pub struct PassManager {
    passes: Vec<Pass>,
}

impl PassManager {
    /// These passes, in order.
    pub fn new(passes: impl IntoIterator<Item = Pass>) -> PassManager {
        PassManager { passes: passes.into_iter().collect() }
    }

    /// The passes of a pipeline such as `fold, rewrite`; none for an empty one.
    ///
    /// # Errors
    /// Names the pass that does not exist, and all that do.
    pub fn named(pipeline: &str) -> Result<PassManager, String> {
        let names = pipeline.split(',').map(str::trim).filter(|n| !n.is_empty());
        let find = |name: &str| {
            let all: Vec<&str> = PASSES.iter().map(|p| p.name).collect();
            PASSES
                .iter()
                .copied()
                .find(|p| p.name == name)
                .ok_or_else(|| format!("there is no pass `{name}`; there are: {}", all.join(", ")))
        };
        Ok(PassManager { passes: names.map(find).collect::<Result<_, _>>()? })
    }

    /// The same with a pass before the first one of this name.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn insert_before(mut self, name: &str, pass: Pass) -> Result<PassManager, String> {
        let at = self.passes.iter().position(|p| p.name == name);
        let at =
            at.ok_or_else(|| format!("there is no pass `{name}` to put `{}` before; there are: {}", pass.name, self.names().join(", ")))?;
        self.passes.insert(at, pass);
        Ok(self)
    }

    fn names(&self) -> Vec<&'static str> {
        self.passes.iter().map(|p| p.name).collect()
    }

    /// The passes.
    pub fn passes(&self) -> &[Pass] {
        &self.passes
    }

    /// Runs all passes and shows each graph to `observe`. A graph whose extents depend on data is split into stages first, and each pass
    /// sees one of them at a time.
    ///
    /// # Errors
    /// Names the pass that failed, or whose graph is not valid.
    pub fn run(&self, graph: &Graph, context: &Context, mut observe: impl FnMut(&Report, &Graph)) -> Result<(Graph, Vec<Report>), String> {
        let mut graph = graph.clone();
        let mut reports = vec![];
        let split = stage::needs_stages(&graph) && !self.names().contains(&STAGE.name);
        for pass in split.then_some(&STAGE).into_iter().chain(&self.passes) {
            let left_out = context.disabled.contains(pass.name) || context.limit.is_reached();
            let Some(pass) = pass.unless(left_out) else { continue };
            let (new, report) = run_one(&pass, &graph, context)?;
            observe(&report, &new);
            reports.push(report);
            graph = new;
        }
        Ok((graph, reports))
    }
}

fn run_one(pass: &Pass, graph: &Graph, context: &Context) -> Result<(Graph, Report), String> {
    context.notes.take();
    let applied = context.limit.applied();
    let start = Instant::now();
    let run = |graph: &Graph| (pass.run)(graph, context);
    let new = if pass.name == STAGE.name { run(graph) } else { stage::inside(graph, &run) };
    let new = new.map_err(|e| format!("pass `{}`: {e}", pass.name))?;
    let time = start.elapsed();
    verify(&new).map_err(|e| format!("after pass `{}`: {e}", pass.name))?;
    // A pass that numbers its steps has done so; another one is one step.
    if pass.is_optional() && applied == context.limit.applied() && new.nodes() != graph.nodes() {
        context.limit.apply(Applied::Pass(pass.name));
    }
    let Notes { fired, figures, remarks, class } = context.notes.take();
    let report = Report { pass: pass.name, before: stage::nodes(graph), after: stage::nodes(&new), time, fired, figures, remarks, class };
    Ok((new, report))
}

#[cfg(test)]
mod tests {
    use super::*;
    use egret_ir::text::parse;

    #[test]
    fn standard_pipelines_exist() {
        for pipeline in [FUSED, UNFUSED] {
            assert!(PassManager::named(pipeline).is_ok());
        }
        let names: BTreeSet<&str> = PASSES.iter().map(|p| p.name).collect();
        assert_eq!(names.len(), PASSES.len());
    }

    #[test]
    fn unknown_passes_are_errors() {
        let error = PassManager::named("fold, fuse").unwrap_err();
        assert!(error.starts_with("there is no pass `fuse`; there are: stage, fold, widen, integer, blocks, cse, "), "{error}");
    }

    #[test]
    fn a_pass_that_breaks_a_graph_is_named() {
        let broken = Pass {
            name: "broken",
            doc: "",
            run: |g, _| {
                let mut g = g.clone();
                g.result_names.clear();
                Ok(g)
            },
        };
        let graph = parse("graph g(x: f32[2]) { y = neg(x) return y }").unwrap();
        let error = PassManager::new([broken]).run(&graph, &Context::default(), |_, _| ()).unwrap_err();
        assert_eq!(error, "after pass `broken`: graph `g`: expected a name for each of the 1 results, found 0");
    }

    #[test]
    fn a_limit_keeps_the_first_applications() {
        let graph = parse("graph g(x: f32[2]) { a = sigmoid(x) b = sigmoid(x) c = mul(x, a) y = mul(b, c) return y }").unwrap();
        let manager = PassManager::named(FUSED).unwrap();
        let with = |limit: Limit| {
            let context = Context { limit, ..Context::default() };
            let (graph, _) = manager.run(&graph, &context, |_, _| ()).unwrap();
            (graph, context.limit.applied(), context.limit.last())
        };
        let (whole, count, last) = with(Limit::default());
        assert!(count > 3 && last == Some(Applied::Pass("group")) && whole.nodes().len() == 1, "{count}\n{whole}");
        let lasts: Vec<Option<Applied>> = (0..=count).map(|n| with(Limit::of(n)).2).collect();
        assert_eq!((lasts[0], lasts[1], lasts[count]), (None, Some(Applied::Pass("cse")), last));
        assert!(lasts.contains(&Some(Applied::Rule("silu"))), "{lasts:?}");
        assert_eq!(with(Limit::of(count)).0, whole);
        let none = with(Limit::of(0)).0;
        assert_eq!((none.nodes().len(), with(Limit::of(1)).0.nodes().len()), (4, 3));
    }

    #[test]
    fn optional_passes_can_be_left_out() {
        let graph = parse("graph g(x: f32[2]) { a = neg(x) y = exp(a) return y }").unwrap();
        let disabled: BTreeSet<String> = ["group".to_string(), "fold".to_string()].into();
        let context = Context { disabled, ..Context::default() };
        let (graph, reports) = PassManager::named("fold, group").unwrap().run(&graph, &context, |_, _| ()).unwrap();
        assert_eq!(reports.iter().map(|r| r.pass).collect::<Vec<_>>(), ["fold", "ungrouped"]);
        assert_eq!(graph.nodes().len(), 2);
    }

    #[test]
    fn passes_can_be_put_between() {
        let dce = *PassManager::named("dce").unwrap().passes().first().unwrap();
        let manager = PassManager::named("fold, cse").unwrap().insert_before("cse", dce).unwrap();
        assert_eq!(manager.names(), ["fold", "dce", "cse"]);
        let error = manager.insert_before("group", dce).unwrap_err();
        assert_eq!(error, "there is no pass `group` to put `dce` before; there are: fold, dce, cse");
    }

    #[test]
    fn every_pass_is_shown() {
        let graph = parse("graph g(x: f32[2]) { a = neg(x) b = neg(x) y = add(a, b) return y }").unwrap();
        let mut seen = vec![];
        let manager = PassManager::named("cse, dce,").unwrap();
        manager.run(&graph, &Context::default(), |report, graph| seen.push((report.to_string(), graph.nodes().len()))).unwrap();
        assert_eq!(seen, [("cse: 3 -> 2 nodes".to_string(), 2), ("dce: 2 -> 2 nodes".to_string(), 2)]);
    }
}
