//! Gemm, and Einsum taken apart into transposes, reshapes and matrix products.

use crate::error::Code;
use crate::site::{Outcome, Site, Stop, malformed};
use egret_ir::{DType, Dim, Op, ValueId, broadcast};
use std::collections::BTreeMap;

/// `alpha * A * B + beta * C`
pub(crate) fn gemm(n: &mut Site) -> Outcome {
    let (a, b) = (n.input(0)?, n.input(1)?);
    let (alpha, beta) = (n.float_or("alpha", 1.0)?, n.float_or("beta", 1.0)?);
    let (flip_a, flip_b) = (n.flag("transA")?, n.flag("transB")?);
    for value in [a, b] {
        if n.rank(value) != 2 {
            return Err(malformed(Code::Shape, format!("`Gemm` expects matrices, found {}", n.ty(value))));
        }
    }
    let a = if flip_a { n.transpose(a, vec![1, 0])? } else { a };
    let b = if flip_b { n.transpose(b, vec![1, 0])? } else { b };
    let mut y = n.op(Op::matmul, &[a, b])?;
    if alpha != 1.0 {
        y = n.with_number(Op::mul, y, alpha)?;
    }
    let Some(mut c) = n.optional(2).filter(|_| beta != 0.0) else { return Ok(vec![y]) };
    if beta != 1.0 {
        c = n.with_number(Op::mul, c, beta)?;
    }
    Ok(vec![n.op(Op::add, &[y, c])?])
}

/// Rows that elimination goes through; each step is a dozen ops.
const LARGEST_DETERMINANT: i64 = 64;

/// By elimination with pivots: the largest element of the first column goes to the front, and what is left is smaller by one.
/// x: [.., n, n] -> [..]
pub(crate) fn determinant(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let dims = n.dims(x);
    let size = dims.last().and_then(Dim::as_const).filter(|size| (1..=LARGEST_DETERMINANT).contains(size));
    let (Some(size), [outer @ .., _, _]) = (size, dims.as_slice()) else {
        let message = format!("`Det` expects square matrices of up to {LARGEST_DETERMINANT} rows, found {}", n.ty(x));
        return Err(malformed(Code::Shape, message));
    };
    let dtype = n.dtype(x);
    let (mut rest, mut product) = (x, n.scalar(1.0, dtype));
    for left in (1..=size).rev() {
        let (pivot, is_first, row, others) = pivoted(n, rest, outer, left)?;
        let (one, minus) = (n.scalar(1.0, dtype), n.scalar(-1.0, dtype));
        let sign = n.op(Op::select, &[is_first, one, minus])?;
        let signed = n.op(Op::mul, &[pivot, sign])?;
        product = n.op(Op::mul, &[product, signed])?;
        if left > 1 {
            rest = eliminated(n, pivot, row, others, outer, left)?;
        }
    }
    Ok(vec![n.reshape(product, outer.to_vec())?])
}

/// The pivot [.., 1, 1], whether it stands in the first row, its row [.., 1, n], and all rows with the first in its place.
fn pivoted(n: &mut Site, x: ValueId, outer: &[Dim], size: i64) -> Result<(ValueId, ValueId, ValueId, ValueId), Stop> {
    let (rows, columns) = (outer.len(), outer.len() + 1);
    let column = n.slice(x, columns, Dim::ZERO, Dim::ONE)?;
    let sizes = n.op(Op::abs, &[column])?;
    let place = n.op(Op::arg_max { axis: rows, last: false }, &[sizes])?;
    let across = n.broadcast(place, [outer, &[Dim::ONE, Dim::from(size)]].concat())?;
    let row = n.op(Op::gather_elements { axis: rows }, &[x, across])?;
    let pivot = n.slice(row, columns, Dim::ZERO, Dim::ONE)?;
    let is_first = n.with_number(Op::eq, place, 0.0)?;
    let first = n.slice(x, rows, Dim::ZERO, Dim::ONE)?;
    let index = n.iota(vec![Dim::from(size), Dim::ONE], 0, DType::I64)?;
    let is_pivot = n.op(Op::eq, &[index, place])?;
    let swapped = n.op(Op::select, &[is_pivot, first, x])?;
    Ok((pivot, is_first, row, swapped))
}

