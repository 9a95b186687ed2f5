//! `egret check --per-rewrite`: what each rule said of this model, replayed alone.
//!
//! Every application of a rule is cut out of the graph with the shapes and constants it had there; both sides are evaluated on
//! random data by the reference evaluator. Applications to the same ops on the same types are replayed once.
//!
//! ```text
//! $ egret check examples/models/digits_vit.onnx --dim batch=2 --per-rewrite
//! rule                class     applied   replayed    ulp   relative   allowed
//! attention_scaled    reassoc         2          1   1.00    1.19e-7   200 ulp of the largest   ok
//! ...
//! ```
//!
//! - `ulp` is the largest difference in units of the last place of the larger of the value and 1.
//! - `relative` is the largest difference relative to the largest element, or to 1 if all are smaller.

use super::options::{CompileOptions, InputOptions, JsonOption};
use super::source::Ready;
use super::table::{Align, columns, plural};
use super::{progress::Progress, report};
use egret::Error;
use egret::ir::text::{Options, print};
use egret::passes::replay::{Application, Applications, replay};
use egret::passes::rules::{Class, proof};
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    model: String,
    passed: bool,
    rules: Vec<Row>,
}

/// What came of all applications of a rule. A number that is not finite is `null` in JSON.
#[derive(Serialize)]
struct Row {
    rule: &'static str,
    class: &'static str,
    /// How often it was applied.
    applied: usize,
    /// On how many different lists of types that was replayed.
    replayed: usize,
    ulps: f64,
    relative: f64,
    allowed: String,
    passed: bool,
    /// Why applications could not be replayed, each reason once.
    not_replayed: Vec<String>,
    /// The first application that is beyond the tolerance, as graphs of the left and the right side.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<[String; 2]>,
}

/// Rewrites the model, replays, prints a line for each rule.
pub fn run(model: &Path, compile: &CompileOptions, inputs: &InputOptions, json: &JsonOption) -> Result<(), Error> {
    let progress = Progress::start("Importing");
    let ready = Ready::open(model, compile, inputs)?;
    let graph = ready.graph("check rewrites")?;
    progress.phase("Optimising");
    let compiler = ready.compiler(true);
    let mut context = compiler.context()?;
    context.applications = Some(Applications::default());
    compiler.optimise_in(graph, &context)?;
    progress.phase("Replaying");
    let rules = rows(&context.applications.unwrap_or_default().take(), inputs.seed);
    drop(progress);
    let passed = rules.iter().all(|row| row.passed);
    let report = Report { schema: "egret.check-rewrites/1", model: ready.name().to_string(), passed, rules };
    if !json.takes_stdout() {
        report::result(text(&report.rules))?;
    }
    if let Some(path) = &json.json {
        report::json(path, &report)?;
    }
    remarks(&report.rules);
    verdict(&report.rules)
}

/// One row per rule, in the order of their first application.
fn rows(applications: &[Application], seed: u64) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for application in applications {
        let at = rows.iter().position(|row| row.rule == application.rule).unwrap_or_else(|| {
            rows.push(Row::new(application.rule, application.class));
            rows.len() - 1
        });
        rows[at].add(application, seed);
    }
    rows
}

impl Row {
    fn new(rule: &'static str, class: Class) -> Row {
        Row {
            rule,
            class: class.name(),
            applied: 0,
            replayed: 0,
            ulps: 0.0,
            relative: 0.0,
            allowed: proof::tolerance(class),
            passed: true,
            not_replayed: Vec::new(),
            failed: None,
        }
    }

    fn add(&mut self, application: &Application, seed: u64) {
        self.applied += application.times;
        match replay(application, seed) {
            Ok(replayed) => {
                self.replayed += 1;
                self.ulps = self.ulps.max(replayed.distance.ulps);
                self.relative = self.relative.max(replayed.distance.relative);
                self.passed &= replayed.holds;
                if !replayed.holds && self.failed.is_none() {
                    self.failed = Some([&application.before, &application.after].map(|graph| print(graph, Options::brief())));
                }
            }
            Err(reason) if !self.not_replayed.contains(&reason) => self.not_replayed.push(reason),
            Err(_) => {}
        }
    }
}

fn text(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no rule was applied\n".to_string();
    }
    let header = ["rule", "class", "applied", "replayed", "ulp", "relative", "allowed", ""];
    let is_number = |name: &str| matches!(name, "applied" | "replayed" | "ulp" | "relative");
    let header = header.map(|name| (name, if is_number(name) { Align::Right } else { Align::Left }));
    let row = |row: &Row| {
        let verdict = match (row.passed, row.replayed) {
            (false, _) => "FAILED",
            (true, 0) => "not replayed",
            (true, _) => "ok",
        };
        let mut cells = vec![row.rule.to_string(), row.class.to_string(), row.applied.to_string(), row.replayed.to_string()];
        cells.extend([format!("{:.2}", row.ulps), format!("{:.2e}", row.relative), row.allowed.clone(), verdict.to_string()]);
        cells
    };
    columns(&header, rows.iter().map(row))
}

/// What the table does not say: applications without a value, and both sides of the first that is wrong.
fn remarks(rows: &[Row]) {
    for row in rows {
        for reason in &row.not_replayed {
            report::note(format_args!("`{}` was not replayed everywhere: {reason}", row.rule));
        }
        if let Some([before, after]) = &row.failed {
            report::aside(format_args!("# `{}` said that\n{before}# is\n{after}", row.rule));
        }
    }
}

fn verdict(rows: &[Row]) -> Result<(), Error> {
    let failed: Vec<String> = rows.iter().filter(|row| !row.passed).map(|row| format!("`{}`", row.rule)).collect();
    match failed.len() {
        0 => Ok(()),
        count => Err(Error::Check(format!("{} further from the reference than allowed: {}", plural(count, "rule"), failed.join(", ")))),
    }
}
