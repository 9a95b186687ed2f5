//! What type inference takes for granted of symbols.
//!
//! Where extents are numbers, inference decides whether operands fit. Where they are symbols it cannot, and takes the case in
//! which they do: a slice lies inside, two extents agree. Whoever runs a graph for some values of its symbols has to see to
//! it that these hold; compiled code relies on them.
//!
//! ```
//! use egret_ir::{assume, text};
//! let graph = text::parse("graph g(x: f32[S, 4]) {
//!     const positions: f32[512, 4] = random(1)
//!     p = slice[start=[0, 0], shape=[S, 4], step=[1, 1]](positions)
//!     y = add(x, p)
//!     return y
//! }")?;
//! let told: Vec<String> = assume::of(&graph).iter().map(|a| a.to_string()).collect();
//! assert_eq!(told, ["`slice` that makes `p` needs S <= 512"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The checks of [`crate::ops`] say what they take to `equal` and `at_most`; [`of`] runs inference once more and listens.

use crate::dim::Dim;
use crate::graph::{Graph, Node};
use crate::ty::TensorType;
use std::cell::RefCell;
use std::fmt;

/// A relation between two extents, at least one of them symbolic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// The left side.
    pub left: Dim,
    /// What has to hold between the sides.
    pub kind: Kind,
    /// The right side.
    pub right: Dim,
}

/// What has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The sides are equal.
    Equal,
    /// The left side is at most the right side.
    AtMost,
}

/// Something that has to hold of the symbols of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assumption {
    /// What has to hold.
    pub relation: Relation,
    /// The op that needs it and the value it makes, for messages.
    pub place: String,
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.kind {
            Kind::Equal => "=",
            Kind::AtMost => "<=",
        };
        write!(f, "{} {sign} {}", self.left, self.right)
    }
}

impl fmt::Display for Assumption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} needs {}", self.place, self.relation)
    }
}

thread_local! {
    /// What was taken since [`listen`] began; `None` while nobody listens.
    static TAKEN: RefCell<Option<Vec<Relation>>> = const { RefCell::new(None) };
}

/// Everything that has to hold of the symbols of a valid graph, regions included; each relation once, at the first op that
/// needs it.
pub fn of(graph: &Graph) -> Vec<Assumption> {
    let mut found: Vec<Assumption> = vec![];
    collect(graph, &mut found);
    found
}

fn collect(graph: &Graph, found: &mut Vec<Assumption>) {
    for node in graph.nodes() {
        if node.region.is_some() {
            node.regions().for_each(|region| collect(region, found));
            continue;
        }
        for relation in of_node(graph, node) {
            if found.iter().all(|known| known.relation != relation) {
                let made = node.results.first().map_or("", |&r| &graph.value(r).name);
                found.push(Assumption { relation, place: format!("`{}` that makes `{made}`", node.op.name()) });
            }
        }
    }
}

fn of_node(graph: &Graph, node: &Node) -> Vec<Relation> {
    let types: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
    let mut taken = listen(|| node.op.infer(&types).map(drop));
    let extents = node.results.iter().flat_map(|&r| &graph.ty(r).dims);
    taken.extend(extents.filter(|d| may_be_negative(d)).map(|d| Relation { left: Dim::ZERO, kind: Kind::AtMost, right: d.clone() }));
    taken
}

/// Whether some values of the symbols, none of them negative, could make an extent negative.
fn may_be_negative(d: &Dim) -> bool {
    d.terms().iter().any(|term| term.coefficient < 0)
}

/// What is taken while `infer` runs. The verdict of inference itself is of no interest: the graph is known to be valid.
fn listen(infer: impl FnOnce() -> Result<(), String>) -> Vec<Relation> {
    TAKEN.set(Some(vec![]));
    let _ = infer();
    TAKEN.take().unwrap_or_default()
}

/// Says that two extents, not known to differ, are taken to be equal.
pub(crate) fn equal(left: &Dim, right: &Dim) {
    if left != right {
        take(Relation { left: left.clone(), kind: Kind::Equal, right: right.clone() });
    }
}

/// Says that an extent, not known to be larger than another, is taken not to be.
pub(crate) fn at_most(left: &Dim, right: &Dim) {
    let room = right.clone() - left.clone();
    if room.as_const().is_none() && may_be_negative(&room) {
        take(Relation { left: left.clone(), kind: Kind::AtMost, right: right.clone() });
    }
}

fn take(relation: Relation) {
    TAKEN.with_borrow_mut(|taken| {
        if let Some(taken) = taken {
            taken.push(relation);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    #[track_caller]
    fn check(body: &str, expected: &[&str]) {
        let graph = parse(&format!("graph g(x: f32[N, 4], w: f32[M, 3]) {{ {body} return y }}")).unwrap();
        let told: Vec<String> = of(&graph).iter().map(|a| a.to_string()).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn numbers_leave_nothing_open() {
        check("const b: f32[4] = [1, 2, 3, 4] y = add(x, b)", &[]);
        check("y = slice[start=[0, 1], shape=[N, 2], step=[1, 1]](x)", &[]);
    }

    #[test]
    fn what_inference_takes_is_told() {
        check("const b: f32[2, 1] = [1, 2] y = add(x, b)", &["`add` that makes `y` needs N = 2"]);
        check("y = matmul(x, w)", &["`matmul` that makes `y` needs M = 4"]);
        check("y = reshape[shape=[2*M, 2]](x)", &["`reshape` that makes `y` needs 4*N = 4*M"]);
        check("y = slice[start=[3, 0], shape=[N - 5, 4], step=[1, 1]](x)", &["`slice` that makes `y` needs 0 <= N - 5"]);
        check("y, i = top_k[axis=0, k=M](x)", &["`top_k` that makes `y` needs M <= N"]);
        check(
            "r = reshape[shape=[1, 4, N]](x) y = max_pool[kernel=[3], stride=[1], pad=[0, 0], dilation=[1]](r)",
            &["`max_pool` that makes `y` needs 1 <= N - 2", "`max_pool` that makes `y` needs 0 <= N - 2"],
        );
    }

    #[test]
    fn regions_are_heard_too() {
        check(
            "y = kernel k0(x, w) {
                s = slice[start=[0, 0], shape=[3, 4], step=[1, 1]](x)
                return s
            }",
            &["`slice` that makes `s` needs 3 <= N"],
        );
    }
}
