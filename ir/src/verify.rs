//! The invariants of a graph, checked: what a pass must keep and an importer must establish.
//!
//! | invariant | message when it does not hold |
//! | --- | --- |
//! | Ids are of this graph | `a node or result names a value that the graph does not have` |
//! | Values have names, each its own | ``the name `h` stands for two values`` |
//! | Extents that are numbers are not negative | `` `h` has the negative extent -1 in f32[-1] `` |
//! | A constant has the type of its data | `` `w` has type f32[2], but its data is f32[3] `` |
//! | Parameters, and nothing else, are listed as such, once | `` the parameter `x` is listed twice `` |
//! | A node stands after the nodes that make its operands | `` `h` = `add` reads `k` before it is made `` |
//! | A node and its results name each other | `` `h` = `add` does not make its result 0, `v` `` |
//! | Origins are sorted, each once | `` the origins of `h` = `add` are not sorted, or one stands there twice `` |
//! | Results have the types that inference gives | `` `h` = `add` has type f32[3], expected f32[2] `` |
//! | An extent that data decides has a symbol that nothing has before | ``the extent `count` is found by `n` = `non_zero`, but `x` has it already`` |
//! | Kernels, stages, loops and branches have regions of their own name, nothing else has one | `` `k` = `kernel` has no region `` |
//! | Loops and branches fit their regions, see [`crate::region`] | `` `y` = `branch`: expects a condition bool[] first `` |
//! | A region is a valid graph itself | `` in the region of `k` = `kernel`: ... `` |
//! | A region's parameters have the operands' types | `` `k` = `kernel`: the operand `y` is f32[3], but the parameter `z` is f32[2] `` |
//! | A region's results are the kernel's, with their types | `` `k` = `kernel` has 1 results, but its region returns 0 `` |
//! | Results have names; in a model each its own | ``two results of the graph are named `y` `` |
//!
//! ```
//! use egret_ir::{text, verify::verify};
//! let mut graph = text::parse("graph g(x: f32[2]) { y = neg(x) return y }")?;
//! assert!(verify(&graph).is_ok());
//! graph.result_names.push("z".into());
//! assert_eq!(verify(&graph).unwrap_err().to_string(), "graph `g`: expected a name for each of the 1 results, found 2");
//! # Ok::<(), text::TextError>(())
//! ```

use crate::dim::Dim;
use crate::graph::{Def, Graph, Node, NodeId, Value, ValueId};
use crate::op::Op;
use crate::region;
use crate::ty::TensorType;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The first invariant that does not hold, as a sentence that names the graph, the node and the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("graph `{graph}`: {message}")]
pub struct Violation {
    /// The graph's name.
    pub graph: String,
    /// What does not hold, and where.
    pub message: String,
}

/// Checks every invariant of the graph, and of the regions of its kernels.
///
/// # Errors
/// The first invariant that does not hold.
pub fn verify(graph: &Graph) -> Result<(), Violation> {
    let checked = body(graph).and_then(|()| unique_result_names(graph));
    checked.map_err(|message| Violation { graph: graph.name.clone(), message })
}

type Checked = Result<(), String>;

/// What holds for models and regions alike.
fn body(graph: &Graph) -> Checked {
    ids_in_range(graph)?;
    values(graph)?;
    params(graph)?;
    found_symbols(graph)?;
    graph.node_ids().try_for_each(|(id, node)| check_node(graph, id, node))?;
    results(graph)
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(message()) }
}

/// Ids of another graph must not be looked up in this one.
fn ids_in_range(graph: &Graph) -> Checked {
    let within = |v: &ValueId| v.index() < graph.values().len();
    let nodes = graph.nodes().iter().flat_map(|n| n.operands.iter().chain(&n.results));
    let mut all = graph.params().iter().chain(&graph.results).chain(nodes);
    ensure(all.all(within), || "a node or result names a value that the graph does not have".into())
}

