//! The op table: every op declared once, with its attributes, its meaning and its documentation.
//!
//! The word between the signature and the braces says which KIND of meaning an op has, and everything else follows from it:
//!
//! | written | meaning | type inference | evaluation | lowering |
//! | --- | --- | --- | --- | --- |
//! | `= { expr }` | a scalar expression per element | broadcasting | walk the expression | emit the expression |
//! | `is { expr }` | an expression in the IR's own syntax | of the body | of the body | of the body, or an own kernel; and the body is a recognition rule |
//! | `view { m }` | output index to input index | `m::infer` | from `m::index` | index arithmetic |
//! | `reduce { R }` | a [`Reduction`] over `axes`, which stay with extent 1 | the axes become 1 | loop over the axes | loop nest |
//! | `by { m }` | a module of [`crate::ops`] | `m::infer` | `m::eval` | one arm in the code generator |
//!
//! To add an elementwise op: one line here, one in the frontend's table, one filetest.

use crate::attr::{
    Activation, Algorithm, Attr, AttrField, Coordinates, Direction, Interpolation, Layout, PadMode, Real, Rounding, ScatterMode, TextTask,
};
use crate::dim::Dim;
use crate::expr;
use crate::ops;
use crate::scalar::{self, Scalar, and, cast, lt, max, min, modulo, not, or, pow, rem, select, shl, shr, xor};
use crate::tensor::Tensor;
use crate::ty::{DType, TensorType, broadcast};
use std::sync::Arc;

/// The types of an op's results, or a sentence that says what was expected.
pub type Inferred = Result<Vec<TensorType>, String>;

/// Which kind of meaning an op has; see the module's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A scalar expression per element, with broadcasting.
    Elementwise,
    /// An expression over other ops.
    Composite,
    /// A renaming of indices.
    View,
    /// A fold over axes.
    Reduce,
    /// A module of its own.
    Structured,
}

/// How a reduction combines the elements of its axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// The sum; 0 of none.
    Sum,
    /// The sum divided by the number of elements.
    Mean,
    /// The largest, NaN if one is; the type's lowest value of none.
    Max,
    /// The smallest, NaN if one is; the type's highest value of none.
    Min,
    /// The product; 1 of none.
    Prod,
}

/// What the table says about one op, as data.
#[derive(Debug)]
pub struct OpDef {
    /// The name in text, rules and Rust alike.
    pub name: &'static str,
    /// The operands' names.
    pub operands: &'static [&'static str],
    /// Whether the last operand may be given any number of times, none included.
    pub variadic: bool,
    /// The attributes' names, in order.
    pub attrs: &'static [&'static str],
    /// What each attribute takes, in words: "a list of extents".
    pub attr_types: &'static [&'static str],
    /// One sentence.
    pub doc: &'static str,
    /// Which kind of meaning it has.
    pub kind: Kind,
    /// The body of a composite, in the IR's own syntax; else the meaning as written in the table.
    pub meaning: &'static str,
}

