//! Idioms: what exporters spell out in primitives, and in other orders than the bodies in the op table.
//!
//! The bodies themselves are rules already ([`definitions`](super::definitions)). Here stand the spellings that
//! [`algebra`](super::algebra) does not lead there: numbers end up outermost (`mul_hoist`), quotients by numbers are products.

use super::functions::*;

crate::rules! {
    functions: [type_of, axes_before];

    // ---- activations
    ulp     sigmoid:            reciprocal(add(exp(neg(x)), 1))                     => sigmoid(x);
    reassoc softplus:           log(add(exp(x), 1))                                 => softplus(x);
    ulp     silu_quotient:      div(x, add(exp(neg(x)), 1))                         => silu(x);
    reassoc hard_sigmoid:       clip(add(mul(x, a), b), 0, 1)                       => hard_sigmoid[a, b](x),   if float(x);
    reassoc hard_sigmoid_six:   mul(clip(add(x, 3), 0, 6), 0.16666666666666666)     => hard_sigmoid[0.16666666666666666, 0.5](x);
    reassoc hard_swish_six:     mul(mul(x, clip(add(x, 3), 0, 6)), 0.16666666666666666) => hard_swish(x);
    reassoc gelu_half_last:     mul(mul(x, add(erf(mul(x, 0.7071067811865476)), 1)), 0.5)    => gelu(x);
    reassoc gelu_tanh_half_last: mul(mul(x, add(tanh(mul(add(x, mul(mul(mul(x, x), x), 0.044715)), 0.7978845608028654)), 1)), 0.5) => gelu_tanh(x);
    reassoc gelu_tanh_factored: mul(mul(x, add(tanh(mul(mul(x, add(mul(mul(x, x), 0.044715), 1)), 0.7978845608028654)), 1)), 0.5) => gelu_tanh(x);

    // ---- means
    reassoc mean_of_sum:        mul(reduce_sum[axes](x), c)                         => reduce_mean[axes](x),    if float(x) && one_over_count(c, axes, x);

    // ---- softmax
    reassoc(finite) softmax_unshifted: div(exp(x), reduce_sum[axes](exp(x)))               => softmax[axes](x),        if float(x);
    reassoc softmax_widened:    cast[to](softmax[axes](cast[up](x)))                => softmax[axes](x),        if there_and_back(up, to, x);
    reassoc softmax_transposed: softmax[axes](transpose[p](x))                      => transpose[p](softmax[axes_before(axes, p)](x));
    reassoc log_of_softmax:     log(softmax[axes](x))                               => log_softmax[axes](x);
    reassoc log_sum_exp_shifted: sub(x, add(log(reduce_sum[axes](exp(sub(x, reduce_max[axes](x))))), reduce_max[axes](x))) => log_softmax[axes](x);
    reassoc log_sum_exp:        sub(x, log(reduce_sum[axes](exp(x))))               => log_softmax[axes](x);

    // ---- norms: the scale inside of the quotient, the mean subtracted last, without scale or shift
    reassoc mul_scaled_reciprocal: mul(x, mul(reciprocal(y), s))                    => mul(div(x, y), s),       if float(x) && varied(y);
    reassoc norm_mean_last:     add(mul(x, s), sub(b, mul(reduce_mean[axes](x), s))) => add(mul(sub(x, reduce_mean[axes](x)), s), b), if float(x);
    ulp     layer_norm_plain:   div(sub(x, reduce_mean[axes](x)), sqrt(add(reduce_mean[axes](mul(sub(x, reduce_mean[axes](x)), sub(x, reduce_mean[axes](x)))), epsilon))) => layer_norm[axes, epsilon](x, 1, 0);
    ulp     layer_norm_scale:   mul(layer_norm[axes, epsilon](x, 1, 0), s)          => layer_norm[axes, epsilon](x, s, 0);
    ulp     layer_norm_shift:   add(layer_norm[axes, epsilon](x, s, 0), b)          => layer_norm[axes, epsilon](x, s, b);
    ulp     rms_norm_plain:     div(x, sqrt(add(reduce_mean[axes](mul(x, x)), epsilon))) => rms_norm[axes, epsilon](x, 1);
    ulp     rms_norm_scale:     mul(rms_norm[axes, epsilon](x, 1), s)               => rms_norm[axes, epsilon](x, s);
    reassoc rms_norm_narrowed:  mul(cast[to](rms_norm[axes, epsilon](x, 1)), s)     => cast[to](rms_norm[axes, epsilon](x, cast[type_of(x)](s))), if narrows(to, x);
    reassoc layer_norm_narrowed: mul(cast[to](layer_norm[axes, epsilon](x, 1, 0)), s) => cast[to](layer_norm[axes, epsilon](x, cast[type_of(x)](s), 0)), if narrows(to, x);
    reassoc layer_norm_narrowed_shift: add(cast[to](layer_norm[axes, epsilon](x, s, 0)), b) => cast[to](layer_norm[axes, epsilon](x, s, cast[type_of(x)](b))), if narrows(to, x);
}
