//! Which processors code is made for.
//!
//! A [`Target`] fixes the instruction set (a level such as `x86-64-v4`) and, apart from it, the processor whose pipeline the
//! instructions are ordered for. **Invariant.** Code uses no feature beyond [`Target::required_features`], which the header of an
//! artifact lists: an artifact for `znver4` runs on every processor of level `x86-64-v4`, unless it has dot products of bf16 or bytes.
//!
//! ```
//! # use egret_codegen::target::Target;
//! let target = Target::named("x86-64-v4").unwrap();
//! assert_eq!((target.lanes, target.vregs), (16, 32));
//! assert!(Target::named("pentium").unwrap_err().to_string().contains("x86-64-v3"));
//! ```

use egret_runtime::gpu::{Arch, Version};
use inkwell::targets::{InitializationConfig, TargetMachine};

/// A processor that code is made for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The name it was asked for by; for `native`, the host's.
    pub name: String,
    /// LLVM's triple.
    pub triple: &'static str,
    /// `x86_64` or `aarch64`, as in `std::env::consts::ARCH`.
    pub arch: &'static str,
    /// The LLVM processor whose features code may use.
    pub cpu: &'static str,
    /// The LLVM processor that instructions are scheduled for.
    pub tune: String,
    /// Features beyond the architecture's baseline, by LLVM's names: what a processor must have to run the code.
    pub features: &'static [&'static str],
    /// How many `f32`s a vector register holds.
    pub lanes: usize,
    /// The number of vector registers.
    pub vregs: usize,
    /// Whether code may use dot products of pairs of bf16; see [`Target::with_dots`].
    pub dots: bool,
    /// Whether the processor has them.
    has_dots: bool,
    /// Whether products of f32 may round their operands to TF32, of which a number has 11 significant bits; see [`Target::with_tf32`].
    pub tf32: bool,
    /// Whether code may use products of bytes; see [`Target::with_bytes`].
    pub bytes: bool,
    /// Whether the processor has them.
    has_bytes: bool,
}

/// A target that is not known or cannot be made code for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No target has this name.
    #[error("`{name}` is no known target; expected `native` or one of {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Every name there is.
        known: String,
    },
    /// No GPU has this name.
    #[error("`{name}` is no known GPU; expected one of {known}; code for {oldest} runs on every later one, too")]
    UnknownGpu {
        /// What was asked for.
        name: String,
        /// Every name there is.
        known: String,
        /// The one that `cuda` stands for.
        oldest: &'static str,
    },
    /// `native` on a processor that is too old.
    #[error("code for this processor (`{cpu}`) cannot be made: it lacks {missing}; name a target to compile for another machine")]
    Host {
        /// LLVM's name of the processor.
        cpu: String,
        /// What is missing, in words.
        missing: String,
    },
}

/// An instruction set.
struct Level {
    cpu: &'static str,
    triple: &'static str,
    arch: &'static str,
    features: &'static [&'static str],
    lanes: usize,
    vregs: usize,
    /// Processors that have it and nothing better; the first is the level's own name.
    processors: &'static [&'static str],
}

/// What dot products of pairs of bf16 need beyond the level, and the processors that have it.
const DOTS: &str = "avx512bf16";
const WITH_DOTS: &[&str] = &["cooperlake", "sapphirerapids", "emeraldrapids", "graniterapids", "znver4", "znver5"];

/// What products of bytes, four at a time, need beyond the level, and the processors that have it.
const BYTES: &str = "avx512vnni";
const WITH_BYTES: &[&str] = &[
    "cascadelake",
    "cooperlake",
    "icelake-client",
    "icelake-server",
    "tigerlake",
    "rocketlake",
    "sapphirerapids",
    "emeraldrapids",
    "graniterapids",
    "znver4",
    "znver5",
];

