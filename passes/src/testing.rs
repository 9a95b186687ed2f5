//! What the tests of passes share.

use egret_ir::Graph;
use egret_ir::text::parse;
use egret_ir::verify::verify;

/// The graph of a text, after a pass, reads as `expected`; layout and white space do not count.
#[track_caller]
pub fn check(pass: impl Fn(&Graph) -> Result<Graph, String>, text: &str, expected: &str) {
    let graph = parse(text).unwrap_or_else(|e| panic!("{e}"));
    let found = pass(&graph).unwrap();
    verify(&found).unwrap();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    if words(&found.to_string()) != words(expected) {
        panic!("expected\n{expected}\nfound\n{found}");
    }
}
