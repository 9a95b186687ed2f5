//! The path of a model: import, optimise, generate.
//!
//! **Invariant.** A [`Compiler`] is a set of choices and holds nothing else: the same choices and model give the same artifact, byte
//! for byte. Each step takes what the step before it gives, so a program may stop, look, or put in a step of its own.

use crate::artifact::Artifact;
use crate::error::Error;
use crate::passes::rules::{self, Class, Rule};
use crate::passes::{Context, FUSED, Limit, PASSES, PassManager, Report, UNFUSED, integer};
use crate::precision::Precision;
use egret_codegen::{Compiled, Options, Stage, Target};
use egret_frontend::{Import, ImportOptions};
use egret_ir::{Bindings, Graph, Tensor};
use egret_passes::narrow::Storage;
use egret_runtime::range::Range;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// How models are compiled.
///
/// ```no_run
/// use egret::Compiler;
///
/// let compiler = Compiler::new().dim("batch", 1).target("x86-64-v3");
/// compiler.compile("model.onnx")?.write("model.egret")?;
/// # Ok::<(), egret::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Compiler {
    dims: Bindings,
    ranges: BTreeMap<String, Range>,
    shapes: BTreeMap<Arc<str>, Vec<usize>>,
    values: BTreeMap<Arc<str>, Tensor>,
    target: String,
    fuse: bool,
    exact_conv: bool,
    precision: Precision,
    class: Class,
    disabled: Vec<String>,
    rules: Vec<Rule>,
    pipeline: Option<PassManager>,
    limit: Option<usize>,
}

impl Default for Compiler {
    fn default() -> Compiler {
        Compiler::new()
    }
}

impl Compiler {
    /// Fused code for this machine's processor, with every free dimension left free.
    pub fn new() -> Compiler {
        Compiler {
            dims: Bindings::new(),
            ranges: BTreeMap::new(),
            shapes: BTreeMap::new(),
            values: BTreeMap::new(),
            target: "native".to_string(),
            fuse: true,
            exact_conv: false,
            precision: Precision::F32,
            class: Class::Reassoc,
            disabled: vec![],
            rules: vec![],
            pipeline: None,
            limit: None,
        }
    }

    /// Fixes a free dimension. Code for known extents is faster than code for any.
    pub fn dim(mut self, name: &str, extent: i64) -> Compiler {
        self.dims.insert(name.into(), extent);
        self
    }

    /// Limits a free dimension to a range: the artifact refuses others, and the most memory that it takes is known.
    pub fn limited(mut self, name: &str, range: Range) -> Compiler {
        self.ranges.insert(name.to_string(), range);
        self
    }

    /// Fixes the shape of an input, and with it the free dimensions in it.
    pub fn shape(mut self, input: &str, shape: &[usize]) -> Compiler {
        self.shapes.insert(input.into(), shape.to_vec());
        self
    }

    /// Makes an input of a model or a graph a constant. Shapes may then depend on its data.
    pub fn freeze(mut self, input: &str, data: Tensor) -> Compiler {
        self.values.insert(input.into(), data);
        self
    }

    /// Chooses the processor: `native`, a level such as `x86-64-v3`, or a name that LLVM knows; or a GPU, `cuda:sm_80`. See [`Target`].
    /// Several, with commas between them, become one artifact with code for each: `native,cuda:sm_80`.
    pub fn target(mut self, name: &str) -> Compiler {
        self.target = name.to_string();
        self
    }

    /// Whether ops share kernels. Without, every op has a kernel of its own: what fusion is compared with.
    pub fn fuse(mut self, fuse: bool) -> Compiler {
        self.fuse = fuse;
        self
    }

    /// Whether convolutions are sums of products only. Otherwise 3x3 convolutions are computed by Winograd's algorithm where that
    /// is faster, with about twice the rounding error.
    pub fn exact_conv(mut self, exact: bool) -> Compiler {
        self.exact_conv = exact;
        self
    }

    /// How numbers between kernels are held, and weights of products.
    pub fn precision(mut self, precision: Precision) -> Compiler {
        self.precision = precision;
        self
    }

    /// The weakest class of rules that may be applied: [`Class::Exact`] for outputs that no rule changes by a bit,
    /// [`Class::Approx`] for the most speed. Without, rules may change the order of summation.
    pub fn class(mut self, weakest: Class) -> Compiler {
        self.class = weakest;
        self
    }

