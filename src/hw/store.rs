//! Keeps what was measured in the user's cache directory, so that measuring once per machine is enough.
//!
//! **Invariant.** A file is used only where processor and number of threads are those it was made with: both are in its name
//! and in the file.

use super::{Machine, measure};
use crate::error::Error;
use std::path::{Path, PathBuf};

/// The form of the file; one of another form is measured anew.
pub(super) const SCHEMA: &str = "egret.hw/2";

impl Machine {
    /// The file for this machine: `egret/hw-PROCESSOR-THREADS.json` in `$XDG_CACHE_HOME` or `~/.cache`.
    /// None if neither is known.
    pub fn cache_file() -> Option<PathBuf> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        let name = format!("hw-{}-{}.json", slug(&measure::processor().ok()?), egret_runtime::default_threads());
        Some(caches.join("egret").join(name))
    }

    /// What was measured of this machine before, if anything was.
    pub fn cached() -> Option<Machine> {
        Machine::read(&Machine::cache_file()?).filter(Machine::is_here)
    }

    fn read(path: &Path) -> Option<Machine> {
        let machine: Machine = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
        (machine.schema == SCHEMA && !machine.levels.is_empty()).then_some(machine)
    }

    fn is_here(&self) -> bool {
        self.threads == egret_runtime::default_threads() && measure::processor().is_ok_and(|here| here == self.processor)
    }

    /// Writes a file that [`Machine::cached`] would read.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let failed = |error: &dyn std::fmt::Display| Error::File(format!("{}: {error}", path.display()));
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(&error))? + "\n";
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir).map_err(|error| failed(&error))?;
        }
        std::fs::write(path, text).map_err(|error| failed(&error))
    }
}

/// Letters and digits, the rest as single dashes.
fn slug(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hw::tests::example;

    #[test]
    fn what_was_written_is_read_and_damage_is_not() {
        let dir = std::env::temp_dir().join(format!("egret-hw-{}", std::process::id()));
        let path = dir.join("deep/hw.json");
        example().write(&path).unwrap();
        assert_eq!(Machine::read(&path), Some(example()));
        assert!(!example().is_here(), "no processor has this name");
        for damaged in ["", "{}", "[1]"] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(Machine::read(&path), None, "{damaged}");
        }
        Machine { schema: "egret.hw/0".into(), ..example() }.write(&path).unwrap();
        assert_eq!(Machine::read(&path), None);
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(example().write(Path::new("/proc/nowhere/hw.json")).is_err());
    }

    #[test]
    fn names_of_processors_become_names_of_files() {
        assert_eq!(slug("AMD EPYC 9654 96-Core (znver4)"), "amd-epyc-9654-96-core-znver4");
    }
}
