//! Sliding windows: the geometry that convolutions and poolings share.
//!
//! Window `o` of an axis covers the input positions `o*stride + k*dilation - low` for `k` in `0..kernel`; those outside of
//! the input are padding.

use crate::assume;
use crate::attr::Layout;
use crate::dim::Dim;
use crate::ops::check;
use crate::ops::strided::{advance, permute};
use crate::tensor::Tensor;
use crate::ty::TensorType;
use std::ops::Range;

/// The windows of all spatial axes; every number is checked, so that products and sums of a few of them fit an `i64`.
#[derive(Clone, Debug)]
pub struct Window {
    /// Elements per window.
    pub kernel: Vec<i64>,
    /// Distance of neighbouring windows; at least 1.
    pub stride: Vec<i64>,
    /// Padding before the input.
    pub low: Vec<i64>,
    /// Padding after the input.
    pub high: Vec<i64>,
    /// Distance of neighbouring elements of a window; at least 1.
    pub dilation: Vec<i64>,
}

impl Window {
    /// A window over `kernel.len()` axes.
    ///
    /// # Errors
    /// When a list has the wrong length or a number is out of range.
    pub fn new(kernel: &[usize], stride: &[usize], pad: &[i64], dilation: &[usize]) -> Result<Window, String> {
        let axes = kernel.len();
        check::per_axis("stride", stride, axes)?;
        check::per_axis("dilation", dilation, axes)?;
        check::per_axis("pad", pad, 2 * axes)?;
        Ok(Window {
            kernel: checked("kernel", 1, kernel.iter().map(|&k| k as i64))?,
            stride: checked("stride", 1, stride.iter().map(|&s| s as i64))?,
            low: checked("pad", 0, pad[..axes].iter().copied())?,
            high: checked("pad", 0, pad[axes..].iter().copied())?,
            dilation: checked("dilation", 1, dilation.iter().map(|&d| d as i64))?,
        })
    }

    /// The number of spatial axes.
    pub fn axes(&self) -> usize {
        self.kernel.len()
    }

    /// The distance from a window's first element to just behind its last.
    pub fn reach(&self, axis: usize) -> i64 {
        (self.kernel[axis] - 1) * self.dilation[axis] + 1
    }

    /// The number of windows along an axis.
    ///
    /// `floor((input + low + high - reach)/stride) + 1`; with `ceil` rounded up instead, but the last window has to start
    /// inside of the input or the padding before it.
    ///
    /// # Errors
    /// When not even one window fits.
    pub fn count(&self, axis: usize, input: &Dim, ceil: bool) -> Result<Dim, String> {
        let room = input.clone() + self.low[axis] + self.high[axis] - self.reach(axis);
        let stride = Dim::from(self.stride[axis]);
        let count = match ceil {
            false => room.floor_div(&stride) + 1,
            true => Dim::minimum(&(room.ceil_div(&stride) + 1), &(input.clone() + self.low[axis]).ceil_div(&stride)),
        };
        match count.as_const() {
            Some(n) if n < 1 => Err(format!(
                "expects a window of {} to fit the padded input, found an extent of {}",
                self.reach(axis),
                room + self.reach(axis)
            )),
            _ => {
                assume::at_most(&Dim::ONE, &count);
                Ok(count)
            }
        }
    }

    /// The input position of element `k` of window `o`, which may lie in the padding.
    pub fn position(&self, axis: usize, o: usize, k: usize) -> i64 {
        o as i64 * self.stride[axis] + k as i64 * self.dilation[axis] - self.low[axis]
    }
}

fn checked(name: &str, least: i64, values: impl Iterator<Item = i64>) -> Result<Vec<i64>, String> {
    let check = |v: i64| match (least..check::LARGEST).contains(&v) {
        true => Ok(v),
        false => Err(format!("expects `{name}` between {least} and {}, found {v}", check::LARGEST)),
    };
    values.map(check).collect()
}

/// The channel extent and the spatial extents of an image-like tensor.
///
/// # Errors
/// When the rank is not that of a batch of images with `axes` spatial axes.
pub fn image(x: &TensorType, axes: usize, layout: Layout) -> Result<(&Dim, &[Dim]), String> {
    check::rank("x", x, axes + 2)?;
    Ok(match layout {
        Layout::First => (&x.dims[1], &x.dims[2..]),
        Layout::Last => (&x.dims[axes + 1], &x.dims[1..=axes]),
    })
}

/// The type of an image-like tensor from its parts.
pub fn image_type(x: &TensorType, channels: Dim, spatial: Vec<Dim>, layout: Layout) -> TensorType {
    let batch = x.dims[0].clone();
    let dims = match layout {
        Layout::First => [vec![batch, channels], spatial].concat(),
        Layout::Last => [vec![batch], spatial, vec![channels]].concat(),
    };
    TensorType { dtype: x.dtype, dims }
}

