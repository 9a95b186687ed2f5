//! Operators whose results have shapes that data decides, and shapes that are computed from data.
//!
//! What a shape needs of data becomes extents with names of their own; the model finds their numbers when it runs:
//!
//! ```text
//! places = NonZero(x)       =>    holds = cast[to = bool](x), places = non_zero[count = places](holds)
//! y = Expand(x, s)          =>    e = extents[values = [s.0, s.1]](s), y = broadcast[shape = [s.0, s.1]](x)
//! ```
//!
//! Invariant: what is known when the model is imported stays known; only the rest is left to run time.

use crate::error::Code;
use crate::site::{Outcome, Site, Stop, fault, malformed};
use egret_ir::{DType, Dim, Element, Op, Tensor, ValueId};

/// Shapes that are computed from data have at most so many axes: far more than tensors have.
const MOST_AXES: i64 = 64;

/// Lists are joined of lists at most so deep where their parts are looked at: exporters write one or two levels, a hostile file any.
const DEEPEST: usize = 8;

/// The integer contents of an input that decides over shapes: as they are known, or as extents that the model finds. Those must not be
/// negative then.
pub(crate) fn contents(n: &mut Site, index: usize, what: &str) -> Result<Vec<Dim>, Stop> {
    let value = n.input(index)?;
    match n.build.contents(value) {
        Some(known) => Ok(known),
        None if is_list(n, value) => of_data(n, value),
        None => n.contents(index, what),
    }
}

/// Whether a value is a list of integers of known length.
pub(crate) fn is_list(n: &Site, value: ValueId) -> bool {
    let ty = n.ty(value);
    ty.dtype.is_int() && ty.rank() <= 1 && ty.count().as_const().is_some_and(|count| count <= MOST_AXES)
}

/// The elements of a list as extents: what is known of its parts, and names for the others.
pub(crate) fn of_data(n: &mut Site, list: ValueId) -> Result<Vec<Dim>, Stop> {
    let wanted = known_parts(n, list, DEEPEST);
    found(n, list, wanted)
}

/// The elements of a list, as far as the lists tell that it is joined of, `depth` levels down.
fn known_parts(n: &Site, list: ValueId, depth: usize) -> Vec<Option<Dim>> {
    if let Some(known) = n.build.contents(list) {
        return known.into_iter().map(Some).collect();
    }
    let count = n.ty(list).count().as_const().unwrap_or(0) as usize;
    match n.build.graph.producer(list).map(|node| n.build.graph.node(node)) {
        Some(node) if depth > 0 && matches!(node.op, Op::concat { .. } | Op::reshape { .. }) => {
            let parts: Vec<Option<Dim>> = node.operands.iter().flat_map(|&part| known_parts(n, part, depth - 1)).collect();
            if parts.len() == count { parts } else { vec![None; count] }
        }
        _ => vec![None; count],
    }
}

/// The elements of a list as extents, with names for those that are not given. Numbers that are given are looked at again at run time;
/// extents that are given were found before, and what finds an extent is the only one to do so.
fn found(n: &mut Site, list: ValueId, given: Vec<Option<Dim>>) -> Result<Vec<Dim>, Stop> {
    let name = n.build.graph.value(list).name.to_string();
    let single = given.len() == 1;
    let open: Vec<usize> = (0..given.len()).filter(|&i| given[i].as_ref().is_none_or(|d| d.as_const().is_some())).collect();
    let named = |n: &mut Site, i: usize| n.build.fresh_symbol(&if single { name.clone() } else { format!("{name}.{i}") });
    let values: Vec<Dim> = given.into_iter().enumerate().map(|(i, given)| given.unwrap_or_else(|| named(n, i))).collect();
    let list = n.cast(list, DType::I64)?;
    let list = n.reshape(list, [Dim::from(values.len())])?;
    let list = elements(n, list, &open)?;
    n.op(Op::extents { values: open.iter().map(|&i| values[i].clone()).collect() }, &[list])?;
    Ok(values)
}

