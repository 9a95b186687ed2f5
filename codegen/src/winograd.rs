//! Winograd's F(4x4, 3x3): 4x4 outputs of a 3x3 convolution from 6x6 inputs with 36 multiplications instead of 144.
//!
//! ```text
//! Y = A^T [(G g G^T) * (B^T d B)] A        d: 6x6 inputs, g: 3x3 weights, *: elementwise, Y: 4x4 outputs
//! ```
//!
//! (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.) The elementwise products, summed over the input
//! channels, are 36 matrix products. The transforms interpolate at the points 0, +-5/8, +-3/2 and infinity, whose powers are exact in
//! f32: the rounding error is about twice that of the direct sum, where with the usual +-1 and +-2 it is four times.
//!
//! **Invariant.** Compiled code and the interpreter perform the same operations in the same order, given here once for any
//! [`Arithmetic`], so that they agree to the bit.

use crate::kernel::{Axis, Block, BufferId, Contract, Expr, ExprKind, Panels, Split, Store, Winograd};
use egret_ir::{DType, Dim};

/// Outputs of a tile along each axis.
pub const OUTPUTS: usize = 4;

/// Inputs of a tile along each axis, and products per axis.
pub const INPUTS: usize = 6;

/// Products per tile and channel.
pub const PRODUCTS: usize = INPUTS * INPUTS;

/// The points at which the transforms interpolate, beside their negatives, 0 and infinity.
const A: f64 = 0.625;
const B: f64 = 1.5;

/// Working memory for the transformed tiles of a unit: with the weights that stream past it, it should fit a second-level cache.
const WORKING_BYTES: usize = 512 << 10;

/// At least so many tiles share one pass over the weights, however many channels there are: it then takes less time than the
/// multiplications.
const FEWEST_TILES: usize = 8;

/// Numbers, or vectors of them.
pub trait Arithmetic {
    /// A number, or a vector.
    type Value: Copy;
    /// `x + y`.
    fn add(&self, x: Self::Value, y: Self::Value) -> Self::Value;
    /// `x - y`.
    fn sub(&self, x: Self::Value, y: Self::Value) -> Self::Value;
    /// `factor * x + y`, rounded once.
    fn fma(&self, factor: f64, x: Self::Value, y: Self::Value) -> Self::Value;
    /// `factor * x`.
    fn scale(&self, factor: f64, x: Self::Value) -> Self::Value;
}

/// Single numbers.
pub struct Numbers;

impl Arithmetic for Numbers {
    type Value = f32;

    fn add(&self, x: f32, y: f32) -> f32 {
        x + y
    }

    fn sub(&self, x: f32, y: f32) -> f32 {
        x - y
    }

    fn fma(&self, factor: f64, x: f32, y: f32) -> f32 {
        (factor as f32).mul_add(x, y)
    }

    fn scale(&self, factor: f64, x: f32) -> f32 {
        factor as f32 * x
    }
}

/// `B^T d`, for one line of inputs.
fn input_line<M: Arithmetic>(m: &M, d: [M::Value; INPUTS]) -> [M::Value; INPUTS] {
    let (a2, b2) = (A * A, B * B);
    let (sum, product) = (a2 + b2, a2 * b2);
    let even_a = m.fma(-b2, d[2], d[4]);
    let odd_a = m.fma(-b2, d[1], d[3]);
    let even_b = m.fma(-a2, d[2], d[4]);
    let odd_b = m.fma(-a2, d[1], d[3]);
    [
        m.fma(product, d[0], m.fma(-sum, d[2], d[4])),
        m.fma(A, odd_a, even_a),
        m.fma(-A, odd_a, even_a),
        m.fma(B, odd_b, even_b),
        m.fma(-B, odd_b, even_b),
        m.fma(product, d[1], m.fma(-sum, d[3], d[5])),
    ]
}

/// `A^T p`, for one line of products.
fn output_line<M: Arithmetic>(m: &M, p: [M::Value; INPUTS]) -> [M::Value; OUTPUTS] {
    let (even_a, odd_a) = (m.add(p[1], p[2]), m.sub(p[1], p[2]));
    let (even_b, odd_b) = (m.add(p[3], p[4]), m.sub(p[3], p[4]));
    [
        m.add(p[0], m.add(even_a, even_b)),
        m.fma(A, odd_a, m.scale(B, odd_b)),
        m.fma(A * A, even_a, m.scale(B * B, even_b)),
        m.add(p[5], m.fma(A * A * A, odd_a, m.scale(B * B * B, odd_b))),
    ]
}

/// `B^T d B`, both row-major.
pub fn input<M: Arithmetic>(m: &M, d: &[M::Value]) -> Vec<M::Value> {
    let columns: Vec<[M::Value; INPUTS]> = (0..INPUTS).map(|j| input_line(m, std::array::from_fn(|i| d[i * INPUTS + j]))).collect();
    (0..INPUTS).flat_map(|i| input_line(m, std::array::from_fn(|j| columns[j][i]))).collect()
}

