#!/usr/bin/env python3
"""Egret beside other engines: the same models, inputs, threads and precision, measured in turns.

    cargo build --release
    benches/peers/run.py --threads 1,2 --output peers.md MODEL...
    benches/peers/run.py --engines onnxruntime,openvino,iree,mnn,ncnn,tract,tvm MODEL...

A MODEL is an .onnx file, or a folder with a model.onnx and perhaps the inputs input_0.npy, input_1.npy, ... in the order of
the model's inputs; without inputs, all engines get the same pseudo-random ones. ONNX Runtime and OpenVINO, mostly the fastest, are
the engines if no others are named. The first call makes a virtual environment with their packages in target/peers.

All engines compute in f32 and are pinned to the same cores. What a peer gives is compared with what Egret gives: one that is further off
than 2 % of the largest element counts as one that cannot run the model. A round measures one engine after the other, each in a process
of its own; Egret's ratio to the fastest peer is taken within each round, so that a change of the machine between rounds changes
both. The table gives the median of the ratios with the least and the greatest, and each engine's median latency.
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

from engines import ENGINES

ROOT = Path(__file__).resolve().parents[2]
WARM_UP_RUNS = 3
# A median of fewer runs says little, however long they take.
MIN_RUNS = 5
# Of the largest element of an output; generous, since it only tells who computes something else.
TOLERANCE = 0.02


def main():
    options = arguments()
    if options.worker:
        return work(options)
    options.python = environment(options)
    rows = [row for model in options.models for row in compare(model, options)]
    report = table(rows, options)
    print(report)
    if options.output:
        options.output.write_text(report + "\n")


def arguments():
    def listed(text):
        names = text.split(",")
        if unknown := [name for name in names if name not in ENGINES]:
            raise argparse.ArgumentTypeError(f"there is no engine {unknown[0]}; there are {', '.join(ENGINES)}")
        return names

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--engines", type=listed, default=["onnxruntime", "openvino"], metavar="NAME,NAME", help=", ".join(ENGINES))
    parser.add_argument("--threads", type=lambda text: [int(n) for n in text.split(",")], default=[1], metavar="N,N")
    parser.add_argument("--rounds", type=int, default=3, help="at least 3")
    parser.add_argument("--seconds", type=float, default=1.5, help="that an engine runs in a round")
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=N", help="extent of a free dimension [default: 1]")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--egret", type=Path, default=ROOT / "target/release/egret")
    parser.add_argument("--venv", type=Path, default=ROOT / "target/peers")
    parser.add_argument("--worker", choices=["inputs", "prepare", "measure"], help=argparse.SUPPRESS)
    parser.add_argument("--inputs", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error("a spread needs at least 3 rounds")
    return options


def environment(options):
    """The interpreter of the virtual environment, which is made or brought up to date if it is not."""
    python, stamp = options.venv / "bin/python", options.venv / "packages.txt"
    # Without ONNX Runtime there would be nothing that says what inputs a model has.
    names = dict.fromkeys(["onnxruntime", *options.engines])
    wanted = ["numpy==2.4.6", *(package for name in names for package in ENGINES[name].packages)]
    there = stamp.read_text().splitlines() if stamp.exists() else []
    if missing := [package for package in wanted if package not in there]:
        print(f"installing {' '.join(missing)} in {options.venv}", file=sys.stderr)
        if not python.exists():
            venv.create(options.venv, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *missing], check=True)
        stamp.write_text("\n".join(there + missing))
    return python


def compare(model, options):
    """The rows of a model, one for each number of threads."""
    file = (model / "model.onnx" if model.is_dir() else model).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        inputs = file.parent if (file.parent / "input_0.npy").exists() and model.is_dir() else scratch
        if inputs == scratch:
            worker("inputs", "onnxruntime", file, inputs, scratch, options, 1, check=True)
        artifact = scratch / "model.egret"
        compiled = [options.egret, "compile", file, "-o", artifact]
        # Fixed like the peers' shapes are, which see the inputs before they run.
        subprocess.run(compiled + extents(file, inputs, options), check=True, stderr=subprocess.DEVNULL)
        run = [options.egret, "run", artifact, "--input-dir", inputs, "--output-dir", scratch / "expected"]
        subprocess.run(run, check=True, capture_output=True)
        ready = [name for name in options.engines if worker("prepare", name, file, inputs, scratch, options, 1) is not None]
        for threads in options.threads:
            rounds = [measure(file, artifact, inputs, scratch, options, threads, ready) for _ in range(options.rounds)]
            name = model.name if model.is_dir() else model.stem
            print(f"{name}, {threads} threads: {rounds}", file=sys.stderr)
            yield name, threads, rounds


def measure(file, artifact, inputs, scratch, options, threads, ready):
    """One round: milliseconds of a run of Egret and of each engine, infinite where it cannot run the model."""
    words = [options.egret, "bench", artifact, "--input-dir", inputs, "--threads", threads, "--min-time", f"{options.seconds}s", "--json"]
    times = [json.loads(pinned(words, threads).stdout)["results"][0]["p50_ms"]]
    for name in options.engines:
        said = worker("measure", name, file, inputs, scratch, options, threads) if name in ready else None
        times.append(float(said.split()[-1]) if said else math.inf)
    return times


def extents(file, inputs, options):
    """Every free dimension with the extent that the inputs give it, as flags."""
    text = subprocess.run([options.egret, "run", file, "--input-dir", inputs, "--json"], check=True, capture_output=True, text=True).stdout
    return [word for name, extent in json.loads(text)["dims"].items() for word in ("--dim", f"{name}={extent}")]


def worker(task, engine, file, inputs, scratch, options, threads, check=False):
    """What a process of its own prints that does the task with an engine; nothing where that fails."""
    words = [options.python, __file__, file, "--worker", task, "--engines", engine, "--inputs", inputs, "--scratch", scratch]
    words += ["--threads", threads, "--seconds", options.seconds, *(word for dim in options.dim for word in ("--dim", dim))]
    process = pinned(words, threads, check)
    if process.returncode != 0:
        print(f"{engine} does not run {file}: {process.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return process.stdout


def pinned(words, threads, check=True):
    """Runs a command on the first cores that this process may use."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    pin = lambda: os.sched_setaffinity(0, cores)
    return subprocess.run([str(word) for word in words], preexec_fn=pin, capture_output=True, text=True, check=check)


