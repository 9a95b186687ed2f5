//! Tensors that nothing reads any more, to be written again.

use super::Value;
use crate::error::Result;
use crate::plan::DType;
use crate::tensor::Tensor;

/// Tensors kept at a time: what the stages of a loop make in a step, so that the next finds its own; more than loops have.
const MOST: usize = 64;

/// Tensors to be written again. Outside of loops there are none: what is dead is freed.
#[derive(Default)]
pub(crate) struct Spare {
    tensors: Vec<Tensor>,
    /// How many loops are running.
    loops: usize,
}

impl Spare {
    /// Keeps what a value holds, if that is its own.
    pub(super) fn keep(&mut self, value: Option<Value<'_>>) {
        if let Some(Value::Made(tensor)) = value.filter(|_| self.loops > 0) {
            if self.tensors.len() == MOST {
                self.tensors.remove(0);
            }
            self.tensors.push(tensor);
        }
    }

    /// A loop begins.
    pub(super) fn enter(&mut self) {
        self.loops += 1;
    }

    /// A loop has ended.
    pub(super) fn leave(&mut self) {
        self.loops = self.loops.saturating_sub(1);
        if self.loops == 0 {
            self.tensors.clear();
        }
    }

    /// All loops have ended, by an error perhaps.
    pub(super) fn clear(&mut self) {
        *self = Spare::default();
    }

    /// A tensor of this type and shape, with anything in it.
    pub(crate) fn take(&mut self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        match self.tensors.iter().rposition(|tensor| tensor.dtype() == dtype && tensor.shape() == shape) {
            Some(index) => Ok(self.tensors.swap_remove(index)),
            None => Tensor::zeros(dtype, shape),
        }
    }

    /// `i64[]`.
    pub(super) fn scalar(&mut self, value: i64) -> Result<Tensor> {
        let mut tensor = self.take(DType::I64, &[])?;
        tensor.bytes_mut().copy_from_slice(&value.to_le_bytes());
        Ok(tensor)
    }

    /// `bool[]` that holds.
    pub(super) fn holds(&mut self) -> Result<Tensor> {
        let mut tensor = self.take(DType::Bool, &[])?;
        tensor.bytes_mut().fill(1);
        Ok(tensor)
    }
}
