//! What the shape of a kernel allows: sharing code, sharing bytes, and leaving it out.

use crate::kernel::{Block, Body, BufferId, Expr, ExprKind, Kernel, Piece, Store};
use crate::lower::visit_shared;
use egret_ir::Dim;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

/// A hash of everything that decides a kernel's code; the names of buffers do not.
pub fn fingerprint(kernel: &Kernel) -> [u8; 32] {
    let mut text = String::new();
    for b in &kernel.buffers {
        let _ = write!(text, "{}{} ", b.dtype, if b.written { " out" } else { "" });
    }
    let mut nodes = HashMap::new();
    let (mut skeleton, mut borders) = (kernel.body.clone(), kernel.borders.clone());
    for_each_block(&mut skeleton, &mut borders, &mut |block| {
        describe(block.exprs(), &mut nodes, &mut text);
        for l in std::mem::take(&mut block.lets) {
            let _ = write!(text, "let {} = {} in {};", l.name, nodes[&Arc::as_ptr(&l.value.kind)], l.extent);
        }
        for s in std::mem::take(&mut block.stores) {
            let _ = write!(text, "{}[{}] = {};", s.buffer.0, s.offset, nodes[&Arc::as_ptr(&s.value.kind)]);
        }
        text.push('|');
    });
    if let Body::Rows(rows) = &mut skeleton {
        for pass in &mut rows.passes {
            describe(pass.reduces.iter().map(|r| &r.value), &mut nodes, &mut text);
            for r in std::mem::take(&mut pass.reduces) {
                let _ = write!(text, "{} = {:?} {};", r.var, r.fold, nodes[&Arc::as_ptr(&r.value.kind)]);
            }
        }
    }
    if let Body::Chain(c) = &mut skeleton {
        let lets = std::mem::take(&mut c.lets);
        describe(lets.iter().map(|l| &l.value).chain([&c.score]), &mut nodes, &mut text);
        for l in lets {
            let _ = write!(text, "let {} = {} in {};", l.name, nodes[&Arc::as_ptr(&l.value.kind)], l.extent);
        }
        let _ = write!(text, "score {};", nodes[&Arc::as_ptr(&c.score.kind)]);
        c.score = Expr::literal(0.0, c.score.dtype);
    }
    // What is left has no expressions, whose sharing its own text would not show.
    let _ = write!(text, "{skeleton:?}{borders:?}");
    blake3::hash(text.as_bytes()).into()
}

fn for_each_block(body: &mut Body, borders: &mut [Piece], f: &mut impl FnMut(&mut Block)) {
    borders.iter_mut().for_each(|p| f(&mut p.block));
    match body {
        Body::Map(map) => map.pieces.iter_mut().for_each(|p| f(&mut p.block)),
        Body::Rows(rows) => rows.passes.iter_mut().for_each(|p| f(&mut p.block)),
        Body::Contract(contracts) => contracts.iter_mut().for_each(|c| f(&mut c.epilogue)),
        Body::Winograd(w) => f(&mut w.epilogue),
        Body::Chain(c) => f(&mut c.epilogue),
        Body::Serial(serial) => serial.nests.iter_mut().for_each(|nest| f(&mut nest.piece.block)),
        Body::Recur(_) | Body::TopK(_) => {}
    }
}

