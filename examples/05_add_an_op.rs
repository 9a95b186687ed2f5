//! What one line of the op table gives: everything printed here follows from the line alone.
//!
//! ```text
//! $ cargo run --example 05_add_an_op -- silu
//! silu: Composite, Sigmoid-weighted linear unit (swish).
//! meaning:    mul(x, sigmoid(x))
//!
//! graph example(x: f32[N, 4]) -> f32[N, 4] {
//!     y = silu(x) : f32[N, 4]
//!     return y
//! }
//!
//! evaluated:  f32[1, 4] [-0.23840583860874176, -0.1887703388929367, 0.3112296760082245, 1.7615940570831299]
//! compiled:   f32[1, 4]  min -0.23841  max 1.76159  mean 0.41141  [-0.23841, -0.18877, 0.31123, 1.76159]
//! ```
//!
//! To add an elementwise op:
//!
//! 1. Write its line in the table in `ir/src/op.rs`, in ordinary arithmetic or in terms of other ops:
//!    `softsign(x) = { x / (1.0 + scalar::abs(x)) }` or `silu(x) is { mul(x, sigmoid(x)) }`.
//! 2. If ONNX has it, name it in `frontend/src/table.rs`: `("Softsign", Same(Op::softsign))`.
//! 3. Write a filetest, `tests/filetests/eval/<op>.egir`, that uses it.
//!
//! Then run this example with its name. CONTRIBUTING.md tells the whole story.

use egret::Compiler;
use egret::ir::{DType, Graph, Op, OpDef, Tensor, TensorType, eval::eval};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or("silu".into());
    let def = OpDef::named(&name).ok_or(format!("there is no op `{name}`; see `egret list ops`"))?;
    println!("{}: {:?}, {}", def.name, def.kind, def.doc.trim());
    println!("meaning:    {}", def.meaning);

    // Text and type inference: f32[N, 4] for every operand.
    let mut graph = Graph::new("example");
    let ty = || TensorType::new(DType::F32, [egret::ir::Dim::symbol("N"), 4.into()]);
    let operands: Vec<_> = def.operands.iter().map(|name| graph.add_param(name, ty())).collect();
    let y = graph.add("y", Op::parse(&name, &[])?, &operands)?;
    graph.add_result(y, "y");
    println!("\n{graph}");

    // The reference evaluator.
    let inputs: Vec<Tensor> = operands.iter().map(|_| Tensor::from_f32s(vec![1, 4], &[-2.0, -0.5, 0.5, 2.0])).collect();
    println!("evaluated:  {:?}", eval(&graph, &inputs)?[0]);

    // Native code.
    let artifact = Compiler::new().compile_graph(&graph)?;
    let mut session = artifact.session(1)?;
    let inputs: Vec<_> = inputs.iter().map(egret::from_ir).collect::<Result<_, _>>()?;
    let named: Vec<_> = def.operands.iter().copied().zip(inputs.iter().map(egret::Tensor::view)).collect();
    println!("compiled:   {}", session.run(&named)?[0]);
    Ok(())
}
