//! Runs models in which data decides over extents, or over what is computed: how many boxes were found, how often a loop runs.
//!
//! A [`Program`] is a list of calls over values whose shapes are known when they have been made. A call is a stage, which is a
//! [`Plan`] whose free dimensions are the extents of its inputs, one of the few operations that find an extent, or a loop or a branch ([`What`]),
//! whose bodies are lists of calls again:
//!
//! ```text
//! inputs: x, t                    x: f32[N]
//! m = stage 0 (x, t)              m: bool[N]
//! i = non_zero (m)                i: i64[1, K], and K is known from here on
//! y = stage 1 (i)                 y: f32[K], its memory planned for this K
//! z = repeat body 1 (n, c, y)     the calls of body 1 while the condition holds; each y is the one that the step before made
//! ```
//!
//! **Invariant.** Every value has exactly the bytes of its shape: nothing is reserved for the largest shape that there could be. A
//! stage keeps what it planned for the extents that it met, as any [`Session`] does; the values between stages are allocated in
//! each run and freed behind their last reader. In a loop, what is dead is written again by the next stage that makes a value of the same
//! type and shape: a loop that carries values of the same shapes allocates nothing for them from its third step on, and none of them is copied.

use crate::binding::{bind_symbols, check_input, port_shape};
use crate::builtin;
use crate::cpu::Code;
use crate::error::{Error, Result};
use crate::plan::{DType, Plan, Size};
use crate::pool::Pool;
use crate::profile::Log;
use crate::session::{Model, Session, match_names};
use crate::strings::Dictionary;
use crate::tensor::{Tensor, TensorView};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

mod check;
mod rows;
mod spare;

use rows::Rows;
pub(crate) use spare::Spare;

/// Lists of calls, and the stages that they call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// What is run first, then the bodies of loops and branches, each behind those that call it.
    pub bodies: Vec<Body>,
    /// What stages do; their steps call kernels of the plan that the program belongs to.
    pub stages: Vec<Plan>,
}

/// A list of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// Names of the values. The inputs come first, in their order.
    pub values: Vec<String>,
    /// How many of the values are inputs.
    pub inputs: u32,
    /// What is called, in order.
    pub calls: Vec<Call>,
    /// The values that are outputs, in their order.
    pub outputs: Vec<u32>,
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
    /// `[n, m] -> i64[count], i64[n], i64[count]`: the different rows, of i64, f64 or strings.
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
    /// `[a...], ... -> [a...]`: strings made of strings or numbers, or asked for something, element by element.
    Text(Text),
    /// `str[a...], str[] -> str[a..., count], i64[a...]`: the parts of strings between delimiters, and how many each has.
    TextSplit {
        /// The delimiters that count at most; all, if negative.
        most: i64,
    },
    /// `i64[], bool[], ... -> ...`: runs a body while the condition holds, at most as often as the number says.
    Repeat(Repeat),
    /// `bool[], ... -> ...`: runs one of two bodies.
    Branch {
        /// The body for a condition that holds.
        then: u32,
        /// The other one.
        otherwise: u32,
    },
}

/// What is made of strings, element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Text {
    /// Both operands, one behind the other.
    Concat,
    /// Small letters, as Unicode has them.
    Lower,
    /// Capital letters.
    Upper,
    /// Whether the whole string fits the regular expression that is the second operand.
    Match,
    /// The number that stands there, of this type.
    Parse(DType),
    /// The shortest decimal of a number.
    Format,
}

/// A loop. Its body takes the number of the step, a condition that holds, the values that are carried, and what else is read; it gives
/// the next condition, the next values, and a row for each result that grows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeat {
    /// The body.
    pub body: u32,
    /// How many values are carried.
    pub carried: u32,
    /// The rows.
    pub rows: Vec<Row>,
    /// Where the symbols in the extents of rows are to be read: the position of a value in what the call reads, and one of its axes.
    pub symbols: Vec<(u32, u32)>,
}

/// What a loop gathers in each step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Element type.
    pub dtype: DType,
    /// Its extents, as far as they are known before the loop has run, else 0: those of the result of a loop that does not run.
    pub dims: Vec<Size>,
}

impl Program {
    /// The calls that are neither stages nor loops or branches: what is computed between stages, body by body.
    pub fn operations(&self) -> impl Iterator<Item = (&Body, &Call)> {
        let of = |body| Body::operations(body).map(move |call| (body, call));
        self.bodies.iter().flat_map(of)
    }

