//! Stores in bf16, or in f16, what kernels hand each other in f32, and the weights of products.
//!
//! Values become half as large in memory, and products of them take less time where the machine multiplies them as they are.
//! Inside of a kernel everything is computed in f32, as before: a kernel that reads a narrow value widens it first, one that makes it
//! rounds it last (to nearest, ties to even). Both are casts of the IR, so that the graph says what is computed.
//!
//! ```text
//! h = kernel k0(x) { relu }                                h: f32[N, 64]
//! y = kernel k1(h, w) { matmul }
//! =>
//! h = kernel k0(x) { relu · cast }                         h: bf16[N, 64]
//! y = kernel k1(h, w) { cast · cast · matmul }             w: bf16[64, 64]
//! ```
//!
//! These stay f32: what enters and leaves the graph; the statistics of norms, and whatever else a kernel only reduces; the states of
//! recurrent layers, which go around; what attention and recurrent layers read as it lies, unless they [widen](Storage::everywhere) it;
//! weights that are used other than in products, or in Winograd's form; and what an angle or an integer is computed from without a
//! product in between, since there the error of a position counts and not its share of it.
//!
//! **Invariant.** The kernels are the same, in the same order, with the same names; only the types of values between them change.

use crate::role::Role;
use egret_ir::attr::Algorithm;
use egret_ir::{Copy, DType, Def, Graph, Kind, Node, Op, Tensor, TensorType, ValueId};
use half::{bf16, f16};
use std::collections::{HashMap, HashSet};

/// How values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// The type, of 16 bits.
    pub dtype: DType,
    /// Whether attention widens its operands as it reads them, and recurrent layers their input and weights, as products do: kernels for
    /// GPUs do, those for processors take f32.
    pub everywhere: bool,
}

impl Default for Storage {
    /// bf16, as kernels for processors read it.
    fn default() -> Storage {
        Storage { dtype: DType::BF16, everywhere: false }
    }
}

/// The pass; see the module. It expects a graph of kernels.
///
/// # Errors
/// Only if a region does not type-check, which would be a bug of this pass.
pub fn narrow(graph: &Graph, storage: Storage) -> Result<Graph, String> {
    let kept = kept(graph, storage);
    let mut rebuilt = Rebuilt { copy: Copy::new(graph, TensorType::clone), weights: HashMap::new(), storage };
    for node in graph.nodes() {
        match &node.region {
            Some(region) => rebuilt.kernel(node, region, &kept)?,
            None => rebuilt.copy.node(node)?,
        }
    }
    Ok(rebuilt.copy.finish())
}

/// The values between kernels that keep their type, found from the last kernel to the first: what is made of a value decides.
fn kept(graph: &Graph, storage: Storage) -> HashSet<ValueId> {
    let mut exact: HashSet<ValueId> = HashSet::new();
    let mut kept: HashSet<ValueId> = graph.results.iter().copied().collect();
    for node in graph.nodes().iter().rev() {
        match &node.region {
            Some(region) => {
                let inner = Inner::of(region, node, &exact, storage);
                exact.extend(node.operands.iter().zip(region.params()).filter(|(_, p)| inner.exact.contains(p)).map(|(&v, _)| v));
                kept.extend(node.operands.iter().zip(region.params()).filter(|(_, p)| inner.as_it_lies.contains(p)).map(|(&v, _)| v));
                kept.extend(node.results.iter().zip(&region.results).filter(|(_, r)| inner.stays(**r)).map(|(&v, _)| v));
            }
            // Another name for the same memory.
            None if is_alias(node) => {
                for set in [&mut exact, &mut kept] {
                    if set.contains(&node.results[0]) {
                        set.insert(node.operands[0]);
                    }
                }
            }
            None => kept.extend(node.operands.iter().chain(&node.results)),
        }
    }
    kept.extend(exact);
    kept
}

fn is_alias(node: &Node) -> bool {
    matches!(node.op, Op::reshape { .. })
}

/// A region, and which of its values cannot be narrow.
struct Inner<'a> {
    region: &'a Graph,
    /// Angles and integers are computed from these without a product in between.
    exact: HashSet<ValueId>,
    /// These are read as they lie, through views only, by what has no form for narrow values.
    as_it_lies: HashSet<ValueId>,
}

