//! Products with weights of few bits, which stay as few bits.
//!
//! A model whose weights were quantised holds integers with a scale, and perhaps a zero point, for each block of rows of each column, and
//! computes `(q - zero) * scale` before it multiplies. Computed when the model is compiled, such weights take 32 bits each; here they become
//! operands of `matmul_blocks`, whose kernel makes floats of them in registers.
//!
//! ```text
//! matmul(x, mul(cast[f32](sub(q, zero)), scale))      q: u8[k, n], known; zero, scale: the same number for each 32 rows
//! =>
//! matmul_blocks[block=32](x, q', zero', scale')       q': i4[k, n], zero': i8[k / 32, n], scale': f32[k / 32, n]
//! ```
//!
//! What is looked for is a product of integers and scales, in any spelling: both are computed, and the block is what the rows of the scales
//! say that it is. Zero points are chosen anew, so that four bits hold the integers if they can.
//!
//! Weights of which that many bytes would not be saved, or whose product would take much longer, are computed here and now.
//!
//! **Invariant.** A weight keeps its bits: the pass is `exact`.

use crate::cost::{Kind as Loops, Model, Work, weights_of};
use crate::dce::dce;
use crate::group::MACHINE;
use crate::pass::Context;
use crate::rules::Class;
use egret_ir::{Copy, DType, Graph, Kind, Node, NodeId, Op, Tensor, TensorType, ValueId};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// The kernel may take so many percent of the time of the one with weights in f32. Those are four to seven times as large, and a model was
/// quantised to be small: a quarter more time for many rows is less than what the memory costs. For few rows it is faster, since a
/// product then takes as long as its weights take to be read.
const MOST_TIME: u64 = 125;

/// Weights and scales have to be at most so many percent of the weights in f32: with blocks of few rows the scales outweigh the integers.
const MOST_BYTES: u64 = 50;

/// The largest weights in f32 that are computed: as `fold` does it.
const MOST_WEIGHTS: usize = 1 << 30;

/// What an integer less its zero point is, if both are bytes.
const DIFFERENCE: std::ops::RangeInclusive<f32> = -255.0..=255.0;

/// The pass; see the module. It changes nothing for targets without such a kernel.
///
/// # Errors
/// Only if a node does not type-check, which would be a bug of this pass.
pub fn blocks(graph: &Graph, context: &Context) -> Result<Graph, String> {
    if !context.blocks {
        return Ok(graph.clone());
    }
    let known = known_values(graph);
    let mut placed: HashMap<ValueId, Option<Placed>> = HashMap::new();
    let mut copy = Copy::new(graph, TensorType::clone);
    for (id, node) in graph.node_ids() {
        let made = match computed_weights(graph, node, &known) {
            Some(value) if placed.contains_key(&value) => placed[&value],
            Some(value) => {
                let weights = Weights::of(graph, value);
                let made = weights.map(|weights| weights.placed(&mut copy, value, |blocks| pays(graph, id, blocks, context)));
                *placed.entry(value).or_insert(made)
            }
            None => None,
        };
        let Some(made) = made else {
            copy.node(node)?;
            continue;
        };
        made.multiply(&mut copy, node)?;
        context.weaken(Class::Exact);
        context.count(made.name(), 1);
    }
    dce(&copy.finish())
}

/// What depends on constants only.
fn known_values(graph: &Graph) -> HashSet<ValueId> {
    let mut known: HashSet<ValueId> = graph.constants().map(|(id, _)| id).collect();
    for node in graph.nodes() {
        if node.region.is_none() && node.operands.iter().all(|v| known.contains(v)) {
            known.extend(&node.results);
        }
    }
    known
}

/// The weights of a product of matrices that are computed from constants, and only for such products.
fn computed_weights(graph: &Graph, node: &Node, known: &HashSet<ValueId>) -> Option<ValueId> {
    let is_product = |node: &Node, w: ValueId| node.op == Op::matmul && node.operands[1] == w && node.operands[0] != w;
    let w = *node.operands.get(1)?;
    let ty = graph.ty(w);
    let only_for_products = graph.readers(w).iter().all(|&id| is_product(graph.node(id), w)) && !graph.results.contains(&w);
    // One column has no columns beside it to be a vector with, and one row no block.
    let is_matrix = ty.dtype == DType::F32 && ty.rank() == 2 && ty.dims.iter().all(|d| d.as_const().is_some_and(|n| n > 1));
    let is_small = ty.static_dims()?.iter().try_fold(4usize, |bytes, &n| bytes.checked_mul(n))? <= MOST_WEIGHTS;
    let is_computed = known.contains(&w) && graph.constant(w).is_none();
    (is_product(node, w) && only_for_products && is_matrix && is_small && is_computed).then_some(w)
}