def work(options):
    """In a process of its own: makes inputs, makes a model ready for a peer, or measures the peer and prints milliseconds."""
    import numpy

    file, engine = options.models[0], ENGINES[options.engines[0]]
    if options.worker == "inputs":
        return make_inputs(file, options, numpy)
    arrays = [numpy.load(path) for path in numbered(options.inputs, "input")]
    folder = options.scratch / options.engines[0]
    if options.worker == "prepare":
        folder.mkdir()
        return engine.prepare(file, arrays, folder)
    run = engine.load(file, arrays, folder, options.threads[0])
    check([numpy.array(output) for output in run()], [numpy.load(path) for path in numbered(options.scratch / "expected", "output")], numpy)
    for _ in range(WARM_UP_RUNS):
        run()
    times, end = [], time.perf_counter() + options.seconds
    while time.perf_counter() < end or len(times) < MIN_RUNS:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    print(statistics.median(times) * 1e3)


def numbered(folder, name):
    return sorted(folder.glob(f"{name}_*.npy"), key=lambda path: int(path.stem.split("_")[1]))


def check(found, expected, numpy):
    """Refuses outputs of other numbers; shapes may differ in extents of 1, which some engines leave out."""
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a.size != b.size:
            raise ValueError(f"output {i} has {a.size} elements, expected {b.size}")
        error = numpy.abs(a.reshape(b.shape).astype("float64") - b).max(initial=0) / max(numpy.abs(b).max(initial=0), 1e-30)
        if not error <= TOLERANCE:
            raise ValueError(f"output {i} is off by {error:.1e} of its largest element")


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


def table(rows, options):
    """The rows in Markdown, with the geometric mean of the ratios for each number of threads."""
    engines = [ENGINES[name] for name in options.engines]
    versions = [engine.packages[0] for engine in engines]
    model = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    lines = [
        f"f32, {model[0] if model else 'unknown processor'}, {', '.join(versions)}; medians of {options.rounds} rounds, in ms; "
        "the ratio is Egret's latency by that of the fastest peer, below 1 where Egret is faster",
        "",
        f"| model | threads | Egret | {' | '.join(engine.title for engine in engines)} | ratio | least to greatest |",
        f"| --- | --: | --: |{' --: |' * len(engines)} --: | --: |",
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
