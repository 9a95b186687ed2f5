//! Scalar expressions: the meaning of an elementwise op, written once as Rust arithmetic.
//!
//! `1.0 / (1.0 + exp(-x))` in the op table is the type rule, the reference evaluation and the code of `sigmoid`.
//! [`Scalar::typed`] gives every node its element type (a literal takes its sibling's), and both the evaluator and
//! the code generators walk the typed tree. Floats narrower than `f32` are computed in `f32` and rounded once, at the end.

use crate::attr::Real;
use crate::tensor::Element;
use crate::ty::DType;
use std::fmt;
use std::ops;
use std::rc::Rc;

/// A primitive of one operand. Those of float domain take floats only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // The names are the functions of <cmath>; `Round` rounds halves to even.
pub enum UnOp {
    Neg,
    Abs,
    Sign,
    Not,
    Exp,
    Log,
    Sqrt,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Asinh,
    Acosh,
    Atanh,
    Tanh,
    Erf,
    Floor,
    Ceil,
    Round,
    IsNan,
}

/// A primitive of two operands of the same type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // Spelled out where a name does not say it all.
pub enum BinOp {
    Add,
    Sub,
    Mul,
    /// Integers: truncated towards zero, and 0 where the divisor is 0.
    Div,
    /// NaN if either is NaN.
    Max,
    /// NaN if either is NaN.
    Min,
    Pow,
    /// Remainder with the sign of the divisor (Python's `%`), 0 for an integer divisor 0.
    Mod,
    /// Remainder with the sign of the dividend (C's `fmod`), 0 for an integer divisor 0.
    Rem,
    /// Logical on `bool`, bitwise on integers.
    And,
    /// Logical on `bool`, bitwise on integers.
    Or,
    /// Logical on `bool`, bitwise on integers.
    Xor,
    /// Integers; 0 when the count is not below the width.
    Shl,
    /// Unsigned: zeros come in. Signed: the sign comes in. Nothing else is left when the count is not below the width.
    Shr,
    Eq,
    Lt,
    Le,
}

/// A scalar expression over the op's operands.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// The element of operand `i`.
    Arg(usize),
    /// A literal; takes its type from what it is combined with.
    Const(f64),
    /// A primitive of one operand.
    Un(UnOp, Rc<Scalar>),
    /// A primitive of two operands.
    Bin(BinOp, Rc<Scalar>, Rc<Scalar>),
    /// `if condition { then } else { otherwise }`.
    Select(Rc<Scalar>, Rc<Scalar>, Rc<Scalar>),
    /// Conversion (C's rules; float to int truncates and saturates; to bool is `!= 0`).
    Cast(DType, Rc<Scalar>),
}

/// A scalar expression in which every node has its element type.
#[derive(Clone, Debug, PartialEq)]
pub struct Typed {
    /// The type of this node's value.
    pub dtype: DType,
    /// What it computes.
    pub kind: TypedKind,
}

/// The node of a [`Typed`] expression; the variants are those of [`Scalar`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum TypedKind {
    Arg(usize),
    Const(f64),
    Un(UnOp, Box<Typed>),
    Bin(BinOp, Box<Typed>, Box<Typed>),
    Select(Box<Typed>, Box<Typed>, Box<Typed>),
    Cast(Box<Typed>),
}

impl Scalar {
    /// Gives every node its type, for operands of the given element types.
    ///
    /// # Errors
    /// When two operands of a primitive differ in type, or a primitive does not take the type.
    pub fn typed(&self, operands: &[DType]) -> Result<Typed, String> {
        self.check(operands, None)
    }

