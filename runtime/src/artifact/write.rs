//! Writes artifacts: programs, then weights as they come.
//!
//! **Invariant.** A file appears under its name only when it is complete, and what it holds passed the checks that reading makes.

use super::sum::QuickSum;
use super::{
    FORMAT_VERSION, HASH_AT, Header, MAGIC, PAGE, Program, ProgramHeader, RECORD_AT, RECORD_LENGTH_AT, Section, VERSION_AT,
    check_agreement, header_hash, image,
};
use crate::cpu::HUGE_PAGE;
use crate::error::{Error, FileProblem, Result};
use crate::plan::{ALIGN, SLACK};
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Cursor, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

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
pub(super) const IN_MEMORY: &str = "<memory>";

fn bad_plan(path: String, problem: String) -> Error {
    Error::Artifact { path, problem: FileProblem::Plan(problem) }
}

/// A name beside `path`, so that renaming it to `path` replaces that at once.
pub(super) fn partial_name(path: &Path) -> PathBuf {
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
