//! What can go wrong, each as a sentence that says where, what was expected, what was found, and what to do.
//!
//! **Invariant.** Every message stands alone: it names the file, input or dimension it is about, so that a program can print
//! it as it is. [`Error::exit_code`] sorts the errors into the exit codes of the command line.

use std::io;

/// The result of the fallible operations of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Anything that can go wrong while loading or running a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// An artifact cannot be used.
    #[error("{path}: {problem}")]
    Artifact {
        /// The file, or `<memory>`.
        path: String,
        /// What is wrong with it.
        problem: FileProblem,
    },
    /// A tensor file cannot be used.
    #[error("{path}: {problem}")]
    Npy {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The caller gave inputs, outputs or dimensions that do not fit the model.
    #[error("{0}")]
    Usage(String),
    /// The machine has not enough memory or threads.
    #[error("{0}")]
    Resource(String),
    /// The GPU that was asked for is not there, or cannot do what is asked of it.
    #[error("{0}")]
    Device(String),
}

impl Error {
    /// The exit code of a command that ends with this error: 2 usage, 3 no such GPU, 4 bad file, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Device(_) => 3,
            Error::Io { .. } | Error::Artifact { .. } | Error::Npy { .. } => 4,
            Error::Resource(_) => 1,
        }
    }

    pub(crate) fn io(path: &std::path::Path, source: io::Error) -> Error {
        Error::Io { path: path.display().to_string(), source }
    }

    pub(crate) fn memory(what: &str, bytes: u64) -> Error {
        Error::Resource(format!("{what} needs {bytes} bytes, more memory than this machine gives"))
    }
}

/// Why a file cannot be run as an artifact. Nothing of its code has run when this is reported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileProblem {
    /// The file does not begin as an artifact does.
    #[error(
        "this is not an Egret artifact (it does not begin with the bytes `EGRET`); make one with `egret compile model.onnx -o model.egret`"
    )]
    NotAnArtifact,
    /// The file ends too early.
    #[error("the file is truncated: {expected} bytes were expected, {found} found; copy it again or compile it again")]
    Truncated {
        /// Bytes that the header promises.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A part of the file is not what was written.
    #[error("the file is damaged in its {section} ({detail}); copy it again or compile it again")]
    Damaged {
        /// `header`, `manifest`, `code`, `weights`, `padding` or `end`.
        section: &'static str,
        /// What gave it away.
        detail: String,
    },
    /// The file was written by another version of Egret.
    #[error("the file has format {found}, this runtime reads format {known}; {help}")]
    Version {
        /// Format of the file.
        found: u32,
        /// The format this runtime reads.
        known: u32,
        /// What to do.
        help: &'static str,
    },
    /// The code is for another kind of processor.
    #[error("the code is for {wanted}, this machine is {found}; compile the model again with `--target` for this machine")]
    ForeignArchitecture {
        /// The processor architecture compiled for.
        wanted: String,
        /// The architecture of this machine.
        found: String,
    },
    /// The file has code for GPUs alone.
    #[error(
        "the file holds code for {} only; run it on such a GPU with `--device cuda:0`, or compile the model with `--target native,{}`",
        .targets.join(" and "), .targets.join(",")
    )]
    OnlyGpu {
        /// What there is code for, as `--target` takes it.
        targets: Vec<String>,
    },
    /// The file has no code that a GPU can run.
    #[error(
        "the file holds code for {}, of which {device} runs none; compile the model with `--target {}`",
        .targets.join(" and "), .wanted.map_or("cuda".to_string(), |arch| format!("cuda:{arch}"))
    )]
    NoCodeFor {
        /// What there is code for, as `--target` takes it.
        targets: Vec<String>,
        /// What was to run it.
        device: String,
        /// The architecture of that, if it has one.
        wanted: Option<crate::gpu::Arch>,
    },
    /// The code uses instructions this processor does not have.
    #[error(
        "the code needs the processor features {}, which this machine does not have; compile the model again with `--target native` on this machine or with an older `--target`",
        .missing.join(", ")
    )]
    MissingFeatures {
        /// The features, by LLVM's names.
        missing: Vec<String>,
    },
    /// The plan contradicts itself or the rest of the file.
    #[error("the plan of the file is not valid: {0}; compile the model again, and report this if it stays")]
    Plan(String),
    /// The operating system refused to map the code as executable.
    #[error("the code of the file cannot be made executable: {0}")]
    NoExec(io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stand_alone() {
        let problem = FileProblem::Version { found: 9, known: 1, help: "update Egret" };
        let error = Error::Artifact { path: "a.egret".into(), problem };
        assert_eq!(error.to_string(), "a.egret: the file has format 9, this runtime reads format 1; update Egret");
        assert_eq!(error.exit_code(), 4);
        assert_eq!(Error::Usage("x".into()).exit_code(), 2);
    }
}
