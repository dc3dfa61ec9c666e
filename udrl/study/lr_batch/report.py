"""What the cells of the study of learning rate and batch size give together: table, picture, findings, plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from udrl.errors import StudentError
from udrl.metrics import mean_of_known
from udrl.study.figures import Figure
from udrl.study.lr_batch.cell import STEPS, TOKENS
from udrl.study.lr_batch.figures import (
    KINDS,
    PREDICTORS,
    Best,
    Claim,
    Correlations,
    Floats,
    Grid,
    Kind,
    best_of,
    claim_of,
    correlations,
)
from udrl.study.lr_batch.picture import HeatMaps, Map

READS = {TOKENS: "equal tokens", STEPS: "equal steps"}
REWARD, LOSS = "reward", "loss"
CLAIM = "reasoning gains from a high ratio of learning rate to batch size, patterns from a low one"
Key = tuple[float, int, int]
"""A cell: learning rate, batch size, seed."""


@dataclass(frozen=True)
class OfTask:
    """What was found for one task, read and score; values: (cells, seeds, items), higher is better."""

    values: Floats
    best: Best
    correlations: Correlations


@dataclass(frozen=True)
class Results:
    """The grid, with what its cells returned (`udrl.study.lr_batch.cell.work`); rewards, kinds: by task."""

    learning_rates: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    rewards: Mapping[str, str]
    kinds: Mapping[str, Kind]
    returned: Mapping[Key, Mapping[str, Any]]

    @cached_property
    def points(self) -> list[tuple[float, int]]:
        """The cells without their seeds, the batch size running fastest."""
        return [(rate, batch) for rate in self.learning_rates for batch in self.batch_sizes]

    @cached_property
    def grid(self) -> Grid:
        """The same as arrays."""
        rates, batches = zip(*self.points, strict=True)
        return Grid(np.array(rates, dtype=np.float64), np.array(batches, dtype=np.float64))

    @cached_property
    def of_tasks(self) -> dict[tuple[str, str, str], OfTask]:
        """By (score, read, task)."""
        of_tasks = {}
        for score in (REWARD, LOSS):
            for read in READS:
                for task in self.rewards:
                    values = self._values(score, read, task)
                    told = correlations(values.mean(axis=2), self.grid)
                    of_tasks[score, read, task] = OfTask(values, best_of(values, self.grid), told)
        return of_tasks

    @cached_property
    def claims(self) -> dict[tuple[str, str], Claim]:
        """By (score, read)."""
        return {
            (score, read): claim_of(
                {task: self.of_tasks[score, read, task].values.mean(axis=2) for task in self.rewards},
                self.kinds,
                self.grid,
            )
            for score in (REWARD, LOSS)
            for read in READS
        }

    def _values(self, score: str, read: str, task: str) -> Floats:
        """Return (cells, seeds, items), higher is better. A student that diverged gets what knows nothing gets: the
        reward's lowest value, the loss of a uniform guess. Items that a completion of any student has no value for are
        left out for all.

        Raises StudentError where none is left.
        """
        part = "scores" if score == REWARD else "losses"
        known = [r["reads"][read][part][task] for r in self.returned.values() if read in r["reads"]]
        items = len(known[0]) if known else 1
        rows = []
        for rate, batch in self.points:
            for seed in self.seeds:
                cell = self.returned[rate, batch, seed]
                worst = cell["lowest"][task] if score == REWARD else cell["know_nothing"]
                rows.append(cell["reads"][read][part][task] if read in cell["reads"] else [worst] * items)
        values = np.array(rows, dtype=np.float64).reshape(len(self.points), len(self.seeds), items)
        scored = ~np.isnan(values).any(axis=(0, 1))
        if not scored.any():
            raise StudentError(
                f"for no held-out input of task '{task}' has the reward '{self.rewards[task]}' a value for what every "
                "student wrote: score the run with one that knows these texts (udrl score)"
            )
        values = values[:, :, scored]
        return values if score == REWARD else -values

    def _reads(self) -> list[Mapping[str, Any]]:
        return [read for cell in self.returned.values() for read in cell["reads"].values()]

    def _diverged(self, read: str) -> tuple[int, ...]:
        return tuple(
            number
            for number, point in enumerate(self.points)
            if any(read in self.returned[(*point, seed)]["diverged"] for seed in self.seeds)
        )

    # -- what is published -------------------------------------------------------------------------------------------

    def cells(self) -> dict[str, Any]:
        """Return what every cell achieved in the mean; the values of single items stay in the cells' own files."""
        return {
            f"lr{rate:g}-b{batch}-s{seed}": {
                "learning_rate": rate,
                "batch_size": batch,
                "seed": seed,
                "diverged": cell["diverged"],
                "parameters": cell["parameters"],
                "reads": {
                    name: {
                        **{part: read[part] for part in ("step", "episodes", "tokens")},
                        **{
                            part: {task: mean_of_known(values) for task, values in read[part].items()}
                            for part in ("scores", "losses")
                        },
                    }
                    for name, read in cell["reads"].items()
                },
            }
            for (rate, batch, seed), cell in self.returned.items()
        }

    def table(self) -> list[list[str]]:
        """Return one row a task, score and read, the header first."""
        rows = [["task", "score", "read", "best learning rate / batch", "its score", "as good", "best ratio",
                 *(f"correlation with {name}" for name in PREDICTORS)]]  # fmt: skip
        for task in self.rewards:
            for (score, read, of), scored in self.of_tasks.items():
                if of == task:
                    rate, batch = self.points[scored.best.cell]
                    rows.append(
                        [
                            f"{task} ({self.kinds[task]})",
                            self.rewards[task] if score == REWARD else LOSS,
                            READS[read],
                            f"{rate:g} / {batch}",
                            _said(_positive(scored.best.score, score)),
                            f"{len(scored.best.as_good)} of {len(self.points)}",
                            _said(scored.best.ratio, "{:.1e}"),
                            *(_said(scored.correlations.of[name]) for name in PREDICTORS),
                        ]
                    )
        return rows

    def picture(self) -> HeatMaps:
        """Return the heat maps: a row a score and read, a column a task."""
        rows: list[Sequence[Map]] = []
        for score, read in ((s, r) for s in (REWARD, LOSS) for r in READS):
            maps = []
            for task in self.rewards:
                scored = self.of_tasks[score, read, task]
                name = self.rewards[task] if score == REWARD else LOSS
                means = scored.values.mean(axis=(1, 2))
                maps.append(
                    Map(
                        f"{task} ({self.kinds[task]}), {name}",
                        f"{READS[read]}, best {_said(_positive(scored.best.score, score))}",
                        means if score == REWARD else -means,
                        scored.best,
                        score == REWARD,
                        self._diverged(read),
                    )
                )
            rows.append(maps)
        return HeatMaps(rows, self.grid)

    def findings(self) -> dict[str, Any]:
        """Return what follows from the cells, for programs: by score and read, each task and the claim."""
        return {
            score: {
                read: {
                    "tasks": {task: self._task(score, read, task) for task in self.rewards},
                    "claim": asdict(self.claims[score, read]),
                }
                for read in READS
            }
            for score in (REWARD, LOSS)
        }

    def _task(self, score: str, read: str, task: str) -> dict[str, Any]:
        scored = self.of_tasks[score, read, task]
        rate, batch = self.points[scored.best.cell]
        return {
            "kind": self.kinds[task],
            "score": self.rewards[task] if score == REWARD else LOSS,
            "best": {
                "learning_rate": rate,
                "batch_size": batch,
                "value": _positive(scored.best.score, score),
                "ratio": scored.best.ratio,
                "as_good": [self.points[k] for k in scored.best.as_good],
            },
            "correlations": dict(scored.correlations.of),
            "ratio_over_learning_rate": scored.correlations.ratio_over_rate,
        }

    def notes(self) -> list[str]:
        """Return in plain words whether the claim holds here, and what must be known to read the table."""
        lines = [self._verdict(score, read) for score in (REWARD, LOSS) for read in READS]
        lines.append(self._against_rate())
        gone = sorted({self.points[k] for read in READS for k in self._diverged(read)})
        if gone:
            listed = ", ".join(f"{rate:g} / {batch}" for rate, batch in gone)
            lines.append(f"Diverged with at least one seed, and counted as knowing nothing: {listed}.")
        if unscored := sum(v is None for r in self._reads() for of_task in r["scores"].values() for v in of_task):
            lines.append(f"{unscored:,} completions have no reward (udrl score says why); their inputs are left out.")
        lines.append(
            f"Intervals are 95 %. Scores: over {len(self.seeds)} seeds and all held-out items. As good: cells whose "
            "paired difference from the best one holds 0. Correlations (Spearman; above 0: the more, the better, of a "
            "loss, too): over draws of cells and seeds."
        )
        return lines

    def _verdict(self, score: str, read: str) -> str:
        claim = self.claims[score, read]
        by = "rewards" if score == REWARD else "losses"
        start = f"At {READS[read]}, by {by}: "
        if claim.shift is None:
            having = next(iter(claim.gains))
            return f"{start}all tasks are {having} tasks, so nothing is said of the claim that {CLAIM}."
        told = []
        for kind in KINDS:
            value, low, high = claim.gains[kind]
            moves = (
                "gain from a higher ratio" if low > 0 else "lose by a higher ratio" if high < 0 else "show no direction"
            )
            tasks = ", ".join(task for task in self.rewards if self.kinds[task] == kind)
            told.append(f"{kind} tasks ({tasks}) {moves} (rank correlation {_said((value, low, high))})")
        how = {
            "holds": "holds here",
            "does not hold": "does not hold here",
            "undecided": "is neither shown nor refuted",
        }
        return (
            f"{start}the claim that {CLAIM} {how[claim.verdict]}: {'; '.join(told)}; the best ratio for reasoning is "
            f"{_said(claim.shift, '{:,.3g}')} times that for patterns."
        )

    def _against_rate(self) -> str:
        closer, looser, of = 0, 0, 0
        for (score, _, _), scored in self.of_tasks.items():
            if score == REWARD:
                _, low, high = scored.correlations.ratio_over_rate
                closer, looser, of = closer + (low > 0), looser + (high < 0), of + 1
        return (
            f"Of the {of} heat maps of rewards, the ratio ranks the cells better than the learning rate alone in "
            f"{closer} and worse in {looser}; in the others the two cannot be told apart."
        )


def _positive(score: Figure, of: str) -> Figure:
    mean, low, high = score
    return score if of == REWARD else (-mean, -high, -low)


def _said(figure: Sequence[float], form: str = "{:.2f}") -> str:
    middle, low, high = (form.format(value) for value in figure)
    return f"{middle} [{low}, {high}]"
