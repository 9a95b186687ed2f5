//! A fixed sequence of numbers (a linear congruential generator; Knuth's constants).

/// The state of the sequence.
pub struct Random(u64);

impl Random {
    /// The sequence of a seed; near seeds give sequences that have nothing in common.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// A number below `limit`, which is at least 1.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }

    /// One of several.
    pub fn one<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() { None } else { Some(&items[self.below(items.len())]) }
    }

    /// One of several, to be changed.
    pub fn one_mut<'a, T>(&mut self, items: &'a mut [T]) -> Option<&'a mut T> {
        if items.is_empty() { None } else { Some(&mut items[self.below(items.len())]) }
    }
}
