//! Proves that a program is safe to walk: every index in range, every value made before it is read, no body inside itself.

use super::{Body, Call, Program, Repeat, What};
use crate::plan::Plan;

/// Bodies inside each other at most: far more than models have, few enough for any stack.
const MAX_DEPTH: usize = 64;

impl Program {
    /// Checks that every index is in range, every value is made before it is read, and every stage is safe to walk.
    pub(crate) fn check(&self, plan: &Plan, weights_bytes: u64) -> Result<(), String> {
        self.stages.iter().try_for_each(|stage| stage.check_stage(plan.kernels.len(), weights_bytes))?;
        let main = self.bodies.first().filter(|main| (main.inputs as usize, main.outputs.len()) == (plan.inputs.len(), plan.outputs.len()));
        main.ok_or("the program has other inputs or outputs than the plan")?;
        let mut depths = vec![0; self.bodies.len()];
        for (index, body) in self.bodies.iter().enumerate() {
            self.check_body(index, body).map_err(|problem| if index == 0 { problem } else { format!("body {index}: {problem}") })?;
            if depths[index] > MAX_DEPTH {
                return Err(format!("bodies are nested more than {MAX_DEPTH} deep"));
            }
            for called in body.calls.iter().flat_map(|call| call.what.bodies()) {
                depths[called] = depths[called].max(depths[index] + 1);
            }
        }
        Ok(())
    }

    fn check_body(&self, index: usize, body: &Body) -> Result<(), String> {
        let mut made = vec![false; body.values.len()];
        made.get_mut(..body.inputs as usize).ok_or("it has more inputs than values")?.fill(true);
        for (number, call) in body.calls.iter().enumerate() {
            self.check_call(index, call, &mut made).map_err(|problem| format!("call {number} {problem}"))?;
        }
        match body.outputs.iter().find(|&&v| made.get(v as usize) != Some(&true)) {
            Some(value) => Err(format!("the program returns value {value}, which nothing makes")),
            None => Ok(()),
        }
    }

    fn check_call(&self, caller: usize, call: &Call, made: &mut [bool]) -> Result<(), String> {
        if let Some(body) = call.what.bodies().into_iter().find(|&body| body <= caller || body >= self.bodies.len()) {
            return Err(format!("calls body {body}, which it may not"));
        }
        let arity = self.arity(&call.what);
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

    /// How many values a call reads and writes; `None` if that contradicts itself.
    fn arity(&self, what: &What) -> Option<(usize, usize)> {
        let of = |body: u32| self.bodies.get(body as usize).map(|body| (body.inputs as usize, body.outputs.len()));
        match what {
            What::Stage(index) => self.stages.get(*index as usize).map(|stage| (stage.inputs.len(), stage.outputs.len())),
            What::Repeat(repeat) => of(repeat.body).filter(|arity| repeat.fits(*arity)).map(|(reads, writes)| (reads, writes - 1)),
            What::Branch { then, otherwise } => of(*then).filter(|arity| Some(*arity) == of(*otherwise) && arity.0 > 0),
            _ => what.arity(),
        }
    }
}

impl What {
    /// The bodies that it runs.
    fn bodies(&self) -> Vec<usize> {
        match self {
            What::Repeat(repeat) => vec![repeat.body as usize],
            What::Branch { then, otherwise } => vec![*then as usize, *otherwise as usize],
            What::Stage(_) | What::NonZero | What::Unique { .. } | What::NonMaxSuppression { .. } | What::Extents { .. } => vec![],
            What::Text(_) | What::TextSplit { .. } => vec![],
        }
    }
}

impl Repeat {
    /// Whether its body takes and gives what it should.
    fn fits(&self, (inputs, outputs): (usize, usize)) -> bool {
        let symbols = self.symbols.iter().all(|&(read, _)| (read as usize) < inputs);
        let rows = self.rows.iter().flat_map(|row| &row.dims).all(|dim| dim.check(self.symbols.len()).is_ok());
        symbols && rows && inputs >= 2 + self.carried as usize && outputs == 1 + self.carried as usize + self.rows.len()
    }
}
