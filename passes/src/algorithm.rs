//! Chooses how convolutions are computed.
//!
//! A 3x3 convolution of stride 1 by Winograd's F(4x4, 3x3) takes 36 multiplications for 16 outputs, where the direct form takes
//! 144, and pays with transforms of the input and the output, and with weights four times as large. So it is chosen where the times of
//! both by [`mod@crate::cost`] say that it saves a fifth: it loses where the outputs are few and the weights come from memory, as in
//! the last stage of a ResNet (7x7 outputs, 512 channels), and wins there in a model whose weights stay in the caches.
//!
//! ```text
//! c = conv[stride=[1, 1], ..., layout=last](x, w)      x: f32[1, 58, 58, 64], w: f32[3, 3, 64, 64], a constant
//! =>
//! c = conv[stride=[1, 1], ..., layout=last, algorithm=winograd](x, w)
//! ```
//!
//! **Invariant.** Nothing but the attribute changes. Of extents that are not known, the number of images counts as one, others as
//! [`cost`](mod@crate::cost) says.

use crate::cost::{Kind, Model, Work};
use crate::group::MACHINE;
use crate::pass::Context;
use egret_ir::attr::{Algorithm, Layout};
use egret_ir::{Copy, DType, Graph, Node, Op, TensorType};

/// Winograd's form is taken only where it saves this share of the time, in percent: its weights make the artifact larger and its
/// rounding errors are about twice as large.
const LEAST_GAIN: u64 = 20;

/// The pass; see the module.
///
/// # Errors
/// None: the attribute changes no type.
pub fn algorithm(graph: &Graph, context: &Context) -> Result<Graph, String> {
    let model = Model::new(MACHINE, graph);
    let pays = |id| {
        let [mut direct, winograd] = [Algorithm::Direct, Algorithm::Winograd].map(|way| Work::of_conv(graph, id, way));
        if let Kind::Contract(products) = &mut direct.kind {
            // Winograd's form is computed in f32: rounded to 8 bits, what it adds and subtracts would cancel.
            products.together = if context.dots { 2 } else { 1 };
        }
        let [direct, winograd] = [direct, winograd].map(|work| model.time(&work));
        winograd < direct - direct * LEAST_GAIN / 100
    };
    let mut copy = Copy::new(graph, TensorType::clone);
    for (id, node) in graph.node_ids() {
        match &node.op {
            Op::conv { .. } if !context.exact_conv && suits_winograd(graph, node) && pays(id) => {
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

/// Whether it can be computed so.
fn suits_winograd(graph: &Graph, node: &Node) -> bool {
    let Op::conv { stride, pad, dilation, group: 1, layout: Layout::Last, .. } = &node.op else { return false };
    let of_ones = |list: &[usize]| list == [1, 1];
    let (result, weights) = (graph.ty(node.results[0]), graph.ty(node.operands[1]));
    of_ones(stride)
        && of_ones(dilation)
        && pad.iter().all(|&p| p == 0)
        && result.dtype == DType::F32
        && graph.constant(node.operands[1]).is_some()
        && weights.dims[..2].iter().all(|d| d.is(3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use egret_ir::text::parse;

    /// Whether a convolution of so many rows, columns and channels takes Winograd's form beside so many MiB of other weights.
    fn takes_winograd(images: &str, rows: usize, channels: usize, mib: usize) -> bool {
        let (height, other) = (rows + 2, mib << 18);
        let text = format!(
            "graph g(x: f32[{images}, {height}, {height}, {channels}], z: f32[{other}]) {{
                const w: f32[3, 3, {channels}, {channels}] = splat(0.5)
                const other: f32[{other}] = splat(0.5)
                y = conv[stride=[1, 1], pad=[0, 0, 0, 0], dilation=[1, 1], group=1, layout=last](x, w)
                s = add(z, other)
                return y, s
            }}"
        );
        let graph = algorithm(&parse(&text).unwrap(), &Context::default()).unwrap();
        graph.nodes().iter().any(|node| matches!(node.op, Op::conv { algorithm: Algorithm::Winograd, .. }))
    }

    /// The crossovers that were measured; see the module.
    #[test]
    fn few_outputs_with_weights_from_memory_stay_direct() {
        assert!(takes_winograd("1", 14, 256, 40));
        assert!(!takes_winograd("1", 7, 256, 40), "the weights are what takes the time");
        assert!(takes_winograd("1", 7, 256, 0), "they stay in the caches");
        assert!(takes_winograd("64", 7, 256, 40), "they are read once for many images");
        assert!(!takes_winograd("N", 7, 256, 40), "a number of images that is not known counts as one");
    }

    #[test]
    fn images_that_are_not_known_are_large() {
        let text = "graph g(x: f32[N, H + 2, W + 2, 64]) {
            const w: f32[3, 3, 64, 64] = splat(0.5)
            y = conv[stride=[1, 1], pad=[0, 0, 0, 0], dilation=[1, 1], group=1, layout=last](x, w)
            return y
        }";
        let graph = algorithm(&parse(text).unwrap(), &Context::default()).unwrap();
        assert!(matches!(graph.nodes()[0].op, Op::conv { algorithm: Algorithm::Winograd, .. }));
    }

    #[test]
    fn few_channels_and_few_pixels_stay_direct() {
        assert!(takes_winograd("1", 56, 8, 0) && takes_winograd("1", 56, 64, 0));
        assert!(!takes_winograd("1", 56, 3, 0), "the transforms cost more than the products save");
        assert!(!takes_winograd("1", 1, 64, 0), "most of a tile is not used");
    }
}
