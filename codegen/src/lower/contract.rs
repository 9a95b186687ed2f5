//! Matrix products and convolutions: which loops are rows, columns and batches, and how the second operand is read.
//!
//! A loop that only the left operand depends on is a row, one that only the right operand depends on is a column, and one
//! that both depend on is a batch. The right operand is read with a vector per step of `k`, so it has to lie in that order:
//! constants are packed when the model is compiled, what is contiguous in the columns is read as it lies, and anything
//! else is packed by a kernel of its own before.
//!
//! Of operands in bf16, a constant is packed in pairs for a target with dot products, where the left operand holds neighbours along
//! `k` side by side. All others are widened as they are read. Bytes are multiplied by constants that are packed in fours, likewise, or not
//! as a product at all. Integers of few bits are packed with the scales and zero points of their blocks.

use super::built::Built;
use super::exprs::{Rewrite, dims_of};
use super::finish::{Names, merge};
use super::product::{Product, Scaling};
use super::ranges::Ranges;
use super::value::Stop;
use super::{Data, Lowering, Place};
use crate::blocks::BlockPacking;
use crate::cpu::{choose_tile, choose_tile_of_blocks};
use crate::kernel::{Axis, Block, Blocks, Body, BufferId, Contract, Expr, ExprKind, Map, Panels, Piece, Split, Store, Tile};
use crate::pack::Packing;
use egret_ir::{DType, Dim, ValueId};
use std::sync::Arc;

/// With at most this many rows, packing an operand costs as much as the product itself: each row is a sum along `k`.
const FEW_ROWS: i64 = 4;

/// Up to this many rows the weights are most of the traffic, and each part should read its own share of them.
const WEIGHTS_DOMINATE: i64 = 256;

/// So many batches keep several threads busy to the end.
const ENOUGH_BATCHES: i64 = 8;

/// So many panels are worth dividing rather than rows, when the weights dominate.
const ENOUGH_PANELS: i64 = 4;

/// What stands for an extent that is not known where few and many are told apart.
const UNKNOWN: i64 = 1 << 10;

/// The loops of a contraction by what depends on them.
#[derive(Default)]
pub(super) struct Roles {
    pub batch: Vec<Axis>,
    pub rows: Vec<Axis>,
    pub cols: Vec<Axis>,
}

impl Roles {
    fn of(product: &Product, axes: impl Iterator<Item = Axis>) -> Roles {
        let mut roles = Roles::default();
        for axis in axes {
            match (product.a.1.mentions(&axis.name), product.b.1.mentions(&axis.name)) {
                (true, true) => roles.batch.push(axis),
                (_, false) => roles.rows.push(axis),
                (false, true) => roles.cols.push(axis),
            }
        }
        roles
    }
}

/// How the right operand will be read.
enum Reading {
    Packed,
    Paired,
    Quads,
    Blocks,
    PackedAtRunTime,
    Strided,
}

fn count(axes: &[Axis]) -> i64 {
    axes.iter().map(|a| a.extent.as_const().unwrap_or(UNKNOWN)).product()
}

pub(super) fn stride(d: &Dim, axis: &Axis) -> Option<Dim> {
    d.linear_in(&axis.name).map(|(stride, _)| stride)
}

fn is_linear(d: &Dim, axes: &[Axis]) -> bool {
    axes.iter().all(|a| stride(d, a).is_some())
}

fn has_unit_stride(d: &Dim, axis: &Axis) -> bool {
    stride(d, axis).is_some_and(|s| s.is(1))
}

