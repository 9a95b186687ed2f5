//! Expressions over ops: the bodies of composite ops, and both sides of rewrite rules.
//!
//! ```text
//! mul(x, sigmoid(x))                      operands and composite attributes are names
//! reduce_mean[axes](x)                    attributes in the table's order ...
//! transpose[perm = compose(q, p)](x)      ... or by name; a name is a variable, a call is an attribute function
//! mul(x, 0.5)                             a number stands for a rank-0 constant of its sibling's element type
//! ```

use crate::attr::{Attr, Real};
use crate::dim::Dim;
use crate::op::{Op, OpDef};
use crate::tensor::{Element, Tensor};
use crate::ty::{DType, TensorType};
use std::collections::HashMap;
use std::fmt;
use std::sync::{LazyLock, Mutex};

/// An expression over named values.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// An operand, or an attribute that stands as a number.
    Var(String),
    /// A rank-0 constant of its sibling's element type.
    Literal(Real),
    /// An op applied to operands.
    App {
        /// The op, whose attributes are still expressions.
        op: &'static OpDef,
        /// One per attribute of the op, in the table's order.
        attrs: Vec<AttrExpr>,
        /// The operands.
        operands: Vec<Expr>,
    },
}

/// An attribute inside an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum AttrExpr {
    /// Bound by the pattern or by the composite's own attributes.
    Var(String),
    /// A value.
    Value(Attr),
    /// An attribute function of other attributes.
    Call(String, Vec<AttrExpr>),
}

impl PartialEq for &'static OpDef {
    fn eq(&self, other: &&'static OpDef) -> bool {
        self.name == other.name
    }
}

impl Expr {
    /// Reads one expression.
    ///
    /// # Errors
    /// Says what was expected and what stands there.
    pub fn parse(text: &str) -> Result<Expr, String> {
        let mut cursor = Cursor::new(text);
        let expr = cursor.expr()?;
        cursor.end()?;
        Ok(expr)
    }

    /// The names of its variables in the order of their first occurrence, operands before attributes at each op.
    pub fn vars(&self) -> Vec<String> {
        let mut found = vec![];
        self.visit_vars(&mut found);
        found
    }

    fn visit_vars(&self, found: &mut Vec<String>) {
        match self {
            Expr::Var(name) => note(name, found),
            Expr::Literal(_) => {}
            Expr::App { attrs, operands, .. } => {
                operands.iter().for_each(|o| o.visit_vars(found));
                attrs.iter().for_each(|a| a.visit_vars(found));
            }
        }
    }
}

impl AttrExpr {
    fn visit_vars(&self, found: &mut Vec<String>) {
        match self {
            AttrExpr::Var(name) => note(name, found),
            AttrExpr::Value(_) => {}
            AttrExpr::Call(_, arguments) => arguments.iter().for_each(|a| a.visit_vars(found)),
        }
    }

    /// The value, with variables from `attrs` and functions from `call`.
    ///
    /// # Errors
    /// When a variable is unbound or a function does not apply.
    pub fn value(&self, attrs: &HashMap<String, Attr>, call: &CallAttr) -> Result<Attr, String> {
        match self {
            AttrExpr::Var(name) => attrs.get(name).cloned().ok_or_else(|| format!("`{name}` is not bound")),
            AttrExpr::Value(value) => Ok(value.clone()),
            AttrExpr::Call(function, arguments) => {
                let arguments = arguments.iter().map(|a| a.value(attrs, call)).collect::<Result<Vec<_>, _>>()?;
                call(function, &arguments)
            }
        }
    }
}

fn note(name: &str, found: &mut Vec<String>) {
    if !found.iter().any(|f| f == name) {
        found.push(name.to_string());
    }
}

/// Attribute functions by name: what `compose(q, p)` computes.
pub type CallAttr<'a> = dyn Fn(&str, &[Attr]) -> Result<Attr, String> + 'a;

