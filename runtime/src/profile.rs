//! When each part of each step of a run took place, and on which thread.
//!
//! **Invariant.** Recording takes no lock and allocates nothing while the run lasts: every part has a place of its own, made
//! before. It costs two looks at the clock per part.
//!
//! ```
//! # use egret_runtime::profile::{Span, step_times};
//! # use std::time::Duration;
//! # let thread = std::thread::current().id();
//! # let us = Duration::from_micros;
//! // Step 0 ran in two parts at the same time, step 1 in one, and in the next turn again.
//! let spans = [
//!     Span { turn: 0, step: 0, part: 0, thread, begin: us(0), end: us(7) },
//!     Span { turn: 0, step: 0, part: 1, thread, begin: us(1), end: us(9) },
//!     Span { turn: 0, step: 1, part: 0, thread, begin: us(9), end: us(10) },
//!     Span { turn: 1, step: 1, part: 0, thread, begin: us(12), end: us(14) },
//! ];
//! assert_eq!(step_times(&spans, 2), [us(9), us(3)]);
//! ```

use crate::binding::Binding;
use crate::plan::Plan;
use std::sync::OnceLock;
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// One part of one step of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index in [`Profile::turns`].
    pub turn: u32,
    /// Index of the step in the plan. The stages of a program are numbered through, and behind their steps come its
    /// [operations](crate::program::Program::operations).
    pub step: usize,
    /// Which part of the step.
    pub part: u32,
    /// The thread it ran on.
    pub thread: ThreadId,
    /// When it began, from the beginning of the run.
    pub begin: Duration,
    /// When it ended, from the beginning of the run.
    pub end: Duration,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The parts of its steps; those of one step in one turn stand together.
    pub spans: Vec<Span>,
    /// The plans that were walked, in order: the one of the model, or stages of its program, each as often as it ran.
    pub turns: Vec<Turn>,
}

/// A plan that was walked, or an operation between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Index in [`Plan::walked`]; behind these come the [operations](crate::program::Program::operations) of a program.
    pub plan: usize,
    /// The values of its free dimensions; none for an operation.
    pub symbols: Vec<i64>,
}

/// How long each of `steps` steps took in all turns together, each from the beginning of its first part to the end of its last.
pub fn step_times(spans: &[Span], steps: usize) -> Vec<Duration> {
    let mut times = vec![Duration::ZERO; steps];
    for parts in spans.chunk_by(|a, b| (a.turn, a.step) == (b.turn, b.step)) {
        let (begin, end) = (parts.iter().map(|span| span.begin).min(), parts.iter().map(|span| span.end).max());
        times[parts[0].step] += end.zip(begin).map_or(Duration::ZERO, |(end, begin)| end - begin);
    }
    times
}

/// Writes down what a run does.
pub(crate) struct Log {
    origin: Instant,
    /// The number of the first step of each plan that is walked, then that of the first operation.
    first: Vec<usize>,
    profile: Profile,
}

impl Log {
    /// For a run of a plan; its clock starts now.
    pub(crate) fn new(plan: &Plan) -> Log {
        let mut first = vec![0];
        plan.walked().iter().for_each(|walked| first.push(first[first.len() - 1] + walked.steps.len()));
        Log { origin: Instant::now(), first, profile: Profile::default() }
    }

    /// A plan is walked, by its index.
    pub(crate) fn walk<E>(&mut self, plan: usize, binding: &Binding, walk: impl FnOnce(&Recorder) -> Result<(), E>) -> Result<(), E> {
        let recorder = Recorder::new(self.origin, &binding.parts);
        walk(&recorder)?;
        self.add(plan, &binding.symbols, recorder.into_spans());
        Ok(())
    }

    /// An operation of a program is run, by its index.
    pub(crate) fn operation<T>(&mut self, index: usize, work: impl FnOnce() -> T) -> T {
        let begin = self.origin.elapsed();
        let made = work();
        let span = Span { turn: 0, step: index, part: 0, thread: std::thread::current().id(), begin, end: self.origin.elapsed() };
        let operations = self.first.len() - 1;
        self.add(operations, &[], vec![span]);
        if let Some(turn) = self.profile.turns.last_mut() {
            turn.plan += index;
        }
        made
    }

    fn add(&mut self, plan: usize, symbols: &[i64], spans: Vec<Span>) {
        let (turn, first) = (self.profile.turns.len() as u32, self.first[plan]);
        self.profile.turns.push(Turn { plan, symbols: symbols.to_vec() });
        self.profile.spans.extend(spans.into_iter().map(|span| Span { turn, step: first + span.step, ..span }));
    }

    /// What was written.
    pub(crate) fn finish(self) -> Profile {
        self.profile
    }
}

/// Records the parts of one walk over a plan.
pub(crate) struct Recorder {
    origin: Instant,
    /// Where the parts of each step begin in `spans`.
    first: Vec<usize>,
    spans: Vec<OnceLock<Span>>,
}

impl Recorder {
    /// A recorder for steps with these numbers of parts; its clock started at `origin`.
    fn new(origin: Instant, parts: &[u32]) -> Recorder {
        let mut total = 0;
        let mut place = |parts: &u32| {
            total += *parts as usize;
            total - *parts as usize
        };
        let first = parts.iter().map(&mut place).collect();
        let spans = (0..total).map(|_| OnceLock::new()).collect();
        Recorder { origin, first, spans }
    }

    /// Runs a part and records it.
    pub(crate) fn record(&self, step: usize, part: u32, work: impl FnOnce()) {
        let begin = self.origin.elapsed();
        work();
        let span = Span { turn: 0, step, part, thread: std::thread::current().id(), begin, end: self.origin.elapsed() };
        // A part runs once, so its place is still empty.
        let _ = self.spans[self.first[step] + part as usize].set(span);
    }

    /// What was recorded, step by step and part by part.
    fn into_spans(self) -> Vec<Span> {
        self.spans.into_iter().filter_map(OnceLock::into_inner).collect()
    }
}
