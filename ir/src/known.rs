//! What small integer tensors contain, as expressions over the symbols: the arithmetic of shapes.
//!
//! A model computes shapes with tensors: the extents of a value are taken apart, multiplied, joined and given to a reshape.
//! Here the same ops run over [`Dim`]s instead of numbers, so that `concat(dims[N, 3], [-1])` is known to be `[N, 3, -1]`
//! before `N` is.
//!
//! Invariant: [`eval`] gives contents only where they hold for all values of the symbols, which stand for extents and so lie
//! between 0 and [`LARGEST_EXTENT`], as long as no element overflows its type. Bools are 0 and 1; floats are known when they
//! are integers.
//!
//! ```
//! use egret_ir::{Dim, Known, Op, Tensor, known};
//! let shape = Known { shape: vec![2], values: vec![Dim::symbol("N"), 3.into()] };
//! let index = Known::of(&Tensor::from_i64s(vec![], &[0])).unwrap();
//! let types = [&shape, &index].map(|k| k.ty(egret_ir::DType::I64));
//! let n = known::eval(&Op::gather { axis: 0 }, &[Some(&shape), Some(&index)], &[&types[0], &types[1]]);
//! assert_eq!(n.unwrap().values, [Dim::symbol("N")]);
//! ```

use crate::dim::{Atom, Dim};
use crate::graph::{Graph, ValueId};
use crate::op::{Op, Reduction};
use crate::ops::strided;
use crate::tensor::{Element, Tensor};
use crate::ty::{DType, TensorType};
use std::collections::HashMap;
use std::sync::Arc;

/// The largest tensor whose contents are followed, in elements. Shapes have as many elements as tensors have axes; the
/// longest lists seen in exported models, tables of paddings and of slices, have a few dozen.
pub const LARGEST: usize = 1024;

/// What a symbol is at most.
pub const LARGEST_EXTENT: i64 = 1 << 40;

/// The contents of a tensor of static shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// The tensor's extents.
    pub shape: Vec<usize>,
    /// The elements in row-major order.
    pub values: Vec<Dim>,
}

impl Known {
    /// The contents of a tensor, if all of them are integers that a [`Dim`] holds and there are at most [`LARGEST`].
    pub fn of(tensor: &Tensor) -> Option<Known> {
        if tensor.count() > LARGEST {
            return None;
        }
        let values = tensor.elements().map(integer).collect::<Option<_>>()?;
        Some(Known { shape: tensor.shape().to_vec(), values })
    }

    /// The same as a tensor, if no symbol is in it and `dtype` holds every number.
    pub fn to_tensor(&self, dtype: DType) -> Option<Tensor> {
        let elements = self.values.iter().map(|d| element(d, dtype)).collect::<Option<Vec<_>>>()?;
        Some(Tensor::from_elements(dtype, self.shape.clone(), elements))
    }

    /// The type of a tensor with these contents.
    pub fn ty(&self, dtype: DType) -> TensorType {
        TensorType::new(dtype, self.shape.iter().copied())
    }

    /// Whether no symbol is in it.
    pub fn is_numbers(&self) -> bool {
        self.values.iter().all(|d| d.as_const().is_some())
    }
}

fn integer(element: Element) -> Option<Dim> {
    match element {
        Element::Int(v) => i64::try_from(v).ok().map(Dim::from),
        Element::Bool(v) => Some(Dim::from(i64::from(v))),
        // -0.0 is not the integer 0: its reciprocal differs.
        Element::Float(v) => {
            (v.fract() == 0.0 && v.abs() < LARGEST_EXTENT as f64 && !(v == 0.0 && v.is_sign_negative())).then_some(Dim::from(v as i64))
        }
    }
}

fn element(value: &Dim, dtype: DType) -> Option<Element> {
    let exact = Element::Int(value.as_const()?.into());
    let stored = exact.rounded(dtype);
    (stored.as_int() == exact.as_int()).then_some(stored)
}

