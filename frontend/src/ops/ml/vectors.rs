//! SVMClassifier: support vectors of every class, and a decision for each pair of classes.
//!
//! ```text
//! score of classes i and j = sum over the vectors of both of  coefficient * kernel(x, vector)  + rho
//! ```
//!
//! Invariant: all scores are one product of kernels and a matrix `[vectors, pairs]` that is put together while importing, and all votes
//! another; the label is the class with most votes, the first of equals.

use super::{classes, floats_of, kernel, labelled, linear, needed, rows, transformed, vector};
use crate::error::Code;
use crate::site::{Outcome, Site, Stop, malformed};
use egret_ir::{DType, Element, Op, Tensor, ValueId};
use std::ops::Range;

/// Coefficients of all pairs of classes at most, 256 MB of them: the pairs grow with the square of the classes.
const MOST_WEIGHTS: usize = 1 << 26;

/// The label of each row `[b]`, and its scores: one for each pair of classes, of two classes one for each.
pub(crate) fn svm_classifier(n: &mut Site) -> Outcome {
    let classes = classes(n)?;
    if n.floats("prob_a")?.is_some_and(|a| !a.is_empty()) {
        n.floats("prob_b")?;
        let message =
            "`SVMClassifier` with probabilities is not supported: they are found by iterations whose end is a matter of tolerance";
        return Err(n.refused("prob_a", "numbers", message));
    }
    let how = n.text("post_transform")?;
    let Some(own) = own_vectors(n, classes.count)? else {
        n.without_effect(&["kernel_type", "kernel_params", "support_vectors"]);
        let scores = linear(n, classes.count)?;
        let scores = shifted(n, scores, 1)?;
        let label = labelled(n, scores, &classes)?;
        return Ok(vec![label, transformed(n, scores, how.as_deref())?]);
    };
    let supports = own.last().map_or(0, |last| last.end);
    if supports.saturating_mul(classes.count).saturating_mul(classes.count) > MOST_WEIGHTS {
        return Err(malformed(
            Code::Attribute,
            format!("`SVMClassifier` of {supports} vectors and {} classes is too large", classes.count),
        ));
    }
    let pairs: Vec<(usize, usize)> = (0..classes.count).flat_map(|i| (i + 1..classes.count).map(move |j| (i, j))).collect();
    let scores = decisions(n, &own, supports, &pairs)?;
    let votes = votes(n, scores, &pairs, classes.count)?;
    let label = labelled(n, votes, &classes)?;
    let scores = if pairs.len() == 1 { both(n, scores)? } else { scores };
    Ok(vec![label, transformed(n, scores, how.as_deref())?])
}

/// Which support vectors belong to each class; nothing for a linear model, which has none.
fn own_vectors(n: &Site, count: usize) -> Result<Option<Vec<Range<usize>>>, Stop> {
    let Some(counts) = n.ints("vectors_per_class")?.filter(|counts| counts.iter().any(|&c| c != 0)) else { return Ok(None) };
    let wrong = || malformed(Code::Attribute, format!("`SVMClassifier` has {counts:?} support vectors for {count} classes"));
    if counts.len() != count || count < 2 {
        return Err(wrong());
    }
    let mut end = 0usize;
    let range = |&own: &i64| {
        let start = end;
        end = start.checked_add(usize::try_from(own).ok()?)?;
        Some(start..end)
    };
    counts.iter().map(range).collect::<Option<Vec<_>>>().map(Some).ok_or_else(wrong)
}

/// The score of each pair of classes: f32 `[b, pairs]`.
fn decisions(n: &mut Site, own: &[Range<usize>], supports: usize, pairs: &[(usize, usize)]) -> Result<ValueId, Stop> {
    let x = n.input(0)?;
    let x = rows(n, x)?;
    let x = floats_of(n, x)?;
    let x = n.cast(x, DType::F32)?;
    let coefficients = n.floats("coefficients")?;
    let coefficients = needed(n, "coefficients", coefficients)?;
    if Some(coefficients.len()) != supports.checked_mul(own.len() - 1) {
        let message = format!("`SVMClassifier` has {} coefficients for {supports} vectors of {} classes", coefficients.len(), own.len());
        return Err(malformed(Code::Attribute, message));
    }
    let vectors = n.floats("support_vectors")?;
    let vectors = needed(n, "support_vectors", vectors)?;
    let alike = kernel(n, x, supports, &vectors)?;
    // Row r of the coefficients is that of a vector against the r-th of the other classes.
    let mut weights = vec![0.0; supports * pairs.len()];
    for (pair, &(i, j)) in pairs.iter().enumerate() {
        for (row, vectors) in [(j - 1, &own[i]), (i, &own[j])] {
            vectors.clone().for_each(|vector| weights[vector * pairs.len() + pair] = coefficients[row * supports + vector]);
        }
    }
    let weights = matrix(n, [supports, pairs.len()], weights);
    let scores = n.op(Op::matmul, &[alike, weights])?;
    shifted(n, scores, pairs.len())
}

/// Scores with `rho` added, of which there are so many.
fn shifted(n: &mut Site, scores: ValueId, count: usize) -> Result<ValueId, Stop> {
    let rho = n.floats("rho")?;
    let rho = needed(n, "rho", rho)?;
    if rho.len() != count {
        return Err(malformed(Code::Attribute, format!("`SVMClassifier` has {} numbers `rho`, expected {count}", rho.len())));
    }
    let rho = vector(n, &rho, n.dtype(scores));
    n.op(Op::add, &[scores, rho])
}

/// How many of its pairs each class wins: f32 `[b, classes]`. The first class of a pair wins where the score is above 0.
fn votes(n: &mut Site, scores: ValueId, pairs: &[(usize, usize)], count: usize) -> Result<ValueId, Stop> {
    let zero = n.scalar(0.0, DType::F32);
    let first = n.op(Op::lt, &[zero, scores])?;
    let first = n.cast(first, DType::F32)?;
    // What the pairs give if the second class wins all of them, and what changes where the first does.
    let (mut base, mut change) = (vec![0.0; count], vec![0.0; pairs.len() * count]);
    for (pair, &(i, j)) in pairs.iter().enumerate() {
        base[j] += 1.0;
        change[pair * count + i] = 1.0;
        change[pair * count + j] = -1.0;
    }
    let change = matrix(n, [pairs.len(), count], change);
    let changed = n.op(Op::matmul, &[first, change])?;
    let base = vector(n, &base, DType::F32);
    n.op(Op::add, &[changed, base])
}

/// `[b, 1]` -> `[b, 2]`: the score of the second class and of the first, each the negative of the other.
fn both(n: &mut Site, score: ValueId) -> Result<ValueId, Stop> {
    let other = n.op(Op::neg, &[score])?;
    n.concat(&[other, score], 1)
}

fn matrix(n: &mut Site, shape: [usize; 2], values: Vec<f64>) -> ValueId {
    n.build.constant(Tensor::from_elements(DType::F32, shape.to_vec(), values.into_iter().map(Element::Float)))
}
