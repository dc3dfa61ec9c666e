"""Ray Data with two workers, and vLLM's own server through the openai backend."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import ROOM, card_file, serving

from udrl.data.ledger import Ledger

TASK = "search-query"
OPTIONS = ["--task", TASK, "--no-invent", "--num-inputs", "20", "--samples", "2", "--no-score", "--json"]


def synth(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "udrl", "synth", *OPTIONS, *arguments], capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rows(run: Path) -> dict[str, dict[str, Any]]:
    found = [row for _, row in Ledger(run / "ledger").rows()]
    assert len(found) == len({row["key"] for row in found})
    return {row["key"]: row for row in found}


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory, model: Path) -> dict[str, dict[str, Any]]:
    """What the offline engine writes: by key, which depends on no backend."""
    folder = tmp_path_factory.mktemp("offline")
    report = synth("--teacher", str(card_file(folder, model)), "--run", str(folder / "run"))
    assert (report["written"], report["failed"]) == (40, 0)
    return rows(folder / "run")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[str]:
    """The address of vLLM's own server."""
    with serving(model, tmp_path_factory.mktemp("server"), "--max-model-len", str(ROOM)) as address:
        yield address


def test_vllm_server_answers_synth_as_the_offline_engine_does(
    server: str, offline: dict[str, dict[str, Any]], tmp_path: Path, model: Path
) -> None:
    card = card_file(tmp_path, model)
    report = synth("--teacher", str(card), "--base-url", server, "--run", str(tmp_path / "run"))
    assert (report["written"], report["failed"]) == (40, 0)

    def place(row: dict[str, Any]) -> tuple[str, int]:
        return row["input_id"], row["sample"]

    there = {place(row): row for row in rows(tmp_path / "run").values()}
    here = {place(row): row for row in offline.values()}
    assert there.keys() == here.keys()
    for where, row in there.items():
        assert row["prompt_tokens"] == here[where]["prompt_tokens"], "the same chat template"
        if row["sampling"]["temperature"] == 0:
            assert row["completion"] == here[where]["completion"]


def test_ray_with_two_workers_has_the_offline_engines_keys_and_goes_on_by_them(
    offline: dict[str, dict[str, Any]], tmp_path: Path, model: Path
) -> None:
    path = card_file(tmp_path, model)
    card = yaml.safe_load(path.read_text())
    card["settings"]["ray"] = {"workers": 2, "batch_size": 4, "gpus_per_worker": False}
    path.write_text(yaml.safe_dump(card))
    run = tmp_path / "run"
    common = ["--teacher", str(path), "--run", str(run)]
    first = synth(*common, "--backend", "ray")
    assert (first["written"], first["failed"]) == (40, 0)
    found = rows(run)
    assert found.keys() == offline.keys(), "the keys are those of any backend"
    for key, row in found.items():
        assert row["prompt_tokens"] == offline[key]["prompt_tokens"]
        assert row["completion_tokens"] > 0
        assert row["finish_reason"] in ("stop", "length")
        if row["sampling"]["temperature"] == 0:
            assert row["completion"] == offline[key]["completion"]
    again = synth(*common, "--backend", "ray")
    assert (again["written"], again["already"]) == (0, 40), "nothing is left, and no cluster is begun"
