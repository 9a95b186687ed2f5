//! What goes to the terminal, and where: results to stdout, plain; everything else to stderr, coloured.
//!
//! **Invariant.** stdout carries the result of the verb and nothing else, so it can be piped; a reader that closes the pipe
//! early ends the program quietly. Colour is shown only where stderr is a terminal that wants it: `NO_COLOR`,
//! `CLICOLOR`, `CLICOLOR_FORCE` and `TERM=dumb` are obeyed (by `anstream`).
//!
//! ```text
//! warning: opset 27 is newer than the newest known (23)
//! ```

use super::progress;
use egret::Error;
use owo_colors::OwoColorize;
use serde::Serialize;
use std::fmt::Display;
use std::io::{ErrorKind, Write};

/// Writes a result to stdout, with a line feed at its end.
pub fn result(text: impl Display) -> Result<(), Error> {
    let text = text.to_string();
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| match text.ends_with('\n') {
        true => out.flush(),
        false => out.write_all(b"\n").and_then(|()| out.flush()),
    });
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::File(format!("stdout: {error}"))),
        _ => Ok(()),
    }
}

/// Writes a result in JSON to a file, or to stdout for `-`.
pub fn json(path: &str, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::File(format!("{path}: {error}")))? + "\n";
    match path {
        "-" => result(text),
        path => std::fs::write(path, text).map_err(|error| Error::File(format!("{path}: {error}"))),
    }
}

/// Something the user should know before trusting the result.
pub fn warning(text: impl Display) {
    line(format_args!("{} {text}", "warning:".yellow().bold()));
}

/// Something that was chosen for the user.
pub fn note(text: impl Display) {
    line(format_args!("{} {text}", "note:".cyan().bold()));
}

/// Why there is no result. Messages of the importer begin with a code, `error[E0107]:`, and stay as they are.
pub fn error(text: impl Display) {
    let text = text.to_string();
    let (head, rest) = match text.split_once("]: ") {
        Some((code, rest)) if code.starts_with("error[") => (format!("{code}]:"), rest),
        _ => ("error:".to_string(), text.as_str()),
    };
    line(format_args!("{} {rest}", head.red().bold()));
}

/// What was done: `Compiled digits.egret: 12 kernels, 240 KiB, in 0.8 s`.
pub fn done(verb: &str, text: impl Display) {
    line(format_args!("{} {text}", verb.green().bold()));
}

/// Text for stderr that is more than a sentence: a graph, a table of passes.
pub fn aside(text: impl Display) {
    line(format_args!("{text}"));
}

/// One line on stderr. If even that is impossible there is nobody left to tell.
fn line(text: std::fmt::Arguments<'_>) {
    let _ = progress::make_way(|| writeln!(anstream::stderr(), "{text}"));
}
