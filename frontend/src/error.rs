//! What can be wrong with a model, as sentences: where, what was expected, what was found, what to do.
//!
//! A file that cannot be read is one [`FileError`]. A model that can be read but not compiled is a list of [`Problem`]s,
//! all that can be found in one go, so that a user mends them together.
//!
//! ```text
//! error[E0107]: operator `com.acme::FooOp` (opset 1) is not supported
//!   in node `foo_7`   #2 of 3   com.acme::FooOp (opset 1)   inputs: a f32[2, 3]   output: y
//!   graph:  relu1 (Relu) -> [foo_7 (FooOp)] -> y
//!   help: replace it by standard operators before the export
//! ```

use egret_ir::TensorType;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

pub use crate::code::Code;

/// A model file, or a file of its weights, that cannot be used at all.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("error[{}]: `{}`: {found}\n  help: {help}", Code::File.number(), path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What was found, and where in the file.
    pub found: String,
    /// What to do.
    pub help: String,
}

/// One thing that keeps a model from being compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Its kind.
    pub code: Code,
    /// What was expected and what was found.
    pub message: String,
    /// The node, if it is about one.
    pub place: Option<Place>,
    /// The attribute that is the cause, and its value.
    pub attribute: Option<(String, String)>,
    /// The inputs of the model that it would help to know the data of: [`ImportOptions::values`](crate::ImportOptions::values).
    pub data: Vec<Arc<str>>,
    /// What to do; empty when there is nothing to say.
    pub help: String,
}

/// A node of the model, as messages show it.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Its name; empty when it has none.
    pub node: String,
    /// Its position in its graph, from 1.
    pub number: usize,
    /// The number of nodes in its graph.
    pub count: usize,
    /// The operator, with its domain if that is not the standard one.
    pub operator: String,
    /// The operator's domain; empty for the standard one.
    pub domain: String,
    /// The version of the operator set.
    pub opset: i64,
    /// The inputs and what is known of their types; an input left out has an empty name.
    pub inputs: Vec<(String, Option<TensorType>)>,
    /// The outputs' names.
    pub outputs: Vec<String>,
    /// The node that makes the first input, as `name (Operator)`, or the input's own name.
    pub before: String,
    /// The node that reads the first output, likewise.
    pub after: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &[])
    }
}

impl Problem {
    /// Writes the problem; `others` are further places with the same one.
    fn write(&self, f: &mut fmt::Formatter<'_>, others: &[&Place]) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code.number(), self.message)?;
        if let Some(place) = &self.place {
            write!(f, "\n{place}")?;
        }
        if !others.is_empty() {
            write!(f, "\n  also in {}: {}", counted(others.len(), "node"), listed(&others.iter().map(|p| p.label()).collect::<Vec<_>>()))?;
        }
        if let Some((name, value)) = &self.attribute {
            write!(f, "\n  attribute: {name} = {value}")?;
        }
        if !self.help.is_empty() {
            write!(f, "\n  help: {}", self.help)?;
        }
        Ok(())
    }
}

