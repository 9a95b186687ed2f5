//! The command line, verb by verb: exit codes, what goes to stdout, what to stderr, and what is said about mistakes.
//!
//! Every test is a command as a user types it, from the root of the repository.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const CNN: &str = "examples/models/digits_cnn.onnx";

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs the program with arguments separated by spaces.
fn egret(words: &str) -> Ran {
    egret_with(words, None)
}

fn egret_with(words: &str, stdin: Option<&str>) -> Ran {
    use std::io::Write;
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    command.args(words.split_whitespace()).current_dir(env!("CARGO_MANIFEST_DIR"));
    // Figures of this machine are kept where no other program finds them.
    command.env("XDG_CACHE_HOME", scratch("cache"));
    command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").env("TERM", "xterm");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The program may end without reading what it was given.
    let _ = child.stdin.take().unwrap().write_all(stdin.unwrap_or("").as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// The command succeeds, and what it prints holds all of these words.
#[track_caller]
fn check(words: &str, expected: &[&str]) -> Ran {
    let ran = egret(words);
    assert_eq!(ran.code, Some(0), "egret {words}\n{}", ran.err);
    for expected in expected {
        assert!(ran.out.contains(expected), "egret {words}: no `{expected}` in\n{}", ran.out);
    }
    ran
}

/// The command fails with this code, prints no result, and says all of these words.
#[track_caller]
fn fails(words: &str, code: i32, expected: &[&str]) {
    let ran = egret(words);
    assert_eq!(ran.code, Some(code), "egret {words}\n{}", ran.err);
    assert_eq!(ran.out, "", "egret {words}");
    for expected in expected {
        assert!(ran.err.contains(expected), "egret {words}: no `{expected}` in\n{}", ran.err);
    }
}

/// A path for a file of this test.
fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli");
    std::fs::create_dir_all(&dir).unwrap();
    dir.join(name)
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn help_and_version() {
    check("--version", &["egret 0.1.0"]);
    check("help", &["compile", "compare", "Exit codes"]);
    for verb in ["compile", "run", "compare", "bench", "profile", "hw", "check", "bisect", "reduce", "explain", "opt", "inspect", "list"] {
        check(&format!("help {verb}"), &["Usage: egret"]);
    }
    assert_eq!(egret("").code, Some(2));
}

#[test]
fn compile_writes_a_file_that_runs() {
    let file = scratch("cnn.egret");
    let ran = check(&format!("compile {CNN} -o {} --dim batch=2", file.display()), &[]);
    assert_eq!(ran.out, "");
    assert!(ran.err.contains("kernels"), "{}", ran.err);
    check(&format!("run {}", file.display()), &["logits", "f32[2, 10]"]);
    check(&format!("inspect {}", file.display()), &["images", "f32[2, 1, 8, 8]", "node_conv2d", "blake3"]);
    check(&format!("bench {} --min-time 1ms", file.display()), &["p50 ms"]);
}

#[test]
fn compile_says_where_the_time_went() {
    let ran = check(&format!("compile {CNN} -o {} --timings", scratch("timed.egret").display()), &[]);
    assert_eq!(ran.out, "");
    for row in ["Importing", "Optimising", "  rewrite", "Lowering", "Generating code", "Packing and writing", "Compiled"] {
        assert!(ran.err.contains(row), "no `{row}` in\n{}", ran.err);
    }
    fails(&format!("compile {CNN} --timings --emit ir"), 2, &["--timings"]);
}

#[test]
fn profile_explains_the_latency() {
    // Measured once, and kept where the profiles below find it.
    check("hw", &["GFLOP/s"]);
    let (file, trace) = (scratch("profile.json"), scratch("trace.json"));
    let words = format!("profile {CNN} --dim batch=4 --threads 2 --min-time 20ms --json {}", file.display());
    let ran = check(
        &format!("{words} --sort order --trace {}", trace.display()),
        &["GFLOP/s", "roof", "predicted", "node_conv2d", "of the latency"],
    );
    let report = json(&file);
    let steps = report["steps"].as_array().unwrap();
    assert_eq!(ran.out.lines().count(), steps.len() + 3, "a title, a header, a total");
    assert!(steps.iter().enumerate().all(|(i, step)| step["step"] == i && step["us"].as_f64().unwrap() > 0.0), "{report:#}");
    let share: f64 = steps.iter().map(|step| step["share"].as_f64().unwrap()).sum();
    assert!((share - 1.0).abs() < 1e-6, "{share}");
    let slices = json(&trace)["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X").count();
    assert_eq!(slices as u64, steps.iter().map(|step| step["parts"].as_u64().unwrap()).sum::<u64>());
    // A prediction is for one thread.
    assert!(report["predicted_us"].is_null() && steps.iter().all(|step| step["predicted_us"].is_null()), "{report:#}");
    let one = check(&format!("profile {CNN} --dim batch=4 --min-time 20ms --json"), &["egret.profile/1"]);
    let one: serde_json::Value = serde_json::from_str(&one.out).unwrap();
    let us = |step: &serde_json::Value| step["predicted_us"].as_f64().unwrap();
    let sum: f64 = one["steps"].as_array().unwrap().iter().map(us).sum();
    assert!((sum - us(&one)).abs() < 1e-6 && sum > 0.0, "{one:#}");
    check(&words, &[]);
    let times: Vec<f64> = json(&file)["steps"].as_array().unwrap().iter().map(|step| step["us"].as_f64().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
    fails("profile nothing.onnx", 4, &["nothing.onnx"]);
    fails(&format!("profile {CNN} --trace /nowhere/trace.json --min-time 1ms"), 4, &["/nowhere/trace.json"]);
}

/// A small graph, so that the emulator is quick.
fn small_graph() -> PathBuf {
    let file = scratch("small.egir");
    std::fs::write(
        &file,
        "graph g(x: f32[N, 8]) {\n    const w: f32[8, 4] = random(1)\n    h = matmul(x, w)\n    y = exp(h)\n    return y\n}\n",
    )
    .unwrap();
    file
}

#[test]
fn models_run_on_the_emulator_as_on_the_processor() {
    let (graph, both) = (small_graph(), scratch("both.egret"));
    let graph = graph.display();
    let on = |device: &str| check(&format!("run {graph} --dim N=3 --device {device}"), &["f32[3, 4]"]).out;
    assert_eq!(on("emu"), on("cpu"));
    check(&format!("run {graph} --dim N=3 --device emu --json"), &["\"target\": \"emulator\""]);
    check(&format!("bench {graph} --dim N=3 --device emu --threads 1,2 --min-time 1ms"), &["emulator", "p50 ms"]);
    check(&format!("compare {graph} --dim N=3 --device emu --min-time 1ms"), &["emu", "speed-up"]);
    check(&format!("profile {graph} --dim N=3 --device emu --min-time 1ms"), &["emulator", "of the latency"]);
    check(&format!("check {graph} --dim N=3 --device emu"), &["y"]);
    check(&format!("compile {graph} --target native,cuda:sm_80 -o {}", both.display()), &[]);
    check(&format!("inspect {}", both.display()), &["Code for cuda:sm_80: PTX 7.0", "blocks", "code cuda:sm_80"]);
    check(&format!("inspect {} --json", both.display()), &["\"gpu\": [", "\"ptx_bytes\"", "\"threads\": 256"]);
    // A kernel whose blocks share tiles is two launches.
    let shared = scratch("shared.egir");
    std::fs::write(&shared, "graph g(x: f32[20, 600], w: f32[600, 40]) { y = matmul(x, w)\n return y }").unwrap();
    check(&format!("inspect {} --target cuda", shared.display()), &["2 calls", "k0_then"]);
    for device in ["cpu", "emu"] {
        check(&format!("run {} --dim N=2 --device {device}", both.display()), &["f32[2, 4]"]);
    }
}

#[test]
fn devices_that_cannot_be_used_are_named() {
    let graph = small_graph();
    let (graph, cpu, gpu) = (graph.display(), scratch("cpu.egret"), scratch("gpu.egret"));
    let (cpu, gpu) = (cpu.display(), gpu.display());
    check(&format!("compile {graph} -o {cpu}"), &[]);
    check(&format!("compile {graph} --target cuda -o {gpu}"), &[]);
    fails(&format!("run {graph} --device gpu"), 2, &["`gpu` is no device; expected cpu, cuda:0 or emu"]);
    fails(&format!("run {graph} --device emu --target x86-64-v3"), 2, &["`x86-64-v3` is not for GPUs"]);
    fails(&format!("compare {graph} --device emu --by-rule"), 2, &["--by-rule"]);
    fails(&format!("run {cpu} --device emu"), 4, &["the file holds code for", "of which emulator runs none", "--target cuda"]);
    fails(&format!("run {gpu}"), 4, &["the file holds code for cuda:sm_80 only", "--device cuda:0"]);
    // What follows is for machines without a GPU, as those of CI are.
    if egret::gpus().is_ok_and(|gpus| gpus.is_empty()) {
        for verb in ["run", "bench", "compare", "profile"] {
            let ran = egret(&format!("{verb} {graph} --dim N=1 --device cuda:0"));
            assert_eq!((ran.code, ran.out.as_str(), ran.err.lines().count()), (Some(3), "", 1), "{}", ran.err);
            assert!(ran.err.contains("cuda:0 cannot be used: this machine has no NVIDIA driver"), "{}", ran.err);
        }
        fails(&format!("run {gpu} --device cuda:1"), 3, &["cuda:1 cannot be used"]);
        check("hw", &["no GPU: this machine has no NVIDIA driver"]);
    }
}

#[test]
fn hw_measures_and_keeps() {
    let file = scratch("hw.json");
    let ran = check(&format!("hw --save {}", file.display()), &["f32 GFLOP/s", "DRAM write", "step us"]);
    // Where the system does not tell of its caches, as in a sandbox without /sys, they are left out.
    assert_eq!(ran.out.contains("L1 read"), Path::new("/sys/devices/system/cpu/cpu0/cache/index0").exists(), "{}", ran.out);
    assert!(ran.err.contains("hw.json"), "{}", ran.err);
    let kept = json(&file);
    assert_eq!(kept["schema"], "egret.hw/2");
    assert!(kept["gflops"]["one"].as_f64().unwrap() > 1.0, "{kept:#}");
    fails("hw --save /proc/nowhere/hw.json", 4, &["/proc/nowhere"]);
}

#[test]
fn compile_shows_every_stage() {
    let show = |emit: &str| check(&format!("compile {CNN} --dim batch=1 --emit {emit}"), &[]).out;
    assert!(show("ir").starts_with("graph "));
    assert!(show("kernels").contains("for "));
    assert!(show("llvm").contains("define "));
    assert!(show("asm").contains("ret"));
    let object = scratch("cnn.o");
    check(&format!("compile {CNN} --dim batch=1 --emit obj -o {}", object.display()), &[]);
    assert!(std::fs::read(object).unwrap().starts_with(b"\x7fELF"));
}

#[test]
fn compile_shows_code_for_a_gpu() {
    let ran = check(&format!("compile {CNN} --target cuda:sm_80 --emit ptx"), &[".target sm_80", ".visible .entry k0("]);
    assert!(ran.out.contains("fma.rn.f32"), "{}", ran.out);
    // A block has 48 KiB for the states and the sums of a row.
    let wide = scratch("wide.egir");
    let layer = "graph g(x: f32[3, 1, 8], w: f32[16384, 8], r: f32[16384, 4096], b: f32[32768], h: f32[1, 4096], c: f32[1, 4096]) {
        y, s, t = lstm(x, w, r, b, h, c)
        return y
    }";
    std::fs::write(&wide, layer).unwrap();
    fails(&format!("compile {} --target cuda --emit ptx", wide.display()), 3, &["there is no PTX", "a recurrent layer"]);
    fails(&format!("compile {CNN} --target native,cuda --emit ptx"), 2, &["one target"]);
    fails(&format!("compile {CNN} --target cuda,cuda:sm_80"), 2, &["`cuda` and `cuda:sm_80` are the same"]);
    fails(&format!("compile {CNN} --target cuda --emit asm"), 2, &["--emit ptx"]);
    fails(&format!("compile {CNN} --emit ptx"), 2, &["--target cuda"]);
    // What is said of time is of processors.
    check(&format!("inspect {CNN} --target cuda --precision f16"), &["sm_80 (nvptx64)", "precision", "f16"]);
    let explained = check(&format!("explain {CNN} --target cuda"), &["conv", "not predicted for a GPU"]);
    assert!(!explained.out.contains("us predicted"), "{}", explained.out);
    fails(&format!("compile {CNN} --target cuda:sm_20 --emit ptx"), 2, &["cuda:sm_80"]);
}

#[test]
fn run_takes_inputs_by_name_or_from_a_directory() {
    let dir = scratch("inputs");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::copy("examples/models/images.npy", dir.join("input_0.npy")).unwrap();
    let named = check(&format!("run {CNN} --input images=examples/models/images.npy"), &["f32[360, 10]"]);
    let numbered = check(&format!("run {CNN} --input-dir {}", dir.display()), &["f32[360, 10]"]);
    assert_eq!(named.out, numbered.out);
    assert_eq!(named.err, "", "the images say what the batch is");
}

#[test]
fn run_writes_outputs() {
    let dir = scratch("outputs");
    let words = format!("run {CNN} --input images=examples/models/images.npy --output-dir {}", dir.display());
    let report = scratch("run.json");
    check(&format!("{words} --no-fuse --threads 2 --json {}", report.display()), &["logits"]);
    let output = egret::npy::read(dir.join("output_0.npy")).unwrap();
    assert_eq!(output.shape(), [360, 10]);
    let report = json(&report);
    assert_eq!(report["schema"], "egret.run/1");
    assert_eq!((&report["threads"], &report["fused"], &report["dims"]["batch"]), (&2.into(), &false.into(), &360.into()));
    assert_eq!(report["outputs"][0]["type"], "f32[360, 10]");
}

#[test]
fn random_inputs_are_the_same_for_the_same_seed() {
    let run = |words: &str| check(&format!("run {CNN} {words}"), &["logits", "f32[1, 10]"]);
    let (one, again, other) = (run("--seed 1"), run("--seed 1"), run("--seed 2"));
    assert_eq!(one.out, again.out);
    assert_ne!(one.out, other.out);
    assert!(one.err.contains("the free dimension batch is 1; choose with --dim batch=N"), "{}", one.err);
}

#[test]
fn bench_reports_what_the_schema_says() {
    let report = scratch("bench.json");
    check(&format!("bench {CNN} --threads 1,2 --min-time 1ms --json {}", report.display()), &["threads", "p50 ms"]);
    let report = json(&report);
    assert_eq!((&report["schema"], &report["model"].is_string(), &report["target"].is_string()), (&"egret.bench/1".into(), &true, &true));
    let results = report["results"].as_array().unwrap();
    let threads: Vec<_> = results.iter().map(|row| row["threads"].as_u64()).collect();
    assert_eq!(threads, [Some(1), Some(2)]);
    for row in results {
        let keys: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["fused", "mean_ms", "p50_ms", "p90_ms", "p99_ms", "runs", "threads"]);
        let [p50, p90, p99] = ["p50_ms", "p90_ms", "p99_ms"].map(|key| row[key].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p90 && p90 <= p99, "{row}");
        assert!(row["fused"] == true && row["runs"].as_u64() >= Some(5), "{row}");
    }
}

#[test]
fn compare_prints_both_sides() {
    check(
        &format!("compare {CNN} --dim batch=1 --min-time 1ms"),
        &["unfused", "fused", "predicted", "error", "kernels", "scratch", "speed-up"],
    );
    let ran = check(&format!("compare {CNN} --dim batch=1 --min-time 1ms --json"), &["egret.compare/1"]);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let result = &report["results"][0];
    let kernels = |side: &str| result[side]["kernels"].as_u64().unwrap();
    assert!(kernels("fused") < kernels("unfused"), "{report}");
    let predicted = |side: &str| result[side]["predicted_ms"].as_f64().unwrap();
    assert!(0.0 < predicted("fused") && predicted("fused") <= predicted("unfused"), "{report}");
    let [low, ratio, high] = ["speedup_low", "speedup", "speedup_high"].map(|key| result[key].as_f64().unwrap());
    assert!(low <= ratio && ratio <= high, "{report}");
}

#[test]
fn check_compares_with_the_reference() {
    for model in ["digits_cnn", "digits_lstm", "digits_vit"] {
        let ran = check(&format!("check examples/models/{model}.onnx --dim batch=2"), &["logits", "fused", "unfused", "ok"]);
        assert!(!ran.out.contains("FAILED"));
    }
    // Nothing is exact.
    let ran = egret(&format!("check {CNN} --dim batch=2 --tolerance 0"));
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.out.contains("FAILED") && ran.err.contains("further than 0e0 from the reference: `logits`"), "{}", ran.err);
}

