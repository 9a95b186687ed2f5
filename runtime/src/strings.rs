//! Strings as elements: a handle of 64 bits stands for each, and a dictionary says for which.
//!
//! ```text
//! handle("")     0
//! handle(text)   the first 8 bytes, little-endian, of BLAKE3 of its UTF-8 bytes
//! ```
//!
//! **Invariant.** Equal strings have equal handles, in the compiler too, so kernels move and compare numbers; zeros are empty strings. Two
//! different strings of one handle never meet in a dictionary: that is an error where the second is entered.
//!
//! ```
//! use egret_runtime::Tensor;
//!
//! let x = Tensor::from_strings(&[2], &["red", "green"])?;
//! assert_eq!(x.strings()?, ["red", "green"]);
//! assert_eq!(x.to_string(), r#"str[2]  ["red", "green"]"#);
//! # Ok::<(), egret_runtime::Error>(())
//! ```

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What stands for a string.
pub fn handle(text: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(text.as_bytes()).as_bytes();
    if text.is_empty() { 0 } else { u64::from_le_bytes([a, b, c, d, e, f, g, h]) }
}

type Table = BTreeMap<u64, Arc<str>>;

/// The strings that handles stand for: some that stay, and some that were met since.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dictionary {
    /// Those of a plan; none where that names none.
    lasting: Option<Arc<Table>>,
    met: Table,
}

impl Dictionary {
    /// The strings of a plan, which stay.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if two of them have the same handle.
    pub(crate) fn of(strings: &[String]) -> Result<Dictionary> {
        let mut all = Dictionary::default();
        strings.iter().try_for_each(|text| all.enter(text).map(|_| ()))?;
        Ok(Dictionary { lasting: (!all.met.is_empty()).then(|| Arc::new(all.met)), met: Table::new() })
    }

    /// Forgets what was met.
    pub(crate) fn clear(&mut self) {
        self.met.clear();
    }

    /// Adds a string; its handle.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if another one has that handle.
    pub(crate) fn enter(&mut self, text: &str) -> Result<u64> {
        let handle = handle(text);
        self.add(handle, text, || text.into())?;
        Ok(handle)
    }

    /// Adds what a handle stands for elsewhere.
    fn share(&mut self, handle: u64, text: &Arc<str>) -> Result<()> {
        self.add(handle, text, || text.clone())
    }

    fn add(&mut self, handle: u64, text: &str, shared: impl FnOnce() -> Arc<str>) -> Result<()> {
        match self.find(handle).map(|known| &**known).or((handle == 0).then_some("")) {
            None => {
                self.met.insert(handle, shared());
                Ok(())
            }
            Some(known) if known == text => Ok(()),
            Some(known) => {
                Err(Error::Usage(format!("the strings {known:?} and {text:?} have the same handle, so they cannot be told apart")))
            }
        }
    }

    fn find(&self, handle: u64) -> Option<&Arc<str>> {
        self.met.get(&handle).or_else(|| self.lasting.as_ref()?.get(&handle))
    }

    /// What a handle stands for.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if that is not known.
    pub(crate) fn text(&self, handle: u64) -> Result<&str> {
        match self.find(handle) {
            Some(text) => Ok(text),
            None if handle == 0 => Ok(""),
            None => Err(Error::Usage(format!("an element is the handle {handle:#x}, which stands for no string"))),
        }
    }

    /// Adds what other strings than the empty one some handles stand for in `other`.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if that is not known there, or another string has the handle here.
    pub(crate) fn take(&mut self, handles: impl Iterator<Item = u64>, other: &Dictionary) -> Result<()> {
        handles.filter(|&handle| handle != 0).try_for_each(|handle| match other.find(handle) {
            Some(text) => self.share(handle, text),
            None => other.text(handle).map(|_| ()),
        })
    }
}

/// The handles that bytes are.
pub(crate) fn handles(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks().0.iter().map(|&b| u64::from_le_bytes(b))
}

/// A string in quotes, on one line.
pub(crate) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_strings_of_one_handle_never_meet() {
        let mut strings = Dictionary::of(&["red".to_string()]).unwrap();
        let handle = handle("red");
        let error = strings.add(handle, "blue", || "blue".into()).unwrap_err().to_string();
        assert_eq!(error, "the strings \"red\" and \"blue\" have the same handle, so they cannot be told apart");
        assert!(strings.add(0, "blue", || "blue".into()).is_err());
        assert_eq!(strings.enter("red").unwrap(), handle);
        assert!(strings.met.is_empty());
    }

    #[test]
    fn what_was_met_is_forgotten_and_the_rest_stays() {
        let mut strings = Dictionary::of(&["red".to_string()]).unwrap();
        let green = strings.enter("green").unwrap();
        assert_eq!([strings.text(green).unwrap(), strings.text(0).unwrap()], ["green", ""]);
        strings.clear();
        assert!(strings.text(green).unwrap_err().to_string().ends_with("which stands for no string"));
        assert_eq!(strings.text(handle("red")).unwrap(), "red");
    }
}
