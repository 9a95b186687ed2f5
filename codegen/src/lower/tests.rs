//! Small regions, lowered as one kernel node and op by op, against the reference evaluator.

use crate::target::Target;
use crate::testing::{check, run_compiled};
use egret_ir::{DType, Element, Tensor, text};

#[test]
fn views() {
    check(&[
        ("graph g(x: f32[6, 4]) { a = reshape[shape=[3, 8]](x) b = neg(a) return b }", &[]),
        (
            "graph g(x: f32[2, 3, 4]) { a = transpose[perm=[2, 0, 1]](x) b = reshape[shape=[4, 6]](a) c = transpose[perm=[1, 0]](b) return c }",
            &[],
        ),
        ("graph g(x: f32[4, 6]) { a = transpose[perm=[1, 0]](x) b = reshape[shape=[3, 8]](a) return b }", &[]),
        ("graph g(x: f32[5, 24]) { a = reshape[shape=[5, 3, 8]](x) b = transpose[perm=[1, 0, 2]](a) return b }", &[]),
        ("graph g(x: f32[3, 5, 8]) { b = transpose[perm=[1, 0, 2]](x) a = reshape[shape=[5, 24]](b) return a }", &[]),
        ("graph g(x: f32[H, S, 8]) { b = transpose[perm=[1, 0, 2]](x) a = reshape[shape=[S, 8*H]](b) return a }", &[("H", 3), ("S", 5)]),
        ("graph g(x: f32[S, 24]) { b = reshape[shape=[S, 3, 8]](x) a = transpose[perm=[1, 0, 2]](b) return a }", &[("S", 5)]),
        ("graph g(x: f32[N, 1, 3]) { b = broadcast[shape=[N, 4, 3]](x) c = reshape[shape=[4*N, 3]](b) return c }", &[("N", 2)]),
        ("graph g(x: f32[8, 9]) { a = slice[start=[1, 8], shape=[3, 4], step=[2, -2]](x) b = exp(a) return b }", &[]),
        (
            "graph g(x: f32[7]) { a = slice[start=[6], shape=[6], step=[-1]](x) b = reshape[shape=[2, 3]](a) c = transpose[perm=[1,0]](b) return c }",
            &[],
        ),
        (
            "graph g(x: f32[8]) { a = slice[start=[1], shape=[6], step=[1]](x) b = reshape[shape=[2, 3]](a) c = reshape[shape=[3, 2]](b) return c }",
            &[],
        ),
        ("graph g(x: f32[5, 6]) { a = transpose[perm=[1, 0]](x) b = reshape[shape=[5, 6]](a) c = add(b, x) return c }", &[]),
        (
            "graph g(x: f32[12, 4]) { a = transpose[perm=[1, 0]](x) b = reshape[shape=[6, 8]](a) c = transpose[perm=[1, 0]](b) d = reshape[shape=[48]](c) return d }",
            &[],
        ),
        (
            "graph g(x: f32[2, 3, 5]) { a = transpose[perm=[0, 2, 1]](x) b = reshape[shape=[30]](a) c = reshape[shape=[6, 5]](b) return c }",
            &[],
        ),
        ("graph g(x: f32[]) { b = broadcast[shape=[3, 2]](x) c = neg(x) return b, c }", &[]),
        ("graph g(x: f32[1, 1]) { b = reshape[shape=[]](x) c = neg(b) return c }", &[]),
        ("graph g(x: f32[0, 4]) { b = neg(x) return b }", &[]),
        ("graph g(x: f32[N, 4]) { b = neg(x) return b }", &[("N", 0)]),
        ("graph g(x: f32[N, 3]) { b = reshape[shape=[3, N]](x) c = exp(b) d = transpose[perm=[1, 0]](c) return d }", &[("N", 4)]),
        ("graph g(x: f32[3, 4], y: f32[5]) { a = neg(x) b = exp(y) c = transpose[perm=[1, 0]](a) return a, b, c, x }", &[]),
    ]);
}

