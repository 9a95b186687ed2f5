//! Elementary functions as polynomials on scalars and vectors, without calls and without branches.
//!
//! In f32 `exp`, `log`, `tanh` and `erf`, which models spend their time in, are computed in f32, to within 2 ulp; the rest is
//! computed in f64 and rounded, to within 1 ulp. In f64 errors are a few ulp, but for `pow`, whose relative error grows with the
//! logarithm of the result, and `sin`, `cos`, `tan` beyond arguments of a million. **Invariant.** NaN gives NaN, and infinities,
//! zeros of either sign and subnormal numbers give what C's functions give (tested).
//!
//! `log`, `atan`, the kernels of `sin` and `cos` and the f64 `erf` use the coefficients of FreeBSD's msun.

use super::emit::{Emit, Value};
use inkwell::FloatPredicate::{OEQ, OGE, OGT, OLT, ONE, UNO};
use inkwell::IntPredicate;
use inkwell::values::{BasicValueEnum, InstructionOpcode};
use std::f64::consts::{LN_2, LOG2_E};

/// Whether it is computed in f32.
fn is_single<'c>(e: &Emit<'c>, x: Value<'c>) -> bool {
    e.bits(x) == 32
}

/// `coefficients[0]*x^n + ... + coefficients[n]`.
fn polynomial<'c>(e: &Emit<'c>, x: Value<'c>, coefficients: &[f64]) -> Value<'c> {
    let (first, rest) = coefficients.split_first().expect("a polynomial has coefficients");
    rest.iter().fold(e.float(x, *first), |p, &c| e.fma(p, x, e.float(x, c)))
}

/// Computes in f64 whatever the type.
fn in_double<'c>(e: &Emit<'c>, x: Value<'c>, f: impl Fn(&Emit<'c>, Value<'c>) -> Value<'c>) -> Value<'c> {
    if !is_single(e, x) {
        return f(e, x);
    }
    let wide = e.convert(InstructionOpcode::FPExt, x, e.cx.f64_type().into());
    e.convert(InstructionOpcode::FPTrunc, f(e, wide), e.cx.f32_type().into())
}

/// `x` held between two numbers; NaN stays NaN.
fn clamped<'c>(e: &Emit<'c>, x: Value<'c>, low: f64, high: f64) -> Value<'c> {
    let (low, high) = (e.float(x, low), e.float(x, high));
    let x = e.select(e.fcmp(OLT, x, low), low, x);
    e.select(e.fcmp(OGT, x, high), high, x)
}

/// `x` where its size is below `limit`, where a function is its own argument, else `y`.
fn or_tiny<'c>(e: &Emit<'c>, x: Value<'c>, limit: f64, y: Value<'c>) -> Value<'c> {
    e.select(e.fcmp(OLT, e.abs(x), e.float(x, limit)), x, y)
}

/// Rounds `x * factor` to an integer: as a float, and as an integer of the same width in its low bits. Adding a number
/// whose last bit is 1 leaves the integer in the mantissa.
fn nearest<'c>(e: &Emit<'c>, x: Value<'c>, factor: f64) -> (Value<'c>, Value<'c>) {
    let (magic, bits) = if is_single(e, x) { (12_582_912.0, 32) } else { (6_755_399_441_055_744.0, 64) };
    let int = e.int_type(bits);
    let magic = e.float(x, magic);
    let shifted = e.fma(x, e.float(x, factor), magic);
    let number = e.sub(e.bitcast(shifted, int), e.bitcast(magic, int));
    (e.fsub(shifted, magic), number)
}

