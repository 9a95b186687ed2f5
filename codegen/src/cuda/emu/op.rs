//! The instructions there are, as a table: what stands before the types in an opcode, and what it means.
//!
//! **Invariant.** An opcode that is not in the table is an error that names it: nothing is skipped or guessed.

/// How the bits of a register are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bits,
    Unsigned,
    Signed,
    Float,
    Predicate,
}

/// The type at the end of an opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Type {
    pub(super) kind: Kind,
    pub(super) bits: u32,
}

impl Type {
    fn named(text: &str) -> Option<Type> {
        if text == "pred" {
            return Some(Type { kind: Kind::Predicate, bits: 1 });
        }
        let kind = match text.as_bytes().first()? {
            b'b' => Kind::Bits,
            b'u' => Kind::Unsigned,
            b's' => Kind::Signed,
            b'f' => Kind::Float,
            _ => return None,
        };
        let bits = text[1..].parse().ok().filter(|b| matches!(b, 8 | 16 | 32 | 64))?;
        Some(Type { kind, bits })
    }

    pub(super) fn size(self) -> usize {
        (self.bits as usize).div_ceil(8)
    }
}

/// A function of values of the instruction's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Abs,
    Neg,
    Not,
    Sqrt,
    Reciprocal,
    /// Two to the power of a float, nearly.
    AboutExp2,
    Add,
    Sub,
    MulLow,
    MulHigh,
    Div,
    Rem,
    Min,
    Max,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
    CopySign,
    MulAdd,
    Fma,
    /// The upper word of `b << 32 | a` shifted left.
    FunnelLeft,
    /// The lower word of that shifted right.
    FunnelRight,
    /// Bytes of two words picked by nibbles.
    Permute,
    ExtractBits,
    LeadingZeros,
}

/// What is compared; the second letter stands for "or one is NaN" in those of floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    EqNan,
    NeNan,
    LtNan,
    LeNan,
    GtNan,
    GeNan,
    Ordered,
    Nan,
}

/// How a conversion rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    /// To the nearest that the type has, or exact.
    Nearest,
    /// To an integer: nearest, ties to even.
    Even,
    Zero,
    Down,
    Up,
}

/// A kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Global,
    Shared,
}

/// What a warp multiplies: the elements of its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    Tf32,
    Bf16,
    F16,
}

/// What an instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Move(Type),
    Apply(Function, Type),
    /// The whole product of two numbers, in twice their bits; a third operand is added.
    Wide(Type),
    Compare(Compare, Type),
    Select(Type),
    Convert {
        to: Type,
        from: Type,
        rounding: Rounding,
    },
    /// Two f32s as f16s in one register, the first above the second.
    PackHalves(Type),
    /// The same as bf16s.
    PackBrains,
    /// An f32 as a bf16.
    RoundBrain,
    /// A bf16 without its sign.
    AbsBrain,
    /// A bf16 with the other sign.
    NegBrain,
    /// An f32 rounded to TF32, ties away from zero.
    RoundTf32,
    /// A copy from global to shared memory that arrives when it is waited for.
    CopyAsync,
    CommitCopies,
    WaitForCopies,
    /// The copies of the thread are an arrival at a barrier in shared memory when they arrive.
    CopiesArrive,
    /// A copy of many bytes, which a barrier in shared memory counts when they arrive.
    CopyBulk,
    MakePhases,
    Arrive,
    /// An arrival that says how many bytes there are to wait for.
    ArriveExpecting,
    TryWait,
    /// Four matrices of 8 by 8 words of 16 bits from shared memory.
    LoadMatrices {
        transposed: bool,
    },
    /// A product of 16 rows and 8 columns, added to sums in f32.
    Multiply(Element),
    /// What a thread has written to shared memory is for tensor cores to read.
    Show,
    /// A product of 64 rows and so many columns by four warps, which goes on until it is waited for.
    StartProduct(Element, usize),
    BeginProducts,
    CommitProducts,
    WaitForProducts,
    Parameter,
    Load(Space, Type, usize),
    Store(Space, Type, usize),
    Shuffle,
    BlockBarrier,
    WarpBarrier,
    Branch,
    Return,
}

/// A row of the table: an instruction without its types.
#[derive(Clone, Copy)]
enum Form {
    Move,
    Apply(Function),
    Wide,
    Compare(Compare),
    Select,
    Convert(Rounding),
    PackHalves,
    Parameter,
    Load(Space, usize),
    Store(Space, usize),
    Plain(Op),
}

