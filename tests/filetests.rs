//! The filetests: every `tests/filetests/<topic>/<name>.egir` is a test, and what it tells is kept beside it in `<name>.snap`.
//!
//! The first lines of a file, `#! story arguments`, say what is told of its graph; [`STORIES`] lists the stories. To add a
//! test, write a file; `INSTA_UPDATE=always cargo test --test filetests <topic>/<name>` writes its snapshot. A change in a
//! snapshot is a change in what users see, and reads as one in review.
//!
//! ```text
//! cargo test --test filetests                     all of them
//! cargo test --test filetests -- text/mlp         those whose name contains `text/mlp`
//! ```

use egret::codegen::interpret::{kernels_text, run_interpreted};
use egret::codegen::{Target, cpu, plan};
use egret::{Compiler, from_ir, to_ir};
use egret_ir::eval::eval;
use egret_ir::random::random;
use egret_ir::text::{Options, Reader, content_hash, print};
use egret_ir::verify::verify;
use egret_ir::{Bindings, Graph, Tensor};
use egret_passes::pass::{Context, PassManager};
use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// What is told of a file; an error fails the test.
type Story = fn(&File, &str) -> Result<String, Box<dyn Error>>;

/// The stories by name.
const STORIES: &[(&str, Story)] = &[
    // The graph as printed.
    ("roundtrip", roundtrip),
    // What the parser or the verifier says about the file: for files with errors.
    ("verify", verified),
    // The results of the reference evaluator on seeded inputs: `#! eval seed=1 N=3`; symbols not given are 3.
    ("eval", evaluated),
    // The graph after each pass of a pipeline: `#! passes fold, group`. Before and after, it must evaluate alike.
    ("passes", passes),
    // The kernels of the graph after a pipeline: `#! kernels layout, fold, group`. Interpreted, they must give what the graph
    // evaluates to.
    ("kernels", kernels),
    // The LLVM IR of the kernels for a target, of the graph as it stands: `#! llvm x86-64-v4`.
    ("llvm", llvm),
    // Nothing is printed but the results' types: compiled fused and unfused, on 1 and 2 threads, interpreted, and evaluated,
    // the graph must give the same: `#! run seed=1 N=3`.
    ("run", run),
];

/// The target whose kernels are shown: the same on every machine.
const SHOWN_TARGET: &str = "x86-64-v4";

/// How far the results before and after passes may be apart, relative to the largest magnitude: rules that only change the
/// order of summation stay far below it.
const TOLERANCE: f64 = 1e-5;

/// The same behind the pass `narrow`, which rounds values to 8 bits.
const NARROW_TOLERANCE: f64 = 2e-2;

/// The extent of symbols that a story does not bind: not 1, which broadcasts, and different from most others.
const EXTENT: i64 = 3;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests");
    let mut trials: Vec<Trial> = found(&root, "egir").into_iter().map(|path| trial(&root, path)).collect();
    trials.push(Trial::test("every_snapshot_has_its_file", move || no_orphans(&root)));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn trial(root: &Path, path: PathBuf) -> Trial {
    let name = path.strip_prefix(root).expect("it was found there").with_extension("");
    Trial::test(name.to_string_lossy().replace('\\', "/"), move || Ok(File::read(path)?.check()?))
}

/// The files with this extension in the folders of `root`, sorted.
fn found(root: &Path, extension: &str) -> BTreeSet<PathBuf> {
    let folders = fs::read_dir(root).expect("the folder of the filetests can be read").flatten();
    let files = folders.filter(|f| f.path().is_dir()).flat_map(|f| fs::read_dir(f.path()).into_iter().flatten().flatten());
    files.map(|f| f.path()).filter(|p| p.extension().is_some_and(|e| e == extension)).collect()
}

fn no_orphans(root: &Path) -> Result<(), Failed> {
    match found(root, "snap").iter().find(|snap| !snap.with_extension("egir").exists()) {
        Some(snap) => Err(format!("{} has no .egir beside it; delete it", snap.display()).into()),
        None => Ok(()),
    }
}

