//! Holds in f32 what a model computes in f16 or bf16.
//!
//! Processors compute in f32 and would widen each element they read and round each one they store; that takes longer than the product it
//! is for. Inputs are widened as they come, results rounded as they leave, and weights are constants in f32. Whatever is rounded in
//! between is not, which is nearer to what the model means, and what every other engine does; an integer or a number of 64 bits is still
//! made of the rounded value.
//!
//! ```text
//! h = matmul(x, w)      h: f16[N, 8]
//! y = relu(h)           y: f16[N, 8]
//! =>
//! x.f32 = cast[f32](x)
//! h = matmul(x.f32, w)  h: f32[N, 8], w: f32[4, 8]
//! y = relu(h)           y: f32[N, 8]
//! y.f16 = cast[f16](y)
//! ```
//!
//! **Invariant.** Inputs and results keep their types. Nodes with regions, and ops that have no form in f32, get the narrow values that
//! they had. What is left out are roundings, so the class is `reassoc`.

use crate::dce::dce;
use crate::pass::Context;
use crate::rules::Class;
use egret_ir::{Copy, DType, Element, Graph, Node, Op, Tensor, TensorType, ValueId};
use half::{bf16, f16};
use std::collections::HashMap;
use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};

/// Numbers without an exact form that [rules](mod@crate::rules) look for: those of gelu, of its form with tanh, and of hard swish. One that was
/// rounded to 16 bits to fit the model is the number itself in f32.
const NAMED: [f64; 5] = [FRAC_1_SQRT_2, SQRT_2, 0.797_884_560_802_865_4, 0.044715, 1.0 / 6.0];

/// The pass; see the module. It changes nothing for machines that compute with 16 bits.
///
/// # Errors
/// Only if a node does not type-check, which would be a bug of this pass.
pub fn widen(graph: &Graph, context: &Context) -> Result<Graph, String> {
    let types = widened_types(context);
    if !graph.values().iter().any(|value| types.contains(&value.ty.dtype)) {
        return Ok(graph.clone());
    }
    let mut rebuilt = Rebuilt { copy: Copy::new(graph, TensorType::clone), wide: HashMap::new(), types };
    for node in graph.nodes() {
        rebuilt.node(node)?;
    }
    for &result in &graph.results {
        rebuilt.narrow(result)?;
    }
    context.weaken(Class::Reassoc);
    dce(&rebuilt.copy.finish())
}

/// The types whose values are held in f32.
fn widened_types(context: &Context) -> &'static [DType] {
    match (context.wide && context.class >= Class::Reassoc, context.dots) {
        (false, _) => &[],
        // There are products of bf16.
        (true, true) => &[DType::F16],
        (true, false) => &[DType::F16, DType::BF16],
    }
}

/// The graph as far as it has been made.
struct Rebuilt<'a> {
    /// Its values are those in the types of the model.
    copy: Copy<'a>,
    /// What stands in f32 for values of the old graph.
    wide: HashMap<ValueId, ValueId>,
    types: &'static [DType],
}

impl Rebuilt<'_> {
    fn node(&mut self, node: &Node) -> Result<(), String> {
        match &node.op {
            Op::cast { to } => self.cast(node, *to),
            _ if node.regions().next().is_some() || !self.touches(node) || !self.computes_wide(node)? => self.as_it_is(node),
            _ => Ok(()),
        }
    }

    fn is_narrow(&self, value: ValueId) -> bool {
        self.types.contains(&self.copy.old.ty(value).dtype)
    }

    fn touches(&self, node: &Node) -> bool {
        node.operands.iter().chain(&node.results).any(|&v| self.is_narrow(v))
    }

    /// A cast between the narrow type and f32 is a name for the value in f32; what is not f32 is made of the rounded value.
    fn cast(&mut self, node: &Node, to: DType) -> Result<(), String> {
        let (from, made) = (node.operands[0], node.results[0]);
        let gives_narrow = self.types.contains(&to);
        if !(gives_narrow || self.is_narrow(from) && to == DType::F32) {
            return self.as_it_is(node);
        }
        let operand = if self.is_narrow(from) { self.wide(from)? } else { self.copy.value(from) };
        let is_wide = self.copy.new.ty(operand).dtype == DType::F32;
        let wide = if is_wide { operand } else { self.add(node, Op::cast { to: DType::F32 }, &[operand])?[0] };
        self.set(made, wide);
        Ok(())
    }

    fn as_it_is(&mut self, node: &Node) -> Result<(), String> {
        node.operands.iter().try_for_each(|&v| self.narrow(v))?;
        self.copy.node(node)
    }

    /// Adds the node in f32; false where it has no such form.
    fn computes_wide(&mut self, node: &Node) -> Result<bool, String> {
        let op = match &node.op {
            Op::iota { shape, axis, dtype } if self.types.contains(dtype) => {
                Op::iota { shape: shape.clone(), axis: *axis, dtype: DType::F32 }
            }
            op => op.clone(),
        };
        let operands = node.operands.iter().map(|&v| if self.is_narrow(v) { self.wide(v) } else { Ok(self.copy.value(v)) });
        let operands = operands.collect::<Result<Vec<_>, String>>()?;
        let types: Vec<&TensorType> = operands.iter().map(|&v| self.copy.new.ty(v)).collect();
        let expected: Vec<TensorType> = node.results.iter().map(|&v| self.wide_type(v)).collect();
        if op.infer(&types).ok() != Some(expected) {
            return Ok(false);
        }
        for (&old, new) in node.results.iter().zip(self.add(node, op, &operands)?) {
            self.set(old, new);
        }
        Ok(true)
    }

    /// Makes `new`, in f32 or of no narrow type, stand for `old`.
    fn set(&mut self, old: ValueId, new: ValueId) {
        match self.is_narrow(old) {
            true => _ = self.wide.insert(old, new),
            false => self.copy.set(old, new),
        }
    }

    fn wide_type(&self, value: ValueId) -> TensorType {
        let ty = self.copy.old.ty(value);
        if self.is_narrow(value) { ty.with_dtype(DType::F32) } else { ty.clone() }
    }

    /// Adds what stands for a node, with its names.
    fn add(&mut self, node: &Node, op: Op, operands: &[ValueId]) -> Result<Vec<ValueId>, String> {
        let names: Vec<&str> = node.results.iter().map(|&r| &*self.copy.old.value(r).name).collect();
        self.copy.new.add_node(op, operands, &names, node.origin.clone())
    }

    /// The value in f32.
    fn wide(&mut self, old: ValueId) -> Result<ValueId, String> {
        if let Some(&known) = self.wide.get(&old) {
            return Ok(known);
        }
        let name = self.copy.old.value(old).name.clone();
        let new = match self.copy.old.constant(old) {
            Some(tensor) => self.copy.new.add_const(&name, widened(tensor)?),
            None => {
                let narrow = self.copy.value(old);
                self.copy.new.add(&format!("{name}.{}", DType::F32), Op::cast { to: DType::F32 }, &[narrow])?
            }
        };
        self.wide.insert(old, new);
        Ok(new)
    }

    /// Sees that there is the value in its own type.
    fn narrow(&mut self, old: ValueId) -> Result<(), String> {
        if let (false, Some(&wide)) = (self.copy.has(old), self.wide.get(&old)) {
            let ty = self.copy.old.ty(old).dtype;
            let name = format!("{}.{ty}", self.copy.old.value(old).name);
            let narrow = self.copy.new.add(&name, Op::cast { to: ty }, &[wide])?;
            self.copy.set(old, narrow);
        }
        Ok(())
    }
}

