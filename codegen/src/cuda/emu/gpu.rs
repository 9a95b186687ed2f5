//! The emulator as a [`Device`]: whole models through the runtime's own executor, without a GPU.
//!
//! **Invariant.** Before every run the arena and the outputs hold what must not be used (all bits set, of floats NaN), every launch has
//! a schedule of its own, and a launch that writes what is only to be read, or in which what is written lies over another buffer, is
//! an error.
//!
//! ```
//! use egret_codegen::cuda::emu::EmuDevice;
//! use egret_codegen::{Options, Target, compile};
//! use egret_runtime::{Session, Tensor};
//!
//! let graph = egret_ir::text::parse("graph g(x: f32[N]) { y = exp(x)\n return y }")?;
//! let artifact = compile(&graph, &Target::named("cuda:sm_80")?, &Options::default())?.artifact()?;
//! let mut session = Session::on(artifact, Box::new(EmuDevice::new(1)))?;
//! let x = Tensor::from_slice(&[2], &[0.0f32, 1.0])?;
//! assert_eq!(session.run(&[("x", x.view())])?[0].as_slice::<f32>()?, [1.0, std::f32::consts::E]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::{Module, Start, run};
use egret_runtime::device::{Area, Command, Device, Lengths, Room, Run, Span};
use egret_runtime::gpu::{Image, Version};
use egret_runtime::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

/// What memory holds that nothing has been written to.
const POISON: u8 = 0xff;

/// A GPU that is emulated: correct or an error, and some hundred thousand times as slow as a real one.
#[derive(Debug, Default)]
pub struct EmuDevice {
    module: Option<Module>,
    entries: Vec<String>,
    weights: Vec<u8>,
    arena: Vec<u8>,
    inputs: Vec<u8>,
    outputs: Vec<u8>,
    runs: HashMap<usize, Run>,
    seed: u64,
    /// Bytes that there are; any number, if nothing is said.
    memory: Option<u64>,
}

impl EmuDevice {
    /// A device with no memory in use; `seed` decides every schedule.
    pub fn new(seed: u64) -> EmuDevice {
        EmuDevice { seed, ..EmuDevice::default() }
    }

    /// The same with so many bytes of memory.
    pub fn with_memory(self, bytes: u64) -> EmuDevice {
        EmuDevice { memory: Some(bytes), ..self }
    }

    /// Fails where all areas together are longer than the memory is.
    fn check_room(&self, what: &str, bytes: u64, held: u64) -> Result<()> {
        let room = |total| Room { free: total - held.min(total), total }.holds(what, bytes, &self.name());
        self.memory.map_or(Ok(()), room)
    }

    fn memory(&self, area: Area) -> &[u8] {
        match area {
            Area::Weights => &self.weights,
            Area::Arena => &self.arena,
            Area::Inputs => &self.inputs,
            Area::Outputs => &self.outputs,
        }
    }

    fn bytes(&self, span: &Span) -> Result<Vec<u8>> {
        let bytes = self.memory(span.area).get(range(span));
        bytes.map(<[u8]>::to_vec).ok_or_else(|| Error::Device(format!("{span:?} lies outside the memory that was reserved")))
    }

    fn put(&mut self, span: &Span, bytes: &[u8]) -> Result<()> {
        let memory = match span.area {
            Area::Arena => &mut self.arena,
            Area::Outputs => &mut self.outputs,
            Area::Weights | Area::Inputs => return Err(Error::Device(format!("{span:?} is written, but is only to be read"))),
        };
        memory[range(span)].copy_from_slice(bytes);
        Ok(())
    }

    fn poison(&mut self) {
        self.arena.fill(POISON);
        self.outputs.fill(POISON);
    }

