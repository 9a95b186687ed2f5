//! The textual form of a graph: read, printed, diffed and snapshot-tested.
//!
//! Invariant: what [`print()`] writes with [`Options::lossless`], [`parse()`] reads back as an equal graph; names are never
//! renumbered. One node stands on a line, columns are aligned, attributes with their default value are left out:
//!
//! ```text
//! # Two-layer perceptron, as imported.
//! graph mlp(x: f32[N, 784]) -> f32[N, 3], i64[N, 3] {
//!     const w1: f32[784, 128] = random(1)
//!     const b1: f32[128]      = splat(0.1)
//!     h    = matmul(x, w1)          : f32[N, 128]          @ "/fc1/MatMul"
//!     hb   = add(h, b1)             : f32[N, 128]
//!     y, i = top_k[axis=1, k=3](hb) : f32[N, 3], i64[N, 3] @ "/topk/TopK"
//!     return y as scores, i
//! }
//! ```
//!
//! The grammar (`*` repeats, `?` may be missing; lists are separated by commas and may end with one):
//!
//! ```text
//! graph   = "graph" name "(" {name ":" type} ")" ("->" {type})? "{" body "}"
//! body    = (const | node)* "return" {name ("as" name)?}
//! const   = "const" name ":" type "=" data
//! data    = element | "[" {element} "]" | "splat(" element ")" | "random(" seed ")" | "data(blake3:" hash ")"
//! node    = {name} "=" (apply | kernel | control)
//! apply   = op ("[" {(attribute "=")? value} "]")? "(" {name} ")" notes
//! kernel  = "kernel" name "(" {name ("=" name)?} ")" notes "{" body "}"
//! control = ("repeat" | "branch") name attributes? "(" {name (":" type)? ("=" name)?} ")" notes "{" body "}" ("else" "{" body "}")?
//! notes   = (":" {type})? ("@" {string})?
//! type    = dtype "[" {extent} "]"
//! ```
//!
//! - Types may be left out; a type that is not the one inference gives is an error.
//! - `@` names the nodes of the original model that a node came from.
//! - The elements of a list stand in row-major order. `random(seed)` is [`crate::random`]. `data(...)` stands for data
//!   too large to print, by the hash of its bytes; to read it back, the data must be at hand ([`Reader::resolve`]).
//! - A kernel's body sees its parameters only: `kernel k0(x = a, w)` binds `x` to `a` and `w` to `w`.
//! - So does that of a loop or a branch ([`crate::region`]), whose results' types have to stand there. A parameter has the type of its
//!   operand, unless another one is given.
//! - Names with other characters than letters, digits and `_ . / - %` are quoted; `#` starts a comment.

mod data;
mod parse;
mod print;
#[cfg(test)]
mod tests;

pub use parse::{Reader, TextError, parse};
pub use print::{Options, Regions, print};

use crate::expr::is_name_char;
use crate::tensor::Tensor;
use std::borrow::Cow;

/// The words that start a statement; a value of such a name is quoted.
const KEYWORDS: [&str; 3] = ["const", "return", "as"];

/// The hash that stands for data too large to print: the first 128 bits of blake3 over the bytes, in hex.
pub fn content_hash(tensor: &Tensor) -> String {
    blake3::hash(tensor.bytes()).to_hex()[..32].to_string()
}

/// A name as it stands in text: quoted if it would not be read back otherwise.
pub fn name(name: &str) -> Cow<'_, str> {
    let plain = !name.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '.'))
        && !name.is_empty()
        && name.chars().all(is_name_char)
        && !KEYWORDS.contains(&name);
    if plain { name.into() } else { quoted(name).into() }
}

/// A symbol as it stands in an extent, where `-` and `/` are no part of a name.
pub fn symbol(name: &str) -> Cow<'_, str> {
    let plain = !name.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && !name.is_empty()
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.'))
        && !["inf", "NaN"].contains(&name);
    if plain { name.into() } else { quoted(name).into() }
}

/// A string in quotes, on one line.
pub fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The end of a message: the candidate that `word` was probably meant to be, if one is near.
pub(crate) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    // A third of the letters may be wrong: `matmul` is offered for `matmil`, not for `max`.
    let reach = (word.chars().count() / 3).max(1);
    let distance = |candidate: &&str| strsim::damerau_levenshtein(word, candidate);
    match candidates.into_iter().min_by_key(distance).filter(|c| distance(c) <= reach) {
        Some(candidate) => format!("; did you mean `{candidate}`?"),
        None => String::new(),
    }
}
