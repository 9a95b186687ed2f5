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
//! **Invariant.** Nothing but the attribute changes. Where extents are not known, one image of some hundred rows and columns is what counts.

use crate::cost::{Kind, Model, Work};
use crate::group::MACHINE;
use crate::pass::Context;
use egret_ir::attr::{Algorithm, Layout};
use egret_ir::{Bindings, Copy, DType, Graph, Node, Op, TensorType};

/// Winograd's form is taken only where it saves this share of the time, in percent: its weights make the artifact larger and its
/// rounding errors are about twice as large.
const LEAST_GAIN: u64 = 20;

/// An image's height or width that is not known: most have some hundred rows, and maps inside of a network are a part of that.
const TYPICAL_ROWS: i64 = 256;

/// The pass; see the module.
///
/// # Errors
/// None: the attribute changes no type.
pub fn algorithm(graph: &Graph, context: &Context) -> Result<Graph, String> {
    let (model, typical) = (Model::new(MACHINE, graph), typical(graph));
    let pays = |id| {
        let [mut direct, winograd] = [Algorithm::Direct, Algorithm::Winograd].map(|way| Work::of_conv(&typical, id, way));
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

/// The graph for one image of a common size; it has the same nodes.
fn typical(graph: &Graph) -> Graph {
    let mut typical = Bindings::new();
    for node in graph.nodes().iter().filter(|node| suits_winograd(graph, node)) {
        let extents = graph.ty(node.results[0]).dims.iter().enumerate();
        let counts = extents.flat_map(|(axis, d)| d.symbols().into_iter().map(move |s| (s, if axis == 0 { 1 } else { TYPICAL_ROWS })));
        counts.for_each(|(symbol, count)| {
            let known = typical.entry(symbol).or_insert(count);
            *known = count.min(*known);
        });
    }
    // An extent that data decides may not be such a number; it counts as everywhere else then.
    graph.bind(&typical).unwrap_or_else(|_| graph.clone())
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
        // As a network reads them, and deep inside of it.
        for (height, width) in [("H + 2", "W + 2"), ("div(H, 32) + 2", "div(W, 32) + 2")] {
            let text = format!(
                "graph g(x: f32[N, {height}, {width}, 64]) {{
                    const w: f32[3, 3, 64, 64] = splat(0.5)
                    y = conv[stride=[1, 1], pad=[0, 0, 0, 0], dilation=[1, 1], group=1, layout=last](x, w)
                    return y
                }}"
            );
            let graph = algorithm(&parse(&text).unwrap(), &Context::default()).unwrap();
            assert!(matches!(graph.nodes()[0].op, Op::conv { algorithm: Algorithm::Winograd, .. }), "{height}");
        }
    }

    #[test]
    fn few_channels_and_few_pixels_stay_direct() {
        assert!(takes_winograd("1", 56, 8, 0) && takes_winograd("1", 56, 64, 0));
        assert!(!takes_winograd("1", 56, 3, 0), "the transforms cost more than the products save");
        assert!(!takes_winograd("1", 1, 64, 0), "most of a tile is not used");
    }
}
