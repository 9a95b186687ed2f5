//! Whole graphs under the cross-check: those of the filetests, and random ones. All members of each class evaluate alike.

use super::super::{Class, Rule};
use super::prove_on;
use egret_ir::random::random;
use egret_ir::text::parse;
use egret_ir::{Bindings, DType, Graph, Op, Tensor, TensorType, ValueId};
use std::fs;
use std::path::Path;

/// Random graphs that are checked.
const GRAPHS: u64 = 60;

/// Nodes of each.
const NODES: usize = 14;

/// The extent of free dimensions.
const EXTENT: i64 = 3;

/// Checks a graph under all rules; says how many e-nodes were compared.
fn cross_checked(graph: &Graph) -> Result<usize, String> {
    let symbols = graph.params().iter().flat_map(|&p| graph.ty(p).dims.iter().flat_map(|d| d.symbols()).collect::<Vec<_>>());
    let bindings: Bindings = symbols.map(|s| (s, EXTENT)).collect();
    let graph = graph.bind(&bindings)?;
    let inputs: Result<Vec<Tensor>, String> = graph.params().iter().zip(1..).map(|(&p, seed)| random(seed, graph.ty(p))).collect();
    let rules: Vec<Rule> = super::super::all().iter().filter(|r| r.class < Class::Approx).cloned().collect();
    prove_on(&graph, &inputs?, &rules)
}

#[test]
fn the_graphs_of_the_filetests_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/filetests");
    let mut checked = 0;
    for topic in ["eval", "group", "layout", "legalize", "passes", "run"] {
        let Ok(files) = fs::read_dir(root.join(topic)) else { continue };
        for path in files.flatten().map(|f| f.path()).filter(|p| p.extension().is_some_and(|e| e == "egir")) {
            let text = fs::read_to_string(&path).unwrap();
            let graph = parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            if crate::stage::needs_stages(&graph) {
                continue; // Rules see the stages of such graphs, one at a time.
            }
            checked += cross_checked(&graph).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
    assert!(checked > 100, "{checked}");
}

/// A random graph over `[2, 3, 4]` and what movement makes of it.
struct Maker {
    state: u64,
    graph: Graph,
    values: Vec<ValueId>,
}

impl Maker {
    fn new(seed: u64) -> Maker {
        let mut graph = Graph::new("random");
        let values = ["x", "y"].map(|name| graph.add_param(name, TensorType::new(DType::F32, [2, 3, 4])));
        Maker { state: seed, graph, values: values.to_vec() }
    }

    fn below(&mut self, n: usize) -> usize {
        self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.state >> 33) as usize % n
    }

    fn value(&mut self) -> ValueId {
        let at = self.below(self.values.len());
        self.values[at]
    }

    /// Adds a node, if its operands fit.
    fn node(&mut self) {
        let x = self.value();
        let ty = self.graph.ty(x).clone();
        let rank = ty.rank();
        let (op, operands) = match self.below(10) {
            0 => (self.unary(), vec![x]),
            1..=2 => (self.binary(), vec![x, self.value()]),
            3 => (self.binary(), vec![x, self.weight(&[])]),
            4 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                (1..rank).for_each(|i| perm.swap(i, self.below(i + 1)));
                (Op::transpose { perm }, vec![x])
            }
            5 => (Op::reshape { shape: self.reshaped(&ty) }, vec![x]),
            6 => (Op::softmax { axes: vec![rank - 1] }, vec![x]),
            7 => (Op::reduce_mean { axes: vec![rank - 1] }, vec![x]),
            8 => (Op::matmul, vec![x, self.value()]),
            _ => {
                let inner = ty.dims[rank - 1].as_const().unwrap_or(1) as usize;
                (Op::matmul, vec![x, self.weight(&[inner, 4])])
            }
        };
        if let Ok(value) = self.graph.add("v", op, &operands) {
            self.values.push(value);
        }
    }

    fn unary(&mut self) -> Op {
        [Op::relu, Op::sigmoid, Op::neg, Op::exp, Op::tanh][self.below(5)].clone()
    }

    fn binary(&mut self) -> Op {
        [Op::add, Op::mul, Op::sub, Op::max, Op::div][self.below(5)].clone()
    }

    /// Two neighbouring axes joined, or all in one row.
    fn reshaped(&mut self, ty: &TensorType) -> Vec<egret_ir::Dim> {
        match ty.dims.as_slice() {
            [a, b, rest @ ..] if self.below(2) == 0 => [&[a.clone() * b.clone()], rest].concat(),
            _ => vec![1.into(), ty.count()],
        }
    }

    fn weight(&mut self, dims: &[usize]) -> ValueId {
        let seed = self.state;
        let ty = TensorType::new(DType::F32, dims.iter().copied());
        self.graph.add_const("w", random(seed, &ty).expect("it is of f32"))
    }
}

#[test]
fn random_graphs_hold() {
    for seed in 0..GRAPHS {
        let mut maker = Maker::new(seed * 7919 + 1);
        (0..NODES).for_each(|_| maker.node());
        let last = maker.values[maker.values.len() - 1];
        maker.graph.add_result(last, "result");
        if let Err(message) = cross_checked(&maker.graph) {
            panic!("seed {seed}: {message}\n{}", egret_ir::text::print(&maker.graph, egret_ir::text::Options::brief()));
        }
    }
}
