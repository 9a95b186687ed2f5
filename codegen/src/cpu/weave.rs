//! Weaves vectors into each other where a map's innermost axis is too short for lanes: channels last, with 2 to 4 channels.
//!
//! The next axis takes the lanes, the short one is unrolled, and the vectors of its points are woven into whole vectors that lie
//! next to each other in memory. **Invariant.** Only elements that some point of the piece writes are written.
//!
//! ```text
//! for y in steps of 16:
//!     v0 = f(y.., 0), v1 = f(y.., 1), v2 = f(y.., 2)                        16 lanes each
//!     store out[3*y ..]      = v0[0] v1[0] v2[0] v0[1] v1[1] v2[1] ...      three stores of 16
//! ```

use super::emit::Value;
use super::map::weight;
use super::point::Point;
use super::scope::Gen;
use crate::kernel::{Axis, Piece};
use inkwell::values::IntValue;

/// Most points of the short axis.
const MOST_WOVEN: i64 = 4;

/// A block of more instructions than this is not repeated for every point of the short axis.
const MOST_WEIGHT: usize = 96;

/// The position of the axis that takes the lanes: along it stores are as far apart as the innermost axis is long.
pub(crate) fn woven_axis(piece: &Piece) -> Option<usize> {
    let (short, outer) = piece.axes.split_last()?;
    let extent = short.extent.as_const().filter(|n| (2..=MOST_WOVEN).contains(n))?;
    if !piece.block.lets.is_empty() || weight(piece.block.exprs()) > MOST_WEIGHT {
        return None;
    }
    let apart =
        |axis: &Axis, by: i64| piece.block.stores.iter().all(|s| s.offset.linear_in(&axis.name).is_some_and(|(stride, _)| stride.is(by)));
    if !apart(short, 1) {
        return None;
    }
    outer.iter().rposition(|axis| apart(axis, extent) && axis.extent.as_const().is_none_or(|n| n > extent))
}

impl<'c> Gen<'_, 'c> {
    /// The block at all points of the short axis, for lanes of another axis that ends at `end`.
    pub(crate) fn woven(&mut self, piece: &Piece, short: &Axis, point: &Point<'c>, end: IntValue<'c>) {
        let count = short.extent.as_const().expect("only axes with a number as extent are woven");
        let mut values: Vec<Vec<Value>> = vec![vec![]; piece.block.stores.len()];
        for i in 0..count {
            let mut here = point.renewed().fixed(&short.name, i);
            for (store, values) in piece.block.stores.iter().zip(&mut values) {
                let value = self.stored_value(&mut here, store);
                values.push(self.e.splat(value));
            }
        }
        let masks = self.woven_masks(point, count, end);
        let first = point.renewed().fixed(&short.name, 0);
        for (store, values) in piece.block.stores.iter().zip(values) {
            let size = self.kernel.buffers[store.buffer.0].dtype.size();
            let at = self.pointer(store.buffer, &first.place(&store.offset));
            for (j, mask) in masks.iter().enumerate() {
                let (value, at) = (self.weave(&values, j), self.e.displaced(at, (j * self.e.lanes * size) as i64));
                match mask {
                    Some(mask) => self.e.masked_store(value, at, *mask, size),
                    None => self.e.store(value, at, size),
                }
            }
        }
    }

    /// Which lanes of each woven vector count.
    fn woven_masks(&mut self, point: &Point<'c>, count: i64, end: IntValue<'c>) -> Vec<Option<Value<'c>>> {
        let lane = point.lane.as_ref().expect("weaving has lanes");
        if lane.mask.is_none() {
            return vec![None; count as usize];
        }
        let left = self.e.index_sub(end, self.symbol(&lane.symbol).value);
        let left = self.e.index_mul(left, self.e.i64(count));
        let before = |j: i64| self.e.i64(j * self.e.lanes as i64);
        (0..count).map(|j| Some(self.first_lanes(self.e.index_sub(left, before(j)).into()))).collect()
    }

    /// The `j`-th of the vectors woven of `values`: lane `l` is element `j*lanes + l` of the weave.
    fn weave(&self, values: &[Value<'c>], j: usize) -> Value<'c> {
        let (lanes, count) = (self.e.lanes, values.len());
        let source = |l: usize| ((j * lanes + l) % count, (j * lanes + l) / count);
        let mut woven = values[0];
        for (i, &value) in values.iter().enumerate().skip(1) {
            let pick = |l: usize| match source(l) {
                (from, lane) if from == i => lanes + lane,
                (0, lane) if i == 1 => lane,
                _ => l,
            };
            woven = self.e.shuffle(woven, value, &(0..lanes).map(pick).collect::<Vec<_>>());
        }
        woven
    }
}
