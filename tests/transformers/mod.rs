//! Small transformers as text, op by op as exporters write them: BERT, GPT-2 and LLaMA with few and short layers.
//!
//! They have what the real ones have: embeddings, norms, biases, masks, learned or rotary positions, grouped heads, a tied head.
//! Weights are random, scaled so that a sum of products keeps the size of its terms.

use std::fmt::Write;

/// Channels, heads and their channels, hidden channels of a feed-forward layer, words, positions, layers.
const CHANNELS: usize = 64;
const HEADS: usize = 4;
const HEAD: usize = CHANNELS / HEADS;
const HIDDEN: usize = 128;
const WORDS: usize = 90;
const POSITIONS: usize = 40;
const LAYERS: usize = 2;

/// Heads of keys and values where heads of queries share them.
const SHARED: usize = 2;

/// A graph's text with the seeds of its weights.
struct Source {
    text: String,
    seed: usize,
}

impl Source {
    fn new(signature: &str) -> Source {
        Source { text: format!("graph {signature} {{\n"), seed: 0 }
    }

    /// Adds a line.
    fn add(&mut self, name: &str, value: &str) -> String {
        writeln!(self.text, "    {name} = {value}").unwrap();
        name.to_string()
    }

    /// Weights between -`scale` and `scale`.
    fn weights(&mut self, name: &str, dims: &[usize], scale: f64) -> String {
        self.seed += 1;
        let dims = dims.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        writeln!(self.text, "    const {name}.raw: f32[{dims}] = random({})", self.seed).unwrap();
        writeln!(self.text, "    const {name}.scale: f32[] = {scale:?}").unwrap();
        self.add(name, &format!("mul({name}.raw, {name}.scale)"))
    }

    /// `x * w`, of `rows` by `cols` weights.
    fn linear(&mut self, name: &str, x: &str, [rows, cols]: [usize; 2]) -> String {
        let w = self.weights(&format!("{name}.w"), &[rows, cols], 1.7 / (rows as f64).sqrt());
        self.add(name, &format!("matmul({x}, {w})"))
    }

    /// `x * w + b`.
    fn biased(&mut self, name: &str, x: &str, shape: [usize; 2]) -> String {
        let product = self.linear(&format!("{name}.product"), x, shape);
        let b = self.weights(&format!("{name}.b"), &[shape[1]], 0.1);
        self.add(name, &format!("add({product}, {b})"))
    }

    fn layer_norm(&mut self, name: &str, x: &str) -> String {
        let s = self.weights(&format!("{name}.s"), &[CHANNELS], 1.5);
        let b = self.weights(&format!("{name}.b"), &[CHANNELS], 0.1);
        self.add(name, &format!("layer_norm[axes = [2], epsilon = 0.00001]({x}, {s}, {b})"))
    }

    fn rms_norm(&mut self, name: &str, x: &str) -> String {
        let s = self.weights(&format!("{name}.s"), &[CHANNELS], 1.5);
        self.add(name, &format!("rms_norm[axes = [2], epsilon = 0.00001]({x}, {s})"))
    }

    /// `[1, S, n * HEAD]` as `[1, n, S, HEAD]`.
    fn heads(&mut self, x: &str, n: usize) -> String {
        let apart = self.add(&format!("{x}.apart"), &format!("reshape[shape = [1, S, {n}, {HEAD}]]({x})"));
        self.add(&format!("{x}.heads"), &format!("transpose[perm = [0, 2, 1, 3]]({apart})"))
    }

    /// Softmax of masked scores times values, joined again.
    fn attention(&mut self, name: &str, [q, k, v]: [&str; 3], mask: &str) -> String {
        let t = self.add(&format!("{name}.t"), &format!("transpose[perm = [0, 1, 3, 2]]({k})"));
        let products = self.add(&format!("{name}.products"), &format!("matmul({q}, {t})"));
        let scaled = self.add(&format!("{name}.scaled"), &format!("mul({products}, attention.scale)"));
        let masked = self.add(&format!("{name}.masked"), &mask.replace("SCORES", &scaled));
        let weights = self.add(&format!("{name}.weights"), &format!("softmax[axes = [3]]({masked})"));
        let heads = self.add(&format!("{name}.seen"), &format!("matmul({weights}, {v})"));
        let apart = self.add(&format!("{name}.apart"), &format!("transpose[perm = [0, 2, 1, 3]]({heads})"));
        self.add(name, &format!("reshape[shape = [1, S, {CHANNELS}]]({apart})"))
    }

