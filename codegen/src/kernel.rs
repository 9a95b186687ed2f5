//! The kernel IR: what becomes one function, as plain data that prints, hashes and is interpreted.
//!
//! A [`Kernel`] is one of a few skeletons ([`Body`]) filled with scalar [`Expr`]essions. Everything about memory is an
//! offset: an [`ir::Dim`](egret_ir::Dim) over the loop axes, in elements of the buffer. Transpose, slice, reshape,
//! broadcast, the parts of a concat and the border of a pad are arithmetic in these offsets, never kernels of their own.
//! Symbols in an offset or extent that are not loop axes are free extents of the model, passed at run time.
//!
//! ```text
//! map {
//!     for i0 in N, i1 in 128:
//!         out[128*i0 + i1] = max((x[128*i0 + i1] + b[i1]), 0.0)
//! }
//! ```
//!
//! Invariants: axis names are unique in a contraction, in any other body, and in the borders; reads come before writes in `buffers`; a load is in bounds for every
//! point of its loops (padding is written, never read out of bounds); parts of a kernel write disjoint elements.

use egret_ir::scalar::{BinOp, UnOp};
use egret_ir::{DType, Dim};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

/// A buffer of a kernel: its position in [`Kernel::buffers`] and in the pointer table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferId(pub usize);

/// What a kernel reads or writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Buffer {
    /// For people; not part of the kernel's identity.
    pub name: Arc<str>,
    /// The type of its elements.
    pub dtype: DType,
    /// Whether the kernel writes it.
    pub written: bool,
}

/// A loop: `name` runs over `0..extent`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Axis {
    /// A symbol that stands for the loop variable in offsets.
    pub name: Arc<str>,
    /// How often it runs; numbers, or free symbols of the model.
    pub extent: Dim,
}

/// A typed scalar expression at one point of the loops. Shared sub-expressions are shared [`Arc`]s.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Expr {
    /// The element type of the value.
    pub dtype: DType,
    /// What it computes.
    pub kind: Arc<ExprKind>,
}

/// The node of an [`Expr`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ExprKind {
    /// The element of a buffer at an offset.
    Load(BufferId, Dim),
    /// An index as a value (i64).
    Index(Dim),
    /// A literal: the bits of an f64 for float types, the integer otherwise.
    Const(Literal),
    /// A value bound before: a [`Let`], a row statistic, or `acc`, the result of a contraction.
    Var(Arc<str>),
    /// A primitive of one operand.
    Un(UnOp, Expr),
    /// A primitive of two operands.
    Bin(BinOp, Expr, Expr),
    /// `if .0 { .1 } else { .2 }`.
    Select(Expr, Expr, Expr),
    /// Conversion to the expression's type.
    Cast(Expr),
    /// The same bits as the expression's type, which has the same size.
    Bits(Expr),
}

/// A constant in an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Literal {
    /// A float, by its bits as f64.
    Float(u64),
    /// An integer or truth value.
    Int(i64),
}

/// An index read from data: `name` stands for the value in later offsets, held within `0..extent`, so that no data can
/// make a kernel read out of bounds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Let {
    /// The symbol.
    pub name: Arc<str>,
    /// An i64 expression.
    pub value: Expr,
    /// The extent of the axis it indexes.
    pub extent: Dim,
}

/// `buffer[offset] = value`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    /// Where to.
    pub buffer: BufferId,
    /// In elements.
    pub offset: Dim,
    /// What; has the buffer's type.
    pub value: Expr,
}

/// What happens at one point of the loops.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Block {
    /// Indices read from data, in order.
    pub lets: Vec<Let>,
    /// Elements written.
    pub stores: Vec<Store>,
}

/// One function of the artifact.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Reads, then writes: the order of the pointer table.
    pub buffers: Vec<Buffer>,
    /// The computation.
    pub body: Body,
    /// Elements that are written beside those of the body, such as the zeros around an image that the next convolution reads.
    /// Parts divide each of these nests, as those of a [`Map`].
    pub borders: Vec<Piece>,
}

/// The skeletons.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// Elementwise work and data movement.
    Map(Map),
    /// Reductions, norms, softmax, pooling, depthwise convolution: passes over rows.
    Rows(Rows),
    /// Matrix products and convolutions, one after another: none reads what another writes, and what they write is disjoint.
    /// Parts divide each of them.
    Contract(Vec<Contract>),
    /// 3x3 convolutions in the transformed domain.
    Winograd(Winograd),
    /// Attention: two matrix products with a softmax between them.
    Chain(Chain),
    /// A recurrent layer, after its input projection.
    Recur(Recur),
    /// The first elements of rows in order.
    TopK(TopK),
    /// Running sums and products, scattering.
    Serial(Serial),
}

/// Loop nests one after another, each writing its own part of the output (the parts of a concat, the border of a pad).
/// The innermost axis of a piece is the lane axis; parts divide the outer axes of each piece ([`Kernel::units`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Map {
    /// The nests; what they write is disjoint.
    pub pieces: Vec<Piece>,
}

