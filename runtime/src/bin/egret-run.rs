//! Runs a compiled model: the whole of Egret that a deployed machine needs.
//!
//! ```text
//! $ egret-run mnist.egret --input x=digit.npy
//! y  f32[1, 10]  min -8.1  max 12.4  mean -0.31  [-1.2, 0.03, 2.2, -8.1, 12.4, 0.9, ...]
//! ```
//!
//! Results go to stdout, times and errors to stderr. Exit codes: 0 success, 1 the machine lacks memory or threads,
//! 2 usage, 3 no such GPU, 4 bad file.

use clap::Parser;
use egret_runtime::{DType, Error, Options, Plan, Session, Tensor, TensorView, WeightsCheck, npy};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Runs a model that `egret compile` has compiled.
///
/// Without --input and --input-dir, the inputs are seeded random numbers: floats in [-1, 1), integers 0 or 1.
#[derive(Parser)]
#[command(name = "egret-run", version, max_term_width = 100)]
struct Args {
    /// The artifact.
    model: PathBuf,
    /// An input and the .npy file with its elements; repeat for each input.
    #[arg(long, value_name = "NAME=FILE", value_parser = name_and_file, conflicts_with = "input_dir")]
    input: Vec<(String, PathBuf)>,
    /// A folder with input_0.npy, input_1.npy, ..., in the order of the model's inputs.
    #[arg(long, value_name = "DIR")]
    input_dir: Option<PathBuf>,
    /// A folder to write output_0.npy, output_1.npy, ... to, in the order of the model's outputs; made if needed.
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// The value of a free dimension for random inputs; repeat for each.
    #[arg(long, value_name = "NAME=N", value_parser = name_and_extent, conflicts_with_all = ["input", "input_dir"])]
    dim: Vec<(String, i64)>,
    /// The GPU to run on, such as cuda:0; without, the processor.
    #[cfg(feature = "cuda")]
    #[arg(long, value_name = "cuda:N", value_parser = gpu)]
    device: Option<usize>,
    /// Threads to run on; 0 means as many as this process may use.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Seed of the random inputs.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Runs; with more than one, their times are printed to stderr.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Check the weights by their cryptographic hash, not only by their sum.
    #[arg(long)]
    verify: bool,
}

/// Splits at the last `=`, since names of tensors may contain one.
fn split_last(text: &str) -> Result<(String, &str), String> {
    let (name, value) = text.rsplit_once('=').ok_or("expected a name, `=` and a value")?;
    Ok((name.to_string(), value))
}

fn name_and_file(text: &str) -> Result<(String, PathBuf), String> {
    split_last(text).map(|(name, file)| (name, PathBuf::from(file)))
}

fn name_and_extent(text: &str) -> Result<(String, i64), String> {
    let (name, value) = split_last(text)?;
    let value = value.parse().map_err(|_| format!("`{value}` is not a number"))?;
    Ok((name, value))
}

/// The number of a GPU.
#[cfg(feature = "cuda")]
fn gpu(text: &str) -> Result<usize, String> {
    let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
    number.ok_or_else(|| format!("`{text}` is no GPU; expected cuda:0 or another number"))
}

/// Loads the model onto what it is to run on.
fn load(args: &Args) -> Result<Session, Error> {
    let weights = if args.verify { WeightsCheck::Full } else { WeightsCheck::Quick };
    #[cfg(feature = "cuda")]
    if let Some(ordinal) = args.device {
        let device = egret_runtime::device::cuda::CudaDevice::open(ordinal)?;
        return Session::on(egret_runtime::Artifact::open(&args.model, weights)?, Box::new(device));
    }
    Session::load(&args.model, Options { threads: args.threads, weights })
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(args: &Args) -> Result<(), Error> {
    let begin = Instant::now();
    let mut session = load(args)?;
    let loaded = begin.elapsed();
    let tensors = inputs(args, &session)?;
    let views: Vec<(&str, TensorView<'_>)> = tensors.iter().map(|(name, tensor)| (&name[..], tensor.view())).collect();
    let mut outputs = session.allocate_outputs(&views)?;
    let mut times = Vec::with_capacity(args.repeat as usize);
    for _ in 0..args.repeat {
        let begin = Instant::now();
        session.run_into(&views, &mut outputs)?;
        times.push(begin.elapsed());
    }
    if args.repeat > 1 {
        report(loaded, times);
    }
    print(session.plan(), &outputs)?;
    match &args.output_dir {
        Some(dir) => write(dir, &outputs),
        None => Ok(()),
    }
}

/// The inputs by name: from files, or else random.
fn inputs(args: &Args, session: &Session) -> Result<Vec<(String, Tensor)>, Error> {
    let names = || session.plan().inputs.iter().map(|port| port.name.clone());
    if let Some(dir) = &args.input_dir {
        return names().enumerate().map(|(i, name)| Ok((name, npy::read(dir.join(format!("input_{i}.npy")))?))).collect();
    }
    if !args.input.is_empty() {
        return args.input.iter().map(|(name, file)| Ok((name.clone(), npy::read(file)?))).collect();
    }
    let dims: Vec<(&str, i64)> = args.dim.iter().map(|(name, value)| (&name[..], *value)).collect();
    Ok(names().zip(session.random_inputs(args.seed, &dims)?).collect())
}

/// One line per output. A reader that closes the pipe early (`| head`) has what it wanted: that is no error.
fn print(plan: &Plan, outputs: &[Tensor]) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    for (port, output) in plan.outputs.iter().zip(outputs) {
        match writeln!(stdout, "{}  {output}", port.name) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(()),
            result => result.map_err(|source| Error::Io { path: "stdout".into(), source })?,
        }
    }
    Ok(())
}

/// Load time, first run, and the middle and best of the runs after it.
fn report(loaded: Duration, mut times: Vec<Duration>) {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let first = times.remove(0);
    times.sort();
    let (middle, best) = (times[times.len() / 2], times[0]);
    eprintln!(
        "load {:.3} ms  first run {:.3} ms  then p50 {:.3} ms  min {:.3} ms  ({} runs)",
        milliseconds(loaded),
        milliseconds(first),
        milliseconds(middle),
        milliseconds(best),
        times.len()
    );
}

/// Writes the outputs; NumPy has no bf16, so such an output is written as f32, which holds it exactly.
fn write(dir: &Path, outputs: &[Tensor]) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(|source| Error::Io { path: dir.display().to_string(), source })?;
    for (i, output) in outputs.iter().enumerate() {
        let path = dir.join(format!("output_{i}.npy"));
        match output.dtype() {
            DType::BF16 => npy::write(&output.to_f32()?, path)?,
            _ => npy::write(output, path)?,
        }
    }
    Ok(())
}
