//! Strings made of strings or numbers, and what is asked of them.

use super::expect;
use crate::error::{Error, Result};
use crate::plan::DType;
use crate::program::Text;
use crate::strings::{Dictionary, handles};
use crate::tensor::{Tensor, TensorView};
use regex_lite::Regex;
use std::collections::BTreeSet;

/// Element by element; results have the shape of the first operand.
pub(super) fn text(what: Text, operands: &[TensorView<'_>], strings: &mut Dictionary) -> Result<Vec<Tensor>> {
    let x = operands[0];
    if what == Text::Format {
        let made = formatted(x)?;
        return Ok(vec![entered(x.shape(), &made, strings)?]);
    }
    let texts = read(x, strings)?;
    let made: Vec<String> = match what {
        Text::Concat => {
            let others = read(operands[1], strings)?;
            if others.len() != texts.len() {
                return Err(Error::Usage(format!("{} strings are joined with {}", texts.len(), others.len())));
            }
            texts.iter().zip(others).map(|(a, b)| format!("{a}{b}")).collect()
        }
        Text::Lower => texts.iter().map(|text| text.to_lowercase()).collect(),
        Text::Upper => texts.iter().map(|text| text.to_uppercase()).collect(),
        Text::Match => {
            let regex = pattern(one(operands[1], strings)?)?;
            let bytes: Vec<u8> = texts.iter().map(|text| regex.is_match(text).into()).collect();
            return Ok(vec![Tensor::from_bytes(DType::Bool, x.shape(), &bytes)?]);
        }
        Text::Parse(to) => return Ok(vec![parsed(x.shape(), &texts, to)?]),
        Text::Format => vec![],
    };
    Ok(vec![entered(x.shape(), &made, strings)?])
}

/// The parts of strings, side by side, and how many each string has.
pub(super) fn split(operands: &[TensorView<'_>], most: i64, strings: &mut Dictionary) -> Result<Vec<Tensor>> {
    let x = operands[0];
    let delimiter = one(operands[1], strings)?;
    let parts: Vec<Vec<&str>> = read(x, strings)?.into_iter().map(|text| parts(text, delimiter, most)).collect();
    let counts: Vec<i64> = parts.iter().map(|parts| parts.len() as i64).collect();
    let width = parts.iter().map(Vec::len).max().unwrap_or(0);
    let shape = [x.shape(), &[width]].concat();
    // The memory comes first: many strings may each have as many parts as the longest.
    let mut rows = Tensor::zeros(DType::Str, &shape)?;
    let made: Vec<Vec<String>> = parts.into_iter().map(|parts| parts.into_iter().map(str::to_string).collect()).collect();
    for (row, parts) in rows.bytes_mut().chunks_exact_mut(8 * width.max(1)).zip(made) {
        for (element, part) in row.as_chunks_mut().0.iter_mut().zip(parts) {
            *element = strings.enter(&part)?.to_le_bytes();
        }
    }
    Ok(vec![rows, Tensor::from_slice(x.shape(), &counts)?])
}

/// The place of each string among the different ones, ordered by their bytes.
pub(super) fn ranks(x: TensorView<'_>, strings: &Dictionary) -> Result<Tensor> {
    let texts = read(x, strings)?;
    let order: Vec<&str> = texts.iter().copied().collect::<BTreeSet<&str>>().into_iter().collect();
    let ranks: Vec<i64> = texts.iter().map(|text| order.partition_point(|other| other < text) as i64).collect();
    Tensor::from_slice(x.shape(), &ranks)
}

/// The strings that a tensor's handles stand for.
fn read<'s>(x: TensorView<'_>, strings: &'s Dictionary) -> Result<Vec<&'s str>> {
    expect(x, DType::Str)?;
    handles(x.bytes()).map(|handle| strings.text(handle)).collect()
}

/// The only string of a tensor.
fn one<'s>(x: TensorView<'_>, strings: &'s Dictionary) -> Result<&'s str> {
    read(x, strings)?.first().copied().ok_or_else(|| Error::Usage("expected a string, found none".to_string()))
}

/// A tensor of new strings.
fn entered(shape: &[usize], made: &[String], strings: &mut Dictionary) -> Result<Tensor> {
    let mut tensor = Tensor::zeros(DType::Str, shape)?;
    for (element, text) in tensor.bytes_mut().as_chunks_mut().0.iter_mut().zip(made) {
        *element = strings.enter(text)?.to_le_bytes();
    }
    Ok(tensor)
}

/// The expression that matches whole strings.
fn pattern(pattern: &str) -> Result<Regex> {
    let read = Regex::new(pattern).and_then(|_| Regex::new(&format!("\\A(?:{pattern})\\z")));
    read.map_err(|e| Error::Usage(format!("{pattern:?} is not read as a regular expression: {e}")))
}

/// Strings as numbers: what Rust reads as one, `INF` and `NaN` in any case; a fraction is cut off where an integer is wanted.
fn parsed(shape: &[usize], texts: &[&str], to: DType) -> Result<Tensor> {
    match to {
        DType::F32 => Tensor::from_slice(shape, &numbers(texts, |text| text.parse::<f32>().ok())?),
        DType::F64 => Tensor::from_slice(shape, &numbers(texts, |text| text.parse::<f64>().ok())?),
        DType::I64 => {
            Tensor::from_slice(shape, &numbers(texts, |text| text.parse().ok().or_else(|| text.parse().ok().map(|v: f64| v as i64)))?)
        }
        other => Err(Error::Usage(format!("expected f32, f64 or i64 to read strings as, found {other}"))),
    }
}

fn numbers<T>(texts: &[&str], read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
    texts.iter().map(|text| read(text.trim()).ok_or_else(|| Error::Usage(format!("{:?} is not a number", text.trim())))).collect()
}

/// The shortest decimals, without an exponent, that read back as the numbers.
fn formatted(x: TensorView<'_>) -> Result<Vec<String>> {
    let bytes = x.bytes();
    Ok(match x.dtype() {
        DType::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).map(|v| float(v.into(), v.to_string())).collect(),
        DType::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).map(|v| float(v, v.to_string())).collect(),
        DType::I64 => bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b).to_string()).collect(),
        DType::U64 => handles(bytes).map(|v| v.to_string()).collect(),
        other => return Err(Error::Usage(format!("expected elements of type f32, f64, i64 or u64, found {other}"))),
    })
}

