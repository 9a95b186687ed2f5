//! Why there is no result, sorted by who can do something about it.
//!
//! **Invariant.** Every message stands alone: it names the file, node, input or flag, what was expected, what was found, and
//! where it helps what to do. [`Error::exit_code`] is the exit code of the command line.

/// Anything that keeps a model from being compiled or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A check was made and failed: the outputs of compiled code are too far from the reference.
    #[error("{0}")]
    Check(String),
    /// This machine lacks memory or threads.
    #[error("{0}")]
    Resource(String),
    /// What was asked for does not fit: a name, a shape, a target, a pass.
    #[error("{0}")]
    Usage(String),
    /// The model is readable but uses what Egret cannot compile, all problems that were found, one after another; or the GPU that was
    /// asked for is not there.
    #[error("{0}")]
    Unsupported(String),
    /// A file is missing, damaged, of the wrong kind, or cannot be written.
    #[error("{0}")]
    File(String),
    /// Egret contradicts itself: a mistake of its own, to be reported.
    #[error("{0}")]
    Bug(String),
}

impl Error {
    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Check(_) | Error::Resource(_) => 1,
            Error::Usage(_) => 2,
            Error::Unsupported(_) => 3,
            Error::File(_) => 4,
            Error::Bug(_) => 101,
        }
    }
}

impl From<egret_runtime::Error> for Error {
    fn from(error: egret_runtime::Error) -> Error {
        let message = error.to_string();
        match error.exit_code() {
            2 => Error::Usage(message),
            3 => Error::Unsupported(message),
            4 => Error::File(message),
            _ => Error::Resource(message),
        }
    }
}

impl From<egret_frontend::ImportError> for Error {
    fn from(error: egret_frontend::ImportError) -> Error {
        use egret_frontend::ImportError::{File, Options, Unsupported};
        let message = error.to_string();
        match error {
            Options(_) => Error::Usage(message),
            Unsupported(_) => Error::Unsupported(message),
            File(_) => Error::File(message),
        }
    }
}

impl From<egret_codegen::Error> for Error {
    fn from(error: egret_codegen::Error) -> Error {
        use egret_codegen::Error::{Artifact, Compile, Cuda, Graph, Image, Lower, Unbound};
        use egret_codegen::cuda::CudaError;
        match error {
            Lower { .. } | Unbound { .. } => Error::Unsupported(error.to_string()),
            Compile(error) => Error::Bug(error.to_string()),
            Cuda(error) => match *error {
                CudaError::Uncovered(_) => Error::Unsupported(error.to_string()),
                CudaError::Compile(_) => Error::Bug(error.to_string()),
            },
            Image(_) | Graph(_) => Error::Bug(error.to_string()),
            Artifact(error) => (*error).into(),
        }
    }
}
