//! Operators with graphs as attributes: If, Loop, Scan, FlexAttention.
//!
//! A branch is taken that a known condition chooses, and a loop of few steps is unrolled, its body imported once per step (`unrolled`):
//!
//! ```text
//! s = Scan(s0, xs) { s' = Add(s, x) }   =>   s1 = add(s0, xs[0]), s2 = add(s1, xs[1]), ...
//! ```
//!
//! All others become regions of the graph (`region`, `looped`): `branch` where the condition depends on data, unless both sides are so cheap
//! that both are computed and one is taken, and `repeat`. Invariant: what a body makes has names that start with those of the node (and the step).

use super::{How, Importer, sequence};
use crate::build::Turn;
use crate::error::Code;
use crate::ops::attention;
use crate::scope::{Binding, Operand, Scope};
use crate::site::{Site, Stop, malformed};
use egret_ir::{Op, ValueId};
use onnx_protobuf::{AttributeProto, GraphProto, NodeProto};
use std::collections::HashMap;
use std::sync::Arc;

mod looped;
mod region;
mod unrolled;

pub(super) use unrolled::{stacked, without_axis};

/// A node that holds graphs.
pub(super) struct Holder<'a, 'm> {
    pub(super) node: &'m NodeProto,
    pub(super) index: usize,
    /// Its inputs, where they are tensors.
    pub(super) operands: &'a [Option<ValueId>],
    pub(super) given: &'a [Operand],
    pub(super) wanted: &'a [bool],
    pub(super) attributes: HashMap<&'m str, &'m AttributeProto>,
}

/// The values of a graph's outputs; `None` if one of them could not be imported, which has been reported.
type Outputs = Result<Option<Vec<ValueId>>, Stop>;

impl<'m> Holder<'_, 'm> {
    pub(super) fn graph(&self, name: &str) -> Result<&'m GraphProto, Stop> {
        let graph = self.attributes.get(name).and_then(|a| a.g.as_ref());
        graph.ok_or_else(|| malformed(Code::Attribute, format!("`{}` needs the graph `{name}`", self.node.op_type)))
    }

    fn ints(&self, name: &str, count: usize) -> Result<Vec<i64>, Stop> {
        let found = self.attributes.get(name).map_or_else(|| vec![0; count], |a| a.ints.clone());
        match found.len() == count {
            true => Ok(found),
            false => Err(malformed(Code::Attribute, format!("`{}` needs `{name}` with {count} numbers", self.node.op_type))),
        }
    }

    /// Whether it carries more than tensors from step to step.
    fn carries_lists(&self) -> bool {
        self.given.iter().skip(2).any(|operand| !matches!(operand, Operand::Tensor(_)))
    }

    pub(super) fn operand(&self, index: usize) -> Result<ValueId, Stop> {
        let found = self.operands.get(index).copied().flatten();
        found.ok_or_else(|| malformed(Code::Operand, format!("`{}` needs its input {index} (counted from 0)", self.node.op_type)))
    }
}

impl<'m> Importer<'m> {
    pub(super) fn holder(&mut self, how: &How<'m>, holder: &Holder<'_, 'm>) -> Result<Vec<Binding<'m>>, Stop> {
        self.check_depth(&holder.node.op_type)?;
        let values = match how {
            How::Sequence | How::Table(_) => return sequence::import(self, holder),
            How::Loop if holder.carries_lists() => return self.loop_of_lists(holder),
            How::Loop => self.any_loop(holder)?,
            How::Scan => self.any_scan(holder)?,
            How::Flex => self.flex(holder)?,
            How::If | How::Function(_) => return self.branch(holder),
        };
        Ok(match values {
            Some(values) => values.into_iter().map(|value| Binding::Is(Operand::Tensor(value))).collect(),
            None => broken(holder),
        })
    }

    /// Imports the branch of an `If` that its condition chooses, or both as regions where it is not known.
    fn branch(&mut self, holder: &Holder<'_, 'm>) -> Result<Vec<Binding<'m>>, Stop> {
        let condition = holder.operands.first().copied().flatten().ok_or_else(|| malformed(Code::Operand, "`If` needs a condition"))?;
        let Some(holds) = self.build.truth(condition) else { return self.branch_on_data(holder, condition) };
        let graph = holder.graph(if holds { "then_branch" } else { "else_branch" })?;
        let pairs = graph.output.iter().zip(&holder.node.output).map(|(inner, outer)| (inner.name.as_str(), self.scopes.ir_name(outer)));
        let outer_names = pairs.collect();
        let prefix = format!("{}/", self.label(holder.node, holder.index));
        let wanted = holder.wanted.iter().chain(std::iter::repeat(&false));
        let outputs: Vec<&str> = graph.output.iter().zip(wanted).map(|(o, w)| if *w { o.name.as_str() } else { "" }).collect();
        self.subgraph(graph, prefix, vec![], outer_names, &outputs)
    }

