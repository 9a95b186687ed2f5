//! Operators that make values out of attributes and shapes.

use crate::error::Code;
use crate::model::dtype;
use crate::ops::elementwise::scalar;
use crate::ops::found;
use crate::site::{Outcome, Site, Stop, fault, malformed};
use egret_ir::{DType, Dim, Element, Op, Tensor};

/// One of several attributes holds the value.
pub(crate) fn constant(n: &mut Site) -> Outcome {
    let tensor = if let Some(tensor) = n.tensor("value")? {
        tensor
    } else if let Some(value) = n.float("value_float")? {
        Tensor::scalar(DType::F32, Element::Float(value))
    } else if let Some(values) = n.floats("value_floats")? {
        Tensor::from_elements(DType::F32, vec![values.len()], values.into_iter().map(Element::Float))
    } else if let Some(value) = n.int("value_int")? {
        Tensor::scalar(DType::I64, Element::Int(value.into()))
    } else if let Some(values) = n.ints("value_ints")? {
        Tensor::from_i64s(vec![values.len()], &values)
    } else if let Some(value) = n.string("value_string")? {
        value
    } else if let Some(values) = n.strings("value_strings")? {
        values
    } else {
        let found = if n.has("sparse_value") { "a sparse tensor" } else { "no value" };
        return Err(fault(Code::ValueKind, format!("`Constant` holds {found}, expected a dense tensor"), "replace it before the export"));
    };
    Ok(vec![n.build.constant(tensor)])
}

/// One value everywhere; 0.0 unless given.
pub(crate) fn constant_of_shape(n: &mut Site) -> Outcome {
    let shape = found::contents(n, 0, "the shape")?;
    let value = n.tensor("value")?.unwrap_or_else(|| Tensor::from_f32s(vec![1], &[0.0]));
    if value.count() != 1 {
        return Err(n.refused("value", format!("{value:?}"), "`ConstantOfShape` needs a value of one element"));
    }
    let one = n.build.constant(Tensor::scalar(value.dtype(), value.get(0)));
    Ok(vec![n.broadcast(one, shape)?])
}

/// Triangles on the mel scale, the weights of spectrogram bins in mel bins: `[dft_length/2 + 1, mel_bins]`. All inputs are numbers.
pub(crate) fn mel_weight_matrix(n: &mut Site) -> Outcome {
    let to = dtype_attribute(n, "output_datatype", DType::F32)?;
    let number = |index: usize| Ok::<f64, Stop>(n.constant(index, "the size")?.elements().next().map_or(0.0, Element::as_f64));
    let (bins, length, rate) = (number(0)?, number(1)?, number(2)?);
    let (low, high) = (number(3)?, number(4)?);
    let (bins, rows) = (bins as usize, (length / 2.0).floor() as usize + 1);
    if !(1..=LARGEST_SPECTRUM).contains(&bins) || !(1..=LARGEST_SPECTRUM).contains(&rows) || rate.is_nan() || rate <= 0.0 {
        let message = format!("`MelWeightMatrix` cannot have {bins} bins of {length} samples at {rate} Hz");
        return Err(malformed(Code::Shape, message));
    }
    let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let step = (mel(high) - mel(low)) / (bins + 2) as f64;
    let hertz = |i: usize| 700.0 * (10f64.powf((i as f64 * step + mel(low)) / 2595.0) - 1.0);
    let edges: Vec<f64> = (0..bins + 2).map(|i| ((length + 1.0) * hertz(i) / rate).floor()).collect();
    let weight = |row: usize, bin: usize| {
        let (at, [from, centre, end]) = (row as f64, [edges[bin], edges[bin + 1], edges[bin + 2]]);
        match at {
            at if at == centre && centre == from => 1.0,
            at if from <= at && at < centre => (at - from) / (centre - from),
            at if centre <= at && at < end => (end - at) / (end - centre),
            at if at == centre => 1.0,
            _ => 0.0,
        }
    };
    let weights = (0..rows).flat_map(|row| (0..bins).map(move |bin| (row, bin))).map(|(row, bin)| Element::Float(weight(row, bin)));
    Ok(vec![n.build.constant(Tensor::from_elements(to, vec![rows, bins], weights))])
}

/// Bins of a spectrogram: speech and music have some thousand.
const LARGEST_SPECTRUM: usize = 1 << 15;

/// The type that an attribute names, or that of the first input.
fn dtype_attribute(n: &Site, name: &str, default: DType) -> Result<DType, Stop> {
    match n.int(name)? {
        None => Ok(default),
        Some(number) => {
            let found = i32::try_from(number).map_err(|_| format!("element type number {number} is not known")).and_then(dtype);
            found.map_err(|message| fault(Code::ElementType, message, "use another type before the export"))
        }
    }
}

