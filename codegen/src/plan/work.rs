//! How much a kernel does: what decides into how many parts it is worth dividing.

use crate::kernel::{Axis, Block, Body, BufferId, Contract, Expr, ExprKind, Kernel, Panels};
use crate::lower::visit_shared;
use crate::winograd::{OUTPUTS, PRODUCTS};
use egret_ir::Dim;
use egret_ir::scalar::{BinOp, UnOp};
use egret_runtime::plan::Unit;

/// Operations of one part: below about 5 us of work, waking another thread costs more than it saves. A core does 10^6
/// multiply-adds and additions in that time, or moves 256 KiB.
const OPERATIONS_PER_PART: i64 = 1 << 20;

/// Moving a byte takes as long as this many operations.
const OPERATIONS_PER_BYTE: i64 = 4;

/// What exp, tanh and their like take, in operations.
const OPERATIONS_OF_FUNCTION: i64 = 20;

/// What the operations of a kernel run on.
pub fn unit(kernel: &Kernel) -> Unit {
    let Body::Contract(contracts) = &kernel.body else { return Unit::F32 };
    let has = |is: fn(&Panels) -> bool| contracts.iter().any(|c| is(&c.b));
    match () {
        () if has(|panels| matches!(panels, Panels::Quads(..))) => Unit::ByteQuads,
        () if has(|panels| matches!(panels, Panels::Paired(..))) => Unit::Bf16Pairs,
        () => Unit::F32,
    }
}

/// What it takes to see that an element is not among the first, in operations.
const OPERATIONS_OF_KEY: i64 = 6;

/// What it takes to bring an element to its place among the first, in operations: a few levels of a heap.
const OPERATIONS_OF_SIFTING: i64 = 100;

/// The work of a kernel, for one run of it.
#[derive(Clone, Debug)]
pub struct Work {
    /// Floating-point operations.
    pub operations: Dim,
    /// Bytes read and written, each as often as it is.
    pub bytes: Dim,
}

impl Work {
    /// The work of a kernel.
    pub fn of(kernel: &Kernel) -> Work {
        let mut work = Work { operations: Dim::ZERO, bytes: Dim::ZERO };
        kernel.borders.iter().for_each(|p| work.add_block(kernel, &p.block, &points(&p.axes)));
        match &kernel.body {
            Body::Map(map) => map.pieces.iter().for_each(|p| work.add_block(kernel, &p.block, &points(&p.axes))),
            Body::Rows(rows) => {
                let (outer, inner) = (points(&rows.axes), points(&rows.reduced));
                for pass in &rows.passes {
                    let times = if pass.over_row { outer.clone() * inner.clone() } else { outer.clone() };
                    work.add_block(kernel, &pass.block, &times);
                    pass.reduces.iter().for_each(|r| work.add_expr(kernel, &r.value, &times));
                }
            }
            Body::Contract(contracts) => contracts.iter().for_each(|c| work.add_contract(kernel, c)),
            // The products of the transformed form, not the four times as many of the convolution.
            Body::Winograd(w) => {
                let (pixels, depth) = (points(&w.batch) * points(&w.rows), w.depth.extent.clone());
                let weights = depth.clone() * w.cols.extent.clone() * PRODUCTS * 4;
                let results = pixels.clone() * w.cols.extent.clone();
                work.operations = (results.clone() * depth.clone() * (2 * PRODUCTS)).floor_div(&(OUTPUTS * OUTPUTS).into());
                work.bytes = pixels * depth * 4 + weights;
                work.add_block(kernel, &w.epilogue, &results);
            }
            Body::Chain(c) => {
                let (batch, rows, keys) = (points(&c.batch), points(&c.rows), c.keys.extent.clone());
                let channels = c.depth.extent.clone() + c.cols.extent.clone();
                let scores = batch.clone() * rows.clone() * keys.clone();
                work.operations = scores.clone() * (channels.clone() * 2 + OPERATIONS_OF_FUNCTION);
                work.bytes = batch.clone() * (keys + rows.clone()) * channels * 4;
                work.add_expr(kernel, &c.score, &scores);
                work.add_block(kernel, &c.epilogue, &(batch * rows * c.cols.extent.clone()));
            }
            Body::Recur(r) => {
                let gates = r.cell.gates() as i64;
                let hidden = Dim::from(r.hidden);
                let steps = r.steps.clone() * r.batch.clone();
                work.operations = steps.clone() * hidden.clone() * gates * (hidden.clone() * 2 + OPERATIONS_OF_FUNCTION);
                work.bytes = steps * hidden.clone() * (hidden * gates + gates + 1) * 4;
            }
            Body::Serial(serial) => serial.nests.iter().for_each(|nest| {
                work.add_block(kernel, &nest.piece.block, &(points(&serial.axes) * points(&nest.piece.axes)));
            }),
            Body::TopK(t) => {
                let rows = points(&t.rows);
                let size = kernel.buffers[t.x.0].dtype.size() as i64;
                work.operations = rows.clone() * (t.extent.clone() * OPERATIONS_OF_KEY + t.count.clone() * OPERATIONS_OF_SIFTING);
                work.bytes = rows * (t.extent.clone() * size + t.count.clone() * (size + 8));
            }
        }
        work
    }