fn values(graph: &Graph) -> Checked {
    let mut names = HashSet::new();
    for (id, value) in graph.value_ids() {
        let Value { name, ty, def } = value;
        ensure(!name.is_empty(), || format!("a value of type {ty} has no name"))?;
        ensure(names.insert(name), || format!("the name `{name}` stands for two values"))?;
        if let Some(extent) = ty.dims.iter().find(|d| d.as_const().is_some_and(|d| d < 0)) {
            return Err(format!("`{name}` has the negative extent {extent} in {ty}"));
        }
        match def {
            Def::Param => ensure(graph.params().contains(&id), || format!("`{name}` is a parameter, but the graph does not list it"))?,
            Def::Const(data, _) => ensure(data.ty() == *ty, || format!("`{name}` has type {ty}, but its data is {}", data.ty()))?,
            Def::Node(node, slot) => {
                let made = graph.nodes().get(node.index()).and_then(|n| n.results.get(*slot));
                ensure(made == Some(&id), || format!("`{name}` is said to be result {slot} of a node that does not make it"))?;
            }
        }
    }
    Ok(())
}

fn params(graph: &Graph) -> Checked {
    let mut seen = HashSet::new();
    for &param in graph.params() {
        let Value { name, def, .. } = graph.value(param);
        ensure(*def == Def::Param, || format!("`{name}` is listed as a parameter, but it is made in the graph"))?;
        ensure(seen.insert(param), || format!("the parameter `{name}` is listed twice"))?;
    }
    Ok(())
}

/// What an op finds is new: no value that is made before it, and no other op, knows the symbol.
fn found_symbols(graph: &Graph) -> Checked {
    if !graph.nodes().iter().any(|node| node.op.finds_extents()) {
        return Ok(());
    }
    let mut known: HashMap<Arc<str>, Arc<str>> = HashMap::new();
    let learn = |dims: &[Dim], by: &Arc<str>, known: &mut HashMap<Arc<str>, Arc<str>>| {
        known.extend(dims.iter().flat_map(Dim::symbols).map(|s| (s, by.clone())));
    };
    graph.params().iter().map(|&p| graph.value(p)).for_each(|p| learn(&p.ty.dims, &p.name, &mut known));
    for node in graph.nodes() {
        if let Some((symbol, by)) = node.op.found().iter().find_map(|s| known.get_key_value(s)) {
            return Err(format!("the extent `{symbol}` is found by {}, but `{by}` has it already", place(graph, node)));
        }
        if let Some(&result) = node.results.first() {
            learn(&node.op.dims(), &graph.value(result).name, &mut known);
        }
    }
    Ok(())
}

fn check_node(graph: &Graph, id: NodeId, node: &Node) -> Checked {
    let place = || place(graph, node);
    for &operand in &node.operands {
        let made = graph.producer(operand).is_none_or(|maker| maker < id);
        ensure(made, || format!("{} reads `{}` before it is made", place(), graph.value(operand).name))?;
    }
    ensure(!node.results.is_empty(), || format!("{} has no results", place()))?;
    for (slot, &result) in node.results.iter().enumerate() {
        let made = graph.value(result).def == Def::Node(id, slot);
        ensure(made, || format!("{} does not make its result {slot}, `{}`", place(), graph.value(result).name))?;
    }
    ensure(node.origin.is_sorted_by(|a, b| a < b), || format!("the origins of {} are not sorted, or one stands there twice", place()))?;
    match (&node.op, &node.region) {
        (Op::kernel { name } | Op::stage { name }, Some(inner)) => region_fits(graph, node, name, inner),
        (Op::kernel { .. } | Op::stage { .. }, None) => Err(format!("{} has no region", place())),
        (Op::repeat { name, .. } | Op::branch { name, .. }, Some(_)) => control(graph, node, name),
        (_, Some(_)) => Err(format!("{} has a region, but only kernels, stages, loops and branches may", place())),
        (_, None) => inferred(graph, node),
    }
}

/// `` `y` = `add` ``: how messages name a node.
fn place(graph: &Graph, node: &Node) -> String {
    let names: Vec<String> = node.results.iter().map(|&r| format!("`{}`", graph.value(r).name)).collect();
    format!("{} = `{}`", names.join(", "), node.op.name())
}

/// The types are those of inference.
fn inferred(graph: &Graph, node: &Node) -> Checked {
    let operands: Vec<&TensorType> = node.operands.iter().map(|&v| graph.ty(v)).collect();
    let expected = node.op.infer(&operands).map_err(|e| format!("{}: {e}", place(graph, node)))?;
    let found = node.results.len();
    ensure(found == expected.len(), || format!("{} has {found} results, expected {}", place(graph, node), expected.len()))?;
    for (&result, expected) in node.results.iter().zip(&expected) {
        let found = graph.ty(result);
        ensure(found == expected, || format!("{} has type {found}, expected {expected}", place(graph, node)))?;
    }
    Ok(())
}

