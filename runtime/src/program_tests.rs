//! Programs made by hand: twice the places of what holds; numbers doubled until a count ends it, or not at all.

use super::*;
use crate::plan::{Buffer, DType, KernelInfo, Place, Port, Size, SizeOp, Step, Unit};
use crate::{Options, Session};

/// Doubles i64 numbers.
unsafe extern "C" fn double(buffers: *const *mut u8, sizes: *const i64, part: u64, parts: u64) {
    // SAFETY: the plan below gives it two buffers of `sizes[0]` numbers.
    unsafe {
        let (x, y) = ((*buffers).cast::<i64>(), (*buffers.add(1)).cast::<i64>());
        let n = *sizes as u64;
        for i in part * n / parts..(part + 1) * n / parts {
            *y.add(i as usize) = 2 * *x.add(i as usize);
        }
    }
}

fn port(name: &str, dtype: DType, dims: &[(Size, &str)], buffer: u32) -> Port {
    let (dims, dim_text) = dims.iter().map(|(d, t)| (d.clone(), t.to_string())).unzip();
    Port { name: name.into(), dtype, dims, dim_text, buffer }
}

fn bytes(size: i64) -> Size {
    Size::Expr(vec![SizeOp::Symbol(0), SizeOp::Const(size), SizeOp::Mul])
}

/// y = 2*x, i64[1, K].
fn doubling() -> Plan {
    let list = [(Size::Const(1), "1"), (Size::symbol(0), "K")];
    let buffer = |name: &str, place| Buffer { name: name.into(), bytes: bytes(8), place };
    let step = Step {
        name: "y".into(),
        kernel: 0,
        reads: vec![0],
        writes: vec![1],
        sizes: vec![Size::symbol(0)],
        parts: Size::symbol(0),
        in_place: None,
        flops: Size::Const(0),
        origins: vec![],
    };
    Plan {
        symbols: vec!["K".into()],
        inputs: vec![port("i", DType::I64, &list, 0)],
        outputs: vec![port("y", DType::I64, &list, 1)],
        buffers: vec![buffer("i", Place::Input(0)), buffer("y", Place::Output(0))],
        steps: vec![step],
        ..Plan::default()
    }
}

fn plan() -> Plan {
    let call = |what, reads: &[u32], writes: &[u32]| Call { what, reads: reads.into(), writes: writes.into() };
    let body = Body {
        values: ["x", "i", "y"].map(String::from).into(),
        inputs: 1,
        calls: vec![call(What::NonZero, &[0], &[1]), call(What::Stage(0), &[1], &[2])],
        outputs: vec![2, 0],
    };
    let program = Program { bodies: vec![body], stages: vec![doubling()] };
    let found = [(Size::Const(1), "1"), (Size::symbol(1), "K")];
    let given = [(Size::symbol(0), "N")];
    let buffer = |name: &str, place| Buffer { name: name.into(), bytes: bytes(1), place };
    Plan {
        model: "places".into(),
        symbols: vec!["N".into()],
        inputs: vec![port("x", DType::Bool, &given, 0)],
        outputs: vec![port("y", DType::I64, &found, 1), port("same", DType::Bool, &given, 2)],
        buffers: vec![buffer("x", Place::Input(0)), buffer("y", Place::Output(0)), buffer("same", Place::Output(1))],
        kernels: vec![KernelInfo { name: "k0".into(), offset: 0, text: "mul".into(), hash: [0; 32], unit: Unit::F32 }],
        found: vec!["K".into()],
        program: Some(program),
        ..Plan::default()
    }
}

