//! Builds the graph: names for its values, and what is known of their contents.
//!
//! An importer turns one ONNX node into several of the IR. Only the values that ONNX names keep a name from the model; the
//! others are named after the node's first output and their op: `y`, `y.matmul`, `y.transpose`.
//!
//! Invariant: the name of an ONNX value of the main graph is given to no other value.

use crate::error::Code;
use crate::scope::Operand;
use crate::site::{Fault, Stop, dim_help};
use egret_ir::{DType, Def, Dim, Element, Graph, Known, Op, Tensor, TensorType, ValueId, known};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

mod region;

pub(crate) use region::Region;
use region::{Captures, Frame};

/// Tensors up to this many elements are computed at import when their operands are known, since a shape may depend on
/// them; larger ones (and most of these) are left to constant folding. The longest list that exporters compute shapes
/// with has a few dozen elements.
const SMALL: usize = 256;

/// A graph in the making.
pub(crate) struct Builder {
    pub(crate) graph: Graph,
    /// Names that are given away or reserved for ONNX values, with the number to try next for a name like it.
    names: HashMap<Arc<str>, usize>,
    /// The ONNX node that is being imported.
    origin: Vec<Arc<str>>,
    /// What names of intermediate values start with.
    stem: String,
    /// Values from this index on were made for the current node.
    fresh_from: usize,
    /// Values that have got their ONNX name.
    named: HashSet<ValueId>,
    /// Names of extents that data decides.
    found: BTreeSet<Arc<str>>,
    /// Names of extents of the graphs around.
    around: BTreeSet<Arc<str>>,
    known: HashMap<ValueId, Known>,
    small: HashMap<ValueId, Arc<Tensor>>,
    /// What the graph has of that around it, if it is a region.
    captures: Captures,
    /// The graphs around, the main one first.
    outer: Vec<Frame>,
    /// The names that were given away since a region was opened, with what stood there before.
    journal: Vec<(Arc<str>, Option<usize>)>,
    /// Loops and branches so far.
    controls: usize,
    /// Nodes that draw random numbers so far.
    draws: u64,
    /// The steps of the loops whose bodies are being imported, each with how many regions are open around it.
    turns: Vec<(Turn, usize)>,
}

/// The step of a loop.
#[derive(Clone, Copy)]
pub(crate) enum Turn {
    /// One of a loop that is unrolled.
    Known(i64),
    /// Any: the number of the step, i64[].
    Run(ValueId),
}

impl Builder {
    /// An empty graph; no value made on the way takes one of the `reserved` names.
    pub(crate) fn new(name: &str, reserved: impl Iterator<Item = Arc<str>>) -> Builder {
        Builder {
            graph: Graph::new(name),
            names: reserved.map(|name| (name, 1)).collect(),
            origin: vec![],
            stem: String::new(),
            fresh_from: 0,
            named: HashSet::new(),
            found: BTreeSet::new(),
            around: BTreeSet::new(),
            known: HashMap::new(),
            small: HashMap::new(),
            captures: Captures::default(),
            outer: vec![],
            journal: vec![],
            controls: 0,
            draws: 0,
            turns: vec![],
        }
    }

    /// From now on nodes belong to this ONNX node.
    pub(crate) fn start_node(&mut self, origin: &str, stem: &str) {
        self.origin = vec![origin.into()];
        self.stem = stem.to_string();
        self.fresh_from = self.graph.values().len();
    }

    /// Gives a value that was made for the current node the name it has in ONNX; others keep theirs.
    fn name_output(&mut self, value: ValueId, name: &str, reserved: bool) {
        if value.index() < self.fresh_from || !self.named.insert(value) {
            return;
        }
        let name = if reserved { name.into() } else { self.unique(name) };
        self.graph.rename(value, &name);
    }

    /// The same for all values of an output; those of a sequence are numbered.
    pub(crate) fn name_outputs(&mut self, output: &Operand, name: &str, reserved: bool) {
        match output {
            Operand::Tensor(value) => self.name_output(*value, name, reserved),
            Operand::Nothing | Operand::List(_) => {
                output.values().iter().enumerate().for_each(|(i, &value)| self.name_output(value, &format!("{name}.{i}"), false));
            }
        }
    }

    /// Reserves a name; false if something has it.
    pub(crate) fn reserve(&mut self, name: &str) -> bool {
        let is_free = !self.names.contains_key(name);
        if is_free {
            self.give(name.into(), 1);
        }
        is_free
    }