/// Whether a product is best computed with weights in blocks.
fn pays(graph: &Graph, id: NodeId, blocks: &Blocks, context: &Context) -> bool {
    let mut floats = Work::of_product(graph, id, None);
    if let Loops::Contract(products) = &mut floats.kind {
        products.together = if context.dots { 2 } else { 1 };
    }
    let few_bits = Work::of_product(graph, id, Some(blocks.bytes()));
    let share = |part: u64, whole: u64| part.saturating_mul(100) / whole.max(1);
    // The model's other weights are taken to be like these.
    let all = weights_of(graph);
    let in_floats = all.saturating_mul(floats.weights) / few_bits.weights.max(1);
    let [time_of_bits, time_of_floats] =
        [(&few_bits, all), (&floats, in_floats)].map(|(work, all)| Model::with_weights(MACHINE, all).time(work));
    share(few_bits.weights, floats.weights) <= MOST_BYTES && share(time_of_bits, time_of_floats) <= MOST_TIME
}

/// What constants come to, each computed once.
struct Known<'a> {
    graph: &'a Graph,
    made: HashMap<ValueId, Arc<Tensor>>,
}

impl Known<'_> {
    fn of(&mut self, value: ValueId) -> Option<Arc<Tensor>> {
        for id in self.needed(value) {
            let node = self.graph.node(id);
            let operands = node.operands.iter().map(|&v| self.tensor(v)).collect::<Option<Vec<_>>>()?;
            let operands: Vec<&Tensor> = operands.iter().map(|t| &**t).collect();
            let results = node.op.eval(&operands).ok()?;
            self.made.extend(node.results.iter().copied().zip(results.into_iter().map(Arc::new)));
        }
        self.tensor(value)
    }

    fn tensor(&self, value: ValueId) -> Option<Arc<Tensor>> {
        self.graph.constant(value).or_else(|| self.made.get(&value)).cloned()
    }

    /// The nodes that make a value, in order, but those whose results there are.
    fn needed(&self, value: ValueId) -> BTreeSet<NodeId> {
        let (mut needed, mut values) = (BTreeSet::new(), vec![value]);
        while let Some(value) = values.pop() {
            let maker = self.graph.producer(value).filter(|_| !self.made.contains_key(&value));
            if let Some(id) = maker.filter(|&id| needed.insert(id)) {
                values.extend(&self.graph.node(id).operands);
            }
        }
        needed
    }
}

/// Weights `[k, n]`: integers times scales.
struct Weights {
    shape: [usize; 2],
    integers: Vec<i16>,
    scales: Vec<f32>,
    /// Rows of a block: within one, neither scales nor zero points change.
    block: usize,
}

impl Weights {
    /// What views of a product of integers and scales are; of two that can be the integers, those whose scales change less.
    fn of(graph: &Graph, value: ValueId) -> Option<Weights> {
        let (views, product) = below_views(graph, value)?;
        let mut known = Known { graph, made: HashMap::new() };
        let shape = graph.ty(product.results[0]).static_dims()?;
        let mut seen = |value: ValueId| arranged(&*known.of(value)?, &shape, &views);
        let [a, b] = [product.operands[0], product.operands[1]];
        let factors = [seen(a)?, seen(b)?];
        let mut way = |i: usize| {
            let zeros = zero_of(graph, product.operands[i]).map_or(Some(None), |zeros| Some(Some(seen(zeros)?)))?;
            Weights::times([&factors[i], &factors[1 - i]], zeros.as_ref())
        };
        [way(0), way(1)].into_iter().flatten().max_by_key(|weights| weights.block)
    }

    /// From integers and scales, `[k, n]` each, and zero points, if there are any.
    fn times([integers, scales]: [&Tensor; 2], zeros: Option<&Tensor>) -> Option<Weights> {
        let shape = <[usize; 2]>::try_from(integers.shape()).ok()?;
        let are_integers = || floats(integers).all(|x| x.fract() == 0.0 && DIFFERENCE.contains(&x));
        let integers: Vec<i16> = are_integers().then(|| floats(integers).map(|x| x as i16).collect())?;
        let block = match [Some(scales), zeros].into_iter().flatten().fold(0, common) {
            0 => shape[0],
            rows => rows,
        };
        Some(Weights { shape, integers, scales: floats(scales).collect(), block })
    }

