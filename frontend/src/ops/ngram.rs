//! TfIdfVectorizer on numbers: how often each of a list of n-grams stands in a row.
//!
//! The n-grams of one length are compared with every window of that length at once; a window may skip elements:
//!
//! ```text
//! [5, 6] in 5 7 6    with one element skipped:   eq(x[0..1], 5) and eq(x[2..3], 6)
//! ```
//!
//! Invariant: all counts of a length are one sum over comparisons, so what is compiled does not grow with the number of n-grams but by
//! its constants.

use crate::error::Code;
use crate::ops::ml::{needed, rows, vector};
use crate::site::{Outcome, Site, Stop, fault, malformed};
use egret_ir::{DType, Dim, Element, Op, Tensor, ValueId};

/// N-grams of one length.
struct Grams {
    length: usize,
    /// One after the other: i64 or str.
    elements: Vec<Element>,
}

impl Grams {
    fn count(&self) -> usize {
        self.elements.len() / self.length
    }
}

/// Elements that a window may span: each element of each window becomes a comparison.
const WIDEST: i64 = 64;

/// x: `[c]` or `[b, c]` integers or strings -> what the n-grams of the pool weigh in each row.
pub(crate) fn tfidf_vectorizer(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let of_strings = n.dtype(x) == DType::Str;
    if !n.dtype(x).is_int() && !of_strings {
        return Err(malformed(Code::ElementType, format!("`TfIdfVectorizer` expects integers or strings, found {}", n.ty(x))));
    }
    let is_row = n.rank(x) == 1;
    let x = rows(n, x)?;
    let x = if of_strings { x } else { n.cast(x, DType::I64)? };
    let grams = pool(n, of_strings)?;
    let counts = grams.iter().map(|grams| counts(n, x, grams)).collect::<Result<Vec<ValueId>, Stop>>()?;
    let counts = n.concat(&counts, 1)?;
    let weighed = weighed(n, counts, grams.iter().map(Grams::count).sum())?;
    let y = in_place(n, weighed)?;
    let dims = n.dims(y);
    Ok(vec![if is_row { n.reshape(y, dims[1..].to_vec())? } else { y }])
}

/// The n-grams of every length.
fn pool(n: &Site, of_strings: bool) -> Result<Vec<Grams>, Stop> {
    let (strings, numbers) = (n.strings("pool_strings")?, n.ints("pool_int64s")?);
    let pool: Vec<Element> = match of_strings {
        true => needed(n, "pool_strings", strings.map(|strings| strings.elements().collect()))?,
        false => needed(n, "pool_int64s", numbers)?.into_iter().map(|number| Element::Int(number.into())).collect(),
    };
    let starts = needed(n, "ngram_counts", n.ints("ngram_counts")?)?;
    let ends = starts.iter().skip(1).copied().chain([pool.len() as i64]);
    let grams = starts.iter().zip(ends).zip(1..).map(|((&start, end), length)| {
        let part = usize::try_from(start).ok().zip(usize::try_from(end).ok()).and_then(|(start, end)| pool.get(start..end));
        let part = part.filter(|part| part.len().is_multiple_of(length));
        let wrong = || {
            malformed(Code::Attribute, format!("`TfIdfVectorizer` has {length}-grams from {start} to {end} of a pool of {}", pool.len()))
        };
        part.map(|elements| Grams { length, elements: elements.to_vec() }).ok_or_else(wrong)
    });
    grams.collect()
}

/// How often each n-gram stands in each row of `x: [b, c]`, over all numbers of elements skipped: f32 `[b, grams]`. A length that is
/// not asked for counts as none.
fn counts(n: &mut Site, x: ValueId, grams: &Grams) -> Result<ValueId, Stop> {
    let (b, c) = (n.dims(x)[0].clone(), n.dims(x)[1].clone());
    let asked = n.int_or("min_gram_length", 1)?..=n.int_or("max_gram_length", 1)?;
    // An element has nothing to skip to.
    let skips = if grams.length == 1 { 0 } else { n.int_or("max_skip_count", 0)? };
    let mut sum = n.splat(0.0, DType::F32, vec![b, Dim::from(grams.count())])?;
    if grams.count() == 0 || !asked.contains(&(grams.length as i64)) {
        return Ok(sum);
    }
    for skip in 0..=skips {
        let span = (grams.length as i64 - 1).saturating_mul(skip.saturating_add(1)).saturating_add(1);
        if c.as_const().is_some_and(|c| span > c) {
            break;
        }
        if span > WIDEST {
            let message = format!("`TfIdfVectorizer` has windows of {span} elements, expected at most {WIDEST}");
            return Err(fault(Code::Attribute, message, "lower `max_skip_count` in the model before the export"));
        }
        let found = windows(n, x, grams, skip + 1, &(c.clone() - (span - 1)))?;
        sum = n.op(Op::add, &[sum, found])?;
    }
    Ok(sum)
}

