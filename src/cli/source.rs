//! A model with everything that is needed to run it: what it is, its inputs, and the extents of its free dimensions.
//!
//! **Invariant.** A [`Ready`] model has a value for every free dimension: from the inputs that were given, from `--dim`, or 1
//! with a note. Models are compiled for exactly these extents, so the code that is run or measured is specialised.
//!
//! ```text
//! $ egret run digits_cnn.onnx
//! note: the free dimension batch is 1; set it with --dim batch=N
//! ```

use super::inputs::{self, Declared, Given, did_you_mean};
use super::options::{CompileOptions, DimOptions, FreezeOptions, InputOptions};
use super::predicted::{self, Predicted};
use super::progress::{Built, Progress};
use super::{freeze, report};
use egret::passes::Report;
use egret::passes::rules::Class;
use egret::range::Range;
use egret::{Artifact, Bindings, Compiler, DeviceName, Error, Graph, Import, Precision, Session, Summary, Target, Tensor, TensorView};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// A file that can be run, by its content.
pub enum Source {
    /// An ONNX model, and how long its input sequences are.
    Onnx { path: PathBuf, lengths: Bindings },
    /// A graph as text.
    Text(Graph),
    /// A compiled model.
    Artifact(Rc<Artifact>),
}

impl Source {
    /// Opens a file: an artifact by its first bytes or its name, text by its name, and else ONNX.
    pub fn open(path: &Path) -> Result<Source, Error> {
        let is_named = |extension: &str| path.extension().is_some_and(|found| found == extension);
        if is_named("egir") {
            return Ok(Source::Text(egret::parse_file(path)?));
        }
        if is_named("egret") || begins_as_artifact(path) {
            return Ok(Source::Artifact(Rc::new(Artifact::open(path)?)));
        }
        Ok(Source::Onnx { path: path.to_path_buf(), lengths: Bindings::new() })
    }

    /// Takes what says how long input sequences are, and which optional inputs are given: these are numbers in any case, and no free
    /// dimensions of the graph.
    fn take_lengths(&mut self, free: &mut DimOptions) -> Result<(), Error> {
        let Source::Onnx { path, lengths } = self else { return Ok(()) };
        let names = egret::lengths(path)?;
        let (own, others): (Vec<_>, Vec<_>) = free.dims.drain(..).partition(|(name, _)| names.contains(name));
        let own = DimOptions { dims: own }.numbers()?;
        lengths.extend(own.into_iter().map(|(name, length)| (name.into(), length)));
        free.dims = others;
        Ok(())
    }

    /// The inputs as the model declares them, in its order.
    pub fn declared(&self) -> Result<Vec<Declared>, Error> {
        let inputs = match self {
            Source::Onnx { path, lengths } => egret::signature(path, lengths)?,
            Source::Text(graph) => egret::inputs_of(graph),
            Source::Artifact(artifact) => artifact.inputs(),
        };
        Ok(inputs.into_iter().map(|(name, ty)| Declared { name, ty }).collect())
    }

    /// The inputs that are not frozen, and a compiler that was told of those that are. Extents that follow from these are added
    /// to `dims`.
    fn settled(
        &self,
        frozen: &FreezeOptions,
        dims: &mut Vec<(String, i64)>,
        compiler: Compiler,
    ) -> Result<(Vec<Declared>, Compiler), Error> {
        if frozen.frozen.is_empty() {
            return Ok((self.declared()?, compiler));
        }
        if let Source::Artifact(_) = self {
            return Err(Error::Usage("--freeze has no effect on a compiled file; give it to `egret compile`".to_string()));
        }
        let mut declared = self.declared()?;
        let compiler = freeze::apply(frozen, &mut declared, dims, compiler)?;
        Ok((declared, compiler))
    }

    /// The ranges of the free dimensions that a compiled file was made for, in the order of the names.
    fn ranges(&self) -> Vec<(String, Range)> {
        match self {
            Source::Artifact(artifact) => artifact.plan().symbols.iter().cloned().zip(artifact.plan().ranges.iter().copied()).collect(),
            Source::Onnx { .. } | Source::Text(_) => vec![],
        }
    }

    fn bound(mut self, compiler: &Compiler, free: &DimOptions, frozen: &FreezeOptions) -> Result<Option<Graph>, Error> {
        let mut free = free.clone();
        self.take_lengths(&mut free)?;
        check_dims(&free, &self.declared()?)?;
        let (_, compiler) = self.settled(frozen, &mut free.fixed(), compiler.clone())?;
        Ok(self.graph(&compiler)?.map(|(graph, _)| graph))
    }

