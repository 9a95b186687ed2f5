//! Brings image-like data into channels-last order, once, at the borders of the network.
//!
//! Convolutions and pools become their `layout=last` forms between explicit transposes; the transposes are never built
//! where the next op can read channels-last data itself. One layout inside networks is enough: the contraction kernel
//! runs as fast on `[n, h, w, c]` as on blocked layouts, and needs no im2col.
//!
//! Every value of the old graph has up to two new forms: as it was, and its channels-last twin. A form is built when it is
//! first asked for, from the other one by a transpose.
//!
//! ```text
//! c = conv(x, w); r = relu(c); y = reduce_mean[axes=[2, 3]](r)
//! =>
//! x.last = transpose[perm=[0, 2, 3, 1]](x)
//! c = conv[layout=last](x.last, ...); r = relu(c); y = reduce_mean[axes=[1, 2]](r); y.first = transpose[..](y)
//! ```

use egret_ir::attr::Layout;
use egret_ir::{Dim, Graph, Node, NodeId, Op, ValueId};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

mod apart;
mod norms;
mod order;

use order::{channels_last, inverse, is_identity, list_last, permuted, with_layout_last};
pub(crate) use order::{to_first, to_last};

/// The pass; see the module.
///
/// # Errors
/// Only if a rewritten op no longer fits its operands, which would be a bug of this pass.
pub fn layout(graph: &Graph) -> Result<Graph, String> {
    let mut forms = Forms::new(graph);
    for node in graph.nodes() {
        if !forms.channels_last(node)? {
            forms.unchanged(node)?;
        }
    }
    forms.finish()
}

/// The new forms of one old value.
#[derive(Clone, Copy, Default)]
struct Form {
    first: Option<ValueId>,
    last: Option<ValueId>,
    apart: Option<Apart>,
    /// The twin of `[n, g, c/g * h * w]`, what a norm of groups of channels takes together: `[n, h, w, g, c/g]`.
    groups: Option<ValueId>,
}

/// A twin of data whose channels are several axes, such as `[n, g, c/g, h, w]` between the two reshapes of a channel shuffle:
/// all of them are last, in their order.
#[derive(Clone, Copy)]
struct Apart {
    value: ValueId,
    channels: usize,
}

struct Forms<'a> {
    old: &'a Graph,
    new: Graph,
    forms: HashMap<ValueId, Form>,
    /// Who reads each old value.
    uses: HashMap<ValueId, Vec<NodeId>>,
    /// The origins of nodes that left nothing behind but another form of their operand, by the value they made.
    absorbed: HashMap<ValueId, Vec<Arc<str>>>,
}

