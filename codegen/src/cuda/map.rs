//! Elementwise work and data movement: a thread per few neighbouring elements.
//!
//! ```text
//! unit = 256*block + thread;  if unit < N*32:  i0 = unit/32, i1 = unit%32*4:  out[128*i0 + i1 ..+4] = ...
//! ```

use super::grid::{THREADS, thread};
use super::grid::{count, singly};
use crate::cpu::point::Point;
use crate::cpu::scope::Gen;
use crate::kernel::{Axis, Piece};
use egret_ir::Dim;

/// Neighbours that a thread does where an extent is a multiple of it: 16 bytes of f32, the widest load there is.
pub(super) const NEIGHBOURS: i64 = 4;

/// How many neighbours along an axis a thread does.
pub(super) fn neighbours(axis: &Axis) -> i64 {
    match axis.extent.as_const() {
        Some(n) if n % NEIGHBOURS == 0 => NEIGHBOURS,
        _ => 1,
    }
}

impl Piece {
    /// How many threads it takes.
    pub(super) fn threads(&self) -> Dim {
        match self.axes.split_last() {
            None => Dim::ONE,
            Some((last, outer)) => count(outer) * last.extent.floor_div(&neighbours(last).into()),
        }
    }
}

impl Gen<'_, '_> {
    /// Emits a loop nest for the threads of a block of its job.
    pub(super) fn piece_by_threads(&mut self, piece: &Piece, block: &Dim) {
        self.where_below(&(block.clone() * THREADS + thread()), &piece.threads(), |g, unit| {
            let mut axes = singly(&piece.axes);
            let Some((last, step)) = axes.last_mut() else { return g.block(&piece.block, vec![Point::scalar()]) };
            *step = neighbours(last);
            let (last, step) = (last.name.clone(), *step);
            g.at_point(&axes, &unit);
            g.block(&piece.block, (0..step).map(|j| Point::scalar().moved(&last, j)).collect());
        });
    }
}
