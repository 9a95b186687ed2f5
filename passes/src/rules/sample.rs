//! Random well-typed instances of a rule's left side.
//!
//! An instance is made from the inside out: the first operand of an op, then the attributes (which need its rank), then
//! the other operands, each with a hint of what would fit. What does not fit in the end is thrown away by the caller, so
//! a hint only has to be right often enough.

use super::Rule;
use egret_ir::attr::{Algorithm, AttrField, Layout};
use egret_ir::expr::{AttrExpr, Expr};
use egret_ir::{Attr, DType, Dim, Element, Op, OpDef, Real, Tensor, TensorType};
use std::collections::HashMap;
use std::sync::Arc;

mod prepared;

/// What a variable stands for in an instance.
#[derive(Clone, Debug)]
pub enum Bound {
    /// An attribute.
    Attr(Attr),
    /// A tensor, and whether it is known at compile time.
    Tensor(Arc<Tensor>, bool),
}

/// The variables of an instance. A number of the left side is a variable too, under its position in the order of sampling.
#[derive(Debug, Default)]
pub struct Instance {
    /// By name.
    pub vars: HashMap<String, Bound>,
    /// The tensors that stand for numbers, in the order of the left side.
    pub numbers: Vec<Arc<Tensor>>,
    /// An extent that stands in the first tensor: numbers like `1/3` stand beside means over three elements.
    largest: usize,
}

/// What would fit in the place of a variable.
#[derive(Clone)]
enum Hint {
    /// A tensor of this rank.
    Rank(usize),
    /// What broadcasts to this type without changing it.
    Like(TensorType),
    /// This type.
    Exactly(TensorType),
}

/// Makes instances; each seed makes its own sequence.
pub struct Sampler {
    state: u64,
    dtype: DType,
    special: bool,
    instance: Instance,
}

impl Sampler {
    /// A sampler of this seed.
    pub fn new(seed: u64) -> Sampler {
        Sampler { state: seed, dtype: DType::F32, special: false, instance: Instance::default() }
    }

    /// The next instance of the left side of `rule`; `None` if an operand did not fit.
    pub fn next(&mut self, rule: &Rule) -> Option<Instance> {
        use DType::{Bool, F16, F32, F64, I8, I64, U8};
        self.dtype = self.pick(&[F32, F32, F32, F32, F32, F64, F64, F16, I64, I64, Bool, U8, I8]);
        self.special = self.chance(50) && !rule.finite;
        self.instance = Instance::default();
        self.prepare(rule.name);
        // Three axes are the fewest whose transposes do not commute.
        let rank = self.below(5).min(3);
        self.term(&rule.lhs, Hint::Rank(rank))?;
        Some(std::mem::take(&mut self.instance))
    }

    /// SplitMix64.
    fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.bits() % n.max(1) as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    // ---- terms

    /// The type of a term, its variables bound on the way.
    fn term(&mut self, expr: &Expr, hint: Hint) -> Option<TensorType> {
        match expr {
            Expr::Literal(value) => Some(self.number(value.0, &hint)),
            Expr::Var(name) => match self.instance.vars.get(name) {
                Some(Bound::Tensor(tensor, _)) => Some(tensor.ty()),
                Some(Bound::Attr(_)) => None,
                None => Some(self.variable(name, &hint)),
            },
            Expr::App { op, attrs, operands } => self.application(op, attrs, operands, hint),
        }
    }

    fn application(&mut self, def: &'static OpDef, attrs: &[AttrExpr], operands: &[Expr], hint: Hint) -> Option<TensorType> {
        let mut types = vec![];
        if let Some((first, _)) = operands.split_first() {
            let hint = self.first_hint(def, attrs, hint.clone());
            types.push(self.term(first, hint)?);
        }
        let wanted = self.attrs(def, types.first(), &hint)?;
        let attrs: Vec<Attr> = attrs.iter().zip(wanted).map(|(expr, attr)| self.bind_attr(expr, attr)).collect::<Option<_>>()?;
        let op = def.build(&attrs).ok()?;
        for operand in operands.iter().skip(1) {
            let hint = self.hint(&op, &types)?;
            types.push(self.term(operand, hint)?);
        }
        op.infer(&types.iter().collect::<Vec<_>>()).ok().map(|mut t| t.swap_remove(0))
    }