macro_rules! ops {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident $([$($attr:ident : $ty:ty $(= $default:expr)?),*])? ($($operand:ident),* $(; $rest:ident ..)?) $kind:tt $body:tt
    )*) => {
        /// What a node computes: one of a closed set, together with its attributes.
        ///
        /// An op has one spelling everywhere (table, text, rules, Rust), hence the lower case.
        #[allow(non_camel_case_types, missing_docs)]
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Op { $( $(#[doc = $doc])+ $name $({ $($attr: $ty),* })? ),* }

        /// Every op of the table, in its order.
        pub static OPS: &[OpDef] = &[$( OpDef {
            name: stringify!($name),
            operands: &[$(stringify!($operand),)* $(stringify!($rest))?],
            variadic: ops!(@variadic $($rest)?),
            attrs: &[$($(stringify!($attr)),*)?],
            attr_types: &[$($(<$ty as AttrField>::EXPECTED),*)?],
            doc: concat!($($doc),+),
            kind: ops!(@kind $kind),
            meaning: ops!(@meaning $body),
        } ),*];

        impl Op {
            /// The name in the textual IR.
            pub fn name(&self) -> &'static str {
                match self { $( Op::$name $({ $($attr: _),* })? => stringify!($name), )* }
            }

            /// The attributes in the order of the table, in their uniform form.
            pub fn attrs(&self) -> Vec<Attr> {
                match self { $( Op::$name $({ $($attr),* })? => vec![$($($attr.to_attr()),*)?], )* }
            }

            /// The default of each attribute of the op `name`, where the table gives one.
            fn defaults(name: &str) -> Vec<Option<Attr>> {
                match name {
                    $( stringify!($name) => vec![$($(ops!(@default $ty $(= $default)?)),*)?], )*
                    _ => vec![],
                }
            }

            /// The op `name` with these attributes, in the order of the table.
            fn build(name: &str, attrs: &[Attr]) -> Result<Op, String> {
                let mut _attrs = attrs.iter();
                match name {
                    $( stringify!($name) => Ok(Op::$name $({ $($attr: take::<$ty>(stringify!($attr), _attrs.next())?),* })?), )*
                    _ => Err(format!("there is no op `{name}`")),
                }
            }

            /// The scalar expression of an elementwise op.
            pub fn scalar(&self) -> Option<Scalar> {
                match self { $( Op::$name $({ $($attr),* })? => ops!(@scalar $kind $body ($($operand),*) ($($($attr),*)?)), )* }
            }

            /// The reduction and its axes, for a reduction.
            pub fn reduction(&self) -> Option<(Reduction, &[usize])> {
                match self { $( Op::$name $({ $($attr),* })? => ops!(@reduction $kind $body ($($($attr),*)?)), )* }
            }

            /// For a view: the index of the input element (of a tensor with extents `input`) that stands at `index` of the
            /// output (of extents `output`).
            pub fn view_index(&self, input: &[Dim], output: &[Dim], index: &[Dim]) -> Option<Vec<Dim>> {
                match self { $( Op::$name $({ $($attr),* })? => ops!(@index $kind $body ($($($attr),*)?) (input, output, index)), )* }
            }

            fn infer_kind(&self, operands: &[&TensorType]) -> Inferred {
                match self { $( Op::$name $({ $($attr),* })? => ops!(@infer $kind $body ($($($attr),*)?) (self, operands)), )* }
            }

            fn eval_kind(&self, operands: &[&Tensor], results: Vec<TensorType>) -> Result<Vec<Tensor>, String> {
                match self { $( Op::$name $({ $($attr),* })? => ops!(@eval $kind $body ($($($attr),*)?) (self, operands, results)), )* }
            }
        }
    };
    (@variadic) => { false };
    (@variadic $rest:ident) => { true };
    (@kind =) => { Kind::Elementwise };
    (@kind is) => { Kind::Composite };
    (@kind view) => { Kind::View };
    (@kind reduce) => { Kind::Reduce };
    (@kind by) => { Kind::Structured };
    (@meaning { $($body:tt)* }) => { stringify!($($body)*) };
    (@default $ty:ty) => { None };
    (@default $ty:ty = $default:expr) => { Some(<$ty as AttrField>::to_attr(&$default)) };
    (@scalar = { $e:expr } ($($x:ident),*) ($($attr:ident),*)) => {{
        let mut _i = 0..;
        $( let $x = &Scalar::Arg(_i.next().expect("endless")); )*
        Some($e)
    }};
    (@scalar $kind:tt $body:tt $x:tt ($($attr:ident),*)) => {{ $( let _ = $attr; )* None }};
    (@reduction reduce { $r:ident } ($axes:ident)) => { Some((Reduction::$r, $axes)) };
    (@reduction $kind:tt $body:tt ($($attr:ident),*)) => {{ $( let _ = $attr; )* None }};
    (@index view { $m:ident } ($($attr:ident),*) ($input:ident, $output:ident, $index:ident)) => { Some(ops::$m::index($($attr,)* $input, $output, $index)) };
    (@index $kind:tt $body:tt ($($attr:ident),*) $rest:tt) => {{ $( let _ = $attr; )* None }};
    (@infer view { $m:ident } ($($attr:ident),*) ($self:ident, $operands:ident)) => { ops::$m::infer($($attr,)* $operands[0]).map(|t| vec![t]) };
    (@infer by { $m:ident } ($($attr:ident),*) ($self:ident, $operands:ident)) => { ops::$m::infer($($attr,)* $operands) };
    (@infer reduce $body:tt ($axes:ident) ($self:ident, $operands:ident)) => { ops::reduce::infer($axes, $operands[0]).map(|t| vec![t]) };
    (@infer = $body:tt ($($attr:ident),*) ($self:ident, $operands:ident)) => {{ $( let _ = $attr; )* $self.infer_elementwise($operands) }};
    (@infer is $body:tt ($($attr:ident),*) ($self:ident, $operands:ident)) => {{ $( let _ = $attr; )* expr::infer_body($self, $operands) }};
    (@eval by { $m:ident } ($($attr:ident),*) ($self:ident, $operands:ident, $results:ident)) => { ops::$m::eval($($attr,)* $operands, &$results) };
    (@eval view $body:tt ($($attr:ident),*) ($self:ident, $operands:ident, $results:ident)) => {{ $( let _ = $attr; )* Ok(vec![ops::view::eval($self, $operands[0], &$results[0])?]) }};
    (@eval reduce { $r:ident } ($axes:ident) ($self:ident, $operands:ident, $results:ident)) => { Ok(vec![ops::reduce::eval(Reduction::$r, $axes, $operands[0])]) };
    (@eval = $body:tt ($($attr:ident),*) ($self:ident, $operands:ident, $results:ident)) => {{ $( let _ = $attr; )* Ok(vec![ops::elementwise::eval(&$self.typed_scalar($operands.iter().map(|t| t.dtype()))?, $operands, &$results[0])?]) }};
    (@eval is $body:tt ($($attr:ident),*) ($self:ident, $operands:ident, $results:ident)) => {{ $( let _ = $attr; )* drop($results); expr::eval_body($self, $operands) }};
}

ops! {
    // ---- arithmetic
    /// Sum.
    add(x, y)                   = { x + y }
    /// Difference.
    sub(x, y)                   = { x - y }
    /// Product.
    mul(x, y)                   = { x * y }
    /// Quotient; on integers truncated towards zero.
    div(x, y)                   = { x / y }
    /// Remainder with the sign of the divisor.
    modulo(x, y)                = { modulo(x, y) }
    /// Remainder with the sign of the dividend.
    fmod(x, y)                  = { rem(x, y) }
    /// Power.
    pow(x, y)                   = { pow(x, y) }
    /// The larger; NaN if either is.
    max(x, y)                   = { max(x, y) }
    /// The smaller; NaN if either is.
    min(x, y)                   = { min(x, y) }
    /// `x` held between `low` and `high`.
    clip(x, low, high)          = { min(max(x, low), high) }
    /// Negation.
    neg(x)                      = { -x }
    /// Absolute value.
    abs(x)                      = { scalar::abs(x) }
    /// -1, 0 or 1.
    sign(x)                     = { scalar::sign(x) }
    /// `1/x`.
    reciprocal(x)               = { 1.0 / x }
    /// Square root.
    sqrt(x)                     = { scalar::sqrt(x) }
    /// Natural exponential.
    exp(x)                      = { scalar::exp(x) }
    /// Natural logarithm.
    log(x)                      = { scalar::log(x) }
    /// Sine of radians.
    sin(x)                      = { scalar::sin(x) }
    /// Cosine of radians.
    cos(x)                      = { scalar::cos(x) }
    /// Tangent of radians.
    tan(x)                      = { scalar::tan(x) }
    /// Arc sine, radians.
    asin(x)                     = { scalar::asin(x) }
    /// Arc cosine, radians.
    acos(x)                     = { scalar::acos(x) }
    /// Arc tangent, radians.
    atan(x)                     = { scalar::atan(x) }
    /// Hyperbolic sine.
    sinh(x)                     = { scalar::sinh(x) }
    /// Hyperbolic cosine.
    cosh(x)                     = { scalar::cosh(x) }
    /// Inverse hyperbolic sine.
    asinh(x)                    = { scalar::asinh(x) }
    /// Inverse hyperbolic cosine.
    acosh(x)                    = { scalar::acosh(x) }
    /// Inverse hyperbolic tangent.
    atanh(x)                    = { scalar::atanh(x) }
    /// Hyperbolic tangent.
    tanh(x)                     = { scalar::tanh(x) }
    /// Gauss error function.
    erf(x)                      = { scalar::erf(x) }
    /// Rounded down.
    floor(x)                    = { scalar::floor(x) }
    /// Rounded up.
    ceil(x)                     = { scalar::ceil(x) }
    /// Rounded to the nearest integer, halves to even.
    round(x)                    = { scalar::round(x) }
    /// Conversion of the element type: float to integer truncates and saturates, to bool is `!= 0`.
    cast[to: DType](x)          = { cast(*to, x) }

    // ---- comparison and logic
    /// Equality.
    eq(x, y)                    = { scalar::eq(x, y) }
    /// `x < y`.
    lt(x, y)                    = { lt(x, y) }
    /// `x <= y`.
    le(x, y)                    = { scalar::le(x, y) }
    /// Logical (on bool) or bitwise (on integers) conjunction.
    and(x, y)                   = { and(x, y) }
    /// Logical or bitwise disjunction.
    or(x, y)                    = { or(x, y) }
    /// Logical or bitwise exclusive disjunction.
    xor(x, y)                   = { xor(x, y) }
    /// Logical or bitwise negation.
    not(x)                      = { not(x) }
    /// Bits moved up.
    shl(x, y)                   = { shl(x, y) }
    /// Bits moved down.
    shr(x, y)                   = { shr(x, y) }
    /// Whether `x` is NaN.
    is_nan(x)                   = { scalar::is_nan(x) }
    /// `x` where the condition holds, `y` elsewhere.
    select(condition, x, y)     = { select(condition, x, y) }

    /// The same bits as another type of the same size.
    bit_cast[to: DType](x)      by { bit_cast }

    // ---- activations
    /// Rectified linear unit.
    relu(x)                     = { max(x, 0.0) }
    /// Logistic function.
    sigmoid(x)                  = { 1.0 / (1.0 + scalar::exp(-x)) }
    /// `alpha*x` for negative `x`.
    leaky_relu[alpha: Real](x)  = { select(lt(x, 0.0), x * alpha, x) }
    /// `slope*x` for negative `x`.
    prelu(x, slope)             = { select(lt(x, 0.0), x * slope, x) }
    /// Exponential linear unit: `alpha*(exp(x) - 1)` for negative `x`.
    elu[alpha: Real](x)         = { select(lt(x, 0.0), (scalar::exp(x) - 1.0) * alpha, x) }
    /// Scaled exponential linear unit.
    selu[alpha: Real, gamma: Real](x) = { select(lt(0.0, x), x, (scalar::exp(x) - 1.0) * alpha) * gamma }
    /// Continuously differentiable exponential linear unit.
    celu[alpha: Real](x)        = { max(x, 0.0) + min((scalar::exp(x / alpha) - 1.0) * alpha, 0.0) }
    /// `x` above `alpha`, else 0.
    thresholded_relu[alpha: Real](x) = { select(lt(alpha, x), x, 0.0) }
    /// `alpha*x + beta` held between 0 and 1.
    hard_sigmoid[alpha: Real, beta: Real](x) = { max(min(x * alpha + beta, 1.0), 0.0) }
    /// `log(1 + exp(x))`, without overflow.
    softplus(x)                 = { max(x, 0.0) + scalar::log(1.0 + scalar::exp(-scalar::abs(x))) }
    /// `x/(1 + |x|)`.
    softsign(x)                 = { x / (1.0 + scalar::abs(x)) }
    /// Sigmoid-weighted linear unit (swish).
    silu(x)                    is { mul(x, sigmoid(x)) }
    /// `x * hard_sigmoid(x)` with slope 1/6.
    hard_swish(x)              is { mul(x, hard_sigmoid[alpha = 0.16666666666666666, beta = 0.5](x)) }
    /// `x * tanh(softplus(x))`.
    mish(x)                    is { mul(x, tanh(softplus(x))) }
    /// Gaussian error linear unit.
    gelu(x)                    is { mul(mul(x, 0.5), add(erf(mul(x, 0.7071067811865476)), 1.0)) }
    /// The tanh approximation of gelu.
    gelu_tanh(x)               is { mul(mul(x, 0.5), add(tanh(mul(add(x, mul(mul(mul(x, x), x), 0.044715)), 0.7978845608028654)), 1.0)) }

    // ---- movement
    /// Axis permutation: axis `i` of the output is axis `perm[i]` of the input.
    transpose[perm: Vec<usize>](x)  view { transpose }
    /// The same elements in row-major order under another shape.
    reshape[shape: Vec<Dim>](x)     view { reshape }
    /// Repeats axes of extent 1, and new outer axes, up to `shape` (ONNX Expand, one direction).
    broadcast[shape: Vec<Dim>](x)   view { broadcast }
    /// From `start` every `step`-th element, `shape` of them, per axis; a negative step walks backwards.
    slice[start: Vec<Dim>, shape: Vec<Dim>, step: Vec<i64>](x)  view { slice }
    /// Joins along an axis.
    concat[axis: usize](; xs..)     by { concat }
    /// `low[i]` elements before and `high[i]` after, per axis; `value` (rank 0) counts for mode `constant` only.
    pad[low: Vec<Dim>, high: Vec<Dim>, mode: PadMode = PadMode::Constant](x, value)  by { pad }
    /// The slices of `x` along `axis` that `indices` names; negative indices count from the end.
    gather[axis: usize](x, indices) by { gather }
    /// `x[.., indices[i.., j, k..], ..]`: one element per index, along `axis`.
    gather_elements[axis: usize](x, indices)  by { gather_elements }
    /// The slices of `x` at the index tuples in the innermost axis of `indices`, after `batch` shared axes.
    gather_nd[batch: usize = 0](x, indices)   by { gather_nd }
    /// `x` with `updates` written at one index per element along `axis`.
    scatter_elements[axis: usize, mode: ScatterMode = ScatterMode::Replace](x, indices, updates)  by { scatter_elements }
    /// `x` with the slices `updates` written at the index tuples of `indices`.
    scatter_nd[mode: ScatterMode = ScatterMode::Replace](x, indices, updates)  by { scatter_nd }
    /// The index along `axis`, everywhere.
    iota[shape: Vec<Dim>, axis: usize, dtype: DType]()  by { iota }
    /// The values of symbolic extents as a tensor `i64[k]`.
    dims[values: Vec<Dim>]()        by { dims }
    /// Another extent and interpolation per axis (ONNX Resize); `scales` are output over input extent as the model gives them.
    resize[shape: Vec<Dim>, scales: Vec<Real>, mode: Interpolation, coordinates: Coordinates, rounding: Rounding = Rounding::PreferFloor, cubic: Real = Real(-0.75)](x)  by { resize }

    // ---- reduction; the axes stay, with extent 1
    /// Sum over `axes`.
    reduce_sum[axes: Vec<usize>](x)   reduce { Sum }
    /// Mean over `axes`.
    reduce_mean[axes: Vec<usize>](x)  reduce { Mean }
    /// Largest over `axes`.
    reduce_max[axes: Vec<usize>](x)   reduce { Max }
    /// Smallest over `axes`.
    reduce_min[axes: Vec<usize>](x)   reduce { Min }
    /// Product over `axes`.
    reduce_prod[axes: Vec<usize>](x)  reduce { Prod }
    /// The index (i64) of the largest along `axis`, the first of equals, or the last.
    arg_max[axis: usize, last: bool = false](x)  by { arg_max }
    /// The index (i64) of the smallest along `axis`, the first of equals, or the last.
    arg_min[axis: usize, last: bool = false](x)  by { arg_min }
    /// Running sum along `axis`; exclusive leaves the element itself out, reverse runs from the end.
    cumsum[axis: usize, exclusive: bool = false, reverse: bool = false](x)  by { cumsum }
    /// Running product along `axis`, likewise.
    cumprod[axis: usize, exclusive: bool = false, reverse: bool = false](x)  by { cumprod }
    /// The `k` largest (or smallest) along `axis` in order, and their indices (i64); of equals the lower index first.
    top_k[axis: usize, k: Dim, largest: bool = true](x)  by { top_k }

    // ---- normalisation
    /// Normalized exponential over `axes`.
    softmax[axes: Vec<usize>](x)     is { div(exp(sub(x, reduce_max[axes](x))), reduce_sum[axes](exp(sub(x, reduce_max[axes](x))))) }
    /// Logarithm of softmax.
    log_softmax[axes: Vec<usize>](x) is { sub(sub(x, reduce_max[axes](x)), log(reduce_sum[axes](exp(sub(x, reduce_max[axes](x)))))) }
    /// Zero mean and unit variance over `axes`, then scaled and shifted. Instance and group norm are this over other axes.
    layer_norm[axes: Vec<usize>, epsilon: Real](x, scale, bias) is {
        add(mul(div(sub(x, reduce_mean[axes](x)), sqrt(add(reduce_mean[axes](mul(sub(x, reduce_mean[axes](x)), sub(x, reduce_mean[axes](x)))), epsilon))), scale), bias)
    }
    /// Unit root mean square over `axes`, then scaled.
    rms_norm[axes: Vec<usize>, epsilon: Real](x, scale) is { mul(div(x, sqrt(add(reduce_mean[axes](mul(x, x)), epsilon))), scale) }
    /// Normalization by given statistics, all broadcast against `x`.
    batch_norm[epsilon: Real](x, scale, bias, mean, variance) is { add(mul(div(sub(x, mean), sqrt(add(variance, epsilon))), scale), bias) }
    /// Local response normalization over `size` neighbours along `axis` (ONNX LRN).
    lrn[size: usize, alpha: Real, beta: Real, bias: Real, axis: usize](x)  by { lrn }

    // ---- contraction
    /// Matrix product of the two innermost axes, broadcasting the outer ones (numpy's matmul, rank 1 included).
    matmul(x, y)                     by { matmul }
    /// Matrix product with `(q - zero) * scale`: small integers, with a zero point and a scale for each `block` rows of each column.
    matmul_blocks[block: usize](x, q, zero, scale)  by { matmul_blocks }
    /// Cross-correlation over the spatial axes; `pad` is all lows, then all highs. `algorithm` does not change what it means.
    conv[stride: Vec<usize>, pad: Vec<i64>, dilation: Vec<usize>, group: usize = 1, layout: Layout = Layout::First, algorithm: Algorithm = Algorithm::Direct](x, w)  by { conv }
    /// Transposed convolution; weights `[in, out/group, kernel...]` for `first`, `[kernel..., in, out/group]` for `last`.
    conv_transpose[stride: Vec<usize>, pad: Vec<i64>, dilation: Vec<usize>, output_pad: Vec<usize>, group: usize = 1, layout: Layout = Layout::First](x, w)  by { conv_transpose }
    /// Largest of each window; `ceil` also keeps windows that hang over the end.
    max_pool[kernel: Vec<usize>, stride: Vec<usize>, pad: Vec<i64>, dilation: Vec<usize>, ceil: bool = false, layout: Layout = Layout::First](x)  by { max_pool }
    /// Mean of each window, over the elements inside unless `count_pad`.
    avg_pool[kernel: Vec<usize>, stride: Vec<usize>, pad: Vec<i64>, dilation: Vec<usize>, ceil: bool = false, count_pad: bool = false, layout: Layout = Layout::First](x)  by { avg_pool }
    /// `softmax(scale*q*k^T + mask) * v` over the two innermost axes; with `causal`, row `i` sees columns up to `i`.
    /// The mask, if given, broadcasts against the scores: bool (false hides) or added. A row that sees nothing gives 0.
    attention[scale: Real, causal: bool = false](q, k, v; mask..)  by { attention }
    /// Rotates pairs of the innermost axis: halves, or neighbours if `interleaved`; `cos` and `sin` broadcast against half of it.
    rotary[interleaved: bool = false](x, cos, sin)  by { rotary }

    // ---- recurrence, one direction; weights and gate order as ONNX has them, without the directions' axis
    /// `x: [t, b, i], w: [4h, i], r: [4h, h], bias: [8h], h0 and c0: [b, h] -> all h: [t, b, h], last h: [b, h], last c: [b, h]`. Gates i, o, f, c.
    lstm[direction: Direction = Direction::Forward](x, w, r, bias, h0, c0)  by { lstm }
    /// `x: [t, b, i], w: [3h, i], r: [3h, h], bias: [6h], h0: [b, h] -> all h: [t, b, h], last h: [b, h]`. Gates z, r, h.
    gru[direction: Direction = Direction::Forward, linear_before_reset: bool = false](x, w, r, bias, h0)  by { gru }
    /// `x: [t, b, i], w: [h, i], r: [h, h], bias: [2h], h0: [b, h] -> all h: [t, b, h], last h: [b, h]`.
    rnn[direction: Direction = Direction::Forward, activation: Activation = Activation::Tanh](x, w, r, bias, h0)  by { rnn }

    // ---- extents that data decides; each names them by symbols that nothing else makes
    /// The places of what holds, in row-major order: `x: bool[a, b] -> i64[2, count]`.
    non_zero[count: Dim](x)  by { non_zero }
    /// The different rows of `x: [n, m]`, in i64, f64 or str: `count` places at which they stand first, which of them each of the `n` rows is, and
    /// how often each of them stands there. In ascending order, or in that of the places.
    unique[count: Dim, sorted: bool = true](x)  by { unique }
    /// Boxes that overlap no better one: `boxes: f32[b, n, 4], scores: f32[b, c, n] -> i64[count, 3]`, each a batch, class and box. At most `most` per class; of
    /// two that overlap by more than `iou` the one with the higher score stays, and none whose score is not above `score`. A box is two
    /// corners, or centre, width and height.
    non_max_suppression[count: Dim, centers: bool = false](boxes, scores, most, iou, score)  by { non_max_suppression }
    /// Numbers of data become extents: `x: i64[k] -> bool[v1, ..., vk, 0]`, a tensor without elements that has them.
    extents[values: Vec<Dim>](x)  by { extents }

    // ---- strings; all else that is done with them is to move and compare them
    /// Strings made of strings or numbers, or asked for something, element by element: `concat(x, y)`, `lower(x)`, `upper(x)`, `match(x, pattern) -> bool`,
    /// `parse(x) -> to`, one of f64, f32 and i64, and `format(x) -> str` of one of these or u64. A pattern is one of the crate `regex-lite`, and `to` what results.
    text[what: TextTask, to: DType = DType::Str](x; others..)  by { text }
    /// The parts of strings between delimiters: `x: str[a], delimiter: str[] -> str[a, count], i64[a]`, empty strings behind those of strings that have fewer, and
    /// how many each has. At most `most` delimiters count, all if that is negative; an empty delimiter stands for any white space.
    text_split[count: Dim, most: i64 = -1](x, delimiter)  by { text_split }

    // ---- control flow; see `egret_ir::region`
    /// Runs its region while `going` holds, at most `trips` times: i64[], bool[]. In the region these two stand for the number of the step, from 0, and
    /// for a condition that holds. It returns the next condition, the next of the first `carried` values of `xs`, and a row for each result that grows.
    /// `found` are the extents of results that nobody knows before it has run.
    repeat[name: Arc<str>, carried: usize = 0, found: Vec<Dim> = vec![]](trips, going; xs..)  by { repeat }
    /// The results of its region where `condition: bool[]` holds, else those of its second region.
    branch[name: Arc<str>, found: Vec<Dim> = vec![]](condition; xs..)  by { branch }

    // ---- structure
    /// A part of the graph in which no extent depends on data of the same part. Made by the pass `stage`.
    stage[name: Arc<str>](; xs..)    by { kernel }
    /// A group of nodes that becomes one kernel: the region's results of the operands. Made by the pass `group`.
    kernel[name: Arc<str>](; xs..)   by { kernel }
}

fn take<T: AttrField>(name: &str, attr: Option<&Attr>) -> Result<T, String> {
    let attr = attr.ok_or_else(|| format!("attribute `{name}` is missing"))?;
    T::from_attr(attr).ok_or_else(|| format!("attribute `{name}` is {attr}, expected {}", T::EXPECTED))
}

impl OpDef {
    /// The op of this name.
    pub fn named(name: &str) -> Option<&'static OpDef> {
        OPS.iter().find(|d| d.name == name)
    }

    /// Whether it can take `count` operands.
    pub fn accepts(&self, count: usize) -> bool {
        if self.variadic { count + 1 >= self.operands.len() } else { count == self.operands.len() }
    }

    /// The default of each attribute, where the table gives one.
    pub fn defaults(&self) -> Vec<Option<Attr>> {
        Op::defaults(self.name)
    }

    /// The op with these attributes, in the order of the table.
    ///
    /// # Errors
    /// Names the attribute that is missing or of the wrong type.
    pub fn build(&self, attrs: &[Attr]) -> Result<Op, String> {
        Op::build(self.name, attrs)
    }
}

