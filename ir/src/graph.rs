//! The graph: ops applied to named values, in dependency order.
//!
//! Operands are ordered and kept in the node; petgraph's visit traits are implemented on the graph itself (see
//! [`crate::visit`]), so its algorithms apply without a copy.
//!
//! Invariants, checked by [`crate::verify`]: a node comes after the nodes that make its operands; every value has the
//! type that inference gives; names are unique and are never renumbered.

use crate::dim::Bindings;
use crate::op::Op;
use crate::tensor::Tensor;
use crate::ty::TensorType;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// A value of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(u32);

/// A node of a graph; also its position in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

impl ValueId {
    /// The position in [`Graph::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl NodeId {
    /// The position in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
    /// The node at this position.
    pub fn at(index: usize) -> NodeId {
        NodeId(index as u32)
    }
}

/// Where the data of a constant comes from; kept so that hand-written files print as they were read.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Its bytes.
    Data,
    /// `random(seed)`: see [`crate::random`].
    Random(u64),
    /// `splat(v)`.
    Splat,
}

/// What makes a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Def {
    /// A parameter of the graph.
    Param,
    /// Known at compile time.
    Const(Arc<Tensor>, Source),
    /// Result `usize` of a node.
    Node(NodeId, usize),
}

/// A named, typed value.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Unique in its graph; comes from the model.
    pub name: Arc<str>,
    /// Element type and extents.
    pub ty: TensorType,
    /// What makes it.
    pub def: Def,
}

/// An op applied to values.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// What it reads, in the order of the op's operands.
    pub operands: Vec<ValueId>,
    /// What it makes, in the order of the op's results.
    pub results: Vec<ValueId>,
    /// The nodes of the original model that it came from, sorted.
    pub origin: Vec<Arc<str>>,
    /// The body of a kernel, a stage, a loop or a branch: a graph whose parameters stand for the operands, in order.
    pub region: Option<Arc<Graph>>,
    /// What an [`Op::branch`] computes where its condition does not hold: a graph with the parameters of `region`.
    pub otherwise: Option<Arc<Graph>>,
}

impl Node {
    /// Its bodies.
    pub fn regions(&self) -> impl Iterator<Item = &Arc<Graph>> {
        self.region.iter().chain(&self.otherwise)
    }
}

/// A computation: parameters, nodes in dependency order, results.
///
/// Two graphs are equal when they read alike: the same names, types, ops, origins and data. How the values are numbered,
/// which depends on when a constant was added, does not count.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The model's name.
    pub name: String,
    params: Vec<ValueId>,
    nodes: Vec<Node>,
    values: Vec<Value>,
    /// What the graph returns; a value may stand here more than once.
    pub results: Vec<ValueId>,
    /// The names under which the results leave the graph, one per result; may differ from the values' names.
    pub result_names: Vec<Arc<str>>,
    names: HashSet<Arc<str>>,
    /// The nodes that read each value, by the value's position.
    readers: Vec<Vec<NodeId>>,
}

impl PartialEq for Graph {
    fn eq(&self, other: &Graph) -> bool {
        let pairs =
            |a: &[ValueId], b: &[ValueId]| a.len() == b.len() && a.iter().zip(b).all(|(&a, &b)| self.value(a).is_like(other.value(b)));
        let node = |(a, b): (&Node, &Node)| {
            a.op == b.op
                && a.origin == b.origin
                && a.regions().eq(b.regions())
                && pairs(&a.operands, &b.operands)
                && pairs(&a.results, &b.results)
        };
        self.name == other.name
            && self.result_names == other.result_names
            && self.names == other.names
            && self.nodes.len() == other.nodes.len()
            && pairs(&self.params, &other.params)
            && pairs(&self.results, &other.results)
            && self.nodes.iter().zip(&other.nodes).all(node)
            && self.constants().all(|(_, a)| other.find(&a.name).is_some_and(|b| a.is_like(other.value(b))))
    }
}

