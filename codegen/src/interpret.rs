//! Runs a plan with interpreted kernels: what lowering and planning mean, apart from any code.

use crate::interp::{self, Memory};
use crate::kernel::Kernel;
use crate::lower::Data;
use crate::plan::Program;
use crate::winograd::transformed;
use egret_ir::{Bindings, DType, Tensor};
use egret_runtime::plan::{Place, Size};

/// The results of a program for inputs in the order of the graph's parameters, by way of the interpreter of kernels.
///
/// # Errors
/// A sentence, when an input does not fit or a kernel does something that it must not.
pub fn run_interpreted(program: &Program, lanes: usize, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    run_with(program, inputs, &mut |i, sizes, held| interp::run_whole(&program.kernels[i], sizes, lanes, held))
}

/// How a kernel is run: its number, its sizes, and the contents of its buffers, of which it changes those that it writes.
pub type Runner<'a> = dyn FnMut(usize, &Bindings, &mut [Memory]) -> Result<(), String> + 'a;

/// The results of a program by way of `run`, which runs a kernel.
///
/// # Errors
/// A sentence, when an input does not fit or `run` says one.
pub fn run_with(program: &Program, inputs: &[Tensor], run: &mut Runner) -> Result<Vec<Tensor>, String> {
    let plan = &program.plan;
    let symbols = bind(program, inputs)?;
    let size = |s: &Size| s.eval(&symbols).map_err(|e| e.to_string());
    let mut memories: Vec<Option<Memory>> = vec![None; plan.buffers.len()];
    for step in &plan.steps {
        let kernel = &program.kernels[step.kernel as usize];
        let buffers: Vec<u32> = step.reads.iter().chain(&step.writes).copied().collect();
        let mut held = vec![];
        for (&b, wanted) in buffers.iter().zip(&kernel.buffers) {
            held.push(match memories[b as usize].clone() {
                Some(memory) => memory,
                None => initial(program, b, wanted.dtype, inputs, &size)?,
            });
        }
        let values = step.sizes.iter().map(size).collect::<Result<Vec<_>, _>>()?;
        let sizes: Bindings = kernel.sizes().into_iter().zip(values).collect();
        run(step.kernel as usize, &sizes, &mut held).map_err(|e| format!("`{}`: {e}\n{kernel}", step.name))?;
        for (b, memory) in buffers.into_iter().zip(held) {
            memories[b as usize] = Some(memory);
        }
    }
    let output = |port: &egret_runtime::plan::Port| {
        let dtype = dtype_of(port.dtype);
        let memory = match memories[port.buffer as usize].clone() {
            Some(memory) => memory,
            None => initial(program, port.buffer, dtype, inputs, &size)?,
        };
        let shape = port.dims.iter().map(|d| Ok(size(d)? as usize)).collect::<Result<_, String>>()?;
        memory.tensor(shape)
    };
    plan.outputs.iter().map(output).collect()
}

fn dtype_of(dtype: egret_runtime::DType) -> DType {
    DType::named(dtype.name()).expect("both crates have the same element types")
}

/// The numbers of the free symbols.
fn bind(program: &Program, inputs: &[Tensor]) -> Result<Vec<i64>, String> {
    let plan = &program.plan;
    let mut symbols = vec![0; plan.symbols.len()];
    for (port, input) in plan.inputs.iter().zip(inputs) {
        for (dim, &extent) in port.dims.iter().zip(input.shape()) {
            if let Some(symbol) = dim.as_symbol() {
                symbols[symbol as usize] = extent as i64;
            }
        }
    }
    Ok(symbols)
}

/// What a buffer holds before any step writes it; scratch memory holds what must not be used.
fn initial(
    program: &Program,
    buffer: u32,
    dtype: DType,
    inputs: &[Tensor],
    size: &dyn Fn(&Size) -> Result<i64, String>,
) -> Result<Memory, String> {
    let described = &program.plan.buffers[buffer as usize];
    match described.place {
        Place::Input(i) => inputs.get(i as usize).map(Memory::of).ok_or_else(|| format!("input `{}` is missing", described.name)),
        Place::Weights { offset } => {
            let bytes = size(&described.bytes)?;
            let data = program.weights.data().find(|(at, data)| *at == offset && data.bytes() == bytes as u64).map(|(_, data)| data);
            match data.ok_or_else(|| format!("there are no weights at {offset}"))? {
                Data::Tensor(tensor) => Ok(Memory::of(tensor)),
                Data::Packed(packing) => {
                    let (dtype, count) = packing.size();
                    Ok(Memory::of(&Tensor::new(dtype, vec![count], packing.bytes().into())?))
                }
                Data::Blocks(packing) => {
                    let bytes = packing.bytes();
                    Ok(Memory::of(&Tensor::new(dtype, vec![bytes.len()], bytes.into())?))
                }
                Data::Transformed(packing) => {
                    let bytes = transformed(&packing.bytes());
                    Ok(Memory::of(&Tensor::new(dtype, vec![bytes.len() / dtype.size()], bytes.into())?))
                }
            }
        }
        Place::Arena | Place::Private | Place::Output(_) => {
            let count = size(&described.bytes)? as usize / dtype.size();
            let mut memory = Memory::zeros(dtype, count);
            memory.elements.fill(poison(dtype));
            Ok(memory)
        }
    }
}

fn poison(dtype: DType) -> egret_ir::Element {
    use egret_ir::Element;
    match dtype {
        DType::Bool => Element::Bool(true),
        t if t.is_float() => Element::Float(f64::NAN),
        t => Element::Int(0x5a5a_5a5a_5a5a_5a5a).rounded(t),
    }
}

/// The text of every kernel with the values it computes, for people.
pub fn kernels_text(program: &Program) -> String {
    let text = |(i, kernel): (usize, &Kernel)| {
        let steps = program.plan.steps.iter().filter(|s| s.kernel as usize == i);
        let names: Vec<&str> = steps.map(|s| s.name.as_str()).collect();
        format!("{} {} -> {}\n{kernel}\n", program.plan.kernels[i].name, program.plan.kernels[i].text, names.join(", "))
    };
    program.kernels.iter().enumerate().map(text).collect()
}
