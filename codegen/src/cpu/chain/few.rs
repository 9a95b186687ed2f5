//! Scores of few queries: each key is read once, as it lies.
//!
//! Keys whose positions are neighbours in memory are multiplied in panels, like packed ones. Of keys whose channels are, the lanes
//! run along the channels: as many keys as there are lanes are multiplied at once, and their vectors of products are summed by
//! halves until one vector holds a sum for every key. **Invariant.** No load is behind the last key.
//!
//! ```text
//! for keys n in steps of 4, for rows:     products[i] = q[row][0..4]*k[n + i][0..4] + q[row][4..8]*k[n + i][4..8] + ..
//!                                         s[n..n + 4] = score(sum of products[0], .., sum of products[3])
//! ```

use super::{F32, Form, Keys, Memory, Rows, extent, stride};
use crate::cpu::emit::Value;
use crate::cpu::scope::{Gen, Run};
use crate::kernel::{Axis, Chain};
use egret_ir::Dim;
use inkwell::values::{IntValue, PointerValue};

/// Whether queries and keys lie so that they need not be packed.
pub(super) fn serves(c: &Chain) -> bool {
    let along = |d: &Dim, axis: &Axis| axis.extent.is(1) || stride(d, axis).is_some_and(|s| s.is(1));
    are_neighbours(c) || along(&c.k.1, &c.depth) && along(&c.q.1, &c.depth)
}

/// Whether keys of neighbouring positions are neighbours in memory.
fn are_neighbours(c: &Chain) -> bool {
    stride(&c.k.1, &c.keys).is_some_and(|s| s.is(1))
}

/// The vectors that go into a sum: the query's, and the keys' with their distance if it is the same for all.
struct Factors<'c> {
    q: PointerValue<'c>,
    keys: Vec<PointerValue<'c>>,
    pitch: Option<IntValue<'c>>,
}

