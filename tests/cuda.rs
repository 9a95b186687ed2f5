//! Whole models as PTX through the runtime's executor, on an emulator of a GPU, against the reference evaluator, in every precision; and
//! what NVIDIA's assembler says of their kernels.

mod transformers;

use egret::codegen::cuda::{compile, emu::EmuDevice};
use egret::codegen::kernel::{Body, Kernel};
use egret::codegen::{Target, plan};
use egret::gpu::{Arch, Version, cuda_for_ptx, ptx_header};
use egret::ir::random::random;
use egret::ir::{Bindings, DType, Tensor, eval, text};
use egret::{Compiler, Graph, Precision, Session, from_ir, to_ir};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Most that an output may differ, relative to one more than its size: in f32 as for compiled code; a number of TF32 and of f16 has 11
/// significant bits, one of bf16 has 8, and some ten products follow each other.
fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-4,
        Precision::Tf32 | Precision::F16 => 1e-2,
        Precision::Bf16 => 8e-2,
    }
}

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
    "graph g(x: f32[2048, 768], w: f32[768, 3072], b: f32[3072]) { p = matmul(x, w)\n s = add(p, b)\n y = gelu(s)\n return y }",
    "graph g(x: f32[32, 58, 58, 64]) {
        const w: f32[3, 3, 64, 64] = random(1)
        y = conv[stride = [1, 1], pad = [0, 0, 0, 0], dilation = [1, 1], layout = last](x, w)
        return y
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
    emulated(Compiler::new().target(targets), graph, seed)
}

fn emulated(compiler: Compiler, graph: &Graph, seed: u64) -> Session {
    compiler.compile_graph(graph).unwrap().session_on(Box::new(EmuDevice::new(seed))).unwrap()
}

/// Runs a model for some extents of its free dimensions, on random inputs.
fn agrees(session: &mut Session, graph: &Graph, dims: &[(&str, i64)], seed: u64) {
    let worst = worst(session, graph, dims, seed);
    assert!(worst <= tolerance(Precision::F32), "{} {dims:?}: {worst:e}", graph.name);
}

/// The largest difference of an element to the evaluator's, relative to one more than its size; infinite where one is NaN.
fn worst(session: &mut Session, graph: &Graph, dims: &[(&str, i64)], seed: u64) -> f64 {
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
    let mut worst: f64 = 0.0;
    for (expected, found) in expected.iter().zip(&found) {
        let found = to_ir(found);
        assert_eq!(expected.ty(), found.ty());
        let pairs = expected.elements().zip(found.elements()).map(|(x, y)| (x.as_f64(), y.as_f64()));
        let apart = pairs.map(|(x, y)| (x - y).abs() / (1.0 + x.abs()));
        // `f64::max` would pass over a NaN.
        worst = apart.fold(worst, |worst, apart| if apart.is_nan() { f64::INFINITY } else { worst.max(apart) });
    }
    worst
}

