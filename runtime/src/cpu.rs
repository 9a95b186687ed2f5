//! The only place that turns bytes into running code: processor features, code mappings, and the call of a kernel.
//!
//! **Invariant.** No byte of an artifact is executed before its hash was verified and [`missing_features`] found nothing, and
//! kernels are called only with pointer tables built by `Frame` from buffers that live as long as the call.
//!
//! # Trust
//!
//! An artifact is a program. The checks of this crate catch damage, not malice: whoever writes the file chooses the code and
//! its hash. Load artifacts only from where you would load a shared library.

use crate::artifact::TargetInfo;
use crate::error::{Error, FileProblem, Result};
use memmap2::{Mmap, MmapMut, MmapOptions};
use std::fs::File;

/// A compiled kernel; [`plan`](crate::plan) has the contract it keeps.
pub type KernelFn = unsafe extern "C" fn(buffers: *const *mut u8, sizes: *const i64, part: u64, parts: u64);

/// Features asked about by LLVM's names, and whether this processor has them.
type FeatureTable = &'static [(&'static str, fn() -> bool)];

#[cfg(target_arch = "x86_64")]
macro_rules! features {
    ($($name:literal as $rust:tt),* $(,)?) => { &[$(($name, || std::arch::is_x86_feature_detected!($rust))),*] };
}
#[cfg(target_arch = "aarch64")]
macro_rules! features {
    ($($name:literal as $rust:tt),* $(,)?) => { &[$(($name, || std::arch::is_aarch64_feature_detected!($rust))),*] };
}

/// What a compiler for this architecture may ask for: LLVM's name and Rust's.
#[cfg(target_arch = "x86_64")]
const FEATURES: FeatureTable = features![
    "adx" as "adx",
    "aes" as "aes",
    "avx" as "avx",
    "avx2" as "avx2",
    "avx512bf16" as "avx512bf16",
    "avx512bitalg" as "avx512bitalg",
    "avx512bw" as "avx512bw",
    "avx512cd" as "avx512cd",
    "avx512dq" as "avx512dq",
    "avx512f" as "avx512f",
    "avx512fp16" as "avx512fp16",
    "avx512ifma" as "avx512ifma",
    "avx512vbmi" as "avx512vbmi",
    "avx512vbmi2" as "avx512vbmi2",
    "avx512vl" as "avx512vl",
    "avx512vnni" as "avx512vnni",
    "avx512vp2intersect" as "avx512vp2intersect",
    "avx512vpopcntdq" as "avx512vpopcntdq",
    "avxifma" as "avxifma",
    "avxneconvert" as "avxneconvert",
    "avxvnni" as "avxvnni",
    "avxvnniint16" as "avxvnniint16",
    "avxvnniint8" as "avxvnniint8",
    "bmi" as "bmi1",
    "bmi2" as "bmi2",
    "cx16" as "cmpxchg16b",
    "f16c" as "f16c",
    "fma" as "fma",
    "fxsr" as "fxsr",
    "gfni" as "gfni",
    "lzcnt" as "lzcnt",
    "mmx" as "mmx",
    "movbe" as "movbe",
    "pclmul" as "pclmulqdq",
    "popcnt" as "popcnt",
    "sha" as "sha",
    "sse" as "sse",
    "sse2" as "sse2",
    "sse3" as "sse3",
    "sse4.1" as "sse4.1",
    "sse4.2" as "sse4.2",
    "sse4a" as "sse4a",
    "ssse3" as "ssse3",
    "vaes" as "vaes",
    "vpclmulqdq" as "vpclmulqdq",
    "xsave" as "xsave",
];

/// What a compiler for this architecture may ask for: LLVM's name and Rust's.
#[cfg(target_arch = "aarch64")]
const FEATURES: FeatureTable = features![
    "bf16" as "bf16",
    "dotprod" as "dotprod",
    "fp-armv8" as "neon",
    "fp16fml" as "fhm",
    "fullfp16" as "fp16",
    "i8mm" as "i8mm",
    "lse" as "lse",
    "neon" as "neon",
    "rdm" as "rdm",
    "sve" as "sve",
    "sve2" as "sve2",
];

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const FEATURES: FeatureTable = &[];