    /// The weights in the graph: in blocks where they can be and that pays, in f32 otherwise.
    fn placed(&self, copy: &mut Copy, value: ValueId, pays: impl Fn(&Blocks) -> bool) -> Placed {
        let name = copy.old.value(value).name.clone();
        let mut constant = |suffix: &str, tensor: Tensor| copy.new.add_const(&format!("{name}.{suffix}"), tensor);
        match self.blocks().filter(pays) {
            Some(Blocks { integers, zeros, scales }) => Placed::Blocks {
                rows: self.block,
                operands: [constant("integers", integers), constant("zeros", zeros), constant("scales", scales)],
            },
            None => Placed::Floats(constant("floats", self.floats())),
        }
    }

    fn floats(&self) -> Tensor {
        let weights: Vec<f32> = self.integers.iter().zip(&self.scales).map(|(&q, scale)| f32::from(q) * scale).collect();
        Tensor::from_f32s(self.shape.to_vec(), &weights)
    }

    /// In the fewest bits, and with one zero point for all if that does not take more.
    fn blocks(&self) -> Option<Blocks> {
        let [k, n] = self.shape;
        let blocks = k.div_ceil(self.block);
        let ranges = self.ranges();
        let whole = ranges.iter().copied().reduce(Range::with)?;
        let in_type = |dtype: DType| {
            let one = whole.zero(dtype).map(|zero| (vec![1, 1], vec![zero]));
            let each = || Some((vec![blocks, n], ranges.iter().map(|range| range.zero(dtype)).collect::<Option<Vec<i16>>>()?));
            one.or_else(each).map(|(shape, zeros)| (dtype, shape, zeros))
        };
        let (dtype, shape, zeros) = in_type(DType::I4).or_else(|| in_type(DType::I8))?;
        let zero = |at: usize| if zeros.len() == 1 { zeros[0] } else { zeros[at / n / self.block * n + at % n] };
        let integers = self.integers.iter().enumerate().map(|(at, &q)| q + zero(at));
        let scales: Vec<f32> = self.scales.chunks(n).step_by(self.block).flatten().copied().collect();
        Some(Blocks {
            integers: bytes(dtype, vec![k, n], integers)?,
            zeros: bytes(DType::I8, shape, zeros.iter().copied())?,
            scales: Tensor::from_f32s(vec![blocks, n], &scales),
        })
    }

    /// Of each block of each column.
    fn ranges(&self) -> Vec<Range> {
        let n = self.shape[1];
        let of_block = |rows: &[i16]| {
            let mut ranges: Vec<Range> = rows[..n].iter().map(|&q| Range { least: q, most: q }).collect();
            rows.chunks(n).for_each(|row| ranges.iter_mut().zip(row).for_each(|(r, &q)| *r = r.with(Range { least: q, most: q })));
            ranges
        };
        self.integers.chunks(n * self.block).flat_map(of_block).collect()
    }
}

/// What integers lie between.
#[derive(Clone, Copy)]
struct Range {
    least: i16,
    most: i16,
}

impl Range {
    fn with(self, other: Range) -> Range {
        Range { least: self.least.min(other.least), most: self.most.max(other.most) }
    }

    /// What is added to all of them so that a type holds them, the nearest to 0, if a byte holds it.
    fn zero(self, dtype: DType) -> Option<i16> {
        let (low, high) = dtype.int_range();
        let (low, high) = (low as i16 - self.least, high as i16 - self.most);
        (low <= high).then(|| 0.clamp(low, high)).filter(|zero| i8::try_from(*zero).is_ok())
    }
}

/// Integers that a byte holds.
fn bytes(dtype: DType, shape: Vec<usize>, of: impl Iterator<Item = i16>) -> Option<Tensor> {
    Tensor::new(dtype, shape, of.map(|x| x as u8).collect::<Vec<u8>>().into()).ok()
}

/// The operands of a product in blocks.
struct Blocks {
    integers: Tensor,
    zeros: Tensor,
    scales: Tensor,
}

impl Blocks {
    /// The bytes that the kernel reads.
    fn bytes(&self) -> u64 {
        let bits = |t: &Tensor| t.count() * t.dtype().bits();
        (bits(&self.integers) + bits(&self.scales)).div_ceil(8) as u64 + if self.zeros.count() > 1 { self.scales.count() as u64 } else { 0 }
    }
}

