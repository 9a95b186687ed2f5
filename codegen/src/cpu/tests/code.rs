//! Properties of the code itself, for every target, whether it runs here or not.

use super::*;
use crate::cpu::{CompileError, asm_text, choose_tile, llvm_text};
use crate::object::{LinkError, link};

const F32: DType = DType::F32;

fn all_targets() -> Vec<Target> {
    ["x86-64-v4", "x86-64-v3", "aarch64"].map(|name| Target::named(name).unwrap()).to_vec()
}

fn matmul(m: i64, n: i64, k: i64, tile: Tile) -> Kernel {
    let (i, j) = (sym("i"), sym("j"));
    let value = bin(BinOp::Max, bin(BinOp::Add, var("acc", F32), load(2, F32, j.clone())), lit(0.0));
    Kernel {
        borders: vec![],
        buffers: vec![input("a", F32), input("b", F32), input("bias", F32), output("out", F32)],
        body: Body::Contract(vec![Contract {
            batch: vec![],
            rows: vec![axis("i", m)],
            cols: axis("j", n),
            k: vec![axis("k", k)],
            a: (BufferId(0), i.clone() * k + sym("k")),
            b: Panels::Packed(BufferId(1), Dim::ZERO),
            tile,
            split: Split::Rows,
            epilogue: store(3, i * n + j, value),
        }]),
    }
}

/// A kernel that needs constants, masks, gathers and conversions.
fn mixed() -> Kernel {
    let i = sym("i");
    let value = un(UnOp::Exp, load(0, F32, (i.clone() * 7).modulo(&sym("N"))));
    let stores = vec![
        Store { buffer: BufferId(1), offset: i.clone(), value: value.clone() },
        Store { buffer: BufferId(2), offset: i.clone() * 2, value: cast(DType::F16, un(UnOp::Erf, value.clone())) },
        Store { buffer: BufferId(3), offset: i.clone(), value: cast(DType::I8, un(UnOp::Sin, value)) },
    ];
    let buffers = vec![input("x", F32), output("a", F32), output("b", DType::F16), output("c", DType::I8)];
    map_kernel(buffers, vec![axis("i", sym("N"))], Block { lets: vec![], stores })
}

/// LLVM's saturating conversions of vectors are hundreds of instructions, one lane at a time.
#[test]
fn floats_become_integers_as_vectors() {
    let target = all_targets().into_iter().find(|t| t.name == "x86-64-v4").unwrap();
    for (from, to) in [F32, DType::F64].into_iter().flat_map(|from| DType::ALL.map(|to| (from, to))).filter(|(_, to)| to.is_int()) {
        let store = Store { buffer: BufferId(1), offset: sym("i"), value: cast(to, load(0, from, sym("i"))) };
        let kernel = map_kernel(vec![input("x", from), output("y", to)], vec![axis("i", 64)], Block { lets: vec![], stores: vec![store] });
        let asm = asm_text(&kernel, &target).unwrap();
        assert!(["cvttss2", "cvttsd2"].iter().all(|scalar| !asm.contains(scalar)), "{from} to {to}\n{asm}");
    }
}

/// A block of assembly without what follows its first jump.
fn up_to_jump(block: &str) -> String {
    let jumps = |line: &str| ["\tj", "\tb.", "\tcbnz"].iter().any(|jump| line.starts_with(jump));
    let count = block.lines().position(jumps).unwrap_or(usize::MAX);
    block.lines().take(count).collect::<Vec<_>>().join("\n")
}

/// The innermost loop of a product is its multiply-adds, its loads and three more instructions, and nothing spills: what no
/// timing on a busy machine would tell.
#[test]
fn tiles_stay_in_registers() {
    for target in all_targets() {
        for (m, n, k) in [(128, 768, 768), (49, 512, 2048), (3136, 64, 576), (7, 1000, 512), (1, 4096, 1024)] {
            let tile = choose_tile(Some(m), Some(n), Some(k), &target);
            let asm = asm_text(&matmul(m as i64, n as i64, k as i64, tile), &target).unwrap();
            let (multiply_add, stack) = if target.arch == "x86_64" { ("vfmadd", "%rsp") } else { ("fmla", "[sp") };
            let hottest = asm.split("\n.LBB").map(up_to_jump).max_by_key(|block| block.matches(multiply_add).count()).unwrap();
            let most = tile.rows * tile.vectors;
            let count = hottest.matches(multiply_add).count();
            let context = format!("{} {m}x{n}x{k} with a tile of {}x{}\n{hottest}", target.name, tile.rows, tile.vectors);
            // Strips may be lower than the tile, so that the last one is not much lower than the others.
            assert!(count <= most && count + tile.vectors * tile.rows.div_ceil(2) >= most, "{count} multiply-adds: {context}");
            assert!(!hottest.contains(stack), "spills: {context}");
            if target.arch == "x86_64" {
                let instructions = hottest.lines().filter(|l| l.starts_with('\t') && !l.starts_with("\t.")).count();
                assert!(instructions <= count + tile.rows + tile.vectors + 5, "{instructions} instructions: {context}");
            }
        }
    }
}

