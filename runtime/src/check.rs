//! Proves that a plan is safe to walk: every index in range, every section offset inside its section.
//!
//! A hash tells that a file is what was written, not that what was written makes sense. **Invariant.** After
//! [`Plan::check`] succeeds, no index, offset or size program of the plan can make the loader, the memory planner or the
//! binding of symbols panic; what depends on the values of free symbols is checked when they are bound.
//!
//! ```
//! use egret_runtime::plan::{Plan, Port, DType};
//!
//! let mut plan = Plan::default();
//! plan.inputs.push(Port { name: "x".into(), dtype: DType::F32, dims: vec![], dim_text: vec![], buffer: 7 });
//! let problem = plan.check(0, 0).unwrap_err();
//! assert_eq!(problem, "input `x` names buffer 7, but there are 0 buffers");
//! ```

use crate::plan::{ALIGN, Buffer, Place, Plan, Port, SLACK, Size, Step};
use crate::strings::Dictionary;

/// The first problem found, as a sentence.
type Check = Result<(), String>;

impl Plan {
    /// Checks the plan against a code section and a weights section of these lengths in bytes.
    ///
    /// Returns the first problem as a sentence. See the module's documentation for what is guaranteed afterwards.
    pub fn check(&self, code_bytes: u64, weights_bytes: u64) -> Check {
        self.check_kernels(code_bytes)?;
        self.check_buffers(weights_bytes)?;
        self.check_ports()?;
        self.check_symbols()?;
        self.check_requirements()?;
        Dictionary::of(&self.strings).map_err(|e| e.to_string())?;
        match &self.program {
            Some(program) => program.check(self, weights_bytes),
            None => self.check_steps(self.kernels.len()),
        }
    }

    /// Checks a stage of a program, whose steps call some of `kernels` kernels.
    pub(crate) fn check_stage(&self, kernels: usize, weights_bytes: u64) -> Check {
        ensure(self.program.is_none() && self.kernels.is_empty(), || {
            format!("stage `{}` has a program or kernels of its own", self.model)
        })?;
        self.check_buffers(weights_bytes)?;
        self.check_ports()?;
        self.check_symbols()?;
        self.check_requirements()?;
        self.check_steps(kernels)
    }

    fn check_kernels(&self, code_bytes: u64) -> Check {
        for kernel in &self.kernels {
            ensure(kernel.offset < code_bytes, || {
                format!("kernel `{}` starts at byte {} of {code_bytes} bytes of code", kernel.name, kernel.offset)
            })?;
        }
        Ok(())
    }

    fn check_buffers(&self, weights_bytes: u64) -> Check {
        for (id, buffer) in self.buffers.iter().enumerate() {
            let what = || format!("buffer `{}`", buffer.name);
            self.check_size(&buffer.bytes, what)?;
            match buffer.place {
                Place::Arena => {}
                Place::Private => self.check_private(id as u32)?,
                Place::Input(index) => self.check_place(buffer, index, &self.inputs, "input")?,
                Place::Output(index) => self.check_place(buffer, index, &self.outputs, "output")?,
                Place::Weights { offset } => check_weights(buffer, offset, weights_bytes)?,
            }
        }
        Ok(())
    }

    /// One step has it among what it writes, and nothing else names it: other steps have other parts.
    fn check_private(&self, id: u32) -> Check {
        let name = &self.buffers[id as usize].name;
        let uses = |list: &[u32]| list.iter().filter(|&&other| other == id).count();
        let writes: usize = self.steps.iter().map(|step| uses(&step.writes)).sum();
        ensure(writes == 1, || format!("private buffer `{name}` is written {writes} times"))?;
        let others = || self.steps.iter().flat_map(|step| step.reads.iter().copied().chain(step.in_place.map(|(_, written)| written)));
        let is_named = others().chain(self.outputs.iter().map(|port| port.buffer)).any(|other| other == id);
        ensure(!is_named, || format!("private buffer `{name}` is used for more than the work of one step"))
    }

    fn check_place(&self, buffer: &Buffer, index: u32, ports: &[Port], kind: &str) -> Check {
        ensure((index as usize) < ports.len(), || {
            format!("buffer `{}` is {kind} {index}, but there are {} {kind}s", buffer.name, ports.len())
        })
    }

