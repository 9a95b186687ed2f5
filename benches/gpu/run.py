#!/usr/bin/env python3
"""Egret on a GPU: are its results right, how fast are its products, and how fast are models beside PyTorch and XLA.

    cargo build --release
    benches/gpu/run.py --egret target/release/egret --out /tmp/out                 # all parts, on cuda:0
    benches/gpu/run.py --egret ... --parts truth --device emu                      # the truth part, in the emulator
    benches/gpu/run.py --egret ... --parts gemm,models --device emu --small        # a rehearsal without a GPU

For a machine with a GPU and without a network: it needs `egret`, python3 with torch and numpy, and for the part `models` also onnx, with
torchvision and transformers for the models of which they hold the definitions; a model whose package is missing is named and left out.
With jax, XLA is a peer (see xla.py); without it the column says so.

truth    Every kind of kernel on random inputs against torch in f64, in each precision: |out - ref| / |ref| at most TOLERANCES, and NaN
         never passes. Buffers are poisoned by `--device emu`; on a GPU, run this under compute-sanitizer as well.
gemm     Matrix products of the shapes of bert_base and gpt2 at batch 1 and 32: time of the kernel by events beside torch.matmul in the same
         precision.
models   Time of an inference at batch 1 and 32, Egret beside torch eager, torch.compile (max-autotune, CUDA graphs) and XLA, all in the same
         precision; weights are random by a seed. The first columns are by the host's clock, copies in and out included; the last by
         events, with what goes in and out on the GPU: of Egret the sum of its kernels, of torch the whole of what torch.compile made.

What is compared is measured in rounds, one after the other in each round; a ratio is taken within each round, so that a change of the
machine between rounds changes both. Tables give the median with the least and the greatest. With --results, the rows are added
to that file under the device's name.
"""

import argparse
import contextlib
import importlib.util
import json
import os
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
# Largest |out - ref| / |ref| of a kernel. A model is some ten products deep: it may be off by MODEL_FACTOR times as much.
TOLERANCES = {"f32": 1e-5, "tf32": 1e-3, "bf16": 1e-2}
MODEL_FACTOR = {"f32": 100, "tf32": 10, "bf16": 10}
# Elements of the parameters of a case above which the emulator takes minutes.
MOST_EMULATED = 60_000


def main():
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
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
    parser.add_argument("--target", help="what egret compiles for, if not for the device: cuda:sm_90a has warpgroups in the emulator, too")
    parser.add_argument("--parts", default="truth,gemm,models")
    parser.add_argument("--precisions", default="f32,tf32,bf16")
    parser.add_argument("--models", help="names of models, instead of all")
    parser.add_argument("--out", type=Path, default=Path("target/gpu"), help="folder for models, tensors and figures")
    parser.add_argument("--results", type=Path, help="file to add the rows to, such as benches/gpu/RESULTS.md")
    parser.add_argument("--small", action="store_true", help="tiny shapes and few runs, to rehearse")
    options = parser.parse_args()
    options.egret = options.egret.resolve()
    options.on_gpu = options.device.startswith("cuda")
    options.precisions = options.precisions.split(",")
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
    target = ["--target", options.target] if options.target else []
    command = [str(options.egret), verb, *map(str, words), "--device", options.device, *target]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{ran.stderr.strip()}")
    return ran.stdout


def spread(values):
    if not values:
        return "-"
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


@contextlib.contextmanager
def torch_in(precision):
    """torch multiplies f32 as TF32 inside, if that is asked for, and exactly otherwise."""
    for backend in (torch.backends.cuda.matmul, torch.backends.cudnn):
        backend.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        for backend in (torch.backends.cuda.matmul, torch.backends.cudnn):
            backend.allow_tf32 = False


def relative_error(found, reference):
    if found.shape != reference.shape:
        return numpy.nan
    return numpy.linalg.norm(found - reference) / max(numpy.linalg.norm(reference), 1e-300)


# ---------------------------------------------------------------------------------------------------------------- truth


def random(*shape, low=-1.0, high=1.0):
    return torch.rand(*shape) * (high - low) + low


