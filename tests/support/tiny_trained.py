"""A run whose student of two layers was trained until it obeys length: for tests of its exports."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from made_once import copy_of

from udrl.architecture.gpt2.scratch import scratch_gpt2
from udrl.commands import LENGTH, Command
from udrl.data.episodes import read_episodes
from udrl.student.student import Student
from udrl.teacher.synthesis.synth import synth
from udrl.tokenizer import train_tokenizer
from udrl.training.train import train

TASK = "text-to-image"


def trained_run(folders: pytest.TempPathFactory) -> Path:
    """Return a copy of the run, to be changed as one likes."""
    return copy_of(folders, "trained", _make)


def middle(student: Student) -> Command:
    """Return a command in the middle of what the student reaches, which rounding in 600 steps decides."""
    assert student.calibration is not None
    curve = student.calibration.curve(TASK, LENGTH)
    assert curve is not None
    return Command(TASK, {LENGTH: sum(curve.reachable) / 2})


def _make(run: Path) -> None:
    synth(run, tasks=(TASK,), num_inputs=500, samples=3, seed=1, rewards=("novelty",))  # quicker than relevance
    read = read_episodes(run / "episodes")
    tokenizer = train_tokenizer([e.input for e in read] + [e.completion for e in read], 500)
    end = tokenizer.eos_token_id
    with TemporaryDirectory() as folder:
        scratch_gpt2(vocab_size=500, layers=2, width=96, heads=3, context=256, eos=end, seed=0).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        train(
            run, student=folder, steps=600, batch_size=16, learning_rate=4e-3, attributes=(LENGTH,), signs_inputs=0,
            calibration_inputs=2, device="cpu", precision="fp32",
        )  # fmt: skip