    fn bind_attr(&mut self, expr: &AttrExpr, sampled: Attr) -> Option<Attr> {
        match expr {
            AttrExpr::Value(value) => Some(value.clone()),
            AttrExpr::Call(..) => None,
            AttrExpr::Var(name) => match self.instance.vars.entry(name.clone()).or_insert(Bound::Attr(sampled)) {
                Bound::Attr(attr) => Some(attr.clone()),
                Bound::Tensor(..) => None,
            },
        }
    }

    // ---- hints

    /// What fits as the first operand, given what fits as the result.
    fn first_hint(&mut self, def: &OpDef, attrs: &[AttrExpr], result: Hint) -> Hint {
        let spread = self.below(3);
        match (def.name, result) {
            ("conv" | "conv_transpose", _) => Hint::Rank(3 + self.below(2)),
            ("attention", _) => Hint::Rank(2 + spread),
            ("matmul", Hint::Rank(_)) => Hint::Rank(if self.chance(60) { 4 } else { 1 + spread }),
            ("transpose", Hint::Like(ty)) => match self.bound_perm(attrs) {
                Some(perm) if perm.len() == ty.rank() => {
                    Hint::Like(ty.with_dims(inverse(&perm).into_iter().map(|a| ty.dims[a].clone()).collect()))
                }
                _ => Hint::Like(ty),
            },
            ("transpose", Hint::Rank(rank)) => match self.bound_perm(attrs) {
                Some(perm) => Hint::Rank(perm.len()),
                None => Hint::Rank(rank),
            },
            ("select", Hint::Like(ty) | Hint::Exactly(ty)) => Hint::Like(ty.with_dtype(DType::Bool)),
            ("select", Hint::Rank(rank)) => Hint::Exactly(TensorType::new(DType::Bool, (0..rank).map(|_| self.extent()))),
            ("softmax" | "log_softmax" | "layer_norm" | "rms_norm", Hint::Rank(0)) => Hint::Rank(1 + spread),
            (_, hint) => hint,
        }
    }

    fn bound_perm(&self, attrs: &[AttrExpr]) -> Option<Vec<usize>> {
        match attrs.first()? {
            AttrExpr::Value(attr) => Vec::from_attr(attr),
            AttrExpr::Var(name) => match self.instance.vars.get(name)? {
                Bound::Attr(attr) => Vec::from_attr(attr),
                Bound::Tensor(..) => None,
            },
            AttrExpr::Call(..) => None,
        }
    }

    /// What fits as the next operand after operands of these types.
    fn hint(&mut self, op: &Op, types: &[TensorType]) -> Option<Hint> {
        let first = types.first()?;
        Some(match op {
            Op::matmul => {
                let k = first.dims.last()?.clone();
                let mut dims = first.dims.clone();
                if dims.len() < 2 {
                    dims = vec![Dim::ONE, k.clone()];
                }
                let rank = dims.len();
                dims[rank - 2] = k;
                dims[rank - 1] = self.extent();
                let from = if self.chance(30) { rank - 2 } else { 0 };
                Hint::Exactly(first.with_dims(dims[from..].to_vec()))
            }
            Op::conv { group, layout, .. } => Hint::Exactly(self.conv_weights(first, *group, *layout)?),
            Op::conv_transpose { group, layout, .. } => Hint::Exactly(self.deconv_weights(first, *group, *layout)?),
            Op::attention { .. } => {
                let mut dims = first.dims.clone();
                let rank = dims.len();
                match types.len() {
                    1 => dims[rank - 2] = self.extent(),
                    2 => {
                        dims = types[1].dims.clone();
                        dims[rank - 1] = self.extent();
                    }
                    _ => dims[rank - 1] = types[1].dims[rank - 2].clone(),
                }
                Hint::Exactly(first.with_dims(dims))
            }
            Op::select if types.len() == 1 => Hint::Like(first.with_dtype(self.dtype)),
            Op::select => Hint::Like(types[1].clone()),
            _ => Hint::Like(first.clone()),
        })
    }