/// The rows behind the first without what the pivot's row takes away, and without the first column.
fn eliminated(n: &mut Site, pivot: ValueId, row: ValueId, rows: ValueId, outer: &[Dim], size: i64) -> Result<ValueId, Stop> {
    let (down, across) = (outer.len(), outer.len() + 1);
    let (one, left) = (Dim::ONE, Dim::from(size - 1));
    let rows = n.slice(rows, down, one.clone(), left.clone())?;
    let first = n.slice(rows, across, Dim::ZERO, one.clone())?;
    // A column of zeros has the pivot 0: the determinant is 0 already, and must not become NaN.
    let empty = n.with_number(Op::eq, pivot, 0.0)?;
    let unit = n.scalar(1.0, n.dtype(pivot));
    let divisor = n.op(Op::select, &[empty, unit, pivot])?;
    let factor = n.op(Op::div, &[first, divisor])?;
    let (rows, row) = (n.slice(rows, across, one.clone(), left.clone())?, n.slice(row, across, one, left)?);
    let taken = n.op(Op::mul, &[factor, row])?;
    n.op(Op::sub, &[rows, taken])
}

/// The name of an axis in an equation: a letter, or a position in the ellipsis counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Ellipsis(usize),
    Letter(char),
}

/// A value whose axes have names.
#[derive(Clone)]
struct Named {
    value: ValueId,
    labels: Vec<Label>,
}

/// Operands are multiplied from left to right; a label that no later operand and not the output has is summed at once.
pub(crate) fn einsum(n: &mut Site) -> Outcome {
    let equation: String = n.text("equation")?.unwrap_or_default().chars().filter(|c| !c.is_whitespace()).collect();
    let inputs = n.inputs()?;
    let (mut operands, output) = labelled(n, &equation, &inputs)?;
    let mut extents: BTreeMap<Label, Dim> = BTreeMap::new();
    for operand in &operands {
        for (label, dim) in operand.labels.iter().zip(n.dims(operand.value)) {
            let known = extents.entry(*label).or_insert(Dim::ONE);
            let both = broadcast(&[std::slice::from_ref(known), std::slice::from_ref(&dim)]);
            *known = both.map_err(|e| malformed(Code::Shape, format!("the operands of `Einsum` do not fit `{equation}`: {e}")))?.remove(0);
        }
    }
    if let Some(label) = output.iter().find(|l| !extents.contains_key(l)) {
        return Err(n.refused("equation", &equation, format!("{label:?} of the output stands in no operand")));
    }
    for operand in &mut operands {
        *operand = diagonal(n, operand.clone())?;
    }
    let mut rest = operands.into_iter().collect::<std::collections::VecDeque<_>>();
    let mut product = rest.pop_front().ok_or_else(|| malformed(Code::Operand, "`Einsum` needs an operand"))?;
    loop {
        let needed = |label: &Label, rest: &std::collections::VecDeque<Named>| {
            output.contains(label) || rest.iter().any(|o| o.labels.contains(label))
        };
        let gone: Vec<Label> = product.labels.iter().filter(|l| !needed(l, &rest)).copied().collect();
        product = summed(n, product, &gone)?;
        let Some(next) = rest.pop_front() else { break };
        let own: Vec<Label> = next.labels.iter().filter(|l| !needed(l, &rest) && !product.labels.contains(l)).copied().collect();
        let next = summed(n, next, &own)?;
        let shared: Vec<Label> = product.labels.iter().filter(|l| next.labels.contains(l) && !needed(l, &rest)).copied().collect();
        product = if shared.is_empty() { multiplied(n, &product, &next)? } else { contracted(n, &product, &next, &shared)? };
    }
    let perm = output.iter().map(|l| product.labels.iter().position(|p| p == l)).collect::<Option<Vec<usize>>>();
    let perm = perm.ok_or_else(|| n.refused("equation", &equation, "the output has a label that no operand has"))?;
    if perm.len() != product.labels.len() {
        return Err(n.refused("equation", &equation, "the output names a label twice"));
    }
    Ok(vec![n.transpose(product.value, perm)?])
}

