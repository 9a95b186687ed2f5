//! From a graph of stages to a program: each stage is a plan, what lies between them a call.
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
use egret_ir::{Graph, Node, Op, ValueId};
use egret_runtime::plan::{Buffer, Place, Plan, Port, Size};
use egret_runtime::program::{Call, Program, What};
use std::collections::HashMap;
use std::sync::Arc;

/// Whether data decides over extents of a graph.
pub(super) fn is_program(graph: &Graph) -> bool {
    graph.nodes().iter().any(|node| matches!(node.op, Op::stage { .. }) || node.op.finds_extents())
}

/// The plan of a graph of stages, and what its stages share.
///
/// # Errors
/// Names the value that cannot be lowered, or that stands outside of a stage.
pub(super) fn build(graph: &Graph, target: &Target, made: Made, done: &dyn Fn(usize, usize)) -> Result<(Plan, Made), Error> {
    let mut builder = Builder::new(graph, target, made);
    let total = graph.nodes().len();
    for (i, node) in graph.nodes().iter().enumerate() {
        builder.node(node)?;
        done(i + 1, total);
    }
    builder.finish()
}

struct Builder<'a> {
    graph: &'a Graph,
    target: &'a Target,
    made: Made,
    program: Program,
    /// The program's number of a value.
    numbers: HashMap<ValueId, u32>,
    fused: bool,
}

impl<'a> Builder<'a> {
    fn new(graph: &'a Graph, target: &'a Target, made: Made) -> Builder<'a> {
        let program = Program::default();
        let mut builder = Builder { graph, target, made, program, numbers: HashMap::new(), fused: false };
        graph.params().iter().for_each(|&param| {
            builder.number(param);
        });
        builder
    }

    fn number(&mut self, value: ValueId) -> u32 {
        *self.numbers.entry(value).or_insert_with(|| {
            self.program.values.push(self.graph.value(value).name.to_string());
            self.program.values.len() as u32 - 1
        })
    }

    fn node(&mut self, node: &Node) -> Result<(), Error> {
        let what = self.what(node)?;
        if let Some(loose) = node.operands.iter().find(|v| !self.numbers.contains_key(v)) {
            return Err(self.refused(node, format!("its operand `{}` is not made in a stage", self.graph.value(*loose).name)));
        }
        let reads = node.operands.iter().map(|&v| self.number(v)).collect();
        let writes = node.results.iter().map(|&v| self.number(v)).collect();
        self.program.calls.push(Call { what, reads, writes });
        Ok(())
    }

    fn what(&mut self, node: &Node) -> Result<What, Error> {
        if self.target.is_cuda() {
            return Err(self.refused(node, "data decides over extents, which GPUs cannot tell the runtime yet".into()));
        }
        Ok(match (&node.op, &node.region) {
            (Op::stage { .. }, Some(region)) => {
                let (plan, made) = build_plan(region, self.target, std::mem::take(&mut self.made), &|_, _| ())?;
                self.made = made;
                self.fused |= plan.fused;
                self.program.stages.push(plan);
                What::Stage(self.program.stages.len() as u32 - 1)
            }
            (Op::non_zero { .. }, _) => What::NonZero,
            (Op::unique { sorted, .. }, _) => What::Unique { sorted: *sorted },
            (Op::non_max_suppression { centers, .. }, _) => What::NonMaxSuppression { centers: *centers },
            (Op::extents { values }, _) => What::Extents { names: values.iter().map(|d| d.to_string()).collect() },
            _ => {
                return Err(
                    self.refused(node, "data decides over extents, so it has to be in a stage: the pass `stage` comes first".into())
                );
            }
        })
    }

    fn finish(mut self) -> Result<(Plan, Made), Error> {
        let graph = self.graph;
        for &result in &graph.results {
            if !self.numbers.contains_key(&result) {
                let name = &graph.value(result).name;
                return Err(self.refused_value(result, "a constant", format!("`{name}` is returned, but not made in a stage")));
            }
            let number = self.number(result);
            self.program.outputs.push(number);
        }
        let (free, found) = (free_symbols(graph), graph.nodes().iter().flat_map(|node| node.op.found()).collect::<Vec<_>>());
        let symbols = Symbols { names: free.iter().chain(&found).cloned().collect() };
        let names = |names: Vec<Arc<str>>| names.iter().map(|n| n.to_string()).collect();
        let mut plan = Plan { model: graph.name.clone(), symbols: names(free), found: names(found), fused: self.fused, ..Plan::default() };
        for (i, &param) in graph.params().iter().enumerate() {
            let port = port(graph, &symbols, &mut plan, param, &graph.value(param).name, Place::Input(i as u32))?;
            plan.inputs.push(port);
        }
        for (i, (&result, name)) in graph.results.iter().zip(&graph.result_names).enumerate() {
            let port = port(graph, &symbols, &mut plan, result, name, Place::Output(i as u32))?;
            plan.outputs.push(port);
        }
        plan.program = Some(self.program);
        Ok((plan, self.made))
    }

    fn refused(&self, node: &Node, reason: String) -> Error {
        self.refused_value(node.results[0], node.op.name(), reason)
    }

    fn refused_value(&self, value: ValueId, op: &str, reason: String) -> Error {
        let value = self.graph.value(value);
        let (name, result) = (value.name.to_string(), value.ty.to_string());
        CannotLower { value: name, op: op.to_string(), operands: String::new(), result, origin: String::new(), reason }.into()
    }
}

/// An input or output, with a buffer of its own.
fn port(graph: &Graph, symbols: &Symbols, plan: &mut Plan, value: ValueId, name: &str, place: Place) -> Result<Port, Error> {
    let ty = graph.ty(value);
    let size = |d: &egret_ir::Dim| -> Result<Size, Error> {
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
