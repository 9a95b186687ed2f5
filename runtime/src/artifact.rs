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

use crate::cpu::{self, Code, HUGE_PAGE};
use crate::error::{Error, FileProblem, Result};
use crate::gpu::Image;
use crate::plan::{ALIGN, Plan, Port, SLACK};
use crate::pool::default_threads;
use crate::tensor::AlignedBytes;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Cursor, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// First bytes of every artifact. The control characters give away a file that was transferred as text.
const MAGIC: [u8; 8] = *b"EGRET\0\x1a\n";

/// Version of the file format, the plan and the kernel ABI together; a runtime reads exactly its own.
pub const FORMAT_VERSION: u32 = 7;

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

/// Gives weights their offsets: each begins at the next multiple of [`ALIGN`] behind the one before.
///
/// ```
/// let mut layout = egret_runtime::artifact::WeightsLayout::default();
/// assert_eq!([layout.place(100), layout.place(4), layout.place(0)], [0, 128, 192]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct WeightsLayout {
    end: u64,
}

impl WeightsLayout {
    /// The offset of the next tensor, which has this many bytes, in the weights section.
    pub fn place(&mut self, bytes: u64) -> u64 {
        let offset = self.end;
        self.end = (offset + bytes).next_multiple_of(ALIGN as u64);
        offset
    }

    /// The length of the section that holds what was placed, slack included.
    pub fn section_bytes(&self) -> u64 {
        self.end + SLACK as u64
    }
}

/// Writes an artifact to a file.
///
/// `weights` are the tensors in the order in which a [`WeightsLayout`] gave them their offsets; they are written as
/// they come, so an iterator that packs them one by one never holds them all. The file appears under its name only
/// when it is complete.
///
/// # Errors
///
/// [`Error::Io`] if the file cannot be written; [`Error::Artifact`] if a plan contradicts itself, its code, the weights or another
/// program.
pub fn write_file<'a>(path: impl AsRef<Path>, programs: &[Program<'_>], weights: impl IntoIterator<Item = Cow<'a, [u8]>>) -> Result<()> {
    let path = path.as_ref();
    let failed = |e| match e {
        WriteError::Io(source) => Error::io(path, source),
        WriteError::Plan(problem) => bad_plan(path.display().to_string(), problem),
    };
    // A device or pipe must not be replaced by a file.
    if path.exists() && !path.is_file() {
        let mut bytes = Cursor::new(Vec::new());
        write(&mut bytes, programs, weights).map_err(failed)?;
        return std::fs::write(path, bytes.into_inner()).map_err(|e| Error::io(path, e));
    }
    let partial = partial_name(path);
    let result = write_partial(&partial, programs, weights).and_then(|()| std::fs::rename(&partial, path).map_err(WriteError::Io));
    result.map_err(|e| {
        // Best effort: the error that is reported is the one that matters.
        let _ = std::fs::remove_file(&partial);
        failed(e)
    })
}

/// Writes an artifact to memory, as [`write_file`] does to a file.
///
/// # Errors
///
/// [`Error::Artifact`] if a plan contradicts itself, its code, the weights or another program.
pub fn to_bytes<'a>(programs: &[Program<'_>], weights: impl IntoIterator<Item = Cow<'a, [u8]>>) -> Result<Vec<u8>> {
    let mut out = Cursor::new(Vec::new());
    write(&mut out, programs, weights).map_err(|e| match e {
        WriteError::Io(source) => Error::io(Path::new(IN_MEMORY), source),
        WriteError::Plan(problem) => bad_plan(IN_MEMORY.into(), problem),
    })?;
    Ok(out.into_inner())
}

/// The path shown for an artifact that is not a file.
const IN_MEMORY: &str = "<memory>";

fn bad_plan(path: String, problem: String) -> Error {
    Error::Artifact { path, problem: FileProblem::Plan(problem) }
}

/// A name beside `path`, so that renaming it to `path` replaces that at once.
fn partial_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.partial", std::process::id()))
}

enum WriteError {
    Io(io::Error),
    Plan(String),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> WriteError {
        WriteError::Io(error)
    }
}

fn write_partial<'a>(partial: &Path, programs: &[Program<'_>], weights: impl IntoIterator<Item = Cow<'a, [u8]>>) -> Result<(), WriteError> {
    let mut out = BlockWriter::new(File::create(partial)?);
    write(&mut out, programs, weights)?;
    Ok(out.flush()?)
}

