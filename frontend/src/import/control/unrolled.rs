//! Loops of few steps, whose number is known: the body is imported once per step.

use super::looped::Scanned;
use super::{Holder, Importer, Outputs, no_tensor};
use crate::build::Turn;
use crate::error::Code;
use crate::scope::Operand;
use crate::site::{Site, Stop, malformed};
use egret_ir::{DType, Dim, Element, Tensor, TensorType, ValueId};

impl<'m> Importer<'m> {
    /// A scan of so many steps.
    pub(super) fn unrolled_scan(&mut self, holder: &Holder<'_, 'm>, scanned: &Scanned<'m>, steps: i64) -> Outputs {
        let states = scanned.states.len();
        let mut state = scanned.states.clone();
        let mut rows = vec![vec![]; scanned.results()];
        for step in 0..steps {
            let mut inputs = state.clone();
            for ((&x, &axis), &backwards) in scanned.xs.iter().zip(&scanned.axes).zip(&scanned.backwards) {
                let at = if backwards { steps - 1 - step } else { step };
                inputs.push(without_axis(&mut self.site(holder), x, axis, at)?);
            }
            let Some(outputs) = self.step(holder, scanned.body, Turn::Known(step), &inputs)? else { return Ok(None) };
            state = outputs[..states].to_vec();
            rows.iter_mut().zip(&outputs[states..]).for_each(|(rows, &row)| rows.push(row));
        }
        for (mut rows, (&axis, &backwards)) in rows.into_iter().zip(scanned.out_axes.iter().zip(&scanned.out_backwards)) {
            if backwards {
                rows.reverse();
            }
            state.push(stacked(&mut self.site(holder), &rows, axis)?);
        }
        Ok(Some(state))
    }

    /// A loop of at most so many steps, which nothing but a condition that is known ends.
    pub(super) fn unrolled_loop(&mut self, holder: &Holder<'_, 'm>, most: i64) -> Result<Option<Vec<Operand>>, Stop> {
        let body = holder.graph("body")?;
        let mut condition = self.going(holder);
        let mut state: Vec<Operand> = holder.given.iter().skip(2).cloned().collect();
        let results = body.output.len().checked_sub(state.len() + 1);
        let results = results.ok_or_else(|| malformed(Code::Operand, "the body of `Loop` gives fewer states than it takes"))?;
        let mut rows = vec![vec![]; results];
        for step in 0..most {
            match self.build.truth(condition) {
                Some(true) => {}
                Some(false) => break,
                None => return Err(self.of_lists("the condition", condition)),
            }
            let number = self.build.constant(Tensor::scalar(DType::I64, Element::Int(step.into())));
            let inputs = [&[Operand::Tensor(number), Operand::Tensor(condition)], &state[..]].concat();
            let Some(outputs) = self.step_of(holder, body, Turn::Known(step), inputs)? else { return Ok(None) };
            let tensor = |i: usize| outputs[i].tensor().ok_or_else(|| no_tensor("Loop", i, &outputs[i]));
            condition = tensor(0)?;
            let states = state.len() + 1;
            for (i, rows) in rows.iter_mut().enumerate() {
                rows.push(tensor(states + i)?);
            }
            state = outputs[1..states].to_vec();
        }
        for (i, rows) in rows.into_iter().enumerate() {
            state.push(Operand::Tensor(match rows.is_empty() {
                true => self.nothing(&body.output[body.output.len() - results + i])?,
                false => stacked(&mut self.site(holder), &rows, 0)?,
            }));
        }
        Ok(Some(state))
    }

    /// What a loop that never ran has gathered: rows of the declared type, none of them.
    fn nothing(&mut self, output: &'m onnx_protobuf::ValueInfoProto) -> Result<ValueId, Stop> {
        let ty: Option<TensorType> = crate::inputs::plain_type(output);
        let ty = ty.ok_or_else(|| malformed(Code::Shape, format!("`{}` of a loop that never runs has no static shape", output.name)))?;
        let shape: Option<Vec<usize>> = ty.static_dims();
        let shape =
            shape.ok_or_else(|| malformed(Code::Shape, format!("`{}` of a loop that never runs has no static shape", output.name)))?;
        Ok(self.build.constant(Tensor::splat(ty.dtype, [vec![0], shape].concat(), Element::zero(ty.dtype))))
    }
}

/// `x` at one index of an axis, without that axis.
pub(in crate::import) fn without_axis(n: &mut Site, x: ValueId, axis: usize, at: i64) -> Result<ValueId, Stop> {
    let one = n.slice(x, axis, Dim::from(at), Dim::ONE)?;
    let mut dims = n.dims(one);
    dims.remove(axis);
    n.reshape(one, dims)
}

/// Rows along a new axis.
pub(in crate::import) fn stacked(n: &mut Site, rows: &[ValueId], axis: i64) -> Result<ValueId, Stop> {
    let axis = n.axis(axis, n.rank(rows[0]) + 1)?;
    let mut with_axis = vec![];
    for &row in rows {
        let mut dims = n.dims(row);
        dims.insert(axis, Dim::ONE);
        with_axis.push(n.reshape(row, dims)?);
    }
    n.concat(&with_axis, axis)
}
