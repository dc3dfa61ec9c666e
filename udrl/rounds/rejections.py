"""Which of the student's completions become episodes, and why the others do not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from udrl.data.cleaning import rejected_by
from udrl.data.dedup import Deduplicator
from udrl.data.episode import Episode
from udrl.data.episode_builder import episode_of
from udrl.data.hashing import hash_hex
from udrl.data.ledger import SCHEMA, LedgerRecord
from udrl.data.tasks import Task
from udrl.metrics import distinct_n, novelty
from udrl.rewards.protocol import Reward, compute_known
from udrl.rounds.exploration import Wish, Written

COPIED, REPETITIVE, NEAR, UNSCORED = "copied", "repetitive", "near_duplicate", "unscored"
"""Rules beside those of `udrl.data.cleaning`; what they mean stands in `udrl.data.rules.OTHER_RULES`."""
RARE = 0.05
"""Novelty and distinct-2 of a completion must not lie below this quantile of the original completions' of its task."""


@dataclass(frozen=True)
class Floors:
    """What a completion of a task must have: novelty against its input, and distinct-2 within itself."""

    novelty: float
    distinct_2: float


def floors_of(originals: Sequence[Episode]) -> dict[str, Floors]:
    """Return the floors by task, from what the teachers wrote: a copy, or a stammer, is what they hardly ever write."""
    by_task: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for episode in originals:
        if episode.origin == "teacher":
            by_task[episode.task].append((novelty(episode.input, episode.completion), distinct_n([episode.completion])))
    floors = {}
    for task, rows in by_task.items():
        new, distinct = np.quantile(np.asarray(rows), RARE, axis=0).tolist()
        floors[task] = Floors(new, distinct)
    return floors


def select(
    wishes: Sequence[Wish],
    written: Sequence[Written],
    *,
    tasks: Mapping[str, Task],
    originals: Sequence[Episode],
    pool: Sequence[Episode],
    number: int,
    temperature: float,
    diverse: bool,
) -> list[Episode]:
    """Return each completion as an episode of round ``number`` without returns, rejected by the first rule it broke.

    The rules of cleaning come first, then ``copied``, ``repetitive``, ``duplicate`` and ``near_duplicate`` (of another
    completion for this input: an original, one in the pool, or an earlier one of this round). diverse: whether the last
    three, which guard diversity, are in force.
    """
    floors = floors_of(originals)
    asked = {(wish.task, wish.input_id) for wish in wishes}
    known: dict[tuple[str, str], Deduplicator] = defaultdict(Deduplicator)
    if diverse:
        for episode in (*originals, *pool):
            if (episode.task, episode.input_id) in asked and episode.origin in ("teacher", "student"):
                known[episode.task, episode.input_id].add(episode.completion)
    made = []
    for wish, one in zip(wishes, written, strict=True):
        record = _record(wish, one, tasks[wish.task], number, temperature)
        reason = rejected_by(record, tasks[wish.task])
        floor = floors.get(wish.task, Floors(0.0, 0.0))
        if reason is None and novelty(wish.input, one.completion) < floor.novelty:
            reason = COPIED
        if reason is None and diverse:
            if distinct_n([one.completion]) < floor.distinct_2:
                reason = REPETITIVE
            else:
                verdict = known[wish.task, wish.input_id].add(one.completion)
                reason = {"new": None, "exact": "duplicate", "near": NEAR}[verdict]
        made.append(_episode(record, number, reason))
    return made


def scored(
    episodes: Sequence[Episode], rewards: Mapping[str, Reward], *, names: Sequence[str], explored: str
) -> list[Episode]:
    """Return ``episodes`` with the returns that ``rewards`` compute; rejected ones without.

    names: all returns that the originals have; one that nobody can compute, or not for this input, is null. explored:
    the one that the round is about; an episode without it is rejected. Raises RewardError.
    """
    kept = [episode for episode in episodes if episode.rejected_by is None]
    inputs, completions = [e.input for e in kept], [e.completion for e in kept]
    values = {name: compute_known(reward, inputs, completions) for name, reward in rewards.items()} if kept else {}
    labels = iter(range(len(kept)))
    made = []
    for episode in episodes:
        if episode.rejected_by is None:
            row = next(labels)
            returns = {name: values[name][row] if name in values else None for name in names}
            rejected = UNSCORED if returns.get(explored) is None else None
            episode = replace(episode, returns=returns, rejected_by=rejected)
        made.append(episode)
    return made


def reasons(episodes: Sequence[Episode]) -> dict[str, int]:
    """Return how many episodes each rule rejected."""
    return dict(Counter(e.rejected_by for e in episodes if e.rejected_by is not None).most_common())


def _record(wish: Wish, one: Written, task: Task, number: int, temperature: float) -> LedgerRecord:
    """Return the completion as cleaning reads it; the student was asked as the teachers were."""
    sampling = {"temperature": temperature, "kind": wish.kind, "command": dict(wish.positions)}
    if wish.targets:
        sampling["targets"] = dict(wish.targets)
    return LedgerRecord(
        schema=SCHEMA,
        key=hash_hex("round", number, wish.task, wish.input_id, wish.sample, wish.seed, one.completion),
        status="ok",
        error=None,
        attempts=1,
        task=wish.task,
        input_id=wish.input_id,
        input=wish.input,
        messages=({"role": "user", "content": task.request(wish.input)},),
        completion=one.completion,
        finish_reason=one.finish_reason,
        teacher="student",
        revision=None,
        sampling=sampling,
        seed=wish.seed,
        sample=wish.sample,
        prompt_tokens=None,
        completion_tokens=None,
        started=0.0,
        seconds=0.0,
    )


def _episode(record: LedgerRecord, number: int, reason: str | None) -> Episode:
    return replace(
        episode_of(record, reason),
        episode_id=hash_hex(record.key, "student"),
        origin="student",
        split="train",
        round=number,
    )