/// An attention over `s` positions of `d` channels, by itself.
fn attention(s: i64, d: i64, tile: Tile) -> Kernel {
    let (m, n, k, c) = (sym("m"), sym("n"), sym("k"), sym("c"));
    Kernel::new(
        vec![input("q", F32), input("k", F32), input("v", F32), output("out", F32)],
        Body::Chain(Chain {
            batch: vec![],
            rows: vec![axis("m", s)],
            keys: axis("n", s),
            depth: axis("k", d),
            cols: axis("c", d),
            q: (BufferId(0), m.clone() * d + k.clone()),
            k: (BufferId(1), n.clone() * d + k),
            v: (BufferId(2), n * d + c.clone()),
            lets: vec![],
            score: bin(BinOp::Mul, var("acc", F32), lit(0.125)),
            seen: s.into(),
            tile,
            epilogue: store(3, m * d + c, var("acc", F32)),
        }),
    )
}

/// No innermost loop of an attention spills, and its two products are loops of multiply-adds, one for each accumulator.
#[test]
fn attentions_stay_in_registers() {
    for (target, rows) in [("x86-64-v4", 8), ("x86-64-v3", 6)] {
        let target = Target::named(target).unwrap();
        for s in [128, 1024] {
            let asm = asm_text(&attention(s, 64, Tile { rows, vectors: 2 }), &target).unwrap();
            let loops: Vec<String> =
                asm.split("\n.LBB").map(up_to_jump).filter(|block| block.matches("vfmadd").count() >= 2 * rows).collect();
            let products = loops.iter().filter(|block| block.matches("vfmadd").count() == 2 * rows && !block.contains("(%rsp)"));
            assert!(products.count() >= 2, "{} {s}\n{}", target.name, loops.join("\n----\n"));
        }
    }
}

/// Kernels of every kind become images without references to anything, on every target.
#[test]
fn images_are_self_contained() {
    for target in all_targets() {
        let kernels = [mixed(), matmul(5, 70, 9, Tile { rows: 3, vectors: 2 })];
        let code = compile(&kernels, &target, 2, &|_| ()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(code.entries.len(), 2);
        assert!(code.entries.iter().all(|&e| (e as usize) < code.code.len()));
    }
}

#[test]
fn the_same_kernels_give_the_same_bytes() {
    let target = Target::named("x86-64-v4").unwrap();
    let kernels: Vec<Kernel> = (1..6).map(|m| matmul(m, 40, 3, Tile { rows: 2, vectors: 2 })).chain([mixed()]).collect();
    let one = compile(&kernels, &target, 1, &|_| ()).unwrap();
    assert_eq!(one, compile(&kernels, &target, 3, &|_| ()).unwrap());
    assert_eq!(one, compile(&kernels, &target, 1, &|_| ()).unwrap());
    assert_eq!(compile(&[], &target, 4, &|_| ()).unwrap().entries, Vec::<u64>::new());
}

#[test]
fn texts_are_for_people() {
    let target = Target::named("x86-64-v4").unwrap();
    let kernel = matmul(8, 32, 4, Tile { rows: 4, vectors: 2 });
    assert!(llvm_text(&kernel, &target).unwrap().contains("call <16 x float> @llvm.fma.v16f32"));
    assert!(asm_text(&kernel, &target).unwrap().contains("vfmadd"));
}

/// An object that calls a function is refused, and the function is named.
#[test]
fn undefined_symbols_are_named() {
    use inkwell::OptimizationLevel;
    use inkwell::targets::{CodeModel, FileType, RelocMode, TargetTriple};
    compile(&[], &Target::named("x86-64-v3").unwrap(), 1, &|_| ()).unwrap();
    let context = inkwell::context::Context::create();
    let module = context.create_module("m");
    let signature = context.void_type().fn_type(&[], false);
    let (entry, missing) = (module.add_function("k0", signature, None), module.add_function("expf", signature, None));
    let builder = context.create_builder();
    builder.position_at_end(context.append_basic_block(entry, "entry"));
    builder.build_call(missing, &[], "").unwrap();
    builder.build_return(None).unwrap();
    let triple = TargetTriple::create("x86_64-unknown-linux-gnu");
    let llvm = inkwell::targets::Target::from_triple(&triple).unwrap();
    let machine =
        llvm.create_target_machine(&triple, "x86-64-v3", "", OptimizationLevel::Aggressive, RelocMode::PIC, CodeModel::Small).unwrap();
    let object = machine.write_to_memory_buffer(&module, FileType::Object).unwrap();
    let error = link(&[("k0", object.as_slice(), "k0")]).unwrap_err();
    assert_eq!(error, LinkError::Undefined { object: "k0".into(), symbol: "expf".into() });
    let text = CompileError::Link { kernel: "map {}".into(), source: error }.to_string();
    assert!(text.contains("`expf`") && text.contains("map {}"), "{text}");
    for len in [0, 4, 63, 100, object.as_slice().len() - 60] {
        assert!(matches!(link(&[("k0", &object.as_slice()[..len], "k0")]), Err(LinkError::Malformed { .. })), "{len} bytes");
    }
}