/// No attribute functions at all.
pub fn no_calls(name: &str, _: &[Attr]) -> Result<Attr, String> {
    Err(format!("there is no attribute function `{name}`"))
}

/// What an expression is evaluated over: types, or tensors.
pub trait Domain: Sized + Clone {
    /// The element type of a value.
    fn dtype(&self) -> DType;
    /// A rank-0 constant.
    fn literal(value: f64, dtype: DType) -> Self;
    /// An op applied to values; composites have one result.
    fn apply(op: &Op, operands: &[&Self]) -> Result<Self, String>;
}

impl Domain for TensorType {
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn literal(_: f64, dtype: DType) -> TensorType {
        TensorType::scalar(dtype)
    }
    fn apply(op: &Op, operands: &[&TensorType]) -> Result<TensorType, String> {
        Ok(op.infer(operands)?.swap_remove(0))
    }
}

impl Domain for Tensor {
    fn dtype(&self) -> DType {
        Tensor::dtype(self)
    }
    fn literal(value: f64, dtype: DType) -> Tensor {
        Tensor::scalar(dtype, Element::Float(value))
    }
    fn apply(op: &Op, operands: &[&Tensor]) -> Result<Tensor, String> {
        Ok(op.eval(operands)?.swap_remove(0))
    }
}

/// The value of an expression over any domain: types to infer, tensors to evaluate, or nodes to build.
///
/// # Errors
/// When a variable is unbound or an op does not take its operands.
pub fn evaluate<D: Domain>(expr: &Expr, vars: &HashMap<String, D>, attrs: &HashMap<String, Attr>, call: &CallAttr) -> Result<D, String> {
    evaluate_with(expr, vars, attrs, call, None)
}

fn evaluate_with<D: Domain>(
    expr: &Expr,
    vars: &HashMap<String, D>,
    attrs: &HashMap<String, Attr>,
    call: &CallAttr,
    sibling: Option<DType>,
) -> Result<D, String> {
    let number = |value: f64| {
        sibling.map(|t| D::literal(value, t)).ok_or_else(|| format!("the literal {value} has no sibling to take its element type from"))
    };
    match expr {
        Expr::Literal(value) => number(value.0),
        Expr::Var(name) => match (vars.get(name), attrs.get(name)) {
            (Some(value), _) => Ok(value.clone()),
            (None, Some(Attr::Real(value))) => number(value.0),
            (None, Some(Attr::Dim(value))) => number(value.as_const().ok_or("a symbolic extent cannot stand as a number")? as f64),
            _ => Err(format!("`{name}` is not bound")),
        },
        Expr::App { op, attrs: attr_exprs, operands } => {
            let values = attr_exprs.iter().map(|a| a.value(attrs, call)).collect::<Result<Vec<_>, _>>()?;
            let op = op.build(&values)?;
            let is_number = |o: &Expr| match o {
                Expr::Literal(_) => true,
                Expr::Var(name) => !vars.contains_key(name),
                Expr::App { .. } => false,
            };
            let mut results: Vec<Option<D>> = vec![None; operands.len()];
            for (slot, operand) in results.iter_mut().zip(operands).filter(|(_, o)| !is_number(o)) {
                *slot = Some(evaluate_with(operand, vars, attrs, call, None)?);
            }
            let sibling = results.iter().flatten().map(D::dtype).next();
            for (slot, operand) in results.iter_mut().zip(operands).filter(|(_, o)| is_number(o)) {
                *slot = Some(evaluate_with(operand, vars, attrs, call, sibling)?);
            }
            D::apply(&op, &results.iter().flatten().collect::<Vec<_>>())
        }
    }
}

