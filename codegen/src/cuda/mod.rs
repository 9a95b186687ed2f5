//! PTX for NVIDIA GPUs: one entry point per kernel, through LLVM's NVPTX back end, from the same kernel IR as the CPU.
//!
//! A kernel is cut into jobs, runs of thread blocks that do one thing each. Below them a thread is a point of the
//! loops, so expressions, offsets and elementary functions are those of [`cpu`](crate::cpu), at scalar points and on
//! pointers to global memory. **Invariant.** f32 means f32: every operation is rounded to nearest, multiply-add is fused
//! only where the CPU fuses it, and nothing is approximate (but exponentials that are then rounded to 16 bits); products on tensor
//! cores have its accuracy.
//!
//! ```text
//! map     a thread does 4 neighbours where rows of elements divide so (8 of 16 bits), else 1
//! rows    a warp or a block does a row, its threads stride along it and combine by shuffles; or a thread does a row
//! matrix  a block does a tile of rows and columns on tensor cores, k in slices that come through shared memory by themselves; of few
//!         tiles several blocks share k, and what they find is added up by a launch that follows
//! group   the same by warpgroups of the GPUs that have them, for which other warps of the block bring the slices
//! product the same by multiply-adds, where there are few steps or no tensor cores; of few rows, some columns
//! chain   a block does a tile of queries against all their keys, on tensor cores too; of few queries, its warps share the keys
//! recur   a block does all steps of a row of the batch
//! ```
//!
//! What has no PTX yet is an [error](CudaError::Uncovered) that names it, never slow code.

mod attention;
mod contract;
mod device;
#[cfg(any(test, feature = "emu"))]
pub mod emu;
mod grid;
mod group;
mod image;
mod map;
mod matrix;
mod narrow;
mod pipeline;
mod product;
mod recur;
mod ring;
mod rows;
mod tensor;
#[cfg(test)]
pub(crate) mod tests;

pub use image::image;

use crate::cpu::emit::Emit;
use crate::cpu::scope::{Arguments, Gen};
use crate::cpu::{CURRENT, CompileError, entry_name, machine, malformed, prepare};
use crate::kernel::Kernel;
use crate::target::Target;
use device::BLOCK_THREADS;
use egret_ir::Dim;
use grid::{Job, following, jobs, threads};
use inkwell::AddressSpace;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{FileType, TargetMachine, TargetTriple};
use inkwell::types::BasicMetadataTypeEnum;
use inkwell::values::{FunctionValue, PointerValue};

/// LLVM's number of the calling convention of an entry point.
const PTX_KERNEL: u32 = 71;

/// PTX's global memory.
const GLOBAL: u16 = 1;

/// Every buffer starts at a multiple of this many bytes: that of the widest load.
pub const ALIGN: usize = 16;

/// Passes over the LLVM IR of a kernel. Indices are 64 bits wide; the second pass finds those that fit 32, whose division is
/// a quarter of the instructions.
const PASSES: &str = "function(early-cse,correlated-propagation,instcombine<no-verify-fixpoint>,simplifycfg,early-cse)";

/// Kernels as PTX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// One PTX module with an entry point for each kernel.
    pub ptx: String,
    /// How to start each kernel, in the order of the kernels, then what follows some of them.
    pub launches: Vec<Launch>,
}

/// How a kernel is started: its parameters are the addresses of its buffers, that of its working memory if it has some, then its [sizes](Kernel::sizes) as 64-bit integers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The entry point.
    pub entry: String,
    /// Thread blocks of the one-dimensional grid; if it is 0, nothing is to be started.
    pub blocks: Dim,
    /// Threads of a block.
    pub threads: usize,
    /// Bytes of shared memory of a block beside what the entry point declares.
    pub shared: usize,
    /// Bytes of working memory.
    pub scratch: usize,
    /// The number of the launch that follows, with the same parameters.
    pub then: Option<usize>,
}

/// What becomes an entry point.
struct Entry<'k> {
    name: String,
    kernel: &'k Kernel,
    jobs: &'k [Job<'k>],
    /// Bytes of working memory.
    scratch: i64,
}

impl Entry<'_> {
    fn launch(&self, then: Option<usize>) -> Launch {
        let blocks = self.jobs.iter().map(|job| job.blocks.clone()).sum();
        let shared = self.jobs.iter().map(Job::shared).max().unwrap_or(0) as usize;
        Launch { entry: self.name.clone(), blocks, threads: threads(self.jobs), shared, scratch: self.scratch as usize, then }
    }
}

/// Why kernels did not become PTX.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// There is no lowering for it yet.
    #[error("there is no PTX for {} yet:\n{}", if .0.len() == 1 { "a kernel" } else { "some kernels" }, .0.join("\n"))]
    Uncovered(Vec<String>),
    /// LLVM refused a kernel.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

