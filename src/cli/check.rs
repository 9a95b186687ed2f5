//! `egret check`: what keeps a model from being compiled, all at once; then compiled code against the reference evaluator.
//!
//! ```text
//! $ egret check examples/models/digits_cnn.onnx --dim batch=4
//! output   type         code      largest error   over std   relative
//! logits   f32[4, 10]   fused          7.15e-7    5.87e-7    2.86e-7   ok
//! logits   f32[4, 10]   unfused        9.54e-7    7.82e-7    3.82e-7   ok
//! weakest rule reassoc
//! ```
//!
//! - `largest error` is the largest absolute difference of two elements.
//! - `over std` is that over the standard deviation of the reference output: how much of what the output says is lost.
//! - `relative` is that over the largest magnitude of the reference output.
//!
//! With `--per-rewrite`, each application of a rule is replayed alone; see [`rewrites`].
//!
//! An output passes when `over std` is within the tolerance, or, if all elements of the reference are the same, `relative`. The reference
//! is evaluated in the model's own precision, whatever `--precision` says.

use super::options::{CompileOptions, DeviceOption, InputOptions, JsonOption, parse_threads, tolerance};
use super::source::Ready;
use super::table::{Align, columns};
use super::{progress::Progress, report, rewrites};
use egret::passes::rules::Class;
use egret::{Error, ir};
use serde::Serialize;
use std::path::PathBuf;

/// The arguments of `egret check`.
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
    /// Largest error that passes, over the standard deviation of the reference output; 1e-4, in bf16 0.3, in f16 and tf32 0.04
    #[arg(long, value_name = "E", value_parser = parse_tolerance)]
    tolerance: Option<f64>,
    /// Replay each rewrite that was applied, alone and on random data, against the reference evaluator instead
    #[arg(long)]
    per_rewrite: bool,
    /// Threads to run on
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_threads)]
    threads: usize,
    #[command(flatten)]
    json: JsonOption,
}

const EXAMPLES: &str = "\
Examples:
  egret check model.onnx --dim batch=4             compiled code against the reference, fused and unfused
  egret check model.onnx --strict --tolerance 1e-6 the same with rules that change no bit
  egret check model.onnx --per-rewrite             every application of a rule, alone";

/// An error as `--tolerance` takes it.
pub fn parse_tolerance(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(tolerance) if tolerance >= 0.0 => Ok(tolerance),
        _ => Err("expected a number from 0, such as 1e-4".to_string()),
    }
}

const SCHEMA: &str = "egret.check/1";

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    model: String,
    target: String,
    tolerance: f64,
    passed: bool,
    /// The weakest class of rules that were applied.
    weakest_rule: Option<&'static str>,
    /// What keeps the model from being compiled; there are outputs only if there is nothing.
    problems: Vec<String>,
    outputs: Vec<Compared>,
}

/// One output of one way to compile, against the reference. A number that is not finite is `null` in JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    name: String,
    #[serde(rename = "type")]
    ty: String,
    fused: bool,
    max_abs_error: f64,
    error_over_std: f64,
    relative_error: f64,
    /// Whether all elements of the reference are the same, so that `error_over_std` says nothing.
    #[serde(skip)]
    constant: bool,
    passed: bool,
}

/// Imports, evaluates, compiles both ways, compares.
pub fn run(args: Args) -> Result<(), Error> {
    if args.per_rewrite {
        return rewrites::run(&args.model, &args.compile, &args.inputs, &args.json);
    }
    let result = compare(&args);
    if let (Err(Error::Unsupported(problems)), Some(path)) = (&result, &args.json.json) {
        report::json(path, &Report::refused(&args, problems))?;
    }
    let report = result?;
    if !args.json.takes_stdout() {
        let rule = report.weakest_rule.map_or_else(|| "no rules applied".to_string(), |class| format!("weakest rule {class}"));
        report::result(text(&report.outputs) + &rule)?;
    }
    if let Some(path) = &args.json.json {
        report::json(path, &report)?;
    }
    verdict(&report)
}

