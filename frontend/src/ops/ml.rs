//! Operators of ai.onnx.ml: scalers, encoders, linear models, support vectors.
//!
//! Labels and categories are numbers or strings; either is moved and compared, and nothing else.

pub(crate) mod labels;
pub(crate) mod trees;
pub(crate) mod vectors;

use crate::error::Code;
use crate::site::{Outcome, Site, Stop, malformed};
use egret_ir::{DType, Dim, Element, Op, Tensor, ValueId};

/// What keeps a norm of zeros from dividing by 0.
const LEAST_NORM: f64 = 1e-30;

/// What SOFTMAX_ZERO takes for zero.
const NEARLY_ZERO: f64 = 1e-7;

/// A list of numbers as a vector.
pub(crate) fn vector(n: &mut Site, values: &[f64], dtype: DType) -> ValueId {
    let elements = values.iter().map(|&v| if dtype.is_float() { Element::Float(v) } else { Element::Int(v as i128) });
    n.build.constant(Tensor::from_elements(dtype, vec![values.len()], elements))
}

/// A list of whole numbers as a vector.
pub(crate) fn integers(n: &mut Site, values: &[i64]) -> ValueId {
    n.build.constant(Tensor::from_i64s(vec![values.len()], values))
}

/// A list that has to be there.
pub(crate) fn needed<T>(n: &Site, name: &str, found: Option<Vec<T>>) -> Result<Vec<T>, Stop> {
    found.ok_or_else(|| malformed(Code::Attribute, format!("`{}` needs the attribute `{name}`", n.operator)))
}

/// The rows `[b, f]` of a matrix; a vector is one row.
pub(crate) fn rows(n: &mut Site, x: ValueId) -> Result<ValueId, Stop> {
    match n.dims(x).as_slice() {
        [f] => n.reshape(x, [Dim::ONE, f.clone()]),
        _ => n.of_rank(x, 2, "rows of features"),
    }
}

/// Integers and truth values as f32, floats as they are.
fn floats_of(n: &mut Site, x: ValueId) -> Result<ValueId, Stop> {
    if n.dtype(x).is_float() { Ok(x) } else { n.cast(x, DType::F32) }
}

/// The columns that the second input lists.
pub(crate) fn array_feature_extractor(n: &mut Site) -> Outcome {
    let (x, y) = (n.input(0)?, n.input(1)?);
    let count: Dim = n.dims(y).into_iter().product();
    let indices = n.reshape(y, [count])?;
    let x = if n.rank(x) == 1 { rows(n, x)? } else { x };
    let axis = n.axis(-1, n.rank(x))?;
    Ok(vec![n.op(Op::gather { axis }, &[x, indices])?])
}

/// 1 above the threshold, else 0.
pub(crate) fn binarizer(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let dtype = n.dtype(x);
    let threshold = n.scalar(n.float_or("threshold", 0.0)?, dtype);
    let above = n.op(Op::lt, &[threshold, x])?;
    Ok(vec![n.cast(above, dtype)?])
}

/// `(x - offset) * scale`, each a number or one per column.
pub(crate) fn scaler(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let mut y = n.cast(x, DType::F32)?;
    for (name, op) in [("offset", Op::sub), ("scale", Op::mul)] {
        if let Some(values) = n.floats(name)? {
            let values = vector(n, &values, DType::F32);
            y = n.op(op, &[y, values])?;
        }
    }
    Ok(vec![y])
}

/// Rows divided by their norm.
pub(crate) fn normalizer(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let x = n.cast(x, DType::F32)?;
    let axes = vec![n.axis(-1, n.rank(x))?];
    let sizes = n.op(Op::abs, &[x])?;
    let norm = match n.text("norm")?.as_deref().unwrap_or("MAX") {
        "MAX" => n.op(Op::reduce_max { axes }, &[sizes])?,
        "L1" => n.op(Op::reduce_sum { axes }, &[sizes])?,
        "L2" => {
            let squares = n.op(Op::mul, &[x, x])?;
            let sum = n.op(Op::reduce_sum { axes }, &[squares])?;
            n.op(Op::sqrt, &[sum])?
        }
        other => return Err(n.refused("norm", other, "`Normalizer` has the norms MAX, L1 and L2")),
    };
    let norm = n.with_number(Op::max, norm, LEAST_NORM)?;
    Ok(vec![n.op(Op::div, &[x, norm])?])
}