/// A network whose every part a rule recognises, and one wrong rule for it.
const GELU: &str = "graph g(x: f32[4, 8]) {
    const r: f32[] = 1.4142135
    const one: f32[] = 1.0
    const half: f32[] = 0.5
    const w: f32[8, 8] = random(1)
    h = matmul(x, w) @ \"proj\"
    a = div(h, r) @ \"scale\"
    b = erf(a) @ \"erf\"
    c = add(b, one) @ \"plus\"
    d = mul(h, c) @ \"times\"
    e = mul(d, half) @ \"half\"
    y = relu(e) @ \"relu\"
    return y
}";

/// The file of a graph in text.
fn text_file(name: &str, graph: &str) -> PathBuf {
    let file = scratch(name);
    std::fs::write(&file, graph).unwrap();
    file
}

#[test]
fn rules_are_chosen_by_class_and_by_name() {
    let file = text_file("chosen.egir", GELU);
    let opt = |flags: &str| check(&format!("opt {} -p rewrite {flags}", file.display()), &[]).out;
    assert!(opt("").contains("gelu("));
    for flags in ["--strict", "--disable-rules gelu_half_last", "--disable-rules rewrite", "--disable-rules idioms,movement"] {
        assert!(!opt(flags).contains("gelu("), "{flags}");
    }
    let weakest = |flags: &str| {
        let ran = check(&format!("check {} {flags} --json", file.display()), &[]);
        let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        report["weakest_rule"].as_str().map(String::from)
    };
    assert_eq!(weakest("").as_deref(), Some("reassoc"));
    assert_eq!(weakest("--strict").as_deref(), Some("exact"));
    assert_eq!(weakest("--disable-rules rewrite"), None);
    let compiled = scratch("chosen.egret");
    let ran = check(&format!("compile {} --strict -o {}", file.display(), compiled.display()), &[]);
    assert!(ran.err.contains("weakest rule exact"), "{}", ran.err);
    fails(&format!("run {} --strict", compiled.display()), 2, &["--strict has no effect on a compiled file"]);
    fails(&format!("run {CNN} --strict --fast-math"), 2, &["--fast-math", "--strict"]);
    for verb in ["compile", "run", "bench", "compare", "check", "bisect", "explain", "inspect", "opt"] {
        fails(
            &format!("{verb} {CNN} --disable-rules sliu"),
            2,
            &[
                "no rule",
                "`sliu`; near it: silu",
                "families: ",
                "passes: algorithm, blocks, cse, dce, group, halo, integer, narrow, rewrite",
            ],
        );
    }
}

