//! Random graphs of small values: whatever is lowered together has to mean what the reference evaluator says.

use crate::interpret::{kernels_text, run_interpreted};
use crate::target::Target;
use crate::testing::{as_kernel, compare, inputs, run_compiled};
use crate::{plan, testing};
use egret_ir::attr::PadMode;
use egret_ir::{Bindings, DType, Dim, Element, Graph, Op, Tensor, TensorType, ValueId, eval};

/// Graphs that are interpreted; every so many of them also become machine code.
const GRAPHS: u64 = 500;
const COMPILED_EVERY: u64 = 5;

/// Ops of a graph.
const OPS: usize = 7;

/// Larger values are not made, nor ones of higher rank.
const LARGEST: i64 = 150;
const RANK: usize = 4;

#[test]
fn random_graphs_mean_the_same_in_every_grouping() {
    let target = Target::named("x86-64-v4").unwrap();
    let mut run = 0;
    for seed in 0..GRAPHS {
        let graph = Random(seed).graph();
        match agrees(&graph, &target, seed % COMPILED_EVERY == 0) {
            Ok(ran) => run += u64::from(ran),
            Err(problem) => panic!("seed {seed}:\n{graph}\n{problem}"),
        }
    }
    assert!(run > GRAPHS * 3 / 4, "only {run} of {GRAPHS} graphs have a value");
}

/// Extents of inputs may be these symbols.
fn bindings() -> Bindings {
    Bindings::from([("M".into(), 3), ("N".into(), 4)])
}

/// Whether the graph has a value: extents that are a symbol and a number may differ after all.
fn agrees(graph: &Graph, target: &Target, compiled: bool) -> Result<bool, String> {
    let inputs = inputs(graph, &bindings())?;
    let Ok(expected) = eval::eval(graph, &inputs) else { return Ok(false) };
    let whole = as_kernel(graph)?;
    for graph in [&whole, graph] {
        let program = plan::build(graph, target, &|_, _| {}).map_err(|e| e.to_string())?;
        let explain = |e: String| format!("{e}\n{}", kernels_text(&program));
        let found = run_interpreted(&program, target.lanes, &inputs).map_err(explain)?;
        compare(&expected, &found).map_err(explain)?;
    }
    if let (true, Ok(native)) = (compiled, Target::native()) {
        testing::compare(&expected, &run_compiled(&whole, &native, 2, &inputs)?)?;
    }
    Ok(true)
}

