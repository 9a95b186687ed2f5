//! Sessions over kernels written in Rust: pipelines, free dimensions, threads, and every way to call them wrongly.

use super::*;
use crate::artifact::{self, Program, TargetInfo};
use crate::plan::{Buffer, DType, KernelInfo, Place, Requirement, Size, SizeOp, Step, Unit};
use crate::profile::step_times;
use crate::testing::{Random, chain, dynamic_chain, gpu_target, host_target, image, port, step, written};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// The floats a kernel works on: its buffers as slices, and its range of the split axis.
macro_rules! kernel {
    ($name:ident, |$reads:ident, $write:ident, $i:ident| $value:expr, reads = $count:literal) => {
        /// One output element per index; `sizes[0]` is their number.
        unsafe extern "C" fn $name(buffers: *const *mut u8, sizes: *const i64, part: u64, parts: u64) {
            // SAFETY: the plans of these tests list `$count` buffers read and one written, of `sizes[0]` floats each. The
            // elements are reached one by one, so buffers may share their bytes.
            unsafe {
                let n = *sizes as u64;
                let $reads = |buffer: usize, i: u64| *(*buffers.add(buffer)).cast::<f32>().add(i as usize);
                let $write = (*buffers.add($count)).cast::<f32>();
                for $i in part * n / parts..(part + 1) * n / parts {
                    *$write.add($i as usize) = $value;
                }
            }
        }
    };
}

kernel!(next, |read, write, i| read(0, i) * 1.5 + 1.0, reads = 1);
kernel!(add, |read, write, i| read(0, i) + 0.25 * read(1, i), reads = 2);

fn options(threads: usize) -> Options {
    Options { threads, ..Options::default() }
}

fn session_with(plan: Plan, kernels: Vec<KernelFn>, weights: &[u8], threads: usize) -> Result<Session> {
    // SAFETY: the kernels above touch the floats of the buffers that their steps list, as many as `sizes[0]` says.
    unsafe { Session::from_functions(plan, kernels, weights, options(threads)) }
}

fn session(plan: Plan, threads: usize) -> Session {
    session_with(plan, vec![next], &[], threads).unwrap()
}

fn floats(tensor: &Tensor) -> &[f32] {
    tensor.as_slice().unwrap()
}

fn expected(x: &[f32], steps: u32) -> Vec<f32> {
    x.iter().map(|&x| (0..steps).fold(x, |x, _| x * 1.5 + 1.0)).collect()
}

