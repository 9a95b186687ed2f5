//! `egret inspect`: what is in a model or in a compiled file.
//!
//! Of a model: its inputs and outputs, its ops, its parameters, and what it is compiled to. Of a compiled file: all of that
//! but the ops. Figures that depend on free dimensions are given for the extents that the report names.
//!
//! ```text
//! $ egret inspect examples/models/digits_cnn.onnx --dim batch=1
//! model        examples/models/digits_cnn.onnx
//! target       znver4 (x86_64: avx avx2 avx512bw ...)
//! dimensions   batch = 1
//! parameters   38.3 k (149.6 KiB)
//! ...
//! predicted    0.0176 ms on one thread
//! ...
//! Kernels, in the order of their calls
//!       kernel   computes                     FLOP   predicted us   from
//!   0   k0       pad                             0           0.11   node__native_batch_norm_legit_no_training__0 ...
//!   1   k1       conv · add · relu · pad    41.0 k           0.57   node__native_batch_norm_legit_no_training_1__0 ...
//! ...
//! ```

use super::options::{CompileOptions, JsonOption};
use super::predicted::Predicted;
use super::progress::Progress;
use super::report;
use super::source::{Ready, named};
use super::table::{Align, bytes, columns, count, milliseconds, plural};
use egret::passes::rules::Class;
use egret::plan::{ALIGN, Place, Plan, Port, Step};
use egret::{Artifact, Error, Graph, ProgramHeader, Summary, gpu, memory};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Memory is that of a run on one thread; kernels that need working memory for each part of their work take more on several.
const THREADS: usize = 1;

/// The arguments of `egret inspect`.
#[derive(clap::Args)]
pub struct Args {
    /// An .onnx model, a graph as .egir text, or a compiled .egret file
    model: PathBuf,
    #[command(flatten)]
    compile: CompileOptions,
    /// Compile every op to a kernel of its own
    #[arg(long)]
    no_fuse: bool,
    #[command(flatten)]
    json: JsonOption,
}

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    model: String,
    target: Target,
    /// The extents that the figures are for.
    dims: BTreeMap<String, i64>,
    inputs: Vec<Typed>,
    outputs: Vec<Typed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    graph: Option<Contents>,
    /// The weakest class of rules that were applied; absent for a compiled file.
    #[serde(skip_serializing_if = "Option::is_none")]
    weakest_rule: Option<&'static str>,
    /// How values between kernels are held; absent for a compiled file.
    #[serde(skip_serializing_if = "Option::is_none")]
    precision: Option<&'static str>,
    flops: u64,
    /// The latency on one thread by the cost model; absent for a compiled file, which has no graph any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted_us: Option<f64>,
    scratch_bytes: u64,
    /// The ranges of the free dimensions; absent where none was limited.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    ranges: BTreeMap<String, String>,
    /// The most scratch memory for any extents within the ranges; absent where that has no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    most_scratch_bytes: Option<u64>,
    kernels: Vec<Call>,
    memory: Vec<Placed>,
    /// Code for GPUs; absent if there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gpu: Vec<Gpu>,
    sections: Vec<Section>,
}

#[derive(Serialize)]
struct Target {
    arch: String,
    cpu: String,
    features: Vec<String>,
}

#[derive(Serialize)]
struct Typed {
    name: String,
    #[serde(rename = "type")]
    ty: String,
}

/// What a model consists of, before it is compiled.
#[derive(Serialize)]
struct Contents {
    #[serde(skip_serializing_if = "Option::is_none")]
    producer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opset: Option<i64>,
    parameters: u64,
    parameter_bytes: u64,
    /// How often each operator occurs: ONNX's, or of a graph in text the IR's.
    ops: BTreeMap<String, usize>,
}

/// One call of a kernel.
#[derive(Serialize)]
struct Call {
    kernel: String,
    hash: String,
    computes: String,
    value: String,
    flops: u64,
    /// By the cost model, on one thread; of several calls for a node, the last has it.
    predicted_us: Option<f64>,
    parts: i64,
    origins: Vec<String>,
}

/// An intermediate value in the scratch memory.
#[derive(Serialize)]
struct Placed {
    value: String,
    offset: u64,
    bytes: u64,
    first_call: usize,
    last_call: usize,
}

/// The code for a GPU.
#[derive(Serialize)]
struct Gpu {
    target: String,
    ptx_version: String,
    ptx_bytes: usize,
    launches: Vec<Launched>,
}

/// A kernel that is started on a GPU.
#[derive(Serialize)]
struct Launched {
    entry: String,
    computes: String,
    value: String,
    /// None where the extents allow no grid.
    blocks: Option<u32>,
    threads: u32,
}

#[derive(Serialize)]
struct Section {
    name: String,
    offset: u64,
    bytes: u64,
    blake3: String,
}

