//! Tensor cores: products of tiles that the lanes of a warp hold together.
//!
//! An operand lies in shared memory as its [`Layout`] says; a [`Reader`] brings the part of a lane of 16 points and 32 bytes of `k` into
//! four registers, a [`Fragment`]: by `ldmatrix` where the elements lie as the tensor cores take them, else one by one, converted on
//! the way. Which element is whose is in the PTX ISA, "Matrix Fragments for mma.m16n8k8" and "mma.m16n8k16".
//!
//! **Invariant.** Products of f32 have f32's accuracy unless the target allows TF32: an operand is split into a TF32 and a TF32 of what
//! that leaves, and only the product of the two rests, below 2^-22 of the whole, is left out; and since tensor cores round sums toward
//! zero, they add up a few products at most, and what they find is added by an addition that rounds to nearest (Ootomo and Yokota,
//! "Recovering single precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak performance", 2022). Narrow
//! operands and TF32 are added up by the tensor cores. An operand that is not finite makes its sums NaN or infinite.
//!
//! ```text
//! lane 4*g + t of sums 16x8 has   (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1)
//! of a: 16x8 TF32                 (g, t) (g+8, t) (g, t+4) (g+8, t+4)
//! of two b: 8x16 TF32, by point   (g, t) (g, t+4) (g+8, t) (g+8, t+4)
//! ```

use super::grid::{THREADS, WARP, thread};
use crate::cpu::emit::{Emit, Value};
use crate::cpu::ops::widened;
use crate::cpu::scope::Gen;
use crate::target::Target;
use egret_ir::{DType, Dim};
use inkwell::values::PointerValue;

/// Points of a fragment.
pub(super) const POINTS: i64 = 16;

/// Columns of a tile of sums, and the sums of a tile that a lane has.
pub(super) const COLUMNS: i64 = 8;
pub(super) const SUMS: usize = 4;

/// Bytes of a row of `ldmatrix`, and of the widest copy.
pub(super) const ROW: i64 = 16;

/// What tensor cores multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Tf32,
    Bf16,
    F16,
}

impl Format {
    /// The element type whose bits it has in shared memory.
    fn stored(self) -> DType {
        match self {
            Format::Tf32 => DType::F32,
            Format::Bf16 => DType::BF16,
            Format::F16 => DType::F16,
        }
    }

    /// Elements of a register.
    fn packed(self) -> i64 {
        4 / self.stored().size() as i64
    }

    /// Steps of `k` of a fragment.
    pub(super) fn steps(self) -> i64 {
        8 * self.packed()
    }
}

/// How products of two operands are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arithmetic {
    pub(super) format: Format,
    /// Whether what rounding to the format leaves of an operand is multiplied too.
    pub(super) split: bool,
}

impl Arithmetic {
    /// The arithmetic for operands of these types: what is exact for narrow ones, which are all TF32s too; of f32 it is, unless the target
    /// lets products round.
    pub(super) fn of(a: DType, b: DType, target: &Target) -> Option<Arithmetic> {
        let known = |dtype: DType| matches!(dtype, DType::F32 | DType::BF16 | DType::F16);
        let format = match (a, b) {
            _ if !has_tensor_cores(target) => return None,
            (DType::BF16, DType::BF16) => Format::Bf16,
            (DType::F16, DType::F16) => Format::F16,
            _ if known(a) && known(b) => Format::Tf32,
            _ => return None,
        };
        Some(Arithmetic { format, split: format == Format::Tf32 && !target.tf32 })
    }
}

/// Whether a GPU has the formats and the asynchronous copies; before `sm_80` products are those of [`product`](super::product).
fn has_tensor_cores(target: &Target) -> bool {
    target.cpu != "sm_75"
}

/// What neighbours in a row of shared memory are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Along {
    /// Steps of `k`; rows are points.
    Depth,
    /// Points; rows are steps.
    Points,
}

