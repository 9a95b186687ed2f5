use super::*;

const F32: DType = DType::F32;

fn reduce(var: &str, fold: Fold, value: Expr) -> Reduce {
    Reduce { var: var.into(), fold, value }
}

fn over(reduces: Vec<Reduce>, block: Block) -> Pass {
    Pass { over_row: true, reduces, block }
}

fn once(reduces: Vec<Reduce>, block: Block) -> Pass {
    Pass { over_row: false, reduces, block }
}

fn rows(buffers: Vec<Buffer>, axes: Vec<Axis>, reduced: Vec<Axis>, lanes_outside: bool, tile: usize, passes: Vec<Pass>) -> Kernel {
    Kernel::new(buffers, Body::Rows(Rows { axes, reduced, lanes_outside, tile, passes }))
}

/// Softmax over the last axis, or with the lanes outside over the first.
fn softmax(n: Dim, m: Dim, lanes_outside: bool) -> Kernel {
    let at = if lanes_outside { sym("j") * n.clone() + sym("i") } else { sym("i") * m.clone() + sym("j") };
    let e = un(UnOp::Exp, bin(BinOp::Sub, load(0, F32, at.clone()), var("max", F32)));
    let passes = vec![
        over(vec![reduce("max", Fold::Max, load(0, F32, at.clone()))], Block::default()),
        over(vec![reduce("sum", Fold::Sum, e.clone())], store(1, at.clone(), e)),
        once(vec![reduce("scale", Fold::Sum, bin(BinOp::Div, lit(1.0), var("sum", F32)))], Block::default()),
        over(vec![], store(1, at.clone(), bin(BinOp::Mul, load(1, F32, at), var("scale", F32)))),
    ];
    rows(vec![input("x", F32), output("out", F32)], vec![axis("i", n)], vec![axis("j", m)], lanes_outside, 1, passes)
}

#[test]
fn softmax_of_every_length() {
    for lanes_outside in [false, true] {
        let kernel = softmax(sym("N"), sym("M"), lanes_outside);
        for target in targets() {
            let loaded = Loaded::new(std::slice::from_ref(&kernel), &target);
            for m in (1..=2 * target.lanes + 1).chain([64, 70, 200]) {
                for n in [1, 5, 17] {
                    let data = [Numbers::new(m as u64).memory(F32, m * n), Memory::zeros(F32, m * n)];
                    let sizes = Bindings::from([(name("N"), n as i64), (name("M"), m as i64)]);
                    check_loaded(loaded.entry(0), &target, &kernel, &sizes, &data, Within::Relative(1e-6));
                }
            }
        }
        for (n, m) in [(3, 10), (70, 16), (2, 300), (1, 1), (9, 64)] {
            let kernel = softmax(n.into(), m.into(), lanes_outside);
            let data = [Numbers::new(4).memory(F32, (m * n) as usize), Memory::zeros(F32, (m * n) as usize)];
            check(&kernel, &[], &data, Within::Relative(1e-6));
        }
    }
}

/// Every fold of every type, in both lane modes, with NaN among the floats.
#[test]
fn folds() {
    for dtype in DType::ALL.into_iter().filter(|t| !t.is_storage()) {
        for lanes_outside in [false, true] {
            for (n, m) in [(5, 37), (20, 3), (1, 150)] {
                let at = if lanes_outside { sym("j") * n + sym("i") } else { sym("i") * m + sym("j") };
                let folds = [Fold::Sum, Fold::Max, Fold::Min, Fold::Prod];
                let folds = &folds[usize::from(dtype == DType::Bool)..];
                let reduces = folds.iter().map(|f| reduce(&format!("{f:?}"), *f, load(0, dtype, at.clone()))).collect();
                let stores = folds.iter().enumerate().map(|(k, f)| Store {
                    buffer: BufferId(k + 1),
                    offset: sym("i"),
                    value: var(&format!("{f:?}"), dtype),
                });
                let last = once(vec![], Block { lets: vec![], stores: stores.collect() });
                let buffers: Vec<Buffer> =
                    std::iter::once(input("x", dtype)).chain(folds.iter().map(|f| output(&format!("{f:?}"), dtype))).collect();
                let mut data = vec![Numbers::new(m as u64).memory(dtype, (n * m) as usize)];
                if dtype.is_float() {
                    data[0].elements[2] = Element::Float(f64::NAN);
                    // Products stay in range.
                    data[0].elements.iter_mut().for_each(|e| *e = Element::Float(e.as_f64().abs().sqrt() + 0.1).rounded(dtype));
                }
                data.extend(buffers[1..].iter().map(|b| Memory::zeros(b.dtype, n as usize)));
                let kernel =
                    rows(buffers, vec![axis("i", n)], vec![axis("j", m)], lanes_outside, 1, vec![over(reduces, Block::default()), last]);
                let within = match dtype {
                    t if !t.is_float() => Within::Equal,
                    DType::F64 => Within::Relative(1e-13),
                    DType::F32 => Within::Relative(1e-4),
                    _ => Within::Relative(1e-2),
                };
                check(&kernel, &[], &data, within);
            }
        }
    }
}