#[test]
fn every_run_finds_its_extents() {
    for threads in [1, 2] {
        // SAFETY: see `double`.
        let mut session = unsafe { Session::from_functions(plan(), vec![double], &[], Options { threads, ..Options::default() }) }.unwrap();
        for (x, expected) in [(&[0u8, 1, 0, 1][..], &[2i64, 6][..]), (&[1], &[0]), (&[0, 0], &[]), (&[], &[])] {
            let x = Tensor::from_bytes(DType::Bool, &[x.len()], x).unwrap();
            let outputs = session.run(&[("x", x.view())]).unwrap();
            assert_eq!(outputs[0].as_slice::<i64>().unwrap(), expected);
            assert_eq!((outputs[0].shape(), &outputs[1]), (&[1, expected.len()][..], &x));
            let mut into = session.allocate_outputs(&[("x", x.view())]).unwrap();
            session.run_into(&[("x", x.view())], &mut into).unwrap();
            assert_eq!(into, outputs);
        }
    }
}

#[test]
fn inputs_are_checked_before_anything_runs() {
    // SAFETY: see `double`.
    let mut session = unsafe { Session::from_functions(plan(), vec![double], &[], Options::default()) }.unwrap();
    let wrong = Tensor::from_slice(&[1], &[1i64]).unwrap();
    let error = session.run(&[("x", wrong.view())]).unwrap_err();
    assert_eq!(error.to_string(), "input `x` is bool[N]; found elements of type i64");
}

#[test]
fn damage_is_named() {
    let check = |damage: fn(&mut Program), expected: &str| {
        let mut plan = plan();
        damage(plan.program.as_mut().unwrap());
        assert_eq!(plan.check(1, 64).unwrap_err(), expected);
    };
    assert_eq!(plan().check(1, 64), Ok(()));
    check(|p| p.bodies[0].calls[1].reads[0] = 2, "call 1 reads value 2 before it is made");
    check(|p| p.bodies[0].calls[1].reads[0] = 9, "call 1 reads value 9 before it is made");
    check(|p| p.bodies[0].calls[1].writes[0] = 0, "call 1 writes value 0, which it may not");
    check(|p| p.bodies[0].calls[0].writes.clear(), "call 0 reads 1 and writes 0 values, expected Some((1, 1))");
    check(|p| p.bodies[0].calls[1].what = What::Stage(4), "call 1 reads 1 and writes 1 values, expected None");
    check(|p| p.bodies[0].outputs[0] = 7, "the program returns value 7, which nothing makes");
    check(|p| p.bodies[0].outputs.clear(), "the program has other inputs or outputs than the plan");
    check(|p| p.stages[0].steps[0].kernel = 1, "step `y` calls kernel 1, but there are 1 kernels");
}

/// Doubles `i` n times while c holds, and keeps what each step made; then once more if there is reason to.
fn repeating() -> Plan {
    let call = |what, reads: &[u32], writes: &[u32]| Call { what, reads: reads.into(), writes: writes.into() };
    let body = |values: &[&str], inputs, calls, outputs: &[u32]| Body {
        values: values.iter().map(|v| v.to_string()).collect(),
        inputs,
        calls,
        outputs: outputs.into(),
    };
    let rows = vec![Row { dtype: DType::I64, dims: vec![Size::Const(1), Size::symbol(0)] }];
    let repeat = What::Repeat(Repeat { body: 1, carried: 1, rows, symbols: vec![(2, 1)] });
    let branch = What::Branch { then: 2, otherwise: 3 };
    let main = vec![call(repeat, &[0, 1, 2], &[3, 4]), call(branch, &[1, 3], &[5])];
    let bodies = vec![
        body(&["n", "c", "i", "y", "all", "z"], 3, main, &[3, 4, 5]),
        body(&["step", "going", "i", "y"], 3, vec![call(What::Stage(0), &[2], &[3])], &[1, 3, 3]),
        body(&["c", "y", "z"], 2, vec![call(What::Stage(0), &[1], &[2])], &[2]),
        body(&["c", "y"], 2, vec![], &[1]),
    ];
    let list = [(Size::Const(1), "1"), (Size::symbol(0), "K")];
    let rows = [(Size::symbol(1), "steps"), (Size::Const(1), "1"), (Size::symbol(0), "K")];
    let buffer = |name: &str, bytes, place| Buffer { name: name.into(), bytes, place };
    Plan {
        model: "repeating".into(),
        symbols: vec!["K".into()],
        inputs: vec![port("n", DType::I64, &[], 0), port("c", DType::Bool, &[], 1), port("i", DType::I64, &list, 2)],
        outputs: vec![port("y", DType::I64, &list, 3), port("all", DType::I64, &rows, 4), port("z", DType::I64, &list, 5)],
        buffers: vec![
            buffer("n", Size::Const(8), Place::Input(0)),
            buffer("c", Size::Const(1), Place::Input(1)),
            buffer("i", bytes(8), Place::Input(2)),
            buffer("y", bytes(8), Place::Output(0)),
            buffer("all", bytes(8), Place::Output(1)),
            buffer("z", bytes(8), Place::Output(2)),
        ],
        kernels: vec![KernelInfo { name: "k0".into(), offset: 0, text: "mul".into(), hash: [0; 32], unit: Unit::F32 }],
        found: vec!["steps".into()],
        program: Some(Program { bodies, stages: vec![doubling()] }),
        ..Plan::default()
    }
}

