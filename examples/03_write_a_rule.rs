//! Writes a rewrite rule and lets the e-graph use it.
//!
//! ```text
//! $ cargo run --example 03_write_a_rule
//! graph g(a: f32[N], b: f32[N]) -> f32[N] {
//!     x = exp(a)    : f32[N]
//!     y = exp(b)    : f32[N]
//!     z = mul(x, y) : f32[N]
//!     return z
//! }
//!
//! rewrite: 3 -> 2 nodes; add_commutes 1, exp_product 1, mul_commutes 1
//! graph g(a: f32[N], b: f32[N]) -> f32[N] {
//!     z.add = add(a, b)  : f32[N]
//!     z     = exp(z.add) : f32[N]
//!     return z
//! }
//! ```
//!
//! A rule is an equation in the IR's own syntax, with a name and a class: how far both sides may differ. In the compiler
//! itself it is one line in `passes/src/rules/`, and a test that proves it on random instances comes with it.

use egret::ir::text::parse;
use egret::passes::{Context, PassManager};

mod mine {
    egret::passes::rules! {
        functions: [];
        // exp(x) * exp(y) = exp(x + y): the same mathematics, other roundings.
        reassoc exp_product: mul(exp(x), exp(y)) => exp(add(x, y));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let graph = parse("graph g(a: f32[N], b: f32[N]) { x = exp(a) y = exp(b) z = mul(x, y) return z }")?;
    println!("{graph}");

    let context = Context { rules: mine::rules(), ..Context::default() };
    let (graph, reports) = PassManager::named("rewrite")?.run(&graph, &context, |_, _| ())?;
    println!("{}\n{graph}", reports[0]);
    Ok(())
}