    /// Adds a parameter under its reserved name.
    pub(crate) fn param(&mut self, name: &str, ty: TensorType) -> ValueId {
        self.graph.add_param(name, ty)
    }

    /// Adds a constant under a name of the model.
    pub(crate) fn named_constant(&mut self, name: &str, tensor: Tensor, reserved: bool) -> ValueId {
        let name = if reserved { name.into() } else { self.unique(name) };
        self.constant_as(&name, tensor)
    }

    /// Adds a constant that the model does not name.
    pub(crate) fn constant(&mut self, tensor: Tensor) -> ValueId {
        let name = self.unique(&format!("{}.const", self.stem));
        self.constant_as(&name, tensor)
    }

    fn constant_as(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let tensor = Arc::new(tensor);
        let value = self.graph.add_const(name, tensor.clone());
        if tensor.count() <= SMALL {
            self.note(value, tensor);
        }
        value
    }

    /// Adds a node; a sentence when the operands do not fit.
    pub(crate) fn node(&mut self, op: Op, operands: &[ValueId]) -> Result<Vec<ValueId>, String> {
        let types: Vec<TensorType> = operands.iter().map(|&v| self.graph.ty(v).clone()).collect();
        let results = op.infer(&types.iter().collect::<Vec<_>>())?.len();
        let names: Vec<Arc<str>> = (0..results).map(|_| self.unique(&format!("{}.{}", self.stem, op.name()))).collect();
        let names: Vec<&str> = names.iter().map(|n| &**n).collect();
        let results = self.graph.add_node(op.clone(), operands, &names, self.origin.clone())?;
        self.learn(&op, operands, &types, &results);
        Ok(results)
    }

    /// Records what the contents of a node's results are, if they are small and known.
    fn learn(&mut self, op: &Op, operands: &[ValueId], types: &[TensorType], results: &[ValueId]) {
        let small = |v: &ValueId| self.graph.ty(*v).count().as_const().is_some_and(|n| n <= SMALL as i64);
        if !is_arithmetic(op) || !results.iter().all(small) {
            return;
        }
        let tensors: Option<Vec<&Tensor>> = operands.iter().map(|v| self.small.get(v).map(|t| &**t)).collect();
        if let Some(tensors) = tensors
            && let Ok(values) = op.eval(&tensors)
        {
            results.iter().zip(values).for_each(|(&result, value)| self.note(result, Arc::new(value)));
            return;
        }
        let contents: Vec<Option<&Known>> = operands.iter().map(|v| self.known.get(v)).collect();
        let [result] = results else { return };
        if let Some(contents) = known::eval(op, &contents, &types.iter().collect::<Vec<_>>()) {
            self.known.insert(*result, contents);
        }
    }

    fn note(&mut self, value: ValueId, tensor: Arc<Tensor>) {
        if let Some(contents) = Known::of(&tensor) {
            self.known.insert(value, contents);
        }
        self.small.insert(value, tensor);
    }

    /// The integer contents of a value, row-major, possibly symbolic.
    pub(crate) fn contents(&self, value: ValueId) -> Option<Vec<Dim>> {
        Some(self.known.get(&value)?.values.clone())
    }

    /// The contents of a value that is known to the last bit.
    pub(crate) fn tensor(&self, value: ValueId) -> Option<Arc<Tensor>> {
        self.graph.constant(value).or_else(|| self.small.get(&value)).cloned()
    }

    /// Whether a condition is known to hold, or not to.
    pub(crate) fn truth(&self, value: ValueId) -> Option<bool> {
        let known = self.tensor(value).filter(|t| t.count() == 1).map(|t| t.get(0).as_bool());
        known.or_else(|| match self.contents(value)?.as_slice() {
            [condition] => condition.as_const().map(|c| c != 0),
            _ => None,
        })
    }

