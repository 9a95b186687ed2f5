//! Native code for processors: one function per kernel, through LLVM, in one position-independent image.
//!
//! Every skeleton of the kernel IR has one emitter; below them are expressions (`point`), loops and offsets (`scope`,
//! `index`), and a thin layer over LLVM's builder (`emit`). **Invariant.** The image calls nothing, allocates nothing and
//! refers to nothing outside itself, and the same kernels and target give the same bytes, whatever the number of threads.
//!
//! ```text
//! kernels --emit--> LLVM module each --TargetMachine, O3--> object each --object::link--> image + entry offsets
//! ```

mod blocks;
pub(crate) mod cell;
mod chain;
mod contract;
pub(crate) mod emit;
mod index;
mod lanes;
mod map;
// Constants stand as they are published.
#[allow(clippy::excessive_precision)]
pub(crate) mod math;
pub(crate) mod ops;
pub(crate) mod point;
pub mod probe;
mod quantise;
mod recur;
pub(crate) mod rows;
pub(crate) mod scope;
mod serial;
mod small;
mod split;
mod taps;
#[cfg(test)]
pub(crate) mod tests;
mod tile;
mod top_k;
mod transpose;
mod weave;
mod winograd;

pub use tile::{choose_tile, choose_tile_of_blocks};

use crate::kernel::{Body, Kernel, Panels};
use crate::object::{self, Image, LinkError};
use crate::target::Target;
use emit::Emit;
use inkwell::OptimizationLevel;
use inkwell::context::Context;
use inkwell::targets::{CodeModel, FileType, RelocMode, TargetMachine, TargetTriple};
use scope::Gen;
use std::cell::RefCell;
use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Once, mpsc};
use taps::Quads;

/// Compiled kernels: the image and the offset of each kernel's entry, in the order of the kernels.
pub type CompiledCode = Image;

/// The object file of one kernel.
type Compiled = Result<Vec<u8>, CompileError>;

/// Why kernels did not become code; each is a mistake of Egret, not of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// LLVM has no code generator for the target.
    #[error("LLVM makes no code for {triple}: {reason}")]
    Machine {
        /// LLVM's triple.
        triple: String,
        /// LLVM's words.
        reason: String,
    },
    /// The emitted function breaks LLVM's rules.
    #[error("this is a bug in egret: the code of a kernel is malformed: {reason}\n{kernel}")]
    Malformed {
        /// The kernel's text.
        kernel: String,
        /// LLVM's words.
        reason: String,
    },
    /// The object could not become part of the image.
    #[error("this is a bug in egret: {source}\n{kernel}")]
    Link {
        /// The kernel's text.
        kernel: String,
        /// What is wrong.
        source: LinkError,
    },
}

/// Compiles kernels on `threads` threads; `progress` is told how many are done.
///
/// # Errors
/// When LLVM refuses a kernel or needs a library for it.
pub fn compile(kernels: &[Kernel], target: &Target, threads: usize, progress: &dyn Fn(usize)) -> Result<CompiledCode, CompileError> {
    prepare();
    let next = AtomicUsize::new(0);
    let (sender, finished) = mpsc::channel();
    let mut objects: Vec<Option<Compiled>> = vec![None; kernels.len()];
    std::thread::scope(|s| {
        for _ in 0..threads.clamp(1, kernels.len().max(1)) {
            let (next, sender) = (&next, sender.clone());
            s.spawn(move || {
                let machine = machine(target);
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(kernel) = kernels.get(i) else { break };
                    let object = machine.as_ref().map_err(Clone::clone).and_then(|m| object_of(kernel, target, m, i));
                    sender.send((i, object)).expect("the receiver outlives the threads");
                }
            });
        }
        drop(sender);
        progress(0);
        for (done, (i, object)) in finished.iter().enumerate() {
            objects[i] = Some(object);
            progress(done + 1);
        }
    });
    let objects: Vec<Vec<u8>> = objects.into_iter().map(|o| o.expect("every kernel was compiled")).collect::<Result<_, _>>()?;
    link(kernels, &objects)
}

