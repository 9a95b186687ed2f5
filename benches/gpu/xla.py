"""An ONNX model as a function of jax.numpy, for XLA to compile: the operators of the models in run.py, by ONNX's definitions.

    run, inputs = xla.function("model.onnx", jax.numpy.bfloat16)   # floats of the model in that type
    outputs = run(*inputs_on_the_device)

An operator that is not in the table is an error that names it. Operands that decide over shapes have to be constants.
"""

import numpy
import onnx
from onnx import numpy_helper

import jax
from jax import lax, nn
from jax import numpy as jnp


def function(path, dtype=jnp.float32):
    """The model as a compiled function of its inputs, which gives a tuple of outputs; and its weights, put on the device once."""
    graph = onnx.load(str(path)).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = list(graph.node)
    missing = sorted({node.op_type for node in nodes} - OPERATORS.keys() - {"Constant"})
    if missing:
        raise NotImplementedError(f"no XLA for {', '.join(missing)}")
    names = [value.name for value in graph.input if value.name not in constants]
    # Shapes and axes are integers, and stay on the host; what is multiplied goes over once.
    known = {name: array for name, array in constants.items() if not numpy.issubdtype(array.dtype, numpy.floating)}
    weights = {name: jnp.asarray(array, dtype) for name, array in constants.items() if name not in known}

    def evaluate(weights, *inputs):
        values = {"": None, **known, **weights}
        values |= {name: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x for name, x in zip(names, inputs)}
        for node in nodes:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                outputs = [numpy_helper.to_array(attributes["value"])]
            else:
                outputs = OPERATORS[node.op_type](*(values[name] for name in node.input), **attributes)
            values |= zip(node.output, outputs if isinstance(outputs, (list, tuple)) else [outputs])
        return tuple(values[value.name] for value in graph.output)

    compiled = jax.jit(evaluate)
    return lambda *inputs: compiled(weights, *inputs)


def words(attribute, default=""):
    return attribute.decode() if attribute else default


def padding(pads):
    half = len(pads) // 2
    return list(zip(pads[:half], pads[half:]))


def conv(x, w, b=None, *, strides=None, pads=None, dilations=None, group=1, auto_pad=b"NOTSET", kernel_shape=None):
    axes = x.ndim - 2
    layout = ("NCHW", "OIHW", "NCHW") if axes == 2 else ("NCH", "OIH", "NCH")
    y = lax.conv_general_dilated(
        x, w, strides or [1] * axes, padding(pads or [0] * 2 * axes), rhs_dilation=dilations, feature_group_count=group,
        dimension_numbers=layout,
    )  # fmt: skip
    return y if b is None else y + b.reshape(-1, *[1] * axes)


def max_pool(x, *, kernel_shape, strides=None, pads=None, auto_pad=b"NOTSET", ceil_mode=0, dilations=None, storage_order=0):
    ones = (1, 1)
    pads = [(0, 0), (0, 0), *padding(pads or [0] * 2 * len(kernel_shape))]
    return lax.reduce_window(x, -jnp.inf, lax.max, ones + tuple(kernel_shape), ones + tuple(strides or kernel_shape), pads)


def gemm(a, b, c=None, *, alpha=1.0, beta=1.0, transA=0, transB=0):
    product = alpha * ((a.T if transA else a) @ (b.T if transB else b))
    return product if c is None else product + beta * c


def layer_norm(x, scale, bias=None, *, axis=-1, epsilon=1e-5, stash_type=1):
    axes, wide = tuple(range(axis % x.ndim, x.ndim)), x.astype(jnp.float32)
    centred = wide - wide.mean(axes, keepdims=True)
    normal = centred * lax.rsqrt((centred * centred).mean(axes, keepdims=True) + epsilon)
    normal = normal.astype(x.dtype) * scale
    return normal if bias is None else normal + bias


def reduce_mean(x, axes=None, *, keepdims=1, noop_with_empty_axes=0):
    return x.mean(None if axes is None else tuple(int(a) for a in axes), keepdims=bool(keepdims))


def reshape(x, shape, *, allowzero=0):
    extents = [x.shape[i] if n == 0 and not allowzero else int(n) for i, n in enumerate(shape)]
    return x.reshape(extents)


def split(x, sizes=None, *, axis=0, num_outputs=None):
    count = num_outputs or len(sizes)
    at = numpy.cumsum(sizes)[:-1] if sizes is not None else numpy.arange(1, count) * -(-x.shape[axis] // count)
    return jnp.split(x, at, axis)


def slices(x, starts, ends, axes=None, steps=None):
    index = [slice(None)] * x.ndim
    for i, axis in enumerate(range(len(starts)) if axes is None else axes):
        index[int(axis)] = slice(int(starts[i]), int(ends[i]), 1 if steps is None else int(steps[i]))
    return x[tuple(index)]


OPERATORS = {
    "Add": lambda x, y: x + y,
    "Cast": lambda x, to, saturate=1: x.astype(onnx.helper.tensor_dtype_to_np_dtype(to)),
    "Concat": lambda *x, axis: jnp.concatenate(x, axis),
    "Conv": conv,
    "Div": lambda x, y: x / y,
    "Erf": jax.scipy.special.erf,
    "Expand": lambda x, shape: jnp.broadcast_to(x, numpy.broadcast_shapes(x.shape, tuple(int(n) for n in shape))),
    "Flatten": lambda x, axis=1: x.reshape(int(numpy.prod(x.shape[:axis])), -1),
    "Gather": lambda x, i, axis=0: jnp.take(x, i, axis),
    "GatherElements": lambda x, i, axis=0: jnp.take_along_axis(x, i, axis),
    "Gelu": lambda x, approximate=b"none": nn.gelu(x, approximate=words(approximate) == "tanh"),
    "Gemm": gemm,
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdims=True),
    "IsNaN": lambda x: jnp.isnan(x),
    "LayerNormalization": layer_norm,
    "MatMul": lambda x, y: x @ y,
    "MaxPool": max_pool,
    "Mul": lambda x, y: x * y,
    "Pow": lambda x, y: x**y,
    "ReduceMean": reduce_mean,
    "Relu": lambda x: jnp.maximum(x, 0),
    "Reshape": reshape,
    "Slice": slices,
    "Softmax": lambda x, axis=-1: nn.softmax(x.astype(jnp.float32), axis).astype(x.dtype),
    "Split": split,
    "Sqrt": jnp.sqrt,
    "Squeeze": lambda x, axes=None: jnp.squeeze(x, None if axes is None else tuple(int(a) for a in axes)),
    "Sub": lambda x, y: x - y,
    "Tanh": jnp.tanh,
    "Transpose": lambda x, perm=None: jnp.transpose(x, perm),
    "Unsqueeze": lambda x, axes: jnp.expand_dims(x, tuple(int(a) for a in axes)),
    "Where": lambda c, x, y: jnp.where(c, x, y),
}
