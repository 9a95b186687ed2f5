//! Contractions on tensor cores: every way in which operands can lie, every element type, and how exact they are.

use super::models::{emulated_code, lowered};
use super::*;
use crate::testing::{as_kernel, inputs};
use egret_ir::{Tensor, eval, text};

/// Operands that are read as they lie: whole vectors and tails, rows along `k` and across it, batches.
const STRIDED: &str = "graph g(x: f32[M, K], w: f32[K, N], z: f32[K, M], p: f32[2, M, K], q: f32[2, K, N]) {
    y = matmul(x, w)
    t = transpose[perm = [1, 0]](z)
    u = matmul(t, w)
    r = tanh(u)
    v = matmul(p, q)
    return y, r, v
}";

const PACKED: &str = "graph g(x: f32[M, K], r: f32[M, N]) {
    const w: f32[K, N] = random(1)
    const b: f32[N] = random(2)
    h = matmul(x, w)
    s = add(h, b)
    t = add(s, r)
    y = relu(t)
    return y
}";

const CONVOLUTION: &str = "graph g(x: f32[2, 9, 8, C], r: f32[2, 4, 6, 40]) {
    const w: f32[3, 3, C, 40] = random(1)
    c = conv[stride = [2, 1], pad = [0, 0, 0, 0], dilation = [1, 1], layout = last](x, w)
    s = add(c, r)
    y = relu(s)
    return y
}";

/// As many batches as fill a GPU, so that tiles are the largest that suit the columns.
const LARGE: &str = "graph g(x: f32[128, 65, 16], w: f32[128, 16, N]) { y = matmul(x, w)\n return y }";

/// Few tiles and many steps, so that blocks share tiles; a tail of slices, rows and columns; two products.
const SHARED: &str = "graph g(x: f32[40, 530], r: f32[40, 70]) {
    const w: f32[530, 70] = random(1)
    const v: f32[530, 20] = random(2)
    h = matmul(x, w)
    s = add(h, r)
    y = relu(s)
    z = matmul(x, v)
    return y, z
}";

/// The number of instructions of a kind in the code of a graph.
fn count(code: &Code, instruction: &str) -> usize {
    code.ptx.matches(instruction).count()
}

fn compiled(graph: &egret_ir::Graph, target: &str) -> (crate::plan::Program, Code) {
    let program = lowered(graph);
    let code = compile(&program.kernels, &Target::named(target).unwrap()).unwrap();
    (program, code)
}

/// Checks a graph op by op and as one kernel where it is one, and that some product of it is done on tensor cores.
#[track_caller]
fn agrees(source: &str, dims: &[(&str, i64)]) {
    let graph = text::parse(source).unwrap_or_else(|e| panic!("{source}\n{e}"));
    let bindings: Bindings = dims.iter().map(|(name, n)| ((*name).into(), *n)).collect();
    let inputs = inputs(&graph, &bindings).unwrap();
    let expected = eval::eval(&graph, &inputs).unwrap();
    let (program, code) = compiled(&graph, "cuda:sm_80");
    assert!(count(&code, "mma.sync") > 0, "{source}");
    let found = emulated_code(&program, &code, &inputs, 1).unwrap_or_else(|e| panic!("{source} {dims:?}\n{e}"));
    crate::testing::compare(&expected, &found).unwrap_or_else(|e| panic!("{source} {dims:?}\n{e}"));
}

/// A graph with numbers for its symbols.
fn known(source: &str, dims: &[(&str, i64)]) -> String {
    dims.iter().fold(source.to_string(), |s, (name, n)| {
        s.replace(&format!("{name}]"), &format!("{n}]")).replace(&format!("{name},"), &format!("{n},"))
    })
}

#[test]
fn operands_lie_in_any_way() {
    for [m, k, n] in [[17, 16, 4], [64, 17, 64], [65, 40, 70], [130, 18, 20]] {
        let dims = [("M", m), ("K", k), ("N", n)];
        agrees(&known(STRIDED, &dims), &[]);
        agrees(&known(PACKED, &dims), &[]);
    }
    agrees(STRIDED, &[("M", 33), ("K", 19), ("N", 12)]);
    agrees(STRIDED, &[("M", 1), ("K", 0), ("N", 3)]);
    agrees(&known(PACKED, &[("K", 20), ("N", 72)]), &[("M", 21)]);
}

#[test]
fn convolutions_are_products() {
    [3, 4, 32].into_iter().for_each(|channels| agrees(&known(CONVOLUTION, &[("C", channels)]), &[]));
}

#[test]
fn blocks_share_tiles_where_tiles_are_few() {
    agrees(SHARED, &[]);
    let graph = text::parse(SHARED).unwrap();
    let (_, code) = compiled(&graph, "cuda:sm_80");
    // 34 slices of 16 steps are two parts of each tile.
    let first: Vec<&Launch> = code.launches.iter().filter(|launch| launch.then.is_some()).collect();
    assert_eq!(first.iter().map(|launch| launch.blocks.as_const().unwrap()).collect::<Vec<_>>(), [4, 2]);
    for launch in first {
        let then = &code.launches[launch.then.unwrap()];
        assert_eq!(launch.blocks.as_const().unwrap() * 64 * 64 * 4, launch.scratch as i64);
        assert_eq!((then.scratch, then.then, then.entry.clone()), (launch.scratch, None, format!("{}_then", launch.entry)));
    }
    // Not where steps are few, or extents are not known.
    for few in [SHARED.replace("530", "400"), SHARED.replace("[40, ", "[N, ")] {
        let (_, code) = compiled(&text::parse(&few).unwrap(), "cuda:sm_80");
        assert!(code.launches.iter().all(|launch| launch.scratch == 0 && launch.then.is_none()), "{:?}", code.launches);
    }
}

