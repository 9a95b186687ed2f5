//! Operators with graphs as attributes: If, Loop, Scan, FlexAttention.
//!
//! A branch is chosen by a condition that is known; a loop is unrolled, its body imported once per step:
//!
//! ```text
//! s = Scan(s0, xs) { s' = Add(s, x) }   =>   s1 = add(s0, xs[0]), s2 = add(s1, xs[1]), ...
//! ```
//!
//! A loop whose condition depends on data runs as often as its trip count allows, and each step keeps the state it found once the
//! condition has failed; of the rows that it gathers, those of the steps that counted are left, and how many there are is found when
//! the model runs. Where the condition of a branch depends on data, both are computed and one is taken. Invariant: what a body makes has names that start with those of the node and the step.

use super::{How, Importer};
use crate::error::Code;
use crate::limits::MAX_STEPS;
use crate::ops::{attention, found};
use crate::scope::{Binding, Scope};
use crate::site::{Outcome, Site, Stop, fault, malformed};
use egret_ir::{DType, Dim, Element, Op, Tensor, TensorType, ValueId};
use onnx_protobuf::{AttributeProto, GraphProto, NodeProto};
use std::collections::HashMap;
use std::sync::Arc;

/// A node that holds graphs.
pub(super) struct Holder<'a, 'm> {
    pub(super) node: &'m NodeProto,
    pub(super) index: usize,
    pub(super) operands: &'a [Option<ValueId>],
    pub(super) wanted: &'a [bool],
    pub(super) attributes: HashMap<&'m str, &'m AttributeProto>,
}

/// The values of a graph's outputs; `None` if one of them could not be imported, which has been reported.
type Outputs = Result<Option<Vec<ValueId>>, Stop>;

impl<'m> Holder<'_, 'm> {
    fn graph(&self, name: &str) -> Result<&'m GraphProto, Stop> {
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

    fn operand(&self, index: usize) -> Result<ValueId, Stop> {
        let found = self.operands.get(index).copied().flatten();
        found.ok_or_else(|| malformed(Code::Operand, format!("`{}` needs its input {index} (counted from 0)", self.node.op_type)))
    }
}

impl<'m> Importer<'m> {
    pub(super) fn holder(&mut self, how: &How<'m>, holder: &Holder<'_, 'm>) -> Result<Vec<Binding<'m>>, Stop> {
        self.check_depth(&holder.node.op_type)?;
        let values = match how {
            How::Loop => self.unrolled_loop(holder)?,
            How::Scan => self.scan(holder)?,
            How::Flex => self.flex(holder)?,
            How::If | How::Table(_) | How::Function(_) => return self.branch(holder),
        };
        Ok(match values {
            Some(values) => values.into_iter().map(Binding::Value).collect(),
            None => holder.node.output.iter().map(|_| Binding::Broken).collect(),
        })
    }

    /// Imports the branch of an `If` that its condition chooses, or both where it is not known.
    fn branch(&mut self, holder: &Holder<'_, 'm>) -> Result<Vec<Binding<'m>>, Stop> {
        let condition = holder.operands.first().copied().flatten().ok_or_else(|| malformed(Code::Operand, "`If` needs a condition"))?;
        let Some(holds) = self.build.truth(condition) else { return self.both_branches(holder, condition) };
        let graph = holder.graph(if holds { "then_branch" } else { "else_branch" })?;
        let pairs = graph.output.iter().zip(&holder.node.output).map(|(inner, outer)| (inner.name.as_str(), self.scopes.ir_name(outer)));
        let outer_names = pairs.collect();
        let prefix = format!("{}/", self.label(holder.node, holder.index));
        let wanted = holder.wanted.iter().chain(std::iter::repeat(&false));
        let outputs: Vec<&str> = graph.output.iter().zip(wanted).map(|(o, w)| if *w { o.name.as_str() } else { "" }).collect();
        self.subgraph(graph, prefix, &[], outer_names, &outputs)
    }

