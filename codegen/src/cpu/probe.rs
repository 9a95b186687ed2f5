//! Functions that do one thing as fast as a core can: what `egret hw` measures a machine with.
//!
//! A probe keeps to the kernels' calling convention, so that the runtime loads, divides and times it like any kernel. It has one
//! buffer and two size arguments: how often it goes over its share of the buffer, and the bytes of a share, a multiple of
//! [`BLOCK`]. **Invariant.** No arithmetic waits for memory in [`Probe::MultiplyAdd`], and no memory access waits for arithmetic
//! in the others; what is computed is stored, so that nothing is left out.
//!
//! ```text
//! MultiplyAdd   for r in repetitions:                                 acc0 = acc0*x + y; acc1 = acc1*x + y; ...
//! Read          for r in repetitions, b in blocks of the own share:   acc0 = acc0 + b[0]; acc1 = acc1 + b[1]; ...
//! Write         for r in repetitions, b in blocks of the own share:   b[0] = 1; b[1] = 1; ...
//! ```

use super::emit::{Emit, Value};
use super::scope::{Gen, HUGE, Run};
use super::{CompileError, CompiledCode, entry_name, link, machine, prepare, written_module};
use crate::kernel::{Axis, Block, Body, Buffer, Kernel, Map, Piece};
use crate::target::Target;
use egret_ir::{DType, Dim};
use inkwell::context::Context;
use inkwell::targets::FileType;
use inkwell::types::BasicType;
use inkwell::values::{IntValue, PointerValue};

/// Bytes that a probe of memory touches in one iteration; a share of the buffer is a multiple of it. Sixteen vectors of the
/// widest target, so that the loop around them costs nothing.
pub const BLOCK: usize = 1024;

/// Sums that a probe of reading carries: enough to hide the latency of an addition, 4 cycles on 2 pipes.
const SUMS: usize = 8;

/// Of four vector registers, those that hold accumulators; the others are for operands.
const ACCUMULATORS_OF_FOUR: usize = 3;

/// What a probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Multiply-adds of `f32` on registers.
    MultiplyAdd,
    /// Reads its share of the buffer.
    Read,
    /// Writes its share of the buffer.
    Write,
    /// Dot products of pairs of bf16 on registers, where the target has them.
    DotPairs,
    /// Dot products of four bytes on registers, likewise.
    DotBytes,
}

impl Probe {
    /// The probes of a target, in the order of the entries that [`compile`] gives.
    pub fn all(target: &Target) -> Vec<Probe> {
        let dots = [target.dots.then_some(Probe::DotPairs), target.bytes.then_some(Probe::DotBytes)];
        [Probe::MultiplyAdd, Probe::Read, Probe::Write].into_iter().chain(dots.into_iter().flatten()).collect()
    }

    /// Operations of one repetition, those on memory none.
    pub fn operations(self, target: &Target) -> usize {
        match self {
            Probe::MultiplyAdd => 2 * accumulators(target) * target.lanes,
            Probe::DotPairs => 4 * accumulators(target) * target.lanes,
            Probe::DotBytes => 8 * accumulators(target) * target.lanes,
            Probe::Read | Probe::Write => 0,
        }
    }
}

fn accumulators(target: &Target) -> usize {
    target.vregs * ACCUMULATORS_OF_FOUR / 4
}

/// The code of all probes.
///
/// # Errors
/// When LLVM refuses one of them.
pub fn compile(target: &Target) -> Result<CompiledCode, CompileError> {
    prepare();
    let machine = machine(target)?;
    let probes = Probe::all(target);
    let objects = probes.iter().enumerate().map(|(i, probe)| {
        let context = Context::create();
        let kernel = loops();
        let e = Emit::new(&context, target, &entry_name(i), &machine.get_target_data());
        let mut emitter = Gen::new(e, &kernel, target.vregs);
        emitter.probe(*probe, target);
        emitter.e.finish();
        written_module(&emitter.e, &kernel, &machine, FileType::Object)
    });
    let objects = objects.collect::<Result<Vec<_>, _>>()?;
    link(&vec![loops(); probes.len()], &objects)
}

/// The loops and the buffer of a probe, as a kernel that computes nothing.
fn loops() -> Kernel {
    let axis = |name: &str, extent: &str| Axis { name: name.into(), extent: Dim::symbol(extent) };
    // The size arguments of a kernel come in the order of their names.
    let axes = vec![axis("r", "0 repetitions"), axis("b", "1 bytes")];
    let buffer = Buffer { name: "memory".into(), dtype: DType::F32, written: true };
    Kernel::new(vec![buffer], Body::Map(Map { pieces: vec![Piece { axes, block: Block::default() }] }))
}