/// `A^T p A`, both row-major.
pub fn output<M: Arithmetic>(m: &M, p: &[M::Value]) -> Vec<M::Value> {
    let columns: Vec<[M::Value; OUTPUTS]> = (0..INPUTS).map(|j| output_line(m, std::array::from_fn(|i| p[i * INPUTS + j]))).collect();
    (0..OUTPUTS).flat_map(|i| output_line(m, std::array::from_fn(|j| columns[j][i]))).collect()
}

/// `G g G^T`, both row-major; in f64, so that weights are rounded once.
pub fn weights(g: &[f64; 9]) -> [f64; PRODUCTS] {
    let (a2, b2) = (A * A, B * B);
    let line = |g: [f64; 3]| {
        let at = |x: f64| g[0] + x * (g[1] + x * g[2]);
        let (of_a, of_b) = (1.0 / (2.0 * a2 * (a2 - b2)), 1.0 / (2.0 * b2 * (b2 - a2)));
        [g[0] / (a2 * b2), at(A) * of_a, at(-A) * of_a, at(B) * of_b, at(-B) * of_b, g[2]]
    };
    let columns: [[f64; INPUTS]; 3] = std::array::from_fn(|j| line([g[j], g[3 + j], g[6 + j]]));
    let mut all = [0.0; PRODUCTS];
    for i in 0..INPUTS {
        all[i * INPUTS..][..INPUTS].copy_from_slice(&line([columns[0][i], columns[1][i], columns[2][i]]));
    }
    all
}

/// Packed weights of 9 taps, `[3][3][..]`, as those of 36 products, `[6][6][..]`; f32s in the machine's order of bytes.
pub fn transformed(taps: &[u8]) -> Vec<u8> {
    let count = taps.len() / 9;
    let mut products = vec![0; PRODUCTS * count];
    let number = |at: usize| f32::from_le_bytes([taps[at], taps[at + 1], taps[at + 2], taps[at + 3]]);
    for at in (0..count).step_by(4) {
        let all = weights(&std::array::from_fn(|tap| number(tap * count + at).into()));
        for (i, product) in all.iter().enumerate() {
            products[i * count + at..][..4].copy_from_slice(&(*product as f32).to_le_bytes());
        }
    }
    products
}

/// How many tiles a unit of work transforms together, of `tiles` in each of `images` images; as even as the units can be. Of
/// numbers that are not known, images count as one and tiles as many.
pub fn tiles_per_unit(tiles: Option<usize>, images: Option<usize>, channels: usize) -> usize {
    let most = (WORKING_BYTES / (PRODUCTS * channels * 4)).max(FEWEST_TILES);
    let Some(tiles) = tiles else { return most };
    let all = tiles * images.unwrap_or(1).max(1);
    all.div_ceil(all.div_ceil(most)).max(1)
}

impl Winograd {
    /// Tiles down and across an image.
    pub fn tiles(&self) -> [Dim; 2] {
        [0, 1].map(|i| self.rows[i].extent.ceil_div(&OUTPUTS.into()))
    }

    /// All tiles of all images.
    pub fn all_tiles(&self) -> Dim {
        let [down, across] = self.tiles();
        self.batch.iter().map(|a| a.extent.clone()).product::<Dim>() * down * across
    }

    /// The units of work.
    pub fn units(&self) -> Axis {
        Axis::new(format!("{}'tiles", self.rows[1].name), self.all_tiles().ceil_div(&self.block.into()))
    }

    /// The values of the batch axes, and the tile down and across, at the number of a tile.
    pub fn tile_at(&self, number: &Dim) -> (Vec<Dim>, [Dim; 2]) {
        let [down, across] = self.tiles();
        let tile = [number.floor_div(&across).modulo(&down), number.modulo(&across)];
        let mut image = number.floor_div(&(down * across));
        let mut batch = vec![];
        for (i, axis) in self.batch.iter().enumerate().rev() {
            batch.push(if i == 0 { image.clone() } else { image.modulo(&axis.extent) });
            image = image.floor_div(&axis.extent);
        }
        batch.reverse();
        (batch, tile)
    }

    /// Position `i` of a tile along spatial axis `axis`; inputs behind the last one repeat it, since outputs that depend on them are
    /// not stored.
    pub fn input_at(&self, axis: usize, tile: &Dim, i: usize) -> Dim {
        let at = tile.clone() * OUTPUTS + i;
        let extent = self.rows[axis].extent.clone();
        match extent.modulo(&OUTPUTS.into()).is(0) {
            true => at,
            false => at.minimum(&(extent + (INPUTS - OUTPUTS) as i64 - 1)),
        }
    }

