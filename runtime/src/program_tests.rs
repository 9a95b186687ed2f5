//! A program made by hand: the places of what holds, and twice as many of them.

use super::*;
use crate::plan::{Buffer, DType, KernelInfo, Place, Port, Size, SizeOp, Step};
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
    let program = Program {
        values: ["x", "i", "y"].map(String::from).into(),
        calls: vec![call(What::NonZero, &[0], &[1]), call(What::Stage(0), &[1], &[2])],
        outputs: vec![2, 0],
        stages: vec![doubling()],
    };
    let found = [(Size::Const(1), "1"), (Size::symbol(1), "K")];
    let given = [(Size::symbol(0), "N")];
    let buffer = |name: &str, place| Buffer { name: name.into(), bytes: bytes(1), place };
    Plan {
        model: "places".into(),
        symbols: vec!["N".into()],
        inputs: vec![port("x", DType::Bool, &given, 0)],
        outputs: vec![port("y", DType::I64, &found, 1), port("same", DType::Bool, &given, 2)],
        buffers: vec![buffer("x", Place::Input(0)), buffer("y", Place::Output(0)), buffer("same", Place::Output(1))],
        kernels: vec![KernelInfo { name: "k0".into(), offset: 0, text: "mul".into(), hash: [0; 32] }],
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
    check(|p| p.calls[1].reads[0] = 2, "call 1 reads value 2 before it is made");
    check(|p| p.calls[1].reads[0] = 9, "call 1 reads value 9 before it is made");
    check(|p| p.calls[1].writes[0] = 0, "call 1 writes value 0, which it may not");
    check(|p| p.calls[0].writes.clear(), "call 0 reads 1 and writes 0 values, expected Some((1, 1))");
    check(|p| p.calls[1].what = What::Stage(4), "call 1 reads 1 and writes 1 values, expected None");
    check(|p| p.outputs[0] = 7, "the program returns value 7, which nothing makes");
    check(|p| p.outputs.clear(), "the program has other inputs or outputs than the plan");
    check(|p| p.stages[0].steps[0].kernel = 1, "step `y` calls kernel 1, but there are 1 kernels");
}
