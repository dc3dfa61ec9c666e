"""Copies of a run that cells train in: its episodes, whole or in part, and what belongs to them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from udrl.data.episode import Episode
from udrl.data.episodes import iterate_episodes, reward_names, write_episodes
from udrl.data.facts import HygieneFacts, ScoreFacts, SynthFacts
from udrl.data.facts_json import written
from udrl.data.known_answers import FILE as ANSWERS
from udrl.data.known_answers import read_answers
from udrl.data.run import Run
from udrl.errors import RunError, StudentError
from udrl.files import remove_folder

BESIDE = ("tasks", ANSWERS)
"""What a run's episodes need beside them, where it is there."""
STAGES = (SynthFacts, ScoreFacts, HygieneFacts)
"""What a run's episodes have been through: what run.json says of it goes with them."""


def data_of(run: Path) -> dict[str, str]:
    """Return what a cell's outcome depends on besides its settings, which it belongs to: a hash of the run's episodes
    with their returns, of its answers, and of what scored them. Raises RunError where there are no episodes."""
    source = _source(run)
    scored = source.facts().score
    begun = json.dumps([sorted(read_answers(run).items()), written(scored.rewards) or None, written(scored.encoder)])
    digest = hashlib.blake2b(begun.encode(), digest_size=16)
    for e in iterate_episodes(source.episodes):
        returns = sorted(e.returns.items())
        digest.update(repr((e.episode_id, e.task, e.split, e.input, e.completion, returns)).encode())
    return {"episodes": digest.hexdigest()}


@contextmanager
def same_data(folder: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Within: a cell in ``folder`` works on the data of the run that its ``settings`` name.

    Raises StudentError where the run has other data by now, before or after the work, which is then thrown away.
    """
    _check_data(settings)
    yield
    try:
        _check_data(settings)
    except StudentError:
        remove_folder(folder)
        folder.mkdir()
        raise


def _check_data(settings: Mapping[str, Any]) -> None:
    if data_of(Path(settings["run"]))["episodes"] != settings["episodes"]:
        raise StudentError(
            f"the episodes, returns or answers of {settings['run']} have changed since the study began (udrl synth, "
            "udrl score): start the same command again, for all cells on what there is now"
        )


def copy_of(run: Path, folder: Path, *, keep: Callable[[Episode], bool] | None = None) -> Path:
    """Return ``folder`` as a run of its own with the episodes of ``run`` (of all splits), without its student.

    keep: which episodes; None: all, which are then not copied but linked. What an earlier call made stays. Raises
    RunError where ``run`` has no episodes.
    """
    source = _source(run)
    if (folder / "run.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in BESIDE:
        if (run / name).exists() and not (folder / name).exists():
            (folder / name).symlink_to(_way(folder, run / name))
    if not (folder / "episodes").exists():
        if keep is None:
            (folder / "episodes").symlink_to(_way(folder, source.episodes), target_is_directory=True)
        else:
            kept = [episode for episode in iterate_episodes(source.episodes) if keep(episode)]
            if not kept:
                raise RunError(f"none of the episodes of {run} is left for {folder.name}")
            card = {"part of": str(run), "synth": ", ".join(source.facts().synth.teachers) or "unknown"}
            write_episodes(folder / "episodes", kept, reward_names=reward_names(source.episodes), card_facts=card)
    Run(folder).copy_stages(source, STAGES)
    return folder


def _way(folder: Path, target: Path) -> str:
    """Return ``target`` as seen from ``folder``, so that both can be moved together."""
    return os.path.relpath(target.resolve(), folder.resolve())


def _source(run: Path) -> Run:
    source = Run(run)
    source.check()
    if not source.episodes.is_dir():
        raise RunError(f"{run} has no episodes to study: make them with udrl synth --run {run}")
    return source
