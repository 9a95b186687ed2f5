//! The demo: each example model is compiled ahead of time, run on its held-out images, and timed fused and unfused.

use std::process::Command;

use crate::Result;
use crate::process::{self, cargo};
use crate::setup;

const MODELS: &[&str] = &["digits_cnn", "digits_lstm", "digits_vit"];

/// Prints the accuracy of every model, then the latency tables.
pub(crate) fn run() -> Result {
    setup::run()?;
    process::run(&mut cargo("build --release --bins --examples"))?;
    for name in MODELS {
        process::run(compile_and_run().arg(path(name)))?;
    }
    for name in MODELS {
        process::run(egret().args(["compare", &path(name), "--dim", "batch=1"]))?;
    }
    Ok(())
}

/// The example that compiles a model from Rust and measures its accuracy on the images beside it.
fn compile_and_run() -> Command {
    cargo("run --release --quiet --example 01_compile_and_run --")
}

fn egret() -> Command {
    cargo("run --release --quiet --bin egret --")
}

fn path(model: &str) -> String {
    format!("examples/models/{model}.onnx")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_are_there() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for model in MODELS {
            assert!(root.join(path(model)).is_file(), "{model}");
        }
    }
}
