//! Why an op does not share the kernel of the op that reads it: each condition in a sentence, with what would have to hold.
//!
//! ```
//! use egret_passes::refusal::Refusal;
//!
//! assert_eq!(Refusal::Alone.unless(false), Err(Refusal::Alone));
//! assert_eq!(Refusal::Alone.reason(), "its op has a kernel to itself");
//! ```

use crate::cost::Picos;

/// A condition that a producer did not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// What reads it is an op that has a kernel to itself.
    ReaderAlone,
    /// It is an op that has a kernel to itself.
    Alone,
    /// It has several results.
    SeveralResults,
    /// Others read its result, or it is an output.
    ReadElsewhere,
    /// It feeds a contraction and is more than a view with linear strides.
    NotInPlace,
    /// It feeds a window.
    Window,
    /// It would be computed again for every element that reads it.
    Recomputed,
    /// Both have an anchor.
    TwoAnchors,
    /// It is an anchor whose result is not read element by element.
    NotAligned,
    /// It is a concatenation or a padding.
    JoinLast,
    /// The reader's kernel has as many ops as a kernel may have.
    Full,
    /// There are more ways to form the reader's kernel than are looked at.
    Untried,
    /// It may join, but a run would take longer by the cost model.
    Dearer {
        /// The time of a run if it joins.
        joined: Picos,
        /// The time of a run as it is.
        apart: Picos,
    },
}

impl Refusal {
    /// This refusal, unless the condition holds.
    ///
    /// # Errors
    /// The refusal.
    pub fn unless(self, holds: bool) -> Result<(), Refusal> {
        if holds { Ok(()) } else { Err(self) }
    }

    /// What stopped it.
    pub fn reason(self) -> String {
        let reason = match self {
            Refusal::ReaderAlone => "the op that reads it has a kernel to itself",
            Refusal::Alone => "its op has a kernel to itself",
            Refusal::SeveralResults => "its op has several results",
            Refusal::ReadElsewhere => "it is an output, or other kernels read it too, so it must be in memory anyway",
            Refusal::NotInPlace => "the operands of a product are read in place, many times each",
            Refusal::Window => "a window reads every element several times",
            Refusal::Recomputed => "it would be computed again for every element that reads it",
            Refusal::TwoAnchors => "each side has a contraction, a window or a reduction over rows, and a kernel has one loop nest",
            Refusal::NotAligned => "its elements are not read once each and in order",
            Refusal::JoinLast => "its parts come from different places",
            Refusal::Full => "the kernel that reads it has as many ops as a kernel may have",
            Refusal::Untried => "there are more ways to form the kernel that reads it than are looked at",
            Refusal::Dearer { joined, apart } => {
                let us = |time: Picos| time as f64 / 1e6;
                return format!("by the cost model a run takes {:.3} us, and {:.3} us with it in this kernel", us(apart), us(joined));
            }
        };
        reason.to_string()
    }

    /// What would have to hold for one kernel.
    pub fn condition(self) -> &'static str {
        match self {
            Refusal::ReaderAlone | Refusal::Alone => "a kernel of codegen that takes other ops in",
            Refusal::SeveralResults => "an op with one result",
            Refusal::ReadElsewhere => "nothing else that reads it",
            Refusal::NotInPlace => "nothing but views with linear strides between memory and the product",
            Refusal::Window => "an op that reads each element once, or nothing but a slice before the window",
            Refusal::Recomputed => "as many elements on both sides, read at the same index",
            Refusal::TwoAnchors => "only elementwise ops and views on one of the sides",
            Refusal::NotAligned => {
                "a reader that takes each element once and in order: elementwise without broadcasting, or a view that keeps the innermost axis"
            }
            Refusal::JoinLast => "a concatenation or padding that is the last op of its kernel, up to a border",
            Refusal::Full => "fewer ops in that kernel",
            Refusal::Untried => "fewer values around it that several kernels read",
            Refusal::Dearer { .. } => "to take no longer than two",
        }
    }
}