    /// Imports a graph that lies in the current scope; its inputs stand for `values`.
    fn subgraph(
        &mut self,
        graph: &'m GraphProto,
        prefix: String,
        values: Vec<Operand>,
        outer_names: HashMap<&'m str, (Arc<str>, bool)>,
        outputs: &[&'m str],
    ) -> Result<Vec<Binding<'m>>, Stop> {
        let initializers = graph.initializer.iter().map(|t| (t.name.as_str(), Binding::Initializer(t)));
        let inputs = graph.input.iter().zip(values).map(|(i, value)| (i.name.as_str(), Binding::Is(value)));
        let around = self.scopes.top();
        let scope = Scope {
            names: initializers.chain(inputs).collect(),
            prefix,
            outer_names,
            closed: false,
            attributes: around.attributes.clone(),
            opsets: around.opsets.clone(),
            depth: self.build.depth(),
        };
        self.scopes.push(scope);
        let results = self.body(&graph.node, outputs);
        self.scopes.pop();
        results
    }

    /// One step of a loop: the body of a node with these inputs.
    pub(super) fn step(&mut self, holder: &Holder<'_, 'm>, body: &'m GraphProto, turn: Turn, inputs: &[ValueId]) -> Outputs {
        let inputs = inputs.iter().copied().map(Operand::Tensor).collect();
        let Some(outputs) = self.step_of(holder, body, turn, inputs)? else { return Ok(None) };
        match outputs.iter().position(|output| output.tensor().is_none()) {
            Some(list) => Err(no_tensor(&holder.node.op_type, list, &outputs[list])),
            None => Ok(Some(outputs.iter().filter_map(Operand::tensor).collect())),
        }
    }

    /// The same where inputs and outputs may be sequences or nothing.
    pub(super) fn step_of(
        &mut self,
        holder: &Holder<'_, 'm>,
        body: &'m GraphProto,
        turn: Turn,
        inputs: Vec<Operand>,
    ) -> Result<Option<Vec<Operand>>, Stop> {
        if body.input.len() != inputs.len() {
            let message = format!("the body of `{}` has {} inputs, expected {}", holder.node.op_type, body.input.len(), inputs.len());
            return Err(malformed(Code::Operand, message));
        }
        let label = self.label(holder.node, holder.index);
        let prefix = match turn {
            Turn::Known(step) => format!("{label}/{step}/"),
            Turn::Run(_) => format!("{label}/body/"),
        };
        let outputs: Vec<&str> = body.output.iter().map(|o| o.name.as_str()).collect();
        self.build.begin_turn(turn);
        let results = self.subgraph(body, prefix, inputs, HashMap::new(), &outputs);
        self.build.end_turn();
        let results = results?;
        self.restart(holder);
        Ok(whole(results))
    }

    /// Nodes belong to the holder again.
    pub(super) fn restart(&mut self, holder: &Holder<'_, 'm>) {
        let label = self.label(holder.node, holder.index);
        let stem = holder.node.output.iter().find(|o| !o.is_empty()).map_or_else(|| label.as_str().into(), |o| self.scopes.ir_name(o).0);
        self.build.start_node(&label, &stem);
    }

    pub(super) fn site<'s>(&'s mut self, holder: &'s Holder<'_, 'm>) -> Site<'s> {
        let opset = self.opset("");
        let (operands, wanted) = (holder.operands.to_vec(), holder.wanted.to_vec());
        Site::new(&mut self.build, self.model, &holder.node.op_type, opset, operands, wanted, holder.attributes.clone())
    }

    /// Softmax attention between whose stages stand graphs: one of the scores, one of the shares.
    fn flex(&mut self, holder: &Holder<'_, 'm>) -> Outputs {
        self.restart(holder);
        let (scores, v) = attention::flex_scores(&mut self.site(holder))?;
        let Some(scores) = self.modified(holder, "score_mod", scores)? else { return Ok(None) };
        let shares = self.build_op(Op::softmax { axes: vec![3] }, &[scores])?;
        let Some(shares) = self.modified(holder, "prob_mod", shares)? else { return Ok(None) };
        attention::flex_result(&mut self.site(holder), shares, v).map(Some)
    }

    fn modified(&mut self, holder: &Holder<'_, 'm>, name: &str, x: ValueId) -> Result<Option<ValueId>, Stop> {
        if !holder.attributes.contains_key(name) {
            return Ok(Some(x));
        }
        let outputs = self.step(holder, holder.graph(name)?, Turn::Known(0), &[x])?;
        Ok(outputs.and_then(|outputs| outputs.first().copied()))
    }

    fn build_op(&mut self, op: Op, operands: &[ValueId]) -> Result<ValueId, Stop> {
        self.build.node(op, operands).map(|results| results[0]).map_err(|message| malformed(Code::Shape, message))
    }
}

/// What outputs stand for; `None` if one of them could not be imported.
fn whole(outputs: Vec<Binding<'_>>) -> Option<Vec<Operand>> {
    outputs.into_iter().map(|output| if let Binding::Is(operand) = output { Some(operand) } else { None }).collect()
}

/// Outputs of what could not be imported, which has been reported.
pub(super) fn broken<'m>(holder: &Holder<'_, 'm>) -> Vec<Binding<'m>> {
    holder.node.output.iter().map(|_| Binding::Broken).collect()
}

/// Where only tensors may stand.
fn no_tensor(operator: &str, output: usize, found: &Operand) -> Stop {
    malformed(Code::ValueKind, format!("output {output} (counted from 0) of a graph of `{operator}` is {found}, expected a tensor"))
}
