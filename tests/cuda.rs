//! Whole models as PTX through the runtime's executor, on an emulator of a GPU, against the reference evaluator; and what NVIDIA's
//! assembler says of their kernels.

use egret::codegen::cuda::{compile, emu::EmuDevice};
use egret::codegen::kernel::Kernel;
use egret::codegen::{Target, plan};
use egret::ir::random::random;
use egret::ir::{Bindings, Tensor, eval, text};
use egret::{Compiler, Graph, Session, from_ir, to_ir};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Most that an output may differ, relative to one more than its size: as for compiled code.
const TOLERANCE: f64 = 1e-4;

/// A model of `examples/models`, with some dimensions fixed.
type Model = (&'static str, &'static [(&'static str, i64)]);

const MODELS: [Model; 3] =
    [("digits_cnn.onnx", &[("batch", 3)]), ("digits_lstm.onnx", &[("batch", 2)]), ("digits_vit.onnx", &[("batch", 2)])];

/// Layers of known models: every template, at extents where registers and shared memory are short.
const LAYERS: &[&str] = &[
    "graph g(x: f32[128, 768], w: f32[768, 3072], b: f32[3072]) { p = matmul(x, w)\n s = add(p, b)\n y = gelu(s)\n return y }",
    "graph g(x: f32[1, 768], w: f32[768, 3072], r: f32[1, 3072]) { p = matmul(x, w)\n y = add(p, r)\n return y }",
    "graph g(x: f32[4, 2048], w: f32[2048, 1000]) { y = matmul(x, w)\n return y }",
    "graph g(x: f32[B, 64, 768], w: f32[768, 768]) { y = matmul(x, w)\n return y }",
    "graph g(x: f32[1, 58, 58, 64], r: f32[1, 56, 56, 64]) {
        const w: f32[3, 3, 64, 64] = random(1)
        c = conv[stride = [1, 1], pad = [0, 0, 0, 0], dilation = [1, 1], layout = last](x, w)
        s = add(c, r)
        y = relu(s)
        return y
    }",
    "graph g(x: f32[1, 30, 30, 96]) {
        const w: f32[3, 3, 1, 96] = random(1)
        c = conv[stride = [2, 2], pad = [0, 0, 0, 0], dilation = [1, 1], group = 96, layout = last](x, w)
        y = silu(c)
        return y
    }",
    "graph g(x: f32[128, 768], s: f32[768], b: f32[768]) { y = layer_norm[axes = [1], epsilon = 0.00001](x, s, b)\n return y }",
    "graph g(x: f32[16, 50257]) { y = softmax[axes = [1]](x)\n return y }",
    "graph g(q: f32[12, 128, 64], k: f32[12, 128, 64], v: f32[12, 128, 64], m: f32[1, 1, 128]) {
        y = attention[scale = 0.125](q, k, v, m)
        return y
    }",
    "graph g(q: f32[2, 4, S, 128], k: f32[2, 1, S, 128], v: f32[2, 1, S, 128]) {
        y = attention[scale = 0.125, causal = true](q, k, v)
        return y
    }",
    "graph g(q: f32[12, 1, 64], k: f32[12, N, 64], v: f32[12, N, 64], m: f32[1, 1, N]) {
        y = attention[scale = 0.125](q, k, v, m)
        return y
    }",
    "graph g(q: f32[8, 4, 256], k: f32[8, N, 256], v: f32[8, N, 256]) { y = attention[scale = 0.1](q, k, v)\n return y }",
    "graph g(x: f32[T, 2, 40], h: f32[2, 64], c: f32[2, 64]) {
        const w: f32[256, 40] = random(1)
        const r: f32[256, 64] = random(2)
        const b: f32[512] = random(3)
        y, s, t = lstm(x, w, r, b, h, c)
        return y, s, t
    }",
    "graph g(x: f32[T, 1, 40], h: f32[1, 256]) {
        const w: f32[768, 40] = random(1)
        const r: f32[768, 256] = random(2)
        const b: f32[1536] = random(3)
        y, s = gru(x, w, r, b, h)
        return y, s
    }",
];

/// The compiler for a GPU, and a model's graph.
fn imported(gpu: &str, (name, dims): Model) -> (Compiler, Graph) {
    let compiler = dims.iter().fold(Compiler::new().target(gpu), |compiler, (dim, extent)| compiler.dim(dim, *extent));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models").join(name);
    let graph = compiler.import(path).unwrap().graph;
    (compiler, graph)
}

fn lowered(compiler: &Compiler, graph: &Graph) -> plan::Program {
    plan::build(&compiler.optimise(graph).unwrap(), &compiler.chosen_target().unwrap(), &|_, _| {}).unwrap()
}

