//! ONNX's own operator cases, through compiled code, against a table of what is expected of each.
//!
//! `onnx_cases/cases.tar.xz` holds the cases (its README says where they come from), `onnx_cases/expected.txt` a line for each:
//!
//! ```text
//! test_abs                passed
//! test_nonzero_example    unsupported  operator `NonZero` (opset 13) is not supported
//! ```
//!
//! A case that does worse than the table says fails the test, and so does one that does better: then the table is brought up to
//! date with `EGRET_BLESS=1 cargo test --test onnx_cases`, and its difference is part of the change.

mod archive;

use serde::Deserialize;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Deserialize)]
struct Report {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    status: String,
    #[serde(default)]
    reason: String,
}

#[test]
fn every_case_does_as_expected() {
    let table = data().join("expected.txt");
    let found = lines(&run(&[cases("cases.tar.xz")], &[]));
    if std::env::var_os("EGRET_BLESS").is_some() {
        fs::write(&table, &found).unwrap();
    }
    let expected = fs::read_to_string(&table).unwrap();
    assert!(expected.lines().count() > 1800, "the table is not whole");
    let differences = differences(&expected, &found);
    assert!(differences.is_empty(), "{differences}\nif that is right: EGRET_BLESS=1 cargo test --test onnx_cases");
}

/// Every tenth case that passes, also without fusion: what fusion is compared with has to be right, too.
#[test]
fn unfused_code_passes_what_fused_code_passes() {
    let expected = fs::read_to_string(data().join("expected.txt")).unwrap();
    let passed: Vec<&str> = expected.lines().filter_map(|line| line.strip_suffix(" passed")).map(str::trim_end).step_by(10).collect();
    assert!(passed.len() > 100, "the table is not whole");
    let cases = cases("cases.tar.xz");
    let folders: Vec<PathBuf> = passed.iter().map(|name| cases.join(name)).collect();
    let failed: Vec<String> = run(&folders, &["--no-fuse"]).cases.into_iter().filter(|c| c.status != "passed").map(|c| c.name).collect();
    assert!(failed.is_empty(), "without fusion these fail: {failed:?}");
}

/// Operators of ONNX Runtime, against what it computes.
#[test]
fn operators_of_onnx_runtime_compute_what_it_computes() {
    let report = run(&[cases("runtimes_own.tar.xz")], &[]);
    assert!(report.cases.len() > 70, "the archive is not whole");
    let failed: Vec<String> = report.cases.iter().filter(|c| c.status != "passed").map(|c| format!("{}: {}", c.name, c.reason)).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// How long an input sequence is, is said like a free extent.
#[test]
fn elements_of_an_input_sequence_are_inputs() {
    let model = cases("cases.tar.xz").join("test_optional_get_element_optional_sequence/model.onnx");
    let egret = |verb: &str, options: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_egret")).arg(verb).arg(&model).args(options).output().unwrap();
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
    };
    for verb in ["run", "check", "inspect", "opt"] {
        let said = egret(verb, &["--dim", "optional_input.given=1", "--dim", "optional_input.length=2"]);
        assert!(said.contains("output.0") && said.contains("output.1") && !said.contains("output.2"), "{verb}: {said}");
    }
    assert!(egret("run", &[]).contains("--dim optional_input.given=..."));
    assert!(egret("run", &["--dim", "optional_input.length=1..2"]).contains("--dim optional_input.length=1..2 is no extent to run with"));
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx_cases")
}

/// The folder of an archive's cases.
fn cases(name: &str) -> PathBuf {
    archive::unpacked(&data().join(name))
}

fn run(folders: &[PathBuf], options: &[&str]) -> Report {
    let output = Command::new(env!("CARGO_BIN_EXE_egret")).arg("test").args(folders).args(options).arg("--json").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{said}"))
}

/// The table that a report makes.
fn lines(report: &Report) -> String {
    let width = report.cases.iter().map(|case| case.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Case { name, status, reason } in &report.cases {
        let reason = reason.lines().next().unwrap_or("");
        let reason = reason.split_once("]: ").map_or(reason, |(_, sentence)| sentence);
        writeln!(text, "{}", format!("{name:width$} {status} {reason}").trim_end()).unwrap();
    }
    text
}

fn differences(expected: &str, found: &str) -> String {
    let is_new = |line: &&str| !expected.lines().any(|other| other == *line);
    let is_gone = |line: &&str| !found.lines().any(|other| other == *line);
    let gone = expected.lines().filter(is_gone).map(|line| format!("- {line}\n"));
    gone.chain(found.lines().filter(is_new).map(|line| format!("+ {line}\n"))).collect()
}

#[test]
fn differences_are_lines() {
    assert_eq!(differences("a passed\nb passed\n", "a passed\nb failed x\n"), "- b passed\n+ b failed x\n");
}
