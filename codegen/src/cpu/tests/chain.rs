//! Attention over odd extents: strips, panels and blocks that end anywhere.

use super::*;

const F32: DType = DType::F32;

/// `[b, m, d]` queries, `[b, n, d]` keys (or `[b, d, n]`), `[b, n, e]` values, and what is added to the scores: `[m, n]`.
struct Shape {
    m: Dim,
    n: Dim,
    d: i64,
    e: i64,
    causal: bool,
    /// Whether the keys lie with their positions innermost.
    across: bool,
    tile: (usize, usize),
}

fn attention(s: &Shape) -> Kernel {
    let (b, m, n, d, e) = (sym("b"), sym("m"), sym("n"), sym("d"), sym("e"));
    let k = match s.across {
        true => (b.clone() * s.d + d.clone()) * s.n.clone() + n.clone(),
        false => (b.clone() * s.n.clone() + n.clone()) * s.d + d.clone(),
    };
    let bias = load(3, F32, m.clone() * s.n.clone() + n.clone());
    let score = bin(BinOp::Add, bin(BinOp::Mul, var("acc", F32), lit(0.5)), bias);
    let row = b.clone() * s.m.clone() + m.clone();
    Kernel::new(
        vec![input("q", F32), input("k", F32), input("v", F32), input("bias", F32), output("out", F32)],
        Body::Chain(Chain {
            batch: vec![axis("b", 2)],
            rows: vec![axis("m", s.m.clone())],
            keys: axis("n", s.n.clone()),
            depth: axis("d", s.d),
            cols: axis("e", s.e),
            q: (BufferId(0), row.clone() * s.d + d),
            k: (BufferId(1), k),
            v: (BufferId(2), (b * s.n.clone() + n) * s.e + e.clone()),
            lets: vec![],
            score,
            seen: if s.causal { (m + 1).minimum(&s.n) } else { s.n.clone() },
            tile: Tile { rows: s.tile.0, vectors: s.tile.1 },
            epilogue: store(4, row * s.e + e, bin(BinOp::Sub, var("acc", F32), lit(0.25))),
        }),
    )
}

/// Random operands; what is added to the scores hides all of row 1, and every third key of the others.
fn data(m: usize, n: usize, d: usize, e: usize) -> Vec<Memory> {
    let mut numbers = Numbers::new((m * 31 + n * 7 + d) as u64);
    let mut bias = numbers.memory(F32, m * n);
    for (i, element) in bias.elements.iter_mut().enumerate() {
        if i / n == 1 || i % n % 3 == 2 {
            *element = Element::Float(f64::NEG_INFINITY);
        }
    }
    vec![
        numbers.memory(F32, 2 * m * d),
        numbers.memory(F32, 2 * n * d),
        numbers.memory(F32, 2 * n * e),
        bias,
        Memory::zeros(F32, 2 * m * e),
    ]
}

const TOLERANCE: Within = Within::Relative(5e-6);

#[test]
fn fixed_sizes() {
    let mut seed = 0;
    for m in [1usize, 2, 3, 4, 5, 8, 13, 31] {
        for (d, e) in [(16, 16), (20, 40), (64, 24), (7, 33), (80, 3)] {
            seed += 1;
            let n = [1, 15, 16, 17, 33, 47, 64, 100][seed % 8];
            let tile = [(8, 2), (6, 2), (1, 4), (3, 3)][seed % 4];
            let (causal, across) = (seed % 2 == 0, seed % 3 == 0);
            let kernel = attention(&Shape { m: m.into(), n: n.into(), d: d as i64, e: e as i64, causal, across, tile });
            check(&kernel, &[], &data(m, n, d, e), TOLERANCE);
        }
    }
}

#[test]
fn long_sequences_go_in_blocks() {
    for (m, n, causal, across) in [(1, 513, false, false), (9, 1030, false, true), (530, 540, true, false)] {
        let (d, e) = (2, 3);
        let kernel = attention(&Shape { m: m.into(), n: n.into(), d: d as i64, e: e as i64, causal, across, tile: (8, 2) });
        // Tiles of a GPU are smaller, and many of them take long in the emulator.
        match m < 500 {
            true => check(&kernel, &[], &data(m, n, d, e), TOLERANCE),
            false => targets().iter().for_each(|target| check_on(target, &kernel, &[], &data(m, n, d, e), TOLERANCE)),
        }
    }
}

#[test]
fn symbolic_sizes() {
    for (causal, across, tile) in [(false, false, (8, 2)), (true, false, (6, 2)), (true, true, (8, 2))] {
        let (d, e) = (12, 18);
        let kernel = attention(&Shape { m: sym("M"), n: sym("N"), d, e, causal, across, tile });
        let few = [(1, 1), (0, 4), (3, 0), (1, 47), (2, 16), (4, 33), (3, 1100), (4, 513)];
        let many = [(7, 32), (13, 33), (129, 16), (5, 512), (6, 530), (131, 37)];
        for target in targets() {
            let loaded = Loaded::new(std::slice::from_ref(&kernel), &target);
            for (m, n) in [&few[..], &many].concat() {
                let sizes = Bindings::from([(name("M"), m as i64), (name("N"), n as i64)]);
                check_loaded(loaded.entry(0), &target, &kernel, &sizes, &data(m, n, d as usize, e as usize), TOLERANCE);
            }
        }
    }
}

/// Few rows over keys of every number of channels, and of every number in the last vector of keys.
#[test]
fn few_rows() {
    for across in [false, true] {
        for (m, d, e, n) in (1..=17).flat_map(|i| (1..=4).map(move |m| (m, i, 3 * i, 2 * i as usize + 15))) {
            let causal = d % 3 == 0;
            let kernel = attention(&Shape { m: m.into(), n: n.into(), d, e, causal, across, tile: (m, 2) });
            let data = data(m, n, d as usize, e as usize);
            // Numbers of channels mean less to a GPU.
            match d % 8 == m as i64 {
                true => check(&kernel, &[], &data, TOLERANCE),
                false => targets().iter().for_each(|target| check_on(target, &kernel, &[], &data, TOLERANCE)),
            }
        }
    }
}

/// Queries whose channels are no neighbours.
#[test]
fn turned_queries() {
    let (m, n, d, e) = (3usize, 21usize, 20i64, 16i64);
    let mut kernel = attention(&Shape { m: m.into(), n: n.into(), d, e, causal: false, across: false, tile: (3, 2) });
    let Body::Chain(chain) = &mut kernel.body else { unreachable!("an attention is a chain") };
    chain.q.1 = (sym("b") * d + sym("d")) * m as i64 + sym("m");
    check(&kernel, &[], &data(m, n, d as usize, e as usize), TOLERANCE);
}

#[test]
fn scores_that_are_no_numbers_or_infinite_give_what_the_definition_gives() {
    let (m, n, d, e) = (5, 37, 16, 16);
    let mut buffers = data(m, n, d, e);
    for (row, value) in [(2, f64::NAN), (3, f64::INFINITY), (4, -1e30)] {
        for key in 0..n {
            if row == 4 || key == 20 {
                buffers[3].elements[row * n + key] = Element::Float(value).rounded(F32);
            }
        }
    }
    let kernel = attention(&Shape { m: m.into(), n: n.into(), d: d as i64, e: e as i64, causal: false, across: false, tile: (8, 2) });
    check(&kernel, &[], &buffers, TOLERANCE);
}