/// Some elements of a list, in their order.
fn elements(n: &mut Site, list: ValueId, places: &[usize]) -> Result<ValueId, Stop> {
    if n.dims(list)[0].is(places.len() as i64) {
        return Ok(list);
    }
    let indices: Vec<i64> = places.iter().map(|&i| i as i64).collect();
    let indices = n.build.constant(Tensor::from_i64s(vec![places.len()], &indices));
    n.op(Op::gather { axis: 0 }, &[list, indices])
}

// ---- operators

/// The places of all elements but zeros, one column each.
pub(crate) fn non_zero(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    if let Some(known) = n.build.tensor(x).filter(|x| !x.shape().is_empty()) {
        let places: Vec<usize> = (0..known.count()).filter(|&i| known.get(i).as_bool()).collect();
        return Ok(vec![n.build.constant(columns(known.shape(), &places))]);
    }
    let x = if n.rank(x) == 0 { n.reshape(x, [Dim::ONE])? } else { x };
    Ok(vec![places(n, x)?])
}

/// The indices of some places, one column each.
fn columns(shape: &[usize], places: &[usize]) -> Tensor {
    let mut indices = vec![];
    for axis in 0..shape.len() {
        let stride: usize = shape[axis + 1..].iter().product();
        indices.extend(places.iter().map(|place| (place / stride % shape[axis]) as i64));
    }
    Tensor::from_i64s(vec![shape.len(), places.len()], &indices)
}

/// Where `x` is not zero: i64[rank, count].
fn places(n: &mut Site, x: ValueId) -> Result<ValueId, Stop> {
    let holds = n.cast(x, DType::Bool)?;
    let count = n.build.fresh_for_node("count");
    n.op(Op::non_zero { count }, &[holds])
}

/// The slices along an axis (or, without one, the elements) whose condition holds.
pub(crate) fn compress(n: &mut Site) -> Outcome {
    let (x, condition) = (n.input(0)?, n.input(1)?);
    let (x, axis) = match n.int("axis")? {
        Some(axis) => (x, n.axis(axis, n.rank(x))?),
        None => (flat(n, x)?, 0),
    };
    let condition = n.of_rank(condition, 1, "a condition")?;
    let places = match n.build.tensor(condition) {
        Some(known) => {
            let places: Vec<i64> = known.elements().zip(0..).filter(|(holds, _)| holds.as_bool()).map(|(_, i)| i).collect();
            n.build.constant(Tensor::from_i64s(vec![places.len()], &places))
        }
        None => {
            let places = places(n, condition)?;
            let count = n.dims(places)[1].clone();
            n.reshape(places, [count])?
        }
    };
    Ok(vec![n.op(Op::gather { axis }, &[x, places])?])
}

fn flat(n: &mut Site, x: ValueId) -> Result<ValueId, Stop> {
    let count = n.ty(x).count();
    n.reshape(x, [count])
}

/// Outputs: the different slices along an axis (or, without one, elements), where each stands first, which of them each slice of the
/// input is, and how often each stands there.
pub(crate) fn unique(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let (x, axis) = match n.int("axis")? {
        Some(axis) => (x, n.axis(axis, n.rank(x))?),
        None => (flat(n, x)?, 0),
    };
    let sorted = n.int_or("sorted", 1)? != 0;
    let to = match n.dtype(x) {
        t if t.is_float() => DType::F64,
        DType::Str => DType::Str,
        DType::U64 => {
            return Err(fault(Code::ElementType, "`Unique` of u64 is not supported", "convert the tensor to another type before"));
        }
        _ => DType::I64,
    };
    let mut perm: Vec<usize> = (0..n.rank(x)).filter(|&a| a != axis).collect();
    perm.insert(0, axis);
    let (rows, rest) = (n.dims(x)[axis].clone(), perm[1..].iter().map(|&a| n.dims(x)[a].clone()).product());
    let front = n.transpose(x, perm)?;
    let matrix = n.reshape(front, [rows, rest])?;
    let matrix = n.cast(matrix, to)?;
    let count = n.build.fresh_for_node("count");
    let made = n.ops(Op::unique { count, sorted }, &[matrix])?;
    let y = n.op(Op::gather { axis }, &[x, made[0]])?;
    Ok([&[y], &made[..]].concat())
}