/// Writes a file in whole blocks of [`HUGE_PAGE`] bytes, at multiples of that. Systems that cache files in huge pages make
/// such a page of each, and loading then costs one page fault for 2 MiB, not one for every few pages: the 147 MB of a
/// ResNet-50 were mapped in 1 ms, not 12 (Linux 6.18, ext4), and read a third faster.
struct BlockWriter {
    file: File,
    block: Vec<u8>,
}

impl BlockWriter {
    fn new(file: File) -> BlockWriter {
        BlockWriter { file, block: Vec::with_capacity(HUGE_PAGE) }
    }
}

impl Write for BlockWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(HUGE_PAGE - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == HUGE_PAGE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }
}

impl Seek for BlockWriter {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.flush()?;
        self.file.seek(to)
    }
}

/// Writes the sections, then goes back and writes the header that describes them.
fn write<'a>(
    out: &mut (impl Write + Seek),
    programs: &[Program<'_>],
    weights: impl IntoIterator<Item = Cow<'a, [u8]>>,
) -> Result<(), WriteError> {
    let mut out = SectionWriter { out, at: 0 };
    out.write(&[0; PAGE as usize])?;
    let headers = programs.iter().map(|program| out.program(program)).collect::<Result<Vec<_>, _>>()?;
    let (weights, weights_sum) = out.weights(weights)?;
    for program in programs {
        program.plan.check(program.code.len() as u64, weights.bytes).map_err(WriteError::Plan)?;
        image(program.target, program.plan, program.code).map_err(WriteError::Plan)?;
    }
    check_agreement(programs.iter().map(|program| program.plan)).map_err(WriteError::Plan)?;
    let header = Header { programs: headers, weights, weights_sum };
    out.out.seek(SeekFrom::Start(0))?;
    Ok(out.out.write_all(&encode_header(&header).map_err(WriteError::Plan)?)?)
}

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

struct SectionWriter<'w, W> {
    out: &'w mut W,
    /// Bytes written so far.
    at: u64,
}

impl<W: Write> SectionWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Zeros up to the next multiple of a page or less.
    fn pad(&mut self, to: u64) -> io::Result<()> {
        let missing = self.at.next_multiple_of(to) - self.at;
        self.write(&[0; PAGE as usize][..missing as usize])
    }

    fn section(&mut self, bytes: &[u8]) -> io::Result<Section> {
        self.pad(PAGE)?;
        let section = Section { offset: self.at, bytes: bytes.len() as u64, hash: blake3::hash(bytes).into() };
        self.write(bytes)?;
        Ok(section)
    }

    fn program(&mut self, program: &Program<'_>) -> Result<ProgramHeader, WriteError> {
        let manifest = postcard::to_stdvec(program.plan).map_err(|e| WriteError::Plan(e.to_string()))?;
        let manifest = self.section(&manifest)?;
        Ok(ProgramHeader { target: program.target.clone(), manifest, code: self.section(program.code)? })
    }

    fn weights<'a>(&mut self, tensors: impl IntoIterator<Item = Cow<'a, [u8]>>) -> io::Result<(Section, [u8; 32])> {
        self.pad(PAGE)?;
        let offset = self.at;
        let (mut hash, mut sum) = (blake3::Hasher::new(), QuickSum::default());
        let mut block = |writer: &mut Self, bytes: &[u8]| {
            hash.update(bytes);
            sum.update(bytes);
            writer.write(bytes)
        };
        for tensor in tensors {
            let (whole, rest) = tensor.split_at(tensor.len() - tensor.len() % ALIGN);
            block(self, whole)?;
            if !rest.is_empty() {
                let mut last = [0; ALIGN];
                last[..rest.len()].copy_from_slice(rest);
                block(self, &last)?;
            }
        }
        block(self, &[0; SLACK])?;
        let section = Section { offset, bytes: self.at - offset, hash: hash.finalize().into() };
        Ok((section, sum.finish()))
    }
}

/// The header page.
fn encode_header(header: &Header) -> Result<Vec<u8>, String> {
    let record = postcard::to_stdvec(header).map_err(|e| e.to_string())?;
    let mut page = vec![0; PAGE as usize];
    let room = page.len() - RECORD_AT;
    if record.len() > room {
        return Err(format!("the descriptions of the targets need {} bytes, the header has room for {room}", record.len()));
    }
    page[..MAGIC.len()].copy_from_slice(&MAGIC);
    page[VERSION_AT].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    page[RECORD_LENGTH_AT].copy_from_slice(&(record.len() as u32).to_le_bytes());
    page[RECORD_AT..RECORD_AT + record.len()].copy_from_slice(&record);
    let hash = header_hash(&page);
    page[HASH_AT].copy_from_slice(&hash);
    Ok(page)
}