impl Place {
    /// The name, or for a node without one its number and first output.
    fn label(&self) -> String {
        if !self.node.is_empty() {
            return format!("`{}`", self.node);
        }
        match self.outputs.iter().find(|o| !o.is_empty()) {
            Some(output) => format!("#{} (makes `{output}`)", self.number),
            None => format!("#{}", self.number),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inputs: Vec<String> = self.inputs.iter().map(|(name, ty)| operand(name, ty.as_ref())).collect();
        let outputs: Vec<String> = self.outputs.iter().map(|name| operand(name, None)).collect();
        let plural = if self.outputs.len() == 1 { "output" } else { "outputs" };
        let node = if self.node.is_empty() { "an unnamed node".to_string() } else { format!("node `{}`", self.node) };
        write!(f, "  in {node}   #{} of {}   {} (opset {})", self.number, self.count, self.operator, self.opset)?;
        write!(f, "   inputs: {}   {plural}: {}", listed(&inputs), listed(&outputs))?;
        let name = if self.node.is_empty() { format!("#{}", self.number) } else { self.node.clone() };
        let before = if self.before.is_empty() { String::new() } else { format!("{} -> ", self.before) };
        let after = if self.after.is_empty() { String::new() } else { format!(" -> {}", self.after) };
        write!(f, "\n  graph:  {before}[{name} ({})]{after}", self.operator)
    }
}

fn operand(name: &str, ty: Option<&TensorType>) -> String {
    match (name.is_empty(), ty) {
        (true, _) => "(none)".to_string(),
        (false, Some(ty)) => format!("{name} {ty}"),
        (false, None) => name.to_string(),
    }
}

/// Items separated by commas, of which the first few are shown.
pub(crate) fn listed(items: &[String]) -> String {
    const SHOWN: usize = 8;
    let more = if items.len() > SHOWN { format!(", ... ({} more)", items.len() - SHOWN) } else { String::new() };
    match items {
        [] => "none".to_string(),
        _ => format!("{}{more}", items[..items.len().min(SHOWN)].join(", ")),
    }
}

pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Why a model could not be imported.
#[derive(Clone, Debug, PartialEq)]
pub enum ImportError {
    /// The file is unreadable, damaged or not a model: exit code 4.
    File(FileError),
    /// The model is readable but cannot be compiled; every problem that could be found: exit code 3.
    Unsupported(Vec<Problem>),
    /// An option does not fit the model, such as `--dim` with a symbol that it does not have: exit code 2.
    Options(String),
}

impl std::error::Error for ImportError {}

impl ImportError {
    /// The process exit code that stands for this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            ImportError::Options(_) => 2,
            ImportError::Unsupported(_) => 3,
            ImportError::File(_) => 4,
        }
    }
}

impl fmt::Display for ImportError {
    /// All problems, those with the same cause together, and a summary.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems = match self {
            ImportError::File(error) => return error.fmt(f),
            ImportError::Options(message) => return write!(f, "{message}"),
            ImportError::Unsupported(problems) => problems,
        };
        let mut groups: Vec<(&Problem, Vec<&Place>)> = vec![];
        for problem in problems {
            let same = |p: &&Problem| p.code == problem.code && p.message == problem.message && p.place.is_some();
            match (groups.iter_mut().find(|(first, _)| same(first)), &problem.place) {
                (Some((_, others)), Some(place)) => others.push(place),
                _ => groups.push((problem, vec![])),
            }
        }
        for (i, (problem, others)) in groups.iter().enumerate() {
            write!(f, "{}", if i > 0 { "\n\n" } else { "" })?;
            problem.write(f, others)?;
        }
        if problems.len() > 1 {
            write!(f, "\n\nnote: {} in this model", counted(problems.len(), "problem"))?;
        }
        Ok(())
    }
}

/// Something that the importer assumed or left out; the result is still what the model says under that assumption.
#[derive(Clone, Debug, PartialEq)]
pub struct Warning {
    /// What was found and what is assumed.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "warning: {}", self.message)
    }
}

/// The candidate nearest to `word`, if one is near enough to be what was meant.
pub(crate) fn did_you_mean<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer names are not typed by hand.
    const LONGEST: usize = 100;
    let length = word.chars().count();
    let near = (length / 3).max(1);
    let alike = |c: &&str| length <= LONGEST && c.chars().count().abs_diff(length) <= near;
    candidates.filter(alike).map(|c| (distance(word, c), c)).filter(|(d, _)| *d <= near).min().map(|(_, c)| c)
}

/// The number of letters to add, remove, replace or swap with their neighbour between two words, case aside.
fn distance(a: &str, b: &str) -> usize {
    let [a, b] = [a, b].map(|w| w.to_lowercase().chars().collect::<Vec<char>>());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = rows[i][j] + usize::from(a[i] != b[j]);
            let swapped = if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] { rows[i - 1][j - 1] + 1 } else { usize::MAX };
            row.push(replaced.min(rows[i][j + 1] + 1).min(row[j] + 1).min(swapped));
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested() {
        assert_eq!(did_you_mean("bacth", ["batch", "sequence"].into_iter()), Some("batch"));
        assert_eq!(did_you_mean("relu", ["Relu", "Elu"].into_iter()), Some("Relu"));
        assert_eq!(did_you_mean("N", ["height", "width"].into_iter()), None);
        assert_eq!(did_you_mean("FooOp", ["Floor"].into_iter()), None);
    }
}
