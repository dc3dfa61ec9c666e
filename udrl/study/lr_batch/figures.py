"""What a grid of learning rates and batch sizes says: the best cells, rank correlations, and whether a claim holds.

The claim is SmolTulu's (arXiv 2412.08347): tasks of reasoning gain from a high ratio of learning rate to batch size,
tasks of patterns from a low one. Correlations are between a cell's score, mean over its seeds, and the logarithms of
ratio, learning rate and batch size; their intervals draw cells and seeds with replacement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from udrl.study.figures import Figure, crossed_interval

Floats = npt.NDArray[np.float64]
Kind = Literal["reasoning", "pattern"]

RESAMPLES = 2000
RATIO, RATE, BATCH = "ratio", "learning rate", "batch size"
PREDICTORS = (RATIO, RATE, BATCH)
KINDS: tuple[Kind, ...] = ("reasoning", "pattern")


@dataclass(frozen=True)
class Grid:
    """The grid's cells: learning_rates and batch_sizes, (cells,) each."""

    learning_rates: Floats
    batch_sizes: Floats

    @property
    def ratios(self) -> Floats:
        """Learning rate / batch size of every cell."""
        return self.learning_rates / self.batch_sizes

    @property
    def predictors(self) -> dict[str, Floats]:
        """What scores are correlated with, by name, (cells,) each."""
        return {RATIO: np.log(self.ratios), RATE: np.log(self.learning_rates), BATCH: np.log(self.batch_sizes)}


@dataclass(frozen=True)
class Best:
    """The best cell of one task, read and score.

    cell: its number; score: mean over seeds and items, with its interval; as_good: the cells that are not told apart
    from it, itself included (the paired interval of the difference holds 0); ratio: its ratio, and the interval of the
    best cell's ratio when seeds and items are drawn again.
    """

    cell: int
    score: Figure
    as_good: tuple[int, ...]
    ratio: Figure


def best_of(values: Floats, grid: Grid) -> Best:
    """Return the best cell of ``values`` (cells, seeds, items), higher is better."""
    means = values.mean(axis=(1, 2))
    best = int(np.argmax(means))
    as_good = [k for k in range(len(means)) if k == best or crossed_interval(values[best] - values[k])[1] <= 0]
    seeds, items = _draws(values.shape[1], 0), _draws(values.shape[2], 1)
    drawn = np.einsum("csi,rs,ri->rc", values, seeds, items, optimize=True)
    lo, hi = np.quantile(grid.ratios[np.argmax(drawn, axis=1)], [0.025, 0.975])
    return Best(best, crossed_interval(values[best]), tuple(as_good), (float(grid.ratios[best]), float(lo), float(hi)))


@dataclass(frozen=True)
class Correlations:
    """Spearman's rank correlation of the score with each of `PREDICTORS`, and by how much closer the ratio tells the
    score than the learning rate alone does (the difference of the two without their signs)."""

    of: Mapping[str, Figure]
    ratio_over_rate: Figure


def correlations(scores: Floats, grid: Grid) -> Correlations:
    """Return the correlations of ``scores`` (cells, seeds), higher is better."""
    of = {name: spearman(scores.mean(axis=1), x) for name, x in grid.predictors.items()}
    drawn = _drawn_correlations(scores, grid)
    gap = abs(of[RATIO]) - abs(of[RATE])
    return Correlations(
        {name: _interval(of[name], drawn[name]) for name in PREDICTORS},
        _interval(gap, np.abs(drawn[RATIO]) - np.abs(drawn[RATE])),
    )


def spearman(x: Floats, y: Floats) -> float:
    """Return Spearman's rank correlation of two (n,), ties sharing their mean rank; 0 where one is constant."""
    return float(_spearman(x[None], y[None])[0])


@dataclass(frozen=True)
class Claim:
    """Whether the claim holds at one read.

    gains: by kind, the mean rank correlation of its tasks' scores with the ratio; the claim wants reasoning above 0
    and pattern below. shift: how many times higher the best ratio of the reasoning tasks is than that of the pattern
    tasks (geometric means), with the interval over draws of seeds; None without tasks of both kinds. verdict: in words.
    """

    gains: Mapping[str, Figure]
    shift: Figure | None
    verdict: Literal["holds", "does not hold", "undecided", "not tested"]


def claim_of(scores: Mapping[str, Floats], kinds: Mapping[str, Kind], grid: Grid) -> Claim:
    """Judge the claim on ``scores`` by task, (cells, seeds) each, and the kind of each task."""
    gains: dict[str, Figure] = {}
    ratios: dict[str, tuple[float, Floats]] = {}
    for kind in KINDS:
        tasks = [task for task in scores if kinds[task] == kind]
        if not tasks:
            continue
        value = float(np.mean([spearman(scores[t].mean(axis=1), grid.predictors[RATIO]) for t in tasks]))
        drawn = np.mean([_drawn_correlations(scores[t], grid)[RATIO] for t in tasks], axis=0)
        gains[kind] = _interval(value, drawn)
        logs = np.log(grid.ratios)
        at = float(np.mean([logs[np.argmax(scores[t].mean(axis=1))] for t in tasks]))
        again = [logs[np.argmax(scores[t] @ _draws(scores[t].shape[1], 0).T, axis=0)] for t in tasks]
        ratios[kind] = (at, np.mean(again, axis=0))
    if len(gains) < len(KINDS):
        return Claim(gains, None, "not tested")
    (high, highs), (low, lows) = ratios["reasoning"], ratios["pattern"]
    middle, least, most = np.exp(_interval(high - low, highs - lows))
    (_, up, up_most), (_, down_least, down) = gains["reasoning"], gains["pattern"]
    verdict: Literal["holds", "does not hold", "undecided"] = (
        "holds" if up > 0 and down < 0 else "does not hold" if up_most < 0 or down_least > 0 else "undecided"
    )
    return Claim(gains, (float(middle), float(least), float(most)), verdict)


def _interval(value: float, drawn: Floats) -> Figure:
    lo, hi = np.quantile(drawn, [0.025, 0.975])
    return float(value), float(lo), float(hi)


def _draws(count: int, seed: int) -> Floats:
    """Return weights (RESAMPLES, count), rows that sum to 1: how often each was drawn."""
    rng = np.random.default_rng([seed, count])
    return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count


def _drawn_correlations(scores: Floats, grid: Grid) -> dict[str, Floats]:
    """Return each predictor's correlation in every resample of cells and seeds; all scores see the same resamples."""
    cells = np.random.default_rng([0, 2]).integers(len(scores), size=(RESAMPLES, len(scores)))
    means = _draws(scores.shape[1], 0) @ scores.T
    drawn = np.take_along_axis(means, cells, axis=1)
    return {name: _spearman(drawn, x[cells]) for name, x in grid.predictors.items()}


def _spearman(x: Floats, y: Floats) -> Floats:
    """Return the rank correlation of every row of two (rows, n)."""
    x, y = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (_ranks(x), _ranks(y)))
    scale = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    rho: Floats = np.divide((x * y).sum(axis=1), scale, out=np.zeros(len(x)), where=scale > 0)
    return rho


def _ranks(values: Floats) -> Floats:
    """Return ranks within every row; equal values share the mean of theirs."""
    larger = values[:, :, None] > values[:, None, :]
    equal = values[:, :, None] == values[:, None, :]
    ranks: Floats = larger.sum(axis=2) + 0.5 * equal.sum(axis=2)
    return ranks