/// A model in the other precisions: as near as they are, and as far as rounding takes it.
fn agrees_when_rounded(graph: &Graph, compiler: &Compiler, dims: &[(&str, i64)], precisions: &[Precision]) {
    for &precision in precisions {
        let mut session = emulated(compiler.clone().precision(precision), graph, 3);
        let worst = worst(&mut session, graph, dims, 5);
        let (least, most) = (tolerance(Precision::F32) / 10.0, tolerance(precision));
        assert!(worst <= most, "{} in {}: {worst:e}", graph.name, precision.name());
        assert!(worst > least || precision == Precision::Tf32, "{} in {}: nothing was rounded", graph.name, precision.name());
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
    agrees(&mut emulated(compiler.clone(), &graph, 1), &graph, &[], 1);
    agrees_when_rounded(&graph, &compiler, &[], &[Precision::Bf16, Precision::F16]);
}

#[test]
fn digits_cnn_runs_in_every_precision() {
    check(MODELS[0]);
}

#[test]
fn digits_lstm_runs_in_every_precision() {
    check(MODELS[1]);
}

#[test]
fn digits_vit_runs_in_every_precision() {
    check(MODELS[2]);
}

/// Runs a small transformer for texts of several lengths, in f32 and in the other precisions.
fn reads_text(source: &str) {
    let graph = egret::parse_text("transformer", source).unwrap_or_else(|e| panic!("{e}"));
    let compiler = Compiler::new().target("cuda");
    let mut session = emulated(compiler.clone(), &graph, 1);
    [("S", 5), ("S", 33)].into_iter().for_each(|dim| agrees(&mut session, &graph, &[dim], 1));
    // Both layers have the same kernel for their attention.
    let program = lowered(&compiler, &graph);
    assert_eq!(program.kernels.iter().filter(|kernel| matches!(kernel.body, Body::Chain(_))).count(), 1);
    agrees_when_rounded(&graph, &compiler, &[("S", 17)], &[Precision::Bf16, Precision::F16, Precision::Tf32]);
}

#[test]
fn a_small_bert_reads_text() {
    reads_text(&transformers::bert());
}

#[test]
fn a_small_gpt2_reads_text() {
    reads_text(&transformers::gpt2());
}

#[test]
fn a_small_llama_reads_text() {
    reads_text(&transformers::llama());
}

/// What goes between kernels, and what attention reads, is stored in 16 bits.
#[test]
fn attention_reads_what_is_stored_in_16_bits() {
    let graph = egret::parse_text("gpt2", &transformers::gpt2()).unwrap();
    for (precision, dtype) in [(Precision::Bf16, DType::BF16), (Precision::F16, DType::F16), (Precision::Tf32, DType::F32)] {
        let program = lowered(&Compiler::new().target("cuda").precision(precision), &graph);
        let read = program.kernels.iter().filter_map(|kernel| match &kernel.body {
            Body::Chain(chain) => Some([chain.q.0, chain.k.0, chain.v.0].map(|buffer| kernel.buffers[buffer.0].dtype)),
            _ => None,
        });
        assert_eq!(read.collect::<Vec<_>>(), [[dtype; 3]], "{}", precision.name());
    }
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

/// Blocks share tiles, and a launch that follows adds up what they found, in working memory behind the arena.
#[test]
fn kernels_of_two_launches_run() {
    let source = "graph g(x: f32[20, 600]) {
        const w: f32[600, 600] = random(1)
        const v: f32[600, 40] = random(2)
        h = matmul(x, w)
        t = tanh(h)
        y = matmul(t, v)
        return y
    }";
    let graph = egret::parse_text("g", source).unwrap();
    let mut session = session(&graph, "cuda:sm_80", 5);
    [1, 2].into_iter().for_each(|seed| agrees(&mut session, &graph, &[], seed));
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

#[test]
fn too_little_memory_is_said_with_its_numbers() {
    let graph =
        egret::parse_text("g", "graph g(x: f32[N, 64]) {\n const w: f32[64, 64] = random(1)\n y = matmul(x, w)\n return y }").unwrap();
    let artifact = Compiler::new().target("cuda").compile_graph(&graph).unwrap();
    let on = |bytes| artifact.session_on(Box::new(EmuDevice::new(1).with_memory(bytes)));
    let refused = on(16_000).err().map(|e| (e.exit_code(), e.to_string())).unwrap();
    let said =
        "the weights need 16384 bytes on emulator, of whose 16000 bytes 16000 are free; use smaller extents or end what else runs there";
    assert_eq!(refused, (1, said.to_string()));
    let mut session = on(40_000).unwrap();
    let run = |session: &mut Session, rows: usize| {
        let x = egret::Tensor::from_slice(&[rows, 64], &vec![1.0f32; rows * 64]).unwrap();
        session.run(&[("x", x.view())]).map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(run(&mut session, 2), Ok(()));
    let refused = run(&mut session, 100).unwrap_err();
    assert!(refused.starts_with("inputs, outputs and intermediate values need 51"), "{refused}");
    assert!(refused.contains("bytes on emulator, of whose 40000 bytes 23616 are free"), "{refused}");
    assert_eq!(run(&mut session, 3), Ok(()));
}

/// One kernel of each template, for all GPUs that have a name: `tanh` with tails, a norm, a product with its tail, attention, a layer.
const TEMPLATES: &[&str] = &[
    "graph g(x: f32[N, 12]) { y = tanh(x)\n return y }",
    "graph g(x: f32[8, 768], s: f32[768], b: f32[768]) { y = layer_norm[axes = [1], epsilon = 0.00001](x, s, b)\n return y }",
    "graph g(x: f32[40, 64], w: f32[64, 72], b: f32[72]) { p = matmul(x, w)\n s = add(p, b)\n y = relu(s)\n return y }",
    "graph g(q: f32[2, 40, 64], k: f32[2, 40, 64], v: f32[2, 40, 64]) { y = attention[scale = 0.125, causal = true](q, k, v)\n return y }",
    "graph g(x: f32[T, 2, 8], h: f32[2, 16], w: f32[48, 8], r: f32[48, 16], b: f32[96]) { y, s = gru(x, w, r, b, h)\n return y, s }",
];

/// The version of PTX that code for each GPU is in, by which the oldest driver is known.
const PTX: &[(&str, (u32, u32))] = &[
    ("cuda:sm_75", (6, 3)),
    ("cuda:sm_80", (7, 0)),
    ("cuda:sm_86", (7, 1)),
    ("cuda:sm_87", (7, 4)),
    ("cuda:sm_89", (7, 8)),
    ("cuda:sm_90", (7, 8)),
    ("cuda:sm_90a", (8, 0)),
    ("cuda:sm_100", (8, 6)),
    ("cuda:sm_103", (8, 8)),
    ("cuda:sm_120", (8, 7)),
    ("cuda:sm_121", (8, 8)),
];

#[test]
fn every_gpu_has_code_in_its_version_of_ptx() {
    assert_eq!(PTX.len(), Target::gpus().len());
    for (name, (major, minor)) in PTX {
        for precision in [Precision::F32, Precision::Bf16] {
            let compiler = Compiler::new().target(name).precision(precision);
            let kernels: Vec<Kernel> =
                TEMPLATES.iter().flat_map(|source| lowered(&compiler, &text::parse(source).unwrap()).kernels).collect();
            let code = compile(&kernels, &compiler.chosen_target().unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
            let version = Version { major: *major, minor: *minor };
            let gpu = name.trim_start_matches("cuda:");
            assert_eq!(ptx_header(&code.ptx), Some((version, Arch::named(gpu).unwrap())), "{name}");
            assert!(cuda_for_ptx(version) <= Version { major: 13, minor: 0 }, "{name}");
        }
    }
}

/// Layers whose operands are stored in 16 bits: products that fill a GPU and such that do not, a convolution, attention.
const STORED: &[&str] = &[
    "graph g(x: half[2048, 768]) {
        const w: half[768, 3072] = random(1)
        a = cast[to = f32](x)
        b = cast[to = f32](w)
        p = matmul(a, b)
        s = gelu(p)
        y = cast[to = half](s)
        return y
    }",
    "graph g(x: half[16, 512, 768], w: half[16, 768, 1024]) {
        a = cast[to = f32](x)
        b = cast[to = f32](w)
        y = matmul(a, b)
        return y
    }",
    "graph g(x: half[B, 64, 768], r: f32[B, 64, 768]) {
        const w: half[768, 768] = random(1)
        a = cast[to = f32](x)
        b = cast[to = f32](w)
        p = matmul(a, b)
        y = add(p, r)
        return y
    }",
    "graph g(x: half[32, 58, 58, 64]) {
        const w: half[3, 3, 64, 64] = random(1)
        a = cast[to = f32](x)
        b = cast[to = f32](w)
        c = conv[stride = [1, 1], pad = [0, 0, 0, 0], dilation = [1, 1], layout = last](a, b)
        y = cast[to = half](c)
        return y
    }",
    "graph g(x: half[32, 30, 30, 128]) {
        const w: half[3, 3, 128, 128] = random(1)
        a = cast[to = f32](x)
        b = cast[to = f32](w)
        c = conv[stride = [1, 1], pad = [0, 0, 0, 0], dilation = [1, 1], layout = last](a, b)
        y = cast[to = half](c)
        return y
    }",
    "graph g(q: half[12, 128, 64], k: half[12, 128, 64], v: half[12, 128, 64], m: f32[1, 1, 128]) {
        a = cast[to = f32](q)
        b = cast[to = f32](k)
        c = cast[to = f32](v)
        s = attention[scale = 0.125](a, b, c, m)
        y = cast[to = half](s)
        return y
    }",
    "graph g(q: half[2, 4, S, 128], k: half[2, 1, S, 128], v: half[2, 1, S, 128]) {
        a = cast[to = f32](q)
        b = cast[to = f32](k)
        c = cast[to = f32](v)
        s = attention[scale = 0.125, causal = true](a, b, c)
        y = cast[to = half](s)
        return y
    }",
];

