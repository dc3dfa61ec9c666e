"""The demo at full size: what a new user sees has to obey. A folder of its own, since it takes as long as all the rest.

Run it with ``make test-demo``. The floors are the project's targets, measured as docs/results.md says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from udrl.data.episodes import read_episodes
from udrl.demo import demo
from udrl.eval.bench import bench
from udrl.resources import folder
from udrl.teacher.backends.builtin.phrases import content_words

pytestmark = [pytest.mark.slow, pytest.mark.timeout(10800)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's run folder, as ``udrl demo`` leaves it, with the benchmark on foreign inputs beside its own."""
    path = tmp_path_factory.mktemp("runs") / "demo"
    report = demo(path)
    assert report.report.exists()
    assert len(report.answers) == 3
    shipped = folder("eval") / "foreign.yaml"
    suite = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    del suite["following"]  # the other suite measures it
    suite["inputs"] = {"folder": str(folder("eval") / "inputs" / "foreign")}
    (path.parent / "foreign.yaml").write_text(yaml.safe_dump(suite))
    bench(path, suite=path.parent / "foreign.yaml")
    return path


def summary(run: Path, name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((run / "bench" / name / "summary.json").read_text(encoding="utf-8"))
    return data


def following(run: Path, attribute: str) -> dict[str, Any]:
    (student,) = summary(run, "relevance")["command_following"].values()
    figures: dict[str, Any] = student[attribute]
    return figures


def relevance(run: Path, suite: str, system: str) -> float:
    return float(summary(run, suite)["systems"][system]["relevance"]["mean"])


def test_demo_has_enough_episodes_of_all_tasks(run: Path) -> None:
    facts = json.loads((run / "run.json").read_text())["stages"]
    assert facts["score"]["episodes"]["total"] >= 20_000
    assert len(summary(run, "relevance")["systems"]["teacher"]["per_task"]) == 6


def test_demo_student_follows_length(run: Path) -> None:
    assert following(run, "length")["spearman_within_input"] >= 0.9


def test_demo_student_follows_relevance(run: Path) -> None:
    assert following(run, "relevance")["spearman_within_input"] >= 0.8


def test_demo_student_at_the_top_comes_near_the_teacher(run: Path) -> None:
    assert relevance(run, "relevance", "student@top") >= 0.9 * relevance(run, "relevance", "teacher")


def test_demo_student_copies_words_it_never_saw(run: Path) -> None:
    assert relevance(run, "foreign", "student@top") >= 0.8 * relevance(run, "foreign", "teacher")


def test_demo_foreign_inputs_are_foreign(run: Path) -> None:
    """At least 200 inputs, and at least half of their content words stand in no training input."""
    seen = {w.casefold() for e in read_episodes(run / "episodes") for w in content_words(e.input)}
    texts = [
        json.loads(line)["text"]
        for path in sorted((folder("eval") / "inputs" / "foreign").glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    words = [w.casefold() for text in texts for w in content_words(text)]
    assert len(texts) >= 200
    assert sum(w not in seen for w in words) / len(words) >= 0.5