/// Boxes that overlap no better one, each as a batch, a class and a box.
pub(crate) fn non_max_suppression(n: &mut Site) -> Outcome {
    let (boxes, scores) = (n.input(0)?, n.input(1)?);
    let given = [n.optional(2), n.optional(3), n.optional(4)];
    let centers = match n.int_or("center_point_box", 0)? {
        0 => false,
        1 => true,
        other => return Err(n.refused("center_point_box", other, "`center_point_box` is 0 or 1")),
    };
    let mut operands = vec![n.cast(boxes, DType::F32)?, n.cast(scores, DType::F32)?];
    let defaults = [(DType::I64, Element::Int(0)), (DType::F32, Element::Float(0.0)), (DType::F32, Element::Float(f64::NEG_INFINITY))];
    for (given, (dtype, default)) in given.into_iter().zip(defaults) {
        operands.push(match given {
            Some(given) => {
                let given = n.cast(given, dtype)?;
                n.reshape(given, [])?
            }
            None => n.build.constant(Tensor::scalar(dtype, default)),
        });
    }
    let count = n.build.fresh_for_node("count");
    Ok(vec![n.op(Op::non_max_suppression { count, centers }, &operands)?])
}

// ---- shapes from data

/// A list of numbers, some of which are extents.
fn dims(n: &mut Site, values: &[Dim]) -> Result<ValueId, Stop> {
    n.op(Op::dims { values: values.to_vec() }, &[])
}

/// What `Reshape` makes of a shape that data decides: 0 takes the input's extent (unless `allow_zero`), -1 what is left.
pub(crate) fn reshaped(n: &mut Site, x: ValueId, shape: ValueId, allow_zero: bool) -> Result<Vec<Dim>, Stop> {
    let mut shape = n.cast(shape, DType::I64)?;
    let rank = n.dims(shape).first().and_then(Dim::as_const).unwrap_or(0) as usize;
    if !allow_zero {
        let own: Vec<Dim> = n.dims(x).into_iter().chain(std::iter::repeat(Dim::ZERO)).take(rank).collect();
        let (own, is_zero) = (dims(n, &own)?, n.with_number(Op::eq, shape, 0.0)?);
        shape = n.op(Op::select, &[is_zero, own, shape])?;
    }
    let is_left = n.with_number(Op::eq, shape, -1.0)?;
    let one = n.scalar(1.0, DType::I64);
    let others = n.op(Op::select, &[is_left, one, shape])?;
    let product = n.op(Op::reduce_prod { axes: vec![0] }, &[others])?;
    let product = n.with_number(Op::max, product, 1.0)?;
    let count = n.ty(x).count();
    let count = dims(n, &[count])?;
    let left = n.op(Op::div, &[count, product])?;
    let shape = n.op(Op::select, &[is_left, left, shape])?;
    of_data(n, shape)
}

/// What `Expand` makes of a shape that data decides.
pub(crate) fn expanded(n: &mut Site, x: ValueId, shape: ValueId) -> Result<Vec<Dim>, Stop> {
    let mut wanted = n.cast(shape, DType::I64)?;
    let mut own = n.dims(x);
    let length = n.dims(shape).first().and_then(Dim::as_const).unwrap_or(0) as usize;
    let rank = length.max(own.len());
    if length < rank {
        let ones = dims(n, &vec![Dim::ONE; rank - length])?;
        wanted = n.concat(&[ones, wanted], 0)?;
    }
    own.splice(..0, vec![Dim::ONE; rank - own.len()]);
    let (from, keeps) = (dims(n, &own)?, n.with_number(Op::eq, wanted, 1.0)?);
    let wanted = n.op(Op::select, &[keeps, from, wanted])?;
    let given = own.into_iter().map(|d| Some(d).filter(|d| d.as_const().is_some_and(|d| d != 1))).collect();
    found(n, wanted, given)
}

