//! Evaluation of elementwise ops: the scalar expression of the op table over every element, with broadcasting.
//!
//! The meaning of one element is [`Typed::eval`]. Here the same expression is walked once per block of elements instead,
//! with the same primitives and the same rounding at every node, so the result is the same bit for bit; a test holds that
//! for every elementwise op of the table.

use crate::ops::number::{Number, sized};
use crate::ops::strided;
use crate::scalar::{Typed, TypedKind, cast_element};
use crate::tensor::{Element, Tensor};
use crate::ty::{DType, TensorType};
use std::ops::Range;

/// Elements per block: large enough to pay for the walk over the expression, small enough that a block per node stays in
/// the first-level cache.
const BLOCK: usize = 1024;

/// The op's expression over operands that broadcast to the extents of `result`.
///
/// # Errors
/// When an extent of the result is symbolic.
pub fn eval(expr: &Typed, operands: &[&Tensor], result: &TensorType) -> Result<Tensor, String> {
    let shape = result.static_dims().ok_or_else(|| format!("expects extents that are numbers, found {result}"))?;
    let operands: Vec<Tensor> =
        operands.iter().map(|x| if x.count() == 1 { (*x).clone() } else { strided::broadcast(x, &shape) }).collect();
    let count = shape.iter().product();
    let mut data = Vec::with_capacity(count * result.dtype.size());
    for start in (0..count).step_by(BLOCK) {
        let range = start..count.min(start + BLOCK);
        let block = Block::of(expr, &operands, &range);
        data.extend_from_slice(block.write(result.dtype).bytes());
    }
    Ok(sized(result.dtype, &shape, data))
}

/// The values of one node of the expression for a run of elements.
enum Block {
    Float(Vec<f64>),
    Int(Vec<i128>),
    Bool(Vec<bool>),
}

impl Block {
    /// The node's values, narrow floats in `f32`.
    fn of(expr: &Typed, operands: &[Tensor], range: &Range<usize>) -> Block {
        let wide = expr.dtype.wide();
        let child = |e: &Typed| Block::of(e, operands, range);
        match &expr.kind {
            TypedKind::Arg(i) => Block::read(&operands[*i], range),
            TypedKind::Const(c) => Block::splat(Element::Float(*c).rounded(wide), range.len()),
            TypedKind::Un(op, x) => match child(x) {
                Block::Float(x) if expr.dtype.is_float() => Block::Float(x.into_iter().map(|x| round(op.eval_float(x), wide)).collect()),
                x => Block::build(wide, range.len(), |i| op.eval(x.get(i))),
            },
            TypedKind::Bin(op, x, y) => match (child(x), child(y)) {
                (Block::Float(mut x), Block::Float(y)) if expr.dtype.is_float() => {
                    x.iter_mut().zip(y).for_each(|(x, y)| *x = round(op.eval_float(*x, y).as_f64(), wide));
                    Block::Float(x)
                }
                (a, b) => Block::build(wide, range.len(), |i| op.eval(a.get(i), b.get(i), x.dtype)),
            },
            TypedKind::Select(c, x, y) => {
                let (c, x, y) = (child(c), child(x), child(y));
                Block::build(wide, range.len(), |i| if c.get(i).as_bool() { x.get(i) } else { y.get(i) })
            }
            TypedKind::Cast(x) => {
                let (from, x) = (x.dtype, child(x));
                Block::build(expr.dtype, range.len(), |i| cast_element(x.get(i).rounded(from), expr.dtype))
            }
        }
    }

    fn read(x: &Tensor, range: &Range<usize>) -> Block {
        if x.count() == 1 {
            return Block::splat(x.get(0), range.len());
        }
        let size = x.dtype().size();
        let part =
            Tensor::new(x.dtype(), vec![range.len()], x.bytes().slice(range.start * size..range.end * size)).expect("a part of its bytes");
        match x.dtype() {
            DType::Bool => Block::Bool(part.elements().map(Element::as_bool).collect()),
            t if t.is_float() => Block::Float(f64::read(&part)),
            _ => Block::Int(i128::read(&part)),
        }
    }

    fn splat(value: Element, count: usize) -> Block {
        match value {
            Element::Float(v) => Block::Float(vec![v; count]),
            Element::Int(v) => Block::Int(vec![v; count]),
            Element::Bool(v) => Block::Bool(vec![v; count]),
        }
    }

