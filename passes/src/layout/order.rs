//! Orders of axes: which axis of a channels-last twin holds which of the value, and ops that do to twins what they did to values.
//!
//! ```text
//! to_last(4) = [0, 2, 3, 1]      softmax[axes=[1]] of [n, c, h, w] is softmax[axes=[3]] of [n, h, w, c]
//! ```

use egret_ir::attr::Layout;
use egret_ir::{Dim, Op, Real};

/// `[n, c.., h, w] -> [n, h, w, c..]`, with so many axes of channels.
pub(super) fn channels_last(rank: usize, channels: usize) -> Vec<usize> {
    [0].into_iter().chain(1 + channels..rank).chain(1..=channels).collect()
}

pub(super) fn inverse(perm: &[usize]) -> Vec<usize> {
    (0..perm.len()).map(|axis| perm.iter().position(|&p| p == axis).unwrap_or(axis)).collect()
}

/// `[n, c, h, w] -> [n, h, w, c]`.
pub(crate) fn to_last(rank: usize) -> Vec<usize> {
    [0].into_iter().chain(2..rank).chain([1]).collect()
}

/// `[n, h, w, c] -> [n, c, h, w]`.
pub(crate) fn to_first(rank: usize) -> Vec<usize> {
    [0, rank - 1].into_iter().chain(1..rank - 1).collect()
}

pub(super) fn is_identity(perm: &[usize]) -> bool {
    perm.iter().enumerate().all(|(i, &p)| i == p)
}

/// The axis of the twin that holds this axis.
fn axis_last(axis: usize, rank: usize) -> usize {
    to_last(rank).iter().position(|&a| a == axis).unwrap_or(axis)
}

fn axes_last(axes: &[usize], rank: usize) -> Vec<usize> {
    let mut axes: Vec<usize> = axes.iter().map(|&a| axis_last(a, rank)).collect();
    axes.sort_unstable();
    axes
}

pub(super) fn list_last<T: Clone>(list: &[T]) -> Vec<T> {
    to_last(list.len()).into_iter().map(|a| list[a].clone()).collect()
}

pub(super) fn list_first<T: Clone>(list: &[T]) -> Vec<T> {
    to_first(list.len()).into_iter().map(|a| list[a].clone()).collect()
}

/// The op that does to the twins what `op` does to the values; `None` if the op cares about the order of axes in a way
/// that only it knows.
pub(super) fn permuted(op: &Op, rank: usize) -> Option<Op> {
    let lists = |d: &Vec<Dim>| list_last(d);
    Some(match op {
        op if op.is_elementwise() => op.clone(),
        Op::silu | Op::hard_swish | Op::mish | Op::gelu | Op::gelu_tanh | Op::batch_norm { .. } => op.clone(),
        Op::reduce_sum { axes } => Op::reduce_sum { axes: axes_last(axes, rank) },
        Op::reduce_mean { axes } => Op::reduce_mean { axes: axes_last(axes, rank) },
        Op::reduce_max { axes } => Op::reduce_max { axes: axes_last(axes, rank) },
        Op::reduce_min { axes } => Op::reduce_min { axes: axes_last(axes, rank) },
        Op::reduce_prod { axes } => Op::reduce_prod { axes: axes_last(axes, rank) },
        Op::arg_max { axis, last } => Op::arg_max { axis: axis_last(*axis, rank), last: *last },
        Op::arg_min { axis, last } => Op::arg_min { axis: axis_last(*axis, rank), last: *last },
        Op::softmax { axes } => Op::softmax { axes: axes_last(axes, rank) },
        Op::log_softmax { axes } => Op::log_softmax { axes: axes_last(axes, rank) },
        Op::layer_norm { axes, epsilon } => Op::layer_norm { axes: axes_last(axes, rank), epsilon: *epsilon },
        Op::rms_norm { axes, epsilon } => Op::rms_norm { axes: axes_last(axes, rank), epsilon: *epsilon },
        Op::concat { axis } => Op::concat { axis: axis_last(*axis, rank) },
        Op::pad { low, high, mode } => Op::pad { low: lists(low), high: lists(high), mode: *mode },
        Op::slice { start, shape, step } => Op::slice { start: lists(start), shape: lists(shape), step: list_last(step) },
        Op::broadcast { shape } => Op::broadcast { shape: lists(shape) },
        Op::resize { shape, scales, mode, coordinates, rounding, cubic } => Op::resize {
            shape: lists(shape),
            scales: list_last::<Real>(scales),
            mode: *mode,
            coordinates: *coordinates,
            rounding: *rounding,
            cubic: *cubic,
        },
        _ => return None,
    })
}

pub(super) fn with_layout_last(op: &Op) -> Op {
    let mut op = op.clone();
    match &mut op {
        Op::conv { layout, .. } | Op::max_pool { layout, .. } | Op::avg_pool { layout, .. } => *layout = Layout::Last,
        _ => unreachable!("called for convolutions and pools"),
    }
    op
}
