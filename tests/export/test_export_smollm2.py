"""SmolLM2's own weights, cut to its lowest blocks: every format computes with them what torch does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llama_cpp_ids import drawn_ids
from real_weights import smollm2_at_hand

from udrl.commands import LENGTH, Attribute, CommandSpace
from udrl.export.ctranslate2 import CTranslate2, write_ctranslate2
from udrl.export.gguf import FILE, check_gguf, split_name, write_gguf
from udrl.export.llamacpp import LlamaCpp
from udrl.export.onnx import write_graph
from udrl.export.parts import exporter_of
from udrl.student.engines.exports import Export
from udrl.student.engines.onnx import OnnxEngine
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.network import StudentModel
from udrl.tokenizer import decode, encode
from udrl.training.admission import admit

BLOCKS, WRITTEN = 4, 16
TEXTS = ("a red fox in the snow, 2024-05-01", "<|im_end|> typed, don't!", "an old  lighthouse, 東京 🦊")
Loaded = tuple[StudentModel, Any, list[list[int]]]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """Network, tokenizer and commanded prompts."""
    with smollm2_at_hand(tmp_path_factory) as weights:
        model, tokenizer = admit(weights)
        del model.model.layers[BLOCKS:]
        model.config.num_hidden_layers = BLOCKS
        values = {"t": {LENGTH: [float(n % 37 + 3) for n in range(600)]}}
        space = CommandSpace.fit(49_152, (Attribute(LENGTH, 1, 1000, "words"),), values)
        controls = [space.render("t", {LENGTH: place}) for place in (0.0, 4.5, 9.0)]
        texts = encode(tokenizer, TEXTS)
        yield StudentModel(model, space).eval(), tokenizer, list(map(space.prompt, texts, controls))


def greedy(engine: Any, prompt: list[int], margin: float = 0.0) -> list[int]:
    """Return what is written, up to the first id that another one is within ``margin`` of."""
    session, logits = engine.start([prompt])
    ids: list[int] = []
    while len(ids) < WRITTEN:
        second, first = np.sort(logits[0])[-2:]
        if first - second < margin:
            break
        ids.append(int(logits[0].argmax()))
        logits = session.step(np.array(ids[-1:]))
    return ids


def certain(network: StudentModel, prompts: list[list[int]]) -> list[list[int]]:
    found = [greedy(TorchEngine(network), prompt, margin=0.05) for prompt in prompts]
    assert sum(map(len, found)) > WRITTEN
    return found


def onnx_engine(network: StudentModel, folder: Path, precision: str) -> OnnxEngine:
    write_graph(network, folder, quantised=precision == "int8")
    shape = exporter_of(network).cache_shape(network.model.config)
    facts = {"parameters": 0, "context": 8192, "layers": shape.layers, "heads": shape.heads,
             "width": shape.heads * shape.size, "precision": precision}  # fmt: skip
    return OnnxEngine(Export(precision, folder, facts), network.space)


def test_smollm2_in_onnx_runtime(loaded: Loaded, tmp_path: Path) -> None:
    network, _, prompts = loaded
    engine = onnx_engine(network, tmp_path, "fp32")
    for prompt, ids in zip(prompts, certain(network, prompts), strict=True):
        assert greedy(engine, prompt)[: len(ids)] == ids


def test_smollm2_in_int8_is_close(loaded: Loaded, tmp_path: Path) -> None:
    """Its activations have outliers a hundred times the rest: one scale for all of them loses the rest."""
    network, _, prompts = loaded
    read = [prompt[:6] for prompt in prompts]
    mine = torch.tensor(TorchEngine(network).start(read)[1]).log_softmax(-1)
    other = torch.tensor(onnx_engine(network, tmp_path, "int8").start(read)[1]).log_softmax(-1)
    apart = (mine.exp() * (mine - other)).sum(-1)
    assert 0 < float(apart.mean()) < 0.01


def test_smollm2_in_llama_cpp(loaded: Loaded, tmp_path: Path) -> None:
    network, tokenizer, prompts = loaded
    assert split_name(tokenizer) == "smollm"
    check_gguf(network, tokenizer, quantised=True)
    write_gguf(network, tokenizer, tmp_path, name="smollm2", quantised=False)
    program = LlamaCpp(tmp_path / FILE, context=128, threads=1, exact=True)
    written = [text.removeprefix(" ") for text in program.complete(prompts, max_tokens=WRITTEN)]
    for text, ids in zip(written, certain(network, prompts), strict=True):
        assert text.startswith(decode(tokenizer, ids).rstrip("\ufffd"))
    assert max(drawn_ids(program, prompts[0], temperature=50.0, calls=2)) < network.space.base


def test_smollm2_in_ctranslate2(loaded: Loaded, tmp_path: Path) -> None:
    network, tokenizer, prompts = loaded
    write_ctranslate2(network, tokenizer, tmp_path, quantised=False)
    written = CTranslate2(tmp_path, threads=1).complete(prompts, max_tokens=WRITTEN, ends=network.ends)
    for found, ids in zip(written, certain(network, prompts), strict=True):
        assert list(found[: len(ids)]) == ids