/// One loop nest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    /// Outermost first; none for a rank-0 value.
    pub axes: Vec<Axis>,
    /// At every point.
    pub block: Block,
}

/// For every point of `axes`: passes over the points of `reduced`.
///
/// The lane axis is either the innermost reduced axis (a reduction ends in a horizontal one), or the innermost of `axes`
/// (every lane reduces for itself: pooling over channels-last data, depthwise convolution, column sums).
/// Parts divide the outer ones of `axes` ([`Kernel::units`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rows {
    /// Outermost first.
    pub axes: Vec<Axis>,
    /// The reduced axes, outermost first.
    pub reduced: Vec<Axis>,
    /// Whether the lanes are the innermost of `axes` and not of `reduced`.
    pub lanes_outside: bool,
    /// How many neighbouring points of the innermost axis of `axes` that is not the lane axis are computed together, so
    /// that a load of a weight serves all of them; 1 where it does not pay.
    pub tile: usize,
    /// In order; a later pass reads what an earlier one bound or stored.
    pub passes: Vec<Pass>,
}

/// One pass of a [`Rows`] kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pass {
    /// Whether it visits every point of the reduced axes, or is done once for the row.
    pub over_row: bool,
    /// Statistics bound at the end of the pass.
    pub reduces: Vec<Reduce>,
    /// What it writes on the way.
    pub block: Block,
}

/// A fold over the reduced axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reduce {
    /// The name that later passes use.
    pub var: Arc<str>,
    /// How elements combine.
    pub fold: Fold,
    /// The element.
    pub value: Expr,
}

/// How a reduction combines elements. Sums of f16 and bf16 are kept in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fold {
    /// `+`, from 0.
    Sum,
    /// The larger, NaN if one is, from the type's lowest value (-inf for floats).
    Max,
    /// The smaller, NaN if one is, from the type's highest value (inf for floats).
    Min,
    /// `*`, from 1.
    Prod,
}

/// `acc[batch, rows, cols] = sum over k of a[batch, rows, k] * b[batch, k, cols]`, then the epilogue at every point, with
/// `acc` as a variable. Operands are f32, or bf16 or integers that are widened as they are read; the sum is f32 and runs over `k` in order, fused
/// multiply-add, but for [`Panels::Paired`] and [`Panels::Quads`]; a GPU sums in an order of its own, to f32's accuracy.
///
/// A convolution over channels-last data is this with rows `[oh, ow]` and k `[kh, kw*ic]`: no im2col.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Contract {
    /// Outermost; images, heads, groups.
    pub batch: Vec<Axis>,
    /// The register tile runs along the innermost of these.
    pub rows: Vec<Axis>,
    /// The lanes.
    pub cols: Axis,
    /// Reduced, outermost first.
    pub k: Vec<Axis>,
    /// `a`: read element by element and broadcast; does not mention `cols`, and is linear in `rows` and `k`.
    pub a: (BufferId, Dim),
    /// `b`.
    pub b: Panels,
    /// Register tile.
    pub tile: Tile,
    /// Which loop the parts divide.
    pub split: Split,
    /// At every point of batch, rows, cols.
    pub epilogue: Block,
}

/// How a contraction reads its second operand.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Panels {
    /// Packed `[ceil(N / (nv*lanes))][K][nv*lanes]`, starting at an offset that may depend on the batch axes.
    /// What stands in the lanes beyond N is unspecified (not NaN-free either).
    Packed(BufferId, Dim),
    /// As it lies: the offset is linear in `k`, and `cols` has stride 1.
    Strided(BufferId, Dim),
    /// bf16, packed in pairs of steps of the innermost `k`, a number: `[ceil(N / (nv*lanes))][outer k][ceil(k/2)][nv*lanes][2]`,
    /// starting at an offset that may depend on the batch axes. Behind an odd number of steps stands zero.
    ///
    /// `a` is bf16 too and has stride 1 along the innermost `k`: a step is a dot product of two pairs (AVX512-BF16), which adds both
    /// products in an order that the processor chooses, with subnormal operands and sums as zero.
    Paired(BufferId, Dim),
    /// i8, packed in fours of steps of the innermost `k`, a number: `[ceil(N / (nv*lanes))][outer k][ceil(k/4)][nv*lanes][4]`,
    /// starting at an offset that may depend on the batch axes. Behind the last step stands zero.
    ///
    /// `a` is u8 and has stride 1 along the innermost `k`: a step is a sum of four products (VNNI), and the sum is an i32, exact. The last
    /// four of a row may be read beyond its end, where what is read counts for nothing.
    Quads(BufferId, Dim),
    /// `(q - zero) * scale`, where `q` has few bits and each block of steps of `k`, a number, has a scale and a zero point of its own:
    /// bytes, packed `[ceil(N / (nv*lanes))][blocks][block]` as [`Blocks`] says, starting at an offset that may depend on the batch axes.
    ///
    /// A weight is rounded to f32 once and multiplied as any other.
    Blocks(BufferId, Dim, Blocks),
}