/// The contents of an op's only result, from those of its operands where these are known, and the operands' types.
pub fn eval(op: &Op, operands: &[Option<&Known>], types: &[&TensorType]) -> Option<Known> {
    let results = op.infer(types).ok()?;
    let [result] = results.as_slice() else { return None };
    let shape = result.static_dims().filter(|s| s.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).is_some_and(|n| n <= LARGEST))?;
    if let Op::dims { values } = op {
        return Some(Known { shape, values: values.clone() });
    }
    let operands = operands.iter().copied().collect::<Option<Vec<_>>>()?;
    if let Some(numbers) = operands.iter().zip(types).map(|(k, t)| k.to_tensor(t.dtype)).collect::<Option<Vec<_>>>() {
        return Known::of(op.eval(&numbers.iter().collect::<Vec<_>>()).ok()?.first()?);
    }
    let values = if let Some((reduction, axes)) = op.reduction() {
        reduce(reduction, axes, operands[0], &shape)?
    } else if op.is_elementwise() {
        elementwise(op, &operands, types, &shape)?
    } else {
        move_elements(op, &operands)?
    };
    Some(Known { shape, values })
}

/// An op that only moves elements says where they go when it is given their numbers.
fn move_elements(op: &Op, operands: &[&Known]) -> Option<Vec<Dim>> {
    let indices = match op {
        Op::transpose { .. } | Op::reshape { .. } | Op::broadcast { .. } | Op::slice { .. } | Op::concat { .. } | Op::pad { .. } => None,
        Op::gather { .. } | Op::gather_elements { .. } | Op::gather_nd { .. } => Some(1),
        Op::scatter_elements { mode, .. } | Op::scatter_nd { mode } if *mode == crate::attr::ScatterMode::Replace => Some(1),
        _ => return None,
    };
    let pool: Vec<&Dim> = operands.iter().flat_map(|k| &k.values).collect();
    let mut first = 0;
    let numbered = operands.iter().enumerate().map(|(i, known)| {
        let numbers: Vec<i64> = (first..).take(known.values.len()).collect();
        first += known.values.len() as i64;
        match indices {
            Some(place) if place == i => known.to_tensor(DType::I64),
            _ => Some(Tensor::from_i64s(known.shape.clone(), &numbers)),
        }
    });
    let numbered = numbered.collect::<Option<Vec<_>>>()?;
    let moved = op.eval(&numbered.iter().collect::<Vec<_>>()).ok()?;
    Some(moved.first()?.to_i64s()?.into_iter().map(|i| pool[i as usize].clone()).collect())
}

fn reduce(reduction: Reduction, axes: &[usize], x: &Known, shape: &[usize]) -> Option<Vec<Dim>> {
    // The elements that meet in each element of the result.
    let mut groups: Vec<Vec<&Dim>> = vec![vec![]; shape.iter().product()];
    let mut strides = strided::strides(shape);
    axes.iter().for_each(|&axis| strides[axis] = 0);
    let mut index = vec![0; shape.len()];
    for value in &x.values {
        let at: isize = index.iter().zip(&strides).map(|(&i, s)| i as isize * s).sum();
        groups[at as usize].push(value);
        strided::advance(&mut index, &x.shape);
    }
    let fold = |group: Vec<&Dim>| {
        let (count, mut values) = (group.len(), group.into_iter().cloned());
        match reduction {
            Reduction::Sum => Some(values.sum()),
            Reduction::Prod => Some(values.product()),
            Reduction::Mean => values.sum::<Dim>().exact_div(&count.into()),
            Reduction::Max => values.next().map(|first| values.fold(first, |a, b| maximum(&a, &b))),
            Reduction::Min => values.next().map(|first| values.fold(first, |a, b| minimum(&a, &b))),
        }
    };
    groups.into_iter().map(fold).collect()
}