fn float(value: f64, decimal: String) -> String {
    match value {
        v if v.is_nan() => "NaN".to_string(),
        f64::INFINITY => "INF".to_string(),
        f64::NEG_INFINITY => "-INF".to_string(),
        _ => decimal,
    }
}

/// The parts of a string between delimiters, of which so many count (all, if negative); by white space where the delimiter is empty.
fn parts<'t>(text: &'t str, delimiter: &str, most: i64) -> Vec<&'t str> {
    let most = usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1));
    if !delimiter.is_empty() {
        return text.splitn(most, delimiter).collect();
    }
    let mut found = vec![];
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = if found.len() + 1 == most { None } else { rest.find(char::is_whitespace) };
        let (part, behind) = rest.split_at(end.unwrap_or(rest.len()));
        found.push(part);
        rest = behind.trim_start();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tensor of strings, and a dictionary that knows them.
    fn given(texts: &[&str]) -> (Tensor, Dictionary) {
        let mut strings = Dictionary::default();
        texts.iter().for_each(|text| {
            strings.enter(text).unwrap();
        });
        (Tensor::from_strings(&[texts.len()], texts).unwrap(), strings)
    }

    fn made(what: Text, texts: &[&str]) -> Result<Vec<String>> {
        let (x, mut strings) = given(texts);
        let mut made = text(what, &[x.view(), x.view()], &mut strings)?.remove(0);
        made.name_strings(&strings)?;
        Ok(made.strings()?.into_iter().map(str::to_string).collect())
    }

    #[test]
    fn strings_are_made_of_strings() {
        assert_eq!(made(Text::Concat, &["a", "", "ß"]).unwrap(), ["aa", "", "ßß"]);
        assert_eq!(made(Text::Lower, &["ÄX", "σΣ"]).unwrap(), ["äx", "σς"]);
        assert_eq!(made(Text::Upper, &["ß", "x"]).unwrap(), ["SS", "X"]);
    }

    #[test]
    fn parts_are_those_of_python() {
        assert_eq!(parts(" a b  c ", "", -1), ["a", "b", "c"]);
        assert_eq!(parts(" a b  c ", "", 1), ["a", "b  c "]);
        assert_eq!(parts("   ", "", -1), [""; 0]);
        assert_eq!(parts("a,,b", ",", -1), ["a", "", "b"]);
        assert_eq!(parts("a,,b", ",", 1), ["a", ",b"]);
        assert_eq!(parts("", ",", -1), [""]);
        assert_eq!(parts("a,b", ",", 0), ["a,b"]);
    }

    #[test]
    fn numbers_are_read_and_written() {
        let (x, mut strings) = given(&["1.5", "-INF", " 2e3", "nan"]);
        let read = text(Text::Parse(DType::F32), &[x.view()], &mut strings).unwrap().remove(0);
        let numbers = read.as_slice::<f32>().unwrap();
        assert!(numbers[..3] == [1.5, f32::NEG_INFINITY, 2000.0] && numbers[3].is_nan());
        let mut written = text(Text::Format, &[read.view()], &mut strings).unwrap().remove(0);
        written.name_strings(&strings).unwrap();
        assert_eq!(written.strings().unwrap(), ["1.5", "-INF", "2000", "NaN"]);
        let (x, mut strings) = given(&["9223372036854775807", "100.5"]);
        let read = text(Text::Parse(DType::I64), &[x.view()], &mut strings).unwrap().remove(0);
        assert_eq!(read.as_slice::<i64>().unwrap(), [i64::MAX, 100]);
    }

    #[test]
    fn what_cannot_be_done_is_a_sentence() {
        let problem = |result: Result<Vec<Tensor>>| result.unwrap_err().to_string();
        let (x, mut strings) = given(&["Hello", "("]);
        assert_eq!(problem(text(Text::Parse(DType::F64), &[x.view()], &mut strings)), "\"Hello\" is not a number");
        let (bad, _) = given(&["("]);
        assert!(problem(text(Text::Match, &[x.view(), bad.view()], &mut strings)).starts_with("\"(\" is not read as a regular expression"));
        let unknown = Tensor::from_strings(&[1], &["never met"]).unwrap();
        assert!(problem(text(Text::Lower, &[unknown.view()], &mut strings)).ends_with("which stands for no string"));
        let number = Tensor::from_slice(&[1], &[1i32]).unwrap();
        for what in [Text::Concat, Text::Lower, Text::Upper, Text::Match, Text::Parse(DType::F32), Text::Format] {
            assert!(
                problem(text(what, &[number.view(), number.view()], &mut strings)).starts_with("expected elements of type"),
                "{what:?}"
            );
        }
    }
}
