//! Quantised operators of com.microsoft, as ONNX Runtime's quantiser writes them.
//!
//! Most are a standard operator between `DequantizeLinear` and `QuantizeLinear`; those that hold a matrix product multiply
//! integers, and scale the product.
//!
//! ```text
//! QLinearAdd             c = quantize(dequantize(a) + dequantize(b))
//! QGemm                  y = (a - zero_a) * (b - zero_b) + c      in i32, times alpha * scale_a * scale_b
//! DynamicQuantizeMatMul  y = MatMulIntegerToFloat(DynamicQuantizeLinear(a), b)
//! ```

use crate::error::Code;
use crate::ops::quantize::{dynamically_quantized, integer_product, rounded, shifted};
use crate::ops::{pool, recurrent};
use crate::site::{Outcome, Site, Stop, fault, malformed};
use egret_ir::{DType, Dim, Op, Real, ValueId};

/// The operand at input `at`, whose scale and zero point are the next two inputs, as f32.
fn real(n: &mut Site, at: usize) -> Result<ValueId, Stop> {
    let (x, scale, zero) = (n.input(at)?, n.input(at + 1)?, n.optional(at + 2));
    let zero = zero.map(|zero| n.reshape(zero, [])).transpose()?;
    let scale = n.reshape(scale, [])?;
    let x = shifted(n, x, zero)?;
    let x = n.cast(x, DType::F32)?;
    n.op(Op::mul, &[x, scale])
}

/// `x` quantised with the scale at input `at` and the zero point behind it, whose type it takes, or that of input `like`.
fn stored(n: &mut Site, x: ValueId, at: usize, like: usize) -> Outcome {
    let (scale, zero) = (n.input(at)?, n.optional(at + 1));
    let to = n.dtype(match zero {
        Some(zero) => zero,
        None => n.input(like)?,
    });
    let zero = zero.map(|zero| n.reshape(zero, [])).transpose()?;
    let scale = n.reshape(scale, [])?;
    let y = n.op(Op::div, &[x, scale])?;
    Ok(vec![rounded(n, y, zero, to)?])
}

fn binary(n: &mut Site, op: Op) -> Outcome {
    let (a, b) = (real(n, 0)?, real(n, 3)?);
    let c = n.op(op, &[a, b])?;
    stored(n, c, 6, 0)
}

pub(crate) fn qlinear_add(n: &mut Site) -> Outcome {
    binary(n, Op::add)
}

pub(crate) fn qlinear_mul(n: &mut Site) -> Outcome {
    binary(n, Op::mul)
}

fn unary(n: &mut Site, op: Op) -> Outcome {
    let x = real(n, 0)?;
    let y = n.op(op, &[x])?;
    stored(n, y, 3, 0)
}

pub(crate) fn qlinear_sigmoid(n: &mut Site) -> Outcome {
    unary(n, Op::sigmoid)
}

pub(crate) fn qlinear_leaky_relu(n: &mut Site) -> Outcome {
    let alpha = Real(n.float_or("alpha", 0.01)?);
    unary(n, Op::leaky_relu { alpha })
}

/// Before opset 13, which the attribute `opset` names, softmax goes over all axes from `axis` on.
pub(crate) fn qlinear_softmax(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let axis = n.axis_or(-1, x)?;
    let last = if n.int_or("opset", 13)? < 13 { n.rank(x) } else { axis + 1 };
    unary(n, Op::softmax { axes: (axis..last).collect() })
}

pub(crate) fn qlinear_where(n: &mut Site) -> Outcome {
    let condition = n.input(0)?;
    let (x, y) = (real(n, 1)?, real(n, 4)?);
    let z = n.op(Op::select, &[condition, x, y])?;
    stored(n, z, 7, 1)
}

/// Scale and zero point of the output come first, then operand, scale and zero point of each part.
pub(crate) fn qlinear_concat(n: &mut Site) -> Outcome {
    let count = n.inputs()?.len();
    let parts = (2..count).step_by(3).map(|at| real(n, at)).collect::<Result<Vec<ValueId>, Stop>>()?;
    let Some(&first) = parts.first() else {
        return Err(malformed(Code::Operand, "`QLinearConcat` needs at least one part, found none"));
    };
    let axis = n.axis_or(0, first)?;
    let y = n.concat(&parts, axis)?;
    stored(n, y, 0, 2)
}

