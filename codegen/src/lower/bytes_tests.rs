//! Products of bytes: which are taken four at a time, and that all are exact.

use crate::interpret::{kernels_text, run_interpreted};
use crate::plan;
use crate::target::Target;
use crate::testing::{as_kernel, run_compiled};
use egret_ir::{Bindings, DType, Element, Graph, Tensor, eval, text};

/// Checks a product of bytes, interpreted and as code for this machine, by products of bytes and without.
#[track_caller]
fn check(source: &str, dims: &[(&str, i64)], in_fours: bool) {
    let graph = as_kernel(&text::parse(source).unwrap()).unwrap();
    let bindings: Bindings = dims.iter().map(|(name, n)| ((*name).into(), *n)).collect();
    let inputs = bytes(&graph, &bindings);
    let expected = eval::eval(&graph, &inputs).unwrap();
    let with_bytes = Target::named("znver4").unwrap().with_bytes().unwrap();
    let without = Target::named("x86-64-v3").unwrap();
    for target in [&with_bytes, &without] {
        let program = plan::build(&graph, target, &|_, _| {}).unwrap();
        let text = kernels_text(&program);
        assert_eq!(text.contains(".quads["), in_fours && target.bytes, "{text}");
        assert_eq!(run_interpreted(&program, target.lanes, &inputs).unwrap(), expected, "interpreted for {}\n{text}", target.name);
    }
    let here = [Target::native().ok().and_then(|native| native.with_bytes()), Target::native().ok(), Some(without)];
    for target in here.into_iter().flatten().filter(Target::runs_here) {
        for threads in [1, 3] {
            let found = run_compiled(&graph, &target, threads, &inputs).unwrap();
            assert_eq!(found, expected, "compiled for {}, {threads} threads", target.name);
        }
    }
}

/// Numbers of all sizes for the parameters.
fn bytes(graph: &Graph, bindings: &Bindings) -> Vec<Tensor> {
    let tensor = |&param: &egret_ir::ValueId| {
        let shape = graph.ty(param).bind(bindings).static_dims().unwrap();
        let count: i128 = shape.iter().product::<usize>() as i128;
        Tensor::from_elements(DType::U8, shape, (0..count).map(|i| Element::Int((83 * i + 200) % 256)))
    };
    graph.params().iter().map(tensor).collect()
}

fn matmul(x: &str, w: &str) -> String {
    product(x, w, "random(1)")
}

fn product(x: &str, w: &str, weights: &str) -> String {
    format!(
        "graph g(x: u8[{x}]) {{
            const w: i32[{w}] = {weights}
            const b: i32[] = 100
            a = cast[to = i32](x)
            y = matmul(a, w)
            z = add(y, b)
            return z
        }}"
    )
}

fn conv(x: &str, w: &str, attributes: &str) -> String {
    format!(
        "graph g(x: u8[{x}]) {{
            const w: i32[{w}] = random(1)
            a = cast[to = i32](x)
            c = conv[{attributes}, pad = [0, 0, 0, 0], layout = last](a, w)
            return c
        }}"
    )
}

#[test]
fn matrices() {
    // Rows of every length beyond a four.
    check(&matmul("5, 20", "20, 40"), &[], true);
    check(&matmul("5, 21", "21, 40"), &[], true);
    check(&matmul("13, 66", "66, 7"), &[], true);
    check(&matmul("3, 17, 3", "3, 33"), &[], true);
    check(&matmul("1, 9", "9, 100"), &[], true);
    check(&matmul("3, 5, 7", "3, 7, 18"), &[], true);
    check(&matmul("N, 21", "21, 40"), &[("N", 9)], true);
}

#[test]
fn sums_do_not_saturate() {
    check(&product("7, 300", "300, 40", "splat(-128)"), &[], true);
    check(&product("7, 300", "300, 40", "splat(127)"), &[], true);
    // A number below zero that all terms have, for which LLVM has a product of bytes of its own.
    check(&product("40, 16", "16, 1", "splat(-11)"), &[], false);
    check(&product("40, 300", "300, 1", "splat(-128)"), &[], false);
    // What no byte holds is a product of i32.
    check(&product("7, 30", "30, 40", "splat(128)"), &[], false);
}

#[test]
fn convolutions() {
    check(&conv("1, 11, 11, 3", "3, 3, 3, 20", "stride = [2, 2], dilation = [1, 1]"), &[], true);
    check(&conv("2, 9, 8, 5", "3, 2, 5, 16", "stride = [1, 1], dilation = [2, 3]"), &[], true);
    check(&conv("1, 6, 6, 8", "1, 1, 4, 6", "stride = [1, 1], dilation = [1, 1], group = 2"), &[], true);
    check(&conv("N, 7, 7, 6", "1, 1, 6, 33", "stride = [1, 1], dilation = [1, 1]"), &[("N", 2)], true);
    // Taps of one channel that lie apart.
    check(&conv("1, 9, 9, 1", "3, 3, 1, 20", "stride = [1, 1], dilation = [2, 2]"), &[], false);
}

#[test]
fn depthwise_convolutions() {
    let of = |stride: i64, dilation: i64, channels: i64| {
        format!("stride = [{stride}, {stride}], dilation = [{dilation}, {dilation}], group = {channels}")
    };
    check(&conv("1, 9, 9, 8", "3, 3, 1, 8", &of(1, 1, 8)), &[], false);
    check(&conv("2, 19, 17, 48", "3, 3, 1, 48", &of(1, 1, 48)), &[], false);
    check(&conv("1, 19, 17, 33", "3, 3, 1, 33", &of(2, 1, 33)), &[], false);
    check(&conv("1, 15, 30, 20", "5, 5, 1, 20", &of(1, 1, 20)), &[], false);
    check(&conv("1, 15, 30, 16", "7, 7, 1, 16", &of(1, 2, 16)), &[], false);
    check(&conv("1, 3, 40, 16", "1, 2, 1, 16", &of(1, 1, 16)), &[], false);
    check(&conv("N, 9, 9, 17", "3, 3, 1, 17", &of(1, 1, 17)), &[("N", 3)], false);
}
