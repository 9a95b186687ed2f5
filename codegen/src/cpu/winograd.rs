//! Convolutions by Winograd's algorithm: a unit of tiles at a time through the part's working memory.
//!
//! ```text
//! for this part's units:
//!     for tiles, for vectors of input channels:  read 6x6, transform, write [36][tile][channel]
//!     36 matrix products                         [tile][channel] x weights -> [36][tile][out]
//!     for tiles, for vectors of output channels: read 36, transform, epilogue at 4x4 points
//! ```
//!
//! The last unit may have fewer tiles than the others. Where their number is known, the products are those of a whole unit, and what they
//! make of the tiles that it lacks is never read.

use super::emit::Value;
use super::point::Point;
use super::scope::{Gen, Run};
use super::split::working_bytes;
use crate::kernel::{Axis, Body, Buffer, BufferId, Kernel, Winograd};
use crate::winograd::{Arithmetic, INPUTS, OUTPUTS, PRODUCTS, input, output};
use egret_ir::{DType, Dim};
use inkwell::IntPredicate;
use inkwell::values::IntValue;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// The kernel with its working memory as two buffers more: transformed inputs, and products.
pub(crate) fn with_working_buffers(kernel: &Kernel) -> Cow<'_, Kernel> {
    let Body::Winograd(_) = kernel.body else { return Cow::Borrowed(kernel) };
    let working = ["inputs'", "products'"].map(|name| Buffer { name: name.into(), dtype: DType::F32, written: true });
    let mut kernel = kernel.clone();
    kernel.buffers.extend(working);
    Cow::Owned(kernel)
}

/// A unit of work, in terms of the loops.
struct Unit {
    /// The transformed inputs and the products.
    buffers: [BufferId; 2],
    /// The number of the first tile, and of the one behind the last.
    tiles: [Dim; 2],
}

impl Unit {
    /// How many tiles the products are taken of.
    fn extent(&self, w: &Winograd) -> Dim {
        match w.all_tiles().as_const() {
            Some(_) => w.block.into(),
            None => self.tiles[1].clone() - self.tiles[0].clone(),
        }
    }
}

