//! Replaces composite nodes by their bodies: `silu(x)` by `mul(x, sigmoid(x))`.
//!
//! Within one body equal sub-expressions become one node, so `softmax` computes its maximum once. The last node keeps the
//! name of the node it replaces; the others are called `<name>.1`, `<name>.2` ..., and all keep its origin.
//!
//! ```
//! use egret_ir::{Op, expand::expand, text};
//! let g = text::parse("graph g(x: f32[N]) { y = silu(x) return y }").unwrap();
//! let g = expand(&g, |op| *op == Op::silu).unwrap();
//! assert_eq!(g.to_string(), "\
//! graph g(x: f32[N]) -> f32[N] {
//!     y.1 = sigmoid(x)  : f32[N]
//!     y   = mul(x, y.1) : f32[N]
//!     return y
//! }
//! ");
//! ```

use crate::expr::{self, Domain, Expr};
use crate::graph::{Copy, Graph, Node, Source, ValueId};
use crate::op::{Kind, Op, OpDef};
use crate::tensor::{Element, Tensor};
use crate::ty::{DType, TensorType};
use std::collections::HashMap;
use std::sync::Arc;

/// The graph in which every composite node that `chosen` names is replaced by its body; in the body too, and inside of
/// kernels.
///
/// # Errors
/// When a body does not type-check, which inference of the composite has ruled out; names the value.
pub fn expand(graph: &Graph, chosen: impl Fn(&Op) -> bool) -> Result<Graph, String> {
    expand_if(graph, &chosen)
}

/// Whether the body of a composite is made of elementwise ops alone, so that it is one scalar expression per element.
pub fn is_elementwise_composite(op: &Op) -> bool {
    op.def().kind == Kind::Composite && has_elementwise_body(op.def())
}

fn has_elementwise_body(def: &'static OpDef) -> bool {
    fn holds(expr: &Expr) -> bool {
        match expr {
            Expr::Var(_) | Expr::Literal(_) => true,
            Expr::App { op, operands, .. } => is_elementwise(op) && operands.iter().all(holds),
        }
    }
    holds(&expr::body(def))
}

fn is_elementwise(def: &'static OpDef) -> bool {
    match def.kind {
        Kind::Elementwise => true,
        Kind::Composite => has_elementwise_body(def),
        Kind::View | Kind::Reduce | Kind::Structured => false,
    }
}

fn expand_if(graph: &Graph, chosen: &dyn Fn(&Op) -> bool) -> Result<Graph, String> {
    let mut copy = Copy::new(graph, TensorType::clone);
    let mut literals = HashMap::new();
    for node in graph.nodes() {
        match &node.region {
            Some(_) => copy.node_with(node, node.op.clone(), |region| expand_if(region, chosen))?,
            None if is_chosen(&node.op, chosen) => expand_node(&mut copy, node, chosen, &mut literals)?,
            None => copy.node(node)?,
        }
    }
    Ok(copy.finish())
}

fn is_chosen(op: &Op, chosen: &dyn Fn(&Op) -> bool) -> bool {
    op.def().kind == Kind::Composite && chosen(op)
}

fn expand_node(
    copy: &mut Copy,
    node: &Node,
    chosen: &dyn Fn(&Op) -> bool,
    literals: &mut HashMap<(DType, u64), ValueId>,
) -> Result<(), String> {
    let name = copy.old.value(node.results[0]).name.clone();
    let operands = copy.values(&node.operands);
    let terms: Vec<Term> = operands.iter().map(|&v| Term { ty: copy.new.ty(v).clone(), kind: TermKind::Value(v) }).collect();
    let body = expr::expand(&node.op, &terms.iter().collect::<Vec<_>>()).map_err(|e| format!("`{name}`: {e}"))?;
    let mut builder = Builder { graph: &mut copy.new, chosen, name: &name, origin: &node.origin, made: HashMap::new(), literals, count: 0 };
    let result = builder.root(&body)?;
    copy.set(node.results[0], result);
    Ok(())
}

