//! The e-graph of a graph: the IR's ops as e-nodes, and what is known of every class.
//!
//! An e-node holds an entry of the IR's op table, so there is no second list of ops. Attributes are leaves and stand
//! before the operands among the children, so that a rule binds them like any operand. A node with several results is one
//! e-node with a [`Head::Result`] e-node per result.
//!
//! ```text
//! h = transpose[perm=[1, 0]](x)      =>    (transpose [1, 0] x)
//! v, i = top_k[...](h)               =>    v = (result 0 (top_k ...)), i = (result 1 (top_k ...))
//! ```
//!
//! Invariant: all e-nodes of a class have the same type. [`Facts`] are made by the same `infer` as everything else, a rule's
//! right side is typed before it is inserted, and a merge of two types is recorded as an error that fails the pass.

mod build;
mod changes;
mod facts;
mod pattern;
mod saturate;

pub use build::{Add, GraphClasses, explained, from_graph};
pub use changes::Changes;
pub use pattern::{Compiled, FromFacts, Match};
pub use saturate::{Budget, Observer, Saturation, saturate, saturate_observed};

use crate::cse::Constants;
use crate::fold;
use egg::{DidMerge, Id, Language};
use egret_ir::{Attr, Element, NodeId, OPS, Op, OpDef, Tensor, TensorType};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

/// An e-graph over the IR's ops.
pub type Egraph = egg::EGraph<Enode, Analysis>;

/// An op of the table without its attributes: its position in [`OPS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpIndex(u16);

impl OpIndex {
    /// The position of an entry of the table.
    pub fn of(def: &OpDef) -> OpIndex {
        static POSITIONS: LazyLock<HashMap<&'static str, u16>> = LazyLock::new(|| OPS.iter().zip(0..).map(|(d, i)| (d.name, i)).collect());
        OpIndex(POSITIONS[def.name])
    }

    /// The entry of the table.
    pub fn def(self) -> &'static OpDef {
        &OPS[usize::from(self.0)]
    }
}

impl fmt::Debug for OpIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.def().name)
    }
}

/// A parameter or a constant: its position among the leaves of [`Analysis`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeafId(u32);

/// What an e-node is, without its children.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Head {
    /// An op; its children are its attributes, then its operands.
    Op(OpIndex),
    /// The value of an attribute.
    Attr(Attr),
    /// A parameter or a constant.
    Leaf(LeafId),
    /// One result of its child, which has several.
    Result(usize),
    /// A node of the graph that rules do not look into: a kernel. Its children are its operands.
    Opaque(NodeId),
}

/// An e-node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Enode {
    /// What it is.
    pub head: Head,
    /// Attributes, then operands.
    pub children: Vec<Id>,
}

impl Enode {
    /// An e-node without children.
    pub fn leaf(head: Head) -> Enode {
        Enode { head, children: vec![] }
    }

    /// The children that are operands.
    pub fn operands(&self) -> &[Id] {
        match &self.head {
            Head::Op(op) => &self.children[op.def().attrs.len()..],
            Head::Attr(_) | Head::Leaf(_) | Head::Result(_) | Head::Opaque(_) => &self.children,
        }
    }
}

/// Which e-nodes a pattern may match: egg keeps an index of classes by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Discriminant {
    /// An op with so many children.
    Op(OpIndex, usize),
    /// Any attribute.
    Attr,
    /// Any leaf.
    Leaf,
    /// Any projection.
    Result,
    /// Any opaque node.
    Opaque,
}

impl Language for Enode {
    type Discriminant = Discriminant;

    fn discriminant(&self) -> Discriminant {
        match &self.head {
            Head::Op(op) => Discriminant::Op(*op, self.children.len()),
            Head::Attr(_) => Discriminant::Attr,
            Head::Leaf(_) => Discriminant::Leaf,
            Head::Result(_) => Discriminant::Result,
            Head::Opaque(_) => Discriminant::Opaque,
        }
    }

    fn matches(&self, other: &Enode) -> bool {
        self.head == other.head && self.children.len() == other.children.len()
    }

    fn children(&self) -> &[Id] {
        &self.children
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.children
    }
}

/// What is known of a tensor, whichever of its equal ways it is computed.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its type.
    pub ty: Arc<TensorType>,
    /// The value of all its elements, if it is known to be the same.
    pub splat: Option<Element>,
    /// Whether it will be a constant once `fold` has run.
    pub constant: bool,
    /// Its elements, where the model holds them, perhaps in another shape.
    pub data: Option<Arc<Tensor>>,
    /// Whether the second half of the innermost axis repeats the first, as in the tables of a rotary embedding.
    pub twice: bool,
    /// Whether it consists of integers that are not negative, as an `iota` does.
    pub counts: bool,
}

