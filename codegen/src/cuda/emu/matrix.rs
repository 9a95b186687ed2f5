//! What a warp does with matrices: which lane has what (PTX ISA, "Matrix Fragments for mma.m16n8k8", "mma.m16n8k16", "ldmatrix").
//!
//! **Invariant.** Products are exact. Their sum is rounded toward zero, which the ISA allows and hardware comes near to; who relies on
//! more finds out here.

use super::WARP;
use super::op::Element;
use super::value::{BELOW_TF32, half};

/// Rows of a matrix in shared memory, and bytes of a row.
pub(super) const ROWS: usize = 8;
pub(super) const ROW: usize = 16;

/// The word of a lane, of a matrix of elements of 16 bits.
pub(super) fn word(rows: &[Vec<u64>], lane: usize, transposed: bool) -> u64 {
    let (i, j) = (lane / 4, lane % 4 * 2);
    let [low, high] = if transposed { [rows[j][i], rows[j + 1][i]] } else { [rows[i][j], rows[i][j + 1]] };
    high << 16 | low
}

/// Steps of `k` that an operand can have.
const STEPS: usize = 16;

impl Element {
    /// How many a register holds.
    fn packed(self) -> usize {
        if self == Element::Tf32 { 1 } else { 2 }
    }

    /// Element `i` of a register.
    pub(super) fn of(self, register: u64, i: usize) -> Result<f64, String> {
        let (word, bits) = (register as u32, (register >> (16 * i)) as u16);
        match self {
            Element::Bf16 => Ok(f32::from_bits(u32::from(bits) << 16).into()),
            Element::F16 => Ok(half(bits)),
            Element::Tf32 if word & BELOW_TF32 != 0 && !f32::from_bits(word).is_nan() => {
                Err(format!("{word:#x} is no TF32: it was not rounded"))
            }
            Element::Tf32 => Ok(f32::from_bits(word).into()),
        }
    }
}

/// An operand of so many points, of which a lane has some; steps beyond its own are zero.
fn operand<const POINTS: usize>(element: Element, registers: &[[u64; WARP]]) -> Result<[[f64; STEPS]; POINTS], String> {
    let halves = POINTS / 8;
    if registers.len() != 2 * halves {
        return Err(format!("{} registers for {POINTS} points", registers.len()));
    }
    let mut found = [[0.0; STEPS]; POINTS];
    for (r, values) in registers.iter().enumerate() {
        for (lane, value) in values.iter().enumerate() {
            let (point, step) = (lane / 4 + 8 * (r % halves), element.packed() * (lane % 4 + 4 * (r / halves)));
            for i in 0..element.packed() {
                found[point][step + i] = element.of(*value, i)?;
            }
        }
    }
    Ok(found)
}

/// `sums + a * b`.
pub(super) fn product(element: Element, a: &[[u64; WARP]], b: &[[u64; WARP]], sums: &[[u64; WARP]]) -> Result<Vec<[u64; WARP]>, String> {
    let (a, b) = (operand::<16>(element, a)?, operand::<8>(element, b)?);
    let mut found = sums.to_vec();
    for (r, values) in found.iter_mut().enumerate() {
        for (lane, value) in values.iter_mut().enumerate() {
            let (row, col) = (&a[lane / 4 + 8 * (r / 2)], &b[lane % 4 * 2 + r % 2]);
            *value = toward(added(*value, row, col));
        }
    }
    Ok(found)
}

/// An f32's bits with products added.
pub(super) fn added(start: u64, row: &[f64; STEPS], col: &[f64; STEPS]) -> f64 {
    row.iter().zip(col).fold(f64::from(f32::from_bits(start as u32)), |sum, (x, y)| sum + x * y)
}

/// The bits of the f32 toward zero.
pub(super) fn toward(x: f64) -> u64 {
    toward_zero(x).to_bits().into()
}

fn toward_zero(x: f64) -> f32 {
    let nearest = x as f32;
    if f64::from(nearest).abs() > x.abs() { f32::from_bits(nearest.to_bits() - 1) } else { nearest }
}
