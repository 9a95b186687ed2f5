//! Tensors: an element type, a shape, and the elements in row-major order.
//!
//! **Invariant.** The bytes of a [`Tensor`] start at a multiple of [`ALIGN`] and are followed by
//! [`SLACK`] readable bytes, so that kernels use them in place; there are as many as type and shape say.
//! A [`TensorView`] borrows the bytes of a tensor or any slice of yours; the session copies the latter.
//!
//! ```
//! use egret_runtime::Tensor;
//!
//! let x = Tensor::from_slice(&[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.5])?;
//! assert_eq!(x.to_string(), "f32[2, 3]  min 1  max 6.5  mean 3.58333  [1, 2, 3, 4, 5, 6.5]");
//! assert_eq!(x.as_slice::<f32>()?[5], 6.5);
//! # Ok::<(), egret_runtime::Error>(())
//! ```

use crate::error::{Error, Result};
use crate::plan::{ALIGN, DType, SLACK};
use crate::strings::{Dictionary, handles, quoted};
use half::{bf16, f16};
use std::fmt;
use std::ops::{Deref, DerefMut};

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that is the element of some tensor.
pub trait Element: bytemuck::Pod + sealed::Sealed {
    /// The element type it stands for.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),* $(,)?) => {
        $(
            impl sealed::Sealed for $rust {}
            impl Element for $rust {
                const DTYPE: DType = DType::$dtype;
            }
        )*

        /// Every element as a double, for summaries; 64-bit integers are rounded, and strings are no numbers.
        fn for_each_f64(dtype: DType, bytes: &[u8], mut each: impl FnMut(f64)) {
            match dtype {
                DType::Str => {}
                DType::Bool | DType::U4 | DType::U2 => bytes.iter().for_each(|&byte| each(f64::from(byte))),
                DType::I4 | DType::I2 => bytes.iter().for_each(|&byte| each(f64::from(byte as i8))),
                DType::F8E4M3 | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F4E2M1 => {
                    bytes.iter().for_each(|&byte| each(small_float(dtype, byte)));
                }
                $(DType::$dtype => bytes
                    .chunks_exact(size_of::<$rust>())
                    .for_each(|element| each(ToF64::to_f64(bytemuck::pod_read_unaligned::<$rust>(element)))),)*
            }
        }
    };
}

elements! {
    f64 => F64, f32 => F32, f16 => F16, bf16 => BF16, i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64,
}

/// The number that a float of 8 bits or less stands for.
fn small_float(dtype: DType, byte: u8) -> f64 {
    // Bits of exponent and mantissa, the bias, and the first code (without its sign) that is no number.
    let (exponent, mantissa, bias, first_nan) = match dtype {
        DType::F8E4M3 => (4, 3, 7, 0x7f),
        DType::F8E4M3FNUZ => (4, 3, 8, 0x80),
        DType::F8E5M2 => (5, 2, 15, 0x7d),
        DType::F8E5M2FNUZ => (5, 2, 16, 0x80),
        _ => (2, 1, 1, 8),
    };
    let sign = 1u8 << (exponent + mantissa);
    let (size, negative) = (byte & (sign - 1), byte & sign != 0);
    let minus_zero_is_nan = matches!(dtype, DType::F8E4M3FNUZ | DType::F8E5M2FNUZ);
    let number = match size {
        0 if negative && minus_zero_is_nan => f64::NAN,
        size if size >= first_nan => f64::NAN,
        0x7c if dtype == DType::F8E5M2 => f64::INFINITY,
        size => {
            let (power, digits) = (i32::from(size >> mantissa), size & ((1 << mantissa) - 1));
            let whole = if power > 0 { digits | 1 << mantissa } else { digits };
            f64::from(whole) * 2f64.powi(power.max(1) - bias - mantissa)
        }
    };
    if negative { -number } else { number }
}

/// Conversion for summaries; rounds what a double cannot hold.
trait ToF64 {
    fn to_f64(self) -> f64;
}

macro_rules! to_f64 {
    ($($rust:ty),*) => { $(impl ToF64 for $rust { fn to_f64(self) -> f64 { self as f64 } })* };
}
to_f64!(f64, f32, i8, i16, i32, i64, u8, u16, u32, u64);

