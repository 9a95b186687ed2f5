//! How the parts of a kernel divide its work.
//!
//! The outer loops are numbered through, as many of them as it takes to get enough units; part `p` of `n` does the units
//! `p*units/n .. (p+1)*units/n`. **Invariant.** What a unit computes and stores does not depend on the part it is in, so the
//! bits of a result do not depend on the number of parts.
//!
//! ```text
//! for i0 in 2, i1 in 28, i2 in 28, ...     64 units wanted: i0, i1 and i2 are numbered through, 1568 units
//! ```

use super::scope::{Gen, Run};
use super::transpose::turned_axis;
use super::weave::woven_axis;
use crate::kernel::{Axis, Body, BufferId, Contract, Kernel, Map, Piece, Rows, Split, TopK};
use egret_ir::Dim;
use egret_runtime::plan::ALIGN;
use inkwell::values::IntValue;

/// Outer loops are numbered through until there are this many units: enough to balance 16 threads with 4 parts each.
const ENOUGH_UNITS: i64 = 64;

/// A lane axis that has to be divided is divided in blocks of this many elements: large enough that the loop around them costs
/// nothing, and a multiple of every target's unrolled vectors.
pub(crate) const LANE_BLOCK: i64 = 1024;

impl Kernel {
    /// How many units of work the parts divide on a target with `lanes` lanes: the greatest useful number of parts.
    pub fn units(&self, lanes: usize) -> Dim {
        match &self.body {
            Body::Map(map) => map_units(map, lanes),
            Body::Rows(rows) => units(&row_axes(rows).0),
            Body::Contract(contracts) => most(contracts.iter().map(|c| units(&contract_axes(c, lanes)))),
            Body::Winograd(winograd) => winograd.units().extent,
            Body::Chain(chain) => units(&super::chain::unit_axes(chain)),
            Body::Recur(recur) => recur.batch.clone(),
            Body::TopK(top_k) => units(&top_k.rows),
            Body::Serial(serial) => units(&serial.axes),
        }
    }
}

impl Kernel {
    /// The bytes of working memory that each part needs on a target with `lanes` lanes: a multiple of [`ALIGN`], 0 for most.
    ///
    /// It depends on no symbols but [`Kernel::sizes`]. Its address stands behind those of the kernel's buffers.
    pub fn scratch(&self, lanes: usize) -> Dim {
        match &self.body {
            Body::Winograd(winograd) => Dim::from(winograd.working().map(working_bytes).iter().sum::<usize>()),
            Body::Chain(chain) => super::chain::Memory::of(chain, lanes).bytes().into(),
            Body::TopK(top_k) => {
                let keys = top_k.count.clone() * TopK::key_bytes(self.buffers[top_k.x.0].dtype);
                keys.ceil_div(&ALIGN.into()) * ALIGN
            }
            Body::Contract(contracts) => contracts.iter().map(|c| super::blocks::working(c, lanes)).max().unwrap_or(0).into(),
            Body::Map(_) | Body::Rows(_) | Body::Recur(_) | Body::Serial(_) => Dim::ZERO,
        }
    }
}

/// The bytes of some f32s in working memory, where the next ones start aligned.
pub(crate) fn working_bytes(elements: usize) -> usize {
    (elements * size_of::<f32>()).next_multiple_of(ALIGN)
}

fn map_units(map: &Map, lanes: usize) -> Dim {
    most(map.pieces.iter().map(|p| units(&piece_axes(p, lanes).outer)))
}

/// The largest of some numbers of units, at least 1.
fn most(units: impl Iterator<Item = Dim>) -> Dim {
    units.fold(Dim::ONE, |most, u| u.maximum(&most))
}

/// The product of the outer axes that are numbered through.
pub(crate) fn units(axes: &[Axis]) -> Dim {
    axes[..numbered(axes)].iter().map(|a| a.extent.clone()).product()
}

/// How many outer axes are numbered through. A symbolic extent may be 1.
fn numbered(axes: &[Axis]) -> usize {
    let mut product = 1i64;
    for (i, axis) in axes.iter().enumerate() {
        if product >= ENOUGH_UNITS {
            return i;
        }
        product = product.saturating_mul(axis.extent.as_const().unwrap_or(1).max(1));
    }
    axes.len()
}

