//! Products of bf16: which are taken in pairs, and that all are right.

use crate::interpret::{kernels_text, run_interpreted};
use crate::plan;
use crate::target::Target;
use crate::testing::{as_kernel, compare, inputs, run_compiled};
use egret_ir::{Bindings, eval, text};

/// Checks a product of values that are widened, interpreted and as code for this machine, with dot products and without.
#[track_caller]
fn check(source: &str, dims: &[(&str, i64)], in_pairs: bool) {
    let graph = as_kernel(&text::parse(source).unwrap()).unwrap();
    let bindings: Bindings = dims.iter().map(|(name, n)| ((*name).into(), *n)).collect();
    let inputs = inputs(&graph, &bindings).unwrap();
    let expected = eval::eval(&graph, &inputs).unwrap();
    let with_dots = Target::named("znver4").unwrap().with_dots().unwrap();
    let without = Target::named("x86-64-v3").unwrap();
    for target in [&with_dots, &without] {
        let program = plan::build(&graph, target, &|_, _| {}).unwrap();
        let text = kernels_text(&program);
        assert_eq!(text.contains(".pairs["), in_pairs && target.dots, "{text}");
        let found = run_interpreted(&program, target.lanes, &inputs).unwrap();
        compare(&expected, &found).unwrap_or_else(|e| panic!("interpreted for {}: {e}\n{text}", target.name));
    }
    let here = [Target::native().ok().and_then(|native| native.with_dots()), Target::native().ok(), Some(without)];
    for target in here.into_iter().flatten().filter(Target::runs_here) {
        for threads in [1, 3] {
            let found = run_compiled(&graph, &target, threads, &inputs).unwrap();
            compare(&expected, &found).unwrap_or_else(|e| panic!("compiled for {}, {threads} threads: {e}", target.name));
        }
    }
}

fn matmul(x: &str, w: &str) -> String {
    format!(
        "graph g(x: bf16[{x}]) {{
            const w: bf16[{w}] = random(1)
            a = cast[to = f32](x)
            b = cast[to = f32](w)
            y = matmul(a, b)
            return y
        }}"
    )
}

fn conv(x: &str, w: &str, attributes: &str) -> String {
    format!(
        "graph g(x: bf16[{x}]) {{
            const w: bf16[{w}] = random(1)
            a = cast[to = f32](x)
            b = cast[to = f32](w)
            c = conv[{attributes}, pad = [0, 0, 0, 0], layout = last](a, b)
            y = relu(c)
            return y
        }}"
    )
}

#[test]
fn matrices() {
    check(&matmul("5, 21", "21, 40"), &[], true);
    check(&matmul("13, 64", "64, 7"), &[], true);
    check(&matmul("3, 17, 2", "2, 33"), &[], true);
    check(&matmul("1, 9", "9, 100"), &[], true);
    check(&matmul("9", "9, 100"), &[], true);
    // A batch of weights.
    check(&matmul("3, 5, 7", "3, 7, 18"), &[], true);
    // One term is no sum.
    check(&matmul("5, 1", "1, 40"), &[], false);
}

#[test]
fn rows_whose_number_is_free() {
    check(&matmul("N, 21", "21, 40"), &[("N", 9)], true);
    check(&matmul("M, N, 8", "8, 24"), &[("M", 2), ("N", 3)], true);
}

#[test]
fn convolutions() {
    check(&conv("1, 11, 11, 3", "3, 3, 3, 20", "stride = [2, 2], dilation = [1, 1]"), &[], true);
    check(&conv("2, 9, 8, 5", "3, 2, 5, 16", "stride = [1, 1], dilation = [2, 3]"), &[], true);
    check(&conv("1, 6, 6, 8", "1, 1, 4, 6", "stride = [1, 1], dilation = [1, 1], group = 2"), &[], true);
    check(&conv("N, 7, 7, 6", "1, 1, 6, 33", "stride = [1, 1], dilation = [1, 1]"), &[("N", 2)], true);
    // Taps of one channel that lie apart, and filters of one channel each.
    check(&conv("1, 9, 9, 1", "3, 3, 1, 20", "stride = [1, 1], dilation = [2, 2]"), &[], false);
    check(&conv("1, 9, 9, 8", "3, 3, 1, 8", "stride = [1, 1], dilation = [1, 1], group = 8"), &[], false);
}

#[test]
fn what_does_not_lie_in_pairs_is_widened() {
    let both = "graph g(x: bf16[7, 9], w: bf16[9, 37]) {
        a = cast[to = f32](x)
        b = cast[to = f32](w)
        y = matmul(a, b)
        return y
    }";
    check(both, &[], false);
    let turned = "graph g(x: bf16[9, 7], w: bf16[37, 9]) {
        a = cast[to = f32](x)
        b = cast[to = f32](w)
        t = transpose[perm = [1, 0]](a)
        u = transpose[perm = [1, 0]](b)
        y = matmul(t, u)
        return y
    }";
    check(turned, &[], false);
    let mixed = "graph g(x: f32[7, 9]) {
        const w: bf16[9, 37] = random(1)
        b = cast[to = f32](w)
        y = matmul(x, b)
        return y
    }";
    check(mixed, &[], false);
}
