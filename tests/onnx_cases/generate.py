#!/usr/bin/env python3
"""Writes cases.tar.xz: the operator cases of the ONNX standard, as its own backend tests make them.

    python3 -m venv venv && venv/bin/pip install onnx==1.23.2
    venv/bin/python generate.py cases.tar.xz

Each case is a folder: model.onnx and test_data_set_<i>/{input,output}_<j>.pb. cases.json beside them holds the tolerances.
Names are sorted and times are zero, so that the same version of onnx gives the same cases in the same order. numpy's
generator is seeded before the cases are made; onnx draws some of their inputs from it.
"""

import argparse
import io
import json
import lzma
import tarfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def tensor_bytes(value, info):
    """The message that a value is stored as."""
    kind = info.type.WhichOneof("value")
    if kind == "map_type":
        return numpy_helper.from_dict(value, info.name).SerializeToString()
    if kind == "sequence_type":
        return numpy_helper.from_list(value, info.name).SerializeToString()
    if kind == "optional_type":
        return numpy_helper.from_optional(value, info.name).SerializeToString()
    if isinstance(value, onnx.TensorProto):
        return value.SerializeToString()
    return numpy_helper.from_array(value, info.name).SerializeToString()


def files(case):
    """The files of a case, by name."""
    graph = case.model.graph
    yield f"{case.name}/model.onnx", case.model.SerializeToString()
    for i, (inputs, outputs) in enumerate(case.data_sets):
        for kind, values, infos in (("input", inputs, graph.input), ("output", outputs, graph.output)):
            for j, value in enumerate(values):
                yield f"{case.name}/test_data_set_{i}/{kind}_{j}.pb", tensor_bytes(value, infos[j])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    arguments = parser.parse_args()
    np.random.seed(0)
    from onnx.backend.test.case import node as node_cases

    cases = sorted(node_cases.collect_testcases(None), key=lambda case: case.name)
    records = [{"name": case.name, "rtol": case.rtol, "atol": case.atol} for case in cases]
    content = {"cases.json": json.dumps(records).encode()}
    for case in cases:
        content.update(files(case))
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in sorted(content.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    packed = lzma.compress(plain.getvalue(), preset=9 | lzma.PRESET_EXTREME)
    arguments.archive.write_bytes(packed)
    print(f"{len(cases)} cases of onnx {onnx.__version__}: {len(plain.getvalue())} bytes, packed {len(packed)}")


if __name__ == "__main__":
    main()