/// The kernels of all models and layers for a GPU, in a precision.
fn kernels(gpu: &str, precision: Precision) -> Vec<Kernel> {
    let of_models = MODELS.into_iter().map(|model| imported(gpu, model));
    let stored = STORED.iter().map(|source| source.replace("half", if precision == Precision::F16 { "f16" } else { "bf16" }));
    let stored = stored.filter(|_| matches!(precision, Precision::Bf16 | Precision::F16));
    let sources = LAYERS.iter().map(|source| source.to_string()).chain(stored);
    let of_layers = sources.map(|source| (Compiler::new().target(gpu), text::parse(&source).unwrap_or_else(|e| panic!("{source}\n{e}"))));
    let all = of_models.chain(of_layers).map(|(compiler, graph)| (compiler.precision(precision), graph));
    all.flat_map(|(compiler, graph)| lowered(&compiler, &graph).kernels).collect()
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

/// The disassembler of the wheel `nvidia-cuda-nvdisasm`, or what `NVDISASM` names.
fn nvdisasm() -> Option<String> {
    let found = tool("NVDISASM", "nvdisasm");
    if found.is_none() {
        eprintln!("not disassembled: there is no nvdisasm; set NVDISASM to that of the Python package nvidia-cuda-nvdisasm");
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

/// The entry points that the assembler spills registers of.
fn spills(said: &str) -> Vec<&str> {
    let (mut entry, mut found) = ("", vec![]);
    for line in said.lines() {
        entry = if line.contains("Compiling entry function") { line } else { entry };
        if line.contains("spill") && !line.contains("0 bytes spill stores, 0 bytes spill loads") {
            found.push(entry);
        }
    }
    found
}

/// What products on tensor cores are in machine code, in each precision, and on GPUs with warpgroups.
const TENSOR: [(Precision, &str, &str); 4] = [
    (Precision::F32, "HMMA.1688.F32.TF32", "HMMA.1688.F32.TF32"),
    (Precision::Tf32, "HMMA.1688.F32.TF32", "HMMA.1688.F32.TF32"),
    (Precision::Bf16, "HMMA.16816.F32.BF16", "HGMMA.64x256x16.F32.BF16"),
    (Precision::F16, "HMMA.16816.F32", "HGMMA.64x256x16.F32"),
];

/// What instructions of PTX, by how they begin, are in machine code.
const INSTRUCTIONS: [(&str, &str); 8] = [
    ("mma.sync", "HMMA"),
    ("ldmatrix", "LDSM"),
    ("cp.async.c", "LDGSTS"),
    ("wgmma.mma_async", "HGMMA"),
    ("cp.async.bulk", "UBLKCP"),
    ("cp.async.mbarrier", "ARRIVES.LDGSTSBAR"),
    ("mbarrier.try_wait", "SYNCS.PHASECHK"),
    ("fence.proxy.async", "FENCE.VIEW.ASYNC"),
];

/// The kinds of kernels that multiply on tensor cores, and the least instructions that some kernel of each has where products are done by
/// warps, and where by groups of them.
type Kind = (&'static str, fn(&Kernel) -> bool, &'static [&'static str], &'static [&'static str]);

const KINDS: [Kind; 3] = [
    ("product", |kernel| steps_of_sums(kernel) == Some(1), &["HMMA", "LDGSTS", "LDSM"], &["HGMMA", "UBLKCP", "LDGSTS"]),
    ("convolution", |kernel| steps_of_sums(kernel) > Some(1), &["HMMA", "LDGSTS", "LDSM"], &["HGMMA", "UBLKCP", "LDGSTS"]),
    ("attention", |kernel| matches!(kernel.body, Body::Chain(_)), &["HMMA", "LDGSTS", "LDSM"], &["HMMA", "LDGSTS", "LDSM"]),
];

/// The loops that a contraction sums over: one of a product.
fn steps_of_sums(kernel: &Kernel) -> Option<usize> {
    if let Body::Contract(contracts) = &kernel.body { contracts.first().map(|c| c.k.len()) } else { None }
}

/// The part of a text that begins with a mark and ends where the next one does.
fn section<'t>(text: &'t str, mark: &str, of: &str) -> &'t str {
    let is_name = |rest: &&str| rest.strip_prefix(of).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'));
    text.split(mark).skip(1).find(is_name).unwrap_or_else(|| panic!("there is no `{mark}{of}`"))
}

/// Whether machine code has what PTX asks for, kernel by kernel.
fn check_machine_code(what: &str, kernels: &[Kernel], ptx: &str, machine: &str, by_groups: bool) {
    let sections = (0..kernels.len()).map(|i| {
        let entry = format!("k{i}");
        (section(ptx, ".entry ", &entry), section(machine, "\t.section\t.text.", &entry))
    });
    let sections: Vec<_> = sections.collect();
    for (i, (ptx, machine)) in sections.iter().enumerate() {
        let missing = INSTRUCTIONS.iter().find(|(asked, got)| ptx.contains(asked) && !machine.contains(got));
        assert_eq!(missing, None, "{what}: {}", kernels[i]);
    }
    for (name, is_that, of_warps, of_groups) in KINDS {
        let wanted = if by_groups { of_groups } else { of_warps };
        let has = |i: usize| is_that(&kernels[i]) && wanted.iter().all(|instruction| sections[i].1.contains(instruction));
        assert!((0..kernels.len()).any(has), "{what}: no {name} has {wanted:?}");
    }
}

/// All of it becomes PTX, and where there is an assembler, machine code that keeps everything in registers.
#[test]
fn everything_is_ptx_that_assembles_without_spills() {
    let (ptxas, nvdisasm, folder) = (ptxas(), nvdisasm(), Folder::new("ptxas"));
    for (gpu, (precision, of_warps, of_groups)) in ["sm_80", "sm_90a"].iter().flat_map(|gpu| TENSOR.map(|expected| (*gpu, expected))) {
        let (name, what) = (format!("cuda:{gpu}"), format!("{gpu} {}", precision.name()));
        let target = Compiler::new().target(&name).precision(precision).chosen_target().unwrap();
        let kernels = kernels(&name, precision);
        let code = compile(&kernels, &target).unwrap_or_else(|e| panic!("{e}"));
        assert!(code.ptx.contains(&format!(".target {gpu}")));
        let is_narrow = matches!(precision, Precision::Bf16 | Precision::F16);
        assert_eq!(code.ptx.contains("wgmma"), is_narrow && gpu == "sm_90a", "{what}");
        let Some(ptxas) = &ptxas else { continue };
        let (said, cubin) = folder.assembled(ptxas, gpu, &code.ptx);
        assert_eq!(spills(&said), Vec::<&str>::new(), "{what}");
        assert_eq!(said.matches("bytes spill stores").count(), code.launches.len(), "{said}");
        // Such as that products wait for each other.
        assert!(!said.contains("warning") && !said.contains("serialized"), "{what}: {said}");
        let Some(nvdisasm) = &nvdisasm else { continue };
        let run = Command::new(nvdisasm).arg(cubin).output().unwrap();
        let text = String::from_utf8_lossy(&run.stdout);
        let product = if gpu == "sm_90a" { of_groups } else { of_warps };
        assert!(text.contains(product), "{what}");
        check_machine_code(&what, &kernels, &code.ptx, &text, is_narrow && gpu == "sm_90a");
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