impl<'c> Gen<'_, 'c> {
    /// Emits a convolution by Winograd's algorithm.
    pub(crate) fn winograd(&mut self, w: &Winograd) {
        let buffers = self.working_buffers(w);
        let extents: Vec<Dim> = w.batch.iter().map(|a| a.extent.clone()).collect();
        self.unless_empty(&extents, |g| {
            let units = w.units();
            let first = units.index() * w.block;
            let unit = Unit { buffers, tiles: [first.clone(), (first + w.block).minimum(&w.all_tiles())] };
            g.for_part(&[units], |g| {
                g.transform_inputs(w, &unit);
                g.contract_at_once(&w.products(unit.extent(w), buffers[0], buffers[1], g.e.lanes));
                g.transform_products(w, &unit);
            });
        });
    }

    /// The addresses of the working memory, as those of the last two buffers.
    fn working_buffers(&mut self, w: &Winograd) -> [BufferId; 2] {
        let inputs = self.scratch.expect("a kernel with working memory is given some");
        let products = self.e.displaced(inputs, working_bytes(w.working()[0]) as i64);
        let first = self.bases.len();
        self.bases.extend([inputs, products]);
        [BufferId(first), BufferId(first + 1)]
    }

    /// Runs `body` at the tiles of a unit, with the symbol of their number.
    fn tiles_of(&mut self, w: &Winograd, unit: &Unit, body: impl FnOnce(&mut Self, &Dim)) {
        let tile: Arc<str> = self.fresh("tile");
        let [start, end] = [&unit.tiles[0], &unit.tiles[1]].map(|d| self.index(d));
        let range = self.axis_range(&Axis::new(tile.clone(), w.all_tiles()));
        self.repeat(&tile, Run { start, end, step: 1, certain: true, range }, vec![], |g, _| {
            body(g, &Dim::symbol(tile.clone()));
            vec![]
        });
    }

    fn transform_inputs(&mut self, w: &Winograd, unit: &Unit) {
        self.tiles_of(w, unit, |g, tile| {
            let (images, [down, across]) = w.tile_at(tile);
            let (start, end) = (g.e.i64(0), g.index(&w.depth.extent));
            g.lanes(&w.depth, start, end, 1, |g, points| {
                let here = w.batch.iter().zip(&images).fold(points[0].renewed(), |p, (axis, at)| p.fixed(&axis.name, at.clone()));
                let read = |g: &mut Self, i: usize, j: usize| {
                    let [y, x] = [w.input_at(0, &down, i), w.input_at(1, &across, j)];
                    g.read(&mut here.renewed().fixed(&w.rows[0].name, y).fixed(&w.rows[1].name, x), w.a.0, &w.a.1)
                };
                let tile_inputs: Vec<Value> = (0..PRODUCTS).map(|at| read(g, at / INPUTS, at % INPUTS)).collect();
                for (product, value) in input(&Vectors(g), &tile_inputs).into_iter().enumerate() {
                    let offset = w.working_at(product, &(tile.clone() - unit.tiles[0].clone()), &w.depth);
                    g.write(&points[0], unit.buffers[0], &offset, value);
                }
            });
        });
    }

    fn transform_products(&mut self, w: &Winograd, unit: &Unit) {
        self.tiles_of(w, unit, |g, tile| {
            let (images, tile_index) = w.tile_at(tile);
            let (start, end) = (g.e.i64(0), g.index(&w.cols.extent));
            g.lanes(&w.cols, start, end, 1, |g, points| {
                let here = w.batch.iter().zip(&images).fold(points[0].renewed(), |p, (axis, at)| p.fixed(&axis.name, at.clone()));
                let read = |g: &mut Self, product: usize| {
                    let offset = w.working_at(product, &(tile.clone() - unit.tiles[0].clone()), &w.cols);
                    g.read(&mut points[0].renewed(), unit.buffers[1], &offset)
                };
                let products: Vec<Value> = (0..PRODUCTS).map(|product| read(g, product)).collect();
                let outputs = output(&Vectors(g), &products);
                g.tile_epilogue(w, &here, &tile_index, &outputs);
            });
        });
    }

    /// The epilogue at the outputs of a tile that the image has.
    fn tile_epilogue(&mut self, w: &Winograd, here: &Point<'c>, tile: &[Dim; 2], outputs: &[Value<'c>]) {
        self.within_image(&w.rows[0], &tile[0], &mut |g, rows| {
            g.within_image(&w.rows[1], &tile[1], &mut |g, columns| {
                for i in rows.clone() {
                    let at = |j: usize| {
                        let [y, x] = [tile[0].clone() * OUTPUTS + i, tile[1].clone() * OUTPUTS + j];
                        let point = here.renewed().fixed(&w.rows[0].name, y).fixed(&w.rows[1].name, x);
                        point.with(&"acc".into(), outputs[i * OUTPUTS + j])
                    };
                    let points = columns.clone().map(at).collect();
                    g.block(&w.epilogue, points);
                }
            });
        });
    }

    /// Runs `body` with those of a tile's outputs that the image has along an axis: all but in the last tile. Where it is not known how
    /// many the last tile has, they are taken one by one.
    fn within_image(&mut self, axis: &Axis, tile: &Dim, body: &mut dyn FnMut(&mut Self, Range<usize>)) {
        let rest = axis.extent.modulo(&OUTPUTS.into()).as_const();
        if rest == Some(0) {
            return body(self, 0..OUTPUTS);
        }
        let (at, whole) = (self.index(tile), self.index(&axis.extent.floor_div(&OUTPUTS.into())));
        let mut when = |g: &mut Self, predicate, x: IntValue<'c>, y: IntValue<'c>, outputs: Range<usize>| {
            let holds = g.e.icmp(predicate, x.into(), y.into()).into_int_value();
            g.when(holds, |g| body(g, outputs));
        };
        when(self, IntPredicate::SLT, at, whole, 0..OUTPUTS);
        match rest {
            Some(rest) => when(self, IntPredicate::SGE, at, whole, 0..rest as usize),
            None => {
                // In a whole tile, where all are taken at once, none is left.
                let left = self.index(&axis.extent.modulo(&OUTPUTS.into()));
                let zero = self.e.i64(0);
                let holds = self.e.icmp(IntPredicate::SGE, at.into(), whole.into());
                let left = self.e.select(holds, left.into(), zero.into()).into_int_value();
                for i in 0..OUTPUTS - 1 {
                    let number = self.e.i64(i as i64);
                    when(self, IntPredicate::SLT, number, left, i..i + 1);
                }
            }
        }
    }
}

/// Vectors of numbers, as the transforms compute with them.
struct Vectors<'g, 'a, 'c>(&'g Gen<'a, 'c>);

impl<'c> Arithmetic for Vectors<'_, '_, 'c> {
    type Value = Value<'c>;

    fn add(&self, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        self.0.e.fadd(x, y)
    }

    fn sub(&self, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        self.0.e.fsub(x, y)
    }

    fn fma(&self, factor: f64, x: Value<'c>, y: Value<'c>) -> Value<'c> {
        self.0.e.fma(self.0.e.float(x, factor), x, y)
    }

    fn scale(&self, factor: f64, x: Value<'c>) -> Value<'c> {
        self.0.e.fmul(self.0.e.float(x, factor), x)
    }
}