/// The PTX of kernels.
///
/// # Errors
/// Names every kernel that cannot be lowered yet, or shows the one that LLVM refused.
pub fn compile(kernels: &[Kernel], target: &Target) -> Result<Code, CudaError> {
    prepare();
    let machine = machine(target)?;
    let context = Context::create();
    let whole = context.create_module("kernels");
    whole.set_triple(&TargetTriple::create(target.triple));
    whole.set_data_layout(&machine.get_target_data().get_data_layout());
    let work: Vec<_> = kernels.iter().map(|k| jobs(k, target)).collect();
    let gaps: Vec<String> = work.iter().zip(kernels).filter_map(|(w, k)| Some(format!("{}: {k}\n", w.as_ref().err()?))).collect();
    if !gaps.is_empty() {
        return Err(CudaError::Uncovered(gaps));
    }
    let (mut launches, mut later) = (vec![], vec![]);
    for (i, (jobs, kernel)) in work.iter().flatten().zip(kernels).enumerate() {
        let (then, scratch) = (following(jobs), jobs.iter().map(Job::scratch).sum());
        let first = Entry { name: entry_name(i), kernel, jobs, scratch };
        let second = Entry { name: format!("{}_then", entry_name(i)), kernel, jobs: &then, scratch };
        let number = (!then.is_empty()).then_some(kernels.len() + later.len());
        launches.push(first.launch(number));
        later.extend(number.map(|_| second.launch(None)));
        for entry in [Some(first), number.map(|_| second)].into_iter().flatten() {
            let module = emitted(&context, &entry, target, &machine)?;
            whole.link_in_module(module).map_err(|e| malformed(kernel, e.to_string()))?;
        }
    }
    launches.extend(later);
    Ok(Code { ptx: written(&whole, kernels, &machine)?, launches })
}

fn written(module: &Module, kernels: &[Kernel], machine: &TargetMachine) -> Result<String, CompileError> {
    let text = || kernels.iter().map(|k| k.to_string()).collect();
    let refused = |e: inkwell::support::LLVMString| CompileError::Malformed { kernel: text(), reason: e.to_string() };
    let buffer = machine.write_to_memory_buffer(module, FileType::Assembly).map_err(refused)?;
    Ok(String::from_utf8_lossy(buffer.as_slice()).trim_end_matches('\0').to_string())
}

/// The module of one entry point.
fn emitted<'c>(context: &'c Context, entry: &Entry, target: &Target, machine: &TargetMachine) -> Result<Module<'c>, CompileError> {
    let &Entry { kernel, jobs, scratch, .. } = entry;
    CURRENT.with(|c| *c.borrow_mut() = kernel.to_string());
    let e = begun(context, entry, target, machine);
    if let Some(blocks) = jobs.iter().find_map(|job| job.least_resident(kernel)) {
        let attribute = context.create_string_attribute("nvvm.minctasm", &blocks.to_string());
        e.function.add_attribute(AttributeLoc::Function, attribute);
    }
    let (arguments, working) = arguments(&e, kernel, scratch > 0);
    let mut kernel_gen = Gen::on(e, kernel, 0, arguments);
    kernel_gen.scratch = working;
    kernel_gen.jobs(jobs);
    let e = kernel_gen.e;
    e.finish();
    e.verify().map_err(|reason| malformed(kernel, reason))?;
    e.module.run_passes(PASSES, machine, PassBuilderOptions::create()).map_err(|reason| malformed(kernel, reason.to_string()))?;
    Ok(e.module)
}

/// Starts an entry point: a pointer to global memory per buffer and for working memory, then an i64 per size.
fn begun<'c>(context: &'c Context, entry: &Entry, target: &Target, machine: &TargetMachine) -> Emit<'c> {
    let (name, kernel) = (&entry.name, entry.kernel);
    let pointers = kernel.buffers.len() + usize::from(entry.scratch > 0);
    let module = context.create_module(name);
    module.set_triple(&TargetTriple::create(target.triple));
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    let pointer = context.ptr_type(AddressSpace::from(GLOBAL));
    let mut parameters: Vec<BasicMetadataTypeEnum> = vec![pointer.into(); pointers];
    parameters.resize(parameters.len() + kernel.sizes().len(), context.i64_type().into());
    let function = module.add_function(name, context.void_type().fn_type(&parameters, false), None);
    function.set_call_conventions(PTX_KERNEL);
    let attributes =
        [("target-cpu", target.cpu.to_string()), (BLOCK_THREADS, threads(entry.jobs).to_string()), ("no-jump-tables", "true".to_string())];
    for (key, value) in attributes {
        function.add_attribute(AttributeLoc::Function, context.create_string_attribute(key, &value));
    }
    let align = context.create_enum_attribute(Attribute::get_named_enum_kind_id("align"), ALIGN as u64);
    (0..pointers).for_each(|b| function.add_attribute(AttributeLoc::Param(b as u32), align));
    let builder = context.create_builder();
    builder.position_at_end(context.append_basic_block(function, "entry"));
    Emit { cx: context, module, builder, function, lanes: 1, wide: false, dots: false, bytes: false, rounds_bf16: target.has_bf16() }
}

/// What an entry point is called with, and where its working memory is.
fn arguments<'c>(e: &Emit<'c>, kernel: &Kernel, works: bool) -> (Arguments<'c>, Option<PointerValue<'c>>) {
    let argument = |function: FunctionValue<'c>, i: usize| function.get_nth_param(i as u32).expect("as many as the signature has");
    let buffers = kernel.buffers.len();
    let working = works.then(|| argument(e.function, buffers).into_pointer_value());
    let pointers = buffers + usize::from(works);
    let arguments = Arguments {
        bases: (0..buffers).map(|i| argument(e.function, i).into_pointer_value()).collect(),
        sizes: (0..kernel.sizes().len()).map(|i| argument(e.function, pointers + i).into_int_value()).collect(),
        part: e.i64(0),
        parts: e.i64(1),
    };
    (arguments, working)
}