    /// `hint` is the type a literal takes.
    fn check(&self, operands: &[DType], hint: Option<DType>) -> Result<Typed, String> {
        let node = |dtype, kind| Ok(Typed { dtype, kind });
        match self {
            Scalar::Arg(i) => {
                let dtype = *operands.get(*i).ok_or("an operand is missing")?;
                node(dtype, TypedKind::Arg(*i))
            }
            Scalar::Const(c) => node(hint.unwrap_or(DType::F32), TypedKind::Const(*c)),
            Scalar::Un(op, x) => {
                let x = x.check(operands, hint)?;
                let dtype = op.result(x.dtype)?;
                node(dtype, TypedKind::Un(*op, x.into()))
            }
            Scalar::Bin(op, x, y) => {
                let (x, y) = pair(x, y, operands, if op.compares() { None } else { hint })?;
                let dtype = op.result(x.dtype)?;
                node(dtype, TypedKind::Bin(*op, x.into(), y.into()))
            }
            Scalar::Select(c, x, y) => {
                let c = c.check(operands, Some(DType::Bool))?;
                if c.dtype != DType::Bool {
                    return Err(format!("the condition has type {}, expected bool", c.dtype));
                }
                let (x, y) = pair(x, y, operands, hint)?;
                node(x.dtype, TypedKind::Select(c.into(), x.into(), y.into()))
            }
            Scalar::Cast(to, x) => match x.check(operands, None)? {
                x if (x.dtype == DType::Str) != (*to == DType::Str) => Err(format!("{} is not converted to {to}", x.dtype)),
                x => node(*to, TypedKind::Cast(x.into())),
            },
        }
    }

    fn is_literal(&self) -> bool {
        match self {
            Scalar::Const(_) => true,
            Scalar::Arg(_) | Scalar::Cast(..) => false,
            Scalar::Un(_, x) => x.is_literal(),
            Scalar::Bin(_, x, y) | Scalar::Select(_, x, y) => x.is_literal() && y.is_literal(),
        }
    }
}

/// Types two siblings; one that is made of literals only takes the other's type.
fn pair(x: &Scalar, y: &Scalar, operands: &[DType], hint: Option<DType>) -> Result<(Typed, Typed), String> {
    let (x, y) = if x.is_literal() {
        let y = y.check(operands, hint)?;
        (x.check(operands, Some(y.dtype))?, y)
    } else {
        let x = x.check(operands, hint)?;
        let hint = x.dtype;
        (x, y.check(operands, Some(hint))?)
    };
    if x.dtype == y.dtype { Ok((x, y)) } else { Err(format!("operands have types {} and {}, expected the same", x.dtype, y.dtype)) }
}

impl UnOp {
    /// The result type, or why the operand type is wrong.
    pub fn result(self, operand: DType) -> Result<DType, String> {
        let accepts = match self {
            UnOp::Neg | UnOp::Abs | UnOp::Sign => operand.is_float() || operand.is_int(),
            UnOp::Not => operand.is_int() || operand == DType::Bool,
            _ => operand.is_float(),
        } && !operand.is_storage();
        match (accepts, self) {
            (false, _) => Err(format!("`{self}` does not take {operand}")),
            (true, UnOp::IsNan) => Ok(DType::Bool),
            (true, _) => Ok(operand),
        }
    }

    pub(crate) fn eval(self, x: Element) -> Element {
        match (self, x) {
            (UnOp::Neg, Element::Int(x)) => Element::Int(-x),
            (UnOp::Abs, Element::Int(x)) => Element::Int(x.abs()),
            (UnOp::Sign, Element::Int(x)) => Element::Int(x.signum()),
            (UnOp::Not, Element::Int(x)) => Element::Int(!x),
            (UnOp::Not, Element::Bool(x)) => Element::Bool(!x),
            (UnOp::IsNan, x) => Element::Bool(x.as_f64().is_nan()),
            (_, x) => Element::Float(self.eval_float(x.as_f64())),
        }
    }

