//! Resize and its predecessor Upsample.

use crate::error::Code;
use crate::ops::found;
use crate::ops::resample::{self, Axis, Kernel, Place};
use crate::ops::stretch::{self, Sampling};
use crate::site::{Outcome, Site, Stop, dim_help, fault, malformed};
use egret_ir::attr::{Coordinates, Interpolation, Rounding};
use egret_ir::{Dim, Op, Real, ValueId};

/// The extent and scale of each axis.
struct Target {
    shape: Vec<Dim>,
    scales: Vec<f64>,
    /// The axes whose scale is no number while importing, with their extents; above they stay as they are.
    free: Vec<(usize, Dim)>,
}

const MODES: [(&str, Interpolation); 5] = [
    ("nearest", Interpolation::Nearest),
    ("linear", Interpolation::Linear),
    ("bilinear", Interpolation::Linear),
    ("trilinear", Interpolation::Linear),
    ("cubic", Interpolation::Cubic),
];

/// Scales are an attribute in opsets 7 and 8, an input in 9; it is `Resize` of opset 10 by another name.
pub(crate) fn upsample(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    let scales = match n.floats("scales")? {
        Some(scales) => scales,
        None => n.constant(1, "the scales")?.to_f64s(),
    };
    let target = by_scales(n, x, &scales, &all_axes(n, x))?;
    build(n, x, target, Coordinates::Asymmetric, Rounding::Floor)
}

/// In opset 10 coordinates are asymmetric; since 11 attributes say how they map.
pub(crate) fn resize(n: &mut Site) -> Outcome {
    let x = n.input(0)?;
    if n.opset < 11 {
        let scales = n.constant(1, "the scales")?.to_f64s();
        let rounding = old_rounding(n, &scales)?;
        let target = by_scales(n, x, &scales, &all_axes(n, x))?;
        return build(n, x, target, Coordinates::Asymmetric, rounding);
    }
    n.without_effect(&["extrapolation_value"]);
    n.optional(1);
    let mut target = target(n, x)?;
    if let Some((axes, kernel)) = special(n, x, &target)? {
        n.without_effect(&["nearest_mode"]);
        return resample::resampled(n, x, &axes, &target.shape, &kernel);
    }
    let (coordinates, rounding) = mapping(n, x, &target)?;
    let free = std::mem::take(&mut target.free);
    let mut y = build(n, x, target, coordinates, rounding)?[0];
    for (axis, extent) in free {
        y = stretched(n, y, axis, &extent, coordinates, rounding)?;
    }
    Ok(vec![y])
}

/// An axis with a scale that is no number.
fn stretched(n: &mut Site, x: ValueId, axis: usize, extent: &Dim, coordinates: Coordinates, rounding: Rounding) -> Result<ValueId, Stop> {
    let mode = n.word("mode", "nearest", &MODES)?;
    let cubic = n.float_or("cubic_coeff_a", -0.75)?;
    stretch::stretched(n, x, axis, extent, Sampling { mode, coordinates, rounding, cubic })
}

/// What the op `resize` does not have, as products with matrices: filters while shrinking, elements outside that count nothing,
/// cropping, symmetric coordinates. Nearest neighbours are read and not computed, so these stay with the op.
fn special(n: &Site, x: ValueId, target: &Target) -> Result<Option<(Vec<Axis>, Kernel)>, Stop> {
    let mode = n.word("mode", "nearest", &MODES)?;
    let antialias = n.flag("antialias")? && (target.scales.iter().any(|s| *s < 1.0) || !target.free.is_empty());
    let exclude_outside = n.flag("exclude_outside")? && mode == Interpolation::Cubic;
    let name = n.text("coordinate_transformation_mode")?.unwrap_or_else(|| "half_pixel".to_string());
    let crops = name == "tf_crop_and_resize";
    if mode == Interpolation::Nearest || !(antialias || exclude_outside || crops || name == "half_pixel_symmetric") {
        return Ok(None);
    }
    if let Some((axis, extent)) = target.free.first() {
        return Err(no_number(n, &target.shape[*axis], extent));
    }
    let axes = match n.ints("axes")? {
        Some(axes) => n.axes("axes", &axes, n.rank(x))?,
        None => all_axes(n, x),
    };
    let regions = if crops { regions(n, axes.len())? } else { vec![(0.0, 1.0); axes.len()] };
    let place = |region: (f64, f64)| match name.as_str() {
        "half_pixel" => Ok(Place::HalfPixel),
        "half_pixel_symmetric" => Ok(Place::Symmetric),
        "pytorch_half_pixel" => Ok(Place::PytorchHalfPixel),
        "align_corners" => Ok(Place::AlignCorners),
        "asymmetric" => Ok(Place::Asymmetric),
        "tf_crop_and_resize" => Ok(Place::Crop(region.0, region.1)),
        _ => Err(n.refused("coordinate_transformation_mode", &name, format!("`Resize` with coordinates `{name}` is not supported"))),
    };
    let axis = |(&axis, region)| Ok(Axis { axis, scale: target.scales[axis], place: place(region)? });
    let axes = axes.iter().zip(regions).map(axis).collect::<Result<Vec<Axis>, Stop>>()?;
    let dims = n.dims(x);
    let axes = axes.into_iter().filter(|a| crops || dims[a.axis] != target.shape[a.axis] || target.scales[a.axis] != 1.0).collect();
    let outside = if crops { Some(n.float_or("extrapolation_value", 0.0)?) } else { None };
    let cubic = n.float_or("cubic_coeff_a", -0.75)?;
    Ok(Some((axes, Kernel { mode, cubic, antialias, exclude_outside, outside })))
}

