//! What can go wrong between a grouped graph and an artifact.

use crate::cpu::CompileError;
use crate::cuda::CudaError;

/// Why a graph did not become an artifact.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value has no kernel.
    #[error(transparent)]
    Lower(Box<CannotLower>),
    /// An extent depends on a symbol that no input tells.
    #[error(
        "the extent {extent} depends on `{symbol}`, which is no extent of an input by itself; give it a number with --dim {symbol}=..."
    )]
    Unbound {
        /// The symbol.
        symbol: String,
        /// The extent.
        extent: String,
    },
    /// A graph with strings contradicts itself: a sentence.
    #[error("the graph cannot be compiled: {0}")]
    Graph(String),
    /// The kernels did not become code.
    #[error(transparent)]
    Compile(Box<CompileError>),
    /// The kernels did not become PTX.
    #[error(transparent)]
    Cuda(Box<CudaError>),
    /// The PTX did not become the code of an artifact.
    #[error("the code for a GPU cannot be written: {0}")]
    Image(String),
    /// The artifact could not be written.
    #[error(transparent)]
    Artifact(Box<egret_runtime::Error>),
}

/// A value that has no kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{value}`: cannot lower `{op}` of ({operands}) to {result}{origin}: {reason}")]
pub struct CannotLower {
    /// The value's name.
    pub value: String,
    /// The op that makes it.
    pub op: String,
    /// The operands' types.
    pub operands: String,
    /// The value's type.
    pub result: String,
    /// The nodes of the original model, as they are put into a sentence.
    pub origin: String,
    /// A sentence.
    pub reason: String,
}

impl From<CannotLower> for Error {
    fn from(e: CannotLower) -> Error {
        Error::Lower(Box::new(e))
    }
}

impl From<CompileError> for Error {
    fn from(e: CompileError) -> Error {
        Error::Compile(Box::new(e))
    }
}

impl From<CudaError> for Error {
    fn from(e: CudaError) -> Error {
        Error::Cuda(Box::new(e))
    }
}

impl From<egret_runtime::Error> for Error {
    fn from(e: egret_runtime::Error) -> Error {
        Error::Artifact(Box::new(e))
    }
}