/// `x * 2^n`, in two steps, so that the factors are finite where the result is; `n` also comes as a float.
fn scaled<'c>(e: &Emit<'c>, x: Value<'c>, n: Value<'c>, float_n: Value<'c>) -> Value<'c> {
    let (mantissa, bias) = if is_single(e, x) { (23, 127) } else { (52, 1023) };
    if let BasicValueEnum::VectorValue(v) = x
        && e.wide
        && is_single(e, x)
        && v.get_type().get_size() == 16
    {
        let all = e.cx.i16_type().const_all_ones().into();
        let rounding = e.cx.i32_type().const_int(4, false).into();
        return e.intrinsic("llvm.x86.avx512.mask.scalef.ps.512", &[], &[x, float_n, x, all, rounding]);
    }
    let half = e.ashr(n, 1);
    let rest = e.sub(n, half);
    let factor = |n| e.bitcast(e.shl(e.add(n, e.int(n, bias)), mantissa), e.element_type(x));
    e.fmul(e.fmul(x, factor(half)), factor(rest))
}

/// e to the x.
pub(crate) fn exp<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    if is_single(e, x) {
        let x = clamped(e, x, -104.0, 89.0);
        let (float_n, n) = nearest(e, x, LOG2_E);
        let r = e.fma(float_n, e.float(x, -0.693_145_752), x);
        let r = e.fma(float_n, e.float(x, -1.428_606_77e-6), r);
        let p = polynomial(e, r, &[1.378_059_39e-3, 8.373_124_52e-3, 4.166_953_64e-2, 1.666_647_20e-1, 4.999_998_51e-1, 1.0, 1.0]);
        return scaled(e, p, n, float_n);
    }
    let x = clamped(e, x, -746.0, 710.0);
    let (float_n, n) = nearest(e, x, LOG2_E);
    let high = e.fma(float_n, e.float(x, -6.931_471_803_691_238_164_90e-01), x);
    let low = e.fmul(float_n, e.float(x, 1.908_214_929_270_587_700_02e-10));
    let r = e.fsub(high, low);
    let z = e.fmul(r, r);
    let p = polynomial(
        e,
        z,
        &[
            4.138_136_797_057_238_460_39e-08,
            -1.653_390_220_546_525_153_90e-06,
            6.613_756_321_437_934_361_17e-05,
            -2.777_777_777_701_559_338_42e-03,
            1.666_666_666_666_660_190_37e-01,
        ],
    );
    let c = e.fsub(r, e.fmul(z, p));
    let quotient = e.fdiv(e.fmul(r, c), e.fsub(e.float(x, 2.0), c));
    let y = e.fadd(e.float(x, 1.0), e.fadd(e.fsub(quotient, low), high));
    scaled(e, y, n, float_n)
}

/// `x = 2^k * m` with `m` in about `[sqrt(1/2), sqrt(2))`: `k` as a float, and `m - 1`. For positive finite `x`.
fn split_exponent<'c>(e: &Emit<'c>, x: Value<'c>) -> (Value<'c>, Value<'c>) {
    let single = is_single(e, x);
    // Subnormal numbers are scaled up first.
    let (smallest, up, bits, mantissa, root_half) = match single {
        true => (f64::from(f32::MIN_POSITIVE), 23.0f64, 32, 23, 0x3f2a_aaab),
        false => (f64::MIN_POSITIVE, 54.0, 64, 52, 0x3fe6_a09e_667f_3bcd),
    };
    let subnormal = e.fcmp(OLT, x, e.float(x, smallest));
    let x = e.select(subnormal, e.fmul(x, e.float(x, up.exp2())), x);
    let raw = e.bitcast(x, e.int_type(bits));
    let k = e.ashr(e.sub(raw, e.int(raw, root_half)), mantissa);
    let m = e.bitcast(e.sub(raw, e.shl(k, mantissa)), e.element_type(x));
    let k = e.convert(
        InstructionOpcode::SIToFP,
        if single { k } else { e.convert(InstructionOpcode::Trunc, k, e.int_type(32)) },
        e.element_type(x),
    );
    let k = e.select(subnormal, e.fsub(k, e.float(k, up)), k);
    (k, e.fsub(m, e.float(m, 1.0)))
}