/// Where the crop starts and ends on each axis, as shares of it: all starts, then all ends.
fn regions(n: &Site, axes: usize) -> Result<Vec<(f64, f64)>, Stop> {
    let list = n.constant(1, "the region")?.to_f64s();
    match list.len() == 2 * axes {
        true => Ok(list[..axes].iter().copied().zip(list[axes..].iter().copied()).collect()),
        false => Err(malformed(Code::Shape, format!("`Resize` needs a region of {} numbers, found {}", 2 * axes, list.len()))),
    }
}

/// Opset 10 takes the next lower element when it enlarges, and the next higher one when it shrinks.
fn old_rounding(n: &Site, scales: &[f64]) -> Result<Rounding, Stop> {
    let (shrinks, grows) = (scales.iter().any(|s| *s < 1.0), scales.iter().any(|s| *s > 1.0));
    match (shrinks, grows) {
        (true, true) => Err(fault(
            Code::Operand,
            format!("`Resize` of opset 10 that shrinks one axis and enlarges another is not supported, found scales {scales:?}"),
            format!("export `{}` at opset 11 or newer", n.operator),
        )),
        (true, false) => Ok(Rounding::Ceil),
        (false, _) => Ok(Rounding::Floor),
    }
}

fn all_axes(n: &Site, x: ValueId) -> Vec<usize> {
    (0..n.rank(x)).collect()
}

/// From the input `scales` or the input `sizes`; an empty one counts as left out.
fn target(n: &mut Site, x: ValueId) -> Result<Target, Stop> {
    let axes = match n.ints("axes")? {
        Some(axes) => n.axes("axes", &axes, n.rank(x))?,
        None => all_axes(n, x),
    };
    let policy =
        n.word("keep_aspect_ratio_policy", "stretch", &[("stretch", None), ("not_larger", Some(true)), ("not_smaller", Some(false))])?;
    let sizes = n.optional(3).filter(|s| !n.ty(*s).count().is(0));
    let Some(sizes) = sizes else {
        let scales = n.constant(2, "the scales")?.to_f64s();
        return by_scales(n, x, &scales, &axes);
    };
    n.optional(2);
    let _ = sizes;
    let sizes = found::contents(n, 3, "the sizes")?;
    if sizes.len() != axes.len() {
        return Err(malformed(Code::Shape, format!("`Resize` needs {} sizes, found {}", axes.len(), sizes.len())));
    }
    let mut target = unchanged(n, x);
    for (&axis, size) in axes.iter().zip(&sizes) {
        match ratio(&target.shape[axis], size) {
            Some(scale) => (target.scales[axis], target.shape[axis]) = (scale, size.clone()),
            None => target.free.push((axis, size.clone())),
        }
    }
    if let Some(not_larger) = policy {
        if let Some((axis, extent)) = target.free.first() {
            return Err(no_number(n, &target.shape[*axis], extent));
        }
        keep_aspect_ratio(n, x, &mut target, &axes, not_larger)?;
    }
    Ok(target)
}

fn unchanged(n: &Site, x: ValueId) -> Target {
    Target { shape: n.dims(x), scales: vec![1.0; n.rank(x)], free: vec![] }
}

/// One scale for all axes: the smallest if no axis may be larger than wanted, else the largest.
fn keep_aspect_ratio(n: &Site, x: ValueId, target: &mut Target, axes: &[usize], not_larger: bool) -> Result<(), Stop> {
    let scales = axes.iter().map(|&a| target.scales[a]);
    let scale = if not_larger { scales.fold(f64::INFINITY, f64::min) } else { scales.fold(0.0, f64::max) };
    let dims = n.dims(x);
    for &axis in axes {
        let extent = dims[axis].as_const().ok_or_else(|| {
            fault(
                Code::DataDependent,
                format!("`keep_aspect_ratio_policy` needs numbers, found the extent `{}`", dims[axis]),
                dim_help(&dims[axis].symbols()),
            )
        })?;
        target.shape[axis] = Dim::from((scale * extent as f64 + 0.5).floor() as i64);
        target.scales[axis] = scale;
    }
    Ok(())
}

/// `size/extent`, if it is a number even where the two are symbolic.
fn ratio(extent: &Dim, size: &Dim) -> Option<f64> {
    if let (Some(extent), Some(size)) = (extent.as_const(), size.as_const()) {
        return Some(if extent == 0 { 1.0 } else { size as f64 / extent as f64 });
    }
    let larger = size.exact_div(extent).and_then(|r| r.as_const()).map(|r| r as f64);
    let smaller = extent.exact_div(size).and_then(|r| r.as_const()).map(|r| 1.0 / r as f64);
    larger.or(smaller)
}

