//! Which value a name stands for, in the main graph, in branches and in function bodies.

use egret_ir::ValueId;
use onnx_protobuf::{AttributeProto, OperatorSetIdProto, TensorProto};
use std::collections::HashMap;
use std::sync::Arc;

/// What an input of a node stands for, or an output.
#[derive(Clone, PartialEq)]
pub(crate) enum Operand {
    /// It was left out, or is an optional that is empty.
    Nothing,
    Tensor(ValueId),
    /// A sequence.
    List(Vec<ValueId>),
}

impl Operand {
    pub(crate) fn tensor(&self) -> Option<ValueId> {
        if let Operand::Tensor(value) = self { Some(*value) } else { None }
    }

    /// Its tensors.
    pub(crate) fn values(&self) -> &[ValueId] {
        match self {
            Operand::Nothing => &[],
            Operand::Tensor(value) => std::slice::from_ref(value),
            Operand::List(values) => values,
        }
    }

    /// The same with other tensors.
    pub(crate) fn map(&self, mut other: impl FnMut(ValueId) -> ValueId) -> Operand {
        match self {
            Operand::Nothing => Operand::Nothing,
            Operand::Tensor(value) => Operand::Tensor(other(*value)),
            Operand::List(values) => Operand::List(values.iter().copied().map(other).collect()),
        }
    }

    /// Whether both are the same but for their tensors.
    pub(crate) fn is_like(&self, other: &Operand) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other) && self.values().len() == other.values().len()
    }
}

impl std::fmt::Display for Operand {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Operand::Nothing => write!(f, "nothing"),
            Operand::Tensor(_) => write!(f, "a tensor"),
            Operand::List(values) => write!(f, "a sequence of {}", crate::error::counted(values.len(), "tensor")),
        }
    }
}

/// What a name stands for.
#[derive(Clone)]
pub(crate) enum Binding<'m> {
    /// Values of the graph, or none of them.
    Is(Operand),
    /// A constant that becomes a value when it is first read.
    Initializer(&'m TensorProto),
    /// The result of a node that could not be imported, which has been reported.
    Broken,
    /// An output that the importer of its node does not provide; holds the node's label and operator.
    NotProvided(String),
}

/// The names of one graph or function body.
#[derive(Default)]
pub(crate) struct Scope<'m> {
    /// What each name stands for.
    pub(crate) names: HashMap<&'m str, Binding<'m>>,
    /// What names of values and nodes start with in the IR: empty for the main graph.
    pub(crate) prefix: String,
    /// Names in the IR for results that have a name outside of this scope.
    pub(crate) outer_names: HashMap<&'m str, (Arc<str>, bool)>,
    /// Whether names of the scopes around are invisible, as in a function.
    pub(crate) closed: bool,
    /// The values of the attributes of the function whose body this is, or lies in.
    pub(crate) attributes: HashMap<&'m str, &'m AttributeProto>,
    /// The version of each operator set, by domain.
    pub(crate) opsets: HashMap<&'m str, i64>,
    /// How many regions are open around its values.
    pub(crate) depth: usize,
}

/// The scopes from the outermost to the current one.
#[derive(Default)]
pub(crate) struct Scopes<'m>(Vec<Scope<'m>>);

impl<'m> Scopes<'m> {
    pub(crate) fn push(&mut self, scope: Scope<'m>) {
        self.0.push(scope);
    }

    pub(crate) fn pop(&mut self) {
        self.0.pop();
    }

    pub(crate) fn depth(&self) -> usize {
        self.0.len()
    }

    /// The current scope.
    pub(crate) fn top(&self) -> &Scope<'m> {
        self.0.last().expect("the main graph's scope is never popped")
    }

    /// The current scope.
    pub(crate) fn top_mut(&mut self) -> &mut Scope<'m> {
        self.0.last_mut().expect("the main graph's scope is never popped")
    }

    /// What a name stands for here, and how many regions are open around that.
    pub(crate) fn find(&self, name: &str) -> Option<(&Binding<'m>, usize)> {
        self.visible().find_map(|i| Some((self.0[i].names.get(name)?, self.0[i].depth)))
    }

    /// Says what a name stands for in the region that is open, for all scopes in it.
    pub(crate) fn bind_in_region(&mut self, name: &'m str, binding: Binding<'m>) {
        let depth = self.top().depth;
        if let Some(scope) = self.0.iter_mut().find(|scope| scope.depth == depth) {
            scope.names.insert(name, binding);
        }
    }

    /// Replaces what a name stands for, where it is defined.
    pub(crate) fn replace(&mut self, name: &'m str, binding: Binding<'m>) {
        let place = self.visible().find(|&i| self.0[i].names.contains_key(name));
        let scope = place.unwrap_or(self.0.len() - 1);
        self.0[scope].names.insert(name, binding);
    }

    /// All names that can be read here.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.visible().flat_map(|i| self.0[i].names.keys().copied())
    }

    /// The scopes whose names can be read, innermost first.
    fn visible(&self) -> impl Iterator<Item = usize> + use<'m> {
        let floor = self.0.iter().rposition(|s| s.closed).unwrap_or(0);
        (floor..self.0.len()).rev()
    }

    /// The name that a value of the current scope gets in the IR, and whether it is reserved for it.
    pub(crate) fn ir_name(&self, name: &str) -> (Arc<str>, bool) {
        let scope = self.top();
        match scope.outer_names.get(name) {
            Some(outer) => outer.clone(),
            None => (format!("{}{name}", scope.prefix).into(), scope.prefix.is_empty()),
        }
    }
}

/// The versions of operator sets by domain; `ai.onnx` is another name of the standard domain.
pub(crate) fn opsets(imports: &[OperatorSetIdProto]) -> HashMap<&str, i64> {
    imports.iter().map(|o| (domain(&o.domain), o.version)).collect()
}

/// The domain, which is empty for the standard one.
pub(crate) fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}