fn compare(args: &Args) -> Result<Report, Error> {
    let progress = Progress::start("Importing");
    let ready = Ready::open_for(&args.model, &args.compile, &args.inputs, args.device.device)?;
    let graph = ready.graph("check a model")?;
    let (fused, unfused) = (ready.artifact(true, &progress)?, ready.artifact(false, &progress)?);
    let inputs = ready.inputs(&ready.session(&fused, args.threads)?)?;
    progress.phase("Evaluating the reference");
    let expected = egret::evaluate(graph, &inputs)?;
    progress.phase("Running");
    let tolerance = tolerance(args.tolerance, args.compile.precision);
    let mut outputs = Vec::new();
    for (artifact, is_fused) in [(&fused, true), (&unfused, false)] {
        let found = ready.session(artifact, args.threads)?.run(&ready.named(&inputs))?;
        let compared = artifact.plan().outputs.iter().zip(&expected).zip(&found);
        outputs.extend(
            compared.map(|((port, expected), found)| Compared::new(&port.name, is_fused, expected, &egret::to_ir(found), tolerance)),
        );
    }
    Ok(Report {
        schema: SCHEMA,
        model: ready.name().to_string(),
        target: ready.in_precision(fused.target().cpu.clone()),
        tolerance,
        passed: outputs.iter().all(|output| output.passed),
        weakest_rule: ready.weakest_rule().map(Class::name),
        problems: Vec::new(),
        outputs,
    })
}

impl Report {
    /// The report on a model that cannot be compiled. Problems are separated by empty lines.
    fn refused(args: &Args, problems: &str) -> Report {
        Report {
            schema: SCHEMA,
            model: args.model.display().to_string(),
            target: args.compile.target.clone(),
            tolerance: tolerance(args.tolerance, args.compile.precision),
            passed: false,
            weakest_rule: None,
            problems: problems.split("\n\n").map(String::from).collect(),
            outputs: Vec::new(),
        }
    }
}

fn verdict(report: &Report) -> Result<(), Error> {
    let failed: Vec<String> = report
        .outputs
        .iter()
        .filter(|output| !output.passed)
        .map(|output| format!("`{}` ({})", output.name, fusion(output.fused)))
        .collect();
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Error::Check(format!("further than {:e} from the reference: {}", report.tolerance, failed.join(", ")))),
    }
}

fn fusion(fused: bool) -> &'static str {
    if fused { "fused" } else { "unfused" }
}

fn text(outputs: &[Compared]) -> String {
    let header = ["output", "type", "code", "largest error", "over std", "relative", ""];
    let is_number = |name: &str| matches!(name, "largest error" | "over std" | "relative");
    let header = header.map(|name| (name, if is_number(name) { Align::Right } else { Align::Left }));
    let row = |output: &Compared| {
        let over_std = Some(output.error_over_std).filter(|_| !output.constant);
        let errors = [Some(output.max_abs_error), over_std, Some(output.relative_error)];
        let mut cells = vec![output.name.clone(), output.ty.clone(), fusion(output.fused).to_string()];
        cells.extend(errors.map(|error| error.map_or("-".to_string(), |error| format!("{error:.2e}"))));
        cells.push(if output.passed { "ok" } else { "FAILED" }.to_string());
        cells
    };
    columns(&header, outputs.iter().map(row))
}

impl Compared {
    /// The output `name` of fused or unfused code beside the reference.
    pub fn new(name: &str, fused: bool, expected: &ir::Tensor, found: &ir::Tensor, tolerance: f64) -> Compared {
        let (expected_values, found_values) = values(expected, found);
        let distance = Distance::between(&expected_values, &found_values);
        let same_type = expected.dtype() == found.dtype() && expected.shape() == found.shape();
        Compared {
            name: name.to_string(),
            ty: found.ty().to_string(),
            fused,
            max_abs_error: distance.absolute,
            error_over_std: distance.over_std,
            relative_error: distance.relative,
            constant: distance.constant,
            passed: same_type && distance.is_within(tolerance),
        }
    }

    /// Whether it is within the tolerance.
    pub fn has_passed(&self) -> bool {
        self.passed
    }

    /// The error that the tolerance bounds.
    pub fn error(&self) -> f64 {
        if self.constant { self.relative_error } else { self.error_over_std }
    }
}

/// The numbers to compare; strings are 0 where they are right and infinite where they are not.
fn values(expected: &ir::Tensor, found: &ir::Tensor) -> (Vec<f64>, Vec<f64>) {
    if expected.dtype() != ir::DType::Str {
        return (expected.to_f64s(), found.to_f64s());
    }
    let differs = |(expected, found)| if expected == found { 0.0 } else { f64::INFINITY };
    (vec![0.0; expected.count()], expected.elements().zip(found.elements()).map(differs).collect())
}