impl Lowering<'_> {
    /// The kernel of a contraction and its epilogue; adds a kernel that packs the right operand where that is needed.
    ///
    /// # Errors
    /// When an operand has to go to memory first, or the contraction is better done as a fold.
    pub(super) fn contract(&mut self, mut built: Built) -> Result<(Body, Vec<Place>), Stop> {
        let Some(mut product) = built.product.take() else { return Err(Stop::Separate) };
        let k: Vec<Axis> = built.domain.axes(true).cloned().collect();
        let mut roles = Roles::of(&product, built.domain.axes(false).cloned());
        if roles.cols.is_empty() && product.blocks.is_none() && self.serves_as_panels(&built, &product.a, &roles.rows, &k) {
            std::mem::swap(&mut product.a, &mut product.b);
            product.operands.swap(0, 1);
            roles = Roles::of(&product, built.domain.axes(false).cloned());
        }
        if let Some(windows) = self.windows(&built, &product, &roles, &k) {
            return Ok(self.winograd(built, product, windows));
        }
        let reading = self.reading(&built, &product, &roles, &k)?;
        if !is_linear(&product.a.1, &roles.rows) || !is_linear(&product.a.1, &k) {
            return Err(Stop::Materialise(product.operands[0]));
        }
        let (contract, places) = self.assemble(built, product, roles, k, reading);
        Ok((Body::Contract(vec![contract]), places))
    }

    fn is_known(&self, built: &Built, buffer: BufferId) -> bool {
        self.known(built, buffer).is_some()
    }

    pub(super) fn known<'s>(&'s self, built: &Built, buffer: BufferId) -> Option<&'s Arc<egret_ir::Tensor>> {
        match &built.buffers[buffer.0] {
            Place::Value(v) => self.scope.constant(*v),
            Place::Result(_) | Place::Scratch(_) | Place::Data(_) | Place::Table(_) => None,
        }
    }

    /// Whether the operand of a matrix-vector product can be the right one, its rows as columns.
    fn serves_as_panels(&self, built: &Built, operand: &(BufferId, Dim), rows: &[Axis], k: &[Axis]) -> bool {
        let has_rows = !rows.is_empty();
        has_rows && (self.is_known(built, operand.0) || rows.iter().any(|r| has_unit_stride(&operand.1, r)) && is_linear(&operand.1, k))
    }

    fn reading(&self, built: &Built, product: &Product, roles: &Roles, k: &[Axis]) -> Result<Reading, Stop> {
        let (buffer, offset) = &product.b;
        if roles.cols.is_empty() {
            return Err(Stop::AsFold(product.node));
        }
        if product.blocks.is_some() {
            // Blocks are of rows in their order.
            let is_one_walk = matches!(k, [axis] if stride(offset, axis).is_some()) && is_linear(&product.a.1, k);
            return if is_one_walk { Ok(Reading::Blocks) } else { Err(Stop::Materialise(product.operands[0])) };
        }
        if product.sum == DType::I32 {
            return if self.takes_quads(built, product, k) { Ok(Reading::Quads) } else { Err(Stop::AsFold(product.node)) };
        }
        if self.is_known(built, *buffer) && [&roles.batch, &roles.cols, k].into_iter().flatten().all(|a| a.extent.as_const().is_some()) {
            return Ok(if self.takes_pairs(built, product, k) { Reading::Paired } else { Reading::Packed });
        }
        // The last columns are read under a mask, which AVX2 has for elements of 32 bits only; a thread of a GPU has columns of its own.
        let has_masks = self.target.lanes == 16 || self.target.is_cuda() || self.dtype(&built.buffers[buffer.0]) == DType::F32;
        if has_masks && roles.cols.iter().any(|c| has_unit_stride(offset, c)) && is_linear(offset, k) {
            return Ok(Reading::Strided);
        }
        match count(&roles.rows) <= FEW_ROWS {
            true => Err(Stop::AsFold(product.node)),
            false => Ok(Reading::PackedAtRunTime),
        }
    }

    /// Whether steps of `k` can go two at a time: both operands are bf16, and the left one has neighbours along `k` side by side.
    fn takes_pairs(&self, built: &Built, product: &Product, k: &[Axis]) -> bool {
        let is_bf16 = |operand: &(BufferId, Dim)| self.dtype(&built.buffers[operand.0.0]) == DType::BF16;
        self.target.dots && is_bf16(&product.a) && is_bf16(&product.b) && k.iter().any(|axis| has_unit_stride(&product.a.1, axis))
    }

    /// Whether steps of `k` can go four at a time: the left operand has its bytes along `k` side by side, and the other is known.
    fn takes_quads(&self, built: &Built, product: &Product, k: &[Axis]) -> bool {
        let is_bytes = self.dtype(&built.buffers[product.a.0.0]) == DType::U8;
        is_bytes && self.is_known(built, product.b.0) && k.iter().any(|axis| has_unit_stride(&product.a.1, axis))
    }

    fn assemble(&mut self, built: Built, mut product: Product, roles: Roles, k: Vec<Axis>, reading: Reading) -> (Contract, Vec<Place>) {
        let epilogue = built.block(&built.stores);
        let strided = matches!(reading, Reading::Strided);
        // Batches have to stay apart where the right operand tells them apart.
        let mut walks = dims_of(&epilogue);
        walks.push(product.a.1.clone());
        let k = by_stride(k, &product.a.1);
        let with_b = [&walks[..], std::slice::from_ref(&product.b.1)].concat();
        let batches = merge(vec![roles.batch], &with_b, &built.ranges);
        let rest = merge(vec![roles.rows, roles.cols, k], if strided { &with_b } else { &walks }, &built.ranges);
        let dim = |d: &Dim| rest.apply(&batches.apply(d));
        let epilogue = Rewrite::dims(&dim).block(&epilogue);
        product.a.1 = dim(&product.a.1);
        product.b.1 = if strided { dim(&product.b.1) } else { rest.apply_to_any(&batches.apply(&product.b.1)) };
        let [rows, mut cols, k] = <[Vec<Axis>; 3]>::try_from(rest.groups).unwrap_or_default();
        let mut batch = batches.groups.into_iter().flatten().collect::<Vec<_>>();
        let lane = choose_cols(&cols, if strided { &product.b.1 } else { &epilogue.stores[0].offset }, strided);
        let lane = cols.remove(lane);
        batch.extend(cols);
        let loops = Loops { batch, rows, cols: lane, k };
        self.kernel(built, product, loops, epilogue, reading)
    }

    fn kernel(&mut self, built: Built, product: Product, loops: Loops, epilogue: Block, reading: Reading) -> (Contract, Vec<Place>) {
        let mut buffers = built.buffers.clone();
        let number = |d: &Dim| d.as_const().and_then(|n| usize::try_from(n).ok());
        let rows = loops.rows.last().map_or(Some(1), |r| number(&r.extent));
        let k = number(&loops.k.iter().map(|a| a.extent.clone()).product());
        let cols = number(&loops.cols.extent);
        let tile = match reading {
            Reading::Blocks => choose_tile_of_blocks(rows, cols, k, self.target),
            _ => choose_tile(rows, cols, k, self.target),
        };
        let (buffer, offset) = product.b.clone();
        let mut place = |place: Place| {
            buffers.push(place);
            BufferId(buffers.len() - 1)
        };
        let width = tile.vectors * self.target.lanes;
        let b = match reading {
            Reading::Strided => Panels::Strided(buffer, offset),
            Reading::Packed | Reading::Paired | Reading::Quads => {
                let packing = self.packing(&built, &product, &loops, width);
                let (form, packing) = match reading {
                    Reading::Paired => (Panels::Paired as fn(BufferId, Dim) -> Panels, Packing { together: 2, ..packing }),
                    Reading::Quads => (Panels::Quads as _, Packing { together: 4, dtype: DType::I8, ..packing }),
                    _ => (Panels::Packed as _, packing),
                };
                let start = packing.start();
                self.lowered.data.push(Data::Packed(packing));
                form(place(Place::Data(self.lowered.data.len() - 1)), start)
            }
            Reading::Blocks => {
                let packing = self.block_packing(&built, &product, &loops, width);
                let (start, blocks) = (packing.start(), packing.blocks);
                self.lowered.data.push(Data::Blocks(packing));
                Panels::Blocks(place(Place::Data(self.lowered.data.len() - 1)), start, blocks)
            }
            Reading::PackedAtRunTime => {
                let (scratch, start) = self.pack_first(&built, &product, &loops, width);
                Panels::Packed(place(scratch), start)
            }
        };
        let split = choose_split(&loops, tile, width as i64);
        let mut names = self.names();
        names.number(loops.batch.iter().map(|a| a.name.clone()), "b", 0);
        names.number(loops.rows.iter().map(|a| a.name.clone()), "m", 0);
        names.set(loops.cols.name.clone(), "n".to_string());
        names.number(loops.k.iter().map(|a| a.name.clone()), "k", 0);
        names.number(built.lets.iter().map(|l| l.name.clone()), "g", 0);
        let contract = named(
            &names,
            Contract { batch: loops.batch, rows: loops.rows, cols: loops.cols, k: loops.k, a: product.a, b, tile, split, epilogue },
        );
        (contract, buffers)
    }

    fn packing(&self, built: &Built, product: &Product, loops: &Loops, width: usize) -> Packing {
        let tensor = self.known(built, product.b.0).expect("only constants are packed now").clone();
        let batch = loops.batch.iter().filter(|a| product.b.1.mentions(&a.name)).cloned().collect();
        let (offset, dtype) = (product.b.1.clone(), tensor.dtype());
        Packing { tensor, offset, batch, k: loops.k.clone(), cols: loops.cols.clone(), width, dtype, together: 1 }
    }

    fn block_packing(&self, built: &Built, product: &Product, loops: &Loops, width: usize) -> BlockPacking {
        let integers = self.packing(built, product, loops, width);
        let Scaling { rows, zero, scale } = product.blocks.as_ref().expect("only integers with scales are packed so");
        let has_zeros = zero.bytes().iter().any(|&z| z != 0);
        let blocks = Blocks { steps: *rows, dtype: integers.dtype, has_zeros };
        BlockPacking { integers, zero: zero.clone(), scale: scale.clone(), blocks }
    }

    /// A kernel that packs the right operand into scratch memory; gives that and where a batch starts in it.
    fn pack_first(&mut self, built: &Built, product: &Product, loops: &Loops, width: usize) -> (Place, Dim) {
        let graph = self.scope.graph();
        let pack = PackAtRunTime {
            name: format!("{}.panels", graph.value(product.operands[1]).name),
            from: built.buffers[product.b.0.0].clone(),
            offset: product.b.1.clone(),
            batch: loops.batch.iter().filter(|a| product.b.1.mentions(&a.name)).cloned().collect(),
            k: loops.k.clone(),
            cols: loops.cols.clone(),
            zeros_behind: false,
        };
        self.pack_at_run_time(pack, width, product.node)
    }

    /// Adds a kernel that packs `[batch..., panel, k..., width]`; gives where it does, and where a batch starts there.
    pub(super) fn pack_at_run_time(&mut self, pack: PackAtRunTime, width: usize, value: ValueId) -> (Place, Dim) {
        let PackAtRunTime { name, from, offset, batch, k, cols, zeros_behind } = pack;
        let (width, n) = (Dim::from(width), cols.extent.clone());
        let steps: Dim = k.iter().map(|a| a.extent.clone()).product();
        let per_batch = n.ceil_div(&width) * steps.clone() * width.clone();
        let position = |axes: &[Axis]| axes.iter().fold(Dim::ZERO, |at, a| at * a.extent.clone() + a.index());
        let start = position(&batch) * per_batch.clone();
        let dtype = self.dtype(&from);
        let scratch = self.add_scratch(name, dtype, batch.iter().map(|a| a.extent.clone()).product::<Dim>() * per_batch);
        // Whole panels, the columns of the last one, and what is behind them: panels, lanes, first panel, first lane.
        let (whole, rest) = (n.floor_div(&width), n.modulo(&width));
        let behind = (Dim::ONE, if rest.is(0) { Dim::ZERO } else { width.clone() - rest.clone() }, whole.clone(), rest.clone());
        let mut parts = vec![(whole.clone(), width.clone(), Dim::ZERO, Dim::ZERO), (Dim::ONE, rest, whole, Dim::ZERO)];
        parts.extend(zeros_behind.then_some(behind));
        let mut pieces: Vec<Piece> = vec![];
        for (i, (panels, lanes, first_panel, first_lane)) in parts.into_iter().enumerate() {
            if panels.is(0) || lanes.is(0) {
                continue;
            }
            let (panel, lane) = (Axis { name: "%p".into(), extent: panels.clone() }, Axis { name: "%l".into(), extent: lanes });
            let at = if panels.is(1) { first_panel } else { panel.index() + first_panel };
            let within = if lane.extent.is(1) { first_lane } else { lane.index() + first_lane };
            let column = at.clone() * width.clone() + within.clone();
            let into = start.clone() + (at * steps.clone() + position(&k)) * width.clone() + within;
            let value = match i {
                2 => Expr::literal(0.0, dtype),
                _ => Expr::new(dtype, ExprKind::Load(BufferId(0), offset.substitute(&|s| (s == &*cols.name).then(|| column.clone())))),
            };
            let axes: Vec<Axis> = [&batch[..], &[panel], &k, &[lane]].concat().into_iter().filter(|a| !a.extent.is(1)).collect();
            let block = Block { lets: vec![], stores: vec![Store { buffer: BufferId(1), offset: into, value }] };
            let ranges = Ranges::of(&axes);
            pieces.push(super::map::nest(axes, block, &ranges, &pieces, self.names()));
        }
        self.launch(Body::Map(Map { pieces }), vec![], &[from, scratch.clone()], value);
        (scratch, start)
    }
}

