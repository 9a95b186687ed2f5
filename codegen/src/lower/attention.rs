//! Attention as one kernel: where queries, keys and values lie, and which loops are what.
//!
//! A loop that only the queries depend on is a row (the heads that share keys among them), one that only the values depend on is
//! a column, and one that several depend on is a batch. Operands are read in place, through their views; the mask is an
//! expression at the score's place.
//!
//! ```text
//! y = attention[scale=0.5](q, k, v, mask)     q: f32[2, 8, 5, 64], k, v: f32[2, 8, 7, 64]
//! =>
//! chain batch b0 in 16, rows m0 in 5, keys n in 7, depth k in 64, cols c in 64 {
//!     acc = sum(q[..] * k[..]);  p = softmax((acc*0.5 + mask[..]));  acc = sum(p * v[..]);  y[..] = acc
//! }
//! ```

use super::built::Built;
use super::exprs::{Rewrite, bin, dims_of, select, visit_shared};
use super::finish::merge;
use super::product::ACC;
use super::value::{Build, Stop, Valued, broadcast_index};
use super::{Lowering, Place};
use crate::kernel::{Axis, Block, BufferId, Chain, Expr, ExprKind, Tile};
use egret_ir::scalar::BinOp;
use egret_ir::{DType, Dim, Node, ValueId};
use std::sync::Arc;

/// Rows of a tile, by the vector registers there are: with two vectors of columns, 16 and 12 accumulators.
const TILE_ROWS: [(usize, usize); 2] = [(32, 8), (16, 6)];

/// Accumulators that hide the latency of the multiply-add: 4 cycles on 2 pipes.
const LATENCY: usize = 8;

/// Vectors of a tile: two where there are rows enough, and no more than this where there are few.
const VECTORS: (usize, usize) = (2, 4);

/// An attention over the inner loops.
pub struct Attention {
    /// The value it computes.
    pub node: ValueId,
    /// Where that value is asked for.
    pub at: Vec<Dim>,
    /// Queries, keys and values in memory.
    pub places: [(BufferId, Dim); 3],
    /// The operands before their views.
    pub operands: [ValueId; 3],
    /// The indices along the channels that a score is summed over, and along the keys.
    pub inner: [Dim; 2],
    /// The score, with `acc`.
    pub score: Expr,
    /// How many keys a row sees.
    pub seen: Dim,
}

impl Attention {
    /// Every offset that has to be linear, or to be known.
    pub fn dims(&self) -> impl Iterator<Item = &Dim> {
        self.places.iter().map(|(_, d)| d).chain([&self.seen])
    }
}