impl<'c> Gen<'_, 'c> {
    fn probe(&mut self, probe: Probe, target: &Target) {
        let [repetitions, bytes] = ["0 repetitions", "1 bytes"].map(|name| self.symbol(name).value);
        let share = self.e.offset(self.bases[0], self.e.index_mul(self.part, bytes), 1);
        let vectors = BLOCK / (target.lanes * DType::F32.size());
        let register = self.e.vector_type(self.e.register_type(DType::F32), self.e.lanes).as_basic_type_enum();
        let at = |g: &Self, base: PointerValue<'c>, i: usize| g.e.displaced(base, (i * BLOCK / vectors) as i64);
        let load = |g: &Self, base: PointerValue<'c>, i: usize| g.e.load(register, at(g, base, i), 64);
        let zeros = |g: &Self, count: usize| vec![g.e.zero(register); count];
        match probe {
            Probe::MultiplyAdd | Probe::DotPairs => {
                let (x, y) = (load(self, share, 0), load(self, share, 1));
                let sums = zeros(self, accumulators(target));
                let next = |g: &Self, sum| if probe == Probe::DotPairs { g.e.dot(x, y, sum) } else { g.e.fma(sum, x, y) };
                let sums = self.times(repetitions, 1, sums, |g, _, sums| sums.into_iter().map(|sum| next(g, sum)).collect());
                self.keep(sums, share);
            }
            Probe::DotBytes => {
                let words = self.e.vector_type(self.e.int_type(32), self.e.lanes).as_basic_type_enum();
                let [x, y] = [0, 1].map(|i| self.e.load(words, at(self, share, i), 64));
                let sums = vec![self.e.zero(words); accumulators(target)];
                let next = |g: &Self, sum| g.e.dot_of_bytes(x, y, sum);
                let sums = self.times(repetitions, 1, sums, |g, _, sums| sums.into_iter().map(|sum| next(g, sum)).collect());
                let sum = sums.into_iter().reduce(|x, y| self.e.add(x, y)).expect("a target has registers");
                self.e.store(sum, share, 64);
            }
            Probe::Read => {
                let sums = zeros(self, SUMS);
                let sums = self.over_blocks(repetitions, bytes, share, sums, |g, block, mut sums| {
                    (0..vectors).for_each(|i| sums[i % SUMS] = g.e.fadd(sums[i % SUMS], load(g, block, i)));
                    sums
                });
                self.keep(sums, share);
            }
            Probe::Write => {
                let one = self.e.float_of(register, 1.0);
                self.over_blocks(repetitions, bytes, share, vec![], |g, block, none| {
                    (0..vectors).for_each(|i| g.e.store(one, at(g, block, i), 64));
                    none
                });
            }
        }
    }

    /// `for r in 0..repetitions, b in 0..bytes step BLOCK`, with values that go around.
    fn over_blocks(
        &mut self,
        repetitions: IntValue<'c>,
        bytes: IntValue<'c>,
        share: PointerValue<'c>,
        carried: Vec<Value<'c>>,
        body: impl FnOnce(&mut Self, PointerValue<'c>, Vec<Value<'c>>) -> Vec<Value<'c>>,
    ) -> Vec<Value<'c>> {
        self.times(repetitions, 1, carried, |g, _, carried| {
            g.times(bytes, BLOCK as i64, carried, |g, at, carried| {
                let block = g.e.offset(share, at, 1);
                body(g, block, carried)
            })
        })
    }

    /// `for i in 0..end step by`, with values that go around.
    fn times(
        &mut self,
        end: IntValue<'c>,
        step: i64,
        carried: Vec<Value<'c>>,
        body: impl FnOnce(&mut Self, IntValue<'c>, Vec<Value<'c>>) -> Vec<Value<'c>>,
    ) -> Vec<Value<'c>> {
        let name = self.fresh("i");
        let run = Run { start: self.e.i64(0), end, step, certain: false, range: (0, HUGE) };
        self.repeat(&name, run, carried, |g, carried| {
            let i = g.symbol(&name).value;
            body(g, i, carried)
        })
    }

    /// Stores the sum of `sums`, so that none of them is left out.
    fn keep(&mut self, sums: Vec<Value<'c>>, at: PointerValue<'c>) {
        if let Some(sum) = sums.into_iter().reduce(|x, y| self.e.fadd(x, y)) {
            self.e.store(sum, at, 64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of the innermost loops of a probe.
    fn assembly(probe: Probe, target: &Target) -> String {
        prepare();
        let (machine, context, kernel) = (machine(target).unwrap(), Context::create(), loops());
        let e = Emit::new(&context, target, "probe", &machine.get_target_data());
        let mut emitter = Gen::new(e, &kernel, target.vregs);
        emitter.probe(probe, target);
        emitter.e.finish();
        String::from_utf8(written_module(&emitter.e, &kernel, &machine, FileType::Assembly).unwrap()).unwrap()
    }

    /// Accumulators stay in registers and nothing is left out: a probe that does less than it counts would flatter a machine.
    #[test]
    fn probes_do_what_they_count() {
        for name in ["x86-64-v4", "x86-64-v3"] {
            let target = Target::named(name).unwrap();
            let fma = assembly(Probe::MultiplyAdd, &target);
            assert_eq!(fma.matches("vfmadd").count(), accumulators(&target), "{fma}");
            assert!(!fma.contains("(%rsp)"), "{fma}");
            let vectors = BLOCK / (target.lanes * 4);
            let read = assembly(Probe::Read, &target);
            assert!(read.lines().filter(|l| l.contains("vaddps") && l.contains('(')).count() >= vectors - 1, "{read}");
            let write = assembly(Probe::Write, &target);
            assert!(write.lines().filter(|l| l.contains("vmovaps") && l.ends_with(')')).count() >= vectors, "{write}");
        }
    }

    #[test]
    fn dot_products_are_measured_where_they_are_asked_for() {
        let target = Target::named("znver4").unwrap().with_dots().unwrap();
        let dots = assembly(Probe::DotPairs, &target);
        assert_eq!(dots.matches("vdpbf16ps").count(), accumulators(&target), "{dots}");
        assert!(!dots.contains("(%rsp)"), "{dots}");
        let target = Target::named("znver4").unwrap().with_bytes().unwrap();
        let bytes = assembly(Probe::DotBytes, &target);
        assert_eq!(bytes.matches("vpdpbusd").count(), accumulators(&target), "{bytes}");
        assert!(!bytes.contains("(%rsp)"), "{bytes}");
    }

    #[test]
    fn probes_become_one_image_on_every_target() {
        for name in ["x86-64-v4", "x86-64-v3", "aarch64"] {
            let code = compile(&Target::named(name).unwrap()).unwrap();
            assert_eq!(code.entries.len(), 3);
        }
    }
}