impl<'a> Inner<'a> {
    /// The region of a node, of whose results some are `exact`.
    fn of(region: &'a Graph, node: &Node, exact: &HashSet<ValueId>, storage: Storage) -> Inner<'a> {
        let results = node.results.iter().zip(&region.results).filter(|(v, _)| exact.contains(v)).map(|(_, &r)| r);
        let mut inner = Inner { region, exact: results.collect(), as_it_lies: HashSet::new() };
        for node in region.nodes().iter().rev() {
            let reads_exactly = needs_exact(region, node) || node.results.iter().any(|r| inner.exact.contains(r));
            if reads_exactly && !is_product(region, node) {
                inner.exact.extend(&node.operands);
            }
            let is_view = node.op.def().kind == Kind::View;
            match &node.op {
                Op::attention { .. } if !storage.everywhere => inner.as_it_lies.extend(&node.operands[..3]),
                _ if is_recurrent(&node.op) => {
                    inner.as_it_lies.extend(&node.operands[if storage.everywhere { RECURRENT_PRODUCTS } else { 0 }..]);
                }
                _ if is_view && inner.as_it_lies.contains(&node.results[0]) => inner.as_it_lies.extend(&node.operands),
                _ => {}
            }
        }
        inner
    }

    /// Whether a result of the region keeps its type: it is no f32, a statistic, or what a recurrent layer makes.
    fn stays(&self, result: ValueId) -> bool {
        let made = made_of(self.region, result);
        let size = self.region.ty(result).count();
        let is_statistic = |n: &&Node| n.op.reduction().is_some() && self.region.ty(n.results[0]).count() == size;
        self.region.ty(result).dtype != DType::F32 || made.iter().any(is_statistic) || made.iter().any(|n| is_recurrent(&n.op))
    }
}

/// The nodes of a region that a value depends on, up to products.
fn made_of(region: &Graph, value: ValueId) -> Vec<&Node> {
    let (mut seen, mut values) = (HashSet::new(), vec![value]);
    while let Some(value) = values.pop() {
        let Some(id) = region.producer(value).filter(|id| seen.insert(*id)) else { continue };
        if !is_product(region, region.node(id)) {
            values.extend(&region.node(id).operands);
        }
    }
    seen.into_iter().map(|id| region.node(id)).collect()
}

/// The first operands of a recurrent layer, which go into products: the input, its weights, the weights of the states.
const RECURRENT_PRODUCTS: usize = 3;

fn is_recurrent(op: &Op) -> bool {
    matches!(op, Op::lstm { .. } | Op::gru { .. } | Op::rnn { .. })
}

/// Whether the size of an error of the operands counts, and not its share: positions become angles, and integers.
fn needs_exact(graph: &Graph, node: &Node) -> bool {
    let from_float = || node.operands.first().is_some_and(|&x| graph.ty(x).dtype == DType::F32);
    matches!(node.op, Op::sin | Op::cos | Op::tan) || matches!(node.op, Op::cast { to } if !to.is_float() && from_float())
}

/// Whether a node is a product of f32 with more than one term in a sum, one that the contraction kernel computes in the direct form.
fn is_product(graph: &Graph, node: &Node) -> bool {
    let dims = |i: usize| &graph.ty(node.operands[i]).dims;
    let is_direct = match &node.op {
        Op::matmul => dims(0).last().is_some_and(|k| !k.is(1)),
        Op::conv { algorithm, .. } => *algorithm == Algorithm::Direct && Role::of(graph, node) == Role::Contract,
        _ => false,
    };
    is_direct && graph.ty(node.results[0]).dtype == DType::F32
}

/// The graph as far as it has been made.
struct Rebuilt<'a> {
    copy: Copy<'a>,
    /// Weights of the graph in the narrow type.
    weights: HashMap<ValueId, ValueId>,
    storage: Storage,
}