/// A filetest.
struct File {
    path: PathBuf,
    text: String,
}

impl File {
    fn read(path: PathBuf) -> Result<File, Box<dyn Error>> {
        let text = fs::read_to_string(&path)?;
        Ok(File { path, text })
    }

    /// Tells the stories and compares them with the snapshot.
    fn check(&self) -> Result<(), Box<dyn Error>> {
        let told: Vec<String> = self.headers()?.into_iter().map(|(story, arguments)| story(self, arguments)).collect::<Result<_, _>>()?;
        let stem = self.path.file_stem().expect("a file has a name").to_string_lossy();
        let mut settings = insta::Settings::new();
        settings.set_snapshot_path(self.path.parent().expect("a file is in a folder"));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(&*stem, told.join("\n")));
        Ok(())
    }

    /// The stories that the file asks for, with their arguments.
    fn headers(&self) -> Result<Vec<(Story, &str)>, Box<dyn Error>> {
        let lines = self.text.lines().map_while(|line| line.strip_prefix("#!"));
        let headers = lines.map(|line| {
            let (name, arguments) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
            let story = STORIES.iter().find(|(n, _)| *n == name).map(|(_, story)| *story);
            let known: Vec<&str> = STORIES.iter().map(|(n, _)| *n).collect();
            story.map(|s| (s, arguments)).ok_or_else(|| format!("there is no story `{name}`; there are: {}", known.join(", ")).into())
        });
        let headers = headers.collect::<Result<Vec<_>, Box<dyn Error>>>()?;
        if headers.is_empty() { Err("the first line must name a story: `#! roundtrip`".into()) } else { Ok(headers) }
    }

    /// The graph, read and verified; printing and reading it again must give an equal graph.
    fn graph(&self) -> Result<Graph, Box<dyn Error>> {
        let name = self.path.file_name().expect("a file has a name").to_string_lossy();
        let graph = Reader::new(&name).read(&self.text)?;
        verify(&graph)?;
        let printed = print(&graph, Options::lossless());
        let again = Reader::new("printed").resolve(&|hash| constant_of(&graph, hash)).read(&printed)?;
        if again != graph || print(&again, Options::lossless()) != printed {
            return Err(format!("printing and reading gives another graph:\n{printed}").into());
        }
        Ok(graph)
    }
}

/// The constant with this hash, in the graph or in a region of it.
fn constant_of(graph: &Graph, hash: &str) -> Option<Tensor> {
    let own = graph.constants().filter_map(|(id, _)| graph.constant(id)).find(|t| content_hash(t) == hash);
    let regions = graph.nodes().iter().filter_map(|n| n.region.as_deref());
    own.map(|t| (**t).clone()).or_else(|| regions.filter_map(|r| constant_of(r, hash)).next())
}

fn roundtrip(file: &File, _: &str) -> Result<String, Box<dyn Error>> {
    Ok(print(&file.graph()?, Options::lossless()))
}

fn verified(file: &File, _: &str) -> Result<String, Box<dyn Error>> {
    Ok(match file.graph() {
        Ok(graph) => format!("{}\n=== valid ===\n", print(&graph, Options::lossless())),
        Err(error) => format!("error: {error}\n"),
    })
}

fn evaluated(file: &File, arguments: &str) -> Result<String, Box<dyn Error>> {
    let graph = file.graph()?;
    let (bindings, seed) = settings(&graph, arguments)?;
    let results = eval(&graph, &seeded_inputs(&graph, &bindings, seed)?)?;
    let mut story = format!("{}\n=== eval ({}) ===\n", print(&graph, Options::brief()), setting_words(&bindings, seed));
    for ((result, name), &value) in results.iter().zip(&graph.result_names).zip(&graph.results) {
        let expected = graph.ty(value).bind(&bindings);
        if result.ty() != expected {
            return Err(format!("`{name}` evaluates to {}, but inference gives {expected}", result.ty()).into());
        }
        story += &summary(name, result);
    }
    Ok(story)
}

