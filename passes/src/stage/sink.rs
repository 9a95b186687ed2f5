//! Moves into loops and branches what they read of constants, so that it is known where it is read: weights are packed, and folded.
//!
//! ```text
//! t = transpose(w)                          y = branch b0(c, x) { t = transpose(w)
//! y = branch b0(c, x, t) { ... }      =>                          ... }
//! ```

use super::mentioned;
use egret_ir::{Copy, Def, Graph, Node, Op, TensorType, ValueId, region};
use std::collections::HashMap;

/// The graph, in which no region reads a value that is made of constants alone.
///
/// # Errors
/// Only if a node does not type-check, which would be a bug of an earlier pass.
pub(super) fn sink(graph: &Graph) -> Result<Graph, String> {
    if !graph.nodes().iter().any(|node| node.op.is_control()) {
        return Ok(graph.clone());
    }
    let fixed = fixed(graph);
    let mut copy = Copy::new(graph, TensorType::clone);
    for node in graph.nodes() {
        match node.op.is_control() {
            true => sunk(&mut copy, node, &fixed)?,
            false => copy.node(node)?,
        }
    }
    Ok(copy.finish())
}

/// Whether a node, by its position, is made of constants whose extents are numbers.
fn fixed(graph: &Graph) -> Vec<bool> {
    let mut fixed: Vec<bool> = vec![];
    for node in graph.nodes() {
        let own = !node.op.finds_extents() && mentioned(graph, node).is_empty();
        fixed.push(own && node.operands.iter().all(|&v| is_fixed(graph, &fixed, v)));
    }
    fixed
}

fn is_fixed(graph: &Graph, fixed: &[bool], value: ValueId) -> bool {
    match graph.value(value).def {
        Def::Param => false,
        Def::Const(..) => true,
        Def::Node(maker, _) => fixed[maker.index()],
    }
}

/// Adds a loop or a branch that reads fixed values no more.
fn sunk(copy: &mut Copy, node: &Node, fixed: &[bool]) -> Result<(), String> {
    let graph = copy.old;
    let head = match &node.op {
        Op::repeat { carried, .. } => region::LOOP_HEAD + carried,
        _ => 1,
    };
    let stays: Vec<bool> = node.operands.iter().enumerate().map(|(i, &v)| i < head || !is_fixed(graph, fixed, v)).collect();
    let regions = node.regions().map(|inner| with_constants(graph, node, inner, &stays)).collect::<Result<Vec<_>, _>>()?;
    let kept: Vec<ValueId> = node.operands.iter().zip(&stays).filter(|(_, stays)| **stays).map(|(&v, _)| v).collect();
    let operands = copy.values(&kept);
    let names: Vec<&str> = node.results.iter().map(|&r| &*graph.value(r).name).collect();
    let types = node.results.iter().map(|&r| graph.ty(r).clone()).collect();
    let results = copy.new.add_control(node.op.clone(), regions, &operands, types, &names, node.origin.clone())?;
    node.results.iter().zip(results).for_each(|(&old, new)| copy.set(old, new));
    Ok(())
}

/// A region whose parameters that do not stay are made in it.
fn with_constants(outer: &Graph, node: &Node, inner: &Graph, stays: &[bool]) -> Result<Graph, String> {
    let mut new = Graph::new("");
    let mut map = HashMap::new();
    let mut made = HashMap::new();
    for (&param, _) in inner.params().iter().zip(stays).filter(|(_, stays)| **stays) {
        let value = inner.value(param);
        map.insert(param, new.add_param(&value.name, value.ty.clone()));
    }
    for ((&param, &operand), _) in inner.params().iter().zip(&node.operands).zip(stays).filter(|(_, stays)| !**stays) {
        map.insert(param, made_again(outer, operand, &mut new, &mut made)?);
    }
    let mut copy = Copy::over(inner, new, map);
    inner.nodes().iter().try_for_each(|node| copy.node(node))?;
    Ok(copy.finish())
}

/// A fixed value of a graph, made in another.
fn made_again(outer: &Graph, value: ValueId, new: &mut Graph, made: &mut HashMap<ValueId, ValueId>) -> Result<ValueId, String> {
    if let Some(&known) = made.get(&value) {
        return Ok(known);
    }
    let (name, node) = match &outer.value(value).def {
        Def::Const(tensor, source) => {
            let constant = new.add_const_from(&outer.value(value).name, tensor.clone(), source.clone());
            made.insert(value, constant);
            return Ok(constant);
        }
        Def::Node(maker, _) => (&outer.value(value).name, outer.node(*maker)),
        Def::Param => return Err(format!("`{}` is no constant", outer.value(value).name)),
    };
    let operands = node.operands.iter().map(|&v| made_again(outer, v, new, made)).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<&str> = node.results.iter().map(|&r| &*outer.value(r).name).collect();
    let results = new.add_node(node.op.clone(), &operands, &names, node.origin.clone())?;
    made.extend(node.results.iter().copied().zip(results));
    made.get(&value).copied().ok_or_else(|| format!("`{name}` is not made"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::check;

    #[test]
    fn constants_move_into_the_regions_that_read_them() {
        check(
            sink,
            "graph g(c: bool[], x: f32[2, 3]) {
                const w: f32[3, 2] = random(1)
                t = transpose[perm = [1, 0]](w)
                y = branch b0(c, x, t) : f32[2, 3] { s = mul(x, t) return s } else { return t }
                return y
            }",
            "graph g(c: bool[], x: f32[2, 3]) -> f32[2, 3] {
                const w: f32[3, 2] = random(1)
                t = transpose[perm=[1, 0]](w) : f32[2, 3]
                y = branch b0(c, x) : f32[2, 3] {
                    const w: f32[3, 2] = random(1)
                    t = transpose[perm=[1, 0]](w) : f32[2, 3]
                    s = mul(x, t) : f32[2, 3]
                    return s
                } else {
                    const w: f32[3, 2] = random(1)
                    t = transpose[perm=[1, 0]](w) : f32[2, 3]
                    return t
                }
                return y
            }",
        );
    }
}
