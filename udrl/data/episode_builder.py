"""From the ledger to episodes: the teacher's own, kept or rejected, and those derived from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from udrl.data.cleaning import clean
from udrl.data.derived import Derivation, Deriver, Screening
from udrl.data.episode import Episode
from udrl.data.hashing import hash_hex
from udrl.data.index import LedgerIndex
from udrl.data.inputs import split_of
from udrl.data.ledger import Ledger, LedgerRecord
from udrl.data.tasks import Task
from udrl.errors import RunError
from udrl.words import count_words


def build_episodes(
    ledger: Ledger,
    tasks: Iterable[Task],
    *,
    seed: int = 0,
    mismatched: float = Derivation.mismatched,
    truncated: float = Derivation.truncated,
    spliced: float = Derivation.spliced,
    screen: Screening = lambda record, reason: (record, reason),
) -> Iterator[Episode]:
    """Yield the ledger's responses as episodes without returns, each followed by those derived from it.

    The order is by task name, input and sample, whatever the order of the ledger; every choice is a hash of
    ``seed`` and the response's key. Failed responses are no episodes.

    mismatched, truncated, spliced: how many episodes are derived from each one that is kept (`udrl.data.derived`).
    screen: is given every response after cleaning, with the rule that rejected it.
    Raises UsageError for such a number, RunError for a response to a task that is not among ``tasks``. Memory: about
    40 bytes a response.
    """
    wanted = Derivation(mismatched=mismatched, truncated=truncated, spliced=spliced)
    known = {task.name: task for task in tasks}
    index = LedgerIndex(ledger)
    for name in index.tasks:
        if name not in known:
            raise RunError(f"{ledger.folder} holds responses to task '{name}', which is not defined: add its file")
    deriver = Deriver(index, ledger, seed, screen, wanted)
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
            if reason is None:
                yield from deriver.derive(episode, record, row, task)


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
