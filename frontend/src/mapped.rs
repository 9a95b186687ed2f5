//! Files as bytes that are read when they are used, and given back when they are not used any more.
//!
//! A weight that was brought into another order at compile time is not read again, so the memory that its pages take must not
//! stay in use beside the copy. **Invariant.** Pages are given back when the last user of a part of a file is gone; the mapping
//! itself stays for the other parts.

use bytes::Bytes;
use memmap2::{Mmap, UncheckedAdvice};
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

/// The bytes of a file, mapped or in memory.
#[derive(Clone)]
pub(crate) enum Contents {
    /// A file on disk.
    Mapped(Arc<Mmap>),
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
        Ok(Contents::Mapped(Arc::new(mapped)))
    }

    /// A part of the file, which lies inside of it.
    pub(crate) fn part(&self, range: Range<usize>) -> Bytes {
        match self {
            Contents::Mapped(file) => Bytes::from_owner(Part { file: file.clone(), range }),
            Contents::Memory(bytes) => bytes.slice(range),
        }
    }
}

impl Deref for Contents {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Contents::Mapped(file) => file,
            Contents::Memory(bytes) => bytes,
        }
    }
}

/// A part of a mapped file.
struct Part {
    file: Arc<Mmap>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // SAFETY: the mapping is of a file and nothing is ever written to it, so that a page that was given back is read from
        // the file again if another part needs it.
        let given_back = unsafe { self.file.unchecked_advise_range(UncheckedAdvice::DontNeed, self.range.start, self.range.len()) };
        // What cannot be given back stays in use, which harms nothing.
        let _ = given_back;
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
        assert_eq!(first, bytes[10..9000]);
        drop(first);
        drop(file);
        assert_eq!(second, bytes[8000..12000]);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn folders_are_no_files() {
        assert_eq!(Contents::map(&std::env::temp_dir()).err(), Some("is not a file".to_string()));
    }
}