    /// The index of a call among the operations.
    fn operation(&self, call: &Call) -> usize {
        self.operations().take_while(|(_, other)| !std::ptr::eq(*other, call)).count()
    }
}

impl What {
    /// The name of an operation, as the compiler's ops are called; `None` for stages, loops and branches.
    pub fn operation(&self) -> Option<&'static str> {
        match self {
            What::Stage(_) | What::Repeat(_) | What::Branch { .. } => None,
            What::NonZero => Some("non_zero"),
            What::Unique { .. } => Some("unique"),
            What::NonMaxSuppression { .. } => Some("non_max_suppression"),
            What::Extents { .. } => Some("extents"),
            What::Text(_) => Some("text"),
            What::TextSplit { .. } => Some("text_split"),
        }
    }

    /// How many values it reads and writes; `None` for what says so itself: stages and bodies.
    fn arity(&self) -> Option<(usize, usize)> {
        match self {
            What::Stage(_) | What::Repeat(_) | What::Branch { .. } => None,
            What::NonZero | What::Extents { .. } => Some((1, 1)),
            What::Text(Text::Concat | Text::Match) => Some((2, 1)),
            What::Text(Text::Lower | Text::Upper | Text::Parse(_) | Text::Format) => Some((1, 1)),
            What::TextSplit { .. } => Some((2, 2)),
            What::Unique { .. } => Some((1, 3)),
            What::NonMaxSuppression { .. } => Some((5, 1)),
        }
    }
}

impl Body {
    fn operations(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| call.what.operation().is_some())
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

impl<'v> Value<'v> {
    fn view(&self) -> TensorView<'_> {
        match self {
            Value::Given(view) => *view,
            Value::Made(tensor) => tensor.view(),
        }
    }

    /// The same once more.
    fn again(&self) -> Result<Value<'v>> {
        Ok(match self {
            Value::Given(view) => Value::Given(*view),
            Value::Made(tensor) => Value::Made(copy_of(tensor.view())?),
        })
    }

    /// The tensor itself; a copy of what belongs to another.
    fn owned(self) -> Result<Tensor> {
        match self {
            Value::Given(view) => copy_of(view),
            Value::Made(tensor) => Ok(tensor),
        }
    }
}

fn copy_of(view: TensorView<'_>) -> Result<Tensor> {
    Tensor::from_bytes(view.dtype(), view.shape(), view.bytes())
}

/// A program that is ready to run.
pub(crate) struct Runner {
    stages: Vec<Session>,
    /// Per body and call, the values that nothing reads later.
    dead_after: Vec<Vec<Vec<u32>>>,
    spare: Spare,
}