impl Rebuilt<'_> {
    fn kernel(&mut self, node: &Node, region: &Graph, kept: &HashSet<ValueId>) -> Result<(), String> {
        let weights = weights(region, self.storage, |param| self.known(node, region, param));
        let mut body = Body { new: Graph::new(""), map: HashMap::new(), dtype: self.storage.dtype };
        let mut operands = vec![];
        for (&param, &operand) in region.params().iter().zip(&node.operands) {
            let operand = if weights.contains(&param) { self.narrowed(operand)? } else { self.copy.value(operand) };
            let value = region.value(param);
            let inner = body.new.add_param(&value.name, self.copy.new.ty(operand).clone());
            body.set_widened(param, inner, &value.ty)?;
            operands.push(operand);
        }
        let pairs = || region.results.iter().zip(&node.results);
        let is_cast = |(result, outer): &(&ValueId, &ValueId)| !kept.contains(outer) && region.ty(**result).dtype == DType::F32;
        let cast: HashSet<ValueId> = pairs().filter(is_cast).map(|(&result, _)| result).collect();
        for node in region.nodes() {
            body.node(region, node, &weights, &cast)?;
        }
        for ((&result, &outer), name) in pairs().zip(&region.result_names) {
            let made = body.map[&result];
            let is_cast = is_cast(&(&result, &outer));
            let made = if is_cast { body.new.add(&region.value(result).name, Op::cast { to: self.storage.dtype }, &[made])? } else { made };
            body.new.add_result(made, name);
        }
        let names: Vec<&str> = node.results.iter().map(|&r| &*self.copy.old.value(r).name).collect();
        let made = self.copy.new.add_kernel(&region.name, body.new, &operands, &names, node.origin.clone())?;
        node.results.iter().zip(made).for_each(|(&old, new)| self.copy.set(old, new));
        Ok(())
    }

    /// Whether a parameter of a node's region is known.
    fn known(&self, node: &Node, region: &Graph, param: ValueId) -> bool {
        let at = region.params().iter().position(|&p| p == param);
        at.is_some_and(|at| self.copy.old.constant(node.operands[at]).is_some())
    }

    /// A constant of the graph in the narrow type.
    fn narrowed(&mut self, constant: ValueId) -> Result<ValueId, String> {
        if let Some(&known) = self.weights.get(&constant) {
            return Ok(known);
        }
        let new = narrow_constant(self.copy.old, constant, self.storage.dtype, &mut self.copy.new)?;
        self.weights.insert(constant, new);
        Ok(new)
    }
}

/// A constant of one graph in another, in a narrow type.
fn narrow_constant(from: &Graph, constant: ValueId, dtype: DType, to: &mut Graph) -> Result<ValueId, String> {
    let tensor = from.constant(constant).ok_or("expects a constant")?;
    Ok(to.add_const(&from.value(constant).name, rounded(tensor, dtype)?))
}

/// What a cast makes of a tensor of f32; models have 10^8 weights, and the evaluator takes its time.
fn rounded(tensor: &Tensor, dtype: DType) -> Result<Tensor, String> {
    let floats = tensor.bytes().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
    let bytes: Vec<u8> = match dtype {
        DType::BF16 => floats.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
        DType::F16 => floats.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
        other => return Err(format!("values are stored as bf16 or f16, not as {other}")),
    };
    Tensor::new(dtype, tensor.shape().to_vec(), bytes.into())
}

/// The constants and parameters of a region, f32, that only products read, through views or not; `is_known` says which parameters are
/// constants of the graph around.
fn weights(region: &Graph, storage: Storage, is_known: impl Fn(ValueId) -> bool) -> HashSet<ValueId> {
    let mut found = HashSet::new();
    for node in region.nodes() {
        let factors = match is_product(region, node) {
            true => &node.operands[..2],
            false if storage.everywhere && is_recurrent(&node.op) => &node.operands[..RECURRENT_PRODUCTS],
            false => &[],
        };
        for &operand in factors {
            let (mut value, mut alone) = (operand, true);
            loop {
                alone &= region.readers(value).len() == 1 && !region.results.contains(&value);
                match region.producer(value).map(|id| region.node(id)) {
                    Some(view) if view.op.def().kind == Kind::View => value = view.operands[0],
                    _ => break,
                }
            }
            let is_constant = region.constant(value).is_some() || is_known(value);
            if alone && is_constant && region.ty(value).dtype == DType::F32 {
                found.insert(value);
            }
        }
    }
    found
}

/// A region that is being rebuilt.
struct Body {
    new: Graph,
    map: HashMap<ValueId, ValueId>,
    /// The narrow type.
    dtype: DType,
}

impl Body {
    /// Makes `new` stand for `old`, cast to its type where that differs.
    fn set_widened(&mut self, old: ValueId, new: ValueId, ty: &TensorType) -> Result<(), String> {
        let name = format!("{}.{}", self.new.value(new).name, ty.dtype);
        let same = self.new.ty(new).dtype == ty.dtype;
        let value = if same { new } else { self.new.add(&name, Op::cast { to: ty.dtype }, &[new])? };
        self.map.insert(old, value);
        Ok(())
    }

