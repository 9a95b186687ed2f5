//! The file that ships: programs and weights of one compiled model.
//!
//! ```text
//! byte 0        header     4 KiB: magic, format version, targets, and where the sections are with their hashes
//! byte 4096     manifest   the Plan, in postcard form
//! next page     code       of a processor: position-independent machine code, mapped read and execute;
//!                          of a GPU: an Image, in postcard form
//! ...                      manifest and code of the next target
//! next page     weights    each tensor at a multiple of 64 bytes, mapped read-only, 64 bytes of slack at the end
//! ```
//!
//! Each target has a program of its own, a plan with its code: processors and GPUs group ops and pack weights differently. They
//! share one section of weights, in which whatever two of them read in the same order lies once.
//!
//! **Invariant.** The same plan, code, target and weights give the same bytes: nothing of time, path or machine gets in. And
//! an [`Artifact`] that was opened is whole: its header, manifests and code have the hashes they were written with, its
//! plans passed [`Plan::check`] and its images [`Image::check`], all programs have the same inputs and outputs, and its weights
//! were checked as [`WeightsCheck`] says; all before any of its code runs.
//!
//! # Two checks for weights
//!
//! BLAKE3 takes 23 ms for the 100 MB of a ResNet-50 on one core, more than half an inference, so loading would be felt.
//! The weights therefore have a second, plain sum: eight lanes of 64-bit words and their running sums (Fletcher's idea),
//! which runs at the speed of memory on all threads (2 to 5 ms) and touches pages the first inference would touch anyway. It finds every
//! single changed word, every truncation and every exchange of blocks that differ; damage that cancels out in all sixteen
//! sums is out of reach of accidents. Loading checks that sum; [`Artifact::verify`] checks BLAKE3.

use crate::cpu::{self, Code};
use crate::error::{Error, FileProblem, Result};
use crate::gpu::Image;
use crate::plan::{Plan, Port};
use crate::tensor::AlignedBytes;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

mod read;
mod sum;
mod write;

use read::{check_hash, range, read_checked};
use write::{IN_MEMORY, partial_name};
pub use write::{WeightsLayout, to_bytes, write_file};

/// First bytes of every artifact. The control characters give away a file that was transferred as text.
const MAGIC: [u8; 8] = *b"EGRET\0\x1a\n";

/// Version of the file format, the plan and the kernel ABI together; a runtime reads exactly its own.
pub const FORMAT_VERSION: u32 = 8;

/// Header length, and what code and weights are aligned to: the page size of the machines this runs on. Where
/// pages are larger, the mapping begins earlier and the addresses still agree modulo 4 KiB.
const PAGE: u64 = 4096;

/// Where in the header the pieces lie.
const VERSION_AT: Range<usize> = 8..12;
const RECORD_LENGTH_AT: Range<usize> = 12..16;
const HASH_AT: Range<usize> = 16..48;
const RECORD_AT: usize = 48;

/// The processor or GPU that code was compiled for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetInfo {
    /// Architecture, by Rust's name: `x86_64` or `aarch64`; [`GPU_ARCH`] for GPUs.
    pub arch: String,
    /// The processor or level compiled for, by LLVM's name: `x86-64-v4`, for reports only; of a GPU `sm_80`.
    pub cpu: String,
    /// Features the code needs, by LLVM's names: `avx2`, `fma`. Loading fails where one is missing.
    pub features: Vec<String>,
}

/// The architecture of NVIDIA's GPUs, by LLVM's name.
pub const GPU_ARCH: &str = "nvptx64";

impl TargetInfo {
    /// Whether it is a GPU, whose code is an [`Image`].
    pub fn is_gpu(&self) -> bool {
        self.arch == GPU_ARCH
    }
}

impl std::fmt::Display for TargetInfo {
    /// As `--target` takes it: `znver4`, `cuda:sm_80`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.is_gpu() { "cuda:" } else { "" }, self.cpu)
    }
}

/// A part of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// Byte of the file at which it begins.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub hash: [u8; 32],
}

/// What the header records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The programs, at least one.
    pub programs: Vec<ProgramHeader>,
    /// The weights.
    pub weights: Section,
    /// The quick sum of the weights.
    pub weights_sum: [u8; 32],
}

