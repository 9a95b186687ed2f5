//! Dense row-major tensors: the constants of a graph and the values of the reference evaluator.
//!
//! The bytes are shared and immutable; a constant imported from a model points into the mapped file and is never copied.
//! Elements are little-endian and need not be aligned.

use crate::small::SmallFloat;
use crate::strings;
use crate::text::quoted;
use crate::ty::{DType, TensorType};
use bytes::Bytes;
use half::{bf16, f16};
use std::fmt;
use std::sync::Arc;

/// One element, in the widest type of its family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Element {
    /// Any float type.
    Float(f64),
    /// Any integer type; of a string its handle.
    Int(i128),
    /// A truth value.
    Bool(bool),
}

impl Element {
    /// As a float: integers are converted, `true` is 1.
    pub fn as_f64(self) -> f64 {
        match self {
            Element::Float(v) => v,
            Element::Int(v) => v as f64,
            Element::Bool(v) => u8::from(v).into(),
        }
    }

    /// As an integer: floats are truncated towards zero and saturate, NaN is 0.
    pub fn as_int(self) -> i128 {
        match self {
            Element::Float(v) => v as i128,
            Element::Int(v) => v,
            Element::Bool(v) => v.into(),
        }
    }

    /// As a truth value: whether it is not zero.
    pub fn as_bool(self) -> bool {
        match self {
            Element::Float(v) => v != 0.0,
            Element::Int(v) => v != 0,
            Element::Bool(v) => v,
        }
    }

    /// The zero of an element type.
    pub fn zero(dtype: DType) -> Element {
        match dtype {
            DType::Bool => Element::Bool(false),
            t if t.is_float() => Element::Float(0.0),
            _ => Element::Int(0),
        }
    }

    /// The value that `dtype` stores for it: floats are rounded, integers wrap, and the family is converted.
    pub fn rounded(self, dtype: DType) -> Element {
        match dtype {
            DType::F64 => Element::Float(self.as_f64()),
            DType::F32 => Element::Float(f64::from(self.as_f64() as f32)),
            DType::F16 => Element::Float(f16::from_f64(self.as_f64()).to_f64()),
            DType::BF16 => Element::Float(bf16::from_f64(self.as_f64()).to_f64()),
            DType::I64 => Element::Int((self.as_int() as i64).into()),
            DType::I32 => Element::Int((self.as_int() as i32).into()),
            DType::I16 => Element::Int((self.as_int() as i16).into()),
            DType::I8 => Element::Int((self.as_int() as i8).into()),
            DType::U64 | DType::Str => Element::Int((self.as_int() as u64).into()),
            DType::U32 => Element::Int((self.as_int() as u32).into()),
            DType::U16 => Element::Int((self.as_int() as u16).into()),
            DType::U8 => Element::Int((self.as_int() as u8).into()),
            DType::Bool => Element::Bool(self.as_bool()),
            DType::F8E4M3 | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F4E2M1 => {
                Element::Float(small(dtype).decode(self.code(dtype)).into())
            }
            DType::I4 | DType::U4 | DType::I2 | DType::U2 => {
                let (spare, value) = (128 - dtype.bits(), self.as_int());
                Element::Int(if dtype.is_signed_int() { value << spare >> spare } else { value & dtype.int_range().1 })
            }
        }
    }

    /// As text, for an element of this type: a string in quotes if it is known.
    pub fn shown(self, dtype: DType) -> String {
        match strings::text(self.as_int() as u64).filter(|_| dtype == DType::Str) {
            Some(text) => quoted(&text),
            None => self.to_string(),
        }
    }

    /// The byte that holds it in a small float type.
    fn code(self, dtype: DType) -> u8 {
        small(dtype).encode(self.as_f64())
    }
}

fn small(dtype: DType) -> SmallFloat {
    dtype.small_float().expect("called for the small float types")
}

/// Where bytes came from that can be read from there again: a file that is mapped.
pub trait Home: Send + Sync {
    /// Gives back the memory that `bytes`, which lie in it, take; who reads them next waits until they were read again.
    fn give_back(&self, bytes: &[u8]);
}

/// A value of static shape.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Bytes,
    home: Option<Arc<dyn Home>>,
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        (self.dtype, &self.shape, &self.data) == (other.dtype, &other.shape, &other.data)
    }
}

