use super::*;

/// What a function may be wrong by, in units of the last place, where `from <= x <= to`.
struct Bound {
    op: UnOp,
    exact: fn(f64) -> f64,
    from: f64,
    to: f64,
    single: f64,
    double: f64,
}

const fn bound(op: UnOp, exact: fn(f64) -> f64, from: f64, to: f64, single: f64, double: f64) -> Bound {
    Bound { op, exact, from, to, single, double }
}

const BOUNDS: &[Bound] = &[
    bound(UnOp::Exp, f64::exp, -104.0, 89.0, 1.0, 2.0),
    bound(UnOp::Exp, f64::exp, -1.0, 1.0, 1.0, 2.0),
    bound(UnOp::Exp, f64::exp, -745.0, 709.0, 1.0, 2.0),
    bound(UnOp::Log, f64::ln, 0.0, 1e38, 1.0, 2.0),
    bound(UnOp::Log, f64::ln, 0.5, 2.0, 1.0, 2.0),
    bound(UnOp::Tanh, f64::tanh, -10.0, 10.0, 2.0, 6.0),
    bound(UnOp::Tanh, f64::tanh, -0.01, 0.01, 2.0, 6.0),
    bound(UnOp::Erf, libm::erf, -4.5, 4.5, 1.5, 3.0),
    bound(UnOp::Erf, libm::erf, -0.01, 0.01, 1.5, 3.0),
    bound(UnOp::Sin, f64::sin, -10.0, 10.0, 1.0, 2.0),
    bound(UnOp::Sin, f64::sin, -1e6, 1e6, 1.0, 3.0),
    bound(UnOp::Cos, f64::cos, -10.0, 10.0, 1.0, 2.0),
    bound(UnOp::Cos, f64::cos, -1e6, 1e6, 1.0, 3.0),
    bound(UnOp::Tan, f64::tan, -10.0, 10.0, 1.0, 4.0),
    bound(UnOp::Asin, f64::asin, -1.0, 1.0, 1.0, 4.0),
    bound(UnOp::Acos, f64::acos, -1.0, 1.0, 1.0, 4.0),
    bound(UnOp::Atan, f64::atan, -50.0, 50.0, 1.0, 2.0),
    bound(UnOp::Atan, f64::atan, -1e30, 1e30, 1.0, 2.0),
    bound(UnOp::Sinh, f64::sinh, -88.0, 88.0, 1.0, 8.0),
    bound(UnOp::Sinh, f64::sinh, -0.1, 0.1, 1.0, 8.0),
    bound(UnOp::Cosh, f64::cosh, -88.0, 88.0, 1.0, 4.0),
    bound(UnOp::Asinh, asinh, -1e3, 1e3, 1.0, 8.0),
    bound(UnOp::Asinh, asinh, -0.1, 0.1, 1.0, 8.0),
    bound(UnOp::Acosh, acosh, 1.0, 1e10, 1.0, 8.0),
    bound(UnOp::Acosh, acosh, 1.0, 1.5, 1.0, 8.0),
    bound(UnOp::Atanh, atanh, -1.0, 1.0, 1.0, 8.0),
    bound(UnOp::Atanh, atanh, -0.1, 0.1, 1.0, 8.0),
];

// The standard library's are wrong by more than these bounds near 0.
fn asinh(x: f64) -> f64 {
    libm::asinh(x)
}
fn acosh(x: f64) -> f64 {
    if x < 1.0 { f64::NAN } else { libm::acosh(x) }
}
fn atanh(x: f64) -> f64 {
    libm::atanh(x)
}

/// The distance between a number and the exact one, in steps of the type at the exact one.
fn ulps(found: f64, exact: f64, dtype: DType) -> f64 {
    let (digits, least) = if dtype == DType::F32 { (23, -149) } else { (52, -1074) };
    let exponent = exact.abs().max(f64::MIN_POSITIVE).log2().floor() as i32;
    let step = f64::from((exponent - digits).max(least)).exp2();
    if found == Element::Float(exact).rounded(dtype).as_f64() { 0.0 } else { (found - exact).abs() / step }
}

