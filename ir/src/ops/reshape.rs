//! `reshape`: the same elements in row-major order under another shape.

use crate::assume;
use crate::dim::Dim;
use crate::ops::check;
use crate::ty::TensorType;
use std::ops::Range;

/// The extents become `shape`.
///
/// The numbers of elements must not be known to differ; with symbols they may agree for some of their values only, such as
/// `f32[N, 3]` under `[div(3*N, 2), 2]`.
///
/// # Errors
/// When the number of elements differs.
pub fn infer(shape: &[Dim], x: &TensorType) -> Result<TensorType, String> {
    check::extents("shape", shape)?;
    let result = x.with_dims(shape.to_vec());
    check::sizes(&result)?;
    let (before, after) = (x.count(), result.count());
    match (before.clone() - after.clone()).as_const() {
        None | Some(0) => {
            assume::equal(&before, &after);
            Ok(result)
        }
        Some(_) => Err(format!("expects a shape of {} elements, found {shape:?}", x.count())),
    }
}

/// The row-major position among the output's axes, taken apart over the input's axes: group by group, where a group is a
/// run of axes that holds as many elements on both sides. An axis that stays as it is keeps its index.
pub fn index(_shape: &[Dim], input: &[Dim], output: &[Dim], index: &[Dim]) -> Vec<Dim> {
    let mut result = vec![];
    for (from, to) in groups(input, output) {
        let position = linear(&output[to.clone()], &index[to]);
        result.extend(delinear(&input[from], position));
    }
    result
}

/// The row-major position of an index; an axis of extent 1 adds nothing.
fn linear(extents: &[Dim], index: &[Dim]) -> Dim {
    let axes = extents.iter().zip(index);
    axes.fold(Dim::ZERO, |position, (d, i)| if d.is(1) { position } else { position * d.clone() + i.clone() })
}

/// The index at a row-major position; an axis of extent 1 has index 0.
fn delinear(extents: &[Dim], position: Dim) -> Vec<Dim> {
    let outermost = extents.iter().position(|d| !d.is(1));
    let index_of = |axis: usize| {
        let stride: Dim = extents[axis + 1..].iter().cloned().product();
        match outermost {
            Some(o) if o == axis => position.floor_div(&stride),
            Some(o) if o < axis && !extents[axis].is(1) => position.floor_div(&stride).modulo(&extents[axis]),
            _ => Dim::ZERO,
        }
    };
    (0..extents.len()).map(index_of).collect()
}

/// Runs of input axes and of output axes that hold as many elements, as fine as can be seen.
fn groups(input: &[Dim], output: &[Dim]) -> Vec<(Range<usize>, Range<usize>)> {
    let mut found = vec![];
    let (mut from, mut to) = (0, 0);
    let (mut left, mut right) = (Dim::ONE, Dim::ONE);
    for (i, extent) in input.iter().enumerate() {
        left = left * extent.clone();
        if let Some((j, product)) = balance(&left, &right, output, to) {
            found.push((from..i + 1, to..j));
            (from, to, right) = (i + 1, j, product);
        }
    }
    // What is left ends alike: the same from the back.
    let (mut i, mut j) = (input.len(), output.len());
    let mut tail = vec![];
    while i > from && j > to && input[i - 1] == output[j - 1] {
        (i, j) = (i - 1, j - 1);
        tail.push((i..i + 1, j..j + 1));
    }
    found.push((from..i, to..j));
    found.extend(tail.into_iter().rev());
    found
}

/// The end of the shortest run of output axes from `start` on that takes the product `right` to `left`, which it then is.
/// The run is empty for an input axis of extent 1.
fn balance(left: &Dim, right: &Dim, output: &[Dim], start: usize) -> Option<(usize, Dim)> {
    let mut product = right.clone();
    for (j, extent) in (start..).zip(&output[start..]) {
        if *left == product {
            return Some((j, product));
        }
        product = product * extent.clone();
    }
    (*left == product).then_some((output.len(), product))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::Cursor;

    /// The index of the input, for output axes with the indices i0, i1, ...
    fn check(input: &str, output: &str, expected: &str) {
        let dims = |text: &str| Cursor::new(&format!("{text}]")).list("]", Cursor::dim).unwrap();
        let (input, output) = (dims(input), dims(output));
        let indices: Vec<Dim> = (0..output.len()).map(|i| Dim::symbol(format!("i{i}"))).collect();
        let found: Vec<String> = index(&output, &input, &output, &indices).iter().map(|d| d.to_string()).collect();
        assert_eq!(found.join(", "), expected, "{input:?} to {output:?}");
    }

    #[test]
    fn axes_that_stay_keep_their_index() {
        check("N, 3, 4", "N, 12", "i0, div(i1, 4), mod(i1, 4)");
        check("N, 12", "N, 3, 4", "i0, 4*i1 + i2");
        check("N, 12, H", "N, 3, 4, H", "i0, 4*i1 + i2, i3");
        check("B, S, 12, 64", "B*S, 768", "div(i0, S), mod(i0, S), div(i1, 64), mod(i1, 64)");
        check("B*S, 768", "B, S, 12, 64", "S*i0 + i1, 64*i2 + i3");
        check("A, B, 4", "div(A*B, 2), 2, 4", "div(2*i0 + i1, B), mod(2*i0 + i1, B), i2");
    }

    #[test]
    fn extents_of_one_have_index_zero() {
        check("N, 1, 4", "N, 4", "i0, 0, i1");
        check("N, 4", "N, 1, 4", "i0, i2");
        check("1, 1", "1", "0, 0");
        check("", "1, 1", "");
        check("6", "1, 2, 1, 3", "3*i1 + i3");
    }

    #[test]
    fn counts_have_to_agree() {
        let x = TensorType::new(crate::DType::F32, [Dim::symbol("N"), 3.into()]);
        let shape = |dims: &[Dim]| infer(dims, &x);
        assert!(shape(&[Dim::symbol("N") * 3]).is_ok());
        assert!(shape(&[(Dim::symbol("N") * 3).floor_div(&2.into()), 2.into()]).is_ok());
        assert_eq!(shape(&[Dim::symbol("N") * 3 + 1]).unwrap_err(), "expects a shape of 3*N elements, found [3*N + 1]");
        let numbers = TensorType::new(crate::DType::F32, [2, 3]);
        assert!(infer(&[7.into()], &numbers).is_err());
        assert!(infer(&[(-2).into(), (-3).into()], &numbers).is_err());
    }
}
