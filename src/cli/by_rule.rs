//! `egret compare --by-rule`: what each family of rules, and each optional pass, gains on this model.
//!
//! The model is compiled once with everything and once without each family whose rules were applied; all of them are measured
//! in turns. A gain of 1.10x says that a run takes 1.10 times as long without the family.
//!
//! ```text
//! $ egret compare examples/models/digits_vit.onnx --dim batch=1 --by-rule
//! examples/models/digits_vit.onnx   what each family gains   znver4, 1 thread, 3814 runs of each in turns
//! left out    applied   kernels   p50 ms   gain
//! nothing                    18   0.0209
//! folding           2        20   0.0210   1.01x  [1.00, 1.01]
//! attention        16        26   0.0211   1.01x  [1.01, 1.01]
//! rewrite           1        26   0.0222   1.06x  [1.06, 1.06]
//! group             1        46   0.0215   1.03x  [1.02, 1.03]
//! not applied: definitions, algebra, idioms, conditions, rotary
//! the same code without: movement, cse, algorithm, halo
//! ```

use super::measure::{self, Side};
use super::options::{JsonOption, MeasureOptions};
use super::progress::Progress;
use super::report;
use super::source::Ready;
use super::stats::{Latency, Speedup};
use super::table::{Align, columns, milliseconds, plural};
use egret::passes::{PassManager, Report as PassReport, rules};
use egret::{Artifact, Error};
use serde::Serialize;
use std::collections::BTreeSet;
use std::rc::Rc;

/// A family is called slower only when it surely loses more than this share: less is where code happens to lie in memory.
const MARGIN: f64 = 0.01;

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    model: String,
    target: String,
    results: Vec<Measured>,
    /// Families and passes that did nothing to this model.
    not_applied: Vec<String>,
    /// Those that did something, but without which the code is the same.
    same_code: Vec<String>,
}

/// All families on one number of threads.
#[derive(Serialize)]
struct Measured {
    threads: usize,
    runs: usize,
    kernels: usize,
    p50_ms: f64,
    families: Vec<Gain>,
}

#[derive(Serialize)]
struct Gain {
    name: String,
    /// How often its rules were applied, or the pass was run.
    applied: usize,
    kernels: usize,
    p50_ms: f64,
    gain: f64,
    gain_low: f64,
    gain_high: f64,
}

/// What can be left out, and how often its rules were applied or the pass was run.
struct Family {
    name: &'static str,
    applied: usize,
}

/// A family, and the model compiled without it.
struct Without {
    family: Family,
    artifact: Rc<Artifact>,
}

/// Compiles without each family, measures, prints a table for each number of threads.
pub fn run(ready: &Ready, measure: &MeasureOptions, json: &JsonOption, progress: Progress) -> Result<(), Error> {
    let (whole, reports) = ready.compiled(&ready.compiler(true), &progress)?;
    let (mut without, mut not_applied, mut same_code) = (vec![], vec![], vec![]);
    for family in families(&ready.compiler(true).passes()?, &reports) {
        if family.applied == 0 {
            not_applied.push(family.name.to_string());
            continue;
        }
        let (artifact, _) = ready.compiled(&ready.compiler(true).disable(family.name), &progress)?;
        match artifact.bytes() == whole.bytes() {
            true => same_code.push(family.name.to_string()),
            false => without.push(Without { family, artifact }),
        }
    }
    progress.phase("Measuring");
    let results = measure.threads.iter().map(|&threads| measured(ready, &whole, &without, threads, measure));
    let results = results.collect::<Result<Vec<_>, _>>()?;
    drop(progress);
    let (model, target) = (ready.name().to_string(), whole.target().cpu.clone());
    let report = Report { schema: "egret.compare-by-rule/1", model, target, results, not_applied, same_code };
    if !json.takes_stdout() {
        report::result(text(&report))?;
    }
    report.results.iter().for_each(warn_of_losses);
    json.json.as_deref().map_or(Ok(()), |path| report::json(path, &report))
}

