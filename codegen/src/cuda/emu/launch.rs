//! Starts kernels as a runtime would, on the memories of the interpreter.

use super::{Counters, Module, Start, run};
use crate::cuda::{Code, Launch};
use crate::interp::Memory;
use crate::kernel::Kernel;
use egret_ir::{Bindings, Tensor};

/// Compiled kernels with their PTX read.
pub struct Device<'a> {
    code: &'a Code,
    module: Module,
    seed: u64,
}

impl<'a> Device<'a> {
    /// Reads the PTX; `seed` decides every schedule.
    ///
    /// # Errors
    /// Shows the line that is not understood.
    pub fn new(code: &'a Code, seed: u64) -> Result<Device<'a>, String> {
        Ok(Device { code, module: Module::parse(&code.ptx)?, seed })
    }

    /// Runs kernel `i` on the contents of its buffers; the counters are those of its first launch.
    ///
    /// # Errors
    /// As [`run`], and when a buffer cannot be what the kernel takes.
    pub fn run(&self, i: usize, kernel: &Kernel, sizes: &Bindings, buffers: &mut [Memory]) -> Result<Counters, String> {
        let launch = &self.code.launches[i];
        let known = |name: &std::sync::Arc<str>| sizes.get(name).copied().ok_or_else(|| format!("`{name}` is not known"));
        let values: Vec<i64> = kernel.sizes().iter().map(known).collect::<Result<_, _>>()?;
        let working = (launch.scratch > 0).then(|| vec![u8::MAX; launch.scratch]);
        let mut bytes: Vec<Vec<u8>> = buffers.iter().map(bytes_of).chain(working).collect();
        let counters = self.launched(launch, sizes, &values, &mut bytes)?;
        launch.then.map_or(Ok(Counters::default()), |then| self.launched(&self.code.launches[then], sizes, &values, &mut bytes))?;
        for (buffer, bytes) in buffers.iter_mut().zip(bytes) {
            let count = buffer.elements.len();
            *buffer = Memory::of(&Tensor::new(buffer.dtype, vec![count], bytes.into())?);
        }
        Ok(counters)
    }

    fn launched(&self, launch: &Launch, sizes: &Bindings, values: &[i64], bytes: &mut [Vec<u8>]) -> Result<Counters, String> {
        let entry = self.module.entry(&launch.entry).ok_or_else(|| format!("there is no `{}`", launch.entry))?;
        let blocks = launch.blocks.eval(sizes).and_then(|b| u32::try_from(b).ok());
        let blocks = blocks.ok_or_else(|| format!("{} is no number of blocks here", launch.blocks))?;
        run(entry, Start { blocks, threads: launch.threads, shared: launch.shared, sizes: values, seed: self.seed }, bytes)
    }
}

fn bytes_of(memory: &Memory) -> Vec<u8> {
    Tensor::from_elements(memory.dtype, vec![memory.elements.len()], memory.elements.iter().copied()).bytes().to_vec()
}