/// Other numbers in place of one, which may be NaN.
pub(crate) fn imputer(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let dtype = n.dtype(x);
    let (imputed, replaced) = if dtype.is_float() {
        (n.floats("imputed_value_floats")?, n.float_or("replaced_value_float", 0.0)?)
    } else {
        let values = n.ints("imputed_value_int64s")?.map(|values| values.into_iter().map(|v| v as f64).collect());
        (values, n.int_or("replaced_value_int64", 0)? as f64)
    };
    let name = if dtype.is_float() { "imputed_value_floats" } else { "imputed_value_int64s" };
    let imputed = needed(n, name, imputed)?;
    let imputed = vector(n, &imputed, dtype);
    let is_missing = if replaced.is_nan() { n.op(Op::is_nan, &[x])? } else { n.with_number(Op::eq, x, replaced)? };
    Ok(vec![n.op(Op::select, &[is_missing, imputed, x])?])
}

/// x: [..] -> [.., categories], 1 where an element is a category.
pub(crate) fn one_hot_encoder(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    if n.int_or("zeros", 1)? == 0 {
        return Err(n.refused("zeros", 0, "`OneHotEncoder` that fails for what is no category is not supported"));
    }
    let (numbers, strings) = (n.ints("cats_int64s")?, n.strings("cats_strings")?);
    let apart = [n.dims(x), vec![Dim::ONE]].concat();
    let (x, categories) = match (n.dtype(x), strings) {
        (DType::Str, Some(strings)) => (x, n.build.constant(strings)),
        (DType::Str, None) => return Err(malformed(Code::Attribute, "`OneHotEncoder` of strings needs the attribute `cats_strings`")),
        _ => {
            let numbers = needed(n, "cats_int64s", numbers)?;
            (n.cast(x, DType::I64)?, integers(n, &numbers))
        }
    };
    let x = n.reshape(x, apart)?;
    let is_category = n.op(Op::eq, &[x, categories])?;
    Ok(vec![n.cast(is_category, DType::F32)?])
}

/// Matrices beside each other; a vector is a column.
pub(crate) fn feature_vectorizer(n: &mut Site) -> Outcome {
    n.without_effect(&["inputdimensions"]);
    let mut columns = vec![];
    for x in n.inputs()? {
        let x = n.cast(x, DType::F32)?;
        let dims = n.dims(x);
        let (first, rest) = dims.split_first().ok_or_else(|| malformed(Code::Shape, "`FeatureVectorizer` expects rows, found a number"))?;
        let width: Dim = rest.iter().cloned().product();
        columns.push(n.reshape(x, [first.clone(), width])?);
    }
    if columns.is_empty() {
        return Err(malformed(Code::Operand, "`FeatureVectorizer` needs at least one input"));
    }
    Ok(vec![n.concat(&columns, 1)?])
}

/// `[b, c]`: the rows of x times the coefficients `[c, f]`, with intercepts added.
fn linear(n: &mut Site, outputs: usize) -> Result<ValueId, Stop> {
    let x = n.input(0)?;
    let x = rows(n, x)?;
    let x = floats_of(n, x)?;
    let dtype = n.dtype(x);
    let coefficients = n.floats("coefficients")?;
    let coefficients = needed(n, "coefficients", coefficients)?;
    if outputs == 0 || coefficients.is_empty() || !coefficients.len().is_multiple_of(outputs) {
        let message = format!("`{}` has {} coefficients for {outputs} outputs", n.operator, coefficients.len());
        return Err(malformed(Code::Attribute, message));
    }
    let elements = coefficients.iter().map(|&v| Element::Float(v));
    let weights = Tensor::from_elements(dtype, vec![outputs, coefficients.len() / outputs], elements);
    let weights = n.build.constant(weights);
    let weights = n.transpose(weights, vec![1, 0])?;
    let y = n.op(Op::matmul, &[x, weights])?;
    match n.floats("intercepts")? {
        Some(intercepts) => {
            let intercepts = vector(n, &intercepts, dtype);
            n.op(Op::add, &[y, intercepts])
        }
        None => Ok(y),
    }
}

