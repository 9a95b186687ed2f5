//! Operators that read an image at computed places: GridSample, AffineGrid, RoiAlign, DeformConv.
//!
//! A place is a vector of coordinates in pixels, one float tensor per spatial axis, all of one shape. Reading there is
//! interpolation over the neighbouring pixels: the product of a weight per axis, and a `gather_nd` with the batch in front.

use crate::error::Code;
use crate::site::{Outcome, Site, Stop, malformed};
use egret_ir::{DType, Dim, Op, ValueId};

/// What stands outside of an image.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Outside {
    /// Zeros.
    Zeros,
    /// The nearest pixel of the border.
    Border,
    /// The image, mirrored: at the borders' centres if the flag holds, else at their outer edges.
    Mirrored(bool),
}

/// How pixels make a value between them.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

/// Spatial axes of an image; each multiplies the pixels that make a value by up to 4.
const MOST_AXES: usize = 3;

/// The sharpness of cubic interpolation, as in ONNX's reference.
const CUBIC: f64 = -0.75;

/// x: [n, c, s..], grid: [n, o.., k] with coordinates in -1..1, the innermost axis first -> [n, c, o..]
pub(crate) fn grid_sample(n: &mut Site) -> Outcome {
    let (x, grid) = (n.input(0)?, n.input(1)?);
    let aligned = n.flag("align_corners")?;
    let words = [
        ("linear", Mode::Linear),
        ("bilinear", Mode::Linear),
        ("nearest", Mode::Nearest),
        ("cubic", Mode::Cubic),
        ("bicubic", Mode::Cubic),
    ];
    let mode = n.word("mode", "linear", &words)?;
    let words = [("zeros", Outside::Zeros), ("border", Outside::Border), ("reflection", Outside::Mirrored(aligned))];
    let outside = n.word("padding_mode", "zeros", &words)?;
    let spatial = n.rank(x).saturating_sub(2);
    if !(1..=MOST_AXES).contains(&spatial) || n.rank(grid) != n.rank(x) || !n.dims(grid)[spatial + 1].is(spatial as i64) {
        let message = format!("`GridSample` expects an image and a grid of as many coordinates, found {} and {}", n.ty(x), n.ty(grid));
        return Err(malformed(Code::Shape, message));
    }
    let grid = n.cast(grid, DType::F32)?;
    let mut places = vec![];
    for axis in 0..spatial {
        let coordinate = part(n, grid, spatial - 1 - axis)?;
        let extent = extent_of(n, x, axis + 2, DType::F32)?;
        let place = in_pixels(n, coordinate, extent, aligned)?;
        places.push(if mode == Mode::Nearest { n.op(Op::round, &[place])? } else { place });
    }
    for (axis, place) in places.iter_mut().enumerate() {
        let extent = extent_of(n, x, axis + 2, DType::F32)?;
        *place = returned(n, *place, extent, outside)?;
    }
    let sampled = sampled(n, x, &places, mode, outside)?;
    Ok(vec![n.cast(sampled, n.dtype(x))?])
}

/// The elements at one position of the innermost axis, without that axis.
fn part(n: &mut Site, x: ValueId, at: usize) -> Result<ValueId, Stop> {
    let dims = n.dims(x);
    let last = dims.len() - 1;
    let one = n.slice(x, last, Dim::from(at), Dim::ONE)?;
    n.reshape(one, dims[..last].to_vec())
}

/// An extent as a number of rank 0.
fn extent_of(n: &mut Site, x: ValueId, axis: usize, dtype: DType) -> Result<ValueId, Stop> {
    let values = vec![n.dims(x)[axis].clone()];
    let list = n.op(Op::dims { values }, &[])?;
    let number = n.reshape(list, [])?;
    n.cast(number, dtype)
}

/// From -1..1 to pixels: the ends are the centres of the first and last pixel if `aligned`, else their outer edges.
fn in_pixels(n: &mut Site, x: ValueId, extent: ValueId, aligned: bool) -> Result<ValueId, Stop> {
    let raised = n.with_number(Op::add, x, 1.0)?;
    let doubled = if aligned {
        let last = n.with_number(Op::sub, extent, 1.0)?;
        n.op(Op::mul, &[raised, last])?
    } else {
        let scaled = n.op(Op::mul, &[raised, extent])?;
        n.with_number(Op::sub, scaled, 1.0)?
    };
    n.with_number(Op::div, doubled, 2.0)
}