/// Every instruction there is.
const TABLE: &[(&str, Form)] = &[
    ("abs", Form::Apply(Function::Abs)),
    ("neg", Form::Apply(Function::Neg)),
    ("not", Form::Apply(Function::Not)),
    ("sqrt.rn", Form::Apply(Function::Sqrt)),
    ("ex2.approx.ftz", Form::Apply(Function::AboutExp2)),
    ("add", Form::Apply(Function::Add)),
    ("add.rn", Form::Apply(Function::Add)),
    ("sub", Form::Apply(Function::Sub)),
    ("sub.rn", Form::Apply(Function::Sub)),
    ("mul.rn", Form::Apply(Function::MulLow)),
    ("mul.lo", Form::Apply(Function::MulLow)),
    ("mul.hi", Form::Apply(Function::MulHigh)),
    ("mul.wide", Form::Wide),
    ("mad.wide", Form::Wide),
    ("mad.lo", Form::Apply(Function::MulAdd)),
    ("fma.rn", Form::Apply(Function::Fma)),
    ("div", Form::Apply(Function::Div)),
    ("div.rn", Form::Apply(Function::Div)),
    ("rcp.rn", Form::Apply(Function::Reciprocal)),
    ("rem", Form::Apply(Function::Rem)),
    ("min", Form::Apply(Function::Min)),
    ("max", Form::Apply(Function::Max)),
    ("and", Form::Apply(Function::And)),
    ("or", Form::Apply(Function::Or)),
    ("xor", Form::Apply(Function::Xor)),
    ("shl", Form::Apply(Function::ShiftLeft)),
    ("shr", Form::Apply(Function::ShiftRight)),
    ("copysign", Form::Apply(Function::CopySign)),
    ("shf.l.wrap", Form::Apply(Function::FunnelLeft)),
    ("shf.r.wrap", Form::Apply(Function::FunnelRight)),
    ("prmt", Form::Apply(Function::Permute)),
    ("bfe", Form::Apply(Function::ExtractBits)),
    ("clz", Form::Apply(Function::LeadingZeros)),
    ("setp.eq", Form::Compare(Compare::Eq)),
    ("setp.ne", Form::Compare(Compare::Ne)),
    ("setp.lt", Form::Compare(Compare::Lt)),
    ("setp.le", Form::Compare(Compare::Le)),
    ("setp.gt", Form::Compare(Compare::Gt)),
    ("setp.ge", Form::Compare(Compare::Ge)),
    ("setp.equ", Form::Compare(Compare::EqNan)),
    ("setp.neu", Form::Compare(Compare::NeNan)),
    ("setp.ltu", Form::Compare(Compare::LtNan)),
    ("setp.leu", Form::Compare(Compare::LeNan)),
    ("setp.gtu", Form::Compare(Compare::GtNan)),
    ("setp.geu", Form::Compare(Compare::GeNan)),
    ("setp.num", Form::Compare(Compare::Ordered)),
    ("setp.nan", Form::Compare(Compare::Nan)),
    ("selp", Form::Select),
    ("cvt", Form::Convert(Rounding::Nearest)),
    ("cvt.rn", Form::Convert(Rounding::Nearest)),
    ("cvt.rni", Form::Convert(Rounding::Even)),
    ("cvt.rzi", Form::Convert(Rounding::Zero)),
    ("cvt.rmi", Form::Convert(Rounding::Down)),
    ("cvt.rpi", Form::Convert(Rounding::Up)),
    ("cvt.rn.f16x2", Form::PackHalves),
    ("cvt.rn.bf16x2", Form::Plain(Op::PackBrains)),
    ("cvt.rn.bf16", Form::Plain(Op::RoundBrain)),
    ("abs.bf16", Form::Plain(Op::AbsBrain)),
    ("neg.bf16", Form::Plain(Op::NegBrain)),
    ("cvt.rna.tf32", Form::Plain(Op::RoundTf32)),
    ("cp.async.ca.shared.global", Form::Plain(Op::CopyAsync)),
    ("cp.async.cg.shared.global", Form::Plain(Op::CopyAsync)),
    ("cp.async.commit_group", Form::Plain(Op::CommitCopies)),
    ("cp.async.wait_group", Form::Plain(Op::WaitForCopies)),
    ("cp.async.mbarrier.arrive.noinc.shared", Form::Plain(Op::CopiesArrive)),
    ("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes", Form::Plain(Op::CopyBulk)),
    ("mbarrier.init.shared", Form::Plain(Op::MakePhases)),
    ("mbarrier.arrive.shared", Form::Plain(Op::Arrive)),
    ("mbarrier.arrive.expect_tx.shared", Form::Plain(Op::ArriveExpecting)),
    ("mbarrier.try_wait.parity.shared", Form::Plain(Op::TryWait)),
    ("ldmatrix.sync.aligned.m8n8.x4.shared", Form::Plain(Op::LoadMatrices { transposed: false })),
    ("ldmatrix.sync.aligned.m8n8.x4.trans.shared", Form::Plain(Op::LoadMatrices { transposed: true })),
    ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32", Form::Plain(Op::Multiply(Element::Tf32))),
    ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16", Form::Plain(Op::Multiply(Element::Bf16))),
    ("mma.sync.aligned.m16n8k16.row.col", Form::Plain(Op::Multiply(Element::F16))),
    ("fence.proxy.async.shared::cta", Form::Plain(Op::Show)),
    ("wgmma.fence.sync.aligned", Form::Plain(Op::BeginProducts)),
    ("wgmma.commit_group.sync.aligned", Form::Plain(Op::CommitProducts)),
    ("wgmma.wait_group.sync.aligned", Form::Plain(Op::WaitForProducts)),
    ("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16", Form::Plain(Op::StartProduct(Element::Bf16, 128))),
    ("wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16", Form::Plain(Op::StartProduct(Element::Bf16, 256))),
    ("wgmma.mma_async.sync.aligned.m64n128k16", Form::Plain(Op::StartProduct(Element::F16, 128))),
    ("wgmma.mma_async.sync.aligned.m64n256k16", Form::Plain(Op::StartProduct(Element::F16, 256))),
    ("mov", Form::Move),
    ("cvta.shared", Form::Move),
    ("cvta.to.shared::cluster", Form::Move),
    ("ld.param", Form::Parameter),
    ("ld.global", Form::Load(Space::Global, 1)),
    ("ld.global.v2", Form::Load(Space::Global, 2)),
    ("ld.global.v4", Form::Load(Space::Global, 4)),
    ("ld.global.nc", Form::Load(Space::Global, 1)),
    ("ld.shared", Form::Load(Space::Shared, 1)),
    ("ld.shared.v2", Form::Load(Space::Shared, 2)),
    ("ld.shared.v4", Form::Load(Space::Shared, 4)),
    ("st.global", Form::Store(Space::Global, 1)),
    ("st.global.v2", Form::Store(Space::Global, 2)),
    ("st.global.v4", Form::Store(Space::Global, 4)),
    ("st.shared", Form::Store(Space::Shared, 1)),
    ("st.shared.v2", Form::Store(Space::Shared, 2)),
    ("st.shared.v4", Form::Store(Space::Shared, 4)),
    ("shfl.sync.bfly", Form::Plain(Op::Shuffle)),
    ("bar.sync", Form::Plain(Op::BlockBarrier)),
    ("barrier.sync", Form::Plain(Op::BlockBarrier)),
    ("bar.warp.sync", Form::Plain(Op::WarpBarrier)),
    ("bra", Form::Plain(Op::Branch)),
    ("bra.uni", Form::Plain(Op::Branch)),
    ("ret", Form::Plain(Op::Return)),
];

