//! Evaluates a whole graph by the reference semantics of its ops: the specification that compiled code is measured against.
//!
//! Symbols take their numbers from the shapes of the inputs, and from the ops that find them in data. A value is dropped after its last use, so evaluation holds no
//! more tensors at a time than the graph keeps alive.
//!
//! ```
//! use egret_ir::{DType, Dim, Graph, Op, Tensor, TensorType, eval::eval};
//! let mut g = Graph::new("double");
//! let x = g.add_param("x", TensorType::new(DType::F32, [Dim::symbol("N")]));
//! let y = g.add("y", Op::add, &[x, x]).unwrap();
//! g.add_result(y, "y");
//! let y = eval(&g, &[Tensor::from_f32s(vec![2], &[1.0, 2.0])]).unwrap();
//! assert_eq!(y, [Tensor::from_f32s(vec![2], &[2.0, 4.0])]);
//! ```

use crate::dim::{Bindings, Dim};
use crate::graph::{Def, Graph, Node, ValueId, bind_op};
use crate::region;
use crate::tensor::Tensor;
use crate::ty::TensorType;

/// The graph's results for inputs in the order of its parameters.
///
/// # Errors
/// When an input does not have its parameter's type, or a node cannot be evaluated; names the value.
pub fn eval(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let mut bindings = bind_symbols(graph, inputs)?;
    results(graph, inputs, &mut bindings)
}

/// The tensor of every value of the graph, in the order of [`Graph::values`].
///
/// # Errors
/// As [`eval`].
pub fn eval_values(graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let mut bindings = bind_symbols(graph, inputs)?;
    let mut frame = Frame::new(graph, inputs);
    graph.nodes().iter().try_for_each(|node| frame.step(node, &mut bindings))?;
    Ok(graph.value_ids().map(|(id, _)| frame.get(id).clone()).collect())
}

/// The numbers of the graph's symbols for inputs of these shapes.
///
/// # Errors
/// When an input does not have its parameter's element type and rank, or an extent does not fit; names the parameter.
pub fn bind_symbols(graph: &Graph, inputs: &[Tensor]) -> Result<Bindings, String> {
    if inputs.len() != graph.params().len() {
        return Err(format!("`{}` takes {} inputs, found {}", graph.name, graph.params().len(), inputs.len()));
    }
    let params = || graph.params().iter().map(|&p| graph.value(p)).zip(inputs);
    if let Some((param, input)) = params().find(|(p, x)| p.ty.dtype != x.dtype() || p.ty.rank() != x.shape().len()) {
        return Err(format!("input `{}` is {}, expected {}", param.name, input.ty(), param.ty));
    }
    let mut bindings = Bindings::new();
    // A symbol that stands alone first: it may stand in a sum or product elsewhere.
    for solve in [solve_symbol, solve_linear] {
        for (dim, &extent) in params().flat_map(|(p, x)| p.ty.dims.iter().zip(x.shape())) {
            solve(dim, extent as i64, &mut bindings);
        }
    }
    for (param, input) in params() {
        for (axis, (dim, &extent)) in param.ty.dims.iter().zip(input.shape()).enumerate() {
            match dim.eval(&bindings) {
                Some(expected) if expected == extent as i64 => {}
                Some(expected) => {
                    return Err(format!("input `{}` has extent {extent} on axis {axis}, expected {dim} = {expected}", param.name));
                }
                None => {
                    return Err(format!(
                        "input `{}` has extent {extent} on axis {axis}, which does not tell the symbols of {dim}",
                        param.name
                    ));
                }
            }
        }
    }
    Ok(bindings)
}

fn solve_symbol(dim: &Dim, extent: i64, bindings: &mut Bindings) {
    if let Some(symbol) = dim.as_symbol() {
        bindings.entry(symbol.clone()).or_insert(extent);
    }
}

/// Gives symbols the numbers that were found for them.
fn bind_found(dims: &[Dim], found: &Tensor, bindings: &mut Bindings) -> Result<(), String> {
    for (dim, &extent) in dims.iter().zip(found.shape()) {
        solve_symbol(dim, extent as i64, bindings);
        if dim.eval(bindings) != Some(extent as i64) {
            return Err(format!("finds {extent}, expected {dim}"));
        }
    }
    Ok(())
}