    /// The graph with these extents, and what an ONNX file says about itself; `None` for an artifact, which has no graph
    /// any more.
    fn graph(&self, compiler: &Compiler) -> Result<Option<(Graph, Option<Summary>)>, Error> {
        match self {
            Source::Artifact(_) => Ok(None),
            Source::Text(graph) => Ok(Some((compiler.bind(graph)?, None))),
            Source::Onnx { path, lengths } => {
                let compiler = lengths.iter().fold(compiler.clone(), |compiler, (name, length)| compiler.dim(name, *length));
                let Import { graph, warnings, summary, .. } = compiler.import(path)?;
                warnings.iter().for_each(|warning| report::warning(&warning.message));
                Ok(Some((graph, Some(summary))))
            }
        }
    }
}

/// Whether the file begins with the letters that every artifact begins with, and no ONNX model does.
fn begins_as_artifact(path: &Path) -> bool {
    let mut letters = [0; 5];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut letters));
    read.is_ok() && letters == *b"EGRET"
}

/// The graph of a file, with these extents and constants; `None` for an artifact.
pub fn graph(path: &Path, compiler: &Compiler, free: &DimOptions, frozen: &FreezeOptions) -> Result<Option<Graph>, Error> {
    Source::open(path)?.bound(compiler, free, frozen)
}

/// The same for a graph that was read already.
pub fn bound(graph: Graph, compiler: &Compiler, free: &DimOptions, frozen: &FreezeOptions) -> Result<Option<Graph>, Error> {
    Source::Text(graph).bound(compiler, free, frozen)
}

/// A model whose inputs and extents are known.
pub struct Ready {
    name: String,
    source: Source,
    graph: Option<Graph>,
    summary: Option<Summary>,
    options: CompileOptions,
    declared: Vec<Declared>,
    given: Option<Vec<Given>>,
    dims: Bindings,
    seed: u64,
    device: DeviceName,
    weakest: Cell<Option<Class>>,
}

impl Ready {
    /// Reads the model and the inputs given for it, to run it on this machine's processor, and settles the free dimensions.
    pub fn open(path: &Path, options: &CompileOptions, inputs: &InputOptions) -> Result<Ready, Error> {
        Ready::open_for(path, options, inputs, DeviceName::Cpu)
    }

    /// The same, to run it on a device. Unless a target is named, the model is compiled for that.
    pub fn open_for(path: &Path, options: &CompileOptions, inputs: &InputOptions, device: DeviceName) -> Result<Ready, Error> {
        let mut source = Source::open(path)?;
        let mut options = options.clone();
        source.take_lengths(&mut options.free)?;
        // That the device is not there is said before anything else is done.
        let target = device.target()?;
        if options.target == NATIVE && !matches!(source, Source::Artifact(_)) {
            options.target = target;
        }
        check_target(&source, &options, device)?;
        options.compiler(true).context()?;
        source.announce(&options)?;
        check_dims(&options.free, &source.declared()?)?;
        let mut fixed = options.free.numbers()?;
        let (declared, compiler) = source.settled(&options.freeze, &mut fixed, Compiler::new())?;
        let given = inputs::read(inputs, &declared)?;
        let dims = match &given {
            Some(given) => inputs::bind(&declared, given, &fixed)?,
            None => with_defaults(&fixed, &declared, &source.ranges()),
        };
        options.free = DimOptions::of(dims.iter().map(|(name, extent)| (name.to_string(), *extent)).collect());
        let (graph, summary) = source.graph(&options.free.bind(compiler))?.unzip();
        Ok(Ready {
            name: path.display().to_string(),
            source,
            graph,
            summary: summary.flatten(),
            options,
            declared,
            given,
            dims,
            seed: inputs.seed,
            device,
            weakest: Cell::new(None),
        })
    }

    /// Reads the model with only those free dimensions fixed that `--dim` names, to look at it and not to run it.
    pub fn unbound(path: &Path, options: &CompileOptions) -> Result<Ready, Error> {
        let mut source = Source::open(path)?;
        options.compiler(true).context()?;
        source.announce(options)?;
        let mut options = options.clone();
        source.take_lengths(&mut options.free)?;
        check_dims(&options.free, &source.declared()?)?;
        let mut fixed = options.free.fixed();
        let (declared, compiler) = source.settled(&options.freeze, &mut fixed, Compiler::new())?;
        let dims = fixed.iter().map(|(name, extent)| (name.as_str().into(), *extent)).collect();
        let limited = options.free.limited();
        options.free = DimOptions::of(fixed);
        options.free.dims.extend(limited);
        let (graph, summary) = source.graph(&options.free.bind(compiler))?.unzip();
        Ok(Ready {
            name: path.display().to_string(),
            source,
            graph,
            summary: summary.flatten(),
            options,
            declared,
            given: None,
            dims,
            seed: 0,
            device: DeviceName::Cpu,
            weakest: Cell::new(None),
        })
    }