/// The region of a kernel fits it, and is a valid graph.
fn region_fits(graph: &Graph, node: &Node, kernel: &str, region: &Graph) -> Checked {
    let place = || place(graph, node);
    ensure(region.name == kernel, || format!("{} is named `{kernel}`, but its region `{}`", place(), region.name))?;
    let (operands, params) = (node.operands.len(), region.params().len());
    ensure(operands == params, || format!("{} has {operands} operands, but its region {params} parameters", place()))?;
    body(region).map_err(|e| format!("in the region of {}: {e}", place()))?;
    for (&operand, &param) in node.operands.iter().zip(region.params()) {
        let (operand, param) = (graph.value(operand), region.value(param));
        ensure(operand.ty == param.ty, || {
            format!("{}: the operand `{}` is {}, but the parameter `{}` is {}", place(), operand.name, operand.ty, param.name, param.ty)
        })?;
    }
    let (outer, inner) = (node.results.len(), region.results.len());
    ensure(outer == inner, || format!("{} has {outer} results, but its region returns {inner}", place()))?;
    for (&outer, &inner) in node.results.iter().zip(&region.results) {
        let (outer, inner) = (graph.value(outer), region.value(inner));
        ensure(outer.ty == inner.ty, || format!("{}: `{}` is {}, but the region returns {}", place(), outer.name, outer.ty, inner.ty))?;
    }
    Ok(())
}

/// The regions of a loop or a branch fit it, and are valid graphs.
fn control(graph: &Graph, node: &Node, name: &str) -> Checked {
    let place = || place(graph, node);
    for inner in node.regions() {
        ensure(inner.name == name, || format!("{} is named `{name}`, but a region of it `{}`", place(), inner.name))?;
        body(inner).map_err(|e| format!("in a region of {}: {e}", place()))?;
    }
    let types = |values: &[ValueId]| values.iter().map(|&v| graph.ty(v)).collect::<Vec<_>>();
    let regions: Vec<&Graph> = node.regions().map(|region| &**region).collect();
    region::check(&node.op, &types(&node.operands), &regions, &types(&node.results)).map_err(|e| format!("{}: {e}", place()))
}

fn results(graph: &Graph) -> Checked {
    let (results, names) = (graph.results.len(), graph.result_names.len());
    ensure(results == names, || format!("expected a name for each of the {results} results, found {names}"))
}

