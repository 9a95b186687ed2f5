//! Rotary embeddings: pairs of channels turned by an angle, halves of a row or neighbours.
//!
//! ```text
//! x*c + concat(-high(x), low(x))*s                                          c and s repeat their first half
//! concat(low(x)*c - high(x)*s, high(x)*c + low(x)*s)                        c and s are the half
//! interleave(even(x)*c - odd(x)*s, odd(x)*c + even(x)*s)
//! x*c + interleave(-odd(x), even(x))*s                                      c and s have every element twice
//! ```

use super::functions::*;

crate::rules! {
    functions: [half_start, half_shape, half_step, even_step, outer_of];

    reassoc rotary_tables:      add(mul(x, c), mul(concat[axis](neg(slice[high, shape, step](x)), slice[low, shape, step](x)), s))
        => rotary[false](x, slice[half_start(c), half_shape(c), half_step(c)](c), slice[half_start(s), half_shape(s), half_step(s)](s)),
        if twice(c) && twice(s) && halves(axis, low, high, shape, step, x);
    reassoc rotary_halves:      concat[axis](
            sub(mul(slice[low, shape, step](x), c), mul(slice[high, shape, step](x), s)),
            add(mul(slice[high, shape, step](x), c), mul(slice[low, shape, step](x), s))
        ) => rotary[false](x, c, s),                                                if halves(axis, low, high, shape, step, x);
    reassoc rotary_pairs:       reshape[whole](concat[axis](
            reshape[column](sub(mul(slice[even, shape, step](x), c), mul(slice[odd, shape, step](x), s))),
            reshape[column](add(mul(slice[odd, shape, step](x), c), mul(slice[even, shape, step](x), s)))
        )) => rotary[true](x, c, s),                                                if pairs(axis, even, odd, shape, step, column, x);
    reassoc rotary_pair_tables: add(mul(x, c), mul(reshape[whole](concat[axis](
            reshape[column](neg(slice[odd, shape, step](x))), reshape[column](slice[even, shape, step](x))
        )), s)) => rotary[true](x, slice[half_start(c), half_shape(c), even_step(c)](c), slice[half_start(s), half_shape(s), even_step(s)](s)),
        if paired(c) && paired(s) && pairs(axis, even, odd, shape, step, column, x);
    reassoc rotary_pair_repeats: add(mul(x, reshape[t](broadcast[b](c))), mul(reshape[whole](concat[axis](
            reshape[column](neg(slice[odd, shape, step](x))), reshape[column](slice[even, shape, step](x))
        )), reshape[u](broadcast[d](s)))) => rotary[true](x, reshape[outer_of(c)](c), reshape[outer_of(s)](s)),
        if doubles(t, b, c) && doubles(u, d, s) && pairs(axis, even, odd, shape, step, column, x);
}
