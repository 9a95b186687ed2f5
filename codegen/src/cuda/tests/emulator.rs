//! What the emulator says of PTX that is wrong.

use crate::cuda::emu::{Module, Start, run};

/// Runs a body on one buffer of 1024 bytes with 64 threads, and 256 bytes of shared memory from the launch.
fn outcome(body: &str) -> Result<(), String> {
    outcome_with(256, body)
}

/// The same with so many bytes of shared memory.
fn outcome_with(shared: usize, body: &str) -> Result<(), String> {
    let text = format!(
        ".extern .shared .align 16 .b8 given[];\n.visible .entry k0(\n.param .u64 .ptr .global .align 16 k0_param_0\n)\n{{\n{body}\nret;\n}}"
    );
    let module = Module::parse(&text)?;
    let start = Start { blocks: 2, threads: 64, shared, sizes: &[], seed: 7 };
    run(module.entry("k0").ok_or("no entry")?, start, &mut [vec![0; 1024]]).map(drop)
}

const ADDRESS: &str = "ld.param.b64 %rd1, [k0_param_0];\nmov.u32 %r1, %tid.x;\nmov.u32 %r2, %ctaid.x;\n
    mad.lo.s32 %r3, %r2, 64, %r1;\nmul.wide.u32 %rd2, %r3, 4;\nadd.s64 %rd3, %rd1, %rd2;";

#[track_caller]
fn wrong(body: &str, expected: &str) {
    let message = outcome(&format!("{ADDRESS}\n{body}")).expect_err(body);
    assert!(message.contains(expected), "{message}");
}

#[test]
fn what_is_right_runs() {
    outcome(&format!("{ADDRESS}\nst.global.b32 [%rd3], %r3;")).unwrap();
}

#[test]
fn unknown_opcodes_are_named() {
    wrong("tanh.approx.f32 %r5, %r4;", "the opcode `tanh.approx.f32` is not in the table");
    wrong("add.f32 %r5, %r4, %r9, [;", "is not known");
}

#[test]
fn accesses_are_checked() {
    wrong("st.global.b32 [%rd3+1020], %r3;", "of `buffer 0`, which has 1024");
    wrong("ld.global.b32 %r4, [%rd3+-4];", "4 bytes at -4 of `buffer 0`");
    wrong("st.global.b64 [%rd3], %rd1;", "not aligned");
}

#[test]
fn races_are_found_whatever_the_values() {
    wrong("st.global.b32 [%rd1], 0;", "race on byte 0 of `buffer 0`");
    wrong("st.global.b32 [%rd3], 0;\nld.global.b32 %r4, [%rd1+64];", "race on byte 64");
}

#[test]
fn barriers_put_accesses_in_order() {
    // Each block has its half of the buffer.
    let own = "mul.wide.u32 %rd5, %r2, 256;\nadd.s64 %rd6, %rd1, %rd5;";
    let neighbour = format!("{ADDRESS}\n{own}\nst.global.b32 [%rd3], %r1;\nBARRIER\nld.global.b32 %r4, [%rd6+132];");
    outcome(&neighbour.replace("BARRIER", "bar.sync 0;")).unwrap();
    assert!(outcome(&neighbour.replace("BARRIER", "bar.warp.sync -1;")).unwrap_err().contains("race"));
    wrong("setp.lt.u32 %p1, %r1, 5;\n@%p1 bar.sync 0;", "are at this barrier");
    wrong("setp.lt.u32 %p1, %r1, 32;\n@%p1 bra $L1;\nbar.sync 0;\n$L1:", "wait at a barrier, the others have ended");
}

#[test]
fn shared_memory_holds_nothing_at_first() {
    wrong(".shared .align 16 .b8 tile[64];\nmov.b64 %rd7, tile;\nld.shared.b32 %r4, [%rd7];", "was never written");
}

#[test]
fn threads_meet_again_after_a_branch() {
    let body = "setp.lt.u32 %p1, %r1, 5;\nmov.b32 %r5, 1;\n@%p1 bra $L1;\nmov.b32 %r5, 2;\n$L1:\nshfl.sync.bfly.b32 %r6, %r5, 1, 31, -1;";
    outcome(&format!("{ADDRESS}\n{body}")).unwrap();
}

