//! What operators that draw random numbers draw: the numbers of SplitMix64, and in bulk what the distributions have.
//!
//! A bound is about five times the standard deviation that the measure has for so many independent draws, so that right code fails once in a
//! million changes of the generator and not by chance: the numbers are the same in every run.

mod common;

use egret_frontend::{Import, ImportOptions, import_bytes};
use egret_ir::{DType, Element, Tensor};

/// Elements that are drawn for a statistic.
const DRAWS: usize = 1 << 16;

fn imported(text: &str) -> Import {
    import_bytes(common::bytes(text), &ImportOptions::default()).unwrap()
}

/// The first result of a model.
fn drawn(text: &str, inputs: &[Tensor]) -> Vec<f64> {
    egret_ir::eval::eval(&imported(text).graph, inputs).unwrap()[0].elements().map(Element::as_f64).collect()
}

fn model(node: &str) -> String {
    format!("<ir_version: 10, opset_import: [\"\" : 22]>\nmain () => (float y) {{ y = {node} () }}")
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The mean of products of standardised values.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let (ma, mb) = (mean(a), mean(b));
    let of = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(&a, &b)| f(a - ma, b - mb)).sum::<f64>();
    of(&|a, b| a * b) / (of(&|a, _| a * a) * of(&|_, b| b * b)).sqrt()
}

/// The generator as its authors wrote it, one state after the other.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn numbers_are_those_of_splitmix() {
    // The test vector of the reference implementation.
    let mut state = 1234567;
    assert_eq!([splitmix(&mut state), splitmix(&mut state)], [6457827717110365317, 3203168211198807973]);
    let found = drawn(&model("RandomUniform <shape = [2, 50], seed = 0.5>"), &[]);
    let mut key = 0.5f64.to_bits();
    let mut state = splitmix(&mut key);
    let right: Vec<f64> = (0..100).map(|_| (splitmix(&mut state) >> 40) as f64 / f64::from(1 << 24)).collect();
    assert_eq!(found, right);
}

#[test]
fn uniform_numbers_fill_their_range_evenly() {
    for dtype in ["1", "11"] {
        let x = drawn(&model(&format!("RandomUniform <shape = [{DRAWS}], low = -2.0, high = 6.0, dtype = {dtype}>")), &[]);
        let n = DRAWS as f64;
        assert!(x.iter().all(|x| (-2.0..6.0).contains(x)));
        assert!((mean(&x) - 2.0).abs() < 5.0 * (64.0 / 12.0 / n).sqrt(), "mean {}", mean(&x));
        let mut counts = [0.0; 64];
        x.iter().for_each(|x| counts[((x + 2.0) * 8.0) as usize] += 1.0);
        // Chi squared of 63 degrees of freedom has a variance of 126.
        let chi: f64 = counts.iter().map(|c| (c - n / 64.0).powi(2) / (n / 64.0)).sum();
        assert!((chi - 63.0).abs() < 5.0 * 126f64.sqrt(), "chi squared {chi}");
        for lag in [1, 2, 64] {
            let r = correlation(&x[lag..], &x[..DRAWS - lag]);
            assert!(r.abs() < 5.0 / n.sqrt(), "correlation {r} of neighbours at {lag}");
        }
    }
}

#[test]
fn normal_numbers_have_the_moments_of_their_distribution() {
    for (dtype, slack) in [("1", 0.0), ("11", 0.0), ("10", 1e-3)] {
        let x = drawn(&model(&format!("RandomNormal <shape = [{DRAWS}], mean = 1.0, scale = 2.0, dtype = {dtype}>")), &[]);
        let n = DRAWS as f64;
        let z: Vec<f64> = x.iter().map(|x| (x - 1.0) / 2.0).collect();
        let moment = |k: i32| mean(&z.iter().map(|z| z.powi(k)).collect::<Vec<f64>>());
        // The variance of z^k is that of a standard normal: (2k-1)!! - ((k-1)!!)^2.
        for (k, expected, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            let bound = 5.0 * f64::sqrt(variance / n) + slack;
            assert!((moment(k) - expected).abs() < bound, "moment {k} of type {dtype} is {}", moment(k));
        }
        let r = correlation(&z[1..], &z[..DRAWS - 1]);
        assert!(r.abs() < 5.0 / n.sqrt(), "correlation {r} of neighbours");
    }
}

