//! One canonical plan whatever the exporter wrote: tiny models of many families, each exported in several ways.
//!
//! `exports/exports.tar.xz` holds them with what ONNX Runtime computes; `exports/make.py` made it. Exports of one model must
//! compute that, and be planned as the same kernels at the same cost; what is recognised in them stands in a table.

mod archive;

use egret::ir::Graph;
use egret::passes::PassManager;
use egret::passes::rules::{self, Class, Rule, proof::prove_on};
use egret::{Compiler, Tolerance, Verdict, run_case};
use egret_frontend::read_case;
use std::path::{Path, PathBuf};

/// What exporters spell out in primitives. A softmax stands alone only where it is not part of an attention.
const OPS: [&str; 9] = ["attention", "softmax", "layer_norm", "rms_norm", "rotary", "gelu", "gelu_tanh", "silu", "hard_swish"];

/// Each family, with how often each of [`OPS`] stands in it.
const FAMILIES: &[(&str, [usize; OPS.len()])] = &[
    ("bert", [1, 0, 3, 0, 0, 1, 0, 0, 0]),
    ("distilbert", [1, 0, 3, 0, 0, 1, 0, 0, 0]),
    ("roberta", [1, 0, 3, 0, 0, 1, 0, 0, 0]),
    ("t5", [1, 0, 0, 3, 0, 0, 0, 0, 0]),
    ("llama", [1, 0, 0, 3, 2, 0, 0, 1, 0]),
    ("qwen3", [1, 0, 0, 5, 2, 0, 0, 1, 0]),
    ("gemma", [1, 0, 0, 3, 2, 0, 1, 0, 0]),
    ("gptj", [1, 0, 2, 0, 2, 0, 1, 0, 0]),
    ("bloom", [1, 0, 4, 0, 0, 0, 1, 0, 0]),
    ("gpt2", [1, 0, 3, 0, 0, 0, 1, 0, 0]),
    ("opt", [1, 0, 3, 0, 0, 0, 0, 0, 0]),
    ("phi", [1, 0, 2, 0, 2, 0, 1, 0, 0]),
    ("falcon", [1, 0, 2, 0, 2, 1, 0, 0, 0]),
    ("mistral", [1, 0, 0, 3, 2, 0, 0, 1, 0]),
    ("modernbert", [2, 0, 5, 0, 4, 2, 0, 0, 0]),
    ("bart", [3, 0, 7, 0, 0, 2, 0, 0, 0]),
    ("clip", [2, 0, 7, 0, 0, 0, 0, 0, 0]),
    ("sam", [2, 0, 6, 0, 0, 2, 0, 0, 0]),
    ("dinov2", [1, 0, 3, 0, 0, 1, 0, 0, 0]),
    ("convnext", [0, 0, 4, 0, 0, 2, 0, 0, 0]),
    ("groups", [0, 0, 3, 0, 0, 0, 0, 2, 0]),
    ("swinv2", [2, 0, 6, 0, 0, 2, 0, 0, 0]),
    ("vit", [1, 0, 3, 0, 0, 1, 0, 0, 0]),
    ("whisper", [1, 0, 3, 0, 0, 3, 0, 0, 0]),
    ("encoder", [1, 0, 2, 0, 0, 1, 0, 0, 0]),
    ("swin", [2, 0, 6, 0, 0, 2, 0, 0, 0]),
    ("cnn", [0, 0, 0, 0, 0, 0, 0, 1, 1]),
    ("lstm", [0, 1, 0, 0, 0, 0, 0, 0, 0]),
];

/// Families of which the exports are not the same mathematics: one hides scores by minus infinity and has zeros for a row that
/// sees nothing, another hides them by the lowest number and averages that row. They differ in how the mask is made.
const HIDDEN_IN_TWO_WAYS: &[&str] =
    &["bert", "distilbert", "roberta", "llama", "qwen3", "gemma", "gpt2", "opt", "phi", "falcon", "mistral", "modernbert", "bart", "clip"];

/// Families with an export whose extents are free, and how many kernels more it takes while they are: the angles of a rotary embedding
/// are tables where positions are known; the encoder's exporter left one of the two extents of its scores at 6, so that keys and
/// queries are not alike.
const FREE: &[(&str, usize)] = &[("bert", 0), ("llama", 2), ("encoder", 2)];

/// Sums in another order, over a few layers of values around 1.
const TOLERANCE: Tolerance = Tolerance { relative: 1e-3, absolute: 1e-5 };

#[test]
fn every_export_computes_what_onnx_runtime_does() {
    for export in FAMILIES.iter().flat_map(|(family, _)| exports(family)) {
        let verdict = run_case(&export, "native", true, TOLERANCE).unwrap();
        assert_eq!(verdict, Verdict::Passed(vec![]), "{}", export.display());
    }
}