/// The image of the objects of kernels.
fn link(kernels: &[Kernel], objects: &[Vec<u8>]) -> Result<CompiledCode, CompileError> {
    let names: Vec<String> = (0..kernels.len()).map(entry_name).collect();
    let inputs: Vec<(&str, &[u8], &str)> = names.iter().zip(objects).map(|(n, o)| (n.as_str(), o.as_slice(), n.as_str())).collect();
    object::link(&inputs).map_err(|source| {
        let culprit = names.iter().position(|n| source.object() == n).unwrap_or(0);
        CompileError::Link { kernel: kernels[culprit].to_string(), source }
    })
}

/// The LLVM IR of a kernel, for people.
///
/// # Errors
/// As [`compile`].
pub fn llvm_text(kernel: &Kernel, target: &Target) -> Result<String, CompileError> {
    prepare();
    let machine = machine(target)?;
    let context = Context::create();
    Ok(emitted(&context, kernel, target, &machine, 0)?.text())
}

/// The assembly of a kernel, for people.
///
/// # Errors
/// As [`compile`].
pub fn asm_text(kernel: &Kernel, target: &Target) -> Result<String, CompileError> {
    prepare();
    let machine = machine(target)?;
    let text = written(kernel, target, &machine, 0, FileType::Assembly)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// What LLVM can make of kernels for people and for other tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// LLVM IR, as text.
    Llvm,
    /// Assembly, as text.
    Assembly,
    /// An object file for a linker, with a function `k0`, `k1`, ... for each kernel.
    Object,
}

/// All kernels together in one form.
///
/// # Errors
/// As [`compile`].
pub fn translate(kernels: &[Kernel], target: &Target, form: Form) -> Result<Vec<u8>, CompileError> {
    prepare();
    let machine = machine(target)?;
    let context = Context::create();
    let whole = context.create_module("kernels");
    whole.set_triple(&TargetTriple::create(target.triple));
    whole.set_data_layout(&machine.get_target_data().get_data_layout());
    for (i, kernel) in kernels.iter().enumerate() {
        let e = emitted(&context, kernel, target, &machine, i)?;
        whole.link_in_module(e.module).map_err(|e| malformed(kernel, e.to_string()))?;
    }
    let kind = match form {
        Form::Llvm => return Ok(whole.print_to_string().to_string().into_bytes()),
        Form::Assembly => FileType::Assembly,
        Form::Object => FileType::Object,
    };
    let all = || kernels.iter().map(|k| k.to_string()).collect::<String>();
    let buffer =
        machine.write_to_memory_buffer(&whole, kind).map_err(|e| CompileError::Malformed { kernel: all(), reason: e.to_string() })?;
    Ok(buffer.as_slice().to_vec())
}

pub(crate) fn entry_name(i: usize) -> String {
    format!("k{i}")
}

fn object_of(kernel: &Kernel, target: &Target, machine: &TargetMachine, i: usize) -> Result<Vec<u8>, CompileError> {
    written(kernel, target, machine, i, FileType::Object)
}

/// What LLVM writes for a kernel.
fn written(kernel: &Kernel, target: &Target, machine: &TargetMachine, i: usize, kind: FileType) -> Result<Vec<u8>, CompileError> {
    let context = Context::create();
    written_module(&emitted(&context, kernel, target, machine, i)?, kernel, machine, kind)
}

/// What LLVM writes for a function that was emitted.
fn written_module(e: &Emit, kernel: &Kernel, machine: &TargetMachine, kind: FileType) -> Result<Vec<u8>, CompileError> {
    let buffer = machine.write_to_memory_buffer(&e.module, kind).map_err(|e| malformed(kernel, e.to_string()))?;
    Ok(buffer.as_slice().to_vec())
}

