"""How much of a return's variance lies within inputs: where it is little, commands teach a student little.

A student learns to obey where one input has completions of different returns. Where returns differ only from input to
input, the input alone already says which return its completion has, and the command can be ignored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from udrl.data.episode import DERIVED, Episode

LEAST = 0.30
"""A smaller share of the variance within inputs is worth a warning."""

ENOUGH = 100
"""Episodes of a task below which its share is chance."""


@dataclass(frozen=True)
class Spread:
    """Shares in [0, 1] of one reward's variance that lie within inputs; None: the reward does not vary there.

    overall: over all tasks, each around its own mean, because a student knows the task.
    worst: the task with the smallest share among those with ENOUGH episodes.
    """

    overall: float | None
    by_task: Mapping[str, float | None]
    worst: str | None


@dataclass
class _Sum:
    """Count, mean and squared deviations from the mean, updated value by value (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self.squares += step * (value - self.mean)


class SpreadMeter:
    """Takes episodes in the order of ``build_episodes``, where those of one input of a task follow each other.

    Memory: by task, not by episode.
    """

    def __init__(self, origins: Collection[str] = ("teacher",)) -> None:
        """origins: the kept episodes that count; derived ones are not the teacher's doing."""
        self._origins = frozenset(origins)
        self._total: dict[tuple[str, str], _Sum] = {}
        self._within: dict[tuple[str, str], float] = {}
        self._group: tuple[str, str] | None = None
        self._open: dict[str, _Sum] = {}

    def add(self, episode: Episode, returns: Mapping[str, float | None]) -> None:
        """Count one episode."""
        if episode.origin not in self._origins or episode.rejected_by is not None:
            return
        if self._group != (episode.task, episode.input_id):
            self._close()
            self._group = episode.task, episode.input_id
        for name, value in returns.items():
            if value is not None:
                self._open.setdefault(name, _Sum()).add(value)
                self._total.setdefault((name, episode.task), _Sum()).add(value)

    def spreads(self) -> dict[str, Spread]:
        """Return what was found so far, by reward."""
        self._close()
        names = dict.fromkeys(name for name, _ in self._total)
        return {name: self._spread(name) for name in names}

    def _close(self) -> None:
        for name, group in self._open.items():
            key = name, self._group[0] if self._group else ""
            self._within[key] = self._within.get(key, 0.0) + group.squares
        self._open = {}

    def _spread(self, name: str) -> Spread:
        tasks = [task for reward, task in self._total if reward == name]
        within = {task: self._within[name, task] for task in tasks}
        total = {task: self._total[name, task].squares for task in tasks}
        by_task = {task: _share(within[task], total[task]) for task in tasks}
        ranked = [
            (share, task)
            for task, share in by_task.items()
            if share is not None and self._total[name, task].count >= ENOUGH
        ]
        return Spread(_share(sum(within.values()), sum(total.values())), by_task, min(ranked)[1] if ranked else None)


GRADED = ("teacher", "truncated", "spliced")
"""Origins that show an input's returns by degrees. Mismatched ones, far below all others, show only that there are two:
a few of them make the share large, and teach little."""


class SpreadByOrigin:
    """The spread of what teachers wrote, and of that with each kind of derived episodes, and with all of them."""

    def __init__(self) -> None:
        sets: dict[str, tuple[str, ...]] = {"teacher": ("teacher",), **{kind: ("teacher", kind) for kind in DERIVED}}
        sets |= {"graded": GRADED, "all": ("teacher", *DERIVED)}
        self._meters = {name: SpreadMeter(origins) for name, origins in sets.items()}

    def add(self, episode: Episode, returns: Mapping[str, float | None]) -> None:
        """Count one episode."""
        for meter in self._meters.values():
            meter.add(episode, returns)

    def spreads(self) -> dict[str, dict[str, Spread]]:
        """Return the spreads by reward: ``teacher``, with one kind of derived episodes by its name, ``graded``, and
        ``all``."""
        by_reward: dict[str, dict[str, Spread]] = {}
        for name, meter in self._meters.items():
            for reward, spread in meter.spreads().items():
                by_reward.setdefault(reward, {})[name] = spread
        return by_reward


def advice(spreads: Mapping[str, Spread]) -> list[str]:
    """Return a warning for each reward that varies too little within the inputs of some task.

    spreads: by reward, those of GRADED episodes.
    """
    warnings = []
    for name, spread in spreads.items():
        share = None if spread.worst is None else spread.by_task[spread.worst]
        if share is not None and share < LEAST:
            warnings.append(
                f"only {share:.0%} of the variance of '{name}' lies within inputs in task '{spread.worst}' "
                f"({spread.overall:.0%} over all tasks; {LEAST:.0%} are wanted), so that a student can hardly learn "
                "there to obey it: write more completions an input (--samples), with settings that differ more "
                "('sampling' in the teacher's card), or with several teachers (--teacher), or derive more from each "
                "(udrl score --truncated 1 --spliced 1)"
            )
    return warnings


def _share(within: float, total: float) -> float | None:
    return None if total < 1e-12 else min(1.0, within / total)
