//! Groups nodes into kernels: each group becomes one function of the artifact.
//!
//! A group has at most one *anchor* (a contraction, a window, a reduction over rows) and around it the elementwise ops and
//! views that cost nothing extra there: heads that feed the anchor, tails that the anchor feeds. Only the root's results
//! leave a group, which also makes every group convex.
//!
//! ```text
//! h = matmul(x, w); hb = add(h, b); y = relu(hb)
//! =>
//! y = kernel k0(x, w, b) : f32[N, 128] { matmul · add · relu }
//! ```
//!
//! Which groups there are is a problem of choice, solved like that of the rewritten graph by [`mod@crate::extract`]. Its classes are
//! the values that may lie in memory; the alternatives of a class are all groups that compute it (see `group/grow.rs`), each with
//! the time of its kernel ([`mod@crate::cost`]) and with the values that it reads. Where a value can also be taken out of a product
//! that its siblings share (see `group/merge.rs`), the groups that do so are alternatives, too. So sharing, recomputing what two
//! kernels read, which of two contractions takes a sum, and merging are settled together, by the cheapest plan.
//!
//! Products of one operand whose results lie apart may still be one kernel, with a result for each (see `group/joint.rs`): keys and
//! values that leave the graph are stored in their own order by the kernel that makes the queries. Such a kernel is a class that its
//! results need and cost nothing beyond.
//!
//! The groups are not written into an e-graph as kernels that rules compose: that was tried in a prototype, and made 4,163
//! e-nodes of the 176 ops of ResNet-50, most of which are the same kernel composed in another order. Growing from the root in
//! one fixed order makes each group once.
//!
//! Invariant: every group can be lowered, whatever is chosen; grouping decides how fast the result is, never whether it is
//! right. The same graph gives the same groups, byte for byte.
//!
//! A reshape alone stays a node of its own: it moves nothing, and becomes an alias of its operand's buffer.
//!
//! Why two kernels are not one is said by [`neighbours()`].

mod choose;
mod emit;
mod grow;
mod joint;
mod merge;
mod neighbours;
mod part;
#[cfg(test)]
mod tests;

use crate::cost::{Machine, ZEN4};
use crate::extract::{BEAM, Plan, solve};
use crate::pass::Context;
use choose::Choices;
use egret_ir::Graph;
use emit::emit;
use grow::{Group, Kernel};
use merge::Network;
pub use neighbours::{Neighbours, neighbours};

/// The machine whose rates choose groups and algorithms. It is the same for every target, since a graph must not depend on where it is
/// compiled; what matters for the choice is how the rates compare.
pub(crate) const MACHINE: Machine = ZEN4;

/// Makes kernels of groups of ops, so that the run takes the least time by the cost model.
///
/// # Errors
/// Only if a region does not type-check, which would be a bug of this pass.
pub fn group(graph: &Graph, context: &Context) -> Result<Graph, String> {
    let Planned { network, choices, plan } = Planned::of(graph)?;
    context.figure("groups", choices.count() as u64);
    context.figure("picoseconds", plan.cost);
    if !plan.exact || choices.clipped {
        context.remark("there may be a faster way to share kernels");
    }
    emit(&network, &choices.chosen(&plan, &network))
}

/// The kernels of a graph as they are chosen.
struct Planned {
    network: Network,
    choices: Choices,
    plan: Plan,
}

impl Planned {
    fn of(graph: &Graph) -> Result<Planned, String> {
        let network = Network::with_merged(graph)?;
        let choices = Choices::new(&network, &MACHINE);
        let plan = solve(&choices.problem, BEAM)?;
        Ok(Planned { network, choices, plan })
    }
}

/// Gives every op its own kernel: what fusion is compared with.
///
/// # Errors
/// As [`group`].
pub fn ungrouped(graph: &Graph) -> Result<Graph, String> {
    let network = Network::plain(graph)?;
    let alone = |node| Kernel { groups: vec![Group::of(&network, node)] };
    let alone: Vec<Kernel> = network.needed().into_iter().map(alone).collect();
    emit(&network, &alone)
}
