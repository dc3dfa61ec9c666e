"""The study of learning rate and batch size: a small grid that really trains, and what its figures say."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from methods_run import SMALL, methods_run
from scipy.stats import spearmanr, ttest_1samp

from udrl.cli.study import command
from udrl.data.episodes import read_episodes, write_episodes
from udrl.errors import StudentError, UsageError
from udrl.study import cells
from udrl.study.figures import crossed_interval
from udrl.study.lr_batch import cell as lr_batch_cell
from udrl.study.lr_batch import study
from udrl.study.lr_batch.cell import READ, good, work
from udrl.study.lr_batch.figures import Grid, Kind, best_of, claim_of, correlations
from udrl.study.lr_batch.picture import equal_ratio
from udrl.study.lr_batch.report import Results
from udrl.study.lr_batch.study import LrBatchOptions, scored_by, study_lr_batch
from udrl.study.output import StudyReport

TINY = LrBatchOptions(learning_rates=(1e-3, 1e-2), batch_sizes=(2, 4), seeds=2, steps=4, limit=2)
KILL = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import methods_run
methods_run.brevity.low, methods_run.brevity.high = 0.0, 1.0
from udrl.training import loop
from udrl.study.cells import compute

save, saved = loop.save_state, []

def kill(*arguments):
    save(*arguments)
    saved.append(1)
    if len(saved) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

loop.save_state = kill
compute(Path(sys.argv[1]))
"""


def here(folder: Path, wanted: Any, **_: Any) -> dict[str, Any]:
    """Compute cells in this process: eight more would import torch for a minute."""
    found = {}
    for cell in wanted:
        place = folder.absolute() / "cells" / cell.key
        if not (place / cells.RESULT).is_file():
            (place / cells.MADE).mkdir(parents=True, exist_ok=True)
            asked = {"work": cell.work, "settings": {**cell.settings, **cell.places}}
            (place / cells.SETTINGS).write_text(json.dumps(asked))
            cells.compute(place)
        found[cell.name] = json.loads((place / cells.RESULT).read_text())
    return found


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StudyReport, LrBatchOptions]]:
    """The whole study of a tiny run, and its options; the run is beside."""
    with pytest.MonkeyPatch.context() as patch:
        made, tiny = methods_run(tmp_path_factory.mktemp("grid"), patch)
        patch.setattr(study, "run_cells", here)
        patch.setattr(study, "REWARDS", ("brevity",))
        options = replace(TINY, student=tiny)
        yield study_lr_batch(made, options), options


def run_of(report: StudyReport) -> Path:
    return report.folder.parents[1]


def settings_of(report: StudyReport, **changed: Any) -> dict[str, Any]:
    """Return the settings of one cell, changed."""
    (place,) = report.folder.glob("cells/lr0.01-b2-s0-*")
    return {**json.loads((place / cells.SETTINGS).read_text())["settings"], **changed}


def test_grid_is_trained_and_read_twice(studied: tuple[StudyReport, LrBatchOptions]) -> None:
    report, _ = studied
    data = json.loads(report.data.read_text())
    assert len(data["cells"]) == 8
    assert data["settings"]["sequences"] == 16  # four steps of the batch of four
    small = data["cells"]["lr0.01-b2-s0"]["reads"]
    large = data["cells"]["lr0.01-b4-s0"]["reads"]
    assert (small["tokens"]["step"], small["steps"]["step"], large["tokens"]["step"]) == (8, 4, 4)
    assert small["tokens"]["tokens"] == large["tokens"]["tokens"] > small["steps"]["tokens"]
    assert large["steps"] == large["tokens"]  # the largest batch is read once
    assert small["steps"]["losses"] != small["tokens"]["losses"]
    # more steps at the higher rate, and it shows
    assert small["tokens"]["losses"]["poem"] < data["cells"]["lr0.001-b4-s0"]["reads"]["tokens"]["losses"]["poem"]
    assert {row[0] for row in report.rows[1:]} == {"poem (pattern)", "query (pattern)"}
    assert len(report.rows) == 1 + 2 * 2 * 2
    assert "nothing is said of the claim" in report.notes[0]
    assert report.picture.read_bytes().startswith(b"\x89PNG")


def test_killed_cell_goes_on_to_the_same_result(studied: tuple[StudyReport, LrBatchOptions]) -> None:
    report, options = studied
    (place,) = report.folder.glob("cells/lr0.01-b2-s1-*")
    results = {path: path.stat().st_mtime_ns for path in report.folder.glob("cells/*/result.json")}
    whole = json.loads((place / cells.RESULT).read_text())
    (place / cells.RESULT).unlink()
    (place / cells.MADE / READ).unlink()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", KILL, str(place), str(Path(__file__).parents[1] / "support")],
        env=environment,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    assert (place / cells.MADE / READ).is_file()  # read at step 4 of 8, killed after step 6
    assert not (place / cells.RESULT).is_file()
    study_lr_batch(run_of(report), options)
    assert json.loads((place / cells.RESULT).read_text()) == whole
    assert {p for p, then in results.items() if p.stat().st_mtime_ns != then} == {place / cells.RESULT}


