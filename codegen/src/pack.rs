//! Weights in the order in which kernels read them, made when the model is compiled.
//!
//! A contraction reads its right operand as panels: `width` columns for the first step of `k`, the same columns for the
//! next step, and so on, `[batch..., panel, k..., width]`. The columns behind the last are zero.
//!
//! ```text
//! w: [k=2, n=3], width 2      panel 0: w00 w01  w10 w11      panel 1: w02 0  w12 0
//! ```
//!
//! For dot products of pairs, two steps of the innermost loop of `k` stand beside each other in every column, and zero behind an odd
//! last one; for those of bytes, four:
//!
//! ```text
//! paired                       panel 0: w00 w10  w01 w11      panel 1: w02 w12  0 0
//! ```

use crate::kernel::Axis;
use egret_ir::{Bindings, DType, Dim, Tensor};
use std::sync::Arc;

/// How a constant is packed.
#[derive(Clone, Debug)]
pub struct Packing {
    /// The constant.
    pub tensor: Arc<Tensor>,
    /// Which element of it stands at a point of the loops below.
    pub offset: Dim,
    /// The batches that have panels of their own, outermost first.
    pub batch: Vec<Axis>,
    /// The steps of a panel.
    pub k: Vec<Axis>,
    /// The columns.
    pub cols: Axis,
    /// Columns of a panel.
    pub width: usize,
    /// The type of packed elements: that of the constant, or a narrower one that holds its integers.
    pub dtype: DType,
    /// Steps of the innermost loop of `k` that stand together.
    pub together: usize,
}

impl Packing {
    /// Where the panels of a batch begin, in elements.
    pub fn start(&self) -> Dim {
        self.batch_index() * (self.panels() * self.steps() * self.width)
    }

    /// The number of a batch.
    pub(crate) fn batch_index(&self) -> Dim {
        self.batch.iter().fold(Dim::ZERO, |at, a| at * a.extent.clone() + a.index())
    }

    /// How many batches there are.
    pub(crate) fn batches(&self) -> usize {
        extents(&self.batch).iter().product()
    }

    /// Elements of a column of a panel, what fills the last pair or four included.
    pub(crate) fn steps(&self) -> usize {
        let mut steps = extents(&self.k);
        if let Some(innermost) = steps.last_mut() {
            *innermost = innermost.next_multiple_of(self.together);
        }
        steps.into_iter().product()
    }

    /// The type and number of the packed elements.
    pub fn size(&self) -> (DType, usize) {
        (self.dtype, self.batches() * self.steps() * self.panels() * self.width)
    }

    /// The length of the packed elements in bytes.
    pub fn bytes_length(&self) -> u64 {
        let (dtype, count) = self.size();
        (count * dtype.size()) as u64
    }

    /// How many panels a batch has.
    pub(crate) fn panels(&self) -> usize {
        extents(std::slice::from_ref(&self.cols))[0].div_ceil(self.width)
    }

    /// What the points of the batches, of `k` and of the columns add to the offset.
    pub(crate) fn walks(&self) -> [Walk; 3] {
        [&self.batch[..], &self.k, std::slice::from_ref(&self.cols)].map(|axes| Walk::new(self, axes))
    }

    /// The offset at the first point of all loops.
    pub(crate) fn base(&self) -> i64 {
        self.offset.substitute(&|_| Some(Dim::ZERO)).as_const().unwrap_or(0)
    }

    /// The packed elements.
    pub fn bytes(&self) -> Vec<u8> {
        let (size, from) = (self.dtype.size(), self.tensor.dtype().size());
        let [batch, k, cols] = self.walks();
        let mut packed = vec![0; self.size().1 * size];
        let base = self.base();
        let source = self.tensor.bytes();
        let together = self.together;
        let run = extents(&self.k).last().copied().unwrap_or(1).max(1);
        let mut panels = packed.chunks_exact_mut((self.width * together * size).max(1));
        for b in &batch.offsets {
            for columns in cols.offsets.chunks(self.width.max(1)) {
                for steps in k.offsets.chunks(run).flat_map(|run| run.chunks(together)) {
                    let into = panels.next().expect("as many rows of panels as counted");
                    for (slots, column) in into.chunks_exact_mut(together * size).zip(columns) {
                        for (slot, step) in slots.chunks_exact_mut(size).zip(steps) {
                            // The low bytes of an integer are the integer in a narrower type that holds it.
                            let at = (base + b + step + column) as usize * from;
                            slot.copy_from_slice(&source[at..at + size]);
                        }
                    }
                }
            }
        }
        packed
    }

    /// What decides the packed bytes, apart from the constant's data.
    pub fn key(&self) -> String {
        let axes = |axes: &[Axis]| axes.iter().map(|a| format!("{} in {}", a.name, a.extent)).collect::<Vec<_>>().join(", ");
        format!(
            "{} over {} / {} / {} by {}{} as {}",
            self.offset,
            axes(&self.batch),
            axes(&self.k),
            axes(std::slice::from_ref(&self.cols)),
            self.width,
            if self.together > 1 { format!(" in {}s", self.together) } else { String::new() },
            self.dtype
        )
    }
}

fn extents(axes: &[Axis]) -> Vec<usize> {
    axes.iter().map(|a| a.extent.as_const().and_then(|n| usize::try_from(n).ok()).unwrap_or(0)).collect()
}

