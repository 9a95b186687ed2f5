use super::*;

const F32: DType = DType::F32;

/// out[i] = relu(x[i] + b[0]), for every length around the vector's.
#[test]
fn tails_of_every_length() {
    let n = sym("N");
    let sum = bin(BinOp::Add, load(0, F32, sym("i")), load(1, F32, Dim::ZERO));
    let block = store(2, sym("i"), bin(BinOp::Max, sum, lit(0.0)));
    let buffers = || vec![input("x", F32), input("b", F32), output("out", F32)];
    let dynamic = map_kernel(buffers(), vec![axis("i", n)], block.clone());
    for target in targets() {
        let loaded = Loaded::new(std::slice::from_ref(&dynamic), &target);
        for len in (0..=2 * target.lanes + 1).chain([63, 64, 65, 129, 1023, 1024, 1025, 3000]) {
            let mut numbers = Numbers::new(len as u64);
            let data = [numbers.memory(F32, len), numbers.memory(F32, 1), Memory::zeros(F32, len)];
            let sizes = Bindings::from([(name("N"), len as i64)]);
            check_loaded(loaded.entry(0), &target, &dynamic, &sizes, &data, Within::Equal);
        }
        for len in [1, 7, 8, 16, 17, 31, 64, 100, 130, 1500] {
            let fixed = map_kernel(buffers(), vec![axis("i", len)], block.clone());
            let mut numbers = Numbers::new(len as u64);
            let data = [numbers.memory(F32, len), numbers.memory(F32, 1), Memory::zeros(F32, len)];
            check_on(&target, &fixed, &[], &data, Within::Equal);
        }
    }
}

/// out[i, j] = x[j, i], x[5 - i...], broadcasts: all strides.
#[test]
fn strides() {
    for (rows, cols) in [(1, 1), (3, 5), (16, 16), (17, 33), (5, 100), (40, 3)] {
        let (i, j) = (sym("i"), sym("j"));
        let offsets = [
            j.clone() * rows + i.clone(),
            i.clone() * cols + (cols - 1) - j.clone(),
            i.clone(),
            j.clone(),
            Dim::ZERO,
            (i.clone() * cols + j.clone()).floor_div(&3.into()),
        ];
        for offset in offsets {
            let block = store(1, i.clone() * cols + j.clone(), load(0, F32, offset));
            let kernel = map_kernel(vec![input("x", F32), output("out", F32)], vec![axis("i", rows), axis("j", cols)], block);
            let count = (rows * cols) as usize;
            let data = [Numbers::new(7).memory(F32, count), Memory::zeros(F32, count)];
            check(&kernel, &[], &data, Within::Equal);
        }
        for apart in [2i64, 3, 4, 5, -2] {
            let count = (rows * cols) as usize;
            let (first, last) = if apart < 0 { ((cols - 1) * -apart, 0) } else { (0, 0) };
            let from = i.clone() * (cols * apart.abs()) + j.clone() * apart + (first + last);
            let kernel = map_kernel(
                vec![input("x", F32), output("out", F32)],
                vec![axis("i", rows), axis("j", cols)],
                store(1, i.clone() * cols + j.clone(), load(0, F32, from)),
            );
            let data = [Numbers::new(7).memory(F32, count * apart.unsigned_abs() as usize), Memory::zeros(F32, count)];
            check(&kernel, &[], &data, Within::Equal);
        }
        // Scattered stores.
        let block = store(1, j.clone() * rows + i.clone(), load(0, F32, i.clone() * cols + j.clone()));
        let kernel = map_kernel(vec![input("x", F32), output("out", F32)], vec![axis("i", rows), axis("j", cols)], block);
        let count = (rows * cols) as usize;
        check(&kernel, &[], &[Numbers::new(8).memory(F32, count), Memory::zeros(F32, count)], Within::Equal);
    }
}

