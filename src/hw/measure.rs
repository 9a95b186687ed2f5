//! Measures a machine: each probe becomes a plan of its own, which a session runs and times.

use super::caches::{Cache, caches};
use super::store::SCHEMA;
use super::{Level, Machine, Rate};
use crate::error::Error;
use egret_codegen::Target;
use egret_codegen::cpu::CompiledCode;
use egret_codegen::cpu::probe::{self, BLOCK, Probe};
use egret_runtime::plan::{Buffer, KernelInfo, Place, Plan, Size, Step, Unit};
use egret_runtime::profile::step_times;
use egret_runtime::{Options, Session, TargetInfo, WeightsCheck, artifact, default_threads};
use std::time::{Duration, Instant};

/// A figure is measured until it did not get better for this long: on a quiet machine, together about two seconds.
const PATIENCE: Duration = Duration::from_millis(80);

/// No figure is measured longer, however busy the machine.
const BUDGET: Duration = Duration::from_millis(500);

/// At least so many runs, however long they take; the first also touches the pages and fills the caches.
const MIN_RUNS: usize = 5;

/// Bytes that a thread moves in one run within a cache, and multiply-adds of one run: well below a millisecond, so that most
/// runs are not interrupted by other programs.
const BYTES_PER_RUN: usize = 16 << 20;
const REPETITIONS_OF_MULTIPLY_ADD: usize = 1 << 16;

/// Half of a cache is used: the rest is for what else needs it.
const SHARE_OF_CACHE: u64 = 2;

/// The main memory is measured over this many times the largest cache, which then cannot help; within these bounds.
const TIMES_LARGEST_CACHE: u64 = 4;
const MAIN_MEMORY_BYTES: (u64, u64) = (64 << 20, 1 << 30);

/// Steps of a run that does nothing else than to go from step to step.
const EMPTY_STEPS: usize = 1000;

impl Machine {
    /// Measures this machine, which takes about two seconds; a quiet machine gives better figures than a busy one.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if there is no code generator for it, [`Error::Resource`] if memory or threads are lacking.
    pub fn measure() -> Result<Machine, Error> {
        Machine::measure_as(native()?)
    }

    /// The same by code for `target`: what this machine can do with fewer instructions than it has, such as those of `x86-64-v3`.
    ///
    /// # Errors
    ///
    /// As [`measure`](Machine::measure), and [`Error::Usage`] if this machine cannot run such code.
    pub fn measure_as(target: Target) -> Result<Machine, Error> {
        let with_dots = target.with_dots().unwrap_or(target);
        let bench = Bench::new(with_dots.with_bytes().unwrap_or(with_dots))?;
        let levels: Vec<Option<Cache>> = caches().into_iter().map(Some).chain([None]).collect();
        Ok(Machine {
            schema: SCHEMA.to_string(),
            processor: processor()?,
            threads: bench.threads,
            gflops: bench.both(|threads| bench.gflops(threads, Probe::MultiplyAdd))?,
            pairs_gflops: bench.target.dots.then(|| bench.both(|threads| bench.gflops(threads, Probe::DotPairs))).transpose()?,
            quads_gops: bench.target.bytes.then(|| bench.both(|threads| bench.gflops(threads, Probe::DotBytes))).transpose()?,
            levels: levels.iter().map(|cache| bench.level(*cache, &levels)).collect::<Result<_, _>>()?,
            step_us: bench.both(|threads| bench.step_us(threads))?,
        })
    }
}

/// The processor as the system and LLVM call it.
pub(super) fn processor() -> Result<String, Error> {
    let target = native()?;
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Ok(model.map_or(target.tune.clone(), |(_, model)| format!("{} ({})", model.trim(), target.tune)))
}

fn native() -> Result<Target, Error> {
    Target::named("native").map_err(|error| Error::Usage(error.to_string()))
}

/// The code of the probes, and what it runs on.
struct Bench {
    code: CompiledCode,
    target: Target,
    threads: usize,
}

impl Bench {
    fn new(target: Target) -> Result<Bench, Error> {
        let code = probe::compile(&target).map_err(|error| Error::Bug(error.to_string()))?;
        Ok(Bench { code, target, threads: default_threads() })
    }

    fn both(&self, measure: impl Fn(usize) -> Result<f64, Error>) -> Result<Rate, Error> {
        Ok(Rate { one: measure(1)?, all: measure(self.threads)? })
    }

    fn gflops(&self, threads: usize, probe: Probe) -> Result<f64, Error> {
        let call = Call { probe, repetitions: REPETITIONS_OF_MULTIPLY_ADD, share: BLOCK };
        let seconds = self.shortest(threads, call)?;
        let operations = threads * call.repetitions * call.probe.operations(&self.target);
        Ok(operations as f64 / seconds * 1e-9)
    }

    fn level(&self, cache: Option<Cache>, all: &[Option<Cache>]) -> Result<Level, Error> {
        let largest = all.iter().flatten().map(|cache| cache.bytes).max().unwrap_or(0);
        // Bytes for one of so many threads.
        let share = |threads: usize| match cache {
            Some(cache) => cache.bytes / SHARE_OF_CACHE / threads.min(cache.cores) as u64,
            None => (largest * TIMES_LARGEST_CACHE).clamp(MAIN_MEMORY_BYTES.0, MAIN_MEMORY_BYTES.1) / threads as u64,
        };
        let rate = |probe| self.both(|threads| self.gigabytes(threads, probe, share(threads) as usize));
        Ok(Level {
            name: cache.map_or("DRAM".to_string(), |cache| format!("L{}", cache.level)),
            bytes: cache.map(|cache| cache.bytes),
            cores: cache.map_or(self.threads, |cache| cache.cores),
            read: rate(Probe::Read)?,
            write: rate(Probe::Write)?,
        })
    }

