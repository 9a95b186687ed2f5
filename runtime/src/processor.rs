//! Runs the steps of a plan on this machine's processor, on the threads of a pool.
//!
//! **Invariant.** After the first run for a binding of the free dimensions, a run allocates nothing and takes no lock; the bits of
//! its outputs do not depend on the number of threads.

use crate::binding::Binding;
use crate::cpu::{Arena, Code, Frame};
use crate::error::Result;
use crate::plan::{Place, Plan, Port};
use crate::pool::Pool;
use crate::profile::Recorder;
use crate::tensor::{AlignedBytes, Tensor, TensorView};
use std::ops::Range;
use std::sync::Arc;

/// Code with everything that it needs to run.
pub(crate) struct Processor {
    // Dropped in this order: the threads end before the code they use is unmapped.
    pool: Pool,
    code: Arc<Code>,
    calls: Vec<Call>,
    /// Outputs that no step writes in place: `(output, buffer)`.
    copies: Vec<(usize, u32)>,
    frame: Frame,
    arena: Arena,
    /// Copies of inputs that are not aligned or lack slack, kept from run to run.
    staging: Vec<Option<AlignedBytes>>,
}

/// One step, as far as it does not depend on the binding.
struct Call {
    kernel: usize,
    /// Where its pointer table begins in the frame.
    table: usize,
    /// Where its arguments lie in the sizes of the binding.
    sizes: Range<usize>,
}

impl Processor {
    /// For the code of a plan.
    pub(crate) fn new(plan: &Plan, code: Arc<Code>, threads: usize) -> Result<Processor> {
        let (calls, slots) = calls(plan);
        Ok(Processor {
            pool: Pool::new(threads)?,
            frame: Frame::new(plan.buffers.len(), slots),
            copies: copies(plan),
            staging: plan.inputs.iter().map(|_| None).collect(),
            arena: Arena::default(),
            calls,
            code,
        })
    }

    /// Threads it runs on, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Its threads.
    pub(crate) fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    /// Takes other threads, and gives its own for them.
    pub(crate) fn exchange_pool(&mut self, pool: &mut Pool) {
        std::mem::swap(&mut self.pool, pool);
    }

    /// Makes room for a binding's intermediates.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<()> {
        self.arena.reserve(bytes)
    }

    /// Runs all steps for a binding for which there is room; inputs and outputs fit it.
    pub(crate) fn run<'v>(
        &mut self,
        weights: &[u8],
        binding: &Binding,
        input: impl Fn(usize) -> TensorView<'v>,
        outputs: &mut [Tensor],
        recorder: Option<&Recorder>,
    ) -> Result<()> {
        stage(&mut self.staging, &input)?;
        let staging = &self.staging;
        self.frame.aim(
            &binding.spots,
            &mut self.arena,
            weights,
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
