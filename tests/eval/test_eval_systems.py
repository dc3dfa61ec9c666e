from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from eval_fakes import FakeStudent, items

from udrl.commands import Attribute, CommandSpace
from udrl.data.episode import Episode
from udrl.data.ledger import Ledger
from udrl.data.tasks import load_tasks
from udrl.errors import TeacherError
from udrl.eval import baselines, systems
from udrl.eval.completions import Block, Completion
from udrl.eval.matched_length import mean_lengths
from udrl.teacher.backends.builtin import BuiltinTeacher
from udrl.teacher.protocol import Reply, Request
from udrl.words import count_words

ITEMS = items("alpha", [f"subject {n}" for n in range(6)])


def reference(samples: int = 2) -> list[Completion]:
    return [
        replace(systems.wish("teacher", "teacher", item, sample, 0), completion=f"{item.input} sample {sample}")
        for item in ITEMS
        for sample in range(samples)
    ]


def test_systems_student_writes_every_item_and_sample_in_order() -> None:
    student = FakeStudent()
    targets = {"alpha": {"length": 9.0}}
    block = systems.student_block(
        student, ITEMS, targets, name="student@x", key="k", samples=3, seed=0, latency_requests=20
    )
    assert [(row.input, row.sample) for row in block.rows] == [(i.input, s) for i in ITEMS for s in range(3)]
    assert {count_words(row.completion or "") for row in block.rows} == {9}
    assert {row.finish_reason for row in block.rows} == {"stop"}
    facts = block.facts
    assert (facts.kind, facts.parameters, facts.engine, facts.precision) == ("student", 1234, "rules", "fp32")
    assert facts.latency_ms is not None
    assert 0 < facts.latency_ms[0] <= facts.latency_ms[1]
    assert facts.tokens_per_second is not None
    assert student.calls[0] == 18  # one large call, then single requests
    assert student.calls[1:] == [1] * 22


def test_systems_completions_do_not_depend_on_the_order_of_calls() -> None:
    student = FakeStudent()
    wanted = [systems.wish("b", "s", item, 0, 0, targets={"length": 7.0}) for item in ITEMS]
    whole = systems.answer(student, wanted)
    single = [systems.answer(student, [row])[0] for row in wanted]
    assert whole == single


def test_systems_targets_of_a_student() -> None:
    student = FakeStudent()
    assert systems.open_targets(["alpha"]) == {"alpha": {}}
    top = student.reachable("alpha", "relevance")[1]
    assert systems.top_targets(student, ["alpha"]) == {"alpha": {"relevance": top}}


def test_systems_student_without_an_attribute_has_no_such_row() -> None:
    student = FakeStudent()
    student.space = CommandSpace.fit(9, (Attribute("clicks", 0, 9),), {"alpha": {"clicks": list(range(9))}})
    assert systems.top_targets(student, ["alpha"]) == {}


def test_systems_teacher_writes_with_care_and_from_its_own_seeds() -> None:
    task = load_tasks(["text-to-image"])[0]
    mine = items("text-to-image", ["a red fox under a bridge", "two old ships"])
    ask: dict[str, Any] = {
        "name": "teacher", "kind": "teacher", "key": "k", "samples": 3, "latency_requests": 20
    }  # fmt: skip
    block = systems.teacher_block(BuiltinTeacher([task]), {task.name: task}, mine, seed=0, **ask)
    assert len(block.rows) == 6
    assert all("fox" in (row.completion or "") for row in block.rows[:3])  # full fidelity drops nothing
    assert len({row.completion for row in block.rows[:3]}) == 3
    assert block.facts.latency_ms is not None
    again = systems.teacher_block(BuiltinTeacher([task]), {task.name: task}, mine, seed=0, **ask)
    assert again.rows == block.rows
    other = systems.teacher_block(BuiltinTeacher([task]), {task.name: task}, mine, seed=1, **ask)
    assert other.rows != block.rows


class FailingTeacher:
    """Fails at one input, leaves another out."""

    name = model = "failing"
    revision = None
    engine_arguments: Mapping[str, Any] = {}
    gpus = 0

    def sampling(self, index: int, seed: int, min_words: int, max_words: int) -> Mapping[str, Any]:
        return {}

    def careful(self, min_words: int, max_words: int) -> Mapping[str, Any]:
        return {}

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        for request in requests:
            if request.input == "gone":
                continue
            failed = request.input == "bad"
            yield Reply(
                key=request.key,
                completion=None if failed else "fine",
                finish_reason="stop",
                prompt_tokens=1,
                completion_tokens=None if failed else 1,
                started=time.time(),
                seconds=0.1,
                error="out of memory" if failed else None,
            )

    def close(self) -> None: ...