    fn number(&self, axis: &Axis) -> usize {
        axis.extent.as_const().and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
    }

    /// Elements of the transformed inputs of a unit, `[36][block][depth]`, and of their products, `[36][block][cols]`.
    pub fn working(&self) -> [usize; 2] {
        [&self.depth, &self.cols].map(|axis| PRODUCTS * self.block * self.number(axis))
    }

    /// Where the number of product `product` and tile `tile` of a unit stands, of `axis` channels.
    pub fn working_at(&self, product: usize, tile: &Dim, axis: &Axis) -> Dim {
        (tile.clone() + product * self.block) * axis.extent.clone() + axis.index()
    }

    /// The products of a unit of `tiles` tiles, from transformed inputs in `from` to `into`.
    pub fn products(&self, tiles: Dim, from: BufferId, into: BufferId, lanes: usize) -> Contract {
        let (product, tile, k) = (Axis::new("p'", PRODUCTS), Axis::new("t'", tiles), &self.depth);
        let width = Dim::from(self.tile.vectors * lanes);
        let panels = self.cols.extent.ceil_div(&width) * k.extent.clone() * width;
        let row = product.index() * self.block + tile.index();
        let acc = Expr::new(DType::F32, ExprKind::Var("acc".into()));
        let store = Store { buffer: into, offset: row.clone() * self.cols.extent.clone() + self.cols.index(), value: acc };
        Contract {
            a: (from, row * k.extent.clone() + k.index()),
            b: Panels::Packed(self.weights, product.index() * panels),
            batch: vec![product],
            rows: vec![tile],
            cols: self.cols.clone(),
            k: vec![k.clone()],
            tile: self.tile,
            split: Split::Rows,
            epilogue: Block { lets: vec![], stores: vec![store] },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exact;

    impl Arithmetic for Exact {
        type Value = f64;
        fn add(&self, x: f64, y: f64) -> f64 {
            x + y
        }
        fn sub(&self, x: f64, y: f64) -> f64 {
            x - y
        }
        fn fma(&self, factor: f64, x: f64, y: f64) -> f64 {
            factor.mul_add(x, y)
        }
        fn scale(&self, factor: f64, x: f64) -> f64 {
            factor * x
        }
    }

    #[test]
    fn a_tile_is_a_convolution() {
        let d: Vec<f64> = (0..PRODUCTS).map(|i| ((i * 7919) % 101) as f64 / 50.0 - 1.0).collect();
        let g: [f64; 9] = std::array::from_fn(|i| ((i * 31) % 17) as f64 / 8.0 - 1.0);
        let products: Vec<f64> = input(&Exact, &d).iter().zip(weights(&g)).map(|(d, g)| d * g).collect();
        for (at, found) in output(&Exact, &products).into_iter().enumerate() {
            let (y, x) = (at / OUTPUTS, at % OUTPUTS);
            let expected: f64 = (0..9).map(|tap| d[(y + tap / 3) * INPUTS + x + tap % 3] * g[tap]).sum();
            assert!((found - expected).abs() < 1e-13, "output {y}, {x} is {found}, expected {expected}");
        }
    }

    /// 64 channels in f32 against the sum in f64: within a millionth of the sum of all magnitudes.
    #[test]
    fn rounding_errors_are_small() {
        let mut state = 1u64;
        let mut number = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let (mut products, mut exact, mut size) = (vec![0f32; PRODUCTS], [0f64; 16], [0f64; 16]);
        for _ in 0..64 {
            let d: Vec<f32> = (0..PRODUCTS).map(|_| number()).collect();
            let g: [f64; 9] = std::array::from_fn(|_| number().into());
            let transformed = input(&Numbers, &d).into_iter().zip(weights(&g));
            products.iter_mut().zip(transformed).for_each(|(sum, (d, g))| *sum = d.mul_add(g as f32, *sum));
            for (at, (exact, size)) in exact.iter_mut().zip(&mut size).enumerate() {
                for (tap, g) in g.iter().enumerate() {
                    let term = f64::from(d[(at / OUTPUTS + tap / 3) * INPUTS + at % OUTPUTS + tap % 3]) * g;
                    (*exact, *size) = (*exact + term, *size + term.abs());
                }
            }
        }
        for ((found, exact), size) in output(&Numbers, &products).into_iter().zip(exact).zip(size) {
            assert!((f64::from(found) - exact).abs() < 1e-6 * size, "{found} instead of {exact}");
        }
    }

    #[test]
    fn units_are_even_and_not_too_small() {
        assert_eq!(tiles_per_unit(Some(196), Some(1), 128), 28);
        assert_eq!(tiles_per_unit(Some(16), Some(1), 512), 8);
        assert_eq!(tiles_per_unit(Some(9), None, 4096), 5);
        assert_eq!(tiles_per_unit(None, None, 128), 28);
    }
}
