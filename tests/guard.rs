//! A guard against the cliffs of code generation, by looking at the code of hot kernels.
//!
//! A register tile too wide, an intrinsic that becomes scalar code, an accumulator that went to memory: each costs a factor of
//! two to a hundred, and none is wrong or seen by a timing on a busy machine. So graphs with the shapes of well-known models
//! are compiled for AVX-512 and for AVX2, whether this machine has them or not, and their assembly must keep to this:
//!
//! - no vector register is spilled or reloaded in the innermost loop of a contraction, and elsewhere at most one instruction
//!   in ten of an innermost loop does that: erf and exp have more constants than AVX2 has registers;
//! - no innermost loop with vector arithmetic has scalar floating-point arithmetic beside it, or a call;
//! - the hottest loop of a contraction has exactly one multiply-add, or dot product of pairs, for each accumulator of its tile.

use egret::codegen::cpu::asm_text;
use egret::codegen::kernel::{Body, Contract, Kernel, Tile};
use egret::codegen::{Target, plan};
use egret::{Compiler, Precision};

/// The hot kernels of ResNet-50, MobileNetV2 and BERT, and of a language model that makes one token.
const GRAPHS: [(&str, &str); 9] = [
    (
        "matmul · bias",
        "graph g(x: f32[128, 768]) {
            const w: f32[768, 768] = random(1)
            const b: f32[768] = random(2)
            h = matmul(x, w)
            y = add(h, b)
            return y
        }",
    ),
    (
        "matmul · bias · gelu",
        "graph g(x: f32[128, 768]) {
            const w: f32[768, 3072] = random(1)
            const b: f32[3072] = random(2)
            h = matmul(x, w)
            a = add(h, b)
            y = gelu(a)
            return y
        }",
    ),
    (
        "conv 3x3 · relu",
        "graph g(x: f32[1, 30, 30, 128]) {
            const w: f32[3, 3, 128, 128] = random(1)
            c = conv[stride = [1, 1], pad = [0, 0, 0, 0], dilation = [1, 1], layout = last](x, w)
            y = relu(c)
            return y
        }",
    ),
    (
        "conv 1x1 · residual · relu",
        "graph g(x: f32[1, 14, 14, 256], r: f32[1, 14, 14, 1024]) {
            const w: f32[1, 1, 256, 1024] = random(1)
            c = conv[stride = [1, 1], pad = [0, 0, 0, 0], dilation = [1, 1], layout = last](x, w)
            a = add(c, r)
            y = relu(a)
            return y
        }",
    ),
    (
        "depthwise 3x3",
        "graph g(x: f32[1, 58, 58, 144]) {
            const w: f32[3, 3, 1, 144] = random(1)
            c = conv[stride = [1, 1], pad = [0, 0, 0, 0], dilation = [1, 1], group = 144, layout = last](x, w)
            y = relu(c)
            return y
        }",
    ),
    ("softmax", "graph g(x: f32[1536, 128]) { y = softmax[axes = [1]](x) return y }"),
    (
        "layer_norm",
        "graph g(x: f32[128, 768]) {
            const s: f32[768] = random(1)
            const b: f32[768] = random(2)
            y = layer_norm[axes = [1], epsilon = 0.00001](x, s, b)
            return y
        }",
    ),
    (
        "attention of one query",
        "graph g(q: f32[1, 2, 4, 1, 64], k: f32[1, 2, 1, N, 64], v: f32[1, 2, 1, N, 64]) {
            y = attention[scale = 0.125](q, k, v)
            return y
        }",
    ),
    ("gelu", "graph g(x: f32[128, 3072]) { y = gelu(x) return y }"),
];

/// Products of values that a kernel before has stored: a dense layer, 3x3 filters over many channels, and 7x7 filters over three, whose rows
/// have an odd number of elements.
const NARROW_GRAPHS: [(&str, &str); 3] = [
    (
        "matmul · bias · gelu",
        "graph g(x: f32[128, 768]) {
            const w: f32[768, 3072] = random(1)
            const b: f32[3072] = random(2)
            r = relu(x)
            h = matmul(r, w)
            a = add(h, b)
            y = gelu(a)
            return y
        }",
    ),
    (
        "conv 3x3 · relu",
        "graph g(x: f32[1, 30, 30, 128]) {
            const w: f32[3, 3, 128, 128] = random(1)
            r = relu(x)
            c = conv[stride = [2, 2], pad = [0, 0, 0, 0], dilation = [1, 1], layout = last](r, w)
            y = relu(c)
            return y
        }",
    ),
    (
        "conv 7x7 of 3 channels",
        "graph g(x: f32[1, 229, 229, 3]) {
            const w: f32[7, 7, 3, 64] = random(1)
            r = relu(x)
            c = conv[stride = [2, 2], pad = [0, 0, 0, 0], dilation = [1, 1], layout = last](r, w)
            y = relu(c)
            return y
        }",
    ),
];

