//! What a kernel does, counted.

use super::size::{bytes, count, extent, product, scalar_work};
use crate::role::{Role, moves_innermost};
use egret_ir::attr::{Algorithm, Layout};
use egret_ir::{DType, Dim, Graph, Node, NodeId, Op, ValueId};
use std::collections::BTreeSet;

/// What a kernel does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// Its loops.
    pub kind: Kind,
    /// Bytes of each operand that the run made, as far as they are read.
    pub reads: Vec<u64>,
    /// Bytes of constants.
    pub weights: u64,
    /// Bytes of each result.
    pub writes: Vec<u64>,
    /// Elements that the loops run over.
    pub elements: u64,
    /// Units of scalar work, see [`super::scalar_work`].
    pub scalar: u64,
    /// Elements that the tail of a contraction or window reads through a view whose neighbours are not neighbours in memory.
    pub turned: u64,
}

/// The loops of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None: the elements stay where they are, under another shape.
    Alias,
    /// Elementwise work, views and gathers.
    Map {
        /// Whether neighbours in memory are not neighbours in the loops.
        strided: bool,
    },
    /// So many passes over rows.
    Rows {
        /// How often each row is read.
        passes: u64,
        /// Whether neighbours of a row are not neighbours in memory.
        strided: bool,
    },
    /// A product of matrices or a convolution.
    Contract(Contraction),
    /// A convolution in Winograd's form.
    Winograd {
        /// Its products, a batch for each position of a tile.
        products: Contraction,
        /// Bytes of weights, which are transformed at compile time, beyond those of the direct form.
        more_weights: u64,
    },
    /// A pool or depthwise convolution.
    Window {
        /// Elements of a window.
        taps: u64,
    },
    /// A recurrence.
    Steps {
        /// Steps one after the other.
        steps: u64,
        /// The products of the sequence, of all steps at once.
        input: Contraction,
        /// The products of the state, in each step.
        state: Contraction,
    },
}

/// Outputs along each axis of a tile of Winograd's form, and products of a tile, per pair of channels; see [`crate::algorithm`].
const TILE: u64 = 4;
const TILE_PRODUCTS: u64 = 36;

/// Scalar work of a cast of floats to integers of a byte: they are held within the range, converted and packed.
const NARROWING: u64 = 2;

/// Scalar functions of floats of less than 32 bits take so many times the work: each op converts its operands and its result.
const HALF_TIMES: u64 = 9;

/// `batch` products of `[rows, depth]` and `[depth, cols]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contraction {
    /// Independent products.
    pub batch: u64,
    /// Rows of the result.
    pub rows: u64,
    /// Columns of the result.
    pub cols: u64,
    /// Products that are summed up for an element.
    pub depth: u64,
    /// Elements of a right operand that has to be brought into another order first.
    pub packed: u64,
    /// What is multiplied.
    pub dtype: DType,
    /// Terms that are taken at a time: two where both operands are f32 that was widened from bf16, four where the left one was bytes.
    pub together: u64,
    /// Whether weights are made of integers of few bits on the way.
    pub few_bits: bool,
}

impl Work {
    /// What `members`, in order, do as one kernel that reads `inputs` and writes `outputs`; `is_weight` says which inputs the
    /// compiler knows.
    pub fn of(graph: &Graph, members: &[NodeId], inputs: &[ValueId], outputs: &[ValueId], is_weight: impl Fn(ValueId) -> bool) -> Work {
        let counted = Counted { graph, members };
        let (constants, reads): (Vec<_>, Vec<_>) = inputs.iter().partition(|&&v| is_weight(v));
        Work {
            kind: counted.kind(),
            reads: reads.into_iter().map(|&v| counted.read(v)).collect(),
            weights: constants.into_iter().map(|&v| counted.read(v)).fold(0, u64::saturating_add),
            writes: outputs.iter().map(|&v| bytes(graph.ty(v))).collect(),
            elements: counted.elements(),
            scalar: counted.scalar(),
            turned: counted.turned(),
        }
    }

    /// What a node does as a kernel of its own.
    fn of_one(graph: &Graph, id: NodeId) -> Work {
        let node = graph.node(id);
        Work::of(graph, &[id], &node.operands, &node.results, |v| graph.constant(v).is_some())
    }

