//! Reads a graph from text.
//!
//! Invariant: no text makes it panic, recurse without bound or allocate what the file does not spell out; every error
//! names the line, what was expected and what stands there.

use super::data::data;
use super::{did_you_mean, quoted};
use crate::attr::Attr;
use crate::expr::{Cursor, is_name_char};
use crate::graph::{Graph, NodeId, ValueId};
use crate::op::{OPS, Op, OpDef};
use crate::tensor::Tensor;
use crate::ty::{DType, TensorType};
use std::collections::HashMap;
use std::sync::Arc;

/// How deep regions may be nested: as deep as the importer nests loops and branches, and a stage and a kernel in them.
const MAX_REGIONS: usize = 48;

/// Why a text is not a graph: `mlp.egir:7: there is no value `hh`; did you mean `h`?`
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct TextError {
    /// The file, as the reader was told.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What was expected and what was found.
    pub message: String,
}

/// Reads a graph from a text without a file.
///
/// # Errors
/// The first thing that does not read or type-check.
pub fn parse(text: &str) -> Result<Graph, TextError> {
    Reader::new("text").read(text)
}

/// What finds the data of a constant by its [`content_hash`](super::content_hash).
pub(super) type Resolver<'a> = &'a dyn Fn(&str) -> Option<Tensor>;

/// Reads graphs from files: knows the file's name for messages, and where large constants come from.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    file: &'a str,
    resolver: Option<Resolver<'a>>,
}