fn model(name: &str) -> Graph {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/models").join(name);
    Compiler::new().import(path).unwrap().graph
}

fn session(graph: &Graph, targets: &str, seed: u64) -> Session {
    Compiler::new().target(targets).compile_graph(graph).unwrap().session_on(Box::new(EmuDevice::new(seed))).unwrap()
}

/// Runs a model for some extents of its free dimensions, on random inputs.
fn agrees(session: &mut Session, graph: &Graph, dims: &[(&str, i64)], seed: u64) {
    let bindings: Bindings = dims.iter().map(|(name, extent)| ((*name).into(), *extent)).collect();
    let input = |(i, p): (usize, &egret::ir::ValueId)| random(seed + i as u64, &graph.ty(*p).bind(&bindings)).unwrap();
    let inputs: Vec<Tensor> = graph.params().iter().enumerate().map(input).collect();
    let expected = eval::eval(graph, &inputs).unwrap();
    let tensors: Vec<egret::Tensor> = inputs.iter().map(|tensor| from_ir(tensor).unwrap()).collect();
    let names = graph.params().iter().map(|p| graph.value(*p).name.to_string());
    let named: Vec<(String, &egret::Tensor)> = names.zip(&tensors).collect();
    let views: Vec<_> = named.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect();
    let found = session.run(&views).unwrap_or_else(|e| panic!("{dims:?}: {e}"));
    assert_eq!(found.len(), expected.len());
    for (expected, found) in expected.iter().zip(&found) {
        let found = to_ir(found);
        assert_eq!(expected.ty(), found.ty());
        let apart = |(x, y): (f64, f64)| (x - y).abs() / (1.0 + x.abs());
        let pairs = expected.elements().zip(found.elements()).map(|(x, y)| (x.as_f64(), y.as_f64()));
        // What is NaN is not below the tolerance.
        assert!(pairs.map(apart).all(|apart| apart <= TOLERANCE), "{} {dims:?}", graph.name);
    }
}

#[test]
fn digits_cnn_runs_for_several_batches() {
    let graph = model("digits_cnn.onnx");
    let mut session = session(&graph, "native,cuda:sm_80", 1);
    assert_eq!(session.device().as_deref(), Some("emulator"));
    // 2 makes memory move; 1 is then recorded again, and the second 2 only replayed.
    for (seed, batch) in (1..).zip([1, 2, 1, 2]) {
        agrees(&mut session, &graph, &[("batch", batch)], seed);
    }
}

/// Runs a model with its dimensions fixed.
fn check(model: Model) {
    let (compiler, graph) = imported("cuda:sm_80", model);
    let mut session = compiler.compile_graph(&graph).unwrap().session_on(Box::new(EmuDevice::new(1))).unwrap();
    agrees(&mut session, &graph, &[], 1);
}

#[test]
fn digits_lstm_runs() {
    check(MODELS[1]);
}

#[test]
fn digits_vit_runs() {
    check(MODELS[2]);
}

#[test]
fn a_batch_of_nothing_is_no_work() {
    let graph = model("digits_cnn.onnx");
    agrees(&mut session(&graph, "cuda", 1), &graph, &[("batch", 0)], 1);
}

#[test]
fn outputs_that_are_inputs_or_constants_come_back() {
    let source = "graph g(x: f32[N, 3]) {
        const w: f32[3, 3] = random(1)
        y = matmul(x, w)
        z = reshape[shape = [3*N]](y)
        return y, x, w, z
    }";
    let graph = egret::parse_text("g", source).unwrap();
    let mut session = session(&graph, "cuda:sm_80,cuda:sm_90", 7);
    [1, 70].into_iter().for_each(|n| agrees(&mut session, &graph, &[("N", n)], 3));
}

#[test]
fn wrong_inputs_end_in_the_sentences_of_the_processor() {
    let graph = model("digits_cnn.onnx");
    let artifact = Compiler::new().target("native,cuda").compile_graph(&graph).unwrap();
    let mut sessions = [artifact.session(1).unwrap(), artifact.session_on(Box::new(EmuDevice::new(1))).unwrap()];
    let zeros = |shape: &[usize]| egret::Tensor::from_slice(shape, &vec![0.0f32; shape.iter().product()]).unwrap();
    let (good, wide, flat) = (zeros(&[2, 1, 8, 8]), zeros(&[2, 1, 8, 9]), zeros(&[8, 8]));
    for inputs in [vec![("images", &wide)], vec![("images", &flat)], vec![("image", &good)], vec![], vec![("images", &good), ("x", &good)]]
    {
        let views: Vec<_> = inputs.iter().map(|(name, tensor)| (*name, tensor.view())).collect();
        let [cpu, gpu] = sessions.each_mut().map(|session| session.run(&views).unwrap_err().to_string());
        assert_eq!(cpu, gpu);
    }
}

