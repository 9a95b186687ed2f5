//! Whether the emulator finds what is wrong: bugs are planted in PTX that is right, one at a time.
//!
//! A bug is found when running is an error or the results are wrong, on one of a few schedules.

use super::models::{emulated_code, lowered};
use super::*;
use egret_ir::{Tensor, eval, text};

const SCHEDULES: u64 = 4;

/// A target, and a graph that is compiled for it.
type Subject = (&'static str, &'static str);

/// A GPU without tensor cores for what the kernels multiply, and one with them.
const OLD: &str = "cuda:sm_75";
const NEW: &str = "cuda:sm_80";

/// One whose warps multiply in groups.
const HOPPER: &str = "cuda:sm_90a";

/// A product with tails of rows, columns and `k`.
const PRODUCT: Subject = (OLD, "graph g(x: f32[70, 40], w: f32[40, 68]) { y = matmul(x, w)\n return y }");

/// The same on tensor cores, with a last slice in the place of the first one, and with fewer slices than are on their way at first.
const MATRIX: Subject = (NEW, "graph g(x: f32[70, 72], w: f32[72, 68]) { y = matmul(x, w)\n return y }");
const SHORT: Subject = (NEW, "graph g(x: f32[70, 16], w: f32[16, 68]) { y = matmul(x, w)\n return y }");

/// Blocks share tiles.
const SHARED: Subject = (NEW, "graph g(x: f32[20, 520], w: f32[520, 40]) { y = matmul(x, w)\n return y }");

/// A row of a block: statistics go through shared memory. The first five shuffles find the largest element, and which one is
/// subtracted does not matter if all threads take the same: the bugs are planted in the sum.
const LONG_ROWS: Subject = (NEW, "graph g(x: f32[3, 2500]) { y = softmax[axes=[1]](x)\n return y }");

/// A sum of a block, which shows what a softmax's does not: a part that is missing there changes little.
const LONG_SUM: Subject = (NEW, "graph g(x: f32[3, 2500]) { y = reduce_sum[axes=[1]](x)\n return y }");

/// Rows of warps.
const SHORT_ROWS: Subject = (NEW, "graph g(x: f32[21, 100]) { y = softmax[axes=[1]](x)\n return y }");

const CONCAT: Subject = (NEW, "graph g(x: f32[40, 6], y: f32[40, 10]) { z = concat[axis=1](x, y)\n w = tanh(z)\n return w }");

/// Tiles of queries and keys with tails, of which each query sees others; without tensor cores and with them.
const QUERIES: &str = "graph g(q: f32[70, 20], k: f32[90, 20], v: f32[90, 24]) {
    y = attention[scale = 0.5, causal = true](q, k, v)
    return y
}";
const ATTENTION: Subject = (OLD, QUERIES);
const STRIPS: Subject = (NEW, QUERIES);

/// Warps with keys of their own, of 16 bits.
const STORED: Subject = (
    NEW,
    "graph g(q: f16[20, 32], k: f16[70, 32], v: f16[70, 32]) {
    a = cast[to = f32](q)
    b = cast[to = f32](k)
    c = cast[to = f32](v)
    y = attention[scale = 2.0](a, b, c)
    z = cast[to = f16](y)
    return z
}",
);

/// Products of warpgroups, of operands that lie along `k` and across it, with tails of rows, columns and `k`; more slices than places.
const GROUPS: Subject = (
    HOPPER,
    "graph g(x: bf16[M, 296], w: bf16[296, 112]) {
    a = cast[to = f32](x)
    b = cast[to = f32](w)
    y = matmul(a, b)
    return y
}",
);

/// The same with weights that are known.
const PANELS: Subject = (
    HOPPER,
    "graph g(x: bf16[M, 320]) {
    const w: bf16[320, 120] = random(1)
    a = cast[to = f32](x)
    b = cast[to = f32](w)
    y = matmul(a, b)
    return y
}",
);

/// Few queries: warps share the keys.
const DECODE: Subject = (NEW, "graph g(q: f32[2, 40], k: f32[37, 40], v: f32[37, 24]) { y = attention[scale = 0.5](q, k, v)\n return y }");

/// Few rows: threads share `k`.
const FEW_ROWS: Subject = (NEW, "graph g(x: f32[2, 200], w: f32[200, 72]) { y = matmul(x, w)\n return y }");

