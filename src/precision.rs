//! The precision of what a compiled model stores and multiplies.

use egret_codegen::Target;
use egret_ir::DType;

/// How numbers between kernels, and weights of products, are held, and how f32 is multiplied.
///
/// In `bf16` and `f16`, sums of products are those of f32, and everything between a load and a store is computed in f32; the values stored
/// have 8 significant bits, or 11, so that an output deviates by about a hundredth of its standard deviation, or a thousandth. In bf16,
/// numbers below 2^-126 count as zero; in f16, numbers beyond 65504 are infinite. See [`mod@egret_passes::narrow`] for what stays f32.
///
/// In `tf32` all values are f32, and a GPU may round what it multiplies to 11 significant bits, for a product in a quarter of the time.
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
    /// f32 values are multiplied as TF32, on GPUs.
    Tf32,
    /// f32 values are stored as bf16, wherever that is safe.
    Bf16,
    /// f32 values are stored as f16, wherever that is safe; on GPUs.
    F16,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Precision; 4] = [Precision::F32, Precision::Tf32, Precision::Bf16, Precision::F16];

    /// What options call it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
        }
    }

    /// The precision of this name.
    pub fn named(name: &str) -> Option<Precision> {
        Precision::ALL.into_iter().find(|p| p.name() == name)
    }

    /// What f32 values are stored as, if not as they are.
    pub(crate) fn storage(self) -> Option<DType> {
        match self {
            Precision::F32 | Precision::Tf32 => None,
            Precision::Bf16 => Some(DType::BF16),
            Precision::F16 => Some(DType::F16),
        }
    }

    /// A target with the instructions that the precision has a use for.
    ///
    /// # Errors
    /// A sentence, if there is no code for the target in this precision.
    pub(crate) fn on(self, target: Target) -> Result<Target, String> {
        Ok(match self {
            Precision::F16 if !target.is_cuda() => {
                return Err(format!(
                    "there is no code in f16 for processors, and `{}` is one; it takes --precision bf16, and GPUs f16",
                    target.name
                ));
            }
            Precision::F32 | Precision::F16 => target,
            Precision::Tf32 => target.with_tf32().unwrap_or(target),
            Precision::Bf16 => target.with_dots().unwrap_or(target),
        })
    }

    /// What has to be said of a target of this precision: that it has no instructions for it.
    pub(crate) fn note(self, target: &Target) -> Option<String> {
        let name = &target.name;
        match self {
            Precision::Tf32 if !target.tf32 => Some(format!("`{name}` has no products in TF32: they are those of f32")),
            Precision::Bf16 if target.is_cuda() && !target.has_bf16() => Some(format!(
                "`{name}` has no instructions for bf16: values are stored as bf16, products take as long as in f32; it has some for f16"
            )),
            Precision::Bf16 if !target.is_cuda() && !target.dots => Some(format!(
                "`{name}` has no dot products of bf16 (AVX512-BF16): values are stored as bf16, products take as long as in f32"
            )),
            Precision::F32 | Precision::Tf32 | Precision::Bf16 | Precision::F16 => None,
        }
    }
}
