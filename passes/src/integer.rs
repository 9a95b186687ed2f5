//! Products of quantised values as products of bytes.
//!
//! A quantised model multiplies `(q - zero) * scale`, where `q` are bytes. The scales are numbers, or one for each output channel, and go
//! behind the product; what is left is a sum of integers, which has no rounding. The zero points go behind it too: that of the left operand
//! times the sums of the weights, which are known, and that of weights which are no `i8` without it times the sums of the left operand's
//! rows. Bytes are then multiplied as they lie, four at a time (VNNI).
//!
//! ```text
//! matmul(mul(cast[f32](sub(cast[i32](q), z)), s), mul(cast[f32](w), t))      q: u8[m, k], w: i32[k, n], known
//! =>
//! mul(cast[f32](sub(matmul(cast[i32](q), w), z * reduce_sum(w))), s * t)
//! ```
//!
//! An image is padded with its zero point before that. Filters of one channel each whose weights are no `i8`, which have no product of
//! bytes, sum the same integers in f32, which holds them.
//!
//! A pool of quantised values that takes the largest takes that of the bytes, which stands for it.
//!
//! **Invariant.** Sums are those of the standard's integers, exactly; only the order of the multiplications by scales differs, each of which
//! rounds once, so that what has scales is of class `reassoc` and what has none is `exact`. Weights keep to `WEIGHT`, and sums to an i32.

use crate::dce::dce;
use crate::pass::Context;
use crate::rules::Class;
use egret_ir::attr::{Layout, PadMode};
use egret_ir::{Copy, DType, Def, Dim, Element, Graph, Kind, Node, Op, Tensor, TensorType, ValueId};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What the second operand of a product of bytes can be.
const WEIGHT: RangeInclusive<i128> = -128..=127;

/// What turns a u8 into an i8, and back.
const HALF: i64 = 128;

/// Terms of a sum that an i32 holds: each is at most 255 * 255.
const MOST_TERMS: usize = (1 << 31) / (255 * 255);

/// Terms of a sum that an f32 holds exactly.
const MOST_TERMS_F32: usize = (1 << 24) / (255 * 255);

/// The pass; see the module. It changes nothing for processors that have no products of bytes.
///
/// # Errors
/// Only if a node does not type-check, which would be a bug of this pass.
pub fn integer(graph: &Graph, context: &Context) -> Result<Graph, String> {
    if !context.bytes {
        return Ok(graph.clone());
    }
    let mut rebuilt = Rebuilt { copy: Copy::new(graph, TensorType::clone), name: "".into(), origin: vec![] };
    for node in graph.nodes() {
        if let Some(product) = Product::of(graph, node).filter(|product| product.class() <= context.class) {
            rebuilt.replace(node, &product)?;
            context.weaken(product.class());
            context.count("product_of_bytes", 1);
        } else if let Some(image) = Quantised::of_pool(graph, node) {
            rebuilt.pool(node, image)?;
            context.weaken(Class::Exact);
            context.count("pool_of_bytes", 1);
        } else {
            rebuilt.copy.node(node)?;
        }
    }
    dce(&rebuilt.copy.finish())
}

/// Whether a graph, or a kernel of it, has products of bytes.
pub fn has_products(graph: &Graph) -> bool {
    let is_of_bytes = |v: ValueId| Quantised::widened(graph, below_views(graph, v)).is_some_and(|q| graph.ty(q.bytes).dtype == DType::U8);
    let is_product = |node: &Node| {
        let sums_integers = matches!(node.op, Op::matmul | Op::conv { .. }) && graph.ty(node.results[0]).dtype == DType::I32;
        sums_integers && is_of_bytes(node.operands[0])
    };
    graph.nodes().iter().any(|node| is_product(node) || node.region.as_deref().is_some_and(has_products))
}

/// The value that views of it lead to.
fn below_views(graph: &Graph, value: ValueId) -> ValueId {
    match maker(graph, value) {
        Some(node) if node.op.def().kind == Kind::View => below_views(graph, node.operands[0]),
        _ => value,
    }
}

/// The node that makes a value.
fn maker(graph: &Graph, value: ValueId) -> Option<&Node> {
    graph.producer(value).map(|id| graph.node(id))
}

