//! From a group of nodes to kernels.
//!
//! A group's results are computed over a `Domain`: its loops. Each value is asked what it is at the loops' point (see
//! `value`); what comes back are expressions over offsets, in which all views have disappeared. What it contains then says
//! which skeleton it fills: a contraction makes a [`Contract`](crate::kernel::Contract), an attention a
//! [`Chain`](crate::kernel::Chain), folds make [`Rows`](crate::kernel::Rows), everything else is a piece of a [`Map`]. Pieces
//! that are left beside one of these, such as the zeros around what a convolution computes, are borders of its kernel.
//!
//! ```text
//! y = relu(add(matmul(x, w), b))          x: f32[N, 784], w: f32[784, 128], b: f32[128]
//! =>
//! contract rows m0 in N, cols n in 128, k k0 in 784 {
//!     acc = sum(x[784*m0 + k0] * w.panels[0])
//!     y[128*m0 + n] = max((acc + b[n]), 0.0)
//! }
//! ```
//!
//! Results that need contractions of their own are computed one after another, and what they become is then one kernel (see
//! `together`).
//!
//! Nothing depends on how nodes were grouped: a value that cannot be part of the kernel (a second contraction, a reduction
//! over other axes, an operand of a contraction that is computed) goes to memory in a kernel of its own before it. Grouping
//! decides how fast the result is, never whether it is right.

mod alone;
mod attention;
#[cfg(test)]
mod blocks_tests;
mod built;
#[cfg(test)]
mod bytes_tests;
mod contract;
mod domain;
mod exprs;
mod finish;
mod fold;
#[cfg(test)]
mod fuzz;
mod map;
#[cfg(test)]
mod pairs_tests;
mod product;
mod ranges;
mod recur;
mod region;
mod resize;
mod rows;
mod serial;
mod spelled;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod text_tests;
mod together;
mod value;
mod winograd;

pub use exprs::visit_shared;
pub use region::Region;

use crate::blocks::BlockPacking;
use crate::kernel::{Axis, Block, Body, BufferId, Expr, Kernel, Map, Piece, Store};
use crate::pack::Packing;
use crate::target::Target;
use crate::winograd::PRODUCTS;
use domain::Domain;
use egret_ir::{DType, Dim, Graph, NodeId, Op, Tensor, ValueId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use value::{Build, Stop};

/// What a buffer of a launched kernel holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// A parameter or constant of the region, as it lies.
    Value(ValueId),
    /// A result of the region, by its position.
    Result(usize),
    /// Scratch memory of the region, by its position.
    Scratch(usize),
    /// Data made at compile time, by its position.
    Data(usize),
    /// A table that a build makes; becomes data when its kernel is finished.
    Table(Arc<Tensor>),
}

/// One call of a kernel.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The kernel.
    pub kernel: Kernel,
    /// What its buffers hold, in their order.
    pub places: Vec<Place>,
    /// The value it computes, for people.
    pub name: Arc<str>,
}

/// Memory that only the launches of one region use.
#[derive(Clone, Debug)]
pub struct Scratch {
    /// For people.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// How many there are.
    pub count: Dim,
}

/// Data that is made when the model is compiled.
#[derive(Clone, Debug)]
pub enum Data {
    /// A tensor as it is.
    Tensor(Arc<Tensor>),
    /// The right operand of a contraction, in the order in which it is read.
    Packed(Packing),
    /// Weights of few bits, with their scales and zero points.
    Blocks(BlockPacking),
    /// The weights of a 3x3 convolution, packed with the taps as batches, transformed for [`crate::winograd`].
    Transformed(Packing),
}

impl Data {
    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Data::Tensor(tensor) => tensor.bytes().len() as u64,
            Data::Packed(packing) => packing.bytes_length(),
            Data::Blocks(packing) => packing.bytes_length(),
            Data::Transformed(packing) => packing.bytes_length() / 9 * PRODUCTS as u64,
        }
    }

    /// A name for people, and the type of the elements.
    fn describe(&self) -> (Arc<str>, DType) {
        match self {
            Data::Tensor(t) => ("table".into(), t.dtype()),
            Data::Packed(p) => ("panels".into(), p.size().0),
            Data::Blocks(_) => ("blocks".into(), DType::U8),
            Data::Transformed(p) => ("weights".into(), p.size().0),
        }
    }
}