/// Transpositions in squares: every kind of edge, with fixed and with symbolic extents, fused with other work, of all types.
#[test]
fn transpositions() {
    let (b, i, j) = (sym("b"), sym("i"), sym("j"));
    let kernel = |batch: Dim, rows: Dim, cols: Dim, dtype: DType| {
        let from = (b.clone() * cols.clone() + j.clone()) * rows.clone() + i.clone();
        let to = (b.clone() * rows.clone() + i.clone()) * cols.clone() + j.clone();
        let turned = load(0, dtype, from);
        let value = if dtype == F32 {
            bin(BinOp::Add, bin(BinOp::Mul, turned, load(1, dtype, j.clone())), load(1, dtype, i.clone()))
        } else {
            turned
        };
        map_kernel(
            vec![input("x", dtype), input("y", dtype), output("out", dtype)],
            vec![axis("b", batch), axis("i", rows), axis("j", cols)],
            store(2, to, value),
        )
    };
    let data = |batch: i64, rows: i64, cols: i64, dtype| {
        let mut numbers = Numbers::new(rows as u64);
        [
            numbers.memory(dtype, (batch * rows * cols) as usize),
            numbers.memory(dtype, rows.max(cols) as usize),
            Memory::zeros(dtype, (batch * rows * cols) as usize),
        ]
    };
    for (n, (rows, cols)) in [(16, 16), (8, 24), (5, 17), (32, 3), (33, 50), (4, 4), (100, 9), (15, 31)].into_iter().enumerate() {
        let dtype = if n % 2 == 0 { F32 } else { DType::ALL[n] };
        check(&kernel(2.into(), rows.into(), cols.into(), dtype), &[], &data(2, rows, cols, dtype), Within::Relative(1e-6));
    }
    let dynamic = kernel(sym("B"), sym("M"), sym("N"), F32);
    for target in targets() {
        let loaded = Loaded::new(std::slice::from_ref(&dynamic), &target);
        for (batch, m, n) in [(1, 16, 16), (3, 20, 40), (2, 7, 5), (1, 64, 33), (2, 0, 4)] {
            let sizes = Bindings::from([(name("B"), batch), (name("M"), m), (name("N"), n)]);
            check_loaded(loaded.entry(0), &target, &dynamic, &sizes, &data(batch, m, n, F32), Within::Relative(1e-6));
        }
    }
}

/// A short innermost axis: channels last with few channels, from channels first and from channels last.
#[test]
fn few_channels() {
    let (h, w, c) = (sym("h"), sym("w"), sym("c"));
    for channels in [2, 3, 4, 5] {
        for (rows, cols) in [(Dim::from(3), Dim::from(17)), (Dim::from(2), Dim::from(16)), (sym("H"), sym("W"))] {
            let pixel = h.clone() * cols.clone() + w.clone();
            let from_first = load(0, F32, pixel.clone() + c.clone() * (rows.clone() * cols.clone()));
            let from_last = load(0, F32, pixel.clone() * channels + c.clone());
            for from in [from_first, from_last] {
                let value = bin(BinOp::Mul, bin(BinOp::Sub, from, load(1, F32, c.clone())), load(1, F32, c.clone() + 5));
                let to = pixel.clone() * channels + c.clone() + 7;
                let kernel = map_kernel(
                    vec![input("x", F32), input("y", F32), output("out", F32)],
                    vec![axis("h", rows.clone()), axis("w", cols.clone()), axis("c", channels)],
                    store(2, to, value),
                );
                for (height, width) in [(3, 17), (2, 16), (5, 40), (1, 1)] {
                    let (height, width) = (rows.as_const().unwrap_or(height), cols.as_const().unwrap_or(width));
                    let count = (height * width * channels) as usize;
                    let mut numbers = Numbers::new(count as u64);
                    let data = [numbers.memory(F32, count), numbers.memory(F32, 10), Memory::zeros(F32, count + 7)];
                    check(&kernel, &[("H", height), ("W", width)], &data, Within::Equal);
                }
            }
        }
    }
}

/// Symbolic extents and strides, and indices with division and remainder by both numbers and symbols.
#[test]
fn symbolic_extents() {
    let (i, j, k, n, m) = (sym("i"), sym("j"), sym("k"), sym("N"), sym("M"));
    let flat = (i.clone() * m.clone() + j.clone()) * 3 + k.clone();
    let total = n.clone() * m.clone() * 3;
    let from = total.clone() - 1 - flat.clone().floor_div(&2.into()) - flat.modulo(&2.into());
    let value = bin(BinOp::Mul, load(0, F32, from), load(1, F32, flat.clone().modulo(&n)));
    let kernel = map_kernel(
        vec![input("x", F32), input("y", F32), output("out", F32)],
        vec![axis("i", n), axis("j", m), axis("k", 3)],
        store(2, flat, value),
    );
    for (n, m) in [(1, 1), (2, 7), (5, 30), (1, 100), (70, 2), (0, 4), (4, 0)] {
        let count = (n * m * 3) as usize;
        let mut numbers = Numbers::new(n as u64);
        let data = [numbers.memory(F32, count), numbers.memory(F32, n as usize), Memory::zeros(F32, count)];
        check(&kernel, &[("N", n), ("M", m)], &data, Within::Equal);
    }
}

