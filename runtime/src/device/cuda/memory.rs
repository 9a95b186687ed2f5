//! Memory of a GPU, and memory of this machine that the GPU copies from and to by itself.
//!
//! **Invariant.** An empty piece has no allocation; every other has one, which goes with it.

use cudarc::driver::sys::{CU_MEMHOSTALLOC_WRITECOMBINED, CUdeviceptr};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};
use std::sync::Arc;

/// Memory of a GPU.
pub(super) struct Memory {
    context: Arc<CudaContext>,
    address: CUdeviceptr,
    bytes: u64,
}

impl Memory {
    /// No bytes.
    pub(super) fn none(context: &Arc<CudaContext>) -> Memory {
        Memory { context: context.clone(), address: 0, bytes: 0 }
    }

    /// So many bytes, with anything in them. The context is current.
    pub(super) fn of(context: &Arc<CudaContext>, bytes: u64) -> Result<Memory, DriverError> {
        let mut memory = Memory::none(context);
        if bytes > 0 {
            // SAFETY: what is in the bytes is never looked at before it was written.
            memory.address = unsafe { result::malloc_sync(bytes as usize) }?;
            memory.bytes = bytes;
        }
        Ok(memory)
    }

    /// Where it begins, for the GPU.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// Has its first bytes copied from the host's.
    pub(super) fn take(&self, from: &[u8], stream: &CudaStream) -> Result<(), DriverError> {
        debug_assert!(from.len() as u64 <= self.bytes);
        if from.is_empty() {
            return Ok(());
        }
        // SAFETY: both are as long, and are kept until the stream was waited for.
        unsafe { result::memcpy_htod_async(self.address, from, stream.cu_stream()) }
    }

    /// Has its first bytes copied to the host's.
    pub(super) fn give(&self, to: &mut [u8], stream: &CudaStream) -> Result<(), DriverError> {
        debug_assert!(to.len() as u64 <= self.bytes);
        if to.is_empty() {
            return Ok(());
        }
        // SAFETY: both are as long, and are kept until the stream was waited for.
        unsafe { result::memcpy_dtoh_async(to, self.address, stream.cu_stream()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.bytes > 0 && self.context.bind_to_thread().is_ok() {
            // SAFETY: allocated by `of`; no work is under way, since every run is waited for.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Pinned memory of this machine.
pub(super) struct Pinned {
    context: Arc<CudaContext>,
    address: *mut u8,
    bytes: usize,
}

impl Pinned {
    /// No bytes.
    pub(super) fn none(context: &Arc<CudaContext>) -> Pinned {
        Pinned { context: context.clone(), address: std::ptr::null_mut(), bytes: 0 }
    }

    /// So many zeros, for the GPU to read: writing is fast, and reading on this side very slow.
    pub(super) fn to_write(context: &Arc<CudaContext>, bytes: u64) -> Result<Pinned, DriverError> {
        Pinned::of(context, bytes, CU_MEMHOSTALLOC_WRITECOMBINED)
    }

    /// So many zeros, for the GPU to write.
    pub(super) fn to_read(context: &Arc<CudaContext>, bytes: u64) -> Result<Pinned, DriverError> {
        Pinned::of(context, bytes, 0)
    }

    fn of(context: &Arc<CudaContext>, bytes: u64, flags: u32) -> Result<Pinned, DriverError> {
        let mut pinned = Pinned::none(context);
        if bytes > 0 {
            // SAFETY: the bytes are set right below, before anything reads them.
            pinned.address = unsafe { result::malloc_host(bytes as usize, flags) }?.cast();
            pinned.bytes = bytes as usize;
            // SAFETY: the allocation has so many bytes.
            unsafe { pinned.address.write_bytes(0, pinned.bytes) };
        }
        Ok(pinned)
    }

    /// Its first bytes.
    pub(super) fn first(&self, bytes: u64) -> &[u8] {
        match self.bytes {
            0 => &[],
            // SAFETY: the allocation has so many bytes, all of them set.
            all => unsafe { std::slice::from_raw_parts(self.address, all.min(bytes as usize)) },
        }
    }

    /// The same to be written.
    pub(super) fn first_mut(&mut self, bytes: u64) -> &mut [u8] {
        match self.bytes {
            0 => &mut [],
            // SAFETY: the allocation has so many bytes, all of them set, and is borrowed by nobody else.
            all => unsafe { std::slice::from_raw_parts_mut(self.address, all.min(bytes as usize)) },
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.bytes > 0 && self.context.bind_to_thread().is_ok() {
            // SAFETY: allocated by `of`; no work is under way, since every run is waited for.
            let _ = unsafe { result::free_host(self.address.cast()) };
        }
    }
}