/// A coordinate brought back into the image, as far as `outside` says.
fn returned(n: &mut Site, x: ValueId, extent: ValueId, outside: Outside) -> Result<ValueId, Stop> {
    match outside {
        Outside::Zeros => Ok(x),
        Outside::Border => {
            let last = n.with_number(Op::sub, extent, 1.0)?;
            let zero = n.scalar(0.0, DType::F32);
            n.op(Op::clip, &[x, zero, last])
        }
        Outside::Mirrored(aligned) => mirrored(n, x, extent, aligned),
    }
}

/// `low + |((x - low) mod 2*span) - span|`, mirrored the right way round.
fn mirrored(n: &mut Site, x: ValueId, extent: ValueId, aligned: bool) -> Result<ValueId, Stop> {
    let (low, span) = if aligned { (0.0, n.with_number(Op::sub, extent, 1.0)?) } else { (-0.5, extent) };
    let one = n.scalar(1.0, DType::F32);
    let span = n.op(Op::max, &[span, one])?;
    let period = n.op(Op::add, &[span, span])?;
    let from_low = n.with_number(Op::sub, x, low)?;
    let within = n.op(Op::modulo, &[from_low, period])?;
    let back = n.op(Op::sub, &[period, within])?;
    let nearer = n.op(Op::min, &[within, back])?;
    n.with_number(Op::add, nearer, low)
}

/// x: [n, c, s..] at `places`, one per spatial axis, each [n, o..] -> [n, c, o..]
fn sampled(n: &mut Site, x: ValueId, places: &[ValueId], mode: Mode, outside: Outside) -> Result<ValueId, Stop> {
    let taps = places.iter().map(|&place| taps(n, place, mode)).collect::<Result<Vec<Vec<Tap>>, Stop>>()?;
    let pixels = channels_last(n, x)?;
    let mut sum = None;
    for corner in corners(&taps) {
        let value = pixel(n, pixels, &corner, outside)?;
        let value = corner.iter().try_fold(value, |value, tap| match tap.weight {
            Some(weight) => {
                let dims = [n.dims(weight), vec![Dim::ONE]].concat();
                let weight = n.reshape(weight, dims)?;
                n.op(Op::mul, &[value, weight])
            }
            None => Ok(value),
        })?;
        sum = Some(match sum {
            Some(sum) => n.op(Op::add, &[sum, value])?,
            None => value,
        });
    }
    let sum = sum.ok_or_else(|| malformed(Code::Shape, format!("`{}` has no pixels to read", n.operator)))?;
    channels_first(n, sum)
}

/// [n, c, s..] -> [n, s.., c], in f32
fn channels_last(n: &mut Site, x: ValueId) -> Result<ValueId, Stop> {
    let rank = n.rank(x);
    let x = n.cast(x, DType::F32)?;
    n.transpose(x, [0].into_iter().chain(2..rank).chain([1]).collect())
}

/// [n, o.., c] -> [n, c, o..]
fn channels_first(n: &mut Site, x: ValueId) -> Result<ValueId, Stop> {
    let rank = n.rank(x);
    n.transpose(x, [0, rank - 1].into_iter().chain(1..rank - 1).collect())
}

/// One of the pixels along an axis that make a value: its number, a float, and how much it counts.
#[derive(Clone, Copy)]
struct Tap {
    at: ValueId,
    weight: Option<ValueId>,
}

