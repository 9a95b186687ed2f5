//! `kernel`: a group of nodes. Its meaning is the node's region, which the op alone does not have: a graph takes the types
//! from it in [`crate::Graph::add_kernel`], and [`crate::eval`] evaluates it.

use crate::op::Inferred;
use crate::tensor::Tensor;
use crate::ty::TensorType;
use std::sync::Arc;

/// Not without the region.
///
/// # Errors
/// Always.
pub fn infer(name: &Arc<str>, _operands: &[&TensorType]) -> Inferred {
    Err(format!("expects a region, found the kernel `{name}` without one"))
}

/// Not without the region.
///
/// # Errors
/// Always.
pub fn eval(name: &Arc<str>, _operands: &[&Tensor], _results: &[TensorType]) -> Result<Vec<Tensor>, String> {
    Err(format!("expects a region, found the kernel `{name}` without one"))
}
