//! Strings as elements: a handle of 64 bits stands for each.
//!
//! ```text
//! handle("")     0
//! handle(text)   the first 8 bytes, little-endian, of BLAKE3 of its UTF-8 bytes
//! ```
//!
//! Invariant: equal strings have equal handles, in every process and for ever (artifacts hold handles), so that moving and comparing
//! strings is moving and comparing numbers; zeros are empty strings. That two strings share a handle is an error when the second comes.
//! The table from handles to strings belongs to the process. It only grows, and what it says depends on no order.
//!
//! ```
//! use egret_ir::strings;
//! let handle = strings::intern("red").unwrap();
//! assert_eq!(handle, strings::handle("red"));
//! assert_eq!(&*strings::text(handle).unwrap(), "red");
//! assert_eq!(strings::handle(""), 0);
//! ```

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

/// The strings that were met so far.
static TABLE: LazyLock<RwLock<HashMap<u64, Arc<str>>>> = LazyLock::new(|| RwLock::new(HashMap::from([(0, "".into())])));

/// What stands for a string.
pub fn handle(text: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(text.as_bytes()).as_bytes();
    if text.is_empty() { 0 } else { u64::from_le_bytes([a, b, c, d, e, f, g, h]) }
}

/// The handle of a string, from which [`text`] gives it back.
///
/// # Errors
/// When another string has that handle, which is not to be expected before billions of them were met.
pub fn intern(text: &str) -> Result<u64, String> {
    let handle = handle(text);
    let known = TABLE.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned();
    let known = known.unwrap_or_else(|| {
        let mut table = TABLE.write().unwrap_or_else(PoisonError::into_inner);
        table.entry(handle).or_insert_with(|| text.into()).clone()
    });
    if *known == *text { Ok(handle) } else { Err(format!("the strings {known:?} and {text:?} have the same handle")) }
}

/// The string of a handle, if it was met.
pub fn text(handle: u64) -> Option<Arc<str>> {
    TABLE.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_never_change() {
        // BLAKE3 of `abc` begins with 64 37 b3 ac 38 46 51 33.
        assert_eq!(handle("abc"), 0x3351_4638_acb3_3764);
        assert_eq!(handle(""), 0);
    }

    #[test]
    fn what_was_not_met_has_no_text() {
        assert_eq!(text(handle("a string that nobody interns")), None);
        assert_eq!(text(0).as_deref(), Some(""));
    }
}