/// The natural logarithm.
pub(crate) fn log<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    let (k, f) = split_exponent(e, x);
    let y = if is_single(e, x) {
        let s = e.fmul(f, f);
        let odd = polynomial(e, s, &[-0.130_310_059, -0.121_483_512, -0.166_846_126, -0.249_996_200]);
        let even = polynomial(e, s, &[0.140_869_141, 0.139_814_854, 0.200_120_345]);
        let r = e.fma(even, f, odd);
        let r = e.fma(r, f, e.float(f, 0.333_331_972));
        let r = e.fma(r, f, e.float(f, -0.5));
        let r = e.fma(r, s, f);
        e.fma(k, e.float(f, LN_2), r)
    } else {
        let half_square = e.fmul(e.fmul(e.float(f, 0.5), f), f);
        let s = e.fdiv(f, e.fadd(e.float(f, 2.0), f));
        let z = e.fmul(s, s);
        let w = e.fmul(z, z);
        let even = polynomial(e, w, &[1.531_383_769_920_937_332e-01, 2.222_219_843_214_978_396e-01, 3.999_999_999_940_941_908e-01]);
        let odd = polynomial(
            e,
            w,
            &[1.479_819_860_511_658_591e-01, 1.818_357_216_161_805_012e-01, 2.857_142_874_366_239_149e-01, 6.666_666_666_666_735_130e-01],
        );
        let r = e.fma(z, odd, e.fmul(w, even));
        let small = e.fma(k, e.float(k, 1.908_214_929_270_587_700_02e-10), e.fmul(s, e.fadd(half_square, r)));
        let y = e.fadd(e.fsub(small, half_square), f);
        e.fma(k, e.float(k, 6.931_471_803_691_238_164_90e-01), y)
    };
    let zero = e.float(x, 0.0);
    let ordinary = e.and(e.fcmp(OGT, x, zero), e.fcmp(OLT, x, e.float(x, f64::INFINITY)));
    let negative = e.select(e.fcmp(OLT, x, zero), e.float(x, f64::NAN), x);
    let special = e.select(e.fcmp(OEQ, x, zero), e.float(x, f64::NEG_INFINITY), negative);
    e.select(ordinary, y, special)
}

/// The hyperbolic tangent.
pub(crate) fn tanh<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    let size = e.abs(x);
    let (one, two) = (e.float(x, 1.0), e.float(x, 2.0));
    if !is_single(e, x) {
        let u = expm1(e, e.fmul(two, size));
        let y = e.select(e.fcmp(OGT, size, e.float(x, 22.0)), one, e.fdiv(u, e.fadd(u, two)));
        return e.copysign(y, x);
    }
    let square = e.fmul(x, x);
    let p = polynomial(
        e,
        square,
        &[-5.704_988_727_45e-3, 2.063_908_879_54e-2, -5.373_971_555_31e-2, 1.333_144_220_36e-1, -3.333_328_194_22e-1],
    );
    let near = e.fma(e.fmul(p, square), x, x);
    let limit = e.float(x, 20.0);
    let held = e.select(e.fcmp(OGT, size, limit), limit, size);
    let far = e.fsub(one, e.fdiv(two, e.fadd(exp(e, e.fmul(held, two)), one)));
    e.copysign(e.select(e.fcmp(OLT, size, e.float(x, 0.625)), near, far), x)
}

/// The error function.
pub(crate) fn erf<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    if !is_single(e, x) {
        return erf_double(e, x);
    }
    let (a, s) = (e.abs(x), e.fmul(x, x));
    // Far from 0: 1 - exp(r(a)); near 0 an odd polynomial.
    let r = polynomial(e, a, &[-1.728_534_70e-5, 3.831_971_26e-4]);
    let u = polynomial(e, a, &[-3.883_964_38e-3, 2.425_462_19e-2]);
    let r = e.fma(r, s, u);
    let r = [-1.067_778_77e-1, -6.348_466_87e-1, -1.287_175_12e-1].iter().fold(r, |r, &c| e.fma(r, a, e.float(a, c)));
    let r = e.fma(r, a, e.fneg(a));
    let far = e.copysign(e.fsub(e.float(x, 1.0), exp(e, r)), x);
    let q = polynomial(e, s, &[-5.967_617_03e-4, 4.991_194_23e-3, -2.676_813_49e-2, 1.128_199_25e-1, -3.761_253_36e-1, 1.283_791_66e-1]);
    let near = e.fma(q, x, x);
    e.select(e.fcmp(OGT, a, e.float(a, 0.921_875)), far, near)
}