/// The loops of a piece around the one over its lanes.
pub(crate) struct PieceAxes {
    /// Outermost first.
    pub(crate) outer: Vec<Axis>,
    /// The axis of the lanes; none for a rank-0 value.
    pub(crate) lane: Option<Axis>,
    /// The block of lanes, if they are divided; one of `outer`.
    pub(crate) block: Option<Axis>,
    /// How the points are done.
    pub(crate) form: Form,
}

/// How the points of a piece are done.
pub(crate) enum Form {
    /// The lanes run along the innermost axis.
    Straight,
    /// In squares, which read along another axis.
    Turned(Turned),
    /// The lanes run along another axis, and the innermost one, which is short, is unrolled.
    Woven(Axis),
}

/// How a piece is done in squares.
pub(crate) struct Turned {
    /// The axis that is read along.
    pub(crate) axis: Axis,
    /// Its blocks, one of the outer axes.
    pub(crate) block: Axis,
    /// The loads that this makes contiguous.
    pub(crate) loads: Vec<(BufferId, Dim)>,
}

/// The loops of a piece.
pub(crate) fn piece_axes(piece: &Piece, lanes: usize) -> PieceAxes {
    let Some((innermost, outer)) = piece.axes.split_last() else {
        return PieceAxes { outer: vec![], lane: None, block: None, form: Form::Straight };
    };
    let (mut outer, mut lane, mut form) = (outer.to_vec(), innermost.clone(), Form::Straight);
    if let Some(i) = woven_axis(piece) {
        lane = outer.remove(i);
        form = Form::Woven(innermost.clone());
    } else if let Some((i, loads)) = turned_axis(piece, lanes) {
        let axis = outer[i].clone();
        let block = Axis::new(format!("{}'square", axis.name), axis.extent.ceil_div(&lanes.into()));
        outer[i] = block.clone();
        form = Form::Turned(Turned { axis, block, loads });
    }
    let (outer, block) = with_blocks(&outer, &lane);
    PieceAxes { outer, lane: Some(lane), block, form }
}

/// The axes of the rows without the lane axis and the tiled one, and the block of lanes as one more where needed.
pub(crate) fn row_axes(rows: &Rows) -> (Vec<Axis>, Option<Axis>) {
    match (rows.lanes_outside, rows.axes.split_last()) {
        (true, Some((lane, outer))) => {
            let outer = if rows.tile > 1 { &outer[..outer.len().saturating_sub(1)] } else { outer };
            with_blocks(outer, lane)
        }
        _ => (rows.axes.clone(), None),
    }
}

fn with_blocks(outer: &[Axis], lane: &Axis) -> (Vec<Axis>, Option<Axis>) {
    let mut axes = outer.to_vec();
    let product = axes.iter().fold(1i64, |p, a| p.saturating_mul(a.extent.as_const().unwrap_or(1).max(1)));
    if product >= ENOUGH_UNITS || lane.extent.as_const().is_some_and(|n| n <= LANE_BLOCK) {
        return (axes, None);
    }
    let block = Axis::new(format!("{}'block", lane.name), lane.extent.ceil_div(&LANE_BLOCK.into()));
    axes.push(block.clone());
    (axes, Some(block))
}

/// The axes that the parts of a contraction divide.
pub(crate) fn contract_axes(c: &Contract, lanes: usize) -> Vec<Axis> {
    match c.split {
        Split::Batch => c.batch.clone(),
        Split::Cols => vec![panel_axis(c, lanes)],
        Split::Rows => match c.rows.split_last() {
            None => vec![],
            Some((tiled, [])) => vec![strip_axis(c, tiled)],
            Some((_, outer)) => outer.to_vec(),
        },
    }
}

/// The panels of columns.
pub(crate) fn panel_axis(c: &Contract, lanes: usize) -> Axis {
    let width = c.tile.vectors * lanes;
    Axis::new(format!("{}'panel", c.cols.name), c.cols.extent.ceil_div(&width.into()))
}

/// The strips of rows.
pub(crate) fn strip_axis(c: &Contract, rows: &Axis) -> Axis {
    Axis::new(format!("{}'strip", rows.name), rows.extent.ceil_div(&strip_rows(c, rows).into()))
}