impl<'a> Forms<'a> {
    fn new(old: &'a Graph) -> Forms<'a> {
        let mut new = Graph::new(old.name.clone());
        let forms = old
            .params()
            .iter()
            .map(|&p| (p, Form { first: Some(new.add_param(&old.value(p).name, old.ty(p).clone())), ..Form::default() }))
            .collect();
        Forms { old, new, forms, uses: old.uses(), absorbed: HashMap::new() }
    }

    fn form(&self, value: ValueId) -> Form {
        self.forms.get(&value).copied().unwrap_or_default()
    }

    fn set(&mut self, value: ValueId, form: Form) {
        self.forms.insert(value, form);
    }

    /// The value as it was.
    fn first(&mut self, value: ValueId) -> Result<ValueId, String> {
        let form = self.form(value);
        if let Some(first) = form.first {
            return Ok(first);
        }
        if let Some(groups) = form.groups {
            return self.ungrouped(value, groups);
        }
        let name = self.old.value(value).name.clone();
        let rank = self.old.ty(value).rank();
        let twin = form.last.map(|last| (last, to_first(rank)));
        let first = match twin.or_else(|| form.apart.map(|apart| (apart.value, inverse(&channels_last(rank, apart.channels))))) {
            Some((twin, perm)) => self.add(&format!("{name}.first"), Op::transpose { perm }, twin, value)?,
            None => self.constant(value)?,
        };
        self.set(value, Form { first: Some(first), ..form });
        Ok(first)
    }

    /// The value with its channel axis last.
    fn last(&mut self, value: ValueId) -> Result<ValueId, String> {
        let form = self.form(value);
        if let Some(last) = form.last {
            return Ok(last);
        }
        let first = self.first(value)?;
        let name = format!("{}.last", self.old.value(value).name);
        let last = self.add(&name, Op::transpose { perm: to_last(self.old.ty(value).rank()) }, first, value)?;
        self.set(value, Form { first: Some(first), last: Some(last), ..self.form(value) });
        Ok(last)
    }

    /// A node that brings `value` into another form. It comes from the node that made the value, or else from its first reader.
    fn add(&mut self, name: &str, op: Op, operand: ValueId, value: ValueId) -> Result<ValueId, String> {
        let node = self.old.producer(value).or_else(|| self.uses.get(&value)?.first().copied());
        let origin = node.map_or_else(Vec::new, |node| self.origin(self.old.node(node)));
        Ok(self.new.add_node(op, &[operand], &[name], origin)?[0])
    }

    /// The origins of a node, with those of the nodes before it that left nothing behind.
    fn origin(&self, node: &Node) -> Vec<Arc<str>> {
        let absorbed = node.operands.iter().filter_map(|operand| self.absorbed.get(operand)).flatten();
        let all: BTreeSet<&Arc<str>> = node.origin.iter().chain(absorbed).collect();
        all.into_iter().cloned().collect()
    }

    fn constant(&mut self, value: ValueId) -> Result<ValueId, String> {
        let old = self.old.value(value);
        let tensor = self.old.constant(value).ok_or_else(|| format!("`{}` is read before it is made", old.name))?;
        Ok(self.new.add_const(&old.name, tensor.clone()))
    }

    /// Whether the channels-last twin is at hand without a transpose.
    fn has_last(&self, value: ValueId) -> bool {
        self.form(value).last.is_some()
    }

    /// The node on channels-last operands, if that is its better form; its result then has that form only.
    fn channels_last(&mut self, node: &Node) -> Result<bool, String> {
        let result = node.results[0];
        let rank = self.old.ty(result).rank();
        if node.region.is_some() || node.results.len() != 1 {
            return Ok(false);
        }
        let (op, operands) = match &node.op {
            op @ (Op::conv { layout: Layout::First, .. }
            | Op::max_pool { layout: Layout::First, .. }
            | Op::avg_pool { layout: Layout::First, .. }) => {
                let mut operands = vec![self.last(node.operands[0])?];
                if let Some(&w) = node.operands.get(1) {
                    operands.push(self.weights_last(w)?);
                }
                (with_layout_last(op), operands)
            }
            Op::transpose { perm } => return Ok(self.transpose_apart(node, perm)? || self.transpose(node, perm)?),
            Op::reshape { shape } => {
                return Ok(self.reshape_apart(node, shape)? || self.reshape_groups(node, shape)? || self.reshape(node, shape)?);
            }
            Op::layer_norm { epsilon, .. } if self.form(node.operands[0]).groups.is_some() => return self.norm_of_groups(node, *epsilon),
            op if self.channels_apart(node).is_some()
                && (op.is_elementwise() || matches!(op, Op::concat { .. } | Op::layer_norm { .. })) =>
            {
                return self.apart(node);
            }
            Op::matmul => return self.matmul(node),
            op => {
                let at_hand = node.operands.iter().any(|&v| self.has_last(v) && self.old.ty(v).rank() == rank);
                if rank < 3 || !at_hand && !self.is_border_of_windows(node) {
                    return Ok(false);
                }
                let Some(op) = permuted(op, rank) else { return Ok(false) };
                let operands = node.operands.iter().map(|&v| self.broadcast_last(v, rank, 1)).collect::<Result<Vec<_>, _>>()?;
                (op, operands)
            }
        };
        let name = self.old.value(result).name.clone();
        let last = self.new.add_node(op, &operands, &[&name], self.origin(node)).map_err(|e| format!("{name}: {e}"))?[0];
        self.set(result, Form { last: Some(last), ..Form::default() });
        Ok(true)
    }

    /// A border that only convolutions and pools read is made channels-last, so that they read neighbours in memory.
    fn is_border_of_windows(&self, node: &Node) -> bool {
        let is_window = |id| {
            let op = &self.old.node(id).op;
            matches!(
                op,
                Op::conv { layout: Layout::First, .. }
                    | Op::max_pool { layout: Layout::First, .. }
                    | Op::avg_pool { layout: Layout::First, .. }
            )
        };
        let result = node.results[0];
        matches!(node.op, Op::pad { .. })
            && !self.old.results.contains(&result)
            && self.uses.get(&result).is_some_and(|u| u.iter().all(|&id| is_window(id)))
    }

    /// Convolution weights `[out, in, kernel..]` as `[kernel.., in, out]`.
    fn weights_last(&mut self, w: ValueId) -> Result<ValueId, String> {
        let rank = self.old.ty(w).rank();
        if let Some(value) = self.repeated(w) {
            let dims = &self.old.ty(w).dims;
            let shape = (2..rank).chain([1, 0]).map(|axis| dims[axis].clone()).collect();
            let value = self.first(value)?;
            return self.new.add(&format!("{}.last", self.old.value(w).name), Op::broadcast { shape }, &[value]);
        }
        let perm = (2..rank).chain([1, 0]).collect();
        let first = self.first(w)?;
        let name = format!("{}.last", self.old.value(w).name);
        self.add(&name, Op::transpose { perm }, first, w)
    }

    /// The single element of which a value consists, if that is known: in which order it is repeated makes no difference.
    fn repeated(&self, value: ValueId) -> Option<ValueId> {
        let node = self.old.node(self.old.producer(value)?);
        let is_one = |v: &ValueId| self.old.constant(*v).is_some_and(|t| t.count() == 1);
        matches!(node.op, Op::broadcast { .. }).then(|| node.operands[0]).filter(is_one)
    }

    /// An operand of an op over channels-last data of rank `rank` with so many axes of channels: of full rank its twin, a rank-0 one as
    /// it is, any other as it broadcasts: `[c, 1, 1]` as `[1, 1, 1, c]`.
    fn broadcast_last(&mut self, value: ValueId, rank: usize, channels: usize) -> Result<ValueId, String> {
        let ty = self.old.ty(value).clone();
        if ty.rank() == rank {
            return if channels == 1 { self.last(value) } else { self.last_apart(value, channels) };
        }
        let first = self.first(value)?;
        if ty.rank() == 0 {
            return Ok(first);
        }
        let name = self.old.value(value).name.clone();
        let mut shape = vec![Dim::ONE; rank - ty.rank()];
        shape.extend(ty.dims);
        let full = self.add(&format!("{name}.full"), Op::reshape { shape: shape.clone() }, first, value)?;
        self.add(&format!("{name}.last"), Op::transpose { perm: channels_last(rank, channels) }, full, value)
    }

    /// A transpose of a channels-last value is another transpose of its twin, or the twin itself; one that makes
    /// channels-first data out of channels-last data has its operand for a twin.
    fn transpose(&mut self, node: &Node, perm: &[usize]) -> Result<bool, String> {
        let (x, result) = (node.operands[0], node.results[0]);
        if let Some(last) = self.form(x).last {
            let composed: Vec<usize> = perm.iter().map(|&axis| to_first(perm.len())[axis]).collect();
            let name = self.old.value(result).name.clone();
            let first = if is_identity(&composed) {
                self.absorbed.insert(result, self.origin(node));
                last
            } else {
                self.new.add_node(Op::transpose { perm: composed }, &[last], &[&name], self.origin(node))?[0]
            };
            self.set(result, Form { first: Some(first), ..Form::default() });
            return Ok(true);
        }
        if perm.len() >= 3 && perm == to_first(perm.len()) {
            let twin = self.first(x)?;
            self.absorbed.insert(result, self.origin(node));
            self.set(result, Form { last: Some(twin), ..Form::default() });
            return Ok(true);
        }
        Ok(false)
    }

    /// A reshape that leaves batch and channels as they are does the same to the twin. One of `[n, c, 1, 1]` reads the twin
    /// `[n, 1, 1, c]`: the elements are in the same order. And one that only products of matrices read is left to them.
    fn reshape(&mut self, node: &Node, shape: &[Dim]) -> Result<bool, String> {
        let (x, result) = (node.operands[0], node.results[0]);
        let dims = &self.old.ty(x).dims;
        let Some(last) = self.form(x).last else { return Ok(false) };
        if self.is_left_to_products(node) {
            return Ok(true);
        }
        let keeps_channels = shape.len() >= 3 && shape[..2] == dims[..2];
        if !keeps_channels && !dims[2..].iter().all(|d| d.is(1)) && !dims[1].is(1) {
            return Ok(false);
        }
        let shape = if keeps_channels { list_last(shape) } else { shape.to_vec() };
        let name = self.old.value(result).name.clone();
        let new = self.new.add_node(Op::reshape { shape }, &[last], &[&name], self.origin(node))?[0];
        let form = if keeps_channels { Form { last: Some(new), ..Form::default() } } else { Form { first: Some(new), ..Form::default() } };
        self.set(result, form);
        Ok(true)
    }

    /// Whether a node makes rows of all channels and positions, `[n, c*s]`, that only products with weights read.
    fn is_left_to_products(&self, node: &Node) -> bool {
        let (x, result) = (&self.old.ty(node.operands[0]).dims, node.results[0]);
        let is_flat = match &self.old.ty(result).dims[..] {
            [n, row] => *n == x[0] && *row == x[1..].iter().cloned().product(),
            _ => false,
        };
        let is_product = |id: &NodeId| {
            let reader = self.old.node(*id);
            let weights = || reader.operands.get(1).filter(|&&w| w != result && self.old.ty(w).rank() == 2);
            reader.op == Op::matmul && weights().is_some_and(|&w| self.old.constant(w).is_some() || self.is_uniform(w))
        };
        let numbers = x[1..].iter().all(|d| d.as_const().is_some());
        is_flat && numbers && !self.old.results.contains(&result) && self.old.readers(result).iter().all(is_product)
    }

    /// Whether it is one number everywhere, so that the order of its elements does not matter.
    fn is_uniform(&self, value: ValueId) -> bool {
        let made = self.old.producer(value).map(|id| self.old.node(id));
        made.is_some_and(|node| matches!(node.op, Op::broadcast { .. }) && self.old.ty(node.operands[0]).dims.iter().all(|d| d.is(1)))
    }

    /// A product of flattened channels-last data has the rows of its weights in the same order: `[c*s, k]` as `[s*c, k]`.
    fn matmul(&mut self, node: &Node) -> Result<bool, String> {
        let (rows, w, result) = (node.operands[0], node.operands[1], node.results[0]);
        let Some(flatten) = self.old.producer(rows).map(|id| self.old.node(id)) else { return Ok(false) };
        if !matches!(flatten.op, Op::reshape { .. }) || !self.is_left_to_products(flatten) {
            return Ok(false);
        }
        let Some(last) = self.form(flatten.operands[0]).last else { return Ok(false) };
        let shape = self.old.ty(rows).dims.clone();
        let rows_name = self.old.value(rows).name.clone();
        let flat = self.new.add_node(Op::reshape { shape }, &[last], &[&rows_name], flatten.origin.clone())?[0];
        let weights = self.rows_last(w, &self.old.ty(flatten.operands[0]).dims.clone())?;
        let name = self.old.value(result).name.clone();
        let product = self.new.add_node(Op::matmul, &[flat, weights], &[&name], node.origin.clone())?[0];
        self.set(result, Form { first: Some(product), ..Form::default() });
        Ok(true)
    }

    /// Weights `[c*s, k]` as `[s*c, k]`, for data `[n, c, s..]`.
    fn rows_last(&mut self, w: ValueId, data: &[Dim]) -> Result<ValueId, String> {
        if self.is_uniform(w) {
            return self.first(w);
        }
        let shape = self.old.ty(w).dims.clone();
        let apart = vec![data[1].clone(), data[2..].iter().cloned().product(), shape[1].clone()];
        let first = self.first(w)?;
        let name = format!("{}.last", self.old.value(w).name);
        let apart = self.new.add(&name, Op::reshape { shape: apart }, &[first])?;
        let turned = self.new.add(&name, Op::transpose { perm: vec![1, 0, 2] }, &[apart])?;
        self.new.add(&name, Op::reshape { shape }, &[turned])
    }

    fn unchanged(&mut self, node: &Node) -> Result<(), String> {
        let operands = node.operands.iter().map(|&v| self.first(v)).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<&str> = node.results.iter().map(|&r| &*self.old.value(r).name).collect();
        let results = self.new.add_node(node.op.clone(), &operands, &names, self.origin(node))?;
        for (&old, new) in node.results.iter().zip(results) {
            self.set(old, Form { first: Some(new), ..Form::default() });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Graph, String> {
        for (i, &result) in self.old.results.iter().enumerate() {
            let value = self.first(result)?;
            self.new.add_result(value, &self.old.result_names[i]);
        }
        Ok(self.new)
    }
}
