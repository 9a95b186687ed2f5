//! `egret run`: runs a model once and says what came out.
//!
//! ```text
//! $ egret run examples/models/digits_cnn.onnx --dim batch=2
//! logits   f32[2, 10]  min -2.48396  max 2.40541  mean -0.64305  [-1.15306, -1.01158, 0.63256, 2.40541, -1.45018, -2.48396, ...]
//! ```

use super::options::{CompileOptions, DeviceOption, InputOptions, JsonOption, parse_threads};
use super::source::{Ready, ran_on};
use super::table::{Align, columns};
use super::{progress::Progress, report};
use egret::passes::rules::Class;
use egret::{Error, Tensor, npy};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The arguments of `egret run`.
#[derive(clap::Args)]
pub struct Args {
    /// An .onnx model, a graph as .egir text, or a compiled .egret file
    model: PathBuf,
    #[command(flatten)]
    compile: CompileOptions,
    #[command(flatten)]
    inputs: InputOptions,
    #[command(flatten)]
    device: DeviceOption,
    /// Write output i to DIR/output_<i>.npy, in the order of the model's outputs
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Compile every op to a kernel of its own
    #[arg(long)]
    no_fuse: bool,
    /// Threads to run on [default: as many as this process may use]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<usize>,
    #[command(flatten)]
    json: JsonOption,
}

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    model: &'a str,
    target: String,
    threads: usize,
    fused: bool,
    /// The weakest class of rules that were applied; absent for a compiled file.
    #[serde(skip_serializing_if = "Option::is_none")]
    weakest_rule: Option<&'static str>,
    dims: BTreeMap<String, i64>,
    outputs: Vec<Output>,
}

/// One output; a number that is not finite is `null`, and so are those of strings.
#[derive(Serialize)]
struct Output {
    name: String,
    #[serde(rename = "type")]
    ty: String,
    min: f64,
    max: f64,
    mean: f64,
    nans: u64,
    first: Vec<f64>,
    /// Of strings, all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    strings: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

/// Runs the model and prints a line for each output.
pub fn run(args: Args) -> Result<(), Error> {
    let progress = Progress::start("Importing");
    let ready = Ready::open_for(&args.model, &args.compile, &args.inputs, args.device.device)?;
    let artifact = ready.artifact(!args.no_fuse, &progress)?;
    progress.phase("Running");
    let mut session = ready.session(&artifact, args.threads.unwrap_or(0))?;
    let inputs = ready.inputs(&session)?;
    let outputs = session.run(&ready.named(&inputs))?;
    drop(progress);
    let names: Vec<&str> = artifact.plan().outputs.iter().map(|port| port.name.as_str()).collect();
    let files = args.output_dir.as_deref().map(|dir| write(&outputs, dir)).transpose()?;
    if !args.json.takes_stdout() {
        report::result(lines(&names, &outputs))?;
    }
    if let Some(path) = &args.json.json {
        let file = |i: usize| files.as_ref().map(|files| files[i].display().to_string());
        let outputs = names.iter().zip(&outputs).enumerate().map(|(i, (name, tensor))| Output::of(name, tensor, file(i)));
        let report = Report {
            schema: "egret.run/1",
            model: ready.name(),
            target: ran_on(&artifact, &session),
            threads: session.threads(),
            fused: artifact.is_fused(),
            weakest_rule: ready.weakest_rule().map(Class::name),
            dims: ready.dims(),
            outputs: outputs.collect(),
        };
        report::json(path, &report)?;
    }
    Ok(())
}

fn lines(names: &[&str], outputs: &[Tensor]) -> String {
    let row = |(name, tensor): (&&str, &Tensor)| vec![name.to_string(), tensor.to_string()];
    columns(&[("", Align::Left); 2], names.iter().zip(outputs).map(row))
}

fn write(outputs: &[Tensor], dir: &Path) -> Result<Vec<PathBuf>, Error> {
    std::fs::create_dir_all(dir).map_err(|error| Error::File(format!("{}: {error}", dir.display())))?;
    let write = |(i, tensor): (usize, &Tensor)| {
        let path = dir.join(format!("output_{i}.npy"));
        npy::write(tensor, &path)?;
        Ok(path)
    };
    outputs.iter().enumerate().map(write).collect()
}

impl Output {
    fn of(name: &str, tensor: &Tensor, file: Option<String>) -> Output {
        let summary = tensor.summary();
        Output {
            name: name.to_string(),
            ty: format!("{}{:?}", tensor.dtype(), tensor.shape()),
            min: summary.min,
            max: summary.max,
            mean: summary.mean,
            nans: summary.nans,
            first: summary.first,
            strings: tensor.strings().ok().map(|strings| strings.into_iter().map(str::to_string).collect()),
            file,
        }
    }
}