pub(crate) fn qlinear_global_average_pool(n: &mut Site) -> Outcome {
    pooled(n, |n, x| n.op(Op::reduce_mean { axes: (2..n.rank(x)).collect() }, &[x]))
}

pub(crate) fn qlinear_average_pool(n: &mut Site) -> Outcome {
    pooled(n, pool::averaged)
}

/// A pooling of images whose channels come first, or with `channels_last` last.
fn pooled(n: &mut Site, pool: fn(&mut Site, ValueId) -> Result<ValueId, Stop>) -> Outcome {
    let last = n.flag("channels_last")?;
    let x = real(n, 0)?;
    let rank = n.rank(x);
    if rank < 3 {
        return Err(malformed(Code::Shape, format!("`{}` expects images, found {}", n.operator, n.ty(x))));
    }
    let (first, back) = ([vec![0, rank - 1], (1..rank - 1).collect()].concat(), [vec![0], (2..rank).collect(), vec![1]].concat());
    let x = if last { n.transpose(x, first)? } else { x };
    let y = pool(n, x)?;
    let y = if last { n.transpose(y, back)? } else { y };
    stored(n, y, 3, 0)
}

/// The product of integer matrices with their scales; the bias is in steps of `alpha * scale_a * scale_b`. Without a scale of
/// the output it is f32.
pub(crate) fn qgemm(n: &mut Site) -> Outcome {
    let [a, scale_a, zero_a, b, scale_b, zero_b] = six(n)?;
    let (flip_a, flip_b, alpha) = (n.flag("transA")?, n.flag("transB")?, n.float_or("alpha", 1.0)?);
    let (a, b) = (n.of_rank(a, 2, "a matrix")?, n.of_rank(b, 2, "a matrix")?);
    let a = if flip_a { n.transpose(a, vec![1, 0])? } else { a };
    let b = if flip_b { n.transpose(b, vec![1, 0])? } else { b };
    let mut sum = integer_product(n, a, Some(zero_a), b, Some(zero_b))?;
    if let Some(bias) = n.optional(6) {
        sum = n.op(Op::add, &[sum, bias])?;
    }
    let scale = n.op(Op::mul, &[scale_a, scale_b])?;
    let scale = if alpha == 1.0 { scale } else { n.with_number(Op::mul, scale, alpha)? };
    let y = scaled(n, sum, scale)?;
    if n.optional(7).is_none() { Ok(vec![y]) } else { stored(n, y, 7, 0) }
}

fn six(n: &Site) -> Result<[ValueId; 6], Stop> {
    let mut all = [n.input(0)?; 6];
    for (i, value) in all.iter_mut().enumerate() {
        *value = n.input(i)?;
    }
    Ok(all)
}

/// An integer as f32, times a scale: a number, or one per column.
fn scaled(n: &mut Site, x: ValueId, scale: ValueId) -> Result<ValueId, Stop> {
    let x = n.cast(x, DType::F32)?;
    n.op(Op::mul, &[x, scale])
}

/// Inputs: a, b, scale_a, scale_b, zero_a, zero_b, bias.
pub(crate) fn matmul_integer_to_float(n: &mut Site) -> Outcome {
    let (a, b, scale_a, scale_b) = (n.input(0)?, n.input(1)?, n.input(2)?, n.input(3)?);
    let (zero_a, zero_b, bias) = (n.optional(4), n.optional(5), n.optional(6));
    let product = integer_product(n, a, zero_a, b, zero_b)?;
    Ok(vec![scaled_product(n, product, [scale_a, scale_b], bias)?])
}

/// Inputs: a in f32, b, scale_b, zero_b, bias; `a` is quantised by its range.
pub(crate) fn dynamic_quantize_matmul(n: &mut Site) -> Outcome {
    let (a, b, scale_b) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let (zero_b, bias) = (n.optional(3), n.optional(4));
    let [a, scale_a, zero_a] = dynamically_quantized(n, a)?;
    let product = integer_product(n, a, Some(zero_a), b, zero_b)?;
    Ok(vec![scaled_product(n, product, [scale_a, scale_b], bias)?])
}

pub(super) fn scaled_product(n: &mut Site, product: ValueId, [a, b]: [ValueId; 2], bias: Option<ValueId>) -> Result<ValueId, Stop> {
    let scale = n.op(Op::mul, &[a, b])?;
    let y = scaled(n, product, scale)?;
    super::with_bias(n, y, bias)
}

