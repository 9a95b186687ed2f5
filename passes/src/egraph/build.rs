//! From a graph to its e-graph.

use super::{Analysis, Egraph, Enode, Head, OpIndex, Value};
use egg::Id;
use egret_ir::{Def, Element, Graph, NodeId, Op, Tensor, TensorType, ValueId};
use std::collections::HashMap;
use std::sync::Arc;

/// An e-graph and where the values of the graph are in it.
pub struct GraphClasses {
    /// The e-graph.
    pub egraph: Egraph,
    /// The class of each value that was added; not canonical after merges.
    pub classes: HashMap<ValueId, Id>,
    /// The e-nodes of the graph's own nodes; their children are not canonical after merges.
    pub enodes: Vec<Enode>,
}

/// The e-graph of a graph; equal nodes and equal constants share a class from the start.
///
/// # Errors
/// When a node does not type-check.
pub fn from_graph(graph: &Graph) -> Result<GraphClasses, String> {
    in_egraph(graph, Egraph::new(Analysis::default()))
}

/// The same in an e-graph that can say why two of its terms are equal. Its classes are numbered otherwise, and saturating it
/// takes longer, so no graph is made from it.
///
/// # Errors
/// As [`from_graph`].
pub fn explained(graph: &Graph) -> Result<GraphClasses, String> {
    in_egraph(graph, Egraph::new(Analysis::default()).with_explanations_enabled())
}

fn in_egraph(graph: &Graph, egraph: Egraph) -> Result<GraphClasses, String> {
    let mut built = GraphClasses { egraph, classes: HashMap::new(), enodes: vec![] };
    for &param in graph.params() {
        let leaf = built.egraph.analysis.param(graph.ty(param).clone());
        let id = built.egraph.add(Enode::leaf(Head::Leaf(leaf)));
        built.classes.insert(param, id);
    }
    for (id, node) in graph.node_ids() {
        let operands: Vec<Id> = node.operands.iter().map(|&v| built.value(graph, v)).collect::<Result<_, _>>()?;
        let whole = match &node.region {
            Some(_) => built.egraph.add_opaque(id, operands, node.results.iter().map(|&r| graph.ty(r))),
            None => built.egraph.add_op(&node.op, &operands).map_err(|e| format!("{}: {e}", graph.value(node.results[0]).name))?,
        };
        built.enodes.extend(built.egraph[whole].nodes.first().cloned());
        let several = node.results.len() != 1 || node.region.is_some();
        for (i, &result) in node.results.iter().enumerate() {
            let class = if several { built.egraph.add(Enode { head: Head::Result(i), children: vec![whole] }) } else { whole };
            built.classes.insert(result, class);
        }
    }
    for &result in &graph.results {
        built.value(graph, result)?;
    }
    built.egraph.rebuild();
    built.egraph.analysis.check()?;
    Ok(built)
}

impl GraphClasses {
    /// The class of a value; constants are added when first asked for.
    fn value(&mut self, graph: &Graph, value: ValueId) -> Result<Id, String> {
        if let Some(&id) = self.classes.get(&value) {
            return Ok(id);
        }
        let Def::Const(tensor, _) = &graph.value(value).def else {
            return Err(format!("`{}` is read before it is made", graph.value(value).name));
        };
        let leaf = self.egraph.analysis.constant(tensor);
        let id = self.egraph.add(Enode::leaf(Head::Leaf(leaf)));
        self.classes.insert(value, id);
        Ok(id)
    }
}

/// How e-nodes are added.
pub trait Add {
    /// Adds an op, with its attributes as leaves, and returns its class.
    ///
    /// # Errors
    /// When it does not type-check.
    fn add_op(&mut self, op: &Op, operands: &[Id]) -> Result<Id, String>;

    /// Adds a constant with one value everywhere; its extents are numbers.
    ///
    /// # Errors
    /// When they are not.
    fn add_splat(&mut self, ty: &TensorType, value: Element) -> Result<Id, String>;

    /// Adds a number broadcast to a type.
    ///
    /// # Errors
    /// When it does not type-check.
    fn add_repeated(&mut self, ty: &TensorType, value: Element) -> Result<Id, String> {
        let one = self.add_splat(&TensorType::scalar(ty.dtype), value)?;
        self.add_op(&Op::broadcast { shape: ty.dims.clone() }, &[one])
    }

    /// Adds a node that rules do not look into.
    fn add_opaque<'a>(&mut self, node: NodeId, operands: Vec<Id>, types: impl Iterator<Item = &'a TensorType>) -> Id;
}

impl Add for Egraph {
    fn add_op(&mut self, op: &Op, operands: &[Id]) -> Result<Id, String> {
        let mut children: Vec<Id> = op.attrs().into_iter().map(|a| self.add(Enode::leaf(Head::Attr(a)))).collect();
        children.extend(operands);
        let enode = Enode { head: Head::Op(OpIndex::of(op.def())), children };
        if let Some(id) = self.lookup(enode.clone()) {
            return Ok(id);
        }
        let facts = self.analysis.infer(&enode, |id| &self[id].data)?;
        Ok(add_with(self, enode, facts))
    }

    fn add_splat(&mut self, ty: &TensorType, value: Element) -> Result<Id, String> {
        let extents = ty.static_dims().ok_or_else(|| format!("{ty} has no number of elements"))?;
        let leaf = self.analysis.constant(&Arc::new(Tensor::splat(ty.dtype, extents, value)));
        Ok(self.add(Enode::leaf(Head::Leaf(leaf))))
    }

    fn add_opaque<'a>(&mut self, node: NodeId, operands: Vec<Id>, types: impl Iterator<Item = &'a TensorType>) -> Id {
        self.analysis.opaque.insert(node, types.map(|ty| Value::unknown(ty.clone())).collect());
        self.add(Enode { head: Head::Opaque(node), children: operands })
    }
}

/// Adds an e-node whose facts are known already.
pub fn add_with(egraph: &mut Egraph, enode: Enode, facts: super::Facts) -> Id {
    egraph.analysis.pending = Some(facts);
    let id = egraph.add_uncanonical(enode);
    egraph.analysis.pending = None;
    if egraph.are_explanations_enabled() { id } else { egraph.find(id) }
}
