//! The commands of this repository: `cargo xtask setup|demo|test|fuzz|ci`.
//!
//! Each command installs what is missing first, so one command is enough on a fresh machine. This crate has no
//! dependencies: it builds in a second or two where there is only rustup and a C compiler.
//!
//! ```text
//! $ cargo xtask test
//! xtask: installing g++ llvm-22-dev
//! ...
//!      Summary [  12.345s] 321 tests run: 321 passed, 0 skipped
//! ```

mod ci;
mod demo;
mod fuzz;
mod layers;
mod process;
mod setup;
mod test;

use std::path::Path;
use std::process::ExitCode;

/// What a task gives: nothing, or a sentence that says what went wrong and what to do.
type Result<T = ()> = std::result::Result<T, String>;

/// One command of `cargo xtask`.
struct Task {
    name: &'static str,
    about: &'static str,
    action: Action,
}

/// What a command does, and whether it hands arguments on.
enum Action {
    Plain(fn() -> Result),
    Forwarding(fn(&[String]) -> Result),
}

const TASKS: &[Task] = &[
    Task { name: "setup", about: "install what the build needs: a C++ compiler and LLVM", action: Action::Plain(setup::run) },
    Task { name: "demo", about: "compile the example models, run them, compare fused with unfused", action: Action::Plain(demo::run) },
    Task {
        name: "test",
        about: "run the test suite, or with ARGS for the test runner a part of it",
        action: Action::Forwarding(test::run),
    },
    Task {
        name: "fuzz",
        about: "import 100,000 models with wrong structure, or with ARGS [COUNT [FIRST SEED]] others",
        action: Action::Forwarding(fuzz::run),
    },
    Task { name: "ci", about: "everything CI checks: format, lints, layers, documentation, tests", action: Action::Plain(ci::run) },
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match enter_workspace().and_then(|()| dispatch(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Every task works from the root of the repository, wherever it was called.
fn enter_workspace() -> Result {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::set_current_dir(&root).map_err(|error| format!("cannot enter {}: {error}", root.display()))
}

fn dispatch(args: &[String]) -> Result {
    let Some((name, rest)) = args.split_first() else {
        return Err(usage());
    };
    let Some(task) = TASKS.iter().find(|task| task.name == name) else {
        return Err(format!("there is no task `{name}`\n{}", usage()));
    };
    match task.action {
        Action::Plain(_) if !rest.is_empty() => Err(format!("`{name}` takes no arguments")),
        Action::Plain(run) => run(),
        Action::Forwarding(run) => run(rest),
    }
}

fn usage() -> String {
    let rows = TASKS.iter().map(|task| format!("  {:6} {}", task.name, task.about));
    format!("usage: cargo xtask TASK [ARGS]\n{}", rows.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(args: &[&str], expected: &str) {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let error = dispatch(&args).expect_err("the arguments are wrong");
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn wrong_arguments_are_named() {
        fails(&[], "usage: cargo xtask TASK");
        fails(&["tset"], "there is no task `tset`");
        fails(&["setup", "--force"], "`setup` takes no arguments");
        fails(&["fuzz", "many"], "`many` is not a number of mutants");
        fails(&["fuzz", "1", "2", "3"], "a number of mutants and a first seed");
    }
}