fn elementwise(op: &Op, operands: &[&Known], types: &[&TensorType], shape: &[usize]) -> Option<Vec<Dim>> {
    let places: Vec<Vec<i64>> = operands.iter().map(|k| places(k, shape)).collect();
    let expr = op.typed_scalar(types.iter().map(|t| t.dtype)).ok()?;
    let one = |i: usize| {
        let values: Vec<&Dim> = operands.iter().zip(&places).map(|(k, at)| &k.values[at[i] as usize]).collect();
        let numbers: Option<Vec<Element>> = values.iter().zip(types).map(|(d, t)| element(d, t.dtype)).collect();
        match numbers {
            Some(numbers) => integer(expr.eval(&numbers)),
            None => symbolic(op, &values, types[types.len() - 1].dtype),
        }
    };
    (0..shape.iter().product()).map(one).collect()
}

/// Which element of an operand stands at each element of the result.
fn places(known: &Known, shape: &[usize]) -> Vec<i64> {
    let own = Tensor::from_i64s(known.shape.clone(), &(0..known.values.len() as i64).collect::<Vec<_>>());
    strided::broadcast(&own, shape).to_i64s().unwrap_or_default()
}

/// The meaning of an elementwise op on expressions, as far as extents need it.
fn symbolic(op: &Op, operands: &[&Dim], dtype: DType) -> Option<Dim> {
    let value = match (op, operands) {
        (Op::add, [a, b]) => (*a).clone() + (*b).clone(),
        (Op::sub, [a, b]) => (*a).clone() - (*b).clone(),
        (Op::mul, [a, b]) => (*a).clone() * (*b).clone(),
        (Op::div, [a, b]) => quotient(a, b, dtype)?,
        (Op::modulo, [a, b]) if is_positive(b) => a.modulo(b),
        (Op::fmod, [a, b]) if is_nonnegative(a) && is_positive(b) => a.modulo(b),
        (Op::max, [a, b]) => maximum(a, b),
        (Op::min, [a, b]) => minimum(a, b),
        (Op::clip, [x, low, high]) => minimum(&maximum(x, low), high),
        (Op::relu, [x]) => maximum(x, &Dim::ZERO),
        (Op::neg, [x]) => -(*x).clone(),
        (Op::abs, [x]) if is_nonnegative(x) => (*x).clone(),
        (Op::abs, [x]) if interval(x).1 <= 0 => -(*x).clone(),
        (Op::sign, [x]) if is_positive(x) => Dim::ONE,
        (Op::floor | Op::ceil | Op::round, [x]) => (*x).clone(),
        (Op::cast { to: DType::Bool }, [x]) => return equal(x, &Dim::ZERO).map(|zero| truth(!zero)),
        (Op::cast { to }, [x]) => return holds(*to, x).then(|| (*x).clone()),
        (Op::pow, [x, exponent]) => power(x, exponent)?,
        (Op::eq, [a, b]) => return equal(a, b).map(truth),
        (Op::lt, [a, b]) => return less(a, b).map(truth),
        (Op::le, [a, b]) => return less(b, a).map(|less| truth(!less)),
        (Op::select, [condition, x, y]) => match condition.as_const() {
            Some(c) => {
                if c != 0 {
                    (*x).clone()
                } else {
                    (*y).clone()
                }
            }
            None if x == y => (*x).clone(),
            None => return None,
        },
        _ => return None,
    };
    holds(dtype, &value).then_some(value)
}

fn truth(holds: bool) -> Dim {
    Dim::from(i64::from(holds))
}

/// Whether an element type is taken to hold an expression: shapes are computed in the wide types. The narrow ones overflow
/// for ordinary extents, and the unsigned ones hold what is never negative.
fn holds(dtype: DType, value: &Dim) -> bool {
    match dtype {
        DType::I64 | DType::I32 | DType::F64 | DType::F32 | DType::Bool => true,
        DType::U64 | DType::U32 => is_nonnegative(value),
        DType::F16 | DType::BF16 | DType::I16 | DType::I8 | DType::U16 | DType::U8 => false,
        DType::F8E4M3 | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F4E2M1 => false,
        DType::I4 | DType::U4 | DType::I2 | DType::U2 | DType::Str => false,
    }
}

fn quotient(a: &Dim, b: &Dim, dtype: DType) -> Option<Dim> {
    // Truncation is rounding down where nothing is negative.
    let rounds_down = || dtype.is_int() && is_nonnegative(a) && is_positive(b);
    a.exact_div(b).filter(|_| !b.is(0)).or_else(|| rounds_down().then(|| a.floor_div(b)))
}

