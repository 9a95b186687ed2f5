//! Attributes: the compile-time parameters of an op, typed in the op table and uniform in text and e-graph.

use crate::dim::Dim;
use crate::ty::DType;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A float attribute; equal, ordered and hashed by its bits.
#[derive(Clone, Copy)]
pub struct Real(pub f64);

impl Real {
    fn key(self) -> u64 {
        self.0.to_bits()
    }
}
impl PartialEq for Real {
    fn eq(&self, other: &Real) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Real {}
impl PartialOrd for Real {
    fn partial_cmp(&self, other: &Real) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Real {
    fn cmp(&self, other: &Real) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}
impl Hash for Real {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}
impl fmt::Debug for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The value of one attribute, whatever its type in the table: what text and patterns see.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attr {
    /// `3`, `2*N`.
    Dim(Dim),
    /// `[1, 2]`, `[N, 784]`.
    Dims(Vec<Dim>),
    /// `0.5`, `1e-5`.
    Real(Real),
    /// `[0.5, 2.0]`.
    Reals(Vec<Real>),
    /// `f32`, `true`, `reflect`.
    Word(Arc<str>),
}

impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
            let items: Vec<String> = items.iter().map(|d| d.to_string()).collect();
            write!(f, "[{}]", items.join(", "))
        }
        match self {
            Attr::Dim(d) => write!(f, "{d}"),
            Attr::Dims(d) => list(f, d),
            Attr::Real(r) => write!(f, "{r}"),
            Attr::Reals(r) => list(f, r),
            Attr::Word(w) => f.write_str(w),
        }
    }
}

/// A Rust type that can stand in the op table as the type of an attribute.
pub trait AttrField: Sized {
    /// What the type is called in messages: "a list of axes".
    const EXPECTED: &'static str;
    /// The uniform form.
    fn to_attr(&self) -> Attr;
    /// From the uniform form; `None` if it is something else.
    fn from_attr(attr: &Attr) -> Option<Self>;
}

impl AttrField for Dim {
    const EXPECTED: &'static str = "an extent";
    fn to_attr(&self) -> Attr {
        Attr::Dim(self.clone())
    }
    fn from_attr(attr: &Attr) -> Option<Dim> {
        match attr {
            Attr::Dim(d) => Some(d.clone()),
            Attr::Word(w) => Some(Dim::symbol(w.clone())),
            _ => None,
        }
    }
}

impl AttrField for i64 {
    const EXPECTED: &'static str = "an integer";
    fn to_attr(&self) -> Attr {
        Attr::Dim(Dim::from(*self))
    }
    fn from_attr(attr: &Attr) -> Option<i64> {
        match attr {
            Attr::Dim(d) => d.as_const(),
            _ => None,
        }
    }
}

impl AttrField for usize {
    const EXPECTED: &'static str = "an axis or count";
    fn to_attr(&self) -> Attr {
        Attr::Dim(Dim::from(*self))
    }
    fn from_attr(attr: &Attr) -> Option<usize> {
        usize::try_from(i64::from_attr(attr)?).ok()
    }
}

impl AttrField for bool {
    const EXPECTED: &'static str = "true or false";
    fn to_attr(&self) -> Attr {
        Attr::Word(self.to_string().into())
    }
    fn from_attr(attr: &Attr) -> Option<bool> {
        match attr {
            Attr::Word(w) => w.parse().ok(),
            _ => None,
        }
    }
}

impl AttrField for Real {
    const EXPECTED: &'static str = "a number";
    fn to_attr(&self) -> Attr {
        Attr::Real(*self)
    }
    fn from_attr(attr: &Attr) -> Option<Real> {
        match attr {
            Attr::Real(r) => Some(*r),
            Attr::Dim(d) => d.as_const().map(|c| Real(c as f64)),
            Attr::Word(w) => w.parse().ok().map(Real),
            _ => None,
        }
    }
}

impl AttrField for DType {
    const EXPECTED: &'static str = "an element type";
    fn to_attr(&self) -> Attr {
        Attr::Word(self.name().into())
    }
    fn from_attr(attr: &Attr) -> Option<DType> {
        match attr {
            Attr::Word(w) => DType::named(w),
            _ => None,
        }
    }
}

impl AttrField for Arc<str> {
    const EXPECTED: &'static str = "a name";
    fn to_attr(&self) -> Attr {
        Attr::Word(self.clone())
    }
    fn from_attr(attr: &Attr) -> Option<Arc<str>> {
        match attr {
            Attr::Word(w) => Some(w.clone()),
            _ => None,
        }
    }
}

impl AttrField for Vec<Dim> {
    const EXPECTED: &'static str = "a list of extents";
    fn to_attr(&self) -> Attr {
        Attr::Dims(self.clone())
    }
    fn from_attr(attr: &Attr) -> Option<Vec<Dim>> {
        match attr {
            Attr::Dims(d) => Some(d.clone()),
            _ => None,
        }
    }
}

impl AttrField for Vec<i64> {
    const EXPECTED: &'static str = "a list of integers";
    fn to_attr(&self) -> Attr {
        Attr::Dims(self.iter().map(|&i| Dim::from(i)).collect())
    }
    fn from_attr(attr: &Attr) -> Option<Vec<i64>> {
        match attr {
            Attr::Dims(d) => d.iter().map(Dim::as_const).collect(),
            _ => None,
        }
    }
}