/// What a region becomes.
#[derive(Clone, Debug, Default)]
pub struct Lowered {
    /// In order of execution.
    pub launches: Vec<Launch>,
    /// Memory in between.
    pub scratch: Vec<Scratch>,
    /// Data made at compile time.
    pub data: Vec<Data>,
}

/// Why a value cannot be lowered.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The value, of the region.
    pub value: ValueId,
    /// A sentence.
    pub reason: String,
}

/// A domain that is refined more often than this will not come to an end.
const MOST_ATTEMPTS: usize = 1000;

/// Lowers a region.
///
/// # Errors
/// When a value of it has no kernel.
pub fn lower(region: &Region, target: &Target) -> Result<Lowered, Failure> {
    let mut lowering = Lowering {
        scope: Scope {
            region,
            computed: HashMap::new(),
            as_fold: HashSet::new(),
            widened: if target.is_cuda() { ON_GPUS } else { ON_PROCESSORS },
            bytes: target.bytes,
            lanes: if target.is_cuda() { 1 } else { target.lanes as i64 },
            blocks: !target.is_cuda(),
        },
        target,
        lowered: Lowered::default(),
    };
    for &result in &region.graph.results {
        if let Some(node) = lowering.alone(result) {
            lowering.compute_alone(node)?;
        }
    }
    let results = region.graph.results.iter().copied().enumerate().map(|(i, v)| (v, Place::Result(i)));
    let is_done = |(v, place): &(ValueId, Place)| lowering.scope.computed.get(v) == Some(place);
    for group in compatible(&region.graph, results.filter(|r| !is_done(r)).collect()) {
        lowering.compute(&group)?;
    }
    let launches = std::mem::take(&mut lowering.lowered.launches);
    lowering.lowered.launches = together::together(launches, &|| lowering.names());
    Ok(lowering.lowered)
}

/// Results in groups that may share a domain: equal extents, or 1 in their place, and no contractions of their own; in the order in
/// which they are made.
fn compatible(graph: &Graph, mut results: Vec<(ValueId, Place)>) -> Vec<Vec<(ValueId, Place)>> {
    results.sort_by_key(|(v, _)| v.index());
    let fits = |a: &Dim, b: &Dim| a == b || a.is(1) || b.is(1);
    let mut groups: Vec<Vec<(ValueId, Place)>> = vec![];
    for result in results {
        let dims = &graph.ty(result.0).dims;
        let products = contractions(graph, result.0);
        let shares = |group: &&mut Vec<(ValueId, Place)>| {
            group.iter().all(|(v, _)| {
                let (other, others) = (&graph.ty(*v).dims, contractions(graph, *v));
                let apart = !products.is_empty() && !others.is_empty() && products.is_disjoint(&others);
                !apart && other.len() == dims.len() && other.iter().zip(dims).all(|(a, b)| fits(a, b))
            })
        };
        match groups.iter_mut().find(shares) {
            Some(group) => group.push(result),
            None => groups.push(vec![result]),
        }
    }
    groups
}

/// The contractions that a value depends on.
fn contractions(graph: &Graph, value: ValueId) -> HashSet<NodeId> {
    let (mut seen, mut values) = (HashSet::new(), vec![value]);
    while let Some(node) = values.pop().map(|v| graph.producer(v)) {
        let Some(node) = node.filter(|n| seen.insert(*n)) else { continue };
        values.extend(&graph.node(node).operands);
    }
    seen.retain(|n| matches!(graph.node(*n).op, Op::matmul | Op::matmul_blocks { .. } | Op::conv { .. } | Op::attention { .. }));
    seen
}

/// What lies in memory, as a build sees it.
pub struct Scope<'a> {
    region: &'a Region,
    computed: HashMap<ValueId, Place>,
    /// Contractions that are better done as folds.
    as_fold: HashSet<ValueId>,
    widened: Widened,
    /// Whether there are products of bytes.
    bytes: bool,
    /// f32 in a vector.
    lanes: i64,
    /// Whether there are products of integers that have scales.
    blocks: bool,
}

/// What is widened to f32 as it is read.
#[derive(Clone, Copy)]
struct Widened {
    /// By products.
    types: &'static [DType],
    /// Whether attention and recurrent layers widen it, too.
    everywhere: bool,
}

