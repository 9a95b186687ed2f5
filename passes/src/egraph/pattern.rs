//! Rules against the e-graph: the left side as an egg pattern, the right side typed and then inserted.
//!
//! A number in a left side matches a tensor whose elements all have (nearly) that value; whether its extents may be
//! dropped is settled by the types: a right side is inserted only if its type is the type of the class it joins.

use super::build::add_with;
use super::{Changes, Discriminant, Egraph, Enode, Facts, Head, Leaf, OpIndex, Value, build_op};
use crate::rules::Rule;
use egg::{ENodeOrVar, Id, Language, Pattern, PatternAst, SearchMatches, Searcher, Subst, Symbol, Var};
use egret_ir::attr::AttrField;
use egret_ir::expr::{AttrExpr, Expr};
use egret_ir::{Attr, DType, Element, Graph, Op, Real, Tensor, TensorType, ValueId};
use std::collections::HashMap;
use std::sync::Arc;

/// How far a constant of a model may be from the number in a rule, relatively, where the number has no exact `f32`:
/// exporters write `1/sqrt(2)` with 7 to 9 digits.
const NEAR: f64 = 1e-6;

/// The same for constants of type `f64`.
const NEAR_F64: f64 = 1e-12;

/// A rule ready to be searched for.
pub struct Compiled<'r> {
    /// The rule.
    pub rule: &'r Rule,
    reason: Symbol,
    pattern: Pattern<Enode>,
    /// The numbers of the left side, each with the variable that stands for it.
    numbers: Vec<(Var, f64)>,
    /// The variables by name.
    vars: Vec<(String, Var)>,
    /// Whether the right side has fewer ops than the left.
    shrinks: bool,
    /// What the left side consists of, its outermost op last.
    parts: Vec<Discriminant>,
    /// How many steps down its innermost variables are.
    depth: usize,
}

/// The number of ops in an expression.
fn size(expr: &Expr) -> usize {
    match expr {
        Expr::Var(_) | Expr::Literal(_) => 0,
        Expr::App { operands, .. } => 1 + operands.iter().map(size).sum::<usize>(),
    }
}

/// How many ops of an expression stand in each other.
fn depth(expr: &Expr) -> usize {
    match expr {
        Expr::Var(_) | Expr::Literal(_) => 0,
        Expr::App { operands, .. } => 1 + operands.iter().map(depth).max().unwrap_or(0),
    }
}

/// The left side while it is translated.
#[derive(Default)]
struct Translation {
    ast: PatternAst<Enode>,
    numbers: Vec<(Var, f64)>,
    vars: Vec<(String, Var)>,
}

impl Translation {
    fn expr(&mut self, expr: &Expr) -> Result<Id, String> {
        match expr {
            Expr::Var(name) => Ok(self.var(name)),
            Expr::Literal(value) => Ok(self.number(value.0)),
            Expr::App { op, attrs, operands } => {
                let mut children = attrs.iter().map(|a| self.attr(a)).collect::<Result<Vec<_>, _>>()?;
                for operand in operands {
                    children.push(self.expr(operand)?);
                }
                Ok(self.enode(Head::Op(OpIndex::of(op)), children))
            }
        }
    }

    fn attr(&mut self, attr: &AttrExpr) -> Result<Id, String> {
        match attr {
            AttrExpr::Var(name) => Ok(self.var(name)),
            AttrExpr::Value(Attr::Real(value)) => Ok(self.number(value.0)),
            AttrExpr::Value(Attr::Dim(dim)) => match dim.as_const() {
                Some(value) => Ok(self.number(value as f64)),
                None => Err(format!("`{dim}` in a left side is no number")),
            },
            AttrExpr::Value(value) => Ok(self.enode(Head::Attr(value.clone()), vec![])),
            AttrExpr::Call(name, _) => Err(format!("`{name}(...)` may stand on the right side only")),
        }
    }

    fn enode(&mut self, head: Head, children: Vec<Id>) -> Id {
        self.ast.add(ENodeOrVar::ENode(Enode { head, children }))
    }

    fn var(&mut self, name: &str) -> Id {
        let var = match self.vars.iter().find(|(n, _)| n == name) {
            Some((_, var)) => *var,
            None => {
                let var = Var::from_u32(self.vars.len() as u32);
                self.vars.push((name.to_string(), var));
                var
            }
        };
        self.ast.add(ENodeOrVar::Var(var))
    }