    /// A session on the device that was chosen; `threads` are for the processor.
    pub fn session(&self, artifact: &Artifact, threads: usize) -> Result<Session, Error> {
        match self.device.open()? {
            None => artifact.session(threads),
            Some(device) => artifact.session_on(device),
        }
    }

    /// The device that was chosen by its name, or the target of the code for the processor.
    pub fn device_or(&self, artifact: &Artifact) -> String {
        if self.device == DeviceName::Cpu { artifact.target().cpu.clone() } else { self.device.to_string() }
    }

    /// The numbers of threads to measure: on a GPU there is nothing to choose.
    pub fn threads<'a>(&self, asked: &'a [usize]) -> &'a [usize] {
        if self.device == DeviceName::Cpu { asked } else { &[1] }
    }

    /// The graph, for a verb that needs one; an artifact has none, which is an error.
    pub fn graph(&self, purpose: &str) -> Result<&Graph, Error> {
        self.graph
            .as_ref()
            .ok_or_else(|| Error::Usage(format!("a compiled file cannot be used to {purpose}; give the .onnx model it was compiled from")))
    }

    /// What the ONNX file says about itself, if the model came from one.
    pub fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    /// The compiled model: compiled now, or what the file holds.
    pub fn artifact(&self, fuse: bool, progress: &Progress) -> Result<Rc<Artifact>, Error> {
        Ok(self.predicted(fuse, progress)?.0)
    }

    /// The compiled model with what the cost model says of it, which of a compiled file, or where data decides over extents, is nothing.
    pub fn predicted(&self, fuse: bool, progress: &Progress) -> Result<(Rc<Artifact>, Option<Predicted>), Error> {
        if let Source::Artifact(artifact) = &self.source {
            return Ok((self.as_compiled(artifact, fuse)?, None));
        }
        let Built { compiled, optimised } = self.built(&self.compiler(fuse), progress)?;
        let artifact = Artifact::of(&compiled)?;
        // What is predicted is the time on a processor, for stages that run a known number of times on known extents.
        let is_known = artifact.plan().program.is_none();
        let first = optimised.first().filter(|one| is_known && !one.target.is_cuda());
        let predicted = first.map(|one| Predicted::of(&one.graph, &self.extents(&one.graph))).transpose()?;
        Ok((Rc::new(artifact), predicted))
    }

    /// What `compiler` makes of the model, and what its passes said.
    pub fn compiled(&self, compiler: &Compiler, progress: &Progress) -> Result<(Rc<Artifact>, Vec<Report>), Error> {
        let Built { compiled, mut optimised } = self.built(compiler, progress)?;
        Ok((Rc::new(Artifact::of(&compiled)?), optimised.swap_remove(0).reports))
    }

    fn built(&self, compiler: &Compiler, progress: &Progress) -> Result<Built, Error> {
        let built = progress.compile(compiler, self.graph("compile")?)?;
        self.weakest.set(self.weakest.get().max(built.weakest_rule()));
        Ok(built)
    }

    /// The extents of all free dimensions; those that were left free are [`shown`](predicted::shown) with.
    pub fn extents(&self, grouped: &Graph) -> Bindings {
        predicted::shown(grouped, &self.dims, &inputs::free_dims(&self.declared), &self.options.free.limited())
    }

    /// The weakest class of the rules that were applied to whatever was compiled so far.
    pub fn weakest_rule(&self) -> Option<Class> {
        self.weakest.get()
    }

    /// What was run on, with the precision if it was chosen.
    pub fn in_precision(&self, target: String) -> String {
        match self.options.precision {
            Precision::F32 => target,
            other => format!("{target} in {}", other.name()),
        }
    }

    /// A compiler with the options and extents that were given.
    pub fn compiler(&self, fuse: bool) -> Compiler {
        self.options.compiler(fuse)
    }

    /// What was compiled before is used as it is; options that ask for other code cannot be met.
    fn as_compiled(&self, artifact: &Rc<Artifact>, fuse: bool) -> Result<Rc<Artifact>, Error> {
        let options = &self.options;
        let asked = match (fuse, options.exact_conv, options.precision, options.target.as_str(), options.rules.given()) {
            (false, ..) => "--no-fuse",
            (true, true, ..) => "--exact-conv",
            (true, false, Precision::Tf32 | Precision::Bf16 | Precision::F16, ..) => "--precision",
            (true, false, Precision::F32, "native", None) => return Ok(artifact.clone()),
            (true, false, Precision::F32, "native", Some(flag)) => flag,
            (true, false, Precision::F32, ..) => "--target",
        };
        Err(Error::Usage(format!("{asked} has no effect on a compiled file; give it to `egret compile`, or give the .onnx model here")))
    }

    /// The tensors to run on, in the order of the model's inputs: those given, or pseudo-random ones.
    pub fn inputs(&self, session: &Session) -> Result<Vec<Tensor>, Error> {
        self.inputs_of(session, &self.dims)
    }

    /// The same, the pseudo-random ones of these extents.
    pub fn inputs_of(&self, session: &Session, dims: &Bindings) -> Result<Vec<Tensor>, Error> {
        if let Some(given) = &self.given {
            return Ok(given.iter().map(|given| given.tensor.clone()).collect());
        }
        let symbols = &session.plan().symbols;
        let all = dims.iter().map(|(name, extent)| (&**name, *extent));
        let free: Vec<(&str, i64)> = all.filter(|(name, _)| symbols.iter().any(|symbol| symbol == name)).collect();
        Ok(session.random_inputs(self.seed, &free)?)
    }

    /// The tensors under the names of the inputs, as a session takes them.
    pub fn named<'a>(&'a self, tensors: &'a [Tensor]) -> Vec<(&'a str, TensorView<'a>)> {
        self.declared.iter().zip(tensors).map(|(input, tensor)| (input.name.as_str(), tensor.view())).collect()
    }

    /// The file as it was given. Exporters call most graphs `main_graph`, so the graph's name says nothing.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The free dimensions and their extents.
    pub fn dims(&self) -> BTreeMap<String, i64> {
        named(&self.dims)
    }
}

