//! Resizing: each axis takes its elements from one, two or four neighbours.
//!
//! Between extents that are numbers, the neighbours and their weights are tables made when the model is compiled; a whole
//! factor needs no table, since the neighbour of `o` is `o/factor`. Otherwise both are computed at run time.

use super::Place;
use super::exprs::{bin, cast, index, un};
use super::value::{Build, Stop, Valued};
use crate::kernel::{Expr, ExprKind};
use egret_ir::attr::{Coordinates, Interpolation, Real, Rounding};
use egret_ir::ops::resize::Sampling;
use egret_ir::scalar::{BinOp, UnOp};
use egret_ir::{DType, Dim, Element, Node, Op, Tensor, ValueId};
use std::sync::Arc;

/// A neighbour: its index and, unless it is the only one, its weight.
type Tap = (Dim, Option<Expr>);

/// A resize of one axis.
struct Axis<'a> {
    sampling: &'a Sampling,
    input: Dim,
    output: Dim,
    scale: f64,
}

impl Build<'_> {
    /// The resized value at an index.
    pub fn resize(&mut self, value: ValueId, node: &Node, at: &[Dim]) -> Valued {
        let Op::resize { shape, scales, mode, coordinates, rounding, cubic } = &node.op else {
            return Err(Stop::Fail(value, "it is no resize".to_string()));
        };
        let sampling = Sampling { mode: *mode, coordinates: *coordinates, rounding: *rounding, cubic: cubic.0 };
        let x = node.operands[0];
        let mut taps: Vec<Vec<Tap>> = vec![];
        for (i, o) in at.iter().enumerate() {
            let Real(scale) = scales[i];
            let axis = Axis { sampling: &sampling, input: self.ty(x).dims[i].clone(), output: shape[i].clone(), scale };
            let unchanged = axis.input == axis.output && scale == 1.0;
            taps.push(if unchanged { vec![(o.clone(), None)] } else { self.taps(value, &axis, o)? });
        }
        let dtype = self.ty(x).dtype;
        let blended = self.blend(x, &taps, &mut vec![], super::fold::wide(dtype))?;
        Ok(cast(&blended, dtype))
    }

    /// The weighted sum over the neighbours of all axes, the innermost axis first.
    fn blend(&mut self, x: ValueId, taps: &[Vec<Tap>], at: &mut Vec<Dim>, dtype: DType) -> Valued {
        let Some(axis) = taps.get(at.len()) else {
            let index = at.clone();
            return Ok(cast(&self.value(x, &index)?, dtype));
        };
        let mut sum: Option<Expr> = None;
        for (index, weight) in axis {
            at.push(index.clone());
            let part = self.blend(x, taps, at, dtype)?;
            at.pop();
            let part = weight.as_ref().map_or(part.clone(), |w| bin(BinOp::Mul, &part, &cast(w, dtype)));
            sum = Some(sum.map_or(part.clone(), |s| bin(BinOp::Add, &s, &part)));
        }
        Ok(sum.unwrap_or_else(|| Expr::literal(0.0, dtype)))
    }

    fn taps(&mut self, value: ValueId, axis: &Axis, o: &Dim) -> Result<Vec<Tap>, Stop> {
        let numbers =
            axis.input.as_const().zip(axis.output.as_const()).and_then(|(i, o)| Some((usize::try_from(i).ok()?, usize::try_from(o).ok()?)));
        match numbers {
            Some((input, output)) => Ok(self.known_taps(axis, input, output, o)),
            None => self.computed_taps(value, axis, o),
        }
    }

    fn known_taps(&mut self, axis: &Axis, input: usize, output: usize, o: &Dim) -> Vec<Tap> {
        let taps = axis.sampling.taps(input, output, axis.scale);
        let count = taps.first().map_or(0, Vec::len);
        let is_single = axis.sampling.mode == Interpolation::Nearest;
        let neighbour = |k: usize| taps.iter().map(move |t| t[k].0).collect::<Vec<_>>();
        let factor = output / input.max(1);
        if is_single && factor > 0 && neighbour(0).iter().enumerate().all(|(o, &i)| i == o / factor) {
            return vec![(self.ranges.div(o, &Dim::from(factor)), None)];
        }
        let tap = |k: usize| {
            let indices: Vec<i64> = neighbour(k).into_iter().map(|i| i as i64).collect();
            let weights: Vec<f32> = taps.iter().map(|t| t[k].1 as f32).collect();
            (Tensor::from_i64s(vec![output], &indices), Tensor::from_f32s(vec![output], &weights))
        };
        let tables: Vec<(Tensor, Tensor)> = (0..count).map(tap).collect();
        let taps = tables.into_iter().map(|(indices, weights)| {
            let picked = self.table(indices, o);
            let weight = (!is_single).then(|| self.table(weights, o));
            (self.bind(picked, &axis.input), weight)
        });
        taps.collect()
    }

    /// The element `o` of a table.
    fn table(&mut self, table: Tensor, o: &Dim) -> Expr {
        let dtype = table.dtype();
        let element = o.as_const().and_then(|o| usize::try_from(o).ok()).filter(|&o| o < table.count()).map(|o| table.get(o));
        match element {
            Some(Element::Float(v)) => Expr::literal(v, dtype),
            Some(e) => Expr::literal(e.as_f64(), dtype),
            None => Expr::new(dtype, ExprKind::Load(self.buffer(&Place::Table(Arc::new(table))), o.clone())),
        }
    }

    fn computed_taps(&mut self, value: ValueId, axis: &Axis, o: &Dim) -> Result<Vec<Tap>, Stop> {
        let at = coordinate(axis, o);
        let last = sub(&index(&axis.input, DType::F64), &number(1.0));
        let mut tap = |position: Expr| {
            let inside = bin(BinOp::Min, &bin(BinOp::Max, &position, &number(0.0)), &last);
            self.bind(cast(&inside, DType::I64), &axis.input)
        };
        match axis.sampling.mode {
            Interpolation::Nearest => Ok(vec![(tap(rounded(axis.sampling.rounding, &at)), None)]),
            Interpolation::Linear => {
                let before = un(UnOp::Floor, &at, DType::F64);
                let ratio = sub(&at, &before);
                let (first, second) = (tap(before.clone()), tap(bin(BinOp::Add, &before, &number(1.0))));
                Ok(vec![(first, Some(sub(&number(1.0), &ratio))), (second, Some(ratio))])
            }
            Interpolation::Cubic => Err(Stop::Fail(value, "cubic interpolation needs extents that are numbers".to_string())),
        }
    }
}

