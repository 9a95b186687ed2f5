//! Proofs of rules by evaluation: a rule is run, by the same code that compiles models, on random instances of its left
//! side, and every e-node that it makes must have the type and the value of its class.
//!
//! Instances have extents 0 and 1, broadcasting, several element types, and in half of them NaN, infinities and -0.0.
//! A rule that fires on too few of them fails too, so that none is proved by never applying.

use super::sample::{Bound, Instance, Sampler};
use super::{Class, Rule};
use crate::egraph::{Add, Analysis, Budget, Compiled, Egraph, Enode, Facts, Head, Leaf, build_op, from_graph, saturate};
use egg::Id;
use egret_ir::eval::eval_values;
use egret_ir::expr::{AttrExpr, Expr};
use egret_ir::{Attr, DType, Element, Graph, Op, Tensor};
use std::collections::HashMap;
use std::sync::Arc;

/// Instances that a rule must fire on. With half as many, transposes composed in the wrong order passed one time in five.
const INSTANCES: usize = 80;

/// Samples after which a rule that fires on fewer is given up. The rarest are a batch norm with five constants of fitting shapes, which
/// fire on one sample in 50.
const SAMPLES: usize = 40_000;

/// Rounding errors that [`Class::Ulp`] allows, in units of the last place of the larger of the value and 1.
const ULPS: f64 = 8.0;

/// The same for [`Class::Reassoc`], relative to the largest element.
const REASSOC_ULPS: f64 = 200.0;

/// The relative error that [`Class::Approx`] allows.
const APPROX: f64 = 1e-2;

/// Proves the rules of this name; for tests.
///
/// # Panics
/// When one does not hold, with the instance that shows it.
pub fn prove_named(rules: &[Rule], name: &str) {
    let mut found = rules.iter().filter(|r| r.name == name).peekable();
    assert!(found.peek().is_some(), "there is no rule `{name}`");
    for rule in found {
        if let Err(message) = prove(rule) {
            panic!("{message}");
        }
    }
}

/// Proves a rule on instances of its own; says on how many it fired.
///
/// # Errors
/// An instance on which the sides differ, or that it fired on too few.
pub fn prove(rule: &Rule) -> Result<usize, String> {
    let seed = rule.name.bytes().chain(rule.member.unwrap_or("").bytes()).fold(7, |h: u64, b| h.wrapping_mul(31).wrapping_add(b.into()));
    prove_seeded(rule, seed)
}

/// Proves a rule on the instances of a seed.
///
/// # Errors
/// As [`prove`].
pub fn prove_seeded(rule: &Rule, seed: u64) -> Result<usize, String> {
    let compiled = Compiled::new(rule)?;
    let mut sampler = Sampler::new(seed);
    let mut fired = 0;
    for _ in 0..SAMPLES {
        let Some(instance) = sampler.next(rule) else { continue };
        let Some(mut built) = build(rule, &instance) else { continue };
        let budget = Budget { iterations: 1, enodes: 1000, matches: 100, fires: 100 };
        let report = saturate(&mut built.egraph, &[&compiled], budget).map_err(|e| format!("{rule}\n{e}\non {}", show(&instance)))?;
        if report.fired.is_empty() {
            continue;
        }
        built.values.reverse();
        cross_check(&built.egraph, &built.values, rule.class).map_err(|e| format!("{rule}\n{e}\non {}", show(&instance)))?;
        fired += 1;
        if fired == INSTANCES {
            return Ok(fired);
        }
    }
    Err(format!("{rule}\nfired on {fired} of {SAMPLES} samples, expected {INSTANCES}"))
}

fn show(instance: &Instance) -> String {
    let mut vars: Vec<String> = instance.vars.iter().map(|(name, bound)| format!("{name} = {bound:?}")).collect();
    vars.sort();
    vars.join("\n   ")
}

/// An e-graph with the values of its classes, the left side's last.
struct Built {
    egraph: Egraph,
    values: Vec<(Id, Tensor)>,
    numbers: std::vec::IntoIter<Arc<Tensor>>,
}

/// The left side on an instance; `None` if it does not type-check.
fn build(rule: &Rule, instance: &Instance) -> Option<Built> {
    let numbers = instance.numbers.clone().into_iter();
    let mut built = Built { egraph: Egraph::new(Analysis::default()), values: vec![], numbers };
    let mut leaves = HashMap::new();
    built.term(&rule.lhs, instance, &mut leaves)?;
    built.egraph.rebuild();
    Some(built)
}

