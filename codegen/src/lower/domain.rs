//! The loops that a kernel is built over, and the index of its results in terms of them.
//!
//! A domain starts with one loop per axis of the results. What the values need refines it: a loop is split where a reshape
//! splits its axis, and cut where the parts of a concat meet, so that offsets become linear:
//!
//! ```text
//! i in 24, index [i]  --factor(i, 12)-->  i1 in 2, i2 in 12, index [12*i1 + i2]
//! i in 24, index [i]  --cut(i, 10)----->  i1 in 10, index [i1]   and   i1 in 14, index [i1 + 10]
//! ```
//!
//! Invariant: the loops enumerate every point of the index space exactly once.

use super::ranges::Ranges;
use crate::kernel::Axis;
use egret_ir::Dim;
use egret_ir::dim::Atom;
use std::sync::Arc;

/// A loop of a domain.
#[derive(Clone, Debug)]
pub struct Loop {
    /// Its variable and extent.
    pub axis: Axis,
    /// Whether it is one that a fold or a contraction runs over.
    pub inner: bool,
}

/// The axes that a fold or a contraction reduces, in terms of the inner loops.
#[derive(Clone, Debug)]
pub struct Reduced {
    /// The reduced extents, those of 1 left out.
    pub extents: Vec<Dim>,
    /// The index along each.
    pub index: Vec<Dim>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Outermost first.
    pub loops: Vec<Loop>,
    /// The index of the results.
    pub index: Vec<Dim>,
    /// What is reduced, once something is.
    pub reduced: Option<Reduced>,
    /// Extents of loops that have been cut: what is left of them runs only where they did.
    before_cuts: Vec<Dim>,
    names: usize,
    doubtful: usize,
}

/// A domain may be cut so often at places that are not known to lie inside of it; more often does not help.
const MOST_DOUBTFUL_CUTS: usize = 4;

impl Domain {
    /// One loop per extent that is not 1.
    pub fn new(dims: &[Dim]) -> Domain {
        let mut domain = Domain { loops: vec![], index: vec![], reduced: None, before_cuts: vec![], names: 0, doubtful: 0 };
        domain.index = dims.iter().map(|d| domain.add_loop(d, false)).collect();
        domain
    }

    /// A new innermost loop; gives the index that it makes.
    fn add_loop(&mut self, extent: &Dim, inner: bool) -> Dim {
        if extent.is(1) {
            return Dim::ZERO;
        }
        let axis = self.fresh(extent.clone());
        let index = axis.index();
        self.loops.push(Loop { axis, inner });
        index
    }

    /// Percent signs keep loop variables apart from the symbols of models until the kernel is finished.
    fn fresh(&mut self, extent: Dim) -> Axis {
        self.names += 1;
        Axis { name: Arc::from(format!("%{}", self.names)), extent }
    }

    /// The ranges of the loop variables.
    pub fn ranges(&self) -> Ranges {
        let mut ranges = Ranges::of(self.loops.iter().map(|l| &l.axis));
        self.before_cuts.iter().for_each(|extent| ranges.runs(extent));
        ranges
    }

    /// Inner loops over these extents.
    pub fn reduce(&mut self, extents: Vec<Dim>) {
        let index = extents.iter().map(|d| self.add_loop(d, true)).collect();
        self.reduced = Some(Reduced { extents, index });
    }

    /// The loops that are, or are not, inner ones.
    pub fn axes(&self, inner: bool) -> impl Iterator<Item = &Axis> {
        self.loops.iter().filter(move |l| l.inner == inner).map(|l| &l.axis)
    }

    /// Splits a loop into one over `extent/by` and one over `by`.
    pub fn factor(&mut self, name: &str, by: &Dim) {
        let Some(at) = self.loops.iter().position(|l| &*l.axis.name == name) else { return };
        let Loop { axis, inner } = self.loops[at].clone();
        let (outer, within) = (self.fresh(axis.extent.floor_div(by)), self.fresh(by.clone()));
        let index = outer.index() * by.clone() + within.index();
        self.loops.splice(at..=at, [outer, within].map(|axis| Loop { axis, inner }));
        self.substitute(name, &index);
    }

