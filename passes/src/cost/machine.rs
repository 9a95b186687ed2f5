//! The rates of a machine, and what follows from them for a contraction.

use super::work::Contraction;
use egret_ir::DType;

/// Where data lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The cache of a core.
    L2,
    /// The cache that all cores share.
    L3,
    /// Beyond the caches.
    Memory,
}

/// What one thread of a machine can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Bytes of the cache of a core.
    pub l2_bytes: u64,
    /// Bytes of the cache that all cores share.
    pub l3_bytes: u64,
    /// Bytes read per nanosecond from [`Level::L2`], [`Level::L3`], [`Level::Memory`].
    pub read: [u64; 3],
    /// Bytes written per nanosecond, likewise.
    pub write: [u64; 3],
    /// Floating-point operations per nanosecond at the peak, `f32`.
    pub flops: u64,
    /// Elements of a vector register, `f32`.
    pub lanes: u64,
    /// Calling a kernel.
    pub launch_ps: u64,
    /// An element of a map, its memory apart.
    pub element_ps: u64,
    /// The same where neighbours in memory are not neighbours in the loops.
    pub strided_ps: u64,
    /// An element of a pass over rows.
    pub row_element_ps: u64,
    /// The same where neighbours of a row are not neighbours in memory, and what the tail of a contraction reads in this way.
    pub strided_row_element_ps: u64,
    /// An element of a tile of Winograd's form, going in or out.
    pub transformed_ps: u64,
    /// A unit of scalar work, see [`super::scalar_work`].
    pub scalar_ps: u64,
    /// A tap of a window, per element of the result, in femtoseconds.
    pub tap_fs: u64,
    /// A step of a recurrence.
    pub step_ps: u64,
    /// An element of a gate of a recurrence.
    pub gate_ps: u64,
}

/// One core with AVX-512 at one multiply-add of 16 lanes per cycle (AMD EPYC of the kind `znver4`, 3.7 GHz, 1 MiB of L2, 32 MiB
/// of L3). The peak is that of a loop of multiply-adds, the bandwidths are those of loops of loads and stores; the other rates
/// were fitted, class by class, to the times of the single kernels of three dozen example models (`benches/predicted.py --kernels`).
pub const ZEN4: Machine = Machine {
    l2_bytes: 1 << 20,
    l3_bytes: 32 << 20,
    read: [170, 95, 40],
    write: [150, 90, 28],
    flops: 118,
    lanes: 16,
    launch_ps: 100_000,
    element_ps: 20,
    strided_ps: 100,
    row_element_ps: 20,
    strided_row_element_ps: 500,
    transformed_ps: 107,
    scalar_ps: 25,
    tap_fs: 13_000,
    step_ps: 20_000,
    gate_ps: 100,
};

/// So many rows of a tile cost as much in loading its columns as one row of products.
const ROWS_OVERHEAD: u64 = 1;

/// Making weights of integers of few bits takes as long as so many rows of products: in registers for few rows, once for each panel for many.
const WIDENING_ROWS: u64 = 1;

/// How long a product takes, in percent of one of `f32`: dot products take two terms at a time, integers have no fused multiply-add,
/// and other floats of 16 bits are converted as they are read.
fn percent(c: &Contraction) -> u64 {
    match c.dtype {
        _ if c.together > 1 => 100 / c.together,
        DType::F32 => 100,
        ty if ty.is_float() && ty.size() == 8 => 200,
        ty if ty.is_float() => 310,
        ty if ty.size() == 8 => 300,
        _ => 125,
    }
}

/// Starting and ending a tile costs as much as so many steps of its depth.
const DEPTH_OVERHEAD: u64 = 2;

impl Machine {
    /// Where so many bytes stay between writing and reading them.
    pub fn level(&self, bytes: u64) -> Level {
        match bytes {
            b if b <= self.l2_bytes / 2 => Level::L2,
            b if b <= self.l3_bytes => Level::L3,
            _ => Level::Memory,
        }
    }

    /// Reading bytes, in picoseconds.
    pub fn read(&self, from: Level, bytes: u64) -> u64 {
        bytes.saturating_mul(1000) / self.read[from as usize]
    }

    /// Writing bytes, in picoseconds.
    pub fn write(&self, to: Level, bytes: u64) -> u64 {
        bytes.saturating_mul(1000) / self.write[to as usize]
    }

    /// The products of a contraction, in picoseconds: whole vectors of columns, with the overhead of tiles of few rows and of
    /// little depth.
    pub fn contraction(&self, c: &Contraction) -> u64 {
        let cols = c.cols.div_ceil(self.lanes).saturating_mul(self.lanes);
        let widened = if c.few_bits { WIDENING_ROWS } else { 0 };
        let rows = c.rows.saturating_add(ROWS_OVERHEAD).saturating_add(widened);
        let depth = c.depth.saturating_add(DEPTH_OVERHEAD);
        let products = c.batch.saturating_mul(rows).saturating_mul(cols).saturating_mul(depth);
        products.saturating_mul(20 * percent(c)) / self.flops
    }

    /// Transforming the inputs and outputs of the tiles of Winograd's form, in picoseconds: whole vectors of input channels.
    pub fn transforms(&self, c: &Contraction) -> u64 {
        let channels = c.depth.div_ceil(self.lanes).saturating_mul(self.lanes).saturating_add(c.cols);
        c.batch.saturating_mul(c.rows).saturating_mul(channels).saturating_mul(self.transformed_ps)
    }

    /// Bringing the right operand into the order in which it is read, by a kernel of its own, in picoseconds.
    pub fn packing(&self, c: &Contraction) -> u64 {
        match c.packed {
            0 => 0,
            elements => self.launch_ps.saturating_add(elements.saturating_mul(self.strided_ps)),
        }
    }
}
