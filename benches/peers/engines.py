"""The engines that Egret is measured beside: how each makes a model ready, and how it runs one in f32.

`prepare(file, arrays, folder)` runs once and may leave files in a folder; `load(file, arrays, folder, threads)` gives a function
that runs the model on the arrays and returns its outputs. Both run in a process of their own, and raise what goes wrong.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable


@dataclass
class Engine:
    """An engine, and the packages that bring it."""

    title: str
    packages: list[str]
    load: Callable
    prepare: Callable = lambda file, arrays, folder: None


def load_onnxruntime(file, arrays, folder, threads):
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads, settings.log_severity_level = threads, 1, 4
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    inputs = {port.name: array for port, array in zip(session.get_inputs(), arrays, strict=True)}
    return lambda: session.run(None, inputs)


def load_openvino(file, arrays, folder, threads):
    import openvino

    core = openvino.Core()
    model = core.read_model(str(file))
    model.reshape({port: list(array.shape) for port, array in zip(model.inputs, arrays, strict=True)})
    # On processors with bf16 it would compute in that.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    inputs = dict(enumerate(arrays))

    def run():
        request.infer(inputs)
        return [request.get_output_tensor(i).data for i in range(len(model.outputs))]

    return run


def prepare_iree(file, arrays, folder):
    import onnx

    model = static(file, arrays, folder)
    opset = next(known.version for known in onnx.load(model, load_external_data=False).opset_import if known.domain in ("", "ai.onnx"))
    # The importer knows operators since opset 17.
    tool("iree-import-onnx", model, *(["--opset-version", "17"] if opset < 17 else []), "-o", folder / "iree.mlir")
    flags = ["--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu", "--iree-llvmcpu-target-cpu=host"]
    flags += ["--iree-opt-level=O3", "--iree-opt-data-tiling", "--iree-input-demote-i64-to-i32=false"]
    flags += ["--iree-llvmcpu-stack-allocation-limit=1048576"]
    tool("iree-compile", folder / "iree.mlir", *flags, "-o", folder / "iree.vmfb")


def load_iree(file, arrays, folder, threads):
    import iree.runtime as iree

    if threads > 1:
        iree.flags.parse_flags(f"--task_topology_group_count={threads}")
    config = iree.Config("local-task" if threads > 1 else "local-sync")
    code = iree.VmModule.mmap(config.vm_instance, str(folder / "iree.vmfb"))
    main = next(name for name in code.function_names if not name.startswith("__") and not name.endswith("$async"))
    function = iree.load_vm_module(code, config)[main]
    inputs = [iree.asdevicearray(config.device, array) for array in arrays]

    def run():
        outputs = function(*inputs)
        return [output.to_host() for output in (outputs if isinstance(outputs, (tuple, list)) else (outputs,))]

    return run


def prepare_mnn(file, arrays, folder):
    model = static(file, arrays, folder)
    tool("mnnconvert", "-f", "ONNX", "--modelFile", model, "--MNNModel", folder / "mnn.mnn", "--bizCode", "egret")


def load_mnn(file, arrays, folder, threads):
    import MNN
    import numpy

    names, results = ports(file)
    manager = MNN.nn.create_runtime_manager(({"backend": "CPU", "precision": "high", "numThread": threads},))
    module = MNN.nn.load_module_from_file(str(folder / "mnn.mnn"), names, results, runtime_manager=manager)
    types = {"float32": MNN.expr.float, "int64": MNN.expr.int, "int32": MNN.expr.int, "uint8": MNN.expr.uint8, "int8": MNN.expr.int8}
    inputs = []
    for array in arrays:
        held = MNN.expr.placeholder(list(array.shape), MNN.expr.NCHW, types[str(array.dtype)])
        held.write(array.astype(numpy.int32) if array.dtype == numpy.int64 else array)
        inputs.append(held)

    def run():
        outputs = module.forward(inputs if len(inputs) > 1 else inputs[0])
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return [numpy.array(MNN.expr.convert(output, MNN.expr.NCHW).read()) for output in outputs]

    return run


def prepare_ncnn(file, arrays, folder):
    import pnnx

    model = folder / "ncnn.onnx"
    model.symlink_to(Path(file).resolve())
    short = {"float32": "f32", "float64": "f64", "float16": "f16", "int64": "i64", "int32": "i32", "uint8": "u8", "int8": "i8", "bool": "u8"}
    shapes = ",".join(f"[{','.join(map(str, array.shape))}]{short[str(array.dtype)]}" for array in arrays)
    command(Path(pnnx.__file__).parent / "pnnx", model, f"inputshape={shapes}", "fp16=0", folder=folder)


def load_ncnn(file, arrays, folder, threads):
    import ncnn
    import numpy

    net = ncnn.Net()
    net.opt.num_threads = threads
    for reduced in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, reduced, False)
    if net.load_param(str(folder / "ncnn.ncnn.param")) or net.load_model(str(folder / "ncnn.ncnn.bin")):
        raise RuntimeError("ncnn cannot read what pnnx wrote")
    # It has no batch.
    inputs = [ncnn.Mat(array[0] if array.ndim > 1 and array.shape[0] == 1 else array) for array in arrays]
    number = lambda name: int("".join(filter(str.isdigit, name)) or 0)
    names, results = sorted(net.input_names(), key=number), sorted(net.output_names(), key=number)

    def run():
        extractor = net.create_extractor()
        for name, value in zip(names, inputs, strict=True):
            extractor.input(name, value)
        outputs = [extractor.extract(name) for name in results]
        if any(status for status, _ in outputs):
            raise RuntimeError("ncnn does not compute an output")
        return [numpy.array(output) for _, output in outputs]

    return run


def load_tract(file, arrays, folder, threads):
    import tract

    if threads > 1:
        raise RuntimeError("its Python package runs on one thread")
    model = tract.onnx().load(str(file))
    short = {"float32": "f32", "float64": "f64", "float16": "f16", "bool": "bool"}
    for i, array in enumerate(arrays):
        kind = short.get(str(array.dtype)) or str(array.dtype).replace("uint", "u").replace("int", "i")
        model.set_input_fact(i, ",".join([*map(str, array.shape), kind]))
    for i in range(model.output_count()):
        model.set_output_fact(i, None)
    runnable = model.into_model().into_runnable()
    inputs = [tract.Tensor.from_numpy(array) for array in arrays]
    return lambda: [output.to_numpy() for output in runnable.run(inputs)]


def prepare_tvm(file, arrays, folder):
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    model = onnx.load(static(file, arrays, folder))
    ports = [port.name for port in inputs_of(model)]
    shapes = {name: list(array.shape) for name, array in zip(ports, arrays, strict=True)}
    types = {name: str(array.dtype) for name, array in zip(ports, arrays, strict=True)}
    module = from_onnx(model, shape_dict=shapes, dtype_dict=types, keep_params_in_input=False)
    module = relax.transform.DecomposeOpsForInference()(module)
    target = tvm.target.Target({"kind": "llvm", "mcpu": str(tvm.target.codegen.llvm_get_system_cpu())})
    relax.build(module, target=target).export_library(str(folder / "tvm.so"))


def load_tvm(file, arrays, folder, threads):
    os.environ["TVM_NUM_THREADS"] = str(threads)
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(tvm.runtime.load_module(str(folder / "tvm.so")), tvm.cpu())
    machine.set_input("main", *(tvm.runtime.tensor(array, tvm.cpu()) for array in arrays))

    def run():
        machine.invoke_stateful("main")
        outputs = machine.get_outputs("main")
        return [output.numpy() for output in (outputs if isinstance(outputs, (tuple, list)) else [outputs])]

    return run


ENGINES = {
    "onnxruntime": Engine("ONNX Runtime", ["onnxruntime==1.31.1"], load_onnxruntime),
    "openvino": Engine("OpenVINO", ["openvino==2026.4.1"], load_openvino),
    "iree": Engine("IREE", ["iree-base-compiler[onnx]==3.13.0", "iree-base-runtime==3.13.0"], load_iree, prepare_iree),
    "mnn": Engine("MNN", ["MNN==3.6.1", "onnx==1.23.2"], load_mnn, prepare_mnn),
    "tract": Engine("tract", ["tract==0.23.9"], load_tract),
    "tvm": Engine("TVM (not tuned)", ["apache-tvm==0.27.0.post1", "onnx==1.23.2"], load_tvm, prepare_tvm),
    "ncnn": Engine("ncnn", ["ncnn==1.0.20261020", "pnnx==20261020"], load_ncnn, prepare_ncnn),
}


def static(file, arrays, folder):
    """A copy of the model with the shapes of these inputs, for engines that compile for shapes."""
    import onnx

    model = onnx.load(file)
    for port, array in zip(inputs_of(model), arrays, strict=True):
        port.type.tensor_type.shape.Clear()
        for extent in array.shape:
            port.type.tensor_type.shape.dim.add().dim_value = extent
    # Shapes that were inferred for free extents would contradict.
    del model.graph.value_info[:]
    for port in model.graph.output:
        port.type.tensor_type.ClearField("shape")
    model = onnx.shape_inference.infer_shapes(model)
    path = folder / "static.onnx"
    onnx.save(model, path)
    return path


def inputs_of(model):
    weights = {weight.name for weight in model.graph.initializer}
    return [port for port in model.graph.input if port.name not in weights]


def ports(file):
    """The names of a model's inputs and outputs."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    return [port.name for port in inputs_of(model)], [port.name for port in model.graph.output]


def tool(name, *words):
    """Runs a program that came with a package."""
    command(Path(sys.executable).parent / name, *words)


def command(*words, folder=None):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=folder, env=os.environ)
    if done.returncode != 0:
        raise RuntimeError(f"{Path(words[0]).name}: {(done.stderr or done.stdout).strip()[-300:]}")