fn passes(file: &File, pipeline: &str) -> Result<String, Box<dyn Error>> {
    let graph = file.graph()?;
    let mut story = print(&graph, Options::brief());
    let (last, _) = PassManager::named(pipeline)?.run(&graph, &context(pipeline), |report, graph| {
        story += &format!("\n=== {report} ===\n{}", print(graph, Options::brief()));
    })?;
    let (bindings, seed) = settings(&graph, "")?;
    let inputs = seeded_inputs(&graph, &bindings, seed)?;
    let (before, after) = (eval(&graph, &inputs)?, eval(&last, &inputs)?);
    for ((before, after), name) in before.iter().zip(&after).zip(&graph.result_names) {
        alike(before, after, tolerance(pipeline)).map_err(|e| format!("`{name}` changes: {e}"))?;
    }
    Ok(story)
}

fn kernels(file: &File, pipeline: &str) -> Result<String, Box<dyn Error>> {
    let graph = file.graph()?;
    let context = context(pipeline);
    let (grouped, _) = PassManager::named(pipeline)?.run(&graph, &context, |_, _| ())?;
    let (target, able) = (Target::named(SHOWN_TARGET)?, Target::named("znver4")?);
    // What is narrow is multiplied in pairs, and bytes in fours.
    let able = if context.bytes { able.with_bytes() } else { able.with_dots().filter(|_| pipeline.contains("narrow")) };
    let target = able.unwrap_or(target);
    let program = plan::build(&grouped, &target, &|_, _| ())?;
    let (bindings, seed) = settings(&graph, "")?;
    let inputs = seeded_inputs(&graph, &bindings, seed)?;
    let found = run_interpreted(&program, target.lanes, &inputs)?;
    compare(&graph, "interpreted kernels", &eval(&graph, &inputs)?, &found, tolerance(pipeline))?;
    Ok(format!("{}\n=== kernels ===\n{}", print(&graph, Options::brief()), kernels_text(&program)))
}

fn llvm(file: &File, target: &str) -> Result<String, Box<dyn Error>> {
    let graph = file.graph()?;
    let target = Target::named(target)?;
    let program = plan::build(&graph, &target, &|_, _| ())?;
    let mut story = format!("{}\n=== llvm {} ===\n", print(&graph, Options::brief()), target.tune);
    for kernel in &program.kernels {
        story += &cpu::llvm_text(kernel, &target)?;
    }
    Ok(story)
}

fn run(file: &File, arguments: &str) -> Result<String, Box<dyn Error>> {
    let graph = file.graph()?;
    let (bindings, seed) = settings(&graph, arguments)?;
    let inputs = seeded_inputs(&graph, &bindings, seed)?;
    let expected = eval(&graph, &inputs)?;
    let given = inputs.iter().map(from_ir).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<&str> = graph.params().iter().map(|&p| &*graph.value(p).name).collect();
    for fused in [true, false] {
        let artifact = Compiler::new().fuse(fused).compile_graph(&graph)?;
        let on = |threads| -> Result<Vec<Tensor>, Box<dyn Error>> {
            let views: Vec<_> = names.iter().copied().zip(given.iter().map(egret::Tensor::view)).collect();
            Ok(artifact.session(threads)?.run(&views)?.iter().map(to_ir).collect())
        };
        let (one, two) = (on(1)?, on(2)?);
        compare(&graph, if fused { "fused code" } else { "unfused code" }, &expected, &one, TOLERANCE)?;
        if one.iter().zip(&two).any(|(a, b)| a.bytes() != b.bytes()) {
            return Err("1 and 2 threads give different bits".into());
        }
    }
    let mut story = format!("{}\n=== run ({}) ===\n", print(&graph, Options::brief()), setting_words(&bindings, seed));
    for (result, name) in expected.iter().zip(&graph.result_names) {
        story += &format!("{name}: {}\n", result.ty());
    }
    Ok(story)
}

