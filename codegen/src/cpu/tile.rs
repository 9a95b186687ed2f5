//! The register tile of a contraction: which shape suits an extent.
//!
//! A tile of `rows` by `vectors` accumulators loads `vectors` vectors and `rows` scalars for `rows * vectors` multiply-adds.
//! **Invariant.** Accumulators, one row of loaded vectors and a broadcast fit the vector registers, so that nothing spills.
//! The choice needs no search: it minimises waste at the edges times the cost of loading (measured: all tiles of 14 to 24
//! accumulators with at least two vectors are within 5 % of each other and of the machine's peak).

use crate::kernel::Tile;
use crate::target::Target;

/// Accumulators that hide the latency of the multiply-add: 4 cycles on 2 pipes.
const LATENCY: usize = 8;

/// Relative cost of a load against a multiply-add; chosen so that 7x2, 12x2, 8x3 and 6x4 are about equal, as measured.
const LOAD_COST: f64 = 0.3;

/// For more rows than this a panel of few bits is made into f32 before they pass by. Making it takes as long as some three rows of products
/// (measured), and in registers it is made again for each tile of rows, of which there are two from here on.
pub(crate) const ROWS_IN_REGISTERS: i64 = 8;

/// Making weights of a vector of integers, against a multiply-add: masking, subtracting and multiplying, of which about half is done beside
/// the multiply-adds.
const WIDENING_COST: f64 = 1.5;

/// Registers that a vector of columns of few bits takes beside its accumulators: scales, and words of several steps.
const BLOCK_REGISTERS: usize = 2;

/// A weight in the making and a broadcast. Constants are read from memory where no register is left for them.
const OTHER_REGISTERS: usize = 2;

/// Most vectors of columns of few bits. More were measured to be slower for a single row (8 by a third, with 32 registers, and 4 by as much with
/// 16): there is nothing beside the constants of the digits that reading them could be hidden behind.
const MOST_VECTORS_OF_BLOCKS: [(usize, usize); 2] = [(32, 4), (16, 3)];

/// How often an unknown number of rows is taken to be 1.
const ONE_ROW: f64 = 0.05;

/// Most accumulators with 32 vector registers; with 28, the loads no longer fit and it runs at half the speed.
const MOST_ACCUMULATORS: [(usize, usize); 2] = [(32, 24), (16, 12)];

/// More rows than this need more address registers than there are when the row pitch is not a number.
const MOST_ROWS: usize = 14;

/// More vectors than this are never better: eight accumulators hide the latency for a single row.
const MOST_VECTORS: usize = 8;

/// A tile for `acc[m, n] = sum over k`. An extent that is not known until run time is `None` and counts as large.
pub fn choose_tile(m: Option<usize>, n: Option<usize>, k: Option<usize>, target: &Target) -> Tile {
    let _ = k; // Panels are read in one go up to any k that occurs: splitting k was measured to gain nothing up to 4608.
    let cost = |t: &Tile| cost(*t, m, n, target.lanes, 0.0);
    candidates(m, n, target).into_iter().min_by(|x, y| cost(x).total_cmp(&cost(y))).expect("there are always tiles")
}

/// The same where the columns are integers of few bits, which take instructions and registers of their own to become weights; for many rows they
/// are made before.
pub fn choose_tile_of_blocks(m: Option<usize>, n: Option<usize>, k: Option<usize>, target: &Target) -> Tile {
    if m.is_some_and(|m| m as i64 > ROWS_IN_REGISTERS) {
        return choose_tile(m, n, k, target);
    }
    let most = MOST_VECTORS_OF_BLOCKS.iter().find(|(registers, _)| target.vregs >= *registers).map_or(1, |(_, most)| *most);
    // A single vector waits for what is loaded.
    let least = n.map_or(2, |n| n.div_ceil(target.lanes)).min(2);
    let fits = |t: &Tile| (least..=most).contains(&t.vectors) && (t.rows + BLOCK_REGISTERS) * t.vectors + OTHER_REGISTERS <= target.vregs;
    let cost = |t: &Tile| cost(*t, m, n, target.lanes, WIDENING_COST);
    let tiles = candidates(m, n, target).into_iter().filter(fits);
    tiles.min_by(|x, y| cost(x).total_cmp(&cost(y))).unwrap_or(Tile { rows: 1, vectors: 1 })
}

