//! Sequences and optionals: lists of tensors whose lengths are known while importing, so that no node is left of them.
//!
//! ```text
//! s = SequenceConstruct(a, b); y = SequenceAt(s, 1)   =>   y = b
//! o = Optional(a); y = OptionalGetElement(o)          =>   y = a
//! ```
//!
//! Invariant: a name stands for a tensor, a list of tensors, or nothing ([`Operand`]). Positions and lengths are known when the model is
//! imported, but for the position of one of several elements of the same type, which is gathered.

use super::Importer;
use super::control::{Holder, broken, stacked, without_axis};
use crate::build::Turn;
use crate::error::Code;
use crate::scope::{Binding, Operand};
use crate::site::{Site, Stop, dim_help, fault, malformed};
use egret_ir::{DType, Dim, Element, Op, Tensor, ValueId};

/// The operators; `Identity` of what is no tensor is another.
pub(crate) const OPERATORS: &[&str] = &[
    "ConcatFromSequence",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "SequenceMap",
    "SplitToSequence",
];

/// Elements of a sequence at most, since each is a value of the graph; so long a list is better a tensor.
pub(crate) const MOST_ELEMENTS: i64 = 4096;

/// Imports one of the operators.
pub(super) fn import<'m>(importer: &mut Importer<'m>, holder: &Holder<'_, 'm>) -> Result<Vec<Binding<'m>>, Stop> {
    importer.restart(holder);
    if holder.node.op_type == "SequenceMap" {
        return mapped(importer, holder);
    }
    let n = &mut importer.site(holder);
    let first = holder.given.first().unwrap_or(&Operand::Nothing);
    let made = match holder.node.op_type.as_str() {
        "SequenceEmpty" => Operand::List(vec![]),
        "SequenceConstruct" => Operand::List(n.inputs()?),
        "SequenceInsert" => Operand::List(inserted(n, list(holder)?)?),
        "SequenceErase" => Operand::List(erased(n, list(holder)?)?),
        "SequenceAt" => Operand::Tensor(element(n, list(holder)?)?),
        "SequenceLength" => constant(n, DType::I64, Element::Int(list(holder)?.len() as i128)),
        "SplitToSequence" => Operand::List(split(n)?),
        "ConcatFromSequence" => Operand::Tensor(joined(n, list(holder)?)?),
        "OptionalHasElement" => constant(n, DType::Bool, Element::Bool(*first != Operand::Nothing)),
        "OptionalGetElement" if *first == Operand::Nothing => {
            return Err(malformed(Code::Operand, "`OptionalGetElement` is given an optional that is empty"));
        }
        _ => first.clone(),
    };
    Ok(vec![Binding::Is(made)])
}

/// The results of a body for every element of one or several sequences of the same length; tensors are the same for all.
fn mapped<'m>(importer: &mut Importer<'m>, holder: &Holder<'_, 'm>) -> Result<Vec<Binding<'m>>, Stop> {
    let (body, length) = (holder.graph("body")?, list(holder)?.len());
    let lengths = holder.given.iter().filter(|operand| matches!(operand, Operand::List(_))).map(|operand| operand.values().len());
    if let Some(other) = lengths.clone().find(|&other| other != length) {
        return Err(malformed(Code::Shape, format!("`SequenceMap` is given a sequence of {length} elements and one of {other}")));
    }
    let mut results = vec![vec![]; body.output.len()];
    for i in 0..length {
        let input = |operand: &Operand| match operand {
            Operand::List(values) => Operand::Tensor(values[i]),
            other => other.clone(),
        };
        let inputs: Vec<ValueId> = holder.given.iter().filter_map(|operand| input(operand).tensor()).collect();
        let Some(outputs) = importer.step(holder, body, Turn::Known(i as i64), &inputs)? else { return Ok(broken(holder)) };
        results.iter_mut().zip(outputs).for_each(|(results, output)| results.push(output));
    }
    Ok(results.into_iter().map(|values| Binding::Is(Operand::List(values))).collect())
}

fn constant(n: &mut Site, dtype: DType, element: Element) -> Operand {
    Operand::Tensor(n.build.constant(Tensor::scalar(dtype, element)))
}

/// The sequence that stands first.
fn list<'h>(holder: &Holder<'h, '_>) -> Result<&'h [ValueId], Stop> {
    match holder.given.first() {
        Some(Operand::List(values)) => Ok(values),
        other => {
            let found = other.unwrap_or(&Operand::Nothing);
            let message = format!("`{}` needs a sequence as its input 0 (counted from 0), found {found}", holder.node.op_type);
            Err(malformed(Code::ValueKind, message))
        }
    }
}