    /// The part of the domain where a loop is below `at`, and the part where it is not.
    pub fn cut(&self, name: &str, at: &Dim) -> [Domain; 2] {
        [false, true].map(|above| {
            let mut part = self.clone();
            part.forget_reduced();
            let Some(i) = part.loops.iter().position(|l| &*l.axis.name == name) else { return part };
            let extent = part.loops[i].axis.extent.clone();
            part.doubtful += usize::from(is_doubtful(at, &extent));
            // What is left of a loop that was cut before runs only where all of it did.
            part.before_cuts.retain(|before| !Ranges::default().at_most(&extent, before));
            part.before_cuts.push(extent.clone());
            let axis = part.fresh(if above { extent - at.clone() } else { at.clone() });
            let index = axis.index() + if above { at.clone() } else { Dim::ZERO };
            part.loops[i].axis = axis;
            part.substitute(name, &index);
            part.drop_unit_loops();
            part
        })
    }

    /// Whether a cut of a loop of this extent at `at` can be expected to decide something.
    pub fn may_cut(&self, at: &Dim, extent: &Dim) -> bool {
        !is_doubtful(at, extent) || self.doubtful < MOST_DOUBTFUL_CUTS
    }

    /// Whether a loop runs zero times.
    pub fn is_empty(&self) -> bool {
        self.axes(false).any(|a| a.extent.is(0))
    }

    /// Makes the loops of the results that are `shared` serve as the inner loops: the results hold every element that is
    /// reduced. `shared` must hold as many points as the inner loops.
    pub fn merge(&mut self, shared: &[Arc<str>]) {
        let Some(mut reduced) = self.reduced.take() else { return };
        let axes: Vec<Axis> = self.axes(false).filter(|a| shared.contains(&a.name)).cloned().collect();
        let extents: Vec<Dim> = axes.iter().map(|a| a.extent.clone()).collect();
        let ranges = self.ranges();
        if extents == reduced.extents {
            reduced.index = axes.iter().map(Axis::index).collect();
        } else {
            let index: Vec<Dim> = axes.iter().map(Axis::index).collect();
            reduced.index = delinear(&reduced.extents, &linear(&extents, &index), &ranges);
        }
        self.loops.retain(|l| !l.inner);
        self.loops.iter_mut().for_each(|l| l.inner = shared.contains(&l.axis.name));
        self.reduced = Some(reduced);
    }

    /// Back to the loops of the results.
    pub fn forget_reduced(&mut self) {
        self.reduced = None;
        let index = self.index.clone();
        self.loops.retain(|l| index.iter().any(|i| i.mentions(&l.axis.name)));
        self.loops.iter_mut().for_each(|l| l.inner = false);
    }

    fn drop_unit_loops(&mut self) {
        for axis in self.loops.iter().filter(|l| l.axis.extent.is(1)).map(|l| l.axis.clone()).collect::<Vec<_>>() {
            self.substitute(&axis.name, &Dim::ZERO);
        }
        self.loops.retain(|l| !l.axis.extent.is(1));
    }

    fn substitute(&mut self, name: &str, by: &Dim) {
        let replace = |d: &mut Dim| *d = d.substitute(&|s| (s == name).then(|| by.clone()));
        self.index.iter_mut().for_each(replace);
        if let Some(reduced) = &mut self.reduced {
            reduced.index.iter_mut().for_each(replace);
        }
        let ranges = self.ranges();
        self.index.iter_mut().for_each(|d| *d = ranges.simplify(d));
    }
}

/// Whether a position had to be held within its loop, above 0 or below its extent.
fn is_doubtful(at: &Dim, extent: &Dim) -> bool {
    at.terms().iter().flat_map(|t| &t.atoms).any(|atom| match atom {
        Atom::Max(a, b) => a.is(0) || b.is(0),
        Atom::Min(a, b) => a == extent || b == extent,
        Atom::Symbol(_) | Atom::Div(..) | Atom::Mod(..) => false,
    })
}

/// The row-major position of an index.
pub fn linear(extents: &[Dim], index: &[Dim]) -> Dim {
    extents.iter().zip(index).fold(Dim::ZERO, |position, (d, i)| if d.is(1) { position } else { position * d.clone() + i.clone() })
}

/// The index at a row-major position.
pub fn delinear(extents: &[Dim], position: &Dim, ranges: &Ranges) -> Vec<Dim> {
    let outermost = extents.iter().position(|d| !d.is(1));
    let index = |axis: usize| {
        let stride: Dim = extents[axis + 1..].iter().cloned().product();
        match outermost {
            Some(o) if o == axis => ranges.div(position, &stride),
            Some(_) if !extents[axis].is(1) => ranges.modulo(&ranges.div(position, &stride), &extents[axis]),
            _ => Dim::ZERO,
        }
    };
    (0..extents.len()).map(index).collect()
}