def graph(parameters, body, shapes):
    shape = lambda name, t: ", ".join(map(str, shapes.get(name, t.shape)))  # noqa: E731
    names = ", ".join(f"{name}: {'i64' if t.dtype == torch.int64 else 'f32'}[{shape(name, t)}]" for name, t in parameters.items())
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
    attend = lambda q, k, v, c: F.scaled_dot_product_attention(q, k, v, is_causal=c)  # noqa: E731
    for s, d, causal in ((70, 64, False), (128, 64, True), (1, 64, False), (40, 128, True), (33, 80, False), (20, 32, False), (300, 128, True)):
        heads = {name: random(3, rows, d) for name, rows in (("q", s), ("k", max(s, 90)), ("v", max(s, 90)))}
        if causal:
            heads = {name: random(3, s, d) for name in "qkv"}
        body = f"  y = attention[scale={d**-0.5}, causal={str(causal).lower()}](q, k, v)\n  return y"
        what = f"attention of {s}, heads of {d}{', causal' if causal else ''}"
        yield what, heads, body, lambda q, k, v, c=causal: attend(q, k, v, c)
    # Two heads of queries for each of keys, whose keys a mask hides in part.
    heads = {"q": random(2, 2, 50, 64), "k": random(2, 1, 70, 64), "v": random(2, 1, 70, 64), "m": random(50, 70, low=-9, high=0)}
    body = "  y = attention[scale=0.125](q, k, v, m)\n  return y"
    masked = lambda q, k, v, m: F.scaled_dot_product_attention(q, k.expand(2, 2, 70, 64), v.expand(2, 2, 70, 64), attn_mask=m)  # noqa: E731
    yield "attention of shared heads, masked", heads, body, masked
    gates = {"x": random(6, 3, 20), "w": random(128, 20), "r": random(128, 32), "b": random(256), "h": random(3, 32), "c": random(3, 32)}
    yield "lstm", gates, "  y, s, t = lstm(x, w, r, b, h, c)\n  return y", lstm


STORED_PRODUCT = """  a = cast[to = bf16](x)
  b = cast[to = bf16](w)
  c = cast[to = f32](a)
  d = cast[to = f32](b)
  y = matmul(c, d)
  return y"""
STORED_ATTENTION = """  a = cast[to = bf16](q)
  b = cast[to = bf16](k)
  c = cast[to = bf16](v)
  d = cast[to = f32](a)
  e = cast[to = f32](b)
  f = cast[to = f32](c)
  y = attention[scale=0.125](d, e, f)
  return y"""


def stored_cases():
    """The same of operands that are bf16 in memory. With rows of an unknown number, or tiles enough, products are for warpgroups."""
    rounded = lambda x: x.bfloat16().to(x.dtype)  # noqa: E731
    for m, k, n, free in ((70, 72, 112, True), (1, 296, 128, True), (70, 72, 112, False), (4096, 768, 768, False), (8192, 200, 512, False)):
        name = f"product of bf16 {m}x{k}x{n}{', rows free' if free else ''}"
        parameters = {"x": random(m, k), "w": random(k, n)}
        yield name, parameters, STORED_PRODUCT, lambda x, w: rounded(x) @ rounded(w), {"x": [f"M{m}", k]} if free else {}
    for s, d in ((70, 64), (20, 32), (130, 128)):
        heads = {"q": random(3, s, d), "k": random(3, 90, d), "v": random(3, 90, d)}
        attend = lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(*map(rounded, (q, k, v)), scale=0.125)  # noqa: E731
        yield f"attention of bf16, {s}, heads of {d}", heads, STORED_ATTENTION, attend, {}


def truth(options):
    folder = options.out / "truth"
    folder.mkdir(exist_ok=True)
    rows, wrong = [], False
    work = [((*case, {}), precision) for case in cases() for precision in options.precisions]
    work += [(case, "bf16") for case in stored_cases() if "bf16" in options.precisions]
    for (name, parameters, body, of, shapes), precision in work:
        name = f"{name}, {precision}"
        if options.device == "emu" and sum(tensor.numel() for tensor in parameters.values()) > MOST_EMULATED:
            rows.append([name, "", "left out: too large for the emulator"])
            continue
        source = folder / "case.egir"
        source.write_text(graph(parameters, body, shapes))
        inputs = []
        for key, tensor in parameters.items():
            numpy.save(folder / f"{key}.npy", tensor.numpy())
            inputs += ["--input", f"{key}={folder / f'{key}.npy'}"]
        reference = of(*(t.double() if t.is_floating_point() else t for t in parameters.values())).numpy()
        (folder / "output_0.npy").unlink(missing_ok=True)
        try:
            egret(options, "run", source, *inputs, "--precision", precision, "--output-dir", folder)
            error = relative_error(numpy.load(folder / "output_0.npy").astype(numpy.float64), reference)
            # NaN is not at most anything.
            right, said = bool(error <= TOLERANCES[precision]), f"{error:.1e}"
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


