//! Ops without a kernel on a target, spelled out in ops that have one: on GPUs running sums and products, selections and scattering, on
//! processors such sums of 16 bits.
//!
//! Each compares every position with every other, which takes time in the square of an axis (or of positions and updates), but
//! needs no kernel that walks in order, runs in parallel and fuses like anything else.
//!
//! ```text
//! y = cumsum[axis=0](x)   =>   y at [i]  =  sum over j of (x at [j] if j <= i, else 0)
//! ```

use super::serial::is_serial;
use crate::target::Target;
use egret_ir::attr::{PadMode, ScatterMode};
use egret_ir::{Copy, DType, Dim, Element, Graph, Node, Op, Tensor, TensorType, ValueId};

type Made = Result<ValueId, String>;

/// The graph without `cumsum`, `cumprod`, `top_k` and the scatters where the target has no kernel for them.
///
/// # Errors
/// Only if what is spelled out does not type-check, which would be a bug.
pub fn spelled_out(graph: &Graph, target: &Target) -> Result<Graph, String> {
    let mut copy = Copy::new(graph, TensorType::clone);
    for node in graph.nodes() {
        let name = graph.value(node.results[0]).name.to_string();
        if !target.is_cuda() && has_kernel(graph, node) {
            copy.node(node)?;
            continue;
        }
        let mut speller = Speller { copy: &mut copy, node, name: &name };
        let results = match &node.op {
            Op::cumsum { axis, exclusive, reverse } => {
                vec![speller.running((*axis, *exclusive, *reverse), 0, |axes| Op::reduce_sum { axes })?]
            }
            Op::cumprod { axis, exclusive, reverse } => {
                vec![speller.running((*axis, *exclusive, *reverse), 1, |axes| Op::reduce_prod { axes })?]
            }
            Op::top_k { axis, k, largest } => speller.top_k(*axis, k, *largest)?,
            Op::scatter_elements { axis, mode } => vec![speller.scatter_elements(*axis, *mode)?],
            Op::scatter_nd { mode } => vec![speller.scatter_nd(*mode)?],
            _ => {
                copy.node(node)?;
                continue;
            }
        };
        node.results.iter().zip(results).for_each(|(&old, new)| copy.set(old, new));
    }
    Ok(copy.finish())
}

/// Whether processors have a kernel for an op that is spelled out elsewhere.
fn has_kernel(graph: &Graph, node: &Node) -> bool {
    matches!(node.op, Op::top_k { .. }) || node.operands.first().is_some_and(|&x| is_serial(&node.op, graph.ty(x)))
}

/// Builds what stands for one node.
struct Speller<'a, 'g> {
    copy: &'a mut Copy<'g>,
    node: &'a Node,
    name: &'a str,
}

impl Speller<'_, '_> {
    fn operand(&mut self, i: usize) -> ValueId {
        self.copy.value(self.node.operands[i])
    }

    fn dims(&self, v: ValueId) -> Vec<Dim> {
        self.copy.new.ty(v).dims.clone()
    }

    fn dtype(&self, v: ValueId) -> DType {
        self.copy.new.ty(v).dtype
    }

    fn add(&mut self, op: Op, operands: &[ValueId]) -> Made {
        Ok(self.copy.new.add_node(op, operands, &[self.name], self.node.origin.clone())?[0])
    }

    fn constant(&mut self, element: Element, dtype: DType) -> ValueId {
        self.copy.new.add_const("constant", Tensor::scalar(dtype, element))
    }

    fn integer(&mut self, n: i64) -> ValueId {
        self.constant(Element::Int(n.into()), DType::I64)
    }

    fn reshape(&mut self, x: ValueId, shape: Vec<Dim>) -> Made {
        self.add(Op::reshape { shape }, &[x])
    }

    fn iota(&mut self, shape: Vec<Dim>, axis: usize) -> Made {
        self.add(Op::iota { shape, axis, dtype: DType::I64 }, &[])
    }

    /// The axis moved to the end; `back` undoes it.
    fn axis_last(&mut self, x: ValueId, axis: usize, back: bool) -> Made {
        let rank = self.dims(x).len();
        let mut perm: Vec<usize> = (0..rank).collect();
        if back {
            perm.pop();
            perm.insert(axis, rank - 1);
        } else {
            perm.remove(axis);
            perm.push(axis);
        }
        self.add(Op::transpose { perm }, &[x])
    }

