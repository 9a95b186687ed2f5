//! NVIDIA's GPUs, through the driver: PTX is made machine code by the driver (and kept, see `cache`), a run becomes one CUDA graph,
//! and an inference is one launch of that.
//!
//! The driver is looked for when a device is opened; without one, everything else of this crate works. **Invariant.** Nothing is asked
//! of the driver before it is known to be there and new enough ([`OLDEST_DRIVER`]): the library under this module ends the process
//! otherwise. No memory is taken before it is known to be free.
//!
//! ```
//! use egret_runtime::device::cuda::CudaDevice;
//!
//! // On a machine without a driver this is a sentence, as everything that can go wrong here is.
//! if let Err(error) = CudaDevice::open(0) {
//!     assert_eq!(error.exit_code(), 3);
//! }
//! ```

mod cache;
mod driver;
mod memory;

pub use driver::{OLDEST_DRIVER, gpus};

use super::{Command, Device, Lengths, Room, Run, Span};
use crate::device::Area;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Image, Launch, Version, cuda_for_ptx, ptx_header};
use cudarc::driver::sys::{CUevent_flags, CUfunction, CUfunction_attribute_enum, CUgraphInstantiate_flags, CUmodule, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaEvent, CudaGraph, CudaStream, DriverError, result};
use memory::{Memory, Pinned};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of shared memory that any kernel can be started with; more has to be asked for (CUDA programming guide, "Shared memory").
const ALWAYS_SHARED: u32 = 48 << 10;

/// A GPU with at most one image on it.
pub struct CudaDevice {
    // Dropped in this order: what works on memory and code before these, and all before the context.
    graphs: HashMap<usize, CudaGraph>,
    kernels: Vec<CUfunction>,
    module: Option<Module>,
    memory: Areas,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    gpu: Gpu,
}

/// The areas, on the GPU and, of what goes in and out, in pinned memory of this machine.
struct Areas {
    lengths: Lengths,
    weights: Memory,
    arena: Memory,
    inputs: Memory,
    outputs: Memory,
    host_inputs: Pinned,
    host_outputs: Pinned,
}

/// Loaded code.
struct Module(CUmodule);

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded by `load`, and no kernel of it runs any more: every replay waits for its end.
        let _ = unsafe { result::module::unload(self.0) };
    }
}

// SAFETY: handles of the driver belong to a context, not to a thread; every method that uses one makes the context current first,
// and `&mut self` keeps two threads from using a graph at once.
unsafe impl Send for CudaDevice {}

impl CudaDevice {
    /// Opens GPU number `ordinal` of this machine.
    ///
    /// # Errors
    ///
    /// [`Error::Device`], if there is no driver, the driver is too old, or there is no such GPU.
    pub fn open(ordinal: usize) -> Result<CudaDevice> {
        let gpu = driver::gpu(ordinal)?;
        let failed = |error: DriverError| Error::Device(format!("cuda:{ordinal} ({}) cannot be used: {}", gpu.name, said(error)));
        let context = CudaContext::new(ordinal).map_err(failed)?;
        // SAFETY: all work is on one stream, and `replay` waits for its end before memory is looked at or freed.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(failed)?;
        let empty = || Memory::none(&context);
        let pinned = || Pinned::none(&context);
        let memory = Areas {
            lengths: Lengths::default(),
            weights: empty(),
            arena: empty(),
            inputs: empty(),
            outputs: empty(),
            host_inputs: pinned(),
            host_outputs: pinned(),
        };
        Ok(CudaDevice { graphs: HashMap::new(), kernels: vec![], module: None, memory, stream, context, gpu })
    }

