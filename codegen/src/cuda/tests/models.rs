//! Graphs through lowering, PTX and the emulator against the reference evaluator, op by op and as one kernel.

use super::*;
use crate::interpret::run_with;
use crate::plan::{self, Program};
use crate::testing::{as_kernel, compare, inputs};
use egret_ir::{Graph, Tensor, eval, text};

/// A graph with numbers for its symbols.
type Case = (&'static str, &'static [(&'static str, i64)]);

/// Every template, at sizes around the edges of warps, blocks and tiles.
const CASES: &[Case] = &[
    ("graph g(x: f32[N, 8], y: f32[8]) { a = mul(x, y)\n b = tanh(a)\n return b }", &[("N", 37)]),
    ("graph g(x: f32[5, 7], y: f32[5, 1]) { a = add(x, y)\n b = relu(a)\n return b }", &[]),
    ("graph g(x: f32[3, 40, 5]) { y = transpose[perm=[2, 0, 1]](x)\n return y }", &[]),
    ("graph g(x: f32[4, 3], y: f32[4, 5]) { z = concat[axis=1](x, y)\n return z }", &[]),
    ("graph g(t: f32[11, 12], i: i64[N]) { y = gather[axis=0](t, i)\n return y }", &[("N", 9)]),
    ("graph g(x: f16[33, 4]) { y = exp(x)\n return y }", &[]),
    ("graph g(x: bf16[33, 3]) { y = sigmoid(x)\n return y }", &[]),
    ("graph g(x: f64[9]) { y = erf(x)\n return y }", &[]),
    ("graph g(x: f32[3, 31]) { y = softmax[axes=[1]](x)\n return y }", &[]),
    ("graph g(x: f32[10, 128]) { y = softmax[axes=[1]](x)\n return y }", &[]),
    ("graph g(x: f32[3, 1025]) { y = softmax[axes=[1]](x)\n return y }", &[]),
    ("graph g(x: f32[2, 4096]) { y = softmax[axes=[1]](x)\n return y }", &[]),
    ("graph g(x: f32[N, M]) { y = softmax[axes=[1]](x)\n return y }", &[("N", 5), ("M", 70)]),
    ("graph g(x: f16[3, 1030]) { y = softmax[axes=[1]](x)\n return y }", &[]),
    ("graph g(x: f64[3, 1030]) { y = reduce_sum[axes=[1]](x)\n return y }", &[]),
    ("graph g(x: i64[7, 65]) { y = reduce_max[axes=[1]](x)\n return y }", &[]),
    ("graph g(x: i64[2, 1500]) { y = reduce_sum[axes=[1]](x)\n return y }", &[]),
    ("graph g(x: f32[65, 7]) { y = reduce_mean[axes=[0]](x)\n return y }", &[]),
    ("graph g(x: f32[5, 3], w: f32[3, 10]) { y = matmul(x, w)\n return y }", &[]),
    ("graph g(x: f32[64, 16], w: f32[16, 64]) { y = matmul(x, w)\n return y }", &[]),
    ("graph g(x: f32[65, 17], w: f32[17, 66]) { y = matmul(x, w)\n z = tanh(y)\n return z }", &[]),
    ("graph g(x: f32[2, N, 33], w: f32[2, 33, 20]) { y = matmul(x, w)\n return y }", &[("N", 70)]),
    (
        "graph g(x: f32[N, 20], u: f32[20, 70], v: f32[20, 33]) {
            q = matmul(x, u)
            k = matmul(x, v)
            t = transpose[perm=[1, 0]](k)
            return q, t
        }",
        &[("N", 70)],
    ),
];

/// Attention of many queries and of few, with extents around those of tiles; `k` and `v` are shared by two heads of queries.
const ATTENTION: &str = "graph g(q: f32[1, 2, M, 20], k: f32[1, 1, N, 20], v: f32[1, 1, N, 33], m: f32[1, 1, 1, N]) {
    x = attention[scale = 0.5](q, k, v, m)
    y = attention[scale = 0.5, causal = true](q, k, v)
    z = tanh(y)
    return x, z
}";

/// More columns than a block does, of which the last tile is not whole.
const WIDE: &str = "graph g(q: f32[M, 8], k: f32[N, 8], v: f32[N, 200]) { y = attention[scale = 0.5](q, k, v)\n return y }";

/// Both ways that keys can lie, and a mask of truth values; a number of keys that is a multiple of tiles.
const TURNED: &str = "graph g(q: f32[3, 9, 16], k: f32[3, 16, 128], v: f32[3, 128, 64], m: bool[9, 128]) {
    t = transpose[perm = [0, 2, 1]](k)
    y = attention[scale = 1.0](q, t, v, m)
    return y
}";

const RECURRENT: &str = "graph g(x: f32[T, B, 5], h: f32[B, 6], c: f32[B, 6]) {
    const wl: f32[24, 5] = random(1)
    const rl: f32[24, 6] = random(2)
    const bl: f32[48] = random(3)
    const wg: f32[18, 6] = random(4)
    const rg: f32[18, 6] = random(5)
    const bg: f32[36] = random(6)
    const wr: f32[6, 6] = random(7)
    const rr: f32[6, 6] = random(8)
    const br: f32[12] = random(9)
    y, s, t = lstm(x, wl, rl, bl, h, c)
    g, u = gru[direction = reverse, linear_before_reset = true](y, wg, rg, bg, h)
    p, w = gru(g, wg, rg, bg, u)
    r, v = rnn[activation = relu](p, wr, rr, br, w)
    z = tanh(t)
    return z, r, v
}";

