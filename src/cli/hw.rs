//! `egret hw`: what this machine can do, measured.
//!
//! ```text
//! $ egret hw
//! AMD EPYC (znver4), 2 threads
//!                1 thread   2 threads
//! f32 GFLOP/s       116.5       232.1
//! L1 read GB/s      232.4       464.0   32.0 KiB, 1 core
//! ...
//! step us            0.01        0.42
//! no GPU: this machine has no NVIDIA driver
//! kept for `egret profile` and for predictions in /home/me/.cache/egret/hw-amd-epyc-znver4-2.json
//! ```
//!
//! A step is what a kernel is called in; the last row is what one costs that does nothing.

use super::options::JsonOption;
use super::progress::Progress;
use super::report;
use super::table::{Align, bytes, columns, plural};
use egret::gpu::Version;
use egret::hw::{Level, Machine, Rate};
use egret::{Error, gpus};
use serde::Serialize;
use std::path::PathBuf;

/// Arithmetic on registers shares nothing between cores: all threads that gain less than this over one were not all running.
/// Two threads of one core gain 1.0 to 1.3 by nature, but then nothing can be said either.
const LEAST_GAIN: f64 = 1.5;

/// The arguments of `egret hw`.
#[derive(clap::Args)]
pub struct Args {
    /// Keep the figures in this file instead of the user's cache directory
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    #[command(flatten)]
    json: JsonOption,
}

/// Measures, prints, and keeps the figures.
pub fn run(args: Args) -> Result<(), Error> {
    let progress = Progress::start("Measuring");
    let machine = Machine::measure()?;
    drop(progress);
    let file = match args.save {
        Some(file) => Some(file),
        None => Machine::cache_file(),
    };
    if let Some(file) = &file {
        machine.write(file)?;
    }
    if machine.threads > 1 && machine.gflops.all < machine.gflops.one * LEAST_GAIN {
        report::warning("other programs took processors away: the figures for all threads are too low; measure again when they are done");
    }
    let gpus = gpus();
    if !args.json.takes_stdout() {
        report::result(text(&machine) + &gpu_lines(&gpus))?;
    }
    match file {
        Some(file) => report::note(format_args!("kept for `egret profile` and for predictions in {}", file.display())),
        None => report::note("not kept: neither XDG_CACHE_HOME nor HOME is set; --save FILE keeps it"),
    }
    args.json.json.as_deref().map_or(Ok(()), |path| report::json(path, &Report { machine: &machine, gpus: found(&gpus) }))
}

/// What was measured, and what else there is.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    machine: &'a Machine,
    gpus: Vec<FoundGpu<'a>>,
}

#[derive(Serialize)]
struct FoundGpu<'a> {
    name: &'a str,
    arch: String,
    bytes: u64,
}

/// GPUs by their numbers, or why they cannot be used.
type Gpus = Result<Vec<(String, Version, u64)>, Error>;

fn found(gpus: &Gpus) -> Vec<FoundGpu<'_>> {
    let gpus = gpus.as_deref().unwrap_or_default();
    gpus.iter().map(|(name, capability, bytes)| FoundGpu { name, arch: capability.arch().to_string(), bytes: *bytes }).collect()
}

/// A line for each GPU, or one that says that there is none.
fn gpu_lines(gpus: &Gpus) -> String {
    match gpus {
        Err(error) => format!("no GPU: {error}\n"),
        Ok(gpus) if gpus.is_empty() => "no GPU: this machine has no NVIDIA driver\n".to_string(),
        Ok(gpus) => {
            let line = |(i, (name, capability, size)): (usize, &(String, Version, u64))| {
                format!("cuda:{i}   {name}, {}, {}\n", capability.arch(), bytes(*size))
            };
            gpus.iter().enumerate().map(line).collect()
        }
    }
}

fn text(machine: &Machine) -> String {
    let all = plural(machine.threads, "thread");
    let header = [("", Align::Left), ("1 thread", Align::Right), (all.as_str(), Align::Right), ("", Align::Left)];
    let row = |name: String, rate: Rate, digits: usize, note: String| {
        vec![name, format!("{:.digits$}", rate.one), format!("{:.digits$}", rate.all), note]
    };
    let mut rows = vec![row("f32 GFLOP/s".into(), machine.gflops, 1, String::new())];
    for level in &machine.levels {
        rows.push(row(format!("{} read GB/s", level.name), level.read, 1, about(level)));
        rows.push(row(format!("{} write GB/s", level.name), level.write, 1, String::new()));
    }
    rows.push(row("step us".into(), machine.step_us, 2, String::new()));
    format!("{}, {all}\n{}", machine.processor, columns(&header, rows))
}

/// `1.0 MiB, 1 core`.
fn about(level: &Level) -> String {
    level.bytes.map_or(String::new(), |size| format!("{}, {}", bytes(size), plural(level.cores, "core")))
}
