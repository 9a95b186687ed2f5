//! Idioms in the spellings of exporters: whatever stands on the left, one op comes out.

use super::rewrite;
use crate::fold::fold;
use crate::pass::Context;
use egret_ir::expr::{AttrExpr, Expr};
use egret_ir::random::random;
use egret_ir::{Attr, DType, Element, Graph, Tensor, TensorType, ValueId};

/// A graph of an expression over these parameters; numbers become constants, equal subexpressions stand once.
pub struct Builder {
    pub graph: Graph,
    made: Vec<(Expr, ValueId)>,
}

impl Builder {
    pub fn new() -> Builder {
        Builder { graph: Graph::new("g"), made: vec![] }
    }

    /// Names what an expression computes.
    pub fn define(&mut self, name: &str, text: &str) {
        let expr = Expr::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let value = self.value(&expr);
        self.made.push((Expr::Var(name.into()), value));
    }

    /// What has been given this name.
    pub fn named(&mut self, name: &str) -> ValueId {
        self.value(&Expr::Var(name.into()))
    }

    fn value(&mut self, expr: &Expr) -> ValueId {
        if let Some((_, value)) = self.made.iter().find(|(e, _)| e == expr) {
            return *value;
        }
        let value = match expr {
            Expr::Var(name) => self.graph.find(name).unwrap_or_else(|| panic!("there is no `{name}`")),
            Expr::Literal(v) => self.graph.add_const("c", Tensor::scalar(DType::F32, Element::Float(v.0))),
            Expr::App { op, attrs, operands } => {
                let operands: Vec<ValueId> = operands.iter().map(|o| self.value(o)).collect();
                let attr = |a: &AttrExpr| match a {
                    AttrExpr::Value(value) => value.clone(),
                    AttrExpr::Var(_) | AttrExpr::Call(..) => panic!("a value is needed"),
                };
                let op = op.build(&attrs.iter().map(attr).collect::<Vec<Attr>>()).unwrap();
                self.graph.add("v", op, &operands).unwrap_or_else(|e| panic!("{expr}: {e}"))
            }
        };
        self.made.push((expr.clone(), value));
        value
    }
}

type Shapes<'a> = &'a [(&'a str, &'a [usize])];

