"""The pool: the student's own episodes that it learns from, bounded so that low returns stay represented."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from udrl.commands import CommandSpace
from udrl.data.episode import Episode
from udrl.data.hashing import hash_hex


def return_bin(episode: Episode, space: CommandSpace, reward: str) -> int:
    """Return the bin, 0 to ``bins - 1``, that the episode's achieved return falls into."""
    return round(space.positions(episode.task, {reward: episode.returns.get(reward)})[reward])


def bounded(
    episodes: Iterable[Episode],
    bin_of: Callable[[Episode], int],
    *,
    per_input: int,
    per_task: Mapping[str, int],
) -> list[Episode]:
    """Return at most ``per_input`` episodes of each task and input and ``per_task`` of each task.

    Where there are too many, bins of the return get equal shares, and what a bin does not fill goes to the others, so
    that no bin is emptied for another's sake. Of a bin the latest rounds stay, then a hash decides: the order of
    ``episodes`` plays no part. A task that is not in ``per_task`` is left out.
    """
    every = sorted(episodes, key=lambda e: (-e.round, hash_hex("pool", e.episode_id)))
    by_input: dict[tuple[str, str], list[Episode]] = defaultdict(list)
    for episode in every:
        by_input[episode.task, episode.input_id].append(episode)
    by_task: dict[str, list[Episode]] = defaultdict(list)
    for (task, _), rows in by_input.items():
        by_task[task] += _shared(rows, bin_of, per_input)
    # by input they came in whole groups: the order within a bin is that of `every` again
    rank = {episode.episode_id: number for number, episode in enumerate(every)}
    kept = []
    for task in sorted(by_task):
        rows = sorted(by_task[task], key=lambda e: rank[e.episode_id])
        kept += _shared(rows, bin_of, per_task.get(task, 0))
    return kept


def _shared(rows: Sequence[Episode], bin_of: Callable[[Episode], int], most: int) -> list[Episode]:
    """Take the first of every bin, then the second of every bin, and so on, high bins first, until there are enough."""
    bins: dict[int, list[Episode]] = defaultdict(list)
    for row in rows:
        bins[bin_of(row)].append(row)
    ranked = [(rank, -number, row) for number, of_bin in bins.items() for rank, row in enumerate(of_bin)]
    return [row for _, _, row in sorted(ranked, key=lambda one: one[:2])[:most]]
