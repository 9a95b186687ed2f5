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
const LOAD_COST: f64 = 0.15;

/// Most accumulators with 32 vector registers; with 28, the loads no longer fit and it runs at half the speed.
const MOST_ACCUMULATORS: [(usize, usize); 2] = [(32, 24), (16, 12)];

/// More rows than this need more address registers than there are when the row pitch is not a number.
const MOST_ROWS: usize = 14;

/// A tile for `acc[m, n] = sum over k`. An extent that is not known until run time is `None` and counts as large.
pub fn choose_tile(m: Option<usize>, n: Option<usize>, k: Option<usize>, target: &Target) -> Tile {
    let _ = k; // Panels are read in one go up to any k that occurs: splitting k was measured to gain nothing up to 4608.
    let candidates = candidates(m, target);
    let cost = |t: &Tile| cost(*t, m, n, target.lanes);
    candidates.into_iter().min_by(|x, y| cost(x).total_cmp(&cost(y))).expect("there are always tiles")
}

/// Every tile that fits the registers.
fn candidates(m: Option<usize>, target: &Target) -> Vec<Tile> {
    let most = MOST_ACCUMULATORS.iter().find(|(registers, _)| target.vregs >= *registers).map_or(4, |(_, most)| *most);
    let most_rows = m.unwrap_or(MOST_ROWS).clamp(1, MOST_ROWS);
    let mut tiles = vec![];
    for vectors in 1..=8 {
        for rows in 1..=most_rows {
            if rows * vectors <= most && rows * vectors + vectors + 2 <= target.vregs {
                tiles.push(Tile { rows, vectors });
            }
        }
    }
    tiles
}

/// Time per useful multiply-add.
fn cost(tile: Tile, m: Option<usize>, n: Option<usize>, lanes: usize) -> f64 {
    let (rows, vectors) = (tile.rows as f64, tile.vectors as f64);
    let accumulators = tile.rows * tile.vectors;
    let loads = 1.0 + LOAD_COST * (rows + 2.0 * vectors) / (rows * vectors);
    let latency = (LATENCY as f64 / accumulators as f64).max(1.0);
    waste(m, tile.rows) * waste_of_columns(n, tile.vectors, lanes) * loads * latency
}

/// The part of the work that is done for nothing when `extent` is covered in steps, plus 1.
fn waste(extent: Option<usize>, step: usize) -> f64 {
    match extent {
        None | Some(0) => 1.0,
        Some(n) => n.div_ceil(step) as f64 * step as f64 / n as f64,
    }
}

/// Columns are covered in whole vectors; a last panel that is narrower than the others costs a little more per vector.
fn waste_of_columns(extent: Option<usize>, vectors: usize, lanes: usize) -> f64 {
    let Some(n) = extent else { return 1.0 };
    let (all, panels) = (n.div_ceil(lanes), n.div_ceil(lanes * vectors));
    let partial = if all % vectors == 0 { 0.0 } else { 0.5 * (vectors - all % vectors) as f64 };
    waste(Some(n), lanes) * (1.0 + partial / (panels * vectors) as f64)
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
    fn all_tiles_fit_the_registers() {
        for target in ["x86-64-v3", "x86-64-v4", "aarch64"] {
            let target = Target::named(target).unwrap();
            for t in candidates(None, &target) {
                assert!(t.rows * t.vectors + t.vectors < target.vregs, "{t:?}");
            }
        }
    }
}
