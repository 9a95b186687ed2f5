//! The plain sum of weights; see [`super`].

use super::Bytes;
use crate::plan::ALIGN;
use crate::pool::default_threads;
use std::ops::Range;

/// Sums of 64-bit words in eight lanes, and sums of those sums, modulo 2^64:
///
/// ```text
/// a[lane] += word;    b[lane] += a[lane]
/// ```
///
/// A changed word changes `a`; blocks that changed places change `b`. Eight lanes fill the vector units.
#[derive(Default)]
pub(super) struct QuickSum {
    sums: [u64; 8],
    sums_of_sums: [u64; 8],
    blocks: u64,
}

impl QuickSum {
    /// Adds bytes; a last block of fewer than 64 counts as if zeros followed.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        let (blocks, rest) = bytes.as_chunks::<ALIGN>();
        blocks.iter().for_each(|block| self.add(block));
        if !rest.is_empty() {
            let mut last = [0; ALIGN];
            last[..rest.len()].copy_from_slice(rest);
            self.add(&last);
        }
    }

    #[inline(always)]
    fn add(&mut self, block: &[u8; ALIGN]) {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in words.iter().enumerate() {
            self.sums[lane] = self.sums[lane].wrapping_add(u64::from_le_bytes(*word));
            self.sums_of_sums[lane] = self.sums_of_sums[lane].wrapping_add(self.sums[lane]);
        }
        self.blocks += 1;
    }

    /// The sum of a part of the file, on more threads than one where there are enough bytes for the others to be worth their start.
    pub(super) fn of(file: &Bytes, part: Range<usize>) -> QuickSum {
        let threads = (part.len() / BYTES_PER_THREAD).clamp(1, default_threads());
        let share = part.len().div_ceil(threads).next_multiple_of(ALIGN).max(ALIGN);
        let mut shares = part.clone().step_by(share).map(|start| start..part.end.min(start + share));
        let first = shares.next().unwrap_or_default();
        std::thread::scope(|scope| {
            let others: Vec<_> = shares
                .map(|share| (share.clone(), std::thread::Builder::new().spawn_scoped(scope, move || QuickSum::of_share(file, share))))
                .collect();
            others.into_iter().fold(QuickSum::of_share(file, first), |whole, (share, thread)| {
                // Without a thread for it, or if that died, the share is summed here.
                let sum = thread.ok().and_then(|thread| thread.join().ok());
                whole.followed_by(&sum.unwrap_or_else(|| QuickSum::of_share(file, share)))
            })
        })
    }

    fn of_share(file: &Bytes, share: Range<usize>) -> QuickSum {
        file.prefault(share.clone());
        let mut sum = QuickSum::default();
        sum.update(&file.all()[share]);
        sum
    }

    /// The sum of the bytes of `self`, whole blocks, followed by those of `next`: each of the blocks of `next` adds the sums
    /// before it once more to the sums of sums.
    pub(super) fn followed_by(mut self, next: &QuickSum) -> QuickSum {
        for lane in 0..8 {
            let carried = self.sums[lane].wrapping_mul(next.blocks);
            self.sums_of_sums[lane] = self.sums_of_sums[lane].wrapping_add(carried).wrapping_add(next.sums_of_sums[lane]);
            self.sums[lane] = self.sums[lane].wrapping_add(next.sums[lane]);
        }
        self.blocks += next.blocks;
        self
    }

    pub(super) fn finish(&self) -> [u8; 32] {
        let words = self.sums.iter().chain(&self.sums_of_sums).chain([&self.blocks]);
        let bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        blake3::hash(&bytes).into()
    }
}

/// Weights that a thread sums at least: starting it costs about as much as summing 1 MiB.
pub(super) const BYTES_PER_THREAD: usize = 8 << 20;
