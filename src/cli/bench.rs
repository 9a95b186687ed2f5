//! `egret bench`: how long a run takes.
//!
//! ```text
//! $ egret bench examples/models/digits_cnn.onnx --threads 1,2 --min-time 300ms
//! examples/models/digits_cnn.onnx, znver4, weakest rule reassoc
//! threads   fused    runs   p50 ms   p90 ms   p99 ms   mean ms
//!       1   yes      9847   0.0263   0.0265   0.0442    0.0305
//!       2   yes     10444   0.0269   0.0270   0.0419    0.0287
//! ```

use super::measure::{self, Side};
use super::options::{CompileOptions, DeviceOption, InputOptions, JsonOption, MeasureOptions};
use super::source::{Ready, ran_on};
use super::stats::Latency;
use super::table::{Align, columns, milliseconds};
use super::{progress::Progress, report};
use egret::Error;
use egret::passes::rules::Class;
use serde::Serialize;
use std::path::PathBuf;

/// The arguments of `egret bench`.
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
    #[command(flatten)]
    measure: MeasureOptions,
    /// Compile every op to a kernel of its own
    #[arg(long)]
    no_fuse: bool,
    #[command(flatten)]
    json: JsonOption,
}

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    model: String,
    target: String,
    /// The weakest class of rules that were applied; absent for a compiled file.
    #[serde(skip_serializing_if = "Option::is_none")]
    weakest_rule: Option<&'static str>,
    results: Vec<Row>,
}

/// The latency of one configuration, as JSON.
#[derive(Clone, Serialize)]
struct Row {
    threads: usize,
    fused: bool,
    runs: usize,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    mean_ms: f64,
}

impl Row {
    fn new(threads: usize, fused: bool, latency: &Latency) -> Row {
        Row { threads, fused, runs: latency.runs, p50_ms: latency.p50, p90_ms: latency.p90, p99_ms: latency.p99, mean_ms: latency.mean }
    }
}

/// Measures each number of threads and prints a row for each.
pub fn run(args: Args) -> Result<(), Error> {
    let progress = Progress::start("Importing");
    let ready = Ready::open_for(&args.model, &args.compile, &args.inputs, args.device.device)?;
    let artifact = ready.artifact(!args.no_fuse, &progress)?;
    progress.phase("Measuring");
    let (mut results, mut target) = (Vec::new(), String::new());
    for &threads in ready.threads(&args.measure.threads) {
        let session = ready.session(&artifact, threads)?;
        target = ran_on(&artifact, &session);
        let inputs = ready.inputs(&session)?;
        let mut side = Side::new(session, ready.named(&inputs))?;
        let latency = Latency::of(&measure::alone(&mut side, args.measure.min_time)?);
        warn_of_noise(&latency, threads);
        results.push(Row::new(threads, artifact.is_fused(), &latency));
    }
    drop(progress);
    let (model, target) = (ready.name().to_string(), ready.in_precision(target));
    let weakest_rule = ready.weakest_rule().map(Class::name);
    let report = Report { schema: "egret.bench/1", model, target, weakest_rule, results };
    if !args.json.takes_stdout() {
        report::result(text(&report))?;
    }
    args.json.json.as_deref().map_or(Ok(()), |path| report::json(path, &report))
}

/// Warns where the spread of the samples makes small differences meaningless.
pub fn warn_of_noise(latency: &Latency, threads: usize) {
    if let Some(spread) = latency.noise() {
        report::warning(format_args!(
            "this machine is noisy ({threads} threads: one run in ten takes {:.0} % longer than the median); \
             end other programs, or measure longer with --min-time",
            spread * 100.0
        ));
    }
}

fn text(report: &Report) -> String {
    let header = ["threads", "fused", "runs", "p50 ms", "p90 ms", "p99 ms", "mean ms"];
    let header = header.map(|name| (name, if name == "fused" { Align::Left } else { Align::Right }));
    let row = |row: &Row| {
        let times = [row.p50_ms, row.p90_ms, row.p99_ms, row.mean_ms].map(milliseconds);
        let fused = if row.fused { "yes" } else { "no" };
        let mut cells = vec![row.threads.to_string(), fused.to_string(), row.runs.to_string()];
        cells.extend(times);
        cells
    };
    let table = columns(&header, report.results.iter().map(row));
    let rule = report.weakest_rule.map_or_else(String::new, |class| format!(", weakest rule {class}"));
    format!("{}, {}{rule}\n{table}", report.model, report.target)
}