impl Value {
    /// Whether name, type and data are the same.
    fn is_like(&self, other: &Value) -> bool {
        let data = match (&self.def, &other.def) {
            (Def::Param, Def::Param) | (Def::Node(..), Def::Node(..)) => true,
            (Def::Const(a, _), Def::Const(b, _)) => Arc::ptr_eq(a, b) || a == b,
            _ => false,
        };
        data && self.name == other.name && self.ty == other.ty
    }
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// The parameters, in order.
    pub fn params(&self) -> &[ValueId] {
        &self.params
    }

    /// The nodes, in dependency order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All values, in the order of their creation.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// Every node with its id, in dependency order.
    pub fn node_ids(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, n)| (NodeId::at(i), n))
    }

    /// Every value with its id.
    pub fn value_ids(&self) -> impl DoubleEndedIterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, v)| (ValueId(i as u32), v))
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// A value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The type of a value.
    pub fn ty(&self, id: ValueId) -> &TensorType {
        &self.values[id.index()].ty
    }

    /// The node that makes a value, if one does.
    pub fn producer(&self, id: ValueId) -> Option<NodeId> {
        match self.value(id).def {
            Def::Node(node, _) => Some(node),
            Def::Param | Def::Const(..) => None,
        }
    }

    /// The data of a constant.
    pub fn constant(&self, id: ValueId) -> Option<&Arc<Tensor>> {
        match &self.value(id).def {
            Def::Const(tensor, _) => Some(tensor),
            Def::Param | Def::Node(..) => None,
        }
    }

    /// Every constant with its id, read or not.
    pub fn constants(&self) -> impl DoubleEndedIterator<Item = (ValueId, &Value)> {
        self.value_ids().filter(|(_, v)| matches!(v.def, Def::Const(..)))
    }

    /// The nodes that read a value, in order; a node that reads it twice stands there twice.
    pub fn readers(&self, id: ValueId) -> &[NodeId] {
        &self.readers[id.index()]
    }

    /// The value of this name.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.value_ids().find(|(_, v)| &*v.name == name).map(|(id, _)| id)
    }

    /// The nodes that read each value, in order; a node that reads a value twice stands there twice.
    pub fn uses(&self) -> HashMap<ValueId, Vec<NodeId>> {
        let mut uses: HashMap<ValueId, Vec<NodeId>> = HashMap::new();
        for (id, node) in self.node_ids() {
            node.operands.iter().for_each(|&v| uses.entry(v).or_default().push(id));
        }
        uses
    }

    /// Adds a parameter.
    pub fn add_param(&mut self, name: &str, ty: TensorType) -> ValueId {
        let id = self.add_value(name, ty, Def::Param);
        self.params.push(id);
        id
    }

    /// Adds a constant.
    pub fn add_const(&mut self, name: &str, tensor: impl Into<Arc<Tensor>>) -> ValueId {
        self.add_const_from(name, tensor, Source::Data)
    }

    /// Adds a constant that says where its data comes from.
    pub fn add_const_from(&mut self, name: &str, tensor: impl Into<Arc<Tensor>>, source: Source) -> ValueId {
        let tensor = tensor.into();
        self.add_value(name, tensor.ty(), Def::Const(tensor, source))
    }

    /// Adds a node with one result and returns the result.
    ///
    /// # Errors
    /// When the operands do not fit the op, in a sentence of [`Op::infer`].
    pub fn add(&mut self, name: &str, op: Op, operands: &[ValueId]) -> Result<ValueId, String> {
        Ok(self.add_node(op, operands, &[name], vec![])?[0])
    }

    /// Adds a node whose results are named `names`; results without a name are named after the first, and a missing one
    /// is made up. Returns the results.
    ///
    /// # Errors
    /// When the operands do not fit the op, in a sentence of [`Op::infer`].
    pub fn add_node(&mut self, op: Op, operands: &[ValueId], names: &[&str], origin: Vec<Arc<str>>) -> Result<Vec<ValueId>, String> {
        let types = op.infer(&operands.iter().map(|&v| self.ty(v)).collect::<Vec<_>>())?;
        Ok(self.push_node(op, operands, types, names, origin, vec![]))
    }

    /// Adds a kernel: a node whose meaning is `region`, a graph with one parameter per operand; the region takes the
    /// kernel's name.
    ///
    /// # Errors
    /// When the operands' types are not those of the region's parameters.
    pub fn add_kernel(
        &mut self,
        kernel: &str,
        region: Graph,
        operands: &[ValueId],
        names: &[&str],
        origin: Vec<Arc<str>>,
    ) -> Result<Vec<ValueId>, String> {
        self.add_region(Op::kernel { name: kernel.into() }, region, operands, names, origin)
    }

    /// Adds a kernel or a stage, as `op` says; see [`Graph::add_kernel`].
    ///
    /// # Errors
    /// When the operands' types are not those of the region's parameters, or `op` has no region.
    pub fn add_region(
        &mut self,
        op: Op,
        mut region: Graph,
        operands: &[ValueId],
        names: &[&str],
        origin: Vec<Arc<str>>,
    ) -> Result<Vec<ValueId>, String> {
        let (Op::kernel { name } | Op::stage { name }) = &op else { return Err(format!("`{}` has a region", op.name())) };
        let kernel = name.to_string();
        if operands.len() != region.params.len() {
            return Err(format!("kernel `{kernel}` takes {} operands, found {}", region.params.len(), operands.len()));
        }
        for (&operand, &param) in operands.iter().zip(&region.params) {
            if self.ty(operand) != region.ty(param) {
                return Err(format!(
                    "kernel `{kernel}` takes {} as `{}`, found {}",
                    region.ty(param),
                    region.value(param).name,
                    self.ty(operand)
                ));
            }
        }
        region.name = kernel;
        let types = region.results.iter().map(|&r| region.ty(r).clone()).collect();
        Ok(self.push_node(op, operands, types, names, origin, vec![region]))
    }

    /// Adds a loop or a branch with its regions, which take its name, and with results of these types.
    ///
    /// # Errors
    /// When the regions or the types do not fit, in a sentence of [`crate::region::check`].
    pub fn add_control(
        &mut self,
        op: Op,
        mut regions: Vec<Graph>,
        operands: &[ValueId],
        types: Vec<TensorType>,
        names: &[&str],
        origin: Vec<Arc<str>>,
    ) -> Result<Vec<ValueId>, String> {
        if let Op::repeat { name, .. } | Op::branch { name, .. } = &op {
            regions.iter_mut().for_each(|region| region.name = name.to_string());
        }
        let given: Vec<&TensorType> = operands.iter().map(|&v| self.ty(v)).collect();
        crate::region::check(&op, &given, &regions.iter().collect::<Vec<_>>(), &types.iter().collect::<Vec<_>>())?;
        Ok(self.push_node(op, operands, types, names, origin, regions))
    }

    fn push_node(
        &mut self,
        op: Op,
        operands: &[ValueId],
        types: Vec<TensorType>,
        names: &[&str],
        origin: Vec<Arc<str>>,
        regions: Vec<Graph>,
    ) -> Vec<ValueId> {
        let id = NodeId::at(self.nodes.len());
        let first = names.first().copied().filter(|n| !n.is_empty()).unwrap_or(op.name()).to_string();
        let mut results = vec![];
        for (i, ty) in types.into_iter().enumerate() {
            let name = match names.get(i) {
                Some(name) if !name.is_empty() => name.to_string(),
                _ if i == 0 => first.clone(),
                _ => format!("{first}.{i}"),
            };
            results.push(self.add_value(&name, ty, Def::Node(id, i)));
        }
        operands.iter().for_each(|v| self.readers[v.index()].push(id));
        let mut regions = regions.into_iter().map(Arc::new);
        let (region, otherwise) = (regions.next(), regions.next());
        self.nodes.push(Node { op, operands: operands.to_vec(), results: results.clone(), origin, region, otherwise });
        results
    }

    /// Makes `value` a result, leaving the graph under `name`.
    pub fn add_result(&mut self, value: ValueId, name: &str) {
        self.results.push(value);
        self.result_names.push(name.into());
    }

    fn add_value(&mut self, name: &str, ty: TensorType, def: Def) -> ValueId {
        let name = self.fresh_name(name);
        self.names.insert(name.clone());
        self.values.push(Value { name, ty, def });
        self.readers.push(vec![]);
        ValueId(self.values.len() as u32 - 1)
    }

    /// Gives a value another name; if that is taken, the first free one of `name.1`, `name.2` ...
    pub fn rename(&mut self, value: ValueId, name: &str) {
        self.names.remove(&self.values[value.index()].name);
        let name = self.fresh_name(name);
        self.names.insert(name.clone());
        self.values[value.index()].name = name;
    }

    /// `name`, or `name.1`, `name.2` ... if it is taken.
    fn fresh_name(&self, name: &str) -> Arc<str> {
        if !self.names.contains(name) {
            return name.into();
        }
        (1..).map(|i| format!("{name}.{i}")).find(|n| !self.names.contains(n.as_str())).expect("endless").into()
    }

    /// Sets the origin of a node.
    pub fn set_origin(&mut self, node: NodeId, origin: Vec<Arc<str>>) {
        self.nodes[node.index()].origin = origin;
    }

    /// The same graph with symbols replaced by numbers, types inferred anew.
    ///
    /// # Errors
    /// When a number does not fit, in a sentence that names the value.
    pub fn bind(&self, bindings: &Bindings) -> Result<Graph, String> {
        let mut copy = Copy::new(self, |ty| ty.bind(bindings));
        for node in &self.nodes {
            let op = bind_op(&node.op, bindings)?;
            copy.node_with(node, op, |region| region.bind(bindings))?;
        }
        Ok(copy.finish())
    }

    /// The same graph with constants in place of some parameters.
    ///
    /// # Errors
    /// When there is no parameter of a name, or the data is not of its type, in a sentence.
    pub fn freeze(&self, values: &BTreeMap<Arc<str>, Tensor>) -> Result<Graph, String> {
        for (name, tensor) in values {
            let param = self.params.iter().find(|&&p| self.value(p).name == *name);
            let ty = self.ty(*param.ok_or_else(|| format!("the graph has no parameter `{name}`"))?);
            if *ty != tensor.ty() {
                return Err(format!("the parameter `{name}` is {ty}, found {} for it", tensor.ty()));
            }
        }
        let mut new = Graph::new(self.name.clone());
        let mut map = HashMap::new();
        for &param in &self.params {
            let name = &self.value(param).name;
            let value = match values.get(name) {
                Some(data) => new.add_const(name, Arc::new(data.clone())),
                None => new.add_param(name, self.ty(param).clone()),
            };
            map.insert(param, value);
        }
        let mut copy = Copy::over(self, new, map);
        for node in &self.nodes {
            copy.node(node)?;
        }
        Ok(copy.finish())
    }
}

