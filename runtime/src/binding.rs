//! What follows from the values of the free dimensions: shapes, kernel arguments, and where each buffer lies.
//!
//! **Invariant.** A [`Binding`] is computed once per distinct binding of the symbols; a run afterwards only reads it. Every spot
//! of a binding lies inside the arena, input, output or weights it refers to.

use crate::cpu::Spot;
use crate::error::{Error, FileProblem, Result};
use crate::memory::{MemoryMap, buffer_bytes, step_parts};
use crate::plan::{DType, Place, Plan, Port, SLACK};
use crate::tensor::{TensorView, byte_length};

/// Everything a run needs that depends on the free dimensions.
pub(crate) struct Binding {
    /// The values of the symbols.
    pub symbols: Vec<i64>,
    /// The shape each input must have.
    pub input_shapes: Vec<Vec<usize>>,
    /// The shape each output will have.
    pub output_shapes: Vec<Vec<usize>>,
    /// Where each buffer lies.
    pub spots: Vec<Spot>,
    /// Length of the arena in bytes; never 0, so that an empty buffer has an address too.
    pub arena_bytes: u64,
    /// The size arguments of all steps, one behind the other.
    pub sizes: Vec<i64>,
    /// The number of parts of each step.
    pub parts: Vec<u32>,
    /// When it was last used, in runs of the session.
    pub last_used: u64,
}

impl Binding {
    /// Binds the symbols of a checked plan, for a number of threads and an alignment of what lies in the arena.
    pub(crate) fn new(plan: &Plan, symbols: &[i64], threads: usize, align: u64) -> Result<Binding> {
        Binding::evaluate(plan, symbols, threads, align).map_err(|problem| bind_error(plan, symbols, problem))
    }

    fn evaluate(plan: &Plan, symbols: &[i64], threads: usize, align: u64) -> Result<Binding, String> {
        let shapes = |ports: &[Port], kind: &str| -> Result<Vec<Vec<usize>>, String> {
            ports.iter().map(|port| port_shape(port, kind, symbols)).collect()
        };
        check_requirements(plan, symbols)?;
        let input_shapes = shapes(&plan.inputs, "input")?;
        let output_shapes = shapes(&plan.outputs, "output")?;
        let bytes = buffer_bytes(plan, symbols, threads)?;
        check_ports(&plan.inputs, &input_shapes, &bytes)?;
        check_ports(&plan.outputs, &output_shapes, &bytes)?;
        let map = MemoryMap::aligned(plan, symbols, threads, align)?;
        let mut sizes = Vec::new();
        for step in &plan.steps {
            for size in &step.sizes {
                sizes.push(size.eval(symbols).map_err(|e| format!("step `{}`: {e}", step.name))?);
            }
        }
        Ok(Binding {
            symbols: symbols.to_vec(),
            spots: spots(plan, &map, &input_shapes, &output_shapes, &bytes)?,
            input_shapes,
            output_shapes,
            arena_bytes: map.arena_bytes.max(SLACK as u64),
            sizes,
            parts: step_parts(plan, symbols, threads)?,
            last_used: 0,
        })
    }
}

/// A problem with a binding is the caller's if there was something to bind, and the file's otherwise.
fn bind_error(plan: &Plan, symbols: &[i64], problem: String) -> Error {
    if symbols.is_empty() {
        return Error::Artifact { path: plan.model.clone(), problem: FileProblem::Plan(problem) };
    }
    Error::Usage(format!("{} {problem}", plan.with(symbols)))
}

/// What the kernels rely on holds for these values.
pub(crate) fn check_requirements(plan: &Plan, symbols: &[i64]) -> Result<(), String> {
    for requirement in &plan.requirements {
        let eval = |size: &crate::plan::Size| size.eval(symbols).map_err(|e| format!("{}: {e}", requirement.text));
        let (left, right) = (eval(&requirement.left)?, eval(&requirement.right)?);
        if left > right || requirement.equal && left < right {
            return Err(requirement.text.clone());
        }
    }
    Ok(())
}

/// The extents of a port.
pub(crate) fn port_shape(port: &Port, kind: &str, symbols: &[i64]) -> Result<Vec<usize>, String> {
    let extent = |(dim, text): (&crate::plan::Size, &String)| {
        let place = || format!("dimension `{text}` of {kind} `{}`", port.name);
        let value = dim.eval(symbols).map_err(|e| format!("{}: {e}", place()))?;
        usize::try_from(value).map_err(|_| format!("{} would be {value}", place()))
    };
    port.dims.iter().zip(&port.dim_text).map(extent).collect()
}

/// A port and the buffer behind it have the same number of bytes.
fn check_ports(ports: &[Port], shapes: &[Vec<usize>], bytes: &[u64]) -> Result<(), String> {
    for (port, shape) in ports.iter().zip(shapes) {
        let expected = port_bytes(port.dtype, shape)?;
        let found = bytes[port.buffer as usize];
        if expected != found {
            return Err(format!("`{}` has {expected} bytes, its buffer {found}", port.name));
        }
    }
    Ok(())
}

