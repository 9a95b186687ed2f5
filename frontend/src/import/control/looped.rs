//! Loop and Scan: unrolled where that is little, else regions.

use super::region::{Body, Steps};
use super::{Holder, Importer, Outputs, broken, stacked, without_axis};
use crate::build::Turn;
use crate::error::Code;
use crate::scope::{Binding, Operand};
use crate::site::{Site, Stop, fault, malformed};
use egret_ir::{DType, Dim, Element, Op, Tensor, ValueId};
use onnx_protobuf::{GraphProto, NodeProto};

/// Nodes that a loop may become when it is unrolled. A step of a region costs some microseconds of its own, as much as a dozen small kernels, and what
/// is unrolled is fused with what stands around; but each node takes part in all rewriting, so that long loops would take minutes to compile.
const UNROLLED_NODES: i64 = 128;

/// Steps at most of a loop that carries sequences, since each is imported; so long a list is better a tensor.
const LISTED_STEPS: i64 = 1024;

/// Batches at most of a `Scan` of opset 8, since the body is imported for each; no exporter has written one for years.
const MOST_BATCHES: i64 = 64;

/// What a `Scan` reads and makes.
#[derive(Clone)]
pub(super) struct Scanned<'m> {
    pub(super) body: &'m GraphProto,
    pub(super) states: Vec<ValueId>,
    /// What is scanned, one slice per step.
    pub(super) xs: Vec<ValueId>,
    pub(super) axes: Vec<usize>,
    pub(super) backwards: Vec<bool>,
    /// Where the rows of the results go.
    pub(super) out_axes: Vec<i64>,
    pub(super) out_backwards: Vec<bool>,
}

impl Scanned<'_> {
    /// How many results grow.
    pub(super) fn results(&self) -> usize {
        self.out_axes.len()
    }
}

impl<'m> Importer<'m> {
    /// Inputs: trip count, condition, states. The body takes the step, the condition and the states, and gives the condition, the
    /// states, and a row for every result that grows.
    pub(super) fn any_loop(&mut self, holder: &Holder<'_, 'm>) -> Outputs {
        let body = holder.graph("body")?;
        self.restart(holder);
        let (going, trips) = (self.going(holder), self.trips(holder)?);
        let known = trips.as_ref().and_then(Dim::as_const);
        let starts = self.build.truth(going);
        let steps = if starts == Some(false) { Some(0) } else { known };
        let is_little = |steps: i64| starts == Some(true) && self.ends_by_count(body) && steps.saturating_mul(size(body)) <= UNROLLED_NODES;
        if let Some(steps) = steps.filter(|&steps| steps <= 0 || is_little(steps)) {
            return self.unrolled_loop(holder, steps).map(|outputs| outputs.map(|o| o.iter().filter_map(Operand::tensor).collect()));
        }
        let count = match holder.operands.first().copied().flatten() {
            Some(count) => count,
            None => self.build.constant(Tensor::scalar(DType::I64, Element::Int(i64::MAX.into()))),
        };
        let carried = (2..holder.operands.len()).map(|i| holder.operand(i)).collect::<Result<Vec<ValueId>, Stop>>()?;
        let mut site = self.site(holder);
        let count = site.cast(count, DType::I64)?;
        let (count, going) = (site.reshape(count, [])?, site.reshape(going, [])?);
        let names = body.input.iter().skip(2).map(|i| i.name.as_str()).collect();
        let trips = trips.map(|trips| trips.maximum(&Dim::ZERO));
        let steps = Steps { count, trips, going, carried, names };
        self.repeated(holder, &steps, &mut |importer, step, carried| {
            let holds = importer.build.constant(Tensor::scalar(DType::Bool, Element::Bool(true)));
            let Some(outputs) = importer.step(holder, body, Turn::Run(step), &[&[step, holds], carried].concat())? else { return Ok(None) };
            let states = carried.len() + 1;
            if outputs.len() < states {
                return Err(malformed(Code::Operand, "the body of `Loop` gives fewer states than it takes"));
            }
            Ok(Some(Body { going: Some(outputs[0]), carried: outputs[1..states].to_vec(), rows: outputs[states..].to_vec() }))
        })
    }

