//! The order in which the nodes of a graph can be imported.
//!
//! ONNX wants its nodes sorted, but not every tool keeps to that. Nodes that no output needs are left out.

use onnx_protobuf::{GraphProto, NodeProto};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// What a list of nodes computes, and how.
pub(crate) struct Order<'m> {
    /// Positions of the nodes that the outputs need, operands before their readers, else in the order of the model.
    pub(crate) nodes: Vec<usize>,
    /// Positions of nodes that wait for each other, in the order of their waiting; empty when there are none.
    pub(crate) cycle: Vec<usize>,
    /// Every value that a needed node or an output reads.
    pub(crate) read: HashSet<&'m str>,
}

/// The order of the nodes for these outputs.
pub(crate) fn order<'m>(nodes: &'m [NodeProto], outputs: impl Iterator<Item = &'m str>) -> Order<'m> {
    let mut makers: HashMap<&str, usize> = HashMap::new();
    for (i, node) in nodes.iter().enumerate() {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            makers.entry(output).or_insert(i);
        }
    }
    let reads: Vec<Vec<&str>> = nodes.iter().map(reads).collect();
    let (needed, read) = needed(&makers, &reads, outputs);

    let mut waiting: Vec<usize> = vec![0; nodes.len()];
    let mut readers: Vec<Vec<usize>> = vec![vec![]; nodes.len()];
    for &i in &needed {
        for maker in reads[i].iter().filter_map(|name| makers.get(name)) {
            waiting[i] += 1;
            readers[*maker].push(i);
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> = needed.iter().filter(|&&i| waiting[i] == 0).map(|&i| Reverse(i)).collect();
    let mut sorted = vec![];
    while let Some(Reverse(i)) = ready.pop() {
        sorted.push(i);
        for &reader in &readers[i] {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    let stuck = needed.iter().copied().find(|&i| waiting[i] > 0);
    let cycle = stuck.map(|start| cycle(start, &waiting, &makers, &reads)).unwrap_or_default();
    Order { nodes: sorted, cycle, read }
}

/// The nodes that the outputs need, and all values that are read.
fn needed<'m>(
    makers: &HashMap<&str, usize>,
    reads: &[Vec<&'m str>],
    outputs: impl Iterator<Item = &'m str>,
) -> (Vec<usize>, HashSet<&'m str>) {
    let mut read: HashSet<&str> = HashSet::new();
    let mut open: Vec<&str> = outputs.collect();
    let mut needed = HashSet::new();
    while let Some(name) = open.pop() {
        if read.insert(name)
            && let Some(&maker) = makers.get(name)
            && needed.insert(maker)
        {
            open.extend(&reads[maker]);
        }
    }
    let mut needed: Vec<usize> = needed.into_iter().collect();
    needed.sort_unstable();
    (needed, read)
}

/// Walks from a node that waits to one it waits for, until a node comes again.
fn cycle(start: usize, waiting: &[usize], makers: &HashMap<&str, usize>, reads: &[Vec<&str>]) -> Vec<usize> {
    let mut path = vec![start];
    let mut place = HashMap::from([(start, 0)]);
    loop {
        let at = path[path.len() - 1];
        let next = reads[at].iter().filter_map(|name| makers.get(name)).copied().find(|&i| waiting[i] > 0);
        // A node that waits has an operand whose node waits.
        let Some(next) = next else { return path };
        if let Some(&first) = place.get(&next) {
            path.drain(..first);
            path.reverse();
            return path;
        }
        place.insert(next, path.len());
        path.push(next);
    }
}

/// The values that a node reads: its inputs, and what its subgraphs take from around them.
pub(crate) fn reads(node: &NodeProto) -> Vec<&str> {
    let own = node.input.iter().map(String::as_str).filter(|i| !i.is_empty());
    let graphs = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
    own.chain(graphs.flat_map(captured)).collect()
}

/// The values that a subgraph reads and does not make.
fn captured(graph: &GraphProto) -> Vec<&str> {
    let inputs = graph.input.iter().map(|i| i.name.as_str());
    let initializers = graph.initializer.iter().map(|t| t.name.as_str());
    let made = graph.node.iter().flat_map(|n| n.output.iter().map(String::as_str));
    let own: HashSet<&str> = inputs.chain(initializers).chain(made).collect();
    let outputs = graph.output.iter().map(|o| o.name.as_str());
    graph.node.iter().flat_map(reads).chain(outputs).filter(|name| !own.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(list: &[(&[&str], &[&str])]) -> Vec<NodeProto> {
        let strings = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
        list.iter().map(|(input, output)| NodeProto { input: strings(input), output: strings(output), ..Default::default() }).collect()
    }

    #[test]
    fn nodes_are_sorted_and_dead_ones_dropped() {
        let nodes = nodes(&[(&["b"], &["c"]), (&["x"], &["dead"]), (&["a", ""], &["b"]), (&["x"], &["a"])]);
        assert_eq!(order(&nodes, ["c"].into_iter()).nodes, [3, 2, 0]);
    }

    #[test]
    fn a_sorted_graph_stays_as_it_is() {
        let nodes = nodes(&[(&["x"], &["a"]), (&["x"], &["b"]), (&["b", "a", "a"], &["c"])]);
        assert_eq!(order(&nodes, ["c"].into_iter()).nodes, [0, 1, 2]);
    }

    #[test]
    fn a_cycle_is_found() {
        let nodes = nodes(&[(&["x"], &["a"]), (&["a", "d"], &["b"]), (&["b"], &["c"]), (&["c"], &["d"]), (&["d"], &["y"])]);
        let order = order(&nodes, ["y"].into_iter());
        assert_eq!(order.nodes, [0]);
        assert_eq!(order.cycle.len(), 3);
        assert!([1, 2, 3].iter().all(|i| order.cycle.contains(i)));
    }
}
