//! What a session asks of a GPU: memory, kernels, and whole runs that are recorded once and replayed.
//!
//! A [`Device`] knows nothing of plans. It has four areas of memory and kernels by their numbers; a run of a model is a list of
//! [`Command`]s over [`Span`]s of these areas, the same for a GPU and for an emulator of one. **Invariant.** All spans of a run lie inside
//! the areas that were reserved for it, and begin at multiples of [`DEVICE_ALIGN`].
//!
//! ```text
//! load(image)  upload(weights)                           once
//! reserve(lengths)  record(slot, run)                    once for each binding of the free dimensions
//! inputs()[..] = x   replay(slot)   y = outputs()[..]    each inference: one call of the driver
//! ```
//!
//! [`Session::on`](crate::Session::on) runs an artifact on a device.

#[cfg(feature = "cuda")]
pub mod cuda;

use crate::error::{Error, Result};
use crate::gpu::{Image, Version};
use std::time::Duration;

/// Alignment in bytes of every span: what `cuMemAlloc` gives, and a whole number of the 128 bytes that a warp loads at once.
pub const DEVICE_ALIGN: u64 = 256;

/// A part of a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Area {
    /// The weights, never written by a kernel.
    Weights,
    /// Intermediate values.
    Arena,
    /// The inputs of a run.
    Inputs,
    /// The outputs of a run.
    Outputs,
}

/// A run of bytes of an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The area.
    pub area: Area,
    /// Where it begins in it.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
}

/// A step of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Starts a kernel of the image.
    Launch {
        /// Its number.
        kernel: usize,
        /// Thread blocks; never 0.
        blocks: u32,
        /// Threads of a block.
        threads: u32,
        /// Bytes of shared memory of a block beside what the kernel declares.
        shared: u32,
        /// Its buffers.
        buffers: Vec<Span>,
        /// How many of the buffers, the first ones, are only read.
        reads: usize,
        /// What follows the addresses of the buffers among its parameters.
        sizes: Vec<i64>,
    },
    /// Copies bytes to a span of the same length.
    Copy {
        /// From here.
        from: Span,
        /// To here.
        to: Span,
    },
}

/// What an inference consists of: the inputs go over in one copy, the commands run in order, the outputs come back in one copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The bytes of each area that it uses.
    pub lengths: Lengths,
    /// The commands.
    pub commands: Vec<Command>,
}

/// Lengths of the areas that depend on the free dimensions, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// Of the arena.
    pub arena: u64,
    /// Of the inputs.
    pub inputs: u64,
    /// Of the outputs.
    pub outputs: u64,
}

impl Lengths {
    /// Whether areas of these lengths hold what `needed` says.
    pub fn hold(&self, needed: &Lengths) -> bool {
        self.arena >= needed.arena && self.inputs >= needed.inputs && self.outputs >= needed.outputs
    }

    /// The greater of each.
    pub fn max(self, other: Lengths) -> Lengths {
        Lengths { arena: self.arena.max(other.arena), inputs: self.inputs.max(other.inputs), outputs: self.outputs.max(other.outputs) }
    }
}

/// What a GPU's memory has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that are free.
    pub free: u64,
    /// Bytes there are.
    pub total: u64,
}

impl Room {
    /// Whether so many more bytes are free on a device.
    ///
    /// # Errors
    ///
    /// [`Error::Resource`] with the numbers, if they are not.
    pub fn holds(self, what: &str, bytes: u64, device: &str) -> Result<()> {
        let Room { free, total } = self;
        match bytes <= free {
            true => Ok(()),
            false => Err(Error::Resource(format!(
                "{what} need {bytes} bytes on {device}, of whose {total} bytes {free} are free; use smaller extents or end what else runs there"
            ))),
        }
    }
}

/// A GPU, or what stands in for one. All errors are [`Error::Resource`] or
/// [`Error::Device`].
pub trait Device: Send {
    /// What it is, for reports: `NVIDIA H100 80GB HBM3 (sm_90)`.
    fn name(&self) -> String;

    /// Its compute capability, which decides what code it can run; `None` if it runs any.
    fn capability(&self) -> Option<Version>;

    /// Makes the kernels of an image its own, in the order of the launches.
    ///
    /// # Errors
    ///
    /// If it cannot run them.
    fn load(&mut self, image: &Image) -> Result<()>;

    /// Fills the area of the weights: each piece with its offset, in order.
    ///
    /// # Errors
    ///
    /// If there is not enough memory.
    fn upload(&mut self, pieces: &[(u64, &[u8])]) -> Result<()>;

    /// Makes the other areas at least this long. True if one moved: then what they held and all that was recorded is lost.
    ///
    /// # Errors
    ///
    /// If there is not enough memory.
    fn reserve(&mut self, needed: Lengths) -> Result<bool>;

    /// Remembers a run as number `slot`, in place of what had the number before.
    ///
    /// # Errors
    ///
    /// If the device refuses a command.
    fn record(&mut self, slot: usize, run: &Run) -> Result<()>;

    /// The memory from which a replay takes the inputs.
    ///
    /// # Errors
    ///
    /// If work before has failed.
    fn inputs(&mut self) -> Result<&mut [u8]>;

    /// Does what was recorded, and waits for its end.
    ///
    /// # Errors
    ///
    /// If a kernel fails.
    fn replay(&mut self, slot: usize) -> Result<()>;

    /// The memory into which a replay has brought the outputs.
    ///
    /// # Errors
    ///
    /// If work before has failed.
    fn outputs(&self) -> Result<&[u8]>;

    /// Does a run command by command, and says how long each took.
    ///
    /// # Errors
    ///
    /// If a kernel fails.
    fn timed(&mut self, run: &Run) -> Result<Vec<Duration>>;
}
