//! The file format: what is written is read, and damage of every kind is found.

use super::sum::{BYTES_PER_THREAD, QuickSum};
use super::*;
use crate::cpu::HUGE_PAGE;
use crate::plan::SLACK;
use crate::testing::{Random, chain, dynamic_chain, gpu_target, host_target, image, written};
use std::borrow::Cow;

/// A small artifact, for this processor and a GPU, with weights that nothing reads.
fn sample() -> Vec<u8> {
    let weights = [vec![1u8; 100], vec![2; 64], vec![3; 7]];
    let plan = chain(3);
    let (host, gpu, image) = (host_target(), gpu_target(), image(&plan).to_bytes().unwrap());
    let programs = [Program { target: &host, plan: &plan, code: b"\xc3\xc3\xc3" }, Program { target: &gpu, plan: &plan, code: &image }];
    to_bytes(&programs, weights.iter().map(Cow::from)).unwrap()
}

fn problem(bytes: &[u8], check: WeightsCheck) -> String {
    Artifact::from_bytes(bytes, check).err().expect("an error").to_string()
}

#[test]
fn what_is_written_is_read_and_the_bytes_are_always_the_same() {
    let bytes = sample();
    assert_eq!(bytes, sample());
    for check in [WeightsCheck::Quick, WeightsCheck::Full, WeightsCheck::Skip] {
        let artifact = Artifact::from_bytes(&bytes, check).unwrap();
        assert_eq!(*artifact.plan(), chain(3));
        assert_eq!(artifact.code_of(0), b"\xc3\xc3\xc3");
        assert_eq!(artifact.targets().cloned().collect::<Vec<_>>(), [host_target(), gpu_target()]);
        assert_eq!((artifact.image_of(0), artifact.image_of(1)), (None, Some(&image(&chain(3)))));
        assert_eq!(artifact.weights().len(), 128 + 64 + 64 + SLACK);
        assert_eq!((artifact.weights()[99], artifact.weights()[100], artifact.weights()[128]), (1, 0, 2));
        artifact.verify().unwrap();
    }
}

#[test]
fn files_are_written_whole_or_not_at_all() {
    let dir = crate::testing::TempDir::new("artifact");
    let path = dir.path().join("a.egret");
    let (plan, target) = (chain(1), host_target());
    let program = |code| [Program { target: &target, plan: &plan, code }];
    write_file(&path, &program(b"\xc3\xc3"), []).unwrap();
    let first = std::fs::read(&path).unwrap();
    let error = write_file(&path, &program(b""), []).unwrap_err();
    assert!(error.to_string().contains("of 0 bytes of code"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), first);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing partial stays behind");
    assert_eq!(*Artifact::open(&path, WeightsCheck::Quick).unwrap().plan(), chain(1));
}

#[test]
fn files_of_several_blocks_hold_the_bytes_that_memory_would() {
    let dir = crate::testing::TempDir::new("blocks");
    let path = dir.path().join("a.egret");
    let tensors = || [3, 2 * HUGE_PAGE + 100, 64, HUGE_PAGE / 2].into_iter().zip(1..).map(|(bytes, value)| vec![value; bytes].into());
    let (plan, target) = (chain(1), host_target());
    let program = [Program { target: &target, plan: &plan, code: b"\xc3\xc3" }];
    write_file(&path, &program, tensors()).unwrap();
    assert!(std::fs::read(&path).unwrap() == to_bytes(&program, tensors()).unwrap());
    Artifact::open(&path, WeightsCheck::Full).unwrap();
}

#[test]
fn what_is_no_artifact_is_named() {
    assert!(problem(b"", WeightsCheck::Quick).contains("not an Egret artifact"));
    assert!(problem(b"\x08\x07onnx", WeightsCheck::Quick).contains("not an Egret artifact"));
    let dir = crate::testing::TempDir::new("none");
    let open = |name: &str| Artifact::open(dir.path().join(name), WeightsCheck::Quick).err().expect("an error");
    assert!(open("absent").to_string().contains("absent: "));
    assert!(open("").to_string().contains("not a file"));
}