    /// `[a.., n, b..] -> [a.., 1, b.., n]`: the axis becomes one of its own, to be compared with what stands in its place.
    fn compared(&mut self, x: ValueId, axis: usize) -> Made {
        let mut shape = self.dims(x);
        let extent = std::mem::replace(&mut shape[axis], Dim::ONE);
        shape.push(extent);
        let last = self.axis_last(x, axis, false)?;
        self.reshape(last, shape)
    }

    /// `[..] -> [.., 1]`.
    fn with_unit(&mut self, x: ValueId) -> Made {
        let shape = [self.dims(x), vec![Dim::ONE]].concat();
        self.reshape(x, shape)
    }

    /// `[.., 1] -> [..]`.
    fn without_unit(&mut self, x: ValueId) -> Made {
        let mut shape = self.dims(x);
        shape.pop();
        self.reshape(x, shape)
    }

    /// The axis that is compared, folded.
    fn folded(&mut self, fold: fn(Vec<usize>) -> Op, x: ValueId) -> Made {
        let last = self.dims(x).len() - 1;
        self.add(fold(vec![last]), &[x])
    }

    /// At every position of an axis the elements up to it folded, those behind it being `neutral`.
    fn running(&mut self, (axis, exclusive, reverse): (usize, bool, bool), neutral: i128, fold: fn(Vec<usize>) -> Op) -> Made {
        let x = self.operand(0);
        let dims = self.dims(x);
        let here = self.iota([dims.clone(), vec![Dim::ONE]].concat(), axis)?;
        let there = self.iota(vec![dims[axis].clone()], 0)?;
        let (first, second) = if reverse { (here, there) } else { (there, here) };
        let counts = self.add(if exclusive { Op::lt } else { Op::le }, &[first, second])?;
        let elements = self.compared(x, axis)?;
        let neutral = self.constant(Element::Int(neutral).rounded(self.dtype(x)), self.dtype(x));
        let counted = self.add(Op::select, &[counts, elements, neutral])?;
        let folded = self.folded(fold, counted)?;
        self.without_unit(folded)
    }

    /// The rank of every element is how many come before it in order; the elements of the ranks below `k` are looked up.
    fn top_k(&mut self, axis: usize, k: &Dim, largest: bool) -> Result<Vec<ValueId>, String> {
        let x = self.operand(0);
        let x = self.axis_last(x, axis, false)?;
        let dims = self.dims(x);
        let (last, extent) = (dims.len() - 1, dims[dims.len() - 1].clone());
        let (mine, other) = (self.with_unit(x)?, self.compared(x, last)?);
        let before = self.comes_before(other, mine, largest)?;
        let (here, there) = (self.iota(vec![extent.clone(), Dim::ONE], 0)?, self.iota(vec![extent.clone()], 0)?);
        let lower = self.add(Op::lt, &[there, here])?;
        let equal = self.equal(other, mine)?;
        let tie = self.add(Op::and, &[equal, lower])?;
        let before = self.add(Op::or, &[before, tie])?;
        let ones = self.add(Op::cast { to: DType::I64 }, &[before])?;
        let ranks = self.folded(|axes| Op::reduce_sum { axes }, ones)?;
        // [.., n, 1] -> [.., 1, n], against the rank that is wanted: [k, 1].
        let mut shape = dims.clone();
        shape.insert(last, Dim::ONE);
        let ranks = self.reshape(ranks, shape)?;
        let wanted = self.iota(vec![k.clone(), Dim::ONE], 0)?;
        let is_it = self.add(Op::eq, &[ranks, wanted])?;
        let nowhere = self.integer(i64::MAX);
        let places = self.add(Op::select, &[is_it, there, nowhere])?;
        let indices = self.folded(|axes| Op::reduce_min { axes }, places)?;
        let indices = self.without_unit(indices)?;
        let values = self.add(Op::gather_elements { axis: last }, &[x, indices])?;
        Ok(vec![self.axis_last(values, axis, true)?, self.axis_last(indices, axis, true)?])
    }

