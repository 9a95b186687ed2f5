//! Products by warpgroups: operands that lie along `k` and across it, packed ones, convolutions; tiles of both widths.

use super::models::{emulated_code, lowered};
use super::*;
use crate::testing::{compare, inputs};
use egret_ir::{DType, eval, text};

/// Of `y` the second operand is read where it lies, of `u` it is packed when the kernel runs, of `z` when it is compiled.
const PRODUCTS: &str = "graph g(x: half[M, K], w: half[K, 120], v: half[120, K], r: f32[120]) {
    const p: half[K, 120] = random(1)
    a = cast[to = f32](x)
    b = cast[to = f32](w)
    c = cast[to = f32](v)
    d = cast[to = f32](p)
    t = transpose[perm = [1, 0]](c)
    y = matmul(a, b)
    u = matmul(a, t)
    h = matmul(a, d)
    s = add(h, r)
    z = relu(s)
    return y, u, z
}";

/// The first operand lies across `k`, and rows are those of batches.
const TURNED: &str = "graph g(x: half[N, 40, 64], w: half[N, 40, 128]) {
    a = cast[to = f32](x)
    b = cast[to = f32](w)
    t = transpose[perm = [0, 2, 1]](a)
    y = matmul(t, b)
    z = cast[to = half](y)
    return z
}";

const CONVOLUTION: &str = "graph g(x: half[N, 9, 8, 16]) {
    const w: half[3, 3, 16, 128] = random(1)
    a = cast[to = f32](x)
    b = cast[to = f32](w)
    c = conv[stride = [2, 1], pad = [0, 0, 0, 0], dilation = [1, 1], layout = last](a, b)
    z = cast[to = half](c)
    return z
}";

/// So many tiles that they are as wide as they can be.
const WIDE: &str = "graph g(x: half[4096, 24], w: half[24, 512]) {
    a = cast[to = f32](x)
    b = cast[to = f32](w)
    y = matmul(a, b)
    return y
}";

/// The PTX of a graph that is right.
fn right(source: &str, dims: &[(&str, i64)]) -> String {
    let graph = text::parse(source).unwrap_or_else(|e| panic!("{source}\n{e}"));
    let inputs = inputs(&graph, &dims.iter().map(|(name, n)| ((*name).into(), *n)).collect()).unwrap();
    let expected = eval::eval(&graph, &inputs).unwrap();
    let program = lowered(&crate::testing::as_kernel(&graph).unwrap());
    let code = compile(&program.kernels, &Target::named("cuda:sm_90a").unwrap()).unwrap();
    let found = emulated_code(&program, &code, &inputs, 1).unwrap_or_else(|e| panic!("{source}\n{e}\n{}", code.ptx));
    compare(&expected, &found).unwrap_or_else(|e| panic!("{source}\n{e}"));
    code.ptx
}

#[track_caller]
fn by_groups(source: &str, dims: &[(&str, i64)], shape: &str) {
    for dtype in [DType::BF16, DType::F16] {
        let ptx = right(&source.replace("half", dtype.name()), dims);
        assert!(ptx.contains(&format!("wgmma.mma_async.sync.aligned.{shape}.f32.{}", dtype.name())), "{ptx}");
        assert!(!ptx.contains("mma.sync"), "{ptx}");
    }
}

#[test]
fn operands_lie_in_any_way() {
    for (m, k) in [(1, 16), (130, 72), (64, 320)] {
        by_groups(&PRODUCTS.replace('K', &k.to_string()), &[("M", m)], "m64n128k16");
    }
    by_groups(TURNED, &[("N", 3)], "m64n128k16");
}

#[test]
fn convolutions_are_products() {
    by_groups(CONVOLUTION, &[("N", 2)], "m64n128k16");
}

#[test]
fn many_tiles_are_wide() {
    let ptx = right(&WIDE.replace("half", "bf16"), &[]);
    assert!(ptx.contains("m64n256k16"), "{ptx}");
}

/// Operands that are packed, when it is compiled or runs, come by bulk copies where slices are whole; nothing else does.
#[test]
fn packed_weights_come_by_bulk_copies() {
    for (k, copies) in [(320, 2), (72, 0)] {
        let ptx = right(&PRODUCTS.replace("half", "f16").replace('K', &k.to_string()), &[("M", 70)]);
        assert_eq!(ptx.matches("cp.async.bulk").count(), copies, "{ptx}");
    }
    let wide =
        WIDE.replace("half", "bf16").replace(", w: bf16[24, 512]) {", ") {\n const w: bf16[64, 512] = random(1)").replace("24]", "64]");
    let ptx = right(&wide, &[]);
    assert!(ptx.contains("m64n256k16") && ptx.contains("cp.async.bulk"), "{ptx}");
}

/// Operands that cannot be copied by 16 bytes, types that are not narrow or two, few columns, other GPUs.
#[test]
fn the_rest_is_for_warps() {
    let product = |a: &str, b: &str, k: i64, n: i64| {
        format!(
            "graph g(x: {a}[M, {k}], w: {b}[{k}, {n}]) {{ a = cast[to = f32](x)\n b = cast[to = f32](w)\n y = matmul(a, b)\n return y }}"
        )
    };
    for source in [product("bf16", "bf16", 20, 128), product("bf16", "f16", 64, 128), product("bf16", "bf16", 64, 64)] {
        assert!(!right(&source, &[("M", 40)]).contains("wgmma"), "{source}");
    }
    let kernels = lowered(&text::parse(&product("bf16", "bf16", 64, 128)).unwrap()).kernels;
    let others = Target::gpus().iter().filter(|name| **name != "cuda:sm_90a");
    others.for_each(|name| assert!(!compile(&kernels, &Target::named(name).unwrap()).unwrap().ptx.contains("wgmma"), "{name}"));
}
