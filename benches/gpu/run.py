#!/usr/bin/env python3
"""Egret on a GPU: are its results right, how fast are its products, and how fast are models beside PyTorch.

    cargo build --release
    benches/gpu/run.py --egret target/release/egret --out /tmp/out                 # all parts, on cuda:0
    benches/gpu/run.py --egret ... --parts truth --device emu                      # the truth part, in the emulator
    benches/gpu/run.py --egret ... --parts gemm,models --device cpu --small        # a rehearsal without a GPU

For a machine with a GPU and without a network: it needs `egret`, python3 with torch and numpy, and for the part `models` also onnx, with
torchvision and transformers for the models of which they hold the definitions; a model whose package is missing is named and left out.

truth    Every kind of kernel on random inputs against torch in f64: |out - ref| / |ref| at most 1e-5, and NaN never passes. Buffers
         are poisoned by `--device emu`; on a GPU, run this under compute-sanitizer as well.
gemm     Matrix products of the shapes of bert_base and gpt2 at batch 1 and 32 in f32: time of the kernel by events beside torch.matmul
         with TF32 off and on.
models   Time of an inference on the host's clock, copies in and out included, at batch 1 and 32: Egret beside torch eager and
         torch.compile (max-autotune, CUDA graphs), TF32 off for all. Weights are random by a seed.

What is compared is measured in rounds, one after the other in each round; a ratio is taken within each round, so that a change of the
machine between rounds changes both. Tables give the median with the least and the greatest. With --results, the rows are added
to that file under the device's name.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy
import torch

ROUNDS = 3
# Warm-up runs, and timed runs of which the median is taken, of torch in each round; egret warms up and counts by itself.
WARM_UP, RUNS = 20, 50
TOLERANCE = 1e-5
# Elements of the parameters of a case above which the emulator takes minutes.
MOST_EMULATED = 60_000


def main():
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    parts = {"truth": truth, "gemm": gemm, "models": models}
    tables, failed = [], False
    for part in options.parts.split(","):
        title, header, rows, wrong = parts[part](options)
        failed |= wrong
        tables.append(table(title, header, rows))
        (options.out / f"{part}.json").write_text(json.dumps({"header": header, "rows": rows}, indent=1))
        print(tables[-1], flush=True)
    if options.results:
        with options.results.open("a") as file:
            file.write(f"\n## {device_name(options)}\n\n" + "\n".join(tables))
    return 1 if failed else 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--egret", required=True, type=Path, help="the program")
    parser.add_argument("--device", default="cuda:0", help="what egret runs on; torch runs on the GPU if this is one")
    parser.add_argument("--parts", default="truth,gemm,models")
    parser.add_argument("--out", type=Path, default=Path("target/gpu"), help="folder for models, tensors and figures")
    parser.add_argument("--results", type=Path, help="file to add the rows to, such as benches/gpu/RESULTS.md")
    parser.add_argument("--small", action="store_true", help="tiny shapes and few runs, to rehearse")
    options = parser.parse_args()
    options.egret = options.egret.resolve()
    options.on_gpu = options.device.startswith("cuda")
    options.torch = torch.device("cuda" if options.on_gpu else "cpu")
    return options


def device_name(options):
    if not options.on_gpu:
        return f"{options.device} (a rehearsal, no GPU), torch {torch.__version__}"
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, torch {torch.__version__}"


def table(title, header, rows):
    lines = [f"### {title}", "", "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]) + "\n"


def egret(options, verb, *words):
    command = [str(options.egret), verb, *map(str, words), "--device", options.device]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{ran.stderr.strip()}")
    return ran.stdout


def spread(values):
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


# ---------------------------------------------------------------------------------------------------------------- truth


def random(*shape, low=-1.0, high=1.0):
    return torch.rand(*shape) * (high - low) + low


def graph(parameters, body):
    names = ", ".join(f"{name}: {'i64' if t.dtype == torch.int64 else 'f32'}{list(t.shape)}" for name, t in parameters.items())
    return f"graph g({names}) {{\n{body}\n}}\n"


def lstm(x, w, r, b, h, c):
    """ONNX's LSTM: gates in the order i, o, f, c."""
    steps = []
    bias = b[: len(b) // 2] + b[len(b) // 2 :]
    for step in x:
        i, o, f, g = (step @ w.T + h @ r.T + bias).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        steps.append(h)
    return torch.stack(steps)


def cases():
    """Name, parameters, body of the graph, and what torch says of it."""
    F = torch.nn.functional
    unary = {
        "exp": torch.exp, "tanh": torch.tanh, "erf": torch.erf, "sigmoid": torch.sigmoid, "gelu": F.gelu, "silu": F.silu,
        "sqrt": lambda x: torch.sqrt(x.abs()), "relu": F.relu,
    }  # fmt: skip
    for name, of in unary.items():
        arg = "  a = abs(x)\n  y = sqrt(a)" if name == "sqrt" else f"  y = {name}(x)"
        yield name, {"x": random(33, 70, low=-4, high=4)}, arg + "\n  return y", of
    yield "add, broadcast", {"x": random(5, 7, 33), "y": random(7, 1)}, "  z = add(x, y)\n  return z", lambda x, y: x + y
    yield "transpose", {"x": random(3, 40, 65)}, "  y = transpose[perm=[2, 0, 1]](x)\n  return y", lambda x: x.permute(2, 0, 1)
    yield "concat", {"x": random(9, 31), "y": random(9, 66)}, "  z = concat[axis=1](x, y)\n  return z", lambda x, y: torch.cat([x, y], 1)
    indices = torch.randint(0, 40, (17,))
    yield "gather", {"x": random(40, 24), "i": indices}, "  y = gather[axis=0](x, i)\n  return y", lambda x, i: x[i]
    for n in (7, 32, 257, 1030, 5000):
        yield f"softmax of {n}", {"x": random(9, n, low=-9, high=9)}, "  y = softmax[axes=[1]](x)\n  return y", lambda x: x.softmax(1)
        yield f"sum of {n}", {"x": random(5, n)}, "  y = reduce_sum[axes=[1]](x)\n  return y", lambda x: x.sum(1, keepdim=True)
    yield (
        "layer_norm",
        {"x": random(33, 768), "s": random(768), "b": random(768)},
        "  y = layer_norm[axes=[1], epsilon=0.00001](x, s, b)\n  return y",
        lambda x, s, b: F.layer_norm(x, (768,), s, b, 1e-5),
    )
    for m, k, n in ((1, 768, 768), (5, 3, 10), (64, 64, 64), (65, 17, 66), (128, 768, 3072), (300, 1000, 130)):
        body = "  h = matmul(x, w)\n  s = add(h, b)\n  y = relu(s)\n  return y"
        yield f"product {m}x{k}x{n}", {"x": random(m, k), "w": random(k, n), "b": random(n)}, body, lambda x, w, b: F.relu(x @ w + b)
    for c, o, size, kernel, stride in ((3, 16, 33, 7, 2), (64, 64, 14, 3, 1), (32, 40, 9, 1, 1)):
        pad = kernel // 2
        body = f"  y = conv[stride=[{stride}, {stride}], pad=[{pad}, {pad}, {pad}, {pad}], dilation=[1, 1]](x, w)\n  return y"
        what = {"x": random(2, c, size, size), "w": random(o, c, kernel, kernel)}
        yield f"conv {c} to {o}, {kernel}x{kernel}/{stride}", what, body, lambda x, w, s=stride, p=pad: F.conv2d(x, w, stride=s, padding=p)
    body = "  y = max_pool[kernel=[3, 3], stride=[2, 2], pad=[1, 1, 1, 1], dilation=[1, 1]](x)\n  return y"
    yield "max_pool", {"x": random(2, 5, 17, 16)}, body, lambda x: F.max_pool2d(x, 3, 2, 1)
    for s, causal in ((70, False), (128, True), (1, False)):
        heads = {name: random(3, rows, 64) for name, rows in (("q", s), ("k", max(s, 90)), ("v", max(s, 90)))}
        if causal:
            heads = {name: random(3, s, 64) for name in "qkv"}
        body = f"  y = attention[scale=0.125, causal={str(causal).lower()}](q, k, v)\n  return y"
        attend = lambda q, k, v, c=causal: F.scaled_dot_product_attention(q, k, v, is_causal=c)  # noqa: E731
        yield f"attention of {s}{', causal' if causal else ''}", heads, body, attend
    gates = {"x": random(6, 3, 20), "w": random(128, 20), "r": random(128, 32), "b": random(256), "h": random(3, 32), "c": random(3, 32)}
    yield "lstm", gates, "  y, s, t = lstm(x, w, r, b, h, c)\n  return y", lstm


def truth(options):
    folder = options.out / "truth"
    folder.mkdir(exist_ok=True)
    rows, wrong = [], False
    for name, parameters, body, of in cases():
        if options.device == "emu" and sum(tensor.numel() for tensor in parameters.values()) > MOST_EMULATED:
            rows.append([name, "", "left out: too large for the emulator"])
            continue
        source = folder / "case.egir"
        source.write_text(graph(parameters, body))
        inputs = []
        for key, tensor in parameters.items():
            numpy.save(folder / f"{key}.npy", tensor.numpy())
            inputs += ["--input", f"{key}={folder / f'{key}.npy'}"]
        reference = of(*(t.double() if t.is_floating_point() else t for t in parameters.values())).numpy()
        (folder / "output_0.npy").unlink(missing_ok=True)
        try:
            egret(options, "run", source, *inputs, "--output-dir", folder)
            found = numpy.load(folder / "output_0.npy").astype(numpy.float64)
            error = numpy.linalg.norm(found - reference) / max(numpy.linalg.norm(reference), 1e-300) if found.shape == reference.shape else numpy.nan
            # NaN is not at most anything.
            right, said = bool(error <= TOLERANCE), f"{error:.1e}"
        except RuntimeError as problem:
            right, said = False, str(problem).splitlines()[-1]
        wrong |= not right
        rows.append([name, said, "right" if right else "WRONG"])
    title = f"Truth on {options.device}: {sum(row[2] == 'right' for row in rows)} of {len(rows)} right"
    return title, ["kernel", "relative error against f64", ""], rows, wrong


# ----------------------------------------------------------------------------------------------------------------- gemm


def timed_on_gpu(work, runs):
    """The median time of a call in milliseconds, by events; on a processor by the clock."""
    for _ in range(WARM_UP):
        work()
    times = []
    for _ in range(runs):
        if torch.cuda.is_available():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            work()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        else:
            begin = time.perf_counter()
            work()
            times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times)


