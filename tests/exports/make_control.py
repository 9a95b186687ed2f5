#!/usr/bin/env python3
"""Functions with loops and branches that data decides, scripted and exported, with the outputs of ONNX Runtime.

    python make_control.py      writes control.tar.xz; README.md says with which packages
"""

import lzma
import tarfile
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from onnx import numpy_helper
from torch import nn

warnings.filterwarnings("ignore")
HERE = Path(__file__).parent


def count(x, n):
    y = x
    for i in range(int(n)):
        y = torch.tanh(y @ x) + float(i)
    return y


def while_small(x, w):
    y = x
    steps = torch.zeros((), dtype=torch.int64)
    while bool(y.abs().sum() < 100.0):
        y = y @ w + x
        steps = steps + 1
    return y, steps


def grow(x, n):
    ids = x
    for i in range(int(n)):
        ids = torch.cat([ids, (ids[:, -1:] * 3 + 1) % 17], dim=1)
    return ids


def branch(x, w):
    if bool(x.sum() > 0):
        y = torch.relu(x @ w)
    else:
        y = x[:1] * 2.0
    return y + 1.0


def nested(x, n):
    y = x
    for i in range(int(n)):
        j = 0
        while j < i:
            if bool(y.sum() > 10.0):
                y = y * 0.5
            else:
                y = y + x
            j = j + 1
    return y


class Scripted(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = torch.jit.script(function)

    def forward(self, x, y):
        return self.function(x, y)


def random(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


# name: function, inputs of each set, free axes of the first input
CASES = {
    "count": (count, [(random(4, 4), torch.tensor(n)) for n in (5, 0, 23)], {}),
    "while": (while_small, [(random(3, 3), random(3, 3) * scale) for scale in (1.0, 2.0)], {}),
    "grow": (grow, [(torch.tensor([[3, 4]]), torch.tensor(6)), (torch.tensor([[1, 2, 3]]), torch.tensor(1))], {1: "length"}),
    "branch": (branch, [(random(3, 4) * sign, random(4, 4)) for sign in (1.0, -1.0)], {0: "rows"}),
    "nested": (nested, [(random(2, 3), torch.tensor(n)) for n in (4, 9)], {}),
}


def write(folder, function, sets, free):
    folder.mkdir()
    model = folder / "model.onnx"
    axes = {"x": free} if free else {}
    torch.onnx.export(Scripted(function), sets[0], model, input_names=["x", "y"], dynamic_axes=axes, dynamo=False, opset_version=17)
    session = ort.InferenceSession(model)
    for number, tensors in enumerate(sets):
        data = folder / f"test_data_set_{number}"
        data.mkdir()
        feeds = {name.name: tensor.numpy() for name, tensor in zip(session.get_inputs(), tensors)}
        named = [("input", list(feeds.items())), ("output", list(zip([o.name for o in session.get_outputs()], session.run(None, feeds))))]
        for kind, arrays in named:
            for i, (name, array) in enumerate(arrays):
                (data / f"{kind}_{i}.pb").write_bytes(numpy_helper.from_array(np.asarray(array), name).SerializeToString())


def main():
    with tempfile.TemporaryDirectory() as scratch:
        for name, (function, sets, free) in CASES.items():
            write(Path(scratch) / name, function, sets, free)
        with lzma.open(HERE / "control.tar.xz", "wb") as packed, tarfile.open(fileobj=packed, mode="w") as archive:
            for path in sorted(Path(scratch).rglob("*")):
                if path.is_file():
                    info = tarfile.TarInfo(str(path.relative_to(scratch)))
                    info.size = path.stat().st_size
                    archive.addfile(info, path.open("rb"))


main()