    /// A loop that carries sequences or optionals. Their lengths are known for a step only after the one before, so the steps are unrolled.
    pub(super) fn loop_of_lists(&mut self, holder: &Holder<'_, 'm>) -> Result<Vec<Binding<'m>>, Stop> {
        self.restart(holder);
        let (going, trips) = (self.going(holder), self.trips(holder)?);
        let counted = holder.operands.first().copied().flatten();
        let most = match (trips.as_ref().map(Dim::as_const), counted) {
            _ if self.build.truth(going) == Some(false) => 0,
            (Some(Some(steps)), _) if steps <= LISTED_STEPS => steps,
            (Some(Some(steps)), _) => {
                let message = format!("`Loop` carries sequences through {steps} steps, expected at most {LISTED_STEPS}");
                return Err(fault(Code::ControlFlow, message, "export it so that the loop gathers rows (scan outputs) in place of a list"));
            }
            (_, None) => LISTED_STEPS,
            (_, Some(count)) => return Err(self.of_lists("the trip count", count)),
        };
        let outputs = self.unrolled_loop(holder, most)?;
        Ok(outputs.map_or_else(|| broken(holder), |outputs| outputs.into_iter().map(Binding::Is).collect()))
    }

    /// The fault of a loop over lists that is not known.
    pub(super) fn of_lists(&self, what: &str, value: ValueId) -> Stop {
        let message = format!("{what} of a `Loop` that carries sequences must be known when the model is compiled");
        self.build.unknown(Code::ControlFlow, message, value)
    }

    /// The condition before the first step.
    pub(super) fn going(&mut self, holder: &Holder<'_, 'm>) -> ValueId {
        let given = holder.operands.get(1).copied().flatten();
        given.unwrap_or_else(|| self.build.constant(Tensor::scalar(DType::Bool, Element::Bool(true))))
    }

    /// The trip count, if it is known.
    fn trips(&mut self, holder: &Holder<'_, 'm>) -> Result<Option<Dim>, Stop> {
        let Some(count) = holder.operands.first().copied().flatten() else { return Ok(None) };
        match self.build.contents(count).as_deref() {
            Some([trips]) => Ok(Some(trips.clone())),
            Some(others) => Err(malformed(Code::Shape, format!("the trip count of `Loop` has {} elements, expected 1", others.len()))),
            None => Ok(None),
        }
    }

    /// Whether the condition that a body gives is the one it was given, or a constant that holds.
    fn ends_by_count(&self, body: &'m GraphProto) -> bool {
        let Some(mut name) = body.output.first().map(|o| o.name.as_str()) else { return false };
        // Each node is passed at most once.
        for _ in 0..=body.node.len() {
            match body.node.iter().find(|node| node.output.iter().any(|o| o == name)) {
                Some(node) if node.op_type == "Identity" => name = node.input.first().map_or("", String::as_str),
                Some(node) => return node.op_type == "Constant",
                None => break,
            }
        }
        let holds = |value| self.build.truth(value).is_some();
        body.input.get(1).is_some_and(|condition| condition.name == name)
            || body.initializer.iter().any(|t| t.name == name)
            || self.scopes.find(name).is_some_and(|(binding, _)| match binding {
                Binding::Is(Operand::Tensor(value)) => holds(*value),
                binding => matches!(binding, Binding::Initializer(_)),
            })
    }

    /// Inputs: states, then what is scanned; so are the outputs. Each step sees one slice of what is scanned.
    pub(super) fn any_scan(&mut self, holder: &Holder<'_, 'm>) -> Outputs {
        let scanned = self.scanned(holder)?;
        if self.opset("") < 9 { self.batched_scan(holder, &scanned) } else { self.scan(holder, &scanned) }
    }

    fn scan(&mut self, holder: &Holder<'_, 'm>, scanned: &Scanned<'m>) -> Outputs {
        let trips = self.build.graph.ty(scanned.xs[0]).dims[scanned.axes[0]].clone();
        match trips.as_const() {
            Some(steps) if steps > 0 && steps.saturating_mul(size(scanned.body)) <= UNROLLED_NODES => {
                self.unrolled_scan(holder, scanned, steps)
            }
            _ => self.repeated_scan(holder, scanned, trips),
        }
    }

    /// The scan of opset 8: its first input may say how long the sequences are, and everything has an axis of batches in front.
    fn batched_scan(&mut self, holder: &Holder<'_, 'm>, scanned: &Scanned<'m>) -> Outputs {
        if holder.operands[0].is_some() {
            let message = "`Scan` of opset 8 with sequences of different lengths is not supported";
            return Err(fault(Code::Opset, message, "convert the model to opset 9 or newer"));
        }
        let rank = |x: &&ValueId| self.build.graph.ty(**x).rank();
        if let Some(&flat) = scanned.xs.iter().find(|x| rank(x) < 2).or(scanned.states.iter().find(|x| rank(x) < 1)) {
            let found = self.build.graph.ty(flat);
            return Err(malformed(Code::Shape, format!("`Scan` of opset 8 expects batches of states and of sequences, found {found}")));
        }
        let batch = self.build.graph.ty(scanned.xs[0]).dims[0].clone();
        let Some(count) = batch.as_const().filter(|count| (1..=MOST_BATCHES).contains(count)) else {
            let message = format!("`Scan` of opset 8 has batches of {batch}, expected a number from 1 to {MOST_BATCHES}");
            return Err(fault(Code::Opset, message, "convert the model to opset 9 or newer"));
        };
        let mut results = vec![vec![]; scanned.states.len() + scanned.results()];
        for i in 0..count {
            let mut own =
                |values: &[ValueId]| values.iter().map(|&x| without_axis(&mut self.site(holder), x, 0, i)).collect::<Result<Vec<_>, _>>();
            let one = Scanned { states: own(&scanned.states)?, xs: own(&scanned.xs)?, ..scanned.clone() };
            let Some(outputs) = self.scan(holder, &one)? else { return Ok(None) };
            results.iter_mut().zip(outputs).for_each(|(results, output)| results.push(output));
        }
        results.iter().map(|batches| stacked(&mut self.site(holder), batches, 0)).collect::<Result<Vec<_>, _>>().map(Some)
    }

    fn scanned(&mut self, holder: &Holder<'_, 'm>) -> Result<Scanned<'m>, Stop> {
        let is_batched = self.opset("") < 9;
        // Where there are batches, the lengths of their sequences come first.
        let first = usize::from(is_batched);
        let body = holder.graph("body")?;
        let scanned = holder.attributes.get("num_scan_inputs").and_then(|a| usize::try_from(a.i).ok()).unwrap_or(0);
        let states = holder.operands.len().checked_sub(scanned + first).filter(|_| scanned > 0);
        let states = states.ok_or_else(|| malformed(Code::Attribute, "`Scan` needs `num_scan_inputs` from 1 to its inputs"))?;
        let results =
            body.output.len().checked_sub(states).ok_or_else(|| malformed(Code::Operand, "`Scan` has more states than results"))?;
        let backwards = |name: &str, count| Ok::<_, Stop>(holder.ints(name, count)?.into_iter().map(|d| d == 1).collect());
        let axes = holder.ints("scan_input_axes", scanned)?;
        let xs = (first + states..first + states + scanned).map(|i| holder.operand(i)).collect::<Result<Vec<ValueId>, Stop>>()?;
        self.restart(holder);
        let site = self.site(holder);
        let axes = axes.iter().zip(&xs).map(|(&axis, &x)| site.axis(axis, site.rank(x))).collect::<Result<Vec<usize>, Stop>>()?;
        Ok(Scanned {
            body,
            states: (first..first + states).map(|i| holder.operand(i)).collect::<Result<Vec<ValueId>, Stop>>()?,
            xs,
            axes,
            backwards: backwards(if is_batched { "directions" } else { "scan_input_directions" }, scanned)?,
            out_axes: holder.ints("scan_output_axes", results)?,
            out_backwards: backwards("scan_output_directions", results)?,
        })
    }

    fn repeated_scan(&mut self, holder: &Holder<'_, 'm>, scanned: &Scanned<'m>, trips: Dim) -> Outputs {
        let going = self.build.constant(Tensor::scalar(DType::Bool, Element::Bool(true)));
        let mut site = self.site(holder);
        let count = site.op(Op::dims { values: vec![trips.clone()] }, &[])?;
        let count = site.reshape(count, [])?;
        let names = scanned.body.input.iter().map(|i| i.name.as_str()).take(scanned.states.len()).collect();
        let steps = Steps { count, trips: Some(trips.clone()), going, carried: scanned.states.clone(), names };
        let depth = self.build.depth();
        let made = self.repeated(holder, &steps, &mut |importer, step, carried| {
            let mut inputs = carried.to_vec();
            for ((&x, &axis), &backwards) in scanned.xs.iter().zip(&scanned.axes).zip(&scanned.backwards) {
                let x = importer.build.captured(x, depth);
                let mut site = importer.site(holder);
                let at = if backwards { from_end(&mut site, &trips, step)? } else { step };
                inputs.push(site.op(Op::gather { axis }, &[x, at])?);
            }
            let Some(outputs) = importer.step(holder, scanned.body, Turn::Run(step), &inputs)? else { return Ok(None) };
            let (carried, rows) = outputs.split_at(carried.len().min(outputs.len()));
            Ok(Some(Body { going: None, carried: carried.to_vec(), rows: rows.to_vec() }))
        })?;
        let Some(mut results) = made else { return Ok(None) };
        let rows = results.split_off(scanned.states.len());
        for (mut rows, (&axis, &backwards)) in rows.into_iter().zip(scanned.out_axes.iter().zip(&scanned.out_backwards)) {
            let mut site = self.site(holder);
            if backwards {
                rows = reversed(&mut site, rows)?;
            }
            results.push(moved(&mut site, rows, axis)?);
        }
        Ok(Some(results))
    }
}

