//! Checks the layers of the house: which crate may be built from which.
//!
//! The two tables below are the drawing in ARCHITECTURE.md; `cargo tree` says what is so. Dependencies of tests
//! alone are free, since they reach nobody who uses the crates.

use std::collections::BTreeMap;

use crate::Result;
use crate::process::{cargo, output};

/// Our crates, each with those of ours that it may be built from.
const LAYERS: &[(&str, &[&str])] = &[
    ("egret-ir", &[]),
    ("egret-runtime", &[]),
    ("egret-frontend", &["egret-ir"]),
    ("egret-passes", &["egret-ir"]),
    ("egret-codegen", &["egret-ir", "egret-runtime"]),
    ("egret", &["egret-ir", "egret-runtime", "egret-frontend", "egret-passes", "egret-codegen"]),
    ("xtask", &[]),
];

/// Libraries that one crate of ours hides from all others.
const HIDDEN: &[(&str, &str)] = &[
    ("onnx-protobuf", "egret-frontend"),
    ("protobuf", "egret-frontend"),
    ("egg", "egret-passes"),
    ("inkwell", "egret-codegen"),
    ("llvm-sys", "egret-codegen"),
    ("cudarc", "egret-runtime"),
];

/// The crate that ships: of the hidden libraries, it sees only its own, at any depth.
const RUNTIME: &str = "egret-runtime";

/// Fails with one line for each crate that reaches past its layer.
pub(crate) fn run() -> Result {
    // Without `--no-dedupe`, a crate that was seen as a dependency is printed without its own.
    let workspace = tree(&["--workspace", "--no-dedupe", "--depth=1", "--prefix=depth"])?;
    let runtime = tree(&["--package", RUNTIME, "--prefix=none"])?;
    match violations(&parse_direct(&workspace), &parse_names(&runtime)).as_slice() {
        [] => Ok(()),
        found => Err(format!("a crate reaches past its layer:\n  {}", found.join("\n  "))),
    }
}

/// What `cargo tree` prints with every feature switched on, tests left out.
fn tree(args: &[&str]) -> Result<String> {
    output(cargo("tree --quiet --all-features --edges no-dev").args(args))
}

/// Each crate of the workspace with its direct dependencies, from lines such as `0egret v0.1.0` and `1clap v4.6.7`.
fn parse_direct(tree: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut direct: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut member = "";
    for line in parse_names(tree) {
        if let Some(name) = line.strip_prefix('0') {
            member = name;
            direct.entry(member).or_default();
        } else if let Some(name) = line.strip_prefix('1') {
            direct.entry(member).or_default().push(name);
        }
    }
    direct
}

/// The first word of each line: the name of a crate.
fn parse_names(tree: &str) -> Vec<&str> {
    tree.lines().filter_map(|line| line.split_whitespace().next()).collect()
}

fn violations(direct: &BTreeMap<&str, Vec<&str>>, shipped: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (&name, dependencies) in direct {
        let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == name) else {
            found.push(format!("`{name}` has no layer yet: add it to LAYERS in xtask/src/layers.rs"));
            continue;
        };
        for dependency in dependencies {
            if direct.contains_key(dependency) && !allowed.contains(dependency) {
                found.push(format!("`{name}` depends on `{dependency}`, which is not below it"));
            }
            if let Some(owner) = owner(dependency).filter(|owner| *owner != name) {
                found.push(format!("`{name}` depends on `{dependency}`, which only `{owner}` may know"));
            }
        }
    }
    let foreign = |name: &&&str| owner(name).is_some_and(|owner| owner != RUNTIME);
    found.extend(shipped.iter().filter(foreign).map(|name| format!("`{RUNTIME}` ships `{name}`")));
    found
}

fn owner(library: &str) -> Option<&'static str> {
    HIDDEN.iter().find(|(name, _)| *name == library).map(|(_, owner)| *owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(workspace: &str, runtime: &str, expected: &[&str]) {
        assert_eq!(violations(&parse_direct(workspace), &parse_names(runtime)), expected);
    }

    #[test]
    fn the_house_as_drawn_passes() {
        let workspace = "\
            0egret v0.1.0 (/egret)\n1clap v4.6.7\n1egret-ir v0.1.0 (/egret/ir)\n1egret-codegen v0.1.0 (/egret/codegen)\n\n\
            0egret-codegen v0.1.0 (/egret/codegen)\n1egret-ir v0.1.0 (/egret/ir)\n1inkwell v0.11.0\n\n\
            0egret-ir v0.1.0 (/egret/ir)\n1petgraph v0.8.3\n";
        check(workspace, "egret-runtime v0.1.0\nmemmap2 v0.9.9\nlibc v0.2.0 (*)\n", &[]);
    }

    #[test]
    fn a_crate_may_not_use_one_beside_or_above_it() {
        check(
            "0egret-ir v0.1.0\n1egret-passes v0.1.0\n\n0egret-passes v0.1.0\n",
            "",
            &["`egret-ir` depends on `egret-passes`, which is not below it"],
        );
    }

    #[test]
    fn a_hidden_library_stays_hidden() {
        check(
            "0egret-passes v0.1.0\n1egg v0.11.0\n1inkwell v0.11.0\n",
            "",
            &["`egret-passes` depends on `inkwell`, which only `egret-codegen` may know"],
        );
    }

    #[test]
    fn the_runtime_ships_no_compiler_at_any_depth() {
        check("", "egret-runtime v0.1.0\nsome-crate v1.0.0\nllvm-sys v221.1.2\n", &["`egret-runtime` ships `llvm-sys`"]);
    }

    #[test]
    fn a_new_crate_needs_a_layer() {
        check("0egret-new v0.1.0\n", "", &["`egret-new` has no layer yet: add it to LAYERS in xtask/src/layers.rs"]);
    }
}