/// The hash of a header page, except for the bytes that hold the hash.
fn header_hash(page: &[u8]) -> [u8; 32] {
    blake3::Hasher::new().update(&page[..HASH_AT.start]).update(&page[HASH_AT.end..]).finalize().into()
}

/// Sums of 64-bit words in eight lanes, and sums of those sums, modulo 2^64:
///
/// ```text
/// a[lane] += word;    b[lane] += a[lane]
/// ```
///
/// A changed word changes `a`; blocks that changed places change `b`. Eight lanes fill the vector units.
#[derive(Default)]
struct QuickSum {
    sums: [u64; 8],
    sums_of_sums: [u64; 8],
    blocks: u64,
}

impl QuickSum {
    /// Adds bytes; a last block of fewer than 64 counts as if zeros followed.
    fn update(&mut self, bytes: &[u8]) {
        let (blocks, rest) = bytes.as_chunks::<ALIGN>();
        blocks.iter().for_each(|block| self.add(block));
        if !rest.is_empty() {
            let mut last = [0; ALIGN];
            last[..rest.len()].copy_from_slice(rest);
            self.add(&last);
        }
    }

    #[inline(always)]
    fn add(&mut self, block: &[u8; ALIGN]) {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in words.iter().enumerate() {
            self.sums[lane] = self.sums[lane].wrapping_add(u64::from_le_bytes(*word));
            self.sums_of_sums[lane] = self.sums_of_sums[lane].wrapping_add(self.sums[lane]);
        }
        self.blocks += 1;
    }

    /// The sum of a part of the file, on more threads than one where there are enough bytes for the others to be worth their start.
    fn of(file: &Bytes, part: Range<usize>) -> QuickSum {
        let threads = (part.len() / BYTES_PER_THREAD).clamp(1, default_threads());
        let share = part.len().div_ceil(threads).next_multiple_of(ALIGN).max(ALIGN);
        let mut shares = part.clone().step_by(share).map(|start| start..part.end.min(start + share));
        let first = shares.next().unwrap_or_default();
        std::thread::scope(|scope| {
            let others: Vec<_> = shares
                .map(|share| (share.clone(), std::thread::Builder::new().spawn_scoped(scope, move || QuickSum::of_share(file, share))))
                .collect();
            others.into_iter().fold(QuickSum::of_share(file, first), |whole, (share, thread)| {
                // Without a thread for it, or if that died, the share is summed here.
                let sum = thread.ok().and_then(|thread| thread.join().ok());
                whole.followed_by(&sum.unwrap_or_else(|| QuickSum::of_share(file, share)))
            })
        })
    }

    fn of_share(file: &Bytes, share: Range<usize>) -> QuickSum {
        file.prefault(share.clone());
        let mut sum = QuickSum::default();
        sum.update(&file.all()[share]);
        sum
    }

    /// The sum of the bytes of `self`, whole blocks, followed by those of `next`: each of the blocks of `next` adds the sums
    /// before it once more to the sums of sums.
    fn followed_by(mut self, next: &QuickSum) -> QuickSum {
        for lane in 0..8 {
            let carried = self.sums[lane].wrapping_mul(next.blocks);
            self.sums_of_sums[lane] = self.sums_of_sums[lane].wrapping_add(carried).wrapping_add(next.sums_of_sums[lane]);
            self.sums[lane] = self.sums[lane].wrapping_add(next.sums[lane]);
        }
        self.blocks += next.blocks;
        self
    }

    fn finish(&self) -> [u8; 32] {
        let words = self.sums.iter().chain(&self.sums_of_sums).chain([&self.blocks]);
        let bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        blake3::hash(&bytes).into()
    }
}

/// Weights that a thread sums at least: starting it costs about as much as summing 1 MiB.
const BYTES_PER_THREAD: usize = 8 << 20;

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

/// The bytes of a section; in range, since [`check_section`] passed.
fn range(section: &Section) -> Range<usize> {
    section.offset as usize..(section.offset + section.bytes) as usize
}

/// Everything but the processor is checked here, from the outside in.
fn read_checked(bytes: &Bytes, check: WeightsCheck) -> Result<(Header, Vec<Loaded>), FileProblem> {
    let file = bytes.all();
    let header = read_header(file)?;
    for (name, section) in sections(&header) {
        check_section(name, section, file.len() as u64)?;
    }
    let end = header.weights.offset + header.weights.bytes;
    if end != file.len() as u64 {
        return Err(damaged("end", format!("{} bytes follow the weights", file.len() as u64 - end)));
    }
    check_padding(file, &header)?;
    let programs = header.programs.iter().map(|program| read_program(file, program, &header.weights));
    let programs = programs.collect::<Result<Vec<_>, _>>()?;
    check_agreement(programs.iter().map(|program| &program.plan)).map_err(FileProblem::Plan)?;
    check_weights(bytes, &header, check)?;
    Ok((header, programs))
}

