use super::map::specials;
use super::*;

fn kernel(dtype: DType, [outer, extent, inner, count]: [Dim; 4], largest: bool) -> Kernel {
    let rows = [axis("o", outer), axis("w", inner)];
    let [x, values, indices] = [BufferId(0), BufferId(1), BufferId(2)];
    let body = Body::TopK(TopK { rows, extent, count, largest, x, values, indices });
    Kernel::new(vec![input("x", dtype), output("values", dtype), output("indices", DType::I64)], body)
}

#[track_caller]
fn check_all(kernel: &Kernel, sizes: &[(&str, i64)], x: Memory, results: usize) {
    let dtype = x.dtype;
    let buffers = [x, Memory::zeros(dtype, results), Memory::zeros(DType::I64, results)];
    targets().iter().for_each(|target| check_on(target, kernel, sizes, &buffers, Within::Equal));
}

/// Every type, with equal elements, both zeros, infinities and NaN.
#[test]
fn every_type_in_either_order() {
    for (i, dtype) in DType::NUMBERS.iter().copied().filter(|t| *t != DType::Bool).enumerate() {
        let mut numbers = Numbers::new(5 + i as u64);
        for (count, largest) in [(1, true), (9, false), (137, i % 2 == 0)] {
            let x = specials(dtype, &mut numbers);
            check_all(&kernel(dtype, [1, 137, 1, count].map(Dim::from), largest), &[], x, count as usize);
        }
    }
}

/// Rows along any axis, of extents that are known and not, with heaps of every shape.
#[test]
fn rows_of_every_extent() {
    let f32 = DType::F32;
    for ([outer, extent, inner], count) in [
        ([3, 40, 1], 5),
        ([2, 7, 3], 7),
        ([1, 1, 4], 1),
        ([5, 2, 1], 2),
        ([2, 130, 1], 3),
        ([1, 600, 1], 64),
        ([4, 9, 1], 0),
        ([0, 9, 1], 2),
    ] {
        let mut numbers = Numbers::new((extent * 7 + count) as u64);
        let (elements, results) = ((outer * extent * inner) as usize, (outer * count * inner) as usize);
        let fixed = kernel(f32, [outer, extent, inner, count].map(Dim::from), true);
        check_all(&fixed, &[], numbers.memory(f32, elements), results);
        let free = kernel(f32, [sym("O"), sym("N"), inner.into(), sym("K")], false);
        check_all(&free, &[("K", count), ("N", extent), ("O", outer)], numbers.memory(f32, elements), results);
    }
}

/// In rising order every element gets in, in falling order none.
#[test]
fn rows_in_order() {
    for sign in [1.0, -1.0] {
        let elements = (0..300).map(|i| Element::Float(f64::from(i) * sign)).collect();
        let x = Memory { dtype: DType::F32, elements };
        check_all(&kernel(DType::F32, [1, 300, 1, 20].map(Dim::from), true), &[], x, 20);
    }
}
