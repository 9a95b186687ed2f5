//! Rewrite rules: equations in the IR's own syntax, one a line, each with a name, a numerical class and a guard.
//!
//! ```text
//! rules! {
//!     functions: [compose];
//!     exact  transpose_fuse:           transpose[p](transpose[q](x)) => transpose[compose(p, q)](x);
//!     exact  transpose_drop:           transpose[p](x)               => x,                           if is_identity(p);
//!     exact  transpose_sink<f: unary>: transpose[p](f(x))            => f(transpose[p](x));
//!     ulp    div_number:               div(x, c)                     => mul(x, reciprocal(c)),       if invertible(c);
//! }
//! ```
//!
//! - Both sides are [`Expr`]s. A name is a variable and matches any operand or attribute; a name that stands for an
//!   operand on the left and for an attribute on the right (the epsilon of a norm) matches tensors of one value only.
//! - A number matches a tensor whose elements all have that value.
//! - `conv[..]` stands for all attributes of the op, each under its own name; so does a right side's `conv[..]`.
//! - `<f: unary>` makes one rule for every op of a family: `unary` and `binary` are the ops that compute one element from
//!   one or two elements at the same place.
//! - `reassoc(finite)` in front of a rule: it holds where all values are finite numbers and scores stay far above the numbers
//!   that hide them, as in every model that works. Its proof leaves NaN and the infinities out.
//! - Guards and attribute functions are Rust functions; their parameters take variables by type: attributes as `usize`,
//!   `Vec<usize>`, `Real`, ..., tensors as [`Value`]; a variable of another kind means that the rule does not apply.
//! - The macro also makes one test per rule that proves it on random instances (see [`proof`]).
//!
//! A program can add its own:
//!
//! ```
//! use egret_passes::pass::{Context, PassManager};
//! use egret_passes::rules::proof::prove;
//!
//! mod mine {
//!     use egret_passes::egraph::Value;
//!
//!     fn float(x: Value) -> bool {
//!         x.ty.dtype.is_float()
//!     }
//!
//!     egret_passes::rules! {
//!         functions: [];
//!         reassoc exp_of_sum: mul(exp(x), exp(y)) => exp(add(x, y)), if float(x);
//!     }
//! }
//!
//! prove(&mine::rules()[0])?;
//! let graph = egret_ir::text::parse("graph g(x: f32[8], y: f32[8]) { a = exp(x) b = exp(y) c = mul(a, b) return c }")?;
//! let context = Context { rules: mine::rules(), ..Context::default() };
//! let (graph, reports) = PassManager::named("rewrite")?.run(&graph, &context, |_, _| ())?;
//! assert_eq!(graph.nodes().len(), 2);
//! assert_eq!(reports[0].fired["exp_of_sum"], 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The body of every composite op is a rule too: [`definitions`] recognises `mul(x, sigmoid(x))` as `silu(x)`.
//!
//! Invariant: a rule never changes a type (checked when it is applied), and a value only as its [`Class`] says.
//!
//! [`Value`]: crate::egraph::Value

pub mod algebra;
pub mod attention;
pub mod conditions;
pub mod folding;
pub mod functions;
pub mod idioms;
pub mod movement;
pub mod proof;
pub mod rotary;
pub mod rules_md;
mod sample;

use crate::egraph::{Facts, FromFacts, Match};
use egret_ir::attr::AttrField;
use egret_ir::expr::{AttrExpr, Expr, body};
use egret_ir::{Attr, Kind, OPS, OpDef};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

/// How far both sides of a rule may differ in floating point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Not at all, but for the sign of a NaN.
    Exact,
    /// By the last bits of an element, and in the sign of zero.
    Ulp,
    /// As far as another order of summation takes it: the same mathematics, other roundings. Where the left side is NaN, for
    /// lack of a mathematical value, the right side may be anything.
    Reassoc,
    /// By more than rounding.
    Approx,
}