/// Weights are [d, i, 4*h] and [d, h, 4*h], with a scale and a zero point for each direction, or for each of its columns.
///
/// The input is quantised by its range. ONNX Runtime also rounds the hidden state at every step, which here stays f32, so that
/// results differ from its own by that rounding.
pub(crate) fn dynamic_quantize_lstm(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let [x, scale, zero] = dynamically_quantized(n, x)?;
    let x = shifted(n, x, Some(zero))?;
    let x = scaled(n, x, scale)?;
    let (w, r) = (weights(n, 1, 8)?, weights(n, 2, 10)?);
    recurrent::lstm_of(n, [x, w, r])
}

/// The weights at input `at`, their scale and zero point at `scale` and behind it, in f32 and with rows where columns were.
fn weights(n: &mut Site, at: usize, scale: usize) -> Result<ValueId, Stop> {
    let (w, scale, zero) = (n.input(at)?, n.input(scale)?, n.optional(scale + 1));
    let w = n.of_rank(w, 3, "weights")?;
    let zero = zero.map(|zero| by_direction(n, zero)).transpose()?;
    let scale = by_direction(n, scale)?;
    let w = shifted(n, w, zero)?;
    let w = scaled(n, w, scale)?;
    n.transpose(w, vec![0, 2, 1])
}

/// `[d]` or `[d, 4*h]` as `[d, 1, 1]` or `[d, 1, 4*h]`.
fn by_direction(n: &mut Site, x: ValueId) -> Result<ValueId, Stop> {
    match n.dims(x).as_slice() {
        [directions] => n.reshape(x, [directions.clone(), Dim::ONE, Dim::ONE]),
        [directions, columns] => n.reshape(x, [directions.clone(), Dim::ONE, columns.clone()]),
        _ => Err(malformed(Code::Shape, format!("`{}` expects scales of rank 1 or 2, found {}", n.operator, n.ty(x)))),
    }
}

/// Weights of a few bits each, in blocks of `block_size` along the rows of B, several to a byte with the first in the lowest bits.
///
/// ```text
/// A [.., K]   B u8 [N, blocks, bytes]   scales [N, blocks]   ->   Y [.., N] = A * dequantize(B)^T
/// ```
pub(crate) fn matmul_n_bits(n: &mut Site) -> Outcome {
    let (a, packed, scales) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let (zeros, groups, bias) = (n.optional(3), n.optional(4), n.optional(5));
    n.without_effect(&["accuracy_level"]);
    if n.flag("weight_prepacked")? {
        return Err(n.refused("weight_prepacked", 1, "`MatMulNBits` with weights packed for one processor is not supported"));
    }
    let blocks = Blocks::new(n)?;
    let mut flat = blocks.unpacked(n, packed, blocks.rows.clone(), blocks.count * blocks.size)?;
    flat = n.slice(flat, 1, Dim::ZERO, Dim::from(blocks.columns))?;
    let dtype = n.dtype(scales);
    let flat = n.cast(flat, dtype)?;
    let zeros = blocks.zeros(n, zeros, dtype)?;
    let (zeros, scales) = (blocks.spread(n, zeros, groups)?, blocks.spread(n, scales, groups)?);
    let centred = n.op(Op::sub, &[flat, zeros])?;
    let weights = n.op(Op::mul, &[centred, scales])?;
    let weights = n.transpose(weights, vec![1, 0])?;
    let weights = n.cast(weights, n.dtype(a))?;
    let y = n.op(Op::matmul, &[a, weights])?;
    Ok(vec![super::with_bias(n, y, bias)?])
}

/// How the weights of `MatMulNBits` lie.
struct Blocks {
    /// Bits of a weight: 2, 4 or 8.
    bits: i64,
    /// Weights of a block, and blocks of a row; the last may be cut off.
    size: i64,
    count: i64,
    /// K, the weights of a row.
    columns: i64,
    /// N.
    rows: Dim,
}

