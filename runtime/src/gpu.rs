//! What a GPU runs: the PTX of a program's kernels, and how each is started.
//!
//! **Invariant.** An [`Image`] that was checked against a plan has an entry point for each kernel, which takes as many parameters
//! as every step that calls it has: the addresses of [`Step::reads`](crate::plan::Step::reads), then of
//! [`Step::writes`](crate::plan::Step::writes), then [`Step::sizes`](crate::plan::Step::sizes) as 64-bit integers.
//!
//! ```
//! use egret_runtime::gpu::{Arch, Version, ptx_header};
//!
//! let ptx = "//\n.version 7.0\n.target sm_80\n.address_size 64\n";
//! assert_eq!(ptx_header(ptx), Some((Version { major: 7, minor: 0 }, Arch::named("sm_80").unwrap())));
//! // Code for an architecture runs on all later ones, unless it is for just that one.
//! let h100 = Version { major: 9, minor: 0 };
//! assert!(Arch::named("sm_80").unwrap().runs_on(h100) && Arch::named("sm_90a").unwrap().runs_on(h100));
//! assert!(!Arch::named("sm_90a").unwrap().runs_on(Version { major: 10, minor: 0 }));
//! ```

use crate::plan::{Plan, Size, Step};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;

/// The code of a GPU, as the code section of an artifact holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// One PTX module with all entry points.
    pub ptx: String,
    /// How to start each kernel, in the order of the plan's, then what [follows](Launch::then) some of them.
    pub launches: Vec<Launch>,
}

/// How a kernel is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Its entry point.
    pub entry: String,
    /// Thread blocks of the one-dimensional grid. Symbol `i` is the kernel's size argument `i`; if the value is 0, nothing is started.
    pub blocks: Size,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory of a block beside what the entry point declares.
    pub shared: u32,
    /// Bytes of working memory, whose address comes behind those of the buffers among the parameters unless there are none. It is the
    /// same memory for the launch that follows, and nothing in it is kept beyond that.
    pub scratch: u64,
    /// The number of the launch that follows, with the same parameters.
    pub then: Option<u32>,
}

/// A GPU of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Its compute capability.
    pub capability: Version,
    /// Bytes of its memory.
    pub memory: u64,
    /// Its multiprocessors.
    pub multiprocessors: u32,
    /// The CUDA version of the driver.
    pub driver: Version,
}

/// Threads that a block has at most, on every GPU there is.
const MOST_THREADS: u32 = 1024;

/// Bytes of shared memory that a block can have on the GPUs that have most of it.
const MOST_SHARED: u32 = 227 << 10;

/// Bytes of working memory that a kernel can have: far more than one asks for, and its sums do not wrap.
const MOST_SCRATCH: u64 = 1 << 40;

/// Blocks that a grid has at most.
const MOST_BLOCKS: i64 = (1 << 31) - 1;

impl Image {
    /// The bytes of a code section.
    ///
    /// # Errors
    ///
    /// A sentence, if it cannot be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        postcard::to_stdvec(self).map_err(|e| e.to_string())
    }

    /// Reads a code section.
    ///
    /// # Errors
    ///
    /// A sentence, if it holds no image.
    pub fn from_bytes(bytes: &[u8]) -> Result<Image, String> {
        postcard::from_bytes(bytes).map_err(|e| format!("its code for a GPU cannot be read: {e}"))
    }

    /// Checks it against the plan that calls it and the architecture that the file names.
    ///
    /// # Errors
    ///
    /// The first problem, as a sentence.
    pub fn check(&self, plan: &Plan, arch: &str) -> Result<(), String> {
        let named = Arch::named(arch).ok_or_else(|| format!("`{arch}` is no architecture of a GPU"))?;
        match ptx_header(&self.ptx) {
            Some((_, found)) if found == named => {}
            Some((_, found)) => return Err(format!("its PTX is for {found}, not for {named}")),
            None => return Err("its PTX does not say what it is for".to_string()),
        }
        if self.launches.len() < plan.kernels.len() {
            return Err(format!("it has {} entry points for {} kernels", self.launches.len(), plan.kernels.len()));
        }
        self.check_steps(plan)
    }

    fn check_steps(&self, plan: &Plan) -> Result<(), String> {
        let entries = entries(&self.ptx);
        for step in &plan.steps {
            for number in numbers(&self.launches, step.kernel as usize) {
                let launch = self.launches.get(number).ok_or_else(|| format!("launch {number} of step `{}` is not there", step.name))?;
                launch.check(step, &entries)?;
            }
        }
        Ok(())
    }
}

/// The numbers of the launches of a kernel, in order: its own, and that of the one that follows.
pub fn numbers(launches: &[Launch], kernel: usize) -> impl Iterator<Item = usize> {
    let then = launches.get(kernel).and_then(|launch| launch.then);
    [Some(kernel), then.map(|number| number as usize)].into_iter().flatten()
}

