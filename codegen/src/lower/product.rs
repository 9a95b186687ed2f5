//! Contractions: matrix products and convolutions as `acc`, or as a fold where the contraction kernel does not apply.
//!
//! Both are sums of products over inner loops; what differs is where the operands are read:
//!
//! ```text
//! matmul(x, w)                 at [i, j]        x at [i, k],                    w at [k, j]
//! conv[stride=[2, 2]](x, w)    at [n, y, x, o]  x at [n, 2*y + p, 2*x + q, c],  w at [p, q, c, o]
//! ```

use super::Place;
use super::exprs::{bin, cast};
use super::fold::wide;
use super::value::{Build, Stop, Valued, broadcast_index};
use crate::kernel::{BufferId, Expr, ExprKind, Fold};
use egret_ir::attr::Layout;
use egret_ir::scalar::BinOp;
use egret_ir::{DType, Def, Dim, Kind, Node, Op, Tensor, ValueId};
use std::sync::Arc;

/// The name of a contraction's result in its kernel.
pub const ACC: &str = "acc";

/// A contraction over the inner loops.
pub struct Product {
    /// The value it computes.
    pub node: ValueId,
    /// Where that value is asked for.
    pub at: Vec<Dim>,
    /// The left operand in memory.
    pub a: (BufferId, Dim),
    /// The right operand in memory.
    pub b: (BufferId, Dim),
    /// The operands before their views.
    pub operands: [ValueId; 2],
    /// The type of its sums: f32, or i32 for bytes.
    pub sum: DType,
    /// What makes weights of the right operand, if that holds integers of few bits.
    pub blocks: Option<Scaling>,
}

/// `(q - zero) * scale`, in blocks of rows of `q`.
pub struct Scaling {
    /// The rows of a block.
    pub rows: usize,
    /// i8 `[b, n]`, or 1 in place of an extent.
    pub zero: Arc<Tensor>,
    /// f32, likewise.
    pub scale: Arc<Tensor>,
}

/// What the right operand of a product of bytes can be.
const WEIGHT: std::ops::RangeInclusive<i128> = -128..=127;

