//! `egret bisect`: the first rule or pass whose application makes compiled code wrong.
//!
//! Applications of rules and optional passes are numbered, always in the same way. The model is compiled with the first `n` of
//! them, run, and compared with the reference evaluator; halving finds the `n` at which the outputs leave the tolerance.
//!
//! ```text
//! $ egret bisect model.onnx
//! applied      largest error
//! 0 of 120           1.2e-7    ok
//! 120 of 120         3.4e-1    FAILED
//! 60 of 120          1.2e-7    ok
//! ...
//! first broken by application 71 of 120: rule `conv_scale`
//! replayed alone, `conv_scale` is further from the reference than its class allows
//! without `conv_scale` the largest error is 1.2e-7: ok
//! ```
//!
//! What a wrong rule says may be used only when a right one has made it cheap, later. So all that was applied up to there is
//! replayed alone too (see [`rewrites`](super::rewrites)), and left out in turn until everything is right.

use super::check::{Compared, parse_tolerance};
use super::options::{CompileOptions, InputOptions, JsonOption, parse_threads, tolerance};
use super::source::Ready;
use super::table::{Align, columns};
use super::{progress::Progress, report};
use egret::passes::Applied;
use egret::passes::replay::{Applications, replay};
use egret::{Artifact, Compiler, Error, Graph, Tensor, ir};
use serde::Serialize;
use std::path::PathBuf;

/// The arguments of `egret bisect`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// An .onnx model or a graph as .egir text
    model: PathBuf,
    #[command(flatten)]
    compile: CompileOptions,
    #[command(flatten)]
    inputs: InputOptions,
    /// Largest error that is right, over the standard deviation of the reference output
    #[arg(long, value_name = "E", value_parser = parse_tolerance)]
    tolerance: Option<f64>,
    /// Threads to run on
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_threads)]
    threads: usize,
    #[command(flatten)]
    json: JsonOption,
}

const EXAMPLES: &str = "\
Examples:
  egret bisect model.onnx                             what `egret check` says is wrong
  egret bisect model.onnx --input x=x.npy             on the input that shows it
  egret bisect model.onnx --disable-rules silu        what else is wrong, once that rule is known";

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    model: String,
    tolerance: f64,
    /// How many applications there are.
    applications: usize,
    /// What was tried, in that order.
    trials: Vec<Trial>,
    /// The first application with which the outputs are wrong; absent if they never are.
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<Culprit>,
}

/// The model compiled with the first few applications.
#[derive(Clone, Serialize)]
struct Trial {
    applied: usize,
    /// `null` if it is not finite, or there is no code.
    error: f64,
    passed: bool,
    /// Why there are no outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    #[serde(skip)]
    last: Option<Applied>,
    #[serde(skip)]
    fired: Vec<String>,
}

#[derive(Serialize)]
struct Culprit {
    application: usize,
    name: String,
    /// The rules applied up to there that do not hold when they are replayed alone.
    refuted: Vec<&'static str>,
    /// What can be left out so that the outputs are right, and the largest error then.
    #[serde(skip_serializing_if = "Option::is_none")]
    without: Option<(String, f64)>,
}

/// Everything that a trial needs.
struct Bench<'a> {
    graph: &'a Graph,
    ready: &'a Ready,
    inputs: Vec<Tensor>,
    expected: Vec<ir::Tensor>,
    tolerance: f64,
    threads: usize,
}

/// Halves, and prints every trial and what it found.
pub fn run(args: Args) -> Result<(), Error> {
    let progress = Progress::start("Importing");
    let ready = Ready::open(&args.model, &args.compile, &args.inputs)?;
    let graph = ready.graph("look for a wrong rewrite")?;
    progress.phase("Evaluating the reference");
    let inputs = ready.inputs(&ready.compiler(true).limit(0).compile_graph(graph)?.session(args.threads)?)?;
    let expected = egret::evaluate(graph, &inputs)?;
    progress.phase("Halving");
    let tolerance = tolerance(args.tolerance, args.compile.precision);
    let bench = Bench { graph, ready: &ready, inputs, expected, tolerance, threads: args.threads };
    let (trials, first) = bench.halve()?;
    drop(progress);
    let applications = trials[0].applied;
    let report = Report { schema: "egret.bisect/1", model: ready.name().to_string(), tolerance, applications, trials, first };
    if !args.json.takes_stdout() {
        report::result(text(&report))?;
    }
    if let Some(path) = &args.json.json {
        report::json(path, &report)?;
    }
    verdict(&report)
}