    /// What it is.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    fn failed(&self, what: &str) -> impl Fn(DriverError) -> Error + use<> {
        let (what, name) = (what.to_string(), self.gpu.name.clone());
        move |error| Error::Device(format!("{name}: {what} failed: {}", said(error)))
    }

    /// Makes the context the one that this thread's calls are for.
    fn enter(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(self.failed("making its context current"))
    }

    fn address(&self, span: &Span) -> u64 {
        let memory = match span.area {
            Area::Weights => &self.memory.weights,
            Area::Arena => &self.memory.arena,
            Area::Inputs => &self.memory.inputs,
            Area::Outputs => &self.memory.outputs,
        };
        memory.address() + span.offset
    }

    /// Hands a command to the stream, which does it later.
    fn issue(&self, command: &Command) -> Result<(), DriverError> {
        let stream = self.stream.cu_stream();
        match command {
            // SAFETY: both spans lie in areas that were reserved, and are of one length.
            Command::Copy { from, to } => unsafe {
                result::memcpy_dtod_async(self.address(to), self.address(from), from.bytes as usize, stream)
            },
            Command::Launch { kernel, blocks, threads, shared, buffers, sizes, .. } => {
                let addresses = buffers.iter().map(|span| self.address(span));
                let mut values: Vec<u64> = addresses.chain(sizes.iter().map(|size| *size as u64)).collect();
                let mut parameters: Vec<*mut c_void> = values.iter_mut().map(|value| (&raw mut *value).cast()).collect();
                // SAFETY: the image was checked against its plan, so the kernel takes as many parameters of eight bytes; the
                // driver copies them before it returns.
                unsafe { result::launch_kernel(self.kernels[*kernel], (*blocks, 1, 1), (*threads, 1, 1), *shared, stream, &mut parameters) }
            }
        }
    }

    /// The kernel of a launch, allowed the shared memory that it is started with.
    fn function(&self, module: &Module, Launch { entry, shared, .. }: &Launch) -> Result<CUfunction> {
        let name = CString::new(entry.as_str()).map_err(|_| Error::Device(format!("`{}` is no name of a kernel", entry.escape_debug())))?;
        // SAFETY: the caller keeps the module as long as its functions.
        let function = unsafe { result::module::get_function(module.0, name) };
        let function = function.map_err(self.failed(&format!("finding kernel `{entry}`")))?;
        if *shared > ALWAYS_SHARED {
            let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: as above; `Image::check` bounds the number.
            let set = unsafe { result::function::set_function_attribute(function, attribute, *shared as i32) };
            set.map_err(self.failed(&format!("giving kernel `{entry}` {shared} bytes of shared memory")))?;
        }
        Ok(function)
    }

    fn bring_inputs(&self, bytes: u64) -> Result<(), DriverError> {
        self.memory.inputs.take(self.memory.host_inputs.first(bytes), &self.stream)
    }

    fn fetch_outputs(&mut self, bytes: u64) -> Result<(), DriverError> {
        self.memory.outputs.give(self.memory.host_outputs.first_mut(bytes), &self.stream)
    }

    /// Hands a whole run to the stream.
    fn issue_all(&mut self, run: &Run) -> Result<(), DriverError> {
        self.bring_inputs(run.lengths.inputs)?;
        run.commands.iter().try_for_each(|command| self.issue(command))?;
        self.fetch_outputs(run.lengths.outputs)
    }

    /// Whether the driver can read the PTX.
    fn check_driver(&self, image: &Image) -> Result<()> {
        let Some((ptx, _)) = ptx_header(&image.ptx) else { return Ok(()) };
        let (needed, found) = (cuda_for_ptx(ptx), self.gpu.driver);
        match needed <= found {
            true => Ok(()),
            false => Err(Error::Device(format!(
                "the code is PTX {ptx}, which drivers for CUDA {needed} and later read; the driver of this machine is for CUDA {found}; \
                 update it, or compile the model for an older GPU with --target cuda:sm_80"
            ))),
        }
    }

    /// Fails with the numbers where so many more bytes are not free.
    fn check_free(&self, what: &str, bytes: u64) -> Result<()> {
        let (free, total) = self.context.mem_get_info().map_err(self.failed("asking for its free memory"))?;
        Room { free: free as u64, total: total as u64 }.holds(what, bytes, &self.gpu.name)
    }
}

impl Device for CudaDevice {
    fn name(&self) -> String {
        format!("{} ({})", self.gpu.name, self.gpu.capability.arch())
    }

    fn capability(&self) -> Option<Version> {
        Some(self.gpu.capability)
    }

    fn load(&mut self, image: &Image) -> Result<()> {
        self.enter()?;
        self.check_driver(image)?;
        let module = driver::module(image, &self.gpu)?;
        let module = Module(module);
        let kernels = image.launches.iter().map(|launch| self.function(&module, launch)).collect::<Result<_>>()?;
        (self.kernels, self.module) = (kernels, Some(module));
        Ok(())
    }