    /// Leaves out a rule, a family of rules or an optional pass, by its name.
    pub fn disable(mut self, name: &str) -> Compiler {
        self.disabled.push(name.to_string());
        self
    }

    /// Adds rules of your own; prove them with [`rules::proof::prove`].
    pub fn rules(mut self, rules: impl IntoIterator<Item = Rule>) -> Compiler {
        self.rules.extend(rules);
        self
    }

    /// Chooses the passes, in place of those that [`fuse`](Compiler::fuse) stands for.
    pub fn pipeline(mut self, passes: PassManager) -> Compiler {
        self.pipeline = Some(passes);
        self
    }

    /// Applies only so many rules and optional passes, the first ones; see [`Limit`].
    pub fn limit(mut self, applications: usize) -> Compiler {
        self.limit = Some(applications);
        self
    }

    /// Compiles an ONNX model.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be read, [`Error::Unsupported`] with all problems if it cannot be compiled,
    /// [`Error::Usage`] if the target or a dimension does not exist.
    pub fn compile(&self, path: impl AsRef<Path>) -> Result<Artifact, Error> {
        let import = self.import(path)?;
        let optimised = self.optimise_all(&import.graph)?;
        // Weights of the model that were brought into another order need no memory while those are packed.
        drop(import);
        Artifact::of(&self.generate_all(&optimised, &|_, _, _| {})?)
    }

    /// Compiles a graph.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if it cannot be compiled, [`Error::Usage`] if the target does not exist.
    pub fn compile_graph(&self, graph: &Graph) -> Result<Artifact, Error> {
        Artifact::of(&self.generate_all(&self.optimise_all(graph)?, &|_, _, _| {})?)
    }

    /// Step 1: reads an ONNX model as a graph, with the dimensions fixed that were chosen.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be read, [`Error::Unsupported`] with all problems if it cannot be compiled,
    /// [`Error::Usage`] if it does not have a dimension that was fixed.
    pub fn import(&self, path: impl AsRef<Path>) -> Result<Import, Error> {
        let options = ImportOptions { dims: self.dims.clone(), shapes: self.shapes.clone(), values: self.values.clone() };
        Ok(egret_frontend::import(path.as_ref(), &options)?)
    }

    /// The same for a graph: fixes the dimensions and the inputs that were chosen.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if an extent or the data of an input does not fit the graph.
    pub fn bind(&self, graph: &Graph) -> Result<Graph, Error> {
        let bound = graph.bind(&self.dims).map_err(Error::Usage)?;
        if self.values.is_empty() { Ok(bound) } else { bound.freeze(&self.values).map_err(Error::Usage) }
    }

    /// Step 2: rewrites a graph and groups its ops into kernels, for the first of the targets.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] names the pass that could not do its work, [`Error::Usage`] if there is no rule of a name.
    pub fn optimise(&self, graph: &Graph) -> Result<Graph, Error> {
        self.optimise_in(graph, &self.context()?).map(|(graph, _)| graph)
    }

    /// The same in a context that was made by [`context`](Compiler::context), with a report of each pass.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] names the pass that could not do its work.
    pub fn optimise_in(&self, graph: &Graph, context: &Context) -> Result<(Graph, Vec<Report>), Error> {
        self.passes()?.run(graph, context, |_, _| ()).map_err(Error::Unsupported)
    }

    /// Step 2 for each target: processors are grouped alike, and so are GPUs.
    ///
    /// # Errors
    ///
    /// As [`optimise`](Compiler::optimise), and [`Error::Usage`] if a target does not exist.
    pub fn optimise_all(&self, graph: &Graph) -> Result<Vec<Optimised>, Error> {
        let mut all: Vec<Optimised> = vec![];
        for target in self.chosen_targets()? {
            let kind = |target: &Target| (target.is_cuda(), target.dots, target.with_bytes().is_some());
            let alike = all.iter().find(|one| kind(&one.target) == kind(&target));
            let (graph, reports) = match alike {
                Some(one) => (one.graph.clone(), vec![]),
                None => self.optimise_in(graph, &self.context_for(&target)?)?,
            };
            all.push(Optimised { target: suited(target, &graph), graph, reports });
        }
        Ok(all)
    }