    pub(crate) fn eval_float(self, x: f64) -> f64 {
        match self {
            UnOp::Neg => -x,
            UnOp::Abs => x.abs(),
            UnOp::Sign => {
                if x > 0.0 {
                    1.0
                } else if x < 0.0 {
                    -1.0
                } else {
                    x
                }
            }
            UnOp::Exp => x.exp(),
            UnOp::Log => x.ln(),
            UnOp::Sqrt => x.sqrt(),
            UnOp::Sin => x.sin(),
            UnOp::Cos => x.cos(),
            UnOp::Tan => x.tan(),
            UnOp::Asin => x.asin(),
            UnOp::Acos => x.acos(),
            UnOp::Atan => x.atan(),
            UnOp::Sinh => x.sinh(),
            UnOp::Cosh => x.cosh(),
            UnOp::Asinh => x.asinh(),
            UnOp::Acosh => x.acosh(),
            UnOp::Atanh => x.atanh(),
            UnOp::Tanh => x.tanh(),
            UnOp::Erf => libm::erf(x),
            UnOp::Floor => x.floor(),
            UnOp::Ceil => x.ceil(),
            UnOp::Round => x.round_ties_even(),
            UnOp::Not | UnOp::IsNan => unreachable!("decided by the type"),
        }
    }
}

impl BinOp {
    /// Whether the result is a truth value.
    pub fn compares(self) -> bool {
        matches!(self, BinOp::Eq | BinOp::Lt | BinOp::Le)
    }

    /// The result type for operands of one type, or why that type is wrong.
    pub fn result(self, operand: DType) -> Result<DType, String> {
        let accepts = match self {
            BinOp::And | BinOp::Or | BinOp::Xor => operand == DType::Bool || operand.is_int(),
            BinOp::Shl | BinOp::Shr => operand.is_int(),
            BinOp::Eq => true,
            _ => operand != DType::Bool,
        } && (self == BinOp::Eq || !operand.is_storage());
        match (accepts, self.compares()) {
            (false, _) => Err(format!("`{self}` does not take {operand}")),
            (true, true) => Ok(DType::Bool),
            (true, false) => Ok(operand),
        }
    }

    pub(crate) fn eval(self, x: Element, y: Element, dtype: DType) -> Element {
        match (x, y) {
            (Element::Float(x), Element::Float(y)) => self.eval_float(x, y),
            (Element::Int(x), Element::Int(y)) => self.eval_int(x, y, dtype),
            (x, y) => self.eval_bool(x.as_bool(), y.as_bool()),
        }
    }

    pub(crate) fn eval_float(self, x: f64, y: f64) -> Element {
        Element::Float(match self {
            BinOp::Add => x + y,
            BinOp::Sub => x - y,
            BinOp::Mul => x * y,
            BinOp::Div => x / y,
            BinOp::Max => {
                if x.is_nan() || x > y {
                    x
                } else {
                    y
                }
            }
            BinOp::Min => {
                if x.is_nan() || x < y {
                    x
                } else {
                    y
                }
            }
            BinOp::Pow => x.powf(y),
            BinOp::Mod => {
                let r = x % y;
                if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
            }
            BinOp::Rem => x % y,
            BinOp::Eq => return Element::Bool(x == y),
            BinOp::Lt => return Element::Bool(x < y),
            BinOp::Le => return Element::Bool(x <= y),
            BinOp::And | BinOp::Or | BinOp::Xor | BinOp::Shl | BinOp::Shr => unreachable!("decided by the type"),
        })
    }

    fn eval_int(self, x: i128, y: i128, dtype: DType) -> Element {
        let bits = 8 * dtype.size() as i128;
        Element::Int(match self {
            BinOp::Add => x + y,
            BinOp::Sub => x - y,
            BinOp::Mul => x.wrapping_mul(y),
            BinOp::Div => x.checked_div(y).unwrap_or(0),
            BinOp::Max => x.max(y),
            BinOp::Min => x.min(y),
            BinOp::Pow => int_pow(x, y),
            BinOp::Mod => x.checked_rem(y).map_or(0, |r| if r != 0 && (r < 0) != (y < 0) { r + y } else { r }),
            BinOp::Rem => x.checked_rem(y).unwrap_or(0),
            BinOp::And => x & y,
            BinOp::Or => x | y,
            BinOp::Xor => x ^ y,
            BinOp::Shl => {
                if (0..bits).contains(&y) {
                    x << y
                } else {
                    0
                }
            }
            BinOp::Shr => x >> if (0..bits).contains(&y) { y } else { 127 },
            BinOp::Eq => return Element::Bool(x == y),
            BinOp::Lt => return Element::Bool(x < y),
            BinOp::Le => return Element::Bool(x <= y),
        })
    }