/// How lanes read what was brought to shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// As it was brought.
    Straight,
    /// What was brought as points are the steps of the product, and the other way around.
    Turned,
    /// Lane `t` of four takes steps `2*t` and `2*t + 1` for its two of a TF32 fragment, where it would take `t` and `t + 4`: these are the
    /// columns that it has of sums, which can then be the other operand. A sum over `k` does not change when its steps are exchanged.
    Paired,
    /// As [warpgroups](super::group) read it: rows of 128 bytes, of points in pieces of so many; the 16-byte parts of eight rows are
    /// exchanged, by an exclusive or with the number of the row, so that each has a bank of its own along rows and across them.
    Swizzled,
    /// As they read it, too: rows of 16 bytes, a step's points of a panel as wide as that.
    Panels,
}

/// Bytes of a row that is swizzled.
pub(super) const SWIZZLED_ROW: i64 = 128;

impl Order {
    /// Bytes of a row, where that is fixed.
    fn row(self) -> Option<i64> {
        match self {
            Order::Straight | Order::Turned | Order::Paired => None,
            Order::Swizzled => Some(SWIZZLED_ROW),
            Order::Panels => Some(ROW),
        }
    }
}

/// How a slice of an operand lies in shared memory. Rows are padded so that lanes that read 8 rows of 16 bytes, or `4*t + g` words of
/// four rows, find them on different banks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) dtype: DType,
    pub(super) along: Along,
    pub(super) points: i64,
    pub(super) steps: i64,
    pub(super) order: Order,
}

impl Layout {
    pub(super) fn size(&self) -> i64 {
        self.dtype.size() as i64
    }

    /// Bytes from a row to the next.
    fn pitch(&self) -> i64 {
        if let Some(row) = self.order.row() {
            return row;
        }
        let elements = if self.along == Along::Depth { self.steps } else { self.points };
        // Words of four rows that are neighbours, `t`, have to be 8 banks apart; those of every second row are with half of that.
        let is_by_words = self.size() == 4 && self.as_read().along == Along::Points && self.order != Order::Paired;
        elements * self.size() + if is_by_words { 2 * ROW } else { ROW }
    }

    /// The same bytes as the product sees them.
    fn as_read(&self) -> Layout {
        let turned = if self.along == Along::Depth { Along::Points } else { Along::Depth };
        match self.order {
            Order::Straight | Order::Paired | Order::Swizzled | Order::Panels => *self,
            Order::Turned => Layout { along: turned, points: self.steps, steps: self.points, order: Order::Straight, ..*self },
        }
    }

    /// Bytes from a point to the next.
    pub(super) fn point(&self) -> i64 {
        if self.along == Along::Depth { self.pitch() } else { self.size() }
    }

    /// Bytes from a step to the next.
    pub(super) fn step(&self) -> i64 {
        if self.along == Along::Depth { self.size() } else { self.pitch() }
    }

    /// Where an element is, before rows are swizzled.
    pub(super) fn place(&self, point: &Dim, step: &Dim) -> Dim {
        let Some(row) = self.order.row().filter(|_| self.along == Along::Points) else {
            return point.clone() * self.point() + step.clone() * self.step();
        };
        let of_row = Dim::from(row / self.size());
        (point.floor_div(&of_row) * self.steps + step.clone()) * row + point.modulo(&of_row) * self.size()
    }

    pub(super) fn bytes(&self) -> i64 {
        if self.order.row().is_some() {
            return self.points * self.steps * self.size();
        }
        self.pitch() * if self.along == Along::Depth { self.points } else { self.steps }
    }
}

/// Which operand: they differ in the order of a fragment's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    A,
    B,
}

impl Side {
    /// Which half of the points and which half of the steps register `r`, or the matrix of that number, has.
    fn halves(self, r: i64) -> (i64, i64) {
        if self == Side::A { (r % 2, r / 2) } else { (r / 2, r % 2) }
    }
}

/// How a lane reads its part of an operand.
pub(super) struct Reader {
    layout: Layout,
    side: Side,
    arithmetic: Arithmetic,
    /// Where its part of the first points and steps is, in bytes.
    own: Dim,
}