impl Built {
    fn term(&mut self, expr: &Expr, instance: &Instance, leaves: &mut HashMap<String, Id>) -> Option<Id> {
        match expr {
            Expr::Var(name) => match (leaves.get(name), instance.vars.get(name)?) {
                (Some(&id), _) => Some(id),
                (None, Bound::Tensor(tensor, constant)) => {
                    let id = self.leaf(tensor, *constant);
                    leaves.insert(name.clone(), id);
                    Some(id)
                }
                (None, Bound::Attr(_)) => None,
            },
            Expr::Literal(_) => {
                let tensor = self.numbers.next()?;
                Some(self.leaf(&tensor, true))
            }
            Expr::App { op, attrs, operands } => {
                let attr = |a: &AttrExpr| match a {
                    AttrExpr::Value(value) => Some(value.clone()),
                    AttrExpr::Var(name) => match instance.vars.get(name)? {
                        Bound::Attr(attr) => Some(attr.clone()),
                        Bound::Tensor(..) => None,
                    },
                    AttrExpr::Call(..) => None,
                };
                let op = op.build(&attrs.iter().map(attr).collect::<Option<Vec<Attr>>>()?).ok()?;
                let operands: Vec<Id> = operands.iter().map(|o| self.term(o, instance, leaves)).collect::<Option<_>>()?;
                let id = self.egraph.add_op(&op, &operands).ok()?;
                let values: Option<Vec<&Tensor>> =
                    operands.iter().map(|o| self.values.iter().find(|(id, _)| id == o).map(|(_, v)| v)).collect();
                let value = op.eval(&values?).ok()?.swap_remove(0);
                self.values.push((id, value));
                Some(id)
            }
        }
    }

    fn leaf(&mut self, tensor: &Arc<Tensor>, constant: bool) -> Id {
        let leaf = match constant {
            true => self.egraph.analysis.constant(tensor),
            false => self.egraph.analysis.param(tensor.ty()),
        };
        let id = self.egraph.add(Enode::leaf(Head::Leaf(leaf)));
        self.values.push((id, (**tensor).clone()));
        id
    }
}

/// Applies rules to a graph of numeric extents and checks that all members of every class evaluate alike on these inputs;
/// says how many e-nodes were compared.
///
/// # Errors
/// Names the e-node and both values.
pub fn prove_on(graph: &Graph, inputs: &[Tensor], rules: &[Rule]) -> Result<usize, String> {
    let compiled = rules.iter().map(Compiled::new).collect::<Result<Vec<_>, _>>()?;
    let weakest = rules.iter().map(|r| r.class).max().unwrap_or(Class::Exact);
    let mut built = from_graph(graph)?;
    saturate(&mut built.egraph, &compiled.iter().collect::<Vec<_>>(), Budget::of(graph.nodes().len()))?;
    let all = eval_values(graph, inputs)?;
    let known: Vec<(Id, Tensor)> =
        graph.value_ids().zip(all).filter_map(|((id, _), tensor)| Some((*built.classes.get(&id)?, tensor))).collect();
    cross_check(&built.egraph, &known, weakest)
}

/// Checks that all members of every class evaluate alike, to the tolerance of `class`. `known` has the values of the
/// parameters, and of classes before they were merged; says how many values were compared.
///
/// # Errors
/// Names the e-node and both values.
pub fn cross_check(egraph: &Egraph, known: &[(Id, Tensor)], class: Class) -> Result<usize, String> {
    let mut compared = 0;
    let mut values: HashMap<Id, Vec<Tensor>> = HashMap::new();
    for (id, tensor) in known {
        match values.get(&egraph.find(*id)) {
            // Two classes that a rule has merged.
            Some(other) => {
                compare(&other[0], tensor, class)
                    .map_err(|e| format!("{:?}: {e}\n   {:?}\n   {tensor:?}", heads(&egraph[*id].nodes), other[0]))?;
                compared += 1;
            }
            None => drop(values.insert(egraph.find(*id), vec![tensor.clone()])),
        }
    }
    // Values spread from the leaves until nothing new comes.
    loop {
        let mut news = vec![];
        for eclass in egraph.classes().filter(|c| !values.contains_key(&c.id)) {
            if let Some(value) = eclass.nodes.iter().find_map(|n| evaluate(egraph, n, &values).transpose()) {
                news.push((eclass.id, value?));
            }
        }
        if news.is_empty() {
            break;
        }
        values.extend(news);
    }
    let mut classes: Vec<_> = egraph.classes().collect();
    classes.sort_by_key(|c| c.id);
    for eclass in classes {
        let Some(expected) = values.get(&eclass.id) else { continue };
        for enode in &eclass.nodes {
            let Some(found) = evaluate(egraph, enode, &values)? else { continue };
            for (expected, found) in expected.iter().zip(&found) {
                compare(expected, found, class)
                    .map_err(|e| format!("{:?} in {:?}: {e}\n   {expected:?}\n   {found:?}", enode.head, heads(&eclass.nodes)))?;
            }
            compared += 1;
        }
    }
    Ok(compared)
}

