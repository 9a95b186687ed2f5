//! Machine code that the driver made of PTX, kept for the next time: making it takes seconds, reading it milliseconds.
//!
//! A file's name is the hash of the PTX, the GPU's architecture and the driver's CUDA version; it begins with the hash of what follows.
//! **Invariant.** What is read is what was written for the same PTX, architecture and driver, or nothing. Keeping is for speed
//! only: where it fails, nothing is said.

use crate::gpu::Gpu;
use std::path::PathBuf;

/// A folder of such files.
pub(super) struct Cache {
    folder: PathBuf,
}

/// Bytes of a hash.
const HASH: usize = 32;

impl Cache {
    /// The user's: `egret/cubin` in `$XDG_CACHE_HOME` or `~/.cache`. None if neither is known.
    pub(super) fn of_user() -> Option<Cache> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(Cache { folder: caches.join("egret").join("cubin") })
    }

    /// The name under which the code of some PTX for a GPU is kept.
    pub(super) fn key(ptx: &str, gpu: &Gpu) -> String {
        format!("{}-{}-cuda{}.cubin", blake3::hash(ptx.as_bytes()).to_hex(), gpu.capability.arch(), gpu.driver)
    }

    /// What is kept under a name, if it is whole.
    pub(super) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let file = std::fs::read(self.folder.join(key)).ok()?;
        let (hash, code) = file.split_at_checked(HASH)?;
        (blake3::hash(code).as_bytes()[..] == *hash).then(|| code.to_vec())
    }

    /// Keeps code; it appears under its name when it is whole.
    pub(super) fn put(&self, key: &str, code: &[u8]) {
        let partial = self.folder.join(format!(".{key}.{}.partial", std::process::id()));
        let file = [&blake3::hash(code).as_bytes()[..], code].concat();
        let written = std::fs::create_dir_all(&self.folder).and_then(|()| std::fs::write(&partial, file));
        if written.and_then(|()| std::fs::rename(&partial, self.folder.join(key))).is_err() {
            let _ = std::fs::remove_file(&partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Version;
    use crate::testing::TempDir;

    fn gpu(driver: Version) -> Gpu {
        Gpu { name: "x".into(), capability: Version { major: 9, minor: 0 }, memory: 0, multiprocessors: 1, driver }
    }

    #[test]
    fn what_is_kept_is_whole_or_not_there() {
        let dir = TempDir::new("cubin");
        let cache = Cache { folder: dir.path().join("a/b") };
        let key = Cache::key(".version 7.0", &gpu(Version { major: 12, minor: 8 }));
        assert!(key.ends_with("-sm_90-cuda12.8.cubin"), "{key}");
        assert_ne!(key, Cache::key(".version 7.0", &gpu(Version { major: 13, minor: 0 })));
        assert_ne!(key, Cache::key(".version 7.1", &gpu(Version { major: 12, minor: 8 })));
        assert_eq!(cache.get(&key), None);
        cache.put(&key, b"code");
        assert_eq!(cache.get(&key).as_deref(), Some(&b"code"[..]));
        let path = cache.folder.join(&key);
        let whole = std::fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..7], &[]] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(cache.get(&key), None);
        }
        assert_eq!(std::fs::read_dir(&cache.folder).unwrap().count(), 1, "nothing partial stays behind");
        // A folder that cannot be made is no error.
        std::fs::write(dir.path().join("file"), "").unwrap();
        Cache { folder: dir.path().join("file/c") }.put(&key, b"code");
    }

    #[test]
    fn without_a_driver_there_are_no_gpus_and_a_sentence() {
        use super::super::{CudaDevice, gpus};
        let Ok(found) = gpus() else { return };
        let error = CudaDevice::open(found.len()).err().expect("there are not so many");
        assert_eq!(error.exit_code(), 3);
        let words = if found.is_empty() { "no NVIDIA driver (libcuda.so was not found)" } else { "there is no cuda:" };
        assert!(error.to_string().contains(words) || error.to_string().contains("finds no GPU"), "{error}");
    }
}
