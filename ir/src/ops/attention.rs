//! `attention`: scaled dot-product attention.

use crate::attr::Real;
use crate::dim::Dim;
use crate::op::Inferred;
use crate::ops::check;
use crate::ops::number::Number;
use crate::ops::{matmul, strided};
use crate::tensor::Tensor;
use crate::ty::{DType, TensorType, broadcast};

/// q: [..., m, d], k: [..., n, d], v: [..., n, e], mask broadcast to [..., m, n] -> [..., m, e].
///
/// # Errors
/// When the operands do not fit each other.
pub fn infer(_scale: &Real, _causal: &bool, operands: &[&TensorType]) -> Inferred {
    let (scores, result) = shapes(operands)?;
    if let [_, _, _, mask] = operands {
        let both = broadcast(&[&scores, &mask.dims])?;
        if both.len() != scores.len() || both.iter().zip(&scores).any(|(b, s)| check::agree("extents", b, s).is_err()) {
            return Err(format!("expects a mask that broadcasts to the scores {}, found {mask}", operands[0].with_dims(scores)));
        }
    }
    Ok(vec![operands[0].with_dims(result)])
}

/// The extents of the scores `q*k^T`, and those of the result.
fn shapes(operands: &[&TensorType]) -> Result<(Vec<Dim>, Vec<Dim>), String> {
    let (&[q, k, v], masks) = operands.first_chunk::<3>().map(|f| (f, &operands[3..])).ok_or("expects q, k and v")?;
    check::float("q", q)?;
    for (name, x) in [("q", q), ("k", k), ("v", v)] {
        check::same_dtype(name, x, q)?;
        if x.rank() < 2 {
            return Err(format!("expects `{name}` of rank 2 or more, found {x}"));
        }
    }
    match masks {
        [] => {}
        [mask] if mask.dtype == DType::Bool || mask.dtype == q.dtype => {}
        [mask] => return Err(format!("expects a mask of type bool or {}, found {mask}", q.dtype)),
        _ => return Err(format!("expects at most one mask, found {}", masks.len())),
    }
    let split = |x: &TensorType| {
        let (outer, inner) = x.dims.split_at(x.rank() - 2);
        (outer.to_vec(), inner[0].clone(), inner[1].clone())
    };
    let ((qo, m, d), (ko, n, kd), (vo, vn, e)) = (split(q), split(k), split(v));
    check::agree("the innermost extents of `q` and `k`", &d, &kd)?;
    let n = check::agree("the second innermost extents of `k` and `v`", &n, &vn)?;
    let outer = broadcast(&[&qo, &ko, &vo])?;
    Ok(([outer.clone(), vec![m.clone(), n]].concat(), [outer, vec![m, e]].concat()))
}

/// All in f64: scores, maximum, exponentials, sum, weighted sum; rounded once.
pub fn eval(scale: &Real, causal: &bool, operands: &[&Tensor], results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    let types: Vec<TensorType> = operands.iter().map(|t| t.ty()).collect();
    let (scores, _) = shapes(&types.iter().collect::<Vec<_>>())?;
    let scores = check::allocatable(&types[0].with_dims(scores))?;
    let shape = check::allocatable(&results[0])?;
    let (outer, [m, n]) = scores.split_last_chunk::<2>().ok_or("expects q, k and v of rank 2 or more")?;
    let (m, n) = (*m, *n);
    let full = |t: &Tensor| {
        let inner = &t.shape()[t.shape().len() - 2..];
        f64::read(&strided::broadcast(t, &[outer, inner].concat()))
    };
    let [q, k, v] = [0, 1, 2].map(|i| full(operands[i]));
    let (d, e) = (operands[0].shape()[operands[0].shape().len() - 1], shape[shape.len() - 1]);
    let bias = operands.get(3).map(|mask| added(mask, &scores));
    let mut out = vec![0.0; shape.iter().product()];
    for row in 0..outer.iter().product::<usize>() * m {
        let (batch, i) = (row / m, row % m);
        let score = |j: usize| {
            let products = q[row * d..][..d].iter().zip(&k[(batch * n + j) * d..]).map(|(a, b)| a * b);
            let hidden = *causal && j > i;
            let bias = bias.as_ref().map_or(0.0, |b| b[row * n + j]);
            if hidden { f64::NEG_INFINITY } else { products.sum::<f64>() * scale.0 + bias }
        };
        let weights = softmax((0..n).map(score).collect());
        matmul::accumulate(&weights, &v[batch * n * e..][..n * e], [1, n, e], &mut out[row * e..][..e]);
    }
    Ok(vec![f64::write(operands[0].dtype(), &shape, out)])
}

/// What the mask adds to each score.
fn added(mask: &Tensor, scores: &[usize]) -> Vec<f64> {
    let full = strided::broadcast(mask, scores);
    match mask.dtype() {
        DType::Bool => full.elements().map(|e| if e.as_bool() { 0.0 } else { f64::NEG_INFINITY }).collect(),
        _ => f64::read(&full),
    }
}

/// Zero everywhere for a row that sees nothing, as ONNX has it.
fn softmax(mut row: Vec<f64>) -> Vec<f64> {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::larger);
    if largest == f64::NEG_INFINITY {
        return vec![0.0; row.len()];
    }
    row.iter_mut().for_each(|v| *v = (*v - largest).exp());
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|v| *v /= sum);
    row
}