    /// A number is a variable of its own with a condition.
    fn number(&mut self, value: f64) -> Id {
        let var = Var::from_u32((1 << 16) + self.numbers.len() as u32);
        self.numbers.push((var, value));
        self.ast.add(ENodeOrVar::Var(var))
    }
}

impl<'r> Compiled<'r> {
    /// Translates a rule.
    ///
    /// # Errors
    /// When its left side is a bare variable, or the right side has a variable that the left side lacks.
    pub fn new(rule: &'r Rule) -> Result<Compiled<'r>, String> {
        let mut left = Translation::default();
        if !matches!(rule.lhs, Expr::App { .. }) {
            return Err(format!("rule `{}`: expected an op on the left side, found `{}`", rule.name, rule.lhs));
        }
        left.expr(&rule.lhs).map_err(|e| format!("rule `{}`: {e}", rule.name))?;
        if let Some(free) = rule.rhs.vars().iter().find(|v| !left.vars.iter().any(|(n, _)| n == *v)) {
            return Err(format!("rule `{}`: `{free}` stands on the right side only", rule.name));
        }
        let Translation { ast, numbers, vars } = left;
        let parts = ast.as_ref().iter().filter_map(|node| match node {
            ENodeOrVar::ENode(enode) => Some(enode.discriminant()),
            ENodeOrVar::Var(_) => None,
        });
        Ok(Compiled {
            parts: parts.collect(),
            depth: depth(&rule.lhs),
            rule,
            reason: Symbol::from(rule.name),
            pattern: Pattern::new(ast),
            numbers,
            vars,
            shrinks: size(&rule.rhs) < size(&rule.lhs),
        })
    }

    /// How many steps down from the class where the left side is found it sees.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Where the left side stands, at most `limit` times: anywhere, or only where it may not have stood before some changes. Conditions
    /// are checked when the rule is applied.
    pub fn search(&self, egraph: &Egraph, changes: Option<&Changes>, limit: usize) -> Vec<SearchMatches<'_, Enode>> {
        let mut found: Vec<SearchMatches<Enode>> = vec![];
        if self.parts.iter().any(|part| egraph.classes_for_op(part).is_none_or(|classes| classes.len() == 0)) {
            return found;
        }
        let (mut left, whole) = (limit, self.parts.last());
        for class in whole.and_then(|whole| egraph.classes_for_op(whole)).into_iter().flatten() {
            if left > 0 && changes.is_none_or(|changes| changes.reach(class, self.depth)) {
                let matches = self.pattern.search_eclass_with_limit(egraph, class, left);
                left -= matches.as_ref().map_or(0, |m| m.substs.len());
                found.extend(matches);
            }
        }
        found
    }

    /// Makes the right side equal to the class in which the left side was found, if the rule applies and the types agree.
    /// Says whether that was news. Constants will be computed whatever they are, so they are only made simpler: that keeps
    /// rules that move ops onto constants from doing so for ever.
    pub fn apply(&self, egraph: &mut Egraph, class: Id, subst: &Subst) -> bool {
        if egraph[class].data.is_constant() && !self.shrinks {
            return false;
        }
        let found = Match { egraph, vars: &self.vars, subst };
        let numbers_fit = self.numbers.iter().all(|(var, wanted)| is_near(*wanted, &egraph[subst[*var]].data));
        if !numbers_fit || !(self.rule.guard)(&found).unwrap_or(false) {
            return false;
        }
        let Ok(right) = found.plan(self.rule, &self.rule.rhs, None) else { return false };
        let same_type = match (right.facts(egraph), &egraph[class].data) {
            (Facts::Tensor(new), Facts::Tensor(old)) => new.ty == old.ty,
            (Facts::Tuple(new), Facts::Tuple(old)) => new.iter().map(|v| &v.ty).eq(old.iter().map(|v| &v.ty)),
            _ => false,
        };
        if !same_type {
            return false;
        }
        let right = right.insert(egraph);
        let left = if egraph.are_explanations_enabled() { self.term(egraph, subst) } else { class };
        egraph.union_trusted(left, right, self.reason)
    }