    /// A block of `dtype` from its elements, each rounded.
    fn build(dtype: DType, count: usize, element: impl Fn(usize) -> Element) -> Block {
        let elements = (0..count).map(|i| element(i).rounded(dtype));
        match dtype {
            DType::Bool => Block::Bool(elements.map(Element::as_bool).collect()),
            t if t.is_float() => Block::Float(elements.map(Element::as_f64).collect()),
            _ => Block::Int(elements.map(Element::as_int).collect()),
        }
    }

    fn get(&self, i: usize) -> Element {
        match self {
            Block::Float(v) => Element::Float(v[i]),
            Block::Int(v) => Element::Int(v[i]),
            Block::Bool(v) => Element::Bool(v[i]),
        }
    }

    fn write(self, dtype: DType) -> Tensor {
        match self {
            Block::Float(v) => f64::write(dtype, &[v.len()], v),
            Block::Int(v) => i128::write(dtype, &[v.len()], v),
            Block::Bool(v) => Tensor::from_elements(dtype, vec![v.len()], v.into_iter().map(Element::Bool)),
        }
    }
}

/// To the type that a float node is computed in.
fn round(value: f64, wide: DType) -> f64 {
    if wide == DType::F32 { f64::from(value as f32) } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::{Attr, AttrField, Real};
    use crate::op::{Kind, OPS, Op};
    use crate::random::random;

    /// Values at which floats and integers behave unlike others, after many ordinary ones.
    fn operand(dtype: DType, seed: u64, count: usize) -> Tensor {
        let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0, 1.0, -1.0, 0.5, 1e-40, 65504.0, 3e38, -129.0, 1e19];
        let ordinary = random(seed, &TensorType::new(dtype, [count])).unwrap();
        let elements = (0..count).map(|i| match (i * 7 + seed as usize * 3) % 29 {
            k if k < special.len() => Element::Float(special[k]),
            k => Element::Float(ordinary.get(i).as_f64() * if k % 2 == 0 { 9.0 } else { 1.0 }),
        });
        Tensor::from_elements(dtype, vec![count], elements)
    }

    #[test]
    fn blocks_and_single_elements_agree_bit_for_bit() {
        const COUNT: usize = BLOCK + 77;
        let mut checked = 0;
        for def in OPS.iter().filter(|d| d.kind == Kind::Elementwise) {
            let attrs = |to: DType| if def.name == "cast" { vec![to.to_attr()] } else { vec![Attr::Real(Real(0.5)); def.attrs.len()] };
            let ops = DType::ALL.into_iter().map(|to| def.build(&attrs(to)).unwrap());
            let ops: Vec<Op> = if def.name == "cast" { ops.collect() } else { ops.take(1).collect() };
            for (op, dtype) in ops.iter().flat_map(|op| DType::ALL.into_iter().map(move |t| (op, t))) {
                let types: Vec<DType> =
                    (0..def.operands.len()).map(|i| if def.name == "select" && i == 0 { DType::Bool } else { dtype }).collect();
                let Ok(expr) = op.typed_scalar(types.iter().copied()) else { continue };
                let operands: Vec<Tensor> = types.iter().zip(1..).map(|(&t, seed)| operand(t, seed, COUNT)).collect();
                let found = eval(&expr, &operands.iter().collect::<Vec<_>>(), &TensorType::new(expr.dtype, [COUNT])).unwrap();
                let one = |i: usize| expr.eval(&operands.iter().map(|x| x.get(i)).collect::<Vec<_>>());
                let expected = Tensor::from_elements(expr.dtype, vec![COUNT], (0..COUNT).map(one));
                let differs = (0..COUNT)
                    .find(|&i| found.get(i) != expected.get(i) && !(found.get(i).as_f64().is_nan() && expected.get(i).as_f64().is_nan()));
                assert!(differs.is_none(), "{op:?} of {dtype}: element {differs:?}");
                checked += 1;
            }
        }
        assert!(checked > 300, "only {checked}");
    }

    #[test]
    fn operands_broadcast() {
        let column = Tensor::from_f32s(vec![2, 1], &[10.0, 20.0]);
        let row = Tensor::from_f32s(vec![3], &[1.0, 2.0, 3.0]);
        let sum = Op::add.eval(&[&column, &row]).unwrap().remove(0);
        assert_eq!(sum, Tensor::from_f32s(vec![2, 3], &[11.0, 12.0, 13.0, 21.0, 22.0, 23.0]));
    }
}
