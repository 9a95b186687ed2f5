//! Runs a model: load once, run many times.
//!
//! **Invariant.** After the first run for a binding of the free dimensions, [`Session::run_into`] allocates nothing and takes
//! no lock; the bits of its outputs do not depend on the number of threads. Inputs are checked by name, type and shape before
//! any kernel runs.
//!
//! A run binds the symbols from the inputs' shapes, looks the binding up (or computes it: memory map, kernel arguments), and
//! has the steps walked: by the processor of this machine, or by a GPU ([`Session::on`]). All else is the same for both.

use crate::artifact::{Artifact, WeightsCheck};
use crate::binding::{Binding, bind_symbols, check_input, check_range, port_shape};
use crate::cpu::{Code, KernelFn};
use crate::device::{DEVICE_ALIGN, Device};
use crate::error::{Error, FileProblem, Result};
use crate::executor::{self, Executor};
use crate::plan::{ALIGN, DType, Plan, Port, SLACK};
use crate::pool::{Pool, default_threads};
use crate::processor::Processor;
use crate::profile::{Log, Profile, Recorder, Turn};
use crate::program::{Runner, Spare};
use crate::strings::{Dictionary, handles};
use crate::tensor::{AlignedBytes, Tensor, TensorView, type_text};
use std::path::Path;
use std::sync::Arc;

/// Bindings of the free dimensions kept at a time; the one unused for longest makes room. Enough for the buckets of a
/// server, few enough that looking one up is a short scan.
const MAX_BINDINGS: usize = 64;

/// How a session is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Threads to run on, the caller's included, at most 1024; 0 asks for as many as the cgroup quota and affinity of the
    /// process allow.
    pub threads: usize,
    /// How thoroughly the weights are checked when a file is loaded.
    pub weights: WeightsCheck,
}

/// A model that is loaded and ready to run.
pub struct Session {
    // Dropped in this order: the threads end before the weights they use are unmapped.
    engine: Engine,
    model: Model,
    /// What runs in place of the steps where dimensions depend on data.
    runner: Option<Box<Runner>>,
    bindings: Vec<Binding>,
    /// Position in the caller's list of each input of the plan.
    order: Vec<usize>,
    /// What handles stand for, in the run under way.
    strings: Dictionary,
    /// Values of the symbols, for the binding under way.
    symbols: Vec<i64>,
    runs: u64,
    /// Arena bytes of the latest binding.
    arena_bytes: u64,
}

/// Where plan and weights come from.
#[derive(Clone)]
pub(crate) struct Model {
    source: Source,
    /// The stage of the program whose plan it is; `None` for that of the model.
    stage: Option<usize>,
}

#[derive(Clone)]
enum Source {
    Artifact { artifact: Arc<Artifact>, program: usize },
    Parts(Arc<(Plan, AlignedBytes)>),
}

impl Model {
    fn of_artifact(artifact: Artifact, program: usize) -> Model {
        Model { source: Source::Artifact { artifact: Arc::new(artifact), program }, stage: None }
    }

    /// A stage of the model's program.
    pub(crate) fn stage(&self, index: usize) -> Model {
        Model { source: self.source.clone(), stage: Some(index) }
    }

    pub(crate) fn plan(&self) -> &Plan {
        let plan = match &self.source {
            Source::Artifact { artifact, program } => artifact.plan_of(*program),
            Source::Parts(parts) => &parts.0,
        };
        let stage = self.stage.and_then(|index| plan.program.as_ref()?.stages.get(index));
        stage.unwrap_or(plan)
    }

    fn weights(&self) -> &[u8] {
        match &self.source {
            Source::Artifact { artifact, .. } => artifact.weights(),
            Source::Parts(parts) => &parts.1,
        }
    }
}

/// What runs the steps.
enum Engine {
    Processor(Processor),
    Device(Executor),
}

impl Engine {
    /// Threads of this machine's processor.
    fn threads(&self) -> usize {
        match self {
            Engine::Processor(processor) => processor.threads(),
            Engine::Device(_) => 1,
        }
    }

    /// Alignment of what lies in the arena.
    fn align(&self) -> u64 {
        match self {
            Engine::Processor(_) => ALIGN as u64,
            Engine::Device(_) => DEVICE_ALIGN,
        }
    }

