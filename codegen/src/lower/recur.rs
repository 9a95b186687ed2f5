//! Recurrent layers: the input projection of all steps as one contraction, then the steps.
//!
//! ```text
//! y, h, c = lstm(x, w, r, bias, h0, c0)
//! =>
//! gates = x * w^T + (both halves of the bias)        [t, b, 4h], a contraction
//! y, h, c = recur(gates, packed r, h0, c0)
//! ```
//!
//! The recurrent weights are packed so that the gates of one lane meet in registers: `[panel, k, gate, lane]`.

use super::{Data, Failure, Lowered, Lowering, Place, Region, Scratch};
use crate::kernel::{Axis, Body, BufferId, Cell, Recur};
use crate::pack::Packing;
use egret_ir::attr::{Activation, Direction};
use egret_ir::{DType, Dim, Element, Graph, Node, Op, Tensor, TensorType, ValueId, eval};
use std::sync::Arc;

/// The cell of a recurrent op, and whether it walks backwards.
fn cell(op: &Op) -> Option<(Cell, bool)> {
    let reverse = |d: &Direction| *d == Direction::Reverse;
    match op {
        Op::lstm { direction } => Some((Cell::Lstm, reverse(direction))),
        Op::gru { direction, linear_before_reset } => Some((Cell::Gru { linear_before_reset: *linear_before_reset }, reverse(direction))),
        Op::rnn { direction, activation } => {
            let cell = match activation {
                Activation::Tanh => Cell::Tanh,
                Activation::Relu => Cell::Relu,
                Activation::Sigmoid => Cell::Sigmoid,
            };
            Some((cell, reverse(direction)))
        }
        _ => None,
    }
}

/// What is known of a recurrence, and its operands by name.
struct Layer {
    cell: Cell,
    reverse: bool,
    hidden: usize,
    x: ValueId,
    w: ValueId,
    r: ValueId,
    bias: ValueId,
    h0: ValueId,
    c0: Option<ValueId>,
}