/// Small powers, written out.
fn power(x: &Dim, exponent: &Dim) -> Option<Dim> {
    exponent.as_const().filter(|e| (0..=4).contains(e)).map(|e| (0..e).map(|_| x.clone()).product())
}

/// Whether two expressions are equal, where that is the same for all values of the symbols.
pub fn equal(a: &Dim, b: &Dim) -> Option<bool> {
    match interval(&(a.clone() - b.clone())) {
        (0, 0) => Some(true),
        (low, high) if low > 0 || high < 0 => Some(false),
        _ => None,
    }
}

/// Whether `a < b`, where that is the same for all values of the symbols.
pub fn less(a: &Dim, b: &Dim) -> Option<bool> {
    match interval(&(a.clone() - b.clone())) {
        (_, high) if high < 0 => Some(true),
        (low, _) if low >= 0 => Some(false),
        _ => None,
    }
}

/// The larger of two, without `max` where one is never the smaller.
pub fn maximum(a: &Dim, b: &Dim) -> Dim {
    match interval(&(a.clone() - b.clone())) {
        (low, _) if low >= 0 => a.clone(),
        (_, high) if high <= 0 => b.clone(),
        _ => a.maximum(b),
    }
}

/// The smaller of two, without `min` where one is never the larger.
pub fn minimum(a: &Dim, b: &Dim) -> Dim {
    match interval(&(a.clone() - b.clone())) {
        (_, high) if high <= 0 => a.clone(),
        (low, _) if low >= 0 => b.clone(),
        _ => a.minimum(b),
    }
}

/// Whether it is at least 0 for all values of the symbols.
pub fn is_nonnegative(d: &Dim) -> bool {
    interval(d).0 >= 0
}

/// Whether it is at least 1 for all values of the symbols.
pub fn is_positive(d: &Dim) -> bool {
    interval(d).0 >= 1
}

/// Numbers that an expression lies between, both inclusive, for all values of the symbols in `0..=LARGEST_EXTENT`. Not the
/// narrowest ones: symbols that stand twice count as independent.
pub fn interval(d: &Dim) -> (i128, i128) {
    if let Some(c) = d.as_const() {
        return (c.into(), c.into());
    }
    d.terms().iter().fold((0, 0), |sum, term| {
        let start = (term.coefficient.into(), term.coefficient.into());
        let product = term.atoms.iter().fold(start, |p, atom| times(p, atom_interval(atom)));
        (sum.0.saturating_add(product.0), sum.1.saturating_add(product.1))
    })
}

const ANYTHING: (i128, i128) = (i128::MIN, i128::MAX);

fn atom_interval(atom: &Atom) -> (i128, i128) {
    let pair = |a: &Dim, b: &Dim| (interval(a), interval(b));
    match atom {
        Atom::Symbol(_) => (0, LARGEST_EXTENT.into()),
        Atom::Div(a, b) => match pair(a, b) {
            (a, b) if b.0 >= 1 => hull([a.0.div_euclid(b.0), a.0.div_euclid(b.1), a.1.div_euclid(b.0), a.1.div_euclid(b.1)]),
            _ => ANYTHING,
        },
        Atom::Mod(a, b) => match pair(a, b) {
            (a, b) if b.0 >= 1 && a.0 >= 0 => (0, a.1.min(b.1 - 1)),
            (_, b) if b.0 >= 1 => (0, b.1 - 1),
            _ => ANYTHING,
        },
        Atom::Max(a, b) => {
            let (a, b) = pair(a, b);
            (a.0.max(b.0), a.1.max(b.1))
        }
        Atom::Min(a, b) => {
            let (a, b) = pair(a, b);
            (a.0.min(b.0), a.1.min(b.1))
        }
    }
}

fn times(a: (i128, i128), b: (i128, i128)) -> (i128, i128) {
    hull([a.0.saturating_mul(b.0), a.0.saturating_mul(b.1), a.1.saturating_mul(b.0), a.1.saturating_mul(b.1)])
}

