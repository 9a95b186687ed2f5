//! Building and rewriting kernel expressions.

use crate::kernel::{Block, BufferId, Expr, ExprKind, Let, Store};
use egret_ir::scalar::{BinOp, Typed, TypedKind, UnOp};
use egret_ir::{DType, Dim, Element};
use std::collections::HashMap;
use std::sync::Arc;

/// An index as a value of some type.
pub fn index(d: &Dim, dtype: DType) -> Expr {
    cast(&Expr::new(DType::I64, ExprKind::Index(d.clone())), dtype)
}

/// A primitive of one operand, which has the result's type.
pub fn un(op: UnOp, x: &Expr, dtype: DType) -> Expr {
    Expr::new(dtype, ExprKind::Un(op, x.clone()))
}

/// A primitive of two operands.
pub fn bin(op: BinOp, x: &Expr, y: &Expr) -> Expr {
    let dtype = if op.compares() { DType::Bool } else { x.dtype };
    Expr::new(dtype, ExprKind::Bin(op, x.clone(), y.clone()))
}

/// `if condition { x } else { y }`.
pub fn select(condition: &Expr, x: &Expr, y: &Expr) -> Expr {
    Expr::new(x.dtype, ExprKind::Select(condition.clone(), x.clone(), y.clone()))
}

/// Conversion, where one is needed: a narrow float that was widened needs none back.
pub fn cast(x: &Expr, dtype: DType) -> Expr {
    match &*x.kind {
        _ if x.dtype == dtype => x.clone(),
        ExprKind::Cast(narrow) if narrow.dtype == dtype && dtype.wide() == x.dtype => narrow.clone(),
        _ => Expr::new(dtype, ExprKind::Cast(x.clone())),
    }
}

/// A literal of an element's value.
pub fn literal(element: Element, dtype: DType) -> Expr {
    use crate::kernel::Literal;
    let literal = match dtype.is_float() {
        true => Literal::Float(element.as_f64().to_bits()),
        false => Literal::Int(element.as_int() as i64),
    };
    Expr::new(dtype, ExprKind::Const(literal))
}

/// A typed scalar expression of the op table over operands that are expressions.
pub fn scalar(typed: &Typed, operands: &[Expr]) -> Expr {
    let of = |x: &Typed| scalar(x, operands);
    let kind = match &typed.kind {
        TypedKind::Arg(i) => return operands[*i].clone(),
        TypedKind::Const(c) => return Expr::literal(*c, typed.dtype),
        TypedKind::Un(op, x) => ExprKind::Un(*op, of(x)),
        TypedKind::Bin(op, x, y) => ExprKind::Bin(*op, of(x), of(y)),
        TypedKind::Select(c, x, y) => ExprKind::Select(of(c), of(x), of(y)),
        TypedKind::Cast(x) => return cast(&of(x), typed.dtype),
    };
    Expr::new(typed.dtype, kind)
}

/// A replacement of the leaves of expressions, and of the offsets in them. Shared expressions stay shared.
pub struct Rewrite<'a> {
    /// Of offsets, indices and extents.
    pub dim: &'a dyn Fn(&Dim) -> Dim,
    /// Of buffers.
    pub buffer: &'a dyn Fn(BufferId) -> BufferId,
    /// Of variables and lets.
    pub name: &'a dyn Fn(&Arc<str>) -> Arc<str>,
    /// What has been rewritten, by address; the old expression is kept so that its address stays its own.
    memo: HashMap<*const ExprKind, (Expr, Expr)>,
}

impl<'a> Rewrite<'a> {
    /// A rewrite of nothing but offsets.
    pub fn dims(dim: &'a dyn Fn(&Dim) -> Dim) -> Rewrite<'a> {
        Rewrite::new(dim, &|b| b, &|n| n.clone())
    }

    /// A rewrite of offsets, buffers and names.
    pub fn new(
        dim: &'a dyn Fn(&Dim) -> Dim,
        buffer: &'a dyn Fn(BufferId) -> BufferId,
        name: &'a dyn Fn(&Arc<str>) -> Arc<str>,
    ) -> Rewrite<'a> {
        Rewrite { dim, buffer, name, memo: HashMap::new() }
    }

    /// The rewritten expression.
    pub fn expr(&mut self, e: &Expr) -> Expr {
        let key = Arc::as_ptr(&e.kind);
        if let Some((_, done)) = self.memo.get(&key) {
            return done.clone();
        }
        let kind = match &*e.kind {
            ExprKind::Load(b, offset) => ExprKind::Load((self.buffer)(*b), (self.dim)(offset)),
            ExprKind::Index(d) => ExprKind::Index((self.dim)(d)),
            ExprKind::Const(c) => ExprKind::Const(*c),
            ExprKind::Var(name) => ExprKind::Var((self.name)(name)),
            ExprKind::Un(op, x) => ExprKind::Un(*op, self.expr(x)),
            ExprKind::Bin(op, x, y) => ExprKind::Bin(*op, self.expr(x), self.expr(y)),
            ExprKind::Select(c, x, y) => ExprKind::Select(self.expr(c), self.expr(x), self.expr(y)),
            ExprKind::Cast(x) => ExprKind::Cast(self.expr(x)),
            ExprKind::Bits(x) => ExprKind::Bits(self.expr(x)),
        };
        let new = Expr::new(e.dtype, kind);
        self.memo.insert(key, (e.clone(), new.clone()));
        new
    }

    /// The rewritten block.
    pub fn block(&mut self, block: &Block) -> Block {
        let lets = block.lets.iter().map(|l| Let { name: (self.name)(&l.name), value: self.expr(&l.value), extent: (self.dim)(&l.extent) });
        let lets = lets.collect();
        let stores = block.stores.iter().map(|s| Store {
            buffer: (self.buffer)(s.buffer),
            offset: (self.dim)(&s.offset),
            value: self.expr(&s.value),
        });
        Block { lets, stores: stores.collect() }
    }
}

/// Calls `f` once for every distinct node of some expressions, operands first.
pub fn visit_shared<'a>(roots: impl IntoIterator<Item = &'a Expr>, f: &mut impl FnMut(&'a Expr)) {
    fn walk<'a>(e: &'a Expr, seen: &mut std::collections::HashSet<*const ExprKind>, f: &mut impl FnMut(&'a Expr)) {
        if seen.insert(Arc::as_ptr(&e.kind)) {
            e.operands().into_iter().for_each(|o| walk(o, seen, f));
            f(e);
        }
    }
    let mut seen = std::collections::HashSet::new();
    roots.into_iter().for_each(|e| walk(e, &mut seen, f));
}

/// Every offset, index and extent in a block.
pub fn dims_of(block: &Block) -> Vec<Dim> {
    let mut dims: Vec<Dim> = block.lets.iter().map(|l| l.extent.clone()).chain(block.stores.iter().map(|s| s.offset.clone())).collect();
    visit_shared(block.exprs(), &mut |e| {
        if let ExprKind::Load(_, d) | ExprKind::Index(d) = &*e.kind {
            dims.push(d.clone());
        }
    });
    dims
}
