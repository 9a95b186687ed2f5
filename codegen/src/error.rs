//! What can go wrong between a grouped graph and an artifact.

use crate::cpu::CompileError;

/// Why a graph did not become an artifact.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value has no kernel.
    #[error("`{value}`: cannot lower `{op}` of ({operands}) to {result}{origin}: {reason}")]
    Lower {
        /// The value's name.
        value: String,
        /// The op that makes it.
        op: String,
        /// The operands' types.
        operands: String,
        /// The value's type.
        result: String,
        /// The nodes of the original model, as they are put into a sentence.
        origin: String,
        /// A sentence.
        reason: String,
    },
    /// An extent depends on a symbol that no input tells.
    #[error("the extent {extent} depends on `{symbol}`, which is no extent of an input by itself; give it a number with --dim {symbol}=...")]
    Unbound {
        /// The symbol.
        symbol: String,
        /// The extent.
        extent: String,
    },
    /// The kernels did not become code.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The artifact could not be written.
    #[error(transparent)]
    Artifact(#[from] egret_runtime::Error),
}
