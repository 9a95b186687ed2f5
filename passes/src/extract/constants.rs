//! Constants that rules made are ops of constants until `fold` has run. Which of the equal ways to write one: the one with
//! the fewest ops, which is its data where that is there.

use crate::egraph::{Egraph, Enode, Head};
use egg::Id;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// For every constant class the position of the e-node to write it by. Following them always ends at data: an e-node is
/// chosen only after its operands' classes, smallest first (Knuth's generalisation of Dijkstra's algorithm).
pub fn smallest(egraph: &Egraph) -> HashMap<Id, usize> {
    let mut smallest = HashMap::new();
    let mut sizes: HashMap<Id, u64> = HashMap::new();
    // Per operand class the e-nodes that read it; per e-node how many operands have no size yet.
    let mut readers: HashMap<Id, Vec<(Id, usize)>> = HashMap::new();
    let mut missing: HashMap<(Id, usize), usize> = HashMap::new();
    let mut queue = BinaryHeap::new();
    for class in egraph.classes().filter(|c| c.data.is_constant()) {
        for (i, enode) in class.nodes.iter().enumerate() {
            match enode.head {
                Head::Attr(_) => continue,
                Head::Leaf(_) => queue.push(Reverse((0, class.id, i))),
                Head::Op(_) | Head::Result(_) | Head::Opaque(_) if enode.operands().is_empty() => queue.push(Reverse((1, class.id, i))),
                Head::Op(_) | Head::Result(_) | Head::Opaque(_) => {
                    missing.insert((class.id, i), enode.operands().len());
                    enode.operands().iter().for_each(|&o| readers.entry(egraph.find(o)).or_default().push((class.id, i)));
                }
            }
        }
    }
    while let Some(Reverse((size, class, enode))) = queue.pop() {
        if sizes.contains_key(&class) {
            continue;
        }
        sizes.insert(class, size);
        smallest.insert(class, enode);
        for &reader in readers.get(&class).into_iter().flatten() {
            let left = missing.get_mut(&reader).expect("counted above");
            *left -= 1;
            if *left == 0 {
                let enode: &Enode = &egraph[reader.0].nodes[reader.1];
                let size = enode.operands().iter().map(|o| sizes[&egraph.find(*o)]).fold(1, u64::saturating_add);
                queue.push(Reverse((size, reader.0, reader.1)));
            }
        }
    }
    smallest
}
