//! Products with weights of few bits: which are read in blocks, and that each has the bits of the product with weights in f32.

use crate::interpret::{kernels_text, run_interpreted};
use crate::plan;
use crate::target::Target;
use crate::testing::{as_kernel, compare, inputs, run_compiled};
use egret_ir::ops::matmul_blocks::weights;
use egret_ir::{Bindings, Copy, Graph, Op, TensorType, eval, text};

/// Checks a product, interpreted and as code for this machine; `in_blocks` says whether its weights stay integers.
#[track_caller]
fn check(source: &str, dims: &[(&str, i64)], in_blocks: bool) {
    let graph = as_kernel(&text::parse(source).unwrap()).unwrap();
    let plain = as_kernel(&in_f32(&text::parse(source).unwrap())).unwrap();
    let bindings: Bindings = dims.iter().map(|(name, n)| ((*name).into(), *n)).collect();
    let inputs = inputs(&graph, &bindings).unwrap();
    let expected = eval::eval(&graph, &inputs).unwrap();
    for target in ["x86-64-v4", "x86-64-v3", "aarch64"].map(|name| Target::named(name).unwrap()) {
        let program = plan::build(&graph, &target, &|_, _| {}).unwrap();
        let text = kernels_text(&program);
        assert_eq!(text.contains(".blocks("), in_blocks, "{text}");
        let found = run_interpreted(&program, target.lanes, &inputs).unwrap();
        compare(&expected, &found).unwrap_or_else(|e| panic!("interpreted for {}: {e}\n{text}", target.name));
        for threads in [1, 3].into_iter().filter(|_| target.runs_here()) {
            let found = run_compiled(&graph, &target, threads, &inputs).unwrap();
            compare(&expected, &found).unwrap_or_else(|e| panic!("compiled for {}: {e}\n{text}", target.name));
            if in_blocks {
                assert_eq!(found, run_compiled(&plain, &target, threads, &inputs).unwrap(), "{}, {threads} threads", target.name);
            }
        }
    }
}

/// The graph with weights in f32.
fn in_f32(graph: &Graph) -> Graph {
    let mut copy = Copy::new(graph, TensorType::clone);
    for node in graph.nodes() {
        let Op::matmul_blocks { block } = node.op else {
            copy.node(node).unwrap();
            continue;
        };
        let [q, zero, scale] = [1, 2, 3].map(|i| graph.constant(node.operands[i]).unwrap());
        let w = copy.new.add_const("weights", weights(block, q, zero, scale));
        let x = copy.value(node.operands[0]);
        let y = copy.new.add_node(Op::matmul, &[x, w], &["product"], vec![]).unwrap()[0];
        copy.set(node.results[0], y);
    }
    copy.finish()
}

/// `relu(x * w + bias)` with weights of a type in blocks, and zero points of a shape.
fn dense(x: &str, dtype: &str, [k, n, block]: [usize; 3], zero: &str, scale: &str) -> String {
    format!(
        "graph g(x: f32[{x}]) {{
            const q: {dtype}[{k}, {n}] = random(1)
            const zero: i8[{zero}] = random(2)
            const scale: f32[{scale}] = random(3)
            const bias: f32[{n}] = random(4)
            h = matmul_blocks[block = {block}](x, q, zero, scale)
            b = add(h, bias)
            y = relu(b)
            return y
        }}"
    )
}

#[test]
fn of_every_form() {
    // Blocks that are whole words and not, a last one that is cut off, one for all; columns that fill no vector.
    let extents = [(64, 64, 32), (65, 33, 32), (70, 100, 16), (45, 17, 5), (40, 200, 40), (9, 70, 128), (2, 18, 1)];
    for (i, (dtype, m)) in [("i4", "1"), ("i8", "3"), ("i4", "33"), ("i8", "13")].into_iter().enumerate() {
        for (j, (k, n, block)) in extents.into_iter().enumerate() {
            let b = usize::div_ceil(k, block);
            let zero = [format!("{b}, {n}"), "1, 1".to_string(), format!("1, {n}")][(i + j) % 3].clone();
            check(&dense(&format!("{m}, {k}"), dtype, [k, n, block], &zero, &format!("{b}, {n}")), &[], true);
        }
    }
}

#[test]
fn of_any_number_of_rows() {
    for m in [1, 3, 8, 33] {
        check(&dense("M, 40", "i4", [40, 70, 16], "3, 70", "3, 70"), &[("M", m)], true);
        check(&dense("2, M, 21", "i8", [21, 65, 21], "1, 1", "1, 65"), &[("M", m)], true);
    }
    check(&dense("24", "i4", [24, 40, 8], "1, 1", "3, 1"), &[], true);
}

#[test]
fn without_zero_points() {
    let zero = "const zero: i8[1, 1] = [0]";
    let source = dense("5, 40", "i4", [40, 70, 16], "1, 1", "3, 70").replace("const zero: i8[1, 1] = random(2)", zero);
    check(&source, &[], true);
}

#[test]
fn extremes() {
    for (dtype, q) in [("i4", -8), ("i4", 7), ("i8", -128), ("i8", 127)] {
        let source = dense("2, 20", dtype, [20, 20, 8], "3, 20", "3, 20");
        let source = source.replace(&format!("const q: {dtype}[20, 20] = random(1)"), &format!("const q: {dtype}[20, 20] = splat({q})"));
        check(&source, &[], true);
        check(&source.replace("const zero: i8[3, 20] = random(2)", "const zero: i8[3, 20] = splat(-128)"), &[], true);
    }
}

#[test]
fn of_rows_that_are_taken_apart() {
    // Rows of the left operand from several heads, and columns that go to several.
    let source = "graph g(x: f32[2, 3, 5, 8]) {
        const q: i4[24, 40] = random(1)
        const zero: i8[2, 40] = random(2)
        const scale: f32[2, 40] = random(3)
        t = transpose[perm = [0, 2, 1, 3]](x)
        r = reshape[shape = [2, 5, 24]](t)
        h = matmul_blocks[block = 16](r, q, zero, scale)
        s = reshape[shape = [2, 5, 4, 10]](h)
        y = transpose[perm = [0, 2, 1, 3]](s)
        return y
    }";
    check(source, &[], true);
}

#[test]
fn what_has_no_form_in_blocks_is_computed_too() {
    check(&dense("3, 20", "i4", [20, 1, 8], "3, 1", "3, 1"), &[], false);
    check(&dense("3, 1", "i8", [1, 30, 8], "1, 1", "1, 30"), &[], false);
    check(&dense("3, 20", "u8", [20, 30, 8], "3, 30", "3, 30"), &[], false);
    let unknown = "graph g(x: f32[3, 20], q: i4[20, 30], zero: i8[1, 1], scale: f32[3, 30]) {
        y = matmul_blocks[block = 8](x, q, zero, scale)
        return y
    }";
    crate::testing::check(&[(unknown, &[])]);
}
