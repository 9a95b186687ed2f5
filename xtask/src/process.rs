//! Running other programs: with their output shown, or with it captured.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use crate::Result;

/// The cargo that runs this task, with arguments that are separated by single spaces.
pub(crate) fn cargo(words: &str) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.args(words.split(' '));
    command
}

/// Runs the command with its output shown; a failure names the command.
pub(crate) fn run(command: &mut Command) -> Result {
    let status = command.status().map_err(|error| failure(command, &error))?;
    if status.success() { Ok(()) } else { Err(failure(command, &status)) }
}

/// What the command printed on stdout; its stderr is shown.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| failure(command, &error))?;
    if !output.status.success() {
        return Err(failure(command, &output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| failure(command, &error))
}

/// Whether the program is there: its `--version` succeeds.
pub(crate) fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// ``` `cargo fmt --check`: exit status: 1 ```
fn failure(command: &Command, reason: &dyn std::fmt::Display) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words: Vec<_> = std::iter::once(name).chain(command.get_args()).collect();
    let line: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    format!("`{}`: {reason}", line.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_name_the_command() {
        let error = run(Command::new("/nowhere/tool").args(["a", "b"])).expect_err("not there");
        assert!(error.starts_with("`tool a b`: "), "{error}");
        let error = output(&mut Command::new("false")).expect_err("`false` fails");
        assert_eq!(error, "`false`: exit status: 1");
    }
}