/// Weights of the new graph.
#[derive(Clone, Copy)]
enum Placed {
    Blocks { rows: usize, operands: [ValueId; 3] },
    Floats(ValueId),
}

impl Placed {
    /// What reports call it.
    fn name(self) -> &'static str {
        match self {
            Placed::Blocks { .. } => "product_of_few_bits",
            Placed::Floats(_) => "weights_of_few_bits",
        }
    }

    /// A product with these weights in place of a node.
    fn multiply(self, copy: &mut Copy, node: &Node) -> Result<(), String> {
        let x = copy.value(node.operands[0]);
        let (op, operands) = match self {
            Placed::Blocks { rows, operands: [q, zero, scale] } => (Op::matmul_blocks { block: rows }, vec![x, q, zero, scale]),
            Placed::Floats(weights) => (Op::matmul, vec![x, weights]),
        };
        let name = copy.old.value(node.results[0]).name.clone();
        let made = copy.new.add_node(op, &operands, &[&name], node.origin.clone())?[0];
        copy.set(node.results[0], made);
        Ok(())
    }
}

/// The product that views of it lead to, which nothing else reads, and the views, innermost first.
fn below_views(graph: &Graph, mut value: ValueId) -> Option<(Vec<&Op>, &Node)> {
    let mut views = vec![];
    loop {
        let node = graph.node(graph.producer(value)?);
        if node.op == Op::mul {
            views.reverse();
            return Some((views, node));
        }
        value = *node.operands.first()?;
        let changes_no_number = node.op.def().kind == Kind::View || node.op == Op::cast { to: graph.ty(value).dtype };
        if !changes_no_number || graph.readers(value).len() != 1 || graph.results.contains(&value) {
            return None;
        }
        views.push(&node.op);
    }
}

/// The zero points that were subtracted from some integers.
fn zero_of(graph: &Graph, mut integers: ValueId) -> Option<ValueId> {
    loop {
        let node = graph.node(graph.producer(integers)?);
        match node.op {
            Op::sub => return Some(node.operands[1]),
            Op::cast { .. } => integers = node.operands[0],
            _ => return None,
        }
    }
}

/// An operand of the product of this shape, as views of the product show it.
fn arranged(tensor: &Tensor, shape: &[usize], views: &[&Op]) -> Option<Tensor> {
    let broadcast = Op::broadcast { shape: shape.iter().map(|&n| n.into()).collect() };
    let floats = Op::cast { to: DType::F32 };
    let steps = [&floats, &broadcast].into_iter().chain(views.iter().copied());
    let is_there = |tensor: &Tensor, op: &Op| op.infer(&[&tensor.ty()]).is_ok_and(|types| types == [tensor.ty()] && !moves(op));
    steps.into_iter().try_fold(tensor.clone(), |tensor, op| match is_there(&tensor, op) {
        true => Some(tensor),
        false => op.eval(&[&tensor]).ok().map(|mut seen| seen.swap_remove(0)),
    })
}

/// Whether elements may go to other places of the same shape.
fn moves(op: &Op) -> bool {
    matches!(op, Op::transpose { .. } | Op::slice { .. })
}

