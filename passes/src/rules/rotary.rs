//! Rotary embeddings: pairs of channels turned by an angle, halves of a row or neighbours.
//!
//! ```text
//! x*c + concat(-high(x), low(x))*s                                          c and s repeat their first half
//! concat(low(x)*c - high(x)*s, high(x)*c + low(x)*s)                        c and s are the half
//! interleave(even(x)*c - odd(x)*s, odd(x)*c + even(x)*s)
//! ```

use super::functions::*;

crate::rules! {
    functions: [half_start, half_shape, half_step];

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
}
