//! The program `egret`: see [`cli`] for its verbs, and the library `egret` for the same from Rust.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