fn number(x: f64) -> Expr {
    Expr::literal(x, DType::F64)
}

fn sub(x: &Expr, y: &Expr) -> Expr {
    bin(BinOp::Sub, x, y)
}

/// The input coordinate of output element `o`, in f64; [`Sampling`] says it in numbers.
fn coordinate(axis: &Axis, o: &Dim) -> Expr {
    let (o, scale) = (index(o, DType::F64), number(axis.scale));
    let half_pixel = sub(&bin(BinOp::Div, &bin(BinOp::Add, &o, &number(0.5)), &scale), &number(0.5));
    let [input, output] = [&axis.input, &axis.output].map(|d| index(d, DType::F64));
    let is_above = |limit: f64, x: &Expr| bin(BinOp::Lt, &number(limit), x);
    match axis.sampling.coordinates {
        Coordinates::HalfPixel => half_pixel,
        Coordinates::PytorchHalfPixel => super::exprs::select(&is_above(1.0, &output), &half_pixel, &number(0.0)),
        Coordinates::AlignCorners => {
            let last = sub(&output, &number(1.0));
            let along = bin(BinOp::Div, &bin(BinOp::Mul, &o, &sub(&input, &number(1.0))), &last);
            super::exprs::select(&is_above(0.0, &last), &along, &number(0.0))
        }
        Coordinates::Asymmetric => bin(BinOp::Div, &o, &scale),
    }
}

fn rounded(rounding: Rounding, at: &Expr) -> Expr {
    let half = number(0.5);
    match rounding {
        Rounding::PreferFloor => un(UnOp::Ceil, &sub(at, &half), DType::F64),
        Rounding::PreferCeil => un(UnOp::Floor, &bin(BinOp::Add, at, &half), DType::F64),
        Rounding::Floor => un(UnOp::Floor, at, DType::F64),
        Rounding::Ceil => un(UnOp::Ceil, at, DType::F64),
    }
}