fn hull(corners: [i128; 4]) -> (i128, i128) {
    let [first, rest @ ..] = corners;
    rest.into_iter().fold((first, first), |(low, high), c| (low.min(c), high.max(c)))
}

/// The contents of a graph's values, as far as they are known: followed from node to node, once.
///
/// The graph may grow between two questions; nodes that were there before must stay.
#[derive(Clone, Debug, Default)]
pub struct KnownMap {
    seen: usize,
    numbers: HashMap<ValueId, Arc<Tensor>>,
    contents: HashMap<ValueId, Known>,
}

impl KnownMap {
    /// Knows nothing yet.
    pub fn new() -> KnownMap {
        KnownMap::default()
    }

    /// The integer contents of a value, if they are known.
    pub fn known(&mut self, graph: &Graph, value: ValueId) -> Option<Known> {
        self.follow(graph);
        self.content(graph, value)
    }

    /// The tensor that a value always is, if it is known to the last bit: a constant of any size, or small and computed
    /// from constants and numeric extents.
    pub fn tensor(&mut self, graph: &Graph, value: ValueId) -> Option<Arc<Tensor>> {
        self.follow(graph);
        graph.constant(value).or_else(|| self.numbers.get(&value)).cloned()
    }

    /// Takes note of the nodes that were added since the last question.
    fn follow(&mut self, graph: &Graph) {
        for node in &graph.nodes()[self.seen..] {
            let small = node.results.iter().all(|&r| is_small(graph.ty(r)));
            if small && node.region.is_none() {
                self.learn(graph, &node.op, &node.operands, &node.results);
            }
        }
        self.seen = graph.nodes().len();
    }

    fn learn(&mut self, graph: &Graph, op: &Op, operands: &[ValueId], results: &[ValueId]) {
        let numbers: Option<Vec<Arc<Tensor>>> = operands.iter().map(|&v| self.number(graph, v)).collect();
        if let Some(numbers) = numbers
            && let Ok(values) = op.eval(&numbers.iter().map(|t| &**t).collect::<Vec<_>>())
        {
            return results.iter().zip(values).for_each(|(&r, value)| drop(self.numbers.insert(r, value.into())));
        }
        let contents: Vec<Option<Known>> = operands.iter().map(|&v| self.content(graph, v)).collect();
        let types: Vec<&TensorType> = operands.iter().map(|&v| graph.ty(v)).collect();
        if let (Some(known), [result]) = (eval(op, &contents.iter().map(Option::as_ref).collect::<Vec<_>>(), &types), results) {
            self.contents.insert(*result, known);
        }
    }

    fn number(&self, graph: &Graph, value: ValueId) -> Option<Arc<Tensor>> {
        graph.constant(value).filter(|t| t.count() <= LARGEST).or_else(|| self.numbers.get(&value)).cloned()
    }

    fn content(&self, graph: &Graph, value: ValueId) -> Option<Known> {
        self.contents.get(&value).cloned().or_else(|| self.number(graph, value).and_then(|t| Known::of(&t)))
    }
}

