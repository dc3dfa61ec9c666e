"""What cleaning left out or repaired, with examples to look at: ``udrl synth --show-rejected``."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from udrl.data.cleaning import REPAIRED
from udrl.data.episodes import iterate_episodes, noted
from udrl.data.hashing import hash_hex, hash_int
from udrl.data.ledger import Ledger
from udrl.data.rules import RULES
from udrl.data.run import Run
from udrl.errors import unknown

ALL = "all"

FEW, MANY = 3, 30
"""Examples of each rule where all are shown, and of one that is named."""


@dataclass(frozen=True)
class RejectedExample:
    """rule: its name, or ``repaired:RULE``. completion: of the episode; written: what the ledger holds, where it
    differs."""

    rule: str
    task: str
    teacher: str
    input: str
    completion: str
    written: str | None = None


@dataclass(frozen=True)
class RejectedReport:
    """total: the run's episodes of teachers. counts: by rule, those repaired as ``repaired:RULE``."""

    total: int
    counts: Mapping[str, int]
    examples: tuple[RejectedExample, ...]


def rejected(run: Run, rule: str = ALL) -> RejectedReport:
    """Return how many of the run's responses each rule rejected or repaired, with examples drawn evenly by a hash.

    rule: one rule (RULES, or those that the episodes name), ``repaired``, or ``all``. Nothing is generated.
    Raises UsageError for an unknown rule, RunError where the run has no episodes.
    """
    run.check()
    counts: Counter[str] = Counter()
    best: dict[str, list[tuple[int, int, RejectedExample, str]]] = {}
    keep = FEW if rule == ALL else MANY
    for number, episode in enumerate(iterate_episodes(run.episodes, kept=False, origins=("teacher",))):
        counts[""] += 1
        names = [] if episode.rejected_by is None else [episode.rejected_by]
        names += [f"{REPAIRED}:{name}" for name in noted(episode.sampling, REPAIRED)]
        for name in names:
            counts[name] += 1
            if rule in (ALL, name, name.partition(":")[0]):
                example = RejectedExample(name, episode.task, episode.teacher, episode.input, episode.completion)
                ranked = (-hash_int(episode.episode_id), number, example, episode.episode_id)
                heap = best.setdefault(name, [])
                (heapq.heappush if len(heap) < keep else heapq.heappushpop)(heap, ranked)
    total = counts.pop("")
    if rule not in (ALL, REPAIRED, *RULES, *counts):
        raise unknown("cleaning rule", rule, {ALL, REPAIRED, *RULES, *counts})
    chosen = [(example, episode_id) for name in sorted(best) for _, _, example, episode_id in sorted(best[name])]
    written = _written(run, {episode_id for example, episode_id in chosen if example.rule.startswith(REPAIRED)})
    examples = tuple(replace(example, written=written.get(episode_id)) for example, episode_id in chosen)
    return RejectedReport(total, dict(counts.most_common()), examples)


def _written(run: Run, episode_ids: set[str]) -> dict[str, str]:
    """Return what the ledger holds for these episodes."""
    written: dict[str, str] = {}
    if episode_ids:
        for _, row in Ledger(run.ledger).rows():
            identity = hash_hex(row["key"], "teacher")
            if identity in episode_ids and row["status"] == "ok":
                written[identity] = row["completion"]
    return written
