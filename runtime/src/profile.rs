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
//! // Step 0 ran in two parts at the same time, step 1 in one.
//! let spans = [
//!     Span { step: 0, part: 0, thread, begin: us(0), end: us(7) },
//!     Span { step: 0, part: 1, thread, begin: us(1), end: us(9) },
//!     Span { step: 1, part: 0, thread, begin: us(9), end: us(10) },
//! ];
//! assert_eq!(step_times(&spans, 2), [us(9), us(1)]);
//! ```

use std::sync::OnceLock;
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// One part of one step of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index of the step in the plan.
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

/// How long each of `steps` steps took, from the beginning of its first part to the end of its last.
pub fn step_times(spans: &[Span], steps: usize) -> Vec<Duration> {
    let mut bounds = vec![None; steps];
    for span in spans {
        let (begin, end) = bounds[span.step].get_or_insert((span.begin, span.end));
        (*begin, *end) = (span.begin.min(*begin), span.end.max(*end));
    }
    bounds.into_iter().map(|bounds| bounds.map_or(Duration::ZERO, |(begin, end)| end - begin)).collect()
}

/// Records the parts of one run.
pub(crate) struct Recorder {
    origin: Instant,
    /// Where the parts of each step begin in `spans`.
    first: Vec<usize>,
    spans: Vec<OnceLock<Span>>,
}

impl Recorder {
    /// A recorder for a run whose steps have these numbers of parts; its clock starts now.
    pub(crate) fn new(parts: &[u32]) -> Recorder {
        let mut total = 0;
        let mut place = |parts: &u32| {
            total += *parts as usize;
            total - *parts as usize
        };
        let first = parts.iter().map(&mut place).collect();
        let spans = (0..total).map(|_| OnceLock::new()).collect();
        Recorder { origin: Instant::now(), first, spans }
    }

    /// Runs a part and records it.
    pub(crate) fn record(&self, step: usize, part: u32, work: impl FnOnce()) {
        let begin = self.origin.elapsed();
        work();
        let span = Span { step, part, thread: std::thread::current().id(), begin, end: self.origin.elapsed() };
        // A part runs once, so its place is still empty.
        let _ = self.spans[self.first[step] + part as usize].set(span);
    }

    /// What was recorded, step by step and part by part.
    pub(crate) fn into_spans(self) -> Vec<Span> {
        self.spans.into_iter().filter_map(OnceLock::into_inner).collect()
    }
}