impl Build<'_> {
    /// An attention at an index `[batch.., row, column]`.
    pub fn attention(&mut self, value: ValueId, node: &Node, scale: f64, causal: bool, at: &[Dim]) -> Valued {
        let (batch, [row, col]) = at.split_last_chunk::<2>().ok_or_else(|| Stop::Fail(value, "it has no rows".to_string()))?;
        let operands = [0, 1, 2].map(|i| node.operands[i]);
        let (depth, keys) = self.summed_extents(value, operands)?;
        let inner = self.inner(value, &[depth, keys.clone()])?.unwrap_or(vec![Dim::ZERO; 2]);
        let taken = self.product.is_some() || self.attention.is_some() || !self.folds.is_empty();
        if taken || self.in_memory || self.in_element || !self.is_outer(at) {
            return Err(Stop::Materialise(value));
        }
        let [d, n] = [&inner[0], &inner[1]];
        let places = self.attention_places(operands, batch, [[row, d], [n, d], [n, col]])?;
        let mask = node.operands.get(3).map(|&mask| (mask, [batch, &[row.clone(), n.clone()]].concat()));
        let score = self.score(scale, mask)?;
        let seen = if causal { self.keys_up_to(row, &keys) } else { keys };
        let inner = [d.clone(), n.clone()];
        self.attention = Some(Attention { node: value, at: at.to_vec(), places, operands, inner, score, seen });
        Ok(Expr::new(DType::F32, ExprKind::Var(ACC.into())))
    }

    /// How many channels a score is summed over, and how many keys there are.
    fn summed_extents(&self, value: ValueId, [q, k, v]: [ValueId; 3]) -> Result<(Dim, Dim), Stop> {
        let from_end = |x: ValueId, i: usize| self.ty(x).dims[self.ty(x).rank() - i].clone();
        let depth = from_end(q, 1);
        match self.ty(q).dtype == DType::F32 && depth.as_const().is_some() && from_end(v, 1).as_const().is_some() {
            true => Ok((depth, from_end(k, 2))),
            false => Err(Stop::Fail(value, "there is a kernel for f32 heads of a known size only".to_string())),
        }
    }

    /// Where the operands lie, given their last two indices.
    fn attention_places(&mut self, operands: [ValueId; 3], batch: &[Dim], last: [[&Dim; 2]; 3]) -> Result<[(BufferId, Dim); 3], Stop> {
        let mut place = |i: usize| {
            let dims = &self.ty(operands[i]).dims;
            let index = [broadcast_index(&dims[..dims.len() - 2], batch), last[i].map(Dim::clone).to_vec()].concat();
            self.in_memory = true;
            let place =
                if self.scope.widened.everywhere { self.multiplied(operands[i], &index) } else { self.in_place(operands[i], &index) };
            self.in_memory = false;
            place
        };
        Ok([place(0)?, place(1)?, place(2)?])
    }

    /// How many keys are at or before a position.
    fn keys_up_to(&self, row: &Dim, keys: &Dim) -> Dim {
        let seen = row.clone() + 1;
        if self.ranges.at_most(&seen, keys) { seen } else { seen.minimum(keys) }
    }

    /// `scale * acc`, with what the mask adds or hides.
    fn score(&mut self, scale: f64, mask: Option<(ValueId, Vec<Dim>)>) -> Valued {
        let acc = Expr::new(DType::F32, ExprKind::Var(ACC.into()));
        let score = if scale == 1.0 { acc } else { bin(BinOp::Mul, &acc, &Expr::literal(scale, DType::F32)) };
        let Some((mask, at)) = mask else { return Ok(score) };
        let at = broadcast_index(&self.ty(mask).dims, &at);
        let bias = self.element(mask, &at)?;
        if !self.folds.is_empty() {
            return Err(Stop::Materialise(self.below_views(mask)));
        }
        Ok(match bias.dtype {
            DType::Bool => select(&bias, &score, &Expr::literal(f64::NEG_INFINITY, DType::F32)),
            _ => bin(BinOp::Add, &score, &bias),
        })
    }
}

/// The loops of an attention by what depends on them.
#[derive(Default)]
struct Roles {
    batch: Vec<Axis>,
    rows: Vec<Axis>,
    cols: Vec<Axis>,
}

impl Roles {
    fn of([q, k, v]: [&Dim; 3], axes: impl Iterator<Item = Axis>) -> Roles {
        let mut roles = Roles::default();
        for axis in axes {
            match [q, k, v].map(|d| d.mentions(&axis.name)) {
                [true, false, false] => roles.rows.push(axis),
                [false, false, true] => roles.cols.push(axis),
                _ => roles.batch.push(axis),
            }
        }
        // Positions are more than the heads that share keys: strips run along them.
        roles.rows.sort_by_key(|axis| axis.extent.as_const().unwrap_or(i64::MAX));
        roles
    }
}

fn stride(d: &Dim, axis: &Axis) -> Option<Dim> {
    d.linear_in(&axis.name).map(|(stride, _)| stride)
}

fn is_linear<'x>(d: &Dim, axes: impl IntoIterator<Item = &'x Axis>) -> bool {
    axes.into_iter().all(|a| stride(d, a).is_some())
}

/// Whether neighbours along an axis are neighbours in memory; of one element there are none.
fn is_contiguous(d: &Dim, axis: &Axis) -> bool {
    axis.extent.is(1) || stride(d, axis).is_some_and(|s| s.is(1))
}

