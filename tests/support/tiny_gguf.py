"""A tiny Llama as a GGUF file, in any type that can be written, and the checkpoint that it must become."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from tiny_checkpoints import TEXTS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

WIDTH, HEADS, GROUPS, LAYERS, INNER, TOKENS = 64, 4, 2, 2, 96, 300
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
         "ffn_norm": "post_attention_layernorm"}  # fmt: skip


def backend() -> Tokenizer:
    """Return a byte-level BPE whose end is ``<|im_end|>``, with digits apart as SmolLM2's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [" " + text for text in TEXTS] + ["a  b  c"] * 9,
        trainers.BpeTrainer(vocab_size=TOKENS, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return made


def weights(rows: int = TOKENS) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Return the weights of a Llama by the names of GGUF, rows and columns as transformers has them."""
    draw = np.random.default_rng(0)
    sizes = {"attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH // 2, WIDTH), "attn_v": (WIDTH // 2, WIDTH),
             "attn_output": (WIDTH, WIDTH), "ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH),
             "ffn_down": (WIDTH, INNER), "attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)}  # fmt: skip
    shapes = {f"blk.{k}.{name}.weight": size for k in range(LAYERS) for name, size in sizes.items()}
    shapes = {"token_embd.weight": (rows, WIDTH), **shapes, "output_norm.weight": (WIDTH,)}
    return {name: (0.1 * draw.standard_normal(size)).astype(np.float32) for name, size in shapes.items()}


def write(
    file: Path,
    kind: Kind = Kind.F32,
    *,
    arch: str = "llama",
    rows: int = TOKENS,
    facts: Mapping[str, Any] = MappingProxyType({}),
    without: tuple[str, ...] = (),
    spoiled: Mapping[str, float] = MappingProxyType({}),
    raw: Kind | None = None,
) -> Path:
    """Write the Llama with its matrices as ``kind``.

    facts: further ones, or others; without: facts and tensors that are left out; spoiled: a value for the first weight
    of a tensor; raw: the type that the file names for its first matrix, whatever is in it.
    """
    made, vocabulary = backend(), backend().get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    merges = [" ".join(pair) for pair in _merges(made)]
    said = {
        f"{arch}.block_count": LAYERS, f"{arch}.context_length": 256, f"{arch}.embedding_length": WIDTH,
        f"{arch}.feed_forward_length": INNER, f"{arch}.attention.head_count": HEADS,
        f"{arch}.attention.head_count_kv": GROUPS, f"{arch}.rope.freq_base": 10000.0,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5, f"{arch}.vocab_size": rows,
        f"{arch}.rope.dimension_count": WIDTH // HEADS, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 3),
        "tokenizer.ggml.merges": merges, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2, "tokenizer.chat_template": TEMPLATE, **facts,
    }  # fmt: skip
    writer = gguf.GGUFWriter(file, arch)
    for key, value in said.items():
        if key not in without:
            _add(writer, key, value)
    for name, values in weights(rows).items():
        if name in without:
            continue
        if name in spoiled:
            values.flat[0] = spoiled[name]
        parts = name.split(".")
        if parts[-2] in ("attn_q", "attn_k"):  # as llama.cpp turns positions
            heads = HEADS if parts[-2] == "attn_q" else GROUPS
            values = values.reshape(heads, 2, -1, WIDTH).swapaxes(1, 2).reshape(values.shape)
        stored = kind if values.ndim > 1 else Kind.F32
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(values), stored), raw_dtype=stored)
    if raw is not None:
        first = next(iter(writer.tensors[0].values()))
        first.dtype = raw
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def expected(kind: Kind) -> dict[str, torch.Tensor]:
    """Return the weights of the checkpoint that a file of ``kind`` must become, by transformers' names."""
    found = {}
    for name, values in weights().items():
        stored = kind if values.ndim > 1 else Kind.F32
        values = gguf.quants.dequantize(gguf.quants.quantize(values, stored), stored)
        if name.startswith("blk."):
            _, layer, part, _ = name.split(".")
            name = f"model.layers.{layer}.{NAMES[part]}.weight"
        else:
            name = {"token_embd.weight": "model.embed_tokens.weight"}.get(name, "model.norm.weight")
        found[name] = torch.from_numpy(np.ascontiguousarray(values))
    return found


def _merges(made: Tokenizer) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(made.to_str())["model"]["merges"]]


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)