fn read_program(file: &[u8], program: &ProgramHeader, weights: &Section) -> Result<Loaded, FileProblem> {
    let (manifest, code) = (&file[range(&program.manifest)], &file[range(&program.code)]);
    check_hash("manifest", manifest, &program.manifest)?;
    check_hash("code", code, &program.code)?;
    let plan: Plan = postcard::from_bytes(manifest).map_err(|e| FileProblem::Plan(e.to_string()))?;
    plan.check(program.code.bytes, weights.bytes).map_err(FileProblem::Plan)?;
    let image = image(&program.target, &plan, code).map_err(FileProblem::Plan)?;
    Ok(Loaded { plan, image })
}

/// All sections with their names, in the order of the file.
fn sections(header: &Header) -> Vec<(&'static str, &Section)> {
    let programs = header.programs.iter().flat_map(|program| [("manifest", &program.manifest), ("code", &program.code)]);
    programs.chain([("weights", &header.weights)]).collect()
}

fn read_header(file: &[u8]) -> Result<Header, FileProblem> {
    let known = file.len().min(MAGIC.len());
    if file[..known] != MAGIC[..known] || file.is_empty() {
        return Err(FileProblem::NotAnArtifact);
    }
    let truncated = FileProblem::Truncated { expected: PAGE, found: file.len() as u64 };
    let page = file.get(..PAGE as usize).ok_or(truncated)?;
    check_version(number(&page[VERSION_AT]))?;
    if header_hash(page) != page[HASH_AT] {
        return Err(damaged("header", "its hash does not match".into()));
    }
    let length = number(&page[RECORD_LENGTH_AT]) as usize;
    let record = page[RECORD_AT..].get(..length).ok_or_else(|| damaged("header", "its length is wrong".into()))?;
    postcard::from_bytes(record).map_err(|e| damaged("header", e.to_string()))
}

/// A little-endian number of four bytes.
fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

fn check_version(found: u32) -> Result<(), FileProblem> {
    let help = match found.cmp(&FORMAT_VERSION) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Less => "compile the model again",
        std::cmp::Ordering::Greater => "it was written by a newer Egret: update this one, or compile the model again",
    };
    Err(FileProblem::Version { found, known: FORMAT_VERSION, help })
}

/// A section begins at a page behind the header and ends in the file.
fn check_section(name: &'static str, section: &Section, file_bytes: u64) -> Result<(), FileProblem> {
    let end = section.offset.checked_add(section.bytes).ok_or_else(|| damaged(name, "its length is absurd".into()))?;
    if section.offset < PAGE || !section.offset.is_multiple_of(PAGE) {
        return Err(damaged(name, format!("it begins at byte {}", section.offset)));
    }
    if end > file_bytes {
        return Err(FileProblem::Truncated { expected: end, found: file_bytes });
    }
    Ok(())
}

/// The bytes between the sections, which no hash covers, are the zeros that were written.
fn check_padding(file: &[u8], header: &Header) -> Result<(), FileProblem> {
    for pair in sections(header).windows(2) {
        let gap = file.get(range(pair[0].1).end..pair[1].1.offset as usize);
        if gap.is_none_or(|gap| gap.iter().any(|&byte| byte != 0)) {
            let detail = "the bytes between the sections are not zeros".into();
            return Err(damaged("padding", detail));
        }
    }
    Ok(())
}

fn check_hash(name: &'static str, bytes: &[u8], section: &Section) -> Result<(), FileProblem> {
    match blake3::hash(bytes) == blake3::Hash::from(section.hash) {
        true => Ok(()),
        false => Err(damaged(name, "its hash does not match".into())),
    }
}

fn check_weights(bytes: &Bytes, header: &Header, check: WeightsCheck) -> Result<(), FileProblem> {
    let weights = range(&header.weights);
    match check {
        WeightsCheck::Skip => Ok(()),
        WeightsCheck::Full => check_hash("weights", &bytes.all()[weights], &header.weights),
        WeightsCheck::Quick => match QuickSum::of(bytes, weights).finish() == header.weights_sum {
            true => Ok(()),
            false => Err(damaged("weights", "their sum does not match".into())),
        },
    }
}

fn damaged(section: &'static str, detail: String) -> FileProblem {
    FileProblem::Damaged { section, detail }
}

#[cfg(test)]
#[path = "artifact_tests.rs"]
mod tests;
