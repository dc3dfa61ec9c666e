"""A student as a folder for CTranslate2: what it writes there, and that no control id is ever written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_trained import middle, trained_run

from udrl.cli.main import run as udrl_cli
from udrl.errors import MissingDependency, StudentError
from udrl.export.ctranslate2 import CTranslate2
from udrl.export.export import ExportReport, export
from udrl.export.parts import token_names
from udrl.student.engines.exports import find_export
from udrl.student.student import Student, load_student
from udrl.tokenizer import decode

INPUTS = ["a red fox in the snow", "<|endoftext|> is text", "harbour — çà, 東京 \U0001f98a"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory)


@pytest.fixture(scope="module")
def reports(run: Path) -> dict[str, ExportReport]:
    return {one: export(run, format="ctranslate2", precision=one) for one in ("fp32", "int8")}


@pytest.fixture(scope="module")
def student(run: Path) -> Student:
    return load_student(run, device="cpu", precision="fp32", engine="torch")


def folder(run: Path, precision: str) -> Path:
    return run / "student" / "engines" / f"ctranslate2-{precision}"


def student_token(student: Student, index: int) -> str:
    return token_names(student.tokenizer, student.space.base, index + 1)[index]


def test_fp32_writes_the_same_tokens_as_torch(run: Path, reports: dict[str, ExportReport]) -> None:
    found = reports["fp32"].exports[0].verification
    assert (found.passed, found.prompts, found.same_tokens) == (True, 32, 1.0)
    made = find_export(run / "student", "ctranslate2-fp32")
    assert made is not None
    assert made.is_current(run / "student")
    assert load_student(run, device="cpu").engine == "torch", "it is no engine of ours"


def test_int8_is_judged_by_what_this_processor_makes_of_it(run: Path, reports: dict[str, ExportReport]) -> None:
    """Without VNNI, CTranslate2's products of 8 bits overflow now and then: it may pass, and must say why if not."""
    found = reports["int8"].exports[0].verification
    assert found.relevance is not None
    assert found.spearman is not None
    assert found.completions == 2 * 32 * 4 * 2
    assert found.passed == (not found.reasons)
    assert found.passed or "instead of" in "".join(found.reasons) or "of its range" in "".join(found.reasons)
    sizes = [(folder(run, one) / "model.bin").stat().st_size for one in ("int8", "fp32")]
    assert sizes[0] < 0.5 * sizes[1]


def test_int8_weights_multiplied_in_float32_are_close(
    run: Path, reports: dict[str, ExportReport], student: Student
) -> None:
    texts = [f"{text} {place}" for text in INPUTS[:1] for place in ("at dawn", "by the sea", "in town", "up north")]
    prompts = student.prompt_ids(texts, [middle(student)] * len(texts))
    scores = [
        np.array(
            CTranslate2(folder(run, one), threads=1, compute="float32").generator.forward_batch(
                [[student_token(student, i) for i in prompt] for prompt in prompts], return_log_probs=True
            )
        )[..., : student.space.base]
        for one in ("fp32", "int8")
    ]
    gap = [np.abs(a[: len(p)] - b[: len(p)]).mean() for a, b, p in zip(*scores, prompts, strict=True)]
    assert 0 < max(gap) < 0.15


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_text_ids_alone_are_written(
    run: Path, reports: dict[str, ExportReport], student: Student, precision: str
) -> None:
    """Hot, so that every id that can be drawn is."""
    program = CTranslate2(folder(run, precision), threads=1)
    prompts = student.prompt_ids(INPUTS, [middle(student)] * len(INPUTS))
    written = program.complete(prompts * 8, max_tokens=60, temperature=20.0, ignore_end=True)
    assert [len(ids) for ids in written] == [60] * 24
    assert max(max(ids) for ids in written) < student.space.base
    assert len({i for ids in written for i in ids}) > 0.6 * student.space.base, "nearly any text is drawn"


def test_prompts_of_any_text_are_read(run: Path, reports: dict[str, ExportReport], student: Student) -> None:
    commands = [middle(student)] * len(INPUTS)
    greedy = replace(student.sampling, temperature=0, no_repeat=0, max_tokens=30)
    expected = [one.completion for one in student.generate(INPUTS, commands, sampling=greedy)]
    program = CTranslate2(folder(run, "fp32"), threads=torch.get_num_threads())
    found = program.complete(student.prompt_ids(INPUTS, commands), max_tokens=30)
    assert [decode(student.tokenizer, list(ids)).rstrip("\ufffd") for ids in found] == expected


def test_command_line_and_what_is_missing(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["export", "--run", str(run), "--format", "ctranslate2", "--precision", "fp32", "--json"]
    assert udrl_cli(arguments) == 0
    assert json.loads(capsys.readouterr().out)["exports"][0]["name"] == "ctranslate2-fp32"
    monkeypatch.setattr("udrl.export.export.is_installed", lambda name: False)
    with pytest.raises(MissingDependency, match=r"needs ctranslate2: pip install 'udrl\[ctranslate2\]'"):
        export(run, format="ctranslate2")


def test_damaged_folder_is_told(run: Path, reports: dict[str, ExportReport], tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes((folder(run, "int8") / "model.bin").read_bytes()[:1000])
    with pytest.raises(StudentError, match="export again"):
        CTranslate2(tmp_path, threads=1)


def test_every_end_of_a_student_ends_a_completion(
    run: Path, reports: dict[str, ExportReport], student: Student
) -> None:
    program = CTranslate2(folder(run, "fp32"), threads=1)
    prompts = student.prompt_ids(INPUTS[:1], [middle(student)])
    [whole] = program.complete(prompts, max_tokens=30)
    end = whole[len(whole) // 2]
    assert program.complete(prompts, max_tokens=30, ends=[*student.ends, end]) == [whole[: whole.index(end)]]
