//! `egret reduce`: the smallest part of a model that still fails, as a model of its own with inputs.
//!
//! Nodes are left out as long as the command fails in the same way: with the same exit code, the same error code of Egret's if it
//! prints one, and the words of `--stderr` if they are given. Where the graph is cut, the reference evaluator says what the values are.
//! What is left over is 1-minimal: without any one of its nodes it does not fail, or not in this way.
//!
//! ```text
//! $ egret reduce digits_cnn.onnx -o small -- egret check {model} --input-dir {inputs} --unproved-rule "ulp wrong: relu(x) => x"
//! fails     exit code 1
//! nodes     1 of 20: node_relu (Relu)
//! inputs    getitem: f32[1, 32, 8, 8]
//! outputs   relu
//! weights   none
//! runs      8
//! written   small/model.onnx, small/model.egir, small/input_0.npy
//! ```

mod ddmin;
mod trial;

use super::inputs::{self, Declared};
use super::options::{DimOptions, InputOptions, JsonOption, parse_duration};
use super::progress::Progress;
use super::report;
use super::source::Source;
use super::table::{Align, columns};
use ddmin::ddmin;
use egret::{Bindings, Choice, Compiler, Error, ImportOptions, Part, Tensor, Whole, npy, to_ir};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use trial::{Failure, Trials};

/// The arguments of `egret reduce`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// An .onnx model
    model: PathBuf,
    #[command(flatten)]
    free: DimOptions,
    #[command(flatten)]
    inputs: InputOptions,
    /// Where to write model.onnx, model.egir and input_<i>.npy
    #[arg(short, long, value_name = "DIR", default_value = "reduced")]
    output: PathBuf,
    /// Words that the command prints on stderr when it fails
    #[arg(long, value_name = "TEXT")]
    stderr: Option<String>,
    /// A run that takes longer than this counts as one that never ends
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    json: JsonOption,
    /// The command that fails, with {model} for the model and {inputs} for a folder of its inputs
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  egret reduce model.onnx -- egret compile {model} -o /dev/null
  egret reduce model.onnx --input x=x.npy -- egret check {model} --input-dir {inputs}
  egret reduce model.onnx --stderr 'further than' -o small -- python3 compare.py {model}";

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    model: String,
    command: Vec<String>,
    /// How the command fails.
    failure: Failure,
    /// The nodes of the model.
    of_nodes: usize,
    nodes: Vec<String>,
    inputs: Vec<String>,
    outputs: Vec<String>,
    /// How many weights have elements other than 1, and how many there are.
    weights: [usize; 2],
    /// Whether the extents of all inputs are numbers.
    fixed: bool,
    /// How often the command was run.
    runs: usize,
    files: Vec<String>,
}

/// Cuts as long as it fails, then writes what is left.
pub fn run(args: Args) -> Result<(), Error> {
    check_command(&args.command, &args.model)?;
    let progress = Progress::start("Evaluating the reference");
    let (whole, seed) = (whole(&args)?, args.inputs.seed);
    if let Some(why) = whole.unknown() {
        report::note(format_args!("values at a cut are pseudo-random, since the model cannot be evaluated: {why}"));
    }
    progress.phase("Reducing");
    let trials = Trials::new(&args.command, args.stderr.as_deref(), args.timeout, seed)?;
    let (choice, part, failure) = reduce(&whole, &trials)?;
    drop(progress);
    let files = write(&part, seed, &args.output)?;
    let labels = whole.nodes();
    let own = part.weights.iter().filter(|name| !choice.plain.contains(name)).count();
    let report = Report {
        schema: "egret.reduce/1",
        model: args.model.display().to_string(),
        command: args.command.clone(),
        failure,
        of_nodes: labels.len(),
        nodes: choice.nodes.iter().map(|&i| labels[i].clone()).collect(),
        inputs: part.inputs.iter().map(|(name, ty, _)| format!("{name}: {ty}")).collect(),
        outputs: part.outputs.clone(),
        weights: [own, part.weights.len()],
        fixed: choice.fixed,
        runs: trials.runs(),
        files,
    };
    if !args.json.takes_stdout() {
        report::result(text(&report))?;
    }
    args.json.json.as_ref().map_or(Ok(()), |path| report::json(path, &report))
}

/// Refuses a command that would do the same for every part.
fn check_command(command: &[String], model: &Path) -> Result<(), Error> {
    if command.iter().any(|word| word.contains(trial::MODEL)) {
        return Ok(());
    }
    let named = model.display().to_string();
    let help = match command.contains(&named) {
        true => format!("write {{model}} in place of {named} behind --"),
        false => "write {model} where the command takes its model, as in `-- egret check {model}`".to_string(),
    };
    Err(Error::Usage(format!("the command does not say where its model goes\n  help: {help}")))
}

/// The model with its values for the inputs that were given, or for pseudo-random ones.
fn whole(args: &Args) -> Result<Whole, Error> {
    let source = Source::open(&args.model)?;
    let Source::Onnx { path, .. } = &source else {
        return Err(Error::Usage(format!("{} is no .onnx model; only such a model can be cut into parts", args.model.display())));
    };
    let declared = source.declared()?;
    super::source::check_dims(&args.free, &declared)?;
    let fixed = args.free.numbers()?;
    let given = inputs::read(&args.inputs, &declared)?;
    let dims = match &given {
        Some(given) => inputs::bind(&declared, given, &fixed)?,
        None => super::source::with_defaults(&fixed, &declared, &[]),
    };
    let tensors = match given {
        Some(given) => given.into_iter().map(|given| given.tensor).collect(),
        None => declared.iter().enumerate().map(|(i, input)| random(&input.ty, &dims, args.inputs.seed, i)).collect::<Result<_, _>>()?,
    };
    open(path, &declared, &tensors, dims)
}