    /// Whether `a` is larger (or smaller) than `b`, NaN being larger than every number.
    fn comes_before(&mut self, a: ValueId, b: ValueId, largest: bool) -> Made {
        let (small, large) = if largest { (b, a) } else { (a, b) };
        let less = self.add(Op::lt, &[small, large])?;
        if !self.dtype(a).is_float() {
            return Ok(less);
        }
        let (small_nan, large_nan) = (self.add(Op::is_nan, &[small])?, self.add(Op::is_nan, &[large])?);
        let number = self.add(Op::not, &[small_nan])?;
        let above = self.add(Op::and, &[number, large_nan])?;
        self.add(Op::or, &[less, above])
    }

    /// Whether two elements are equal, NaN to NaN.
    fn equal(&mut self, a: ValueId, b: ValueId) -> Made {
        let equal = self.add(Op::eq, &[a, b])?;
        if !self.dtype(a).is_float() {
            return Ok(equal);
        }
        let (a, b) = (self.add(Op::is_nan, &[a])?, self.add(Op::is_nan, &[b])?);
        let both = self.add(Op::and, &[a, b])?;
        self.add(Op::or, &[equal, both])
    }

    /// Indices of which negative ones count from the end of an axis.
    fn counted_from_start(&mut self, indices: ValueId, extent: &Dim) -> Made {
        let indices = self.add(Op::cast { to: DType::I64 }, &[indices])?;
        let extent = self.add(Op::dims { values: vec![extent.clone()] }, &[])?;
        let extent = self.reshape(extent, vec![])?;
        let zero = self.integer(0);
        let negative = self.add(Op::lt, &[indices, zero])?;
        let from_end = self.add(Op::add, &[indices, extent])?;
        self.add(Op::select, &[negative, from_end, indices])
    }

    fn scatter_elements(&mut self, axis: usize, mode: ScatterMode) -> Made {
        let (x, indices, updates) = (self.operand(0), self.operand(1), self.operand(2));
        let dims = self.dims(x);
        let indices = self.counted_from_start(indices, &dims[axis])?;
        let nowhere = self.integer(-1);
        let indices = self.grown(indices, axis, &dims, nowhere)?;
        let zero = self.constant(Element::zero(self.dtype(x)), self.dtype(x));
        let updates = self.grown(updates, axis, &dims, zero)?;
        let (targets, updates) = (self.compared(indices, axis)?, self.compared(updates, axis)?);
        let here = self.iota([dims.clone(), vec![Dim::ONE]].concat(), axis)?;
        let meets = self.add(Op::eq, &[targets, here])?;
        if mode != ScatterMode::Replace {
            return self.combined(x, meets, updates, mode);
        }
        let (is_hit, last) = self.last_of(meets)?;
        let shape = self.dims(meets);
        let updates = self.add(Op::broadcast { shape }, &[updates])?;
        let picked = self.add(Op::gather_elements { axis: dims.len() }, &[updates, last])?;
        let (is_hit, picked) = (self.without_unit(is_hit)?, self.without_unit(picked)?);
        self.add(Op::select, &[is_hit, picked, x])
    }

    /// Padded at the end to `dims` on all axes but one.
    fn grown(&mut self, x: ValueId, axis: usize, dims: &[Dim], value: ValueId) -> Made {
        let own = self.dims(x);
        let high: Vec<Dim> = (0..dims.len()).map(|a| if a == axis { Dim::ZERO } else { dims[a].clone() - own[a].clone() }).collect();
        if high.iter().all(|d| d.is(0)) {
            return Ok(x);
        }
        self.add(Op::pad { low: vec![Dim::ZERO; dims.len()], high, mode: PadMode::Constant }, &[x, value])
    }

    /// Of `[.., m]` truth values, whether one holds, and the last that does (or the first): `[.., 1]` each.
    fn last_of(&mut self, holds: ValueId) -> Result<(ValueId, ValueId), String> {
        let extent = self.dims(holds).pop().unwrap_or(Dim::ONE);
        let number = self.iota(vec![extent], 0)?;
        let (none, zero) = (self.integer(-1), self.integer(0));
        let numbers = self.add(Op::select, &[holds, number, none])?;
        let last = self.folded(|axes| Op::reduce_max { axes }, numbers)?;
        let is_hit = self.add(Op::le, &[zero, last])?;
        Ok((is_hit, self.add(Op::max, &[last, zero])?))
    }

