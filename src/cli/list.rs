//! `egret list`: what there is, read from the tables that the compiler itself uses.
//!
//! ```text
//! $ egret list ops
//! add(x, y)   elementwise   Sum.
//! sub(x, y)   elementwise   Difference.
//! ```

use super::report;
use super::table::{Align, columns};
use clap::ValueEnum;
use egret::ir::{Kind, OPS, OpDef};
use egret::passes::{FUSED, PASSES, UNFUSED, rules};
use egret::{Code, Error, Target};

/// The arguments of `egret list`.
#[derive(clap::Args)]
pub struct Args {
    /// What to list
    what: What,
}

/// What can be listed.
#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// The ops of the IR with their attributes, kind and meaning
    Ops,
    /// The rewrite rules, by family
    Rules,
    /// The passes, and the pipelines that compile a model
    Passes,
    /// The processors that code can be made for
    Targets,
    /// The codes of errors; `egret explain` says more of each
    Errors,
}

/// Prints the list.
pub fn run(args: Args) -> Result<(), Error> {
    report::result(match args.what {
        What::Ops => ops(),
        What::Rules => rewrite_rules(),
        What::Passes => passes(),
        What::Targets => targets(),
        What::Errors => errors(),
    })
}

fn errors() -> String {
    let row = |code: Code| vec![code.number().to_string(), code.explanation().title.to_string()];
    columns(&[("", Align::Left); 2], Code::ALL.into_iter().map(row))
}

fn ops() -> String {
    let row = |op: &OpDef| vec![signature(op), kind(op.kind).to_string(), op.doc.trim().to_string()];
    columns(&[("", Align::Left); 3], OPS.iter().map(row))
}

/// `transpose[perm](x)`; `..` follows an operand that may be given any number of times.
fn signature(op: &OpDef) -> String {
    let attrs = if op.attrs.is_empty() { String::new() } else { format!("[{}]", op.attrs.join(", ")) };
    let dots = if op.variadic { ".." } else { "" };
    format!("{}{attrs}({}{dots})", op.name, op.operands.join(", "))
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Elementwise => "elementwise",
        Kind::Composite => "composite",
        Kind::View => "view",
        Kind::Reduce => "reduction",
        Kind::Structured => "structured",
    }
}

fn rewrite_rules() -> String {
    let family = |rules::Family { name, rules, .. }: &rules::Family| {
        let rules: String = rules.iter().map(|rule| format!("{rule}\n")).collect();
        format!("# {name}\n{rules}")
    };
    rules::families().iter().map(family).collect::<Vec<_>>().join("\n")
}

fn passes() -> String {
    let passes = columns(&[("", Align::Left); 2], PASSES.iter().map(|pass| vec![pass.name.to_string(), pass.doc.to_string()]));
    format!("{passes}\nfused:    {FUSED}\nunfused:  {UNFUSED}\n")
}

fn targets() -> String {
    let row = |name: &str, target: &Target| {
        let registers = format!("{} registers of {} f32", target.vregs, target.lanes);
        vec![name.to_string(), target.arch.to_string(), registers, target.features.join(" ")]
    };
    let known = Target::names().into_iter().filter_map(|name| Some(row(name, &Target::named(name).ok()?)));
    let native = match Target::native() {
        Ok(target) => row(&format!("native ({})", target.name), &target),
        Err(error) => vec!["native".to_string(), String::new(), error.to_string()],
    };
    let gpu = |name: &&str| vec![name.to_string(), "nvptx64".to_string(), "PTX, with --emit ptx".to_string()];
    columns(&[("", Align::Left); 4], std::iter::once(native).chain(known).chain(Target::gpus().iter().map(gpu)))
}
