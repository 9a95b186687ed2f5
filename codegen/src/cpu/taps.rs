//! Windows of bytes, four taps at a time: depthwise convolutions of quantised images.
//!
//! The taps of a column of the window become the bytes of one word per lane, which a dot product multiplies by the word of their weights.
//! Neighbouring windows that share a column of the image share its word. **Invariant.** The sum is an i32, exact in any order.
//!
//! ```text
//! v0 = sum(i32(x[...])*i32(w[...])) over 3x3        x: u8, w: i8
//! =>
//! for each column: v0 = v0 + dot4(x top | x middle << 8 | x bottom << 16, w top | w middle << 8 | w bottom << 16)
//! ```

use super::emit::Value;
use super::point::Point;
use super::scope::Gen;
use crate::kernel::{Axis, Expr, ExprKind, Fold, Pass};
use egret_ir::DType;
use egret_ir::scalar::BinOp;
use inkwell::values::InstructionOpcode;

/// Bytes of a word.
const TOGETHER: usize = 4;

/// The factors of each tap: u8 and i8.
pub(crate) struct Quads<'e> {
    image: &'e Expr,
    weight: &'e Expr,
}

impl<'e> Quads<'e> {
    /// What a pass sums up, if that is all it does.
    pub(crate) fn of(pass: &'e Pass) -> Option<Quads<'e>> {
        let ([sum], [], []) = (&pass.reduces[..], &pass.block.lets[..], &pass.block.stores[..]) else { return None };
        let (ExprKind::Bin(BinOp::Mul, x, w), Fold::Sum) = (&*sum.value.kind, sum.fold) else { return None };
        let below = |expr: &'e Expr, dtype: DType| match &*expr.kind {
            ExprKind::Cast(x) if expr.dtype == DType::I32 && x.dtype == dtype => Some(x),
            _ => None,
        };
        Some(Quads { image: below(x, DType::U8)?, weight: below(w, DType::I8)? })
    }
}

impl<'c> Gen<'_, 'c> {
    /// Adds the products of taps to the sums of points.
    pub(crate) fn quads(
        &mut self,
        of: &Quads,
        points: &[Point<'c>],
        axes: &[Axis],
        taps: &[Vec<i64>],
        mut sums: Vec<Value<'c>>,
    ) -> Vec<Value<'c>> {
        for quad in by_column(taps.to_vec()) {
            for (point, sum) in points.iter().zip(&mut sums) {
                let at = |tap: &Vec<i64>| tap.iter().zip(axes).fold(point.renewed(), |p, (&at, axis)| p.fixed(&axis.name, at));
                let mut places: Vec<Point> = quad.iter().map(at).collect();
                let [image, weight] = [of.image, of.weight].map(|byte| self.word(&mut places, byte));
                *sum = self.e.dot_of_bytes(image, weight, *sum);
            }
        }
        sums
    }

    /// The bytes of an expression at up to four points as a word per lane.
    fn word(&mut self, places: &mut [Point<'c>], byte: &Expr) -> Value<'c> {
        let parts: Vec<Value> = places.iter_mut().map(|place| self.eval(place, byte)).collect();
        let e = &self.e;
        let wide = |part: Value<'c>| e.convert(InstructionOpcode::ZExt, e.splat(part), e.int_type(32));
        let parts = parts.into_iter().enumerate().map(|(i, part)| e.shl(wide(part), 8 * i as i64));
        parts.reduce(|word, part| e.or(word, part)).expect("a word has a byte at least")
    }
}

/// Taps that are multiplied together: of one column of the window, in order.
fn by_column(mut taps: Vec<Vec<i64>>) -> Vec<Vec<Vec<i64>>> {
    let column = |tap: &Vec<i64>| tap.iter().skip(1).copied().collect::<Vec<_>>();
    taps.sort_by_key(column);
    taps.chunk_by(|a, b| column(a) == column(b)).flat_map(|column| column.chunks(TOGETHER).map(<[_]>::to_vec)).collect()
}

#[cfg(test)]
mod tests {
    use super::by_column;

    #[test]
    fn words_have_the_taps_of_a_column() {
        let taps = |rows: i64, cols: i64| (0..rows).flat_map(|r| (0..cols).map(move |c| vec![r, c])).collect::<Vec<_>>();
        assert_eq!(by_column(taps(2, 2)), [[[0, 0], [1, 0]], [[0, 1], [1, 1]]]);
        let lengths = |taps| by_column(taps).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(taps(5, 2)), [4, 1, 4, 1]);
        // One axis, whose others are loops.
        assert_eq!(lengths((0..7).map(|i| vec![i]).collect()), [4, 3]);
        assert_eq!(lengths(vec![vec![]]), [1]);
    }
}