    /// What causal attention shares: which scores are of the past.
    fn causal(&mut self) -> &'static str {
        self.text += "    const attention.low: f32[] = -inf\n";
        self.add("positions", "iota[shape = [S], axis = 0, dtype = i64]()");
        self.add("rows", "reshape[shape = [S, 1]](positions)");
        self.add("columns", "reshape[shape = [1, S]](positions)");
        self.add("past", "le(columns, rows)");
        "select(past, SCORES, attention.low)"
    }

    fn scale_of_scores(&mut self) {
        writeln!(self.text, "    const attention.scale: f32[] = {:?}", 1.0 / (HEAD as f64).sqrt()).unwrap();
    }

    fn returns(mut self, result: &str) -> String {
        writeln!(self.text, "    return {result}\n}}").unwrap();
        self.text
    }
}

/// An encoder: words, positions and kinds of text, norms behind what is added, a mask of words that count.
pub fn bert() -> String {
    let mut s = Source::new("bert(ids: i64[1, S], mask: bool[1, S])");
    s.scale_of_scores();
    let words = s.weights("words", &[WORDS, CHANNELS], 1.0);
    let places = s.weights("places", &[POSITIONS, CHANNELS], 1.0);
    let kind = s.weights("kind", &[CHANNELS], 1.0);
    let found = s.add("found", &format!("gather[axis = 0]({words}, ids)"));
    let placed = s.add("placed", &format!("slice[start = [0, 0], shape = [S, {CHANNELS}], step = [1, 1]]({places})"));
    s.add("embedded", &format!("add({found}, {placed})"));
    s.add("all", &format!("add(embedded, {kind})"));
    s.text += "    const one: f32[] = 1.0\n    const lowest: f32[] = -10000.0\n";
    s.add("counts", "cast[to = f32](mask)");
    s.add("hidden", "sub(one, counts)");
    s.add("lowered", "mul(hidden, lowest)");
    s.add("bias", "reshape[shape = [1, 1, 1, S]](lowered)");
    let mut x = s.layer_norm("norm", "all");
    for i in 0..LAYERS {
        let [q, k, v] = ["q", "k", "v"].map(|part| s.biased(&format!("{part}{i}"), &x, [CHANNELS, CHANNELS]));
        let [q, k, v] = [q, k, v].map(|part| s.heads(&part, HEADS));
        let seen = s.attention(&format!("attention{i}"), [&q, &k, &v], "add(SCORES, bias)");
        let out = s.biased(&format!("out{i}"), &seen, [CHANNELS, CHANNELS]);
        s.add(&format!("residual{i}"), &format!("add({out}, {x})"));
        x = s.layer_norm(&format!("middle{i}"), &format!("residual{i}"));
        let up = s.biased(&format!("up{i}"), &x, [CHANNELS, HIDDEN]);
        let act = s.add(&format!("act{i}"), &format!("gelu({up})"));
        let down = s.biased(&format!("down{i}"), &act, [HIDDEN, CHANNELS]);
        s.add(&format!("sum{i}"), &format!("add({down}, {x})"));
        x = s.layer_norm(&format!("norm{i}"), &format!("sum{i}"));
    }
    s.returns(&x)
}

/// A decoder over a whole text: learned positions, norms before each part, one product for queries, keys and values, a head tied to the
/// embedding.
pub fn gpt2() -> String {
    let mut s = Source::new("gpt2(ids: i64[1, S])");
    s.scale_of_scores();
    let mask = s.causal();
    let words = s.weights("words", &[WORDS, CHANNELS], 1.0);
    let places = s.weights("places", &[POSITIONS, CHANNELS], 1.0);
    let found = s.add("found", &format!("gather[axis = 0]({words}, ids)"));
    let placed = s.add("placed", &format!("gather[axis = 0]({places}, positions)"));
    let mut x = s.add("embedded", &format!("add({found}, {placed})"));
    for i in 0..LAYERS {
        let normal = s.layer_norm(&format!("norm{i}"), &x);
        let qkv = s.biased(&format!("qkv{i}"), &normal, [CHANNELS, 3 * CHANNELS]);
        let part = |s: &mut Source, (n, name): (usize, &str)| {
            let slice = format!("slice[start = [0, 0, {}], shape = [1, S, {CHANNELS}], step = [1, 1, 1]]({qkv})", n * CHANNELS);
            let part = s.add(&format!("{name}{i}"), &slice);
            s.heads(&part, HEADS)
        };
        let [q, k, v] = [(0, "q"), (1, "k"), (2, "v")].map(|which| part(&mut s, which));
        let seen = s.attention(&format!("attention{i}"), [&q, &k, &v], mask);
        let out = s.biased(&format!("out{i}"), &seen, [CHANNELS, CHANNELS]);
        x = s.add(&format!("residual{i}"), &format!("add({out}, {x})"));
        let normal = s.layer_norm(&format!("middle{i}"), &x);
        let up = s.biased(&format!("up{i}"), &normal, [CHANNELS, HIDDEN]);
        let act = s.add(&format!("act{i}"), &format!("gelu_tanh({up})"));
        let down = s.biased(&format!("down{i}"), &act, [HIDDEN, CHANNELS]);
        x = s.add(&format!("sum{i}"), &format!("add({down}, {x})"));
    }
    let normal = s.layer_norm("norm", &x);
    let turned = s.add("head", &format!("transpose[perm = [1, 0]]({words})"));
    let logits = s.add("logits", &format!("matmul({normal}, {turned})"));
    s.returns(&logits)
}