    /// What a convolution does that is computed in this way.
    pub fn of_conv(graph: &Graph, id: NodeId, algorithm: Algorithm) -> Work {
        let node = graph.node(id);
        let mut work = Work::of_one(graph, id);
        if let Op::conv { group, layout, .. } = node.op {
            work.kind = Counted { graph, members: &[id] }.conv(node, group, layout, algorithm);
        }
        work
    }

    /// What a product of matrices does whose weights are in f32, or so many bytes of integers of few bits and their scales.
    pub fn of_product(graph: &Graph, id: NodeId, few_bits: Option<u64>) -> Work {
        let node = graph.node(id);
        let mut work = Work::of(graph, &[id], &node.operands, &node.results, |v| v == node.operands[1]);
        if let (Some(bytes), Kind::Contract(product)) = (few_bits, &mut work.kind) {
            (work.weights, product.few_bits) = (bytes, true);
        }
        work
    }

    /// What a node of a grouped graph does, one thing after another: its region, or the node itself.
    pub fn of_node(graph: &Graph, id: NodeId) -> Vec<Work> {
        let node = graph.node(id);
        let Some(region) = &node.region else { return vec![Work::of_one(graph, id)] };
        let is_weight = |v: ValueId| graph.constant(v).is_some();
        let outside = |param: ValueId| region.params().iter().position(|&p| p == param).map(|i| node.operands[i]);
        let work = |Share { members, outputs }: &Share| {
            let reads = |p: &ValueId| members.iter().any(|&m| region.node(m).operands.contains(p));
            let inputs: Vec<ValueId> = region.params().iter().copied().filter(reads).collect();
            Work::of(region, members, &inputs, outputs, |v| outside(v).is_some_and(is_weight))
        };
        shares(region).iter().map(work).collect()
    }
}

/// Nodes of a region, in order, and the results that they compute.
struct Share {
    members: Vec<NodeId>,
    outputs: Vec<ValueId>,
}

/// The results of a region with what each depends on; one that is made on the way to another shares its loops.
fn shares(region: &Graph) -> Vec<Share> {
    let mut shares: Vec<Share> = vec![];
    let mut results: Vec<(Vec<NodeId>, ValueId)> = region.results.iter().map(|&r| (made_of(region, r), r)).collect();
    results.sort_by_key(|(members, _)| std::cmp::Reverse(members.len()));
    for (members, result) in results {
        match shares.iter_mut().find(|s| members.iter().all(|m| s.members.binary_search(m).is_ok())) {
            Some(share) => share.outputs.push(result),
            None => shares.push(Share { members, outputs: vec![result] }),
        }
    }
    shares
}

/// The nodes that a value depends on, in order.
fn made_of(region: &Graph, value: ValueId) -> Vec<NodeId> {
    let (mut members, mut values) = (BTreeSet::new(), vec![value]);
    while let Some(value) = values.pop() {
        if let Some(node) = region.producer(value).filter(|&n| members.insert(n)) {
            values.extend(&region.node(node).operands);
        }
    }
    members.into_iter().collect()
}

/// A kernel that is being counted.
struct Counted<'a> {
    graph: &'a Graph,
    members: &'a [NodeId],
}