def products(options):
    if options.small:
        return [(16, 64, 64), (32, 64, 48)]
    rows = [128, 32 * 128]
    widths = [(768, 768), (768, 2304), (768, 3072), (3072, 768)]
    return [(m, k, n) for m in rows for k, n in widths] + [(1, 768, 50257), (8192, 8192, 8192)]


def gemm(options):
    rows = []
    for m, k, n in products(options):
        source = options.out / "gemm.egir"
        source.write_text(f"graph g(x: f32[{m}, {k}]) {{\n  const w: f32[{k}, {n}] = random(1)\n  y = matmul(x, w)\n  return y\n}}\n")
        x, w = (torch.randn(*shape, device=options.torch) for shape in ((m, k), (k, n)))
        ours, theirs, fast, ratios = [], [], [], []
        for _ in range(ROUNDS):
            report = json.loads(egret(options, "profile", source, "--min-time", "300ms", "--json"))
            ours.append(report["steps_us"] / 1e3)
            theirs.append(timed_on_gpu(lambda x=x, w=w: torch.matmul(x, w), RUNS))
            torch.backends.cuda.matmul.allow_tf32 = True
            fast.append(timed_on_gpu(lambda x=x, w=w: torch.matmul(x, w), RUNS))
            torch.backends.cuda.matmul.allow_tf32 = False
            ratios.append(ours[-1] / theirs[-1])
        rate = 2e-9 * m * k * n / statistics.median(ours)
        rows.append([f"{m}x{k}x{n}", spread(ours), spread(theirs), spread(fast), spread(ratios), f"{rate:.1f}"])
    header = ["M x K x N", "egret ms", "torch f32 ms", "torch TF32 ms", "egret / torch f32", "egret TFLOP/s"]
    return "Matrix products in f32", header, rows, False


