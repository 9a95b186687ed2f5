//! What a value is at an index: the heart of lowering.
//!
//! Every value of a region is a function from an index to an expression. An elementwise op applies its scalar to its
//! operands at the same index, a view asks its operand at another index, a gather reads the index from data first, and a
//! value in memory is a load at the row-major offset of the index:
//!
//! ```text
//! y = relu(transpose[perm=[1, 0]](x)),  x: f32[3, 4]
//! y at [i, j]  =  relu(x at [j, i])  =  max(x[4*j + i], 0)
//! ```
//!
//! Reductions are variables of the kernel (see [`super::fold`]), contractions are its `acc` (see [`super::product`]).
//! Where an index cannot be decided, such as which part of a concat it is in, the answer is a [`Stop`] that says how to refine
//! the domain, and lowering starts over.

use super::alone::is_alone;
use super::attention::Attention;
use super::domain::{Domain, linear};
use super::exprs::{bin, cast, index, literal, scalar, select};
use super::fold::Folded;
use super::product::Product;
use super::ranges::Ranges;
use super::{Place, Scope};
use crate::kernel::{BufferId, Expr, ExprKind, Let, Literal};
use egret_ir::attr::PadMode;
use egret_ir::scalar::{BinOp, TypedKind};
use egret_ir::{DType, Def, Dim, Kind, Node, Op, Tensor, TensorType, ValueId};
use std::collections::HashMap;
use std::sync::Arc;

/// Why a build did not come to its end.
#[derive(Debug)]
pub enum Stop {
    /// The loop has to be cut there.
    Cut(Arc<str>, Dim),
    /// The loop has to be split by the factor.
    Factor(Arc<str>, Dim),
    /// Inner loops over these extents are needed.
    Reduce(Vec<Dim>),
    /// The value cannot be part of this kernel and has to be in memory.
    Materialise(ValueId),
    /// A contraction is better done as a fold.
    AsFold(ValueId),
    /// The results cannot share one domain.
    Separate,
    /// It cannot be lowered at all: a sentence about the value.
    Fail(ValueId, String),
}

/// The expressions of one kernel, being built over a domain.
pub struct Build<'a> {
    /// What is lowered.
    pub scope: &'a Scope<'a>,
    /// The loops.
    pub domain: &'a Domain,
    /// The ranges of loops and lets.
    pub ranges: Ranges,
    /// The kernel's buffers so far.
    pub buffers: Vec<Place>,
    /// Indices read from data.
    pub lets: Vec<Let>,
    /// Reductions.
    pub folds: Vec<Folded>,
    /// The contraction, if there is one.
    pub product: Option<Product>,
    /// The attention, if there is one.
    pub attention: Option<Attention>,
    /// Whether constants are read from memory even where a literal would do: operands of contractions.
    pub in_memory: bool,
    /// Whether the element of a fold is being built.
    pub in_element: bool,
    memo: HashMap<(ValueId, Vec<Dim>), Expr>,
}

/// A value at an index.
pub type Valued = Result<Expr, Stop>;

impl<'a> Build<'a> {
    /// Nothing yet.
    pub fn new(scope: &'a Scope<'a>, domain: &'a Domain, buffers: Vec<Place>) -> Build<'a> {
        let ranges = domain.ranges();
        Build {
            scope,
            domain,
            ranges,
            buffers,
            lets: vec![],
            folds: vec![],
            product: None,
            attention: None,
            in_memory: false,
            in_element: false,
            memo: HashMap::new(),
        }
    }

    /// The type of a value.
    pub fn ty(&self, value: ValueId) -> &'a TensorType {
        self.scope.graph().ty(value)
    }

    /// The kernel's number for what lies at a place.
    pub fn buffer(&mut self, place: &Place) -> BufferId {
        let known = self.buffers.iter().position(|b| b == place);
        BufferId(known.unwrap_or_else(|| {
            self.buffers.push(place.clone());
            self.buffers.len() - 1
        }))
    }

    /// The value at an index.
    pub fn value(&mut self, value: ValueId, at: &[Dim]) -> Valued {
        let at: Vec<Dim> = at.iter().map(|d| self.ranges.simplify(d)).collect();
        if let Some(place) = self.scope.place(value) {
            return Ok(self.load(value, &place, &at));
        }
        let key = (value, at);
        if let (Some(known), false) = (self.memo.get(&key), self.in_memory) {
            return Ok(known.clone());
        }
        let Def::Node(node, _) = self.scope.graph().value(value).def else {
            return Err(Stop::Fail(value, "it is neither computed nor in memory".to_string()));
        };
        let made = self.node(value, self.scope.graph().node(node), &key.1)?;
        if !self.in_memory {
            self.memo.insert(key, made.clone());
        }
        Ok(made)
    }

