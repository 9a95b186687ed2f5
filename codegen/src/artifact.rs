//! A compiled model: a program for each target and the weights of all, ready to be written or run.
//!
//! **Invariant.** A constant that two programs read in the same order is in the weights once. What kernels multiply with is packed in
//! panels as wide as the target's vectors, so of that a processor and a GPU have one each; all else they share.

use crate::error::Error;
use crate::kernel::Kernel;
use crate::plan::{self, Weights};
use crate::target::Target;
use crate::{cpu, cuda};
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

/// A model as code for one or more targets.
#[derive(Debug)]
pub struct Compiled {
    /// A program for each target.
    pub programs: Vec<Program>,
    /// The constants of all.
    pub weights: Weights,
}

/// A model as code for one target.
#[derive(Debug)]
pub struct Program {
    /// What the runtime walks.
    pub plan: Plan,
    /// The code of all kernels, as an artifact holds it.
    pub code: Vec<u8>,
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
    compile_all(&[(graph, target)], options)
}

/// Compiles a model for several targets, for each of which it was grouped.
///
/// # Errors
/// As [`compile`].
pub fn compile_all(work: &[(&Graph, &Target)], options: &Options) -> Result<Compiled, Error> {
    let (mut programs, mut weights) = (vec![], Weights::default());
    for (graph, target) in work {
        let built = plan::build_with(weights, graph, target, &|done, total| (options.progress)(Stage::Lower, done, total))?;
        let plan::Program { mut plan, kernels, weights: all } = built;
        weights = all;
        let code = code(&mut plan, &kernels, target, options)?;
        let target = TargetInfo { arch: target.arch.to_string(), cpu: target.tune.clone(), features: target.required_features() };
        programs.push(Program { plan, code, kernels, target });
    }
    Ok(Compiled { programs, weights })
}

/// The code section of a program; the plan is told where its kernels begin.
fn code(plan: &mut Plan, kernels: &[Kernel], target: &Target, options: &Options) -> Result<Vec<u8>, Error> {
    let done = |done| (options.progress)(Stage::Code, done, kernels.len());
    if target.is_cuda() {
        let code = cuda::compile(kernels, target)?;
        done(kernels.len());
        return cuda::image(code, kernels).and_then(|image| image.to_bytes()).map_err(Error::Image);
    }
    let image = cpu::compile(kernels, target, options.threads, &done)?;
    plan.kernels.iter_mut().zip(&image.entries).for_each(|(k, entry)| k.offset = *entry);
    Ok(image.code)
}

impl Compiled {
    /// Writes the artifact; constants are packed one at a time on the way.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        Ok(artifact::write_file(path, &self.written(), self.weights.parts())?)
    }

    /// The artifact's bytes.
    ///
    /// # Errors
    /// When the plan contradicts itself, which would be a bug.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        Ok(artifact::to_bytes(&self.written(), self.weights.parts())?)
    }

    fn written(&self) -> Vec<artifact::Program<'_>> {
        self.programs.iter().map(|p| artifact::Program { target: &p.target, plan: &p.plan, code: &p.code }).collect()
    }

    /// The artifact, as if it had been written and opened.
    ///
    /// # Errors
    /// When a plan contradicts itself, which would be a bug, or memory is lacking.
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

    #[test]
    fn programs_share_what_they_read_in_the_same_order() {
        let source = "graph g(x: f32[N, 8], i: i64[N]) {
            const w: f32[8, 24] = random(1)
            const t: f32[900, 24] = random(2)
            a = matmul(x, w)
            b = gather[axis=0](t, i)
            c = add(a, b)
            return c
        }";
        let graph = text::parse(source).unwrap();
        let targets = ["x86-64-v4", "cuda:sm_80", "cuda:sm_90"].map(|name| Target::named(name).unwrap());
        let bytes = |targets: &[Target]| {
            let work: Vec<_> = targets.iter().map(|target| (&graph, target)).collect();
            let artifact = compile_all(&work, &Options::default()).unwrap().artifact().unwrap();
            assert_eq!(artifact.targets().count(), targets.len());
            artifact.header().weights.bytes
        };
        let table = 900 * 24 * 4;
        let (cpu, gpu, both, all) = (bytes(&targets[..1]), bytes(&targets[1..2]), bytes(&targets[..2]), bytes(&targets));
        assert!(both < cpu + gpu - table && both > cpu, "{both} of {cpu} and {gpu}");
        assert_eq!(all, both, "GPUs read the same weights");
    }
}