/// The features of `wanted` (LLVM's names) that this processor does not have; one that this runtime does not know counts
/// as missing.
///
/// ```
/// let missing = egret_runtime::cpu::missing_features(&["warp-drive".to_string()]);
/// assert_eq!(missing, ["warp-drive"]);
/// ```
pub fn missing_features(wanted: &[String]) -> Vec<String> {
    let has = |name: &str| FEATURES.iter().any(|(known, detect)| *known == name && detect());
    wanted.iter().filter(|name| !has(name)).cloned().collect()
}

/// The features of this processor that artifacts may ask for, by LLVM's names and in alphabetical order.
pub fn host_features() -> Vec<&'static str> {
    FEATURES.iter().filter(|(_, detect)| detect()).map(|(name, _)| *name).collect()
}

/// Whether code for this target can run here.
pub(crate) fn check_target(target: &TargetInfo) -> Result<(), FileProblem> {
    if target.arch != std::env::consts::ARCH {
        let found = std::env::consts::ARCH.to_string();
        return Err(FileProblem::ForeignArchitecture { wanted: target.arch.clone(), found });
    }
    match missing_features(&target.features) {
        missing if missing.is_empty() => Ok(()),
        missing => Err(FileProblem::MissingFeatures { missing }),
    }
}

/// Machine code that can be called: one function per kernel of a plan.
pub struct Code {
    kernels: Vec<KernelFn>,
    /// Keeps the pages behind `kernels` mapped.
    _image: Option<Mmap>,
}

impl Code {
    /// Kernels that are functions of this program, in the order of [`Plan::kernels`](crate::plan::Plan::kernels).
    ///
    /// # Safety
    ///
    /// Each function must keep to the contract in [`plan`](crate::plan) for every step of the plan that calls it: it
    /// touches only the bytes of the buffers that the step lists, and writes only those of `writes`.
    pub unsafe fn functions(kernels: Vec<KernelFn>) -> Code {
        Code { kernels, _image: None }
    }

    /// The entry points, in the order of the plan's kernels.
    pub(crate) fn kernels(&self) -> &[KernelFn] {
        &self.kernels
    }

    /// Makes callable functions of an executable image. `offsets` lie inside it: [`Plan::check`](crate::plan::Plan::check).
    fn from_image(image: Mmap, offsets: impl Iterator<Item = u64>) -> Code {
        let entry = |offset: u64| {
            let address = image[offset as usize..].as_ptr();
            // SAFETY: `address` lies in a readable and executable mapping that `_image` keeps alive as long as the pointer.
            // That a function of this signature starts there is what the hash-verified plan says.
            unsafe { std::mem::transmute::<*const u8, KernelFn>(address) }
        };
        Code { kernels: offsets.map(entry).collect(), _image: Some(image) }
    }

    /// Maps `code`, which is found at byte `at` of `file`, as executable pages of the file; where the file system
    /// forbids that (`noexec`), or there is no file, copies it into pages of its own.
    pub(crate) fn map(file: Option<(&File, u64)>, code: &[u8], offsets: impl Iterator<Item = u64>) -> Result<Code, FileProblem> {
        let mapped = file.and_then(|(file, at)| map_file(file, at, code));
        let image = match mapped {
            Some(image) => image,
            None => copy_executable(code).map_err(FileProblem::NoExec)?,
        };
        Ok(Code::from_image(image, offsets))
    }
}

/// The code as executable pages of the file, if the file system allows it and the bytes are the ones that were verified.
fn map_file(file: &File, at: u64, code: &[u8]) -> Option<Mmap> {
    // SAFETY: the mapping is private and read-only here. Whoever truncates or rewrites an artifact in place while it runs
    // breaks it, as with any program file; `egret` replaces artifacts by renaming.
    let image = unsafe { MmapOptions::new().offset(at).len(code.len()).map_exec(file) }.ok()?;
    (image[..] == *code).then_some(image)
}

