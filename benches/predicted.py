#!/usr/bin/env python3
"""The cost model against the machine: a row for each model, and the median error.

    benches/predicted.py MODELS... [--egret target/release/egret] [--unfused] [--min-time 300ms] [--rounds 3] [--kernels]

MODELS are folders with a `model.onnx` and its `input_<i>.npy`, or folders of such folders. Each model is profiled on one thread, all
models in every round. `measured` is the sum over the kernels of the shortest time of each: what other programs take of the machine is
no part of a prediction, and a kernel is seldom longer than the time between two interruptions. `error` is predicted / measured - 1, and
the median is that of its absolute value. A model that does not compile is named and left out. `--kernels` adds up predictions and
times by what the kernels compute, over all models, with the largest differences first.
"""

import argparse
import collections
import json
import pathlib
import statistics
import subprocess
import sys


def models(folders):
    for folder in map(pathlib.Path, folders):
        if (folder / "model.onnx").exists():
            yield folder
        else:
            yield from sorted(path.parent for path in folder.glob("*/model.onnx"))


def profile(egret, folder, min_time, unfused):
    """The steps of a model, with predicted and shortest times in microseconds; an error as text."""
    words = [egret, "profile", folder / "model.onnx", "--input-dir", folder, "--sort", "order", "--min-time", min_time, "--json"]
    ran = subprocess.run([*words, *(["--no-fuse"] if unfused else [])], capture_output=True, text=True)
    if ran.returncode != 0:
        return None, next((line for line in ran.stderr.splitlines() if line.startswith("error")), ran.stderr)
    return json.loads(ran.stdout), None


def error(predicted, measured):
    return f"{100 * (predicted / measured - 1):+6.1f} %"


def kernels(profiles):
    """Rows (computes, predicted, measured) over all models. The calls before a node's last one are counted with that."""
    sums = collections.defaultdict(lambda: [0.0, 0.0])
    for steps in profiles:
        measured = 0.0
        for step in steps:
            measured += step["shortest_us"]
            if step["predicted_us"] is not None:
                row = sums[step["computes"]]
                row[0] += step["predicted_us"]
                row[1] += measured
                measured = 0.0
    return sorted(((name, *row) for name, row in sums.items()), key=lambda row: -abs(row[1] - row[2]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--egret", default="target/release/egret")
    parser.add_argument("--unfused", action="store_true")
    parser.add_argument("--min-time", default="300ms")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kernels", action="store_true")
    args = parser.parse_args()
    found, errors = {}, []
    print(f"{'model':32} {'predicted us':>14} {'measured us':>14}    error")
    for rounds_left in reversed(range(args.rounds)):
        for folder in models(args.models):
            report, problem = profile(args.egret, folder, args.min_time, args.unfused)
            if report is None:
                print(f"{folder.name}: {problem}", file=sys.stderr)
                continue
            steps, before = report["steps"], found.get(folder.name)
            for i, step in enumerate(steps):
                step["shortest_us"] = min(step["shortest_us"], before[1][i]["shortest_us"] if before else step["shortest_us"])
            found[folder.name] = (report["predicted_us"], steps)
            if rounds_left == 0:
                predicted, measured = report["predicted_us"], sum(step["shortest_us"] for step in steps)
                errors.append(abs(predicted / measured - 1))
                print(f"{folder.name:32} {predicted:14.1f} {measured:14.1f} {error(predicted, measured)}", flush=True)
    print(f"median error of {len(errors)} models: {100 * statistics.median(errors):.1f} %")
    if args.kernels:
        for name, predicted, measured in kernels([steps for _, steps in found.values()]):
            print(f"{name[:60]:60} {predicted:12.1f} {measured:12.1f} {error(predicted, measured)}")


if __name__ == "__main__":
    main()