/// The number of these that a tensor of one element is, rounded to its type.
fn named(tensor: &Tensor) -> Option<f64> {
    let [found] = tensor.to_f64s()[..] else { return None };
    NAMED.into_iter().find(|number| Element::Float(*number).rounded(tensor.dtype()) == Element::Float(found))
}

/// A constant in f32, each element the same number, but for the [`NAMED`] ones; models have 10^8 weights, and the evaluator takes its time.
fn widened(tensor: &Tensor) -> Result<Tensor, String> {
    if let Some(named) = named(tensor) {
        return Ok(Tensor::from_elements(DType::F32, tensor.shape().to_vec(), [Element::Float(named)]));
    }
    let halves = tensor.bytes().as_chunks().0.iter().copied();
    let bytes: Vec<u8> = match tensor.dtype() {
        DType::F16 => halves.flat_map(|bytes| f16::from_le_bytes(bytes).to_f32().to_le_bytes()).collect(),
        DType::BF16 => halves.flat_map(|bytes| bf16::from_le_bytes(bytes).to_f32().to_le_bytes()).collect(),
        other => return Err(format!("constants of f16 and bf16 are widened, not of {other}")),
    };
    Tensor::new(DType::F32, tensor.shape().to_vec(), bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use egret_ir::text::parse;

    fn widened_by(source: &str, context: &Context) -> Graph {
        let graph = widen(&parse(source).unwrap(), context).unwrap();
        egret_ir::verify::verify(&graph).unwrap();
        graph
    }

    fn ops(graph: &Graph) -> Vec<&str> {
        graph.nodes().iter().map(|node| node.op.name()).collect()
    }

    const WIDE: fn() -> Context = || Context { wide: true, ..Context::default() };

    #[test]
    fn strict_code_and_machines_with_halves_keep_the_types() {
        let source = "graph g(x: f16[N]) { y = relu(x) return y }";
        let strict = Context { class: Class::Ulp, ..WIDE() };
        for context in [Context::default(), strict] {
            assert_eq!(ops(&widened_by(source, &context)), ["relu"]);
        }
        assert_eq!(ops(&widened_by(source, &WIDE())), ["cast", "relu", "cast"]);
    }

    #[test]
    fn bf16_is_kept_where_there_are_products_of_it() {
        let source = "graph g(x: bf16[N]) { y = relu(x) return y }";
        assert_eq!(ops(&widened_by(source, &WIDE())), ["cast", "relu", "cast"]);
        assert_eq!(ops(&widened_by(source, &Context { dots: true, ..WIDE() })), ["relu"]);
    }

    #[test]
    fn what_has_no_form_in_f32_reads_the_rounded_value() {
        let source = "graph g(x: f16[N]) { h = neg(x) y = bit_cast[to = i16](h) return y }";
        assert_eq!(ops(&widened_by(source, &WIDE())), ["cast", "neg", "cast", "bit_cast"]);
    }

    #[test]
    fn named_numbers_are_exact_and_others_are_what_they_were() {
        let source = "graph g(x: f16[N]) {
            const r: f16[] = 0.707
            const s: f16[1] = 0.7
            a = mul(x, r)
            y = mul(a, s)
            return y
        }";
        let graph = widened_by(source, &WIDE());
        let constants: Vec<f64> = graph.constants().flat_map(|(id, _)| graph.constant(id).unwrap().to_f64s()).collect();
        assert_eq!(constants, [f64::from(FRAC_1_SQRT_2 as f32), f64::from(f16::from_f32(0.7).to_f32())]);
    }
}
