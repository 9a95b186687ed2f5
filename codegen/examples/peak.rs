//! How near the machine's peak compiled kernels get, on one thread.
//!
//! ```text
//! $ cargo run -p egret-codegen --example peak [target [part of a name]]
//! matmul 128x768x768             1.33 ms   113.6 GFLOP/s
//! ```
//!
//! Times are the shortest of many calls, so that other work on the machine does not count.

use egret_codegen::cpu::{choose_tile, compile};
use egret_codegen::kernel::*;
use egret_codegen::target::Target;
use egret_ir::scalar::{BinOp, UnOp};
use egret_ir::{DType, Dim};
use egret_runtime::cpu::KernelFn;
use memmap2::MmapMut;
use std::time::{Duration, Instant};

const F32: DType = DType::F32;

/// How long each kernel is measured.
const BUDGET: Duration = Duration::from_millis(400);

/// A kernel with what it needs to be timed.
struct Case {
    name: String,
    kernel: Kernel,
    /// Elements of each buffer.
    buffers: Vec<usize>,
    /// Floating-point operations, or elements where `per_element`.
    work: f64,
    per_element: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "native".into());
    let target = Target::named(&name)?;
    let wanted = std::env::args().nth(2).unwrap_or_default();
    let cases: Vec<Case> = cases(&target).into_iter().filter(|c| c.name.contains(&wanted)).collect();
    let kernels: Vec<Kernel> = cases.iter().map(|c| c.kernel.clone()).collect();
    let start = Instant::now();
    let code = compile(&kernels, &target, 1, &|_| ())?;
    println!(
        "{} kernels, {} bytes of code, compiled in {:.0} ms for {}",
        kernels.len(),
        code.code.len(),
        start.elapsed().as_secs_f64() * 1e3,
        target.name
    );
    let mut image = MmapMut::map_anon(code.code.len())?;
    image[..code.code.len()].copy_from_slice(&code.code);
    let image = image.make_exec()?;
    for (case, &entry) in cases.iter().zip(&code.entries) {
        // SAFETY: a function of this signature starts there, says the linker; the image lives until the end of `main`.
        let entry = unsafe { std::mem::transmute::<*const u8, KernelFn>(image[entry as usize..].as_ptr()) };
        let seconds = shortest(case, entry);
        let unit = if case.per_element { "Gelem/s" } else { "GFLOP/s" };
        println!("{:32} {:9.2} us {:8.1} {unit}", case.name, seconds * 1e6, case.work / seconds * 1e-9);
    }
    Ok(())
}

