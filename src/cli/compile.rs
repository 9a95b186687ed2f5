//! `egret compile`: from a model to one file that runs without the compiler, or to any stage on the way.
//!
//! ```text
//! $ egret compile examples/models/digits_cnn.onnx -o digits_cnn.egret
//! Compiled digits_cnn.egret: 13 kernels, 175.9 KiB, weakest rule reassoc, in 0.2 s
//! ```
//!
//! `--target native,cuda:sm_80` writes code for a processor and for a GPU into the one file.
//!
//! `--timings` adds where the time went, phase by phase, and the most memory that was in use.

use super::options::{CompileOptions, rules_words};
use super::progress::{Built, Progress, Timings};
use super::table::{Align, bytes, columns, plural};
use super::{report, source};
use clap::ValueEnum;
use egret::codegen::cpu::{self, Form};
use egret::codegen::cuda;
use egret::codegen::interpret::kernels_text;
use egret::codegen::plan;
use egret::ir::text::{Options, print};
use egret::memory::MemoryMap;
use egret::plan::{ALIGN, Plan};
use egret::{Compiler, Error, Graph, Target};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The arguments of `egret compile`.
#[derive(clap::Args)]
pub struct Args {
    /// An .onnx model or a graph as .egir text
    model: PathBuf,
    /// File to write [default: the model's name with .egret or .o; text goes to stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    compile: CompileOptions,
    /// Compile every op to a kernel of its own
    #[arg(long)]
    no_fuse: bool,
    /// Stop at a stage and write that
    #[arg(long, value_name = "STAGE")]
    emit: Option<Emit>,
    /// Say how long each phase and pass took, and how much memory was in use
    #[arg(long, conflicts_with = "emit")]
    timings: bool,
}

/// A stage on the way to an artifact.
#[derive(Clone, Copy, ValueEnum)]
enum Emit {
    /// The graph after all passes
    Ir,
    /// The kernels: loops, tiles, expressions
    Kernels,
    /// The kernels as LLVM IR
    Llvm,
    /// The kernels as assembly
    Asm,
    /// The kernels as an object file
    Obj,
    /// The kernels as PTX, for --target cuda
    Ptx,
}

/// Compiles and writes.
pub fn run(args: Args) -> Result<(), Error> {
    let begin = Instant::now();
    let progress = Progress::start("Importing");
    let compiler = args.compile.compiler(!args.no_fuse);
    // A wrong name of a target or a rule is found before a large model is read.
    let targets = compiler.chosen_targets()?;
    compiler.context()?;
    args.compile.announce()?;
    fitting(args.emit, &targets)?;
    let graph = source::graph(&args.model, &compiler, &args.compile.free, &args.compile.freeze)?.ok_or_else(already_compiled)?;
    let Some(emit) = args.emit else {
        let path = args.output.unwrap_or_else(|| named_after(&args.model, "egret"));
        let optimised = progress.optimise(&compiler, &graph)?;
        // Weights of the model that were brought into another order need no memory while those are packed.
        drop(graph);
        let built = progress.generate(&compiler, optimised)?;
        progress.phase("Packing and writing");
        built.compiled.write(&path)?;
        let timings = progress.finish();
        if args.timings {
            report::aside(timing_table(&timings));
        }
        report::done("Compiled", summary(&path, &built, begin));
        return Ok(());
    };
    progress.phase("Compiling");
    let content = emitted(emit, &compiler, &graph)?;
    drop(progress);
    match (args.output, emit) {
        (Some(path), _) => write(&path, &content),
        (None, Emit::Obj) => write(&named_after(&args.model, "o"), &content),
        (None, Emit::Ir | Emit::Kernels | Emit::Llvm | Emit::Asm | Emit::Ptx) => report::result(String::from_utf8_lossy(&content)),
    }
}

