//! Decides where in the scratch arena each intermediate lives.
//!
//! A value occupies its bytes from the step that first writes it to the last step that touches it; values that are never
//! alive at the same time share bytes. A private buffer takes its bytes once for each part of its step.
//! **Invariant.** Two buffers that are alive during the same step overlap only where
//! [`Step::in_place`](crate::plan::Step::in_place) allows it, every offset is a multiple of [`ALIGN`], and the arena ends
//! with [`SLACK`] readable bytes. The same plan and binding always give the same map.
//!
//! The placement walks the steps in order and takes the smallest free gap that fits (best fit); among equal gaps it takes
//! the one freed most recently, because its bytes are still in the cache. Where placing the largest buffers first (`by_size`)
//! needs clearly fewer bytes, that placement is taken. Offsets are skewed so that a large result does
//! not start at the same address modulo 4 KiB as the values it is computed from: a processor that compares only the low
//! 12 bits of addresses would otherwise make loads wait for unrelated stores.
//!
//! ```
//! # use egret_runtime::plan::*;
//! # fn buffer(name: &str, bytes: i64) -> Buffer { Buffer { name: name.into(), bytes: bytes.into(), place: Place::Arena } }
//! # fn step(reads: &[u32], writes: &[u32]) -> Step { Step { name: String::new(), kernel: 0, reads: reads.into(),
//! #   writes: writes.into(), sizes: vec![], parts: 1.into(), in_place: None, flops: 0.into(), origins: vec![] } }
//! use egret_runtime::memory::MemoryMap;
//!
//! // a -> b -> c: when c is computed, a is dead and its bytes are free.
//! let plan = Plan {
//!     buffers: vec![buffer("a", 1024), buffer("b", 1024), buffer("c", 1024)],
//!     steps: vec![step(&[], &[0]), step(&[0], &[1]), step(&[1], &[2])],
//!     ..Plan::default()
//! };
//! let map = MemoryMap::of(&plan, &[], 1).unwrap();
//! assert_eq!(map.offsets, [Some(0), Some(1024), Some(0)]);
//! assert_eq!(map.arena_bytes, 2048 + 64);
//! ```

mod bound;
mod by_size;

use crate::plan::{ALIGN, Buffer, Place, Plan, SLACK, Size, SizeError, Step};
use crate::pool;

/// Largest arena that is planned: 1 TiB, far beyond any machine this runs on and far below any overflow.
const MAX_ARENA: u64 = 1 << 40;

/// Distance modulo 4 KiB that keeps a result clear of the values it is computed from: four cache lines, so that the
/// loads a few iterations ahead of the stores are clear too.
const SKEW: u64 = 256;

/// Addresses that agree modulo this may be taken for the same by the load-store logic of x86-64 cores.
const PAGE: u64 = 4096;

/// Smaller buffers are not skewed: the few loads they cost are not worth the gaps that skewing leaves.
const SKEW_FROM: u64 = 4 * PAGE;

/// The walk's placement is kept, for its recently used bytes, unless the other needs at most so many percent of its arena.
const CLEARLY_FEWER: u64 = 95;

/// Where each buffer lives in the arena, for one binding of the free symbols.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryMap {
    /// Offset in bytes of each buffer, by its index; `None` for buffers that do not live in the arena or are never used.
    pub offsets: Vec<Option<u64>>,
    /// Length of the arena in bytes, slack included; 0 if nothing lives in it.
    pub arena_bytes: u64,
    /// The greatest number of bytes alive during one step: no placement can need less, apart from in-place sharing.
    pub live_bytes: u64,
}

/// The steps during which a buffer holds its value: `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// The step that first touches it.
    pub first: usize,
    /// The last step that touches it; one past the last step of the plan for an output that is copied out.
    pub last: usize,
}

/// The lifetime of each arena buffer, by its index; `None` for other buffers and for those that no step touches.
pub fn lifetimes(plan: &Plan) -> Vec<Option<Lifetime>> {
    let mut lifetimes: Vec<Option<Lifetime>> = vec![None; plan.buffers.len()];
    let mut touch = |id: u32, now: usize| {
        if matches!(plan.buffers[id as usize].place, Place::Arena | Place::Private) {
            lifetimes[id as usize].get_or_insert(Lifetime { first: now, last: now }).last = now;
        }
    };
    for (now, step) in plan.steps.iter().enumerate() {
        step.reads.iter().chain(&step.writes).for_each(|&id| touch(id, now));
    }
    plan.outputs.iter().for_each(|port| touch(port.buffer, plan.steps.len()));
    lifetimes
}

