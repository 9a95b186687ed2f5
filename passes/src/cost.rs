//! How long a kernel takes: what it does, counted, and how fast a machine does that.
//!
//! [`Work::of`] counts what some nodes do as one kernel: bytes read and written, products, scalar operations. [`Model::time`]
//! makes picoseconds of it with the rates of a [`Machine`]. The pass `group` chooses kernels by these times, and [`predict`]
//! gives those of a grouped graph, so what is chosen by is what is shown.
//!
//! ```text
//! y = relu(add(matmul(x, w), b))   x: f32[128, 768], w: f32[768, 768]
//! a contraction of 128 rows, 768 columns, depth 768: reads 387 KiB and 2.25 MiB of weights, writes 384 KiB
//! ```
//!
//! Invariant: a time is a pure function of ops, types and machine, and an integer, so that sums of times do not depend on
//! their order. Extents that are not known count as [`NOMINAL`].

mod machine;
mod size;
mod work;

pub use machine::{Level, Machine, ZEN4};
pub use size::{NOMINAL, bytes, count, extent, scalar_work};
pub use work::{Contraction, Kind, Work};

use egret_ir::{Graph, NodeId, ValueId};

/// Times in picoseconds.
pub type Picos = u64;

/// A machine with a model's weights.
#[derive(Clone, Debug)]
pub struct Model {
    machine: Machine,
    /// Where weights lie when they are read again in the next run.
    weights: Level,
}

impl Model {
    /// The machine when it runs this graph, before or after grouping.
    pub fn new(machine: Machine, graph: &Graph) -> Model {
        let weights = graph.constants().map(|(_, v)| bytes(&v.ty)).fold(0, u64::saturating_add);
        Model { weights: machine.level(weights), machine }
    }

    /// How long a kernel takes on one thread, in picoseconds.
    pub fn time(&self, work: &Work) -> Picos {
        let m = &self.machine;
        let sum = |parts: &[u64]| parts.iter().fold(0, |a: u64, b| a.saturating_add(*b));
        // What a kernel touches is where all of it fits.
        let (reads, writes) = (sum(&work.reads), sum(&work.writes));
        let level = m.level(sum(&[reads, writes]));
        let (reads, writes) = (m.read(level, reads), m.write(level, writes));
        let weights = m.read(self.weights, work.weights);
        let turned = work.turned.saturating_mul(m.strided_row_element_ps);
        let scalar = work.scalar.saturating_mul(m.scalar_ps).saturating_add(turned);
        match &work.kind {
            Kind::Alias => 0,
            Kind::Map { strided } => {
                let elements = work.elements.saturating_mul(if *strided { m.strided_ps } else { m.element_ps });
                sum(&[m.launch_ps, elements, scalar, reads.max(weights).saturating_add(writes)])
            }
            Kind::Rows { passes, strided } => {
                let element = if *strided { m.strided_row_element_ps } else { m.row_element_ps };
                let elements = work.elements.saturating_mul(*passes).saturating_mul(element);
                sum(&[m.launch_ps, elements, scalar, reads, weights, writes])
            }
            Kind::Contract(c) => {
                let memory = sum(&[reads, weights]);
                sum(&[m.launch_ps, m.contraction(c).max(memory), scalar, writes, m.packing(c)])
            }
            Kind::Window { taps } => {
                let products = work.elements.saturating_mul(*taps).saturating_mul(m.tap_fs) / 1000;
                sum(&[m.launch_ps, products, scalar, reads, weights, writes])
            }
            Kind::Steps { steps, products } => sum(&[
                m.launch_ps,
                steps.saturating_mul(m.step_ps),
                products.saturating_mul(m.step_product_fs) / 1000,
                reads,
                weights,
                writes,
            ]),
        }
    }
}

/// The time of one node of a grouped graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// The node.
    pub node: NodeId,
    /// How long it takes on one thread.
    pub time: Picos,
}

/// How long each node of a grouped graph takes on one thread of a machine; the sum is the latency of a run. Symbols of the
/// graph count as [`NOMINAL`]; bind them for a prediction of certain extents ([`Graph::bind`]).
pub fn predict(graph: &Graph, machine: &Machine) -> Vec<Prediction> {
    let model = Model::new(machine.clone(), graph);
    graph.node_ids().map(|(node, _)| Prediction { node, time: model.time(&Work::of_node(graph, node)) }).collect()
}

/// Whether a value is a constant that is written into a kernel's code rather than read: one of a single element.
pub fn is_inline(graph: &Graph, value: ValueId) -> bool {
    graph.constant(value).is_some_and(|t| t.count() == 1)
}