fn open(path: &Path, declared: &[Declared], tensors: &Vec<Tensor>, dims: Bindings) -> Result<Whole, Error> {
    let options = ImportOptions { dims, ..ImportOptions::default() };
    let given = declared.iter().zip(tensors).map(|(input, tensor)| (input.name.as_str().into(), to_ir(tensor))).collect();
    Ok(Whole::open(path, &options, &given)?)
}

/// Pseudo-random data; extents that have no number are 1.
fn random(ty: &egret::TensorType, dims: &Bindings, seed: u64, index: usize) -> Result<Tensor, Error> {
    let ones: Bindings = ty.dims.iter().flat_map(egret::Dim::symbols).map(|symbol| (symbol, 1)).collect();
    let number = |dim: &egret::Dim| dim.bind(dims).eval(&ones).and_then(|extent| usize::try_from(extent).ok());
    let shape: Vec<usize> = ty.dims.iter().map(|dim| number(dim).unwrap_or(1)).collect();
    let named = |dtype: &egret::plan::DType| egret::DType::named(dtype.name()) == Some(ty.dtype);
    let dtype = egret::plan::DType::ALL.into_iter().find(named);
    let dtype = dtype.ok_or_else(|| Error::Bug(format!("there is no {} at run time", ty.dtype)))?;
    Ok(Tensor::random(dtype, &shape, seed.wrapping_add(index as u64))?)
}

/// The smallest part that fails as the whole does: fewer nodes, then extents that are numbers, then plain weights.
fn reduce(whole: &Whole, trials: &Trials) -> Result<(Choice, Part, Failure), Error> {
    let mut choice = Choice { nodes: (0..whole.nodes().len()).collect(), ..Choice::default() };
    let all = part(whole, &choice)?.ok_or_else(|| Error::Usage("the model has no output".to_string()))?;
    let failure = trials.run(&all)?.ok_or_else(|| {
        Error::Usage(format!("the command does not fail on the model as it is{}\n  help: {}", trials.asked(), trials.shown()))
    })?;
    let fails = |choice: &Choice| -> Result<bool, Error> {
        let Some(part) = part(whole, choice)? else { return Ok(false) };
        Ok(trials.run(&part)?.as_ref() == Some(&failure))
    };
    choice.nodes = ddmin(choice.nodes.clone(), |nodes| fails(&Choice { nodes: nodes.to_vec(), ..choice.clone() }))?;
    let fixed = Choice { fixed: true, ..choice.clone() };
    choice.fixed = fails(&fixed)?;
    let weights = part(whole, &choice)?.map_or_else(Vec::new, |part| part.weights);
    let others = |own: &[String]| weights.iter().filter(|name| !own.contains(name)).cloned().collect();
    let own = ddmin(weights.clone(), |own| fails(&Choice { plain: others(own), ..choice.clone() }))?;
    choice.plain = others(&own);
    let part = part(whole, &choice)?.ok_or_else(|| Error::Bug("the part that was tried cannot be made again".to_string()))?;
    Ok((choice, part, failure))
}

fn part(whole: &Whole, choice: &Choice) -> Result<Option<Part>, Error> {
    whole.part(choice).map_err(|error| Error::File(error.to_string()))
}

/// Writes the part, and returns the names of the files. It has a text only if it can be imported.
fn write(part: &Part, seed: u64, dir: &Path) -> Result<Vec<String>, Error> {
    let failed = |path: &Path, error: std::io::Error| Error::File(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    let mut files = trial::write(part, seed, dir)?;
    let text = dir.join("model.egir");
    if let Ok(import) = Compiler::new().import(&files[0]) {
        std::fs::write(&text, import.graph.to_string()).map_err(|error| failed(&text, error))?;
        files.insert(1, text);
    }
    Ok(files.iter().map(|file| file.display().to_string()).collect())
}

fn text(report: &Report) -> String {
    let listed = |items: &[String]| if items.is_empty() { "none".to_string() } else { items.join(", ") };
    let [own, weights] = report.weights;
    let rows = [
        ("fails", report.failure.to_string()),
        ("nodes", format!("{} of {}: {}", report.nodes.len(), report.of_nodes, listed(&report.nodes))),
        ("inputs", listed(&report.inputs)),
        ("outputs", listed(&report.outputs)),
        ("weights", if weights == 0 { "none".to_string() } else { format!("{weights}, of which {} all 1", weights - own) }),
        ("runs", report.runs.to_string()),
        ("written", listed(&report.files)),
    ];
    columns(&[("", Align::Left), ("", Align::Left)], rows.map(|(name, value)| vec![name.to_string(), value]))
}

/// Writes an input as it is, or pseudo-random where its data is not known.
fn input_file(path: &Path, index: usize, input: &(String, egret::TensorType, Option<egret::ir::Tensor>), seed: u64) -> Result<(), Error> {
    let (_, ty, data) = input;
    let tensor = match data {
        Some(data) => egret::from_ir(data)?,
        None => random(ty, &Bindings::new(), seed, index)?,
    };
    Ok(npy::write(&tensor, path)?)
}