/// A result of one sum, and one of few rows and many columns: summed by all threads of a block.
const NARROW: &str = "graph g(x: f32[2, K], w: f32[K, 70], u: f32[K, 1], v: f32[2, K, 8]) {
    y = matmul(x, w)
    z = matmul(x, u)
    r = reshape[shape = [2, 1, K]](x)
    s = matmul(r, v)
    return y, z, s
}";

/// Runs a program in the emulator.
fn emulated(program: &Program, inputs: &[Tensor], seed: u64) -> Result<Vec<Tensor>, String> {
    emulated_code(program, &compile(&program.kernels, &target()).map_err(|e| e.to_string())?, inputs, seed)
}

/// Runs the code of a program in the emulator.
pub(super) fn emulated_code(program: &Program, code: &Code, inputs: &[Tensor], seed: u64) -> Result<Vec<Tensor>, String> {
    let device = Device::new(code, seed)?;
    run_with(program, inputs, &mut |i, sizes, held| device.run(i, &program.kernels[i], sizes, held).map(drop))
}

pub(super) fn agrees(source: &str, dims: &[(&str, i64)]) -> Result<(), String> {
    let graph = text::parse(source).map_err(|e| e.to_string())?;
    let bindings: Bindings = dims.iter().map(|(name, n)| ((*name).into(), *n)).collect();
    let inputs = inputs(&graph, &bindings)?;
    let expected = eval::eval(&graph, &inputs)?;
    for (seed, graph) in (1..).zip([&as_kernel(&graph)?, &graph]) {
        compare(&expected, &emulated(&lowered(graph), &inputs, seed)?)?;
    }
    Ok(())
}

/// A graph as kernels for the GPU.
pub(super) fn lowered(graph: &Graph) -> Program {
    plan::build(graph, &target(), &|_, _| {}).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_template_agrees_with_the_evaluator() {
    for (source, dims) in CASES {
        agrees(source, dims).unwrap_or_else(|e| panic!("{source}\n{e}"));
    }
}

#[test]
fn weights_come_packed() {
    let source = "graph g(x: f32[N, 20]) {
        const w: f32[20, 70] = random(1)
        const b: f32[70] = random(2)
        h = matmul(x, w)
        s = add(h, b)
        y = relu(s)
        return y
    }";
    [1, 16, 17, 64, 130].iter().for_each(|&n| agrees(source, &[("N", n)]).unwrap_or_else(|e| panic!("{n}: {e}")));
}

#[test]
fn convolutions_pooling_and_borders() {
    let source = "graph g(x: f32[2, 9, 8, 5], w: f32[3, 3, 5, 12]) {
        const zero: f32[] = 0.0
        q = pad[low = [0, 1, 0, 0], high = [0, 1, 1, 0]](x, zero)
        c = conv[stride = [2, 1], pad = [0, 0, 0, 0], dilation = [1, 1], layout = last](q, w)
        r = relu(c)
        p = pad[low = [0, 1, 1, 0], high = [0, 1, 1, 0]](r, zero)
        m = max_pool[kernel = [3, 3], stride = [1, 1], pad = [0, 0, 0, 0], dilation = [1, 1], layout = last](p)
        return p, m
    }";
    let graph = text::parse(source).unwrap();
    let inputs = inputs(&graph, &Bindings::new()).unwrap();
    let expected = eval::eval(&graph, &inputs).unwrap();
    let found = emulated(&lowered(&graph), &inputs, 3).unwrap();
    compare(&expected, &found).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn attention_of_any_shape() {
    let few = [(1, 1), (8, 70), (1, 0), (0, 5)];
    let many = [(9, 64), (66, 70), (64, 3)];
    for (m, n) in [&few[..], &many].concat() {
        for source in [ATTENTION, WIDE] {
            // With numbers and with symbols: of known few rows the warps share the keys.
            let known = source.replace('M', &m.to_string()).replace('N', &n.to_string());
            agrees(&known, &[]).unwrap_or_else(|e| panic!("{m}, {n}: {e}"));
        }
    }
    for (m, n) in [(1, 7), (17, 65), (3, 0)] {
        agrees(ATTENTION, &[("M", m), ("N", n)]).unwrap_or_else(|e| panic!("{m}, {n} as symbols: {e}"));
    }
    agrees(TURNED, &[]).unwrap();
}

#[test]
fn recurrences_of_any_length() {
    for (t, b) in [(1, 1), (4, 3), (0, 2), (2, 0)] {
        agrees(RECURRENT, &[("T", t), ("B", b)]).unwrap_or_else(|e| panic!("{t}, {b}: {e}"));
    }
}

#[test]
fn products_of_few_rows() {
    let source = "graph g(x: f32[M, 33]) {
        const w: f32[33, 70] = random(1)
        const b: f32[70] = random(2)
        h = matmul(x, w)
        s = add(h, b)
        y = relu(s)
        return y
    }";
    for m in [1, 2, 3, 4, 0] {
        agrees(&source.replace('M', &m.to_string()), &[]).unwrap_or_else(|e| panic!("{m}: {e}"));
    }
    for k in [0, 1, 31, 129, 1000] {
        agrees(NARROW, &[("K", k)]).unwrap_or_else(|e| panic!("{k}: {e}"));
    }
}

#[test]
fn what_has_no_lowering_is_named() {
    let source = "graph g(x: f32[1, 1, 3], w: f32[16000, 3], r: f32[16000, 4000], b: f32[32000], h: f32[1, 4000], c: f32[1, 4000]) {
        y, s, t = lstm(x, w, r, b, h, c)
        return y
    }";
    let error = compile(&lowered(&text::parse(source).unwrap()).kernels, &target()).unwrap_err().to_string();
    let expected = "there is no PTX for a kernel yet:\na recurrent layer whose states and sums do not fit 48 KB of shared memory: (";
    assert!(error.starts_with(expected), "{error}");
}
