//! Attention: `softmax(scale * q k^T + mask) v` over matrices of heads, `[batch, head, position, channel]`.
//!
//! Numbers are moved out of the product first, so that it does not matter whether the exporter scaled the scores, the
//! queries, the keys or both; `k^T` may come from any transpose, which then composes with the one that undoes it.

use super::functions::*;

crate::rules! {
    functions: [];

    reassoc matmul_number_left:  matmul(mul(x, c), y)    => mul(matmul(x, y), c),   if number(c) && finite(c) && varied(x);
    reassoc matmul_number_right: matmul(x, mul(y, c))    => mul(matmul(x, y), c),   if number(c) && finite(c) && varied(y);

    reassoc attention_plain:     matmul(softmax[axes](matmul(q, kt)), v)
        => attention[1.0, false](q, transpose[[0, 1, 3, 2]](kt), v),                if innermost(axes, kt) && same_rank(q, kt);
    reassoc attention_scaled:    matmul(softmax[axes](mul(matmul(q, kt), scale)), v)
        => attention[scale, false](q, transpose[[0, 1, 3, 2]](kt), v),              if innermost(axes, kt) && same_rank(q, kt) && number(scale);
    reassoc attention_masked:    matmul(softmax[axes](add(matmul(q, kt), mask)), v)
        => attention[1.0, false](q, transpose[[0, 1, 3, 2]](kt), v, mask),          if innermost(axes, kt) && same_rank(q, kt);
    reassoc attention_scaled_masked: matmul(softmax[axes](add(mul(matmul(q, kt), scale), mask)), v)
        => attention[scale, false](q, transpose[[0, 1, 3, 2]](kt), v, mask),        if innermost(axes, kt) && same_rank(q, kt) && number(scale);
}
