#!/usr/bin/env python3
"""Egret beside ONNX Runtime and OpenVINO: the same models, inputs, threads and precision, measured in turns.

    cargo build --release
    benches/peers/run.py --threads 1,2 --output peers.md MODEL...

A MODEL is an .onnx file, or a folder with a model.onnx and perhaps the inputs input_0.npy, input_1.npy, ... in the order of
the model's inputs; without inputs, all engines get the same pseudo-random ones. The first call makes a virtual environment of
requirements.txt in target/peers.

All engines compute in f32 (OpenVINO is told so: on processors with bf16 it would use that) and are pinned to the same cores. A round
measures one engine after the other, each in a process of its own; Egret's ratio to the faster peer is taken within
each round, so that a change of the machine between rounds changes both. The table gives the median of the ratios with the least
and the greatest, and each engine's median latency.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
ENGINES = ["egret", "onnxruntime", "openvino"]
WARM_UP_RUNS = 3
# A median of fewer runs says little, however long they take.
MIN_RUNS = 5


def main():
    options = arguments()
    if options.worker:
        return work(options)
    options.python = environment(options.venv)
    rows = [row for model in options.models for row in compare(model, options)]
    report = table(rows, options)
    print(report)
    if options.output:
        options.output.write_text(report + "\n")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--threads", type=lambda text: [int(n) for n in text.split(",")], default=[1], metavar="N,N")
    parser.add_argument("--rounds", type=int, default=3, help="at least 3")
    parser.add_argument("--seconds", type=float, default=1.5, help="that an engine runs in a round")
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=N", help="extent of a free dimension [default: 1]")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--egret", type=Path, default=ROOT / "target/release/egret")
    parser.add_argument("--venv", type=Path, default=ROOT / "target/peers")
    parser.add_argument("--worker", choices=["inputs", *ENGINES[1:]], help=argparse.SUPPRESS)
    parser.add_argument("--inputs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error("a spread needs at least 3 rounds")
    return options


def environment(path):
    """The interpreter of the virtual environment, which is made or brought up to date if it is not."""
    python, stamp = path / "bin/python", path / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != REQUIREMENTS.read_text():
        print(f"making {path}", file=sys.stderr)
        venv.create(path, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS], check=True)
        stamp.write_text(REQUIREMENTS.read_text())
    return python


def compare(model, options):
    """The rows of a model, one for each number of threads."""
    file = model / "model.onnx" if model.is_dir() else model
    with tempfile.TemporaryDirectory() as scratch:
        inputs = file.parent if (file.parent / "input_0.npy").exists() and model.is_dir() else Path(scratch)
        if inputs == Path(scratch):
            worker("inputs", file, inputs, options, 1)
        artifact = Path(scratch) / "model.egret"
        compiled = [options.egret, "compile", file, "-o", artifact]
        # Fixed like the peers' shapes are, which see the inputs before they run.
        subprocess.run(compiled + extents(file, inputs, options), check=True, stderr=subprocess.DEVNULL)
        for threads in options.threads:
            rounds = [[latency(engine, file, artifact, inputs, options, threads) for engine in ENGINES] for _ in range(options.rounds)]
            name = model.name if model.is_dir() else model.stem
            print(f"{name}, {threads} threads: {rounds}", file=sys.stderr)
            yield name, threads, rounds


def extents(file, inputs, options):
    """Every free dimension with the extent that the inputs give it, as flags."""
    text = subprocess.run([options.egret, "run", file, "--input-dir", inputs, "--json"], check=True, capture_output=True, text=True).stdout
    return [word for name, extent in json.loads(text)["dims"].items() for word in ("--dim", f"{name}={extent}")]


def latency(engine, file, artifact, inputs, options, threads):
    """Milliseconds of a run, the median; infinite where the engine cannot run the model."""
    if engine != "egret":
        return worker(engine, file, inputs, options, threads)
    words = [options.egret, "bench", artifact, "--input-dir", inputs, "--threads", threads, "--min-time", f"{options.seconds}s", "--json"]
    return json.loads(pinned(words, threads).stdout)["results"][0]["p50_ms"]


def worker(engine, file, inputs, options, threads):
    words = [options.python, __file__, file, "--worker", engine, "--inputs", inputs, "--threads", threads, "--seconds", options.seconds]
    words += [word for dim in options.dim for word in ("--dim", dim)]
    process = pinned(words, threads, check=engine == "inputs")
    if process.returncode != 0:
        print(f"{engine} does not run {file}: {process.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return math.inf
    return float(process.stdout.split()[-1]) if engine != "inputs" else None


def pinned(words, threads, check=True):
    """Runs a command on the first cores that this process may use."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    pin = lambda: os.sched_setaffinity(0, cores)
    return subprocess.run([str(word) for word in words], preexec_fn=pin, capture_output=True, text=True, check=check)


