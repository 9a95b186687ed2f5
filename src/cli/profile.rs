//! `egret profile`: which kernels the time goes to, and how near each is to what the machine can do.
//!
//! ```text
//! $ egret profile examples/models/digits_cnn.onnx --dim batch=1
//! examples/models/digits_cnn.onnx, znver4, 1 thread, 2000 runs
//! step     us   predicted   share   GFLOP/s   GB/s   roof   calls   parts   kernel   computes                  from
//!    3   3.42        5.95    27 %      87.9   53.0   74 %       1       1   k3       conv · add · add · relu   node__...
//! ...
//! the steps are 100 % of the latency: 0.0129 of 0.0129 ms; ...
//! ```
//!
//! Times are medians over runs that alternate with runs that are not profiled, whose median is the latency. `GB/s` counts
//! the buffers that a step reads and writes, each once. `roof` is the least time the machine needs for the step's operations and
//! bytes in percent of its time, where products of bf16 have the peak of their dot products; bytes of weights come from the level of the memory that holds all of the model's, others
//! from the level that holds the step's. Where that would be more than the step took, the step uses only some of its buffers'
//! bytes, as a gather does, and nothing is said. The
//! operations of a convolution in Winograd's form are those of that form. `predicted` is the time in the cost model by which kernels
//! are chosen, on one thread. `calls` is how often a step ran: steps of a loop run several times, and their figures are those of all calls
//! together. What a model computes between stages, such as which boxes to keep, has rows without a kernel.

use super::measure::{self, Profiled, Side};
use super::options::{CompileOptions, DeviceOption, InputOptions, JsonOption, parse_duration, parse_threads};
use super::predicted::error_text;
use super::source::{Ready, ran_on};
use super::stats::Latency;
use super::table::{Align, columns, milliseconds, plural};
use super::{progress::Progress, report, trace};
use clap::ValueEnum;
use egret::hw::Machine;
use egret::plan::Plan;
use egret::profile::step_times;
use egret::{DeviceName, Error};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;
use work::{Amount, Entry, Work, entries};

pub mod work;

/// The arguments of `egret profile`.
#[derive(clap::Args)]
pub struct Args {
    /// An .onnx model, a graph as .egir text, or a compiled .egret file
    model: PathBuf,
    #[command(flatten)]
    compile: CompileOptions,
    #[command(flatten)]
    inputs: InputOptions,
    #[command(flatten)]
    device: DeviceOption,
    /// Threads to run on
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_threads)]
    threads: usize,
    /// Measure at least this long, such as 500ms or 3s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    min_time: Duration,
    /// Order of the rows
    #[arg(long, value_name = "ORDER", default_value = "time")]
    sort: Sort,
    /// Write a run of median length as trace events, to be opened in ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Compile every op to a kernel of its own
    #[arg(long)]
    no_fuse: bool,
    #[command(flatten)]
    json: JsonOption,
}

/// An order of steps.
#[derive(Clone, Copy, ValueEnum)]
enum Sort {
    /// Longest first
    Time,
    /// As they run
    Order,
}

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    model: String,
    target: String,
    processor: String,
    threads: usize,
    runs: usize,
    /// Median of the runs that were not profiled.
    latency_us: f64,
    /// The shortest of them.
    shortest_us: f64,
    /// Sum of the times of the steps.
    steps_us: f64,
    /// Share of the profiled runs' time, on all threads, in which a kernel ran.
    busy: f64,
    /// Sum of the least times that the machine needs; only for the processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    floor_us: Option<f64>,
    /// Sum of the predictions; only for one thread.
    predicted_us: Option<f64>,
    steps: Vec<Row>,
}

/// A step of the plan.
#[derive(Serialize)]
struct Row {
    /// Its number in the order of the calls.
    step: usize,
    kernel: String,
    computes: String,
    value: String,
    us: f64,
    /// The shortest time.
    shortest_us: f64,
    /// By the cost model, for one thread; of several calls for a node, the last has it.
    predicted_us: Option<f64>,
    share: f64,
    flops: f64,
    bytes: f64,
    /// The least time that the machine needs; none where not all bytes of the buffers were used.
    floor_us: Option<f64>,
    /// How often it ran; more than once in a loop.
    calls: usize,
    parts: usize,
    origins: Vec<String>,
}

