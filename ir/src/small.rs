//! Floats of 8 and 4 bits: how their bits make numbers, and numbers their bits.
//!
//! All have a sign, an exponent and a mantissa, and numbers near zero that are evenly spaced, as IEEE 754 has them. They differ in
//! what stands beside the numbers. **Invariant.** Every code is a number, an infinity or NaN, and [`SmallFloat::encode`] of
//! [`SmallFloat::decode`] is the code again, but for the payloads of NaN.
//!
//! ```
//! use egret_ir::DType;
//! let e4m3 = DType::F8E4M3.small_float().unwrap();
//! assert_eq!(e4m3.encode(1.06), 0x38); // 1.0: the neighbours are 0.125 apart
//! assert_eq!(e4m3.decode(0x38), 1.0);
//! assert!(e4m3.decode(e4m3.encode(1e9)).is_nan());
//! ```

/// What a format has beside numbers, and so what becomes of a number that is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// The largest exponent holds infinity and NaN; too large is infinite.
    Infinity,
    /// The largest code is NaN; too large is NaN.
    Nan,
    /// The code of -0 is NaN, and there is no -0; too large is NaN.
    NanForMinusZero,
    /// Nothing: too large is the largest number, and NaN is 0.
    Nothing,
}

/// The format of a float of 8 bits or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmallFloat {
    /// Bits of the exponent.
    pub exponent: u32,
    /// Bits of the mantissa.
    pub mantissa: u32,
    /// What is subtracted from the exponent.
    pub bias: i32,
    /// What stands beside numbers.
    pub beyond: Beyond,
}

impl SmallFloat {
    /// The bit of the sign, which is the highest.
    pub fn sign(self) -> u8 {
        1 << (self.exponent + self.mantissa)
    }

    /// The code of the largest number.
    pub fn largest(self) -> u8 {
        match self.beyond {
            Beyond::Infinity => self.infinity() - 1,
            Beyond::Nan => self.sign() - 2,
            Beyond::NanForMinusZero | Beyond::Nothing => self.sign() - 1,
        }
    }

    /// The code of infinity, of the formats that have one: the largest exponent.
    pub fn infinity(self) -> u8 {
        ((1 << self.exponent) - 1) << self.mantissa
    }

    /// The code of NaN; that of 0 where there is none.
    pub fn nan(self) -> u8 {
        match self.beyond {
            Beyond::Infinity => self.infinity() | 1 << (self.mantissa - 1),
            Beyond::Nan => self.sign() - 1,
            Beyond::NanForMinusZero => self.sign(),
            Beyond::Nothing => 0,
        }
    }

    /// What a positive number that is too large becomes.
    pub fn too_large(self) -> u8 {
        match self.beyond {
            Beyond::Infinity => self.infinity(),
            Beyond::Nan | Beyond::NanForMinusZero => self.nan(),
            Beyond::Nothing => self.largest(),
        }
    }

    /// The number that a code stands for.
    pub fn decode(self, code: u8) -> f32 {
        let (negative, size) = (code & self.sign() != 0, code & (self.sign() - 1));
        match self.beyond {
            Beyond::Infinity if size > self.infinity() => return f32::NAN,
            Beyond::Infinity if size == self.infinity() => return if negative { f32::NEG_INFINITY } else { f32::INFINITY },
            Beyond::Nan if size == self.nan() => return f32::NAN,
            Beyond::NanForMinusZero if code == self.nan() => return f32::NAN,
            _ => {}
        }
        let (exponent, mantissa) = (i32::from(size >> self.mantissa), size & ((1 << self.mantissa) - 1));
        let whole = if exponent > 0 { mantissa | 1 << self.mantissa } else { mantissa };
        let number = f32::from(whole) * 2f32.powi(exponent.max(1) - self.bias - self.mantissa as i32);
        if negative { -number } else { number }
    }

    /// The code of the nearest number, of two the even one.
    pub fn encode(self, x: f64) -> u8 {
        if x.is_nan() {
            return self.nan();
        }
        let sign = if x.is_sign_negative() { self.sign() } else { 0 };
        let size = x.abs();
        // Numbers with the exponent of `x` are this far apart; so are those near zero.
        let exponent = ((f64::to_bits(size) >> 52) as i32 - 1023).max(1 - self.bias);
        let steps = (size / 2f64.powi(exponent - self.mantissa as i32)).round_ties_even();
        // Rounding up to the next power of two carries into the exponent.
        let code = (f64::from(exponent + self.bias - 1) * f64::from(1 << self.mantissa) + steps) as u64;
        match (code, self.beyond) {
            (code, _) if code > self.largest().into() => self.too_large() | sign,
            (0, Beyond::NanForMinusZero) => 0,
            (code, _) => code as u8 | sign,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ty::DType;

    fn formats() -> impl Iterator<Item = (DType, super::SmallFloat)> {
        DType::ALL.into_iter().filter_map(|t| Some((t, t.small_float()?)))
    }

    #[test]
    fn every_number_comes_back() {
        assert_eq!(formats().count(), 5);
        for (dtype, format) in formats() {
            for code in 0..=format.sign() | (format.sign() - 1) {
                let number = format.decode(code);
                let again = format.encode(number.into());
                assert!(again == code || number.is_nan() && format.decode(again).is_nan(), "{dtype} {code:#x} {number} {again:#x}");
            }
        }
    }

    #[test]
    fn rounding_is_to_the_nearest_and_then_the_even() {
        for (dtype, format) in formats() {
            for code in 0..format.largest() {
                let (low, high) = (format.decode(code), format.decode(code + 1));
                let middle = (low + high) / 2.0;
                let even = if code % 2 == 0 { code } else { code + 1 };
                assert_eq!(format.encode(middle.into()), even, "{dtype} {middle}");
                assert_eq!(format.encode(f32::from_bits(middle.to_bits() + 1).into()), code + 1, "{dtype} above {middle}");
                assert_eq!(format.encode(f32::from_bits(middle.to_bits() - 1).into()), code, "{dtype} below {middle}");
            }
        }
    }

    #[test]
    fn the_largest_numbers_are_those_of_the_standard() {
        let largest: Vec<f32> = formats().map(|(_, f)| f.decode(f.largest())).collect();
        assert_eq!(largest, [448.0, 240.0, 57344.0, 57344.0, 6.0]);
    }
}
