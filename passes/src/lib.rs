//! Egret's passes: pure functions from graph to graph, from what an exporter wrote to kernels.
//!
//! A model goes through [`pass::FUSED`]. Each step can be looked at on its own:
//!
//! ```
//! use egret_passes::pass::{Context, PassManager};
//!
//! // A layer as an exporter may spell it: a shape computed at run time, gelu in primitives, a scale left over.
//! let graph = egret_ir::text::parse("
//!     graph layer(x: f32[N, 2, 4]) {
//!         const w: f32[8, 8] = random(1)
//!         const first: i64[1] = [0]
//!         const rest: i64[1] = [8]
//!         const r: f32[] = 0.70710677
//!         const one: f32[] = 1.0
//!         const half: f32[] = 0.5
//!         shape  = dims[values=[N, 2, 4]]()
//!         n      = gather[axis=0](shape, first)
//!         target = concat[axis=0](n, rest)
//!         flat   = reshape[shape=[N, 8]](x)
//!         h      = matmul(flat, w)
//!         a      = mul(h, r)
//!         b      = erf(a)
//!         c      = add(b, one)
//!         d      = mul(h, c)
//!         y      = mul(d, half)
//!         return y
//!     }
//! ")?;
//!
//! let (graph, reports) = PassManager::named("fold, rewrite")?.run(&graph, &Context::default(), |_, _| ())?;
//! let told: Vec<String> = reports.iter().map(|r| r.to_string()).collect();
//! assert_eq!(told[0], "fold: 10 -> 7 nodes");
//! assert!(told[1].starts_with("rewrite: 7 -> 3 nodes; ") && told[1].contains("gelu_half_last 1"));
//! let ops: Vec<&str> = graph.nodes().iter().map(|n| n.op.name()).collect();
//! assert_eq!(ops, ["reshape", "matmul", "gelu"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where things are
//!
//! - [`pass`]: the table of passes, the pipelines, the manager that runs, verifies and times them.
//! - [`fold`], [`cse`], [`dce`]: the plain ones.
//! - [`mod@widen`]: what a model computes in 16 bits, in f32.
//! - [`mod@integer`]: products of quantised values as products of bytes. [`mod@blocks`]: products with weights of few bits, which stay that.
//! - [`mod@stage`]: where extents depend on data, the graph in parts in which they do not.
//! - [`rewrite`]: everything that is an equation. [`mod@rules`] has the equations, one a line, and [`rules::proof`] proves each;
//!   [`egraph`] holds all equal graphs at once; [`extract`] takes the cheapest.
//! - [`legalize`], [`layout`], [`mod@algorithm`], [`halo`], [`group`]: towards kernels. [`cost`] says how long one takes, [`role`] what
//!   an op can be in it, and [`refusal`] why two kernels are not one. [`mod@narrow`] stores in 16 bits what goes between them.
//! - [`explain`]: by which rules a graph became another.
//! - [`limit`], [`replay`]: which application of a rule or pass is at fault.

pub mod algorithm;
pub mod blocks;
pub mod cost;
pub mod cse;
pub mod dce;
pub mod egraph;
pub mod explain;
pub mod extract;
pub mod fold;
pub mod group;
pub mod halo;
pub mod integer;
pub mod layout;
pub mod legalize;
pub mod limit;
pub mod narrow;
pub mod pass;
pub mod refusal;
pub mod replay;
pub mod rewrite;
pub mod role;
pub mod rules;
pub mod stage;
#[cfg(test)]
mod testing;
pub mod widen;
