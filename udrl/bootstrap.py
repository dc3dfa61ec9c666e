"""95 % intervals of many figures at once: the bootstrap that draws whole clusters (inputs) with replacement.

Completions of one input are not independent, so inputs are what is drawn. All figures of a benchmark are columns of
one matrix; a resample is a row of counts (how often each cluster was drawn), and all resamples of all figures are one
matrix product. Every column sees the same resamples, so that what is compared is paired.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
FEW = 100
"""A column with fewer clusters than this is resampled over its own: a draw from all of them could miss every one."""
_COLUMNS = 256
_CACHED_WEIGHTS = 100_000_000  # one byte each
_CHUNK_WEIGHTS = 1_000_000
_PRIOR = 0.1
_NEWTON_STEPS = 50


@dataclass(frozen=True)
class Intervals:
    """Figures of k columns: the figure of the data itself, its 95 % interval, and how many rows it is made of.

    All are (k,); NaN where a figure cannot be computed.
    """

    mean: Floats
    lo: Floats
    hi: Floats
    items: npt.NDArray[np.int64]

    def named(self, k: int, mean: str, interval: str) -> dict[str, Any]:
        """Return column ``k``'s figure and its interval by these names, as JSON has them; None where there is none."""
        if np.isnan(self.mean[k]):
            return {mean: None, interval: None}
        return {mean: float(self.mean[k]), interval: [float(self.lo[k]), float(self.hi[k])]}