#[test]
fn precision_is_chosen() {
    let compiled = scratch("narrow.egret");
    check(&format!("compile {CNN} --dim batch=4 --precision bf16 -o {}", compiled.display()), &[]);
    fails(&format!("run {} --precision bf16", compiled.display()), 2, &["--precision has no effect on a compiled file"]);
    fails(&format!("run {CNN} --precision f64"), 2, &["expected one of f32, tf32, bf16, f16"]);
    fails(
        &format!("run {CNN} --precision f16 --target znver4"),
        2,
        &["no code in f16 for processors, and `znver4` is one", "--precision bf16"],
    );
    fails(&format!("compile {CNN} --precision f16 --target cuda,x86-64-v3"), 2, &["`x86-64-v3` is one"]);
    check(&format!("check {CNN} --dim batch=4 --precision bf16"), &["fused", "unfused", "ok"]);
    fails_with_result(&format!("check {CNN} --dim batch=4 --precision bf16 --tolerance 1e-5"), &["FAILED"], &["further than 1e-5"]);
    check(&format!("inspect {CNN} --precision bf16"), &["precision", "bf16"]);
    let emulated = check(&format!("compile {CNN} --precision bf16 --target x86-64-v3 --emit kernels"), &["bf16"]);
    assert!(emulated.err.contains("`x86-64-v3` has no dot products of bf16"), "{}", emulated.err);
    for (target, precision, said) in [
        ("cuda", "bf16", None),
        ("cuda:sm_75", "bf16", Some("`cuda:sm_75` has no instructions for bf16")),
        ("cuda:sm_75", "f16", None),
        ("cuda:sm_75", "tf32", Some("`cuda:sm_75` has no products in TF32")),
        ("cuda", "tf32", None),
        ("x86-64-v4", "tf32", Some("`x86-64-v4` has no products in TF32: they are those of f32")),
    ] {
        let ran = check(&format!("compile {CNN} --precision {precision} --target {target} --emit kernels"), &["contract"]);
        assert!(said.map_or(!ran.err.contains("has no"), |said| ran.err.contains(said)), "{target} {precision}: {}", ran.err);
    }
    let dots = check(&format!("compile {CNN} --precision bf16 --target znver4 --emit kernels"), &[".pairs["]);
    assert!(!dots.err.contains("dot products"), "{}", dots.err);
}