/// A word of each thread goes to its place in shared memory.
const COPY: &str = "mov.b64 %rd7, given;\nmul.wide.u32 %rd8, %r1, 4;\nadd.s64 %rd9, %rd7, %rd8;\nmov.b32 %r9, 4;
    cp.async.ca.shared.global [%rd9], [%rd3], 4, %r9;\ncp.async.commit_group;";

#[test]
fn copies_arrive_when_they_are_waited_for() {
    let own = |between: &str| format!("{COPY}\n{between}\nld.shared.b32 %r4, [%rd9];");
    outcome(&format!("{ADDRESS}\n{}", own("cp.async.wait_group 0;"))).unwrap();
    wrong(&own(""), "is read while a copy to it is on its way");
    wrong(&own("cp.async.wait_group 1;"), "is read while a copy to it is on its way");
    wrong(&own("st.shared.b32 [%rd9], 0;"), "is written while a copy to it is on its way");
    wrong(&own("cp.async.ca.shared.global [%rd9], [%rd3], 4, %r9;"), "is written while a copy to it is on its way");
    wrong(&own("cp.async.wait_group 0;").replace("[%rd3], 4", "[%rd3+1024], 4"), "which has 1024");
    // Nothing is read where no bytes are asked for.
    let none = own("cp.async.wait_group 0;").replace("[%rd3], 4", "[%rd3+1024], 4").replace("%r9, 4", "%r9, 0");
    outcome(&format!("{ADDRESS}\n{none}")).unwrap();
}

#[test]
fn others_see_a_copy_behind_a_barrier() {
    let first = |between: &str| format!("{ADDRESS}\n{COPY}\ncp.async.wait_group 0;\n{between}\nld.shared.b32 %r4, [given];");
    // Who reads before or while it arrives is an error too, on other schedules.
    assert!(outcome(&first("")).is_err());
    outcome(&first("bar.sync 0;")).unwrap();
    let again = "bar.sync 0;\nld.shared.b32 %r4, [given];\ncp.async.ca.shared.global [%rd9], [%rd3], 4, %r9;";
    assert!(outcome(&first(again)).is_err());
}

/// A product of ones, of registers that a line makes.
fn product(line: &str, guard: &str) -> String {
    let all = |register: &str, n: usize| format!("{{{}}}", vec![register; n].join(", "));
    let (a, b) = (all("%r20", 4), all("%r20", 2));
    let sums = "{%r21, %r22, %r23, %r24}";
    let zeros = all("0f00000000", 4);
    format!("{line}\n{guard} mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32\n\t{sums},\n\t{a},\n\t{b},\n\t{zeros};")
}

#[test]
fn a_warp_multiplies_what_is_rounded() {
    let stored = format!("{}\nst.global.b32 [%rd3], %r24;", product("mov.b32 %r20, 0f3f800000;", ""));
    outcome(&format!("{ADDRESS}\n{stored}")).unwrap();
    wrong(&product("mov.b32 %r20, 0f3f800001;", ""), "is no TF32");
    outcome(&format!("{ADDRESS}\n{}", product("mov.b32 %r19, 0f3f800001;\ncvt.rna.tf32.f32 %r20, %r19;", ""))).unwrap();
    let some = product("mov.b32 %r20, 0f3f800000;\nsetp.lt.u32 %p1, %r1, 5;", "@%p1");
    wrong(&some, "are at what the whole warp does");
    wrong(
        "setp.lt.u32 %p1, %r1, 40;\nmov.b64 %rd7, given;\n@%p1 ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%rd7];",
        "whole warp",
    );
}

/// A barrier for two arrivals, which the first thread makes.
const MADE: &str = "setp.eq.u32 %p1, %r1, 0;\nsetp.eq.u32 %p2, %r1, 32;\n@%p1 mbarrier.init.shared.b64 [given+128], 2;
    fence.proxy.async.shared::cta;\nbar.sync 0;";