/// The parts of a graph, for tests that break it.
#[cfg(test)]
pub(crate) struct Raw<'a> {
    pub params: &'a mut Vec<ValueId>,
    pub nodes: &'a mut Vec<Node>,
    pub values: &'a mut Vec<Value>,
}

#[cfg(test)]
impl Graph {
    pub(crate) fn raw(&mut self) -> Raw<'_> {
        Raw { params: &mut self.params, nodes: &mut self.nodes, values: &mut self.values }
    }
}

/// The op with symbols in its attributes replaced.
pub(crate) fn bind_op(op: &Op, bindings: &Bindings) -> Result<Op, String> {
    use crate::attr::Attr;
    let bind = |attr| match attr {
        Attr::Dim(d) => Attr::Dim(d.bind(bindings)),
        Attr::Dims(d) => Attr::Dims(d.iter().map(|d| d.bind(bindings)).collect()),
        other => other,
    };
    op.def().build(&op.attrs().into_iter().map(bind).collect::<Vec<_>>())
}

/// Rebuilds a graph node by node: the frame of every pass. Parameters and constants are carried over as they are read;
/// unread constants are left behind.
pub struct Copy<'a> {
    /// The graph that is read.
    pub old: &'a Graph,
    /// The graph that is built.
    pub new: Graph,
    map: HashMap<ValueId, ValueId>,
    /// The new type of a result that is not inferred.
    ty: Box<dyn Fn(&TensorType) -> TensorType + 'a>,
}

