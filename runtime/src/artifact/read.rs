//! Reads artifacts: every section is checked before anything of it is used.

use super::sum::QuickSum;
use super::{
    Bytes, FORMAT_VERSION, HASH_AT, Header, Loaded, MAGIC, PAGE, ProgramHeader, RECORD_AT, RECORD_LENGTH_AT, Section, VERSION_AT,
    WeightsCheck, check_agreement, header_hash, image,
};
use crate::error::FileProblem;
use crate::plan::Plan;
use std::ops::Range;

pub(super) fn range(section: &Section) -> Range<usize> {
    section.offset as usize..(section.offset + section.bytes) as usize
}

/// Everything but the processor is checked here, from the outside in.
pub(super) fn read_checked(bytes: &Bytes, check: WeightsCheck) -> Result<(Header, Vec<Loaded>), FileProblem> {
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

pub(super) fn check_hash(name: &'static str, bytes: &[u8], section: &Section) -> Result<(), FileProblem> {
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