/// What a value is that is computed from constants; only asked for where that is little.
fn known(graph: &Graph, value: ValueId) -> Option<Arc<Tensor>> {
    match &graph.value(value).def {
        Def::Const(tensor, _) => Some(tensor.clone()),
        Def::Param => None,
        Def::Node(id, at) => {
            let node = graph.node(*id);
            let operands = node.operands.iter().map(|&v| known(graph, v)).collect::<Option<Vec<_>>>()?;
            let operands: Vec<&Tensor> = operands.iter().map(|t| &**t).collect();
            node.op.eval(&operands).ok()?.into_iter().nth(*at).map(Arc::new)
        }
    }
}

/// Whether a value is known and positive.
fn is_positive(graph: &Graph, value: ValueId) -> bool {
    known(graph, value).is_some_and(|t| t.elements().all(|e| e.as_f64() > 0.0))
}

/// Whether all that a value can be is held by a type.
fn is_held(graph: &Graph, value: ValueId, by: DType) -> bool {
    let (low, high) = by.int_range();
    let value = below_views(graph, value);
    let is_widened = || maker(graph, value).is_some_and(|n| matches!(n.op, Op::cast { .. }) && graph.ty(n.operands[0]).dtype == by);
    known(graph, value).map_or_else(is_widened, |t| t.elements().all(|e| (low..=high).contains(&e.as_int())))
}

/// The one result of an op.
fn computed(op: Op, operands: &[&Tensor]) -> Result<Tensor, String> {
    Ok(op.eval(operands)?.swap_remove(0))
}

/// `(bytes - zero) * scale`, or without one or both of these.
#[derive(Clone, Copy)]
struct Quantised {
    bytes: ValueId,
    /// i32.
    zero: Option<ValueId>,
    /// f32.
    scale: Option<ValueId>,
}

impl Quantised {
    fn of(graph: &Graph, value: ValueId) -> Option<Quantised> {
        let node = maker(graph, value)?;
        let Op::mul = node.op else { return Quantised::shifted(graph, value) };
        let inner = maker(graph, node.operands[0]).filter(|n| n.op == Op::cast { to: DType::F32 })?;
        Some(Quantised { scale: Some(node.operands[1]), ..Quantised::shifted(graph, inner.operands[0])? })
    }

    fn shifted(graph: &Graph, value: ValueId) -> Option<Quantised> {
        let node = maker(graph, value)?;
        match node.op {
            Op::sub => Some(Quantised { zero: Some(node.operands[1]), ..Quantised::widened(graph, node.operands[0])? }),
            _ => Quantised::widened(graph, value),
        }
    }

    fn widened(graph: &Graph, value: ValueId) -> Option<Quantised> {
        let node = maker(graph, value).filter(|n| n.op == Op::cast { to: DType::I32 })?;
        let bytes = node.operands[0];
        matches!(graph.ty(bytes).dtype, DType::U8 | DType::I8).then_some(Quantised { bytes, zero: None, scale: None })
    }

    /// The same where zero point and scale are single numbers, the zero point a byte like the others, and the bytes are not known.
    fn of_image(graph: &Graph, value: ValueId) -> Option<Quantised> {
        let is_number = |v: ValueId| graph.ty(v).dims.iter().all(|d| d.is(1));
        let of = Quantised::of(graph, value).filter(|of| graph.constant(of.bytes).is_none())?;
        let dtype = graph.ty(of.bytes).dtype;
        let fits = of.zero.is_none_or(|v| is_number(v) && is_held(graph, v, dtype)) && of.scale.is_none_or(is_number);
        fits.then_some(of)
    }

    /// What a pool takes the largest of, where the largest byte stands for it.
    fn of_pool(graph: &Graph, node: &Node) -> Option<Quantised> {
        let Op::max_pool { layout: Layout::First, .. } = &node.op else { return None };
        Quantised::of_image(graph, node.operands[0]).filter(|of| of.scale.is_none_or(|scale| is_positive(graph, scale)))
    }
}

/// Weights that are known: what has been quantised, less its zero point, and the scale, broadcast against that.
struct Weights {
    integers: Tensor,
    /// i32: what the integers are more than bytes, broadcast against them; none where they are bytes.
    beyond: Option<Tensor>,
    scale: Option<Tensor>,
}

