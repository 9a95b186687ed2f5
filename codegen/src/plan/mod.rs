//! From a grouped graph to the plan that the runtime walks: kernels in order, buffers, weights.
//!
//! Every node is lowered by itself; equal kernels become one. A node that only renames its operand's elements, such as a
//! reshape, becomes no step: its value lies in the operand's buffer.
//!
//! ```text
//! a = kernel k0(x, w, b)   =>   step a: kernel k0, reads [x, panels of w, b], writes [a]
//! y = reshape(a)           =>   y is the buffer a
//! ```
//!
//! Where extents depend on data the graph is one of stages, and the plan a program of them (see `program`).
//!
//! Invariant: a buffer is written before it is read, and by the steps of one node only.

mod handles;
mod program;
mod shape;
pub(crate) mod size;
#[cfg(test)]
mod tests;
mod weights;
mod work;

pub use weights::Weights;

use crate::error::{CannotLower, Error};
use crate::kernel::Kernel;
use crate::lower::{self, Data, Launch, Lowered, Place, Region};
use crate::target::Target;
use egret_ir::assume::{self, Relation};
use egret_ir::{Dim, Graph, Kind, Node, TensorType, ValueId};
use egret_runtime::plan::{self, Buffer, KernelInfo, Plan, Port, Requirement, Size, Step};
use indexmap::IndexMap;
use size::{Symbols, element_type};
use std::collections::HashMap;
use work::Work;

/// A model before its kernels become code: the plan, in which they have no offsets yet.
#[derive(Debug)]
pub struct Program {
    /// What the runtime will walk.
    pub plan: Plan,
    /// The distinct kernels, in the order of the plan's.
    pub kernels: Vec<Kernel>,
    /// The constants.
    pub weights: Weights,
}

/// Lowers every node of a graph; `done` is told how many of how many are.
///
/// # Errors
/// Names the value that cannot be lowered, with its op and types.
pub fn build(graph: &Graph, target: &Target, done: &dyn Fn(usize, usize)) -> Result<Program, Error> {
    build_with(Weights::default(), graph, target, done)
}

/// The same, with the constants of programs that were built before: what is among them is not added again.
///
/// # Errors
/// As [`build`].
pub fn build_with(weights: Weights, graph: &Graph, target: &Target, done: &dyn Fn(usize, usize)) -> Result<Program, Error> {
    let made = Made { weights, ..Made::default() };
    let strings = handles::strings(graph).map_err(Error::Graph)?;
    let (mut plan, made) = match program::is_program(graph) {
        true => program::build(graph, target, made, done)?,
        false => build_plan(graph, target, made, done)?,
    };
    plan.strings = strings;
    Ok(made.program(plan))
}

/// The plan of a graph without stages. Its kernels and weights are added to those that are there.
fn build_plan(graph: &Graph, target: &Target, made: Made, done: &dyn Fn(usize, usize)) -> Result<(Plan, Made), Error> {
    let plain = handles::plain(graph).map_err(Error::Graph)?;
    let mut builder = Builder::new(&plain, target, made);
    builder.inputs()?;
    for (i, node) in plain.nodes().iter().enumerate() {
        builder.node(node)?;
        done(i + 1, plain.nodes().len());
    }
    builder.outputs()?;
    builder.requirements()?;
    let (mut plan, made) = builder.finish();
    handles::retype(&mut plan.inputs, graph.params().iter().map(|&param| graph.ty(param)));
    handles::retype(&mut plan.outputs, graph.results.iter().map(|&result| graph.ty(result)));
    Ok((plan, made))
}

/// What the plans of one program share.
#[derive(Default)]
struct Made {
    /// By what they compute.
    kernels: IndexMap<[u8; 32], (Kernel, String)>,
    weights: Weights,
}

impl Made {
    fn program(self, mut plan: Plan) -> Program {
        let kernels = self.kernels.into_iter().enumerate();
        let (kernels, infos) = kernels
            .map(|(i, (hash, (kernel, text)))| {
                let unit = work::unit(&kernel);
                (kernel, KernelInfo { name: format!("k{i}"), offset: 0, text, hash, unit })
            })
            .unzip();
        plan.kernels = infos;
        Program { plan, kernels, weights: self.weights }
    }
}

