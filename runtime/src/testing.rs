//! What the tests of several modules share: a generator, small plans, and kernels written in Rust.

use crate::artifact::{self, Program, TargetInfo};
use crate::cpu::host_features;
use crate::gpu::{Image, Launch};
use crate::plan::{Buffer, DType, KernelInfo, Place, Plan, Port, Size, SizeOp, Step, Unit};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// A small generator for test cases.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

/// A folder that goes away with the value.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new(name: &str) -> TempDir {
        let dir = std::env::temp_dir().join(format!("egret-runtime-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary folder");
        TempDir(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// This machine.
pub(crate) fn host_target() -> TargetInfo {
    let features = host_features().into_iter().map(String::from).collect();
    TargetInfo { arch: std::env::consts::ARCH.into(), cpu: "native".into(), features }
}

/// An artifact of one program.
pub(crate) fn written<'a>(
    plan: &Plan,
    code: &[u8],
    target: &TargetInfo,
    weights: impl IntoIterator<Item = Cow<'a, [u8]>>,
) -> crate::Result<Vec<u8>> {
    artifact::to_bytes(&[Program { target, plan, code }], weights)
}

/// A GPU.
pub(crate) fn gpu_target() -> TargetInfo {
    TargetInfo { arch: artifact::GPU_ARCH.into(), cpu: "sm_80".into(), features: vec![] }
}

/// The frame of a PTX module for a plan whose steps have two buffers and one size each: what the loader looks at.
pub(crate) fn image(plan: &Plan) -> Image {
    let entry = |i: usize| format!(".visible .entry k{i}(\n\t.param .u64 a,\n\t.param .u64 b,\n\t.param .u64 n\n)\n{{ ret; }}\n");
    let bodies: String = (0..plan.kernels.len()).map(entry).collect();
    let launch = |i: usize| Launch { entry: format!("k{i}"), blocks: Size::symbol(0), threads: 256, shared: 0, scratch: 0, then: None };
    let launches = (0..plan.kernels.len()).map(launch).collect();
    Image { ptx: format!("//\n.version 7.0\n.target sm_80\n.address_size 64\n{bodies}"), launches }
}

/// A step that calls kernel 0 with one size argument, 0.
pub(crate) fn step(reads: &[u32], writes: &[u32]) -> Step {
    Step {
        name: format!("s{}", writes.first().unwrap_or(&0)),
        kernel: 0,
        reads: reads.into(),
        writes: writes.into(),
        sizes: vec![Size::Const(0)],
        parts: Size::Const(4),
        in_place: None,
        flops: Size::Const(0),
        origins: vec![],
    }
}

/// `factor * symbol 0`.
pub(crate) fn times(factor: i64) -> Size {
    Size::Expr(vec![SizeOp::Symbol(0), SizeOp::Const(factor), SizeOp::Mul])
}

/// A port of 32-bit floats.
pub(crate) fn port(name: &str, dims: &[(Size, &str)], buffer: u32) -> Port {
    let (dims, dim_text) = dims.iter().map(|(dim, text)| (dim.clone(), text.to_string())).unzip();
    Port { name: name.into(), dtype: DType::F32, dims, dim_text, buffer }
}

/// Four floats through `steps` steps of kernel 0: `x -> v1 -> v2 -> ... -> y`.
pub(crate) fn chain(steps: u32) -> Plan {
    chain_of(steps, Size::Const(4), "4", vec![])
}

/// As [`chain`], over `N` floats.
pub(crate) fn dynamic_chain(steps: u32) -> Plan {
    chain_of(steps, Size::symbol(0), "N", vec!["N".into()])
}

fn chain_of(steps: u32, extent: Size, text: &str, symbols: Vec<String>) -> Plan {
    let bytes = if symbols.is_empty() { Size::Const(16) } else { times(4) };
    let buffer = |id: u32| {
        let place = match id {
            0 => Place::Input(0),
            id if id == steps => Place::Output(0),
            _ => Place::Arena,
        };
        Buffer { name: format!("v{id}"), bytes: bytes.clone(), place }
    };
    let chained = |id: u32| Step { sizes: vec![extent.clone()], ..step(&[id], &[id + 1]) };
    Plan {
        model: "chain".into(),
        inputs: vec![port("x", &[(extent.clone(), text)], 0)],
        outputs: vec![port("y", &[(extent.clone(), text)], steps)],
        buffers: (0..=steps).map(buffer).collect(),
        steps: (0..steps).map(chained).collect(),
        kernels: vec![KernelInfo { name: "k0".into(), offset: 0, text: "add".into(), hash: [0; 32], unit: Unit::F32 }],
        fused: false,
        requirements: vec![],
        found: vec![],
        program: None,
        strings: vec![],
        symbols,
        ranges: vec![],
    }
}