fn taps(n: &mut Site, place: ValueId, mode: Mode) -> Result<Vec<Tap>, Stop> {
    if mode == Mode::Nearest {
        return Ok(vec![Tap { at: place, weight: None }]);
    }
    let low = n.op(Op::floor, &[place])?;
    let t = n.op(Op::sub, &[place, low])?;
    if mode == Mode::Linear {
        let one = n.scalar(1.0, DType::F32);
        let rest = n.op(Op::sub, &[one, t])?;
        let next = n.with_number(Op::add, low, 1.0)?;
        return Ok(vec![Tap { at: low, weight: Some(rest) }, Tap { at: next, weight: Some(t) }]);
    }
    // The distances of the four pixels are t + 1, t, 1 - t, 2 - t.
    let mut taps = vec![];
    for i in -1..=2i32 {
        let at = n.with_number(Op::add, low, i.into())?;
        let signed = n.with_number(Op::sub, t, i.into())?;
        let distance = n.op(Op::abs, &[signed])?;
        let weight = if i == 0 || i == 1 { near(n, distance)? } else { far(n, distance)? };
        taps.push(Tap { at, weight: Some(weight) });
    }
    Ok(taps)
}

/// The cubic weight at a distance up to 1: `((a + 2)*d - (a + 3))*d*d + 1`.
fn near(n: &mut Site, d: ValueId) -> Result<ValueId, Stop> {
    polynomial(n, d, &[CUBIC + 2.0, -(CUBIC + 3.0), 0.0, 1.0])
}

/// The cubic weight at a distance from 1 to 2: `((a*d - 5a)*d + 8a)*d - 4a`.
fn far(n: &mut Site, d: ValueId) -> Result<ValueId, Stop> {
    polynomial(n, d, &[CUBIC, -5.0 * CUBIC, 8.0 * CUBIC, -4.0 * CUBIC])
}

/// By Horner's rule, the highest power first.
fn polynomial(n: &mut Site, x: ValueId, coefficients: &[f64]) -> Result<ValueId, Stop> {
    let first = n.with_number(Op::mul, x, coefficients[0])?;
    let mut sum = n.with_number(Op::add, first, coefficients[1])?;
    for &c in &coefficients[2..] {
        let product = n.op(Op::mul, &[sum, x])?;
        sum = n.with_number(Op::add, product, c)?;
    }
    Ok(sum)
}

/// Every choice of one tap per axis.
fn corners(taps: &[Vec<Tap>]) -> Vec<Vec<Tap>> {
    taps.iter().fold(vec![vec![]], |corners, axis| {
        corners.iter().flat_map(|corner| axis.iter().map(|tap| [corner.as_slice(), &[*tap]].concat())).collect()
    })
}

/// pixels: [n, s.., c] at one pixel per position -> [n, o.., c]
fn pixel(n: &mut Site, pixels: ValueId, corner: &[Tap], outside: Outside) -> Result<ValueId, Stop> {
    let mut inside = None;
    let mut columns = vec![];
    for (axis, tap) in corner.iter().enumerate() {
        let extent = extent_of(n, pixels, axis + 1, DType::F32)?;
        let last = n.with_number(Op::sub, extent, 1.0)?;
        let zero = n.scalar(0.0, DType::F32);
        if outside == Outside::Zeros {
            let (above, below) = (n.op(Op::le, &[zero, tap.at])?, n.op(Op::le, &[tap.at, last])?);
            let within = n.op(Op::and, &[above, below])?;
            inside = Some(match inside {
                Some(inside) => n.op(Op::and, &[inside, within])?,
                None => within,
            });
        }
        let at = returned(n, tap.at, extent, outside)?;
        let at = n.op(Op::clip, &[at, zero, last])?;
        let at = n.cast(at, DType::I64)?;
        let dims = [n.dims(at), vec![Dim::ONE]].concat();
        columns.push(n.reshape(at, dims)?);
    }
    let tuple_axis = n.rank(columns[0]) - 1;
    let index = n.concat(&columns, tuple_axis)?;
    let found = n.op(Op::gather_nd { batch: 1 }, &[pixels, index])?;
    let Some(inside) = inside else { return Ok(found) };
    let dims = [n.dims(inside), vec![Dim::ONE]].concat();
    let inside = n.reshape(inside, dims)?;
    let zero = n.scalar(0.0, DType::F32);
    n.op(Op::select, &[inside, found, zero])
}

