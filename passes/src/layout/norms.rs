//! Norms of groups of channels where an exporter made rows of what is taken together: the order within a row makes no difference to them.
//!
//! ```text
//! [n, c, h, w] -> [n, g, c/g * h * w] -> norm -> [n, c, h, w]        as the model has it
//! [n, h, w, c] -> [n, h, w, g, c/g]   -> norm -> [n, h, w, c]        the twins
//! ```

use super::order::list_first;
use super::{Form, Forms};
use egret_ir::{Dim, Node, NodeId, Op, Real, ValueId};

impl Forms<'_> {
    /// A reshape to such rows, `[n, c, s..]` as `[n, g, c/g * s]`, and the one back.
    pub(super) fn reshape_groups(&mut self, node: &Node, shape: &[Dim]) -> Result<bool, String> {
        let form = self.form(node.operands[0]);
        let (twin, dims) = match (form.groups, form.last, shape) {
            (Some(groups), _, _) => {
                let dims = self.joined(groups);
                if list_first(&dims) != shape {
                    return Ok(false);
                }
                (groups, dims)
            }
            (None, Some(last), [n, g, _]) if self.is_left_to_norms(node) => {
                let (places, channels) = self.places_and_channels(last);
                let Some(members) = channels.exact_div(g).filter(|_| *n == self.new.ty(last).dims[0] && !places.is_empty()) else {
                    return Ok(false);
                };
                (last, [std::slice::from_ref(n), &places[..], &[g.clone(), members]].concat())
            }
            _ => return Ok(false),
        };
        let name = self.old.value(node.results[0]).name.clone();
        let new = Some(self.new.add_node(Op::reshape { shape: dims }, &[twin], &[&name], self.origin(node))?[0]);
        let back = form.groups.is_some();
        self.set(node.results[0], if back { Form { last: new, ..Form::default() } } else { Form { groups: new, ..Form::default() } });
        Ok(true)
    }

    /// Whether norms over the rows are all that reads them.
    fn is_left_to_norms(&self, node: &Node) -> bool {
        let result = node.results[0];
        let is_norm = |id: &NodeId| {
            let reader = self.old.node(*id);
            matches!(&reader.op, Op::layer_norm { axes, .. } if axes == &[2]) && reader.operands[1..].iter().all(|&v| self.is_per_group(v))
        };
        !self.old.results.contains(&result) && self.old.readers(result).iter().all(is_norm)
    }

    /// Whether it is the same for all of a row.
    fn is_per_group(&self, value: ValueId) -> bool {
        self.old.ty(value).rank() < 3 && self.old.ty(value).dims.last().is_none_or(|d| d.is(1))
    }

    /// `layer_norm` over rows, on their twin.
    pub(super) fn norm_of_groups(&mut self, node: &Node, epsilon: Real) -> Result<bool, String> {
        let Some(groups) = self.form(node.operands[0]).groups else { return Ok(false) };
        let rank = self.new.ty(groups).rank();
        let axes = (1..rank - 2).chain([rank - 1]).collect();
        let mut operands = vec![groups];
        for &value in &node.operands[1..] {
            operands.push(self.first(value)?);
        }
        let name = self.old.value(node.results[0]).name.clone();
        let new = self.new.add_node(Op::layer_norm { axes, epsilon }, &operands, &[&name], self.origin(node))?[0];
        self.set(node.results[0], Form { groups: Some(new), ..Form::default() });
        Ok(true)
    }

    /// The rows `[n, g, c/g * s]` of their twin.
    pub(super) fn ungrouped(&mut self, value: ValueId, groups: ValueId) -> Result<ValueId, String> {
        let rank = self.new.ty(groups).rank();
        let perm = [0, rank - 2, rank - 1].into_iter().chain(1..rank - 2).collect();
        let name = format!("{}.first", self.old.value(value).name);
        let apart = self.add(&name, Op::transpose { perm }, groups, value)?;
        let first = self.add(&name, Op::reshape { shape: self.old.ty(value).dims.clone() }, apart, value)?;
        self.set(value, Form { first: Some(first), ..self.form(value) });
        Ok(first)
    }

    /// The extents `[n, s.., c]` of a twin `[n, s.., g, c/g]`.
    fn joined(&self, groups: ValueId) -> Vec<Dim> {
        let dims = &self.new.ty(groups).dims;
        let (outer, channels) = dims.split_at(dims.len() - 2);
        [outer, &[channels.iter().cloned().product()]].concat()
    }

    /// The extents of a channels-last value between its batch and its channels, and those.
    fn places_and_channels(&self, last: ValueId) -> (Vec<Dim>, Dim) {
        let dims = &self.new.ty(last).dims;
        (dims[1..dims.len() - 1].to_vec(), dims[dims.len() - 1].clone())
    }
}
