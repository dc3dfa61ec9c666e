"""What the page about episodes shows: figures of all of them, and examples drawn by a hash, so always the same ones."""

from __future__ import annotations

import functools
import heapq
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from udrl.data.episode import Episode
from udrl.data.episodes import count_episodes, iterate_episodes, reward_names
from udrl.data.facts import RunFacts
from udrl.data.hashing import hash_int
from udrl.data.rejections import RejectedReport, rejected
from udrl.data.run import Run
from udrl.data.statistics import EpisodeMeter, Values
from udrl.errors import RunError
from udrl.metrics import spearman_within
from udrl.rewards.spread import Spread, SpreadByOrigin

SEED = 0
BINS = 5
EXAMPLES = 3
"""Examples of each bin of a task."""

MAX_TASKS = 24
"""Tasks with pictures and examples, the largest ones; the tables have MAX_ROWS."""

MAX_ROWS = 200


@dataclass
class WriterSetting:
    """What one teacher wrote under one of its settings; sums are over kept episodes."""

    written: int = 0
    kept: int = 0
    words: int = 0
    scored: Counter[str] = field(default_factory=Counter)
    returns: dict[str, float] = field(default_factory=dict)

    def add(self, episode: Episode) -> None:
        """Count one episode."""
        self.written += 1
        if episode.rejected_by is not None:
            return
        self.kept += 1
        self.words += episode.horizon
        for name, value in episode.returns.items():
            if value is not None:
                self.scored[name] += 1
                self.returns[name] = self.returns.get(name, 0.0) + value


@dataclass(frozen=True)
class Bin:
    """Kept episodes of one task with a return (or length) in [low, high], a few of them as examples."""

    low: float
    high: float
    count: int
    examples: tuple[Episode, ...]


@dataclass(frozen=True)
class EpisodesSurvey:
    """All that the page shows.

    spreads: by reward and by which episodes count, see `udrl.rewards.spread.SpreadByOrigin`. by: what the bins are of,
    a reward or None for the length.
    """

    facts: RunFacts
    meter: EpisodeMeter
    counts: Mapping[str, int]
    spreads: Mapping[str, Mapping[str, Spread]]
    settings: Mapping[tuple[str, str], WriterSetting]
    by: str | None
    bins: Mapping[str, Sequence[Bin]]
    rejected: RejectedReport


def survey_of(run: Run) -> EpisodesSurvey:
    """Read the run's episodes twice, once for figures, once for examples. Memory: some 20 bytes an episode.

    Raises RunError where the run has no episodes.
    """
    run.check()
    names = reward_names(run.episodes)
    meter, spread = EpisodeMeter(names), SpreadByOrigin()
    settings: dict[tuple[str, str], WriterSetting] = {}
    for episode in iterate_episodes(run.episodes, kept=False):
        meter.add(episode)
        spread.add(episode, episode.returns)
        if episode.origin in ("teacher", "student"):
            settings.setdefault((episode.teacher, _setting(episode.sampling)), WriterSetting()).add(episode)
    if not meter.tasks:
        raise RunError(f"{run.episodes} holds no episodes: run 'udrl synth --run {run.path}' first")
    by = next((name for name in sorted(names, key=lambda n: n != "relevance") if meter.scored(name)), None)
    return EpisodesSurvey(
        facts=run.facts(),
        meter=meter,
        counts=count_episodes(run.episodes),
        spreads=spread.spreads(),
        settings=settings,
        by=by,
        bins=_bins(run, meter, by),
        rejected=rejected(run),
    )


def length_correlation(meter: EpisodeMeter, task: str, name: str) -> float | None:
    """Return the rank correlation of a return with the length over the teachers' kept episodes of ``task``.

    None where fewer than two are scored.
    """
    lengths, returns = meter.lengths(task, ("teacher",)), meter.returns(task, name, ("teacher",))
    if np.count_nonzero(~np.isnan(returns)) < 2:
        return None
    return spearman_within(lengths, returns)


@functools.lru_cache(maxsize=4096)
def _setting(sampling: str) -> str:
    """Return the name of the setting that an episode was written with."""
    said = json.loads(sampling)
    if "style" in said:
        return str(said["style"])
    if "fidelity" not in said:
        return ""
    # The built-in teacher's is drawn anew for each completion: fifths of it are its settings.
    fifth = int(5 * said["fidelity"])
    return "fidelity 1" if fifth == 5 else f"fidelity {fifth / 5:.1f} to {(fifth + 1) / 5:.1f}"


def _bins(run: Run, meter: EpisodeMeter, by: str | None) -> dict[str, list[Bin]]:
    edges = {task: _edges(_values(meter, task, by)) for task in meter.tasks[:MAX_TASKS]}
    heaps: dict[tuple[str, int], list[tuple[int, int, Episode]]] = {}
    counts: Counter[tuple[str, int]] = Counter()
    for number, episode in enumerate(iterate_episodes(run.episodes)):
        value = episode.horizon if by is None else episode.returns.get(by)
        if value is None or episode.task not in edges:
            continue
        position = int(np.searchsorted(edges[episode.task][1:-1], value, side="right"))
        counts[episode.task, position] += 1
        heap = heaps.setdefault((episode.task, position), [])
        entry = (-hash_int(SEED, "example", episode.episode_id), number, episode)
        if len(heap) < EXAMPLES:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
    bins: dict[str, list[Bin]] = {}
    for task, marks in edges.items():
        for position, (low, high) in enumerate(itertools.pairwise(marks)):
            if drawn := heaps.get((task, position)):
                examples = tuple(entry[2] for entry in sorted(drawn, reverse=True))
                bins.setdefault(task, []).append(Bin(low, high, counts[task, position], examples))
    return bins


def _values(meter: EpisodeMeter, task: str, by: str | None) -> Values:
    return meter.lengths(task) if by is None else meter.returns(task, by)


def _edges(values: Values) -> list[float]:
    """Return the bounds of at most BINS bins with as many values each; equal ones are merged."""
    known = values[~np.isnan(values)]
    if not len(known):
        return []
    marks = [float(mark) for mark in np.quantile(known, np.linspace(0, 1, BINS + 1))]
    inner = [mark for mark in dict.fromkeys(marks[1:-1]) if marks[0] < mark]
    return [marks[0], *inner, marks[-1]]