/// The position below `end` that an input says, counted from the sequence's end if negative.
fn position(n: &Site, input: usize, length: usize, end: usize) -> Result<usize, Stop> {
    let given = n.numbers(input, "the position in a sequence")?;
    let from_start = |&at: &i64| usize::try_from(if at < 0 { at.checked_add(length as i64)? } else { at }).ok();
    let at = given.first().and_then(from_start).filter(|&at| at < end);
    at.ok_or_else(|| malformed(Code::Operand, format!("`{}` at {given:?} of a sequence of {length}", n.operator)))
}

fn inserted(n: &mut Site, list: &[ValueId]) -> Result<Vec<ValueId>, Stop> {
    let mut list = list.to_vec();
    let at = match n.optional(2) {
        Some(_) => position(n, 2, list.len(), list.len() + 1)?,
        None => list.len(),
    };
    if list.len() as i64 >= MOST_ELEMENTS {
        return Err(too_long(n, list.len() as i64 + 1));
    }
    list.insert(at, n.input(1)?);
    Ok(list)
}

fn erased(n: &mut Site, list: &[ValueId]) -> Result<Vec<ValueId>, Stop> {
    let mut list = list.to_vec();
    let at = match n.optional(1) {
        Some(_) => Some(position(n, 1, list.len(), list.len())?),
        None => list.len().checked_sub(1),
    };
    list.remove(at.ok_or_else(|| malformed(Code::Operand, "`SequenceErase` of an empty sequence"))?);
    Ok(list)
}

/// One element; one of elements of the same type is gathered where data says which.
fn element(n: &mut Site, list: &[ValueId]) -> Result<ValueId, Stop> {
    let at = n.input(1)?;
    let alike = !list.is_empty() && list.windows(2).all(|pair| n.ty(pair[0]) == n.ty(pair[1]));
    if n.build.contents(at).is_some() || !alike {
        return Ok(list[position(n, 1, list.len(), list.len())?]);
    }
    let rows = stacked(n, list, 0)?;
    let at = n.reshape(at, [])?;
    n.op(Op::gather { axis: 0 }, &[rows, at])
}

/// The parts of a tensor along an axis: of the sizes that are given, of one size (the last may be smaller), or of size 1.
fn split(n: &mut Site) -> Result<Vec<ValueId>, Stop> {
    let x = n.input(0)?;
    let axis = n.axis_or(0, x)?;
    let keeps = n.int_or("keepdims", 1)? != 0;
    let dim = n.dims(x)[axis].clone();
    let extent = dim.as_const().ok_or_else(|| {
        let message = format!("`SplitToSequence` splits an axis of extent {dim}, which must be a number");
        fault(Code::DataDependent, message, dim_help(&dim.symbols()))
    })?;
    let given = n.optional(1);
    let sizes = match given {
        Some(given) => sizes(n, n.numbers(1, "the size of the parts")?, n.rank(given) == 0, extent)?,
        None => sizes(n, vec![1], true, extent)?,
    };
    if given.is_none() && !keeps {
        return (0..extent).map(|at| without_axis(n, x, axis, at)).collect();
    }
    let mut end = 0;
    let part = |size: i64| {
        end += size;
        n.slice(x, axis, Dim::from(end - size), Dim::from(size))
    };
    sizes.into_iter().map(part).collect()
}

/// The sizes of all parts of an axis, where `given` lists them or says that of each.
fn sizes(n: &Site, given: Vec<i64>, is_each: bool, extent: i64) -> Result<Vec<i64>, Stop> {
    let wrong = || malformed(Code::Shape, format!("`SplitToSequence` has parts of {given:?}, which do not add up to {extent}"));
    let each = given.first().copied().filter(|_| is_each);
    if each.is_some_and(|size| size < 1) {
        return Err(wrong());
    }
    let count = each.map_or(given.len() as i64, |size| (extent - 1) / size + 1);
    if count > MOST_ELEMENTS {
        return Err(too_long(n, count));
    }
    let sizes = match each {
        Some(size) => (0..count).map(|i| size.min(extent - i * size)).filter(|&size| size > 0).collect(),
        None => given.clone(),
    };
    let total = sizes.iter().try_fold(0i64, |sum, &size| sum.checked_add(size).filter(|_| size >= 0));
    if total == Some(extent) { Ok(sizes) } else { Err(wrong()) }
}

fn too_long(n: &Site, length: i64) -> Stop {
    let message = format!("`{}` makes a sequence of {length}, expected at most {MOST_ELEMENTS}", n.operator);
    fault(Code::ValueKind, message, "export the model with one tensor in place of so long a list")
}

/// The elements joined along an axis, or stacked along a new one.
fn joined(n: &mut Site, list: &[ValueId]) -> Result<ValueId, Stop> {
    let axis = n.int_or("axis", 0)?;
    let &first = list.first().ok_or_else(|| malformed(Code::Operand, "`ConcatFromSequence` of an empty sequence"))?;
    if n.flag("new_axis")? {
        return stacked(n, list, axis);
    }
    let axis = n.axis(axis, n.rank(first))?;
    n.concat(list, axis)
}