pub(crate) fn linear_regressor(n: &mut Site) -> Outcome {
    let targets = usize::try_from(n.int_or("targets", 1)?).unwrap_or(0);
    let y = linear(n, targets)?;
    let how = n.text("post_transform")?;
    Ok(vec![transformed(n, y, how.as_deref())?])
}

pub(crate) fn linear_classifier(n: &mut Site) -> Outcome {
    n.without_effect(&["multi_class"]);
    let classes = classes(n)?;
    let scores = linear(n, classes.count)?;
    let how = n.text("post_transform")?;
    let scores = transformed(n, scores, how.as_deref())?;
    let scores = n.cast(scores, DType::F32)?;
    Ok(vec![labelled(n, scores, &classes)?, scores])
}

/// The classes of a classifier.
pub(crate) struct Classes {
    /// How many there are.
    pub(crate) count: usize,
    /// Their labels: `i64[count]` or `str[count]`.
    labels: Tensor,
}

/// The classes that one of the attributes lists; operators differ in how they call them.
pub(crate) fn classes(n: &Site) -> Result<Classes, Stop> {
    let mut labels = None;
    for name in ["classlabels_ints", "classlabels_int64s"] {
        labels = labels.or(n.ints(name)?);
    }
    let strings = n.strings("classlabels_strings")?;
    let labels = labels.map(|labels| Tensor::from_i64s(vec![labels.len()], &labels)).filter(|labels| labels.count() > 0).or(strings);
    match labels.filter(|labels| labels.count() > 0) {
        Some(labels) => Ok(Classes { count: labels.count(), labels }),
        None => Err(malformed(Code::Attribute, format!("`{}` has no classes", n.operator))),
    }
}

/// The label of the largest score of each row.
pub(crate) fn labelled(n: &mut Site, scores: ValueId, classes: &Classes) -> Result<ValueId, Stop> {
    let best = n.op(Op::arg_max { axis: 1, last: false }, &[scores])?;
    let count = n.dims(best)[0].clone();
    let best = n.reshape(best, [count])?;
    if classes.labels.to_i64s().is_some_and(|labels| labels.into_iter().eq(0..classes.count as i64)) {
        return Ok(best);
    }
    let labels = n.build.constant(classes.labels.clone());
    n.op(Op::gather { axis: 0 }, &[labels, best])
}

/// Scores `[b, c]` after `post_transform`.
pub(crate) fn transformed(n: &mut Site, x: ValueId, how: Option<&str>) -> Result<ValueId, Stop> {
    match how.unwrap_or("NONE") {
        "NONE" => Ok(x),
        "LOGISTIC" => n.op(Op::sigmoid, &[x]),
        "SOFTMAX" => n.op(Op::softmax { axes: vec![1] }, &[x]),
        "SOFTMAX_ZERO" => softmax_zero(n, x),
        other => Err(n.refused(
            "post_transform",
            other,
            format!("`{}` with post_transform {other} is not supported, expected NONE, LOGISTIC, SOFTMAX or SOFTMAX_ZERO", n.operator),
        )),
    }
}

/// Softmax in which `x*exp(-max)` stands for `exp(x - max)` where x is 0.
fn softmax_zero(n: &mut Site, x: ValueId) -> Result<ValueId, Stop> {
    let axes = vec![1];
    let most = n.op(Op::reduce_max { axes: axes.clone() }, &[x])?;
    let (apart, negated) = (n.op(Op::sub, &[x, most])?, n.op(Op::neg, &[most])?);
    let (power, least) = (n.op(Op::exp, &[apart])?, n.op(Op::exp, &[negated])?);
    let small = n.op(Op::mul, &[x, least])?;
    let size = n.op(Op::abs, &[x])?;
    let bound = n.scalar(NEARLY_ZERO, n.dtype(x));
    let counts = n.op(Op::lt, &[bound, size])?;
    let parts = n.op(Op::select, &[counts, power, small])?;
    let sum = n.op(Op::reduce_sum { axes }, &[parts])?;
    n.op(Op::div, &[parts, sum])
}

