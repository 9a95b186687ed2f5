//! Whole models as PTX, kernel by kernel in the emulator, against the reference evaluator.

use egret::codegen::cuda::{compile, emu::Device};
use egret::codegen::interpret::run_with;
use egret::codegen::plan;
use egret::ir::random::random;
use egret::ir::{Bindings, Tensor, eval};
use egret::{Compiler, Graph};
use std::path::Path;

/// Most that an output may differ, relative to one more than its size: as for compiled code.
const TOLERANCE: f64 = 1e-4;

/// Runs a model of `examples/models` on random inputs.
fn check(name: &str, dims: &[(&str, i64)]) {
    let mut compiler = Compiler::new().target("cuda:sm_80");
    for (dim, extent) in dims {
        compiler = compiler.dim(dim, *extent);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models").join(name);
    let graph: Graph = compiler.import(path).unwrap().graph;
    let bindings = Bindings::new();
    let random = |(seed, p): (usize, &egret::ir::ValueId)| random(seed as u64 + 1, &graph.ty(*p).bind(&bindings)).unwrap();
    let inputs: Vec<Tensor> = graph.params().iter().enumerate().map(random).collect();
    let expected = eval::eval(&graph, &inputs).unwrap();
    let grouped = compiler.optimise(&graph).unwrap();
    let program = plan::build(&grouped, &compiler.chosen_target().unwrap(), &|_, _| {}).unwrap();
    let code = compile(&program.kernels, &compiler.chosen_target().unwrap()).unwrap_or_else(|e| panic!("{e}"));
    let device = Device::new(&code, 1).unwrap();
    let found = run_with(&program, &inputs, &mut |i, sizes, held| device.run(i, &program.kernels[i], sizes, held).map(drop)).unwrap();
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(expected.ty(), found.ty());
        let apart = |(x, y): (f64, f64)| (x - y).abs() / (1.0 + x.abs());
        let pairs = expected.elements().zip(found.elements()).map(|(x, y)| (x.as_f64(), y.as_f64()));
        let worst = pairs.map(apart).fold(0.0, f64::max);
        assert!(worst <= TOLERANCE, "{name}: {worst}");
    }
}

#[test]
fn digits_cnn_runs_in_the_emulator() {
    check("digits_cnn.onnx", &[("batch", 3)]);
}