impl Op {
    /// What the table says about this op.
    pub fn def(&self) -> &'static OpDef {
        OpDef::named(self.name()).expect("every op is in its table")
    }

    /// The op `name` with attributes given by name; those left out take their defaults.
    ///
    /// # Errors
    /// When there is no such op or attribute, one is missing, or one has the wrong type.
    pub fn parse(name: &str, given: &[(String, Attr)]) -> Result<Op, String> {
        let def = OpDef::named(name).ok_or_else(|| format!("there is no op `{name}`"))?;
        if let Some((unknown, _)) = given.iter().find(|(n, _)| !def.attrs.contains(&n.as_str())) {
            let known = if def.attrs.is_empty() { "none".to_string() } else { def.attrs.join(", ") };
            return Err(format!("`{name}` has no attribute `{unknown}`; it has: {known}"));
        }
        let value = |(attr, default): (&&str, Option<Attr>)| {
            let found = given.iter().find(|(n, _)| n == attr).map(|(_, v)| v.clone());
            found.or(default).ok_or_else(|| format!("`{name}` needs the attribute `{attr}`"))
        };
        let attrs = def.attrs.iter().zip(def.defaults()).map(value).collect::<Result<Vec<_>, _>>()?;
        def.build(&attrs).map_err(|e| format!("`{name}`: {e}"))
    }

    /// Whether it is a scalar expression per element.
    pub fn is_elementwise(&self) -> bool {
        self.def().kind == Kind::Elementwise
    }

    /// Whether it stands between stages: data of its operands decides over extents of its results, or it makes strings.
    pub fn finds_extents(&self) -> bool {
        let finds = matches!(self, Op::non_zero { .. } | Op::unique { .. } | Op::non_max_suppression { .. } | Op::extents { .. });
        finds || matches!(self, Op::text { .. } | Op::text_split { .. }) || self.is_control()
    }

    /// Whether it is a part of a graph between what data decides.
    pub fn is_stage(&self) -> bool {
        matches!(self, Op::stage { .. })
    }

    /// Whether data of its operands decides what is computed, and how often.
    pub fn is_control(&self) -> bool {
        matches!(self, Op::repeat { .. } | Op::branch { .. })
    }

    /// The extents that stand in its attributes.
    pub fn dims(&self) -> Vec<Dim> {
        let dims = |attr| match attr {
            Attr::Dim(d) => vec![d],
            Attr::Dims(dims) => dims,
            _ => vec![],
        };
        self.attrs().into_iter().flat_map(dims).collect()
    }

    /// The symbols that get their numbers when the op is computed.
    pub fn found(&self) -> Vec<Arc<str>> {
        if !self.finds_extents() {
            return vec![];
        }
        self.dims().iter().filter_map(Dim::as_symbol).cloned().collect()
    }

    /// The types of the results for operands of these types.
    ///
    /// # Errors
    /// A sentence with the op's name, what it expects and what it found.
    pub fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let def = self.def();
        if !def.accepts(operands.len()) {
            return Err(format!("`{}` takes {} operands, found {}", def.name, def.operands.len(), operands.len()));
        }
        let results = self.infer_kind(operands).and_then(|r| r.iter().try_for_each(ops::check::sizes).map(|()| r));
        results.map_err(|e| match e {
            e if e.starts_with('`') => e,
            e if e.starts_with("expects") => format!("`{}` {e}", def.name),
            e => format!("`{}`: {e}", def.name),
        })
    }

    /// The results for operands of these values, by the reference semantics.
    ///
    /// # Errors
    /// When the operands do not type-check, or an index read from data is out of range.
    pub fn eval(&self, operands: &[&Tensor]) -> Result<Vec<Tensor>, String> {
        let types: Vec<TensorType> = operands.iter().map(|t| t.ty()).collect();
        let results = self.infer(&types.iter().collect::<Vec<_>>())?;
        let evaluated = self.check_sizes(&results).and_then(|()| self.eval_kind(operands, results));
        evaluated.map_err(|e| if e.starts_with("expects") { format!("`{}` {e}", self.name()) } else { e })
    }

    /// That results can be held whose extents are known before they are computed.
    fn check_sizes(&self, results: &[TensorType]) -> Result<(), String> {
        if self.finds_extents() { Ok(()) } else { results.iter().try_for_each(|r| ops::check::allocatable(r).map(drop)) }
    }

    /// The scalar expression of an elementwise op, typed for these operands.
    ///
    /// # Errors
    /// When the operands' types do not fit, or the op is not elementwise.
    pub fn typed_scalar(&self, operands: impl Iterator<Item = DType>) -> Result<scalar::Typed, String> {
        let scalar = self.scalar().ok_or_else(|| format!("`{}` is not elementwise", self.name()))?;
        scalar.typed(&operands.collect::<Vec<_>>())
    }

    fn infer_elementwise(&self, operands: &[&TensorType]) -> Inferred {
        let dtype = self.typed_scalar(operands.iter().map(|t| t.dtype))?.dtype;
        let dims = broadcast(&operands.iter().map(|t| t.dims.as_slice()).collect::<Vec<_>>())?;
        Ok(vec![TensorType { dtype, dims }])
    }
}
