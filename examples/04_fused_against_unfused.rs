//! Compiles one model twice, fused and with a kernel per op, and measures both in turns.
//!
//! ```text
//! $ cargo run --release --example 04_fused_against_unfused -- examples/models/digits_cnn.onnx
//! unfused      29.2µs  31 kernels
//! fused        26.6µs  13 kernels
//! speed-up      1.10x
//! ```
//!
//! `egret compare` does the same with more care: warm-up, percentiles, a confidence interval.

use egret::{Compiler, Session, Tensor};
use std::time::{Duration, Instant};

const RUNS: usize = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).unwrap_or("examples/models/digits_cnn.onnx".into());
    let compiler = Compiler::new().dim("batch", 1);
    let mut fused = compiler.clone().compile(&model)?.session(1)?;
    let mut unfused = compiler.fuse(false).compile(&model)?.session(1)?;
    let inputs = fused.random_inputs(0, &[])?;

    // In turns, so that whatever happens on the machine happens to both.
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        with.push(time(&mut fused, &inputs)?);
        without.push(time(&mut unfused, &inputs)?);
    }

    let (with, without) = (median(with), median(without));
    println!("unfused  {without:>10.1?}  {} kernels", unfused.plan().steps.len());
    println!("fused    {with:>10.1?}  {} kernels", fused.plan().steps.len());
    println!("speed-up {:>9.2}x", without.as_secs_f64() / with.as_secs_f64());
    Ok(())
}

fn time(session: &mut Session, inputs: &[Tensor]) -> Result<Duration, egret::Error> {
    let names: Vec<String> = session.plan().inputs.iter().map(|port| port.name.clone()).collect();
    let inputs: Vec<_> = names.iter().map(String::as_str).zip(inputs.iter().map(Tensor::view)).collect();
    let begin = Instant::now();
    session.run(&inputs)?;
    Ok(begin.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
