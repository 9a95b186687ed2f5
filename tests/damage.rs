//! Damaged files: every one ends with exit code 3 or 4 and a sentence, never with a panic, a signal or a heap of memory.

use std::path::{Path, PathBuf};
use std::process::Command;

const MODELS: [&str; 3] = ["digits_cnn", "digits_lstm", "digits_vit"];

/// What the program may use, in KiB of address space: 2 GiB. An allocation beyond it fails, and the program aborts.
const MEMORY: &str = "2097152";

/// The nodes stand at the beginning of an ONNX file. Damage further back may lie in a weight, which has no wrong values.
const STRUCTURE: usize = 1024;

/// A small generator of pseudo-random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

fn truncated(whole: &[u8], random: &mut Random) -> Vec<u8> {
    whole[..random.below(whole.len())].to_vec()
}

/// One bit in `range` is another.
fn flipped(whole: &[u8], random: &mut Random, range: usize, flips: usize) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    (0..flips).for_each(|_| bytes[random.below(range)] ^= 1 << random.below(8));
    bytes
}

/// The first block and another have changed places; they are not the same.
fn swapped(whole: &[u8], random: &mut Random, length: usize) -> Vec<u8> {
    let (mut bytes, blocks) = (whole.to_vec(), whole.len() / length);
    while bytes == whole {
        let other = 1 + random.below(blocks - 1);
        (0..length).for_each(|i| bytes.swap(i, other * length + i));
    }
    bytes
}

fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("damage");
    std::fs::create_dir_all(&dir).unwrap();
    dir.join(name)
}

/// Runs `egret VERB FILE` with limited memory and expects a sentence and exit code 3 or 4.
fn check(verb: &str, name: &str, bytes: &[u8]) {
    let file = scratch(name);
    std::fs::write(&file, bytes).unwrap();
    let script = format!("ulimit -v {MEMORY}; exec \"$0\" \"$@\"");
    let output =
        Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_egret"), verb]).arg(&file).args(["--threads", "1"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let what = format!("{verb} {}: {} {said}", file.display(), output.status);
    assert!(matches!(output.status.code(), Some(3 | 4)), "{what}");
    assert!(said.starts_with("error") && said.trim().contains(' '), "{what}");
    std::fs::remove_file(file).unwrap();
}

fn damaged_models(name: &str) {
    let whole = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/models/{name}.onnx"))).unwrap();
    let mut random = Random(whole.len() as u64);
    for i in 0..12 {
        check("run", &format!("{name}-truncated-{i}.onnx"), &truncated(&whole, &mut random));
        check("run", &format!("{name}-flipped-{i}.onnx"), &flipped(&whole, &mut random, STRUCTURE, 64));
        check("run", &format!("{name}-swapped-{i}.onnx"), &swapped(&whole, &mut random, whole.len() / 8));
    }
}

#[test]
fn models_cnn() {
    damaged_models(MODELS[0]);
}

#[test]
fn models_lstm() {
    damaged_models(MODELS[1]);
}

#[test]
fn models_vit() {
    damaged_models(MODELS[2]);
}

/// A model with code for these targets.
fn compiled(targets: &str) -> egret::Artifact {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models/digits_cnn.onnx");
    egret::Compiler::new().target(targets).compile(model).unwrap()
}

fn damaged_artifacts(targets: &str) {
    let artifact = compiled(targets);
    let whole = artifact.bytes();
    let mut random = Random(1);
    for i in 0..32 {
        check("run", &format!("{targets}-truncated-{i}.egret"), &truncated(whole, &mut random));
        check("run", &format!("{targets}-flipped-{i}.egret"), &flipped(whole, &mut random, whole.len(), 1));
        check("run", &format!("{targets}-swapped-{i}.egret"), &swapped(whole, &mut random, 4096));
    }
}

#[test]
fn artifacts() {
    damaged_artifacts("native");
}

#[test]
fn artifacts_with_code_for_a_gpu() {
    damaged_artifacts("native,cuda:sm_80");
}

/// Code for a GPU is checked even where that for the processor is run.
#[test]
fn every_part_of_the_code_for_a_gpu_counts() {
    let artifact = compiled("native,cuda:sm_80");
    let program = &artifact.header().programs[1];
    assert!(program.target.is_gpu() && artifact.image_of(1).is_some());
    for section in [&program.manifest, &program.code] {
        for at in (section.offset..section.offset + section.bytes).step_by(section.bytes as usize / 8 - 1) {
            let mut bytes = artifact.bytes().to_vec();
            bytes[at as usize] ^= 0x01;
            check("run", &format!("gpu-{at}.egret"), &bytes);
        }
    }
}

#[test]
fn every_byte_of_the_header_counts() {
    let artifact = compiled("native,cuda:sm_80");
    let whole = artifact.bytes();
    for at in (0..64).chain((64..4096).step_by(503)) {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 0x40;
        check("run", &format!("header-{at}.egret"), &bytes);
    }
}
