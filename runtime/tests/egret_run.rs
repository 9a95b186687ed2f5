//! The runner as a user meets it: outputs, files and exit codes. The model is a few bytes of machine code written by hand.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

use egret_runtime::artifact::{self, Program};
use egret_runtime::plan::{Buffer, DType, KernelInfo, Place, Plan, Port, Size, SizeOp, Step, Unit};
use egret_runtime::{TargetInfo, Tensor, npy};
use std::path::PathBuf;
use std::process::Command;

/// Copies `sizes[0]` bytes.
///
/// `mov rax,rdi; mov rcx,[rsi]; mov rdi,[rax+8]; mov rsi,[rax]; rep movsb; ret`
#[cfg(target_arch = "x86_64")]
const COPY: &[u8] = &[0x48, 0x89, 0xf8, 0x48, 0x8b, 0x0e, 0x48, 0x8b, 0x78, 0x08, 0x48, 0x8b, 0x30, 0xf3, 0xa4, 0xc3];

/// Copies `sizes[0]` bytes, four at a time, backwards.
///
/// `ldr x4,[x1]; ldp x5,x6,[x0]; 1: cbz x4,2f; sub x4,x4,#4; ldr w7,[x5,x4]; str w7,[x6,x4]; b 1b; 2: ret`
#[cfg(target_arch = "aarch64")]
const COPY: &[u8] = &[
    0x24, 0x00, 0x40, 0xf9, 0x05, 0x18, 0x40, 0xa9, 0xa4, 0x00, 0x00, 0xb4, 0x84, 0x10, 0x00, 0xd1, 0xa7, 0x68, 0x64, 0xb8, 0xc7, 0x68,
    0x24, 0xb8, 0xfc, 0xff, 0xff, 0x17, 0xc0, 0x03, 0x5f, 0xd6,
];

/// `y = x` over an f32[N].
fn plan() -> Plan {
    let n = || Size::symbol(0);
    let bytes = || Size::Expr(vec![SizeOp::Symbol(0), SizeOp::Const(4), SizeOp::Mul]);
    let port = |name: &str, buffer| Port { name: name.into(), dtype: DType::F32, dims: vec![n()], dim_text: vec!["N".into()], buffer };
    let buffer = |name: &str, place| Buffer { name: name.into(), bytes: bytes(), place };
    Plan {
        model: "copy".into(),
        symbols: vec!["N".into()],
        ranges: vec![],
        inputs: vec![port("a=b", 0)],
        outputs: vec![port("y", 1)],
        buffers: vec![buffer("a=b", Place::Input(0)), buffer("y", Place::Output(0))],
        steps: vec![Step {
            name: "y".into(),
            kernel: 0,
            reads: vec![0],
            writes: vec![1],
            sizes: vec![bytes()],
            parts: 1.into(),
            in_place: None,
            flops: 0.into(),
            origins: vec![],
        }],
        kernels: vec![KernelInfo { name: "k0".into(), offset: 0, text: "copy".into(), hash: [0; 32], unit: Unit::F32 }],
        fused: false,
        requirements: vec![],
        found: vec![],
        strings: vec![],
        program: None,
    }
}

/// A folder with `copy.egret` and `x.npy`, an f32[3] of 1, 2, 4.
struct Fixture(PathBuf);

impl Fixture {
    fn new(name: &str) -> Fixture {
        let dir = std::env::temp_dir().join(format!("egret-run-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let target = TargetInfo { arch: std::env::consts::ARCH.into(), ..TargetInfo::default() };
        let program = Program { target: &target, plan: &plan(), code: COPY };
        artifact::write_file(dir.join("copy.egret"), &[program], []).unwrap();
        npy::write(&Tensor::from_slice(&[3], &[1.0f32, 2.0, 4.0]).unwrap(), dir.join("x.npy")).unwrap();
        Fixture(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Runs and expects this exit code and these words on the given stream.
    fn check(&self, args: &[&str], code: i32, words: &str) {
        let output = Command::new(env!("CARGO_BIN_EXE_egret-run")).args(args).current_dir(&self.0).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}\n{err}");
        let text = if code == 0 { out } else { err };
        assert!(text.contains(words), "{args:?}: expected `{words}` in\n{text}");
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn outputs_are_printed_and_written() {
    let fixture = Fixture::new("good");
    let line = "y  f32[3]  min 1  max 4  mean 2.33333  [1, 2, 4]\n";
    fixture.check(&["copy.egret", "--input", "a=b=x.npy"], 0, line);
    fixture.check(&["copy.egret", "--input", "a=b=x.npy", "--threads", "2", "--repeat", "5", "--verify"], 0, line);
    std::fs::copy(fixture.path("x.npy"), fixture.path("input_0.npy")).unwrap();
    fixture.check(&["copy.egret", "--input-dir", ".", "--output-dir", "out/deep"], 0, line);
    let [x, y] = ["x.npy", "out/deep/output_0.npy"].map(|name| npy::read(fixture.path(name)).unwrap());
    assert_eq!(x, y);
    fixture.check(&["copy.egret", "--dim", "N=2"], 0, "y  f32[2]  min -0.13694  max 0.76662");
    fixture.check(&["copy.egret", "--dim", "N=2", "--seed", "1"], 0, "y  f32[2]");
}

#[test]
fn mistakes_of_the_user_end_with_2() {
    let fixture = Fixture::new("usage");
    fixture.check(&[], 2, "Usage");
    fixture.check(&["copy.egret"], 2, "the free dimensions `N` have no value; give one with --dim N=N");
    fixture.check(&["copy.egret", "--dim", "N=x"], 2, "`x` is not a number");
    fixture.check(&["copy.egret", "--dim", "N=-1"], 2, "would be -1");
    fixture.check(&["copy.egret", "--dim", "M=1"], 2, "no free dimension `M`");
    fixture.check(&["copy.egret", "--input", "x.npy"], 2, "expected a name");
    fixture.check(&["copy.egret", "--input", "c=x.npy"], 2, "inputs are missing: `a=b`: f32[N]; given was `c`");
    fixture.check(&["copy.egret", "--repeat", "0"], 2, "--repeat");
}

#[test]
fn bad_files_end_with_4() {
    let fixture = Fixture::new("bad");
    fixture.check(&["absent.egret"], 4, "error: absent.egret: No such file");
    fixture.check(&["."], 4, "not a file");
    fixture.check(&["x.npy"], 4, "not an Egret artifact");
    fixture.check(&["copy.egret", "--input", "a=b=copy.egret"], 4, "copy.egret: this is not an npy file");
    fixture.check(&["copy.egret", "--input", "a=b=absent.npy"], 4, "absent.npy: No such file");
    let good = std::fs::read(fixture.path("copy.egret")).unwrap();
    let write = |bytes: &[u8]| std::fs::write(fixture.path("bad.egret"), bytes).unwrap();
    write(&good[..good.len() - 1]);
    fixture.check(&["bad.egret"], 4, "bad.egret: the file is truncated");
    write(&[]);
    fixture.check(&["bad.egret"], 4, "not an Egret artifact");
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    write(&flipped);
    fixture.check(&["bad.egret", "--dim", "N=1"], 4, "the file is damaged in its weights");
    let foreign = TargetInfo { arch: "s390x".into(), ..TargetInfo::default() };
    let program = Program { target: &foreign, plan: &plan(), code: COPY };
    artifact::write_file(fixture.path("foreign.egret"), &[program], []).unwrap();
    fixture.check(&["foreign.egret"], 4, "the code is for s390x");
}