    /// The left side as a term of its own, so that an explanation also says why it is in its class.
    fn term(&self, egraph: &mut Egraph, subst: &Subst) -> Id {
        let mut ids: Vec<Id> = vec![];
        for node in self.pattern.ast.as_ref() {
            ids.push(match node {
                ENodeOrVar::Var(var) => subst[*var],
                ENodeOrVar::ENode(enode) => egraph.add_uncanonical(enode.clone().map_children(|child| ids[usize::from(child)])),
            });
        }
        ids[ids.len() - 1]
    }
}

/// Both sides of an application as graphs of their own.
impl Compiled<'_> {
    /// The sides for what the variables stand for: graphs over the same parameters and constants, named after the variables.
    ///
    /// # Errors
    /// When a side does not type-check there, so that the rule cannot have been applied.
    pub fn sides(&self, egraph: &Egraph, subst: &Subst) -> Result<(Graph, Graph), String> {
        let mut left = Side { egraph, graph: Graph::new(self.rule.name), values: HashMap::new() };
        let numbers = self.numbers.iter().map(|(var, value)| (format!("{value}"), var));
        for (name, var) in self.vars.iter().map(|(name, var)| (name.clone(), var)).chain(numbers) {
            left.variable(&name, egraph.find(subst[*var]));
        }
        let mut right = Side { graph: left.graph.clone(), values: left.values.clone(), ..left };
        left.pattern(&self.pattern, subst)?;
        let found = Match { egraph, vars: &self.vars, subst };
        let results = right.expr(&found, self.rule, &self.rule.rhs, None)?;
        right.finish(&results);
        Ok((left.graph, right.graph))
    }
}

/// One side while it is written.
struct Side<'a> {
    egraph: &'a Egraph,
    graph: Graph,
    /// The values of the classes that variables stand for.
    values: HashMap<Id, ValueId>,
}