impl Class {
    /// The word in front of a rule.
    pub fn name(self) -> &'static str {
        match self {
            Class::Exact => "exact",
            Class::Ulp => "ulp",
            Class::Reassoc => "reassoc",
            Class::Approx => "approx",
        }
    }
}

/// What an attribute function computes, from what is known of its arguments.
pub type AttrFunction = Box<dyn Fn(&[&Facts]) -> Option<Attr> + Send + Sync>;

/// Attribute functions by name.
pub type Functions = BTreeMap<&'static str, AttrFunction>;

/// Whether a rule applies; `None` if a variable is not of the kind that the guard takes.
pub type Guard = fn(&Match) -> Option<bool>;

/// A directed equation.
#[derive(Clone)]
pub struct Rule {
    /// What reports call it; a family of rules shares one name.
    pub name: &'static str,
    /// The op of the family that this is the rule of.
    pub member: Option<&'static str>,
    /// How far the sides may differ.
    pub class: Class,
    /// Whether it takes all values for finite numbers. Such rules are applied by default, as those that reassociate are:
    ///
    /// - What masks of common models say is kept: scores hidden behind minus infinity or the lowest number, in rows that see something,
    ///   and the average or the zeros of a row that sees nothing (`rewrite/finite.rs` tests it).
    /// - What changes is a value that is no number behind a mask: a condition hides it, a sum does not. The standard's own Attention
    ///   adds its mask, be it of conditions or of numbers, and so do the fused operators of ONNX Runtime.
    ///
    /// Without them attention is not recognised where exporters hide scores by conditions. `--strict` leaves them out.
    pub finite: bool,
    /// What is found.
    pub lhs: Expr,
    /// What is the same.
    pub rhs: Expr,
    /// Where it applies.
    pub guard: Guard,
    /// The guard as written; empty for none.
    pub condition: &'static str,
    functions: Arc<Functions>,
}

impl Rule {
    /// A rule without attribute functions that applies everywhere.
    pub fn new(name: &'static str, class: Class, lhs: Expr, rhs: Expr) -> Rule {
        Rule { name, member: None, class, finite: false, lhs, rhs, guard: |_| Some(true), condition: "", functions: Arc::default() }
    }

    /// A rule as text, `reassoc exp_product: mul(exp(x), exp(y)) => exp(add(x, y))`, without attribute functions and guards.
    /// Nothing proves it but [`proof::prove`].
    ///
    /// # Errors
    /// When it is not of this form, or a side does not read.
    pub fn parse(text: &str) -> Result<Rule, String> {
        let form = || format!("`{text}` is no rule; expected CLASS NAME: LEFT => RIGHT");
        let (head, sides) = text.split_once(':').ok_or_else(form)?;
        let (class, name) = head.trim().split_once(' ').ok_or_else(form)?;
        let (lhs, rhs) = sides.split_once("=>").ok_or_else(form)?;
        // Names live as long as the program, as those in its source do.
        let [class, name, lhs, rhs] = [class, name, lhs, rhs].map(|part| &*String::from(part.trim()).leak());
        let line = Line { name, class, assumes: "", family: None, lhs, rhs, guard: |_| Some(true), condition: "" };
        line.rule(&Arc::default(), None)
    }

    /// Whether it only says that operands may stand in another order.
    pub fn only_reorders(&self) -> bool {
        match (&self.lhs, &self.rhs) {
            (Expr::App { op: left, operands: before, .. }, Expr::App { op: right, operands: after, .. }) => {
                let bare = before.iter().chain(after).all(|o| matches!(o, Expr::Var(_)));
                left.name == right.name && bare && before.len() == after.len() && before.iter().all(|o| after.contains(o))
            }
            _ => false,
        }
    }