#[test]
fn every_rewrite_is_replayed() {
    let file = text_file("replayed.egir", GELU);
    let words = format!("check {} --per-rewrite", file.display());
    let ran = check(&words, &["gelu_half_last", "reassoc", "200 ulp", "ok"]);
    assert!(!ran.out.contains("FAILED"), "{}", ran.out);
    let report = scratch("replayed.json");
    let command = |rule: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
        command.args(words.split(' ')).args(["--unproved-rule", rule, "--json"]).arg(&report);
        command.output().unwrap()
    };
    let output = command("ulp wrong: gelu(x) => silu(x)");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("`wrong` said that") && said.contains("1 rule further from the reference than allowed: `wrong`"), "{said}");
    let report = json(&report);
    let failed: Vec<&str> =
        report["rules"].as_array().unwrap().iter().filter(|r| r["passed"] == false).map(|r| r["rule"].as_str().unwrap()).collect();
    assert_eq!((failed, &report["schema"]), (vec!["wrong"], &"egret.check-rewrites/1".into()));
    assert_eq!(command("no rule at all").status.code(), Some(2));
}

#[test]
fn bisect_finds_the_wrong_rule() {
    let file = text_file("bisected.egir", GELU);
    let bisect = |rule: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
        command.arg("bisect").arg(&file).args(["--unproved-rule", rule, "--json"]);
        let output = command.output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), report)
    };
    let (code, report) = bisect("ulp wrong: gelu(x) => relu(x)");
    assert_eq!((code, &report["schema"]), (Some(1), &"egret.bisect/1".into()));
    assert_eq!(report["first"]["name"], "rule `wrong`", "{report}");
    assert_eq!(report["first"]["without"][0], "wrong", "{report}");
    // What the wrong rule says is dear; a right one makes it cheap.
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    command.arg("bisect").arg(&file).args(["--unproved-rule", "ulp lure: gelu(x) => abs(abs(relu(x)))"]);
    let output = command.args(["--unproved-rule", "exact bait: abs(abs(relu(x))) => relu(x)"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("rule `bait`") && said.contains("replayed alone, `lure` is") && said.contains("without `lure`"), "{said}");
    let (code, report) = bisect("exact right: neg(neg(x)) => x");
    assert_eq!((code, &report["first"]), (Some(0), &serde_json::Value::Null));
    assert!(report["trials"][0]["passed"] == true && report["applications"].as_u64() > Some(5), "{report}");
    // What is wrong from the start is no rule's fault.
    fails_with_result(&format!("bisect {} --tolerance 0", file.display()), &["0 of "], &["even when nothing is applied"]);
}

