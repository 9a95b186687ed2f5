//! Convolutions whose op asks for Winograd's algorithm.
//!
//! **Invariant.** Only what reads its input as [`Winograd`] says becomes one; any other convolution is a contraction, as without the
//! attribute.
//!
//! ```text
//! y = relu(conv[..., algorithm=winograd](x, w))    x: f32[1, 58, 58, 64]
//! =>
//! winograd rows m0 in 56, m1 in 56, cols n in 64, depth k in 64 {
//!     acc = convolved(x[3712*m0 + 64*m1 + k], weights.products)
//!     y[3584*m0 + 64*m1 + n] = max(acc, 0.0)
//! }
//! ```

use super::built::Built;
use super::contract::{Roles, stride};
use super::exprs::Rewrite;
use super::product::Product;
use super::{Data, Lowering, Place};
use crate::cpu::choose_tile;
use crate::kernel::{Axis, Body, BufferId, Winograd};
use crate::pack::Packing;
use crate::winograd::{OUTPUTS, tiles_per_unit};
use egret_ir::attr::Algorithm;
use egret_ir::{Dim, Op};
use std::sync::Arc;

/// The loops of a convolution with 3x3 windows that move by one.
pub(super) struct Windows {
    images: Vec<Axis>,
    rows: [Axis; 2],
    cols: Axis,
    taps: [Axis; 2],
    depth: Axis,
}

impl Lowering<'_> {
    /// The loops, if the convolution is to be computed by Winograd's algorithm and can be.
    pub(super) fn windows(&self, built: &Built, product: &Product, roles: &Roles, k: &[Axis]) -> Option<Windows> {
        let graph = self.scope.graph();
        let op = &graph.node(graph.producer(product.node)?).op;
        let (Op::conv { algorithm: Algorithm::Winograd, .. }, [down, across, depth]) = (op, k) else { return None };
        let ([], [images @ .., y, x], [cols]) = (&roles.batch[..], &roles.rows[..], &roles.cols[..]) else { return None };
        self.known(built, product.b.0)?;
        let (a, b) = (&product.a.1, &product.b.1);
        let moves_by_one = |tap: &Axis, row: &Axis| tap.extent.is(3) && stride(a, tap).is_some() && stride(a, tap) == stride(a, row);
        let fits = moves_by_one(down, y) && moves_by_one(across, x) && stride(a, depth)?.is(1);
        let is_known = [cols, depth].iter().all(|axis| axis.extent.as_const().is_some_and(|n| n > 0));
        let is_linear = k.iter().chain([cols]).all(|axis| stride(b, axis).is_some());
        let (rows, taps) = ([y.clone(), x.clone()], [down.clone(), across.clone()]);
        (fits && is_known && is_linear).then(|| Windows { images: images.to_vec(), rows, cols: cols.clone(), taps, depth: depth.clone() })
    }

    /// The kernel, and what its buffers hold.
    pub(super) fn winograd(&mut self, built: Built, product: Product, windows: Windows) -> (Body, Vec<Place>) {
        let Windows { images, rows, cols, taps, depth } = windows;
        let number = |d: &Dim| d.as_const().and_then(|n| usize::try_from(n).ok());
        let (inputs, outputs) = (number(&depth.extent).unwrap_or(1), number(&cols.extent).unwrap_or(1));
        let tiles = rows.iter().map(|a| a.extent.ceil_div(&OUTPUTS.into())).product();
        let count = number(&images.iter().map(|a| a.extent.clone()).product());
        let block = tiles_per_unit(number(&tiles), count, inputs + outputs);
        let tile = choose_tile(Some(block), Some(outputs), Some(inputs), self.target);
        let mut buffers = built.buffers.clone();
        let tensor = self.known(&built, product.b.0).expect("the weights are known").clone();
        let width = tile.vectors * self.target.lanes;
        let packing = Packing {
            dtype: tensor.dtype(),
            tensor,
            offset: product.b.1,
            batch: taps.to_vec(),
            k: vec![depth.clone()],
            cols: cols.clone(),
            width,
            together: 1,
        };
        self.lowered.data.push(Data::Transformed(packing));
        buffers.push(Place::Data(self.lowered.data.len() - 1));
        let mut names = self.names();
        names.number(images.iter().map(|a| a.name.clone()), "b", 0);
        names.number(rows.iter().map(|a| a.name.clone()), "m", 0);
        names.set(cols.name.clone(), "n".to_string());
        names.set(depth.name.clone(), "k".to_string());
        names.number(built.lets.iter().map(|l| l.name.clone()), "g", 0);
        let (dim, name) = (|d: &Dim| names.dim(d), |n: &Arc<str>| names.name(n));
        let at_first = product.a.1.substitute(&|s| taps.iter().any(|t| &*t.name == s).then_some(Dim::ZERO));
        let body = Winograd {
            epilogue: Rewrite::new(&dim, &|b| b, &name).block(&built.block(&built.stores)),
            batch: names.axes(&images),
            rows: rows.map(|a| names.axis(&a)),
            cols: names.axis(&cols),
            depth: names.axis(&depth),
            a: (product.a.0, dim(&at_first)),
            weights: BufferId(buffers.len() - 1),
            tile,
            block,
        };
        (Body::Winograd(body), buffers)
    }
}