/// From `a*s + b = extent`, where `s` is the only symbol without a number.
fn solve_linear(dim: &Dim, extent: i64, bindings: &mut Bindings) {
    let rest = dim.bind(bindings);
    let symbols = rest.symbols();
    let Some(symbol) = symbols.first().filter(|_| symbols.len() == 1) else { return };
    let Some((coefficient, offset)) = rest.linear_in(symbol) else { return };
    if let (Some(a), Some(b)) = (coefficient.as_const(), offset.as_const())
        && (extent - b) % a == 0
    {
        bindings.insert(symbol.clone(), (extent - b) / a);
    }
}

fn results(graph: &Graph, inputs: &[Tensor], bindings: &mut Bindings) -> Result<Vec<Tensor>, String> {
    let mut frame = Frame::new(graph, inputs);
    let dead_after = dead_after(graph);
    for (node, dead) in graph.nodes().iter().zip(dead_after) {
        frame.step(node, bindings)?;
        dead.into_iter().for_each(|v| frame.tensors[v.index()] = None);
    }
    Ok(graph.results.iter().map(|&r| frame.get(r).clone()).collect())
}

/// Per node, the values that nothing reads later.
fn dead_after(graph: &Graph) -> Vec<Vec<ValueId>> {
    let mut needed = vec![false; graph.values().len()];
    graph.results.iter().for_each(|r| needed[r.index()] = true);
    let mut dead = vec![vec![]; graph.nodes().len()];
    for (id, node) in graph.node_ids().rev() {
        for &value in node.operands.iter().chain(&node.results) {
            if !std::mem::replace(&mut needed[value.index()], true) {
                dead[id.index()].push(value);
            }
        }
    }
    dead
}

/// The values that are known so far.
struct Frame<'a> {
    graph: &'a Graph,
    tensors: Vec<Option<Tensor>>,
}

