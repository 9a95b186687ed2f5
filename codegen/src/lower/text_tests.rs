//! What kernels of typical graphs look like: one test per form, as text.

use crate::plan;
use crate::target::Target;
use crate::testing::as_kernel;
use egret_ir::text;

/// The kernels of a graph that is lowered as one, for AVX-512.
fn kernels(source: &str) -> String {
    let graph = as_kernel(&text::parse(source).unwrap()).unwrap();
    let program = plan::build(&graph, &Target::named("x86-64-v4").unwrap(), &|_, _| {}).unwrap();
    program.kernels.iter().map(|k| format!("{k}\n")).collect()
}

#[track_caller]
fn check(source: &str, expected: &str) {
    // The register tile is a matter of tuning, and has tests of its own.
    let without_tile = |line: &str| match (line.starts_with("contract"), line.split_once(", tile "), line.split_once(", split ")) {
        (true, Some((before, _)), Some((_, after))) => format!("{before}, split {after}"),
        _ => line.to_string(),
    };
    let lines = |text: &str| text.lines().map(str::trim_start).filter(|l| !l.is_empty()).map(without_tile).collect::<Vec<_>>().join("\n");
    assert_eq!(lines(&kernels(source)), lines(expected));
}

#[test]
fn views_are_offsets() {
    check(
        "graph g(x: f32[S, 24]) {
            heads = reshape[shape=[S, 3, 8]](x)
            first = transpose[perm=[1, 0, 2]](heads)
            y = relu(first)
            return y
        }",
        "(x: f32, out y: f32)
        map {
            for i0 in 3, i1 in S, i2 in 8:
                y[8*S*i0 + 8*i1 + i2] = max(x[8*i0 + 24*i1 + i2], 0.0)
        }",
    );
}

#[test]
fn an_attention_is_one_kernel_from_projection_to_projection() {
    check(
        "graph g(q: f32[1, S, 24], k: f32[1, S, 24], v: f32[1, S, 24], m: f32[1, 1, 1, S]) {
            q1 = reshape[shape=[1, S, 3, 8]](q)
            k1 = reshape[shape=[1, S, 3, 8]](k)
            v1 = reshape[shape=[1, S, 3, 8]](v)
            q2 = transpose[perm=[0, 2, 1, 3]](q1)
            k2 = transpose[perm=[0, 2, 1, 3]](k1)
            v2 = transpose[perm=[0, 2, 1, 3]](v1)
            a = attention[scale=0.5](q2, k2, v2, m)
            t = transpose[perm=[0, 2, 1, 3]](a)
            y = reshape[shape=[1, S, 24]](t)
            return y
        }",
        "(q: f32, k: f32, v: f32, m: f32, out y: f32)
        chain batch b0 in 3, rows m0 in S, keys n in S, depth k in 8, cols c in 8, tile 8x2 {
            acc = sum(q[8*b0 + k + 24*m0] * k[8*b0 + k + 24*n])
            p = softmax((acc*0.5 + m[n]))
            acc = sum(p * v[8*b0 + c + 24*n])
            y[8*b0 + c + 24*m0] = acc
        }",
    );
    check(
        "graph g(q: f32[6, 4], k: f32[6, 4], v: f32[6, 4]) { y = attention[scale=1.0, causal=true](q, k, v) return y }",
        "(q: f32, k: f32, v: f32, out y: f32)
        chain rows m0 in 6, keys n in 6, depth k in 4, cols c in 4, tile 6x1 {
            acc = sum(q[k + 4*m0] * k[k + 4*n])
            p = softmax(acc) where n < m0 + 1
            acc = sum(p * v[c + 4*n])
            y[c + 4*m0] = acc
        }",
    );
}

#[test]
fn parts_of_a_concat_and_borders_of_a_pad_are_nests() {
    check(
        "graph g(x: f32[P, 4], y: f32[T, 4]) { a = neg(y) z = concat[axis=0](x, a) return z }",
        "(x: f32, y: f32, out z: f32)
        map {
            for i0 in 4*P:
                z[i0] = x[i0]
            for i1 in 4*T:
                z[4*P + i1] = -y[i1]
        }",
    );
    check(
        "graph g(x: f32[1, 5, 5, 3]) {
            const zero: f32[] = splat(0.0)
            y = pad[low=[0, 1, 1, 0], high=[0, 1, 1, 0]](x, zero)
            return y
        }",
        "(x: f32, out y: f32)
        map {
            for i0 in 21:
                y[i0] = 0.0
            for i1 in 5, i2 in 3:
                y[21*i1 + i2 + 21] = 0.0
            for i3 in 5, i4 in 15:
                y[21*i3 + i4 + 24] = x[15*i3 + i4]
            for i5 in 5, i6 in 3:
                y[21*i5 + i6 + 39] = 0.0
            for i7 in 21:
                y[i7 + 126] = 0.0
        }",
    );
}

#[test]
fn indices_are_read_once_per_slice() {
    check(
        "graph g(table: f32[100, 8], i: i64[N]) { y = gather[axis=0](table, i) return y }",
        "(i: i64, table: f32, out y: f32)
        map {
            for i0 in N, i1 in 8:
                let g0 = select(lt(i[i0], 0), (i[i0] + (100)), i[i0]) within 100
                y[8*i0 + i1] = table[8*g0 + i1]
        }",
    );
}