impl Weights {
    /// Constants, transposed or not.
    fn of(graph: &Graph, value: ValueId) -> Option<Weights> {
        match maker(graph, value) {
            Some(node @ Node { op: Op::transpose { .. }, .. }) => Weights::of(graph, node.operands[0])?.transposed(&node.op).ok(),
            _ => Weights::quantised(graph, Quantised::of(graph, value)?),
        }
    }

    fn quantised(graph: &Graph, of: Quantised) -> Option<Weights> {
        let bytes = graph.constant(of.bytes)?;
        let zero = of.zero.map_or_else(|| Some(Arc::new(number(DType::I32, 0))), |zero| known(graph, zero))?;
        let scale = of.scale.map_or(Some(None), |scale| Some(Some((*known(graph, scale)?).clone())))?;
        let integers = computed(Op::sub, &[&converted(bytes, DType::I32).ok()?, &zero]).ok()?;
        let half = if bytes.dtype() == DType::U8 { HALF } else { 0 };
        let fits = integers.elements().all(|e| WEIGHT.contains(&e.as_int()));
        let beyond = if fits { None } else { Some(computed(Op::sub, &[&number(DType::I32, half), &zero]).ok()?) };
        Some(Weights { integers, beyond, scale })
    }

    fn transposed(self, op: &Op) -> Result<Weights, String> {
        let turned = |t: Tensor| if t.count() == 1 { Ok(t) } else { computed(op.clone(), &[&t]) };
        Ok(Weights {
            integers: turned(self.integers)?,
            beyond: self.beyond.map(turned).transpose()?,
            scale: self.scale.map(turned).transpose()?,
        })
    }

    /// Whether what varies with an axis is the integers only.
    fn is_uniform_along(&self, axis: usize) -> bool {
        let from_end = self.integers.shape().len() - axis;
        let extent = |t: &Tensor| t.shape().iter().rev().nth(from_end - 1).copied().unwrap_or(1);
        [&self.scale, &self.beyond].into_iter().flatten().all(|t| extent(t) == 1)
    }

    /// The integers as they are multiplied.
    fn bytes(&self) -> Result<Tensor, String> {
        self.beyond.as_ref().map_or_else(|| Ok(self.integers.clone()), |beyond| computed(Op::sub, &[&self.integers, beyond]))
    }
}

/// A matrix product or convolution of an image, or a matrix, of bytes with known weights.
struct Product {
    image: Quantised,
    weights: Weights,
    /// The axes of the weights that are summed over.
    summed: Vec<usize>,
    /// The type of the sums: i32, or f32 for filters of one channel each that bytes do not hold.
    sums: DType,
}

impl Product {
    fn of(graph: &Graph, node: &Node) -> Option<Product> {
        let rank = |i: usize| graph.ty(node.operands[i]).rank();
        let (summed, depthwise) = match &node.op {
            Op::matmul if rank(0) >= 2 && rank(1) >= 2 => (vec![rank(1) - 2], false),
            Op::conv { group, layout: Layout::First, pad, .. } if pad.iter().all(|&p| p >= 0) => {
                ((1..rank(1)).collect(), *group > 1 && graph.ty(node.operands[1]).dims[1].is(1))
            }
            _ => return None,
        };
        let image = Quantised::of_image(graph, node.operands[0])?;
        let mut weights = Weights::of(graph, node.operands[1]).filter(|w| w.scale.is_some() == image.scale.is_some())?;
        let is_beyond = weights.beyond.take_if(|_| depthwise).is_some();
        let sums = if is_beyond { DType::F32 } else { DType::I32 };
        let terms: usize = summed.iter().map(|&axis| weights.integers.shape()[axis]).product();
        let fits = terms <= if is_beyond { MOST_TERMS_F32 } else { MOST_TERMS };
        // Groups would each have sums of their own rows.
        let in_groups = matches!(node.op, Op::conv { group, .. } if group > 1) && weights.beyond.is_some();
        let is_one = fits && !in_groups && summed.iter().all(|&axis| weights.is_uniform_along(axis));
        is_one.then_some(Product { image, weights, summed, sums })
    }

    fn class(&self) -> Class {
        if self.image.scale.is_some() { Class::Reassoc } else { Class::Exact }
    }
}

