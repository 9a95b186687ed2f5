//! Extends the compiler from outside: an op as a function of other ops, a rule, and a pass; and tests all three by a snapshot.
//!
//! ```text
//! $ cargo run --example 06_extend
//! ...
//! === rewrite: 8 -> 6 nodes; exp_product 1, silu 1 ===
//! ...
//! === harden: 6 -> 6 nodes ===
//! ...
//! compiled:  f32[2, 3]  min ...
//!
//! $ INSTA_UPDATE=always cargo test --example 06_extend     # writes examples/snapshots/06_extend__tests__story.snap
//! ```
//!
//! - The set of ops is closed, so that no backend meets one that it does not know. An op of your own is a function that adds
//!   what it means; rules see through it, and it shares kernels like everything else.
//! - A rule is an equation, and a test that proves it on random instances comes with it.
//! - A pass is a function from graph to graph; the manager verifies what it makes.

use egret::ir::{Copy, DType, Graph, Op, TensorType, ValueId};
use egret::passes::{Context, FUSED, Pass, PassManager};
use egret::{Compiler, Error};

mod mine {
    egret::passes::rules! {
        functions: [];
        // exp(x) * exp(y) = exp(x + y): the same mathematics, other roundings.
        reassoc exp_product: mul(exp(x), exp(y)) => exp(add(x, y));
    }
}

/// The gated unit `silu(x w) * (x v)`, with x: [m, k] and w, v: [k, n].
fn swiglu(graph: &mut Graph, x: ValueId, w: ValueId, v: ValueId) -> Result<ValueId, String> {
    let gate = graph.add("gate", Op::matmul, &[x, w])?;
    let up = graph.add("up", Op::matmul, &[x, v])?;
    let sigmoid = graph.add("sigmoid", Op::sigmoid, &[gate])?;
    let silu = graph.add("silu", Op::mul, &[gate, sigmoid])?;
    graph.add("swiglu", Op::mul, &[silu, up])
}

/// Takes the cheaper `hard_swish` for every `silu`.
const HARDEN: Pass = Pass { name: "harden", doc: "Takes the cheaper hard_swish for every silu.", run: |graph, _| harden(graph) };

fn harden(graph: &Graph) -> Result<Graph, String> {
    let mut copy = Copy::new(graph, Clone::clone);
    for node in graph.nodes() {
        match node.op {
            Op::silu => copy.node_as(node, Op::hard_swish)?,
            _ => copy.node(node)?,
        }
    }
    Ok(copy.finish())
}

/// exp(a) * exp(swiglu(a, w, v))
fn model() -> Result<Graph, String> {
    let mut graph = Graph::new("model");
    let matrix = |rows: usize, columns: usize| TensorType::new(DType::F32, [rows, columns]);
    let a = graph.add_param("a", matrix(2, 3));
    let (w, v) = (graph.add_param("w", matrix(3, 3)), graph.add_param("v", matrix(3, 3)));
    let gated = swiglu(&mut graph, a, w, v)?;
    let (left, right) = (graph.add("left", Op::exp, &[a])?, graph.add("right", Op::exp, &[gated])?);
    let y = graph.add("y", Op::mul, &[left, right])?;
    graph.add_result(y, "y");
    Ok(graph)
}

/// The standard passes and ours.
fn passes() -> Result<PassManager, String> {
    PassManager::named(FUSED)?.insert_before("legalize", HARDEN)
}

/// The graph, and what our rule and our pass make of it.
fn story() -> Result<String, String> {
    let graph = model()?;
    let mut story = graph.to_string();
    let context = Context { rules: mine::rules(), ..Context::default() };
    passes()?.run(&graph, &context, |report, graph| {
        if ["rewrite", "harden"].contains(&report.pass) {
            story += &format!("\n=== {report} ===\n{graph}");
        }
    })?;
    Ok(story)
}

fn main() -> Result<(), Error> {
    println!("{}", story().map_err(Error::Usage)?);

    let compiler = Compiler::new().rules(mine::rules()).pipeline(passes().map_err(Error::Usage)?);
    let mut session = compiler.compile_graph(&model().map_err(Error::Usage)?)?.session(1)?;
    let inputs = session.random_inputs(0, &[])?;
    let named: Vec<_> = ["a", "w", "v"].into_iter().zip(inputs.iter().map(egret::Tensor::view)).collect();
    println!("compiled:  {}", session.run(&named)?[0]);
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn story() {
        insta::assert_snapshot!("story", super::story().unwrap());
    }
}