    fn gigabytes(&self, threads: usize, probe: Probe, share: usize) -> Result<f64, Error> {
        let share = (share / BLOCK).max(1) * BLOCK;
        let call = Call { probe, repetitions: (BYTES_PER_RUN / share).max(1), share };
        let seconds = self.shortest(threads, call)?;
        Ok((threads * call.repetitions * share) as f64 / seconds * 1e-9)
    }

    /// The shortest time of a step that calls a probe once on every thread.
    fn shortest(&self, threads: usize, call: Call) -> Result<f64, Error> {
        // Pages that were never written would all be one page of zeros.
        let fill = Call { probe: Probe::Write, repetitions: 1, share: call.share };
        let mut session = self.session(threads, &[fill, call])?;
        let times = repeat(|| Ok(step_times(&session.run_profiled(&[], &mut [])?.spans, 2)[1]))?;
        Ok(times.first().map_or(f64::NAN, Duration::as_secs_f64))
    }

    /// The median time of a step that does nothing.
    fn step_us(&self, threads: usize) -> Result<f64, Error> {
        let call = Call { probe: Probe::Write, repetitions: 0, share: BLOCK };
        let mut session = self.session(threads, &[call; EMPTY_STEPS])?;
        let times = repeat(|| {
            let begin = Instant::now();
            session.run_into(&[], &mut [])?;
            Ok(begin.elapsed())
        })?;
        Ok(times[times.len() / 2].as_secs_f64() * 1e6 / EMPTY_STEPS as f64)
    }

    /// A session that makes these calls, each on all threads, over a buffer with a share for each.
    fn session(&self, threads: usize, calls: &[Call]) -> Result<Session, Error> {
        let kernel = |(probe, offset): (&Probe, &u64)| KernelInfo {
            name: format!("{probe:?}"),
            offset: *offset,
            text: format!("{probe:?}"),
            hash: [0; 32],
            unit: Unit::F32,
        };
        let bytes = threads * calls.iter().map(|call| call.share).max().unwrap_or(0);
        let probes = Probe::all(&self.target);
        let plan = Plan {
            model: "probe".to_string(),
            buffers: vec![Buffer { name: "memory".to_string(), bytes: Size::Const(bytes as i64), place: Place::Arena }],
            steps: calls.iter().map(|call| call.step(threads, &probes)).collect(),
            kernels: probes.iter().zip(&self.code.entries).map(kernel).collect(),
            ..Plan::default()
        };
        let Target { arch, tune, .. } = &self.target;
        let target = TargetInfo { arch: arch.to_string(), cpu: tune.clone(), features: self.target.required_features() };
        let program = artifact::Program { target: &target, plan: &plan, code: &self.code.code };
        let bytes = artifact::to_bytes(&[program], [])?;
        Ok(Session::from_bytes(&bytes, Options { threads, weights: WeightsCheck::Quick })?)
    }
}

/// A call of a probe.
#[derive(Clone, Copy)]
struct Call {
    probe: Probe,
    repetitions: usize,
    /// Bytes of the buffer for each thread.
    share: usize,
}

impl Call {
    fn step(self, threads: usize, probes: &[Probe]) -> Step {
        let sizes = [self.repetitions, self.share].map(|size| Size::Const(size as i64));
        Step {
            name: format!("{:?}", self.probe),
            kernel: probes.iter().position(|probe| *probe == self.probe).unwrap_or(0) as u32,
            reads: vec![],
            writes: vec![0],
            sizes: sizes.into(),
            parts: Size::Const(threads as i64),
            in_place: None,
            flops: Size::Const(0),
            origins: vec![],
        }
    }
}

/// Runs something until its shortest time does not get shorter; all times, the shortest first.
fn repeat(mut run: impl FnMut() -> Result<Duration, Error>) -> Result<Vec<Duration>, Error> {
    let begin = Instant::now();
    let (mut times, mut shortest, mut since) = (Vec::new(), Duration::MAX, begin);
    while times.len() < MIN_RUNS || (since.elapsed() < PATIENCE && begin.elapsed() < BUDGET) {
        let time = run()?;
        if time < shortest {
            (shortest, since) = (time, Instant::now());
        }
        times.push(time);
    }
    times.sort_unstable();
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not how fast, which a test cannot know, but that every figure is one.
    #[test]
    fn every_figure_of_this_machine_is_a_number() {
        let machine = Machine::measure().unwrap();
        let rates = machine.levels.iter().flat_map(|level| [level.read, level.write]).chain([machine.gflops, machine.step_us]);
        assert!(rates.into_iter().all(|rate| rate.one.is_finite() && rate.one > 0.0 && rate.all > 0.0), "{machine:?}");
        assert_eq!(machine.levels.last().map(|level| level.name.as_str()), Some("DRAM"));
        assert!(machine.processor.contains(&native().unwrap().tune));
    }
}