# --------------------------------------------------------------------------------------------------------------- models


def resnet50():
    import torchvision

    return torchvision.models.resnet50(weights=None), lambda batch: (torch.randn(batch, 3, 224, 224),)


def bert_base():
    from transformers import BertConfig, BertModel

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = BertModel(BertConfig(attn_implementation="sdpa"), add_pooling_layer=False)

        def forward(self, ids):
            return self.bert(input_ids=ids).last_hidden_state

    return Hidden(), lambda batch: (torch.randint(0, 30000, (batch, 128)),)


def gpt2_prefill():
    from transformers import GPT2Config, GPT2LMHeadModel

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gpt2 = GPT2LMHeadModel(GPT2Config(use_cache=False))

        def forward(self, ids):
            return self.gpt2(input_ids=ids).logits

    return Logits(), lambda batch: (torch.randint(0, 50000, (batch, 128)),)


def perceptron():
    layers = [torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.LayerNorm(128), torch.nn.Linear(128, 10)]
    return torch.nn.Sequential(*layers), lambda batch: (torch.randn(batch, 64),)


def clocked(work, runs):
    """The median time of an inference in milliseconds, by the host's clock; `work` ends with the outputs on the host."""
    for _ in range(WARM_UP):
        work()
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        work()
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times)


def models(options):
    makers, batches = ([perceptron], [1]) if options.small else ([resnet50, bert_base, gpt2_prefill], [1, 32])
    runs, rows, wrong = (5 if options.small else RUNS), [], False
    for make in makers:
        for batch in batches:
            name = f"{make.__name__}, batch {batch}"
            try:
                row, right = model(options, make, batch, runs)
                wrong |= not right
            except Exception as problem:  # a package or an operator is missing: the other models go on
                row, wrong = [str(problem).strip().splitlines()[-1][:120], "-", "-", "-", "-"], True
            rows.append([name, *row])
    header = ["model", "egret ms", "torch eager ms", "torch.compile ms", "egret / best of torch", "error against torch"]
    return "Models in f32, copies included", header, rows, wrong