/// x: [n, c, h, w], w: [o, c/g, kh, kw], offsets: [n, p*kh*kw*2, oh, ow] -> [n, o, oh, ow]. Tap `k` of the window reads `p` groups of
/// channels at places that the offsets move, each taken as often as the mask `[n, p*kh*kw, oh, ow]` says; then it is a product.
pub(crate) fn deform_conv(n: &mut Site) -> Outcome {
    let (x, w, offset) = (n.input(0)?, n.input(1)?, n.input(2)?);
    for (value, what) in [(x, "an image"), (w, "weights"), (offset, "offsets")] {
        n.of_rank(value, 4, what)?;
    }
    n.without_effect(&["kernel_shape"]);
    let window = Window::of(n, [x, w, offset])?;
    let apart = window.places(n, offset)?;
    let Window { batch, channels, parts, taps, out, .. } = window.clone();
    let images = n.dims(x);
    let shared = channels.exact_div(&parts).ok_or_else(|| window.unfit(n))?;
    let of_part = [vec![batch.clone() * parts.clone(), shared.clone()], images[2..].to_vec()].concat();
    let split = n.reshape(x, of_part)?;
    let mut read = sampled(n, split, &apart, Mode::Linear, Outside::Zeros)?;
    let grid = [vec![batch.clone(), parts.clone(), shared, taps.clone()], out.to_vec()].concat();
    read = n.reshape(read, grid)?;
    if let Some(mask) = n.optional(4) {
        let mask = n.reshape(mask, [vec![batch.clone(), parts, Dim::ONE, taps.clone()], out.to_vec()].concat())?;
        read = n.op(Op::mul, &[read, mask])?;
    }
    let y = window.product(n, read, w)?;
    match n.optional(3) {
        Some(bias) => {
            let dims = n.dims(bias);
            let bias = n.reshape(bias, [dims, vec![Dim::ONE; 2]].concat())?;
            Ok(vec![n.op(Op::add, &[y, bias])?])
        }
        None => Ok(vec![y]),
    }
}

/// The extents of a convolution whose window is deformed.
#[derive(Clone)]
struct Window {
    batch: Dim,
    channels: Dim,
    /// Groups of weights.
    groups: Dim,
    /// Groups of channels with offsets of their own.
    parts: Dim,
    /// `kh`, `kw`, and their product.
    kernel: [Dim; 2],
    taps: Dim,
    /// `oh`, `ow`.
    out: [Dim; 2],
    stride: Vec<i64>,
    dilation: Vec<i64>,
    /// Before each axis.
    pad: Vec<i64>,
}

impl Window {
    fn of(n: &Site, [x, w, offset]: [ValueId; 3]) -> Result<Window, Stop> {
        let (images, weights, offsets) = (n.dims(x), n.dims(w), n.dims(offset));
        let pair = |name: &str, default: i64| -> Result<Vec<i64>, Stop> {
            let found = n.ints(name)?.unwrap_or_else(|| vec![default; 4]);
            if found.len() < 2 {
                return Err(n.refused(
                    name,
                    format!("{found:?}"),
                    format!("`DeformConv` has windows of two axes, found `{name}` {found:?}"),
                ));
            }
            Ok(found)
        };
        let groups = |name: &str| Ok::<Dim, Stop>(Dim::from(n.int_or(name, 1)?.max(1)));
        let kernel = [weights[2].clone(), weights[3].clone()];
        Ok(Window {
            batch: images[0].clone(),
            channels: images[1].clone(),
            groups: groups("group")?,
            parts: groups("offset_group")?,
            taps: kernel[0].clone() * kernel[1].clone(),
            kernel,
            out: [offsets[2].clone(), offsets[3].clone()],
            stride: pair("strides", 1)?,
            dilation: pair("dilations", 1)?,
            pad: pair("pads", 0)?,
        })
    }

    fn unfit(&self, n: &Site) -> Stop {
        let message = format!("the {} channels of `{}` do not divide into its groups", self.channels, n.operator);
        malformed(Code::Shape, message)
    }