/// How weights of few bits are packed. A block of the columns of a panel is
///
/// ```text
/// scales         [nv*lanes] of f32
/// zero points    [nv*lanes] of i8, if there are any but 0
/// integers       i4: [ceil(steps / 8)][nv*lanes] words of eight steps, the first in the lowest bits
///                i8: [steps][nv*lanes]
/// ```
///
/// The last block has the steps that are left. What stands in the lanes beyond N is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blocks {
    /// Steps of a block.
    pub steps: usize,
    /// i4 or i8.
    pub dtype: DType,
    /// Whether there are zero points.
    pub has_zeros: bool,
}

impl Blocks {
    /// Steps of `k` in a word.
    pub const IN_WORD: usize = 8;

    /// The bytes of a column of a block before its integers.
    pub fn header(self) -> usize {
        size_of::<f32>() + usize::from(self.has_zeros)
    }

    /// The bytes of a column of a block with so many steps.
    pub fn block_bytes(self, steps: usize) -> usize {
        let integers = if self.is_in_words() { steps.div_ceil(Blocks::IN_WORD) * size_of::<u32>() } else { steps };
        self.header() + integers
    }

    /// The bytes of a column of a panel with so many steps.
    pub fn column_bytes(self, steps: usize) -> usize {
        let rest = steps % self.steps;
        steps / self.steps * self.block_bytes(self.steps) + if rest > 0 { self.block_bytes(rest) } else { 0 }
    }

    /// Whether the integers are of four bits.
    pub fn is_in_words(self) -> bool {
        self.dtype == DType::I4
    }
}

impl Panels {
    /// Steps of the innermost `k` that stand beside each other in a column.
    pub fn together(&self) -> usize {
        match self {
            Panels::Packed(..) | Panels::Strided(..) | Panels::Blocks(..) => 1,
            Panels::Paired(..) => 2,
            Panels::Quads(..) => 4,
        }
    }

    /// The type of the sums.
    pub fn sum(&self) -> DType {
        match self {
            Panels::Packed(..) | Panels::Strided(..) | Panels::Paired(..) | Panels::Blocks(..) => DType::F32,
            Panels::Quads(..) => DType::I32,
        }
    }

    /// The buffer.
    pub fn buffer(&self) -> BufferId {
        match self {
            Panels::Packed(b, _) | Panels::Strided(b, _) | Panels::Paired(b, _) | Panels::Quads(b, _) | Panels::Blocks(b, _, _) => *b,
        }
    }

    /// Where in the buffer it starts, or lies.
    pub fn offset(&self) -> &Dim {
        match self {
            Panels::Packed(_, offset) | Panels::Strided(_, offset) => offset,
            Panels::Paired(_, offset) | Panels::Quads(_, offset) | Panels::Blocks(_, offset, _) => offset,
        }
    }

    /// The same with another buffer and offset.
    pub fn moved(&self, buffer: BufferId, offset: Dim) -> Panels {
        match self {
            Panels::Packed(..) => Panels::Packed(buffer, offset),
            Panels::Strided(..) => Panels::Strided(buffer, offset),
            Panels::Paired(..) => Panels::Paired(buffer, offset),
            Panels::Quads(..) => Panels::Quads(buffer, offset),
            Panels::Blocks(_, _, blocks) => Panels::Blocks(buffer, offset, *blocks),
        }
    }
}

/// `rows` by `vectors` accumulators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    /// Rows of the tile.
    pub rows: usize,
    /// Vectors of columns of the tile.
    pub vectors: usize,
}

/// Which loop of a contraction the parts divide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Split {
    /// The batch axes, numbered through from the outermost.
    Batch,
    /// The row axes but the tiled one, or that in whole tiles where it is the only one.
    Rows,
    /// The panels of columns.
    Cols,
}

/// A 3x3 convolution of stride 1 over channels-last data by [Winograd's F(4x4, 3x3)](crate::winograd), then the epilogue at every
/// point, with `acc` as a variable. f32 only.
///
/// A unit of work is a number of tiles of 4x4 outputs: their inputs are transformed into the part's working memory, 36 matrix
/// products are taken there, and those are transformed into outputs. Parts divide the units.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Winograd {
    /// Images.
    pub batch: Vec<Axis>,
    /// The rows and the columns of the output image.
    pub rows: [Axis; 2],
    /// The output channels: the lanes; a number.
    pub cols: Axis,
    /// The input channels; a number.
    pub depth: Axis,
    /// The input that the upper left tap of a window reads: linear in `rows`, contiguous in `depth`, and there for two rows and
    /// columns more than `rows` has.
    pub a: (BufferId, Dim),
    /// Transformed weights, packed `[36][ceil(cols / (nv*lanes))][depth][nv*lanes]`.
    pub weights: BufferId,
    /// Register tile of the matrix products.
    pub tile: Tile,
    /// Tiles of 4x4 outputs in a unit.
    pub block: usize,
    /// At every point of batch, rows, cols.
    pub epilogue: Block,
}