fn heads(enodes: &[Enode]) -> Vec<&Head> {
    enodes.iter().map(|e| &e.head).collect()
}

/// The results of an e-node, if its operands have values. Parameters have none of their own.
fn evaluate(egraph: &Egraph, enode: &Enode, values: &HashMap<Id, Vec<Tensor>>) -> Result<Option<Vec<Tensor>>, String> {
    let child = |id: &Id| values.get(&egraph.find(*id));
    Ok(match &enode.head {
        Head::Attr(_) | Head::Opaque(_) => None,
        Head::Leaf(leaf) => match egraph.analysis.leaf(*leaf) {
            Leaf::Const(tensor) => Some(vec![(**tensor).clone()]),
            Leaf::Param(..) => None,
        },
        Head::Result(i) => child(&enode.children[0]).and_then(|all| Some(vec![all.get(*i)?.clone()])),
        Head::Op(op) => {
            let attrs: Vec<&Facts> = enode.children[..op.def().attrs.len()].iter().map(|&c| &egraph[c].data).collect();
            let op: Op = build_op(*op, &attrs)?;
            let operands: Option<Vec<&Tensor>> = enode.operands().iter().map(|o| child(o).and_then(|v| v.first())).collect();
            operands.map(|operands| op.eval(&operands)).transpose()?
        }
    })
}

/// Whether two tensors are equal, as far as a class of rules goes.
///
/// # Errors
/// Says where they differ.
pub fn compare(expected: &Tensor, found: &Tensor, class: Class) -> Result<(), String> {
    if expected.ty() != found.ty() {
        return Err(format!("the type {} became {}", expected.ty(), found.ty()));
    }
    let finite = expected.elements().chain(found.elements()).map(|e| e.as_f64().abs()).filter(|v| v.is_finite());
    let largest = finite.fold(1.0, f64::max);
    for (i, (a, b)) in expected.elements().zip(found.elements()).enumerate() {
        if !alike(a, b, class, expected.dtype(), largest) {
            return Err(format!("element {i} is {a}, and by a rule {b}"));
        }
    }
    Ok(())
}

/// How far two tensors are apart, by the measures of the classes; NaN and infinities count where only one side has them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance {
    /// The largest difference in units of the last place of the larger of the value and 1, as [`Class::Ulp`] bounds it.
    pub ulps: f64,
    /// The largest difference relative to the largest element, or to 1 if all are smaller, as [`Class::Reassoc`] bounds it.
    pub relative: f64,
}

impl Distance {
    /// Between what was expected and what was found.
    pub fn between(expected: &Tensor, found: &Tensor) -> Distance {
        if expected.ty() != found.ty() {
            return Distance { ulps: f64::INFINITY, relative: f64::INFINITY };
        }
        let ulp = ulp(expected.dtype());
        let pairs = || expected.elements().zip(found.elements()).map(|(a, b)| (a.as_f64(), b.as_f64()));
        let largest = pairs().flat_map(|(a, b)| [a.abs(), b.abs()]).filter(|v| v.is_finite()).fold(1.0, f64::max);
        let apart = |a: f64, b: f64| if a == b || a.is_nan() && b.is_nan() { 0.0 } else { (a - b).abs() };
        let farthest = |far: f64, d: f64| if d.is_nan() { f64::INFINITY } else { far.max(d) };
        Distance {
            ulps: pairs().map(|(a, b)| apart(a, b) / (ulp * a.abs().max(b.abs()).max(1.0))).fold(0.0, farthest),
            relative: pairs().map(|(a, b)| apart(a, b) / largest).fold(0.0, farthest),
        }
    }

    /// The larger of each.
    pub fn or_farther(self, other: Distance) -> Distance {
        Distance { ulps: self.ulps.max(other.ulps), relative: self.relative.max(other.relative) }
    }
}

/// What a class allows, in words.
pub fn tolerance(class: Class) -> String {
    match class {
        Class::Exact => "0".to_string(),
        Class::Ulp => format!("{ULPS} ulp"),
        Class::Reassoc => format!("{REASSOC_ULPS} ulp of the largest"),
        Class::Approx => format!("{APPROX:e} relative"),
    }
}

