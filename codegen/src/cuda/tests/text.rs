//! The PTX of small kernels, what it asks of the machine, and what NVIDIA's assembler says of it.

use super::models::lowered;
use super::*;
use egret_ir::{Tensor, text};
use std::process::Command;

/// The kernels of a graph that is one kernel, with its inputs.
fn kernels(source: &str) -> (Vec<Kernel>, Vec<Tensor>) {
    let graph = text::parse(source).unwrap();
    let inputs = crate::testing::inputs(&graph, &Bindings::new()).unwrap();
    (lowered(&crate::testing::as_kernel(&graph).unwrap()).kernels, inputs)
}

const BIASED: &str = "graph g(x: f32[64, 128], b: f32[128]) { s = add(x, b)\n y = relu(s)\n return y }";
const SOFTMAX: &str = "graph g(x: f32[16, 128]) { y = softmax[axes=[1]](x)\n return y }";
const LONG_SOFTMAX: &str = "graph g(x: f32[4, 4096]) { y = softmax[axes=[1]](x)\n return y }";
const PRODUCT: &str = "graph g(x: f32[128, 64], w: f32[64, 128]) { y = matmul(x, w)\n return y }";

#[test]
fn ptx_of_an_elementwise_kernel() {
    insta::assert_snapshot!(compile(&kernels(BIASED).0, &target()).unwrap().ptx);
}

const ATTENTION: &str = "graph g(q: f32[2, 64, 64], k: f32[2, 128, 64], v: f32[2, 128, 64]) {
    y = attention[scale = 0.125](q, k, v)
    return y
}";
const DECODE: &str = "graph g(q: f32[2, 1, 64], k: f32[2, 128, 64], v: f32[2, 128, 64]) {
    y = attention[scale = 0.125](q, k, v)
    return y
}";
const ONE_ROW: &str = "graph g(x: f32[1, 512], w: f32[512, 128]) { y = matmul(x, w)\n return y }";

/// Sectors of global memory, wavefronts of shared memory and the mix of instructions: these say more of speed than any text.
#[test]
fn counters_of_templates() {
    let counted = |(name, source): (&str, &str)| {
        let (kernels, inputs) = kernels(source);
        let code = compile(&kernels, &target()).unwrap();
        let outputs = kernels[0].buffers.iter().skip(inputs.len()).map(|b| Memory::zeros(b.dtype, 128 * 128));
        let mut memory: Vec<Memory> = inputs.iter().map(Memory::of).chain(outputs).collect();
        let counters = Device::new(&code, 5).unwrap().run(0, &kernels[0], &Bindings::new(), &mut memory).unwrap();
        format!("{name}: {} blocks\n{counters}\n", code.launches[0].blocks)
    };
    let cases = [
        ("biased", BIASED),
        ("softmax", SOFTMAX),
        ("long softmax", LONG_SOFTMAX),
        ("product", PRODUCT),
        ("attention", ATTENTION),
        ("decode", DECODE),
        ("one row", ONE_ROW),
    ];
    insta::assert_snapshot!(cases.map(counted).concat());
}

/// The assembler of NVIDIA's Python wheel `nvidia-cuda-nvcc`, or what `PTXAS` names.
fn ptxas() -> Option<String> {
    let path = std::env::var("PTXAS").unwrap_or_else(|_| "ptxas".into());
    Command::new(&path).arg("--version").output().ok().filter(|o| o.status.success()).map(|_| path)
}

#[test]
fn ptxas_accepts_it_without_spills() {
    let Some(ptxas) = ptxas() else {
        eprintln!("skipped: there is no ptxas; set PTXAS to that of the Python package nvidia-cuda-nvcc");
        return;
    };
    let all: Vec<Kernel> = [BIASED, SOFTMAX, LONG_SOFTMAX, PRODUCT].iter().flat_map(|s| kernels(s).0).collect();
    let folder = std::env::temp_dir().join(format!("egret-ptxas-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for gpu in ["sm_75", "sm_80", "sm_90", "sm_120"] {
        let code = compile(&all, &Target::named(&format!("cuda:{gpu}")).unwrap()).unwrap();
        let (input, output) = (folder.join("kernels.ptx"), folder.join("kernels.cubin"));
        std::fs::write(&input, &code.ptx).unwrap();
        let run = Command::new(&ptxas).args(["-v", "-arch", gpu, "-o"]).arg(output).arg(&input).output().unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{gpu}: {said}");
        let spills = said.lines().filter(|l| l.contains("spill") && !l.contains("0 bytes spill stores, 0 bytes spill loads"));
        assert_eq!(spills.collect::<Vec<_>>(), Vec::<&str>::new(), "{gpu}");
        assert_eq!(said.matches("bytes spill stores").count(), all.len(), "{said}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}