impl<'a> Copy<'a> {
    /// A copy of nothing but the parameters, their types mapped by `ty`.
    pub fn new(old: &'a Graph, ty: impl Fn(&TensorType) -> TensorType + 'a) -> Copy<'a> {
        let mut new = Graph::new(old.name.clone());
        let map = old.params.iter().map(|&p| (p, new.add_param(&old.value(p).name, ty(old.ty(p))))).collect();
        Copy { old, new, map, ty: Box::new(ty) }
    }

    /// A copy whose parameters are made already: `map` has what stands for each of the old ones in `new`.
    pub fn over(old: &'a Graph, new: Graph, map: HashMap<ValueId, ValueId>) -> Copy<'a> {
        Copy { old, new, map, ty: Box::new(TensorType::clone) }
    }

    /// The new value that stands for an old one; a constant is copied when it is first asked for.
    ///
    /// # Panics
    /// When the old value's node has not been copied yet.
    pub fn value(&mut self, old: ValueId) -> ValueId {
        if let Some(&new) = self.map.get(&old) {
            return new;
        }
        let value = self.old.value(old);
        let Def::Const(tensor, source) = &value.def else { panic!("`{}` is read before it is made", value.name) };
        let new = self.new.add_const_from(&value.name, tensor.clone(), source.clone());
        self.map.insert(old, new);
        new
    }

    /// The new values of several old ones.
    pub fn values(&mut self, old: &[ValueId]) -> Vec<ValueId> {
        old.iter().map(|&v| self.value(v)).collect()
    }

    /// Whether an old value has a new one already.
    pub fn has(&self, old: ValueId) -> bool {
        self.map.contains_key(&old)
    }

    /// Makes `new` stand for `old` from now on.
    pub fn set(&mut self, old: ValueId, new: ValueId) {
        self.map.insert(old, new);
    }

    /// Copies a node as it is.
    ///
    /// # Errors
    /// When its operands no longer fit.
    pub fn node(&mut self, node: &Node) -> Result<(), String> {
        self.node_as(node, node.op.clone())
    }

    /// Copies a node with another op.
    ///
    /// # Errors
    /// When its operands do not fit.
    pub fn node_as(&mut self, node: &Node, op: Op) -> Result<(), String> {
        self.node_with(node, op, |region| Ok(region.clone()))
    }

    /// Copies a node with another op, and what `map` makes of its regions.
    ///
    /// # Errors
    /// When its operands do not fit, and those of `map`.
    pub fn node_with(&mut self, node: &Node, op: Op, map: impl Fn(&Graph) -> Result<Graph, String>) -> Result<(), String> {
        let operands = self.values(&node.operands);
        let names: Vec<Arc<str>> = node.results.iter().map(|&r| self.old.value(r).name.clone()).collect();
        let names: Vec<&str> = names.iter().map(|n| &**n).collect();
        let mut regions = node.regions().map(|region| map(region)).collect::<Result<Vec<Graph>, String>>()?;
        let origin = node.origin.clone();
        let results = match regions.len() {
            0 => self.new.add_node(op, &operands, &names, origin),
            1 if !op.is_control() => self.new.add_region(op, regions.remove(0), &operands, &names, origin),
            _ => {
                let types = node.results.iter().map(|&r| (self.ty)(self.old.ty(r))).collect();
                self.new.add_control(op, regions, &operands, types, &names, origin)
            }
        };
        let results = results.map_err(|e| format!("{}: {e}", names.first().unwrap_or(&"a node without results")))?;
        node.results.iter().zip(results).for_each(|(&old, new)| self.set(old, new));
        Ok(())
    }

    /// The new graph, with the old one's results.
    pub fn finish(mut self) -> Graph {
        for i in 0..self.old.results.len() {
            let new = self.value(self.old.results[i]);
            let name = self.old.result_names[i].clone();
            self.new.add_result(new, &name);
        }
        self.new
    }
}