/// The greatest divisor of `block`, of which 0 has all, such that numbers change only where blocks of so many rows begin.
fn common(block: usize, of: &Tensor) -> usize {
    let row = (of.bytes().len() / of.shape()[0].max(1)).max(1);
    let rows: Vec<&[u8]> = of.bytes().chunks(row).collect();
    let changes = (1..rows.len()).filter(|&i| rows[i] != rows[i - 1]);
    changes.fold(block, gcd)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn floats(of: &Tensor) -> impl Iterator<Item = f32> + '_ {
    of.bytes().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use egret_ir::text::parse;

    fn run(source: &str) -> (String, Graph) {
        let context = Context { blocks: true, ..Context::default() };
        let graph = blocks(&parse(source).unwrap(), &context).unwrap();
        let fired = context.notes.borrow().fired.keys().cloned().collect::<Vec<_>>().join(" ");
        (fired, graph)
    }

    /// The operands of the product that a graph becomes, printed, and that it computes what it did.
    #[track_caller]
    fn check(source: &str, expected: &str) {
        let (_, graph) = run(source);
        let product = graph.nodes().iter().find(|n| matches!(n.op, Op::matmul_blocks { .. })).expect("a product in blocks");
        let types: Vec<String> = product.operands[1..].iter().map(|&v| graph.ty(v).to_string()).collect();
        let Op::matmul_blocks { block } = product.op else { unreachable!("it was found by that") };
        assert_eq!(format!("{block}: {}", types.join(", ")), expected);
        let before = parse(source).unwrap();
        let x = egret_ir::random::random(9, before.ty(before.params()[0])).unwrap();
        let [before, after] = [&before, &graph].map(|g| egret_ir::eval::eval(g, std::slice::from_ref(&x)).unwrap());
        assert_eq!(before, after);
    }

    /// `x * w` with weights made of bytes.
    fn product(weights: &str) -> String {
        format!(
            "graph g(x: f32[3, 64]) {{
                {weights}
                y = matmul(x, w)
                return y
            }}"
        )
    }

    /// Integers of a type in blocks of rows, with scales and zero points.
    fn in_blocks(dtype: &str, zero: &str) -> String {
        product(&format!(
            "const q: {dtype}[64, 32] = random(1)
            const s: f32[4, 1, 32] = random(2)
            const z: {dtype}[{zero}] = random(3)
            sb = broadcast[shape = [4, 16, 32]](s)
            sr = reshape[shape = [64, 32]](sb)
            qi = cast[to = i32](q)
            zi = cast[to = i32](z)
            d = sub(qi, zi)
            f = cast[to = f32](d)
            w = mul(f, sr)"
        ))
    }

    /// The same with all of the first so many integers.
    fn of_all_bytes(source: &str, count: usize) -> String {
        let q: Vec<String> = (0..64 * 32).map(|i| (i * 7 % count).to_string()).collect();
        source.replace("= random(1)", &format!("= [{}]", q.join(", ")))
    }

    #[test]
    fn blocks_are_found_in_the_scales() {
        check(&of_all_bytes(&in_blocks("u8", "1, 32"), 16), "16: i4[64, 32], i8[4, 32], f32[4, 32]");
        check(&of_all_bytes(&in_blocks("u8", "1, 1"), 16), "16: i4[64, 32], i8[1, 1], f32[4, 32]");
        // One zero point does for all where integers and zero points have few values.
        check(&in_blocks("i4", "1, 32"), "16: i4[64, 32], i8[1, 1], f32[4, 32]");
        // Whatever changes with the rows of a block makes that smaller.
        let (fired, _) = run(&in_blocks("i8", "64, 1"));
        assert_eq!(fired, "weights_of_few_bits");
    }

    #[test]
    fn scales_for_columns_and_for_all_are_of_one_block() {
        let of = |scale: &str, size: &str| {
            product(&format!(
                "const q: i8[32, 64] = {scale}
                const s: f32[{size}] = random(2)
                f = cast[to = f32](q)
                v = mul(s, f)
                w = transpose[perm = [1, 0]](v)"
            ))
        };
        check(&of("random(1)", "32, 1"), "64: i4[64, 32], i8[1, 1], f32[1, 32]");
        check(&of("random(1)", ""), "64: i4[64, 32], i8[1, 1], f32[1, 32]");
        check(&of("splat(-128)", "32, 1"), "64: i4[64, 32], i8[1, 1], f32[1, 32]");
    }

    #[test]
    fn integers_of_eight_bits_stay_that() {
        check(&of_all_bytes(&in_blocks("u8", "1, 1"), 256), "16: i8[64, 32], i8[1, 1], f32[4, 32]");
        check(&of_all_bytes(&in_blocks("u8", "1, 32"), 256), "16: i8[64, 32], i8[4, 32], f32[4, 32]");
    }

    #[test]
    fn what_others_read_or_know_nothing_of_stays() {
        let read = in_blocks("u8", "1, 1").replace(
            "return y",
            "e = neg(w)
return y, e",
        );
        let unknown = in_blocks("u8", "1, 1").replace("const q: u8[64, 32] = random(1)", "").replace("g(x", "g(q: u8[64, 32], x");
        for source in [read, unknown] {
            let (fired, graph) = run(&source);
            assert_eq!((fired.as_str(), graph.nodes().len()), ("", parse(&source).unwrap().nodes().len()));
        }
    }

    #[test]
    fn many_rows_take_floats_where_those_are_much_faster() {
        let source = in_blocks("u8", "1, 1").replace("x: f32[3, 64]", "x: f32[4096, 64]");
        let fast = Context { blocks: true, dots: true, ..Context::default() };
        let graph = blocks(&parse(&source).unwrap(), &fast).unwrap();
        assert_eq!(graph.nodes().last().map(|n| n.op.name()), Some("matmul"));
    }
}