#[test]
fn joins() {
    check(&[
        ("graph g(x: f32[3, 4], y: f32[3, 2]) { a = concat[axis=1](x, y) return a }", &[]),
        ("graph g(x: f32[3, 4], y: f32[2, 4], z: f32[1, 4]) { a = concat[axis=0](x, y, z) b = neg(a) return b }", &[]),
        ("graph g(x: f32[P, 4], y: f32[T, 4]) { a = neg(y) b = concat[axis=0](x, a) return b }", &[("P", 3), ("T", 2)]),
        (
            "graph g(x: f32[2, P, 4], y: f32[2, T, 4]) { b = concat[axis=1](x, y) c = slice[start=[0, 1, 0], shape=[2, T + P - 1, 4], step=[1, 1, 1]](b) return c }",
            &[("P", 3), ("T", 2)],
        ),
        ("graph g(x: f32[3, 4], v: f32[]) { a = pad[low=[1, 2], high=[0, 1]](x, v) return a }", &[]),
        (
            "graph g(x: f32[1, 5, 5, 3]) { const v: f32[] = splat(0.0) b = relu(x) a = pad[low=[0, 1, 1, 0], high=[0, 1, 1, 0]](b, v) return a }",
            &[],
        ),
        ("graph g(x: f32[3, H]) { const v: f32[] = splat(2.0) a = pad[low=[0, 1], high=[0, H]](x, v) b = neg(a) return b }", &[("H", 4)]),
        (
            "graph g(x: f32[4, 6], c: f32[4, 3], s: f32[4, 3]) { a = slice[start=[0,0], shape=[4,3], step=[1,2]](x) b = slice[start=[0,1], shape=[4,3], step=[1,2]](x) ac = mul(a, c) bs = mul(b, s) d = sub(ac, bs) r = reshape[shape=[4,3,1]](d) q = reshape[shape=[4,3,1]](a) j = concat[axis=2](r, q) z = reshape[shape=[4, 6]](j) return z }",
            &[],
        ),
        ("graph g(x: f32[2, 3], y: f32[2, 3]) { a = concat[axis=0](x, y) b = reshape[shape=[12]](a) return b }", &[]),
        ("graph g(x: f32[2, 3], y: f32[2, 5]) { a = concat[axis=1](x, y) b = reshape[shape=[16]](a) return b }", &[]),
        ("graph g(x: f32[2, 3], y: f32[2, 3], i: i64[4]) { a = concat[axis=0](x, y) b = transpose[perm=[1,0]](a) return a, b }", &[]),
        (
            "graph g(x: f32[2, 3], y: f32[3, 3]) { a = concat[axis=0](x, y) b = transpose[perm=[1,0]](a) c = reshape[shape=[5, 3]](b) return c }",
            &[],
        ),
        (
            "graph g(x: f32[7], y: f32[5]) { a = concat[axis=0](x, y) b = reshape[shape=[3, 4]](a) c = transpose[perm=[1,0]](b) return c }",
            &[],
        ),
        (
            "graph g(x: f32[3, 4]) { const v: f32[] = splat(1.0) a = pad[low=[1, 2], high=[0, 1]](x, v) b = reshape[shape=[28]](a) return b }",
            &[],
        ),
        (
            "graph g(x: f32[2, 3, 1]) { const v: f32[] = splat(0.0) a = pad[low=[0,0,0], high=[0,0,2]](x, v) b = reshape[shape=[2, 9]](a) return b }",
            &[],
        ),
    ]);
}

#[test]
fn reads() {
    check(&[
        ("graph g(x: f32[5, 4], i: i64[3]) { a = gather[axis=0](x, i) return a }", &[]),
        ("graph g(x: f32[5, 4, 6], i: i32[3, 2]) { a = gather[axis=1](x, i) b = exp(a) return b }", &[]),
        ("graph g(x: f32[5, 4], i: i64[5, 2], j: i64[3, 2]) { a = gather_elements[axis=1](x, i) b = gather_nd(x, j) return a, b }", &[]),
        (
            "graph g(x: f32[50, 4], e: i64[2, 3]) { c = iota[shape=[2,3], axis=1, dtype=i64]() d = neg(c) a = gather[axis=0](x, d) b = gather[axis=0](x, c) f = add(a, b) return f }",
            &[],
        ),
        ("graph g(x: f32[4, 6]) { c = iota[shape=[4, 2], axis=1, dtype=i64]() a = gather_elements[axis=1](x, c) return a }", &[]),
        (
            "graph g(x: f32[2, 4, 6]) { c = iota[shape=[2, 3, 1], axis=1, dtype=i64]() d = neg(c) a = gather_nd[batch=1](x, d) return a }",
            &[],
        ),
        ("graph g(x: f32[N, M]) { d = dims[values=[N, 2*M + 1]]() return d }", &[("N", 3), ("M", 4)]),
        ("graph g(x: f32[3, 5]) { i = iota[shape=[3, 5], axis=1, dtype=f32]() y = mul(x, i) return y }", &[]),
        (
            "graph g(x: f32[4, 4]) { i = iota[shape=[4, 4], axis=0, dtype=i64]() j = iota[shape=[4,4], axis=1, dtype=i64]() m = le(j, i) z = sub(x, x) y = select(m, x, z) return y }",
            &[],
        ),
        (
            "graph g(x: f32[1, 3, 4, 5]) { y = resize[shape=[1,3,8,10], scales=[1.0,1.0,2.0,2.0], mode=nearest, coordinates=asymmetric, rounding=floor](x) return y }",
            &[],
        ),
        (
            "graph g(x: f32[1, 3, 4, 5]) { y = resize[shape=[1,3,8,10], scales=[1.0,1.0,2.0,2.0], mode=nearest, coordinates=half_pixel](x) return y }",
            &[],
        ),
        (
            "graph g(x: f32[1, 3, 4, 5]) { y = resize[shape=[1,3,6,7], scales=[1.0,1.0,1.5,1.4], mode=nearest, coordinates=align_corners](x) return y }",
            &[],
        ),
        (
            "graph g(x: f32[1, 4, 5, 2]) { y = resize[shape=[1,6,7,2], scales=[1.0,1.5,1.4,1.0], mode=linear, coordinates=pytorch_half_pixel](x) return y }",
            &[],
        ),
        (
            "graph g(x: f32[1, 4, 5, 2]) { y = resize[shape=[1,6,3,2], scales=[1.0,1.5,0.6,1.0], mode=cubic, coordinates=half_pixel](x) return y }",
            &[],
        ),
        (
            "graph g(x: f32[H, 3]) { y = resize[shape=[2*H,3], scales=[2.0,1.0], mode=linear, coordinates=half_pixel](x) return y }",
            &[("H", 5)],
        ),
        (
            "graph g(x: f32[H, 3]) { y = resize[shape=[2*H,3], scales=[2.0,1.0], mode=nearest, coordinates=align_corners, rounding=prefer_ceil](x) return y }",
            &[("H", 5)],
        ),
    ]);
}