impl Side<'_> {
    /// What a variable stands for: a constant of the model, or a parameter. Attributes are none of both.
    fn variable(&mut self, name: &str, class: Id) {
        let Facts::Tensor(value) = &self.egraph[class].data else { return };
        if self.values.contains_key(&class) {
            return;
        }
        let known = self.egraph[class].nodes.iter().find_map(|node| match &node.head {
            Head::Leaf(leaf) => match self.egraph.analysis.leaf(*leaf) {
                Leaf::Const(tensor) => Some(tensor.clone()),
                Leaf::Param(..) => None,
            },
            Head::Op(_) | Head::Attr(_) | Head::Result(_) | Head::Opaque(_) => None,
        });
        let splat = || Some(Arc::new(Tensor::splat(value.ty.dtype, value.ty.static_dims()?, value.splat?)));
        let id = match known.or_else(splat) {
            Some(tensor) => self.graph.add_const(name, tensor),
            None => self.graph.add_param(name, (*value.ty).clone()),
        };
        self.values.insert(class, id);
    }

    fn op(&mut self, op: Op, operands: &[ValueId]) -> Result<Vec<ValueId>, String> {
        let name = format!("{}{}", op.name(), self.graph.nodes().len());
        self.graph.add_node(op, operands, &[&name], vec![])
    }

    /// The left side as it was found.
    fn pattern(&mut self, pattern: &Pattern<Enode>, subst: &Subst) -> Result<(), String> {
        let mut made: Vec<Option<Vec<ValueId>>> = vec![];
        for node in pattern.ast.as_ref() {
            made.push(match node {
                ENodeOrVar::Var(var) => self.values.get(&self.egraph.find(subst[*var])).map(|&v| vec![v]),
                ENodeOrVar::ENode(Enode { head: Head::Op(op), children }) => {
                    let (attrs, operands) = children.split_at(op.def().attrs.len());
                    let attr = |id: &Id| match &pattern.ast[*id] {
                        ENodeOrVar::Var(var) => self.egraph[subst[*var]].data.clone(),
                        ENodeOrVar::ENode(enode) => self.egraph.analysis.infer_from(&enode.head, &[]).unwrap_or(Facts::Tuple([].into())),
                    };
                    let attrs: Vec<Facts> = attrs.iter().map(attr).collect();
                    let op = build_op(*op, &attrs.iter().collect::<Vec<_>>())?;
                    let operand = |id: &Id| made[usize::from(*id)].as_ref().map(|values| values[0]).ok_or("an operand is an attribute");
                    Some(self.op(op, &operands.iter().map(operand).collect::<Result<Vec<_>, _>>()?)?)
                }
                ENodeOrVar::ENode(_) => None,
            });
        }
        let results = made.pop().flatten().ok_or("a left side is an op")?;
        self.finish(&results);
        Ok(())
    }

    /// The right side; what it computes, one value or the results of an op that has several.
    fn expr(&mut self, found: &Match, rule: &Rule, expr: &Expr, sibling: Option<DType>) -> Result<Vec<ValueId>, String> {
        match expr {
            Expr::Literal(value) => self.number(value.0, sibling),
            Expr::Var(name) => match found.facts(name) {
                Some(Facts::Attr(Attr::Real(value))) => self.number(value.0, sibling),
                Some(Facts::Attr(Attr::Dim(value))) => self.number(value.as_const().ok_or_else(|| unbound(name))? as f64, sibling),
                _ => {
                    let class = found.class(name).map(|id| self.egraph.find(id));
                    class.and_then(|id| self.values.get(&id)).map(|&v| vec![v]).ok_or_else(|| unbound(name))
                }
            },
            Expr::App { op, attrs, operands } => {
                let attrs = attrs.iter().map(|a| found.attr(rule, a)).collect::<Result<Vec<_>, _>>()?;
                let op = op.build(&attrs)?;
                let operands = self.operands(found, rule, operands)?;
                self.op(op, &operands)
            }
        }
    }

    /// Numbers take the element type of their last sibling, so siblings come first.
    fn operands(&mut self, found: &Match, rule: &Rule, operands: &[Expr]) -> Result<Vec<ValueId>, String> {
        let mut made: Vec<Option<ValueId>> = vec![None; operands.len()];
        for (slot, operand) in made.iter_mut().zip(operands).filter(|(_, operand)| !found.is_number(operand)) {
            *slot = self.expr(found, rule, operand, None)?.first().copied();
        }
        let sibling = made.iter().flatten().next_back().map(|&v| self.graph.ty(v).dtype);
        for (slot, operand) in made.iter_mut().zip(operands).filter(|(_, operand)| found.is_number(operand)) {
            *slot = self.expr(found, rule, operand, sibling)?.first().copied();
        }
        Ok(made.into_iter().flatten().collect())
    }

    fn number(&mut self, value: f64, dtype: Option<DType>) -> Result<Vec<ValueId>, String> {
        let dtype = dtype.ok_or_else(|| format!("the number {value} has no sibling to take its element type from"))?;
        let name = format!("{value}");
        let known = self.graph.find(&name).filter(|&v| *self.graph.ty(v) == TensorType::scalar(dtype));
        let tensor = || Arc::new(Tensor::scalar(dtype, Element::Float(value)));
        Ok(vec![known.unwrap_or_else(|| self.graph.add_const(&name, tensor()))])
    }

    fn finish(&mut self, results: &[ValueId]) {
        for &result in results {
            let name = self.graph.value(result).name.clone();
            self.graph.add_result(result, &name);
        }
    }
}

/// Whether a class is a constant of (nearly) this value.
fn is_near(wanted: f64, facts: &Facts) -> bool {
    match facts {
        Facts::Attr(Attr::Real(found)) => near(wanted, found.0, DType::F32),
        Facts::Attr(Attr::Dim(found)) => found.as_const().is_some_and(|c| c as f64 == wanted),
        Facts::Tensor(Value { splat: Some(found), ty, .. }) => match found {
            Element::Float(found) => near(wanted, *found, ty.dtype),
            Element::Int(found) => *found as f64 == wanted,
            Element::Bool(_) => false,
        },
        Facts::Attr(_) | Facts::Tensor(_) | Facts::Tuple(_) => false,
    }
}

fn near(wanted: f64, found: f64, dtype: DType) -> bool {
    let has_exact_f32 = f64::from(wanted as f32) == wanted;
    let tolerance = if dtype == DType::F64 { NEAR_F64 } else { NEAR };
    found == wanted
        || Element::Float(wanted).rounded(dtype) == Element::Float(found)
        || !has_exact_f32 && (found - wanted).abs() <= tolerance * wanted.abs()
}