    /// `x` combined with all updates `[.., m]` that meet it.
    fn combined(&mut self, x: ValueId, meets: ValueId, updates: ValueId, mode: ScatterMode) -> Made {
        let dtype = self.dtype(x);
        let (neutral, fold, op): (_, fn(Vec<usize>) -> Op, _) = match mode {
            ScatterMode::Add | ScatterMode::Replace => (Element::zero(dtype), |axes| Op::reduce_sum { axes }, Op::add),
            ScatterMode::Mul => (Element::Float(1.0).rounded(dtype), |axes| Op::reduce_prod { axes }, Op::mul),
            ScatterMode::Max => (lowest(dtype), |axes| Op::reduce_max { axes }, Op::max),
            ScatterMode::Min => (highest(dtype), |axes| Op::reduce_min { axes }, Op::min),
        };
        let neutral = self.constant(neutral, dtype);
        let counted = self.add(Op::select, &[meets, updates, neutral])?;
        let folded = self.folded(fold, counted)?;
        let folded = self.without_unit(folded)?;
        self.add(op, &[x, folded])
    }

    /// The slices of `x` and of the updates in a row each: `[p, s]` and `[t, s]`, and of every update the row it goes to.
    fn scatter_nd(&mut self, mode: ScatterMode) -> Made {
        let (x, indices, updates) = (self.operand(0), self.operand(1), self.operand(2));
        let (dims, mut tuples) = (self.dims(x), self.dims(indices));
        let length = tuples.pop().and_then(|d| d.as_const()).ok_or("expects index tuples of a length that is a number")? as usize;
        let product = |dims: &[Dim]| -> Dim { dims.iter().cloned().product() };
        let (rows, count, slice) = (product(&dims[..length]), product(&tuples), product(&dims[length..]));
        let indices = self.reshape(indices, vec![count.clone(), Dim::from(length)])?;
        let mut target = self.integer(0);
        for (i, extent) in dims[..length].iter().enumerate() {
            let column = Op::slice { start: vec![Dim::ZERO, Dim::from(i)], shape: vec![count.clone(), Dim::ONE], step: vec![1, 1] };
            let column = self.add(column, &[indices])?;
            let column = self.reshape(column, vec![count.clone()])?;
            let column = self.counted_from_start(column, extent)?;
            let stride = self.add(Op::dims { values: vec![extent.clone()] }, &[])?;
            let stride = self.reshape(stride, vec![])?;
            let before = self.add(Op::mul, &[target, stride])?;
            target = self.add(Op::add, &[before, column])?;
        }
        let flat = self.reshape(x, vec![rows.clone(), slice.clone()])?;
        let updates = self.reshape(updates, vec![count.clone(), slice.clone()])?;
        let here = self.iota(vec![rows.clone(), Dim::ONE], 0)?;
        let target = self.add(Op::broadcast { shape: vec![count.clone()] }, &[target])?;
        let meets = self.add(Op::eq, &[target, here])?;
        let made = if mode == ScatterMode::Replace {
            let (is_hit, last) = self.last_of(meets)?;
            let last = self.without_unit(last)?;
            let picked = self.add(Op::gather { axis: 0 }, &[updates, last])?;
            self.add(Op::select, &[is_hit, picked, flat])?
        } else {
            let meets = self.reshape(meets, vec![rows, Dim::ONE, count])?;
            let updates = self.add(Op::transpose { perm: vec![1, 0] }, &[updates])?;
            self.combined(flat, meets, updates, mode)?
        };
        self.reshape(made, dims)
    }
}

/// The number that every other of the type is at least.
fn lowest(dtype: DType) -> Element {
    match dtype.is_float() {
        true => Element::Float(f64::NEG_INFINITY),
        false => Element::Int(dtype.int_range().0),
    }
}

/// The number that every other of the type is at most.
fn highest(dtype: DType) -> Element {
    match dtype.is_float() {
        true => Element::Float(f64::INFINITY),
        false => Element::Int(dtype.int_range().1),
    }
}