    /// The value of an attribute function.
    ///
    /// # Errors
    /// When there is none of this name, or it has no value for these arguments.
    pub fn call(&self, name: &str, arguments: &[&Facts]) -> Result<Attr, String> {
        let function = self.functions.get(name).ok_or_else(|| format!("there is no attribute function `{name}`"))?;
        function(arguments).ok_or_else(|| format!("`{name}` does not apply"))
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let finite = if self.finite { "(finite)" } else { "" };
        write!(f, "{}{finite} {}", self.class.name(), self.name)?;
        if let Some(member) = self.member {
            write!(f, "<{member}>")?;
        }
        write!(f, ": {} => {}", self.lhs, self.rhs)?;
        if !self.condition.is_empty() {
            write!(f, ", if {}", self.condition)?;
        }
        Ok(())
    }
}

/// One line of [`rules!`](macro@crate::rules): what the macro hands over.
pub struct Line {
    /// See [`Rule::name`].
    pub name: &'static str,
    /// See [`Rule::class`], by its name.
    pub class: &'static str,
    /// See [`Rule::finite`]: `finite`, or nothing.
    pub assumes: &'static str,
    /// The variable that stands for the ops of a family, and the family's name.
    pub family: Option<(&'static str, &'static str)>,
    /// The left side's text.
    pub lhs: &'static str,
    /// The right side's text.
    pub rhs: &'static str,
    /// See [`Rule::guard`].
    pub guard: Guard,
    /// See [`Rule::condition`].
    pub condition: &'static str,
}

impl Line {
    /// The rules that the line stands for: one, or one for every op of its family.
    ///
    /// # Errors
    /// When a side does not read, or there is no such class or family.
    pub fn rules(&self, functions: &Arc<Functions>) -> Result<Vec<Rule>, String> {
        let Some((variable, family)) = self.family else { return Ok(vec![self.rule(functions, None)?]) };
        let members = family_of(family).ok_or_else(|| format!("rule `{}`: there is no family `{family}`", self.name))?;
        members.into_iter().map(|def| self.rule(functions, Some((variable, def)))).collect()
    }

    fn rule(&self, functions: &Arc<Functions>, member: Option<(&str, &'static OpDef)>) -> Result<Rule, String> {
        let side = |text: &str| Expr::parse(&spelled_out(text, member)).map_err(|e| format!("rule `{}`: `{text}`: {e}", self.name));
        let classes = [Class::Exact, Class::Ulp, Class::Reassoc, Class::Approx];
        let class = classes.into_iter().find(|c| c.name() == self.class);
        Ok(Rule {
            name: self.name,
            member: member.map(|(_, def)| def.name),
            class: class.ok_or_else(|| format!("rule `{}`: there is no class `{}`", self.name, self.class))?,
            finite: match self.assumes {
                "" => false,
                "finite" => true,
                other => return Err(format!("rule `{}`: nothing is known of the assumption `{other}`", self.name)),
            },
            lhs: side(self.lhs)?,
            rhs: side(self.rhs)?,
            guard: self.guard,
            condition: self.condition,
            functions: functions.clone(),
        })
    }
}

/// The ops that compute one element from `operands` elements at the same place.
fn elementwise(operands: usize) -> Vec<&'static OpDef> {
    let fits = |def: &&OpDef| def.operands.len() == operands && !def.variadic && is_elementwise(def);
    OPS.iter().filter(fits).collect()
}

fn is_elementwise(def: &OpDef) -> bool {
    fn only_elementwise(expr: &Expr) -> bool {
        match expr {
            Expr::Var(_) | Expr::Literal(_) => true,
            Expr::App { op, operands, .. } => is_elementwise(op) && operands.iter().all(only_elementwise),
        }
    }
    match def.kind {
        Kind::Elementwise => true,
        Kind::Composite => OpDef::named(def.name).is_some_and(|def| only_elementwise(&body(def))),
        Kind::View | Kind::Reduce | Kind::Structured => false,
    }
}

fn family_of(name: &str) -> Option<Vec<&'static OpDef>> {
    match name {
        "unary" => Some(elementwise(1)),
        "binary" => Some(elementwise(2)),
        _ => None,
    }
}

