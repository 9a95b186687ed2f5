//! From a plan back to a graph.
//!
//! Every class that the plan needs is an item and becomes one node, but for constants, which are written when they are
//! first read. Items stand where the old node of their class stood; an item whose class had none stands just before the
//! item that reads it first, and takes its name and origins from it.

use crate::egraph::{Egraph, Enode, Facts, Head, Leaf, build_op};
use crate::extract::{Choices, Plan, constants};
use egg::Id;
use egret_ir::{Def, Graph, NodeId, Source, ValueId};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

/// The graph that computes the results of `old` as `plan` says. `classes` has the class of every value of `old`.
///
/// # Errors
/// Only if a chosen e-node does not type-check, which would be a bug of the e-graph.
pub fn graph(old: &Graph, egraph: &Egraph, classes: &HashMap<ValueId, Id>, choices: &Choices, plan: &Plan) -> Result<Graph, String> {
    let chosen = Chosen::new(old, egraph, classes, choices, plan);
    let entries = chosen.entries();
    let mut writer = Writer {
        taken: old.values().iter().map(|v| v.name.clone()).collect(),
        new: Graph::new(old.name.clone()),
        values: HashMap::new(),
        tuples: HashMap::new(),
        smallest: constants::smallest(egraph),
        chosen: &chosen,
    };
    for &param in old.params() {
        writer.new.add_param(&old.value(param).name, old.ty(param).clone());
    }
    for item in chosen.order(&entries) {
        let item = &chosen.items[item];
        writer.write(item.class, item.enode, &entries[chosen.index[&item.class]])?;
    }
    for (&result, name) in old.results.iter().zip(&old.result_names) {
        let value = writer.value(chosen.class_of[&result], name)?;
        writer.new.add_result(value, name);
    }
    Ok(writer.new)
}

/// A class that is computed, and how.
struct Item<'a> {
    class: Id,
    enode: &'a Enode,
    /// The items that it reads, each once.
    reads: Vec<usize>,
}

/// What the plan chose, and what the old graph has to do with it.
struct Chosen<'a> {
    old: &'a Graph,
    egraph: &'a Egraph,
    /// Items after what they read.
    items: Vec<Item<'a>>,
    index: HashMap<Id, usize>,
    /// The class of every old value.
    class_of: HashMap<ValueId, Id>,
    /// The old values of each class, results of the graph first.
    originals: HashMap<Id, Vec<ValueId>>,
}

/// Where an item stands, what it is called, and where it comes from.
struct Entry {
    key: usize,
    name: Arc<str>,
    /// Whether the name is its own, not that of the item it is for.
    own_name: bool,
    origin: Vec<Arc<str>>,
}