/// `egret reduce` of a model with a command behind `--`, into a folder of this test.
fn reduce(folder: &Path, words: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["reduce", CNN, "--dim", "batch=2", "-o"]).arg(folder).args(words);
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn reduce_finds_the_node_that_fails() {
    let folder = scratch("reduced");
    let planted = ["check", "{model}", "--input-dir", "{inputs}", "--unproved-rule", "ulp wrong: relu(x) => x"];
    let ran = reduce(&folder, &[&["--json", "--stderr", "from the reference", "--", "egret"][..], &planted].concat());
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{}", ran.err));
    assert_eq!((ran.code, &report["schema"]), (Some(0), &"egret.reduce/1".into()));
    let nodes: Vec<&str> = report["nodes"].as_array().unwrap().iter().map(|node| node.as_str().unwrap()).collect();
    assert!(nodes.len() == 1 && nodes[0].ends_with("(Relu)"), "{report:#}");
    assert_eq!((&report["failure"]["exit_code"], &report["fixed"]), (&1.into(), &true.into()), "{report:#}");
    // What was written fails as the model does, and its input is what the model has there.
    let file = |name: &str| folder.join(name).display().to_string();
    let words: Vec<String> = planted.iter().map(|w| w.replace("{model}", &file("model.onnx")).replace("{inputs}", &file(""))).collect();
    let again = Command::new(env!("CARGO_BIN_EXE_egret")).args(&words).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    check(&format!("check {} --input-dir {}", file("model.onnx"), file("")), &["ok"]);
    check(&format!("run {} --input-dir {}", file("model.egir"), file("")), &["f32[2, "]);
}

#[test]
fn reduce_says_what_is_wrong_with_its_command() {
    let folder = scratch("not_reduced");
    let fails = |words: &[&str], expected: &str| {
        let ran = reduce(&folder, words);
        assert!(ran.code == Some(2) && ran.out.is_empty() && ran.err.contains(expected), "{}", ran.err);
    };
    fails(&["--", "egret", "check", "{model}"], "the command does not fail on the model as it is");
    fails(&["--stderr", "no such words", "--", "egret", "run", "{model}", "--device", "cuda:99"], "does not fail");
    fails(&["--", "egret", "check"], "write {model} where the command takes its model");
    fails(&["--", "egret", "check", CNN], "write {model} in place of examples/models/digits_cnn.onnx");
    fails(&["--", "no-such-program", "{model}"], "`no-such-program` cannot be run");
    let text = text_file("uncut.egir", GELU);
    let words = format!("reduce {} -- egret check {{model}}", text.display());
    assert!(egret(&words).err.contains("is no .onnx model"));
}

/// The command fails a check: it prints its result with these words, and says those.
#[track_caller]
fn fails_with_result(words: &str, expected: &[&str], said: &[&str]) {
    let ran = egret(words);
    assert_eq!(ran.code, Some(1), "egret {words}\n{}", ran.err);
    for (text, words) in [(&ran.out, expected), (&ran.err, said)] {
        words.iter().for_each(|word| assert!(text.contains(word), "no `{word}` in\n{text}"));
    }
}

#[test]
fn explain_tells_origins_rules_and_conditions() {
    let file = text_file("explained.egir", GELU);
    check(
        &format!("explain {}", file.display()),
        &["matmul · gelu · relu", "from     erf half plus proj relu scale times", "gelu_half_last"],
    );
    let one = check(&format!("explain {} erf", file.display()), &["rule     reassoc gelu_half_last: ", "=> gelu(x)", "1 kernel"]);
    assert!(one.out.contains("div_number: div(x, c) => mul(x, reciprocal(c))"), "{}", one.out);
    fails(&format!("explain {} erff", file.display()), 2, &["no node `erff`", "did you mean `erf`?"]);
    fails(&format!("explain {} --fused --not-fused", file.display()), 2, &["--not-fused"]);
    let strict = check(&format!("explain {} --strict", file.display()), &[]);
    assert!(!strict.out.contains("gelu"), "{}", strict.out);
    assert!(one.out.contains(" us predicted") && !one.out.contains(" us measured"), "{}", one.out);
    check(&format!("explain {} erf --measure", file.display()), &[" us predicted, ", " us measured"]);
    let two = text_file("two_anchors.egir", "graph g(x: f32[4, 8], w: f32[8, 8]) { a = matmul(x, w) y = softmax[axes=[1]](a) return y }");
    check(
        &format!("explain {} --not-fused", two.display()),
        &["reads    a of k0: each side has a contraction", "one kernel would need only elementwise"],
    );
}

#[test]
fn explain_writes_json_and_a_page_that_loads_nothing() {
    let (page, report) = (scratch("explained.html"), scratch("explained.json"));
    let model = "examples/models/digits_vit.onnx";
    let ran = check(&format!("explain {model} --html {} --json {}", page.display(), report.display()), &[]);
    assert_eq!(ran.out, "");
    let report = json(&report);
    assert_eq!((&report["schema"], &report["weakest_rule"]), (&"egret.explain/1".into(), &"reassoc".into()));
    let kernels = report["kernels"].as_array().unwrap();
    for kernel in kernels {
        assert!(!kernel["origins"].as_array().unwrap().is_empty(), "{kernel}");
        assert_eq!(kernel["unexplained"].as_array().unwrap().len(), 0, "{kernel}");
    }
    let rules: Vec<&str> = kernels.iter().flat_map(|k| k["rules"].as_array().unwrap()).map(|r| r["rule"].as_str().unwrap()).collect();
    assert!(rules.contains(&"attention_scaled"), "{rules:?}");
    assert!(kernels.iter().all(|kernel| kernel["predicted_us"].is_number() && kernel["measured_us"].is_null()), "{report:#}");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("Predicted are ") && page.contains("predicted_us"));
    assert!(page.contains("prefers-color-scheme: dark") && page.matches("<svg").count() == 2);
    assert_eq!(page.matches("<g id=\"k").count(), kernels.len());
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="), "it must load nothing");
}