    /// Takes note of a binding, the session's number `index` from now on.
    fn bind(&mut self, index: usize, plan: &Plan, binding: &Binding) -> Result<()> {
        match self {
            Engine::Processor(_) => Ok(()),
            Engine::Device(executor) => executor.bind(index, plan, binding),
        }
    }

    /// Makes room for a binding.
    fn reserve(&mut self, index: usize, binding: &Binding) -> Result<()> {
        match self {
            Engine::Processor(processor) => processor.reserve(binding.arena_bytes),
            Engine::Device(executor) => executor.reserve(index),
        }
    }
}

impl Session {
    /// Loads an artifact from a file. Nothing of its code runs before the whole file was checked.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Artifact`] if the file cannot be used on this machine, [`Error::Resource`] if memory or
    /// threads are lacking.
    pub fn load(path: impl AsRef<Path>, options: Options) -> Result<Session> {
        Session::from_artifact(Artifact::open(path, options.weights)?, options)
    }

    /// Loads an artifact from memory; the bytes are copied.
    ///
    /// # Errors
    ///
    /// As for [`load`](Session::load).
    pub fn from_bytes(bytes: &[u8], options: Options) -> Result<Session> {
        Session::from_artifact(Artifact::from_bytes(bytes, options.weights)?, options)
    }

    /// Makes a session of an artifact that was opened before.
    ///
    /// # Errors
    ///
    /// [`Error::Artifact`] if the code does not fit this processor, [`Error::Resource`] if memory or threads are lacking.
    pub fn from_artifact(artifact: Artifact, options: Options) -> Result<Session> {
        let (program, code) = artifact.map_code()?;
        Session::on_processor(Model::of_artifact(artifact, program), code, options)
    }

    /// Makes a session that runs an artifact on a GPU, with the program in it that is best for that. Inputs, outputs and errors are
    /// those of a session on the processor.
    ///
    /// # Errors
    ///
    /// [`Error::Artifact`] if the file has no code for this GPU, [`Error::Device`] if the GPU refuses it, [`Error::Resource`] if it
    /// lacks memory.
    pub fn on(artifact: Artifact, device: Box<dyn Device>) -> Result<Session> {
        let program = executor::program_for(&artifact, &*device)?;
        if artifact.plan_of(program).program.is_some() {
            return Err(Error::Usage(
                "a model in which dimensions, loops or branches depend on data, or strings are made, runs on the processor only"
                    .to_string(),
            ));
        }
        let engine = Engine::Device(Executor::new(&artifact, program, device)?);
        Session::new(Model::of_artifact(artifact, program), engine, None)
    }

    /// Makes a session of a plan whose kernels are functions of this program, in the order of
    /// [`Plan::kernels`]; the offsets of the plan's kernels mean nothing then. `weights` is what the weights
    /// section would hold.
    ///
    /// # Errors
    ///
    /// [`Error::Artifact`] if the plan contradicts itself, [`Error::Resource`] if memory or threads are lacking.
    ///
    /// # Safety
    ///
    /// Each function keeps to the contract in [`plan`](crate::plan) for every step that calls it: it touches only the
    /// bytes of the buffers that the step lists, and writes only those of its `writes`.
    pub unsafe fn from_functions(plan: Plan, kernels: Vec<KernelFn>, weights: &[u8], options: Options) -> Result<Session> {
        let problem = match kernels.len() == plan.kernels.len() {
            true => plan.check(u64::MAX, (weights.len() + SLACK) as u64).err(),
            false => Some(format!("{} functions were given for {} kernels", kernels.len(), plan.kernels.len())),
        };
        if let Some(problem) = problem {
            return Err(Error::Artifact { path: plan.model, problem: FileProblem::Plan(problem) });
        }
        // SAFETY: the caller promises what is asked for here.
        let code = unsafe { Code::functions(kernels) };
        let weights = AlignedBytes::copy_of(weights)?;
        Session::on_processor(Model { source: Source::Parts(Arc::new((plan, weights))), stage: None }, code, options)
    }