#[test]
fn reductions() {
    check(&[
        ("graph g(x: f32[3, 4]) { a = reduce_sum[axes=[0]](x) return a }", &[]),
        ("graph g(x: f32[3, 4]) { a = reduce_mean[axes=[0, 1]](x) return a }", &[]),
        ("graph g(x: f32[3, 4]) { a = reduce_prod[axes=[1]](x) b = neg(a) return b }", &[]),
        ("graph g(x: f16[3, 4]) { a = reduce_mean[axes=[1]](x) return a }", &[]),
        (
            "graph g(x: i32[3, 4]) { a = reduce_max[axes=[1]](x) b = reduce_min[axes=[1]](x) c = reduce_mean[axes=[1]](x) return a, b, c }",
            &[],
        ),
        ("graph g(x: f32[3, 1]) { a = reduce_sum[axes=[1]](x) return a }", &[]),
        ("graph g(x: f32[3, N]) { a = reduce_mean[axes=[1]](x) return a }", &[("N", 5)]),
        ("graph g(x: f32[3, N]) { a = reduce_sum[axes=[1]](x) return a }", &[("N", 0)]),
        ("graph g(x: f32[2, 3, 5]) { a = softmax[axes=[1]](x) return a }", &[]),
        ("graph g(x: f32[2, 3, 5]) { a = log_softmax[axes=[1, 2]](x) return a }", &[]),
        (
            "graph g(x: f32[B, S, 8]) { const w: f32[8] = random(1) const b: f32[8] = random(2) a = layer_norm[axes=[2], epsilon=1e-5](x, w, b) return a }",
            &[("B", 2), ("S", 3)],
        ),
        (
            "graph g(x: f32[2, 3, 8], r: f32[2, 3, 8]) { const w: f32[8] = random(1) y = add(x, r) a = rms_norm[axes=[2], epsilon=1e-5](y, w) return a, y }",
            &[],
        ),
        (
            "graph g(x: f32[2, 6, 4, 5]) { s = reshape[shape=[2, 3, 40]](x) m = reduce_mean[axes=[2]](s) c = sub(s, m) q = mul(c, c) v = reduce_mean[axes=[2]](q) d = sqrt(v) n = div(c, d) y = reshape[shape=[2, 6, 4, 5]](n) return y }",
            &[],
        ),
        ("graph g(x: f32[3, 4]) { a = arg_max[axis=1](x) b = arg_min[axis=1, last=true](x) return a, b }", &[]),
        ("graph g(x: i64[3, 4]) { z = sub(x, x) a = arg_max[axis=0, last=true](z) return a }", &[]),
        ("graph g(x: f32[3, 4]) { a = reduce_sum[axes=[1]](x) b = reduce_sum[axes=[0]](x) c = add(a, b) return c }", &[]),
        ("graph g(x: f32[3, 4]) { a = softmax[axes=[1]](x) b = softmax[axes=[0]](a) return b, a }", &[]),
        ("graph g(x: f32[3, 4], y: f32[2, 3, 4]) { a = softmax[axes=[1]](x) b = add(a, y) return b }", &[]),
        ("graph g(x: f32[3, 4]) { a = softmax[axes=[1]](x) b = transpose[perm=[1, 0]](a) return b }", &[]),
        ("graph g(x: f32[4, 3]) { b = transpose[perm=[1, 0]](x) a = softmax[axes=[1]](b) return a }", &[]),
        ("graph g(x: f32[3, 4]) { a = reduce_max[axes=[1]](x) b = broadcast[shape=[3, 7]](a) c = exp(b) return c }", &[]),
        ("graph g(x: f32[3, 4]) { a = layer_norm[axes=[0, 1], epsilon=1e-3](x, x, x) m = reduce_mean[axes=[0, 1]](x) return a, m }", &[]),
        ("graph g(x: f32[3, 4], y: f32[3, 2]) { j = concat[axis=1](x, y) a = softmax[axes=[1]](j) return a }", &[]),
        (
            "graph g(x: f32[3, 4]) { const v: f32[] = splat(0.0) a = softmax[axes=[1]](x) p = pad[low=[1, 1], high=[1, 0]](a, v) return p }",
            &[],
        ),
        ("graph g(x: f32[3, 4]) { i = arg_max[axis=1](x) b = gather_elements[axis=1](x, i) c = exp(b) return c }", &[]),
        ("graph g(x: bf16[3, 4]) { a = softmax[axes=[1]](x) return a }", &[]),
        ("graph g(x: f64[3, 4]) { a = softmax[axes=[1]](x) return a }", &[]),
    ]);
}

