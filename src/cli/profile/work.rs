//! What is timed in a run, and what each of it has to do.
//!
//! **Invariant.** An [`Entry`] has the number that spans of a run know it by: steps of all plans that are walked, one plan behind the
//! other, then the operations between them. A step that runs several times, since it stands in a loop, has the work of all of its turns.

use egret::Error;
use egret::hw::{Machine, Traffic};
use egret::memory::buffer_bytes;
use egret::plan::{Place, Plan, Step};
use egret::profile::Profile;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;

/// A step of a plan that is walked, or an operation between two.
pub struct Entry<'p> {
    /// The kernel; an operation has none.
    pub kernel: &'p str,
    /// Its ops.
    pub computes: &'p str,
    /// The value that it makes.
    pub value: &'p str,
    /// The nodes of the model that it came from.
    pub origins: &'p [String],
}

/// Everything that is timed, by its number.
pub fn entries(plan: &Plan) -> Vec<Entry<'_>> {
    let steps = plan.walked().iter().flat_map(|walked| &walked.steps).map(|step| {
        let kernel = &plan.kernels[step.kernel as usize];
        Entry { kernel: &kernel.name, computes: &kernel.text, value: &step.name, origins: &step.origins }
    });
    let operations = plan.program.iter().flat_map(|program| program.operations()).map(|(body, call)| Entry {
        kernel: "-",
        computes: call.what.operation().unwrap_or_default(),
        value: call.writes.first().map_or("", |&value| &body.values[value as usize]),
        origins: &[],
    });
    steps.chain(operations).collect()
}

/// What an entry does in a run.
#[derive(Clone, Copy, Default)]
pub struct Amount {
    /// How often it runs.
    pub calls: usize,
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes of the buffers that it reads and writes, each once a call.
    pub bytes: f64,
    /// The least time that the machine needs, in microseconds; `None` where nothing is known of that.
    pub floor_us: Option<f64>,
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Amount) {
        let floor_us = match self.calls {
            0 => other.floor_us,
            _ => self.floor_us.zip(other.floor_us).map(|(a, b)| a + b),
        };
        *self = Amount { calls: self.calls + other.calls, flops: self.flops + other.flops, bytes: self.bytes + other.bytes, floor_us };
    }
}

/// Where work is done.
pub struct Work<'a> {
    /// The plan of the model.
    pub plan: &'a Plan,
    /// The processor; `None` on a GPU.
    pub machine: Option<&'a Machine>,
    /// On how many threads.
    pub threads: usize,
}

impl Work<'_> {
    /// What each entry does in a run.
    pub fn amounts(&self, run: &Profile) -> Result<Vec<Amount>, Error> {
        let walked = self.plan.walked();
        let steps: usize = walked.iter().map(|plan| plan.steps.len()).sum();
        let mut amounts = vec![Amount::default(); entries(self.plan).len()];
        let mut turns: BTreeMap<(usize, &[i64]), usize> = BTreeMap::new();
        run.turns.iter().for_each(|turn| *turns.entry((turn.plan, &turn.symbols)).or_default() += 1);
        for ((index, symbols), times) in turns {
            let Some(plan) = walked.get(index) else {
                amounts[steps + index - walked.len()] += Amount { calls: times, ..Amount::default() };
                continue;
            };
            let first: usize = walked[..index].iter().map(|plan| plan.steps.len()).sum();
            for (i, one) in self.of_steps(plan, symbols)?.into_iter().enumerate() {
                (0..times).for_each(|_| amounts[first + i] += one);
            }
        }
        Ok(amounts)
    }

    /// What each step of a plan does in a turn.
    fn of_steps(&self, plan: &Plan, symbols: &[i64]) -> Result<Vec<Amount>, Error> {
        let bytes = buffer_bytes(plan, symbols, self.threads).map_err(Error::Usage)?;
        let weights = self.weight_bytes();
        Ok(plan.steps.iter().map(|step| self.of_step(plan, step, symbols, &bytes, weights)).collect())
    }

    fn of_step(&self, plan: &Plan, step: &Step, symbols: &[i64], bytes: &[u64], all_weights: f64) -> Amount {
        let is_weight = |buffer: usize| matches!(plan.buffers[buffer].place, Place::Weights { .. });
        // Working memory stays in the nearest cache: it is made and used up within the step.
        let moves = |buffer: usize| plan.buffers[buffer].place != Place::Private;
        let named = step.reads.iter().chain(&step.writes).map(|&buffer| buffer as usize);
        let touched: BTreeSet<usize> = named.filter(|&buffer| moves(buffer)).collect();
        let sum = |weights: bool| touched.iter().filter(|&&b| is_weight(b) == weights).map(|&b| bytes[b]).sum::<u64>() as f64;
        let (kept, passing) = (sum(true), sum(false));
        let traffic = [Traffic { bytes: kept, footprint: all_weights }, Traffic { bytes: passing, footprint: kept + passing }];
        let flops = step.flops.eval(symbols).unwrap_or(0) as f64;
        let unit = self.plan.kernels[step.kernel as usize].unit;
        let floor_us = self.machine.map(|machine| machine.floor(self.threads, unit, flops, &traffic) * 1e6);
        Amount { calls: 1, flops, bytes: kept + passing, floor_us }
    }

    /// The bytes of all weights, those that several stages read once.
    fn weight_bytes(&self) -> f64 {
        let mut sizes = BTreeMap::new();
        for buffer in self.plan.walked().iter().flat_map(|plan| &plan.buffers) {
            if let (Place::Weights { offset }, Some(bytes)) = (buffer.place, buffer.bytes.as_const()) {
                sizes.insert(offset, bytes as f64);
            }
        }
        sizes.values().sum()
    }
}
