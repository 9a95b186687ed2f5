//! Installs what the build needs beside Rust and a C compiler: LLVM with its headers, and a C++ compiler.
//!
//! A second run finds everything in place and changes nothing.

use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::process;

/// The release of LLVM that `codegen` is written against; `Cargo.toml` names it in a feature of inkwell.
const LLVM: &str = "22";

/// Where llvm-sys looks first for an LLVM that is not on the PATH.
const PREFIX_VARIABLE: &str = "LLVM_SYS_221_PREFIX";

/// Something the build needs, how to see that it is there, and the package that brings it.
struct Need {
    what: &'static str,
    package: &'static str,
    is_met: fn() -> bool,
}

const NEEDS: &[Need] = &[
    Need { what: "LLVM 22 with its headers", package: "llvm-22-dev", is_met: has_llvm },
    // A C compiler alone does not do: LLVM's library is linked against libstdc++, which comes with g++.
    Need { what: "a C++ compiler", package: "g++", is_met: || process::is_installed("g++") },
];

/// Installs the packages of the unmet needs with apt-get.
pub(crate) fn run() -> Result {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    if let Some(prefix) = llvm_prefix().filter(|_| !has_llvm()) {
        return Err(format!(
            "{PREFIX_VARIABLE} is {prefix}, but there is no LLVM {LLVM} with headers; \
             correct the variable, or unset it to have LLVM installed"
        ));
    }
    install(&missing)?;
    match self::missing().as_slice() {
        [] => Ok(()),
        still => Err(format!("apt-get succeeded, but {} cannot be found", list(still, " and ", |need| need.what))),
    }
}

fn missing() -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| !(need.is_met)()).collect()
}

fn install(needs: &[&Need]) -> Result {
    let packages = list(needs, " ", |need| need.package);
    let by_hand = format!(
        "install {} by other means, with llvm-config-{LLVM} on the PATH or {PREFIX_VARIABLE} set \
         to LLVM's folder (https://apt.llvm.org has it for releases of Debian and Ubuntu that do not)",
        list(needs, " and ", |need| need.what)
    );
    if !process::is_installed("apt-get") {
        return Err(format!("there is no apt-get here; {by_hand}"));
    }
    if !is_root() && !process::is_installed("sudo") {
        return Err(format!("{packages} cannot be installed without root or sudo; {by_hand}"));
    }
    eprintln!("xtask: installing {packages}");
    apt_get("update")
        .and_then(|()| apt_get(&format!("install --yes --no-install-recommends {packages}")))
        .map_err(|error| format!("{error}; {by_hand}"))
}

/// Runs apt-get as root; it waits for another apt-get to finish, and asks nothing.
fn apt_get(words: &str) -> Result {
    let settings = [
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "--quiet",
        "--option=DPkg::Lock::Timeout=300", // seconds
        "--option=Acquire::Retries=3",
    ];
    let mut command = Command::new(if is_root() { "env" } else { "sudo" });
    process::run(command.args(settings).args(words.split(' ')))
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

/// llvm-sys accepts any LLVM from 22 on, and fails to link with a later one: the release is compared here.
fn has_llvm() -> bool {
    let config = match llvm_prefix() {
        Some(prefix) => format!("{prefix}/bin/llvm-config"),
        None => format!("llvm-config-{LLVM}"),
    };
    let ask = |flag| {
        let output = Command::new(&config).arg(flag).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let is_release = ask("--version").is_some_and(|version| is_llvm_release(&version));
    is_release && ask("--includedir").is_some_and(|dir| Path::new(&dir).join("llvm-c/Core.h").exists())
}

fn is_llvm_release(version: &str) -> bool {
    version.split('.').next() == Some(LLVM)
}

fn llvm_prefix() -> Option<String> {
    std::env::var(PREFIX_VARIABLE).ok()
}

fn list(needs: &[&Need], separator: &str, name: fn(&Need) -> &str) -> String {
    let names: Vec<_> = needs.iter().map(|need| name(need)).collect();
    names.join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_release_itself_is_accepted() {
        let accepted = ["22.1.8", "22.1.0git", "23.1.0", "14.0.6", "2.2", ""].map(is_llvm_release);
        assert_eq!(accepted, [true, true, false, false, false, false]);
    }

    #[test]
    fn needs_name_the_release() {
        assert!(NEEDS[0].what.contains(LLVM) && NEEDS[0].package.contains(LLVM));
    }
}
