//! Extraction: the cheapest way to compute the results out of all the equal ways in an e-graph.
//!
//! Shared values are paid for once, so this is not a choice per class: with a cost per use the cost of a residual network
//! doubles with each block. The plan is found by dynamic programming over the *frontier*: classes are decided one by one,
//! consumers first, and a state is the set of classes that are demanded but not yet decided. What every plan needs is left
//! out of the states. Networks are long and narrow, so few states live at a time, and the result is the cheapest plan.
//!
//! ```text
//! y = add(a, b)    a = mul(s, s) | pow(s, 2)    b = div(x, t) | mul(x, r)    r = reciprocal(t)
//! decided: y a b r ...      states after b: {} by div, {r} by mul, each with the cheapest way there
//! ```
//!
//! Invariant: costs are integers, ties are broken by position, and no hash map decides anything by its order: the same
//! e-graph gives the same plan everywhere.
//!
//! Two things make a plan less than the cheapest. Where classes depend on each other in a circle, only members that lead
//! towards the leaves are kept (by the cost of the longest path). And at most [`BEAM`] states live at a time; a plan for
//! which that was too few says so.

pub mod constants;
pub mod cost;
mod problem;

pub use problem::{Alternative, Choices, Problem};

use std::collections::HashMap;

/// How many states may live at a time. All of the zoo's models are solved exactly with it; it is for graphs in which rules
/// leave a choice at every node, such as a long chain with a transpose at every third.
pub const BEAM: usize = 1000;

/// How many of the cheapest states are compared with each state to see whether it can be dropped; comparing with all is
/// quadratic and drops few more.
const DOMINATORS: usize = 100;

/// How many of the classes that could be decided next are looked at, the last that became ready: those before them are
/// farther away and would widen the frontier.
const NEIGHBOURS: usize = 64;

/// What to compute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The alternative of each class, by position; `None` for classes that are not needed.
    pub picks: Vec<Option<usize>>,
    /// The sum over the classes that are needed.
    pub cost: u64,
    /// Whether no state was dropped for lack of room.
    pub exact: bool,
}

/// The positions of classes in the order of decision, ascending: what is demanded, but not by every plan.
type Demand = Vec<u32>;

/// The cheapest way to a state.
#[derive(Clone, Copy)]
struct Way {
    cost: u64,
    /// Position in the trail.
    last: usize,
}

/// A decision, and the one before it.
struct Step {
    before: usize,
    class: usize,
    alternative: usize,
}

/// The cheapest plan that computes the root of an acyclic problem.
///
/// # Errors
/// When there is no way to compute it.
pub fn solve(problem: &Problem, beam: usize) -> Result<Plan, String> {
    let order = decision_order(problem);
    let mut position = vec![u32::MAX; problem.classes.len()];
    order.iter().zip(0..).for_each(|(&class, i)| position[class] = i);
    let certain = certain(problem);
    let mut picks = vec![None; problem.classes.len()];
    let mut trail = vec![Step { before: 0, class: problem.root, alternative: 0 }];
    let mut exact = true;
    let mut states: Vec<(Demand, Way)> = vec![(vec![], Way { cost: 0, last: 0 })];
    for (&class, here) in order.iter().zip(0..) {
        let alternatives = &problem.classes[class];
        if let ([only], true) = (alternatives.as_slice(), certain[class]) {
            picks[class] = Some(0);
            states.iter_mut().for_each(|(_, way)| way.cost = way.cost.saturating_add(only.cost));
            continue;
        }
        let is_wanted = |demand: &Demand| certain[class] || demand.first() == Some(&here);
        if !states.iter().any(|(demand, _)| is_wanted(demand)) {
            continue;
        }
        let mut next: HashMap<Demand, Way> = HashMap::new();
        for (demand, way) in states {
            if !is_wanted(&demand) {
                keep_cheapest(&mut next, demand, way.cost, || way.last);
                continue;
            }
            let rest = if demand.first() == Some(&here) { &demand[1..] } else { &demand[..] };
            for (alternative, alt) in alternatives.iter().enumerate() {
                let needs = alt.needs.iter().filter(|&&n| !certain[n]).map(|&n| position[n]);
                keep_cheapest(&mut next, join(rest, needs), way.cost.saturating_add(alt.cost), || {
                    trail.push(Step { before: way.last, class, alternative });
                    trail.len() - 1
                });
            }
        }
        states = cheapest_first(next);
        exact &= states.len() <= beam;
        states.truncate(beam);
    }
    let (_, done) = states.first().ok_or("there is no way to compute the results")?;
    let mut at = done.last;
    while at != 0 {
        let Step { before, class, alternative } = trail[at];
        picks[class] = Some(alternative);
        at = before;
    }
    Ok(Plan { picks, cost: done.cost, exact })
}

