//! Barriers in shared memory that count arrivals and bytes, phase by phase (PTX ISA, "mbarrier").
//!
//! **Invariant.** Copies that a barrier waits for arrive at the latest moment that it allows: when a thread has asked for the phase and
//! nothing else is missing. The first question for a phase is always answered with no, which the ISA allows.

use super::clocks::Clocks;
use super::memory::{Access, Now};
use std::collections::BTreeMap;

/// Bytes of a barrier.
pub(super) const SIZE: usize = 8;

/// Arrivals that a phase can have, and bytes that it can wait for (PTX ISA, "mbarrier object").
const MOST: i64 = (1 << 20) - 1;

/// Copies on their way that a barrier waits for.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    /// Where each goes, and what it brings.
    pub(super) copies: Vec<(u64, Vec<u8>)>,
    /// Who started them.
    pub(super) by: Access,
    /// Whether their end is an arrival, and not so many bytes.
    pub(super) arrives: bool,
}

impl Flight {
    fn bytes(&self) -> i64 {
        if self.arrives { 0 } else { self.copies.iter().map(|(_, content)| content.len() as i64).sum() }
    }
}

/// A barrier.
#[derive(Clone, Debug)]
struct Barrier {
    /// Arrivals of a phase, and those that are missing.
    count: i64,
    missing: i64,
    /// Bytes that the phase waits for.
    bytes: i64,
    /// Phases that are over.
    phase: u64,
    flights: Vec<Flight>,
    /// What those know that have arrived in this phase, and in those that are over.
    arrived: Clocks,
    over: Clocks,
    made: Access,
}

/// The barriers of a block, by address.
#[derive(Clone, Debug, Default)]
pub(super) struct Phases(BTreeMap<u64, Barrier>);

impl Phases {
    /// Makes a barrier.
    pub(super) fn make(&mut self, at: u64, count: u64, warps: usize, who: &Now) -> Result<(), String> {
        let known = i64::try_from(count).ok().filter(|count| (1..=MOST).contains(count));
        let count = known.ok_or_else(|| format!("a barrier for {count} arrivals"))?;
        let (arrived, over) = (Clocks::of(warps), Clocks::of(warps));
        let barrier = Barrier { count, missing: count, bytes: 0, phase: 0, flights: vec![], arrived, over, made: who.access };
        self.0.insert(at, barrier).map_or(Ok(()), |_| Err(format!("the barrier at {at} is made again")))
    }

    fn known(&mut self, at: u64, who: &Now) -> Result<&mut Barrier, String> {
        let found = self.0.get_mut(&at).filter(|barrier| who.follows(&barrier.made));
        found.ok_or_else(|| format!("no barrier at {at} is known to have been made"))
    }

    /// A thread arrives, and says how many bytes there are to wait for, too.
    pub(super) fn arrive(&mut self, at: u64, count: u64, bytes: u64, who: &Now) -> Result<(), String> {
        let barrier = self.known(at, who)?;
        barrier.missing -= count as i64;
        barrier.bytes += bytes as i64;
        barrier.arrived.join(&who.known.with(who.access.thread, who.access.time));
        barrier.check(at)?;
        barrier.turn();
        Ok(())
    }

    /// Copies start that the barrier waits for.
    pub(super) fn start(&mut self, at: u64, flight: Flight, who: &Now) -> Result<(), String> {
        let barrier = self.known(at, who)?;
        if !who.is_shown(&barrier.made) {
            return Err(format!("no fence shows the barrier at {at} to the copies that arrive there"));
        }
        barrier.flights.push(flight);
        barrier.check(at)
    }

    /// Whether the phase before the one of this parity's end is over, and what those know that arrived in it.
    pub(super) fn over(&mut self, at: u64, parity: u64, who: &Now) -> Result<Option<&Clocks>, String> {
        let barrier = self.known(at, who)?;
        Ok(barrier.is_over(parity).then_some(&barrier.over))
    }

    /// Whether a phase is over, or nothing but copies on their way is missing.
    pub(super) fn can_be_over(&self, at: u64, parity: u64) -> bool {
        self.0.get(&at).is_some_and(|barrier| barrier.is_over(parity) || barrier.waits_for_copies())
    }

    /// What arrives so that the phase is over, if nothing else is missing.
    pub(super) fn landed(&mut self, at: u64) -> Vec<Flight> {
        let Some(barrier) = self.0.get_mut(&at).filter(|barrier| barrier.waits_for_copies()) else { return vec![] };
        let flights = std::mem::take(&mut barrier.flights);
        for flight in &flights {
            barrier.missing -= i64::from(flight.arrives);
            barrier.bytes -= flight.bytes();
            let alone = barrier.over.with(flight.by.thread, flight.by.time);
            barrier.arrived.join(&alone);
        }
        barrier.turn();
        flights
    }

    /// What a barrier waits for, in words.
    pub(super) fn said(&self, at: u64) -> String {
        let said = |b: &Barrier| format!("{} of {} arrivals and {} bytes", b.left(), b.count, b.bytes_left());
        format!("the barrier at {at} waits for {}", self.0.get(&at).map_or("nothing".to_string(), said))
    }

    /// Fails where copies are on their way when the block ends.
    pub(super) fn ended(&self) -> Result<(), String> {
        let late = self.0.iter().find(|(_, barrier)| !barrier.flights.is_empty());
        late.map_or(Ok(()), |(at, _)| Err(format!("copies for the barrier at {at} are on their way at the end")))
    }
}

impl Barrier {
    fn left(&self) -> i64 {
        self.missing - self.flights.iter().filter(|flight| flight.arrives).count() as i64
    }

    fn bytes_left(&self) -> i64 {
        self.bytes - self.flights.iter().map(Flight::bytes).sum::<i64>()
    }

    fn check(&self, at: u64) -> Result<(), String> {
        match (self.left(), self.bytes_left()) {
            (left, _) if left < 0 => Err(format!("more arrivals at the barrier at {at} than the {} of a phase", self.count)),
            (0, bytes) if bytes < 0 => Err(format!("{} bytes more are copied for the barrier at {at} than it was told", -bytes)),
            (_, bytes) if bytes.abs() > MOST => Err(format!("the barrier at {at} waits for {bytes} bytes")),
            _ => Ok(()),
        }
    }

    fn is_over(&self, parity: u64) -> bool {
        self.phase % 2 != parity
    }

    fn waits_for_copies(&self) -> bool {
        !self.flights.is_empty() && self.left() == 0 && self.bytes_left() == 0
    }

    /// Goes on to the next phase if this one is over.
    fn turn(&mut self) {
        if self.missing == 0 && self.bytes == 0 {
            self.over.join(&self.arrived);
            (self.phase, self.missing) = (self.phase + 1, self.count);
        }
    }
}