#[test]
fn windows() {
    check(&[
        (
            "graph g(x: f32[2, 7, 8, 3]) { a = max_pool[kernel=[3, 2], stride=[2, 2], pad=[0,0,0,0], dilation=[1, 2], layout=last](x) return a }",
            &[],
        ),
        (
            "graph g(x: f32[2, 3, 7, 8]) { a = avg_pool[kernel=[3, 2], stride=[2, 1], pad=[0,0,0,0], dilation=[1, 1]](x) b = relu(a) return b }",
            &[],
        ),
        ("graph g(x: f32[2, 3, 7]) { a = max_pool[kernel=[1], stride=[2], pad=[0,0], dilation=[1]](x) return a }", &[]),
        (
            "graph g(x: f32[1, 7, 8, 6], w: f32[3, 3, 1, 6], b: f32[6]) { const v: f32[] = splat(0.0) a = conv[stride=[1, 1], pad=[0,0,0,0], dilation=[1, 1], group=6, layout=last](x, w) c = add(a, b) d = clip(c, v, b) p = pad[low=[0,1,1,0], high=[0,1,1,0]](d, v) return p }",
            &[],
        ),
        (
            "graph g(x: f32[1, 7, 8, 3], w: f32[3, 3, 1, 6]) { a = conv[stride=[2, 1], pad=[0,0,0,0], dilation=[1, 2], group=3, layout=last](x, w) return a }",
            &[],
        ),
        (
            "graph g(x: f32[N, H, 8, 16]) { a = avg_pool[kernel=[2, 2], stride=[2, 2], pad=[0,0,0,0], dilation=[1, 1], layout=last](x) return a }",
            &[("N", 2), ("H", 7)],
        ),
        (
            "graph g(x: i8[1, 4, 4, 2]) { a = max_pool[kernel=[2, 2], stride=[2, 2], pad=[0,0,0,0], dilation=[1, 1], layout=last](x) return a }",
            &[],
        ),
    ]);
}

