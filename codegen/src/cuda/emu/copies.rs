//! Copies on their way to shared memory, of one thread.
//!
//! **Invariant.** A copy arrives at the latest moment that the PTX ISA allows: at a wait that covers its group.

use std::collections::VecDeque;

/// Where a copy goes, and what it brings.
pub(super) type Copy = (u64, Vec<u8>);

/// What a thread has on its way.
#[derive(Clone, Debug, Default)]
pub(super) struct Copies {
    groups: VecDeque<Vec<Copy>>,
    /// Those of no group yet.
    open: Vec<Copy>,
}

impl Copies {
    /// Starts a copy.
    pub(super) fn start(&mut self, to: u64, content: Vec<u8>) {
        self.open.push((to, content));
    }

    /// Makes a group of what was started since the last one.
    pub(super) fn commit(&mut self) {
        self.groups.push_back(std::mem::take(&mut self.open));
    }

    /// All that are on their way, which something else waits for now.
    pub(super) fn handed_over(&mut self) -> Vec<Copy> {
        let open = std::mem::take(&mut self.open);
        self.groups.drain(..).flatten().chain(open).collect()
    }

    /// What has arrived when all but the last `groups` groups have.
    pub(super) fn arrived(&mut self, groups: usize) -> Vec<Copy> {
        let done = self.groups.len().saturating_sub(groups);
        self.groups.drain(..done).flatten().collect()
    }
}
