//! Memory that says who may not touch it: bounds, alignment, races, and what was never written.
//!
//! Every byte remembers its last write and the reads since. Two accesses are in order if one thread did both, or if the thread of the later one
//! [knows](super::clocks) of the other, by a barrier that lies between them; a write and another access that are not in order are a race, whatever
//! the values. What is [on its way](Region::reserve) to a place is written when it starts and again when it arrives, and the place
//! must not be touched in between. **Invariant.** Nothing is read or written outside a region, or across its natural alignment.

use super::clocks::Clocks;
use std::fmt;
use std::rc::Rc;

/// What memory holds that must not be used: of floats, NaN.
const POISON: u8 = 0xff;

/// Who accesses memory, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) block: u32,
    pub(super) thread: u16,
    /// The number of the instruction of its warp.
    pub(super) time: u64,
    /// Whether the copy engine does it, by the proxy that tensor cores read by.
    pub(super) by_engine: bool,
}

/// An access that happens now, and what is known to lie before it.
#[derive(Clone, Debug)]
pub(super) struct Now {
    pub(super) access: Access,
    pub(super) known: Rc<Clocks>,
}

impl Now {
    /// The warp of the thread.
    pub(super) fn warp(&self) -> usize {
        self.access.thread as usize / super::WARP
    }

    /// Whether another access comes before this one on any schedule.
    pub(super) fn follows(&self, other: &Access) -> bool {
        let is_before = self.access.thread == other.thread || other.time <= self.known.seen(other.thread);
        self.access.block == other.block && is_before
    }

    /// Whether tensor cores and the copy engine see another access.
    pub(super) fn is_shown(&self, other: &Access) -> bool {
        other.by_engine || other.time <= self.known.shown(other.thread)
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
    pub(super) fn read(&mut self, at: u64, size: usize, count: usize, who: &Now) -> Result<Vec<u64>, String> {
        let range = self.range(at, size * count)?;
        for i in range.clone() {
            let (name, shadow) = (&self.name, &mut self.shadow[i]);
            if shadow.awaited {
                return Err(format!("byte {i} of `{name}` is read while a copy to it is on its way"));
            }
            if !shadow.defined {
                return Err(format!("byte {i} of `{name}` is read and was never written"));
            }
            if let Some(other) = shadow.written.filter(|w| !who.follows(w)) {
                return Err(format!("race on byte {i} of `{name}`: {} reads what {other} writes", who.access));
            }
            shadow.note_read(who);
        }
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |word, &b| word << 8 | u64::from(b));
        Ok(self.bytes[range].chunks(size).map(word).collect())
    }

    /// Reads eight elements of two bytes for the tensor cores, to which what was written there has to have been shown.
    pub(super) fn read_shown(&mut self, at: u64, who: &Now) -> Result<Vec<u64>, String> {
        let unseen = |i: usize| self.shadow.get(i)?.written.filter(|w| !who.is_shown(w));
        if let Some(other) = usize::try_from(at).ok().and_then(unseen).filter(|w| who.follows(w)) {
            return Err(format!("byte {at} of `{}` was written by {other} and not shown to the tensor cores", self.name));
        }
        self.read(at, 2, 8, who)
    }

    /// Writes elements of `size` bytes that lie together.
    pub(super) fn write(&mut self, at: u64, size: usize, values: &[u64], who: &Now) -> Result<(), String> {
        let range = self.range(at, size * values.len())?;
        self.note_write(range.clone(), who, false)?;
        for (slot, value) in self.bytes[range].chunks_mut(size).zip(values) {
            slot.copy_from_slice(&value.to_le_bytes()[..size]);
        }
        Ok(())
    }

    /// Starts a copy to a place, which then holds what must not be used.
    pub(super) fn reserve(&mut self, at: u64, size: usize, who: &Now) -> Result<(), String> {
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

    fn note_write(&mut self, range: std::ops::Range<usize>, who: &Now, awaited: bool) -> Result<(), String> {
        for i in range {
            let (name, shadow) = (&self.name, &mut self.shadow[i]);
            if shadow.awaited {
                return Err(format!("byte {i} of `{name}` is written while a copy to it is on its way"));
            }
            let others = shadow.read.into_iter().chain([shadow.written]).flatten();
            if let Some(other) = others.into_iter().find(|o| !who.follows(o)) {
                return Err(format!("race on byte {i} of `{name}`: {} writes, and {other} has accessed it", who.access));
            }
            *shadow = Shadow { defined: !awaited, awaited, written: Some(who.access), read: [None; 2] };
        }
        Ok(())
    }
}

impl Shadow {
    fn note_read(&mut self, who: &Now) {
        match self.read {
            [Some(first), _] if !who.follows(&first) => self.read[1] = Some(who.access),
            _ => self.read = [Some(who.access), None],
        }
    }
}