    fn load(&mut self, value: ValueId, place: &Place, at: &[Dim]) -> Expr {
        let ty = self.ty(value);
        let offset = self.ranges.simplify(&linear(&ty.dims, at));
        match self.scope.constant(value).filter(|_| !self.in_memory).and_then(|t| known_element(t, &offset)) {
            Some(element) => element,
            None => Expr::new(ty.dtype, ExprKind::Load(self.buffer(place), offset)),
        }
    }

    fn node(&mut self, value: ValueId, node: &'a Node, at: &[Dim]) -> Valued {
        let x = || node.operands[0];
        match (&node.op, node.op.def().kind) {
            (op, Kind::Elementwise) => self.elementwise(value, op, &node.operands, at),
            (op, Kind::View) => {
                let index = op.view_index(&self.ty(x()).dims, &self.ty(value).dims, at).expect("a view has an index");
                self.value(x(), &index)
            }
            (op, Kind::Reduce) => {
                let (reduction, axes) = op.reduction().expect("a reduction has one");
                self.reduction(value, reduction, axes, x(), at)
            }
            (Op::arg_max { axis, last }, _) => self.arg(value, *axis, *last, true, x(), at),
            (Op::arg_min { axis, last }, _) => self.arg(value, *axis, *last, false, x(), at),
            (Op::max_pool { .. } | Op::avg_pool { .. }, _) => self.pool(value, node, at),
            (Op::matmul | Op::matmul_blocks { .. } | Op::conv { .. }, _) => self.contraction(value, node, at),
            (Op::attention { scale, causal }, _) => self.attention(value, node, scale.0, *causal, at),
            (Op::concat { axis }, _) => self.concat(value, *axis, &node.operands, at),
            (Op::pad { low, mode: PadMode::Constant, .. }, _) => self.pad(value, low, &node.operands, at),
            (Op::iota { axis, dtype, .. }, _) => Ok(index(&at[*axis], *dtype)),
            (Op::dims { values }, _) => Ok(pick(values, &at[0])),
            (Op::bit_cast { to }, _) => Ok(Expr::new(*to, ExprKind::Bits(self.value(x(), at)?))),
            (Op::gather { axis }, _) => self.gather(*axis, &node.operands, at),
            (Op::gather_elements { axis }, _) => self.gather_elements(*axis, &node.operands, at),
            (Op::gather_nd { batch }, _) => self.gather_nd(*batch, &node.operands, at),
            (op, _) if is_alone(op) => Err(Stop::Materialise(value)),
            (Op::resize { .. }, _) => self.resize(value, node, at),
            (_, Kind::Composite | Kind::Structured) => Err(Stop::Fail(value, "there is no kernel for it".to_string())),
        }
    }

    fn elementwise(&mut self, value: ValueId, op: &Op, operands: &[ValueId], at: &[Dim]) -> Valued {
        let typed = op.typed_scalar(operands.iter().map(|&v| self.ty(v).dtype)).map_err(|e| Stop::Fail(value, e))?;
        // An operand that is not used, such as the bounds of a clip that have gone, is not read.
        let mut values = vec![];
        for &operand in operands {
            let index = broadcast_index(&self.ty(operand).dims, at);
            values.push(self.value(operand, &index)?);
        }
        if let TypedKind::Arg(i) = typed.kind {
            return Ok(values[i].clone());
        }
        Ok(scalar(&typed, &values))
    }

    fn concat(&mut self, value: ValueId, axis: usize, operands: &[ValueId], at: &[Dim]) -> Valued {
        let mut start = Dim::ZERO;
        for (i, &x) in operands.iter().enumerate() {
            let end = start.clone() + self.ty(x).dims[axis].clone();
            if i + 1 == operands.len() || self.is_below(value, &at[axis], &end)? {
                let mut inside = at.to_vec();
                inside[axis] = inside[axis].clone() - start;
                return self.value(x, &inside);
            }
            start = end;
        }
        Err(Stop::Fail(value, "it joins nothing".to_string()))
    }

    fn pad(&mut self, value: ValueId, low: &[Dim], operands: &[ValueId], at: &[Dim]) -> Valued {
        let (x, border) = (operands[0], operands[1]);
        let mut inside = vec![];
        for (axis, index) in at.iter().enumerate() {
            let end = low[axis].clone() + self.ty(x).dims[axis].clone();
            if self.is_below(value, index, &low[axis])? || !self.is_below(value, index, &end)? {
                return self.value(border, &[]);
            }
            inside.push(index.clone() - low[axis].clone());
        }
        self.value(x, &inside)
    }

