"""Two students that were really trained, in one benchmark by the command line; and that batches decide nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import udrl.cli.main as cli
from udrl.architecture.gpt2.scratch import scratch_gpt2
from udrl.commands import Command
from udrl.data.episodes import read_episodes
from udrl.eval import scores as scores_module
from udrl.eval import systems
from udrl.eval.bench import bench
from udrl.resources import folder
from udrl.student import load
from udrl.tokenizer import train_tokenizer
from udrl.training.train import train

TASK = "search-query"
SUITE = """\
schema: 1
name: tiny
title: Tiny
description: two students
inputs: {file: inputs.jsonl, task: search-query}
samples: 1
following: {inputs: 1, seeds: 1, leakage_inputs: 1}
latency_requests: 1
"""


def made(run: Path, *, seed: int, steps: int) -> None:
    """Train a student of two layers on the episodes of ``run``."""
    texts = [text for e in read_episodes(run / "episodes") for text in (e.input, e.completion)]
    tokenizer = train_tokenizer(texts, 500)
    start = run.parent / f"start{seed}"
    end = tokenizer.eos_token_id
    model = scratch_gpt2(vocab_size=500, layers=2, width=96, heads=3, context=256, eos=end, seed=seed)
    model.save_pretrained(start)
    tokenizer.save_pretrained(start)
    train(
        run, student=str(start), steps=steps, batch_size=16, learning_rate=4e-3, signs_inputs=0,
        calibration_inputs=0, seed=seed, device="cpu", precision="fp32",
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of the same episodes: the second one's student has seen less."""
    place = tmp_path_factory.mktemp("checkpoints")
    found = place / "first", place / "second"
    for seed, (run, steps) in enumerate(zip(found, (40, 20), strict=True)):
        shutil.copytree(small_run, run, ignore=shutil.ignore_patterns("student", "bench"))
        made(run, seed=seed, steps=steps)
    inputs = (folder("eval") / "inputs" / "relevance" / f"{TASK}.jsonl").read_text(encoding="utf-8").splitlines()[:3]
    (place / "inputs.jsonl").write_text("\n".join(inputs) + "\n", encoding="utf-8")
    (place / "tiny.yaml").write_text(SUITE, encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def summary(runs: tuple[Path, Path]) -> dict[str, Any]:
    first, second = runs
    options = ["--suite", str(first.parent / "tiny.yaml"), "--student", f"other={second}", "--device", "cpu"]
    options += ["--precision", "fp32"]  # so that nothing depends on batches
    assert cli.run(["bench", "--run", str(first), *options]) == 0
    found: dict[str, Any] = json.loads((first / "bench" / "tiny" / "summary.json").read_text(encoding="utf-8"))
    return found


def rows_of(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "completions.parquet").to_pylist()
    return found


def test_bench_of_two_checkpoints_has_both_in_one_table(summary: dict[str, Any]) -> None:
    students = {name: system for name, system in summary["systems"].items() if system["kind"] == "student"}
    rows = ("matched", "top", "open")
    assert list(students) == [*(f"student@{row}" for row in rows), *(f"other@{row}" for row in rows)]
    assert {(s["n"], s["coverage"], s["engine"], s["precision"]) for s in students.values()} == {
        (3, 1.0, "torch", "float32")
    }
    assert all(system["parameters"] and system["latency_ms"] for system in students.values())
    assert set(summary["headline"]["teacher"]) == {"student@matched", "other@matched"}
    assert {name for name in summary["parity"] if "@" in name} == set(students)


def test_bench_of_two_checkpoints_measures_how_each_follows_commands(summary: dict[str, Any]) -> None:
    following = summary["command_following"]
    assert {name: set(attributes) for name, attributes in following.items()} == {
        "student": {"relevance", "length"},
        "other": {"relevance", "length"},
    }
    for attributes in following.values():
        for entry in attributes.values():
            assert len(entry["curve"]) == 9
            assert set(entry["per_task"]) == {TASK}
            assert entry["uncalibrated"] is None, "neither is calibrated"
    assert following["student"]["length"]["curve"] != following["other"]["length"]["curve"]


def test_bench_of_two_checkpoints_lets_each_write_its_own(summary: dict[str, Any], runs: tuple[Path, Path]) -> None:
    rows = rows_of(runs[0] / "bench" / "tiny")
    for name, run in (("student", runs[0]), ("other", runs[1])):
        row = next(r for r in rows if r["block"] == f"{name}@open")
        one = load(run, device="cpu", precision="fp32").generate(
            [row["input"]], [Command(TASK, {})], seeds=[row["seed"]]
        )
        assert one[0].completion == row["completion"]


def test_bench_completions_and_scores_do_not_depend_on_batches(
    summary: dict[str, Any], runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs[0]
    before = run / "bench" / "tiny"
    monkeypatch.setenv("UDRL_CACHE", str(tmp_path))  # nothing that was encoded before
    monkeypatch.setattr(systems, "BATCH_SIZE", 1)
    monkeypatch.setattr(systems, "CHUNK", 7)
    monkeypatch.setattr(scores_module, "TOGETHER", 3)
    found = bench(run, suite=run.parent / "tiny.yaml", name="single", device="cpu", precision="fp32")
    assert found.reused == 0
    assert found.summary["systems"]["student@open"]["batch_size"] == 1
    first = [row for row in rows_of(before) if not row["block"].startswith("other")]
    assert rows_of(found.folder) == first
    known = {(r["block"], r["input_id"], r["sample"], r["level"]): r for r in scored(before)}
    for row in scored(found.folder):
        same = known[row["block"], row["input_id"], row["sample"], row["level"]]
        # the second encoder is fitted on the texts of the benchmark, which were more with two students
        assert {**row, "relevance_second": None} == {**same, "relevance_second": None}
    for name, system in found.summary["systems"].items():
        for key in ("relevance", "distinct_2", "pairwise_distance", "agreement", "length", "copy_rate"):
            assert system[key] == summary["systems"][name][key]
    assert found.summary["command_following"]["student"] == summary["command_following"]["student"]


def scored(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "scores.parquet").to_pylist()
    return found
