//! How large a model may be: beyond, it is refused with a sentence, so that no file makes the importer take minutes, gigabytes or
//! the whole stack.
//!
//! | what | at most | error |
//! | --- | --: | --- |
//! | messages inside messages of the file | [`MAX_MESSAGES`] | E0101 |
//! | bytes of a tensor | what the file holds | E0101 |
//! | functions, branches and loops inside each other | [`MAX_GRAPHS`] | E0111 |
//! | nodes, functions and loops unfolded | [`MAX_NODES`] | E0111 |
//! | extent of an input | [`MAX_EXTENT`] | E0201 |
//!
//! Operators that become many nodes or large tables have limits of their own, beside their importers. `tests/mutants.rs` holds the
//! importer to 10 s and 1 GiB for each of its models.

/// Messages inside messages: enough for 30 nested subgraphs, and below the limit of 100 of the protobuf parser.
pub const MAX_MESSAGES: usize = 96;

/// Functions and branches inside each other; models have two or three. Keeps hostile files from overflowing the stack.
pub const MAX_GRAPHS: usize = 40;

/// Nodes after inlining. The largest models have some ten thousand; functions that call functions can ask for any number.
pub const MAX_NODES: usize = 1 << 18;

/// The largest extent of an input: what symbols are taken to be at most.
pub const MAX_EXTENT: i64 = egret_ir::known::LARGEST_EXTENT;

/// Problems after which the import gives up looking for more.
pub const MAX_PROBLEMS: usize = 1000;
