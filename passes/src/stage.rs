//! Splits a graph where an extent depends on data, or what is computed, so that all other passes see extents as free dimensions and ops
//! that are always computed.
//!
//! An op that finds an extent stays by itself, and so do loops and branches, whose regions are split likewise; what lies between such ops
//! becomes stages, each a graph in which the extent is a symbol of its parameters:
//!
//! ```text
//! m = lt(x, t)                          m = stage s0(x) { ... }
//! i = non_zero[count = K](m)      =>    i = non_zero[count = K](m)
//! y = mul(cast(i), 2)                   y = stage s1(i) { ... }
//! ```
//!
//! **Invariant.** A stage comes behind the ops that find its symbols, and each of its symbols stands alone as an extent of one of its
//! parameters, so that whoever runs it can read it off a shape. A node stands in the first stage in which it can be computed;
//! what is made of nothing but constants stands in every stage that reads it.

use egret_ir::{Copy, Def, Dim, Graph, Node, NodeId, Op, TensorType, ValueId};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

mod sink;

/// The pass; see the module. A graph whose extents do not depend on data stays as it is.
///
/// # Errors
/// Only if a node does not type-check, which would be a bug of an earlier pass.
pub fn stage(graph: &Graph) -> Result<Graph, String> {
    if needs_stages(graph) { staged(graph, "") } else { Ok(graph.clone()) }
}

/// A graph or region in stages, whose names begin with `prefix`.
fn staged(graph: &Graph, prefix: &str) -> Result<Graph, String> {
    let graph = sink::sink(graph)?;
    Staging::new(&graph, prefix).emit()
}

/// Whether data decides over extents of a graph that has no stages yet.
pub fn needs_stages(graph: &Graph) -> bool {
    graph.nodes().iter().any(|node| node.op.finds_extents()) && !has_stages(graph)
}

/// Whether a graph consists of stages.
pub fn has_stages(graph: &Graph) -> bool {
    graph.nodes().iter().any(|node| node.op.is_stage() || node.op.is_control() && node.regions().any(|region| has_stages(region)))
}

/// The graphs that passes see: the stages, those of loops and branches in their place, or a graph that has none.
pub fn seen(graph: &Graph) -> Vec<&Graph> {
    if !graph.nodes().iter().any(|node| node.op.is_stage() || node.op.finds_extents()) {
        return vec![graph];
    }
    let regions = graph.nodes().iter().flat_map(|node| node.regions().map(move |region| (node.op.is_stage(), region)));
    regions.flat_map(|(is_stage, region)| if is_stage { vec![&**region] } else { seen(region) }).collect()
}

/// Runs a pass on every stage of a graph, those in loops and branches too, or on the graph itself where data decides over nothing.
///
/// # Errors
/// Those of the pass.
pub fn inside(graph: &Graph, pass: &dyn Fn(&Graph) -> Result<Graph, String>) -> Result<Graph, String> {
    if !graph.nodes().iter().any(|node| node.op.is_stage() || node.op.finds_extents()) {
        return pass(graph);
    }
    let mut copy = Copy::new(graph, TensorType::clone);
    for node in graph.nodes() {
        copy.node_with(node, node.op.clone(), |region| match node.op {
            Op::stage { .. } => pass(region),
            _ => inside(region, pass),
        })?;
    }
    Ok(copy.finish())
}

/// The nodes of a graph, those of its stages in their place and those of loops and branches beside them.
pub fn nodes(graph: &Graph) -> usize {
    let inner = |node: &Node| match node.op {
        Op::stage { .. } => node.regions().map(|region| region.nodes().len()).sum(),
        _ if node.op.is_control() => 1 + node.regions().map(|region| nodes(region)).sum::<usize>(),
        _ => 1,
    };
    graph.nodes().iter().map(inner).sum()
}

/// Where every node of a graph goes.
struct Staging<'a> {
    graph: &'a Graph,
    /// What names of stages begin with.
    prefix: &'a str,
    /// How many ops that find extents stand before a node, one after another, by the node's position; `None` for a node that nothing needs.
    levels: Vec<Option<usize>>,
    /// Whether a node reads nothing but constants.
    free: Vec<bool>,
}