#[test]
fn contractions() {
    check(&[
        (
            "graph g(x: f32[N, 7]) { const w: f32[7, 40] = random(1) const b: f32[40] = random(2) a = matmul(x, w) c = add(a, b) d = gelu(c) return d }",
            &[("N", 3)],
        ),
        ("graph g(x: f32[2, 3, 7], y: f32[7, 5]) { a = matmul(x, y) return a }", &[]),
        ("graph g(x: f32[2, 3, 7], y: f32[2, 7, 5]) { a = matmul(x, y) return a }", &[]),
        ("graph g(x: f32[2, 1, 3, 7], y: f32[4, 7, 5]) { a = matmul(x, y) return a }", &[]),
        ("graph g(x: f32[7], y: f32[7, 5]) { a = matmul(x, y) return a }", &[]),
        ("graph g(x: f32[3, 7], y: f32[7]) { a = matmul(x, y) return a }", &[]),
        ("graph g(x: f32[7], y: f32[7]) { a = matmul(x, y) return a }", &[]),
        ("graph g(y: f32[7]) { const w: f32[9, 7] = random(1) a = matmul(w, y) return a }", &[]),
        ("graph g(y: f32[7, 1]) { const w: f32[9, 7] = random(1) a = matmul(w, y) b = relu(a) return b }", &[]),
        ("graph g(y: f32[7, 6]) { const w: f32[9, 7] = random(1) a = matmul(w, y) return a }", &[]),
        ("graph g(x: f32[3, 1], y: f32[1, 4]) { a = matmul(x, y) return a }", &[]),
        ("graph g(x: f32[3, K], y: f32[K, 4]) { a = matmul(x, y) return a }", &[("K", 5)]),
        ("graph g(x: f32[3, K], y: f32[K, 4]) { a = matmul(x, y) return a }", &[("K", 0)]),
        ("graph g(x: f32[3, K], y: f32[N, K]) { t = transpose[perm=[1, 0]](y) a = matmul(x, t) return a }", &[("K", 5), ("N", 37)]),
        ("graph g(x: f32[9, 5], y: f32[37, 5]) { t = transpose[perm=[1, 0]](y) a = matmul(x, t) return a }", &[]),
        (
            "graph g(q: f32[2, 6, 8], k: f32[2, 6, 8]) { q1 = reshape[shape=[2, 6, 2, 4]](q) q2 = transpose[perm=[0, 2, 1, 3]](q1) k1 = reshape[shape=[2, 6, 2, 4]](k) k2 = transpose[perm=[0, 2, 3, 1]](k1) a = matmul(q2, k2) return a }",
            &[],
        ),
        (
            "graph g(p: f32[2, 2, 6, 6], v: f32[2, 6, 8]) { v1 = reshape[shape=[2, 6, 2, 4]](v) v2 = transpose[perm=[0, 2, 1, 3]](v1) a = matmul(p, v2) o = transpose[perm=[0, 2, 1, 3]](a) r = reshape[shape=[2, 6, 8]](o) return r }",
            &[],
        ),
        (
            "graph g(p: f32[B, 2, S, 4]) { const w: f32[8, 20] = random(1) o = transpose[perm=[0, 2, 1, 3]](p) r = reshape[shape=[B, S, 8]](o) a = matmul(r, w) return a }",
            &[("B", 2), ("S", 3)],
        ),
        (
            "graph g(x: f32[B, S, 8]) { const w: f32[8, 24] = random(1) const b: f32[24] = random(2) a = matmul(x, w) c = add(a, b) h = reshape[shape=[B, S, 3, 8]](c) t = transpose[perm=[0, 2, 1, 3]](h) return t }",
            &[("B", 2), ("S", 3)],
        ),
        (
            "graph g(x: f32[3, 8]) { const w: f32[8, 24] = random(1) a = matmul(x, w) b = slice[start=[0,0], shape=[3,12], step=[1,1]](a) c = slice[start=[0,12], shape=[3,12], step=[1,1]](a) return b, c }",
            &[],
        ),
        (
            "graph g(x: f32[3, 8]) { const w: f32[8, 24] = random(1) a = matmul(x, w) b = slice[start=[0,0], shape=[3,12], step=[1,1]](a) c = slice[start=[0,12], shape=[3,12], step=[1,1]](a) d = sigmoid(c) e = mul(b, d) return e }",
            &[],
        ),
        (
            "graph g(x: f32[3, 8]) { const w: f32[8, 24] = random(1) const u: f32[24, 5] = random(2) a = matmul(x, w) r = relu(a) b = matmul(r, u) return b }",
            &[],
        ),
        ("graph g(x: f32[3, 8]) { const w: f32[8, 24] = random(1) r = relu(x) a = matmul(r, w) s = softmax[axes=[1]](a) return s }", &[]),
        (
            "graph g(x: f32[3, 8], r: f32[3, 24]) { const w: f32[8, 24] = random(1) a = matmul(x, w) s = add(a, r) t = transpose[perm=[1, 0]](s) return t, s }",
            &[],
        ),
        ("graph g(x: i32[3, 8], y: i32[8, 4]) { a = matmul(x, y) return a }", &[]),
        ("graph g(x: f16[3, 8], y: f16[8, 4]) { a = matmul(x, y) return a }", &[]),
        ("graph g(x: f64[3, 8], y: f64[4, 8]) { t = transpose[perm=[1, 0]](y) a = matmul(x, t) return a }", &[]),
        ("graph g(x: f32[8, 3]) { const w: f32[8, 24] = splat(0.5) t = transpose[perm=[1, 0]](x) a = matmul(t, w) return a }", &[]),
        ("graph g(x: f32[1, 8]) { b = broadcast[shape=[3, 8]](x) const w: f32[8, 24] = random(1) a = matmul(b, w) return a }", &[]),
        (
            "graph g(x: f32[3, 8]) { const v: f32[] = splat(0.0) const w: f32[8, 24] = random(1) a = matmul(x, w) p = pad[low=[1, 0], high=[0, 1]](a, v) return p }",
            &[],
        ),
        ("graph g(x: f32[3, 8], y: f32[2, 8]) { const w: f32[8, 24] = random(1) j = concat[axis=0](x, y) a = matmul(j, w) return a }", &[]),
        ("graph g(x: f32[3, 5], y: f32[3, 3]) { const w: f32[8, 24] = random(1) j = concat[axis=1](x, y) a = matmul(j, w) return a }", &[]),
        (
            "graph g(x: f32[50, 8], e: i64[3]) { const w: f32[8, 24] = random(1) i = sub(e, e) j = gather[axis=0](x, i) a = matmul(j, w) return a }",
            &[],
        ),
        (
            "graph g(x: f32[3, 8], y: f32[3, 8]) { t = transpose[perm=[1, 0]](y) a = matmul(x, t) s = reduce_sum[axes=[1]](a) b = sub(a, s) return b }",
            &[],
        ),
        // convolutions
        (
            "graph g(x: f32[2, 6, 7, 3]) { const w: f32[3, 2, 3, 20] = random(1) a = conv[stride=[1, 2], pad=[0,0,0,0], dilation=[1, 1], layout=last](x, w) return a }",
            &[],
        ),
        (
            "graph g(x: f32[1, 6, 7, 3]) { const w: f32[3, 2, 3, 20] = random(1) const b: f32[20] = random(2) const v: f32[] = splat(0.0) a = conv[stride=[1, 1], pad=[0,0,0,0], dilation=[1, 3], layout=last](x, w) c = add(a, b) d = relu(c) p = pad[low=[0,1,1,0], high=[0,1,1,0]](d, v) return p }",
            &[],
        ),
        (
            "graph g(x: f32[1, 6, 7, 8]) { const w: f32[1, 1, 8, 20] = random(1) a = conv[stride=[1, 1], pad=[0,0,0,0], dilation=[1, 1], layout=last](x, w) return a }",
            &[],
        ),
        (
            "graph g(x: f32[1, 6, 7, 8]) { const w: f32[1, 1, 8, 20] = random(1) a = conv[stride=[2, 2], pad=[0,0,0,0], dilation=[1, 1], layout=last](x, w) return a }",
            &[],
        ),
        // Groups of so few filters that several share a vector.
        (
            "graph g(x: f32[2, 5, 6, 32], r: f32[2, 3, 4, 32]) { const w: f32[3, 3, 4, 32] = random(1) a = conv[stride=[1, 1], pad=[0,0,0,0], dilation=[1, 1], group=8, layout=last](x, w) b = add(a, r) c = relu(b) return c }",
            &[],
        ),
        (
            "graph g(x: f32[N, H, 9, 16], w: f32[2, 3, 2, 64]) { a = conv[stride=[1, 2], pad=[0,0,0,0], dilation=[2, 1], group=8, layout=last](x, w) b = transpose[perm=[0, 3, 1, 2]](a) return b }",
            &[("N", 2), ("H", 6)],
        ),
        (
            "graph g(x: f32[1, 5, 5, 16]) { const w: f32[3, 3, 2, 16] = random(1) a = conv[stride=[1, 1], pad=[0,0,0,0], dilation=[1, 1], group=8, layout=last](x, w) return a }",
            &[],
        ),
        (
            "graph g(x: f32[1, 5, 5, 48]) { const w: f32[3, 3, 4, 24] = random(1) a = conv[stride=[1, 1], pad=[0,0,0,0], dilation=[1, 1], group=12, layout=last](x, w) b = reshape[shape=[9, 24]](a) return b }",
            &[],
        ),
        (
            "graph g(x: f32[1, 4, 4, 96]) { const w: f32[3, 3, 8, 48] = random(1) a = conv[stride=[1, 1], pad=[0,0,0,0], dilation=[1, 1], group=12, layout=last](x, w) return a }",
            &[],
        ),
        (
            "graph g(x: f32[1, 6, 7, 8]) { const w: f32[3, 3, 2, 20] = random(1) a = conv[stride=[2, 1], pad=[0,0,0,0], dilation=[1, 2], group=4, layout=last](x, w) return a }",
            &[],
        ),
        (
            "graph g(x: f32[1, 6, 7, 8], w: f32[3, 3, 8, 5]) { a = conv[stride=[1, 1], pad=[0,0,0,0], dilation=[1, 1], layout=last](x, w) return a }",
            &[],
        ),
        (
            "graph g(x: f32[N, 2, H, W]) { const w: f32[5, 2, 3, 3] = random(1) a = conv[stride=[2, 1], pad=[0,0,0,0], dilation=[1, 1]](x, w) return a }",
            &[("N", 2), ("H", 6), ("W", 5)],
        ),
        (
            "graph g(x: f32[N, H, W, 2]) { const w: f32[3, 3, 2, 17] = random(1) a = conv[stride=[2, 1], pad=[0,0,0,0], dilation=[1, 1], layout=last](x, w) return a }",
            &[("N", 2), ("H", 6), ("W", 5)],
        ),
        (
            "graph g(x: f32[2, 9, 3]) { const w: f32[4, 3, 6] = random(1) a = conv[stride=[2], pad=[0,0], dilation=[1], layout=last](x, w) return a }",
            &[],
        ),
        (
            "graph g(x: f32[1, 4, 4, 4, 2]) { const w: f32[2, 2, 2, 2, 6] = random(1) a = conv[stride=[1,1,1], pad=[0,0,0,0,0,0], dilation=[1,1,1], layout=last](x, w) return a }",
            &[],
        ),
        (
            "graph g(x: f32[1, 4, 4, 4]) { const w: f32[4, 6, 1, 1] = random(1) t = transpose[perm=[2,3,0,1]](w) s = slice[start=[0,0,0,0], shape=[1,1,4,6], step=[1,1,1,1]](t) a = conv[stride=[1,1], pad=[0,0,0,0], dilation=[1,1], layout=last](x, s) return a }",
            &[],
        ),
    ]);
}