/// An expression over parameters and random constants, rewritten and its constants folded.
fn rewritten(params: Shapes, consts: Shapes, text: &str) -> Graph {
    let mut builder = Builder::new();
    let ty = |dims: &[usize]| TensorType::new(DType::F32, dims.iter().copied());
    for (name, dims) in params {
        builder.graph.add_param(name, ty(dims));
    }
    for ((name, dims), seed) in consts.iter().zip(1..) {
        builder.graph.add_const(name, random(seed, &ty(dims)).unwrap());
    }
    let result = builder.value(&Expr::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")));
    builder.graph.add_result(result, "y");
    fold(&rewrite(&builder.graph, &Context::default()).unwrap()).unwrap()
}

/// The ops of a graph with their attributes.
fn ops(graph: &Graph) -> Vec<String> {
    graph.nodes().iter().map(|n| n.op.to_string()).collect()
}

/// Each spelling becomes this one op.
#[track_caller]
fn all_become(expected: &str, spellings: &[&str]) {
    for text in spellings {
        let found = rewritten(&[("x", &[2, 3, 8])], &[("s", &[8]), ("b", &[8])], text);
        assert_eq!(ops(&found), [expected], "{text}");
    }
}

#[test]
fn gelu() {
    all_become(
        "gelu",
        &[
            "mul(mul(x, 0.5), add(erf(div(x, 1.4142135)), 1.0))",
            "mul(mul(0.5, x), add(1.0, erf(mul(x, 0.70710677))))",
            "mul(x, mul(0.5, add(1.0, erf(div(x, 1.41421356)))))",
            "mul(x, mul(add(erf(mul(0.7071067811865475, x)), 1.0), 0.5))",
            "mul(mul(x, add(erf(div(x, 1.4142135)), 1.0)), 0.5)",
            "mul(0.5, mul(add(1.0, erf(div(x, 1.4142135))), x))",
            "div(mul(x, add(erf(div(x, 1.4142135)), 1.0)), 2.0)",
            "mul(div(x, 2.0), add(erf(div(x, 1.4142135)), 1.0))",
        ],
    );
    all_become(
        "gelu_tanh",
        &[
            "mul(mul(x, 0.5), add(tanh(mul(add(x, mul(pow(x, 3.0), 0.044715)), 0.7978846)), 1.0))",
            "mul(0.5, mul(x, add(1.0, tanh(mul(0.7978845608, add(x, mul(0.044715, pow(x, 3.0))))))))",
            "mul(mul(x, 0.5), add(tanh(mul(add(x, mul(mul(mul(0.044715, x), x), x)), 0.7978846)), 1.0))",
            "mul(mul(0.5, x), add(1.0, tanh(mul(mul(x, 0.7978845608), add(1.0, mul(mul(0.044715, x), x))))))",
        ],
    );
}

#[test]
fn sigmoid_and_its_kin() {
    all_become("sigmoid", &["div(1.0, add(1.0, exp(neg(x))))", "reciprocal(add(exp(neg(x)), 1.0))"]);
    all_become("silu", &["mul(sigmoid(x), x)", "div(x, add(1.0, exp(neg(x))))", "mul(x, div(1.0, add(exp(mul(x, -1.0)), 1.0)))"]);
    all_become("mish", &["mul(x, tanh(softplus(x)))", "mul(tanh(log(add(1.0, exp(x)))), x)"]);
    all_become(
        "hard_swish",
        &[
            "div(mul(x, clip(add(x, 3.0), 0.0, 6.0)), 6.0)",
            "mul(x, div(clip(add(3.0, x), 0.0, 6.0), 6.0))",
            "mul(mul(x, min(relu(add(x, 3.0)), 6.0)), 0.16666667)",
            "mul(x, clip(add(mul(x, 0.16666667), 0.5), 0.0, 1.0))",
            "mul(x, min(max(add(div(x, 6.0), 0.5), 0.0), 1.0))",
        ],
    );
    all_become("relu", &["max(x, 0.0)", "max(0.0, relu(x))", "clip(x, 0.0, inf)"]);
}

#[test]
fn norms() {
    const MEAN: &str = "reduce_mean[axes=[2]](x)";
    let variances = [
        "reduce_mean[axes=[2]](mul(D, D))",
        "reduce_mean[axes=[2]](pow(D, 2.0))",
        "mul(reduce_sum[axes=[2]](pow(D, 2.0)), 0.125)",
        "div(reduce_sum[axes=[2]](mul(D, D)), 8.0)",
    ];
    let wholes = [
        "add(mul(div(D, sqrt(add(V, 0.00001))), s), b)",
        "add(b, mul(s, div(D, pow(add(0.00001, V), 0.5))))",
        "add(mul(mul(D, reciprocal(sqrt(add(V, 0.00001)))), s), b)",
        "add(mul(D, mul(div(1.0, sqrt(add(V, 0.00001))), s)), b)",
        "add(mul(x, mul(reciprocal(sqrt(add(V, 0.00001))), s)), sub(b, mul(M, mul(reciprocal(sqrt(add(V, 0.00001))), s))))",
    ];
    for variance in variances {
        for whole in wholes {
            let text = whole.replace('V', variance).replace('D', "sub(x, M)").replace('M', MEAN);
            all_become("layer_norm[axes=[2], epsilon=9.999999747378752e-6]", &[&text]);
        }
    }
    all_become(
        "rms_norm[axes=[2], epsilon=9.999999974752427e-7]",
        &[
            "mul(div(x, sqrt(add(reduce_mean[axes=[2]](pow(x, 2.0)), 0.000001))), s)",
            "mul(s, mul(x, reciprocal(sqrt(add(reduce_mean[axes=[2]](mul(x, x)), 0.000001)))))",
            "mul(s, mul(div(1.0, sqrt(add(reduce_mean[axes=[2]](pow(x, 2.0)), 0.000001))), x))",
            "mul(x, mul(s, reciprocal(pow(add(0.000001, reduce_mean[axes=[2]](pow(x, 2.0))), 0.5))))",
        ],
    );
    all_become(
        "softmax[axes=[2]]",
        &[
            "div(exp(sub(x, reduce_max[axes=[2]](x))), reduce_sum[axes=[2]](exp(sub(x, reduce_max[axes=[2]](x)))))",
            "mul(exp(sub(x, reduce_max[axes=[2]](x))), reciprocal(reduce_sum[axes=[2]](exp(sub(x, reduce_max[axes=[2]](x))))))",
        ],
    );
    all_become("log_softmax[axes=[2]]", &["log(softmax[axes=[2]](x))", "sub(x, log(reduce_sum[axes=[2]](exp(x))))"]);
}

/// Attention of heads that are already apart; the transposes of `k` go into the operand or cancel.
#[test]
fn attention() {
    let spellings = [
        "matmul(softmax[axes=[3]](add(mul(matmul(q, T(k)), 0.125), m)), v)",
        "matmul(softmax[axes=[3]](add(m, div(matmul(q, T(k)), 8.0))), v)",
        "matmul(softmax[axes=[3]](add(matmul(mul(q, 0.125), T(k)), m)), v)",
        "matmul(softmax[axes=[3]](add(matmul(div(q, 8.0), T(k)), m)), v)",
        "matmul(softmax[axes=[3]](add(matmul(q, T(mul(k, 0.125))), m)), v)",
        "matmul(softmax[axes=[3]](add(matmul(mul(q, 0.35355338), mul(T(k), 0.35355338)), m)), v)",
        "matmul(softmax[axes=[3]](add(matmul(mul(q, 0.35355338), T(mul(k, 0.35355338))), m)), v)",
        "matmul(E, v)",
    ];
    let scores = "add(mul(matmul(q, T(k)), 0.125), m)";
    let exp = format!("exp(sub({scores}, reduce_max[axes=[3]]({scores})))");
    let params: Shapes = &[("q", &[1, 2, 5, 4]), ("k", &[1, 2, 6, 4]), ("v", &[1, 2, 6, 4]), ("m", &[1, 1, 1, 6])];
    for spelling in spellings {
        let text = spelling.replace('E', &format!("div({exp}, reduce_sum[axes=[3]]({exp}))"));
        let text = text.replace("T(", "transpose[perm=[0, 1, 3, 2]](");
        let found = ops(&rewritten(params, &[], &text));
        assert_eq!(found.len(), 1, "{spelling}: {found:?}");
        let scale =
            found[0].strip_prefix("attention[scale=").and_then(|t| t.strip_suffix(']')).unwrap_or_else(|| panic!("{spelling}: {found:?}"));
        assert!((scale.parse::<f64>().unwrap() - 0.125).abs() < 1e-7, "{spelling}: {scale}");
    }
    let plain = rewritten(params, &[], "matmul(softmax[axes=[3]](matmul(q, transpose[perm=[0, 1, 3, 2]](k))), v)");
    assert_eq!(ops(&plain), ["attention[scale=1.0]"]);
    let joined = "matmul(softmax[axes=[3]](matmul(q, transpose[perm=[0, 2, 3, 1]](h))), v)";
    let params: Shapes = &[("q", &[1, 2, 5, 4]), ("h", &[1, 6, 2, 4]), ("v", &[1, 2, 6, 4])];
    assert_eq!(ops(&rewritten(params, &[], joined)), ["transpose[perm=[0, 2, 1, 3]]", "attention[scale=1.0]"]);
}

#[test]
fn constants_go_into_weights() {
    let conv = "conv[stride=[1, 1], pad=[1, 1, 1, 1], dilation=[1, 1]](x, w)";
    let params: Shapes = &[("x", &[1, 3, 6, 6])];
    let consts: Shapes = &[("w", &[4, 3, 3, 3]), ("s", &[4, 1, 1]), ("b", &[1, 4, 1, 1]), ("m", &[4, 1, 1])];
    let spellings = [
        format!("add(mul({conv}, s), b)"),
        format!("mul(add({conv}, b), s)"),
        format!("add(mul(add({conv}, b), s), m)"),
        format!("add(mul(sub({conv}, m), s), b)"),
        format!("add(mul(mul({conv}, 0.5), s), b)"),
        format!("batch_norm[epsilon=0.1](add({conv}, b), s, b, m, s)"),
        format!("mul(batch_norm[epsilon=0.1]({conv}, s, b, m, s), s)"),
    ];
    let names = |graph: Graph| graph.nodes().iter().map(|n| n.op.name()).collect::<Vec<_>>();
    for text in spellings {
        assert_eq!(names(rewritten(params, consts, &text)), ["conv", "add"], "{text}");
    }
    let params: Shapes = &[("x", &[2, 3, 4])];
    let consts: Shapes = &[("w", &[4, 5]), ("s", &[5]), ("b", &[1, 1, 5])];
    for text in ["mul(add(matmul(x, w), b), s)", "add(mul(matmul(mul(x, 0.5), w), s), b)", "div(add(matmul(x, w), s), 3.0)"] {
        assert_eq!(names(rewritten(params, consts, text)), ["matmul", "add"], "{text}");
    }
}