impl<'a> Staging<'a> {
    fn new(graph: &'a Graph, prefix: &'a str) -> Staging<'a> {
        let live = live(graph);
        let mut staging = Staging { graph, prefix, levels: vec![], free: vec![] };
        let mut symbols: HashMap<Arc<str>, usize> = HashMap::new();
        for (id, node) in graph.node_ids() {
            let producers = || node.operands.iter().filter_map(|&v| graph.producer(v));
            let read = producers().map(|maker| staging.made(maker));
            let named = mentioned(graph, node).into_iter().filter_map(|s| symbols.get(&s).copied());
            let level = read.chain(named).max().unwrap_or(0);
            symbols.extend(node.op.found().into_iter().map(|s| (s, level + 1)));
            let constant = |v: &ValueId| match graph.value(*v).def {
                Def::Param => false,
                Def::Const(..) => true,
                Def::Node(maker, _) => staging.free[maker.index()],
            };
            let free = !node.op.finds_extents() && node.operands.iter().all(constant);
            staging.free.push(free);
            staging.levels.push(live.contains(&id).then_some(level));
        }
        staging
    }

    /// The level from which on the results of a node can be read.
    fn made(&self, maker: NodeId) -> usize {
        self.levels[maker.index()].unwrap_or(0) + usize::from(self.graph.node(maker).op.finds_extents())
    }

    fn emit(&self) -> Result<Graph, String> {
        let mut copy = Copy::new(self.graph, TensorType::clone);
        let last = self.levels.iter().flatten().max().copied().unwrap_or(0);
        for level in 0..=last {
            self.add_stage(&mut copy, level)?;
            for (_, node) in self.members(level).filter(|(_, node)| node.op.finds_extents()) {
                copy.node_with(node, node.op.clone(), |region| staged(region, &format!("{}.", region.name)))?;
            }
        }
        Ok(copy.finish())
    }

    fn members(&self, level: usize) -> impl Iterator<Item = (NodeId, &'a Node)> + '_ {
        self.graph.node_ids().filter(move |(id, _)| self.levels[id.index()] == Some(level))
    }

    /// Adds what is computed at a level as one node, if there is anything.
    fn add_stage(&self, copy: &mut Copy, level: usize) -> Result<(), String> {
        let exports = self.exports(level);
        if exports.is_empty() {
            return Ok(());
        }
        let mut region = Region::new(self, level);
        exports.iter().for_each(|&v| region.need(v));
        let inputs = region.inputs();
        let inner = region.graph(&inputs, &exports)?;
        let operands = copy.values(&inputs);
        let names: Vec<&str> = exports.iter().map(|&v| &*self.graph.value(v).name).collect();
        let op = Op::stage { name: format!("{}s{level}", self.prefix).into() };
        let results = copy.new.add_region(op, inner, &operands, &names, vec![])?;
        exports.iter().zip(results).for_each(|(&old, new)| copy.set(old, new));
        Ok(())
    }

    /// The values that a stage makes for others: for later stages, for ops that find extents, and for whoever runs the graph.
    fn exports(&self, level: usize) -> Vec<ValueId> {
        let inside = |v: ValueId| match self.graph.value(v).def {
            Def::Param => false,
            Def::Const(..) => level == 0,
            Def::Node(maker, _) => !self.graph.node(maker).op.finds_extents() && self.levels[maker.index()] == Some(level),
        };
        let copied = |v: ValueId| self.graph.producer(v).is_none_or(|maker| self.free[maker.index()]);
        let mut read: BTreeSet<ValueId> = self.graph.results.iter().copied().filter(|&v| inside(v)).collect();
        for (id, node) in self.graph.node_ids().filter(|(id, _)| self.levels[id.index()].is_some()) {
            let apart = node.op.finds_extents();
            let crosses = |v: &ValueId| inside(*v) && (apart || !copied(*v) && self.levels[id.index()] != Some(level));
            read.extend(node.operands.iter().copied().filter(crosses));
        }
        read.into_iter().collect()
    }

    /// A value of the graph around the stages that has a symbol as one of its extents.
    fn witness(&self, symbol: &Arc<str>) -> Option<ValueId> {
        let has = |v: &ValueId| self.graph.ty(*v).dims.iter().any(|d| d.as_symbol() == Some(symbol));
        let found = self.graph.nodes().iter().filter(|node| node.op.finds_extents()).flat_map(|node| &node.results);
        self.graph.params().iter().chain(found).copied().find(has)
    }
}

/// The nodes that a result depends on, by its value or by its extents.
fn live(graph: &Graph) -> HashSet<NodeId> {
    let mut needed: HashSet<ValueId> = graph.results.iter().copied().collect();
    let mut symbols: HashSet<Arc<str>> = graph.results.iter().flat_map(|&r| &graph.ty(r).dims).flat_map(Dim::symbols).collect();
    let mut live = HashSet::new();
    for (id, node) in graph.node_ids().rev() {
        if node.results.iter().any(|r| needed.contains(r)) || node.op.found().iter().any(|s| symbols.contains(s)) {
            live.insert(id);
            needed.extend(&node.operands);
            symbols.extend(mentioned(graph, node));
        }
    }
    live
}

/// The symbols that have to have numbers before a node is computed.
fn mentioned(graph: &Graph, node: &Node) -> BTreeSet<Arc<str>> {
    let found = node.op.found();
    let operands = node.operands.iter().flat_map(|&v| graph.ty(v).dims.clone());
    let results = node.results.iter().flat_map(|&v| graph.ty(v).dims.clone());
    let all = node.op.dims().into_iter().chain(operands).chain(results).flat_map(|d| d.symbols());
    all.filter(|s| !found.contains(s)).collect()
}

