//! What an op costs, for the choice between equal ways to compute the same.
//!
//! The unit is the time to move one byte to or from memory; what else takes time is expressed in it. An op costs
//!
//! ```text
//! OP + bytes read + bytes written + WORK[what it computes] * elements + products / PRODUCTS_PER_BYTE
//! ```
//!
//! Views (reshape, slice, broadcast) cost `VIEW` only: they become index arithmetic of what reads them. A composite op
//! costs as one op that does the work of its body, so it is cheaper than the body, which goes through memory at each step.
//! Ops are not fused yet when this is asked; that a number costs less merged than on its own is true either way.
//!
//! Symbols count as `NOMINAL`.

use crate::egraph::{Egraph, Enode, Facts, Head, OpIndex, Value};
use egg::Id;
use egret_ir::expr::{Expr, body};
use egret_ir::{Dim, Kind, OPS, OpDef, TensorType};
use std::collections::HashMap;
use std::sync::LazyLock;

/// Starting a kernel, in bytes: about 0.1 us at 40 GB/s.
const OP: u64 = 4096;

/// A view. Not 0, so that needless ones go.
const VIEW: u64 = 16;

/// Reading a constant that has to be made first: enough to leave weights as they are in the file when nothing is gained.
const MADE_CONSTANT: u64 = 64;

/// Multiply-adds in the time of one byte: 75 G multiply-adds and 40 GB per second of one core.
const PRODUCTS_PER_BYTE: u64 = 2;

/// What a symbol counts as: between the batch of 1 and the sequence of some hundreds that symbols mostly stand for.
const NOMINAL: i64 = 32;

/// Work per element in bytes, by op; the others of the table cost none beyond their memory. Estimates: what matters is that
/// a division costs more than a product, and a polynomial more than a division.
const WORK: &[(&str, u64)] = &[
    ("div", 4),
    ("reciprocal", 4),
    ("sqrt", 4),
    ("pow", 16),
    ("modulo", 8),
    ("fmod", 8),
    ("exp", 8),
    ("log", 8),
    ("sin", 8),
    ("cos", 8),
    ("tan", 16),
    ("asin", 16),
    ("acos", 16),
    ("atan", 16),
    ("sinh", 16),
    ("cosh", 16),
    ("asinh", 16),
    ("acosh", 16),
    ("atanh", 16),
    ("tanh", 8),
    ("erf", 8),
    ("sigmoid", 12),
    ("elu", 8),
    ("selu", 8),
    ("celu", 12),
    ("softplus", 16),
    ("softsign", 4),
    ("hard_sigmoid", 1),
    ("softmax", 12),
    ("log_softmax", 12),
    ("attention", 12),
];

/// The work per element of an op: that of its entry, or of its body.
fn work(op: OpIndex) -> u64 {
    static BY_OP: LazyLock<HashMap<&'static str, u64>> = LazyLock::new(|| OPS.iter().map(|d| (d.name, work_of(d))).collect());
    BY_OP[op.def().name]
}

fn work_of(def: &'static OpDef) -> u64 {
    fn of_body(expr: &Expr) -> u64 {
        match expr {
            Expr::Var(_) | Expr::Literal(_) => 0,
            Expr::App { op, operands, .. } => work_of(op) + operands.iter().map(of_body).sum::<u64>(),
        }
    }
    match WORK.iter().find(|(name, _)| *name == def.name) {
        Some((_, work)) => *work,
        None if def.kind == Kind::Composite => of_body(&body(def)),
        None => 0,
    }
}

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
            let work = work(op).saturating_mul(elements);
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

fn extent(dim: &Dim) -> u64 {
    let number = dim.as_const().or_else(|| {
        let bindings = dim.symbols().into_iter().map(|s| (s, NOMINAL)).collect();
        dim.eval(&bindings)
    });
    number.unwrap_or(NOMINAL).max(0) as u64
}

fn count(ty: &TensorType) -> u64 {
    ty.dims.iter().map(extent).fold(1, u64::saturating_mul)
}

fn bytes(ty: &TensorType) -> u64 {
    count(ty).saturating_mul(ty.dtype.size() as u64)
}
