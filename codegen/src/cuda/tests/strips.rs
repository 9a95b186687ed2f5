//! Attention on tensor cores: lengths and heads around the edges of tiles, masks, shared heads, every type of elements.

use super::models::{agrees, lowered};
use super::*;
use egret_ir::{DType, text};

/// With a mask and causal, over heads of `D` channels and values of `E`.
const HEADS: &str = "graph g(q: f32[2, M, D], k: f32[2, N, D], v: f32[2, N, E], m: f32[M, N]) {
    x = attention[scale = 0.2](q, k, v, m)
    y = attention[scale = 0.2, causal = true](q, k, v)
    return x, y
}";

/// Two heads of queries for each of keys, whose operands lie between other heads, and an epilogue.
const SHARED: &str = "graph g(q: f32[M, 128], k: f32[N, 64], v: f32[N, 64], m: bool[1, N]) {
    r = reshape[shape = [M, 4, 32]](q)
    s = reshape[shape = [N, 2, 32]](k)
    t = reshape[shape = [N, 2, 32]](v)
    a = transpose[perm = [1, 0, 2]](r)
    b = transpose[perm = [1, 0, 2]](s)
    c = transpose[perm = [1, 0, 2]](t)
    e = reshape[shape = [2, 2, M, 32]](a)
    f = reshape[shape = [2, 1, N, 32]](b)
    g = reshape[shape = [2, 1, N, 32]](c)
    y = attention[scale = 0.2](e, f, g, m)
    z = tanh(y)
    return z
}";

/// Keys that lie along their positions, and operands of 16 bits.
const STORED: &str = "graph g(q: half[3, M, 40], k: half[3, 40, N], v: half[3, N, 64]) {
    t = transpose[perm = [0, 2, 1]](k)
    a = cast[to = f32](q)
    b = cast[to = f32](t)
    c = cast[to = f32](v)
    y = attention[scale = 0.3, causal = true](a, b, c)
    z = cast[to = half](y)
    return z
}";

/// A graph with numbers for its symbols.
fn known(source: &str, numbers: &[(&str, i64)]) -> String {
    numbers.iter().fold(source.to_string(), |source, (name, n)| {
        let n = n.to_string();
        ["[", " "].iter().fold(source, |s, before| {
            [",", "]"].iter().fold(s, |s, after| s.replace(&format!("{before}{name}{after}"), &format!("{before}{n}{after}")))
        })
    })
}

#[track_caller]
fn right(source: &str, dims: &[(&str, i64)]) {
    agrees(source, dims).unwrap_or_else(|e| panic!("{source} {dims:?}\n{e}"));
    assert!(ptx(source).contains("mma.sync"), "{source}");
}

fn ptx(source: &str) -> String {
    compile(&lowered(&text::parse(source).unwrap()).kernels, &target()).unwrap().ptx
}

#[test]
fn heads_and_lengths_of_any_size() {
    for (heads, lengths) in [([32, 32], [9, 1]), ([64, 64], [17, 66]), ([80, 80], [130, 33]), ([128, 128], [20, 31]), ([8, 200], [65, 64])]
    {
        let numbers = [("D", heads[0]), ("E", heads[1]), ("M", lengths[0]), ("N", lengths[1])];
        right(&known(HEADS, &numbers), &[]);
    }
    for lengths in [[1, 5], [5, 1], [70, 129], [0, 3], [3, 0]] {
        right(&known(HEADS, &[("D", 12), ("E", 20)]), &[("M", lengths[0]), ("N", lengths[1])]);
    }
}

#[test]
fn heads_of_queries_share_keys() {
    right(&known(SHARED, &[("M", 33), ("N", 50)]), &[]);
    right(SHARED, &[("M", 3), ("N", 70)]);
}

/// As many blocks as fill a GPU have eight strips each, of fewer several warps share the keys.
#[test]
fn strips_suit_the_extents() {
    // Heads and queries; blocks.
    for (heads, rows, expected) in [(96, 256, 192), (12, 384, 144), (12, 128, 48), (1, 40, 2)] {
        let keys = format!("f32[{heads}, 256, 64]");
        let source =
            format!("graph g(q: f32[{heads}, {rows}, 64], k: {keys}, v: {keys}) {{ y = attention[scale = 1.0](q, k, v)\n return y }}");
        let code = compile(&lowered(&text::parse(&source).unwrap()).kernels, &target()).unwrap();
        assert_eq!(code.launches[0].blocks.as_const(), Some(expected), "{source}");
        assert!(code.launches[0].shared <= 99 << 10, "{:?}", code.launches[0]);
    }
}

#[test]
fn what_is_stored_in_16_bits_is_multiplied_so() {
    for (dtype, instruction) in [(DType::BF16, "f32.bf16.bf16"), (DType::F16, "f32.f16.f16")] {
        for lengths in [[16, 64], [70, 33]] {
            let source = known(STORED, &[("M", lengths[0]), ("N", lengths[1])]).replace("half", dtype.name());
            right(&source, &[]);
            let kernel = crate::testing::as_kernel(&text::parse(&source).unwrap()).unwrap();
            let ptx = compile(&lowered(&kernel).kernels, &target()).unwrap().ptx;
            assert!(ptx.contains(instruction) && !ptx.contains("tf32"), "{ptx}");
        }
    }
}

/// Heads that do not fit, and GPUs without the formats.
#[test]
fn the_rest_takes_multiply_adds() {
    let wide = "graph g(q: f32[20, 512], k: f32[20, 512], v: f32[20, 8]) { y = attention[scale = 0.1](q, k, v)\n return y }";
    agrees(wide, &[]).unwrap();
    assert!(!ptx(wide).contains("mma.sync"));
    let old = compile(&lowered(&text::parse(&known(HEADS, &[("D", 8), ("E", 8)])).unwrap()).kernels, &Target::named("cuda:sm_75").unwrap());
    assert!(!old.unwrap().ptx.contains("mma.sync"));
}
