"""Trains the three example models on scikit-learn's bundled digits and exports them to ONNX.

    python train.py             train, export, compute the reference logits, then check them
    python train.py --check     only check the files that are here

Each model takes `images: f32[batch, 1, 8, 8]` with pixels in [0, 1] and gives `logits: f32[batch, 10]`.
The held-out images are the same for all three and take no part in training.
Seeds are fixed and one thread is used, so a run on the same kind of processor gives the same files.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxscript import optimizer
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
HELD_OUT = 360  # a fifth of the 1797 images
CLASSES = 10
# These and the shifts below were chosen by comparing a few on a fifth of the training images, left out for that.
EPOCHS = 150
LEARNING_RATE = 3e-3
BATCH = 64
OPSET = 20
SIZE_LIMIT = 400_000  # bytes of one ONNX file
ACCURACY_LIMIT = 0.95


class Residual(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x)))))), the block of a ResNet."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(x + self.bn2(self.conv2(y)))


class Cnn(nn.Module):
    """A small ResNet: a stem, then two stages of one residual block each, 8x8 and 4x4."""

    def __init__(self, channels=32):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(channels)
        self.block1 = Residual(channels)
        self.block2 = Residual(channels)
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, images):
        x = F.relu(self.stem_bn(self.stem(images)))  # [batch, channels, 8, 8]
        x = F.max_pool2d(self.block1(x), 2)  # [batch, channels, 4, 4]
        return self.head(self.block2(x).mean(dim=(2, 3)))


class Lstm(nn.Module):
    """Reads an image as a sequence of eight rows of eight pixels, top to bottom."""

    def __init__(self, hidden=96):
        super().__init__()
        self.rows = nn.LSTM(8, hidden, batch_first=True)
        self.head = nn.Linear(hidden, CLASSES)

    def forward(self, images):
        states, _ = self.rows(images.squeeze(1))  # [batch, 8, hidden]
        return self.head(states[:, -1])


class Block(nn.Module):
    """A pre-norm Transformer block: self-attention, then a two-layer perceptron, each around a residual."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def attend(self, x):
        # [batch, tokens, 3 * width] -> three of [batch, heads, tokens, width / heads]
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, x):
        x = x + self.attend(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Vit(nn.Module):
    """A Vision Transformer: sixteen 2x2 patches and a class token, two blocks of four heads."""

    def __init__(self, width=48, heads=4, depth=2):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images):
        patches = self.patches(images).flatten(2).transpose(1, 2)  # [batch, 16, width]
        token = self.token.expand(images.shape[0], -1, -1)
        x = torch.cat([token, patches], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


MODELS = {"digits_cnn": Cnn, "digits_lstm": Lstm, "digits_vit": Vit}


def load():
    """The digits as (training images, training labels, held-out images, held-out labels)."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=HELD_OUT, random_state=0, stratify=labels
    )
    return train_x, train_y, test_x, test_y


def shifted(images):
    """Each image moved by up to one pixel in each direction, zeros moving in."""
    padded = F.pad(images, (1, 1, 1, 1))[:, 0]  # [batch, 10, 10]
    start = torch.randint(0, 3, (2, len(images), 1))
    rows, columns = start + torch.arange(8)  # two of [batch, 8]
    which = torch.arange(len(images))[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def train(build, images, labels):
    """Builds a network and trains it on all of `images`; the last state is the result."""
    torch.manual_seed(0)
    net = build()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = F.cross_entropy(net(shifted(images[batch])), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def export(net, path):
    """Writes `net` as ONNX with a free `batch`."""
    # The exporter's own optimiser would fold each batch norm into its convolution. The CNN is here to have that
    # done by the compiler, so of its graph only the constants are folded.
    keep_batch_norm = isinstance(net, Cnn)
    program = torch.onnx.export(
        net,
        (torch.zeros(2, 1, 8, 8),),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=OPSET,
        dynamo=True,
        optimize=not keep_batch_norm,
        verbose=False,
    )
    if keep_batch_norm:
        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
    model = program.model_proto
    forget_sources(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def forget_sources(model):
    """Removes the exporter's stack traces: they hold the paths of the machine that ran it."""
    graph = model.graph
    parts = [model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer]
    for function in model.functions:
        parts += [function, *function.node, *function.value_info]
    for part in parts:
        part.ClearField("metadata_props")


def run(path, images):
    """The logits that ONNX Runtime computes with its graph optimisations switched off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def write_all():
    """Trains and exports every model and stores the held-out images, their labels and the reference logits."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    train_x, train_y, test_x, test_y = load()
    np.save(HERE / "images.npy", test_x)
    np.save(HERE / "labels.npy", test_y)
    for name, build in MODELS.items():
        net = train(build, torch.from_numpy(train_x), torch.from_numpy(train_y))
        path = HERE / f"{name}.onnx"
        export(net, path)
        expected = run(path, test_x)
        with torch.no_grad():
            np.testing.assert_allclose(expected, net(torch.from_numpy(test_x)).numpy(), rtol=1e-3, atol=1e-4)
        np.save(HERE / f"{name}.expected.npy", expected)


def check():
    """Prints a table row for each model; raises where a file is not what the README says."""
    images, labels = np.load(HERE / "images.npy"), np.load(HERE / "labels.npy")
    assert images.shape == (HELD_OUT, 1, 8, 8) and labels.shape == (HELD_OUT,)
    print("| model | held-out accuracy | ONNX bytes | nodes |")
    print("| --- | --- | --- | --- |")
    for name in MODELS:
        path = HERE / f"{name}.onnx"
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        logits = run(path, images)
        expected = np.load(HERE / f"{name}.expected.npy")
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(run(path, images[:1]), expected[:1], rtol=1e-4, atol=1e-5)
        accuracy = float((logits.argmax(1) == labels).mean())
        size = path.stat().st_size
        print(f"| {name} | {accuracy:.2%} | {size:,} | {len(model.graph.node)} |")
        assert accuracy > ACCURACY_LIMIT and size < SIZE_LIMIT, name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only check the files that are here")
    if not parser.parse_args().check:
        write_all()
    check()
