"""The cell that several studies have: train one student from scratch on a run, or one task of it, and measure it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udrl.data.run import Run
from udrl.study.figures import measured
from udrl.study.folders import copy_of, same_data
from udrl.training.checkpoint import is_trained
from udrl.training.train import train

train_one = f"{__name__}:train_cell"
"""The cell's name for `udrl.study.cells`."""


@dataclass(frozen=True)
class Measure:
    """How each student is measured: test inputs a task, and of these the ones that commands are swept on."""

    limit: int = 20
    following: int = 10

    @property
    def settings(self) -> dict[str, int]:
        """As cells take it."""
        return {"limit": self.limit, "following": self.following}


def train_cell(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train by upside-down RL, from scratch, and measure.

    settings: run, episodes, student, steps, seed, limit, following; task, where it is trained on one alone.
    """

    task = settings.get("task")
    with same_data(folder, settings):
        run = copy_of(
            Path(settings["run"]), folder / "run", keep=None if task is None else lambda episode: episode.task == task
        )
        if not is_trained(Run(run)):
            train(run, student=settings["student"], init="random", steps=settings["steps"], seed=settings["seed"])
        return {**facts_of(run), **look_at(run, settings)}


def facts_of(run: Path) -> dict[str, Any]:
    """Return what a cell keeps of a training."""
    trained = Run(run).facts().train
    wanted = ("steps", "seconds", "machine_hours", "reward_calls", "validation_calls", "calibration_calls", "advice",
              "signs", "parameters", "validation_loss")  # fmt: skip
    return {"student": str((run / "student").absolute()), **{name: getattr(trained, name) for name in wanted}}


def look_at(run: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a cell measures: the random streams are the same in every cell."""
    return measured(run, limit=settings["limit"], following=settings["following"], seed=0)
