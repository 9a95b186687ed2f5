//! Says by which rules a graph became another: the proofs that egg finds in an e-graph.
//!
//! The old graph is saturated again, in an e-graph that keeps a reason for every equality, and the new graph's nodes are looked
//! up there. Each value that both graphs have is then proved alone: the operands of its new form stand for the old values of
//! their names, so a proof does not repeat what was proved for them.
//!
//! ```
//! use egret_passes::explain::explain;
//! use egret_passes::pass::{Context, PassManager};
//!
//! let old = egret_ir::text::parse("graph g(x: f32[8]) { a = neg(x) b = exp(a) c = neg(b) d = neg(c) y = relu(d) return y }")?;
//! let (new, _) = PassManager::named("rewrite")?.run(&old, &Context::default(), |_, _| ())?;
//! let proofs = explain(&old, &new, &Context::default())?;
//! assert!(proofs["y"].is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Invariant: what is explained is the graph that was compiled. Reasons change how an e-graph numbers its classes, and with that
//! which of two equally cheap graphs is taken; so nothing is extracted here.

use crate::egraph::{Budget, Egraph, Enode, GraphClasses, Head, OpIndex, explained};
use crate::pass::Context;
use crate::rewrite::saturate_by;
use crate::rules::{self, Rule};
use egg::{Id, Language, Symbol};
use egret_ir::{Def, Graph, Node, ValueId};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

/// A rule in a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub rule: String,
    /// Whether the right side became the left one.
    pub backwards: bool,
    /// How often in a row.
    pub times: usize,
}

/// The steps that lead from the old form of each value to its new one, none if the form stayed; by the value's name. `None`
/// stands for a value whose forms were not found equal within the budget.
pub type Proofs = HashMap<Arc<str>, Option<Vec<Step>>>;

/// The stack of the thread that finds proofs: egg walks terms recursively, and they are as deep as the graph. At up to 1 KiB for
/// a level this is enough for graphs of 250,000 nodes in a row; memory that is not used is not taken.
const STACK: usize = 256 << 20;

/// Explains how `new` was made of `old` by the rules that `context` allows. Values of `new` that `old` does not have belong to
/// the first value with a proof that reads them, and get its proof.
///
/// # Errors
/// When the graphs do not type-check, or have different parameters.
pub fn explain(old: &Graph, new: &Graph, context: &Context) -> Result<Proofs, String> {
    let (class, disabled, rules) = (context.class, context.disabled.clone(), context.rules.clone());
    let find = move || {
        let context = Context { class, disabled, rules, ..Context::default() };
        let GraphClasses { mut egraph, classes, .. } = explained(old)?;
        saturate_by(&mut egraph, &context, Budget::of(old.nodes().len()))?;
        Explaining { old, new, egraph, classes, terms: HashMap::new(), reorders: reorders(&context.rules) }.run()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, find).map_err(|e| e.to_string())?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The rules that only say that operands may stand in another order, which explains nothing.
fn reorders(added: &[Rule]) -> HashSet<Symbol> {
    rules::all().iter().chain(added).filter(|rule| rule.only_reorders()).map(|rule| Symbol::from(rule.name)).collect()
}

struct Explaining<'a> {
    old: &'a Graph,
    new: &'a Graph,
    egraph: Egraph,
    /// The terms of the old values.
    classes: HashMap<ValueId, Id>,
    /// The terms of the new values, as what reads them sees them.
    terms: HashMap<ValueId, Id>,
    reorders: HashSet<Symbol>,
}

