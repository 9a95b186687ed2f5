//! Keeps a value that a convolution or pool pads in memory with its border only.
//!
//! A border around a tensor costs next to nothing where the kernel that makes the tensor writes it as well (see
//! [`mod@crate::group`]), and a copy of the tensor where other ops need it without. So the padded tensor is made at once, behind
//! the value, and everybody else reads the inside of it, which is arithmetic on offsets. Where several readers pad one value
//! differently, the border is the widest of them.
//!
//! ```text
//! x = relu(a); p = pad[low=[0, 1, 1, 0], high=[0, 1, 1, 0]](x, 0); c = conv(p, w); y = add(c, x)
//! =>
//! x = relu(a); p = pad[...](x, 0); x.inside = slice[start=[0, 1, 1, 0]](p); c = conv(p, w); y = add(c, x.inside)
//! ```
//!
//! **Invariant.** Every op reads the same elements as before. A value that is only renamed memory, such as a parameter or a
//! transpose of one, is left alone: padding it is a copy anyway.

use egret_ir::attr::PadMode;
use egret_ir::expand::is_elementwise_composite;
use egret_ir::{Copy, Dim, Graph, Kind, Node, NodeId, Op, TensorType, ValueId};
use std::collections::HashMap;

/// The pass; see the module.
///
/// # Errors
/// Only if a border does not fit its tensor, which would be a bug of this pass.
pub fn halo(graph: &Graph) -> Result<Graph, String> {
    let uses = graph.uses();
    let halos: HashMap<ValueId, Halo> =
        graph.nodes().iter().filter_map(|node| Some((node.results[0], Halo::around(graph, &uses, node)?))).collect();
    let mut copy = Copy::new(graph, TensorType::clone);
    for node in graph.nodes() {
        match &node.op {
            Op::pad { .. } if halos.get(&node.operands[0]).is_some_and(|h| h.replaces(node)) => {
                let halo = &halos[&node.operands[0]];
                let padded = halo.read(&mut copy, node)?;
                copy.set(node.results[0], padded);
            }
            _ => copy.node(node)?,
        }
        if let Some(halo) = halos.get(&node.results[0]) {
            halo.surround(&mut copy, node.results[0])?;
        }
    }
    Ok(copy.finish())
}

/// The border that a value gets, in elements before and behind each axis.
struct Halo<'a> {
    low: Vec<i64>,
    high: Vec<i64>,
    /// The pad that the border comes from.
    pad: &'a Node,
}

impl<'a> Halo<'a> {
    /// The border of what a node makes, if it is to get one.
    fn around(graph: &'a Graph, uses: &HashMap<ValueId, Vec<NodeId>>, node: &Node) -> Option<Halo<'a>> {
        let value = node.results[0];
        let readers: Vec<&Node> = uses.get(&value)?.iter().map(|&u| graph.node(u)).collect();
        let first = readers.iter().copied().find(|r| r.operands[0] == value && borders(r).is_some())?;
        let (low, high) = borders(first)?;
        let mut halo = Halo { low, high, pad: first };
        for (low, high) in readers.iter().filter(|r| halo.replaces(r)).filter_map(|r| borders(r)).collect::<Vec<_>>() {
            halo.low.iter_mut().zip(low).for_each(|(a, b)| *a = b.max(*a));
            halo.high.iter_mut().zip(high).for_each(|(a, b)| *a = b.max(*a));
        }
        let is_made = node.op.def().kind != Kind::View && node.results.len() == 1 && !graph.results.contains(&value);
        let reads_inside = |r: &&Node| {
            halo.replaces(r) || r.operands[0] == value && reads_views(&r.op) || r.op.is_elementwise() || is_elementwise_composite(&r.op)
        };
        (is_made && readers.len() > 1 && readers.iter().all(reads_inside)).then_some(halo)
    }

    /// Whether what a node makes can be read out of the padded value: it pads the same value with the same number.
    fn replaces(&self, node: &Node) -> bool {
        borders(node).is_some() && node.operands == self.pad.operands
    }

    /// The padded value behind the value, which from then on is the inside of it.
    fn surround(&self, copy: &mut Copy, value: ValueId) -> Result<(), String> {
        let name = copy.old.value(value).name.clone();
        let dims = |of: &[i64]| of.iter().map(|&d| Dim::from(d)).collect();
        let pad = Op::pad { low: dims(&self.low), high: dims(&self.high), mode: PadMode::Constant };
        let operands = [copy.value(value), copy.value(self.pad.operands[1])];
        let padded = copy.new.add_node(pad, &operands, &[&format!("{name}.halo")], self.pad.origin.clone())?[0];
        let inside = self.part(copy, padded, &format!("{name}.inside"), &vec![0; self.low.len()], copy.old.ty(value))?;
        copy.set(value, inside);
        Ok(())
    }

    /// What a pad of the value makes, out of the padded value.
    fn read(&self, copy: &mut Copy, node: &Node) -> Result<ValueId, String> {
        let (low, _) = borders(node).ok_or("expects a pad")?;
        let inside = copy.value(node.operands[0]);
        let padded = copy.new.producer(inside).map(|n| copy.new.node(n).operands[0]).ok_or("expects a value with a border")?;
        let result = node.results[0];
        self.part(copy, padded, &copy.old.value(result).name.clone(), &low, copy.old.ty(result))
    }

    /// The part of the padded value with a border of `low` elements before it.
    fn part(&self, copy: &mut Copy, padded: ValueId, name: &str, low: &[i64], ty: &TensorType) -> Result<ValueId, String> {
        if copy.new.ty(padded).dims == ty.dims {
            return Ok(padded);
        }
        let start = self.low.iter().zip(low).map(|(all, some)| Dim::from(all - some)).collect();
        let slice = Op::slice { start, shape: ty.dims.clone(), step: vec![1; low.len()] };
        copy.new.add(name, slice, &[padded])
    }
}

/// What a pad adds before and behind each axis, if those are numbers and none is negative.
fn borders(node: &Node) -> Option<(Vec<i64>, Vec<i64>)> {
    let Op::pad { low, high, mode: PadMode::Constant } = &node.op else { return None };
    let numbers = |dims: &[Dim]| dims.iter().map(|d| d.as_const().filter(|&n| n >= 0)).collect::<Option<Vec<i64>>>();
    Some((numbers(low)?, numbers(high)?))
}

/// Whether an op reads its first operand as well out of a larger tensor: its kernels address every axis by itself.
fn reads_views(op: &Op) -> bool {
    let of_images = matches!(op, Op::conv { .. } | Op::max_pool { .. } | Op::avg_pool { .. } | Op::resize { .. });
    of_images || op.reduction().is_some() || matches!(op, Op::pad { .. } | Op::slice { .. })
}
