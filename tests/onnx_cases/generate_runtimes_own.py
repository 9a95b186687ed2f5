#!/usr/bin/env python3
"""Writes runtimes_own.tar.xz: cases of operators of com.microsoft, with the outputs that ONNX Runtime computes.

    python3 -m venv venv && venv/bin/pip install onnx==1.23.2 onnxruntime==1.31.1
    venv/bin/python generate_runtimes_own.py runtimes_own.tar.xz
"""

import argparse
import io
import json
import lzma
import tarfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

RANDOM = np.random.default_rng(0)

# ONNX Runtime rounds the hidden state to u8 at every step, which Egret does not.
ROUNDED = {"rtol": 0.02, "atol": 0.002}
TOLERANCES = [{"name": f"dynamic_quantize_lstm{kind}", **ROUNDED} for kind in ("", "_both")]


def f(*shape):
    """Normal numbers."""
    return RANDOM.standard_normal(shape).astype(np.float32)


def model(name, op, inputs, outputs, attributes):
    """A model of one node; `inputs` and `outputs` are pairs of a name and a value, `None` where one is left out."""
    info = lambda n, v: helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
    node = helper.make_node(op, [n if v is not None else "" for n, v in inputs], [n for n, _ in outputs], domain="com.microsoft", **attributes)
    given = [info(n, v) for n, v in inputs if v is not None]
    made = [info(n, v) if v is not None else onnx.ValueInfoProto(name=n) for n, v in outputs if n]
    graph = helper.make_graph([node], name, given, made)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def case(name, op, values, attributes, outputs=("o0",)):
    """The files of a case; an output left out has an empty name."""
    inputs = [(f"i{i}", value) for i, value in enumerate(values)]
    given = {n: v for n, v in inputs if v is not None}
    unknown = model(name, op, inputs, [(o, None) for o in outputs], attributes)
    session = onnxruntime.InferenceSession(unknown.SerializeToString(), providers=["CPUExecutionProvider"])
    found = dict(zip((o for o in outputs if o), session.run(None, given)))
    whole = model(name, op, inputs, [(o, found.get(o)) for o in outputs], attributes)
    yield f"{name}/model.onnx", whole.SerializeToString()
    for kind, tensors in (("input", given), ("output", found)):
        for i, (n, value) in enumerate(tensors.items()):
            yield f"{name}/test_data_set_0/{kind}_{i}.pb", numpy_helper.from_array(value, n).SerializeToString()


