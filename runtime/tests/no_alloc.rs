//! A run after the first allocates nothing: counted by an allocator of its own.

use egret_runtime::plan::{Buffer, DType, KernelInfo, Place, Plan, Port, Size, SizeOp, Step, Unit};
use egret_runtime::{Options, Session, Tensor, TensorView};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

unsafe extern "C" fn negate(buffers: *const *mut u8, sizes: *const i64, part: u64, parts: u64) {
    // SAFETY: the plan below lists one buffer read and one written, of `sizes[0]` floats each.
    unsafe {
        let n = *sizes as u64;
        for i in part * n / parts..(part + 1) * n / parts {
            *(*buffers.add(1)).cast::<f32>().add(i as usize) = -*(*buffers).cast::<f32>().add(i as usize);
        }
    }
}

/// `x -> v -> y` over `N` floats.
fn plan() -> Plan {
    let n = || Size::symbol(0);
    let port = |name: &str, buffer| Port { name: name.into(), dtype: DType::F32, dims: vec![n()], dim_text: vec!["N".into()], buffer };
    let bytes = || Size::Expr(vec![SizeOp::Symbol(0), SizeOp::Const(4), SizeOp::Mul]);
    let buffer = |name: &str, place| Buffer { name: name.into(), bytes: bytes(), place };
    let step = |read, write| Step {
        name: "s".into(),
        kernel: 0,
        reads: vec![read],
        writes: vec![write],
        sizes: vec![n()],
        parts: n(),
        in_place: None,
        flops: n(),
        origins: vec![],
    };
    Plan {
        model: "negate twice".into(),
        symbols: vec!["N".into()],
        ranges: vec![],
        inputs: vec![port("x", 0)],
        outputs: vec![port("y", 2)],
        buffers: vec![buffer("x", Place::Input(0)), buffer("v", Place::Arena), buffer("y", Place::Output(0))],
        steps: vec![step(0, 1), step(1, 2)],
        kernels: vec![KernelInfo { name: "k0".into(), offset: 0, text: "neg".into(), hash: [0; 32], unit: Unit::F32 }],
        fused: false,
        requirements: vec![],
        found: vec![],
        program: None,
        strings: vec![],
    }
}

#[test]
fn runs_after_the_first_allocate_nothing() {
    for threads in [1, 3] {
        let options = Options { threads, ..Options::default() };
        // SAFETY: `negate` keeps to the plan.
        let mut session = unsafe { Session::from_functions(plan(), vec![negate], &[], options) }.unwrap();
        let sizes = [10usize, 700];
        let inputs = sizes.map(|n| Tensor::random(DType::F32, &[n], 1).unwrap());
        // A bare slice has to be copied each time; the copy must not allocate either.
        let slices = [0, 1].map(|i| inputs[i].as_slice::<f32>().unwrap().to_vec());
        let mut outputs = sizes.map(|n| vec![Tensor::zeros(DType::F32, &[n]).unwrap()]);
        let mut run = |session: &mut Session| {
            for i in 0..2 {
                session.run_into(&[("x", inputs[i].view())], &mut outputs[i]).unwrap();
                let slice = TensorView::of(&sizes[i..=i], &slices[i]).unwrap();
                session.run_into(&[("x", slice)], &mut outputs[i]).unwrap();
                assert!(outputs[i][0] == inputs[i]);
            }
        };
        run(&mut session);
        // A worker may start late, and that allocates once; what every run did would show in every round.
        let allocations = (0..10).map(|_| {
            let before = ALLOCATIONS.load(SeqCst);
            (0..20).for_each(|_| run(&mut session));
            ALLOCATIONS.load(SeqCst) - before
        });
        assert_eq!(allocations.min(), Some(0), "{threads} threads");
    }
}