fn erf_double<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    let a = e.abs(x);
    let one = e.float(x, 1.0);
    let ratio = |z, p: &[f64], q: &[f64]| e.fdiv(polynomial(e, z, p), polynomial(e, z, q));
    let near = e.fma(x, ratio(e.fmul(x, x), &ERF_NEAR.0, &ERF_NEAR.1), x);
    let middle = e.fadd(e.float(x, ERF_ONE), ratio(e.fsub(a, one), &ERF_MIDDLE.0, &ERF_MIDDLE.1));
    let inverse_square = e.fdiv(one, e.fmul(a, a));
    let below = e.fcmp(OLT, a, e.float(a, 1.0 / 0.35));
    let r = e.select(below, ratio(inverse_square, &ERF_FAR.0, &ERF_FAR.1), ratio(inverse_square, &ERF_FARTHER.0, &ERF_FARTHER.1));
    // exp(-a*a), with a*a in two parts.
    let bits = e.bitcast(a, e.int_type(64));
    let z = e.bitcast(e.and(bits, e.int(bits, !0xffff_ffff)), e.cx.f64_type().into());
    let first = exp(e, e.fsub(e.fneg(e.fmul(z, z)), e.float(z, 0.5625)));
    let second = exp(e, e.fma(e.fsub(z, a), e.fadd(z, a), r));
    let far = e.fsub(one, e.fdiv(e.fmul(first, second), a));
    let y = e.select(e.fcmp(OLT, a, e.float(a, 1.25)), middle, far);
    let y = e.select(e.fcmp(OGE, a, e.float(a, 6.0)), one, y);
    e.select(e.fcmp(OLT, a, e.float(a, 0.84375)), near, e.copysign(e.select(e.fcmp(UNO, x, x), x, y), x))
}

const ERF_ONE: f64 = 8.450_629_115_104_675_292_97e-01;
const ERF_NEAR: ([f64; 5], [f64; 6]) = (
    [
        -2.376_301_665_665_016_260_84e-05,
        -5.770_270_296_489_441_591_57e-03,
        -2.848_174_957_559_851_047_66e-02,
        -3.250_421_072_470_014_993_70e-01,
        1.283_791_670_955_125_585_61e-01,
    ],
    [
        -3.960_228_278_775_368_123_20e-06,
        1.324_947_380_043_216_445_26e-04,
        5.081_306_281_875_765_627_76e-03,
        6.502_224_998_876_729_444_85e-02,
        3.979_172_239_591_553_528_19e-01,
        1.0,
    ],
);
const ERF_MIDDLE: ([f64; 7], [f64; 7]) = (
    [
        -2.166_375_594_868_790_843_00e-03,
        3.547_830_432_561_823_593_71e-02,
        -1.108_946_942_823_966_774_76e-01,
        3.183_466_199_011_617_536_74e-01,
        -3.722_078_760_357_013_238_47e-01,
        4.148_561_186_837_483_316_66e-01,
        -2.362_118_560_752_659_440_77e-03,
    ],
    [
        1.198_449_984_679_910_741_70e-02,
        1.363_708_391_202_905_073_62e-02,
        1.261_712_198_087_616_421_12e-01,
        7.182_865_441_419_626_628_68e-02,
        5.403_979_177_021_710_489_37e-01,
        1.064_208_804_008_442_282_86e-01,
        1.0,
    ],
);
const ERF_FAR: ([f64; 8], [f64; 9]) = (
    [
        -9.814_329_344_169_145_485_92e+00,
        -8.128_743_550_630_659_342_46e+01,
        -1.846_050_929_067_110_359_94e+02,
        -1.623_966_694_625_734_703_55e+02,
        -6.237_533_245_032_600_603_96e+01,
        -1.055_862_622_532_329_098_14e+01,
        -6.938_585_727_071_817_643_72e-01,
        -9.864_944_034_847_148_227_05e-03,
    ],
    [
        -6.042_441_521_485_809_874_38e-02,
        6.570_249_770_319_281_701_35e+00,
        1.086_350_055_417_794_351_34e+02,
        4.290_081_400_275_678_333_86e+02,
        6.453_872_717_332_678_803_36e+02,
        4.345_658_774_752_292_288_21e+02,
        1.376_577_541_435_190_426_00e+02,
        1.965_127_166_743_925_712_92e+01,
        1.0,
    ],
);
const ERF_FARTHER: ([f64; 7], [f64; 8]) = (
    [
        -4.835_191_916_086_513_970_19e+02,
        -1.025_095_131_611_077_249_54e+03,
        -6.375_664_433_683_896_277_22e+02,
        -1.606_363_848_558_219_160_62e+02,
        -1.775_795_491_775_475_198_89e+01,
        -7.992_832_376_805_230_065_74e-01,
        -9.864_942_924_700_099_285_97e-03,
    ],
    [
        -2.244_095_244_658_581_833_62e+01,
        4.745_285_412_069_553_672_15e+02,
        2.553_050_406_433_164_425_83e+03,
        3.199_858_219_508_595_539_08e+03,
        1.536_729_586_084_436_959_94e+03,
        3.257_925_129_965_739_188_26e+02,
        3.033_806_074_348_245_829_24e+01,
        1.0,
    ],
);