/// Attention in one kernel, the scores in private memory: for every point of batch and rows,
///
/// ```text
/// s[keys]   = score, with acc = sum over depth of q[batch, rows, depth] * k[batch, keys, depth];  -inf for keys from `seen` on
/// p[keys]   = exp(s - max(s)) / sum(exp(s - max(s)));  zero everywhere if all of s is -inf
/// acc[cols] = sum over keys of p * v[batch, keys, cols], then the epilogue at every point
/// ```
///
/// f32 only. Parts divide batch, outer rows and blocks of the tiled rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Chain {
    /// Outermost; images, heads of the keys and values.
    pub batch: Vec<Axis>,
    /// Positions of the queries, and their heads where several share keys; the register tile runs along the innermost.
    pub rows: Vec<Axis>,
    /// Positions of keys and values.
    pub keys: Axis,
    /// What a score is summed over; a number.
    pub depth: Axis,
    /// The lanes of the result; a number.
    pub cols: Axis,
    /// Queries: linear in rows and depth.
    pub q: (BufferId, Dim),
    /// Keys: linear in keys and depth, one of which has stride 1.
    pub k: (BufferId, Dim),
    /// Values: linear in keys, with stride 1 in cols.
    pub v: (BufferId, Dim),
    /// Indices read from data that the score needs, in order.
    pub lets: Vec<Let>,
    /// The score at a point of batch, rows and keys, with `acc`.
    pub score: Expr,
    /// How many keys a row sees, at most all; does not decrease along the innermost rows.
    pub seen: Dim,
    /// Register tile of both products.
    pub tile: Tile,
    /// At every point of batch, rows, cols.
    pub epilogue: Block,
}

/// A recurrent layer, one direction. `gates` holds the input projections of all steps with the biases that do not depend
/// on the state: `[t, b, g*h]`. The recurrent weights are packed `[ceil(h/lanes)][h][g][lanes]`, zero beyond h.
/// Parts divide the batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recur {
    /// Which cell.
    pub cell: Cell,
    /// Steps, batch, hidden size.
    pub steps: Dim,
    /// Rows of the batch.
    pub batch: Dim,
    /// Hidden size; a number.
    pub hidden: usize,
    /// Whether the last step comes first.
    pub reverse: bool,
    /// `[t, b, g*h]`.
    pub gates: BufferId,
    /// Packed recurrent weights.
    pub weights: BufferId,
    /// For a GRU with `linear_before_reset`: the recurrent bias of the candidate, `[h]`.
    pub bias: Option<BufferId>,
    /// Initial hidden state `[b, h]`.
    pub h0: BufferId,
    /// Initial cell state `[b, h]`, for an LSTM.
    pub c0: Option<BufferId>,
    /// All hidden states `[t, b, h]`; also where a step reads the previous one.
    pub y: BufferId,
    /// Last hidden state `[b, h]`.
    pub h: BufferId,
    /// Last cell state `[b, h]`, for an LSTM; holds the running cell state.
    pub c: Option<BufferId>,
}

/// For every point of `rows`: the `count` largest (or smallest) of `extent` elements in order, and where they stand. NaN is above every
/// number, both zeros are equal, and of equals the lower index comes first. Parts divide the rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopK {
    /// What is around the axis that is selected from, and what lies within a step of it.
    pub rows: [Axis; 2],
    /// Elements of a row.
    pub extent: Dim,
    /// How many of them; at most `extent`.
    pub count: Dim,
    /// Whether the largest come first.
    pub largest: bool,
    /// `[rows.0, extent, rows.1]`, numbers.
    pub x: BufferId,
    /// `[rows.0, count, rows.1]`, of the type of `x`.
    pub values: BufferId,
    /// `[rows.0, count, rows.1]`, i64.
    pub indices: BufferId,
}

/// For every point of `axes`: nests one after another, whose points are done in order, the innermost loop first, and may read what those
/// before them wrote. Points of `axes` have nothing to do with each other; parts divide them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Serial {
    /// Outermost first; none where all is one row.
    pub axes: Vec<Axis>,
    /// In order.
    pub nests: Vec<Nest>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Nest {
    /// The loops and what each point does.
    pub piece: Piece,
    /// Whether the points of the innermost loop have nothing to do with each other, so that vectors of them are done at once.
    pub lanes: bool,
}

/// A recurrent cell, gates in ONNX's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cell {
    /// Gates i, o, f, c.
    Lstm,
    /// Gates z, r, h.
    Gru {
        /// Whether the reset gate is applied after the matrix product.
        linear_before_reset: bool,
    },
    /// One gate through tanh.
    Tanh,
    /// One gate through relu.
    Relu,
    /// One gate through sigmoid.
    Sigmoid,
}

