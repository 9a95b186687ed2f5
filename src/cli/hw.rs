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
use egret::gpu::Gpu;
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
    multiprocessors: u32,
    bytes: u64,
    /// The CUDA version of the driver.
    cuda: String,
}

/// GPUs by their numbers, or why they cannot be used.
type Gpus = Result<Vec<Gpu>, Error>;

impl FoundGpu<'_> {
    fn of(gpu: &Gpu) -> FoundGpu<'_> {
        let (arch, cuda) = (gpu.capability.arch().to_string(), gpu.driver.to_string());
        FoundGpu { name: &gpu.name, arch, multiprocessors: gpu.multiprocessors, bytes: gpu.memory, cuda }
    }
}

fn found(gpus: &Gpus) -> Vec<FoundGpu<'_>> {
    gpus.as_deref().unwrap_or_default().iter().map(FoundGpu::of).collect()
}

/// A line for each GPU, or one that says that there is none.
fn gpu_lines(gpus: &Gpus) -> String {
    match gpus {
        Err(error) => format!("no GPU: {error}\n"),
        Ok(gpus) if gpus.is_empty() => "no GPU: this machine has no NVIDIA driver\n".to_string(),
        Ok(gpus) => {
            let line = |(i, gpu): (usize, &Gpu)| {
                let Gpu { name, capability, memory, multiprocessors, driver } = gpu;
                let (arch, units) = (capability.arch(), plural(*multiprocessors as usize, "multiprocessor"));
                format!("cuda:{i}   {name}, {arch}, {units}, {}, driver for CUDA {driver}\n", bytes(*memory))
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
    rows.extend(machine.pairs_gflops.map(|rate| row("bf16 GFLOP/s".into(), rate, 1, String::new())));
    rows.extend(machine.quads_gops.map(|rate| row("int8 GOP/s".into(), rate, 1, String::new())));
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

#[cfg(test)]
mod tests {
    use super::*;
    use egret::gpu::Version;

    #[test]
    fn gpus_are_named_with_what_decides_over_code() {
        let (capability, driver) = (Version { major: 9, minor: 0 }, Version { major: 13, minor: 0 });
        let gpu = Gpu { name: "NVIDIA H100".into(), capability, memory: 80 << 30, multiprocessors: 132, driver };
        let line = "cuda:0   NVIDIA H100, sm_90, 132 multiprocessors, 80.0 GiB, driver for CUDA 13.0\n";
        assert_eq!(gpu_lines(&Ok(vec![gpu.clone()])), line);
        let report = serde_json::to_value(found(&Ok(vec![gpu]))).unwrap();
        assert_eq!(report[0]["arch"], "sm_90");
        assert_eq!(report[0]["cuda"], "13.0");
        assert_eq!(gpu_lines(&Ok(vec![])), "no GPU: this machine has no NVIDIA driver\n");
        let too_old = Err(Error::Unsupported("the driver is too old".into()));
        assert_eq!(gpu_lines(&too_old), "no GPU: the driver is too old\n");
        assert!(found(&too_old).is_empty());
    }
}
