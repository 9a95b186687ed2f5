//! `non_max_suppression`: of boxes that overlap, the best ones (ONNX NonMaxSuppression).

use crate::dim::Dim;
use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::Number;
use crate::tensor::Tensor;
use crate::ty::{DType, TensorType};

/// `boxes: f32[b, n, 4], scores: f32[b, c, n], most: i64[], iou: f32[], score: f32[] -> i64[count, 3]`.
///
/// # Errors
/// When an operand has another type.
pub fn infer(count: &Dim, _centers: &bool, operands: &[&TensorType]) -> Inferred {
    let [boxes, scores] = [operands[0], operands[1]];
    check::extents("count", std::slice::from_ref(count))?;
    check::rank("boxes", boxes, 3)?;
    check::rank("scores", scores, 3)?;
    check::agree("the batches of boxes and scores", &boxes.dims[0], &scores.dims[0])?;
    check::agree("the numbers of boxes and scores", &boxes.dims[1], &scores.dims[2])?;
    check::agree("the numbers of a box", &boxes.dims[2], &Dim::from(4))?;
    let wanted = [("boxes", DType::F32), ("scores", DType::F32), ("most", DType::I64), ("iou", DType::F32), ("score", DType::F32)];
    for ((name, dtype), found) in wanted.iter().zip(operands) {
        if found.dtype != *dtype {
            return Err(format!("expects `{name}` of {dtype}, found {found}"));
        }
    }
    operands[2..].iter().zip(["most", "iou", "score"]).try_for_each(|(x, name)| check::rank(name, x, 0))?;
    Ok(vec![TensorType::new(DType::I64, [count.clone(), Dim::from(3)])])
}

/// Batch by batch, class by class, the highest score first; of equal scores the lower box.
pub fn eval(_count: &Dim, centers: &bool, operands: &[&Tensor], _results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let (boxes, scores) = (f64::read(operands[0]), f64::read(operands[1]));
    let [batches, classes, n] = [operands[1].shape()[0], operands[1].shape()[1], operands[1].shape()[2]];
    let most = usize::try_from(operands[2].get(0).as_int()).unwrap_or(0);
    let [iou, threshold] = [operands[3].get(0).as_f64() as f32, operands[4].get(0).as_f64() as f32];
    let corner = |b: usize, i: usize| corners(&boxes[(b * n + i) * 4..][..4], *centers);
    let mut found: Vec<i64> = vec![];
    for (b, c) in (0..batches).flat_map(|b| (0..classes).map(move |c| (b, c))) {
        let score = |i: usize| scores[(b * classes + c) * n + i] as f32;
        let mut order: Vec<usize> = (0..n).filter(|&i| score(i) > threshold).collect();
        order.sort_by(|&i, &j| score(j).total_cmp(&score(i)));
        let mut kept: Vec<usize> = vec![];
        for i in order {
            if kept.len() < most && kept.iter().all(|&j| overlap(corner(b, i), corner(b, j)) <= iou) {
                kept.push(i);
            }
        }
        found.extend(kept.iter().flat_map(|&i| [b as i64, c as i64, i as i64]));
    }
    Ok(vec![Tensor::from_i64s(vec![found.len() / 3, 3], &found)])
}

/// Low and high of either axis: `[y1, x1, y2, x2]`.
fn corners(given: &[f64], centers: bool) -> [f32; 4] {
    let [a, b, c, d] = [given[0] as f32, given[1] as f32, given[2] as f32, given[3] as f32];
    match centers {
        true => [b - d / 2.0, a - c / 2.0, b + d / 2.0, a + c / 2.0],
        false => [a.min(c), b.min(d), a.max(c), b.max(d)],
    }
}

/// The area that two boxes share over the area that they cover; 0 where one has none.
fn overlap(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |x: [f32; 4]| (x[2] - x[0]) * (x[3] - x[1]);
    let side = |axis: usize| (a[axis + 2].min(b[axis + 2]) - a[axis].max(b[axis])).max(0.0);
    let shared = side(0) * side(1);
    if area(a) <= 0.0 || area(b) <= 0.0 { 0.0 } else { shared / (area(a) + area(b) - shared) }
}