impl Bench<'_> {
    /// All trials, everything applied first, and what was found.
    fn halve(&self) -> Result<(Vec<Trial>, Option<Culprit>), Error> {
        let compiler = self.ready.compiler(true);
        let mut trials = vec![self.trial(&compiler)?];
        let (mut wrong, mut right) = (trials[0].clone(), 0);
        if wrong.passed {
            return Ok((trials, None));
        }
        trials.push(self.trial(&compiler.clone().limit(0))?);
        if !trials[1].passed {
            return Ok((trials, None));
        }
        while wrong.applied - right > 1 {
            let trial = self.trial(&compiler.clone().limit((right + wrong.applied) / 2))?;
            trials.push(trial.clone());
            if trial.passed { right = trial.applied } else { wrong = trial }
        }
        let name = wrong.last.map_or_else(String::new, |last| last.to_string());
        let refuted = self.refuted(&compiler.clone().limit(wrong.applied))?;
        let without = self.without(&compiler, &wrong, &refuted)?;
        Ok((trials, Some(Culprit { application: wrong.applied, name, refuted, without })))
    }

    /// The rules that do not hold when their applications are replayed alone.
    fn refuted(&self, compiler: &Compiler) -> Result<Vec<&'static str>, Error> {
        let mut context = compiler.context()?;
        context.applications = Some(Applications::default());
        // A pass that fails has kept what was applied before.
        let _ = compiler.optimise_in(self.graph, &context);
        let mut refuted = vec![];
        for application in context.applications.unwrap_or_default().take() {
            let is_wrong = replay(&application, 0).is_ok_and(|replayed| !replayed.holds);
            if is_wrong && !refuted.contains(&application.rule) {
                refuted.push(application.rule);
            }
        }
        Ok(refuted)
    }

    /// What can be left out so that the rest is right: a rule that was refuted, what was found, or a rule applied before it.
    fn without(&self, compiler: &Compiler, wrong: &Trial, refuted: &[&'static str]) -> Result<Option<(String, f64)>, Error> {
        let mut tried: Vec<&str> = vec![];
        let fired = wrong.fired.iter().rev().map(String::as_str);
        for name in refuted.iter().copied().chain(wrong.last.map(Applied::name)).chain(fired) {
            if tried.contains(&name) {
                continue;
            }
            tried.push(name);
            let trial = self.trial(&compiler.clone().disable(name))?;
            if trial.passed {
                return Ok(Some((name.to_string(), trial.error)));
            }
        }
        Ok(None)
    }

    /// Compiles, runs, compares. A pass that fails, or a graph that has no kernels, is as wrong as a wrong number.
    fn trial(&self, compiler: &Compiler) -> Result<Trial, Error> {
        let context = compiler.context()?;
        let mut trial = Trial { applied: 0, error: f64::INFINITY, passed: false, failure: None, last: None, fired: vec![] };
        let outcome = compiler.optimise_in(self.graph, &context).and_then(|(grouped, reports)| {
            trial.fired = reports.into_iter().flat_map(|report| report.fired.into_keys()).collect();
            self.outputs(&compiler.generate(&grouped)?)
        });
        (trial.applied, trial.last) = (context.limit.applied(), context.limit.last());
        match outcome {
            Ok(outputs) => {
                trial.passed = outputs.iter().all(Compared::has_passed);
                trial.error = outputs.iter().map(Compared::error).fold(0.0, f64::max);
            }
            Err(error @ (Error::Unsupported(_) | Error::Bug(_))) => trial.failure = Some(error.to_string()),
            Err(error) => return Err(error),
        }
        Ok(trial)
    }

    fn outputs(&self, artifact: &Artifact) -> Result<Vec<Compared>, Error> {
        let found = artifact.session(self.threads)?.run(&self.ready.named(&self.inputs))?;
        let named = artifact.plan().outputs.iter().zip(&self.expected).zip(&found);
        let compared = named.map(|((port, expected), found)| {
            Compared::new(&port.name, artifact.is_fused(), expected, &egret::to_ir(found), self.tolerance)
        });
        Ok(compared.collect())
    }
}

fn text(report: &Report) -> String {
    let header = [("applied", Align::Left), ("largest error", Align::Right), ("", Align::Left)];
    let row = |trial: &Trial| {
        let verdict = if trial.passed { "ok" } else { "FAILED" };
        let verdict = trial.failure.as_ref().map_or_else(|| verdict.to_string(), |failure| format!("FAILED: {failure}"));
        vec![format!("{} of {}", trial.applied, report.applications), format!("{:.2e}", trial.error), verdict]
    };
    let table = columns(&header, report.trials.iter().map(row));
    let Some(Culprit { application, name, refuted, without }) = &report.first else { return table };
    let refuted = refuted.iter().map(|rule| format!("replayed alone, `{rule}` is further from the reference than its class allows\n"));
    let refuted: String = refuted.collect();
    let without = match without {
        Some((name, error)) => format!("without `{name}` the largest error is {error:.2e}: ok"),
        None => "more than one thing is wrong: no single rule can be left out to mend it".to_string(),
    };
    format!("{table}first broken by application {application} of {}: {name}\n{refuted}{without}\n", report.applications)
}

fn verdict(report: &Report) -> Result<(), Error> {
    let tolerance = report.tolerance;
    match (&report.first, report.trials[0].passed) {
        (Some(first), _) => Err(Error::Check(format!("further than {tolerance:e} from the reference since {}", first.name))),
        (None, true) => Ok(()),
        (None, false) => Err(Error::Check(format!(
            "further than {tolerance:e} from the reference even when nothing is applied: \
             the fault is in the import, in a pass that is always run (see `egret list passes`) or in a kernel"
        ))),
    }
}