/// The difference of 1 and the next number.
fn ulp(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON,
        DType::F16 => 2f64.powi(-10),
        DType::BF16 => 2f64.powi(-7),
        _ => f64::from(f32::EPSILON),
    }
}

fn alike(a: Element, b: Element, class: Class, dtype: DType, largest: f64) -> bool {
    let (Element::Float(a), Element::Float(b)) = (a, b) else { return a == b };
    let same = a == b && a.is_sign_negative() == b.is_sign_negative() || a.is_nan() && b.is_nan();
    let ulp = ulp(dtype);
    let both_wild = a.is_nan() || !a.is_finite() && !b.is_finite();
    let difference = (a - b).abs();
    match class {
        Class::Exact => same,
        Class::Ulp => same || a == b || difference <= ULPS * ulp * a.abs().max(b.abs()).max(1.0),
        Class::Reassoc => both_wild || difference <= REASSOC_ULPS * ulp * largest,
        Class::Approx => both_wild || difference <= APPROX * largest,
    }
}

#[cfg(test)]
mod graphs;
#[cfg(test)]
mod planted;

#[cfg(test)]
mod tests {
    use super::*;
    use egret_ir::random::random;
    use egret_ir::text::parse;

    /// All rules on a graph, whose values come from seeded inputs.
    #[track_caller]
    fn check(text: &str) {
        let graph = parse(text).unwrap_or_else(|e| panic!("{e}"));
        let inputs: Vec<Tensor> = graph.params().iter().zip(1..).map(|(&p, seed)| random(seed, graph.ty(p)).unwrap()).collect();
        let rules: Vec<Rule> = super::super::all().iter().filter(|r| r.class != Class::Approx).cloned().collect();
        match prove_on(&graph, &inputs, &rules) {
            Ok(compared) => assert!(compared > graph.nodes().len(), "{compared}"),
            Err(message) => panic!("{message}"),
        }
    }

    #[test]
    fn whole_graphs_hold() {
        check(
            "graph mlp(x: f32[2, 3, 4]) {
                const w: f32[4, 4] = random(1)
                const b: f32[4] = random(2)
                const c: f32[] = 0.5
                const r: f32[] = 1.4142135
                const one: f32[1] = [1.0]
                h = matmul(x, w)
                hb = add(h, b)
                d = div(hb, r)
                e = erf(d)
                f = add(e, one)
                g = mul(hb, f)
                i = mul(g, c)
                j = transpose[perm = [0, 2, 1]](i)
                k = sigmoid(j)
                l = mul(j, k)
                y = transpose[perm = [0, 2, 1]](l)
                return y
            }",
        );
        check(
            "graph norms(x: f32[2, 3, 4]) {
                const two: f32[] = 2.0
                const e: f32[] = 1e-5
                const s: f32[4] = random(3)
                const b: f32[4] = random(4)
                m = reduce_mean[axes = [2]](x)
                d = sub(x, m)
                q = pow(d, two)
                v = reduce_mean[axes = [2]](q)
                ve = add(v, e)
                sd = sqrt(ve)
                n = div(d, sd)
                ns = mul(n, s)
                y = add(ns, b)
                return y
            }",
        );
        check(
            "graph attention(q: f32[1, 2, 3, 4], k: f32[1, 2, 5, 4], v: f32[1, 2, 5, 4], m: f32[1, 1, 3, 5]) {
                const c: f32[] = 0.7071
                qs = mul(q, c)
                ks = mul(k, c)
                kt = transpose[perm = [0, 1, 3, 2]](ks)
                s = matmul(qs, kt)
                a = add(m, s)
                p = softmax[axes = [3]](a)
                y = matmul(p, v)
                return y
            }",
        );
        check(
            "graph conv(x: f32[2, 3, 5, 5]) {
                const w: f32[4, 3, 3, 3] = random(5)
                const b: f32[4, 1, 1] = random(6)
                const s: f32[4, 1, 1] = random(7)
                const m: f32[4, 1, 1] = random(8)
                const v: f32[4, 1, 1] = [1.0, 2.0, 0.5, 1.5]
                c = conv[stride = [2, 2], pad = [1, 1, 1, 1], dilation = [1, 1]](x, w)
                cb = add(c, b)
                n = batch_norm[epsilon = 0.001](cb, s, b, m, v)
                const three: f32[] = 3.0
                const zero: f32[] = 0.0
                const six: f32[] = 6.0
                a = add(n, three)
                h = clip(a, zero, six)
                p = mul(n, h)
                y = div(p, six)
                return y
            }",
        );
    }
}