/// A value of a body before there is a node for it.
#[derive(Clone)]
struct Term {
    ty: TensorType,
    kind: TermKind,
}

#[derive(Clone)]
enum TermKind {
    Value(ValueId),
    Literal(f64),
    App(Arc<(Op, Vec<Term>)>),
}

impl Domain for Term {
    fn dtype(&self) -> DType {
        self.ty.dtype
    }
    fn literal(value: f64, dtype: DType) -> Term {
        Term { ty: TensorType::scalar(dtype), kind: TermKind::Literal(value) }
    }
    fn apply(op: &Op, operands: &[&Term]) -> Result<Term, String> {
        let ty = op.infer(&operands.iter().map(|t| &t.ty).collect::<Vec<_>>())?.swap_remove(0);
        Ok(Term { ty, kind: TermKind::App(Arc::new((op.clone(), operands.iter().map(|&t| t.clone()).collect()))) })
    }
}

/// Makes the nodes of one body.
struct Builder<'a> {
    graph: &'a mut Graph,
    chosen: &'a dyn Fn(&Op) -> bool,
    name: &'a str,
    origin: &'a [Arc<str>],
    made: HashMap<(Op, Vec<ValueId>), ValueId>,
    /// Constants are shared by all bodies of a graph.
    literals: &'a mut HashMap<(DType, u64), ValueId>,
    count: usize,
}