/// Compiles a model, or opens a compiled one, and describes it.
pub fn run(args: Args) -> Result<(), Error> {
    let progress = Progress::start("Importing");
    let ready = Ready::unbound(&args.model, &args.compile)?;
    let (artifact, predicted) = ready.predicted(!args.no_fuse, &progress)?;
    drop(progress);
    let contents = ready.graph("look into").ok().map(|graph| Contents::of(graph, ready.summary()));
    let dims = predicted.as_ref().map_or(ready.dims(), |predicted| named(&predicted.dims));
    let mut report = Report::new(ready.name(), &artifact, contents, dims)?;
    report.weakest_rule = ready.weakest_rule().map(Class::name);
    report.precision = ready.graph("look into").ok().map(|_| args.compile.precision.name());
    if let Some(predicted) = predicted {
        report.predict(&predicted, artifact.plan());
    }
    if !args.json.takes_stdout() {
        report::result(report.text())?;
    }
    args.json.json.as_deref().map_or(Ok(()), |path| report::json(path, &report))
}

/// A graph and all regions in it.
fn with_regions(graph: &Graph) -> Vec<&Graph> {
    let inner = graph.nodes().iter().flat_map(|node| node.regions()).flat_map(|region| with_regions(region));
    std::iter::once(graph).chain(inner).collect()
}

impl Contents {
    fn of(graph: &Graph, summary: Option<&Summary>) -> Contents {
        let graphs = with_regions(graph);
        let tensors = || graphs.iter().flat_map(|graph| graph.constants().filter_map(|(id, _)| graph.constant(id)));
        let mut own = BTreeMap::new();
        let nodes = graphs.iter().flat_map(|graph| graph.nodes());
        nodes.for_each(|node| *own.entry(node.op.name().to_string()).or_insert(0) += 1);
        Contents {
            producer: summary.map(|summary| summary.producer.clone()).filter(|producer| !producer.is_empty()),
            opset: summary.map(|summary| summary.opset),
            parameters: tensors().map(|tensor| tensor.count() as u64).sum(),
            parameter_bytes: tensors().map(|tensor| tensor.bytes().len() as u64).sum(),
            ops: summary.map_or(own, |summary| summary.ops.clone()),
        }
    }
}

impl Report {
    fn new(model: &str, artifact: &Artifact, graph: Option<Contents>, mut dims: BTreeMap<String, i64>) -> Result<Report, Error> {
        let (plan, header) = (artifact.plan(), artifact.header());
        let least = |symbol: usize| plan.ranges.get(symbol).map_or(1, |range| 1.clamp(range.low, range.high));
        let named = plan.symbols.iter().enumerate();
        let symbols: Vec<i64> = named.map(|(i, name)| *dims.entry(name.clone()).or_insert(least(i))).collect();
        let (mut kernels, mut memory, mut scratch_bytes) = (vec![], vec![], 0);
        for part in plan.walked() {
            // What data decides is shown as 1, like other dimensions that are not given.
            let symbols: Vec<i64> = part.symbols.iter().map(|name| dims.get(name).copied().unwrap_or(1)).collect();
            let map = memory::MemoryMap::of(part, &symbols, THREADS).map_err(Error::Usage)?;
            memory.extend(placed(part, &symbols, &map, kernels.len())?);
            kernels.extend(part.steps.iter().map(|step| Call::of(plan, step, &symbols)));
            scratch_bytes = scratch_bytes.max(map.arena_bytes);
        }
        let target = &header.programs[0].target;
        Ok(Report {
            schema: "egret.inspect/1",
            model: model.to_string(),
            target: Target { arch: target.arch.clone(), cpu: target.cpu.clone(), features: target.features.clone() },
            inputs: typed(&plan.inputs),
            outputs: typed(&plan.outputs),
            graph,
            weakest_rule: None,
            precision: None,
            flops: kernels.iter().map(|call: &Call| call.flops).sum(),
            predicted_us: None,
            scratch_bytes,
            ranges: plan.symbols.iter().cloned().zip(plan.ranges.iter().map(|range| range.to_string())).collect(),
            most_scratch_bytes: memory::MemoryMap::bound(plan, THREADS, ALIGN as u64).map(|map| map.arena_bytes),
            memory,
            kernels,
            gpu: (0..header.programs.len()).filter_map(|program| Gpu::of(artifact, program, &symbols)).collect(),
            sections: sections(artifact),
            dims,
        })
    }

    fn predict(&mut self, predicted: &Predicted, plan: &Plan) {
        self.predicted_us = Some(predicted.total_us);
        self.kernels.iter_mut().zip(predicted.steps(plan)).for_each(|(call, us)| call.predicted_us = us);
    }