impl<'a> Reader<'a> {
    /// A reader whose messages begin with `file`.
    pub fn new(file: &'a str) -> Reader<'a> {
        Reader { file, resolver: None }
    }

    /// Takes the data of `data(blake3:...)` constants from `resolver`, which gets the hash.
    pub fn resolve(self, resolver: Resolver<'a>) -> Reader<'a> {
        Reader { resolver: Some(resolver), ..self }
    }

    /// Reads one graph.
    ///
    /// # Errors
    /// The first thing that does not read or type-check.
    pub fn read(&self, text: &str) -> Result<Graph, TextError> {
        let mut parser = Parser { cursor: Cursor::new(text), resolver: self.resolver, regions: 0 };
        parser.graph().map_err(|fault| TextError {
            file: self.file.to_string(),
            line: 1 + text[..fault.at].matches('\n').count(),
            message: fault.message,
        })
    }
}

/// An error and the byte it stands at.
struct Fault {
    at: usize,
    message: String,
}

impl Fault {
    fn new(at: usize, message: impl Into<String>) -> Fault {
        Fault { at, message: message.into() }
    }
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    resolver: Option<Resolver<'a>>,
    regions: usize,
}

/// A graph under construction, and where each name was defined.
struct Scope {
    graph: Graph,
    names: HashMap<String, (ValueId, usize)>,
}

/// A name and the byte it stands at.
type Spot = (usize, String);

/// What may follow the operands of a node.
struct Notes {
    types: Option<Vec<TensorType>>,
    origin: Vec<Arc<str>>,
}

impl<'a> Parser<'a> {
    /// Runs a reader of the cursor; its error stands where the cursor stopped.
    fn lex<T>(&mut self, read: impl FnOnce(&mut Cursor<'a>) -> Result<T, String>) -> Result<T, Fault> {
        read(&mut self.cursor).map_err(|message| Fault::new(self.cursor.position(), message))
    }

    fn graph(&mut self) -> Result<Graph, Fault> {
        self.lex(|c| expect_word(c, "graph"))?;
        let mut scope = Scope::new(self.lex(Cursor::name)?);
        let params = self.lex(|c| {
            c.expect("(")?;
            c.list(")", |c| Ok((spot(c)?, typed(c)?)))
        })?;
        for ((at, name), ty) in params {
            scope.claim(at, &name, self.cursor.text())?;
            let id = scope.graph.add_param(&name, ty);
            scope.names.insert(name, (id, at));
        }
        let at = self.cursor.position();
        let declared = if self.cursor.eat("->") { Some(self.lex(types)?) } else { None };
        self.lex(|c| c.expect("{"))?;
        self.body(&mut scope)?;
        self.lex(Cursor::end)?;
        let found: Vec<TensorType> = scope.graph.results.iter().map(|&r| scope.graph.ty(r).clone()).collect();
        match declared {
            Some(declared) if declared != found => {
                Err(Fault::new(at, format!("the graph is declared to return {}, but it returns {}", shown(&declared), shown(&found))))
            }
            _ => Ok(scope.graph),
        }
    }

    /// Statements up to and with `}`.
    fn body(&mut self, scope: &mut Scope) -> Result<(), Fault> {
        loop {
            if eat_word(&mut self.cursor, "return") {
                return self.results(scope);
            } else if eat_word(&mut self.cursor, "const") {
                self.constant(scope)?;
            } else if self.cursor.rest().starts_with('}') {
                return Err(Fault::new(self.cursor.position(), "expected `return` and the results before `}`"));
            } else {
                self.node(scope)?;
            }
        }
    }

    fn results(&mut self, scope: &mut Scope) -> Result<(), Fault> {
        let results = self.lex(|c| {
            c.list("}", |c| {
                let (at, name) = spot(c)?;
                let outer = if eat_word(c, "as") { c.name()? } else { name.clone() };
                Ok(((at, name), outer))
            })
        })?;
        for (inner, outer) in results {
            let value = scope.value(&inner)?;
            scope.graph.add_result(value, &outer);
        }
        Ok(())
    }

    fn constant(&mut self, scope: &mut Scope) -> Result<(), Fault> {
        let (at, name) = self.lex(spot)?;
        scope.claim(at, &name, self.cursor.text())?;
        let ty = self.lex(typed)?;
        let data = self.lex(|c| {
            c.expect("=")?;
            data(c, ty.dtype)
        })?;
        let (tensor, source) = data.tensor(&ty, self.resolver).map_err(|e| Fault::new(at, e))?;
        let id = scope.graph.add_const_from(&name, tensor, source);
        scope.names.insert(name, (id, at));
        Ok(())
    }

    fn node(&mut self, scope: &mut Scope) -> Result<(), Fault> {
        let names = self.lex(|c| {
            let mut names = vec![spot(c)?];
            while c.eat(",") {
                names.push(spot(c)?);
            }
            c.expect("=")?;
            Ok(names)
        })?;
        let known: Vec<&str> = names.iter().map(|(_, n)| n.as_str()).collect();
        for (i, (at, name)) in names.iter().enumerate() {
            scope.claim(*at, name, self.cursor.text())?;
            if name.is_empty() || known[..i].contains(&name.as_str()) {
                return Err(Fault::new(*at, format!("expected a name of its own for each result, found {} again", quoted(name))));
            }
        }
        let at = self.cursor.position();
        let (results, notes) = match () {
            () if eat_word(&mut self.cursor, "kernel") => self.region(scope, at, &known, |name| Op::kernel { name })?,
            () if eat_word(&mut self.cursor, "stage") => self.region(scope, at, &known, |name| Op::stage { name })?,
            () if eat_word(&mut self.cursor, "repeat") => self.control(scope, at, &known, "repeat")?,
            () if eat_word(&mut self.cursor, "branch") => self.control(scope, at, &known, "branch")?,
            () => self.apply(scope, at, &known)?,
        };
        if results.len() != names.len() {
            return Err(Fault::new(names[0].0, format!("expected {} names for the results, found {}", results.len(), names.len())));
        }
        for ((at, name), &result) in names.iter().zip(&results) {
            scope.names.insert(name.clone(), (result, *at));
        }
        scope.check_types(names[0].0, &results, notes.types)?;
        if !notes.origin.is_empty() {
            let node = NodeId::at(scope.graph.nodes().len() - 1);
            scope.graph.set_origin(node, notes.origin);
        }
        Ok(())
    }

    /// `op[attributes](operands) notes`.
    fn apply(&mut self, scope: &mut Scope, at: usize, names: &[&str]) -> Result<(Vec<ValueId>, Notes), Fault> {
        let op = self.lex(Cursor::name)?;
        let candidates = || OPS.iter().map(|d| d.name);
        let def = OpDef::named(&op).ok_or_else(|| Fault::new(at, format!("there is no op `{op}`{}", did_you_mean(&op, candidates()))))?;
        let attrs = self.lex(|c| attrs(c, def))?;
        let op = Op::parse(def.name, &attrs).map_err(|e| Fault::new(at, e))?;
        let operands = self.lex(|c| {
            c.expect("(")?;
            c.list(")", operand)
        })?;
        let operands = operands.iter().map(|o| scope.value(o)).collect::<Result<Vec<_>, _>>()?;
        let notes = self.lex(notes)?;
        let results = scope.graph.add_node(op, &operands, names, vec![]).map_err(|e| Fault::new(at, e))?;
        Ok((results, notes))
    }

    /// `name(parameter = operand, ...) notes { body }`, after the word `kernel` or `stage`.
    fn region(&mut self, scope: &mut Scope, at: usize, names: &[&str], op: fn(Arc<str>) -> Op) -> Result<(Vec<ValueId>, Notes), Fault> {
        if self.regions == MAX_REGIONS {
            return Err(Fault::new(at, format!("expected kernels nested at most {MAX_REGIONS} deep, found more")));
        }
        let kernel = self.lex(Cursor::name)?;
        let bindings = self.lex(|c| {
            c.expect("(")?;
            c.list(")", |c| {
                let param = spot(c)?;
                let operand = if c.eat("=") { spot(c)? } else { param.clone() };
                Ok((param, operand))
            })
        })?;
        let notes = self.lex(notes)?;
        self.lex(|c| c.expect("{"))?;
        self.refuse_summary(&kernel)?;
        let mut region = Scope::new(kernel.clone());
        let mut operands = vec![];
        for ((at, param), operand) in bindings {
            let value = scope.value(&operand)?;
            region.claim(at, &param, self.cursor.text())?;
            let id = region.graph.add_param(&param, scope.graph.ty(value).clone());
            region.names.insert(param, (id, at));
            operands.push(value);
        }
        self.regions += 1;
        self.body(&mut region)?;
        self.regions -= 1;
        let results = scope.graph.add_region(op(kernel.into()), region.graph, &operands, names, vec![]).map_err(|e| Fault::new(at, e))?;
        Ok((results, notes))
    }

    /// `name[attributes](parameter: type = operand, ...) notes { body } else { body }`, after the word `repeat` or `branch`.
    fn control(&mut self, scope: &mut Scope, at: usize, names: &[&str], op: &str) -> Result<(Vec<ValueId>, Notes), Fault> {
        let own = self.lex(Cursor::name)?;
        let def = OpDef::named(op).ok_or_else(|| Fault::new(at, format!("there is no op `{op}`")))?;
        let mut given = self.lex(|c| attrs(c, def))?;
        given.push(("name".to_string(), Attr::Word(own.clone().into())));
        let op = Op::parse(def.name, &given).map_err(|e| Fault::new(at, e))?;
        let bindings = self.lex(|c| {
            c.expect("(")?;
            c.list(")", |c| {
                let param = spot(c)?;
                let ty = if c.clone().eat(":") { Some(typed(c)?) } else { None };
                let operand = if c.eat("=") { spot(c)? } else { param.clone() };
                Ok((param, ty, operand))
            })
        })?;
        let notes = self.lex(notes)?;
        let operands = bindings.iter().map(|(_, _, operand)| scope.value(operand)).collect::<Result<Vec<_>, _>>()?;
        let mut params = vec![];
        for ((param, ty, _), &operand) in bindings.into_iter().zip(&operands) {
            params.push((param, ty.unwrap_or_else(|| scope.graph.ty(operand).clone())));
        }
        let mut regions = vec![self.inner(&own, &params)?];
        if eat_word(&mut self.cursor, "else") {
            regions.push(self.inner(&own, &params)?);
        }
        let types =
            notes.types.clone().ok_or_else(|| Fault::new(at, format!("expected the types of the results of `{own}` behind `:`")))?;
        let results = scope.graph.add_control(op, regions, &operands, types, names, vec![]).map_err(|e| Fault::new(at, e))?;
        Ok((results, notes))
    }

    /// `{ body }` with these parameters.
    fn inner(&mut self, name: &str, params: &[(Spot, TensorType)]) -> Result<Graph, Fault> {
        if self.regions == MAX_REGIONS {
            return Err(Fault::new(self.cursor.position(), format!("expected regions nested at most {MAX_REGIONS} deep, found more")));
        }
        self.lex(|c| c.expect("{"))?;
        let mut region = Scope::new(name.to_string());
        for ((at, param), ty) in params {
            region.claim(*at, param, self.cursor.text())?;
            let id = region.graph.add_param(param, ty.clone());
            region.names.insert(param.clone(), (id, *at));
        }
        self.regions += 1;
        self.body(&mut region)?;
        self.regions -= 1;
        Ok(region.graph)
    }

    /// `{ matmul · add }` says what a kernel holds, but not how it is wired.
    fn refuse_summary(&mut self, kernel: &str) -> Result<(), Fault> {
        let mut ahead = self.cursor.clone();
        let summary = ahead.name().is_ok_and(|n| n != "return") && ahead.rest().starts_with(['·', '}']);
        if summary || self.cursor.rest().starts_with('}') {
            let message =
                format!("expected the nodes of kernel `{kernel}`, found a summary; print the graph with full regions to read it back");
            return Err(Fault::new(self.cursor.position(), message));
        }
        Ok(())
    }
}

impl Scope {
    fn new(name: String) -> Scope {
        Scope { graph: Graph::new(name), names: HashMap::new() }
    }

    /// The value of a name.
    fn value(&self, (at, name): &Spot) -> Result<ValueId, Fault> {
        let near = || did_you_mean(name, self.graph.values().iter().map(|v| &*v.name));
        self.names.get(name).map(|v| v.0).ok_or_else(|| Fault::new(*at, format!("there is no value {} above{}", ticked(name), near())))
    }

    /// Makes sure that a name is still free.
    fn claim(&self, at: usize, name: &str, text: &str) -> Result<(), Fault> {
        match self.names.get(name) {
            None => Ok(()),
            Some((_, first)) => {
                let line = 1 + text[..*first].matches('\n').count();
                Err(Fault::new(at, format!("expected a new name, found {}, which line {line} defines", ticked(name))))
            }
        }
    }

    fn check_types(&self, at: usize, values: &[ValueId], annotated: Option<Vec<TensorType>>) -> Result<(), Fault> {
        let Some(annotated) = annotated else {
            return Ok(());
        };
        if annotated.len() != values.len() {
            return Err(Fault::new(at, format!("expected {} types, one for each result, found {}", values.len(), annotated.len())));
        }
        for (&value, annotated) in values.iter().zip(&annotated) {
            let value = self.graph.value(value);
            if value.ty != *annotated {
                return Err(Fault::new(at, format!("{} is annotated {annotated}, but its op makes {}", ticked(&value.name), value.ty)));
            }
        }
        Ok(())
    }
}

fn ticked(name: &str) -> String {
    format!("`{name}`")
}

fn shown(types: &[TensorType]) -> String {
    match types {
        [] => "nothing".into(),
        types => types.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(", "),
    }
}

fn spot(cursor: &mut Cursor) -> Result<Spot, String> {
    Ok((cursor.position(), cursor.name()?))
}

fn operand(cursor: &mut Cursor) -> Result<Spot, String> {
    match cursor.clone().number() {
        Some((number, _)) => {
            Err(format!("expected the name of a value, found {number}; give the number a name: `const c: f32[] = {number}`"))
        }
        None => spot(cursor),
    }
}

/// Takes `word` if it stands next as a whole word.
pub(super) fn eat_word(cursor: &mut Cursor, word: &str) -> bool {
    cursor.rest().strip_prefix(word).is_some_and(|rest| !rest.starts_with(is_name_char)) && cursor.eat(word)
}

fn expect_word(cursor: &mut Cursor, word: &str) -> Result<(), String> {
    if eat_word(cursor, word) { Ok(()) } else { Err(format!("expected `{word}`, found {}", cursor.found())) }
}

/// `: type`.
fn typed(cursor: &mut Cursor) -> Result<TensorType, String> {
    cursor.expect(":")?;
    ty(cursor)
}

/// `f32[N, 784]`.
fn ty(cursor: &mut Cursor) -> Result<TensorType, String> {
    let mut ahead = cursor.clone();
    let word = ahead.name()?;
    let near = || did_you_mean(&word, DType::ALL.map(DType::name));
    let dtype = DType::named(&word).ok_or_else(|| format!("there is no element type `{word}`{}", near()))?;
    *cursor = ahead;
    cursor.expect("[")?;
    let dims = cursor.list("]", |c| {
        let dim = c.dim()?;
        if dim.as_const().is_some_and(|d| d < 0) { Err(format!("expected an extent of at least 0, found {dim}")) } else { Ok(dim) }
    })?;
    Ok(TensorType { dtype, dims })
}

fn types(cursor: &mut Cursor) -> Result<Vec<TensorType>, String> {
    let mut types = vec![ty(cursor)?];
    while cursor.eat(",") {
        types.push(ty(cursor)?);
    }
    Ok(types)
}

/// The types and origins behind a node.
fn notes(cursor: &mut Cursor) -> Result<Notes, String> {
    let types = if cursor.eat(":") { Some(types(cursor)?) } else { None };
    let mut origin: Vec<Arc<str>> = vec![];
    if cursor.eat("@") {
        origin.push(cursor.string()?.into());
        while cursor.eat(",") {
            origin.push(cursor.string()?.into());
        }
    }
    origin.sort();
    origin.dedup();
    Ok(Notes { types, origin })
}

/// The attributes in brackets, by name or by position.
pub(super) fn attrs(cursor: &mut Cursor, def: &OpDef) -> Result<Vec<(String, Attr)>, String> {
    let mut attrs: Vec<(String, Attr)> = vec![];
    if !cursor.eat("[") {
        return Ok(attrs);
    }
    cursor.list("]", |c| {
        let mut ahead = c.clone();
        let name = match ahead.name() {
            Ok(name) if ahead.eat("=") => {
                *c = ahead;
                name
            }
            _ => def.attrs.get(attrs.len()).ok_or_else(|| format!("`{}` has only {} attributes", def.name, def.attrs.len()))?.to_string(),
        };
        if attrs.iter().any(|(n, _)| *n == name) {
            return Err(format!("expected the attribute `{name}` once, found it twice"));
        }
        attrs.push((name, c.attr()?));
        Ok(())
    })?;
    Ok(attrs)
}