/// What a rule's variables stand for.
pub struct Match<'a> {
    egraph: &'a Egraph,
    vars: &'a [(String, Var)],
    subst: &'a Subst,
}

/// What a variable of a rule can be taken as: the parameters of guards and attribute functions.
pub trait FromFacts: Sized {
    /// `None` if it is something else.
    fn from_facts(facts: &Facts) -> Option<Self>;
}

impl FromFacts for Value {
    fn from_facts(facts: &Facts) -> Option<Value> {
        facts.tensor().cloned()
    }
}

/// Attributes; a tensor whose elements all have one value can be taken as that number.
impl<T: AttrField> FromFacts for T {
    fn from_facts(facts: &Facts) -> Option<T> {
        match facts {
            Facts::Attr(attr) => T::from_attr(attr),
            Facts::Tensor(value) => T::from_attr(&Attr::Real(Real(value.splat?.as_f64()))),
            Facts::Tuple(_) => None,
        }
    }
}

/// A right side that has been typed but not inserted.
enum Planned {
    /// A class that is there.
    Have(Id),
    /// A rank-0 constant.
    Number(Arc<Tensor>, Facts),
    /// An e-node that is not there yet.
    New(Head, Vec<Planned>, Facts),
}

impl Planned {
    fn facts<'a>(&'a self, egraph: &'a Egraph) -> &'a Facts {
        match self {
            Planned::Have(id) => &egraph[*id].data,
            Planned::Number(_, facts) | Planned::New(_, _, facts) => facts,
        }
    }

    fn insert(self, egraph: &mut Egraph) -> Id {
        match self {
            Planned::Have(id) => id,
            Planned::Number(tensor, facts) => {
                let leaf = egraph.analysis.constant(&tensor);
                add_with(egraph, Enode::leaf(Head::Leaf(leaf)), facts)
            }
            Planned::New(head, children, facts) => {
                let children = children.into_iter().map(|c| c.insert(egraph)).collect();
                add_with(egraph, Enode { head, children }, facts)
            }
        }
    }
}