impl Lowering<'_> {
    /// Adds the launches of a recurrence; its results go to the region's results or to scratch memory.
    pub(super) fn recurrence(&mut self, node: &Node) -> Result<(), Failure> {
        let graph = &self.scope.region.graph;
        let fail = |reason: &str| Failure { value: node.results[0], reason: reason.to_string() };
        let (Some((cell, reverse)), [x, w, r, bias, h0, ..]) = (cell(&node.op), &node.operands[..]) else {
            return Err(fail("it is no recurrence"));
        };
        if graph.ty(*x).dtype != DType::F32 {
            return Err(fail("recurrences are computed in f32 only"));
        }
        let hidden = graph.ty(*r).dims[1].as_const().and_then(|h| usize::try_from(h).ok());
        let hidden = hidden.ok_or_else(|| fail("expects a hidden extent that is a number"))?;
        let [x, w, r] = [x, w, r].map(|value| self.before_widening(*value));
        let layer = Layer { cell, reverse, hidden, x, w, r, bias: *bias, h0: *h0, c0: node.operands.get(5).copied() };
        let (sum, candidate) = self.biases(node, &layer)?;
        let gates = self.projection(node, &layer, sum)?;
        let weights = self.recurrent_weights(node, &layer)?;
        self.steps(node, &layer, [gates, weights], candidate)
    }

    /// What is cast to a value, if kernels widen that as they read it.
    fn before_widening(&self, value: ValueId) -> ValueId {
        let graph = self.scope.graph();
        let cast = graph.producer(value).map(|node| graph.node(node)).filter(|node| matches!(node.op, Op::cast { to: DType::F32 }));
        let below = cast.map(|node| node.operands[0]).filter(|&x| self.scope.widened.types.contains(&graph.ty(x).dtype));
        below.filter(|_| self.scope.widened.everywhere).unwrap_or(value)
    }

    /// The sum of the bias' halves, and for a GRU that resets late the recurrent bias of its candidate, which stays apart.
    fn biases(&mut self, node: &Node, layer: &Layer) -> Result<(Place, Option<Place>), Failure> {
        let late = matches!(layer.cell, Cell::Gru { linear_before_reset: true });
        let graph = bias_graph(layer.cell.gates(), layer.hidden, late).map_err(|reason| Failure { value: node.results[0], reason })?;
        let places = match self.scope.constant(layer.bias) {
            Some(bias) => {
                let sums = eval::eval(&graph, &[(**bias).clone()]).map_err(|reason| Failure { value: layer.bias, reason })?;
                sums.into_iter().map(|t| self.add_data(Data::Tensor(Arc::new(t)))).collect()
            }
            None => {
                let bias = self.in_memory(node, layer.bias)?;
                self.part(node, graph, &[bias])?
            }
        };
        let mut places: std::vec::IntoIter<Place> = places.into_iter();
        let sum = places.next().ok_or_else(|| Failure { value: layer.bias, reason: "it has no sum".to_string() })?;
        Ok((sum, places.next()))
    }

    fn add_data(&mut self, data: Data) -> Place {
        self.lowered.data.push(data);
        Place::Data(self.lowered.data.len() - 1)
    }

    /// `x * w^T + bias` for all steps.
    fn projection(&mut self, node: &Node, layer: &Layer, bias: Place) -> Result<Place, Failure> {
        let outer = self.scope.region;
        let types = [layer.x, layer.w].map(|v| outer.graph.ty(v).clone());
        let known = outer.constant(layer.w).cloned();
        let graph = projection_graph(&types, known).map_err(|reason| Failure { value: node.results[0], reason })?;
        let (x, w) = (self.in_memory(node, layer.x)?, self.in_memory(node, layer.w)?);
        let places = if graph.params().len() == 3 { vec![x, bias, w] } else { vec![x, bias] };
        let made = self.part(node, graph, &places)?;
        made.into_iter().next().ok_or_else(|| Failure { value: node.results[0], reason: "it has no projection".to_string() })
    }

    /// Lowers a graph whose parameters lie at `params` as a part of this region; gives where its results lie.
    fn part(&mut self, node: &Node, graph: Graph, params: &[Place]) -> Result<Vec<Place>, Failure> {
        let fail = |reason: String| Failure { value: node.results[0], reason };
        let region = Region::whole(&graph, self.target).map_err(fail)?;
        let Lowered { launches, scratch, data } = super::lower(&region, self.target).map_err(|f| fail(f.reason))?;
        let first_scratch = self.lowered.scratch.len();
        self.lowered.scratch.extend(scratch);
        let first_data = self.lowered.data.len();
        self.lowered.data.extend(data);
        let mut results = vec![];
        for (&value, name) in region.graph.results.iter().zip(&region.graph.result_names) {
            let ty = region.graph.ty(value);
            let name = format!("{}.{name}", self.scope.graph().value(node.results[0]).name);
            self.lowered.scratch.push(Scratch { name, dtype: ty.dtype, count: ty.count() });
            results.push(Place::Scratch(self.lowered.scratch.len() - 1));
        }
        for mut launch in launches {
            for place in &mut launch.places {
                *place = match place {
                    Place::Value(v) => match region.graph.params().iter().position(|p| p == v) {
                        Some(i) => params[i].clone(),
                        None => {
                            Place::Table(region.constant(*v).ok_or_else(|| fail("a value is read before it is made".to_string()))?.clone())
                        }
                    },
                    Place::Result(i) => results[*i].clone(),
                    Place::Scratch(i) => Place::Scratch(first_scratch + *i),
                    Place::Data(i) => Place::Data(first_data + *i),
                    Place::Table(table) => Place::Table(table.clone()),
                };
            }
            self.lowered.launches.push(launch);
        }
        Ok(results)
    }

    /// The recurrent weights in the order in which steps read them.
    fn recurrent_weights(&mut self, node: &Node, layer: &Layer) -> Result<Place, Failure> {
        let hidden = layer.hidden;
        let axis = |name: &str, extent: usize| Axis { name: name.into(), extent: Dim::from(extent) };
        let (k, gate, lane) = (axis("%k", hidden), axis("%gate", layer.cell.gates()), axis("%lane", hidden));
        // An axis of extent 1 has no loop, and its index is 0.
        let index = |axis: &Axis| if axis.extent.is(1) { Dim::ZERO } else { axis.index() };
        let offset = (index(&gate) * hidden as i64 + index(&lane)) * hidden as i64 + index(&k);
        let steps: Vec<Axis> = [k, gate].into_iter().filter(|axis| !axis.extent.is(1)).collect();
        if let Some(tensor) = self.scope.constant(layer.r).cloned() {
            let (width, dtype) = (self.target.lanes, tensor.dtype());
            let packing = Packing { tensor, offset, batch: vec![], k: steps, cols: lane, width, dtype, together: 1 };
            return Ok(self.add_data(Data::Packed(packing)));
        }
        let r = self.in_memory(node, layer.r)?;
        let packed = super::contract::PackAtRunTime {
            name: "r.panels".to_string(),
            from: r,
            offset,
            batch: vec![],
            k: steps,
            cols: lane,
            zeros_behind: true,
        };
        Ok(self.pack_at_run_time(packed, self.target.lanes, node.results[0]).0)
    }

    fn steps(&mut self, node: &Node, layer: &Layer, [gates, weights]: [Place; 2], candidate: Option<Place>) -> Result<(), Failure> {
        let mut buffers = vec![gates, weights];
        let mut add = |place: Place| {
            buffers.push(place);
            BufferId(buffers.len() - 1)
        };
        let bias = candidate.map(&mut add);
        let h0 = add(self.in_memory(node, layer.h0)?);
        let c0 = match layer.c0 {
            Some(c0) => Some(add(self.in_memory(node, c0)?)),
            None => None,
        };
        let written: Vec<BufferId> = node.results.iter().map(|&value| add(self.destination(value))).collect();
        let x = &self.scope.graph().ty(layer.x).dims;
        let (steps, batch) = (x[0].clone(), x[1].clone());
        let recur = Recur {
            cell: layer.cell,
            steps,
            batch,
            hidden: layer.hidden,
            reverse: layer.reverse,
            gates: BufferId(0),
            weights: BufferId(1),
            bias,
            h0,
            c0,
            y: written[0],
            h: written[1],
            c: written.get(2).copied(),
        };
        self.launch(Body::Recur(recur), vec![], &buffers, node.results[0]);
        Ok(())
    }
}

