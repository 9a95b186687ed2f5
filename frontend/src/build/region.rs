//! Regions in the making: graphs inside of the graph, for the bodies of loops and branches.
//!
//! While a region is open, nodes are added to it. What it reads of the graphs around becomes a parameter, or a constant where it is known:
//!
//! ```text
//! w = matmul(a, b)                        y = branch b0(c, x, w) {
//! If(c) { y = Add(x, w) }           =>        y = add(x, w) ...
//! ```
//!
//! Invariant: every symbol in a region is an extent of a parameter or found in it; where nothing that it reads tells one, a value is
//! captured that does.

use super::Builder;
use egret_ir::{Def, Dim, Graph, Known, Op, Tensor, TensorType, ValueId, region};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What belongs to one graph in the making; the fields are those of [`Builder`].
#[derive(Default)]
pub(super) struct Frame {
    graph: Graph,
    origin: Vec<Arc<str>>,
    stem: String,
    fresh_from: usize,
    named: HashSet<ValueId>,
    known: HashMap<ValueId, Known>,
    small: HashMap<ValueId, Arc<Tensor>>,
    captures: Captures,
}

/// What a region has of the graph around it.
#[derive(Default)]
pub(super) struct Captures {
    /// What stands for a value of the graph around.
    inner: HashMap<ValueId, ValueId>,
    /// The values that are parameters, in their order.
    read: Vec<ValueId>,
    /// How many names had been given away when it was opened: the others are free again if it is discarded.
    names: usize,
}

/// A region that is ready.
pub(crate) struct Region {
    pub(crate) graph: Graph,
    captures: Captures,
}

impl Region {
    /// What its parameters behind those it was opened with stand for.
    pub(crate) fn captured(&self) -> &[ValueId] {
        &self.captures.read
    }
}

impl Builder {
    /// How many regions are open.
    pub(crate) fn depth(&self) -> usize {
        self.outer.len()
    }

    /// From now on nodes belong to a new region with these parameters.
    pub(crate) fn open_region(&mut self, params: &[(&str, TensorType)]) -> Vec<ValueId> {
        let captures = Captures { names: self.journal.len(), ..Captures::default() };
        let around = self.graph.params().iter().flat_map(|&p| &self.graph.ty(p).dims).flat_map(Dim::symbols);
        self.around.extend(around.collect::<Vec<_>>());
        self.enter(Frame { captures, origin: self.origin.clone(), stem: self.stem.clone(), ..Frame::default() });
        let param = |(name, ty): &(&str, TensorType)| {
            let name = self.unique(name);
            self.graph.add_param(&name, ty.clone())
        };
        params.iter().map(param).collect()
    }

    /// The region that was opened last, with these results.
    pub(crate) fn close_region(&mut self, results: &[ValueId]) -> Region {
        for &result in results {
            let name = self.graph.value(result).name.clone();
            self.graph.add_result(result, &name);
        }
        while let Some(symbol) = self.loose_symbol() {
            if self.witness(&symbol).is_none() {
                break;
            }
        }
        let Frame { graph, captures, .. } = self.leave();
        Region { graph, captures }
    }

    /// Forgets the region that was opened last, and the names that were given away in it.
    pub(crate) fn discard_region(&mut self) {
        let captures = self.leave().captures;
        self.forget(captures);
    }

    /// The same for a region that was closed.
    pub(crate) fn discard(&mut self, region: Region) {
        self.forget(region.captures);
    }

    fn forget(&mut self, captures: Captures) {
        for (name, before) in self.journal.drain(captures.names..).rev() {
            match before {
                Some(next) => self.names.insert(name, next),
                None => self.names.remove(&name),
            };
        }
    }

    /// What stands in the current graph for a value of the graph around which `depth` regions were open.
    pub(crate) fn captured(&mut self, value: ValueId, depth: usize) -> ValueId {
        if self.depth() == depth {
            return value;
        }
        let frame = self.leave();
        let around = self.captured(value, depth);
        self.enter(frame);
        self.capture(around)
    }

    /// What stands in the current region for a value of the graph around it.
    pub(crate) fn capture(&mut self, value: ValueId) -> ValueId {
        if let Some(&inner) = self.captures.inner.get(&value) {
            return inner;
        }
        let Some(around) = self.outer.last() else { return value };
        let Frame { graph, known, small, .. } = around;
        let (outer, contents) = (graph.value(value), known.get(&value).cloned());
        let tensor = graph.constant(value).or_else(|| small.get(&value)).cloned();
        let (name, ty, is_small) = (outer.name.clone(), outer.ty.clone(), small.contains_key(&value));
        let inner = match tensor {
            Some(tensor) => {
                let inner = self.graph.add_const(&name, tensor.clone());
                if is_small {
                    self.small.insert(inner, tensor);
                }
                inner
            }
            None => {
                self.captures.read.push(value);
                self.graph.add_param(&name, ty)
            }
        };
        self.known.extend(contents.map(|contents| (inner, contents)));
        self.captures.inner.insert(value, inner);
        inner
    }