impl<'a> Counted<'a> {
    fn nodes(&self) -> impl Iterator<Item = &'a Node> {
        self.members.iter().map(|&m| self.graph.node(m))
    }

    fn anchor(&self) -> Option<&'a Node> {
        self.nodes().find(|n| Role::of(self.graph, n).is_anchor())
    }

    fn dims(&self, value: ValueId) -> &'a [Dim] {
        &self.graph.ty(value).dims
    }

    fn dtype(&self, value: ValueId) -> DType {
        self.graph.ty(value).dtype
    }

    /// The last result of the last member is what the loops of a map run over.
    fn last(&self) -> u64 {
        self.nodes().last().map_or(0, |n| n.results.iter().map(|&r| count(self.graph.ty(r))).max().unwrap_or(0))
    }

    fn kind(&self) -> Kind {
        let Some(anchor) = self.anchor() else { return self.map() };
        match Role::of(self.graph, anchor) {
            Role::Contract => self.contraction(anchor),
            Role::Rows => Kind::Rows { passes: passes(&anchor.op), strided: anchor.operands.first().is_some_and(|&x| self.is_turned(x)) },
            Role::Window => Kind::Window { taps: taps(self.graph, anchor) },
            Role::Elementwise | Role::View | Role::Gather | Role::Join | Role::Alone => self.alone(anchor),
        }
    }

    fn map(&self) -> Kind {
        if self.nodes().all(|n| matches!(n.op, Op::reshape { .. })) {
            return Kind::Alias;
        }
        let is_strided = |n: &Node| match &n.op {
            Op::transpose { perm } => moves_innermost(perm),
            Op::gather { axis } => axis + 1 == self.dims(n.operands[0]).len(),
            Op::gather_elements { .. } | Op::gather_nd { .. } | Op::resize { .. } => true,
            _ => false,
        };
        Kind::Map { strided: self.nodes().any(is_strided) }
    }

    fn alone(&self, node: &Node) -> Kind {
        let dims = |i: usize| node.operands.get(i).map_or(&[][..], |&v| self.dims(v));
        match node.op {
            Op::lstm { .. } | Op::gru { .. } | Op::rnn { .. } => {
                // x: [t, b, i], w: [g*h, i], r: [g*h, h]
                let at = |i: usize, axis: usize| dims(i).get(axis).map_or(1, extent);
                let dtype = self.dtype(node.operands[0]);
                let product = |rows, i| Contraction {
                    batch: 1,
                    rows,
                    cols: at(i, 0),
                    depth: at(i, 1),
                    packed: 0,
                    dtype,
                    together: 1,
                    few_bits: false,
                };
                Kind::Steps { steps: at(0, 0), input: product(at(0, 0).saturating_mul(at(0, 1)), 1), state: product(at(0, 1), 2) }
            }
            _ => Kind::Map { strided: true },
        }
    }

    fn contraction(&self, node: &Node) -> Kind {
        match &node.op {
            Op::conv { group, layout, algorithm, .. } => self.conv(node, *group, *layout, *algorithm),
            Op::attention { .. } => Kind::Contract(self.attention(node)),
            _ => Kind::Contract(self.stored_apart(node, self.matmul(node))),
        }
    }

    /// Both products as one. q: [.., s, d], k: [.., t, d], v: [.., t, e].
    fn attention(&self, node: &Node) -> Contraction {
        let dims = |i: usize| self.dims(node.operands[i]);
        let inner = |i: usize, from_end: usize| dims(i).iter().rev().nth(from_end).map_or(1, extent);
        let batch = product(dims(0).get(..dims(0).len().saturating_sub(2)).unwrap_or_default());
        let depth = inner(0, 0).saturating_add(inner(2, 0));
        Contraction {
            batch,
            rows: inner(0, 1),
            cols: inner(1, 1),
            depth,
            packed: product(dims(1)),
            dtype: self.dtype(node.operands[0]),
            together: 1,
            few_bits: false,
        }
    }

    /// Tiles of Winograd's form are stored whole: where the channels are taken apart, it is computed directly.
    fn conv(&self, node: &Node, group: usize, layout: Layout, algorithm: Algorithm) -> Kind {
        let whole = self.direct(node, group, layout);
        let direct = self.stored_apart(node, whole.clone());
        match algorithm {
            Algorithm::Winograd if direct == whole => self.winograd(node),
            Algorithm::Winograd | Algorithm::Direct => Kind::Contract(direct),
        }
    }

    /// Results [n, h, w, o], weights [3, 3, i, o].
    fn winograd(&self, node: &Node) -> Kind {
        let (weights, result) = (self.dims(node.operands[1]), self.dims(node.results[0]));
        let at = |dims: &[Dim], axis: usize| dims.get(axis).map_or(1, extent);
        let (depth, cols) = (at(weights, 2), at(weights, 3));
        let rows = at(result, 0) * at(result, 1).div_ceil(TILE) * at(result, 2).div_ceil(TILE);
        let dtype = self.dtype(node.operands[0]);
        let direct = bytes(self.graph.ty(node.operands[1]));
        Kind::Winograd {
            products: Contraction { batch: TILE_PRODUCTS, rows, cols, depth, packed: 0, dtype, together: 1, few_bits: false },
            more_weights: direct / 9 * TILE_PRODUCTS - direct,
        }
    }

    /// How many terms of a product are taken at a time.
    fn together(&self, node: &Node) -> u64 {
        match [0, 1].map(|i| self.widened_from(node.operands[i])) {
            [DType::BF16, DType::BF16] => 2,
            [DType::U8, DType::I32] => 4,
            _ => 1,
        }
    }

    /// The type of a value before views and a cast of it, as far as the kernel does them.
    fn widened_from(&self, value: ValueId) -> DType {
        match self.graph.producer(value).filter(|id| self.members.contains(id)).map(|id| self.graph.node(id)) {
            Some(node) if node.op.def().kind == egret_ir::Kind::View => self.widened_from(node.operands[0]),
            Some(Node { op: Op::cast { .. }, operands, .. }) => self.dtype(operands[0]),
            _ => self.dtype(value),
        }
    }

    fn direct(&self, node: &Node, group: usize, layout: Layout) -> Contraction {
        let (weights, result) = (self.dims(node.operands[1]), self.dims(node.results[0]));
        let out = match layout {
            Layout::First => weights.first(),
            Layout::Last => weights.last(),
        };
        let (out, group) = (out.map_or(1, extent).max(1), group as u64);
        let depth = product(weights) / out;
        Contraction {
            batch: group,
            rows: product(result) / out,
            cols: out / group,
            depth,
            packed: 0,
            dtype: self.dtype(node.operands[0]),
            together: self.together(node),
            few_bits: false,
        }
    }

    fn matmul(&self, node: &Node) -> Contraction {
        let (x, y) = (self.dims(node.operands[0]), self.dims(node.operands[1]));
        let result = product(self.dims(node.results[0]));
        let cols = if y.len() > 1 { y.last().map_or(1, extent) } else { 1 };
        let batch = product(y.get(..y.len().saturating_sub(2)).unwrap_or_default());
        let rows = result / cols.max(1) / batch.max(1);
        let packed = if self.is_turned(node.operands[1]) { product(y) } else { 0 };
        Contraction {
            batch,
            rows,
            cols,
            depth: x.last().map_or(1, extent),
            packed,
            dtype: self.dtype(node.operands[0]),
            together: self.together(node),
            few_bits: matches!(node.op, Op::matmul_blocks { .. }),
        }
    }

    /// Whether views of the kernel move the innermost axis of an operand.
    fn is_turned(&self, mut value: ValueId) -> bool {
        while let Some(node) = self.graph.producer(value).filter(|p| self.members.contains(p)).map(|p| self.graph.node(p)) {
            match &node.op {
                Op::transpose { perm } if moves_innermost(perm) => return true,
                _ => match node.operands.first() {
                    Some(&operand) => value = operand,
                    None => return false,
                },
            }
        }
        false
    }

    /// Elements of the views that move the innermost axis of what the tail of an anchor reads; those of its operands are
    /// counted with the anchor, and those of a map with its kind.
    fn turned(&self) -> u64 {
        let Some(anchor) = self.anchor().filter(|n| matches!(Role::of(self.graph, n), Role::Contract | Role::Window)) else { return 0 };
        let mut feeding = vec![false; self.members.len()];
        let mut values = anchor.operands.clone();
        while let Some(value) = values.pop() {
            let at = self.graph.producer(value).and_then(|p| self.members.binary_search(&p).ok());
            if let Some(at) = at.filter(|&at| !feeding[at]) {
                feeding[at] = true;
                values.extend(&self.graph.node(self.members[at]).operands);
            }
        }
        let tail = self.nodes().zip(feeding).filter(|(_, feeds)| !feeds).map(|(n, _)| n);
        let turns = |n: &&Node| matches!(&n.op, Op::transpose { perm } if moves_innermost(perm)) && !self.follows(anchor, n);
        tail.filter(turns).map(|n| count(self.graph.ty(n.results[0]))).fold(0, u64::saturating_add)
    }

    /// A product whose columns a transpose behind it takes apart: as many products of those columns that stay side by side, such as the
    /// channels of a head, or the two pixels of a row of a pixel shuffle.
    fn stored_apart(&self, anchor: &Node, product: Contraction) -> Contraction {
        let turned = self.nodes().filter(|n| matches!(n.op, Op::transpose { .. }) && self.follows(anchor, n));
        let side_by_side = turned.filter_map(|n| self.dims(n.operands[0]).last()).map(extent);
        match side_by_side.min() {
            Some(cols) if cols > 0 && cols < product.cols && product.cols.is_multiple_of(cols) => {
                Contraction { batch: product.batch.saturating_mul(product.cols / cols), cols, ..product }
            }
            _ => product,
        }
    }

    /// Whether a node reads what the anchor makes, directly or through others: it then says where results are written.
    fn follows(&self, anchor: &Node, node: &Node) -> bool {
        let makers = node.operands.iter().filter_map(|&v| self.graph.producer(v)).filter(|p| self.members.contains(p));
        makers.into_iter().map(|p| self.graph.node(p)).any(|n| n.results == anchor.results || self.follows(anchor, n))
    }

    /// What the loops run over: the results of a window, what a reduction reads, else the largest result.
    fn elements(&self) -> u64 {
        match self.anchor() {
            Some(n) if Role::of(self.graph, n) == Role::Rows => n.operands.first().map_or(0, |&x| count(self.graph.ty(x))),
            Some(n) => count(self.graph.ty(n.results[0])),
            None => self.last(),
        }
    }

    /// Scalar work of all members, each as often as it is computed.
    fn scalar(&self) -> u64 {
        let evaluations = self.evaluations();
        let of = |(&m, times): (&NodeId, &u64)| self.scalar_of(self.graph.node(m)).saturating_mul(*times);
        self.members.iter().zip(&evaluations).map(of).fold(0, u64::saturating_add)
    }

    /// Scalar work per element of a node, with what its element types add.
    fn scalar_of(&self, node: &Node) -> u64 {
        let work = scalar_work(node.op.def());
        let types = || node.operands.iter().chain(&node.results).map(|&v| self.dtype(v));
        match (&node.op, node.operands.first().map(|&x| self.dtype(x))) {
            (Op::cast { to }, Some(from)) if from.is_float() && !to.is_float() && to.size() == 1 => NARROWING,
            _ if types().any(|ty| ty.is_float() && ty.size() < 4) => work * HALF_TIMES,
            _ => work,
        }
    }

    /// How many elements of each member are computed: what a reader broadcasts, or reads in several passes, is computed anew
    /// each time.
    fn evaluations(&self) -> Vec<u64> {
        let elements = |n: &Node| n.results.iter().map(|&r| count(self.graph.ty(r))).max().unwrap_or(0);
        let mut times: Vec<u64> = vec![0; self.members.len()];
        for (i, node) in self.nodes().enumerate().collect::<Vec<_>>().into_iter().rev() {
            let role = Role::of(self.graph, node);
            let row = || node.operands.first().map_or(0, |&x| count(self.graph.ty(x)));
            times[i] = times[i].max(if role == Role::Rows { row() } else { elements(node) });
            for producer in node.operands.iter().filter_map(|&v| self.graph.producer(v)) {
                let Ok(at) = self.members.binary_search(&producer) else { continue };
                let needed = match role {
                    Role::Rows => row().saturating_mul(passes(&node.op)),
                    Role::Join | Role::Contract | Role::Window | Role::Alone => 0,
                    Role::Elementwise | Role::View | Role::Gather => times[i],
                };
                times[at] = times[at].max(needed);
            }
        }
        times
    }

    /// How much of an operand is read: all of it, or what slices and gathers take.
    fn read(&self, value: ValueId) -> u64 {
        let ty = self.graph.ty(value);
        // Integers of few bits are packed where a product reads them.
        let is_packed = self.nodes().any(|n| matches!(n.op, Op::matmul_blocks { .. }) && n.operands[1] == value);
        let whole = if is_packed { count(ty).saturating_mul(ty.dtype.bits() as u64).div_ceil(8) } else { bytes(ty) };
        let of = |n: &Node| match &n.op {
            Op::slice { .. } | Op::gather { .. } if n.operands[0] == value => bytes(self.graph.ty(n.results[0])).min(whole),
            _ => whole,
        };
        let readers = self.nodes().filter(|n| n.operands.contains(&value));
        readers.map(of).fold(0, u64::saturating_add).min(whole)
    }
}

/// How often an op goes over a row.
fn passes(op: &Op) -> u64 {
    match op {
        Op::softmax { .. } | Op::log_softmax { .. } | Op::layer_norm { .. } => 3,
        Op::rms_norm { .. } => 2,
        _ => 1,
    }
}

/// Elements of a window.
fn taps(graph: &Graph, node: &Node) -> u64 {
    match &node.op {
        Op::max_pool { kernel, .. } | Op::avg_pool { kernel, .. } => kernel.iter().map(|&k| k as u64).product(),
        // Weights [kernel.., 1, channels].
        _ => {
            let weights = &graph.ty(node.operands[1]).dims;
            product(&weights[..weights.len().saturating_sub(2)])
        }
    }
}