/// e to the x, less 1; exact near 0. For f64.
fn expm1<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    // The error of exp(x) cancels against that of its logarithm.
    let one = e.float(x, 1.0);
    let u = exp(e, x);
    let difference = e.fsub(u, one);
    let y = e.fdiv(e.fmul(difference, x), log(e, u));
    let y = e.select(e.fcmp(OEQ, difference, e.fneg(one)), difference, y);
    e.select(e.fcmp(OEQ, u, one), x, y)
}

/// log(1 + x), exact near 0. For f64.
fn log1p<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    let one = e.float(x, 1.0);
    let u = e.fadd(one, x);
    let y = e.fdiv(e.fmul(log(e, u), x), e.fsub(u, one));
    let y = e.select(e.fcmp(OEQ, u, one), x, y);
    e.select(e.fcmp(OEQ, u, e.float(x, f64::INFINITY)), u, y)
}

/// The hyperbolic sine.
pub(crate) fn sinh<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    in_double(e, x, |e, x| {
        let (a, half) = (e.abs(x), e.float(x, 0.5));
        let u = expm1(e, a);
        let near = e.fmul(half, e.fadd(u, e.fdiv(u, e.fadd(u, e.float(x, 1.0)))));
        e.copysign(e.select(e.fcmp(OGT, a, e.float(x, 30.0)), half_exp(e, a), near), x)
    })
}

/// The hyperbolic cosine.
pub(crate) fn cosh<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    in_double(e, x, |e, x| {
        let (a, half) = (e.abs(x), e.float(x, 0.5));
        let u = exp(e, a);
        let near = e.fmul(half, e.fadd(u, e.fdiv(e.float(x, 1.0), u)));
        e.select(e.fcmp(OGT, a, e.float(x, 30.0)), half_exp(e, a), near)
    })
}

/// exp(x) / 2, finite where that is.
fn half_exp<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    let half = e.float(x, 0.5);
    let root = exp(e, e.fmul(half, x));
    e.fmul(e.fmul(half, root), root)
}

/// Beyond this `x*x + 1` is `x*x` in f64.
const SQUARE_DOMINATES: f64 = 268_435_456.0;