    fn execute(&mut self, command: &Command) -> Result<()> {
        match command {
            Command::Copy { from, to } => self.put(to, &self.bytes(from)?),
            Command::Launch { kernel, blocks, threads, shared, buffers, reads, sizes } => {
                no_overlap(buffers, *reads)?;
                self.seed += 1;
                let start = Start { blocks: *blocks, threads: *threads as usize, shared: *shared as usize, sizes, seed: self.seed };
                let before = buffers.iter().map(|span| self.bytes(span)).collect::<Result<Vec<_>>>()?;
                let mut after = before.clone();
                let found = self.module.as_ref().and_then(|module| module.entry(&self.entries[*kernel]));
                let entry = found.ok_or_else(|| Error::Device(format!("kernel {kernel} is not loaded")))?;
                run(entry, start, &mut after).map_err(Error::Device)?;
                if let Some(i) = (0..*reads).find(|&i| before[i] != after[i]) {
                    return Err(Error::Device(format!("`{}` writes its buffer {i}, which is only to be read", self.entries[*kernel])));
                }
                buffers.iter().zip(&after).skip(*reads).try_for_each(|(span, bytes)| self.put(span, bytes))
            }
        }
    }
}

fn range(span: &Span) -> Range<usize> {
    span.offset as usize..(span.offset + span.bytes) as usize
}

/// What a launch writes lies over nothing else that it touches: threads run in any order.
fn no_overlap(buffers: &[Span], reads: usize) -> Result<()> {
    let meet = |a: &Span, b: &Span| a.area == b.area && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
    for (i, written) in buffers.iter().enumerate().skip(reads) {
        if let Some(other) = buffers[..i].iter().find(|other| meet(written, other)) {
            return Err(Error::Device(format!("a launch writes {written:?}, which lies over {other:?}")));
        }
    }
    Ok(())
}

impl Device for EmuDevice {
    fn name(&self) -> String {
        "emulator".to_string()
    }

    fn capability(&self) -> Option<Version> {
        None
    }

    fn load(&mut self, image: &Image) -> Result<()> {
        self.module = Some(Module::parse(&image.ptx).map_err(Error::Device)?);
        self.entries = image.launches.iter().map(|launch| launch.entry.clone()).collect();
        Ok(())
    }

    fn upload(&mut self, pieces: &[(u64, &[u8])]) -> Result<()> {
        let bytes = pieces.last().map_or(0, |(offset, piece)| offset + piece.len() as u64);
        self.check_room("the weights", bytes, 0)?;
        self.weights.clear();
        for (offset, bytes) in pieces {
            self.weights.resize(*offset as usize, POISON);
            self.weights.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn reserve(&mut self, needed: Lengths) -> Result<bool> {
        let held = Lengths { arena: self.arena.len() as u64, inputs: self.inputs.len() as u64, outputs: self.outputs.len() as u64 };
        if held.hold(&needed) {
            return Ok(false);
        }
        let Lengths { arena, inputs, outputs } = held.max(needed);
        self.check_room("inputs, outputs and intermediate values", arena + inputs + outputs, self.weights.len() as u64)?;
        for (memory, bytes) in [(&mut self.arena, arena), (&mut self.inputs, inputs), (&mut self.outputs, outputs)] {
            memory.resize(bytes as usize, POISON);
        }
        self.runs.clear();
        Ok(true)
    }

    fn record(&mut self, slot: usize, run: &Run) -> Result<()> {
        self.runs.insert(slot, run.clone());
        Ok(())
    }

    fn inputs(&mut self) -> Result<&mut [u8]> {
        Ok(&mut self.inputs)
    }

    fn replay(&mut self, slot: usize) -> Result<()> {
        let run = self.runs.remove(&slot).ok_or_else(|| Error::Device(format!("nothing is recorded as {slot}")))?;
        self.poison();
        let result = run.commands.iter().try_for_each(|command| self.execute(command));
        self.runs.insert(slot, run);
        result
    }

    fn outputs(&self) -> Result<&[u8]> {
        Ok(&self.outputs)
    }

    fn timed(&mut self, run: &Run) -> Result<Vec<Duration>> {
        self.poison();
        let timed = |command: &Command| {
            let begin = Instant::now();
            self.execute(command)?;
            Ok(begin.elapsed())
        };
        run.commands.iter().map(timed).collect()
    }
}
