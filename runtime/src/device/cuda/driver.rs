//! What the driver says of this machine, and code that it makes of PTX.
//!
//! **Invariant.** [`gpu`] and [`gpus`] ask whether there is a driver before they ask it anything.

use super::cache::Cache;
use super::said;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Image, Version};
use cudarc::driver::sys::{self, CUdevice_attribute, CUjit_option, CUjitInputType, CUlinkState, CUmodule};
use cudarc::driver::{DriverError, result};
use std::ffi::{CString, c_void};

/// The oldest driver that has all functions that are called: those for graphs came last, with CUDA 11.4.
pub const OLDEST_DRIVER: Version = Version { major: 11, minor: 4 };

/// The GPUs of this machine, by their numbers; none where there is no driver.
///
/// # Errors
///
/// [`Error::Device`], if there is a driver and it cannot be used, or finds no GPU.
pub fn gpus() -> Result<Vec<Gpu>> {
    if !is_present() {
        return Ok(vec![]);
    }
    let driver = start()?;
    match count()? {
        0 => Err(no_gpu()),
        count => (0..count).map(|ordinal| describe(ordinal, driver)).collect(),
    }
}

fn no_gpu() -> Error {
    Error::Device("the NVIDIA driver of this machine finds no GPU".to_string())
}

/// GPU number `ordinal`.
pub(super) fn gpu(ordinal: usize) -> Result<Gpu> {
    if !is_present() {
        return Err(Error::Device(format!(
            "cuda:{ordinal} cannot be used: this machine has no NVIDIA driver (libcuda.so was not found); \
             run with --device cpu, or with --device emu to check results slowly"
        )));
    }
    let driver = start()?;
    match count()? {
        0 => Err(no_gpu()),
        count if ordinal >= count => {
            Err(Error::Device(format!("there is no cuda:{ordinal}: this machine has {count}, from cuda:0 to cuda:{}", count - 1)))
        }
        _ => describe(ordinal, driver),
    }
}

fn is_present() -> bool {
    // SAFETY: loads the library and unloads it again; what it does then is NVIDIA's affair.
    unsafe { sys::is_culib_present() }
}

/// Starts the driver, if it is new enough; says its CUDA version.
fn start() -> Result<Version> {
    let mut number = 0;
    // SAFETY: the library is there, and this function has been in it from the first.
    unsafe { sys::cuDriverGetVersion(&mut number) }.result().map_err(failed("asking for its version"))?;
    let number = u32::try_from(number).unwrap_or(0);
    let version = Version { major: number / 1000, minor: number % 1000 / 10 };
    if version < OLDEST_DRIVER {
        return Err(Error::Device(format!(
            "the NVIDIA driver of this machine is for CUDA {version}; CUDA {OLDEST_DRIVER} or later is needed: update it"
        )));
    }
    result::init().map_err(failed("starting"))?;
    Ok(version)
}

fn count() -> Result<usize> {
    Ok(result::device::get_count().map_err(failed("counting GPUs"))?.max(0) as usize)
}

fn describe(ordinal: usize, driver: Version) -> Result<Gpu> {
    let failed = failed("asking what a GPU is");
    let device = result::device::get(ordinal as i32).map_err(&failed)?;
    // SAFETY: the handle is the driver's own, for as long as the process runs.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) }.map(|value| value.max(0) as u32).map_err(&failed);
    Ok(Gpu {
        name: result::device::get_name(device).map_err(&failed)?,
        capability: Version {
            major: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            minor: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        },
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }.map_err(&failed)? as u64,
        multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        driver,
    })
}

fn failed(what: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Device(format!("the NVIDIA driver of this machine cannot be used: {what} failed: {}", said(error)))
}

/// The code of an image in the current context: kept from before, or made now and kept.
pub(super) fn module(image: &Image, gpu: &Gpu) -> Result<CUmodule> {
    let (cache, key) = (Cache::of_user(), Cache::key(&image.ptx, gpu));
    let known = cache.as_ref().and_then(|cache| cache.get(&key));
    // What a driver made and does not take any more is made again.
    if let Some(module) = known.and_then(|cubin| loaded(&cubin).ok()) {
        return Ok(module);
    }
    let cubin = linked(&image.ptx)?;
    let module = loaded(&cubin).map_err(failed("loading code"))?;
    if let Some(cache) = cache {
        cache.put(&key, &cubin);
    }
    Ok(module)
}

fn loaded(cubin: &[u8]) -> Result<CUmodule, DriverError> {
    // SAFETY: the bytes are a whole cubin, as the driver made it: what is kept carries its hash.
    unsafe { result::module::load_data(cubin.as_ptr().cast()) }
}

/// Bytes for what the driver has to say of PTX that it does not take.
const LOG_BYTES: usize = 8192;

/// Link work under way.
struct Link(CUlinkState);

impl Drop for Link {
    fn drop(&mut self) {
        // SAFETY: made by `linked`, and the bytes that it owns were copied.
        let _ = unsafe { sys::cuLinkDestroy(self.0) };
    }
}

/// The machine code that the driver makes of PTX for the current context's GPU.
fn linked(ptx: &str) -> Result<Vec<u8>> {
    let mut log = vec![0u8; LOG_BYTES];
    let cubin = link(ptx, &mut log);
    cubin.map_err(|error| {
        let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
        let (said, log) = (said(error), String::from_utf8_lossy(&log[..end]).trim().to_string());
        Error::Device(format!("the NVIDIA driver makes no code of the PTX: {said}{}{log}", if log.is_empty() { "" } else { "\n" }))
    })
}

fn link(ptx: &str, log: &mut [u8]) -> Result<Vec<u8>, DriverError> {
    let text = CString::new(ptx).map_err(|_| DriverError(sys::CUresult::CUDA_ERROR_INVALID_PTX))?;
    let text = text.as_bytes_with_nul();
    let mut options = [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), std::ptr::without_provenance_mut(log.len())];
    let mut state = std::ptr::null_mut();
    // SAFETY: options, values and the log outlive the work, which ends with `link`.
    unsafe { sys::cuLinkCreate_v2(2, options.as_mut_ptr(), values.as_mut_ptr(), &mut state) }.result()?;
    let link = Link(state);
    let (kind, data) = (CUjitInputType::CU_JIT_INPUT_PTX, text.as_ptr().cast_mut().cast());
    let none = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the text ends with a zero byte and is as long as is said; the driver only reads it.
    unsafe { sys::cuLinkAddData_v2(link.0, kind, data, text.len(), c"egret".as_ptr(), 0, none.0, none.1) }.result()?;
    let (mut cubin, mut bytes) = (std::ptr::null_mut::<c_void>(), 0usize);
    // SAFETY: the work is complete; the driver says where its bytes are, which stay until `link` goes.
    unsafe {
        sys::cuLinkComplete(link.0, &mut cubin, &mut bytes).result()?;
        Ok(std::slice::from_raw_parts(cubin.cast::<u8>(), bytes).to_vec())
    }
}
