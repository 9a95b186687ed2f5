//! Floats that become integers of few bits.

use super::*;

const F32: DType = DType::F32;

/// Integers that f32 holds.
const NARROW: [DType; 6] = [DType::U8, DType::I8, DType::U16, DType::I16, DType::U4, DType::I4];

/// Halves, the ends of every range and what is near them, numbers beyond any i32, and no number.
fn numbers() -> Memory {
    let ends = [0.0, 7.0, 8.0, 15.0, 127.0, 128.0, 129.0, 255.0, 256.0, 32767.0, 32768.0, 65535.0, 65536.0, 2147483648.0, 1e10, 3e38];
    let near = ends.iter().flat_map(|end| [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 1.5].map(|apart| end + apart));
    let both = near.flat_map(|x| [x, -x]).chain([f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -0.0]);
    Memory { dtype: F32, elements: both.map(|x| Element::Float(x).rounded(F32)).collect() }
}

#[track_caller]
fn check_cast(to: DType, zeros: DType, float: Expr) {
    let x = numbers();
    let count = x.elements.len();
    let buffers = vec![input("x", F32), input("z", zeros), output("out", to)];
    let kernel = map_kernel(buffers, vec![axis("i", count as i64)], store(2, sym("i"), cast(to, float)));
    let zero = Memory { dtype: zeros, elements: vec![Element::Int(5); 1] };
    check(&kernel, &[], &[x, zero, Memory::zeros(to, count)], Within::Equal);
}

#[test]
fn integers_saturate_and_halves_round_to_even() {
    let x = || load(0, F32, sym("i"));
    let plus = |zero: Expr| bin(BinOp::Add, un(UnOp::Round, x()), zero);
    for to in NARROW {
        check_cast(to, to, x());
        check_cast(to, to, un(UnOp::Round, x()));
        for zero in [0.0, 1.0, 7.0, -3.0, 128.0, 255.0, 0.5, 1e6] {
            check_cast(to, to, plus(lit(zero)));
        }
        check_cast(to, to, plus(cast(F32, load(1, to, Dim::ZERO))));
        // A zero point that the type may not hold.
        check_cast(to, DType::I32, plus(cast(F32, load(1, DType::I32, Dim::ZERO))));
    }
}
