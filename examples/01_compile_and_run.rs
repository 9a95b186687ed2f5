//! Compiles a trained model ahead of time and runs it on images it has never seen.
//!
//! ```text
//! $ cargo run --release --example 01_compile_and_run -- examples/models/digits_cnn.onnx
//! digits_cnn    accuracy 100.00 %   largest difference to the expected logits 2.4e-6
//! ```

use egret::{Compiler, Tensor, npy};
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = PathBuf::from(std::env::args().nth(1).unwrap_or("examples/models/digits_cnn.onnx".into()));
    let images = npy::read(model.with_file_name("images.npy"))?; //     f32[360, 1, 8, 8]
    let labels = npy::read(model.with_file_name("labels.npy"))?; //     i64[360]
    let expected = npy::read(model.with_extension("expected.npy"))?; // f32[360, 10]

    let artifact = Compiler::new().dim("batch", images.shape()[0] as i64).compile(&model)?;
    let mut session = artifact.session(1)?;
    let logits = session.run(&[("images", images.view())])?.remove(0);

    println!(
        "{:<12}  accuracy {:6.2} %   largest difference to the expected logits {:.1e}",
        model.file_stem().unwrap_or_default().display(),
        100.0 * accuracy(&logits, &labels)?,
        largest_difference(&logits, &expected)?,
    );
    Ok(())
}

/// The share of rows of `logits` whose largest element stands at the row's label.
fn accuracy(logits: &Tensor, labels: &Tensor) -> Result<f64, egret::Error> {
    let (rows, labels) = (logits.as_slice::<f32>()?.chunks(logits.shape()[1]), labels.as_slice::<i64>()?);
    let largest = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let right = rows.zip(labels).filter(|(row, label)| largest(row) == Some(**label as usize)).count();
    Ok(right as f64 / labels.len() as f64)
}

fn largest_difference(one: &Tensor, other: &Tensor) -> Result<f32, egret::Error> {
    let pairs = one.as_slice::<f32>()?.iter().zip(other.as_slice::<f32>()?);
    Ok(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
}