/// Where parts of some axes start and how many elements they have, for bounds that data decides.
pub(crate) fn bounds(n: &mut Site, extents: &[Dim], starts: ValueId, ends: ValueId, steps: &[i64]) -> Result<[Vec<Dim>; 2], Stop> {
    let extent = dims(n, extents)?;
    let step = n.build.constant(Tensor::from_i64s(vec![steps.len()], steps));
    let forwards = n.with_number(Op::lt, step, 0.0)?;
    let forwards = n.op(Op::not, &[forwards])?;
    let last = n.with_number(Op::sub, extent, 1.0)?;
    let highest = n.op(Op::select, &[forwards, extent, last])?;
    let (zero, before) = (n.scalar(0.0, DType::I64), n.scalar(-1.0, DType::I64));
    let lowest = n.op(Op::select, &[forwards, zero, before])?;
    let start = bound(n, starts, extent, zero, highest)?;
    let end = bound(n, ends, extent, lowest, highest)?;
    // ceil((end - start)/step), none if that is negative: step has the sign of what is rounded up.
    let length = n.op(Op::sub, &[end, start])?;
    let towards: Vec<i64> = steps.iter().map(|s| s - s.signum()).collect();
    let towards = n.build.constant(Tensor::from_i64s(vec![steps.len()], &towards));
    let length = n.op(Op::add, &[length, towards])?;
    let count = n.op(Op::div, &[length, step])?;
    let count = n.with_number(Op::max, count, 0.0)?;
    let start = n.with_number(Op::max, start, 0.0)?;
    Ok([of_data(n, start)?, of_data(n, count)?])
}

/// A bound counted from the start of its axis, held between `low` and `high`.
fn bound(n: &mut Site, at: ValueId, extent: ValueId, low: ValueId, high: ValueId) -> Result<ValueId, Stop> {
    let at = n.cast(at, DType::I64)?;
    let negative = n.with_number(Op::lt, at, 0.0)?;
    let from_end = n.op(Op::add, &[at, extent])?;
    let at = n.op(Op::select, &[negative, from_end, at])?;
    n.op(Op::clip, &[at, low, high])
}

/// How many numbers there are from `start` up to but without `limit`, by steps of `delta`.
pub(crate) fn range_count(n: &mut Site, [start, limit, delta]: [ValueId; 3]) -> Result<Dim, Stop> {
    let wide = if n.dtype(start).is_float() { n.dtype(start) } else { DType::I64 };
    let one = |n: &mut Site, x: ValueId| {
        let x = n.cast(x, wide)?;
        n.reshape(x, [Dim::ONE])
    };
    let (start, limit, delta) = (one(n, start)?, one(n, limit)?, one(n, delta)?);
    let length = n.op(Op::sub, &[limit, start])?;
    let count = if wide.is_float() { float_steps(n, length, delta)? } else { int_steps(n, length, delta)? };
    let count = n.with_number(Op::max, count, 0.0)?;
    let found = of_data(n, count)?;
    found.into_iter().next().ok_or_else(|| malformed(Code::Shape, "`Range` has no numbers"))
}

fn float_steps(n: &mut Site, length: ValueId, delta: ValueId) -> Result<ValueId, Stop> {
    let quotient = n.op(Op::div, &[length, delta])?;
    let count = n.op(Op::ceil, &[quotient])?;
    n.cast(count, DType::I64)
}

/// The quotient of integers, rounded up. A step of 0, which the standard forbids, counts as 1.
fn int_steps(n: &mut Site, length: ValueId, delta: ValueId) -> Result<ValueId, Stop> {
    let is_zero = n.with_number(Op::eq, delta, 0.0)?;
    let one = n.scalar(1.0, DType::I64);
    let delta = n.op(Op::select, &[is_zero, one, delta])?;
    let down = n.op(Op::div, &[length, delta])?;
    let whole = n.op(Op::mul, &[down, delta])?;
    let exact = n.op(Op::eq, &[whole, length])?;
    let (back, falls) = (n.with_number(Op::lt, length, 0.0)?, n.with_number(Op::lt, delta, 0.0)?);
    let opposed = n.op(Op::xor, &[back, falls])?;
    let stays = n.op(Op::or, &[exact, opposed])?;
    let up = n.op(Op::not, &[stays])?;
    let up = n.cast(up, DType::I64)?;
    n.op(Op::add, &[down, up])
}
