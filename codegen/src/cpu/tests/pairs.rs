//! Contractions of bf16, widened and in pairs.

use super::*;

const F32: DType = DType::F32;
const BF16: DType = DType::BF16;

/// How the right operand lies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Packed,
    Strided,
    Paired,
}

/// `[outer, k, n]` in panels of `width` columns, with `together` steps beside each other; lanes behind the last column are NaN.
fn packed(b: &Memory, [outer, k, n]: [usize; 3], width: usize, together: usize) -> Memory {
    let (panels, steps) = (n.div_ceil(width), k.div_ceil(together));
    let mut elements = vec![Element::Float(f64::NAN); panels * outer * steps * together * width];
    for (panel, rows) in elements.chunks_mut((outer * steps * together * width).max(1)).enumerate() {
        for (at, slot) in rows.iter_mut().enumerate() {
            let (half, column, row) = (at % together, at / together % width + panel * width, at / together / width);
            let step = row % steps * together + half;
            if step >= k {
                *slot = Element::Float(0.0);
            } else if column < n {
                *slot = b.elements[((row / steps) * k + step) * n + column];
            }
        }
    }
    Memory { dtype: b.dtype, elements }
}

/// `out[i, j] = acc + bias[j]` over `k` in two loops, the rows of `a` overlapping as those of an image do.
fn product(m: i64, [outer, k, n]: [i64; 3], pitch: Dim, form: Form, tile: Tile) -> Kernel {
    let (i, j) = (sym("i"), sym("j"));
    let value = bin(BinOp::Add, var("acc", F32), load(2, F32, j.clone()));
    let b = match form {
        Form::Packed => Panels::Packed(BufferId(1), Dim::ZERO),
        Form::Paired => Panels::Paired(BufferId(1), Dim::ZERO),
        Form::Strided => Panels::Strided(BufferId(1), (sym("o") * k + sym("k")) * n + j.clone()),
    };
    let contract = Contract {
        batch: vec![],
        rows: vec![axis("i", m)],
        cols: axis("j", n),
        k: vec![axis("o", outer), axis("k", k)],
        a: (BufferId(0), i.clone() * pitch + sym("o") * (k + 1) + sym("k")),
        b,
        tile,
        split: [Split::Rows, Split::Cols][(m % 2) as usize],
        epilogue: store(3, i * n + j, value),
    };
    let buffers = vec![input("a", BF16), input("b", BF16), input("bias", F32), output("out", F32)];
    Kernel::new(buffers, Body::Contract(vec![contract]))
}

/// Every instruction set of this machine, and dot products if it has them.
fn all_targets() -> Vec<Target> {
    targets().into_iter().chain(Target::native().ok().and_then(|native| native.with_dots())).collect()
}

#[test]
fn widened_or_in_pairs() {
    let tiles = [(7, 2), (4, 3), (1, 4), (6, 1)];
    for target in all_targets() {
        let forms: &[Form] = if target.dots { &[Form::Paired] } else { &[Form::Packed, Form::Strided] };
        for (case, m) in (1..=17).enumerate() {
            let (form, tile) = (forms[case % forms.len()], tiles[case % 4]);
            let [outer, k, n] = [1 + case as i64 % 3, [1, 2, 3, 21, 64, 129][case % 6], 1 + m * 11 % 70];
            let pitch = outer * (k + 1);
            let known = case % 5 > 0;
            let sizes: Bindings = if known { Bindings::new() } else { [("P".into(), pitch)].into() };
            let kernel =
                product(m, [outer, k, n], if known { pitch.into() } else { sym("P") }, form, Tile { rows: tile.0, vectors: tile.1 });
            let mut numbers = Numbers::new(case as u64);
            let size = |d: i64| d as usize;
            let (a, b) = (numbers.memory(BF16, size(m * pitch)), numbers.memory(BF16, size(outer * k * n)));
            let together = if form == Form::Paired { 2 } else { 1 };
            let extents = [outer, k, n].map(size);
            let b = if form == Form::Strided { b } else { packed(&b, extents, tile.1 * target.lanes, together) };
            let data = [a, b, numbers.memory(F32, size(n)), Memory::zeros(F32, size(m * n))];
            let sizes: Vec<(&str, i64)> = sizes.iter().map(|(name, n)| (&**name, *n)).collect();
            // Long rows are summed by themselves.
            check_on(&target, &kernel, &sizes, &data, Within::Relative(1e-5));
        }
    }
}

/// A NaN behind an odd row of `a`, where the next row stands, is not part of the sum.
#[test]
fn what_stands_behind_an_odd_row_is_not_read_into_its_sum() {
    for target in all_targets().into_iter().filter(|t| t.dots) {
        let kernel = product(2, [1, 3, 16], 4.into(), Form::Paired, Tile { rows: 2, vectors: 1 });
        let mut numbers = Numbers::new(1);
        let (mut a, b) = (numbers.memory(BF16, 8), numbers.memory(BF16, 48));
        a.elements[3] = Element::Float(f64::NAN);
        let data = [a, packed(&b, [1, 3, 16], 16, 2), numbers.memory(F32, 16), Memory::zeros(F32, 32)];
        check_on(&target, &kernel, &[], &data, Within::Relative(1e-6));
    }
}
