//! The path of a model: import, optimise, generate.
//!
//! **Invariant.** A [`Compiler`] is a set of choices and holds nothing else: the same choices and model give the same artifact, byte
//! for byte. Each step takes what the step before it gives, so a program may stop, look, or put in a step of its own.

use crate::artifact::Artifact;
use crate::error::Error;
use crate::passes::{Context, FUSED, PassManager, Report, UNFUSED};
use egret_codegen::{Compiled, Options, Stage, Target};
use egret_frontend::{Import, ImportOptions};
use egret_ir::{Bindings, Graph, Tensor};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// How models are compiled.
///
/// ```no_run
/// use egret::Compiler;
///
/// let compiler = Compiler::new().dim("batch", 1).target("x86-64-v3");
/// compiler.compile("model.onnx")?.write("model.egret")?;
/// # Ok::<(), egret::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Compiler {
    dims: Bindings,
    shapes: BTreeMap<Arc<str>, Vec<usize>>,
    values: BTreeMap<Arc<str>, Tensor>,
    target: String,
    fuse: bool,
    exact_conv: bool,
}

impl Default for Compiler {
    fn default() -> Compiler {
        Compiler::new()
    }
}

impl Compiler {
    /// Fused code for this machine's processor, with every free dimension left free.
    pub fn new() -> Compiler {
        Compiler {
            dims: Bindings::new(),
            shapes: BTreeMap::new(),
            values: BTreeMap::new(),
            target: "native".to_string(),
            fuse: true,
            exact_conv: false,
        }
    }

    /// Fixes a free dimension. Code for known extents is faster than code for any.
    pub fn dim(mut self, name: &str, extent: i64) -> Compiler {
        self.dims.insert(name.into(), extent);
        self
    }

    /// Fixes the shape of an input, and with it the free dimensions in it.
    pub fn shape(mut self, input: &str, shape: &[usize]) -> Compiler {
        self.shapes.insert(input.into(), shape.to_vec());
        self
    }

    /// Makes an input of an ONNX model a constant. Shapes may then depend on its data.
    pub fn freeze(mut self, input: &str, data: Tensor) -> Compiler {
        self.values.insert(input.into(), data);
        self
    }

    /// Chooses the processor: `native`, a level such as `x86-64-v3`, or a name that LLVM knows. See [`Target`].
    pub fn target(mut self, name: &str) -> Compiler {
        self.target = name.to_string();
        self
    }

    /// Whether ops share kernels. Without, every op has a kernel of its own: what fusion is compared with.
    pub fn fuse(mut self, fuse: bool) -> Compiler {
        self.fuse = fuse;
        self
    }

    /// Whether convolutions are sums of products only. Otherwise 3x3 convolutions are computed by Winograd's algorithm where that
    /// is faster, with about twice the rounding error.
    pub fn exact_conv(mut self, exact: bool) -> Compiler {
        self.exact_conv = exact;
        self
    }

    /// Compiles an ONNX model.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be read, [`Error::Unsupported`] with all problems if it cannot be compiled,
    /// [`Error::Usage`] if the target or a dimension does not exist.
    pub fn compile(&self, path: impl AsRef<Path>) -> Result<Artifact, Error> {
        self.compile_graph(&self.import(path)?.graph)
    }

    /// Compiles a graph.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if it cannot be compiled, [`Error::Usage`] if the target does not exist.
    pub fn compile_graph(&self, graph: &Graph) -> Result<Artifact, Error> {
        self.generate(&self.optimise(graph)?)
    }

    /// Step 1: reads an ONNX model as a graph, with the dimensions fixed that were chosen.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be read, [`Error::Unsupported`] with all problems if it cannot be compiled,
    /// [`Error::Usage`] if it does not have a dimension that was fixed.
    pub fn import(&self, path: impl AsRef<Path>) -> Result<Import, Error> {
        let options = ImportOptions { dims: self.dims.clone(), shapes: self.shapes.clone(), values: self.values.clone() };
        Ok(egret_frontend::import(path.as_ref(), &options)?)
    }

    /// The same for a graph: fixes the dimensions that were chosen.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if an extent does not fit the graph.
    pub fn bind(&self, graph: &Graph) -> Result<Graph, Error> {
        graph.bind(&self.dims).map_err(Error::Usage)
    }

    /// Step 2: rewrites a graph and groups its ops into kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] names the pass that could not do its work.
    pub fn optimise(&self, graph: &Graph) -> Result<Graph, Error> {
        self.optimise_with(graph, |_| ())
    }

    /// The same; `observe` is told of each pass when it is done.
    ///
    /// # Errors
    ///
    /// As [`optimise`](Compiler::optimise).
    pub fn optimise_with(&self, graph: &Graph, mut observe: impl FnMut(&Report)) -> Result<Graph, Error> {
        let passes = PassManager::named(if self.fuse { FUSED } else { UNFUSED }).map_err(Error::Usage)?;
        let context = Context { exact_conv: self.exact_conv, ..Context::default() };
        let (graph, _) = passes.run(graph, &context, |report, _| observe(report)).map_err(Error::Unsupported)?;
        Ok(graph)
    }

    /// Step 3: generates code for a graph of kernels.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] names the value that has no kernel, [`Error::Usage`] if the target does not exist.
    pub fn generate(&self, grouped: &Graph) -> Result<Artifact, Error> {
        Artifact::of(&self.generate_with(grouped, &|_, _, _| {})?)
    }

    /// The same, to be written to a file: weights are packed on their way there and never held together. `progress` is told how
    /// much of a stage is done, and of how much.
    ///
    /// # Errors
    ///
    /// As [`generate`](Compiler::generate).
    pub fn generate_with(&self, grouped: &Graph, progress: &dyn Fn(Stage, usize, usize)) -> Result<Compiled, Error> {
        let options = Options { threads: egret_runtime::default_threads(), progress };
        Ok(egret_codegen::compile(grouped, &self.chosen_target()?, &options)?)
    }

    /// The processor that was chosen by name.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if there is none of this name.
    pub fn chosen_target(&self) -> Result<Target, Error> {
        Target::named(&self.target).map_err(|error| Error::Usage(error.to_string()))
    }
}
