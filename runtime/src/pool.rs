//! Threads that walk one list of steps together.
//!
//! A walk is a list of steps, each cut into parts that may run at the same time; step `n + 1` begins when every part of step
//! `n` has returned. There is one wake-up per walk, not one per step: while a walk lasts, its threads hand steps to each other
//! through a few atomic words. **Invariant.** Each part of each step runs exactly once, and no part of a step begins before
//! all parts of the step before it are done. Nobody waits for a thread that is not running a part: one that was never woken
//! or has lost its processor to another program is passed over, and its parts are taken by the others.
//!
//! # How it works
//!
//! Every worker has a *ticket*: a counter of the parts of the current step that are still to be begun out of its share.
//! A worker takes parts off its own ticket, so that neighbouring parts of successive steps run on the same core, then off
//! the tickets of the others. Whoever finishes the last part of a step publishes the next one. A worker without work spins for
//! [`SPIN`], then sleeps on its *bell*. The thread that calls [`Pool::walk`] is worker 0; a step of one part runs there.
//!
//! ```text
//! worker 0   | step 0, part 0 | step 1 (one part) | step 2, part 0 |
//! worker 1   | step 0, part 1 |   spins           | step 2, part 1 |
//! ```

use crate::error::{Error, Result};
use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle worker spins before it sleeps. Waking a sleeper costs 20 to 45 us, so spinning about that long never
/// costs more than twice the best choice; without a bound, a machine with more runnable threads than cores collapses.
const SPIN: Duration = Duration::from_micros(40);

/// Spins between two looks at the clock, so that the clock is a small part of the wait.
const SPINS_PER_LOOK: u32 = 16;

/// Parts per thread that a step is cut into where it can be: enough for the others to take over the rest of a
/// thread that lost its processor, few enough that a part still covers many register tiles.
const PARTS_PER_THREAD: usize = 4;

/// Stack of a worker: as large as that of a main thread usually is, because kernels do not know where they run.
const STACK_BYTES: usize = 8 << 20;

/// The most threads a pool can have; the share of one thread must fit the 16 bits of a ticket's counter.
pub const MAX_THREADS: usize = 1024;

/// What one part of a step does: `work(step, part, parts)`.
type Work<'a> = dyn Fn(usize, u32, u32) + Sync + 'a;

/// The number of threads to use when the caller does not say: what the cgroup quota and the affinity mask of the process allow.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_THREADS)
}

/// The number of parts into which so many threads cut a step that can be cut into at most `useful` parts.
pub(crate) fn parts(threads: usize, useful: i64) -> u32 {
    match threads {
        1 => 1,
        threads => useful.clamp(1, (threads * PARTS_PER_THREAD) as i64) as u32,
    }
}

/// A fixed set of threads, the caller's included.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// A ticket: 47 bits of generation, a bit that forbids others to take parts, 16 bits of parts still to be begun.
/// The generation makes every published ticket different, so a compare-exchange never takes a part of a later step for one
/// of an earlier step; at a step per microsecond it wraps after four years.
#[derive(Clone, Copy)]
struct Ticket(u64);

impl Ticket {
    const LEFT: u64 = 0xffff;
    const PINNED: u64 = 1 << 16;

    fn new(generation: u64, pinned: bool, left: u32) -> Ticket {
        let flag = if pinned { Ticket::PINNED } else { 0 };
        Ticket(generation << 17 | flag | u64::from(left))
    }

    fn left(self) -> u32 {
        (self.0 & Ticket::LEFT) as u32
    }

    fn is_pinned(self) -> bool {
        self.0 & Ticket::PINNED != 0
    }
}

/// What belongs to one worker, on cache lines of its own (two, because processors fetch lines in pairs).
#[repr(align(128))]
#[derive(Default)]
struct Slot {
    ticket: AtomicU64,
    /// Counts the reasons to look again; a sleeping worker waits for it to change.
    bell: AtomicU32,
    asleep: AtomicBool,
}

