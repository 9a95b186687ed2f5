//! What a kernel asked of the machine: the same for every schedule, so that tests can look at it.

use std::collections::BTreeMap;
use std::fmt;

/// Bytes that global memory is moved in.
const SECTOR: u64 = 32;

/// Banks of shared memory, and the bytes that each is wide.
const BANKS: u64 = 32;
const WORD: u64 = 4;

/// The numbers of the pieces of `unit` bytes that accesses of so many bytes touch.
fn touched(addresses: &[u64], bytes: usize, unit: u64) -> Vec<u64> {
    let mut found: Vec<u64> = addresses.iter().flat_map(|a| a / unit..=(a + bytes as u64 - 1) / unit).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Sums over all warps of a launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Instructions by opcode, one for all threads of a warp.
    pub instructions: BTreeMap<String, u64>,
    /// Loads of global memory by warps, and the 32-byte sectors they touched.
    pub loads: (u64, u64),
    /// Stores to global memory by warps, and the sectors they touched.
    pub stores: (u64, u64),
    /// Accesses of shared memory by warps, and the times that the busiest bank was needed for them.
    pub shared: (u64, u64),
    /// Branches at which the threads of a warp parted.
    pub parted: u64,
}

impl Counters {
    /// Counts an access of global memory.
    pub(super) fn global(&mut self, store: bool, addresses: &[u64], bytes: usize) {
        let touched = touched(addresses, bytes, SECTOR);
        let counter = if store { &mut self.stores } else { &mut self.loads };
        *counter = (counter.0 + 1, counter.1 + touched.len() as u64);
    }

    /// Counts accesses of 16 bytes a lane, which eight lanes at a time do.
    pub(super) fn shared_by_eight(&mut self, addresses: &[u64], bytes: usize) {
        let before = self.shared.0;
        addresses.chunks(8).for_each(|eight| self.shared(eight, bytes));
        self.shared.0 = before + 1;
    }

    /// Counts an access of shared memory.
    pub(super) fn shared(&mut self, addresses: &[u64], bytes: usize) {
        let mut banks = [0; BANKS as usize];
        touched(addresses, bytes, WORD).into_iter().for_each(|word| banks[(word % BANKS) as usize] += 1);
        let busiest = banks.into_iter().max().unwrap_or(0);
        self.shared = (self.shared.0 + 1, self.shared.1 + busiest);
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |(requests, parts): (u64, u64)| format!("{requests} for {parts}");
        writeln!(f, "loads {} sectors, stores {} sectors", of(self.loads), of(self.stores))?;
        writeln!(f, "shared {} wavefronts, parted {}", of(self.shared), self.parted)?;
        self.instructions.iter().try_for_each(|(name, count)| writeln!(f, "{count:8} {name}"))
    }
}
