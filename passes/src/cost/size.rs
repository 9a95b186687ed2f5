//! Extents, bytes and scalar work as numbers.

use egret_ir::expr::{Expr, body};
use egret_ir::{Dim, Kind, OPS, OpDef, TensorType};
use std::collections::HashMap;
use std::sync::LazyLock;

/// What a symbol counts as: between the batch of 1 and the sequence of some hundreds that symbols mostly stand for.
pub const NOMINAL: i64 = 32;

/// Work per element, by op; the others of the table cost none beyond their memory. The unit is the time of a byte from far
/// memory, 25 ps. Estimates: what matters is that a division costs more than a product, and a polynomial more than a
/// division.
const WORK: &[(&str, u64)] = &[
    ("div", 4),
    ("reciprocal", 4),
    ("sqrt", 4),
    ("pow", 96),
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
    ("erf", 20),
    ("sigmoid", 12),
    ("elu", 8),
    ("selu", 8),
    ("celu", 12),
    ("softplus", 16),
    ("softsign", 4),
    ("hard_sigmoid", 1),
    ("softmax", 20),
    ("log_softmax", 12),
    // Root and quotient are taken once per row.
    ("layer_norm", 1),
    ("rms_norm", 1),
    ("attention", 12),
];

/// The work per element of an op in units of 25 ps: that of its entry, or of its body.
pub fn scalar_work(op: &OpDef) -> u64 {
    static BY_OP: LazyLock<HashMap<&'static str, u64>> = LazyLock::new(|| OPS.iter().map(|d| (d.name, of_op(d))).collect());
    BY_OP[op.name]
}

fn of_op(def: &'static OpDef) -> u64 {
    fn of_body(expr: &Expr) -> u64 {
        match expr {
            Expr::Var(_) | Expr::Literal(_) => 0,
            Expr::App { op, operands, .. } => of_op(op) + operands.iter().map(of_body).sum::<u64>(),
        }
    }
    match WORK.iter().find(|(name, _)| *name == def.name) {
        Some((_, work)) => *work,
        None if def.kind == Kind::Composite => of_body(&body(def)),
        None => 0,
    }
}

/// An extent as a number.
pub fn extent(dim: &Dim) -> u64 {
    let number = dim.as_const().or_else(|| {
        let bindings = dim.symbols().into_iter().map(|s| (s, NOMINAL)).collect();
        dim.eval(&bindings)
    });
    number.unwrap_or(NOMINAL).max(0) as u64
}

/// How many elements a tensor has.
pub fn count(ty: &TensorType) -> u64 {
    product(&ty.dims)
}

/// The product of some extents.
pub fn product(dims: &[Dim]) -> u64 {
    dims.iter().map(extent).fold(1, u64::saturating_mul)
}

/// How many bytes a tensor has.
pub fn bytes(ty: &TensorType) -> u64 {
    count(ty).saturating_mul(ty.dtype.size() as u64)
}
