#!/usr/bin/env python3
"""Tiny random models of many families, each exported in several ways, with the outputs of ONNX Runtime.

    python make.py      writes exports.tar.xz; README.md says with which packages

A folder <family>_<exporter> holds model.onnx and test_data_set_0, in the form of ONNX's own cases:
`ts` is the TorchScript exporter, `dynamic` the same with free batch and sequence, `dynamo` the one of torch.export.
"""

import io
import lzma
import tarfile
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torchvision as tv
import transformers as hf
from onnx import numpy_helper
from torch import nn

warnings.filterwarnings("ignore")
HERE = Path(__file__).parent
IDS = torch.from_numpy(np.random.default_rng(1).integers(3, 20, (1, 6)))
TEXT = (IDS, torch.ones_like(IDS))
PIXELS = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
SIZES = dict(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
SIZES |= dict(max_position_embeddings=12, pad_token_id=0, bos_token_id=1, eos_token_id=2)
FEW_HEADS = SIZES | dict(num_key_value_heads=1)
VISION = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8)


class Named(nn.Module):
    """A model of transformers with positional inputs and one output."""

    def __init__(self, net, inputs, output):
        super().__init__()
        self.net, self.inputs, self.output = net, inputs, output

    def forward(self, *args):
        return getattr(self.net(**dict(zip(self.inputs, args))), self.output)


def text(cls, config, output="last_hidden_state"):
    config.use_cache = False
    return lambda: (Named(cls(config), ("input_ids", "attention_mask"), output), TEXT)


def causal(cls, config):
    return text(cls, config, "logits")


def vision(cls, config, x=PIXELS, name="pixel_values"):
    return lambda: (Named(cls(config), (name,), "last_hidden_state"), (x,))


def whisper():
    config = hf.WhisperConfig(
        d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, vocab_size=20,
        num_mel_bins=4, max_source_positions=6, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return vision(WhisperEncoder, config, torch.randn(1, 4, 12, generator=torch.Generator().manual_seed(1)), "input_features")()


class Positional(nn.Module):
    """A model of transformers with several positional inputs and no cache."""

    def __init__(self, net, inputs, output, **others):
        super().__init__()
        self.net, self.inputs, self.output, self.others = net, inputs, output, others

    def forward(self, *args):
        return getattr(self.net(**dict(zip(self.inputs, args)), **self.others), self.output)


def bart():
    config = hf.BartConfig(
        vocab_size=20, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=12, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    inputs = ("input_ids", "attention_mask", "decoder_input_ids")
    return Positional(hf.BartForConditionalGeneration(config), inputs, "logits", use_cache=False), (*TEXT, IDS.flip(1))


def clip():
    sizes = SIZES | dict(max_position_embeddings=12)
    config = hf.CLIPConfig(text_config=sizes, vision_config=VISION, projection_dim=8)
    ids = torch.cat([IDS[:, 1:], torch.full((1, 1), 2)], 1)
    return Positional(hf.CLIPModel(config), ("input_ids", "attention_mask", "pixel_values"), "logits_per_image"), (ids, TEXT[1], PIXELS)


def sam():
    from transformers.models.sam.modeling_sam import SamVisionEncoder

    config = hf.SamVisionConfig(
        hidden_size=8, output_channels=8, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8, mlp_dim=16,
        window_size=3, global_attn_indexes=[1],
    )  # fmt: skip
    return vision(SamVisionEncoder, config, torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)))()


