//! Wrong rules, planted: each is caught by a net, and the table says by which.
//!
//! The nets are the types (a right side of another type is not inserted, so the rule never fires), the proof on random
//! instances, and the cross-check of the e-graph of a whole graph.

use super::super::{Class, Functions, Guard, Line, Rule, attr_function, functions};
use super::{prove, prove_on};
use egret_ir::random::random;
use egret_ir::text::parse;
use std::sync::Arc;

/// A wrong rule: what is wrong, its class and sides, its guard, and what each net says of it.
struct Planted {
    wrong: &'static str,
    class: &'static str,
    lhs: &'static str,
    rhs: &'static str,
    guard: Guard,
    proof: &'static str,
    cross_check: bool,
}

const ALWAYS: Guard = |_| Some(true);
const DIFFERS: &str = "and by a rule";
const NEVER_FIRED: &str = "fired on 0";

const fn planted(wrong: &'static str, class: &'static str, lhs: &'static str, rhs: &'static str) -> Planted {
    Planted { wrong, class, lhs, rhs, guard: ALWAYS, proof: DIFFERS, cross_check: true }
}

const PLANTED: &[Planted] = &[
    planted("sign", "exact", "sub(x, y)", "sub(y, x)"),
    planted("axis of a softmax", "reassoc", "softmax[axes](transpose[p](x))", "transpose[p](softmax[axes](x))"),
    planted("order of transposes", "exact", "transpose[p](transpose[q](x))", "transpose[compose(q, p)](x)"),
    planted("factors exchanged", "reassoc", "matmul(x, y)", "matmul(y, x)"),
    planted("scale", "reassoc", "matmul(softmax[axes](mul(matmul(q, k), c)), v)", "matmul(softmax[axes](matmul(q, k)), v)"),
    planted("dropped bias", "reassoc", "layer_norm[axes, epsilon](x, s, b)", "layer_norm[axes, epsilon](x, s, 0)"),
    planted("near relative", "reassoc", "gelu(x)", "gelu_tanh(x)"),
    planted("distributed over a sum", "exact", "relu(add(x, y))", "add(relu(x), relu(y))"),
    planted("missing guard for integers", "ulp", "div(x, y)", "mul(x, reciprocal(y))"),
    Planted { cross_check: false, ..planted("missing guard for broadcasting", "reassoc", "mul(matmul(x, w), s)", "matmul(x, mul(w, s))") },
    Planted { cross_check: false, ..planted("NaN", "exact", "mul(x, 0)", "sub(x, x)") },
    Planted { cross_check: false, ..planted("infinity", "ulp", "pow(x, 0.5)", "sqrt(x)") },
    Planted { cross_check: false, ..planted("sign of zero", "exact", "add(x, 0)", "x") },
    Planted { cross_check: false, ..planted("class", "exact", "add(add(x, y), z)", "add(x, add(y, z))") },
    Planted { proof: NEVER_FIRED, cross_check: false, ..planted("type", "exact", "eq(x, y)", "add(x, y)") },
    Planted { proof: NEVER_FIRED, cross_check: false, ..planted("kind of operand", "exact", "relu(softmax[axes](x))", "softmax[x](x)") },
    Planted { guard: |_| Some(false), proof: NEVER_FIRED, cross_check: false, ..planted("never true", "exact", "add(x, 1)", "x") },
    Planted {
        guard: |m| Some(functions::is_identity(m.get("x")?)),
        proof: NEVER_FIRED,
        cross_check: false,
        ..planted("guard of another kind", "exact", "add(x, 1)", "x")
    },
];

impl Planted {
    fn rule(&self) -> Rule {
        let mut known = Functions::new();
        known.insert("compose", attr_function(functions::compose));
        let Planted { class, lhs, rhs, guard, .. } = *self;
        let line = Line { name: "planted", class, assumes: "", family: None, lhs, rhs, guard, condition: "" };
        line.rules(&Arc::new(known)).unwrap_or_else(|e| panic!("{e}")).remove(0)
    }
}

#[test]
fn the_proof_catches_every_wrong_rule() {
    for planted in PLANTED {
        match prove(&planted.rule()) {
            Err(message) => assert!(message.contains(planted.proof), "{}: {message}", planted.wrong),
            Ok(_) => panic!("{}: `{}` passed for a truth", planted.wrong, planted.rule()),
        }
    }
}

/// A graph in which each rule that the cross-check is to catch applies.
const GRAPH: &str = "graph g(x: f32[3, 3], y: f32[3, 3], z: f32[2, 2, 2], n: i64[3]) {
    const s: f32[3] = random(3)
    const b: f32[3] = random(4)
    const c: f32[] = 0.25
    const two: i64[3] = [2, 2, 2]
    difference = sub(x, y)
    turned = transpose[perm=[1, 0]](x)
    columns = softmax[axes=[1]](turned)
    once = transpose[perm=[1, 0, 2]](z)
    again = transpose[perm=[1, 2, 0]](once)
    product = matmul(x, y)
    scaled = mul(product, c)
    weights = softmax[axes=[1]](scaled)
    attended = matmul(weights, x)
    norm = layer_norm[axes=[1], epsilon=1e-5](x, s, b)
    active = gelu(x)
    sum = add(x, y)
    positive = relu(sum)
    half = div(n, two)
    return difference, columns, again, attended, norm, active, positive, half
}";

#[test]
fn the_cross_check_catches_wrong_rules_in_whole_graphs() {
    for planted in PLANTED.iter().filter(|p| p.cross_check) {
        let graph = parse(GRAPH).unwrap_or_else(|e| panic!("{e}"));
        let inputs: Vec<_> = graph.params().iter().zip(1..).map(|(&p, seed)| random(seed, graph.ty(p)).unwrap()).collect();
        let mut rules: Vec<Rule> = super::super::all().iter().filter(|r| r.class < Class::Approx).cloned().collect();
        rules.push(planted.rule());
        let found = prove_on(&graph, &inputs, &rules);
        assert!(found.is_err(), "{}: `{}` passed in a whole graph", planted.wrong, planted.rule());
    }
}