#[test]
fn attentions() {
    check(&[
        ("graph g(q: f32[2, 3, 5, 8], k: f32[2, 3, 7, 8], v: f32[2, 3, 7, 4]) { y = attention[scale=0.5](q, k, v) return y }", &[]),
        ("graph g(q: f32[5, 8], k: f32[7, 8], v: f32[7, 20]) { y = attention[scale=1.0, causal=true](q, k, v) return y }", &[]),
        // Straight from the projections' layout and back into it.
        (
            "graph g(x: f32[2, 9, 48]) {
                s = reshape[shape=[2, 9, 3, 2, 8]](x)
                q0 = slice[start=[0, 0, 0, 0, 0], shape=[2, 9, 1, 2, 8], step=[1, 1, 1, 1, 1]](s)
                k0 = slice[start=[0, 0, 1, 0, 0], shape=[2, 9, 1, 2, 8], step=[1, 1, 1, 1, 1]](s)
                v0 = slice[start=[0, 0, 2, 0, 0], shape=[2, 9, 1, 2, 8], step=[1, 1, 1, 1, 1]](s)
                q1 = reshape[shape=[2, 9, 2, 8]](q0)
                k1 = reshape[shape=[2, 9, 2, 8]](k0)
                v1 = reshape[shape=[2, 9, 2, 8]](v0)
                q = transpose[perm=[0, 2, 1, 3]](q1)
                k = transpose[perm=[0, 2, 1, 3]](k1)
                v = transpose[perm=[0, 2, 1, 3]](v1)
                a = attention[scale=0.25](q, k, v)
                t = transpose[perm=[0, 2, 1, 3]](a)
                y = reshape[shape=[2, 9, 16]](t)
                return y
            }",
            &[],
        ),
        // Heads that share keys; masks that are added, that choose, that are computed and looked up.
        (
            "graph g(q: f32[2, 2, 3, 5, 8], k: f32[2, 2, 1, 6, 8], v: f32[2, 2, 1, 6, 8], m: f32[5, 6]) {
                y = attention[scale=0.3](q, k, v, m) return y
            }",
            &[],
        ),
        (
            "graph g(x: f32[1, 20, 4, 8], k: f32[1, 2, 1, 20, 8], v: f32[1, 2, 1, 20, 8]) {
                x5 = reshape[shape=[1, 20, 2, 2, 8]](x)
                q = transpose[perm=[0, 2, 3, 1, 4]](x5)
                a = attention[scale=0.3, causal=true](q, k, v)
                t = transpose[perm=[0, 3, 1, 2, 4]](a)
                y = reshape[shape=[1, 20, 32]](t)
                return y
            }",
            &[],
        ),
        (
            "graph g(q: f32[B, 2, M, 8], k: f32[B, 2, N, 8], v: f32[B, 2, N, 8], m: bool[B, 1, 1, N]) {
                a = attention[scale=0.3](q, k, v, m)
                y = relu(a)
                return y
            }",
            &[("B", 2), ("M", 11), ("N", 35)],
        ),
        (
            "graph g(q: f32[2, 3, 8], k: f32[2, 4, 8], v: f32[2, 4, 8], m: f32[2, 1, 4], r: f32[2, 3, 8]) {
                const three: f32[] = 3.0
                b = mul(m, three)
                s = reduce_sum[axes=[2]](b)
                c = sub(b, s)
                a = attention[scale=0.3, causal=true](q, k, v, c)
                y = add(a, r)
                return y
            }",
            &[],
        ),
        (
            "graph g(q: f32[2, 3, 8], k: f32[2, 4, 8], v: f32[2, 4, 8], t: f32[5], i: i64[3, 4]) {
                b = gather[axis=0](t, i) y = attention[scale=0.3](q, k, v, b) return y
            }",
            &[],
        ),
        // Operands that lie across, and that have to be computed first.
        (
            "graph g(q: f32[2, 8, 3], k: f32[2, 8, 19], v: f32[2, 8, 19]) {
                qt = transpose[perm=[0, 2, 1]](q)
                kt = transpose[perm=[0, 2, 1]](k)
                vt = transpose[perm=[0, 2, 1]](v)
                y = attention[scale=0.3](qt, kt, vt)
                return y
            }",
            &[],
        ),
        (
            "graph g(x: f32[4, 3, 8]) {
                const half: f32[] = 0.5
                q = mul(x, half) k = neg(x) a = attention[scale=0.3](q, k, x) y = attention[scale=0.7](a, x, a) return y
            }",
            &[],
        ),
        (
            "graph g(x: f32[K, 8, N], v: f32[K, N, 8]) {
                k = transpose[perm=[2, 0, 1]](x)
                u = transpose[perm=[1, 0, 2]](v)
                y = attention[scale=0.3](k, k, u)
                z = cast[to=f16](y)
                return z
            }",
            &[("K", 3), ("N", 4)],
        ),
        // Extents of one and of nothing.
        ("graph g(q: f32[3, 1], k: f32[1, 1], v: f32[1, 1]) { y = attention[scale=2.0](q, k, v) return y }", &[]),
        ("graph g(q: f32[1, 16], k: f32[N, 16], v: f32[N, 16]) { y = attention[scale=2.0](q, k, v) return y }", &[("N", 0)]),
        ("graph g(q: f32[0, 16], k: f32[3, 16], v: f32[3, 16]) { y = attention[scale=2.0](q, k, v) return y }", &[]),
        ("graph g(q: f32[M, 16], k: f32[2, 16], v: f32[2, 16]) { y = attention[scale=2.0, causal=true](q, k, v) return y }", &[("M", 5)]),
    ]);
}