    fn conv_weights(&mut self, x: &TensorType, group: usize, layout: Layout) -> Option<TensorType> {
        let spatial = x.rank() - 2;
        let channels = usize::try_from(x.dims[if layout == Layout::First { 1 } else { x.rank() - 1 }].as_const()?).ok()?;
        let (out, input) = (group * (1 + self.below(2)), channels / group.max(1));
        let kernel: Vec<usize> = (0..spatial).map(|_| 1 + self.below(2)).collect();
        let dims = match layout {
            Layout::First => [vec![out, input], kernel].concat(),
            Layout::Last => [kernel, vec![input, out]].concat(),
        };
        Some(TensorType::new(x.dtype, dims))
    }

    fn deconv_weights(&mut self, x: &TensorType, group: usize, layout: Layout) -> Option<TensorType> {
        let weights = self.conv_weights(x, 1, layout)?;
        let mut dims = weights.dims;
        let rank = dims.len();
        // Inputs before outputs, and the outputs of one group only.
        let outputs = Dim::from(1 + self.below(2));
        match layout {
            Layout::First => (dims[0], dims[1]) = (dims[1].clone(), outputs),
            Layout::Last => dims[rank - 1] = outputs,
        }
        (group > 0).then_some(TensorType { dtype: x.dtype, dims })
    }

    // ---- tensors

    fn extent(&mut self) -> Dim {
        Dim::from(self.pick(&[0usize, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4]))
    }

    fn ty(&mut self, hint: &Hint) -> TensorType {
        match hint {
            Hint::Rank(rank) => TensorType { dtype: self.dtype, dims: (0..*rank).map(|_| self.extent()).collect() },
            Hint::Exactly(ty) => ty.clone(),
            Hint::Like(ty) => {
                let keep = self.below(4);
                let dims: Vec<Dim> = ty.dims.iter().map(|d| if keep == 0 && self.chance(70) { Dim::ONE } else { d.clone() }).collect();
                let from = if keep == 1 { self.below(ty.rank() + 1) } else { 0 };
                let mut dims = dims[from..].to_vec();
                if keep == 2 && self.chance(50) {
                    // One axis only, as the scale of a channel has.
                    let axis = self.below(dims.len());
                    dims.iter_mut().enumerate().filter(|(i, _)| *i != axis).for_each(|(_, d)| *d = Dim::ONE);
                }
                ty.with_dims(dims)
            }
        }
    }

    fn variable(&mut self, name: &str, hint: &Hint) -> TensorType {
        let ty = self.ty(hint);
        let shape = ty.static_dims().unwrap_or_default();
        let tensor = if self.chance(35) {
            let count = self.instance.largest.max(1) as f64;
            let value = if self.chance(15) { Element::Float(1.0 / count).rounded(ty.dtype) } else { self.element(ty.dtype) };
            Tensor::splat(ty.dtype, shape, value)
        } else {
            let elements: Vec<Element> = (0..shape.iter().product()).map(|_| self.element(ty.dtype)).collect();
            Tensor::from_elements(ty.dtype, shape, elements)
        };
        if self.instance.largest == 0 {
            self.instance.largest = tensor.shape().last().copied().unwrap_or(1);
        }
        let constant = self.chance(65);
        self.instance.vars.insert(name.to_string(), Bound::Tensor(Arc::new(tensor), constant));
        ty
    }

