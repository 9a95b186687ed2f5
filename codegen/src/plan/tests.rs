//! What plans hold: buffers, steps and constants of small graphs, and the errors.

use super::{Program, build};
use crate::target::Target;
use crate::testing::as_kernel;
use egret_ir::text;
use egret_runtime::plan::Place;

fn program(source: &str) -> Result<Program, String> {
    let graph = text::parse(source).map_err(|e| e.to_string())?;
    build(&graph, &Target::named("x86-64-v4").unwrap(), &|_, _| {}).map_err(|e| e.to_string())
}

/// A line per step: what it reads and writes, by the names of the buffers, and what may share bytes.
#[track_caller]
fn check(source: &str, expected: &[&str]) {
    let program = program(source).unwrap();
    let plan = &program.plan;
    assert_eq!(plan.check(1, program.weights.section_bytes()), Ok(()));
    let name = |b: &u32| {
        let buffer = &plan.buffers[*b as usize];
        match buffer.place {
            Place::Arena => buffer.name.clone(),
            Place::Private => format!("private:{}", buffer.name),
            Place::Input(i) => format!("in{i}"),
            Place::Output(i) => format!("out{i}"),
            Place::Weights { .. } => format!("weights:{}", buffer.name),
        }
    };
    let names = |list: &[u32]| list.iter().map(name).collect::<Vec<_>>().join(" ");
    let step = |s: &egret_runtime::plan::Step| {
        let sharing = s.in_place.map_or(String::new(), |(r, w)| format!("  {} for {}", name(&r), name(&w)));
        format!("k{} {} -> {}{sharing}", s.kernel, names(&s.reads), names(&s.writes))
    };
    let mut found: Vec<String> = plan.steps.iter().map(step).collect();
    found.extend(plan.outputs.iter().map(|port| format!("{} is {}", port.name, name(&port.buffer))));
    assert_eq!(found, expected);
}

#[track_caller]
fn check_error(source: &str, expected: &str) {
    assert_eq!(program(source).err().as_deref(), Some(expected));
}

#[test]
fn equal_kernels_are_one() {
    check(
        "graph g(x: f32[4, 8], y: f32[4, 8]) { a = exp(x) b = exp(y) c = add(a, b) d = exp(c) return d }",
        &["k0 in0 -> a", "k0 in1 -> b", "k1 a b -> c  a for c", "k0 c -> out0", "d is out0"],
    );
}

#[test]
fn reshapes_are_no_steps() {
    check(
        "graph g(x: f32[4, 8]) { a = exp(x) b = reshape[shape=[8, 4]](a) c = exp(b) d = reshape[shape=[2, 16]](c) return d }",
        &["k0 in0 -> a", "k0 a -> out0", "d is out0"],
    );
}

#[test]
fn results_may_be_anything() {
    check(
        "graph g(x: f32[4]) { const w: f32[4] = random(1) a = neg(x) b = reshape[shape=[2, 2]](x) return x, a, a, w, b }",
        &["k0 in0 -> out1", "x is in0", "a is out1", "a is out1", "w is weights:w", "b is in0"],
    );
}

#[test]
fn constants_are_stored_once_in_each_order() {
    let source = "graph g(x: f32[4, 8]) {
        const w: f32[8, 40] = random(1)
        const v: f32[8, 40] = random(1)
        a = matmul(x, w)
        b = matmul(x, v)
        c = add(a, b)
        d = reduce_sum[axes=[0]](w)
        e = add(c, d)
        return e
    }";
    let program = program(source).unwrap();
    let weights = program.plan.buffers.iter().filter(|b| matches!(b.place, Place::Weights { .. }));
    let names: Vec<&str> = weights.map(|b| b.name.as_str()).collect();
    assert_eq!(names, ["data", "w"]);
    assert_eq!(program.weights.parts().count(), 2);
}

#[test]
fn borders_and_insides_are_one_step() {
    let source = "graph g(x: f32[1, 4, 4, 8]) {
        const w: f32[3, 3, 8, 16] = random(1)
        const zero: f32[] = splat(0.0)
        c = conv[stride=[1, 1], pad=[0, 0, 0, 0], dilation=[1, 1], layout=last](x, w)
        p = pad[low=[0, 1, 1, 0], high=[0, 1, 1, 0]](c, zero)
        return p
    }";
    let graph = as_kernel(&text::parse(source).unwrap()).unwrap();
    let plan = build(&graph, &Target::named("x86-64-v4").unwrap(), &|_, _| {}).unwrap().plan;
    let written: Vec<&[u32]> = plan.steps.iter().map(|s| &s.writes[..]).collect();
    assert_eq!(written, [[plan.outputs[0].buffer]]);
}

#[test]
fn small_steps_are_not_divided() {
    let parts = |source: &str, n: i64| {
        let program = program(source).unwrap();
        program.plan.steps[0].parts.eval(&vec![n; program.plan.symbols.len()]).unwrap()
    };
    assert_eq!(parts("graph g(x: f32[100]) { y = neg(x) return y }", 0), 1);
    assert!(parts("graph g(x: f32[3000000]) { y = neg(x) return y }", 0) > 8);
    let symbolic = "graph g(x: f32[N, 512]) { const w: f32[512, 512] = random(1) y = matmul(x, w) return y }";
    // A single row reads 1 MiB of weights.
    assert_eq!(parts(symbolic, 1), 4);
    assert!(parts(symbolic, 512) > 4);
}

#[test]
fn what_cannot_be_lowered_is_named() {
    check_error(
        "graph g(q: f16[3, 4], k: f16[3, 4]) { y = attention[scale=0.5](q, k, k) @ \"/Attention\" return y }",
        "`y`: cannot lower `attention` of (f16[3, 4], f16[3, 4], f16[3, 4]) to f16[3, 4] (from `/Attention`): \
         there is a kernel for f32 heads of a known size only",
    );
    check_error(
        "graph g(x: f32[1, 2, 5, 5], w: f32[3, 2, 3, 3]) { y = conv[stride=[1, 1], pad=[1, 1, 1, 1], dilation=[1, 1]](x, w) return y }",
        "`y`: cannot lower `conv` of (f32[1, 2, 5, 5], f32[3, 2, 3, 3]) to f32[1, 3, 5, 5]: expects a convolution whose padding has been made explicit",
    );
    check_error(
        "graph g(x: f32[2*N, 4]) { y = neg(x) return y }",
        "the extent 2*N depends on `N`, which is no extent of an input by itself; give it a number with --dim N=...",
    );
}