impl<'c> Gen<'_, 'c> {
    /// The scores of a strip for the keys of a block below `seen`.
    pub(super) fn scores_of_few(&mut self, c: &Chain, m: &Memory, count: usize, keys: Keys<'c>) {
        debug_assert_eq!(keys.form, Form::AsTheyLie);
        match are_neighbours(c) {
            true => self.scores_in_panels(c, m, count, keys),
            false => self.scores_across(c, m, count, keys),
        }
    }

    fn scores_in_panels(&mut self, c: &Chain, m: &Memory, count: usize, keys: Keys<'c>) {
        let b_step = stride(&c.k.1, &c.depth).unwrap_or(Dim::ZERO);
        let first = c.k.1.substitute(&|s| (s == &*c.depth.name).then_some(Dim::ZERO));
        self.key_panels(c, m.width, keys.block, keys.seen, &mut |g, left| {
            let (b, b_step, masks) = (g.pointer(c.k.0, &first), g.index(&b_step), g.masks_of_keys(c, left));
            let acc = g.products_with_keys(c, count, b, b_step, masks.clone());
            for (n, acc) in acc.into_iter().enumerate() {
                let (row, vector) = (n / masks.len(), n % masks.len());
                g.score(c, m, keys.block, (row.into(), vector), masks[vector], acc);
            }
        });
    }

    fn scores_across(&mut self, c: &Chain, m: &Memory, count: usize, keys: Keys<'c>) {
        let row = Axis::new(self.fresh("row"), count);
        let first = |d: &Dim| d.substitute(&|s| (s == &*c.depth.name).then_some(Dim::ZERO));
        let (q, k) = (first(&c.q.1), first(&c.k.1));
        let q = match c.rows.last() {
            Some(tiled) => q.substitute(&|s| (s == &*tiled.name).then(|| tiled.index() + row.index())),
            None => q,
        };
        self.key_panels(c, self.e.lanes as i64, keys.block, keys.seen, &mut |g, left| {
            let (keys_at, pitch) = g.keys_as_they_lie(c, &k, left);
            let mask = left.map(|left| g.lanes_left(left, 0));
            g.over(&row, true, |g| {
                let factors = Factors { q: g.pointer(c.q.0, &q), keys: keys_at, pitch };
                let products = g.products_of_lanes(c, &factors);
                let acc = g.sum_of_each(products);
                g.score(c, m, keys.block, (row.index(), 0), mask, acc);
            });
        });
    }

    /// As many keys as there are lanes, from an offset on: a few addresses and the distance of keys, or, where fewer keys are left,
    /// an address each.
    fn keys_as_they_lie(&mut self, c: &Chain, start: &Dim, left: Option<IntValue<'c>>) -> (Vec<PointerValue<'c>>, Option<IntValue<'c>>) {
        if let Some(left) = left {
            return ((0..self.e.lanes as i64).map(|i| self.key_within(c, start, i, left)).collect(), None);
        }
        let pitch = stride(start, &c.keys).unwrap_or(Dim::ZERO);
        let (base, pitch) = (self.pointer(c.k.0, start), self.index(&pitch));
        let Rows { bases, pitch } = self.row_pointers(base, pitch, self.e.lanes);
        (bases, Some(pitch))
    }

    /// For as many keys as there are lanes: the products of their channels with the query's, as vectors whose lanes have to be summed.
    fn products_of_lanes(&mut self, c: &Chain, factors: &Factors<'c>) -> Vec<Value<'c>> {
        let (lanes, depth) = (self.e.lanes as i64, extent(&c.depth));
        let whole = depth / lanes * lanes;
        let name = self.fresh("channel");
        let run = Run { start: self.e.i64(0), end: self.e.i64(whole), step: lanes, certain: true, range: (0, depth.into()) };
        let sums = self.repeat(&name, run, self.zeros(lanes as usize), |g, sums| {
            let at = g.symbol(&name).value;
            g.multiply_add_keys(factors, at, None, sums)
        });
        match depth - whole {
            0 => sums,
            rest => {
                let mask = self.first_lanes(self.e.i64(rest).into());
                self.multiply_add_keys(factors, self.e.i64(whole), Some(mask), sums)
            }
        }
    }

    /// A vector of channels of every key.
    fn multiply_add_keys(&self, factors: &Factors<'c>, at: IntValue<'c>, mask: Option<Value<'c>>, sums: Vec<Value<'c>>) -> Vec<Value<'c>> {
        let vector = self.zeros(1)[0].get_type();
        let load = |base: PointerValue<'c>| match mask {
            Some(mask) => self.e.masked_load(vector, base, mask, F32),
            None => self.e.load(vector, base, F32),
        };
        let q = load(self.e.offset(factors.q, at, F32));
        let keys: Vec<PointerValue> = factors.keys.iter().map(|&key| self.e.offset(key, at, F32)).collect();
        let key = |i: usize| factors.pitch.map_or_else(|| keys[i], |pitch| self.row_at(&keys, pitch, i));
        sums.into_iter().enumerate().map(|(i, sum)| self.e.fma(q, load(key(i)), sum)).collect()
    }

    /// A vector whose lane `i` is the sum of the lanes of vector `i`: neighbours are added within 128 bits, then whole 128 bits.
    fn sum_of_each(&self, mut vectors: Vec<Value<'c>>) -> Value<'c> {
        for (unit, group) in [(1, 4), (4, self.e.lanes)] {
            let mut within = group;
            while within > unit {
                vectors = vectors.chunks(2).map(|pair| self.neighbours_added(pair[0], pair[1], unit, group)).collect();
                within /= 2;
            }
        }
        vectors[0]
    }

    /// In every group of lanes: the sums of neighbouring units of `x`, then those of `y`.
    fn neighbours_added(&self, x: Value<'c>, y: Value<'c>, unit: usize, group: usize) -> Value<'c> {
        let lanes = self.e.lanes;
        let pick = |odd: usize| -> Vec<usize> {
            let units = (0..lanes).step_by(group).flat_map(|first| {
                [first, lanes + first].into_iter().flat_map(move |start| (start + odd * unit..start + group).step_by(2 * unit))
            });
            units.flat_map(|start| start..start + unit).collect()
        };
        self.e.fadd(self.e.shuffle(x, y, &pick(0)), self.e.shuffle(x, y, &pick(1)))
    }
}