/// The parsed body of a composite op.
///
/// # Panics
/// When `def` is not a composite; the bodies themselves are checked by a test.
pub fn body(def: &'static OpDef) -> Expr {
    static BODIES: LazyLock<Mutex<HashMap<&'static str, Expr>>> = LazyLock::new(Mutex::default);
    let mut bodies = BODIES.lock().unwrap_or_else(|e| e.into_inner());
    bodies.entry(def.name).or_insert_with(|| Expr::parse(def.meaning).unwrap_or_else(|e| panic!("the body of `{}`: {e}", def.name))).clone()
}

/// The value of a composite op's body over any domain.
///
/// # Errors
/// As [`evaluate`].
pub fn expand<D: Domain>(op: &Op, operands: &[&D]) -> Result<D, String> {
    let def = op.def();
    let vars = def.operands.iter().map(|n| n.to_string()).zip(operands.iter().map(|&v| v.clone())).collect();
    let attrs = def.attrs.iter().map(|n| n.to_string()).zip(op.attrs()).collect();
    evaluate(&body(def), &vars, &attrs, &no_calls)
}

pub(crate) fn infer_body(op: &Op, operands: &[&TensorType]) -> Result<Vec<TensorType>, String> {
    Ok(vec![expand(op, operands)?])
}

pub(crate) fn eval_body(op: &Op, operands: &[&Tensor]) -> Result<Vec<Tensor>, String> {
    Ok(vec![expand(op, operands)?])
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Var(name) => f.write_str(name),
            Expr::Literal(value) => write!(f, "{value}"),
            Expr::App { op, attrs, operands } => {
                f.write_str(op.name)?;
                if !attrs.is_empty() {
                    let attrs: Vec<String> = op
                        .attrs
                        .iter()
                        .zip(attrs)
                        .map(|(n, a)| if a.to_string() == *n { a.to_string() } else { format!("{n} = {a}") })
                        .collect();
                    write!(f, "[{}]", attrs.join(", "))?;
                }
                let operands: Vec<String> = operands.iter().map(|o| o.to_string()).collect();
                write!(f, "({})", operands.join(", "))
            }
        }
    }
}

impl fmt::Display for AttrExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttrExpr::Var(name) => f.write_str(name),
            AttrExpr::Value(value) => write!(f, "{value}"),
            AttrExpr::Call(function, arguments) => {
                let arguments: Vec<String> = arguments.iter().map(|a| a.to_string()).collect();
                write!(f, "{function}({})", arguments.join(", "))
            }
        }
    }
}

/// A position in a text: the lexer of expressions and of the textual IR.
#[derive(Clone)]
pub struct Cursor<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

/// How deep brackets may be nested. The deepest text that the compiler itself prints has 5 levels; the parser's stack
/// would hold thousands, but a file must not be able to exhaust it.
const MAX_DEPTH: usize = 64;

/// How many terms an extent may have before it is multiplied out; `(a + b)*(c + d)*...` doubles them with each factor.
const MAX_TERMS: usize = 64;

impl<'a> Cursor<'a> {
    /// At the start of a text.
    pub fn new(text: &'a str) -> Cursor<'a> {
        Cursor { text, at: 0, depth: 0 }
    }

    /// The whole text.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// Byte offset of the next token.
    pub fn position(&mut self) -> usize {
        self.skip_space();
        self.at
    }

    /// What is left, without leading white space and `#` comments.
    pub fn rest(&mut self) -> &'a str {
        self.skip_space();
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with('#') {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    /// Takes `token` if it stands next.
    pub fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Takes `token`.
    ///
    /// # Errors
    /// Says what stands there instead.
    pub fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) { Ok(()) } else { Err(format!("expected `{token}`, found {}", self.found())) }
    }

    /// What stands next, for messages.
    pub fn found(&mut self) -> String {
        let word: String = self.rest().chars().take_while(|c| !c.is_whitespace()).take(24).collect();
        if word.is_empty() { "the end".to_string() } else { format!("`{word}`") }
    }

    /// Whether nothing is left.
    ///
    /// # Errors
    /// Says what is.
    pub fn end(&mut self) -> Result<(), String> {
        if self.rest().is_empty() { Ok(()) } else { Err(format!("expected the end, found {}", self.found())) }
    }

