"""The episodes of a round: the pool with what is new in it, original episodes as an anchor, and what was rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from udrl.commands import CommandSpace
from udrl.data.dataset_card import run_facts
from udrl.data.episode import Episode
from udrl.data.episodes import iterate_episodes, read_episodes, reward_names, write_episodes
from udrl.data.run import Run
from udrl.data.tasks import Task
from udrl.errors import StudentError
from udrl.rewards.protocol import Reward
from udrl.rounds.exploration import Wish, Written
from udrl.rounds.options import RoundOptions
from udrl.rounds.pool import bounded, return_bin
from udrl.rounds.rejections import reasons, scored, select
from udrl.training.origin import Origin, replayed

POOL_FULL = "pool_full"
"""Rule: the pool held enough of this input, or of this return."""


@dataclass(frozen=True)
class Counts:
    """added: new episodes in the pool; rejected: the others of the round, by rule; pool, originals: trained on."""

    added: int
    rejected: Mapping[str, int]
    pool: int
    originals: int


def build(
    folder: Path,
    wishes: Sequence[Wish],
    written: Sequence[Written],
    *,
    tasks: Mapping[str, Task],
    originals: Sequence[Episode],
    origin: Origin,
    pool: Sequence[Episode],
    validation: Sequence[Episode],
    rewards: Mapping[str, Reward],
    space: CommandSpace,
    options: RoundOptions,
    number: int,
) -> Counts:
    """Write the episodes of round ``number`` into ``folder``, unless they are there, and return what they are.

    originals: the run's training episodes, of which a share is drawn anew each round (`udrl.training.origin.replayed`)
    so that they make up ``options.original`` of what is trained on; a task's pool is bounded so that there are enough.
    validation: its validation episodes, which come along.
    """
    assert origin.run is not None
    if not folder.is_dir():
        names = reward_names(origin.run.episodes)
        new = scored(
            select(
                wishes,
                written,
                tasks=tasks,
                originals=originals,
                pool=pool,
                number=number,
                temperature=options.temperature,
                diverse=options.diversity_floor > 0,
            ),
            rewards,
            names=names,
            explored=options.reward,
        )
        fresh = [episode for episode in new if episode.rejected_by is None]
        kept = bounded(
            [*pool, *fresh],
            lambda episode: return_bin(episode, space, options.reward),
            per_input=options.per_input,
            per_task=_room(tasks, originals, options),
        )
        if not kept:
            raise _nothing_kept(new, number)
        inside = {episode.episode_id for episode in kept}
        rejected = [
            episode if episode.rejected_by is not None else replace(episode, rejected_by=POOL_FULL)
            for episode in new
            if episode.episode_id not in inside
        ]
        wanted = len(kept) * options.original / (1 - options.original)
        share = min(1.0, wanted / max(1, len(originals)))
        anchor = replayed(origin, kept, share=share, split="train", seed=options.seed + number)
        facts = {**run_facts(Run(origin.run.path)), "round of improvement": number}
        write_episodes(folder, [*validation, *anchor, *kept, *rejected], reward_names=names, card_facts=facts)
    return _counts(folder, originals, number)


def _nothing_kept(new: Sequence[Episode], number: int) -> StudentError:
    told = ", ".join(f"{count:,} {rule}" for rule, count in reasons(new).items())
    return StudentError(
        f"round {number} has nothing to learn from, all {len(new):,} completions were rejected ({told}): "
        "explore more inputs or samples, or at another temperature, with --restart"
    )


def _counts(folder: Path, originals: Sequence[Episode], number: int) -> Counts:
    trained = read_episodes(folder)
    before = {episode.episode_id for episode in originals}
    explored = [episode for episode in trained if episode.origin == "student" and episode.episode_id not in before]
    new = [e for e in iterate_episodes(folder, kept=False, origins=("student",)) if e.round == number]
    added = sum(episode.rejected_by is None for episode in new)
    return Counts(added, reasons(new), len(explored), len(trained) - len(explored))


def _room(tasks: Iterable[str], originals: Sequence[Episode], options: RoundOptions) -> dict[str, int]:
    """Return how many of the student's episodes each task can have beside its ``originals``."""
    if options.original == 0:
        return dict.fromkeys(tasks, options.per_task)
    there = Counter(episode.task for episode in originals)
    return {task: min(options.per_task, int(there[task] * (1 - options.original) / options.original)) for task in tasks}
