//! Slices of a product are products with slices of its weights.
//!
//! ```text
//! m = add(matmul(x, w), b)
//! q = slice[start=[0, 0], shape=[N, 64]](m)      =>   q ≡ add(matmul(x, w[:, 0..64]), b[0..64])
//! k = slice[start=[0, 64], shape=[N, 64]](m)          k ≡ add(matmul(x, w[:, 64..128]), b[64..128])
//! ```
//!
//! Then `q` and `k` can be stored apart, and each in the order of its own readers. Only what stands between the product and all
//! of its slices is written for each of them: ops that do the same to every column, and reshapes that leave the columns alone.

use super::merge::{add, is_mergeable, only_reader, position};
use crate::role::Role;
use egret_ir::{Copy, Dim, Graph, Node, NodeId, Op, ValueId};
use std::collections::HashSet;

/// A product of which all readers take slices, none more than once.
pub struct Parted {
    /// The product.
    pub node: NodeId,
    /// What stands between it and the slices, each with which operand leads back to it.
    trunk: Vec<(NodeId, usize)>,
    slices: Vec<NodeId>,
}

/// What a slice is the result of.
pub struct Part {
    /// The slice, of the old graph.
    pub slice: ValueId,
    /// The product, of the new graph.
    pub product: ValueId,
    /// What makes the same as the slice, of the new graph.
    pub twin: ValueId,
}

/// The products of a graph that can be taken apart.
pub fn all_parted(graph: &Graph) -> Vec<Parted> {
    graph.node_ids().filter(|(_, node)| is_mergeable(graph, node)).filter_map(|(id, _)| Parted::of(graph, id)).collect()
}

impl Parted {
    fn of(graph: &Graph, node: NodeId) -> Option<Parted> {
        let (mut top, mut trunk) = (graph.node(node).results[0], vec![]);
        while let Some(reader) = only_reader(graph, top) {
            let at = position(reader, top)?;
            if !leaves_columns_alone(graph, reader, at) {
                return None;
            }
            trunk.push((graph.producer(reader.results[0])?, at));
            top = reader.results[0];
        }
        let slices = graph.readers(top).to_vec();
        let columns: Vec<(i64, i64)> = slices.iter().map(|&s| columns_of(graph, graph.node(s))).collect::<Option<_>>()?;
        let all = graph.ty(top).dims.last()?.as_const()?;
        let once = columns.iter().map(|(_, count)| count).sum::<i64>() <= all;
        (slices.len() > 1 && once && !graph.results.contains(&top)).then_some(Parted { node, trunk, slices })
    }

    /// Adds a product for each slice to a copy.
    ///
    /// # Errors
    /// Only if one does not type-check, which would be a bug of this module.
    pub fn parts(&self, copy: &mut Copy, known: &mut HashSet<NodeId>) -> Result<Vec<Part>, String> {
        let part = |&slice: &NodeId| self.part(copy, copy.old.node(slice), known);
        self.slices.iter().map(part).collect()
    }

    fn part(&self, copy: &mut Copy, slice: &Node, known: &mut HashSet<NodeId>) -> Result<Part, String> {
        let old = copy.old;
        let (start, count) = columns_of(old, slice).ok_or("a slice was looked at before")?;
        let name = format!("{}.part", old.value(slice.results[0]).name);
        let product = old.node(self.node);
        let operands = [copy.value(product.operands[0]), take(copy, product.operands[1], start, count, known)?];
        let product = add(copy, product.op.clone(), &operands, &name, product.origin.clone())?;
        let mut twin = product;
        for &(node, at) in &self.trunk {
            let node = old.node(node);
            let mut operands = vec![];
            for (i, &operand) in node.operands.iter().enumerate() {
                operands.push(if i == at { twin } else { take(copy, operand, start, count, known)? });
            }
            twin = add(copy, with_columns(&node.op, count), &operands, &name, node.origin.clone())?;
        }
        Ok(Part { slice: slice.results[0], product, twin })
    }
}

/// Whether a node does the same to every column of one operand, which it keeps as its innermost axis.
fn leaves_columns_alone(graph: &Graph, node: &Node, at: usize) -> bool {
    let (from, to) = (graph.ty(node.operands[at]), graph.ty(node.results[0]));
    let columns = from.dims.last();
    let by_column = |&v: &ValueId| graph.constant(v).is_some() && [columns, Some(&Dim::ONE), None].contains(&graph.ty(v).dims.last());
    match node.op {
        Op::reshape { .. } => columns == to.dims.last(),
        _ => {
            let others = node.operands.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, v)| v);
            Role::of(graph, node) == Role::Elementwise && from.dims == to.dims && others.into_iter().all(by_column)
        }
    }
}

/// The first column that a slice takes, and how many; none if it takes anything but columns next to each other.
fn columns_of(graph: &Graph, node: &Node) -> Option<(i64, i64)> {
    let Op::slice { start, shape, step } = &node.op else { return None };
    let (first, outer_starts) = start.split_last()?;
    let (count, outer) = shape.split_last()?;
    let whole = graph.ty(node.operands[0]).dims.split_last().is_some_and(|(_, dims)| dims == outer);
    let plain = whole && outer_starts.iter().all(|s| s.is(0)) && step.iter().all(|&s| s == 1);
    plain.then_some((first.as_const()?, count.as_const()?))
}

/// Some columns of a constant, or all of one that has none.
fn take(copy: &mut Copy, value: ValueId, start: i64, count: i64, known: &mut HashSet<NodeId>) -> Result<ValueId, String> {
    let dims = copy.old.ty(value).dims.clone();
    let from = copy.value(value);
    let Some((_, outer)) = dims.split_last().filter(|(columns, _)| !columns.is(1)) else { return Ok(from) };
    let (mut starts, mut shape) = (vec![Dim::ZERO; outer.len()], outer.to_vec());
    starts.push(start.into());
    shape.push(count.into());
    let name = format!("{}.part", copy.old.value(value).name);
    known.insert(NodeId::at(copy.new.nodes().len()));
    add(copy, Op::slice { start: starts, step: vec![1; shape.len()], shape }, &[from], &name, vec![])
}

/// An op of the trunk where there are so many columns.
fn with_columns(op: &Op, count: i64) -> Op {
    match op {
        Op::reshape { shape } => {
            let outer = &shape[..shape.len() - 1];
            Op::reshape { shape: [outer, &[count.into()]].concat() }
        }
        op => op.clone(),
    }
}
