"""The completions that ship, ``udrl synth --teacher written``: what they are held to, and that a run takes them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from udrl.data.episodes import read_episodes
from udrl.data.tasks import load_tasks
from udrl.encoder import load_encoder
from udrl.metrics import copy_rate, distinct_n
from udrl.resources import folder
from udrl.teacher.synthesis.synth import synth
from udrl.words import count_words

TASKS = {task.name: task for task in load_tasks()}
Row = tuple[str, str]


@pytest.fixture(scope="module")
def written() -> dict[str, list[Row]]:
    """Inputs and completions by task."""
    found: dict[str, list[Row]] = {}
    for path in sorted((folder("data") / "written").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            assert row["task"] == path.stem
            found.setdefault(row["task"], []).append((row["input"], row["completion"]))
    return found


def test_written_are_six_tasks_of_two_hundred_inputs(written: dict[str, list[Row]]) -> None:
    assert sorted(written) == sorted(TASKS)
    for task, rows in written.items():
        completions = Counter(text for text, _ in rows)
        assert len(completions) >= 200, task
        assert set(completions.values()) <= {1, 2, 3}, task
    assert sum(map(len, written.values())) >= 1800


def test_written_keep_the_bounds_and_differ(written: dict[str, list[Row]]) -> None:
    for task, rows in written.items():
        lengths = np.array([count_words(completion) for _, completion in rows])
        assert TASKS[task].min_words <= lengths.min(), task
        assert lengths.max() <= TASKS[task].max_words, task
        completions = [completion for _, completion in rows]
        assert len({" ".join(one.lower().split()) for one in completions}) == len(completions), task
        assert distinct_n(completions[:300]) > 0.75, task
        assert np.mean([copy_rate(*row) for row in rows]) < 0.35, task
        assert max(Counter(opening(one) for one in completions).values()) < 0.02 * len(completions), task


def opening(text: str) -> str:
    return " ".join(text.lower().split()[:6])


def test_written_pass_the_rules_of_cleaning(written: dict[str, list[Row]], tmp_path: Path) -> None:
    report = synth(tmp_path / "run", teacher="written", score=False)
    assert report.failed == 0
    assert report.inputs == {task: len({text for text, _ in rows}) for task, rows in written.items()}
    episodes = read_episodes(
        tmp_path / "run" / "episodes", splits=("train", "validation", "test"), origins=("teacher",)
    )
    assert len(episodes) == sum(map(len, written.values())), "nothing is rejected"
    assert {one.teacher for one in episodes} == {"written"}


def test_written_are_relevant_to_different_degrees(written: dict[str, list[Row]]) -> None:
    encoder = load_encoder(precision="fp32", device="cpu")
    for task, rows in written.items():
        of, to = (encoder.encode(texts) for texts in zip(*rows, strict=True))
        relevance = (np.asarray(of) * np.asarray(to)).sum(1)
        assert np.quantile(relevance, 0.02) > 0.4, task
        assert 0.6 < relevance.mean() < 0.85, task
        spread = [max(values) - min(values) for values in groups(rows, relevance.tolist()) if len(values) > 1]
        assert np.mean(spread) > 0.1, task


def groups(rows: Sequence[Row], values: Sequence[float]) -> list[list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for (text, _), value in zip(rows, values, strict=True):
        found[text].append(value)
    return list(found.values())