class Groups(nn.Module):
    """A block of a diffusion model: norms of groups of channels around convolutions."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.first, self.second, self.last = nn.GroupNorm(2, 8), nn.GroupNorm(4, 8), nn.GroupNorm(1, 8)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.b(nn.functional.silu(self.second(self.a(nn.functional.silu(self.first(x))))))
        return self.last(x).mean((2, 3))


def cnn():
    block = tv.ops.SqueezeExcitation
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.SiLU(), block(8, 4), nn.Conv2d(8, 8, 1), nn.Hardswish(),
        nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    return net, (PIXELS,)


def swin():
    net = tv.models.swin_transformer.SwinTransformer([4, 4], 8, [2], [2], [2, 2], mlp_ratio=2, num_classes=4)
    return net, (PIXELS,)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.dense = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x):
        return self.dense(self.lstm(x)[0][:, -1]).softmax(-1)


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu", norm_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), (torch.randn(1, 6, 8),)


def swinv2():
    swin = tv.models.swin_transformer
    kinds = dict(block=swin.SwinTransformerBlockV2, downsample_layer=swin.PatchMergingV2)
    return swin.SwinTransformer([4, 4], 8, [2], [2], [2, 2], mlp_ratio=2, num_classes=4, **kinds), (PIXELS,)


T5 = dict(vocab_size=20, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
FAMILIES = {
    "bert": text(hf.BertModel, hf.BertConfig(**SIZES)),
    "distilbert": text(
        hf.DistilBertModel, hf.DistilBertConfig(vocab_size=20, dim=8, n_layers=1, n_heads=2, hidden_dim=16, max_position_embeddings=12)
    ),
    "roberta": text(hf.RobertaModel, hf.RobertaConfig(**SIZES)),
    "t5": text(hf.T5EncoderModel, hf.T5Config(**T5)),
    "llama": causal(hf.LlamaForCausalLM, hf.LlamaConfig(**FEW_HEADS)),
    "qwen3": causal(hf.Qwen3ForCausalLM, hf.Qwen3Config(head_dim=4, **FEW_HEADS)),
    "gemma": causal(hf.GemmaForCausalLM, hf.GemmaConfig(head_dim=4, **FEW_HEADS)),
    "gptj": causal(
        hf.GPTJForCausalLM,
        hf.GPTJConfig(vocab_size=20, n_positions=12, n_embd=16, n_layer=1, n_head=2, n_inner=16, rotary_dim=4, bos_token_id=1, eos_token_id=2),
    ),
    "bloom": causal(hf.BloomForCausalLM, hf.BloomConfig(vocab_size=20, hidden_size=8, n_layer=1, n_head=2)),
    "gpt2": causal(
        hf.GPT2LMHeadModel, hf.GPT2Config(vocab_size=20, n_positions=12, n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    ),
    "opt": causal(
        hf.OPTForCausalLM,
        hf.OPTConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, ffn_dim=16, max_position_embeddings=12, num_attention_heads=2, word_embed_proj_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    ),
    "phi": causal(hf.PhiForCausalLM, hf.PhiConfig(**SIZES)),
    "falcon": causal(
        hf.FalconForCausalLM, hf.FalconConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, bos_token_id=1, eos_token_id=2)
    ),
    "mistral": causal(hf.MistralForCausalLM, hf.MistralConfig(head_dim=4, sliding_window=4, **FEW_HEADS)),
    "modernbert": text(
        hf.ModernBertModel,
        hf.ModernBertConfig(**SIZES | dict(num_hidden_layers=2), local_attention=4, global_attn_every_n_layers=2, cls_token_id=1, sep_token_id=2),
    ),
    "bart": bart,
    "clip": clip,
    "sam": sam,
    "dinov2": vision(hf.Dinov2Model, hf.Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=2, image_size=16, patch_size=8)),
    "convnext": vision(hf.ConvNextModel, hf.ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1])),
    "groups": lambda: (Groups(), (PIXELS,)),
    "swinv2": swinv2,
    "vit": vision(hf.ViTModel, hf.ViTConfig(**VISION)),
    "whisper": whisper,
    "encoder": encoder,
    "swin": swin,
    "cnn": cnn,
    "lstm": lambda: (Recurrent(), (torch.randn(1, 6, 4),)),
}


def livened(net):
    """Norms scale and shift, biases are not zero, so that nothing folds away for free."""
    with torch.no_grad():
        for module in net.modules():
            weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
            if "Norm" in type(module).__name__ and isinstance(weight, torch.Tensor):
                weight.mul_(1 + 0.15 * torch.randn_like(weight))
            if isinstance(bias, torch.Tensor):
                bias.add_(0.1 * torch.randn_like(bias))
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 1.5)
    return net.eval()


def export(net, args, exporter, path):
    names = [f"in{i}" for i in range(len(args))]
    with torch.no_grad():
        if exporter == "dynamo":
            torch.onnx.export(net, args, path, dynamo=True, verbose=False, opset_version=18, input_names=names, external_data=False)
        else:
            axes = {name: {0: "batch", 1: "seq"} for name in names} if exporter == "dynamic" else None
            torch.onnx.export(net, args, path, dynamo=False, opset_version=17, input_names=names, dynamic_axes=axes)


def stripped(path):
    """Without what no compiler reads: stack traces and notes of the exporter."""
    model = onnx.load(path)
    for part in [model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output]:
        del part.metadata_props[:]
        if isinstance(part, onnx.NodeProto):
            part.ClearField("doc_string")
    del model.graph.value_info[:]
    return model.SerializeToString()


def case(build, exporter):
    torch.manual_seed(0)
    net, args = build()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(livened(net), args, exporter, path)
        model = stripped(path)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given = {f"in{i}": arg.numpy() for i, arg in enumerate(args)}
    inputs = [given[i.name] for i in session.get_inputs()]
    files = {"model.onnx": model}
    for i, array in enumerate(inputs):
        files[f"test_data_set_0/input_{i}.pb"] = numpy_helper.from_array(array).SerializeToString()
    for i, array in enumerate(session.run(None, {i.name: given[i.name] for i in session.get_inputs()})):
        files[f"test_data_set_0/output_{i}.pb"] = numpy_helper.from_array(array).SerializeToString()
    return files


def main():
    torch.backends.mha.set_fastpath_enabled(False)
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for family, build in FAMILIES.items():
            for exporter in ["ts", "dynamo"] + (["dynamic"] if family in ("bert", "llama", "encoder") else []):
                for name, data in case(build, exporter).items():
                    entry = tarfile.TarInfo(f"{family}_{exporter}/{name}")
                    entry.size = len(data)
                    archive.addfile(entry, io.BytesIO(data))
                print(family, exporter, flush=True)
    (HERE / "exports.tar.xz").write_bytes(lzma.compress(plain.getvalue(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
