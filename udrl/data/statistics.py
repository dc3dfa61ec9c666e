"""What episodes hold, in one pass: counts, and every length and return, by task and origin.

For the dataset card, and for the page to look at before training. Lengths and returns are kept as numbers (4 bytes, and
8 a reward), so that quantiles and correlations are exact: a million episodes take some 20 MB.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from udrl.data.episode import DERIVED, Episode

Values = np.ndarray[tuple[int], np.dtype[np.float64]]

TENTHS = (0.1, 0.5, 0.9)
"""The quantiles that are shown: the middle, and the range that commands are drawn from."""


@dataclass
class _Series:
    """Of the kept episodes of one task and origin, in one order. returns: NaN is not scored."""

    horizons: array[int] = field(default_factory=lambda: array("i"))
    returns: dict[str, array[float]] = field(default_factory=dict)


class EpisodeMeter:
    """Takes episodes one by one. Lengths and returns are those of kept episodes; the counts are of all."""

    def __init__(self, reward_names: Sequence[str]) -> None:
        self.reward_names = tuple(reward_names)
        self._counts: dict[str, Counter[tuple[str, str, bool]]] = {}
        self._series: dict[tuple[str, str], _Series] = {}

    def add(self, episode: Episode) -> None:
        """Count one episode."""
        kept = episode.rejected_by is None
        self._counts.setdefault(episode.task, Counter())[episode.split, episode.origin, kept] += 1
        if not kept:
            return
        key = episode.task, episode.origin
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series(returns={name: array("d") for name in self.reward_names})
        series.horizons.append(episode.horizon)
        for name, values in series.returns.items():
            value = episode.returns.get(name)
            values.append(float("nan") if value is None else value)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, the one with most episodes first."""
        return sorted(self._counts, key=lambda task: (-self._counts[task].total(), task))

    @property
    def origins(self) -> list[str]:
        """Names of the origins that there are, the teacher's first, as they come in the flow."""
        there = {origin for counts in self._counts.values() for _, origin, _ in counts}
        return [origin for origin in ("teacher", *DERIVED, "student") if origin in there]

    def count(
        self,
        *,
        task: str | None = None,
        split: str | None = None,
        origin: str | None = None,
        kept: bool | None = None,
    ) -> int:
        """Return how many episodes there are of that task, split and origin, kept or rejected; None: any."""
        wanted = (split, origin, kept)
        return sum(
            count
            for name in ([task] if task is not None else self._counts)
            for key, count in self._counts.get(name, {}).items()
            if all(want is None or want == has for want, has in zip(wanted, key, strict=True))
        )

    def lengths(self, task: str, origins: Collection[str] | None = None) -> Values:
        """Return the lengths in words of the task's kept episodes."""
        parts = [np.asarray(series.horizons, np.float64) for series in self._of(task, origins)]
        return np.concatenate([np.empty(0), *parts])

    def returns(self, task: str, name: str, origins: Collection[str] | None = None) -> Values:
        """Return the returns in the order of ``lengths``; NaN: not scored."""
        parts = [np.asarray(series.returns[name], np.float64) for series in self._of(task, origins)]
        return np.concatenate([np.empty(0), *parts])

    def scored(self, name: str) -> bool:
        """Tell whether any kept episode has this return."""
        return any(not np.isnan(self.returns(task, name)).all() for task in self.tasks)

    def _of(self, task: str, origins: Collection[str] | None) -> Iterator[_Series]:
        for origin in self.origins:
            if (origins is None or origin in origins) and (task, origin) in self._series:
                yield self._series[task, origin]


def quantiles(values: Values, at: Sequence[float] = TENTHS) -> list[float] | None:
    """Return the quantiles of the values that are not NaN; None where there are none."""
    known = values[~np.isnan(values)]
    return [float(value) for value in np.quantile(known, at)] if len(known) else None
