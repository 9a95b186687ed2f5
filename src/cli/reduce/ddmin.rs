//! Delta debugging: a part of a list, none of whose items can be left out.
//!
//! The algorithm is ddmin (Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing Input, 2002): pieces alone, then
//! everything but a piece, then smaller pieces.
//!
//! **Invariant.** The list fails that is returned, if the whole one does; nothing else is ever kept.

use std::collections::HashMap;
use std::hash::Hash;

/// A part of `all` that fails, and does not when any one item is taken from it. `fails` is asked once for each part.
///
/// # Errors
/// Those of `fails`.
pub fn ddmin<T: Clone + Eq + Hash, E>(all: Vec<T>, fails: impl Fn(&[T]) -> Result<bool, E>) -> Result<Vec<T>, E> {
    let mut known: HashMap<Vec<T>, bool> = HashMap::new();
    let mut fails = |part: Vec<T>| {
        let found = known.get(&part).copied().map_or_else(|| fails(&part), Ok)?;
        known.insert(part, found);
        Ok(found)
    };
    if fails(vec![])? {
        return Ok(vec![]);
    }
    let (mut kept, mut pieces) = (all, 2);
    while kept.len() > 1 {
        let size = kept.len().div_ceil(pieces);
        if let Some(piece) = first(kept.chunks(size).map(<[T]>::to_vec), &mut fails)? {
            (kept, pieces) = (piece, 2);
            continue;
        }
        let rest = |piece: usize| [&kept[..piece * size], kept.get((piece + 1) * size..).unwrap_or(&[])].concat();
        if let Some(rest) = first((0..kept.len().div_ceil(size)).map(rest), &mut fails)? {
            (kept, pieces) = (rest, (pieces - 1).max(2));
        } else if size == 1 {
            break;
        } else {
            pieces = (2 * pieces).min(kept.len());
        }
    }
    Ok(kept)
}

/// The first of some parts that fails.
fn first<T, E>(parts: impl Iterator<Item = Vec<T>>, fails: &mut impl FnMut(Vec<T>) -> Result<bool, E>) -> Result<Option<Vec<T>>, E>
where
    T: Clone,
{
    for part in parts {
        if fails(part.clone())? {
            return Ok(Some(part));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Fails where all of `needed` are there.
    fn check(all: u32, needed: &[u32]) -> usize {
        let runs = Cell::new(0);
        let fails = |part: &[u32]| {
            runs.set(runs.get() + 1);
            Ok::<bool, ()>(needed.iter().all(|item| part.contains(item)))
        };
        assert_eq!(ddmin((0..all).collect(), fails), Ok(needed.to_vec()));
        runs.get()
    }

    #[test]
    fn only_what_is_needed_stays() {
        check(100, &[]);
        check(1, &[0]);
        check(100, &[57]);
        check(100, &[0, 99]);
        check(37, &[3, 4, 5, 20, 36]);
        assert!(check(1024, &[700]) <= 30, "halving");
    }

    #[test]
    fn an_error_ends_it() {
        assert_eq!(ddmin(vec![1, 2], |part: &[i32]| if part.is_empty() { Ok(false) } else { Err("no") }), Err("no"));
    }
}
