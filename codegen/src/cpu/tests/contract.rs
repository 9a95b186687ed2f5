use super::*;

const F32: DType = DType::F32;

/// Packs `[k, n]` into panels of `width` columns; unspecified lanes are NaN.
fn packed(b: &Memory, k: usize, n: usize, width: usize) -> Memory {
    let panels = n.div_ceil(width);
    let mut elements = vec![Element::Float(f64::NAN); panels * k * width];
    for row in 0..k {
        for col in 0..n {
            elements[((col / width) * k + row) * width + col % width] = b.elements[row * n + col];
        }
    }
    Memory { dtype: F32, elements }
}

fn epilogue(long: bool, n: Dim) -> Block {
    let (i, j) = (sym("i"), sym("j"));
    let sum = bin(BinOp::Add, var("acc", F32), load(2, F32, j.clone()));
    let value = match long {
        false => bin(BinOp::Max, sum, lit(0.0)),
        true => {
            let x = bin(BinOp::Mul, sum.clone(), sum.clone());
            let x = bin(BinOp::Sub, bin(BinOp::Mul, x.clone(), lit(0.5)), bin(BinOp::Mul, sum.clone(), lit(0.25)));
            let x = bin(BinOp::Div, x.clone(), bin(BinOp::Add, bin(BinOp::Mul, x.clone(), x), lit(1.0)));
            bin(BinOp::Min, bin(BinOp::Add, x, sum), lit(9.0))
        }
    };
    store(3, i * n + j, value)
}

fn matmul(m: Dim, n: Dim, k: Dim, strided: bool, long: bool, tile: (usize, usize), split: Split) -> Kernel {
    let b = match strided {
        true => Panels::Strided(BufferId(1), sym("k") * n.clone() + sym("j")),
        false => Panels::Packed(BufferId(1), Dim::ZERO),
    };
    Kernel {
        borders: vec![],
        buffers: vec![input("a", F32), input("b", F32), input("bias", F32), output("out", F32)],
        body: Body::Contract(vec![Contract {
            batch: vec![],
            rows: vec![axis("i", m)],
            cols: axis("j", n.clone()),
            k: vec![axis("k", k.clone())],
            a: (BufferId(0), sym("i") * k + sym("k")),
            b,
            tile: Tile { rows: tile.0, vectors: tile.1 },
            split,
            epilogue: epilogue(long, n),
        }]),
    }
}

fn data(m: usize, n: usize, k: usize, strided: bool, width: usize) -> Vec<Memory> {
    let mut numbers = Numbers::new((m * 31 + n) as u64);
    let (a, b) = (numbers.memory(F32, m * k), numbers.memory(F32, k * n));
    let b = if strided { b } else { packed(&b, k, n, width) };
    vec![a, b, numbers.memory(F32, n), Memory::zeros(F32, m * n)]
}

#[test]
fn fixed_sizes() {
    let mut seed = 0;
    for m in 1..=30 {
        for n in [1 + m * 7 % 70, 1 + m * 11 % 70] {
            seed += 1;
            let k = 1 + seed % 9;
            let tile = [(7, 2), (4, 3), (1, 4), (6, 1)][seed % 4];
            let split = [Split::Rows, Split::Cols][seed % 2];
            let (strided, long) = (seed % 3 == 0, seed % 5 == 0);
            let kernel = matmul(m.into(), n.into(), k.into(), strided, long, tile, split);
            for target in targets() {
                check_on(&target, &kernel, &[], &data(m, n, k, strided, tile.1 * target.lanes), Within::Equal);
            }
        }
    }
}