def cases():
    """The files of all cases."""
    x = f(2, 5, 8)
    yield from case("gelu", "Gelu", [x], {})
    yield from case("fast_gelu", "FastGelu", [x], {})
    yield from case("fast_gelu_bias", "FastGelu", [x, f(8)], {})
    yield from case("bias_gelu", "BiasGelu", [x, f(8)], {})
    yield from case("quick_gelu", "QuickGelu", [x], {"alpha": 1.3})
    yield from case("quick_gelu_default", "QuickGelu", [x], {})
    yield from case("fused_matmul_b", "FusedMatMul", [f(2, 3, 4), f(2, 5, 4)], {"transB": 1, "alpha": 0.25})
    yield from case("fused_matmul_a", "FusedMatMul", [f(4, 3), f(4, 5)], {"transA": 1})
    activations = {"Relu": [], "LeakyRelu": [0.2], "Clip": [-0.5, 0.5], "HardSigmoid": [0.2, 0.5], "Tanh": [], "Sigmoid": []}
    for name, parameters in activations.items():
        attributes = {"activation": name, "pads": [1, 1, 1, 1]} | ({"activation_params": parameters} if parameters else {})
        yield from case(f"fused_conv_{name}", "FusedConv", [f(1, 3, 6, 6), f(4, 3, 3, 3), f(4)], attributes)
    summed = [f(1, 3, 6, 6), f(4, 3, 3, 3), f(4), f(1, 4, 6, 6)]
    yield from case("fused_conv_sum", "FusedConv", summed, {"activation": "Relu", "pads": [1, 1, 1, 1]})
    epsilon, with_sum = {"epsilon": 1e-5}, ("o0", "", "", "o3")
    yield from case("skip_layer_norm", "SkipLayerNormalization", [x, f(2, 5, 8), f(8), f(8), f(8)], epsilon, with_sum)
    yield from case("skip_layer_norm_plain", "SkipLayerNormalization", [x, f(2, 5, 8), f(8)], epsilon)
    yield from case("skip_rms_norm", "SkipSimplifiedLayerNormalization", [x, f(2, 5, 8), f(8)], epsilon, with_sum)
    words, segments = RANDOM.integers(0, 9, (2, 5)).astype(np.int32), RANDOM.integers(0, 2, (2, 5)).astype(np.int32)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    tables = [f(10, 8), f(6, 8), f(2, 8), f(8), f(8)]
    yield from case("embed_layer_norm", "EmbedLayerNormalization", [words, segments, *tables, mask], epsilon, ("o0", "o1"))
    heads, packed = {"num_heads": 2}, [x, f(8, 24), f(24)]
    yield from case("attention", "Attention", packed, heads)
    yield from case("attention_mask", "Attention", [*packed, mask], heads)
    yield from case("attention_causal", "Attention", packed, heads | {"unidirectional": 1})
    apart = [f(2, 5, 8), f(2, 7, 8), f(2, 7, 8)]
    padding = np.array([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]], np.int32)
    yield from case("multi_head", "MultiHeadAttention", apart, heads)
    yield from case("multi_head_bias", "MultiHeadAttention", [*apart, f(24)], heads)
    yield from case("multi_head_mask", "MultiHeadAttention", [*apart, None, padding], heads)
    past = [f(2, 1, 8), f(2, 1, 8), f(2, 1, 8), None, None, None, f(2, 2, 4, 4), f(2, 2, 4, 4)]
    yield from case("multi_head_past", "MultiHeadAttention", past, heads, ("o0", "o1", "o2"))
    places = np.array([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]], np.int64)
    turns = [f(8, 4), f(8, 4)]
    yield from case("rotary", "RotaryEmbedding", [f(2, 5, 16), places, *turns], {})
    yield from case("rotary_interleaved", "RotaryEmbedding", [f(2, 5, 16), places, *turns], {"interleaved": 1})
    yield from case("rotary_heads", "RotaryEmbedding", [f(2, 2, 5, 8), places, *turns], {})
    yield from case("rotary_offset", "RotaryEmbedding", [f(2, 5, 16), np.array([2], np.int64), *turns], {})
    part = {"num_heads": 2, "rotary_embedding_dim": 4}
    yield from case("rotary_part", "RotaryEmbedding", [f(2, 5, 16), places, f(8, 2), f(8, 2)], part)
    yield from quantised()
    yield from n_bits()
    yield from grouped_query()


def u8(*shape):
    return RANDOM.integers(0, 256, shape).astype(np.uint8)


def s8(*shape):
    return RANDOM.integers(-128, 128, shape).astype(np.int8)


def scale(value):
    return np.array(value, np.float32)


def zero(value, kind=np.uint8):
    return np.array(value, kind)


