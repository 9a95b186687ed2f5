//! Everything that CI checks, quick checks first; the tests come last, so their summary closes the output.

use crate::Result;
use crate::process::{self, cargo};
use crate::{layers, setup, test};

type Step = fn() -> Result;

const STEPS: &[(&str, Step)] = &[
    ("setup", setup::run),
    ("layers", layers::run),
    ("format", format),
    ("lints", lints),
    ("documentation", documentation),
    ("tests", || test::run(&[])),
];

/// Runs the steps in order and stops at the first that fails.
pub(crate) fn run() -> Result {
    for (name, step) in STEPS {
        eprintln!("xtask: {name}");
        step()?;
    }
    Ok(())
}

fn format() -> Result {
    process::run(&mut cargo("fmt --all --check"))
}

fn lints() -> Result {
    process::run(&mut cargo("clippy --workspace --all-targets -- -D warnings"))
}

/// The lints of rustdoc, such as broken links, are seen by no other step.
fn documentation() -> Result {
    let mut doc = cargo("doc --workspace --no-deps --document-private-items --quiet");
    process::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
}