pub(crate) fn malformed(kernel: &Kernel, reason: String) -> CompileError {
    CompileError::Malformed { kernel: kernel.to_string(), reason }
}

/// Whether a kernel has products of bytes. All others are code without: LLVM 22 finds some by itself, in sums of bytes times a number, and
/// takes one below zero for a byte without a sign.
fn multiplies_bytes(kernel: &Kernel) -> bool {
    match &kernel.body {
        Body::Contract(contracts) => contracts.iter().any(|c| matches!(c.b, Panels::Quads(..))),
        Body::Rows(rows) => rows.lanes_outside && rows.passes.iter().any(|pass| pass.over_row && Quads::of(pass).is_some()),
        Body::Map(_) | Body::Winograd(_) | Body::Chain(_) | Body::Recur(_) | Body::TopK(_) | Body::Serial(_) => false,
    }
}

/// Emits the function of a kernel.
fn emitted<'c>(
    context: &'c Context,
    kernel: &Kernel,
    target: &Target,
    machine: &TargetMachine,
    i: usize,
) -> Result<Emit<'c>, CompileError> {
    CURRENT.with(|c| *c.borrow_mut() = kernel.to_string());
    let own_target = if multiplies_bytes(kernel) { target.clone() } else { target.without_bytes() };
    let e = Emit::new(context, &own_target, &entry_name(i), &machine.get_target_data());
    let with_working = winograd::with_working_buffers(kernel);
    let mut kernel_gen = Gen::new(e, kernel, target.vregs);
    kernel_gen.kernel = &with_working;
    match &kernel.body {
        Body::Map(map) => kernel_gen.pieces(&map.pieces),
        Body::Rows(rows) => kernel_gen.rows(rows),
        Body::Contract(contracts) => contracts.iter().for_each(|c| kernel_gen.contract(c)),
        Body::Winograd(winograd) => kernel_gen.winograd(winograd),
        Body::Chain(chain) => kernel_gen.chain(chain),
        Body::Recur(recur) => kernel_gen.recur(recur),
        Body::TopK(top_k) => kernel_gen.top_k(top_k),
        Body::Serial(serial) => kernel_gen.serial(serial),
    }
    kernel_gen.pieces(&kernel.borders);
    kernel_gen.e.finish();
    kernel_gen.e.verify().map_err(|reason| malformed(kernel, reason))?;
    Ok(kernel_gen.e)
}

pub(crate) fn machine(target: &Target) -> Result<TargetMachine, CompileError> {
    let triple = TargetTriple::create(target.triple);
    let failed = |reason: String| CompileError::Machine { triple: target.triple.to_string(), reason };
    let llvm = inkwell::targets::Target::from_triple(&triple).map_err(|e| failed(e.to_string()))?;
    llvm.create_target_machine(
        &triple,
        target.cpu,
        &target.without_bytes().extra_features(),
        OptimizationLevel::Aggressive,
        RelocMode::PIC,
        CodeModel::Small,
    )
    .ok_or_else(|| failed("no target machine".into()))
}

/// The exit code of a process that met a bug, as of one that panicked.
const BUG: i32 = 101;

thread_local! {
    /// The kernel this thread compiles, for the message below.
    pub(crate) static CURRENT: RefCell<String> = const { RefCell::new(String::new()) };
}

pub(crate) fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        Target::initialize();
        // SAFETY: the handler is a function of this program that lives as long as it does.
        unsafe { inkwell::support::error_handling::install_fatal_error_handler(fatal) };
    });
}

/// LLVM calls this where it could not translate what it was given, and cannot go on: the process ends as for any other bug.
extern "C" fn fatal(message: *const c_char) {
    // SAFETY: LLVM passes a string that ends with a zero byte.
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    let kernel = CURRENT.with(|c| c.try_borrow().map(|k| k.clone()).unwrap_or_default());
    eprintln!("error: this is a bug in egret: LLVM cannot translate a kernel: {message}\n{kernel}");
    std::process::exit(BUG);
}
