//! Options that several verbs share, and how their values are read.
//!
//! **Invariant.** An option means the same in every verb that has it. A value that cannot be right is refused while the
//! command line is parsed, with exit code 2.

use super::report;
use clap::Args;
use egret::passes::rules::{Class, Rule};
use egret::range::Range;
use egret::{Compiler, DeviceName, Error, Precision};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Extents of free dimensions.
#[derive(Args, Clone, Debug)]
pub struct DimOptions {
    /// Fix a free dimension, such as batch=1, or limit it where code for all of its extents is made, such as batch=1..32; may be
    /// given several times
    #[arg(long = "dim", value_name = "NAME=N|LOW..HIGH", value_parser = parse_dim)]
    pub dims: Vec<(String, Range)>,
}

impl DimOptions {
    /// These extents and no others.
    pub fn of(fixed: Vec<(String, i64)>) -> DimOptions {
        DimOptions { dims: fixed.into_iter().map(|(name, extent)| (name, Range::new(extent, extent))).collect() }
    }

    /// The dimensions that have one extent.
    pub fn fixed(&self) -> Vec<(String, i64)> {
        let is_fixed = |range: &Range| range.low == range.high;
        self.dims.iter().filter(|(_, range)| is_fixed(range)).map(|(name, range)| (name.clone(), range.low)).collect()
    }

    /// The dimensions that are limited and free.
    pub fn limited(&self) -> BTreeMap<String, Range> {
        self.dims.iter().filter(|(_, range)| range.low != range.high).cloned().collect()
    }

    /// The extents, where each has to be a number.
    pub fn numbers(&self) -> Result<Vec<(String, i64)>, Error> {
        match self.limited().first_key_value() {
            None => Ok(self.fixed()),
            Some((name, range)) => Err(Error::Usage(format!(
                "--dim {name}={range} is no extent to run with; `egret compile` takes ranges, here give one number, such as {name}={}",
                range.low
            ))),
        }
    }

    /// The compiler with these extents.
    pub fn bind(&self, compiler: Compiler) -> Compiler {
        let compiler = self.fixed().iter().fold(compiler, |compiler, (name, extent)| compiler.dim(name, *extent));
        self.limited().iter().fold(compiler, |compiler, (name, range)| compiler.limited(name, *range))
    }
}

/// Inputs that are constants of the compiled model.
#[derive(Args, Clone, Debug)]
pub struct FreezeOptions {
    /// Make an input a constant: the content of an .npy file, or a number for all of its elements, or one for each, separated
    /// by commas; may be given several times
    #[arg(long = "freeze", value_name = "INPUT=FILE.npy|VALUE", value_parser = parse_frozen)]
    pub frozen: Vec<(String, String)>,
}

/// Which rewrite rules may be applied.
#[derive(Args, Clone, Debug)]
pub struct RuleOptions {
    /// Apply only rules of class `exact`: no rule changes an output by a bit
    #[arg(long, conflicts_with = "fast_math")]
    pub strict: bool,
    /// Apply rules of class `approx` too, which change outputs by more than rounding
    #[arg(long)]
    pub fast_math: bool,
    /// Leave out rules, families of rules or optional passes, separated by commas (see `egret list rules`)
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    pub disable_rules: Vec<String>,
    /// Apply a rule that nothing has proved, `CLASS NAME: LEFT => RIGHT`: to try out `check --per-rewrite` and `bisect`
    #[arg(long, value_name = "RULE", value_parser = Rule::parse, hide = true)]
    pub unproved_rule: Vec<Rule>,
}

impl RuleOptions {
    /// The compiler with these rules.
    pub fn choose(&self, compiler: Compiler) -> Compiler {
        let compiler = match (self.strict, self.fast_math) {
            (true, _) => compiler.class(Class::Exact),
            (false, true) => compiler.class(Class::Approx),
            (false, false) => compiler,
        };
        let compiler = compiler.rules(self.unproved_rule.iter().cloned());
        self.disable_rules.iter().fold(compiler, |compiler, name| compiler.disable(name))
    }