    /// A symbol of the current region that no parameter tells.
    fn loose_symbol(&self) -> Option<Arc<str>> {
        let told: HashSet<&Arc<str>> =
            self.graph.params().iter().flat_map(|&p| &self.graph.ty(p).dims).filter_map(Dim::as_symbol).collect();
        region::symbols(&self.graph).into_iter().find(|symbol| !told.contains(symbol))
    }

    /// A value of the current graph that has a symbol as an extent; captured if need be.
    fn witness(&mut self, symbol: &Arc<str>) -> Option<ValueId> {
        if self.depth() == 0 {
            return telling(&self.graph, symbol);
        }
        let frame = self.leave();
        let around = telling(&self.graph, symbol).or_else(|| self.witness(symbol));
        self.enter(frame);
        around.map(|value| self.capture(value))
    }

    /// Adds a loop or a branch.
    ///
    /// # Errors
    /// What does not fit, in a sentence.
    pub(crate) fn control(
        &mut self,
        op: Op,
        regions: Vec<Graph>,
        operands: &[ValueId],
        types: Vec<TensorType>,
    ) -> Result<Vec<ValueId>, String> {
        let names: Vec<Arc<str>> = types.iter().map(|_| self.unique(&format!("{}.{}", self.stem, op.name()))).collect();
        let names: Vec<&str> = names.iter().map(|n| &**n).collect();
        self.controls += 1;
        self.graph.add_control(op, regions, operands, types, &names, self.origin.clone())
    }

    /// A name for the next loop or branch.
    pub(crate) fn control_name(&self, letter: char) -> Arc<str> {
        format!("{letter}{}", self.controls).into()
    }

    /// Adds the nodes of a region to the current graph, for operands in place of its parameters; its results.
    ///
    /// # Errors
    /// What does not fit, in a sentence.
    pub(crate) fn inline(&mut self, region: &Region, operands: &[ValueId]) -> Result<Vec<ValueId>, String> {
        let graph = &region.graph;
        let mut map: HashMap<ValueId, ValueId> = region.captures.inner.iter().map(|(&outer, &inner)| (inner, outer)).collect();
        map.extend(graph.params().iter().copied().zip(operands.iter().copied()));
        for (id, constant) in graph.constants() {
            if let (Def::Const(tensor, _), false) = (&constant.def, map.contains_key(&id)) {
                let made = self.constant_as(&constant.name, (**tensor).clone());
                map.insert(id, made);
            }
        }
        let read = |map: &HashMap<ValueId, ValueId>, v: &ValueId| {
            map.get(v).copied().ok_or_else(|| format!("`{}` is read before it is made", graph.value(*v).name))
        };
        for node in graph.nodes() {
            let operands = node.operands.iter().map(|v| read(&map, v)).collect::<Result<Vec<_>, _>>()?;
            let names: Vec<&str> = node.results.iter().map(|&r| &*graph.value(r).name).collect();
            let types: Vec<TensorType> = operands.iter().map(|&v| self.graph.ty(v).clone()).collect();
            let results = self.graph.add_node(node.op.clone(), &operands, &names, node.origin.clone())?;
            self.learn(&node.op, &operands, &types, &results);
            map.extend(node.results.iter().copied().zip(results));
        }
        graph.results.iter().map(|r| read(&map, r)).collect()
    }

    /// Makes `frame` the current one.
    fn enter(&mut self, frame: Frame) {
        let around = self.exchange(frame);
        self.outer.push(around);
    }

    /// Gives back the current frame; that around it is the current one.
    fn leave(&mut self) -> Frame {
        let around = self.outer.pop().unwrap_or_default();
        self.exchange(around)
    }

    fn exchange(&mut self, frame: Frame) -> Frame {
        let Frame { graph, origin, stem, fresh_from, named, known, small, captures } = frame;
        Frame {
            graph: std::mem::replace(&mut self.graph, graph),
            origin: std::mem::replace(&mut self.origin, origin),
            stem: std::mem::replace(&mut self.stem, stem),
            fresh_from: std::mem::replace(&mut self.fresh_from, fresh_from),
            named: std::mem::replace(&mut self.named, named),
            known: std::mem::replace(&mut self.known, known),
            small: std::mem::replace(&mut self.small, small),
            captures: std::mem::replace(&mut self.captures, captures),
        }
    }
}

/// The first value that has a symbol as an extent.
fn telling(graph: &Graph, symbol: &Arc<str>) -> Option<ValueId> {
    graph.value_ids().find(|(_, value)| value.ty.dims.iter().any(|d| d.as_symbol() == Some(symbol))).map(|(id, _)| id)
}