impl Value {
    /// A value of which nothing but the type is known.
    pub fn unknown(ty: impl Into<Arc<TensorType>>) -> Value {
        Value { ty: ty.into(), splat: None, constant: false, data: None, twice: false, counts: false }
    }

    /// Which of the facts are known; in time more are, and none is lost.
    pub fn known(&self) -> Known {
        [self.splat.is_some(), self.constant, self.data.is_some(), self.twice, self.counts]
    }

    /// A constant.
    pub fn of_constant(tensor: &Arc<Tensor>) -> Value {
        Value {
            splat: tensor.as_splat(),
            constant: true,
            data: Some(tensor.clone()),
            twice: facts::repeats(tensor),
            ..Value::unknown(tensor.ty())
        }
    }
}

/// Which facts of a [`Value`] are known, in the order of its fields.
pub type Known = [bool; 5];

/// What is known of a class.
#[derive(Clone, Debug)]
pub enum Facts {
    /// It is an attribute with this value.
    Attr(Attr),
    /// It is a tensor.
    Tensor(Value),
    /// It is a node with several results.
    Tuple(Arc<[Value]>),
}

impl Facts {
    /// The tensor, if it is one.
    pub fn tensor(&self) -> Option<&Value> {
        match self {
            Facts::Tensor(value) => Some(value),
            Facts::Attr(_) | Facts::Tuple(_) => None,
        }
    }

    /// Whether it is a tensor that will be a constant once `fold` has run.
    pub fn is_constant(&self) -> bool {
        match self {
            Facts::Attr(_) => true,
            Facts::Tensor(value) => value.constant,
            Facts::Tuple(values) => values.iter().all(|v| v.constant),
        }
    }
}

/// A leaf of the e-graph.
#[derive(Clone, Debug)]
pub enum Leaf {
    /// The parameter at this position.
    Param(usize, Arc<TensorType>),
    /// Known data.
    Const(Arc<Tensor>),
}

/// The leaves of an e-graph, and how facts are made of e-nodes.
#[derive(Default)]
pub struct Analysis {
    leaves: Vec<Leaf>,
    constants: Constants<LeafId>,
    opaque: HashMap<NodeId, Arc<[Value]>>,
    /// Facts of the e-node that is about to be added, when they have been inferred already.
    pending: Option<Facts>,
    /// Two types that were merged, if that has happened.
    conflict: Option<String>,
}

impl Analysis {
    /// The leaf of this id.
    pub fn leaf(&self, id: LeafId) -> &Leaf {
        &self.leaves[id.0 as usize]
    }

    /// The next parameter.
    pub fn param(&mut self, ty: TensorType) -> LeafId {
        let position = self.leaves.iter().filter(|l| matches!(l, Leaf::Param(..))).count();
        self.leaves.push(Leaf::Param(position, Arc::new(ty)));
        LeafId(self.leaves.len() as u32 - 1)
    }

    /// The constant of this data; the same id for equal data.
    pub fn constant(&mut self, tensor: &Arc<Tensor>) -> LeafId {
        let next = LeafId(self.leaves.len() as u32);
        let id = self.constants.intern(tensor, || next);
        if id == next {
            self.leaves.push(Leaf::Const(tensor.clone()));
        }
        id
    }

    /// The constant of this data, if it has been added.
    pub fn find_constant(&self, tensor: &Tensor) -> Option<LeafId> {
        self.constants.find(tensor)
    }

    /// An error if two different types were merged: a rule is wrong.
    ///
    /// # Errors
    /// Names both types.
    pub fn check(&self) -> Result<(), String> {
        self.conflict.clone().map_or(Ok(()), Err)
    }

    /// The facts of an e-node, from those of its children.
    ///
    /// # Errors
    /// When the e-node does not type-check.
    pub fn infer<'a>(&self, enode: &Enode, facts: impl Fn(Id) -> &'a Facts) -> Result<Facts, String> {
        let children: Vec<&Facts> = enode.children.iter().map(|&c| facts(c)).collect();
        self.infer_from(&enode.head, &children)
    }

    /// The facts of an e-node with this head, from those of its children.
    ///
    /// # Errors
    /// When it does not type-check.
    pub fn infer_from(&self, head: &Head, children: &[&Facts]) -> Result<Facts, String> {
        match head {
            Head::Attr(attr) => Ok(Facts::Attr(attr.clone())),
            Head::Leaf(leaf) => Ok(Facts::Tensor(self.leaf_value(*leaf))),
            Head::Result(i) => match children {
                [Facts::Tuple(values)] => values.get(*i).cloned().map(Facts::Tensor).ok_or_else(|| format!("there is no result {i}")),
                _ => Err("a projection expects a node with several results".into()),
            },
            Head::Opaque(node) => {
                self.opaque.get(node).map(|values| Facts::Tuple(values.clone())).ok_or_else(|| "an opaque node is not known".into())
            }
            Head::Op(op) => {
                let (attrs, operands) = children.split_at(op.def().attrs.len());
                infer_op(&build_op(*op, attrs)?, operands)
            }
        }
    }

    fn leaf_value(&self, leaf: LeafId) -> Value {
        match self.leaf(leaf) {
            Leaf::Param(_, ty) => Value::unknown(ty.clone()),
            Leaf::Const(tensor) => Value::of_constant(tensor),
        }
    }
}