/// Takes note of a way to a state if it is the first, or cheaper than the one known.
fn keep_cheapest(states: &mut HashMap<Demand, Way>, demand: Demand, cost: u64, last: impl FnOnce() -> usize) {
    match states.get_mut(&demand) {
        Some(known) if known.cost <= cost => {}
        Some(known) => *known = Way { cost, last: last() },
        None => drop(states.insert(demand, Way { cost, last: last() })),
    }
}

/// States by cost, without those that demand a superset of what a cheaper one demands.
fn cheapest_first(states: HashMap<Demand, Way>) -> Vec<(Demand, Way)> {
    let mut states: Vec<(Demand, Way)> = states.into_iter().collect();
    states.sort_by(|(a, x), (b, y)| x.cost.cmp(&y.cost).then_with(|| a.cmp(b)));
    let mut kept: Vec<(Demand, Way)> = vec![];
    for state in states {
        if !kept.iter().take(DOMINATORS).any(|(demand, _)| is_subset(demand, &state.0)) {
            kept.push(state);
        }
    }
    kept
}

/// Both ascending.
fn is_subset(part: &[u32], whole: &[u32]) -> bool {
    let mut rest = whole.iter();
    part.len() <= whole.len() && part.iter().all(|x| rest.any(|y| y == x))
}

/// `demand` with more, ascending and each once.
fn join(demand: &[u32], more: impl Iterator<Item = u32>) -> Demand {
    let mut joined = Vec::with_capacity(demand.len() + 4);
    joined.extend_from_slice(demand);
    for position in more {
        if let Err(at) = joined.binary_search(&position) {
            joined.insert(at, position);
        }
    }
    joined
}

/// The classes that every plan needs, as far as that is plain: the root, and what all alternatives of such a class need.
fn certain(problem: &Problem) -> Vec<bool> {
    let mut certain = vec![false; problem.classes.len()];
    let mut stack = vec![problem.root];
    while let Some(class) = stack.pop() {
        if std::mem::replace(&mut certain[class], true) {
            continue;
        }
        if let Some((first, others)) = problem.classes[class].split_first() {
            stack.extend(first.needs.iter().filter(|n| others.iter().all(|o| o.needs.contains(n))));
        }
    }
    certain
}

/// The classes, consumers before what they may need. Of those that are ready the one that opens the fewest new classes
/// comes first (then the one nearest to the root): that keeps the frontier narrow.
fn decision_order(problem: &Problem) -> Vec<usize> {
    let needs = problem.needs();
    let mut consumers = vec![0usize; needs.len()];
    let mut reached = vec![false; needs.len()];
    let mut stack = vec![problem.root];
    reached[problem.root] = true;
    while let Some(class) = stack.pop() {
        for &need in &needs[class] {
            consumers[need] += 1;
            if !std::mem::replace(&mut reached[need], true) {
                stack.push(need);
            }
        }
    }
    let mut open = vec![false; needs.len()];
    let mut depth = vec![0usize; needs.len()];
    let mut ready = vec![problem.root];
    let mut order = vec![];
    while let Some(at) = (ready.len().saturating_sub(NEIGHBOURS)..ready.len()).min_by_key(|&i| {
        let class: usize = ready[i];
        (needs[class].iter().filter(|&&n| !open[n]).count(), depth[class], class)
    }) {
        let class = ready.swap_remove(at);
        order.push(class);
        for &need in &needs[class] {
            open[need] = true;
            depth[need] = depth[need].max(depth[class] + 1);
            consumers[need] -= 1;
            if consumers[need] == 0 {
                ready.push(need);
            }
        }
    }
    order
}