/// The walk under way. Only read between taking a part and reporting it done, while `Pool::walk` cannot return.
#[derive(Clone, Copy)]
struct Walk {
    parts: *const [u32],
    work: *const Work<'static>,
}

struct Shared {
    slots: Box<[Slot]>,
    walk: UnsafeCell<Option<Walk>>,
    /// The step the tickets are for.
    step: AtomicUsize,
    /// Parts of that step that have returned.
    done: AtomicU32,
    generation: AtomicU64,
    finished: AtomicBool,
    stop: AtomicBool,
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: the raw pointers in `walk` are written by `Pool::walk`, which has the pool to itself, before it publishes the first
// tickets with release ordering, and are read only by threads that acquired a ticket of that walk.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointers are never followed outside a walk.
unsafe impl Send for Shared {}

impl Pool {
    /// Starts `threads - 1` threads; the thread that calls [`walk`](Pool::walk) is the remaining one.
    pub(crate) fn new(threads: usize) -> Result<Pool> {
        let threads = threads.clamp(1, MAX_THREADS);
        let shared = Arc::new(Shared {
            slots: (0..threads).map(|_| Slot::default()).collect(),
            walk: UnsafeCell::new(None),
            step: AtomicUsize::new(0),
            done: AtomicU32::new(0),
            generation: AtomicU64::new(0),
            finished: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut pool = Pool { shared, workers: Vec::new() };
        for me in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let builder = std::thread::Builder::new().name(format!("egret-{me}")).stack_size(STACK_BYTES);
            let worker = builder.spawn(move || shared.serve(me));
            // On failure the drop of `pool` ends the threads that did start.
            pool.workers.push(worker.map_err(|e| Error::Resource(format!("thread {me} of {threads} cannot be started: {e}")))?);
        }
        Ok(pool)
    }

    /// The number of threads, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.shared.slots.len()
    }

    /// Runs `work(step, part, parts[step])` for every part of every step and returns when the last one has returned.
    /// Each step has at least one part, and no more than [`parts`] gives.
    ///
    /// A panic in `work` is passed on to the caller once no part is running any more; the steps after it are not run.
    pub(crate) fn walk(&mut self, parts: &[u32], work: &Work<'_>) {
        if self.threads() == 1 {
            return walk_alone(parts, work);
        }
        if parts.is_empty() {
            return;
        }
        // SAFETY: only the lifetime changes. The pointer is followed only by workers that hold a part, and this function
        // returns after the last part has been reported done.
        let work: *const Work<'static> = unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
        // SAFETY: no walk is under way (`&mut self`), so no worker reads the cell.
        unsafe { *self.shared.walk.get() = Some(Walk { parts, work }) };
        self.shared.finished.store(false, Relaxed);
        self.shared.panicked.store(false, Relaxed);
        self.shared.publish(0, parts[0], 0);
        self.shared.serve(0);
        if self.shared.panicked.load(Relaxed) {
            let payload = self.shared.panic.lock().ok().and_then(|mut payload| payload.take());
            resume_unwind(payload.unwrap_or_else(|| Box::new("a kernel panicked")));
        }
    }
}

fn walk_alone(parts: &[u32], work: &Work<'_>) {
    for (step, &parts) in parts.iter().enumerate() {
        for part in 0..parts {
            work(step, part, parts);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Release);
        (1..self.threads()).for_each(|worker| self.shared.ring(worker));
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its parts, so joining cannot fail; if it did, there would be nothing to do.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Works until the walk is finished (worker 0) or the pool is dropped (the others).
    fn serve(&self, me: usize) {
        loop {
            // Read the bell first: whatever is published later rings it again.
            let heard = self.slots[me].bell.load(Acquire);
            let over = if me == 0 { &self.finished } else { &self.stop };
            if over.load(Acquire) {
                return;
            }
            match self.take(me) {
                Some(owner) => self.run(me, owner),
                None => self.wait(me, heard),
            }
        }
    }

    /// Takes a part off the own ticket, or else off another one; returns whose, and how many were left with it.
    fn take(&self, me: usize) -> Option<Taken> {
        let threads = self.slots.len();
        (0..threads).map(|i| (me + i) % threads).find_map(|owner| {
            let slot = &self.slots[owner].ticket;
            let mut seen = Ticket(slot.load(Acquire));
            while seen.left() > 0 && (owner == me || !seen.is_pinned()) {
                match slot.compare_exchange_weak(seen.0, seen.0 - 1, AcqRel, Acquire) {
                    Ok(_) => {
                        return Some(Taken { owner, left: seen.left() });
                    }
                    Err(now) => seen = Ticket(now),
                }
            }
            None
        })
    }

    /// Runs a part that was taken; whoever reports the last part of a step goes on to the next step.
    fn run(&self, me: usize, taken: Taken) {
        // SAFETY: this thread holds a part, so the walk is under way and cannot end before `done` counts the part; the
        // pointers were written before the ticket was published.
        let (parts, work) = unsafe {
            let Some(walk) = *self.walk.get() else { return };
            (&*walk.parts, &*walk.work)
        };
        let step = self.step.load(Relaxed);
        let total = parts[step];
        let part = self.share(taken.owner + 1, total) - taken.left;
        if !self.panicked.load(Relaxed)
            && let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(step, part, total)))
        {
            self.keep_panic(payload);
        }
        if self.done.fetch_add(1, AcqRel) + 1 == total {
            match step + 1 {
                next if next < parts.len() => self.publish(next, parts[next], me),
                _ => self.finish(me),
            }
        }
    }