impl Build<'_> {
    /// The contraction at an index.
    pub fn contraction(&mut self, value: ValueId, node: &Node, at: &[Dim]) -> Valued {
        let (extents, points) = match &node.op {
            Op::matmul | Op::matmul_blocks { .. } => self.matmul(node, at),
            op => self.conv(value, op, node, at)?,
        };
        let inner = self.inner(value, &extents)?;
        let [x, w] = points(&inner.clone().unwrap_or(vec![Dim::ZERO; extents.len()]));
        let as_product =
            inner.is_some() && self.is_product(node) && !self.scope.as_fold.contains(&value) && !self.shares_lanes(node, at)?;
        if as_product {
            return self.product(value, node, at, [&x, &w]);
        }
        let x = self.element(node.operands[0], &x)?;
        let w = match node.op {
            Op::matmul_blocks { block } => self.scaled(node, block, &w)?,
            _ => self.element(node.operands[1], &w)?,
        };
        let w = if self.is_of_bytes(node) { self.as_bytes(node.operands[1], &w)? } else { w };
        let dtype = x.dtype;
        let element = bin(BinOp::Mul, &cast(&x, wide(dtype)), &cast(&w, wide(dtype)));
        match inner {
            Some(_) => Ok(cast(&self.fold(value, at.to_vec(), Fold::Sum, element)?, dtype)),
            None => Ok(cast(&element, dtype)),
        }
    }

    /// Whether the contraction kernel computes it: it does `f32`, known bytes, and lanes that share a sum's other operand.
    fn is_product(&self, node: &Node) -> bool {
        let one_input_per_filter = match &node.op {
            Op::matmul_blocks { .. } => return self.scope.blocks && self.scaling(node).is_some(),
            Op::conv { layout: Layout::Last, .. } => self.ty(node.operands[1]).dims.iter().rev().nth(1).is_some_and(|c| c.is(1)),
            Op::conv { layout: Layout::First, .. } => self.ty(node.operands[1]).dims[1].is(1),
            _ => false,
        };
        (self.ty(node.results[0]).dtype == DType::F32 || self.is_of_bytes(node)) && !(one_input_per_filter && self.is_grouped(node))
    }

    /// Whether a convolution has groups of so few filters that several share a vector, each with its own inputs; as a product, a vector
    /// would hold the filters of one group only. The loop over the filters is brought into blocks of a vector.
    fn shares_lanes(&mut self, node: &Node, at: &[Dim]) -> Result<bool, Stop> {
        let Op::conv { group: 2.., layout: Layout::Last, .. } = node.op else { return Ok(false) };
        let (Some((inputs, filters)), lanes) = (self.of_group(node), self.scope.lanes) else { return Ok(false) };
        let in_reach = lanes % filters == 0 && (lanes / filters - 1) * inputs < lanes;
        let Some(filter) = at.last().filter(|_| 2 * filters <= lanes && in_reach) else { return Ok(false) };
        let (_, within) = filter.split_multiple(lanes);
        let Some((loop_, extent)) = within.as_symbol().and_then(|s| Some((s.clone(), self.ranges.extent(s)?.as_const()?))) else {
            return Ok(false);
        };
        match extent {
            n if n == lanes => self.ranges.keep_whole(&loop_),
            n if n % lanes == 0 => return Err(Stop::Factor(loop_, lanes.into())),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The inputs and the filters of each group, where they are numbers and the results are f32.
    fn of_group(&self, node: &Node) -> Option<(i64, i64)> {
        let (Op::conv { group, .. }, [.., inputs, filters]) = (&node.op, &self.ty(node.operands[1]).dims[..]) else { return None };
        let filters = filters.as_const()? / *group as i64;
        (self.ty(node.results[0]).dtype == DType::F32).then_some((inputs.as_const()?, filters))
    }

    /// What makes weights of integers of few bits, where all of them are known.
    fn scaling(&self, node: &Node) -> Option<Scaling> {
        let Op::matmul_blocks { block } = node.op else { return None };
        let [q, zero, scale] = [1, 2, 3].map(|i| self.scope.constant(node.operands[i]));
        let has_form = matches!(q?.dtype(), DType::I4 | DType::I8);
        has_form.then_some(Scaling { rows: block, zero: zero?.clone(), scale: scale?.clone() })
    }

    /// A weight that is made of an integer, as an element.
    fn scaled(&mut self, node: &Node, block: usize, at: &[Dim]) -> Valued {
        let of_block = [self.ranges.div(&at[0], &Dim::from(block)), at[1].clone()];
        let q = self.element(node.operands[1], at)?;
        let [zero, scale] = [2, 3].map(|i| {
            let at = broadcast_index(&self.ty(node.operands[i]).dims, &of_block);
            self.element(node.operands[i], &at)
        });
        let difference = bin(BinOp::Sub, &cast(&q, DType::F32), &cast(&zero?, DType::F32));
        Ok(bin(BinOp::Mul, &difference, &scale?))
    }

    /// Whether it multiplies u8 by what is known and fits i8, and the target does that.
    fn is_of_bytes(&self, node: &Node) -> bool {
        let graph = self.scope.graph();
        let left = graph.producer(self.below_views(node.operands[0])).map(|id| graph.node(id));
        let is_widened = left.is_some_and(|n| n.op == Op::cast { to: DType::I32 } && self.ty(n.operands[0]).dtype == DType::U8);
        let fits = |v: ValueId| self.scope.constant(v).is_some_and(|t| t.elements().all(|e| WEIGHT.contains(&e.as_int())));
        self.scope.bytes && self.ty(node.results[0]).dtype == DType::I32 && is_widened && fits(self.below_views(node.operands[1]))
    }

    /// An element of weights that i8 holds, read from such.
    fn as_bytes(&mut self, weights: ValueId, element: &Expr) -> Valued {
        let ExprKind::Load(_, offset) = &*element.kind else { return Ok(element.clone()) };
        let below = self.below_views(weights);
        let Some(tensor) = self.scope.constant(below) else { return Ok(element.clone()) };
        let bytes = Op::cast { to: DType::I8 }.eval(&[tensor]).map_err(|reason| Stop::Fail(below, reason))?.swap_remove(0);
        let table = self.buffer(&Place::Table(Arc::new(bytes)));
        Ok(cast(&Expr::new(DType::I8, ExprKind::Load(table, offset.clone())), DType::I32))
    }

    fn is_grouped(&self, node: &Node) -> bool {
        matches!(node.op, Op::conv { group, .. } if group > 1)
    }

    fn product(&mut self, value: ValueId, node: &Node, at: &[Dim], [x, w]: [&[Dim]; 2]) -> Valued {
        let taken = self.product.is_some() || self.attention.is_some() || !self.folds.is_empty();
        if taken || self.in_memory || self.in_element || !self.is_outer(at) {
            return Err(Stop::Materialise(value));
        }
        let operands = [node.operands[0], node.operands[1]];
        self.in_memory = true;
        let a = self.multiplied(operands[0], x)?;
        let b = self.multiplied(operands[1], w)?;
        self.in_memory = false;
        let sum = self.ty(node.results[0]).dtype;
        let blocks = self.scaling(node);
        self.product = Some(Product { node: value, at: at.to_vec(), a, b, operands, sum, blocks });
        Ok(Expr::new(sum, ExprKind::Var(ACC.into())))
    }

    /// Where an operand lies, or what is cast to its type: a product widens floats as it reads, and multiplies bytes as they are.
    pub fn multiplied(&mut self, operand: ValueId, at: &[Dim]) -> Result<(BufferId, Dim), Stop> {
        let value = self.value(operand, at)?;
        let below = match &*value.kind {
            ExprKind::Cast(x) if value.dtype == DType::F32 && self.scope.widened.types.contains(&x.dtype) => x,
            ExprKind::Cast(x) if self.scope.bytes && (value.dtype, x.dtype) == (DType::I32, DType::U8) => x,
            _ => &value,
        };
        self.loaded(operand, below)
    }

    /// Where an operand lies.
    pub fn in_place(&mut self, operand: ValueId, at: &[Dim]) -> Result<(BufferId, Dim), Stop> {
        let value = self.value(operand, at)?;
        self.loaded(operand, &value)
    }

    /// The place that a load reads, if it can be any in a loop over offsets.
    fn loaded(&self, operand: ValueId, value: &Expr) -> Result<(BufferId, Dim), Stop> {
        match &*value.kind {
            ExprKind::Load(buffer, offset) if !self.ranges.mentions_read(offset) => Ok((*buffer, offset.clone())),
            _ => Err(Stop::Materialise(self.below_views(operand))),
        }
    }

    /// The value that views of it lead to.
    pub fn below_views(&self, value: ValueId) -> ValueId {
        let graph = self.scope.graph();
        match graph.value(value).def {
            Def::Node(node, _) if graph.node(node).op.def().kind == Kind::View && self.scope.place(value).is_none() => {
                self.below_views(graph.node(node).operands[0])
            }
            _ => value,
        }
    }

    fn matmul<'n>(&self, node: &'n Node, at: &'n [Dim]) -> (Vec<Dim>, Points<'n>) {
        let (x, y) = (&self.ty(node.operands[0]).dims, &self.ty(node.operands[1]).dims);
        let (has_row, has_column) = (x.len() > 1, y.len() > 1);
        let outer = at.len() - usize::from(has_row) - usize::from(has_column);
        let batch = |dims: &[Dim]| match dims.len() {
            0..=2 => vec![],
            n => broadcast_index(&dims[..n - 2], &at[..outer]),
        };
        let (x_batch, y_batch) = (batch(x), batch(y));
        let extent = if x[x.len() - 1].as_const().is_some() { x[x.len() - 1].clone() } else { y[y.len().saturating_sub(2)].clone() };
        let row = at[outer..outer + usize::from(has_row)].to_vec();
        let column = at[outer + usize::from(has_row)..].to_vec();
        let points = move |k: &[Dim]| [[&x_batch[..], &row[..], k].concat(), [&y_batch[..], k, &column[..]].concat()];
        (vec![extent], Box::new(points))
    }

    fn conv<'n>(&self, value: ValueId, op: &'n Op, node: &'n Node, at: &'n [Dim]) -> Result<(Vec<Dim>, Points<'n>), Stop> {
        let Op::conv { stride, pad, dilation, group, layout, .. } = op else {
            return Err(Stop::Fail(value, "it is no contraction".to_string()));
        };
        if pad.iter().any(|&p| p != 0) {
            return Err(Stop::Fail(value, "expects a convolution whose padding has been made explicit".to_string()));
        }
        let (n, weights) = (stride.len(), &self.ty(node.operands[1]).dims);
        let (kernel, inputs, outputs) = match layout {
            Layout::First => (&weights[2..], &weights[1], &weights[0]),
            Layout::Last => (&weights[..n], &weights[n], &weights[n + 1]),
        };
        let (spatial, output) = if *layout == Layout::First { (2, at[1].clone()) } else { (1, at[n + 1].clone()) };
        let in_group = if *group == 1 { Dim::ZERO } else { self.ranges.div(&output, &outputs.floor_div(&Dim::from(*group))) };
        let first_input = in_group * inputs.clone();
        // Channels are innermost in memory where they are last, so that a row of taps is one run of elements.
        let mut extents = kernel.to_vec();
        extents.push(inputs.clone());
        let points = move |k: &[Dim]| {
            let (taps, channel) = k.split_at(n);
            let position: Vec<Dim> =
                (0..n).map(|i| at[spatial + i].clone() * stride[i] as i64 + taps[i].clone() * dilation[i] as i64).collect();
            let input = first_input.clone() + channel[0].clone();
            match layout {
                Layout::First => {
                    [[&[at[0].clone(), input][..], &position].concat(), [&[output.clone(), channel[0].clone()][..], taps].concat()]
                }
                Layout::Last => [[&at[..1], &position, &[input]].concat(), [taps, channel, std::slice::from_ref(&output)].concat()],
            }
        };
        Ok((extents, Box::new(points)))
    }
}

/// From the index along the contracted axes to the indices of both operands.
type Points<'n> = Box<dyn Fn(&[Dim]) -> [Vec<Dim>; 2] + 'n>;
