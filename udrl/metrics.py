"""The figures that the benchmark and the training signs report: pure functions over texts and numbers.

Words are those of udrl.words, lower-cased, without punctuation. Intervals are those of `udrl.bootstrap`, one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from udrl.bootstrap import RESAMPLES, Floats, mean_intervals
from udrl.words import folded_words


class Interval(NamedTuple):
    """A figure with its bootstrap interval; ``mean`` is the figure of the data itself."""

    mean: float
    lo: float
    hi: float


def copy_rate(input: str, completion: str) -> float:
    """Return the longest common subsequence of words as a share of the completion's words, in [0, 1].

    1: every word of the completion stands in the input in this order. An empty completion copies nothing: 0.
    """
    ours = folded_words(completion)
    return _common_subsequence(folded_words(input), ours) / len(ours) if ours else 0.0


def novelty(input: str, completion: str, n: int = 4) -> float:
    """Return 1 - the share of the completion's word n-grams that stand in the input, in [0, 1].

    A completion of fewer than ``n`` words is taken as one n-gram. An empty one has nothing new: 0.
    """
    ours, theirs = folded_words(completion), folded_words(input)
    if not ours:
        return 0.0
    n = min(n, len(ours))
    grams = _grams(ours, n)
    known = set(_grams(theirs, n))
    return 1.0 - sum(gram in known for gram in grams) / len(grams)


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Return the distinct word n-grams of all ``texts`` as a share of all of theirs, in [0, 1].

    n-grams do not reach across texts; 0 where there are none (Li et al. 2016, arXiv 1510.03055). The figure
    falls with the amount of text: compare equal numbers of texts.
    """
    grams = [gram for text in texts for gram in _grams(folded_words(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def pairwise_distance(vectors: npt.NDArray[np.floating]) -> float:
    """Return the mean cosine distance, in [0, 2], over all pairs of the unit rows ``vectors`` (n, d).

    NaN for fewer than two rows.
    """
    n = len(vectors)
    if n < 2:
        return float("nan")
    rows = np.asarray(vectors, dtype=np.float64)
    total = rows.sum(axis=0)
    # The squared length of the sum holds every pair twice, and every row with itself once.
    return float(1.0 - (total @ total - np.sum(rows * rows)) / (n * (n - 1)))


def spearman_within(commanded: npt.ArrayLike, achieved: npt.ArrayLike) -> float:
    """Return Spearman's rank correlation, in [-1, 1], of the points of one input; ties get average ranks.

    Points of which a value is NaN are left out. A constant output does not follow its command: it counts 0.
    """
    x, y = np.asarray(commanded, dtype=np.float64), np.asarray(achieved, dtype=np.float64)
    known = ~(np.isnan(x) | np.isnan(y))
    if not known.any():
        return 0.0
    x, y = _ranks(x[known]), _ranks(y[known])
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else 0.0


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """Return the mean of those that are known, None where none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def mean_interval(
    values: npt.ArrayLike, clusters: npt.ArrayLike | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean of ``values`` with its 95 % interval.

    clusters: one label for each value (None: each is its own). Raises ValueError where there are no values,
    or one is NaN.
    """
    known = np.asarray(values, dtype=np.float64)
    shapes = [known.shape] + ([] if clusters is None else [np.asarray(clusters).shape])
    if any(shape != (len(known),) for shape in shapes):
        raise ValueError(f"values and clusters must be of one length, got the shapes {', '.join(map(str, shapes))}")
    if not len(known):
        raise ValueError("an interval needs at least one value, got none")
    if np.isnan(known).any():
        raise ValueError("an interval needs known values, got NaN: leave unscored items out")
    intervals = mean_intervals(known[:, None], clusters, resamples=resamples, seed=seed)
    return Interval(float(intervals.mean[0]), float(intervals.lo[0]), float(intervals.hi[0]))


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, one addition of whole rows per word of ``b``.

    Bit i of ``row`` is 0 where the table's row grows at a[i] (Hyyrö 2004, "Bit-parallel LCS-length
    computation revisited"); Python's integers hold any length.
    """
    bits: dict[str, int] = {}
    for i, word in enumerate(a):
        bits[word] = bits.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        matches = row & bits.get(word, 0)
        row = (row + matches | row - matches) & full
    return len(a) - row.bit_count()


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _ranks(values: Floats) -> Floats:
    """Return ranks from 1; equal values share the mean of theirs."""
    _, value_of, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = np.cumsum(counts) - (counts - 1) / 2
    return ranks[value_of]