impl Body {
    /// The loop nests of a map or of a serial body.
    pub fn pieces(&self) -> Vec<&Piece> {
        match self {
            Body::Map(map) => map.pieces.iter().collect(),
            Body::Serial(serial) => serial.nests.iter().map(|nest| &nest.piece).collect(),
            _ => vec![],
        }
    }
}

impl Contract {
    /// The steps of the innermost `k`, where its number is known.
    pub fn innermost_steps(&self) -> Option<i64> {
        self.k.last().and_then(|axis| axis.extent.as_const())
    }
}

impl Chain {
    /// The indices that the score needs, as a block that stores nothing.
    pub fn score_block(&self) -> Block {
        Block { lets: self.lets.clone(), stores: vec![] }
    }

    /// Whether some rows see fewer keys than others.
    pub fn is_causal(&self) -> bool {
        self.seen != self.keys.extent
    }
}

impl Cell {
    /// The number of gates.
    pub fn gates(self) -> usize {
        match self {
            Cell::Lstm => 4,
            Cell::Gru { .. } => 3,
            Cell::Tanh | Cell::Relu | Cell::Sigmoid => 1,
        }
    }
}

impl Axis {
    /// A loop.
    pub fn new(name: impl Into<Arc<str>>, extent: impl Into<Dim>) -> Axis {
        Axis { name: name.into(), extent: extent.into() }
    }

    /// The loop variable as an index.
    pub fn index(&self) -> Dim {
        Dim::symbol(self.name.clone())
    }
}

impl Expr {
    /// An expression from its parts.
    pub fn new(dtype: DType, kind: ExprKind) -> Expr {
        Expr { dtype, kind: Arc::new(kind) }
    }

    /// A float literal of a float type, or the nearest integer literal.
    pub fn literal(value: f64, dtype: DType) -> Expr {
        let literal = if dtype.is_float() { Literal::Float(value.to_bits()) } else { Literal::Int(value as i64) };
        Expr::new(dtype, ExprKind::Const(literal))
    }

    /// The operands of the node.
    pub fn operands(&self) -> Vec<&Expr> {
        match &*self.kind {
            ExprKind::Load(..) | ExprKind::Index(_) | ExprKind::Const(_) | ExprKind::Var(_) => vec![],
            ExprKind::Un(_, x) | ExprKind::Cast(x) | ExprKind::Bits(x) => vec![x],
            ExprKind::Bin(_, x, y) => vec![x, y],
            ExprKind::Select(c, x, y) => vec![c, x, y],
        }
    }

    /// Calls `f` on this node and everything below it.
    pub fn visit(&self, f: &mut impl FnMut(&Expr)) {
        f(self);
        self.operands().into_iter().for_each(|o| o.visit(f));
    }
}

impl Block {
    /// Every expression of the block.
    pub fn exprs(&self) -> impl Iterator<Item = &Expr> {
        self.lets.iter().map(|l| &l.value).chain(self.stores.iter().map(|s| &s.value))
    }

    /// Every extent and offset of the block.
    fn dims(&self) -> Vec<Dim> {
        let mut dims: Vec<Dim> = self.lets.iter().map(|l| l.extent.clone()).chain(self.stores.iter().map(|s| s.offset.clone())).collect();
        self.exprs().for_each(|e| collect_dims(e, &mut dims));
        dims
    }
}

fn collect_dims(expr: &Expr, dims: &mut Vec<Dim>) {
    expr.visit(&mut |e| {
        if let ExprKind::Load(_, d) | ExprKind::Index(d) = &*e.kind {
            dims.push(d.clone());
        }
    });
}

impl Kernel {
    /// A kernel without borders.
    pub fn new(buffers: Vec<Buffer>, body: Body) -> Kernel {
        Kernel { buffers, body, borders: vec![] }
    }

    /// The free symbols of the model that the kernel depends on, sorted: its run-time size arguments, in this order.
    pub fn sizes(&self) -> Vec<Arc<str>> {
        let (dims, bound) = self.dims_and_bound();
        let found: BTreeSet<Arc<str>> = dims.iter().flat_map(|d| d.symbols()).collect();
        found.into_iter().filter(|s| !bound.contains(s)).collect()
    }

