//! What is lowered together: the body of a kernel node, or a single node as a body of its own.

use super::spelled::spelled_out;
use crate::target::Target;
use egret_ir::expand::expand;
use egret_ir::{Def, Graph, Node, Tensor, ValueId};
use std::collections::HashMap;
use std::sync::Arc;

/// A graph whose parameters are the node's operands and whose results are the node's; composites and what has no kernel are spelled out.
#[derive(Clone, Debug)]
pub struct Region {
    /// The nodes.
    pub graph: Graph,
    /// The data of parameters that are constants of the graph around.
    known: HashMap<ValueId, Arc<Tensor>>,
}

impl Region {
    /// The region of a node of `graph`.
    ///
    /// # Errors
    /// Only if a composite's body does not type-check, which inference has ruled out.
    pub fn of(graph: &Graph, node: &Node, target: &Target) -> Result<Region, String> {
        let body = match &node.region {
            Some(region) => spelled_out(&expand(region, |_| true)?, target)?,
            None => spelled_out(&expand(&single(graph, node)?, |_| true)?, target)?,
        };
        let params = body.params().iter().zip(&node.operands);
        let known = params.filter_map(|(&param, &operand)| Some((param, graph.constant(operand)?.clone()))).collect();
        Ok(Region { graph: body, known })
    }

    /// A graph as one region.
    ///
    /// # Errors
    /// As [`Region::of`].
    pub fn whole(graph: &Graph, target: &Target) -> Result<Region, String> {
        Ok(Region { graph: spelled_out(&expand(graph, |_| true)?, target)?, known: HashMap::new() })
    }

    /// The data of a value that is known when the model is compiled.
    pub fn constant(&self, value: ValueId) -> Option<&Arc<Tensor>> {
        match &self.graph.value(value).def {
            Def::Const(tensor, _) => Some(tensor),
            Def::Param => self.known.get(&value),
            Def::Node(..) => None,
        }
    }
}

/// A node as a graph of its own, under the names it has.
fn single(graph: &Graph, node: &Node) -> Result<Graph, String> {
    let mut body = Graph::new("");
    let operands: Vec<ValueId> = node.operands.iter().map(|&v| body.add_param(&graph.value(v).name, graph.ty(v).clone())).collect();
    let names: Vec<&str> = node.results.iter().map(|&r| &*graph.value(r).name).collect();
    let results = body.add_node(node.op.clone(), &operands, &names, node.origin.clone())?;
    results.into_iter().zip(names).for_each(|(r, name)| body.add_result(r, name));
    Ok(body)
}