/// What the points of some loops, row-major, add to the offset.
pub(crate) struct Walk {
    /// One for each point.
    pub(crate) offsets: Vec<i64>,
}

impl Walk {
    /// The offset has no term in which loops of two groups meet, so each group adds its own share.
    fn new(packing: &Packing, axes: &[Axis]) -> Walk {
        let names: Vec<&Arc<str>> = axes.iter().map(|a| &a.name).collect();
        let share = packing.offset.substitute(&|s| (!names.iter().any(|n| &***n == s)).then_some(Dim::ZERO));
        let zero: Bindings = names.iter().map(|n| ((*n).clone(), 0)).collect();
        let base = share.eval(&zero).unwrap_or(0);
        let extents = extents(axes);
        let strides: Option<Vec<i64>> = axes.iter().map(|a| share.linear_in(&a.name)?.0.as_const()).collect();
        let point = |mut position: usize| {
            let mut index = vec![0; extents.len()];
            for (i, n) in index.iter_mut().zip(&extents).rev() {
                (*i, position) = ((position % n) as i64, position / n);
            }
            index
        };
        let at = |position: usize| match &strides {
            Some(strides) => point(position).iter().zip(strides).map(|(i, s)| i * s).sum(),
            None => {
                let bindings: Bindings = names.iter().map(|n| (*n).clone()).zip(point(position)).collect();
                share.eval(&bindings).unwrap_or(0) - base
            }
        };
        Walk { offsets: (0..extents.iter().product()).map(at).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(name: &str, extent: i64) -> Axis {
        Axis { name: name.into(), extent: extent.into() }
    }

    fn floats(packing: &Packing) -> Vec<f32> {
        packing.bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    #[test]
    fn panels_hold_columns_step_by_step() {
        let w: Vec<f32> = (0..6).map(|i| i as f32).collect();
        let packing = Packing {
            tensor: Arc::new(Tensor::from_f32s(vec![2, 3], &w)),
            offset: Dim::symbol("k") * 3 + Dim::symbol("n"),
            batch: vec![],
            k: vec![axis("k", 2)],
            cols: axis("n", 3),
            width: 2,
            dtype: DType::F32,
            together: 1,
        };
        assert_eq!(floats(&packing), [0.0, 1.0, 3.0, 4.0, 2.0, 0.0, 5.0, 0.0]);
    }

    #[test]
    fn steps_stand_in_pairs() {
        // Two runs of three steps: a pair and half a pair each.
        let w: Vec<f32> = (0..18).map(|i| i as f32).collect();
        let packing = Packing {
            tensor: Arc::new(Tensor::from_f32s(vec![2, 3, 3], &w)),
            offset: Dim::symbol("j") * 9 + Dim::symbol("k") * 3 + Dim::symbol("n"),
            batch: vec![],
            k: vec![axis("j", 2), axis("k", 3)],
            cols: axis("n", 3),
            width: 2,
            dtype: DType::F32,
            together: 2,
        };
        let first = [0.0, 3.0, 1.0, 4.0, 6.0, 0.0, 7.0, 0.0, 9.0, 12.0, 10.0, 13.0, 15.0, 0.0, 16.0, 0.0];
        let last = [2.0, 5.0, 0.0, 0.0, 8.0, 0.0, 0.0, 0.0, 11.0, 14.0, 0.0, 0.0, 17.0, 0.0, 0.0, 0.0];
        assert_eq!(floats(&packing), [first, last].concat());
        assert_eq!(packing.size().1, 32);
    }

    #[test]
    fn integers_are_narrowed_into_fours() {
        let w: Vec<i128> = (0..10).map(|i| if i % 2 == 0 { i } else { -i }).collect();
        let packing = Packing {
            tensor: Arc::new(Tensor::from_elements(DType::I32, vec![5, 2], w.into_iter().map(egret_ir::Element::Int))),
            offset: Dim::symbol("k") * 2 + Dim::symbol("n"),
            batch: vec![],
            k: vec![axis("k", 5)],
            cols: axis("n", 2),
            width: 2,
            dtype: DType::I8,
            together: 4,
        };
        let bytes: Vec<i8> = packing.bytes().into_iter().map(|b| b as i8).collect();
        assert_eq!(bytes, [0, 2, 4, 6, -1, -3, -5, -7, 8, 0, 0, 0, -9, 0, 0, 0]);
        assert_eq!((packing.size(), packing.bytes_length()), ((DType::I8, 16), 16));
    }

    #[test]
    fn batches_and_merged_loops_are_taken_apart() {
        // [h=2, k=4, d=2] read with the merged loop c over [h, d] is [h, k, d] at [c/2, k, c%2].
        let c = Dim::symbol("c");
        let packing = Packing {
            tensor: Arc::new(Tensor::from_f32s(vec![2, 4, 2], &(0..16).map(|i| i as f32).collect::<Vec<_>>())),
            offset: c.floor_div(&2.into()) * 8 + Dim::symbol("k") * 2 + c.modulo(&2.into()),
            batch: vec![],
            k: vec![axis("k", 4)],
            cols: axis("c", 4),
            width: 4,
            dtype: DType::F32,
            together: 1,
        };
        assert_eq!(floats(&packing)[..8], [0.0, 1.0, 8.0, 9.0, 2.0, 3.0, 10.0, 11.0]);
    }
}
