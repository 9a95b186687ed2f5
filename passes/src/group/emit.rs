//! From chosen groups to a graph of kernels.

use super::grow::{Group, Kernel};
use super::merge::Network;
use egret_ir::{Copy, Def, Graph, NodeId, Op, ValueId};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The graph of some kernels, which are in an order in which they can run.
///
/// # Errors
/// Only if a region does not type-check, which would be a bug of this pass.
pub fn emit(network: &Network, kernels: &[Kernel]) -> Result<Graph, String> {
    let mut copy = Copy::new(&network.graph, Clone::clone);
    for (i, kernel) in kernels.iter().enumerate() {
        let whole = kernel.whole();
        let root = network.graph.node(whole.root);
        if whole.members.len() == 1 && matches!(root.op, Op::reshape { .. }) {
            copy.node(root)?;
            continue;
        }
        let inputs = whole.inputs(network);
        known(network, &mut copy, &inputs)?;
        let region = region(network, kernel, &whole, &inputs)?;
        if let Some(late) = inputs.iter().find(|v| !copy.has(**v) && network.graph.constant(**v).is_none()) {
            return Err(format!("kernels wait for each other: `{}` is read before it is made", network.graph.value(*late).name));
        }
        let operands = copy.values(&inputs);
        let made: Vec<ValueId> = kernel.groups.iter().flat_map(|g| &network.graph.node(g.stands_for).results).copied().collect();
        let names: Vec<&str> = made.iter().map(|&r| &*network.graph.value(r).name).collect();
        let results = copy.new.add_kernel(&format!("k{i}"), region, &operands, &names, origin(network, &whole))?;
        made.iter().zip(results).for_each(|(&old, new)| copy.set(old, new));
    }
    Ok(copy.finish())
}

/// Computes those of some values that ops of constants make.
fn known(network: &Network, copy: &mut Copy, values: &[ValueId]) -> Result<(), String> {
    for &value in values {
        let Some(node) = network.graph.producer(value).filter(|n| network.is_known(*n) && !copy.has(value)) else { continue };
        let node = network.graph.node(node);
        let operands: Vec<_> = node.operands.iter().filter_map(|&v| network.graph.constant(v)).map(|t| &**t).collect();
        for (&result, tensor) in node.results.iter().zip(node.op.eval(&operands)?) {
            let constant = copy.new.add_const(&network.graph.value(result).name, tensor);
            copy.set(result, constant);
        }
    }
    Ok(())
}

/// The kernel's nodes as a graph of their own, with the outer names.
fn region(network: &Network, kernel: &Kernel, whole: &Group, inputs: &[ValueId]) -> Result<Graph, String> {
    let graph = &network.graph;
    let mut region = Graph::new("");
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    for &input in inputs {
        let value = graph.value(input);
        map.insert(input, region.add_param(&value.name, value.ty.clone()));
    }
    for &member in &whole.members {
        let node = graph.node(member);
        let mut operands = vec![];
        for &v in &node.operands {
            let inner = match (map.get(&v), &graph.value(v).def) {
                (Some(&inner), _) => inner,
                (None, Def::Const(tensor, source)) => region.add_const_from(&graph.value(v).name, tensor.clone(), source.clone()),
                (None, _) => return Err(format!("`{}` is read before it is made", graph.value(v).name)),
            };
            map.insert(v, inner);
            operands.push(inner);
        }
        let names: Vec<&str> = node.results.iter().map(|&r| &*graph.value(r).name).collect();
        let results = region.add_node(node.op.clone(), &operands, &names, node.origin.clone())?;
        let made: Vec<ValueId> = node.results.iter().copied().chain(network.stands_for(member)).collect();
        made.iter().zip(results.iter().cycle()).for_each(|(&old, &new)| {
            map.insert(old, new);
        });
    }
    for &result in kernel.groups.iter().flat_map(|g| &graph.node(g.root).results) {
        let name = graph.value(result).name.clone();
        region.add_result(map[&result], &name);
    }
    Ok(region)
}

fn origin(network: &Network, group: &Group) -> Vec<Arc<str>> {
    let of = |&m: &NodeId| network.graph.node(m).origin.iter().cloned();
    let origins: BTreeSet<Arc<str>> = group.members.iter().flat_map(of).collect();
    origins.into_iter().collect()
}
