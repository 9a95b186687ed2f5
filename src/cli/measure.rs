//! Times runs of a session: warmed up, for a minimum of time, alone or side by side with another.
//!
//! **Invariant.** A timed run includes what a caller pays (input checks, the run itself) and nothing else: outputs exist
//! before, files and conversions are out of it. Two sides are measured in turns, run by run, so that whatever
//! changes on the machine changes for both.

use egret::profile::Profile;
use egret::{Error, Session, Tensor, TensorView};
use std::time::{Duration, Instant};

/// Untimed runs before the first timed one: the first run binds dimensions and touches every page.
const WARM_UP_RUNS: usize = 3;

/// Untimed runs go on this long: a core that was idle takes tens of milliseconds to reach its clock frequency.
const WARM_UP_TIME: Duration = Duration::from_millis(100);

/// A median of fewer runs says little, however long they take.
const MIN_RUNS: usize = 5;

/// More samples than this only cost memory and time to evaluate: the 99th percentile then rests on thousands.
const MAX_RUNS: usize = 200_000;

/// Profiles hold every part of a run: so many give a median, and more would only take memory.
const MAX_PROFILES: usize = 2000;

/// A session with inputs and outputs in place, ready to be timed.
pub struct Side<'a> {
    session: Session,
    inputs: Vec<(&'a str, TensorView<'a>)>,
    outputs: Vec<Tensor>,
}

impl<'a> Side<'a> {
    /// Runs the session once, so that everything that is allocated on the first run is there.
    pub fn new(mut session: Session, inputs: Vec<(&'a str, TensorView<'a>)>) -> Result<Side<'a>, Error> {
        let outputs = session.run(&inputs)?;
        Ok(Side { session, inputs, outputs })
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    fn time(&mut self) -> Result<Duration, Error> {
        let begin = Instant::now();
        self.session.run_into(&self.inputs, &mut self.outputs)?;
        Ok(begin.elapsed())
    }

    fn profile(&mut self) -> Result<Profiled, Error> {
        let begin = Instant::now();
        let run = self.session.run_profiled(&self.inputs, &mut self.outputs)?;
        Ok(Profiled { time: begin.elapsed(), run })
    }

    fn warm_up(&mut self) -> Result<(), Error> {
        let begin = Instant::now();
        let mut runs = 0;
        while runs < WARM_UP_RUNS || begin.elapsed() < WARM_UP_TIME {
            self.time()?;
            runs += 1;
        }
        Ok(())
    }
}

/// A profiled run.
pub struct Profiled {
    /// How long it took.
    pub time: Duration,
    /// What it did, and when.
    pub run: Profile,
}

/// Plain runs and profiled ones in turns, for `min_time` or longer: the times of the plain ones, and the profiles.
pub fn profiled(side: &mut Side<'_>, min_time: Duration) -> Result<(Vec<Duration>, Vec<Profiled>), Error> {
    side.warm_up()?;
    let (mut plain, mut profiles) = (Vec::new(), Vec::new());
    let begin = Instant::now();
    while profiles.len() < MAX_PROFILES && !is_enough(profiles.len(), begin.elapsed(), min_time) {
        plain.push(side.time()?);
        profiles.push(side.profile()?);
    }
    Ok((plain, profiles))
}

/// The times of runs that together last `min_time` or longer.
pub fn alone(side: &mut Side<'_>, min_time: Duration) -> Result<Vec<Duration>, Error> {
    side.warm_up()?;
    let mut samples = Vec::new();
    let mut total = Duration::ZERO;
    while !is_enough(samples.len(), total, min_time) {
        let sample = side.time()?;
        total += sample;
        samples.push(sample);
    }
    Ok(samples)
}

/// The times of both sides' runs, made in turns; each side's together last `min_time` or longer.
pub fn in_turns<'a>(one: &mut Side<'a>, other: &mut Side<'a>, min_time: Duration) -> Result<(Vec<Duration>, Vec<Duration>), Error> {
    let mut both = all_in_turns(&mut [one, other], min_time)?.into_iter();
    Ok((both.next().unwrap_or_default(), both.next().unwrap_or_default()))
}

/// The same for any number of sides: a run of each, again and again.
pub fn all_in_turns<'a>(sides: &mut [&mut Side<'a>], min_time: Duration) -> Result<Vec<Vec<Duration>>, Error> {
    sides.iter_mut().try_for_each(|side| side.warm_up())?;
    let mut samples: Vec<Vec<Duration>> = vec![Vec::new(); sides.len()];
    let mut totals = vec![Duration::ZERO; sides.len()];
    let mut runs = 0;
    while !is_enough(runs, totals.iter().min().copied().unwrap_or(Duration::MAX), min_time) {
        for ((side, samples), total) in sides.iter_mut().zip(&mut samples).zip(&mut totals) {
            let sample = side.time()?;
            *total += sample;
            samples.push(sample);
        }
        runs += 1;
    }
    Ok(samples)
}

fn is_enough(runs: usize, total: Duration, min_time: Duration) -> bool {
    runs >= MAX_RUNS || (runs >= MIN_RUNS && total >= min_time)
}