    /// Imports both branches; each result is that of the branch that the condition chooses.
    fn both_branches(&mut self, holder: &Holder<'_, 'm>, condition: ValueId) -> Result<Vec<Binding<'m>>, Stop> {
        let mut taken = vec![];
        for name in ["then_branch", "else_branch"] {
            let graph = holder.graph(name)?;
            let prefix = format!("{}/{name}/", self.label(holder.node, holder.index));
            let wanted = holder.wanted.iter().chain(std::iter::repeat(&false));
            let outputs: Vec<&str> = graph.output.iter().zip(wanted).map(|(o, w)| if *w { o.name.as_str() } else { "" }).collect();
            taken.push(self.subgraph(graph, prefix, &[], HashMap::new(), &outputs)?);
        }
        self.restart(holder);
        let mut results = vec![];
        for pair in taken[0].iter().zip(&taken[1]) {
            results.push(match pair {
                (&Binding::Value(then), &Binding::Value(or)) => Binding::Value(self.chosen(holder, condition, then, or)?),
                (Binding::LeftOut, Binding::LeftOut) => Binding::LeftOut,
                _ => Binding::Broken,
            });
        }
        Ok(results)
    }

    /// One of two values of equal types.
    fn chosen(&mut self, holder: &Holder<'_, 'm>, condition: ValueId, then: ValueId, or: ValueId) -> Result<ValueId, Stop> {
        let (one, other) = (self.build.graph.ty(then), self.build.graph.ty(or));
        if one != other {
            let name = &self.build.graph.value(condition).name;
            let message =
                format!("the condition `{name}` of `If` must be known when the model is compiled: its branches give {one} and {other}");
            return Err(self.build.unknown(Code::ControlFlow, message, condition));
        }
        let mut site = self.site(holder);
        let condition = site.reshape(condition, [])?;
        site.op(Op::select, &[condition, then, or])
    }

    /// Imports a graph that lies in the current scope; its inputs stand for `values`.
    fn subgraph(
        &mut self,
        graph: &'m GraphProto,
        prefix: String,
        values: &[ValueId],
        outer_names: HashMap<&'m str, (Arc<str>, bool)>,
        outputs: &[&'m str],
    ) -> Result<Vec<Binding<'m>>, Stop> {
        let initializers = graph.initializer.iter().map(|t| (t.name.as_str(), Binding::Initializer(t)));
        let inputs = graph.input.iter().zip(values).map(|(i, value)| (i.name.as_str(), Binding::Value(*value)));
        let around = self.scopes.top();
        let scope = Scope {
            names: initializers.chain(inputs).collect(),
            prefix,
            outer_names,
            closed: false,
            attributes: around.attributes.clone(),
            opsets: around.opsets.clone(),
        };
        self.scopes.push(scope);
        let results = self.body(&graph.node, outputs);
        self.scopes.pop();
        results
    }

    /// One step of a loop: the body of a node with these inputs.
    fn step(&mut self, holder: &Holder<'_, 'm>, body: &'m GraphProto, step: i64, inputs: &[ValueId]) -> Outputs {
        if body.input.len() != inputs.len() {
            let message = format!("the body of `{}` has {} inputs, expected {}", holder.node.op_type, body.input.len(), inputs.len());
            return Err(malformed(Code::Operand, message));
        }
        let prefix = format!("{}/{step}/", self.label(holder.node, holder.index));
        let outputs: Vec<&str> = body.output.iter().map(|o| o.name.as_str()).collect();
        let results = self.subgraph(body, prefix, inputs, HashMap::new(), &outputs)?;
        self.restart(holder);
        Ok(results.into_iter().map(|r| if let Binding::Value(value) = r { Some(value) } else { None }).collect())
    }

    /// Nodes belong to the holder again.
    fn restart(&mut self, holder: &Holder<'_, 'm>) {
        let label = self.label(holder.node, holder.index);
        let stem = holder.node.output.iter().find(|o| !o.is_empty()).map_or_else(|| label.as_str().into(), |o| self.scopes.ir_name(o).0);
        self.build.start_node(&label, &stem);
    }

    fn site<'s>(&'s mut self, holder: &'s Holder<'_, 'm>) -> Site<'s> {
        let opset = self.opset("");
        let (operands, wanted) = (holder.operands.to_vec(), holder.wanted.to_vec());
        Site::new(&mut self.build, self.model, &holder.node.op_type, opset, operands, wanted, holder.attributes.clone())
    }

    /// Inputs: states, then what is scanned; so are the outputs. Each step sees one slice of what is scanned.
    fn scan(&mut self, holder: &Holder<'_, 'm>) -> Outputs {
        if self.opset("") < 9 {
            return Err(fault(Code::Opset, "`Scan` of opset 8 is not supported", "convert the model to opset 9 or newer"));
        }
        let body = holder.graph("body")?;
        let scanned = holder.attributes.get("num_scan_inputs").and_then(|a| usize::try_from(a.i).ok()).unwrap_or(0);
        let states = holder.operands.len().checked_sub(scanned).filter(|_| scanned > 0);
        let states = states.ok_or_else(|| malformed(Code::Attribute, "`Scan` needs `num_scan_inputs` from 1 to its inputs"))?;
        let results =
            body.output.len().checked_sub(states).ok_or_else(|| malformed(Code::Operand, "`Scan` has more states than results"))?;
        let (axes, backwards) = (holder.ints("scan_input_axes", scanned)?, holder.ints("scan_input_directions", scanned)?);
        let (out_axes, out_backwards) = (holder.ints("scan_output_axes", results)?, holder.ints("scan_output_directions", results)?);
        self.restart(holder);
        let mut state = (0..states).map(|i| holder.operand(i)).collect::<Result<Vec<ValueId>, Stop>>()?;
        let xs = (states..states + scanned).map(|i| holder.operand(i)).collect::<Result<Vec<ValueId>, Stop>>()?;
        let site = self.site(holder);
        let axes = axes.iter().zip(&xs).map(|(&axis, &x)| site.axis(axis, site.rank(x))).collect::<Result<Vec<usize>, Stop>>()?;
        let steps = self.steps(holder, &self.build.graph.ty(xs[0]).dims[axes[0]].clone())?;
        let mut rows = vec![vec![]; results];
        for step in 0..steps {
            let mut inputs = state.clone();
            for ((&x, &axis), &backwards) in xs.iter().zip(&axes).zip(&backwards) {
                let at = if backwards == 1 { steps - 1 - step } else { step };
                inputs.push(without_axis(&mut self.site(holder), x, axis, at)?);
            }
            let Some(outputs) = self.step(holder, body, step, &inputs)? else { return Ok(None) };
            state = outputs[..states].to_vec();
            rows.iter_mut().zip(&outputs[states..]).for_each(|(rows, &row)| rows.push(row));
        }
        for ((mut rows, axis), backwards) in rows.into_iter().zip(out_axes).zip(out_backwards) {
            if backwards == 1 {
                rows.reverse();
            }
            state.push(stacked(&mut self.site(holder), &rows, axis)?);
        }
        Ok(Some(state))
    }

    /// The number of steps over an axis.
    fn steps(&self, holder: &Holder<'_, 'm>, extent: &Dim) -> Result<i64, Stop> {
        let operator = &holder.node.op_type;
        match extent.as_const() {
            Some(steps) if (1..=MAX_STEPS).contains(&steps) => Ok(steps),
            Some(steps) => {
                let message = format!("`{operator}` has {steps} steps, expected 1 to {MAX_STEPS}");
                Err(fault(Code::ControlFlow, message, "loops are unrolled; export with fewer steps, or as an LSTM, GRU or RNN operator"))
            }
            None => {
                let message = format!("`{operator}` runs `{extent}` steps, expected a number");
                Err(fault(Code::ControlFlow, message, crate::site::dim_help(&extent.symbols())))
            }
        }
    }

    /// Inputs: trip count, condition, states. The body takes the step, the condition and the states, and gives the condition, the
    /// states, and a row for every result that grows.
    fn unrolled_loop(&mut self, holder: &Holder<'_, 'm>) -> Outputs {
        let body = holder.graph("body")?;
        self.restart(holder);
        let mut condition = match holder.operands.get(1).copied().flatten() {
            Some(condition) => condition,
            None => self.build.constant(Tensor::scalar(DType::Bool, Element::Bool(true))),
        };
        let mut state = (2..holder.operands.len()).map(|i| holder.operand(i)).collect::<Result<Vec<ValueId>, Stop>>()?;
        let most = self.trips(holder)?;
        let results = body.output.len().checked_sub(state.len() + 1);
        let results = results.ok_or_else(|| malformed(Code::Operand, "the body of `Loop` gives fewer states than it takes"))?;
        let mut rows = vec![vec![]; results];
        // The conditions, not known, under which steps count.
        let mut open = vec![];
        for step in 0.. {
            let alive = self.build.truth(condition);
            if most == Some(step) || alive == Some(false) {
                break;
            }
            if step == MAX_STEPS || alive.is_none() && most.is_none() {
                let message = format!("the condition of `Loop` must be known at step {step} when the model is compiled");
                return Err(self.build.unknown(Code::ControlFlow, message, condition));
            }
            let number = self.build.constant(Tensor::scalar(DType::I64, Element::Int(step.into())));
            let inputs = [&[number, condition], &state[..]].concat();
            let Some(outputs) = self.step(holder, body, step, &inputs)? else { return Ok(None) };
            open.extend(alive.is_none().then_some(condition));
            let (next, grown) = outputs[1..].split_at(state.len());
            (condition, state) = match alive {
                Some(_) => (outputs[0], next.to_vec()),
                None => kept(&mut self.site(holder), condition, outputs[0], &state, next)?,
            };
            rows.iter_mut().zip(grown).for_each(|(rows, &row)| rows.push(row));
        }
        let counted = match open.is_empty() || results == 0 {
            true => None,
            false => Some(counted(&mut self.site(holder), &open, rows[0].len() - open.len())?),
        };
        for (i, rows) in rows.into_iter().enumerate() {
            state.push(match (rows.is_empty(), &counted) {
                (true, _) => self.nothing(&body.output[body.output.len() - results + i])?,
                (false, None) => stacked(&mut self.site(holder), &rows, 0)?,
                (false, Some(count)) => {
                    let mut site = self.site(holder);
                    let all = stacked(&mut site, &rows, 0)?;
                    site.slice(all, 0, Dim::ZERO, count.clone())?
                }
            });
        }
        Ok(Some(state))
    }

    /// The most steps a loop may run; `None` if only its condition ends it.
    fn trips(&mut self, holder: &Holder<'_, 'm>) -> Result<Option<i64>, Stop> {
        let Some(count) = holder.operands.first().copied().flatten() else { return Ok(None) };
        match self.build.contents(count).as_deref() {
            Some([trips]) => match trips.as_const() {
                Some(trips) if trips <= MAX_STEPS => Ok(Some(trips.max(0))),
                _ => self.steps(holder, trips).map(Some),
            },
            _ => {
                let name = &self.build.graph.value(count).name;
                let message = format!("the trip count `{name}` of `Loop` must be known when the model is compiled");
                Err(self.build.unknown(Code::ControlFlow, message, count))
            }
        }
    }

    /// What a loop that never ran has gathered: rows of the declared type, none of them.
    fn nothing(&mut self, output: &'m onnx_protobuf::ValueInfoProto) -> Result<ValueId, Stop> {
        let ty: Option<TensorType> = crate::inputs::plain_type(output);
        let ty = ty.ok_or_else(|| malformed(Code::Shape, format!("`{}` of a loop that never runs has no static shape", output.name)))?;
        let shape: Option<Vec<usize>> = ty.static_dims();
        let shape =
            shape.ok_or_else(|| malformed(Code::Shape, format!("`{}` of a loop that never runs has no static shape", output.name)))?;
        Ok(self.build.constant(Tensor::splat(ty.dtype, [vec![0], shape].concat(), Element::zero(ty.dtype))))
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
        let outputs = self.step(holder, holder.graph(name)?, 0, &[x])?;
        Ok(outputs.and_then(|outputs| outputs.first().copied()))
    }

    fn build_op(&mut self, op: Op, operands: &[ValueId]) -> Result<ValueId, Stop> {
        self.build.node(op, operands).map(|results| results[0]).map_err(|message| malformed(Code::Shape, message))
    }
}

