"""Recorded outputs from one end to the other: what LLMs and people wrote, a student that trains on it, its report."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import udrl.cli.main as cli
from udrl.data.episodes import read_episodes
from udrl.data.inputs import input_id, split_of
from udrl.eval import bench as bench_module
from udrl.eval.suites import Suite, load_suite

TASKS = {"assistant", "design-template", "text-prompt", "text-to-image", "text-to-video"}
WANTED = {"train": 24, "validation": 2, "test": 2}
"""Rows of each task and split: enough for every stage to have something to do."""

LEDGER = Path(__file__).parents[2] / "benchmarks" / "ledger.py"


def real_rows(file: Path) -> list[dict[str, Any]]:
    """Return the shortest rows of each task and split, so that the student has little to read and to write."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: len(row["output"])):
        if len(row["output"].split()) >= 8:
            groups[row["task"], split_of(input_id(row["input"]))].append(row)
    return [row for (_, split), group in sorted(groups.items()) for row in group[: WANTED[split]]]


@pytest.mark.slow
def test_recorded_real_outputs_of_five_tasks_train_a_student(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = real_rows(shared_data / "recorded_pairs.jsonl.gz")
    file, run = tmp_path / "pairs.jsonl.gz", tmp_path / "run"
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)

    def call(*arguments: str) -> dict[str, Any]:
        code = cli.run([*arguments, "--run", str(run), "--json"])
        out, err = capsys.readouterr()
        assert code == 0, err
        found: dict[str, Any] = json.loads(out)
        return found

    made = call("synth", "--teacher", f"recorded:{file}")
    assert set(made["inputs"]) == TASKS
    assert made["written"] == made["episodes"]["teacher"] == len(rows)
    episodes = read_episodes(run / "episodes", splits=("train", "validation", "test"), origins=("teacher",))
    assert len(episodes) > 0.8 * len(rows), "most of what was recorded is kept"
    assert all(episode.returns["relevance"] is not None for episode in episodes)
    assert {episode.teacher for episode in episodes} <= {row["model"] for row in rows}
    real = {(episode.task, episode.input): episode.returns["relevance"] for episode in episodes}
    false = read_episodes(run / "episodes", origins=("mismatched",))
    drops = [(real[e.task, e.input] or 0.0) - (e.returns["relevance"] or 0.0) for e in false]
    assert sum(drops) / len(drops) > 0.2, "another input's text is much less relevant"

    trained = call(
        "train", "--student", "gpt2-mini", "--init", "random", "--steps", "12", "--batch-size", "8",
        "--vocab-size", "1000", "--device", "cpu",
    )  # fmt: skip
    assert trained["calibrated"]
    chosen: list[object] = []

    def quick(name: str | Path) -> Suite:
        chosen.append(name)
        return replace(load_suite(name), following=None, samples=1, latency_requests=1)

    monkeypatch.setattr(bench_module, "load_suite", quick)
    summary = call("bench", "--limit", "2")
    assert chosen == ["heldout"], "nobody can be asked, so the run's own test inputs are what is measured"
    systems = summary["systems"]
    assert systems["teacher"]["kind"] == "teacher"
    assert set(systems["teacher"]["per_task"]) == TASKS
    held = [episode for episode in episodes if episode.split == "test"]
    known = sum(count > 0 for count in Counter((e.task, e.input_id) for e in held).values())
    assert systems["teacher"]["n"] == known <= 10
    assert 0.4 < systems["teacher"]["relevance"]["mean"] < 1
    assert set(summary["parity"]["student@top"]) == {"teacher"}
    page = (run / "bench" / "heldout" / "report.html").read_text(encoding="utf-8")
    assert "as recorded" in page
    assert all(task in page for task in TASKS)


# --- scale


def peak(rows: int, folder: Path) -> float:
    """Return the most MiB that ``udrl synth --teacher recorded:FILE --no-score`` had resident."""
    command = [sys.executable, str(LEDGER), str(rows), "--stages", "command", "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(folder)
    found = re.search(r"^command .* rows/s +peak +([\d,]+) MiB", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return float(found[1].replace(",", ""))


@pytest.mark.slow
def test_recorded_outputs_need_no_more_memory_where_there_are_more(tmp_path: Path) -> None:
    small, large = 12_000, 36_000
    grown = peak(large, tmp_path / "large") - peak(small, tmp_path / "small")
    # A row kept is 2.5 KB and more; the index, keys and buffers of Parquet writers below their row group are not.
    assert grown < (large - small) * 1e-3, f"{grown:.0f} MiB for {large - small:,} more rows"