/// Two products of one operand in one kernel, each with its own columns, tile, split and epilogue.
#[test]
fn several() {
    let (m, k) = (13, 9);
    for (n, tiles, long) in [([40, 70], [(4, 1), (3, 4)], true), ([70, 33], [(7, 2), (4, 2)], false), ([16, 1], [(2, 3), (6, 4)], true)] {
        let product = |i: usize| {
            let of = matmul(m.into(), n[i].into(), k.into(), false, long, tiles[i], [Split::Rows, Split::Cols][i]);
            let Body::Contract(mut contracts) = of.body else { panic!("not a contraction") };
            contracts[0].b = Panels::Packed(BufferId([1, 3][i]), Dim::ZERO);
            contracts[0].epilogue.stores.iter_mut().for_each(|s| s.buffer = BufferId([4, 5][i]));
            contracts.remove(0)
        };
        let kernel = Kernel {
            borders: vec![],
            buffers: vec![input("a", F32), input("b", F32), input("bias", F32), input("c", F32), output("out", F32), output("too", F32)],
            body: Body::Contract(vec![product(0), product(1)]),
        };
        for target in targets() {
            let mut numbers = Numbers::new(3);
            let a = numbers.memory(F32, (m * k) as usize);
            let mut panels = |i: usize| {
                let (k, n) = (k as usize, n[i] as usize);
                packed(&numbers.memory(F32, k * n), k, n, tiles[i].1 * target.lanes)
            };
            let (b, c) = (panels(0), panels(1));
            let out = |i: usize| Memory::zeros(F32, (m * n[i]) as usize);
            let data = [a, b, numbers.memory(F32, 70), c, out(0), out(1)];
            check_on(&target, &kernel, &[], &data, Within::Equal);
        }
    }
}

#[test]
fn symbolic_sizes() {
    for (strided, long, split) in [(false, false, Split::Rows), (true, true, Split::Cols), (true, false, Split::Rows)] {
        let kernel = matmul(sym("M"), sym("N"), sym("K"), strided, long, (7, 2), split);
        for target in targets() {
            let loaded = Loaded::new(std::slice::from_ref(&kernel), &target);
            for (m, n, k) in [(1, 1, 1), (7, 32, 3), (13, 33, 5), (30, 70, 2), (8, 16, 0), (5, 100, 7), (0, 4, 4), (12, 17, 1)] {
                let sizes = Bindings::from([(name("M"), m as i64), (name("N"), n as i64), (name("K"), k as i64)]);
                check_loaded(loaded.entry(0), &target, &kernel, &sizes, &data(m, n, k, strided, 2 * target.lanes), Within::Equal);
            }
        }
    }
}

/// A convolution: rows in two dimensions, `k` in two pieces, batch outermost; and a grouped one over a batch axis of `b`.
#[test]
fn convolution() {
    let (h, w, ic, oc, kh, kw, stride) = (9, 11, 5, 19, 3, 2, 2);
    let (oh, ow) = ((h - kh) / stride + 1, (w - kw) / stride + 1);
    for split in [Split::Batch, Split::Rows, Split::Cols] {
        let input_row = sym("oh") * stride + sym("kh");
        let a = sym("g") * (h * w * ic) + (input_row * w + sym("ow") * stride) * ic + sym("c");
        let k_total = kh * kw * ic;
        let value = bin(BinOp::Add, var("acc", F32), lit(1.0));
        let out = ((sym("g") * oh + sym("oh")) * ow + sym("ow")) * oc + sym("j");
        for target in targets() {
            let width = (2 * target.lanes) as i64;
            let panel_bytes = (oc + width - 1) / width * k_total * width;
            let kernel = Kernel {
                borders: vec![],
                buffers: vec![input("x", F32), input("w", F32), output("out", F32)],
                body: Body::Contract(vec![Contract {
                    batch: vec![axis("g", sym("G"))],
                    rows: vec![axis("oh", oh), axis("ow", ow)],
                    cols: axis("j", oc),
                    k: vec![axis("kh", kh), axis("c", kw * ic)],
                    a: (BufferId(0), a.clone()),
                    b: Panels::Packed(BufferId(1), sym("g") * panel_bytes),
                    tile: Tile { rows: 3, vectors: 2 },
                    split,
                    epilogue: store(2, out.clone(), value.clone()),
                }]),
            };
            for groups in [1, 3] {
                let mut numbers = Numbers::new(1);
                let weights: Vec<Element> = (0..groups)
                    .flat_map(|_| {
                        packed(&numbers.memory(F32, (k_total * oc) as usize), k_total as usize, oc as usize, width as usize).elements
                    })
                    .collect();
                let data = [
                    numbers.memory(F32, groups * (h * w * ic) as usize),
                    Memory { dtype: F32, elements: weights },
                    Memory::zeros(F32, groups * (oh * ow * oc) as usize),
                ];
                check_on(&target, &kernel, &[("G", groups as i64)], &data, Within::Equal);
            }
        }
    }
}