/// Numbers in a range: evenly spread, and as many of every size.
fn samples(bound: &Bound, dtype: DType) -> Vec<f64> {
    const COUNT: usize = 20_000;
    let width = bound.to - bound.from;
    let even = (0..=COUNT).map(|i| bound.from + width * i as f64 / COUNT as f64);
    let sized = (0..COUNT).map(|i| bound.to.abs().max(1e-3) * 2f64.powf(-40.0 * i as f64 / COUNT as f64));
    let both = even.chain(sized.clone()).chain(sized.map(|x| -x)).filter(|x| (bound.from..=bound.to).contains(x));
    both.map(|x| Element::Float(x).rounded(dtype).as_f64()).collect()
}

/// A kernel with an output per function, all of the same input.
fn functions(ops: &[UnOp], dtype: DType) -> Kernel {
    let i = sym("i");
    let stores = ops.iter().enumerate().map(|(k, op)| Store {
        buffer: BufferId(k + 1),
        offset: i.clone(),
        value: un(*op, load(0, dtype, i.clone())),
    });
    let buffers = std::iter::once(input("x", dtype)).chain(ops.iter().map(|op| output(&op.to_string(), dtype)));
    map_kernel(buffers.collect(), vec![axis("i", sym("N"))], Block { lets: vec![], stores: stores.collect() })
}

#[test]
fn errors_are_bounded() {
    for dtype in [DType::F32, DType::F64] {
        for target in targets() {
            let kernels: Vec<Kernel> = BOUNDS.iter().map(|b| functions(&[b.op], dtype)).collect();
            let loaded = Loaded::new(&kernels, &target);
            for (k, bound) in BOUNDS.iter().enumerate() {
                let xs = samples(bound, dtype);
                let x = Memory { dtype, elements: xs.iter().map(|&x| Element::Float(x)).collect() };
                let sizes = Bindings::from([(name("N"), xs.len() as i64)]);
                let y = Memory::zeros(dtype, xs.len());
                let found = run_compiled(loaded.entry(k), &target, &kernels[k], &sizes, &[x, y], 1).remove(1);
                let wrong = |i: usize| ulps(found.elements[i].as_f64(), (bound.exact)(xs[i]), dtype);
                let worst = (0..xs.len()).max_by(|&i, &j| wrong(i).total_cmp(&wrong(j))).unwrap();
                let allowed = if dtype == DType::F32 { bound.single } else { bound.double };
                assert!(
                    wrong(worst) <= allowed,
                    "{} {dtype}: {}({:e}) = {:e}, expected {:e}: {:.2} ulp, allowed {allowed}",
                    target.name,
                    bound.op,
                    xs[worst],
                    found.elements[worst].as_f64(),
                    (bound.exact)(xs[worst]),
                    wrong(worst)
                );
            }
        }
    }
}

/// Infinities, NaN, zeros of both signs, subnormal numbers and the edges of domains: to the bit, but for rounding.
#[test]
fn special_arguments() {
    let ops: Vec<UnOp> = BOUNDS.iter().map(|b| b.op).collect();
    for dtype in [DType::F32, DType::F64] {
        let tiny = if dtype == DType::F32 { 1e-40 } else { 1e-310 };
        let xs = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            2.0,
            -2.0,
            0.5,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            tiny,
            -tiny,
            1e-30,
            -1e-30,
            1e5,
            -1e5,
            3e38,
            -3e38,
            800.0,
            -800.0,
            -100.0,
            89.0,
            90.0,
            710.0,
        ];
        let x = Memory { dtype, elements: xs.iter().map(|&x| Element::Float(x).rounded(dtype)).collect() };
        let kernel = functions(&ops, dtype);
        for target in targets() {
            let loaded = Loaded::new(std::slice::from_ref(&kernel), &target);
            let mut data = vec![x.clone()];
            data.extend(ops.iter().map(|_| Memory::zeros(dtype, xs.len())));
            let sizes = Bindings::from([(name("N"), xs.len() as i64)]);
            let found = run_compiled(loaded.entry(0), &target, &kernel, &sizes, &data, 1);
            for (bound, found) in BOUNDS.iter().zip(&found[1..]) {
                for (x, y) in x.elements.iter().zip(&found.elements) {
                    let (x, y) = (x.as_f64(), y.as_f64());
                    let huge = matches!(bound.op, UnOp::Sin | UnOp::Cos | UnOp::Tan) && x.is_finite() && x.abs() > 1e6;
                    let exact = Element::Float((bound.exact)(x)).rounded(dtype).as_f64();
                    let fine = match exact {
                        e if e.is_nan() => y.is_nan(),
                        e if e == 0.0 || e.is_infinite() => y == e && y.is_sign_positive() == e.is_sign_positive(),
                        e => huge || ulps(y, e, dtype) <= 8.0,
                    };
                    assert!(fine, "{} {dtype}: {}({x:e}) = {y:e}, expected {exact:e}", target.name, bound.op);
                }
            }
        }
    }
}