def mean_intervals(
    values: Floats, clusters: npt.ArrayLike | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Intervals:
    """Return the mean of every column of ``values`` (rows, k); NaN is left out. See ``ratio_intervals``."""
    return ratio_intervals(values, np.ones_like(values), clusters, resamples=resamples, seed=seed)


def ratio_intervals(
    top: Floats, bottom: Floats, clusters: npt.ArrayLike | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Intervals:
    """Return mean(top) / mean(bottom) of every column, paired by row, with its 95 % interval.

    top, bottom: (rows, k); a row of which either is NaN is left out of that column. clusters: a label for each row
    (None: each is its own). NaN where a column has no rows, or a bottom of mean 0.
    """
    columns = top.shape[1]
    if bottom.shape != top.shape:
        raise ValueError(f"top and bottom must have one shape, got {top.shape} and {bottom.shape}")
    known = ~(np.isnan(top) | np.isnan(bottom))
    sums = _summed(np.hstack([np.where(known, top, 0.0), np.where(known, bottom, 0.0), known]), clusters)
    a, b, counts = sums[:, :columns], sums[:, columns : 2 * columns], sums[:, 2 * columns :]
    totals = b.sum(axis=0)
    usable = totals != 0
    ratio = np.full(columns, np.nan)
    np.divide(a.sum(axis=0), totals, out=ratio, where=usable)
    # Only deviations from the ratio are resampled, so that equal columns give an interval of no width.
    moved = a - np.where(usable, ratio, 0.0) * b
    lo, hi = np.full(columns, np.nan), np.full(columns, np.nan)
    for present, alike in _alike(counts > 0, usable):
        for start in range(0, len(alike), _COLUMNS):
            part = alike[start : start + _COLUMNS]
            drawn = _drawn(np.hstack([moved[present][:, part], b[present][:, part]]), resamples, seed)
            ratios = drawn[:, : len(part)] / drawn[:, len(part) :]
            lo[part], hi[part] = _bounds(ratios)
    return Intervals(ratio, ratio + lo, ratio + hi, known.sum(axis=0))


def length_controlled(wins: Floats, longer: Floats, clusters: npt.ArrayLike | None = None) -> Intervals:
    """Return what every column's win rate would be at equal length, with its 95 % interval.

    wins: (rows, k) in [0, 1], 1/2 a tie; longer: (rows, k) by how many words the first completion is longer. NaN in
    either leaves the row out. A logistic regression of the win on tanh(longer / its standard deviation), read at 0:
    the length term of AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475), whose other terms need many models. A weak
    normal prior (precision 0.1) keeps the fit finite where one side always wins. NaN where no completion is shorter, or
    none longer: the answer would be extrapolated.

    The interval is a one-step bootstrap: each resample takes one Newton step from the fit (Davidson and MacKinnon
    1999).
    """
    known = ~(np.isnan(wins) | np.isnan(longer))
    y = np.where(known, wins, 0.0)
    items = known.sum(axis=0)
    gap = np.where(known, longer, 0.0)
    shortest = np.where(known, longer, np.inf).min(axis=0, initial=np.inf)
    longest = np.where(known, longer, -np.inf).max(axis=0, initial=-np.inf)
    usable = (shortest <= 0) & (longest >= 0)
    spread = np.sqrt((gap**2).sum(axis=0) / np.maximum(items, 1) - (gap.sum(axis=0) / np.maximum(items, 1)) ** 2)
    x = np.tanh(gap / np.where(spread > 0, spread, 1.0))
    level, slope = np.zeros(wins.shape[1]), np.zeros(wins.shape[1])
    for _ in range(_NEWTON_STEPS):
        score, curvature = _terms(x, y, known, level, slope)
        step = _solved([part.sum(axis=0) for part in score], [part.sum(axis=0) for part in curvature], level, slope)
        # Far out the logistic is flat and a full step overshoots; the fit itself is never further than this from 0.
        level, slope = level + np.clip(step[0], -2, 2), slope + np.clip(step[1], -2, 2)
        if max(np.abs(step[0]).max(initial=0), np.abs(step[1]).max(initial=0)) < 1e-9:
            break
    score, curvature = _terms(x, y, known, level, slope)
    summed = _summed(np.hstack([*score, *curvature]), clusters)
    columns = wins.shape[1]
    lo, hi = np.full(columns, np.nan), np.full(columns, np.nan)
    present = _summed(known.astype(np.float64), clusters) > 0
    for there, alike in _alike(present, usable):
        for start in range(0, len(alike), _COLUMNS // 2):
            part = alike[start : start + _COLUMNS // 2]
            drawn = _drawn(
                np.hstack([summed[there][:, k * columns : (k + 1) * columns][:, part] for k in range(5)]),
                RESAMPLES,
                seed=0,
            )
            parts = np.split(drawn, 5, axis=1)
            moved, _ = _solved(parts[:2], parts[2:], level[part], slope[part])
            lo[part], hi[part] = _bounds(_logistic(level[part] + moved))
    return Intervals(np.where(usable, _logistic(level), np.nan), lo, hi, items)


def bradley_terry(
    first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], points: Floats, clusters: npt.ArrayLike | None = None
) -> Intervals:
    """Return every player's strength (Bradley and Terry 1952), with its 95 % interval.

    first, second: (rows,) the players of each comparison, from 0; points: (rows,) what the first got: 1, 0, or 1/2 for
    a tie. Strengths have the mean 0; i beats j with the probability 1 / (1 + exp(strength of j - that of i)). Prior and
    interval are those of `length_controlled`.
    """
    players = int(max(first.max(), second.max())) + 1
    side = np.zeros((len(points), players))
    side[np.arange(len(points)), first], side[np.arange(len(points)), second] = 1.0, -1.0
    prior, strength = _PRIOR * np.eye(players), np.zeros(players)

    def terms() -> tuple[Floats, Floats]:
        p = _logistic(side @ strength)
        curvature = (p * (1 - p))[:, None, None] * side[:, :, None] * side[:, None, :]
        return side * (points - p)[:, None], curvature.reshape(len(points), -1)

    for _ in range(_NEWTON_STEPS):
        score, curvature = terms()
        bent = curvature.sum(axis=0).reshape(players, players) + prior
        step = np.clip(np.linalg.solve(bent, score.sum(axis=0) - _PRIOR * strength), -2, 2)
        strength = strength + step
        if np.abs(step).max() < 1e-9:
            break
    drawn = _drawn(_summed(np.hstack(terms()), clusters), RESAMPLES, seed=0)
    bent = drawn[:, players:].reshape(-1, players, players) + prior
    moved = np.linalg.solve(bent, (drawn[:, :players] - _PRIOR * strength)[:, :, None])[:, :, 0]
    lo, hi = _bounds(moved.astype(np.float64))
    return Intervals(strength, strength + lo, strength + hi, np.abs(side).sum(axis=0).astype(np.int64))


def _terms(
    x: Floats, y: Floats, known: npt.NDArray[np.bool_], level: Floats, slope: Floats
) -> tuple[list[Floats], list[Floats]]:
    """Return each row's part of the gradient (2) and of the curvature (3: both, mixed, slope's) of the likelihood."""
    p = _logistic(level + slope * x)
    missed = np.where(known, y - p, 0.0)
    weight = np.where(known, p * (1 - p), 0.0)
    return [missed, missed * x], [weight, weight * x, weight * x * x]


def _solved(score: list[Floats], curvature: list[Floats], level: Floats, slope: Floats) -> tuple[Floats, Floats]:
    """Return the Newton step from (level, slope), the prior included."""
    a, b = score[0] - _PRIOR * level, score[1] - _PRIOR * slope
    h, mixed, k = curvature[0] + _PRIOR, curvature[1], curvature[2] + _PRIOR
    determinant = h * k - mixed * mixed
    return (a * k - b * mixed) / determinant, (b * h - a * mixed) / determinant


def _logistic(values: Floats) -> Floats:
    result: Floats = 1 / (1 + np.exp(-values))
    return result


def _summed(values: Floats, clusters: npt.ArrayLike | None) -> Floats:
    """Return the rows of ``values`` summed by cluster, in the order of the sorted labels."""
    labels = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    if labels.shape != (len(values),):
        raise ValueError(f"{len(values)} rows need as many clusters, got the shape {labels.shape}")
    if not len(values):
        return values
    _, cluster_of = np.unique(labels, return_inverse=True)
    order = np.argsort(cluster_of, kind="stable")
    starts = np.flatnonzero(np.diff(cluster_of[order], prepend=-1))
    summed: Floats = np.add.reduceat(values[order], starts, axis=0)
    return summed


def _alike(
    present: npt.NDArray[np.bool_], usable: npt.NDArray[np.bool_]
) -> Iterator[tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]]:
    """Yield (clusters to draw from, columns that are drawn so): all clusters, or a column's own where they are few."""
    few = usable & (present.sum(axis=0) < min(FEW, len(present)))
    if (many := np.flatnonzero(usable & ~few)).size:
        yield np.ones(len(present), dtype=bool), many
    patterns: dict[bytes, list[int]] = {}
    for column in np.flatnonzero(few):
        patterns.setdefault(present[:, column].tobytes(), []).append(int(column))
    for alike in patterns.values():
        yield present[:, alike[0]], np.array(alike)


def _bounds(resampled: Floats) -> tuple[Floats, Floats]:
    tail = (1 - LEVEL) / 2
    lo, hi = np.quantile(np.ascontiguousarray(resampled.T), [tail, 1 - tail], axis=1)
    return lo, hi


def _drawn(columns: Floats, resamples: int, seed: int) -> Floats:
    """Return the sums (resamples, k) of ``columns`` (clusters, k) over the clusters of each resample."""
    small = columns.astype(np.float32)
    parts = [weights.astype(np.float32) @ small for weights in _weights(len(columns), resamples, seed)]
    return np.concatenate(parts).astype(np.float64)


def _weights(clusters: int, resamples: int, seed: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield how often each cluster is drawn in each resample: blocks (rows, clusters), ``resamples`` rows.

    Every system and figure over the same number of clusters is resampled alike, and drawn only once.
    """
    if clusters * resamples <= _CACHED_WEIGHTS:
        yield from _cached_weights(clusters, resamples, seed)
    else:
        yield from _draw_weights(clusters, resamples, seed)


@lru_cache(maxsize=4)
def _cached_weights(clusters: int, resamples: int, seed: int) -> tuple[npt.NDArray[np.uint8], ...]:
    return tuple(_draw_weights(clusters, resamples, seed))


def _draw_weights(clusters: int, resamples: int, seed: int) -> Iterator[npt.NDArray[np.uint8]]:
    random = np.random.default_rng([seed, clusters])
    rows = max(1, _CHUNK_WEIGHTS // clusters)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = random.integers(0, clusters, size=(count, clusters))
        drawn += np.arange(count)[:, None] * clusters
        times = np.bincount(drawn.ravel(), minlength=count * clusters)
        yield times.reshape(count, clusters).astype(np.uint8)