def test_systems_teacher_failures_are_rows_with_their_error() -> None:
    task = load_tasks(["text-to-image"])[0]
    mine = items(task.name, ["good", "bad", "gone"])
    block = systems.teacher_block(
        FailingTeacher(), {task.name: task}, mine, name="r", kind="reference", key="k", samples=1, seed=0,
        latency_requests=0,
    )  # fmt: skip
    assert [row.completion for row in block.rows] == ["fine", None, None]
    assert [row.error for row in block.rows] == [None, "out of memory", "the teacher did not answer"]
    assert block.facts.latency_ms is None
    assert block.facts.tokens_per_second is None


class DyingTeacher(FailingTeacher):
    """Answers so many requests and then dies; counts what it is asked for."""

    def __init__(self, answers: int) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        for reply, request in zip(super().generate(given := list(requests)), given, strict=True):
            if len(self.asked) == self.answers:
                raise TeacherError("the server is gone")
            self.asked.append(request.input)
            yield replace(reply, completion=reply.completion and "half a character: \ud83d")


def test_systems_teacher_is_asked_for_nothing_twice_but_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_tasks(["text-to-image"])[0]

    def ask(writer: DyingTeacher, *texts: str) -> Block:
        with Ledger(tmp_path / "ledger") as ledger:
            return systems.teacher_block(
                writer, {task.name: task}, items(task.name, list(texts)), name="r", kind="reference", key="k",
                samples=1, seed=0, latency_requests=0, ledger=ledger,
            )  # fmt: skip

    with pytest.raises(TeacherError, match="is gone"):
        ask(DyingTeacher(2), "one", "bad", "two")
    later = DyingTeacher(9)
    block = ask(later, "one", "bad", "two")
    assert later.asked == ["bad", "two"]
    assert [row.completion for row in block.rows] == ["half a character: ?", None, "half a character: ?"]
    fewer = DyingTeacher(9)
    ask(fewer, "two")
    monkeypatch.setattr(systems.time, "perf_counter", itertools.count().__next__)
    block = ask(fewer, "one", "two", "three")
    assert fewer.asked == ["three"]
    assert block.facts.tokens_per_second == 1.0, "of the one that was asked for now"


def test_systems_mean_lengths_leave_failures_out() -> None:
    rows = [replace(row, completion="a b c") for row in reference(1)]
    rows[0] = replace(rows[0], completion=None, error="no")
    assert mean_lengths(rows) == {"alpha": 3.0}


def test_baselines_echo_is_the_input() -> None:
    assert [row.completion for row in baselines.echo_block(ITEMS, key="k").rows] == [i.input for i in ITEMS]


def test_baselines_shuffled_never_keeps_its_own_completion_and_uses_each_once() -> None:
    rows = baselines.shuffled_block(reference(), key="k", seed=3).rows
    texts = {(row.input, row.sample): row.completion for row in rows}
    assert all(not str(text).startswith(f"{name} ") for (name, _), text in texts.items())
    assert sorted(str(t) for t in texts.values()) == sorted(str(row.completion) for row in reference())
    assert rows == baselines.shuffled_block(reference(), key="k", seed=3).rows
    assert rows != baselines.shuffled_block(reference(), key="k", seed=4).rows


def test_baselines_shuffled_needs_two_inputs_and_skips_failures() -> None:
    assert baselines.shuffled_block(reference()[:2], key="k", seed=0).rows == ()
    rows = reference()
    rows[0] = replace(rows[0], completion=None)
    shuffled = baselines.shuffled_block(rows, key="k", seed=0).rows
    assert len(shuffled) == len(rows) - 1
    assert all(row.completion for row in shuffled)


class WordEncoder:
    """One axis a known word: distances can be told by reading."""

    name = revision = precision = "words"
    truncated = 0
    axes = ("fox", "ship", "tea")

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        rows = np.array([[float(word in text) for word in self.axes] for text in texts], dtype=np.float32)
        return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), dtype=np.float32)

    def is_truncated(self, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        return np.zeros(len(texts), dtype=bool)

    def is_unknown(self, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        return np.zeros(len(texts), dtype=bool)


def episode(task: str, text: str, completion: str, relevance: float | None) -> Episode:
    return Episode(
        episode_id=completion, task=task, input_id=text, input=text, completion=completion, horizon=2,
        origin="teacher", teacher="t", sampling="{}", seed=0, split="train", returns={"relevance": relevance},
    )  # fmt: skip


def test_baselines_nearest_takes_the_best_completion_of_the_nearest_input_of_the_task() -> None:
    pool = [
        episode("alpha", "a fox", "poor fox", 0.2),
        episode("alpha", "a fox", "good fox", 0.8),
        episode("alpha", "a fox", "unscored fox", None),
        episode("alpha", "a ship", "a fine ship", 0.5),
        episode("beta", "tea", "tea of another task", 0.9),
    ]
    mine = [*items("alpha", ["that fox", "this ship"]), *items("gamma", ["tea"])]
    rows = baselines.nearest_block(mine, pool, WordEncoder(), key="k").rows
    assert [(row.input, row.completion) for row in rows] == [
        ("that fox", "good fox"),
        ("this ship", "a fine ship"),
    ]