/// The inverse hyperbolic sine.
pub(crate) fn asinh<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    in_double(e, x, |e, x| {
        let (a, one) = (e.abs(x), e.float(x, 1.0));
        let square = e.fmul(a, a);
        let near = log1p(e, e.fadd(a, e.fdiv(square, e.fadd(one, e.unary("llvm.sqrt", e.fadd(square, one))))));
        let far = e.fadd(log(e, a), e.float(x, LN_2));
        e.copysign(e.select(e.fcmp(OGT, a, e.float(x, SQUARE_DOMINATES)), far, near), x)
    })
}

/// The inverse hyperbolic cosine.
pub(crate) fn acosh<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    in_double(e, x, |e, x| {
        let one = e.float(x, 1.0);
        let t = e.fsub(x, one);
        let near = log1p(e, e.fadd(t, e.unary("llvm.sqrt", e.fma(t, t, e.fadd(t, t)))));
        let far = e.fadd(log(e, x), e.float(x, LN_2));
        let y = e.select(e.fcmp(OGT, x, e.float(x, SQUARE_DOMINATES)), far, near);
        e.select(e.fcmp(OLT, x, one), e.float(x, f64::NAN), y)
    })
}

/// The inverse hyperbolic tangent.
pub(crate) fn atanh<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    in_double(e, x, |e, x| {
        let a = e.abs(x);
        let y = log1p(e, e.fdiv(e.fadd(a, a), e.fsub(e.float(x, 1.0), a)));
        e.copysign(e.fmul(e.float(x, 0.5), y), x)
    })
}

/// The sine and the cosine of f64, reduced by multiples of pi/2 in three parts.
fn sin_cos<'c>(e: &Emit<'c>, x: Value<'c>) -> (Value<'c>, Value<'c>, Value<'c>) {
    let (count, quadrant) = nearest(e, x, std::f64::consts::FRAC_2_PI);
    let less = e.fneg(count);
    let r = e.fma(less, e.float(x, 1.570_796_326_734_125_614_17), x);
    let w = e.fmul(count, e.float(x, 6.077_100_506_303_965_976_60e-11));
    let high = e.fsub(r, w);
    let lost = e.fsub(e.fsub(r, high), w);
    let low = e.fma(less, e.float(x, 2.022_266_248_795_950_631_54e-21), lost);
    let y = e.fadd(high, low);
    let low = e.fadd(e.fsub(high, y), low);
    let z = e.fmul(y, y);
    let half = e.float(x, 0.5);
    let p = polynomial(
        e,
        z,
        &[
            1.589_690_995_211_550_102_21e-10,
            -2.505_076_025_340_686_341_95e-08,
            2.755_731_370_707_006_767_89e-06,
            -1.984_126_982_985_794_931_34e-04,
            8.333_333_333_322_489_461_24e-03,
        ],
    );
    let cube = e.fmul(z, y);
    let correction = e.fsub(e.fmul(z, e.fsub(e.fmul(half, low), e.fmul(cube, p))), low);
    let sine = e.fsub(y, e.fma(cube, e.float(x, 1.666_666_666_666_663_243_48e-01), correction));
    let q = polynomial(
        e,
        z,
        &[
            -1.135_964_755_778_819_482_65e-11,
            2.087_572_321_298_174_827_90e-09,
            -2.755_731_435_139_066_330_35e-07,
            2.480_158_728_947_672_941_78e-05,
            -1.388_888_888_887_410_957_49e-03,
            4.166_666_666_666_660_190_37e-02,
        ],
    );
    let half_square = e.fmul(half, z);
    let one = e.float(x, 1.0);
    let w = e.fsub(one, half_square);
    let rest = e.fsub(e.fmul(e.fmul(z, z), q), e.fmul(y, low));
    let cosine = e.fadd(w, e.fadd(e.fsub(e.fsub(one, w), half_square), rest));
    (sine, cosine, quadrant)
}

/// Below this the sine and the tangent are their argument, zero's sign included.
const SINE_IS_X: f64 = 7.450_580_596_923_828e-9;