#[test]
fn softmax_keeps_its_exponentials() {
    check(
        "graph g(x: f32[B, 64]) { y = softmax[axes=[1]](x) return y }",
        "(x: f32, out y: f32)
        rows for i0 in B over r0 in 64, lanes r0, tile 1 {
            over the row:
                v0 = max(x[64*i0 + r0])
            over the row:
                t0 = exp((x[64*i0 + r0] - v0))
                y[64*i0 + r0] = t0
                v1 = sum(t0)
            over the row:
                y[64*i0 + r0] = y[64*i0 + r0]*(1.0/v1)
        }",
    );
}

#[test]
fn normalisation_over_groups_of_channels_needs_no_reshape() {
    check(
        "graph g(x: f32[2, 6, 5]) {
            groups = reshape[shape=[2, 3, 10]](x)
            mean = reduce_mean[axes=[2]](groups)
            centred = sub(groups, mean)
            y = reshape[shape=[2, 6, 5]](centred)
            return y
        }",
        "(x: f32, out y: f32)
        rows for i0 in 6 over r0 in 10, lanes r0, tile 1 {
            over the row:
                v0 = sum(x[10*i0 + r0])
            over the row:
                y[10*i0 + r0] = (x[10*i0 + r0] - v0/10.0)
        }",
    );
}

#[test]
fn a_depthwise_convolution_is_a_sum_over_its_window() {
    check(
        "graph g(x: f32[1, 9, 9, 32], w: f32[3, 3, 1, 32], b: f32[32]) {
            y = conv[stride=[1, 1], pad=[0, 0, 0, 0], dilation=[1, 1], group=32, layout=last](x, w)
            z = add(y, b)
            return z
        }",
        "(b: f32, x: f32, w: f32, out z: f32)
        rows for i0 in 7, i1 in 7, i2 in 32 over r0 in 3, r1 in 3, lanes i2, tile 7 {
            over the row:
                v0 = sum(x[288*i0 + 32*i1 + i2 + 288*r0 + 32*r1]*w[i2 + 96*r0 + 32*r1])
            once:
                z[224*i0 + 32*i1 + i2] = (v0 + b[i2])
        }",
    );
}

#[test]
fn rows_of_a_convolution_window_are_one_run() {
    check(
        "graph g(x: f32[1, 9, 9, 8]) {
            const w: f32[3, 3, 8, 32] = random(1)
            const b: f32[32] = random(2)
            y = conv[stride=[1, 1], pad=[0, 0, 0, 0], dilation=[1, 1], layout=last](x, w)
            z = add(y, b)
            r = relu(z)
            return r
        }",
        "(x: f32, panels: f32, b: f32, out r: f32)
        contract rows m0 in 7, m1 in 7, cols n in 32, k k0 in 3, k1 in 24, split Rows {
            acc = sum(x[72*k0 + k1 + 72*m0 + 8*m1] * panels.panels[0])
            r[224*m0 + 32*m1 + n] = max((acc + b[n]), 0.0)
        }",
    );
}

#[test]
fn heads_are_strides_of_a_product() {
    // The product of all heads is written head by head, and read the same way by the next one.
    check(
        "graph g(x: f32[S, 16]) {
            const w: f32[16, 64] = random(1)
            p = matmul(x, w)
            heads = reshape[shape=[S, 2, 32]](p)
            y = transpose[perm=[1, 0, 2]](heads)
            return y
        }",
        "(x: f32, panels: f32, out y: f32)
        contract batch b0 in 2, rows m0 in S, cols n in 32, k k0 in 16, split Rows {
            acc = sum(x[k0 + 16*m0] * panels.panels[512*b0])
            y[32*S*b0 + 32*m0 + n] = acc
        }",
    );
    check(
        "graph g(y: f32[2, S, 32]) {
            const w: f32[64, 16] = random(1)
            heads = transpose[perm=[1, 0, 2]](y)
            x = reshape[shape=[S, 64]](heads)
            p = matmul(x, w)
            return p
        }",
        "(y: f32, panels: f32, out p: f32)
        contract rows m0 in S, cols n in 16, k k0 in 2, k1 in 32, split Rows {
            acc = sum(y[32*S*k0 + k1 + 32*m0] * panels.panels[0])
            p[16*m0 + n] = acc
        }",
    );
}

#[test]
fn an_operand_that_lies_the_wrong_way_is_packed_first() {
    check(
        "graph g(q: f32[9, 8], k: f32[16, 8]) { t = transpose[perm=[1, 0]](k) y = matmul(q, t) return y }",
        "(k: f32, out t.panels: f32)
        map {
            for i0 in 8, i1 in 16:
                t.panels[16*i0 + i1] = k[i0 + 8*i1]
        }
        (q: f32, t.panels: f32, out y: f32)
        contract rows m0 in 9, cols n in 16, k k0 in 8, split Rows {
            acc = sum(q[k0 + 8*m0] * t.panels.panels[0])
            y[16*m0 + n] = acc
        }",
    );
}
