//! Attention: `softmax(scale * q k^T + mask) v` over matrices of heads, `[batch, head, position, channel]` mostly.
//!
//! Numbers are moved out of the product first, so that it does not matter whether the exporter scaled the scores, the
//! queries, the keys or both; `k^T` may come from any transpose, which then composes with the one that undoes it. Scores
//! that a condition replaces by a large negative number are scores with a mask added.

use super::functions::*;

crate::rules! {
    functions: [swapped, with_rows_of, in_groups, mask_in_groups, attended];

    reassoc matmul_number_left:  matmul(mul(x, c), y)    => mul(matmul(x, y), c),   if number(c) && finite(c) && varied(x);
    reassoc matmul_number_right: matmul(x, mul(y, c))    => mul(matmul(x, y), c),   if number(c) && finite(c) && varied(y);

    // ---- the mask
    reassoc(finite) softmax_hidden_below: softmax[axes](select(m, s, c)) => softmax[axes](add(s, select(m, 0, min(c, -1e38)))), if hides(c);
    reassoc(finite) softmax_hidden_where: softmax[axes](select(m, c, s)) => softmax[axes](add(s, select(m, min(c, -1e38), 0))), if hides(c);
    reassoc softmax_two_masks:   softmax[axes](add(add(s, m), n)) => softmax[axes](add(s, add(m, n)));

    // ---- the whole
    reassoc attention_plain:     matmul(softmax[axes](matmul(q, kt)), v)
        => attention[1.0, false](q, transpose[swapped(kt)](kt), v),                 if innermost(axes, kt) && same_rank(q, kt);
    reassoc attention_scaled:    matmul(softmax[axes](mul(matmul(q, kt), scale)), v)
        => attention[scale, false](q, transpose[swapped(kt)](kt), v),               if innermost(axes, kt) && same_rank(q, kt) && number(scale);
    reassoc attention_masked:    matmul(softmax[axes](add(matmul(q, kt), mask)), v)
        => attention[1.0, false](q, transpose[swapped(kt)](kt), v, mask),           if innermost(axes, kt) && same_rank(q, kt);
    reassoc attention_scaled_masked: matmul(softmax[axes](add(mul(matmul(q, kt), scale), mask)), v)
        => attention[scale, false](q, transpose[swapped(kt)](kt), v, mask),         if innermost(axes, kt) && same_rank(q, kt) && number(scale);
    // ---- the whole, where the exporter puts zeros into rows that see nothing; so does `attention`
    reassoc(finite) attention_guarded: matmul(select(is_nan(softmax[axes](matmul(q, kt))), 0, softmax[axes](matmul(q, kt))), v)
        => attention[1.0, false](q, transpose[swapped(kt)](kt), v),                 if innermost(axes, kt) && same_rank(q, kt);
    reassoc(finite) attention_guarded_scaled: matmul(select(is_nan(softmax[axes](mul(matmul(q, kt), scale))), 0, softmax[axes](mul(matmul(q, kt), scale))), v)
        => attention[scale, false](q, transpose[swapped(kt)](kt), v),               if innermost(axes, kt) && same_rank(q, kt) && number(scale);
    reassoc(finite) attention_guarded_masked: matmul(select(is_nan(softmax[axes](add(matmul(q, kt), mask))), 0, softmax[axes](add(matmul(q, kt), mask))), v)
        => attention[1.0, false](q, transpose[swapped(kt)](kt), v, mask),           if innermost(axes, kt) && same_rank(q, kt);
    reassoc(finite) attention_guarded_scaled_masked: matmul(select(is_nan(softmax[axes](add(mul(matmul(q, kt), scale), mask))), 0, softmax[axes](add(mul(matmul(q, kt), scale), mask))), v)
        => attention[scale, false](q, transpose[swapped(kt)](kt), v, mask),         if innermost(axes, kt) && same_rank(q, kt) && number(scale);
    reassoc attention_columns:   matmul(v, transpose[p](softmax[axes](s)))
        => transpose[p](matmul(softmax[axes](s), transpose[p](v))),                 if swaps(p, s) && same_rank(v, s);

    // ---- masks that say less than they could
    exact   attention_repeated_mask: attention[scale, causal](q, k, v, broadcast[s](m)) => attention[scale, causal](q, k, v, m);
    exact   attention_condition: attention[scale, causal](q, k, v, select(m, 0, c)) => attention[scale, causal](q, k, v, m), if hides_all(c);
    reassoc(finite) attention_triangle: attention[scale, false](q, k, v, m)         => attention[scale, true](q, k, v),      if triangle(m, q, k);
    reassoc(finite) attention_triangle_and: attention[scale, false](q, k, v, and(m, t)) => attention[scale, true](q, k, v, m), if triangle(t, q, k);
    reassoc(finite) attention_triangle_add: attention[scale, false](q, k, v, add(m, t)) => attention[scale, true](q, k, v, m), if triangle(t, q, k);
    reassoc(finite) attention_causal:    attention[scale, false](q, k, v, le(iota[s, i, d](), iota[t, j, d]())) => attention[scale, true](q, k, v),
        if columns(s, i, k) && lines(t, j, q);
    reassoc(finite) attention_causal_masked: attention[scale, false](q, k, v, and(le(iota[s, i, d](), iota[t, j, d]()), m)) => attention[scale, true](q, k, v, m),
        if columns(s, i, k) && lines(t, j, q);

    // ---- heads: joined with the batch, or repeated for groups of queries
    exact   attention_joined:    attention[scale, causal](reshape[s](q), reshape[t](k), reshape[u](v))
        => reshape[with_rows_of(s, v)](attention[scale, causal](q, k, v)),
        if joins_heads(s, q) && joins_heads(t, k) && joins_heads(u, v) && same_heads(q, k) && same_heads(k, v);
    exact   attention_joined_masked: attention[scale, causal](reshape[s](q), reshape[t](k), reshape[u](v), reshape[w](m))
        => reshape[with_rows_of(s, v)](attention[scale, causal](q, k, v, m)),
        if joins_heads(s, q) && joins_heads(t, k) && joins_heads(u, v) && joins_heads(w, m) && same_heads(q, k) && same_heads(k, v) && same_heads(q, m);
    exact   attention_grouped:   attention[scale, causal](q, reshape[s](broadcast[wide](k)), reshape[t](broadcast[broad](v)))
        => reshape[attended(q, v)](attention[scale, causal](reshape[in_groups(q, wide)](q), k, v)),
        if repeats_heads(s, wide, k) && repeats_heads(t, broad, v);
    exact   attention_grouped_masked: attention[scale, causal](q, reshape[s](broadcast[wide](k)), reshape[t](broadcast[broad](v)), m)
        => reshape[attended(q, v)](attention[scale, causal](reshape[in_groups(q, wide)](q), k, v, reshape[mask_in_groups(m, wide)](m))),
        if repeats_heads(s, wide, k) && repeats_heads(t, broad, v);
}