#[test]
fn what_exporters_spell_out_is_recognised() {
    for (family, expected) in FAMILIES {
        for export in exports(family) {
            let passes = PassManager::named("fold, cse, rewrite").unwrap();
            let (graph, _) = passes.run(&imported(&export), &compiler(&export).context().unwrap(), |_, _| ()).unwrap();
            let found = OPS.map(|op| graph.nodes().iter().filter(|node| node.op.name() == op).count());
            assert_eq!(found, *expected, "{} of {OPS:?}", export.display());
        }
    }
}

#[test]
fn exports_of_one_model_are_planned_alike() {
    for (family, _) in FAMILIES {
        let plans: Vec<(Vec<String>, u64)> = exports(family).iter().map(|export| plan(export)).collect();
        assert!(plans.len() > 1, "{family} has one export only");
        for other in &plans[1..] {
            match HIDDEN_IN_TWO_WAYS.contains(family) {
                true => assert_eq!(other.0.len(), plans[0].0.len(), "{family}: {:#?}\n{:#?}", plans[0], other),
                false => assert_eq!(*other, plans[0], "{family}"),
            }
        }
    }
}

#[test]
fn free_extents_take_few_more_kernels() {
    for (family, more) in FREE {
        let export = exports(family).pop().unwrap();
        let free = planned(&export, &Compiler::new().target("x86-64-v4")).0;
        assert_eq!(free.len(), plan(&export).0.len() + more, "{}: {free:#?}", export.display());
    }
}

#[test]
fn all_equal_ways_to_compute_a_value_give_the_same() {
    let rules: Vec<Rule> = rules::all().iter().filter(|rule| rule.class < Class::Approx).cloned().collect();
    for export in FAMILIES.iter().flat_map(|(family, _)| exports(family)) {
        let passes = PassManager::named("fold, cse").unwrap();
        let (graph, _) = passes.run(&imported(&export), &compiler(&export).context().unwrap(), |_, _| ()).unwrap();
        let inputs: Vec<_> = read_case(&export).unwrap().sets[0].inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
        match prove_on(&graph, &inputs, &rules) {
            Ok(compared) => assert!(compared > graph.nodes().len(), "{}: {compared}", export.display()),
            Err(message) => panic!("{}: {message}", export.display()),
        }
    }
}

/// Loops and branches that data decides, with what ONNX Runtime computes; `exports/make_control.py` made them.
#[test]
fn scripted_control_flow_runs_as_regions() {
    let folder = archive::unpacked(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exports/control.tar.xz"));
    for (name, kinds) in [("branch", "branch"), ("count", "repeat"), ("grow", "repeat"), ("nested", "repeat"), ("while", "repeat")] {
        let case = folder.join(name);
        let graph = Compiler::new().import(case.join("model.onnx")).unwrap().graph;
        assert!(graph.nodes().iter().any(|node| node.op.name() == kinds), "{name} has no `{kinds}`: {graph}");
        for fuse in [true, false] {
            assert_eq!(run_case(&case, "native", fuse, TOLERANCE).unwrap(), Verdict::Passed(vec![]), "{name}");
        }
    }
}

/// The folders of all exports of a family.
fn exports(family: &str) -> Vec<PathBuf> {
    let folder = archive::unpacked(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exports/exports.tar.xz"));
    let all = ["ts", "dynamo", "dynamic"].map(|exporter| folder.join(format!("{family}_{exporter}")));
    all.into_iter().filter(|export| export.is_dir()).collect()
}

/// With the extents of the others where an export left them free.
fn compiler(export: &Path) -> Compiler {
    let compiler = Compiler::new().target("x86-64-v4");
    if export.to_string_lossy().ends_with("_dynamic") { compiler.dim("batch", 1).dim("seq", 6) } else { compiler }
}

fn imported(export: &Path) -> Graph {
    compiler(export).import(export.join("model.onnx")).unwrap().graph
}

/// The kernels, each by the ops it consists of, all in the order of their names, and what they cost.
fn plan(export: &Path) -> (Vec<String>, u64) {
    planned(export, &compiler(export))
}

fn planned(export: &Path, compiler: &Compiler) -> (Vec<String>, u64) {
    let imported = compiler.import(export.join("model.onnx")).unwrap().graph;
    let (graph, reports) = compiler.optimise_in(&imported, &compiler.context().unwrap()).unwrap();
    let regions = graph.nodes().iter().filter_map(|node| node.region.as_ref());
    let mut kernels: Vec<String> = regions.map(|region| ops(region)).collect();
    kernels.sort_unstable();
    (kernels, reports.last().map_or(0, |report| report.figures["picoseconds"]))
}

fn ops(region: &Graph) -> String {
    let mut names: Vec<&str> = region.nodes().iter().map(|node| node.op.name()).collect();
    names.sort_unstable();
    names.join(" · ")
}