/// `bias: [2*g*h] -> sum: [g*h]`, and the recurrent candidate bias `[h]` if that is applied apart.
fn bias_graph(gates: usize, hidden: usize, late: bool) -> Result<Graph, String> {
    let mut g = Graph::new("bias");
    let width = gates * hidden;
    let bias = g.add_param("bias", TensorType::new(DType::F32, [2 * width]));
    let slice = |start: usize, count: usize| Op::slice { start: vec![Dim::from(start)], shape: vec![Dim::from(count)], step: vec![1] };
    let input = g.add("input", slice(0, width), &[bias])?;
    let recurrent = match late {
        false => g.add("recurrent", slice(width, width), &[bias])?,
        true => {
            let joined = g.add("joined", slice(width, width - hidden), &[bias])?;
            let zeros = g.add_const("zeros", Tensor::splat(DType::F32, vec![hidden], Element::Float(0.0)));
            g.add("recurrent", Op::concat { axis: 0 }, &[joined, zeros])?
        }
    };
    let sum = g.add("sum", Op::add, &[input, recurrent])?;
    g.add_result(sum, "bias");
    if late {
        let candidate = g.add("candidate", slice(2 * width - hidden, hidden), &[bias])?;
        g.add_result(candidate, "candidate");
    }
    Ok(g)
}

/// `x: [t, b, i], bias: [g*h], w: [g*h, i] -> x * w^T + bias: [t, b, g*h]`; `w` is no parameter if it is known. What is no f32 is widened.
fn projection_graph([x, w]: &[TensorType; 2], known: Option<Arc<Tensor>>) -> Result<Graph, String> {
    let mut g = Graph::new("projection");
    let x = g.add_param("x", x.clone());
    let bias = g.add_param("bias", TensorType::new(DType::F32, [w.dims[0].clone()]));
    let w = match known {
        Some(tensor) => g.add_const("w", tensor),
        None => g.add_param("w", w.clone()),
    };
    let x = widened(&mut g, x)?;
    let w = widened(&mut g, w)?;
    let columns = g.add("columns", Op::transpose { perm: vec![1, 0] }, &[w])?;
    let product = g.add("product", Op::matmul, &[x, columns])?;
    let gates = g.add("gates", Op::add, &[product, bias])?;
    g.add_result(gates, "gates");
    Ok(g)
}

fn widened(g: &mut Graph, value: ValueId) -> Result<ValueId, String> {
    let name = format!("{}.f32", g.value(value).name);
    if g.ty(value).dtype == DType::F32 { Ok(value) } else { g.add(&name, Op::cast { to: DType::F32 }, &[value]) }
}