impl ToF64 for f16 {
    fn to_f64(self) -> f64 {
        f16::to_f64(self)
    }
}

impl ToF64 for bf16 {
    fn to_f64(self) -> f64 {
        bf16::to_f64(self)
    }
}

/// Bytes that begin on a cache line and are followed by slack.
pub(crate) struct AlignedBytes {
    /// `start` bytes to the first multiple of [`ALIGN`], then `len` bytes, then at least [`SLACK`]; never grows.
    store: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBytes {
    /// Zeroed bytes; an error, not an abort, if there is not enough memory.
    pub(crate) fn zeroed(len: usize) -> Result<AlignedBytes> {
        let mut store = Vec::new();
        let enough = len.checked_add(SLACK + ALIGN).filter(|&total| store.try_reserve_exact(total).is_ok());
        let total = enough.ok_or_else(|| Error::memory("a tensor", len as u64))?;
        store.resize(total, 0);
        let start = store.as_ptr().addr().wrapping_neg() % ALIGN;
        Ok(AlignedBytes { store, start, len })
    }

    pub(crate) fn copy_of(bytes: &[u8]) -> Result<AlignedBytes> {
        let mut copy = AlignedBytes::zeroed(bytes.len())?;
        copy.copy_from_slice(bytes);
        Ok(copy)
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.store[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.store[self.start..self.start + self.len]
    }
}

/// An owned tensor.
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: AlignedBytes,
    /// What the elements stand for; empty for numbers.
    strings: Dictionary,
}

/// A borrowed tensor, the form in which a session takes its inputs.
#[derive(Clone, Copy)]
pub struct TensorView<'a> {
    dtype: DType,
    shape: &'a [usize],
    bytes: &'a [u8],
    /// Whether the bytes are aligned and followed by slack, so that kernels may use them in place.
    padded: bool,
    /// What the elements stand for, if they are strings.
    strings: Option<&'a Dictionary>,
}

/// The bytes of a tensor of this type and shape.
///
/// # Errors
///
/// [`Error::Resource`] if that is more than an address space holds.
pub fn byte_length(dtype: DType, shape: &[usize]) -> Result<usize> {
    let count = shape.iter().try_fold(dtype.size(), |bytes, &extent| bytes.checked_mul(extent));
    let addressable = count.filter(|&bytes| bytes < isize::MAX as usize);
    addressable.ok_or_else(|| Error::Resource(format!("a tensor {} is too large", type_text(dtype, shape))))
}

/// A type as the textual IR prints it: `f32[1, 784]`.
pub(crate) fn type_text(dtype: DType, shape: &[usize]) -> String {
    format!("{dtype}{shape:?}")
}