def work(options):
    """In a process of its own: makes inputs, or measures a peer and prints milliseconds."""
    import numpy

    file = options.models[0]
    if options.worker == "inputs":
        return make_inputs(file, options, numpy)
    arrays = [numpy.load(path) for path in sorted(options.inputs.glob("input_*.npy"), key=lambda path: int(path.stem.split("_")[1]))]
    run = {"onnxruntime": onnxruntime, "openvino": openvino}[options.worker](file, arrays, options.threads[0])
    for _ in range(WARM_UP_RUNS):
        run()
    times, end = [], time.perf_counter() + options.seconds
    while time.perf_counter() < end or len(times) < MIN_RUNS:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    print(statistics.median(times) * 1e3)


def make_inputs(file, options, numpy):
    import onnxruntime

    random, dims = numpy.random.default_rng(0), dict(dim.rsplit("=", 1) for dim in options.dim)
    for i, port in enumerate(onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).get_inputs()):
        shape = [extent if isinstance(extent, int) else int(dims.get(extent, 1)) for extent in port.shape]
        kind = port.type.removeprefix("tensor(").removesuffix(")")
        if kind in ("float", "double", "float16"):
            array = random.standard_normal(shape).astype({"float": "float32", "double": "float64"}.get(kind, kind))
        else:
            # 0 and 1 are valid as indices, masks and kinds of tokens.
            array = random.integers(0, 2, shape).astype(kind)
        numpy.save(options.inputs / f"input_{i}.npy", array)


def onnxruntime(file, arrays, threads):
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads, settings.log_severity_level = threads, 1, 4
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    inputs = {port.name: array for port, array in zip(session.get_inputs(), arrays, strict=True)}
    return lambda: session.run(None, inputs)


def openvino(file, arrays, threads):
    import openvino

    core = openvino.Core()
    model = core.read_model(str(file))
    model.reshape({port: list(array.shape) for port, array in zip(model.inputs, arrays, strict=True)})
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    inputs = dict(enumerate(arrays))
    return lambda: request.infer(inputs)


def table(rows, options):
    """The rows in Markdown, with the geometric mean of the ratios for each number of threads."""
    versions = [line for line in REQUIREMENTS.read_text().splitlines() if line.startswith(tuple(ENGINES[1:]))]
    model = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    lines = [
        f"f32, {model[0] if model else 'unknown processor'}, {' and '.join(versions)}; medians of {options.rounds} rounds, in ms; "
        "the ratio is Egret's latency by that of the faster peer, below 1 where Egret is faster",
        "",
        "| model | threads | Egret | ONNX Runtime | OpenVINO | ratio | least to greatest |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    medians = {}
    for name, threads, rounds in rows:
        ratios = sorted(egret / min(peers) for egret, *peers in rounds if not math.isinf(min(peers)))
        ratio, spread = ("-", "no peer runs it")
        if ratios:
            medians.setdefault(threads, []).append(statistics.median(ratios))
            ratio, spread = f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        times = [milliseconds(statistics.median(column)) for column in zip(*rounds)]
        lines.append(f"| {name} | {threads} | {' | '.join(times)} | {ratio} | {spread} |")
    for threads, ratios in medians.items():
        plural = "thread" if threads == 1 else "threads"
        lines += ["", f"Geometric mean of the ratios on {threads} {plural}: {statistics.geometric_mean(ratios):.2f}"]
    return "\n".join(lines)


def milliseconds(value):
    return "-" if math.isinf(value) else f"{value:.3g}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    main()