/// The windows of a convolution, and the two extents of its weights that are numbers of channels, in the order they lie in:
/// before the window for the layout `first`, behind it for `last`.
///
/// # Errors
/// When the operands and attributes do not fit each other.
pub fn of_weights<'w>(
    stride: &[usize],
    pad: &[i64],
    dilation: &[usize],
    layout: Layout,
    x: &TensorType,
    w: &'w TensorType,
) -> Result<(Window, [&'w Dim; 2]), String> {
    check::number("x", x)?;
    check::same_dtype("w", w, x)?;
    let axes = stride.len();
    check::rank("w", w, axes + 2)?;
    let (kernel, channels) = match layout {
        Layout::First => (&w.dims[2..], [&w.dims[0], &w.dims[1]]),
        Layout::Last => (&w.dims[..axes], [&w.dims[axes], &w.dims[axes + 1]]),
    };
    let kernel = kernel.iter().map(|k| check::fixed("the kernel's extent", k)).collect::<Result<Vec<_>, _>>()?;
    Ok((Window::new(&kernel, stride, pad, dilation)?, channels))
}

/// The result type of a pooling.
///
/// # Errors
/// When the attributes do not fit `x` or a window does not fit the input.
pub fn infer_pool(window: &Window, ceil: bool, layout: Layout, x: &TensorType) -> Result<TensorType, String> {
    check::number("x", x)?;
    let (channels, spatial) = image(x, window.axes(), layout)?;
    let counts = spatial.iter().enumerate().map(|(a, d)| window.count(a, d, ceil)).collect::<Result<_, _>>()?;
    Ok(image_type(x, channels.clone(), counts, layout))
}

/// A number of groups that a channel count can be divided by.
///
/// # Errors
/// When it is 0 or absurd.
pub fn groups(group: usize) -> Result<i64, String> {
    let group = i64::try_from(group).ok().filter(|g| (1..check::LARGEST).contains(g));
    group.ok_or_else(|| "expects `group` of at least 1".to_string())
}

/// The image-like tensor with its channels first.
pub fn channels_first(x: &Tensor, layout: Layout) -> Tensor {
    let rank = x.shape().len();
    match layout {
        Layout::First => x.clone(),
        Layout::Last => permute(x, &[vec![0, rank - 1], (1..rank - 1).collect()].concat()),
    }
}

/// The channels-first tensor in `layout`.
pub fn channels_as(x: &Tensor, layout: Layout) -> Tensor {
    let rank = x.shape().len();
    match layout {
        Layout::First => x.clone(),
        Layout::Last => permute(x, &[vec![0], (2..rank).collect(), vec![1]].concat()),
    }
}

/// The extents of the channels-first form of an image-like tensor.
pub fn shape_first(shape: &[usize], layout: Layout) -> Vec<usize> {
    match layout {
        Layout::First => shape.to_vec(),
        Layout::Last => [&[shape[0], shape[shape.len() - 1]], &shape[1..shape.len() - 1]].concat(),
    }
}

/// Two runs of positions that meet in one tap of a convolution: element `i` of the run on the windows' side belongs to
/// element `i` of the run on the input's side.
pub struct Run {
    /// Where the windows' side starts; its elements are neighbours.
    pub window: usize,
    /// Where the input's side starts.
    pub input: usize,
    /// The distance of neighbours on the input's side.
    pub stride: usize,
    /// The number of elements.
    pub length: usize,
}

impl Window {
    /// Calls `f` with the row-major number of each tap of the kernel and every run of windows whose tap lies inside of the
    /// input; positions count in one channel of extents `windows` and `input`.
    pub fn for_each_run(&self, windows: &[usize], input: &[usize], mut f: impl FnMut(usize, Run)) {
        let kernel: Vec<usize> = self.kernel.iter().map(|&k| k as usize).collect();
        let taps = kernel.iter().product();
        let Some(last) = self.axes().checked_sub(1) else {
            return (0..taps).for_each(|tap| f(tap, Run { window: 0, input: 0, stride: 1, length: 1 }));
        };
        let mut tap_index = vec![0; last + 1];
        for tap in 0..taps {
            let inner = self.inside(last, tap_index[last], windows[last], input[last]);
            let mut outer = vec![0; last];
            for row in 0..windows[..last].iter().product() {
                let position = (0..last).try_fold(0, |at, a| Some(at * input[a] + self.inside_at(a, outer[a], tap_index[a], input[a])?));
                if let Some(position) = position.filter(|_| !inner.is_empty()) {
                    let start = self.position(last, inner.start, tap_index[last]) as usize;
                    f(
                        tap,
                        Run {
                            window: row * windows[last] + inner.start,
                            input: position * input[last] + start,
                            stride: self.stride[last] as usize,
                            length: inner.len(),
                        },
                    );
                }
                advance(&mut outer, &windows[..last]);
            }
            advance(&mut tap_index, &kernel);
        }
    }

    /// The windows of an axis whose element `k` lies inside of the input.
    fn inside(&self, axis: usize, k: usize, windows: usize, input: usize) -> Range<usize> {
        let (first, stride) = (self.position(axis, 0, k), self.stride[axis]);
        let start = if first >= 0 { 0 } else { (-first + stride - 1) / stride };
        let end = if first >= input as i64 { 0 } else { (input as i64 - first + stride - 1) / stride };
        start as usize..windows.min(end as usize).max(start as usize)
    }

    /// The position of element `k` of window `o`, if it lies inside of the input.
    pub fn inside_at(&self, axis: usize, o: usize, k: usize, input: usize) -> Option<usize> {
        usize::try_from(self.position(axis, o, k)).ok().filter(|p| *p < input)
    }

    /// Whether every window is one element of the input, in order: the axes may then be seen as one.
    pub fn is_pointwise(&self) -> bool {
        let ones = [&self.kernel, &self.stride].into_iter().all(|list| list.iter().all(|&v| v == 1));
        ones && [&self.low, &self.high].into_iter().all(|list| list.iter().all(|&v| v == 0))
    }

    /// The pointwise window over one axis.
    pub fn pointwise() -> Window {
        Window { kernel: vec![1], stride: vec![1], low: vec![0], high: vec![0], dilation: vec![1] }
    }

    /// For each window of a channel in row-major order, `value` of the positions inside of the input in order, and of how
    /// many positions lie inside of the input or the padding.
    pub fn map_windows<T>(&self, windows: &[usize], input: &[usize], value: impl Fn(&[usize], usize) -> T) -> Vec<T> {
        let spans: Vec<Vec<Span>> = (0..windows.len()).map(|a| (0..windows[a]).map(|o| self.span(a, o, input[a])).collect()).collect();
        let mut index = vec![0; windows.len()];
        let mut positions = vec![];
        let one = |_| {
            positions.clear();
            positions.push(0);
            let mut padded = 1;
            for (axis, &o) in index.iter().enumerate() {
                let span = &spans[axis][o];
                padded *= span.padded;
                positions =
                    positions.iter().flat_map(|at| span.inside.clone().step_by(span.step).map(move |p| at * input[axis] + p)).collect();
            }
            advance(&mut index, windows);
            value(&positions, padded)
        };
        (0..windows.iter().product::<usize>()).map(one).collect()
    }

    fn span(&self, axis: usize, o: usize, input: usize) -> Span {
        let (first, step) = (self.position(axis, o, 0), self.dilation[axis]);
        // The number of elements of the window that stand before a position.
        let before = |position: i64| ((position - first + step - 1).max(0) / step).min(self.kernel[axis]);
        let (start, end) = (before(0), before(input as i64));
        let at = |k: i64| (first + k * step).max(0) as usize;
        Span {
            inside: at(start)..if end > start { at(end - 1) + 1 } else { at(start) },
            step: step as usize,
            padded: before(input as i64 + self.high[axis]) as usize,
        }
    }
}

/// One window along one axis.
struct Span {
    /// The positions inside of the input, every `step`-th of these.
    inside: Range<usize>,
    step: usize,
    /// The number of positions inside of the input or the padding.
    padded: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of windows of `kernel` every `stride`, over an input with `pad` on both ends.
    #[track_caller]
    fn check([kernel, stride, pad, dilation]: [usize; 4], input: impl Into<Dim>, floor: &str, ceil: &str) {
        let window = Window::new(&[kernel], &[stride], &[pad as i64, pad as i64], &[dilation]).unwrap();
        let input = input.into();
        let count = |ceil| window.count(0, &input, ceil).map_or_else(|e| e, |d| d.to_string());
        assert_eq!((count(false).as_str(), count(true).as_str()), (floor, ceil));
    }

    #[test]
    fn windows_are_counted_as_onnx_counts_them() {
        check([3, 1, 1, 1], 8, "8", "8");
        check([3, 2, 0, 1], 8, "3", "4");
        check([2, 2, 0, 1], Dim::symbol("H"), "div(H, 2)", "div(H + 1, 2)");
        // A window that would start in the padding behind is not one.
        check([1, 3, 1, 1], 3, "2", "2");
        check([3, 1, 1, 2], Dim::symbol("H"), "H - 2", "H - 2");
        let none = "expects a window of 3 to fit the padded input, found an extent of 2";
        check([3, 1, 0, 1], 2, none, none);
    }

    #[test]
    fn hostile_numbers_are_sentences() {
        let refused = |kernel, stride, pad, dilation| Window::new(&[kernel], &[stride], pad, &[dilation]).unwrap_err();
        assert_eq!(refused(3, 0, &[0, 0], 1), "expects `stride` between 1 and 2147483648, found 0");
        assert_eq!(refused(3, 1, &[-1, 0], 1), "expects `pad` between 0 and 2147483648, found -1");
        assert_eq!(refused(3, 1, &[0], 1), "expects `pad` to have 2 entries, found 1");
        assert_eq!(refused(3, 1, &[0, 0], usize::MAX), "expects `dilation` between 1 and 2147483648, found -1");
    }
}
