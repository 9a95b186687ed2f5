//! The caches that the system says there are.
//!
//! ```text
//! /sys/devices/system/cpu/cpu0/cache/index0/{level,type,size,shared_cpu_list}: 1, Data, 32K, 0
//! ```

use std::path::Path;

/// A cache for data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cache {
    /// 1 for the nearest.
    pub level: usize,
    /// Its length.
    pub bytes: u64,
    /// Cores that share it.
    pub cores: usize,
}

/// The data caches of the first core, nearest first; none where the system does not say.
pub(super) fn caches() -> Vec<Cache> {
    read(Path::new("/sys/devices/system/cpu/cpu0/cache"))
}

fn read(dir: &Path) -> Vec<Cache> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut caches: Vec<Cache> = entries.filter_map(|entry| cache(&entry.path())).collect();
    caches.sort_by_key(|cache| cache.level);
    caches
}

fn cache(dir: &Path) -> Option<Cache> {
    let text = |name: &str| Some(std::fs::read_to_string(dir.join(name)).ok()?.trim().to_string());
    if text("type")? == "Instruction" {
        return None;
    }
    Some(Cache { level: text("level")?.parse().ok()?, bytes: size(&text("size")?)?, cores: listed(&text("shared_cpu_list")?)? })
}

/// `32K`, `8M`.
fn size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.len().checked_sub(1)?);
    let unit = match unit {
        "K" => 1 << 10,
        "M" => 1 << 20,
        _ => return text.parse().ok(),
    };
    Some(number.parse::<u64>().ok()? * unit)
}

/// How many numbers a list such as `0-3,8` names.
fn listed(text: &str) -> Option<usize> {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        (last.parse::<usize>().ok()? + 1).checked_sub(first.parse().ok()?)
    };
    text.split(',').map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_writes_sizes_and_lists() {
        assert_eq!(["32K", "8M", "512", "", "xK"].map(size), [Some(32 << 10), Some(8 << 20), Some(512), None, None]);
        assert_eq!(["0", "0-3", "0-3,8,10-11", "3-1", "a"].map(listed), [Some(1), Some(4), Some(7), None, None]);
    }

    #[test]
    fn caches_for_instructions_are_left_out_and_the_nearest_comes_first() {
        let dir = std::env::temp_dir().join(format!("egret-caches-{}", std::process::id()));
        for (name, files) in [
            ("index0", ["3", "Unified", "32M", "0-7"]),
            ("index1", ["1", "Instruction", "32K", "0"]),
            ("index2", ["1", "Data", "48K", "0"]),
        ] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
            for (file, text) in ["level", "type", "size", "shared_cpu_list"].iter().zip(files) {
                std::fs::write(dir.join(name).join(file), format!("{text}\n")).unwrap();
            }
        }
        let found = read(&dir);
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(found, [Cache { level: 1, bytes: 48 << 10, cores: 1 }, Cache { level: 3, bytes: 32 << 20, cores: 8 }]);
        assert_eq!(read(&dir), []);
    }
}