impl Runner {
    /// Makes a session of each stage; `None` for a model that is no program.
    pub(crate) fn of(model: &Model, code: &Arc<Code>) -> Result<Option<Runner>> {
        let Some(program) = &model.plan().program else { return Ok(None) };
        let stages = (0..program.stages.len()).map(|index| Session::of_stage(model.stage(index), code.clone()));
        let dead_after = program.bodies.iter().map(Body::dead_after).collect();
        Ok(Some(Runner { stages: stages.collect::<Result<_>>()?, dead_after, spare: Spare::default() }))
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
        strings: &mut Dictionary,
        inputs: &[(&str, TensorView<'_>)],
        log: Option<&mut Log>,
    ) -> Result<Vec<Tensor>> {
        let given = checked(plan, inputs)?.into_iter().map(Value::Given).collect();
        let made = Run { runner: self, program, pool, strings, log }.body(0, given);
        self.spare.clear();
        made?.into_iter().map(Value::owned).collect()
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
        let shape = port_shape(port, "input", &symbols).map_err(Error::Usage)?;
        check_input(port, &shape, *view)?;
    }
    Ok(views)
}

/// One run of a program.
struct Run<'r> {
    runner: &'r mut Runner,
    program: &'r Program,
    pool: &'r mut Pool,
    strings: &'r mut Dictionary,
    log: Option<&'r mut Log>,
}

impl Run<'_> {
    /// The outputs of a body for its inputs.
    fn body<'v>(&mut self, index: usize, inputs: Vec<Value<'v>>) -> Result<Vec<Value<'v>>> {
        let body = &self.program.bodies[index];
        let mut values: Vec<Option<Value>> = inputs.into_iter().map(Some).collect();
        values.resize_with(body.values.len(), || None);
        for (number, call) in body.calls.iter().enumerate() {
            let views: Vec<TensorView> = call.reads.iter().filter_map(|&v| values[v as usize].as_ref().map(Value::view)).collect();
            let made = self.call(call, &views)?;
            call.writes.iter().zip(made).for_each(|(&v, tensor)| values[v as usize] = Some(Value::Made(tensor)));
            for &dead in &self.runner.dead_after[index][number] {
                self.runner.spare.keep(values[dead as usize].take());
            }
        }
        let outputs = body.outputs.iter().enumerate().map(|(i, v)| match body.outputs[i + 1..].contains(v) {
            true => values[*v as usize].as_ref().map(Value::again).transpose(),
            false => Ok(values[*v as usize].take()),
        });
        let outputs: Vec<Option<Value>> = outputs.collect::<Result<_>>()?;
        values.into_iter().for_each(|value| self.runner.spare.keep(value));
        Ok(outputs.into_iter().flatten().collect())
    }

    fn call(&mut self, call: &Call, reads: &[TensorView<'_>]) -> Result<Vec<Tensor>> {
        match &call.what {
            What::Stage(index) => {
                let index = *index as usize;
                let log = self.log.as_deref_mut().map(|log| (log, index));
                self.runner.stages[index].run_stage(self.pool, reads, &mut self.runner.spare, log)
            }
            What::Repeat(repeat) => self.repeat(repeat, reads),
            What::Branch { then, otherwise } => {
                let taken = if builtin::truth(reads[0])? { then } else { otherwise };
                let made = self.body(*taken as usize, reads.iter().map(|&view| Value::Given(view)).collect())?;
                made.into_iter().map(Value::owned).collect()
            }
            what => match &mut self.log {
                Some(log) => log.operation(self.program.operation(call), || builtin::run(what, reads, self.strings)),
                None => builtin::run(what, reads, self.strings),
            },
        }
    }

    fn repeat(&mut self, repeat: &Repeat, reads: &[TensorView<'_>]) -> Result<Vec<Tensor>> {
        let (trips, mut going) = (builtin::number(reads[0])?, builtin::truth(reads[1])?);
        let (carried, captured) = reads[2..].split_at(repeat.carried as usize);
        let mut carried: Vec<Value> = carried.iter().map(|&view| Value::Given(view)).collect();
        let mut rows: Vec<Rows> = repeat.rows.iter().map(|row| Rows::new(row.dtype, trips)).collect();
        let mut step = 0;
        self.runner.spare.enter();
        while going && step < trips {
            let head = [self.runner.spare.scalar(step)?, self.runner.spare.holds()?].map(Value::Made);
            let inputs = head.into_iter().chain(carried).chain(captured.iter().map(|&view| Value::Given(view)));
            let mut made = self.body(repeat.body as usize, inputs.collect())?.into_iter();
            let condition = made.next();
            going = condition.as_ref().map_or(Ok(false), |condition| builtin::truth(condition.view()))?;
            self.runner.spare.keep(condition);
            carried = made.by_ref().take(repeat.carried as usize).collect();
            for (rows, row) in rows.iter_mut().zip(made) {
                rows.push(row.view())?;
                self.runner.spare.keep(Some(row));
            }
            step += 1;
        }
        self.runner.spare.leave();
        let empty = |row: &Row| repeat.empty(row, reads);
        let grown = rows.into_iter().zip(&repeat.rows).map(|(rows, row)| rows.finish(|| empty(row)));
        carried.into_iter().map(Value::owned).chain(grown).collect()
    }
}

impl Repeat {
    /// The extents of a row of a loop that did not run.
    fn empty(&self, row: &Row, reads: &[TensorView<'_>]) -> Vec<usize> {
        let extent = |&(read, axis): &(u32, u32)| reads[read as usize].shape().get(axis as usize).map_or(0, |&extent| extent as i64);
        let symbols: Vec<i64> = self.symbols.iter().map(extent).collect();
        row.dims.iter().map(|dim| dim.eval(&symbols).ok().and_then(|extent| usize::try_from(extent).ok()).unwrap_or(0)).collect()
    }
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
