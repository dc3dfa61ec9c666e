"""Studies for real at small size: methods, multitask and size, by the command line, resumed."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import udrl.cli.main as cli
from udrl.architecture.gpt2.scratch import scratch_gpt2
from udrl.data.episodes import read_episodes, write_episodes
from udrl.data.facts import TrainFacts
from udrl.data.known_answers import store_answers
from udrl.data.run import Run
from udrl.errors import MissingDependency, StudentError, UsageError
from udrl.study import methods as methods_study
from udrl.study import multitask
from udrl.study.cells import Cell
from udrl.study.figures import gain, over_seeds, shown
from udrl.study.folders import copy_of, data_of, same_data
from udrl.study.lr_batch import cell as lr_batch_cell
from udrl.study.methods import begin, first_inputs, study_methods, train_by
from udrl.study.size import study_size
from udrl.study.training import Measure, train_cell
from udrl.teacher.synthesis.synth import synth
from udrl.tokenizer import train_tokenizer
from udrl.training.checkpoint import is_trained
from udrl.training.methods import method_of
from udrl.training.methods.method_data import pool_of
from udrl.training.presets import PRESETS

SMALL = ("--seeds", "1", "--jobs", "2", "--limit", "2", "--sweep-inputs", "1")
TASKS = ("search-query", "text-to-image")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes of two tasks, and a model of two layers beside them."""
    folder = tmp_path_factory.mktemp("studies")
    synth(folder / "run", tasks=TASKS, num_inputs=60, samples=3, seed=1)
    episodes = read_episodes(folder / "run" / "episodes")
    tokenizer = train_tokenizer([e.input for e in episodes] + [e.completion for e in episodes], 400)
    scratch_gpt2(
        vocab_size=400, layers=2, width=48, heads=3, context=192, eos=tokenizer.eos_token_id, seed=0
    ).save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    return folder / "run"


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli.run([*arguments, "--json"]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_methods_are_compared_at_equal_time_and_at_equal_calls(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["study", "methods", "--run", str(run), "--student", str(run.parent / "tiny"), "--start-steps", "20",
                 "--seconds", "2", "--calls", "64", "--method", "udrl", "--method", "grpo", "--machine-usd", "36",
                 *SMALL]  # fmt: skip
    report = told(capsys, *arguments)
    data = json.loads(Path(report["data"]).read_text())
    cells = data["cells"]
    assert set(cells) == {"start-0", "udrl-time-0", "udrl-calls-0", "grpo-time-0", "grpo-calls-0"}
    assert 64 <= cells["udrl-calls-0"]["reward_calls"] < 64 + 20, "whole inputs, so a few more"
    assert cells["grpo-calls-0"]["reward_calls"] == 64
    assert cells["udrl-time-0"]["reward_calls"] > 300, "the whole run"
    assert 0.3 < cells["udrl-time-0"]["seconds"] < 20
    assert "relevance" in cells["udrl-time-0"]["obeys"]
    assert not cells["grpo-time-0"]["obeys"], "a student without commands cannot obey"
    rows = {(row[0], row[1]): dict(zip(report["rows"][0], row, strict=True)) for row in report["rows"][1:]}
    assert {("time", "udrl@top"), ("time", "grpo@open"), ("calls", "udrl@open"), ("", "teacher")} <= set(rows)
    assert ("time", "grpo@top") not in rows
    assert rows["time", "grpo@open"]["relevance followed"] == "takes no command"
    means = {label: float(rows[label]["relevance"].split()[0]) for label in (("time", "udrl@top"), ("", "start@open"))}
    over = float(rows["time", "udrl@top"]["over the start"].split()[0])
    assert over == pytest.approx(means["time", "udrl@top"] - means["", "start@open"], abs=0.0011)
    gains = data["findings"]["relevance_gain"]["calls"]
    assert gains["udrl@top"]["grpo@open"][0] == pytest.approx(-gains["grpo@open"]["udrl@top"][0])
    assert f"{gains['udrl@top']['grpo@open'][0]:+.3f}" in "".join(
        note for note in data["notes"] if "equal calls" in note
    )
    assert "items" not in cells["udrl-time-0"], "the values of single inputs are the cells' own"
    assert float(rows["time", "udrl@open"]["USD"]) == pytest.approx(
        36 * cells["udrl-time-0"]["machine_hours"], abs=1e-4
    )
    assert cells["udrl-time-0"]["machine_hours"] > cells["udrl-time-0"]["seconds"] / 3600, "calibration is paid, too"
    assert rows["calls", "udrl@open"]["calls beside"] == f"{cells['udrl-calls-0']['calibration_calls']:,}" != "0"
    assert Path(report["picture"]).read_bytes().startswith(b"\x89PNG")
    assert "| udrl@top |" in Path(report["table"]).read_text()
    times = {path: path.stat().st_mtime_ns for path in run.glob("study/methods/cells/*/result.json")}
    assert told(capsys, *arguments)["rows"] == report["rows"]
    assert {path: path.stat().st_mtime_ns for path in times} == times, "nothing is computed again"


@pytest.mark.filterwarnings("ignore::UserWarning")  # of a student of six steps, which can do nothing
def test_one_student_for_all_tasks_beside_one_for_each(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: dict[str, dict[str, Any]] = {}

    def here(folder: Path, cells: list[Cell], **_: Any) -> dict[str, dict[str, Any]]:
        """Compute a student of each task set once, in this process; the arms that differ in size alone share it."""
        for cell in cells:
            key = cell.settings.get("task", "all")
            done[key] = done.get(key) or train_cell(
                folder / key, {**cell.settings, **cell.places, "student": "gpt2-700k"}
            )
        return {cell.name: {**done[cell.settings.get("task", "all")], "asked": cell.settings} for cell in cells}

    monkeypatch.setattr(multitask, "run_cells", here)
    report = multitask.study_multitask(run, student="gpt2-1m", steps=12, seeds=1, measure=Measure(2, 1))
    data = json.loads(report.data.read_text())
    cells = data["cells"]
    assert {name: (cell["asked"]["student"], cell["asked"]["steps"]) for name, cell in cells.items()} == {
        "all-0": ("gpt2-1m", 12),
        **{f"each-{task}-0": ("gpt2-1m", 6) for task in TASKS},
        **{f"each-small-{task}-0": ("gpt2-700k", 6) for task in TASKS},
    }
    assert cells["each-search-query-0"]["steps"] == 6
    assert set(cells["each-search-query-0"]["rows"]["student@top"]["tasks"]) == {"search-query"}, "it knows one alone"
    rows = {(row[0], row[1]): row for row in report.rows[1:]}
    each_size = sum(cells[f"each-{task}-0"]["parameters"] for task in TASKS)
    assert rows["all tasks", "each"][2] == f"{each_size:,}"
    found = data["findings"]
    each = [cells[f"each-{task}-0"]["rows"]["student@top"]["tasks"][task]["relevance"][0] for task in TASKS]
    assert found["all tasks"]["each"]["student@top"][0] == pytest.approx(sum(each) / 2)
    own = cells["all-0"]["rows"]["student@top"]["tasks"]["search-query"]["relevance"][0]
    assert found["search-query"]["all"]["student@top"][0] == pytest.approx(own)
    gained = found["search-query"]["each"]["one_for_all_gains"]
    assert gained["student@top"][0] == pytest.approx(own - each[0])
    assert found["search-query"]["all"]["student@top"][0] == pytest.approx(own), "one input, one task: as benchmarked"
    obeyed = [cells[name]["obeys"]["length"]["tasks"]["search-query"] for name in ("all-0", "each-search-query-0")]
    assert gained["length"][0] == pytest.approx(obeyed[0] - obeyed[1])
    assert found["search-query"]["all"]["one_for_all_gains"] == {}


def test_sizes_are_trained_alike_and_ordered(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = told(capsys, "study", "size", "--run", str(run), "--student", "gpt2-1m", "--student", "gpt2-700k",
                  "--steps", "4", *SMALL)  # fmt: skip
    assert [row[0] for row in report["rows"][1:]] == ["gpt2-700k", "gpt2-1m"]
    sizes = [int(row[1].replace(",", "")) for row in report["rows"][1:]]
    assert 600_000 < sizes[0] < 800_000 < 950_000 < sizes[1] < 1_150_000
    found = json.loads(Path(report["data"]).read_text())["findings"]["gpt2-1m"]
    assert found["latency"][0] > 0
    assert -1 <= found["length"][0] <= 1


def test_what_cannot_be_studied_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.run(["study", "size", "--run", str(run), "--student", "gpt2-mini"]) == 2
    assert cli.run(["study", "methods", "--run", str(run), "--method", "dpoo"]) == 2
    assert cli.run(["study", "methods", "--run", str(run), "--name", "../up"]) == 2
    assert cli.run(["study", "multitask", "--run", str(run / "nowhere")]) == 1
    shown_errors = capsys.readouterr().err
    assert "did you mean dpo?" in shown_errors
    assert "udrl synth" in shown_errors
    assert cli.run(["study", "methods", "--run", str(run), "--method", "udrl", "--gap", "0.1"]) == 2
    assert cli.run(["study", "methods", "--run", str(run), "--learning-rate", "grpo"]) == 2
    assert cli.run(["study", "methods", "--run", str(run), "--method", "udrl", "--learning-rate", "dpo=1e-4"]) == 2
    assert cli.run(["study", "multitask", "--run", str(run), "--part", "gpt2-700"]) == 2
    shown_errors = capsys.readouterr().err
    assert "--gap belongs to none of the methods udrl" in shown_errors
    assert "write METHOD=X" in shown_errors
    assert "dpo, which the study does not train" in shown_errors
    assert "'gpt2-700' is none" in shown_errors
    with pytest.raises(UsageError, match="above 0"):
        study_methods(run, seconds=0)
    with pytest.raises(UsageError, match="two students"):
        study_size(run, students=["gpt2-mini", "gpt2-mini"])
    monkeypatch.setattr("udrl.study.methods.is_installed", lambda name: False)
    with pytest.raises(MissingDependency, match=r"udrl\[study\]"):
        study_methods(run)


def test_inputs_for_a_number_of_calls_depend_on_the_seed_alone(run: Path) -> None:
    few, more = (first_inputs(run, calls, 0, derived=True) for calls in (40, 80))
    assert few < more
    assert first_inputs(run, 40, 0, derived=True) == few
    assert first_inputs(run, 40, 1, derived=True) != few


@pytest.mark.parametrize("name", ["udrl", "top", "weighted", "dpo"])
def test_every_method_looks_at_as_many_returns(run: Path, name: str) -> None:
    """Derived episodes, which upside-down RL alone learns from, count for it alone."""
    method = method_of(name)
    chosen = first_inputs(run, 120, 0, derived=name == "udrl")
    own = [e for e in read_episodes(run / "episodes", splits=("train",)) if e.input_id in chosen]
    most = max(Counter(e.input_id for e in own).values())
    assert 120 <= pool_of(method, own).scored < 120 + most


def test_cells_belong_to_the_returns_that_they_were_made_from(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    before = data_of(copy)
    assert data_of(copy) == before
    episodes = read_episodes(copy / "episodes", splits=("train", "validation", "test"), kept=False)
    other = [replace(e, returns={**e.returns, "relevance": 0.5}) if n == 0 else e for n, e in enumerate(episodes)]
    write_episodes(copy / "episodes", other, reward_names=("relevance",), card_facts={})
    rescored = data_of(copy)
    assert rescored != before
    store_answers(copy, {"an input": "5"})
    assert data_of(copy) not in (before, rescored)


def test_cell_whose_run_changes_under_it_fails_and_keeps_nothing(run: Path, tmp_path: Path) -> None:
    copy, made = Path(shutil.copytree(run, tmp_path / "run")), tmp_path / "made"
    settings = {"run": str(copy), **data_of(copy)}
    made.mkdir()

    def disturbed() -> None:
        with same_data(made, settings):
            (made / "student").mkdir()
            store_answers(copy, {"an input": "5"})

    with pytest.raises(StudentError, match=r"have changed since the study began .*start the same command again"):
        disturbed()
    assert not list(made.iterdir())
    for work in (train_cell, begin, train_by, lr_batch_cell.work):
        with pytest.raises(StudentError, match="have changed since"):
            work(made, settings)


def test_links_of_a_copied_run_hold_where_the_run_is_moved_with_them(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    copy_of(copy, copy / "study" / "x" / "run")
    moved = copy.rename(tmp_path / "moved")
    assert data_of(moved / "study" / "x" / "run") == data_of(run)


def test_methods_of_a_moved_run_are_the_same_cells(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[Cell]] = []

    def noted(_: Path, cells: list[Cell], **__: Any) -> dict[str, Any]:
        asked.append(cells)
        if len(asked) % 2 == 0:
            raise UsageError("noted")
        return {}

    monkeypatch.setattr(methods_study, "run_cells", noted)
    for folder, steps in ((run, 5), (Path(shutil.copytree(run, tmp_path / "run")), 5), (run, 6)):
        with pytest.raises(UsageError, match="noted"):
            study_methods(folder, methods=["sft"], start_steps=steps, seeds=2)
    keys = [[cell.key for cell in cells] for cells in asked]
    assert keys[:2] == keys[2:4]
    assert not set(keys[1]) & set(keys[5]), "another start makes other cells"
    assert asked[3][0].places["start"] == str(
        tmp_path / "run" / "study" / "methods" / "cells" / asked[2][0].key / "made" / "run" / "student"
    )


@pytest.mark.parametrize("arm", [{"seconds": 1.0}, {"calls": 64}])
def test_batches_of_grpo_are_whole_groups_in_both_arms(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: dict[str, Any]
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(methods_study, "train", lambda _, **options: asked.append(options))
    monkeypatch.setattr(methods_study, "_steps_for", lambda *_: 5)
    settings = {"run": str(run), "start": "", "method": "grpo", "options": {"group_size": 6}, "rate": None, "seed": 0}
    methods_study._trained_by(tmp_path, {**settings, **arm})
    assert asked[0]["batch_size"] == 30


def test_copied_run_knows_nothing_of_a_training(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    Run(copy).record(TrainFacts(steps=7))
    made = copy_of(copy, tmp_path / "made")
    assert set(Run(made).facts().stages) == {"synth", "score", "hygiene"}
    (made / "student").mkdir()
    assert not is_trained(Run(made)), "the training of the source is not its own"
    Run(made).record(TrainFacts(steps=3))
    assert is_trained(Run(made))


def test_part_is_the_preset_that_makes_parameters_equal() -> None:
    whole = PRESETS["gpt2-mini"]
    assert whole.parameters == pytest.approx(4.4e6, rel=0.05)
    assert multitask._part(whole, 6) == "gpt2-700k"
    assert multitask._part(whole, 2) == "gpt2-2m"
    arms = {"all": {"parameters": 100}, "each-small": {"parameters": 90}}
    assert multitask._unequal(arms, "p") == []
    arms["each-small"]["parameters"] = 50
    assert "have 0.50 times" in multitask._unequal(arms, "p")[0]


def test_options_of_methods_reach_those_that_have_them(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def noted(_: Path, **options: Any) -> None:
        asked.update(options)
        raise UsageError("noted")

    monkeypatch.setattr("udrl.study.methods.study_methods", noted)
    given = ["study", "methods", "--run", str(run), "--method-reward", "relevance", "--group-size", "4", "--gap", "0.1",
             "--dynamic-sampling", "--learning-rate", "grpo=1e-4"]  # fmt: skip
    assert cli.run(given) == 2
    assert asked["options"] == {
        "top": {"reward": "relevance"},
        "weighted": {"reward": "relevance"},
        "dpo": {"reward": "relevance", "gap": 0.1},
        "grpo": {"reward": "relevance", "group_size": 4, "dynamic_sampling": True},
    }
    assert asked["rates"] == {"grpo": 1e-4}


def test_figures_of_several_seeds_hold_both_spreads() -> None:
    assert over_seeds([(0.5, 0.4, 0.6), (0.7, 0.65, 0.75)]) == (0.6, 0.4, 0.75)
    assert over_seeds([]) is None
    assert shown((0.6, 0.4, 0.75), 2) == "0.60 [0.40, 0.75]"
    assert shown((3.0, 3.0, 3.0), 0) == "3"
    assert shown((0.1, -0.05, 0.25), 2, signed=True) == "+0.10 [-0.05, +0.25]"


def test_gains_are_paired_by_input_and_by_seed() -> None:
    """Inputs differ a lot and seeds a little: the difference of two conditions is as sure as pairing makes it."""
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, 60)

    def measured(shift: float, seed: int) -> dict[str, dict[str, float]]:
        noise = np.random.default_rng([7, seed, round(100 * shift)]).normal(0, 0.2, 60)
        values = hard + seed + shift + noise
        return {task: {f"{k}": values[k] for k in range(60) if k % 2 == place} for place, task in enumerate(TASKS)}

    ours, theirs = ([measured(shift, seed) for seed in range(3)] for shift in (1.0, 0.0))
    found = gain(ours, theirs)
    assert found is not None
    middle, low, high = found
    assert low < 1 < high
    assert high - low < 0.5
    assert middle == pytest.approx(1, abs=0.15)
    assert gain(ours, theirs, TASKS[0]) != found
    del theirs[1][TASKS[1]]["1"]
    fewer = gain(ours, theirs)
    assert fewer is not None
    assert fewer != found, "an input that one seed was not measured on counts for none"
    assert gain(ours, theirs, "nowhere") is None