fn shortest(case: &Case, entry: KernelFn) -> f64 {
    let mut memory: Vec<Vec<f32>> =
        case.buffers.iter().map(|&n| (0..n + 64).map(|i| (i * 7 % 13) as f32 * 0.01 - 0.06).collect()).collect();
    let aligned = |v: &mut Vec<f32>| {
        let start = v.as_ptr().align_offset(64);
        v[start..].as_mut_ptr().cast::<u8>()
    };
    let table: Vec<*mut u8> = memory.iter_mut().map(aligned).collect();
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    while begin.elapsed() < BUDGET {
        let start = Instant::now();
        // SAFETY: the buffers have the sizes that the kernel was made for, and slack.
        unsafe { entry(table.as_ptr(), std::ptr::null(), 0, 1) };
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn cases(target: &Target) -> Vec<Case> {
    let mut cases = vec![];
    for (m, n, k) in [
        (128, 768, 768),
        (128, 3072, 768),
        (128, 768, 3072),
        (3136, 256, 64),
        (784, 512, 128),
        (196, 256, 1024),
        (49, 512, 2048),
        (1, 3072, 768),
    ] {
        cases.push(matmul(m, n, k, target, "relu", relu_tail));
    }
    cases.push(matmul(1, 32768, 768, target, "bias", relu_tail));
    cases.push(matmul(128, 768, 768, target, "gelu", gelu_tail));
    cases.push(matmul(32, 768, 3072, target, "relu", relu_tail));
    for (size, ic, oc, taps, stride) in [
        (56, 64, 64, 3, 1),
        (28, 128, 128, 3, 1),
        (14, 256, 256, 3, 1),
        (7, 512, 512, 3, 1),
        (56, 128, 128, 3, 2),
        (224, 3, 64, 7, 2),
        (224, 3, 32, 3, 2),
    ] {
        cases.push(convolution(size, ic, oc, taps, stride, target));
    }
    for (size, channels, taps, stride) in
        [(56, 144, 3, 1), (14, 576, 3, 1), (112, 96, 3, 2), (14, 672, 5, 1), (112, 32, 3, 1), (7, 960, 3, 1)]
    {
        cases.push(depthwise(size, channels, taps, stride));
    }
    cases.push(softmax(1536, 128));
    cases.push(layer_norm(128, 768));
    cases.push(elementwise("add", 1 << 14, |x, y| bin(BinOp::Add, x, y)));
    cases.push(elementwise("exp", 1 << 12, |x, _| un(UnOp::Exp, x)));
    cases.push(elementwise("tanh", 1 << 12, |x, _| un(UnOp::Tanh, x)));
    cases.push(elementwise("erf", 1 << 12, |x, _| un(UnOp::Erf, x)));
    cases.push(elementwise("log", 1 << 12, |x, _| un(UnOp::Log, x)));
    cases.push(transposition(512, 512));
    cases.push(transposition(3136, 64));
    cases.push(transposition(224 * 224, 3));
    cases.push(transposition(3, 224 * 224));
    cases
}

fn matmul(m: usize, n: usize, k: usize, target: &Target, label: &str, tail: fn(Expr) -> Expr) -> Case {
    let tile = choose_tile(Some(m), Some(n), Some(k), target);
    let (i, j) = (sym("i"), sym("j"));
    let value = tail(bin(BinOp::Add, var("acc"), load(2, j.clone())));
    let kernel = Kernel {
        buffers: vec![input("a"), input("b"), input("bias"), output("out")],
        body: Body::Contract(Contract {
            batch: vec![],
            rows: vec![Axis::new("i", m)],
            cols: Axis::new("j", n),
            k: vec![Axis::new("k", k)],
            a: (BufferId(0), i.clone() * k as i64 + sym("k")),
            b: Panels::Packed(BufferId(1), Dim::ZERO),
            tile,
            split: Split::Rows,
            epilogue: store(3, i * n as i64 + j, value),
        }),
    };
    let width = tile.vectors * target.lanes;
    Case {
        name: format!("matmul {m}x{n}x{k} {label} ({}x{})", tile.rows, tile.vectors),
        kernel,
        buffers: vec![m * k, n.div_ceil(width) * width * k, n, m * n],
        work: 2.0 * (m * n * k) as f64,
        per_element: false,
    }
}

fn relu_tail(x: Expr) -> Expr {
    bin(BinOp::Max, x, lit(0.0))
}

fn gelu_tail(x: Expr) -> Expr {
    let erf = un(UnOp::Erf, bin(BinOp::Mul, x.clone(), lit(std::f64::consts::FRAC_1_SQRT_2)));
    bin(BinOp::Mul, bin(BinOp::Mul, x, lit(0.5)), bin(BinOp::Add, erf, lit(1.0)))
}

/// Input padded by a border, channels last.
fn convolution(size: usize, ic: usize, oc: usize, taps: usize, stride: usize, target: &Target) -> Case {
    let (out, padded) = (size / stride, size + taps - 1);
    let k = taps * taps * ic;
    let tile = choose_tile(Some(out), Some(oc), Some(k), target);
    let row = sym("oh") * stride as i64 + sym("kh");
    let a = (row * padded as i64 + sym("ow") * stride as i64) * ic as i64 + sym("c");
    let kernel = Kernel {
        buffers: vec![input("x"), input("w"), input("bias"), output("out")],
        body: Body::Contract(Contract {
            batch: vec![],
            rows: vec![Axis::new("oh", out), Axis::new("ow", out)],
            cols: Axis::new("j", oc),
            k: vec![Axis::new("kh", taps), Axis::new("c", taps * ic)],
            a: (BufferId(0), a),
            b: Panels::Packed(BufferId(1), Dim::ZERO),
            tile,
            split: Split::Rows,
            epilogue: store(
                3,
                (sym("oh") * out as i64 + sym("ow")) * oc as i64 + sym("j"),
                relu_tail(bin(BinOp::Add, var("acc"), load(2, sym("j")))),
            ),
        }),
    };
    let width = tile.vectors * target.lanes;
    Case {
        name: format!("conv {size}x{size} {ic}->{oc} {taps}x{taps} s{stride} ({}x{})", tile.rows, tile.vectors),
        kernel,
        buffers: vec![padded * padded * ic, oc.div_ceil(width) * width * k, oc, out * out * oc],
        work: 2.0 * (out * out * oc * k) as f64,
        per_element: false,
    }
}

fn depthwise(size: usize, channels: usize, taps: usize, stride: usize) -> Case {
    let (out, padded) = (size / stride, size + taps - 1);
    let pixel = |h: Dim, w: Dim| (h * padded as i64 + w) * channels as i64 + sym("c");
    let x = load(0, pixel(sym("oh") * stride as i64 + sym("kh"), sym("ow") * stride as i64 + sym("kw")));
    let w = load(1, (sym("kh") * taps as i64 + sym("kw")) * channels as i64 + sym("c"));
    let sum = Pass {
        over_row: true,
        reduces: vec![Reduce { var: "sum".into(), fold: Fold::Sum, value: bin(BinOp::Mul, x, w) }],
        block: Block::default(),
    };
    let value = relu_tail(bin(BinOp::Add, var("sum"), load(2, sym("c"))));
    let last = Pass {
        over_row: false,
        reduces: vec![],
        block: store(3, (sym("oh") * out as i64 + sym("ow")) * channels as i64 + sym("c"), value),
    };
    let kernel = Kernel {
        buffers: vec![input("x"), input("w"), input("bias"), output("out")],
        body: Body::Rows(Rows {
            axes: vec![Axis::new("oh", out), Axis::new("ow", out), Axis::new("c", channels)],
            reduced: vec![Axis::new("kh", taps), Axis::new("kw", taps)],
            lanes_outside: true,
            tile: 7,
            passes: vec![sum, last],
        }),
    };
    Case {
        name: format!("depthwise {size}x{size}x{channels} {taps}x{taps} s{stride}"),
        kernel,
        buffers: vec![padded * padded * channels, taps * taps * channels, channels, out * out * channels],
        work: 2.0 * (out * out * channels * taps * taps) as f64,
        per_element: false,
    }
}

fn softmax(rows: usize, columns: usize) -> Case {
    let at = sym("i") * columns as i64 + sym("j");
    let reduce = |var: &str, fold, value| Reduce { var: var.into(), fold, value };
    let e = un(UnOp::Exp, bin(BinOp::Sub, load(0, at.clone()), var("max")));
    let passes = vec![
        Pass { over_row: true, reduces: vec![reduce("max", Fold::Max, load(0, at.clone()))], block: Block::default() },
        Pass { over_row: true, reduces: vec![reduce("sum", Fold::Sum, e.clone())], block: store(1, at.clone(), e) },
        Pass { over_row: false, reduces: vec![reduce("scale", Fold::Sum, bin(BinOp::Div, lit(1.0), var("sum")))], block: Block::default() },
        Pass { over_row: true, reduces: vec![], block: store(1, at.clone(), bin(BinOp::Mul, load(1, at), var("scale"))) },
    ];
    rows_case(format!("softmax {rows}x{columns}"), rows, columns, vec![input("x"), output("out")], passes)
}

fn layer_norm(rows: usize, columns: usize) -> Case {
    let at = sym("i") * columns as i64 + sym("j");
    let x = || load(0, at.clone());
    let reduce = |var: &str, value| Reduce { var: var.into(), fold: Fold::Sum, value };
    let n = || lit(columns as f64);
    let centred = bin(BinOp::Sub, x(), var("mean"));
    let once = |var: &str, value| Pass { over_row: false, reduces: vec![reduce(var, value)], block: Block::default() };
    let root = un(UnOp::Sqrt, bin(BinOp::Add, bin(BinOp::Div, var("squares"), n()), lit(1e-5)));
    let y = bin(BinOp::Add, bin(BinOp::Mul, bin(BinOp::Mul, centred.clone(), var("scale")), load(1, sym("j"))), load(2, sym("j")));
    let passes = vec![
        Pass { over_row: true, reduces: vec![reduce("sum", x())], block: Block::default() },
        once("mean", bin(BinOp::Div, var("sum"), n())),
        Pass { over_row: true, reduces: vec![reduce("squares", bin(BinOp::Mul, centred.clone(), centred))], block: Block::default() },
        once("scale", bin(BinOp::Div, lit(1.0), root)),
        Pass { over_row: true, reduces: vec![], block: store(3, at.clone(), y) },
    ];
    let mut case =
        rows_case(format!("layer norm {rows}x{columns}"), rows, columns, vec![input("x"), input("g"), input("b"), output("out")], passes);
    case.buffers = vec![rows * columns, columns, columns, rows * columns];
    case
}

fn rows_case(name: String, rows: usize, columns: usize, buffers: Vec<Buffer>, passes: Vec<Pass>) -> Case {
    let count = buffers.len();
    let body = Body::Rows(Rows {
        axes: vec![Axis::new("i", rows)],
        reduced: vec![Axis::new("j", columns)],
        lanes_outside: false,
        tile: 1,
        passes,
    });
    Case { name, kernel: Kernel { buffers, body }, buffers: vec![rows * columns; count], work: (rows * columns) as f64, per_element: true }
}

fn elementwise(name: &str, count: usize, f: fn(Expr, Expr) -> Expr) -> Case {
    let i = sym("i");
    let value = f(load(0, i.clone()), load(1, i.clone()));
    let pieces = vec![Piece { axes: vec![Axis::new("i", count)], block: store(2, i, value) }];
    let kernel = Kernel { buffers: vec![input("x"), input("y"), output("out")], body: Body::Map(Map { pieces }) };
    Case { name: format!("{name} {count}"), kernel, buffers: vec![count; 3], work: count as f64, per_element: true }
}

fn transposition(rows: usize, columns: usize) -> Case {
    let block = store(1, sym("j") * rows as i64 + sym("i"), load(0, sym("i") * columns as i64 + sym("j")));
    let pieces = vec![Piece { axes: vec![Axis::new("j", columns), Axis::new("i", rows)], block }];
    let kernel = Kernel { buffers: vec![input("x"), output("out")], body: Body::Map(Map { pieces }) };
    Case {
        name: format!("transpose {rows}x{columns}"),
        kernel,
        buffers: vec![rows * columns; 2],
        work: (rows * columns) as f64,
        per_element: true,
    }
}

fn sym(name: &str) -> Dim {
    Dim::symbol(name)
}

fn input(name: &str) -> Buffer {
    Buffer { name: name.into(), dtype: F32, written: false }
}

fn output(name: &str) -> Buffer {
    Buffer { name: name.into(), dtype: F32, written: true }
}

fn load(buffer: usize, offset: Dim) -> Expr {
    Expr::new(F32, ExprKind::Load(BufferId(buffer), offset))
}

fn var(name: &str) -> Expr {
    Expr::new(F32, ExprKind::Var(name.into()))
}

fn lit(v: f64) -> Expr {
    Expr::literal(v, F32)
}

fn un(op: UnOp, x: Expr) -> Expr {
    Expr::new(F32, ExprKind::Un(op, x))
}

fn bin(op: BinOp, x: Expr, y: Expr) -> Expr {
    Expr::new(F32, ExprKind::Bin(op, x, y))
}

fn store(buffer: usize, offset: Dim, value: Expr) -> Block {
    Block { lets: vec![], stores: vec![Store { buffer: BufferId(buffer), offset, value }] }
}