    /// An identifier `[A-Za-z_/%][A-Za-z0-9_./%-]*` (letters of any script); one with other characters is quoted: `"a b"`.
    pub fn name(&mut self) -> Result<String, String> {
        let rest = self.rest();
        if rest.starts_with('"') {
            return self.string();
        }
        let length = rest.find(|c: char| !is_name_char(c)).unwrap_or(rest.len());
        let name = &rest[..length];
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.') {
            return Err(format!("expected a name, found {}", self.found()));
        }
        self.at += length;
        Ok(name.to_string())
    }

    /// Runs `inner` one level of brackets deeper.
    ///
    /// # Errors
    /// When that is too deep.
    pub fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        if self.depth == MAX_DEPTH {
            return Err(format!("expected at most {MAX_DEPTH} levels of brackets, found more"));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// A quoted string with the escapes `\"`, `\\`, `\n`, `\r` and `\t`.
    pub fn string(&mut self) -> Result<String, String> {
        self.expect("\"")?;
        let mut value = String::new();
        let mut chars = self.text[self.at..].char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Ok(value);
                }
                '\\' => value.extend(chars.next().map(|(_, c)| match c {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    c => c,
                })),
                c => value.push(c),
            }
        }
        Err("expected a closing `\"`".to_string())
    }

    /// A number, if one stands next; `true` in the pair when it is written as a float.
    pub fn number(&mut self) -> Option<(f64, bool)> {
        let rest = self.rest();
        let body = rest.strip_prefix('-').unwrap_or(rest);
        for special in ["inf", "NaN"] {
            if body.starts_with(special) && !body[special.len()..].starts_with(is_name_char) {
                let length = rest.len() - body.len() + special.len();
                self.at += length;
                return rest[..length].parse().ok().map(|v| (v, true));
            }
        }
        if !body.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let mut length = rest.len() - body.len();
        let bytes = rest.as_bytes();
        while length < bytes.len() {
            let c = bytes[length] as char;
            let sign = (c == '-' || c == '+') && matches!(bytes[length - 1], b'e' | b'E');
            if !(c.is_ascii_digit() || c == '.' || c == 'e' || c == 'E' || sign) {
                break;
            }
            length += 1;
        }
        let text = &rest[..length];
        let value = text.parse().ok()?;
        self.at += length;
        Some((value, text.contains(['.', 'e', 'E'])))
    }

    /// An integer, if one stands next.
    pub fn integer(&mut self) -> Option<i128> {
        let rest = self.rest();
        let body = rest.strip_prefix('-').unwrap_or(rest);
        let digits = body.find(|c: char| !c.is_ascii_digit()).unwrap_or(body.len());
        let length = rest.len() - body.len() + digits;
        let value = rest[..length].parse().ok()?;
        self.at += length;
        Some(value)
    }

    /// Items between the cursor and `close`, separated by commas; one may stand before `close` too.
    pub fn list<T>(&mut self, close: &str, mut item: impl FnMut(&mut Self) -> Result<T, String>) -> Result<Vec<T>, String> {
        let mut items = vec![];
        while !self.eat(close) {
            items.push(self.nested(&mut item)?);
            if !self.eat(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(items)
    }

    /// `op[attributes](operands)`, a name or a number.
    pub fn expr(&mut self) -> Result<Expr, String> {
        if let Some((value, _)) = self.number() {
            return Ok(Expr::Literal(Real(value)));
        }
        let name = self.name()?;
        if !self.rest().starts_with(['(', '[']) {
            return Ok(Expr::Var(name));
        }
        let op = OpDef::named(&name).ok_or_else(|| format!("there is no op `{name}`"))?;
        let attrs = if self.eat("[") { self.attr_exprs(op)? } else { vec![] };
        if attrs.len() != op.attrs.len() {
            let defaults = op.defaults();
            if attrs.is_empty() && defaults.iter().all(Option::is_some) {
                let attrs = defaults.into_iter().flatten().map(AttrExpr::Value).collect();
                return self.application(op, attrs);
            }
            return Err(format!("`{name}` has the attributes [{}], found {}", op.attrs.join(", "), attrs.len()));
        }
        self.application(op, attrs)
    }

    fn application(&mut self, op: &'static OpDef, attrs: Vec<AttrExpr>) -> Result<Expr, String> {
        self.expect("(")?;
        let operands = self.list(")", Self::expr)?;
        if !op.accepts(operands.len()) {
            return Err(format!("`{}` takes {} operands, found {}", op.name, op.operands.len(), operands.len()));
        }
        Ok(Expr::App { op, attrs, operands })
    }

    /// The attributes up to `]`, by position or by name; in the table's order.
    fn attr_exprs(&mut self, op: &'static OpDef) -> Result<Vec<AttrExpr>, String> {
        let mut found: Vec<Option<AttrExpr>> = op.defaults().into_iter().map(|d| d.map(AttrExpr::Value)).collect();
        let mut next = 0;
        self.list("]", |cursor| {
            let named = cursor.clone().name().ok().filter(|n| op.attrs.contains(&n.as_str()));
            if let Some(name) = named {
                let mut ahead = cursor.clone();
                ahead.name()?;
                if ahead.eat("=") {
                    *cursor = ahead;
                    next = op.attrs.iter().position(|a| *a == name).expect("it is one of them");
                }
            }
            let slot = found.get_mut(next).ok_or_else(|| format!("`{}` has only {} attributes", op.name, op.attrs.len()))?;
            *slot = Some(cursor.attr_expr()?);
            next += 1;
            Ok(())
        })?;
        let missing = op.attrs.iter().zip(&found).find(|(_, f)| f.is_none());
        match missing {
            Some((name, _)) => Err(format!("`{}` needs the attribute `{name}`", op.name)),
            None => Ok(found.into_iter().flatten().collect()),
        }
    }

    fn attr_expr(&mut self) -> Result<AttrExpr, String> {
        let mut ahead = self.clone();
        if let Ok(name) = ahead.name()
            && !matches!(name.as_str(), "div" | "mod" | "max" | "min" | "inf" | "NaN")
            && !ahead.rest().starts_with(['+', '*', '-'])
        {
            *self = ahead;
            if self.eat("(") {
                return Ok(AttrExpr::Call(name, self.list(")", Self::attr_expr)?));
            }
            let constant = name == "true" || name == "false" || DType::named(&name).is_some();
            return Ok(if constant { AttrExpr::Value(Attr::Word(name.into())) } else { AttrExpr::Var(name) });
        }
        Ok(AttrExpr::Value(self.attr()?))
    }

    /// An attribute's value: an extent, a number, a word, or a list of extents or numbers.
    pub fn attr(&mut self) -> Result<Attr, String> {
        if self.eat("[") {
            let items = self.list("]", Self::attr)?;
            if items.iter().any(|i| matches!(i, Attr::Real(_))) {
                let real = |i: &Attr| match i {
                    Attr::Real(r) => Ok(*r),
                    Attr::Dim(d) => d.as_const().map(|c| Real(c as f64)).ok_or_else(|| format!("expected a number, found {d}")),
                    other => Err(format!("expected a number, found {other}")),
                };
                return Ok(Attr::Reals(items.iter().map(real).collect::<Result<_, _>>()?));
            }
            let dim = |i: Attr| match i {
                Attr::Dim(d) => Ok(d),
                Attr::Word(w) => Ok(Dim::symbol(w)),
                other => Err(format!("expected an extent, found {other}")),
            };
            return Ok(Attr::Dims(items.into_iter().map(dim).collect::<Result<_, _>>()?));
        }
        if let Some((value, true)) = self.clone().number() {
            self.number();
            return Ok(Attr::Real(Real(value)));
        }
        let dim = self.dim()?;
        Ok(match dim.as_symbol() {
            Some(word) => Attr::Word(word.clone()),
            None => Attr::Dim(dim),
        })
    }

    /// An extent: sums and products of integers, symbols, `div`, `mod`, `max`, `min` and parentheses.
    pub fn dim(&mut self) -> Result<Dim, String> {
        let mut sum = self.dim_product()?;
        loop {
            if self.eat("+") {
                sum = sum + self.dim_product()?;
            } else if self.rest().starts_with('-') {
                self.expect("-")?;
                sum = sum - self.dim_product()?;
            } else {
                return Ok(sum);
            }
        }
    }

    fn dim_product(&mut self) -> Result<Dim, String> {
        let mut product = self.dim_factor()?;
        while self.eat("*") {
            let factor = self.dim_factor()?;
            if product.terms().len() * factor.terms().len() > MAX_TERMS {
                return Err(format!("expected an extent of at most {MAX_TERMS} terms, found more"));
            }
            product = product * factor;
        }
        Ok(product)
    }

    fn dim_factor(&mut self) -> Result<Dim, String> {
        if self.eat("(") {
            let inner = self.nested(Self::dim)?;
            self.expect(")")?;
            return Ok(inner);
        }
        if self.rest().strip_prefix('-').unwrap_or(self.rest()).starts_with(|c: char| c.is_ascii_digit()) {
            let found = self.found();
            let value = self.integer().and_then(|v| i64::try_from(v).ok());
            return value.map(Dim::from).ok_or_else(|| format!("expected a number below 2^63, found {found}"));
        }
        if self.eat("-") {
            return Ok(-self.nested(Self::dim_factor)?);
        }
        let name = self.symbol_name()?;
        if !self.eat("(") {
            return Ok(Dim::symbol(name));
        }
        let arguments = self.list(")", Self::dim)?;
        match (name.as_str(), arguments.as_slice()) {
            ("div", [a, b]) => Ok(a.floor_div(b)),
            ("mod", [a, b]) => Ok(a.modulo(b)),
            ("max", [a, b]) => Ok(a.maximum(b)),
            ("min", [a, b]) => Ok(a.minimum(b)),
            _ => Err(format!("`{name}` with {} arguments is no function of extents; there are div, mod, max, min of two", arguments.len())),
        }
    }

    /// A symbol: a name without `-` and `/`, which are operators here.
    fn symbol_name(&mut self) -> Result<String, String> {
        let rest = self.rest();
        if rest.starts_with('"') {
            return self.string();
        }
        let length = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.'))).unwrap_or(rest.len());
        if length == 0 {
            return Err(format!("expected an extent, found {}", self.found()));
        }
        self.at += length;
        Ok(rest[..length].to_string())
    }
}

/// Characters of a name that needs no quotes.
pub fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | '%')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Kind, OPS};

    #[test]
    fn expressions_round_trip() {
        for text in ["mul(x, sigmoid(x))", "mul(x, 0.5)", "transpose[perm = compose(q, p)](x)", "reduce_mean[axes](x)"] {
            assert_eq!(Expr::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn every_composite_has_a_body() {
        for def in OPS.iter().filter(|d| d.kind == Kind::Composite) {
            let names: Vec<&str> = def.operands.iter().chain(def.attrs).copied().collect();
            for var in body(def).vars() {
                assert!(names.contains(&var.as_str()), "`{}` uses `{var}`", def.name);
            }
        }
    }

    #[test]
    fn extents_parse() {
        for text in ["2*N + 4", "div(N + 1, 2)", "3*max(M, N)", "-1", "2*\"batch size\"", "-9223372036854775808"] {
            let dim = Cursor::new(text).dim().unwrap();
            assert_eq!(dim.to_string(), text);
        }
    }
}
