//! Conditions: what exporters compute masks of.

use super::functions::*;

crate::rules! {
    functions: [together, all_together, condition];

    exact   and_commutes:       and(x, y)                   => and(y, x);
    exact   or_commutes:        or(x, y)                    => or(y, x);
    exact   and_always:         and(x, c)                   => broadcast[together(x, c)](x),        if always(c);
    exact   or_never:           or(x, c)                    => broadcast[together(x, c)](x),        if never(c);
    exact   and_same:           and(x, x)                   => x;
    exact   or_same:            or(x, x)                    => x;
    exact   not_not:            not(not(x))                 => x;
    exact   not_less:           not(lt(x, y))               => le(y, x),                            if integer(x);
    exact   not_at_most:        not(le(x, y))               => lt(y, x),                            if integer(x);
    exact   not_zero:           not(eq(x, 0))               => cast[condition(x)](x);
    exact   select_not:         select(not(c), x, y)        => select(c, y, x);
    exact   select_always:      select(c, x, y)             => broadcast[all_together(c, x, y)](x), if always(c);
    exact   select_never:       select(c, x, y)             => broadcast[all_together(c, x, y)](y), if never(c);
    exact   select_broadcast:   select(broadcast[s](c), x, y) => broadcast[s](select(c, x, y)),     if one_element(x) && one_element(y);
}
