//! Reads the data of a constant: elements, `splat`, `random`, or the hash of data kept elsewhere.
//!
//! Invariant: nothing is allocated before the type says that it is of bounded size, so a short file cannot exhaust memory.

use super::content_hash;
use super::parse::{Resolver, eat_word};
use crate::expr::Cursor;
use crate::graph::Source;
use crate::ops::check;
use crate::random::random;
use crate::strings;
use crate::tensor::{Element, Tensor};
use crate::ty::{DType, TensorType};

/// The largest constant that `random` and `splat` make, in bytes: twice the largest weight of the models we know (the
/// embedding of a 7-billion-parameter language model in f32), and little enough that a short file cannot exhaust memory.
const MAX_GENERATED: usize = 1 << 30;

/// What stands behind `=` in a constant.
pub(super) enum Data {
    Elements(Vec<Element>),
    Splat(Element),
    Random(u64),
    Hash(String),
}

pub(super) fn data(cursor: &mut Cursor, dtype: DType) -> Result<Data, String> {
    if eat_word(cursor, "random") {
        parenthesized(cursor, seed).map(Data::Random)
    } else if eat_word(cursor, "splat") {
        parenthesized(cursor, |c| element(c, dtype)).map(Data::Splat)
    } else if eat_word(cursor, "data") {
        parenthesized(cursor, hash).map(Data::Hash)
    } else if cursor.eat("[") {
        cursor.list("]", |c| element(c, dtype)).map(Data::Elements)
    } else {
        Ok(Data::Elements(vec![element(cursor, dtype)?]))
    }
}

impl Data {
    /// The tensor of this type, and how it was written.
    pub(super) fn tensor(self, ty: &TensorType, resolver: Option<Resolver>) -> Result<(Tensor, Source), String> {
        if let Some(symbolic) = ty.dims.iter().find(|d| d.as_const().is_none()) {
            return Err(format!("expected a constant of known extents, found {symbolic} in {ty}"));
        }
        match self {
            Data::Elements(elements) => Ok((listed(elements, ty)?, Source::Data)),
            Data::Splat(value) => Ok((Tensor::splat(ty.dtype, generated(ty)?, value), Source::Splat)),
            Data::Random(seed) => {
                generated(ty)?;
                Ok((random(seed, ty)?, Source::Random(seed)))
            }
            Data::Hash(hash) => Ok((resolved(&hash, ty, resolver)?, Source::Data)),
        }
    }
}

/// Reads `[...]` or a single element.
pub(super) fn read_data(text: &str, ty: &TensorType) -> Result<Tensor, String> {
    data(&mut Cursor::new(text), ty.dtype)?.tensor(ty, None).map(|(tensor, _)| tensor)
}

fn listed(elements: Vec<Element>, ty: &TensorType) -> Result<Tensor, String> {
    let shape = check::allocatable(ty)?;
    let count: usize = shape.iter().product();
    if elements.len() != count {
        return Err(format!("expected {count} elements for {ty}, found {}", elements.len()));
    }
    Ok(Tensor::from_elements(ty.dtype, shape, elements))
}

/// The shape of a tensor whose data the file does not spell out.
fn generated(ty: &TensorType) -> Result<Vec<usize>, String> {
    let shape = ty.static_dims().unwrap_or_default();
    let bytes = shape.iter().try_fold(ty.dtype.size(), |n, &d| n.checked_mul(d.max(1)));
    match bytes {
        Some(bytes) if bytes <= MAX_GENERATED => Ok(shape),
        _ => Err(format!("expected a constant of at most {MAX_GENERATED} bytes, found {ty}")),
    }
}

fn parenthesized<T>(cursor: &mut Cursor, inner: impl FnOnce(&mut Cursor) -> Result<T, String>) -> Result<T, String> {
    cursor.expect("(")?;
    let value = inner(cursor)?;
    cursor.expect(")")?;
    Ok(value)
}

fn seed(cursor: &mut Cursor) -> Result<u64, String> {
    let found = cursor.found();
    cursor.integer().and_then(|v| u64::try_from(v).ok()).ok_or_else(|| format!("expected a seed below 2^64, found {found}"))
}

fn hash(cursor: &mut Cursor) -> Result<String, String> {
    cursor.expect("blake3")?;
    cursor.expect(":")?;
    let rest = cursor.rest();
    let hash = &rest[..rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len())];
    cursor.expect(hash)?;
    Ok(hash.to_string())
}

fn resolved(hash: &str, ty: &TensorType, resolver: Option<Resolver>) -> Result<Tensor, String> {
    let Some(resolver) = resolver else {
        return Err(format!(
            "the data of blake3:{hash} is not in this text; read it with the model it was printed from at hand, or write `random(1)` in its place"
        ));
    };
    let tensor = resolver(hash)
        .ok_or_else(|| format!("the data of blake3:{hash} is not in the model at hand; was the text printed from another one?"))?;
    if tensor.ty() != *ty || content_hash(&tensor) != hash {
        return Err(format!("expected {ty} with hash {hash}, found {} with hash {}", tensor.ty(), content_hash(&tensor)));
    }
    Ok(tensor)
}

/// A string in quotes.
fn string(cursor: &mut Cursor) -> Result<Element, String> {
    if !cursor.rest().starts_with('"') {
        return Err(format!("expected a string in quotes, found {}", cursor.found()));
    }
    Ok(Element::Int(strings::intern(&cursor.string()?)?.into()))
}

/// One element, which must be a value of `dtype`; floats are rounded to it.
fn element(cursor: &mut Cursor, dtype: DType) -> Result<Element, String> {
    let mut ahead = cursor.clone();
    let (expected, element) = match dtype {
        DType::Bool => {
            let word = ahead.name().ok().and_then(|w| w.parse().ok());
            ("`true` or `false`", word.map(Element::Bool))
        }
        DType::Str => return string(cursor),
        t if t.is_float() => ("a number", ahead.number().map(|(v, _)| Element::Float(v))),
        _ if ahead.clone().number().is_some_and(|(_, is_float)| is_float) => ("an integer", None),
        _ => {
            let value = ahead.integer().map(Element::Int);
            ("an integer in range", value.filter(|v| v.rounded(dtype) == *v))
        }
    };
    let element = element.ok_or_else(|| format!("expected {expected} for an element of {dtype}, found {}", cursor.found()))?;
    *cursor = ahead;
    Ok(element)
}