#[test]
fn compare_measures_what_each_family_gains() {
    let file = text_file("gains.egir", GELU);
    let report = scratch("gains.json");
    let words = format!("compare {} --by-rule --min-time 1ms --threads 1,2 --json {}", file.display(), report.display());
    check(&words, &["left out", "nothing", "idioms", "group", "not applied: ", "movement"]);
    let report = json(&report);
    assert_eq!(report["schema"], "egret.compare-by-rule/1");
    for result in report["results"].as_array().unwrap() {
        let families = result["families"].as_array().unwrap();
        let group = families.iter().find(|family| family["name"] == "group").unwrap();
        assert!(group["kernels"].as_u64() > result["kernels"].as_u64(), "{report}");
        for family in families {
            let [low, gain, high] = ["gain_low", "gain", "gain_high"].map(|key| family[key].as_f64().unwrap());
            assert!(low <= gain && gain <= high && family["applied"].as_u64() > Some(0), "{family}");
        }
    }
    assert!(report["not_applied"].to_string().contains("movement"), "{report}");
}

#[test]
fn opt_reads_and_writes_text() {
    let graph = "graph g(x: f32[2, 3]) { a = transpose[[1, 0]](x) b = transpose[[1, 0]](a) y = relu(b) return y }";
    let ran = egret_with("opt - -p rewrite", Some(graph));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("relu(x)") && !ran.out.contains("transpose"), "{}", ran.out);
    let again = egret_with("opt - -p fold,rewrite,group --print-ir-after all", Some(&ran.out));
    assert_eq!(again.code, Some(0), "{}", again.err);
    assert!(again.out.contains("kernel"), "{}", again.out);
    assert!(again.err.contains("after fold") && again.err.contains("after group"), "{}", again.err);
    check(&format!("opt {CNN} -p fold,rewrite,group"), &["graph ", "kernel "]);
}

#[test]
fn inspect_shows_a_model() {
    check(&format!("inspect {CNN}"), &["Conv", "images", "f32[batch, 1, 8, 8]", "parameters", "FLOP", "predicted us", "node_conv2d"]);
    let ran = check(&format!("inspect {CNN} --json"), &["egret.inspect/1"]);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["inputs"][0]["name"], "images");
    let us = |of: &serde_json::Value| of["predicted_us"].as_f64().unwrap();
    assert!(report["kernels"].as_array().unwrap().len() > 3 && us(&report["kernels"][0]) < us(&report), "{report}");
    let more = check(&format!("inspect {CNN} --dim batch=64 --json"), &[]);
    assert!(us(&serde_json::from_str(&more.out).unwrap()) > 10.0 * us(&report));
}

#[test]
fn lists_are_there() {
    check("list ops", &["relu", "conv", "attention"]);
    check("list rules", &["=>", "# attention", "# folding"]);
    check("list passes", &["fold", "rewrite", "group"]);
    check("list targets", &["native", "x86-64-v3", "x86-64-v4", "cuda:sm_80"]);
}

#[test]
fn wrong_commands_are_usage_errors() {
    fails("compil model.onnx", 2, &["compile"]);
    fails(&format!("run {CNN} --thread 2"), 2, &["--threads"]);
    fails(&format!("run {CNN} --threads 0"), 2, &["between 1 and"]);
    fails(&format!("run {CNN} --dim batch"), 2, &["NAME=N"]);
    fails(&format!("run {CNN} --dim bacth=2"), 2, &["no free dimension `bacth`", "did you mean `batch`?"]);
    fails(&format!("bench {CNN} --min-time 3"), 2, &["500ms"]);
    fails(&format!("compile {CNN} --target pentium"), 2, &["`pentium`", "x86-64-v3"]);
    let foreign = if cfg!(target_arch = "aarch64") { "x86-64-v3" } else { "aarch64" };
    fails(&format!("run {CNN} --target {foreign}"), 2, &["does not run on this machine"]);
    fails(&format!("compile {CNN} --emit wasm"), 2, &["kernels"]);
    fails(&format!("opt {CNN} -p fodl"), 2, &["`fodl`", "fold"]);
    fails(&format!("opt {CNN} -p fold --print-ir-after grop"), 2, &["`grop`"]);
    fails("list opz", 2, &["ops"]);
}

#[test]
fn wrong_inputs_are_named() {
    let images = "examples/models/images.npy";
    fails(&format!("run {CNN} --input imagse={images}"), 2, &["`imagse`", "did you mean `images`?", "f32[batch, 1, 8, 8]"]);
    fails(&format!("run {CNN} --input images={images} --dim batch=2"), 2, &["`batch` is 2", "360"]);
    let labels = "examples/models/labels.npy";
    fails(&format!("run {CNN} --input images={labels}"), 2, &["`images` is f32[batch, 1, 8, 8]", "i64[360]"]);
    fails(&format!("run {CNN} --input images=nowhere.npy"), 4, &["nowhere.npy"]);
    fails(&format!("run {CNN} --input images=README.md"), 4, &["README.md", "npy"]);
    fails(&format!("run {CNN} --input-dir examples"), 2, &["input_0.npy", "images: f32[batch, 1, 8, 8]"]);
    fails(&format!("run {CNN} --input-dir nowhere"), 4, &["nowhere"]);
}

