//! What a model runs on: this machine's processor, one of its GPUs, or an emulator of one.
//!
//! **Invariant.** That there is no GPU is found out before a model is compiled for it.
//!
//! ```
//! use egret::DeviceName;
//!
//! assert_eq!("cuda:1".parse(), Ok(DeviceName::Cuda(1)));
//! assert!("gpu".parse::<DeviceName>().unwrap_err().contains("cuda:0"));
//! ```

use crate::error::Error;
use egret_codegen::Target;
use egret_codegen::cuda::emu::EmuDevice;
use egret_runtime::Device;
use egret_runtime::gpu::{Arch, Gpu, Version};
use std::fmt;
use std::str::FromStr;

/// What a model is to run on, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// This machine's processor, `cpu`.
    #[default]
    Cpu,
    /// A GPU of this machine by its number, `cuda:0`.
    Cuda(usize),
    /// The emulator of a GPU, `emu`: slow, and strict.
    Emu,
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceName, String> {
        let number = |text: &str| text.strip_prefix("cuda:")?.parse().ok();
        match text {
            "cpu" => Ok(DeviceName::Cpu),
            "emu" => Ok(DeviceName::Emu),
            "cuda" => Ok(DeviceName::Cuda(0)),
            _ => number(text).map(DeviceName::Cuda).ok_or_else(|| format!("`{text}` is no device; expected cpu, cuda:0 or emu")),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::Cpu => write!(f, "cpu"),
            DeviceName::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            DeviceName::Emu => write!(f, "emu"),
        }
    }
}

/// Schedules of the emulator are the same for every run of the program.
const EMU_SEED: u64 = 1;

impl DeviceName {
    /// Opens it; `None` for the processor.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if this machine does not have it.
    pub fn open(self) -> Result<Option<Box<dyn Device>>, Error> {
        match self {
            DeviceName::Cpu => Ok(None),
            DeviceName::Emu => Ok(Some(Box::new(EmuDevice::new(EMU_SEED)))),
            DeviceName::Cuda(ordinal) => Ok(Some(open_gpu(ordinal)?)),
        }
    }

    /// The target that models are compiled for where none is named: the latest that the device runs.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if this machine does not have the device, or no target is old enough for it.
    pub fn target(self) -> Result<String, Error> {
        match self.open()? {
            None => Ok("native".to_string()),
            Some(device) => match device.capability() {
                None => Ok("cuda".to_string()),
                Some(capability) => latest(capability).ok_or_else(|| {
                    Error::Unsupported(format!("{} is older than all targets: {}", device.name(), Target::gpus().join(", ")))
                }),
            },
        }
    }
}

/// The latest target for a compute capability.
fn latest(capability: Version) -> Option<String> {
    let arch = |name: &&str| Arch::named(name.split(':').nth(1)?);
    let known = Target::gpus().iter().copied().filter_map(|name| Some((arch(&name)?, name)));
    known.filter(|(arch, _)| arch.runs_on(capability)).max_by_key(|(arch, _)| *arch).map(|(_, name)| name.to_string())
}

#[cfg(feature = "cuda")]
fn open_gpu(ordinal: usize) -> Result<Box<dyn Device>, Error> {
    Ok(Box::new(egret_runtime::device::cuda::CudaDevice::open(ordinal)?))
}

#[cfg(not(feature = "cuda"))]
fn open_gpu(ordinal: usize) -> Result<Box<dyn Device>, Error> {
    Err(Error::Unsupported(format!("cuda:{ordinal} cannot be used: this Egret was built without the feature `cuda`")))
}

/// The GPUs of this machine, by their numbers; none without a driver.
///
/// # Errors
///
/// [`Error::Unsupported`], if there is a driver and it cannot be used, or finds no GPU.
pub fn gpus() -> Result<Vec<Gpu>, Error> {
    #[cfg(feature = "cuda")]
    return Ok(egret_runtime::device::cuda::gpus()?);
    #[cfg(not(feature = "cuda"))]
    Ok(vec![])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_printed() {
        for name in [DeviceName::Cpu, DeviceName::Cuda(3), DeviceName::Emu] {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        for wrong in ["", "cuda:", "cuda:-1", "cuda:x", "gpu", "cuda0"] {
            assert!(wrong.parse::<DeviceName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_latest_target_that_runs_is_taken() {
        let latest = |major, minor| latest(Version { major, minor });
        assert_eq!(latest(8, 0).as_deref(), Some("cuda:sm_80"));
        assert_eq!(latest(7, 5).as_deref(), Some("cuda:sm_75"));
        assert_eq!(latest(12, 9).as_deref(), Some("cuda:sm_121"));
        assert_eq!(latest(7, 0), None);
    }
}
