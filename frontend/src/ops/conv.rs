//! Convolutions, and the geometry of windows that they share with poolings.

use crate::error::Code;
use crate::ops::norm::per_channel;
use crate::site::{Outcome, Site, Stop, dim_help, fault, malformed};
use egret_ir::attr::{Algorithm, Layout};
use egret_ir::{Dim, Element, Op, Tensor, ValueId};

/// The attributes of windows over the spatial axes, in the form the IR takes.
#[derive(Clone)]
pub(crate) struct Window {
    pub(crate) kernel: Vec<usize>,
    pub(crate) stride: Vec<usize>,
    pub(crate) dilation: Vec<usize>,
}

impl Window {
    pub(crate) fn new(n: &Site, kernel: Vec<usize>) -> Result<Window, Stop> {
        let (stride, dilation) = (counts(n, "strides", kernel.len(), 1)?, counts(n, "dilations", kernel.len(), 1)?);
        Ok(Window { kernel, stride, dilation })
    }

    /// The distance from a window's first element to just behind its last.
    pub(crate) fn reach(&self, axis: usize) -> i64 {
        (self.kernel[axis] as i64 - 1).saturating_mul(self.dilation[axis] as i64).saturating_add(1)
    }
}

/// A list of positive numbers, one per spatial axis.
fn counts(n: &Site, name: &str, axes: usize, default: usize) -> Result<Vec<usize>, Stop> {
    let Some(list) = n.ints(name)? else { return Ok(vec![default; axes]) };
    let counts: Option<Vec<usize>> = list.iter().map(|&v| usize::try_from(v).ok().filter(|v| *v < 1 << 31)).collect();
    counts
        .filter(|c| c.len() == axes)
        .ok_or_else(|| n.refused(name, format!("{list:?}"), format!("`{}` needs `{name}` with {axes} numbers", n.operator)))
}

/// The extents of the spatial axes of `[batch, channels, spatial...]`.
pub(crate) fn spatial(n: &Site, x: ValueId) -> Result<Vec<Dim>, Stop> {
    let dims = n.dims(x);
    match dims.get(2..) {
        Some(spatial) if !spatial.is_empty() => Ok(spatial.to_vec()),
        _ => {
            Err(malformed(Code::Shape, format!("`{}` expects a batch, channels and at least one more axis, found {}", n.operator, n.ty(x))))
        }
    }
}

/// The attribute `kernel_shape`.
pub(crate) fn kernel_shape(n: &Site, axes: usize) -> Result<Vec<usize>, Stop> {
    if !n.has("kernel_shape") {
        return Err(malformed(Code::Attribute, format!("`{}` needs `kernel_shape`", n.operator)));
    }
    counts(n, "kernel_shape", axes, 1)
}

/// Where padding goes when it is computed.
#[derive(Clone, Copy, PartialEq)]
enum Auto {
    Given,
    None,
    /// As much as makes the output `ceil(input/stride)`; an odd rest goes behind.
    Upper,
    /// The same; an odd rest goes before.
    Lower,
}

fn auto_pad(n: &Site) -> Result<Auto, Stop> {
    n.word(
        "auto_pad",
        "NOTSET",
        &[("NOTSET", Auto::Given), ("", Auto::Given), ("VALID", Auto::None), ("SAME_UPPER", Auto::Upper), ("SAME_LOWER", Auto::Lower)],
    )
}

/// The attribute `pads`: all lows, then all highs.
fn given_pads(n: &Site, axes: usize) -> Result<Vec<i64>, Stop> {
    let pads = n.ints("pads")?.unwrap_or_else(|| vec![0; 2 * axes]);
    if pads.len() == 2 * axes {
        Ok(pads)
    } else {
        Err(n.refused("pads", format!("{pads:?}"), format!("`{}` needs `pads` with {} numbers", n.operator, 2 * axes)))
    }
}

/// The padding of windows that slide over these extents.
pub(crate) fn pads(n: &Site, window: &Window, extents: &[Dim]) -> Result<Vec<i64>, Stop> {
    let (auto, pads) = (auto_pad(n)?, given_pads(n, extents.len())?);
    if matches!(auto, Auto::Given) {
        return Ok(pads);
    }
    let totals =
        extents.iter().enumerate().map(|(axis, extent)| if auto == Auto::None { Ok(0) } else { same_total(n, window, axis, extent) });
    let totals = totals.collect::<Result<Vec<i64>, Stop>>()?;
    Ok(split_totals(&totals, auto == Auto::Upper))
}