/// A program asks a model for its results by name; the results of a region are read by position.
fn unique_result_names(graph: &Graph) -> Checked {
    let mut seen = HashSet::new();
    graph.result_names.iter().try_for_each(|name| ensure(seen.insert(name), || format!("two results of the graph are named `{name}`")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;
    use crate::text::parse;

    const TEXT: &str = r#"
        graph g(x: f32[2], y: f32[3]) {
            const w: f32[2] = [1, 2]
            h = add(x, w) @ "a", "b"
            v, i = top_k[axis=0, k=1](h)
            k = kernel k0(h, z = x) { s = mul(h, z) return s }
            return k, v, i
        }"#;

    /// Breaks the graph and compares the verifier's sentence.
    fn check(expected: &str, breaks: impl FnOnce(&mut Graph)) {
        let mut graph = parse(TEXT).unwrap();
        assert_eq!(verify(&graph), Ok(()));
        breaks(&mut graph);
        assert_eq!(verify(&graph).unwrap_err().to_string(), format!("graph `g`: {expected}"));
    }

    fn id(graph: &Graph, name: &str) -> ValueId {
        graph.find(name).unwrap()
    }

    fn ty(text: &str) -> TensorType {
        let graph = parse(&format!("graph t(x: {text}) {{ return x }}")).unwrap();
        graph.values()[0].ty.clone()
    }

    /// Edits the region of the kernel.
    fn in_region(graph: &mut Graph, edit: impl FnOnce(&mut Graph)) {
        let node = &mut graph.raw().nodes[2];
        let mut region = (**node.region.as_ref().unwrap()).clone();
        edit(&mut region);
        node.region = Some(Arc::new(region));
    }

    #[test]
    fn values_are_well_formed() {
        check("the name `h` stands for two values", |g| g.raw().values[4].name = "h".into());
        check("a value of type f32[2] has no name", |g| g.raw().values[0].name = "".into());
        check("`x` has the negative extent -1 in f32[-1]", |g| g.raw().values[0].ty = TensorType::new(crate::DType::F32, [-1]));
        check("`w` has type f32[2], but its data is f32[3]", |g| {
            let w = id(g, "w").index();
            g.raw().values[w].def = Def::Const(Tensor::from_f32s(vec![3], &[0.0; 3]).into(), crate::Source::Data);
        });
        check("a node or result names a value that the graph does not have", |g| {
            let other =
                parse("graph t(a: f32[], b: f32[], c: f32[], d: f32[], e: f32[], f: f32[], g: f32[], h: f32[]) { return h }").unwrap();
            g.results[0] = other.results[0];
        });
    }

    #[test]
    fn parameters_are_listed_once() {
        check("`y` is a parameter, but the graph does not list it", |g| g.raw().params.truncate(1));
        check("the parameter `x` is listed twice", |g| {
            let x = id(g, "x");
            g.raw().params.push(x);
        });
        check("`h` is listed as a parameter, but it is made in the graph", |g| {
            let h = id(g, "h");
            g.raw().params.push(h);
        });
    }

    #[test]
    fn nodes_stand_in_order_and_own_their_results() {
        check("`h` = `add` reads `k` before it is made", |g| {
            let k = id(g, "k");
            g.raw().nodes[0].operands[1] = k;
        });
        check("`v` is said to be result 0 of a node that does not make it", |g| g.raw().nodes[1].results.swap(0, 1));
        check("`h`, `v` = `add` does not make its result 1, `v`", |g| {
            let v = id(g, "v");
            g.raw().nodes[0].results.push(v);
        });
        check("the origins of `h` = `add` are not sorted, or one stands there twice", |g| g.raw().nodes[0].origin.reverse());
    }

    #[test]
    fn types_are_those_of_inference() {
        check("`h` = `add` has type f32[3], expected f32[2]", |g| {
            let h = id(g, "h").index();
            g.raw().values[h].ty = ty("f32[3]");
        });
        let mut graph = parse(TEXT).unwrap();
        let y = id(&graph, "y");
        graph.raw().nodes[0].operands[1] = y;
        let message = verify(&graph).unwrap_err().to_string();
        assert!(message.starts_with("graph `g`: `h` = `add`: `add`"), "{message}");
    }

    #[test]
    fn regions_fit_their_kernels() {
        check("`k` = `kernel` has no region", |g| g.raw().nodes[2].region = None);
        check("`h` = `add` has a region, but only kernels, stages, loops and branches may", |g| {
            g.raw().nodes[0].region = Some(Arc::default())
        });
        check("`k` = `kernel` is named `k0`, but its region `k1`", |g| in_region(g, |r| r.name = "k1".into()));
        check("`k` = `kernel` has 1 operands, but its region 2 parameters", |g| g.raw().nodes[2].operands.truncate(1));
        check("`k` = `kernel` has 1 results, but its region returns 0", |g| {
            in_region(g, |r| {
                r.results.clear();
                r.result_names.clear();
            })
        });
        check("`k` = `kernel`: the operand `y` is f32[3], but the parameter `z` is f32[2]", |g| {
            let y = id(g, "y");
            g.raw().nodes[2].operands[1] = y;
        });
        check("`k` = `kernel`: `k` is f32[3], but the region returns f32[2]", |g| {
            let k = id(g, "k").index();
            g.raw().values[k].ty = ty("f32[3]");
        });
        check("in the region of `k` = `kernel`: `s` = `mul` reads `s` before it is made", |g| {
            in_region(g, |r| {
                let s = id(r, "s");
                r.raw().nodes[0].operands[0] = s;
            })
        });
    }

    #[test]
    fn what_is_found_is_new() {
        let text = "graph g(x: bool[N], y: f32[K]) { i = non_zero[count = K](x) return i }";
        let error = verify(&parse(text).unwrap()).unwrap_err();
        assert_eq!(error.message, "the extent `K` is found by `i` = `non_zero`, but `y` has it already");
        let twice = "graph g(x: bool[N]) { i = non_zero[count = K](x) j = non_zero[count = K](x) return i, j }";
        let error = verify(&parse(twice).unwrap()).unwrap_err();
        assert_eq!(error.message, "the extent `K` is found by `j` = `non_zero`, but `i` has it already");
    }

    #[test]
    fn results_have_names_of_their_own() {
        check("expected a name for each of the 3 results, found 2", |g| g.result_names.truncate(2));
        check("two results of the graph are named `k`", |g| g.result_names[1] = "k".into());
    }
}