    /// The places in pixels along both axes: `[n*p, taps, oh, ow]` each.
    fn places(&self, n: &mut Site, offset: ValueId) -> Result<Vec<ValueId>, Stop> {
        let grid = [vec![self.batch.clone() * self.parts.clone(), self.taps.clone(), Dim::from(2)], self.out.to_vec()].concat();
        let offset = n.reshape(offset, grid)?;
        let offset = n.cast(offset, DType::F32)?;
        let mut places = vec![];
        for axis in 0..2 {
            let moved = n.slice(offset, 2, Dim::from(axis), Dim::ONE)?;
            let dims = [vec![self.batch.clone() * self.parts.clone(), self.taps.clone()], self.out.to_vec()].concat();
            let moved = n.reshape(moved, dims)?;
            // Where the tap stands without an offset: `o*stride - pad + k*dilation`.
            let window = [vec![Dim::ONE], self.kernel.to_vec(), self.out.to_vec()].concat();
            let (tap, at) = (n.iota(window.clone(), 1 + axis, DType::F32)?, n.iota(window, 3 + axis, DType::F32)?);
            let tap = n.with_number(Op::mul, tap, self.dilation[axis] as f64)?;
            let at = n.with_number(Op::mul, at, self.stride[axis] as f64)?;
            let still = n.op(Op::add, &[tap, at])?;
            let still = n.with_number(Op::sub, still, self.pad[axis] as f64)?;
            let still = n.reshape(still, [vec![Dim::ONE, self.taps.clone()], self.out.to_vec()].concat())?;
            places.push(n.op(Op::add, &[moved, still])?);
        }
        Ok(places)
    }

    /// What was read, `[n, p, c/p, taps, oh, ow]`, times the weights of each group: `[n, o, oh, ow]`.
    fn product(&self, n: &mut Site, read: ValueId, w: ValueId) -> Result<ValueId, Stop> {
        let outputs = n.dims(w)[0].clone();
        let in_group = self.channels.exact_div(&self.groups).ok_or_else(|| self.unfit(n))?;
        let out_group = outputs.exact_div(&self.groups).ok_or_else(|| self.unfit(n))?;
        let depth = in_group * self.taps.clone();
        let points = self.out[0].clone() * self.out[1].clone();
        let columns = n.reshape(read, [self.batch.clone(), self.groups.clone(), depth.clone(), points])?;
        let columns = n.cast(columns, n.dtype(w))?;
        let rows = n.reshape(w, [Dim::ONE, self.groups.clone(), out_group, depth])?;
        let y = n.op(Op::matmul, &[rows, columns])?;
        n.reshape(y, [vec![self.batch.clone(), outputs], self.out.to_vec()].concat())
    }
}

/// How the samples of a bin become one.
#[derive(Clone, Copy, PartialEq)]
enum Pooled {
    Mean,
    Max,
}

/// `x: [n, c, h, w]`, `rois: [r, 4]` as corners in pixels over `spatial_scale`, the image of each: `[r]` -> `[r, c, oh, ow]`. Each bin of a region is
/// sampled at a grid of points.
pub(crate) fn roi_align(n: &mut Site) -> Outcome {
    let (x, rois, image) = (n.input(0)?, n.input(1)?, n.input(2)?);
    n.of_rank(x, 4, "an image")?;
    n.of_rank(rois, 2, "regions")?;
    let words = [("avg", Pooled::Mean), ("max", Pooled::Max)];
    let pooled = n.word("mode", "avg", &words)?;
    let default = if n.opset < 16 { "output_half_pixel" } else { "half_pixel" };
    let centred = n.word("coordinate_transformation_mode", default, &[("half_pixel", true), ("output_half_pixel", false)])?;
    let samples = n.int_or("sampling_ratio", 0)?;
    if samples <= 0 {
        let message = "`RoiAlign` whose number of samples depends on the size of a region is not supported";
        return Err(n.refused("sampling_ratio", samples, message));
    }
    let scale = n.float_or("spatial_scale", 1.0)?;
    let counts = [n.int_or("output_height", 1)?, n.int_or("output_width", 1)?];
    let rois = n.cast(rois, DType::F32)?;
    let (regions, channels) = (n.dims(rois)[0].clone(), n.dims(x)[1].clone());
    let mut places = vec![];
    for (axis, &count) in counts.iter().enumerate() {
        let place = in_region(n, rois, 1 - axis, [count, samples], scale, centred)?;
        // Rows of points along one axis, columns along the other.
        let at = if axis == 0 { [Dim::from(count * samples), Dim::ONE] } else { [Dim::ONE, Dim::from(count * samples)] };
        places.push(n.reshape(place, [regions.clone(), at[0].clone(), at[1].clone()])?);
    }
    let points = [regions.clone(), Dim::from(counts[0] * samples), Dim::from(counts[1] * samples)];
    let corners = region_corners(n, x, image, &places, &points)?;
    let values = match pooled {
        Pooled::Mean => sum_of(n, Op::add, &corners)?,
        Pooled::Max => sum_of(n, Op::max, &corners)?,
    };
    let grid = [regions.clone(), counts[0].into(), samples.into(), counts[1].into(), samples.into(), channels.clone()];
    let values = n.reshape(values, grid)?;
    let axes = vec![2, 4];
    let bins = if pooled == Pooled::Mean { Op::reduce_mean { axes } } else { Op::reduce_max { axes } };
    let bins = n.op(bins, &[values])?;
    let bins = n.reshape(bins, [regions, counts[0].into(), counts[1].into(), channels])?;
    let y = n.transpose(bins, vec![0, 3, 1, 2])?;
    Ok(vec![n.cast(y, n.dtype(x))?])
}