/// One row, and none at all; columns that the epilogue scatters.
#[test]
fn vectors() {
    for rows in [vec![], vec![axis("i", 1)]] {
        let kernel = Kernel {
            borders: vec![],
            buffers: vec![input("a", F32), input("b", F32), output("out", F32)],
            body: Body::Contract(vec![Contract {
                batch: vec![],
                rows,
                cols: axis("j", 75),
                k: vec![axis("k", 13)],
                a: (BufferId(0), sym("k")),
                b: Panels::Strided(BufferId(1), sym("k") * 75 + sym("j")),
                tile: Tile { rows: 1, vectors: 4 },
                split: Split::Cols,
                epilogue: store(2, Dim::from(74 * 3) - sym("j") * 3, var("acc", F32)),
            }]),
        };
        let mut numbers = Numbers::new(1);
        let data = [numbers.memory(F32, 13), numbers.memory(F32, 13 * 75), Memory::zeros(F32, 75 * 3)];
        check(&kernel, &[], &data, Within::Equal);
    }
}

/// Batches that share `b`, operands that run backwards, and an epilogue that reads indices and scatters its rows.
#[test]
fn unusual_operands() {
    let (m, n, k) = (9, 37, 6);
    let (b, i, j, kk) = (sym("b"), sym("i"), sym("j"), sym("k"));
    let t = Let { name: name("t"), value: load(2, DType::I64, i.clone()), extent: m.into() };
    let by_lane = Let { name: name("u"), value: load(2, DType::I64, j.clone()), extent: 5.into() };
    let value = bin(BinOp::Add, var("acc", F32), load(3, F32, sym("t") * 5 + sym("u")));
    for tile in [(4, 2), (2, 3)] {
        let kernel = Kernel {
            borders: vec![],
            buffers: vec![input("a", F32), input("b", F32), input("t", DType::I64), input("y", F32), output("out", F32)],
            body: Body::Contract(vec![Contract {
                batch: vec![axis("b", sym("B"))],
                rows: vec![axis("i", m)],
                cols: axis("j", n),
                k: vec![axis("k", k)],
                a: (BufferId(0), b.clone() * (m * k) + (Dim::from(m - 1) - i.clone()) * k + Dim::from(k - 1) - kk.clone()),
                b: Panels::Strided(BufferId(1), (Dim::from(k - 1) - kk.clone()) * n + j.clone()),
                tile: Tile { rows: tile.0, vectors: tile.1 },
                split: Split::Rows,
                epilogue: Block {
                    lets: vec![t.clone(), by_lane.clone()],
                    ..store(4, b.clone() * (m * n) + (Dim::from(m - 1) - i.clone()) * n + j.clone(), value.clone())
                },
            }]),
        };
        let mut numbers = Numbers::new(1);
        let indices = (0..n).map(|_| Element::Int(i128::from(numbers.below(12)) - 2)).collect();
        let data = [
            numbers.memory(F32, (2 * m * k) as usize),
            numbers.memory(F32, (k * n) as usize),
            Memory { dtype: DType::I64, elements: indices },
            numbers.memory(F32, (m * 5) as usize),
            Memory::zeros(F32, (2 * m * n) as usize),
        ];
        check(&kernel, &[("B", 2)], &data, Within::Equal);
    }
}
