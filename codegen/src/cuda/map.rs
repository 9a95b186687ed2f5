//! Elementwise work and data movement: a thread per few neighbouring elements.
//!
//! ```text
//! unit = 256*block + thread;  if unit < N*32:  i0 = unit/32, i1 = unit%32*4:  out[128*i0 + i1 ..+4] = ...
//! ```

use super::grid::{THREADS, thread};
use super::grid::{count, singly};
use crate::cpu::point::Point;
use crate::cpu::scope::Gen;
use crate::kernel::{Axis, Kernel, Piece};
use egret_ir::Dim;

/// Neighbours that a thread does where an extent is a multiple of it: 16 bytes of f32, the widest load there is.
pub(super) const NEIGHBOURS: i64 = 4;

/// The same of elements of 16 bits.
const NARROW_NEIGHBOURS: i64 = 8;

/// How many neighbours along an axis of a kernel a thread does.
pub(super) fn neighbours(axis: &Axis, kernel: &Kernel) -> i64 {
    let is_narrow = kernel.buffers.iter().any(|buffer| buffer.dtype.size() == 2);
    let fits = |n: &i64| axis.extent.as_const().is_some_and(|extent| extent % n == 0);
    [NARROW_NEIGHBOURS, NEIGHBOURS].into_iter().skip(usize::from(!is_narrow)).find(fits).unwrap_or(1)
}

impl Piece {
    /// How many threads it takes in a kernel.
    pub(super) fn threads(&self, kernel: &Kernel) -> Dim {
        match self.axes.split_last() {
            None => Dim::ONE,
            Some((last, outer)) => count(outer) * last.extent.floor_div(&neighbours(last, kernel).into()),
        }
    }
}

impl Gen<'_, '_> {
    /// Emits a loop nest for the threads of a block of its job.
    pub(super) fn piece_by_threads(&mut self, piece: &Piece, block: &Dim) {
        self.where_below(&(block.clone() * THREADS + thread()), &piece.threads(self.kernel), |g, unit| {
            let mut axes = singly(&piece.axes);
            let Some((last, step)) = axes.last_mut() else { return g.block(&piece.block, vec![Point::scalar()]) };
            *step = neighbours(last, g.kernel);
            let (last, step) = (last.name.clone(), *step);
            g.at_point(&axes, &unit);
            g.block(&piece.block, (0..step).map(|j| Point::scalar().moved(&last, j)).collect());
        });
    }
}