/// A side with `[..]` and the family's variable replaced: `f(x)` by `leaky_relu[f_alpha](x)`.
fn spelled_out(text: &str, member: Option<(&str, &'static OpDef)>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        if length == 0 || c.is_ascii_digit() {
            let length = length.max(c.len_utf8());
            out.push_str(&rest[..length]);
            // The macro may part a sign from its number.
            rest = if c == '-' { rest[length..].trim_start() } else { &rest[length..] };
            continue;
        }
        let word = &rest[..length];
        rest = &rest[length..];
        let all_attrs = strip_all_attrs(rest);
        match (member, OpDef::named(word), all_attrs) {
            (Some((variable, def)), _, _) if variable == word && rest.trim_start().starts_with('(') => {
                out.push_str(def.name);
                if !def.attrs.is_empty() {
                    let attrs: Vec<String> = def.attrs.iter().map(|a| format!("{variable}_{a}")).collect();
                    out.push_str(&format!("[{}]", attrs.join(", ")));
                }
            }
            (_, Some(def), Some(after)) => {
                out.push_str(&format!("{word}[{}]", def.attrs.join(", ")));
                rest = after;
            }
            _ => out.push_str(word),
        }
    }
    out
}

/// What stands behind `[..]`.
fn strip_all_attrs(text: &str) -> Option<&str> {
    text.trim_start().strip_prefix('[')?.trim_start().strip_prefix("..")?.trim_start().strip_prefix(']')
}

/// A Rust function that can be called in the attributes of a right side.
pub trait Callable<Arguments> {
    /// Its value; `None` if it has none for these arguments.
    fn call(&self, arguments: &[&Facts]) -> Option<Attr>;
}

macro_rules! callable {
    ($($parameter:ident $argument:ident),*) => {
        impl<Function, Output: AttrField, $($parameter: FromFacts),*> Callable<($($parameter,)*)> for Function
        where
            Function: Fn($($parameter),*) -> Option<Output>,
        {
            fn call(&self, arguments: &[&Facts]) -> Option<Attr> {
                let [$($argument),*] = arguments else { return None };
                Some(self($($parameter::from_facts($argument)?),*)?.to_attr())
            }
        }
    };
}
callable!(A a);
callable!(A a, B b);
callable!(A a, B b, C c);
callable!(A a, B b, C c, D d);

/// A Rust function as an attribute function.
pub fn attr_function<Arguments, F: Callable<Arguments> + Send + Sync + 'static>(function: F) -> AttrFunction {
    Box::new(move |arguments| function.call(arguments))
}

/// Declares rules; see the [module](mod@crate::rules). Makes a function `rules()` and one test per rule.
#[macro_export]
macro_rules! rules {
    (
        functions: [$($function:ident),* $(,)?];
        $(
            $class:ident $(($assumes:ident))? $name:ident $(<$f:ident : $family:ident>)? :
            $lop:ident $([$($la:tt)*])? $(($($lx:tt)*))? => $rop:ident $([$($ra:tt)*])? $(($($rx:tt)*))?
            $(, if $($guard:ident ($($v:ident),*))&&+)? ;
        )*
    ) => {
        /// The rules of this module.
        ///
        /// # Panics
        /// When a rule does not read, which the module's tests would show.
        pub fn rules() -> Vec<$crate::rules::Rule> {
            #[allow(unused_mut)]
            let mut functions = $crate::rules::Functions::new();
            $( functions.insert(stringify!($function), $crate::rules::attr_function($function)); )*
            let functions = ::std::sync::Arc::new(functions);
            let lines = [$( $crate::rules::Line {
                name: stringify!($name),
                class: stringify!($class),
                assumes: concat!("" $(, stringify!($assumes))?),
                family: [$((stringify!($f), stringify!($family)))?].first().copied(),
                lhs: stringify!($lop $([$($la)*])? $(($($lx)*))?),
                rhs: stringify!($rop $([$($ra)*])? $(($($rx)*))?),
                guard: |_m| Some(true $( $(&& $guard($(_m.get(stringify!($v))?),*))+ )?),
                condition: concat!("" $(, stringify!($($guard($($v),*))&&+))?),
            } ),*];
            lines.iter().flat_map(|line| line.rules(&functions).unwrap_or_else(|e| panic!("{e}"))).collect()
        }

        #[cfg(test)]
        mod proofs {
            $( #[test] fn $name() { $crate::rules::proof::prove_named(&super::rules(), stringify!($name)); } )*
        }
    };
}

/// The body of every composite op as a rule: what is written out in primitives is the op.
pub fn definitions() -> Vec<Rule> {
    let rule = |def: &'static OpDef| {
        let attrs = def.attrs.iter().map(|a| AttrExpr::Var(a.to_string())).collect();
        let operands = def.operands.iter().map(|o| Expr::Var(o.to_string())).collect();
        Rule::new(def.name, Class::Ulp, body(def), Expr::App { op: def, attrs, operands })
    };
    OPS.iter().filter(|def| def.kind == Kind::Composite).map(rule).collect()
}