    fn text(&self) -> String {
        let mut text = columns(&[("", Align::Left); 2], self.summary());
        let mut section = |title: &str, table: String| {
            if !table.trim().is_empty() {
                text += &format!("\n{title}\n{}", indented(&table));
            }
        };
        section("Inputs", names(&self.inputs));
        section("Outputs", names(&self.outputs));
        if let Some(graph) = &self.graph {
            section("Operators", counts(&graph.ops));
        }
        section("Kernels, in the order of their calls", self.calls());
        for gpu in &self.gpu {
            let Gpu { target, ptx_version, ptx_bytes, launches } = gpu;
            let calls = plural(launches.len(), "call");
            section(&format!("Code for {target}: PTX {ptx_version}, {}, {calls}", bytes(*ptx_bytes as u64)), gpu.table());
        }
        section("Memory map of the intermediate values", self.memory_map());
        section("Sections of the file", self.sections());
        text
    }

    fn summary(&self) -> Vec<Vec<String>> {
        let mut rows = vec![("model", self.model.clone())];
        let Target { arch, cpu, features } = &self.target;
        let features = if features.is_empty() { String::new() } else { format!(": {}", features.join(" ")) };
        rows.push(("target", format!("{cpu} ({arch}{features})")));
        let dims: Vec<String> = self.dims.iter().map(|(name, extent)| format!("{name} = {extent}")).collect();
        if !dims.is_empty() {
            rows.push(("dimensions", dims.join(", ")));
        }
        if !self.ranges.is_empty() {
            let ranges: Vec<String> = self.ranges.iter().map(|(name, range)| format!("{name}={range}")).collect();
            rows.push(("compiled for", ranges.join(", ")));
        }
        if let Some(graph) = &self.graph {
            let size = bytes(graph.parameter_bytes);
            rows.push(("parameters", format!("{} ({size})", count(graph.parameters as f64))));
            if let Some(opset) = graph.opset {
                let producer = graph.producer.as_deref().unwrap_or("a program that gave no name");
                rows.push(("made by", format!("{producer}, opset {opset}")));
            }
        }
        let distinct: std::collections::BTreeSet<&str> = self.kernels.iter().map(|call| call.hash.as_str()).collect();
        rows.push(("kernels", format!("{} of {}", plural(self.kernels.len(), "call"), plural(distinct.len(), "kernel"))));
        rows.extend(self.weakest_rule.map(|class| ("weakest rule", class.to_string())));
        rows.extend(self.precision.map(|name| ("precision", name.to_string())));
        rows.push(("work", format!("{}FLOP", spaced(count(self.flops as f64)))));
        rows.extend(self.predicted_us.map(|us| ("predicted", format!("{} ms on one thread", milliseconds(us / 1e3)))));
        let most = self.most_scratch_bytes.map(|most| format!(", at most {} within the ranges", bytes(most)));
        rows.push(("scratch", bytes(self.scratch_bytes) + &most.unwrap_or_default()));
        rows.into_iter().map(|(name, value)| vec![name.to_string(), value]).collect()
    }

    fn calls(&self) -> String {
        let right = |name| (name, Align::Right);
        let left = |name| (name, Align::Left);
        let header = [right(""), left("kernel"), left("computes"), right("FLOP"), right("predicted us"), left("from")];
        let row = |(i, call): (usize, &Call)| {
            let Call { kernel, computes, flops, predicted_us, origins, .. } = call;
            let us = predicted_us.map_or_else(|| "-".to_string(), |us| format!("{us:.2}"));
            vec![i.to_string(), kernel.clone(), computes.clone(), count(*flops as f64), us, origins.join(" ")]
        };
        columns(&header, self.kernels.iter().enumerate().map(row))
    }

    fn memory_map(&self) -> String {
        let header = [("value", Align::Left), ("offset", Align::Right), ("bytes", Align::Right), ("calls", Align::Right)];
        let row = |placed: &Placed| {
            let alive = format!("{}-{}", placed.first_call, placed.last_call);
            vec![placed.value.clone(), placed.offset.to_string(), placed.bytes.to_string(), alive]
        };
        columns(&header, self.memory.iter().map(row))
    }

    fn sections(&self) -> String {
        let header = [("section", Align::Left), ("offset", Align::Right), ("bytes", Align::Right), ("blake3", Align::Left)];
        let row = |s: &Section| vec![s.name.clone(), s.offset.to_string(), s.bytes.to_string(), s.blake3.clone()];
        columns(&header, self.sections.iter().map(row))
    }
}