    /// Every extent and offset, and every symbol bound by a loop or a let.
    fn dims_and_bound(&self) -> (Vec<Dim>, BTreeSet<Arc<str>>) {
        let (mut dims, mut bound) = (vec![], BTreeSet::new());
        let mut axes = |axes: &[Axis], dims: &mut Vec<Dim>| {
            for axis in axes {
                dims.push(axis.extent.clone());
                bound.insert(axis.name.clone());
            }
        };
        let mut lets = vec![];
        let mut block = |b: &Block, dims: &mut Vec<Dim>| {
            dims.extend(b.dims());
            lets.extend(b.lets.iter().map(|l| l.name.clone()));
        };
        for piece in self.body.pieces().into_iter().chain(&self.borders) {
            axes(&piece.axes, &mut dims);
            block(&piece.block, &mut dims);
        }
        match &self.body {
            Body::Map(_) => {}
            Body::Serial(serial) => axes(&serial.axes, &mut dims),
            Body::Rows(rows) => {
                axes(&rows.axes, &mut dims);
                axes(&rows.reduced, &mut dims);
                for pass in &rows.passes {
                    block(&pass.block, &mut dims);
                    pass.reduces.iter().for_each(|r| collect_dims(&r.value, &mut dims));
                }
            }
            Body::Contract(contracts) => contracts.iter().for_each(|c| {
                for group in [&c.batch, &c.rows, &c.k] {
                    axes(group, &mut dims);
                }
                axes(std::slice::from_ref(&c.cols), &mut dims);
                dims.push(c.a.1.clone());
                dims.push(c.b.offset().clone());
                block(&c.epilogue, &mut dims);
            }),
            Body::Winograd(w) => {
                axes(&w.batch, &mut dims);
                axes(&w.rows, &mut dims);
                axes(&[w.cols.clone(), w.depth.clone()], &mut dims);
                dims.push(w.a.1.clone());
                block(&w.epilogue, &mut dims);
            }
            Body::Chain(c) => {
                for group in [&c.batch[..], &c.rows, std::slice::from_ref(&c.keys), std::slice::from_ref(&c.depth)] {
                    axes(group, &mut dims);
                }
                axes(std::slice::from_ref(&c.cols), &mut dims);
                dims.extend([&c.q.1, &c.k.1, &c.v.1, &c.seen].map(Dim::clone));
                block(&c.score_block(), &mut dims);
                collect_dims(&c.score, &mut dims);
                block(&c.epilogue, &mut dims);
            }
            Body::Recur(r) => dims.extend([r.steps.clone(), r.batch.clone()]),
            Body::TopK(t) => {
                axes(&t.rows, &mut dims);
                dims.extend([t.extent.clone(), t.count.clone()]);
            }
        }
        bound.extend(lets);
        (dims, bound)
    }

    /// The buffers that are read, then those that are written.
    pub fn reads(&self) -> impl Iterator<Item = &Buffer> {
        self.buffers.iter().filter(|b| !b.written)
    }
}

/// Prints an [`Expr`] with the buffers' names, and values that have been given a name by that.
struct Shown<'a>(&'a Kernel, &'a HashMap<*const ExprKind, String>, &'a Expr);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1.get(&Arc::as_ptr(&self.2.kind)) {
            Some(name) => f.write_str(name),
            None => self.write_node(f),
        }
    }
}

impl<'a> Shown<'a> {
    fn operand(&self, e: &'a Expr) -> Shown<'a> {
        Shown(self.0, self.1, e)
    }

    /// An operand to the right of `*` or `/`.
    fn factor(&self, e: &'a Expr) -> String {
        let is_product = matches!(*e.kind, ExprKind::Bin(BinOp::Mul | BinOp::Div, ..)) && !self.1.contains_key(&Arc::as_ptr(&e.kind));
        if is_product { format!("({})", self.operand(e)) } else { self.operand(e).to_string() }
    }

    fn write_node(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |e| self.operand(e);
        match &*self.2.kind {
            ExprKind::Load(b, offset) => write!(f, "{}[{offset}]", self.0.buffers[b.0].name),
            ExprKind::Index(d) => write!(f, "({d})"),
            ExprKind::Const(Literal::Float(bits)) => match f64::from_bits(*bits) {
                v if f64::from(v as f32) == v => write!(f, "{:?}", v as f32),
                v => write!(f, "{v:?}"),
            },
            ExprKind::Const(Literal::Int(i)) => write!(f, "{i}"),
            ExprKind::Var(name) => f.write_str(name),
            ExprKind::Un(UnOp::Neg, x) => write!(f, "-{}", show(x)),
            ExprKind::Un(op, x) => write!(f, "{op}({})", show(x)),
            ExprKind::Bin(BinOp::Add, x, y) => write!(f, "({} + {})", show(x), show(y)),
            ExprKind::Bin(BinOp::Sub, x, y) => write!(f, "({} - {})", show(x), show(y)),
            ExprKind::Bin(BinOp::Mul, x, y) => write!(f, "{}*{}", show(x), self.factor(y)),
            ExprKind::Bin(BinOp::Div, x, y) => write!(f, "{}/{}", show(x), self.factor(y)),
            ExprKind::Bin(op, x, y) => write!(f, "{op}({}, {})", show(x), show(y)),
            ExprKind::Select(c, x, y) => write!(f, "select({}, {}, {})", show(c), show(x), show(y)),
            ExprKind::Cast(x) => write!(f, "{}({})", self.2.dtype, show(x)),
            ExprKind::Bits(x) => write!(f, "bits {}({})", self.2.dtype, show(x)),
        }
    }
}

/// Prints the lines of a block; a value that is used more than once is computed on a line of its own, so that a text is never
/// much longer than the graph of its expressions.
struct Lines<'a> {
    kernel: &'a Kernel,
    indent: &'a str,
    uses: HashMap<*const ExprKind, usize>,
    names: HashMap<*const ExprKind, String>,
}