impl<'a> Chosen<'a> {
    fn new(old: &'a Graph, egraph: &'a Egraph, classes: &HashMap<ValueId, Id>, choices: &Choices, plan: &Plan) -> Chosen<'a> {
        let class_of: HashMap<ValueId, Id> = classes.iter().map(|(&v, &id)| (v, egraph.find(id))).collect();
        let mut originals: HashMap<Id, Vec<ValueId>> = HashMap::new();
        let mut seen = HashSet::new();
        for value in old.results.iter().copied().chain(old.value_ids().map(|(id, _)| id)) {
            if let Some(&class) = class_of.get(&value).filter(|_| seen.insert(value)) {
                originals.entry(class).or_default().push(value);
            }
        }
        let picks = choices.ids.iter().enumerate().filter_map(|(position, &id)| {
            let alternative = &choices.problem.classes[position][plan.picks[position]?];
            (!egraph[id].data.is_constant()).then(|| (id, &egraph[id].nodes[alternative.enode]))
        });
        let picks: HashMap<Id, &Enode> = picks.collect();
        let mut chosen = Chosen { old, egraph, items: vec![], index: HashMap::new(), class_of, originals };
        for result in &old.results {
            chosen.add_items(chosen.class_of[result], &picks);
        }
        chosen
    }

    /// Adds a class and before it all that it reads. The stack is explicit: graphs are deeper than ours.
    fn add_items(&mut self, class: Id, picks: &HashMap<Id, &'a Enode>) {
        let mut stack = vec![(class, false)];
        while let Some((class, read)) = stack.pop() {
            let Some(&enode) = picks.get(&class).filter(|_| !self.index.contains_key(&class)) else { continue };
            let operands: Vec<Id> = enode.operands().iter().map(|&o| self.egraph.find(o)).collect();
            if read {
                let reads: BTreeSet<usize> = operands.iter().filter_map(|o| self.index.get(o).copied()).collect();
                self.index.insert(class, self.items.len());
                self.items.push(Item { class, enode, reads: reads.into_iter().collect() });
            } else {
                stack.push((class, true));
                stack.extend(operands.into_iter().rev().map(|o| (o, false)));
            }
        }
    }

    /// One entry per item.
    fn entries(&self) -> Vec<Entry> {
        let mut first_reader: Vec<Option<(usize, usize)>> = vec![None; self.items.len()];
        let mut entries: Vec<Option<Entry>> = self.items.iter().map(|_| None).collect();
        for (i, item) in self.items.iter().enumerate().rev() {
            let reader = first_reader[i].and_then(|(_, reader)| entries[reader].as_ref());
            let entry = match (self.original_node(item.class), reader) {
                (Some((node, value)), _) => {
                    Entry { key: node.index(), name: self.old.value(value).name.clone(), own_name: true, origin: self.origin(item.class) }
                }
                (None, Some(reader)) => {
                    Entry { key: reader.key, name: reader.name.clone(), own_name: false, origin: reader.origin.clone() }
                }
                // A parameter, or a result that is one.
                (None, None) => Entry { key: 0, name: self.old.name.as_str().into(), own_name: false, origin: vec![] },
            };
            for &read in &item.reads {
                let this = (entry.key, i);
                first_reader[read] = Some(first_reader[read].map_or(this, |other| other.min(this)));
            }
            entries[i] = Some(entry);
        }
        entries.into_iter().flatten().collect()
    }

    /// The classes of the results of a node with several; none for other classes.
    fn parts(&self, class: Id) -> Vec<Option<Id>> {
        match &self.egraph[class].data {
            Facts::Tuple(values) => {
                (0..values.len()).map(|i| self.egraph.lookup(Enode { head: Head::Result(i), children: vec![class] })).collect()
            }
            Facts::Attr(_) | Facts::Tensor(_) => vec![],
        }
    }

    /// The old values of a class, or of the results of a node with several.
    fn old_values(&self, class: Id) -> impl Iterator<Item = ValueId> {
        let classes = std::iter::once(class).chain(self.parts(class).into_iter().flatten());
        classes.filter_map(|c| self.originals.get(&c)).flatten().copied()
    }

    /// The first old value of a class that a node made.
    fn original_node(&self, class: Id) -> Option<(NodeId, ValueId)> {
        self.old_values(class).find_map(|v| Some((self.old.producer(v)?, v)))
    }

    /// The origins of the old nodes whose work a class does: of all that lead to its old values, back to values that are
    /// still computed on their own.
    fn origin(&self, class: Id) -> Vec<Arc<str>> {
        let mut origin = BTreeSet::new();
        let mut stack: Vec<ValueId> = self.old_values(class).collect();
        let mut seen: HashSet<ValueId> = stack.iter().copied().collect();
        while let Some(value) = stack.pop() {
            let Some(node) = self.old.producer(value).map(|n| self.old.node(n)) else { continue };
            origin.extend(node.origin.iter().cloned());
            let inner = node.operands.iter().filter(|o| !self.index.contains_key(&self.class_of[o]));
            stack.extend(inner.filter(|o| seen.insert(**o)));
        }
        origin.into_iter().collect()
    }

    /// The items, each after what it reads, otherwise by the keys of their entries.
    fn order(&self, entries: &[Entry]) -> Vec<usize> {
        let mut readers: Vec<Vec<usize>> = vec![vec![]; self.items.len()];
        let mut missing: Vec<usize> = self.items.iter().map(|item| item.reads.len()).collect();
        let mut ready = BinaryHeap::new();
        for (i, item) in self.items.iter().enumerate() {
            item.reads.iter().for_each(|&r| readers[r].push(i));
            if item.reads.is_empty() {
                ready.push(Reverse((entries[i].key, i)));
            }
        }
        let mut order = vec![];
        while let Some(Reverse((_, item))) = ready.pop() {
            order.push(item);
            for &reader in &readers[item] {
                missing[reader] -= 1;
                if missing[reader] == 0 {
                    ready.push(Reverse((entries[reader].key, reader)));
                }
            }
        }
        order
    }
}