impl Tensor {
    /// A tensor of zeros.
    ///
    /// # Errors
    ///
    /// [`Error::Resource`] if there is not enough memory.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let bytes = AlignedBytes::zeroed(byte_length(dtype, shape)?)?;
        Ok(Tensor::of(dtype, shape, bytes))
    }

    /// A tensor with these elements, in row-major order.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if the shape asks for another number of elements; [`Error::Resource`] if there is not enough memory.
    pub fn from_slice<T: Element>(shape: &[usize], elements: &[T]) -> Result<Tensor> {
        Tensor::from_bytes(T::DTYPE, shape, bytemuck::cast_slice(elements))
    }

    /// A tensor with these elements as they lie in memory, little-endian and in row-major order; a `bool` is a byte 0 or 1.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if type and shape ask for another number of bytes; [`Error::Resource`] if there is not enough memory.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Tensor> {
        let view = TensorView::new(dtype, shape, bytes)?;
        Ok(Tensor::of(dtype, shape, AlignedBytes::copy_of(view.bytes)?))
    }

    fn of(dtype: DType, shape: &[usize], bytes: AlignedBytes) -> Tensor {
        Tensor { dtype, shape: shape.to_vec(), bytes, strings: Dictionary::default() }
    }

    /// A tensor of these strings, in row-major order.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if the shape asks for another number of strings, or two of them have the same [handle](crate::strings::handle);
    /// [`Error::Resource`] if there is not enough memory.
    pub fn from_strings(shape: &[usize], strings: &[impl AsRef<str>]) -> Result<Tensor> {
        let mut tensor = Tensor::with_handles(shape, strings.len())?;
        for (element, text) in tensor.bytes.as_chunks_mut().0.iter_mut().zip(strings) {
            *element = tensor.strings.enter(text.as_ref())?.to_le_bytes();
        }
        Ok(tensor)
    }

    /// Empty strings, of which there have to be so many.
    fn with_handles(shape: &[usize], count: usize) -> Result<Tensor> {
        let tensor = Tensor::zeros(DType::Str, shape)?;
        match tensor.bytes.len() / 8 == count {
            true => Ok(tensor),
            false => Err(Error::Usage(format!("{} is not made of {count} strings", type_text(DType::Str, shape)))),
        }
    }

    /// The strings, in row-major order.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if the elements are numbers, or bytes were written that stand for no string.
    pub fn strings(&self) -> Result<Vec<&str>> {
        if self.dtype != DType::Str {
            return Err(Error::Usage(format!("the elements of this tensor are {}, not str", self.dtype)));
        }
        handles(&self.bytes).map(|handle| self.strings.text(handle)).collect()
    }

    /// Takes what its elements stand for out of a dictionary. Tensors of numbers stay as they are.
    pub(crate) fn name_strings(&mut self, known: &Dictionary) -> Result<()> {
        if self.dtype != DType::Str {
            return Ok(());
        }
        self.strings.clear();
        self.strings.take(handles(&self.bytes), known)
    }

    /// A tensor of pseudo-random elements, the same for the same type, shape and seed on every machine.
    ///
    /// Element `i` is made of the 64 bits `b` that SplitMix64 gives for the state `seed + (i+1) * 0x9e3779b97f4a7c15`:
    ///
    /// - floating-point: uniform in [-1, 1), `(b >> 40) / 2^23 - 1`, rounded to the element type. The range is that of
    ///   normalised images and activations; nothing overflows in f16.
    /// - floats of 8 and 4 bits: one of a few small numbers of either sign.
    /// - integer and `bool`: `b >> 63`, so 0 or 1. An integer input is mostly a token id, an index, a position or a mask;
    ///   what its upper bound is, its type does not tell, and 0 and 1 are in range for all of them.
    /// - strings: word `b >> 61` of `a` to `h`.
    ///
    /// # Errors
    ///
    /// [`Error::Resource`] if there is not enough memory.
    pub fn random(dtype: DType, shape: &[usize], seed: u64) -> Result<Tensor> {
        if dtype == DType::Str {
            let count = byte_length(dtype, shape)? / dtype.size();
            let words: Vec<&str> = split_mix(seed).take(count).map(|bits| WORDS[(bits >> 61) as usize]).collect();
            return Tensor::from_strings(shape, &words);
        }
        let mut tensor = Tensor::zeros(dtype, shape)?;
        let elements = tensor.bytes.chunks_exact_mut(dtype.size());
        for (bits, element) in split_mix(seed).zip(elements) {
            write_random(dtype, bits, element);
        }
        Ok(tensor)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements as they lie in memory, in row-major order.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The elements as they lie in memory, in row-major order, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The elements, in row-major order.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if `T` is not the element type. A `bool` tensor has no typed view: read its [`bytes`](Tensor::bytes).
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        expect_dtype::<T>(self.dtype)?;
        // Aligned to 64 bytes and a whole number of elements, so the cast always succeeds.
        bytemuck::try_cast_slice(&self.bytes).map_err(|e| Error::Usage(e.to_string()))
    }

    /// The elements, in row-major order, to be written.
    ///
    /// # Errors
    ///
    /// As for [`as_slice`](Tensor::as_slice).
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T]> {
        expect_dtype::<T>(self.dtype)?;
        bytemuck::try_cast_slice_mut(&mut self.bytes).map_err(|e| Error::Usage(e.to_string()))
    }

    /// The elements converted to f32, rounded where it cannot hold them.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if they are strings, [`Error::Resource`] if there is not enough memory.
    pub fn to_f32(&self) -> Result<Tensor> {
        if self.dtype == DType::Str {
            return Err(Error::Usage("strings are not converted to numbers".to_string()));
        }
        let mut converted = Tensor::zeros(DType::F32, &self.shape)?;
        let mut elements = converted.bytes.chunks_exact_mut(4);
        for_each_f64(self.dtype, &self.bytes, |value| {
            if let Some(element) = elements.next() {
                element.copy_from_slice(&(value as f32).to_le_bytes());
            }
        });
        Ok(converted)
    }

    /// The first of its slices along the first axis, of which there are at least so many; the memory of the others stays with it.
    pub(crate) fn first_rows(mut self, rows: usize) -> Tensor {
        if let Some(extent) = self.shape.first_mut().filter(|extent| **extent > rows) {
            self.bytes.len = self.bytes.len / *extent * rows;
            *extent = rows;
        }
        self
    }

    /// The tensor as an input for a session, used without a copy.
    pub fn view(&self) -> TensorView<'_> {
        let strings = (self.dtype == DType::Str).then_some(&self.strings);
        TensorView { dtype: self.dtype, shape: &self.shape, bytes: &self.bytes, padded: true, strings }
    }

    /// The first few strings in quotes; `None` for numbers.
    pub fn shown(&self) -> Option<String> {
        let strings = self.strings().ok()?;
        let first: Vec<String> = strings.iter().take(Summary::FIRST).map(|text| quoted(text)).collect();
        Some(format!("[{}{}]", first.join(", "), if strings.len() > first.len() { ", ..." } else { "" }))
    }

    /// Smallest, greatest and mean element and the first few; strings count as none.
    pub fn summary(&self) -> Summary {
        let mut summary = Summary { count: 0, min: f64::INFINITY, max: f64::NEG_INFINITY, mean: 0.0, nans: 0, first: Vec::new() };
        for_each_f64(self.dtype, &self.bytes, |value| {
            if summary.first.len() < Summary::FIRST {
                summary.first.push(value);
            }
            summary.count += 1;
            if value.is_nan() {
                summary.nans += 1;
                return;
            }
            summary.min = summary.min.min(value);
            summary.max = summary.max.max(value);
            summary.mean += value;
        });
        summary.mean /= (summary.count - summary.nans) as f64;
        summary
    }
}