#[test]
fn loops_carry_and_gather() {
    // SAFETY: see `double`.
    let mut session = unsafe { Session::from_functions(repeating(), vec![double], &[], Options::default()) }.unwrap();
    let i = Tensor::from_slice(&[1, 2], &[1i64, 3]).unwrap();
    // More steps than there is room for at first.
    for (n, holds, last, z) in [
        (3i64, 1u8, [8i64, 24], [16i64, 48]),
        (40, 1, [1 << 40, 3 << 40], [2 << 40, 6 << 40]),
        (3, 0, [1, 3], [1, 3]),
        (-1, 1, [1, 3], [2, 6]),
    ] {
        let (n, c) = (Tensor::from_slice(&[], &[n]).unwrap(), Tensor::from_bytes(DType::Bool, &[], &[holds]).unwrap());
        let outputs = session.run(&[("n", n.view()), ("c", c.view()), ("i", i.view())]).unwrap();
        let steps = if holds == 1 { n.as_slice::<i64>().unwrap()[0].max(0) as usize } else { 0 };
        assert_eq!(outputs[0].as_slice::<i64>().unwrap(), last);
        assert_eq!(outputs[1].shape(), [steps, 1, 2]);
        let expected: Vec<i64> = (1..=steps).flat_map(|step| [1 << step, 3 << step]).collect();
        assert_eq!(outputs[1].as_slice::<i64>().unwrap(), expected);
        assert_eq!(outputs[2].as_slice::<i64>().unwrap(), z);
    }
}

#[test]
fn damage_to_bodies_is_named() {
    let check = |damage: fn(&mut Program), expected: &str| {
        let mut plan = repeating();
        damage(plan.program.as_mut().unwrap());
        assert_eq!(plan.check(1, 64).unwrap_err(), expected);
    };
    assert_eq!(repeating().check(1, 64), Ok(()));
    check(|p| p.bodies[1].calls[0].what = What::Branch { then: 1, otherwise: 2 }, "body 1: call 0 calls body 1, which it may not");
    check(|p| p.bodies[0].calls[1].what = What::Branch { then: 2, otherwise: 9 }, "call 1 calls body 9, which it may not");
    check(|p| p.bodies[3].outputs.clear(), "call 1 reads 2 and writes 1 values, expected None");
    check(|p| p.bodies[1].inputs = 9, "call 0 reads 3 and writes 2 values, expected Some((9, 2))");
    check(|p| p.bodies[2].calls[0].reads[0] = 2, "body 2: call 0 reads value 2 before it is made");
    check(
        |p| {
            if let What::Repeat(repeat) = &mut p.bodies[0].calls[0].what {
                repeat.symbols[0].0 = 3;
            }
        },
        "call 0 reads 3 and writes 2 values, expected None",
    );
}