#[test]
fn a_sequence_longer_than_its_table_of_positions_is_refused() {
    let (graph, artifact) = (scratch("positions.egir"), scratch("positions.egret"));
    let text = "graph g(x: f32[S, 2]) {
        const table: f32[4, 2] = random(1)
        p = slice[start=[0, 0], shape=[S, 2], step=[1, 1]](table)
        y = add(x, p)
        return y
    }";
    std::fs::write(&graph, text).unwrap();
    check(&format!("compile {} -o {}", graph.display(), artifact.display()), &[]);
    check(&format!("run {} --dim S=4", artifact.display()), &["f32[4, 2]"]);
    fails(&format!("run {} --dim S=6", artifact.display()), 2, &["S = 6", "`slice` that makes `p` needs S <= 4"]);
    fails(&format!("run {} --dim S=6", graph.display()), 2, &["axis 0"]);
}

#[test]
fn loops_and_stages_are_profiled_and_explained() {
    let (graph, trace) = (scratch("profiled.egir"), scratch("profiled.json"));
    let text = "graph g(x: f32[8]) {
        const three: i64[] = 3
        const yes: bool[] = true
        const half: f32[8] = [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
        y = repeat r0[carried = 1, found = []](i = three, going = yes, z: f32[8] = x) : f32[8] {
            t = add(z, z)
            return going, t
        }
        m = lt(half, y)
        k = non_zero[count = K](m)
        return k
    }";
    std::fs::write(&graph, text).unwrap();
    let words = format!("profile {} --min-time 5ms --json --trace {}", graph.display(), trace.display());
    let report: serde_json::Value = serde_json::from_str(&check(&words, &[]).out).unwrap();
    let steps = report["steps"].as_array().unwrap();
    let calls = |computes: &str| steps.iter().find(|row| row["computes"] == computes).unwrap()["calls"].as_u64();
    assert_eq!((calls("add"), calls("non_zero")), (Some(3), Some(1)), "{report}");
    assert_eq!(steps.iter().find(|row| row["computes"] == "add").unwrap()["flops"], 24.0);
    let events: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&trace).unwrap()).unwrap();
    let adds = events["traceEvents"].as_array().unwrap().iter().filter(|event| event["cat"] == "add");
    assert_eq!(adds.count(), 3);
    check(&format!("explain {}", graph.display()), &["r0.s0/k0   add", "no kernel   non_zero", "not predicted"]);
    check(&format!("explain {} --measure", graph.display()), &["us measured"]);
}

#[test]
fn free_dimensions_may_be_limited() {
    let (graph, artifact) = (scratch("limited.egir"), scratch("limited.egret"));
    let text = "graph g(x: f32[S, 2, H]) {
        const table: f32[40, 2, 1] = random(1)
        p = slice[start=[0, 0, 0], shape=[S, 2, 1], step=[1, 1, 1]](table)
        y = add(x, p)
        return y
    }";
    std::fs::write(&graph, text).unwrap();
    let (model, file) = (graph.display(), artifact.display());
    let ran = check(&format!("compile {model} -o {file} --dim S=2..8 --dim H=4..16"), &[]);
    assert!(ran.err.contains("of scratch for S=2..8, H=4..16"), "{}", ran.err);
    check(&format!("inspect {file}"), &["compiled for", "H=4..16, S=2..8", "within the ranges", "S = 2"]);
    check(&format!("inspect {model} --dim S=2..8 --dim H=3"), &["S=2..8", "H = 3"]);
    check(&format!("run {file} --dim S=8 --dim H=4"), &["f32[8, 2, 4]"]);
    check(&format!("run {file}"), &["f32[2, 2, 4]"]);
    fails(&format!("run {file} --dim S=9 --dim H=4"), 2, &["`S` is 9", "compiled for S=2..8"]);
    fails(&format!("compile {model} -o {file} --dim S=1..50 --dim H=1..2"), 2, &["cannot run with S = 50, H = 2", "S <= 40"]);
    fails(&format!("compile {model} -o {file} --dim T=1..5"), 2, &["no free dimension `T`"]);
    fails(&format!("run {model} --dim S=1..5"), 2, &["--dim S=1..5", "S=1"]);
    fails(&format!("compile {model} --dim S=5..1"), 2, &["ends at 1, before it begins at 5"]);
}

#[test]
fn inputs_that_are_left_out_are_listed() {
    let graph = scratch("two.egir");
    std::fs::write(&graph, "graph g(a: f32[2], b: f32[2], c: i64[1]) { y = add(a, b) return y }").unwrap();
    let images = "examples/models/images.npy";
    let words = format!("run {} --input a={images}", graph.display());
    fails(&words, 2, &["2 inputs of the model are not given", "b: f32[2]", "c: i64[1]"]);
}

#[test]
fn bad_files_are_named() {
    for verb in ["compile", "run", "bench", "compare", "check", "bisect", "explain", "inspect"] {
        fails(&format!("{verb} nowhere.onnx"), 4, &["nowhere.onnx"]);
        fails(&format!("{verb} examples"), 4, &["examples"]);
    }
    for (name, content) in [("empty.onnx", ""), ("text.onnx", "this is not a model"), ("magic.egret", "EGRET\0\u{1a}\n")] {
        let file = scratch(name);
        std::fs::write(&file, content).unwrap();
        fails(&format!("run {}", file.display()), 4, &[name]);
    }
    let graph = scratch("wrong.egir");
    std::fs::write(&graph, "graph g(x: f32[2]) {\n    y = realu(x)\n    return y\n}\n").unwrap();
    fails(&format!("run {}", graph.display()), 4, &["wrong.egir:2", "`realu`", "relu"]);
    fails(&format!("compile {CNN} -o /nowhere/model.egret"), 4, &["/nowhere"]);
    fails(&format!("compare {}", scratch("magic.egret").display()), 4, &["magic.egret"]);
}

