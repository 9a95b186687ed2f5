//! From a graph of stages to a program: each stage is a plan, what lies between them a call, the regions of loops and branches are bodies.
//!
//! ```text
//! m = stage s0(x) { ... }               call 0: stage 0, reads [x], writes [m]
//! i = non_zero[count = K](m)      =>    call 1: non_zero, reads [m], writes [i]
//! y = stage s1(i) { ... }               call 2: stage 1, reads [i], writes [y]
//! ```
//!
//! Invariant: the stages' steps call kernels of one list and read weights of one section, so equal ones are there once.

use super::size::{Symbols, element_type, free_symbols};
use super::{Made, build_plan};
use crate::error::{CannotLower, Error};
use crate::target::Target;
use egret_ir::attr::TextTask;
use egret_ir::{DType, Dim, Graph, Node, Op, TensorType, ValueId};
use egret_runtime::plan::{Buffer, Place, Plan, Port, Size};
use egret_runtime::program::{Body, Call, Program, Repeat, Row, Text, What};
use std::collections::HashMap;
use std::sync::Arc;

/// Whether data decides over extents of a graph, or over what is computed.
pub(super) fn is_program(graph: &Graph) -> bool {
    graph.nodes().iter().any(|node| matches!(node.op, Op::stage { .. }) || node.op.finds_extents())
}

/// The plan of a graph of stages, and what its stages share.
///
/// # Errors
/// Names the value that cannot be lowered, or that stands outside of a stage.
pub(super) fn build(graph: &Graph, target: &Target, made: Made, done: &dyn Fn(usize, usize)) -> Result<(Plan, Made), Error> {
    let mut builder = Builder { target, made, program: Program::default(), fused: false };
    builder.body(graph, done)?;
    let mut plan = interface(graph)?;
    plan.fused = builder.fused;
    plan.program = Some(builder.program);
    Ok((plan, builder.made))
}

struct Builder<'a> {
    target: &'a Target,
    made: Made,
    program: Program,
    fused: bool,
}

/// A list of calls in the making.
struct Calls<'a> {
    graph: &'a Graph,
    /// The number of a value in the list.
    numbers: HashMap<ValueId, u32>,
    body: Body,
}

impl<'a> Calls<'a> {
    fn new(graph: &'a Graph) -> Calls<'a> {
        let body = Body { inputs: graph.params().len() as u32, ..Body::default() };
        let mut calls = Calls { graph, numbers: HashMap::new(), body };
        graph.params().iter().for_each(|&param| {
            calls.number(param);
        });
        calls
    }

    fn number(&mut self, value: ValueId) -> u32 {
        *self.numbers.entry(value).or_insert_with(|| {
            self.body.values.push(self.graph.value(value).name.to_string());
            self.body.values.len() as u32 - 1
        })
    }

    fn call(&mut self, what: What, node: &Node) -> Result<(), Error> {
        if let Some(loose) = node.operands.iter().find(|v| !self.numbers.contains_key(v)) {
            return Err(refused(self.graph, node, format!("its operand `{}` is not made in a stage", self.graph.value(*loose).name)));
        }
        let reads = node.operands.iter().map(|&v| self.number(v)).collect();
        let writes = node.results.iter().map(|&v| self.number(v)).collect();
        self.body.calls.push(Call { what, reads, writes });
        Ok(())
    }

    fn finish(mut self) -> Result<Body, Error> {
        for &result in &self.graph.results {
            if !self.numbers.contains_key(&result) {
                let name = &self.graph.value(result).name;
                return Err(refused_value(self.graph, result, "a constant", format!("`{name}` is returned, but not made in a stage")));
            }
            let number = self.number(result);
            self.body.outputs.push(number);
        }
        Ok(self.body)
    }
}

impl Builder<'_> {
    /// Adds the calls of a graph as a body, those of its regions behind it; its number.
    fn body(&mut self, graph: &Graph, done: &dyn Fn(usize, usize)) -> Result<u32, Error> {
        let number = self.program.bodies.len();
        self.program.bodies.push(Body::default());
        let mut calls = Calls::new(graph);
        for (i, node) in graph.nodes().iter().enumerate() {
            calls.call(self.what(graph, node)?, node)?;
            done(i + 1, graph.nodes().len());
        }
        self.program.bodies[number] = calls.finish()?;
        Ok(number as u32)
    }

