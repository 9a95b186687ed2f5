//! Files as bytes that are read when they are used, and given back when they are not used any more.
//!
//! A weight that was brought into another order at compile time is not read again, so the memory that its pages take must not
//! stay in use beside the copy. **Invariant.** Pages are given back when a pass [says so](Home), at the latest when the last
//! user of a part of a file is gone; the mapping itself stays, and what is read again is read from the file again.

use bytes::Bytes;
use egret_ir::Home;
use memmap2::{Mmap, UncheckedAdvice};
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

/// The bytes of a file, mapped or in memory.
#[derive(Clone)]
pub(crate) enum Contents {
    /// A file on disk.
    Mapped(Arc<Mapping>),
    /// What was given as bytes.
    Memory(Bytes),
}

impl Contents {
    /// Maps a file.
    pub(crate) fn map(path: &Path) -> Result<Contents, String> {
        let cannot = |e: std::io::Error| format!("cannot be read: {e}");
        let file = File::open(path).map_err(cannot)?;
        if !file.metadata().map_err(cannot)?.is_file() {
            return Err("is not a file".to_string());
        }
        // SAFETY: the mapping is private and read-only, and all access goes through `&[u8]` of the whole file. As with every
        // mapped file, whoever shortens or rewrites it while the compiler runs changes what is read; nothing here relies on two
        // reads giving the same bytes: the outline is a copy, and weights are plain numbers.
        let mapped = unsafe { Mmap::map(&file) }.map_err(cannot)?;
        Ok(Contents::Mapped(Arc::new(Mapping(mapped))))
    }

    /// A part of the file, which lies inside of it.
    pub(crate) fn part(&self, range: Range<usize>) -> Stored {
        match self {
            Contents::Mapped(file) => Stored { bytes: Bytes::from_owner(Part { file: file.clone(), range }), home: Some(file.clone()) },
            Contents::Memory(bytes) => bytes.slice(range).into(),
        }
    }
}

/// Bytes, and where they can be read again.
pub(crate) struct Stored {
    pub(crate) bytes: Bytes,
    pub(crate) home: Option<Arc<dyn Home>>,
}

impl From<Bytes> for Stored {
    fn from(bytes: Bytes) -> Stored {
        Stored { bytes, home: None }
    }
}

impl Deref for Contents {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Contents::Mapped(file) => &file.0,
            Contents::Memory(bytes) => bytes,
        }
    }
}

/// A mapped file, private and read-only.
pub(crate) struct Mapping(Mmap);

impl Home for Mapping {
    fn give_back(&self, bytes: &[u8]) {
        let start = (bytes.as_ptr() as usize).wrapping_sub(self.0.as_ptr() as usize);
        if start.checked_add(bytes.len()).is_none_or(|end| end > self.0.len()) {
            return;
        }
        // SAFETY: the range lies in the mapping, which is of a file and to which nothing is ever written, so that a page that was
        // given back is read from the file again if someone needs it.
        let given_back = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, start, bytes.len()) };
        // What cannot be given back stays in use, which harms nothing.
        let _ = given_back;
    }
}

/// A part of a mapped file.
struct Part {
    file: Arc<Mapping>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.file.0[self.range.clone()]
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.file.give_back(&self.file.0[self.range.clone()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_outlive_each_other() {
        let path = std::env::temp_dir().join(format!("egret-mapped-{}", std::process::id()));
        let bytes: Vec<u8> = (0..3 * 4096).map(|i| (i / 7) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = Contents::map(&path).unwrap();
        let (first, second) = (file.part(10..9000), file.part(8000..12000));
        assert_eq!(first.bytes, bytes[10..9000]);
        drop(first);
        drop(file);
        second.home.as_ref().unwrap().give_back(&second.bytes);
        assert_eq!(second.bytes, bytes[8000..12000]);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn folders_are_no_files() {
        assert_eq!(Contents::map(&std::env::temp_dir()).err(), Some("is not a file".to_string()));
    }
}
