//! PTX in the form in which an artifact holds it.

use super::Code;
use crate::kernel::Kernel;
use crate::plan::size::Symbols;
use egret_runtime::gpu::{Image, Launch};

/// The image of the code of some kernels: numbers of blocks become programs over the size arguments of their kernels.
///
/// # Errors
/// Names a kernel whose number of blocks does not follow from its size arguments.
pub fn image(code: Code, kernels: &[Kernel]) -> Result<Image, String> {
    let then: Vec<Option<usize>> = code.launches.iter().map(|launch| launch.then).collect();
    // Of a launch that follows a kernel's the sizes are those of the kernel.
    let kernel_of = |i: usize| kernels.get(i).or_else(|| kernels.get(then.iter().position(|then| *then == Some(i))?));
    let launch = |(i, launch): (usize, super::Launch)| {
        let names = kernel_of(i).map(Kernel::sizes).unwrap_or_default().into_iter().collect();
        let unknown = |symbol| format!("the blocks of `{}` depend on `{symbol}`, which is no size of it", launch.entry);
        let blocks = Symbols { names }.size(&launch.blocks).map_err(unknown)?;
        Ok(Launch {
            entry: launch.entry,
            blocks,
            threads: launch.threads as u32,
            shared: launch.shared as u32,
            scratch: launch.scratch as u64,
            then: launch.then.map(|i| i as u32),
        })
    };
    let launches = code.launches.into_iter().enumerate().map(launch).collect::<Result<_, String>>()?;
    Ok(Image { ptx: code.ptx, launches })
}
