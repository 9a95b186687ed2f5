//! Runs of a command on parts of a model, and how they fail.
//!
//! **Invariant.** Parts lie in a folder of this process, which is gone when it ends. Nothing that the command prints is shown.

use super::input_file;
use egret::{Error, Part};
use serde::Serialize;
use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What stands in a command for the part of the model.
pub const MODEL: &str = "{model}";

/// What stands for the folder of its inputs.
const INPUTS: &str = "{inputs}";

/// How long to wait before looking again whether a run is over: little beside the shortest, some 10 ms.
const POLL: Duration = Duration::from_millis(2);

/// How a command fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// `null` if it did not exit by itself.
    exit_code: Option<i32>,
    /// Whether it took longer than it may.
    timed_out: bool,
    /// The code of Egret's error, such as E0107.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exit_code {
            _ if self.timed_out => f.write_str("does not end")?,
            Some(code) => write!(f, "exit code {code}")?,
            None => f.write_str("ended by a signal")?,
        }
        self.error.as_ref().map_or(Ok(()), |error| write!(f, ", {error}"))
    }
}

/// A command, and what makes its failure the one that is looked for.
pub struct Trials<'a> {
    command: &'a [String],
    stderr: Option<&'a str>,
    timeout: Duration,
    seed: u64,
    folder: Folder,
    runs: Cell<usize>,
}

impl<'a> Trials<'a> {
    /// Makes the folder for parts.
    pub fn new(command: &'a [String], stderr: Option<&'a str>, timeout: Duration, seed: u64) -> Result<Trials<'a>, Error> {
        Ok(Trials { command, stderr, timeout, seed, folder: Folder::new()?, runs: Cell::new(0) })
    }

    /// How often the command was run.
    pub fn runs(&self) -> usize {
        self.runs.get()
    }

    /// What is asked of a failure, behind "the command does not fail".
    pub fn asked(&self) -> String {
        self.stderr.map_or_else(String::new, |words| format!(" with `{words}` on stderr"))
    }

    /// How to see what the command does.
    pub fn shown(&self) -> String {
        format!("run it on the model itself: {}", self.command.join(" "))
    }

    /// How the command fails on a part, if it does.
    pub fn run(&self, part: &Part) -> Result<Option<Failure>, Error> {
        self.runs.set(self.runs.get() + 1);
        let files = write(part, self.seed, &self.folder.0)?;
        let log = self.folder.0.join("stderr");
        let status = self.status(&files[0], &log)?;
        let said = std::fs::read(&log).map_err(|error| Error::File(format!("{}: {error}", log.display())))?;
        let said = String::from_utf8_lossy(&said);
        let fails = status.is_none_or(|status| !status.success()) && self.stderr.is_none_or(|words| said.contains(words));
        let failure = Failure { exit_code: status.and_then(|status| status.code()), timed_out: status.is_none(), error: error_code(&said) };
        Ok(fails.then_some(failure))
    }

    /// How the command ended; nothing if it had to be stopped.
    fn status(&self, model: &Path, log: &Path) -> Result<Option<ExitStatus>, Error> {
        let words = self
            .command
            .iter()
            .map(|word| word.replace(MODEL, &model.display().to_string()).replace(INPUTS, &self.folder.0.display().to_string()));
        let words: Vec<String> = words.collect();
        let program = if words[0] == "egret" { std::env::current_exe().ok() } else { None };
        let program = program.unwrap_or_else(|| PathBuf::from(&words[0]));
        let failed = |error: std::io::Error| Error::Usage(format!("`{}` cannot be run: {error}", program.display()));
        let log = File::create(log).map_err(failed)?;
        let mut command = Command::new(&program);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().map_err(failed)?;
        let end = Instant::now() + self.timeout;
        loop {
            match child.try_wait().map_err(failed)? {
                Some(status) => return Ok(Some(status)),
                None if Instant::now() < end => std::thread::sleep(POLL),
                None => {
                    // It may have ended just now; either way nothing of it is left.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Ok(None);
                }
            }
        }
    }
}

/// The first code of Egret's in what a command said: `error[E0107]`.
fn error_code(said: &str) -> Option<String> {
    let (_, rest) = said.split_once("error[E")?;
    let (number, _) = rest.split_once(']')?;
    number.chars().all(|c| c.is_ascii_digit()).then(|| format!("E{number}"))
}

/// Writes a part: its model, then `input_<i>.npy` for its inputs. What was written there before is replaced.
pub fn write(part: &Part, seed: u64, dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let model = dir.join("model.onnx");
    std::fs::write(&model, &part.model).map_err(|error| Error::File(format!("{}: {error}", model.display())))?;
    let mut files = vec![model];
    for (i, input) in part.inputs.iter().enumerate() {
        let file = dir.join(format!("input_{i}.npy"));
        input_file(&file, i, input, seed)?;
        files.push(file);
    }
    Ok(files)
}

/// A folder that is removed with everything in it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder, Error> {
        let path = std::env::temp_dir().join(format!("egret-reduce-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| Error::File(format!("{}: {error}", path.display())))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_are_found() {
        assert_eq!(error_code("warning: x\nerror[E0107]: no\n\nerror[E0202]: no"), Some("E0107".into()));
        assert_eq!(error_code("error: further than 1e-4"), None);
        assert_eq!(error_code("error[Eager]: no"), None);
    }
}