/// The first barrier and the first 16 wide reads of shared memory are those of the projection, a product.
const LAYER: Subject = (
    NEW,
    "graph g(x: f32[3, 2, 5], h: f32[2, 6], c: f32[2, 6], w: f32[24, 5], r: f32[24, 6], b: f32[48]) {
    y, s, t = lstm(x, w, r, b, h, c)
    return y, s, t
}",
);

/// A planted bug: in which graph, what it is, and which occurrence of a text becomes what. An empty text deletes the line.
struct Bug(Subject, &'static str, &'static str, usize, &'static str);

const BUGS: &[Bug] = &[
    Bug(PRODUCT, "no barrier between putting and using a slice", "bar.sync", 0, ""),
    Bug(PRODUCT, "a wait for a barrier by some threads only", "bar.sync", 0, "@%p1 bar.sync"),
    Bug(PRODUCT, "a factor read from the wrong place", "ld.shared.v4.b32", 3, "+16];"),
    Bug(PRODUCT, "one product left out", "fma.rn.f32", 5, ""),
    Bug(PRODUCT, "a sum and not a multiply-add", "fma.rn.f32", 7, "add"),
    Bug(PRODUCT, "a slice not written", "st.shared.b32", 1, ""),
    Bug(PRODUCT, "a slice written to the wrong place", "st.shared.b32", 2, "+4],"),
    Bug(PRODUCT, "an element loaded from elsewhere", "ld.global.b32", 0, "+4];"),
    Bug(PRODUCT, "a store beyond the end", "st.global.v4.b32", 3, "+4096],"),
    Bug(PRODUCT, "a store not aligned", "st.global.v4.b32", 0, "+4],"),
    Bug(PRODUCT, "a store to the next place", "st.global.v4.b32", 1, "+16],"),
    Bug(PRODUCT, "results not stored", "st.global.v4.b32", 1, ""),
    Bug(PRODUCT, "a test with the wrong sense", "setp.lt", 0, "setp.ge"),
    Bug(PRODUCT, "an edge one row too far", ", 70;", 1, ", 71;"),
    Bug(PRODUCT, "the tail of k not zero", "selp.f32", 0, "swap"),
    Bug(MATRIX, "no wait for copies", "cp.async.wait_group", 0, ""),
    Bug(MATRIX, "a wait for a group less", "cp.async.wait_group", 0, "wait 3"),
    Bug(MATRIX, "copies of a slice in the group of the next", "cp.async.commit_group", 0, ""),
    Bug(MATRIX, "no group in the loop", "cp.async.commit_group", 3, ""),
    Bug(MATRIX, "no barrier before a slice is multiplied", "bar.sync", 0, ""),
    Bug(MATRIX, "no barrier before sums take the place of slices", "bar.sync", 1, ""),
    Bug(MATRIX, "no barrier before sums are read", "bar.sync", 2, ""),
    Bug(MATRIX, "a copy to the wrong place", "cp.async.cg", 0, "+16],"),
    Bug(MATRIX, "a copy from behind the end of k", "cp.async.cg", 7, "whole"),
    Bug(MATRIX, "rows of a matrix from elsewhere", "ldmatrix", 1, "+16];"),
    Bug(MATRIX, "registers of a fragment in another order", "ldmatrix", 0, "turned"),
    Bug(MATRIX, "an element of another column", "ld.shared.b32", 1, "+32];"),
    Bug(MATRIX, "an operand not rounded to TF32", "cvt.rna.tf32.f32", 0, "mov.b32"),
    Bug(MATRIX, "no rest", "cvt.rna.tf32.f32", 4, "0.0"),
    Bug(MATRIX, "the product of a rest left out", "mma.sync", 0, ""),
    Bug(MATRIX, "a product left out", "mma.sync", 4, ""),
    Bug(MATRIX, "a product not added", "add.rn.f32", 3, ""),
    Bug(MATRIX, "sums in another place", "st.shared.v2.b32", 1, "+8],"),
    Bug(MATRIX, "sums of other columns", "ld.shared.v4.b32", 0, "+16];"),
    Bug(MATRIX, "a row too far is copied", ", 70;", 0, ", 71;"),
    Bug(SHORT, "sums in the place of copies on their way", "cp.async.wait_group", 1, ""),
    Bug(SHARED, "sums of a part not kept", "st.global.v2.b32", 1, ""),
    Bug(SHARED, "sums of a part in another place", "st.global.v2.b32", 0, "+8],"),
    Bug(SHARED, "a part left out", "add.rn.f32", 33, "mov.b32"),
    Bug(SHARED, "a part of another tile", "ld.global.v4.b32", 1, "+16384];"),
    Bug(LONG_ROWS, "no barrier before statistics are read", "bar.sync", 0, ""),
    Bug(LONG_ROWS, "statistics of a warp not stored", "st.shared.b32", 0, ""),
    Bug(LONG_ROWS, "a shuffle of the wrong lanes", "shfl.sync.bfly.b32", 5, ", 8, 31"),
    Bug(LONG_ROWS, "the slot of another warp", "ld.shared.b32", 9, "+0];"),
    Bug(LONG_SUM, "a shuffle left out", "shfl.sync.bfly.b32", 2, "mov.b32"),
    Bug(SHORT_ROWS, "a shuffle left out", "shfl.sync.bfly.b32", 1, "mov.b32"),
    Bug(SHORT_ROWS, "a shuffle of some lanes only", "shfl.sync.bfly.b32", 3, ", 65535;"),
    Bug(SHORT_ROWS, "a shuffle of the wrong lanes", "shfl.sync.bfly.b32", 4, ", 2, 31"),
    Bug(SHORT_ROWS, "rows beyond the last", "setp", 0, "never"),
    Bug(SHORT_ROWS, "a result not stored", "st.global", 0, ""),
    Bug(ATTENTION, "no barrier before scores are summed", "bar.sync", 0, ""),
    Bug(ATTENTION, "no barrier before the next slice of channels", "bar.sync", 1, ""),
    Bug(ATTENTION, "no barrier before values are summed", "bar.sync", 2, ""),
    Bug(ATTENTION, "no barrier before the next slice of keys", "bar.sync", 3, ""),
    Bug(ATTENTION, "maxima of some keys only", "shfl.sync.bfly.b32", 3, "mov.b32"),
    Bug(ATTENTION, "sums of some keys only", "shfl.sync.bfly.b32", 17, "mov.b32"),
    Bug(ATTENTION, "weights of other keys", "st.shared.v4.b32", 0, "+16],"),
    Bug(ATTENTION, "weights not stored", "st.shared.v4.b32", 1, ""),
    Bug(ATTENTION, "rows in each other's place", "st.global", 0, "+96],"),
    Bug(STRIPS, "no wait for queries", "cp.async.wait_group", 0, ""),
    Bug(STRIPS, "no barrier before queries are read", "bar.sync", 0, ""),
    Bug(STRIPS, "no wait for a tile", "cp.async.wait_group", 1, ""),
    Bug(STRIPS, "no barrier before a tile is multiplied", "bar.sync", 1, ""),
    Bug(STRIPS, "no barrier before totals take the place of tiles", "bar.sync", 2, ""),
    Bug(STRIPS, "no barrier before totals are read", "bar.sync", 3, ""),
    Bug(STRIPS, "copies of a tile in the group of the next", "cp.async.commit_group", 1, ""),
    Bug(STRIPS, "queries of other rows", "ldmatrix", 0, "+16];"),
    Bug(STRIPS, "values of another key", "ld.shared.b32", 1, "+112];"),
    Bug(STRIPS, "maxima of some keys only", "shfl.sync.bfly.b32", 0, "mov.b32"),
    Bug(STRIPS, "a product left out", "mma.sync", 4, ""),
    Bug(STRIPS, "the last product left out", "mma.sync", 40, ""),
    Bug(STRIPS, "totals in another place", "st.shared.v2.b32", 1, "+8],"),
    Bug(STRIPS, "maximum and sum not stored", "st.shared.v2.b32", 8, ""),
    Bug(STRIPS, "totals of other columns", "ld.shared.v4.b32", 7, "+16];"),
    Bug(STRIPS, "the sum of another row", "ld.shared.v2.b32", 0, "+128];"),
    Bug(STORED, "rows of values not turned", ".trans", 0, "turn"),
    Bug(STORED, "keys of another share", "ldmatrix", 4, "+16];"),
    Bug(STORED, "weights in each other's place", "cvt.rn.f16x2.f32", 0, "halves"),
    Bug(STORED, "totals of other columns of a share", "ld.shared.v4.b32", 6, "+16];"),
    Bug(STORED, "the maximum of another row", "ld.shared.v2.b32", 6, "+160];"),
    Bug(STORED, "no barrier before shares meet", "bar.sync", 3, ""),
    Bug(GROUPS, "no wait for an empty place", "mbarrier.try_wait", 0, "no wait"),
    Bug(GROUPS, "no wait for a full place", "mbarrier.try_wait", 1, "no wait"),
    Bug(GROUPS, "an empty place asked for once", "mbarrier.try_wait", 0, "once"),
    Bug(GROUPS, "a full place asked for once", "mbarrier.try_wait", 1, "once"),
    Bug(GROUPS, "an empty place in the wrong phase", "mbarrier.try_wait", 0, "last 1"),
    Bug(GROUPS, "the first phase of an empty place waited for", "mbarrier.try_wait", 0, "last 0"),
    Bug(GROUPS, "a full place in the wrong phase", "mbarrier.try_wait", 1, "last 0"),
    Bug(GROUPS, "the second phase of a full place waited for", "mbarrier.try_wait", 1, "last 1"),
    Bug(GROUPS, "a wait for the next place", "mbarrier.try_wait", 1, "+8],"),
    Bug(GROUPS, "copies that arrive nowhere", "cp.async.mbarrier.arrive", 0, ""),
    Bug(GROUPS, "copies that arrive at the next place", "cp.async.mbarrier.arrive", 0, "+8];"),
    Bug(GROUPS, "an arrival before the copies", "cp.async.mbarrier.arrive", 0, "at once"),
    Bug(GROUPS, "a place not given back", "mbarrier.arrive.shared", 0, ""),
    Bug(GROUPS, "another place given back", "mbarrier.arrive.shared", 0, "+8],"),
    Bug(GROUPS, "a place given back twice", "mbarrier.arrive.shared", 0, "last 2"),
    Bug(GROUPS, "a barrier not made", "mbarrier.init", 3, ""),
    Bug(GROUPS, "a barrier for too few arrivals", "mbarrier.init", 0, "last 127"),
    Bug(GROUPS, "a barrier for too many arrivals", "mbarrier.init", 4, "last 9"),
    Bug(GROUPS, "barriers not shown to the copies", "fence.proxy.async", 0, ""),
    Bug(GROUPS, "copies not shown to the tensor cores", "fence.proxy.async", 1, ""),
    Bug(GROUPS, "no wait for barriers that are made", "bar.sync", 0, ""),
    Bug(GROUPS, "no barrier before sums take the place of slices", "bar.sync", 1, ""),
    Bug(GROUPS, "no barrier before sums are read", "bar.sync", 2, ""),
    Bug(GROUPS, "a barrier that waits for the carriers", "\t0, 256;", 0, "\t0, 384;"),
    Bug(PANELS, "bytes that never come", "expect_tx", 0, "last 16400"),
    Bug(PANELS, "too few bytes waited for", "expect_tx", 0, "last 15360"),
    Bug(PANELS, "nothing said of bytes", "expect_tx", 0, ""),
    Bug(PANELS, "no panels", "cp.async.bulk", 0, ""),
    Bug(PANELS, "panels in each other's place", "cp.async.bulk", 0, "+1024],"),
    Bug(PANELS, "panels half a row too far", "cp.async.bulk", 0, "+8],"),
    Bug(PANELS, "panels for the next place", "cp.async.bulk", 0, "other place"),
    Bug(PANELS, "no wait for panels", "mbarrier.try_wait", 1, "no wait"),
    Bug(PANELS, "panels brought too early", "mbarrier.try_wait", 0, "last 1"),
    Bug(PANELS, "panels in the place of rows", "wgmma.mma_async", 1, "exchanged"),
    Bug(PANELS, "barriers not shown to the copy engine", "fence.proxy.async", 0, ""),
    Bug(PANELS, "a place given back too early", "wgmma.wait_group.sync.aligned 1", 0, "wait 2"),
    Bug(GROUPS, "registers not given to the products", "wgmma.fence", 0, ""),
    Bug(GROUPS, "a product left out", "wgmma.mma_async", 1, ""),
    Bug(GROUPS, "products in no group", "wgmma.commit_group", 0, ""),
    Bug(GROUPS, "no wait for the last products", "wgmma.wait_group.sync.aligned 0", 0, "wait 1"),
    Bug(GROUPS, "places copied to again too early", "wgmma.wait_group.sync.aligned 1", 0, "wait 2"),
    Bug(GROUPS, "a copy to the wrong part of a row", "cp.async.cg", 1, "+16],"),
    Bug(GROUPS, "parts of rows not exchanged", "xor.b64", 0, "mov.b64"),
    Bug(GROUPS, "rows of points taken for rows of steps", "wgmma.mma_async", 0, "along"),
    Bug(GROUPS, "operands in each other's place", "wgmma.mma_async", 2, "exchanged"),
    Bug(GROUPS, "sums not stored", "st.shared.v2.b32", 5, ""),
    Bug(DECODE, "no barrier before warps meet", "bar.sync", 0, ""),
    Bug(DECODE, "channels of some lanes left out", "shfl.sync.bfly.b32", 2, "mov.b32"),
    Bug(DECODE, "a shuffle of some lanes only", "shfl.sync.bfly.b32", 7, ", 65535;"),
    Bug(DECODE, "a maximum not stored", "st.shared.b32", 0, ""),
    Bug(DECODE, "the sum of a warp for its maximum", "ld.shared.b32", 0, "+4];"),
    Bug(FEW_ROWS, "no barrier before warps meet", "bar.sync", 0, ""),
    Bug(FEW_ROWS, "steps of some lanes left out", "shfl.sync.bfly.b32", 1, "mov.b32"),
    Bug(FEW_ROWS, "sums of a warp not stored", "st.shared.v4.b32", 0, ""),
    Bug(FEW_ROWS, "sums of other columns", "ld.shared.v4.b32", 3, "+16];"),
    Bug(LAYER, "no barrier before the first step", "bar.sync", 1, ""),
    Bug(LAYER, "no barrier before cells", "bar.sync", 2, ""),
    Bug(LAYER, "no barrier before the next step", "bar.sync", 3, ""),
    Bug(LAYER, "states of other units", "ld.shared.v4.b32", 16, "+16];"),
    Bug(CONCAT, "the wrong job", "setp", 0, "never"),
    Bug(CONCAT, "threads beyond the last element", "setp", 1, "never"),
    Bug(CONCAT, "neighbours stored in one place", "st.global.b32", 0, "+4],"),
    Bug(CONCAT, "a wrong number of threads", "%tid.x", 0, "%ctaid.x"),
];

impl Bug {
    /// The PTX with the bug; nothing where there is no place for it.
    fn planted(&self, ptx: &str) -> Option<String> {
        let Bug(_, _, pattern, occurrence, change) = self;
        // Instructions of several lines become lines.
        let ptx = ptx.replace("\n\t\t", " ");
        let lines: Vec<&str> = ptx.lines().collect();
        let at = (0..lines.len()).filter(|&i| lines[i].contains(pattern)).nth(*occurrence)?;
        let line = changed(lines[at], pattern, change)?;
        let mutated: Vec<&str> = lines.iter().enumerate().map(|(i, l)| if i == at { line.as_str() } else { l }).collect();
        Some(mutated.join("\n")).filter(|m| *m != ptx)
    }
}

/// A line with a change, which is described by what it is to have.
fn changed(line: &str, pattern: &str, change: &str) -> Option<String> {
    let operands: Vec<&str> = line.split([' ', '\t', ',', ';']).filter(|w| !w.is_empty()).collect();
    let of = |i: usize| operands.get(i).copied();
    Some(match change {
        "" => String::new(),
        "add" => format!("add.rn.f32 {}, {}, {};", of(1)?, of(2)?, of(4)?),
        "swap" => format!("{} {}, {}, {}, {};", of(0)?, of(1)?, of(3)?, of(2)?, of(4)?),
        "wait 3" => "cp.async.wait_group 3;".to_string(),
        "turn" => line.replacen(".trans", "", 1),
        "halves" => format!("{} {}, {}, {};", of(0)?, of(1)?, of(3)?, of(2)?),
        "no wait" => format!("setp.eq.b32 {}, 0, 0;", of(1)?),
        "once" => format!("{{ {line} setp.eq.b32 {}, 0, 0;}}", of(1)?),
        "at once" => format!("mbarrier.arrive.shared.b64 %arrived, {}, 1;", of(1)?),
        "other place" => displaced_last(line, "+8")?,
        "wait 1" => line.replace("aligned 0", "aligned 1"),
        "wait 2" => line.replace("aligned 1", "aligned 2"),
        "along" => line.replace(", 0, 1;", ", 0, 0;"),
        "exchanged" => {
            let (a, b) = (operands.get(operands.len().checked_sub(7)?)?, operands.get(operands.len().checked_sub(6)?)?);
            line.replacen(a, "%turned", 1).replacen(b, a, 1).replacen("%turned", b, 1)
        }
        "mov.b64" => format!("mov.b64 {}, {};", of(1)?, of(2)?),
        "0.0" => format!("mov.b32 {}, 0f00000000;", of(1)?),
        "whole" => format!("{};", line.rsplit_once(',')?.0),
        "turned" => {
            let [second, third] = [of(2)?, of(3)?];
            line.replacen(second, "%turned", 1).replacen(third, second, 1).replacen("%turned", third, 1)
        }
        "never" => format!("setp.ne.b32 {}, 0, 1;", of(1)?),
        "mov.b32" => format!("mov.b32 {}, {};", of(1)?, of(2)?),
        ", 8, 31" | ", 2, 31" => line.replacen(&format!(", {}, 31", of(3)?), change, 1),
        ", 65535;" => line.replace(", -1;", change),
        _ if change.starts_with("last ") => format!("{},{};", line.rsplit_once(',')?.0, change.trim_start_matches("last")),
        "+0];" => line.replacen(line.split_once('+')?.1, "0];", 1),
        _ if change.starts_with('+') => displaced(line, change.trim_end_matches(['[', ']', ',', ';']))?,
        _ => line.replacen(pattern, change, 1),
    })
}

/// A line whose last address is further on.
fn displaced_last(line: &str, by: &str) -> Option<String> {
    let (before, last) = line.rsplit_once('[')?;
    Some(format!("{before}{}", displaced(&format!("[{last}"), by)?))
}

/// A line whose address is further on.
fn displaced(line: &str, by: &str) -> Option<String> {
    let (before, rest) = line.split_once(']')?;
    let (start, old) = before.rsplit_once('+').unwrap_or((before, "0"));
    let sum = old.parse::<i64>().ok()? + by.parse::<i64>().ok()?;
    Some(format!("{start}+{sum}]{rest}"))
}

/// What the emulator says of PTX: nothing if it is right on every schedule.
fn verdict((target, source): Subject, change: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let target = Target::named(target).unwrap();
    let graph = text::parse(source).unwrap();
    let inputs = crate::testing::inputs(&graph, &Bindings::from([("M".into(), 70)])).unwrap();
    let expected: Vec<Tensor> = eval::eval(&graph, &inputs).unwrap();
    let program = lowered(&crate::testing::as_kernel(&graph).unwrap());
    let mut code = compile(&program.kernels, &target).unwrap();
    code.ptx = change(&code.ptx).unwrap_or_else(|| panic!("there is no place for the bug in\n{}", code.ptx));
    (0..SCHEDULES).find_map(|seed| {
        let found = emulated_code(&program, &code, &inputs, seed);
        found.and_then(|found| crate::testing::compare(&expected, &found)).err()
    })
}

#[test]
fn planted_bugs_are_found() {
    for subject in [
        PRODUCT, MATRIX, SHORT, SHARED, LONG_ROWS, LONG_SUM, SHORT_ROWS, ATTENTION, STRIPS, STORED, GROUPS, PANELS, DECODE, FEW_ROWS,
        LAYER, CONCAT,
    ] {
        assert_eq!(verdict(subject, &|ptx| Some(ptx.to_string())), None, "{}", subject.1);
    }
    let missed: Vec<&str> = BUGS.iter().filter(|b| verdict(b.0, &|ptx| b.planted(ptx)).is_none()).map(|b| b.1).collect();
    assert!(missed.is_empty(), "{} of {} bugs are not found: {missed:#?}", missed.len(), BUGS.len());
}
