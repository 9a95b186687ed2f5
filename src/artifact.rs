//! A compiled model, in memory or in a file.
//!
//! **Invariant.** An [`Artifact`] was checked when it was made or opened: its plan is safe to walk, and its code and weights are
//! what was written. Whether its code fits this processor is checked when a session is made of it.

use crate::error::Error;
use egret_codegen::Compiled;
use egret_ir::{Dim, TensorType};
use egret_runtime::artifact::Header;
use egret_runtime::gpu::Image;
use egret_runtime::plan::{Plan, Port, Size, SizeOp};
use egret_runtime::{Device, Options, Session, TargetInfo, WeightsCheck};
use std::path::Path;

/// A compiled model: plan, machine code and weights. Clones share their bytes.
///
/// ```no_run
/// # let artifact = egret::Compiler::new().compile("model.onnx")?;
/// artifact.write("model.egret")?;
/// let mut session = egret::Artifact::open("model.egret")?.session(2)?;
/// # Ok::<(), egret::Error>(())
/// ```
#[derive(Clone)]
pub struct Artifact {
    inner: egret_runtime::Artifact,
}

impl Artifact {
    /// What was compiled, as if it had been written and opened.
    ///
    /// # Errors
    ///
    /// [`Error::Resource`] if there is not enough memory for the file.
    pub fn of(compiled: &Compiled) -> Result<Artifact, Error> {
        Ok(Artifact { inner: compiled.artifact()? })
    }

    /// Opens a compiled model.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be read, is damaged, or was made by another version.
    pub fn open(path: impl AsRef<Path>) -> Result<Artifact, Error> {
        Ok(Artifact { inner: egret_runtime::Artifact::open(path, WeightsCheck::Quick)? })
    }

    /// Checks a compiled model in memory; the bytes are copied.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it is damaged or was made by another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Artifact, Error> {
        Ok(Artifact { inner: egret_runtime::Artifact::from_bytes(bytes, WeightsCheck::Quick)? })
    }

    /// The bytes of the file, which are the same whenever the same model is compiled the same way.
    pub fn bytes(&self) -> &[u8] {
        self.inner.bytes()
    }

    /// Writes the file; it appears under its name when it is complete.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        Ok(self.inner.write(path)?)
    }

    /// Loads it, to run on this many threads; 0 asks for as many as this process may use.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the code is for another processor, [`Error::Resource`] if memory or threads are lacking.
    pub fn session(&self, threads: usize) -> Result<Session, Error> {
        let options = Options { threads, ..Options::default() };
        Ok(Session::from_artifact(self.inner.clone(), options)?)
    }

    /// Loads it onto a GPU or the emulator of one; see [`DeviceName::open`](crate::DeviceName::open).
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it has no code for the device, [`Error::Unsupported`] if that refuses it, [`Error::Resource`] if memory is
    /// lacking.
    pub fn session_on(&self, device: Box<dyn Device>) -> Result<Session, Error> {
        Ok(Session::on(self.inner.clone(), device)?)
    }

    /// What it does: inputs, outputs, kernels, the order of their calls; of several programs the first.
    pub fn plan(&self) -> &Plan {
        self.inner.plan()
    }

    /// The same of a program, by its number in the [header](Artifact::header).
    ///
    /// # Panics
    ///
    /// If there are not so many programs.
    pub fn plan_of(&self, program: usize) -> &Plan {
        self.inner.plan_of(program)
    }

    /// The code of a program for a GPU, by its number; `None` for a processor.
    ///
    /// # Panics
    ///
    /// If there are not so many programs.
    pub fn image_of(&self, program: usize) -> Option<&Image> {
        self.inner.image_of(program)
    }

    /// Targets, sections and hashes.
    pub fn header(&self) -> &Header {
        self.inner.header()
    }

    /// What the code of the first program is for.
    pub fn target(&self) -> &TargetInfo {
        &self.header().programs[0].target
    }

    /// What there is code for.
    pub fn targets(&self) -> impl Iterator<Item = &TargetInfo> {
        self.inner.targets()
    }

    /// Whether some kernel does the work of several ops.
    pub fn is_fused(&self) -> bool {
        self.plan().fused
    }

    /// The inputs with their types, in the model's order.
    pub fn inputs(&self) -> Vec<(String, TensorType)> {
        let plan = self.plan();
        plan.inputs.iter().map(|port| (port.name.clone(), tensor_type(plan, port))).collect()
    }
}

/// The type of a port in the terms of the IR.
fn tensor_type(plan: &Plan, port: &Port) -> TensorType {
    let dims = port.dims.iter().map(|size| dim(size, &plan.symbols));
    TensorType { dtype: dtype(port.dtype), dims: dims.collect() }
}

/// The element type of the IR; both crates have all of them, under the same names.
pub(crate) fn dtype(dtype: egret_runtime::DType) -> egret_ir::DType {
    use egret_ir::DType as Ir;
    use egret_runtime::DType as Plan;
    match dtype {
        Plan::F64 => Ir::F64,
        Plan::F32 => Ir::F32,
        Plan::F16 => Ir::F16,
        Plan::BF16 => Ir::BF16,
        Plan::I8 => Ir::I8,
        Plan::I16 => Ir::I16,
        Plan::I32 => Ir::I32,
        Plan::I64 => Ir::I64,
        Plan::U8 => Ir::U8,
        Plan::U16 => Ir::U16,
        Plan::U32 => Ir::U32,
        Plan::U64 => Ir::U64,
        Plan::Bool => Ir::Bool,
        Plan::F8E4M3 => Ir::F8E4M3,
        Plan::F8E4M3FNUZ => Ir::F8E4M3FNUZ,
        Plan::F8E5M2 => Ir::F8E5M2,
        Plan::F8E5M2FNUZ => Ir::F8E5M2FNUZ,
        Plan::F4E2M1 => Ir::F4E2M1,
        Plan::I4 => Ir::I4,
        Plan::U4 => Ir::U4,
        Plan::I2 => Ir::I2,
        Plan::U2 => Ir::U2,
        Plan::Str => Ir::Str,
    }
}

/// A size as an extent: the postfix program, run on extents in place of numbers.
fn dim(size: &Size, symbols: &[String]) -> Dim {
    let ops = match size {
        Size::Const(n) => return Dim::from(*n),
        Size::Expr(ops) => ops,
    };
    let mut stack: Vec<Dim> = Vec::new();
    for op in ops {
        // The plan was checked: the stack is never empty, and every symbol has a name.
        let mut pop = || stack.pop().unwrap_or(Dim::ZERO);
        let value = match *op {
            SizeOp::Const(n) => Dim::from(n),
            SizeOp::Symbol(index) => Dim::symbol(symbols[index as usize].as_str()),
            op => {
                let (rhs, lhs) = (pop(), pop());
                apply(op, lhs, rhs)
            }
        };
        stack.push(value);
    }
    stack.pop().unwrap_or(Dim::ZERO)
}

fn apply(op: SizeOp, lhs: Dim, rhs: Dim) -> Dim {
    match op {
        SizeOp::Add => lhs + rhs,
        SizeOp::Sub => lhs - rhs,
        SizeOp::Mul => lhs * rhs,
        SizeOp::FloorDiv => lhs.floor_div(&rhs),
        SizeOp::Mod => lhs.modulo(&rhs),
        SizeOp::Max => lhs.maximum(&rhs),
        SizeOp::Min => lhs.minimum(&rhs),
        SizeOp::Const(_) | SizeOp::Symbol(_) => lhs,
    }
}
