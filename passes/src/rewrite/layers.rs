//! One Transformer layer in the spellings of exporters: whatever is written, the same ops come out, at the same cost.

use super::spellings::Builder;
use crate::pass::{Context, PassManager};
use egret_ir::random::random;
use egret_ir::{DType, TensorType};

/// How one layer is written. Widths: batch 2, 6 positions, 2 heads of 4 channels, 16 hidden units.
struct Spelling {
    /// The projection of `X` by the weights `W` and the bias `B`, `[2, 6, 8]`.
    projection: &'static str,
    /// The heads of a projection `P`: `[2, 2, 6, 4]`, or `[4, 6, 4]`.
    heads: &'static str,
    /// The transposed keys of the heads `H`, or of the projection `P`.
    keys: &'static str,
    /// The masked scores of `q` and `kt`.
    scores: &'static str,
    /// Softmax of `S`.
    softmax: &'static str,
    /// Heads `O` side by side again: `[2, 6, 8]`.
    joined: &'static str,
    /// Layer norm of `X` by `s` and `b`.
    norm: &'static str,
    /// Gelu of `X`.
    gelu: &'static str,
}

const PLAIN: Spelling = Spelling {
    projection: "add(matmul(X, W), B)",
    heads: "transpose[perm=[0, 2, 1, 3]](reshape[shape=[2, 6, 2, 4]](P))",
    keys: "transpose[perm=[0, 1, 3, 2]](H)",
    scores: "add(div(matmul(q, kt), 2.0), mask)",
    softmax: "softmax[axes=[3]](S)",
    joined: "reshape[shape=[2, 6, 8]](transpose[perm=[0, 2, 1, 3]](O))",
    norm: "layer_norm[axes=[2], epsilon=0.00001](X, s, b)",
    gelu: "mul(mul(X, 0.5), add(erf(div(X, 1.4142135)), 1.0))",
};

/// Heads in one axis with the batch, as `bmm` wants them.
const FLAT_HEADS: &str = "reshape[shape=[4, 6, 4]](transpose[perm=[0, 2, 1, 3]](reshape[shape=[2, 6, 2, 4]](P)))";