/// 16 points and as many steps as the format has, of a lane: rounded to the format, and what that leaves.
#[derive(Clone)]
pub(super) struct Fragment<'c> {
    parts: [Option<Vec<Value<'c>>>; 2],
}

/// The number of the thread in its warp.
pub(super) fn lane() -> Dim {
    thread().modulo(&WARP.into())
}

/// The number of the warp in its block.
pub(super) fn warp() -> Dim {
    thread().floor_div(&WARP.into())
}

/// The row and the first column of a tile of sums that a lane has.
pub(super) fn of_sums() -> (Dim, Dim) {
    (lane().floor_div(&4.into()), lane().modulo(&4.into()) * 2)
}

impl Reader {
    /// Whether the elements lie as the tensor cores take them.
    fn by_matrices(&self) -> bool {
        let format = self.arithmetic.format;
        let as_they_lie = self.layout.dtype == format.stored() && (self.layout.along == Along::Depth || format.packed() == 2);
        as_they_lie && self.layout.order != Order::Paired
    }

    /// Steps from a lane's elements to the next lane's, and from those of a register to those of the other half.
    fn steps_apart(&self) -> [i64; 2] {
        let packed = self.arithmetic.format.packed();
        if self.layout.order == Order::Paired { [2, 1] } else { [packed, 4 * packed] }
    }

    /// Where a lane's part begins, in bytes.
    fn part(&self) -> Dim {
        let (layout, lane) = (&self.layout, lane());
        if !self.by_matrices() {
            let (g, t) = (lane.floor_div(&4.into()), lane.modulo(&4.into()));
            return g * layout.point() + t * (self.steps_apart()[0] * layout.step());
        }
        let (row, low, high) = (lane.modulo(&8.into()), lane.floor_div(&8.into()).modulo(&2.into()), lane.floor_div(&16.into()));
        let (points, steps) = if self.side == Side::A { (low, high) } else { (high, low) };
        match layout.along {
            Along::Depth => (row + points * 8) * layout.point() + steps * ROW,
            Along::Points => (row + steps * 8) * layout.step() + points * (8 * layout.point()),
        }
    }
}

