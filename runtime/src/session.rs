//! Runs a model: load once, run many times.
//!
//! **Invariant.** After the first run for a binding of the free dimensions, [`Session::run_into`] allocates nothing and takes
//! no lock; the bits of its outputs do not depend on the number of threads. Inputs are checked by name, type and shape before
//! any kernel runs.
//!
//! A run binds the symbols from the inputs' shapes, looks the binding up (or computes it: memory map, kernel arguments),
//! points the kernels' pointer tables at arena, weights, inputs and outputs, and walks the steps.

use crate::artifact::{Artifact, WeightsCheck};
use crate::binding::{Binding, bind_symbols, check_input, port_shape};
use crate::cpu::{Arena, Code, Frame, KernelFn};
use crate::error::{Error, FileProblem, Result};
use crate::plan::{Place, Plan, Port, SLACK};
use crate::pool::{Pool, default_threads};
use crate::profile::{Recorder, Span};
use crate::tensor::{AlignedBytes, Tensor, TensorView, type_text};
use std::ops::Range;
use std::path::Path;

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
    // Dropped in this order: the threads end before the code and weights they use are unmapped.
    pool: Pool,
    code: Code,
    model: Model,
    calls: Vec<Call>,
    /// Outputs that no step writes in place: `(output, buffer)`.
    copies: Vec<(usize, u32)>,
    bindings: Vec<Binding>,
    frame: Frame,
    arena: Arena,
    /// Copies of inputs that are not aligned or lack slack, kept from run to run.
    staging: Vec<Option<AlignedBytes>>,
    /// Position in the caller's list of each input of the plan.
    order: Vec<usize>,
    /// Values of the symbols, for the binding under way.
    symbols: Vec<i64>,
    runs: u64,
    /// Arena bytes of the latest binding.
    arena_bytes: u64,
}

/// Where plan and weights come from.
enum Model {
    Artifact { artifact: Box<Artifact>, program: usize },
    Parts { plan: Box<Plan>, weights: AlignedBytes },
}

impl Model {
    fn plan(&self) -> &Plan {
        match self {
            Model::Artifact { artifact, program } => artifact.plan_of(*program),
            Model::Parts { plan, .. } => plan,
        }
    }

    fn weights(&self) -> &[u8] {
        match self {
            Model::Artifact { artifact, .. } => artifact.weights(),
            Model::Parts { weights, .. } => weights,
        }
    }
}