/// What the header records of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramHeader {
    /// What its code is for.
    pub target: TargetInfo,
    /// The plan.
    pub manifest: Section,
    /// The code.
    pub code: Section,
}

/// A program to be written: what runs a model on one target.
#[derive(Clone, Copy, Debug)]
pub struct Program<'p> {
    /// What its code is for.
    pub target: &'p TargetInfo,
    /// What to do.
    pub plan: &'p Plan,
    /// The code: of a GPU, what [`Image::to_bytes`] gives.
    pub code: &'p [u8],
}

/// How thoroughly loading checks the weights; header, manifests and code are always checked by BLAKE3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightsCheck {
    /// A plain sum at the speed of memory; finds accidental damage.
    #[default]
    Quick,
    /// BLAKE3; finds any difference from what was written.
    Full,
    /// Only that they are there. For those who trust their storage and count milliseconds.
    Skip,
}

/// An artifact that was opened and found whole. Clones share its bytes.
#[derive(Clone)]
pub struct Artifact {
    path: String,
    bytes: Arc<Bytes>,
    header: Header,
    programs: Vec<Loaded>,
}

/// A program that was read.
#[derive(Clone)]
struct Loaded {
    plan: Plan,
    /// Of a GPU.
    image: Option<Image>,
}

enum Bytes {
    Mapped { file: File, map: Mmap },
    Owned(AlignedBytes),
}

impl Bytes {
    fn all(&self) -> &[u8] {
        match self {
            Bytes::Mapped { map, .. } => map,
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// Maps the pages of a part that is about to be read, in one call rather than by a page fault each: with two threads,
    /// 147 MB were mapped and summed in 3.6 ms, not 5.5. Only advice: systems without it fault.
    fn prefault(&self, part: Range<usize>) {
        #[cfg(target_os = "linux")]
        if let Bytes::Mapped { map, .. } = self {
            let _ = map.advise_range(memmap2::Advice::PopulateRead, part.start, part.len());
        }
    }
}

impl Artifact {
    /// Opens and checks a file. It may be for another processor: that is checked when a session is made of it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be read, [`Error::Artifact`] if it is not a whole artifact of this format.
    pub fn open(path: impl AsRef<Path>, check: WeightsCheck) -> Result<Artifact> {
        let path = path.as_ref();
        let map = || {
            let file = File::open(path)?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("this is not a file; a path to an artifact was expected"));
            }
            let map = cpu::map_readable(&file)?;
            Ok(Bytes::Mapped { file, map })
        };
        Artifact::read(path.display().to_string(), map().map_err(|e| Error::io(path, e))?, check)
    }

    /// Checks an artifact in memory; the bytes are copied.
    ///
    /// # Errors
    ///
    /// [`Error::Artifact`] if it is not a whole artifact of this format, [`Error::Resource`] without memory for a copy.
    pub fn from_bytes(bytes: &[u8], check: WeightsCheck) -> Result<Artifact> {
        Artifact::read(IN_MEMORY.into(), Bytes::Owned(AlignedBytes::copy_of(bytes)?), check)
    }

    fn read(path: String, bytes: Bytes, check: WeightsCheck) -> Result<Artifact> {
        match read_checked(&bytes, check) {
            Ok((header, programs)) => Ok(Artifact { path, bytes: Arc::new(bytes), header, programs }),
            Err(problem) => Err(Error::Artifact { path, problem }),
        }
    }

    /// The file it came from, or `<memory>`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The plan of its first program. Its inputs and outputs are those of all.
    pub fn plan(&self) -> &Plan {
        self.plan_of(0)
    }

    /// The plan of a program, by its number in the [header](Artifact::header).
    ///
    /// # Panics
    ///
    /// If there are not so many programs.
    pub fn plan_of(&self, program: usize) -> &Plan {
        &self.programs[program].plan
    }

    /// The code of a program for a GPU, by its number; `None` for a processor.
    ///
    /// # Panics
    ///
    /// If there are not so many programs.
    pub fn image_of(&self, program: usize) -> Option<&Image> {
        self.programs[program].image.as_ref()
    }

    /// What its programs are compiled for, in their order.
    pub fn targets(&self) -> impl Iterator<Item = &TargetInfo> {
        self.header.programs.iter().map(|program| &program.target)
    }