/// The fault of a kind of resizing that needs a number for a scale: data stands in the way, or free extents do.
fn no_number(n: &Site, extent: &Dim, size: &Dim) -> Stop {
    if let Err(data) = n.contents(3, "the sizes") {
        return data;
    }
    let symbols = [extent, size].iter().flat_map(|d| d.symbols()).collect();
    let message = format!("the scale of `{}` must be a number, but it maps `{extent}` to `{size}`", n.operator);
    fault(Code::DataDependent, message, dim_help(&symbols))
}

/// Extents are `floor(extent * scale)`, in `f32` as the scale is.
fn by_scales(n: &Site, x: ValueId, scales: &[f64], axes: &[usize]) -> Result<Target, Stop> {
    if scales.len() != axes.len() {
        return Err(malformed(Code::Shape, format!("`{}` needs {} scales, found {}", n.operator, axes.len(), scales.len())));
    }
    let mut target = unchanged(n, x);
    for (&axis, &scale) in axes.iter().zip(scales) {
        target.shape[axis] = scaled(&target.shape[axis], scale).ok_or_else(|| {
            let extent = &target.shape[axis];
            fault(
                Code::DataDependent,
                format!("`{}` scales the extent `{extent}` by {scale}, expected a number or a simpler fraction", n.operator),
                dim_help(&extent.symbols()),
            )
        })?;
        target.scales[axis] = scale;
    }
    Ok(target)
}

/// `floor(extent * scale)`; for a symbolic extent the scale has to be a fraction with a small denominator.
fn scaled(extent: &Dim, scale: f64) -> Option<Dim> {
    /// Exporters write halves, thirds, eighths ..., rounded to f32.
    const DENOMINATORS: std::ops::RangeInclusive<i64> = 1..=64;
    if let Some(extent) = extent.as_const() {
        return Some(Dim::from((extent as f32 * scale as f32).floor() as i64));
    }
    let fraction = |q: i64| {
        let p = (scale * q as f64).round();
        (p > 0.0 && p < 1e6 && (p / q as f64) as f32 == scale as f32).then_some((p as i64, q))
    };
    let (p, q) = DENOMINATORS.into_iter().find_map(fraction)?;
    Some((extent.clone() * p).floor_div(&Dim::from(q)))
}

/// How output coordinates map to input coordinates, and those to elements.
fn mapping(n: &Site, x: ValueId, target: &Target) -> Result<(Coordinates, Rounding), Stop> {
    let roundings = [
        ("round_prefer_floor", Rounding::PreferFloor),
        ("round_prefer_ceil", Rounding::PreferCeil),
        ("floor", Rounding::Floor),
        ("ceil", Rounding::Ceil),
    ];
    let rounding = n.word("nearest_mode", "round_prefer_floor", &roundings)?;
    let name = n.text("coordinate_transformation_mode")?.unwrap_or_else(|| "half_pixel".to_string());
    let nearest = n.text("mode")?.is_none_or(|m| m == "nearest");
    // The symmetric mode differs only where the scaled extent was rounded.
    let exact = || {
        n.dims(x).iter().zip(&target.shape).zip(&target.scales).all(|((from, to), s)| {
            scaled(from, *s).as_ref() == Some(to) && from.as_const().is_none_or(|d| (d as f64 * s).fract().abs() < 1e-4)
        })
    };
    match name.as_str() {
        "half_pixel" => Ok((Coordinates::HalfPixel, rounding)),
        "half_pixel_symmetric" if target.free.is_empty() && exact() => Ok((Coordinates::HalfPixel, rounding)),
        "pytorch_half_pixel" => Ok((Coordinates::PytorchHalfPixel, rounding)),
        "align_corners" => Ok((Coordinates::AlignCorners, rounding)),
        "asymmetric" => Ok((Coordinates::Asymmetric, rounding)),
        // (o + 0.5)/scale rounded down is half_pixel rounded to the nearest, halves up.
        "tf_half_pixel_for_nn" if nearest && rounding == Rounding::Floor => Ok((Coordinates::HalfPixel, Rounding::PreferCeil)),
        _ => Err(n.refused("coordinate_transformation_mode", &name, format!("`Resize` with coordinates `{name}` is not supported"))),
    }
}

fn build(n: &mut Site, x: ValueId, target: Target, coordinates: Coordinates, rounding: Rounding) -> Outcome {
    let mode = n.word("mode", "nearest", &MODES)?;
    let cubic = Real(n.float_or("cubic_coeff_a", -0.75)?);
    n.without_effect(&["exclude_outside"]); // It speaks of cubic interpolation only, which `special` takes then.
    if target.shape == n.dims(x) && target.scales.iter().all(|s| *s == 1.0) {
        return Ok(vec![x]);
    }
    let scales = target.scales.into_iter().map(Real).collect();
    Ok(vec![n.op(Op::resize { shape: target.shape, scales, mode, coordinates, rounding, cubic }, &[x])?])
}