/// The new graph while it is written.
struct Writer<'a> {
    chosen: &'a Chosen<'a>,
    /// The e-node of each constant class.
    smallest: HashMap<Id, usize>,
    new: Graph,
    /// The new value of each class.
    values: HashMap<Id, ValueId>,
    /// The new values of each node with several results.
    tuples: HashMap<Id, Vec<ValueId>>,
    /// Names that new values may not take: all old ones, and those made so far.
    taken: HashSet<Arc<str>>,
}

impl<'a> Writer<'a> {
    /// Writes a class by an e-node all of whose operands are written or constants.
    fn write(&mut self, class: Id, enode: &Enode, entry: &Entry) -> Result<(), String> {
        let egraph = self.chosen.egraph;
        match &enode.head {
            Head::Attr(_) => Err("an attribute cannot be computed".into()),
            Head::Leaf(leaf) => match egraph.analysis.leaf(*leaf) {
                Leaf::Param(position, _) => {
                    self.values.insert(class, self.new.params()[*position]);
                    Ok(())
                }
                Leaf::Const(_) => self.value(class, &entry.name).map(drop),
            },
            Head::Result(i) => {
                let parts = self.tuples.get(&egraph.find(enode.children[0])).ok_or("a result is read before its node")?;
                self.values.insert(class, parts[*i]);
                Ok(())
            }
            Head::Op(op) => {
                let count = op.def().attrs.len();
                let attrs: Vec<&Facts> = enode.children[..count].iter().map(|&c| &egraph[c].data).collect();
                let op = build_op(*op, &attrs)?;
                let operands = self.operands(enode, &entry.name)?;
                let names = self.names(class, op.name(), entry);
                let names: Vec<&str> = names.iter().map(|n| &**n).collect();
                let results = self.new.add_node(op, &operands, &names, entry.origin.clone())?;
                self.made(class, results);
                Ok(())
            }
            Head::Opaque(node) => {
                let node = self.chosen.old.node(*node);
                let region = node.region.as_ref().ok_or("an opaque node has no region")?;
                let operands = self.operands(enode, &entry.name)?;
                let names = self.names(class, node.op.name(), entry);
                let names: Vec<&str> = names.iter().map(|n| &**n).collect();
                let results = self.new.add_kernel(&region.name, (**region).clone(), &operands, &names, entry.origin.clone())?;
                self.made(class, results);
                Ok(())
            }
        }
    }

    fn operands(&mut self, enode: &Enode, name: &str) -> Result<Vec<ValueId>, String> {
        enode.operands().iter().map(|&o| self.value(self.chosen.egraph.find(o), name)).collect()
    }

    fn made(&mut self, class: Id, results: Vec<ValueId>) {
        match self.chosen.egraph[class].data {
            Facts::Tuple(_) => drop(self.tuples.insert(class, results)),
            Facts::Attr(_) | Facts::Tensor(_) => drop(self.values.insert(class, results[0])),
        }
    }

    /// The new value of a class; a constant is written now, after the constants that it is made of. `reader` is the name
    /// of what reads it.
    fn value(&mut self, class: Id, reader: &str) -> Result<ValueId, String> {
        let mut stack = vec![class];
        while let Some(&top) = stack.last() {
            if self.is_written(top) {
                stack.pop();
                continue;
            }
            let enode = self.constant(top, reader)?;
            let before = stack.len();
            let operands = enode.operands().iter().map(|&o| self.chosen.egraph.find(o));
            stack.extend(operands.filter(|&o| !self.is_written(o)));
            if stack.len() == before {
                self.write_constant(top, enode, reader)?;
            }
        }
        self.values.get(&class).copied().ok_or_else(|| format!("a constant that `{reader}` reads has no value"))
    }