/// Indices read from data: per row (an embedding) and per lane, also such as point outside.
#[test]
fn gathers() {
    let (i, j, t) = (sym("i"), sym("j"), sym("t"));
    let index = |offset| vec![Let { name: name("t"), value: load(1, DType::I64, offset), extent: 9.into() }];
    let rows = Block { lets: index(i.clone()), ..store(2, i.clone() * 20 + j.clone(), load(0, F32, t.clone() * 20 + j.clone())) };
    let lanes = Block { lets: index(j.clone()), ..store(2, i.clone() * 20 + j.clone(), load(0, F32, t * 20 + i.clone())) };
    for block in [rows, lanes] {
        let kernel =
            map_kernel(vec![input("x", F32), input("t", DType::I64), output("out", F32)], vec![axis("i", 11), axis("j", 20)], block);
        let mut numbers = Numbers::new(3);
        let indices = (0..20).map(|_| Element::Int(i128::from(numbers.below(15)) - 3)).collect();
        let data = [numbers.memory(F32, 180), Memory { dtype: DType::I64, elements: indices }, Memory::zeros(F32, 220)];
        check(&kernel, &[], &data, Within::Equal);
    }
}

/// A concat: two pieces, one of them empty at run time.
#[test]
fn pieces() {
    let i = sym("i");
    let piece =
        |from: usize, extent: Dim, to: Dim| Piece { axes: vec![axis("i", extent)], block: store(2, to, load(from, F32, i.clone())) };
    let pieces = vec![piece(0, sym("A"), i.clone()), piece(1, sym("B"), i.clone() + sym("A"))];
    let kernel =
        Kernel { borders: vec![], buffers: vec![input("a", F32), input("b", F32), output("out", F32)], body: Body::Map(Map { pieces }) };
    for (a, b) in [(5, 7), (0, 3), (20, 0), (33, 40)] {
        let mut numbers = Numbers::new(3);
        let data = [numbers.memory(F32, a), numbers.memory(F32, b), Memory::zeros(F32, a + b)];
        check(&kernel, &[("A", a as i64), ("B", b as i64)], &data, Within::Equal);
    }
}

/// Rank 0, several outputs, and an index used as a value.
#[test]
fn odd_shapes() {
    let kernel = map_kernel(vec![input("x", F32), output("out", F32)], vec![], store(1, Dim::ZERO, un(UnOp::Neg, load(0, F32, Dim::ZERO))));
    check(&kernel, &[], &[Numbers::new(1).memory(F32, 1), Memory::zeros(F32, 1)], Within::Equal);
    let (i, j) = (sym("i"), sym("j"));
    let index = |d: Dim| Expr::new(DType::I64, ExprKind::Index(d));
    let block = Block {
        lets: vec![],
        stores: vec![
            Store { buffer: BufferId(0), offset: i.clone() * 21 + j.clone(), value: index(i.clone() * 100 + j.clone()) },
            Store {
                buffer: BufferId(1),
                offset: i.clone() * 21 + j.clone(),
                value: cast(F32, index((i.clone() * 21 + j.clone()).modulo(&5.into()))),
            },
            Store {
                buffer: BufferId(2),
                offset: i.clone() * 21 + j.clone(),
                value: bin(BinOp::Le, index(j.clone()), index(i.clone() + 4)),
            },
        ],
    };
    let kernel =
        map_kernel(vec![output("a", DType::I64), output("b", F32), output("c", DType::Bool)], vec![axis("i", 3), axis("j", 21)], block);
    check(&kernel, &[], &[Memory::zeros(DType::I64, 63), Memory::zeros(F32, 63), Memory::zeros(DType::Bool, 63)], Within::Equal);
}

/// Every conversion, with values at the edges of the types.
#[test]
fn casts() {
    let floats = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1.5,
        2.5,
        -2.5,
        127.5,
        128.0,
        255.9,
        256.0,
        300.0,
        -129.0,
        32768.0,
        65504.0,
        65519.9,
        65520.0,
        70000.0,
        1e10,
        -1e10,
        2147483647.0,
        4294967296.0,
        1e19,
        -1e19,
        3.5e38,
        1e300,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        1e-8,
        5.96e-8,
        1e-40,
        1e-310,
        1.0009765625,
        1.00146484375,
        1.000491,
        1.00048828125,
    ];
    let ints = [
        0i128,
        1,
        -1,
        2,
        127,
        128,
        -128,
        -129,
        255,
        256,
        32767,
        32768,
        -32768,
        65535,
        65536,
        16777217,
        2147483647,
        2147483648,
        -2147483648,
        4294967295,
        4294967296,
        9007199254740993,
        i64::MAX as i128,
        i64::MIN as i128,
        u64::MAX as i128,
        33554435,
        257,
        385,
    ];
    for &from in DType::NUMBERS {
        let raw: Vec<Element> = match from {
            t if t.is_float() => floats.iter().map(|&v| Element::Float(v)).collect(),
            _ => ints.iter().map(|&v| Element::Int(v)).collect(),
        };
        let elements: Vec<Element> = raw.iter().map(|e| e.rounded(from)).collect();
        let count = elements.len();
        let i = sym("i");
        let buffers = std::iter::once(input("x", from)).chain(DType::NUMBERS.iter().map(|&to| output(to.name(), to))).collect();
        let stores = DType::NUMBERS.iter().enumerate().map(|(k, &to)| Store {
            buffer: BufferId(k + 1),
            offset: i.clone(),
            value: cast(to, load(0, from, i.clone())),
        });
        let kernel = map_kernel(buffers, vec![axis("i", count)], Block { lets: vec![], stores: stores.collect() });
        let mut data = vec![Memory { dtype: from, elements }];
        data.extend(DType::NUMBERS.iter().map(|&to| Memory::zeros(to, count)));
        check(&kernel, &[], &data, Within::Equal);
    }
}