/// Numbers that deviate by no more than this share of their magnitude are the same but for rounding: ten f32 roundings.
const ROUNDING: f64 = 10.0 * f32::EPSILON as f64;

/// How far two lists of numbers are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Distance {
    /// Largest difference of two elements; infinite where only one of them is a number, or the infinities differ.
    absolute: f64,
    /// Over the standard deviation of the first list.
    over_std: f64,
    /// Over the largest finite magnitude of the first list.
    relative: f64,
    /// Whether all finite elements of the first list are equal but for rounding, so that `over_std` says nothing.
    constant: bool,
}

impl Distance {
    fn between(expected: &[f64], found: &[f64]) -> Distance {
        let differences = expected.iter().zip(found).map(|(&expected, &found)| difference(expected, found));
        let unequal = if expected.len() == found.len() { 0.0 } else { f64::INFINITY };
        let absolute = differences.fold(unequal, f64::max);
        let finite = || expected.iter().copied().filter(|value| value.is_finite());
        let count = finite().count().max(1) as f64;
        let mean = finite().sum::<f64>() / count;
        let std = (finite().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
        let magnitude = finite().fold(0.0, |most, value| f64::max(most, value.abs()));
        let constant = std <= magnitude * ROUNDING;
        Distance { absolute, over_std: ratio(absolute, std), relative: ratio(absolute, magnitude), constant }
    }

    fn is_within(&self, tolerance: f64) -> bool {
        let error = if self.constant { self.relative } else { self.over_std };
        error <= tolerance
    }
}

fn difference(expected: f64, found: f64) -> f64 {
    match expected == found || (expected.is_nan() && found.is_nan()) {
        true => 0.0,
        false if expected.is_finite() && found.is_finite() => (expected - found).abs(),
        false => f64::INFINITY,
    }
}

/// No error is none, whatever it is measured against.
fn ratio(error: f64, scale: f64) -> f64 {
    if error == 0.0 { 0.0 } else { error / scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expected: &[f64], found: &[f64], absolute: f64, passes: bool) {
        let distance = Distance::between(expected, found);
        assert_eq!(distance.absolute, absolute, "{distance:?}");
        assert_eq!(distance.is_within(1e-4), passes, "{distance:?}");
    }

    #[test]
    fn errors_are_measured_against_what_the_output_says() {
        check(&[1.0, -1.0], &[1.0, -1.0], 0.0, true);
        check(&[1.0, -1.0], &[1.0, -1.5], 0.5, false);
        check(&[1e6, -1e6], &[1e6, -1e6 + 1.0], 1.0, true);
        // The same error is large where the output varies little around a large mean.
        check(&[1e3, 1e3 + 1.0], &[1e3, 1e3 + 2.0], 1.0, false);
    }

    #[test]
    fn constant_outputs_are_measured_against_their_magnitude() {
        check(&[0.1; 1000], &[0.1 + 2f64.powi(-20); 1000], (0.1 + 2f64.powi(-20)) - 0.1, true);
        check(&[0.1; 1000], &[0.2; 1000], 0.1, false);
        check(&[0.0; 4], &[0.0; 4], 0.0, true);
        check(&[0.0; 4], &[1e-9; 4], 1e-9, false);
        check(&[], &[], 0.0, true);
    }

    #[test]
    fn strings_are_equal_or_wrong() {
        let strings = |texts: &[&str]| ir::Tensor::from_texts(vec![texts.len()], texts).unwrap();
        let passes = |found: &[&str]| Compared::new("y", true, &strings(&["a", "b"]), &strings(found), 0.5).has_passed();
        assert_eq!([passes(&["a", "b"]), passes(&["a", "c"]), passes(&["a"])], [true, false, false]);
    }

    #[test]
    fn what_is_not_finite_must_be_equal() {
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        check(&[inf, nan, 1.0, 2.0], &[inf, nan, 1.0, 2.0], 0.0, true);
        check(&[1.0, 2.0], &[1.0, nan], inf, false);
        check(&[1.0, nan], &[1.0, 2.0], inf, false);
        check(&[1.0, inf], &[1.0, -inf], inf, false);
        check(&[1.0, 2.0], &[1.0], inf, false);
    }
}