/// Writes the nodes of some expressions that have no number yet, each by the numbers of its operands.
fn describe<'a>(exprs: impl Iterator<Item = &'a Expr>, nodes: &mut HashMap<*const ExprKind, usize>, text: &mut String) {
    visit_shared(exprs, &mut |e| {
        let key = Arc::as_ptr(&e.kind);
        if nodes.contains_key(&key) {
            return;
        }
        let operands: Vec<usize> = e.operands().iter().map(|o| nodes[&Arc::as_ptr(&o.kind)]).collect();
        nodes.insert(key, nodes.len());
        let _ = match &*e.kind {
            ExprKind::Load(b, d) => write!(text, "load {}[{d}]", b.0),
            ExprKind::Index(d) => write!(text, "index {d}"),
            ExprKind::Const(c) => write!(text, "{c:?}"),
            ExprKind::Var(name) => write!(text, "var {name}"),
            ExprKind::Un(op, _) => write!(text, "{op:?}"),
            ExprKind::Bin(op, ..) => write!(text, "{op:?}"),
            ExprKind::Select(..) => write!(text, "select"),
            ExprKind::Cast(_) => write!(text, "cast"),
            ExprKind::Bits(_) => write!(text, "bits"),
        };
        let _ = write!(text, " {operands:?}: {};", e.dtype);
    });
}

/// The buffer that a kernel does no more than copy, whole and in order; both ends have `count` elements.
pub fn copies(kernel: &Kernel, count: &Dim) -> Option<BufferId> {
    let Body::Map(map) = &kernel.body else { return None };
    let [piece] = &map.pieces[..] else { return None };
    let Block { lets, stores } = &piece.block;
    let ([], [Store { offset, value, .. }]) = (&lets[..], &stores[..]) else { return None };
    let in_order = match &piece.axes[..] {
        [] => count.is(1) && offset.is(0),
        [axis] => axis.extent == *count && *offset == axis.index(),
        _ => false,
    };
    match &*value.kind {
        ExprKind::Load(from, at) if in_order && at == offset => Some(*from),
        _ => None,
    }
}

/// Pairs of a buffer read and a buffer written that may share bytes: every element of the one is read only to compute the
/// same element of the other, and not after that is written.
pub fn shareable(kernel: &Kernel) -> Vec<(BufferId, BufferId)> {
    let mut found = vec![];
    for (w, written) in kernel.buffers.iter().enumerate().filter(|(_, b)| b.written) {
        for (r, read) in kernel.buffers.iter().enumerate().filter(|(_, b)| !b.written) {
            if read.dtype == written.dtype && reads_where_it_writes(kernel, BufferId(r), BufferId(w)) {
                found.push((BufferId(r), BufferId(w)));
            }
        }
    }
    found
}

fn reads_where_it_writes(kernel: &Kernel, read: BufferId, written: BufferId) -> bool {
    // Blocks in order of execution, with what else is read in them.
    let blocks: Vec<(&Block, Vec<&Expr>)> = match &kernel.body {
        Body::Map(map) if map.pieces.len() == 1 => map.pieces.iter().map(|p| (&p.block, vec![])).collect(),
        _ if !kernel.borders.is_empty() => return false,
        Body::Rows(rows) => rows.passes.iter().map(|p| (&p.block, p.reduces.iter().map(|r| &r.value).collect())).collect(),
        // One of several may be read when another is written: parts do not wait for each other between them.
        Body::Contract(contracts) => match &contracts[..] {
            [c] if c.a.0 != read && c.b.buffer() != read => vec![(&c.epilogue, vec![])],
            _ => return false,
        },
        Body::Winograd(w) if w.a.0 != read && w.weights != read => vec![(&w.epilogue, vec![])],
        Body::Map(_) | Body::Winograd(_) | Body::Chain(_) | Body::Recur(_) | Body::TopK(_) | Body::Serial(_) => return false,
    };
    let stores = || blocks.iter().flat_map(|(b, _)| &b.stores).filter(|s| s.buffer == written);
    let Some(offset) = stores().next().map(|s| &s.offset) else { return false };
    if stores().any(|s| s.offset != *offset) {
        return false;
    }
    let mut is_written = false;
    for (block, others) in blocks {
        let here: Vec<&Expr> = block.stores.iter().filter(|s| s.buffer == written).map(|s| &s.value).collect();
        let writes_here = !here.is_empty();
        // What else is computed at a point may be computed behind the store.
        let beside = block.exprs().chain(others).filter(|e| !here.iter().any(|h| std::ptr::eq(*h, *e)));
        let lost = |at: &Dim, beside: bool| is_written || at != offset || beside && writes_here;
        if reads(beside, read, &|at| lost(at, true)) || reads(here.iter().copied(), read, &|at| lost(at, false)) {
            return false;
        }
        is_written |= writes_here;
    }
    true
}

