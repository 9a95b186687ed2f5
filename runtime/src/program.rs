//! Runs models in which data decides over extents: how many boxes were found, how many elements are not zero.
//!
//! A [`Program`] is a list of calls over values whose shapes are known when they have been made. A call is either a stage, which is a
//! [`Plan`] whose free dimensions are the extents of its inputs, or one of the few operations that find an extent ([`What`]):
//!
//! ```text
//! inputs: x, t                    x: f32[N]
//! m = stage 0 (x, t)              m: bool[N]
//! i = non_zero (m)                i: i64[1, K], and K is known from here on
//! y = stage 1 (i)                 y: f32[K], its memory planned for this K
//! ```
//!
//! **Invariant.** Every value has exactly the bytes of its shape: nothing is reserved for the largest shape that there could be. A
//! stage keeps what it planned for the extents that it met, as any [`Session`] does; the values between stages are allocated in
//! each run and freed behind their last reader.

use crate::binding::{bind_symbols, check_input, port_shape};
use crate::builtin;
use crate::cpu::Code;
use crate::error::Result;
use crate::plan::Plan;
use crate::pool::Pool;
use crate::session::{Model, Session, match_names};
use crate::tensor::{Tensor, TensorView};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A list of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Names of the values. The model's inputs come first, in their order.
    pub values: Vec<String>,
    /// What is called, in order.
    pub calls: Vec<Call>,
    /// The values that are the model's outputs, in their order.
    pub outputs: Vec<u32>,
    /// What stages do; their steps call kernels of the plan that the program belongs to.
    pub stages: Vec<Plan>,
}

/// A call of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// What is done.
    pub what: What,
    /// Values read, in the order of what is called.
    pub reads: Vec<u32>,
    /// Values made, likewise.
    pub writes: Vec<u32>,
}

/// What a call does. Those that are no stages have the meaning of the compiler's ops of the same names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Runs the stage with this index.
    Stage(u32),
    /// `bool[a...] -> i64[rank, count]`: the places of what holds.
    NonZero,
    /// `[n, m] -> i64[count], i64[n], i64[count]`: the different rows, of i64 or f64.
    Unique {
        /// Whether the rows come in ascending order, and not in that of their places.
        sorted: bool,
    },
    /// `f32[b, n, 4], f32[b, c, n], i64[], f32[], f32[] -> i64[count, 3]`: the best of boxes that overlap.
    NonMaxSuppression {
        /// Whether boxes are centre, width and height, and not two corners.
        centers: bool,
    },
    /// `i64[k] -> bool[v1, ..., vk, 0]`: a tensor without elements that has these extents.
    Extents {
        /// The names of the extents, for messages.
        names: Vec<String>,
    },
}

impl What {
    /// How many values it reads and writes; `None` for a stage, which says so itself.
    fn arity(&self) -> Option<(usize, usize)> {
        match self {
            What::Stage(_) => None,
            What::NonZero | What::Extents { .. } => Some((1, 1)),
            What::Unique { .. } => Some((1, 3)),
            What::NonMaxSuppression { .. } => Some((5, 1)),
        }
    }
}

impl Program {
    /// Checks that every index is in range, every value is made before it is read, and every stage is safe to walk.
    pub(crate) fn check(&self, plan: &Plan, weights_bytes: u64) -> Result<(), String> {
        self.stages.iter().try_for_each(|stage| stage.check_stage(plan.kernels.len(), weights_bytes))?;
        let mut made = vec![false; self.values.len()];
        if made.len() < plan.inputs.len() || self.outputs.len() != plan.outputs.len() {
            return Err("the program has other inputs or outputs than the plan".to_string());
        }
        made[..plan.inputs.len()].fill(true);
        for (number, call) in self.calls.iter().enumerate() {
            self.check_call(call, &mut made).map_err(|problem| format!("call {number} {problem}"))?;
        }
        match self.outputs.iter().find(|&&v| made.get(v as usize) != Some(&true)) {
            Some(value) => Err(format!("the program returns value {value}, which nothing makes")),
            None => Ok(()),
        }
    }

    fn check_call(&self, call: &Call, made: &mut [bool]) -> Result<(), String> {
        let arity = match call.what {
            What::Stage(index) => self.stages.get(index as usize).map(|stage| (stage.inputs.len(), stage.outputs.len())),
            _ => call.what.arity(),
        };
        if arity != Some((call.reads.len(), call.writes.len())) {
            return Err(format!("reads {} and writes {} values, expected {arity:?}", call.reads.len(), call.writes.len()));
        }
        if let Some(value) = call.reads.iter().find(|&&v| made.get(v as usize) != Some(&true)) {
            return Err(format!("reads value {value} before it is made"));
        }
        for &value in &call.writes {
            match made.get_mut(value as usize) {
                Some(made) if !*made => *made = true,
                _ => return Err(format!("writes value {value}, which it may not")),
            }
        }
        Ok(())
    }

