//! Channels that are several axes, such as those of a channel shuffle between its two reshapes.
//!
//! ```text
//! [n, c, h, w] -> [n, g, c/g, h, w] -> [n, c/g, g, h, w] -> [n, c, h, w]        as the model has it
//! [n, h, w, c] -> [n, h, w, g, c/g] -> [n, h, w, c/g, g] -> [n, h, w, c]        the twins
//! ```

use super::order::{channels_last, inverse};
use super::{Apart, Form, Forms};
use egret_ir::{Dim, Node, Op, ValueId};
use std::collections::BTreeSet;

impl Forms<'_> {
    /// The value with so many axes of channels last.
    pub(super) fn last_apart(&mut self, value: ValueId, channels: usize) -> Result<ValueId, String> {
        if let Some(apart) = self.form(value).apart.filter(|apart| apart.channels == channels) {
            return Ok(apart.value);
        }
        let first = self.first(value)?;
        let name = format!("{}.last", self.old.value(value).name);
        self.add(&name, Op::transpose { perm: channels_last(self.old.ty(value).rank(), channels) }, first, value)
    }

    /// How many axes of channels the twins of a node's operands have, if it is several.
    pub(super) fn channels_apart(&self, node: &Node) -> Option<usize> {
        let rank = self.old.ty(node.results[0]).rank();
        let of_rank = node.operands.iter().filter(|v| self.old.ty(**v).rank() == rank);
        of_rank.filter_map(|&v| self.form(v).apart).map(|apart| apart.channels).next()
    }

    /// An op that treats all axes alike, on twins.
    pub(super) fn apart(&mut self, node: &Node) -> Result<bool, String> {
        let (rank, result) = (self.old.ty(node.results[0]).rank(), node.results[0]);
        let Some(channels) = self.channels_apart(node) else { return Ok(false) };
        let operands = node.operands.iter().map(|&v| self.broadcast_last(v, rank, channels)).collect::<Result<Vec<_>, _>>()?;
        let place = |axis: &usize| inverse(&channels_last(rank, channels))[*axis];
        let op = match &node.op {
            Op::concat { axis } => Op::concat { axis: place(axis) },
            Op::layer_norm { axes, epsilon } => {
                Op::layer_norm { axes: axes.iter().map(place).collect::<BTreeSet<_>>().into_iter().collect(), epsilon: *epsilon }
            }
            op => op.clone(),
        };
        let name = self.old.value(result).name.clone();
        let value = self.new.add_node(op, &operands, &[&name], self.origin(node))?[0];
        self.set(result, Form { apart: Some(Apart { value, channels }), ..Form::default() });
        Ok(true)
    }

    /// A reshape that makes one axis of channels several, or several one, and leaves all other axes as they are.
    pub(super) fn reshape_apart(&mut self, node: &Node, shape: &[Dim]) -> Result<bool, String> {
        let (x, result) = (node.operands[0], node.results[0]);
        let (dims, form) = (&self.old.ty(x).dims, self.form(x));
        let twin = form.apart.or(form.last.map(|value| Apart { value, channels: 1 }));
        let Some(Apart { value, channels }) = twin else { return Ok(false) };
        let places = &dims[1 + channels..];
        let more = shape.len().checked_sub(1 + places.len()).filter(|&more| more > 0 && (more > 1 || channels > 1));
        let (Some(more), false) = (more, places.is_empty()) else { return Ok(false) };
        if shape[0] != dims[0] || shape[1 + more..] != *places {
            return Ok(false);
        }
        let turned = channels_last(shape.len(), more).into_iter().map(|axis| shape[axis].clone()).collect();
        let name = self.old.value(result).name.clone();
        let new = self.new.add_node(Op::reshape { shape: turned }, &[value], &[&name], self.origin(node))?[0];
        let form = match more {
            1 => Form { last: Some(new), ..Form::default() },
            channels => Form { apart: Some(Apart { value: new, channels }), ..Form::default() },
        };
        self.set(result, form);
        Ok(true)
    }

    /// A transpose of axes of channels among themselves is one of the twin; any other makes the value as it was out of the twin.
    pub(super) fn transpose_apart(&mut self, node: &Node, perm: &[usize]) -> Result<bool, String> {
        let (x, result) = (node.operands[0], node.results[0]);
        let Some(Apart { value, channels }) = self.form(x).apart else { return Ok(false) };
        let back = inverse(&channels_last(perm.len(), channels));
        let among = perm.iter().enumerate().all(|(i, &axis)| i == axis || (1..=channels).contains(&i) && (1..=channels).contains(&axis));
        let composed: Vec<usize> = match among {
            true => channels_last(perm.len(), channels).into_iter().map(|axis| back[perm[axis]]).collect(),
            false => perm.iter().map(|&axis| back[axis]).collect(),
        };
        let name = self.old.value(result).name.clone();
        let new = self.new.add_node(Op::transpose { perm: composed }, &[value], &[&name], self.origin(node))?[0];
        let form = match among {
            true => Form { apart: Some(Apart { value: new, channels }), ..Form::default() },
            false => Form { first: Some(new), ..Form::default() },
        };
        self.set(result, form);
        Ok(true)
    }
}