impl Tensor {
    /// A tensor over little-endian bytes.
    ///
    /// # Errors
    /// When the number of bytes is not the shape's.
    pub fn new(dtype: DType, shape: Vec<usize>, data: Bytes) -> Result<Tensor, String> {
        let wanted = shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d));
        match wanted {
            Some(n) if n == data.len() => Ok(Tensor { dtype, shape, data, home: None }),
            _ => Err(format!("{} bytes do not make {dtype}{shape:?}", data.len())),
        }
    }

    /// A tensor whose elements are given one by one, in row-major order, each rounded to `dtype`.
    ///
    /// # Panics
    /// When `elements` yields fewer than the shape asks for.
    pub fn from_elements(dtype: DType, shape: Vec<usize>, elements: impl IntoIterator<Item = Element>) -> Tensor {
        let count = shape.iter().product();
        let mut data = Vec::with_capacity(count * dtype.size());
        let mut elements = elements.into_iter();
        for _ in 0..count {
            push(&mut data, dtype, elements.next().expect("as many elements as the shape says"));
        }
        Tensor { dtype, shape, data: data.into(), home: None }
    }

    /// A tensor of `f32` values.
    pub fn from_f32s(shape: Vec<usize>, values: &[f32]) -> Tensor {
        Tensor::from_elements(DType::F32, shape, values.iter().map(|&v| Element::Float(v.into())))
    }

    /// A tensor of `i64` values.
    pub fn from_i64s(shape: Vec<usize>, values: &[i64]) -> Tensor {
        Tensor::from_elements(DType::I64, shape, values.iter().map(|&v| Element::Int(v.into())))
    }

    /// A tensor of strings, as many as the shape asks for.
    ///
    /// # Errors
    /// When there are more or fewer, or two different ones have the same handle.
    pub fn from_texts(shape: Vec<usize>, texts: &[impl AsRef<str>]) -> Result<Tensor, String> {
        let handles = texts.iter().map(|text| strings::intern(text.as_ref()).map(u64::to_le_bytes));
        Tensor::new(DType::Str, shape, handles.collect::<Result<Vec<[u8; 8]>, String>>()?.concat().into())
    }

    /// The strings of a tensor of such.
    ///
    /// # Errors
    /// When its elements are no strings, or a handle stands for none that was met.
    pub fn texts(&self) -> Result<Vec<Arc<str>>, String> {
        if self.dtype != DType::Str {
            return Err(format!("expects strings, found {}", self.ty()));
        }
        let text = |e: Element| strings::text(e.as_int() as u64).ok_or_else(|| format!("the handle {e} stands for no string"));
        self.elements().map(text).collect()
    }

    /// The same value everywhere.
    pub fn splat(dtype: DType, shape: Vec<usize>, value: Element) -> Tensor {
        let mut one = vec![];
        push(&mut one, dtype, value);
        let data = one.repeat(shape.iter().product());
        Tensor { dtype, shape, data: data.into(), home: None }
    }

    /// A rank-0 tensor.
    pub fn scalar(dtype: DType, value: Element) -> Tensor {
        Tensor::splat(dtype, vec![], value)
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The type, with numbers as extents.
    pub fn ty(&self) -> TensorType {
        TensorType::new(self.dtype, self.shape.iter().copied())
    }

    /// The little-endian bytes, row-major.
    pub fn bytes(&self) -> &Bytes {
        &self.data
    }

    /// The element at a row-major position.
    ///
    /// # Panics
    /// When `i` is not below [`Tensor::count`].
    pub fn get(&self, i: usize) -> Element {
        macro_rules! read {
            ($t:ty) => {{
                const SIZE: usize = size_of::<$t>();
                <$t>::from_le_bytes(self.data[i * SIZE..][..SIZE].try_into().expect("SIZE bytes"))
            }};
        }
        match self.dtype {
            DType::F64 => Element::Float(read!(f64)),
            DType::F32 => Element::Float(read!(f32).into()),
            DType::F16 => Element::Float(read!(f16).to_f64()),
            DType::BF16 => Element::Float(read!(bf16).to_f64()),
            DType::I64 => Element::Int(read!(i64).into()),
            DType::I32 => Element::Int(read!(i32).into()),
            DType::I16 => Element::Int(read!(i16).into()),
            DType::I8 => Element::Int(read!(i8).into()),
            DType::U64 | DType::Str => Element::Int(read!(u64).into()),
            DType::U32 => Element::Int(read!(u32).into()),
            DType::U16 => Element::Int(read!(u16).into()),
            DType::U8 => Element::Int(read!(u8).into()),
            DType::Bool => Element::Bool(self.data[i] != 0),
            DType::F8E4M3 | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F4E2M1 => {
                Element::Float(small(self.dtype).decode(self.data[i]).into())
            }
            DType::I4 | DType::I2 => Element::Int(read!(i8).into()),
            DType::U4 | DType::U2 => Element::Int(read!(u8).into()),
        }
    }

    /// The elements in row-major order.
    pub fn elements(&self) -> impl ExactSizeIterator<Item = Element> + '_ {
        (0..self.count()).map(|i| self.get(i))
    }

    /// All elements as floats.
    pub fn to_f64s(&self) -> Vec<f64> {
        self.elements().map(Element::as_f64).collect()
    }

    /// All elements as integers, if the type is one.
    pub fn to_i64s(&self) -> Option<Vec<i64>> {
        self.dtype.is_int().then(|| self.elements().map(|e| e.as_int() as i64).collect())
    }

    /// The value that every element has (bit for bit), if there is one.
    pub fn as_splat(&self) -> Option<Element> {
        let size = self.dtype.size();
        let first = self.data.get(..size)?;
        self.data.chunks_exact(size).all(|e| e == first).then(|| self.get(0))
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshaped(&self, shape: Vec<usize>) -> Result<Tensor, String> {
        Ok(Tensor { home: self.home.clone(), ..Tensor::new(self.dtype, shape, self.data.clone())? })
    }

    /// The same tensor, whose bytes lie in `home`.
    pub fn at(self, home: Arc<dyn Home>) -> Tensor {
        Tensor { home: Some(home), ..self }
    }

    /// Says that the elements will hardly be read again: memory that can be filled again from elsewhere is given back.
    pub fn give_back(&self) {
        if let Some(home) = &self.home {
            home.give_back(&self.data);
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        write!(f, "{:?} [", self.ty())?;
        for (i, e) in self.elements().take(SHOWN).enumerate() {
            write!(f, "{}{}", if i > 0 { ", " } else { "" }, e.shown(self.dtype))?;
        }
        write!(f, "{}]", if self.count() > SHOWN { ", ..." } else { "" })
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Float(v) => write!(f, "{v:?}"),
            Element::Int(v) => write!(f, "{v}"),
            Element::Bool(v) => write!(f, "{v}"),
        }
    }
}

