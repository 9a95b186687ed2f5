//! Imports ONNX models, prints what is in them, and with `--eval` runs the reference evaluator on the inputs stored beside a
//! model and compares with the stored outputs.
//!
//! ```text
//! $ cargo run --release -p egret-frontend --example import -- [--dim batch=1]... [--print] [--shapes] [--eval] model.onnx...
//! digits_cnn: 18 nodes, 10 operators of opset 17, 38282 parameters: image f32[batch, 1, 8, 8] -> probs f32[batch, 10]
//!   probs: 1.1e-6 of the standard deviation
//! ```
//!
//! `--shapes` settles free extents by the stored inputs; `--eval` reads `input_<i>.npy` and `output_<i>.npy`, in the order of the graph's inputs and outputs.

use egret_frontend::{Import, ImportOptions, import};
use egret_ir::{DType, Element, Tensor, eval::eval};
use npyz::{DType as NpyType, NpyFile, TypeChar};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Largest difference over the standard deviation that counts as equal.
const TOLERANCE: f64 = 1e-4;

fn main() -> ExitCode {
    let mut options = ImportOptions::default();
    let (mut models, mut print, mut compare, mut shapes) = (vec![], false, false, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--print" => print = true,
            "--shapes" => shapes = true,
            "--eval" => compare = true,
            "--dim" => match arguments.next().as_deref().and_then(|a| a.rsplit_once('=')).map(|(n, v)| (n, v.parse())) {
                Some((name, Ok(value))) => drop(options.dims.insert(name.into(), value)),
                _ => {
                    eprintln!("--dim takes NAME=NUMBER");
                    return ExitCode::from(2);
                }
            },
            _ => models.push(PathBuf::from(argument)),
        }
    }
    let mut failed = false;
    for model in models {
        let name =
            model.parent().and_then(Path::file_name).map_or_else(|| model.display().to_string(), |n| n.to_string_lossy().into_owned());
        let folder = model.parent().unwrap_or(Path::new("."));
        if shapes && let Ok(inputs) = egret_frontend::inputs(&model, &options.dims) {
            let stored = inputs
                .iter()
                .enumerate()
                .filter_map(|(i, (name, _))| Some((name.clone(), read(&folder.join(format!("input_{i}.npy"))).ok()?.shape().to_vec())));
            options.shapes = stored.collect();
        }
        let import = match import(&model, &options) {
            Ok(import) => import,
            Err(error) => {
                println!("{name}: FAILED\n{error}\n");
                failed = true;
                continue;
            }
        };
        println!("{name}: {}", summary(&import));
        import.warnings.iter().for_each(|w| println!("  {w}"));
        if print {
            println!("{}", import.graph);
        }
        if compare {
            match differences(&import, folder) {
                Ok(lines) => lines.iter().for_each(|(line, equal)| {
                    failed |= !equal;
                    println!("  {}{line}", if *equal { "" } else { "DIFFERS " });
                }),
                Err(error) => {
                    failed = true;
                    println!("  EVALUATION FAILED: {error}");
                }
            }
        }
    }
    ExitCode::from(u8::from(failed))
}

fn summary(import: &Import) -> String {
    let graph = &import.graph;
    let values =
        |ids: &[egret_ir::ValueId]| ids.iter().map(|&v| format!("{} {}", graph.value(v).name, graph.ty(v))).collect::<Vec<_>>().join(", ");
    let operators: usize = import.summary.ops.values().sum();
    format!(
        "{} nodes, {operators} operators of opset {}, {} parameters: {} -> {}",
        graph.nodes().len(),
        import.summary.opset,
        import.summary.parameters,
        values(graph.params()),
        values(&graph.results)
    )
}

/// Per output its name and difference, and whether that is small enough.
fn differences(import: &Import, folder: &Path) -> Result<Vec<(String, bool)>> {
    let file = |kind: &str, i: usize| read(&folder.join(format!("{kind}_{i}.npy")));
    let inputs = (0..import.graph.params().len()).map(|i| file("input", i)).collect::<Result<Vec<Tensor>>>()?;
    egret_ir::verify::verify(&import.graph)?;
    let outputs = eval(&import.graph, &inputs)?;
    let mut lines = vec![];
    for (i, (output, name)) in outputs.iter().zip(&import.graph.result_names).enumerate() {
        let expected = file("output", i)?;
        if (output.shape(), output.dtype()) != (expected.shape(), expected.dtype()) {
            lines.push((format!("{name}: {:?}, expected {:?}", output.ty(), expected.ty()), false));
            continue;
        }
        let (found, wanted) = (output.to_f64s(), expected.to_f64s());
        let difference = difference(&found, &wanted);
        lines.push((format!("{name}: {difference:.1e} of the standard deviation"), difference <= TOLERANCE));
    }
    Ok(lines)
}

/// The largest difference over the standard deviation of what is wanted, or over its largest magnitude if all is the same.
fn difference(found: &[f64], wanted: &[f64]) -> f64 {
    let count = wanted.len().max(1) as f64;
    let mean = wanted.iter().sum::<f64>() / count;
    let deviation = (wanted.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count).sqrt();
    let size = wanted.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let scale = if deviation > 1e-6 * size { deviation } else { size.max(f64::MIN_POSITIVE) };
    let apart = |(a, b): (&f64, &f64)| if a == b || a.is_nan() && b.is_nan() { 0.0 } else { (a - b).abs() };
    // NaN must not count as small.
    let largest = found.iter().zip(wanted).map(apart).fold(0.0f64, |m, d| if d.is_nan() { f64::INFINITY } else { m.max(d) });
    largest / scale
}

fn read(path: &Path) -> Result<Tensor> {
    let file = NpyFile::new(BufReader::new(File::open(path).map_err(|e| format!("{}: {e}", path.display()))?))?;
    let shape: Vec<usize> = file.shape().iter().map(|&d| d as usize).collect();
    let NpyType::Plain(ty) = file.dtype() else { return Err("structured arrays are not read".into()) };
    macro_rules! read {
        ($dtype:ident, $t:ty, $element:expr) => {
            Ok(Tensor::from_elements(DType::$dtype, shape, file.into_vec::<$t>()?.into_iter().map($element)))
        };
    }
    match (ty.type_char(), ty.size_field()) {
        (TypeChar::Float, 4) => read!(F32, f32, |v| Element::Float(v.into())),
        (TypeChar::Float, 8) => read!(F64, f64, Element::Float),
        (TypeChar::Int, 8) => read!(I64, i64, |v| Element::Int(v.into())),
        (TypeChar::Int, 4) => read!(I32, i32, |v| Element::Int(v.into())),
        (TypeChar::Int, 1) => read!(I8, i8, |v| Element::Int(v.into())),
        (TypeChar::Uint, 1) => read!(U8, u8, |v| Element::Int(v.into())),
        (TypeChar::Bool, _) => read!(Bool, bool, Element::Bool),
        (other, size) => Err(format!("{}: arrays of {other:?}{size} are not read", path.display()).into()),
    }
}