impl<'a> Lines<'a> {
    fn of(kernel: &'a Kernel, indent: &'a str, exprs: impl Iterator<Item = &'a Expr>) -> Lines<'a> {
        fn count(e: &Expr, uses: &mut HashMap<*const ExprKind, usize>) {
            let seen = uses.entry(Arc::as_ptr(&e.kind)).or_default();
            *seen += 1;
            if *seen == 1 {
                e.operands().into_iter().for_each(|o| count(o, uses));
            }
        }
        let mut uses = HashMap::new();
        exprs.for_each(|e| count(e, &mut uses));
        Lines { kernel, indent, uses, names: HashMap::new() }
    }

    /// The shared values of an expression that have not been written yet, then the line itself.
    fn write(&mut self, f: &mut fmt::Formatter<'_>, before: impl fmt::Display, e: &Expr, after: impl fmt::Display) -> fmt::Result {
        self.shared(f, e)?;
        writeln!(f, "{}{before}{}{after}", self.indent, Shown(self.kernel, &self.names, e))
    }

    fn shared(&mut self, f: &mut fmt::Formatter<'_>, e: &Expr) -> fmt::Result {
        let key = Arc::as_ptr(&e.kind);
        if self.names.contains_key(&key) {
            return Ok(());
        }
        for o in e.operands() {
            self.shared(f, o)?;
        }
        if self.uses[&key] > 1 && !e.operands().is_empty() {
            let name = format!("t{}", self.names.len());
            writeln!(f, "{}{name} = {}", self.indent, Shown(self.kernel, &self.names, e))?;
            self.names.insert(key, name);
        }
        Ok(())
    }
}

fn axes_text(axes: &[Axis]) -> String {
    axes.iter().map(|a| format!("{} in {}", a.name, a.extent)).collect::<Vec<_>>().join(", ")
}

impl Kernel {
    fn write_block(&self, f: &mut fmt::Formatter<'_>, indent: &str, block: &Block, reduces: &[Reduce]) -> fmt::Result {
        let mut lines = Lines::of(self, indent, block.exprs().chain(reduces.iter().map(|r| &r.value)));
        for l in &block.lets {
            lines.write(f, format_args!("let {} = ", l.name), &l.value, format_args!(" within {}", l.extent))?;
        }
        for s in &block.stores {
            lines.write(f, format_args!("{}[{}] = ", self.buffers[s.buffer.0].name, s.offset), &s.value, "")?;
        }
        for r in reduces {
            let fold = format!("{:?}", r.fold).to_lowercase();
            lines.write(f, format_args!("{} = {fold}(", r.var), &r.value, ")")?;
        }
        Ok(())
    }

    fn write_pieces<'a>(&self, f: &mut fmt::Formatter<'_>, what: &str, pieces: impl IntoIterator<Item = &'a Piece>) -> fmt::Result {
        writeln!(f, "{what} {{")?;
        for piece in pieces {
            writeln!(f, "    for {}:", axes_text(&piece.axes))?;
            self.write_block(f, "        ", &piece.block, &[])?;
        }
        write!(f, "}}")
    }

    fn write_rows(&self, f: &mut fmt::Formatter<'_>, rows: &Rows) -> fmt::Result {
        let lanes = if rows.lanes_outside { rows.axes.last() } else { rows.reduced.last() };
        write!(f, "rows for {} over {}", axes_text(&rows.axes), axes_text(&rows.reduced))?;
        writeln!(f, ", lanes {}, tile {} {{", lanes.map_or("none", |a| &a.name), rows.tile)?;
        for pass in &rows.passes {
            writeln!(f, "    {}:", if pass.over_row { "over the row" } else { "once" })?;
            self.write_block(f, "        ", &pass.block, &pass.reduces)?;
        }
        write!(f, "}}")
    }

    fn write_contract(&self, f: &mut fmt::Formatter<'_>, c: &Contract) -> fmt::Result {
        let batch = if c.batch.is_empty() { String::new() } else { format!("batch {}, ", axes_text(&c.batch)) };
        let (rows, cols, k) = (axes_text(&c.rows), axes_text(std::slice::from_ref(&c.cols)), axes_text(&c.k));
        writeln!(f, "contract {batch}rows {rows}, cols {cols}, k {k}, tile {}x{}, split {:?} {{", c.tile.rows, c.tile.vectors, c.split)?;
        let a = &self.buffers[c.a.0.0].name;
        let b = match &c.b {
            Panels::Packed(b, offset) => format!("{}.panels[{offset}]", self.buffers[b.0].name),
            Panels::Strided(b, offset) => format!("{}[{offset}]", self.buffers[b.0].name),
            Panels::Paired(b, offset) => format!("{}.pairs[{offset}]", self.buffers[b.0].name),
            Panels::Quads(b, offset) => format!("{}.quads[{offset}]", self.buffers[b.0].name),
            Panels::Blocks(b, offset, blocks) => format!("{}.{blocks}[{offset}]", self.buffers[b.0].name),
        };
        let sum = if c.b.together() > 1 { "dot" } else { "sum" };
        writeln!(f, "    acc = {sum}({a}[{}] * {b})", c.a.1)?;
        self.write_block(f, "    ", &c.epilogue, &[])?;
        write!(f, "}}")
    }
}