    fn on_processor(model: Model, code: Code, options: Options) -> Result<Session> {
        let threads = if options.threads == 0 { default_threads() } else { options.threads };
        let code = Arc::new(code);
        let runner = Runner::of(&model, &code)?;
        let engine = Engine::Processor(Processor::new(model.plan(), code, threads)?);
        Session::new(model, engine, runner)
    }

    fn new(model: Model, engine: Engine, runner: Option<Runner>) -> Result<Session> {
        let strings = Dictionary::of(&model.plan().strings)?;
        let mut session = Session { strings, ..Session::unbound(model, engine, runner) };
        if session.plan().symbols.is_empty() && session.runner.is_none() {
            // Everything is known now: let the first run find it done.
            session.bind()?;
        }
        Ok(session)
    }

    /// The session of a stage. It has no threads of its own; see [`exchange_pool`](Session::exchange_pool).
    pub(crate) fn of_stage(model: Model, code: Arc<Code>) -> Result<Session> {
        let engine = Engine::Processor(Processor::new(model.plan(), code, 1)?);
        Ok(Session::unbound(model, engine, None))
    }

    /// Takes other threads, and gives its own for them.
    fn exchange_pool(&mut self, pool: &mut Pool) {
        if let Engine::Processor(processor) = &mut self.engine {
            processor.exchange_pool(pool);
        }
    }