/// What passes may know: there are products of bytes where a pipeline makes some, and no arithmetic of 16 bits where it widens them.
fn context(pipeline: &str) -> Context {
    Context {
        bytes: pipeline.contains("integer"),
        blocks: pipeline.contains("blocks"),
        wide: pipeline.contains("widen"),
        ..Context::default()
    }
}

/// How far results may be apart behind some passes.
fn tolerance(pipeline: &str) -> f64 {
    if pipeline.contains("narrow") || pipeline.contains("widen") { NARROW_TOLERANCE } else { TOLERANCE }
}

fn compare(graph: &Graph, what: &str, expected: &[Tensor], found: &[Tensor], tolerance: f64) -> Result<(), String> {
    let pairs = expected.iter().zip(found).zip(&graph.result_names);
    pairs.into_iter().try_for_each(|((e, f), name)| alike(e, f, tolerance).map_err(|e| format!("{what} of `{name}`: {e}")))
}

fn alike(before: &Tensor, after: &Tensor, tolerance: f64) -> Result<(), String> {
    if before.ty() != after.ty() {
        return Err(format!("{} becomes {}", before.ty(), after.ty()));
    }
    let (before, after) = (before.to_f64s(), after.to_f64s());
    let scale = before.iter().filter(|v| v.is_finite()).fold(1e-30f64, |m, v| m.max(v.abs()));
    let same = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= tolerance * scale;
    match before.iter().zip(&after).position(|(&a, &b)| !same(a, b)) {
        Some(i) => Err(format!("element {i} is {} before and {} after", before[i], after[i])),
        None => Ok(()),
    }
}

/// `seed=1 N=3`: the numbers of the graph's symbols, and the seed of its inputs.
fn settings(graph: &Graph, arguments: &str) -> Result<(Bindings, u64), Box<dyn Error>> {
    let symbols: BTreeSet<_> = graph.params().iter().flat_map(|&p| &graph.ty(p).dims).flat_map(|d| d.symbols()).collect();
    let mut bindings: Bindings = symbols.into_iter().map(|s| (s, EXTENT)).collect();
    let mut seed = 0;
    for argument in arguments.split_whitespace() {
        let (name, value) = argument.split_once('=').ok_or_else(|| format!("expected `seed=1` or `symbol=extent`, found `{argument}`"))?;
        match bindings.get_mut(name) {
            Some(extent) => *extent = value.parse()?,
            None if name == "seed" => seed = value.parse()?,
            None => return Err(format!("the graph has no symbol `{name}`").into()),
        }
    }
    Ok((bindings, seed))
}

fn setting_words(bindings: &Bindings, seed: u64) -> String {
    let extents = bindings.iter().map(|(name, extent)| format!(", {name}={extent}"));
    format!("seed={seed}{}", extents.collect::<String>())
}

/// One `random(seed + i)` for parameter `i`.
fn seeded_inputs(graph: &Graph, bindings: &Bindings, seed: u64) -> Result<Vec<Tensor>, String> {
    graph.params().iter().zip(seed..).map(|(&p, seed)| random(seed, &graph.ty(p).bind(bindings))).collect()
}

/// Name, type, range, and the first elements, to 6 significant digits: enough to notice a change, not the last bit of a
/// platform's mathematics.
fn summary(name: &str, tensor: &Tensor) -> String {
    const SHOWN: usize = 6;
    let values = tensor.to_f64s();
    let number = |v: f64| format!("{v:.5e}").parse().unwrap_or(v).to_string();
    let first: Vec<String> = values.iter().take(SHOWN).map(|&v| number(v)).collect();
    let more = if values.len() > SHOWN { ", ..." } else { "" };
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    let range = if low <= high { format!(" in {}..{}", number(low), number(high)) } else { String::new() };
    format!("{name}: {} = [{}{more}]{range}\n", tensor.ty(), first.join(", "))
}