impl Gpu {
    /// The code of a program, unless that is for a processor.
    fn of(artifact: &Artifact, program: usize, symbols: &[i64]) -> Option<Gpu> {
        let (image, plan) = (artifact.image_of(program)?, artifact.plan_of(program));
        let launched = |(step, launch): (&Step, &gpu::Launch)| {
            let sizes: Option<Vec<i64>> = step.sizes.iter().map(|size| size.eval(symbols).ok()).collect();
            Launched {
                entry: launch.entry.clone(),
                computes: plan.kernels[step.kernel as usize].text.clone(),
                value: step.name.clone(),
                blocks: sizes.and_then(|sizes| launch.grid(&sizes).ok()),
                threads: launch.threads,
            }
        };
        // Some kernels are two launches: the second adds up what the blocks of the first found.
        let started = plan.steps.iter().flat_map(|step| {
            let numbers = gpu::numbers(&image.launches, step.kernel as usize);
            numbers.map(move |number| (step, &image.launches[number]))
        });
        Some(Gpu {
            target: artifact.header().programs[program].target.to_string(),
            ptx_version: gpu::ptx_header(&image.ptx).map_or_else(|| "?".to_string(), |(version, _)| version.to_string()),
            ptx_bytes: image.ptx.len(),
            launches: started.map(launched).collect(),
        })
    }

    fn table(&self) -> String {
        let header = [("entry", Align::Left), ("blocks", Align::Right), ("threads", Align::Right), ("computes", Align::Left)];
        let row = |launched: &Launched| {
            let blocks = launched.blocks.map_or_else(|| "-".to_string(), |blocks| blocks.to_string());
            vec![launched.entry.clone(), blocks, launched.threads.to_string(), launched.computes.clone()]
        };
        columns(&header, self.launches.iter().map(row))
    }
}

/// The sections of the file; of several programs, with their targets.
fn sections(artifact: &Artifact) -> Vec<Section> {
    let header = artifact.header();
    let section =
        |name, section: &egret::Section| Section { name, offset: section.offset, bytes: section.bytes, blake3: hex(&section.hash) };
    let of_program = |program: &ProgramHeader| {
        let suffix = if header.programs.len() > 1 { format!(" {}", program.target) } else { String::new() };
        [section(format!("manifest{suffix}"), &program.manifest), section(format!("code{suffix}"), &program.code)]
    };
    header.programs.iter().flat_map(of_program).chain([section("weights".to_string(), &header.weights)]).collect()
}

impl Call {
    fn of(plan: &Plan, step: &Step, symbols: &[i64]) -> Call {
        let kernel = &plan.kernels[step.kernel as usize];
        // A size that has no value at these extents is shown as none.
        let flops = step.flops.eval(symbols).ok().and_then(|flops| u64::try_from(flops).ok());
        Call {
            kernel: kernel.name.clone(),
            hash: hex(&kernel.hash),
            computes: kernel.text.clone(),
            value: step.name.clone(),
            flops: flops.unwrap_or(0),
            predicted_us: None,
            parts: step.parts.eval(symbols).unwrap_or(1),
            origins: step.origins.clone(),
        }
    }
}

fn typed(ports: &[Port]) -> Vec<Typed> {
    ports.iter().map(|port| Typed { name: port.name.clone(), ty: port.to_string() }).collect()
}

/// The buffers in the scratch memory, by their offsets; the plan's first call has the number `first`.
fn placed(plan: &Plan, symbols: &[i64], memory: &memory::MemoryMap, first: usize) -> Result<Vec<Placed>, Error> {
    let lengths = memory::buffer_bytes(plan, symbols, THREADS).map_err(Error::Usage)?;
    let lifetimes = memory::lifetimes(plan);
    let buffers = plan.buffers.iter().enumerate().filter(|(_, buffer)| matches!(buffer.place, Place::Arena | Place::Private));
    let mut placed: Vec<Placed> = buffers
        .filter_map(|(i, buffer)| {
            let lifetime = lifetimes[i]?;
            Some(Placed {
                value: buffer.name.clone(),
                offset: memory.offsets[i]?,
                bytes: lengths[i],
                first_call: first + lifetime.first,
                last_call: first + lifetime.last,
            })
        })
        .collect();
    placed.sort_by_key(|placed| (placed.offset, placed.first_call));
    Ok(placed)
}

fn names(values: &[Typed]) -> String {
    let row = |value: &Typed| vec![value.name.clone(), value.ty.clone()];
    columns(&[("", Align::Left); 2], values.iter().map(row))
}

/// The most frequent first.
fn counts(ops: &BTreeMap<String, usize>) -> String {
    let mut ops: Vec<(&str, usize)> = ops.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    ops.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    columns(&[("", Align::Left), ("", Align::Right)], ops.iter().map(|(name, count)| vec![name.to_string(), count.to_string()]))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// `25.6 M` as it stands before a unit: `25.6 M`; `980 ` where there is no prefix.
fn spaced(count: String) -> String {
    if count.ends_with(|c: char| c.is_ascii_digit()) { count + " " } else { count }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
