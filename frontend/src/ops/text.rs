//! Operators that make strings or look into them.
//!
//! ```text
//! y = StringNormalizer(x), LOWER, without `a`     =>    l = text[what=lower](x), its elements that are none of the words, in small letters
//! y = Cast(x) of strings to numbers               =>    y = text[what=parse, to=f32](x)
//! ```
//!
//! Letters change case as Unicode says, whatever `locale` does.

use crate::error::Code;
use crate::site::{Outcome, Site, Stop, fault, malformed};
use egret_ir::attr::TextTask;
use egret_ir::ops::text::pattern;
use egret_ir::{DType, Dim, Op, Tensor, ValueId, broadcast};

fn text(n: &mut Site, what: TextTask, operands: &[ValueId]) -> Result<ValueId, Stop> {
    n.op(Op::text { what, to: DType::Str }, operands)
}

fn strings(n: &Site, index: usize) -> Result<ValueId, Stop> {
    let x = n.input(index)?;
    match n.dtype(x) {
        DType::Str => Ok(x),
        _ => Err(malformed(Code::ElementType, format!("`{}` expects strings, found {}", n.operator, n.ty(x)))),
    }
}

/// Strings of both inputs, one behind the other.
pub(crate) fn concat(n: &mut Site) -> Outcome {
    let (x, y) = (strings(n, 0)?, strings(n, 1)?);
    let dims = broadcast(&[&n.dims(x), &n.dims(y)]).map_err(|problem| malformed(Code::Shape, problem))?;
    let (x, y) = (n.broadcast(x, dims.clone())?, n.broadcast(y, dims)?);
    Ok(vec![text(n, TextTask::Concat, &[x, y])?])
}

/// The parts of strings along a new axis, and how many each has.
pub(crate) fn split(n: &mut Site) -> Outcome {
    let x = strings(n, 0)?;
    let delimiter = match n.string("delimiter")? {
        Some(given) => given,
        None => n.own_string("")?,
    };
    let delimiter = n.build.constant(delimiter);
    let most = n.int_or("maxsplit", -1)?;
    let count = n.build.fresh_for_node("count");
    n.ops(Op::text_split { count, most }, &[x, delimiter])
}

/// Whether strings fit an expression from end to end.
pub(crate) fn regex_full_match(n: &mut Site) -> Outcome {
    let x = strings(n, 0)?;
    let given = n.text("pattern")?.unwrap_or_default();
    if let Err(problem) = pattern(&given) {
        return Err(n.refused("pattern", &given, format!("`RegexFullMatch`: {problem}")));
    }
    let pattern = n.own_string(&given)?;
    let pattern = n.build.constant(pattern);
    Ok(vec![n.op(Op::text { what: TextTask::Match, to: DType::Bool }, &[x, pattern])?])
}

/// x: `[c]` or `[1, c]` -> those of its strings that are no stop words, in small or capital letters; one empty string if there is none.
pub(crate) fn normalizer(n: &mut Site) -> Outcome {
    n.without_effect(&["locale"]);
    let x = strings(n, 0)?;
    let case =
        n.word("case_change_action", "NONE", &[("NONE", None), ("LOWER", Some(TextTask::Lower)), ("UPPER", Some(TextTask::Upper))])?;
    let stops = n.strings("stopwords")?.filter(|words| words.count() > 0);
    let is_row = match n.dims(x).as_slice() {
        [_] => false,
        [one, _] if one.is(1) => true,
        _ => return Err(malformed(Code::Shape, format!("`StringNormalizer` expects [c] or [1, c], found {}", n.ty(x)))),
    };
    let count = n.ty(x).count();
    let flat = n.reshape(x, [count])?;
    let kept = match stops {
        Some(stops) => without(n, flat, stops)?,
        None => flat,
    };
    let y = case.map_or(Ok(kept), |case| text(n, case, &[kept]))?;
    let y = one_at_least(n, y)?;
    let count = n.dims(y)[0].clone();
    Ok(vec![if is_row { n.reshape(y, [Dim::ONE, count])? } else { y }])
}

/// The elements of a vector that are none of the words.
fn without(n: &mut Site, x: ValueId, words: Tensor) -> Result<ValueId, Stop> {
    let words = n.build.constant(words);
    let (keys, words) = match n.flag("is_case_sensitive")? {
        true => (x, words),
        false => (text(n, TextTask::Lower, &[x])?, text(n, TextTask::Lower, &[words])?),
    };
    let count = n.dims(x)[0].clone();
    let column = n.reshape(keys, [count.clone(), Dim::ONE])?;
    let equal = n.op(Op::eq, &[column, words])?;
    let equal = n.cast(equal, DType::I32)?;
    let hits = n.op(Op::reduce_max { axes: vec![1] }, &[equal])?;
    let hits = n.reshape(hits, [count])?;
    let kept = n.with_number(Op::eq, hits, 0.0)?;
    let found = n.build.fresh_for_node("count");
    let places = n.op(Op::non_zero { count: found.clone() }, &[kept])?;
    let places = n.reshape(places, [found])?;
    n.op(Op::gather { axis: 0 }, &[x, places])
}

/// A vector, or one empty string in place of none.
fn one_at_least(n: &mut Site, x: ValueId) -> Result<ValueId, Stop> {
    let count = n.dims(x)[0].clone();
    if count.as_const().is_some_and(|count| count > 0) {
        return Ok(x);
    }
    let empty = n.own_string("")?;
    let empty = n.build.constant(empty);
    let empty = n.reshape(empty, [Dim::ONE])?;
    let longer = n.concat(&[x, empty], 0)?;
    n.slice(longer, 0, Dim::ZERO, count.maximum(&Dim::ONE))
}

/// `Cast` between strings and numbers. Numbers are written as their shortest decimals, truth values as 0 and 1.
pub(crate) fn converted(n: &mut Site, x: ValueId, to: DType) -> Result<ValueId, Stop> {
    let from = n.dtype(x);
    if to == DType::Str {
        let held = match from {
            DType::F64 | DType::F32 | DType::I64 | DType::U64 => from,
            small if small.is_float() => DType::F32,
            _ => DType::I64,
        };
        let x = n.cast(x, held)?;
        return text(n, TextTask::Format, &[x]);
    }
    let read = match to {
        DType::F64 | DType::Bool => DType::F64,
        DType::U64 => return Err(fault(Code::ElementType, format!("`{}` does not make u64 of str", n.operator), "cast to int64 instead")),
        float if float.is_float() => DType::F32,
        _ => DType::I64,
    };
    let number = n.op(Op::text { what: TextTask::Parse, to: read }, &[x])?;
    n.cast(number, to)
}
