//! Walks a plan on a [`Device`]: what it does for each binding of the free dimensions becomes one recorded run.
//!
//! **Invariant.** A run is recorded once for each binding and again only when memory has moved; an inference is then a copy of the
//! inputs, one replay, and a copy of the outputs. Inputs are never written, and every output has bytes of its own.

use crate::artifact::{Artifact, TargetInfo};
use crate::binding::Binding;
use crate::cpu::Spot;
use crate::device::{Area, Command, DEVICE_ALIGN, Device, Lengths, Run, Span};
use crate::error::{Error, FileProblem, Result};
use crate::gpu::{Arch, Image, Launch, Version, numbers};
use crate::memory::buffer_bytes;
use crate::plan::{Buffer, Place, Plan, Port};
use crate::profile::Span as Timed;
use crate::tensor::{Tensor, TensorView};
use std::collections::HashMap;
use std::time::Duration;

/// A device with a model on it.
pub(crate) struct Executor {
    device: Box<dyn Device>,
    launches: Vec<Launch>,
    /// Where each buffer of the weights lies on the device, by its offset in the file and its length.
    weights: HashMap<(u64, u64), Span>,
    /// What the bindings of the session have become.
    prepared: Vec<Prepared>,
}

/// A binding, as far as the device is concerned.
struct Prepared {
    run: Run,
    /// The step of the plan that each launch is; launches are the first commands.
    steps: Vec<usize>,
    inputs: Vec<Span>,
    outputs: Vec<Span>,
    is_recorded: bool,
}

impl Executor {
    /// Puts a program of an artifact on a device.
    pub(crate) fn new(artifact: &Artifact, program: usize, mut device: Box<dyn Device>) -> Result<Executor> {
        let no_gpu = || Error::Usage(format!("{}: program {program} is not for a GPU", artifact.path()));
        let image: &Image = artifact.image_of(program).ok_or_else(no_gpu)?;
        device.load(image)?;
        let (weights, pieces) = placed_weights(artifact.plan_of(program), artifact.weights());
        device.upload(&pieces)?;
        Ok(Executor { device, launches: image.launches.clone(), weights, prepared: vec![] })
    }

    /// What it runs on.
    pub(crate) fn device(&self) -> String {
        self.device.name()
    }

    /// Makes the commands of a binding, which is the session's number `index` from now on.
    pub(crate) fn bind(&mut self, index: usize, plan: &Plan, binding: &Binding) -> Result<()> {
        let prepared = self
            .prepare(plan, binding)
            .map_err(|problem| Error::Artifact { path: plan.model.clone(), problem: FileProblem::Plan(problem) })?;
        match self.prepared.get_mut(index) {
            Some(old) => *old = prepared,
            None => self.prepared.push(prepared),
        }
        Ok(())
    }

    fn prepare(&self, plan: &Plan, binding: &Binding) -> Result<Prepared, String> {
        let bytes = buffer_bytes(plan, &binding.symbols, 1)?;
        let (inputs, input_bytes) = laid_out(Area::Inputs, plan.inputs.iter().map(|port| bytes[port.buffer as usize]));
        let (outputs, output_bytes) = laid_out(Area::Outputs, plan.outputs.iter().map(|port| bytes[port.buffer as usize]));
        let span = |buffer: u32| {
            let length = bytes[buffer as usize];
            match binding.spots[buffer as usize] {
                Spot::Arena(offset) => Span { area: Area::Arena, offset: offset as u64, bytes: length },
                Spot::Input(index) => Span { bytes: length, ..inputs[index] },
                Spot::Output(index) => Span { bytes: length, ..outputs[index] },
                Spot::Weights(offset) => self.weights.get(&(offset as u64, length)).copied().unwrap_or(NOTHING),
            }
        };
        let (mut commands, mut steps, mut sizes) = (vec![], vec![], &binding.sizes[..]);
        // Working memory lies behind the arena, that of all launches in one place, since they run one after another.
        let free = binding.arena_bytes.next_multiple_of(DEVICE_ALIGN);
        let mut arena = binding.arena_bytes;
        for (i, step) in plan.steps.iter().enumerate() {
            let own;
            (own, sizes) = sizes.split_at(step.sizes.len());
            for kernel in numbers(&self.launches, step.kernel as usize) {
                let &Launch { threads, shared, scratch, .. } = &self.launches[kernel];
                let blocks = self.launches[kernel].grid(own)?;
                if blocks == 0 {
                    continue;
                }
                let working = (scratch > 0).then_some(Span { area: Area::Arena, offset: free, bytes: scratch });
                arena = working.map_or(arena, |span| arena.max(span.offset + span.bytes));
                let buffers = step.reads.iter().chain(&step.writes).map(|&buffer| span(buffer)).chain(working).collect();
                let (reads, sizes) = (step.reads.len(), own.to_vec());
                commands.push(Command::Launch { kernel, blocks, threads, shared, buffers, reads, sizes });
                steps.push(i);
            }
        }
        let own = |i: usize, port: &Port| plan.buffers[port.buffer as usize].place == Place::Output(i as u32);
        let copied = plan.outputs.iter().enumerate().filter(|(i, port)| !own(*i, port) && bytes[port.buffer as usize] > 0);
        commands.extend(copied.map(|(i, port)| Command::Copy { from: span(port.buffer), to: outputs[i] }));
        let lengths = Lengths { arena, inputs: input_bytes, outputs: output_bytes };
        Ok(Prepared { run: Run { lengths, commands }, steps, inputs, outputs, is_recorded: false })
    }

