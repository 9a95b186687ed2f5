//! petgraph's view of a [`Graph`]: its nodes are the vertices, and each operand read is an edge from the node that makes
//! the value to the node that reads it. Parameters and constants are no vertices.
//!
//! Invariant: the traits are implemented on the graph itself, so that every algorithm of petgraph applies without a copy;
//! a node that reads a value twice has two edges.
//!
//! ```
//! use egret_ir::{NodeId, text, visit};
//! use petgraph::algo::{dominators, has_path_connecting, tarjan_scc, toposort};
//!
//! let graph = text::parse("
//!     graph diamond(x: f32[4]) -> f32[4] {
//!         a = exp(x)
//!         l = neg(a)
//!         r = sqrt(a)
//!         y = add(l, r)
//!         return y
//!     }
//! ")?;
//! let [a, l, r, y] = [0, 1, 2, 3].map(NodeId::at);
//! assert_eq!(toposort(&graph, None).unwrap().len(), 4);
//! assert!(has_path_connecting(&graph, a, y, None) && !has_path_connecting(&graph, l, r, None));
//! assert_eq!(dominators::simple_fast(&graph, a).immediate_dominator(y), Some(a));
//! assert!(tarjan_scc(&graph).iter().all(|component| component.len() == 1));
//! assert!(visit::dot(&graph).contains("l = neg"));
//! # Ok::<(), text::TextError>(())
//! ```

use crate::graph::{Graph, Node, NodeId, ValueId};
use petgraph::Direction;
use petgraph::data::DataMap;
use petgraph::dot::{Config, Dot};
use petgraph::visit::{
    Data, EdgeCount, EdgeRef, GraphBase, GraphProp, IntoEdgeReferences, IntoEdges, IntoEdgesDirected, IntoNeighbors, IntoNeighborsDirected,
    IntoNodeIdentifiers, IntoNodeReferences, NodeCompactIndexable, NodeCount, NodeIndexable, Visitable,
};
use std::collections::HashSet;
use std::iter::{Enumerate, Map};
use std::ops::Range;
use std::{slice, vec};

/// One operand read: the `slot`-th operand of `reader` is made by `maker`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge<'a> {
    /// The node that makes the value.
    pub maker: NodeId,
    /// The node that reads it.
    pub reader: NodeId,
    /// Which operand of the reader it is.
    pub slot: usize,
    /// The value.
    pub value: &'a ValueId,
}

impl EdgeRef for Edge<'_> {
    type NodeId = NodeId;
    type EdgeId = (NodeId, usize);
    type Weight = ValueId;

    fn source(&self) -> NodeId {
        self.maker
    }
    fn target(&self) -> NodeId {
        self.reader
    }
    fn weight(&self) -> &ValueId {
        self.value
    }
    fn id(&self) -> (NodeId, usize) {
        (self.reader, self.slot)
    }
}

impl Graph {
    /// The reads of a node whose values other nodes make, in the order of its operands.
    fn edges_into(&self, reader: NodeId) -> Vec<Edge<'_>> {
        let operands = self.node(reader).operands.iter().enumerate();
        operands.filter_map(|(slot, value)| Some(Edge { maker: self.producer(*value)?, reader, slot, value })).collect()
    }

    /// The reads of the results of a node, in the order of the readers.
    fn edges_from(&self, maker: NodeId) -> Vec<Edge<'_>> {
        let mut readers: Vec<NodeId> = self.node(maker).results.iter().flat_map(|&r| self.readers(r)).copied().collect();
        readers.sort();
        readers.dedup();
        readers.into_iter().flat_map(|r| self.edges_into(r)).filter(|e| e.maker == maker).collect()
    }

    fn edges_towards(&self, node: NodeId, direction: Direction) -> Vec<Edge<'_>> {
        match direction {
            Direction::Outgoing => self.edges_from(node),
            Direction::Incoming => self.edges_into(node),
        }
    }
}

impl GraphBase for Graph {
    type NodeId = NodeId;
    type EdgeId = (NodeId, usize);
}

impl GraphProp for Graph {
    type EdgeType = petgraph::Directed;
}

impl Data for Graph {
    type NodeWeight = Node;
    type EdgeWeight = ValueId;
}

impl DataMap for Graph {
    fn node_weight(&self, id: NodeId) -> Option<&Node> {
        self.nodes().get(id.index())
    }
    fn edge_weight(&self, (reader, slot): (NodeId, usize)) -> Option<&ValueId> {
        self.nodes().get(reader.index())?.operands.get(slot)
    }
}

impl NodeCount for Graph {
    fn node_count(&self) -> usize {
        self.nodes().len()
    }
}

impl EdgeCount for Graph {
    fn edge_count(&self) -> usize {
        self.edge_references().count()
    }
}

impl NodeIndexable for Graph {
    fn node_bound(&self) -> usize {
        self.nodes().len()
    }
    fn to_index(&self, id: NodeId) -> usize {
        id.index()
    }
    fn from_index(&self, index: usize) -> NodeId {
        NodeId::at(index)
    }
}

