//! Folding into weights: what is multiplied or added to the result of a convolution or a matrix product by constants.
//!
//! The right sides compute with constants only; `fold` evaluates them afterwards. So a batch norm behind a convolution
//! becomes other weights and a bias:
//!
//! ```text
//! batch_norm(conv(x, w), s, b, m, v) => add(conv(x, mul(w, k)), sub(b, mul(m, k)))    with k = s/sqrt(v + epsilon)
//! ```

use super::functions::*;

crate::rules! {
    functions: [per_filter, per_filter_transposed, per_column];

    // ---- constants that meet
    reassoc add_constants:      add(add(x, a), b)               => add(x, add(a, b)),   if shift(a) && shift(b);
    reassoc mul_constants:      mul(mul(x, a), b)               => mul(x, mul(a, b)),   if scale(a) && scale(b);

    // ---- batch norm
    reassoc batch_norm_affine:  batch_norm[epsilon](x, s, b, m, v)
        => add(mul(x, div(s, sqrt(add(v, epsilon)))), sub(b, mul(m, div(s, sqrt(add(v, epsilon)))))),
        if constant(s) && constant(b) && constant(m) && constant(v);

    // ---- a scale behind a shift goes before it
    reassoc shifted_scale:      mul(add(x, b), s)               => add(mul(x, s), mul(b, s)),   if shift(b) && scale(s);

    // ---- a scale goes into the weights
    reassoc conv_scale:         mul(conv[..](x, w), s)                      => conv[..](x, mul(w, reshape[per_filter(s, w, layout)](s))), if constant(w) && scale(s);
    reassoc deconv_scale:       mul(conv_transpose[..](x, w), s)            => conv_transpose[..](x, mul(w, reshape[per_filter_transposed(s, w, layout)](s))), if constant(w) && scale(s) && ungrouped(group);
    reassoc matmul_scale:       mul(matmul(x, w), s)                        => matmul(x, mul(w, reshape[per_column(s, w)](s))),     if constant(w) && scale(s);
    reassoc scaled_matmul:      matmul(mul(x, s), w)                        => matmul(x, mul(w, s)),                                if constant(w) && number(s) && scale(s);
}