/// The graph as far as it has been made, and what new nodes are named after.
struct Rebuilt<'a> {
    copy: Copy<'a>,
    name: Arc<str>,
    origin: Vec<Arc<str>>,
}

type Built = Result<ValueId, String>;

impl Rebuilt<'_> {
    fn step(&mut self, suffix: &str, op: Op, operands: &[ValueId]) -> Built {
        let name = format!("{}.{suffix}", self.name);
        Ok(self.copy.new.add_node(op, operands, &[&name], self.origin.clone())?[0])
    }

    fn constant(&mut self, suffix: &str, tensor: Tensor) -> ValueId {
        let name = format!("{}.{suffix}", self.name);
        self.copy.new.add_const(&name, tensor)
    }

    fn cast(&mut self, suffix: &str, x: ValueId, to: DType) -> Built {
        if self.copy.new.ty(x).dtype == to { Ok(x) } else { self.step(suffix, Op::cast { to }, &[x]) }
    }

    /// Makes what a node does by a product of bytes.
    fn replace(&mut self, node: &Node, product: &Product) -> Result<(), String> {
        let result = node.results[0];
        (self.name, self.origin) = (self.copy.old.value(result).name.clone(), node.origin.clone());
        let (sum, zero) = self.sum(node, product)?;
        let offset = zero.map(|zero| self.offset(node, product, zero)).transpose()?;
        let value = match (product.image.scale, &product.weights.scale) {
            (Some(image), Some(weights)) => {
                let scale = self.scale(node, image, weights)?;
                self.less(sum, offset, DType::F32, Some(scale))?
            }
            _ => self.less(sum, offset, DType::I32, None)?,
        };
        self.copy.new.rename(value, &self.name);
        self.copy.set(result, value);
        Ok(())
    }

    /// Makes what a node does by a pool of bytes.
    fn pool(&mut self, node: &Node, image: Quantised) -> Result<(), String> {
        let result = node.results[0];
        (self.name, self.origin) = (self.copy.old.value(result).name.clone(), node.origin.clone());
        let bytes = self.copy.value(image.bytes);
        let largest = self.step("largest", node.op.clone(), &[bytes])?;
        let mut value = self.step("wide", Op::cast { to: DType::I32 }, &[largest])?;
        if let Some(zero) = image.zero {
            let zero = self.copy.value(zero);
            value = self.step("shifted", Op::sub, &[value, zero])?;
        }
        if let Some(scale) = image.scale {
            let scale = self.copy.value(scale);
            value = self.step("number", Op::cast { to: DType::F32 }, &[value])?;
            value = self.step("scaled", Op::mul, &[value, scale])?;
        }
        self.copy.new.rename(value, &self.name);
        self.copy.set(result, value);
        Ok(())
    }

    /// The sums of products of bytes with the weights, and the zero point of the bytes unless that is 0.
    fn sum(&mut self, node: &Node, product: &Product) -> Result<(ValueId, Option<ValueId>), String> {
        let Product { image, weights, sums, .. } = product;
        let (bytes, zero) = self.unsigned(image)?;
        let (bytes, op) = self.padded(node, bytes, zero)?;
        let wide = self.step("wide", Op::cast { to: *sums }, &[bytes])?;
        let multiplied = self.constant("integers", converted(&weights.bytes()?, *sums)?);
        let sum = self.step("sum", op.clone(), &[wide, multiplied])?;
        let Some(beyond) = &weights.beyond else { return Ok((sum, zero)) };
        let rows = self.row_sums(&op, wide, &weights.integers)?;
        let beyond = self.per_channel(node, "beyond", beyond.clone())?;
        let share = self.step("share", Op::mul, &[rows, beyond])?;
        Ok((self.step("whole", Op::add, &[sum, share])?, zero))
    }

    /// What the zero point adds to the sums: it times the sums of the weights.
    fn offset(&mut self, node: &Node, product: &Product, zero: ValueId) -> Built {
        let columns = computed(Op::reduce_sum { axes: product.summed.clone() }, &[&product.weights.integers])?;
        let columns = self.per_channel(node, "columns", columns)?;
        self.step("offset", Op::mul, &[columns, zero])
    }

    /// The scale of the sums: that of the image times those of the weights, which are numbers or one per channel.
    fn scale(&mut self, node: &Node, image: ValueId, weights: &Tensor) -> Built {
        let weights = self.per_channel(node, "scale", weights.clone())?;
        let image = self.copy.value(image);
        let image = self.step("image_scale", Op::reshape { shape: vec![] }, &[image])?;
        self.step("scales", Op::mul, &[weights, image])
    }

    /// `sum * scale - offset * scale` in a type: the second product does not depend on the sum.
    fn less(&mut self, sum: ValueId, offset: Option<ValueId>, in_type: DType, scale: Option<ValueId>) -> Built {
        let mut scaled = |suffix: &str, x: ValueId| {
            let x = self.cast(suffix, x, in_type)?;
            scale.map_or(Ok(x), |scale| self.step(&format!("{suffix}_scaled"), Op::mul, &[x, scale]))
        };
        let sum = scaled("product", sum)?;
        let Some(offset) = offset else { return Ok(sum) };
        let offset = scaled("shift", offset)?;
        self.step("shifted", Op::sub, &[sum, offset])
    }

    /// The sums of what each column of the weights is multiplied by; for an image those of its windows, by a filter of ones.
    fn row_sums(&mut self, op: &Op, wide: ValueId, weights: &Tensor) -> Built {
        let Op::conv { .. } = op else {
            let axes = vec![self.copy.new.ty(wide).rank() - 1];
            return self.step("rows", Op::reduce_sum { axes }, &[wide]);
        };
        let shape = [&[1], &weights.shape()[1..]].concat();
        let count = shape.iter().product();
        let ones = Tensor::from_elements(DType::I32, shape, std::iter::repeat_n(Element::Int(1), count));
        let ones = self.constant("ones", ones);
        self.step("rows", op.clone(), &[wide, ones])
    }

    /// The bytes as u8, and their zero point, of rank 0, unless that is 0.
    fn unsigned(&mut self, image: &Quantised) -> Result<(ValueId, Option<ValueId>), String> {
        let is_zero = |v: ValueId| known(self.copy.old, v).is_some_and(|t| t.elements().all(|e| e.as_int() == 0));
        let zero = image.zero.filter(|&v| !is_zero(v)).map(|zero| self.copy.value(zero));
        let zero = zero.map(|zero| self.step("point", Op::reshape { shape: vec![] }, &[zero])).transpose()?;
        let bytes = self.copy.value(image.bytes);
        if self.copy.old.ty(image.bytes).dtype == DType::U8 {
            return Ok((bytes, zero));
        }
        // The same bits with the highest turned are 128 more.
        let bits = self.step("bits", Op::bit_cast { to: DType::U8 }, &[bytes])?;
        let highest = self.constant("highest", number(DType::U8, HALF));
        let raised = self.step("raised", Op::xor, &[bits, highest])?;
        let half = self.constant("half", number(DType::I32, HALF));
        let zero = zero.map_or(Ok(half), |zero| self.step("raised_zero", Op::add, &[zero, half]))?;
        Ok((raised, Some(zero)))
    }

    /// The image with the padding of a convolution around it, and the op without.
    fn padded(&mut self, node: &Node, bytes: ValueId, zero: Option<ValueId>) -> Result<(ValueId, Op), String> {
        let mut op = node.op.clone();
        let Op::conv { pad, .. } = &mut op else { return Ok((bytes, op)) };
        if pad.iter().all(|&p| p == 0) {
            return Ok((bytes, op));
        }
        let (low, high) = pad.split_at(pad.len() / 2);
        let around = |pad: &[i64]| [0, 0].iter().chain(pad).map(|&p| Dim::from(p)).collect();
        let border = Op::pad { low: around(low), high: around(high), mode: PadMode::Constant };
        pad.fill(0);
        let value = match zero {
            Some(zero) => self.step("border", Op::cast { to: DType::U8 }, &[zero])?,
            None => self.constant("border", number(DType::U8, 0)),
        };
        Ok((self.step("padded", border, &[bytes, value])?, op))
    }

    /// A tensor that is 1 along the axes that are summed over, shaped to broadcast against the result.
    fn per_channel(&mut self, node: &Node, suffix: &str, tensor: Tensor) -> Built {
        let rank = self.copy.old.ty(node.results[0]).rank();
        let shape = match (&node.op, tensor.count()) {
            (_, 1) => vec![],
            (Op::conv { .. }, channels) => [vec![channels], vec![1; rank - 2]].concat(),
            _ => tensor.shape().to_vec(),
        };
        Ok(self.constant(suffix, tensor.reshaped(shape)?))
    }
}

