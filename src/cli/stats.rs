//! What a list of latencies says: percentiles, how noisy the machine was, and how sure a speed-up is.
//!
//! **Invariant.** Everything is a pure function of the samples: the bootstrap draws from a generator with a fixed seed, so
//! the same samples give the same interval.
//!
//! ```text
//! 1.0 1.1 1.2 1.3 9.9 ms  ->  p50 1.2, p99 9.6, mean 2.9
//! ```

use std::time::Duration;

/// What `bench` reports of the runs of one configuration, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// How many runs were timed.
    pub runs: usize,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Mean.
    pub mean: f64,
}

/// One run in ten slower than the median by more than this share: something else uses the processor. Quiet machines
/// stay below 3 %, and differences between two programs below it are not worth reporting on a noisy one.
const NOISY_SPREAD: f64 = 0.10;

impl Latency {
    /// The figures of these samples, of which there is at least one.
    pub fn of(samples: &[Duration]) -> Latency {
        let mut sorted: Vec<f64> = samples.iter().map(milliseconds).collect();
        sorted.sort_by(f64::total_cmp);
        Latency {
            runs: sorted.len(),
            p50: percentile(&sorted, 50.0),
            p90: percentile(&sorted, 90.0),
            p99: percentile(&sorted, 99.0),
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
        }
    }

    /// The share by which the 90th percentile lies above the median, if that is too much to trust small differences.
    pub fn noise(&self) -> Option<f64> {
        let spread = self.p90 / self.p50 - 1.0;
        (spread > NOISY_SPREAD).then_some(spread)
    }
}

fn milliseconds(duration: &Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The value below which `percent` of the sorted samples lie, interpolated between the two nearest.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let last = sorted.len() - 1;
    let rank = percent / 100.0 * last as f64;
    let below = rank.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (rank - below as f64)
}

/// How many times faster one side is than the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speedup {
    /// Median of the slow side over the median of the fast side.
    pub ratio: f64,
    /// Lower end of the 95 % confidence interval.
    pub low: f64,
    /// Upper end of the 95 % confidence interval.
    pub high: f64,
}

/// Repetitions of the bootstrap: 25 of them lie beyond either end of a 95 % interval, so that no single one decides it.
const REPLICATES: usize = 1000;

/// Pairs of runs are drawn in this many stretches at most. Neighbouring runs resemble each other (clock frequency,
/// neighbours on the machine), and drawing them one by one would make the interval too narrow.
const STRETCHES: usize = 200;

impl Speedup {
    /// How much faster `after` is than `before`; run `i` of one was made right beside run `i` of the other, and there is
    /// at least one pair.
    ///
    /// The interval is that of a paired block bootstrap: stretches of consecutive pairs are drawn with
    /// replacement, and the ratio of the medians is taken anew each time.
    pub fn of(before: &[Duration], after: &[Duration]) -> Speedup {
        let (before, after) = (Side::new(before), Side::new(after));
        let mut random = SplitMix(0);
        let mut replicate = || {
            let mut weights = vec![0u32; before.stretches];
            (0..before.stretches).for_each(|_| weights[random.below(before.stretches)] += 1);
            before.median(&weights) / after.median(&weights)
        };
        let mut ratios: Vec<f64> = (0..REPLICATES).map(|_| replicate()).collect();
        ratios.sort_by(f64::total_cmp);
        let once = vec![1; before.stretches];
        Speedup { ratio: before.median(&once) / after.median(&once), low: percentile(&ratios, 2.5), high: percentile(&ratios, 97.5) }
    }
}

/// The samples of one side in increasing order, each with the stretch it belongs to.
struct Side {
    sorted: Vec<(f64, usize)>,
    stretches: usize,
}

impl Side {
    fn new(samples: &[Duration]) -> Side {
        let stretches = samples.len().min(STRETCHES);
        let stretch = |i: usize| i * stretches / samples.len();
        let mut sorted: Vec<(f64, usize)> = samples.iter().enumerate().map(|(i, sample)| (milliseconds(sample), stretch(i))).collect();
        sorted.sort_by(|a, b| f64::total_cmp(&a.0, &b.0));
        Side { sorted, stretches }
    }

    /// The median when each sample counts as often as its stretch was drawn.
    fn median(&self, weights: &[u32]) -> f64 {
        let total: u64 = self.sorted.iter().map(|(_, stretch)| u64::from(weights[*stretch])).sum();
        let value_at = |rank: u64| {
            let mut seen = 0;
            let reached = |(_, stretch): &&(f64, usize)| {
                seen += u64::from(weights[*stretch]);
                seen > rank
            };
            self.sorted.iter().find(reached).map_or(f64::NAN, |(value, _)| *value)
        };
        if total % 2 == 1 {
            return value_at(total / 2);
        }
        (value_at(total / 2 - 1) + value_at(total / 2)) / 2.0
    }
}

/// A small generator of pseudo-random numbers (SplitMix64).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is small enough that the bias of the remainder does not matter.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(values: &[f64]) -> Vec<Duration> {
        values.iter().map(|ms| Duration::from_secs_f64(ms / 1e3)).collect()
    }

    /// Samples around `center`, spread by `spread` to either side, in no order.
    fn around(center: f64, spread: f64, seed: u64) -> Vec<Duration> {
        let mut random = SplitMix(seed);
        let sample = |_| center + spread * (random.below(2001) as f64 / 1000.0 - 1.0);
        millis(&(0..500).map(sample).collect::<Vec<_>>())
    }

    #[test]
    fn percentiles_are_interpolated() {
        let latency = Latency::of(&millis(&[5.0, 1.0, 3.0, 2.0, 4.0]));
        assert_eq!((latency.runs, latency.p50, latency.mean), (5, 3.0, 3.0));
        assert!((latency.p90 - 4.6).abs() < 1e-9 && (latency.p99 - 4.96).abs() < 1e-9);
        let single = Latency::of(&millis(&[7.0]));
        assert_eq!((single.p50, single.p99), (7.0, 7.0));
    }

    #[test]
    fn noise_is_seen_and_quiet_is_not() {
        assert_eq!(Latency::of(&around(10.0, 0.2, 1)).noise(), None);
        assert!(Latency::of(&around(10.0, 5.0, 1)).noise().is_some_and(|n| n > 0.3));
    }

    #[test]
    fn a_speedup_lies_in_its_interval_and_noise_widens_it() {
        let quiet = Speedup::of(&around(20.0, 0.1, 1), &around(10.0, 0.1, 2));
        let noisy = Speedup::of(&around(20.0, 9.0, 1), &around(10.0, 5.0, 2));
        for speedup in [quiet, noisy] {
            assert!(speedup.low <= speedup.ratio && speedup.ratio <= speedup.high, "{speedup:?}");
            assert!(speedup.low < 2.0 && 2.0 < speedup.high, "{speedup:?}");
        }
        assert!((quiet.ratio - 2.0).abs() < 0.01, "{quiet:?}");
        assert!(noisy.high - noisy.low > 5.0 * (quiet.high - quiet.low));
    }

    #[test]
    fn equal_sides_are_not_called_different() {
        let speedup = Speedup::of(&around(10.0, 1.0, 3), &around(10.0, 1.0, 4));
        assert!(speedup.low < 1.0 && 1.0 < speedup.high, "{speedup:?}");
        let one = Speedup::of(&millis(&[4.0]), &millis(&[2.0]));
        assert_eq!((one.low, one.ratio, one.high), (2.0, 2.0, 2.0));
    }
}