    /// Per call, the values that nothing reads later.
    fn dead_after(&self) -> Vec<Vec<u32>> {
        let mut needed = vec![false; self.values.len()];
        self.outputs.iter().for_each(|&v| needed[v as usize] = true);
        let dead = |call: &Call| {
            let touched = call.reads.iter().chain(&call.writes).copied();
            touched.filter(|&v| !std::mem::replace(&mut needed[v as usize], true)).collect()
        };
        let mut dead: Vec<Vec<u32>> = self.calls.iter().rev().map(dead).collect();
        dead.reverse();
        dead
    }
}

/// A value of a run.
enum Value<'v> {
    Given(TensorView<'v>),
    Made(Tensor),
}

impl Value<'_> {
    fn view(&self) -> TensorView<'_> {
        match self {
            Value::Given(view) => *view,
            Value::Made(tensor) => tensor.view(),
        }
    }

    /// The tensor itself; a copy of what belongs to the caller.
    fn copied(&self) -> Result<Tensor> {
        Tensor::from_bytes(self.view().dtype(), self.view().shape(), self.view().bytes())
    }
}

/// A program that is ready to run.
pub(crate) struct Runner {
    stages: Vec<Session>,
    dead_after: Vec<Vec<u32>>,
}

impl Runner {
    /// Makes a session of each stage; `None` for a model that is no program.
    pub(crate) fn of(model: &Model, code: &Arc<Code>) -> Result<Option<Runner>> {
        let Some(program) = &model.plan().program else { return Ok(None) };
        let stages = (0..program.stages.len()).map(|index| Session::of_stage(model.stage(index), code.clone()));
        Ok(Some(Runner { stages: stages.collect::<Result<_>>()?, dead_after: program.dead_after() }))
    }

    /// The most scratch bytes that a stage had in its latest binding.
    pub(crate) fn arena_bytes(&self) -> u64 {
        self.stages.iter().map(Session::arena_bytes).max().unwrap_or(0)
    }

    /// Runs the program of `plan`.
    pub(crate) fn run(
        &mut self,
        plan: &Plan,
        program: &Program,
        pool: &mut Pool,
        inputs: &[(&str, TensorView<'_>)],
    ) -> Result<Vec<Tensor>> {
        let mut values: Vec<Option<Value>> = (0..program.values.len()).map(|_| None).collect();
        for (value, input) in values.iter_mut().zip(checked(plan, inputs)?) {
            *value = Some(Value::Given(input));
        }
        for (call, dead) in program.calls.iter().zip(&self.dead_after) {
            let read = |&v: &u32| values[v as usize].as_ref().map(Value::view);
            let views: Vec<TensorView> = call.reads.iter().filter_map(read).collect();
            let made = match &call.what {
                What::Stage(index) => run_stage(&mut self.stages[*index as usize], pool, &views)?,
                what => builtin::run(what, &views)?,
            };
            call.writes.iter().zip(made).for_each(|(&v, tensor)| values[v as usize] = Some(Value::Made(tensor)));
            dead.iter().for_each(|&v| values[v as usize] = None);
        }
        program.outputs.iter().filter_map(|&v| values[v as usize].as_ref()).map(Value::copied).collect()
    }
}

/// The inputs in the order of the plan, with the types that it says.
fn checked<'v>(plan: &Plan, inputs: &[(&str, TensorView<'v>)]) -> Result<Vec<TensorView<'v>>> {
    let mut order = vec![0; plan.inputs.len()];
    match_names(plan, inputs, &mut order)?;
    let views: Vec<TensorView<'v>> = order.into_iter().map(|i| inputs[i].1).collect();
    let mut symbols = vec![0; plan.symbols.len()];
    bind_symbols(plan, &mut symbols, |index| views[index])?;
    for (port, view) in plan.inputs.iter().zip(&views) {
        let shape = port_shape(port, "input", &symbols).map_err(crate::Error::Usage)?;
        check_input(port, &shape, *view)?;
    }
    Ok(views)
}

/// Runs a stage on the threads of the whole session.
fn run_stage(stage: &mut Session, pool: &mut Pool, views: &[TensorView<'_>]) -> Result<Vec<Tensor>> {
    let names: Vec<String> = stage.plan().inputs.iter().map(|port| port.name.clone()).collect();
    let named: Vec<(&str, TensorView)> = names.iter().map(String::as_str).zip(views.iter().copied()).collect();
    stage.exchange_pool(pool);
    let outputs = stage.run(&named);
    stage.exchange_pool(pool);
    outputs
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