    /// The passes that a graph goes through.
    ///
    /// # Errors
    ///
    /// None that a caller can cause: the standard passes exist.
    pub fn passes(&self) -> Result<PassManager, Error> {
        match &self.pipeline {
            Some(passes) => Ok(passes.clone()),
            None => {
                let pipeline = if self.fuse { FUSED } else { UNFUSED };
                let narrow = if self.precision.storage().is_some() { ", narrow" } else { "" };
                PassManager::named(&format!("{pipeline}{narrow}")).map_err(Error::Usage)
            }
        }
    }

    /// What passes may know: the rules that were chosen, for the first of the targets.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if there is no rule, family or optional pass of a name, with those that are near.
    pub fn context(&self) -> Result<Context, Error> {
        self.context_for(&self.chosen_target()?)
    }

    fn context_for(&self, target: &Target) -> Result<Context, Error> {
        // Winograd's algorithm has no form for GPUs.
        let (exact_conv, dots) = (self.exact_conv || target.is_cuda(), target.dots);
        let storage = Storage { dtype: self.precision.storage().unwrap_or(Storage::default().dtype), everywhere: target.is_cuda() };
        let bytes = target.with_bytes().is_some();
        let (class, wide, blocks, rules) = (self.class, !target.is_cuda(), !target.is_cuda(), self.rules.clone());
        let mut context = Context { class, exact_conv, dots, bytes, blocks, wide, storage, rules, ..Context::default() };
        context.limit = self.limit.map_or_else(Limit::default, Limit::of);
        for name in &self.disabled {
            context.disabled.extend(self.named(name)?);
        }
        Ok(context)
    }

    /// The rules or the pass that a name stands for.
    fn named(&self, name: &str) -> Result<Vec<String>, Error> {
        let families = rules::families();
        if let Some(family) = families.iter().find(|family| family.name == name) {
            return Ok(family.rules.iter().map(|rule| rule.name.to_string()).collect());
        }
        let rules = || families.iter().flat_map(|family| &family.rules).chain(&self.rules).map(|rule| rule.name);
        let chosen = self.passes()?;
        let known = PASSES.iter().chain(chosen.passes());
        let mut passes: Vec<&str> = known.filter(|pass| pass.is_optional()).map(|pass| pass.name).collect();
        passes.sort_unstable();
        passes.dedup();
        if rules().chain(passes.iter().copied()).any(|known| known == name) {
            return Ok(vec![name.to_string()]);
        }
        let families: Vec<&str> = families.iter().map(|family| family.name).collect();
        let near = near(name, rules().chain(families.iter().copied()).chain(passes.iter().copied()));
        Err(Error::Usage(format!(
            "there is no rule, family of rules or optional pass `{name}`{near}; families: {}; passes: {}; rules: see `egret list rules`",
            families.join(", "),
            passes.join(", "),
        )))
    }

    /// Step 3: generates code for a graph of kernels, for the first of the targets.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] names the value that has no kernel, [`Error::Usage`] if the target does not exist.
    pub fn generate(&self, grouped: &Graph) -> Result<Artifact, Error> {
        Artifact::of(&self.generate_with(grouped, &|_, _, _| {})?)
    }

    /// The same, to be written to a file: weights are packed on their way there and never held together. `progress` is told how
    /// much of a stage is done, and of how much.
    ///
    /// # Errors
    ///
    /// As [`generate`](Compiler::generate).
    pub fn generate_with(&self, grouped: &Graph, progress: &dyn Fn(Stage, usize, usize)) -> Result<Compiled, Error> {
        let options = Options { threads: egret_runtime::default_threads(), progress };
        self.within_ranges(egret_codegen::compile(grouped, &self.target_for(grouped)?, &options)?)
    }

    /// Step 3 for each target.
    ///
    /// # Errors
    ///
    /// As [`generate`](Compiler::generate).
    pub fn generate_all(&self, optimised: &[Optimised], progress: &dyn Fn(Stage, usize, usize)) -> Result<Compiled, Error> {
        let options = Options { threads: egret_runtime::default_threads(), progress };
        let work: Vec<(&Graph, &Target)> = optimised.iter().map(|one| (&one.graph, &one.target)).collect();
        self.within_ranges(egret_codegen::compile_all(&work, &options)?)
    }