fn push(data: &mut Vec<u8>, dtype: DType, value: Element) {
    match dtype {
        DType::F64 => data.extend(value.as_f64().to_le_bytes()),
        DType::F32 => data.extend((value.as_f64() as f32).to_le_bytes()),
        DType::F16 => data.extend(f16::from_f64(value.as_f64()).to_le_bytes()),
        DType::BF16 => data.extend(bf16::from_f64(value.as_f64()).to_le_bytes()),
        DType::I64 => data.extend((value.as_int() as i64).to_le_bytes()),
        DType::I32 => data.extend((value.as_int() as i32).to_le_bytes()),
        DType::I16 => data.extend((value.as_int() as i16).to_le_bytes()),
        DType::I8 => data.extend((value.as_int() as i8).to_le_bytes()),
        DType::U64 | DType::Str => data.extend((value.as_int() as u64).to_le_bytes()),
        DType::U32 => data.extend((value.as_int() as u32).to_le_bytes()),
        DType::U16 => data.extend((value.as_int() as u16).to_le_bytes()),
        DType::U8 => data.push(value.as_int() as u8),
        DType::Bool => data.push(value.as_bool().into()),
        DType::F8E4M3 | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F4E2M1 => data.push(value.code(dtype)),
        DType::I4 | DType::U4 | DType::I2 | DType::U2 => data.push(value.rounded(dtype).as_int() as u8),
    }
}