fn is_small(ty: &TensorType) -> bool {
    let count = ty.static_dims().and_then(|s| s.iter().try_fold(1usize, |n, &d| n.checked_mul(d)));
    count.is_some_and(|n| n <= LARGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;

    /// The contents of the last value of a graph over `x: f32[N, 3, H]`.
    #[track_caller]
    fn check(nodes: &str, expected: &str) {
        let last = nodes.trim().lines().last().unwrap().split_whitespace().next().unwrap();
        let graph = text::parse(&format!("graph g(x: f32[N, 3, H]) {{\n{nodes}\nreturn {last}\n}}")).unwrap();
        let mut map = KnownMap::new();
        let found = match map.known(&graph, graph.results[0]) {
            Some(known) => format!("{:?} {:?}", known.shape, known.values),
            None => "unknown".to_string(),
        };
        assert_eq!(found, expected, "{nodes}");
    }

    #[test]
    fn shape_arithmetic_of_exporters() {
        // view(x.size(0), -1)
        check(
            "s = dims[values = [N, 3, H]]()
             const i: i64[1] = [0]
             const m: i64[1] = [-1]
             n = gather[axis = 0](s, i)
             y = concat[axis = 0](n, m)",
            "[2] [N, -1]",
        );
        // x.numel() // 2
        check(
            "s = dims[values = [N, 3, H]]()
             const two: i64[] = 2
             p = reduce_prod[axes = [0]](s)
             y = div(p, two)",
            "[1] [div(3*H*N, 2)]",
        );
        // expand(-1, 4, ..) of Torch: where(shape == -1, ones, shape)
        check(
            "s = dims[values = [N, 3, H]]()
             const given: i64[3] = [-1, 4, -1]
             const minus: i64[] = -1
             c = eq(given, minus)
             y = select(c, s, given)",
            "[3] [N, 4, H]",
        );
        // interpolate(scale_factor=2) by floats
        check(
            "s = dims[values = [N, H]]()
             const two: f32[] = 2.0
             f = cast[to = f32](s)
             m = mul(f, two)
             r = floor(m)
             y = cast[to = i64](r)",
            "[2] [2*N, 2*H]",
        );
        // slices, reversals, reshapes
        check(
            "s = dims[values = [N, 3, H]]()
             r = slice[start = [2], shape = [2], step = [-2]](s)
             y = reshape[shape = [1, 2]](r)",
            "[1, 2] [H, N]",
        );
    }

    #[test]
    fn extents_are_never_negative() {
        check("s = dims[values = [N]]()\nconst c: i64[] = -1\ny = eq(s, c)", "[1] [0]");
        check("s = dims[values = [N]]()\nconst c: i64[] = 0\ny = lt(s, c)", "[1] [0]");
        check("s = dims[values = [N]]()\nconst c: i64[] = 0\ny = max(s, c)", "[1] [N]");
        check("s = dims[values = [N]]()\nconst c: i64[] = 9223372036854775807\ny = min(s, c)", "[1] [N]");
        check("s = dims[values = [N + 2]]()\nconst c: i64[] = 3\ny = fmod(s, c)", "[1] [mod(N + 2, 3)]");
    }

    #[test]
    fn what_depends_on_the_symbols_is_unknown() {
        check("s = dims[values = [N]]()\nconst c: i64[] = 1\ny = eq(s, c)", "unknown");
        check("s = dims[values = [N - 5]]()\nconst c: i64[] = 2\ny = div(s, c)", "unknown");
        check("s = dims[values = [N]]()\ny = cast[to = i8](s)", "unknown");
        check("y = relu(x)", "unknown");
    }

    #[test]
    fn numbers_are_computed_whatever_the_op() {
        check(
            "s = dims[values = [7, 10]]()
             const half: f32[] = 0.5
             f = cast[to = f32](s)
             m = mul(f, half)
             r = floor(m)
             y = cast[to = i64](r)",
            "[2] [3, 5]",
        );
        check("const c: f32[2] = [0.5, -0.0]\ny = neg(c)", "unknown");
        check("y = iota[shape = [2, 2], axis = 1, dtype = i64]()", "[2, 2] [0, 1, 0, 1]");
    }

    #[test]
    fn intervals_hold_for_sampled_values() {
        let (n, m) = (Dim::symbol("N"), Dim::symbol("M"));
        let expressions = [
            n.clone() * 2 - m.clone() * 3 + 1,
            (n.clone() - 7).floor_div(&(m.clone() + 1)),
            (n.clone() - 7).modulo(&(m.clone() + 2)),
            n.minimum(&(m.clone() * 2 - 9)).maximum(&(n.clone() - m.clone())),
        ];
        for d in expressions {
            let (low, high) = interval(&d);
            for (n, m) in (0..12).flat_map(|n| (0..12).map(move |m| (n, m))) {
                let value = i128::from(d.eval(&crate::Bindings::from([("N".into(), n), ("M".into(), m)])).unwrap());
                assert!((low..=high).contains(&value), "{d} is {value} at N = {n}, M = {m}, outside of {low}..={high}");
            }
        }
    }
}