/// A right operand that is packed when the model runs.
pub(super) struct PackAtRunTime {
    /// For people.
    pub name: String,
    /// Where it lies.
    pub from: Place,
    /// Which element of it stands at a point of the loops.
    pub offset: Dim,
    /// The batches that have panels of their own.
    pub batch: Vec<Axis>,
    /// The steps of a panel.
    pub k: Vec<Axis>,
    /// The columns.
    pub cols: Axis,
    /// Whether the lanes behind the last column have to be zero.
    pub zeros_behind: bool,
}

/// The reduced loops so that the innermost walks the shortest way through the left operand: its elements then come from the
/// same cache lines, and loops that are one run of elements become one. The right operand is packed in the order they have.
fn by_stride(mut k: Vec<Axis>, a: &Dim) -> Vec<Axis> {
    k.sort_by_key(|axis| std::cmp::Reverse(stride(a, axis).and_then(|s| s.as_const()).map_or(i64::MAX, i64::abs)));
    k
}

/// The loops of a contraction, each in its place.
struct Loops {
    batch: Vec<Axis>,
    rows: Vec<Axis>,
    cols: Axis,
    k: Vec<Axis>,
}

/// Which of the columns' loops are the lanes: the one that is contiguous in `walk`, else the longest unless it has to be.
fn choose_cols(cols: &[Axis], walk: &Dim, strided: bool) -> usize {
    let run = cols.iter().position(|c| has_unit_stride(walk, c));
    let longest = (0..cols.len()).max_by_key(|&i| cols[i].extent.as_const().unwrap_or(UNKNOWN));
    run.or(longest.filter(|_| !strided)).unwrap_or(0)
}