/// Quantised products, quantised again: a dense layer, and 3x3 filters.
const QUANTISED_GRAPHS: [(&str, &str); 2] = [
    (
        "matmul · bias · quantise",
        "graph g(x: u8[128, 768]) {
            const w: i8[768, 3072] = random(1)
            const s: f32[] = 0.01
            const t: f32[3072] = random(2)
            const b: f32[3072] = random(3)
            xi = cast[to = i32](x)
            xf = cast[to = f32](xi)
            xs = mul(xf, s)
            wi = cast[to = i32](w)
            wf = cast[to = f32](wi)
            ws = mul(wf, t)
            h = matmul(xs, ws)
            a = add(h, b)
            r = round(a)
            y = cast[to = u8](r)
            return y
        }",
    ),
    (
        "conv 3x3 · quantise",
        "graph g(x: u8[1, 128, 30, 30]) {
            const w: i8[128, 128, 3, 3] = random(1)
            const s: f32[] = 0.01
            xi = cast[to = i32](x)
            xf = cast[to = f32](xi)
            xs = mul(xf, s)
            wi = cast[to = i32](w)
            wf = cast[to = f32](wi)
            ws = mul(wf, s)
            c = conv[stride = [1, 1], pad = [1, 1, 1, 1], dilation = [1, 1]](xs, ws)
            r = round(c)
            y = cast[to = u8](r)
            return y
        }",
    ),
];

/// Of so many instructions of an innermost loop that is not a contraction's, one may be a spill or a reload.
const INSTRUCTIONS_PER_SPILL: usize = 10;

/// The same for the transforms of Winograd's convolution, whose 36 values do not fit 32 or 16 registers.
const INSTRUCTIONS_PER_SPILL_OF_TRANSFORMS: usize = 4;

/// What a product's loop consists of.
const MULTIPLY_ADD: &str = "vfmadd";
const DOT: &str = "vdpbf16ps";
const DOT_OF_BYTES: &str = "vpdpbusd";

const TARGETS: [&str; 2] = ["x86-64-v4", "x86-64-v3"];

#[test]
fn hot_kernels_keep_to_their_registers() {
    for target in TARGETS.map(target) {
        for (name, source) in GRAPHS {
            for kernel in kernels(source, &target) {
                check(&kernel, &target).unwrap_or_else(|problem| panic!("{name} for {}: {problem}\n{kernel}", target.name));
            }
        }
    }
}

#[test]
fn narrow_kernels_take_dot_products() {
    let target = target("znver4").with_dots().unwrap();
    for (name, source) in NARROW_GRAPHS {
        let compiler = Compiler::new().precision(Precision::Bf16);
        let grouped = compiler.optimise(&egret::parse_text("guard", source).unwrap()).unwrap();
        let kernels = plan::build(&grouped, &target, &|_, _| ()).unwrap().kernels;
        let product = kernels.iter().find(|kernel| matches!(kernel.body, Body::Contract(_))).unwrap();
        let code = asm_text(product, &target).unwrap();
        check_loops(&code, DOT, multiply_adds(product), INSTRUCTIONS_PER_SPILL).unwrap_or_else(|e| panic!("{name}: {e}\n{product}"));
    }
}

#[test]
fn products_of_bytes_take_dot_products() {
    let target = target("znver4").with_bytes().unwrap();
    for (name, source) in QUANTISED_GRAPHS {
        let compiler = Compiler::new().target("znver4");
        let grouped = compiler.optimise(&egret::parse_text("guard", source).unwrap()).unwrap();
        let kernels = plan::build(&grouped, &target, &|_, _| ()).unwrap().kernels;
        let product =
            kernels.iter().find(|kernel| matches!(kernel.body, Body::Contract(_))).unwrap_or_else(|| panic!("{name}: no product"));
        let code = asm_text(product, &target).unwrap();
        check_loops(&code, DOT_OF_BYTES, multiply_adds(product), INSTRUCTIONS_PER_SPILL)
            .unwrap_or_else(|e| panic!("{name}: {e}\n{product}"));
    }
}

/// A product with weights of four bits, of so many rows.
fn few_bits(rows: usize) -> String {
    format!(
        "graph g(x: f32[{rows}, 4096]) {{
            const q: i4[4096, 1024] = random(1)
            const s: f32[1024] = random(2)
            const b: f32[1024] = random(3)
            qf = cast[to = f32](q)
            w = mul(qf, s)
            h = matmul(x, w)
            y = add(h, b)
            return y
        }}"
    )
}