impl Builder<'_> {
    /// The term as the value that takes the replaced node's name.
    fn root(&mut self, term: &Term) -> Result<ValueId, String> {
        match &term.kind {
            TermKind::App(app) => match self.nested(app)? {
                Some(body) => self.root(&body),
                None => {
                    let operands = self.operands(&app.1)?;
                    self.add(app.0.clone(), operands, self.name.to_string())
                }
            },
            TermKind::Value(_) | TermKind::Literal(_) => self.value(term),
        }
    }

    fn value(&mut self, term: &Term) -> Result<ValueId, String> {
        match &term.kind {
            TermKind::Value(value) => Ok(*value),
            TermKind::Literal(value) => Ok(self.literal(*value, term.ty.dtype)),
            TermKind::App(app) => match self.nested(app)? {
                Some(body) => self.value(&body),
                None => self.shared(app),
            },
        }
    }

    /// The body of a composite inside of a body, if that is to be expanded too.
    fn nested(&self, app: &(Op, Vec<Term>)) -> Result<Option<Term>, String> {
        let (op, operands) = app;
        if !is_chosen(op, self.chosen) {
            return Ok(None);
        }
        expr::expand(op, &operands.iter().collect::<Vec<_>>()).map(Some)
    }

    /// The node for an application; the one that is there if an equal one is.
    fn shared(&mut self, app: &(Op, Vec<Term>)) -> Result<ValueId, String> {
        let operands = self.operands(&app.1)?;
        let key = (app.0.clone(), operands);
        if let Some(&value) = self.made.get(&key) {
            return Ok(value);
        }
        self.count += 1;
        let value = self.add(key.0.clone(), key.1.clone(), format!("{}.{}", self.name, self.count))?;
        self.made.insert(key, value);
        Ok(value)
    }

    fn operands(&mut self, terms: &[Term]) -> Result<Vec<ValueId>, String> {
        terms.iter().map(|t| self.value(t)).collect()
    }

    fn add(&mut self, op: Op, operands: Vec<ValueId>, name: String) -> Result<ValueId, String> {
        let results = self.graph.add_node(op, &operands, &[&name], self.origin.to_vec());
        results.map(|r| r[0]).map_err(|e| format!("`{}`: {e}", self.name))
    }

    /// A rank-0 constant, called `f32.0.5`.
    fn literal(&mut self, value: f64, dtype: DType) -> ValueId {
        let graph = &mut *self.graph;
        *self.literals.entry((dtype, value.to_bits())).or_insert_with(|| {
            let tensor = Tensor::scalar(dtype, Element::Float(value));
            graph.add_const_from(&format!("{dtype}.{value:?}"), tensor, Source::Splat)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::eval;
    use crate::op::OPS;
    use crate::ops::samples;
    use crate::random::random;
    use crate::text;
    use crate::verify::verify;

    #[track_caller]
    fn check(input: &str, chosen: impl Fn(&Op) -> bool, expected: &str) {
        let expanded = expand(&text::parse(input).unwrap(), chosen).unwrap();
        verify(&expanded).unwrap();
        assert_eq!(expanded.to_string(), text::parse(expected).unwrap().to_string());
    }

    #[test]
    fn equal_parts_become_one_node() {
        check(
            "graph g(x: f32[N, 3]) { y = softmax[axes = [1]](x) @ \"s\" return y }",
            |_| true,
            "graph g(x: f32[N, 3]) {
                y.1 = reduce_max[axes = [1]](x) @ \"s\"
                y.2 = sub(x, y.1) @ \"s\"
                y.3 = exp(y.2) @ \"s\"
                y.4 = reduce_sum[axes = [1]](y.3) @ \"s\"
                y = div(y.3, y.4) @ \"s\"
                return y
            }",
        );
    }

    #[test]
    fn only_what_is_chosen() {
        let input = "graph g(x: f32[3]) { a = silu(x)  y = softmax[axes = [0]](a)  return y }";
        let expanded = "graph g(x: f32[3]) { a.1 = sigmoid(x)  a = mul(x, a.1)  y = softmax[axes = [0]](a)  return y }";
        check(input, is_elementwise_composite, expanded);
        check(input, |_| false, input);
    }

    #[test]
    fn literals_are_shared() {
        let input = text::parse("graph g(x: f32[3]) { a = gelu(x)  b = gelu(a)  y = gelu_tanh(b)  return y }").unwrap();
        let expanded = expand(&input, |_| true).unwrap();
        let constants = expanded.values().iter().filter(|v| matches!(v.def, crate::Def::Const(..))).count();
        assert_eq!(constants, 5, "{expanded}");
    }

    #[test]
    fn kernels_are_expanded_inside() {
        let region = text::parse("graph r(x: f32[3]) { y = silu(x) return y }").unwrap();
        let mut g = Graph::new("g");
        let x = g.add_param("x", TensorType::new(DType::F32, [3]));
        let y = g.add_kernel("k0", region, &[x], &["y"], vec![]).unwrap()[0];
        g.add_result(y, "y");
        let expanded = expand(&g, |_| true).unwrap();
        assert_eq!(expanded.nodes()[0].region.as_ref().unwrap().nodes().len(), 2);
    }

    #[test]
    fn a_body_means_its_composite() {
        for sample in samples::samples().iter().filter(|g| g.nodes()[0].op.def().kind == Kind::Composite) {
            let graph = sample.bind(&samples::bindings()).unwrap();
            let expanded = expand(&graph, |_| true).unwrap();
            verify(&expanded).unwrap();
            assert!(expanded.nodes().iter().all(|n| n.op.def().kind != Kind::Composite));
            let inputs: Vec<Tensor> = graph.params().iter().zip(1..).map(|(&p, seed)| random(seed, graph.ty(p)).unwrap()).collect();
            let [expected, found] = [&graph, &expanded].map(|g| eval(g, &inputs).unwrap());
            assert!(expected[0].bytes() == found[0].bytes(), "{graph}");
        }
    }

    #[test]
    fn elementwise_composites() {
        let names: Vec<&str> = OPS.iter().filter(|d| d.kind == Kind::Composite && has_elementwise_body(d)).map(|d| d.name).collect();
        assert_eq!(names, ["silu", "hard_swish", "mish", "gelu", "gelu_tanh", "batch_norm"]);
    }
}
