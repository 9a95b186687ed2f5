//! The PTX of small kernels, and what kernels ask of the machine.

use super::models::lowered;
use super::*;
use egret_ir::{Tensor, text};

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
const NARROW_ATTENTION: &str = "graph g(q: bf16[2, 64, 64], k: bf16[2, 128, 64], v: bf16[2, 128, 64]) {
    a = cast[to = f32](q)
    b = cast[to = f32](k)
    c = cast[to = f32](v)
    y = attention[scale = 0.125](a, b, c)
    z = cast[to = bf16](y)
    return z
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
        ("attention of bf16", NARROW_ATTENTION),
        ("decode", DECODE),
        ("one row", ONE_ROW),
    ];
    insta::assert_snapshot!(cases.map(counted).concat());
}
