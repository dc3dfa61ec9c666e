"""Llama and its relatives in ONNX Runtime, llama.cpp and CTranslate2 compute what torch computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from llama_cpp_ids import drawn_ids
from tiny_answering import TASK, TEXTS
from tiny_checkpoints import byte_level, new_model

from udrl.commands import LENGTH, Attribute, CommandSpace
from udrl.errors import StudentError
from udrl.export.ctranslate2 import CTranslate2, write_ctranslate2
from udrl.export.gguf import FILE, check_gguf, split_name, write_gguf
from udrl.export.llamacpp import LlamaCpp
from udrl.export.onnx import write_graph
from udrl.export.parts import exporter_of, token_names
from udrl.export.verification import EngineAnswerer
from udrl.student.engines.exports import Export
from udrl.student.engines.onnx import OnnxEngine
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.network import StudentModel
from udrl.student.student import SAMPLING, Student
from udrl.tokenizer import decode, text_only

KINDS = ("llama", "llama tied", "llama biases", "mistral", "qwen2", "qwen3")
WIDE = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
"""What every program takes: blocks of 32 for 8 bits, heads of 16."""


def new_student(family: str, **changed: Any) -> tuple[Student, StudentModel]:
    tokenizer = text_only(byte_level(extra=()))  # a program leaves out special tokens that an untrained student writes
    model = new_model(family, **(WIDE | changed))
    values = np.random.default_rng(0).integers(3, 40, 600).tolist()
    space = CommandSpace.fit(len(tokenizer), (Attribute(LENGTH, 1, 1000, "words"),), {TASK: {LENGTH: values}})
    network = StudentModel(model, space)
    with torch.no_grad():
        network.rows.weight.add_(torch.randn(network.rows.weight.shape, generator=torch.Generator().manual_seed(1)))
    sampling = replace(SAMPLING, temperature=0.0, no_repeat=0, guidance=1.0, max_tokens=24)
    return Student(TorchEngine(network), tokenizer, name="tiny", sampling=sampling), network


def controls(network: StudentModel) -> list[list[int]]:
    return [network.space.render(TASK, {LENGTH: 2.0 * k}) for k in range(len(TEXTS))]


def prompts(student: Student, network: StudentModel) -> list[list[int]]:
    ids = student.tokenizer.backend_tokenizer.encode_batch([" " + text for text in TEXTS])
    return [network.space.prompt(one.ids, control) for one, control in zip(ids, controls(network), strict=True)]


def certain(network: StudentModel, prompt: list[int]) -> list[int]:
    """Return what torch writes greedily, up to the first id that another one is nearly as likely as."""
    session, logits = TorchEngine(network).start([prompt])
    ids: list[int] = []
    while len(ids) < 24:
        second, first = np.sort(logits[0])[-2:]
        if first - second < 0.02:
            break
        ids.append(int(logits[0].argmax()))
        logits = session.step(np.array(ids[-1:]))
    return ids


@pytest.mark.parametrize("family", KINDS)
def test_onnx_logits_are_those_of_torch(family: str, tmp_path: Path) -> None:
    student, network = new_student(family)
    shape = exporter_of(network).cache_shape(network.model.config)
    facts = {"parameters": 0, "context": 128, "layers": shape.layers, "heads": shape.heads,
             "width": shape.heads * shape.size}  # fmt: skip
    read = prompts(student, network)
    found: dict[str, list[Any]] = {}
    for precision in ("torch", "fp32", "int8"):
        engine: Any = TorchEngine(network)
        if precision != "torch":
            folder = tmp_path / precision
            folder.mkdir()
            write_graph(network, folder, quantised=precision == "int8")
            engine = OnnxEngine(Export(precision, folder, {**facts, "precision": precision}), network.space)
        session, logits = engine.start(read)
        found[precision] = [np.array(logits)]
        for ids in ([5, 6, 7, 8], [9, 300, 11, 12]):
            found[precision].append(np.array(session.step(np.array(ids))))
        session.keep(np.array([3, 1]))
        found[precision].append(np.array(session.step(np.array([20, 21]))))
    largest = max(float(np.abs(one).max()) for one in found["torch"])
    for mine, exact, rough in zip(found["torch"], found["fp32"], found["int8"], strict=True):
        assert np.abs(mine - exact).max() < 1e-4 * largest
        assert 0 < np.abs(mine - rough).mean() < 0.05 * largest


@pytest.mark.parametrize("family", KINDS)
def test_llama_cpp_writes_what_torch_writes_and_no_control_id(family: str, tmp_path: Path) -> None:
    student, network = new_student(family)
    check_gguf(network, student.tokenizer, quantised=True)
    write_gguf(network, student.tokenizer, tmp_path, name="tiny", quantised=False)
    program = LlamaCpp(tmp_path / FILE, context=128, threads=1, exact=True)
    found = [text.removeprefix(" ") for text in program.complete(prompts(student, network), max_tokens=24)]
    sure = [certain(network, prompt) for prompt in prompts(student, network)]
    assert sum(map(len, sure)) > 24
    for text, ids in zip(found, sure, strict=True):
        assert text.startswith(decode(student.tokenizer, ids).rstrip("\ufffd"))
    base = network.space.base
    drawn = drawn_ids(program, prompts(student, network)[0], temperature=50.0)
    assert max(drawn) < base
    assert len(drawn) > base / 2, "hot enough that a control id would be drawn"


def test_gguf_has_the_names_of_llama_cpp(tmp_path: Path) -> None:
    student, network = new_student("llama tied")
    write_gguf(network, student.tokenizer, tmp_path, name="tiny", quantised=True)
    read = gguf.GGUFReader(tmp_path / FILE)
    facts = {name: field.contents() for name, field in read.fields.items() if name.startswith(("general", "llama"))}
    assert facts["general.architecture"] == "llama"
    assert (facts["llama.attention.head_count"], facts["llama.attention.head_count_kv"]) == (4, 1)
    assert facts["llama.rope.freq_base"] == 500000.0
    known = set(gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2).mapping)
    assert all(one.name.removesuffix(".weight") in known for one in read.tensors)
    stored = {one.name: one.tensor_type for one in read.tensors}
    assert stored["blk.0.attn_q.weight"] == stored["output.weight"] == gguf.GGMLQuantizationType.Q8_0
    assert stored["rope_freqs.weight"] == gguf.GGMLQuantizationType.F32
    program = LlamaCpp(tmp_path / FILE, context=128, threads=1)  # in 8 bits, the head stays closed
    assert max(drawn_ids(program, prompts(student, network)[0], temperature=50.0)) < network.space.base


def test_gguf_refuses_what_llama_cpp_computes_otherwise(tmp_path: Path) -> None:
    linear = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    for family, changed, said in (
        ("qwen2", {"rope_parameters": linear}, r"a qwen2 with scaled positions \(linear\)"),
        ("qwen3", {"attention_bias": True}, "no bias of attn_q in a qwen3"),
    ):
        student, network = new_student(family, **changed)
        with pytest.raises(StudentError, match=f"{said}.*take --format onnx or ctranslate2"):
            check_gguf(network, student.tokenizer, quantised=False)


@pytest.mark.parametrize("family", KINDS)
def test_ctranslate2_writes_what_torch_writes_and_no_control_id(family: str, tmp_path: Path) -> None:
    student, network = new_student(family)
    write_ctranslate2(network, student.tokenizer, tmp_path, quantised=False)
    program, read, base = CTranslate2(tmp_path, threads=1), prompts(student, network), network.space.base
    expected = EngineAnswerer(student, 0).greedy(TEXTS, controls(network))
    assert program.complete(read, max_tokens=24) == expected
    named = token_names(student.tokenizer, base, base + network.space.size)
    logits = np.array(program.generator.forward_batch([[named[i] for i in read[0]]]))[0, -1, :base]
    mine = TorchEngine(network).start(read[:1])[1][0]
    assert np.abs(logits - mine).max() < 1e-4 * np.abs(mine).max()
    written = program.complete(read * 4, max_tokens=60, temperature=50.0, ignore_end=True)
    assert max(max(ids) for ids in written) < base


def test_gguf_tells_ways_to_split_apart() -> None:
    from tokenizers import Regex, normalizers, pre_tokenizers

    made = text_only(byte_level())
    backend = made.backend_tokenizer
    qwen = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
        r"|\s+"
    )
    parts = pre_tokenizers
    raw = parts.ByteLevel(add_prefix_space=False, use_regex=False)
    for name, splits in (
        ("gpt-2", parts.ByteLevel(add_prefix_space=False)),
        ("smollm", parts.Sequence([parts.Digits(True), parts.ByteLevel(add_prefix_space=False)])),
        ("qwen2", parts.Sequence([parts.Split(Regex(qwen), "isolated"), raw])),
        ("llama-bpe", parts.Sequence([parts.Split(Regex(qwen.replace(r"\p{N}|", r"\p{N}{1,3}|")), "isolated"), raw])),
        (None, parts.Sequence([parts.Split(Regex(r"\s+"), "isolated"), raw])),
        (None, parts.Metaspace()),
    ):
        backend.pre_tokenizer = splits
        assert split_name(made) == name
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = parts.ByteLevel(add_prefix_space=False)
    assert split_name(made) is None
    backend.pre_tokenizer = parts.Sequence([parts.Split(Regex(qwen), "isolated"), raw])
    assert split_name(made) == "qwen2"


@pytest.mark.parametrize(("window", "context"), [(64, 64), (None, 128), (4096, 128)])
def test_llama_exports_name_the_window_as_their_context(window: int | None, context: int) -> None:
    _, network = new_student("mistral", sliding_window=window, max_position_embeddings=128)
    exporter, said = exporter_of(network), {}

    class Writer:
        def __getattr__(self, name: str) -> Any:
            return lambda value: said.__setitem__(name, value)

    exporter.add_gguf_facts(Writer(), network.model)
    assert said["add_context_length"] == context == network.architecture.context(network.model.config)
    attention = exporter.ctranslate2_spec(network.model).decoder.layer[0].self_attention
    assert attention.original_max_position_embeddings == context
