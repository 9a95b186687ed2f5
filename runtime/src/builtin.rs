//! The operations of a [`Program`](crate::program::Program): those that find an extent in data, and those on strings.
//!
//! Their meaning is that of the compiler's ops of the same names; tests there compare the two. **Invariant.** No contents of their
//! operands make them panic or allocate more than the operands' size allows.

use crate::error::{Error, Result};
use crate::plan::DType;
use crate::program::What;
use crate::strings::Dictionary;
use crate::tensor::{Tensor, TensorView};
use std::cmp::Ordering;

mod text;

/// The largest extent that data may ask for, as in the compiler.
const LARGEST: i64 = 1 << 31;

/// The results of an operation that is no stage.
///
/// # Errors
///
/// [`Error::Usage`] if an operand has another type than the operation takes, or an extent would be negative or too large;
/// [`Error::Resource`] if memory is lacking.
pub(crate) fn run(what: &What, operands: &[TensorView<'_>], strings: &mut Dictionary) -> Result<Vec<Tensor>> {
    match what {
        What::Stage(_) | What::Repeat(_) | What::Branch { .. } => Err(Error::Usage("a stage is no operation".to_string())),
        What::NonZero => non_zero(operands[0]),
        What::Unique { sorted } if operands[0].dtype() == DType::Str => unique(text::ranks(operands[0], strings)?.view(), *sorted),
        What::Unique { sorted } => unique(operands[0], *sorted),
        What::NonMaxSuppression { centers } => Boxes::new(operands, *centers)?.suppressed(),
        What::Text(what) => text::text(*what, operands, strings),
        What::TextSplit { most } => text::split(operands, *most, strings),
        What::Extents { names } => extents(&numbers(operands[0])?, names),
    }
}

/// The only element of an i64 tensor.
pub(crate) fn number(x: TensorView<'_>) -> Result<i64> {
    numbers(x)?.first().copied().ok_or_else(|| Error::Usage("expected a number, found none".to_string()))
}

/// Whether the only element of a bool tensor holds.
pub(crate) fn truth(x: TensorView<'_>) -> Result<bool> {
    expect(x, DType::Bool)?;
    x.bytes().first().map(|&byte| byte != 0).ok_or_else(|| Error::Usage("expected a condition, found none".to_string()))
}

/// The elements of an i64 tensor, which need not be aligned.
fn numbers(x: TensorView<'_>) -> Result<Vec<i64>> {
    expect(x, DType::I64)?;
    Ok(x.bytes().as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect())
}

fn floats(x: TensorView<'_>) -> Result<Vec<f32>> {
    expect(x, DType::F32)?;
    Ok(x.bytes().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
}

fn expect(x: TensorView<'_>, dtype: DType) -> Result<()> {
    match x.dtype() == dtype {
        true => Ok(()),
        false => Err(Error::Usage(format!("expected elements of type {dtype}, found {}", x.dtype()))),
    }
}

fn list(values: &[i64]) -> Result<Tensor> {
    Tensor::from_slice(&[values.len()], values)
}

fn non_zero(x: TensorView<'_>) -> Result<Vec<Tensor>> {
    expect(x, DType::Bool)?;
    let places: Vec<usize> = x.bytes().iter().enumerate().filter(|(_, holds)| **holds != 0).map(|(i, _)| i).collect();
    let shape = x.shape();
    let mut indices = Vec::with_capacity(shape.len() * places.len());
    for axis in 0..shape.len() {
        let stride: usize = shape[axis + 1..].iter().product();
        indices.extend(places.iter().map(|place| (place / stride % shape[axis]) as i64));
    }
    Ok(vec![Tensor::from_slice(&[shape.len(), places.len()], &indices)?])
}

fn extents(values: &[i64], names: &[String]) -> Result<Vec<Tensor>> {
    let mut shape = vec![];
    for (&value, name) in values.iter().zip(names) {
        if !(0..=LARGEST).contains(&value) {
            return Err(Error::Usage(format!("the dimension `{name}`, which the data decides, would be {value}, expected 0 to {LARGEST}")));
        }
        shape.push(value as usize);
    }
    shape.push(0);
    Ok(vec![Tensor::zeros(DType::Bool, &shape)?])
}

fn unique(x: TensorView<'_>, sorted: bool) -> Result<Vec<Tensor>> {
    let &[rows, width] = x.shape() else { return Err(Error::Usage(format!("expected a matrix, found {:?}", x.shape()))) };
    let elements = x.bytes().as_chunks::<8>().0;
    let compare: Box<dyn Fn(usize, usize) -> Ordering> = match x.dtype() {
        DType::I64 => Box::new(|a, b| i64::from_le_bytes(elements[a]).cmp(&i64::from_le_bytes(elements[b]))),
        DType::F64 => Box::new(|a, b| compare_floats(f64::from_le_bytes(elements[a]), f64::from_le_bytes(elements[b]))),
        other => return Err(Error::Usage(format!("expected elements of type i64 or f64, found {other}"))),
    };
    let compare = |a: usize, b: usize| {
        let columns = (0..width).map(|column| compare(a * width + column, b * width + column));
        columns.into_iter().find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    };
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_by(|&a, &b| compare(a, b));
    let mut groups: Vec<Vec<usize>> = vec![];
    for row in order {
        match groups.last_mut().filter(|group| compare(group[0], row).is_eq()) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    if !sorted {
        groups.sort_by_key(|group| group[0]);
    }
    let mut inverse = vec![0; rows];
    for (number, group) in groups.iter().enumerate() {
        group.iter().for_each(|&row| inverse[row] = number as i64);
    }
    let first: Vec<i64> = groups.iter().map(|group| group[0] as i64).collect();
    let counts: Vec<i64> = groups.iter().map(|group| group.len() as i64).collect();
    Ok(vec![list(&first)?, list(&inverse)?, list(&counts)?])
}

/// NaN equals NaN and stands above every number; both zeros are one.
fn compare_floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// The operands of a suppression.
struct Boxes {
    /// Low and high of either axis, `[y1, x1, y2, x2]`, of every box of every batch.
    corners: Vec<[f32; 4]>,
    scores: Vec<f32>,
    batches: usize,
    classes: usize,
    /// Boxes of a batch.
    count: usize,
    /// Boxes kept of a class.
    most: usize,
    iou: f32,
    threshold: f32,
}

impl Boxes {
    fn new(operands: &[TensorView<'_>], centers: bool) -> Result<Boxes> {
        let (boxes, scores) = (floats(operands[0])?, floats(operands[1])?);
        let (&[b, n, 4], &[batches, classes, count]) = (operands[0].shape(), operands[1].shape()) else {
            let found = (operands[0].shape(), operands[1].shape());
            return Err(Error::Usage(format!("expected boxes [b, n, 4] and scores [b, c, n], found {:?} and {:?}", found.0, found.1)));
        };
        if (b, n) != (batches, count) {
            return Err(Error::Usage(format!("{n} boxes in {b} batches have {count} scores in {batches} batches")));
        }
        let one = |index: usize| floats(operands[index]).map(|x| x.first().copied().unwrap_or(0.0));
        let most = numbers(operands[2])?.first().map_or(0, |&most| usize::try_from(most).unwrap_or(0));
        let corners = boxes.as_chunks().0.iter().map(|given| corners(*given, centers)).collect();
        Ok(Boxes { corners, scores, batches, classes, count, most, iou: one(3)?, threshold: one(4)? })
    }

    /// Batch by batch, class by class, the highest score first; of equal scores the lower box.
    fn suppressed(&self) -> Result<Vec<Tensor>> {
        let mut found: Vec<i64> = vec![];
        for batch in 0..self.batches {
            for class in 0..self.classes {
                let kept = self.kept(batch, class);
                found.extend(kept.iter().flat_map(|&i| [batch as i64, class as i64, i as i64]));
            }
        }
        Ok(vec![Tensor::from_slice(&[found.len() / 3, 3], &found)?])
    }

    fn kept(&self, batch: usize, class: usize) -> Vec<usize> {
        let scores = &self.scores[(batch * self.classes + class) * self.count..][..self.count];
        let corners = &self.corners[batch * self.count..][..self.count];
        let mut order: Vec<usize> = (0..self.count).filter(|&i| scores[i] > self.threshold).collect();
        order.sort_by(|&i, &j| scores[j].total_cmp(&scores[i]));
        let mut kept: Vec<usize> = vec![];
        for i in order {
            if kept.len() == self.most {
                break;
            }
            if kept.iter().all(|&j| overlap(corners[i], corners[j]) <= self.iou) {
                kept.push(i);
            }
        }
        kept
    }
}

fn corners([a, b, c, d]: [f32; 4], centers: bool) -> [f32; 4] {
    match centers {
        true => [b - d / 2.0, a - c / 2.0, b + d / 2.0, a + c / 2.0],
        false => [a.min(c), b.min(d), a.max(c), b.max(d)],
    }
}

/// The area that two boxes share over the area that they cover; 0 where one has none.
fn overlap(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |x: [f32; 4]| (x[2] - x[0]) * (x[3] - x[1]);
    let side = |axis: usize| (a[axis + 2].min(b[axis + 2]) - a[axis].max(b[axis])).max(0.0);
    let shared = side(0) * side(1);
    if area(a) <= 0.0 || area(b) <= 0.0 { 0.0 } else { shared / (area(a) + area(b) - shared) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(what: &What, operands: &[TensorView<'_>]) -> Result<Vec<Tensor>> {
        run(what, operands, &mut Dictionary::default())
    }

    fn numbers_of(tensors: &[Tensor]) -> Vec<(Vec<usize>, Vec<i64>)> {
        tensors.iter().map(|t| (t.shape().to_vec(), t.as_slice::<i64>().unwrap().to_vec())).collect()
    }

    #[test]
    fn places_are_columns() {
        let x = Tensor::from_bytes(DType::Bool, &[2, 2], &[1, 0, 1, 1]).unwrap();
        assert_eq!(numbers_of(&op(&What::NonZero, &[x.view()]).unwrap()), [(vec![2, 3], vec![0, 1, 1, 0, 0, 1])]);
        let none = Tensor::from_bytes(DType::Bool, &[2, 0], &[]).unwrap();
        assert_eq!(numbers_of(&op(&What::NonZero, &[none.view()]).unwrap()), [(vec![2, 0], vec![])]);
    }

    #[test]
    fn rows_are_ordered_or_stay() {
        let x = Tensor::from_slice(&[4, 1], &[f64::NAN, 2.0, f64::NAN, -1.0]).unwrap();
        let unique =
            |sorted| numbers_of(&op(&What::Unique { sorted }, &[x.view()]).unwrap()).into_iter().map(|(_, v)| v).collect::<Vec<_>>();
        assert_eq!(unique(true), [vec![3, 1, 0], vec![2, 1, 2, 0], vec![1, 1, 2]]);
        assert_eq!(unique(false), [vec![0, 1, 3], vec![0, 1, 0, 2], vec![2, 1, 1]]);
    }

    #[test]
    fn strings_are_ordered_by_their_bytes() {
        let x = Tensor::from_strings(&[4, 1], &["b", "Z", "b", "a"]).unwrap();
        let mut strings = Dictionary::default();
        ["a", "b", "Z"].iter().for_each(|text| {
            strings.enter(text).unwrap();
        });
        let mut unique = |sorted| numbers_of(&run(&What::Unique { sorted }, &[x.view()], &mut strings).unwrap());
        assert_eq!(unique(true)[0].1, [1, 3, 0]);
        assert_eq!(unique(false)[0].1, [0, 1, 3]);
    }

    #[test]
    fn extents_have_names_and_bounds() {
        let x = Tensor::from_slice(&[2], &[3i64, 0]).unwrap();
        let what = What::Extents { names: vec!["a".into(), "b".into()] };
        assert_eq!(op(&what, &[x.view()]).unwrap()[0].shape(), [3, 0, 0]);
        let wrong = Tensor::from_slice(&[2], &[3i64, -1]).unwrap();
        let error = op(&what, &[wrong.view()]).unwrap_err().to_string();
        assert_eq!(error, "the dimension `b`, which the data decides, would be -1, expected 0 to 2147483648");
    }

    #[test]
    fn operands_of_other_types_are_sentences() {
        let x = Tensor::from_slice(&[2], &[3.0f32, 0.0]).unwrap();
        for what in [What::NonZero, What::Unique { sorted: true }, What::Extents { names: vec![] }] {
            assert!(op(&what, &[x.view()]).unwrap_err().to_string().starts_with("expected "), "{what:?}");
        }
    }
}