/// 1 on diagonal `k`, 0 elsewhere.
pub(crate) fn eye_like(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let (to, k) = (dtype_attribute(n, "dtype", n.dtype(x))?, n.int_or("k", 0)?);
    let dims = n.dims(x);
    if dims.len() != 2 {
        return Err(malformed(Code::Shape, format!("`EyeLike` expects a matrix, found {}", n.ty(x))));
    }
    let (row, column) = (n.iota(dims.clone(), 0, DType::I64)?, n.iota(dims, 1, DType::I64)?);
    let diagonal = n.with_number(Op::add, row, k as f64)?;
    let ones = n.op(Op::eq, &[diagonal, column])?;
    Ok(vec![n.cast(ones, to)?])
}

/// `start`, `start + delta`, ... up to but without `limit`.
pub(crate) fn range(n: &mut Site) -> Outcome {
    let inputs = [n.input(0)?, n.input(1)?, n.input(2)?];
    let dtype = n.dtype(inputs[0]);
    let known = inputs.iter().all(|&x| if dtype.is_float() { n.build.tensor(x).is_some() } else { n.build.contents(x).is_some() });
    let count = match known {
        false => found::range_count(n, inputs)?,
        true if dtype.is_float() => float_count(n)?,
        true => int_count(n)?,
    };
    let delta_is_one = n.build.tensor(inputs[2]).and_then(|t| t.as_splat()).is_some_and(|d| d.as_f64() == 1.0);
    let start_is_zero = n.build.tensor(inputs[0]).and_then(|t| t.as_splat()).is_some_and(|s| s.as_f64() == 0.0);
    let mut steps = n.iota(vec![count], 0, dtype)?;
    if !delta_is_one {
        let delta = scalar(n, inputs[2])?;
        steps = n.op(Op::mul, &[steps, delta])?;
    }
    if !start_is_zero {
        let start = scalar(n, inputs[0])?;
        steps = n.op(Op::add, &[steps, start])?;
    }
    Ok(vec![steps])
}

/// `ceil((limit - start)/delta)`, none if that is negative.
fn int_count(n: &Site) -> Result<Dim, Stop> {
    let one = |index: usize, what: &str| Ok::<Dim, Stop>(n.contents(index, what)?.into_iter().next().unwrap_or(Dim::ZERO));
    let (start, limit) = (one(0, "the start")?, one(1, "the limit")?);
    let delta = one(2, "the step")?;
    let step = delta.as_const().filter(|d| *d != 0 && *d != i64::MIN);
    let step =
        step.ok_or_else(|| malformed(Code::DataDependent, format!("the step of `Range` must be a number other than 0, found {delta}")))?;
    let length = if step > 0 { limit - start } else { start - limit };
    let count = length.ceil_div(&Dim::from(step.abs()));
    Ok(if count.as_const().is_some() { count.maximum(&Dim::ZERO) } else { count })
}

fn float_count(n: &Site) -> Result<Dim, Stop> {
    let one = |index: usize, what: &str| Ok::<f64, Stop>(n.constant(index, what)?.elements().next().map_or(0.0, Element::as_f64));
    let count = ((one(1, "the limit")? - one(0, "the start")?) / one(2, "the step")?).ceil();
    if !count.is_finite() {
        return Err(malformed(Code::Shape, format!("`Range` would have {count} elements")));
    }
    Ok(Dim::from(count.max(0.0) as i64))
}

pub(crate) fn hann_window(n: &mut Site) -> Outcome {
    window(n, &[0.5, 0.5])
}

pub(crate) fn hamming_window(n: &mut Site) -> Outcome {
    // 25/46 as the specification has it, where other sources round to 0.54.
    window(n, &[25.0 / 46.0, 21.0 / 46.0])
}

pub(crate) fn blackman_window(n: &mut Site) -> Outcome {
    window(n, &[0.42, 0.5, 0.08])
}

/// `a0 - a1*cos(x) + a2*cos(2x) ...` with `x = 2*pi*i/period`; a symmetric window has its period one shorter than its size.
fn window(n: &mut Site, terms: &[f64]) -> Outcome {
    let to = dtype_attribute(n, "output_datatype", DType::F32)?;
    let periodic = n.int_or("periodic", 1)? != 0;
    let size = n.numbers(0, "the size")?.into_iter().next().unwrap_or(0);
    // Audio windows have some thousand samples.
    let size = usize::try_from(size).ok().filter(|s| *s <= 1 << 24);
    let size = size.ok_or_else(|| malformed(Code::Shape, format!("`{}` has a size outside of 0 to 2^24", n.operator)))?;
    let period = if periodic { size } else { size.saturating_sub(1) }.max(1) as f64;
    let sample = |i: usize| {
        let angle = std::f64::consts::TAU * i as f64 / period;
        let sign = |k: usize| if k.is_multiple_of(2) { 1.0 } else { -1.0 };
        let term = |(k, a): (usize, &f64)| sign(k) * a * (angle * k as f64).cos();
        Element::Float(terms.iter().enumerate().map(term).sum())
    };
    Ok(vec![n.build.constant(Tensor::from_elements(to, vec![size], (0..size).map(sample)))])
}