/// Extents under their names, as reports hold them.
pub fn named(dims: &Bindings) -> BTreeMap<String, i64> {
    dims.iter().map(|(name, extent)| (name.to_string(), *extent)).collect()
}

/// What was run on, for reports: the target of the code, or the GPU.
pub fn ran_on(artifact: &Artifact, session: &Session) -> String {
    session.device().unwrap_or_else(|| artifact.target().cpu.clone())
}

/// The target that stands for whatever the model is to run on.
const NATIVE: &str = "native";

impl Source {
    /// What is to be said of the options, if the model is to be compiled.
    fn announce(&self, options: &CompileOptions) -> Result<(), Error> {
        if let Source::Artifact(_) = self { Ok(()) } else { options.announce() }
    }
}

/// Refuses to compile for another machine what is to be run on this one.
fn check_target(source: &Source, options: &CompileOptions, device: DeviceName) -> Result<(), Error> {
    if let Source::Artifact(_) = source {
        return Ok(());
    }
    let targets = options.compiler(true).chosen_targets()?;
    let runs = |target: &Target| if device == DeviceName::Cpu { target.runs_here() } else { target.is_cuda() };
    match targets.iter().any(runs) {
        true => Ok(()),
        false if device != DeviceName::Cpu => Err(Error::Usage(format!(
            "`{}` is not for GPUs, and {device} runs code for GPUs only; leave --target out, or name one such as cuda:sm_80",
            options.target
        ))),
        false => Err(Error::Usage(format!(
            "code for `{}` does not run on this machine; `egret compile` writes it to a file for another",
            options.target
        ))),
    }
}

/// Refuses a `--dim` that the model does not have.
pub fn check_dims(given: &DimOptions, declared: &[Declared]) -> Result<(), Error> {
    let free = inputs::free_dims(declared);
    let Some((name, _)) = given.dims.iter().find(|(name, _)| free.iter().all(|symbol| **symbol != **name)) else {
        return Ok(());
    };
    let meant = did_you_mean(name, free.iter().map(|symbol| &**symbol));
    Err(Error::Usage(match free.is_empty() {
        true => format!("the model has no free dimension `{name}`: the extents of all its inputs are fixed"),
        false => format!("the model has no free dimension `{name}`{meant}; it has: {}", free.join(", ")),
    }))
}

/// The extents given by `--dim`, and for all other free dimensions 1, or what is nearest to it of the ranges that they have.
pub fn with_defaults(fixed: &[(String, i64)], declared: &[Declared], ranges: &[(String, Range)]) -> Bindings {
    let mut dims: Bindings = fixed.iter().map(|(name, extent)| (name.as_str().into(), *extent)).collect();
    let least = |name: &str| ranges.iter().find(|(limited, _)| limited == name).map_or(1, |(_, range)| 1.clamp(range.low, range.high));
    let free = inputs::free_dims(declared).into_iter().filter(|name| !dims.contains_key(name));
    let chosen: Vec<(Arc<str>, i64)> = free.map(|name| (name.clone(), least(&name))).collect();
    if let Some((first, _)) = chosen.first() {
        let (noun, verb) = if chosen.len() == 1 { ("dimension", "is") } else { ("dimensions", "are") };
        let names: Vec<&str> = chosen.iter().map(|(name, _)| &**name).collect();
        let mut extents: Vec<String> = chosen.iter().map(|(_, extent)| extent.to_string()).collect();
        extents.dedup();
        report::note(format_args!("the free {noun} {} {verb} {}; choose with --dim {first}=N", names.join(", "), extents.join(", ")));
    }
    dims.extend(chosen);
    dims
}