    fn eval_bool(self, x: bool, y: bool) -> Element {
        Element::Bool(match self {
            BinOp::And => x & y,
            BinOp::Or => x | y,
            BinOp::Xor => x ^ y,
            BinOp::Eq => x == y,
            _ => unreachable!("decided by the type"),
        })
    }
}

/// Wrapping power; a negative exponent gives 0, but for a base of 1 or -1.
fn int_pow(base: i128, exponent: i128) -> i128 {
    match (base, exponent) {
        (1, _) | (_, 0) => 1,
        (-1, e) => {
            if e % 2 == 0 {
                1
            } else {
                -1
            }
        }
        (_, e) if e < 0 => 0,
        (_, e) => base.wrapping_pow(u32::try_from(e).unwrap_or(u32::MAX)),
    }
}

impl Typed {
    /// Reference semantics: every primitive is computed in `f64` and rounded to its type, narrow floats to `f32`.
    pub fn eval(&self, operands: &[Element]) -> Element {
        self.eval_wide(operands).rounded(self.dtype)
    }

    fn eval_wide(&self, operands: &[Element]) -> Element {
        let wide = self.dtype.wide();
        let value = match &self.kind {
            TypedKind::Arg(i) => return operands[*i],
            TypedKind::Const(c) => Element::Float(*c),
            TypedKind::Un(op, x) => op.eval(x.eval_wide(operands)),
            TypedKind::Bin(op, x, y) => op.eval(x.eval_wide(operands), y.eval_wide(operands), x.dtype),
            TypedKind::Select(c, x, y) => {
                return if c.eval_wide(operands).as_bool() { x.eval_wide(operands) } else { y.eval_wide(operands) };
            }
            TypedKind::Cast(x) => return cast_element(x.eval(operands), self.dtype),
        };
        value.rounded(wide)
    }
}

/// Conversion to `to`: float to integer truncates towards zero and saturates, integers wrap.
pub(crate) fn cast_element(x: Element, to: DType) -> Element {
    match x {
        Element::Float(v) if to.is_int() => {
            let (low, high) = to.int_range();
            Element::Int((v as i128).clamp(low, high))
        }
        x => x.rounded(to),
    }
}

/// Operands of the functions and operators below: expressions, literals, attributes.
impl From<f64> for Scalar {
    fn from(c: f64) -> Scalar {
        Scalar::Const(c)
    }
}
impl From<&Scalar> for Scalar {
    fn from(s: &Scalar) -> Scalar {
        s.clone()
    }
}
impl From<&Real> for Scalar {
    fn from(r: &Real) -> Scalar {
        Scalar::Const(r.0)
    }
}

fn un(op: UnOp, x: impl Into<Scalar>) -> Scalar {
    Scalar::Un(op, Rc::new(x.into()))
}
fn bin(op: BinOp, x: impl Into<Scalar>, y: impl Into<Scalar>) -> Scalar {
    Scalar::Bin(op, Rc::new(x.into()), Rc::new(y.into()))
}