    /// The first part that belongs to `worker`: parts are shared out evenly and in order. A step of one part is worker 0's.
    fn share(&self, worker: usize, parts: u32) -> u32 {
        let threads = self.slots.len() as u64;
        // Rounding up gives the first worker its part even when there are fewer parts than workers.
        (worker as u64 * u64::from(parts)).div_ceil(threads) as u32
    }

    /// Makes the parts of a step available and wakes the workers that have a share in it.
    fn publish(&self, step: usize, total: u32, me: usize) {
        debug_assert!(total > 0, "a step of no parts would never be done");
        self.step.store(step, Relaxed);
        self.done.store(0, Relaxed);
        let generation = self.generation.fetch_add(1, Relaxed) + 1;
        let shares = || (0..self.slots.len()).map(|worker| self.share(worker + 1, total) - self.share(worker, total));
        for (slot, share) in self.slots.iter().zip(shares()).filter(|(_, share)| *share > 0) {
            slot.ticket.store(Ticket::new(generation, total == 1, share).0, Release);
        }
        // From here on other workers may finish this step, even the walk, so only bells are touched.
        for (worker, _) in shares().enumerate().filter(|&(worker, share)| share > 0 && worker != me) {
            self.ring(worker);
        }
    }

    fn finish(&self, me: usize) {
        self.finished.store(true, Release);
        if me != 0 {
            self.ring(0);
        }
    }

    fn keep_panic(&self, payload: Box<dyn Any + Send>) {
        if let Ok(mut kept) = self.panic.lock() {
            kept.get_or_insert(payload);
        }
        self.panicked.store(true, Relaxed);
    }

    /// Makes a worker look again, and wakes it if it sleeps.
    fn ring(&self, worker: usize) {
        let slot = &self.slots[worker];
        // Sequentially consistent on both sides, as in `wait`: either this sees the worker asleep, or it sees the bell.
        slot.bell.fetch_add(1, SeqCst);
        if slot.asleep.load(SeqCst) {
            atomic_wait::wake_one(&slot.bell);
        }
    }

    /// Waits until the bell differs from `heard`: spinning first, then asleep.
    fn wait(&self, me: usize, heard: u32) {
        let slot = &self.slots[me];
        let begin = Instant::now();
        loop {
            for _ in 0..SPINS_PER_LOOK {
                if slot.bell.load(Relaxed) != heard {
                    return;
                }
                spin_loop();
            }
            if begin.elapsed() > SPIN {
                break;
            }
        }
        slot.asleep.store(true, SeqCst);
        while slot.bell.load(SeqCst) == heard {
            atomic_wait::wait(&slot.bell, heard);
        }
        slot.asleep.store(false, Relaxed);
    }
}