struct Builder<'a> {
    graph: &'a Graph,
    target: &'a Target,
    symbols: Symbols,
    plan: Plan,
    /// The buffer in which a value lies.
    buffers: HashMap<ValueId, u32>,
    /// Buffers of the weights section, by their offsets.
    weight_buffers: HashMap<(u64, u64), u32>,
    made: Made,
}

impl<'a> Builder<'a> {
    fn new(graph: &'a Graph, target: &'a Target, made: Made) -> Builder<'a> {
        let names = size::free_symbols(graph);
        let plan = Plan { model: graph.name.clone(), symbols: names.iter().map(|n| n.to_string()).collect(), ..Plan::default() };
        Builder { graph, target, symbols: Symbols { names }, plan, buffers: HashMap::new(), weight_buffers: HashMap::new(), made }
    }

    fn size(&self, d: &Dim) -> Result<Size, Error> {
        self.symbols.size(d).map_err(|symbol| Error::Unbound { symbol: symbol.to_string(), extent: d.to_string() })
    }

    fn bytes(&self, ty: &TensorType) -> Result<Size, Error> {
        self.size(&(ty.count() * ty.dtype.size()))
    }

    fn add_buffer(&mut self, name: &str, bytes: Size, place: plan::Place) -> u32 {
        self.plan.buffers.push(Buffer { name: name.to_string(), bytes, place });
        self.plan.buffers.len() as u32 - 1
    }

    fn inputs(&mut self) -> Result<(), Error> {
        for (i, &param) in self.graph.params().iter().enumerate() {
            let value = self.graph.value(param);
            let port = self.port(&value.name, &value.ty, self.plan.buffers.len() as u32)?;
            let bytes = self.bytes(&value.ty)?;
            let buffer = self.add_buffer(&value.name, bytes, plan::Place::Input(i as u32));
            self.buffers.insert(param, buffer);
            self.plan.inputs.push(port);
        }
        Ok(())
    }

    /// What inference took of symbols becomes a check at run time, when they are numbers.
    fn requirements(&mut self) -> Result<(), Error> {
        for assumption in assume::of(self.graph) {
            let text = assumption.to_string();
            let Relation { left, kind, right } = assumption.relation;
            let (left, right) = (self.size(&left)?, self.size(&right)?);
            self.plan.requirements.push(Requirement { left, right, equal: kind == assume::Kind::Equal, text });
        }
        Ok(())
    }

    fn port(&self, name: &str, ty: &TensorType, buffer: u32) -> Result<Port, Error> {
        Ok(Port {
            name: name.to_string(),
            dtype: element_type(ty.dtype),
            dims: ty.dims.iter().map(|d| self.size(d)).collect::<Result<_, _>>()?,
            dim_text: ty.dims.iter().map(|d| d.to_string()).collect(),
            buffer,
        })
    }

    /// The results leave the graph; one that a step writes is written into the caller's memory.
    fn outputs(&mut self) -> Result<(), Error> {
        for (i, (&result, name)) in self.graph.results.iter().zip(&self.graph.result_names).enumerate() {
            let buffer = self.value(result)?;
            let place = &mut self.plan.buffers[buffer as usize].place;
            if *place == plan::Place::Arena {
                *place = plan::Place::Output(i as u32);
            }
            let port = self.port(name, self.graph.ty(result), buffer)?;
            self.plan.outputs.push(port);
        }
        Ok(())
    }

    /// The buffer of a value of the graph.
    fn value(&mut self, value: ValueId) -> Result<u32, Error> {
        if let Some(&buffer) = self.buffers.get(&value) {
            return Ok(buffer);
        }
        let name = self.graph.value(value).name.clone();
        let buffer = match self.graph.constant(value) {
            Some(tensor) => self.data(&name, &Data::Tensor(tensor.clone())),
            None => {
                let bytes = self.bytes(self.graph.ty(value))?;
                self.add_buffer(&name, bytes, plan::Place::Arena)
            }
        };
        self.buffers.insert(value, buffer);
        Ok(buffer)
    }

    /// The buffer of data that is known now; the same for the same data.
    fn data(&mut self, name: &str, data: &Data) -> u32 {
        let (offset, bytes) = self.made.weights.place(data);
        if let Some(&known) = self.weight_buffers.get(&(offset, bytes)) {
            return known;
        }
        let buffer = self.add_buffer(name, Size::Const(bytes as i64), plan::Place::Weights { offset });
        self.weight_buffers.insert((offset, bytes), buffer);
        buffer
    }

    fn node(&mut self, node: &Node) -> Result<(), Error> {
        let region = Region::of(self.graph, node, self.target).map_err(|reason| self.refused(node, node.results[0], reason))?;
        let lowered = lower::lower(&region, self.target).map_err(|failure| self.failed(node, &region, failure))?;
        self.plan.fused |= node.region.as_ref().is_some_and(|ops| ops.nodes().len() > 1);
        if self.is_renamed(node, &region, &lowered)? {
            return Ok(());
        }
        let scratch = lowered.scratch.iter().map(|s| {
            let bytes = self.size(&(s.count.clone() * s.dtype.size()))?;
            Ok(self.add_buffer(&s.name, bytes, plan::Place::Arena))
        });
        let scratch: Vec<u32> = scratch.collect::<Result<_, Error>>()?;
        for launch in &lowered.launches {
            let buffers =
                launch.places.iter().map(|place| self.place(node, &region, &lowered, &scratch, place)).collect::<Result<Vec<_>, _>>()?;
            let text = text_of(node, &region, &lowered, launch);
            self.step(node, launch, buffers, text)?;
        }
        Ok(())
    }

    /// Whether a node only renames the elements of a buffer: then its value lies there.
    fn is_renamed(&mut self, node: &Node, region: &Region, lowered: &Lowered) -> Result<bool, Error> {
        let ([launch], [result]) = (&lowered.launches[..], &node.results[..]) else { return Ok(false) };
        let ty = self.graph.ty(*result);
        let Some(from) = shape::copies(&launch.kernel, &ty.count()) else { return Ok(false) };
        let Place::Value(value) = launch.places[from.0] else { return Ok(false) };
        if region.graph.ty(value).count() != ty.count() || ty.count().is(0) {
            return Ok(false);
        }
        let buffer = self.place(node, region, lowered, &[], &Place::Value(value))?;
        self.buffers.insert(*result, buffer);
        Ok(true)
    }

    /// The plan's buffer for what a kernel's buffer holds.
    fn place(&mut self, node: &Node, region: &Region, lowered: &Lowered, scratch: &[u32], place: &Place) -> Result<u32, Error> {
        match place {
            Place::Value(value) => match region.graph.params().iter().position(|p| p == value) {
                Some(operand) => self.value(node.operands[operand]),
                None => {
                    let name = region.graph.value(*value).name.clone();
                    let tensor = region
                        .constant(*value)
                        .ok_or_else(|| self.refused(node, node.results[0], format!("`{name}` is read before it is made")))?;
                    Ok(self.data(&name, &Data::Tensor(tensor.clone())))
                }
            },
            Place::Result(i) => self.value(node.results[*i]),
            Place::Scratch(i) => Ok(scratch[*i]),
            Place::Data(i) => Ok(self.data("data", &lowered.data[*i])),
            Place::Table(table) => Ok(self.data("table", &Data::Tensor(table.clone()))),
        }
    }

    fn step(&mut self, node: &Node, launch: &Launch, buffers: Vec<u32>, text: String) -> Result<(), Error> {
        let kernel = &launch.kernel;
        let work = Work::of(kernel);
        let sizes = kernel.sizes().into_iter().map(|s| self.size(&Dim::symbol(s))).collect::<Result<_, _>>()?;
        let (reads, writes): (Vec<_>, Vec<_>) = buffers.iter().zip(&kernel.buffers).partition(|(_, b)| !b.written);
        let scratch = self.private(launch)?;
        let in_place = shape::shareable(kernel).into_iter().map(|(r, w)| (buffers[r.0], buffers[w.0]));
        // Threads of a GPU run at once: a value must not be written over while others may still read it.
        let in_place = in_place.into_iter().find(|(r, w)| !self.target.is_cuda() && self.may_share(*r, *w));
        let parts = self.size(&work.parts(&kernel.units(self.target.lanes)))?;
        let flops = self.size(&work.operations)?;
        let (number, hash) = (self.made.kernels.len(), shape::fingerprint(kernel));
        let number = self.made.kernels.get_index_of(&hash).unwrap_or(number);
        self.made.kernels.entry(hash).or_insert_with(|| (kernel.clone(), text));
        self.plan.steps.push(Step {
            name: launch.name.to_string(),
            kernel: number as u32,
            reads: reads.into_iter().map(|(b, _)| *b).collect(),
            writes: writes.into_iter().map(|(b, _)| *b).chain(scratch).collect(),
            sizes,
            parts,
            in_place,
            flops,
            origins: node.origin.iter().map(|o| o.to_string()).collect(),
        });
        Ok(())
    }

    /// The working memory of a launch, if its kernel needs any. What kernels of a GPU need lies in registers and shared memory.
    fn private(&mut self, launch: &Launch) -> Result<Option<u32>, Error> {
        let bytes = launch.kernel.scratch(self.target.lanes);
        if bytes.is(0) || self.target.is_cuda() {
            return Ok(None);
        }
        let bytes = self.size(&bytes)?;
        Ok(Some(self.add_buffer(&launch.name, bytes, plan::Place::Private)))
    }

    /// Whether the bytes of a buffer are enough for another, and are Egret's own.
    fn may_share(&self, read: u32, written: u32) -> bool {
        let (read, written) = (&self.plan.buffers[read as usize], &self.plan.buffers[written as usize]);
        read.place == plan::Place::Arena && read.bytes == written.bytes
    }

    fn finish(mut self) -> (Plan, Made) {
        let places: Vec<plan::Place> = self.plan.buffers.iter().map(|b| b.place).collect();
        let is_own = |b: u32| places[b as usize] == plan::Place::Arena;
        self.plan.steps.iter_mut().for_each(|s| s.in_place = s.in_place.filter(|(r, w)| is_own(*r) && is_own(*w)));
        (self.plan, self.made)
    }

    /// The error for a value of a node's region.
    fn failed(&self, node: &Node, region: &Region, failure: lower::Failure) -> Error {
        let made_by = region.graph.producer(failure.value).map(|n| region.graph.node(n));
        self.cannot_lower(node, &region.graph, failure.value, made_by, failure.reason)
    }

    /// The error for a value of the graph itself.
    fn refused(&self, node: &Node, value: ValueId, reason: String) -> Error {
        self.cannot_lower(node, self.graph, value, Some(node), reason)
    }

    fn cannot_lower(&self, node: &Node, graph: &Graph, value: ValueId, made_by: Option<&Node>, reason: String) -> Error {
        let operands = made_by.map_or(vec![], |n| n.operands.iter().map(|&v| graph.ty(v).to_string()).collect());
        let value = graph.value(value);
        let error = CannotLower {
            value: value.name.to_string(),
            op: made_by.map_or("a parameter", |n| n.op.name()).to_string(),
            operands: operands.join(", "),
            result: value.ty.to_string(),
            origin: origin_of(node),
            reason,
        };
        error.into()
    }
}

fn origin_of(node: &Node) -> String {
    match &node.origin[..] {
        [] => String::new(),
        origins => format!(" (from {})", origins.iter().map(|o| format!("`{o}`")).collect::<Vec<_>>().join(", ")),
    }
}

/// What a launch does, in the names of the ops: `matmul · add · relu`.
fn text_of(node: &Node, region: &Region, lowered: &Lowered, launch: &Launch) -> String {
    let graph = node.region.as_deref().unwrap_or(&region.graph);
    let is_main = launch.places.iter().any(|p| matches!(p, Place::Result(_)));
    if !is_main || lowered.launches.len() > 1 && lowered.launches.last().is_some_and(|l| !std::ptr::eq(l, launch)) {
        return format!("part of {}", node_text(graph));
    }
    node_text(graph)
}

fn node_text(graph: &Graph) -> String {
    let ops = |views: bool| -> Vec<&str> {
        graph.nodes().iter().map(|n| &n.op).filter(|op| views || op.def().kind != Kind::View).map(|op| op.name()).collect()
    };
    let named = ops(false);
    (if named.is_empty() { ops(true) } else { named }).join(" · ")
}
