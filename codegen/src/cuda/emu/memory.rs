//! Memory that says who may not touch it: bounds, alignment, races, and what was never written.
//!
//! Every byte remembers its last write and the reads since. Two accesses are in order if one thread did both, if a barrier of
//! their block lies between them, or one of their warp; a write and another access that are not in order are a race, whatever
//! the values. What is [on its way](Region::reserve) to a place is written when it starts and again when it arrives, and the place
//! must not be touched in between. **Invariant.** Nothing is read or written outside a region, or across its natural alignment.

use std::fmt;

/// What memory holds that must not be used: of floats, NaN.
const POISON: u8 = 0xff;

/// Who accesses memory, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) block: u32,
    pub(super) thread: u16,
    /// Barriers of the block so far.
    pub(super) block_time: u32,
    /// Barriers of the warp so far.
    pub(super) warp_time: u32,
    /// How often the warp has shown to the tensor cores what it wrote, so far.
    pub(super) shows: u32,
}

impl Access {
    /// The warp of the thread.
    pub(super) fn warp(&self) -> usize {
        self.thread as usize / super::WARP
    }

    /// Whether this one comes before `now` on any schedule.
    fn precedes(&self, now: &Access) -> bool {
        let same_warp = self.warp() == now.warp();
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
    /// Whether a copy to it has started and not arrived.
    awaited: bool,
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
        Region { name, bytes: vec![POISON; count], shadow: vec![Shadow::default(); count] }
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
            if shadow.awaited {
                return Err(format!("byte {i} of `{name}` is read while a copy to it is on its way"));
            }
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

    /// Reads eight elements of two bytes for the tensor cores, to which every warp has shown what it wrote so many times before the last
    /// barrier.
    pub(super) fn read_shown(&mut self, at: u64, who: Access, shown: &[u32]) -> Result<Vec<u64>, String> {
        let unseen = |i: usize| self.shadow.get(i)?.written.filter(|w| shown.get(w.warp()).is_none_or(|shown| *shown <= w.shows));
        if let Some(other) = usize::try_from(at).ok().and_then(unseen) {
            return Err(format!("byte {at} of `{}` was written by {other} and not shown to the tensor cores", self.name));
        }
        self.read(at, 2, 8, who)
    }

    /// Writes elements of `size` bytes that lie together.
    pub(super) fn write(&mut self, at: u64, size: usize, values: &[u64], who: Access) -> Result<(), String> {
        let range = self.range(at, size * values.len())?;
        self.note_write(range.clone(), who, false)?;
        for (slot, value) in self.bytes[range].chunks_mut(size).zip(values) {
            slot.copy_from_slice(&value.to_le_bytes()[..size]);
        }
        Ok(())
    }

    /// Starts a copy to a place, which then holds what must not be used.
    pub(super) fn reserve(&mut self, at: u64, size: usize, who: Access) -> Result<(), String> {
        let range = self.range(at, size)?;
        self.note_write(range.clone(), who, true)?;
        self.bytes[range].fill(POISON);
        Ok(())
    }

    /// What was copied to a place that is reserved arrives.
    pub(super) fn arrive(&mut self, at: u64, bytes: &[u8], who: Access) -> Result<(), String> {
        let range = self.range(at, bytes.len())?;
        self.shadow[range.clone()].fill(Shadow { defined: true, awaited: false, written: Some(who), read: [None; 2] });
        self.bytes[range].copy_from_slice(bytes);
        Ok(())
    }

    fn note_write(&mut self, range: std::ops::Range<usize>, who: Access, awaited: bool) -> Result<(), String> {
        for i in range {
            let (name, shadow) = (&self.name, &mut self.shadow[i]);
            if shadow.awaited {
                return Err(format!("byte {i} of `{name}` is written while a copy to it is on its way"));
            }
            let others = shadow.read.into_iter().chain([shadow.written]).flatten();
            if let Some(other) = others.into_iter().find(|o| !o.precedes(&who)) {
                return Err(format!("race on byte {i} of `{name}`: {who} writes, and {other} has accessed it"));
            }
            *shadow = Shadow { defined: !awaited, awaited, written: Some(who), read: [None; 2] };
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
