//! From grouped graphs to native code and artifacts.

pub mod artifact;
pub mod cpu;
pub mod error;
pub mod interp;
pub mod interpret;
pub mod kernel;
pub mod lower;
pub mod object;
pub mod pack;
pub mod plan;
pub mod target;
#[cfg(test)]
mod testing;

pub use artifact::{Compiled, Options, Stage, compile};
pub use error::Error;
pub use interpret::run_interpreted;
pub use target::Target;
