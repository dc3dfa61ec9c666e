"""A ladder: one input under several commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_answering import TASK, TEXTS, save_exported, tiny_student

from udrl.cli.main import run
from udrl.commands import Command
from udrl.errors import UsageError
from udrl.student.ladder import climb, ladder_commands
from udrl.student.student import Student
from udrl.words import count_words


@pytest.fixture(scope="module")
def student() -> Student:
    return tiny_student()


def test_rungs_are_all_combinations_and_those_that_become_the_same_ids_are_one(student: Student) -> None:
    assert ladder_commands(student, TASK, {"length": 9}, {}) == [Command(TASK, {"length": 9})]
    rungs = ladder_commands(student, TASK, {}, {"length": [5, 300, 9, 400, 5]})
    assert [rung.targets["length"] for rung in rungs] == [5, 300, 9]
    with pytest.raises(UsageError, match="unknown attribute 'mood'"):
        ladder_commands(student, TASK, {}, {"mood": [1]})


def test_each_rung_is_what_its_command_gives_alone_and_a_text_comes_once(student: Student) -> None:
    rungs = [Command(TASK, {"length": float(length)}) for length in (5, 5, 20)]
    answers = list(climb(student, TEXTS[:2], rungs, seed=3))
    for text in TEXTS[:2]:
        alone = [student.generate([text], [rung], seeds=[3])[0].completion for rung in (rungs[0], rungs[2])]
        assert [one.completion for one in answers if one.input == text] == alone
    assert [one.seed for one in answers] == [3] * 4


def test_closest_of_picks_on_every_rung(student: Student) -> None:
    rungs = [Command(TASK, {"length": length}) for length in (5.0, 20.0)]
    answers = list(climb(student, TEXTS[:1], rungs, closest_of=3, rewards={}))
    assert [one.drawn for one in answers] == [3, 3]
    for one in answers:
        command = Command(TASK, dict(one.command))
        made = [student.generate([TEXTS[0]], [command], seeds=[seed])[0].completion for seed in range(3)]
        off = [abs(count_words(text) - command.targets["length"]) for text in made]
        assert one.completion == made[off.index(min(off))]


def test_generate_prints_a_ladder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_exported(tiny_student(), tmp_path)
    how = ["generate", "--run", str(tmp_path), "--engine", "onnx-fp32", "a red fox"]
    assert run([*how, "--json", "--ladder", "length=5,20", "--seed", "2"]) == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["command"] for line in lines] == [{"length": 5.0}, {"length": 20.0}]
    for wrong in (["--length", "5"], ["--num", "2"], ["--stream"]):
        assert run([*how, "--ladder", "length=5,20", *wrong]) == 2
    assert run([*how, "--ladder", "length=5,x"]) == 2
    assert run([*how, "--target", "length=5,6"]) == 2
