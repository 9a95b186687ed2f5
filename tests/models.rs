//! The three example models, end to end: compiled fused and unfused, run on one and two threads, against stored outputs.
//!
//! The outputs were computed by ONNX Runtime without graph optimisations; see `examples/models/README.md`.

use egret::{Artifact, Compiler, Precision, Tensor, npy};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Largest difference to the stored outputs, over their standard deviation.
const TOLERANCE: f64 = 1e-4;

/// The same in bf16, of which a value has 8 bits: a few roundings of 2^-9, grown by the layers behind them.
const NARROW_TOLERANCE: f64 = 0.1;

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models").join(name)
}

fn compiler(fuse: bool) -> Compiler {
    Compiler::new().target("native").fuse(fuse)
}

fn run(artifact: &Artifact, threads: usize, images: &Tensor) -> Tensor {
    let mut session = artifact.session(threads).unwrap();
    session.run(&[("images", images.view())]).unwrap().remove(0)
}

/// Largest difference of two elements over the standard deviation of the expected ones.
fn error_over_std(expected: &Tensor, found: &Tensor) -> f64 {
    assert_eq!(expected.shape(), found.shape());
    let (expected, found) = (expected.as_slice::<f32>().unwrap(), found.as_slice::<f32>().unwrap());
    let count = expected.len() as f64;
    let mean = expected.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let variance = expected.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
    let differences = expected.iter().zip(found).map(|(a, b)| f64::from((a - b).abs()));
    // `f64::max` would pass over a NaN.
    differences.fold(0.0, |most, d| if d <= most { most } else { d }) / variance.sqrt()
}

fn check(name: &str) {
    let images = npy::read(model("images.npy")).unwrap();
    let labels = npy::read(model("labels.npy")).unwrap();
    let expected = npy::read(model(&format!("{name}.expected.npy"))).unwrap();
    for fuse in [true, false] {
        // Specialised to the batch, and with the batch left free.
        for compiler in [compiler(fuse).dim("batch", 360), compiler(fuse)] {
            let artifact = compiler.compile(model(&format!("{name}.onnx"))).unwrap();
            let logits = run(&artifact, 1, &images);
            let error = error_over_std(&expected, &logits);
            assert!(error <= TOLERANCE, "{name}, fused: {fuse}: {error:e}");
            assert!(accuracy(&logits, &labels) > 0.95, "{name}, fused: {fuse}");
            assert!(run(&artifact, 2, &images) == logits, "{name}, fused: {fuse}: two threads give other bits");
        }
    }
}

