//! From PTX text to instructions.
//!
//! What is read is what LLVM writes: one instruction a line, labels on lines of their own. **Invariant.** Every operand of an
//! instruction is resolved, and a line that is not understood is an error that shows it.

use super::flow::joins;
use super::op::{Op, decode};
use std::collections::HashMap;

/// A PTX module.
#[derive(Debug)]
pub struct Module {
    /// Its entry points.
    pub entries: Vec<Entry>,
}

/// A function that can be started.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Threads of a block, where the text says so.
    pub threads: Option<usize>,
    /// Bytes of shared memory; what the launch gives lies behind them.
    pub shared: usize,
    pub(super) parameters: usize,
    pub(super) code: Vec<Instruction>,
    /// Where the ways from an instruction meet again: `code.len()` where they do at the end.
    pub(super) joins: Vec<usize>,
    pub(super) registers: usize,
}

/// A line of code.
#[derive(Clone, Debug)]
pub(super) struct Instruction {
    /// Its line in the text, from 1.
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) opcode: String,
    /// The predicate that lets it happen, and whether that must be false.
    pub(super) guard: Option<(usize, bool)>,
    pub(super) op: Op,
    pub(super) operands: Vec<Operand>,
}

/// What an instruction works on.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operand {
    Register(usize),
    Immediate(u64),
    Thread,
    Block,
    Blocks,
    Parameter(usize),
    Label(usize),
    /// Base and displacement in brackets.
    Address(Box<Operand>, i64),
    /// In braces.
    Vector(Vec<Operand>),
}

impl Operand {
    /// The registers it names.
    pub(super) fn registers(&self) -> Vec<usize> {
        match self {
            Operand::Register(r) => vec![*r],
            Operand::Address(base, _) => base.registers(),
            Operand::Vector(parts) => parts.iter().flat_map(Operand::registers).collect(),
            _ => vec![],
        }
    }
}

/// The names of an entry point.
struct Names<'a> {
    parameters: HashMap<String, usize>,
    shared: &'a HashMap<String, u64>,
    labels: HashMap<String, usize>,
    registers: HashMap<String, usize>,
}

impl Module {
    /// Reads a module.
    ///
    /// # Errors
    /// Shows the line that is not understood; an opcode that has no meaning here is named.
    pub fn parse(text: &str) -> Result<Module, String> {
        let lines: Vec<(usize, &str)> = text.lines().enumerate().flat_map(|(i, l)| statements(l).map(move |s| (i + 1, s))).collect();
        let starts: Vec<usize> = (0..lines.len()).filter(|&i| lines[i].1.contains(".entry ")).collect();
        let ends = starts.iter().skip(1).copied().chain([lines.len()]);
        let outside = &lines[..starts.first().copied().unwrap_or(lines.len())];
        let entries = starts.iter().zip(ends).map(|(&start, end)| entry(&lines[start..end], outside));
        Ok(Module { entries: entries.collect::<Result<_, _>>()? })
    }

    /// The entry point of a name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.name == name)
    }
}

/// What stands on a line: the instructions of a scope, or the whole.
fn statements(line: &str) -> impl Iterator<Item = &str> {
    let line = line.split("//").next().unwrap_or_default().trim();
    let scope = line.strip_prefix('{').and_then(|l| l.strip_suffix('}')).filter(|l| !l.is_empty());
    let parts: Vec<&str> = scope.map_or(vec![line], |inner| inner.split_inclusive(';').map(str::trim).collect());
    parts.into_iter()
}

/// What the shared memory that a launch gives is aligned to.
pub(super) const LAUNCHED_ALIGN: usize = 1024;

/// The names of the shared memory that a launch gives.
fn launched_memory<'a>(lines: &[(usize, &'a str)]) -> impl Iterator<Item = &'a str> {
    let names = lines.iter().filter_map(|(_, l)| l.strip_prefix(".extern .shared ")?.strip_suffix("[];")?.rsplit(' ').next());
    names.collect::<Vec<_>>().into_iter()
}

/// Where each variable in shared memory lies, and how many bytes there are.
fn shared_memory(lines: &[(usize, &str)]) -> Result<(HashMap<String, u64>, usize), String> {
    let (mut places, mut end) = (HashMap::new(), 0usize);
    for (number, line) in lines.iter().filter(|(_, l)| l.contains(".shared .align")) {
        let failed = || format!("line {number}: `{line}` is no declaration of shared memory");
        let (name, count) = line.rsplit(' ').next().and_then(|w| w.trim_end_matches("];").split_once('[')).ok_or_else(failed)?;
        let align =
            line.split(".align ").nth(1).and_then(|w| w.split(' ').next()).and_then(|w| w.parse::<usize>().ok()).ok_or_else(failed)?;
        end = end.next_multiple_of(align);
        places.insert(name.to_string(), end as u64);
        end += count.parse::<usize>().map_err(|_| failed())?;
    }
    Ok((places, end))
}

/// Lines of code, each a whole instruction or a label: a long instruction stands on several.
fn joined<'a>(lines: impl Iterator<Item = &'a (usize, &'a str)>) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = vec![];
    for (number, line) in lines {
        match found.last_mut().filter(|(_, before)| !before.ends_with([';', ':'])) {
            Some((_, before)) => *before = format!("{before} {line}"),
            None => found.push((*number, line.to_string())),
        }
    }
    found
}

