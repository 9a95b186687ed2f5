//! `resize`: another extent and interpolation per axis (ONNX Resize).

use crate::attr::{Coordinates, Interpolation, Real, Rounding};
use crate::dim::Dim;
use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::{Number, sized};
use crate::ops::strided::around;
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// The extents become `shape`.
///
/// # Errors
/// When a list has the wrong length, a scale is not positive, or the interpolation does not take the element type.
pub fn infer(
    shape: &[Dim],
    scales: &[Real],
    mode: &Interpolation,
    _coordinates: &Coordinates,
    _rounding: &Rounding,
    _cubic: &Real,
    operands: &[&TensorType],
) -> Inferred {
    let x = operands[0];
    check::per_axis("shape", shape, x.rank())?;
    check::per_axis("scales", scales, x.rank())?;
    check::extents("shape", shape)?;
    if let Some(scale) = scales.iter().find(|s| !(s.0 > 0.0 && s.0.is_finite())) {
        return Err(format!("expects positive scales, found {scale}"));
    }
    if *mode != Interpolation::Nearest {
        check::float("x", x)?;
    }
    if let Some((d, _)) = x.dims.iter().zip(shape).find(|(d, s)| d.is(0) && !s.is(0)) {
        return Err(format!("expects elements to take values from, found an extent of {d}"));
    }
    Ok(vec![x.with_dims(shape.to_vec())])
}

/// Axis by axis, in f64.
pub fn eval(
    shape: &[Dim],
    scales: &[Real],
    mode: &Interpolation,
    coordinates: &Coordinates,
    rounding: &Rounding,
    cubic: &Real,
    operands: &[&Tensor],
    _results: &[TensorType],
) -> Result<Vec<Tensor>, String> {
    let x = operands[0];
    let shape = check::allocatable(&x.ty().with_dims(shape.to_vec()))?;
    let axes = (0..shape.len()).filter(|&a| x.shape()[a] != shape[a] || scales[a].0 != 1.0);
    let taps = |axis: usize| {
        let sampling = Sampling { mode: *mode, coordinates: *coordinates, rounding: *rounding, cubic: cubic.0 };
        sampling.taps(x.shape()[axis], shape[axis], scales[axis].0)
    };
    Ok(vec![match mode {
        Interpolation::Nearest => axes.fold(x.clone(), |x, axis| pick(&x, axis, &taps(axis))),
        Interpolation::Linear | Interpolation::Cubic => {
            let start = (x.shape().to_vec(), f64::read(x));
            let (_, values) = axes.fold(start, |(shape, values), axis| blend(shape, &values, axis, &taps(axis)));
            f64::write(x.dtype(), &shape, values)
        }
    }])
}

/// How the elements of a resized axis take their values.
pub struct Sampling {
    /// From one neighbour, two or four.
    pub mode: Interpolation,
    /// From output to input coordinates.
    pub coordinates: Coordinates,
    /// From a coordinate to the nearest element.
    pub rounding: Rounding,
    /// Keys' coefficient `a`.
    pub cubic: f64,
}

impl Sampling {
    /// Per output element of an axis the input elements it is made of, with their weights. Elements before the first and
    /// after the last repeat these.
    pub fn taps(&self, input: usize, output: usize, scale: f64) -> Vec<Vec<(usize, f64)>> {
        let inside = |position: f64| position.clamp(0.0, input as f64 - 1.0) as usize;
        let taps = |o: usize| {
            let at = self.coordinate(o as f64, input as f64, output, scale);
            let (before, ratio) = (at.floor(), at - at.floor());
            match self.mode {
                Interpolation::Nearest => vec![(inside(self.rounded(at)), 1.0)],
                Interpolation::Linear => vec![(inside(before), 1.0 - ratio), (inside(before + 1.0), ratio)],
                Interpolation::Cubic => {
                    let weights = [1.0 + ratio, ratio, 1.0 - ratio, 2.0 - ratio].map(|d| self.keys(d));
                    weights.into_iter().enumerate().map(|(k, w)| (inside(before - 1.0 + k as f64), w)).collect()
                }
            }
        };
        (0..output).map(taps).collect()
    }

    fn coordinate(&self, o: f64, input: f64, output: usize, scale: f64) -> f64 {
        let half_pixel = (o + 0.5) / scale - 0.5;
        match self.coordinates {
            Coordinates::HalfPixel => half_pixel,
            Coordinates::PytorchHalfPixel => {
                if output > 1 {
                    half_pixel
                } else {
                    0.0
                }
            }
            Coordinates::AlignCorners => {
                let last = resized(input, output, scale) - 1.0;
                if last > 0.0 { o * (input - 1.0) / last } else { 0.0 }
            }
            Coordinates::Asymmetric => o / scale,
        }
    }

    fn rounded(&self, at: f64) -> f64 {
        match self.rounding {
            Rounding::PreferFloor => (at - 0.5).ceil(),
            Rounding::PreferCeil => (at + 0.5).floor(),
            Rounding::Floor => at.floor(),
            Rounding::Ceil => at.ceil(),
        }
    }

    /// Keys' kernel: the weight of an element at distance `d` in 0..=2.
    fn keys(&self, d: f64) -> f64 {
        let a = self.cubic;
        if d <= 1.0 { ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0 } else { (((d - 5.0) * d + 8.0) * d - 4.0) * a }
    }
}

/// The resized extent as ONNX counts it, `scale * input`, which need not be an integer; but the output's where it is that
/// number up to rounding, as it is when the model gives sizes.
fn resized(input: f64, output: usize, scale: f64) -> f64 {
    const ROUNDING: f64 = 1e-6;
    let (exact, output) = (scale * input, output as f64);
    if (exact - output).abs() <= ROUNDING * output { output } else { exact }
}

/// The slices along `axis` that the single taps name.
fn pick(x: &Tensor, axis: usize, taps: &[Vec<(usize, f64)>]) -> Tensor {
    let (outer, extent, inner) = around(x.shape(), axis);
    let bytes = inner * x.dtype().size();
    let mut data = vec![];
    for o in 0..outer {
        taps.iter().for_each(|tap| data.extend_from_slice(&x.bytes()[(o * extent + tap[0].0) * bytes..][..bytes]));
    }
    sized(x.dtype(), &resized_shape(x.shape().to_vec(), axis, taps.len()), data)
}

/// The weighted sums of the slices along `axis`.
fn blend(shape: Vec<usize>, values: &[f64], axis: usize, taps: &[Vec<(usize, f64)>]) -> (Vec<usize>, Vec<f64>) {
    let (outer, extent, inner) = around(&shape, axis);
    let mut out = vec![0.0; outer * taps.len() * inner];
    for (slice, out) in out.chunks_exact_mut(inner.max(1)).enumerate() {
        let (o, tap) = (slice / taps.len(), slice % taps.len());
        for &(k, weight) in &taps[tap] {
            out.iter_mut().zip(&values[(o * extent + k) * inner..]).for_each(|(sum, v)| *sum += weight * v);
        }
    }
    (resized_shape(shape, axis, taps.len()), out)
}

fn resized_shape(mut shape: Vec<usize>, axis: usize, extent: usize) -> Vec<usize> {
    shape[axis] = extent;
    shape
}
