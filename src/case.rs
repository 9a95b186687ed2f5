//! Test cases of the ONNX standard, run through compiled code.
//!
//! A case is a folder with a model, inputs, and the outputs that are right (`egret_frontend::Case` says which files). It is
//! compiled for the shapes of its inputs and run; the reference evaluator takes no part.
//!
//! Cases feed shapes, axes and pads as inputs. An ahead-of-time compiler has to know these: they, and no other inputs, are made
//! constants of the model, and the verdict names them. **Invariant.** A graph with such constants is compiled without the pass
//! `fold`, so that what a case tests is computed by code and not while compiling.

use crate::compiler::Compiler;
use crate::error::Error;
use crate::passes::{Context, FUSED, PassManager, UNFUSED};
use crate::{Artifact, graph};
use egret_frontend::{Case, CaseError, DataSet, ImportError, ImportOptions};
use egret_ir::{DType, Element, Graph, Tensor};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// What became of a case.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// All outputs are right. The inputs that had to be made constants are named.
    Passed(Vec<String>),
    /// An output is wrong, or the case could not be run although it was compiled: a sentence.
    Failed(String),
    /// It cannot be compiled: a sentence.
    Unsupported(String),
}

/// How far an output may be from the right one: `|found - right| <= absolute + relative * |right|`. Integers and truth values
/// have to be equal. Two units in the last place of a type are never too far, as in ONNX's runner for bf16.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// As a share of the right value.
    pub relative: f64,
    /// In any case.
    pub absolute: f64,
}

impl Default for Tolerance {
    /// That of ONNX's own test runner.
    fn default() -> Tolerance {
        Tolerance { relative: 1e-3, absolute: 1e-7 }
    }
}

/// Compiles the case in a folder, runs it on all its data, and compares.
///
/// # Errors
///
/// [`Error::File`] if the folder holds no readable case.
pub fn run_case(folder: &Path, target: &str, fuse: bool, tolerance: Tolerance) -> Result<Verdict, Error> {
    let case = match egret_frontend::read_case(folder) {
        Ok(case) => case,
        Err(CaseError::File(error)) => return Err(Error::File(error.to_string())),
        Err(CaseError::Unsupported(why)) => return Ok(Verdict::Unsupported(why)),
    };
    let compiler = Compiler::new().target(target);
    let mut fixed = BTreeSet::new();
    for set in &case.sets {
        let verdict = match compiled(&case, set, &compiler, fuse) {
            Ok((artifact, Imported { fixed: names, draws, .. })) => {
                let wrong = run(
                    &artifact,
                    set,
                    &names,
                    |right, found| if draws { other_type(right, found) } else { difference(right, found, tolerance) },
                );
                if draws && wrong.is_none() {
                    return Ok(Verdict::Unsupported(DRAWN.to_string()));
                }
                fixed.extend(names.iter().map(|name| name.to_string()));
                wrong
            }
            Err(Error::Unsupported(why)) => return Ok(Verdict::Unsupported(why)),
            Err(error) => Some(error.to_string()),
        };
        if let Some(wrong) = verdict {
            return Ok(Verdict::Failed(wrong));
        }
    }
    Ok(Verdict::Passed(fixed.into_iter().collect()))
}

/// Why the outputs of a model that draws random numbers are not compared: no two implementations draw the same ones.
const DRAWN: &str = "its outputs are drawn at random, those of the case by numpy; types and shapes are right";

/// A case's model as a graph.
struct Imported {
    graph: Graph,
    /// The inputs that are constants of it.
    fixed: BTreeSet<Arc<str>>,
    /// Whether it draws random numbers.
    draws: bool,
}

/// The compiled model for the shapes of a data set.
fn compiled(case: &Case, set: &DataSet, compiler: &Compiler, fuse: bool) -> Result<(Artifact, Imported), Error> {
    let imported = imported(case, set)?;
    let Imported { graph, fixed, .. } = &imported;
    let pipeline = if fuse { FUSED } else { UNFUSED };
    let pipeline: Vec<&str> = pipeline.split(", ").filter(|pass| fixed.is_empty() || *pass != "fold").collect();
    let passes = PassManager::named(&pipeline.join(", ")).map_err(Error::Usage)?;
    let (grouped, _) = passes.run(graph, &Context::default(), |_, _| ()).map_err(Error::Unsupported)?;
    Ok((compiler.generate(&grouped)?, imported))
}