    fn upload(&mut self, pieces: &[(u64, &[u8])]) -> Result<()> {
        self.enter()?;
        let bytes = pieces.last().map_or(0, |(offset, piece)| offset + piece.len() as u64);
        self.check_free("the weights", bytes)?;
        let failed = self.failed("uploading the weights");
        self.memory.weights = Memory::of(&self.context, bytes).map_err(&failed)?;
        for (offset, piece) in pieces.iter().filter(|(_, piece)| !piece.is_empty()) {
            // SAFETY: the piece lies inside the memory that was just made; the call returns when the bytes are there.
            unsafe { result::memcpy_htod_sync(self.memory.weights.address() + offset, piece) }.map_err(&failed)?;
        }
        Ok(())
    }

    fn reserve(&mut self, needed: Lengths) -> Result<bool> {
        if self.memory.lengths.hold(&needed) {
            return Ok(false);
        }
        self.enter()?;
        // What was recorded names the old memory, which goes first so that both are never held together.
        self.graphs.clear();
        let lengths = self.memory.lengths.max(needed);
        let (context, failed) = (&self.context, self.failed("reserving memory"));
        let memory = &mut self.memory;
        memory.lengths = Lengths::default();
        for area in [&mut memory.arena, &mut memory.inputs, &mut memory.outputs] {
            *area = Memory::none(context);
        }
        self.check_free("inputs, outputs and intermediate values", lengths.arena + lengths.inputs + lengths.outputs)?;
        let (context, memory) = (&self.context, &mut self.memory);
        memory.arena = Memory::of(context, lengths.arena).map_err(&failed)?;
        memory.inputs = Memory::of(context, lengths.inputs).map_err(&failed)?;
        memory.outputs = Memory::of(context, lengths.outputs).map_err(&failed)?;
        memory.host_inputs = Pinned::to_write(context, lengths.inputs).map_err(&failed)?;
        memory.host_outputs = Pinned::to_read(context, lengths.outputs).map_err(&failed)?;
        memory.lengths = lengths;
        Ok(true)
    }

    fn record(&mut self, slot: usize, run: &Run) -> Result<()> {
        self.enter()?;
        let failed = self.failed("recording a run");
        self.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(&failed)?;
        let issued = self.issue_all(run);
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0));
        issued.map_err(&failed)?;
        self.graphs.remove(&slot);
        if let Some(graph) = graph.map_err(&failed)? {
            graph.upload().map_err(&failed)?;
            self.graphs.insert(slot, graph);
        }
        Ok(())
    }

    fn inputs(&mut self) -> Result<&mut [u8]> {
        let bytes = self.memory.lengths.inputs;
        Ok(self.memory.host_inputs.first_mut(bytes))
    }

    fn replay(&mut self, slot: usize) -> Result<()> {
        self.enter()?;
        // A run that does nothing has no graph.
        let launched = self.graphs.get(&slot).map_or(Ok(()), CudaGraph::launch);
        launched.and_then(|()| self.stream.synchronize()).map_err(self.failed("a run"))
    }

    fn outputs(&self) -> Result<&[u8]> {
        Ok(self.memory.host_outputs.first(self.memory.lengths.outputs))
    }

    fn timed(&mut self, run: &Run) -> Result<Vec<Duration>> {
        self.enter()?;
        let failed = self.failed("a timed run");
        let event = || -> Result<CudaEvent, DriverError> {
            let event = self.context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?;
            event.record(&self.stream)?;
            Ok(event)
        };
        self.bring_inputs(run.lengths.inputs).map_err(&failed)?;
        let mut events = vec![event().map_err(&failed)?];
        for command in &run.commands {
            self.issue(command).map_err(&failed)?;
            events.push(event().map_err(&failed)?);
        }
        self.fetch_outputs(run.lengths.outputs).map_err(&failed)?;
        self.stream.synchronize().map_err(&failed)?;
        let elapsed = |pair: &[CudaEvent]| pair[0].elapsed_ms(&pair[1]).map(|ms| Duration::from_secs_f64(f64::from(ms).max(0.0) / 1e3));
        events.windows(2).map(elapsed).collect::<Result<_, _>>().map_err(&failed)
    }
}

/// What the driver says of an error, in its words.
fn said(error: DriverError) -> String {
    let words = |text: Result<&std::ffi::CStr, DriverError>| text.ok().map(|text| text.to_string_lossy().into_owned());
    let name = words(error.error_name()).unwrap_or_else(|| format!("{:?}", error.0));
    words(error.error_string()).map_or(name.clone(), |text| format!("{text} ({name})"))
}
