//! Chooses how convolutions are computed.
//!
//! A 3x3 convolution of stride 1 by Winograd's F(4x4, 3x3) takes 36 multiplications for 16 outputs, where the direct form takes
//! 144, and pays with transforms of the input and the output, and with weights four times as large. So it is chosen where there
//! are enough input channels to make the transforms small, and enough outputs for the weights.
//!
//! ```text
//! c = conv[stride=[1, 1], ..., layout=last](x, w)      x: f32[1, 58, 58, 64], w: f32[3, 3, 64, 64], a constant
//! =>
//! c = conv[stride=[1, 1], ..., layout=last, algorithm=winograd](x, w)
//! ```
//!
//! **Invariant.** Nothing but the attribute changes. Convolutions with extents that are not known stay direct, except for the number
//! of images.

use crate::pass::Context;
use egret_ir::attr::{Algorithm, Layout};
use egret_ir::{Copy, DType, Graph, Node, Op, TensorType};

/// With fewer output rows or columns than this, the weights, which are read once for every image, are what takes the time.
/// Measured with weights that come from memory: 3 times as fast as direct at 14 rows, equal at 7.
const FEWEST_ROWS: i64 = 8;

/// With fewer input channels than this, the transforms take as long as the products save. Measured at 14 to 112 rows and 4 to
/// 64 output channels: 0.9 to 2 times the time of the direct form with 3 and 4 input channels, 0.5 to 0.9 with 8, 0.3 to 0.65
/// with 16 and more.
const FEWEST_CHANNELS: i64 = 8;

/// The pass; see the module.
///
/// # Errors
/// None: the attribute changes no type.
pub fn algorithm(graph: &Graph, context: &Context) -> Result<Graph, String> {
    let mut copy = Copy::new(graph, TensorType::clone);
    for node in graph.nodes() {
        match &node.op {
            Op::conv { .. } if !context.exact_conv && suits_winograd(graph, node) => {
                let mut op = node.op.clone();
                if let Op::conv { algorithm, .. } = &mut op {
                    *algorithm = Algorithm::Winograd;
                }
                copy.node_as(node, op)?;
            }
            _ => copy.node(node)?,
        }
    }
    Ok(copy.finish())
}

fn suits_winograd(graph: &Graph, node: &Node) -> bool {
    let Op::conv { stride, pad, dilation, group: 1, layout: Layout::Last, .. } = &node.op else { return false };
    let of_ones = |list: &[usize]| list == [1, 1];
    let (result, weights) = (graph.ty(node.results[0]), graph.ty(node.operands[1]));
    let at_least = |ty: &TensorType, axis: usize, least: i64| ty.dims[axis].as_const().is_some_and(|n| n >= least);
    of_ones(stride)
        && of_ones(dilation)
        && pad.iter().all(|&p| p == 0)
        && result.dtype == DType::F32
        && graph.constant(node.operands[1]).is_some()
        && weights.dims[..2].iter().all(|d| d.is(3))
        && (1..3).all(|axis| at_least(result, axis, FEWEST_ROWS))
        && at_least(weights, 2, FEWEST_CHANNELS)
}