/// The operands with their labels, and the labels of the output.
fn labelled(n: &Site, equation: &str, inputs: &[ValueId]) -> Result<(Vec<Named>, Vec<Label>), Stop> {
    let bad = |why: String| n.refused("equation", equation, why);
    let (left, right) = equation.split_once("->").map_or((equation, None), |(l, r)| (l, Some(r)));
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != inputs.len() {
        return Err(bad(format!("the equation has {} operands, the node {}", terms.len(), inputs.len())));
    }
    let mut widest = 0;
    let mut operands = vec![];
    for (term, &value) in terms.iter().zip(inputs) {
        let letters = term.replace("...", "").chars().count();
        let hidden = n.rank(value).checked_sub(letters).filter(|h| *h == 0 || term.contains("..."));
        let hidden = hidden.ok_or_else(|| bad(format!("`{term}` does not fit {}", n.ty(value))))?;
        widest = widest.max(hidden);
        operands.push(Named { value, labels: labels(term, hidden).ok_or_else(|| bad(format!("`{term}` is no list of letters")))? });
    }
    if operands.iter().any(|o| o.labels.len() != n.rank(o.value)) {
        return Err(bad("a term does not have one label per axis".to_string()));
    }
    let output = match right {
        Some(term) => {
            labels(term, if term.contains("...") { widest } else { 0 }).ok_or_else(|| bad(format!("`{term}` is no list of letters")))?
        }
        None => implicit(&operands, widest),
    };
    Ok((operands, output))
}

/// `a...b` with two hidden axes is `a`, the second from the end, the last, `b`.
fn labels(term: &str, hidden: usize) -> Option<Vec<Label>> {
    let letters = |part: &str| part.chars().map(|c| c.is_alphabetic().then_some(Label::Letter(c))).collect::<Option<Vec<Label>>>();
    match term.split_once("...") {
        None => letters(term),
        Some((before, behind)) => Some([letters(before)?, (0..hidden).rev().map(Label::Ellipsis).collect(), letters(behind)?].concat()),
    }
}

/// Without an arrow: the ellipsis, then the letters that stand once, sorted.
fn implicit(operands: &[Named], widest: usize) -> Vec<Label> {
    let all: Vec<Label> = operands.iter().flat_map(|o| o.labels.clone()).collect();
    let mut once: Vec<Label> =
        all.iter().filter(|l| matches!(l, Label::Letter(_)) && all.iter().filter(|o| o == l).count() == 1).copied().collect();
    once.sort();
    (0..widest).rev().map(Label::Ellipsis).chain(once).collect()
}

/// Labels that stand twice keep the elements where both indices are equal.
fn diagonal(n: &mut Site, mut operand: Named) -> Result<Named, Stop> {
    while let Some((i, j)) = twice(&operand.labels) {
        let dims = n.dims(operand.value);
        let (row, column) = (n.iota(dims.clone(), i, DType::I64)?, n.iota(dims.clone(), j, DType::I64)?);
        let same = n.op(Op::eq, &[row, column])?;
        let zero = n.scalar(0.0, n.dtype(operand.value));
        let kept = n.op(Op::select, &[same, operand.value, zero])?;
        let sum = n.op(Op::reduce_sum { axes: vec![j] }, &[kept])?;
        operand.labels.remove(j);
        let dims = dims.into_iter().enumerate().filter(|(a, _)| *a != j).map(|(_, d)| d).collect::<Vec<Dim>>();
        operand.value = n.reshape(sum, dims)?;
    }
    Ok(operand)
}