#[test]
fn recurrences() {
    check(&[
        (
            "graph g(x: f32[5, 2, 3], w: f32[16, 3], r: f32[16, 4], b: f32[32], h: f32[2, 4], c: f32[2, 4]) { y, s, t = lstm(x, w, r, b, h, c) return y, s, t }",
            &[],
        ),
        (
            "graph g(x: f32[T, B, 3], h: f32[B, 20], c: f32[B, 20]) { const w: f32[80, 3] = random(1) const r: f32[80, 20] = random(2) const b: f32[160] = random(3) y, s, t = lstm[direction=reverse](x, w, r, b, h, c) return y, t, s }",
            &[("T", 4), ("B", 2)],
        ),
        (
            "graph g(x: f32[T, 2, 3], h: f32[2, 4]) { const w: f32[12, 3] = random(1) const r: f32[12, 4] = random(2) const b: f32[24] = random(3) y, s = gru(x, w, r, b, h) return y, s }",
            &[("T", 4)],
        ),
        (
            "graph g(x: f32[4, 2, 3], h: f32[2, 4], b: f32[24]) { const w: f32[12, 3] = random(1) const r: f32[12, 4] = random(2) y, s = gru[direction=reverse, linear_before_reset=true](x, w, r, b, h) return y }",
            &[],
        ),
        (
            "graph g(x: f32[4, 2, 3], h: f32[2, 4]) { const w: f32[4, 3] = random(1) const r: f32[4, 4] = random(2) const b: f32[8] = random(3) y, s = rnn(x, w, r, b, h) u, v = rnn[activation=relu](y, r, r, b, s) z = relu(u) return z, v }",
            &[],
        ),
    ]);
}

#[test]
fn orders() {
    check(&[
        ("graph g(x: f32[3, 70]) { y = cumsum[axis=1, reverse=true](x) z = cumprod[axis=0](x) return y, z }", &[]),
        (
            "graph g(x: f32[B, N, 40]) { y = cumsum[axis=1](x) z = cumsum[axis=1, reverse=true, exclusive=true](x) return y, z }",
            &[("B", 3), ("N", 5)],
        ),
        ("graph g(x: f32[B, N]) { y = cumsum[axis=1](x) z = cumprod[axis=0, exclusive=true](x) return y, z }", &[("B", 2), ("N", 0)]),
        ("graph g(x: f16[2, 50], y: bf16[50, 3]) { a = cumsum[axis=1](x) b = cumprod[axis=0](y) return a, b }", &[]),
        (
            "graph g(x: u8[2, 50], y: f64[4, 20]) { a = cumsum[axis=1](x) b = cumsum[axis=0](y) c = exp(y) d = cumsum[axis=1](c) return a, b, d }",
            &[],
        ),
        ("graph g(x: f32[3, 4, 2]) { y = cumsum[axis=1](x) z = cumsum[axis=1, exclusive=true](x) a = add(y, z) return y, a }", &[]),
        (
            "graph g(x: i64[N]) { y = cumsum[axis=0, reverse=true](x) z = cumsum[axis=0, exclusive=true, reverse=true](x) return y, z }",
            &[("N", 5)],
        ),
        ("graph g(x: f32[2, 9]) { v, i = top_k[axis=1, k=3](x) return v, i }", &[]),
        ("graph g(x: i32[7, 2]) { v, i = top_k[axis=0, k=4, largest=false](x) return v, i }", &[]),
        (
            "graph g(x: f32[2, N]) { z = sub(x, x) l = log(z) d = div(z, z) j = concat[axis=1](l, d, x) v, i = top_k[axis=1, k=N](j) w = neg(v) return w, i }",
            &[("N", 4)],
        ),
    ]);
}

