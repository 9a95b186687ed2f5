//! What values a free dimension may have, and what follows for sizes that depend on it.
//!
//! **Invariant.** [`Size::within`] is sound: for symbols within their ranges, a size has a value within the range that it gives, or
//! none at all. So memory for the upper ends is enough for all.
//!
//! ```
//! use egret_runtime::plan::{Size, SizeOp};
//! use egret_runtime::range::Range;
//!
//! // (N + 1) / 2 for N from 1 to 32.
//! let half = Size::Expr(vec![SizeOp::Symbol(0), SizeOp::Const(1), SizeOp::Add, SizeOp::Const(2), SizeOp::FloorDiv]);
//! assert_eq!(half.within(&[Range::new(1, 32)]), Ok(Range::new(1, 16)));
//! ```

use crate::plan::{Size, SizeError, SizeOp, apply};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Whole numbers from `low` to `high`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Range {
    /// The least.
    pub low: i64,
    /// The greatest.
    pub high: i64,
}

impl Range {
    /// Every extent that there could be.
    pub const ANY: Range = Range { low: 0, high: i64::MAX };

    /// From `low` to `high`.
    pub const fn new(low: i64, high: i64) -> Range {
        Range { low, high }
    }

    /// Whether it has an upper end.
    pub fn is_bounded(self) -> bool {
        self.high < i64::MAX
    }

    /// Whether it holds a value.
    pub fn contains(self, value: i64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// The least range that holds all of these values.
    fn around(values: &[i64]) -> Option<Range> {
        Some(Range { low: *values.iter().min()?, high: *values.iter().max()? })
    }
}

impl fmt::Display for Range {
    /// `1..32`, as `--dim` takes it; `1..` without an upper end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..", self.low)?;
        if self.is_bounded() { write!(f, "{}", self.high) } else { Ok(()) }
    }
}

impl Size {
    /// A range in which the size lies for all symbols within theirs, by interval arithmetic (Moore, Interval Analysis, 1966). It may
    /// be wider than need be where a symbol occurs more than once.
    ///
    /// # Errors
    ///
    /// Where a symbol has no range, or an end of the range has no value: it overflows, or a divisor may be 0.
    pub fn within(&self, symbols: &[Range]) -> Result<Range, SizeError> {
        let ops = match self {
            Size::Const(n) => return Ok(Range::new(*n, *n)),
            Size::Expr(ops) => ops,
        };
        let mut stack: Vec<Range> = vec![];
        for op in ops {
            let range = match *op {
                SizeOp::Const(n) => Range::new(n, n),
                SizeOp::Symbol(index) => *symbols.get(index as usize).ok_or(SizeError::UnknownSymbol(index))?,
                _ => {
                    let rhs = stack.pop().ok_or(SizeError::Malformed)?;
                    let lhs = stack.pop().ok_or(SizeError::Malformed)?;
                    combined(*op, lhs, rhs)?
                }
            };
            stack.push(range);
        }
        match stack[..] {
            [range] => Ok(range),
            _ => Err(SizeError::Malformed),
        }
    }
}

/// The range of `op` over two ranges. All operations but remainders are monotone in each operand, so their extremes lie at corners.
fn combined(op: SizeOp, lhs: Range, rhs: Range) -> Result<Range, SizeError> {
    if matches!(op, SizeOp::FloorDiv | SizeOp::Mod) && rhs.contains(0) {
        return Err(SizeError::DivideByZero);
    }
    if op == SizeOp::Mod && (lhs.low, rhs.low) != (lhs.high, rhs.high) {
        return Ok(Range::new((rhs.low + 1).min(0), (rhs.high - 1).max(0)));
    }
    let corners = [(lhs.low, rhs.low), (lhs.low, rhs.high), (lhs.high, rhs.low), (lhs.high, rhs.high)];
    let values = corners.into_iter().map(|(l, r)| apply(op, l, r)).collect::<Result<Vec<i64>, SizeError>>()?;
    Range::around(&values).ok_or(SizeError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    /// A random postfix program over two symbols that leaves one number.
    fn random_size(random: &mut Random, depth: u64) -> Vec<SizeOp> {
        use SizeOp::{Add, Const, FloorDiv, Max, Min, Mod, Mul, Sub, Symbol};
        match (depth, random.below(4)) {
            (0, 0) | (1.., 0) => vec![Const(random.below(19) as i64 - 9)],
            (0, _) => vec![Symbol(random.below(2) as u32)],
            (_, _) => {
                let op = [Add, Sub, Mul, FloorDiv, Mod, Max, Min][random.below(7) as usize];
                [random_size(random, depth - 1), random_size(random, depth - 1), vec![op]].concat()
            }
        }
    }

    #[test]
    fn values_lie_within() {
        let (mut random, mut checked) = (Random::new(5), 0);
        for _ in 0..2000 {
            let (size, low, other) = (Size::Expr(random_size(&mut random, 3)), random.below(6) as i64, random.below(9) as i64);
            let one = Range::new(low, low + random.below(6) as i64);
            let Ok(range) = size.within(&[one, Range::new(other, other)]) else { continue };
            for value in (one.low..=one.high).filter_map(|value| size.eval(&[value, other]).ok()) {
                assert!(range.contains(value), "{value} is not in {range} for {size:?}");
                checked += 1;
            }
        }
        assert!(checked > 3000, "only {checked} values were checked");
    }

    #[test]
    fn ends_are_reached_where_symbols_occur_once() {
        let three_less = Size::Expr(vec![SizeOp::Const(3), SizeOp::Symbol(0), SizeOp::Sub]);
        assert_eq!(three_less.within(&[Range::new(1, 5)]), Ok(Range::new(-2, 2)));
        let rest = Size::Expr(vec![SizeOp::Symbol(0), SizeOp::Const(4), SizeOp::Mod]);
        assert_eq!(rest.within(&[Range::new(0, 9)]), Ok(Range::new(0, 3)));
        assert_eq!(rest.within(&[Range::new(6, 6)]), Ok(Range::new(2, 2)));
    }

    #[test]
    fn what_has_no_bound_is_an_error() {
        let twice = Size::Expr(vec![SizeOp::Symbol(0), SizeOp::Const(2), SizeOp::Mul]);
        assert_eq!(twice.within(&[Range::ANY]), Err(SizeError::Overflow));
        let part = Size::Expr(vec![SizeOp::Const(8), SizeOp::Symbol(0), SizeOp::FloorDiv]);
        assert_eq!(part.within(&[Range::new(0, 4)]), Err(SizeError::DivideByZero));
    }

    #[test]
    fn ranges_print_as_they_are_typed() {
        assert_eq!([Range::new(1, 32).to_string(), Range::ANY.to_string()], ["1..32", "0.."]);
    }
}
