//! What happens before what, in a block.
//!
//! A thread's accesses carry the number of the instruction of its warp. Barriers hand on, for every thread, up to which of its instructions
//! all that wait see what it did: what is not known to lie before an access is not in order with it. **Invariant.** What a thread knows
//! grows only by what others have handed on.

use super::WARP;
use std::ops::Range;

/// For each thread of a block an instruction of its warp, up to which something is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clocks {
    /// Whose accesses lie before.
    seen: Vec<u64>,
    /// Whose writes are for the asynchronous proxy, too: that of tensor cores and bulk copies.
    shown: Vec<u64>,
}

/// The threads of a warp.
fn of_warp(warp: usize) -> Range<usize> {
    warp * WARP..(warp + 1) * WARP
}

impl Clocks {
    /// Of so many warps, of which nothing is known.
    pub(super) fn of(warps: usize) -> Clocks {
        Clocks { seen: vec![0; warps * WARP], shown: vec![0; warps * WARP] }
    }

    pub(super) fn seen(&self, thread: u16) -> u64 {
        self.seen.get(thread as usize).copied().unwrap_or(0)
    }

    pub(super) fn shown(&self, thread: u16) -> u64 {
        self.shown.get(thread as usize).copied().unwrap_or(0)
    }

    /// Takes over what others know.
    pub(super) fn join(&mut self, other: &Clocks) {
        let later = |own: &mut [u64], others: &[u64]| own.iter_mut().zip(others).for_each(|(own, other)| *own = (*own).max(*other));
        later(&mut self.seen, &other.seen);
        later(&mut self.shown, &other.shown);
    }

    /// The lanes of a warp see what each of them did until now.
    pub(super) fn meet(&mut self, warp: usize, now: u64) {
        self.seen[of_warp(warp)].fill(now);
    }

    /// What a warp sees and what its lanes did is for the asynchronous proxy.
    pub(super) fn show(&mut self, warp: usize, now: u64) {
        self.shown.clone_from(&self.seen);
        self.shown[of_warp(warp)].fill(now);
    }

    /// With what a thread did until now.
    pub(super) fn with(&self, thread: u16, now: u64) -> Clocks {
        let mut all = self.clone();
        all.seen[thread as usize] = now;
        all
    }
}
