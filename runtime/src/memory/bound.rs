//! The most memory that a run takes, where the free dimensions have upper ends.
//!
//! A larger batch may fit a smaller arena, since buffers are placed anew for each binding and may then lie better. **Invariant.** No
//! binding within the ranges of a plan gets an arena larger than this: where its own placement would be, each of its buffers lies
//! where there is room for the largest that it can be.
//!
//! ```
//! # use egret_runtime::plan::*;
//! # use egret_runtime::{memory::MemoryMap, range::Range};
//! // f32[N] for N from 1 to 32.
//! let bytes = Size::Expr(vec![SizeOp::Const(4), SizeOp::Symbol(0), SizeOp::Mul]);
//! let plan = Plan {
//!     symbols: vec!["N".into()],
//!     ranges: vec![Range::new(1, 32)],
//!     buffers: vec![Buffer { name: "a".into(), bytes, place: Place::Arena }],
//!     steps: vec![Step { name: "a".into(), kernel: 0, reads: vec![], writes: vec![0], sizes: vec![], parts: 1.into(),
//!         in_place: None, flops: 0.into(), origins: vec![] }],
//!     ..Plan::default()
//! };
//! assert_eq!(MemoryMap::bound(&plan, 1, 64).unwrap().arena_bytes, 4 * 32 + 64);
//! ```

use super::{MemoryMap, lengths, parts, placed};
use crate::plan::{Plan, Size};

impl MemoryMap {
    /// The arena in which every binding within the ranges of a checked plan finds room, on a number of threads; every offset is a
    /// multiple of `align`. `None` where there is no such bound: a dimension has no upper end, or data decides over it.
    pub fn bound(plan: &Plan, threads: usize, align: u64) -> Option<MemoryMap> {
        if plan.ranges.is_empty() || plan.program.is_some() {
            return None;
        }
        let most = |size: &Size| size.within(&plan.ranges).map(|range| range.high);
        let bytes = lengths(plan, &parts(plan, threads, &most).ok()?, &most).ok()?;
        placed(plan, bytes, align).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{buffer_bytes, lifetimes};
    use crate::plan::{Buffer, Place, SLACK, SizeOp};
    use crate::range::Range;
    use crate::testing::{Random, step};

    /// `factor*N + more` bytes.
    fn buffer(random: &mut Random) -> Buffer {
        let (factor, more) = (random.below(300) as i64, random.below(9000) as i64);
        let bytes = vec![SizeOp::Const(factor), SizeOp::Symbol(0), SizeOp::Mul, SizeOp::Const(more), SizeOp::Add];
        Buffer { name: "b".into(), bytes: Size::Expr(bytes), place: Place::Arena }
    }

    fn plan(random: &mut Random) -> Plan {
        let buffers: Vec<Buffer> = (0..20).map(|_| buffer(random)).collect();
        let reads = |random: &mut Random, id: u32| if id == 0 { vec![] } else { vec![random.below(u64::from(id)) as u32] };
        let steps = (0..20).map(|id| step(&reads(random, id), &[id])).collect();
        Plan { symbols: vec!["N".into()], ranges: vec![Range::new(1, 32)], buffers, steps, ..Plan::default() }
    }

    #[test]
    fn no_binding_needs_more_and_buffers_stay_apart() {
        let (mut random, mut limited) = (Random::new(11), 0);
        for _ in 0..200 {
            let plan = plan(&mut random);
            let bound = MemoryMap::bound(&plan, 1, 64).unwrap();
            for n in 1..=32 {
                let (map, bytes) = (MemoryMap::of(&plan, &[n], 1).unwrap(), buffer_bytes(&plan, &[n], 1).unwrap());
                assert!(map.arena_bytes <= bound.arena_bytes);
                limited += usize::from(n < 32 && map.offsets == bound.offsets && map.arena_bytes == bound.arena_bytes);
                check_disjoint(&plan, &map, &bytes);
            }
        }
        assert!(limited > 0, "no placement was limited by the bound");
    }

    fn check_disjoint(plan: &Plan, map: &MemoryMap, bytes: &[u64]) {
        let spans: Vec<_> =
            lifetimes(plan).into_iter().zip(&map.offsets).zip(bytes).map(|((l, o), b)| (l.unwrap(), o.unwrap(), *b)).collect();
        for (i, (life, start, bytes)) in spans.iter().enumerate() {
            assert!(start + bytes + SLACK as u64 <= map.arena_bytes);
            for (other_life, other, other_bytes) in &spans[i + 1..] {
                let together = life.first <= other_life.last && other_life.first <= life.last;
                assert!(!together || start + bytes <= *other || other + other_bytes <= *start);
            }
        }
    }

    #[test]
    fn without_an_upper_end_there_is_none() {
        let mut plan = plan(&mut Random::new(2));
        plan.ranges = vec![Range::ANY];
        assert!(MemoryMap::bound(&plan, 1, 64).is_none());
        plan.ranges = vec![];
        assert!(MemoryMap::bound(&plan, 1, 64).is_none());
    }
}
