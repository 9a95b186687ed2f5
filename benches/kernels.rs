//! Kernels alone: how near each class comes to the peak of this machine.
//!
//! ```text
//! $ cargo bench                          # all; what follows `--` chooses some, and the number of threads
//! $ cargo bench -- conv --threads 2
//! $ cargo bench -- --target x86-64-v3    # with AVX2 only, in percent of the peak that code with AVX2 reaches
//! AMD EPYC (znver4), native code, 1 thread: peak 118.2 GFLOP/s; one core reads L1 223, L2 117, L3 81, DRAM 29 GB/s
//! class        kernel                                    us   GFLOP/s   % of peak    GB/s
//! matmul       128x768x768 + bias, relu             1285.33     117.5          99     2.4
//! conv         56x56 64->256 1x1 s1, relu            894.14     114.9          97     4.6
//! ...
//! ```
//!
//! Every case is a graph as text that takes the way of every model: passes, kernels, code, a session. The time is the shortest
//! sum of all steps over many runs, so that other programs and the cost of a call do not count. Operations are those
//! of the definition, so that an algorithm that needs fewer may exceed the peak. GB/s counts what goes in and out.

use egret::hw::Machine;
use egret::plan::Unit;
use egret::profile::step_times;
use egret::{Artifact, Compiler, Error, Tensor, TensorView, parse_text};
use std::time::{Duration, Instant};

/// How long a case is measured.
const BUDGET: Duration = Duration::from_millis(400);

/// Runs of a case, however long they take.
const MIN_RUNS: usize = 5;

/// A graph, and the work it does by definition.
struct Case {
    class: &'static str,
    name: String,
    graph: String,
    /// Floating-point operations; none where moving the data is the work.
    operations: Option<f64>,
    /// Bytes that go in and out.
    bytes: f64,
}

fn main() -> Result<(), Error> {
    let Arguments { filter, threads, target } = arguments()?;
    let machine = match Machine::cached().filter(|_| target == NATIVE) {
        Some(machine) => machine,
        None => Machine::measure_as(Compiler::new().target(&target).chosen_target()?)?,
    };
    println!("{}", title(&machine, &target, threads));
    println!("{:12} {:34} {:>9} {:>9} {:>11} {:>7}", "class", "kernel", "us", "GFLOP/s", "% of peak", "GB/s");
    for case in cases().iter().filter(|case| format!("{} {}", case.class, case.name).contains(&filter)) {
        let seconds = shortest(case, threads, &target)?;
        println!("{}", row(case, seconds, machine.peak(threads, Unit::F32)));
    }
    Ok(())
}

/// The target that stands for this machine.
const NATIVE: &str = "native";

/// What is asked for.
struct Arguments {
    /// Part of a class or name.
    filter: String,
    threads: usize,
    target: String,
}

/// Cargo adds `--bench`.
fn arguments() -> Result<Arguments, Error> {
    let mut chosen = Arguments { filter: String::new(), threads: 1, target: NATIVE.to_string() };
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--threads" => {
                let count = arguments.next().and_then(|count| count.parse().ok()).filter(|count| (1..=1024).contains(count));
                chosen.threads = count.ok_or_else(|| Error::Usage("--threads needs a number between 1 and 1024".into()))?;
            }
            "--target" => chosen.target = arguments.next().ok_or_else(|| Error::Usage("--target needs a name".into()))?,
            flag if flag.starts_with('-') => {
                return Err(Error::Usage(format!("there is no flag {flag}; there are --threads N and --target NAME")));
            }
            text => chosen.filter = text.to_string(),
        }
    }
    Ok(chosen)
}

fn title(machine: &Machine, target: &str, threads: usize) -> String {
    let levels: Vec<String> = machine.levels.iter().map(|level| format!("{} {:.0}", level.name, level.read.one)).collect();
    let plural = if threads == 1 { "" } else { "s" };
    let (processor, peak) = (&machine.processor, machine.peak(threads, Unit::F32));
    format!("{processor}, {target} code, {threads} thread{plural}: peak {peak:.1} GFLOP/s; one core reads {} GB/s", levels.join(", "))
}