#[test]
fn powers() {
    let bases = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 3.7, -3.0, 1e10, 1e-10, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1.0001];
    let exponents =
        [0.0, 1.0, -1.0, 2.0, 3.0, -3.0, 0.5, -0.5, 2.5, -1.7, 4.0, 16.0, 17.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.3333333];
    let pairs: Vec<(f64, f64)> = bases.iter().flat_map(|&x| exponents.map(|y| (x, y))).collect();
    for (dtype, allowed) in [(DType::F32, 8.0), (DType::F64, 200.0)] {
        let memory =
            |f: fn(&(f64, f64)) -> f64| Memory { dtype, elements: pairs.iter().map(|p| Element::Float(f(p)).rounded(dtype)).collect() };
        let i = sym("i");
        let mut stores = vec![Store {
            buffer: BufferId(2),
            offset: i.clone(),
            value: bin(BinOp::Pow, load(0, dtype, i.clone()), load(1, dtype, i.clone())),
        }];
        let mut buffers = vec![input("x", dtype), input("y", dtype), output("power", dtype)];
        for (k, &y) in exponents.iter().enumerate() {
            buffers.push(output(&format!("to the {y}"), dtype));
            stores.push(Store {
                buffer: BufferId(k + 3),
                offset: i.clone(),
                value: bin(BinOp::Pow, load(0, dtype, i.clone()), Expr::literal(y, dtype)),
            });
        }
        let mut data = vec![memory(|p| p.0), memory(|p| p.1)];
        data.extend(buffers[2..].iter().map(|_| Memory::zeros(dtype, pairs.len())));
        let kernel = map_kernel(buffers, vec![axis("i", pairs.len())], Block { lets: vec![], stores });
        for target in targets() {
            let loaded = Loaded::new(std::slice::from_ref(&kernel), &target);
            let found = run_compiled(loaded.entry(0), &target, &kernel, &Bindings::new(), &data, 1);
            for (k, found) in found[2..].iter().enumerate() {
                for (i, element) in found.elements.iter().enumerate() {
                    let x = data[0].elements[i].as_f64();
                    let y = if k == 0 { data[1].elements[i].as_f64() } else { Element::Float(exponents[k - 1]).rounded(dtype).as_f64() };
                    let exact = Element::Float(x.powf(y)).rounded(dtype).as_f64();
                    let found = element.as_f64();
                    let fine = if exact.is_nan() { found.is_nan() } else { found == exact || ulps(found, exact, dtype) <= allowed };
                    assert!(fine, "{} {dtype}: {x:e} to the {y:e} = {found:e}, expected {exact:e}", target.name);
                }
            }
        }
    }
}

/// Scalars take the same code, in another form.
#[test]
fn scalars() {
    let ops: Vec<UnOp> = BOUNDS.iter().map(|b| b.op).collect();
    for dtype in [DType::F32, DType::F64] {
        let stores = ops.iter().enumerate().map(|(k, op)| Store {
            buffer: BufferId(k + 1),
            offset: Dim::ZERO,
            value: un(*op, load(0, dtype, Dim::ZERO)),
        });
        let buffers = std::iter::once(input("x", dtype)).chain(ops.iter().map(|op| output(&op.to_string(), dtype)));
        let kernel = map_kernel(buffers.collect(), vec![], Block { lets: vec![], stores: stores.collect() });
        for x in [0.3, -0.7, 0.99, 1.0, -0.0, f64::NAN] {
            let mut data = vec![Memory { dtype, elements: vec![Element::Float(x).rounded(dtype)] }];
            data.extend(ops.iter().map(|_| Memory::zeros(dtype, 1)));
            check(&kernel, &[], &data, Within::Relative(1e-6));
        }
    }
}