/// Every primitive that is exact, on every type that it takes, on vectors and on scalars.
#[test]
fn exact_primitives() {
    use BinOp::*;
    let binary = [Add, Sub, Mul, Div, Max, Min, Mod, Rem, And, Or, Xor, Shl, Shr, Eq, Lt, Le];
    let unary = [UnOp::Neg, UnOp::Abs, UnOp::Sign, UnOp::Not, UnOp::Sqrt, UnOp::Floor, UnOp::Ceil, UnOp::Round, UnOp::IsNan];
    for &dtype in DType::NUMBERS {
        let mut numbers = Numbers::new(11);
        let (x, y) = (specials(dtype, &mut numbers), specials(dtype, &mut numbers));
        let (count, i) = (x.elements.len(), sym("i"));
        let mut stores = vec![];
        let mut buffers = vec![input("x", dtype), input("y", dtype)];
        let mut results = vec![];
        let operand = |b, uniform: bool| load(b, dtype, if uniform { Dim::from(3) } else { sym("i") });
        for op in binary.into_iter().filter(|op| op.result(dtype).is_ok()) {
            results.push(bin(op, operand(0, false), operand(1, false)));
            results.push(bin(op, operand(0, true), operand(1, true)));
        }
        for op in unary.into_iter().filter(|op| op.result(dtype).is_ok()) {
            results.push(un(op, operand(0, false)));
            results.push(un(op, operand(0, true)));
        }
        if dtype.is_int() && !dtype.is_storage() {
            results.push(bin(Pow, operand(0, false), operand(1, false)));
        }
        for value in results {
            let buffer = BufferId(buffers.len());
            buffers.push(output(&format!("{:?}", value.kind).chars().take(12).collect::<String>(), value.dtype));
            stores.push(Store { buffer, offset: i.clone(), value });
        }
        let mut data = vec![x, y];
        data.extend(buffers[2..].iter().map(|b| Memory::zeros(b.dtype, count)));
        let kernel = map_kernel(buffers, vec![axis("i", count)], Block { lets: vec![], stores });
        check(&kernel, &[], &data, Within::Equal);
    }
}

/// Numbers at the edges of a type, in random order.
pub(super) fn specials(dtype: DType, numbers: &mut Numbers) -> Memory {
    let edges: Vec<Element> = match dtype {
        DType::Bool => vec![Element::Bool(true), Element::Bool(false)],
        t if t.is_float() => {
            [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -3.5, 7.0, 1e30, -1e30, 1e-30, 3.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 65504.0, 1e-7]
                .map(Element::Float)
                .to_vec()
        }
        _ => [0, 1, -1, 2, 3, 5, 7, 31, 63, 100, i128::from(i64::MAX), i128::from(i64::MIN), i128::from(i32::MIN), -128, 127, -32768]
            .map(Element::Int)
            .to_vec(),
    };
    let elements = (0..137).map(|_| edges[numbers.below(edges.len() as u64) as usize].rounded(dtype)).collect();
    Memory { dtype, elements }
}

/// Narrow floats are computed wide and rounded where they are stored or converted.
#[test]
fn narrow_floats() {
    for dtype in [DType::F16, DType::BF16] {
        let i = sym("i");
        let product = bin(BinOp::Mul, load(0, dtype, i.clone()), load(0, dtype, i.clone()));
        let sum = bin(BinOp::Add, product.clone(), load(1, dtype, i.clone()));
        let block = Block {
            lets: vec![],
            stores: vec![
                Store { buffer: BufferId(2), offset: i.clone(), value: sum.clone() },
                Store { buffer: BufferId(3), offset: i.clone(), value: cast(F32, sum) },
            ],
        };
        let kernel =
            map_kernel(vec![input("x", dtype), input("y", dtype), output("a", dtype), output("b", F32)], vec![axis("i", 101)], block);
        let mut numbers = Numbers::new(5);
        let data = [numbers.memory(dtype, 101), numbers.memory(dtype, 101), Memory::zeros(dtype, 101), Memory::zeros(F32, 101)];
        check(&kernel, &[], &data, Within::Equal);
    }
}