    /// Targets, sections and hashes.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The bytes of the whole file.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.all()
    }

    /// Writes the file, as [`write_file`] does.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        if path.exists() && !path.is_file() {
            return std::fs::write(path, self.bytes()).map_err(|e| Error::io(path, e));
        }
        let partial = partial_name(path);
        let written = std::fs::write(&partial, self.bytes()).and_then(|()| std::fs::rename(&partial, path));
        written.map_err(|e| {
            // Best effort: the error that is reported is the one that matters.
            let _ = std::fs::remove_file(&partial);
            Error::io(path, e)
        })
    }

    /// The code of a program, by its number.
    ///
    /// # Panics
    ///
    /// If there are not so many programs.
    pub fn code_of(&self, program: usize) -> &[u8] {
        &self.bytes.all()[range(&self.header.programs[program].code)]
    }

    /// Its weights.
    pub fn weights(&self) -> &[u8] {
        &self.bytes.all()[range(&self.header.weights)]
    }

    /// Checks the weights by BLAKE3, as [`WeightsCheck::Full`] does when opening.
    ///
    /// # Errors
    ///
    /// [`Error::Artifact`] if they are not what was written.
    pub fn verify(&self) -> Result<()> {
        check_hash("weights", self.weights(), &self.header.weights).map_err(|problem| Error::Artifact { path: self.path.clone(), problem })
    }

    /// The first program that this processor can run, ready to be called.
    pub(crate) fn map_code(&self) -> Result<(usize, Code)> {
        let fit: Vec<Result<(), FileProblem>> = self.targets().map(cpu::check_target).collect();
        let mapped = match fit.iter().position(Result::is_ok) {
            Some(program) => self.map(program).map(|code| (program, code)),
            None => Err(self.no_program(fit)),
        };
        mapped.map_err(|problem| Error::Artifact { path: self.path.clone(), problem })
    }

    fn map(&self, program: usize) -> Result<Code, FileProblem> {
        let file = match &*self.bytes {
            Bytes::Mapped { file, .. } => Some((file, self.header.programs[program].code.offset)),
            Bytes::Owned(_) => None,
        };
        Code::map(file, self.code_of(program), self.plan_of(program).kernels.iter().map(|kernel| kernel.offset))
    }

    /// Why none of the programs runs here: what keeps the first for a processor, if there is one.
    fn no_program(&self, fit: Vec<Result<(), FileProblem>>) -> FileProblem {
        let mut problems = fit.into_iter().zip(self.targets()).filter(|(_, target)| !target.is_gpu());
        match problems.next() {
            Some((Err(problem), _)) => problem,
            _ => FileProblem::OnlyGpu { targets: self.targets().map(TargetInfo::to_string).collect() },
        }
    }
}

/// The bytes of a section; in range, since the sections were checked when the file was read.
/// The code of a GPU, checked against the plan that calls it; `None` for a processor.
fn image(target: &TargetInfo, plan: &Plan, code: &[u8]) -> Result<Option<Image>, String> {
    if !target.is_gpu() {
        return Ok(None);
    }
    let image = Image::from_bytes(code)?;
    image.check(plan, &target.cpu)?;
    Ok(Some(image))
}

/// There is a program, and all have the inputs and outputs of the first.
fn check_agreement<'p>(mut plans: impl Iterator<Item = &'p Plan>) -> Result<(), String> {
    let first = plans.next().ok_or("the file holds no program")?;
    let face = |port: &Port| (port.name.clone(), port.to_string());
    let same = |a: &[Port], b: &[Port]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| face(a) == face(b));
    match plans.all(|plan| plan.symbols == first.symbols && same(&plan.inputs, &first.inputs) && same(&plan.outputs, &first.outputs)) {
        true => Ok(()),
        false => Err("the programs of the file have different inputs or outputs".to_string()),
    }
}

/// The hash of a header page, except for the bytes that hold the hash.
fn header_hash(page: &[u8]) -> [u8; 32] {
    blake3::Hasher::new().update(&page[..HASH_AT.start]).update(&page[HASH_AT.end..]).finalize().into()
}

#[cfg(test)]
#[path = "artifact_tests.rs"]
mod tests;