/// Every tile that fits the registers.
fn candidates(m: Option<usize>, n: Option<usize>, target: &Target) -> Vec<Tile> {
    let most = MOST_ACCUMULATORS.iter().find(|(registers, _)| target.vregs >= *registers).map_or(4, |(_, most)| *most);
    let most_rows = m.unwrap_or(MOST_ROWS).clamp(1, MOST_ROWS);
    // No wider than the columns: panels are packed at the tile's width, what fills them included.
    let most_vectors = n.map_or(MOST_VECTORS, |n| n.div_ceil(target.lanes)).clamp(1, MOST_VECTORS);
    let mut tiles = vec![];
    // A GPU copies panels by 16 bytes, of 16 bits too.
    let suits = |vectors: &usize| !target.is_cuda() || vectors.is_power_of_two();
    for vectors in (1..=most_vectors).filter(suits) {
        for rows in 1..=most_rows {
            if rows * vectors <= most && rows * vectors + vectors < target.vregs {
                tiles.push(Tile { rows, vectors });
            }
        }
    }
    tiles
}

/// Time per useful multiply-add, where each vector of columns takes as much as `widening` of them to be made.
fn cost(tile: Tile, m: Option<usize>, n: Option<usize>, lanes: usize, widening: f64) -> f64 {
    let cost_of = |rows: usize, vectors: usize| cost_of(rows, vectors, widening);
    let whole = cost_of(tile.rows, tile.vectors);
    let rows = match m.filter(|m| *m > 0) {
        // A number of rows that is not known is 1 now and then, and then only the vectors hide the latency.
        None => 1.0 + ONE_ROW * cost_of(1, tile.vectors),
        Some(m) => m.div_ceil(tile.rows) as f64 * tile.rows as f64 / m as f64,
    };
    match n.filter(|n| *n > 0) {
        None => rows * whole,
        Some(n) => {
            // The last panel has no more vectors than there are columns for.
            let (all, panels) = (n.div_ceil(lanes), n.div_ceil(lanes) / tile.vectors);
            let last = all - panels * tile.vectors;
            let columns = (panels * tile.vectors) as f64 * whole + if last > 0 { last as f64 * cost_of(tile.rows, last) } else { 0.0 };
            rows * columns * lanes as f64 / n as f64
        }
    }
}

/// Time per multiply-add of a tile.
fn cost_of(rows: usize, vectors: usize, widening: f64) -> f64 {
    let loads = 1.0 + LOAD_COST * (rows + 2 * vectors) as f64 / (rows * vectors) as f64 + widening / rows as f64;
    let latency = (LATENCY as f64 / (rows * vectors) as f64).max(1.0);
    loads * latency
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(m: usize, n: usize, k: usize, target: &str) -> (usize, usize) {
        let tile = choose_tile(Some(m), Some(n), Some(k), &Target::named(target).unwrap());
        (tile.rows, tile.vectors)
    }

    #[test]
    fn tiles_divide_what_they_can() {
        let (rows, vectors) = tile(49, 512, 2048, "x86-64-v4");
        assert!(49usize.div_ceil(rows) * rows <= 50 && (14..=24).contains(&(rows * vectors)), "{rows}x{vectors}");
        let (rows, vectors) = tile(128, 768, 768, "x86-64-v3");
        assert!(vectors >= 2 && rows * vectors <= 12 && rows * vectors >= 8, "{rows}x{vectors}");
    }

    #[test]
    fn one_row_takes_many_vectors() {
        assert!(tile(1, 4096, 768, "x86-64-v4").1 >= 4);
        assert_eq!(tile(1, 10, 768, "x86-64-v4"), (1, 1));
    }

    #[test]
    fn columns_of_few_bits_leave_room_for_their_scales() {
        for (target, most) in [("x86-64-v3", 16), ("x86-64-v4", 32), ("aarch64", 32)] {
            let target = Target::named(target).unwrap();
            for m in [None, Some(1), Some(3), Some(8)] {
                let t = choose_tile_of_blocks(m, Some(4096), None, &target);
                assert!(t.rows * t.vectors + 2 * t.vectors <= most, "{t:?}");
                assert!(m != Some(1) || t.vectors >= 3, "{t:?}");
            }
        }
    }

    #[test]
    fn all_tiles_fit_the_registers() {
        for target in ["x86-64-v3", "x86-64-v4", "aarch64"] {
            let target = Target::named(target).unwrap();
            for t in candidates(None, None, &target) {
                assert!(t.rows * t.vectors + t.vectors < target.vregs, "{t:?}");
            }
        }
    }
}