fn accuracy(logits: &Tensor, labels: &Tensor) -> f64 {
    let rows = logits.as_slice::<f32>().unwrap().chunks(10);
    let labels = labels.as_slice::<i64>().unwrap();
    let answer = |row: &[f32]| (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let right = rows.zip(labels).filter(|(row, label)| answer(row) == Some(**label as usize)).count();
    right as f64 / labels.len() as f64
}

#[test]
fn the_cnn_reads_digits() {
    check("digits_cnn");
}

#[test]
fn the_lstm_reads_digits() {
    check("digits_lstm");
}

#[test]
fn the_vision_transformer_reads_digits() {
    check("digits_vit");
}

#[test]
fn digits_are_read_in_bf16() {
    let (images, labels) = (npy::read(model("images.npy")).unwrap(), npy::read(model("labels.npy")).unwrap());
    for name in ["digits_cnn", "digits_lstm", "digits_vit"] {
        let expected = npy::read(model(&format!("{name}.expected.npy"))).unwrap();
        for compiler in [compiler(true).dim("batch", 360), compiler(false).dim("batch", 360), compiler(true)] {
            let artifact = compiler.precision(Precision::Bf16).compile(model(&format!("{name}.onnx"))).unwrap();
            let logits = run(&artifact, 1, &images);
            let error = error_over_std(&expected, &logits);
            assert!(error > TOLERANCE, "{name}: nothing was rounded");
            assert!(error <= NARROW_TOLERANCE, "{name}: {error:e}");
            assert!(accuracy(&logits, &labels) > 0.95, "{name}");
            assert!(run(&artifact, 2, &images) == logits, "{name}: two threads give other bits");
        }
    }
}

#[test]
fn any_batch_gives_the_rows_of_the_whole() {
    let images = npy::read(model("images.npy")).unwrap();
    let pixels = images.as_slice::<f32>().unwrap();
    for name in ["digits_cnn", "digits_lstm", "digits_vit"] {
        let artifact = compiler(true).compile(model(&format!("{name}.onnx"))).unwrap();
        let mut session = artifact.session(2).unwrap();
        for batch in [1, 2, 7, 33, 1] {
            let images = Tensor::from_slice(&[batch, 1, 8, 8], &pixels[..batch * 64]).unwrap();
            let logits = session.run(&[("images", images.view())]).unwrap().remove(0);
            let expected = npy::read(model(&format!("{name}.expected.npy"))).unwrap();
            let expected = Tensor::from_slice(&[batch, 10], &expected.as_slice::<f32>().unwrap()[..batch * 10]).unwrap();
            let error = error_over_std(&expected, &logits);
            assert!(error <= TOLERANCE, "{name}, batch {batch}: {error:e}");
        }
    }
}

#[test]
fn the_same_compile_gives_the_same_bytes() {
    for name in ["digits_cnn", "digits_lstm", "digits_vit"] {
        for fuse in [true, false] {
            let compile = || compiler(fuse).compile(model(&format!("{name}.onnx"))).unwrap();
            assert!(compile().bytes() == compile().bytes(), "{name}, fused: {fuse}");
        }
    }
}

#[test]
fn fusion_leaves_fewer_kernels() {
    for name in ["digits_cnn", "digits_lstm", "digits_vit"] {
        let steps = |fuse| compiler(fuse).compile(model(&format!("{name}.onnx"))).unwrap().plan().steps.len();
        assert!(steps(true) < steps(false), "{name}: {} fused, {} unfused", steps(true), steps(false));
    }
}

/// The command in `EGRET_RUN_AARCH64` runs artifacts for AArch64, such as `qemu-aarch64-static -L /usr/aarch64-linux-gnu egret-run`.
/// Without it the models are compiled only, and the test says so.
#[test]
fn digits_are_read_on_aarch64() {
    let runner = std::env::var("EGRET_RUN_AARCH64").ok();
    if runner.is_none() {
        eprintln!("not run: EGRET_RUN_AARCH64 names no command that runs artifacts for AArch64");
    }
    let folder = std::env::temp_dir().join(format!("egret-aarch64-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["digits_cnn", "digits_lstm", "digits_vit"] {
        let artifact = folder.join("model.egret");
        Compiler::new().target("aarch64").compile(model(&format!("{name}.onnx"))).unwrap().write(&artifact).unwrap();
        let Some(runner) = &runner else { continue };
        let mut words = runner.split_whitespace();
        let mut run = Command::new(words.next().expect("the command names a program"));
        run.args(words).arg(&artifact).arg("--output-dir").arg(&folder);
        run.arg("--input").arg(format!("images={}", model("images.npy").display()));
        let ran = run.output().unwrap();
        assert!(ran.status.success(), "{name}: {}", String::from_utf8_lossy(&ran.stderr));
        let expected = npy::read(model(&format!("{name}.expected.npy"))).unwrap();
        let error = error_over_std(&expected, &npy::read(folder.join("output_0.npy")).unwrap());
        assert!(error <= TOLERANCE, "{name}: {error:e}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A matrix of four bits with scales for blocks of 64 rows: 4.5 bits a weight where f32 has 32.
#[test]
fn weights_of_four_bits_take_a_seventh_of_the_file() {
    let source = "graph g(x: f32[N, 512]) {
        const q: i4[1024, 512] = random(1)
        const scale: f32[1024, 8, 1] = random(2)
        f = cast[to = f32](q)
        b = broadcast[shape = [1024, 8, 64]](scale)
        s = reshape[shape = [1024, 512]](b)
        v = mul(f, s)
        w = transpose[perm = [1, 0]](v)
        y = matmul(x, w)
        return y
    }";
    for target in ["x86-64-v3", "x86-64-v4", "aarch64"] {
        let bytes = |disabled: &[&str]| {
            let compiler = disabled.iter().fold(Compiler::new().target(target), |compiler, pass| compiler.disable(pass));
            compiler.compile_graph(&egret::parse_text("bits", source).unwrap()).unwrap().bytes().len()
        };
        let (bits, floats) = (bytes(&[]), 1024 * 512 * 4);
        assert!(floats < bytes(&["blocks"]) && 6 * bits < floats && floats < 8 * bits, "{target}: {bits} bytes");
    }
}