/// The number of the step, counted from the last.
fn from_end(n: &mut Site, trips: &Dim, step: ValueId) -> Result<ValueId, Stop> {
    let last = n.op(Op::dims { values: vec![trips.clone() - 1] }, &[])?;
    let last = n.reshape(last, [])?;
    n.op(Op::sub, &[last, step])
}

/// The first axis backwards.
fn reversed(n: &mut Site, x: ValueId) -> Result<ValueId, Stop> {
    let dims = n.dims(x);
    let mut start = vec![Dim::ZERO; dims.len()];
    let mut step = vec![1; dims.len()];
    (start[0], step[0]) = (dims[0].clone() - 1, -1);
    n.op(Op::slice { start, shape: dims, step }, &[x])
}

/// The first axis brought to another place.
fn moved(n: &mut Site, x: ValueId, axis: i64) -> Result<ValueId, Stop> {
    let axis = n.axis(axis, n.rank(x))?;
    let mut perm: Vec<usize> = (1..n.rank(x)).collect();
    perm.insert(axis, 0);
    if axis == 0 { Ok(x) } else { n.op(Op::transpose { perm }, &[x]) }
}

/// The nodes of a graph, those of graphs inside counted too.
fn size(graph: &GraphProto) -> i64 {
    let inner = |node: &NodeProto| node.attribute.iter().flat_map(|a| a.g.iter()).map(size).fold(1, i64::saturating_add);
    graph.node.iter().map(inner).fold(0, i64::saturating_add)
}