PRODUCT = {
    "f32": "graph g(x: f32[{m}, {k}]) {{\n  const w: f32[{k}, {n}] = random(1)\n  y = matmul(x, w)\n  return y\n}}\n",
    # As it stands between kernels: bf16 in memory, sums in f32.
    "bf16": """graph g(x: bf16[{m}, {k}]) {{
  const w: bf16[{k}, {n}] = random(1)
  a = cast[to = f32](x)
  b = cast[to = f32](w)
  p = matmul(a, b)
  y = cast[to = bf16](p)
  return y
}}
""",
}


def gemm(options):
    rows = []
    for (m, k, n), precision in ((shape, precision) for shape in products(options) for precision in options.precisions):
        source = options.out / "gemm.egir"
        source.write_text(PRODUCT.get(precision, PRODUCT["f32"]).format(m=m, k=k, n=n))
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        x, w = (torch.randn(*shape, device=options.torch, dtype=dtype) for shape in ((m, k), (k, n)))
        ours, theirs, ratios = [], [], []
        for _ in range(ROUNDS):
            words = ["--precision", precision] if precision == "tf32" else []
            report = json.loads(egret(options, "profile", source, *words, "--min-time", "1ms" if options.small else "300ms", "--json"))
            ours.append(report["steps_us"] / 1e3)
            with torch_in(precision):
                theirs.append(timed_on_gpu(lambda x=x, w=w: torch.matmul(x, w), RUNS))
            ratios.append(ours[-1] / theirs[-1])
        rate = 2e-9 * m * k * n / statistics.median(ours)
        rows.append([f"{m}x{k}x{n}", precision, spread(ours), spread(theirs), spread(ratios), f"{rate:.3g}"])
    return "Matrix products", ["M x K x N", "", "egret ms", "torch ms", "egret / torch", "egret TFLOP/s"], rows, False


# --------------------------------------------------------------------------------------------------------------- models


def resnet50(small):
    import torchvision

    if small:
        block = torchvision.models.resnet.BasicBlock
        return torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=10), lambda batch: (torch.randn(batch, 3, 16, 16),)
    return torchvision.models.resnet50(weights=None), lambda batch: (torch.randn(batch, 3, 224, 224),)


def bert_base(small):
    from transformers import BertConfig, BertModel

    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=100) if small else {}

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = BertModel(BertConfig(attn_implementation="sdpa", **sizes), add_pooling_layer=False)

        def forward(self, ids):
            return self.bert(input_ids=ids).last_hidden_state

    return Hidden(), lambda batch: (torch.randint(0, 100, (batch, 8 if small else 128)),)


def gpt2(small):
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = dict(n_embd=32, n_layer=1, n_head=2, vocab_size=100, n_positions=64, bos_token_id=0, eos_token_id=0) if small else {}
    return GPT2LMHeadModel(GPT2Config(**sizes))


def gpt2_prefill(small):
    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gpt2 = gpt2(small)

        def forward(self, ids):
            return self.gpt2(input_ids=ids, use_cache=False).logits

    return Logits(), lambda batch: (torch.randint(0, 100, (batch, 8 if small else 128)),)