/// A part taken off the ticket of `owner`, which counted `left` parts before.
struct Taken {
    owner: usize,
    left: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;
    use std::sync::atomic::AtomicU64;

    /// Walks and checks that every part ran once and after all parts of the step before it.
    fn check(pool: &mut Pool, parts: &[u32]) {
        let began: Vec<AtomicU64> = parts.iter().map(|_| AtomicU64::new(0)).collect();
        let ended: Vec<AtomicU32> = parts.iter().map(|_| AtomicU32::new(0)).collect();
        pool.walk(parts, &|step, part, total| {
            assert_eq!(total, parts[step]);
            assert!(step == 0 || ended[step - 1].load(SeqCst) == parts[step - 1], "step {step} began too early");
            let bit = 1 << part;
            assert_eq!(began[step].fetch_or(bit, SeqCst) & bit, 0, "part {part} of step {step} ran twice");
            ended[step].fetch_add(1, SeqCst);
        });
        for (step, &total) in parts.iter().enumerate() {
            assert_eq!(began[step].load(SeqCst), u64::MAX >> (64 - total), "step {step}");
        }
    }

    #[test]
    fn every_part_runs_once_and_steps_run_in_order() {
        let mut random = Random::new(1);
        for threads in [1, 2, 3, 4, 7] {
            let mut pool = Pool::new(threads).unwrap();
            for _ in 0..60 {
                let parts: Vec<u32> = (0..1 + random.below(40)).map(|_| 1 + random.below(16) as u32).collect();
                check(&mut pool, &parts);
            }
            check(&mut pool, &[]);
        }
    }

    #[test]
    fn serial_steps_run_on_the_callers_thread() {
        let mut pool = Pool::new(4).unwrap();
        let caller = std::thread::current().id();
        for _ in 0..50 {
            pool.walk(&[4, 1, 3, 1, 1], &|_, _, parts| {
                let is_caller = std::thread::current().id() == caller;
                assert!(parts > 1 || is_caller);
                if is_caller && parts > 1 {
                    // Let another worker finish the step, so that the serial step has to be handed over.
                    std::thread::sleep(Duration::from_micros(50));
                }
            });
        }
    }

    #[test]
    fn walks_work_after_the_workers_have_gone_to_sleep() {
        let mut pool = Pool::new(3).unwrap();
        for _ in 0..20 {
            check(&mut pool, &[3, 1, 6]);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_sleeping_caller_is_woken_by_the_last_part() {
        let mut pool = Pool::new(2).unwrap();
        let caller = std::thread::current().id();
        pool.walk(&[2, 1], &|_, part, parts| {
            if parts == 2 && (part == 1 || std::thread::current().id() != caller) {
                std::thread::sleep(Duration::from_millis(3));
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        for threads in [1, 2, 4] {
            let mut pool = Pool::new(threads).unwrap();
            for part in 0..4 {
                let panic = catch_unwind(AssertUnwindSafe(|| {
                    pool.walk(&[4, 4], &|step, p, _| assert!(step == 0 && p != part, "as planned"));
                }));
                assert!(panic.is_err());
                check(&mut pool, &[4, 4]);
            }
        }
    }

    #[test]
    fn pools_come_and_go_without_a_walk() {
        for threads in [1, 2, 5] {
            drop(Pool::new(threads).unwrap());
        }
    }

    #[test]
    fn shares_cover_the_parts_without_gap() {
        let pool = Pool::new(3).unwrap();
        for parts in 1..20 {
            let bounds: Vec<u32> = (0..=3).map(|worker| pool.shared.share(worker, parts)).collect();
            assert!(bounds[0] == 0 && bounds[3] == parts && bounds.is_sorted(), "{bounds:?}");
        }
        assert_eq!(pool.shared.share(1, 1), 1);
    }
}