impl MemoryMap {
    /// Plans the arena of a checked plan for the given values of its symbols and a number of threads.
    ///
    /// # Errors
    ///
    /// A sentence, if a buffer's size overflows, is negative, or the arena would exceed 1 TiB.
    ///
    /// # Panics
    ///
    /// If the plan names a buffer that does not exist; [`Plan::check`] excludes that.
    pub fn of(plan: &Plan, symbols: &[i64], threads: usize) -> Result<MemoryMap, String> {
        MemoryMap::aligned(plan, symbols, threads, ALIGN as u64)
    }

    /// The same where every offset is a multiple of `align`, a power of two from [`ALIGN`] to 256.
    ///
    /// # Errors
    ///
    /// As [`of`](MemoryMap::of).
    pub fn aligned(plan: &Plan, symbols: &[i64], threads: usize, align: u64) -> Result<MemoryMap, String> {
        let own = placed(plan, buffer_bytes(plan, symbols, threads)?, align)?;
        Ok(match MemoryMap::bound(plan, threads, align) {
            // Placements of smaller buffers may need more bytes: then each lies where its largest form would.
            Some(bound) if bound.arena_bytes < own.arena_bytes => MemoryMap { live_bytes: own.live_bytes, ..bound },
            _ => own,
        })
    }
}

/// The arena for buffers of these lengths.
fn placed(plan: &Plan, mut bytes: Vec<u64>, align: u64) -> Result<MemoryMap, String> {
    if align > ALIGN as u64 {
        // Skews are multiples of 256 bytes, so where all lengths are multiples of the alignment, all offsets are.
        bytes.iter_mut().for_each(|bytes| *bytes = bytes.next_multiple_of(align));
    }
    let lifetimes = lifetimes(plan);
    let (walked, sorted) = (walk(plan, &bytes, &lifetimes), by_size::place(plan, &bytes, &lifetimes));
    let spans = if top(&sorted) <= top(&walked) / 100 * CLEARLY_FEWER { sorted } else { walked };
    finish(&spans, live_bytes(plan, &bytes, &lifetimes))
}

/// The bytes of each buffer that has a lifetime, placed step by step.
fn walk(plan: &Plan, bytes: &[u64], lifetimes: &[Option<Lifetime>]) -> Vec<Option<Span>> {
    let mut planner = Planner::new(plan.buffers.len());
    for (now, step) in plan.steps.iter().enumerate() {
        planner.place_results(now, step, bytes, lifetimes);
        planner.free_dead(now, step, lifetimes);
    }
    planner.spans
}

/// The bytes of an arena that holds these spans.
fn top(spans: &[Option<Span>]) -> u64 {
    spans.iter().flatten().map(|span| span.end()).max().unwrap_or(0)
}

fn finish(spans: &[Option<Span>], live_bytes: u64) -> Result<MemoryMap, String> {
    let top = top(spans);
    if top > MAX_ARENA {
        return Err(format!("the intermediates would need {top} bytes"));
    }
    let arena_bytes = if top == 0 { 0 } else { top + SLACK as u64 };
    let offsets = spans.iter().map(|span| span.map(|span| span.start)).collect();
    Ok(MemoryMap { offsets, arena_bytes, live_bytes })
}

/// The length of each buffer in bytes, by its index: of a private one, of all the parts that its step has on so many threads.
///
/// # Errors
///
/// A sentence, if a length has no value, is negative or exceeds 1 TiB.
pub fn buffer_bytes(plan: &Plan, symbols: &[i64], threads: usize) -> Result<Vec<u64>, String> {
    lengths(plan, &step_parts(plan, symbols, threads)?, &|size| size.eval(symbols))
}

/// The length of each buffer in bytes where a step has so many parts and a size such a value.
fn lengths(plan: &Plan, parts: &[u32], value: &dyn Fn(&Size) -> Result<i64, SizeError>) -> Result<Vec<u64>, String> {
    let mut copies = vec![1; plan.buffers.len()];
    for (step, &parts) in plan.steps.iter().zip(parts) {
        step.writes.iter().filter(|&&id| is_private(plan, id)).for_each(|&id| copies[id as usize] = i64::from(parts));
    }
    let length = |(buffer, copies): (&Buffer, i64)| {
        let bytes = value(&buffer.bytes).map_err(|e| format!("buffer `{}`: {e}", buffer.name))?;
        match bytes.checked_mul(copies).and_then(|all| u64::try_from(all).ok()) {
            Some(all) if all <= MAX_ARENA => Ok(all),
            _ => Err(format!("buffer `{}` would have {bytes} bytes", buffer.name)),
        }
    };
    plan.buffers.iter().zip(copies).map(length).collect()
}