/// One step, as far as it does not depend on the binding.
struct Call {
    kernel: usize,
    /// Where its pointer table begins in the frame.
    table: usize,
    /// Where its arguments lie in the sizes of the binding.
    sizes: Range<usize>,
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
        Session::new(Model::Artifact { artifact: Box::new(artifact), program }, code, options)
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
        Session::new(Model::Parts { plan: Box::new(plan), weights }, code, options)
    }

    fn new(model: Model, code: Code, options: Options) -> Result<Session> {
        let threads = if options.threads == 0 { default_threads() } else { options.threads };
        let plan = model.plan();
        let (calls, slots) = calls(plan);
        let mut session = Session {
            pool: Pool::new(threads)?,
            frame: Frame::new(plan.buffers.len(), slots),
            copies: copies(plan),
            staging: plan.inputs.iter().map(|_| None).collect(),
            order: vec![0; plan.inputs.len()],
            symbols: vec![0; plan.symbols.len()],
            bindings: Vec::new(),
            arena: Arena::default(),
            runs: 0,
            arena_bytes: 0,
            calls,
            code,
            model,
        };
        if session.plan().symbols.is_empty() {
            // Everything is known now: let the first run find it done.
            session.bind()?;
        }
        Ok(session)
    }

    /// The plan of the model: names and types of inputs and outputs, steps, kernels.
    pub fn plan(&self) -> &Plan {
        self.model.plan()
    }

    /// The artifact it was loaded from; `None` if it was made of functions.
    pub fn artifact(&self) -> Option<&Artifact> {
        match &self.model {
            Model::Artifact { artifact, .. } => Some(artifact),
            Model::Parts { .. } => None,
        }
    }

    /// Threads it runs on, the caller's included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Scratch bytes of the latest binding of the free dimensions: what the intermediates need. 0 before the first.
    pub fn arena_bytes(&self) -> u64 {
        self.arena_bytes
    }

    /// Runs the model and returns its outputs, in the order of the model's outputs.
    ///
    /// The inputs may come in any order; each is a name and a [`TensorView`].
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if the inputs do not fit the model, [`Error::Resource`] if memory is lacking.
    pub fn run(&mut self, inputs: &[(&str, TensorView<'_>)]) -> Result<Vec<Tensor>> {
        let mut outputs = self.allocate_outputs(inputs)?;
        self.run_into(inputs, &mut outputs)?;
        Ok(outputs)
    }

    /// Runs the model into tensors that exist already, one per output in the order of the model's outputs; see
    /// [`allocate_outputs`](Session::allocate_outputs).
    ///
    /// # Errors
    ///
    /// As for [`run`](Session::run), and [`Error::Usage`] if the outputs have not the right types and shapes.
    pub fn run_into(&mut self, inputs: &[(&str, TensorView<'_>)], outputs: &mut [Tensor]) -> Result<()> {
        let binding = self.prepare(inputs)?;
        self.check_outputs(binding, outputs)?;
        self.execute(binding, inputs, outputs, None)
    }

    /// Runs the model as [`run_into`](Session::run_into) does, and says when each part of each step ran and where. Slower by two
    /// looks at the clock per part.
    ///
    /// # Errors
    ///
    /// As for [`run_into`](Session::run_into).
    pub fn run_profiled(&mut self, inputs: &[(&str, TensorView<'_>)], outputs: &mut [Tensor]) -> Result<Vec<Span>> {
        let binding = self.prepare(inputs)?;
        self.check_outputs(binding, outputs)?;
        let recorder = Recorder::new(&self.bindings[binding].parts);
        self.execute(binding, inputs, outputs, Some(&recorder))?;
        Ok(recorder.into_spans())
    }

    /// Tensors of the types and shapes that a run with these inputs writes.
    ///
    /// # Errors
    ///
    /// As for [`run`](Session::run).
    pub fn allocate_outputs(&mut self, inputs: &[(&str, TensorView<'_>)]) -> Result<Vec<Tensor>> {
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
        let input = |index: usize| inputs[self.order[index]].1;
        bind_symbols(plan, &mut self.symbols, input)?;
        let index = match self.bindings.iter().position(|binding| binding.symbols == self.symbols) {
            Some(index) => index,
            None => self.bind()?,
        };
        let binding = &self.bindings[index];
        for (i, (port, shape)) in self.model.plan().inputs.iter().zip(&binding.input_shapes).enumerate() {
            check_input(port, shape, inputs[self.order[i]].1)?;
        }
        self.arena_bytes = binding.arena_bytes;
        self.arena.reserve(binding.arena_bytes)?;
        Ok(index)
    }

    /// Computes the binding for the current symbols; returns its index.
    fn bind(&mut self) -> Result<usize> {
        let binding = Binding::new(self.model.plan(), &self.symbols, self.pool.threads())?;
        self.arena_bytes = binding.arena_bytes;
        self.arena.reserve(binding.arena_bytes)?;
        if self.bindings.len() < MAX_BINDINGS {
            self.bindings.push(binding);
            return Ok(self.bindings.len() - 1);
        }
        let oldest = (0..MAX_BINDINGS).min_by_key(|&i| self.bindings[i].last_used).unwrap_or(0);
        self.bindings[oldest] = binding;
        Ok(oldest)
    }

    fn check_outputs(&self, binding: usize, outputs: &[Tensor]) -> Result<()> {
        let ports = &self.plan().outputs;
        if outputs.len() != ports.len() {
            return Err(Error::Usage(format!("the model has {} outputs, but {} tensors were given", ports.len(), outputs.len())));
        }
        for ((port, shape), output) in ports.iter().zip(&self.bindings[binding].output_shapes).zip(outputs) {
            if output.dtype() != port.dtype || output.shape() != shape {
                let (expected, found) = (type_text(port.dtype, shape), type_text(output.dtype(), output.shape()));
                return Err(Error::Usage(format!("output `{}` will be {expected}, but the tensor for it is {found}", port.name)));
            }
        }
        Ok(())
    }

    /// Runs all steps; inputs and outputs fit the binding.
    fn execute(
        &mut self,
        binding: usize,
        inputs: &[(&str, TensorView<'_>)],
        outputs: &mut [Tensor],
        recorder: Option<&Recorder>,
    ) -> Result<()> {
        self.runs += 1;
        self.bindings[binding].last_used = self.runs;
        let binding = &self.bindings[binding];
        let input = |index: usize| inputs[self.order[index]].1;
        stage(&mut self.staging, input)?;
        let staging = &self.staging;
        self.frame.aim(
            &binding.spots,
            &mut self.arena,
            self.model.weights(),
            |index| staged(&staging[index], input(index)),
            |index| outputs[index].bytes_mut().as_mut_ptr(),
        );
        let (frame, calls, kernels) = (&self.frame, &self.calls, self.code.kernels());
        let work = |step: usize, part: u32, parts: u32| {
            let call = &calls[step];
            // SAFETY: the frame was aimed above at memory that this function borrows; the pool runs steps in order; all
            // indices come from the same step of the plan.
            let run = || unsafe { frame.call(kernels[call.kernel], call.table, &binding.sizes[call.sizes.clone()], part, parts) };
            match recorder {
                None => run(),
                Some(recorder) => recorder.record(step, part, run),
            }
        };
        self.pool.walk(&binding.parts, &work);
        for &(output, buffer) in &self.copies {
            // SAFETY: the frame is still aimed, and the binding checked that port and buffer have the same length. The
            // buffer is not this output's own bytes, or it would not be copied.
            unsafe { frame.copy_out(buffer, outputs[output].bytes_mut()) };
        }
        Ok(())
    }
}

/// The steps of a plan and the concatenation of their buffer lists.
fn calls(plan: &Plan) -> (Vec<Call>, Vec<u32>) {
    let (mut slots, mut sizes) = (Vec::new(), 0);
    let calls = plan.steps.iter().map(|step| {
        let call = Call { kernel: step.kernel as usize, table: slots.len(), sizes: sizes..sizes + step.sizes.len() };
        slots.extend(step.reads.iter().chain(&step.writes));
        sizes = call.sizes.end;
        call
    });
    (calls.collect(), slots)
}

/// The outputs whose bytes some other buffer holds.
fn copies(plan: &Plan) -> Vec<(usize, u32)> {
    let place = |port: &Port| plan.buffers[port.buffer as usize].place;
    let ports = plan.outputs.iter().enumerate();
    ports.filter(|(i, port)| place(port) != Place::Output(*i as u32)).map(|(i, port)| (i, port.buffer)).collect()
}

/// Finds the inputs of the plan in the caller's list. Allocates nothing unless it fails.
fn match_names(plan: &Plan, inputs: &[(&str, TensorView<'_>)], order: &mut [usize]) -> Result<()> {
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
    Ok(plan.symbols.iter().filter_map(value).collect())
}

/// Copies the inputs that kernels cannot use in place. Allocates only when an input is longer than ever before.
fn stage<'v>(staging: &mut [Option<AlignedBytes>], input: impl Fn(usize) -> TensorView<'v>) -> Result<()> {
    for (index, copy) in staging.iter_mut().enumerate() {
        let view = input(index);
        if view.is_padded() {
            continue;
        }
        if copy.as_ref().is_none_or(|copy| copy.len() < view.bytes().len()) {
            *copy = Some(AlignedBytes::zeroed(view.bytes().len())?);
        }
        if let Some(copy) = copy {
            copy[..view.bytes().len()].copy_from_slice(view.bytes());
        }
    }
    Ok(())
}

/// The bytes kernels read for an input.
fn staged<'a>(copy: &'a Option<AlignedBytes>, view: TensorView<'a>) -> &'a [u8] {
    match copy {
        Some(copy) if !view.is_padded() => copy,
        _ => view.bytes(),
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
