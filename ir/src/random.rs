//! Seeded tensors: the data of `random(seed)` constants and of test inputs.
//!
//! The generator is fixed for good, so that a number in a file means the same data everywhere: element `i` of a tensor
//! comes from the 64 bits `b = mix(mix(seed) + i)` alone, where `mix` is the finaliser of SplitMix64 (on wrapping `u64`):
//!
//! ```text
//! mix(z): z += 0x9e3779b97f4a7c15; z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9; z = (z ^ z >> 27) * 0x94d049bb133111eb; z ^ z >> 31
//!
//! floats             (b >> 40)/2^23 - 1, uniform in [-1, 1), exact in f32, then truncated towards zero to f16 or bf16
//! signed integers    (b >> 61) - 4, in -4..4: an index into any axis of at least 4 elements
//! unsigned integers  b >> 61, in 0..8
//! bool               b >> 63
//! strings            word b >> 61 of `a` to `h`
//! ```
//!
//! ```
//! use egret_ir::{DType, TensorType, random::random};
//! let x = random(1, &TensorType::new(DType::F32, [2, 2])).unwrap();
//! assert_eq!(x, random(1, &TensorType::new(DType::F32, [2, 2])).unwrap());
//! assert!(x.to_f64s().iter().all(|v| (-1.0..1.0).contains(v)));
//! ```

use crate::ops::check;
use crate::tensor::{Element, Tensor};
use crate::ty::{DType, TensorType};

/// The tensor that `random(seed)` stands for at this type.
///
/// # Errors
/// When an extent is symbolic, or the tensor is too large to be held.
pub fn random(seed: u64, ty: &TensorType) -> Result<Tensor, String> {
    let shape = check::allocatable(ty)?;
    let count: usize = shape.iter().product();
    let start = mix(seed);
    let bits = (0..count as u64).map(|i| mix(start.wrapping_add(i)));
    if ty.dtype == DType::Str {
        return Tensor::from_texts(shape, &bits.map(|b| WORDS[(b >> 61) as usize]).collect::<Vec<_>>());
    }
    let elements = bits.map(|b| element(b, ty.dtype));
    Ok(Tensor::from_elements(ty.dtype, shape, elements))
}

/// What strings are drawn from.
const WORDS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn element(bits: u64, dtype: DType) -> Element {
    let small = i128::from(bits >> 61);
    match dtype {
        DType::F64 | DType::F32 => Element::Float(uniform(bits)),
        // Rounding to nearest could reach 1, truncation cannot: it clears the bits of an f32 that the type does not hold.
        DType::F16 => Element::Float(truncated(uniform(bits), 13)),
        DType::BF16 => Element::Float(truncated(uniform(bits), 16)),
        DType::I64 | DType::I32 | DType::I16 | DType::I8 => Element::Int(small - 4),
        DType::U64 | DType::U32 | DType::U16 | DType::U8 | DType::Str => Element::Int(small),
        DType::Bool => Element::Bool(bits >> 63 == 1),
        DType::F8E5M2 | DType::F8E5M2FNUZ => Element::Float(truncated(uniform(bits), 21)),
        DType::F8E4M3 | DType::F8E4M3FNUZ => Element::Float(truncated(uniform(bits), 20)),
        // 0 or a half: truncation to one bit of mantissa leaves numbers that the type does not have.
        DType::F4E2M1 => Element::Float((uniform(bits) * 2.0).trunc() / 2.0),
        DType::I4 => Element::Int(small - 4),
        DType::U4 => Element::Int(small),
        DType::I2 => Element::Int(small / 2 - 2),
        DType::U2 => Element::Int(small / 2),
    }
}

/// 24 random bits as a multiple of 2^-23 in [-1, 1).
fn uniform(bits: u64) -> f64 {
    (bits >> 40) as f64 / f64::from(1 << 23) - 1.0
}

fn truncated(value: f64, cleared_bits: u32) -> f64 {
    f32::from_bits((value as f32).to_bits() >> cleared_bits << cleared_bits).into()
}

/// One step of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dtype: DType, expected: &str) {
        let x = random(7, &TensorType::new(dtype, [4])).unwrap();
        assert_eq!(format!("{x:?}"), expected);
    }

    #[test]
    fn the_generator_never_changes() {
        // The first output of SplitMix64 from state 0, as published with the generator.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        // As a few lines of Python compute it from the module's text.
        check(DType::F32, "f32[4] [0.44301629066467285, -0.6882119178771973, 0.748726487159729, 0.9158374071121216]");
        check(DType::I32, "i32[4] [1, -3, 2, 3]");
        check(DType::U8, "u8[4] [5, 1, 6, 7]");
        check(DType::Bool, "bool[4] [true, false, true, true]");
        check(DType::Str, "str[4] [\"f\", \"b\", \"g\", \"h\"]");
    }

    #[test]
    fn every_type_has_values_in_its_range() {
        for &dtype in DType::NUMBERS {
            let x = random(3, &TensorType::new(dtype, [1000])).unwrap();
            let values = x.to_f64s();
            let range = match dtype {
                DType::Bool => 0.0..2.0,
                t if t.is_float() => -1.0..1.0,
                t if t.is_signed_int() => -4.0..4.0,
                _ => 0.0..8.0,
            };
            assert!(values.iter().all(|v| range.contains(v)), "{dtype}");
            assert!(values.iter().any(|v| *v != values[0]), "{dtype}");
        }
    }

    #[test]
    fn hopeless_sizes_are_errors() {
        assert!(random(0, &TensorType::new(DType::F32, [1i64 << 40, 1 << 40])).is_err());
        assert!(random(0, &TensorType::new(DType::F32, [-1])).is_err());
        assert!(random(0, &TensorType::new(DType::F32, [crate::Dim::symbol("N")])).is_err());
    }
}
