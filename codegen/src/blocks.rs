//! Weights of few bits in the order in which kernels read them, made when the model is compiled.
//!
//! Panels are those of [`crate::pack`]; a block of steps of a panel holds the scales of its columns, their zero points if there are any, and
//! then the integers, so that a kernel reads one stream of bytes from the first to the last. [`Blocks`] says how they lie.
//!
//! ```text
//! q: i4[k=2, n=2], width 2, block 2      panel 0: s0 s1  (q00 | q10 << 4)  (q01 | q11 << 4)       s: f32, words of 32 bits
//! ```

use crate::kernel::Blocks;
use crate::pack::Packing;
use egret_ir::{Dim, Tensor};
use std::sync::Arc;

/// How weights of few bits are packed.
#[derive(Clone, Debug)]
pub struct BlockPacking {
    /// The integers, `[k, n]`, and the loops over them. There is one loop over all of `k`.
    pub integers: Packing,
    /// i8 `[b, n]`: what is subtracted from the integers of a block of rows; an extent may be 1 where all share a number.
    pub zero: Arc<Tensor>,
    /// f32, likewise: what the difference is multiplied by.
    pub scale: Arc<Tensor>,
    /// How a panel lies.
    pub blocks: Blocks,
}

impl BlockPacking {
    /// Where the panels of a batch begin, in bytes.
    pub fn start(&self) -> Dim {
        self.integers.batch_index() * self.batch_bytes()
    }

    /// The length in bytes.
    pub fn bytes_length(&self) -> u64 {
        (self.integers.batches() * self.batch_bytes()) as u64
    }

    fn batch_bytes(&self) -> usize {
        self.integers.panels() * self.integers.width * self.blocks.column_bytes(self.integers.steps())
    }

    /// The packed bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let Packing { tensor, width, .. } = &self.integers;
        let n = tensor.shape()[1];
        let [batch, k, cols] = self.integers.walks();
        let base = self.integers.base();
        let mut packed = Vec::with_capacity(self.bytes_length() as usize);
        for batch in &batch.offsets {
            for columns in cols.offsets.chunks(*width) {
                for (block, steps) in k.offsets.chunks(self.blocks.steps).enumerate() {
                    let column = |i: usize| columns.get(i).map(|c| (base + batch + c) as usize % n);
                    self.push_header(block, (0..*width).map(column), &mut packed);
                    let integer = |column: Option<&i64>, step: &i64| {
                        column.map_or(0, |c| i8::from_le_bytes([tensor.bytes()[(base + batch + c + step) as usize]]))
                    };
                    let columns: Vec<Option<&i64>> = (0..*width).map(|i| columns.get(i)).collect();
                    self.push_integers(steps, &columns, integer, &mut packed);
                }
            }
        }
        packed
    }

    /// The scales and zero points of a block of some columns of the weights.
    fn push_header(&self, block: usize, columns: impl Iterator<Item = Option<usize>> + Clone, packed: &mut Vec<u8>) {
        for column in columns.clone() {
            packed.extend(column.map_or([0; 4], |c| element(&self.scale, block, c)));
        }
        if self.blocks.has_zeros {
            packed.extend(columns.flat_map(|column| column.map_or([0], |c| element(&self.zero, block, c))));
        }
    }

    fn push_integers<'k>(
        &self,
        steps: &'k [i64],
        columns: &[Option<&i64>],
        integer: impl Fn(Option<&i64>, &'k i64) -> i8,
        packed: &mut Vec<u8>,
    ) {
        if !self.blocks.is_in_words() {
            return steps.iter().for_each(|step| packed.extend(columns.iter().map(|column| integer(*column, step) as u8)));
        }
        for steps in steps.chunks(Blocks::IN_WORD) {
            for column in columns {
                let digit = |(i, step)| (integer(*column, step) as u32 & 15) << (4 * i);
                let word: u32 = steps.iter().enumerate().map(digit).sum();
                packed.extend(word.to_le_bytes());
            }
        }
    }

    /// What decides the packed bytes, apart from the integers.
    pub fn key(&self) -> String {
        let [zero, scale] = [&self.zero, &self.scale].map(|t| blake3::hash(t.bytes()).to_hex());
        format!("{} in {}, less {zero} times {scale}", self.integers.key(), self.blocks)
    }
}

/// The bytes of an element of `[b, n]`, of which an extent of 1 stands for any.
fn element<const SIZE: usize>(of: &Tensor, block: usize, column: usize) -> [u8; SIZE] {
    let at = |extent: usize, i: usize| if extent == 1 { 0 } else { i };
    let [rows, columns] = [of.shape()[0], of.shape()[1]];
    of.bytes().as_chunks().0[at(rows, block) * columns + at(columns, column)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Axis;
    use egret_ir::{DType, Element};

    fn packing(dtype: DType, [k, n]: [usize; 2], width: usize, has_zeros: bool) -> BlockPacking {
        let integers = (0..k * n).map(|i| Element::Int(i as i128 % 16 - 8));
        let blocks = k.div_ceil(2);
        BlockPacking {
            integers: Packing {
                tensor: Arc::new(Tensor::from_elements(dtype, vec![k, n], integers)),
                offset: Dim::symbol("k") * n + Dim::symbol("n"),
                batch: vec![],
                k: vec![Axis::new("k", k)],
                cols: Axis::new("n", n),
                width,
                dtype,
                together: 1,
            },
            zero: Arc::new(Tensor::from_elements(DType::I8, vec![blocks, 1], (0..blocks).map(|i| Element::Int(i as i128)))),
            scale: Arc::new(Tensor::from_f32s(vec![1, n], &(0..n).map(|i| i as f32 + 1.0).collect::<Vec<_>>())),
            blocks: Blocks { steps: 2, dtype, has_zeros },
        }
    }

    fn scales(of: [f32; 2]) -> Vec<u8> {
        of.iter().flat_map(|s| s.to_le_bytes()).collect()
    }

    #[test]
    fn bytes_follow_their_scales_and_zero_points() {
        let packing = packing(DType::I8, [3, 3], 2, true);
        let signed = |b: [i8; 4]| b.map(|b| b as u8).to_vec();
        let expected = [
            [scales([1.0, 2.0]), vec![0, 0], signed([-8, -7, -5, -4])].concat(),
            [scales([1.0, 2.0]), vec![1, 1], signed([-2, -1, 0, 0])[..2].to_vec()].concat(),
            [scales([3.0, 0.0]), vec![0, 0], signed([-6, 0, -3, 0])].concat(),
            [scales([3.0, 0.0]), vec![1, 0], vec![0, 0]].concat(),
        ];
        assert_eq!(packing.bytes(), expected.concat());
        assert_eq!(packing.bytes_length(), packing.bytes().len() as u64);
    }

    #[test]
    fn four_bits_stand_in_words() {
        let packing = packing(DType::I4, [3, 2], 2, false);
        let words = |of: [u32; 2]| of.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        // -8 -7 / -6 -5 / -4 -3.
        assert_eq!(packing.bytes(), [scales([1.0, 2.0]), words([0xa8, 0xb9]), scales([1.0, 2.0]), words([12, 13])].concat());
        assert_eq!(packing.bytes_length(), packing.bytes().len() as u64);
    }
}
