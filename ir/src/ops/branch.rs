//! `branch`: a branch. Its meaning lies in the node's regions, which the op alone does not have: see [`crate::region`].

use crate::dim::Dim;
use crate::op::Inferred;
use crate::tensor::Tensor;
use crate::ty::TensorType;
use std::sync::Arc;

/// Not without the regions.
///
/// # Errors
/// Always.
pub fn infer(name: &Arc<str>, _found: &[Dim], _operands: &[&TensorType]) -> Inferred {
    Err(format!("expects a region, found `{name}` without one"))
}

/// Not without the regions.
///
/// # Errors
/// Always.
pub fn eval(name: &Arc<str>, _found: &[Dim], _operands: &[&Tensor], _results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    Err(format!("expects a region, found `{name}` without one"))
}