/// The rules of one file.
pub struct Family {
    /// The file's subject, in a word.
    pub name: &'static str,
    /// One sentence.
    pub doc: &'static str,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Every rule that `rewrite` uses, by file.
pub fn families() -> &'static [Family] {
    static FAMILIES: LazyLock<Vec<Family>> = LazyLock::new(|| {
        let family = |name, doc, rules| Family { name, doc, rules };
        vec![
            family("definitions", "The bodies of composite ops: what is written out is the op.", definitions()),
            family("algebra", "Order, neutral elements, signs, powers, quotients and ranges.", algebra::rules()),
            family("idioms", "Activations, means, softmax and norms as exporters spell them.", idioms::rules()),
            family("movement", "Transposes, reshapes, broadcasts, slices, gathers and casts, composed and cancelled.", movement::rules()),
            family("conditions", "What exporters compute masks of.", conditions::rules()),
            family("folding", "What is multiplied or added by constants goes into weights.", folding::rules()),
            family("attention", "Attention in all its forms.", attention::rules()),
            family("rotary", "Rotary embeddings.", rotary::rules()),
        ]
    });
    &FAMILIES
}

/// Every rule that `rewrite` uses, family by family.
pub fn all() -> &'static [Rule] {
    static ALL: LazyLock<Vec<Rule>> = LazyLock::new(|| families().iter().flat_map(|family| family.rules.clone()).collect());
    &ALL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_hold() {
        let rules = definitions();
        rules.iter().for_each(|rule| proof::prove_named(&rules, rule.name));
    }

    #[test]
    fn names_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for rule in all() {
            assert!(seen.insert((rule.name, rule.member)), "`{}` names two rules", rule.name);
        }
    }

    #[test]
    fn rules_are_read_from_text() {
        let text = "reassoc exp_product: mul(exp(x), exp(y)) => exp(add(x, y))";
        assert_eq!(Rule::parse(text).unwrap().to_string(), text);
        for (wrong, because) in [
            ("exp(x) => x", "expected CLASS NAME: LEFT => RIGHT"),
            ("exact name exp(x) => x", "expected CLASS NAME: LEFT => RIGHT"),
            ("loose wrong: exp(x) => x", "there is no class `loose`"),
            ("exact wrong: expo(x) => x", "`expo(x)`"),
        ] {
            let error = Rule::parse(wrong).unwrap_err();
            assert!(error.contains(because), "{error}");
        }
    }

    #[test]
    fn sides_are_spelled_out() {
        let def = OpDef::named("leaky_relu").unwrap();
        assert_eq!(spelled_out("transpose [p] (f (x))", Some(("f", def))), "transpose [p] (leaky_relu[f_alpha] (x))");
        assert_eq!(spelled_out("top_k [..](x, - 1)", None), "top_k[axis, k, largest](x, -1)");
        assert_eq!(spelled_out("mul(x, 0.5e3)", None), "mul(x, 0.5e3)");
    }
}