    /// Runs a stage on the threads of the whole session; its inputs are in the order of its plan, its outputs are written into spare tensors.
    /// With a log, it writes down when each part ran, as the stage with that index.
    pub(crate) fn run_stage(
        &mut self,
        pool: &mut Pool,
        views: &[TensorView<'_>],
        spare: &mut Spare,
        log: Option<(&mut Log, usize)>,
    ) -> Result<Vec<Tensor>> {
        self.exchange_pool(pool);
        let outputs = self.run_in_order(views, spare, log);
        self.exchange_pool(pool);
        outputs
    }

    fn run_in_order(&mut self, views: &[TensorView<'_>], spare: &mut Spare, log: Option<(&mut Log, usize)>) -> Result<Vec<Tensor>> {
        let index = self.prepare_in_order(|index| views[index])?;
        let (ports, shapes) = (&self.model.plan().outputs, &self.bindings[index].output_shapes);
        let mut outputs = ports.iter().zip(shapes).map(|(port, shape)| spare.take(port.dtype, shape)).collect::<Result<Vec<Tensor>>>()?;
        self.note_use(index);
        if let Engine::Processor(processor) = &mut self.engine {
            let binding = &self.bindings[index];
            let mut walk =
                |recorder: Option<&Recorder>| processor.run(self.model.weights(), binding, |index| views[index], &mut outputs, recorder);
            match log {
                Some((log, stage)) => log.walk(stage, binding, |recorder| walk(Some(recorder)))?,
                None => walk(None)?,
            }
        }
        Ok(outputs)
    }

    fn unbound(model: Model, engine: Engine, runner: Option<Runner>) -> Session {
        let plan = model.plan();
        Session {
            runner: runner.map(Box::new),
            order: vec![0; plan.inputs.len()],
            symbols: vec![0; plan.symbols.len()],
            bindings: Vec::new(),
            strings: Dictionary::default(),
            runs: 0,
            arena_bytes: 0,
            engine,
            model,
        }
    }

    /// The plan of the model: names and types of inputs and outputs, steps, kernels.
    pub fn plan(&self) -> &Plan {
        self.model.plan()
    }

    /// The artifact it was loaded from; `None` if it was made of functions.
    pub fn artifact(&self) -> Option<&Artifact> {
        match &self.model.source {
            Source::Artifact { artifact, .. } => Some(artifact),
            Source::Parts(_) => None,
        }
    }

    /// Threads it runs on, the caller's included; 1 on a GPU.
    pub fn threads(&self) -> usize {
        self.engine.threads()
    }

    /// The GPU that it runs on; `None` for the processor.
    pub fn device(&self) -> Option<String> {
        match &self.engine {
            Engine::Processor(_) => None,
            Engine::Device(executor) => Some(executor.device()),
        }
    }

    /// Scratch bytes of the latest binding of the free dimensions: what the intermediates need. 0 before the first.
    pub fn arena_bytes(&self) -> u64 {
        self.runner.as_ref().map_or(self.arena_bytes, |runner| runner.arena_bytes())
    }

    /// Runs the model and returns its outputs, in the order of the model's outputs.
    ///
    /// The inputs may come in any order; each is a name and a [`TensorView`].
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if the inputs do not fit the model, [`Error::Resource`] if memory is lacking.
    pub fn run(&mut self, inputs: &[(&str, TensorView<'_>)]) -> Result<Vec<Tensor>> {
        if let Some(outputs) = self.run_program(inputs, None) {
            return outputs;
        }
        let mut outputs = self.allocate_outputs(inputs)?;
        self.run_into(inputs, &mut outputs)?;
        Ok(outputs)
    }

    /// Runs the program, where dimensions depend on data.
    fn run_program(&mut self, inputs: &[(&str, TensorView<'_>)], log: Option<&mut Log>) -> Option<Result<Vec<Tensor>>> {
        let (runner, plan) = (self.runner.as_mut()?, self.model.plan());
        let Engine::Processor(processor) = &mut self.engine else { return None };
        let program = plan.program.as_ref()?;
        let strings = &mut self.strings;
        Some(meet(strings, inputs).and_then(|()| runner.run(plan, program, processor.pool(), strings, inputs, log)).and_then(
            |mut outputs| {
                name_all(strings, &mut outputs)?;
                Ok(outputs)
            },
        ))
    }

    /// Runs the model into tensors that exist already, one per output in the order of the model's outputs; see
    /// [`allocate_outputs`](Session::allocate_outputs). Where dimensions of outputs depend on data, other tensors take their place.
    ///
    /// # Errors
    ///
    /// As for [`run`](Session::run), and [`Error::Usage`] if the outputs have not the right types and shapes.
    pub fn run_into(&mut self, inputs: &[(&str, TensorView<'_>)], outputs: &mut [Tensor]) -> Result<()> {
        if self.runner.is_some() {
            return self.run_program_into(inputs, outputs, None);
        }
        let binding = self.prepare(inputs)?;
        self.check_outputs(binding, outputs)?;
        self.note_use(binding);
        meet(&mut self.strings, inputs)?;
        let input = |index: usize| inputs[self.order[index]].1;
        match &mut self.engine {
            Engine::Device(executor) => executor.run(binding, input, outputs),
            Engine::Processor(processor) => processor.run(self.model.weights(), &self.bindings[binding], input, outputs, None),
        }?;
        name_all(&self.strings, outputs)
    }

    fn run_program_into(&mut self, inputs: &[(&str, TensorView<'_>)], outputs: &mut [Tensor], log: Option<&mut Log>) -> Result<()> {
        self.check_count(outputs)?;
        let made = self.run_program(inputs, log).unwrap_or_else(|| Ok(vec![]))?;
        made.into_iter().zip(outputs).for_each(|(made, output)| *output = made);
        Ok(())
    }

    fn note_use(&mut self, binding: usize) {
        self.runs += 1;
        self.bindings[binding].last_used = self.runs;
    }

    /// Runs the model as [`run_into`](Session::run_into) does, and says when each part of each step ran and where. Slower by two
    /// looks at the clock per part.
    ///
    /// # Errors
    ///
    /// As for [`run_into`](Session::run_into).
    pub fn run_profiled(&mut self, inputs: &[(&str, TensorView<'_>)], outputs: &mut [Tensor]) -> Result<Profile> {
        if self.runner.is_some() {
            let mut log = Log::new(self.model.plan());
            self.run_program_into(inputs, outputs, Some(&mut log))?;
            return Ok(log.finish());
        }
        let binding = self.prepare(inputs)?;
        self.check_outputs(binding, outputs)?;
        self.note_use(binding);
        meet(&mut self.strings, inputs)?;
        let input = |index: usize| inputs[self.order[index]].1;
        let at = &self.bindings[binding];
        let profile = match &mut self.engine {
            Engine::Device(executor) => {
                let turns = vec![Turn { plan: 0, symbols: at.symbols.clone() }];
                Profile { spans: executor.run_timed(binding, input, outputs)?, turns }
            }
            Engine::Processor(processor) => {
                let mut log = Log::new(self.model.plan());
                log.walk(0, at, |recorder| processor.run(self.model.weights(), at, input, outputs, Some(recorder)))?;
                log.finish()
            }
        };
        name_all(&self.strings, outputs)?;
        Ok(profile)
    }

    /// Tensors of the types and shapes that a run with these inputs writes. Where dimensions depend on data, all are empty.
    ///
    /// # Errors
    ///
    /// As for [`run`](Session::run).
    pub fn allocate_outputs(&mut self, inputs: &[(&str, TensorView<'_>)]) -> Result<Vec<Tensor>> {
        if self.runner.is_some() {
            return self.plan().outputs.iter().map(|port| Tensor::zeros(port.dtype, &vec![0; port.dims.len()])).collect();
        }
        let binding = self.prepare(inputs)?;
        let shapes = &self.bindings[binding].output_shapes;
        self.plan().outputs.iter().zip(shapes).map(|(port, shape)| Tensor::zeros(port.dtype, shape)).collect()
    }

    /// Pseudo-random inputs of the declared types, in the order of the model's inputs: input `i` is
    /// [`Tensor::random`] with seed `seed + i`. `dims` gives the free dimensions by name.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if a free dimension is not given, or one is given that the model does not have;
    /// [`Error::Resource`] if memory is lacking.
    pub fn random_inputs(&self, seed: u64, dims: &[(&str, i64)]) -> Result<Vec<Tensor>> {
        let plan = self.plan();
        let symbols = named_symbols(plan, dims)?;
        let random = |(i, port): (usize, &Port)| {
            let shape = port_shape(port, "input", &symbols).map_err(Error::Usage)?;
            Tensor::random(port.dtype, &shape, seed.wrapping_add(i as u64))
        };
        plan.inputs.iter().enumerate().map(random).collect()
    }

    /// Checks and binds the inputs; returns the index of the binding.
    fn prepare(&mut self, inputs: &[(&str, TensorView<'_>)]) -> Result<usize> {
        let plan = self.model.plan();
        match_names(plan, inputs, &mut self.order)?;
        let order = std::mem::take(&mut self.order);
        let index = self.prepare_in_order(|index| inputs[order[index]].1);
        self.order = order;
        index
    }

    /// The same for inputs in the order of the plan.
    fn prepare_in_order<'v>(&mut self, input: impl Fn(usize) -> TensorView<'v>) -> Result<usize> {
        let plan = self.model.plan();
        bind_symbols(plan, &mut self.symbols, &input)?;
        let index = match self.bindings.iter().position(|binding| binding.symbols == self.symbols) {
            Some(index) => index,
            None => self.bind()?,
        };
        let binding = &self.bindings[index];
        for (i, (port, shape)) in self.model.plan().inputs.iter().zip(&binding.input_shapes).enumerate() {
            check_input(port, shape, input(i))?;
        }
        self.arena_bytes = binding.arena_bytes;
        self.engine.reserve(index, binding)?;
        Ok(index)
    }

    /// Computes the binding for the current symbols; returns its index.
    fn bind(&mut self) -> Result<usize> {
        let plan = self.model.plan();
        let binding = Binding::new(plan, &self.symbols, self.engine.threads(), self.engine.align())?;
        let oldest = || (0..MAX_BINDINGS).min_by_key(|&i| self.bindings[i].last_used).unwrap_or(0);
        let index = if self.bindings.len() < MAX_BINDINGS { self.bindings.len() } else { oldest() };
        self.engine.bind(index, plan, &binding)?;
        match self.bindings.get_mut(index) {
            Some(old) => *old = binding,
            None => self.bindings.push(binding),
        }
        self.arena_bytes = self.bindings[index].arena_bytes;
        self.engine.reserve(index, &self.bindings[index])?;
        Ok(index)
    }

    fn check_count(&self, outputs: &[Tensor]) -> Result<()> {
        let (expected, found) = (self.plan().outputs.len(), outputs.len());
        match expected == found {
            true => Ok(()),
            false => Err(Error::Usage(format!("the model has {expected} outputs, but {found} tensors were given"))),
        }
    }

    fn check_outputs(&self, binding: usize, outputs: &[Tensor]) -> Result<()> {
        self.check_count(outputs)?;
        let ports = &self.plan().outputs;
        for ((port, shape), output) in ports.iter().zip(&self.bindings[binding].output_shapes).zip(outputs) {
            if output.dtype() != port.dtype || output.shape() != shape {
                let (expected, found) = (type_text(port.dtype, shape), type_text(output.dtype(), output.shape()));
                return Err(Error::Usage(format!("output `{}` will be {expected}, but the tensor for it is {found}", port.name)));
            }
        }
        Ok(())
    }
}

/// A run begins: what handles stand for is what the plan and these inputs say. Numbers cost nothing.
fn meet(strings: &mut Dictionary, inputs: &[(&str, TensorView<'_>)]) -> Result<()> {
    strings.clear();
    for (name, view) in inputs.iter().filter(|(_, view)| view.dtype() == DType::Str) {
        let own = view.strings().ok_or_else(|| {
            Error::Usage(format!("input `{name}` is handles, expected strings: a tensor of strings is made by `Tensor::from_strings`"))
        })?;
        strings.take(handles(view.bytes()), own)?;
    }
    Ok(())
}

/// Outputs take the strings that their elements stand for.
fn name_all(strings: &Dictionary, outputs: &mut [Tensor]) -> Result<()> {
    outputs.iter_mut().try_for_each(|output| output.name_strings(strings))
}

/// Finds the inputs of the plan in the caller's list. Allocates nothing unless it fails.
pub(crate) fn match_names(plan: &Plan, inputs: &[(&str, TensorView<'_>)], order: &mut [usize]) -> Result<()> {
    for (port, at) in plan.inputs.iter().zip(order.iter_mut()) {
        let mut found = (0..inputs.len()).filter(|&i| inputs[i].0 == port.name);
        match (found.next(), found.next()) {
            (Some(i), None) => *at = i,
            (Some(_), Some(_)) => {
                return Err(Error::Usage(format!("input `{}` is given twice", port.name)));
            }
            (None, _) => return Err(missing_inputs(plan, inputs)),
        }
    }
    match inputs.iter().find(|(name, _)| plan.inputs.iter().all(|port| port.name != *name)) {
        Some((name, _)) => Err(Error::Usage(format!("the model has no input `{name}`; its inputs are {}", list(&plan.inputs)))),
        None => Ok(()),
    }
}

fn missing_inputs(plan: &Plan, inputs: &[(&str, TensorView<'_>)]) -> Error {
    let is_given = |port: &Port| inputs.iter().any(|(name, _)| *name == port.name);
    let missing: Vec<Port> = plan.inputs.iter().filter(|port| !is_given(port)).cloned().collect();
    let given: Vec<String> = inputs.iter().map(|(name, _)| format!("`{name}`")).collect();
    let given = if given.is_empty() { "nothing".to_string() } else { given.join(", ") };
    Error::Usage(format!("inputs are missing: {}; given was {given}", list(&missing)))
}

fn list(ports: &[Port]) -> String {
    let ports: Vec<String> = ports.iter().map(|port| format!("`{}`: {port}", port.name)).collect();
    ports.join(", ")
}

/// The values of the symbols, given by name.
fn named_symbols(plan: &Plan, dims: &[(&str, i64)]) -> Result<Vec<i64>> {
    if let Some((name, _)) = dims.iter().find(|(name, _)| plan.symbols.iter().all(|symbol| symbol != name)) {
        let known = plan.symbols.join("`, `");
        return Err(Error::Usage(match plan.symbols.is_empty() {
            true => {
                format!("the model has no free dimension `{name}`; all its dimensions are fixed")
            }
            false => format!("the model has no free dimension `{name}`; it has `{known}`"),
        }));
    }
    let value = |symbol: &String| dims.iter().find(|(name, _)| name == symbol).map(|(_, value)| *value);
    let missing: Vec<&str> = plan.symbols.iter().filter(|symbol| value(symbol).is_none()).map(String::as_str).collect();
    if !missing.is_empty() {
        let what = missing.join("`, `");
        return Err(Error::Usage(format!("the free dimensions `{what}` have no value; give one with --dim {}=N", missing[0])));
    }
    let values: Vec<i64> = plan.symbols.iter().filter_map(value).collect();
    values.iter().enumerate().try_for_each(|(symbol, &value)| check_range(plan, symbol as u32, value, String::new))?;
    Ok(values)
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