/// The code in fresh pages, first written, then made executable and read-only.
fn copy_executable(code: &[u8]) -> std::io::Result<Mmap> {
    let mut pages = MmapMut::map_anon(code.len().max(1))?;
    pages[..code.len()].copy_from_slice(code);
    // On processors with split caches the kernel synchronises them when it makes written pages executable.
    pages.make_exec()
}

/// A file mapped for reading.
pub(crate) fn map_readable(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the bytes are only ever read. Changing an artifact in place while it is mapped breaks the program that runs
    // it, as with any program file; `egret` replaces artifacts by renaming.
    let map = unsafe { Mmap::map(file) }?;
    #[cfg(target_os = "linux")]
    if map.len() >= HUGE_PAGES_FROM {
        // Only advice: what is not cached yet is then read in huge pages, 2.6 times as fast (147 MB, Linux 6.18, ext4).
        let _ = map.advise(memmap2::Advice::HugePage);
    }
    Ok(map)
}

/// Scratch memory for intermediates: page-aligned, and zero pages until first touched.
#[derive(Default)]
pub(crate) struct Arena {
    pages: Option<MmapMut>,
}

impl Arena {
    /// Makes the arena at least this long; what it held may be lost.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<()> {
        if bytes > self.bytes() {
            // Give the old pages back first, so that both are never held together.
            self.pages = None;
            let no_memory = || Error::memory("the arena of intermediates", bytes);
            let length = usize::try_from(bytes).map_err(|_| no_memory())?;
            // Linux aligns whole huge pages, and only those.
            let large = length >= HUGE_PAGES_FROM;
            let length = if large { length.checked_next_multiple_of(HUGE_PAGE).ok_or_else(no_memory)? } else { length };
            let pages = MmapMut::map_anon(length).map_err(|_| no_memory())?;
            #[cfg(target_os = "linux")]
            if large {
                // Only advice: where the system has no huge pages, ordinary ones serve.
                let _ = pages.advise(memmap2::Advice::HugePage);
            }
            self.pages = Some(pages);
        }
        Ok(())
    }

    /// Its length in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.pages.as_ref().map_or(0, |pages| pages.len() as u64)
    }

    fn pointer(&mut self) -> *mut u8 {
        self.pages.as_mut().map_or(std::ptr::null_mut(), |pages| pages.as_mut_ptr())
    }
}

/// The size in bytes of a huge page of the common kind.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Arenas and files from this size on ask for huge pages: fewer page faults in the first run and fewer TLB misses in all.
const HUGE_PAGES_FROM: usize = 2 * HUGE_PAGE;

/// Where a buffer of a plan lies for one binding of the symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    /// At this offset of the arena.
    Arena(usize),
    /// The input with this index.
    Input(usize),
    /// The output with this index.
    Output(usize),
    /// At this offset of the weights.
    Weights(usize),
}

/// The pointer tables of all steps, rebuilt before each run in memory that is allocated once.
pub(crate) struct Frame {
    /// Address of each buffer.
    buffers: Vec<*mut u8>,
    /// The pointer tables of the steps, one behind the other.
    tables: Vec<*mut u8>,
    /// The buffer behind each entry of `tables`.
    slots: Vec<u32>,
}

// SAFETY: the pointers are rebuilt by `aim` before every use and mean nothing between runs.
unsafe impl Send for Frame {}
// SAFETY: a shared `Frame` is only read; what kernels do through the pointers is governed by `Frame::call`.
unsafe impl Sync for Frame {}

impl Frame {
    /// A frame for `buffers` buffers and the concatenated buffer lists of the steps.
    pub(crate) fn new(buffers: usize, slots: Vec<u32>) -> Frame {
        let null = std::ptr::null_mut();
        Frame { buffers: vec![null; buffers], tables: vec![null; slots.len()], slots }
    }