#[test]
fn draws_of_several_nodes_are_apart_and_those_of_one_seed_are_equal() {
    let text = "<ir_version: 10, opset_import: [\"\" : 22]>
        main (float[4096] x) => (float a, float b, float c, float d, float e) {
            a = RandomNormalLike (x)
            b = RandomNormalLike (x)
            c = RandomNormalLike <seed = 7.0> (x)
            d = RandomNormalLike <seed = 7.0> (x)
            e = RandomNormalLike <seed = 8.0> (x) }";
    let import = imported(text);
    assert_eq!(import.draws, 5);
    let x = Tensor::splat(DType::F32, vec![4096], Element::Float(0.0));
    let made = egret_ir::eval::eval(&import.graph, &[x]).unwrap();
    let made: Vec<Vec<f64>> = made.iter().map(|t| t.elements().map(Element::as_f64).collect()).collect();
    assert_eq!(made[2], made[3]);
    for (i, j) in [(0, 1), (0, 2), (1, 2), (2, 4), (0, 4)] {
        let r = correlation(&made[i], &made[j]);
        assert!(r.abs() < 5.0 / 64.0, "draws {i} and {j} are correlated by {r}");
    }
}

#[test]
fn every_step_of_a_loop_draws_anew() {
    let looped = |trips: &str, seed: &str| {
        format!(
            "<ir_version: 10, opset_import: [\"\" : 22]>
            main (int64[] n) => (float[T, 8] rows) <int64 three = {{3}}> {{
                rows = Loop <body = b (int64 i, bool c) => (bool d, float[8] r) {{ d = Identity (c)
                    r = RandomUniform <shape = [8]{seed}> () }}> ({trips}, \"\") }}"
        )
    };
    let three = Tensor::from_i64s(vec![], &[3]);
    let runs = ["three", "n"].map(|trips| {
        let seeded = drawn(&looped(trips, ", seed = 3.0"), std::slice::from_ref(&three));
        for rows in [&seeded, &drawn(&looped(trips, ""), std::slice::from_ref(&three))] {
            let distinct: std::collections::BTreeSet<u64> = rows.iter().map(|x| x.to_bits()).collect();
            assert_eq!((rows.len(), distinct.len()), (24, 24), "{trips}");
        }
        seeded
    });
    assert_eq!(runs[0], runs[1], "unrolled or not");
}

#[test]
fn chances_are_met() {
    let p = Tensor::from_f32s(vec![4, 1], &[0.0, 0.25, 0.9, 1.0]);
    let text = format!(
        "<ir_version: 10, opset_import: [\"\" : 22]>
        main (float[4, 1] p) => (bool[4, {DRAWS}] y) <int64[2] shape = {{4, {DRAWS}}}> {{ q = Expand (p, shape)
            y = Bernoulli <dtype = 9> (q) }}"
    );
    let y = drawn(&text, std::slice::from_ref(&p));
    for (row, p) in y.chunks(DRAWS).zip(p.elements().map(Element::as_f64)) {
        assert!((mean(row) - p).abs() <= 5.0 * (p * (1.0 - p) / DRAWS as f64).sqrt(), "{} for {p}", mean(row));
    }
}

#[test]
fn classes_are_drawn_by_their_weights() {
    let weights = [1.0, 0.0, 5.0, 2.0];
    let logs: Vec<f32> = weights.iter().map(|w: &f32| w.ln()).collect();
    let x = Tensor::from_f32s(vec![1, 4], &logs);
    let text = format!(
        "<ir_version: 10, opset_import: [\"\" : 22]>
        main (float[1, 4] x) => (int64[1, {DRAWS}] y) {{ y = Multinomial <sample_size = {DRAWS}, dtype = 7> (x) }}"
    );
    let y = drawn(&text, &[x]);
    for (class, weight) in weights.iter().enumerate() {
        let (share, p) = (y.iter().filter(|y| **y == class as f64).count() as f64 / DRAWS as f64, f64::from(weight / 8.0));
        assert!((share - p).abs() <= 5.0 * (p * (1.0 - p) / DRAWS as f64).sqrt(), "class {class} has the share {share}");
    }
}

#[test]
fn dropout_in_training_drops_a_share_and_scales_the_rest() {
    let text = format!(
        "<ir_version: 10, opset_import: [\"\" : 22]>
        main (float[{DRAWS}] x) => (float y, bool m) <float quarter = {{0.25}}, bool yes = {{1}}> {{ y, m = Dropout <seed = 1> (x, quarter, yes) }}"
    );
    let y = drawn(&text, &[Tensor::splat(DType::F32, vec![DRAWS], Element::Float(3.0))]);
    let kept = y.iter().filter(|y| **y != 0.0).count() as f64 / DRAWS as f64;
    assert!(y.iter().all(|y| [0.0, 4.0].contains(y)));
    assert!((kept - 0.75).abs() < 5.0 * (0.1875 / DRAWS as f64).sqrt(), "{kept} are kept");
}
