//! Resizing as a product with a matrix per axis, for what the op `resize` does not have: filters while shrinking, elements
//! outside that count nothing, cropping, and the symmetric coordinates. Extents have to be numbers.
//!
//! ```text
//! y[o] = sum over i of w[o, i] * x[i],   w[o, i] = kernel(|i - place(o)|), rows sum to 1
//! ```

use crate::error::Code;
use crate::site::{Outcome, Site, Stop, fault};
use egret_ir::attr::Interpolation;
use egret_ir::{DType, Dim, Element, Op, Tensor, ValueId};

/// Elements of the matrix of one axis: an image of 4096 pixels, resized to as many.
const MOST_WEIGHTS: usize = 1 << 24;

/// How an axis is resized.
pub(crate) struct Axis {
    pub(crate) axis: usize,
    pub(crate) scale: f64,
    pub(crate) place: Place,
}

/// Where an output element stands in the input.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// Centres of pixels; where the scaled extent was rounded, the rest is left out on both sides alike.
    Symmetric,
    /// Centres of pixels.
    HalfPixel,
    /// The same, and 0 for a single element.
    PytorchHalfPixel,
    /// The ends lie on the ends.
    AlignCorners,
    /// `o / scale`.
    Asymmetric,
    /// A part of the axis, from one share of it to another.
    Crop(f64, f64),
}

/// What stands between elements and outside of them.
pub(crate) struct Kernel {
    pub(crate) mode: Interpolation,
    pub(crate) cubic: f64,
    pub(crate) antialias: bool,
    pub(crate) exclude_outside: bool,
    /// What stands where a place lies outside, instead of the border.
    pub(crate) outside: Option<f64>,
}

impl Place {
    fn of(self, o: usize, from: usize, to: usize, scale: f64) -> f64 {
        let (o, last) = (o as f64, from as f64 - 1.0);
        let scaled = from as f64 * scale;
        match self {
            Place::HalfPixel => (o + 0.5) / scale - 0.5,
            Place::PytorchHalfPixel if to == 1 => 0.0,
            Place::PytorchHalfPixel => (o + 0.5) / scale - 0.5,
            Place::Symmetric => from as f64 / 2.0 * (1.0 - to as f64 / scaled) + (o + 0.5) / scale - 0.5,
            Place::AlignCorners if to == 1 => 0.0,
            Place::AlignCorners => o * last / (scaled - 1.0),
            Place::Asymmetric => o / scale,
            Place::Crop(start, end) if to == 1 => start * last + (end - start) * last / 2.0,
            Place::Crop(start, end) => start * last + o * (end - start) * last / (to as f64 - 1.0),
        }
    }
}

impl Kernel {
    /// How much an element at a distance counts, and up to which distance any does.
    fn weight(&self, distance: f64) -> f64 {
        let (d, a) = (distance.abs(), self.cubic);
        match self.mode {
            Interpolation::Cubic if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
            Interpolation::Cubic if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
            Interpolation::Cubic => 0.0,
            Interpolation::Linear | Interpolation::Nearest => (1.0 - d).max(0.0),
        }
    }

    fn reach(&self) -> f64 {
        if self.mode == Interpolation::Cubic { 2.0 } else { 1.0 }
    }

    /// One row of the matrix.
    fn row(&self, at: f64, from: usize, scale: f64) -> Vec<f64> {
        let mut row = vec![0.0; from];
        let narrow = if self.antialias { scale.min(1.0) } else { 1.0 };
        let (first, last) = ((at - self.reach() / narrow).floor() as i64, (at + self.reach() / narrow).ceil() as i64);
        for i in first..=last {
            let inside = i.clamp(0, from as i64 - 1);
            if i == inside || !self.exclude_outside {
                row[inside as usize] += self.weight((i as f64 - at) * narrow);
            }
        }
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|weight| *weight /= sum);
        row
    }
}

/// `x` with the axes resized to these extents, each after the other.
pub(crate) fn resampled(n: &mut Site, x: ValueId, axes: &[Axis], shape: &[Dim], kernel: &Kernel) -> Outcome {
    let dtype = n.dtype(x);
    let mut y = n.cast(x, DType::F32)?;
    let mut outside = None;
    for how in axes {
        let (from, to) = (extent(n, &n.dims(x)[how.axis].clone())?, extent(n, &shape[how.axis])?);
        if from.saturating_mul(to) > MOST_WEIGHTS {
            let message = format!("`{}` of this kind from {from} to {to} elements is not supported", n.operator);
            return Err(fault(Code::Shape, message, "resize with another mode, or in smaller steps"));
        }
        let places: Vec<f64> = (0..to).map(|o| how.place.of(o, from, to, how.scale)).collect();
        y = along(n, y, how, &places, from, kernel)?;
        if kernel.outside.is_some() {
            let is_outside = |place: &f64| Element::Bool(*place < 0.0 || *place > from as f64 - 1.0);
            let mut dims = vec![1; shape.len()];
            dims[how.axis] = to;
            let mask = n.build.constant(Tensor::from_elements(DType::Bool, dims, places.iter().map(is_outside)));
            outside = Some(match outside {
                Some(other) => n.op(Op::or, &[other, mask])?,
                None => mask,
            });
        }
    }
    if let (Some(mask), Some(value)) = (outside, kernel.outside) {
        let value = n.scalar(value, DType::F32);
        y = n.op(Op::select, &[mask, value, y])?;
    }
    Ok(vec![n.cast(y, dtype)?])
}

/// The product of one axis with its matrix.
fn along(n: &mut Site, x: ValueId, how: &Axis, places: &[f64], from: usize, kernel: &Kernel) -> Result<ValueId, Stop> {
    let rows = places.iter().flat_map(|&at| kernel.row(at, from, how.scale));
    let matrix = Tensor::from_elements(DType::F32, vec![places.len(), from], rows.map(Element::Float));
    let matrix = n.build.constant(matrix);
    let matrix = n.transpose(matrix, vec![1, 0])?;
    let rank = n.rank(x);
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(how.axis, rank - 1);
    let last = n.transpose(x, perm.clone())?;
    let product = n.op(Op::matmul, &[last, matrix])?;
    n.transpose(product, perm)
}

fn extent(n: &Site, dim: &Dim) -> Result<usize, Stop> {
    let found = dim.as_const().and_then(|d| usize::try_from(d).ok()).filter(|d| *d > 0);
    found.ok_or_else(|| {
        let message = format!("`{}` of this kind needs extents that are numbers from 1, found `{dim}`", n.operator);
        fault(Code::DataDependent, message, crate::site::dim_help(&dim.symbols()))
    })
}
