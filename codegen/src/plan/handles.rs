//! Strings on their way to kernels: their handles are numbers there.
//!
//! ```text
//! const k: str[2] = ["a", "b"]           const k: u64[2] = [17..., 5...]
//! y = eq(x, k) : bool[2]            =>   y = eq(x, k) : bool[2]                 x: str[2]  =>  x: u64[2]
//! ```
//!
//! Invariant: what a graph does with strings between ops that make some is move and compare them, so that the graph of handles means the
//! same; ports of a plan keep the type `str`.

use egret_ir::{Copy, DType, Graph, Op, Tensor, TensorType};
use egret_runtime::plan::{DType as PlanType, Port};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The graph with handles in place of strings.
///
/// # Errors
/// Only if a node does not type-check, which would be a bug of an earlier pass.
pub(super) fn plain(graph: &Graph) -> Result<Cow<'_, Graph>, String> {
    if !has_strings(graph) {
        return Ok(Cow::Borrowed(graph));
    }
    let mut copy = Copy::new(graph, number);
    for (id, value) in graph.constants().filter(|(_, value)| value.ty.dtype == DType::Str) {
        let Some(strings) = graph.constant(id) else { continue };
        let numbers = Tensor::new(DType::U64, strings.shape().to_vec(), strings.bytes().clone())?;
        let numbers = copy.new.add_const(&value.name, numbers);
        copy.set(id, numbers);
    }
    for node in graph.nodes() {
        let op = match &node.op {
            Op::cast { to: DType::Str } => Op::cast { to: DType::U64 },
            Op::bit_cast { to: DType::Str } => Op::bit_cast { to: DType::U64 },
            op => op.clone(),
        };
        copy.node_with(node, op, |region| plain(region).map(Cow::into_owned))?;
    }
    Ok(Cow::Owned(copy.finish()))
}

fn has_strings(graph: &Graph) -> bool {
    graph.values().iter().any(|value| value.ty.dtype == DType::Str)
        || graph.nodes().iter().flat_map(|node| node.regions()).any(|region| has_strings(region))
}

fn number(ty: &TensorType) -> TensorType {
    if ty.dtype == DType::Str { ty.with_dtype(DType::U64) } else { ty.clone() }
}

/// Gives ports back the types of the graph.
pub(super) fn retype<'a>(ports: &mut [Port], types: impl Iterator<Item = &'a TensorType>) {
    ports.iter_mut().zip(types).filter(|(_, ty)| ty.dtype == DType::Str).for_each(|(port, _)| port.dtype = PlanType::Str);
}

/// The strings that constants of a graph hold, those of its regions among them, in the order of the alphabet.
///
/// # Errors
/// When a handle stands for no string.
pub(super) fn strings(graph: &Graph) -> Result<Vec<String>, String> {
    let mut found = BTreeSet::new();
    collect(graph, &mut found)?;
    Ok(found.iter().map(|text| text.to_string()).collect())
}

fn collect(graph: &Graph, found: &mut BTreeSet<Arc<str>>) -> Result<(), String> {
    for (id, value) in graph.constants().filter(|(_, value)| value.ty.dtype == DType::Str) {
        let texts = graph.constant(id).map_or(Ok(vec![]), |tensor| tensor.texts());
        found.extend(texts.map_err(|problem| format!("the constant `{}`: {problem}", value.name))?);
    }
    graph.nodes().iter().flat_map(|node| node.regions()).try_for_each(|region| collect(region, found))
}
