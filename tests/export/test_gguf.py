"""A student as a GGUF file: what it holds, and what llama.cpp writes with it."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch
from llama_cpp_ids import drawn_ids
from tiny_trained import middle, trained_run

from udrl.architecture.closed_head import NEVER, closed_head
from udrl.cli.main import run as udrl_cli
from udrl.commands import LENGTH
from udrl.errors import MissingDependency, UsageError
from udrl.export.export import ExportReport, export
from udrl.export.gguf import FILE
from udrl.export.llamacpp import LlamaCpp
from udrl.student.engines.exports import find_export
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.student import Student, load_student

INPUTS = ["a red fox in the snow", "<|endoftext|> is text", "harbour — çà, 東京 \U0001f98a"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory)


@pytest.fixture(scope="module")
def reports(run: Path) -> dict[str, ExportReport]:
    return {"fp32": export(run, format="gguf", precision="fp32"), "int8": export(run, format="gguf", precision="int8")}


@pytest.fixture(scope="module")
def student(run: Path) -> Student:
    return load_student(run, device="cpu", precision="fp32", engine="torch")


def file(run: Path, precision: str) -> Path:
    return run / "student" / "engines" / f"gguf-{precision}" / FILE


def test_gguf_fp32_writes_what_torch_writes(reports: dict[str, ExportReport]) -> None:
    found = reports["fp32"].exports[0].verification
    # llama.cpp keeps keys and values in half precision: a near tie may fall the other way
    assert (found.passed, found.prompts, found.reasons) == (True, 32, ())
    assert found.same_tokens == 1 - found.near_ties / 32 >= 28 / 32


def test_gguf_int8_is_judged_by_relevance_and_obedience(run: Path, reports: dict[str, ExportReport]) -> None:
    found = reports["int8"].exports[0].verification
    assert found.relevance is not None
    assert found.spearman is not None
    assert found.relevance[1] == pytest.approx(found.relevance[0], rel=0.15)  # a small student: one word moves much
    assert min(found.spearman[LENGTH]) > 0.1  # both do obey: a handful of inputs, each by its own draws
    assert found.same_tokens > 0.25
    assert file(run, "int8").stat().st_size < 0.5 * file(run, "fp32").stat().st_size


def test_gguf_is_no_engine_of_ours(run: Path, reports: dict[str, ExportReport]) -> None:
    assert reports["fp32"].default == "torch"
    assert load_student(run, device="cpu").engine == "torch"
    made = find_export(run / "student", "gguf-fp32")
    assert made is not None
    assert made.verified
    assert made.is_current(run / "student")


def test_gguf_head_gives_text_its_logits_and_control_ids_none(student: Student) -> None:
    assert isinstance(student.computes, TorchEngine)
    model = student.computes.model.model
    norm, base = copy.deepcopy(model.transformer.ln_f), student.space.base
    torch.manual_seed(0)
    hidden = 5 * torch.randn(40, norm.weight.shape[0]) + 3
    with torch.no_grad():
        norm.bias.add_(torch.randn_like(norm.bias))  # after so short a training it is close to none
        expected = norm(hidden) @ model.lm_head.weight[:base].T
        plain = torch.nn.functional.layer_norm(hidden, norm.weight.shape, eps=norm.eps) + 1
        found = plain @ closed_head(model.lm_head.weight[:base], norm, base + 64).T
    torch.testing.assert_close(found[:, :base], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[:, base:], torch.full((40, 64), NEVER), atol=0.1, rtol=0)


def test_gguf_holds_the_vocabulary_and_no_text_is_a_command(
    run: Path, reports: dict[str, ExportReport], student: Student
) -> None:
    fields = gguf.GGUFReader(file(run, "fp32")).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    base = student.space.base
    assert len(tokens) % 64 == 0
    assert len(set(tokens)) == len(tokens) >= base + student.space.size
    assert {tokens[i]: i for i in range(base)} == student.tokenizer.get_vocab()
    assert set(kinds[base:]) == {gguf.TokenType.UNUSED}  # the type that no text is parsed to
    assert fields["gpt2.context_length"].contents() == student.computes.context


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_gguf_llama_cpp_writes_text_ids_only(
    run: Path, reports: dict[str, ExportReport], student: Student, precision: str
) -> None:
    """Hot, so that every id that can be drawn is: what control ids would give, no text does."""
    program = LlamaCpp(file(run, precision), context=student.computes.context, threads=1)
    prompts = student.prompt_ids(INPUTS, [middle(student)] * len(INPUTS))
    drawn = drawn_ids(program, prompts[0], temperature=20.0)
    assert max(drawn) < student.space.base
    assert len(drawn) > 0.4 * student.space.base, "hot enough that a control id would be drawn"


def test_gguf_llama_cpp_reads_prompts_of_any_text(
    run: Path, reports: dict[str, ExportReport], student: Student
) -> None:
    program = LlamaCpp(file(run, "fp32"), context=student.computes.context, threads=1)
    commands = [middle(student)] * len(INPUTS)
    greedy = replace(student.sampling, temperature=0, no_repeat=0, max_tokens=30)
    expected = [one.completion for one in student.generate(INPUTS, commands, sampling=greedy)]
    found = program.complete(student.prompt_ids(INPUTS, commands), max_tokens=30)
    assert [text.removeprefix(" ").rstrip("\ufffd") for text in found] == expected


def test_gguf_on_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert udrl_cli(["export", "--run", str(run), "--format", "gguf", "--precision", "fp32", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["exports"][0]["name"] == "gguf-fp32"
    assert udrl_cli(["export", "--run", str(run), "--format", "safetensors"]) == 2


def test_gguf_says_what_is_missing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udrl.export.export.is_installed", lambda name: name != "xllamacpp")
    with pytest.raises(MissingDependency, match=r"needs xllamacpp: pip install 'udrl\[gguf\]'"):
        export(run, format="gguf")
    with pytest.raises(UsageError, match="onnx"):
        export(run, format="ggfu")  # type: ignore[arg-type]
