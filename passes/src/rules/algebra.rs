//! Arithmetic: commutativity, neutral elements, powers and quotients, numbers brought together, ranges joined.
//!
//! Associativity is not among them: on a residual stream it makes millions of e-nodes. Numbers move outwards instead
//! ([`mul_hoist`](rules)), where [`folding`](super::folding) merges them.

use super::functions::*;

crate::rules! {
    functions: [];

    // ---- order
    exact   add_commutes:       add(x, y)                   => add(y, x);
    exact   mul_commutes:       mul(x, y)                   => mul(y, x);
    ulp     max_commutes:       max(x, y)                   => max(y, x);
    ulp     min_commutes:       min(x, y)                   => min(y, x);

    // ---- neutral elements
    exact   mul_one:            mul(x, 1)                   => x;
    exact   div_one:            div(x, 1)                   => x;
    exact   pow_one:            pow(x, 1)                   => x;
    ulp     add_zero:           add(x, 0)                   => x;
    ulp     sub_zero:           sub(x, 0)                   => x;

    // ---- signs
    exact   neg_neg:            neg(neg(x))                 => x;
    exact   add_neg:            add(x, neg(y))              => sub(x, y);
    exact   sub_neg:            sub(x, neg(y))              => add(x, y);
    exact   sub_number:         sub(x, c)                   => add(x, neg(c)),              if constant(c);
    ulp     zero_sub:           sub(0, x)                   => neg(x);
    exact   mul_minus_one:      mul(x, -1)                  => neg(x);
    exact   abs_neg:            abs(neg(x))                 => abs(x),                      if signed(x);

    // ---- powers
    ulp     pow_two:            pow(x, 2)                   => mul(x, x);
    ulp     pow_three:          pow(x, 3)                   => mul(mul(x, x), x);
    ulp     pow_minus_one:      pow(x, -1)                  => reciprocal(x),               if float(x);
    reassoc(finite) pow_minus_half: pow(x, -0.5)                => reciprocal(sqrt(x)),         if float(x);
    reassoc(finite) sqrt_reciprocal: sqrt(reciprocal(x))         => reciprocal(sqrt(x)),         if float(x);
    exact   square_turned:      mul(sub(x, y), sub(x, y))   => mul(sub(y, x), sub(y, x));
    reassoc pow_half:           pow(x, 0.5)                 => sqrt(x),                     if float(x);

    // ---- quotients
    exact   one_div:            div(1, x)                   => reciprocal(x);
    ulp     div_number:         div(x, c)                   => mul(x, reciprocal(c)),       if invertible(c);
    ulp     mul_reciprocal:     mul(x, reciprocal(y))       => div(x, y),                   if float(x) && varied(y);
    ulp     reciprocal_twice:   reciprocal(reciprocal(x))   => x,                           if float(x);

    // ---- numbers
    reassoc mul_hoist:          mul(mul(x, c), y)           => mul(mul(x, y), c),           if number(c) && varied(y) && varied(x);

    // ---- ranges
    exact   relu:               max(x, 0)                   => relu(x);
    exact   relu_twice:         relu(relu(x))               => relu(x);
    exact   clip:               min(max(x, low), high)      => clip(x, low, high);
    ulp     clip_turned:        max(min(x, high), low)      => clip(x, low, high),          if ordered(low, high);
    ulp     clip_relu:          clip(x, 0, inf)             => relu(x),                     if float(x);
    exact   relu_min:           min(relu(x), high)          => clip(x, 0, high);
    ulp     clip_twice:         clip(clip(x, a, b), c, d)   => clip(x, max(a, c), min(b, d)), if overlap(a, b, c, d);
    ulp     relu_clip:          relu(clip(x, low, high))    => clip(x, max(low, 0), high),  if at_least_zero(high);
    ulp     clip_of_relu:       clip(relu(x), low, high)    => clip(x, max(low, 0), high),  if at_least_zero(high);
}
