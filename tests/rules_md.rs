//! RULES.md is what the rules print. `EGRET_BLESS=1 cargo test --test rules_md` writes it anew.

use egret::Compiler;
use egret::passes::rules::rules_md::rules_md;
use egret::passes::{Context, PassManager};
use std::collections::BTreeMap;
use std::path::Path;

/// The example models, and what rewriting them did.
const MODELS: &[&str] = &["digits_cnn", "digits_lstm", "digits_vit"];

/// How often each rule fires over all example models.
fn fired() -> BTreeMap<String, usize> {
    let mut fired = BTreeMap::new();
    for model in MODELS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models").join(model).with_extension("onnx");
        let import = Compiler::new().import(path).expect("the example models can be read");
        let manager = PassManager::named("fold, cse, rewrite").expect("these passes exist");
        let (_, reports) = manager.run(&import.graph, &Context::default(), |_, _| ()).expect("the example models can be rewritten");
        for (rule, times) in reports.into_iter().flat_map(|r| r.fired) {
            *fired.entry(rule).or_default() += times;
        }
    }
    fired
}

#[test]
fn rules_md_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/RULES.md");
    let printed = rules_md(&fired());
    if std::env::var_os("EGRET_BLESS").is_some() {
        std::fs::write(path, &printed).expect("RULES.md can be written");
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == printed, "RULES.md is stale; run `EGRET_BLESS=1 cargo test --test rules_md`");
}
