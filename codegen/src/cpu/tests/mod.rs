//! Compiled kernels against the interpreter, on every instruction set that this machine runs.

mod chain;
mod code;
mod contract;
mod map;
mod math;
mod pairs;
mod quantise;
mod random;
mod recur;
mod rows;
mod top_k;
mod winograd;

use crate::cpu::compile;
use crate::interp::{Memory, run_whole};
use crate::kernel::*;
use crate::target::Target;
use egret_ir::scalar::{BinOp, UnOp};
use egret_ir::{Bindings, DType, Dim, Element, Tensor};
use egret_runtime::cpu::KernelFn;
use egret_runtime::plan::ALIGN;
use memmap2::{Mmap, MmapMut};
use std::sync::Arc;

/// The targets whose code this machine runs; the tests do nothing elsewhere.
pub(super) fn targets() -> Vec<Target> {
    let all = ["x86-64-v4", "x86-64-v3", "aarch64"].map(|name| Target::named(name).unwrap());
    all.into_iter().filter(Target::runs_here).collect()
}

/// An executable image.
pub(super) struct Loaded {
    image: Mmap,
    entries: Vec<u64>,
}

impl Loaded {
    pub(super) fn new(kernels: &[Kernel], target: &Target) -> Loaded {
        let code = compile(kernels, target, 1, &|_| ()).unwrap_or_else(|e| panic!("{e}"));
        let mut image = MmapMut::map_anon(code.code.len().max(1)).unwrap();
        image[..code.code.len()].copy_from_slice(&code.code);
        Loaded { image: image.make_exec().unwrap(), entries: code.entries }
    }

    pub(super) fn entry(&self, i: usize) -> KernelFn {
        let address = self.image[self.entries[i] as usize..].as_ptr();
        // SAFETY: the linker says that a function of this signature starts there; the mapping lives as long as `self`.
        unsafe { std::mem::transmute::<*const u8, KernelFn>(address) }
    }
}

/// Bytes at a 64-byte boundary with 64 bytes behind them that may be read, and a canary that must not be written.
pub(super) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; 64]);

const CANARY: u8 = 0xa5;

/// Lines of canaries on both sides of a buffer.
const GUARD: usize = 64;

impl Aligned {
    fn new(bytes: &[u8]) -> Aligned {
        let mut lines = vec![Line([CANARY; 64]); bytes.len().div_ceil(64) + 2 * GUARD];
        for (line, bytes) in lines[GUARD..].iter_mut().zip(bytes.chunks(64)) {
            line.0[..bytes.len()].copy_from_slice(bytes);
        }
        Aligned { lines, len: bytes.len() }
    }

    fn pointer(&mut self) -> *mut u8 {
        self.lines[GUARD..].as_mut_ptr().cast()
    }

    fn bytes(&self) -> Vec<u8> {
        self.lines[GUARD..].iter().flat_map(|l| l.0).take(self.len).collect()
    }

    /// Whether nothing was written but the buffer.
    fn is_intact(&self) -> bool {
        let plain = |lines: &[Line]| lines.iter().all(|l| l.0 == [CANARY; 64]);
        let last = self.len % 64;
        let end = GUARD + self.len / 64;
        plain(&self.lines[..GUARD]) && self.lines[end].0[last..].iter().all(|&b| b == CANARY) && plain(&self.lines[end + 1..])
    }
}

pub(crate) fn bytes_of(memory: &Memory) -> Vec<u8> {
    Tensor::from_elements(memory.dtype, vec![memory.elements.len()], memory.elements.iter().copied()).bytes().to_vec()
}

/// The same with one NaN for all: which of two the machine hands on depends on the order of operands.
fn without_payloads(memory: &Memory) -> Memory {
    let plain = |e: &Element| if e.as_f64().is_nan() { Element::Float(f64::NAN) } else { *e };
    Memory { dtype: memory.dtype, elements: memory.elements.iter().map(plain).collect() }
}

pub(crate) fn memory_of(dtype: DType, bytes: &[u8]) -> Memory {
    Memory::of(&Tensor::new(dtype, vec![bytes.len() / dtype.size()], bytes.to_vec().into()).unwrap())
}

/// Runs a compiled kernel in `parts` parts; working memory holds canaries first.
pub(super) fn run_compiled(
    entry: KernelFn,
    target: &Target,
    kernel: &Kernel,
    sizes: &Bindings,
    buffers: &[Memory],
    parts: u64,
) -> Vec<Memory> {
    let mut memory: Vec<Aligned> = buffers.iter().map(|b| Aligned::new(&bytes_of(b))).collect();
    let mut table: Vec<*mut u8> = memory.iter_mut().map(Aligned::pointer).collect();
    let scratch = kernel.scratch(target.lanes).eval(sizes).expect("its symbols are the kernel's") as usize;
    assert_eq!(scratch % ALIGN, 0, "working memory of {scratch} bytes");
    let mut private = Aligned::new(&vec![CANARY; scratch * parts as usize]);
    table.push(private.pointer());
    let sizes: Vec<i64> = kernel.sizes().iter().map(|name| sizes[name]).collect();
    for part in (0..parts).rev() {
        // SAFETY: the table has the kernel's buffers with the contents and slack it expects; the interpreter has checked that
        // every access is inside them.
        unsafe { entry(table.as_ptr(), sizes.as_ptr(), part, parts) };
    }
    assert!(private.is_intact(), "a store outside the working memory\n{kernel}");
    for (aligned, buffer) in memory.iter().zip(&kernel.buffers) {
        assert!(aligned.is_intact(), "a store outside `{}`\n{kernel}", buffer.name);
    }
    memory.iter().zip(buffers).map(|(m, b)| memory_of(b.dtype, &m.bytes())).collect()
}

