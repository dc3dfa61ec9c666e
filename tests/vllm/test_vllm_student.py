"""A student in vLLM: commanded through token ids, never writing a control id, the same as udrl's own engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from beside import ask, engine_of, written_alike
from tiny import serving

from udrl.architecture.gpt2.scratch import scratch_gpt2
from udrl.commands import Attribute, Command, CommandSpace
from udrl.student import load
from udrl.student.network import StudentModel, save_model
from udrl.student.student import Student
from udrl.tokenizer import train_tokenizer

pytestmark = pytest.mark.filterwarnings("default")  # the engine runs in this process and warns of its own parts

TEXTS = ["a red fox in the snow", "boats in the old harbour", "<|endoftext|> typed by a user"]
COMMANDS = [Command("t", {"relevance": 0.93}), Command("t", {"relevance": 0.21, "length": 7.0}), Command("t")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose weights are noise; its control rows, some between bins, stand out of all others."""
    folder = tmp_path_factory.mktemp("student")
    tokenizer = train_tokenizer(TEXTS * 3, 300)
    values = {"t": {"relevance": [k / 600 for k in range(600)], "length": [3 + k % 37 for k in range(600)]}}
    attributes = (Attribute("relevance", 0, 1), Attribute("length", 1, 1000, "words"))
    space = CommandSpace.fit(len(tokenizer), attributes, values)
    gpt2 = scratch_gpt2(
        vocab_size=len(tokenizer), layers=2, width=64, heads=2, context=128, eos=tokenizer.eos_token_id, seed=1,
        copying=False,
    )  # fmt: skip
    made = StudentModel(gpt2, space)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        made.rows.weight.add_(0.5 * torch.randn(made.rows.weight.shape, generator=noise))
        for parameter in gpt2.transformer.h.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise))
    tokenizer.save_pretrained(folder)
    space.save(folder)
    save_model(made, folder)
    return folder


@pytest.fixture(scope="module")
def student(folder: Path) -> Student:
    return load(folder, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Any:
    return engine_of(folder)


def test_student_in_vllm_writes_what_udrl_writes(engine: Any, student: Student) -> None:
    completions = written_alike(engine, student, TEXTS, COMMANDS)
    assert len({one for one, _ in completions}) == len(TEXTS)


def test_student_in_vllm_is_commanded_by_rows_between_bins(engine: Any, student: Student) -> None:
    positions = [student.space.positions("t", {"relevance": value})["relevance"] for value in (0.30, 0.33)]
    assert all(position % 1 for position in positions)
    low, high = ([Command("t", {"relevance": value})] * 3 for value in (0.30, 0.33))
    for commands in (low, high):
        written_alike(engine, student, TEXTS, commands)
    assert ask(engine, student, TEXTS, low) != ask(engine, student, TEXTS, high), "neighbouring rows are not one row"


def test_student_in_vllm_never_writes_a_control_id(engine: Any, student: Student) -> None:
    base = student.space.base
    drawn: dict[str, Any] = {"temperature": 2.0, "seed": 3, "max_tokens": 60}
    ids = [token for one in ask(engine, student, TEXTS, COMMANDS, **drawn) for token in one]
    assert max(ids) < base
    free = [token for one in ask(engine, student, TEXTS, COMMANDS, allowed_token_ids=None, **drawn) for token in one]
    assert max(free) >= base, "without the restriction they come: it is what keeps them away"


def test_student_on_vllms_server_writes_what_udrl_writes(folder: Path, student: Student, tmp_path: Path) -> None:
    """As docs/generating.md says, through OpenAI's client."""
    from openai import OpenAI

    sampling = replace(student.sampling, temperature=0, max_tokens=24, no_repeat=0)
    own = student.generate(TEXTS, COMMANDS, sampling=sampling)
    options = ["--served-model-name", "student", "--generation-config", "vllm", "--max-model-len", "128"]
    with serving(folder, tmp_path, *options) as address:
        client = OpenAI(base_url=address, api_key="none")
        done = client.completions.create(
            model="student",
            prompt=student.prompt_ids(TEXTS, COMMANDS),
            temperature=0.0,
            max_tokens=24,
            extra_body={"allowed_token_ids": list(range(student.space.base)), "stop_token_ids": list(student.ends)},
        )
    assert len(done.choices) == len(own)
    for choice, one in zip(done.choices, own, strict=True):
        text = choice.text.removeprefix(" ")
        assert (text if choice.finish_reason == "stop" else text.rstrip("\ufffd")) == one.completion