/// In quadrant `q` of a turn the sine is sin, cos, -sin, -cos of what is left.
fn in_quadrant<'c>(e: &Emit<'c>, sine: Value<'c>, cosine: Value<'c>, q: Value<'c>) -> Value<'c> {
    let bit = |n| e.icmp(IntPredicate::NE, e.and(q, e.int(q, n)), e.int(q, 0));
    let y = e.select(bit(1), cosine, sine);
    e.select(bit(2), e.fneg(y), y)
}

/// The sine.
pub(crate) fn sin<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    in_double(e, x, |e, x| {
        let (sine, cosine, q) = sin_cos(e, x);
        or_tiny(e, x, SINE_IS_X, in_quadrant(e, sine, cosine, q))
    })
}

/// The cosine.
pub(crate) fn cos<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    in_double(e, x, |e, x| {
        let (sine, cosine, q) = sin_cos(e, x);
        in_quadrant(e, sine, cosine, e.add(q, e.int(q, 1)))
    })
}

/// The tangent.
pub(crate) fn tan<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    in_double(e, x, |e, x| {
        let (sine, cosine, q) = sin_cos(e, x);
        let odd = e.icmp(IntPredicate::NE, e.and(q, e.int(q, 1)), e.int(q, 0));
        let y = e.fdiv(e.select(odd, e.fneg(cosine), sine), e.select(odd, sine, cosine));
        or_tiny(e, x, SINE_IS_X, y)
    })
}

/// The inverse tangent.
pub(crate) fn atan<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    in_double(e, x, atan_double)
}

/// atan(x) = atan(c) + atan((x - c)/(1 + c*x)), for c = 0.5, 1, 1.5 or infinity.
fn atan_double<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    let a = e.abs(x);
    let c = |v| e.float(a, v);
    let pieces = [
        (0.4375, e.fsub(e.fadd(a, a), c(1.0)), e.fadd(c(2.0), a), 4.636_476_090_008_060_935_15e-01, 2.269_877_745_296_168_709_24e-17),
        (0.6875, e.fsub(a, c(1.0)), e.fadd(a, c(1.0)), std::f64::consts::FRAC_PI_4, 3.061_616_997_868_383_017_93e-17),
        (1.1875, e.fsub(a, c(1.5)), e.fma(c(1.5), a, c(1.0)), 9.827_937_232_473_290_540_82e-01, 1.390_331_103_123_099_845_16e-17),
        (2.4375, c(-1.0), a, std::f64::consts::FRAC_PI_2, 6.123_233_995_736_766_035_87e-17),
    ];
    let (mut top, mut bottom, mut high, mut low) = (a, c(1.0), c(0.0), c(0.0));
    for (from, numerator, denominator, angle, rest) in pieces {
        let here = e.fcmp(OGE, a, c(from));
        top = e.select(here, numerator, top);
        bottom = e.select(here, denominator, bottom);
        high = e.select(here, c(angle), high);
        low = e.select(here, c(rest), low);
    }
    let t = e.fdiv(top, bottom);
    let z = e.fmul(t, t);
    let p = polynomial(
        e,
        z,
        &[
            1.628_582_011_536_578_236_23e-02,
            -3.653_157_274_421_691_552_70e-02,
            4.976_877_994_615_932_360_17e-02,
            -5.833_570_133_790_573_486_45e-02,
            6.661_073_137_387_531_206_69e-02,
            -7.691_876_205_044_829_994_95e-02,
            9.090_887_133_436_506_561_96e-02,
            -1.111_111_040_546_235_578_80e-01,
            1.428_571_427_250_346_637_11e-01,
            -1.999_999_999_987_648_324_76e-01,
            3.333_333_333_333_293_180_27e-01,
        ],
    );
    let bent = e.fmul(t, e.fmul(z, p));
    e.copysign(e.fsub(high, e.fsub(e.fsub(bent, low), t)), x)
}

