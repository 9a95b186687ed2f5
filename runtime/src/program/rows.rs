//! What a loop gathers: rows one behind the other, in memory that grows in chunks.

use crate::error::{Error, Result};
use crate::plan::DType;
use crate::tensor::{Tensor, TensorView};

/// Rows for which there is room at first, if a loop may run that often: enough that a short loop never moves them.
const FIRST_ROWS: i64 = 16;

/// The rows of one result so far.
pub(super) struct Rows {
    dtype: DType,
    /// Room for at least `count` rows; `None` before the first.
    room: Option<Tensor>,
    count: usize,
    /// The most rows that there may be.
    most: i64,
}

impl Rows {
    pub(super) fn new(dtype: DType, most: i64) -> Rows {
        Rows { dtype, room: None, count: 0, most }
    }

    /// Adds a row, which has the shape of those before.
    pub(super) fn push(&mut self, row: TensorView<'_>) -> Result<()> {
        let room = match self.room.take() {
            Some(room) if room.shape()[1..] != *row.shape() => {
                let shapes = (&room.shape()[1..], row.shape());
                return Err(Error::Usage(format!("a loop gathers rows of different shapes, {:?} and {:?}", shapes.0, shapes.1)));
            }
            Some(room) if room.shape()[0] == self.count => self.moved(room, row)?,
            Some(room) => room,
            None => self.rooms(self.most.clamp(1, FIRST_ROWS) as usize, row)?,
        };
        let bytes = row.bytes().len();
        self.room.insert(room).bytes_mut()[self.count * bytes..][..bytes].copy_from_slice(row.bytes());
        self.count += 1;
        Ok(())
    }

    /// Twice the room, or what the loop needs at most.
    fn moved(&self, full: Tensor, row: TensorView<'_>) -> Result<Tensor> {
        let twice = i64::try_from(2 * self.count).unwrap_or(i64::MAX);
        let mut room = self.rooms(twice.min(self.most) as usize, row)?;
        room.bytes_mut()[..full.bytes().len()].copy_from_slice(full.bytes());
        Ok(room)
    }

    fn rooms(&self, rows: usize, row: TensorView<'_>) -> Result<Tensor> {
        Tensor::zeros(self.dtype, &[&[rows], row.shape()].concat())
    }

    /// All rows; `empty` is the shape of one where there are none.
    pub(super) fn finish(self, empty: impl FnOnce() -> Vec<usize>) -> Result<Tensor> {
        match self.room {
            Some(room) => Ok(room.first_rows(self.count)),
            None => Tensor::zeros(self.dtype, &[vec![0], empty()].concat()),
        }
    }
}