macro_rules! unary_functions {
    ($($name:ident $op:ident;)*) => { $(
        #[doc = concat!("The primitive [`UnOp::", stringify!($op), "`].")]
        pub fn $name(x: impl Into<Scalar>) -> Scalar { un(UnOp::$op, x) }
    )* };
}
unary_functions! {
    abs Abs; sign Sign; not Not; exp Exp; log Log; sqrt Sqrt; sin Sin; cos Cos; tan Tan; asin Asin; acos Acos; atan Atan;
    sinh Sinh; cosh Cosh; asinh Asinh; acosh Acosh; atanh Atanh; tanh Tanh; erf Erf; floor Floor; ceil Ceil; round Round; is_nan IsNan;
}

macro_rules! binary_functions {
    ($($name:ident $op:ident;)*) => { $(
        #[doc = concat!("The primitive [`BinOp::", stringify!($op), "`].")]
        pub fn $name(x: impl Into<Scalar>, y: impl Into<Scalar>) -> Scalar { bin(BinOp::$op, x, y) }
    )* };
}
binary_functions! {
    max Max; min Min; pow Pow; modulo Mod; rem Rem; and And; or Or; xor Xor; shl Shl; shr Shr; eq Eq; lt Lt; le Le;
}

/// `if condition { then } else { otherwise }`.
pub fn select(condition: impl Into<Scalar>, then: impl Into<Scalar>, otherwise: impl Into<Scalar>) -> Scalar {
    Scalar::Select(Rc::new(condition.into()), Rc::new(then.into()), Rc::new(otherwise.into()))
}

/// Conversion to another element type.
pub fn cast(to: DType, x: impl Into<Scalar>) -> Scalar {
    Scalar::Cast(to, Rc::new(x.into()))
}

macro_rules! arithmetic {
    ($($trait:ident $method:ident;)*) => { $(
        impl<T: Into<Scalar>> ops::$trait<T> for Scalar {
            type Output = Scalar;
            fn $method(self, other: T) -> Scalar { bin(BinOp::$trait, self, other) }
        }
        impl<T: Into<Scalar>> ops::$trait<T> for &Scalar {
            type Output = Scalar;
            fn $method(self, other: T) -> Scalar { bin(BinOp::$trait, self, other) }
        }
        impl ops::$trait<Scalar> for f64 {
            type Output = Scalar;
            fn $method(self, other: Scalar) -> Scalar { bin(BinOp::$trait, self, other) }
        }
        impl ops::$trait<&Scalar> for f64 {
            type Output = Scalar;
            fn $method(self, other: &Scalar) -> Scalar { bin(BinOp::$trait, self, other) }
        }
    )* };
}
arithmetic! { Add add; Sub sub; Mul mul; Div div; }

impl ops::Neg for Scalar {
    type Output = Scalar;
    fn neg(self) -> Scalar {
        un(UnOp::Neg, self)
    }
}
impl ops::Neg for &Scalar {
    type Output = Scalar;
    fn neg(self) -> Scalar {
        un(UnOp::Neg, self)
    }
}

impl fmt::Display for UnOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}
impl fmt::Display for BinOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}
impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Arg(i) => match ["x", "y", "z"].get(*i) {
                Some(name) => f.write_str(name),
                None => write!(f, "x{i}"),
            },
            Scalar::Const(c) => write!(f, "{c}"),
            Scalar::Un(UnOp::Neg, x) => write!(f, "-{x}"),
            Scalar::Un(op, x) => write!(f, "{op}({x})"),
            Scalar::Bin(BinOp::Add, x, y) => write!(f, "({x} + {y})"),
            Scalar::Bin(BinOp::Sub, x, y) => write!(f, "({x} - {y})"),
            Scalar::Bin(BinOp::Mul, x, y) => write!(f, "{x}*{y}"),
            Scalar::Bin(BinOp::Div, x, y) => write!(f, "{x}/{y}"),
            Scalar::Bin(op, x, y) => write!(f, "{op}({x}, {y})"),
            Scalar::Select(c, x, y) => write!(f, "select({c}, {x}, {y})"),
            Scalar::Cast(to, x) => write!(f, "{to}({x})"),
        }
    }
}