/// The families of rules, then the optional passes, each once.
fn families(passes: &PassManager, reports: &[PassReport]) -> Vec<Family> {
    let fired = |name: &str| reports.iter().filter_map(|report| report.fired.get(name)).sum::<usize>();
    let mut families: Vec<Family> = vec![];
    for rules::Family { name, rules, .. } in rules::families() {
        let names: BTreeSet<&str> = rules.iter().map(|rule| rule.name).collect();
        families.push(Family { name, applied: names.into_iter().map(fired).sum() });
    }
    for pass in passes.passes().iter().filter(|pass| pass.is_optional()) {
        if !families.iter().any(|family| family.name == pass.name) {
            families.push(Family { name: pass.name, applied: reports.iter().filter(|report| report.pass == pass.name).count() });
        }
    }
    families
}

fn measured(ready: &Ready, whole: &Artifact, without: &[Without], threads: usize, options: &MeasureOptions) -> Result<Measured, Error> {
    let session = whole.session(threads)?;
    let inputs = ready.inputs(&session)?;
    let mut sides = vec![Side::new(session, ready.named(&inputs))?];
    for Without { artifact, .. } in without {
        sides.push(Side::new(artifact.session(threads)?, ready.named(&inputs))?);
    }
    let samples = measure::all_in_turns(&mut sides.iter_mut().collect::<Vec<_>>(), options.min_time)?;
    let gain = |(without, samples_without): (&Without, &Vec<_>)| {
        let gain = Speedup::of(samples_without, &samples[0]);
        Gain {
            name: without.family.name.to_string(),
            applied: without.family.applied,
            kernels: without.artifact.plan().calls(),
            p50_ms: Latency::of(samples_without).p50,
            gain: gain.ratio,
            gain_low: gain.low,
            gain_high: gain.high,
        }
    };
    let latency = Latency::of(&samples[0]);
    super::bench::warn_of_noise(&latency, threads);
    Ok(Measured {
        threads,
        runs: latency.runs,
        kernels: whole.plan().calls(),
        p50_ms: latency.p50,
        families: without.iter().zip(&samples[1..]).map(gain).collect(),
    })
}

fn warn_of_losses(result: &Measured) {
    for family in result.families.iter().filter(|family| family.gain_high < 1.0 - MARGIN) {
        report::warning(format_args!(
            "`{}` makes this model slower on {}: {:.2}x [{:.2}, {:.2}]; leave it out with --disable-rules {}",
            family.name,
            plural(result.threads, "thread"),
            family.gain,
            family.gain_low,
            family.gain_high,
            family.name,
        ));
    }
}

fn text(report: &Report) -> String {
    let tables: Vec<String> = report.results.iter().map(|result| table(report, result)).collect();
    let line = |title: &str, names: &[String]| match names.is_empty() {
        true => String::new(),
        false => format!("{title}: {}\n", names.join(", ")),
    };
    tables.join("\n") + &line("not applied", &report.not_applied) + &line("the same code without", &report.same_code)
}

fn table(report: &Report, result: &Measured) -> String {
    let header = ["left out", "applied", "kernels", "p50 ms", "gain"];
    let header = header.map(|name| (name, if matches!(name, "left out" | "gain") { Align::Left } else { Align::Right }));
    let nothing = vec!["nothing".to_string(), String::new(), result.kernels.to_string(), milliseconds(result.p50_ms), String::new()];
    let row = |family: &Gain| {
        let gain = format!("{:.2}x  [{:.2}, {:.2}]", family.gain, family.gain_low, family.gain_high);
        vec![family.name.clone(), family.applied.to_string(), family.kernels.to_string(), milliseconds(family.p50_ms), gain]
    };
    format!(
        "{}   what each family gains   {}, {}, {} of each in turns\n{}",
        report.model,
        report.target,
        plural(result.threads, "thread"),
        plural(result.runs, "run"),
        columns(&header, std::iter::once(nothing).chain(result.families.iter().map(row)))
    )
}