fn port_bytes(dtype: DType, shape: &[usize]) -> Result<u64, String> {
    byte_length(dtype, shape).map(|bytes| bytes as u64).map_err(|e| e.to_string())
}

/// Where each buffer lies. Several buffers may name the same input or output, but none may reach beyond it.
fn spots(plan: &Plan, map: &MemoryMap, inputs: &[Vec<usize>], outputs: &[Vec<usize>], bytes: &[u64]) -> Result<Vec<Spot>, String> {
    let inside = |index: u32, ports: &[Port], shapes: &[Vec<usize>], id: usize| -> Result<usize, String> {
        let index = index as usize;
        let room = port_bytes(ports[index].dtype, &shapes[index])?;
        match bytes[id] <= room {
            true => Ok(index),
            false => Err(format!("buffer `{}` reaches beyond `{}`", plan.buffers[id].name, ports[index].name)),
        }
    };
    let spot = |id: usize| match plan.buffers[id].place {
        // A buffer that no step touches has no offset and needs none.
        Place::Arena | Place::Private => Ok(Spot::Arena(map.offsets[id].unwrap_or(0) as usize)),
        Place::Input(index) => inside(index, &plan.inputs, inputs, id).map(Spot::Input),
        Place::Output(index) => inside(index, &plan.outputs, outputs, id).map(Spot::Output),
        Place::Weights { offset } => Ok(Spot::Weights(offset as usize)),
    };
    (0..plan.buffers.len()).map(spot).collect()
}

/// Reads the values of the symbols off the shapes of the inputs, which are in the order of the plan's.
///
/// A dimension that is a bare symbol binds it; two that disagree are an error that names both. Other dimensions are left
/// to [`check_shape`]. Allocates nothing unless it fails.
pub(crate) fn bind_symbols<'v>(plan: &Plan, values: &mut [i64], input: impl Fn(usize) -> TensorView<'v>) -> Result<()> {
    values.fill(UNBOUND);
    for (index, port) in plan.inputs.iter().enumerate() {
        let shape = input(index).shape();
        if shape.len() != port.dims.len() {
            return Err(rank_error(port, shape));
        }
        for (axis, dim) in port.dims.iter().enumerate() {
            let Some(symbol) = dim.as_symbol() else {
                continue;
            };
            let found = shape[axis] as i64;
            let bound = &mut values[symbol as usize];
            if *bound != UNBOUND && *bound != found {
                return Err(conflict(plan, symbol, *bound, (index, axis, found)));
            }
            *bound = found;
            check_range(plan, symbol, found, || format!(" in input `{}` (axis {axis})", port.name))?;
        }
    }
    Ok(())
}

/// The value of a symbol is one of those that the model was compiled for.
pub(crate) fn check_range(plan: &Plan, symbol: u32, value: i64, place: impl Fn() -> String) -> Result<()> {
    let Some(range) = plan.ranges.get(symbol as usize).filter(|range| !range.contains(value)) else { return Ok(()) };
    let name = &plan.symbols[symbol as usize];
    Err(Error::Usage(format!("dimension `{name}` is {value}{}; the model was compiled for {name}={range}", place())))
}

/// Marks a symbol that has no value yet; extents are never negative.
const UNBOUND: i64 = -1;

fn rank_error(port: &Port, shape: &[usize]) -> Error {
    Error::Usage(format!(
        "input `{}` is {port}, which has {} dimensions; found {shape:?}, which has {}",
        port.name,
        port.dims.len(),
        shape.len()
    ))
}

/// Names the symbol, the input that bound it, and the input that disagrees.
fn conflict(plan: &Plan, symbol: u32, bound: i64, (index, axis, found): (usize, usize, i64)) -> Error {
    let binder = |port: &Port| port.dims.iter().position(|dim| dim.as_symbol() == Some(symbol));
    let first = plan.inputs.iter().find_map(|port| binder(port).map(|axis| (&port.name, axis)));
    let (first, first_axis) = first.unwrap_or((&plan.inputs[index].name, axis));
    Error::Usage(format!(
        "dimension `{}` is {bound} in input `{first}` (axis {first_axis}) but {found} in input `{}` (axis {axis}); they must agree",
        plan.symbols[symbol as usize], plan.inputs[index].name
    ))
}

/// Checks type and shape of an input against what the binding asks for.
pub(crate) fn check_input(port: &Port, expected: &[usize], found: TensorView<'_>) -> Result<()> {
    if found.dtype() != port.dtype {
        return Err(Error::Usage(format!("input `{}` is {port}; found elements of type {}", port.name, found.dtype())));
    }
    check_shape(port, expected, found.shape())
}

fn check_shape(port: &Port, expected: &[usize], found: &[usize]) -> Result<()> {
    let differs = expected.iter().zip(found).position(|(expected, found)| expected != found);
    let Some(axis) = differs else { return Ok(()) };
    let text = &port.dim_text[axis];
    let value = expected[axis].to_string();
    let meaning = if *text == value { value } else { format!("{text} = {value}") };
    Err(Error::Usage(format!("input `{}` is {port}; found {found:?}, where axis {axis} is {} and not {meaning}", port.name, found[axis])))
}