/// The cost of the cheapest plan, all plans tried out.
#[cfg(test)]
pub(crate) fn brute_force(problem: &Problem) -> u64 {
    fn go(problem: &Problem, demand: &mut Vec<usize>, decided: &mut Vec<usize>) -> u64 {
        let Some(class) = demand.pop() else { return 0 };
        if decided.contains(&class) {
            let best = go(problem, demand, decided);
            demand.push(class);
            return best;
        }
        decided.push(class);
        let mut best = u64::MAX;
        for alt in &problem.classes[class] {
            let mut demand = [demand.clone(), alt.needs.clone()].concat();
            best = best.min(go(problem, &mut demand, decided).saturating_add(alt.cost));
        }
        decided.pop();
        demand.push(class);
        best
    }
    go(problem, &mut vec![problem.root], &mut vec![])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each class is a list of alternatives `(cost, needs)`; class 0 is the root.
    fn problem(classes: &[&[(u64, &[usize])]]) -> Problem {
        let alternative =
            |(i, (cost, needs)): (usize, &(u64, &[usize]))| Alternative { cost: *cost, needs: needs.to_vec(), taste: 0, enode: i };
        let classes = classes.iter().map(|alts| alts.iter().enumerate().map(alternative).collect()).collect();
        Problem { classes, root: 0 }.acyclic()
    }

    fn cost(classes: &[&[(u64, &[usize])]]) -> u64 {
        let plan = solve(&problem(classes), BEAM).unwrap();
        assert!(plan.exact);
        plan.cost
    }

    #[test]
    fn what_is_shared_costs_once() {
        // Alone each of classes 1 and 2 is cheaper without class 3; together they share it.
        let classes: &[&[(u64, &[usize])]] = &[&[(1, &[1, 2])], &[(5, &[]), (1, &[3])], &[(5, &[]), (1, &[3])], &[(6, &[])]];
        assert_eq!(cost(classes), 9);
    }

    #[test]
    fn circles_are_cut() {
        // Class 1 is class 2 turned around and the other way round; class 2 has a way of its own.
        let classes: &[&[(u64, &[usize])]] = &[&[(0, &[1])], &[(1, &[2])], &[(1, &[1]), (7, &[3])], &[(0, &[])]];
        assert_eq!(cost(classes), 8);
    }

    #[test]
    fn what_cannot_be_computed_is_an_error() {
        let classes: &[&[(u64, &[usize])]] = &[&[(0, &[1])], &[(1, &[1])]];
        assert!(solve(&problem(classes), BEAM).is_err());
    }

    #[test]
    fn a_beam_too_narrow_is_admitted() {
        let classes: &[&[(u64, &[usize])]] = &[&[(1, &[1, 2])], &[(1, &[3]), (2, &[4])], &[(1, &[4]), (2, &[3])], &[(9, &[])], &[(9, &[])]];
        assert!(solve(&problem(classes), BEAM).unwrap().exact);
        assert!(!solve(&problem(classes), 1).unwrap().exact);
    }

    #[test]
    fn it_is_the_cheapest_of_all_plans() {
        let mut state = 1u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for _ in 0..300 {
            let count = 2 + below(7) as usize;
            let classes = (0..count).map(|class| {
                let last = class + 1 == count;
                let alternative = |enode, below: &mut dyn FnMut(u64) -> u64| {
                    let needs =
                        if last { vec![] } else { (0..below(3)).map(|_| class + 1 + below((count - class - 1) as u64) as usize).collect() };
                    Alternative { cost: below(10), needs, taste: 0, enode }
                };
                (0..1 + below(3) as usize).map(|enode| alternative(enode, &mut below)).collect()
            });
            let problem = Problem { classes: classes.collect(), root: 0 }.acyclic();
            let plan = solve(&problem, BEAM).unwrap();
            assert_eq!(plan.cost, brute_force(&problem), "{problem:?}");
        }
    }
}