/// The op of an e-node, from the facts of its attributes.
///
/// # Errors
/// When a child that should be an attribute is none, or does not fit.
pub fn build_op(op: OpIndex, attrs: &[&Facts]) -> Result<Op, String> {
    let attr = |facts: &&Facts| match facts {
        Facts::Attr(attr) => Ok(attr.clone()),
        Facts::Tensor(_) | Facts::Tuple(_) => Err(format!("`{op:?}` has an operand where an attribute belongs")),
    };
    op.def().build(&attrs.iter().map(attr).collect::<Result<Vec<_>, _>>()?)
}

fn infer_op(op: &Op, operands: &[&Facts]) -> Result<Facts, String> {
    let values: Option<Vec<&Value>> = operands.iter().map(|f| f.tensor()).collect();
    let values = values.ok_or_else(|| format!("`{}` expects tensors", op.name()))?;
    let types: Vec<&TensorType> = values.iter().map(|v| &*v.ty).collect();
    let results = op.infer(&types)?;
    let constant = values.iter().all(|v| v.constant) && fold::affordable(op, &types, &results);
    let value = |ty| facts::value(op, &values, ty, constant);
    let mut results: Vec<Value> = results.into_iter().map(value).collect();
    Ok(match results.len() {
        1 => Facts::Tensor(results.swap_remove(0)),
        _ => Facts::Tuple(results.into()),
    })
}

impl egg::Analysis<Enode> for Analysis {
    type Data = Facts;

    fn make(egraph: &mut Egraph, enode: &Enode, _: Id) -> Facts {
        if let Some(facts) = egraph.analysis.pending.take() {
            return facts;
        }
        match egraph.analysis.infer(enode, |id| &egraph[id].data) {
            Ok(facts) => facts,
            Err(message) => {
                // Only well-typed e-nodes are added; what is not fails the pass in `check`, not the process here.
                egraph.analysis.conflict.get_or_insert(message);
                Facts::Tuple([].into())
            }
        }
    }

    fn merge(&mut self, a: &mut Facts, b: Facts) -> DidMerge {
        let same = match (&*a, &b) {
            (Facts::Attr(a), Facts::Attr(b)) => a == b,
            (Facts::Tensor(a), Facts::Tensor(b)) => a.ty == b.ty,
            (Facts::Tuple(a), Facts::Tuple(b)) => a.iter().map(|v| &v.ty).eq(b.iter().map(|v| &v.ty)),
            (Facts::Attr(_) | Facts::Tensor(_) | Facts::Tuple(_), _) => false,
        };
        if !same {
            self.conflict.get_or_insert_with(|| format!("a rewrite rule made {a:?} equal to {b:?}, which are of different types"));
            return DidMerge(false, false);
        }
        match (a, b) {
            (Facts::Tensor(a), Facts::Tensor(b)) => merge_values(a, &b),
            _ => DidMerge(false, false),
        }
    }

    /// A tensor whose elements all have one known value gets a constant of that value, broadcast to its shape, so that
    /// equal ones meet in one class.
    fn modify(egraph: &mut Egraph, id: Id) {
        let class = &egraph[id];
        let Facts::Tensor(Value { ty, splat: Some(value), constant, .. }) = &class.data else { return };
        let (ty, value, constant) = (ty.clone(), *value, *constant);
        let is_one = ty.static_dims().is_some_and(|d| d.iter().product::<usize>() == 1);
        if constant != is_one || class.nodes.iter().any(|n| matches!(n.head, Head::Leaf(_))) {
            return;
        }
        let known = if is_one { egraph.add_splat(&ty, value) } else { egraph.add_repeated(&ty, value) };
        if let Ok(known) = known {
            egraph.union_trusted(id, known, "scalar");
        }
    }
}

/// Keeps what either knows. Where both know a value, the first stays: rules may change a value by a rounding.
fn merge_values(a: &mut Value, b: &Value) -> DidMerge {
    let before = a.known();
    a.splat = a.splat.or(b.splat);
    a.constant |= b.constant;
    a.data = a.data.take().or_else(|| b.data.clone());
    a.twice |= b.twice;
    a.counts |= b.counts;
    DidMerge(before != a.known(), a.known() != b.known() || a.splat != b.splat)
}
