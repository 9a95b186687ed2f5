use super::*;
use crate::graph::{Graph, Source, ValueId};
use crate::op::Op;
use crate::tensor::Tensor;
use crate::ty::{DType, TensorType};
use crate::verify::verify;
use crate::{Attr, Dim};
use std::collections::HashMap;
use std::panic::catch_unwind;
use std::sync::Arc;

/// Graphs that use every construct of the grammar.
const SAMPLES: [&str; 3] = [
    r#"# A perceptron and its best three.
graph mlp(x: f32[N, 7]) -> f32[N, 3], i64[N, 3] {
    const w1: f32[7, 4] = random(1)
    const b1: f32[4] = splat(0.1)
    const half: f32[] = 0.5
    h = matmul(x, w1) : f32[N, 4] @ "/fc1/Gemm"
    hb = add(h, b1)  # types may be left out
    s = softmax[axes=[1]](hb) : f32[N, 4]
    sh = mul(s, half)
    v, i = top_k[axis=1, k=3](sh) : f32[N, 3], i64[N, 3] @ "/topk/b", "/topk/a"
    return v as scores, i
}"#,
    r#"graph "odd names"("x:0": f32["batch size", 2*N + 1], "1": bool[4], y: i8[4]) {
    const "a \"b\"\n": i8[2, 2] = [1, -2, 127, -128]
    const t: bool[2] = [true, false]
    const c: i8[] = 3
    const e: f16[0, 3] = []
    "const" = reshape[shape=["batch size"*2*N + "batch size"]]("x:0")
    /p/-q% = cast[to=bf16]("const")
    r = pad[low=[1], high=[2], mode=reflect](y, c)
    return /p/-q%, r as "return", r
}"#,
    r#"graph kernels(a: f32[N, 4], w: f32[4, 4]) -> f32[N, 4] {
    k = kernel "k 0"(x = a, w) : f32[N, 4] @ "p", "q" {
        const two: f32[] = 2.0
        m = matmul(x, w)
        t = mul(m, two) : f32[N, 4]
        return t
    }
    p, q = kernel k1(k, y = k) {
        s = add(k, y)
        d = sub(k, y)
        return s, d
    }
    r = mul(p, q)
    return r
}"#,
];

