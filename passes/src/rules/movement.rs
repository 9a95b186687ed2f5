//! Movement: transposes, reshapes, broadcasts, slices and casts composed and cancelled.
//!
//! A transpose moves past elementwise ops and products with a matrix in both directions, so that two of them meet wherever
//! they stand; so does a reshape. Between the two there is one order: axes are split, then transposed, then joined. The
//! extraction keeps the cheapest place.

use super::functions::*;

crate::rules! {
    functions: [
        compose, permuted, slice_start, slice_step, unpermuted, unpermuted_steps, through_units, steps_through_units,
        permuted_extents, joined_perm, split_shape, split_perm, with_rows_of, start_behind, run_start, run_shape, run_step,
        gathered_shape, picked_start, picked_extents, picked_step, picked_shape, start_between, shape_between, step_between, counted_shape, axis_after_units, axis_after_broadcast, outer, outer_of,
        innermost_axis, split_batch, batch_of, reshaped_beside, half_of, axis_after
    ];

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
    exact   transpose_sink_row<f: binary>: transpose[p](f(x, c))                => f(transpose[p](x), c),   if row(c) && keeps_innermost(p);
    exact   transpose_rise_row<f: binary>: f(transpose[p](x), c)                => transpose[p](f(x, c)),   if row(c) && keeps_innermost(p);

    // ---- reshape
    exact   reshape_fuse:               reshape[s](reshape[t](x))               => reshape[s](x);
    exact   reshape_drop:               reshape[s](x)                           => x;

    // ---- reshape past what treats all elements, or all rows, alike
    exact   reshape_sink<f: unary>:     reshape[s](f(x))                        => f(reshape[s](x));
    exact   reshape_rise<f: unary>:     f(reshape[s](x))                        => reshape[s](f(x));
    exact   reshape_sink_both<f: binary>: reshape[s](f(x, y))                   => f(reshape[s](x), reshape[s](y)), if same_extents(x, y);
    exact   reshape_rise_both<f: binary>: f(reshape[s](x), reshape[s](y))       => reshape[s](f(x, y)),     if same_extents(x, y);
    exact   reshape_sink_row<f: binary>: reshape[s](f(x, c))                    => f(reshape[s](x), c),     if row(c) && keeps_rows(s, x);
    exact   reshape_rise_row<f: binary>: f(reshape[s](x), c)                    => reshape[s](f(x, c)),     if row(c) && keeps_rows(s, x);

    // ---- past a product with a matrix
    exact   matmul_transpose_sink:      transpose[p](matmul(x, w))              => matmul(transpose[p](x), w),  if matrix(w) && keeps_innermost(p);
    exact   matmul_transpose_rise:      matmul(transpose[p](x), w)              => transpose[p](matmul(x, w)),  if matrix(w) && keeps_innermost(p);
    exact   matmul_reshape_sink:        reshape[s](matmul(x, w))                => matmul(reshape[with_rows_of(s, x)](x), w), if matrix(w) && keeps_rows(s, w) && keeps_matrices(s, x);
    exact   matmul_reshape_rise:        matmul(reshape[s](x), w)                => reshape[with_rows_of(s, w)](matmul(x, w)), if matrix(w) && keeps_rows(s, x) && keeps_matrices(s, x);

    // ---- batches and heads, one axis in what is multiplied and two where the mask is added
    exact   softmax_reshape:            softmax[axes](reshape[s](x))            => reshape[s](softmax[innermost_axis(x)](x)), if is_last(axes, s) && keeps_rows(s, x);
    exact   matmul_batch_split:         reshape[s](matmul(x, y))                => matmul(reshape[split_batch(s, x)](x), reshape[split_batch(s, y)](y)), if splits_batch(s, x, y);
    exact   matmul_batch_joined:        matmul(reshape[s](x), y)                => reshape[with_rows_of(s, y)](matmul(x, reshape[batch_of(x, y)](y))), if joins_batch(s, x, y);
    exact   reshape_sink_outer<f: binary>: reshape[s](f(x, y))                  => f(reshape[reshaped_beside(s, x, y)](x), reshape[reshaped_beside(s, y, x)](y)), if splits_outer(s, x, y);

    // ---- axes are split before a transpose, and joined after it
    exact   split_first:                reshape[s](transpose[p](x))             => transpose[split_perm(s, p, x)](reshape[split_shape(s, p, x)](x)), if splits(s, p, x);
    exact   join_last:                  transpose[p](reshape[s](x))             => reshape[permuted_extents(p, s)](transpose[joined_perm(p, s, x)](x)), if moves_wide(p, s);

    // ---- past a reshape that only adds or drops axes of extent 1
    exact   slice_past_units:           slice[start, shape, step](reshape[s](x))
        => reshape[shape](slice[through_units(start, s, x, 0), through_units(shape, s, x, 1), steps_through_units(step, s, x)](x)), if units_only(s, x) && keeps_units(start, shape, s);

    // ---- broadcast
    exact   broadcast_fuse:             broadcast[s](broadcast[t](x))           => broadcast[s](x);
    exact   broadcast_drop:             broadcast[s](x)                         => x;
    exact   broadcast_left<f: binary>:  f(broadcast[s](x), y)                   => f(x, y);
    exact   broadcast_right<f: binary>: f(x, broadcast[s](y))                   => f(x, y);

    exact   broadcast_rise<f: unary>:   f(broadcast[s](x))                      => broadcast[s](f(x));

    // ---- counts
    exact   iota_reshape:               reshape[s](iota[t, axis, d]())          => iota[s, axis_after_units(s, t, axis), d]();
    exact   iota_broadcast:             broadcast[s](iota[t, axis, d]())        => iota[s, axis_after_broadcast(s, t, axis), d]();

    // ---- gather at evenly spaced indices
    exact   gather_run:                 gather[axis](x, i)
        => reshape[gathered_shape(x, axis, i)](slice[run_start(x, axis, i), run_shape(x, axis, i), run_step(x, axis, i)](x));
    exact   gather_same:                gather[axis](x, i)
        => broadcast[gathered_shape(x, axis, i)](reshape[picked_shape(x, axis, i)](slice[picked_start(x, axis, i), picked_extents(x, axis), picked_step(x)](x))), if picks_one(x, axis, i);
    exact   gather_slice:               gather[axis](x, slice[start, shape, step](i))
        => slice[start_between(x, axis, start), shape_between(x, axis, shape), step_between(x, axis, step)](gather[axis](x, i)), if evenly_spaced(x, axis, i);
    exact   gather_counted:             gather[0](reshape[flat](x), add(iota[s, j, d](), mul(iota[t, i, d](), dims[n]())))
        => reshape[counted_shape(s, t, flat)](x), if counts_all(x, flat, s, j, t, i, n);
    exact   gather_single:              gather_nd[0](x, i)                      => gather[0](x, reshape[outer_of(i)](i)), if of_columns(i);
    exact   gather_every:               gather_nd[0](x, i)                      => reshape[outer_of(i)](x),   if enumerates(i, x);
    exact   gather_matrix:              gather_nd[0](x, concat[axis](iota[s, i, d](), iota[s, j, d]())) => reshape[outer(s)](x), if takes_all(x, s, i, j);

    // ---- slice
    exact   slice_sink<f: unary>:       slice[start, shape, step](f(x))         => f(slice[start, shape, step](x));
    exact   slice_first_part:           slice[start, shape, step](concat[axis](x, y)) => slice[start, shape, step](x), if within(start, shape, step, axis, x);
    exact   slice_second_part:          slice[start, shape, step](concat[axis](x, y)) => slice[start_behind(start, axis, x), shape, step](y), if behind(start, step, axis, x);
    exact   slice_fuse:                 slice[a, s, p](slice[b, t, q](x))       => slice[slice_start(a, b, q), s, slice_step(p, q)](x);
    exact   slice_transpose:            slice[start, shape, step](transpose[p](x))
        => transpose[p](slice[unpermuted(start, p), unpermuted(shape, p), unpermuted_steps(step, p)](x));
    exact   slice_drop:                 slice[start, shape, step](x)            => x,                       if from_the_start(start, step);

    // ---- a shuffle of two tensors: neither is turned, each is written to its places
    exact   split_parts:                reshape[s](concat[axis](x, y))          => concat[axis](reshape[half_of(s, axis)](x), reshape[half_of(s, axis)](y)), if splits_halves(s, axis, x, y);
    exact   transpose_parts:            transpose[p](concat[axis](x, y))        => concat[axis_after(p, axis)](transpose[p](x), transpose[p](y)), if moves_units_only(p, x) && moves_units_only(p, y);

    // ---- cast
    exact   cast_fuse:                  cast[to](cast[between](x))              => cast[to](x),             if holds(between, x);
    exact   cast_back:                  cast[to](cast[up](x))                   => x,                       if counted_there_and_back(up, to, x);
    exact   round_of_integers:          round(cast[to](x))                      => cast[to](x),             if integer(x);
    exact   cumsum_narrow:              cast[to](cumsum[..](cast[up](x)))       => cumsum[..](x),           if wraps_alike(up, to, x);
    exact   cast_drop:                  cast[to](x)                             => x;
}