def quantised():
    """Operators on quantised tensors."""
    a, b = [u8(2, 3, 4), scale(0.02), zero(120)], [u8(3, 1), scale(0.05), zero(7)]
    out = [scale(0.06), zero(100)]
    yield from case("qlinear_add", "QLinearAdd", [*a, *b, *out], {})
    yield from case("qlinear_mul", "QLinearMul", [*a, *b, *out], {})
    signed = [s8(2, 5), scale(0.03), zero(-3, np.int8), s8(2, 5), scale(0.01), zero(4, np.int8), scale(0.031), zero(1, np.int8)]
    yield from case("qlinear_add_signed", "QLinearAdd", signed, {})
    yield from case("qlinear_sigmoid", "QLinearSigmoid", [*a, scale(1 / 256), zero(0)], {})
    yield from case("qlinear_leaky_relu", "QLinearLeakyRelu", [*a, scale(0.03), zero(60)], {"alpha": 0.2})
    softmax = [u8(2, 3, 4), scale(0.02), zero(120), scale(1 / 256), zero(0)]
    yield from case("qlinear_softmax", "QLinearSoftmax", softmax, {"axis": -1, "opset": 13})
    yield from case("qlinear_softmax_flat", "QLinearSoftmax", softmax, {"axis": 1, "opset": 11})
    truth = RANDOM.integers(0, 2, (2, 3, 4)).astype(bool)
    yield from case("qlinear_where", "QLinearWhere", [truth, *a, *b, *out], {})
    yield from case("qlinear_concat", "QLinearConcat", [*out, *a, u8(2, 1, 4), scale(0.05), zero(7)], {"axis": 1})
    image = [u8(1, 3, 6, 7), scale(0.02), zero(120), scale(0.015), zero(110)]
    yield from case("qlinear_global_average_pool", "QLinearGlobalAveragePool", image, {})
    yield from case("qlinear_global_average_pool_last", "QLinearGlobalAveragePool", image, {"channels_last": 1})
    window = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
    yield from case("qlinear_average_pool", "QLinearAveragePool", image, window)
    yield from case("qlinear_average_pool_last", "QLinearAveragePool", image, window | {"channels_last": 1})
    m = [u8(3, 8), scale(0.02), zero(120), s8(5, 8), scale(0.01), zero(0, np.int8)]
    bias = RANDOM.integers(-2000, 2000, 5).astype(np.int32)
    yield from case("qgemm", "QGemm", [*m, bias, *out], {"transB": 1})
    yield from case("qgemm_real", "QGemm", m, {"transB": 1, "alpha": 0.5})
    columns = [u8(3, 8), scale(0.02), zero(120), s8(8, 5), np.linspace(0.01, 0.02, 5, dtype=np.float32), np.zeros(5, np.int8)]
    yield from case("qgemm_columns", "QGemm", [*columns, bias, *out], {})
    yield from case("matmul_integer_to_float", "MatMulIntegerToFloat", [u8(2, 3, 8), s8(8, 5), scale(0.02), scale(0.01), zero(120), None, f(5)], {})
    yield from case("dynamic_quantize_matmul", "DynamicQuantizeMatMul", [f(2, 3, 8), s8(8, 5), scale(0.01)], {})
    yield from case("dynamic_quantize_matmul_bias", "DynamicQuantizeMatMul", [f(3, 8), u8(8, 5), scale(0.01), zero(128), f(5)], {})
    packed = [u8(2, 5, 8), s8(8, 24), f(24), scale(0.02), scale(0.01), None, zero(120), zero(0, np.int8)]
    yield from case("qattention", "QAttention", packed, {"num_heads": 2})
    yield from case("qattention_causal", "QAttention", packed, {"num_heads": 2, "unidirectional": 1})
    yield from case("quantize_u16", "QuantizeLinear", [f(3, 4), scale(0.001), zero(3000, np.uint16)], {})
    yield from case("dequantize_u16", "DequantizeLinear", [RANDOM.integers(0, 65536, (3, 4)).astype(np.uint16), scale(0.001), zero(3000, np.uint16)], {})
    names = ("o0", "o1", "o2")
    weights = [np.array([0.01], np.float32), np.array([0], np.int8), np.array([0.008], np.float32), np.array([0], np.int8)]
    lstm = [f(4, 2, 6), s8(1, 6, 20), s8(1, 5, 20), f(1, 40), None, f(1, 2, 5), f(1, 2, 5), None, *weights]
    yield from case("dynamic_quantize_lstm", "DynamicQuantizeLSTM", lstm, {"hidden_size": 5}, names)
    both = [np.linspace(0.005, 0.01, 40, dtype=np.float32).reshape(2, 20), np.zeros((2, 20), np.int8)] * 2
    lstm = [f(4, 2, 6), s8(2, 6, 20), s8(2, 5, 20), f(2, 40), None, None, None, None, *both]
    yield from case("dynamic_quantize_lstm_both", "DynamicQuantizeLSTM", lstm, {"hidden_size": 5, "direction": "bidirectional"}, names)


