//! After the first runs the memory of a session is there: a run causes no page fault, on any number of threads.
//!
//! The system counts the faults of a process in `/proc/self/stat`; where there is no such file, nothing is tested. A test of its own
//! file runs in a process of its own, so no other test is counted.

use egret::{Compiler, Tensor, TensorView};

/// Runs whose faults are counted together.
const RUNS: usize = 5;

/// Of so many batches of runs, one without a fault is enough: the system moves and merges pages when it likes.
const BATCHES: usize = 20;

/// The faults of this process so far that needed no disk: the tenth number, counted behind the name in parentheses.
fn faults() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(7)?.parse().ok()
}

#[test]
fn warm_runs_fault_no_pages() {
    // 5 MB of intermediates, outputs and inputs, 8 MB of weights: far more pages than anything beside them could hide.
    let graph = egret::parse_text(
        "faults",
        "graph g(x: f32[256, 512]) {
            const w: f32[512, 2048] = random(1)
            const v: f32[2048, 512] = random(2)
            a = matmul(x, w)
            b = gelu(a)
            c = matmul(b, v)
            d = softmax[axes = [1]](c)
            y = transpose[perm = [1, 0]](d)
            return y
        }",
    )
    .unwrap();
    let artifact = Compiler::new().generate(&Compiler::new().optimise(&graph).unwrap()).unwrap();
    for threads in [1, 2] {
        let mut session = artifact.session(threads).unwrap();
        let inputs = session.random_inputs(0, &[]).unwrap();
        let named: Vec<(&str, TensorView<'_>)> = inputs.iter().map(|tensor: &Tensor| ("x", tensor.view())).collect();
        let mut outputs = session.run(&named).unwrap();
        let mut batch = || {
            let before = faults();
            (0..RUNS).for_each(|_| session.run_into(&named, &mut outputs).unwrap());
            faults().zip(before).map_or(0, |(after, before)| after - before)
        };
        let least = (0..BATCHES).map(|_| batch()).find(|faults| *faults == 0);
        assert_eq!(least, Some(0), "every {RUNS} runs on {threads} threads cause page faults: {} now", batch());
    }
}