/// The points of all bins along an axis: `[r, bins * samples]`, from the corners in column `column` and two further.
fn in_region(n: &mut Site, rois: ValueId, column: usize, [bins, samples]: [i64; 2], scale: f64, centred: bool) -> Result<ValueId, Stop> {
    let [mut start, mut end] = [rois; 2];
    for (value, at) in [(&mut start, column), (&mut end, column + 2)] {
        let one = n.slice(rois, 1, Dim::from(at), Dim::ONE)?;
        let scaled = n.with_number(Op::mul, one, scale)?;
        *value = if centred { n.with_number(Op::sub, scaled, 0.5)? } else { scaled };
    }
    let extent = n.op(Op::sub, &[end, start])?;
    let extent = if centred { extent } else { n.with_number(Op::max, extent, 1.0)? };
    let bin = n.with_number(Op::div, extent, bins as f64)?;
    let point = n.iota(vec![Dim::ONE, Dim::from(bins * samples)], 1, DType::F32)?;
    let point = n.with_number(Op::add, point, 0.5)?;
    let point = n.with_number(Op::div, point, samples as f64)?;
    let within = n.op(Op::mul, &[bin, point])?;
    n.op(Op::add, &[start, within])
}

/// The four pixels around each point, each times its weight: `[r, oh*s, ow*s, c]`. Beyond a pixel outside of the image there is nothing;
/// nearer, the border goes on.
fn region_corners(n: &mut Site, x: ValueId, image: ValueId, places: &[ValueId], points: &[Dim; 3]) -> Result<Vec<ValueId>, Stop> {
    let pixels = channels_last(n, x)?;
    let mut inside = None;
    let mut taps = vec![];
    for (axis, &place) in places.iter().enumerate() {
        let extent = extent_of(n, x, axis + 2, DType::F32)?;
        let (zero, least) = (n.scalar(0.0, DType::F32), n.scalar(-1.0, DType::F32));
        let (above, below) = (n.op(Op::le, &[least, place])?, n.op(Op::le, &[place, extent])?);
        let within = n.op(Op::and, &[above, below])?;
        inside = Some(match inside {
            Some(inside) => n.op(Op::and, &[inside, within])?,
            None => within,
        });
        let last = n.with_number(Op::sub, extent, 1.0)?;
        let held = n.op(Op::clip, &[place, zero, last])?;
        let mut pair = self::taps(n, held, Mode::Linear)?;
        pair[1].at = n.op(Op::min, &[pair[1].at, last])?;
        taps.push(pair);
    }
    let inside = inside.ok_or_else(|| malformed(Code::Shape, "`RoiAlign` has no axes"))?;
    let image = n.cast(image, DType::I64)?;
    let image = n.reshape(image, [points[0].clone(), Dim::ONE, Dim::ONE])?;
    let mut found = vec![];
    for corner in corners(&taps) {
        let (index, weight) = region_index(n, image, &corner, points)?;
        let value = n.op(Op::gather_nd { batch: 0 }, &[pixels, index])?;
        let zero = n.scalar(0.0, DType::F32);
        let weight = n.op(Op::select, &[inside, weight, zero])?;
        let dims = [n.dims(weight), vec![Dim::ONE]].concat();
        let weight = n.reshape(weight, dims)?;
        found.push(n.op(Op::mul, &[value, weight])?);
    }
    Ok(found)
}

