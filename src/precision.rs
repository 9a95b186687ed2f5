//! The precision of what a compiled model stores and multiplies.

/// How numbers between kernels, and weights of products, are held.
///
/// In `bf16`, results of products are exact to f32, and everything between a load and a store is computed in f32; the values stored
/// have 8 significant bits, so that an output deviates by about a hundredth of its standard deviation, and numbers below 2^-126 count
/// as zero. See [`mod@egret_passes::narrow`] for what stays f32.
///
/// ```
/// use egret::Precision;
///
/// assert_eq!(Precision::named("bf16"), Some(Precision::Bf16));
/// assert_eq!(Precision::default().name(), "f32");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As the model says.
    #[default]
    F32,
    /// f32 values are stored as bf16, wherever that is safe.
    Bf16,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Precision; 2] = [Precision::F32, Precision::Bf16];

    /// What options call it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }

    /// The precision of this name.
    pub fn named(name: &str) -> Option<Precision> {
        Precision::ALL.into_iter().find(|p| p.name() == name)
    }
}