/// A decoder over a whole text: rotary positions, norms without a mean, heads of queries that share keys and values, a gated
/// feed-forward layer.
pub fn llama() -> String {
    let mut s = Source::new("llama(ids: i64[1, S])");
    s.scale_of_scores();
    let mask = s.causal();
    let words = s.weights("words", &[WORDS, CHANNELS], 1.0);
    let mut x = s.add("found", &format!("gather[axis = 0]({words}, ids)"));
    let rates = (0..HEAD / 2).map(|i| format!("{:?}", 10000f64.powf(-2.0 * i as f64 / HEAD as f64))).collect::<Vec<_>>().join(", ");
    writeln!(s.text, "    const rates: f32[{}] = [{rates}]", HEAD / 2).unwrap();
    s.add("times", "cast[to = f32](rows)");
    s.add("angles", "mul(times, rates)");
    s.add("both", "concat[axis = 1](angles, angles)");
    s.add("cos", "cos(both)");
    s.add("sin", "sin(both)");
    for i in 0..LAYERS {
        let normal = s.rms_norm(&format!("norm{i}"), &x);
        let q = s.linear(&format!("q{i}"), &normal, [CHANNELS, CHANNELS]);
        let [k, v] = ["k", "v"].map(|part| s.linear(&format!("{part}{i}"), &normal, [CHANNELS, SHARED * HEAD]));
        let q = s.heads(&q, HEADS);
        let [k, v] = [k, v].map(|part| s.heads(&part, SHARED));
        let [q, k] = [(q, HEADS), (k, SHARED)].map(|(x, n)| s.rotated(&x, n));
        let [k, v] = [k, v].map(|x| s.repeated(&x));
        let seen = s.attention(&format!("attention{i}"), [&q, &k, &v], mask);
        let out = s.linear(&format!("out{i}"), &seen, [CHANNELS, CHANNELS]);
        x = s.add(&format!("residual{i}"), &format!("add({out}, {x})"));
        let normal = s.rms_norm(&format!("middle{i}"), &x);
        let [gate, up] = ["gate", "up"].map(|part| s.linear(&format!("{part}{i}"), &normal, [CHANNELS, HIDDEN]));
        s.add(&format!("open{i}"), &format!("silu({gate})"));
        s.add(&format!("gated{i}"), &format!("mul(open{i}, {up})"));
        let down = s.linear(&format!("down{i}"), &format!("gated{i}"), [HIDDEN, CHANNELS]);
        x = s.add(&format!("sum{i}"), &format!("add({down}, {x})"));
    }
    let normal = s.rms_norm("norm", &x);
    let logits = s.linear("logits", &normal, [CHANNELS, WORDS]);
    s.returns(&logits)
}

impl Source {
    /// Rotary positions, by halves: `x * cos + (-high, low) * sin`.
    fn rotated(&mut self, x: &str, heads: usize) -> String {
        let half = |s: &mut Source, name: &str, start: usize| {
            let slice = format!("slice[start = [0, 0, 0, {start}], shape = [1, {heads}, S, {}], step = [1, 1, 1, 1]]({x})", HEAD / 2);
            s.add(&format!("{x}.{name}"), &slice)
        };
        let (low, high) = (half(self, "low", 0), half(self, "high", HEAD / 2));
        let minus = self.add(&format!("{x}.minus"), &format!("neg({high})"));
        let turned = self.add(&format!("{x}.turned"), &format!("concat[axis = 3]({minus}, {low})"));
        let along = self.add(&format!("{x}.cos"), &format!("mul({x}, cos)"));
        let across = self.add(&format!("{x}.sin"), &format!("mul({turned}, sin)"));
        self.add(&format!("{x}.rotated"), &format!("add({along}, {across})"))
    }

    /// Each head of keys or values as often as heads of queries share it.
    fn repeated(&mut self, x: &str) -> String {
        let each = HEADS / SHARED;
        let apart = self.add(&format!("{x}.one"), &format!("reshape[shape = [1, {SHARED}, 1, S, {HEAD}]]({x})"));
        let many = self.add(&format!("{x}.many"), &format!("broadcast[shape = [1, {SHARED}, {each}, S, {HEAD}]]({apart})"));
        self.add(&format!("{x}.all"), &format!("reshape[shape = [1, {HEADS}, S, {HEAD}]]({many})"))
    }
}