/// The position of the largest element: a maximum, then the least index that has it.
#[test]
fn arg_max() {
    for m in [1, 9, 16, 40] {
        let at = sym("i") * m + sym("j");
        let index = Expr::new(DType::I64, ExprKind::Index(sym("j")));
        let is_it = bin(BinOp::Eq, load(0, F32, at.clone()), var("max", F32));
        let candidate = Expr::new(DType::I64, ExprKind::Select(is_it, index, Expr::literal(m as f64, DType::I64)));
        let passes = vec![
            over(vec![reduce("max", Fold::Max, load(0, F32, at))], Block::default()),
            over(vec![reduce("arg", Fold::Min, candidate)], Block::default()),
            once(vec![], store(1, sym("i"), var("arg", DType::I64))),
        ];
        let kernel = rows(vec![input("x", F32), output("out", DType::I64)], vec![axis("i", 6)], vec![axis("j", m)], false, 1, passes);
        let elements = (0..6 * m).map(|i| Element::Float((i * 7 % 5) as f64)).collect();
        check(&kernel, &[], &[Memory { dtype: F32, elements }, Memory::zeros(DType::I64, 6)], Within::Equal);
    }
}

/// Depthwise convolution and pooling: tiles of several widths, tails of channels, unrolled and looped taps.
#[test]
fn windows() {
    for (channels, taps, stride, tile, out) in
        [(16, 3, 1, 7, 14), (19, 3, 2, 4, 6), (5, 5, 1, 7, 7), (33, 8, 1, 3, 5), (40, 1, 1, 2, 1), (24, 7, 2, 4, 9)]
    {
        let padded = (out - 1) * stride + taps;
        for (batch, extent) in [(Dim::from(2), 2), (sym("N"), 3)] {
            let pixel = |h: Dim, w: Dim| ((sym("n") * padded + h) * padded + w) * channels + sym("c");
            let x = load(0, F32, pixel(sym("oh") * stride + sym("kh"), sym("ow") * stride + sym("kw")));
            let w = load(1, F32, (sym("kh") * taps + sym("kw")) * channels + sym("c"));
            let to = ((sym("n") * out + sym("oh")) * out + sym("ow")) * channels + sym("c");
            let passes = vec![
                over(vec![reduce("sum", Fold::Sum, bin(BinOp::Mul, x.clone(), w)), reduce("max", Fold::Max, x)], Block::default()),
                once(vec![], store(2, to, bin(BinOp::Add, var("sum", F32), var("max", F32)))),
            ];
            let kernel = rows(
                vec![input("x", F32), input("w", F32), output("out", F32)],
                vec![axis("n", batch), axis("oh", out), axis("ow", out), axis("c", channels)],
                vec![axis("kh", taps), axis("kw", taps)],
                true,
                tile,
                passes,
            );
            let mut numbers = Numbers::new(9);
            let data = [
                numbers.memory(F32, (extent * padded * padded * channels) as usize),
                numbers.memory(F32, (taps * taps * channels) as usize),
                Memory::zeros(F32, (extent * out * out * channels) as usize),
            ];
            check(&kernel, &[("N", extent)], &data, Within::Relative(1e-4));
        }
    }
}

/// A tiled axis of unknown extent, and a reduction of everything to one number.
#[test]
fn unknown_extents() {
    let at = (sym("w") + sym("k")) * 20 + sym("c");
    let passes = vec![
        over(vec![reduce("s", Fold::Sum, load(0, F32, at))], Block::default()),
        once(vec![], store(1, sym("w") * 20 + sym("c"), var("s", F32))),
    ];
    let kernel =
        rows(vec![input("x", F32), output("out", F32)], vec![axis("w", sym("W")), axis("c", 20)], vec![axis("k", 3)], true, 4, passes);
    for w in [0, 1, 4, 7, 13] {
        let data = [Numbers::new(9).memory(F32, (w + 2) * 20), Memory::zeros(F32, w * 20)];
        check(&kernel, &[("W", w as i64)], &data, Within::Relative(1e-5));
    }
    let flat = sym("i") * 30 + sym("j");
    let passes =
        vec![over(vec![reduce("s", Fold::Sum, load(0, F32, flat))], Block::default()), once(vec![], store(1, Dim::ZERO, var("s", F32)))];
    let kernel = rows(vec![input("x", F32), output("out", F32)], vec![], vec![axis("i", sym("N")), axis("j", 30)], false, 1, passes);
    for n in [0, 1, 9] {
        let data = [Numbers::new(9).memory(F32, n * 30), Memory::zeros(F32, 1)];
        check(&kernel, &[("N", n as i64)], &data, Within::Relative(1e-5));
    }
}
