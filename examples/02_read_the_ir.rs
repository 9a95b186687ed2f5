//! Prints a model as Egret sees it: as imported, and after the passes have grouped it into kernels.
//!
//! ```text
//! $ cargo run --example 02_read_the_ir -- examples/models/digits_cnn.onnx
//! ```

use egret::Compiler;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).unwrap_or("examples/models/digits_cnn.onnx".into());
    let compiler = Compiler::new().dim("batch", 1);

    let graph = compiler.import(&model)?.graph;
    println!("# As imported: {} nodes.\n{graph}", graph.nodes().len());

    let grouped = compiler.optimise(&graph)?;
    println!("# After the passes: {} kernels.\n{grouped}", grouped.nodes().len());
    Ok(())
}
