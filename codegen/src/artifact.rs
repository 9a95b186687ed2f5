//! A compiled model: plan, code and weights, ready to be written or run.

use crate::cpu;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::plan::{self, Weights};
use crate::target::Target;
use egret_ir::Graph;
use egret_runtime::artifact;
use egret_runtime::plan::Plan;
use egret_runtime::{Artifact, TargetInfo, WeightsCheck};
use std::path::Path;

/// What compilation has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nodes become kernels.
    Lower,
    /// Kernels become code.
    Code,
}

/// How to compile.
pub struct Options<'a> {
    /// Threads that make code.
    pub threads: usize,
    /// Told how many steps of how many a stage has done.
    pub progress: &'a dyn Fn(Stage, usize, usize),
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { threads: 1, progress: &|_, _, _| {} }
    }
}

/// A model as native code.
#[derive(Debug)]
pub struct Compiled {
    /// What the runtime walks.
    pub plan: Plan,
    /// The code of all kernels.
    pub code: Vec<u8>,
    /// The constants.
    pub weights: Weights,
    /// The kernels, in the order of the plan's.
    pub kernels: Vec<Kernel>,
    /// What the code is for.
    pub target: TargetInfo,
}

/// Compiles a grouped graph.
///
/// # Errors
/// Names the value that cannot be lowered, or shows the kernel that did not become code.
pub fn compile(graph: &Graph, target: &Target, options: &Options) -> Result<Compiled, Error> {
    let program = plan::build(graph, target, &|done, total| (options.progress)(Stage::Lower, done, total))?;
    let plan::Program { mut plan, kernels, weights } = program;
    let image = cpu::compile(&kernels, target, options.threads, &|done| (options.progress)(Stage::Code, done, kernels.len()))?;
    plan.kernels.iter_mut().zip(&image.entries).for_each(|(k, entry)| k.offset = *entry);
    let target = TargetInfo { arch: target.arch.to_string(), cpu: target.tune.clone(), features: target.required_features() };
    Ok(Compiled { plan, code: image.code, weights, kernels, target })
}

impl Compiled {
    /// Writes the artifact; constants are packed one at a time on the way.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        Ok(artifact::write_file(path, &self.plan, &self.code, &self.target, self.weights.parts())?)
    }

    /// The artifact's bytes.
    ///
    /// # Errors
    /// When the plan contradicts itself, which would be a bug.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        Ok(artifact::to_bytes(&self.plan, &self.code, &self.target, self.weights.parts())?)
    }

    /// The artifact, as if it had been written and opened.
    ///
    /// # Errors
    /// When the plan contradicts itself, or this machine cannot run the code.
    pub fn artifact(&self) -> Result<Artifact, Error> {
        Ok(Artifact::from_bytes(&self.to_bytes()?, WeightsCheck::Skip)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use egret_ir::text;

    #[test]
    fn the_same_graph_gives_the_same_bytes() {
        let source = "graph g(x: f32[N, 8], i: i64[N]) {
            const w: f32[8, 24] = random(1)
            const t: f32[9, 24] = random(2)
            a = matmul(x, w)
            b = gather[axis=0](t, i)
            c = add(a, b)
            y = softmax[axes=[1]](c)
            return y
        }";
        let graph = text::parse(source).unwrap();
        let target = Target::named("x86-64-v4").unwrap();
        let bytes = |threads| compile(&graph, &target, &Options { threads, ..Options::default() }).unwrap().to_bytes().unwrap();
        assert_eq!(blake3::hash(&bytes(1)), blake3::hash(&bytes(3)));
    }
}
