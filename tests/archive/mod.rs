//! Archives of test cases, unpacked where Cargo keeps what tests make.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Tests of one process take turns.
static TURN: Mutex<()> = Mutex::new(());

/// The folder of an archive's files, unpacked once.
pub fn unpacked(archive: &Path) -> PathBuf {
    let _turn = TURN.lock().unwrap();
    let packed = fs::read(archive).unwrap();
    // Other processes unpack it, too: each makes a folder, and the first to be done gives it its name.
    let name = archive.file_name().unwrap().to_string_lossy().replace('.', "_");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}_{}_{}", packed.len(), checksum(&packed)));
    if !folder.is_dir() {
        let fresh = folder.with_extension(std::process::id().to_string());
        let mut plain = vec![];
        lzma_rs::xz_decompress(&mut packed.as_slice(), &mut plain).unwrap();
        tar::Archive::new(plain.as_slice()).unpack(&fresh).unwrap();
        if fs::rename(&fresh, &folder).is_err() {
            fs::remove_dir_all(&fresh).unwrap();
        }
    }
    folder
}

/// Tells archives apart; not meant to withstand anybody.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |sum: u32, byte| sum.rotate_left(5) ^ u32::from(*byte))
}
