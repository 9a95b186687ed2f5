//! What an op costs, for the choice between equal ways to compute the same.
//!
//! The unit is the time to move one byte to or from memory; what else takes time is expressed in it. An op costs
//!
//! ```text
//! OP + bytes read + bytes written + work of what it computes * elements + products / PRODUCTS_PER_BYTE
//! ```
//!
//! Views (reshape, slice, broadcast) cost `VIEW` only: they become index arithmetic of what reads them. A composite op
//! costs as one op that does the work of its body, so it is cheaper than the body, which goes through memory at each step.
//! Ops are not fused yet when this is asked; that a number costs less merged than on its own is true either way.
//!
//! Symbols count as [`crate::cost::NOMINAL`], and work per element is that of [`crate::cost::scalar_work`].

use crate::cost::{bytes, count, extent, scalar_work};
use crate::egraph::{Egraph, Enode, Facts, Head, Value};
use egg::Id;
use egret_ir::TensorType;

/// Starting a kernel, in bytes: about 0.1 us at 40 GB/s.
const OP: u64 = 4096;

/// A view. Not 0, so that needless ones go.
const VIEW: u64 = 16;

/// Reading a constant that has to be made first: enough to leave weights as they are in the file when nothing is gained.
const MADE_CONSTANT: u64 = 64;

/// Multiply-adds in the time of one byte: 75 G multiply-adds and 40 GB per second of one core.
const PRODUCTS_PER_BYTE: u64 = 2;

/// What an e-node of the class `id` costs.
pub fn of(egraph: &Egraph, enode: &Enode, id: Id) -> u64 {
    let Head::Op(op) = enode.head else { return 0 };
    let result = types(&egraph[id].data);
    let operands: Vec<&TensorType> = distinct(egraph, enode.operands()).flat_map(|o| types(&egraph[o].data)).collect();
    let name = op.def().name;
    let elements: u64 = result.iter().map(|ty| count(ty)).fold(0, u64::saturating_add);
    let made = distinct(egraph, enode.operands()).filter(|&o| is_made(egraph, o)).count() as u64 * MADE_CONSTANT;
    let bytes = operands.iter().chain(&result).map(|ty| bytes(ty)).fold(made, u64::saturating_add);
    match (name, op.def().kind) {
        ("reshape" | "slice" | "broadcast" | "iota" | "dims", _) => VIEW,
        // Read or written in an order that memory does not like.
        ("transpose", _) => OP.saturating_add(bytes.saturating_mul(2)),
        _ => {
            let work = scalar_work(op.def()).saturating_mul(elements);
            let products = products(name, egraph, enode, elements) / PRODUCTS_PER_BYTE;
            [OP, bytes, work, products].into_iter().fold(0, u64::saturating_add)
        }
    }
}

/// Whether a class is a constant whose data is not there yet.
fn is_made(egraph: &Egraph, id: Id) -> bool {
    let class = &egraph[id];
    class.data.is_constant() && !class.nodes.iter().any(|n| matches!(n.head, Head::Leaf(_)))
}

/// Operands that are read twice are loaded once.
fn distinct(egraph: &Egraph, operands: &[Id]) -> impl Iterator<Item = Id> {
    let mut ids: Vec<Id> = operands.iter().map(|&o| egraph.find(o)).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter()
}

fn types(facts: &Facts) -> Vec<&TensorType> {
    match facts {
        Facts::Attr(_) => vec![],
        Facts::Tensor(Value { ty, .. }) => vec![ty],
        Facts::Tuple(values) => values.iter().map(|v| &*v.ty).collect(),
    }
}

/// Multiply-adds of a contraction with so many results.
fn products(op: &str, egraph: &Egraph, enode: &Enode, results: u64) -> u64 {
    let operand = |i: usize| enode.operands().get(i).and_then(|&o| egraph[o].data.tensor()).map(|v| &*v.ty);
    let depth = match op {
        "matmul" => operand(0).and_then(|x| x.dims.last()).map(extent),
        // All weights but the axis of the output channels.
        "conv" => operand(1).map(|w| count(w) / w.dims.iter().map(extent).max().unwrap_or(1).max(1)),
        "conv_transpose" => operand(1).map(count),
        // Scores and the weighted sum.
        "attention" => operand(1).and_then(|k| Some(2 * extent(&k.dims[k.rank().checked_sub(2)?]))),
        _ => None,
    };
    results.saturating_mul(depth.unwrap_or(0))
}
