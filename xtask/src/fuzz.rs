//! Imports many models with wrong structure: the test `mutants` of the frontend, longer than the suite runs it.
//!
//! ```text
//! $ cargo xtask fuzz 20000
//! 10000 mutants: 3012 models, 6988 errors, 203 MiB
//! 20000 mutants: 6026 models, 13974 errors, 203 MiB
//! ```

use crate::Result;
use crate::process::{self, cargo};
use crate::setup;

/// Mutants of a run that is given no number.
const MANY: &str = "100000";

/// Arguments: how many mutants, and the seed of the first.
pub(crate) fn run(args: &[String]) -> Result {
    let (count, first) = match args {
        [] => (MANY, "0"),
        [count] => (count.as_str(), "0"),
        [count, first] => (count.as_str(), first.as_str()),
        _ => return Err("`fuzz` takes a number of mutants and a first seed".to_string()),
    };
    if let Some(wrong) = [count, first].into_iter().find(|text| text.parse::<u64>().is_err()) {
        return Err(format!("`{wrong}` is not a number of mutants, nor a seed"));
    }
    setup::run()?;
    let mut test = cargo("test --release --package egret-frontend --test mutants -- --nocapture");
    process::run(test.env("EGRET_MUTANTS", count).env("EGRET_FIRST_MUTANT", first))
}