/// `x` at one index of an axis, without that axis.
fn without_axis(n: &mut Site, x: ValueId, axis: usize, at: i64) -> Result<ValueId, Stop> {
    let one = n.slice(x, axis, Dim::from(at), Dim::ONE)?;
    let mut dims = n.dims(one);
    dims.remove(axis);
    n.reshape(one, dims)
}

/// Rows along a new axis.
fn stacked(n: &mut Site, rows: &[ValueId], axis: i64) -> Result<ValueId, Stop> {
    let axis = n.axis(axis, n.rank(rows[0]) + 1)?;
    let mut with_axis = vec![];
    for &row in rows {
        let mut dims = n.dims(row);
        dims.insert(axis, Dim::ONE);
        with_axis.push(n.reshape(row, dims)?);
    }
    n.concat(&with_axis, axis)
}

/// How many steps of a loop count: those before its condition depends on data, and those whose condition held.
fn counted(n: &mut Site, open: &[ValueId], before: usize) -> Result<Dim, Stop> {
    let mut flags = vec![];
    for &condition in open {
        let flag = n.cast(condition, DType::I64)?;
        flags.push(n.reshape(flag, [Dim::ONE])?);
    }
    let flags = n.concat(&flags, 0)?;
    let sum = n.op(Op::reduce_sum { axes: vec![0] }, &[flags])?;
    let count = n.with_number(Op::add, sum, before as f64)?;
    let found = found::of_data(n, count)?;
    found.into_iter().next().ok_or_else(|| malformed(Code::ControlFlow, "`Loop` has no steps"))
}

/// The condition and the states after a step that counts only if the condition held before it.
fn kept(n: &mut Site, alive: ValueId, next_alive: ValueId, old: &[ValueId], new: &[ValueId]) -> Result<(ValueId, Vec<ValueId>), Stop> {
    let (alive, next_alive) = (n.reshape(alive, [])?, n.reshape(next_alive, [])?);
    let states: Outcome = old.iter().zip(new).map(|(&old, &new)| n.op(Op::select, &[alive, new, old])).collect();
    Ok((n.op(Op::and, &[alive, next_alive])?, states?))
}