/// The kernels of all models and layers for a GPU.
fn kernels(gpu: &str) -> Vec<Kernel> {
    let of_models = MODELS.into_iter().map(|model| imported(gpu, model));
    let of_layers =
        LAYERS.iter().map(|source| (Compiler::new().target(gpu), text::parse(source).unwrap_or_else(|e| panic!("{source}\n{e}"))));
    of_models.chain(of_layers).flat_map(|(compiler, graph)| lowered(&compiler, &graph).kernels).collect()
}

/// A tool of NVIDIA, if there is one of that name or where the variable says.
fn tool(variable: &str, name: &str) -> Option<String> {
    let path = std::env::var(variable).unwrap_or_else(|_| name.into());
    Command::new(&path).arg("--version").output().ok().filter(|o| o.status.success()).map(|_| path)
}

/// The assembler of NVIDIA's Python wheel `nvidia-cuda-nvcc`, or what `PTXAS` names.
fn ptxas() -> Option<String> {
    let found = tool("PTXAS", "ptxas");
    if found.is_none() {
        eprintln!("not assembled: there is no ptxas; set PTXAS to that of the Python package nvidia-cuda-nvcc");
    }
    found
}

/// A folder that is deleted when it is no longer used.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("egret-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// Assembles PTX; what the assembler says, and where the machine code is.
    fn assembled(&self, ptxas: &str, gpu: &str, ptx: &str) -> (String, PathBuf) {
        let (input, output) = (self.0.join(format!("{gpu}.ptx")), self.0.join(format!("{gpu}.cubin")));
        std::fs::write(&input, ptx).unwrap();
        let run = Command::new(ptxas).args(["-v", "-arch", gpu, "-o"]).arg(&output).arg(&input).output().unwrap();
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(run.status.success(), "{gpu}: {said}");
        (said, output)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What products on tensor cores are in machine code: products, copies that go on by themselves, reads of matrices.
const TENSOR: [&str; 3] = ["HMMA.1688.F32.TF32", "LDGSTS", "LDSM"];

/// All of it becomes PTX, and where there is an assembler, machine code that keeps everything in registers.
#[test]
fn everything_is_ptx_that_assembles_without_spills() {
    let (ptxas, nvdisasm, folder) = (ptxas(), tool("NVDISASM", "nvdisasm"), Folder::new("ptxas"));
    for gpu in ["sm_80", "sm_90a"] {
        let name = format!("cuda:{gpu}");
        let kernels = kernels(&name);
        let code = compile(&kernels, &Target::named(&name).unwrap()).unwrap_or_else(|e| panic!("{e}"));
        assert!(code.ptx.contains(&format!(".target {gpu}")));
        let Some(ptxas) = &ptxas else { continue };
        let (said, cubin) = folder.assembled(ptxas, gpu, &code.ptx);
        let spills = said.lines().filter(|l| l.contains("spill") && !l.contains("0 bytes spill stores, 0 bytes spill loads"));
        assert_eq!(spills.collect::<Vec<_>>(), Vec::<&str>::new(), "{gpu}");
        assert_eq!(said.matches("bytes spill stores").count(), kernels.len(), "{said}");
        let Some(nvdisasm) = &nvdisasm else { continue };
        let run = Command::new(nvdisasm).arg(cubin).output().unwrap();
        let text = String::from_utf8_lossy(&run.stdout);
        assert_eq!(TENSOR.into_iter().find(|instruction| !text.contains(instruction)), None, "{gpu}");
    }
}

/// Products, a convolution and attention for every GPU that has a name; those before `sm_80` have no tensor cores for them.
#[test]
fn every_gpu_has_ptx_that_assembles() {
    let (ptxas, folder) = (ptxas(), Folder::new("gpus"));
    let graphs: Vec<Graph> = [0, 4, 8].iter().map(|&layer| text::parse(LAYERS[layer]).unwrap()).collect();
    for name in Target::gpus() {
        let kernels: Vec<Kernel> = graphs.iter().flat_map(|graph| lowered(&Compiler::new().target(name), graph).kernels).collect();
        let code = compile(&kernels, &Target::named(name).unwrap()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(code.ptx.contains("mma.sync"), *name != "cuda:sm_75", "{name}");
        if let Some(ptxas) = &ptxas {
            folder.assembled(ptxas, name.trim_start_matches("cuda:"), &code.ptx);
        }
    }
}
