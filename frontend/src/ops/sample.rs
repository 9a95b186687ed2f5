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