impl Kernel {
    fn write_winograd(&self, f: &mut fmt::Formatter<'_>, w: &Winograd) -> fmt::Result {
        let batch = if w.batch.is_empty() { String::new() } else { format!("batch {}, ", axes_text(&w.batch)) };
        let [cols, depth] = [&w.cols, &w.depth].map(|a| axes_text(std::slice::from_ref(a)));
        write!(f, "winograd {batch}rows {}, cols {cols}, depth {depth}, ", axes_text(&w.rows))?;
        writeln!(f, "tile {}x{}, {} tiles a unit {{", w.tile.rows, w.tile.vectors, w.block)?;
        let name = |b: BufferId| &self.buffers[b.0].name;
        writeln!(f, "    acc = convolved({}[{}], {}.products)", name(w.a.0), w.a.1, name(w.weights))?;
        self.write_block(f, "    ", &w.epilogue, &[])?;
        write!(f, "}}")
    }

    fn write_chain(&self, f: &mut fmt::Formatter<'_>, c: &Chain) -> fmt::Result {
        let batch = if c.batch.is_empty() { String::new() } else { format!("batch {}, ", axes_text(&c.batch)) };
        let [keys, depth, cols] = [&c.keys, &c.depth, &c.cols].map(|a| axes_text(std::slice::from_ref(a)));
        let rows = axes_text(&c.rows);
        writeln!(f, "chain {batch}rows {rows}, keys {keys}, depth {depth}, cols {cols}, tile {}x{} {{", c.tile.rows, c.tile.vectors)?;
        let name = |b: BufferId| &self.buffers[b.0].name;
        writeln!(f, "    acc = sum({}[{}] * {}[{}])", name(c.q.0), c.q.1, name(c.k.0), c.k.1)?;
        self.write_block(f, "    ", &c.score_block(), &[])?;
        let seen = if c.is_causal() { format!(" where {} < {}", c.keys.name, c.seen) } else { String::new() };
        Lines::of(self, "    ", std::iter::once(&c.score)).write(f, "p = softmax(", &c.score, format_args!("){seen}"))?;
        writeln!(f, "    acc = sum(p * {}[{}])", name(c.v.0), c.v.1)?;
        self.write_block(f, "    ", &c.epilogue, &[])?;
        write!(f, "}}")
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zeros = if self.has_zeros { " with zeros" } else { "" };
        write!(f, "blocks({} of {}{zeros})", self.steps, self.dtype)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let buffers: Vec<String> =
            self.buffers.iter().map(|b| format!("{}{}: {}", if b.written { "out " } else { "" }, b.name, b.dtype)).collect();
        writeln!(f, "({})", buffers.join(", "))?;
        match &self.body {
            Body::Map(map) => self.write_pieces(f, "map", &map.pieces),
            Body::Serial(serial) => {
                let axes = if serial.axes.is_empty() { String::new() } else { format!(" for {}", axes_text(&serial.axes)) };
                self.write_pieces(f, &format!("serial{axes}"), serial.nests.iter().map(|nest| &nest.piece))
            }
            Body::Rows(rows) => self.write_rows(f, rows),
            Body::Contract(contracts) => contracts.iter().enumerate().try_for_each(|(i, contract)| {
                if i > 0 {
                    writeln!(f)?;
                }
                self.write_contract(f, contract)
            }),
            Body::Winograd(winograd) => self.write_winograd(f, winograd),
            Body::Chain(chain) => self.write_chain(f, chain),
            Body::Recur(r) => {
                let name = |b: BufferId| &self.buffers[b.0].name;
                let direction = if r.reverse { "reverse" } else { "forward" };
                write!(
                    f,
                    "recur {:?} {direction}, steps {}, batch {}, hidden {} {{ {} = cell({}, {}) }}",
                    r.cell,
                    r.steps,
                    r.batch,
                    r.hidden,
                    name(r.y),
                    name(r.gates),
                    name(r.weights)
                )
            }
            Body::TopK(t) => {
                let name = |b: BufferId| &self.buffers[b.0].name;
                let (rows, which) = (axes_text(&t.rows), if t.largest { "largest" } else { "smallest" });
                let made = format!("{}, {}", name(t.values), name(t.indices));
                write!(f, "top_k for {rows} {{ {made} = {} {which} of {} of {} }}", t.count, t.extent, name(t.x))
            }
        }?;
        match &self.borders[..] {
            [] => Ok(()),
            borders => {
                writeln!(f)?;
                self.write_pieces(f, "borders", borders)
            }
        }
    }
}
