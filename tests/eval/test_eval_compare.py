"""Two runs compared: differences are found where there are any, and only there; what cannot be compared is said."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_fakes import inputs, made

from udrl.cli.main import run as cli
from udrl.data.facts import SynthFacts
from udrl.data.run import Run
from udrl.errors import RunError, UsageError
from udrl.eval.compare import compared, differences, holm, obedience, sign_flip
from udrl.eval.pages.comparison import compare_report

TASKS = ("alpha", "beta")
ASKED = inputs(TASKS, 30)


def run_of(folder: Path, asked: dict[str, list[str]], **options: Any) -> Path:
    run = Run(folder)
    with run.writing():
        run.record(SynthFacts(seed=0))
    made(run.bench("suite"), asked, **options)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two draws of the same systems; in the second, students are more relevant by 0.03 and it lacks five inputs."""
    folder = tmp_path_factory.mktemp("runs")
    fewer = {"alpha": ASKED["alpha"][5:], "beta": [*ASKED["beta"], "an input of its own"]}
    return run_of(folder / "a", ASKED), run_of(folder / "b", fewer, seed=2, shift=0.03)


def test_compare_finds_what_differs_and_only_that(runs: tuple[Path, Path]) -> None:
    [found] = compared(*runs)
    assert (found.name, found.items, found.only_first, found.only_second) == ("suite", 55, 5, 1)
    assert (found.leading, found.reference, found.tasks) == ("student@matched", "llama3", TASKS)
    for system, shift in (("student@matched", 0.03), ("student@open", 0.03), ("llama3", 0.0), ("shuffled", 0.0)):
        own = {one.task: one for one in found.subjects[system] if one.figure == "relevance"}
        assert set(own) == {None, *TASKS}
        assert (own[None].items, own["alpha"].items, own["beta"].items) == (55, 25, 30)
        assert own[None].low <= shift <= own[None].high
        assert own[None].sure is (shift > 0)
        assert own[None].difference == pytest.approx(own[None].second - own[None].first)
        assert {one.figure for one in found.subjects[system]} == {
            "relevance", "relevance_second", "copy_rate", "novelty", "length", "agreement", "brevity",
            "distinct_2 of one input",
        }  # fmt: skip


def test_compare_with_itself_shows_no_difference(runs: tuple[Path, Path]) -> None:
    [found] = compared(runs[0], runs[0])
    for one in itertools.chain(*found.subjects.values()):
        assert (one.difference, one.low, one.high, one.p, one.sure) == (0, 0, 0, 1, False)


def test_compare_leaves_out_what_was_measured_otherwise_and_says_so(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = run_of(tmp_path / "other", ASKED)
    path = other / "bench" / "suite" / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({**summary, "encoder": "another", "second_encoder": "lsa-64"}))
    [found] = compared(runs[0], other)
    figures = {one.figure for one in found.subjects["llama3"]}
    assert figures.isdisjoint({"relevance", "agreement", "relevance_second"})
    assert "copy_rate" in figures
    assert found.notes == (
        "Relevance was measured with e here and another there: it is not compared.",
        "The second encoder is fitted to the texts of each benchmark: its relevance is not compared.",
    )


def test_compare_says_what_is_wrong(runs: tuple[Path, Path], tmp_path: Path) -> None:
    apart = run_of(tmp_path / "apart", inputs(TASKS, 3, seed=9))
    with pytest.raises(RunError, match="no input in common"):
        compared(runs[0], apart)
    with pytest.raises(UsageError, match="give two runs, or two of those"):
        compared(runs[0], runs[1] / "bench" / "suite")
    (apart / "bench" / "suite").rename(apart / "bench" / "mine")
    with pytest.raises(RunError, match="no benchmark of one name: found suite and mine"):
        compared(runs[0], apart)
    with pytest.raises(RunError, match="no run"):
        compared(runs[0], tmp_path / "nowhere")


def test_compare_by_command_line(runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "page.html"
    call = ["report", "--compare", *map(str, runs), "--output", str(output), "--json"]
    assert cli(call) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["page"], found["first"], found["second"]) == (str(output), "a", "b")
    assert found["findings"][0]["passed"] is True
    assert found["findings"][0]["sentence"].startswith("student@matched of b is more relevant than that of a: +0.0")
    assert found["findings"][-1]["sentence"] == "55 inputs are in both runs."
    assert {one["task"] for one in found["differences"]["suite"]["llama3"]} == {None, *TASKS}
    assert "<h2>suite: 55 inputs in both</h2>" in output.read_text()
    assert cli(["report", "--compare", *map(str, runs), "--episodes"]) == 2


def test_compare_page_stands_in_the_second_run(runs: tuple[Path, Path]) -> None:
    found = compare_report(*runs)
    assert found.page == runs[1] / "compare-a.html"
    assert found.page.stat().st_size > 20_000


def test_sign_flip_is_that_of_all_flips() -> None:
    gaps = np.random.default_rng(1).normal(0.4, 1, size=9)
    seen = abs(gaps.sum())
    exact = np.mean([abs(np.dot(signs, gaps)) >= seen - 1e-12 for signs in itertools.product((-1, 1), repeat=9)])
    assert sign_flip(gaps[:, None], np.arange(9)) == pytest.approx([exact], abs=0.012)
    # Rows of one input are flipped together: nine times the same row is one observation.
    assert sign_flip(np.full((9, 1), 0.5), np.zeros(9)) == pytest.approx([1.0])
    # Far beyond what 10,000 flips resolve, and without any difference.
    both = np.stack([np.random.default_rng(2).normal(1, 1, 400), np.zeros(400)], axis=1)
    far, none = sign_flip(both, np.arange(400))
    assert far < 1e-20
    assert none == 1.0


def test_sign_flip_is_wrong_as_often_as_it_says() -> None:
    gaps = np.random.default_rng(3).normal(size=(40, 400))
    assert np.mean(sign_flip(gaps, np.arange(40), flips=2000) < 0.05) == pytest.approx(0.05, abs=0.03)


def test_holm_is_the_textbook_example() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_obedience_is_of_one_input_over_all_levels() -> None:
    def row(input_id: str, commanded: float, achieved: float | None, part: str = "following") -> dict[str, Any]:
        targets = json.dumps({"length": commanded})
        return {
            "part": part, "attribute": "length", "task": "t", "input_id": input_id, "targets": targets,
            "length": achieved,
        }  # fmt: skip

    rows = [row("up", n, n + 1) for n in range(5)] + [row("down", n, -n) for n in range(5)]
    rows += [row("up", 9, None), row("up", 9, 0, part="leakage")]
    assert obedience(rows, set()) == {
        "rank correlation, length": {("t", "up"): 1.0, ("t", "down"): -1.0},
        "distance from the command, length": {("t", "up"): 1.0, ("t", "down"): 4.0},
    }
    assert obedience(rows, {"length"}) == {}


def test_differences_need_a_figure_of_both() -> None:
    assert differences({"x": {("t", "1"): 1.0}}, {"y": {("t", "1"): 1.0}}) == ()
    [one] = differences({"x": {("t", "1"): 1.0, ("t", "2"): 3.0}}, {"x": {("t", "2"): 4.0, ("t", "3"): 9.0}})
    assert (one.task, one.items, one.first, one.second, one.difference) == (None, 1, 3.0, 4.0, 1.0)
