//! What the tests of lowering share.

use crate::artifact::{Options, compile};
use crate::interpret::{kernels_text, run_interpreted};
use crate::plan;
use crate::target::Target;
use egret_ir::random::random;
use egret_ir::{Bindings, DType, Element, Graph, Tensor, TensorType, eval, text};

/// Graphs in textual form with numbers for their symbols: each is lowered as one kernel and op by op, and every way to run
/// it has to agree with the reference evaluator.
#[track_caller]
pub fn check(cases: &[(&str, &[(&str, i64)])]) {
    for (source, dims) in cases {
        if let Err(problem) = agrees(source, dims) {
            panic!("{source}\n{problem}");
        }
    }
}

fn agrees(source: &str, dims: &[(&str, i64)]) -> Result<(), String> {
    let graph = text::parse(source).map_err(|e| e.to_string())?;
    let bindings: Bindings = dims.iter().map(|(name, n)| ((*name).into(), *n)).collect();
    let inputs = inputs(&graph, &bindings)?;
    let expected = eval::eval(&graph, &inputs)?;
    let target = Target::named("x86-64-v4").map_err(|e| e.to_string())?;
    for (way, graph) in [("as one kernel", &as_kernel(&graph)?), ("op by op", &graph)] {
        let program = plan::build(graph, &target, &|_, _| {}).map_err(|e| format!("{way}: {e}"))?;
        let found = run_interpreted(&program, target.lanes, &inputs).map_err(|e| format!("{way}: {e}"))?;
        compare(&expected, &found).map_err(|e| format!("{way}: {e}\n{}", kernels_text(&program)))?;
    }
    let outer = as_kernel(&graph)?;
    if let Ok(native) = Target::native() {
        for threads in [1, 3] {
            let found = run_compiled(&outer, &native, threads, &inputs).map_err(|e| format!("compiled: {e}"))?;
            compare(&expected, &found).map_err(|e| format!("compiled, {threads} threads: {e}"))?;
        }
    }
    Ok(())
}

/// The results of a graph by way of machine code and the runtime.
pub fn run_compiled(graph: &Graph, target: &Target, threads: usize, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let words = |e: &dyn std::fmt::Display| e.to_string();
    let compiled = compile(graph, target, &Options::default()).map_err(|e| words(&e))?;
    let artifact = compiled.artifact().map_err(|e| words(&e))?;
    let options = egret_runtime::Options { threads, ..Default::default() };
    let mut session = egret_runtime::Session::from_artifact(artifact, options).map_err(|e| words(&e))?;
    let types =
        |name: &str| egret_runtime::DType::ALL.into_iter().find(|d| d.name() == name).expect("both crates have the same element types");
    let given = inputs.iter().map(|x| match x.texts() {
        Ok(texts) => egret_runtime::Tensor::from_strings(x.shape(), &texts),
        Err(_) => egret_runtime::Tensor::from_bytes(types(x.dtype().name()), x.shape(), x.bytes()),
    });
    let given = given.collect::<Result<Vec<_>, _>>().map_err(|e| words(&e))?;
    let names = graph.params().iter().map(|&p| &*graph.value(p).name);
    let views: Vec<_> = names.zip(&given).map(|(name, x)| (name, x.view())).collect();
    let found = session.run(&views).map_err(|e| words(&e))?;
    let tensor = |t: &egret_runtime::Tensor| {
        let dtype = DType::named(t.dtype().name()).expect("both crates have the same element types");
        Tensor::new(dtype, t.shape().to_vec(), t.bytes().to_vec().into())
    };
    found.iter().map(tensor).collect()
}

/// Random tensors; integers are small enough to be indices, some of them negative.
pub fn inputs(graph: &Graph, bindings: &Bindings) -> Result<Vec<Tensor>, String> {
    let tensor = |(seed, &param): (usize, &egret_ir::ValueId)| {
        let ty: TensorType = graph.ty(param).bind(bindings);
        let tensor = random(seed as u64 + 1, &ty)?;
        Ok(match ty.dtype {
            DType::I64 | DType::I32 => {
                let small = tensor.elements().map(|e| Element::Int(e.as_int() % 3));
                Tensor::from_elements(ty.dtype, tensor.shape().to_vec(), small.collect::<Vec<_>>())
            }
            _ => tensor,
        })
    };
    graph.params().iter().enumerate().map(tensor).collect()
}

/// A graph whose only node is a kernel with the given graph as its body.
pub fn as_kernel(graph: &Graph) -> Result<Graph, String> {
    let mut outer = Graph::new(graph.name.clone());
    let params: Vec<_> = graph.params().iter().map(|&p| outer.add_param(&graph.value(p).name, graph.ty(p).clone())).collect();
    let names: Vec<&str> = graph.result_names.iter().map(|n| &**n).collect();
    let results = outer.add_kernel("k0", graph.clone(), &params, &names, vec![])?;
    results.into_iter().zip(names).for_each(|(r, name)| outer.add_result(r, name));
    Ok(outer)
}

/// Whether tensors agree to within the rounding of their types.
pub fn compare(expected: &[Tensor], found: &[Tensor]) -> Result<(), String> {
    for (i, (e, f)) in expected.iter().zip(found).enumerate() {
        if e.ty() != f.ty() {
            return Err(format!("result {i} is {}, expected {}", f.ty(), e.ty()));
        }
        for (j, (x, y)) in e.elements().zip(f.elements()).enumerate() {
            let (x, y) = (x.as_f64(), y.as_f64());
            let close = (x - y).abs() <= tolerance(e.dtype()) * (1.0 + x.abs());
            if x != y && !close && !(x.is_nan() && y.is_nan()) {
                return Err(format!("element {j} of result {i} is {y}, expected {x}\nexpected {e:?}\nfound    {f:?}"));
            }
        }
    }
    Ok(())
}

fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 1e-5,
        DType::F16 => 2e-3,
        DType::BF16 => 2e-2,
        _ => 0.0,
    }
}