    fn what(&mut self, graph: &Graph, node: &Node) -> Result<What, Error> {
        if self.target.is_cuda() {
            if graph.nodes().iter().any(|node| matches!(node.op, Op::text { .. } | Op::text_split { .. })) {
                return Err(refused(graph, node, "strings are made on processors only".into()));
            }
            return Err(refused(graph, node, "data decides over extents or steps, which GPUs cannot tell the runtime yet".into()));
        }
        Ok(match (&node.op, &node.region, &node.otherwise) {
            (Op::stage { .. }, Some(region), _) => {
                let (plan, made) = build_plan(region, self.target, std::mem::take(&mut self.made), &|_, _| ())?;
                self.made = made;
                self.fused |= plan.fused;
                self.program.stages.push(plan);
                What::Stage(self.program.stages.len() as u32 - 1)
            }
            (Op::repeat { carried, .. }, Some(region), _) => What::Repeat(self.repeat(graph, node, *carried, region)?),
            (Op::branch { .. }, Some(then), Some(otherwise)) => {
                let (then, otherwise) = (self.body(then, &|_, _| ())?, self.body(otherwise, &|_, _| ())?);
                What::Branch { then, otherwise }
            }
            (Op::non_zero { .. }, ..) => What::NonZero,
            (Op::unique { sorted, .. }, ..) => What::Unique { sorted: *sorted },
            (Op::text { what, to }, ..) => What::Text(text(*what, *to)),
            (Op::text_split { most, .. }, ..) => What::TextSplit { most: *most },
            (Op::non_max_suppression { centers, .. }, ..) => What::NonMaxSuppression { centers: *centers },
            (Op::extents { values }, ..) => What::Extents { names: values.iter().map(|d| d.to_string()).collect() },
            _ => {
                return Err(refused(
                    graph,
                    node,
                    "data decides over extents or steps, so it has to be in a stage: the pass `stage` comes first".into(),
                ));
            }
        })
    }

    fn repeat(&mut self, graph: &Graph, node: &Node, carried: usize, region: &Graph) -> Result<Repeat, Error> {
        let places: Vec<(Arc<str>, (u32, u32))> = node.operands.iter().enumerate().flat_map(|(i, &v)| places(i, graph.ty(v))).collect();
        let (names, symbols): (Vec<Arc<str>>, Vec<(u32, u32)>) = places.into_iter().unzip();
        let known = Symbols { names };
        // What is found in the loop is 0 where it does not run.
        let row = |ty: &TensorType| {
            let dims = ty.dims[1..].iter().map(|d| known.size(d).unwrap_or(Size::Const(0))).collect();
            Row { dtype: element_type(ty.dtype), dims }
        };
        let rows = node.results[carried..].iter().map(|&r| row(graph.ty(r))).collect();
        Ok(Repeat { body: self.body(region, &|_, _| ())?, carried: carried as u32, rows, symbols })
    }
}

/// The runtime's name of what is made of strings.
fn text(what: TextTask, to: DType) -> Text {
    match what {
        TextTask::Concat => Text::Concat,
        TextTask::Lower => Text::Lower,
        TextTask::Upper => Text::Upper,
        TextTask::Match => Text::Match,
        TextTask::Parse => Text::Parse(element_type(to)),
        TextTask::Format => Text::Format,
    }
}

/// The symbols that stand alone in the type of the operand `i`, with their places.
fn places(i: usize, ty: &TensorType) -> Vec<(Arc<str>, (u32, u32))> {
    let place = |(axis, d): (usize, &Dim)| Some((d.as_symbol()?.clone(), (i as u32, axis as u32)));
    ty.dims.iter().enumerate().filter_map(place).collect()
}

/// A plan that has nothing but the inputs and outputs of a graph.
fn interface(graph: &Graph) -> Result<Plan, Error> {
    let (free, found) = (free_symbols(graph), graph.nodes().iter().flat_map(|node| node.op.found()).collect::<Vec<_>>());
    let symbols = Symbols { names: free.iter().chain(&found).cloned().collect() };
    let names = |names: Vec<Arc<str>>| names.iter().map(|n| n.to_string()).collect();
    let mut plan = Plan { model: graph.name.clone(), symbols: names(free), found: names(found), ..Plan::default() };
    for (i, &param) in graph.params().iter().enumerate() {
        let port = port(graph, &symbols, &mut plan, param, &graph.value(param).name, Place::Input(i as u32))?;
        plan.inputs.push(port);
    }
    for (i, (&result, name)) in graph.results.iter().zip(&graph.result_names).enumerate() {
        let port = port(graph, &symbols, &mut plan, result, name, Place::Output(i as u32))?;
        plan.outputs.push(port);
    }
    Ok(plan)
}

fn refused(graph: &Graph, node: &Node, reason: String) -> Error {
    refused_value(graph, node.results[0], node.op.name(), reason)
}

fn refused_value(graph: &Graph, value: ValueId, op: &str, reason: String) -> Error {
    let value = graph.value(value);
    let (name, result) = (value.name.to_string(), value.ty.to_string());
    CannotLower { value: name, op: op.to_string(), operands: String::new(), result, origin: String::new(), reason }.into()
}

/// An input or output, with a buffer of its own.
fn port(graph: &Graph, symbols: &Symbols, plan: &mut Plan, value: ValueId, name: &str, place: Place) -> Result<Port, Error> {
    let ty = graph.ty(value);
    let size = |d: &Dim| -> Result<Size, Error> {
        symbols.size(d).map_err(|symbol| Error::Unbound { symbol: symbol.to_string(), extent: d.to_string() })
    };
    plan.buffers.push(Buffer { name: name.to_string(), bytes: size(&(ty.count() * ty.dtype.size()))?, place });
    Ok(Port {
        name: name.to_string(),
        dtype: element_type(ty.dtype),
        dims: ty.dims.iter().map(size).collect::<Result<_, _>>()?,
        dim_text: ty.dims.iter().map(|d| d.to_string()).collect(),
        buffer: plan.buffers.len() as u32 - 1,
    })
}