/// The first thread has 64 bytes copied, and one of the other warp arrives.
const BROUGHT: &str = "@%p1 mbarrier.arrive.expect_tx.shared.b64 %rd9, [given+128], 64;
    @%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [given], [%rd1], 64, [given+128];
    @%p2 mbarrier.arrive.shared.b64 %rd9, [given+128], 1;";

const WAITED: &str = "$L1:\nmbarrier.try_wait.parity.shared.b64 %p3, [given+128], 0;\n@!%p3 bra $L1;\nld.shared.b32 %r4, [given+16];";

#[test]
fn barriers_count_arrivals_and_bytes() {
    let all = [MADE, BROUGHT, WAITED].join("\n");
    outcome(&format!("{ADDRESS}\n{all}")).unwrap();
    let with = |from: &str, to: &str, expected: &str| {
        assert!(all.contains(from), "{from}");
        wrong(&all.replacen(from, to, 1), expected);
    };
    with(
        "init.shared.b64 [given+128], 2",
        "init.shared.b64 [given+128], 3",
        "waits for 1 of 3 arrivals and 0 bytes, and nothing else goes on",
    );
    with("init.shared.b64 [given+128], 2", "init.shared.b64 [given+128], 0", "a barrier for 0 arrivals");
    with("fence.proxy.async.shared::cta;", "", "no fence shows the barrier");
    with("bar.sync 0;", "", "is known to have been made");
    with("[given+128], 64;\n", "[given+128], 80;\n", "0 of 2 arrivals and 16 bytes");
    with("[%rd1], 64", "[%rd1], 80", "16 bytes more are copied");
    with("[%rd1], 64", "[%rd1], 60", "not all are multiples of 16");
    with("[%rd1], 64", "[%rd1+1008], 64", "which has 1024");
    // Who does not wait finds a copy on its way, or what was never written.
    with("@!%p3 bra $L1;", "", "of `shared memory` is read");
    with("[given+128], 0;\n@!", "[given+128], 1;\n@!", "of `shared memory` is read");
    with("[given+16]", "[given+128]", "is read while a copy to it is on its way");
    with(WAITED, "", "are on their way at the end");
    with(", 1;", ", 3;", "more arrivals at the barrier");
}

/// Copies of every thread of a warp, whose end is its arrival.
#[test]
fn copies_are_arrivals() {
    let made = MADE.replace(", 2;", ", 64;");
    let copied = COPY.replace("cp.async.commit_group;", "cp.async.mbarrier.arrive.noinc.shared.b64 [given+256];");
    let all = [made.as_str(), &copied, WAITED].join("\n").replace("given+128", "given+256").replace("given+16]", "given+160]");
    let more = |body: &str| outcome_with(512, &format!("{ADDRESS}\n{body}"));
    more(&all).unwrap();
    let early = all.replace("cp.async.mbarrier.arrive.noinc.shared.b64 [given+256];", "mbarrier.arrive.shared.b64 %rd9, [given+256], 1;");
    assert!(more(&early).unwrap_err().contains("is read while a copy to it is on its way"));
}

#[test]
fn some_threads_have_barriers_of_their_own() {
    let of_first = |threads: &str| format!("setp.gt.u32 %p1, %r1, 31;\n@%p1 bra $L1;\nbar.sync 0, {threads};\n$L1:");
    outcome(&format!("{ADDRESS}\n{}", of_first("32"))).unwrap();
    wrong(&of_first("64"), "wait at a barrier, the others have ended");
}

#[test]
fn exponentials_are_as_far_off_as_they_may_be() {
    // Of 1 the result is 2 less half a unit in its 22nd place; below the normal numbers there is nothing.
    let stored = |x: &str| format!("{ADDRESS}\nex2.approx.ftz.f32 %r5, {x};\nadd.s32 %r6, %r5, EXPECTED;\ndiv.s32 %r7, 1, %r6;");
    for (x, bits) in [("0f3F800000", 0x3fff_fffcu32), ("0fC3000000", 0), ("0fFF800000", 0)] {
        let is_that = stored(x).replace("EXPECTED", &format!("-{bits}"));
        // What is as expected leaves zero, and a division by it is an error.
        assert!(outcome(&is_that).unwrap_err().contains("divided by zero"), "{x}");
    }
}
