"""From the ledger to episodes: the teacher's own, kept or rejected, and the negatives derived from them.

Derived episodes are low returns that a teacher rarely produces: the right text for another input
(``mismatched``) and a text that ends too soon (``truncated``). They are made here, every time, and never
stand in the ledger.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from udrl.data.cleaning import clean, first_words
from udrl.data.episode import Episode
from udrl.data.hashing import hash_hex, hash_unit
from udrl.data.index import LedgerIndex
from udrl.data.inputs import split_of
from udrl.data.ledger import Ledger, LedgerRecord
from udrl.data.tasks import Task
from udrl.errors import RunError, UsageError
from udrl.words import count_words

MISMATCHED = 0.10
"""Share of the teacher's episodes from which one with another input's completion is derived."""

TRUNCATED = 0.10
"""Share of the teacher's episodes from which one whose completion is cut off is derived."""

Screening = Callable[[LedgerRecord, str | None], tuple[LedgerRecord, str | None]]
"""What comes after cleaning, see ``udrl.data.hygiene.Screen``: may change texts, or reject."""

_PARTNER_TRIES = 16
_CUT_SHARES = (0.2, 0.8)


def build_episodes(
    ledger: Ledger,
    tasks: Iterable[Task],
    *,
    seed: int = 0,
    mismatched: float = MISMATCHED,
    truncated: float = TRUNCATED,
    screen: Screening = lambda record, reason: (record, reason),
) -> Iterator[Episode]:
    """Yield the ledger's responses as episodes without returns, each followed by those derived from it.

    The order is by task name, input and sample, whatever the order of the ledger; every choice is a hash of
    ``seed`` and the response's key. Failed responses are no episodes. Derived episodes, from kept ones only:
    ``mismatched`` (the input with a completion of another input of the task and split) and ``truncated`` (the
    completion cut off after 20 to 80 % of its words, not under half of the task's lower bound).

    screen: is given every response after cleaning, with the rule that rejected it.
    mismatched, truncated: shares in [0, 1] of the teacher's episodes. Raises UsageError outside of that,
    RunError for a response to a task that is not among ``tasks``. Memory: about 40 bytes a response.
    """
    for name, share in (("mismatched", mismatched), ("truncated", truncated)):
        if not 0 <= share <= 1:
            raise UsageError(f"the share of {name} episodes must be within [0, 1], found {share}")
    known = {task.name: task for task in tasks}
    index = LedgerIndex(ledger)
    for name in index.tasks:
        if name not in known:
            raise RunError(f"{ledger.folder} holds responses to task '{name}', which is not defined: add its file")
    for rows in index.groups():
        seen: set[str] = set()
        for row in rows:
            raw = ledger.read(index.span(row))
            task = known[raw.task]
            record, reason = screen(*clean(raw, task))
            if reason is None and record.completion in seen and "duplicate" not in task.allow:
                reason = "duplicate"
            seen.add(record.completion or "")
            episode = episode_of(record, reason)
            yield episode
            if reason is not None:
                continue
            if hash_unit(seed, "mismatched", record.key) < mismatched:
                yield from _mismatched(
                    episode, record, row, index=index, ledger=ledger, task=task, seed=seed, screen=screen
                )
            if hash_unit(seed, "truncated", record.key) < truncated:
                yield from _truncated(episode, record, task=task, seed=seed)


def episode_of(record: LedgerRecord, reason: str | None) -> Episode:
    """Return a response as an episode without returns; ``reason``: why it is rejected, or None."""
    completion = record.completion or ""
    return Episode(
        episode_id=hash_hex(record.key, "teacher"),
        task=record.task,
        input_id=record.input_id,
        input=record.input,
        completion=completion,
        horizon=count_words(completion),
        origin="teacher",
        teacher=record.teacher,
        sampling=json.dumps(record.sampling, sort_keys=True),
        seed=record.seed,
        split=split_of(record.input_id),
        rejected_by=reason,
    )


def _mismatched(
    episode: Episode,
    record: LedgerRecord,
    row: int,
    *,
    index: LedgerIndex,
    ledger: Ledger,
    task: Task,
    seed: int,
    screen: Screening,
) -> Iterator[Episode]:
    """Yield the episode with a completion of another input; nothing where no partner is found in a few
    draws."""
    for attempt in range(_PARTNER_TRIES):
        other = index.draw(row, seed, "partner", record.key, attempt)
        if index.input_id[other] == index.input_id[row]:
            continue
        partner, reason = screen(*clean(ledger.read(index.span(other)), task))
        if partner.completion == record.completion or reason is not None:
            continue
        yield replace(
            episode_of(partner, None),
            episode_id=hash_hex(record.key, "mismatched", partner.key),
            input_id=episode.input_id,
            input=episode.input,
            origin="mismatched",
            split=episode.split,
        )
        return


def _truncated(episode: Episode, record: LedgerRecord, *, task: Task, seed: int) -> Iterator[Episode]:
    """Yield the episode with its completion cut off; nothing where it is too short for that."""
    low = max(1, math.ceil(0.5 * task.min_words), math.ceil(_CUT_SHARES[0] * episode.horizon))
    high = math.floor(_CUT_SHARES[1] * episode.horizon)
    if high < low:
        return
    words = low + int(hash_unit(seed, "cut", record.key) * (high - low + 1))
    yield replace(
        episode,
        episode_id=hash_hex(record.key, "truncated", words),
        completion=first_words(episode.completion, words),
        horizon=words,
        origin="truncated",
    )