/// The number of parts of each step on so many threads.
///
/// # Errors
///
/// A sentence, if the number has no value.
pub fn step_parts(plan: &Plan, symbols: &[i64], threads: usize) -> Result<Vec<u32>, String> {
    parts(plan, threads, &|size| size.eval(symbols))
}

fn parts(plan: &Plan, threads: usize, value: &dyn Fn(&Size) -> Result<i64, SizeError>) -> Result<Vec<u32>, String> {
    let of_step = |step: &Step| match value(&step.parts) {
        Ok(useful) => Ok(pool::parts(threads, useful)),
        Err(problem) => Err(format!("step `{}`: {problem}", step.name)),
    };
    plan.steps.iter().map(of_step).collect()
}

fn is_private(plan: &Plan, id: u32) -> bool {
    plan.buffers[id as usize].place == Place::Private
}

/// The greatest sum of the lengths of the buffers alive during one step.
fn live_bytes(plan: &Plan, bytes: &[u64], lifetimes: &[Option<Lifetime>]) -> u64 {
    let mut change = vec![0i128; plan.steps.len() + 2];
    for (lifetime, &bytes) in lifetimes.iter().zip(bytes) {
        if let Some(Lifetime { first, last }) = *lifetime {
            change[first] += i128::from(bytes);
            change[last + 1] -= i128::from(bytes);
        }
    }
    let mut live = 0;
    let peak = change.iter().map(|&step| {
        live += step;
        live
    });
    peak.max().map_or(0, |peak| u64::try_from(peak).unwrap_or(u64::MAX))
}

/// A run of bytes of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: u64,
    bytes: u64,
}

impl Span {
    fn end(self) -> u64 {
        self.start + self.bytes
    }
}

/// A run of free bytes.
#[derive(Clone, Copy, Debug)]
struct Gap {
    span: Span,
    /// When bytes of it were last freed, as a step number.
    freed: usize,
}

struct Planner {
    /// Free runs below `top`, by address; neighbours are always merged.
    gaps: Vec<Gap>,
    /// The bytes each buffer occupies now or occupied last.
    spans: Vec<Option<Span>>,
    /// Buffers whose bytes passed to another buffer in place: nothing to free when they die.
    handed_on: Vec<bool>,
    /// Length of the arena so far.
    top: u64,
}

impl Planner {
    fn new(buffers: usize) -> Planner {
        Planner { gaps: Vec::new(), spans: vec![None; buffers], handed_on: vec![false; buffers], top: 0 }
    }

    /// Places the buffers that come to life at this step, the largest first.
    fn place_results(&mut self, now: usize, step: &Step, bytes: &[u64], lifetimes: &[Option<Lifetime>]) {
        let is_new = |id: u32| lifetimes[id as usize].is_some_and(|lifetime| lifetime.first == now);
        let mut fresh: Vec<u32> = step.reads.iter().chain(&step.writes).copied().filter(|&id| is_new(id)).collect();
        fresh.sort_by_key(|&id| (std::cmp::Reverse(bytes[id as usize]), id));
        fresh.dedup();
        if let Some((read, written)) = step.in_place {
            let dies = lifetimes[read as usize].is_some_and(|lifetime| lifetime.first < now && lifetime.last == now);
            if dies && fresh.contains(&written) && self.hand_on(read, written, bytes[written as usize]) {
                fresh.retain(|&id| id != written);
            }
        }
        for id in fresh {
            let span = self.allocate(bytes[id as usize], &self.read_offsets(step));
            self.spans[id as usize] = Some(span);
        }
    }

    /// Lets `written` take over the bytes of `read`, if they are enough.
    fn hand_on(&mut self, read: u32, written: u32, bytes: u64) -> bool {
        match self.spans[read as usize] {
            Some(span) if bytes <= span.bytes && !self.handed_on[read as usize] => {
                self.spans[written as usize] = Some(span);
                self.handed_on[read as usize] = true;
                true
            }
            _ => false,
        }
    }

