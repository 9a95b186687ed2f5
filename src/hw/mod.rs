//! What this machine can do: arithmetic, the bandwidth of each level of its memory, and the cost of a step.
//!
//! Measured with functions of Egret's own code generator ([`Probe`]) that the runtime loads and times like any kernel, so
//! that a kernel's figures and the machine's are of one kind. **Invariant.** A rate is the greatest that was seen: whatever
//! else runs on the machine only takes away. The cost of a step is a median: what a step usually pays is what counts.
//!
//! ```no_run
//! let machine = egret::hw::Machine::measure()?;
//! // The least time in which two threads can do 4 GFLOP on 1 MB that both have in their caches.
//! let seconds = machine.floor(2, egret::plan::Unit::F32, 4e9, &[egret::hw::Traffic { bytes: 1e6, footprint: 1e6 }]);
//! # Ok::<(), egret::Error>(())
//! ```

mod caches;
mod measure;
mod store;

use egret_passes::cost;
use egret_runtime::plan::Unit;
use serde::{Deserialize, Serialize};

pub use egret_codegen::cpu::probe::Probe;

/// What was measured of a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// `egret.hw/2`.
    pub schema: String,
    /// The processor, as the system and LLVM call it: `AMD EPYC (znver4)`.
    pub processor: String,
    /// Threads that this process may use: what [`Rate::all`] is for.
    pub threads: usize,
    /// Multiply-adds of `f32`, in 10^9 operations per second; a multiply-add is two.
    pub gflops: Rate,
    /// Dot products of pairs of bf16, likewise, each four operations; none where the processor has no such instruction.
    pub pairs_gflops: Option<Rate>,
    /// Dot products of four bytes, likewise, each eight operations.
    pub quads_gops: Option<Rate>,
    /// The levels of the memory, nearest first; the last is the main memory.
    pub levels: Vec<Level>,
    /// What a step costs that does nothing, in microseconds: handing it to all threads and waiting for the last.
    pub step_us: Rate,
}

/// The same figure for one thread and for all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// On one thread.
    pub one: f64,
    /// On all threads that this process may use, together.
    pub all: f64,
}

/// A cache, or the main memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// `L1`, `L2`, `L3` or `DRAM`.
    pub name: String,
    /// Its length in bytes; none for the main memory.
    pub bytes: Option<u64>,
    /// Cores that share one.
    pub cores: usize,
    /// Reading, in 10^9 bytes per second.
    pub read: Rate,
    /// Writing, in 10^9 bytes per second.
    pub write: Rate,
}

/// Bytes that have to move between memory and a core.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    /// How many.
    pub bytes: f64,
    /// The bytes that are used again before these are: what a level must hold for these to be there.
    pub footprint: f64,
}

impl Rate {
    /// The rate on `threads` threads of `all`; between one and all, as many times that of one as the whole allows.
    fn on(self, threads: usize, all: usize) -> f64 {
        match threads {
            1 => self.one,
            threads if threads >= all => self.all,
            threads => (self.one * threads as f64).min(self.all),
        }
    }
}

impl Level {
    /// Whether the caches of this level that `threads` threads reach hold so many bytes.
    fn holds(&self, bytes: f64, threads: usize) -> bool {
        self.bytes.is_none_or(|size| bytes <= (size * threads.div_ceil(self.cores) as u64) as f64)
    }
}

impl Machine {
    /// The least number of seconds in which `threads` threads can do so many operations on these instructions and move these bytes: the
    /// roofline. Arithmetic and memory overlap; bytes come from the nearest level that holds their footprint.
    pub fn floor(&self, threads: usize, unit: Unit, operations: f64, traffic: &[Traffic]) -> f64 {
        let arithmetic = operations / (self.peak(threads, unit) * 1e9);
        let memory: f64 = traffic.iter().map(|traffic| traffic.bytes / (self.bandwidth(threads, traffic.footprint) * 1e9)).sum();
        arithmetic.max(memory)
    }

    /// Bytes that `threads` threads read from the level that holds `footprint` bytes, in 10^9 per second.
    pub fn bandwidth(&self, threads: usize, footprint: f64) -> f64 {
        let level = self.levels.iter().find(|level| level.holds(footprint, threads)).or(self.levels.last());
        level.map_or(f64::INFINITY, |level| level.read.on(threads, self.threads))
    }