def n_bits():
    """Weights of a few bits."""
    # Two blocks of 16 cover 24 columns; bytes behind them are never read.
    sizes = {"N": 6, "K": 24, "block_size": 16}
    a = f(2, 3, 24)
    for bits in (2, 4, 8):
        weights, scales = u8(6, 2, 16 * bits // 8), np.abs(f(6, 2)) + 0.1
        yield from case(f"matmul_{bits}_bits", "MatMulNBits", [a, weights, scales.reshape(-1)], sizes | {"bits": bits})
        zeros = u8(6, (2 * bits + 7) // 8).reshape(-1)
        yield from case(f"matmul_{bits}_bits_zeros", "MatMulNBits", [a, weights, scales, zeros], sizes | {"bits": bits})
    weights, scales = u8(6, 2, 8), np.abs(f(6, 2)) + 0.1
    yield from case("matmul_4_bits_real_zeros", "MatMulNBits", [a, weights, scales, f(6, 2)], sizes | {"bits": 4})
    yield from case("matmul_4_bits_bias", "MatMulNBits", [a, weights, scales, None, None, f(6)], sizes | {"bits": 4})


def grouped_query():
    """Attention over a cache, with four heads of queries and two of keys and values."""
    h, g, d = 4, 2, 16
    heads, names = {"num_heads": h, "kv_num_heads": g}, ("o0", "o1", "o2")
    turns = [f(16, d // 2), f(16, d // 2)]
    new = lambda s: [f(2, s, h * d), f(2, s, g * d), f(2, s, g * d)]
    cache = lambda p: [f(2, g, p, d), f(2, g, p, d)]
    seen, total = (lambda *counts: np.array(counts, np.int32) - 1), (lambda t: np.array([t], np.int32))
    case_of = lambda name, values, **more: case(f"grouped_query_{name}", "GroupQueryAttention", values, heads | more, names)
    yield from case_of("prompt", [*new(5), None, None, seen(5, 5), total(5)])
    yield from case_of("prompt_rotary", [*new(5), None, None, seen(5, 5), total(5), *turns], do_rotary=1)
    yield from case_of("prompt_packed", [f(2, 5, (h + 2 * g) * d), None, None, None, None, seen(5, 5), total(5), *turns], do_rotary=1)
    yield from case_of("prompt_window", [*new(5), None, None, seen(5, 5), total(5)], local_window_size=2)
    yield from case_of("prompt_softcap", [*new(5), None, None, seen(5, 5), total(5)], softcap=2.0, scale=0.5)
    yield from case_of("decode", [*new(1), *cache(6), seen(7, 7), total(7), *turns], do_rotary=1)
    yield from case_of("decode_uneven", [*new(1), *cache(6), seen(7, 4), total(7), *turns], do_rotary=1)
    yield from case_of("decode_shared", [*new(1), *cache(12), seen(7, 4), total(7), *turns], do_rotary=1, rotary_interleaved=1)
    yield from case_of("decode_window", [*new(1), *cache(6), seen(7, 5), total(7)], local_window_size=3)
    bias = f(1, h, 1, 7)
    yield from case_of("decode_bias", [*new(1), *cache(6), seen(7, 7), total(7), None, None, None, bias])
    single = lambda s, p, t: [f(1, s, h * d), f(1, s, g * d), f(1, s, g * d), f(1, g, p, d), f(1, g, p, d), seen(t), total(t), *turns]
    yield from case_of("single", single(1, 6, 7), do_rotary=1)
    yield from case_of("several", single(3, 6, 9), do_rotary=1)
    yield from case_of("several_shared", single(3, 12, 9), do_rotary=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    plain = io.BytesIO()
    arguments = parser.parse_args()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in sorted([("cases.json", json.dumps(TOLERANCES).encode()), *cases()]):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    arguments.archive.write_bytes(lzma.compress(plain.getvalue(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