    /// The first of the flags that was given.
    pub fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--strict", self.strict),
            ("--fast-math", self.fast_math),
            ("--disable-rules", !self.disable_rules.is_empty()),
            ("--unproved-rule", !self.unproved_rule.is_empty()),
        ];
        flags.into_iter().find_map(|(flag, is_given)| is_given.then_some(flag))
    }
}

/// What a report says of the rules that made its code: the weakest class of those that were applied.
pub fn rules_words(weakest: Option<Class>) -> String {
    match weakest {
        None => "no rules applied".to_string(),
        Some(class) => format!("weakest rule {}", class.name()),
    }
}

/// How a model is compiled; an artifact was compiled before, and only `--dim` has a meaning for it.
#[derive(Args, Clone, Debug)]
pub struct CompileOptions {
    /// What to compile for: native, x86-64-v3, x86-64-v4, an LLVM name (see `egret list targets`), or cuda:sm_80 and its kin for a
    /// GPU; several, with commas between them, go into one file
    #[arg(long, value_name = "TARGET", default_value = "native")]
    pub target: String,
    /// Compute convolutions as sums of products only, never by Winograd's algorithm
    #[arg(long)]
    pub exact_conv: bool,
    /// How values between kernels, and weights, are held: f32, or bf16, which is half as large and multiplied twice as fast, or f16 for
    /// GPUs; tf32 holds f32 and lets GPUs round what they multiply
    #[arg(long, value_name = "f32|tf32|bf16|f16", default_value = "f32", value_parser = parse_precision)]
    pub precision: Precision,
    #[command(flatten)]
    pub free: DimOptions,
    #[command(flatten)]
    pub freeze: FreezeOptions,
    #[command(flatten)]
    pub rules: RuleOptions,
}

impl CompileOptions {
    /// A compiler set up by these options.
    pub fn compiler(&self, fuse: bool) -> Compiler {
        let compiler = Compiler::new().target(&self.target).fuse(fuse).exact_conv(self.exact_conv).precision(self.precision);
        self.rules.choose(self.free.bind(compiler))
    }

    /// Says so where the processor has no instructions for the precision.
    pub fn announce(&self) -> Result<(), Error> {
        self.compiler(true).precision_note()?.into_iter().for_each(report::note);
        Ok(())
    }
}

/// Largest error over the standard deviation of an output that passes: f32 leaves ten times that of good code, bf16 three times what
/// networks of a hundred layers have, which round to 8 bits after each; f16 and TF32 have 11.
pub fn tolerance(asked: Option<f64>, precision: Precision) -> f64 {
    asked.unwrap_or(match precision {
        Precision::F32 => 1e-4,
        Precision::Bf16 => 0.3,
        Precision::Tf32 | Precision::F16 => 0.04,
    })
}

/// A precision by its name.
fn parse_precision(text: &str) -> Result<Precision, String> {
    let known = Precision::ALL.map(Precision::name).join(", ");
    Precision::named(text).ok_or_else(|| format!("expected one of {known}"))
}

/// `--device`.
#[derive(Args, Clone, Debug)]
pub struct DeviceOption {
    /// What to run on: cpu, a GPU of this machine (cuda:0), or emu, which emulates a GPU, slowly and with checks
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceName::Cpu)]
    pub device: DeviceName,
}

