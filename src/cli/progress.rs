//! What is being done right now: one line on stderr that disappears when it is done.
//!
//! **Invariant.** Nothing is shown unless stderr is a terminal, and nothing of it remains there.
//!
//! ```text
//! ⠹ Compiling 37/54 kernels
//! ```

use egret::codegen::Compiled;
use egret::passes::rules::Class;
use egret::{Compiler, Error, Graph, Optimised, Stage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::RefCell;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How often the line is redrawn.
const TICK: Duration = Duration::from_millis(100);

/// The line that stands on the terminal now.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Prints something else on the terminal, with the line out of its way.
pub fn make_way<T>(print: impl FnOnce() -> T) -> T {
    let shown = SHOWN.try_lock().ok().and_then(|shown| shown.clone());
    match shown {
        Some(bar) => bar.suspend(print),
        None => print(),
    }
}

fn show(bar: Option<ProgressBar>) {
    if let Ok(mut shown) = SHOWN.lock() {
        *shown = bar;
    }
}

/// A line that says what is being done; it disappears when dropped.
pub struct Progress {
    bar: ProgressBar,
    timings: RefCell<Timings>,
}

/// What was done and how long it took.
pub struct Timings {
    /// The phases that are over, in order.
    pub phases: Vec<(&'static str, Duration)>,
    /// The passes of the optimisation, in order.
    pub passes: Vec<(&'static str, Duration)>,
    now: &'static str,
    since: Instant,
}

impl Timings {
    fn begin(&mut self, phase: &'static str) {
        if phase != self.now {
            self.phases.push((self.now, self.since.elapsed()));
            (self.now, self.since) = (phase, Instant::now());
        }
    }
}

/// What became of a graph.
pub struct Built {
    /// The code.
    pub compiled: Compiled,
    /// The graphs of kernels that it was made of, one for each target.
    pub optimised: Vec<Optimised>,
}

impl Built {
    /// The weakest class of the rules that were applied.
    pub fn weakest_rule(&self) -> Option<Class> {
        self.optimised.iter().flat_map(|one| &one.reports).filter_map(|report| report.class).max()
    }
}

impl Progress {
    /// Begins with this phase, such as `Importing`.
    pub fn start(phase: &'static str) -> Progress {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {msg} {prefix}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        bar.set_style(style);
        bar.set_message(phase);
        bar.enable_steady_tick(TICK);
        show(Some(bar.clone()));
        let timings = Timings { phases: vec![], passes: vec![], now: phase, since: Instant::now() };
        Progress { bar, timings: timings.into() }
    }

    /// Ends the phase under way, and says what took how long.
    pub fn finish(self) -> Timings {
        self.phase("");
        self.timings.replace(Timings { phases: vec![], passes: vec![], now: "", since: Instant::now() })
    }

    /// Goes on with another phase.
    pub fn phase(&self, phase: &'static str) {
        self.timings.borrow_mut().begin(phase);
        self.bar.set_prefix("");
        self.bar.set_message(phase);
    }

    /// Optimises a graph and generates code, showing what is done.
    pub fn compile(&self, compiler: &Compiler, graph: &Graph) -> Result<Built, Error> {
        self.generate(compiler, self.optimise(compiler, graph)?)
    }

    /// The graphs of kernels, one for each target.
    pub fn optimise(&self, compiler: &Compiler, graph: &Graph) -> Result<Vec<Optimised>, Error> {
        self.phase("Optimising");
        let optimised = compiler.optimise_all(graph)?;
        let reports = || optimised.iter().flat_map(|one| &one.reports);
        self.timings.borrow_mut().passes.extend(reports().map(|pass| (pass.pass, pass.time)));
        Ok(optimised)
    }

    /// Their code.
    pub fn generate(&self, compiler: &Compiler, optimised: Vec<Optimised>) -> Result<Built, Error> {
        let report = |stage, done, total| {
            let (phase, what) = match stage {
                Stage::Lower => ("Lowering", "values"),
                Stage::Code => ("Generating code", "kernels"),
            };
            self.phase(phase);
            self.bar.set_prefix(format!("{done}/{total} {what}"));
        };
        let compiled = compiler.generate_all(&optimised, &report)?;
        Ok(Built { compiled, optimised })
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        show(None);
        self.bar.finish_and_clear();
    }
}