/// The same for windows whose elements are `step` apart, of which each row has `places`.
fn windows(n: &mut Site, x: ValueId, grams: &Grams, step: i64, places: &Dim) -> Result<ValueId, Stop> {
    let (b, count) = (n.dims(x)[0].clone(), grams.count());
    let mut all: Option<ValueId> = None;
    for i in 0..grams.length {
        let part = n.slice(x, 1, Dim::from(i as i64 * step), places.clone())?;
        let part = n.reshape(part, [b.clone(), places.clone(), Dim::ONE])?;
        let column = grams.elements.iter().skip(i).step_by(grams.length).copied();
        let column = n.build.constant(Tensor::from_elements(n.dtype(x), vec![count], column));
        let equal = n.op(Op::eq, &[part, column])?;
        all = Some(match all {
            Some(all) => n.op(Op::and, &[all, equal])?,
            None => equal,
        });
    }
    let all = all.ok_or_else(|| malformed(Code::Attribute, "`TfIdfVectorizer` has n-grams of no elements"))?;
    let ones = n.cast(all, DType::F32)?;
    let sum = n.op(Op::reduce_sum { axes: vec![1] }, &[ones])?;
    n.reshape(sum, [b, Dim::from(count)])
}

/// What counts `[b, grams]` weigh by the mode.
fn weighed(n: &mut Site, counts: ValueId, grams: usize) -> Result<ValueId, Stop> {
    let modes = [("TF", (false, false)), ("IDF", (true, true)), ("TFIDF", (false, true))];
    let (once, scales) = n.word("mode", "", &modes)?;
    let counts = if once { n.with_number(Op::min, counts, 1.0)? } else { counts };
    match n.floats("weights")?.filter(|_| scales) {
        Some(weights) if weights.len() == grams => {
            let weights = vector(n, &weights, DType::F32);
            n.op(Op::mul, &[counts, weights])
        }
        Some(weights) => Err(malformed(Code::Attribute, format!("`TfIdfVectorizer` has {} weights for {grams} n-grams", weights.len()))),
        None => Ok(counts),
    }
}

/// The columns `[b, grams]` where `ngram_indexes` puts them; columns that it does not name are 0.
fn in_place(n: &mut Site, x: ValueId) -> Result<ValueId, Stop> {
    let places = needed(n, "ngram_indexes", n.ints("ngram_indexes")?)?;
    let grams = n.dims(x)[1].as_const().unwrap_or(0);
    let width = places.iter().max().map_or(0, |most| most.saturating_add(1));
    let distinct = places.iter().collect::<std::collections::BTreeSet<_>>().len() == places.len();
    if places.len() as i64 != grams || !distinct || places.iter().any(|&p| p < 0) || width > MOST_COLUMNS {
        let message =
            format!("`TfIdfVectorizer` has {} places for {grams} n-grams, expected one below {MOST_COLUMNS} for each", places.len());
        return Err(malformed(Code::Attribute, message));
    }
    // A column of zeros stands behind the others, for places that no n-gram has.
    let mut from = vec![grams; width as usize];
    places.iter().enumerate().for_each(|(i, &place)| from[place as usize] = i as i64);
    let zeros = n.splat(0.0, DType::F32, vec![n.dims(x)[0].clone(), Dim::ONE])?;
    let padded = n.concat(&[x, zeros], 1)?;
    let from = n.build.constant(Tensor::from_i64s(vec![from.len()], &from));
    n.op(Op::gather { axis: 1 }, &[padded, from])
}

/// Columns of the result at most: vocabularies have some hundred thousand.
const MOST_COLUMNS: i64 = 1 << 24;
