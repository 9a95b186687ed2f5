//! Runs the test suite, with cargo-nextest where it is installed and cargo's own runner elsewhere.
//!
//! The examples in the documentation run first, since nextest leaves them out; so the last line printed is the
//! summary of the suite itself. Arguments choose a part instead: `cargo xtask test -p egret-ir verify`.

use std::process::Command;

use crate::Result;
use crate::process::{self, cargo};
use crate::setup;

/// Every test of every crate, but not the examples of the documentation.
const WHOLE: &[&str] = &["--workspace", "--lib", "--bins", "--tests"];

/// Runs everything, or, with arguments, what the test runner makes of them.
pub(crate) fn run(args: &[String]) -> Result {
    setup::run()?;
    if !args.is_empty() {
        return run_keeping_snapshots(runner().args(args));
    }
    run_keeping_snapshots(&mut cargo("test --workspace --doc --quiet"))?;
    run_keeping_snapshots(runner().args(WHOLE))
}

fn runner() -> Command {
    let has_nextest = process::is_installed("cargo-nextest");
    cargo(if has_nextest { "nextest run" } else { "test" })
}

/// On CI a differing snapshot is a failure and leaves no `.snap.new` file behind.
fn run_keeping_snapshots(command: &mut Command) -> Result {
    if std::env::var_os("CI").is_some() {
        command.env("INSTA_UPDATE", "no");
    }
    process::run(command)
}