/// A single row takes four digits of a word at a time; for many the loop is that of a panel in f32.
#[test]
fn weights_of_few_bits_are_multiplied_in_registers() {
    for (name, rows, digits) in [("x86-64-v4", 1, 4), ("x86-64-v4", 128, 1), ("x86-64-v3", 128, 1)] {
        let target = target(name);
        let kernel = &kernels(&few_bits(rows), &target)[0];
        assert!(kernel.to_string().contains(".blocks("), "{kernel}");
        let code = asm_text(kernel, &target).unwrap();
        let expected = multiply_adds(kernel).map(|count| digits * count);
        check_loops(&code, MULTIPLY_ADD, expected, INSTRUCTIONS_PER_SPILL).unwrap_or_else(|e| panic!("{rows} rows, {name}: {e}\n{kernel}"));
    }
}

/// The guard itself: each of these is a cliff that it has to see.
#[test]
fn a_tile_with_more_accumulators_than_registers_is_caught() {
    for (target, tile) in [("x86-64-v4", Tile { rows: 8, vectors: 4 }), ("x86-64-v3", Tile { rows: 6, vectors: 4 })] {
        let target = self::target(target);
        let kernel = with_tile(&product(&target), tile);
        let problem = check(&kernel, &target).unwrap_err();
        assert!(problem.contains("goes to the stack"), "{problem}");
    }
}

#[test]
fn a_loop_that_does_not_do_what_its_tile_says_is_caught() {
    let target = target("x86-64-v4");
    let kernel = product(&target);
    let other = with_tile(&kernel, Tile { rows: 4, vectors: 2 });
    let problem = check_code(&asm_text(&kernel, &target).unwrap(), multiply_adds(&other)).unwrap_err();
    assert!(problem.contains("multiply-adds"), "{problem}");
}

#[test]
fn scalar_code_is_caught() {
    let code = |body: &str| format!("k0:\n.LBB0_1:\n{body}\tjl\t.LBB0_1\n\tretq\n");
    let vector = "\tvfmadd231ps\t(%rax){1to16}, %zmm1, %zmm2\n";
    assert_eq!(check_code(&code(vector), Some(1)), Ok(()));
    for (bad, said) in [
        ("\tvmulss\t%xmm1, %xmm2, %xmm3\n", "scalar"),
        ("\tcallq\texpf\n", "calls"),
        ("\tvmovups\t%zmm3, 64(%rsp)\n", "goes to the stack"),
        ("\tvmulps\t-128(%rsp), %zmm1, %zmm2\n", "goes to the stack"),
    ] {
        let problem = check_code(&code(&format!("{vector}{bad}")), Some(1)).unwrap_err();
        assert!(problem.contains(said), "{bad}: {problem}");
    }
    // A scratch tile is memory that a loop walks over, not a spill; integers may live on the stack.
    for good in ["\tvmovups\t%zmm3, 64(%rsp,%rax)\n", "\tmovq\t%rax, -8(%rsp)\n"] {
        assert_eq!(check_code(&code(&format!("{vector}{good}")), Some(1)), Ok(()), "{good}");
    }
    // Outside contractions a reload now and then is fine, and more is not.
    let mixed = |reloads: usize| code(&(vector.repeat(20) + &"\tvmovups\t64(%rsp), %zmm3\n".repeat(reloads)));
    assert_eq!(check_code(&mixed(2), None), Ok(()));
    assert!(check_code(&mixed(5), None).is_err());
}

fn target(name: &str) -> Target {
    Target::named(name).unwrap()
}

/// The kernels of a graph, optimised as `egret compile` does.
fn kernels(source: &str, target: &Target) -> Vec<Kernel> {
    let grouped = Compiler::new().optimise(&egret::parse_text("guard", source).unwrap()).unwrap();
    plan::build(&grouped, target, &|_, _| ()).unwrap().kernels
}

/// The product of the first graph.
fn product(target: &Target) -> Kernel {
    let is_product = |kernel: &Kernel| matches!(kernel.body, Body::Contract(_));
    kernels(GRAPHS[0].1, target).into_iter().find(is_product).unwrap()
}

fn with_tile(kernel: &Kernel, tile: Tile) -> Kernel {
    let Body::Contract(contracts) = &kernel.body else { panic!("not a contraction") };
    let tiled = contracts.iter().map(|contract| Contract { tile, ..contract.clone() });
    Kernel { body: Body::Contract(tiled.collect()), ..kernel.clone() }
}

fn check(kernel: &Kernel, target: &Target) -> Result<(), String> {
    let per_spill = match kernel.body {
        Body::Winograd(_) => INSTRUCTIONS_PER_SPILL_OF_TRANSFORMS,
        _ => INSTRUCTIONS_PER_SPILL,
    };
    check_loops(&asm_text(kernel, target).unwrap(), MULTIPLY_ADD, multiply_adds(kernel), per_spill)
}