fn twice(labels: &[Label]) -> Option<(usize, usize)> {
    (0..labels.len()).find_map(|j| labels[..j].iter().position(|l| *l == labels[j]).map(|i| (i, j)))
}

/// Sums over the axes with these labels.
fn summed(n: &mut Site, operand: Named, gone: &[Label]) -> Result<Named, Stop> {
    if gone.is_empty() {
        return Ok(operand);
    }
    let axes = (0..operand.labels.len()).filter(|&a| gone.contains(&operand.labels[a])).collect();
    let sum = n.op(Op::reduce_sum { axes }, &[operand.value])?;
    let dims = n.dims(sum).into_iter().zip(&operand.labels).filter(|(_, l)| !gone.contains(l)).map(|(d, _)| d).collect::<Vec<Dim>>();
    Ok(Named { value: n.reshape(sum, dims)?, labels: operand.labels.into_iter().filter(|l| !gone.contains(l)).collect() })
}

/// Puts the axes in the order of `labels`; a label that the operand lacks becomes an axis of extent 1.
fn arranged(n: &mut Site, operand: &Named, labels: &[Label]) -> Result<ValueId, Stop> {
    let perm: Vec<usize> = labels.iter().filter_map(|l| operand.labels.iter().position(|o| o == l)).collect();
    let moved = n.transpose(operand.value, perm)?;
    let mut own = n.dims(moved).into_iter();
    let dims: Vec<Dim> =
        labels.iter().map(|l| if operand.labels.contains(l) { own.next().unwrap_or(Dim::ONE) } else { Dim::ONE }).collect();
    n.reshape(moved, dims)
}

/// The elementwise product over the union of the labels.
fn multiplied(n: &mut Site, a: &Named, b: &Named) -> Result<Named, Stop> {
    let labels: Vec<Label> = a.labels.iter().copied().chain(b.labels.iter().filter(|l| !a.labels.contains(l)).copied()).collect();
    let (x, y) = (arranged(n, a, &labels)?, arranged(n, b, &labels)?);
    Ok(Named { value: n.op(Op::mul, &[x, y])?, labels })
}

/// The sum over `shared` labels of the product, as a matrix product: a: [batch, rows, shared], b: [batch, shared, columns].
fn contracted(n: &mut Site, a: &Named, b: &Named, shared: &[Label]) -> Result<Named, Stop> {
    let both = |l: &Label| a.labels.contains(l) && b.labels.contains(l) && !shared.contains(l);
    let batch: Vec<Label> = a.labels.iter().filter(|l| both(l)).copied().collect();
    let rows: Vec<Label> = a.labels.iter().filter(|l| !b.labels.contains(l)).copied().collect();
    let columns: Vec<Label> = b.labels.iter().filter(|l| !a.labels.contains(l)).copied().collect();
    let (x, row_dims) = matrices(n, a, &batch, &rows, shared)?;
    let (y, column_dims) = matrices(n, b, &batch, shared, &columns)?;
    let (row_dims, column_dims) = (row_dims[..rows.len()].to_vec(), column_dims[shared.len()..].to_vec());
    let product = n.op(Op::matmul, &[x, y])?;
    let outer = n.dims(product)[..batch.len()].to_vec();
    let value = n.reshape(product, [outer, row_dims, column_dims].concat())?;
    Ok(Named { value, labels: [batch, rows, columns].concat() })
}

/// The operand as `[batch..., product of rows, product of columns]`, and the extents of its rows and columns.
fn matrices(n: &mut Site, operand: &Named, batch: &[Label], rows: &[Label], columns: &[Label]) -> Result<(ValueId, Vec<Dim>), Stop> {
    let moved = arranged(n, operand, &[batch, rows, columns].concat())?;
    let dims = n.dims(moved);
    let (outer, inner) = dims.split_at(batch.len());
    let (row, column) = inner.split_at(rows.len());
    let merged = [outer, &[row.iter().cloned().product(), column.iter().cloned().product()]].concat();
    Ok((n.reshape(moved, merged)?, inner.to_vec()))
}
