//! Runs ONNX's own backend test cases through the importer and the reference evaluator.
//!
//! ```text
//! $ cargo run --release -p egret-frontend --example node_cases -- node_tests/node [--wrong] [--unsupported]
//! {Passed: 1047, Constant: 257, Unsupported: 580}
//! ```
//!
//! The folder holds one folder per case with `model.onnx` and `test_data_set_<i>/{input,output}_<j>.pb`, as
//! `onnx.backend.test` makes them. Cases feed shapes as run-time inputs; where that is in the way, the inputs are made
//! constants of the model, which counts as `Constant`.

use egret_frontend::{ImportError, ImportOptions, import_bytes};
use egret_ir::{Tensor, eval::eval};
use onnx_protobuf::{GraphProto, Message, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use protobuf::MessageField;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What became of a case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Status {
    Passed,
    Constant,
    Wrong,
    Unsupported,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.iter().find(|a| !a.starts_with("--")).ok_or("which folder?")?;
    let shown = |status: Status| match status {
        Status::Passed => arguments.iter().any(|a| a == "--passed"),
        Status::Constant => arguments.iter().any(|a| a == "--constant"),
        Status::Wrong => arguments.iter().any(|a| a == "--wrong"),
        Status::Unsupported => arguments.iter().any(|a| a == "--unsupported"),
    };
    let mut cases: Vec<PathBuf> = fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    cases.sort();
    let mut counts: BTreeMap<Status, usize> = BTreeMap::new();
    for case in cases {
        let (status, why) = run(&case)?;
        *counts.entry(status).or_default() += 1;
        if shown(status) {
            println!("{status:?}: {}: {}", case.file_name().unwrap_or_default().to_string_lossy(), why.lines().next().unwrap_or(""));
        }
    }
    println!("{counts:?}");
    Ok(())
}

fn run(case: &Path) -> Result<(Status, String)> {
    let model = ModelProto::parse_from_bytes(&fs::read(case.join("model.onnx"))?)?;
    let set = case.join("test_data_set_0");
    let protos = |kind: &str| -> Vec<TensorProto> {
        let read = |i: usize| TensorProto::parse_from_bytes(&fs::read(set.join(format!("{kind}_{i}.pb"))).ok()?).ok();
        (0..).map_while(read).collect()
    };
    let (inputs, outputs) = (protos("input"), protos("output"));
    let first = attempt(&model, &inputs, &outputs, false);
    Ok(match first {
        Ok(None) => (Status::Passed, String::new()),
        Ok(Some(difference)) => (Status::Wrong, difference),
        Err(error) => match attempt(&model, &inputs, &outputs, true) {
            Ok(None) => (Status::Constant, error.lines().next().unwrap_or("").to_string()),
            Ok(Some(difference)) => (Status::Wrong, difference),
            Err(error) => (Status::Unsupported, error),
        },
    })
}

/// None if the outputs are right, what differs if they are not; an error if the case cannot be run.
fn attempt(
    model: &ModelProto,
    inputs: &[TensorProto],
    outputs: &[TensorProto],
    constant: bool,
) -> std::result::Result<Option<String>, String> {
    let mut model = model.clone();
    let graph = model.graph.mut_or_insert_default();
    if constant {
        graph.initializer.extend(inputs.iter().zip(&graph.input).map(|(t, i)| TensorProto { name: i.name.clone(), ..t.clone() }));
    }
    let import = import_bytes(model.write_to_bytes().map_err(|e| e.to_string())?, &ImportOptions::default()).map_err(|e| match e {
        ImportError::Unsupported(problems) => problems[0].message.clone(),
        other => other.to_string(),
    })?;
    let values = if constant { vec![] } else { tensors(inputs)? };
    egret_ir::verify::verify(&import.graph).map_err(|e| format!("verify: {e}"))?;
    let found = eval(&import.graph, &values)?;
    let wanted = tensors(outputs)?;
    for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        if (found.shape(), found.dtype()) != (wanted.shape(), wanted.dtype()) {
            return Ok(Some(format!("output {i} is {:?}, expected {:?}", found.ty(), wanted.ty())));
        }
        // The tolerances of onnx.backend.test, wider for the 16-bit types.
        let (relative, absolute) = if found.dtype().size() == 2 { (2e-2, 1e-2) } else { (1e-3, 1e-5) };
        let near = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= absolute + relative * b.abs();
        if let Some((a, b)) = found.to_f64s().into_iter().zip(wanted.to_f64s()).find(|(a, b)| !near(*a, *b)) {
            return Ok(Some(format!("output {i} has {a}, expected {b}; {found:?} {wanted:?}")));
        }
    }
    Ok(None)
}

/// Tensors as the importer reads them: the constants of a model that returns them.
fn tensors(protos: &[TensorProto]) -> std::result::Result<Vec<Tensor>, String> {
    let read = |proto: &TensorProto| {
        let named = TensorProto { name: "t".into(), ..proto.clone() };
        let output = ValueInfoProto { name: "y".into(), type_: tensor_type(proto.data_type), ..Default::default() };
        let node = NodeProto { op_type: "Identity".into(), input: vec!["t".into()], output: vec!["y".into()], ..Default::default() };
        let graph = GraphProto { initializer: vec![named], output: vec![output], node: vec![node], ..Default::default() };
        let opset = onnx_protobuf::OperatorSetIdProto { version: 17, ..Default::default() };
        let model = ModelProto { graph: MessageField::some(graph), opset_import: vec![opset], ..Default::default() };
        let import = import_bytes(model.write_to_bytes().map_err(|e| e.to_string())?, &ImportOptions::default())
            .map_err(|e| format!("data: {e}"))?;
        let value = import.graph.results[0];
        import.graph.constant(value).map(|t| (**t).clone()).ok_or_else(|| "no constant".to_string())
    };
    protos.iter().map(read).collect()
}

fn tensor_type(element: i32) -> MessageField<onnx_protobuf::TypeProto> {
    let tensor = onnx_protobuf::type_proto::Tensor { elem_type: element, ..Default::default() };
    MessageField::some(onnx_protobuf::TypeProto { value: Some(onnx_protobuf::type_proto::Value::TensorType(tensor)), ..Default::default() })
}