const SPELLINGS: &[Spelling] = &[
    PLAIN,
    // Operands turned around, gelu halved first, a norm written out.
    Spelling {
        projection: "add(B, matmul(X, W))",
        scores: "add(mask, mul(0.5, matmul(q, kt)))",
        norm: "add(mul(div(sub(X, M), sqrt(add(reduce_mean[axes=[2]](mul(sub(X, M), sub(X, M))), 0.00001))), s), b)",
        gelu: "mul(X, mul(0.5, add(1.0, erf(mul(X, 0.70710677)))))",
        ..PLAIN
    },
    // tf2onnx: the scale on the queries, reciprocals, powers, the mean subtracted last.
    Spelling {
        scores: "add(matmul(mul(q, 0.5), kt), mask)",
        norm: "add(mul(X, mul(reciprocal(sqrt(add(V, 0.00001))), s)), sub(b, mul(M, mul(reciprocal(sqrt(add(V, 0.00001))), s))))",
        gelu: "mul(mul(X, add(erf(div(X, 1.4142135)), 1.0)), 0.5)",
        ..PLAIN
    },
    // The scale split between queries and keys; keys transposed in one step.
    Spelling {
        keys: "transpose[perm=[0, 2, 3, 1]](reshape[shape=[2, 6, 2, 4]](P))",
        scores: "add(matmul(mul(q, 0.70710677), mul(kt, 0.70710677)), mask)",
        gelu: "div(mul(X, add(erf(div(X, 1.4142135)), 1.0)), 2.0)",
        ..PLAIN
    },
    // Softmax written out.
    Spelling {
        scores: "add(mul(matmul(q, kt), 0.5), mask)",
        softmax: "div(exp(sub(S, reduce_max[axes=[3]](S))), reduce_sum[axes=[3]](exp(sub(S, reduce_max[axes=[3]](S)))))",
        ..PLAIN
    },
    // Matrices of all positions, as Gemm wants them.
    Spelling {
        projection: "reshape[shape=[2, 6, 8]](add(matmul(reshape[shape=[12, 8]](X), W), B))",
        scores: "add(matmul(div(q, 2.0), kt), mask)",
        norm: "add(mul(mul(sub(X, M), pow(add(V, 0.00001), -0.5)), s), b)",
        ..PLAIN
    },
    // Positions first.
    Spelling {
        projection: "transpose[perm=[1, 0, 2]](add(matmul(transpose[perm=[1, 0, 2]](X), W), B))",
        scores: "add(matmul(q, mul(kt, 0.5)), mask)",
        gelu: "mul(mul(0.5, X), add(1.0, erf(mul(0.7071067811865475, X))))",
        ..PLAIN
    },
    // Heads and batch in one axis.
    Spelling {
        heads: FLAT_HEADS,
        keys: "transpose[perm=[0, 2, 1]](H)",
        scores: "add(mul(matmul(q, kt), 0.5), reshape[shape=[4, 1, 6]](broadcast[shape=[2, 2, 1, 6]](mask)))",
        softmax: "softmax[axes=[2]](S)",
        joined: "reshape[shape=[2, 6, 8]](transpose[perm=[0, 2, 1, 3]](reshape[shape=[2, 2, 6, 4]](O)))",
        ..PLAIN
    },
    // Weights as torch keeps them, softmax as a product, the difference turned around.
    Spelling {
        projection: "add(matmul(X, transpose[perm=[1, 0]](W)), B)",
        scores: "add(mul(matmul(q, kt), 0.5), mask)",
        softmax: "mul(exp(sub(S, reduce_max[axes=[3]](S))), reciprocal(reduce_sum[axes=[3]](exp(sub(S, reduce_max[axes=[3]](S))))))",
        norm: "add(mul(div(sub(X, M), sqrt(add(reduce_mean[axes=[2]](pow(sub(M, X), 2.0)), 0.00001))), s), b)",
        ..PLAIN
    },
    // Positions first, heads and batch in one axis, split again before the product.
    Spelling {
        heads: "reshape[shape=[2, 2, 6, 4]](transpose[perm=[1, 0, 2]](reshape[shape=[6, 4, 4]](transpose[perm=[1, 0, 2]](P))))",
        scores: "add(mul(matmul(q, kt), 0.5), mask)",
        joined: "transpose[perm=[1, 0, 2]](reshape[shape=[6, 2, 8]](transpose[perm=[2, 0, 1, 3]](O)))",
        ..PLAIN
    },
    // Means as sums, a reshape with units, the mask for every row.
    Spelling {
        heads: "transpose[perm=[0, 2, 1, 3]](reshape[shape=[2, 6, 2, 4]](reshape[shape=[2, 1, 6, 8]](P)))",
        scores: "add(mul(matmul(q, kt), 0.5), broadcast[shape=[2, 1, 6, 6]](mask))",
        norm: "add(mul(s, div(sub(X, M), sqrt(add(mul(reduce_sum[axes=[2]](mul(sub(X, M), sub(X, M))), 0.125), 0.00001)))), b)",
        ..PLAIN
    },
];

impl Spelling {
    /// The ops that remain of the layer, sorted, and what they cost.
    fn rewritten(&self) -> (Vec<&'static str>, u64) {
        let mut layer = Builder::new();
        layer.param("x", &[2, 6, 8]);
        layer.param("mask", &[2, 1, 1, 6]);
        for (name, dims) in [("up", &[8, 16][..]), ("down", &[16, 8]), ("bu", &[16]), ("s", &[8]), ("b", &[8])] {
            layer.constant(name, dims);
        }
        for name in ["q", "k", "v", "o"] {
            layer.constant(&format!("w{name}"), &[8, 8]);
            layer.constant(&format!("b{name}"), &[8]);
        }
        let projection = |x: &str, name: &str| {
            let text = self.projection.replace('X', x);
            text.replace('W', &format!("w{name}")).replace('B', &format!("b{name}"))
        };
        for name in ["q", "k", "v"] {
            layer.define(&format!("p{name}"), &projection("x", name));
            layer.define(name, &self.heads.replace('P', &format!("p{name}")));
        }
        layer.define("kt", &self.keys.replace('H', "k").replace('P', "pk"));
        layer.define("scores", self.scores);
        layer.define("weights", &self.softmax.replace('S', "scores"));
        layer.define("heads", "matmul(weights, v)");
        layer.define("joined", &self.joined.replace('O', "heads"));
        layer.define("attended", &projection("joined", "o"));
        layer.define("first", "add(x, attended)");
        self.norm(&mut layer, "middle", "first");
        layer.define("wide", "add(matmul(middle, up), bu)");
        layer.define("active", &self.gelu.replace('X', "wide"));
        layer.define("second", "add(matmul(active, down), middle)");
        self.norm(&mut layer, "y", "second");
        layer.outcome("y")
    }

    fn norm(&self, layer: &mut Builder, name: &str, x: &str) {
        let (mean, variance) = (format!("{name}_mean"), format!("{name}_variance"));
        layer.define(&mean, &format!("reduce_mean[axes=[2]]({x})"));
        layer.define(&variance, &format!("reduce_mean[axes=[2]](mul(sub({x}, {mean}), sub({x}, {mean})))"));
        layer.define(name, &self.norm.replace('X', x).replace('M', &mean).replace('V', &variance));
    }
}