impl Match<'_> {
    /// The class that a variable stands for.
    pub fn class(&self, name: &str) -> Option<Id> {
        let (_, var) = self.vars.iter().find(|(n, _)| n == name)?;
        self.subst.get(*var).copied()
    }

    /// What is known of the class that a variable stands for.
    pub fn facts(&self, name: &str) -> Option<&Facts> {
        Some(&self.egraph[self.class(name)?].data)
    }

    /// What a variable stands for, as a guard takes it.
    pub fn get<T: FromFacts>(&self, name: &str) -> Option<T> {
        T::from_facts(self.facts(name)?)
    }

    fn plan(&self, rule: &Rule, expr: &Expr, sibling: Option<DType>) -> Result<Planned, String> {
        match expr {
            Expr::Literal(value) => self.number(value.0, sibling),
            Expr::Var(name) => match self.facts(name) {
                Some(Facts::Attr(Attr::Real(value))) => self.number(value.0, sibling),
                Some(Facts::Attr(Attr::Dim(value))) => {
                    self.number(value.as_const().ok_or("a symbol cannot stand as a number")? as f64, sibling)
                }
                Some(Facts::Tensor(_) | Facts::Tuple(_)) => self.class(name).map(Planned::Have).ok_or_else(|| unbound(name)),
                Some(Facts::Attr(_)) => Err(format!("`{name}` cannot stand as an operand")),
                None => Err(unbound(name)),
            },
            Expr::App { op, attrs, operands } => {
                let attrs = attrs.iter().map(|a| self.attr(rule, a)).collect::<Result<Vec<_>, _>>()?;
                // Through the op and back, so that `1` for a float attribute is the same leaf as `1.0`.
                let attrs = op.build(&attrs)?.attrs();
                let mut children: Vec<Planned> = attrs.into_iter().map(|a| self.planned_attr(a)).collect();
                children.extend(self.operands(rule, operands)?);
                self.enode(Head::Op(OpIndex::of(op)), children)
            }
        }
    }

    /// Numbers take the element type of their last sibling (the first of a `select` is its condition), so siblings come first.
    fn operands(&self, rule: &Rule, operands: &[Expr]) -> Result<Vec<Planned>, String> {
        let mut planned: Vec<Option<Planned>> = operands.iter().map(|_| None).collect();
        for (slot, operand) in planned.iter_mut().zip(operands).filter(|(_, o)| !self.is_number(o)) {
            *slot = Some(self.plan(rule, operand, None)?);
        }
        let sibling = planned.iter().flatten().rev().find_map(|p| p.facts(self.egraph).tensor()).map(|v| v.ty.dtype);
        for (slot, operand) in planned.iter_mut().zip(operands).filter(|(_, o)| self.is_number(o)) {
            *slot = Some(self.plan(rule, operand, sibling)?);
        }
        Ok(planned.into_iter().flatten().collect())
    }

    fn is_number(&self, operand: &Expr) -> bool {
        match operand {
            Expr::Literal(_) => true,
            Expr::Var(name) => matches!(self.facts(name), Some(Facts::Attr(_))),
            Expr::App { .. } => false,
        }
    }

    fn number(&self, value: f64, dtype: Option<DType>) -> Result<Planned, String> {
        let dtype = dtype.ok_or_else(|| format!("the number {value} has no sibling to take its element type from"))?;
        if !dtype.is_float() && value.fract() != 0.0 {
            return Err(format!("{dtype} does not hold {value}"));
        }
        let tensor = Arc::new(Tensor::scalar(dtype, Element::Float(value)));
        let known = self.egraph.analysis.find_constant(&tensor).and_then(|leaf| self.egraph.lookup(Enode::leaf(Head::Leaf(leaf))));
        if let Some(id) = known {
            return Ok(Planned::Have(id));
        }
        let value = Value::of_constant(&tensor);
        Ok(Planned::Number(tensor, Facts::Tensor(value)))
    }

    fn planned_attr(&self, attr: Attr) -> Planned {
        let head = Head::Attr(attr.clone());
        match self.egraph.lookup(Enode::leaf(head.clone())) {
            Some(id) => Planned::Have(id),
            None => Planned::New(head, vec![], Facts::Attr(attr)),
        }
    }

    /// An e-node over planned children; one that is there already is found, not typed again, unless it is to be explained.
    fn enode(&self, head: Head, children: Vec<Planned>) -> Result<Planned, String> {
        let ids: Option<Vec<Id>> = children.iter().map(|c| if let Planned::Have(id) = c { Some(*id) } else { None }).collect();
        let ids = ids.filter(|_| !self.egraph.are_explanations_enabled());
        let known = ids.and_then(|children| self.egraph.lookup(Enode { head: head.clone(), children }));
        if let Some(id) = known {
            return Ok(Planned::Have(id));
        }
        let facts: Vec<&Facts> = children.iter().map(|c| c.facts(self.egraph)).collect();
        let facts = self.egraph.analysis.infer_from(&head, &facts)?;
        Ok(Planned::New(head, children, facts))
    }

    fn attr(&self, rule: &Rule, attr: &AttrExpr) -> Result<Attr, String> {
        match attr {
            AttrExpr::Value(value) => Ok(value.clone()),
            AttrExpr::Var(name) => match self.facts(name) {
                Some(Facts::Attr(attr)) => Ok(attr.clone()),
                Some(Facts::Tensor(Value { splat: Some(value), .. })) => Ok(Attr::Real(Real(value.as_f64()))),
                Some(Facts::Tensor(_) | Facts::Tuple(_)) => Err(format!("`{name}` has no single value")),
                None => Err(unbound(name)),
            },
            AttrExpr::Call(name, arguments) => {
                let arguments = arguments.iter().map(|a| self.argument(rule, a)).collect::<Result<Vec<_>, _>>()?;
                rule.call(name, &arguments.iter().collect::<Vec<_>>())
            }
        }
    }

    /// An argument of an attribute function: an attribute or a tensor.
    fn argument(&self, rule: &Rule, argument: &AttrExpr) -> Result<Facts, String> {
        match argument {
            AttrExpr::Var(name) => self.facts(name).cloned().ok_or_else(|| unbound(name)),
            AttrExpr::Value(_) | AttrExpr::Call(..) => Ok(Facts::Attr(self.attr(rule, argument)?)),
        }
    }
}

fn unbound(name: &str) -> String {
    format!("`{name}` is not bound")
}
