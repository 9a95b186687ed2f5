//! Memory that says who may not touch it: bounds, alignment, races, and what was never written.
//!
//! Every byte remembers its last write and the reads since. Two accesses are in order if one thread did both, if a barrier of
//! their block lies between them, or one of their warp; a write and another access that are not in order are a race, whatever
//! the values. **Invariant.** Nothing is read or written outside a region, or across its natural alignment.

use std::fmt;

/// Who accesses memory, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) block: u32,
    pub(super) thread: u16,
    /// Barriers of the block so far.
    pub(super) block_time: u32,
    /// Barriers of the warp so far.
    pub(super) warp_time: u32,
}

impl Access {
    /// Whether this one comes before `now` on any schedule.
    fn precedes(&self, now: &Access) -> bool {
        let same_warp = self.thread / super::WARP as u16 == now.thread / super::WARP as u16;
        let later = self.block_time < now.block_time || same_warp && self.warp_time < now.warp_time;
        self.block == now.block && (self.thread == now.thread || later)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {} of block {}", self.thread, self.block)
    }
}

/// What is known of a byte.
#[derive(Clone, Copy, Default)]
struct Shadow {
    defined: bool,
    written: Option<Access>,
    /// Two reads of different threads that no later barrier has put in order, where there are that many: a write of any
    /// thread is not in order with one of them.
    read: [Option<Access>; 2],
}

/// A buffer, or the shared memory of a block.
pub(super) struct Region {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    shadow: Vec<Shadow>,
}

impl Region {
    /// Memory with a content.
    pub(super) fn new(name: String, bytes: Vec<u8>) -> Region {
        let shadow = vec![Shadow { defined: true, ..Shadow::default() }; bytes.len()];
        Region { name, bytes, shadow }
    }

    /// Memory that holds nothing yet.
    pub(super) fn undefined(name: String, count: usize) -> Region {
        Region { name, bytes: vec![0xff; count], shadow: vec![Shadow::default(); count] }
    }

    fn range(&self, at: u64, size: usize) -> Result<std::ops::Range<usize>, String> {
        let start = usize::try_from(at).ok().filter(|s| s.checked_add(size).is_some_and(|end| end <= self.bytes.len()));
        let start = start.ok_or_else(|| format!("{size} bytes at {} of `{}`, which has {}", at as i64, self.name, self.bytes.len()))?;
        match start % size {
            0 => Ok(start..start + size),
            _ => Err(format!("{size} bytes at {start} of `{}`: not aligned", self.name)),
        }
    }

    /// Reads `count` elements of `size` bytes that lie together.
    pub(super) fn read(&mut self, at: u64, size: usize, count: usize, who: Access) -> Result<Vec<u64>, String> {
        let range = self.range(at, size * count)?;
        for i in range.clone() {
            let (name, shadow) = (&self.name, &mut self.shadow[i]);
            if !shadow.defined {
                return Err(format!("byte {i} of `{name}` is read and was never written"));
            }
            if let Some(other) = shadow.written.filter(|w| !w.precedes(&who)) {
                return Err(format!("race on byte {i} of `{name}`: {who} reads what {other} writes"));
            }
            shadow.note_read(who);
        }
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |word, &b| word << 8 | u64::from(b));
        Ok(self.bytes[range].chunks(size).map(word).collect())
    }

    /// Writes elements of `size` bytes that lie together.
    pub(super) fn write(&mut self, at: u64, size: usize, values: &[u64], who: Access) -> Result<(), String> {
        let range = self.range(at, size * values.len())?;
        for i in range.clone() {
            let (name, shadow) = (&self.name, &mut self.shadow[i]);
            let others = shadow.read.into_iter().chain([shadow.written]).flatten();
            if let Some(other) = others.into_iter().find(|o| !o.precedes(&who)) {
                return Err(format!("race on byte {i} of `{name}`: {who} writes, and {other} has accessed it"));
            }
            *shadow = Shadow { defined: true, written: Some(who), read: [None; 2] };
        }
        for (slot, value) in self.bytes[range].chunks_mut(size).zip(values) {
            slot.copy_from_slice(&value.to_le_bytes()[..size]);
        }
        Ok(())
    }
}

impl Shadow {
    fn note_read(&mut self, who: Access) {
        match self.read {
            [Some(first), _] if !first.precedes(&who) => self.read[1] = Some(who),
            _ => self.read = [Some(who), None],
        }
    }
}