fn row(case: &Case, seconds: f64, peak: f64) -> String {
    let rate = |work: f64| work / seconds * 1e-9;
    let gflops = case.operations.map(rate);
    let (gflops, share) = match gflops {
        Some(gflops) => (format!("{gflops:.1}"), format!("{:.0}", gflops / peak * 100.0)),
        None => ("-".to_string(), "-".to_string()),
    };
    format!("{:12} {:34} {:9.2} {gflops:>9} {share:>11} {:7.1}", case.class, case.name, seconds * 1e6, rate(case.bytes))
}

/// The shortest time of all steps of a run, in seconds.
fn shortest(case: &Case, threads: usize, target: &str) -> Result<f64, Error> {
    let graph = parse_text(&case.name, &case.graph)?;
    let compiler = Compiler::new().target(target);
    let artifact: Artifact = compiler.generate(&compiler.optimise(&graph)?)?;
    let mut session = artifact.session(threads)?;
    let tensors = session.random_inputs(1, &[])?;
    let names: Vec<String> = artifact.inputs().into_iter().map(|(name, _)| name).collect();
    let inputs: Vec<(&str, TensorView<'_>)> = names.iter().map(String::as_str).zip(tensors.iter().map(Tensor::view)).collect();
    let mut outputs = session.allocate_outputs(&inputs)?;
    let (begin, mut runs, mut best) = (Instant::now(), 0, Duration::MAX);
    while runs < MIN_RUNS || begin.elapsed() < BUDGET {
        let spans = session.run_profiled(&inputs, &mut outputs)?.spans;
        best = best.min(step_times(&spans, artifact.plan().steps.len()).into_iter().sum());
        runs += 1;
    }
    Ok(best.as_secs_f64())
}

/// The shapes of ResNet-50, MobileNetV2 and BERT-base.
fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for (m, n, k) in [(128, 768, 768), (128, 3072, 768), (128, 768, 3072), (1, 3072, 768), (1, 32768, 768)] {
        cases.push(matmul(m, n, k));
    }
    // 1x1 convolutions: pixels, channels out and in.
    for (side, n, k) in [(56, 256, 64), (28, 128, 512), (28, 512, 128), (14, 256, 1024), (14, 1024, 256), (7, 512, 2048), (7, 2048, 512)] {
        cases.push(conv(Conv { side, input: k, output: n, taps: 1, stride: 1, depthwise: false }));
    }
    for (side, channels) in [(56, 64), (28, 128), (14, 256), (7, 512)] {
        cases.push(conv(Conv { side, input: channels, output: channels, taps: 3, stride: 1, depthwise: false }));
    }
    for (side, input, output, taps) in [(28, 128, 128, 3), (112, 3, 64, 7), (112, 3, 32, 3)] {
        cases.push(conv(Conv { side, input, output, taps, stride: 2, depthwise: false }));
    }
    for (side, channels, taps, stride) in
        [(112, 32, 3, 1), (56, 96, 3, 2), (56, 144, 3, 1), (14, 576, 3, 1), (7, 960, 3, 1), (14, 672, 5, 1)]
    {
        cases.push(conv(Conv { side, input: channels, output: channels, taps, stride, depthwise: true }));
    }
    for (heads, length, width) in [(12, 128, 64), (12, 512, 64)] {
        cases.push(attention(heads, length, width));
    }
    cases.push(unary("softmax", "softmax[axes = [1]](x)", 1536, 128));
    cases.push(layer_norm(128, 768));
    cases.push(unary("gelu", "gelu(x)", 128, 3072));
    for function in ["exp", "tanh", "erf", "log"] {
        cases.push(unary(function, &format!("{function}(x)"), 4, 1024));
    }
    cases.push(unary("add", "add(x, x)", 3136, 256));
    cases.push(unary("transpose", "transpose[perm = [1, 0]](x)", 512, 512));
    cases.push(unary("transpose", "transpose[perm = [1, 0]](x)", 64, 3136));
    cases
}