/// `model.egret: 12 kernels, 240.1 KiB, weakest rule reassoc, in 0.8 s`; of several targets, the kernels of each.
fn summary(path: &Path, built: &Built, begin: Instant) -> String {
    let size = std::fs::metadata(path).map_or(0, |file| file.len());
    let seconds = begin.elapsed().as_secs_f64();
    let kernels = match &built.compiled.programs[..] {
        [only] => plural(only.kernels.len(), "kernel"),
        all => all.iter().map(|p| format!("{} for {}", plural(p.kernels.len(), "kernel"), p.target)).collect::<Vec<_>>().join(", "),
    };
    let most = most_memory(&built.compiled.programs[0].plan);
    format!("{}: {kernels}, {}, {}{most}, in {seconds:.1} s", path.display(), bytes(size), rules_words(built.weakest_rule()))
}

/// `, at most 1.2 MiB of scratch for batch=1..32` on one thread, where free dimensions are limited.
fn most_memory(plan: &Plan) -> String {
    let named = plan.symbols.iter().zip(&plan.ranges).map(|(name, range)| format!("{name}={range}"));
    let ranges: Vec<String> = named.collect();
    match MemoryMap::bound(plan, 1, ALIGN as u64) {
        Some(map) => format!(", at most {} of scratch for {}", bytes(map.arena_bytes), ranges.join(", ")),
        None => String::new(),
    }
}

/// A row for each phase, below the optimisation one for each pass, and the most memory that was in use.
fn timing_table(timings: &Timings) -> String {
    let row = |name: String, time: &Duration| vec![name, format!("{:.3} s", time.as_secs_f64())];
    let mut rows = Vec::new();
    for (phase, time) in &timings.phases {
        rows.push(row(phase.to_string(), time));
        if *phase == "Optimising" {
            rows.extend(timings.passes.iter().map(|(pass, time)| row(format!("  {pass}"), time)));
        }
    }
    rows.extend(peak_memory().map(|peak| vec!["Peak memory".to_string(), bytes(peak)]));
    columns(&[("", Align::Left), ("", Align::Right)], rows).trim_end().to_string()
}

/// The most memory that this process had in use, where the system says so.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(peak.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

fn already_compiled() -> Error {
    Error::Usage("this file is compiled already; give the .onnx model it was compiled from".to_string())
}

/// `models/cnn.onnx` compiles to `cnn.egret` in the current directory.
fn named_after(model: &Path, extension: &str) -> PathBuf {
    Path::new(model.file_stem().unwrap_or(model.as_os_str())).with_extension(extension)
}

fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    std::fs::write(path, content).map_err(|error| Error::File(format!("{}: {error}", path.display())))
}

fn emitted(emit: Emit, compiler: &Compiler, graph: &Graph) -> Result<Vec<u8>, Error> {
    let grouped = compiler.optimise(graph)?;
    if let Emit::Ir = emit {
        return Ok(print(&grouped, Options::lossless()).into_bytes());
    }
    let target = &compiler.target_for(&grouped)?;
    let program = plan::build(&grouped, target, &|_, _| {})?;
    let translate = |form| cpu::translate(&program.kernels, target, form).map_err(|error| Error::Bug(error.to_string()));
    match emit {
        Emit::Ir | Emit::Kernels => Ok(kernels_text(&program).into_bytes()),
        Emit::Llvm => translate(Form::Llvm),
        Emit::Asm => translate(Form::Assembly),
        Emit::Obj => translate(Form::Object),
        Emit::Ptx => Ok(cuda::compile(&program.kernels, target).map_err(egret::codegen::Error::from)?.ptx.into_bytes()),
    }
}

/// Whether code for a target comes in the form that is asked for: PTX for GPUs, everything else for processors.
fn fitting(emit: Option<Emit>, targets: &[Target]) -> Result<(), Error> {
    let Some(emit) = emit else { return Ok(()) };
    let [target] = targets else {
        return Err(Error::Usage("--emit shows what is made for one target; name one with --target".to_string()));
    };
    match (emit, target.is_cuda()) {
        (Emit::Ir | Emit::Kernels, _) | (Emit::Ptx, true) | (Emit::Llvm | Emit::Asm | Emit::Obj, false) => Ok(()),
        (Emit::Ptx, false) => Err(Error::Usage(format!("`{}` is no GPU; add --target cuda for PTX", target.name))),
        (Emit::Llvm | Emit::Asm | Emit::Obj, true) => Err(Error::Usage(format!("code for `{}` comes as PTX; add --emit ptx", target.name))),
    }
}
