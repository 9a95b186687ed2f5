//! Emitted PTX in the emulator against the interpreter of the kernel IR.

mod emulator;
mod groups;
mod matrix;
mod models;
mod mutations;
mod storage;
mod strips;
mod text;

use super::emu::Device;
use super::*;
use crate::cpu::tests::{Within, close};
use crate::interp::{Memory, run_whole};
use crate::kernel::Body;
use egret_ir::Bindings;

/// The target that tests compile for.
fn target() -> Target {
    Target::named("cuda:sm_80").unwrap()
}

/// How far products may be from the interpreter's, whose sums run in order: those of few rows are summed by many threads.
const PRODUCTS: f64 = 1e-5;

/// Compares a kernel in the emulator with the interpreter; what cannot be lowered yet is left out, since that is an error.
pub(crate) fn check(kernel: &Kernel, sizes: &Bindings, buffers: &[Memory], within: Within) {
    let within = if matches!(kernel.body, Body::Contract(_)) { Within::Relative(PRODUCTS) } else { within };
    let target = target();
    let code = match compile(std::slice::from_ref(kernel), &target) {
        Err(CudaError::Uncovered(_)) => return,
        other => other.unwrap_or_else(|e| panic!("{e}")),
    };
    let (mut expected, mut found) = (buffers.to_vec(), buffers.to_vec());
    run_whole(kernel, sizes, target.lanes, &mut expected).unwrap_or_else(|e| panic!("{e}\n{kernel}"));
    let device = Device::new(&code, 1).unwrap_or_else(|e| panic!("{e}\n{}", code.ptx));
    device.run(0, kernel, sizes, &mut found).unwrap_or_else(|e| panic!("{e}\n{kernel}\n{}", code.ptx));
    for ((found, expected), buffer) in found.iter().zip(&expected).zip(&kernel.buffers) {
        let wrong = found.elements.iter().zip(&expected.elements).position(|(f, e)| !close(*f, *e, within));
        if let Some(i) = wrong {
            let (f, e) = (found.elements[i], expected.elements[i]);
            panic!("`{}`[{i}] is {f:?}, expected {e:?}, sizes {sizes:?}\n{kernel}\n{}", buffer.name, code.ptx);
        }
    }
}