const ON_PROCESSORS: Widened = Widened { types: &[DType::BF16], everywhere: false };
const ON_GPUS: Widened = Widened { types: &[DType::BF16, DType::F16], everywhere: true };

impl Scope<'_> {
    /// The region's nodes.
    fn graph(&self) -> &Graph {
        &self.region.graph
    }

    /// Where a value lies, if it is in memory.
    fn place(&self, value: ValueId) -> Option<Place> {
        let computed = self.computed.get(&value).cloned();
        computed.or_else(|| self.graph().producer(value).is_none().then_some(Place::Value(value)))
    }

    /// The data of a value that is known.
    fn constant(&self, value: ValueId) -> Option<&Arc<Tensor>> {
        self.region.constant(value)
    }
}

/// The lowering of one region.
struct Lowering<'a> {
    scope: Scope<'a>,
    target: &'a Target,
    lowered: Lowered,
}

impl Lowering<'_> {
    /// Adds the launches that compute some values of compatible extents.
    fn compute(&mut self, outputs: &[(ValueId, Place)]) -> Result<(), Failure> {
        let mut domains = vec![Domain::new(&self.widest(outputs))];
        let mut made = Made::default();
        let mut attempts = 0;
        while let Some(mut domain) = domains.pop() {
            attempts += 1;
            let stop = match self.attempt(&mut domain, outputs, &mut made) {
                Ok(()) => continue,
                Err(stop) => stop,
            };
            match stop {
                _ if attempts > MOST_ATTEMPTS => {
                    return Err(Failure { value: outputs[0].0, reason: "its loops do not come to an end".to_string() });
                }
                // A value that is the same on both sides of the cut would be stored twice.
                Stop::Cut(..) if self.differ(outputs) => return self.separately(outputs),
                Stop::Cut(name, at) => domains.extend(domain.cut(&name, &at).into_iter().rev()),
                Stop::Factor(name, by) => {
                    domain.factor(&name, &by);
                    domains.push(domain);
                }
                Stop::Reduce(extents) => {
                    domain.reduce(extents);
                    domains.push(domain);
                }
                Stop::Materialise(value) if outputs.len() > 1 && outputs.iter().any(|(v, _)| *v == value) => {
                    return self.separately(outputs);
                }
                Stop::Materialise(value) => {
                    self.materialise(value, outputs)?;
                    domain.forget_reduced();
                    domains.push(domain);
                }
                Stop::AsFold(value) => {
                    self.scope.as_fold.insert(value);
                    domain.forget_reduced();
                    domains.push(domain);
                }
                Stop::Separate => return self.separately(outputs),
                Stop::Fail(value, reason) => return Err(Failure { value, reason }),
            }
        }
        if made.pieces.is_empty() && made.bodies.is_empty() {
            made = self.nothing(outputs);
        }
        self.launch_all(made, outputs[0].0);
        self.scope.computed.extend(outputs.iter().cloned());
        Ok(())
    }

    /// A nest that runs zero times: values without elements are written, too.
    fn nothing(&self, outputs: &[(ValueId, Place)]) -> Made {
        let axis = Axis { name: "%none".into(), extent: Dim::ZERO };
        let store = |(i, (value, _)): (usize, &(ValueId, Place))| Store {
            buffer: BufferId(i),
            offset: axis.index(),
            value: Expr::literal(0.0, self.scope.graph().ty(*value).dtype),
        };
        let block = Block { lets: vec![], stores: outputs.iter().enumerate().map(store).collect() };
        let piece = map::nest(vec![axis.clone()], block, &ranges::Ranges::default(), &[], self.names());
        Made { buffers: outputs.iter().map(|(_, place)| place.clone()).collect(), pieces: vec![piece], bodies: vec![] }
    }

    fn separately(&mut self, outputs: &[(ValueId, Place)]) -> Result<(), Failure> {
        outputs.iter().try_for_each(|output| self.compute(std::slice::from_ref(output)))
    }

    /// Whether some values have other extents than others.
    fn differ(&self, outputs: &[(ValueId, Place)]) -> bool {
        let dims = |(value, _): &(ValueId, Place)| &self.scope.graph().ty(*value).dims;
        outputs.iter().any(|o| dims(o) != dims(&outputs[0]))
    }

    /// The extents of the largest of some compatible values.
    fn widest(&self, outputs: &[(ValueId, Place)]) -> Vec<Dim> {
        let mut dims = self.scope.graph().ty(outputs[0].0).dims.clone();
        for (value, _) in outputs {
            let other = &self.scope.graph().ty(*value).dims;
            dims.iter_mut().zip(other).filter(|(d, _)| d.is(1)).for_each(|(d, o)| *d = o.clone());
        }
        dims
    }

    /// Puts a value into scratch memory.
    fn materialise(&mut self, value: ValueId, outputs: &[(ValueId, Place)]) -> Result<(), Failure> {
        if let Some(node) = self.alone(value) {
            return self.compute_alone(node);
        }
        if outputs.iter().any(|(v, _)| *v == value) || self.scope.place(value).is_some() {
            return Err(Failure { value, reason: "its indices cannot be expressed".to_string() });
        }
        let ty = self.scope.graph().ty(value);
        let name = self.scope.graph().value(value).name.to_string();
        let place = self.add_scratch(name, ty.dtype, ty.count());
        self.compute(&[(value, place)])
    }

    fn add_scratch(&mut self, name: String, dtype: DType, count: Dim) -> Place {
        self.lowered.scratch.push(Scratch { name, dtype, count });
        Place::Scratch(self.lowered.scratch.len() - 1)
    }

    /// Builds one part of the domain, refining it where it can be done on the spot.
    fn attempt(&mut self, domain: &mut Domain, outputs: &[(ValueId, Place)], made: &mut Made) -> Result<(), Stop> {
        if domain.is_empty() {
            return Ok(());
        }
        let build = loop {
            let mut build = Build::new(&self.scope, domain, made.buffers.clone());
            let stores = build.stores(outputs)?;
            if let Some((name, by)) = build.factor(&stores) {
                domain.factor(&name, &by);
            } else if let Some(shared) = build.shared_loops(outputs)? {
                domain.merge(&shared);
            } else {
                build.check_stores(&stores, outputs)?;
                break build.finished(stores);
            }
        };
        if build.attention.is_some() {
            let (body, buffers) = self.attend(build)?;
            made.bodies.push((Body::Chain(body), buffers));
        } else if build.product.is_some() {
            made.bodies.push(self.contract(build)?);
        } else if !build.folds.is_empty() {
            let buffers = build.buffers.clone();
            let body = rows::assemble(build, self.names());
            made.bodies.push((Body::Rows(body), buffers));
        } else {
            made.buffers = build.buffers.clone();
            made.pieces.push(map::piece(build, &made.pieces, self.names()));
        }
        Ok(())
    }

    /// Adds the launches of what was made; the pieces are the borders of the last body, if there is one.
    fn launch_all(&mut self, made: Made, value: ValueId) {
        let Made { buffers, pieces, mut bodies } = made;
        let Some((last, mut places)) = bodies.pop() else {
            return self.launch(Body::Map(Map { pieces }), vec![], &buffers, value);
        };
        bodies.into_iter().for_each(|(body, places)| self.launch(body, vec![], &places, value));
        let borders = finish::beside(&pieces, &buffers, &mut places);
        self.launch(last, borders, &places, value);
    }

    fn launch(&mut self, body: Body, borders: Vec<Piece>, buffers: &[Place], value: ValueId) {
        let buffers: Vec<Place> = buffers.iter().map(|place| self.interned(place)).collect();
        let launch = finish::launch(self, body, borders, &buffers, value);
        self.lowered.launches.push(launch);
    }
}

impl Lowering<'_> {
    /// The place, a table put into the data.
    fn interned(&mut self, place: &Place) -> Place {
        let Place::Table(table) = place else { return place.clone() };
        self.lowered.data.push(Data::Tensor(table.clone()));
        Place::Data(self.lowered.data.len() - 1)
    }
}

/// What the parts of a domain have become.
#[derive(Default)]
struct Made {
    /// The buffers that the pieces share.
    buffers: Vec<Place>,
    /// Nests without a fold or a contraction.
    pieces: Vec<Piece>,
    /// All others, each with its buffers.
    bodies: Vec<(Body, Vec<Place>)>,
}
