//! Models that are wrong in their structure: every one ends in a graph that verifies or in an error, in bounded time and memory.
//!
//! A mutant is a model of `cases/` with some parts dropped, exchanged, pushed to the ends of their ranges or wired wrongly
//! (`common/mutate.rs`). What a seed stands for never changes, so a failure can be repeated:
//!
//! ```text
//! cargo xtask fuzz                      100,000 mutants
//! cargo xtask fuzz 1 4711               the one of seed 4711
//! EGRET_MODELS=DIR cargo xtask fuzz     mutants of the .onnx files in and below a folder, too
//! ```

mod common;

use common::mutate::mutate;
use common::random::Random;
use egret_frontend::{ImportOptions, import_bytes};
use onnx_protobuf::{Message, ModelProto};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// Mutants of a plain test run: a few seconds.
const FEW: u64 = 2000;

/// Longest time that the import of a mutant may take.
const LONGEST: Duration = Duration::from_secs(10);

/// Most memory that the process may have asked for, in KiB: 1 GiB.
const MOST_MEMORY: u64 = 1 << 20;

/// Largest file of `EGRET_MODELS` that is taken: what there is to mutate is the structure, not the weights.
const LARGEST: u64 = 1 << 20;

#[test]
fn mutants_are_errors_or_models() {
    let number = |name: &str, default: u64| env::var(name).ok().map_or(default, |text| text.parse().expect("a number"));
    let (count, first) = (number("EGRET_MUTANTS", FEW), number("EGRET_FIRST_MUTANT", 0));
    let models = models();
    assert!(models.len() > 100, "only {} models were found", models.len());
    let (mut imported, mut refused, mut failed) = (0u64, 0u64, vec![]);
    let watch = Watch::start();
    for seed in first..first + count {
        watch.on(seed);
        match catch_unwind(|| imports(seed, &models)) {
            Ok(true) => imported += 1,
            Ok(false) => refused += 1,
            Err(_) => failed.push(seed),
        }
        watch.check_memory(seed);
        if (seed - first) % 10_000 == 9_999 {
            println!("{} mutants: {imported} models, {refused} errors, {} MiB", seed - first + 1, memory() >> 10);
        }
    }
    watch.end();
    assert!(failed.is_empty(), "these mutants fail, each as said above: {failed:?}");
    assert!(count < FEW || imported * 10 > count && refused * 10 > count, "{imported} models, {refused} errors: too weak or too strong");
}

/// Whether the mutant of a seed is a model; its graph verifies, or its error says something.
fn imports(seed: u64, models: &[ModelProto]) -> bool {
    let mut random = Random::new(seed);
    let mut model = random.one(models).expect("there are models").clone();
    mutate(&mut model, models, &mut random);
    let bytes = model.write_to_bytes().expect("a message can be written");
    match import_bytes(bytes, &ImportOptions::default()) {
        Ok(import) => egret_ir::verify::verify(&import.graph).map(|()| true).unwrap_or_else(|error| panic!("mutant {seed}: {error}")),
        Err(error) => {
            assert!(!error.to_string().is_empty(), "mutant {seed}");
            false
        }
    }
}

/// The models of `cases/`, and those in and below the folder `EGRET_MODELS`.
fn models() -> Vec<ModelProto> {
    let mut files = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases"), "txt");
    files.sort();
    let texts: Vec<String> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let sections = texts.iter().flat_map(|text| text.split("\n## ")).filter_map(|section| section.split_once('\n'));
    let mut models: Vec<ModelProto> = sections.map(|(_, text)| common::model(text)).collect();
    if let Ok(folder) = env::var("EGRET_MODELS") {
        let mut given = self::files(Path::new(&folder), "onnx");
        given.retain(|file| fs::metadata(file).is_ok_and(|data| data.len() <= LARGEST));
        given.sort();
        models.extend(given.iter().map(|file| ModelProto::parse_from_bytes(&fs::read(file).unwrap()).unwrap()));
    }
    models
}

/// The files of an extension in and below a folder.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) = entries.into_iter().partition(|path| path.is_dir());
    let named = files.into_iter().filter(|path| path.extension().is_some_and(|found| found == extension));
    named.chain(folders.iter().flat_map(|folder| self::files(folder, extension))).collect()
}

/// The most memory that this process ever asked for, in KiB; 0 where the system does not say.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Looks at the clock while mutants are imported: a test that hangs cannot say which of them it was.
struct Watch {
    begin: Instant,
    /// Memory before the first mutant, in KiB.
    before: u64,
}

/// The seed at work, and when it began, in milliseconds from the start; no seed at the end.
static SEED: AtomicU64 = AtomicU64::new(u64::MAX);
static SINCE: AtomicU64 = AtomicU64::new(0);

impl Watch {
    fn start() -> Watch {
        let begin = Instant::now();
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_millis(500));
                let (seed, since) = (SEED.load(Relaxed), Duration::from_millis(SINCE.load(Relaxed)));
                if seed != u64::MAX && begin.elapsed().saturating_sub(since) > LONGEST {
                    eprintln!("mutant {seed} takes longer than {LONGEST:?}");
                    std::process::exit(1);
                }
            }
        });
        Watch { begin, before: memory() }
    }

    fn on(&self, seed: u64) {
        SINCE.store(self.begin.elapsed().as_millis() as u64, Relaxed);
        SEED.store(seed, Relaxed);
    }

    fn check_memory(&self, seed: u64) {
        let grown = memory().saturating_sub(self.before);
        assert!(grown <= MOST_MEMORY, "mutant {seed}: {} MiB of memory", grown >> 10);
    }

    fn end(&self) {
        SEED.store(u64::MAX, Relaxed);
    }
}
