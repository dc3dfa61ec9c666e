"""Copies of a run that cells train in: its episodes, whole or in part, and what belongs to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from udrl.data.answers import FILE as ANSWERS
from udrl.data.episodes import Episode, iterate_episodes, reward_names, write_episodes
from udrl.data.run import Run, atomic_write
from udrl.errors import RunError
from udrl.student.partial import fingerprint

BESIDE = ("tasks", ANSWERS)
"""What a run's episodes need beside them, where it is there."""
STAGES = ("synth", "score", "hygiene")
"""What a run's episodes have been through: what run.json says of it goes with them."""


def data_of(run: Path) -> dict[str, str]:
    """Return what a cell's outcome depends on besides its settings, which it belongs to: the run and a hash of its
    episodes with their returns. Raises RunError where there are none."""
    source = _source(run)
    return {"run": str(run.absolute()), "episodes": fingerprint(list(iterate_episodes(source.episodes)))}


def copy_of(run: Path, folder: Path, *, keep: Callable[[Episode], bool] | None = None) -> Path:
    """Return ``folder`` as a run of its own with the episodes of ``run`` (of all splits), without its student.

    keep: which episodes; None: all, which are then not copied but linked. What an earlier call made stays. Raises
    RunError where ``run`` has no episodes.
    """
    source = _source(run)
    if (folder / "run.json").is_file():
        return folder
    facts = source.facts()
    folder.mkdir(parents=True, exist_ok=True)
    for name in BESIDE:
        if (run / name).exists() and not (folder / name).exists():
            (folder / name).symlink_to((run / name).resolve())
    if not (folder / "episodes").exists():
        if keep is None:
            (folder / "episodes").symlink_to(source.episodes.resolve(), target_is_directory=True)
        else:
            kept = [episode for episode in iterate_episodes(source.episodes) if keep(episode)]
            if not kept:
                raise RunError(f"none of the episodes of {run} is left for {folder.name}")
            card = {"part of": str(run), "synth": facts["stages"].get("synth", {}).get("teacher", "unknown")}
            write_episodes(folder / "episodes", kept, reward_names=reward_names(source.episodes), card_facts=card)
    facts["stages"] = {name: facts["stages"][name] for name in STAGES if name in facts["stages"]}
    atomic_write(folder / "run.json", json.dumps(facts, indent=1))
    return folder


def is_trained(run: Path) -> bool:
    """Say whether the copy ``run`` has a student whose training is recorded."""
    return (run / "student").is_dir() and "train" in Run(run).facts()["stages"]


def _source(run: Path) -> Run:
    source = Run(run)
    source.check()
    if not source.episodes.is_dir():
        raise RunError(f"{run} has no episodes to study: make them with udrl synth --run {run}")
    return source