/// A stage in the making.
struct Region<'a> {
    staging: &'a Staging<'a>,
    level: usize,
    nodes: BTreeSet<NodeId>,
    /// Values from outside.
    outer: BTreeSet<ValueId>,
}

impl<'a> Region<'a> {
    fn new(staging: &'a Staging<'a>, level: usize) -> Region<'a> {
        Region { staging, level, nodes: BTreeSet::new(), outer: BTreeSet::new() }
    }

    /// Takes in what a value is made of.
    fn need(&mut self, value: ValueId) {
        let graph = self.staging.graph;
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            let is_here = |n: NodeId| {
                let own = self.staging.levels[n.index()] == Some(self.level) || self.staging.free[n.index()];
                own && !graph.node(n).op.finds_extents()
            };
            match graph.value(value).def {
                Def::Const(..) => {}
                Def::Node(maker, _) if is_here(maker) => {
                    if self.nodes.insert(maker) {
                        open.extend(&graph.node(maker).operands);
                    }
                }
                Def::Node(..) | Def::Param => drop(self.outer.insert(value)),
            }
        }
    }

    /// The stage's operands: what it reads, and values whose extents are symbols that nothing it reads tells.
    fn inputs(&self) -> Vec<ValueId> {
        let graph = self.staging.graph;
        let mut inputs: Vec<ValueId> = self.outer.iter().copied().collect();
        let inside = self.nodes.iter().flat_map(|&n| mentioned(graph, graph.node(n)));
        let around = self.outer.iter().flat_map(|&v| &graph.ty(v).dims).flat_map(Dim::symbols);
        for symbol in inside.chain(around).collect::<BTreeSet<_>>() {
            let told = inputs.iter().flat_map(|&v| &graph.ty(v).dims).any(|d| d.as_symbol() == Some(&symbol));
            inputs.extend((!told).then(|| self.staging.witness(&symbol)).flatten());
        }
        inputs
    }

    fn graph(&self, inputs: &[ValueId], exports: &[ValueId]) -> Result<Graph, String> {
        let outer = self.staging.graph;
        let mut graph = Graph::new("");
        let mut map: HashMap<ValueId, ValueId> = HashMap::new();
        for &input in inputs {
            let value = outer.value(input);
            map.insert(input, graph.add_param(&value.name, value.ty.clone()));
        }
        for node in self.nodes.iter().map(|&n| outer.node(n)) {
            let operands = node.operands.iter().map(|&v| inner(outer, &mut graph, &mut map, v)).collect::<Result<Vec<_>, _>>()?;
            let names: Vec<&str> = node.results.iter().map(|&r| &*outer.value(r).name).collect();
            let results = graph.add_node(node.op.clone(), &operands, &names, node.origin.clone())?;
            map.extend(node.results.iter().copied().zip(results));
        }
        for &export in exports {
            let value = inner(outer, &mut graph, &mut map, export)?;
            graph.add_result(value, &outer.value(export).name);
        }
        Ok(graph)
    }
}

/// The value inside a stage; constants are copied when they are read.
fn inner(outer: &Graph, graph: &mut Graph, map: &mut HashMap<ValueId, ValueId>, value: ValueId) -> Result<ValueId, String> {
    if let Some(&inner) = map.get(&value) {
        return Ok(inner);
    }
    let outer = outer.value(value);
    let Def::Const(tensor, source) = &outer.def else { return Err(format!("`{}` is read before it is made", outer.name)) };
    let inner = graph.add_const_from(&outer.name, tensor.clone(), source.clone());
    map.insert(value, inner);
    Ok(inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    #[test]
    fn graphs_without_such_ops_stay_whole() {
        let text = "graph g(x: f32[N]) -> f32[N] { y = neg(x) : f32[N]\n return y }";
        check(stage, text, text);
    }

    #[test]
    fn stages_end_where_extents_are_found() {
        check(
            stage,
            "graph g(x: f32[N], t: f32[]) {
                const two: i64[] = 2
                m = lt(x, t)
                i = non_zero[count = K](m)
                dead = non_zero[count = L](m)
                y = mul(i, two)
                z = exp(x)
                s = dims[values = [K, N]]()
                return y, z, s
            }",
            "graph g(x: f32[N], t: f32[]) -> i64[1, K], f32[N], i64[2] {
                m, z = stage s0(x, t) : bool[N], f32[N] {
                    m = lt(x, t) : bool[N]
                    z = exp(x)   : f32[N]
                    return m, z
                }
                i = non_zero[count=K](m) : i64[1, K]
                y, s = stage s1(i, x) : i64[1, K], i64[2] {
                    const two: i64[] = 2
                    y = mul(i, two)          : i64[1, K]
                    s = dims[values=[K, N]]() : i64[2]
                    return y, s
                }
                return y, z, s
            }",
        );
    }
}
