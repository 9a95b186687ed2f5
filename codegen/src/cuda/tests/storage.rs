//! Values stored in 16 bits: every template widens what it reads, computes in f32 and rounds what it writes.

use super::models::{agrees, lowered};
use super::*;
use egret_ir::{DType, text};

/// Graphs over a type `half`, with numbers for their symbols: one kernel each, which reads it as it lies.
const IN_PLACE: &[(&str, &[(&str, i64)])] = &[
    // 8, 4 and single neighbours; what is only moved.
    (
        "graph g(x: half[5, 24], y: half[24]) { a = cast[to = f32](x)\n b = cast[to = f32](y)\n c = mul(a, b)\n z = cast[to = half](c)\n return z }",
        &[],
    ),
    ("graph g(x: half[N, 12]) { a = cast[to = f32](x)\n b = tanh(a)\n return b }", &[("N", 9)]),
    ("graph g(x: f32[7, 9]) { a = exp(x)\n z = cast[to = half](a)\n return z }", &[]),
    ("graph g(x: half[6, 5, 8]) { z = transpose[perm = [1, 0, 2]](x)\n return z }", &[]),
    // A warp to a row, a block to a row, a thread to a row.
    ("graph g(x: half[9, 40]) { a = cast[to = f32](x)\n b = softmax[axes = [1]](a)\n z = cast[to = half](b)\n return z }", &[]),
    ("graph g(x: half[2, 1500]) { a = cast[to = f32](x)\n b = softmax[axes = [1]](a)\n z = cast[to = half](b)\n return z }", &[]),
    ("graph g(x: half[40, 9]) { a = cast[to = f32](x)\n z = reduce_sum[axes = [0]](a)\n return z }", &[]),
    (
        "graph g(x: half[6, 72], s: f32[72], b: f32[72]) {
            a = cast[to = f32](x)
            n = layer_norm[axes = [1], epsilon = 0.00001](a, s, b)
            z = cast[to = half](n)
            return z
        }",
        &[],
    ),
    (MATMUL, &[("M", 70)]),
    (
        "graph g(x: half[2, 17, 8], v: half[2, 8, 20]) {
            a = cast[to = f32](x)
            b = cast[to = f32](v)
            z = matmul(a, b)
            return z
        }",
        &[],
    ),
    (
        "graph g(x: half[2, 7, 6, 5]) {
            const w: half[3, 3, 5, 12] = random(1)
            a = cast[to = f32](x)
            b = cast[to = f32](w)
            c = conv[stride = [2, 1], pad = [0, 0, 0, 0], dilation = [1, 1], layout = last](a, b)
            z = cast[to = half](c)
            return z
        }",
        &[],
    ),
    (ATTENTION, &[("M", 9)]),
    (ATTENTION, &[("M", 70)]),
];

const MATMUL: &str = "graph g(x: half[M, 33]) {
    const w: half[33, 70] = random(1)
    const b: f32[70] = random(2)
    a = cast[to = f32](x)
    v = cast[to = f32](w)
    h = matmul(a, v)
    s = add(h, b)
    r = relu(s)
    z = cast[to = half](r)
    return z
}";

const ATTENTION: &str = "graph g(q: half[2, M, 20], k: half[2, 40, 20], v: half[2, 40, 24], m: f32[40]) {
    a = cast[to = f32](q)
    b = cast[to = f32](k)
    c = cast[to = f32](v)
    y = attention[scale = 0.25](a, b, c, m)
    z = cast[to = half](y)
    return z
}";

/// The input and the weights of a layer, whose states are f32.
const LAYER: &str = "graph g(x: half[4, 3, 5], h: f32[3, 6], c: f32[3, 6]) {
    const w: half[24, 5] = random(1)
    const r: half[24, 6] = random(2)
    const b: f32[48] = random(3)
    a = cast[to = f32](x)
    u = cast[to = f32](w)
    v = cast[to = f32](r)
    y, s, t = lstm(a, u, v, b, h, c)
    return y, s, t
}";

const TYPES: [DType; 2] = [DType::BF16, DType::F16];

fn over(source: &str, dtype: DType) -> String {
    source.replace("half", dtype.name())
}

#[test]
fn every_template_widens_and_rounds() {
    for (dtype, (source, dims)) in TYPES.into_iter().flat_map(|dtype| IN_PLACE.iter().map(move |case| (dtype, case))) {
        let source = over(source, dtype);
        agrees(&source, dims).unwrap_or_else(|e| panic!("{source}\n{e}"));
        let kernels = lowered(&crate::testing::as_kernel(&text::parse(&source).unwrap()).unwrap()).kernels;
        assert_eq!(kernels.len(), 1, "{source}");
        assert!(kernels[0].buffers.iter().any(|b| b.dtype == dtype), "{}", kernels[0]);
    }
}

#[test]
fn few_rows_and_operands_of_two_types() {
    for dtype in TYPES {
        for (rows, source) in [1, 3].into_iter().flat_map(|rows| [(rows, MATMUL), (rows, ATTENTION)]) {
            let source = over(source, dtype).replace('M', &rows.to_string());
            agrees(&source, &[]).unwrap_or_else(|e| panic!("{source}\n{e}"));
        }
        let mixed = over("graph g(x: f32[20, 33], w: half[33, 9]) { v = cast[to = f32](w)\n z = matmul(x, v)\n return z }", dtype);
        agrees(&mixed, &[]).unwrap_or_else(|e| panic!("{mixed}\n{e}"));
    }
}

#[test]
fn recurrent_layers_read_what_they_multiply() {
    for dtype in TYPES {
        let source = over(LAYER, dtype);
        agrees(&source, &[]).unwrap_or_else(|e| panic!("{source}\n{e}"));
        let kernels = lowered(&crate::testing::as_kernel(&text::parse(&source).unwrap()).unwrap()).kernels;
        let recur = kernels.iter().find_map(|k| if let Body::Recur(r) = &k.body { Some((k, r)) } else { None });
        let (kernel, recur) = recur.unwrap();
        assert_eq!([recur.weights, recur.y].map(|b| kernel.buffers[b.0].dtype), [dtype, DType::F32]);
        assert_eq!(kernels.len(), 2, "the projection and the steps");
    }
}

/// A product of f32 is three of TF32, or one where that may be rounded.
#[test]
fn tf32_takes_one_product_for_three() {
    let kernels = lowered(&text::parse("graph g(x: f32[128, 64], w: f32[64, 128]) { y = matmul(x, w)\n return y }").unwrap()).kernels;
    let products = |target: &Target| compile(&kernels, target).unwrap().ptx.matches("mma.sync").count();
    let exact = products(&target());
    assert!(exact > 0);
    assert_eq!(products(&target().with_tf32().unwrap()) * 3, exact);
}

/// Rounding is one instruction where there is one.
#[test]
fn bf16_is_rounded_by_an_instruction() {
    let source = over("graph g(x: f32[64]) { z = cast[to = half](x)\n return z }", DType::BF16);
    let kernels = lowered(&text::parse(&source).unwrap()).kernels;
    let ptx = |gpu: &str| compile(&kernels, &Target::named(gpu).unwrap()).unwrap().ptx;
    assert!(ptx("cuda:sm_80").contains("cvt.rn.bf16"), "{}", ptx("cuda:sm_80"));
    assert!(!ptx("cuda:sm_75").contains("cvt.rn.bf16"), "{}", ptx("cuda:sm_75"));
}