impl Blocks {
    fn new(n: &Site) -> Result<Blocks, Stop> {
        let bits = n.int_or("bits", 4)?;
        if ![2, 4, 8].contains(&bits) {
            return Err(n.refused("bits", bits, format!("`MatMulNBits` with {bits} bits is not supported, expected 2, 4 or 8")));
        }
        let [rows, columns, size] = ["N", "K", "block_size"].map(|name| Ok((name, n.int(name)?.unwrap_or(0))));
        let positive = |number: Result<(&str, i64), Stop>| {
            let (name, number) = number?;
            let inside = (1..=LONGEST_ROW).contains(&number);
            if inside { Ok(number) } else { Err(n.refused(name, number, format!("`{name}` is from 1 to {LONGEST_ROW}"))) }
        };
        let (rows, columns, size) = (positive(rows)?, positive(columns)?, positive(size)?);
        Ok(Blocks { bits, size, count: (columns + size - 1) / size, columns, rows: Dim::from(rows) })
    }

    /// u8, packed: `[rows, columns]`
    fn unpacked(&self, n: &mut Site, packed: ValueId, rows: Dim, columns: i64) -> Result<ValueId, Stop> {
        let per_byte = 8 / self.bits;
        let bytes = Dim::from((columns + per_byte - 1) / per_byte);
        let bytes = n.reshape(packed, [rows.clone(), bytes, Dim::ONE])?;
        let mut parts = vec![];
        for part in 0..per_byte {
            let low = n.with_number(Op::shr, bytes, (part * self.bits) as f64)?;
            parts.push(n.with_number(Op::and, low, ((1 << self.bits) - 1) as f64)?);
        }
        let apart = n.concat(&parts, 2)?;
        let all = n.dims(apart)[1].clone() * per_byte;
        let flat = n.reshape(apart, [rows, all])?;
        n.slice(flat, 1, Dim::ZERO, Dim::from(columns))
    }

    /// The zero points, one per block: packed like the weights, or numbers of the scales' type, or the middle of the range.
    fn zeros(&self, n: &mut Site, zeros: Option<ValueId>, dtype: DType) -> Result<ValueId, Stop> {
        match zeros {
            None => n.splat((1 << (self.bits - 1)) as f64, dtype, vec![self.rows.clone(), Dim::from(self.count)]),
            Some(zeros) if n.dtype(zeros) == DType::U8 => {
                let zeros = self.unpacked(n, zeros, self.rows.clone(), self.count)?;
                n.cast(zeros, dtype)
            }
            Some(zeros) => n.cast(zeros, dtype),
        }
    }

    /// What is one number per block as one per weight, `[rows, columns]`; `groups` may say which block each column belongs to.
    fn spread(&self, n: &mut Site, x: ValueId, groups: Option<ValueId>) -> Result<ValueId, Stop> {
        let (count, size) = (Dim::from(self.count), Dim::from(self.size));
        let x = n.reshape(x, [self.rows.clone(), count.clone()])?;
        if let Some(groups) = groups {
            let wanted = n.slice(groups, 0, Dim::ZERO, Dim::from(self.columns))?;
            return n.op(Op::gather { axis: 1 }, &[x, wanted]);
        }
        let apart = n.reshape(x, [self.rows.clone(), count.clone(), Dim::ONE])?;
        let repeated = n.broadcast(apart, vec![self.rows.clone(), count.clone(), size.clone()])?;
        let flat = n.reshape(repeated, [self.rows.clone(), count * size])?;
        n.slice(flat, 1, Dim::ZERO, Dim::from(self.columns))
    }
}

/// Weights of a row, and rows: far more than a model has, and few enough for their products to be counted.
const LONGEST_ROW: i64 = 1 << 24;

/// `com.microsoft::Attention` whose input and weights are quantised.
pub(crate) fn qattention(n: &mut Site) -> Outcome {
    let (x, w, bias, scale_x, scale_w) = (n.input(0)?, n.input(1)?, n.input(2)?, n.input(3)?, n.input(4)?);
    let (mask, zero_x, zero_w) = (n.optional(5), n.optional(6), n.optional(7));
    if n.optional(8).is_some() || n.wants(1) || n.flag("do_rotary")? {
        let message = "`QAttention` with past keys or rotary embedding is not supported";
        return Err(fault(Code::Operand, message, "export the model without a cache"));
    }
    n.without_effect(&["past_present_share_buffer"]);
    let product = integer_product(n, x, zero_x, w, zero_w)?;
    let product = scaled_product(n, product, [scale_x, scale_w], Some(bias))?;
    super::of_product(n, product, mask, None)
}
