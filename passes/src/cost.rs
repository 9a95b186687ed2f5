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

/// Going on to the next of several things that a kernel does: its loops start anew, and parts end unevenly. An estimate, a tenth
/// of a call; what matters is that one product is preferred to two that read and write as much.
const NEXT_PS: Picos = 10_000;

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
        Model::with_weights(machine, weights_of(graph))
    }

    /// The machine when it runs a model with so many bytes of weights.
    pub fn with_weights(machine: Machine, bytes: u64) -> Model {
        Model { weights: machine.level(bytes), machine }
    }

    /// How long a kernel takes that does several things one after another: it is started once.
    pub fn time_of_all(&self, works: &[Work]) -> Picos {
        let times = works.iter().map(|work| self.time(work)).fold(0, Picos::saturating_add);
        let saved = self.machine.launch_ps.saturating_sub(NEXT_PS);
        times.saturating_sub(saved.saturating_mul(works.len().saturating_sub(1) as u64))
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
            Kind::Winograd { products, more_weights } => {
                // A weight is read for few rows of products: its bytes are waited for.
                let more_weights = m.read(self.weights, *more_weights);
                sum(&[m.launch_ps, m.contraction(products), m.transforms(products), scalar, reads, weights, more_weights, writes])
            }
            Kind::Window { taps } => {
                let products = work.elements.saturating_mul(*taps).saturating_mul(m.tap_fs) / 1000;
                sum(&[m.launch_ps, products, scalar, reads, weights, writes])
            }
            Kind::Steps { steps, input, state } => {
                // The gates are the columns of the products of the state.
                let gates = state.rows.saturating_mul(state.cols).saturating_mul(m.gate_ps);
                let step = sum(&[m.step_ps, m.contraction(state), gates]);
                sum(&[m.launch_ps.saturating_mul(2), m.contraction(input), steps.saturating_mul(step), reads, weights, writes])
            }
        }
    }
}

/// The bytes of all constants of a graph.
pub fn weights_of(graph: &Graph) -> u64 {
    graph.constants().map(|(_, v)| bytes(&v.ty)).fold(0, u64::saturating_add)
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
    graph.node_ids().map(|(node, _)| Prediction { node, time: model.time_of_all(&Work::of_node(graph, node)) }).collect()
}

/// Whether a value is a constant that is written into a kernel's code rather than read: one of a single element.
pub fn is_inline(graph: &Graph, value: ValueId) -> bool {
    graph.constant(value).is_some_and(|t| t.count() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use egret_ir::text::parse;

    /// Microseconds of a graph with every op a kernel of its own.
    fn us(text: &str) -> f64 {
        let times = predict(&parse(text).unwrap(), &ZEN4);
        times.iter().map(|prediction| prediction.time as f64 / 1e6).sum()
    }

    /// Within a fifth of what was measured on the machine of [`ZEN4`].
    #[track_caller]
    fn check(text: &str, measured: f64) {
        let predicted = us(text);
        assert!((predicted / measured - 1.0).abs() < 0.2, "predicted {predicted:.1} us, measured {measured:.1} us\n{text}");
    }

    fn conv(rows: usize, channels: usize, algorithm: &str) -> String {
        let height = rows + 2;
        format!(
            "graph g(x: f32[1, {height}, {height}, {channels}]) {{
                const w: f32[3, 3, {channels}, {channels}] = splat(0.5)
                y = conv[stride=[1, 1], pad=[0, 0, 0, 0], dilation=[1, 1], group=1, layout=last, algorithm={algorithm}](x, w)
                return y
            }}"
        )
    }

    #[test]
    fn convolutions_take_what_was_measured_in_both_forms() {
        let measured =
            [(56, 24, 372.7, 149.9), (56, 32, 494.3, 162.6), (28, 64, 490.6, 143.4), (14, 64, 122.8, 51.2), (14, 256, 2138.0, 709.6)];
        for (rows, channels, direct, winograd) in measured {
            check(&conv(rows, channels, "direct"), direct);
            check(&conv(rows, channels, "winograd"), winograd);
        }
    }

    fn lstm(steps: usize, batch: usize, inputs: usize, state: usize) -> String {
        let gates = 4 * state;
        format!(
            "graph g(x: f32[{steps}, {batch}, {inputs}], h: f32[{batch}, {state}], c: f32[{batch}, {state}]) {{
                const w: f32[{gates}, {inputs}] = splat(0.1)
                const r: f32[{gates}, {state}] = splat(0.1)
                const b: f32[{}] = splat(0.1)
                y, hs, cs = lstm[direction=forward](x, w, r, b, h, c)
                return y
            }}",
            2 * gates
        )
    }

    #[test]
    fn recurrences_take_what_was_measured() {
        check(&lstm(50, 1, 16, 64), 36.6);
        check(&lstm(40, 4, 256, 128), 596.0);
        check(&lstm(32, 2, 12, 64), 30.8);
    }

    #[test]
    fn products_of_other_types_take_longer() {
        let product = |ty: &str| us(&format!("graph g(x: {ty}[64, 128], w: {ty}[128, 384]) {{ y = matmul(x, w) return y }}"));
        assert!(product("f32") < product("i32") && product("i32") < product("f64") && product("f64") < product("f16"));
    }

    #[test]
    fn floats_become_bytes_a_vector_at_a_time() {
        let cast = |to: &str| us(&format!("graph g(x: f32[65536]) {{ y = cast[to={to}](x) return y }}"));
        assert!(cast("i8") < 2.0 * cast("i32"), "{} {}", cast("i8"), cast("i32"));
    }
}
