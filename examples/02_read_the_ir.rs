//! Prints a model as Egret sees it: as imported, and after the passes have grouped it into kernels.
//!
//! ```text
//! $ cargo run --example 02_read_the_ir -- examples/models/digits_lstm.onnx
//! # As imported: 33 nodes.
//! graph main_graph(images: f32[1, 1, 8, 8]) -> f32[1, 10] {
//!     ...
//!     squeeze = reshape[shape=[1, 8, 8]](images) : f32[1, 8, 8]
//!     ...
//! }
//!
//! # After the passes: 3 kernels.
//! graph main_graph(images: f32[1, 1, 8, 8]) -> f32[1, 10] {
//!     ...
//!     val_15 = reshape[shape=[8, 1, 8]](images) : f32[8, 1, 8]
//!     val_67.lstm, ... = kernel k1(val_15, ...) : f32[8, 1, 96], ... { lstm }
//!     logits = kernel k2(val_67.lstm, logits.transpose, head.bias) : f32[1, 10] { slice · reshape · matmul · add }
//!     return logits
//! }
//! ```

use egret::Compiler;
use egret::ir::text::{Options, print};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).unwrap_or("examples/models/digits_lstm.onnx".into());
    let compiler = Compiler::new().dim("batch", 1);

    let graph = compiler.import(&model)?.graph;
    println!("# As imported: {} nodes.\n{}", graph.nodes().len(), print(&graph, Options::brief()));

    let grouped = compiler.optimise(&graph)?;
    println!("# After the passes: {} kernels.\n{}", grouped.nodes().len(), print(&grouped, Options::brief()));
    Ok(())
}
