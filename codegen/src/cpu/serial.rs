//! Points in order, each of which may read what those before it wrote: running sums, scattering.
//!
//! ```text
//! for this part's points of the axes around:
//!     for the points of a nest, outermost first:    one by one, or as vectors along the innermost loop
//!         store f(load ...)
//! ```

use super::map::vectors_for;
use super::point::Point;
use super::scope::Gen;
use crate::kernel::{Nest, Serial};

impl Gen<'_, '_> {
    /// Emits a serial kernel.
    pub(crate) fn serial(&mut self, serial: &Serial) {
        self.for_part(&serial.axes, |g| serial.nests.iter().for_each(|nest| g.in_order(nest)));
    }

    fn in_order(&mut self, Nest { piece, lanes }: &Nest) {
        let extents: Vec<_> = piece.axes.iter().map(|a| a.extent.clone()).collect();
        self.unless_empty(&extents, |g| match piece.axes.split_last().filter(|_| *lanes) {
            Some((lane, outer)) => g.nest(outer, true, |g| {
                let (start, end) = g.lane_bounds(lane, None);
                g.lanes(lane, start, end, vectors_for(&piece.block), |g, points| g.block(&piece.block, points));
            }),
            None => g.nest(&piece.axes, true, |g| g.block(&piece.block, vec![Point::scalar()])),
        });
    }
}
