"""Studies for real at small size: methods, multitask and size, by the command line, resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import udrl.cli.main as cli
from udrl.data.episodes import read_episodes
from udrl.errors import UsageError
from udrl.student.initialise import scratch_gpt2
from udrl.student.tokenizer import train_tokenizer
from udrl.study import multitask
from udrl.study.cells import Cell
from udrl.study.figures import over_seeds, shown
from udrl.study.methods import first_inputs, study_methods
from udrl.study.size import study_size
from udrl.study.training import Measure, train_cell
from udrl.teacher.synthesis import synth

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
    cells = json.loads(Path(report["data"]).read_text())["cells"]
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
    assert float(rows["time", "udrl@open"]["USD"]) == pytest.approx(cells["udrl-time-0"]["seconds"] / 100, abs=1e-4)
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
            done[key] = done.get(key) or train_cell(folder / key, {**cell.settings, "student": "gpt2-700k"})
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


def test_sizes_are_trained_alike_and_ordered(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = told(capsys, "study", "size", "--run", str(run), "--student", "gpt2-1m", "--student", "gpt2-700k",
                  "--steps", "4", *SMALL)  # fmt: skip
    assert [row[0] for row in report["rows"][1:]] == ["gpt2-700k", "gpt2-1m"]
    sizes = [int(row[1].replace(",", "")) for row in report["rows"][1:]]
    assert 600_000 < sizes[0] < 800_000 < 950_000 < sizes[1] < 1_150_000
    found = json.loads(Path(report["data"]).read_text())["findings"]["gpt2-1m"]
    assert found["latency"][0] > 0
    assert -1 <= found["length"][0] <= 1


def test_what_cannot_be_studied_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["study", "size", "--run", str(run), "--student", "gpt2-mini"]) == 2
    assert cli.run(["study", "methods", "--run", str(run), "--method", "dpoo"]) == 2
    assert cli.run(["study", "methods", "--run", str(run), "--name", "../up"]) == 2
    assert cli.run(["study", "multitask", "--run", str(run / "nowhere")]) == 1
    shown_errors = capsys.readouterr().err
    assert "did you mean dpo?" in shown_errors
    assert "udrl synth" in shown_errors
    with pytest.raises(UsageError, match="above 0"):
        study_methods(run, seconds=0)
    with pytest.raises(UsageError, match="two students"):
        study_size(run, students=["gpt2-mini", "gpt2-mini"])


def test_inputs_for_a_number_of_calls_depend_on_the_seed_alone(run: Path) -> None:
    few, more = first_inputs(run, 40, 0), first_inputs(run, 80, 0)
    assert few < more
    assert first_inputs(run, 40, 0) == few
    assert first_inputs(run, 40, 1) != few


def test_figures_of_several_seeds_hold_both_spreads() -> None:
    assert over_seeds([(0.5, 0.4, 0.6), (0.7, 0.65, 0.75)]) == (0.6, 0.4, 0.75)
    assert over_seeds([]) is None
    assert shown((0.6, 0.4, 0.75), 2) == "0.60 [0.40, 0.75]"
    assert shown((3.0, 3.0, 3.0), 0) == "3"
