//! Where the ways of the threads of a warp that part at a branch meet again: at its immediate post-dominator.

use super::op::Op;
use super::text::{Instruction, Operand};

/// The instructions that may follow instruction `i`; `code.len()` is the end.
fn successors(code: &[Instruction], i: usize) -> Vec<usize> {
    let (instruction, next) = (&code[i], i + 1);
    let target = match (instruction.op, instruction.operands.last()) {
        (Op::Branch, Some(Operand::Label(to))) => *to,
        (Op::Return, _) => code.len(),
        _ => return vec![next],
    };
    if instruction.guard.is_some() { vec![target, next] } else { vec![target] }
}

/// For every instruction the first one that all ways from it to the end go through (Cooper, Harvey and Kennedy, "A simple, fast
/// dominance algorithm", on the reversed graph).
pub(super) fn joins(code: &[Instruction]) -> Vec<usize> {
    let end = code.len();
    let after: Vec<Vec<usize>> = (0..end).map(|i| successors(code, i)).collect();
    let mut before = vec![vec![]; end + 1];
    after.iter().enumerate().for_each(|(i, next)| next.iter().for_each(|&n| before[n].push(i)));
    let order = postorder(&before, end);
    let mut rank = vec![0; end + 1];
    order.iter().enumerate().for_each(|(r, &i)| rank[i] = r);
    let mut join: Vec<Option<usize>> = vec![None; end + 1];
    join[end] = Some(end);
    let mut changed = true;
    while changed {
        changed = false;
        for &i in order.iter().rev().filter(|&&i| i != end) {
            let known = after[i].iter().copied().filter(|&n| join[n].is_some());
            let common = known.reduce(|x, y| meet(&join, &rank, x, y));
            changed |= common != join[i];
            join[i] = common;
        }
    }
    // What never ends has nowhere to meet.
    (0..end).map(|i| join[i].unwrap_or(end)).collect()
}

/// The first instruction on both chains.
fn meet(join: &[Option<usize>], rank: &[usize], mut x: usize, mut y: usize) -> usize {
    while x != y {
        let last = if rank[x] < rank[y] { &mut x } else { &mut y };
        *last = join[*last].unwrap_or(join.len() - 1);
    }
    x
}

/// The nodes from which `root` is reached backwards, each after those that come behind it.
fn postorder(before: &[Vec<usize>], root: usize) -> Vec<usize> {
    let (mut seen, mut order, mut stack) = (vec![false; before.len()], vec![], vec![(root, 0)]);
    seen[root] = true;
    while let Some((node, done)) = stack.pop() {
        match before[node].get(done) {
            None => order.push(node),
            Some(&next) => {
                stack.push((node, done + 1));
                if !std::mem::replace(&mut seen[next], true) {
                    stack.push((next, 0));
                }
            }
        }
    }
    order
}