/// The inverse sine: the angle whose tangent is x over the rest of the unit circle's radius.
pub(crate) fn asin<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    in_double(e, x, |e, x| {
        let one = e.float(x, 1.0);
        let cosine = e.unary("llvm.sqrt", e.fmul(e.fsub(one, x), e.fadd(one, x)));
        atan_double(e, e.fdiv(x, cosine))
    })
}

/// The inverse cosine.
pub(crate) fn acos<'c>(e: &Emit<'c>, x: Value<'c>) -> Value<'c> {
    in_double(e, x, |e, x| {
        let one = e.float(x, 1.0);
        let half_tangent = e.unary("llvm.sqrt", e.fdiv(e.fsub(one, x), e.fadd(one, x)));
        e.fmul(e.float(x, 2.0), atan_double(e, half_tangent))
    })
}

/// `x` to the `y`.
pub(crate) fn pow<'c>(e: &Emit<'c>, x: Value<'c>, y: Value<'c>) -> Value<'c> {
    let (x, y) = e.joined(x, y);
    if !is_single(e, x) {
        return pow_double(e, x, y);
    }
    let f64 = e.cx.f64_type().into();
    let (x, y) = (e.convert(InstructionOpcode::FPExt, x, f64), e.convert(InstructionOpcode::FPExt, y, f64));
    e.convert(InstructionOpcode::FPTrunc, pow_double(e, x, y), e.cx.f32_type().into())
}

fn pow_double<'c>(e: &Emit<'c>, x: Value<'c>, y: Value<'c>) -> Value<'c> {
    let (zero, one, infinity) = (e.float(x, 0.0), e.float(x, 1.0), e.float(x, f64::INFINITY));
    let a = e.abs(x);
    let size = exp(e, e.fmul(y, log(e, a)));
    // (-1)^inf is 1.
    let size = e.select(e.and(e.fcmp(OEQ, a, one), e.fcmp(OEQ, e.abs(y), infinity)), one, size);
    let is_whole = |v| e.fcmp(OEQ, e.unary("llvm.trunc", v), v);
    let odd = e.and(is_whole(y), e.not(is_whole(e.fmul(y, e.float(y, 0.5)))));
    let signed = e.select(odd, e.copysign(size, x), size);
    // A negative number to a broken power is no number; -inf is a limit.
    let broken = e.and(e.fcmp(OLT, x, zero), e.not(is_whole(y)));
    let broken = e.and(broken, e.fcmp(ONE, a, infinity));
    let result = e.select(broken, e.float(x, f64::NAN), signed);
    let trivial = e.or(e.fcmp(OEQ, y, zero), e.fcmp(OEQ, x, one));
    e.select(trivial, one, result)
}

/// Whole powers up to this are products: at most 6 of them.
const MOST_PRODUCTS: f64 = 16.0;

/// `x` to a power that is known now.
pub(crate) fn pow_literal<'c>(e: &Emit<'c>, x: Value<'c>, exponent: f64) -> Value<'c> {
    let one = e.float(x, 1.0);
    if exponent.abs() == 0.5 {
        // Unlike its root, the power 1/2 of -inf is inf, and that of -0 is 0.
        let root = e.fadd(e.unary("llvm.sqrt", x), e.float(x, 0.0));
        let root = e.select(e.fcmp(OEQ, x, e.float(x, f64::NEG_INFINITY)), e.float(x, f64::INFINITY), root);
        return if exponent > 0.0 { root } else { e.fdiv(one, root) };
    }
    if exponent.fract() != 0.0 || exponent.abs() > MOST_PRODUCTS {
        return pow(e, x, e.float(x, exponent));
    }
    let (mut power, mut square, mut left) = (None, x, exponent.abs() as u32);
    while left > 0 {
        if left & 1 == 1 {
            power = Some(power.map_or(square, |p| e.fmul(p, square)));
        }
        left >>= 1;
        if left > 0 {
            square = e.fmul(square, square);
        }
    }
    let power = power.unwrap_or(one);
    if exponent < 0.0 { e.fdiv(one, power) } else { power }
}