#[test]
fn other_versions_are_named() {
    let mut bytes = sample();
    bytes[VERSION_AT.start] = FORMAT_VERSION as u8 + 1;
    assert!(problem(&bytes, WeightsCheck::Quick).contains("newer Egret"));
    bytes[VERSION_AT.start] = 0;
    assert!(problem(&bytes, WeightsCheck::Quick).contains("has format 0"));
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = sample();
    for length in 1..bytes.len() {
        let problem = problem(&bytes[..length], WeightsCheck::Skip);
        assert!(problem.contains("truncated"), "{length}: {problem}");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(problem(&longer, WeightsCheck::Skip).contains("1 bytes follow"));
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let good = sample();
    let mut random = Random::new(42);
    for round in 0..4000 {
        let mut bytes = good.clone();
        // The bytes of the header one by one, then anywhere, between the sections too.
        let at = match round {
            0..600 => round,
            _ => random.below(good.len() as u64) as usize,
        };
        bytes[at] ^= 1 << random.below(8);
        for check in [WeightsCheck::Quick, WeightsCheck::Full] {
            assert!(Artifact::from_bytes(&bytes, check).is_err(), "byte {at}");
        }
    }
}

#[test]
fn the_quick_sum_sees_exchanged_blocks() {
    let tensors = [vec![1u8; 64], vec![2u8; 64]];
    let write = |order: [usize; 2]| {
        let weights = order.map(|i| Cow::from(&tensors[i]));
        written(&chain(1), b"\xc3\xc3", &host_target(), weights).unwrap()
    };
    let (straight, crossed) = (write([0, 1]), write([1, 0]));
    let at = straight.len() - 192;
    let forged = [&straight[..at], &crossed[at..]].concat();
    assert!(problem(&forged, WeightsCheck::Quick).contains("weights"));
    assert!(Artifact::from_bytes(&forged, WeightsCheck::Skip).unwrap().verify().is_err());
}

#[test]
fn the_quick_sum_of_parts_is_that_of_the_whole() {
    let bytes: Vec<u8> = (0..10_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let sum = |bytes: &[u8]| {
        let mut sum = QuickSum::default();
        sum.update(bytes);
        sum
    };
    for cut in [0, 64, 4096, 9984] {
        let (first, rest) = bytes.split_at(cut);
        assert_eq!(sum(first).followed_by(&sum(rest)).finish(), sum(&bytes).finish(), "cut at {cut}");
    }
    let long = bytes.repeat(2 * BYTES_PER_THREAD / bytes.len() + 3);
    let file = Bytes::Owned(AlignedBytes::copy_of(&long).unwrap());
    for part in [0..long.len(), 4096..long.len() - 64, 0..0] {
        assert_eq!(QuickSum::of(&file, part.clone()).finish(), sum(&long[part]).finish());
    }
}

#[test]
fn a_plan_that_lies_is_refused_when_written() {
    let mut plan = chain(1);
    plan.buffers[0].place = crate::plan::Place::Weights { offset: 64 };
    assert!(written(&plan, b"\xc3", &host_target(), []).is_err());
}

#[test]
fn programs_that_contradict_each_other_are_refused_when_written() {
    let (host, gpu) = (host_target(), gpu_target());
    let (fixed, free) = (chain(1), dynamic_chain(1));
    let image = image(&fixed).to_bytes().unwrap();
    let refused = |programs: &[Program<'_>], words: &str| {
        let error = to_bytes(programs, []).expect_err(words).to_string();
        assert!(error.contains(words), "expected `{words}` in `{error}`");
    };
    let code: &[u8] = b"\xc3";
    refused(&[], "holds no program");
    let different = [Program { target: &host, plan: &fixed, code }, Program { target: &gpu, plan: &free, code: &image }];
    refused(&different, "different inputs or outputs");
    refused(&[Program { target: &gpu, plan: &fixed, code: b"\xff\xff" }], "its code for a GPU cannot be read");
}
