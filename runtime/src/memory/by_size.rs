//! Places the largest buffers first, each at the lowest place that is free during its whole lifetime.
//!
//! A walk over the steps sees only what was placed before: a small buffer that lives long may come to stand in the middle of
//! bytes that a large one needs later. Placed by size, the small ones go into what the large ones leave. **Invariant.** Buffers
//! that are passed on in place are one, from the first step of the first to the last step of the last.
//!
//! ```text
//! a: 100 bytes in steps 0-1     b: 100 in 2-3     s: 10 in 1-2          by steps:  |a|s|b|   by size:  |a b|s|
//! ```

use super::{Lifetime, SKEW_FROM, Span, skewed};
use crate::plan::{ALIGN, Plan, Step};
use std::cmp::Reverse;

/// Buffers that share their bytes in place.
struct Group {
    bytes: u64,
    lifetime: Lifetime,
    start: Option<u64>,
    /// Groups that are read where this one is written, or written where it is read.
    partners: Vec<usize>,
}

impl Group {
    fn lives_with(&self, other: &Group) -> bool {
        self.lifetime.first <= other.lifetime.last && other.lifetime.first <= self.lifetime.last
    }

    fn span(&self) -> Option<Span> {
        self.start.map(|start| Span { start, bytes: self.bytes })
    }
}

/// The bytes of each buffer that has a lifetime.
pub(super) fn place(plan: &Plan, bytes: &[u64], lifetimes: &[Option<Lifetime>]) -> Vec<Option<Span>> {
    let (mut groups, group_of) = groups(plan, bytes, lifetimes);
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_key(|&group| (Reverse(groups[group].bytes), groups[group].lifetime.first, group));
    for group in order {
        groups[group].start = Some(lowest(&groups, &groups[group]));
    }
    group_of.iter().map(|group| groups[(*group)?].span()).collect()
}

/// The groups, and that of each buffer.
fn groups(plan: &Plan, bytes: &[u64], lifetimes: &[Option<Lifetime>]) -> (Vec<Group>, Vec<Option<usize>>) {
    let mut group_of: Vec<Option<usize>> = vec![None; bytes.len()];
    let mut groups: Vec<Group> = Vec::new();
    for (now, step) in plan.steps.iter().enumerate() {
        let mut passed_on = step.in_place.filter(|&(read, _)| lifetimes[read as usize].is_some_and(|l| l.first < now && l.last == now));
        for &id in step.reads.iter().chain(&step.writes) {
            let (Some(lifetime), None) = (lifetimes[id as usize], group_of[id as usize]) else { continue };
            let heir = passed_on.take_if(|(_, written)| *written == id).and_then(|(read, _)| group_of[read as usize]);
            // Only a value that no other took over may be passed on, and only to one that it has room for.
            let heir = heir.filter(|&group| groups[group].lifetime.last == now && bytes[id as usize] <= groups[group].bytes);
            group_of[id as usize] = Some(heir.unwrap_or(groups.len()));
            match heir {
                Some(group) => groups[group].lifetime.last = lifetime.last,
                None => {
                    let bytes = bytes[id as usize].next_multiple_of(ALIGN as u64);
                    groups.push(Group { bytes, lifetime, start: None, partners: vec![] });
                }
            }
        }
        find_partners(&mut groups, &group_of, step);
    }
    (groups, group_of)
}

/// What a step reads and what it writes should not lie at the same place of a page.
fn find_partners(groups: &mut [Group], group_of: &[Option<usize>], step: &Step) {
    for (&read, &written) in step.reads.iter().flat_map(|read| step.writes.iter().map(move |written| (read, written))) {
        if let (Some(read), Some(written)) = (group_of[read as usize], group_of[written as usize])
            && read != written
        {
            groups[read].partners.push(written);
            groups[written].partners.push(read);
        }
    }
}

/// The lowest place for a group that no other occupies during its lifetime.
fn lowest(groups: &[Group], group: &Group) -> u64 {
    let is_large = |group: &Group| group.bytes >= SKEW_FROM;
    let partners = group.partners.iter().map(|&partner| &groups[partner]).filter(|partner| is_large(group) && is_large(partner));
    let avoid: Vec<u64> = partners.filter_map(|partner| partner.start).map(|start| start % super::PAGE).collect();
    let mut taken: Vec<Span> = groups.iter().filter(|other| other.lives_with(group)).filter_map(Group::span).collect();
    taken.sort_by_key(|span| span.start);
    let mut free = 0;
    for span in taken {
        let start = skewed(free, &avoid);
        if start + group.bytes <= span.start {
            return start;
        }
        free = free.max(span.end());
    }
    skewed(free, &avoid)
}