impl<'c> Gen<'_, 'c> {
    /// The way a lane reads an operand.
    pub(super) fn reader(&mut self, layout: Layout, side: Side, arithmetic: Arithmetic) -> Reader {
        let mut reader = Reader { layout: layout.as_read(), side, arithmetic, own: Dim::ZERO };
        reader.own = self.named("%own", &reader.part(), (0, layout.bytes().into()));
        reader
    }

    /// Where a lane's part of the points from `first` on is, of an operand that begins at `start`, in bytes of `memory`.
    pub(super) fn part_of_lane(&mut self, memory: PointerValue<'c>, reader: &Reader, start: &Dim, first: &Dim) -> PointerValue<'c> {
        let at = self.index(&(start.clone() + first.clone() * reader.layout.point() + reader.own.clone()));
        self.e.offset(memory, at, 1)
    }

    /// The fragment of the points and steps from these on.
    pub(super) fn fragment(&self, reader: &Reader, part: PointerValue<'c>, point: i64, step: i64) -> Fragment<'c> {
        let (layout, format) = (&reader.layout, reader.arithmetic.format);
        let at = self.e.displaced(part, point * layout.point() + step * layout.step());
        if reader.by_matrices() {
            let words = self.e.load_matrices(at, layout.along == Along::Points);
            return match format {
                Format::Tf32 => self.split(reader.arithmetic, words.iter().map(|word| self.e.word_as(*word, self.f32_type())).collect()),
                Format::Bf16 | Format::F16 => Fragment { parts: [Some(words), None] },
            };
        }
        let [_, apart] = reader.steps_apart();
        let register = |r: i64| {
            let (points, steps) = reader.side.halves(r);
            let at = self.e.displaced(at, 8 * points * layout.point() + apart * steps * layout.step());
            (0..format.packed()).map(|i| self.element(self.e.displaced(at, i * layout.step()), layout.dtype)).collect::<Vec<_>>()
        };
        let elements: Vec<Vec<Value>> = (0..4).map(register).collect();
        match elements.iter().map(|pair| <[Value; 2]>::try_from(&pair[..])).collect::<Result<Vec<_>, _>>() {
            Ok(pairs) => Fragment { parts: [Some(pairs.into_iter().map(|pair| self.e.packed(format, pair)).collect()), None] },
            Err(_) if layout.dtype == DType::F32 => self.split(reader.arithmetic, elements.concat()),
            // Narrow floats are TF32s.
            Err(_) => Fragment { parts: [Some(elements.concat().iter().map(|x| self.e.as_word(*x)).collect()), None] },
        }
    }

    fn f32_type(&self) -> inkwell::types::BasicTypeEnum<'c> {
        self.e.register_type(DType::F32)
    }

    /// An element of shared memory as f32.
    fn element(&self, at: PointerValue<'c>, dtype: DType) -> Value<'c> {
        widened(&self.e, self.e.load(self.e.memory_type(dtype), at, dtype.size()), dtype)
    }

    /// What the lanes have of sums of 16 rows and as many columns as the format has steps, as a first operand over these columns; with
    /// TF32 the second one is to be [paired](Order::Paired).
    pub(super) fn sums_as_operand(&self, arithmetic: Arithmetic, sums: &[Value<'c>]) -> Fragment<'c> {
        match arithmetic.format {
            Format::Tf32 => self.split(arithmetic, [0, 2, 1, 3].map(|i| sums[i]).to_vec()),
            format => {
                let words = sums.chunks(2).map(|pair| self.e.packed(format, [pair[0], pair[1]])).collect();
                Fragment { parts: [Some(words), None] }
            }
        }
    }

    /// f32s as TF32s, and what that leaves of them if it is to be multiplied.
    pub(super) fn split(&self, arithmetic: Arithmetic, values: Vec<Value<'c>>) -> Fragment<'c> {
        let rounded: Vec<Value> = values.iter().map(|x| self.e.rounded_to_tf32(*x)).collect();
        let rest = |(x, rounded): (&Value<'c>, &Value<'c>)| {
            let rounded = self.e.word_as(*rounded, x.get_type());
            self.e.rounded_to_tf32(self.e.fsub(*x, rounded))
        };
        let rests = arithmetic.split.then(|| values.iter().zip(&rounded).map(rest).collect());
        Fragment { parts: [Some(rounded), rests] }
    }
}

impl<'c> Emit<'c> {
    /// `sums[i][j] += a[i] * b[j]`, where each of `b` makes two tiles of sums: small products first, and tiles in turn, since a product
    /// waits for the last one of its tile.
    pub(super) fn multiply(&self, arithmetic: Arithmetic, a: &[Fragment<'c>], b: &[Fragment<'c>], sums: &mut [Value<'c>]) {
        for (a, sums) in a.iter().zip(sums.chunks_mut(2 * b.len() * SUMS)) {
            let zeros = || sums.iter().map(|sum| self.float(*sum, 0.0)).collect();
            let mut products: Vec<Value> = if arithmetic.split { zeros() } else { sums.to_vec() };
            for (x, y) in [(1, 0), (0, 1), (0, 0)] {
                for (b, products) in b.iter().zip(products.chunks_mut(2 * SUMS)) {
                    let Some((a, b)) = a.parts[x].as_ref().zip(b.parts[y].as_ref()) else { continue };
                    for (b, tile) in b.chunks(2).zip(products.chunks_mut(SUMS)) {
                        tile.copy_from_slice(&self.multiply_add(arithmetic.format, a, b, tile));
                    }
                }
            }
            let added = |(sum, product): (&Value<'c>, &Value<'c>)| if arithmetic.split { self.fadd(*sum, *product) } else { *product };
            let found: Vec<Value> = sums.iter().zip(&products).map(added).collect();
            sums.copy_from_slice(&found);
        }
    }
}

/// Warps of a block.
pub(super) const WARPS: i64 = (THREADS / WARP) as i64;