/// Whether an expression loads from `buffer` at an offset where its element is `lost`.
fn reads<'e>(exprs: impl Iterator<Item = &'e Expr>, buffer: BufferId, lost: &dyn Fn(&Dim) -> bool) -> bool {
    let mut found = false;
    visit_shared(exprs, &mut |e| {
        if let ExprKind::Load(b, at) = &*e.kind {
            found |= *b == buffer && lost(at);
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;
    use crate::testing::as_kernel;
    use egret_ir::text;

    /// The pairs that may share bytes in the last kernel of a graph that is lowered as one.
    #[track_caller]
    fn check(source: &str, expected: &[(&str, &str)]) {
        let graph = as_kernel(&text::parse(source).unwrap()).unwrap();
        let program = crate::plan::build(&graph, &Target::named("x86-64-v4").unwrap(), &|_, _| {}).unwrap();
        let kernel = program.kernels.last().unwrap();
        let name = |b: BufferId| kernel.buffers[b.0].name.to_string();
        let found: Vec<(String, String)> = shareable(kernel).into_iter().map(|(r, w)| (name(r), name(w))).collect();
        let expected: Vec<(String, String)> = expected.iter().map(|(r, w)| (r.to_string(), w.to_string())).collect();
        assert_eq!(found, expected, "{kernel}");
    }

    #[test]
    fn bytes_are_shared_where_every_element_is_read_before_it_is_written() {
        check("graph g(x: f32[4, 8], b: f32[8]) { y = add(x, b) return y }", &[("x", "y")]);
        check("graph g(x: f32[4, 4]) { y = transpose[perm=[1, 0]](x) z = neg(y) return z }", &[]);
        check("graph g(x: f32[8]) { z = slice[start=[7], shape=[8], step=[-1]](x) w = add(x, z) return w }", &[]);
        check("graph g(x: f32[4, 8], y: i32[4, 8]) { c = cast[to=i32](x) z = add(c, y) return z }", &[("y", "z")]);
        // The residual of a product, but not its operands.
        check("graph g(x: f32[8, 8], w: f32[8, 8], r: f32[8, 8]) { p = matmul(x, w) y = add(p, r) return y }", &[("r", "y")]);
        check("graph g(x: f32[8, 8], w: f32[8, 8]) { p = matmul(x, w) y = add(p, x) return y }", &[]);
        // Norms read a row before they write it; softmax reads it again beside its first store.
        check("graph g(x: f32[4, 8]) { m = reduce_mean[axes=[1]](x) y = sub(x, m) return y }", &[("x", "y")]);
        check("graph g(x: f32[4, 8]) { y = softmax[axes=[1]](x) return y }", &[]);
        // Two results: the second would read what the first has overwritten.
        check("graph g(x: f32[8]) { y = neg(x) z = exp(x) return y, z }", &[]);
    }

    #[test]
    fn names_of_buffers_do_not_count() {
        let hash = |source: &str| {
            let graph = as_kernel(&text::parse(source).unwrap()).unwrap();
            let program = crate::plan::build(&graph, &Target::named("x86-64-v4").unwrap(), &|_, _| {}).unwrap();
            fingerprint(&program.kernels[0])
        };
        let one = hash("graph g(x: f32[8]) { y = relu(x) return y }");
        assert_eq!(one, hash("graph g(a: f32[8]) { b = relu(a) return b }"));
        for other in ["x: f32[9]) { y = relu(x)", "x: f32[8]) { y = exp(x)", "x: f64[8]) { y = relu(x)", "x: f32[8]) { y = max(x, x)"] {
            assert_ne!(one, hash(&format!("graph g({other} return y }}")), "{other}");
        }
    }
}