fn expect_dtype<T: Element>(found: DType) -> Result<()> {
    if found == T::DTYPE {
        return Ok(());
    }
    Err(Error::Usage(format!("the elements of this tensor are {found}, not {}", T::DTYPE)))
}

/// The outputs of SplitMix64 for successive states, beginning after `seed`.
fn split_mix(seed: u64) -> impl Iterator<Item = u64> {
    (1u64..).map(move |i| {
        let z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// What random strings are drawn from.
const WORDS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// Writes one element as [`Tensor::random`] documents it.
fn write_random(dtype: DType, bits: u64, element: &mut [u8]) {
    let real = (bits >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
    match dtype {
        DType::F64 => element.copy_from_slice(&f64::from(real).to_le_bytes()),
        DType::F32 => element.copy_from_slice(&real.to_le_bytes()),
        DType::F16 => element.copy_from_slice(&f16::from_f32(real).to_le_bytes()),
        DType::BF16 => element.copy_from_slice(&bf16::from_f32(real).to_le_bytes()),
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => element[0] = (bits >> 63) as u8,
        DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::Bool => element[0] = (bits >> 63) as u8,
        DType::U4 | DType::U2 | DType::I4 | DType::I2 | DType::Str => element[0] = (bits >> 63) as u8,
        // A sign, and one of the 16 odd codes below 32, which are small in all of these types.
        DType::F8E4M3 | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ => {
            element[0] = ((bits >> 63) << 7 | (bits >> 40) & 31 | 1) as u8;
        }
        DType::F4E2M1 => element[0] = ((bits >> 63) << 3 | (bits >> 40) & 1) as u8,
    }
}

impl Clone for Tensor {
    /// Copies the elements. Aborts, as `Vec` does, if there is not enough memory.
    fn clone(&self) -> Tensor {
        let mut store = vec![0; self.bytes.store.len()];
        let start = store.as_ptr().addr().wrapping_neg() % ALIGN;
        store[start..start + self.bytes.len].copy_from_slice(&self.bytes);
        let bytes = AlignedBytes { store, start, len: self.bytes.len };
        Tensor { dtype: self.dtype, shape: self.shape.clone(), bytes, strings: self.strings.clone() }
    }
}

impl PartialEq for Tensor {
    /// Equal type, shape and bits: NaN equals itself, 0.0 differs from -0.0.
    fn eq(&self, other: &Tensor) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && *self.bytes == *other.bytes
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({self})")
    }
}

impl fmt::Display for Tensor {
    /// Type and summary on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ty = type_text(self.dtype, &self.shape);
        match self.shown() {
            Some(strings) => write!(f, "{ty}  {strings}"),
            None => write!(f, "{ty}  {}", self.summary()),
        }
    }
}

impl<'a> TensorView<'a> {
    /// A view of elements as they lie in memory, little-endian and in row-major order. Strings are made by [`Tensor::from_strings`].
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if type and shape ask for another number of bytes.
    pub fn new(dtype: DType, shape: &'a [usize], bytes: &'a [u8]) -> Result<TensorView<'a>> {
        let expected = byte_length(dtype, shape)?;
        if bytes.len() != expected {
            let what = type_text(dtype, shape);
            return Err(Error::Usage(format!("a tensor {what} has {expected} bytes, found {}", bytes.len())));
        }
        Ok(TensorView { dtype, shape, bytes, padded: false, strings: None })
    }

    /// A view of a slice of numbers, in row-major order.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if the shape asks for another number of elements.
    pub fn of<T: Element>(shape: &'a [usize], elements: &'a [T]) -> Result<TensorView<'a>> {
        TensorView::new(T::DTYPE, shape, bytemuck::cast_slice(elements))
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// The elements as they lie in memory.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What its elements stand for, if they are strings of a tensor.
    pub(crate) fn strings(&self) -> Option<&'a Dictionary> {
        self.strings
    }

    /// Whether kernels may use the bytes in place.
    pub(crate) fn is_padded(&self) -> bool {
        self.padded
    }
}