/// Profiles a model and prints a row for each step.
pub fn run(args: Args) -> Result<(), Error> {
    let progress = Progress::start("Importing");
    let ready = Ready::open_for(&args.model, &args.compile, &args.inputs, args.device.device)?;
    let (artifact, predicted) = ready.predicted(!args.no_fuse, &progress)?;
    let predicted = predicted.filter(|_| args.threads == 1);
    progress.phase("Measuring");
    // Floors are those of the processor.
    let machine = if args.device.device == DeviceName::Cpu { Some(machine()?) } else { None };
    let session = ready.session(&artifact, ready.threads(&[args.threads])[0])?;
    let target = ready.in_precision(ran_on(&artifact, &session));
    let inputs = ready.inputs(&session)?;
    let mut side = Side::new(session, ready.named(&inputs))?;
    let (latencies, profiles) = measure::profiled(&mut side, args.min_time)?;
    drop(progress);
    let plan = side.session().plan();
    let work = Work { plan, machine: machine.as_ref(), threads: args.threads };
    let mut report = Report {
        schema: "egret.profile/1",
        model: ready.name().to_string(),
        processor: machine.as_ref().map_or_else(|| target.clone(), |machine| machine.processor.clone()),
        target,
        threads: args.threads,
        runs: profiles.len(),
        latency_us: Latency::of(&latencies).p50 * 1e3,
        shortest_us: latencies.iter().min().map_or(f64::NAN, |time| time.as_secs_f64() * 1e6),
        steps_us: 0.0,
        busy: median(profiles.iter().map(|profile| busy(profile, args.threads))),
        floor_us: None,
        predicted_us: predicted.as_ref().map(|predicted| predicted.total_us),
        steps: rows(&work, &profiles)?,
    };
    if let Some(predicted) = &predicted {
        report.steps.iter_mut().zip(predicted.steps(plan)).for_each(|(row, us)| row.predicted_us = us);
    }
    report.add_up(args.sort);
    if let Some(path) = &args.trace {
        trace::write(path, plan, &typical(profiles).run.spans)?;
    }
    if !args.json.takes_stdout() {
        report::result(report.text())?;
    }
    args.json.json.as_deref().map_or(Ok(()), |path| report::json(path, &report))
}

/// This machine's figures: those that `egret hw` kept, or measured now.
fn machine() -> Result<Machine, Error> {
    if let Some(machine) = Machine::cached() {
        return Ok(machine);
    }
    report::note("the machine is measured first, which takes two seconds; `egret hw` keeps its figures for the next time");
    Machine::measure()
}

/// The run of median length.
fn typical(mut profiles: Vec<Profiled>) -> Profiled {
    profiles.sort_by_key(|profile| profile.time);
    profiles.swap_remove(profiles.len() / 2)
}

fn busy(profile: &Profiled, threads: usize) -> f64 {
    let parts: Duration = profile.run.spans.iter().map(|span| span.end - span.begin).sum();
    parts.as_secs_f64() / (profile.time.as_secs_f64() * threads as f64)
}