impl Builder {
    fn param(&mut self, name: &str, dims: &[usize]) {
        self.graph.add_param(name, TensorType::new(DType::F32, dims.iter().copied()));
    }

    /// Random weights, others for every name.
    fn constant(&mut self, name: &str, dims: &[usize]) {
        let seed = name.bytes().fold(1, |h: u64, b| h.wrapping_mul(31).wrapping_add(b.into()));
        let ty = TensorType::new(DType::F32, dims.iter().copied());
        self.graph.add_const(name, random(seed, &ty).expect("it is of f32"));
    }

    /// The ops behind the pipeline, sorted, and what they cost.
    fn outcome(mut self, result: &str) -> (Vec<&'static str>, u64) {
        let result = self.named(result);
        self.graph.add_result(result, "y");
        let manager = PassManager::named("fold, cse, rewrite, fold, cse, rewrite").unwrap();
        let (graph, reports) = manager.run(&self.graph, &Context::default(), |_, _| ()).unwrap();
        let mut ops: Vec<&str> = graph.nodes().iter().map(|n| n.op.name()).collect();
        ops.sort_unstable();
        (ops, reports.last().map_or(0, |r| r.figures["cost"]))
    }
}

#[test]
fn every_spelling_of_a_layer_is_the_same() {
    let (ops, cost) = PLAIN.rewritten();
    let count = |name: &str| ops.iter().filter(|op| **op == name).count();
    assert_eq!(["attention", "layer_norm", "gelu", "matmul", "transpose"].map(count), [1, 2, 1, 6, 4], "{ops:?}");
    for (i, spelling) in SPELLINGS.iter().enumerate() {
        assert_eq!(spelling.rewritten(), (ops.clone(), cost), "spelling {i}");
    }
}

/// Attention with heads, in other forms than a layer of an encoder has.
#[test]
fn attention_in_other_forms() {
    let forms: &[(&str, &[&str])] = &[
        // A condition hides scores: by -inf, by a large number, the other way around.
        ("matmul(softmax[axes=[3]](select(c, mul(matmul(q, kt), 0.5), -inf)), v)", &["attention"]),
        ("matmul(softmax[axes=[3]](select(not(c), -inf, mul(matmul(q, kt), 0.5))), v)", &["attention"]),
        ("matmul(softmax[axes=[3]](select(c, mul(matmul(q, kt), 0.5), -1000000000.0)), v)", &["attention", "select"]),
        ("matmul(softmax[axes=[3]](select(c, -3.4028235e38, div(matmul(q, kt), 2.0))), v)", &["attention", "select"]),
        // A bias and a mask.
        ("matmul(softmax[axes=[3]](add(add(mul(matmul(q, kt), 0.5), bias), mask)), v)", &["add", "attention"]),
        // Counts of rows and columns compared.
        ("matmul(softmax[axes=[3]](select(le(columns, rows), matmul(q, kt), -inf)), v)", &["attention"]),
        ("matmul(softmax[axes=[3]](select(lt(rows, columns), -inf, matmul(q, kt))), v)", &["attention"]),
        ("matmul(softmax[axes=[3]](select(and(c, le(columns, rows)), matmul(q, kt), -inf)), v)", &["attention"]),
        // The product of columns.
        (
            "matmul(transpose[perm=[0, 1, 3, 2]](v), transpose[perm=[0, 1, 3, 2]](softmax[axes=[3]](matmul(q, kt))))",
            &["attention", "transpose"],
        ),
    ];
    for (text, expected) in forms {
        let mut graph = Builder::new();
        for (name, dims) in
            [("q", &[1, 2, 6, 4]), ("k", &[1, 2, 6, 4]), ("v", &[1, 2, 6, 4]), ("mask", &[1, 1, 1, 6]), ("bias", &[1, 2, 6, 6])]
        {
            graph.param(name, dims);
        }
        graph.graph.add_param("c", TensorType::new(DType::Bool, [1, 1, 6, 6]));
        graph.define("kt", "transpose[perm=[0, 1, 3, 2]](k)");
        graph.define("rows", "reshape[shape=[6, 1]](iota[shape=[6], axis=0, dtype=i64]())");
        graph.define("columns", "reshape[shape=[1, 6]](iota[shape=[6], axis=0, dtype=i64]())");
        graph.define("y", text);
        assert_eq!(graph.outcome("y").0, *expected, "{text}");
    }
}