fn read(text: &str) -> Graph {
    parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn samples_print_with_aligned_columns() {
    let printed = SAMPLES.map(|s| print(&read(s), Options::lossless()));
    insta::assert_snapshot!(printed.join("\n"), @r##"
    graph mlp(x: f32[N, 7]) -> f32[N, 3], i64[N, 3] {
        const w1: f32[7, 4] = random(1)
        const b1: f32[4]    = splat(0.1)
        const half: f32[]   = 0.5
        h    = matmul(x, w1)          : f32[N, 4]            @ "/fc1/Gemm"
        hb   = add(h, b1)             : f32[N, 4]
        s    = softmax[axes=[1]](hb)  : f32[N, 4]
        sh   = mul(s, half)           : f32[N, 4]
        v, i = top_k[axis=1, k=3](sh) : f32[N, 3], i64[N, 3] @ "/topk/a", "/topk/b"
        return v as scores, i
    }

    graph "odd names"(
        "x:0": f32["batch size", 2*N + 1],
        "1": bool[4],
        y: i8[4],
    ) -> bf16[2*N*"batch size" + "batch size"], i8[7], i8[7] {
        const "a \"b\"\n": i8[2, 2] = [1, -2, 127, -128]
        const t: bool[2]            = [true, false]
        const c: i8[]               = 3
        const e: f16[0, 3]          = []
        "const" = reshape[shape=[2*N*"batch size" + "batch size"]]("x:0") : f32[2*N*"batch size" + "batch size"]
        /p/-q%  = cast[to=bf16]("const")                                  : bf16[2*N*"batch size" + "batch size"]
        r       = pad[low=[1], high=[2], mode=reflect](y, c)              : i8[7]
        return /p/-q%, r as "return", r
    }

    graph kernels(a: f32[N, 4], w: f32[4, 4]) -> f32[N, 4] {
        k    = kernel "k 0"(x = a, w) : f32[N, 4]            @ "p", "q" {
            const two: f32[] = 2.0
            m = matmul(x, w) : f32[N, 4]
            t = mul(m, two)  : f32[N, 4]
            return t
        }
        p, q = kernel k1(k, y = k)    : f32[N, 4], f32[N, 4] {
            s = add(k, y) : f32[N, 4]
            d = sub(k, y) : f32[N, 4]
            return s, d
        }
        r    = mul(p, q)              : f32[N, 4]
        return r
    }
    "##);
}

#[test]
fn kernels_print_on_one_line() {
    insta::assert_snapshot!(print(&read(SAMPLES[2]), Options::brief()), @r##"
    graph kernels(a: f32[N, 4], w: f32[4, 4]) -> f32[N, 4] {
        k    = kernel "k 0"(a, w) : f32[N, 4]            { matmul · mul }
        p, q = kernel k1(k, k)    : f32[N, 4], f32[N, 4] { add · sub }
        r    = mul(p, q)          : f32[N, 4]
        return r
    }
    "##);
}

#[test]
fn printing_then_parsing_is_the_identity() {
    for text in SAMPLES {
        round_trip(&read(text));
    }
    for seed in 0..300 {
        round_trip(&Generator { state: seed }.graph());
    }
}

fn round_trip(graph: &Graph) {
    verify(graph).unwrap();
    let data: HashMap<String, Tensor> = all_constants(graph).map(|t| (content_hash(&t), (*t).clone())).collect();
    let resolver = |hash: &str| data.get(hash).cloned();
    let text = print(graph, Options::lossless());
    let again = Reader::new("printed").resolve(&resolver).read(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert!(again == *graph, "{text}");
    assert_eq!(print(&again, Options::lossless()), text);
}

fn all_constants(graph: &Graph) -> Box<dyn Iterator<Item = Arc<Tensor>> + '_> {
    let own = graph.constants().filter_map(|(id, _)| graph.constant(id).cloned());
    Box::new(own.chain(graph.nodes().iter().filter_map(|n| n.region.as_deref()).flat_map(all_constants)))
}

/// Random valid graphs, with names, types, constants and attributes that are hard to print.
struct Generator {
    state: u64,
}

impl Generator {
    fn below(&mut self, n: usize) -> usize {
        self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.state >> 33) as usize) % n
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    fn name(&mut self) -> &'static str {
        self.pick(&[
            "x",
            "h",
            "const",
            "return",
            "as",
            "kernel",
            "graph",
            "12",
            "-a",
            ".b",
            "a b",
            "q\"\\",
            "\n\t\r",
            "é",
            "x:0",
            "/fc/Relu_1",
            "%3",
            "{",
            "#",
        ])
    }

    fn dim(&mut self) -> Dim {
        let symbol = Dim::symbol(self.pick(&["N", "batch size", "s0 + 1", "inf", "2", "max", "true", "f32"]));
        match self.below(6) {
            0 => symbol,
            1 => symbol * 3 - 1,
            2 => (symbol + 1).floor_div(&2.into()),
            3 => symbol.maximum(&7.into()).modulo(&5.into()),
            _ => Dim::from(self.below(4)),
        }
    }

    fn ty(&mut self) -> TensorType {
        let rank = self.below(4);
        TensorType { dtype: self.pick(&DType::ALL), dims: (0..rank).map(|_| self.dim()).collect() }
    }

    fn constant(&mut self, graph: &mut Graph) {
        let dtype = self.pick(&DType::ALL);
        let rank = self.below(3);
        let shape: Vec<usize> = (0..rank).map(|_| self.below(6)).collect();
        let ty = TensorType::new(dtype, shape.clone());
        let bytes = |g: &mut Self, n: usize| (0..n).map(|_| g.pick(&[0, 1, 255, 127, 128, 63, g.state as u8])).collect::<Vec<u8>>();
        let count = shape.iter().product::<usize>();
        let (tensor, source) = match self.below(3) {
            0 => (crate::random::random(self.state, &ty).unwrap(), Source::Random(self.state)),
            1 => {
                let one = bytes(self, dtype.size());
                (Tensor::new(dtype, shape, one.repeat(count).into()).unwrap(), Source::Splat)
            }
            _ => (Tensor::new(dtype, shape, bytes(self, count * dtype.size()).into()).unwrap(), Source::Data),
        };
        // Types that do not use all bits of a byte have one code for a number, and one for NaN.
        let tensor = if dtype.is_storage() { Tensor::from_elements(dtype, tensor.shape().to_vec(), tensor.elements()) } else { tensor };
        graph.add_const_from(self.name(), tensor, source);
    }

    fn graph(&mut self) -> Graph {
        let mut graph = Graph::new(self.name());
        for _ in 0..1 + self.below(3) {
            let ty = self.ty();
            graph.add_param(self.name(), ty);
        }
        self.fill(&mut graph, true);
        graph
    }

    /// Adds constants, nodes and results.
    fn fill(&mut self, graph: &mut Graph, kernels: bool) {
        for _ in 0..1 + self.below(8) {
            match self.below(4) {
                0 => self.constant(graph),
                1 if kernels => self.kernel(graph),
                _ => self.node(graph),
            }
        }
        for i in 0..self.below(4) {
            let value = self.value(graph);
            let name = graph.value(value).name.clone();
            let taken = graph.result_names.contains(&name);
            graph.add_result(value, &if taken { format!("result {i}") } else { name.to_string() });
        }
    }

    fn value(&mut self, graph: &Graph) -> ValueId {
        let ids: Vec<ValueId> = graph.value_ids().map(|(id, _)| id).collect();
        self.pick(&ids)
    }

    fn origin(&mut self) -> Vec<Arc<str>> {
        let mut origin: Vec<Arc<str>> = (0..self.below(3)).map(|_| self.name().into()).collect();
        origin.sort();
        origin.dedup();
        origin
    }

    /// Adds a node if its operand fits the op.
    fn node(&mut self, graph: &mut Graph) {
        let x = self.value(graph);
        let ty = graph.ty(x).clone();
        let op = match self.below(8) {
            0 => Op::cast { to: self.pick(&DType::ALL) },
            1 => Op::transpose { perm: (0..ty.rank()).rev().collect() },
            2 => Op::reshape { shape: ty.dims.clone() },
            3 => Op::leaky_relu { alpha: crate::Real(self.pick(&[0.1, -0.0, 1e-30, f64::INFINITY, f64::NAN, 1e300])) },
            4 => Op::top_k { axis: 0, k: Dim::ONE, largest: self.below(2) == 0 },
            5 => Op::reduce_max { axes: (0..ty.rank()).collect() },
            6 => Op::broadcast { shape: [vec![self.dim()], ty.dims.clone()].concat() },
            _ => Op::cumsum { axis: 0, exclusive: self.below(2) == 0, reverse: self.below(2) == 0 },
        };
        let (name, origin) = (self.name(), self.origin());
        let _ = graph.add_node(op, &[x], &[name], origin);
    }

    fn kernel(&mut self, graph: &mut Graph) {
        let operands: Vec<ValueId> = (0..1 + self.below(3)).map(|_| self.value(graph)).collect();
        let mut region = Graph::new("");
        for &operand in &operands {
            let name = graph.value(operand).name.clone();
            region.add_param(if self.below(2) == 0 { &name } else { self.name() }, graph.ty(operand).clone());
        }
        self.fill(&mut region, false);
        if !region.results.is_empty() {
            let (kernel, name, origin) = (self.name(), self.name(), self.origin());
            graph.add_kernel(kernel, region, &operands, &[name], origin).unwrap();
        }
    }
}

/// What the parser says about `graph g(x: f32[N, 4]) {`, the given lines and `}`.
fn check_error(lines: &str, expected: &str) {
    let text = format!("graph g(x: f32[N, 4]) {{\n{lines}\n}}");
    let error = Reader::new("g.egir").read(&text).expect_err(lines).to_string();
    assert_eq!(error, format!("g.egir:{expected}"), "{lines}");
}

#[test]
fn errors_name_line_expectation_and_finding() {
    for (lines, expected) in [
        ("y = matmull(x, x)\nreturn y", "2: there is no op `matmull`; did you mean `matmul`?"),
        ("y = frobnicate(x)\nreturn y", "2: there is no op `frobnicate`"),
        ("y = relu(x)\nz = add(y, xx)\nreturn z", "3: there is no value `xx` above; did you mean `x`?"),
        ("y = relu(z)\nz = relu(x)\nreturn y", "2: there is no value `z` above; did you mean `x`?"),
        ("y = relu(x) : f32[N, 5]\nreturn y", "2: `y` is annotated f32[N, 5], but its op makes f32[N, 4]"),
        ("y = relu(x) : f23[N, 4]\nreturn y", "2: there is no element type `f23`; did you mean `f32`?"),
        ("y = relu(x) : f32[N, 4], f32[]\nreturn y", "2: expected 1 types, one for each result, found 2"),
        ("\n\nx = relu(x)\nreturn x", "4: expected a new name, found `x`, which line 1 defines"),
        ("y = top_k[axis=1, k=2](x)\nreturn y", "2: expected 2 names for the results, found 1"),
        ("y, y = top_k[axis=1, k=2](x)\nreturn y", "2: expected a name of its own for each result, found \"y\" again"),
        ("y = relu(x, x)\nreturn y", "2: `relu` takes 1 operands, found 2"),
        ("y = relu[a=1](x)\nreturn y", "2: `relu` has no attribute `a`; it has: none"),
        ("y = softmax(x)\nreturn y", "2: `softmax` needs the attribute `axes`"),
        ("y = softmax[axes=3](x)\nreturn y", "2: `softmax`: attribute `axes` is 3, expected a list of axes or counts"),
        ("y = cumsum[axis=1, axis=1](x)\nreturn y", "2: expected the attribute `axis` once, found it twice"),
        ("y = cumsum[1, true, false, 7](x)\nreturn y", "2: `cumsum` has only 3 attributes"),
        ("y = mul(x, 0.5)\nreturn y", "2: expected the name of a value, found 0.5; give the number a name: `const c: f32[] = 0.5`"),
        ("y = mul(x, x\nreturn y", "3: expected `)`, found `return`"),
        ("y = relu(x)", "3: expected `return` and the results before `}`"),
        ("const c: f32[2] = [1, 2, 3]\nreturn c", "2: expected 2 elements for f32[2], found 3"),
        ("const c: f32[N] = splat(0)\nreturn c", "2: expected a constant of known extents, found N in f32[N]"),
        ("const c: i8[] = 200\nreturn c", "2: expected an integer in range for an element of i8, found `200`"),
        ("const c: i8[] = 2.5\nreturn c", "2: expected an integer for an element of i8, found `2.5`"),
        ("const c: bool[] = 1\nreturn c", "2: expected `true` or `false` for an element of bool, found `1`"),
        ("const c: f32[-1] = []\nreturn c", "2: expected an extent of at least 0, found -1"),
        ("const c: f32[99999, 99999] = random(1)\nreturn c", "2: expected a constant of at most 1073741824 bytes, found f32[99999, 99999]"),
        ("const c: f32[] = random(-1)\nreturn c", "2: expected a seed below 2^64, found `-1)`"),
        (
            "const c: f32[2] = data(blake3:1f2e)\nreturn c",
            "2: the data of blake3:1f2e is not in this text; read it with the model it was printed from at hand, or write `random(1)` in its place",
        ),
        (
            "k = kernel k0(x) { relu · add }\nreturn k",
            "2: expected the nodes of kernel `k0`, found a summary; print the graph with full regions to read it back",
        ),
        ("k = kernel k0(x) {\n y = relu(x) \n return y\n }\n z = relu(y)\nreturn z", "6: there is no value `y` above; did you mean `x`?"),
        ("k = kernel(x)\nreturn k", "2: expected a name, found `(x)`"),
        ("return x\n}\n}", "4: expected the end, found `}`"),
        ("y = reshape[shape=[((((N*2))]](x)\nreturn y", "2: expected `)`, found `]](x)`"),
        ("y = reshape[shape=[9223372036854775808]](x)\nreturn y", "2: expected a number below 2^63, found `9223372036854775808]](x)`"),
    ] {
        check_error(lines, expected);
    }
    assert_eq!(parse("").unwrap_err().to_string(), "text:1: expected `graph`, found the end");
    let declared = parse("graph g(x: f32[2]) -> f32[3] { return x }").unwrap_err().to_string();
    assert_eq!(declared, "text:1: the graph is declared to return f32[3], but it returns f32[2]");
}

#[test]
fn every_op_prints_and_parses_its_attributes() {
    for def in crate::OPS {
        let samples: Vec<Vec<String>> = def.attr_types.iter().map(|t| attr_samples(t)).collect();
        for pick in 0..5 {
            let given = |(name, samples): (&&str, &Vec<String>)| format!("{name}={}", samples[pick % samples.len()]);
            let text: Vec<String> = def.attrs.iter().zip(&samples).map(given).collect();
            let op = op_of(def, &text.join(", "));
            let printed = op.to_string();
            let inside = printed.strip_prefix(def.name).unwrap().trim_start_matches('[').strip_suffix(']').unwrap_or("");
            assert_eq!(op_of(def, inside), op, "{printed}");
        }
    }
}

fn op_of(def: &crate::OpDef, attributes: &str) -> Op {
    let attrs = super::parse::attrs(&mut crate::expr::Cursor::new(&format!("[{attributes}]")), def);
    Op::parse(def.name, &attrs.unwrap()).unwrap_or_else(|e| panic!("{attributes}: {e}"))
}

/// Texts of attributes of a type, as the table calls it.
fn attr_samples(takes: &str) -> Vec<String> {
    let samples: &[&str] = match takes {
        "an extent" => &["N", "2*N + 1", "7"],
        "an integer" => &["-1", "3"],
        "an axis or count" => &["0", "3"],
        "true or false" => &["true", "false"],
        "a number" => &["0.1", "1e-5", "-inf", "3"],
        "an element type" => &["f16", "bool"],
        "a name" => &["k0", "\"a b\""],
        "a list of extents" => &["[]", "[N, 3]", "[max(N, 2)]"],
        "a list of integers" => &["[]", "[-1, 2]"],
        "a list of axes or counts" => &["[]", "[1, 0]"],
        "a list of numbers" => &["[]", "[0.5, 2]", "[1.0]"],
        words => {
            return words.split('`').skip(1).step_by(2).map(String::from).collect();
        }
    };
    samples.iter().map(|s| s.to_string()).collect()
}

#[test]
fn a_resolver_gives_large_data_back() {
    let tensor = Tensor::from_i64s(vec![20], &(0..20).collect::<Vec<_>>());
    let mut graph = Graph::new("g");
    let c = graph.add_const("c", tensor.clone());
    graph.add_result(c, "c");
    let text = graph.to_string();
    let read = |t: Tensor| Reader::new("g.egir").resolve(&|_| Some(t.clone())).read(&text);
    assert_eq!(read(tensor.clone()), Ok(graph));
    let error = read(tensor.reshaped(vec![4, 5]).unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("g.egir:2: expected i64[20] with hash"), "{error}");
}

#[test]
fn elements_print_as_short_as_their_type_allows() {
    let text = "graph g() {
        const a: f32[2] = [0.1, 16777216]
        const b: f64[2] = [0.1, 1e300]
        const c: f16[3] = [0.1, inf, -0]
        const d: u64[1] = [18446744073709551615]
        const e: f32[20] = splat(-inf)
        return
    }";
    insta::assert_snapshot!(read(text), @r##"
    graph g() {
        const a: f32[2]  = [0.1, 16777216.0]
        const b: f64[2]  = [0.1, 1e300]
        const c: f16[3]  = [0.1, inf, -0.0]
        const d: u64[1]  = [18446744073709551615]
        const e: f32[20] = splat(-inf)
        return
    }
    "##);
}

/// Every broken text is an error, or by luck a graph; never a panic.
#[test]
fn no_text_makes_the_parser_panic() {
    let mut random = Generator { state: 1 };
    for text in SAMPLES {
        for _ in 0..3000 {
            let broken = mutated(text, &mut random);
            let outcome = catch_unwind(|| parse(&broken).map(|g| round_trip(&g)).is_ok());
            assert!(outcome.is_ok(), "panicked on:\n{broken}");
        }
    }
}

/// Up to three characters removed, doubled or replaced by others that mean something.
fn mutated(text: &str, random: &mut Generator) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..1 + random.below(3) {
        let at = random.below(chars.len());
        match random.below(4) {
            0 => drop(chars.remove(at)),
            1 => {
                chars[at] =
                    random.pick(&['(', ')', '[', ']', '{', '}', ',', '=', ':', '@', '"', '\\', '#', '-', '*', '0', '9', 'é', '\n', '.'])
            }
            2 => chars.insert(at, random.pick(&['(', '[', '{', ',', '"', '-', '*', 'x', ' '])),
            _ => {
                let end = (at + 1 + random.below(12)).min(chars.len());
                let (start, part) = (random.below(chars.len()), chars[at..end].to_vec());
                chars.splice(start..start, part);
            }
        }
    }
    chars.into_iter().collect()
}

