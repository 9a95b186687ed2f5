#!/usr/bin/env python3
"""Writes runtimes_own.tar.xz: cases of operators of com.microsoft, with the outputs that ONNX Runtime computes.

    python3 -m venv venv && venv/bin/pip install onnx==1.23.2 onnxruntime==1.31.1
    venv/bin/python generate_runtimes_own.py runtimes_own.tar.xz
"""

import argparse
import io
import lzma
import tarfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

RANDOM = np.random.default_rng(0)


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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    plain = io.BytesIO()
    arguments = parser.parse_args()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in sorted(cases()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    arguments.archive.write_bytes(lzma.compress(plain.getvalue(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