/// The meaning of an opcode.
pub(super) fn decode(opcode: &str) -> Result<Op, String> {
    let mut stem = opcode;
    let mut types = vec![];
    while let Some((before, ty)) = stem.rsplit_once('.').and_then(|(before, last)| Some((before, Type::named(last)?))) {
        types.insert(0, ty);
        stem = before;
    }
    let form = TABLE.iter().find(|(name, _)| *name == stem).ok_or_else(|| format!("the opcode `{opcode}` is not in the table"))?.1;
    let meaning = match (form, types.as_slice()) {
        (Form::Move, &[t]) => Op::Move(t),
        (Form::Apply(function), &[t]) => Op::Apply(function, t),
        (Form::Wide, &[t]) => Op::Wide(t),
        (Form::Compare(compare), &[t]) => Op::Compare(compare, t),
        (Form::Select, &[t]) => Op::Select(t),
        (Form::Convert(rounding), &[to, from]) => Op::Convert { to, from, rounding },
        (Form::PackHalves, &[t]) => Op::PackHalves(t),
        (Form::Parameter, &[_]) => Op::Parameter,
        (Form::Load(space, count), &[t]) => Op::Load(space, t, count),
        (Form::Store(space, count), &[t]) => Op::Store(space, t, count),
        (Form::Plain(op), _) => op,
        _ => return Err(format!("the types of `{opcode}` are not in the table")),
    };
    Ok(meaning)
}
