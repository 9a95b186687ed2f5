//! Numbers what is applied to a graph, so that a wrong application can be found by halving.
//!
//! Every application of a rule and every pass that changes a graph and can be left out has a number, the same whenever the
//! same graph is compiled the same way. With a limit of `n`, the first `n` are applied and no more; what must be done to have
//! code at all is always done. After LLVM's `-opt-bisect-limit`.
//!
//! ```text
//! 1 cse   2 rewrite: silu   3 rewrite: mul_hoist   4 group
//! ```

use std::cell::Cell;
use std::fmt;

/// What can be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The rule of this name, once.
    Rule(&'static str),
    /// The pass of this name.
    Pass(&'static str),
}

impl Applied {
    /// The name, by which it can be left out.
    pub fn name(self) -> &'static str {
        match self {
            Applied::Rule(name) | Applied::Pass(name) => name,
        }
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Applied::Rule(name) => write!(f, "rule `{name}`"),
            Applied::Pass(name) => write!(f, "pass `{name}`"),
        }
    }
}

/// How many applications there may be, and how many there were.
#[derive(Clone, Debug, Default)]
pub struct Limit {
    most: Option<usize>,
    applied: Cell<usize>,
    last: Cell<Option<Applied>>,
}

impl Limit {
    /// At most so many applications.
    pub fn of(most: usize) -> Limit {
        Limit { most: Some(most), ..Limit::default() }
    }

    /// Whether nothing more may be applied.
    pub fn is_reached(&self) -> bool {
        self.most.is_some_and(|most| self.applied.get() >= most)
    }

    /// Numbers one more application.
    pub fn apply(&self, applied: Applied) {
        self.applied.set(self.applied.get() + 1);
        self.last.set(Some(applied));
    }

    /// How many applications there were.
    pub fn applied(&self) -> usize {
        self.applied.get()
    }

    /// What was applied last.
    pub fn last(&self) -> Option<Applied> {
        self.last.get()
    }
}