    /// A node of the old region; those of its results that are cast later leave their names to that.
    fn node(&mut self, region: &Graph, node: &Node, weights: &HashSet<ValueId>, cast: &HashSet<ValueId>) -> Result<(), String> {
        for &operand in node.operands.iter().chain(region.results.iter().filter(|r| region.constant(**r).is_some())) {
            if let (false, Def::Const(tensor, source)) = (self.map.contains_key(&operand), &region.value(operand).def) {
                let new = match weights.contains(&operand) {
                    true => narrow_constant(region, operand, self.dtype, &mut self.new)?,
                    false => self.new.add_const_from(&region.value(operand).name, tensor.clone(), source.clone()),
                };
                self.set_widened(operand, new, region.ty(operand))?;
            }
        }
        let operands: Vec<ValueId> = node.operands.iter().map(|v| self.map[v]).collect();
        let name = |r: &ValueId| match (&region.value(*r).name, cast.contains(r)) {
            (name, true) => format!("{name}.{}", DType::F32),
            (name, false) => name.to_string(),
        };
        let names: Vec<String> = node.results.iter().map(name).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let made = self.new.add_node(node.op.clone(), &operands, &names, node.origin.clone())?;
        self.map.extend(node.results.iter().copied().zip(made));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use egret_ir::text::parse;

    const NARROW: DType = DType::BF16;

    #[test]
    fn weights_are_rounded_to_nearest_even() {
        // Ties, what is just above one, what overflows, the infinities, NaN of both kinds, subnormal numbers.
        let cases = [
            (0x3f80_8000, 0x3f80),
            (0x3f81_8000, 0x3f82),
            (0x3f80_8001, 0x3f81),
            (0x7f7f_ffff, 0x7f80),
            (0x7f80_0000, 0x7f80),
            (0xff80_0000, 0xff80),
            (0x7fc0_0001, 0x7fc0),
            (0x7f80_0001, 0x7fc0),
            (0x0000_0001, 0x0000),
            (0x8000_ffff, 0x8001),
        ];
        let tensor = Tensor::from_f32s(vec![cases.len()], &cases.map(|(bits, _)| f32::from_bits(bits)));
        let found: Vec<u16> = rounded(&tensor, NARROW).unwrap().bytes().as_chunks().0.iter().map(|&b| u16::from_le_bytes(b)).collect();
        assert_eq!(found, cases.map(|(_, rounded): (u32, u16)| rounded));
    }

    /// The type under which a graph of single ops holds a value.
    fn stored(source: &str, name: &str) -> DType {
        let grouped = crate::group::ungrouped(&parse(source).unwrap()).unwrap();
        let graph = narrow(&grouped, Storage::default()).unwrap();
        graph.ty(graph.find(name).unwrap()).dtype
    }

    #[test]
    fn positions_stay_exact_up_to_a_product() {
        let angles = |between: &str| {
            format!(
                "graph g(x: f32[4, 4]) {{
                    const w: f32[4, 4] = random(1)
                    p = neg(x)
                    q = {between}
                    s = sin(q)
                    y = neg(s)
                    return y
                }}"
            )
        };
        assert_eq!(["p", "q", "s", "y"].map(|v| stored(&angles("mul(p, w)"), v)), [DType::F32, DType::F32, NARROW, DType::F32]);
        assert_eq!(["p", "q", "w"].map(|v| stored(&angles("matmul(p, w)"), v)), [NARROW, DType::F32, NARROW]);
    }

    #[test]
    fn what_is_shared_with_other_ops_stays() {
        let source = "graph g(x: f32[4, 4], i: i64[2]) {
            const w: f32[4, 4] = random(1)
            const v: f32[4, 4] = random(2)
            h = neg(x)
            a = matmul(h, w)
            b = matmul(a, v)
            r = reshape[shape = [16]](b)
            e = gather[axis = 0](v, i)
            return r, e
        }";
        // `v` is read as it is by the gather; `b` leaves the graph under another shape.
        let types = ["h", "w", "a", "b", "r", "e"].map(|name| stored(source, name));
        assert_eq!(types, [NARROW, NARROW, NARROW, DType::F32, DType::F32, DType::F32]);
    }
}