impl<'a> From<&'a Tensor> for TensorView<'a> {
    fn from(tensor: &'a Tensor) -> TensorView<'a> {
        tensor.view()
    }
}

/// What one line can say about a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Number of elements.
    pub count: u64,
    /// Smallest element that is a number; infinite if there is none.
    pub min: f64,
    /// Greatest element that is a number; minus infinite if there is none.
    pub max: f64,
    /// Mean of the elements that are numbers; NaN if there is none.
    pub mean: f64,
    /// How many elements are NaN.
    pub nans: u64,
    /// The first [`Summary::FIRST`] elements.
    pub first: Vec<f64>,
}

impl Summary {
    /// How many elements [`first`](Summary::first) holds at most.
    pub const FIRST: usize = 6;
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first.is_empty() {
            return write!(f, "no elements");
        }
        write!(f, "min {}  max {}  mean {}  ", Short(self.min), Short(self.max), Short(self.mean))?;
        if self.nans > 0 {
            write!(f, "{} NaN  ", self.nans)?;
        }
        let first: Vec<String> = self.first.iter().map(|&value| Short(value).to_string()).collect();
        write!(f, "[{}{}]", first.join(", "), if self.count <= first.len() as u64 { "" } else { ", ..." })
    }
}

/// A number with six significant digits, without trailing zeros.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.abs();
        if magnitude != 0.0 && !(1e-4..1e9).contains(&magnitude) {
            return write!(f, "{:.3e}", self.0);
        }
        let digits = if magnitude < 1.0 { 5 } else { 5 - ((magnitude as u64).ilog10() as usize).min(5) };
        let text = format!("{:.digits$}", self.0);
        match text.contains('.') {
            true => f.write_str(text.trim_end_matches('0').trim_end_matches('.')),
            false => f.write_str(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_aligned_for_every_length_and_survive_moves_and_clones() {
        let tensors: Vec<Tensor> = (0..200).map(|n| Tensor::random(DType::U8, &[n], n as u64).unwrap()).collect();
        for tensor in &tensors {
            assert_eq!(tensor.bytes().as_ptr().addr() % ALIGN, 0);
            assert!(tensor.bytes.store.len() >= tensor.bytes.start + tensor.bytes.len + SLACK);
            assert_eq!(tensor, &tensor.clone());
            assert_eq!(tensor.clone().bytes().as_ptr().addr() % ALIGN, 0);
        }
    }

    #[test]
    fn wrong_lengths_and_types_are_sentences() {
        let error = |result: Result<Tensor>| result.unwrap_err().to_string();
        assert_eq!(error(Tensor::from_slice(&[2, 2], &[1i32])), "a tensor i32[2, 2] has 16 bytes, found 4");
        assert_eq!(error(Tensor::zeros(DType::F64, &[usize::MAX, 2])), format!("a tensor f64[{}, 2] is too large", usize::MAX));
        assert!(error(Tensor::zeros(DType::I8, &[1 << 60])).contains("more memory"));
        let tensor = Tensor::from_slice(&[], &[1.5f32]).unwrap();
        assert_eq!(tensor.as_slice::<f64>().unwrap_err().to_string(), "the elements of this tensor are f32, not f64");
    }

    #[test]
    fn random_elements_are_fixed_in_range_and_differ_by_seed() {
        // The published outputs of SplitMix64 from state 0: e220a839..., 6e789e6a..., 06c45d18..., f88bb8a8....
        let first = Tensor::random(DType::F32, &[4], 0).unwrap();
        assert_eq!(first.as_slice::<f32>().unwrap(), [0.7666216, -0.13694406, -0.94713247, 0.9417639]);
        for dtype in DType::ALL {
            let tensor = Tensor::random(dtype, &[1000], 5).unwrap();
            assert_eq!(tensor, Tensor::random(dtype, &[1000], 5).unwrap());
            assert_ne!(tensor, Tensor::random(dtype, &[1000], 6).unwrap());
            if dtype == DType::Str {
                assert!(tensor.strings().unwrap().iter().all(|text| WORDS.contains(text)));
                continue;
            }
            let Summary { min, max, mean, .. } = tensor.summary();
            let is_float = dtype.name().contains('f');
            let (low, high, middle) = if is_float { (-1.0, 1.0, 0.0) } else { (0.0, 1.0, 0.5) };
            assert!(min >= low && max <= high && (mean - middle).abs() < 0.06, "{dtype}: {min} {max} {mean}");
        }
    }

    #[test]
    fn conversion_to_f32_keeps_the_values() {
        let half = Tensor::from_slice(&[3], &[0.5, -2.0, 65504.0].map(bf16::from_f32)).unwrap();
        assert_eq!(half.to_f32().unwrap().as_slice::<f32>().unwrap(), [0.5, -2.0, 65536.0]);
        let flags = Tensor::from_bytes(DType::Bool, &[2], &[0, 1]).unwrap();
        assert_eq!(flags.to_f32().unwrap().as_slice::<f32>().unwrap(), [0.0, 1.0]);
    }

    #[test]
    fn summaries_read_well() {
        let check = |tensor: Tensor, expected: &str| assert_eq!(tensor.to_string(), expected);
        check(Tensor::zeros(DType::I64, &[0, 3]).unwrap(), "i64[0, 3]  no elements");
        check(Tensor::from_slice(&[], &[f16::from_f32(0.5)]).unwrap(), "f16[]  min 0.5  max 0.5  mean 0.5  [0.5]");
        check(
            Tensor::from_slice(&[3], &[f32::NAN, 1e-7, 123456.7]).unwrap(),
            "f32[3]  min 1.000e-7  max 123457  mean 61728.4  1 NaN  [NaN, 1.000e-7, 123457]",
        );
        let many: Vec<i32> = (0..100).collect();
        check(Tensor::from_slice(&[100], &many).unwrap(), "i32[100]  min 0  max 99  mean 49.5  [0, 1, 2, 3, 4, 5, ...]");
        check(Tensor::from_bytes(DType::Bool, &[2], &[1, 0]).unwrap(), "bool[2]  min 0  max 1  mean 0.5  [1, 0]");
    }
}
