//! Movement: transposes, reshapes, broadcasts, slices and casts composed and cancelled.
//!
//! A transpose moves past elementwise ops in both directions, so that two of them meet wherever they stand; the extraction
//! keeps the cheapest place.

use super::functions::*;

crate::rules! {
    functions: [compose, permuted, slice_start, slice_step, unpermuted, unpermuted_steps, through_units, steps_through_units, permuted_through_units, permuted_extents];

    // ---- transpose
    exact   transpose_fuse:             transpose[p](transpose[q](x))           => transpose[compose(p, q)](x);
    exact   transpose_drop:             transpose[p](x)                         => x,                       if is_identity(p);
    exact   transpose_as_reshape:       transpose[p](x)                         => reshape[permuted(p, x)](x), if moves_units_only(p, x);
    exact   transpose_sink<f: unary>:   transpose[p](f(x))                      => f(transpose[p](x));
    exact   transpose_rise<f: unary>:   f(transpose[p](x))                      => transpose[p](f(x));
    exact   transpose_sink_both<f: binary>:  transpose[p](f(x, y))              => f(transpose[p](x), transpose[p](y)), if same_rank(x, y);
    exact   transpose_rise_both<f: binary>:  f(transpose[p](x), transpose[p](y)) => transpose[p](f(x, y)), if same_rank(x, y);
    exact   transpose_sink_left<f: binary>:  transpose[p](f(x, c))              => f(transpose[p](x), c),   if one_element(c);
    exact   transpose_rise_left<f: binary>:  f(transpose[p](x), c)              => transpose[p](f(x, c)),   if one_element(c);
    exact   transpose_sink_right<f: binary>: transpose[p](f(c, x))              => f(c, transpose[p](x)),   if one_element(c);
    exact   transpose_rise_right<f: binary>: f(c, transpose[p](x))              => transpose[p](f(c, x)),   if one_element(c);

    // ---- reshape
    exact   reshape_fuse:               reshape[s](reshape[t](x))               => reshape[s](x);
    exact   reshape_drop:               reshape[s](x)                           => x;

    // ---- past a reshape that only adds or drops axes of extent 1
    exact   transpose_past_units:       transpose[p](reshape[s](x))
        => reshape[permuted_extents(p, s)](transpose[permuted_through_units(p, s, x)](x)),          if units_only(s, x);
    exact   slice_past_units:           slice[start, shape, step](reshape[s](x))
        => reshape[shape](slice[through_units(start, s, x, 0), through_units(shape, s, x, 1), steps_through_units(step, s, x)](x)), if units_only(s, x) && keeps_units(start, shape, s);

    // ---- broadcast
    exact   broadcast_fuse:             broadcast[s](broadcast[t](x))           => broadcast[s](x);
    exact   broadcast_drop:             broadcast[s](x)                         => x;
    exact   broadcast_left<f: binary>:  f(broadcast[s](x), y)                   => f(x, y);
    exact   broadcast_right<f: binary>: f(x, broadcast[s](y))                   => f(x, y);

    // ---- slice
    exact   slice_fuse:                 slice[a, s, p](slice[b, t, q](x))       => slice[slice_start(a, b, q), s, slice_step(p, q)](x);
    exact   slice_transpose:            slice[start, shape, step](transpose[p](x))
        => transpose[p](slice[unpermuted(start, p), unpermuted(shape, p), unpermuted_steps(step, p)](x));
    exact   slice_drop:                 slice[start, shape, step](x)            => x,                       if from_the_start(start, step);

    // ---- cast
    exact   cast_fuse:                  cast[to](cast[between](x))              => cast[to](x),             if holds(between, x);
    exact   cast_drop:                  cast[to](x)                             => x;
}