/// Runs and expects these words in the error.
fn refused(session: &mut Session, inputs: &[(&str, TensorView<'_>)], words: &str) {
    let message = session.run(inputs).expect_err(words).to_string();
    assert!(message.contains(words), "expected `{words}` in `{message}`");
}

/// A session may be built on one thread and run on another.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Session>();
};

#[test]
fn a_pipeline_computes_what_its_kernels_do() {
    let x = [1.0f32, -2.0, 0.5, 8.0];
    for (steps, threads) in [(1, 1), (2, 1), (7, 1), (7, 2), (7, 3)] {
        let mut session = session(chain(steps), threads);
        assert_eq!(session.threads(), threads);
        let outputs = session.run(&[("x", TensorView::of(&[4], &x).unwrap())]).unwrap();
        assert_eq!(floats(&outputs[0]), expected(&x, steps));
    }
}

#[test]
fn free_dimensions_are_bound_from_the_inputs() {
    let mut session = session(dynamic_chain(4), 2);
    assert_eq!(session.arena_bytes(), 0);
    for n in [5usize, 0, 1000, 5, 3, 1000] {
        let x = Tensor::random(DType::F32, &[n], n as u64).unwrap();
        let outputs = session.run(&[("x", x.view())]).unwrap();
        assert_eq!(outputs[0].shape(), [n]);
        assert_eq!(floats(&outputs[0]), expected(floats(&x), 4));
    }
    assert_eq!(session.bindings.len(), 4);
    // Three intermediates, of which two are alive at a time.
    assert_eq!(session.arena_bytes(), 2 * 4032 + 64);
}

/// `next` by way of working memory of `4*sizes[0]` bytes, which is written in full before any of it is read.
unsafe extern "C" fn next_privately(buffers: *const *mut u8, sizes: *const i64, part: u64, parts: u64) {
    // SAFETY: the plan of the test below lists one buffer read and one written of `sizes[0]` floats, then a private one of as
    // many for each part.
    unsafe {
        let n = *sizes as u64;
        let (x, y) = ((*buffers).cast::<f32>(), (*buffers.add(1)).cast::<f32>());
        let private = (*buffers.add(2)).cast::<f32>().add((part * n) as usize);
        let mine = || (part * n / parts..(part + 1) * n / parts).map(|i| i as usize);
        mine().for_each(|i| *private.add(i) = *x.add(i) * 1.5);
        mine().for_each(|i| *y.add(i) = *private.add(i) + 1.0);
    }
}

#[test]
fn every_part_has_its_own_working_memory() {
    let mut plan = dynamic_chain(3);
    for step in &mut plan.steps {
        step.writes.push(plan.buffers.len() as u32);
        plan.buffers.push(Buffer { name: "work".into(), bytes: plan.buffers[0].bytes.clone(), place: Place::Private });
    }
    for threads in [1, 2, 3] {
        let mut session = session_with(plan.clone(), vec![next_privately], &[], threads).unwrap();
        for n in [1usize, 1000, 4096] {
            let x = Tensor::random(DType::F32, &[n], n as u64).unwrap();
            let outputs = session.run(&[("x", x.view())]).unwrap();
            assert_eq!(floats(&outputs[0]), expected(floats(&x), 3));
        }
    }
}

#[test]
fn old_bindings_make_room_for_new_ones() {
    let mut session = session(dynamic_chain(2), 1);
    for n in (1..200usize).chain([1, 150]) {
        let x = Tensor::random(DType::F32, &[n], 0).unwrap();
        let outputs = session.run(&[("x", x.view())]).unwrap();
        assert_eq!(floats(&outputs[0]), expected(floats(&x), 2));
    }
    assert_eq!(session.bindings.len(), MAX_BINDINGS);
    assert!(session.bindings.iter().any(|binding| binding.symbols == [150]));
    assert!(session.bindings.iter().all(|binding| binding.symbols != [2]));
}

/// `v = x + w/4; u = v + x/4; y = u + w/4` over 64 floats, with a weight `w`; `u` may take the bytes of `v`.
fn residual(in_place: bool) -> Plan {
    let mut plan = chain(1);
    let n = Size::Const(64);
    let bytes = || Size::Const(256);
    let buffer = |name: &str, place| Buffer { name: name.into(), bytes: bytes(), place };
    plan.inputs = vec![port("x", &[(n.clone(), "64")], 0)];
    plan.outputs = vec![port("y", &[(n.clone(), "64")], 4)];
    plan.buffers = vec![
        buffer("x", Place::Input(0)),
        buffer("w", Place::Weights { offset: 64 }),
        buffer("v", Place::Arena),
        buffer("u", Place::Arena),
        buffer("y", Place::Output(0)),
    ];
    let call = |reads: &[u32], write: u32| Step { sizes: vec![n.clone()], ..step(reads, &[write]) };
    plan.steps = vec![call(&[0, 1], 2), call(&[2, 0], 3), call(&[3, 1], 4)];
    if in_place {
        plan.steps[1].in_place = Some((2, 3));
    }
    plan
}

#[test]
fn weights_are_read_and_steps_in_place_save_memory_without_changing_a_bit() {
    let weights: Vec<u8> = (0..64 + 256u32).map(|i| if i < 64 { 0 } else { [0, 0, 0x80, 0x3f][i as usize % 4] }).collect();
    let x = Tensor::random(DType::F32, &[64], 9).unwrap();
    let sum = |a: f32, b: f32| a + 0.25 * b;
    let result: Vec<f32> = floats(&x).iter().map(|&x| sum(sum(sum(x, 1.0), x), 1.0)).collect();
    let mut arenas = Vec::new();
    for in_place in [false, true] {
        let mut session = session_with(residual(in_place), vec![add], &weights, 2).unwrap();
        assert_eq!(floats(&session.run(&[("x", x.view())]).unwrap()[0]), result);
        arenas.push(session.arena_bytes());
    }
    assert_eq!(arenas, [2 * 256 + 64, 256 + 64]);
}

#[test]
fn outputs_may_be_inputs_weights_or_given_twice() {
    let mut plan = chain(2);
    plan.buffers.push(Buffer { name: "c".into(), bytes: Size::Const(16), place: Place::Weights { offset: 0 } });
    let again = |name: &str, buffer| port(name, &[(Size::Const(4), "4")], buffer);
    plan.outputs.extend([again("same", 2), again("x", 0), again("inner", 1), again("c", 3)]);
    let weights: Vec<u8> = [4.0f32; 4].iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut session = session_with(plan, vec![next], &weights, 1).unwrap();
    let x = [1.0f32, 2.0, 3.0, 4.0];
    let outputs = session.run(&[("x", TensorView::of(&[4], &x).unwrap())]).unwrap();
    let results: Vec<&[f32]> = outputs.iter().map(floats).collect();
    assert_eq!(results[0], expected(&x, 2));
    assert_eq!(results[1], results[0]);
    assert_eq!(results[2], x);
    assert_eq!(results[3], expected(&x, 1));
    assert_eq!(results[4], [4.0; 4]);
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let mut random = Random::new(5);
    let plan = dynamic_chain(9);
    let mut sessions: Vec<Session> = [1, 2, 3, 4, 8].map(|threads| session(plan.clone(), threads)).into();
    for run in 0..1000 {
        let n = random.below(70) as usize;
        let x = Tensor::random(DType::F32, &[n], run).unwrap();
        let threads = random.below(sessions.len() as u64) as usize;
        let result = sessions[threads].run(&[("x", x.view())]).unwrap();
        assert_eq!(result, sessions[0].run(&[("x", x.view())]).unwrap());
    }
}

#[test]
fn slices_of_any_alignment_give_the_same_result_as_tensors() {
    let mut session = session(chain(3), 1);
    let tensor = Tensor::random(DType::F32, &[4], 3).unwrap();
    let expected = session.run(&[("x", tensor.view())]).unwrap();
    let mut bytes = [0; 64];
    for start in 0..17 {
        bytes[start..start + 16].copy_from_slice(tensor.bytes());
        let view = TensorView::new(DType::F32, &[4], &bytes[start..start + 16]).unwrap();
        assert_eq!(session.run(&[("x", view)]).unwrap(), expected);
    }
}

/// Adds `x` and `y` of type f32[batch, 2*N] and f32[batch, N] in name only; the kernel never runs in these tests.
fn two_inputs() -> Plan {
    let mut plan = chain(1);
    plan.symbols = vec!["batch".into(), "N".into()];
    let (batch, n) = ((Size::symbol(0), "batch"), (Size::symbol(1), "N"));
    let double = (Size::Expr(vec![SizeOp::Const(2), SizeOp::Symbol(1), SizeOp::Mul]), "2*N");
    let bytes = |factor| Size::Expr(vec![SizeOp::Symbol(0), SizeOp::Symbol(1), SizeOp::Mul, SizeOp::Const(factor), SizeOp::Mul]);
    let buffer = |name: &str, factor, place| Buffer { name: name.into(), bytes: bytes(factor), place };
    plan.inputs = vec![port("x", &[batch.clone(), double], 0), port("y", &[batch.clone(), n.clone()], 1)];
    plan.outputs = vec![port("z", &[batch, n], 2)];
    plan.buffers = vec![buffer("x", 8, Place::Input(0)), buffer("y", 4, Place::Input(1)), buffer("z", 4, Place::Output(0))];
    plan.steps = vec![step(&[0, 1], &[2])];
    plan
}

#[test]
fn inputs_that_do_not_fit_are_refused_in_a_sentence() {
    let mut session = session(two_inputs(), 1);
    let tensor = |shape: &[usize]| Tensor::zeros(DType::F32, shape).unwrap();
    let (x, y) = (tensor(&[2, 6]), tensor(&[2, 3]));
    session.run(&[("y", y.view()), ("x", x.view())]).unwrap();

    refused(&mut session, &[], "inputs are missing: `x`: f32[batch, 2*N], `y`: f32[batch, N]; given was nothing");
    refused(&mut session, &[("x", x.view())], "inputs are missing: `y`: f32[batch, N]; given was `x`");
    refused(&mut session, &[("x", x.view()), ("y", y.view()), ("y", y.view())], "input `y` is given twice");
    let extra = [("x", x.view()), ("y", y.view()), ("q", y.view())];
    refused(&mut session, &extra, "the model has no input `q`; its inputs are `x`: f32[batch, 2*N], `y`");
    let flat = tensor(&[12]);
    let message = "input `x` is f32[batch, 2*N], which has 2 dimensions; found [12], which has 1";
    refused(&mut session, &[("x", flat.view()), ("y", y.view())], message);
    let ints = Tensor::zeros(DType::I32, &[2, 6]).unwrap();
    refused(&mut session, &[("x", ints.view()), ("y", y.view())], "input `x` is f32[batch, 2*N]; found elements of type i32");
    let other = tensor(&[4, 3]);
    let message = "dimension `batch` is 2 in input `x` (axis 0) but 4 in input `y` (axis 0); they must agree";
    refused(&mut session, &[("x", x.view()), ("y", other.view())], message);
    let wide = tensor(&[2, 7]);
    let message = "input `x` is f32[batch, 2*N]; found [2, 7], where axis 1 is 7 and not 2*N = 6";
    refused(&mut session, &[("x", wide.view()), ("y", y.view())], message);

    let mut wrong = vec![tensor(&[2, 4])];
    let error = session.run_into(&[("x", x.view()), ("y", y.view())], &mut wrong).unwrap_err();
    assert_eq!(error.to_string(), "output `z` will be f32[2, 3], but the tensor for it is f32[2, 4]");
    let error = session.run_into(&[("x", x.view()), ("y", y.view())], &mut []).unwrap_err();
    assert_eq!(error.to_string(), "the model has 1 outputs, but 0 tensors were given");
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn a_fixed_dimension_is_named_by_its_number() {
    let x = Tensor::zeros(DType::F32, &[5]).unwrap();
    refused(&mut session(chain(1), 1), &[("x", x.view())], "input `x` is f32[4]; found [5], where axis 0 is 5 and not 4");
}

#[test]
fn extents_without_meaning_are_refused() {
    let mut plan = dynamic_chain(1);
    // y: f32[N - 3].
    let less = |factor| vec![SizeOp::Symbol(0), SizeOp::Const(3), SizeOp::Sub, SizeOp::Const(factor), SizeOp::Mul];
    plan.outputs[0].dims = vec![Size::Expr(less(1))];
    plan.outputs[0].dim_text = vec!["N - 3".into()];
    plan.buffers[1].bytes = Size::Expr(less(4));
    plan.steps[0].sizes = vec![Size::Expr(less(1))];
    let mut session = session(plan, 1);
    let run = |session: &mut Session, n: usize| {
        let x = Tensor::zeros(DType::F32, &[n]).unwrap();
        session.run(&[("x", x.view())]).map(|outputs| outputs[0].shape().to_vec()).map_err(|e| e.to_string())
    };
    assert_eq!(run(&mut session, 5), Ok(vec![2]));
    let message = "the model cannot run with N = 2: dimension `N - 3` of output `y` would be -1";
    assert_eq!(run(&mut session, 2), Err(message.to_string()));
    assert_eq!(run(&mut session, 7), Ok(vec![4]));
}

#[test]
fn what_the_kernels_rely_on_is_checked() {
    let mut plan = dynamic_chain(1);
    let text = "`slice` that makes `p` needs N <= 4".to_string();
    plan.requirements.push(Requirement { left: Size::symbol(0), right: Size::Const(4), equal: false, text });
    let text = "`add` that makes `q` needs mod(N, 2) = 0".to_string();
    let odd = Size::Expr(vec![SizeOp::Symbol(0), SizeOp::Const(2), SizeOp::Mod]);
    plan.requirements.push(Requirement { left: odd, right: Size::Const(0), equal: true, text });
    let mut session = session(plan, 1);
    for (n, message) in [(5, "N = 5: `slice` that makes `p` needs N <= 4"), (3, "N = 3: `add` that makes `q` needs mod(N, 2) = 0")] {
        let x = Tensor::zeros(DType::F32, &[n]).unwrap();
        refused(&mut session, &[("x", x.view())], &format!("the model cannot run with {message}"));
    }
    let x = Tensor::zeros(DType::F32, &[4]).unwrap();
    assert_eq!(session.run(&[("x", x.view())]).unwrap()[0].shape(), [4]);
}

#[test]
fn plans_that_contradict_themselves_are_refused() {
    let problem = |plan: Plan, kernels: Vec<KernelFn>| session_with(plan, kernels, &[], 1).err().expect("an error").to_string();
    assert!(problem(chain(1), vec![]).contains("0 functions were given for 1 kernels"));
    let mut plan = chain(2);
    plan.buffers[2].bytes = Size::Const(12);
    assert!(problem(plan, vec![next]).contains("`y` has 16 bytes, its buffer 12"));
    let mut plan = chain(2);
    plan.buffers.push(Buffer { name: "more".into(), bytes: Size::Const(32), place: Place::Input(0) });
    assert!(problem(plan, vec![next]).contains("buffer `more` reaches beyond `x`"));
    let mut plan = chain(2);
    plan.buffers[1].bytes = Size::Const(1 << 50);
    assert!(problem(plan, vec![next]).contains("would have"));
    let mut plan = chain(2);
    plan.steps[0].parts = Size::Expr(vec![SizeOp::Const(1), SizeOp::Const(0), SizeOp::Mod]);
    assert!(problem(plan, vec![next]).contains("divides by zero"));
}

#[test]
fn profiles_say_when_each_part_ran() {
    for threads in [1, 3] {
        let mut session = session(chain(5), threads);
        let x = Tensor::zeros(DType::F32, &[4]).unwrap();
        let mut outputs = session.allocate_outputs(&[("x", x.view())]).unwrap();
        let spans = session.run_profiled(&[("x", x.view())], &mut outputs).unwrap().spans;
        assert_eq!(floats(&outputs[0]), expected(&[0.0; 4], 5));
        let ids: Vec<(usize, u32)> = spans.iter().map(|span| (span.step, span.part)).collect();
        assert!(ids.is_sorted() && ids.iter().map(|id| id.0).collect::<BTreeSet<_>>().len() == 5, "{ids:?}");
        // No part begins before every part of the step before it has ended.
        let ends = |step: usize| spans.iter().filter(move |span| span.step + 1 == step).map(|span| span.end);
        assert!(spans.iter().all(|span| span.begin <= span.end && ends(span.step).all(|end| end <= span.begin)), "{spans:?}");
        assert_eq!(step_times(&spans, 5).len(), 5);
    }
}

#[test]
fn random_inputs_follow_the_declared_types() {
    let session = session(two_inputs(), 1);
    let inputs = session.random_inputs(3, &[("N", 4), ("batch", 2)]).unwrap();
    assert_eq!(inputs[0], Tensor::random(DType::F32, &[2, 8], 3).unwrap());
    assert_eq!(inputs[1], Tensor::random(DType::F32, &[2, 4], 4).unwrap());
    let problem = |dims: &[(&str, i64)]| session.random_inputs(0, dims).unwrap_err().to_string();
    assert_eq!(problem(&[("N", 4)]), "the free dimensions `batch` have no value; give one with --dim batch=N");
    assert_eq!(problem(&[("M", 4)]), "the model has no free dimension `M`; it has `batch`, `N`");
    assert_eq!(problem(&[("N", -4), ("batch", 1)]), "dimension `2*N` of input `x` would be -8");
}

/// Machine code that copies four floats: `mov rax,[rdi]; mov rcx,[rdi+8]; movups xmm0,[rax]; movups [rcx],xmm0; ret`.
#[cfg(target_arch = "x86_64")]
const COPY: &[u8] = &[0x48, 0x8b, 0x07, 0x48, 0x8b, 0x4f, 0x08, 0x0f, 0x10, 0x00, 0x0f, 0x11, 0x01, 0xc3];

/// Machine code that copies four floats: `ldp x1,x2,[x0]; ldr q0,[x1]; str q0,[x2]; ret`.
#[cfg(target_arch = "aarch64")]
const COPY: &[u8] = &[0x01, 0x08, 0x40, 0xa9, 0x20, 0x00, 0xc0, 0x3d, 0x40, 0x00, 0x80, 0x3d, 0xc0, 0x03, 0x5f, 0xd6];

fn copying_artifact(target: &TargetInfo) -> Vec<u8> {
    let mut plan = chain(3);
    plan.kernels.push(KernelInfo { name: "k1".into(), offset: 0, text: "copy".into(), hash: [1; 32], unit: Unit::F32 });
    plan.steps.iter_mut().for_each(|step| step.parts = Size::Const(1));
    written(&plan, COPY, target, [Cow::from(vec![7u8; 1000])]).unwrap()
}

#[test]
fn artifacts_run_from_memory_and_from_files() {
    let bytes = copying_artifact(&host_target());
    let dir = crate::testing::TempDir::new("session");
    let path = dir.path().join("copy.egret");
    std::fs::write(&path, &bytes).unwrap();
    let x = Tensor::random(DType::F32, &[4], 8).unwrap();
    for mut session in [Session::load(&path, options(1)).unwrap(), Session::from_bytes(&bytes, options(2)).unwrap()] {
        assert_eq!(session.run(&[("x", x.view())]).unwrap(), std::slice::from_ref(&x));
        session.artifact().unwrap().verify().unwrap();
    }
}

#[test]
fn code_for_another_processor_is_refused_but_can_be_inspected() {
    let other = TargetInfo { arch: "riscv64".into(), ..host_target() };
    let bytes = copying_artifact(&other);
    assert_eq!(Artifact::from_bytes(&bytes, WeightsCheck::Full).unwrap().targets().next(), Some(&other));
    let error = Session::from_bytes(&bytes, options(1)).err().expect("an error");
    assert!(error.to_string().starts_with("<memory>: the code is for riscv64"), "{error}");
    assert_eq!(error.exit_code(), 4);
}

#[test]
fn of_several_programs_the_one_for_this_processor_runs() {
    let (other, host, gpu) = (TargetInfo { arch: "riscv64".into(), ..host_target() }, host_target(), gpu_target());
    let mut plan = chain(1);
    plan.steps[0].parts = Size::Const(1);
    let ptx = image(&plan).to_bytes().unwrap();
    let program = |target, code| Program { target, plan: &plan, code };
    let programs = [program(&other, &b"riscv"[..]), program(&gpu, &ptx), program(&host, COPY)];
    let x = Tensor::random(DType::F32, &[4], 8).unwrap();
    let session = |programs| Session::from_bytes(&artifact::to_bytes(programs, []).unwrap(), options(1));
    assert_eq!(session(&programs).unwrap().run(&[("x", x.view())]).unwrap(), std::slice::from_ref(&x));
    let refused = |programs, words: &str| {
        let error = session(programs).err().expect("an error").to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(&programs[..2], "the code is for riscv64");
    refused(&programs[1..2], "the file holds code for cuda:sm_80 only; run it on such a GPU with `--device cuda:0`");
}

#[test]
fn damaged_artifacts_end_in_errors_or_the_same_result() {
    let good = copying_artifact(&host_target());
    let x = Tensor::random(DType::F32, &[4], 8).unwrap();
    let mut random = Random::new(77);
    let mut unharmed = 0;
    for round in 0..500 {
        let mut bytes = good.clone();
        match round % 5 {
            0 => bytes.truncate(random.below(good.len() as u64) as usize),
            1 => {
                // Two pages change places.
                let pages = (good.len() / 4096) as u64;
                let (a, b) = (random.below(pages) as usize * 4096, random.below(pages) as usize * 4096);
                (0..4096).for_each(|i| bytes.swap(a + i, b + i));
            }
            _ => {
                let at = random.below(good.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
        }
        match Session::from_bytes(&bytes, options(1)) {
            Err(error) => assert_eq!(error.exit_code(), 4, "{error}"),
            Ok(mut session) => {
                unharmed += 1;
                assert_eq!(session.run(&[("x", x.view())]).unwrap(), std::slice::from_ref(&x));
            }
        }
    }
    assert!((1..400).contains(&unharmed), "padding was hit {unharmed} times");
}

/// A manifest whose hash is right and whose plan is not: loading must find out.
#[test]
fn plans_damaged_before_they_were_written_never_crash_the_loader() {
    let good = postcard::to_stdvec(&dynamic_chain(4)).unwrap();
    let mut random = Random::new(4);
    let mut read = 0;
    for _ in 0..3000 {
        let mut bytes = good.clone();
        for _ in 0..1 + random.below(3) {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = random.below(256) as u8;
        }
        let Ok(plan) = postcard::from_bytes::<Plan>(&bytes) else {
            continue;
        };
        if plan.check(100, 1000).is_ok() {
            read += 1;
            // Never run: what the damaged sizes make of the kernels is not the loader's affair.
            let symbols = vec![5; plan.symbols.len()];
            let _ = Binding::new(&plan, &symbols, 2, ALIGN as u64);
            let _ = Binding::new(&plan, &vec![i64::MAX; symbols.len()], 2, ALIGN as u64);
        }
    }
    assert!(read > 300, "only {read} plans passed the check");
}