/// Which loop the parts divide: one that has enough units for sure, since an extent that is not known is 1 now and then; else
/// one that is not known.
fn choose_split(loops: &Loops, tile: Tile, width: i64) -> Split {
    let sure = |axes: &[Axis]| axes.iter().map(|a| a.extent.as_const().unwrap_or(1)).product::<i64>();
    let batches = sure(&loops.batch);
    let panels = (sure(std::slice::from_ref(&loops.cols)) + width - 1) / width.max(1);
    let strips = match loops.rows.split_last() {
        Some((_, outer @ [_, ..])) => sure(outer),
        _ => sure(&loops.rows) / tile.rows as i64,
    };
    if batches >= ENOUGH_BATCHES {
        return Split::Batch;
    }
    if sure(&loops.rows) <= WEIGHTS_DOMINATE && panels >= ENOUGH_PANELS {
        return Split::Cols;
    }
    let is_unknown = |axes: &[Axis]| axes.iter().any(|a| a.extent.as_const().is_none());
    if is_unknown(&loops.rows) {
        return Split::Rows;
    }
    if is_unknown(&loops.batch) {
        return Split::Batch;
    }
    // Of equals, the last.
    let units = [(batches, Split::Batch), (panels, Split::Cols), (strips, Split::Rows)];
    units.into_iter().max_by_key(|(n, _)| *n).map_or(Split::Rows, |(_, split)| split)
}

/// The contraction under short names.
fn named(names: &Names, c: Contract) -> Contract {
    let dim = |d: &Dim| names.dim(d);
    let name = |n: &Arc<str>| names.name(n);
    Contract {
        batch: names.axes(&c.batch),
        rows: names.axes(&c.rows),
        cols: names.axis(&c.cols),
        k: names.axes(&c.k),
        a: (c.a.0, dim(&c.a.1)),
        b: c.b.moved(c.b.buffer(), dim(c.b.offset())),
        epilogue: Rewrite::new(&dim, &|b| b, &name).block(&c.epilogue),
        ..c
    }
}
