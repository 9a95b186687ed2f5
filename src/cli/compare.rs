//! `egret compare`: the same model fused and unfused, measured in turns.
//!
//! ```text
//! $ egret compare examples/models/digits_cnn.onnx --dim batch=1
//! examples/models/digits_cnn.onnx   fused against unfused   znver4, weakest rule reassoc, 1 thread, 2876 runs of each in turns
//!           p50 ms   p99 ms   shortest   predicted   error   kernels    scratch
//! unfused   0.0312    3.287     0.0296      0.0334   +13 %        31   29.0 KiB
//! fused     0.0151   0.0723     0.0129      0.0176   +37 %         9   69.5 KiB
//! speed-up  2.07x  [2.06, 2.12]
//! ```
//!
//! With `--by-rule`, families of rules are switched off one by one; see [`by_rule`].
//!
//! The speed-up is the ratio of the medians; in brackets stands its 95 % confidence interval. `predicted` is what the cost model says
//! of one thread, by which kernels are chosen, and `error` how far the shortest run was from it: what other programs take of
//! the machine is no part of a prediction.

use super::measure::{self, Side};
use super::options::{CompileOptions, DeviceOption, InputOptions, JsonOption, MeasureOptions};
use super::predicted::{Predicted, error_text};
use super::source::Ready;
use super::stats::{Latency, Speedup};
use super::table::{Align, bytes, columns, milliseconds, plural};
use super::{bench, by_rule, progress::Progress, report};
use egret::passes::rules::Class;
use egret::{Artifact, DeviceName, Error};
use serde::Serialize;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// The arguments of `egret compare`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// An .onnx model or a graph as .egir text
    model: PathBuf,
    #[command(flatten)]
    compile: CompileOptions,
    #[command(flatten)]
    inputs: InputOptions,
    #[command(flatten)]
    device: DeviceOption,
    #[command(flatten)]
    measure: MeasureOptions,
    /// Switch off each family of rules and each optional pass in turn, and measure what it gained
    #[arg(long)]
    by_rule: bool,
    #[command(flatten)]
    json: JsonOption,
}

const EXAMPLES: &str = "\
Examples:
  egret compare model.onnx --dim batch=1              fused against unfused
  egret compare model.onnx --threads 1,2 --strict     on one and two threads, with rules that change no bit
  egret compare model.onnx --by-rule --json gains.json   what each family of rules gains";

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    model: String,
    target: String,
    weakest_rule: Option<&'static str>,
    results: Vec<Comparison>,
}

/// Both sides on one number of threads.
#[derive(Serialize)]
struct Comparison {
    threads: usize,
    runs: usize,
    unfused: Measured,
    fused: Measured,
    speedup: f64,
    speedup_low: f64,
    speedup_high: f64,
}

#[derive(Serialize)]
struct Measured {
    p50_ms: f64,
    p99_ms: f64,
    /// The shortest run.
    shortest_ms: f64,
    /// By the cost model; only for one thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted_ms: Option<f64>,
    kernels: usize,
    scratch_bytes: u64,
}

/// Compiles the model both ways, measures, and prints a table for each number of threads.
pub fn run(args: Args) -> Result<(), Error> {
    let progress = Progress::start("Importing");
    let ready = Ready::open_for(&args.model, &args.compile, &args.inputs, args.device.device)?;
    ready.graph("compare fused with unfused")?;
    if args.by_rule && args.device.device != DeviceName::Cpu {
        return Err(Error::Usage("--by-rule measures on the processor; leave --device out".to_string()));
    }
    if args.by_rule {
        return by_rule::run(&ready, &args.measure, &args.json, progress);
    }
    let (unfused, fused) = (ready.predicted(false, &progress)?, ready.predicted(true, &progress)?);
    progress.phase("Measuring");
    let compare = |&threads| compare(&ready, &unfused, &fused, threads, &args);
    let results = ready.threads(&args.measure.threads).iter().map(compare).collect::<Result<Vec<_>, _>>()?;
    drop(progress);
    let (model, target) = (ready.name().to_string(), ready.in_precision(ready.device_or(&fused.0)));
    let weakest_rule = ready.weakest_rule().map(Class::name);
    let report = Report { schema: "egret.compare/1", model, target, weakest_rule, results };
    if !args.json.takes_stdout() {
        let tables: Vec<String> = report.results.iter().map(|result| text(&report, result)).collect();
        report::result(tables.join("\n"))?;
    }
    args.json.json.as_deref().map_or(Ok(()), |path| report::json(path, &report))
}

/// A compiled model with its prediction.
type Built = (Rc<Artifact>, Option<Predicted>);

fn compare(ready: &Ready, unfused: &Built, fused: &Built, threads: usize, args: &Args) -> Result<Comparison, Error> {
    let (before, after) = (ready.session(&unfused.0, threads)?, ready.session(&fused.0, threads)?);
    let inputs = ready.inputs(&before)?;
    let mut before = Side::new(before, ready.named(&inputs))?;
    let mut after = Side::new(after, ready.named(&inputs))?;
    let (befores, afters) = measure::in_turns(&mut before, &mut after, args.measure.min_time)?;
    let speedup = Speedup::of(&befores, &afters);
    let measured = |side: &Side<'_>, built: &Built, latency: &Latency, samples: &[Duration]| Measured {
        p50_ms: latency.p50,
        p99_ms: latency.p99,
        shortest_ms: samples.iter().min().map_or(latency.p50, |time| time.as_secs_f64() * 1e3),
        predicted_ms: built.1.as_ref().filter(|_| threads == 1).map(|predicted| predicted.total_us / 1e3),
        kernels: side.session().plan().calls(),
        scratch_bytes: side.session().arena_bytes(),
    };
    let (slow, fast) = (Latency::of(&befores), Latency::of(&afters));
    bench::warn_of_noise(&fast, threads);
    Ok(Comparison {
        threads,
        runs: befores.len(),
        unfused: measured(&before, unfused, &slow, &befores),
        fused: measured(&after, fused, &fast, &afters),
        speedup: speedup.ratio,
        speedup_low: speedup.low,
        speedup_high: speedup.high,
    })
}

fn text(report: &Report, result: &Comparison) -> String {
    let header = ["", "p50 ms", "p99 ms", "shortest", "predicted", "error", "kernels", "scratch"];
    let header = header.map(|name| (name, if name.is_empty() { Align::Left } else { Align::Right }));
    let row = |name: &str, side: &Measured| {
        let (p50, p99) = (milliseconds(side.p50_ms), milliseconds(side.p99_ms));
        let predicted = side.predicted_ms.map_or_else(|| "-".to_string(), milliseconds);
        let error = side.predicted_ms.map_or_else(|| "-".to_string(), |ms| error_text(ms, side.shortest_ms));
        let shortest = milliseconds(side.shortest_ms);
        vec![name.to_string(), p50, p99, shortest, predicted, error, side.kernels.to_string(), bytes(side.scratch_bytes)]
    };
    let table = columns(&header, [row("unfused", &result.unfused), row("fused", &result.fused)]);
    format!(
        "{}   fused against unfused   {}, {}, {}, {} of each in turns\n{table}speed-up  {:.2}x  [{:.2}, {:.2}]\n",
        report.model,
        report.target,
        report.weakest_rule.map_or_else(|| "no rules applied".to_string(), |class| format!("weakest rule {class}")),
        plural(result.threads, "thread"),
        plural(result.runs, "run"),
        result.speedup,
        result.speedup_low,
        result.speedup_high,
    )
}