fn entry(lines: &[(usize, &str)], outside: &[(usize, &str)]) -> Result<Entry, String> {
    let (mut shared, bytes) = shared_memory(lines)?;
    let launched = bytes.next_multiple_of(LAUNCHED_ALIGN);
    shared.extend(launched_memory(outside).map(|name| (name.to_string(), launched as u64)));
    let name = lines[0].1.split(".entry ").nth(1).map(|n| n.trim_end_matches(['(', ')']).to_string()).unwrap_or_default();
    let body = lines.iter().position(|(_, l)| *l == "{").ok_or_else(|| format!("`{name}` has no body"))?;
    let end = lines.iter().position(|(_, l)| *l == "}").ok_or_else(|| format!("`{name}` does not end"))?;
    let parameters: Vec<&str> = lines[..body].iter().filter(|(_, l)| l.starts_with(".param")).map(|(_, l)| *l).collect();
    let word = |l: &str| l.trim_end_matches(',').rsplit(' ').next().unwrap_or_default().to_string();
    let threads = lines[..body].iter().find_map(|(_, l)| l.strip_prefix(".reqntid ")?.split(',').next()?.trim().parse().ok());
    let code = joined(lines[body + 1..end].iter().filter(|(_, l)| !l.is_empty() && !l.starts_with('.')));
    let mut labels = HashMap::new();
    let mut count = 0;
    for (_, line) in &code {
        match line.strip_suffix(':') {
            Some(label) => drop(labels.insert(label.to_string(), count)),
            None => count += 1,
        }
    }
    let numbered = parameters.iter().enumerate().map(|(i, l)| (word(l), i)).collect();
    let mut names = Names { parameters: numbered, shared: &shared, labels, registers: HashMap::new() };
    let lines = code.iter().filter(|(_, l)| !l.ends_with(':'));
    let code: Vec<Instruction> = lines
        .map(|(number, line)| names.instruction(*number, line).map_err(|e| format!("line {number}: `{line}`: {e}")))
        .collect::<Result<_, _>>()?;
    let joins = joins(&code);
    Ok(Entry { name, threads, shared: bytes, parameters: parameters.len(), code, joins, registers: names.registers.len() })
}

impl Names<'_> {
    fn instruction(&mut self, line: usize, text: &str) -> Result<Instruction, String> {
        let mut rest = text.strip_suffix(';').ok_or("no semicolon")?;
        let mut guard = None;
        if let Some(guarded) = rest.strip_prefix('@') {
            let (predicate, after) = guarded.split_once(char::is_whitespace).ok_or("a predicate without an instruction")?;
            guard = Some((self.register(predicate.trim_start_matches('!')), predicate.starts_with('!')));
            rest = after.trim();
        }
        let (opcode, operands) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let op = decode(opcode)?;
        let operands = parts(operands).iter().map(|o| self.operand(o)).collect::<Result<_, _>>()?;
        Ok(Instruction { line, text: text.to_string(), opcode: opcode.to_string(), guard, op, operands })
    }

    fn register(&mut self, name: &str) -> usize {
        let next = self.registers.len();
        *self.registers.entry(name.to_string()).or_insert(next)
    }

    fn operand(&mut self, text: &str) -> Result<Operand, String> {
        if let Some(inner) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
            return Ok(Operand::Vector(parts(inner).iter().map(|o| self.operand(o)).collect::<Result<_, _>>()?));
        }
        if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            let (base, displacement) = inner.split_once('+').unwrap_or((inner, "0"));
            let displacement = displacement.parse().map_err(|_| format!("`{displacement}` is no displacement"))?;
            return Ok(Operand::Address(Box::new(self.operand(base)?), displacement));
        }
        match text {
            "%tid.x" => return Ok(Operand::Thread),
            "%ctaid.x" => return Ok(Operand::Block),
            "%nctaid.x" => return Ok(Operand::Blocks),
            _ if text.starts_with('%') || text == "tmp" => return Ok(Operand::Register(self.register(text))),
            _ => {}
        }
        if let Some(number) = immediate(text) {
            return Ok(Operand::Immediate(number));
        }
        let (name, displacement) = text.split_once('+').unwrap_or((text, "0"));
        let place = self.shared.get(name).zip(displacement.parse::<u64>().ok()).map(|(at, d)| Operand::Immediate(at + d));
        let parameter = self.parameters.get(text).map(|p| Operand::Parameter(*p));
        let label = self.labels.get(text).map(|l| Operand::Label(*l));
        place.or(parameter).or(label).ok_or_else(|| format!("`{text}` is not known"))
    }
}

fn immediate(text: &str) -> Option<u64> {
    let text = text.strip_suffix('U').unwrap_or(text);
    if let Some(bits) = text.strip_prefix("0f").or(text.strip_prefix("0d")).or(text.strip_prefix("0x")) {
        return u64::from_str_radix(bits, 16).ok();
    }
    match text {
        "true" => Some(1),
        "false" => Some(0),
        _ => text.parse::<i64>().map(|v| v as u64).ok().or(text.parse().ok()),
    }
}

/// The operands of an instruction: what commas divide, but for those in brackets and braces.
fn parts(text: &str) -> Vec<String> {
    let (mut depth, mut found) = (0, vec![String::new()]);
    for c in text.chars() {
        depth += i32::from(matches!(c, '{' | '[')) - i32::from(matches!(c, '}' | ']'));
        match (c, found.last_mut()) {
            (',' | '|', _) if depth == 0 => found.push(String::new()),
            (c, Some(last)) => last.push(c),
            (_, None) => {}
        }
    }
    found.iter().map(|p| p.trim().to_string()).filter(|p| !p.is_empty()).collect()
}