impl NodeCompactIndexable for Graph {}

impl Visitable for Graph {
    type Map = HashSet<NodeId>;

    fn visit_map(&self) -> HashSet<NodeId> {
        HashSet::with_capacity(self.nodes().len())
    }
    fn reset_map(&self, map: &mut HashSet<NodeId>) {
        map.clear();
    }
}

impl IntoNodeIdentifiers for &Graph {
    type NodeIdentifiers = Map<Range<usize>, fn(usize) -> NodeId>;

    fn node_identifiers(self) -> Self::NodeIdentifiers {
        (0..self.nodes().len()).map(NodeId::at)
    }
}

impl<'a> IntoNodeReferences for &'a Graph {
    type NodeRef = (NodeId, &'a Node);
    type NodeReferences = Map<Enumerate<slice::Iter<'a, Node>>, fn((usize, &'a Node)) -> (NodeId, &'a Node)>;

    fn node_references(self) -> Self::NodeReferences {
        self.nodes().iter().enumerate().map(|(i, n)| (NodeId::at(i), n))
    }
}

impl<'a> IntoEdgeReferences for &'a Graph {
    type EdgeRef = Edge<'a>;
    type EdgeReferences = vec::IntoIter<Edge<'a>>;

    fn edge_references(self) -> Self::EdgeReferences {
        self.node_identifiers().flat_map(|n| self.edges_into(n)).collect::<Vec<_>>().into_iter()
    }
}

impl<'a> IntoEdges for &'a Graph {
    type Edges = vec::IntoIter<Edge<'a>>;

    fn edges(self, node: NodeId) -> Self::Edges {
        self.edges_from(node).into_iter()
    }
}

impl<'a> IntoEdgesDirected for &'a Graph {
    type EdgesDirected = vec::IntoIter<Edge<'a>>;

    fn edges_directed(self, node: NodeId, direction: Direction) -> Self::EdgesDirected {
        self.edges_towards(node, direction).into_iter()
    }
}

impl IntoNeighbors for &Graph {
    type Neighbors = vec::IntoIter<NodeId>;

    fn neighbors(self, node: NodeId) -> Self::Neighbors {
        self.neighbors_directed(node, Direction::Outgoing)
    }
}

impl IntoNeighborsDirected for &Graph {
    type NeighborsDirected = vec::IntoIter<NodeId>;

    fn neighbors_directed(self, node: NodeId, direction: Direction) -> Self::NeighborsDirected {
        let other = |e: Edge| {
            if direction == Direction::Outgoing { e.reader } else { e.maker }
        };
        self.edges_towards(node, direction).into_iter().map(other).collect::<Vec<_>>().into_iter()
    }
}

/// The graph for Graphviz: `dot -Tsvg`. Nodes show the results and the op, edges the type of what flows.
pub fn dot(graph: &Graph) -> String {
    let escaped = |text: String| text.replace('\\', "\\\\").replace('"', "\\\"");
    let node = |graph: &Graph, (_, node): (NodeId, &Node)| {
        let names: Vec<&str> = node.results.iter().map(|&r| &*graph.value(r).name).collect();
        format!("shape=box label=\"{}\"", escaped(format!("{} = {}", names.join(", "), node.op)))
    };
    let edge = |graph: &Graph, edge: Edge| format!("label=\"{}\"", escaped(graph.ty(*edge.value).to_string()));
    let config = [Config::NodeNoLabel, Config::EdgeNoLabel];
    format!("{:?}", Dot::with_attr_getters(graph, &config, &|g, e| edge(g, e), &|g, n| node(g, n)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diamond() -> Graph {
        let text = "graph d(x: f32[4]) { a = exp(x) \n y, i = top_k[axis=0, k=4](a) \n s = mul(y, y) \n return s, i }";
        crate::text::parse(text).unwrap()
    }

    #[test]
    fn a_value_read_twice_is_two_edges() {
        let graph = diamond();
        let [a, y, s] = [0, 1, 2].map(NodeId::at);
        assert_eq!(graph.edge_count(), 3);
        assert_eq!(graph.neighbors(y).collect::<Vec<_>>(), [s, s]);
        assert_eq!(graph.neighbors_directed(y, Direction::Incoming).collect::<Vec<_>>(), [a]);
        assert_eq!(graph.edges(a).map(|e| e.id()).collect::<Vec<_>>(), [(y, 0)]);
        assert_eq!(graph.edge_weight((s, 1)), Some(&graph.node(y).results[0]));
    }

    #[test]
    fn graphviz_text() {
        insta::assert_snapshot!(dot(&diamond()), @r##"
        digraph {
            0 [ shape=box label="a = exp"]
            1 [ shape=box label="y, i = top_k[axis=0, k=4]"]
            2 [ shape=box label="s = mul"]
            0 -> 1 [ label="f32[4]"]
            1 -> 2 [ label="f32[4]"]
            1 -> 2 [ label="f32[4]"]
        }
        "##);
    }
}