    /// Fills the tables. The arguments give the memory that the spots refer to; each slice is longer than every offset.
    pub(crate) fn aim<'a>(
        &mut self,
        spots: &[Spot],
        arena: &mut Arena,
        weights: &[u8],
        mut input: impl FnMut(usize) -> &'a [u8],
        mut output: impl FnMut(usize) -> *mut u8,
    ) {
        let base = arena.pointer();
        for (address, spot) in self.buffers.iter_mut().zip(spots) {
            *address = match *spot {
                // Never leaves the arena: the memory map that gave the offset also gave its length.
                Spot::Arena(offset) => base.wrapping_add(offset),
                Spot::Input(index) => input(index).as_ptr().cast_mut(),
                Spot::Output(index) => output(index),
                Spot::Weights(offset) => weights[offset..].as_ptr().cast_mut(),
            };
        }
        for (entry, &buffer) in self.tables.iter_mut().zip(&self.slots) {
            *entry = self.buffers[buffer as usize];
        }
    }

    /// Calls a kernel with the pointer table that starts at entry `table`.
    ///
    /// # Safety
    ///
    /// The frame was aimed at memory that is still alive and that nobody else touches, and `kernel`, `table`, `sizes` and the
    /// part belong to the same step of the plan that the frame was built for; steps run in order.
    pub(crate) unsafe fn call(&self, kernel: KernelFn, table: usize, sizes: &[i64], part: u32, parts: u32) {
        let buffers = self.tables[table..].as_ptr();
        // SAFETY: by the contract above the kernel finds the buffers and sizes it was compiled for.
        unsafe { kernel(buffers, sizes.as_ptr(), part.into(), parts.into()) }
    }

    /// Copies the bytes of a buffer.
    ///
    /// # Safety
    ///
    /// The frame was aimed at memory that is still alive, the buffer has at least as many bytes as `to`, and `to` does not
    /// overlap it.
    pub(crate) unsafe fn copy_out(&self, buffer: u32, to: &mut [u8]) {
        if !to.is_empty() {
            // SAFETY: by the contract above.
            unsafe { std::ptr::copy_nonoverlapping(self.buffers[buffer as usize], to.as_mut_ptr(), to.len()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_what_it_says_it_has() {
        let host: Vec<String> = host_features().into_iter().map(String::from).collect();
        assert_eq!(missing_features(&host), Vec::<String>::new());
        assert!(host.is_sorted());
    }

    #[test]
    fn foreign_code_is_refused_by_name() {
        let target = |arch: &str, feature: &str| TargetInfo { arch: arch.into(), cpu: "x".into(), features: vec![feature.into()] };
        let foreign = check_target(&target("pdp11", "fpp")).unwrap_err().to_string();
        assert!(foreign.contains("pdp11") && foreign.contains(std::env::consts::ARCH), "{foreign}");
        let missing = check_target(&target(std::env::consts::ARCH, "avx9000")).unwrap_err().to_string();
        assert!(missing.contains("avx9000"), "{missing}");
    }

    /// `ret`, preceded by an instruction that writes 42 to the first byte of the first buffer.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn copied_code_runs() {
        // mov rax, [rdi]; mov byte [rax], 42; ret
        let code = [0x48, 0x8b, 0x07, 0xc6, 0x00, 0x2a, 0xc3];
        let code = Code::map(None, &code, [0].into_iter()).unwrap();
        let mut byte = 0u8;
        let table = [&raw mut byte];
        // SAFETY: the code above writes one byte through the first pointer and returns.
        unsafe { code.kernels()[0](table.as_ptr(), std::ptr::null(), 0, 1) };
        assert_eq!(byte, 42);
    }

    #[test]
    fn the_arena_grows_and_never_shrinks() {
        let mut arena = Arena::default();
        for (bytes, expected) in [(0, 0), (100, 100), (50, 100), (5 << 20, 6 << 20)] {
            arena.reserve(bytes).unwrap();
            assert_eq!(arena.bytes(), expected);
        }
        assert!(arena.reserve(1 << 60).unwrap_err().to_string().contains("more memory"));
    }
}