def test_student_that_diverges_is_a_result(studied: tuple[StudyReport, LrBatchOptions], tmp_path: Path) -> None:
    found = work(tmp_path, settings_of(studied[0], learning_rate=1e30))
    assert found["diverged"] == ["tokens", "steps"]
    assert not found["reads"]


def test_student_whose_held_out_loss_is_not_finite_has_diverged(
    studied: tuple[StudyReport, LrBatchOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lr_batch_cell._Reader, "_losses", lambda *_: {"poem": [1.0, float("nan")], "query": [1.0]})
    found = work(tmp_path, settings_of(studied[0]))
    assert (found["diverged"], found["reads"]) == (["tokens", "steps"], {})


def test_cells_belong_to_the_returns_and_not_to_the_place_of_a_run(
    studied: tuple[StudyReport, LrBatchOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, options = studied
    asked: list[set[str]] = []

    def noted(_: Path, wanted: list[cells.Cell], **__: Any) -> None:
        asked.append({cell.key for cell in wanted})
        raise UsageError("noted")

    monkeypatch.setattr(study, "run_cells", noted)
    moved = Path(shutil.copytree(run_of(report), tmp_path / "moved"))
    for shift in (0.0, 0.01):
        rows = read_episodes(moved / "episodes", splits=("train", "validation", "test"), kept=False)
        other = [replace(e, returns={name: (v or 0) + shift for name, v in e.returns.items()}) for e in rows]
        write_episodes(moved / "episodes", other, reward_names=("brevity", "relevance"))
        with pytest.raises(UsageError, match="noted"):
            study_lr_batch(moved, options)
    assert asked[0] == {place.name for place in report.folder.glob("cells/*")}
    assert not asked[0] & asked[1]


def test_commanded_students_are_read_under_their_command(
    studied: tuple[StudyReport, LrBatchOptions], tmp_path: Path
) -> None:
    found = work(tmp_path, settings_of(studied[0], method="udrl"))
    assert {len(values) for read in found["reads"].values() for values in read["scores"].values()} == {2}


def test_trained_student_is_gone_on_from(studied: tuple[StudyReport, LrBatchOptions], tmp_path: Path) -> None:
    from udrl.training.train import train

    report, options = studied
    train(run_of(report), method="sft", student=options.student, **{**SMALL, "steps": 30, "learning_rate": 1e-2})
    found = work(tmp_path, settings_of(report, start_from=str(run_of(report)), start_weights="x"))
    ahead, fresh = (
        sum(cell["reads"]["steps"]["losses"]["poem"])
        for cell in (found, json.loads(next(report.folder.glob("cells/lr0.01-b2-s0-*/result.json")).read_text()))
    )
    assert ahead < 0.8 * fresh


def test_only_good_completions_are_learned(studied: tuple[StudyReport, LrBatchOptions]) -> None:
    episodes = read_episodes(run_of(studied[0]) / "episodes")
    rewards = scored_by(episodes)
    assert rewards == {"poem": "brevity", "query": "brevity"}
    kept = good(episodes, rewards)
    for task in rewards:
        values = [e.returns["brevity"] or 0 for e in episodes if e.task == task]
        assert min(e.returns["brevity"] or 0 for e in kept if e.task == task) >= np.mean(values) - 1e-9
    assert 0 < len(kept) < len(episodes)


def test_grid_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least two"):
        LrBatchOptions(learning_rates=(1e-3,))
    with pytest.raises(UsageError, match="above 0"):
        LrBatchOptions(learning_rates=(1e-3, -1e-3))
    said = CliRunner().invoke(command, ["lr-batch", "--run", str(tmp_path), "--batch-sizes", "8,x"])
    assert said.exit_code == 2
    assert "numbers with commas" in said.output


def test_crossed_interval_is_students_where_one_side_does_not_vary() -> None:
    values = np.random.default_rng(1).normal(size=40)
    told = ttest_1samp(values, 0).confidence_interval()
    assert crossed_interval(values[None, :])[1:] == pytest.approx((told.low, told.high))
    seeds = np.repeat(values[:3, None], 5, axis=1)
    told = ttest_1samp(values[:3], 0).confidence_interval()
    assert crossed_interval(seeds)[1:] == pytest.approx((told.low, told.high))


def test_crossed_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(400):
        values = rng.normal(size=(3, 1)) * 0.05 + rng.normal(size=(1, 30)) * 0.3 + rng.normal(size=(3, 30)) * 0.3
        _, low, high = crossed_interval(values)
        hits += low <= 0 <= high
    assert hits / 400 > 0.92


def grid() -> Grid:
    rates, batches = np.meshgrid([1e-3, 4e-3, 1.6e-2, 6.4e-2], [4, 16, 64, 256], indexing="ij")
    return Grid(rates.ravel(), batches.ravel().astype(float))


def test_correlations_are_spearmans() -> None:
    rng = np.random.default_rng(3)
    scores = grid().predictors["ratio"][:, None] + rng.normal(size=(16, 3))
    found = correlations(scores, grid())
    for name, x in grid().predictors.items():
        value, low, high = found.of[name]
        assert value == pytest.approx(spearmanr(scores.mean(axis=1), x).statistic)
        assert low <= value <= high
    assert found.of["ratio"][1] > 0.5
    assert found.ratio_over_rate[0] > 0


@pytest.mark.parametrize(
    ("reasoning", "pattern", "verdict"),
    [(1, -1, "holds"), (-1, -1, "does not hold"), (1, 1, "does not hold"), (0, 0, "undecided")],
)
def test_claim_is_judged_by_both_kinds(reasoning: int, pattern: int, verdict: str) -> None:
    rng = np.random.default_rng(4)
    kinds: dict[str, Kind] = {"sums": "reasoning", "images": "pattern"}
    slope = grid().predictors["ratio"][:, None]
    scores = {
        "sums": reasoning * slope + rng.normal(size=(16, 3)), "images": pattern * slope + rng.normal(size=(16, 3))
    }  # fmt: skip
    claim = claim_of(scores, kinds, grid())
    assert claim.verdict == verdict
    assert claim.shift is not None
    if verdict == "holds":
        assert claim.shift[1] > 1  # reasoning is best at a ratio that is many times higher
    assert claim_of({"sums": scores["sums"]}, kinds, grid()).verdict == "not tested"


def test_best_cell_and_those_as_good() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=(16, 3, 50)) * 0.1
    values[3] += 1.0
    values[7] += 0.99
    best = best_of(values, grid())
    assert best.cell in (3, 7)
    assert set(best.as_good) == {3, 7}
    assert best.score[1] < 1.0 < best.score[2]


def test_lines_of_equal_ratio_cross_the_cells_of_that_ratio() -> None:
    x, y = equal_ratio(1e-3 / 16, np.array([1e-3, 4e-3, 1.6e-2]), np.array([16.0, 64.0, 256.0]))
    assert np.interp(0.0, x, y) == pytest.approx(0.0, abs=0.02)  # 1e-3 / 16
    assert np.interp(1.0, x, y) == pytest.approx(1.0, abs=0.02)  # 4e-3 / 64


def test_cells_without_a_read_count_as_knowing_nothing() -> None:
    read = {"scores": {"t": [1.0, 0.5]}, "losses": {"t": [2.0]}}
    known = {"reads": {"tokens": read, "steps": read}, "diverged": [], "lowest": {"t": -1.0}, "know_nothing": 7.0}
    gone = {**known, "reads": {}, "diverged": ["tokens", "steps"]}
    returned = {(rate, batch, 0): gone if rate == 1.0 else known for rate in (0.1, 1.0) for batch in (1, 2)}
    results = Results((0.1, 1.0), (1, 2), (0,), {"t": "relevance"}, {"t": "pattern"}, returned)
    assert results.of_tasks["reward", "tokens", "t"].values[3].tolist() == [[-1.0, -1.0]]
    assert results.of_tasks["loss", "steps", "t"].values[3].tolist() == [[-7.0]]
    assert results.points[results.of_tasks["reward", "tokens", "t"].best.cell][0] == 0.1


def test_inputs_without_a_reward_are_left_out_for_all_and_counted() -> None:
    def cell(scores: list[float | None]) -> dict[str, Any]:
        read = {"step": 1, "episodes": 1, "tokens": 1, "scores": {"t": scores}, "losses": {"t": [2.0]}}
        return {
            "reads": {"tokens": read, "steps": read}, "diverged": [], "lowest": {"t": 0.0}, "know_nothing": 7.0,
            "parameters": 1,
        }  # fmt: skip

    points = [(rate, batch, 0) for rate in (0.1, 1.0) for batch in (1, 2)]
    scores: list[list[float | None]] = [[1.0, 0.5, None], [0.25, 0.5, 0.5], [0.5, 0.5, 0.5], [0.75, None, 0.5]]
    arguments = ((0.1, 1.0), (1, 2), (0,), {"t": "relevance"}, {"t": "pattern"})
    results = Results(*arguments, {point: cell(own) for point, own in zip(points, scores, strict=True)})  # type: ignore[arg-type]
    assert results.of_tasks["reward", "tokens", "t"].values.tolist() == [[[1.0]], [[0.25]], [[0.5]], [[0.75]]]
    assert results.cells()["lr0.1-b1-s0"]["reads"]["tokens"]["scores"]["t"] == 0.75
    assert "4 completions have no reward (udrl score says why); their inputs are left out." in results.notes()
    nothing = Results(*arguments, {point: cell([None, None]) for point in points})  # type: ignore[arg-type]
    assert nothing.cells()["lr0.1-b1-s0"]["reads"]["tokens"]["scores"]["t"] is None
    with pytest.raises(StudentError, match="for no held-out input of task 't' has the reward 'relevance' a value"):
        nothing.table()