/// Rows per strip: those of the tile, or fewer, so that the last strip is not much smaller than the others.
pub(crate) fn strip_rows(c: &Contract, rows: &Axis) -> usize {
    match rows.extent.as_const().and_then(|m| usize::try_from(m).ok()).filter(|m| *m > 0) {
        Some(m) => m.div_ceil(m.div_ceil(c.tile.rows)),
        None => c.tile.rows,
    }
}

impl<'c> Gen<'_, 'c> {
    /// This part's range of `units`.
    pub(crate) fn part_range(&mut self, units: &Dim) -> (IntValue<'c>, IntValue<'c>) {
        let units = self.index(units);
        let next = self.e.index_add(self.part, self.e.i64(1));
        let bound = |g: &Self, part| g.e.index_div(g.e.index_mul(part, units), g.parts);
        (bound(self, self.part), bound(self, next))
    }

    /// Runs `body` at this part's points of `axes`.
    pub(crate) fn for_part(&mut self, axes: &[Axis], body: impl FnOnce(&mut Self)) {
        let range = self.part_range(&units(axes));
        self.for_range(axes, range, body);
    }

    /// Runs `body` at the points of `axes` whose units are in `range`.
    pub(crate) fn for_range(&mut self, axes: &[Axis], range: (IntValue<'c>, IntValue<'c>), body: impl FnOnce(&mut Self)) {
        let (numbered, inner) = axes.split_at(numbered(axes));
        match numbered {
            [] => {
                let unit = self.fresh("unit");
                self.for_units(&unit, range, 1, |g| g.nest(inner, true, body));
            }
            [only] => {
                let last = self.axis_range(only).1;
                self.for_units(&only.name, range, last + 1, |g| g.nest(inner, true, body));
            }
            [outer @ .., last] => self.for_numbered(outer, last, range, |g| g.nest(inner, true, body)),
        }
    }

    fn for_units(
        &mut self,
        name: &std::sync::Arc<str>,
        (start, end): (IntValue<'c>, IntValue<'c>),
        extent: i128,
        body: impl FnOnce(&mut Self),
    ) {
        let run = Run { start, end, step: 1, certain: false, range: (0, extent - 1) };
        self.repeat(name, run, vec![], |g, _| {
            body(g);
            vec![]
        });
    }

    /// The units of several axes: a loop over the numbers of the outer ones, which are taken apart by division, around a loop
    /// over the stretch of `last` that is in the range.
    fn for_numbered(&mut self, outer: &[Axis], last: &Axis, (start, end): (IntValue<'c>, IntValue<'c>), body: impl FnOnce(&mut Self)) {
        let extent = self.index(&last.extent);
        let first_row = self.e.index_div(start, extent);
        let rows_end = self.e.index_div(self.e.index_add(end, self.e.index_sub(extent, self.e.i64(1))), extent);
        let row = self.fresh("row");
        let total: Dim = outer.iter().map(|a| a.extent.clone()).product();
        let last_row = (self.range(&total).1 - 1).max(0);
        let run = Run { start: first_row, end: rows_end, step: 1, certain: false, range: (0, last_row) };
        self.repeat(&row, run, vec![], |g, _| {
            let mut number = g.symbol(&row).value;
            for (i, axis) in outer.iter().enumerate().rev() {
                let (size, range) = (g.index(&axis.extent), g.axis_range(axis));
                let value = if i == 0 { number } else { g.e.index_rem(number, size) };
                if i > 0 {
                    number = g.e.index_div(number, size);
                }
                g.top().symbols.insert(axis.name.clone(), super::scope::Symbol { value, range });
            }
            let before = g.e.index_mul(g.symbol(&row).value, extent);
            let (zero, range) = (g.e.i64(0), g.axis_range(last));
            let start = g.e.imax(g.e.index_sub(start, before).into(), zero.into(), true).into_int_value();
            let end = g.e.imin(g.e.index_sub(end, before).into(), extent.into(), true).into_int_value();
            g.repeat(&last.name, Run { start, end, step: 1, certain: true, range }, vec![], |g, _| {
                body(g);
                vec![]
            });
            vec![]
        });
    }
}