/// `x: f32[m, k]`, `w: f32[k, n]`, with a bias and relu.
fn matmul(m: usize, n: usize, k: usize) -> Case {
    Case {
        class: "matmul",
        name: format!("{m}x{n}x{k} + bias, relu"),
        graph: format!(
            "graph g(x: f32[{m}, {k}]) {{
                const w: f32[{k}, {n}] = random(1)
                const b: f32[{n}] = random(2)
                h = matmul(x, w)
                a = add(h, b)
                y = relu(a)
                return y
            }}"
        ),
        operations: Some(2.0 * (m * n * k) as f64),
        bytes: 4.0 * (m * k + k * n + n + m * n) as f64,
    }
}

/// A convolution over channels-last data that has its border already.
struct Conv {
    /// Height and width of the output.
    side: usize,
    input: usize,
    output: usize,
    taps: usize,
    stride: usize,
    depthwise: bool,
}

fn conv(c: Conv) -> Case {
    let Conv { side, input, output, taps, stride, depthwise } = c;
    let padded = (side - 1) * stride + taps;
    let (group, per_group) = if depthwise { (input, 1) } else { (1, input) };
    let weights = taps * taps * per_group * output;
    let channels = if depthwise { format!("{input}") } else { format!("{input}->{output}") };
    Case {
        class: if depthwise { "depthwise" } else { "conv" },
        name: format!("{side}x{side} {channels} {taps}x{taps} s{stride}, relu"),
        graph: format!(
            "graph g(x: f32[1, {padded}, {padded}, {input}]) {{
                const w: f32[{taps}, {taps}, {per_group}, {output}] = random(1)
                const b: f32[{output}] = random(2)
                c = conv[stride = [{stride}, {stride}], pad = [0, 0, 0, 0], dilation = [1, 1], group = {group}, layout = last](x, w)
                a = add(c, b)
                y = relu(a)
                return y
            }}"
        ),
        operations: Some(2.0 * (side * side * weights) as f64),
        bytes: 4.0 * (padded * padded * input + weights + output + side * side * output) as f64,
    }
}

/// Self-attention: queries, keys and values as they come from one projection.
fn attention(heads: usize, length: usize, width: usize) -> Case {
    let all = heads * width;
    let scale = 1.0 / (width as f64).sqrt();
    let head = |name: &str, start: usize| {
        format!(
            "{name}0 = slice[start = [0, {start}], shape = [{length}, {all}], step = [1, 1]](x)
            {name}1 = reshape[shape = [{length}, {heads}, {width}]]({name}0)
            {name} = transpose[perm = [1, 0, 2]]({name}1)"
        )
    };
    Case {
        class: "attention",
        name: format!("{heads} heads, {length} x {width}"),
        graph: format!(
            "graph g(x: f32[{length}, {}]) {{
                {}
                {}
                {}
                o = attention[scale = {scale}](q, k, v)
                t = transpose[perm = [1, 0, 2]](o)
                y = reshape[shape = [{length}, {all}]](t)
                return y
            }}",
            3 * all,
            head("q", 0),
            head("k", all),
            head("v", 2 * all),
        ),
        operations: Some(4.0 * (heads * length * length * width) as f64),
        bytes: 4.0 * (4 * length * all) as f64,
    }
}

/// One operand in, one result of its size out.
fn unary(class: &'static str, expression: &str, rows: usize, columns: usize) -> Case {
    Case {
        class,
        name: format!("{rows}x{columns}"),
        graph: format!("graph g(x: f32[{rows}, {columns}]) {{ y = {expression} return y }}"),
        operations: None,
        bytes: 8.0 * (rows * columns) as f64,
    }
}

fn layer_norm(rows: usize, columns: usize) -> Case {
    Case {
        graph: format!(
            "graph g(x: f32[{rows}, {columns}]) {{
                const s: f32[{columns}] = random(1)
                const b: f32[{columns}] = random(2)
                y = layer_norm[axes = [1], epsilon = 0.00001](x, s, b)
                return y
            }}"
        ),
        ..unary("layer_norm", "x", rows, columns)
    }
}
