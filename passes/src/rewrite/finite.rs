//! What rules that take all values for finite numbers make of values that are none; see [`Rule::finite`](crate::rules::Rule::finite).

use super::rewrite;
use crate::pass::Context;
use crate::rules::Class;
use egret_ir::eval::eval;
use egret_ir::random::random;
use egret_ir::{DType, Element, Graph, Tensor};

/// Attention in which a condition hides scores behind a number: `[1, 2, 3, 4]` queries, five keys.
fn attention(hidden: &str) -> Graph {
    let text = format!(
        "graph g(q: f32[1, 2, 3, 4], k: f32[1, 2, 5, 4], v: f32[1, 2, 5, 4], seen: bool[1, 1, 3, 5]) {{
            const hidden: f32[] = {hidden}
            kt = transpose[perm=[0, 1, 3, 2]](k)
            s = matmul(q, kt)
            m = select(seen, s, hidden)
            p = softmax[axes=[3]](m)
            y = matmul(p, v)
            return y
        }}"
    );
    egret_ir::text::parse(&text).unwrap()
}

/// What the model says, and what rules up to a class make of it, where each of the three queries sees these keys.
fn both(hidden: &str, class: Class, seen: [&[usize]; 3], damage: impl Fn(&mut [Tensor])) -> (Vec<f64>, Vec<f64>) {
    let graph = attention(hidden);
    let mut inputs: Vec<Tensor> = graph.params()[..3].iter().zip(1..).map(|(&p, seed)| random(seed, graph.ty(p)).unwrap()).collect();
    damage(&mut inputs);
    let cells = seen.iter().flat_map(|keys| (0..5).map(|key| Element::Bool(keys.contains(&key))));
    inputs.push(Tensor::from_elements(DType::Bool, vec![1, 1, 3, 5], cells));
    let rewritten = rewrite(&graph, &Context { class, ..Context::default() }).unwrap();
    let attends = rewritten.nodes().iter().any(|node| node.op.name() == "attention");
    assert_eq!(attends, class >= Class::Reassoc, "{rewritten}");
    let values = |graph: &Graph| eval(graph, &inputs).unwrap()[0].elements().map(|e| e.as_f64()).collect();
    (values(&graph), values(&rewritten))
}

fn close(a: f64, b: f64) -> bool {
    a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-5
}

/// Key 4 is padding and not a number.
fn with_wild_key(inputs: &mut [Tensor]) {
    let keys = inputs[1].clone();
    let wild = keys.elements().enumerate().map(|(i, e)| if i / 4 % 5 == 4 { Element::Float(f64::NAN) } else { e });
    inputs[1] = Tensor::from_elements(DType::F32, vec![1, 2, 5, 4], wild);
}

#[test]
fn masks_of_common_models_mean_the_same() {
    let rows: [&[usize]; 3] = [&[0], &[0, 1, 3], &[0, 1, 2, 3, 4]];
    for hidden in ["-inf", "-3.4028235e38", "-1e38"] {
        let (model, ours) = both(hidden, Class::Reassoc, rows, |_| ());
        assert!(model.iter().zip(&ours).all(|(a, b)| a.is_finite() && close(*a, *b)), "{hidden}: {model:?}\n{ours:?}");
    }
}

#[test]
fn a_row_that_sees_nothing_is_no_less_a_number_than_before() {
    let rows: [&[usize]; 3] = [&[0, 1], &[], &[4]];
    // The average of all values, as the model has it.
    let (model, ours) = both("-3.4028235e38", Class::Reassoc, rows, |_| ());
    assert!(model.iter().zip(&ours).all(|(a, b)| a.is_finite() && close(*a, *b)), "{model:?}\n{ours:?}");
    // 0/0 in the model, and zeros by the standard's attention.
    let (model, ours) = both("-inf", Class::Reassoc, rows, |_| ());
    for (i, (a, b)) in model.iter().zip(&ours).enumerate() {
        assert!(if i / 4 % 3 == 1 { a.is_nan() && *b == 0.0 } else { close(*a, *b) }, "{i}: {a} {b}");
    }
}

#[test]
fn what_is_hidden_must_be_a_number_unless_rules_are_exact() {
    let rows: [&[usize]; 3] = [&[0, 1], &[0, 2], &[3]];
    let (model, ours) = both("-inf", Class::Reassoc, rows, with_wild_key);
    assert!(model.iter().all(|v| v.is_finite()) && ours.iter().all(|v| v.is_nan()), "{ours:?}");
    let (model, ours) = both("-inf", Class::Exact, rows, with_wild_key);
    assert_eq!(model, ours);
}
