"""An exported student answers without torch, transformers and their like, and writes what torch writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_answering
from hypothesis import given, settings
from hypothesis import strategies as st

import udrl
from udrl.commands import Command
from udrl.student.student import Student
from udrl.tokenizer import LightTokenizer, decode, encode, student_tokenizer

HEAVY = ("torch", "transformers", "sklearn", "datasets", "pandas", "scipy")
PROGRAM = """
import json, sys
{first}
print(json.dumps(sorted({heavy!r} & sys.modules.keys())), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("light") / "student"
    tiny_answering.save_exported(tiny_answering.tiny_student(), made)
    return made


def loaded_by(first: str) -> tuple[str, list[str]]:
    """Run a program; return what it printed, and which heavy modules it loaded."""
    program = PROGRAM.format(first=first, heavy=set(HEAVY))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout, json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("scored", [[], ["--score"], ["--best-of", "2"]])
def test_generate_with_an_exported_student_loads_nothing_heavy(folder: Path, scored: list[str]) -> None:
    arguments = ["generate", "--run", str(folder), "--length", "9", "--seed", "3", "--json", "a red fox"]
    arguments += ["--require", "harbour", "--device", "cpu", *scored]
    program = f"from udrl.cli.main import main\ntry:\n    main({arguments})\nexcept SystemExit:\n    pass"
    printed, heavy = loaded_by(program)
    assert heavy == []
    assert json.loads(printed)["engine"] == "onnx"
    assert "harbour" in json.loads(printed)["completion"]
    assert (json.loads(printed)["achieved"] is not None) == bool(scored)


def test_load_of_an_exported_student_loads_nothing_heavy(folder: Path) -> None:
    program = f"import udrl\nstudent = udrl.load({str(folder)!r}, engine='onnx-fp32')\nprint(student.engine)"
    assert loaded_by(program) == ("onnx\n", [])


def test_exported_student_writes_what_torch_writes(folder: Path) -> None:
    asked = [Command(tiny_answering.TASK, {"length": 6.0 + k}) for k in range(len(tiny_answering.TEXTS))]
    light, whole = (
        udrl.load(folder, engine=engine, device="cpu", precision=precision)
        for engine, precision in (("onnx-fp32", "auto"), ("torch", "fp32"))
    )
    assert isinstance(light.tokenizer, LightTokenizer)
    assert light.ends == whole.ends
    made: list[list[str]] = [
        [one.completion for one in student.generate(tiny_answering.TEXTS, asked, seeds=1)] for student in (light, whole)
    ]
    assert made[0] == made[1]


@pytest.fixture(scope="module")
def tokenizers(folder: Path) -> tuple[LightTokenizer, Student]:
    return student_tokenizer(folder, light=True), student_tokenizer(folder)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=20), st.sampled_from([*tiny_answering.TEXTS, "<|endoftext|>"])), max_size=4))
def test_light_tokenizer_reads_and_writes_as_transformers_does(
    tokenizers: tuple[LightTokenizer, Student], parts: list[str]
) -> None:
    light, whole = tokenizers
    text = "".join(parts).encode("utf-8", "ignore").decode()
    [ids] = encode(light, [text])
    assert [ids] == encode(whole, [text])
    assert decode(light, ids) == decode(whole, ids) == text
    assert light.eos_token_id not in ids
    shuffled = np.random.default_rng(len(ids)).permutation([*ids, light.eos_token_id]).tolist()
    assert decode(light, shuffled) == decode(whole, shuffled)  # half characters too