#[test]
fn problems_of_a_model_are_listed_together() {
    // An operator that does not exist, under a name of the same length, in two places.
    let mut model = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(CNN)).unwrap();
    for (name, wrong) in [("MaxPool", "MaxPoql"), ("ReduceMean", "ReduceMaen")] {
        let at = model.windows(name.len()).position(|bytes| bytes == name.as_bytes()).unwrap();
        model[at..at + name.len()].copy_from_slice(wrong.as_bytes());
    }
    let file = scratch("unsupported.onnx");
    std::fs::write(&file, model).unwrap();
    for verb in ["compile", "run", "check", "inspect"] {
        fails(&format!("{verb} {}", file.display()), 3, &["`MaxPoql`", "`ReduceMaen`", "help: ", "2 problems"]);
    }
    let report = scratch("unsupported.json");
    assert_eq!(egret(&format!("check {} --json {}", file.display(), report.display())).code, Some(3));
    let report = json(&report);
    assert_eq!((&report["schema"], &report["passed"]), (&"egret.check/1".into(), &false.into()));
    assert!(report["problems"].to_string().contains("MaxPoql"), "{report}");
}

#[test]
fn a_compiled_file_is_not_compiled_again() {
    let file = scratch("compiled.egret");
    check(&format!("compile {CNN} --dim batch=1 -o {}", file.display()), &[]);
    fails(&format!("run {} --no-fuse", file.display()), 2, &["--no-fuse has no effect"]);
    fails(&format!("run {} --target x86-64-v3", file.display()), 2, &["--target has no effect"]);
    for verb in ["compile", "compare", "check", "bisect", "explain", "opt"] {
        fails(&format!("{verb} {}", file.display()), 2, &[".onnx model it was compiled from"]);
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    let mut child = command.args(["list", "ops"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
}

#[test]
fn colour_is_for_those_who_want_it() {
    let colour = |variable: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
        command.args(["run", "nowhere.onnx"]).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
        variable.map(|variable| command.env(variable, "1"));
        command.output().unwrap().stderr.contains(&0x1b)
    };
    assert_eq!([None, Some("CLICOLOR_FORCE"), Some("NO_COLOR")].map(colour), [false, true, false]);
}

#[test]
fn codes_of_errors_are_explained() {
    let ran = check("explain E0107", &["E0107: operator that is not supported\n\n", "\n\nhelp: "]);
    assert_eq!(ran.err, "");
    check("list errors", &["E0101   file that cannot be used\n", "E0107", "E0202"]);
    fails("explain E0106", 2, &["there is no error `E0106`", "egret list errors"]);
    // A file of that name is a model.
    std::fs::copy(CNN, scratch("E0107")).unwrap();
    check(&format!("explain {} --fused", scratch("E0107").display()), &["conv2d"]);
}

/// A graph whose inputs are one of each kind.
const FROZEN: &str = "graph g(x: f32[N, 2], k: f32[N, 2], on: bool[], n: i64[3]) {
    s = mul(x, k)
    zero = sub(s, s)
    y = select(on, s, zero)
    total = reduce_sum[axes = [0]](n)
    return y, total
}";

#[test]
fn frozen_inputs_are_constants() {
    let graph = text_file("frozen.egir", FROZEN);
    let all = format!("{} --dim N=2 --freeze k=3 --freeze on=true --freeze n=1,2,3", graph.display());
    check(&format!("run {all}"), &["total   i64[1]", "[6]"]);
    let printed = check(&format!("opt {all} --freeze x=-1 -p fold"), &["-> f32[2, 2]"]);
    assert!(printed.out.starts_with("graph g() ->") && printed.out.contains("[-3.0, -3.0, -3.0, -3.0]"), "{}", printed.out);
    let file = scratch("frozen.egret");
    egret(&format!("compile {all} -o {}", file.display()));
    let inspected = check(&format!("run {}", file.display()), &["[6]"]);
    assert_eq!(inspected.code, Some(0));
    for verb in ["check", "bench --min-time 1ms", "compare --min-time 1ms"] {
        check(&format!("{verb} {all}"), &[]);
    }
}

#[test]
fn a_frozen_file_settles_the_extents_it_has() {
    let graph = text_file("frozen_file.egir", "graph g(x: f32[B, 1, 8, 8], y: f32[B, 1, 1, 1]) { z = add(x, y) return z }");
    let images = "examples/models/images.npy";
    check(&format!("run {} --freeze x={images}", graph.display()), &["z   f32[360, 1, 8, 8]"]);
    check(&format!("run {CNN} --freeze images={images}"), &["logits   f32[360, 10]"]);
    let model = format!("run {} --freeze x={images}", graph.display());
    fails(&format!("{model} --dim B=2"), 2, &["`B` is 2 by --dim or an earlier input, but 360 here"]);
}

#[test]
fn what_cannot_be_frozen_is_a_sentence() {
    let graph = text_file("not_frozen.egir", FROZEN);
    let wrong = |freeze: &str, expected: &[&str]| fails(&format!("run {} --freeze {freeze}", graph.display()), 2, expected);
    wrong("m=1", &["the model has no input `m`", "x: f32[N, 2]"]);
    wrong("k=1", &["input `k` is f32[N, 2]; --freeze k=1: a number needs a shape without free dimensions; give --dim N=..., or"]);
    wrong("k=1,2,3 --dim N=2", &["3 numbers, expected one, or 4"]);
    wrong("n=1.5", &["1.5 is no whole number"]);
    wrong("n=one", &["`one` is neither an .npy file nor a number"]);
    wrong("n=99999999999999999999", &["is not between"]);
    wrong("on=2", &["2 is neither true nor false"]);
    wrong("on=1 --freeze on=0", &["input `on` is frozen twice"]);
    wrong("x=examples/models/images.npy", &["input `x` is f32[N, 2]; examples/models/images.npy is f32[360, 1, 8, 8]"]);
    wrong("x", &["expected INPUT=FILE.npy or INPUT=VALUE"]);
    fails(&format!("run {} --freeze n=nowhere.npy", graph.display()), 4, &["nowhere.npy"]);
    let compiled = scratch("not_frozen.egret");
    egret(&format!("compile {CNN} -o {}", compiled.display()));
    fails(&format!("run {} --freeze images=0", compiled.display()), 2, &["--freeze has no effect on a compiled file"]);
}