/// A generator of numbers and graphs.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n.max(1)
    }

    /// An extent; every third graph has symbols among them.
    fn extent(&mut self, symbols: bool) -> Dim {
        match self.below(if symbols { 10 } else { 7 }) {
            7 | 8 => Dim::symbol("N"),
            9 => Dim::symbol("M"),
            i => Dim::from([1, 2, 2, 3, 4, 5, 6][i]),
        }
    }

    fn graph(&mut self) -> Graph {
        let mut g = Graph::new("random");
        let mut values = vec![];
        let symbols = self.below(3) == 0;
        for name in ["x", "y"] {
            let dims: Vec<Dim> = (0..1 + self.below(3)).map(|_| self.extent(symbols)).collect();
            values.push(g.add_param(name, TensorType { dtype: DType::F32, dims }));
        }
        let mut made = 0;
        while made < OPS {
            if let Some(value) = self.op(&mut g, &values, made) {
                values.push(value);
                made += 1;
            }
        }
        let last = values[values.len() - 1];
        g.add_result(last, "last");
        if self.below(2) == 0 {
            let other = values[2 + self.below(values.len() - 2)];
            g.add_result(other, "other");
        }
        g
    }

    /// A random op on random values, if it fits.
    fn op(&mut self, g: &mut Graph, values: &[ValueId], made: usize) -> Option<ValueId> {
        // Late values are taken more often, so that chains come about.
        let pick = |r: &mut Random| values[values.len() - 1 - r.below(values.len()).min(r.below(values.len()))];
        let x = pick(self);
        let dims = g.ty(x).dims.clone();
        let rank = dims.len();
        let (op, operands) = match self.below(14) {
            0 => (Op::neg, vec![x]),
            1 => (Op::relu, vec![x]),
            2 | 3 => (Op::add, vec![x, pick(self)]),
            4 | 5 => (Op::transpose { perm: self.permutation(rank) }, vec![x]),
            6 | 7 => (Op::reshape { shape: self.shape_of(&dims) }, vec![x]),
            8 => (self.slice(&dims), vec![x]),
            9 => (Op::broadcast { shape: dims.iter().map(|d| if d.is(1) { self.extent(false) } else { d.clone() }).collect() }, vec![x]),
            10 => (Op::concat { axis: self.below(rank) }, vec![x, pick(self)]),
            11 => {
                let value = g.add_const("border", Tensor::scalar(DType::F32, Element::Float(0.5)));
                let mut amounts = || dims.iter().map(|_| Dim::from([0, 0, 1, 2][self.below(4)])).collect();
                (Op::pad { low: amounts(), high: amounts(), mode: PadMode::Constant }, vec![x, value])
            }
            12 => match self.below(4) {
                0 => (Op::softmax { axes: vec![self.below(rank)] }, vec![x]),
                1 => (Op::reduce_mean { axes: (0..rank).filter(|_| self.below(2) == 0).collect() }, vec![x]),
                2 => (Op::matmul, vec![x, pick(self)]),
                _ => (Op::reduce_max { axes: vec![self.below(rank)] }, vec![x]),
            },
            _ => {
                let axis = self.below(rank);
                let extent = dims.get(axis)?.eval(&bindings())?;
                let indices: Vec<i64> = (0..1 + self.below(4)).map(|_| self.below(2 * extent as usize) as i64 - extent).collect();
                let indices = g.add_const("indices", Tensor::from_i64s(vec![indices.len()], &indices));
                (Op::gather { axis }, vec![x, indices])
            }
        };
        let types: Vec<&TensorType> = operands.iter().map(|&v| g.ty(v)).collect();
        let result = op.infer(&types).ok()?.swap_remove(0);
        let count = result.count().eval(&bindings())?;
        if result.rank() > RANK || count > LARGEST {
            return None;
        }
        g.add(&format!("v{made}"), op, &operands).ok()
    }

    fn permutation(&mut self, rank: usize) -> Vec<usize> {
        let mut left: Vec<usize> = (0..rank).collect();
        (0..rank).map(|_| left.remove(self.below(left.len()))).collect()
    }

    /// A shape with as many elements: any for a number of them, else two neighbouring axes as one.
    fn shape_of(&mut self, dims: &[Dim]) -> Vec<Dim> {
        let Some(mut count) = dims.iter().cloned().product::<Dim>().as_const() else {
            let mut shape = dims.to_vec();
            let at = self.below(dims.len());
            let first = shape.remove(at);
            match shape.get_mut(at) {
                Some(second) => *second = first * second.clone(),
                None => shape.extend([first, Dim::ONE]),
            }
            return shape;
        };
        let mut shape = vec![];
        while count > 1 && shape.len() + 1 < RANK {
            let divisors: Vec<i64> = (1..=count).filter(|d| count % d == 0).collect();
            let extent = divisors[self.below(divisors.len())];
            shape.push(Dim::from(extent));
            count /= extent;
        }
        shape.push(Dim::from(count));
        shape
    }

    /// Some elements of each axis; of a symbolic one all but the first or last, or backwards.
    fn slice(&mut self, dims: &[Dim]) -> Op {
        let (mut start, mut shape, mut step) = (vec![], vec![], vec![]);
        for extent in dims {
            let (first, count, stride) = match extent.as_const() {
                Some(n) => {
                    let stride = 1 + self.below(2) as i64;
                    let first = self.below(n as usize) as i64;
                    let backwards = self.below(3) == 0;
                    let most = if backwards { first / stride + 1 } else { (n - 1 - first) / stride + 1 };
                    let count = 1 + self.below(most as usize) as i64;
                    (first.into(), count.into(), if backwards { -stride } else { stride })
                }
                None => match self.below(4) {
                    0 => (Dim::ONE, extent.clone() - 1, 1),
                    1 => (Dim::ZERO, extent.clone() - 1, 1),
                    2 => (extent.clone() - 1, extent.clone(), -1),
                    _ => (Dim::ZERO, extent.clone(), 1),
                },
            };
            start.push(first);
            shape.push(count);
            step.push(stride);
        }
        Op::slice { start, shape, step }
    }
}
