//! What follows for a result from what is known of the operands.
//!
//! ```text
//! t = concat[axis=1](c, c)    the two halves of each row of `t` are equal
//! u = cos(t)                  so are those of `u`
//! le(0, iota[...]())          true everywhere
//! gather(zeros, i)            zero everywhere
//! ```

use super::Value;
use egret_ir::{DType, Element, Kind, Op, Tensor, TensorType};
use std::sync::Arc;

/// What is known of a result of type `ty`.
pub fn value(op: &Op, operands: &[&Value], ty: TensorType, constant: bool) -> Value {
    Value {
        splat: splat(op, operands),
        constant,
        data: data(op, operands, &ty),
        twice: twice(op, operands, &ty),
        counts: counts(op, operands, &ty),
        ty: Arc::new(ty),
    }
}

/// The elements, where they are those of a known tensor in the same order.
fn data(op: &Op, operands: &[&Value], result: &TensorType) -> Option<Arc<Tensor>> {
    let (Op::reshape { .. }, [x]) = (op, operands) else { return None };
    x.data.as_ref()?.reshaped(result.static_dims()?).ok().map(Arc::new)
}

/// The value of all elements of the result, if it follows from such values of the operands.
fn splat(op: &Op, operands: &[&Value]) -> Option<Element> {
    if let (Op::le, [low, x]) = (op, operands)
        && x.counts
        && low.splat.is_some_and(|v| v.as_int() <= 0)
    {
        return Some(Element::Bool(true));
    }
    // Whatever is picked of one number, it is that.
    if let Op::gather { .. } | Op::gather_elements { .. } | Op::gather_nd { .. } = op {
        return operands.first()?.splat;
    }
    let elements = operands.iter().map(|v| v.splat).collect::<Option<Vec<_>>>()?;
    match op.def().kind {
        Kind::Elementwise => {
            let typed = op.typed_scalar(operands.iter().map(|v| v.ty.dtype)).ok()?;
            Some(typed.eval(&elements))
        }
        Kind::View => elements.first().copied(),
        Kind::Composite | Kind::Reduce | Kind::Structured => None,
    }
}

/// Whether the halves of the rows are equal because those of the operands are.
fn twice(op: &Op, operands: &[&Value], result: &TensorType) -> bool {
    let Some(inner) = result.dims.last() else { return false };
    let last = result.rank() - 1;
    let kept = |v: &Value| v.twice && v.ty.dims.last() == Some(inner);
    match op {
        // Of one class twice there is one set of facts.
        Op::concat { axis } => *axis == last && matches!(operands, [a, b] if std::ptr::eq(*a, *b)),
        Op::transpose { perm } => perm.last() == Some(&last) && kept(operands[0]),
        Op::gather { axis } => axis + 1 < operands[0].ty.rank() && kept(operands[0]),
        // Rows of as many elements are the same rows; a slice with as many takes whole rows.
        Op::reshape { .. } | Op::broadcast { .. } | Op::slice { .. } => kept(operands[0]),
        _ if op.is_elementwise() => {
            let same_in_row = |v: &Value| v.ty.dims.last().is_none_or(|d| d.is(1));
            operands.iter().any(|v| kept(v)) && operands.iter().all(|v| kept(v) || same_in_row(v))
        }
        _ => false,
    }
}

/// Whether the second half of each row repeats the first.
pub fn repeats(tensor: &Tensor) -> bool {
    let inner = tensor.shape().last().copied().unwrap_or(0);
    let row = inner * tensor.dtype().size();
    inner > 0 && inner % 2 == 0 && tensor.bytes().chunks_exact(row).all(|row| row[..row.len() / 2] == row[row.len() / 2..])
}

fn counts(op: &Op, operands: &[&Value], result: &TensorType) -> bool {
    match op {
        // Smaller types wrap around.
        Op::iota { .. } => matches!(result.dtype, DType::I32 | DType::I64),
        _ => op.def().kind == Kind::View && operands[0].counts,
    }
}
