//! Reductions and windows: folds over the inner loops, which become variables of the kernel.
//!
//! The first fold of a kernel asks for its inner loops; every other one has to run over as many points of them, at the same
//! place of the outer loops, or goes to memory.
//!
//! ```text
//! y = reduce_sum[axes=[1]](x),  x: f32[3, 4]
//! y at [i, 0]  =  v0,  where v0 = sum over j in 4 of x at [i, j]
//! ```

use super::domain::delinear;
use super::exprs::{bin, cast, index, select, un};
use super::value::{Build, Stop, Valued};
use crate::kernel::{Expr, ExprKind, Fold};
use egret_ir::attr::Layout;
use egret_ir::scalar::{BinOp, UnOp};
use egret_ir::{DType, Dim, Node, Op, Reduction, ValueId};
use std::sync::Arc;

/// A fold over the inner loops.
pub struct Folded {
    /// Stands for the result.
    pub var: Arc<str>,
    /// The value it belongs to.
    pub node: ValueId,
    /// Where that value is asked for, its reduced axes left out.
    pub at: Vec<Dim>,
    /// How elements combine.
    pub fold: Fold,
    /// The element.
    pub value: Expr,
}

impl Build<'_> {
    /// The indices along axes of these extents that `value` folds over; `None` if there is but one point.
    pub fn inner(&self, value: ValueId, extents: &[Dim]) -> Result<Option<Vec<Dim>>, Stop> {
        let wanted: Vec<Dim> = extents.iter().filter(|d| !d.is(1)).cloned().collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let Some(reduced) = &self.domain.reduced else { return Err(Stop::Reduce(wanted)) };
        let mut found = if reduced.extents == wanted {
            reduced.index.clone()
        } else if reduced.extents.iter().cloned().product::<Dim>() == wanted.iter().cloned().product() {
            let position = super::domain::linear(&reduced.extents, &reduced.index);
            delinear(&wanted, &self.ranges.simplify(&position), &self.ranges)
        } else {
            return Err(Stop::Materialise(value));
        }
        .into_iter();
        Ok(Some(extents.iter().map(|d| if d.is(1) { Dim::ZERO } else { found.next().unwrap_or(Dim::ZERO) }).collect()))
    }

    /// Whether an index depends on the outer loops only.
    pub fn is_outer(&self, at: &[Dim]) -> bool {
        at.iter().all(|d| !self.ranges.mentions_read(d) && !self.domain.axes(true).any(|a| d.mentions(&a.name)))
    }

    /// What a fold runs over, at one of its points.
    pub fn element(&mut self, x: ValueId, at: &[Dim]) -> Valued {
        let before = std::mem::replace(&mut self.in_element, true);
        let element = self.value(x, at);
        self.in_element = before;
        element
    }

    /// A new fold, as a variable.
    pub fn fold(&mut self, node: ValueId, at: Vec<Dim>, fold: Fold, value: Expr) -> Valued {
        if self.product.is_some() || self.attention.is_some() || self.in_memory || !self.is_outer(&at) {
            return Err(Stop::Materialise(node));
        }
        let var: Arc<str> = Arc::from(format!("%v{}", self.folds.len()));
        let dtype = value.dtype;
        self.folds.push(Folded { var: var.clone(), node, at, fold, value });
        Ok(Expr::new(dtype, ExprKind::Var(var)))
    }

    /// A fold in `f32` for the floats narrower than that, as the variable's own type.
    fn wide_fold(&mut self, node: ValueId, at: Vec<Dim>, fold: Fold, value: Expr, finish: impl FnOnce(&Expr) -> Expr) -> Valued {
        let dtype = value.dtype;
        let folded = self.fold(node, at, fold, cast(&value, wide(dtype)))?;
        Ok(cast(&finish(&folded), dtype))
    }

    /// A reduction over axes that stay with extent 1.
    pub fn reduction(&mut self, value: ValueId, reduction: Reduction, axes: &[usize], x: ValueId, at: &[Dim]) -> Valued {
        let extents: Vec<Dim> = axes.iter().map(|&a| self.ty(x).dims[a].clone()).collect();
        let Some(inner) = self.inner(value, &extents)? else { return self.value(x, at) };
        let element = self.element(x, &with(at, axes, &inner))?;
        let fold = match reduction {
            Reduction::Sum | Reduction::Mean => Fold::Sum,
            Reduction::Max => Fold::Max,
            Reduction::Min => Fold::Min,
            Reduction::Prod => Fold::Prod,
        };
        let count: Dim = extents.into_iter().product();
        self.wide_fold(value, with(at, axes, &vec![Dim::ZERO; axes.len()]), fold, element, |v| match reduction {
            Reduction::Mean => over_count(v, &count),
            Reduction::Sum | Reduction::Max | Reduction::Min | Reduction::Prod => v.clone(),
        })
    }

    /// The position of the largest or smallest: the first, or last, of those that equal it.
    pub fn arg(&mut self, value: ValueId, axis: usize, last: bool, largest: bool, x: ValueId, at: &[Dim]) -> Valued {
        let extent = self.ty(x).dims[axis].clone();
        let Some(inner) = self.inner(value, std::slice::from_ref(&extent))? else { return Ok(Expr::literal(0.0, DType::I64)) };
        let point = with(at, &[axis], &inner);
        let outer = with(at, &[axis], &[Dim::ZERO]);
        let element = self.element(x, &point)?;
        let best = self.fold(value, outer.clone(), if largest { Fold::Max } else { Fold::Min }, element.clone())?;
        let mut is_it = bin(BinOp::Eq, &element, &best);
        if element.dtype.is_float() {
            // The best is NaN if any element is, and then that one is looked for.
            is_it = bin(BinOp::Or, &is_it, &un(UnOp::IsNan, &element, DType::Bool));
        }
        let here = index(&inner[0], DType::I64);
        let nowhere = if last { Expr::literal(-1.0, DType::I64) } else { index(&extent, DType::I64) };
        self.fold(value, outer, if last { Fold::Max } else { Fold::Min }, select(&is_it, &here, &nowhere))
    }

    /// The largest or the mean of each window.
    pub fn pool(&mut self, value: ValueId, node: &Node, at: &[Dim]) -> Valued {
        let (Op::max_pool { kernel, stride, pad, dilation, ceil, layout }
        | Op::avg_pool { kernel, stride, pad, dilation, ceil, layout, .. }) = &node.op
        else {
            return Err(Stop::Fail(value, "it is no pool".to_string()));
        };
        if *ceil || pad.iter().any(|&p| p != 0) {
            return Err(Stop::Fail(value, "expects a pool whose padding has been made explicit".to_string()));
        }
        let extents: Vec<Dim> = kernel.iter().map(|&k| Dim::from(k)).collect();
        let first = if *layout == Layout::First { 2 } else { 1 };
        let position = |taps: &[Dim]| {
            let mut index = at.to_vec();
            for (i, tap) in taps.iter().enumerate() {
                index[first + i] = index[first + i].clone() * stride[i] as i64 + tap.clone() * dilation[i] as i64;
            }
            index
        };
        let taps = self.inner(value, &extents)?;
        let element = self.element(node.operands[0], &position(&taps.clone().unwrap_or(vec![Dim::ZERO; kernel.len()])))?;
        if taps.is_none() {
            return Ok(element);
        }
        match node.op {
            Op::max_pool { .. } => self.wide_fold(value, at.to_vec(), Fold::Max, element, Expr::clone),
            _ => self.wide_fold(value, at.to_vec(), Fold::Sum, element, |v| over_count(v, &extents.iter().cloned().product())),
        }
    }
}

/// The type in which a fold over elements of `dtype` runs.
pub fn wide(dtype: DType) -> DType {
    dtype.wide()
}

/// A sum divided by how many elements it has.
fn over_count(sum: &Expr, count: &Dim) -> Expr {
    let count = match count.as_const() {
        Some(n) => Expr::literal(n as f64, sum.dtype),
        None => index(count, sum.dtype),
    };
    bin(BinOp::Div, sum, &count)
}

/// An index with other entries on some axes.
fn with(at: &[Dim], axes: &[usize], entries: &[Dim]) -> Vec<Dim> {
    let mut index = at.to_vec();
    axes.iter().zip(entries).for_each(|(&axis, entry)| index[axis] = entry.clone());
    index
}