    /// Offsets modulo 4 KiB that a large result of the step should keep clear of.
    fn read_offsets(&self, step: &Step) -> Vec<u64> {
        let spans = step.reads.iter().filter_map(|&id| self.spans[id as usize]);
        spans.filter(|span| span.bytes >= SKEW_FROM).map(|span| span.start % PAGE).collect()
    }

    /// Takes the best gap, or else grows the arena.
    fn allocate(&mut self, bytes: u64, avoid: &[u64]) -> Span {
        let bytes = bytes.next_multiple_of(ALIGN as u64);
        let avoid = if bytes < SKEW_FROM { &[] } else { avoid };
        let fitting = self.gaps.iter().enumerate().filter_map(|(index, gap)| {
            let start = skewed(gap.span.start, avoid);
            (start + bytes <= gap.span.end()).then_some((index, start, gap))
        });
        let best = fitting.min_by_key(|(_, _, gap)| (gap.span.bytes, std::cmp::Reverse(gap.freed)));
        match best.map(|(index, start, _)| (index, start)) {
            Some((index, start)) => self.take(index, Span { start, bytes }),
            None => self.grow(bytes, avoid),
        }
    }

    /// Cuts `span` out of a gap; what remains on either side stays free.
    fn take(&mut self, index: usize, span: Span) -> Span {
        let Gap { span: whole, freed } = self.gaps.remove(index);
        let before = Span { start: whole.start, bytes: span.start - whole.start };
        let after = Span { start: span.end(), bytes: whole.end() - span.end() };
        for rest in [after, before] {
            if rest.bytes > 0 {
                self.gaps.insert(index, Gap { span: rest, freed });
            }
        }
        span
    }

    /// Places bytes at the end of the arena, beginning in the gap that reaches to its end, if there is one.
    fn grow(&mut self, bytes: u64, avoid: &[u64]) -> Span {
        let last = self.gaps.pop_if(|gap| gap.span.end() == self.top);
        let (free, freed) = last.map_or((self.top, 0), |gap| (gap.span.start, gap.freed));
        let span = Span { start: skewed(free, avoid), bytes };
        if span.start > free {
            self.gaps.push(Gap { span: Span { start: free, bytes: span.start - free }, freed });
        }
        self.top = span.end();
        span
    }

    /// Frees the buffers whose last step this was.
    fn free_dead(&mut self, now: usize, step: &Step, lifetimes: &[Option<Lifetime>]) {
        let mut dead: Vec<u32> = step.reads.iter().chain(&step.writes).copied().collect();
        dead.sort_unstable();
        dead.dedup();
        for id in dead {
            let dies = lifetimes[id as usize].is_some_and(|lifetime| lifetime.last == now);
            if let (true, false, Some(span)) = (dies, self.handed_on[id as usize], self.spans[id as usize]) {
                self.free(span, now);
            }
        }
    }

    /// Returns bytes to the free list and merges them with their neighbours.
    fn free(&mut self, span: Span, now: usize) {
        if span.bytes == 0 {
            return;
        }
        let index = self.gaps.partition_point(|gap| gap.span.start < span.start);
        self.gaps.insert(index, Gap { span, freed: now });
        self.merge(index);
        if index > 0 {
            self.merge(index - 1);
        }
    }

    /// Merges a gap with the one behind it, if they touch.
    fn merge(&mut self, index: usize) {
        if let [gap, next, ..] = &mut self.gaps[index..]
            && gap.span.end() == next.span.start
        {
            gap.span.bytes += next.span.bytes;
            gap.freed = gap.freed.max(next.freed);
            self.gaps.remove(index + 1);
        }
    }
}