    /// Makes room for a binding.
    pub(crate) fn reserve(&mut self, index: usize) -> Result<()> {
        if self.device.reserve(self.prepared[index].run.lengths)? {
            self.prepared.iter_mut().for_each(|prepared| prepared.is_recorded = false);
        }
        Ok(())
    }

    /// Runs a binding for which there is room; inputs and outputs fit it.
    pub(crate) fn run<'v>(&mut self, index: usize, input: impl Fn(usize) -> TensorView<'v>, outputs: &mut [Tensor]) -> Result<()> {
        self.take_inputs(index, input)?;
        let prepared = &mut self.prepared[index];
        if !prepared.is_recorded {
            self.device.record(index, &prepared.run)?;
            prepared.is_recorded = true;
        }
        self.device.replay(index)?;
        self.give_outputs(index, outputs)
    }

    /// The same command by command: when each step ran.
    pub(crate) fn run_timed<'v>(
        &mut self,
        index: usize,
        input: impl Fn(usize) -> TensorView<'v>,
        outputs: &mut [Tensor],
    ) -> Result<Vec<Timed>> {
        self.take_inputs(index, input)?;
        let Prepared { run, steps, .. } = &self.prepared[index];
        let times = self.device.timed(run)?;
        let (mut begin, thread) = (Duration::ZERO, std::thread::current().id());
        let timed = |(&step, time): (&usize, &Duration)| {
            let span = Timed { turn: 0, step, part: 0, thread, begin, end: begin + *time };
            begin = span.end;
            span
        };
        let spans = steps.iter().zip(&times).map(timed).collect();
        self.give_outputs(index, outputs)?;
        Ok(spans)
    }

    fn take_inputs<'v>(&mut self, index: usize, input: impl Fn(usize) -> TensorView<'v>) -> Result<()> {
        let memory = self.device.inputs()?;
        for (i, span) in self.prepared[index].inputs.iter().enumerate() {
            memory[range(span)].copy_from_slice(input(i).bytes());
        }
        Ok(())
    }

    fn give_outputs(&self, index: usize, outputs: &mut [Tensor]) -> Result<()> {
        let memory = self.device.outputs()?;
        for (span, output) in self.prepared[index].outputs.iter().zip(outputs) {
            output.bytes_mut().copy_from_slice(&memory[range(span)]);
        }
        Ok(())
    }
}

/// Where a buffer lies that no step touches.
const NOTHING: Span = Span { area: Area::Weights, offset: 0, bytes: 0 };

fn range(span: &Span) -> std::ops::Range<usize> {
    span.offset as usize..(span.offset + span.bytes) as usize
}

/// Spans of these lengths one behind the other, and the length of the area that holds them.
fn laid_out(area: Area, lengths: impl Iterator<Item = u64>) -> (Vec<Span>, u64) {
    let mut end = 0;
    let spans = lengths.map(|bytes| {
        let span = Span { area, offset: end, bytes };
        end = (end + bytes).next_multiple_of(DEVICE_ALIGN);
        span
    });
    (spans.collect(), end)
}

/// Where the weights of a plan lie on a device, and what to bring there: of the section that all programs share, only its own.
#[expect(clippy::type_complexity, reason = "the two halves of one thing, taken apart at once")]
fn placed_weights<'w>(plan: &Plan, section: &'w [u8]) -> (HashMap<(u64, u64), Span>, Vec<(u64, &'w [u8])>) {
    let weight = |buffer: &Buffer| match (buffer.place, buffer.bytes.as_const()) {
        (Place::Weights { offset }, Some(bytes)) => Some((offset, bytes as u64)),
        _ => None,
    };
    let mut keys: Vec<(u64, u64)> = plan.buffers.iter().filter_map(weight).collect();
    keys.sort_unstable();
    keys.dedup();
    let (spans, _) = laid_out(Area::Weights, keys.iter().map(|(_, bytes)| *bytes));
    let pieces =
        keys.iter().zip(&spans).map(|((offset, bytes), span)| (span.offset, &section[*offset as usize..(offset + bytes) as usize]));
    let pieces = pieces.collect();
    (keys.into_iter().zip(spans).collect(), pieces)
}

/// The program of an artifact that is best for a device: of those it can run the one for the latest architecture.
///
/// # Errors
///
/// [`Error::Artifact`] with what there is and what the device is, if there is none.
pub(crate) fn program_for(artifact: &Artifact, device: &dyn Device) -> Result<usize> {
    let arch = |target: &TargetInfo| Some(target).filter(|target| target.is_gpu()).and_then(|target| Arch::named(&target.cpu));
    let runs = |arch: &Arch| device.capability().is_none_or(|found| arch.runs_on(found));
    let fitting = artifact.targets().map(arch).enumerate().filter_map(|(i, found)| Some((found.filter(runs)?, i)));
    let best = fitting.max_by_key(|(arch, i)| (*arch, std::cmp::Reverse(*i)));
    best.map(|(_, program)| program).ok_or_else(|| {
        let targets = artifact.targets().map(TargetInfo::to_string).collect();
        let problem = FileProblem::NoCodeFor { targets, device: device.name(), wanted: device.capability().map(Version::arch) };
        Error::Artifact { path: artifact.path().to_string(), problem }
    })
}

#[cfg(test)]
#[path = "executor_tests.rs"]
mod tests;