    fn check_ports(&self) -> Check {
        for (index, port) in self.inputs.iter().enumerate() {
            let buffer = self.check_port(port, "input")?;
            ensure(buffer.place == Place::Input(index as u32), || {
                format!("input `{}` names buffer `{}`, which is not input {index}", port.name, buffer.name)
            })?;
            ensure(self.inputs[..index].iter().all(|earlier| earlier.name != port.name), || {
                format!("two inputs are named `{}`", port.name)
            })?;
        }
        for port in &self.outputs {
            self.check_port(port, "output")?;
        }
        Ok(())
    }

    fn check_port(&self, port: &Port, kind: &str) -> Result<&Buffer, String> {
        let what = || format!("{kind} `{}`", port.name);
        ensure(port.dims.len() == port.dim_text.len(), || {
            format!("{} has {} dimensions and {} texts for them", what(), port.dims.len(), port.dim_text.len())
        })?;
        for dim in &port.dims {
            self.check_size(dim, what)?;
        }
        self.buffer(port.buffer, what)
    }

    /// A symbol gets its value from an input, so each must stand alone in some dimension of one.
    fn check_symbols(&self) -> Check {
        let dims = || self.inputs.iter().flat_map(|port| &port.dims);
        for (index, symbol) in self.symbols.iter().enumerate() {
            ensure(dims().any(|dim| dim.as_symbol() == Some(index as u32)), || {
                format!("the free dimension `{symbol}` is not a dimension of any input, so nothing can bind it")
            })?;
        }
        ensure(self.ranges.is_empty() || self.ranges.len() == self.symbols.len(), || {
            format!("there are {} ranges for {} free dimensions", self.ranges.len(), self.symbols.len())
        })?;
        ensure(self.ranges.iter().all(|range| 0 <= range.low && range.low <= range.high), || "a range is empty".to_string())
    }

    fn check_requirements(&self) -> Check {
        let sides = self.requirements.iter().flat_map(|r| [(r, &r.left), (r, &r.right)]);
        sides.into_iter().try_for_each(|(requirement, size)| self.check_size(size, || requirement.text.clone()))
    }

    fn check_steps(&self, kernels: usize) -> Check {
        let mut written = vec![false; self.buffers.len()];
        for step in &self.steps {
            self.check_step(step, kernels, &mut written)?;
        }
        for port in &self.outputs {
            let buffer = &self.buffers[port.buffer as usize];
            ensure(!is_scratch(buffer.place) || written[port.buffer as usize], || format!("no step writes output `{}`", port.name))?;
        }
        Ok(())
    }

    fn check_step(&self, step: &Step, kernels: usize, written: &mut [bool]) -> Check {
        let what = || format!("step `{}`", step.name);
        ensure((step.kernel as usize) < kernels, || format!("{} calls kernel {}, but there are {kernels} kernels", what(), step.kernel))?;
        for size in step.sizes.iter().chain([&step.parts, &step.flops]) {
            self.check_size(size, what)?;
        }
        for &id in &step.reads {
            let buffer = self.buffer(id, what)?;
            ensure(!is_scratch(buffer.place) || written[id as usize] || step.writes.contains(&id), || {
                format!("{} reads buffer `{}` before any step writes it", what(), buffer.name)
            })?;
        }
        for &id in &step.writes {
            let buffer = self.buffer(id, what)?;
            ensure(is_scratch(buffer.place), || format!("{} writes buffer `{}`, which is an input or a weight", what(), buffer.name))?;
            written[id as usize] = true;
        }
        check_in_place(step)
    }

    fn buffer(&self, id: u32, what: impl Fn() -> String) -> Result<&Buffer, String> {
        self.buffers.get(id as usize).ok_or_else(|| format!("{} names buffer {id}, but there are {} buffers", what(), self.buffers.len()))
    }

    fn check_size(&self, size: &Size, what: impl Fn() -> String) -> Check {
        size.check(self.symbols.len() + self.found.len()).map_err(|problem| format!("{}: {problem}", what()))
    }
}

/// The places that steps write: everything that is not given from outside.
fn is_scratch(place: Place) -> bool {
    match place {
        Place::Arena | Place::Private | Place::Output(_) => true,
        Place::Input(_) | Place::Weights { .. } => false,
    }
}