    /// The same for the ranges that were chosen only.
    fn within_ranges(&self, mut compiled: Compiled) -> Result<Compiled, Error> {
        if !self.ranges.is_empty() {
            compiled.programs.iter_mut().try_for_each(|program| program.plan.limit(&self.ranges)).map_err(Error::Usage)?;
        }
        Ok(compiled)
    }

    /// What has to be said of the precision on the chosen processors: that one has no instructions for it.
    ///
    /// # Errors
    ///
    /// As [`chosen_targets`](Compiler::chosen_targets).
    pub fn precision_note(&self) -> Result<Option<String>, Error> {
        Ok(self.chosen_targets()?.iter().find_map(|target| self.precision.note(target)))
    }

    /// The first of the targets.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if one of the targets does not exist.
    pub fn chosen_target(&self) -> Result<Target, Error> {
        Ok(self.chosen_targets()?.swap_remove(0))
    }

    /// The first of the targets, with the instructions beyond its level that a graph of kernels has a use for.
    ///
    /// # Errors
    ///
    /// As [`chosen_target`](Compiler::chosen_target).
    pub fn target_for(&self, grouped: &Graph) -> Result<Target, Error> {
        Ok(suited(self.chosen_target()?, grouped))
    }

    /// The processors and GPUs that were chosen by name, at least one.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if there is none of a name, two names stand for the same, or there is no code for one in the precision.
    pub fn chosen_targets(&self) -> Result<Vec<Target>, Error> {
        let mut targets: Vec<Target> = vec![];
        for name in self.target.split(',') {
            let named = Target::named(name.trim()).map_err(|error| Error::Usage(error.to_string()))?;
            let target = self.precision.on(named).map_err(Error::Usage)?;
            if let Some(other) =
                targets.iter().find(|other| (other.arch, other.cpu, &other.tune) == (target.arch, target.cpu, &target.tune))
            {
                return Err(Error::Usage(format!("the targets `{}` and `{}` are the same; name each once", other.name, name.trim())));
            }
            targets.push(target);
        }
        Ok(targets)
    }
}

/// The target with products of bytes, if the graph has such products: only code that uses them needs a processor that has them.
fn suited(target: Target, grouped: &Graph) -> Target {
    if integer::has_products(grouped) { target.with_bytes().unwrap_or(target) } else { target }
}

/// A graph of kernels for a target.
#[derive(Clone, Debug)]
pub struct Optimised {
    /// The target.
    pub target: Target,
    /// The kernels.
    pub graph: Graph,
    /// What the passes said; nothing where a target before it is grouped alike.
    pub reports: Vec<Report>,
}

/// How many names are offered for one that does not exist.
const OFFERED: usize = 5;

/// `; near it: silu, silu_quotient`, or nothing.
fn near<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let reach = (name.chars().count() / 3).max(1);
    let distance = |other: &str| match name.len() > 2 && other.contains(name) {
        true => 0,
        false => strsim::damerau_levenshtein(name, other),
    };
    let mut found: Vec<(usize, &str)> = known.map(|other| (distance(other), other)).filter(|(far, _)| *far <= reach).collect();
    found.sort_unstable();
    found.dedup();
    let names: Vec<&str> = found.into_iter().map(|(_, name)| name).take(OFFERED).collect();
    if names.is_empty() { String::new() } else { format!("; near it: {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_rules_families_and_passes() {
        let disabled = |name: &str| Compiler::new().disable(name).context().unwrap().disabled;
        assert_eq!(disabled("silu").len(), 1);
        assert!(disabled("attention").contains("attention_scaled"));
        assert!(disabled("group").contains("group"));
        let own = Rule::parse("exact mine: neg(neg(x)) => abs(x)").unwrap();
        assert!(Compiler::new().rules([own]).disable("mine").context().is_ok());
    }

    #[test]
    fn names_that_do_not_exist_are_answered_with_near_ones() {
        let error = Compiler::new().disable("atention").context().unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("`atention`; near it: attention"), "{error}");
        // What code cannot be made without cannot be left out.
        assert!(Compiler::new().disable("legalize").context().is_err());
    }
}