    /// A number of the rule: rank 0 mostly, and sometimes written out to some shape.
    fn number(&mut self, value: f64, hint: &Hint) -> TensorType {
        let dims = match hint {
            Hint::Like(ty) if self.chance(20) => self.ty(&Hint::Like(ty.clone())).dims,
            _ if self.chance(20) => vec![Dim::ONE; 1 + self.below(2)],
            _ => vec![],
        };
        let dtype = match hint {
            Hint::Like(ty) | Hint::Exactly(ty) => ty.dtype,
            Hint::Rank(_) => self.dtype,
        };
        let ty = TensorType { dtype, dims };
        let tensor = Tensor::splat(dtype, ty.static_dims().unwrap_or_default(), Element::Float(value));
        self.instance.numbers.push(Arc::new(tensor));
        ty
    }

    fn element(&mut self, dtype: DType) -> Element {
        let specials = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0];
        let small = self.below(9) as i128;
        match dtype {
            t if t.is_float() && self.special && self.chance(25) => Element::Float(self.pick(&specials)),
            // Half of them are exact in every float type, half use all bits.
            t if t.is_float() => {
                let coarse = self.below(129) as f64 / 16.0 - 4.0;
                let fine = if self.chance(50) { self.below(1 << 40) as f64 / 2f64.powi(44) } else { 0.0 };
                Element::Float(coarse + fine).rounded(dtype)
            }
            t if t.is_signed_int() => Element::Int(small - 4),
            DType::Bool => Element::Bool(small % 2 == 0),
            _ => Element::Int(small),
        }
    }

    // ---- attributes

    /// One value per attribute of the op, for a first operand of type `x`.
    fn attrs(&mut self, def: &OpDef, x: Option<&TensorType>, result: &Hint) -> Option<Vec<Attr>> {
        let scalar = TensorType::scalar(self.dtype);
        let x = x.unwrap_or(&scalar);
        let extents: Vec<usize> = x.static_dims()?;
        match def.name {
            "slice" => return Some(self.slice(&extents)),
            "iota" => return Some(self.iota(result)),
            "conv" | "conv_transpose" => return self.window(def.name == "conv_transpose", &extents),
            _ => {}
        }
        def.attrs.iter().map(|name| self.attr(def.name, name, &extents, result)).collect()
    }

    fn attr(&mut self, op: &str, name: &str, extents: &[usize], result: &Hint) -> Option<Attr> {
        let rank = extents.len();
        Some(match (op, name) {
            (_, "perm") => self.perm(extents).to_attr(),
            (_, "axes") if self.chance(50) && rank > 0 => vec![rank - 1].to_attr(),
            (_, "axes") => (0..rank).filter(|_| self.chance(50)).collect::<Vec<usize>>().to_attr(),
            (_, "axis") => self.below(rank).to_attr(),
            ("reshape", "shape") => self.reshape(extents).to_attr(),
            ("dims", "values") => vec![self.extent()].to_attr(),
            ("broadcast", "shape") => self.broadcast(extents, result).to_attr(),
            (_, "epsilon") => self.pick(&[Real(1e-5), Real(1e-3), Real(0.1)]).to_attr(),
            (_, "alpha" | "beta" | "gamma" | "scale") => self.pick(&[Real(0.2), Real(0.5), Real(1.0), Real(1.5)]).to_attr(),
            (_, "causal" | "interleaved" | "last" | "exclusive" | "reverse") => self.chance(50).to_attr(),
            (_, "batch") => 0usize.to_attr(),
            (_, "to") if self.chance(50) => self.pick(&[DType::F16, DType::F32, DType::F64]).to_attr(),
            (_, "to" | "dtype") => self.pick(DType::NUMBERS).to_attr(),
            _ => return None,
        })
    }

    /// Often one that moves nothing, or axes of extent 1 only.
    fn perm(&mut self, extents: &[usize]) -> Vec<usize> {
        let mut perm: Vec<usize> = (0..extents.len()).collect();
        match self.below(4) {
            0 => {}
            1 => perm.sort_by_key(|&a| extents[a] != 1),
            _ => (1..perm.len()).for_each(|i| perm.swap(i, self.below(i + 1))),
        }
        perm
    }

    /// shape, axis, element type.
    fn iota(&mut self, result: &Hint) -> Vec<Attr> {
        let ty = self.ty(result);
        let dims = if ty.rank() == 0 { vec![self.extent()] } else { ty.dims };
        let axis = self.below(dims.len());
        vec![dims.to_attr(), axis.to_attr(), self.pick(&[DType::I64, DType::I64, DType::I32, DType::F32]).to_attr()]
    }

    /// The same count: as it is, flat, with ones, without ones, with an axis of 4 split, or with neighbours joined.
    fn reshape(&mut self, extents: &[usize]) -> Vec<Dim> {
        let mut shape = extents.to_vec();
        match self.below(6) {
            0 => {}
            4 => {
                if let Some(at) = shape.iter().position(|&d| d == 4) {
                    shape.splice(at..=at, [2, 2]);
                }
            }
            1 => shape = vec![extents.iter().product()],
            2 => shape.insert(self.below(extents.len() + 1), 1),
            3 => shape.retain(|&d| d != 1),
            _ => {
                let at = self.below(shape.len().saturating_sub(1));
                if shape.len() > 1 {
                    shape[at] *= shape.remove(at + 1);
                }
            }
        }
        shape.into_iter().map(Dim::from).collect()
    }

    fn broadcast(&mut self, extents: &[usize], result: &Hint) -> Vec<Dim> {
        if let (Hint::Like(ty), true) = (result, self.chance(60)) {
            return ty.dims.clone();
        }
        let grown = extents.iter().map(|&d| if d == 1 { self.extent() } else { Dim::from(d) }).collect();
        if self.chance(25) { [vec![self.extent()], grown].concat() } else { grown }
    }

    fn slice(&mut self, extents: &[usize]) -> Vec<Attr> {
        let (mut start, mut shape, mut step) = (vec![], vec![], vec![]);
        let whole = self.chance(30);
        for &extent in extents {
            let by = self.pick(&[1i64, 1, 2, -1]);
            let from = self.below(extent.max(1));
            let room = if by > 0 { (extent.saturating_sub(from)).div_ceil(by as usize) } else { (from + 1).min(extent) };
            let count = if room == 0 { 0 } else { 1 + self.below(room) };
            let (from, count, by) = if whole { (0, extent, 1) } else { (from, count, by) };
            start.push(Dim::from(from));
            shape.push(Dim::from(count));
            step.push(by);
        }
        vec![start.to_attr(), shape.to_attr(), step.to_attr()]
    }

    /// stride, pad, dilation, (output padding,) group, layout.
    fn window(&mut self, transposed: bool, extents: &[usize]) -> Option<Vec<Attr>> {
        let axes = extents.len().checked_sub(2)?;
        let layout = self.pick(&[Layout::First, Layout::Last]);
        let channels = extents[if layout == Layout::First { 1 } else { axes + 1 }];
        let group = if self.chance(30) && channels > 0 && !transposed { channels } else { 1 };
        let stride: Vec<usize> = (0..axes).map(|_| 1 + self.below(2)).collect();
        let pad: Vec<i64> = (0..2 * axes).map(|_| self.below(2) as i64).collect();
        let dilation: Vec<usize> = (0..axes).map(|_| 1 + usize::from(self.chance(20))).collect();
        let mut attrs = vec![stride.to_attr(), pad.to_attr(), dilation.to_attr()];
        if transposed {
            attrs.push(vec![0usize; axes].to_attr());
        }
        attrs.extend([group.to_attr(), layout.to_attr()]);
        if !transposed {
            attrs.push(self.pick(&[Algorithm::Direct, Algorithm::Winograd]).to_attr());
        }
        Some(attrs)
    }
}

fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(i, &axis)| {
        if let Some(slot) = inverse.get_mut(axis) {
            *slot = i;
        }
    });
    inverse
}