/// `max((ceil(extent/stride) - 1)*stride + reach - extent, 0)`, which for stride 1 does not depend on the extent.
fn same_total(n: &Site, window: &Window, axis: usize, extent: &Dim) -> Result<i64, Stop> {
    let (stride, reach) = (window.stride[axis].max(1) as i64, window.reach(axis));
    match extent.as_const() {
        _ if stride == 1 => Ok(reach - 1),
        Some(extent) => Ok(((extent + stride - 1) / stride)
            .saturating_sub(1)
            .saturating_mul(stride)
            .saturating_add(reach)
            .saturating_sub(extent)
            .max(0)),
        None => {
            let message =
                format!("`auto_pad` of `{}` with stride {stride} needs spatial extent {axis} as a number, found `{extent}`", n.operator);
            Err(fault(Code::DataDependent, message, dim_help(&extent.symbols())))
        }
    }
}

fn split_totals(totals: &[i64], odd_behind: bool) -> Vec<i64> {
    let smaller = totals.iter().map(|t| t / 2);
    let larger = totals.iter().map(|t| t - t / 2);
    if odd_behind { smaller.chain(larger).collect() } else { larger.chain(smaller).collect() }
}

/// The weights' kernel extents, checked against `kernel_shape`.
fn weights_window(n: &Site, w: ValueId, axes: usize) -> Result<Window, Stop> {
    let dims = n.dims(w);
    let kernel: Option<Vec<usize>> = dims.get(2..).and_then(|k| k.iter().map(|d| usize::try_from(d.as_const()?).ok()).collect());
    let kernel = kernel.filter(|k| k.len() == axes);
    let kernel = kernel.ok_or_else(|| {
        malformed(Code::Shape, format!("`{}` expects weights with {axes} kernel axes that are numbers, found {}", n.operator, n.ty(w)))
    })?;
    if n.has("kernel_shape") && counts(n, "kernel_shape", axes, 1)? != kernel {
        return Err(malformed(Code::Shape, format!("`kernel_shape` contradicts the weights {}", n.ty(w))));
    }
    Window::new(n, kernel)
}

fn group(n: &Site) -> Result<usize, Stop> {
    let group = n.int_or("group", 1)?;
    usize::try_from(group).ok().filter(|g| *g > 0).ok_or_else(|| n.refused("group", group, "`group` must be at least 1"))
}

/// Adds one number per output channel.
fn with_bias(n: &mut Site, y: ValueId) -> Outcome {
    let Some(bias) = n.optional(2) else { return Ok(vec![y]) };
    let bias = per_channel(n, bias, n.rank(y))?;
    Ok(vec![n.op(Op::add, &[y, bias])?])
}

/// x: [b, c, s...], w: [o, c/group, k...] -> [b, o, windows...]
pub(crate) fn conv(n: &mut Site) -> Outcome {
    let (x, w) = (n.input(0)?, n.input(1)?);
    let y = product(n, x, w)?;
    with_bias(n, y)
}

/// The convolution that the attributes of the node describe.
pub(crate) fn product(n: &mut Site, x: ValueId, w: ValueId) -> Result<ValueId, Stop> {
    let extents = spatial(n, x)?;
    let window = weights_window(n, w, extents.len())?;
    let pad = pads(n, &window, &extents)?;
    let (layout, algorithm) = (Layout::First, Algorithm::Direct);
    let op = Op::conv { stride: window.stride, pad, dilation: window.dilation, group: group(n)?, layout, algorithm };
    n.op(op, &[x, w])
}

/// x: [b, c, s...], w: [c, o/group, k...] -> [b, o, spans...]
pub(crate) fn conv_transpose(n: &mut Site) -> Outcome {
    let (x, w) = (n.input(0)?, n.input(1)?);
    let extents = spatial(n, x)?;
    let window = weights_window(n, w, extents.len())?;
    let (pad, output_pad) = transposed_pads(n, &window, &extents)?;
    let op =
        Op::conv_transpose { stride: window.stride, pad, dilation: window.dilation, output_pad, group: group(n)?, layout: Layout::First };
    let y = n.op(op, &[x, w])?;
    with_bias(n, y)
}

/// Elements of a block that `Col2Im` puts in place with as many filters.
const LARGEST_BLOCK: usize = 1024;