impl Launch {
    fn check(&self, step: &Step, entries: &HashMap<&str, usize>) -> Result<(), String> {
        let Launch { entry, blocks, threads, shared, scratch, .. } = self;
        let wanted = step.reads.len() + step.writes.len() + step.sizes.len() + usize::from(*scratch > 0);
        match entries.get(entry.as_str()) {
            None => return Err(format!("its PTX has no entry point `{entry}`")),
            Some(found) if *found != wanted => {
                return Err(format!("step `{}` has {wanted} parameters for `{entry}`, which takes {found}", step.name));
            }
            Some(_) => {}
        }
        blocks.check(step.sizes.len()).map_err(|problem| format!("the blocks of `{entry}`: {problem}"))?;
        if !(1..=MOST_THREADS).contains(threads) {
            return Err(format!("blocks of `{entry}` would have {threads} threads"));
        }
        if *shared > MOST_SHARED {
            return Err(format!("blocks of `{entry}` would have {shared} bytes of shared memory"));
        }
        if *scratch > MOST_SCRATCH {
            return Err(format!("`{entry}` would have {scratch} bytes of working memory"));
        }
        Ok(())
    }

    /// The number of blocks for these size arguments.
    ///
    /// # Errors
    ///
    /// A sentence, if there is no such grid.
    pub fn grid(&self, sizes: &[i64]) -> Result<u32, String> {
        match self.blocks.eval(sizes).map_err(|problem| format!("the blocks of `{}`: {problem}", self.entry))? {
            blocks @ 0..=MOST_BLOCKS => Ok(blocks as u32),
            blocks => Err(format!("`{}` would have {blocks} thread blocks; a GPU has at most {MOST_BLOCKS}", self.entry)),
        }
    }
}

/// A version in two numbers: of PTX, of a driver, of what a GPU can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first.
    pub major: u32,
    /// The second.
    pub minor: u32,
}

impl Version {
    /// The architecture of a compute capability, and of all later ones.
    pub fn arch(self) -> Arch {
        Arch { capability: self, reach: Reach::Later }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// An architecture of GPUs, `sm_80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arch {
    /// The compute capability it needs.
    pub capability: Version,
    /// Where it runs beyond that.
    pub reach: Reach,
}

/// Where code for an architecture runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// There and on all later ones.
    Later,
    /// On those of the same major number, `sm_100f`.
    Family,
    /// Only there, `sm_90a`.
    Exact,
}

impl Arch {
    /// The architecture of a name such as `sm_90a`: the last digit is the minor number.
    pub fn named(name: &str) -> Option<Arch> {
        let number = name.strip_prefix("sm_")?;
        let (number, reach) = match number.strip_suffix('a') {
            Some(number) => (number, Reach::Exact),
            None => number.strip_suffix('f').map_or((number, Reach::Later), |number| (number, Reach::Family)),
        };
        let known = number.bytes().all(|byte| byte.is_ascii_digit()) && (2..=4).contains(&number.len());
        let number: u32 = number.parse().ok().filter(|_| known)?;
        Some(Arch { capability: Version { major: number / 10, minor: number % 10 }, reach })
    }