/// The graph of the case for the shapes of a data set. Inputs whose data decides over shapes are made constants, as few as
/// will do.
fn imported(case: &Case, set: &DataSet) -> Result<Imported, Error> {
    let shapes = set.inputs.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect();
    let mut options = ImportOptions { shapes, dims: set.lengths.clone(), ..ImportOptions::default() };
    loop {
        let problems = match egret_frontend::import(&case.model, &options) {
            Ok(import) => {
                let fixed = options.values.into_keys().collect();
                return Ok(Imported { graph: import.graph, fixed, draws: import.draws > 0 });
            }
            Err(ImportError::Unsupported(problems)) => problems,
            Err(error) => return Err(error.into()),
        };
        let known = options.values.len();
        let asked: BTreeSet<&Arc<str>> = problems.iter().flat_map(|problem| &problem.data).collect();
        options.values.extend(set.inputs.iter().filter(|(name, _)| asked.contains(name)).cloned());
        if options.values.len() == known {
            return Err(ImportError::Unsupported(problems).into());
        }
    }
}

/// Runs the model on a data set; a sentence on the first output that `compare` finds wrong.
fn run(
    artifact: &Artifact,
    set: &DataSet,
    fixed: &BTreeSet<Arc<str>>,
    compare: impl Fn(&Tensor, &Tensor) -> Option<String>,
) -> Option<String> {
    let given = set.inputs.iter().filter(|(name, _)| !fixed.contains(name));
    let outputs = given.map(|(name, tensor)| Ok((name, graph::from_ir(tensor)?))).collect::<Result<Vec<_>, Error>>().and_then(|given| {
        let given: Vec<_> = given.iter().map(|(name, tensor)| (&***name, tensor.view())).collect();
        Ok(artifact.session(1)?.run(&given)?)
    });
    let outputs = match outputs {
        Ok(outputs) => outputs,
        Err(error) => return Some(error.to_string()),
    };
    let names: Vec<&str> = artifact.plan().outputs.iter().map(|port| port.name.as_str()).collect();
    if !set.outputs.iter().map(|(name, _)| &**name).eq(names.iter().copied()) {
        return Some(format!("has the outputs {names:?}, expected {} of them", set.outputs.len()));
    }
    let differences = set.outputs.iter().zip(&outputs).map(|((name, right), found)| (name, compare(right, &graph::to_ir(found))));
    let (name, difference) = differences.into_iter().find_map(|(name, difference)| Some((name, difference?)))?;
    Some(format!("output `{name}` {difference}"))
}

/// What is wrong about a tensor's type, if it is.
fn other_type(right: &Tensor, found: &Tensor) -> Option<String> {
    (right.ty() != found.ty()).then(|| format!("is {}, expected {}", found.ty(), right.ty()))
}

/// What is wrong about a tensor, if it is.
fn difference(right: &Tensor, found: &Tensor, tolerance: Tolerance) -> Option<String> {
    if let Some(other) = other_type(right, found) {
        return Some(other);
    }
    let relative = tolerance.relative.max(2.0 * resolution(right.dtype()));
    // Sums round at the size of what is summed, which the result need not show where it is near 0.
    let largest = right.elements().map(Element::as_f64).filter(|x| x.is_finite()).fold(0.0, |most, x| f64::max(most, x.abs()));
    let absolute = tolerance.absolute.max(2.0 * resolution(right.dtype()).min(f32::EPSILON.into()) * largest);
    let near = |right: Element, found: Element| match (right, found) {
        (Element::Float(right), Element::Float(found)) => {
            right == found || right.is_nan() && found.is_nan() || (found - right).abs() <= absolute + relative * right.abs()
        }
        _ => right == found,
    };
    let wrong: Vec<(usize, (Element, Element))> =
        right.elements().zip(found.elements()).enumerate().filter(|(_, (right, found))| !near(*right, *found)).collect();
    let (at, (expected, value)) = wrong.first()?;
    Some(format!("has {value} at element {at}, expected {expected}; {} of {} elements are wrong", wrong.len(), right.count()))
}

/// The distance of neighbouring numbers of a type, as a share of them; 0 for types that are exact.
fn resolution(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON,
        DType::F32 => f32::EPSILON.into(),
        DType::F16 => 2f64.powi(-10),
        DType::BF16 => 2f64.powi(-7),
        // One number in place of its neighbour would be far off; these have to be equal.
        _ => 0.0,
    }
}
