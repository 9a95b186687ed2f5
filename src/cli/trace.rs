//! A run as trace events: one track per thread, one slice per part of a step.
//!
//! The file is in the [Trace Event Format](https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU), which
//! ui.perfetto.dev and chrome://tracing open.
//!
//! ```text
//! {"name": "y", "cat": "matmul · relu", "ph": "X", "pid": 1, "tid": 0, "ts": 12.4, "dur": 3.1, "args": {...}}
//! ```

use super::profile::work::{Entry, entries};
use egret::Error;
use egret::plan::Plan;
use egret::profile::Span;
use serde_json::{Value, json};
use std::path::Path;
use std::thread::ThreadId;

/// Writes the parts of a run.
pub fn write(path: &Path, plan: &Plan, spans: &[Span]) -> Result<(), Error> {
    let text = events(plan, spans).to_string();
    std::fs::write(path, text).map_err(|error| Error::File(format!("{}: {error}", path.display())))
}

fn events(plan: &Plan, spans: &[Span]) -> Value {
    let (threads, entries) = (threads(spans), entries(plan));
    let name = |track: usize| if track == 0 { "caller".to_string() } else { format!("worker {track}") };
    let named =
        (0..threads.len()).map(|track| json!({"name": "thread_name", "ph": "M", "pid": 1, "tid": track, "args": {"name": name(track)}}));
    let slice = |span: &Span| {
        let Entry { kernel, computes, value, origins } = &entries[span.step];
        json!({
            "name": value, "cat": computes, "ph": "X", "pid": 1,
            "tid": threads.iter().position(|thread| *thread == span.thread),
            "ts": microseconds(span.begin), "dur": microseconds(span.end - span.begin),
            "args": {"step": span.step, "part": span.part, "turn": span.turn, "kernel": kernel, "computes": computes, "from": origins},
        })
    };
    json!({"displayTimeUnit": "ns", "traceEvents": named.chain(spans.iter().map(slice)).collect::<Vec<_>>()})
}

fn microseconds(time: std::time::Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

/// The threads, the caller's first, then in the order in which they appear.
fn threads(spans: &[Span]) -> Vec<ThreadId> {
    let mut threads = vec![std::thread::current().id()];
    for span in spans {
        if !threads.contains(&span.thread) {
            threads.push(span.thread);
        }
    }
    threads
}

#[cfg(test)]
mod tests {
    use super::*;
    use egret::Compiler;
    use std::time::Duration;

    #[test]
    fn parts_are_slices_on_the_tracks_of_their_threads() {
        let graph = egret::parse_text("g", "graph g(x: f32[8]) { y = relu(x) return y }").unwrap();
        let artifact = Compiler::new().generate(&Compiler::new().optimise(&graph).unwrap()).unwrap();
        let (here, us) = (std::thread::current().id(), Duration::from_micros);
        let other = std::thread::spawn(|| std::thread::current().id()).join().unwrap();
        let span = |part, thread, begin, end| Span { turn: 0, step: 0, part, thread, begin: us(begin), end: us(end) };
        let events = events(artifact.plan(), &[span(0, other, 1, 3), span(1, here, 2, 6)]);
        let all = events["traceEvents"].as_array().unwrap();
        let tracks: Vec<_> = all.iter().map(|event| (event["ph"].as_str().unwrap(), event["tid"].as_u64().unwrap())).collect();
        assert_eq!(tracks, [("M", 0), ("M", 1), ("X", 1), ("X", 0)]);
        assert_eq!((all[3]["ts"].as_f64(), all[3]["dur"].as_f64(), all[3]["name"].as_str()), (Some(2.0), Some(4.0), Some("y")));
    }
}
