//! Resizing an axis by a ratio that is no number when the model is imported: where each element comes from is computed when it runs.
//!
//! ```text
//! place = (o + 0.5) * from / to - 0.5        for o = 0, 1, ... to - 1
//! y     = gather(x, floor(place)) * (1 - d) + gather(x, floor(place) + 1) * d        with d = place - floor(place)
//! ```
//!
//! Invariant: places are computed in f64, multiplied before they are divided, so that those that are whole numbers are whole, as with
//! a ratio that is known.

use crate::site::{Site, Stop};
use egret_ir::attr::{Coordinates, Interpolation, Rounding};
use egret_ir::{DType, Dim, Op, ValueId};

/// How places become elements.
#[derive(Clone, Copy)]
pub(crate) struct Sampling {
    pub(crate) mode: Interpolation,
    pub(crate) coordinates: Coordinates,
    pub(crate) rounding: Rounding,
    /// Keys' coefficient `a`.
    pub(crate) cubic: f64,
}

/// `x` with `to` elements along an axis.
pub(crate) fn stretched(n: &mut Site, x: ValueId, axis: usize, to: &Dim, sampling: Sampling) -> Result<ValueId, Stop> {
    let from = n.dims(x)[axis].clone();
    let place = places(n, &from, to, sampling.coordinates)?;
    if sampling.mode == Interpolation::Nearest {
        let nearest = rounded(n, place, sampling.rounding)?;
        return picked(n, x, axis, nearest);
    }
    let first = n.op(Op::floor, &[place])?;
    let distance = n.op(Op::sub, &[place, first])?;
    let mut sum: Option<ValueId> = None;
    for (offset, weight) in taps(n, distance, sampling)? {
        let at = n.with_number(Op::add, first, offset)?;
        let element = picked(n, x, axis, at)?;
        let weight = beside(n, weight, x, axis, to)?;
        let part = n.op(Op::mul, &[element, weight])?;
        sum = Some(match sum {
            Some(sum) => n.op(Op::add, &[sum, part])?,
            None => part,
        });
    }
    Ok(sum.unwrap_or(x))
}

/// Where each of `to` elements stands among `from`: f64 `[to]`.
fn places(n: &mut Site, from: &Dim, to: &Dim, coordinates: Coordinates) -> Result<ValueId, Stop> {
    let o = n.iota(vec![to.clone()], 0, DType::F64)?;
    let (from, to) = (number(n, from)?, number(n, to)?);
    match coordinates {
        Coordinates::Asymmetric => quotient(n, o, from, to),
        Coordinates::AlignCorners => {
            let (last, others) = (n.with_number(Op::sub, from, 1.0)?, n.with_number(Op::sub, to, 1.0)?);
            // A single element stands at 0.
            let others = n.with_number(Op::max, others, 1.0)?;
            quotient(n, o, last, others)
        }
        Coordinates::HalfPixel | Coordinates::PytorchHalfPixel => {
            let centre = n.with_number(Op::add, o, 0.5)?;
            let place = quotient(n, centre, from, to)?;
            let place = n.with_number(Op::sub, place, 0.5)?;
            if coordinates == Coordinates::HalfPixel {
                return Ok(place);
            }
            let (one, zero) = (n.scalar(1.0, DType::F64), n.scalar(0.0, DType::F64));
            let is_several = n.op(Op::lt, &[one, to])?;
            n.op(Op::select, &[is_several, place, zero])
        }
    }
}

/// An extent as f64[].
fn number(n: &mut Site, extent: &Dim) -> Result<ValueId, Stop> {
    let extent = n.op(Op::dims { values: vec![extent.clone()] }, &[])?;
    let extent = n.reshape(extent, [])?;
    n.cast(extent, DType::F64)
}

fn quotient(n: &mut Site, x: ValueId, factor: ValueId, divisor: ValueId) -> Result<ValueId, Stop> {
    let product = n.op(Op::mul, &[x, factor])?;
    n.op(Op::div, &[product, divisor])
}

fn rounded(n: &mut Site, place: ValueId, rounding: Rounding) -> Result<ValueId, Stop> {
    match rounding {
        Rounding::Floor => n.op(Op::floor, &[place]),
        Rounding::Ceil => n.op(Op::ceil, &[place]),
        Rounding::PreferCeil => {
            let above = n.with_number(Op::add, place, 0.5)?;
            n.op(Op::floor, &[above])
        }
        Rounding::PreferFloor => {
            let below = n.with_number(Op::sub, place, 0.5)?;
            n.op(Op::ceil, &[below])
        }
    }
}

/// How much the elements around count, each with its distance from the first: two, or four for cubic interpolation.
fn taps(n: &mut Site, distance: ValueId, sampling: Sampling) -> Result<Vec<(f64, ValueId)>, Stop> {
    let a = sampling.cubic;
    let polynomials = match sampling.mode {
        Interpolation::Cubic => vec![
            (-1.0, [0.0, a, -2.0 * a, a]),
            (0.0, [1.0, 0.0, -(a + 3.0), a + 2.0]),
            (1.0, [0.0, -a, 2.0 * a + 3.0, -(a + 2.0)]),
            (2.0, [0.0, 0.0, a, -a]),
        ],
        Interpolation::Linear | Interpolation::Nearest => vec![(0.0, [1.0, -1.0, 0.0, 0.0]), (1.0, [0.0, 1.0, 0.0, 0.0])],
    };
    polynomials.into_iter().map(|(offset, terms)| Ok((offset, polynomial(n, distance, terms)?))).collect()
}

/// `terms[0] + terms[1]*x + ...`
fn polynomial(n: &mut Site, x: ValueId, terms: [f64; 4]) -> Result<ValueId, Stop> {
    let degree = (0..terms.len()).rev().find(|&i| terms[i] != 0.0).unwrap_or(0);
    let mut value = n.scalar(terms[degree], DType::F64);
    for &term in terms[..degree].iter().rev() {
        let product = n.op(Op::mul, &[value, x])?;
        value = n.with_number(Op::add, product, term)?;
    }
    Ok(value)
}

/// The elements at these places along an axis, which beyond its ends are those at the ends.
fn picked(n: &mut Site, x: ValueId, axis: usize, at: ValueId) -> Result<ValueId, Stop> {
    let last = n.dims(x)[axis].clone() - 1;
    let (zero, last) = (n.scalar(0.0, DType::F64), number(n, &last)?);
    let inside = n.op(Op::clip, &[at, zero, last])?;
    let inside = n.cast(inside, DType::I64)?;
    n.op(Op::gather { axis }, &[x, inside])
}

/// Weights `[to]` in the type of `x`, to be broadcast along the axis.
fn beside(n: &mut Site, weight: ValueId, x: ValueId, axis: usize, to: &Dim) -> Result<ValueId, Stop> {
    let weight = n.cast(weight, n.dtype(x))?;
    let inner = n.rank(x) - 1 - axis;
    n.reshape(weight, [vec![to.clone()], vec![Dim::ONE; inner]].concat())
}