/// Best first within an architecture.
const LEVELS: &[Level] = &[
    Level {
        cpu: "x86-64-v4",
        triple: "x86_64-unknown-linux-gnu",
        arch: "x86_64",
        features: &[
            "avx", "avx2", "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe",
            "popcnt",
        ],
        lanes: 16,
        vregs: 32,
        processors: &[
            "x86-64-v4",
            "skylake-avx512",
            "cascadelake",
            "cooperlake",
            "icelake-client",
            "icelake-server",
            "tigerlake",
            "rocketlake",
            "sapphirerapids",
            "emeraldrapids",
            "graniterapids",
            "znver4",
            "znver5",
        ],
    },
    Level {
        cpu: "x86-64-v3",
        triple: "x86_64-unknown-linux-gnu",
        arch: "x86_64",
        features: &["avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "popcnt"],
        lanes: 8,
        vregs: 16,
        processors: &["x86-64-v3", "haswell", "broadwell", "skylake", "alderlake", "raptorlake", "znver1", "znver2", "znver3"],
    },
    Level {
        cpu: "generic",
        triple: "aarch64-unknown-linux-gnu",
        arch: "aarch64",
        features: &["neon"],
        lanes: 4,
        vregs: 32,
        processors: &[
            "aarch64",
            "cortex-a72",
            "cortex-a76",
            "neoverse-n1",
            "neoverse-n2",
            "neoverse-v1",
            "neoverse-v2",
            "apple-m1",
            "ampere1",
        ],
    },
];

/// What all GPUs have in common. Weights are packed as for vectors of four: what a thread of a GPU reads at once.
const CUDA: Level = Level {
    cpu: "sm_80",
    triple: "nvptx64-nvidia-cuda",
    arch: "nvptx64",
    features: &[],
    lanes: 4,
    vregs: 16,
    processors: &[
        "cuda:sm_80",
        "cuda:sm_75",
        "cuda:sm_86",
        "cuda:sm_87",
        "cuda:sm_89",
        "cuda:sm_90",
        "cuda:sm_90a",
        "cuda:sm_100",
        "cuda:sm_103",
        "cuda:sm_120",
        "cuda:sm_121",
    ],
};

/// The GPU that is meant where none is named, the oldest with asynchronous copies; and what stands before the name of one.
const CUDA_NAME: &str = "cuda";

/// The compute capability that bf16 and TF32 came with (PTX ISA, `mma` and `cvt`).
const AMPERE: Version = Version { major: 8, minor: 0 };

impl Target {
    /// The target of this name: `native`, a level (`x86-64-v3`, `x86-64-v4`, `aarch64`), a processor (`znver4`) or a GPU
    /// (`cuda:sm_80`, or `cuda` for that one).
    ///
    /// # Errors
    /// When the name is not known, or it is `native` and this machine is too old or of another kind.
    pub fn named(name: &str) -> Result<Target, TargetError> {
        if name == "native" {
            return Target::native();
        }
        if name.split(':').next() == Some(CUDA_NAME) {
            return Target::gpu(name);
        }
        let level = LEVELS.iter().find(|l| l.processors.contains(&name));
        let level = level.ok_or_else(|| TargetError::Unknown { name: name.to_string(), known: Target::names().join(", ") })?;
        Ok(level.target(name))
    }

    fn gpu(name: &str) -> Result<Target, TargetError> {
        let wanted = if name == CUDA_NAME { CUDA.processors[0] } else { name };
        let found = CUDA.processors.iter().find_map(|p| if *p == wanted { p.split(':').nth(1) } else { None });
        let unknown = || TargetError::UnknownGpu { name: name.to_string(), known: CUDA.processors.join(", "), oldest: CUDA.processors[0] };
        let cpu = found.ok_or_else(unknown)?;
        Ok(Target { name: name.to_string(), cpu, tune: cpu.to_string(), ..CUDA.target(name) })
    }

    /// The GPUs that [`Target::named`] knows, the one that is meant by `cuda` first.
    pub fn gpus() -> &'static [&'static str] {
        CUDA.processors
    }

    /// The best target that runs here.
    ///
    /// # Errors
    /// When no level does.
    pub fn native() -> Result<Target, TargetError> {
        let cpu = TargetMachine::get_host_cpu_name().to_string();
        let here: Vec<&Level> = LEVELS.iter().filter(|l| l.arch == std::env::consts::ARCH).collect();
        match here.iter().find(|l| l.missing().is_empty()) {
            Some(level) => {
                let has = |feature: &str| level.lanes == 16 && egret_runtime::cpu::missing_features(&[feature.to_string()]).is_empty();
                Ok(Target { has_dots: has(DOTS), has_bytes: has(BYTES), ..level.target(&cpu) })
            }
            None => {
                let missing = here.last().map_or(format!("support for {}", std::env::consts::ARCH), |l| l.missing().join(", "));
                Err(TargetError::Host { cpu, missing })
            }
        }
    }

    /// Every name that [`Target::named`] knows besides `native`.
    pub fn names() -> Vec<&'static str> {
        LEVELS.iter().flat_map(|l| l.processors).copied().collect()
    }

    /// The features as an artifact's header has them.
    pub fn required_features(&self) -> Vec<String> {
        let mut features: Vec<String> = self.features.iter().copied().chain(self.extensions()).map(str::to_string).collect();
        features.sort();
        features
    }

    /// The same with the processor's dot products of pairs of bf16, which then are among the features that code needs; `None` if it
    /// has none.
    pub fn with_dots(&self) -> Option<Target> {
        self.has_dots.then(|| Target { dots: true, ..self.clone() })
    }

    /// The same with the processor's products of bytes, which then are among the features that code needs; `None` if it has none.
    pub fn with_bytes(&self) -> Option<Target> {
        self.has_bytes.then(|| Target { bytes: true, ..self.clone() })
    }

    /// The same without products of bytes.
    pub(crate) fn without_bytes(&self) -> Target {
        Target { bytes: false, ..self.clone() }
    }

    /// The same with products of f32 in TF32, for a GPU that has such instructions; `None` for all others.
    pub fn with_tf32(&self) -> Option<Target> {
        let has = self.capability().is_some_and(|found| found >= AMPERE);
        has.then(|| Target { tf32: true, ..self.clone() })
    }

    /// Whether it is a GPU that multiplies and rounds bf16 by instructions.
    pub fn has_bf16(&self) -> bool {
        self.capability().is_some_and(|found| found >= AMPERE)
    }

    /// Whether it is a GPU whose warps multiply in groups of four, by `wgmma`: an instruction of that one architecture.
    pub fn has_warpgroups(&self) -> bool {
        self.cpu == "sm_90a"
    }

    /// The compute capability of a GPU.
    pub fn capability(&self) -> Option<Version> {
        Arch::named(self.cpu).map(|arch| arch.capability)
    }

    /// What code uses beyond `cpu`, as LLVM wants it.
    pub(crate) fn extra_features(&self) -> String {
        let named: Vec<String> = self.extensions().map(|feature| format!("+{feature}")).collect();
        named.join(",")
    }

    /// The features beyond the level that code may use.
    fn extensions(&self) -> impl Iterator<Item = &'static str> {
        [(self.dots, DOTS), (self.bytes, BYTES)].into_iter().filter_map(|(is_used, feature)| is_used.then_some(feature))
    }

    /// Whether code for it runs on this machine.
    pub fn runs_here(&self) -> bool {
        self.arch == std::env::consts::ARCH && egret_runtime::cpu::missing_features(&self.required_features()).is_empty()
    }

    /// Bits of a vector register.
    pub fn vector_bits(&self) -> usize {
        32 * self.lanes
    }

    /// Whether it is a GPU, for which [`cuda`](crate::cuda) makes PTX.
    pub fn is_cuda(&self) -> bool {
        self.arch == CUDA.arch
    }

    /// Tells LLVM about the architectures; cheap when done before.
    pub(crate) fn initialize() {
        inkwell::targets::Target::initialize_nvptx(&InitializationConfig::default());
        inkwell::targets::Target::initialize_x86(&InitializationConfig::default());
        inkwell::targets::Target::initialize_aarch64(&InitializationConfig::default());
    }
}