/// Scores as they are, in place of a map for each row: a compiled model has tensors only.
pub(crate) fn zip_map(n: &mut Site) -> Outcome {
    n.without_effect(&["classlabels_int64s", "classlabels_strings"]);
    Ok(vec![n.input(0)?])
}

/// `sum_i coefficient_i * kernel(x, support_i) + rho`; without supports, a linear model.
pub(crate) fn svm_regressor(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let x = rows(n, x)?;
    let x = n.cast(x, DType::F32)?;
    let supports = usize::try_from(n.int_or("n_supports", 0)?).unwrap_or(0);
    let coefficients = n.floats("coefficients")?;
    let coefficients = needed(n, "coefficients", coefficients)?;
    let vectors = n.floats("support_vectors")?.unwrap_or_default();
    let similar = if supports > 0 { kernel(n, x, supports, &vectors)? } else { x };
    let count = coefficients.len();
    let weights = vector(n, &coefficients, DType::F32);
    let weights = n.reshape(weights, [Dim::from(count), Dim::ONE])?;
    let y = n.op(Op::matmul, &[similar, weights])?;
    let rho = n.floats("rho")?.and_then(|rho| rho.first().copied()).unwrap_or(0.0);
    let y = n.with_number(Op::add, y, rho)?;
    let y = if n.flag("one_class")? { n.op(Op::sign, &[y])? } else { y };
    let how = n.text("post_transform")?;
    Ok(vec![transformed(n, y, how.as_deref())?])
}

/// How alike rows `[b, f]` and support vectors are: `[b, s]`.
fn kernel(n: &mut Site, x: ValueId, supports: usize, vectors: &[f64]) -> Result<ValueId, Stop> {
    if !vectors.len().is_multiple_of(supports) {
        return Err(malformed(Code::Attribute, format!("`{}` has {} numbers for {supports} support vectors", n.operator, vectors.len())));
    }
    let elements = vectors.iter().map(|&v| Element::Float(v));
    let vectors = n.build.constant(Tensor::from_elements(DType::F32, vec![supports, vectors.len() / supports], elements));
    let params = n.floats("kernel_params")?.unwrap_or_default();
    let [gamma, shift, degree] = [0, 1, 2].map(|i| params.get(i).copied().unwrap_or(0.0));
    let name = n.text("kernel_type")?.unwrap_or_else(|| "LINEAR".to_string());
    let turned = n.transpose(vectors, vec![1, 0])?;
    let dot = n.op(Op::matmul, &[x, turned])?;
    let affine = |n: &mut Site| {
        let scaled = n.with_number(Op::mul, dot, gamma)?;
        n.with_number(Op::add, scaled, shift)
    };
    match name.as_str() {
        "LINEAR" => Ok(dot),
        "POLY" => {
            let base = affine(n)?;
            n.with_number(Op::pow, base, degree)
        }
        "SIGMOID" => {
            let base = affine(n)?;
            n.op(Op::tanh, &[base])
        }
        "RBF" => {
            // |x - v|^2, one difference at a time: from squares and products it would cancel.
            let (a, b) = (apart(n, x, 1)?, apart(n, vectors, 0)?);
            let difference = n.op(Op::sub, &[a, b])?;
            let squares = n.op(Op::mul, &[difference, difference])?;
            let sum = n.op(Op::reduce_sum { axes: vec![2] }, &[squares])?;
            let dims = n.dims(dot);
            let sum = n.reshape(sum, dims)?;
            let scaled = n.with_number(Op::mul, sum, -gamma)?;
            n.op(Op::exp, &[scaled])
        }
        other => Err(n.refused("kernel_type", other, format!("`{}` has the kernels LINEAR, POLY, RBF and SIGMOID", n.operator))),
    }
}

/// `x` with an axis of extent 1 more.
fn apart(n: &mut Site, x: ValueId, axis: usize) -> Result<ValueId, Stop> {
    let mut dims = n.dims(x);
    dims.insert(axis, Dim::ONE);
    n.reshape(x, dims)
}
