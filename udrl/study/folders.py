"""Copies of a run that cells train in: its episodes, whole or in part, and what belongs to them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from udrl.data.answers import FILE as ANSWERS
from udrl.data.episodes import Episode, iterate_episodes, reward_names, write_episodes
from udrl.data.run import Run
from udrl.errors import RunError

BESIDE = ("tasks", ANSWERS)
"""What a run's episodes need beside them, where it is there."""


def copy_of(run: Path, folder: Path, *, keep: Callable[[Episode], bool] | None = None) -> Path:
    """Return ``folder`` as a run of its own with the episodes of ``run`` (of all splits), without its student.

    keep: which episodes; None: all, which are then not copied but linked. What an earlier call made stays. Raises
    RunError where ``run`` has no episodes.
    """
    source = Run(run)
    facts = source.facts()
    if not source.episodes.is_dir():
        raise RunError(f"{run} has no episodes to study: make them with udrl synth --run {run}")
    if (folder / "run.json").is_file():
        return folder
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
    shutil.copy(run / "run.json", folder / ".run.json.partial")
    (folder / ".run.json.partial").rename(folder / "run.json")
    return folder