/// Columns of blocks back into an image, where overlapping blocks add up: a transposed convolution whose filters each put one
/// element of a block in its place. x: [n, c*prod(block), l] -> [n, c, image..]
pub(crate) fn col_to_im(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let (image, block) = (n.numbers(1, "the shape of the image")?, n.numbers(2, "the shape of a block")?);
    let axes = image.len();
    let kernel = block.iter().map(|&b| usize::try_from(b).ok().filter(|b| *b > 0)).collect::<Option<Vec<usize>>>();
    let is_small = |k: &Vec<usize>| k.iter().try_fold(1, |size: usize, &k| size.checked_mul(k)).is_some_and(|size| size <= LARGEST_BLOCK);
    let kernel = kernel.filter(|k| k.len() == axes && n.rank(x) == 3 && is_small(k));
    let kernel =
        kernel.ok_or_else(|| malformed(Code::Shape, format!("`Col2Im` cannot put {} as blocks {block:?} into {image:?}", n.ty(x))))?;
    let size: usize = kernel.iter().product();
    let window = Window::new(n, kernel.clone())?;
    let pad = given_pads(n, axes)?;
    let (mut blocks, mut output_pad) = (vec![], vec![]);
    for axis in 0..axes {
        let room = image[axis] + pad[axis] + pad[axes + axis] - window.reach(axis);
        let stride = window.stride[axis].max(1) as i64;
        blocks.push(Dim::from(room.div_euclid(stride) + 1));
        output_pad.push(room.rem_euclid(stride) as usize);
    }
    let [batch, columns] = [0, 1].map(|axis| n.dims(x)[axis].clone());
    let channels = columns.floor_div(&Dim::from(size));
    let apart = n.reshape(x, [vec![batch.clone() * channels.clone(), Dim::from(size)], blocks].concat())?;
    // [size, 1, kernel..]: filter i is 1 at the i-th place.
    let ones: Vec<Element> = (0..size * size).map(|i| Element::Float(f64::from(u8::from(i / size == i % size)))).collect();
    let filters = Tensor::from_elements(n.dtype(x), [vec![size, 1], kernel].concat(), ones);
    let filters = n.build.constant(filters);
    let op = Op::conv_transpose { stride: window.stride, pad, dilation: window.dilation, output_pad, group: 1, layout: Layout::First };
    let y = n.op(op, &[apart, filters])?;
    Ok(vec![n.reshape(y, [vec![batch, channels], image.into_iter().map(Dim::from).collect()].concat())?])
}

/// With `output_shape`, or `auto_pad` (output = input*stride), the padding is what the full output has too much, and the
/// output padding what it has too little.
fn transposed_pads(n: &Site, window: &Window, extents: &[Dim]) -> Result<(Vec<i64>, Vec<usize>), Stop> {
    let axes = extents.len();
    let mut output_pad = counts(n, "output_padding", axes, 0)?;
    let (auto, pads) = (auto_pad(n)?, given_pads(n, axes)?);
    let wanted = match n.ints("output_shape")? {
        // Some exporters list the batch and the channels too.
        Some(list) if list.len() == axes || list.len() == axes + 2 => {
            Some(list[list.len() - axes..].iter().map(|&d| Dim::from(d)).collect())
        }
        Some(list) => {
            return Err(n.refused(
                "output_shape",
                format!("{list:?}"),
                format!("`ConvTranspose` needs `output_shape` with {axes} numbers"),
            ));
        }
        None if matches!(auto, Auto::Upper | Auto::Lower) => {
            Some(extents.iter().enumerate().map(|(a, d)| d.clone() * window.stride[a]).collect::<Vec<Dim>>())
        }
        None => None,
    };
    let Some(wanted) = wanted else { return Ok((if auto == Auto::None { vec![0; 2 * axes] } else { pads }, output_pad)) };
    let mut totals = vec![];
    for axis in 0..axes {
        let full = (extents[axis].clone() - 1) * window.stride[axis] + window.reach(axis) + output_pad[axis];
        let total = (full - wanted[axis].clone()).as_const();
        let total = total.ok_or_else(|| {
            fault(
                Code::DataDependent,
                format!("the padding of `ConvTranspose` depends on the extent `{}`", extents[axis]),
                dim_help(&extents[axis].symbols()),
            )
        })?;
        output_pad[axis] += usize::try_from(-total).unwrap_or(0);
        totals.push(total.max(0));
    }
    Ok((split_totals(&totals, auto == Auto::Upper), output_pad))
}