/// The median time of each entry of a plan, in microseconds.
pub fn medians_us(profiles: &[Profiled], plan: &Plan) -> Vec<f64> {
    let entries = entries(plan).len();
    let times: Vec<Vec<Duration>> = profiles.iter().map(|profile| step_times(&profile.run.spans, entries)).collect();
    (0..entries).map(|i| median(times.iter().map(|times| times[i].as_secs_f64() * 1e6))).collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A floor above this many times the measured time is none: the figures of the machine are good to some percent.
const ABOVE_FLOOR: f64 = 1.2;

/// A row for each entry: what it does, and how long that took in the runs.
fn rows(work: &Work, profiles: &[Profiled]) -> Result<Vec<Row>, Error> {
    let (entries, Some(run)) = (entries(work.plan), profiles.first()) else { return Ok(vec![]) };
    let times: Vec<Vec<Duration>> = profiles.iter().map(|profile| step_times(&profile.run.spans, entries.len())).collect();
    let row = |(i, (entry, amount)): (usize, (&Entry, Amount))| {
        let each = || times.iter().map(|times| times[i].as_secs_f64() * 1e6);
        let us = median(each());
        let spans = run.run.spans.iter().filter(|span| span.step == i).count();
        Row {
            step: i,
            kernel: entry.kernel.to_string(),
            computes: entry.computes.to_string(),
            value: entry.value.to_string(),
            us,
            shortest_us: each().fold(f64::INFINITY, f64::min),
            predicted_us: None,
            share: 0.0,
            flops: amount.flops,
            bytes: amount.bytes,
            floor_us: amount.floor_us.filter(|floor| *floor <= us * ABOVE_FLOOR),
            calls: amount.calls,
            parts: spans / amount.calls.max(1),
            origins: entry.origins.to_vec(),
        }
    };
    let all = entries.iter().zip(work.amounts(&run.run)?).enumerate().map(row);
    // A branch that was not taken took no time.
    Ok(all.filter(|row| row.calls > 0).collect())
}

impl Report {
    fn add_up(&mut self, sort: Sort) {
        self.steps_us = self.steps.iter().map(|row| row.us).sum();
        let is_known = self.steps.iter().any(|row| row.floor_us.is_some());
        self.floor_us = is_known.then(|| self.steps.iter().map(|row| row.floor_us.unwrap_or(row.us)).sum());
        self.steps.iter_mut().for_each(|row| row.share = row.us / self.steps_us);
        if let Sort::Time = sort {
            self.steps.sort_by(|a, b| b.us.total_cmp(&a.us));
        }
    }

    fn text(&self) -> String {
        let right = ["step", "us", "predicted", "share", "GFLOP/s", "GB/s", "roof", "calls", "parts"].map(|name| (name, Align::Right));
        let left = ["kernel", "computes", "from"].map(|name| (name, Align::Left));
        let header = [&right[..], &left[..]].concat();
        let table = columns(&header, self.steps.iter().map(Row::cells));
        let title = format!("{}, {}, {}, {}", self.model, self.target, plural(self.threads, "thread"), plural(self.runs, "run"));
        format!("{title}\n{table}{}\n", self.total())
    }

    /// How much of the latency the rows explain, and how much of it the machine needs.
    fn total(&self) -> String {
        let ms = |us: f64| milliseconds(us / 1e3);
        let roofline = |us| format!("; the roofline of all steps is {} ms ({})", ms(us), percent(us / self.latency_us));
        let predicted = |us| format!("; predicted were {} ms ({})", ms(us), error_text(us, self.steps_us));
        format!(
            "the steps are {} of the latency: {} of {} ms; kernels ran in {} of it{}{}{}",
            percent(self.steps_us / self.latency_us),
            ms(self.steps_us),
            ms(self.latency_us),
            percent(self.busy),
            if self.threads > 1 { " on each thread" } else { "" },
            self.floor_us.map_or(String::new(), roofline),
            self.predicted_us.map_or(String::new(), predicted),
        )
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        // 10^3 operations per microsecond are 10^9 per second.
        let rate = |count: f64| if count > 0.0 { format!("{:.1}", count / self.us * 1e-3) } else { "-".to_string() };
        let numbers = [
            self.step.to_string(),
            format!("{:.2}", self.us),
            self.predicted_us.map_or("-".to_string(), |us| format!("{us:.2}")),
            percent(self.share),
            rate(self.flops),
            rate(self.bytes),
            self.floor_us.map_or("-".to_string(), |floor| percent(floor / self.us)),
            self.calls.to_string(),
            self.parts.to_string(),
        ];
        numbers.into_iter().chain([self.kernel.clone(), self.computes.clone(), self.origins.join(" ")]).collect()
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}