    fn is_written(&self, class: Id) -> bool {
        self.values.contains_key(&class) || self.tuples.contains_key(&class)
    }

    /// The e-node by which a constant is written.
    fn constant(&self, class: Id, reader: &str) -> Result<&'a Enode, String> {
        let egraph = self.chosen.egraph;
        let enode = self.smallest.get(&class).filter(|_| egraph[class].data.is_constant());
        enode.map(|&i| &egraph[class].nodes[i]).ok_or_else(|| format!("something that `{reader}` reads is not computed"))
    }

    fn write_constant(&mut self, class: Id, enode: &Enode, reader: &str) -> Result<(), String> {
        if let Head::Leaf(leaf) = &enode.head {
            let Leaf::Const(tensor) = self.chosen.egraph.analysis.leaf(*leaf) else { return Err("a parameter is no constant".into()) };
            let (name, source) = self.constant_name(class, reader);
            let value = self.new.add_const_from(&name, tensor.clone(), source);
            self.values.insert(class, value);
            return Ok(());
        }
        let own_name = self.chosen.original_node(class).map(|(_, v)| self.chosen.old.value(v).name.clone());
        let entry = Entry { key: 0, own_name: own_name.is_some(), name: own_name.unwrap_or_else(|| reader.into()), origin: vec![] };
        self.write(class, enode, &entry)
    }

    /// The name that a constant had, or one made of its value.
    fn constant_name(&mut self, class: Id, reader: &str) -> (Arc<str>, Source) {
        let old = self.chosen.old;
        let first = self.chosen.originals.get(&class).and_then(|values| values.first());
        match first.map(|&v| old.value(v)) {
            Some(value) => match &value.def {
                Def::Const(_, source) => (value.name.clone(), source.clone()),
                Def::Param | Def::Node(..) => (value.name.clone(), Source::Data),
            },
            None => {
                let splat = self.chosen.egraph[class].data.tensor().and_then(|v| v.splat);
                let base = splat.map_or_else(|| format!("{reader}.const"), |v| format!("c{v}"));
                (self.fresh(&base), Source::Data)
            }
        }
    }

    /// The names of what a class writes: one per result.
    fn names(&mut self, class: Id, op: &str, entry: &Entry) -> Vec<Arc<str>> {
        let parts = self.chosen.parts(class);
        if parts.is_empty() {
            return vec![if entry.own_name { entry.name.clone() } else { self.fresh(&format!("{}.{op}", entry.name)) }];
        }
        let mut names = vec![];
        for (i, part) in parts.into_iter().enumerate() {
            let own = part.filter(|part| self.is_made_by(*part, class)).and_then(|part| self.chosen.originals.get(&part)?.first().copied());
            names.push(match own {
                Some(value) => self.chosen.old.value(value).name.clone(),
                None => self.fresh(&format!("{}.{i}", entry.name)),
            });
        }
        names
    }

    /// Whether `part` is computed as a result of `tuple`, or not at all.
    fn is_made_by(&self, part: Id, tuple: Id) -> bool {
        let egraph = self.chosen.egraph;
        match self.chosen.index.get(&part).map(|&i| self.chosen.items[i].enode) {
            Some(enode) => matches!(enode.head, Head::Result(_)) && egraph.find(enode.children[0]) == tuple,
            None => !self.values.contains_key(&part),
        }
    }

    /// `base`, or `base.1` ... if that is taken.
    fn fresh(&mut self, base: &str) -> Arc<str> {
        let free = |name: &String| !self.taken.contains(name.as_str());
        let numbered = (1..).map(|i| format!("{base}.{i}"));
        let name: Arc<str> = std::iter::once(base.to_string()).chain(numbered).find(free).expect("endless").into();
        self.taken.insert(name.clone());
        name
    }
}