def gpt2_decode(small):
    """One word behind a past of 128."""
    from transformers.cache_utils import DynamicCache

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gpt2 = gpt2(small)

        def forward(self, ids, *past):
            cache = DynamicCache()
            for i in range(len(past) // 2):
                cache.update(past[2 * i], past[2 * i + 1], i)
            return self.gpt2(input_ids=ids, past_key_values=cache, use_cache=True).logits

    step = Step()
    config, words = step.gpt2.config, 8 if small else 128
    shape = (config.n_head, words, config.n_embd // config.n_head)
    past = lambda batch: (torch.randn(batch, *shape) for _ in range(2 * config.n_layer))  # noqa: E731
    return step, lambda batch: (torch.randint(0, 100, (batch, 1)), *past(batch))


MODELS = [resnet50, bert_base, gpt2_prefill, gpt2_decode]


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


HEADER = [
    "model", "", "egret ms", "torch eager ms", "torch.compile ms", "XLA ms", "egret / best",
    "egret kernels ms", "torch.compile on the GPU ms", "error against torch in f32",
]  # fmt: skip


def models(options):
    wanted = options.models.split(",") if options.models else [make.__name__ for make in MODELS]
    rows, wrong = [], False
    for make in (make for make in MODELS if make.__name__ in wanted):
        for batch in [1, 2] if options.small else [1, 32]:
            name = f"{make.__name__}, batch {batch}"
            try:
                exported = export(options, make, batch)
            except Exception as problem:  # a package is missing, or an operator: the other models go on
                rows.append([name, "", last_line(problem), *["-"] * (len(HEADER) - 3)])
                wrong = True
                continue
            for precision in options.precisions:
                try:
                    row, right = model(options, *exported, precision)
                except Exception as problem:
                    row, right = [last_line(problem), *["-"] * (len(HEADER) - 3)], False
                wrong |= not right
                rows.append([name, precision, *row])
    if not importlib.util.find_spec("jax"):
        rows.append(["XLA: jax is not installed here", *[""] * (len(HEADER) - 1)])
    return "Models", HEADER, rows, wrong


def last_line(problem):
    return f"{type(problem).__name__}: {str(problem).strip()}".splitlines()[-1][:160]


def export(options, make, batch):
    """The model, its inputs, and its folder with both in files."""
    torch.manual_seed(1)
    module, inputs_of = make(options.small)
    module, inputs = module.eval(), inputs_of(batch)
    folder = options.out / f"{make.__name__}-{batch}"
    folder.mkdir(exist_ok=True)
    torch.onnx.export(module, inputs, str(folder / "model.onnx"), dynamo=True, external_data=True, verbose=False)
    for i, tensor in enumerate(inputs):
        numpy.save(folder / f"input_{i}.npy", tensor.numpy())
    return module, inputs, folder


def model(options, module, inputs, folder, precision):
    runs, least = (3, "1ms") if options.small else (RUNS, "2s")
    words = [folder / "model.onnx", "--input-dir", folder, "--precision", precision]
    egret(options, "run", *words, "--output-dir", folder)
    with torch.inference_mode():
        reference = module.float()(*inputs).double().numpy()
    error = relative_error(numpy.load(folder / "output_0.npy").astype(numpy.float64), reference)
    peers = Peers(options, module, inputs, folder, precision)
    ours, kernels, ratios, times = [], [], [], {name: [] for name in peers.clocked}
    device = []
    for _ in range(ROUNDS):
        ours.append(json.loads(egret(options, "bench", *words, "--min-time", least, "--json"))["results"][0]["p50_ms"])
        kernels.append(json.loads(egret(options, "profile", *words, "--min-time", least, "--json"))["steps_us"] / 1e3)
        with torch_in(precision):
            for name, work in peers.clocked.items():
                times[name].append(clocked(work, runs))
            device.append(timed_on_gpu(peers.on_device, runs))
        ratios.append(ours[-1] / min(of[-1] for of in times.values()))
    columns = [ours, *(times.get(name, []) for name in ("eager", "compiled", "xla")), ratios, kernels, device]
    return [*map(spread, columns), f"{error:.1e}"], bool(error <= MODEL_FACTOR[precision] * TOLERANCES[precision])


class Peers:
    """What else runs the model in a precision: `clocked` from inputs on the host to outputs on the host, `on_device` without copies."""

    def __init__(self, options, module, inputs, folder, precision):
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        module = module.to(options.torch, self.dtype)
        self.pinned = [tensor.pin_memory() for tensor in inputs] if options.on_gpu else list(inputs)
        self.device = options.torch
        compiled = torch.compile(module, mode="max-autotune") if options.on_gpu else module
        self.clocked = {"eager": lambda: self.inference(module), "compiled": lambda: self.inference(compiled)}
        there = self.there()
        self.on_device = lambda: self.run(compiled, there)
        if importlib.util.find_spec("jax"):
            self.clocked["xla"] = self.xla(options, folder, precision)

    def there(self):
        cast = lambda x: x.to(self.dtype) if x.is_floating_point() else x  # noqa: E731
        return [cast(tensor.to(self.device, non_blocking=True)) for tensor in self.pinned]

    @staticmethod
    def run(of, tensors):
        with torch.inference_mode():
            return of(*tensors)

    def inference(self, of):
        return self.run(of, self.there()).cpu()

    def xla(self, options, folder, precision):
        import jax
        import xla

        # torch has taken its share of the memory already.
        jax.config.update("jax_default_matmul_precision", {"f32": "highest", "tf32": "tensorfloat32"}.get(precision, "default"))
        run = xla.function(folder / "model.onnx", jax.numpy.bfloat16 if precision == "bf16" else jax.numpy.float32)
        tensors = [numpy.load(folder / f"input_{i}.npy") for i in range(len(self.pinned))]
        return lambda: numpy.asarray(run(*(jax.device_put(tensor) for tensor in tensors))[0])


if __name__ == "__main__":
    # Beside torch on one GPU, jax must not take the memory that it may need.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    sys.exit(main())