    /// Whether `x < end` everywhere in the domain, or nowhere; a cut where it depends.
    fn is_below(&self, value: ValueId, x: &Dim, end: &Dim) -> Result<bool, Stop> {
        if self.ranges.at_most(&(x.clone() + 1), end) {
            return Ok(true);
        }
        if self.ranges.at_most(end, x) {
            return Ok(false);
        }
        if let Some((name, by)) = self.ranges.factor(x) {
            return Err(Stop::Factor(name, by));
        }
        match self.ranges.cut(x, end) {
            Some((name, at)) => {
                let Some(axis) = self.domain.axes(false).find(|a| a.name == name) else { return Err(Stop::Materialise(value)) };
                // What holds inside of the loop need not hold where its parts are counted.
                let at = Ranges::default().held(&at, &axis.extent);
                Err(if self.domain.may_cut(&at, &axis.extent) { Stop::Cut(name, at) } else { Stop::Materialise(value) })
            }
            None => Err(Stop::Materialise(value)),
        }
    }

    fn gather(&mut self, axis: usize, operands: &[ValueId], at: &[Dim]) -> Valued {
        let (x, indices) = (operands[0], operands[1]);
        let rank = self.ty(indices).rank();
        let picked = self.value(indices, &at[axis..axis + rank])?;
        let picked = self.index_from(&picked, &self.ty(x).dims[axis].clone());
        let index = [&at[..axis], &[picked], &at[axis + rank..]].concat();
        self.value(x, &index)
    }

    fn gather_elements(&mut self, axis: usize, operands: &[ValueId], at: &[Dim]) -> Valued {
        let (x, indices) = (operands[0], operands[1]);
        let picked = self.value(indices, at)?;
        let mut index = at.to_vec();
        index[axis] = self.index_from(&picked, &self.ty(x).dims[axis].clone());
        self.value(x, &index)
    }

    fn gather_nd(&mut self, batch: usize, operands: &[ValueId], at: &[Dim]) -> Valued {
        let (x, indices) = (operands[0], operands[1]);
        let outer = self.ty(indices).rank() - 1;
        let tuple = self.ty(indices).dims[outer].as_const().unwrap_or(0);
        let mut index = at[..batch].to_vec();
        for i in 0..tuple {
            let place = [&at[..outer], &[Dim::from(i)]].concat();
            let picked = self.value(indices, &place)?;
            index.push(self.index_from(&picked, &self.ty(x).dims[batch + i as usize].clone()));
        }
        index.extend_from_slice(&at[outer..]);
        self.value(x, &index)
    }

    /// A value as an index into an axis: negative ones count from the end.
    fn index_from(&mut self, value: &Expr, extent: &Dim) -> Dim {
        let value = cast(value, DType::I64);
        if let ExprKind::Index(d) = &*value.kind
            && self.ranges.within(d, extent)
        {
            return d.clone();
        }
        if let (ExprKind::Const(Literal::Int(i)), Some(n)) = (&*value.kind, extent.as_const()) {
            return Dim::from(if *i < 0 { i.saturating_add(n) } else { *i }.clamp(0, (n - 1).max(0)));
        }
        let from_end = bin(BinOp::Add, &value, &index(extent, DType::I64));
        let negative = bin(BinOp::Lt, &value, &Expr::literal(0.0, DType::I64));
        self.bind(select(&negative, &from_end, &value), extent)
    }

    /// A value, held within `0..extent`, as a symbol for offsets.
    pub fn bind(&mut self, value: Expr, extent: &Dim) -> Dim {
        if let Some(known) = self.lets.iter().find(|l| l.value == value && l.extent == *extent) {
            return Dim::symbol(known.name.clone());
        }
        let name: Arc<str> = Arc::from(format!("%g{}", self.lets.len()));
        self.ranges.add_read(&name, extent);
        self.lets.push(Let { name: name.clone(), value, extent: extent.clone() });
        Dim::symbol(name)
    }
}

/// The index into an operand that broadcasts to the index `at`.
pub fn broadcast_index(dims: &[Dim], at: &[Dim]) -> Vec<Dim> {
    let outer = at.len() - dims.len();
    dims.iter().zip(&at[outer..]).map(|(d, i)| if d.is(1) { Dim::ZERO } else { i.clone() }).collect()
}

/// The element of a constant, where it is the same everywhere or the offset is a number.
fn known_element(tensor: &Tensor, offset: &Dim) -> Option<Expr> {
    let at = offset.as_const().and_then(|o| usize::try_from(o).ok()).filter(|&o| o < tensor.count());
    let element = at.map(|at| tensor.get(at)).or_else(|| tensor.as_splat())?;
    Some(literal(element, tensor.dtype()))
}

/// `values[at]`, as a choice.
fn pick(values: &[Dim], at: &Dim) -> Expr {
    let value = |d: &Dim| index(d, DType::I64);
    if let Some(known) = at.as_const().and_then(|i| values.get(usize::try_from(i).ok()?)) {
        return value(known);
    }
    let Some((last, before)) = values.split_last() else { return Expr::literal(0.0, DType::I64) };
    before.iter().enumerate().rev().fold(value(last), |rest, (i, v)| {
        let here = bin(BinOp::Eq, &value(at), &Expr::literal(i as f64, DType::I64));
        select(&here, &value(v), &rest)
    })
}