impl<'a> Frame<'a> {
    fn new(graph: &'a Graph, inputs: &[Tensor]) -> Frame<'a> {
        let constant = |value: &crate::graph::Value| match &value.def {
            Def::Const(tensor, _) => Some((**tensor).clone()),
            Def::Param | Def::Node(..) => None,
        };
        let mut tensors: Vec<Option<Tensor>> = graph.values().iter().map(constant).collect();
        graph.params().iter().zip(inputs).for_each(|(p, x)| tensors[p.index()] = Some(x.clone()));
        Frame { graph, tensors }
    }

    fn get(&self, value: ValueId) -> &Tensor {
        self.tensors[value.index()].as_ref().expect("values are made before they are read, which `verify` checks")
    }

    /// Evaluates a node; the extents that it finds are bound.
    fn step(&mut self, node: &Node, bindings: &mut Bindings) -> Result<(), String> {
        let operands: Vec<&Tensor> = node.operands.iter().map(|&v| self.get(v)).collect();
        let computed = match &node.region {
            Some(_) if node.op.is_control() => self.control(node, &operands, bindings),
            Some(region) => results(region, &operands.into_iter().cloned().collect::<Vec<_>>(), bindings),
            None => bind_op(&node.op, bindings).and_then(|op| op.eval(&operands)),
        };
        let computed = computed.map_err(|e| format!("`{}`: {e}", self.name(node)))?;
        if node.op.finds_extents() {
            let types = node.results.iter().map(|&r| self.graph.ty(r));
            types
                .zip(&computed)
                .try_for_each(|(ty, tensor)| bind_found(&ty.dims, tensor, bindings))
                .map_err(|e| format!("`{}`: {e}", self.name(node)))?;
        }
        node.results.iter().zip(computed).for_each(|(r, tensor)| self.tensors[r.index()] = Some(tensor));
        Ok(())
    }

    /// Evaluates the regions of a loop or a branch; their symbols take their numbers from the operands.
    fn control(&self, node: &Node, operands: &[&Tensor], bindings: &Bindings) -> Result<Vec<Tensor>, String> {
        let regions: Vec<&Graph> = node.regions().map(|region| &**region).collect();
        let types: Vec<&TensorType> = node.results.iter().map(|&r| self.graph.ty(r)).collect();
        region::run(&node.op, &regions, operands, &types, bindings)
    }

    fn name(&self, node: &Node) -> &str {
        node.results.first().map_or(node.op.name(), |&r| &self.graph.value(r).name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Op;
    use crate::ty::DType;

    fn floats(values: &[f32]) -> Tensor {
        Tensor::from_f32s(vec![values.len()], values)
    }

    /// y = relu(x) + x over f32[dims], and the sum as a second result.
    fn graph(dims: &[Dim]) -> Graph {
        let mut g = Graph::new("g");
        let x = g.add_param("x", TensorType::new(DType::F32, dims.iter().cloned()));
        let r = g.add("r", Op::relu, &[x]).unwrap();
        let y = g.add("y", Op::add, &[r, x]).unwrap();
        let sum = g.add("sum", Op::reduce_sum { axes: vec![0] }, &[y]).unwrap();
        g.add_result(y, "y");
        g.add_result(sum, "sum");
        g
    }

    #[test]
    fn results_come_in_order_and_values_can_be_seen() {
        let g = graph(&[Dim::symbol("N")]);
        let x = floats(&[-1.0, 2.0]);
        assert_eq!(eval(&g, std::slice::from_ref(&x)).unwrap(), [floats(&[-1.0, 4.0]), floats(&[3.0])]);
        let values = eval_values(&g, std::slice::from_ref(&x)).unwrap();
        assert_eq!(values, [x, floats(&[0.0, 2.0]), floats(&[-1.0, 4.0]), floats(&[3.0])]);
    }

    #[test]
    fn a_kernel_means_its_region() {
        let region = graph(&[Dim::symbol("N")]);
        let mut g = Graph::new("g");
        let x = g.add_param("x", TensorType::new(DType::F32, [Dim::symbol("N")]));
        let results = g.add_kernel("k0", region.clone(), &[x], &["y", "sum"], vec![]).unwrap();
        results.into_iter().zip(["y", "sum"]).for_each(|(r, name)| g.add_result(r, name));
        let x = floats(&[1.0, -3.0, 0.5]);
        assert_eq!(eval(&g, std::slice::from_ref(&x)), eval(&region, &[x]));
    }

    #[test]
    fn symbols_take_their_numbers_from_the_inputs() {
        let n = Dim::symbol("N");
        let mut g = Graph::new("g");
        g.add_param("a", TensorType::new(DType::F32, [n.clone() * 2 + Dim::symbol("M"), Dim::symbol("M")]));
        let shape = g.add("shape", Op::dims { values: vec![n.clone(), n * 3] }, &[]).unwrap();
        g.add_result(shape, "shape");
        let input = |rows, columns| Tensor::from_f32s(vec![rows, columns], &vec![0.0; rows * columns]);
        assert_eq!(eval(&g, &[input(7, 1)]).unwrap(), [Tensor::from_i64s(vec![2], &[3, 9])]);
        assert_eq!(eval(&g, &[input(8, 1)]).unwrap_err(), "input `a` has extent 8 on axis 0, which does not tell the symbols of M + 2*N");
    }

    #[test]
    fn extents_are_found_in_data() {
        let text = "graph g(n: i64[2]) { e = extents[values = [K, 3]](n) i = iota[shape = [K], axis = 0, dtype = i64]() return i }";
        let g = crate::text::parse(text).unwrap();
        let of = |a, b| eval(&g, &[Tensor::from_i64s(vec![2], &[a, b])]);
        assert_eq!(of(2, 3).unwrap(), [Tensor::from_i64s(vec![2], &[0, 1])]);
        assert_eq!(of(0, 3).unwrap()[0].shape(), [0]);
        assert_eq!(of(-1, 3).unwrap_err(), "`e`: `extents` expects the extent `K` between 0 and 2147483648, found -1");
        assert_eq!(of(2, 4).unwrap_err(), "`e`: finds 4, expected 3");
    }

    #[test]
    fn wrong_inputs_are_sentences() {
        let g = graph(&[Dim::from(2)]);
        assert_eq!(eval(&g, &[]).unwrap_err(), "`g` takes 1 inputs, found 0");
        assert_eq!(eval(&g, &[floats(&[1.0])]).unwrap_err(), "input `x` has extent 1 on axis 0, expected 2 = 2");
        let ints = Tensor::from_i64s(vec![2], &[1, 2]);
        assert_eq!(eval(&g, &[ints]).unwrap_err(), "input `x` is i64[2], expected f32[2]");
    }

    #[test]
    fn a_failing_node_is_named() {
        let mut g = Graph::new("g");
        let x = g.add_param("x", TensorType::new(DType::F32, [2]));
        let index = g.add_const("index", Tensor::from_i64s(vec![], &[2]));
        let y = g.add("y", Op::gather { axis: 0 }, &[x, index]).unwrap();
        g.add_result(y, "y");
        assert_eq!(eval(&g, &[floats(&[1.0, 2.0])]).unwrap_err(), "`y`: `gather` expects indices between -2 and 2, found 2");
    }
}