/// The first offset from `start` on that keeps [`SKEW`] bytes clear of every offset in `avoid`, modulo 4 KiB.
/// Falls back to `start` where the reads leave no such place.
fn skewed(start: u64, avoid: &[u64]) -> u64 {
    let clear = |candidate: &u64| {
        avoid.iter().all(|other| {
            let distance = (candidate % PAGE).abs_diff(*other);
            distance.min(PAGE - distance) >= SKEW
        })
    };
    (0..PAGE / SKEW).map(|turn| start + turn * SKEW).find(clear).unwrap_or(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Size;
    use crate::testing::{Random, step};

    fn buffers(bytes: &[i64]) -> Vec<Buffer> {
        let buffer = |(i, &bytes): (usize, &i64)| Buffer { name: format!("b{i}"), bytes: Size::Const(bytes), place: Place::Arena };
        bytes.iter().enumerate().map(buffer).collect()
    }

    fn plan(bytes: &[i64], steps: &[(&[u32], &[u32])]) -> Plan {
        let steps = steps.iter().map(|(reads, writes)| step(reads, writes)).collect();
        Plan { buffers: buffers(bytes), steps, ..Plan::default() }
    }

    fn offsets(plan: &Plan) -> Vec<u64> {
        MemoryMap::of(plan, &[], 1).unwrap().offsets.into_iter().flatten().collect()
    }

    #[test]
    fn dead_bytes_are_used_again_and_the_best_gap_is_taken() {
        // b0 (256) and b1 (128) die at once; b3 needs 128 and takes the gap of b1, not the larger one of b0.
        let plan = plan(&[256, 128, 64, 128], &[(&[], &[0, 2]), (&[], &[1]), (&[0], &[]), (&[1], &[]), (&[2], &[3])]);
        let map = MemoryMap::of(&plan, &[], 1).unwrap();
        assert_eq!(map.offsets[3], map.offsets[1]);
    }

    #[test]
    fn among_equal_gaps_the_most_recently_freed_wins() {
        // b0 dies before b2; both leave 128 bytes with a live buffer between them.
        let plan = plan(
            &[128, 128, 128, 128, 128],
            &[(&[], &[0]), (&[], &[1]), (&[], &[2]), (&[], &[3]), (&[0], &[]), (&[2], &[]), (&[1, 3], &[4])],
        );
        let map = MemoryMap::of(&plan, &[], 1).unwrap();
        assert_eq!(map.offsets[4], map.offsets[2]);
    }

    #[test]
    fn in_place_shares_bytes_only_when_the_read_buffer_dies() {
        let mut dying = plan(&[512, 512], &[(&[], &[0]), (&[0], &[1])]);
        dying.steps[1].in_place = Some((0, 1));
        assert_eq!(offsets(&dying), [0, 0]);
        let mut living = plan(&[512, 512], &[(&[], &[0]), (&[0], &[1]), (&[0, 1], &[])]);
        living.steps[1].in_place = Some((0, 1));
        assert_eq!(offsets(&living), [0, 512]);
        let mut growing = plan(&[512, 1024], &[(&[], &[0]), (&[0], &[1])]);
        growing.steps[1].in_place = Some((0, 1));
        assert_eq!(offsets(&growing), [0, 512]);
    }

    #[test]
    fn large_results_do_not_alias_their_operands_modulo_a_page() {
        let plan = plan(&[65536, 65536, 65536], &[(&[], &[0]), (&[0], &[1]), (&[0, 1], &[2])]);
        let starts = offsets(&plan);
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let distance = (starts[a] % PAGE).abs_diff(starts[b] % PAGE);
            assert!(distance.min(PAGE - distance) >= SKEW, "{starts:?}");
        }
    }

    #[test]
    fn sizes_that_make_no_sense_are_errors() {
        assert!(MemoryMap::of(&plan(&[-1], &[(&[], &[0])]), &[], 1).unwrap_err().contains("would have -1 bytes"));
        assert!(MemoryMap::of(&plan(&[i64::MAX], &[(&[], &[0])]), &[], 1).is_err());
        let huge = MAX_ARENA as i64;
        assert!(MemoryMap::of(&plan(&[huge, huge], &[(&[], &[0, 1])]), &[], 1).unwrap_err().contains("intermediates"));
        assert_eq!(MemoryMap::of(&plan(&[0], &[(&[], &[0])]), &[], 1).unwrap().arena_bytes, 0);
    }

    #[test]
    fn private_bytes_are_there_once_for_each_part() {
        let mut plan = plan(&[64, 128, 64, 640], &[(&[], &[0]), (&[0], &[2, 1]), (&[2], &[3])]);
        plan.buffers[1].place = Place::Private;
        plan.steps[1].parts = Size::Const(5);
        let bytes = |threads| buffer_bytes(&plan, &[], threads).unwrap()[1];
        assert_eq!([bytes(1), bytes(2), bytes(8)], [128, 5 * 128, 5 * 128]);
        // They lie beside the other values of their step, and are free for the next one's.
        assert_eq!(MemoryMap::of(&plan, &[], 2).unwrap().offsets, [Some(0), Some(64), Some(704), Some(0)]);
        plan.buffers[1].bytes = Size::Const(1 << 39);
        assert!(buffer_bytes(&plan, &[], 2).unwrap_err().contains("`b1` would have"));
    }

    /// A plan of random buffers and steps: reads of living values, sometimes in place, sometimes written twice.
    fn random_plan(random: &mut Random) -> Plan {
        let count = 2 + random.below(60) as usize;
        let size = |random: &mut Random| {
            if random.below(4) == 0 { random.below(200_000) } else { random.below(5_000) }
        };
        let bytes: Vec<i64> = (0..count).map(|_| size(random) as i64).collect();
        let mut steps = Vec::new();
        for id in 0..count as u32 {
            let reads: Vec<u32> = (0..random.below(3)).filter(|_| id > 0).map(|_| random.below(id as u64) as u32).collect();
            let mut step = step(&reads, &[id]);
            if random.below(2) == 0 {
                step.in_place = reads.first().map(|&read| (read, id));
            }
            if random.below(5) == 0 && id > 0 {
                step.writes.push(random.below(id as u64) as u32);
            }
            steps.push(step);
        }
        Plan { buffers: buffers(&bytes), steps, ..Plan::default() }
    }

    /// The pairs that a plan allows to share bytes at a step.
    fn may_share(step: &Step, a: u32, b: u32) -> bool {
        step.in_place == Some((a, b)) || step.in_place == Some((b, a))
    }

    #[test]
    fn no_two_living_buffers_overlap_in_random_plans() {
        let mut random = Random::new(7);
        let mut shared = [0, 0];
        for _ in 0..400 {
            let plan = random_plan(&mut random);
            let (bytes, lifetimes) = (buffer_bytes(&plan, &[], 1).unwrap(), lifetimes(&plan));
            shared[0] += check_disjoint(&plan, &bytes, &walk(&plan, &bytes, &lifetimes));
            shared[1] += check_disjoint(&plan, &bytes, &by_size::place(&plan, &bytes, &lifetimes));
        }
        assert!(shared.iter().all(|&shared| shared > 100), "in-place sharing was hardly exercised: {shared:?}");
    }

    /// Checks a placement; returns how often bytes were shared in place.
    fn check_disjoint(plan: &Plan, bytes: &[u64], spans: &[Option<Span>]) -> usize {
        let (map, lifetimes) = (finish(spans, 0).unwrap(), lifetimes(plan));
        let mut shared = 0;
        for (now, step) in plan.steps.iter().enumerate() {
            let is_alive = |&id: &u32| lifetimes[id as usize].is_some_and(|l| l.first <= now && now <= l.last);
            let alive: Vec<u32> = (0..plan.buffers.len() as u32).filter(is_alive).collect();
            for (i, &a) in alive.iter().enumerate() {
                let start = map.offsets[a as usize].unwrap();
                assert_eq!(start % ALIGN as u64, 0);
                assert!(start + bytes[a as usize] + SLACK as u64 <= map.arena_bytes || map.arena_bytes == 0);
                for &b in &alive[i + 1..] {
                    let other = map.offsets[b as usize].unwrap();
                    let disjoint = start + bytes[a as usize] <= other || other + bytes[b as usize] <= start;
                    assert!(disjoint || may_share(step, a, b), "{a} and {b} at step {now}");
                    shared += usize::from(!disjoint);
                }
            }
        }
        shared
    }

    #[test]
    fn small_buffers_that_live_long_do_not_break_up_the_arena() {
        // b0 (8 KiB) dies before b2 (12 KiB) comes; b1 (1 KiB) lives through both and would stand behind b0.
        let plan = plan(&[8192, 1024, 12288], &[(&[], &[0]), (&[0], &[1]), (&[], &[2]), (&[1, 2], &[])]);
        let map = MemoryMap::of(&plan, &[], 1).unwrap();
        assert_eq!(map.arena_bytes, 12288 + 1024 + SLACK as u64);
        assert_eq!(map.offsets, [Some(0), Some(12288), Some(0)]);
    }

    #[test]
    fn the_arena_stays_near_the_lower_bound() {
        let mut random = Random::new(3);
        let (mut arena, mut live) = (0, 0);
        for _ in 0..200 {
            let map = MemoryMap::of(&random_plan(&mut random), &[], 1).unwrap();
            arena += map.arena_bytes;
            live += map.live_bytes;
        }
        assert!(arena < live * 11 / 10, "arena {arena}, lower bound {live}");
    }
}