/// The multiply-adds of one step of the tile that a contraction is divided into: strips of rows are made equally high.
fn multiply_adds(kernel: &Kernel) -> Option<usize> {
    let Body::Contract(contracts) = &kernel.body else { return None };
    let [contract] = &contracts[..] else { return None };
    let rows = contract.rows.last().and_then(|axis| axis.extent.as_const()).unwrap_or(1) as usize;
    Some(rows.div_ceil(rows.div_ceil(contract.tile.rows)) * contract.tile.vectors)
}

/// Checks all innermost loops of a function. That of a contraction, the one with most multiply-adds among its instructions, has
/// as many as expected.
fn check_code(assembly: &str, multiply_adds: Option<usize>) -> Result<(), String> {
    check_loops(assembly, MULTIPLY_ADD, multiply_adds, INSTRUCTIONS_PER_SPILL)
}

fn check_loops(assembly: &str, mnemonic: &str, multiply_adds: Option<usize>, per_spill: usize) -> Result<(), String> {
    let loops = innermost_loops(assembly);
    let frame = if assembly.contains("\tmovq\t%rsp, %rbp") { &["(%rsp)", "(%rbp)"][..] } else { &["(%rsp)"] };
    loops.iter().try_for_each(|code| check_loop(code, frame, per_spill))?;
    let Some(expected) = multiply_adds else { return Ok(()) };
    let density = |code: &&Vec<&str>| 1000 * count(code, mnemonic) / code.len();
    let hottest = loops.iter().max_by_key(density).ok_or("a contraction without a loop")?;
    if let Some(line) = hottest.iter().find(|line| is_spill(line, frame)) {
        return Err(format!("a vector goes to the stack in the loop of a contraction:{line}\n{}", hottest.join("\n")));
    }
    match count(hottest, mnemonic) {
        found if found != expected => Err(format!("{found} multiply-adds in the hottest loop, expected {expected}")),
        _ => Ok(()),
    }
}

/// `frame` are the ways to write an address in the frame. One with an index is memory that a loop walks over.
fn check_loop(code: &[&str], frame: &[&str], per_spill: usize) -> Result<(), String> {
    if !code.iter().any(|line| is_arithmetic(line, "ps")) {
        return Ok(());
    }
    let listing = || code.join("\n");
    let spills = code.iter().filter(|line| is_spill(line, frame)).count();
    if spills * per_spill > code.len() {
        return Err(format!("a vector goes to the stack in {spills} of {} instructions\n{}", code.len(), listing()));
    }
    if let Some(line) = code.iter().find(|line| is_arithmetic(line, "ss")) {
        return Err(format!("scalar arithmetic in a vector loop:{line}\n{}", listing()));
    }
    match code.iter().find(|line| line.starts_with("\tcall")) {
        Some(line) => Err(format!("an innermost loop calls a function:{line}\n{}", listing())),
        None => Ok(()),
    }
}

/// The instructions of the loops that have no loop inside: what stands between a label and a jump back to it.
fn innermost_loops(assembly: &str) -> Vec<Vec<&str>> {
    let lines: Vec<&str> = assembly.lines().collect();
    let label = |name: &str| lines.iter().position(|line| line.strip_suffix(':') == Some(name));
    let back = |(end, line): (usize, &&str)| {
        let (jump, to) = line.trim_start().split_once('\t')?;
        let start = label(to).filter(|start| jump.starts_with('j') && *start < end)?;
        Some((start, end))
    };
    let all: Vec<(usize, usize)> = lines.iter().enumerate().filter_map(back).collect();
    let has_inner = |outer: &(usize, usize)| all.iter().any(|inner| inner != outer && outer.0 <= inner.0 && inner.1 <= outer.1);
    all.iter().filter(|found| !has_inner(found)).map(|&(start, end)| lines[start..=end].to_vec()).collect()
}

fn count(code: &[&str], mnemonic: &str) -> usize {
    code.iter().filter(|line| line.trim_start().starts_with(mnemonic)).count()
}

fn is_spill(line: &str, frame: &[&str]) -> bool {
    let is_vector = ["%xmm", "%ymm", "%zmm"].iter().any(|register| line.contains(register));
    is_vector && frame.iter().any(|place| line.contains(place))
}

/// Whether a line multiplies, adds, subtracts or divides floats of this suffix: `ps` in all lanes, `ss` in one.
fn is_arithmetic(line: &str, suffix: &str) -> bool {
    let mnemonic = line.trim_start().split('\t').next().unwrap_or("");
    let kinds = ["vfm", "vfnm", "vmul", "vadd", "vsub", "vdiv", "vdp"];
    mnemonic.ends_with(suffix) && kinds.iter().any(|kind| mnemonic.starts_with(kind))
}