/// An integer of rank 0.
fn number(dtype: DType, value: i64) -> Tensor {
    Tensor::scalar(dtype, Element::Int(value.into()))
}

/// A tensor in another type.
fn converted(tensor: &Tensor, to: DType) -> Result<Tensor, String> {
    computed(Op::cast { to }, &[tensor])
}

#[cfg(test)]
mod tests {
    use super::*;
    use egret_ir::eval::eval;
    use egret_ir::text::parse;

    /// Numbers of all sizes.
    fn bytes(dtype: DType, shape: Vec<usize>) -> Tensor {
        let (low, high) = dtype.int_range();
        let count = shape.iter().product::<usize>() as i128;
        Tensor::from_elements(dtype, shape, (0..count).map(|i| Element::Int(low + (83 * i + 200) % (high - low + 1))))
    }

    /// Checks that a graph of one product of `x` becomes one of bytes, or not, and what it gives then.
    #[track_caller]
    fn check(source: &str, fires: bool) {
        let graph = parse(source).unwrap_or_else(|e| panic!("{e}\n{source}"));
        let context = Context { bytes: true, ..Context::default() };
        let found = integer(&graph, &context).unwrap();
        egret_ir::verify::verify(&found).unwrap();
        assert_eq!(context.notes.borrow().fired.contains_key("product_of_bytes"), fires, "{source}");
        let shape = graph.ty(graph.params()[0]).static_dims().unwrap();
        let x = bytes(graph.ty(graph.params()[0]).dtype, shape);
        let (expected, after) = (eval(&graph, std::slice::from_ref(&x)).unwrap(), eval(&found, &[x]).unwrap());
        let scale = expected[0].to_f64s().iter().fold(1.0f64, |most, v| most.max(v.abs()));
        let tolerance = if expected[0].dtype() == DType::I32 { 0.0 } else { 1e-6 * scale };
        for (i, (e, a)) in expected[0].to_f64s().iter().zip(after[0].to_f64s()).enumerate() {
            assert!((e - a).abs() <= tolerance, "element {i} is {a}, expected {e}\n{source}");
        }
    }