#[test]
fn scatters() {
    check(&[
        (
            "graph g(x: f32[4, 40], i: i64[7, 40], u: f32[7, 40]) { y = scatter_elements[axis=0, mode=add](x, i, u) z = neg(y) return y, z }",
            &[],
        ),
        (
            "graph g(x: f32[B, 4, 33], i: i32[B, N, 20], u: f32[B, N, 20]) { y = scatter_elements[axis=1](x, i, u) return y }",
            &[("B", 2), ("N", 9)],
        ),
        (
            "graph g(x: f16[3, 90], i: i64[3, 8], u: f16[3, 8], v: f16[3, 8]) { y = scatter_elements[axis=1](x, i, u) z = scatter_elements[axis=1, mode=add](x, i, v) return y, z }",
            &[],
        ),
        (
            "graph g(x: u8[3, 50], i: i64[2, 50], u: u8[2, 50]) { y = scatter_elements[axis=0, mode=max](x, i, u) z = scatter_elements[axis=0](x, i, u) return y, z }",
            &[],
        ),
        (
            "graph g(x: bf16[4, 50], i: i64[N, 1], u: bf16[N, 50]) { y = scatter_nd(x, i, u) z = scatter_nd[mode=mul](x, i, u) return y, z }",
            &[("N", 6)],
        ),
        (
            "graph g(x: f64[4, 3, 21], i: i64[5, 2], u: f64[5, 21], e: f64[4, 3, 21]) { a = add(x, e) y = scatter_nd[mode=max](a, i, u) z = mul(y, e) return z }",
            &[],
        ),
        ("graph g(x: f32[3], i: i64[N, 1], u: f32[N]) { y = scatter_nd[mode=add](x, i, u) return y }", &[("N", 0)]),
        ("graph g(x: f32[5, 2], i: i64[3, 0], u: f32[3, 5, 2]) { y = scatter_nd(x, i, u) return y }", &[]),
        ("graph g(x: f32[4, 3], i: i64[2, 3], u: f32[2, 3]) { y = scatter_elements[axis=0](x, i, u) return y }", &[]),
        ("graph g(x: f32[4, 5], i: i64[2, 3], u: f32[2, 3]) { y = scatter_elements[axis=1](x, i, u) z = relu(y) return z }", &[]),
        (
            "graph g(x: f32[4, 5], i: i64[2, 3], u: f32[2, 3]) { y = scatter_elements[axis=1, mode=add](x, i, u) z = scatter_elements[axis=0, mode=max](x, i, u) return y, z }",
            &[],
        ),
        (
            "graph g(x: i32[4, 5], i: i64[4, 3], u: i32[4, 3]) { y = scatter_elements[axis=1, mode=mul](x, i, u) z = scatter_elements[axis=1, mode=min](x, i, u) return y, z }",
            &[],
        ),
        ("graph g(x: f32[4, 5, 2], i: i64[3, 1], u: f32[3, 5, 2]) { y = scatter_nd(x, i, u) return y }", &[]),
        (
            "graph g(x: f32[4, N, 2], i: i64[3, 2, 2], u: f32[3, 2, 2]) { y = scatter_nd(x, i, u) z = scatter_nd[mode=add](x, i, u) return y, z }",
            &[("N", 3)],
        ),
        ("graph g(x: f32[4, 3], i: i64[5, 2], u: f32[5]) { y = scatter_nd[mode=min](x, i, u) return y }", &[]),
    ]);
}

/// What the standard leaves open, and what must not become a store outside of a buffer.
#[test]
fn indices_outside_change_nothing() {
    let numbers = |shape: &[usize], from: i32| {
        let count = shape.iter().product::<usize>() as i32;
        Tensor::from_elements(DType::F32, shape.to_vec(), (0..count).map(|i| Element::Float(f64::from(from + i))))
    };
    for (source, shape, indices) in [
        (
            "graph g(x: f32[4], i: i64[5, 1], u: f32[5]) { y = scatter_nd[mode=add](x, i, u) return y }",
            vec![5, 1],
            [4i64, -5, 1, i64::MAX, -1],
        ),
        (
            "graph g(x: f32[4], i: i64[5], u: f32[5]) { y = scatter_elements[axis=0, mode=add](x, i, u) return y }",
            vec![5],
            [9, i64::MIN, 1, 4, -1],
        ),
    ] {
        let graph = text::parse(source).unwrap();
        let inputs = [numbers(&[4], 0), Tensor::from_i64s(shape, &indices), numbers(&[5], 10)];
        let found = run_compiled(&graph, &Target::native().unwrap(), 1, &inputs).unwrap();
        let found: Vec<f64> = found[0].elements().map(|e| e.as_f64()).collect();
        assert_eq!(found, [0.0, 13.0, 2.0, 17.0], "{source}");
    }
}