impl Explaining<'_> {
    fn run(mut self) -> Result<Proofs, String> {
        if self.old.params().len() != self.new.params().len() {
            return Err("the graphs have different parameters".into());
        }
        for (old, new) in self.old.params().iter().zip(self.new.params()) {
            self.terms.insert(*new, self.classes[old]);
        }
        let mut proofs = Proofs::new();
        for node in self.new.nodes() {
            self.node(node, &mut proofs)?;
        }
        self.belonging(&mut proofs);
        Ok(proofs)
    }

    /// Adds a node of the new graph and proves those of its results that the old graph has.
    fn node(&mut self, node: &Node, proofs: &mut Proofs) -> Result<(), String> {
        let whole = self.term_of(node)?;
        for (i, &result) in node.results.iter().enumerate() {
            let several = node.results.len() != 1;
            let term = if several { self.egraph.add_uncanonical(Enode { head: Head::Result(i), children: vec![whole] }) } else { whole };
            let name = &self.new.value(result).name;
            let same = self.old.find(name).filter(|&old| self.old.ty(old) == self.new.ty(result));
            let Some(old) = same.and_then(|old| self.classes.get(&old).copied()) else {
                self.terms.insert(result, term);
                continue;
            };
            proofs.insert(name.clone(), self.proof(old, term));
            self.terms.insert(result, old);
        }
        Ok(())
    }

    /// The node as a term over those of its operands.
    fn term_of(&mut self, node: &Node) -> Result<Id, String> {
        if node.region.is_some() {
            return Err("a graph of kernels is not explained; explain the graph before they are made".into());
        }
        let attrs = node.op.attrs().into_iter().map(|attr| Enode::leaf(Head::Attr(attr)));
        let mut children: Vec<Id> = attrs.map(|attr| self.egraph.add(attr)).collect();
        for &operand in &node.operands {
            children.push(self.operand(operand)?);
        }
        let enode = Enode { head: Head::Op(OpIndex::of(node.op.def())), children };
        let id = self.egraph.add_uncanonical(enode);
        self.egraph.rebuild();
        self.egraph.analysis.check()?;
        Ok(id)
    }

    fn operand(&mut self, value: ValueId) -> Result<Id, String> {
        if let Some(&term) = self.terms.get(&value) {
            return Ok(term);
        }
        let Def::Const(tensor, _) = &self.new.value(value).def else {
            return Err(format!("`{}` is read before it is made", self.new.value(value).name));
        };
        let leaf = self.egraph.analysis.constant(tensor);
        let term = self.egraph.add_uncanonical(Enode::leaf(Head::Leaf(leaf)));
        self.terms.insert(value, term);
        Ok(term)
    }

    fn proof(&mut self, old: Id, new: Id) -> Option<Vec<Step>> {
        if self.egraph.find(old) != self.egraph.find(new) {
            return None;
        }
        if old == new {
            return Some(vec![]);
        }
        let trees = self.egraph.explain_id_equivalence(old, new).explanation_trees;
        let mut steps = vec![];
        self.steps(&trees, &mut HashSet::new(), &mut steps);
        Some(steps)
    }

    /// The rules of a proof in order; parts that are shared are told once.
    fn steps<L: Language>(&self, trees: &[Rc<egg::TreeTerm<L>>], seen: &mut HashSet<*const egg::TreeTerm<L>>, steps: &mut Vec<Step>) {
        for tree in trees.iter().filter(|tree| seen.insert(Rc::as_ptr(tree))).collect::<Vec<_>>() {
            for (rule, backwards) in [(tree.forward_rule, false), (tree.backward_rule, true)] {
                let told = rule.filter(|rule| !self.reorders.contains(rule)).map(|rule| rule.to_string());
                match (told, steps.last_mut()) {
                    (Some(rule), Some(last)) if last.rule == rule && last.backwards == backwards => last.times += 1,
                    (Some(rule), _) => steps.push(Step { rule, backwards, times: 1 }),
                    (None, _) => {}
                }
            }
            tree.child_proofs.iter().for_each(|proof| self.steps(proof, seen, steps));
        }
    }

    /// Gives new values the proof of the first value that reads them and has one.
    fn belonging(&self, proofs: &mut Proofs) {
        for node in self.new.nodes().iter().rev() {
            for &result in &node.results {
                let name = &self.new.value(result).name;
                if proofs.contains_key(name) {
                    continue;
                }
                let readers = self.new.readers(result).iter().flat_map(|&reader| &self.new.node(reader).results);
                let found = readers.filter_map(|&r| proofs.get(&self.new.value(r).name)).next().cloned();
                found.map(|proof| proofs.insert(name.clone(), proof));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pass::PassManager;
    use egret_ir::text::parse;

    /// The proofs of a graph's values after `rewrite`, a line each.
    fn told(text: &str) -> String {
        let old = parse(text).unwrap();
        let (new, _) = PassManager::named("rewrite").unwrap().run(&old, &Context::default(), |_, _| ()).unwrap();
        let proofs = explain(&old, &new, &Context::default()).unwrap();
        let mut told = String::new();
        for node in new.nodes() {
            let name = &new.value(node.results[0]).name;
            let steps = proofs[name].as_ref().expect("it is equal");
            let word = |s: &Step| format!(" {}{}", if s.backwards { "~" } else { "" }, s.rule);
            told += &format!("{name} = {}:{}\n", node.op.name(), steps.iter().map(word).collect::<String>());
        }
        told
    }

    #[test]
    fn the_whole_way_is_told() {
        let told = told(
            "graph g(x: f32[N, 8]) {
                const half: f32[] = 0.5
                const r: f32[] = 1.4142135
                const one: f32[] = 1.0
                n = tanh(x)
                a = div(n, r) b = erf(a) c = add(b, one) d = mul(n, c) y = mul(d, half)
                z = exp(y)
                return z
            }",
        );
        assert_eq!(told, "n = tanh:\ny = gelu: div_number gelu_half_last\nz = exp:\n");
    }

    #[test]
    fn what_cancels_is_told_where_it_is_read() {
        let told = told(
            "graph g(x: f32[2, 3]) {
                a = transpose[perm = [1, 0]](x)
                b = transpose[perm = [1, 0]](a)
                y = relu(b)
                return y
            }",
        );
        // Which of several ways egg tells is its own affair.
        assert!(told.starts_with("y = relu: transpose_") && told.lines().count() == 1, "{told}");
    }

    #[test]
    fn new_values_share_the_proof_of_what_they_are_for() {
        let told = told(
            "graph g(x: f32[1, 1, 4, 4]) {
                const w: f32[2, 1, 1, 1] = [1, 2]
                const s: f32[1, 2, 1, 1] = [2, 4]
                const b: f32[1, 2, 1, 1] = [1, 1]
                const m: f32[1, 2, 1, 1] = [0, 1]
                const v: f32[1, 2, 1, 1] = [1, 4]
                c = conv[stride = [1, 1], pad = [0, 0, 0, 0], dilation = [1, 1]](x, w)
                y = batch_norm[epsilon = 0.0](c, s, b, m, v)
                return y
            }",
        );
        assert!(told.contains("y.conv = conv: batch_norm_affine conv_scale"), "{told}");
        assert!(told.contains("y = add: batch_norm_affine conv_scale"), "{told}");
    }

    #[test]
    fn what_is_not_equal_is_not_explained() {
        let graphs = ["relu(x)", "exp(x)"].map(|op| parse(&format!("graph g(x: f32[2]) {{ y = {op} return y }}")).unwrap());
        let proofs = explain(&graphs[0], &graphs[1], &Context::default()).unwrap();
        assert_eq!(proofs["y"], None);
    }
}
