//! Matrix products and convolutions: a block does a tile of rows and columns, on [tensor cores](super::matrix) if there are rows
//! and steps enough, or of [few rows](super::narrow) some columns.
//!
//! Rows are numbered through, and so is `k`, so that a convolution is a product whose offsets divide. **Invariant.** Sums are f32 and
//! have its accuracy, but for TF32 where that is allowed: on tensor cores an error of a product is below 2^-21 of it, and the order of
//! summation is the hardware's; a sum of a [tile](super::product) of multiply-adds is the interpreter's to the bit. On one device
//! results are the same on every run.
//!
//! ```text
//! block 5 of rows 130, cols 200:   tile 1 of 3 of rows, tile 1 of 4 of cols:   acc = sum over k;   epilogue at 64 by 64 points
//! ```

use super::grid::{count, singly};
use super::map::NEIGHBOURS;
use super::matrix::Matrix;
use super::narrow::Narrow;
use super::product::{Source, Staged, Tile};
use crate::cpu::scope::Gen;
use crate::kernel::{Axis, Contract, Kernel, Panels};
use crate::target::Target;
use egret_ir::{DType, Dim};

/// What the blocks of a contraction do.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    shape: Shape,
    /// Columns of a panel of packed weights.
    panel: i64,
}

#[derive(Clone, Copy)]
enum Shape {
    Narrow(Narrow),
    Matrix(Matrix),
    Tile(Tile),
}

impl Tiles {
    /// The tiles of a contraction of a kernel.
    pub(super) fn of(c: &Contract, kernel: &Kernel, target: &Target) -> Tiles {
        let panel = (c.tile.vectors * target.lanes) as i64;
        let matrix = || Matrix::of(c, kernel, target, panel).map(Shape::Matrix);
        let shape = Narrow::of(c).map(Shape::Narrow).or_else(matrix).unwrap_or_else(|| Shape::Tile(Tile::of(&count(&c.rows))));
        Tiles { shape, panel }
    }

    /// The same with its working memory from so many bytes on.
    pub(super) fn working_at(mut self, start: i64) -> Tiles {
        if let Shape::Matrix(matrix) = &mut self.shape {
            matrix.working = start;
        }
        self
    }

    /// Bytes of working memory.
    pub(super) fn scratch(&self, c: &Contract) -> i64 {
        if let Shape::Matrix(matrix) = &self.shape { matrix.scratch(c) } else { 0 }
    }

    /// The blocks of a launch that adds up what is in working memory.
    pub(super) fn blocks_of_sums(&self, c: &Contract) -> Option<Dim> {
        if let Shape::Matrix(matrix) = &self.shape { matrix.blocks_of_sums(c) } else { None }
    }

    /// Whether threads beside the others bring operands.
    pub(super) fn has_carriers(&self) -> bool {
        matches!(&self.shape, Shape::Matrix(matrix) if matrix.by_groups)
    }

    /// Bytes of shared memory that the launch has to give.
    pub(super) fn shared(&self) -> i64 {
        if let Shape::Matrix(matrix) = &self.shape { matrix.shared() } else { 0 }
    }

    /// How many blocks it takes.
    pub(super) fn blocks(&self, c: &Contract) -> Dim {
        match &self.shape {
            Shape::Narrow(narrow) => narrow.blocks(c),
            Shape::Matrix(matrix) => matrix.blocks(c),
            Shape::Tile(tile) => count(&axes(c, *tile)),
        }
    }
}

/// Batches, tiles of rows, tiles of columns.
fn axes(c: &Contract, tile: Tile) -> [Axis; 3] {
    let (rows, cols) = (count(&c.rows).ceil_div(&tile.rows.into()), c.cols.extent.ceil_div(&tile.cols.into()));
    [Axis::new("%batch", count(&c.batch)), Axis::new("%rows", rows), Axis::new("%cols", cols)]
}

/// The first operand, of which neighbours along `k` are read together.
pub(super) fn a_source(c: &Contract) -> Source<'_> {
    Source { buffer: c.a.0, offset: &c.a.1, points: &c.rows, depth: &c.k, panel: None, along_points: false }
}

/// The second operand, of which neighbouring columns are read together.
pub(super) fn b_source(c: &Contract, panel: i64) -> Source<'_> {
    let offset = c.b.offset();
    let panel = matches!(c.b, Panels::Packed(..)).then_some(panel);
    Source { buffer: c.b.buffer(), offset, points: std::slice::from_ref(&c.cols), depth: &c.k, panel, along_points: true }
}

impl<'c> Gen<'_, 'c> {
    /// Emits what a block of the job does.
    pub(super) fn contract_by_blocks(&mut self, c: &Contract, tiles: &Tiles, block: &Dim) {
        match &tiles.shape {
            Shape::Narrow(narrow) => self.contract_narrow(c, narrow, tiles.panel, block),
            Shape::Matrix(matrix) if matrix.by_groups => self.contract_groups(c, matrix, tiles.panel, block),
            Shape::Matrix(matrix) => self.contract_matrix(c, matrix, tiles.panel, block),
            Shape::Tile(tile) => self.contract_tile(c, *tile, tiles.panel, block),
        }
    }

    /// Emits a block of the launch that adds up what is in working memory.
    pub(super) fn sums_by_blocks(&mut self, c: &Contract, tiles: &Tiles, block: &Dim) {
        if let Shape::Matrix(matrix) = &tiles.shape {
            self.contract_sums(c, matrix, block);
        }
    }

    fn contract_tile(&mut self, c: &Contract, tile: Tile, panel: i64, block: &Dim) {
        let [batch, row_tile, col_tile] = {
            let found = self.unravelled(&singly(&axes(c, tile)), block);
            <[Dim; 3]>::try_from(found).expect("three axes")
        };
        self.at_point(&singly(&c.batch), &batch);
        let (first_row, first_col) = (row_tile * tile.rows, col_tile * tile.cols);
        let [a, b] = self.operands(c, tile, panel, [&first_row, &first_col]);
        let zero = self.e.zero(self.e.register_type(DType::F32));
        let sums = self.product(tile, &a, &b, vec![zero; tile.sums()]);
        let (own_row, own_col) = (first_row + tile.own_rows(), first_col + tile.own_columns());
        for (i, sums) in sums.chunks(NEIGHBOURS as usize).enumerate() {
            self.where_below(&(own_row.clone() + i), &count(&c.rows), |g, row| {
                g.at_point(&singly(&c.rows), &row);
                g.epilogue_at(&c.epilogue, &c.cols, &own_col, sums);
            });
        }
    }

    /// The operands of a tile in shared memory.
    fn operands<'k>(&mut self, c: &'k Contract, tile: Tile, panel: i64, [first_row, first_col]: [&Dim; 2]) -> [Staged<'k, 'c>; 2] {
        let bytes = [tile.rows, tile.cols].map(Tile::operand_bytes);
        let memory = self.tile_memory(bytes[0] + bytes[1]);
        let second = self.e.displaced(memory, bytes[0]);
        [self.staged(a_source(c), memory, tile.rows, first_row), self.staged(b_source(c, panel), second, tile.cols, first_col)]
    }
}