#[test]
fn deep_brackets_are_an_error() {
    let deep = |open: &str| format!("graph g(x: f32[{}", open.repeat(200_000));
    for open in ["(", "-", "max(", "div(1, "] {
        assert!(parse(&deep(open)).unwrap_err().message.contains("levels of brackets"), "{open}");
    }
    let lists = format!("graph g(x: f32[]) {{ y = reshape[{}", "[".repeat(200_000));
    assert!(parse(&lists).unwrap_err().message.contains("levels of brackets"));
    let kernels = format!("graph g(x: f32[]) {{ {}", "k = kernel k(x) { ".repeat(100_000));
    assert!(parse(&kernels).unwrap_err().message.contains("nested at most"));
}

#[test]
fn a_product_of_sums_is_bounded() {
    let factors: Vec<String> = (0..40).map(|i| format!("(a{i} + b{i})")).collect();
    let error = parse(&format!("graph g(x: f32[{}]) {{ return x }}", factors.join("*"))).unwrap_err();
    assert!(error.message.contains("at most 64 terms"), "{error}");
}

#[test]
fn words_in_attributes_are_not_symbols_of_extents() {
    let graph = read("graph g(x: f32[4], v: f32[]) { y = pad[low=[1], high=[1], mode=edge](x, v) return y }");
    assert_eq!(graph.nodes()[0].op.attrs()[2], Attr::Word("edge".into()));
    assert_eq!(graph.nodes()[0].op.to_string(), "pad[low=[1], high=[1], mode=edge]");
}