#[test]
fn tiles_suit_the_extents() {
    // Blocks and bytes of shared memory: tiles of 128 by 128, 128 by 64 and 64 by 64, the last in parts.
    for ([m, k, n], expected) in [
        ([2048, 64, 1024], (128, 81_920)),
        ([16384, 64, 64], (128, 61_440)),
        ([130, 64, 1500], (72, 40_960)),
        ([64, 1024, 64], (4, 40_960)),
    ] {
        let source = format!("graph g(x: f32[{m}, {k}], w: f32[{k}, {n}]) {{ y = matmul(x, w)\n return y }}");
        let (_, code) = compiled(&text::parse(&source).unwrap(), "cuda:sm_80");
        let launch = &code.launches[0];
        assert_eq!((launch.blocks.as_const(), launch.shared), (Some(expected.0), expected.1), "{source}");
    }
}

#[test]
fn large_tiles() {
    [60, 65].into_iter().for_each(|n| agrees(&known(LARGE, &[("N", n)]), &[]));
}

/// Narrow operands of one type are multiplied as they are, those of two as TF32, of which each is one.
#[test]
fn narrow_operands_are_exact() {
    let cases = [
        ("bf16", "bf16", "f32.bf16.bf16"),
        ("f16", "f16", "f32.f16.f16"),
        ("bf16", "f32", "f32.tf32.tf32"),
        ("f32", "f16", "f32.tf32.tf32"),
    ];
    for (a, b, instruction) in cases {
        for k in [40, 33] {
            let wide = format!("graph g(x: f32[70, {k}], w: f32[{k}, 72]) {{ y = matmul(x, w)\n return y }}");
            let mut kernel = lowered(&as_kernel(&text::parse(&wide).unwrap()).unwrap()).kernels.remove(0);
            let types = text::parse(&format!("graph g(x: {a}[70, {k}], w: {b}[{k}, 72]) {{ return x, w }}")).unwrap();
            let mut memory: Vec<Memory> = inputs(&types, &Bindings::new()).unwrap().iter().map(Memory::of).collect();
            kernel.buffers.iter_mut().zip(&memory).for_each(|(buffer, memory)| buffer.dtype = memory.dtype);
            memory.push(Memory::zeros(egret_ir::DType::F32, 70 * 72));
            check(&kernel, &Bindings::new(), &memory, Within::Relative(PRODUCTS));
            let code = compile(std::slice::from_ref(&kernel), &target()).unwrap();
            assert!(count(&code, instruction) > 0, "{}", code.ptx);
            assert_eq!(count(&code, "x4.trans") > 0, a == b, "{}", code.ptx);
        }
    }
}

#[test]
fn few_rows_and_steps_and_old_gpus_take_multiply_adds() {
    for (source, target) in [
        ("graph g(x: f32[16, 64], w: f32[64, 64]) { y = matmul(x, w)\n return y }", "cuda:sm_80"),
        ("graph g(x: f32[64, 15], w: f32[15, 64]) { y = matmul(x, w)\n return y }", "cuda:sm_80"),
        ("graph g(x: f32[64, 64], w: f32[64, 64]) { y = matmul(x, w)\n return y }", "cuda:sm_75"),
        ("graph g(x: f64[64, 64], w: f64[64, 64]) { y = matmul(x, w)\n return y }", "cuda:sm_80"),
    ] {
        let graph = text::parse(source).unwrap();
        let (_, code) = compiled(&graph, target);
        assert_eq!(count(&code, "mma.sync") + count(&code, "cp.async"), 0, "{source}");
    }
}

/// The largest error of a product, in units of the largest result.
fn error(source: &str, target: &str) -> f64 {
    let graph = text::parse(source).unwrap();
    let inputs = inputs(&graph, &Bindings::new()).unwrap();
    // The reference adds up in f64.
    let expected = &eval::eval(&graph, &inputs).unwrap()[0];
    let (program, code) = compiled(&graph, target);
    let found: Vec<Tensor> = emulated_code(&program, &code, &inputs, 1).unwrap();
    let pairs: Vec<(f64, f64)> = expected.elements().zip(found[0].elements()).map(|(x, y)| (x.as_f64(), y.as_f64())).collect();
    let largest = pairs.iter().map(|(x, _)| x.abs()).fold(0.0, f64::max);
    pairs.iter().map(|(x, y)| (x - y).abs()).fold(0.0, f64::max) / largest
}

#[test]
fn products_of_f32_are_as_exact_as_multiply_adds() {
    for k in [64, 512] {
        let source = format!("graph g(x: f32[32, {k}], w: f32[{k}, 32]) {{ y = matmul(x, w)\n return y }}");
        let (tensor, adds) = (error(&source, "cuda:sm_80"), error(&source, "cuda:sm_75"));
        assert!(tensor <= 2.0 * adds && tensor < 1e-6, "{k} steps: {tensor:e} on tensor cores, {adds:e} by multiply-adds");
    }
}
