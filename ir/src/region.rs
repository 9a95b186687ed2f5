//! Loops and branches: nodes that hold graphs, what has to hold of them, and how they are evaluated.
//!
//! A loop carries values from step to step, and gathers a row per step for each result that grows:
//!
//! ```text
//! last, all = repeat r0[carried=1, found=[steps]](i = trips, going, x, w) : f32[4], f32[steps, 4] {
//!     y    = mul(x, w)         : f32[4]      # x is carried, w is read in every step
//!     more = ...               : bool[]
//!     return more, y, y                      # whether there is another step, the next x, a row of `all`
//! }
//! ```
//!
//! A branch has two regions with the same parameters, of which one is evaluated:
//!
//! ```text
//! y = branch b0[found=[K]](c, x) : f32[K] { ... return a } else { ... return b }
//! ```
//!
//! Invariants. A region reads nothing but its parameters, one per operand, and its constants; every symbol in it stands alone as an extent of
//! a parameter or is found in it, so that a region can be run by itself. A carried parameter has the type of its operand, but for extents that change
//! from step to step: those are symbols of the region's own. An extent of a result is that of every region and operand it may come
//! from, or one of the node's `found`.

use crate::dim::{Bindings, Dim};
use crate::eval::eval;
use crate::graph::Graph;
use crate::op::Op;
use crate::tensor::Tensor;
use crate::ty::{DType, TensorType};
use std::collections::BTreeSet;
use std::sync::Arc;

type Checked = Result<(), String>;

/// Operands of a loop before those that it carries.
pub const LOOP_HEAD: usize = 2;

/// Checks a loop or a branch against its operands, its regions and the types of its results.
///
/// # Errors
/// What does not fit, in a sentence.
pub fn check(op: &Op, operands: &[&TensorType], regions: &[&Graph], results: &[&TensorType]) -> Checked {
    match (op, regions) {
        (Op::repeat { carried, found, .. }, [body]) => check_repeat(*carried, found, operands, body, results),
        (Op::branch { found, .. }, [then, or]) => check_branch(found, operands, [then, or], results),
        _ => Err(format!("`{}` does not have {} regions", op.name(), regions.len())),
    }
    .and_then(|()| regions.iter().try_for_each(|region| check_symbols(region)))
    .map_err(|e| format!("`{}`: {e}", op.name()))
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(message()) }
}

fn check_repeat(carried: usize, found: &[Dim], operands: &[&TensorType], body: &Graph, results: &[&TensorType]) -> Checked {
    let (params, returned) = (types(body, body.params()), types(body, &body.results));
    ensure(operands.len() >= LOOP_HEAD + carried && operands.len() == params.len(), || {
        format!(
            "expects {carried} carried values behind {LOOP_HEAD} operands, and as many operands as parameters, found {}",
            operands.len()
        )
    })?;
    let head = [TensorType::new(DType::I64, [] as [Dim; 0]), TensorType::new(DType::Bool, [] as [Dim; 0])];
    ensure(operands.iter().zip(&head).all(|(found, expected)| *found == expected), || {
        format!("expects i64[] and bool[] first, found {} and {}", operands[0], operands[1])
    })?;
    ensure(returned.first() == Some(&&head[1]) && returned.len() > carried && returned.len() == results.len() + 1, || {
        format!("expects its region to return bool[], {carried} carried values and the rows of the other results")
    })?;
    for (i, (operand, param)) in operands.iter().zip(&params).enumerate() {
        let changes = (LOOP_HEAD..LOOP_HEAD + carried).contains(&i);
        let fits = |(a, b): (&Dim, &Dim)| a == b || changes && b.as_symbol().is_some();
        ensure(alike(operand, param) && operand.dims.iter().zip(&param.dims).all(fits), || {
            format!("operand {i} is {operand}, but the parameter is {param}")
        })?;
    }
    let known = known(operands, found);
    for (i, (next, result)) in returned[1..=carried].iter().zip(results).enumerate() {
        let (operand, param) = (operands[LOOP_HEAD + i], params[LOOP_HEAD + i]);
        let stays = |(a, b): (&Dim, &Dim)| a == b || a.as_symbol().is_some();
        ensure(alike(param, next) && param.dims.iter().zip(&next.dims).all(stays), || {
            format!("carries {param} into a step and {next} out of it")
        })?;
        check_result(result, &[operand, param, next], &known, found)?;
    }
    for (row, result) in returned[1 + carried..].iter().zip(&results[carried..]) {
        let one = TensorType { dtype: result.dtype, dims: result.dims.iter().skip(1).cloned().collect() };
        ensure(result.rank() == row.rank() + 1, || format!("gathers {row}, but the result is {result}"))?;
        check_result(&one, &[row], &known, found)?;
    }
    Ok(())
}

fn check_branch(found: &[Dim], operands: &[&TensorType], regions: [&Graph; 2], results: &[&TensorType]) -> Checked {
    ensure(operands.first().is_some_and(|c| c.dtype == DType::Bool && c.dims.is_empty()), || "expects a condition bool[] first".into())?;
    for region in regions {
        let params = types(region, region.params());
        ensure(params == operands, || {
            let list = |types: &[&TensorType]| types.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(", ");
            format!("is given {}, but a region takes {}", list(operands), list(&params))
        })?;
        ensure(region.results.len() == results.len(), || format!("has {} results, but a region {}", results.len(), region.results.len()))?;
    }
    let known = known(operands, found);
    let [then, or] = regions.map(|region| types(region, &region.results));
    results.iter().zip(then.iter().zip(or)).try_for_each(|(result, (then, or))| check_result(result, &[then, or], &known, found))
}