    /// `(x - zero) [* scale]` times `(w - zero) [* scale]`.
    fn product(x: (&str, i64), w: (&str, &str), scales: Option<&str>, op: &str) -> String {
        let ((x, x_zero), (w, w_zero)) = (x, w);
        let scaled = scales.map_or_else(String::new, |scales| {
            format!(
                "const s: f32[] = 0.0078125
                 const t: {scales}
                 af = cast[to = f32](ad)
                 am = mul(af, s)
                 bf = cast[to = f32](bd)
                 bm = mul(bf, t)"
            )
        });
        let [a, b] = if scales.is_some() { ["am", "bm"] } else { ["ad", "bd"] };
        format!(
            "graph g(x: {x}) {{
                 const w: {w} = random(1)
                 const x_zero: i32[] = {x_zero}
                 const w_zero: i32{w_zero}
                 a = cast[to = i32](x)
                 ad = sub(a, x_zero)
                 b = cast[to = i32](w)
                 bd = sub(b, w_zero)
                 {scaled}
                 y = {op}({a}, {b})
                 return y
             }}"
        )
    }

    /// Matrices, or images, and zero points that their types hold.
    fn inputs(shape: &str) -> Vec<(String, i64)> {
        [("u8", 0), ("u8", 7), ("u8", 200), ("i8", 0), ("i8", 7), ("i8", -128)]
            .map(|(dtype, zero)| (format!("{dtype}{shape}"), zero))
            .to_vec()
    }

    #[test]
    fn matrices() {
        let weights =
            [("i8[30, 4]", "[] = 0"), ("u8[30, 4]", "[] = 128"), ("u8[30, 4]", "[] = 250"), ("i8[30, 4]", "[4] = [0, 5, -9, 100]")];
        let scales = [None, Some("f32[] = 0.25"), Some("f32[1, 4] = [0.25, 0.5, 1.0, 3.0]"), Some("f32[4] = [0.25, 0.5, 1.0, 3.0]")];
        for (x, zero) in [inputs("[5, 30]"), inputs("[2, 5, 30]")].concat() {
            for (w, scales) in weights.into_iter().flat_map(|w| scales.map(|scales| (w, scales))) {
                check(&product((&x, zero), w, scales, "matmul"), true);
            }
        }
        check(&product(("u8[5, 30]", -20), weights[0], None, "matmul"), false);
        // Each term has a scale, or a zero point beyond i8, of its own.
        let scales = format!("f32[30, 1] = {:?}", (1..=30).map(f64::from).collect::<Vec<_>>());
        check(&product(("u8[5, 30]", 0), ("i8[30, 4]", "[] = 0"), Some(&scales), "matmul"), false);
    }

    #[test]
    fn convolutions() {
        let attributes = |pad: &str, group: usize| format!("conv[stride = [2, 1], pad = {pad}, dilation = [1, 2], group = {group}]");
        let shapes = [("[2, 4, 7, 6]", "[6, 4, 3, 2]", 1), ("[2, 4, 7, 6]", "[6, 2, 3, 2]", 2), ("[2, 4, 7, 6]", "[4, 1, 3, 2]", 4)];
        for ((image, filters, group), pad) in shapes.into_iter().flat_map(|s| ["[0, 0, 0, 0]", "[1, 0, 2, 3]"].map(|pad| (s, pad))) {
            for ((x, zero), (w, w_zero)) in
                inputs(image).into_iter().flat_map(|x| [("i8", "[] = 0"), ("u8", "[] = 128"), ("u8", "[] = 250")].map(|w| (x.clone(), w)))
            {
                // Groups have sums of their own rows, which weights beyond i8 need.
                let fires = group != 2 || w_zero != "[] = 250";
                for scales in [None, Some("f32[] = 0.5")] {
                    check(&product((&x, zero), (&format!("{w}{filters}"), w_zero), scales, &attributes(pad, group)), fires);
                }
            }
        }
    }

    #[test]
    fn pools() {
        let pool = |x: &str, zero: i64, scale: &str| {
            format!(
                "graph g(x: {x}) {{
                     const zero: i32[] = {zero}
                     const scale: f32[] = {scale}
                     a = cast[to = i32](x)
                     b = sub(a, zero)
                     c = cast[to = f32](b)
                     d = mul(c, scale)
                     y = max_pool[kernel = [3, 2], stride = [2, 1], pad = [1, 0, 1, 1], dilation = [1, 1]](d)
                     return y
                 }}"
            )
        };
        let fired = |source: &str| {
            let (graph, context) = (parse(source).unwrap(), Context { bytes: true, ..Context::default() });
            let found = integer(&graph, &context).unwrap();
            let x = bytes(graph.ty(graph.params()[0]).dtype, vec![2, 3, 9, 8]);
            assert_eq!(eval(&graph, std::slice::from_ref(&x)).unwrap(), eval(&found, &[x]).unwrap(), "{source}");
            context.notes.borrow().fired.contains_key("pool_of_bytes")
        };
        for (x, zero) in inputs("[2, 3, 9, 8]") {
            assert!(fired(&pool(&x, zero, "0.25")));
            assert!(!fired(&pool(&x, zero, "-0.25")), "the least byte is the largest value");
        }
    }

    #[test]
    fn scales_stay_where_roundings_have_to() {
        let source = product(("u8[5, 30]", 3), ("i8[30, 4]", "[] = 0"), Some("f32[] = 0.25"), "matmul");
        let strict = Context { bytes: true, class: Class::Ulp, ..Context::default() };
        let graph = parse(&source).unwrap();
        assert_eq!(integer(&graph, &strict).unwrap(), graph);
        let without = Context::default();
        assert_eq!(integer(&graph, &without).unwrap(), graph);
        let of_integers = parse(&product(("u8[5, 30]", 3), ("i8[30, 4]", "[] = 0"), None, "matmul")).unwrap();
        assert!(has_products(&integer(&of_integers, &strict).unwrap()));
        assert_eq!(strict.notes.borrow().class, Some(Class::Exact));
    }
}