impl Level {
    fn target(&self, name: &str) -> Target {
        // A level's own name says nothing about pipelines.
        let tune = if self.processors[0] == name { self.cpu } else { name };
        Target {
            name: name.to_string(),
            triple: self.triple,
            arch: self.arch,
            cpu: self.cpu,
            tune: tune.to_string(),
            features: self.features,
            lanes: self.lanes,
            vregs: self.vregs,
            dots: false,
            tf32: false,
            has_dots: WITH_DOTS.contains(&name),
            bytes: false,
            has_bytes: WITH_BYTES.contains(&name),
        }
    }

    fn missing(&self) -> Vec<String> {
        let wanted: Vec<String> = self.features.iter().map(|f| f.to_string()).collect();
        egret_runtime::cpu::missing_features(&wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_target() {
        for name in Target::names() {
            assert_eq!(Target::named(name).unwrap().name, name);
        }
    }

    #[test]
    fn native_code_runs_here() {
        match Target::native() {
            Ok(target) => assert!(target.runs_here()),
            Err(e) => assert!(e.to_string().contains("lacks"), "{e}"),
        }
    }

    #[test]
    fn gpus_are_targets() {
        assert_eq!(Target::named("cuda").unwrap().cpu, "sm_80");
        assert!(Target::gpus().iter().all(|name| Target::named(name).is_ok_and(|t| t.is_cuda() && !t.runs_here())));
        let message = Target::named("cuda:sm_20").unwrap_err().to_string();
        assert!(message.starts_with("`cuda:sm_20` is no known GPU; expected one of cuda:sm_80, cuda:sm_75, "), "{message}");
        assert!(message.ends_with("code for cuda:sm_80 runs on every later one, too"), "{message}");
        for wrong in ["cuda:", "cuda:0", "cuda:sm_90b", "cuda:sm_90:x"] {
            assert!(matches!(Target::named(wrong), Err(TargetError::UnknownGpu { .. })), "{wrong}");
        }
    }

    #[test]
    fn dots_are_used_where_they_are_asked_for() {
        let zen = Target::named("znver4").unwrap();
        let needs = |target: &Target| target.required_features().contains(&DOTS.to_string());
        assert!(!needs(&zen) && needs(&zen.with_dots().unwrap()));
        for without in ["x86-64-v4", "skylake-avx512", "x86-64-v3", "aarch64", "cuda"] {
            assert_eq!(Target::named(without).unwrap().with_dots(), None, "{without}");
            assert_eq!(Target::named(without).unwrap().with_bytes(), None, "{without}");
        }
        let lake = Target::named("icelake-server").unwrap().with_bytes().unwrap();
        assert!(lake.required_features().contains(&BYTES.to_string()) && !needs(&lake));
    }

    #[test]
    fn formats_of_tensor_cores_came_with_ampere() {
        let has = |name: &str| {
            let target = Target::named(name).unwrap();
            (target.with_tf32().is_some_and(|with| with.tf32), target.has_bf16())
        };
        for (name, expected) in [("cuda", true), ("cuda:sm_90a", true), ("cuda:sm_121", true), ("cuda:sm_75", false), ("znver4", false)] {
            assert_eq!(has(name), (expected, expected), "{name}");
        }
    }

    #[test]
    fn a_wrong_name_lists_the_right_ones() {
        let message = Target::named("i486").unwrap_err().to_string();
        assert!(message.starts_with("`i486` is no known target; expected `native` or one of x86-64-v4, "), "{message}");
    }
}