    /// The fault of a value whose contents are not known: numbers for the free extents that they come from would help, and
    /// the data of the inputs that they are computed from.
    pub(crate) fn unknown(&self, code: Code, message: String, value: ValueId) -> Stop {
        let (mut open, mut seen) = (vec![value], HashSet::from([value]));
        let (mut symbols, mut data) = (BTreeSet::new(), vec![]);
        while let Some(value) = open.pop() {
            match &self.graph.value(value).def {
                Def::Param => data.push(self.graph.value(value).name.clone()),
                Def::Const(..) => {}
                Def::Node(node, _) => {
                    let node = self.graph.node(*node);
                    if let Op::dims { values } | Op::iota { shape: values, .. } = &node.op {
                        symbols.extend(values.iter().flat_map(Dim::symbols).filter(|s| !self.found.contains(s)));
                    }
                    open.extend(node.operands.iter().filter(|v| seen.insert(**v)));
                }
            }
        }
        let help = match data.first() {
            Some(input) => format!("compute it from shapes and constants only; it reads the data of the input `{input}`"),
            None => dim_help(&symbols),
        };
        Fault { code, message, attribute: None, data: data.into(), help }.into()
    }

    /// Counts a node that draws random numbers; its number, from 1.
    pub(crate) fn next_draw(&mut self) -> u64 {
        self.draws += 1;
        self.draws
    }

    /// How many nodes draw random numbers.
    pub(crate) fn draws(&self) -> u64 {
        self.draws
    }

    /// What follows belongs to a step of a loop, until [`end_turn`](Builder::end_turn).
    pub(crate) fn begin_turn(&mut self, turn: Turn) {
        self.turns.push((turn, self.depth()));
    }

    /// Ends what was begun last.
    pub(crate) fn end_turn(&mut self) {
        self.turns.pop();
    }

    /// The steps of the loops around, the outermost first.
    pub(crate) fn turns(&mut self) -> Vec<Turn> {
        let here = |builder: &mut Builder, turn, depth| match turn {
            Turn::Run(step) => Turn::Run(builder.captured(step, depth)),
            Turn::Known(_) => turn,
        };
        self.turns.clone().into_iter().map(|(turn, depth)| here(self, turn, depth)).collect()
    }

    /// A rank-0 constant.
    pub(crate) fn scalar(&mut self, value: f64, dtype: DType) -> ValueId {
        self.constant(Tensor::scalar(dtype, Element::Float(value)))
    }

    /// An extent that has to be found, named after the node; see [`fresh_symbol`](Builder::fresh_symbol).
    pub(crate) fn fresh_for_node(&mut self, what: &str) -> Dim {
        self.fresh_symbol(&format!("{}.{what}", self.stem))
    }

    /// An extent that has no number yet and that no other extent is named like.
    pub(crate) fn fresh_symbol(&mut self, name: &str) -> Dim {
        let own: Vec<Arc<str>> = self.graph.params().iter().flat_map(|&p| &self.graph.ty(p).dims).flat_map(Dim::symbols).collect();
        let mut names = std::iter::once(name.to_string()).chain((1..).map(|i| format!("{name}.{i}")));
        let free = names.find(|name| !own.iter().chain(&self.found).chain(&self.around).any(|taken| **taken == **name));
        let free: Arc<str> = free.unwrap_or_default().into();
        self.found.insert(free.clone());
        Dim::symbol(free)
    }

    /// A name that nothing has: `name`, `name.1`, ...
    fn unique(&mut self, name: &str) -> Arc<str> {
        let mut free: Arc<str> = name.into();
        while self.names.contains_key(&free) {
            let next = self.names.get(name).copied().unwrap_or(1);
            free = format!("{name}.{next}").into();
            self.give(name.into(), next + 1);
        }
        self.give(free.clone(), 1);
        free
    }

    /// Gives a name away, with the number to try next for a name like it.
    fn give(&mut self, name: Arc<str>, next: usize) {
        let before = self.names.insert(name.clone(), next);
        if self.depth() > 0 {
            self.journal.push((name, before));
        }
    }
}

/// Whether an op may take part in computing a shape. The others take time to evaluate that grows with their attributes and
/// not only with their operands, which a hostile file could use.
fn is_arithmetic(op: &Op) -> bool {
    let by_windows = matches!(op, Op::conv { .. } | Op::conv_transpose { .. } | Op::max_pool { .. } | Op::avg_pool { .. } | Op::lrn { .. });
    let by_steps = matches!(op, Op::lstm { .. } | Op::gru { .. } | Op::rnn { .. });
    !by_windows
        && !by_steps
        && !op.finds_extents()
        && !matches!(op, Op::resize { .. } | Op::attention { .. } | Op::kernel { .. } | Op::stage { .. })
}