def model(options, make, batch, runs):
    torch.manual_seed(1)
    module, inputs_of = make()
    module = module.eval()
    inputs = inputs_of(batch)
    folder = options.out / f"{make.__name__}-{batch}"
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    torch.onnx.export(module, inputs, str(path), dynamo=True, external_data=True, verbose=False)
    for i, tensor in enumerate(inputs):
        numpy.save(folder / f"input_{i}.npy", tensor.numpy())
    words = [path, "--input-dir", folder]
    egret(options, "run", *words, "--output-dir", folder)
    module = module.to(options.torch)
    pinned = [tensor.pin_memory() for tensor in inputs] if options.on_gpu else list(inputs)
    compiled = torch.compile(module, mode="max-autotune") if options.on_gpu else module

    def inference(of):
        with torch.inference_mode():
            return of(*(tensor.to(options.torch, non_blocking=True) for tensor in pinned)).cpu()

    reference = inference(module).double().numpy()
    found = numpy.load(folder / "output_0.npy").astype(numpy.float64)
    error = numpy.linalg.norm(found - reference) / numpy.linalg.norm(reference)
    ours, eager, graphs, ratios = [], [], [], []
    for _ in range(ROUNDS):
        report = json.loads(egret(options, "bench", *words, "--min-time", "200ms" if options.small else "2s", "--json"))
        ours.append(report["results"][0]["p50_ms"])
        eager.append(clocked(lambda: inference(module), runs))
        graphs.append(clocked(lambda: inference(compiled), runs))
        ratios.append(ours[-1] / min(eager[-1], graphs[-1]))
    # Two sums in f32 differ by their order: a model is some ten products deep.
    return [*map(spread, (ours, eager, graphs, ratios)), f"{error:.1e}"], bool(error <= 100 * TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
