"""The figures that the benchmark and the training signs report: pure functions over texts and numbers.

Words are those of udrl.words, lower-cased, without punctuation. Intervals are bootstrap intervals that draw
whole clusters (inputs) with replacement, because completions of one input are not independent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from udrl.words import folded_words

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
_CACHED_WEIGHTS = 100_000_000  # one byte each
_CHUNK_WEIGHTS = 1_000_000


@dataclass(frozen=True)
class Interval:
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


def mean_interval(
    values: npt.ArrayLike, clusters: npt.ArrayLike | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean of ``values`` with its 95 % interval.

    clusters: one label for each value (None: each is its own). Raises ValueError where there are no values,
    or one is NaN.
    """
    sums, counts = _by_cluster(clusters, values, np.ones_like(np.asarray(values, dtype=np.float64)))
    return _interval(sums, counts, resamples, seed)


def ratio_interval(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return mean(a) / mean(b), a[i] and b[i] being of the same item, with its paired 95 % interval.

    The mean of ``b`` must be well away from 0, in the resamples too. Raises as ``mean_interval`` does, and
    where the mean of ``b`` is 0.
    """
    sums_a, sums_b = _by_cluster(clusters, a, b)
    return _interval(sums_a, sums_b, resamples, seed)


def win_rate_interval(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    clusters: npt.ArrayLike | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return how often a[i] > b[i], in [0, 1], a tie counting half, with its 95 % interval."""
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return mean_interval((np.sign(difference) + 1) / 2, clusters, resamples=resamples, seed=seed)


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, one addition of whole rows per word of ``b``.

    Bit i of ``row`` is 0 where the table's row grows at a[i] (Hyyrö 2004, "Bit-parallel LCS-length
    computation revisited"); Python's integers hold any length.
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & full
    return len(a) - row.bit_count()


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _ranks(values: Floats) -> Floats:
    """Return ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = np.cumsum(counts) - (counts - 1) / 2
    return ranks[place]


def _by_cluster(clusters: npt.ArrayLike | None, *columns: npt.ArrayLike) -> tuple[Floats, ...]:
    """Return each column summed by cluster, in the order of the sorted labels."""
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    n = len(arrays[0])
    labels = np.arange(n) if clusters is None else np.asarray(clusters)
    if any(array.shape != (n,) for array in arrays) or labels.shape != (n,):
        shapes = ", ".join(str(array.shape) for array in (*arrays, labels))
        raise ValueError(f"values and clusters must be of one length, got the shapes {shapes}")
    if n == 0:
        raise ValueError("an interval needs at least one value, got none")
    if any(np.isnan(array).any() for array in arrays):
        raise ValueError("an interval needs known values, got NaN: leave unscored items out")
    _, place = np.unique(labels, return_inverse=True)
    return tuple(np.bincount(place, weights=array).astype(np.float64) for array in arrays)


def _interval(top: Floats, bottom: Floats, resamples: int, seed: int) -> Interval:
    """Return sum(top) / sum(bottom) with its bootstrap interval over clusters.

    Only deviations from the ratio are resampled, so that equal columns give an interval of no width.
    """
    if bottom.sum() == 0:
        raise ValueError("the mean that is divided by is 0")
    ratio = float(top.sum() / bottom.sum())
    columns = np.stack([top - ratio * bottom, bottom], axis=1).astype(np.float32)
    drawn = [weights.astype(np.float32) @ columns for weights in _weights(len(top), resamples, seed)]
    found = np.concatenate(drawn).astype(np.float64)
    tail = (1 - LEVEL) / 2
    lo, hi = np.quantile(ratio + found[:, 0] / found[:, 1], [tail, 1 - tail])
    return Interval(ratio, float(lo), float(hi))


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
