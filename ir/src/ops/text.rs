//! `text` and `text_split`: strings made of strings or numbers, and what is asked of them.
//!
//! The runtime has the same functions; tests compare the two.

use crate::attr::TextTask;
use crate::op::Inferred;
use crate::ops::check;
use crate::tensor::{Element, Tensor};
use crate::ty::{DType, TensorType};
use regex_lite::Regex;
use std::sync::Arc;

/// The numbers that strings are read as.
const PARSED: [DType; 3] = [DType::F64, DType::F32, DType::I64];

/// The numbers that strings are made of.
const FORMATTED: [DType; 4] = [DType::F64, DType::F32, DType::I64, DType::U64];

/// The shape stays.
///
/// # Errors
/// When an operand is missing or has another type than the task takes.
pub fn infer(what: &TextTask, to: &DType, operands: &[&TensorType]) -> Inferred {
    let x = operands[0];
    let second = if matches!(what, TextTask::Concat | TextTask::Match) { 2 } else { 1 };
    if operands.len() != second {
        return Err(format!("expects {second} operands, found {}", operands.len()));
    }
    let result = match what {
        TextTask::Parse if PARSED.contains(to) => *to,
        TextTask::Match if *to == DType::Bool => DType::Bool,
        TextTask::Concat | TextTask::Lower | TextTask::Upper | TextTask::Format if *to == DType::Str => DType::Str,
        _ => return Err(format!("expects another type than {to} as `to`")),
    };
    match what {
        TextTask::Format if FORMATTED.contains(&x.dtype) => {}
        TextTask::Format => return Err(format!("expects `x` of f64, f32, i64 or u64, found {x}")),
        _ => string("x", x)?,
    }
    match (what, operands.get(1)) {
        (TextTask::Concat, Some(y)) => {
            string("y", y)?;
            check::rank("y", y, x.rank())?;
            x.dims.iter().zip(&y.dims).try_for_each(|(a, b)| check::agree("the extents of `x` and `y`", a, b).map(|_| ()))?;
        }
        (TextTask::Match, Some(pattern)) => {
            string("pattern", pattern)?;
            check::rank("pattern", pattern, 0)?;
        }
        _ => {}
    }
    Ok(vec![x.with_dtype(result)])
}

/// That the operand `name` holds strings.
pub(super) fn string(name: &str, x: &TensorType) -> Result<(), String> {
    if x.dtype == DType::Str { Ok(()) } else { Err(format!("expects `{name}` of str, found {x}")) }
}

/// Element by element.
///
/// # Errors
/// When a pattern is none, or a string is no number.
pub fn eval(what: &TextTask, to: &DType, operands: &[&Tensor], _results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let x = operands[0];
    let shape = x.shape().to_vec();
    if *what == TextTask::Format {
        let texts: Vec<String> = x.elements().map(|e| formatted(e, x.dtype())).collect();
        return Ok(vec![Tensor::from_texts(shape, &texts)?]);
    }
    let texts = x.texts()?;
    let mapped = |f: &dyn Fn(&str) -> String| Tensor::from_texts(shape.clone(), &texts.iter().map(|text| f(text)).collect::<Vec<_>>());
    let made = match what {
        TextTask::Concat => {
            let joined = texts.iter().zip(operands[1].texts()?).map(|(a, b)| format!("{a}{b}"));
            Tensor::from_texts(shape, &joined.collect::<Vec<_>>())?
        }
        TextTask::Lower => mapped(&|text| text.to_lowercase())?,
        TextTask::Upper => mapped(&|text| text.to_uppercase())?,
        TextTask::Match => {
            let regex = pattern(&operands[1].texts()?.concat())?;
            Tensor::from_elements(DType::Bool, shape, texts.iter().map(|text| Element::Bool(regex.is_match(text))))
        }
        TextTask::Parse | TextTask::Format => {
            let numbers = texts.iter().map(|text| parsed(text, *to)).collect::<Result<Vec<Element>, String>>()?;
            Tensor::from_elements(*to, shape, numbers)
        }
    };
    Ok(vec![made])
}

/// The expression that matches whole strings.
///
/// # Errors
/// A sentence, if the pattern is none that can be read.
pub fn pattern(pattern: &str) -> Result<Regex, String> {
    let read = Regex::new(pattern).and_then(|_| Regex::new(&format!("\\A(?:{pattern})\\z")));
    read.map_err(|e| format!("{pattern:?} is not read as a regular expression: {e}"))
}

/// A string as a number: what Rust reads as one, `INF` and `NaN` in any case; a fraction is cut off where an integer is wanted.
fn parsed(text: &str, to: DType) -> Result<Element, String> {
    let text = text.trim();
    let number = match to {
        DType::F32 => text.parse().ok().map(|v: f32| Element::Float(v.into())),
        DType::F64 => text.parse().ok().map(Element::Float),
        _ => match text.parse::<i64>() {
            Ok(v) => Some(Element::Int(v.into())),
            Err(_) => text.parse().ok().map(|v: f64| Element::Int((v as i64).into())),
        },
    };
    number.ok_or_else(|| format!("{text:?} is not a number"))
}

/// The shortest decimal, without an exponent, that reads back as this number.
fn formatted(value: Element, dtype: DType) -> String {
    match value {
        Element::Float(v) if v.is_nan() => "NaN".to_string(),
        Element::Float(v) if v.is_infinite() => if v > 0.0 { "INF" } else { "-INF" }.to_string(),
        Element::Float(v) if dtype == DType::F32 => (v as f32).to_string(),
        Element::Float(v) => v.to_string(),
        other => other.to_string(),
    }
}

/// The parts of a string between delimiters, of which so many count; by white space where the delimiter is empty.
pub(super) fn parts(text: &str, delimiter: &str, most: i64) -> Vec<Arc<str>> {
    let most = usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1));
    if !delimiter.is_empty() {
        return text.splitn(most, delimiter).map(Arc::from).collect();
    }
    let mut found = vec![];
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = if found.len() + 1 == most { None } else { rest.find(char::is_whitespace) };
        let (part, behind) = rest.split_at(end.unwrap_or(rest.len()));
        found.push(Arc::from(part));
        rest = behind.trim_start();
    }
    found
}