/// Where the pixels of a corner stand, `[r, oh*s, ow*s, 3]`, and how much they count.
fn region_index(n: &mut Site, image: ValueId, corner: &[Tap], points: &[Dim; 3]) -> Result<(ValueId, ValueId), Stop> {
    let mut columns = vec![image];
    let mut weight = n.scalar(1.0, DType::F32);
    for tap in corner {
        columns.push(n.cast(tap.at, DType::I64)?);
        if let Some(one) = tap.weight {
            weight = n.op(Op::mul, &[weight, one])?;
        }
    }
    let mut wide = vec![];
    for column in columns {
        let column = n.broadcast(column, points.to_vec())?;
        wide.push(n.reshape(column, [points.to_vec(), vec![Dim::ONE]].concat())?);
    }
    Ok((n.concat(&wide, 3)?, weight))
}

/// Values joined by an op, one after another.
fn sum_of(n: &mut Site, op: Op, values: &[ValueId]) -> Result<ValueId, Stop> {
    let (first, rest) = values.split_first().ok_or_else(|| malformed(Code::Shape, format!("`{}` has nothing to add", n.operator)))?;
    rest.iter().try_fold(*first, |sum, &value| n.op(op.clone(), &[sum, value]))
}

/// theta: [n, k, k + 1], size: [n, c, s..] -> [n, s.., k]
pub(crate) fn affine_grid(n: &mut Site) -> Outcome {
    let theta = n.input(0)?;
    let size = n.contents(1, "the size of the image")?;
    let aligned = n.flag("align_corners")?;
    let spatial: Vec<Dim> = size.get(2..).unwrap_or_default().to_vec();
    if !matches!(spatial.len(), 2 | 3) || n.rank(theta) != 3 {
        return Err(malformed(
            Code::Shape,
            format!("`AffineGrid` expects matrices and a size of 4 or 5 numbers, found {} and {size:?}", n.ty(theta)),
        ));
    }
    let k = spatial.len();
    let dtype = n.dtype(theta);
    // The innermost axis comes first, and 1 last.
    let with_unit: Vec<Dim> = [spatial.clone(), vec![Dim::ONE]].concat();
    let mut columns = vec![];
    for axis in (0..k).rev() {
        columns.push(steps(n, &with_unit, axis, aligned, dtype)?);
    }
    columns.push(n.splat(1.0, dtype, with_unit)?);
    let points = n.concat(&columns, k)?;
    let count: Dim = spatial.iter().cloned().product();
    let points = n.reshape(points, [count, Dim::from(k + 1)])?;
    let moved = n.transpose(theta, vec![0, 2, 1])?;
    let grid = n.op(Op::matmul, &[points, moved])?;
    Ok(vec![n.reshape(grid, [vec![size[0].clone()], spatial, vec![Dim::from(k)]].concat())?])
}

/// The coordinates of the pixels along an axis, in -1..1.
fn steps(n: &mut Site, shape: &[Dim], axis: usize, aligned: bool, dtype: DType) -> Result<ValueId, Stop> {
    let index = n.iota(shape.to_vec(), axis, dtype)?;
    let extent = n.op(Op::dims { values: vec![shape[axis].clone()] }, &[])?;
    let extent = n.reshape(extent, [])?;
    let extent = n.cast(extent, dtype)?;
    let doubled = n.with_number(Op::mul, index, 2.0)?;
    let (raised, whole) = if aligned {
        let last = n.with_number(Op::sub, extent, 1.0)?;
        (doubled, n.with_number(Op::max, last, 1.0)?)
    } else {
        (n.with_number(Op::add, doubled, 1.0)?, extent)
    };
    let share = n.op(Op::div, &[raised, whole])?;
    n.with_number(Op::sub, share, 1.0)
}