fn check_weights(buffer: &Buffer, offset: u64, weights_bytes: u64) -> Check {
    let bytes = buffer.bytes.as_const().and_then(|bytes| u64::try_from(bytes).ok());
    let end = bytes.and_then(|bytes| offset.checked_add(bytes)?.checked_add(SLACK as u64));
    ensure(offset.is_multiple_of(ALIGN as u64), || {
        format!("weight `{}` starts at byte {offset}, which is not a multiple of {ALIGN}", buffer.name)
    })?;
    ensure(end.is_some_and(|end| end <= weights_bytes), || {
        format!("weight `{}` at byte {offset} does not fit the {weights_bytes} bytes of weights", buffer.name)
    })
}

fn check_in_place(step: &Step) -> Check {
    let Some((read, written)) = step.in_place else {
        return Ok(());
    };
    ensure(step.reads.contains(&read) && step.writes.contains(&written), || {
        format!("step `{}` works in place on buffers it does not read and write", step.name)
    })
}

fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(problem()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{KernelInfo, SizeOp, Unit};
    use crate::testing::chain;

    /// Damages a good plan and expects the given words in the problem.
    fn check(damage: impl FnOnce(&mut Plan), expected: &str) {
        let mut plan = chain(3);
        assert_eq!(plan.check(3, 64), Ok(()));
        damage(&mut plan);
        let problem = plan.check(3, 64).expect_err(expected);
        assert!(problem.contains(expected), "expected `{expected}` in `{problem}`");
    }

    fn private(name: &str) -> Buffer {
        Buffer { name: name.into(), bytes: Size::Const(64), place: Place::Private }
    }

    #[test]
    fn working_memory_of_one_step_is_accepted() {
        let mut plan = chain(3);
        plan.buffers.push(private("s"));
        plan.steps[1].writes.push(4);
        assert_eq!(plan.check(3, 64), Ok(()));
    }

    #[test]
    fn every_kind_of_damage_is_named() {
        check(|p| p.kernels[0].offset = 3, "starts at byte 3 of 3 bytes of code");
        check(|p| p.steps[1].kernel = 9, "calls kernel 9");
        check(|p| p.steps[1].reads[0] = 99, "names buffer 99");
        check(|p| p.steps[1].writes[0] = 99, "names buffer 99");
        check(|p| p.steps[1].writes[0] = 0, "which is an input or a weight");
        check(|p| p.steps[0].reads[0] = 2, "before any step writes it");
        check(|p| p.steps[0].in_place = Some((2, 1)), "in place on buffers");
        check(|p| p.steps[0].parts = Size::Expr(vec![]), "not a well-formed postfix program");
        check(|p| p.steps[0].sizes[0] = Size::symbol(8), "names symbol 8");
        check(|p| p.inputs[0].buffer = 1, "which is not input 0");
        check(|p| p.inputs[0].dim_text.clear(), "1 dimensions and 0 texts");
        check(|p| p.outputs[0].buffer = 77, "output `y` names buffer 77");
        check(|p| p.steps.clear(), "no step writes output `y`");
        check(|p| p.symbols.push("loose".into()), "nothing can bind it");
        check(|p| p.buffers[1].place = Place::Input(4), "is input 4");
        check(|p| p.buffers[1].place = Place::Weights { offset: 8 }, "not a multiple of 64");
        check(|p| p.buffers[1].place = Place::Weights { offset: 1 << 40 }, "does not fit the 64 bytes of weights");
        check(|p| p.buffers[1].bytes = Size::Expr(vec![SizeOp::Add]), "not a well-formed postfix program");
        check(|p| p.inputs.push(p.inputs[0].clone()), "which is not input 1");
        check(|p| p.buffers[1].place = Place::Private, "private buffer `v1` is used for more than");
        check(|p| p.buffers[3].place = Place::Private, "private buffer `v3` is used for more than");
        check(|p| p.buffers.push(private("s")), "private buffer `s` is written 0 times");
        check(
            |p| {
                p.buffers.push(private("s"));
                p.steps.iter_mut().for_each(|step| step.writes.push(4));
            },
            "private buffer `s` is written 3 times",
        );
    }

    #[test]
    fn a_kernel_may_start_at_the_last_byte_only() {
        let mut plan = chain(1);
        plan.kernels.push(KernelInfo { name: "k9".into(), offset: 2, text: String::new(), hash: [0; 32], unit: Unit::F32 });
        assert_eq!(plan.check(3, 64), Ok(()));
    }
}