impl AttrField for Vec<usize> {
    const EXPECTED: &'static str = "a list of axes or counts";
    fn to_attr(&self) -> Attr {
        Attr::Dims(self.iter().map(|&i| Dim::from(i)).collect())
    }
    fn from_attr(attr: &Attr) -> Option<Vec<usize>> {
        Vec::<i64>::from_attr(attr)?.into_iter().map(|i| usize::try_from(i).ok()).collect()
    }
}

impl AttrField for Vec<Real> {
    const EXPECTED: &'static str = "a list of numbers";
    fn to_attr(&self) -> Attr {
        Attr::Reals(self.clone())
    }
    fn from_attr(attr: &Attr) -> Option<Vec<Real>> {
        match attr {
            Attr::Reals(r) => Some(r.clone()),
            Attr::Dims(d) => d.iter().map(|d| d.as_const().map(|c| Real(c as f64))).collect(),
            _ => None,
        }
    }
}

/// Declares attribute types whose values are words.
macro_rules! words {
    ($( $(#[$doc:meta])* $name:ident { $( $(#[$vdoc:meta])* $variant:ident = $word:literal ),* $(,)? } )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $( $(#[$vdoc])* $variant ),* }

        impl AttrField for $name {
            const EXPECTED: &'static str = concat!("one of", $(" `", $word, "`"),*);
            fn to_attr(&self) -> Attr {
                Attr::Word(match self { $( $name::$variant => $word ),* }.into())
            }
            fn from_attr(attr: &Attr) -> Option<$name> {
                match attr {
                    Attr::Word(w) => match &**w { $( $word => Some($name::$variant), )* _ => None },
                    _ => None,
                }
            }
        }
    )* };
}

words! {
    /// Where the channel axis of an image-like tensor stands.
    Layout {
        /// `[batch, channel, spatial...]`, as ONNX has it; weights `[out, in/group, kernel...]`.
        First = "first",
        /// `[batch, spatial..., channel]`; weights `[kernel..., in/group, out]`.
        Last = "last",
    }
    /// How a convolution is computed; a choice of the compiler that changes no more than the last bits of a result.
    Algorithm {
        /// Products summed over the window.
        Direct = "direct",
        /// Winograd's F(4x4, 3x3), where the windows are 3x3 with stride and dilation 1 and one group.
        Winograd = "winograd",
    }
    /// What stands outside of a padded tensor.
    PadMode {
        /// The padding value.
        Constant = "constant",
        /// The mirror image, without the edge element.
        Reflect = "reflect",
        /// The nearest edge element.
        Edge = "edge",
        /// The other end.
        Wrap = "wrap",
    }
    /// The direction in which a recurrence walks over time.
    Direction {
        /// First step first.
        Forward = "forward",
        /// Last step first.
        Reverse = "reverse",
    }
    /// The activation of a plain recurrent cell.
    Activation {
        /// Hyperbolic tangent.
        Tanh = "tanh",
        /// Rectified linear unit.
        Relu = "relu",
        /// Logistic function.
        Sigmoid = "sigmoid",
    }
    /// How a resized element takes its value.
    Interpolation {
        /// From the nearest input element.
        Nearest = "nearest",
        /// Linearly from the two neighbours of each axis.
        Linear = "linear",
        /// From four neighbours of each axis by Keys' cubic.
        Cubic = "cubic",
    }
    /// How an output coordinate of a resize becomes an input coordinate (ONNX `coordinate_transformation_mode`).
    Coordinates {
        /// `(o + 0.5)/scale - 0.5`.
        HalfPixel = "half_pixel",
        /// `half_pixel`, but 0 when the output extent is 1.
        PytorchHalfPixel = "pytorch_half_pixel",
        /// `o * (in - 1)/(scale*in - 1)`, and 0 when the divisor is 0.
        AlignCorners = "align_corners",
        /// `o/scale`.
        Asymmetric = "asymmetric",
    }
    /// How a coordinate between two elements picks the nearest (ONNX `nearest_mode`).
    Rounding {
        /// Halves go down.
        PreferFloor = "prefer_floor",
        /// Halves go up.
        PreferCeil = "prefer_ceil",
        /// Down.
        Floor = "floor",
        /// Up.
        Ceil = "ceil",
    }
    /// What is made of strings, element by element.
    TextTask {
        /// Both operands, one behind the other.
        Concat = "concat",
        /// Small letters, as Unicode has them.
        Lower = "lower",
        /// Capital letters.
        Upper = "upper",
        /// Whether the whole string fits the regular expression that is the second operand.
        Match = "match",
        /// The number that stands there.
        Parse = "parse",
        /// The shortest decimal of a number.
        Format = "format",
    }
    /// What a scatter does where it writes (ONNX `reduction`).
    ScatterMode {
        /// Replaces.
        Replace = "replace",
        /// Adds.
        Add = "add",
        /// Multiplies.
        Mul = "mul",
        /// Keeps the larger.
        Max = "max",
        /// Keeps the smaller.
        Min = "min",
    }
}