    fn add_contract(&mut self, kernel: &Kernel, c: &Contract) {
        let results = points(&c.batch) * points(&c.rows) * c.cols.extent.clone();
        let k = points(&c.k);
        self.operations = self.operations.clone() + results.clone() * k.clone() * 2;
        let shared = points(&c.batch) * k;
        let size = |buffer: BufferId| kernel.buffers[buffer.0].dtype.size() as i64;
        let weights = match (&c.b, c.innermost_steps()) {
            (Panels::Blocks(_, _, blocks), Some(steps)) => points(&c.batch) * c.cols.extent.clone() * blocks.column_bytes(steps as usize),
            _ => shared.clone() * c.cols.extent.clone() * size(c.b.buffer()),
        };
        self.bytes = self.bytes.clone() + shared * points(&c.rows) * size(c.a.0) + weights;
        self.add_block(kernel, &c.epilogue, &results);
    }

    fn add_block(&mut self, kernel: &Kernel, block: &Block, times: &Dim) {
        for store in &block.stores {
            let size = kernel.buffers[store.buffer.0].dtype.size() as i64;
            self.bytes = self.bytes.clone() + times.clone() * size;
        }
        block.exprs().for_each(|e| self.add_expr(kernel, e, times));
    }

    fn add_expr(&mut self, kernel: &Kernel, e: &Expr, times: &Dim) {
        let (mut operations, mut bytes) = (0, 0);
        visit_shared([e], &mut |e| match &*e.kind {
            ExprKind::Load(b, _) => bytes += kernel.buffers[b.0].dtype.size() as i64,
            ExprKind::Index(_) | ExprKind::Const(_) | ExprKind::Var(_) => {}
            ExprKind::Un(op, _) => operations += cost_of(*op),
            ExprKind::Bin(BinOp::Pow, ..) => operations += 2 * OPERATIONS_OF_FUNCTION,
            ExprKind::Bin(..) | ExprKind::Select(..) | ExprKind::Cast(_) | ExprKind::Bits(_) => operations += 1,
        });
        self.operations = self.operations.clone() + times.clone() * operations;
        self.bytes = self.bytes.clone() + times.clone() * bytes;
    }

    /// The greatest useful number of parts, for a kernel with this many units.
    pub fn parts(&self, units: &Dim) -> Dim {
        let effort = self.operations.clone() + self.bytes.clone() * OPERATIONS_PER_BYTE;
        effort.floor_div(&OPERATIONS_PER_PART.into()).minimum(units).maximum(&Dim::ONE)
    }
}

fn points(axes: &[Axis]) -> Dim {
    axes.iter().map(|a| a.extent.clone()).product()
}

fn cost_of(op: UnOp) -> i64 {
    match op {
        UnOp::Neg | UnOp::Abs | UnOp::Sign | UnOp::Not | UnOp::Floor | UnOp::Ceil | UnOp::Round | UnOp::IsNan | UnOp::Sqrt => 1,
        UnOp::Exp | UnOp::Log | UnOp::Sin | UnOp::Cos | UnOp::Tan | UnOp::Asin | UnOp::Acos | UnOp::Atan => OPERATIONS_OF_FUNCTION,
        UnOp::Sinh | UnOp::Cosh | UnOp::Asinh | UnOp::Acosh | UnOp::Atanh | UnOp::Tanh | UnOp::Erf => OPERATIONS_OF_FUNCTION,
    }
}