impl Lowering<'_> {
    /// The kernel of an attention and its epilogue.
    ///
    /// # Errors
    /// When an operand has to go to memory first, or the attention itself has to, before what is done to it.
    pub(super) fn attend(&mut self, mut built: Built) -> Result<(Chain, Vec<Place>), Stop> {
        let Some(attention) = built.attention.take() else { return Err(Stop::Separate) };
        let [depth, keys] = [0, 1].map(|i| inner_axis(&built, &attention, i)).map(|axis| axis.ok_or(Stop::Materialise(attention.node)));
        let (depth, keys) = (depth?, keys?);
        let [q, k, v] = attention.places.each_ref().map(|(_, d)| d);
        let mut roles = Roles::of([q, k, v], built.domain.axes(false).cloned());
        let cols = match roles.cols.pop() {
            Some(cols) if roles.cols.is_empty() => cols,
            None => Axis::new("%c", 1),
            Some(_) => return Err(Stop::Materialise(attention.node)),
        };
        let fits = [
            is_linear(q, roles.rows.iter().chain([&depth])),
            is_linear(k, [&depth, &keys]) && (is_contiguous(k, &depth) || is_contiguous(k, &keys)),
            is_linear(v, [&keys]) && is_contiguous(v, &cols),
        ];
        if let Some(i) = fits.iter().position(|fits| !fits) {
            return Err(Stop::Materialise(attention.operands[i]));
        }
        if cols.extent.as_const().is_none() {
            return Err(Stop::Materialise(attention.node));
        }
        let chain = self.chain(&built, attention, roles, [depth, keys, cols]);
        Ok((chain, built.buffers))
    }

    fn chain(&self, built: &Built, attention: Attention, roles: Roles, [depth, keys, cols]: [Axis; 3]) -> Chain {
        let epilogue = built.block(&built.stores);
        let score = Block { lets: built.lets_for([&attention.score]), stores: vec![] };
        let merged = merge(vec![roles.batch, roles.rows], &walks(&attention, &score, &epilogue), &built.ranges);
        let [batch, rows] = <[Vec<Axis>; 2]>::try_from(merged.groups.clone()).unwrap_or_default();
        let mut names = self.names();
        names.number(batch.iter().map(|a| a.name.clone()), "b", 0);
        names.number(rows.iter().map(|a| a.name.clone()), "m", 0);
        for (axis, name) in [(&keys, "n"), (&depth, "k"), (&cols, "c")] {
            names.set(axis.name.clone(), name.to_string());
        }
        names.number(built.lets.iter().map(|l| l.name.clone()), "g", 0);
        let dim = |d: &Dim| names.dim(&merged.apply(d));
        let name = |n: &Arc<str>| names.name(n);
        let mut rewrite = Rewrite::new(&dim, &|b| b, &name);
        let [q, k, v] = attention.places.each_ref().map(|(b, d)| (*b, dim(d)));
        let [keys, depth, cols] = [keys, depth, cols].map(|axis| names.axis(&axis));
        let (lets, epilogue) = (rewrite.block(&score).lets, rewrite.block(&epilogue));
        let (score, seen, tile) = (rewrite.expr(&attention.score), dim(&attention.seen), self.attention_tile(rows.last(), &keys));
        Chain { batch: names.axes(&batch), rows: names.axes(&rows), keys, depth, cols, q, k, v, lets, score, seen, tile, epilogue }
    }

    /// The register tile: strips as long as they can be, and about equally long; no wider than the keys.
    fn attention_tile(&self, rows: Option<&Axis>, keys: &Axis) -> Tile {
        let most = TILE_ROWS.iter().find(|(registers, _)| self.target.vregs >= *registers).map_or(1, |(_, rows)| *rows);
        let rows = match rows.map_or(Some(1), |axis| axis.extent.as_const()).and_then(|m| usize::try_from(m).ok()).filter(|m| *m > 0) {
            Some(m) => m.div_ceil(m.div_ceil(most)),
            None => most,
        };
        let there = keys.extent.as_const().map_or(VECTORS.1, |n| (n as usize).div_ceil(self.target.lanes).max(1));
        Tile { rows, vectors: (LATENCY / rows).clamp(VECTORS.0, VECTORS.1).min(there) }
    }
}

/// Every offset of the kernel: what loops have to agree in to become one.
fn walks(attention: &Attention, score: &Block, epilogue: &Block) -> Vec<Dim> {
    let mut walks = [dims_of(epilogue), dims_of(score), attention.dims().cloned().collect()].concat();
    visit_shared([&attention.score], &mut |e| {
        if let ExprKind::Load(_, d) | ExprKind::Index(d) = &*e.kind {
            walks.push(d.clone());
        }
    });
    walks
}

/// The loop along the channels (0) or the keys (1); `None` where that is not one loop.
fn inner_axis(built: &Built, attention: &Attention, i: usize) -> Option<Axis> {
    let index = &attention.inner[i];
    match index.as_symbol() {
        Some(name) => built.domain.axes(true).find(|a| a.name == *name).cloned(),
        None if index.is(0) => Some(Axis::new(["%d", "%n"][i], 1)),
        None => None,
    }
}
