//! The verbs of the command line, one module each, and what they share.
//!
//! **Invariant.** A verb is a function from its arguments to a result on stdout or an error. It never ends the
//! process itself: [`main`] alone turns errors into exit codes.
//!
//! | exit code | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | a check failed: outputs are too far apart, or the machine lacks memory or threads |
//! | 2 | the command was wrong: a flag, a name, a shape |
//! | 3 | the model uses what Egret does not support, or this machine has no such GPU |
//! | 4 | a file cannot be read or written, or is damaged |
//! | 101 | a bug of Egret |

mod bench;
mod bisect;
mod by_rule;
mod check;
mod compare;
mod compile;
mod explain;
mod freeze;
mod hw;
mod inputs;
mod inspect;
mod list;
mod measure;
mod opt;
mod options;
mod predicted;
mod profile;
mod progress;
mod reduce;
mod report;
mod rewrites;
mod run;
mod source;
mod stats;
mod table;
mod test;
mod trace;

use clap::{Parser, Subcommand};
use egret::Error;
use std::process::ExitCode;

/// Ahead-of-time compiler for ONNX models: native code, one file, nothing else at run time.
#[derive(Parser)]
#[command(name = "egret", version, arg_required_else_help = true, max_term_width = 100, after_help = EXIT_CODES)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 a check failed, 2 wrong command, 3 unsupported model or no such GPU, 4 bad file, 101 bug of Egret.
Results go to stdout; progress, notes and warnings to stderr (NO_COLOR and CLICOLOR_FORCE are obeyed).";

#[derive(Subcommand)]
enum Verb {
    /// Compile a model to one file that runs without Egret's compiler
    Compile(compile::Args),
    /// Run a model once and summarise its outputs
    Run(run::Args),
    /// Measure fused against unfused, side by side
    Compare(compare::Args),
    /// Measure latency
    Bench(bench::Args),
    /// Show which kernels the time goes to, and how near each is to what the machine can do
    Profile(profile::Args),
    /// Measure what this machine can do: arithmetic, memory, threads
    Hw(hw::Args),
    /// Check a model: what cannot be compiled, then compiled code against the reference evaluator
    Check(check::Args),
    /// Find the first rule or pass whose application makes compiled code wrong
    Bisect(bisect::Args),
    /// Find the smallest part of a model on which a command still fails, and write it as a model
    Reduce(reduce::Args),
    /// Say for every kernel where it came from, by which rules, and why its neighbours are not part of it
    Explain(explain::Args),
    /// Run passes on a graph, text in and text out
    Opt(opt::Args),
    /// Show what is in a model or a compiled file
    Inspect(inspect::Args),
    /// List ops, rules, passes or targets
    List(list::Args),
    /// Run test cases of the ONNX standard through compiled code
    Test(test::Args),
}

/// Parses the command line, runs the verb, and turns its result into an exit code.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_bug));
    // Wrong arguments end the process here, with exit code 2.
    let args = Args::parse();
    match run(args.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Compile(args) => compile::run(args),
        Verb::Run(args) => run::run(args),
        Verb::Compare(args) => compare::run(args),
        Verb::Bench(args) => bench::run(args),
        Verb::Profile(args) => profile::run(args),
        Verb::Hw(args) => hw::run(args),
        Verb::Check(args) => check::run(args),
        Verb::Bisect(args) => bisect::run(args),
        Verb::Reduce(args) => reduce::run(args),
        Verb::Explain(args) => explain::run(args),
        Verb::Opt(args) => opt::run(args),
        Verb::Inspect(args) => inspect::run(args),
        Verb::List(args) => list::run(args),
        Verb::Test(args) => test::run(args),
    }
}

/// Says that a panic is a fault of the program, not of its user; the process then ends with exit code 101.
fn report_bug(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
    let what = panic.payload_as_str().unwrap_or("no message");
    report::error(format_args!(
        "this is a bug of Egret, not a mistake of yours{place}: {what}\n  \
         help: please report it with this command line and, if you can, the model; Egret is version {}",
        env!("CARGO_PKG_VERSION")
    ));
    if std::env::var_os("RUST_BACKTRACE").is_some() {
        report::aside(std::backtrace::Backtrace::capture());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }
}
