"""``udrl train --from`` of a student of any family: it stays that model, and learns a task and commands more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
import torch
from safetensors.torch import load_file

import udrl
from udrl.errors import UsageError
from udrl.teacher.synthesis.synth import synth
from udrl.training.train import train

SMALL: dict[str, Any] = {
    "steps": 2, "batch_size": 4, "signs_inputs": 0, "calibration_inputs": 0, "device": "cpu", "precision": "fp32",
}  # fmt: skip
LONG = {"max_position_embeddings": 512}
FAMILIES: dict[str, tuple[str, dict[str, int]]] = {
    "llama tied": ("model.layers", LONG),
    "mistral": ("model.layers", {**LONG, "sliding_window": 512}),
    "qwen2": ("model.layers", LONG),
    "qwen3": ("model.layers", LONG),
    "gpt-j": ("transformer.h", {"n_positions": 512}),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of a task each, without students."""
    place = tmp_path_factory.mktemp("runs")
    for seed, task in enumerate(("text-to-image", "search-query")):
        synth(place / str(seed), tasks=(task,), num_inputs=30, samples=2, seed=seed, rewards=("novelty",))
    return place


@pytest.mark.parametrize("family", FAMILIES)
def test_from_goes_on_with_a_student_of_any_family(family: str, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    first, second = (tmp_path / "runs" / name for name in "01")
    blocks, changed = FAMILIES[family]
    checkpoint = tiny_checkpoints.put(tmp_path / "checkpoint", family, **changed)
    train(first, student=str(checkpoint), **SMALL)
    train(second, start_from=first, freeze=1, **SMALL)

    one, other = (json.loads((run / "student" / "config.json").read_text()) for run in (first, second))
    assert {**one, "vocab_size": 0} == {**other, "vocab_size": 0}
    before, after = (load_file(run / "student" / "model.safetensors") for run in (first, second))
    assert before.keys() == after.keys()
    table = next(name for name in before if name.endswith(("embed_tokens.weight", "wte.weight")))
    torch.testing.assert_close(after[table][: tiny_checkpoints.ROWS], before[table][: tiny_checkpoints.ROWS])
    lowest, upper = (f"{blocks}.{block}." for block in (0, 1))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith(lowest)} <= same
    assert not any(name.startswith(upper) and before[name].ndim > 1 for name in same)

    student = udrl.load(second, device="cpu", precision="fp32")
    assert student.tasks == ("text-to-image", "search-query")
    for task in student.tasks:
        assert student.generate(["a fox"], [udrl.Command(task)])[0].tokens > 0
    with pytest.raises(UsageError, match=r"starts from .* keeps its model, tokenizer and kind of command: leave"):
        train(second, start_from=first, student="smollm2", **SMALL)
