//! Elementwise work and data movement: one loop nest per part of the domain.

use super::built::Built;
use super::exprs::{Rewrite, dims_of};
use super::finish::{Names, merge};
use super::ranges::Ranges;
use crate::kernel::{Axis, Block, Piece};
use egret_ir::Dim;
use std::sync::Arc;

/// A loop nest that stores what was built.
pub fn piece(built: Built, before: &[Piece], names: Names) -> Piece {
    let block = built.block(&built.stores);
    nest(built.domain.axes(false).cloned().collect(), block, &built.ranges, before, names)
}

/// A loop nest, its axes numbered after those of the pieces before it.
pub fn nest(axes: Vec<Axis>, block: Block, ranges: &Ranges, before: &[Piece], mut names: Names) -> Piece {
    let merged = merge(vec![axes], &dims_of(&block), ranges);
    let axes = &merged.groups[0];
    names.number(axes.iter().map(|a| a.name.clone()), "i", before.iter().map(|p| p.axes.len()).sum());
    names.number(block.lets.iter().map(|l| l.name.clone()), "g", before.iter().map(|p| p.block.lets.len()).sum());
    let dim = |d: &Dim| names.dim(&merged.apply(d));
    let name = |n: &Arc<str>| names.name(n);
    let block = Rewrite::new(&dim, &|b| b, &name).block(&block);
    Piece { axes: names.axes(axes), block }
}