    /// What this machine's figures make of the cost model's: peak, caches and bandwidths are those that were measured on one thread,
    /// the rates of single kinds of kernels stay those that were fitted.
    pub fn rates(&self) -> cost::Machine {
        let rate = |rate: Rate| (rate.one.round() as u64).max(1);
        // A level that the machine does not have is the next farther one.
        let level = |name: &str| self.levels.iter().find(|level| level.name == name).or(self.levels.last());
        let levels = ["L2", "L3", "DRAM"].map(level);
        let each = |of: fn(&Level) -> Rate, known: [u64; 3]| std::array::from_fn(|i| levels[i].map_or(known[i], |level| rate(of(level))));
        let bytes = |i: usize, known: u64| levels[i].and_then(|level| level.bytes).unwrap_or(known);
        cost::Machine {
            l2_bytes: bytes(0, cost::ZEN4.l2_bytes),
            l3_bytes: bytes(1, cost::ZEN4.l3_bytes),
            read: each(|level| level.read, cost::ZEN4.read),
            write: each(|level| level.write, cost::ZEN4.write),
            flops: rate(self.gflops),
            ..cost::ZEN4
        }
    }

    /// The peak on so many threads, in 10^9 operations per second.
    pub fn peak(&self, threads: usize, unit: Unit) -> f64 {
        let rate = match unit {
            Unit::F32 => self.gflops,
            Unit::Bf16Pairs => self.pairs_gflops.unwrap_or(self.gflops),
            Unit::ByteQuads => self.quads_gops.unwrap_or(self.gflops),
        };
        rate.on(threads, self.threads)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A machine of round numbers.
    pub(crate) fn example() -> Machine {
        let rate = |one, all| Rate { one, all };
        let level = |name: &str, bytes, cores, read| Level { name: name.into(), bytes, cores, read, write: read };
        Machine {
            schema: store::SCHEMA.into(),
            processor: "example".into(),
            threads: 4,
            gflops: rate(100.0, 400.0),
            pairs_gflops: Some(rate(200.0, 800.0)),
            quads_gops: None,
            levels: vec![
                level("L1", Some(1000), 1, rate(200.0, 800.0)),
                level("L2", Some(10_000), 4, rate(100.0, 150.0)),
                level("DRAM", None, 4, rate(10.0, 20.0)),
            ],
            step_us: rate(0.0, 0.5),
        }
    }

    #[test]
    fn the_slower_of_arithmetic_and_memory_is_the_floor() {
        let machine = example();
        let near = Traffic { bytes: 1000.0, footprint: 1000.0 };
        assert_eq!(machine.floor(1, Unit::F32, 1e9, &[near]), 0.01);
        assert_eq!(machine.floor(1, Unit::F32, 0.0, &[near, near]), 1e-8);
        assert_eq!(machine.floor(4, Unit::F32, 1e9, &[]), 0.0025);
        assert_eq!(machine.floor(4, Unit::Bf16Pairs, 1e9, &[]), 0.00125);
    }

    #[test]
    fn predictions_are_made_with_what_was_measured() {
        let rates = example().rates();
        assert_eq!((rates.flops, rates.l2_bytes, rates.read), (100, 10_000, [100, 10, 10]));
        assert_eq!(rates.launch_ps, cost::ZEN4.launch_ps);
        let slow = Machine { gflops: Rate { one: 0.1, all: 0.1 }, levels: vec![], ..example() }.rates();
        assert_eq!((slow.flops, slow.read), (1, cost::ZEN4.read), "a rate is never nothing");
    }

    #[test]
    fn bytes_come_from_the_nearest_level_that_holds_their_footprint() {
        let machine = example();
        let found = [1000.0, 1001.0, 10_001.0].map(|footprint| machine.bandwidth(1, footprint));
        assert_eq!(found, [200.0, 100.0, 10.0]);
        // Every thread brings its own first level; the second is shared. Two threads have at most what all have.
        let found = [2000.0, 2001.0, 20_000.0].map(|footprint| machine.bandwidth(2, footprint));
        assert_eq!(found, [400.0, 150.0, 20.0]);
    }
}