    /// Whether its code runs on a GPU of this compute capability.
    pub fn runs_on(self, found: Version) -> bool {
        match self.reach {
            Reach::Later => self.capability <= found,
            Reach::Family => self.capability <= found && self.capability.major == found.major,
            Reach::Exact => self.capability == found,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = match self.reach {
            Reach::Later => "",
            Reach::Family => "f",
            Reach::Exact => "a",
        };
        write!(f, "sm_{}{}{suffix}", self.capability.major, self.capability.minor)
    }
}

/// The version of PTX and the architecture that a module begins with.
pub fn ptx_header(ptx: &str) -> Option<(Version, Arch)> {
    let word = |directive: &str| ptx.lines().find_map(|line| line.strip_prefix(directive)?.split([' ', ',']).find(|word| !word.is_empty()));
    let (major, minor) = word(".version")?.trim().split_once('.')?;
    let version = Version { major: major.parse().ok()?, minor: minor.parse().ok()? };
    Some((version, Arch::named(word(".target")?.trim())?))
}

/// The versions of PTX with the first CUDA whose drivers read them (PTX ISA, release notes). Later ones have the number of the
/// CUDA they came with.
const FIRST_CUDA: &[(Version, Version)] = &[
    (Version { major: 6, minor: 3 }, Version { major: 10, minor: 0 }),
    (Version { major: 6, minor: 4 }, Version { major: 10, minor: 1 }),
    (Version { major: 6, minor: 5 }, Version { major: 10, minor: 2 }),
    (Version { major: 8, minor: 6 }, Version { major: 12, minor: 7 }),
    (Version { major: 8, minor: 7 }, Version { major: 12, minor: 8 }),
    (Version { major: 8, minor: 8 }, Version { major: 12, minor: 9 }),
];

/// The CUDA version that a driver must have to read a version of PTX: PTX 7.0 came with CUDA 11.0, 8.0 with 12.0, and so on.
pub fn cuda_for_ptx(ptx: Version) -> Version {
    let listed = FIRST_CUDA.iter().find(|(known, _)| *known == ptx);
    listed.map_or(Version { major: ptx.major + 4, minor: ptx.minor }, |(_, cuda)| *cuda)
}

/// The entry points of a module with their numbers of parameters.
fn entries(ptx: &str) -> HashMap<&str, usize> {
    let entry = |text: &'_ str| -> Option<(usize, usize)> {
        let (name, rest) = text.split_once('(')?;
        Some((name.len(), rest.split_once(')')?.0.matches(".param ").count()))
    };
    let found = ptx.match_indices(".entry ").filter_map(|(at, word)| {
        let text = &ptx[at + word.len()..];
        entry(text).map(|(length, parameters)| (text[..length].trim(), parameters))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{chain, image};

    #[test]
    fn names_of_architectures_are_read_and_printed() {
        for name in ["sm_75", "sm_80", "sm_90a", "sm_100f", "sm_121"] {
            assert_eq!(Arch::named(name).unwrap().to_string(), name);
        }
        for wrong in ["sm_", "sm_8", "sm_80b", "80", "sm_99999", "sm_+80", ""] {
            assert_eq!(Arch::named(wrong), None, "{wrong}");
        }
        let version = |major, minor| Version { major, minor };
        assert_eq!(Arch::named("sm_121").unwrap().capability, version(12, 1));
        assert!(Arch::named("sm_100f").unwrap().runs_on(version(10, 3)) && !Arch::named("sm_100f").unwrap().runs_on(version(12, 0)));
        assert!(!Arch::named("sm_80").unwrap().runs_on(version(7, 5)));
    }

    #[test]
    fn drivers_are_as_new_as_the_ptx() {
        let cases = [((6, 3), (10, 0)), ((7, 0), (11, 0)), ((8, 5), (12, 5)), ((8, 7), (12, 8)), ((9, 0), (13, 0))];
        for ((major, minor), (cuda, point)) in cases {
            assert_eq!(cuda_for_ptx(Version { major, minor }), Version { major: cuda, minor: point });
        }
    }

    #[test]
    fn an_image_that_does_not_fit_its_plan_is_refused() {
        let plan = chain(3);
        let refused = |damage: &dyn Fn(&mut Image), arch: &str, expected: &str| {
            let mut image = image(&plan);
            assert_eq!(image.check(&plan, "sm_80"), Ok(()));
            damage(&mut image);
            let problem = image.check(&plan, arch).expect_err(expected);
            assert!(problem.contains(expected), "expected `{expected}` in `{problem}`");
        };
        refused(&|_| (), "sm_90", "its PTX is for sm_80, not for sm_90");
        refused(&|_| (), "znver4", "`znver4` is no architecture");
        refused(&|i| i.ptx = i.ptx.replace(".version", ".v"), "sm_80", "does not say what it is for");
        refused(&|i| i.launches.clear(), "sm_80", "0 entry points for 1 kernels");
        refused(&|i| i.launches[0].entry = "k7".into(), "sm_80", "no entry point `k7`");
        refused(&|i| i.ptx = i.ptx.replacen(".param ", ".p ", 1), "sm_80", "has 3 parameters for `k0`, which takes 2");
        refused(&|i| i.launches[0].threads = 2000, "sm_80", "would have 2000 threads");
        refused(&|i| i.launches[0].shared = 1 << 20, "sm_80", "would have 1048576 bytes of shared memory");
        refused(&|i| i.launches[0].scratch = u64::MAX, "sm_80", "has 4 parameters for `k0`, which takes 3");
        refused(&|i| i.launches[0].then = Some(7), "sm_80", "launch 7 of step");
        refused(&|i| i.launches[0].blocks = Size::symbol(3), "sm_80", "names symbol 3");
        let grid =
            |blocks| Launch { entry: "k".into(), blocks: Size::Const(blocks), threads: 1, shared: 0, scratch: 0, then: None }.grid(&[]);
        assert_eq!(grid(7), Ok(7));
        assert!(grid(-1).is_err() && grid(1 << 31).unwrap_err().contains("2147483648 thread blocks"));
    }

    #[test]
    fn images_are_read_as_they_were_written() {
        let image = image(&chain(1));
        assert_eq!(Image::from_bytes(&image.to_bytes().unwrap()).unwrap(), image);
        assert!(Image::from_bytes(b"\xff\xff").unwrap_err().contains("cannot be read"));
    }
}
