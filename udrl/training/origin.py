"""``udrl train --from``: the student that a training starts from, and the episodes that it was trained on."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from udrl.commands import CommandSpace
from udrl.data.episode import Episode
from udrl.data.episodes import has_episodes, read_episodes
from udrl.data.facts import OriginFacts, RunFacts
from udrl.data.hashing import hash_unit
from udrl.data.inputs import Split
from udrl.data.run import Run
from udrl.errors import StudentError, UsageError
from udrl.student.calibration import Calibration
from udrl.student.location import student_folder
from udrl.weights.changes import is_put_together

GENTLER = 0.1
"""The default learning rate, as a share of the preset's: what is known is to be kept. At half of it a few thousand
episodes make a student forget what many taught it (docs/results.md)."""
STARTED = 0.5
"""The same from a starter, whose own tasks need not stay."""


@dataclass(frozen=True)
class Origin:
    """A trained student. folder: its checkpoint; run: the run that it stands in, None for a checkpoint by itself.

    name: the preset or model that it was made from; weights: a hash of them; max_tokens: the most that it ships with;
    facts: what run.json says of the run, or nothing. starter: it was changes of a base's weights, and is started from
    for what it knows of commands: its episodes are not there, and its tasks may be forgotten.
    """

    folder: Path
    run: Run | None
    name: str
    weights: str
    max_tokens: int
    space: CommandSpace
    facts: RunFacts
    starter: bool = False

    def record(self, replayed: int | None = None) -> OriginFacts:
        """Return what run.json keeps of it; replayed: how many of its episodes are trained on again."""
        attributes = tuple(a.name for a in self.space.attributes)
        return OriginFacts(str(self.folder), self.weights, tuple(self.space.tasks), attributes, replayed)


def find_origin(source: Path | str) -> Origin:
    """Return the student at ``source``, a run folder or a checkpoint that ``udrl train`` wrote, or one that ships.

    Raises StudentError where there is none, or none that this version can read.
    """
    folder = student_folder(source)
    weights = folder / "model.safetensors"
    if not folder.is_dir():
        raise StudentError(f"there is no student at {source} to start from: name a run or a checkpoint of udrl train")
    space = CommandSpace.load(folder)
    if not weights.is_file():
        raise StudentError(f"{folder} holds no model.safetensors to start from: copy the whole checkpoint")
    run = Run(folder.parent) if folder.name == "student" and (folder.parent / "run.json").exists() else None
    told = Run(folder) if run is None and (folder / "run.json").exists() else run  # of its changes, beside them
    facts = told.facts() if told is not None else RunFacts()
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    calibration = Calibration.load(folder)
    tokens = calibration.sampling.get("max_tokens") if calibration is not None else None
    return Origin(
        folder, run, facts.train.student or folder.name, digest, tokens or 0, space, facts, is_put_together(folder)
    )


def replayed(origin: Origin, episodes: Sequence[Episode], *, share: float, split: Split, seed: int) -> list[Episode]:
    """Return a share of the origin's kept episodes of ``split`` that are not among ``episodes``, those of tasks it
    knows."""
    if origin.run is None or not has_episodes(origin.run.episodes):
        return []
    there = {episode.episode_id for episode in episodes}
    return [
        episode
        for episode in read_episodes(origin.run.episodes, splits=(split,))
        if episode.task in origin.space.tasks
        and episode.episode_id not in there
        and hash_unit(seed, "replay", episode.episode_id) < share
    ]


def with_replay(origin: Origin, episodes: list[Episode], *, share: float, seed: int) -> tuple[list[Episode], int]:
    """Return training episodes together with a share of the origin's, and how many those are.

    Warns of tasks that the origin knows and that nothing is left of.
    """
    again = replayed(origin, episodes, share=share, split="train", seed=seed)
    forgotten = [task for task in origin.space.tasks if task not in {e.task for e in (*episodes, *again)}]
    if forgotten and not origin.starter:
        warnings.warn(
            f"the student may forget what it is not trained on again: {', '.join(forgotten)}; start from the run that "
            "it was trained in, whose episodes are then replayed",
            stacklevel=3,
        )
    return episodes + again, len(again)


def joined_facts(facts: RunFacts, origin: Origin) -> RunFacts:
    """Return the facts of a run together with those of its origin's: rewards, encoder and teachers of both.

    Raises UsageError where relevance was computed with different encoders: the two would not be one attribute.
    """
    earlier, encoder = origin.facts, facts.score.encoder
    before = earlier.score.encoder
    if encoder is not None and before is not None and encoder.name != before.name:
        weights = (before.revision, encoder.revision)
        if None in weights or weights[0] != weights[1]:
            raise UsageError(
                f"the student in {origin.folder} learned relevance by the encoder {before.name}, and this run was "
                f"scored with {encoder.name}: score it again with udrl score --encoder {before.name}"
            )
    rewards = {reward.name: reward for reward in (*earlier.score.rewards, *facts.score.rewards)}
    return replace(
        facts,
        score=replace(facts.score, rewards=tuple(rewards.values()), encoder=encoder or before),
        synth=replace(facts.synth, teachers={**earlier.synth.teachers, **facts.synth.teachers}),
    )