/// Where inputs come from; without any, they are pseudo-random.
#[derive(Args, Clone, Debug)]
pub struct InputOptions {
    /// Read the input NAME from an .npy file; may be given several times
    #[arg(long = "input", value_name = "NAME=FILE", value_parser = parse_input)]
    pub inputs: Vec<(String, PathBuf)>,
    /// Read input i from DIR/input_<i>.npy, in the order of the model's inputs
    #[arg(long, value_name = "DIR")]
    pub input_dir: Option<PathBuf>,
    /// Seed of the pseudo-random inputs that stand in when none are given
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// How long to measure, and on how many threads.
#[derive(Args, Clone, Debug)]
pub struct MeasureOptions {
    /// Thread counts to measure, separated by commas
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1", value_parser = parse_threads)]
    pub threads: Vec<usize>,
    /// Measure at least this long for each row, such as 500ms or 3s (or 200000 runs, if that is sooner)
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    pub min_time: Duration,
}

/// `--json [FILE]`.
#[derive(Args, Clone, Debug)]
pub struct JsonOption {
    /// Write the result as JSON to FILE, or to stdout in place of the text
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<String>,
}

impl JsonOption {
    /// Whether stdout belongs to the JSON, so that the text has to be left out.
    pub fn takes_stdout(&self) -> bool {
        self.json.as_deref() == Some("-")
    }
}

/// More threads than any machine has processors are a typing mistake.
const MAX_THREADS: usize = 1024;

/// A number of threads.
pub fn parse_threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(threads) if (1..=MAX_THREADS).contains(&threads) => Ok(threads),
        _ => Err(format!("a number of threads is between 1 and {MAX_THREADS}")),
    }
}

/// Longest extent that is accepted: no tensor with a longer axis fits a memory.
const MAX_EXTENT: i64 = 1 << 40;

/// `NAME=N` or `NAME=LOW..HIGH`, split at the last `=`.
fn parse_dim(text: &str) -> Result<(String, Range), String> {
    let (name, extent) = split_assignment(text, "NAME=N, such as batch=1")?;
    let number = |text: &str| text.parse().ok().filter(|extent| (0..=MAX_EXTENT).contains(extent));
    let (low, high) = extent.split_once("..").unwrap_or((extent, extent));
    match (number(low), number(high)) {
        (Some(low), Some(high)) if low <= high => Ok((name, Range::new(low, high))),
        (Some(low), Some(high)) => Err(format!("the range of `{name}` ends at {high}, before it begins at {low}")),
        _ => Err(format!("the extent of `{name}` is `{extent}`, expected a whole number from 0, or a range such as 1..32")),
    }
}

/// `NAME=FILE`, split at the last `=`: names of values may contain one, names of files seldom do.
fn parse_input(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = split_assignment(text, "NAME=FILE, such as x=x.npy")?;
    Ok((name, file.into()))
}

/// `INPUT=VALUE`, split at the last `=`.
fn parse_frozen(text: &str) -> Result<(String, String), String> {
    let (name, value) = split_assignment(text, "INPUT=FILE.npy or INPUT=VALUE, such as k=5")?;
    Ok((name, value.to_string()))
}

fn split_assignment<'a>(text: &'a str, expected: &str) -> Result<(String, &'a str), String> {
    match text.rsplit_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_string(), value)),
        _ => Err(format!("expected {expected}")),
    }
}

/// Longest time that is accepted: a day.
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// `3s`, `500ms`, `1m 30s`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time > MAX_TIME => Err("that is more than a day".to_string()),
        Ok(time) => Ok(time),
        Err(error) => Err(format!("{error}; expected a time such as 500ms or 3s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_split_at_the_last_sign() {
        assert_eq!(parse_input("a=b=c.npy"), Ok(("a=b".into(), "c.npy".into())));
        assert_eq!(parse_dim("N=2=3"), Ok(("N=2".into(), Range::new(3, 3))));
        assert_eq!(parse_dim("N=1..32"), Ok(("N".into(), Range::new(1, 32))));
        assert!(parse_dim("N=4..3").unwrap_err().contains("ends at 3, before it begins at 4"));
        for wrong in ["batch", "=1", "batch=", "batch=-1", "batch=x", "batch=99999999999999"] {
            assert!(parse_dim(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn threads_and_times_have_bounds() {
        assert_eq!(parse_threads("2"), Ok(2));
        assert!(parse_threads("0").is_err() && parse_threads("-1").is_err() && parse_threads("9999").is_err());
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(parse_duration("3").is_err() && parse_duration("99d").is_err() && parse_duration("").is_err());
    }
}
