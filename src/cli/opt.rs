//! `egret opt`: runs passes on a graph, text in and text out.
//!
//! The result goes to stdout as text that reads back; what `--print-ir-after` and `--time-passes` show goes to stderr.
//!
//! ```text
//! $ echo 'graph g(x: f32[N]) { a = sigmoid(x) y = mul(x, a) return y }' | egret opt - -p rewrite
//! graph g(x: f32[N]) -> f32[N] {
//!     y = silu(x) : f32[N]
//!     return y
//! }
//! ```

use super::options::{DimOptions, FreezeOptions, RuleOptions, rules_words};
use super::table::{Align, columns};
use super::{report, source};
use egret::ir::text::{Options, print};
use egret::passes::{PassManager, Report};
use egret::{Compiler, Error, Graph};
use std::path::{Path, PathBuf};

/// The arguments of `egret opt`.
#[derive(clap::Args)]
pub struct Args {
    /// A graph as .egir text (`-` reads it from stdin) or an .onnx model
    graph: PathBuf,
    #[command(flatten)]
    dims: DimOptions,
    #[command(flatten)]
    freeze: FreezeOptions,
    #[command(flatten)]
    rules: RuleOptions,
    /// Passes in order, such as fold,rewrite,group (see `egret list passes`)
    #[arg(short, long, value_name = "PASSES", default_value = "", hide_default_value = true)]
    passes: String,
    /// Show the graph after this pass of the list, or after all of them; may be given several times
    #[arg(long, value_name = "PASS|all")]
    print_ir_after: Vec<String>,
    /// Show how long each pass took
    #[arg(long)]
    time_passes: bool,
}

/// Runs the passes and prints the graph they leave.
pub fn run(args: Args) -> Result<(), Error> {
    let manager = PassManager::named(&args.passes).map_err(Error::Usage)?;
    check_shown(&args.print_ir_after, &manager)?;
    args.dims.numbers()?;
    let compiler = args.rules.choose(args.dims.bind(Compiler::new()));
    let context = compiler.context()?;
    let graph = read(&args, &compiler)?;
    let shown = |pass: &str| args.print_ir_after.iter().any(|name| name == pass || name == "all");
    let show = |report: &Report, graph: &Graph| {
        if shown(report.pass) {
            report::aside(format_args!("# after {report}\n{}", print(graph, Options::lossless())));
        }
    };
    // Passes accept every valid graph, so one that fails is at fault itself.
    let (graph, reports) = manager.run(&graph, &context, show).map_err(Error::Unsupported)?;
    if args.time_passes {
        report::aside(timings(&reports));
    }
    report::result(print(&graph, Options::lossless()))
}

fn check_shown(shown: &[String], manager: &PassManager) -> Result<(), Error> {
    let names: Vec<&str> = manager.passes().iter().map(|pass| pass.name).collect();
    match shown.iter().find(|name| *name != "all" && !names.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::Usage(format!(
            "there is no pass `{name}` among those that run ({}), so nothing can be shown after it",
            if names.is_empty() { "none".to_string() } else { names.join(", ") }
        ))),
    }
}

fn read(args: &Args, compiler: &Compiler) -> Result<Graph, Error> {
    let graph = if args.graph == Path::new("-") {
        let text = std::io::read_to_string(std::io::stdin()).map_err(|error| Error::File(format!("stdin: {error}")))?;
        source::bound(egret::parse_text("stdin", &text)?, compiler, &args.dims, &args.freeze)?
    } else {
        source::graph(&args.graph, compiler, &args.dims, &args.freeze)?
    };
    graph.ok_or_else(|| Error::Usage("passes cannot be run on a compiled file; give the .onnx model it was compiled from".to_string()))
}

fn timings(reports: &[Report]) -> String {
    let header = [("pass", Align::Left), ("ms", Align::Right), ("nodes before", Align::Right), ("after", Align::Right)];
    let row = |report: &Report| {
        let milliseconds = format!("{:.2}", report.time.as_secs_f64() * 1e3);
        vec![report.pass.to_string(), milliseconds, report.before.to_string(), report.after.to_string()]
    };
    let rules = rules_words(reports.iter().filter_map(|report| report.class).max());
    format!("{}{rules}", columns(&header, reports.iter().map(row)))
}