/// How far compiled code may be from the interpreter.
#[derive(Clone, Copy)]
pub(crate) enum Within {
    /// Equal, but for the sign of zero and the bits of NaN.
    Equal,
    /// `|x - y| <= tolerance * (1 + |y|)`.
    Relative(f64),
}

pub(crate) fn close(x: Element, y: Element, within: Within) -> bool {
    match (x, y, within) {
        (Element::Float(x), Element::Float(y), _) if x == y || x.is_nan() && y.is_nan() => true,
        (Element::Float(x), Element::Float(y), Within::Relative(t)) => (x - y).abs() <= t * (1.0 + y.abs()),
        (x, y, _) => x == y,
    }
}

/// Compiles the kernel for every target here and compares with the interpreter, as one part and as three.
///
/// The same kernel also goes through PTX, in the emulator.
pub(super) fn check(kernel: &Kernel, sizes: &[(&str, i64)], buffers: &[Memory], within: Within) {
    let bindings: Bindings = sizes.iter().map(|(name, v)| ((*name).into(), *v)).collect();
    crate::cuda::tests::check(kernel, &bindings, buffers, within);
    for target in targets() {
        // Packed operands depend on the lanes, so the oracle runs per target.
        check_on(&target, kernel, sizes, buffers, within);
    }
}

pub(super) fn check_on(target: &Target, kernel: &Kernel, sizes: &[(&str, i64)], buffers: &[Memory], within: Within) {
    let sizes: Bindings = sizes.iter().map(|(name, v)| ((*name).into(), *v)).collect();
    let loaded = Loaded::new(std::slice::from_ref(kernel), target);
    check_loaded(loaded.entry(0), target, kernel, &sizes, buffers, within);
}

pub(super) fn check_loaded(entry: KernelFn, target: &Target, kernel: &Kernel, sizes: &Bindings, buffers: &[Memory], within: Within) {
    let mut expected = buffers.to_vec();
    run_whole(kernel, sizes, target.lanes, &mut expected).unwrap_or_else(|e| panic!("{e}\n{kernel}"));
    let found = run_compiled(entry, target, kernel, sizes, buffers, 1);
    for ((found, expected), buffer) in found.iter().zip(&expected).zip(&kernel.buffers) {
        let wrong = found.elements.iter().zip(&expected.elements).position(|(f, e)| !close(*f, *e, within));
        if let Some(i) = wrong {
            let (f, e) = (found.elements[i], expected.elements[i]);
            panic!("{}: `{}`[{i}] is {f:?}, expected {e:?}, sizes {sizes:?}\n{kernel}", target.name, buffer.name);
        }
    }
    let in_parts = run_compiled(entry, target, kernel, sizes, buffers, 3);
    let same = in_parts.iter().zip(&found).all(|(x, y)| bytes_of(&without_payloads(x)) == bytes_of(&without_payloads(y)));
    assert!(same, "{}: three parts give other bits than one\n{kernel}", target.name);
}

// ---- building kernels

/// A reproducible stream of numbers.
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In -2..2.
    pub(super) fn small(&mut self) -> f64 {
        ((self.next() >> 40) as f64 / (1u64 << 24) as f64 - 0.5) * 4.0
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Elements of a type: small numbers of both signs.
    pub(super) fn memory(&mut self, dtype: DType, count: usize) -> Memory {
        let element = |n: &mut Self| match dtype {
            DType::Bool => Element::Bool(n.next() % 2 == 1),
            t if t.is_float() => Element::Float(n.small()).rounded(t),
            t if t.is_signed_int() => Element::Int(i128::from(n.below(201)) - 100),
            _ => Element::Int(n.below(201).into()),
        };
        Memory { dtype, elements: (0..count).map(|_| element(self)).collect() }
    }
}

pub(super) fn input(name: &str, dtype: DType) -> Buffer {
    Buffer { name: name.into(), dtype, written: false }
}

pub(super) fn output(name: &str, dtype: DType) -> Buffer {
    Buffer { name: name.into(), dtype, written: true }
}

pub(super) fn axis(name: &str, extent: impl Into<Dim>) -> Axis {
    Axis::new(name, extent)
}

pub(super) fn sym(name: &str) -> Dim {
    Dim::symbol(name)
}

pub(super) fn load(buffer: usize, dtype: DType, offset: Dim) -> Expr {
    Expr::new(dtype, ExprKind::Load(BufferId(buffer), offset))
}

pub(super) fn var(name: &str, dtype: DType) -> Expr {
    Expr::new(dtype, ExprKind::Var(name.into()))
}

pub(super) fn un(op: UnOp, x: Expr) -> Expr {
    let dtype = op.result(x.dtype).unwrap();
    Expr::new(dtype, ExprKind::Un(op, x))
}

pub(super) fn bin(op: BinOp, x: Expr, y: Expr) -> Expr {
    let dtype = op.result(x.dtype).unwrap();
    Expr::new(dtype, ExprKind::Bin(op, x, y))
}

pub(super) fn cast(to: DType, x: Expr) -> Expr {
    Expr::new(to, ExprKind::Cast(x))
}

pub(super) fn lit(v: f64) -> Expr {
    Expr::literal(v, DType::F32)
}

pub(super) fn store(buffer: usize, offset: Dim, value: Expr) -> Block {
    Block { lets: vec![], stores: vec![Store { buffer: BufferId(buffer), offset, value }] }
}

pub(super) fn map_kernel(buffers: Vec<Buffer>, axes: Vec<Axis>, block: Block) -> Kernel {
    Kernel::new(buffers, Body::Map(Map { pieces: vec![Piece { axes, block }] }))
}

pub(super) fn name(text: &str) -> Arc<str> {
    text.into()
}
