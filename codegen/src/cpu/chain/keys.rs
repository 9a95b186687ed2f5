//! Packs a block of keys, so that the lanes of a score run along them.
//!
//! Keys whose positions are neighbours in memory are copied, keys whose channels are are turned in squares. **Invariant.** No load
//! is behind the last key, but for the slack of its buffer; what is packed behind it is unspecified.
//!
//! ```text
//! k[key][channel]   =>   packed[panel][channel][lane],   key = panel*width + lane
//! ```

use super::{F32, Memory, Stretch, extent, stride};
use crate::cpu::emit::Value;
use crate::cpu::scope::{Gen, Run};
use crate::kernel::Chain;
use egret_ir::{DType, Dim};
use inkwell::values::{IntValue, PointerValue};

impl<'c> Gen<'_, 'c> {
    /// Packs a block of keys: `[panel][depth][width]`. What stands behind the last key is unspecified.
    pub(super) fn pack_keys(&mut self, c: &Chain, m: &Memory, keys: Stretch<'c>) {
        self.key_panels(c, m.width, keys, keys.end, &mut |g, left| match stride(&c.k.1, &c.keys).is_some_and(|s| s.is(1)) {
            true => g.pack_rows(c, m, keys, left),
            false => g.pack_turned(c, m, keys, left),
        });
    }

    /// Panels of `width` keys up to `end`: whole ones, then the one that the block ends in, of which so many keys are left.
    pub(super) fn key_panels(
        &mut self,
        c: &Chain,
        width: i64,
        keys: Stretch<'c>,
        end: IntValue<'c>,
        body: &mut dyn FnMut(&mut Self, Option<IntValue<'c>>),
    ) {
        let range = self.axis_range(&c.keys);
        let panels = |g: &Self, n: IntValue<'c>| g.e.index_mul(g.e.index_div(n, g.e.i64(width)), g.e.i64(width));
        let length = self.e.index_sub(keys.end, keys.start);
        let whole = self.e.index_add(keys.start, panels(self, length));
        let stop = self.e.imin(end.into(), whole.into(), true).into_int_value();
        self.repeat(&c.keys.name, Run { start: keys.start, end: stop, step: width, certain: false, range }, vec![], |g, _| {
            body(g, None);
            vec![]
        });
        self.repeat(&c.keys.name, Run { start: whole, end, step: width, certain: false, range }, vec![], |g, _| {
            let left = g.e.index_sub(keys.end, g.symbol(&c.keys.name).value);
            body(g, Some(left));
            vec![]
        });
    }

    /// Where the current panel is packed.
    pub(super) fn key_panel(&mut self, c: &Chain, keys: Stretch<'c>) -> PointerValue<'c> {
        let within = self.e.index_sub(self.symbol(&c.keys.name).value, keys.start);
        self.e.offset(self.private(0), self.e.index_mul(within, self.e.i64(extent(&c.depth))), F32)
    }

    /// A panel of keys that are neighbours in memory: copied.
    fn pack_rows(&mut self, c: &Chain, m: &Memory, keys: Stretch<'c>, left: Option<IntValue<'c>>) {
        let (lanes, panel) = (self.e.lanes, self.key_panel(c, keys));
        let vector = self.e.vector_type(self.e.memory_type(DType::F32), lanes).into();
        let masks = self.masks_of_keys(c, left);
        self.over(&c.depth, true, |g| {
            let to = g.index(&(c.depth.index() * m.width));
            let to = g.e.offset(panel, to, F32);
            let from = g.pointer(c.k.0, &c.k.1);
            for (j, mask) in masks.iter().enumerate() {
                let apart = (j * lanes * F32) as i64;
                let at = g.e.displaced(from, apart);
                let keys = match mask {
                    Some(mask) => g.e.masked_load(vector, at, *mask, F32),
                    None => g.e.load(vector, at, F32),
                };
                g.e.store(keys, g.e.displaced(to, apart), F32);
            }
        });
    }

    /// A mask of the lanes of vector `j` among the first `left` ones.
    pub(super) fn lanes_left(&self, left: IntValue<'c>, j: usize) -> Value<'c> {
        let left = self.e.index_sub(left, self.e.i64((j * self.e.lanes) as i64));
        self.first_lanes(left.into())
    }

    /// A panel of keys of which the channels are neighbours in memory: turned in squares.
    fn pack_turned(&mut self, c: &Chain, m: &Memory, keys: Stretch<'c>, left: Option<IntValue<'c>>) {
        let (lanes, depth) = (self.e.lanes as i64, extent(&c.depth));
        let panel = self.key_panel(c, keys);
        let range = self.axis_range(&c.depth);
        let whole = depth / lanes * lanes;
        for (start, end, step) in [(0, whole, lanes), (whole, depth, depth - whole)] {
            let run = Run { start: self.e.i64(start), end: self.e.i64(end), step: step.max(1), certain: true, range };
            self.repeat(&c.depth.name, run, vec![], |g, _| {
                for j in 0..c.tile.vectors {
                    g.turned_keys(c, m, panel, j, step as usize, left);
                }
                vec![]
            });
        }
    }

    /// A square of keys and channels, of which `channels` count. Loads may reach into the slack behind the last key.
    fn turned_keys(&mut self, c: &Chain, m: &Memory, panel: PointerValue<'c>, j: usize, channels: usize, left: Option<IntValue<'c>>) {
        let lanes = self.e.lanes;
        let vector = self.e.vector_type(self.e.memory_type(DType::F32), lanes).into();
        let keys = (0..lanes).map(|i| {
            let key = (j * lanes + i) as i64;
            let at = match left {
                None => self.pointer(c.k.0, &c.k.1.substitute(&|s| (s == &*c.keys.name).then(|| c.keys.index() + key))),
                Some(left) => self.key_within(c, &c.k.1, key, left),
            };
            self.e.load(vector, at, F32)
        });
        let keys = keys.collect();
        let to = self.index(&(c.depth.index() * m.width));
        let to = self.e.offset(panel, to, F32);
        for (d, row) in self.turn(keys).into_iter().take(channels).enumerate() {
            self.e.store(row, self.e.displaced(to, (d as i64 * m.width + (j * lanes) as i64) * F32 as i64), F32);
        }
    }

    /// The address of a key of the panel that begins at an offset, or of the last one where there are fewer.
    pub(super) fn key_within(&mut self, c: &Chain, start: &Dim, key: i64, left: IntValue<'c>) -> PointerValue<'c> {
        let pitch = stride(start, &c.keys).unwrap_or(Dim::ZERO);
        let (first, pitch) = (self.pointer(c.k.0, start), self.index(&pitch));
        let last = self.e.index_sub(left, self.e.i64(1));
        let key = self.e.imin(self.e.i64(key).into(), last.into(), true).into_int_value();
        self.e.offset(first, self.e.index_mul(key, pitch), F32)
    }
}