fn types<'a>(graph: &'a Graph, values: &[crate::graph::ValueId]) -> Vec<&'a TensorType> {
    values.iter().map(|&v| graph.ty(v)).collect()
}

fn alike(a: &TensorType, b: &TensorType) -> bool {
    a.dtype == b.dtype && a.rank() == b.rank()
}

/// The symbols that are known behind a node.
fn known(operands: &[&TensorType], found: &[Dim]) -> BTreeSet<Arc<str>> {
    operands.iter().flat_map(|t| &t.dims).chain(found).flat_map(Dim::symbols).collect()
}

/// A result has the extents of everything that it may come from, or such as are found.
fn check_result(result: &TensorType, sources: &[&TensorType], known: &BTreeSet<Arc<str>>, found: &[Dim]) -> Checked {
    for source in sources {
        let fits = |(a, b): (&Dim, &Dim)| found.contains(a) || a == b && a.symbols().iter().all(|s| known.contains(s));
        ensure(alike(result, source) && result.dims.iter().zip(&source.dims).all(fits), || format!("gives {source} as {result}"))?;
    }
    Ok(())
}

/// Every symbol of a region is an extent of a parameter, or found in it.
fn check_symbols(region: &Graph) -> Checked {
    let told: BTreeSet<&Arc<str>> = types(region, region.params()).into_iter().flat_map(|t| &t.dims).filter_map(Dim::as_symbol).collect();
    match symbols(region).iter().find(|s| !told.contains(s)) {
        Some(loose) => Err(format!("no parameter of its region tells the extent `{loose}`")),
        None => Ok(()),
    }
}

/// The symbols that have to have numbers before a graph can be run, but those that are found in it.
pub fn symbols(graph: &Graph) -> BTreeSet<Arc<str>> {
    let found: BTreeSet<Arc<str>> = graph.nodes().iter().flat_map(|node| node.op.found()).collect();
    let types = graph.values().iter().flat_map(|value| value.ty.dims.iter().flat_map(Dim::symbols));
    let named = graph.nodes().iter().flat_map(|node| node.op.dims()).flat_map(|d| d.symbols());
    let inner = graph.nodes().iter().filter(|node| !node.op.is_control()).flat_map(|node| node.regions()).flat_map(|r| symbols(r));
    types.chain(named).chain(inner).filter(|s| !found.contains(s)).collect()
}

/// The results of a loop or a branch, whose types are `types` where they can be told before; `bindings` has the numbers of the symbols around.
///
/// # Errors
/// Those of the regions.
pub fn run(op: &Op, regions: &[&Graph], operands: &[&Tensor], types: &[&TensorType], bindings: &Bindings) -> Result<Vec<Tensor>, String> {
    match (op, regions) {
        (Op::repeat { carried, .. }, [body]) => repeat(*carried, body, operands, types, bindings),
        (_, [then, or]) => {
            let taken = if operands[0].get(0).as_bool() { then } else { or };
            eval(taken, &operands.iter().map(|&t| t.clone()).collect::<Vec<_>>())
        }
        _ => Err(format!("`{}` does not have {} regions", op.name(), regions.len())),
    }
}

fn repeat(carried: usize, body: &Graph, operands: &[&Tensor], types: &[&TensorType], bindings: &Bindings) -> Result<Vec<Tensor>, String> {
    let mut inputs: Vec<Tensor> = operands.iter().map(|&t| t.clone()).collect();
    let trips = inputs[0].get(0).as_int();
    let mut rows: Vec<Vec<Tensor>> = vec![vec![]; types.len() - carried];
    let mut step: i64 = 0;
    while inputs[1].get(0).as_bool() && i128::from(step) < trips {
        inputs[0] = Tensor::from_i64s(vec![], &[step]);
        let mut made = eval(body, &inputs).map_err(|e| format!("step {step}: {e}"))?.into_iter();
        inputs.iter_mut().skip(1).zip(made.by_ref().take(1 + carried)).for_each(|(input, next)| *input = next);
        rows.iter_mut().zip(made).for_each(|(rows, row)| rows.push(row));
        step += 1;
    }
    let grown = rows.iter().zip(&types[carried..]).map(|(rows, ty)| stacked(rows, ty, bindings));
    inputs.drain(LOOP_HEAD..LOOP_HEAD + carried).map(Ok).chain(grown).collect()
}

/// Rows along a new first axis; of none, the extents that are not known are 0.
fn stacked(rows: &[Tensor], ty: &TensorType, bindings: &Bindings) -> Result<Tensor, String> {
    let extent = |d: &Dim| d.eval(bindings).and_then(|d| usize::try_from(d).ok()).unwrap_or(0);
    let row: Vec<usize> = match rows.first() {
        Some(first) => first.shape().to_vec(),
        None => ty.dims[1..].iter().map(extent).collect(),
    };
    if let Some(other) = rows.iter().find(|other| other.shape() != row) {
        return Err(format!("gathers rows of different shapes, {row:?} and {:?}", other.shape()));
    }
    let bytes: Vec<u8> = rows.iter().flat_map(|row| row.bytes().iter().copied()).collect();
    Tensor::new(ty.dtype, [vec![rows.len()], row].concat(), bytes.into())
}
